//! Random policies, worlds, workloads, packets and calls, for tests that hold two verdicts against each other.
//!
//! Everything is drawn from small pools, so that selectors, blocks, names and ports meet often: a few namespaces and
//! labels, nested address blocks with exceptions, addresses that are pods, nodes, API servers, Services or nobody's.
//! Not every policy would pass [`validate`](crate::validate): what it refuses has a meaning in the model all the same.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use proptest::collection::{btree_map, btree_set, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use crate::decide::{Call, Packet, Transport, Via};
use crate::model::{
    Action, AddressFacts, ArgCondition, ArgOp, Backends, Direction, Entities, Entity, FIRST_IDENTITY,
    Fallback, Identity, IpBlock, Mode, NamedPorts, NamespaceTarget, NetRule, NetScope, Network, OnDeny, Peer,
    Policy, PolicyId, PortMatch, PortRef, Protocol, Rules, Service, SyscallDefault, SyscallRule, Syscalls,
    Target, Workload, World,
};
use crate::selector::{Labels, NAMESPACE_NAME_LABEL, Operator, Requirement, Selector};
use crate::syscalls::{self, Abi};

pub mod access;

/// One world with everything in it, and questions about it.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// Policies with distinct names, in no order.
    pub policies: Vec<Policy>,
    /// What is known of the network.
    pub world: World,
    /// The workloads of one node.
    pub workloads: Vec<Workload>,
    /// Packets, of any workload.
    pub packets: Vec<Packet>,
    /// System calls, of any workload.
    pub calls: Vec<Call>,
}

const NAMESPACES: [&str; 4] = ["bank", "holdfast", "kube-system", "shop"];
const KEYS: [&str; 3] = ["app", "team", "tier"];
const VALUES: [&str; 3] = ["a", "b", "c"];
const ACCOUNTS: [&str; 2] = ["default", "web"];
const PORT_NAMES: [&str; 2] = ["dns", "http"];
const PORTS: [u16; 9] = [1, 22, 53, 80, 443, 8080, 9000, 32768, 65535];
const PODS: [&str; 7] =
    ["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.1.1", "10.9.0.1", "fd00::1", "fd00:0:0:1::2"];
const NODES: [&str; 3] = ["192.168.0.1", "192.168.0.2", "fd01::1"];
const OTHERS: [&str; 7] =
    ["0.0.0.0", "127.0.0.1", "198.51.100.7", "255.255.255.255", "::1", "2001:db8::1", "::ffff:10.0.0.2"];
const SERVICES: [&str; 4] = ["10.96.0.1", "10.96.0.10", "fd02::1", "10.0.0.77"];
const BLOCKS: [&str; 16] = [
    "0.0.0.0/0",
    "10.0.0.0/8",
    "10.0.0.0/16",
    "10.0.0.0/24",
    "10.0.0.0/30",
    "10.0.0.2/32",
    "10.0.0.2/31",
    "10.96.0.0/16",
    "127.0.0.0/8",
    "192.168.0.0/24",
    "192.168.0.1/32",
    "::/0",
    "fd00::/8",
    "fd00::/64",
    "fd00::1/128",
    "2001:db8::/32",
];
const NAMES: [&str; 20] = [
    "ptrace",
    "mount",
    "socket",
    "socketpair",
    "personality",
    "clone",
    "kill",
    "fcntl",
    "lseek",
    "chown",
    "setuid",
    "mmap",
    "semget",
    "exit_group",
    "unshare",
    "pread64",
    "@module",
    "@mount",
    "@keyring",
    "@swap",
];
const NUMBERS: [u64; 9] = [0, 1, 2, 16, 17, 0xffff_ffff, 0x1_0000_0011, u64::MAX, 1 << 63];

/// A namespace, mostly one, so that policies and workloads meet.
fn namespace() -> impl Strategy<Value = String> {
    prop_oneof![5 => Just("shop".to_owned()), 2 => texts(&NAMESPACES)]
}

fn texts(pool: &'static [&'static str]) -> impl Strategy<Value = String> {
    select(pool).prop_map(str::to_owned)
}

fn addresses(pool: &'static [&'static str]) -> impl Strategy<Value = IpAddr> {
    select(pool).prop_filter_map("an address of the pools", |text| text.parse().ok())
}

fn labels() -> impl Strategy<Value = Labels> {
    btree_map(texts(&KEYS), texts(&VALUES), 0..=3)
}

/// A selector over the pools' labels.
pub fn selector() -> impl Strategy<Value = Selector> {
    let operator = select(vec![Operator::In, Operator::NotIn, Operator::Exists, Operator::DoesNotExist]);
    let requirement =
        (texts(&KEYS), operator, vec(texts(&VALUES), 1..=2)).prop_map(|(key, operator, values)| {
            let values = if matches!(operator, Operator::In | Operator::NotIn) { values } else { Vec::new() };
            Requirement { key, operator, values }
        });
    let empty = Just(Selector::default());
    let some = (btree_map(texts(&KEYS), texts(&VALUES), 0..=2), vec(requirement, 0..=1))
        .prop_map(|(match_labels, match_expressions)| Selector { match_labels, match_expressions });
    prop_oneof![1 => empty, 3 => some]
}

fn namespace_selector() -> impl Strategy<Value = Selector> {
    let named = texts(&NAMESPACES).prop_map(|name| Selector {
        match_labels: BTreeMap::from([(NAMESPACE_NAME_LABEL.to_owned(), name)]),
        ..Selector::default()
    });
    prop_oneof![2 => selector(), 1 => named]
}

fn block() -> impl Strategy<Value = IpBlock> {
    let nets: Vec<IpNet> = BLOCKS.iter().filter_map(|text| text.parse().ok()).collect();
    let inner = nets.clone();
    (select(nets), any::<prop::sample::Index>(), 0_usize..=2).prop_map(move |(cidr, from, count)| {
        let inside: Vec<IpNet> =
            inner.iter().copied().filter(|net| cidr.contains(net) && *net != cidr).collect();
        let start = if inside.is_empty() { 0 } else { from.index(inside.len()) };
        let except = inside.iter().cycle().skip(start).take(count.min(inside.len())).copied().collect();
        IpBlock { cidr, except }
    })
}

fn peer() -> impl Strategy<Value = Peer> {
    let pods = (option::of(namespace_selector()), option::of(selector()))
        .prop_map(|(namespaces, pods)| Peer::Pods { namespaces, pods });
    let account = (texts(&ACCOUNTS), option::of(texts(&NAMESPACES)))
        .prop_map(|(name, namespace)| Peer::ServiceAccount { name, namespace });
    let entity = select(vec![Entity::Host, Entity::Cluster, Entity::World, Entity::KubeApiserver]);
    prop_oneof![
        4 => pods,
        1 => account,
        3 => block().prop_map(Peer::IpBlock),
        2 => entity.prop_map(Peer::Entity),
    ]
}

fn protocol() -> impl Strategy<Value = Protocol> {
    select(Protocol::ALL.to_vec())
}

fn port() -> impl Strategy<Value = u16> {
    prop_oneof![8 => select(PORTS.to_vec()), 1 => any::<u16>()]
}

/// The few ports that Services have.
fn service_port() -> impl Strategy<Value = u16> {
    select(vec![53, 80])
}

fn port_match() -> impl Strategy<Value = PortMatch> {
    let numbers = (port(), option::of(port())).prop_map(|(first, last)| {
        let end_port = last.map(|last| last.max(first));
        (Some(PortRef::Number(last.map_or(first, |last| last.min(first)))), end_port)
    });
    let named = texts(&PORT_NAMES).prop_map(|name| (Some(PortRef::Name(name)), None));
    let every = Just((None, None));
    let all_numbers = select(vec![0, 1]).prop_map(|first| (Some(PortRef::Number(first)), Some(u16::MAX)));
    (protocol(), prop_oneof![6 => numbers, 3 => named, 1 => every, 1 => all_numbers])
        .prop_map(|(protocol, (port, end_port))| PortMatch { protocol, port, end_port })
}

fn rule() -> impl Strategy<Value = NetRule> {
    (option::weighted(0.8, vec(peer(), 1..=3)), option::weighted(0.6, vec(port_match(), 1..=3)))
        .prop_map(|(peers, ports)| NetRule { peers, ports })
}

fn rules() -> impl Strategy<Value = Rules> {
    (vec(rule(), 0..=3), prop_oneof![3 => vec(rule(), 0..=0), 1 => vec(rule(), 1..=2)])
        .prop_map(|(allow, deny)| Rules { allow, deny })
}

/// Network rules.
pub fn network() -> impl Strategy<Value = Network> {
    (
        option::weighted(0.7, rules()),
        option::weighted(0.7, rules()),
        select(vec![OnDeny::Drop, OnDeny::Reject]),
    )
        .prop_map(|(ingress, egress, on_deny)| Network { ingress, egress, on_deny })
}

fn condition() -> impl Strategy<Value = ArgCondition> {
    let op = prop_oneof![
        Just(ArgOp::Equal),
        Just(ArgOp::NotEqual),
        Just(ArgOp::LessThan),
        Just(ArgOp::LessOrEqual),
        Just(ArgOp::GreaterThan),
        Just(ArgOp::GreaterOrEqual),
        select(vec![1_u64, 16, 0xff]).prop_map(|mask| ArgOp::MaskedEqual { mask }),
    ];
    (0_u8..=3, op, select(NUMBERS.to_vec())).prop_map(|(index, op, value)| ArgCondition { index, op, value })
}

/// System call rules.
pub fn syscall_rules() -> impl Strategy<Value = Syscalls> {
    let action = select(vec![Action::Allow, Action::Audit, Action::Deny, Action::Kill]);
    let rule = (vec(texts(&NAMES), 1..=3), vec(condition(), 0..=2), action)
        .prop_map(|(names, args, action)| SyscallRule { names, args, action });
    let default = prop_oneof![
        4 => Just(SyscallDefault::Allow),
        1 => Just(SyscallDefault::Audit),
        1 => Just(SyscallDefault::Kill),
    ];
    (vec(rule, 0..=4), default, select(vec![Fallback::None, Fallback::Kill]))
        .prop_map(|(rules, default, fallback)| Syscalls { rules, default, fallback })
}

/// A policy; `place` makes its name unlike those of other places.
pub fn policy(place: usize) -> impl Strategy<Value = Policy> {
    let target = prop_oneof![
        2 => namespace().prop_map(NamespaceTarget::One),
        1 => prop_oneof![1 => Just(Selector::default()), 1 => namespace_selector()].prop_map(NamespaceTarget::Matching),
    ];
    // Mostly wide, so that several policies meet at one workload.
    let pods = prop_oneof![3 => Just(Selector::default()), 1 => selector()];
    let containers = option::weighted(0.2, vec(select(vec!["api".to_owned(), "side".to_owned()]), 1..=1));
    let mode = prop_oneof![2 => Just(Mode::Enforce), 1 => Just(Mode::Audit)];
    let body = (option::weighted(0.9, network()), option::weighted(0.5, syscall_rules()));
    (target, pods, select(vec!["a", "m", "z"]), containers, mode, body).prop_map(
        move |(namespaces, pods, first, containers, mode, (network, syscalls))| {
            let name = format!("{first}{place}");
            let id = match &namespaces {
                NamespaceTarget::One(namespace) => PolicyId::namespaced(namespace, name),
                NamespaceTarget::Matching(_) => PolicyId::cluster(name),
            };
            let target = Target { namespaces, pods };
            Policy {
                id,
                uid: format!("uid-{place}"),
                generation: 1,
                target,
                containers,
                mode,
                network,
                syscalls,
                processes: None,
                files: None,
                capabilities: None,
            }
        },
    )
}

fn named_ports() -> impl Strategy<Value = NamedPorts> {
    btree_map((texts(&PORT_NAMES), protocol()), port(), 0..=2)
}

fn identities() -> impl Strategy<Value = Vec<Identity>> {
    let account = option::weighted(0.8, texts(&ACCOUNTS));
    vec((namespace(), account, labels(), named_ports()), 1..=6).prop_map(|list| {
        (FIRST_IDENTITY..)
            .zip(list)
            .map(|(id, (namespace, service_account, labels, named_ports))| Identity {
                id,
                namespace,
                service_account,
                labels,
                named_ports,
            })
            .collect()
    })
}

fn service() -> impl Strategy<Value = Service> {
    let backend =
        (prop_oneof![6 => addresses(&PODS), 1 => addresses(&NODES), 1 => addresses(&OTHERS)], port());
    let backends = (vec(backend, 0..=3), prop::bool::weighted(0.9))
        .prop_map(|(ready, complete)| Backends { ready, complete });
    btree_map((protocol(), service_port()), backends, 0..=4).prop_map(|ports| Service {
        namespace: "shop".to_owned(),
        name: "service".to_owned(),
        ports,
    })
}

/// A world over the pools' addresses.
pub fn world() -> impl Strategy<Value = World> {
    let extra = select(vec![Entities::NONE, Entities::NONE, Entities::NONE, Entities::KUBE_APISERVER]);
    let namespaces = btree_map(texts(&NAMESPACES), labels(), 0..=4);
    let holders = vec((option::weighted(0.9, any::<prop::sample::Index>()), extra), PODS.len());
    let nodes = subsequence(NODES.to_vec(), 0..=NODES.len());
    let services = btree_map(addresses(&SERVICES), service(), 0..=4);
    (namespaces, identities(), holders, nodes, services, any::<bool>()).prop_map(
        |(namespaces, identities, holders, nodes, services, stray)| {
            let mut addresses = BTreeMap::new();
            for (text, (holder, extra)) in PODS.iter().zip(holders) {
                let (Ok(address), Some(holder)) = (text.parse(), holder) else { continue };
                let identity = identities[holder.index(identities.len())].id;
                let facts = AddressFacts { identity: Some(identity), entities: Entities::CLUSTER | extra };
                addresses.insert(address, facts);
            }
            for address in nodes.iter().filter_map(|text| text.parse().ok()) {
                let facts = AddressFacts { identity: None, entities: Entities::HOST | Entities::CLUSTER };
                addresses.insert(address, facts);
            }
            if stray {
                // An identity that is not known yet, and an external workload without any entity.
                let external = AddressFacts { identity: Some(FIRST_IDENTITY), entities: Entities::NONE };
                addresses.insert(IpAddr::from([198, 51, 100, 7]), external);
                let unknown = AddressFacts { identity: Some(9999), entities: Entities::CLUSTER };
                addresses.insert(IpAddr::from([10, 0, 0, 3]), unknown);
            }
            let identities = identities.into_iter().map(|identity| (identity.id, identity)).collect();
            let own_namespace = Some("holdfast".to_owned());
            World { namespaces, identities, addresses, services, own_namespace }
        },
    )
}

/// A workload of the pools' namespaces and labels.
pub fn workload() -> impl Strategy<Value = Workload> {
    let container = option::of(select(vec!["api".to_owned(), "side".to_owned()]));
    let net =
        prop_oneof![4 => Just(NetScope::Own), 1 => Just(NetScope::HostPart), 1 => Just(NetScope::WholeHost)];
    (namespace(), labels(), container, named_ports(), net).prop_map(
        |(namespace, labels, container, named_ports, net)| Workload {
            namespace,
            name: "pod".to_owned(),
            uid: "pod-uid".to_owned(),
            container,
            labels,
            named_ports,
            net,
            ..Workload::default()
        },
    )
}

/// A packet from or to an address of the pools.
pub fn packet() -> impl Strategy<Value = Packet> {
    let transport = |port: BoxedStrategy<u16>| {
        prop_oneof![
            10 => (protocol(), port).prop_map(|(protocol, port)| Transport::Port(protocol, port)),
            2 => protocol().prop_map(Transport::Fragment),
            1 => Just(Transport::Other),
        ]
    };
    let peer = prop_oneof![
        5 => addresses(&PODS),
        2 => addresses(&NODES),
        2 => addresses(&OTHERS),
        1 => addresses(&SERVICES),
        1 => any::<[u8; 4]>().prop_map(IpAddr::from),
    ];
    let direction = select(Direction::ALL.to_vec());
    let via = prop_oneof![8 => Just(Via::Network), 1 => Just(Via::NodeFlow), 1 => Just(Via::Loopback)];
    let to_service =
        (addresses(&SERVICES), transport(service_port().boxed())).prop_map(|(peer, transport)| Packet {
            direction: Direction::Egress,
            peer,
            transport,
            via: Via::Network,
        });
    let other = (direction, peer, transport(port().boxed()), via)
        .prop_map(|(direction, peer, transport, via)| Packet { direction, peer, transport, via });
    prop_oneof![1 => to_service, 3 => other]
}

/// A system call that the pools' rules may name.
pub fn call() -> impl Strategy<Value = Call> {
    let mut names: BTreeSet<&'static str> = NAMES.iter().flat_map(|name| syscalls::expand(name)).collect();
    names.extend([
        "getpid",
        "socketcall",
        "ipc",
        "chown32",
        "setuid32",
        "mmap2",
        "_llseek",
        "fcntl64",
        "exit",
    ]);
    let known: Vec<(Abi, &'static str)> = Abi::ALL
        .into_iter()
        .flat_map(|abi| names.iter().map(move |name| (abi, *name)))
        .filter(|(abi, name)| syscalls::number(*abi, name).is_some())
        .collect();
    let ordinary = (select(known), prop::array::uniform6(select(NUMBERS.to_vec())))
        .prop_filter_map("a call of that ABI", |((abi, name), args)| Call::named(abi, name, args));
    // Numbers that no table has, those of x32 among them.
    let unknown = (select(Abi::ALL.to_vec()), select(vec![1_000, 5_000, 0x4000_0001, u32::MAX]))
        .prop_map(|(abi, number)| Call { abi, number, args: [0; 6] });
    prop_oneof![9 => ordinary, 1 => unknown]
}

/// A whole scenario.
pub fn scenario() -> impl Strategy<Value = Scenario> {
    let policies = (1_usize..=8).prop_flat_map(|count| (0..count).map(policy).collect::<Vec<_>>());
    (policies, world(), vec(workload(), 1..=4), vec(packet(), 30), vec(call(), 8)).prop_map(
        |(policies, world, workloads, packets, calls)| Scenario {
            policies,
            world,
            workloads,
            packets,
            calls,
        },
    )
}

/// A set of distinct places below `count`, to take parts of a scenario away.
pub fn some_of(count: usize) -> impl Strategy<Value = BTreeSet<usize>> {
    btree_set(0..count.max(1), 0..=count)
}
