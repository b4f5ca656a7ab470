//! The loop that keeps the kernel in step with the source, and proves that it is.

use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;
use tracing::{error, info, warn};

use super::{Progress, jitter};
use crate::abi;
use crate::break_glass::{self, Broken};
use crate::cgroups::Tree;
use crate::engine::{Applied, Engine};
use crate::events::Book;
use crate::events::book::Lesson;
use crate::facts::Facts;
use crate::loader::Places;
use crate::metrics::Metrics;
use crate::proof::{self, Kept, Outcome, Prover};
use crate::sockets::Bell;
use crate::status;

/// The time between two proofs that the kernel does what it should.
const PROVE_EVERY: Duration = Duration::from_mins(1);
/// How soon after a change it is proven, and how soon at the latest where others follow: while something is proven, the next
/// change waits.
const PROVE_AFTER: (Duration, Duration) = (Duration::from_millis(150), Duration::from_secs(2));
/// How soon after a proof that failed there is another: late enough for the failure to be reported.
const PROVE_AGAIN: Duration = Duration::from_secs(5);
/// A machine that slept this long has just woken.
const SLEPT: Duration = Duration::from_secs(1);
/// The time between two walks of the cgroup tree, beside the events.
const WALK_EVERY: Duration = Duration::from_secs(15);
/// The time between two looks whether somebody broke the glass, or it is over.
const GLASS_EVERY: Duration = Duration::from_secs(1);
/// The first and the longest pause before a write that failed is tried again.
const RETRY: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(30));

pub(super) struct Main {
    pub(super) engine: Arc<Mutex<Engine>>,
    pub(super) facts: watch::Receiver<Facts>,
    pub(super) progress: watch::Sender<Progress>,
    pub(super) metrics: Metrics,
    /// What numbers mean, for whoever reads events.
    pub(super) book: Arc<Mutex<Book>>,
    pub(super) events: AsyncFd<aya::maps::RingBuf<aya::maps::MapData>>,
    pub(super) places: Places,
    pub(super) state_dir: PathBuf,
    pub(super) tree: Tree,
    pub(super) started: Instant,
    /// The file of names is older than what is in force.
    pub(super) names_due: bool,
    /// The node refuses nothing at present.
    pub(super) broken: Option<Broken>,
    /// Of whoever destroys the sockets of what is refused by now; `None` = nobody can.
    pub(super) bell: Option<Bell>,
    pub(super) prover: Prover,
}

/// How long the machine has slept since it was started.
fn asleep() -> Duration {
    Duration::from_nanos(abi::sys::boot_time_ns().saturating_sub(abi::sys::awake_ns()))
}

/// What woke the loop.
enum Wake {
    Facts,
    Cgroups,
    Walk,
    Prove,
    Glass,
    Retry,
    Stop,
}

/// When there is a proof next.
struct Proofs {
    next: tokio::time::Instant,
    /// Without a change.
    regular: tokio::time::Instant,
    /// The first change that is not proven.
    since: Option<tokio::time::Instant>,
}

impl Proofs {
    fn after(pause: Duration) -> Self {
        let next = tokio::time::Instant::now() + pause;
        Self { next, regular: next, since: None }
    }

    fn change(&mut self, now: tokio::time::Instant) {
        let since = *self.since.get_or_insert(now);
        self.next = (now + PROVE_AFTER.0).min(since + PROVE_AFTER.1).min(self.regular);
    }
}

impl Main {
    pub(super) async fn run(mut self, shutdown: impl Future<Output = ()>) -> Result<()> {
        let mut shutdown = std::pin::pin!(shutdown);
        self.tree = Tree::walk(&self.places.cgroup_root)?;
        let mut walk = tokio::time::interval(WALK_EVERY);
        let mut proofs = Proofs::after(PROVE_EVERY);
        let mut asleep = asleep();
        let mut glass = tokio::time::interval(GLASS_EVERY);
        walk.reset();
        // When to try again, and how long the pause was.
        let mut retry: Option<(tokio::time::Instant, Duration)> = None;
        loop {
            let due = retry.map_or_else(tokio::time::Instant::now, |(due, _)| due);
            let wake = tokio::select! {
                biased;
                () = &mut shutdown => Wake::Stop,
                changed = self.facts.changed() => {
                    if changed.is_err() {
                        bail!("the source is gone");
                    }
                    Wake::Facts
                }
                ready = self.events.readable_mut() => {
                    ready.context("the ring buffer of cgroup events")?.clear_ready();
                    Wake::Cgroups
                }
                _ = walk.tick() => Wake::Walk,
                _ = glass.tick() => Wake::Glass,
                () = tokio::time::sleep_until(proofs.next) => Wake::Prove,
                () = tokio::time::sleep_until(due), if retry.is_some() => Wake::Retry,
            };
            let again = matches!(wake, Wake::Retry);
            let act = match wake {
                Wake::Stop => return Ok(()),
                Wake::Facts | Wake::Retry => true,
                Wake::Cgroups => self.take_events(),
                Wake::Walk => {
                    let differs = self.tree.replace(Tree::walk(&self.places.cgroup_root)?);
                    self.settle_counts();
                    differs | self.met_other_roots()
                }
                Wake::Prove => {
                    proofs = Proofs::after(self.prove());
                    false
                }
                Wake::Glass => {
                    let now = self::asleep();
                    if now > asleep + SLEPT {
                        info!("the machine slept: what is in force is proven anew");
                        proofs = Proofs::after(Duration::ZERO);
                    }
                    asleep = now;
                    self.look_at_glass()
                }
            };
            if act {
                // A proof that failed is told of before it is made again.
                if self.progress.borrow().proof.outcome != Outcome::Failed {
                    proofs.change(tokio::time::Instant::now());
                }
                retry = match (self.apply(), retry) {
                    (true, _) => None,
                    (false, Some(waiting)) if !again => Some(waiting),
                    (false, before) => {
                        let pause = before.map_or(RETRY.0, |(_, pause)| (pause * 2).min(RETRY.1));
                        Some((tokio::time::Instant::now() + jitter(pause), pause))
                    }
                };
            }
        }
    }

    /// Takes in what the kernel told of the tree; returns whether anything is new.
    fn take_events(&mut self) -> bool {
        let mut news = false;
        let externals = !self.facts.borrow().externals.is_empty();
        let ring = self.events.get_mut();
        while let Some(item) = ring.next() {
            let Some(event) = abi::CgroupEvent::read(&item) else { continue };
            self.metrics
                .events(if event.kind == abi::CGROUP_MADE { "cgroup_made" } else { "cgroup_gone" }, 1);
            news |= match (event.kind, event.path) {
                // What can be no workload's needs no look at the policies.
                (abi::CGROUP_MADE, Some(path)) => {
                    let concerns = externals || crate::workloads::parse(&path).is_some();
                    self.tree.made(event.id, &path) && concerns
                }
                (abi::CGROUP_MADE, None) => {
                    // The path did not fit: look for it.
                    drop(item);
                    return match Tree::walk(&self.places.cgroup_root) {
                        Ok(tree) => self.tree.replace(tree) || news,
                        Err(error) => {
                            warn!(%error, "the cgroup tree cannot be read");
                            news
                        }
                    };
                }
                _ => self.tree.gone(event.id),
            };
        }
        news
    }

    /// Brings the kernel to the facts; returns whether it is in step.
    fn apply(&mut self) -> bool {
        let facts = self.facts.borrow_and_update().clone();
        self.metrics.set_source_errors("all", facts.errors.len());
        if !facts.complete && facts.policies.is_empty() {
            // Nothing is known yet, not even from the disk: what an earlier agent put in force stays.
            self.progress.send_modify(|progress| progress.source_errors = Arc::clone(&facts.errors));
            return true;
        }
        let cgroups = self.tree.all();
        let started = Instant::now();
        let mut engine = self.engine.lock().unwrap_or_else(PoisonError::into_inner);
        match engine.apply(&facts, &cgroups) {
            Ok(mut applied) => {
                let took = started.elapsed();
                let lesson = Lesson {
                    meaning: engine.meaning(),
                    placements: engine.placements(),
                    policies: engine.in_force(),
                    mechanisms: engine.mechanisms(),
                    cgroups: &cgroups,
                };
                self.book.lock().unwrap_or_else(PoisonError::into_inner).learn(lesson, Instant::now());
                if applied.changed {
                    self.metrics.apply.observe(took.as_secs_f64());
                    info!(
                        policies = applied.policies.len(),
                        workloads = applied.workloads,
                        selected = applied.selected,
                        took_us = took.as_micros(),
                        "in force"
                    );
                }
                if applied.changed
                    || applied.policies != self.progress.borrow().applied.policies
                    || self.names_due
                {
                    self.names_due = !self.keep_names(&engine, &applied);
                }
                if let Some(broken) = &self.broken {
                    for report in &mut applied.policies {
                        broken.tell(report);
                    }
                }
                self.metrics.set_policies(&applied.policies);
                self.metrics.set_workloads(applied.workloads, applied.selected);
                drop(engine);
                if let Some(bell) = &self.bell
                    && (applied.changed || applied.policies != self.progress.borrow().applied.policies)
                {
                    bell.ring(cgroups);
                }
                let complete = facts.complete;
                if complete && !self.progress.borrow().complete {
                    info!(
                        after_ms = self.started.elapsed().as_millis(),
                        "ready: everything known at start is in force"
                    );
                    abi::sys::trim_memory();
                }
                let mut proof = self.progress.borrow().proof.clone();
                // What was proven before says nothing of this.
                if applied.changed && proof.outcome == Outcome::Proven {
                    proof.outcome = Outcome::Pending;
                }
                self.progress.send_replace(Progress {
                    applied,
                    complete,
                    error: None,
                    break_glass: self.broken.clone(),
                    proof,
                    source_errors: Arc::clone(&facts.errors),
                });
                true
            }
            Err(error) => {
                error!(%error, "the kernel is not in step with the policies; what was in force before stays");
                self.metrics.probe_failed("apply", 1);
                self.progress.send_modify(|progress| progress.error = Some(error.to_string()));
                false
            }
        }
    }

    /// Whether the node refuses nothing: returns whether that has changed.
    fn look_at_glass(&mut self) -> bool {
        let engine = self.engine.lock().unwrap_or_else(PoisonError::into_inner);
        let broken = match break_glass::look(engine.maps(), &self.state_dir) {
            Ok(broken) => broken,
            Err(error) => {
                warn!(%error, "whether the glass is broken cannot be read");
                return false;
            }
        };
        drop(engine);
        if broken == self.broken {
            return false;
        }
        if let Some(broken) = &broken {
            error!("{}", broken.message());
        } else {
            warn!("break-glass is over: this node refuses again what its policies say");
        }
        self.progress.send_modify(|progress| progress.break_glass.clone_from(&broken));
        self.broken = broken;
        true
    }

    fn keep_names(&self, engine: &Engine, applied: &Applied) -> bool {
        let names = status::names(engine, &applied.policies);
        let path = status::names_file(&self.state_dir);
        let written = serde_json::to_vec(&names)
            .map_err(std::io::Error::from)
            .and_then(|bytes| status::write_whole(&path, &bytes));
        if let Err(error) = written {
            warn!(path = %path.display(), %error, "the names for `status` cannot be written");
            return false;
        }
        true
    }

    /// Proves that the kernel does what it should, and repairs what differs. Returns when to do so again.
    fn prove(&mut self) -> Duration {
        let before = self.progress.borrow().proof.clone();
        let mut engine = self.engine.lock().unwrap_or_else(PoisonError::into_inner);
        let proof = self.prover.prove(&mut engine, &before, self.broken.is_none());
        drop(engine);
        for failure in proof.failures.iter() {
            error!(kind = failure.kind, "the proof of what is in force failed: {}", failure.message);
            self.metrics.probe_failed(&failure.kind, 1);
        }
        if before.outcome == Outcome::Failed && proof.outcome == Outcome::Proven {
            info!("what is in force is proven again");
        }
        self.metrics.set_proof(&proof);
        let path = proof::file(&self.state_dir);
        let kept = serde_json::to_vec(&Kept::from(&proof)).map_err(std::io::Error::from);
        if let Err(error) = kept.and_then(|bytes| fs::write(&path, bytes)) {
            warn!(path = %path.display(), %error, "the proof for `status` cannot be written");
        }
        let again = if proof.outcome == Outcome::Proven { PROVE_EVERY } else { PROVE_AGAIN };
        self.progress.send_modify(|progress| progress.proof = proof);
        again
    }

    /// Whether the report has to say of other workloads that their image cannot be told.
    fn met_other_roots(&self) -> bool {
        let mut engine = self.engine.lock().unwrap_or_else(PoisonError::into_inner);
        engine.met_other_roots().unwrap_or_else(|error| {
            warn!(%error, "which roots the kernel met cannot be read");
            false
        })
    }

    /// Counters of workloads that are gone are taken over, so that the map does not fill with them.
    fn settle_counts(&self) {
        let mut engine = self.engine.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = engine.counts() {
            warn!(%error, "the kernel's counters cannot be read");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_that_follow_each_other_are_proven_together_and_none_late() {
        let mut proofs = Proofs::after(PROVE_EVERY);
        let began = proofs.regular - PROVE_EVERY;
        let at = |milliseconds| began + Duration::from_millis(milliseconds);
        for (change, proof) in [(0, 150), (100, 250), (1900, 2000), (1999, 2000)] {
            proofs.change(at(change));
            assert_eq!(proofs.next, at(proof), "after a change at {change} ms");
        }
        let mut due = Proofs::after(Duration::from_millis(100));
        let regular = due.regular;
        due.change(regular);
        assert_eq!(due.next, regular, "the regular proof is not put off");
    }
}
