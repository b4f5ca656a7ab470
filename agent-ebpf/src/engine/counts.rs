//! From the kernel's counters to counts by workload and policy. A counter of a set or workload that is gone is added to
//! what it counted for and then removed, so that counts only ever grow and the map does not.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use holdfast_policy::compile::{NetSet, SysSet};
use holdfast_policy::model::RuleRef;

use crate::abi;
use crate::lower::Meaning;
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
    /// `network` or `syscall`.
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

#[derive(Debug, Clone)]
struct Who {
    namespace: String,
    workload: String,
}

/// All counts.
#[derive(Debug, Default)]
pub struct Counts {
    /// From counters that are gone.
    settled: BTreeMap<Subject, u64>,
    /// Everything, as of the last look.
    totals: BTreeMap<Subject, u64>,
    workloads: HashMap<u32, Who>,
    net_sets: BTreeMap<u32, Arc<NetSet>>,
    sys_sets: BTreeMap<u32, Arc<SysSet>>,
    live: Meaning,
    /// Keys that were not live at the last look either: packets under way have counted by now.
    leaving: Vec<abi::CounterKey>,
}

impl Counts {
    /// Takes note of what numbers mean from now on; what they meant stays known as long as counters have it.
    pub fn learn(&mut self, meaning: &Meaning, placements: &[Placement]) {
        for (index, position) in &meaning.workloads {
            let workload = &placements[*position].workload;
            let owner = match &workload.owner {
                Some(owner) => owner.to_string(),
                None if placements[*position].workload.service_account.is_some() => {
                    format!("Pod/{}", workload.name)
                }
                None => format!("ExternalWorkload/{}", workload.name),
            };
            self.workloads.insert(*index, Who { namespace: workload.namespace.clone(), workload: owner });
        }
        self.net_sets.extend(meaning.net_sets.iter().map(|(number, set)| (*number, Arc::clone(set))));
        self.sys_sets.extend(meaning.sys_sets.iter().map(|(number, set)| (*number, Arc::clone(set))));
        self.live = meaning.clone();
    }

    /// Takes in the kernel's counters; returns those that can be removed from the map.
    pub fn take(&mut self, raw: &HashMap<abi::CounterKey, u64>) -> Vec<abi::CounterKey> {
        self.totals = self.settled.clone();
        let (mut gone, mut leaving) = (Vec::new(), Vec::new());
        for (key, count) in raw {
            let Some(subject) = self.subject(key) else {
                // Left by an earlier agent, which has shown it.
                gone.push(*key);
                continue;
            };
            *self.totals.entry(subject.clone()).or_default() += count;
            let live = self.live.workloads.contains_key(&key.workload)
                && (self.live.net_sets.contains_key(&key.set) || self.live.sys_sets.contains_key(&key.set));
            if live {
                continue;
            }
            if self.leaving.contains(key) {
                *self.settled.entry(subject).or_default() += count;
                gone.push(*key);
            } else {
                leaving.push(*key);
            }
        }
        self.leaving = leaving;
        let used = |number: &u32| raw.keys().any(|key| key.set == *number);
        self.net_sets.retain(|number, _| self.live.net_sets.contains_key(number) || used(number));
        self.sys_sets.retain(|number, _| self.live.sys_sets.contains_key(number) || used(number));
        self.workloads.retain(|index, _| {
            self.live.workloads.contains_key(index) || raw.keys().any(|key| key.workload == *index)
        });
        gone
    }

    /// Everything as of the last look.
    #[must_use]
    pub fn totals(&self) -> &BTreeMap<Subject, u64> {
        &self.totals
    }

    fn subject(&self, key: &abi::CounterKey) -> Option<Subject> {
        let who = self.workloads.get(&key.workload)?;
        let RuleRef { policy, path } = match key.kind {
            0 | 1 => self.net_sets.get(&key.set)?.rules.get(usize::from(key.rule))?,
            _ => &self.sys_sets.get(&key.set)?.rules.get(usize::from(key.rule))?.rule,
        };
        Some(Subject {
            namespace: who.namespace.clone(),
            workload: who.workload.clone(),
            policy: policy.to_string(),
            rule_kind: if key.kind < 2 { "network" } else { "syscall" },
            rule: path.to_string(),
            given: given_name(key.given),
        })
    }
}
