//! Policies: what they select, and whether they can be accepted.

use holdfast_crds::policy_status::PolicyStatus;
use holdfast_crds::{ClusterWorkloadPolicy, WorkloadPolicy, convert};
use holdfast_policy::error::FieldError;
use holdfast_policy::model::{Mode, Policy, Target};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::Malformed;

/// Why a policy cannot be accepted.
#[derive(Clone, Debug, PartialEq)]
pub struct Refused {
    /// In one word.
    pub reason: &'static str,
    /// For people; names the field.
    pub message: String,
}

/// A WorkloadPolicy or ClusterWorkloadPolicy.
#[derive(Clone, Debug, PartialEq)]
pub struct PolicyFacts {
    /// Its UID.
    pub uid: String,
    /// Its generation.
    pub generation: i64,
    /// What it selects, or why it cannot be accepted.
    pub target: Result<Target, Refused>,
    /// The containers that it names.
    pub containers: Vec<String>,
    /// Whether its rules only record.
    pub audit: bool,
    /// Its status, as last seen.
    pub status: PolicyStatus,
}

impl PolicyFacts {
    /// The record of a WorkloadPolicy.
    #[must_use]
    pub fn of_namespaced(policy: &WorkloadPolicy) -> Self {
        Self::new(&policy.metadata, convert::workload_policy(policy), policy.status.as_ref())
    }

    /// The record of a ClusterWorkloadPolicy.
    #[must_use]
    pub fn of_cluster(policy: &ClusterWorkloadPolicy) -> Self {
        Self::new(&policy.metadata, convert::cluster_workload_policy(policy), policy.status.as_ref())
    }

    /// The record of one that does not parse.
    #[must_use]
    pub fn malformed(malformed: Malformed) -> Self {
        Self {
            uid: malformed.uid,
            generation: malformed.generation,
            target: Err(Refused { reason: "Malformed", message: malformed.problem }),
            containers: Vec::new(),
            audit: false,
            status: PolicyStatus::default(),
        }
    }

    /// Whether it did not even parse, so that its status could not be read.
    #[must_use]
    pub fn is_malformed(&self) -> bool {
        matches!(&self.target, Err(Refused { reason: "Malformed", .. }))
    }

    fn new(
        metadata: &ObjectMeta,
        policy: Result<Policy, Vec<FieldError>>,
        status: Option<&PolicyStatus>,
    ) -> Self {
        let audit = policy.as_ref().is_ok_and(|policy| policy.mode == Mode::Audit);
        let (target, containers) = match policy {
            Ok(policy) => (Ok(policy.target), policy.containers.unwrap_or_default()),
            Err(errors) => {
                let messages: Vec<String> = errors.iter().map(ToString::to_string).collect();
                (Err(Refused { reason: "Invalid", message: messages.join("; ") }), Vec::new())
            }
        };
        Self {
            uid: metadata.uid.clone().unwrap_or_default(),
            generation: metadata.generation.unwrap_or_default(),
            target,
            containers,
            audit,
            status: status.cloned().unwrap_or_default(),
        }
    }
}
