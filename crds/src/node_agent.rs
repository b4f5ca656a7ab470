//! The kind `NodeAgent`: how the agent is deployed on nodes. The operator makes a DaemonSet of it.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ResourceRequirements, Toleration};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::rules;

/// How the agent is deployed. The image's repository is a flag of the operator, and cannot be chosen here. Deleting the
/// object takes the agents away; what they wrote to the kernel stays in force.
#[derive(Clone, CustomResource, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[kube(
    group = "holdfast.dev",
    version = "v1alpha1",
    kind = "NodeAgent",
    shortname = "nag",
    category = "holdfast",
    status = "NodeAgentStatus",
    derive = "PartialEq",
    doc = "How the agent is deployed on the cluster's nodes.",
    printcolumn(name = "Desired", type_ = "integer", json_path = ".status.desired"),
    printcolumn(name = "Updated", type_ = "integer", json_path = ".status.updated"),
    printcolumn(name = "Ready", type_ = "integer", json_path = ".status.ready"),
    printcolumn(
        name = "Available",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Available\")].status"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Tag", type_ = "string", json_path = ".spec.imageTag", priority = 1),
    printcolumn(name = "Digest", type_ = "string", json_path = ".spec.imageDigest", priority = 1),
    printcolumn(name = "Selector", type_ = "string", json_path = ".spec.nodeSelector", priority = 1),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Available\")].message",
        priority = 1
    )
)]
#[schemars(extend("x-kubernetes-validations" = rules::schema(&rules::node_agent())))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NodeAgentSpec {
    /// The image's tag. Absent, as is `imageDigest`: the operator's own version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::image_tag")]
    pub image_tag: Option<String>,
    /// The image's digest, `sha256:` and 64 hexadecimal digits. Not together with `imageTag`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::image_digest")]
    pub image_digest: Option<String>,
    /// The agent container's resources.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,
    /// The nodes that get an agent, by their labels. Empty: all.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "crate::schema::node_selector")]
    pub node_selector: BTreeMap<String, String>,
    /// The taints that the agent tolerates. Absent: all of them, as a node without an agent is not protected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub tolerations: Option<Vec<Toleration>>,
    /// How a changed agent is rolled out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub update_strategy: Option<UpdateStrategy>,
    /// The priority class of the agent's pods. Absent: `system-node-critical`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::dns_subdomain")]
    pub priority_class_name: Option<String>,
    /// The least severe messages that the agent logs.
    #[serde(default)]
    pub log_level: LogLevel,
    /// How the agent writes its log.
    #[serde(default)]
    pub log_format: LogFormat,
    /// Lets the owner of a connection that a change of policies revokes see an error at once (ECONNABORTED). It gives the
    /// agent's container the capabilities `SYS_ADMIN` and `SYS_PTRACE`, as it has to enter the network namespaces of pods.
    /// Without it such connections are cut off all the same, in silence.
    #[serde(default)]
    pub destroy_sockets: bool,
}

/// What the agent's container asks for, and what it may use at most.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Resources {
    /// What is set aside for it, by resource name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "crate::schema::quantities")]
    pub requests: BTreeMap<String, Quantity>,
    /// What it may use at most, by resource name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "crate::schema::quantities")]
    pub limits: BTreeMap<String, Quantity>,
}

impl From<Resources> for ResourceRequirements {
    fn from(resources: Resources) -> Self {
        Self {
            claims: None,
            limits: (!resources.limits.is_empty()).then_some(resources.limits),
            requests: (!resources.requests.is_empty()).then_some(resources.requests),
        }
    }
}

/// How a changed agent is rolled out.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct UpdateStrategy {
    /// How many nodes may be without a ready agent while it is rolled out: a number or a percentage. Absent: 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::count_or_percentage")]
    pub max_unavailable: Option<IntOrString>,
}

/// The least severe messages that are logged.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum LogLevel {
    /// Errors only.
    Error,
    /// Also what should be looked at.
    Warn,
    /// Also what changes.
    #[default]
    Info,
    /// Also why.
    Debug,
    /// Everything.
    Trace,
}

/// How a log is written.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum LogFormat {
    /// One JSON object a line.
    #[default]
    Json,
    /// For people.
    Text,
}

/// How far the agent's roll-out has got; written by the operator.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeAgentStatus {
    /// The generation that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Available` and `Progressing`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// Nodes that should run an agent.
    #[serde(default)]
    pub desired: i32,
    /// Of those, nodes whose agent is ready, which means that every policy known to it is in the kernel.
    #[serde(default)]
    pub ready: i32,
    /// Of those, nodes whose agent is of the current generation.
    #[serde(default)]
    pub updated: i32,
}
