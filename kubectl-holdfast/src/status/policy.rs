//! All about one policy: its conditions, its rules with what each is given where, and its nodes.

use std::fmt::Write;

use holdfast_crds::convert;
use holdfast_crds::workload_node::{PolicyReport, PolicyState};
use holdfast_crds::{ClusterWorkloadPolicy, WorkloadNode, WorkloadPolicy};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use serde::Serialize;
use serde_json::Value;

use super::fleet::proven;
use super::policies::{Policy, weak};
use super::rules::{Rule, rules};
use crate::cluster::{self, Cluster, Scope, age};
use crate::error::{ApiError, Failure, Problem};
use crate::table::Table;

/// So many nodes are named in a row.
const NAMED: usize = 3;
/// So many nodes are listed; the rest are counted.
const LISTED: usize = 50;

/// A policy and what it has come to, node by node.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Detail {
    #[serde(flatten)]
    policy: Policy,
    /// Every rule; empty where the policy is not accepted.
    rules: Vec<Rule>,
    /// The nodes that report it.
    reports: Vec<OnNode>,
    left_out: Vec<String>,
}

/// What a node says of the policy.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct OnNode {
    node: String,
    state: PolicyState,
    generation: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    in_force: Option<i64>,
    workloads: i64,
    /// When all on the node was last proven.
    #[serde(skip_serializing_if = "Option::is_none")]
    proven: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
}

/// Finds the policy that `name` means, and reads what nodes say of it.
///
/// # Errors
/// When there is none, or it cannot be read.
pub(crate) async fn read(cluster: &Cluster, name: &str) -> Result<Detail, Failure> {
    let found = find(cluster, name).await?;
    let mut left_out = Vec::new();
    let nodes = match cluster.list(cluster::WORKLOAD_NODES, &Scope::All, "").await {
        Ok(values) => cluster::typed::<WorkloadNode>(values).0,
        Err(error) if error.is_forbidden() => {
            left_out.push("what each node reports (workloadnodes: you may not list them)".to_owned());
            Vec::new()
        }
        Err(error) => return Err(error.into()),
    };
    // Who may not read Leases is told what the reports say, which is written less often.
    let own = Scope::Namespace(cluster.holdfast.clone());
    let leases = match cluster.list(cluster::LEASES, &own, "").await {
        Ok(values) => cluster::typed::<Lease>(values).0,
        Err(error) if error.is_forbidden() => Vec::new(),
        Err(error) => return Err(error.into()),
    };
    detail(&found, &nodes, &leases, left_out)
}

async fn find(cluster: &Cluster, name: &str) -> Result<Value, Failure> {
    let (namespace, name) = match name.split_once('/') {
        Some(("cluster", name)) => {
            return Ok(cluster.object(cluster::CLUSTER_POLICIES, &Scope::All, name).await?);
        }
        Some((namespace, name)) => (namespace, name),
        None => (cluster.namespace.as_str(), name),
    };
    let scope = Scope::Namespace(namespace.to_owned());
    match cluster.object(cluster::WORKLOAD_POLICIES, &scope, name).await {
        Err(ApiError { problem: Problem::NotFound, .. }) => Err(Failure::NotFound(format!(
            "there is no WorkloadPolicy {name} in namespace {namespace}; a ClusterWorkloadPolicy is cluster/{name}"
        ))),
        found => Ok(found?),
    }
}

/// What the policy and the nodes say.
///
/// # Errors
/// When the policy is one that this version cannot read.
pub(crate) fn detail(
    object: &Value,
    nodes: &[WorkloadNode],
    leases: &[Lease],
    left_out: Vec<String>,
) -> Result<Detail, Failure> {
    let of_cluster = object.pointer("/metadata/namespace").is_none();
    let (mut policy, model) = if of_cluster {
        let object: ClusterWorkloadPolicy = serde_json::from_value(object.clone())?;
        let model = convert::cluster_workload_policy(&object).ok();
        (Policy::new(&object.metadata, object.spec.mode, object.status.as_ref()), model)
    } else {
        let object: WorkloadPolicy = serde_json::from_value(object.clone())?;
        let model = convert::workload_policy(&object).ok();
        (Policy::new(&object.metadata, object.spec.mode, object.status.as_ref()), model)
    };
    let uid = object.pointer("/metadata/uid").and_then(Value::as_str).unwrap_or_default();
    let reporting = nodes.iter().filter_map(|node| {
        let status = node.status.as_ref()?;
        let row = status.policies.iter().find(|row| row.uid == uid && row.workloads > 0)?;
        Some((node.name_any(), status, row))
    });
    let rows: Vec<(String, PolicyReport)> =
        reporting.clone().map(|(node, _, row)| (node, row.clone())).collect();
    let rules = model.map(|model| rules(&model, &rows)).unwrap_or_default();
    let mut reports: Vec<OnNode> = reporting
        .map(|(node, status, row)| OnNode {
            state: row.state,
            generation: row.generation,
            in_force: row.in_force,
            workloads: row.workloads,
            proven: proven(status, leases, &node),
            message: row.message.clone(),
            node,
        })
        .collect();
    reports.sort_by_key(|on| (on.state == PolicyState::Programmed, on.node.clone()));
    policy.prove(reports.iter().map(|on| on.proven));
    Ok(Detail { policy, rules, reports, left_out })
}

impl Detail {
    pub(crate) fn text(&self, now: Timestamp) -> String {
        let policy = &self.policy;
        let kind = if policy.namespace.is_some() { "WorkloadPolicy" } else { "ClusterWorkloadPolicy" };
        let mut text = format!("{kind} {}, {:?}, generation {}", policy.id(), policy.mode, policy.generation);
        if let Some(nodes) = policy.nodes {
            let s = if nodes.selected == 1 { "" } else { "s" };
            let _ = write!(text, ": in force on {} of {} node{s}", nodes.programmed, nodes.selected);
        }
        if let Some(workloads) = policy.workloads {
            let _ = write!(text, ", {workloads} workload{}", if workloads == 1 { "" } else { "s" });
        }
        text.push_str("\n\n");
        let mut table = Table::new(&["CONDITION", "STATUS", "SINCE", "REASON", "MESSAGE"]);
        for condition in &policy.conditions {
            let old = condition.observed_generation.is_some_and(|generation| generation != policy.generation);
            let about = if old { " (of an earlier generation)" } else { "" };
            table.row([
                condition.type_.clone(),
                condition.status.clone(),
                age(condition.last_transition_time.0, now),
                condition.reason.clone(),
                format!("{}{about}", condition.message),
            ]);
        }
        if table.is_empty() {
            text.push_str("the operator has not looked at it yet\n");
        } else {
            text.push_str(&table.text(0));
        }
        if !self.rules.is_empty() {
            text.push('\n');
            text.push_str(&self.rule_table());
        }
        if self.reports.is_empty() {
            let weak = weak(std::slice::from_ref(policy));
            if !weak.is_empty() {
                text.push('\n');
                text.push_str(&weak);
            }
        } else {
            text.push('\n');
            text.push_str(&self.node_table(now));
        }
        for left in &self.left_out {
            let _ = write!(text, "\nLeft out: {left}\n");
        }
        text
    }

    fn rule_table(&self) -> String {
        let known = !self.reports.is_empty();
        let mut table = Table::new(if known {
            &["RULE", "ASKED", "GIVEN", "ON", "ABOUT"]
        } else {
            &["RULE", "ASKED", "ABOUT"]
        });
        for rule in &self.rules {
            let asked = format!("{:?}", rule.asked);
            if !known {
                table.row([rule.path.clone(), asked, rule.about.clone()]);
                continue;
            }
            let mut head = Some((rule.path.clone(), asked, rule.about.clone()));
            let mut row = |given: String, on: String, why: String| {
                let (rule, asked, about) = head.take().unwrap_or_default();
                let about =
                    if why.is_empty() || about.is_empty() { about + &why } else { format!("{about}: {why}") };
                table.row([rule, asked, given, on, about]);
            };
            for less in &rule.less {
                let more = less.nodes.len().saturating_sub(NAMED);
                let mut on = less.nodes.iter().take(NAMED).cloned().collect::<Vec<_>>().join(",");
                if more > 0 {
                    let _ = write!(on, " +{more}");
                }
                let by = less.mechanism.as_ref().map(|by| format!(" by {by}")).unwrap_or_default();
                row(format!("{:?}{by}", less.given), on, less.reason.clone());
            }
            if rule.as_asked > 0 || rule.less.is_empty() {
                let on =
                    if rule.as_asked == 1 { "1 node".to_owned() } else { format!("{} nodes", rule.as_asked) };
                row("as asked".to_owned(), on, String::new());
            }
        }
        table.text(0)
    }

    fn node_table(&self, now: Timestamp) -> String {
        let mut table = Table::new(&["NODE", "STATE", "GENERATION", "WORKLOADS", "PROVEN", "MESSAGE"]);
        for on in self.reports.iter().take(LISTED) {
            let instead = on
                .in_force
                .map(|generation| format!("generation {generation} is in force"))
                .unwrap_or_default();
            let message = match &on.message {
                Some(message) if instead.is_empty() => message.clone(),
                Some(message) => format!("{message}; {instead}"),
                None => instead,
            };
            table.row([
                on.node.clone(),
                format!("{:?}", on.state),
                on.generation.to_string(),
                on.workloads.to_string(),
                on.proven.map_or_else(|| "never".to_owned(), |proven| age(proven, now)),
                message,
            ]);
        }
        let mut text = table.text(0);
        let more = self.reports.len().saturating_sub(LISTED);
        if more > 0 {
            let _ = writeln!(text, "and {more} more nodes: -o json has them all");
        }
        text
    }
}
