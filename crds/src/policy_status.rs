//! The status that [`crate::WorkloadPolicy`] and [`crate::ClusterWorkloadPolicy`] share; written by the operator.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::workload_node::{Asked, Given};

/// How far a policy has got, counted from the pods that should be covered.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyStatus {
    /// The generation that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Accepted`, `Programmed`, `Enforced` and `Degraded`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// Nodes with a workload that the policy selects.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nodes: Option<NodeCounts>,
    /// Workloads that the policy selects.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workloads: Option<i64>,
    /// Rules that a node honours less than asked, at most 10.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10))]
    pub weakest: Vec<WeakRule>,
}

/// Nodes counted by how far the policy got on them.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeCounts {
    /// Nodes that run at least one selected workload, with or without an agent.
    pub selected: i64,
    /// Of those, the ones whose agent reported this generation as written to the kernel and read back.
    pub programmed: i64,
    /// Of those, the ones that give every rule what it asks and lately proved it by effect.
    #[serde(default)]
    pub enforced: i64,
    /// Of the selected nodes, the ones that nobody reports from: they count as not enforced.
    #[serde(default)]
    pub unknown: i64,
}

/// A rule that a node honours less than asked.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct WeakRule {
    /// The node.
    pub node: String,
    /// The rule's path in the spec, such as `syscalls.rules[0]`.
    pub rule: String,
    /// What the rule asks for.
    pub asked: Asked,
    /// What it really does there.
    pub given: Given,
    /// Why, in one word of CamelCase.
    pub reason: String,
}
