//! What the kernel's numbers mean, for events: of the state in force, and for a while of those before it, as an event may be
//! read after its pod is gone.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;
use std::time::{Duration, Instant};

use holdfast_crds::event::{Asked, EventPod};
use holdfast_policy::compile::{AccessSet, NetSet, PolicyKey, SysSet};
use holdfast_policy::model::{Action, Mode, Policy, PolicyId, RuleRef};

use crate::abi::{self, CounterKey};
use crate::engine::counts::owner_label;
use crate::lower::Meaning;
use crate::mechanisms::{Mechanism, Mechanisms};
use crate::status::Names;
use crate::workloads::{Cgroup, Placement};

/// How long numbers are known that nothing in force uses any more.
const KEEP: Duration = Duration::from_mins(2);

/// A workload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Who {
    /// Namespace.
    pub namespace: String,
    /// Kind and name of its top owner.
    pub workload: String,
    /// The pod, for pods.
    pub pod: Option<EventPod>,
    /// The container, where it is known.
    pub container: Option<String>,
}

/// A rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// The policy; `None` where only its text is known.
    pub policy: Option<PolicyId>,
    /// `namespace/name` or `cluster/name`.
    pub policy_name: String,
    /// The policy object's UID.
    pub policy_uid: Option<String>,
    /// Its generation then.
    pub generation: Option<i64>,
    /// The rule's path.
    pub path: String,
    /// What it asks for.
    pub asked: Option<Asked>,
}

/// A policy of a set, as it was when the set was last in force.
#[derive(Debug, Clone)]
struct Version {
    generation: i64,
    mode: Mode,
}

#[derive(Debug, Clone)]
struct Set<S> {
    set: Arc<S>,
    policies: HashMap<PolicyId, Version>,
}

/// Rows of now, and of a while ago.
#[derive(Debug)]
struct Aging<K, V>(HashMap<K, (V, Option<Instant>)>);

impl<K, V> Default for Aging<K, V> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Eq + Hash, V> Aging<K, V> {
    fn renew(&mut self, rows: impl Iterator<Item = (K, V)>, now: Instant) {
        for (_, gone) in self.0.values_mut() {
            gone.get_or_insert(now);
        }
        for (key, value) in rows {
            self.0.insert(key, (value, None));
        }
        self.0.retain(|_, (_, gone)| gone.is_none_or(|since| now.duration_since(since) < KEEP));
    }

    fn get(&self, key: &K) -> Option<&V> {
        self.0.get(key).map(|(value, _)| value)
    }

    fn is_live(&self, key: &K) -> bool {
        self.0.get(key).is_some_and(|(_, gone)| gone.is_none())
    }
}

/// What is learned from a state that came into force.
#[derive(Debug, Clone, Copy)]
pub struct Lesson<'a> {
    /// What its numbers mean.
    pub meaning: &'a Meaning,
    /// Its workloads.
    pub placements: &'a [Placement],
    /// Its policies.
    pub policies: &'a HashMap<PolicyId, Policy>,
    /// How hooks are reached.
    pub mechanisms: &'a Mechanisms,
    /// The cgroup tree.
    pub cgroups: &'a [Cgroup],
}

/// Everything that is known.
#[derive(Debug, Default)]
pub struct Book {
    workloads: Aging<u32, Who>,
    net_sets: Aging<u32, Set<NetSet>>,
    sys_sets: Aging<u32, Set<SysSet>>,
    access_sets: Aging<u32, Set<AccessSet>>,
    cgroups: Aging<u64, String>,
    hooks: HashMap<u32, Mechanism>,
    /// Of an agent before this one.
    names: Names,
}

impl Book {
    /// Takes note of what an earlier agent's numbers mean.
    pub fn know_names(&mut self, names: Names) {
        self.names = names;
    }

    /// Takes note of a state that is in force from now on.
    pub fn learn(&mut self, lesson: Lesson<'_>, now: Instant) {
        let Lesson { meaning, placements, policies, mechanisms, cgroups } = lesson;
        let who = |(index, position): (&u32, &usize)| (*index, Who::from(&placements[*position]));
        self.workloads.renew(meaning.workloads.iter().map(who), now);
        let net = |(number, set): (&u32, &Arc<NetSet>)| {
            (*number, Set { set: Arc::clone(set), policies: versions(&set.key.policies, policies) })
        };
        self.net_sets.renew(meaning.net_sets.iter().map(net), now);
        let sys = |(number, set): (&u32, &Arc<SysSet>)| {
            (*number, Set { set: Arc::clone(set), policies: versions(&set.key.policies, policies) })
        };
        self.sys_sets.renew(meaning.sys_sets.iter().map(sys), now);
        let access = |(number, set): (&u32, &Arc<AccessSet>)| {
            (*number, Set { set: Arc::clone(set), policies: versions(&set.key.policies, policies) })
        };
        self.access_sets.renew(meaning.access_sets.iter().map(access), now);
        let paths: HashMap<u64, &String> = cgroups.iter().map(|cgroup| (cgroup.id, &cgroup.path)).collect();
        let used = meaning.workloads.values().flat_map(|position| &placements[*position].cgroups);
        self.cgroups.renew(used.filter_map(|id| Some((*id, (*paths.get(id)?).clone()))), now);
        self.hooks = mechanisms.hooks.iter().map(|(hook, mechanism)| (*hook as u32, *mechanism)).collect();
    }

    /// Whose a count is.
    #[must_use]
    pub fn who(&self, key: &CounterKey) -> Option<Who> {
        self.workloads.get(&key.workload).cloned().or_else(|| {
            let name = self.names.workloads.get(&key.workload)?;
            Some(Who {
                namespace: name.namespace.clone(),
                workload: name.owner.clone(),
                pod: None,
                container: name.container.clone(),
            })
        })
    }

    /// Which rule it is for.
    #[must_use]
    pub fn rule(&self, key: &CounterKey) -> Option<Rule> {
        let number = usize::from(key.rule);
        if key.kind < 2 {
            if let Some(known) = self.net_sets.get(&key.set) {
                let rule = known.set.rules.get(number)?;
                return Some(rule_of(rule, &known.set.key.policies, &known.policies, Asked::Deny));
            }
        } else if key.kind == abi::kind::SYSCALL {
            if let Some(known) = self.sys_sets.get(&key.set) {
                let rule = known.set.rules.get(number)?;
                let asked = asked(rule.action);
                return Some(rule_of(&rule.rule, &known.set.key.policies, &known.policies, asked));
            }
        } else if let Some(known) = self.access_sets.get(&key.set) {
            let rule = known.set.rules.get(number)?;
            let asked = asked(rule.action);
            return Some(rule_of(&rule.rule, &known.set.key.policies, &known.policies, asked));
        }
        let (policy, path) = self.names.sets(key.kind).get(&key.set)?.get(number)?.split_once(' ')?;
        Some(Rule {
            policy: None,
            policy_name: policy.to_owned(),
            policy_uid: None,
            generation: None,
            path: path.to_owned(),
            asked: None,
        })
    }

    /// Whether workload and set are in force.
    #[must_use]
    pub fn is_live(&self, key: &CounterKey) -> bool {
        let set = match key.kind {
            0 | 1 => self.net_sets.is_live(&key.set),
            abi::kind::SYSCALL => self.sys_sets.is_live(&key.set),
            _ => self.access_sets.is_live(&key.set),
        };
        set && self.workloads.is_live(&key.workload)
    }

    /// The path of a cgroup.
    #[must_use]
    pub fn cgroup(&self, id: u64) -> Option<&String> {
        self.cgroups.get(&id)
    }

    /// How a hook is reached on this kernel.
    #[must_use]
    pub fn mechanism(&self, hook: u8) -> Option<Mechanism> {
        self.hooks.get(&u32::from(hook)).copied()
    }
}

impl From<&Placement> for Who {
    fn from(placement: &Placement) -> Self {
        let workload = &placement.workload;
        Self {
            namespace: workload.namespace.clone(),
            workload: owner_label(placement),
            pod: placement.pod.then(|| EventPod { name: workload.name.clone(), uid: workload.uid.clone() }),
            container: workload.container.clone(),
        }
    }
}

fn asked(action: Action) -> Asked {
    match action {
        Action::Allow => Asked::Allow,
        Action::Audit => Asked::Audit,
        Action::Deny => Asked::Deny,
        Action::Kill => Asked::Kill,
    }
}

fn versions(keys: &[PolicyKey], policies: &HashMap<PolicyId, Policy>) -> HashMap<PolicyId, Version> {
    keys.iter()
        .filter_map(|key| {
            let policy = policies.get(&key.id)?;
            Some((key.id.clone(), Version { generation: policy.generation, mode: policy.mode }))
        })
        .collect()
}

/// In mode Audit every rule asks for an audit, as status says too.
fn rule_of(rule: &RuleRef, keys: &[PolicyKey], versions: &HashMap<PolicyId, Version>, asked: Asked) -> Rule {
    let version = versions.get(&rule.policy);
    let audit = version.is_some_and(|version| version.mode == Mode::Audit);
    Rule {
        policy_name: rule.policy.to_string(),
        policy_uid: keys.iter().find(|key| key.id == rule.policy).map(|key| key.uid.clone()),
        policy: Some(rule.policy.clone()),
        generation: version.map(|version| version.generation),
        path: rule.path.to_string(),
        asked: Some(if audit { Asked::Audit } else { asked }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_gone_is_known_for_a_while_and_then_forgotten() {
        let mut rows = Aging::default();
        let begin = Instant::now();
        rows.renew([(1, "a"), (2, "b")].into_iter(), begin);
        rows.renew([(2, "c")].into_iter(), begin + Duration::from_secs(1));
        assert_eq!((rows.get(&1), rows.is_live(&1)), (Some(&"a"), false));
        assert_eq!((rows.get(&2), rows.is_live(&2)), (Some(&"c"), true));
        rows.renew([(2, "c")].into_iter(), begin + Duration::from_secs(1) + KEEP);
        assert_eq!(rows.get(&1), None);
    }
}
