//! What agents say: the report of each node, and the heartbeat that shows that the report is still true.

use std::collections::{BTreeSet, HashMap};

use holdfast_crds::WorkloadNode;
use holdfast_crds::workload_node::{
    self, Asked, Given, LEASE_PREFIX, PROVEN_ANNOTATION, PolicyState, ProofResult,
};
use holdfast_policy::model::PolicyId;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::jiff::Timestamp;

/// A rule that a node honours differently than asked.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// The rule's path in the spec.
    pub rule: String,
    /// What the rule asks for.
    pub asked: Asked,
    /// What it really does on the node.
    pub given: Given,
    /// Why, in one word.
    pub reason: String,
}

/// What a node says of one policy.
#[derive(Clone, Debug, PartialEq)]
pub struct PolicyRow {
    /// The generation that `state` is about.
    pub generation: i64,
    /// How far that generation got.
    pub state: PolicyState,
    /// Why the state is not `Programmed`.
    pub message: Option<String>,
    /// Rules honoured differently than asked.
    pub rules: Vec<Row>,
}

impl PolicyRow {
    /// Whether the node cannot have this generation.
    #[must_use]
    pub fn failed(&self) -> bool {
        matches!(self.state, PolicyState::Failed | PolicyState::Invalid)
    }
}

/// What a node's agent reports.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// The WorkloadNode's own UID.
    pub uid: String,
    /// The UID of the node that it is about.
    pub node_uid: String,
    /// The boot that it is about.
    pub boot_id: String,
    /// The agent's version.
    pub agent_version: String,
    /// The policies, by UID.
    pub policies: HashMap<String, PolicyRow>,
    /// The policies that the agent could not make sense of.
    pub refused: BTreeSet<PolicyId>,
    /// Whether the last proof held, or why not.
    pub proof: Proof,
}

/// Whether a node's last proof held.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Proof {
    /// It did.
    Holds,
    /// It did not, and this failed.
    Failed(String),
    /// The last change has not been proven yet, or the agent tells of no proof.
    #[default]
    Pending,
}

impl Proof {
    fn new(proof: Option<workload_node::Proof>) -> Self {
        match proof {
            Some(proof) if proof.result == ProofResult::Proven => Self::Holds,
            Some(proof) if proof.result == ProofResult::Failed => {
                let first = proof.failures.into_iter().next();
                Self::Failed(first.map_or_else(
                    || "its proof failed".to_owned(),
                    |first| format!("its proof failed: {}: {}", first.kind, first.message),
                ))
            }
            Some(_) | None => Self::Pending,
        }
    }
}

/// The policy that an error of an agent's source is about: its origin is the kind and `namespace/name`.
fn refused(origin: &str) -> Option<PolicyId> {
    match origin.split_once(' ')? {
        ("WorkloadPolicy", key) => {
            let (namespace, name) = key.split_once('/')?;
            Some(PolicyId::namespaced(namespace, name))
        }
        ("ClusterWorkloadPolicy", name) => Some(PolicyId::cluster(name)),
        _ => None,
    }
}

impl Report {
    /// The record of a WorkloadNode; one without a status says nothing.
    #[must_use]
    pub fn new(node: WorkloadNode) -> Self {
        let uid = node.metadata.uid.unwrap_or_default();
        let Some(status) = node.status else { return Self { uid, ..Self::default() } };
        Self {
            uid,
            refused: status.errors.into_iter().filter_map(|error| refused(&error.origin)).collect(),
            proof: Proof::new(status.proof),
            node_uid: status.node_uid,
            boot_id: status.boot_id,
            agent_version: status.agent_version,
            policies: status
                .policies
                .into_iter()
                .map(|policy| {
                    let rules = policy
                        .rules
                        .into_iter()
                        .map(|rule| Row {
                            rule: rule.rule,
                            asked: rule.asked,
                            given: rule.given,
                            reason: rule.reason,
                        })
                        .collect();
                    let row = PolicyRow {
                        generation: policy.generation,
                        state: policy.state,
                        message: policy.message,
                        rules,
                    };
                    (policy.uid, row)
                })
                .collect(),
        }
    }
}

/// What a Lease of an agent says.
#[derive(Clone, Debug, PartialEq)]
pub struct Heartbeat {
    /// The UID of the Lease.
    pub uid: String,
    /// When the agent last renewed it, by the agent's clock.
    pub renewed: Timestamp,
    /// For how long after that the agent counts as alive, in seconds.
    pub duration: u32,
    /// When all on the node was last proven, by the agent's clock.
    pub proven: Option<Timestamp>,
}

/// For how long a proof counts, in seconds: three rounds.
const PROOF_LASTS: i64 = 180;

impl Heartbeat {
    /// The node and heartbeat that a Lease stands for; `None` for other Leases and for one that was given up.
    #[must_use]
    pub fn new(lease: &Lease) -> Option<(String, Self)> {
        let node = lease.metadata.name.as_deref()?.strip_prefix(LEASE_PREFIX)?;
        let spec = lease.spec.as_ref()?;
        spec.holder_identity.as_deref().filter(|holder| !holder.is_empty())?;
        let renewed = spec.renew_time.as_ref()?.0;
        let duration = u32::try_from(spec.lease_duration_seconds?).ok()?;
        let uid = lease.metadata.uid.clone().unwrap_or_default();
        let annotations = lease.metadata.annotations.as_ref();
        let proven = annotations.and_then(|all| all.get(PROVEN_ANNOTATION)).and_then(|at| at.parse().ok());
        Some((node.to_owned(), Self { uid, renewed, duration, proven }))
    }

    /// Whether the last proof counts for as long as this heartbeat does. Both times are of the agent's clock, so that no
    /// two clocks are compared.
    #[must_use]
    pub fn is_proven(&self) -> bool {
        self.proven.is_some_and(|proven| {
            let age = self.renewed.duration_since(proven).as_secs();
            age + i64::from(self.duration) <= PROOF_LASTS
        })
    }
}
