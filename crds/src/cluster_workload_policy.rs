//! The kind `ClusterWorkloadPolicy`.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::capabilities::Capabilities;
use crate::files::Files;
use crate::network::Network;
use crate::policy_status::PolicyStatus;
use crate::processes::Processes;
use crate::rules;
use crate::selector::LabelSelector;
use crate::syscalls::Syscalls;
use crate::workload_policy::Mode;

/// Rules for the workloads that a label selector picks in the namespaces that a namespace selector picks.
#[derive(Clone, CustomResource, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[kube(
    group = "holdfast.dev",
    version = "v1alpha1",
    kind = "ClusterWorkloadPolicy",
    plural = "clusterworkloadpolicies",
    shortname = "cwlp",
    category = "holdfast",
    status = "PolicyStatus",
    derive = "PartialEq",
    doc = "Rules for the workloads that a label selector picks in the namespaces that a namespace selector picks. Leaves kube-system and Holdfast's own namespace alone unless the namespace selector names them by kubernetes.io/metadata.name.",
    printcolumn(name = "Mode", type_ = "string", json_path = ".spec.mode"),
    printcolumn(
        name = "Status",
        type_ = "string",
        description = "How far the policy got: the reason of the condition Programmed",
        json_path = ".status.conditions[?(@.type==\"Programmed\")].reason"
    ),
    printcolumn(
        name = "Enforced",
        type_ = "string",
        description = "Whether every node refuses what the policy refuses, and proved it",
        json_path = ".status.conditions[?(@.type==\"Enforced\")].status"
    ),
    printcolumn(
        name = "Nodes",
        type_ = "integer",
        description = "Nodes that run a selected workload",
        json_path = ".status.nodes.selected"
    ),
    printcolumn(
        name = "Done",
        type_ = "integer",
        description = "Of those, the ones that have the policy in the kernel",
        json_path = ".status.nodes.programmed"
    ),
    printcolumn(
        name = "Degraded",
        type_ = "string",
        priority = 1,
        description = "Whether some node gives a rule less than it asks for",
        json_path = ".status.conditions[?(@.type==\"Degraded\")].status"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(
        name = "Workloads",
        type_ = "integer",
        description = "Workloads that the policy selects",
        json_path = ".status.workloads",
        priority = 1
    ),
    printcolumn(
        name = "Weakest",
        type_ = "string",
        description = "The rule that is given least",
        json_path = ".status.weakest[0].rule",
        priority = 1
    ),
    printcolumn(
        name = "Given",
        type_ = "string",
        description = "What that rule really does",
        json_path = ".status.weakest[0].given",
        priority = 1
    ),
    printcolumn(
        name = "Why",
        type_ = "string",
        description = "Why it is not what was asked",
        json_path = ".status.weakest[0].reason",
        priority = 1
    ),
    printcolumn(
        name = "Unproven",
        type_ = "string",
        description = "Why it is not enforced: the reason of the condition Enforced",
        json_path = ".status.conditions[?(@.type==\"Enforced\")].reason",
        priority = 1
    ),
    printcolumn(
        name = "Message",
        type_ = "string",
        description = "What the condition Programmed says",
        json_path = ".status.conditions[?(@.type==\"Programmed\")].message",
        priority = 1
    )
)]
#[schemars(extend("x-kubernetes-validations" = rules::schema(&rules::policy())))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClusterWorkloadPolicySpec {
    /// The namespaces, by their labels. `{}` is every namespace but `kube-system` and Holdfast's own.
    pub namespace_selector: LabelSelector,
    /// The workloads, by their labels. `{}` is every workload of those namespaces.
    pub selector: LabelSelector,
    /// The containers that all rules but `network` concern, by name. Absent: all, init and ephemeral ones included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::containers")]
    pub containers: Option<Vec<String>>,
    /// Whether the rules refuse, or only record what they would have refused.
    #[serde(default)]
    pub mode: Mode,
    /// Network rules.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<Network>,
    /// System call rules.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub syscalls: Option<Syscalls>,
    /// Process rules.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub processes: Option<Processes>,
    /// File rules.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files: Option<Files>,
    /// Capability rules.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capabilities: Option<Capabilities>,
}
