//! How far the rule that decides is in force on the nodes of the workload that it decides about, from what their agents
//! report; or, where no report can be read, from the policy's status.

use std::collections::BTreeMap;
use std::fmt;

use holdfast_policy::model::{Action, Policy, RulePath, RuleRef};
use holdfast_policy::syscalls::hooks::hooks;
use serde::Serialize;

use super::scene::{Scene, Subject};
use crate::policy_status::PolicyStatus;
use crate::workload_node::{Given, MechanismState, PolicyReport, PolicyState, WorkloadNodeStatus};

/// The nodes that a line names at most.
const NAMED: usize = 5;
/// What enforces network rules, on every kernel.
const PACKETS: &str = "cgroup_skb";

/// A rule on one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OnNode {
    /// The node.
    pub node: String,
    /// How far it is in force there.
    #[serde(flatten)]
    pub state: State,
}

/// How far a rule is in force on a node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(tag = "state")]
pub enum State {
    /// As asked.
    InForce {
        /// By which mechanism of the kernel.
        #[serde(skip_serializing_if = "Option::is_none")]
        mechanism: Option<String>,
    },
    /// The node gives it less, or otherwise, than asked.
    Weaker {
        /// What it gives.
        given: Given,
        /// By which mechanism.
        #[serde(skip_serializing_if = "Option::is_none")]
        mechanism: Option<String>,
        /// Why, in one word.
        reason: String,
    },
    /// The policy's present generation is not in force.
    NotInForce {
        /// Why, and what is in force instead.
        why: String,
    },
}

impl OnNode {
    /// Whether the node does what the rule asks.
    #[must_use]
    pub fn is_as_asked(&self) -> bool {
        matches!(self.state, State::InForce { .. })
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let by = |mechanism: &Option<String>| {
            mechanism.as_ref().map(|mechanism| format!(" by {mechanism}")).unwrap_or_default()
        };
        match self {
            Self::InForce { mechanism } => write!(f, "in force{}", by(mechanism)),
            Self::Weaker { given, mechanism, reason } => {
                write!(f, "given {given:?}{} ({reason})", by(mechanism))
            }
            Self::NotInForce { why } => write!(f, "not in force: {why}"),
        }
    }
}

/// What was decided.
#[derive(Clone, Copy)]
pub(super) struct Decided<'a> {
    pub(super) action: Action,
    pub(super) matter: Matter<'a>,
}

/// What it was about.
#[derive(Clone, Copy)]
pub(super) enum Matter<'a> {
    Packet,
    /// A system call of this name.
    Call(&'a str),
    /// An executable, a file or a capability.
    Access,
}

/// How far `rule` is in force where `subject` runs.
pub(super) fn of(
    scene: &Scene,
    subject: &Subject,
    rule: Option<&RuleRef>,
    decided: Decided<'_>,
) -> (Vec<OnNode>, Option<String>) {
    let Some(rule) = rule else { return (Vec::new(), None) };
    let Some(policy) = scene.policies.iter().find(|policy| policy.id == rule.policy) else {
        return (Vec::new(), None);
    };
    if scene.reports.is_empty() {
        let status = scene.statuses.get(&rule.policy);
        return (Vec::new(), status.and_then(|status| by_status(status, policy, rule.path)));
    }
    let on = |node: &String| {
        let report = scene.reports.get(node).and_then(|object| object.status.as_ref());
        OnNode { node: node.clone(), state: state(report, policy, rule.path, decided) }
    };
    (subject.nodes.iter().map(on).collect(), None)
}

fn state(
    report: Option<&WorkloadNodeStatus>,
    policy: &Policy,
    path: RulePath,
    decided: Decided<'_>,
) -> State {
    let lacking = |why: &str| State::NotInForce { why: why.to_owned() };
    let Some(report) = report else { return lacking("no agent reports of this node") };
    let Some(row) = row(report, policy) else {
        return lacking(if report.omitted > 0 {
            "unknown, as the node's report has no room for every policy"
        } else {
            "the agent has not reported the policy"
        });
    };
    // Documents in files carry no generation.
    let current = policy.generation == 0 || row.generation == policy.generation;
    if row.state != PolicyState::Programmed || !current {
        let what = match row.state {
            PolicyState::Programmed => "Pending".to_owned(),
            state => format!("{state:?}"),
        };
        let message = row.message.as_ref().map(|message| format!(" ({message})")).unwrap_or_default();
        let instead = match (row.state, row.in_force) {
            (PolicyState::Programmed, _) => format!("; generation {} is in force", row.generation),
            (_, Some(generation)) => format!("; generation {generation} is in force"),
            (_, None) => String::new(),
        };
        return State::NotInForce { why: format!("{what}{message}{instead}") };
    }
    let path = path.to_string();
    match row.rules.iter().find(|rule| rule.rule == path) {
        Some(rule) => State::Weaker {
            given: rule.given,
            mechanism: rule.mechanism.clone(),
            reason: rule.reason.clone(),
        },
        None if row.omitted > 0 => {
            State::NotInForce { why: "unknown, as the node's report has no room for every rule".to_owned() }
        }
        None => State::InForce { mechanism: mechanism(report, decided) },
    }
}

fn row<'a>(report: &'a WorkloadNodeStatus, policy: &Policy) -> Option<&'a PolicyReport> {
    report.policies.iter().find(|row| {
        let same_name = row.namespace == policy.id.namespace && row.name == policy.id.name;
        same_name && (policy.uid.is_empty() || row.uid == policy.uid)
    })
}

/// What a rule that gets all it asks is enforced by: the first mechanism that the node has for it.
fn mechanism(report: &WorkloadNodeStatus, decided: Decided<'_>) -> Option<String> {
    if matches!(decided.matter, Matter::Packet) {
        return Some(PACKETS.to_owned());
    }
    if decided.action == Action::Allow {
        return None;
    }
    let has = |name: &&str| {
        let found = report.mechanisms.iter().find(|mechanism| mechanism.name == *name);
        found.is_some_and(|mechanism| mechanism.state == MechanismState::Available)
    };
    let by_hook = &["lsm", "fmod_ret"][..];
    let (by_hook, at_entry) = match decided.matter {
        Matter::Call(call) if hooks(call).is_empty() => (&[][..], &["sys_enter"][..]),
        Matter::Call(_) => (by_hook, &["sys_enter"][..]),
        Matter::Access | Matter::Packet => (by_hook, &[][..]),
    };
    by_hook.iter().chain(at_entry).find(|name| has(name)).map(|name| (*name).to_owned())
}

/// What the operator counted, for who may not read the nodes' reports.
fn by_status(status: &PolicyStatus, policy: &Policy, path: RulePath) -> Option<String> {
    let nodes = status.nodes?;
    if policy.generation != 0 && status.observed_generation != Some(policy.generation) {
        return Some("the policy's status is about an earlier generation".to_owned());
    }
    let path = path.to_string();
    let weaker: Vec<String> = status
        .weakest
        .iter()
        .filter(|rule| rule.rule == path)
        .map(|rule| format!("given {:?} on {} ({})", rule.given, rule.node, rule.reason))
        .collect();
    let weaker = if weaker.is_empty() { String::new() } else { format!("; {}", weaker.join(", ")) };
    Some(format!("the policy is in force on {} of its {} nodes{weaker}", nodes.programmed, nodes.selected))
}

/// One line for all nodes that are alike.
pub(super) fn lines(nodes: &[OnNode]) -> Vec<String> {
    let mut alike: BTreeMap<&State, Vec<&str>> = BTreeMap::new();
    for on in nodes {
        alike.entry(&on.state).or_default().push(&on.node);
    }
    alike
        .into_iter()
        .map(|(state, names)| {
            let more = names.len().saturating_sub(NAMED);
            let shown = names[..names.len() - more].join(", ");
            let more = if more == 0 { String::new() } else { format!(" and {more} more") };
            format!("    on {shown}{more}: {state}")
        })
        .collect()
}
