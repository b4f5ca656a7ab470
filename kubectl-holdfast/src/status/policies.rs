//! The list of policies.

use std::collections::{BTreeMap, HashMap};

use holdfast_crds::conditions;
use holdfast_crds::policy_status::{NodeCounts, PolicyStatus, WeakRule};
use holdfast_crds::workload_policy::Mode;
use holdfast_crds::{ClusterWorkloadPolicy, WorkloadNode, WorkloadPolicy};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use serde::Serialize;

use super::fleet::proven;
use crate::cluster::{Scope, age};
use crate::table::Table;

/// A policy and what it has come to.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Policy {
    /// Absent for a ClusterWorkloadPolicy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) namespace: Option<String>,
    pub(crate) name: String,
    pub(crate) mode: Mode,
    pub(crate) generation: i64,
    /// In one word.
    pub(crate) state: State,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) nodes: Option<NodeCounts>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) workloads: Option<i64>,
    pub(crate) conditions: Vec<Condition>,
    pub(crate) weakest: Vec<WeakRule>,
    /// When what is in force was last proven on every node that reports the policy: the oldest such time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) proven: Option<Timestamp>,
    /// Nodes that report the policy and never proved anything.
    pub(crate) never_proven: usize,
    #[serde(skip)]
    uid: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) created: Option<Timestamp>,
}

/// What a policy has come to. From the worst to the best.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
pub(crate) enum State {
    /// It makes no sense to the cluster.
    NotAccepted,
    /// On some node it is not in force.
    NotInForce,
    /// The operator has not looked at this generation.
    Unobserved,
    /// In force everywhere, but no recent proof held on some node.
    NotProven,
    /// In force everywhere, but some rule is given less than asked.
    Degraded,
    /// It selects nothing that runs.
    NoWorkloads,
    /// In force everywhere, as asked.
    InForce,
}

impl State {
    fn word(self) -> &'static str {
        match self {
            Self::NotAccepted => "not accepted",
            Self::NotInForce => "not in force",
            Self::Unobserved => "unobserved",
            Self::NotProven => "not proven",
            Self::Degraded => "degraded",
            Self::NoWorkloads => "no workloads",
            Self::InForce => "in force",
        }
    }
}

/// All policies, those to look at first.
pub(crate) fn all(
    policies: &[WorkloadPolicy],
    cluster_policies: &[ClusterWorkloadPolicy],
    reports: &[WorkloadNode],
    leases: &[Lease],
    scope: &Scope,
) -> Vec<Policy> {
    let mut proofs: HashMap<&str, Vec<Option<Timestamp>>> = HashMap::new();
    for node in reports {
        let Some(status) = &node.status else { continue };
        let proven = proven(status, leases, &node.name_any());
        for row in status.policies.iter().filter(|row| row.workloads > 0) {
            proofs.entry(&row.uid).or_default().push(proven);
        }
    }
    let namespaced = policies.iter().filter(|policy| match scope {
        Scope::All => true,
        Scope::Namespace(name) => policy.metadata.namespace.as_deref() == Some(name),
    });
    let namespaced =
        namespaced.map(|policy| Policy::new(&policy.metadata, policy.spec.mode, policy.status.as_ref()));
    let cluster = cluster_policies
        .iter()
        .map(|policy| Policy::new(&policy.metadata, policy.spec.mode, policy.status.as_ref()));
    let mut all: Vec<Policy> = namespaced.chain(cluster).collect();
    for policy in &mut all {
        if let Some(proofs) = proofs.get(policy.uid.as_str()) {
            policy.prove(proofs.iter().copied());
        }
    }
    all.sort_by_cached_key(|policy| (policy.state, policy.id()));
    all
}

impl Policy {
    pub(crate) fn new(metadata: &ObjectMeta, mode: Mode, status: Option<&PolicyStatus>) -> Self {
        let status = status.cloned().unwrap_or_default();
        let generation = metadata.generation.unwrap_or_default();
        Self {
            namespace: metadata.namespace.clone(),
            name: metadata.name.clone().unwrap_or_default(),
            mode,
            generation,
            state: state(&status, generation),
            nodes: status.nodes,
            workloads: status.workloads,
            conditions: status.conditions,
            weakest: status.weakest,
            proven: None,
            never_proven: 0,
            uid: metadata.uid.clone().unwrap_or_default(),
            created: metadata.creation_timestamp.as_ref().map(|time| time.0),
        }
    }

    /// Takes in when each node that reports the policy proved what is in force there.
    pub(super) fn prove(&mut self, nodes: impl Iterator<Item = Option<Timestamp>> + Clone) {
        self.never_proven = nodes.clone().filter(Option::is_none).count();
        self.proven = nodes.flatten().min();
    }

    /// How long ago it was last proven everywhere.
    fn last_proven(&self, now: Timestamp) -> String {
        match self.proven {
            _ if self.never_proven > 0 => "never".to_owned(),
            Some(proven) => age(proven, now),
            None => String::new(),
        }
    }

    /// As events and metrics name it.
    pub(crate) fn id(&self) -> String {
        format!("{}/{}", self.namespace.as_deref().unwrap_or("cluster"), self.name)
    }

    /// Why it is not in force as asked.
    fn why(&self) -> String {
        let kind = match self.state {
            State::NotAccepted => "Accepted",
            State::NotInForce => "Programmed",
            State::NotProven => "Enforced",
            State::Degraded => "Degraded",
            State::Unobserved => return "the operator has not looked at this generation yet".to_owned(),
            State::NoWorkloads | State::InForce => return String::new(),
        };
        let said = conditions::get(&self.conditions, kind);
        said.map(|condition| {
            if condition.message.is_empty() {
                condition.reason.clone()
            } else {
                format!("{}: {}", condition.reason, condition.message)
            }
        })
        .unwrap_or_default()
    }
}

fn state(status: &PolicyStatus, generation: i64) -> State {
    let is = |kind: &str, wanted: &str| {
        conditions::get(&status.conditions, kind).is_some_and(|condition| condition.status == wanted)
    };
    if status.observed_generation != Some(generation) {
        State::Unobserved
    } else if is("Accepted", "False") {
        State::NotAccepted
    } else if is("Programmed", "Unknown") {
        State::NoWorkloads
    } else if !is("Programmed", "True") {
        State::NotInForce
    } else if conditions::get(&status.conditions, "Enforced")
        .is_some_and(|enforced| enforced.reason == "NotProven")
    {
        State::NotProven
    } else if is("Degraded", "True") {
        State::Degraded
    } else {
        State::InForce
    }
}

/// Policies as a table.
pub(crate) struct PolicyList<'a>(pub(crate) &'a [Policy]);

impl PolicyList<'_> {
    pub(crate) fn text(&self, wide: bool, now: Timestamp) -> String {
        if self.0.is_empty() {
            return "no policies\n".to_owned();
        }
        let mut heads = vec!["POLICY", "MODE", "STATE", "NODES", "WORKLOADS", "PROVEN", "AGE"];
        if wide {
            heads.extend(["ACCEPTED", "PROGRAMMED", "ENFORCED", "DEGRADED", "GENERATION"]);
        }
        heads.push("WHY");
        let mut table = Table::new(&heads);
        for policy in self.0 {
            let nodes = policy
                .nodes
                .map(|nodes| format!("{}/{}", nodes.programmed, nodes.selected))
                .unwrap_or_default();
            let mut cells = vec![
                policy.id(),
                format!("{:?}", policy.mode),
                policy.state.word().to_owned(),
                nodes,
                policy.workloads.map(|count| count.to_string()).unwrap_or_default(),
                policy.last_proven(now),
                policy.created.map(|created| age(created, now)).unwrap_or_default(),
            ];
            if wide {
                cells.extend(["Accepted", "Programmed", "Enforced", "Degraded"].map(|kind| {
                    conditions::get(&policy.conditions, kind)
                        .map_or("", |condition| condition.status.as_str())
                        .to_owned()
                }));
                cells.push(policy.generation.to_string());
            }
            cells.push(policy.why());
            table.row(cells);
        }
        let mut text = table.text(0);
        let weak = weak(self.0);
        if !weak.is_empty() {
            text.push('\n');
            text.push_str(&weak);
        }
        text
    }
}

/// The rules that are given less than asked, or nothing; equal rows of several nodes are one.
pub(super) fn weak(policies: &[Policy]) -> String {
    let mut table = Table::new(&["POLICY", "RULE", "ASKED", "GIVEN", "REASON", "ON"]);
    for policy in policies {
        let mut rows: BTreeMap<[String; 4], Vec<&str>> = BTreeMap::new();
        for rule in &policy.weakest {
            let key = [
                rule.rule.clone(),
                format!("{:?}", rule.asked),
                format!("{:?}", rule.given),
                rule.reason.clone(),
            ];
            rows.entry(key).or_default().push(&rule.node);
        }
        for ([rule, asked, given, reason], nodes) in rows {
            table.row([policy.id(), rule, asked, given, reason, nodes.join(", ")]);
        }
    }
    if table.is_empty() { String::new() } else { table.text(0) }
}
