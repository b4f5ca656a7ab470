//! The kind `ExternalWorkload`: a virtual machine or host outside the cluster.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::network::Protocol;
use crate::rules;

/// A virtual machine or host outside the cluster, or a part of one.
#[derive(Clone, CustomResource, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[kube(
    group = "holdfast.dev",
    version = "v1alpha1",
    kind = "ExternalWorkload",
    namespaced,
    shortname = "ewl",
    category = "holdfast",
    status = "ExternalWorkloadStatus",
    derive = "PartialEq",
    doc = "A virtual machine or host outside the cluster, or a part of one: its addresses, labels and ports as a peer of policies, and its cgroups for the agent that runs there.",
    printcolumn(name = "Node", type_ = "string", json_path = ".spec.node"),
    printcolumn(
        name = "Address",
        type_ = "string",
        description = "The first address",
        json_path = ".spec.addresses[0]"
    ),
    printcolumn(
        name = "Accepted",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Accepted\")].status"
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Accepted\")].reason"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Addresses", type_ = "string", json_path = ".spec.addresses", priority = 1),
    printcolumn(name = "Cgroups", type_ = "string", json_path = ".spec.cgroups", priority = 1),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Accepted\")].message",
        priority = 1
    )
)]
#[schemars(extend("x-kubernetes-validations" = rules::schema(&rules::external_workload())))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ExternalWorkloadSpec {
    /// The `--node-name` of the agent that runs there; every other agent knows the workload as a peer only. Absent: no
    /// agent runs there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::dns_subdomain")]
    pub node: Option<String>,
    /// The addresses that policies know it by.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "crate::schema::addresses")]
    pub addresses: Vec<String>,
    /// Its cgroups, as paths in the cgroup v2 tree, such as `/system.slice/ledger.service`; rules concern what runs in
    /// them and below. Empty: the whole host.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "crate::schema::cgroups")]
    pub cgroups: Vec<String>,
    /// Its named ports.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name", "protocol"]))]
    pub ports: Vec<NamedPort>,
}

/// A named port of a workload.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NamedPort {
    /// The name that policies use.
    #[schemars(schema_with = "crate::schema::port_name")]
    pub name: String,
    /// The number.
    #[schemars(range(min = 1, max = 65535))]
    pub port: u16,
    /// The protocol.
    #[serde(default)]
    pub protocol: Protocol,
}

/// Whether the workload is published to agents; written by the operator.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ExternalWorkloadStatus {
    /// The generation that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Accepted`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}
