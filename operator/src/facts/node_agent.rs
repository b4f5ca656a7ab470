//! NodeAgents, and the DaemonSets made of them.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use holdfast_crds::NodeAgent;
use holdfast_crds::node_agent::{NodeAgentSpec, NodeAgentStatus};
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use k8s_openapi::jiff::Timestamp;

use super::Malformed;

/// A NodeAgent.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeAgentFacts {
    /// Its UID.
    pub uid: String,
    /// Its generation.
    pub generation: i64,
    /// When it was created; of two that select one node, the older has it.
    pub created: Timestamp,
    /// Whether it is being deleted.
    pub deleting: bool,
    /// What it asks for; `None` if it does not parse.
    pub spec: Option<NodeAgentSpec>,
    /// Why it does not parse, if it does not.
    pub malformed: Option<String>,
    /// Its status, as last seen.
    pub status: NodeAgentStatus,
}

impl NodeAgentFacts {
    /// The record of a NodeAgent.
    #[must_use]
    pub fn new(agent: NodeAgent) -> Self {
        Self {
            uid: agent.metadata.uid.unwrap_or_default(),
            generation: agent.metadata.generation.unwrap_or_default(),
            created: agent.metadata.creation_timestamp.map_or(Timestamp::UNIX_EPOCH, |time| time.0),
            deleting: agent.metadata.deletion_timestamp.is_some(),
            spec: Some(agent.spec),
            malformed: None,
            status: agent.status.unwrap_or_default(),
        }
    }

    /// The record of one that does not parse: its DaemonSet stays as it is.
    #[must_use]
    pub fn malformed(malformed: Malformed) -> Self {
        Self {
            uid: malformed.uid,
            generation: malformed.generation,
            created: Timestamp::UNIX_EPOCH,
            deleting: false,
            spec: None,
            malformed: Some(malformed.problem),
            status: NodeAgentStatus::default(),
        }
    }
}

/// The label of a DaemonSet, and of its pods, that names the NodeAgent it is made of.
pub const NODE_AGENT_LABEL: &str = "holdfast.dev/node-agent";

/// A DaemonSet of the operator.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DaemonSetFacts {
    /// The NodeAgent that its label names.
    pub node_agent: String,
    /// The resourceVersion, as a number that grows with each write.
    pub resource_version: u64,
    /// Changes whenever something that the operator writes changes: UID, generation, labels and owners.
    pub version: u64,
    /// The spec's generation.
    pub generation: i64,
    /// The generation that the counts are about.
    pub observed_generation: i64,
    /// Nodes that should run a pod, as its controller sees it.
    pub desired: i32,
    /// Of those, nodes with a pod of the current generation.
    pub updated: i32,
    /// Of those, nodes with a ready pod.
    pub ready: i32,
}

impl DaemonSetFacts {
    /// The record of a DaemonSet.
    #[must_use]
    pub fn new(set: &DaemonSet) -> Self {
        let metadata = &set.metadata;
        let status = set.status.as_ref();
        let mut hasher = DefaultHasher::new();
        metadata.uid.hash(&mut hasher);
        metadata.generation.hash(&mut hasher);
        metadata.labels.hash(&mut hasher);
        for OwnerReference { api_version, block_owner_deletion, controller, kind, name, uid } in
            metadata.owner_references.iter().flatten()
        {
            (api_version, block_owner_deletion, controller, kind, name, uid).hash(&mut hasher);
        }
        Self {
            node_agent: metadata
                .labels
                .as_ref()
                .and_then(|labels: &BTreeMap<String, String>| labels.get(NODE_AGENT_LABEL).cloned())
                .unwrap_or_default(),
            resource_version: metadata
                .resource_version
                .as_deref()
                .and_then(|version| version.parse().ok())
                .unwrap_or_default(),
            version: hasher.finish(),
            generation: metadata.generation.unwrap_or_default(),
            observed_generation: status.and_then(|status| status.observed_generation).unwrap_or_default(),
            desired: status.map(|status| status.desired_number_scheduled).unwrap_or_default(),
            updated: status.and_then(|status| status.updated_number_scheduled).unwrap_or_default(),
            ready: status.map(|status| status.number_ready).unwrap_or_default(),
        }
    }
}
