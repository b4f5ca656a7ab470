//! The loop that ties it together: news into the planner, jobs out of it, and how they went back into it.
//!
//! One task owns the planner. Requests run beside it, a bounded number at a time, and AddressSlices at the pace of
//! their budget. What belongs to an earlier term of leadership is not listened to.

use std::time::{Duration, Instant, SystemTime};

use holdfast_crds::API_VERSION;
use holdfast_policy::model::PolicyId;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use k8s_openapi::jiff::Timestamp;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::announce::{Announcement, Announcer};
use crate::apply::{JobDone, SliceDone, Writer};
use crate::error::ApiError;
use crate::index::NoReport;
use crate::metrics::{Metrics, Readiness, int};
use crate::plan::slices::{Action, Observed, Write};
use crate::plan::{Content, Job, Planner, Settings, Step, Subject};
use crate::watch::News;

/// How long changes are gathered before they are planned.
const GATHER: Duration = Duration::from_millis(50);
/// How many statuses and DaemonSets are written at once.
const JOBS: usize = 8;
/// How many slices are read at once.
const READS: usize = 4;
/// At most so many changes are taken in before anything else is looked at.
const BATCH: usize = 4096;
/// How long requests may go on when the operator stops.
const LAST_WRITES: Duration = Duration::from_secs(5);

/// A budget of writes: one, and then another after each interval. Over any time `t` that is at most `t / interval + 1`.
#[derive(Debug)]
pub struct Pace {
    interval: Duration,
    next: Instant,
}

impl Pace {
    /// A budget of `per_second` writes from `now` on.
    #[must_use]
    pub fn new(per_second: u32, now: Instant) -> Self {
        let interval = Duration::from_secs(1) / per_second.max(1);
        Self { interval, next: now + interval }
    }

    /// Whether a write may begin; if so, it has.
    pub fn take(&mut self, now: Instant) -> bool {
        let may = now >= self.next;
        if may {
            self.next = now + self.interval;
        }
        may
    }

    /// When the next write may begin.
    #[must_use]
    pub fn next(&self) -> Instant {
        self.next
    }
}

/// How a request went.
#[derive(Debug)]
enum Outcome {
    Listed(Result<Vec<(String, Observed)>, ApiError>),
    Slice(Write, Result<SliceDone, ApiError>),
    /// Of a policy's status, with the conditions before.
    Job(Box<Job>, Vec<Condition>, Result<JobDone, ApiError>),
    Announced(Announcement, Result<(), ApiError>),
}

/// The loop and what it holds.
pub struct Reconciler {
    planner: Planner,
    writer: Writer,
    metrics: Metrics,
    ready: Readiness,
    per_second: u32,
    pace: Pace,
    announcer: Announcer,
    term: Option<u64>,
    requests: JoinSet<(u64, Outcome)>,
    jobs: usize,
    reads: usize,
    writing: bool,
    /// When to ask for the slices again after that failed.
    list_at: Option<Instant>,
    stale_since: Option<Instant>,
    ticked: Option<Instant>,
    due: Option<Instant>,
}

impl Reconciler {
    /// A reconciler that has seen nothing and does not lead.
    #[must_use]
    pub fn new(
        settings: Settings,
        writer: Writer,
        metrics: Metrics,
        ready: Readiness,
        per_second: u32,
    ) -> Self {
        Self {
            planner: Planner::new(settings),
            writer,
            metrics,
            ready,
            per_second,
            pace: Pace::new(per_second, Instant::now()),
            announcer: Announcer::new(Instant::now()),
            term: None,
            requests: JoinSet::new(),
            jobs: 0,
            reads: 0,
            writing: false,
            list_at: None,
            stale_since: None,
            ticked: None,
            due: None,
        }
    }

    /// Runs until told to stop, or until no news can come any more.
    pub async fn run(
        mut self,
        mut news: mpsc::Receiver<News>,
        mut terms: watch::Receiver<Option<u64>>,
        stop: CancellationToken,
    ) {
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            let wake = self.step();
            let sleep = tokio::time::sleep_until(wake.into());
            tokio::select! {
                () = stop.cancelled() => break,
                changed = terms.changed() => {
                    if changed.is_err() {
                        break;
                    }
                    let term = *terms.borrow_and_update();
                    self.begin_term(term);
                }
                Some(done) = self.requests.join_next() => match done {
                    Ok((term, outcome)) => self.settle(term, outcome),
                    Err(error) => {
                        // What it was about is not known any more: begin the term anew.
                        tracing::error!(%error, "a request's task failed");
                        self.begin_term(self.term);
                    }
                },
                count = news.recv_many(&mut batch, BATCH) => {
                    if count == 0 {
                        break;
                    }
                    let (now, wall) = (Instant::now(), SystemTime::now());
                    for news in batch.drain(..) {
                        match news {
                            News::Index(update) => self.planner.index_mut().apply(update, now, wall),
                            News::Slices(news) => self.planner.slice_news(news),
                        }
                    }
                }
                () = sleep => {}
            }
        }
        // Requests that are under way may still have their effect, and are not to outlive the Lease.
        let finish = async { while self.requests.join_next().await.is_some() {} };
        if tokio::time::timeout(LAST_WRITES, finish).await.is_err() {
            tracing::warn!("some requests did not end in time");
        }
    }

    fn begin_term(&mut self, term: Option<u64>) {
        self.term = term;
        self.planner.step_down();
        self.jobs = 0;
        self.reads = 0;
        self.writing = false;
        self.list_at = None;
        self.announcer = Announcer::new(Instant::now());
        if term.is_some() {
            self.pace = Pace::new(self.per_second, Instant::now());
            self.list_at = Some(Instant::now());
        } else {
            self.metrics.step_down();
        }
    }

    /// Does what can be done now. Returns when there will be more to do even if nothing happens.
    fn step(&mut self) -> Instant {
        let now = Instant::now();
        self.ready.set(self.planner.index().synced());
        let mut wake = now + Duration::from_secs(1);
        if self.ticked.is_none_or(|at| now >= at + Duration::from_millis(200))
            || self.due.is_some_and(|due| due <= now)
        {
            self.ticked = Some(now);
            self.due = self.planner.tick(now);
        }
        if let Some(term) = self.term {
            self.list(term, now);
            self.plan(now);
            self.send(term, now);
            wake = [
                self.list_at,
                self.stale_since.map(|since| since + GATHER),
                self.due,
                self.announcer.wake(),
                (!self.writing).then(|| self.pace.next()).filter(|next| *next > now),
            ]
            .into_iter()
            .flatten()
            .fold(wake, Instant::min);
        }
        wake.max(now)
    }

    fn list(&mut self, term: u64, now: Instant) {
        if self.list_at.is_some_and(|at| at <= now) {
            self.list_at = None;
            let writer = self.writer.clone();
            self.requests.spawn(async move { (term, Outcome::Listed(writer.list_slices().await)) });
        }
    }

    fn plan(&mut self, now: Instant) {
        if !self.planner.ready() || !self.planner.is_dirty() {
            self.stale_since = None;
            return;
        }
        let since = *self.stale_since.get_or_insert(now);
        if now < since + GATHER {
            return;
        }
        self.stale_since = None;
        let Some(mut dirty) = self.planner.begin() else { return };
        for step in Step::ALL {
            let began = Instant::now();
            let progress = self.planner.run(step, &mut dirty, now, Timestamp::now());
            self.metrics.planned(step.name(), began.elapsed());
            for (id, nodes) in progress {
                self.metrics.set_policy_nodes(&id, nodes);
            }
        }
        self.due = self.planner.tick(now);
        self.show(dirty.reports);
    }

    /// Sets the gauges.
    fn show(&self, reports: bool) {
        if let Some(book) = self.planner.book() {
            self.metrics.identities.set(int(book.identities()));
            self.metrics.addresses.set(int(book.addresses()));
        }
        for (reason, count) in self.planner.unpublished() {
            self.metrics.set_unpublished(reason.reason(), count);
        }
        let index = self.planner.index();
        for (kind, count) in index.bad() {
            self.metrics.set_invalid(kind.name(), count);
        }
        if reports {
            let mut counts = [("reporting", 0), ("silent", 0), ("missing", 0), ("other-boot", 0)];
            for node in index.nodes().keys() {
                let state = match index.report(node) {
                    Ok(_) => 0,
                    Err(NoReport::Stale) => 1,
                    Err(NoReport::NoAgent | NoReport::NoNode) => 2,
                    Err(NoReport::OtherBoot) => 3,
                };
                counts[state].1 += 1;
            }
            for (state, count) in counts {
                self.metrics.set_agents(state, count);
            }
        }
    }

    /// Sends what may be sent.
    fn send(&mut self, term: u64, now: Instant) {
        while self.jobs < JOBS
            && let Some(job) = self.planner.next_job(now, Timestamp::now())
        {
            self.jobs += 1;
            let writer = self.writer.clone();
            let before = self.planner.conditions(&job.subject).to_vec();
            self.requests.spawn(async move {
                let result = writer.write(&job).await;
                (term, Outcome::Job(Box::new(job), before, result))
            });
        }
        while let Some(told) = self.announcer.next(now) {
            let writer = self.writer.clone();
            self.requests.spawn(async move {
                let result = writer.announce(&told).await;
                (term, Outcome::Announced(told, result))
            });
        }
        while self.reads < READS
            && let Some(read) = self.planner.next_read(now)
        {
            self.reads += 1;
            self.request(term, read);
        }
        if !self.writing
            && now >= self.pace.next()
            && let Some(write) = self.planner.next_write(now)
        {
            self.pace.take(now);
            self.writing = true;
            self.request(term, write);
        }
    }

    fn request(&mut self, term: u64, write: Write) {
        let writer = self.writer.clone();
        self.requests.spawn(async move {
            let result = writer.write_slice(&write).await;
            (term, Outcome::Slice(write, result))
        });
    }

    /// Takes in how a request went.
    fn settle(&mut self, term: u64, outcome: Outcome) {
        if self.term != Some(term) {
            return;
        }
        let now = Instant::now();
        match outcome {
            Outcome::Listed(Ok(slices)) => {
                tracing::info!(slices = slices.len(), "read the slices of the leader before");
                self.planner.lead(slices);
            }
            Outcome::Listed(Err(error)) => {
                self.failed("AddressSlice", "the slices", &error);
                self.list_at = Some(now + Duration::from_secs(1).mul_f64(0.5 + fastrand::f64()));
            }
            Outcome::Slice(write, result) => self.settle_slice(&write, result, now),
            Outcome::Announced(told, result) => {
                if let Err(error) = result {
                    let name = told.object.name.unwrap_or_default();
                    self.failed("Event", &name, &error);
                }
            }
            Outcome::Job(job, before, result) => {
                self.jobs = self.jobs.saturating_sub(1);
                match result {
                    Ok(JobDone::Status) => {
                        if let (Subject::Policy(id), Content::Policy(uid, status)) =
                            (&job.subject, &job.content)
                        {
                            let object = policy_reference(id, job.subject.kind(), uid);
                            self.announcer.written(&object, &before, &status.conditions, now);
                        }
                        self.planner.status_written(*job, now);
                    }
                    Ok(JobDone::Deleted) => {
                        tracing::info!(subject = ?job.subject, "deleted what the agent of a node that is gone had written");
                        self.planner.deleted(&job.subject);
                    }
                    Ok(JobDone::DaemonSet(facts)) => {
                        self.planner.daemon_set_applied(*job, *facts, now, SystemTime::now());
                    }
                    Err(error) => {
                        let what = format!("{:?}", job.subject);
                        self.failed(job.subject.kind(), &what, &error);
                        self.planner.job_failed(&job.subject, error.failure(), now, fastrand::f64());
                    }
                }
            }
        }
    }

    fn settle_slice(&mut self, write: &Write, result: Result<SliceDone, ApiError>, now: Instant) {
        if write.action == Action::Read {
            self.reads = self.reads.saturating_sub(1);
        } else {
            self.writing = false;
            if result.is_ok() {
                self.metrics.slice_writes.inc();
            }
        }
        match result {
            Ok(SliceDone::Written { uid, resource_version }) => {
                self.planner.slice_written(&write.name, uid, resource_version);
            }
            Ok(SliceDone::Deleted) => self.planner.slice_deleted(&write.name),
            Ok(SliceDone::Read(observed)) => self.planner.slice_read(&write.name, observed),
            Err(error) => {
                self.failed("AddressSlice", &write.name, &error);
                self.planner.slice_failed(&write.name, error.failure(), now, fastrand::f64());
            }
        }
    }

    fn failed(&self, kind: &str, what: &str, error: &ApiError) {
        self.metrics.failed(kind, error.reason());
        tracing::warn!(kind, what, %error, "a request failed");
    }
}

/// What an Event of a policy regards.
fn policy_reference(id: &PolicyId, kind: &str, uid: &str) -> ObjectReference {
    ObjectReference {
        api_version: Some(API_VERSION.to_owned()),
        kind: Some(kind.to_owned()),
        namespace: id.namespace.clone(),
        name: Some(id.name.clone()),
        uid: Some(uid.to_owned()),
        ..ObjectReference::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pace_never_gives_more_than_its_rate_and_one() {
        let start = Instant::now();
        let mut pace = Pace::new(20, start);
        let mut given = 0;
        for millisecond in 0..10_000 {
            given += u32::from(pace.take(start + Duration::from_millis(millisecond)));
        }
        assert!((195..=201).contains(&given), "{given}");
        assert!(!pace.take(start), "not even at the beginning: another leader may just have written");
    }
}
