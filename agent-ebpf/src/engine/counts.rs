//! From the kernel's counters to counts by workload and policy. A counter of a set or workload that is gone is added to
//! what it counted for and then removed, so that counts only ever grow and the map does not. What no workload here and no
//! policy stands for any more is forgotten after [`KEEP`].

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use holdfast_crds::event::RuleKind;
use holdfast_policy::compile::{AccessSet, NetSet, SysSet};
use holdfast_policy::model::RuleRef;

use crate::abi;
use crate::lower::Meaning;
use crate::status::Names;
use crate::workloads::Placement;

/// What a count is for.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Subject {
    /// Namespace of the workload.
    pub namespace: String,
    /// Kind and name of its top owner.
    pub workload: String,
    /// `namespace/name` or `cluster/name`.
    pub policy: String,
    /// `network`, `syscall`, `process`, `file` or `capability`.
    pub rule_kind: &'static str,
    /// The rule's path in the policy.
    pub rule: String,
    /// What was done.
    pub given: &'static str,
}

/// What was done, by the kernel's number.
#[must_use]
pub fn given_name(given: u8) -> &'static str {
    match given {
        abi::given::DROP => "Drop",
        abi::given::REJECT => "Reject",
        abi::given::DENY => "Deny",
        abi::given::DENY_AND_KILL => "DenyAndKill",
        abi::given::KILL_AFTER_EFFECT => "KillAfterEffect",
        _ => "Audit",
    }
}

/// What a rule is about, by the kernel's number.
#[must_use]
pub fn kind_name(kind: u8) -> &'static str {
    rule_kind(kind).as_str()
}

/// The same, as events have it.
#[must_use]
pub fn rule_kind(kind: u8) -> RuleKind {
    match kind {
        abi::kind::SYSCALL => RuleKind::Syscall,
        abi::kind::PROCESS => RuleKind::Process,
        abi::kind::FILE => RuleKind::File,
        abi::kind::CAPABILITY => RuleKind::Capability,
        _ => RuleKind::Network,
    }
}

#[derive(Debug, Clone)]
struct Who {
    namespace: String,
    workload: String,
}

/// How long a count is kept whose workload or policy is gone: long enough for every Prometheus to see its last value.
pub const KEEP: Duration = Duration::from_mins(15);

/// What counters that are gone came to.
#[derive(Debug, Default)]
struct Settled {
    count: u64,
    /// Since when there is nobody who could count on.
    gone_since: Option<Instant>,
}

/// A counter that nothing counts in any more.
#[derive(Debug)]
pub struct Gone {
    /// Its key.
    pub key: abi::CounterKey,
    subject: Option<Subject>,
    count: u64,
}

/// All counts.
#[derive(Debug, Default)]
pub struct Counts {
    /// From counters that are gone.
    settled: BTreeMap<Subject, Settled>,
    /// Everything, as of the last look.
    totals: BTreeMap<Subject, u64>,
    workloads: HashMap<u32, Who>,
    net_sets: BTreeMap<u32, Arc<NetSet>>,
    sys_sets: BTreeMap<u32, Arc<SysSet>>,
    access_sets: BTreeMap<u32, Arc<AccessSet>>,
    /// What an earlier agent's numbers mean.
    names: Names,
    /// `None` until something was put in force: until then everything in the maps is an earlier agent's, and live.
    live: Option<Meaning>,
    /// Keys that were not live at the last look either: packets under way have counted by now.
    leaving: Vec<abi::CounterKey>,
}

/// The top owner of a workload, as metrics name it.
#[must_use]
pub fn owner_label(placement: &Placement) -> String {
    let workload = &placement.workload;
    match &workload.owner {
        Some(owner) => owner.to_string(),
        None if placement.pod => format!("Pod/{}", workload.name),
        None => format!("ExternalWorkload/{}", workload.name),
    }
}

impl Counts {
    /// Takes note of what an earlier agent's numbers mean.
    pub fn know_names(&mut self, names: &Names) {
        self.names = names.clone();
    }

    /// Takes note of what numbers mean from now on; what they meant stays known as long as counters have it.
    pub fn learn(&mut self, meaning: &Meaning, placements: &[Placement]) {
        for (index, position) in &meaning.workloads {
            let placement = &placements[*position];
            let who =
                Who { namespace: placement.workload.namespace.clone(), workload: owner_label(placement) };
            self.workloads.insert(*index, who);
        }
        self.net_sets.extend(meaning.net_sets.iter().map(|(number, set)| (*number, Arc::clone(set))));
        self.sys_sets.extend(meaning.sys_sets.iter().map(|(number, set)| (*number, Arc::clone(set))));
        self.access_sets.extend(meaning.access_sets.iter().map(|(number, set)| (*number, Arc::clone(set))));
        self.live = Some(meaning.clone());
    }

    /// Takes in the kernel's counters; returns those that can be removed from the map, and then settled.
    pub fn take(&mut self, raw: &HashMap<abi::CounterKey, u64>, now: Instant) -> Vec<Gone> {
        self.forget(now);
        self.totals = self.settled.iter().map(|(subject, kept)| (subject.clone(), kept.count)).collect();
        let (mut gone, mut leaving) = (Vec::new(), Vec::new());
        for (key, count) in raw {
            let subject = self.subject(key);
            if let Some(subject) = &subject {
                *self.totals.entry(subject.clone()).or_default() += count;
            }
            let Some(live) = &self.live else { continue };
            let sets = live.net_sets.contains_key(&key.set)
                || live.sys_sets.contains_key(&key.set)
                || live.access_sets.contains_key(&key.set);
            if live.workloads.contains_key(&key.workload) && sets {
                continue;
            }
            if self.leaving.contains(key) {
                gone.push(Gone { key: *key, subject, count: *count });
            } else {
                leaving.push(*key);
            }
        }
        self.leaving = leaving;
        if let Some(live) = &self.live {
            let used = |number: &u32| raw.keys().any(|key| key.set == *number);
            self.net_sets.retain(|number, _| live.net_sets.contains_key(number) || used(number));
            self.sys_sets.retain(|number, _| live.sys_sets.contains_key(number) || used(number));
            self.access_sets.retain(|number, _| live.access_sets.contains_key(number) || used(number));
            self.workloads.retain(|index, _| {
                live.workloads.contains_key(index) || raw.keys().any(|key| key.workload == *index)
            });
        }
        gone
    }

    /// Keeps the count of a counter that was removed.
    pub fn settle(&mut self, gone: Gone) {
        if let Some(subject) = gone.subject {
            self.settled.entry(subject).or_default().count += gone.count;
        }
    }

    /// Forgets what nobody has stood for since [`KEEP`] ago.
    fn forget(&mut self, now: Instant) {
        let Some(live) = &self.live else { return };
        let owners: HashSet<(&str, &str)> = live
            .workloads
            .keys()
            .filter_map(|index| self.workloads.get(index))
            .map(|who| (who.namespace.as_str(), who.workload.as_str()))
            .collect();
        let net = live.net_sets.values().flat_map(|set| &set.key.policies);
        let sys = live.sys_sets.values().flat_map(|set| &set.key.policies);
        let access = live.access_sets.values().flat_map(|set| &set.key.policies);
        let policies: HashSet<String> = net.chain(sys).chain(access).map(|key| key.id.to_string()).collect();
        self.settled.retain(|subject, kept| {
            let owner = (subject.namespace.as_str(), subject.workload.as_str());
            if owners.contains(&owner) && policies.contains(&subject.policy) {
                kept.gone_since = None;
            } else if now.duration_since(*kept.gone_since.get_or_insert(now)) >= KEEP {
                return false;
            }
            true
        });
    }

    /// Everything as of the last look.
    #[must_use]
    pub fn totals(&self) -> &BTreeMap<Subject, u64> {
        &self.totals
    }

    fn subject(&self, key: &abi::CounterKey) -> Option<Subject> {
        let rule = usize::from(key.rule);
        let (who, policy, path) = if let Some(who) = self.workloads.get(&key.workload) {
            let RuleRef { policy, path } = match key.kind {
                0 | 1 => self.net_sets.get(&key.set)?.rules.get(rule)?,
                abi::kind::SYSCALL => &self.sys_sets.get(&key.set)?.rules.get(rule)?.rule,
                _ => &self.access_sets.get(&key.set)?.rules.get(rule)?.rule,
            };
            (who.clone(), policy.to_string(), path.to_string())
        } else {
            let name = self.names.workloads.get(&key.workload)?;
            let (policy, path) = self.names.sets(key.kind).get(&key.set)?.get(rule)?.split_once(' ')?;
            let who = Who { namespace: name.namespace.clone(), workload: name.owner.clone() };
            (who, policy.to_owned(), path.to_owned())
        };
        Some(Subject {
            namespace: who.namespace,
            workload: who.workload,
            policy,
            rule_kind: kind_name(key.kind),
            rule: path,
            given: given_name(key.given),
        })
    }
}
