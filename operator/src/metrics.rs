//! The operator's metrics, and the server that shows them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use holdfast_crds::policy_status::NodeCounts;
use holdfast_crds::usage::{self, Usage};
use holdfast_policy::model::PolicyId;
use prometheus::{
    Counter, Gauge, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder,
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// All metrics of the operator.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Registry,
    reconcile_duration: HistogramVec,
    reconcile_errors: IntCounterVec,
    policy_nodes: IntGaugeVec,
    /// Identities that some address has.
    pub identities: IntGauge,
    /// Addresses that are published.
    pub addresses: IntGauge,
    addresses_unpublished: IntGaugeVec,
    /// AddressSlices created, updated or deleted.
    pub slice_writes: IntCounter,
    agents: IntGaugeVec,
    /// Whether this replica leads.
    pub leader: IntGauge,
    invalid_objects: IntGaugeVec,
    process: Vec<Process>,
}

/// A metric of the process itself.
#[derive(Clone, Debug)]
enum Process {
    Counter(Counter),
    Gauge(Gauge),
}

impl Process {
    fn new(name: &str, help: &str, grows: bool) -> Result<Self, prometheus::Error> {
        if grows {
            Counter::new(name, help).map(Self::Counter)
        } else {
            Gauge::new(name, help).map(Self::Gauge)
        }
    }
}

impl Metrics {
    /// Registers all metrics.
    ///
    /// # Errors
    /// When a name is taken, which only a mistake in this function can bring about.
    pub fn new() -> Result<Self, prometheus::Error> {
        let gauge = |name: &str, help: &str, labels: &[&str]| IntGaugeVec::new(Opts::new(name, help), labels);
        let buckets = prometheus::exponential_buckets(0.000_1, 4.0, 9)?;
        let metrics = Self {
            registry: Registry::new(),
            reconcile_duration: HistogramVec::new(
                HistogramOpts::new(
                    "holdfast_reconcile_duration_seconds",
                    "How long planning took, by what was planned",
                )
                .buckets(buckets),
                &["kind"],
            )?,
            reconcile_errors: IntCounterVec::new(
                Opts::new(
                    "holdfast_reconcile_errors_total",
                    "Requests and watches that failed, by kind and reason",
                ),
                &["kind", "reason"],
            )?,
            policy_nodes: gauge(
                "holdfast_policy_nodes",
                "Nodes that run a workload the policy selects (selected), those of them that have it in the kernel (programmed), that proved to give every rule what it asks (enforced), and that nobody reports from (unknown)",
                &["namespace", "policy", "state"],
            )?,
            identities: IntGauge::new("holdfast_identities", "Identities in use")?,
            addresses: IntGauge::new("holdfast_addresses", "Addresses published to agents")?,
            addresses_unpublished: gauge(
                "holdfast_addresses_unpublished",
                "Addresses whose claim by a pod is not published, by reason",
                &["reason"],
            )?,
            slice_writes: IntCounter::new(
                "holdfast_address_slice_writes_total",
                "AddressSlices created, updated or deleted by this replica",
            )?,
            agents: gauge(
                "holdfast_agents",
                "Nodes by what is known of their agent: reporting, silent, missing or other-boot",
                &["state"],
            )?,
            leader: IntGauge::new("holdfast_leader", "1 while this replica leads, else 0")?,
            invalid_objects: gauge(
                "holdfast_invalid_objects",
                "Objects of Holdfast's own kinds that do not parse, by kind",
                &["kind"],
            )?,
            process: usage::METRICS
                .iter()
                .map(|(name, help, grows)| Process::new(name, help, *grows))
                .collect::<Result<_, _>>()?,
        };
        let build = gauge("holdfast_build_info", "The version of this program", &["version", "component"])?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION"), "operator"]).set(1);
        let registry = &metrics.registry;
        registry.register(Box::new(metrics.reconcile_duration.clone()))?;
        registry.register(Box::new(metrics.reconcile_errors.clone()))?;
        registry.register(Box::new(metrics.policy_nodes.clone()))?;
        registry.register(Box::new(metrics.identities.clone()))?;
        registry.register(Box::new(metrics.addresses.clone()))?;
        registry.register(Box::new(metrics.addresses_unpublished.clone()))?;
        registry.register(Box::new(metrics.slice_writes.clone()))?;
        registry.register(Box::new(metrics.agents.clone()))?;
        registry.register(Box::new(metrics.leader.clone()))?;
        registry.register(Box::new(metrics.invalid_objects.clone()))?;
        registry.register(Box::new(build))?;
        for metric in &metrics.process {
            match metric {
                Process::Counter(counter) => registry.register(Box::new(counter.clone()))?,
                Process::Gauge(gauge) => registry.register(Box::new(gauge.clone()))?,
            }
        }
        Ok(metrics)
    }

    /// Notes how long planning of a kind took.
    pub fn planned(&self, kind: &str, took: Duration) {
        self.reconcile_duration.with_label_values(&[kind]).observe(took.as_secs_f64());
    }

    /// Counts a failure.
    pub fn failed(&self, kind: &str, reason: &str) {
        self.reconcile_errors.with_label_values(&[kind, reason]).inc();
    }

    /// Sets how many nodes a policy selects, and how far it got on them; `None` when the policy is gone.
    pub fn set_policy_nodes(&self, id: &PolicyId, nodes: Option<NodeCounts>) {
        let namespace = id.namespace.as_deref().unwrap_or_default();
        let policy = id.to_string();
        let counts = nodes.unwrap_or_default();
        for (state, count) in [
            ("selected", counts.selected),
            ("programmed", counts.programmed),
            ("enforced", counts.enforced),
            ("unknown", counts.unknown),
        ] {
            let labels = [namespace, policy.as_str(), state];
            match nodes {
                Some(_) => self.policy_nodes.with_label_values(&labels).set(count),
                // That there was nothing to remove is fine: the policy may have been gone before it was counted.
                None => drop(self.policy_nodes.remove_label_values(&labels)),
            }
        }
    }

    /// Forgets what only a leader knows.
    pub fn step_down(&self) {
        self.leader.set(0);
        self.policy_nodes.reset();
        self.addresses_unpublished.reset();
        self.agents.reset();
        self.identities.set(0);
        self.addresses.set(0);
    }

    /// Sets how many claimed addresses are not published for a reason.
    pub fn set_unpublished(&self, reason: &str, count: usize) {
        self.addresses_unpublished.with_label_values(&[reason]).set(int(count));
    }

    /// Sets how many nodes' agents are in a state.
    pub fn set_agents(&self, state: &str, count: usize) {
        self.agents.with_label_values(&[state]).set(int(count));
    }

    /// Sets how many objects of a kind do not parse.
    pub fn set_invalid(&self, kind: &str, count: usize) {
        self.invalid_objects.with_label_values(&[kind]).set(int(count));
    }

    fn set_usage(&self, usage: &Usage) {
        for (metric, value) in self.process.iter().zip(usage.values()) {
            match metric {
                Process::Counter(counter) => counter.inc_by((value - counter.get()).max(0.0)),
                Process::Gauge(gauge) => gauge.set(value),
            }
        }
    }

    /// All metrics in Prometheus' text format.
    ///
    /// # Errors
    /// When they cannot be encoded.
    pub fn text(&self) -> Result<String, prometheus::Error> {
        match Usage::read() {
            Ok(usage) => self.set_usage(&usage),
            Err(error) => tracing::warn!(%error, "what this process takes cannot be read"),
        }
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }
}

/// A count as a gauge takes it.
#[must_use]
pub fn int(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// Whether the operator is ready: it knows the whole cluster.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<AtomicBool>);

impl Readiness {
    /// Says whether it is.
    pub fn set(&self, ready: bool) {
        self.0.store(ready, Ordering::Relaxed);
    }

    /// Whether it is.
    #[must_use]
    pub fn get(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Serves `/metrics`, `/healthz` and `/readyz` until it is told to stop.
pub async fn serve(listener: TcpListener, metrics: Metrics, ready: Readiness, stop: CancellationToken) {
    let app = Router::new()
        .route("/metrics", get(show))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(show_ready))
        .with_state((metrics, ready));
    if let Err(error) = axum::serve(listener, app).with_graceful_shutdown(stop.cancelled_owned()).await {
        tracing::error!(%error, "the metrics server failed");
    }
}

async fn show(State((metrics, _)): State<(Metrics, Readiness)>) -> impl IntoResponse {
    match metrics.text() {
        Ok(text) => {
            (StatusCode::OK, [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text)
        }
        Err(error) => (
            StatusCode::INTERNAL_SERVER_ERROR,
            [(header::CONTENT_TYPE, "text/plain; charset=utf-8")],
            format!("{error}\n"),
        ),
    }
}

async fn show_ready(State((_, ready)): State<(Metrics, Readiness)>) -> (StatusCode, &'static str) {
    if ready.get() {
        (StatusCode::OK, "ok\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "the first listing of some kind is not complete\n")
    }
}
