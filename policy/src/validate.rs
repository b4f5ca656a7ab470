//! What can be said against a policy without knowing a cluster.
//!
//! The CRD's schema and CEL refuse most of it when the object is written; this is the same judgement for files and for
//! objects that passed an older schema, and what CEL cannot know: the tables of system calls.

use crate::error::FieldError;
use crate::model::syscall::fits;
use crate::model::{
    ALWAYS_ALLOWED, Action, ArgCondition, ArgOp, Direction, Fallback, IpBlock, NetRule, Network, Peer,
    Policy, PortMatch, PortRef, SyscallDefault, Syscalls,
};
use crate::selector::{Operator, Selector};
use crate::syscalls;

/// Labels that differ for each pod, or that a controller makes up: no identity carries them.
const PER_POD_LABELS: [&str; 6] = [
    "pod-template-hash",
    "controller-revision-hash",
    "pod-template-generation",
    "statefulset.kubernetes.io/pod-name",
    "apps.kubernetes.io/pod-index",
    "controller-uid",
];

/// Whether a label is left out of identities, so that a policy cannot select on it.
#[must_use]
pub fn is_per_pod_label(key: &str) -> bool {
    PER_POD_LABELS.contains(&key) || key.starts_with("batch.kubernetes.io/")
}

/// Everything that is wrong with the policy, in the order of its fields; empty = it can be compiled.
#[must_use]
pub fn validate(policy: &Policy) -> Vec<FieldError> {
    let mut found = Found(Vec::new());
    found.selector("selector", &policy.target.pods);
    if let crate::model::NamespaceTarget::Matching(selector) = &policy.target.namespaces {
        found.selector("namespaceSelector", selector);
    }
    if policy.containers.as_ref().is_some_and(Vec::is_empty) {
        found.add("containers", "is empty; leave it out to mean all containers");
    }
    let says_nothing = policy.network.is_none()
        && policy.syscalls.is_none()
        && policy.processes.is_none()
        && policy.files.is_none()
        && policy.capabilities.is_none();
    if says_nothing {
        found.add(
            "",
            "the policy has none of network, syscalls, processes, files and capabilities: it says nothing",
        );
    }
    if let Some(network) = &policy.network {
        found.network(network);
    }
    if let Some(syscalls) = &policy.syscalls {
        found.syscalls(syscalls);
    }
    if let Some(processes) = &policy.processes {
        found.processes(processes);
    }
    if let Some(files) = &policy.files {
        found.files(files);
    }
    if policy.capabilities.as_ref().is_some_and(|capabilities| capabilities.deny.is_empty()) {
        found.add("capabilities.deny", "is empty, so it says nothing");
    }
    found.0
}

struct Found(Vec<FieldError>);

impl Found {
    fn add(&mut self, field: impl Into<String>, problem: impl Into<String>) {
        self.0.push(FieldError::new(field, problem));
    }

    fn selector(&mut self, field: &str, selector: &Selector) {
        for key in selector.keys() {
            if is_per_pod_label(key) {
                self.add(
                    field,
                    format!("selects on {key}, which differs for each pod and is in no identity"),
                );
            }
        }
        for (index, requirement) in selector.match_expressions.iter().enumerate() {
            let field = format!("{field}.matchExpressions[{index}].values");
            match (requirement.operator, requirement.values.is_empty()) {
                (Operator::In | Operator::NotIn, true) => {
                    self.add(field, "is empty, though In and NotIn need values");
                }
                (Operator::Exists | Operator::DoesNotExist, false) => {
                    self.add(field, "has values, though Exists and DoesNotExist take none");
                }
                _ => {}
            }
        }
    }

    fn network(&mut self, network: &Network) {
        if network.ingress.is_none() && network.egress.is_none() {
            self.add("network", "has neither ingress nor egress, so it says nothing");
        }
        for direction in Direction::ALL {
            let Some(rules) = network.direction(direction) else { continue };
            for (list, rules) in [("allow", &rules.allow), ("deny", &rules.deny)] {
                for (index, rule) in rules.iter().enumerate() {
                    self.rule(&format!("network.{direction}.{list}[{index}]"), direction, rule);
                }
            }
        }
    }

    fn rule(&mut self, field: &str, direction: Direction, rule: &NetRule) {
        let peers_field = match direction {
            Direction::Ingress => format!("{field}.from"),
            Direction::Egress => format!("{field}.to"),
        };
        if rule.peers.as_ref().is_some_and(Vec::is_empty) {
            self.add(&peers_field, "is empty; leave it out to mean anyone");
        }
        if rule.ports.as_ref().is_some_and(Vec::is_empty) {
            self.add(format!("{field}.ports"), "is empty; leave it out to mean every port");
        }
        for (index, peer) in rule.peers.iter().flatten().enumerate() {
            self.peer(&format!("{peers_field}[{index}]"), peer);
        }
        let block = rule.peers.iter().flatten().position(|peer| matches!(peer, Peer::IpBlock(_)));
        for (index, port) in rule.ports.iter().flatten().enumerate() {
            let field = format!("{field}.ports[{index}]");
            self.port(&field, port);
            if let (Direction::Egress, Some(block), Some(PortRef::Name(name))) =
                (direction, block, &port.port)
            {
                let problem = format!(
                    "names the port {name:?}, but an address block ({peers_field}[{block}]) has no named ports"
                );
                self.add(format!("{field}.port"), problem);
            }
        }
    }

    fn port(&mut self, field: &str, port: &PortMatch) {
        match (&port.port, port.end_port) {
            (None, Some(_)) => self.add(format!("{field}.endPort"), "needs port, the first of the range"),
            (Some(PortRef::Name(_)), Some(_)) => {
                self.add(format!("{field}.endPort"), "cannot follow a named port");
            }
            (Some(PortRef::Number(first)), Some(last)) if last < *first => {
                self.add(format!("{field}.endPort"), format!("{last} is below port {first}"));
            }
            _ => {}
        }
        match &port.port {
            Some(PortRef::Number(0)) => self.add(format!("{field}.port"), "0 is no port"),
            Some(PortRef::Name(name)) if name.is_empty() => self.add(format!("{field}.port"), "is empty"),
            _ => {}
        }
    }

    fn peer(&mut self, field: &str, peer: &Peer) {
        match peer {
            Peer::Pods { namespaces, pods } => {
                if namespaces.is_none() && pods.is_none() {
                    self.add(field, "has nothing in it");
                }
                if let Some(pods) = pods {
                    self.selector(&format!("{field}.podSelector"), pods);
                }
                if let Some(namespaces) = namespaces {
                    self.selector(&format!("{field}.namespaceSelector"), namespaces);
                }
            }
            Peer::ServiceAccount { name, .. } if name.is_empty() => {
                self.add(format!("{field}.serviceAccount.name"), "is empty");
            }
            Peer::IpBlock(block) => self.block(&format!("{field}.ipBlock"), block),
            Peer::ServiceAccount { .. } | Peer::Entity(_) => {}
        }
    }

    fn block(&mut self, field: &str, block: &IpBlock) {
        if block.cidr != block.cidr.trunc() {
            self.add(format!("{field}.cidr"), format!("has host bits; {} is meant?", block.cidr.trunc()));
        }
        for (index, except) in block.except.iter().enumerate() {
            let field = format!("{field}.except[{index}]");
            if *except != except.trunc() {
                self.add(&field, format!("has host bits; {} is meant?", except.trunc()));
            }
            if except.addr().is_ipv4() != block.cidr.addr().is_ipv4() {
                self.add(&field, format!("{except} is of another address family than {}", block.cidr));
            } else if !block.cidr.contains(except) || except.prefix_len() == block.cidr.prefix_len() {
                self.add(&field, format!("{except} is not a part of {}", block.cidr));
            }
        }
    }

    fn syscalls(&mut self, syscalls: &Syscalls) {
        for (index, rule) in syscalls.rules.iter().enumerate() {
            let field = format!("syscalls.rules[{index}]");
            if rule.names.is_empty() {
                self.add(format!("{field}.names"), "is empty");
            }
            for (index, name) in rule.names.iter().enumerate() {
                self.syscall_name(&format!("{field}.names[{index}]"), name);
            }
            for (index, condition) in rule.args.iter().enumerate() {
                self.condition(&format!("{field}.args[{index}]"), &rule.names, condition);
            }
        }
        if syscalls.rules.is_empty() && syscalls.default == SyscallDefault::Allow {
            self.add("syscalls.rules", "is empty and calls are allowed by default, so that it says nothing");
        }
        let denies = syscalls.rules.iter().any(|rule| rule.action == Action::Deny);
        if syscalls.fallback != Fallback::None && !denies {
            self.add(
                "syscalls.fallback",
                "says what to do where Deny is impossible, but no rule has action Deny",
            );
        }
    }

    fn syscall_name(&mut self, field: &str, name: &str) {
        if ALWAYS_ALLOWED.contains(&name) {
            self.add(field, format!("{name} is always allowed: no process could go on without it"));
        } else if name.starts_with('@') {
            if syscalls::group(name).is_none() {
                self.add(field, format!("{name} is no known group of system calls"));
            }
        } else if !syscalls::is_known(name) {
            self.add(field, format!("{name} is no known system call"));
        }
    }

    fn condition(&mut self, field: &str, names: &[String], condition: &ArgCondition) {
        if condition.index > 5 {
            self.add(format!("{field}.index"), format!("{} is not from 0 to 5", condition.index));
            return;
        }
        // One complaint for each condition is enough: a group may have dozens of calls.
        for call in names.iter().flat_map(|name| syscalls::expand(name)) {
            if ALWAYS_ALLOWED.contains(&call) {
                continue;
            }
            let Some(kind) =
                syscalls::signature(call).and_then(|args| args.get(usize::from(condition.index)))
            else {
                self.add(format!("{field}.index"), format!("{call} has no argument {}", condition.index));
                return;
            };
            if kind.is_pointer() {
                let problem = format!(
                    "argument {} of {call} is a pointer: what it points at can change after the check",
                    condition.index
                );
                self.add(format!("{field}.index"), problem);
                return;
            }
            let width = kind.width();
            let too_wide =
                format!("does not fit argument {} of {call}, which has {width} bits", condition.index);
            if !fits(condition.value, *kind) {
                self.add(format!("{field}.value"), too_wide);
                return;
            }
            if let ArgOp::MaskedEqual { mask } = condition.op {
                if !fits(mask, *kind) {
                    self.add(format!("{field}.mask"), too_wide);
                    return;
                }
                if (condition.value & !mask) << (64 - width) != 0 {
                    self.add(format!("{field}.value"), "has bits outside the mask, so that it never holds");
                    return;
                }
            }
        }
    }
}

mod access;
#[cfg(test)]
mod tests;
