//! A policy's identity, target and mode, and references to its rules.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};

use super::{Capabilities, Capability, Direction, Files, Network, Processes, Syscalls, Workload, World};
use crate::selector::Selector;

/// The name of a policy. Displayed as `namespace/name`, or `cluster/name` for a cluster policy, and ordered by that
/// very text (a cluster policy before a namespaced one of the same text).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PolicyId {
    /// The namespace of a `WorkloadPolicy`; `None` for a `ClusterWorkloadPolicy`.
    pub namespace: Option<String>,
    /// The object's name.
    pub name: String,
}

impl PolicyId {
    /// The identity of a `WorkloadPolicy`.
    pub fn namespaced(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: Some(namespace.into()), name: name.into() }
    }

    /// The identity of a `ClusterWorkloadPolicy`.
    pub fn cluster(name: impl Into<String>) -> Self {
        Self { namespace: None, name: name.into() }
    }

    fn scope(&self) -> &str {
        self.namespace.as_deref().unwrap_or("cluster")
    }

    fn text(&self) -> impl Iterator<Item = u8> + '_ {
        self.scope().bytes().chain(std::iter::once(b'/')).chain(self.name.bytes())
    }
}

impl fmt::Display for PolicyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.scope(), self.name)
    }
}

impl Ord for PolicyId {
    fn cmp(&self, other: &Self) -> Ordering {
        self.text().cmp(other.text()).then_with(|| self.namespace.cmp(&other.namespace))
    }
}

impl PartialOrd for PolicyId {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Whether a policy's answers are carried out or only counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Mode {
    /// Carried out.
    Enforce,
    /// Changes no verdict; counts what would have been refused.
    Audit,
}

/// The namespaces that a policy looks for its workloads in.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum NamespaceTarget {
    /// The namespace of a `WorkloadPolicy`.
    One(String),
    /// The namespaces that a `ClusterWorkloadPolicy` selects by label. `kube-system` and the agent's own namespace are
    /// left alone unless the selector names them by `kubernetes.io/metadata.name`.
    Matching(Selector),
}

/// The workloads that a policy applies to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Target {
    /// In which namespaces.
    pub namespaces: NamespaceTarget,
    /// Which of the workloads there; the empty selector = all.
    pub pods: Selector,
}

impl Target {
    /// Whether the workloads of this namespace are looked at.
    #[must_use]
    pub fn covers_namespace(&self, world: &World, namespace: &str) -> bool {
        match &self.namespaces {
            NamespaceTarget::One(one) => one == namespace,
            NamespaceTarget::Matching(selector) => {
                selector.matches_namespace(namespace, world.namespaces.get(namespace))
                    && (!world.protects(namespace) || selector.names_namespace(namespace))
            }
        }
    }

    /// Whether the policy applies to this workload (whatever its container).
    #[must_use]
    pub fn selects(&self, world: &World, workload: &Workload) -> bool {
        self.covers_namespace(world, &workload.namespace) && self.pods.matches(&workload.labels)
    }
}

/// A `WorkloadPolicy` or `ClusterWorkloadPolicy`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Policy {
    /// Its name.
    pub id: PolicyId,
    /// The object's UID: an object deleted and made anew under the same name is another policy.
    pub uid: String,
    /// The object's `metadata.generation`.
    pub generation: i64,
    /// The workloads that it applies to.
    pub target: Target,
    /// Only these containers of a pod; `None` = all, init and ephemeral ones included. Network rules act on the whole
    /// pod and ignore this.
    pub containers: Option<Vec<String>>,
    /// Whether it is carried out or only counted.
    pub mode: Mode,
    /// Network rules, if any.
    pub network: Option<Network>,
    /// System call rules, if any.
    pub syscalls: Option<Syscalls>,
    /// Process rules, if any.
    pub processes: Option<Processes>,
    /// File rules, if any.
    pub files: Option<Files>,
    /// Capability rules, if any.
    pub capabilities: Option<Capabilities>,
}

impl Policy {
    /// A hash of everything that the policy says: equal for equal specs, whatever the generation. Stable for one build
    /// of this crate, not between builds.
    #[must_use]
    pub fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        (&self.id, &self.target, &self.containers, self.mode, &self.network, &self.syscalls)
            .hash(&mut hasher);
        (&self.processes, &self.files, &self.capabilities).hash(&mut hasher);
        hasher.finish()
    }

    /// Whether the rules other than network rules apply to this container of a selected workload. `None` is the pod's own cgroup
    /// and what is not known by name: only policies for all containers apply there.
    #[must_use]
    pub fn covers_container(&self, container: Option<&str>) -> bool {
        match (&self.containers, container) {
            (None, _) => true,
            (Some(names), Some(container)) => names.iter().any(|name| name == container),
            (Some(_), None) => false,
        }
    }
}

/// The policies that apply to this workload, in the order of their names.
#[must_use]
pub fn selecting<'a>(policies: &'a [Policy], world: &World, workload: &Workload) -> Vec<&'a Policy> {
    let mut selected: Vec<&Policy> =
        policies.iter().filter(|policy| policy.target.selects(world, workload)).collect();
    selected.sort_by(|a, b| a.id.cmp(&b.id));
    selected
}

/// The place of a rule in a policy's spec. Indices count from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RulePath {
    /// The isolation of a direction: what no rule allows is refused. `network.ingress`
    Default(Direction),
    /// `network.ingress.allow[n]`
    Allow(Direction, u16),
    /// `network.ingress.deny[n]`
    Deny(Direction, u16),
    /// `syscalls.rules[n]`
    Syscall(u16),
    /// What no system call rule matches: `syscalls.default`
    SyscallDefault,
    /// What no process rule matches: `processes.default`
    ProcessDefault,
    /// `processes.rules[n]`
    Process(u16),
    /// `files.rules[n]`
    File(u16),
    /// One of `capabilities.deny`, by its name: `capabilities.deny[NET_RAW]`
    Capability(Capability),
}

impl fmt::Display for RulePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default(direction) => write!(f, "network.{direction}"),
            Self::Allow(direction, index) => write!(f, "network.{direction}.allow[{index}]"),
            Self::Deny(direction, index) => write!(f, "network.{direction}.deny[{index}]"),
            Self::Syscall(index) => write!(f, "syscalls.rules[{index}]"),
            Self::SyscallDefault => f.write_str("syscalls.default"),
            Self::ProcessDefault => f.write_str("processes.default"),
            Self::Process(index) => write!(f, "processes.rules[{index}]"),
            Self::File(index) => write!(f, "files.rules[{index}]"),
            Self::Capability(capability) => write!(f, "capabilities.deny[{capability}]"),
        }
    }
}

/// A rule of a policy. Displayed as `namespace/name network.ingress.deny[0]`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RuleRef {
    /// The policy.
    pub policy: PolicyId,
    /// The place in its spec.
    pub path: RulePath,
}

impl fmt::Display for RuleRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.policy, self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_are_ordered_by_the_text_they_display() {
        let mut ids = [
            PolicyId::namespaced("shop-2", "a"),
            PolicyId::namespaced("shop", "b"),
            PolicyId::cluster("z"),
            PolicyId::namespaced("cluster", "z"),
            PolicyId::namespaced("bank", "a"),
            PolicyId::namespaced("shop", "a-b"),
        ];
        ids.sort();
        let texts: Vec<String> = ids.iter().map(ToString::to_string).collect();
        let mut sorted = texts.clone();
        sorted.sort();
        assert_eq!(texts, sorted);
        assert_eq!(ids[1], PolicyId::cluster("z"));
        assert_eq!(ids[2], PolicyId::namespaced("cluster", "z"));
    }

    #[test]
    fn paths_name_the_field() {
        assert_eq!(RulePath::Default(Direction::Egress).to_string(), "network.egress");
        assert_eq!(RulePath::Allow(Direction::Ingress, 3).to_string(), "network.ingress.allow[3]");
        assert_eq!(RulePath::Deny(Direction::Ingress, 0).to_string(), "network.ingress.deny[0]");
        assert_eq!(RulePath::Syscall(7).to_string(), "syscalls.rules[7]");
        assert_eq!(RulePath::SyscallDefault.to_string(), "syscalls.default");
    }
}
