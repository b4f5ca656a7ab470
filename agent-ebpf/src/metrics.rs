//! The agent's metrics. Counts of denials come from the kernel's own counters at each scrape.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use holdfast_crds::usage::{self, Usage};
use k8s_openapi::jiff::Timestamp;
use prometheus::core::Collector;
use prometheus::{
    Counter, Encoder, Gauge, GaugeVec, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder,
};

use crate::abi;
use crate::break_glass::Broken;
use crate::engine::counts::Subject;
use crate::engine::report::PolicyReport;
use crate::mechanisms::{Mechanisms, State};
use crate::proof::{self, Proof};

pub mod series;

use series::{Labels, Series, Shown};

/// All metrics of an agent.
#[derive(Clone)]
pub struct Metrics {
    registry: Registry,
    denials: IntCounterVec,
    audits: IntCounterVec,
    series: Arc<Mutex<Series>>,
    folded_series: IntGauge,
    break_glass: IntGauge,
    break_glass_until: IntGauge,
    policy_rules: IntGaugeVec,
    /// Seconds from facts to kernel.
    pub apply: Histogram,
    workloads: IntGaugeVec,
    map_entries: IntGaugeVec,
    map_capacity: IntGaugeVec,
    mechanism: IntGaugeVec,
    probe_failures: IntCounterVec,
    helper_errors: IntCounterVec,
    source_errors: IntGaugeVec,
    events: IntCounterVec,
    events_lost: IntCounterVec,
    sockets_destroyed: IntCounter,
    last_proof: IntGauge,
    process: Vec<Process>,
}

/// A metric of the process itself.
#[derive(Clone)]
enum Process {
    Counter(Counter),
    Gauge(Gauge),
}

/// Why there are no metrics.
#[derive(Debug, thiserror::Error)]
#[error("metrics: {0}")]
pub struct MetricsError(#[from] prometheus::Error);

/// The kinds of [`Metrics::probe_failed`].
const PROBES: [&str; 6] = ["apply", "canary", "link", "map", "pin", "read"];

const DENIAL_LABELS: [&str; 5] = ["namespace", "workload", "policy", "rule_kind", "given"];

fn register<C: Collector + Clone + 'static>(
    registry: &Registry,
    collector: C,
) -> Result<C, prometheus::Error> {
    registry.register(Box::new(collector.clone()))?;
    Ok(collector)
}

fn register_build(registry: &Registry) -> Result<(), prometheus::Error> {
    let build = GaugeVec::new(
        Opts::new("holdfast_build_info", "Always 1; the version is in the label."),
        &["version", "component"],
    )?;
    build.with_label_values(&[env!("CARGO_PKG_VERSION"), "agent"]).set(1.0);
    register(registry, build).map(drop)
}

fn register_sockets(registry: &Registry) -> Result<IntCounter, prometheus::Error> {
    let counter = IntCounter::new(
        "holdfast_sockets_destroyed_total",
        "Connections that a change of policies revoked and whose socket was destroyed, so that its owner saw an error.",
    )?;
    register(registry, counter)
}

fn register_proof(registry: &Registry) -> Result<IntGauge, prometheus::Error> {
    let gauge = IntGauge::new(
        "holdfast_last_proof_timestamp_seconds",
        "When all that is in force was last proven, in seconds since 1970; 0 where it never was.",
    )?;
    register(registry, gauge)
}

fn register_process(registry: &Registry) -> Result<Vec<Process>, prometheus::Error> {
    let metric = |(name, help, grows): (&str, &str, bool)| {
        if grows {
            register(registry, Counter::new(name, help)?).map(Process::Counter)
        } else {
            register(registry, Gauge::new(name, help)?).map(Process::Gauge)
        }
    };
    usage::METRICS.into_iter().map(metric).collect()
}

impl Metrics {
    /// Registers everything.
    ///
    /// # Errors
    ///
    /// When a name is taken, which is a mistake of this program.
    pub fn new() -> Result<Self, MetricsError> {
        let registry = Registry::new();
        let counter = |name: &str, help: &str, labels: &[&str]| {
            register(&registry, IntCounterVec::new(Opts::new(name, help), labels)?)
        };
        let gauge = |name: &str, help: &str, labels: &[&str]| {
            register(&registry, IntGaugeVec::new(Opts::new(name, help), labels)?)
        };
        let buckets = vec![0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0];
        let apply = HistogramOpts::new(
            "holdfast_policy_apply_duration_seconds",
            "Time from the facts at hand to the kernel having been written and read back.",
        );
        register_build(&registry)?;
        let metrics = Self {
            denials: counter(
                "holdfast_denials_total",
                "Packets and system calls refused, and processes killed, by workload and policy.",
                &DENIAL_LABELS,
            )?,
            audits: counter(
                "holdfast_audits_total",
                "Packets and system calls that audited rules name, or that policies in mode Audit would have refused.",
                &DENIAL_LABELS,
            )?,
            series: Arc::default(),
            folded_series: register(
                &registry,
                IntGauge::new(
                    "holdfast_folded_series",
                    "Counts of denials and audits that have no series of their own: they are under the workload and policy \
                     `other`.",
                )?,
            )?,
            break_glass: register(
                &registry,
                IntGauge::new(
                    "holdfast_break_glass",
                    "1 while this node refuses nothing, by `holdfast-agent break-glass`, else 0.",
                )?,
            )?,
            break_glass_until: register(
                &registry,
                IntGauge::new(
                    "holdfast_break_glass_until_seconds",
                    "When that ends by itself, in seconds since 1970; 0 where there is nothing to end.",
                )?,
            )?,
            policy_rules: gauge(
                "holdfast_policy_rules",
                "Rules in force on this node by mechanism; state is given (all that was asked) or short.",
                &["mechanism", "state"],
            )?,
            apply: register(&registry, Histogram::with_opts(apply.buckets(buckets))?)?,
            workloads: gauge(
                "holdfast_workloads",
                "Workloads on this node; selected = concerned by a policy.",
                &["state"],
            )?,
            map_entries: gauge("holdfast_map_entries", "Rows in a kernel map.", &["map"])?,
            map_capacity: gauge("holdfast_map_capacity", "Rows that a kernel map can hold.", &["map"])?,
            mechanism: gauge(
                "holdfast_kernel_mechanism",
                "1 for the state that a mechanism of this kernel was found in.",
                &["mechanism", "state"],
            )?,
            probe_failures: counter(
                "holdfast_probe_failures_total",
                "Checks of the kernel's state that found something wrong.",
                &["kind"],
            )?,
            helper_errors: counter(
                "holdfast_bpf_helper_errors_total",
                "Kernel helpers that failed, by program and helper.",
                &["program", "helper"],
            )?,
            source_errors: gauge(
                "holdfast_source_errors",
                "Objects and files that cannot be taken; their last good state is in force.",
                &["source"],
            )?,
            events: counter(
                "holdfast_events_total",
                "Events told: denials, audits and gaps, and cgroups that kernel programs told of.",
                &["kind"],
            )?,
            sockets_destroyed: register_sockets(&registry)?,
            last_proof: register_proof(&registry)?,
            events_lost: counter(
                "holdfast_events_lost_total",
                "Denials and audits without a line, lost in a ring buffer or on the way out. Of cgroups none is missed for \
                 long: the agent walks the tree as well.",
                &["buffer"],
            )?,
            process: register_process(&registry)?,
            registry,
        };
        metrics.begin();
        Ok(metrics)
    }

    /// Shows series before their first failure: what came into being with a failure would be no increase.
    fn begin(&self) {
        for kind in PROBES {
            self.probe_failed(kind, 0);
        }
        for buffer in ["denials", "audits", "output", "cgroup"] {
            self.events_lost(buffer, 0);
        }
        for kind in ["denied", "audited", "gap"] {
            self.events(kind, 0);
        }
    }

    /// Sets the counts of refusals from what the kernel counted.
    pub fn set_counts(&self, totals: &BTreeMap<Subject, u64>) {
        let mut sums: BTreeMap<Labels, u64> = BTreeMap::new();
        for (subject, count) in totals {
            let labels = [
                subject.namespace.clone(),
                subject.workload.clone(),
                subject.policy.clone(),
                subject.rule_kind.to_owned(),
                subject.given.to_owned(),
            ];
            *sums.entry(labels).or_default() += count;
        }
        let Shown { counts, gone, folded } =
            self.series.lock().unwrap_or_else(PoisonError::into_inner).take(&sums);
        let of = |labels: &Labels| if labels[4] == "Audit" { &self.audits } else { &self.denials };
        for labels in &gone {
            // That there is none is what is wanted.
            drop(of(labels).remove_label_values(labels));
        }
        for (labels, count) in &counts {
            let counter = of(labels).with_label_values(labels);
            if *count < counter.get() {
                // Forgotten since the last look, and new again.
                counter.reset();
            }
            counter.inc_by(count.saturating_sub(counter.get()));
        }
        self.folded_series.set(i64::try_from(folded).unwrap_or(i64::MAX));
    }

    /// Sets what this process takes of the machine.
    pub fn set_usage(&self, usage: &Usage) {
        for (metric, value) in self.process.iter().zip(usage.values()) {
            match metric {
                Process::Counter(counter) => counter.inc_by((value - counter.get()).max(0.0)),
                Process::Gauge(gauge) => gauge.set(value),
            }
        }
    }

    /// Sets what each rule is given.
    pub fn set_policies(&self, policies: &[PolicyReport]) {
        self.policy_rules.reset();
        for rule in policies.iter().flat_map(|policy| &policy.rules) {
            let state = if rule.falls_short() { "short" } else { "given" };
            self.policy_rules.with_label_values(&[rule.mechanism.unwrap_or("none"), state]).inc();
        }
    }

    /// Sets how many workloads there are.
    pub fn set_workloads(&self, all: usize, selected: usize) {
        self.workloads.with_label_values(&["known"]).set(i64::try_from(all).unwrap_or(i64::MAX));
        self.workloads.with_label_values(&["selected"]).set(i64::try_from(selected).unwrap_or(i64::MAX));
    }

    /// Sets how full a map is.
    pub fn set_map(&self, map: &str, entries: usize, capacity: u32) {
        self.map_entries.with_label_values(&[map]).set(i64::try_from(entries).unwrap_or(i64::MAX));
        self.map_capacity.with_label_values(&[map]).set(i64::from(capacity));
    }

    /// Sets what was found of the kernel's mechanisms.
    pub fn set_mechanisms(&self, mechanisms: &Mechanisms) {
        self.mechanism.reset();
        for (name, state) in &mechanisms.states {
            let state = match state {
                State::Available => "available",
                State::Unavailable(_) => "unavailable",
                State::Error(_) => "error",
            };
            self.mechanism.with_label_values(&[name, state]).set(1);
        }
    }

    /// Counts records of the kernel.
    pub fn events(&self, kind: &str, count: u64) {
        self.events.with_label_values(&[kind]).inc_by(count);
    }

    /// Counts denials and audits without a line, by where they were lost.
    pub fn events_lost(&self, buffer: &str, count: u64) {
        self.events_lost.with_label_values(&[buffer]).inc_by(count);
    }

    /// Counts a check that found something wrong.
    pub fn probe_failed(&self, kind: &str, times: u64) {
        self.probe_failures.with_label_values(&[kind]).inc_by(times);
    }

    /// Sets how many objects of a source cannot be taken.
    pub fn set_source_errors(&self, source: &str, errors: usize) {
        self.source_errors.with_label_values(&[source]).set(i64::try_from(errors).unwrap_or(i64::MAX));
    }

    /// So many sockets more were destroyed.
    pub fn sockets_destroyed(&self, count: u64) {
        self.sockets_destroyed.inc_by(count);
    }

    /// Sets when all was last proven.
    pub fn set_proof(&self, proof: &Proof) {
        self.last_proof.set(proof::proven_at(proof).map_or(0, Timestamp::as_second));
    }

    /// Sets whether this node refuses nothing.
    pub fn set_break_glass(&self, broken: Option<&Broken>) {
        self.break_glass.set(i64::from(broken.is_some()));
        self.break_glass_until.set(broken.map_or(0, Broken::unix_seconds));
    }

    /// Sets the failures of kernel helpers.
    pub fn set_helper_errors(&self, errors: &HashMap<abi::ErrorKey, u64>) {
        for (key, count) in errors {
            let (program, helper) = (program_name(key.program), helper_name(key.helper));
            let counter = self.helper_errors.with_label_values(&[program, helper]);
            counter.inc_by(count.saturating_sub(counter.get()));
        }
        let lost =
            |(key, count): (&abi::ErrorKey, &u64)| (key.helper == abi::HELPER_RINGBUF).then_some(*count);
        let lost: u64 = errors.iter().filter_map(lost).sum();
        let counter = self.events_lost.with_label_values(&["cgroup"]);
        counter.inc_by(lost.saturating_sub(counter.get()));
    }

    /// The text that Prometheus scrapes.
    ///
    /// # Errors
    ///
    /// When a metric cannot be encoded.
    pub fn encode(&self) -> Result<String, MetricsError> {
        let mut out = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut out)?;
        Ok(String::from_utf8_lossy(&out).into_owned())
    }
}

/// The programs of `enum hf_program`.
fn program_name(program: u16) -> &'static str {
    const NAMES: [&str; 10] = [
        "unknown",
        "egress",
        "ingress",
        "connect",
        "sendmsg",
        "sockops",
        "cgroup",
        "process",
        "syscall",
        "sys_enter",
    ];
    NAMES.get(usize::from(program)).copied().unwrap_or("unknown")
}

/// The helpers of `enum hf_helper`.
fn helper_name(helper: u16) -> &'static str {
    const NAMES: [&str; 9] = [
        "unknown",
        "map_update_elem",
        "sk_storage_get",
        "probe_read_kernel",
        "ringbuf_reserve",
        "skb_load_bytes",
        "send_signal",
        "counter_update",
        "clause",
    ];
    NAMES.get(usize::from(helper)).copied().unwrap_or("unknown")
}
