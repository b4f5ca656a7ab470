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
use crate::facts::report::PolicyRow;
use crate::index::Index;

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
    let count = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
    status.workloads = Some(selected.workloads);
    status.nodes =
        Some(NodeCounts { selected: count(selected.nodes.len()), programmed: count(survey.programmed) });
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
    degraded(&mut conditions, policy, &selected, &survey);
    status.conditions = conditions.done();
    status.weakest = survey.weakest;
    status
}

fn degraded(conditions: &mut Conditions<'_>, policy: &PolicyFacts, selected: &Selected, survey: &Survey) {
    let missing: Vec<&str> = policy
        .containers
        .iter()
        .filter(|container| !selected.containers.contains(*container))
        .map(String::as_str)
        .collect();
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
}

fn survey(index: &Index, id: &PolicyId, policy: &PolicyFacts, selected: &Selected) -> Survey {
    let mut survey = Survey::default();
    let mut weak = Vec::new();
    for node in &selected.nodes {
        let report = match index.report(node) {
            Ok(report) => report,
            Err(reason) => {
                survey.lags(Progress::Unreported, node, reason.describe());
                continue;
            }
        };
        let row = report.policies.get(&policy.uid).filter(|row| row.generation == policy.generation);
        match row {
            Some(row) if row.state == PolicyState::Programmed => {
                survey.programmed += 1;
                for rule in &row.rules {
                    let weakness = weakness(rule.asked, rule.given);
                    if weakness > 0 {
                        weak.push((std::cmp::Reverse(weakness), &rule.rule, node, rule));
                    }
                }
            }
            row if report.refused.contains(id) || row.is_some_and(PolicyRow::failed) => {
                if is_older(&report.agent_version) {
                    let why = format!("agent {} is too old", report.agent_version);
                    survey.lags(Progress::TooOld, node, &why);
                } else {
                    let why = row.and_then(|row| row.message.as_deref());
                    survey.lags(Progress::Failed, node, why.unwrap_or("the agent refuses the policy"));
                }
            }
            Some(_) | None => survey.lags(Progress::Pending, node, "not in its kernel yet"),
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
