//! The kind `WorkloadNode`: what an agent reports of its node. Status only; named as the node.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A WorkloadNode has no spec; on the wire there is none.
#[derive(Clone, CustomResource, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[kube(
    group = "holdfast.dev",
    version = "v1alpha1",
    kind = "WorkloadNode",
    shortname = "wln",
    category = "holdfast",
    status = "WorkloadNodeStatus",
    derive = "PartialEq",
    no_spec,
    doc = "What an agent reports of its node: the kernel, its mechanisms, and what each policy was given there.",
    printcolumn(name = "Agent", type_ = "string", json_path = ".status.agentVersion", priority = 1),
    printcolumn(name = "Kernel", type_ = "string", json_path = ".status.kernel.release"),
    printcolumn(
        name = "Proof",
        type_ = "string",
        description = "Whether the last proof held that the kernel refuses what it should",
        json_path = ".status.proof.result"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Arch", type_ = "string", json_path = ".status.kernel.architecture", priority = 1),
    printcolumn(
        name = "LSM",
        type_ = "string",
        description = "Whether BPF LSM programs refuse here",
        json_path = ".status.mechanisms[?(@.name==\"lsm\")].state",
        priority = 1
    ),
    printcolumn(
        name = "Fmod-Ret",
        type_ = "string",
        description = "Whether fmod_ret programs refuse here",
        json_path = ".status.mechanisms[?(@.name==\"fmod_ret\")].state",
        priority = 1
    ),
    printcolumn(
        name = "Failed",
        type_ = "string",
        description = "A policy that the kernel refused",
        json_path = ".status.policies[?(@.state==\"Failed\")].name",
        priority = 1
    ),
    printcolumn(
        name = "Reported",
        type_ = "date",
        description = "When the agent last looked at what it reports",
        json_path = ".status.observedAt",
        priority = 1
    ),
    printcolumn(
        name = "Error",
        type_ = "string",
        description = "The agent's most recent error",
        json_path = ".status.lastError",
        priority = 1
    )
)]
pub struct WorkloadNodeSpec {}

/// What an agent reports of its node.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadNodeStatus {
    /// The UID of the Kubernetes node; empty where there is none. A report counts for this node only.
    #[serde(default)]
    pub node_uid: String,
    /// The kernel's boot id. A report counts for this boot only.
    #[serde(default)]
    pub boot_id: String,
    /// The agent's version.
    #[serde(default)]
    pub agent_version: String,
    /// The node's kernel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<Kernel>,
    /// What the kernel can do, as probed by its effect.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub mechanisms: Vec<Mechanism>,
    /// The policies that select a workload of this node.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4096))]
    pub policies: Vec<PolicyReport>,
    /// Whether the kernel was read back and refused what it should.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proof: Option<Proof>,
    /// Policies left out of `policies` because the report would have become too large.
    #[serde(default)]
    pub omitted: i64,
    /// What is wrong with the agent's source, such as a policy that does not parse; at most 32.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub errors: Vec<SourceError>,
    /// The most recent error of the agent itself, such as a map that could not be written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// When the agent last looked at what it reports here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_at: Option<Time>,
}

/// The node's kernel.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Kernel {
    /// As `uname -r` prints it.
    pub release: String,
    /// As `uname -m` prints it.
    pub architecture: String,
}

/// The prefix of the names of the Leases that agents keep in Holdfast's namespace; the node's name follows.
pub const LEASE_PREFIX: &str = "holdfast-agent-";

/// The annotation of an agent's Lease that says when all was last proven, in RFC 3339. It is written with each renewal of
/// the Lease, so that a proof each minute costs no write of its own.
pub const PROVEN_ANNOTATION: &str = "holdfast.dev/proven";

/// Whether the kernel was read back and refused what it should.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Proof {
    /// What became of the last proof.
    pub result: ProofResult,
    /// When all was last proven, as known when this was written; the annotation `holdfast.dev/proven` of the agent's
    /// Lease says it to the minute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<Time>,
    /// What failed; at most 16.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub failures: Vec<ProofFailure>,
    /// Mechanisms that were tried by effect, such as `cgroup_skb` or `lsm`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub tried: Vec<String>,
}

/// What became of a proof.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum ProofResult {
    /// All was read back as it should be, and every mechanism in use refused what it should.
    Proven,
    /// Something was not as it should be.
    Failed,
    /// The last change has not been proven yet.
    Pending,
}

/// Something that a proof found wrong.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ProofFailure {
    /// The kind, as the metric `holdfast_probe_failures_total` has it.
    pub kind: String,
    /// What was wrong.
    pub message: String,
}

/// One mechanism of the kernel.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Mechanism {
    /// Its name, as the `mechanism` label of metrics has it.
    pub name: String,
    /// Whether it works.
    pub state: MechanismState,
    /// Why it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Whether a mechanism works.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum MechanismState {
    /// Its effect was seen.
    Available,
    /// The kernel does not have it, or has it without effect.
    Unavailable,
    /// Finding out failed.
    Error,
}

/// What one policy was given on this node.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyReport {
    /// The policy's namespace; absent for a ClusterWorkloadPolicy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// The policy's name.
    pub name: String,
    /// The policy's UID.
    pub uid: String,
    /// The generation that `state` is about.
    pub generation: i64,
    /// How far that generation got.
    pub state: PolicyState,
    /// The generation in force, where that is another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_force: Option<i64>,
    /// Why the state is not `Programmed`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Workloads of this node that the policy selects.
    #[serde(default)]
    pub workloads: i64,
    /// Rules whose given differs from asked.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub rules: Vec<RuleReport>,
    /// Rules left out of `rules` because the report would have become too large.
    #[serde(default)]
    pub omitted: i64,
}

/// How far a policy's generation got on a node.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum PolicyState {
    /// Seen, and not yet in the kernel.
    Pending,
    /// Written to the kernel and read back.
    Programmed,
    /// The kernel refused it, or a map is full; an earlier generation may be in force.
    Failed,
    /// The policy itself is wrong; an earlier generation may be in force.
    Invalid,
}

/// A rule whose given differs from asked.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RuleReport {
    /// The rule's path in the spec, such as `syscalls.rules[0]`.
    pub rule: String,
    /// What the rule asks for.
    pub asked: Asked,
    /// What it really does here.
    pub given: Given,
    /// The mechanism that gives it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mechanism: Option<String>,
    /// Why it is not what was asked, in one word of CamelCase.
    pub reason: String,
}

/// What a rule asks for.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, Ord, PartialEq, PartialOrd, Serialize)]
pub enum Asked {
    /// Let it through.
    Allow,
    /// Let it through and record it.
    Audit,
    /// Refuse it.
    Deny,
    /// Kill the process.
    Kill,
}

/// What a rule really does on a node. Only the first two refuse before the effect.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, Ord, PartialEq, PartialOrd, Serialize)]
pub enum Given {
    /// The call or packet has no effect.
    Deny,
    /// The call has no effect, and the process dies.
    DenyAndKill,
    /// The process dies, the call's effect may stand.
    KillAfterEffect,
    /// It is let through and recorded.
    Audit,
    /// Nothing: this node has no mechanism for it.
    NotCovered,
    /// Nothing: this node does not have what the rule names.
    NotApplicable,
}

/// Something wrong with one object or file of the agent's source.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SourceError {
    /// The object (`kind namespace/name`) or the file and document.
    pub origin: String,
    /// What is wrong, naming the field.
    pub message: String,
}
