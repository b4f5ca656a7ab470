//! What plans ask of the index.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use holdfast_policy::model::{PolicyId, World};
use holdfast_policy::selector::Labels;
use ipnet::IpNet;

use super::{Index, PodIndex, is_api_server};
use crate::facts::{
    DaemonSetFacts, EndpointFacts, ExternalFacts, NodeAgentFacts, NodeFacts, ObjectKey, PolicyFacts, Report,
    ServiceFacts,
};

impl Index {
    /// The pods.
    #[must_use]
    pub fn pods(&self) -> &PodIndex {
        &self.pods
    }

    /// The nodes, by name.
    #[must_use]
    pub fn nodes(&self) -> &BTreeMap<String, NodeFacts> {
        &self.nodes
    }

    /// The labels of the namespaces, and Holdfast's own namespace, as the pure model wants them; nothing else in it is
    /// filled in.
    #[must_use]
    pub fn world(&self) -> &World {
        &self.world
    }

    /// The labels of the namespaces.
    #[must_use]
    pub fn namespaces(&self) -> &BTreeMap<String, Labels> {
        &self.world.namespaces
    }

    /// The ExternalWorkloads.
    #[must_use]
    pub fn externals(&self) -> &BTreeMap<ObjectKey, ExternalFacts> {
        &self.externals
    }

    /// The policies of both kinds.
    #[must_use]
    pub fn policies(&self) -> &BTreeMap<PolicyId, PolicyFacts> {
        &self.policies
    }

    /// The UID of a node's WorkloadNode, if it has one.
    #[must_use]
    pub fn workload_node(&self, node: &str) -> Option<&str> {
        self.reports.get(node).map(|report| report.uid.as_str())
    }

    /// The UID of the Lease of a node's agent, if there is one.
    #[must_use]
    pub fn agent_lease(&self, node: &str) -> Option<&str> {
        self.pulses.get(node).map(|pulse| pulse.heartbeat.uid.as_str())
    }

    /// Whether there is no node of this name, and no agent that still says it is there.
    #[must_use]
    pub fn is_gone(&self, node: &str) -> bool {
        !self.nodes.contains_key(node) && !self.fresh.contains(node)
    }

    /// The names for which an agent has reported or kept a Lease, and of which there is neither node nor agent.
    pub fn gone_nodes(&self) -> impl Iterator<Item = &str> {
        let known: BTreeSet<&str> =
            self.reports.keys().chain(self.pulses.keys()).map(String::as_str).collect();
        known.into_iter().filter(|node| self.is_gone(node))
    }

    /// Whether a proof of this node's agent is recent enough to count.
    #[must_use]
    pub fn is_proven(&self, node: &str) -> bool {
        self.pulses.get(node).is_some_and(|pulse| pulse.heartbeat.is_proven())
    }

    /// The NodeAgents, by name.
    #[must_use]
    pub fn node_agents(&self) -> &BTreeMap<String, NodeAgentFacts> {
        &self.node_agents
    }

    /// The operator's DaemonSets, by name.
    #[must_use]
    pub fn daemon_sets(&self) -> &BTreeMap<String, DaemonSetFacts> {
        &self.daemon_sets
    }

    /// The nodes, by name, whose own address this is.
    pub fn nodes_at(&self, address: IpAddr) -> impl Iterator<Item = &str> {
        self.node_addresses.get(&address).into_iter().flatten().map(String::as_str)
    }

    /// The Services whose virtual address this is.
    pub fn services_at(&self, address: IpAddr) -> impl Iterator<Item = &ObjectKey> {
        self.service_addresses.get(&address).into_iter().flatten()
    }

    /// A Service.
    #[must_use]
    pub fn service(&self, key: &ObjectKey) -> Option<&ServiceFacts> {
        self.services.get(key)
    }

    /// All Services.
    pub fn services(&self) -> impl Iterator<Item = &ObjectKey> {
        self.services.keys()
    }

    /// The parts of a Service's endpoints.
    pub fn endpoints(&self, service: &ObjectKey) -> impl Iterator<Item = &EndpointFacts> {
        self.endpoints_of.get(service).into_iter().flatten().filter_map(|key| self.endpoints.get(key))
    }

    /// Whether an API server listens at this address.
    #[must_use]
    pub fn is_api_server(&self, address: IpAddr) -> bool {
        self.api_servers().any(|server| server == address)
    }

    /// The API servers' addresses.
    pub fn api_servers(&self) -> impl Iterator<Item = IpAddr> {
        let service = ObjectKey::namespaced("default", "kubernetes");
        debug_assert!(is_api_server(&service));
        self.endpoints_of
            .get(&service)
            .into_iter()
            .flatten()
            .filter_map(|key| self.endpoints.get(key))
            .flat_map(|slice| slice.all.iter().copied())
    }

    /// The ranges that Services' addresses are taken from, as far as the cluster tells.
    pub fn service_cidrs(&self) -> impl Iterator<Item = &IpNet> {
        self.service_cidrs.values().flatten()
    }

    /// Every address that may have to be published for a pod, a node or an API server.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.pods.claimed().chain(self.node_addresses.keys().copied()).chain(self.api_servers())
    }

    /// What the agent of this node reports, where that is still true: the heartbeat is fresh, and the report is about
    /// this node and this boot.
    ///
    /// # Errors
    /// Why nothing that is reported counts.
    pub fn report(&self, node: &str) -> Result<&Report, NoReport> {
        let facts = self.nodes.get(node).ok_or(NoReport::NoNode)?;
        let report = self.reports.get(node).ok_or(NoReport::NoAgent)?;
        if !self.fresh.contains(node) {
            return Err(if self.pulses.contains_key(node) { NoReport::Stale } else { NoReport::NoAgent });
        }
        if report.node_uid != facts.uid || report.boot_id != facts.boot_id {
            return Err(NoReport::OtherBoot);
        }
        Ok(report)
    }
}

/// Why what a node's agent may have reported does not count.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum NoReport {
    /// The node does not exist.
    NoNode,
    /// No agent reports from there.
    NoAgent,
    /// The agent has not shown itself for too long.
    Stale,
    /// The report is about another node of that name, or about an earlier boot.
    OtherBoot,
}

impl NoReport {
    /// A few words for messages.
    #[must_use]
    pub fn describe(self) -> &'static str {
        match self {
            Self::NoNode => "no such node",
            Self::NoAgent => "no agent has reported",
            Self::Stale => "its agent is silent",
            Self::OtherBoot => "its agent has not reported since the node booted",
        }
    }
}
