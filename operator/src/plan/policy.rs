//! A policy's status: counted from the pods that should be covered, held against what agents report.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use holdfast_crds::policy_status::{NodeCounts, PolicyStatus, WeakRule};
use holdfast_crds::schema::RELEASE;
use holdfast_crds::workload_node::{Asked, Given, PolicyState};
use holdfast_policy::model::{NamespaceTarget, PolicyId, Target};
use k8s_openapi::jiff::Timestamp;
use semver::Version;

use super::conditions::{Conditions, Truth};
use crate::facts::PolicyFacts;
use crate::facts::report::{PolicyRow, Proof, Report};
use crate::index::{Index, NoReport};

mod enforced;

use enforced::{Lack, Lacking};

/// At most so many rules are listed as weakest.
const WEAKEST: usize = 10;
/// At most so many nodes are named in a message.
const NAMED_NODES: usize = 3;

/// The reason for what only a newer agent can do.
const AGENT_TOO_OLD: &str = "AgentTooOld";

/// How far a policy got on one node.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Progress {
    /// The agent could not take it, and is older than the operator.
    TooOld,
    /// The kernel refused it, or the agent could not make sense of it.
    Failed,
    /// No agent says anything of the node that still counts.
    Unreported,
    /// The agent has not got that far.
    Pending,
}

/// The pods that a policy selects.
#[derive(Debug, Default)]
struct Selected {
    nodes: BTreeSet<Arc<str>>,
    workloads: i64,
    containers: BTreeSet<String>,
}

fn select(index: &Index, target: &Target) -> Selected {
    let mut selected = Selected::default();
    let mut look_into = |namespace: &str| {
        for (shape, uses) in index.pods().shapes_of(namespace) {
            if uses.nodes.is_empty() || !target.pods.matches(&shape.identity.labels) {
                continue;
            }
            selected.containers.extend(shape.containers.iter().cloned());
            for (node, count) in &uses.nodes {
                selected.workloads += i64::from(*count);
                if !selected.nodes.contains(node) {
                    selected.nodes.insert(node.clone());
                }
            }
        }
    };
    match &target.namespaces {
        NamespaceTarget::One(namespace) => look_into(namespace),
        NamespaceTarget::Matching(_) => {
            for namespace in index.pods().namespaces() {
                if target.covers_namespace(index.world(), namespace) {
                    look_into(namespace);
                }
            }
        }
    }
    selected
}

/// How much weaker than asked; larger is weaker, 0 is not at all.
fn weakness(asked: Asked, given: Given) -> u8 {
    match (asked, given) {
        (Asked::Allow, _)
        | (_, Given::DenyAndKill)
        | (Asked::Deny, Given::Deny)
        | (Asked::Audit, Given::Audit) => 0,
        // The node does not have the call, so nothing is left undone; said all the same.
        (_, Given::NotApplicable) => 1,
        (Asked::Kill | Asked::Audit, Given::Deny) => 2,
        (_, Given::KillAfterEffect) => 3,
        (_, Given::Audit) => 4,
        (_, Given::NotCovered) => 5,
    }
}

/// Whether an agent is of an older minor version than this operator, and so may not know every field of a policy.
fn is_older(agent_version: &str) -> bool {
    let parse = |text: &str| Version::parse(text).ok().map(|version| (version.major, version.minor));
    matches!((parse(agent_version), parse(RELEASE)), (Some(agent), Some(own)) if agent < own)
}

/// The status of a policy now.
#[must_use]
pub fn status(index: &Index, id: &PolicyId, policy: &PolicyFacts, now: Timestamp) -> PolicyStatus {
    let mut conditions = Conditions::new(&policy.status.conditions, policy.generation, now);
    let mut status = PolicyStatus { observed_generation: Some(policy.generation), ..PolicyStatus::default() };
    let target = match &policy.target {
        Ok(target) => target,
        Err(refused) => {
            conditions.add("Accepted", Truth::False, refused.reason, limited(&refused.message));
            let message = "the policy is not accepted; where an earlier generation was in force, it still is";
            conditions.add("Programmed", Truth::False, "NotAccepted", message);
            conditions.add(
                "Enforced",
                Truth::False,
                "NotAccepted",
                "the policy is not accepted; see Accepted",
            );
            conditions.add(
                "Degraded",
                Truth::Unknown,
                "NotAccepted",
                "the policy is not accepted; see Accepted",
            );
            status.conditions = conditions.done();
            return status;
        }
    };
    conditions.add("Accepted", Truth::True, "Accepted", "the policy is understood");
    let selected = select(index, target);
    let survey = survey(index, id, policy, &selected);
    // What keeps the whole policy from being enforced keeps it so on each node.
    let enforced = !policy.audit && missing_containers(policy, &selected).is_empty();
    let count = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
    status.workloads = Some(selected.workloads);
    status.nodes = Some(NodeCounts {
        selected: count(selected.nodes.len()),
        programmed: count(survey.programmed),
        enforced: if enforced { count(survey.enforced) } else { 0 },
        unknown: count(survey.unknown()),
    });
    if selected.nodes.is_empty() {
        conditions.add("Programmed", Truth::Unknown, "NoWorkloads", "no running pod is selected");
    } else if let Some((worst, _)) = survey.behind.first_key_value() {
        let reason = match worst {
            Progress::TooOld => AGENT_TOO_OLD,
            Progress::Failed => "Failed",
            Progress::Unreported => "NoAgent",
            Progress::Pending => "Pending",
        };
        conditions.add("Programmed", Truth::False, reason, survey.describe(selected.nodes.len()));
    } else {
        conditions.add("Programmed", Truth::True, "Programmed", survey.describe(selected.nodes.len()));
    }
    enforced::add(&mut conditions, policy, &selected, &survey.lacking);
    degraded(&mut conditions, policy, &selected, &survey);
    status.conditions = conditions.done();
    status.weakest = survey.weakest;
    status
}

/// The containers that the policy names and no selected pod has.
fn missing_containers<'a>(policy: &'a PolicyFacts, selected: &Selected) -> Vec<&'a str> {
    let is_missing = |container: &&String| !selected.containers.contains(*container);
    policy.containers.iter().filter(is_missing).map(String::as_str).collect()
}

fn degraded(conditions: &mut Conditions<'_>, policy: &PolicyFacts, selected: &Selected, survey: &Survey) {
    let missing = missing_containers(policy, selected);
    if selected.nodes.is_empty() {
        conditions.add("Degraded", Truth::Unknown, "NoWorkloads", "no running pod is selected");
    } else if !missing.is_empty() {
        let message = format!("spec.containers: no selected pod has a container {}", missing.join(", "));
        conditions.add("Degraded", Truth::True, "ContainerNotFound", message);
    } else if let Some(old) = survey.behind.get(&Progress::TooOld) {
        let message = format!(
            "on {} of {} nodes the agent is older than {RELEASE} and could not take this generation",
            old.len(),
            selected.nodes.len()
        );
        conditions.add("Degraded", Truth::True, AGENT_TOO_OLD, message);
    } else if survey.weaker > 0 {
        let message = survey.describe_weaker();
        conditions.add("Degraded", Truth::True, "RulesWeaker", message);
    } else if survey.programmed == 0 {
        conditions.add(
            "Degraded",
            Truth::Unknown,
            "NotProgrammed",
            "no node has it in force; see Programmed",
        );
    } else {
        conditions.add("Degraded", Truth::False, "AsAsked", "every rule does what it asks for");
    }
}

/// What the selected nodes say of a policy.
#[derive(Debug, Default)]
struct Survey {
    programmed: usize,
    /// Nodes that are behind, and why.
    behind: BTreeMap<Progress, Vec<(Arc<str>, String)>>,
    weakest: Vec<WeakRule>,
    /// Distinct rules that some node honours less than asked.
    weaker: usize,
    /// Nodes on which every rule is given what it asks, and that was proven.
    enforced: usize,
    /// The other nodes, and why.
    lacking: Lacking,
}

/// Why a node that has the policy in its kernel does not count as enforcing it.
fn lack(index: &Index, node: &str, report: &Report, row: &PolicyRow) -> Option<(Lack, String)> {
    let weak = row.rules.iter().find(|rule| weakness(rule.asked, rule.given) > 1);
    if let Some(rule) = weak {
        let why = format!("{} asked {:?}, given {:?} ({})", rule.rule, rule.asked, rule.given, rule.reason);
        return Some((Lack::RulesWeaker, why));
    }
    match &report.proof {
        Proof::Failed(why) => Some((Lack::NotProven, why.clone())),
        Proof::Pending => Some((Lack::NotProven, "its last change is not proven yet".to_owned())),
        Proof::Holds if !index.is_proven(node) => {
            Some((Lack::NotProven, "its last proof is older than three minutes".to_owned()))
        }
        Proof::Holds => None,
    }
}

fn survey(index: &Index, id: &PolicyId, policy: &PolicyFacts, selected: &Selected) -> Survey {
    let mut survey = Survey::default();
    let mut weak = Vec::new();
    for node in &selected.nodes {
        let report = match index.report(node) {
            Ok(report) => report,
            Err(reason) => {
                survey.lags(Progress::Unreported, node, reason.describe());
                let lack = match reason {
                    NoReport::NoNode | NoReport::NoAgent => Lack::NoAgent,
                    NoReport::Stale | NoReport::OtherBoot => Lack::NotReporting,
                };
                survey.lacks(lack, node, reason.describe());
                continue;
            }
        };
        let row = report.policies.get(&policy.uid).filter(|row| row.generation == policy.generation);
        match row {
            Some(row) if row.state == PolicyState::Programmed => {
                survey.programmed += 1;
                match lack(index, node, report, row) {
                    Some((lack, why)) => survey.lacks(lack, node, &why),
                    None => survey.enforced += 1,
                }
                for rule in &row.rules {
                    let weakness = weakness(rule.asked, rule.given);
                    if weakness > 0 {
                        weak.push((std::cmp::Reverse(weakness), &rule.rule, node, rule));
                    }
                }
            }
            row if report.refused.contains(id) || row.is_some_and(PolicyRow::failed) => {
                survey.lacks(Lack::NotProgrammed, node, "it does not have this generation in force");
                if is_older(&report.agent_version) {
                    let why = format!("agent {} is too old", report.agent_version);
                    survey.lags(Progress::TooOld, node, &why);
                } else {
                    let why = row.and_then(|row| row.message.as_deref());
                    survey.lags(Progress::Failed, node, why.unwrap_or("the agent refuses the policy"));
                }
            }
            Some(_) | None => {
                survey.lags(Progress::Pending, node, "not in its kernel yet");
                survey.lacks(Lack::NotProgrammed, node, "not in its kernel yet");
            }
        }
    }
    weak.sort_by(|a, b| (a.0, a.1, a.2).cmp(&(b.0, b.1, b.2)));
    let weaker: BTreeSet<&str> =
        weak.iter().filter(|(weakness, ..)| weakness.0 > 1).map(|(_, rule, ..)| rule.as_str()).collect();
    survey.weaker = weaker.len();
    survey.weakest = weak
        .into_iter()
        .take(WEAKEST)
        .map(|(_, _, node, row)| WeakRule {
            node: node.to_string(),
            rule: row.rule.clone(),
            asked: row.asked,
            given: row.given,
            reason: row.reason.clone(),
        })
        .collect();
    survey
}

impl Survey {
    fn lags(&mut self, progress: Progress, node: &Arc<str>, why: &str) {
        self.behind.entry(progress).or_default().push((node.clone(), why.to_owned()));
    }

    fn lacks(&mut self, lack: Lack, node: &Arc<str>, why: &str) {
        self.lacking.entry(lack).or_default().push((node.clone(), why.to_owned()));
    }

    fn unknown(&self) -> usize {
        self.lacking.iter().filter(|(lack, _)| lack.is_unknown()).map(|(_, nodes)| nodes.len()).sum()
    }

    /// How many rules do less than they ask for, and what the weakest does where.
    fn describe_weaker(&self) -> String {
        let rules = if self.weaker == 1 { "rule does" } else { "rules do" };
        let mut message = format!("{} {rules} less than asked on some node", self.weaker);
        if let Some(weakest) = self.weakest.first() {
            let WeakRule { node, rule, asked, given, reason } = weakest;
            message =
                format!("{message}; weakest: {rule} on {node}: asked {asked:?}, given {given:?} ({reason})");
        }
        limited(&message)
    }

    fn describe(&self, selected: usize) -> String {
        let mut message = format!("in force on {} of {selected} nodes", self.programmed);
        let behind: Vec<&(Arc<str>, String)> = self.behind.values().flatten().collect();
        for (at, (node, why)) in behind.iter().take(NAMED_NODES).enumerate() {
            message.extend([if at == 0 { "; " } else { ", " }, node, ": ", why]);
        }
        if behind.len() > NAMED_NODES {
            message.extend([" and ", &(behind.len() - NAMED_NODES).to_string(), " more"]);
        }
        limited(&message)
    }
}

/// A message of a length that a condition takes.
fn limited(message: &str) -> String {
    message.chars().take(4096).collect()
}
