//! The nodes and their agents.

use std::collections::BTreeMap;
use std::fmt::Write;

use holdfast_crds::conditions;
use holdfast_crds::workload_node::{
    LEASE_PREFIX, MechanismState, PROVEN_ANNOTATION, PolicyState, WorkloadNodeStatus,
};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use serde::Serialize;

use super::Facts;
use crate::cluster::age;
use crate::error::one_line;
use crate::table::Table;

/// So many nodes are listed; of more, only those to look at.
const LISTED: usize = 20;

/// The nodes and what runs them.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Fleet {
    /// The operator that leads, where that can be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    operator: Option<Leader>,
    node_agents: Vec<Rollout>,
    /// Those to look at first come first.
    nodes: Vec<NodeRow>,
}

/// The operator that leads.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Leader {
    /// Who; absent where nobody does.
    #[serde(skip_serializing_if = "Option::is_none")]
    holder: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    renewed: Option<Timestamp>,
    /// Whether it renewed its Lease in time.
    alive: bool,
}

/// A NodeAgent.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Rollout {
    name: String,
    desired: i32,
    ready: i32,
    updated: i32,
    available: String,
    /// Why it is not available, in one word.
    #[serde(skip_serializing_if = "String::is_empty")]
    reason: String,
}

/// Whether a node's agent can be believed. From the worst to the best.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
enum AgentState {
    /// No agent has ever reported of this node.
    NoAgent,
    /// Its report is about an earlier boot, or another node of that name.
    Outdated,
    /// It has not renewed its Lease. What it wrote to the kernel stays in force.
    Silent,
    /// It cannot be told, as Leases cannot be read.
    Unknown,
    /// It lives.
    Alive,
}

/// A node.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct NodeRow {
    node: String,
    state: AgentState,
    #[serde(skip_serializing_if = "Option::is_none")]
    seen: Option<Timestamp>,
    #[serde(skip_serializing_if = "String::is_empty")]
    agent_version: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    kernel: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    architecture: String,
    /// Mechanism -> whether it works.
    mechanisms: BTreeMap<String, MechanismState>,
    /// Policies with a workload there.
    policies: usize,
    /// Of those, the ones whose present generation is not in force.
    behind: usize,
    /// Rules that are given less than asked.
    weaker: usize,
    /// When all was last proven.
    #[serde(skip_serializing_if = "Option::is_none")]
    proven: Option<Timestamp>,
    /// What is wrong with the agent or what it reads, and what the last proof found.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<String>,
}

impl Fleet {
    pub(crate) fn new(facts: &Facts, now: Timestamp) -> Self {
        let reports = facts.workload_nodes.as_deref().unwrap_or_default();
        let mut rows: BTreeMap<String, NodeRow> = BTreeMap::new();
        for object in reports {
            let name = object.name_any();
            let status = object.status.clone().unwrap_or_default();
            rows.insert(name.clone(), NodeRow::new(name, &status, facts, now));
        }
        if facts.workload_nodes.is_some() {
            for node in facts.nodes.iter().flatten() {
                let name = node.name_any();
                rows.entry(name.clone()).or_insert_with(|| NodeRow::without_agent(name));
            }
        }
        let mut nodes: Vec<NodeRow> = rows.into_values().collect();
        nodes.sort_by(|a, b| a.rank().cmp(&b.rank()));
        let node_agents = facts.node_agents.iter().flatten().map(|object| {
            let status = object.status.clone().unwrap_or_default();
            let available = conditions::get(&status.conditions, "Available");
            let fine = available.is_some_and(|condition| condition.status == "True");
            Rollout {
                name: object.name_any(),
                desired: status.desired,
                ready: status.ready,
                updated: status.updated,
                available: available.map_or("Unknown", |condition| &condition.status).to_owned(),
                reason: available.filter(|_| !fine).map(|c| c.reason.clone()).unwrap_or_default(),
            }
        });
        Self {
            operator: facts.leases.as_deref().map(|leases| leader(leases, now)),
            node_agents: node_agents.collect(),
            nodes,
        }
    }

    /// The text; empty where nothing of the fleet can be read.
    pub(crate) fn text(&self, wide: bool, now: Timestamp) -> String {
        let mut text = String::new();
        let mut line = |head: &str, said: &str| {
            let _ = writeln!(text, "{head:<11}{said}");
        };
        if let Some(leader) = &self.operator {
            line("operator", &leader.text(now));
        }
        for rollout in &self.node_agents {
            let wants = if rollout.available == "True" {
                String::new()
            } else {
                format!("; not available: {}", rollout.reason)
            };
            line(
                "agents",
                &format!(
                    "NodeAgent {}: {} wanted, {} ready, {} updated{wants}",
                    rollout.name, rollout.desired, rollout.ready, rollout.updated
                ),
            );
        }
        if self.nodes.is_empty() {
            return text;
        }
        let states = counted(self.nodes.iter().map(|node| node.state.word()));
        let states: Vec<String> = states.iter().map(|(state, count)| format!("{count} {state}")).collect();
        line("nodes", &format!("{}: {}", self.nodes.len(), states.join(", ")));
        let versions = self.nodes.iter().map(|node| node.agent_version.as_str());
        let versions = counted(versions.filter(|version| !version.is_empty()));
        let on = |(version, count): &(&str, usize)| {
            format!("{version} on {count} node{}", if *count == 1 { "" } else { "s" })
        };
        if !versions.is_empty() {
            line("versions", &versions.iter().map(on).collect::<Vec<_>>().join(", "));
        }
        let mechanisms = self.mechanisms();
        if !mechanisms.is_empty() {
            line("mechanisms", &mechanisms);
        }
        text.push('\n');
        text.push_str(&self.table(wide, now));
        text
    }

    /// On how many nodes each mechanism works.
    fn mechanisms(&self) -> String {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        let mut reporting = 0;
        for node in self.nodes.iter().filter(|node| !node.mechanisms.is_empty()) {
            reporting += 1;
            for (name, state) in &node.mechanisms {
                *counts.entry(name).or_default() += usize::from(*state == MechanismState::Available);
            }
        }
        let each = counts.iter().enumerate().map(|(index, (name, count))| {
            let of = if index == 0 { format!(" of {reporting} nodes") } else { String::new() };
            format!("{name} on {count}{of}")
        });
        each.collect::<Vec<_>>().join(", ")
    }

    fn table(&self, wide: bool, now: Timestamp) -> String {
        let all = wide || self.nodes.len() <= LISTED;
        let shown: Vec<&NodeRow> = self
            .nodes
            .iter()
            .filter(|node| all || node.wants_attention())
            .take(if wide { usize::MAX } else { LISTED })
            .collect();
        let mut heads = vec!["NODE", "AGENT", "SEEN", "VERSION", "KERNEL", "POLICIES", "BEHIND", "WEAKER"];
        if wide {
            heads.extend(["PROVEN", "ARCH", "MECHANISMS"]);
        }
        let mut table = Table::new(&heads);
        for node in &shown {
            let seen = node.seen.map(|seen| age(seen, now)).unwrap_or_default();
            let working = node.mechanisms.iter().filter(|(_, state)| **state == MechanismState::Available);
            let working: Vec<&str> = working.map(|(name, _)| name.as_str()).collect();
            let mut cells = vec![
                node.node.clone(),
                node.state.word().to_owned(),
                seen,
                node.agent_version.clone(),
                node.kernel.clone(),
                node.policies.to_string(),
                node.behind.to_string(),
                node.weaker.to_string(),
            ];
            if wide {
                let proven = node.proven.map(|proven| age(proven, now)).unwrap_or_default();
                cells.extend([proven, node.architecture.clone(), working.join(" ")]);
            }
            table.row(cells);
        }
        let mut text = if table.is_empty() { String::new() } else { table.text(0) };
        let hidden = self.nodes.len() - shown.len();
        if hidden > 0 {
            let which = if shown.is_empty() { "all nodes are" } else { "other nodes are" };
            let _ = writeln!(text, "{hidden} {which} not shown: -o wide shows every node");
        }
        for node in shown {
            for error in node.errors.iter().take(if wide { usize::MAX } else { 3 }) {
                let _ = writeln!(text, "{}: {}", node.node, one_line(error));
            }
        }
        text
    }
}

impl AgentState {
    fn word(self) -> &'static str {
        match self {
            Self::NoAgent => "no agent",
            Self::Outdated => "outdated",
            Self::Silent => "silent",
            Self::Unknown => "unknown",
            Self::Alive => "alive",
        }
    }
}

impl NodeRow {
    fn new(node: String, status: &WorkloadNodeStatus, facts: &Facts, now: Timestamp) -> Self {
        let here = status.policies.iter().filter(|policy| policy.workloads > 0);
        let lease = facts.leases.as_ref().map(|leases| heartbeat(leases, &node));
        let object = facts.nodes.iter().flatten().find(|object| object.name_any() == node);
        let outdated = object.is_some_and(|object| {
            let boot = object.status.as_ref().and_then(|status| status.node_info.as_ref());
            let other_boot = boot.is_some_and(|info| {
                !info.boot_id.is_empty() && !status.boot_id.is_empty() && info.boot_id != status.boot_id
            });
            let other_node =
                !status.node_uid.is_empty() && object.uid().is_some_and(|uid| uid != status.node_uid);
            other_boot || other_node
        });
        let state = match &lease {
            _ if outdated => AgentState::Outdated,
            None => AgentState::Unknown,
            Some(Some((renewed, lasts)))
                if renewed.saturating_add(*lasts).is_ok_and(|until| until >= now) =>
            {
                AgentState::Alive
            }
            Some(_) => AgentState::Silent,
        };
        let source = status.errors.iter().map(|error| format!("{}: {}", error.origin, error.message));
        let failures = status.proof.iter().flat_map(|proof| &proof.failures);
        let failures = failures.map(|failure| format!("not proven: {}: {}", failure.kind, failure.message));
        let kernel = status.kernel.clone().unwrap_or_default();
        Self {
            state,
            seen: lease
                .flatten()
                .map(|(renewed, _)| renewed)
                .or(status.observed_at.as_ref().map(|time| time.0)),
            agent_version: status.agent_version.clone(),
            kernel: kernel.release,
            architecture: kernel.architecture,
            mechanisms: status.mechanisms.iter().map(|m| (m.name.clone(), m.state)).collect(),
            policies: here.clone().count(),
            behind: here.clone().filter(|policy| policy.state != PolicyState::Programmed).count(),
            weaker: here
                .map(|policy| policy.rules.len() + usize::try_from(policy.omitted).unwrap_or(0))
                .sum(),
            proven: proven(status, facts.leases.as_deref().unwrap_or_default(), &node),
            errors: status.last_error.iter().cloned().chain(failures).chain(source).collect(),
            node,
        }
    }

    fn without_agent(node: String) -> Self {
        Self {
            node,
            state: AgentState::NoAgent,
            seen: None,
            agent_version: String::new(),
            kernel: String::new(),
            architecture: String::new(),
            mechanisms: BTreeMap::new(),
            policies: 0,
            behind: 0,
            weaker: 0,
            proven: None,
            errors: Vec::new(),
        }
    }

    fn wants_attention(&self) -> bool {
        !matches!(self.state, AgentState::Alive | AgentState::Unknown)
            || self.behind > 0
            || self.weaker > 0
            || !self.errors.is_empty()
    }

    /// The first to look at is the smallest.
    fn rank(&self) -> (AgentState, std::cmp::Reverse<(usize, usize, usize)>, &str) {
        (self.state, std::cmp::Reverse((self.behind, self.weaker, self.errors.len())), &self.node)
    }
}

impl Leader {
    fn text(&self, now: Timestamp) -> String {
        let heard =
            self.renewed.map(|renewed| format!(", heard of {} ago", age(renewed, now))).unwrap_or_default();
        // Behind its pod's name stands what tells its restarts apart.
        let pod = self.holder.as_ref().map(|holder| holder.split('_').next().unwrap_or(holder));
        match (pod, self.alive) {
            (Some(holder), true) => format!("{holder} leads{heard}"),
            (Some(holder), false) => format!("nobody leads; last was {holder}{heard}"),
            (None, _) => "nobody leads".to_owned(),
        }
    }
}

/// When a Lease was renewed, and for how long that counts.
fn renewed(lease: &Lease) -> Option<(Timestamp, SignedDuration)> {
    let spec = lease.spec.as_ref()?;
    let lasts = SignedDuration::from_secs(spec.lease_duration_seconds?.into());
    Some((spec.renew_time.as_ref()?.0, lasts))
}

/// When all on a node was last proven: its agent's Lease says it to the minute; where that cannot be read, what the report
/// said when it was written.
pub(super) fn proven(status: &WorkloadNodeStatus, leases: &[Lease], node: &str) -> Option<Timestamp> {
    let of_lease = leases
        .iter()
        .find(|lease| is_of(lease, node))
        .and_then(|lease| lease.metadata.annotations.as_ref()?.get(PROVEN_ANNOTATION)?.parse().ok());
    of_lease.or_else(|| Some(status.proof.as_ref()?.time.as_ref()?.0))
}

/// Whether a Lease is that of a node's agent.
fn is_of(lease: &Lease, node: &str) -> bool {
    lease.name_any().strip_prefix(LEASE_PREFIX) == Some(node)
}

fn heartbeat(leases: &[Lease], node: &str) -> Option<(Timestamp, SignedDuration)> {
    leases.iter().find(|lease| is_of(lease, node)).and_then(renewed)
}

fn leader(leases: &[Lease], now: Timestamp) -> Leader {
    let lease = leases.iter().find(|lease| {
        let name = lease.name_any();
        name.ends_with("-operator") && !name.starts_with(LEASE_PREFIX)
    });
    let holder = lease.and_then(|lease| lease.spec.as_ref()?.holder_identity.clone());
    let heard = lease.and_then(renewed);
    Leader {
        holder: holder.filter(|holder| !holder.is_empty()),
        renewed: heard.map(|(renewed, _)| renewed),
        alive: heard
            .is_some_and(|(renewed, lasts)| renewed.saturating_add(lasts).is_ok_and(|until| until >= now)),
    }
}

/// How often each word comes, the most frequent first.
fn counted<'a>(words: impl Iterator<Item = &'a str>) -> Vec<(&'a str, usize)> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for word in words {
        *counts.entry(word).or_default() += 1;
    }
    let mut counts: Vec<(&str, usize)> = counts.into_iter().collect();
    counts.sort_by_key(|(word, count)| (std::cmp::Reverse(*count), *word));
    counts
}
