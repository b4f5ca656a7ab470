//! The kind `AddressSlice`: who holds which address. Written by the operator, read by every agent, which joins all
//! slices. An identity's number means the same in every slice.

use std::collections::BTreeMap;
use std::net::IpAddr;

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::external_workload::NamedPort;
use crate::network::{Entity, Protocol};

/// A part of what the cluster knows about addresses. On the wire these fields stand at the top level.
#[derive(Clone, CustomResource, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[kube(
    group = "holdfast.dev",
    version = "v1alpha1",
    kind = "AddressSlice",
    shortname = "adsl",
    category = "holdfast",
    derive = "PartialEq",
    no_spec,
    doc = "A part of what the cluster knows about addresses: which identity holds which address, the labels of those identities, and the backends of services.",
    printcolumn(
        name = "Address",
        type_ = "string",
        description = "The first address of the slice",
        json_path = ".addresses[0].address"
    ),
    printcolumn(
        name = "Service",
        type_ = "string",
        description = "The first Service of the slice",
        json_path = ".services[0].name"
    ),
    printcolumn(
        name = "Namespace",
        type_ = "string",
        description = "The first namespace of the slice",
        json_path = ".namespaces[0].name"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(
        name = "Node",
        type_ = "string",
        description = "The node of the first address",
        json_path = ".addresses[0].node",
        priority = 1
    )
)]
#[serde(rename_all = "camelCase")]
pub struct AddressSliceSpec {
    /// Namespaces and their labels.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100))]
    pub namespaces: Vec<NamespaceEntry>,
    /// The identities that `addresses` of this slice uses, and such as it used a short while ago, whose numbers rest.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100))]
    pub identities: Vec<IdentityEntry>,
    /// Addresses and who holds them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100))]
    pub addresses: Vec<AddressEntry>,
    /// Services, or parts of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100))]
    pub services: Vec<ServiceEntry>,
}

/// A namespace and its labels.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NamespaceEntry {
    /// The namespace's name.
    pub name: String,
    /// Its labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// One distinct set of namespace, service account, labels and named ports.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct IdentityEntry {
    /// The identity's number, 256 or more, the same in every slice.
    #[schemars(range(min = 256))]
    pub id: u32,
    /// The namespace.
    pub namespace: String,
    /// The service account's name; absent for an external workload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_account: Option<String>,
    /// The labels, without those that differ for each pod.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// The named ports.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 128))]
    pub ports: Vec<NamedPort>,
}

/// An address and who holds it.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AddressEntry {
    /// The address.
    #[schemars(with = "String", length(max = 45))]
    pub address: IpAddr,
    /// The identity that holds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 256))]
    pub identity: Option<u32>,
    /// The entities that it belongs to. Never `World`, which is every address that no slice names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4))]
    pub entities: Vec<Entity>,
    /// The node that it lives on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
}

/// A service's address, or a part of its backends where they do not fit one slice.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceEntry {
    /// The service's namespace.
    pub namespace: String,
    /// The service's name.
    pub name: String,
    /// The virtual address.
    #[schemars(with = "String", length(max = 45))]
    pub address: IpAddr,
    /// Which part this is, from 0.
    #[serde(default)]
    pub part: u32,
    /// How many parts there are; a service is complete when all are there.
    #[schemars(range(min = 1))]
    pub parts: u32,
    /// The ports and the ready backends of each that this part holds.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100))]
    pub ports: Vec<ServicePort>,
}

/// One port of a service.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ServicePort {
    /// The protocol.
    #[serde(default)]
    pub protocol: Protocol,
    /// The service's port.
    #[schemars(range(min = 1, max = 65535))]
    pub port: u16,
    /// Ready backends.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000))]
    pub backends: Vec<Backend>,
}

/// A ready backend of a service's port.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Backend {
    /// The backend's address.
    #[schemars(with = "String", length(max = 45))]
    pub address: IpAddr,
    /// The backend's port.
    #[schemars(range(min = 1, max = 65535))]
    pub port: u16,
}
