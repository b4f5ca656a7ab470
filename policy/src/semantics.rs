//! Each sentence of the semantics as a test, asked of the oracle and of the compiled tables alike.

mod network;
mod peers;
mod services;
mod syscalls;

use std::net::IpAddr;

use crate::compile::lookup::{lookup_call, lookup_packet};
use crate::compile::{Input, compile};
use crate::decide::{
    Call, Enforced, Judgement, Packet, ServiceProblem, Transport, Via, decide_packet, decide_syscall,
};
use crate::model::{
    AddressFacts, Direction, Entities, Entity, Identity, IpBlock, Mode, NamespaceTarget, NetRule, Network,
    Peer, Policy, PolicyId, PortMatch, PortRef, Protocol, Rules, Syscalls, Target, Workload, World,
};
use crate::selector::{Labels, Selector};
use crate::syscalls::Abi;

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn select(pairs: &[(&str, &str)]) -> Selector {
    Selector { match_labels: labels(pairs), ..Selector::default() }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A policy for every workload of `shop` (`shop/name`), or for every workload at all (`cluster/name`).
fn policy(name: &str) -> Policy {
    let (namespace, name) = name.split_once('/').unwrap();
    let (id, namespaces) = match namespace {
        "cluster" => (PolicyId::cluster(name), NamespaceTarget::Matching(Selector::default())),
        _ => (PolicyId::namespaced(namespace, name), NamespaceTarget::One(namespace.to_owned())),
    };
    Policy {
        uid: format!("uid of {id}"),
        id,
        generation: 1,
        target: Target { namespaces, pods: Selector::default() },
        containers: None,
        mode: Mode::Enforce,
        network: None,
        syscalls: None,
        processes: None,
        files: None,
        capabilities: None,
    }
}

impl Policy {
    fn audit(self) -> Self {
        Self { mode: Mode::Audit, ..self }
    }

    fn rejecting(mut self) -> Self {
        self.network.get_or_insert_default().on_deny = crate::model::OnDeny::Reject;
        self
    }

    fn rules(&mut self, direction: Direction) -> &mut Rules {
        let network: &mut Network = self.network.get_or_insert_default();
        let rules = match direction {
            Direction::Ingress => &mut network.ingress,
            Direction::Egress => &mut network.egress,
        };
        rules.get_or_insert_default()
    }

    fn isolating(mut self, direction: Direction) -> Self {
        self.rules(direction);
        self
    }

    fn allow(mut self, direction: Direction, rule: NetRule) -> Self {
        self.rules(direction).allow.push(rule);
        self
    }

    fn deny(mut self, direction: Direction, rule: NetRule) -> Self {
        self.rules(direction).deny.push(rule);
        self
    }

    fn with_syscalls(mut self, syscalls: Syscalls) -> Self {
        self.syscalls = Some(syscalls);
        self
    }
}

fn peers(peers: impl Into<Vec<Peer>>) -> NetRule {
    NetRule { peers: Some(peers.into()), ports: None }
}

fn anyone() -> NetRule {
    NetRule::default()
}

impl NetRule {
    fn on(mut self, port: PortMatch) -> Self {
        self.ports.get_or_insert_default().push(port);
        self
    }
}

fn pods(pairs: &[(&str, &str)]) -> Peer {
    Peer::Pods { namespaces: None, pods: Some(select(pairs)) }
}

fn block(cidr: &str, except: &[&str]) -> Peer {
    let except = except.iter().map(|text| text.parse().unwrap()).collect();
    Peer::IpBlock(IpBlock { cidr: cidr.parse().unwrap(), except })
}

fn tcp(port: u16) -> PortMatch {
    PortMatch { protocol: Protocol::Tcp, port: Some(PortRef::Number(port)), end_port: None }
}

fn udp(port: u16) -> PortMatch {
    PortMatch { protocol: Protocol::Udp, ..tcp(port) }
}

fn named(name: &str) -> PortMatch {
    PortMatch { port: Some(PortRef::Name(name.to_owned())), ..tcp(0) }
}

const ENTITIES: [Entity; 4] = [Entity::Host, Entity::Cluster, Entity::World, Entity::KubeApiserver];

/// shop: web (10.0.0.1, `fd00::1`; http on 8080), db (10.0.0.2; http on 9090, account db).
/// bank: web (10.0.1.1), in a namespace with the label team=money.
/// Nodes 192.168.0.1 and .2; the first is an API server, too.
fn world() -> World {
    let mut world = World { own_namespace: Some("holdfast".to_owned()), ..World::default() };
    world.namespaces.insert("bank".to_owned(), labels(&[("team", "money")]));
    world.namespaces.insert("shop".to_owned(), labels(&[("team", "sales")]));
    for (id, namespace, account, app, http) in [
        (256, "shop", "web", "web", Some(8080)),
        (257, "shop", "db", "db", Some(9090)),
        (258, "bank", "web", "web", None),
    ] {
        let identity = Identity {
            id,
            namespace: namespace.to_owned(),
            service_account: Some(account.to_owned()),
            labels: labels(&[("app", app)]),
            named_ports: http.into_iter().map(|port| (("http".to_owned(), Protocol::Tcp), port)).collect(),
        };
        world.identities.insert(id, identity);
    }
    for (address, id) in [("10.0.0.1", 256), ("fd00::1", 256), ("10.0.0.2", 257), ("10.0.1.1", 258)] {
        let facts = AddressFacts { identity: Some(id), entities: Entities::CLUSTER };
        world.addresses.insert(ip(address), facts);
    }
    for (address, extra) in [("192.168.0.1", Entities::KUBE_APISERVER), ("192.168.0.2", Entities::NONE)] {
        let facts = AddressFacts { identity: None, entities: Entities::HOST | Entities::CLUSTER | extra };
        world.addresses.insert(ip(address), facts);
    }
    world
}

fn workload() -> Workload {
    Workload {
        namespace: "shop".to_owned(),
        name: "api-1".to_owned(),
        labels: labels(&[("app", "api")]),
        named_ports: [(("http".to_owned(), Protocol::Tcp), 8000)].into(),
        ..Workload::default()
    }
}

fn ingress(peer: &str, protocol: Protocol, port: u16) -> Packet {
    let transport = Transport::Port(protocol, port);
    Packet { direction: Direction::Ingress, peer: ip(peer), transport, via: Via::Network }
}

fn egress(peer: &str, protocol: Protocol, port: u16) -> Packet {
    Packet { direction: Direction::Egress, ..ingress(peer, protocol, port) }
}

/// What a test asks with.
struct Ask {
    policies: Vec<Policy>,
    world: World,
    workload: Workload,
}

impl Ask {
    fn of(policies: impl Into<Vec<Policy>>) -> Self {
        Self { policies: policies.into(), world: world(), workload: workload() }
    }

    fn input(&self) -> Input<'_> {
        Input {
            policies: &self.policies,
            world: &self.world,
            workloads: std::slice::from_ref(&self.workload),
            abis: &Abi::ALL,
        }
    }

    /// The refusing rule as text (with ` reject`), and the audit hit as text; the compiled tables must say the same.
    fn verdict(&self, packet: &Packet) -> (Option<String>, Option<String>) {
        let verdict = decide_packet(&self.policies, &self.world, &self.workload, packet);
        let refused = match verdict.enforced {
            Enforced::Allow(_) => None,
            Enforced::Deny { rule, reject, .. } => Some((rule, reject)),
        };
        let compiled = compile(&self.input(), None).unwrap();
        let seen = lookup_packet(&compiled, &self.world, 0, &self.workload, packet);
        assert_eq!(
            (&seen.refused, &seen.audited),
            (&refused, &verdict.audited),
            "the tables differ for {packet:?}"
        );
        let refused = refused.map(|(rule, reject)| format!("{rule}{}", if reject { " reject" } else { "" }));
        (refused, verdict.audited.map(|rule| rule.to_string()))
    }

    fn refused(&self, packet: &Packet) -> Option<String> {
        self.verdict(packet).0
    }

    fn audited(&self, packet: &Packet) -> Option<String> {
        let (refused, audited) = self.verdict(packet);
        assert_eq!(refused, None, "it does not pass");
        audited
    }

    fn passes(&self, packet: &Packet) -> bool {
        self.verdict(packet).0.is_none()
    }

    fn problem(&self, packet: &Packet) -> Option<ServiceProblem> {
        self.verdict(packet);
        match decide_packet(&self.policies, &self.world, &self.workload, packet).enforced {
            Enforced::Allow(_) => None,
            Enforced::Deny { service, .. } => service,
        }
    }

    /// The verdict on a call; the compiled tables must say the same.
    fn call(&self, abi: Abi, name: &str, args: &[u64]) -> Judgement {
        let mut registers = [0; 6];
        registers[..args.len()].copy_from_slice(args);
        let call = Call::named(abi, name, registers).unwrap();
        let verdict = decide_syscall(&self.policies, &self.world, &self.workload, &call);
        let compiled = compile(&self.input(), None).unwrap();
        let seen = lookup_call(&compiled, 0, &call);
        let expected = (&verdict.action, &verdict.rule, &verdict.audited);
        assert_eq!((&seen.action, &seen.rule, &seen.audited), expected, "the tables differ for {call:?}");
        verdict
    }
}
