//! What each policy came to on this node: the generation in force, how many workloads it concerns, and every rule that is
//! given less than it asks.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use holdfast_policy::compile::Compiled;
use holdfast_policy::model::{Action, Mode, NetScope, Policy, PolicyId, RulePath};
use holdfast_policy::syscalls::hooks::Hook;

use crate::lower::access;
use crate::lower::syscalls::{self as sys, Given};
use crate::mechanisms::Mechanisms;
use crate::workloads::Placement;

/// A policy on this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyReport {
    /// Which.
    pub id: PolicyId,
    /// UID of the version in force, or of the wanted one where none is.
    pub uid: String,
    /// The generation in force; `None` = none is.
    pub generation: Option<i64>,
    /// The generation that the source has.
    pub wanted: i64,
    /// Why the wanted generation is not in force.
    pub failure: Option<String>,
    /// How many workloads (pods or external ones) here it selects.
    pub workloads: usize,
    /// Its rules with what they are given, those that get what they ask included.
    pub rules: Vec<RuleReport>,
}

/// The row for what isolation has to refuse beside packets.
pub const PACKET_SOCKETS: &str = "network (AF_PACKET sockets)";

/// A rule on this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleReport {
    /// Its path in the policy, such as `syscalls.rules[0]`.
    pub rule: String,
    /// `network`, `syscall`, `process`, `file` or `capability`.
    pub kind: &'static str,
    /// What it asks.
    pub asked: String,
    /// What it is given.
    pub given: String,
    /// How.
    pub mechanism: Option<&'static str>,
    /// Why it is given less, as one word.
    pub reason: Option<&'static str>,
    /// Details for people: the calls that are given less.
    pub message: Option<String>,
}

impl RuleReport {
    /// Whether it gets less than it asks.
    #[must_use]
    pub fn falls_short(&self) -> bool {
        self.reason.is_some()
    }
}

/// What a report is made of.
pub(super) struct Input<'a> {
    pub(super) wanted: &'a [Policy],
    pub(super) in_force: &'a HashMap<PolicyId, Policy>,
    pub(super) failures: &'a BTreeMap<PolicyId, String>,
    pub(super) compiled: &'a Compiled,
    pub(super) placements: &'a [Placement],
    pub(super) mechanisms: &'a Mechanisms,
    /// Places of workloads whose root is no overlayfs.
    pub(super) other_roots: &'a HashSet<usize>,
}

pub(super) fn policies(input: &Input<'_>) -> Vec<PolicyReport> {
    let mut workloads: HashMap<&PolicyId, BTreeSet<&str>> = HashMap::new();
    let mut rules: HashMap<PolicyId, BTreeMap<String, RuleReport>> = HashMap::new();
    // Policies that select something in the host's own network namespace.
    let mut on_host: HashSet<&PolicyId> = HashSet::new();
    for (placement, assignment) in input.placements.iter().zip(&input.compiled.assignments) {
        for set in assignment.net_set.iter().map(|i| &input.compiled.net_sets[*i]) {
            for key in &set.key.policies {
                workloads.entry(&key.id).or_default().insert(&placement.workload.uid);
                if placement.workload.net != NetScope::Own {
                    on_host.insert(&key.id);
                }
            }
        }
        for set in assignment.sys_set.iter().map(|i| &input.compiled.sys_sets[*i]) {
            for key in &set.key.policies {
                workloads.entry(&key.id).or_default().insert(&placement.workload.uid);
            }
        }
    }
    access_rules(input, &mut workloads, &mut rules);
    for set in &input.compiled.sys_sets {
        for (rule, given) in set.rules.iter().zip(sys::given(set, input.mechanisms)) {
            let mode = set.policies.get(usize::from(rule.policy)).map_or(Mode::Enforce, |policy| policy.mode);
            let row = syscall_row(rule.rule.path.to_string(), rule.action, mode, &given);
            rules.entry(rule.rule.policy.clone()).or_default().insert(row.rule.clone(), row);
        }
    }
    for set in &input.compiled.net_sets {
        for rule in &set.rules {
            let path = rule.path.to_string();
            let Some(policy) = input.in_force.get(&rule.policy) else { continue };
            let rows = rules.entry(rule.policy.clone()).or_default();
            if policy.mode == Mode::Enforce && matches!(rule.path, RulePath::Default(_)) {
                rows.entry(PACKET_SOCKETS.to_owned())
                    .or_insert_with(|| packet_sockets(input.mechanisms, on_host.contains(&rule.policy)));
            }
            rows.entry(path.clone()).or_insert_with(|| network_row(path, policy));
        }
    }
    input
        .wanted
        .iter()
        .map(|policy| {
            let good = input.in_force.get(&policy.id);
            PolicyReport {
                id: policy.id.clone(),
                uid: good.map_or_else(|| policy.uid.clone(), |good| good.uid.clone()),
                generation: good.map(|good| good.generation),
                wanted: policy.generation,
                failure: input.failures.get(&policy.id).cloned(),
                workloads: workloads.get(&policy.id).map_or(0, BTreeSet::len),
                rules: rules.remove(&policy.id).unwrap_or_default().into_values().collect(),
            }
        })
        .collect()
}

/// Rules on executables, files and capabilities.
fn access_rules<'a>(
    input: &Input<'a>,
    workloads: &mut HashMap<&'a PolicyId, BTreeSet<&'a str>>,
    rules: &mut HashMap<PolicyId, BTreeMap<String, RuleReport>>,
) {
    // Policies that concern something whose image cannot be told, and why not.
    let mut imageless: HashMap<&PolicyId, (&'static str, &str)> = HashMap::new();
    for (place, (placement, assignment)) in
        input.placements.iter().zip(&input.compiled.assignments).enumerate()
    {
        for set in assignment.access_set.iter().map(|i| &input.compiled.access_sets[*i]) {
            for key in &set.key.policies {
                workloads.entry(&key.id).or_default().insert(&placement.workload.uid);
                if !placement.pod {
                    imageless.insert(&key.id, ("NoImage", "hosts and their services are made from no image"));
                } else if input.other_roots.contains(&place) {
                    let why = "the root of a container is no overlayfs: what was in its image cannot be told";
                    imageless.entry(&key.id).or_insert(("NoOverlayRoot", why));
                }
            }
        }
    }
    for set in &input.compiled.access_sets {
        for (rule, given) in set.rules.iter().zip(access::given(set, input.in_force, input.mechanisms)) {
            let id = &rule.rule.policy;
            let mut row = RuleReport {
                rule: rule.rule.path.to_string(),
                kind: match rule.rule.path {
                    RulePath::File(_) => "file",
                    RulePath::Capability(_) => "capability",
                    _ => "process",
                },
                asked: if set.mode(rule) == Mode::Audit { "Audit" } else { sys::asked(rule.action) }
                    .to_owned(),
                given: given.given.name().to_owned(),
                mechanism: given.mechanism.map(crate::mechanisms::Mechanism::name),
                reason: given.reason,
                message: given.message,
            };
            let policy = input.in_force.get(id);
            if row.reason.is_none()
                && let Some((reason, message)) = imageless.get(id)
                && policy.is_some_and(|policy| access::is_about_the_image(rule.rule.path, policy))
            {
                Given::NotCovered.name().clone_into(&mut row.given);
                row.mechanism = None;
                row.reason = Some(reason);
                row.message = Some((*message).to_owned());
            }
            rules.entry(id.clone()).or_default().insert(row.rule.clone(), row);
        }
    }
}

fn syscall_row(rule: String, action: Action, mode: Mode, given: &sys::RuleGiven) -> RuleReport {
    let asked = if mode == Mode::Audit { "Audit" } else { sys::asked(action) };
    let calls: Vec<&str> = given.calls.iter().map(String::as_str).collect();
    let message = (!calls.is_empty()).then(|| format!("less than asked for: {}", calls.join(", ")));
    RuleReport {
        rule,
        kind: "syscall",
        asked: asked.to_owned(),
        given: given.given.name().to_owned(),
        mechanism: given.mechanism.map(crate::mechanisms::Mechanism::name),
        reason: if given.given == Given::NotApplicable { Some("NoSuchCall") } else { given.reason },
        message,
    }
}

/// Network rules are enforced on every kernel that the programs load on.
fn network_row(rule: String, policy: &Policy) -> RuleReport {
    let verdict = if policy.mode == Mode::Audit { "Audit" } else { "Deny" };
    let allows = rule.contains(".allow[");
    let asked = if allows { "Allow" } else { verdict };
    RuleReport {
        rule,
        kind: "network",
        asked: asked.to_owned(),
        given: asked.to_owned(),
        mechanism: Some("cgroup_skb"),
        reason: None,
        message: None,
    }
}

/// Packet sockets pass by the cgroup programs: only a hook can refuse them, and it leaves those of the host's own network
/// namespace alone, which see the whole node's traffic by their nature.
fn packet_sockets(mechanisms: &Mechanisms, on_host: bool) -> RuleReport {
    let mechanism = mechanisms.hooks.get(&Hook::SocketCreate);
    let (given, reason, message) = match (mechanism, on_host) {
        (None, _) => (
            "NotCovered",
            Some("NoLsmAndNoFmodRet"),
            Some(
                "AF_PACKET sockets pass by the network rules on this kernel: take the capability NET_RAW from the workload",
            ),
        ),
        (Some(_), true) => (
            "NotCovered",
            Some("HostNetwork"),
            Some(
                "AF_PACKET sockets in the host's network namespace are not refused: take NET_RAW from the workload",
            ),
        ),
        (Some(_), false) => ("Deny", None, None),
    };
    RuleReport {
        rule: PACKET_SOCKETS.to_owned(),
        kind: "network",
        asked: "Deny".to_owned(),
        given: given.to_owned(),
        mechanism: mechanism.map(|mechanism| mechanism.name()),
        reason,
        message: message.map(str::to_owned),
    }
}
