//! `kubectl holdfast status`: the nodes and their agents, and how far each policy has got.
//!
//! Everything is as the operator and the agents say it; nothing is judged anew. What the user may not read is left out,
//! and the answer says so.

use clap::ValueEnum;
use holdfast_crds::{ClusterWorkloadPolicy, NodeAgent, WorkloadNode, WorkloadPolicy};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::jiff::Timestamp;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::args::Common;
use crate::cluster::{self, Cluster, Kind, Scope, typed};
use crate::error::{ApiError, Failure};
use crate::print;
use fleet::Fleet;
use policies::{Policy, PolicyList};

mod fleet;
mod policies;
mod policy;
mod rules;
#[cfg(test)]
mod tests;

/// What `status` is told.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// One policy: NAME or NAMESPACE/NAME of a WorkloadPolicy, cluster/NAME of a ClusterWorkloadPolicy
    policy: Option<String>,
    /// Output format
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    output: Format,
}

/// How an answer is written.
#[derive(Debug, Clone, Copy, ValueEnum, PartialEq, Eq)]
pub(crate) enum Format {
    /// For people.
    Table,
    /// For people with room: more columns, and every node.
    Wide,
    /// For programs.
    Json,
}

/// The whole answer.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Status {
    fleet: Fleet,
    policies: Vec<Policy>,
    /// What could not be read, and why.
    left_out: Vec<String>,
}

/// What was read.
#[derive(Debug, Default)]
pub(crate) struct Facts {
    pub(crate) workload_nodes: Option<Vec<WorkloadNode>>,
    pub(crate) nodes: Option<Vec<Node>>,
    pub(crate) leases: Option<Vec<Lease>>,
    pub(crate) node_agents: Option<Vec<NodeAgent>>,
    pub(crate) policies: Vec<WorkloadPolicy>,
    pub(crate) cluster_policies: Vec<ClusterWorkloadPolicy>,
    pub(crate) left_out: Vec<String>,
}

/// Answers.
///
/// # Errors
/// When there is no answer.
pub(crate) async fn main(args: &Args, common: &Common) -> Result<(), Failure> {
    let cluster = Cluster::connect(common).await?;
    if let Some(name) = &args.policy {
        if common.all_namespaces {
            return Err(Failure::Usage("a policy is of one namespace: -A goes with no POLICY".to_owned()));
        }
        let detail = policy::read(&cluster, name).await?;
        match args.output {
            Format::Json => print(serde_json::to_string_pretty(&detail)? + "\n"),
            Format::Table | Format::Wide => print(detail.text(Timestamp::now())),
        }
        return Ok(());
    }
    let facts = read(&cluster, &cluster.scope()).await?;
    let now = Timestamp::now();
    let status = Status::new(facts, &cluster.scope(), now);
    match args.output {
        Format::Json => print(serde_json::to_string_pretty(&status)? + "\n"),
        format => print(status.text(format == Format::Wide, now)),
    }
    Ok(())
}

/// Reads all that the user may; that policies cannot be read at all is an error.
///
/// # Errors
/// When the API server does not answer, or Holdfast is not there.
pub(crate) async fn read(cluster: &Cluster, scope: &Scope) -> Result<Facts, Failure> {
    let mut facts = Facts::default();
    let own = Scope::Namespace(cluster.holdfast.clone());
    let policies = cluster.list(cluster::WORKLOAD_POLICIES, scope, "").await;
    facts.policies = match policies {
        Err(error) if error.is_not_found() => {
            let text = "the API server has no workloadpolicies: Holdfast's CRDs are not installed";
            return Err(Failure::NotFound(text.to_owned()));
        }
        Err(error) if error.is_forbidden() && *scope == Scope::All => {
            return Err(Failure::Usage(format!("{error}; name a namespace with -n")));
        }
        policies => facts.keep(cluster::WORKLOAD_POLICIES, policies?),
    };
    let read = cluster.list(cluster::CLUSTER_POLICIES, &Scope::All, "").await;
    facts.cluster_policies = facts.optional(cluster::CLUSTER_POLICIES, read)?.unwrap_or_default();
    let read = cluster.list(cluster::WORKLOAD_NODES, &Scope::All, "").await;
    facts.workload_nodes = facts.optional(cluster::WORKLOAD_NODES, read)?;
    let read = cluster.list(cluster::NODES, &Scope::All, "").await;
    facts.nodes = facts.optional(cluster::NODES, read)?;
    let read = cluster.list(cluster::LEASES, &own, "").await;
    facts.leases = facts.optional(cluster::LEASES, read)?;
    let read = cluster.list(cluster::NODE_AGENTS, &Scope::All, "").await;
    facts.node_agents = facts.optional(cluster::NODE_AGENTS, read)?;
    Ok(facts)
}

impl Facts {
    fn keep<T: DeserializeOwned>(&mut self, kind: Kind, values: Vec<serde_json::Value>) -> Vec<T> {
        let (objects, unread) = typed(values);
        if unread > 0 {
            self.left_out.push(format!(
                "{unread} {}: this version cannot read them (kubectl holdfast is {})",
                kind.plural,
                env!("CARGO_PKG_VERSION")
            ));
        }
        objects
    }

    /// What was read; what may not be read is noted.
    fn optional<T: DeserializeOwned>(
        &mut self,
        kind: Kind,
        read: Result<Vec<serde_json::Value>, ApiError>,
    ) -> Result<Option<Vec<T>>, Failure> {
        match read {
            Ok(values) => Ok(Some(self.keep(kind, values))),
            Err(error) if error.is_forbidden() || error.is_not_found() => {
                let lost = match kind {
                    cluster::CLUSTER_POLICIES => "policies of the whole cluster",
                    cluster::WORKLOAD_NODES => "what each node reports",
                    cluster::NODES => "nodes without an agent",
                    cluster::LEASES => "which agents live, and who leads",
                    _ => "how the agents are rolled out",
                };
                let why =
                    if error.is_forbidden() { "you may not list them" } else { "there is no such kind" };
                self.left_out.push(format!("{lost} ({}: {why})", kind.plural));
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }
}

impl Status {
    pub(crate) fn new(facts: Facts, scope: &Scope, now: Timestamp) -> Self {
        let fleet = Fleet::new(&facts, now);
        let reports = facts.workload_nodes.as_deref().unwrap_or_default();
        let leases = facts.leases.as_deref().unwrap_or_default();
        let policies = policies::all(&facts.policies, &facts.cluster_policies, reports, leases, scope);
        Self { fleet, policies, left_out: facts.left_out }
    }

    pub(crate) fn text(&self, wide: bool, now: Timestamp) -> String {
        let mut text = self.fleet.text(wide, now);
        let policies = PolicyList(&self.policies).text(wide, now);
        if !text.is_empty() && !policies.is_empty() {
            text.push('\n');
        }
        text.push_str(&policies);
        if !self.left_out.is_empty() {
            text.push_str("\nLeft out, as your permissions or the cluster do not give it:\n");
            for left in &self.left_out {
                text.push_str("  ");
                text.push_str(left);
                text.push('\n');
            }
        }
        text
    }
}
