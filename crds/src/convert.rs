//! From specs and slices to `holdfast_policy::model`: the only place where one becomes the other.
//!
//! What the API server has accepted converts, but for what only a human-sized rule can say (an argument that is too
//! narrow for its value, for example); such a policy is refused here, naming the field.

use std::collections::BTreeMap;
use std::net::IpAddr;

use holdfast_policy::error::FieldError;
use holdfast_policy::model;
use holdfast_policy::selector::{Operator, Requirement, Selector};
use holdfast_policy::validate::validate;
use kube::ResourceExt;

use crate::address_slice::{AddressSliceSpec, IdentityEntry};
use crate::capabilities::Capabilities;
use crate::external_workload::NamedPort;
use crate::files::Files;
use crate::network::{self, Entity, Network, OnDeny, Peer, Port, PortMatch, Protocol};
use crate::processes::Processes;
use crate::selector::{LabelOperator, LabelSelector};
use crate::syscalls::{ArgMatch, ArgOp, Fallback, SyscallDefault, Syscalls};
use crate::workload_policy::Mode;
use crate::{ClusterWorkloadPolicy, ExternalWorkload, WorkloadPolicy, rules};

/// The namespace of a namespaced document that names none.
pub const DEFAULT_NAMESPACE: &str = "default";

/// The policy that a WorkloadPolicy states.
///
/// # Errors
/// Everything that is wrong with it, each with its field below `spec`.
pub fn workload_policy(object: &WorkloadPolicy) -> Result<model::Policy, Vec<FieldError>> {
    let namespace = object.namespace().unwrap_or_else(|| DEFAULT_NAMESPACE.to_owned());
    let spec = &object.spec;
    let policy = Parts {
        id: model::PolicyId::namespaced(namespace.clone(), object.name_any()),
        uid: object.uid().unwrap_or_default(),
        generation: object.metadata.generation.unwrap_or_default(),
        target: model::Target {
            namespaces: model::NamespaceTarget::One(namespace),
            pods: selector(&spec.selector),
        },
        containers: spec.containers.as_ref(),
        mode: spec.mode,
        network: spec.network.as_ref(),
        syscalls: spec.syscalls.as_ref(),
        processes: spec.processes.as_ref(),
        files: spec.files.as_ref(),
        capabilities: spec.capabilities.as_ref(),
    };
    policy.build()
}

/// The policy that a ClusterWorkloadPolicy states.
///
/// # Errors
/// Everything that is wrong with it, each with its field below `spec`.
pub fn cluster_workload_policy(object: &ClusterWorkloadPolicy) -> Result<model::Policy, Vec<FieldError>> {
    let spec = &object.spec;
    let policy = Parts {
        id: model::PolicyId::cluster(object.name_any()),
        uid: object.uid().unwrap_or_default(),
        generation: object.metadata.generation.unwrap_or_default(),
        target: model::Target {
            namespaces: model::NamespaceTarget::Matching(selector(&spec.namespace_selector)),
            pods: selector(&spec.selector),
        },
        containers: spec.containers.as_ref(),
        mode: spec.mode,
        network: spec.network.as_ref(),
        syscalls: spec.syscalls.as_ref(),
        processes: spec.processes.as_ref(),
        files: spec.files.as_ref(),
        capabilities: spec.capabilities.as_ref(),
    };
    policy.build()
}

/// The workload that an ExternalWorkload states, as its own agent sees it. One for each cgroup differs in nothing but
/// the cgroup, which is not part of the model.
#[must_use]
pub fn external_workload(object: &ExternalWorkload) -> model::Workload {
    model::Workload {
        namespace: object.namespace().unwrap_or_else(|| DEFAULT_NAMESPACE.to_owned()),
        name: object.name_any(),
        uid: object.uid().unwrap_or_default(),
        container: None,
        labels: object.labels().clone(),
        service_account: None,
        owner: Some(model::Owner { kind: "ExternalWorkload".to_owned(), name: object.name_any() }),
        named_ports: named_ports(&object.spec.ports),
        net: if object.spec.cgroups.is_empty() {
            model::NetScope::WholeHost
        } else {
            model::NetScope::HostPart
        },
    }
}

/// The identity that an ExternalWorkload's addresses have as peers, under a number of the caller's choice.
#[must_use]
pub fn external_identity(object: &ExternalWorkload, id: u32) -> model::Identity {
    model::Identity {
        id,
        namespace: object.namespace().unwrap_or_else(|| DEFAULT_NAMESPACE.to_owned()),
        service_account: None,
        labels: object.labels().clone(),
        named_ports: named_ports(&object.spec.ports),
    }
}

/// An ExternalWorkload's addresses, canonical. What is no address, which the schema refuses, is left out.
#[must_use]
pub fn external_addresses(object: &ExternalWorkload) -> Vec<IpAddr> {
    object.spec.addresses.iter().filter_map(|address| rules::parse_address(address)).collect()
}

/// The identity that an entry of a slice states.
#[must_use]
pub fn identity(entry: &IdentityEntry) -> model::Identity {
    model::Identity {
        id: entry.id,
        namespace: entry.namespace.clone(),
        service_account: entry.service_account.clone(),
        labels: entry.labels.clone(),
        named_ports: named_ports(&entry.ports),
    }
}

/// What all slices together say of the cluster. `own_namespace` is the namespace that Holdfast runs in.
///
/// An identity number or address that several slices state is taken from the last of them; the operator moves entries
/// by adding before it removes, so both say the same. A service of which a part is missing is incomplete.
#[must_use]
pub fn world<'a>(
    slices: impl IntoIterator<Item = &'a AddressSliceSpec>,
    own_namespace: Option<String>,
) -> model::World {
    let mut world = model::World { own_namespace, ..model::World::default() };
    let mut parts: BTreeMap<IpAddr, Vec<(u32, u32)>> = BTreeMap::new();
    for slice in slices {
        for namespace in &slice.namespaces {
            world.namespaces.insert(namespace.name.clone(), namespace.labels.clone());
        }
        for entry in &slice.identities {
            world.identities.insert(entry.id, identity(entry));
        }
        for entry in &slice.addresses {
            let entities = entry.entities.iter().map(|known| entity(*known).bit());
            let entities = entities.fold(model::Entities::NONE, |all, bit| all | bit);
            let facts = model::AddressFacts { identity: entry.identity, entities };
            world.addresses.insert(model::canonical(entry.address), facts);
        }
        for entry in &slice.services {
            let address = model::canonical(entry.address);
            parts.entry(address).or_default().push((entry.part, entry.parts));
            let service = world.services.entry(address).or_default();
            service.namespace.clone_from(&entry.namespace);
            service.name.clone_from(&entry.name);
            for port in &entry.ports {
                let backends = service.ports.entry((protocol(port.protocol), port.port)).or_default();
                let ready =
                    port.backends.iter().map(|backend| (model::canonical(backend.address), backend.port));
                backends.ready.extend(ready);
            }
        }
    }
    for (address, service) in &mut world.services {
        let complete = parts.get(address).is_some_and(|parts| is_complete(parts));
        for backends in service.ports.values_mut() {
            backends.ready.sort_unstable();
            backends.ready.dedup();
            backends.complete = complete;
        }
    }
    world
}

/// Whether parts (number, of how many) are all the parts of one and the same division.
fn is_complete(parts: &[(u32, u32)]) -> bool {
    let Some((_, count)) = parts.first() else { return false };
    parts.iter().all(|(_, of)| of == count)
        && (0..*count).all(|part| parts.iter().any(|(number, _)| *number == part))
}

/// The parts of a policy that both kinds have.
struct Parts<'a> {
    id: model::PolicyId,
    uid: String,
    generation: i64,
    target: model::Target,
    containers: Option<&'a Vec<String>>,
    mode: Mode,
    network: Option<&'a Network>,
    syscalls: Option<&'a Syscalls>,
    processes: Option<&'a Processes>,
    files: Option<&'a Files>,
    capabilities: Option<&'a Capabilities>,
}

impl Parts<'_> {
    fn build(self) -> Result<model::Policy, Vec<FieldError>> {
        let mut errors = Vec::new();
        let policy = model::Policy {
            id: self.id,
            uid: self.uid,
            generation: self.generation,
            target: self.target,
            containers: self.containers.cloned(),
            mode: match self.mode {
                Mode::Enforce => model::Mode::Enforce,
                Mode::Audit => model::Mode::Audit,
            },
            network: self.network.map(|network| network_rules(network, &mut errors)),
            syscalls: self.syscalls.map(|syscalls| syscall_rules(syscalls, &mut errors)),
            processes: self.processes.map(|processes| access::processes(processes, &mut errors)),
            files: self.files.map(|files| access::files(files, &mut errors)),
            capabilities: self.capabilities.map(|given| access::capabilities(given, &mut errors)),
        };
        // What could not be converted is left out of the policy: to judge the rest would find faults that are none.
        if errors.is_empty() {
            errors = validate(&policy);
        }
        if errors.is_empty() { Ok(policy) } else { Err(errors) }
    }
}

/// The selector of the model.
#[must_use]
pub fn selector(selector: &LabelSelector) -> Selector {
    Selector {
        match_labels: selector.match_labels.clone(),
        match_expressions: selector
            .match_expressions
            .iter()
            .map(|requirement| Requirement {
                key: requirement.key.clone(),
                operator: match requirement.operator {
                    LabelOperator::In => Operator::In,
                    LabelOperator::NotIn => Operator::NotIn,
                    LabelOperator::Exists => Operator::Exists,
                    LabelOperator::DoesNotExist => Operator::DoesNotExist,
                },
                values: requirement.values.clone(),
            })
            .collect(),
    }
}

fn network_rules(network: &Network, errors: &mut Vec<FieldError>) -> model::Network {
    let mut rule = |at: String, field: &str, peers: Option<&Vec<Peer>>, ports: Option<&Vec<PortMatch>>| {
        let peers = peers.map(|peers| {
            let numbered = peers.iter().enumerate();
            numbered.filter_map(|(index, one)| peer(one, &format!("{at}.{field}[{index}]"), errors)).collect()
        });
        model::NetRule { peers, ports: ports.map(|ports| ports.iter().map(port_match).collect()) }
    };
    let ingress = network.ingress.as_ref().map(|ingress| {
        let mut convert = |list: &str, rules: &[network::IngressRule]| {
            let numbered = rules.iter().enumerate();
            let at = |index| format!("network.ingress.{list}[{index}]");
            numbered
                .map(|(index, one)| rule(at(index), "from", one.from.as_ref(), one.ports.as_ref()))
                .collect()
        };
        model::Rules { allow: convert("allow", &ingress.allow), deny: convert("deny", &ingress.deny) }
    });
    let egress = network.egress.as_ref().map(|egress| {
        let mut convert = |list: &str, rules: &[network::EgressRule]| {
            let numbered = rules.iter().enumerate();
            let at = |index| format!("network.egress.{list}[{index}]");
            numbered.map(|(index, one)| rule(at(index), "to", one.to.as_ref(), one.ports.as_ref())).collect()
        };
        model::Rules { allow: convert("allow", &egress.allow), deny: convert("deny", &egress.deny) }
    });
    model::Network {
        ingress,
        egress,
        on_deny: match network.on_deny {
            OnDeny::Drop => model::OnDeny::Drop,
            OnDeny::Reject => model::OnDeny::Reject,
        },
    }
}

fn peer(peer: &Peer, at: &str, errors: &mut Vec<FieldError>) -> Option<model::Peer> {
    let pods = peer.pod_selector.is_some() || peer.namespace_selector.is_some();
    let forms = [pods, peer.service_account.is_some(), peer.ip_block.is_some(), peer.entity.is_some()];
    match forms.iter().filter(|form| **form).count() {
        0 => errors.push(FieldError::new(at, "names nobody")),
        1 => {}
        _ => errors.push(FieldError::new(at, "mixes forms that exclude each other")),
    }
    if let Some(account) = &peer.service_account {
        return Some(model::Peer::ServiceAccount {
            name: account.name.clone(),
            namespace: account.namespace.clone(),
        });
    }
    if let Some(block) = &peer.ip_block {
        let mut parse = |field: String, text: &str| {
            let block = rules::parse_cidr(text);
            if block.is_none() {
                errors.push(FieldError::new(field, format!("{text:?} is no address block")));
            }
            block
        };
        let cidr = parse(format!("{at}.ipBlock.cidr"), &block.cidr)?;
        let numbered = block.except.iter().enumerate();
        let except = numbered
            .filter_map(|(index, text)| parse(format!("{at}.ipBlock.except[{index}]"), text))
            .collect();
        return Some(model::Peer::IpBlock(model::IpBlock { cidr, except }));
    }
    if let Some(known) = peer.entity {
        return Some(model::Peer::Entity(entity(known)));
    }
    pods.then(|| model::Peer::Pods {
        namespaces: peer.namespace_selector.as_ref().map(selector),
        pods: peer.pod_selector.as_ref().map(selector),
    })
}

fn port_match(port: &PortMatch) -> model::PortMatch {
    model::PortMatch {
        protocol: protocol(port.protocol),
        port: port.port.as_ref().map(|port| match port {
            Port::Number(number) => model::PortRef::Number(*number),
            Port::Name(name) => model::PortRef::Name(name.clone()),
        }),
        end_port: port.end_port,
    }
}

/// The protocol of the model.
#[must_use]
pub fn protocol(protocol: Protocol) -> model::Protocol {
    match protocol {
        Protocol::Tcp => model::Protocol::Tcp,
        Protocol::Udp => model::Protocol::Udp,
        Protocol::Sctp => model::Protocol::Sctp,
    }
}

/// The entity of the model.
#[must_use]
pub fn entity(entity: Entity) -> model::Entity {
    match entity {
        Entity::Host => model::Entity::Host,
        Entity::Cluster => model::Entity::Cluster,
        Entity::World => model::Entity::World,
        Entity::KubeApiserver => model::Entity::KubeApiserver,
    }
}

fn named_ports(ports: &[NamedPort]) -> model::NamedPorts {
    ports.iter().map(|port| ((port.name.clone(), protocol(port.protocol)), port.port)).collect()
}

fn syscall_rules(syscalls: &Syscalls, errors: &mut Vec<FieldError>) -> model::Syscalls {
    let numbered = syscalls.rules.iter().enumerate();
    let rules = numbered.map(|(index, rule)| {
        let args = rule.args.iter().enumerate();
        let args = args.filter_map(|(arg, condition)| {
            let converted = argument(condition);
            if converted.is_none() {
                let field = format!("syscalls.rules[{index}].args[{arg}].mask");
                errors.push(FieldError::new(field, "is needed by op MaskedEqual"));
            }
            converted
        });
        model::SyscallRule { names: rule.names.clone(), args: args.collect(), action: rule.action.into() }
    });
    model::Syscalls {
        rules: rules.collect(),
        default: match syscalls.default {
            SyscallDefault::Allow => model::SyscallDefault::Allow,
            SyscallDefault::Audit => model::SyscallDefault::Audit,
            SyscallDefault::Kill => model::SyscallDefault::Kill,
        },
        fallback: match syscalls.fallback {
            Fallback::None => model::Fallback::None,
            Fallback::Kill => model::Fallback::Kill,
        },
    }
}

fn argument(argument: &ArgMatch) -> Option<model::ArgCondition> {
    let op = match argument.op {
        ArgOp::Equal => model::ArgOp::Equal,
        ArgOp::NotEqual => model::ArgOp::NotEqual,
        ArgOp::LessThan => model::ArgOp::LessThan,
        ArgOp::LessOrEqual => model::ArgOp::LessOrEqual,
        ArgOp::GreaterThan => model::ArgOp::GreaterThan,
        ArgOp::GreaterOrEqual => model::ArgOp::GreaterOrEqual,
        ArgOp::MaskedEqual => model::ArgOp::MaskedEqual { mask: argument.mask?.cast_unsigned() },
    };
    Some(model::ArgCondition { index: argument.index, op, value: argument.value.cast_unsigned() })
}

mod access;
#[cfg(test)]
mod tests;
