//! ExternalWorkloads.

use holdfast_crds::ExternalWorkload;
use holdfast_crds::convert;
use holdfast_crds::external_workload::ExternalWorkloadStatus;
use k8s_openapi::jiff::Timestamp;

use super::Malformed;
use super::pod::IdentityKey;

/// An ExternalWorkload.
#[derive(Clone, Debug, PartialEq)]
pub struct ExternalFacts {
    /// Its UID.
    pub uid: String,
    /// Its generation.
    pub generation: i64,
    /// When it was created; of two that claim one address, the older has it.
    pub created: Timestamp,
    /// The name of its agent's node.
    pub node: Option<String>,
    /// Its addresses, as written.
    pub addresses: Vec<String>,
    /// What policies know it by.
    pub identity: IdentityKey,
    /// Why it does not parse, if it does not.
    pub malformed: Option<String>,
    /// Its status, as last seen.
    pub status: ExternalWorkloadStatus,
}

impl ExternalFacts {
    /// The record of an ExternalWorkload.
    #[must_use]
    pub fn new(workload: &ExternalWorkload) -> Self {
        let metadata = &workload.metadata;
        Self {
            uid: metadata.uid.clone().unwrap_or_default(),
            generation: metadata.generation.unwrap_or_default(),
            created: metadata.creation_timestamp.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0),
            node: workload.spec.node.clone(),
            addresses: workload.spec.addresses.clone(),
            identity: IdentityKey {
                namespace: metadata.namespace.clone().unwrap_or_default(),
                service_account: None,
                labels: metadata.labels.clone().unwrap_or_default(),
                ports: workload
                    .spec
                    .ports
                    .iter()
                    .map(|port| ((port.name.clone(), convert::protocol(port.protocol)), port.port))
                    .collect(),
            },
            malformed: None,
            status: workload.status.clone().unwrap_or_default(),
        }
    }

    /// The record of one that does not parse: it claims nothing.
    #[must_use]
    pub fn malformed(malformed: Malformed) -> Self {
        Self {
            uid: malformed.uid,
            generation: malformed.generation,
            created: Timestamp::UNIX_EPOCH,
            node: None,
            addresses: Vec::new(),
            identity: IdentityKey::default(),
            malformed: Some(malformed.problem),
            status: ExternalWorkloadStatus::default(),
        }
    }
}
