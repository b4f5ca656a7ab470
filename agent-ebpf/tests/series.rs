//! How many series one agent shows: with 1,000 policies and 250 workloads under 20,000, whatever is refused to whom, and no
//! more after 10,000 pods were replaced; and that no count is lost or counted twice by what keeps it so. Everything but
//! the kernel is the agent's own: the counters that a kernel would hold are made here, one for each that it could.

#![expect(clippy::unwrap_used, reason = "a test ends by it, in its helpers too")]

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use holdfast_agent::abi::{CounterKey, given};
use holdfast_agent::engine::counts::{Counts, KEEP};
use holdfast_agent::facts::{Facts, Pod};
use holdfast_agent::lower::{self, Numbers};
use holdfast_agent::mechanisms::Mechanisms;
use holdfast_agent::metrics::Metrics;
use holdfast_agent::metrics::series::OTHER;
use holdfast_agent::tables::Tables;
use holdfast_agent::workloads::{self, Cgroup};
use holdfast_policy::compile::{self, Compiled};
use holdfast_policy::model::{
    Action, Fallback, Mode, NamespaceTarget, NetRule, Network, OnDeny, Owner, Peer, Policy, PolicyId, Rules,
    SyscallRule, Syscalls, Target, World,
};
use holdfast_policy::selector::Selector;
use holdfast_policy::syscalls::Abi;

const NAMESPACES: usize = 50;
const POLICIES: usize = 1_000;
const WORKLOADS: usize = 250;
const REPLACEMENTS: usize = 10_000;
const BUDGET: usize = 20_000;

/// Labels that say which of its namespace a workload is.
fn app(number: usize) -> BTreeMap<String, String> {
    BTreeMap::from([("app".to_owned(), format!("a{}", number / NAMESPACES))])
}

/// Policies with rules of each kind, half of them in Audit. `wide`: each selects all of its namespace, and one of it
/// otherwise.
fn policies(wide: bool) -> Vec<Policy> {
    let policy = |number: usize| {
        let peers = Peer::Pods { namespaces: None, pods: Some(Selector::default()) };
        let rules =
            Rules { allow: vec![NetRule { peers: Some(vec![peers]), ports: None }], deny: Vec::new() };
        let match_labels =
            if wide { BTreeMap::new() } else { app((number / NAMESPACES * NAMESPACES) % WORKLOADS) };
        Policy {
            id: PolicyId::namespaced(format!("n{}", number % NAMESPACES), format!("p{number}")),
            uid: format!("policy-{number}"),
            generation: 1,
            target: Target {
                namespaces: NamespaceTarget::One(format!("n{}", number % NAMESPACES)),
                pods: Selector { match_labels, ..Selector::default() },
            },
            containers: None,
            mode: if number.is_multiple_of(2) { Mode::Enforce } else { Mode::Audit },
            network: Some(Network {
                ingress: Some(rules.clone()),
                egress: Some(rules),
                on_deny: OnDeny::Drop,
            }),
            processes: None,
            files: None,
            capabilities: None,
            syscalls: Some(Syscalls {
                rules: vec![SyscallRule {
                    names: vec!["mount".to_owned()],
                    args: Vec::new(),
                    action: Action::Deny,
                }],
                fallback: Fallback::Kill,
                ..Syscalls::default()
            }),
        }
    };
    (0..POLICIES).map(policy).collect()
}

/// An agent, but for the kernel: its counters are `kernel`.
struct Agent {
    facts: Facts,
    numbers: Numbers,
    compiled: Compiled,
    counts: Counts,
    metrics: Metrics,
    kernel: HashMap<CounterKey, u64>,
    now: Instant,
    pods: usize,
    /// Everything that the kernel ever counted.
    counted: u64,
}

impl Agent {
    fn new(policies: Vec<Policy>) -> Self {
        Self {
            facts: Facts { policies: Arc::new(policies), complete: true, ..Facts::default() },
            numbers: Numbers::above(&Tables::default(), 0),
            compiled: Compiled::default(),
            counts: Counts::default(),
            metrics: Metrics::new().unwrap(),
            kernel: HashMap::new(),
            now: Instant::now(),
            pods: 0,
            counted: 0,
        }
    }

    /// New pods in the place of those that are there, of the same owners, or of none.
    fn replace_pods(&mut self, owned: bool) {
        let pods = (0..WORKLOADS).map(|number| {
            self.pods += 1;
            Pod {
                namespace: format!("n{}", number % NAMESPACES),
                name: format!("w{number}-{}", self.pods),
                uid: format!("00000000-0000-0000-0000-{:012x}", self.pods),
                labels: app(number),
                owner: owned.then(|| Owner { kind: "Deployment".to_owned(), name: format!("w{number}") }),
                ..Pod::default()
            }
        });
        self.facts.pods = Arc::new(pods.collect());
        self.apply();
    }

    /// What the engine does with facts, without the kernel.
    fn apply(&mut self) {
        let cgroups: Vec<Cgroup> = (1..)
            .zip(self.facts.pods.iter())
            .map(|(id, pod)| Cgroup { id, path: format!("/kubepods/burstable/pod{}", pod.uid) })
            .collect();
        let placements = workloads::place(&self.facts, &cgroups, &[]);
        assert_eq!(placements.len(), WORKLOADS);
        let all: Vec<_> = placements.iter().map(|placement| placement.workload.clone()).collect();
        let world = World::default();
        let input = compile::Input {
            policies: &self.facts.policies,
            world: &world,
            workloads: &all,
            abis: &[Abi::X86_64],
        };
        self.compiled = compile::compile(&input, Some(&self.compiled)).unwrap();
        let input = lower::Input {
            compiled: &self.compiled,
            world: &world,
            placements: &placements,
            local: &[],
            mechanisms: &Mechanisms::default(),
        };
        let lowered = lower::lower(input, &mut self.numbers, &Tables::default()).unwrap();
        self.counts.learn(&lowered.meaning, &placements);
        // The worst that can be: every rule refuses something to everybody, in every way.
        for index in lowered.meaning.workloads.keys() {
            let row = lowered.tables.workloads[index];
            let mut count = |set: u32, rule: usize, kind: u8, given: u8| {
                let rule = u16::try_from(rule).unwrap();
                *self.kernel.entry(CounterKey { workload: *index, set, rule, kind, given }).or_default() += 1;
                self.counted += 1;
            };
            for rule in 0..lowered.meaning.net_sets[&row.net_set].rules.len() {
                count(row.net_set, rule, 0, given::DROP);
                count(row.net_set, rule, 1, given::AUDIT);
            }
            for rule in 0..lowered.meaning.sys_sets[&row.sys_set].rules.len() {
                count(row.sys_set, rule, 2, given::KILL_AFTER_EFFECT);
                count(row.sys_set, rule, 2, given::AUDIT);
            }
        }
    }

    /// Some time passes, and then the counters are looked at.
    fn look(&mut self, after: Duration) {
        self.now += after;
        for gone in self.counts.take(&self.kernel, self.now) {
            self.kernel.remove(&gone.key);
            self.counts.settle(gone);
        }
    }

    /// A scrape: the series, with their values.
    fn scrape(&mut self) -> BTreeMap<String, f64> {
        self.look(Duration::ZERO);
        self.metrics.set_counts(self.counts.totals());
        let text = self.metrics.encode().unwrap();
        let series = text.lines().filter(|line| !line.starts_with('#')).map(|line| {
            let (series, value) = line.rsplit_once(' ').unwrap();
            (series.to_owned(), value.parse().unwrap())
        });
        series.collect()
    }
}

fn refusals(series: &BTreeMap<String, f64>) -> BTreeMap<String, f64> {
    let of = |name: &str| {
        name.starts_with("holdfast_denials_total{") || name.starts_with("holdfast_audits_total{")
    };
    series.iter().filter(|(name, _)| of(name)).map(|(name, value)| (name.clone(), *value)).collect()
}

fn sum(series: &BTreeMap<String, f64>) -> u64 {
    refusals(series).values().map(|value| whole(*value)).sum()
}

fn folded(series: &BTreeMap<String, f64>) -> u64 {
    whole(series["holdfast_folded_series"])
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "counts, far below 2^52")]
fn whole(value: f64) -> u64 {
    value as u64
}

#[test]
fn a_thousand_policies_and_ten_thousand_replaced_pods_stay_within_the_budget() {
    let mut agent = Agent::new(policies(false));
    agent.replace_pods(true);
    let first = agent.scrape();
    assert!(first.len() > WORKLOADS * 4 && first.len() < BUDGET, "{} series", first.len());
    assert_eq!(folded(&first), 0);
    assert_eq!(sum(&first), agent.counted);

    for _ in 0..REPLACEMENTS / WORKLOADS {
        agent.replace_pods(true);
        agent.look(Duration::from_secs(15));
        agent.look(Duration::from_secs(15));
    }
    assert_eq!(agent.pods, REPLACEMENTS + WORKLOADS);
    let last = agent.scrape();
    assert_eq!(last.keys().collect::<Vec<_>>(), first.keys().collect::<Vec<_>>());
    assert_eq!(sum(&last), agent.counted, "counts were lost, or counted twice");
    assert!(
        agent.kernel.len() < 2 * first.len(),
        "the kernel's map fills with counters of pods that are gone"
    );
}

#[test]
fn workloads_that_nobody_owns_leave_no_series_for_long_and_never_more_than_the_budget() {
    let mut agent = Agent::new(policies(false));
    agent.replace_pods(false);
    let first = agent.scrape();
    let mut shown = first.clone();
    for round in 0..REPLACEMENTS / WORKLOADS {
        agent.replace_pods(false);
        agent.look(Duration::from_secs(1));
        agent.look(Duration::from_secs(1));
        if round % 5 > 0 {
            continue;
        }
        let now = agent.scrape();
        assert!(now.len() < BUDGET, "{} series after {round} rounds", now.len());
        assert_eq!(sum(&now), agent.counted, "counts were lost, or counted twice, in round {round}");
        let fell =
            refusals(&shown).into_iter().find(|(name, value)| now.get(name).is_some_and(|now| now < value));
        assert_eq!(fell, None, "a counter fell in round {round}");
        shown = now;
    }
    assert!(folded(&shown) > 0, "the bound was never met");

    agent.look(KEEP);
    agent.look(KEEP);
    let last = agent.scrape();
    let others = |series: &BTreeMap<String, f64>| {
        refusals(series).keys().filter(|name| name.contains(&format!("policy=\"{OTHER}\""))).count()
    };
    assert!(others(&last) > 0, "what was counted under `other` is forgotten");
    // Those that are there may be among what was folded; nothing else is left.
    let own = refusals(&last).len() - others(&last);
    assert!(
        own <= refusals(&first).len(),
        "{own} series of workloads, and there were {} at first",
        first.len()
    );
}

#[test]
fn policies_that_all_refuse_everything_to_everybody_stay_within_the_budget() {
    let mut agent = Agent::new(policies(true));
    agent.replace_pods(true);
    let series = agent.scrape();
    assert!(series.len() < BUDGET, "{} series", series.len());
    assert!(folded(&series) > 0, "the bound was never met");
    assert_eq!(sum(&series), agent.counted);
    agent.replace_pods(true);
    assert_eq!(sum(&agent.scrape()), agent.counted);
}
