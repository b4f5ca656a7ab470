//! Leadership by a Lease: of several replicas, one at a time writes.
//!
//! A replica takes the Lease when it is free, given up, or has not changed for as long as it says, by the replica's own
//! clock; clocks of others are never compared. Every write of the Lease names the version that it replaces. A leader
//! that cannot renew it stops counting itself as one after two thirds of the Lease's duration, counted from before the
//! last renewal was sent, so it has stopped before anybody else may begin.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::error::ApiError;
use crate::metrics::Metrics;

/// A request that takes longer is given up.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Until when this replica leads. Cheap to clone; all clones see the same.
#[derive(Clone, Debug, Default)]
pub struct Leadership(Arc<Mutex<Option<Instant>>>);

impl Leadership {
    /// How much of the term is left; `None` if this replica does not lead.
    #[must_use]
    pub fn remaining(&self) -> Option<Duration> {
        let until = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        until?.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
    }

    /// Sends a request if this replica leads, and gives up waiting for the answer before its term ends.
    ///
    /// # Errors
    /// When it does not lead, when no answer came in time, and what the API server answers.
    pub async fn send<T>(
        &self,
        request: impl Future<Output = Result<T, kube::Error>>,
    ) -> Result<T, ApiError> {
        let limit = TIMEOUT.min(self.remaining().ok_or(ApiError::NotLeading)?);
        match tokio::time::timeout(limit, request).await {
            Ok(answer) => Ok(answer?),
            Err(_elapsed) => Err(ApiError::Timeout(limit)),
        }
    }

    fn set(&self, until: Option<Instant>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = until;
    }
}

/// The Lease, and this replica's part in it.
pub struct Elector {
    api: Api<Lease>,
    name: String,
    identity: String,
    duration: Duration,
    leadership: Leadership,
    terms: watch::Sender<Option<u64>>,
    metrics: Metrics,
    /// How often this replica has begun to lead.
    term: u64,
    /// The Lease as last seen, and since when it has looked like this.
    seen: Option<(Lease, Instant)>,
}

/// Names the Lease, and who asks for it.
#[derive(Clone, Debug)]
pub struct LeaseSettings {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// What this replica calls itself; no two may call themselves the same, not even after a restart.
    pub identity: String,
    /// For how long it counts.
    pub duration: Duration,
}

fn micro(now: SystemTime) -> MicroTime {
    MicroTime(Timestamp::try_from(now).unwrap_or(Timestamp::UNIX_EPOCH))
}

impl Elector {
    /// An elector that tells `terms` whenever this replica begins or ceases to lead: the number of its term, or nothing.
    #[must_use]
    pub fn new(
        client: Client,
        settings: LeaseSettings,
        leadership: Leadership,
        terms: watch::Sender<Option<u64>>,
        metrics: Metrics,
    ) -> Self {
        Self {
            api: Api::namespaced(client, &settings.namespace),
            name: settings.name,
            identity: settings.identity,
            duration: settings.duration,
            leadership,
            terms,
            term: 0,
            metrics,
            seen: None,
        }
    }

    /// Takes and keeps the Lease until told to stop, and then gives it up.
    pub async fn run(mut self, stop: CancellationToken) {
        loop {
            let wait = self.round().await;
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = stop.cancelled() => break,
            }
        }
        self.give_up().await;
    }

    /// One attempt to take or renew the Lease. Returns how long to wait before the next.
    async fn round(&mut self) -> Duration {
        let began = Instant::now();
        let step = self.duration / 5;
        let result = match tokio::time::timeout(self.duration / 3, self.attempt(began)).await {
            Ok(result) => result,
            Err(_elapsed) => Err(ApiError::Timeout(self.duration / 3)),
        };
        match result {
            Ok(true) => self.lead(began + self.duration * 2 / 3),
            Ok(false) => self.step_down("another replica holds the Lease"),
            Err(error) => {
                self.metrics.failed("Lease", error.reason());
                tracing::warn!(error = %error, "the Lease could not be taken or renewed");
                if self.terms.borrow().is_some() && self.leadership.remaining().is_none() {
                    self.step_down("the Lease could not be renewed in time");
                }
            }
        }
        // Half of a step is jitter, so that replicas do not ask in unison.
        step.mul_f64(0.75 + 0.5 * fastrand::f64()).min(self.leadership.remaining().unwrap_or(step * 2))
    }

    async fn attempt(&mut self, now: Instant) -> Result<bool, ApiError> {
        let current = match &self.seen {
            // A holder renews what it wrote itself; should that have changed, the write fails and tells.
            Some((lease, _)) if self.holds(lease) => Some(lease.clone()),
            _ => self.api.get_opt(&self.name).await?,
        };
        let Some(current) = current else {
            return self.write(None, now).await;
        };
        if self.holds(&current) {
            return self.write(Some(current), now).await;
        }
        let since = match &self.seen {
            Some((seen, since)) if seen.metadata.resource_version == current.metadata.resource_version => {
                *since
            }
            _ => now,
        };
        let spec = current.spec.clone().unwrap_or_default();
        let free = spec.holder_identity.as_deref().unwrap_or_default().is_empty();
        let duration =
            Duration::from_secs(u64::try_from(spec.lease_duration_seconds.unwrap_or(0)).unwrap_or(0));
        let run_out = now.saturating_duration_since(since) >= duration;
        self.seen = Some((current.clone(), since));
        if free || run_out {
            return self.write(Some(current), now).await;
        }
        Ok(false)
    }

    fn holds(&self, lease: &Lease) -> bool {
        lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref()) == Some(self.identity.as_str())
    }

    /// Writes the Lease as this replica's. `false` if somebody else was quicker.
    async fn write(&mut self, current: Option<Lease>, now: Instant) -> Result<bool, ApiError> {
        let time = micro(SystemTime::now());
        let earlier = current.as_ref().and_then(|lease| lease.spec.clone()).unwrap_or_default();
        let renewal = current.as_ref().is_some_and(|lease| self.holds(lease));
        let spec = LeaseSpec {
            acquire_time: if renewal { earlier.acquire_time } else { Some(time.clone()) },
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(self.duration.as_secs()).ok(),
            lease_transitions: Some(earlier.lease_transitions.unwrap_or(0) + i32::from(!renewal)),
            renew_time: Some(time),
            ..LeaseSpec::default()
        };
        let post = PostParams::default();
        let written = if let Some(mut lease) = current {
            lease.spec = Some(spec);
            self.api.replace(&self.name, &post, &lease).await
        } else {
            let metadata = ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() };
            self.api.create(&post, &Lease { metadata, spec: Some(spec) }).await
        };
        match written {
            Ok(lease) => {
                self.seen = Some((lease, now));
                Ok(true)
            }
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {
                // It has changed: look at it anew. Whether this replica still leads, the next look will tell.
                self.seen = None;
                if renewal { Err(kube::Error::Api(status).into()) } else { Ok(false) }
            }
            Err(error) => Err(error.into()),
        }
    }

    fn lead(&mut self, until: Instant) {
        self.leadership.set(Some(until));
        if self.terms.borrow().is_none() {
            self.term += 1;
            self.terms.send_replace(Some(self.term));
            tracing::info!(identity = %self.identity, "this replica leads");
            self.metrics.leader.set(1);
        }
    }

    fn step_down(&mut self, why: &str) {
        self.leadership.set(None);
        if self.terms.send_replace(None).is_some() {
            tracing::warn!(why, "this replica leads no longer");
            self.metrics.leader.set(0);
        }
    }

    /// Gives the Lease up, so that another replica need not wait for it to run out.
    async fn give_up(mut self) {
        let leads = self.leadership.remaining().is_some();
        self.step_down("it is stopping");
        let Some((mut lease, _)) = self.seen.take().filter(|(lease, _)| leads && self.holds(lease)) else {
            return;
        };
        if let Some(spec) = &mut lease.spec {
            spec.holder_identity = Some(String::new());
            spec.lease_duration_seconds = Some(1);
            spec.renew_time = Some(micro(SystemTime::now()));
        }
        let post = PostParams::default();
        let release = self.api.replace(&self.name, &post, &lease);
        match tokio::time::timeout(Duration::from_secs(3), release).await {
            Ok(Ok(_)) => tracing::info!("gave the Lease up"),
            Ok(Err(error)) => tracing::warn!(%error, "could not give the Lease up; it runs out"),
            Err(_elapsed) => tracing::warn!("could not give the Lease up in time; it runs out"),
        }
    }
}
