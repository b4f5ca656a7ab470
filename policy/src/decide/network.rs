//! Packets.

use std::net::IpAddr;

use crate::model::{
    AddressFacts, Backends, Direction, FAILSAFE, Mode, NamedPorts, NetRule, NetScope, OnDeny, Peer, Policy,
    PolicyId, PortMatch, PortRef, Protocol, RulePath, RuleRef, Rules, Workload, World, canonical, selecting,
};
use crate::selector::Selector;

/// The transport of a packet, as far as it can be seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Transport {
    /// A protocol and its destination port: the workload's own at ingress, the peer's at egress.
    Port(Protocol, u16),
    /// A fragment that is not the first, so that its port cannot be seen.
    Fragment(Protocol),
    /// Another protocol: ICMP and the like.
    Other,
}

/// How a packet comes or goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Via {
    /// Over the network.
    Network,
    /// It belongs to a flow that a socket of the host's own network namespace, on this node, opened. That says
    /// something at ingress of a workload with its own network namespace only; elsewhere it is [`Via::Network`].
    NodeFlow,
    /// Over the loopback interface.
    Loopback,
}

/// The first packet of a flow, as a workload meets it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Packet {
    /// Who opens the flow.
    pub direction: Direction,
    /// The peer's address: the source at ingress, the destination at egress.
    pub peer: IpAddr,
    /// Protocol and destination port.
    pub transport: Transport,
    /// How it comes or goes.
    pub via: Via,
}

/// What happens to a packet, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// What is done.
    pub enforced: Enforced,
    /// For a packet that passes: the rule by which all policies, taken as Enforce, would refuse it.
    pub audited: Option<RuleRef>,
}

/// What is done with a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Enforced {
    /// It passes.
    Allow(AllowedBy),
    /// It is refused.
    Deny {
        /// The rule that the refusal is attributed to.
        rule: RuleRef,
        /// Whether the workload is told.
        reject: bool,
        /// What is wrong with the Service, where the peer is the address of one.
        service: Option<ServiceProblem>,
    },
}

/// Why a packet passes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AllowedBy {
    /// By this rule.
    Rule(RuleRef),
    /// No policy isolates the workload in this direction.
    NotIsolated,
    /// The loopback of a network namespace is its owner's business.
    Loopback,
    /// It is a failsafe port of a whole host.
    Failsafe,
    /// The node may reach its own pods.
    NodeFlow,
    /// The peer is a Service, and each of its backends is allowed.
    Backends(Vec<AllowingBackend>),
}

/// One backend of a Service that is allowed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AllowingBackend {
    /// Its address.
    pub address: IpAddr,
    /// Its target port.
    pub port: u16,
    /// The rule that allows it.
    pub rule: RuleRef,
}

/// Why a Service is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServiceProblem {
    /// It has no such port, or the packet has none.
    NoSuchPort,
    /// Its backends are not all known.
    Incomplete,
    /// No backend is ready.
    NoneReady,
    /// This backend (address, target port) is refused.
    Backend(IpAddr, u16),
}

/// Decides the first packet of a flow of this workload. Replies belong to their flow and are never asked for.
#[must_use]
pub fn decide_packet(policies: &[Policy], world: &World, workload: &Workload, packet: &Packet) -> Verdict {
    let pass = |by| Verdict { enforced: Enforced::Allow(by), audited: None };
    if packet.via == Via::Loopback && workload.net != NetScope::HostPart {
        return pass(AllowedBy::Loopback);
    }
    if workload.net == NetScope::WholeHost && is_failsafe(packet) {
        return pass(AllowedBy::Failsafe);
    }
    let all: Vec<&Policy> = selecting(policies, world, workload)
        .into_iter()
        .filter(|policy| rules(policy, packet.direction).is_some())
        .collect();
    let enforcing: Vec<&Policy> = all.iter().copied().filter(|policy| policy.mode == Mode::Enforce).collect();

    let scene = Scene { world, workload, packet };
    match scene.answer(&enforcing) {
        refused @ Enforced::Deny { .. } => Verdict { enforced: refused, audited: None },
        allowed @ Enforced::Allow(_) => {
            let audited = match scene.answer(&all) {
                Enforced::Deny { rule, .. } => Some(rule),
                Enforced::Allow(_) => None,
            };
            Verdict { enforced: allowed, audited }
        }
    }
}

fn is_failsafe(packet: &Packet) -> bool {
    let Transport::Port(protocol, port) = packet.transport else { return false };
    FAILSAFE.iter().any(|(direction, of, first, last)| {
        (*direction, *of) == (packet.direction, protocol) && (*first..=*last).contains(&port)
    })
}

fn rules(policy: &Policy, direction: Direction) -> Option<&Rules> {
    policy.network.as_ref().and_then(|network| network.direction(direction))
}

/// One question.
struct Scene<'a> {
    world: &'a World,
    workload: &'a Workload,
    packet: &'a Packet,
}

/// The other end, as rules see it.
#[derive(Clone, Copy)]
struct Other<'a> {
    address: IpAddr,
    facts: AddressFacts,
    transport: Transport,
    /// The named ports of the destination.
    named_ports: Option<&'a NamedPorts>,
}

impl<'a> Scene<'a> {
    /// What these policies, all taken as Enforce, answer. They are in the order of their names, and each has the
    /// packet's direction.
    fn answer(&self, policies: &[&Policy]) -> Enforced {
        let packet = self.packet;
        let address = canonical(packet.peer);
        let own_netns = self.workload.net == NetScope::Own;
        if own_netns && packet.direction == Direction::Ingress && packet.via == Via::NodeFlow {
            return self.answer_node_flow(policies, address);
        }
        if own_netns
            && packet.direction == Direction::Egress
            && let Some(service) = self.world.services.get(&address)
        {
            let backends = match packet.transport {
                Transport::Port(protocol, port) => {
                    service.ports.get(&(protocol, port)).map(|b| (protocol, b))
                }
                Transport::Fragment(_) | Transport::Other => None,
            };
            return self.answer_service(policies, backends);
        }
        let facts = if packet.via == Via::Loopback {
            self.world.loopback_facts(address)
        } else {
            self.world.facts(address)
        };
        self.answer_peer(policies, self.other(address, facts, packet.transport))
    }

    fn other(&self, address: IpAddr, facts: AddressFacts, transport: Transport) -> Other<'a> {
        let named_ports = match self.packet.direction {
            Direction::Ingress => Some(&self.workload.named_ports),
            Direction::Egress => self.world.identity_of(facts).map(|identity| &identity.named_ports),
        };
        Other { address, facts, transport, named_ports }
    }

    /// Any deny wins; then any allow; then the isolation of the direction; then nothing forbids it.
    fn answer_peer(&self, policies: &[&Policy], other: Other<'_>) -> Enforced {
        if let Some(denied) = self.first_deny(policies, |policy, rule| self.rule_matches(policy, rule, other))
        {
            return denied;
        }
        for policy in policies {
            for (index, rule) in indexed(rules(policy, self.packet.direction).map(|rules| &rules.allow)) {
                if self.rule_matches(policy, rule, other) {
                    let path = RulePath::Allow(self.packet.direction, index);
                    return Enforced::Allow(AllowedBy::Rule(RuleRef { policy: policy.id.clone(), path }));
                }
            }
        }
        self.default(policies, None)
    }

    /// The node reaches its own pods, unless a deny rule names the entity Host.
    fn answer_node_flow(&self, policies: &[&Policy], address: IpAddr) -> Enforced {
        let other = self.other(address, self.world.facts(address), self.packet.transport);
        let names_host = |rule: &NetRule| {
            rule.peers.iter().flatten().any(|peer| *peer == Peer::Entity(crate::model::Entity::Host))
        };
        self.first_deny(policies, |_, rule| {
            names_host(rule) && ports_match(rule, other.transport, other.named_ports)
        })
        .unwrap_or(Enforced::Allow(AllowedBy::NodeFlow))
    }

    /// A Service is allowed where each of its backends is, and they are all known, and there is one.
    fn answer_service(&self, policies: &[&Policy], backends: Option<(Protocol, &Backends)>) -> Enforced {
        let problem = match backends {
            None => Some(ServiceProblem::NoSuchPort),
            Some((_, backends)) if !backends.complete => Some(ServiceProblem::Incomplete),
            Some((_, backends)) if backends.ready.is_empty() => Some(ServiceProblem::NoneReady),
            Some(_) => None,
        };
        let Some((protocol, backends)) = backends.filter(|_| problem.is_none()) else {
            return self.default(policies, problem);
        };
        let mut allowing = Vec::new();
        let mut refused: Option<(RuleRef, bool, ServiceProblem)> = None;
        let mut by_default = None;
        for &(address, port) in &backends.ready {
            let address = canonical(address);
            let transport = Transport::Port(protocol, port);
            let other = self.other(address, self.world.facts(address), transport);
            match self.answer_peer(policies, other) {
                Enforced::Allow(AllowedBy::Rule(rule)) => {
                    allowing.push(AllowingBackend { address, port, rule });
                }
                Enforced::Allow(_) => {}
                Enforced::Deny { rule, reject, .. } => {
                    let problem = ServiceProblem::Backend(address, port);
                    if matches!(rule.path, RulePath::Default(_)) {
                        by_default.get_or_insert(problem);
                    } else if refused.as_ref().is_none_or(|(first, ..)| rule < *first) {
                        refused = Some((rule, reject, problem));
                    }
                }
            }
        }
        match (refused, by_default) {
            (Some((rule, reject, problem)), _) => Enforced::Deny { rule, reject, service: Some(problem) },
            (None, Some(problem)) => self.default(policies, Some(problem)),
            (None, None) if policies.is_empty() => Enforced::Allow(AllowedBy::NotIsolated),
            (None, None) => Enforced::Allow(AllowedBy::Backends(allowing)),
        }
    }

    /// The answer where no rule says anything: refused by the first policy that isolates, if there is one.
    fn default(&self, policies: &[&Policy], service: Option<ServiceProblem>) -> Enforced {
        match policies.first() {
            None => Enforced::Allow(AllowedBy::NotIsolated),
            Some(policy) => denied(policy, RulePath::Default(self.packet.direction), service),
        }
    }

    fn first_deny(
        &self,
        policies: &[&Policy],
        matches: impl Fn(&Policy, &NetRule) -> bool,
    ) -> Option<Enforced> {
        for policy in policies {
            for (index, rule) in indexed(rules(policy, self.packet.direction).map(|rules| &rules.deny)) {
                if matches(policy, rule) {
                    return Some(denied(policy, RulePath::Deny(self.packet.direction, index), None));
                }
            }
        }
        None
    }

    fn rule_matches(&self, policy: &Policy, rule: &NetRule, other: Other<'_>) -> bool {
        let Some(peers) = &rule.peers else {
            return ports_match(rule, other.transport, other.named_ports);
        };
        peers.iter().any(|peer| {
            // At egress a port's name is resolved through the peer's identity, which a block of addresses has not.
            let nameless = self.packet.direction == Direction::Egress && matches!(peer, Peer::IpBlock(_));
            let named_ports = other.named_ports.filter(|_| !nameless);
            self.peer_matches(&policy.id, peer, other) && ports_match(rule, other.transport, named_ports)
        })
    }

    fn peer_matches(&self, policy: &PolicyId, peer: &Peer, other: Other<'_>) -> bool {
        match peer {
            Peer::IpBlock(block) => block.contains(other.address),
            Peer::Entity(entity) => other.facts.entities.contains(entity.bit()),
            Peer::Pods { namespaces, pods } => self.world.identity_of(other.facts).is_some_and(|identity| {
                self.in_namespaces(policy, namespaces.as_ref(), &identity.namespace)
                    && pods.as_ref().is_none_or(|pods| pods.matches(&identity.labels))
            }),
            Peer::ServiceAccount { name, namespace } => {
                self.world.identity_of(other.facts).is_some_and(|identity| {
                    let wanted = namespace.as_ref().or(policy.namespace.as_ref());
                    identity.service_account.as_ref() == Some(name)
                        && wanted.is_none_or(|wanted| *wanted == identity.namespace)
                })
            }
        }
    }

    /// Without a selector it is the policy's own namespace, and for a cluster policy every one.
    fn in_namespaces(&self, policy: &PolicyId, selector: Option<&Selector>, namespace: &str) -> bool {
        match (selector, &policy.namespace) {
            (Some(selector), _) => {
                selector.matches_namespace(namespace, self.world.namespaces.get(namespace))
            }
            (None, Some(own)) => own == namespace,
            (None, None) => true,
        }
    }
}

fn denied(policy: &Policy, path: RulePath, service: Option<ServiceProblem>) -> Enforced {
    let reject = policy.network.as_ref().is_some_and(|network| network.on_deny == OnDeny::Reject);
    Enforced::Deny { rule: RuleRef { policy: policy.id.clone(), path }, reject, service }
}

fn indexed(rules: Option<&Vec<NetRule>>) -> impl Iterator<Item = (u16, &NetRule)> {
    (0..=u16::MAX).zip(rules.into_iter().flatten())
}

/// Whether the rule's ports match. `named_ports` are those of the destination, where there are any.
fn ports_match(rule: &NetRule, transport: Transport, named_ports: Option<&NamedPorts>) -> bool {
    let Some(ports) = &rule.ports else { return true };
    match transport {
        Transport::Port(protocol, port) => port_listed(ports, protocol, port, named_ports),
        Transport::Fragment(protocol) => every_port_listed(ports, protocol, named_ports),
        Transport::Other => false,
    }
}

fn port_listed(ports: &[PortMatch], protocol: Protocol, port: u16, named_ports: Option<&NamedPorts>) -> bool {
    ports.iter().any(|entry| {
        entry.protocol == protocol
            && match &entry.port {
                None => true,
                Some(PortRef::Number(first)) => (*first..=entry.end_port.unwrap_or(*first)).contains(&port),
                Some(PortRef::Name(name)) => {
                    named_ports.and_then(|named| named.get(&(name.clone(), protocol))) == Some(&port)
                }
            }
    })
}

/// Whether the rule covers every port from 1 to 65535. The first port that is not covered is 1 or follows some listed
/// one, so only those need to be looked at.
fn every_port_listed(ports: &[PortMatch], protocol: Protocol, named_ports: Option<&NamedPorts>) -> bool {
    let mut suspects = vec![1];
    for entry in ports {
        let last = match &entry.port {
            None => None,
            Some(PortRef::Number(first)) => Some(entry.end_port.unwrap_or(*first)),
            Some(PortRef::Name(name)) => {
                named_ports.and_then(|named| named.get(&(name.clone(), protocol))).copied()
            }
        };
        suspects.extend(last.and_then(|last| last.checked_add(1)));
    }
    suspects.into_iter().all(|port| port == 0 || port_listed(ports, protocol, port, named_ports))
}
