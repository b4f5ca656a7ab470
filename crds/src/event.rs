//! Events: one JSON object a line for what a rule refused, killed or would have refused, written by agents and read by
//! people, log collectors and `kubectl holdfast logs`.
//!
//! [`Schema::V1`] names the layout: fields may be added to it, none changes its meaning or goes. A field is absent where
//! nothing is known; nothing is guessed. [`Event::count`] and [`Gap::lost`] together add up to the kernel's counters
//! (`holdfast_denials_total`, `holdfast_audits_total`), whatever was suppressed or lost on the way.
//!
//! Paths and arguments are bytes in the kernel: [`escape`] shows them as text without losing any.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

mod escape;

pub use crate::workload_node::Asked;
pub use escape::{escape, unescape};

/// The value of an event's `schema`: in a stream that holds other lines too, a line with it is an event.
pub const SCHEMA: &str = "holdfast.dev/event/v1";

/// One line: a denial, an audit, or a note of lines that are missing.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    /// The layout of the line.
    pub schema: Schema,
    /// When it happened: RFC 3339 in UTC, with nanoseconds.
    pub time: String,
    /// The node's name.
    pub node: String,
    /// What the line is about.
    pub kind: EventKind,
    /// The workload's namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Kind and name of the workload's top owner, such as `Deployment/api`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload: Option<String>,
    /// The pod; absent for workloads outside the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<EventPod>,
    /// The container's name. Absent where a packet's socket is not known to be of one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// Who did it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<Process>,
    /// The policy: `namespace/name`, or `cluster/name`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// The policy's generation in force then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<i64>,
    /// The rule's path in the policy's spec, such as `network.egress.deny[0]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// What the rule is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule_kind: Option<RuleKind>,
    /// The mechanism of the kernel that decided, such as `cgroup_skb`, `lsm` or `sys_enter`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mechanism: Option<String>,
    /// What the rule asks for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked: Option<Asked>,
    /// What was done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub given: Option<Done>,
    /// The packet or connection, for network rules.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<Network>,
    /// The system call, where there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub syscall: Option<Syscall>,
    /// What it was done to, for rules on files and processes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<File>,
    /// The capability that was to be used, such as `NET_RAW`; `syscall` is the call that wanted it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capability: Option<String>,
    /// How many denials (or audits) of this workload and rule the line stands for: those suppressed, and the one described.
    /// It equals `suppressed` where none is described; 0 for a gap.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub count: u64,
    /// How many of `count` have no line of their own, as they came faster than the rate for one workload and rule.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub suppressed: u64,
    /// What is missing, for lines of kind Gap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gap: Option<Gap>,
}

impl Event {
    /// An event of which nothing else is known.
    #[must_use]
    pub fn new(time: String, node: String, kind: EventKind) -> Self {
        Self {
            schema: Schema::V1,
            time,
            node,
            kind,
            namespace: None,
            workload: None,
            pod: None,
            container: None,
            process: None,
            policy: None,
            generation: None,
            rule: None,
            rule_kind: None,
            mechanism: None,
            asked: None,
            given: None,
            network: None,
            syscall: None,
            file: None,
            capability: None,
            count: 0,
            suppressed: 0,
            gap: None,
        }
    }

    /// Reads a line; `None` where it is no event, as in a stream that holds an agent's log too.
    #[must_use]
    pub fn from_line(line: &str) -> Option<Self> {
        // Cheap for lines of a log, most of which are no JSON at all.
        line.contains(SCHEMA).then(|| serde_json::from_str(line.trim()).ok()).flatten()
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// The layout of a line.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum Schema {
    /// This one; see [`SCHEMA`].
    #[serde(rename = "holdfast.dev/event/v1")]
    V1,
}

/// What a line is about.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, JsonSchema, Ord, PartialEq, PartialOrd, Serialize)]
pub enum EventKind {
    /// Something was refused, or its process killed.
    Denied,
    /// Something was let through that a rule audits, or that a policy in mode Audit would have refused.
    Audited,
    /// Lines are missing here.
    Gap,
}

/// A pod.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EventPod {
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
}

/// Who did it. For a packet only the cgroup of the socket's creator may be known.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Process {
    /// Process id in the host's PID namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// Id of the thread, where it is not the process's first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thread: Option<u32>,
    /// When the process started: RFC 3339 in UTC. With the pid it tells processes apart whose pid was used again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_time: Option<String>,
    /// The name that the kernel keeps of the thread, at most 15 bytes; escaped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Path of the executable as the process's own mount namespace shows it; escaped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub executable: Option<String>,
    /// Arguments, the first being the name that the process was called by; escaped.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub arguments: Vec<String>,
    /// What of the above is not whole: of a path its beginning is missing, of arguments their end.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub truncated: Vec<Truncated>,
    /// Path of the cgroup in the cgroup v2 tree. For a packet: of the socket's creator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<String>,
    /// The parent process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<Parent>,
}

/// A part of a process that was too long.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum Truncated {
    /// [`Process::executable`].
    Executable,
    /// [`Process::arguments`].
    Arguments,
    /// [`Parent::executable`].
    ParentExecutable,
}

/// A parent process.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Parent {
    /// Process id in the host's PID namespace.
    pub pid: u32,
    /// Path of its executable; escaped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub executable: Option<String>,
}

/// What a rule is about.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, JsonSchema, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RuleKind {
    /// Packets and connections.
    Network,
    /// System calls.
    Syscall,
    /// Executing programs.
    Process,
    /// Files.
    File,
    /// Uses of capabilities.
    Capability,
}

impl RuleKind {
    /// As it stands in events and in the label `rule_kind` of metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Network => "network",
            Self::Syscall => "syscall",
            Self::Process => "process",
            Self::File => "file",
            Self::Capability => "capability",
        }
    }
}

/// What was done, as the label `given` of `holdfast_denials_total` has it.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, JsonSchema, Ord, PartialEq, PartialOrd, Serialize)]
pub enum Done {
    /// A packet was dropped in silence.
    Drop,
    /// A call that would send or connect failed with EPERM.
    Reject,
    /// A call failed with EPERM and had no effect.
    Deny,
    /// The call had no effect, and the process was killed.
    DenyAndKill,
    /// The process was killed; the call's effect may stand.
    KillAfterEffect,
    /// Nothing: it was let through and recorded.
    Audit,
}

impl Done {
    /// As it stands in events and in the label `given` of metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Drop => "Drop",
            Self::Reject => "Reject",
            Self::Deny => "Deny",
            Self::DenyAndKill => "DenyAndKill",
            Self::KillAfterEffect => "KillAfterEffect",
            Self::Audit => "Audit",
        }
    }
}

/// A packet or connection. An address is `192.0.2.1:443` or `[2001:db8::1]:443`, and without the port where the protocol
/// has none or it cannot be read.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Network {
    /// Which direction's rules decided: that in which the connection was opened, not that of the packet.
    pub direction: Direction,
    /// `TCP`, `UDP`, `SCTP`, `ICMP`, `ICMPv6`, or the number that the header has.
    pub protocol: String,
    /// Where the packet came from. Absent at a connect, which knows it not yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Where it was to go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination: Option<String>,
}

/// A direction, as seen from the workload.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum Direction {
    /// The workload was called.
    Ingress,
    /// The workload called.
    Egress,
}

/// A system call.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Syscall {
    /// Its name; absent where the number has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its number in the table of `abi`.
    pub number: u32,
    /// The entry that it came by: `x86_64`, `i386` or `aarch64`.
    pub abi: String,
    /// The six argument registers, as `0x…`; of 32 bits for a 32-bit entry.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub arguments: Vec<String>,
}

/// A file, or a program that was to be executed.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct File {
    /// Its path in the process's mount namespace, whatever links led to it; of what is mounted nowhere, such as a memfd, its
    /// name; escaped.
    pub path: String,
    /// What was done to it: as `operations` of a file rule has it, or `Execute`.
    pub operations: Vec<String>,
    /// Where it is. Absent where that cannot be told, as in a container whose root is no overlay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
    /// The beginning of the path is missing, as it is too long or of a tree that is mounted nowhere.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub truncated: bool,
}

/// Where a file is, as the mounts of its process's mount namespace tell. All but `Image` is what `notInImage` speaks of.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum Origin {
    /// In the container's image: a lower layer of its root.
    Image,
    /// In the root's upper layer: written or changed since the container was made.
    Written,
    /// In memory, and mounted nowhere: memfd.
    Memory,
    /// On a tmpfs.
    Tmpfs,
    /// On another mount: a volume.
    Volume,
}

/// Lines that are missing.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Gap {
    /// Where they were lost: `denials` or `audits` (the kernel's ring buffers), or `output` (the file or pipe took no more).
    pub buffer: String,
    /// How many denials and audits have no line for it.
    pub lost: u64,
}

#[cfg(test)]
mod tests;
