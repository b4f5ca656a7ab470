//! What is kept of each kind that is watched.

use std::time::Duration;

use holdfast_crds::{AddressSlice, ClusterWorkloadPolicy, WorkloadPolicy, convert};
use holdfast_policy::error::FieldError;
use holdfast_policy::model::Policy;
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::core::PartialObjectMeta;
use serde::{Serialize, Serializer};

use super::store::Record;

/// How long an object of Holdfast's own kinds stays after it was deleted. Removing a kind deletes its objects first,
/// and takes about a second.
const GRACE: Duration = Duration::from_secs(2);

/// A policy and what it states.
pub(crate) struct PolicyRecord<K> {
    object: K,
    pub(crate) policy: Policy,
}

impl<K: Serialize> Serialize for PolicyRecord<K> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.object.serialize(serializer)
    }
}

fn fields(errors: &[FieldError]) -> String {
    errors.iter().map(FieldError::to_string).collect::<Vec<_>>().join("; ")
}

fn trim(metadata: &mut ObjectMeta) {
    metadata.managed_fields = None;
    metadata.annotations = None;
    metadata.owner_references = None;
}

impl Record for PolicyRecord<WorkloadPolicy> {
    type Object = WorkloadPolicy;
    const KIND: &'static str = "WorkloadPolicy";
    const STATE: &'static str = "workloadpolicies";
    const GRACE: Duration = GRACE;

    fn new(mut object: WorkloadPolicy) -> Result<Option<Self>, String> {
        let policy = convert::workload_policy(&object).map_err(|errors| fields(&errors))?;
        trim(&mut object.metadata);
        object.status = None;
        Ok(Some(Self { object, policy }))
    }

    fn metadata(&self) -> &ObjectMeta {
        &self.object.metadata
    }
}

impl Record for PolicyRecord<ClusterWorkloadPolicy> {
    type Object = ClusterWorkloadPolicy;
    const KIND: &'static str = "ClusterWorkloadPolicy";
    const STATE: &'static str = "clusterworkloadpolicies";
    const GRACE: Duration = GRACE;

    fn new(mut object: ClusterWorkloadPolicy) -> Result<Option<Self>, String> {
        let policy = convert::cluster_workload_policy(&object).map_err(|errors| fields(&errors))?;
        trim(&mut object.metadata);
        object.status = None;
        Ok(Some(Self { object, policy }))
    }

    fn metadata(&self) -> &ObjectMeta {
        &self.object.metadata
    }
}

/// A slice.
#[derive(Serialize)]
#[serde(transparent)]
pub(crate) struct SliceRecord(pub(crate) AddressSlice);

impl Record for SliceRecord {
    type Object = AddressSlice;
    const KIND: &'static str = "AddressSlice";
    const STATE: &'static str = "addressslices";
    const GRACE: Duration = GRACE;

    fn new(mut object: AddressSlice) -> Result<Option<Self>, String> {
        trim(&mut object.metadata);
        Ok(Some(Self(object)))
    }

    fn metadata(&self) -> &ObjectMeta {
        &self.0.metadata
    }
}

/// A namespace, with nothing but its metadata.
#[derive(Serialize)]
#[serde(transparent)]
pub(crate) struct NamespaceRecord(pub(crate) PartialObjectMeta<Namespace>);

impl Record for NamespaceRecord {
    type Object = PartialObjectMeta<Namespace>;
    const KIND: &'static str = "Namespace";
    const STATE: &'static str = "namespaces";
    const GRACE: Duration = Duration::ZERO;

    fn new(mut object: Self::Object) -> Result<Option<Self>, String> {
        trim(&mut object.metadata);
        Ok(Some(Self(object)))
    }

    fn metadata(&self) -> &ObjectMeta {
        &self.0.metadata
    }
}
