//! A node without a kubelet: a network namespace that is the node's own, a bridge in it, pods as the kubelet lays them
//! out, and what is around: somebody outside the cluster, a remote pod, an API server, Services.
//!
//! A Service's address is given to a pod's own interface, and the backends serve it there. So what is allowed really
//! arrives, without kube-proxy, and the workload's hook sees the virtual address as it does on a node.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
};

use anyhow::{Context, Result};
use holdfast_agent::facts::{Container, External, Facts, Pod};
use holdfast_policy::model::{
    AddressFacts, Backends, Entities, Identity, NamedPorts, Protocol, Service, World,
};
use holdfast_policy::selector::Labels;

use super::{cgroup::Top, netlink::Network, netns::NetNs, process::Inside};

/// IPv4 or IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// IPv4
    V4,
    /// IPv6
    V6,
}

pub use Family::{V4, V6};

/// Ports that every workload serves echo at, over TCP and UDP.
pub const PORTS: [u16; 6] = [80, 5353, 5432, 8080, 9000, 9005];

/// A place with processes: a pod, the node itself, or somebody outside.
pub struct Place {
    /// Its cgroup, from the root of the tree.
    pub cgroup: String,
    /// The cgroup of the pod, for pods.
    pub pod_cgroup: Option<String>,
    /// Its network namespace: which of [`Node::namespaces`].
    pub netns: &'static str,
    /// Its addresses, IPv4 first.
    pub addresses: Vec<IpAddr>,
    /// The process in it.
    pub inside: Inside,
}

/// The node. Dropping it ends and removes everything.
pub struct Node {
    /// By name.
    pub places: BTreeMap<&'static str, Place>,
    /// By name.
    pub namespaces: BTreeMap<&'static str, NetNs>,
    /// What a source would know.
    pub facts: Facts,
    /// The cgroup tree. Last: the processes in it go first.
    pub top: Top,
}

/// How the kubelet and the runtime name a pod's cgroups.
#[derive(Clone, Copy)]
enum Layout {
    /// `--cgroup-driver=cgroupfs`.
    CgroupFs,
    /// `--cgroup-driver=systemd` with containerd.
    SystemdContainerd,
    /// `--cgroup-driver=systemd` with CRI-O.
    SystemdCrio,
}

struct PodSpec {
    name: &'static str,
    namespace: &'static str,
    number: u8,
    layout: Layout,
    host_network: bool,
    ports: &'static [(&'static str, Protocol, u16)],
    labels: &'static [(&'static str, &'static str)],
}

const PODS: [PodSpec; 5] = [
    PodSpec {
        name: "front",
        namespace: "shop",
        number: 11,
        layout: Layout::CgroupFs,
        host_network: false,
        ports: &[],
        labels: &[("app", "front"), ("tier", "web")],
    },
    PodSpec {
        name: "api",
        namespace: "shop",
        number: 12,
        layout: Layout::SystemdContainerd,
        host_network: false,
        ports: &[("http", Protocol::Tcp, 8080), ("names", Protocol::Udp, 5353)],
        labels: &[("app", "api"), ("tier", "web")],
    },
    PodSpec {
        name: "db",
        namespace: "bank",
        number: 13,
        layout: Layout::SystemdCrio,
        host_network: false,
        ports: &[("pg", Protocol::Tcp, 5432)],
        labels: &[("app", "db")],
    },
    PodSpec {
        name: "batch",
        namespace: "bank",
        number: 14,
        layout: Layout::CgroupFs,
        host_network: false,
        ports: &[],
        labels: &[("app", "batch"), ("tier", "web")],
    },
    PodSpec {
        name: "exporter",
        namespace: "ops",
        number: 1,
        layout: Layout::SystemdContainerd,
        host_network: true,
        ports: &[],
        labels: &[("app", "exporter")],
    },
];

/// Where clients outside the cluster are: addresses that nobody knows.
pub const OUTSIDE: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(192, 0, 2, 10)), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 10))];
/// The API server's.
pub const API_SERVER: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1))];
/// Where clouds tell a node who it is: an address that nobody in the cluster has.
pub const METADATA: IpAddr = IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254));
/// A pod `remote` of the namespace shop on another node, with the label `app: remote`.
pub const REMOTE: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(10, 77, 1, 5)), IpAddr::V6(Ipv6Addr::new(0xfd77, 1, 0, 0, 0, 0, 0, 5))];

/// Pods and ports.
type BackendPorts = &'static [(&'static str, u16)];

/// Services, by name: address, and (port, backends as (pod, port), whether they are all known).
const SERVICES: [(&str, u8, BackendPorts, bool); 4] = [
    ("one", 10, &[("api", 8080)], true),
    ("two", 11, &[("api", 8080), ("db", 8080)], true),
    ("none", 12, &[], true),
    ("partial", 13, &[("api", 8080)], false),
];
/// The port of every Service.
pub const SERVICE_PORT: u16 = 80;

/// The address of a Service.
#[must_use]
pub fn service(name: &str, family: Family) -> IpAddr {
    let number = SERVICES.iter().find(|(known, ..)| *known == name).map_or(0, |(_, number, ..)| *number);
    match family {
        V4 => Ipv4Addr::new(10, 96, 0, number).into(),
        V6 => Ipv6Addr::new(0xfd96, 0, 0, 0, 0, 0, 0, u16::from(number)).into(),
    }
}

fn pod_addresses(number: u8) -> Vec<IpAddr> {
    vec![
        Ipv4Addr::new(10, 77, 0, number).into(),
        Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, u16::from(number)).into(),
    ]
}

impl Node {
    /// Makes it.
    ///
    /// # Errors
    /// When something is refused: it takes root.
    pub fn new() -> Result<Self> {
        let top = Top::new()?;
        let mut namespaces = BTreeMap::new();
        let node = NetNs::new()?;
        node.within(|| {
            let mut network = Network::open()?;
            network.up("lo")?;
            network.bridge("br0")?;
            for address in pod_addresses(1) {
                network.address("br0", address, if address.is_ipv4() { 24 } else { 64 })?;
            }
            for address in pod_addresses(1) {
                network.everything_on_link("br0", address)?;
            }
            Ok(())
        })
        .context("the node's network")?;
        namespaces.insert("node", node);
        let mut outside = Vec::new();
        for addresses in [OUTSIDE, API_SERVER, REMOTE] {
            outside.extend(addresses);
        }
        outside.push(METADATA);
        let host_addresses = pod_addresses(1);
        let mut world = World::default();
        let mut wires: Vec<(&'static str, Vec<IpAddr>)> = vec![("outside", outside)];
        for spec in PODS.iter().filter(|spec| !spec.host_network) {
            let mut addresses = pod_addresses(spec.number);
            if spec.name == "api" {
                for family in [V4, V6] {
                    addresses.extend(SERVICES.map(|(name, ..)| service(name, family)));
                }
            }
            wires.push((spec.name, addresses));
        }
        for (position, (name, addresses)) in wires.into_iter().enumerate() {
            let netns = NetNs::new()?;
            let bridge = namespaces.get("node").context("the node")?;
            bridge
                .within(|| Network::open()?.veth(&format!("veth{position}"), "br0", "eth0", netns.file()))?;
            netns.within(|| wire(&addresses)).with_context(|| format!("the network of {name}"))?;
            namespaces.insert(name, netns);
        }
        for address in &host_addresses {
            let host = AddressFacts { identity: None, entities: Entities::HOST | Entities::CLUSTER };
            world.addresses.insert(*address, host);
        }
        for address in API_SERVER {
            let facts = AddressFacts { identity: None, entities: Entities::KUBE_APISERVER };
            world.addresses.insert(address, facts);
        }
        let bank = Labels::from([("team".to_owned(), "bank".to_owned())]);
        world.namespaces = BTreeMap::from([
            ("shop".to_owned(), Labels::from([("team".to_owned(), "shop".to_owned())])),
            ("bank".to_owned(), bank),
            ("ops".to_owned(), Labels::default()),
        ]);
        let mut me = Self { places: BTreeMap::new(), namespaces, facts: Facts::default(), top };
        let mut pods = Vec::new();
        for spec in &PODS {
            pods.push(me.pod(spec, &mut world)?);
        }
        identify(&mut world, 300, "shop", &[("app", "remote")], &[], &REMOTE);
        for (name, _, backends, complete) in SERVICES {
            for family in [V4, V6] {
                let ready = backends
                    .iter()
                    .filter_map(|(pod, port)| Some((me.places.get(pod)?.addresses[family as usize], *port)))
                    .collect::<Vec<_>>();
                let backends = Backends { ready, complete };
                let ports = [Protocol::Tcp, Protocol::Udp]
                    .map(|protocol| ((protocol, SERVICE_PORT), backends.clone()));
                let object =
                    Service { namespace: "shop".to_owned(), name: name.to_owned(), ports: ports.into() };
                world.services.insert(service(name, family), object);
            }
        }
        me.settle("node", "node", "system.slice/node.service", host_addresses.clone())?;
        me.settle("outside", "outside", "outside", OUTSIDE.to_vec())?;
        me.settle("ledger", "node", "system.slice/ledger.service", host_addresses)?;
        let ledger = External {
            namespace: "bank".to_owned(),
            name: "ledger".to_owned(),
            uid: "external-ledger".to_owned(),
            labels: Labels::from([("app".to_owned(), "ledger".to_owned())]),
            cgroups: vec![me.place("ledger")?.cgroup.clone()],
            ..External::default()
        };
        me.facts = Facts {
            world: Arc::new(world),
            pods: Arc::new(pods),
            externals: Arc::new(vec![ledger]),
            complete: true,
            ..Facts::default()
        };
        for name in ["front", "api", "db", "batch", "node", "outside"] {
            me.place(name)?.inside.serve(&PORTS)?;
        }
        Ok(me)
    }

    /// A place by its name.
    ///
    /// # Errors
    /// When there is none.
    pub fn place(&self, name: &str) -> Result<&Place> {
        self.places.get(name).with_context(|| format!("there is no place {name}"))
    }

    /// An address of a place.
    ///
    /// # Errors
    /// When there is no such place.
    pub fn address(&self, name: &str, family: Family) -> Result<IpAddr> {
        Ok(self.place(name)?.addresses[family as usize])
    }

    /// Another process in a place, in the same cgroup.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn another(&self, name: &str) -> Result<Inside> {
        let place = self.place(name)?;
        Inside::start(name, &self.top.full(&place.cgroup), &self.netns(place.netns)?.path())
    }

    /// A network namespace by its name.
    ///
    /// # Errors
    /// When there is none.
    pub fn netns(&self, name: &str) -> Result<&NetNs> {
        self.namespaces.get(name).with_context(|| format!("there is no namespace {name}"))
    }

    fn settle(
        &mut self,
        name: &'static str,
        netns: &'static str,
        cgroup: &str,
        addresses: Vec<IpAddr>,
    ) -> Result<()> {
        let cgroup = self.top.make(cgroup)?;
        let inside = Inside::start(name, &self.top.full(&cgroup), &self.netns(netns)?.path())?;
        self.places.insert(name, Place { cgroup, pod_cgroup: None, netns, addresses, inside });
        Ok(())
    }

    fn pod(&mut self, spec: &PodSpec, world: &mut World) -> Result<Pod> {
        let (uid, id) = (pod_uid(spec.number), container_id(spec.number));
        let (pod_path, path) = cgroup_paths(spec.layout, &uid, &id);
        let addresses = pod_addresses(spec.number);
        let netns = if spec.host_network { "node" } else { spec.name };
        self.settle(spec.name, netns, &path, addresses.clone())?;
        let pod_cgroup = self.top.make(&pod_path)?;
        if let Some(place) = self.places.get_mut(spec.name) {
            place.pod_cgroup = Some(pod_cgroup);
        }
        let labels = labels(spec.labels);
        let named_ports: NamedPorts = spec
            .ports
            .iter()
            .map(|(name, protocol, port)| (((*name).to_owned(), *protocol), *port))
            .collect();
        if !spec.host_network {
            let id = 256 + u32::from(spec.number);
            identify(world, id, spec.namespace, spec.labels, spec.ports, &addresses);
            if let Some(identity) = world.identities.get_mut(&id) {
                identity.service_account = Some(spec.name.to_owned());
            }
        }
        Ok(Pod {
            namespace: spec.namespace.to_owned(),
            name: spec.name.to_owned(),
            uid,
            labels,
            service_account: Some(spec.name.to_owned()),
            named_ports,
            host_network: spec.host_network,
            addresses,
            containers: vec![Container { name: "main".to_owned(), id: Some(id) }],
            ..Pod::default()
        })
    }
}

/// The network of a pod: what it does not know is on its link too.
fn wire(addresses: &[IpAddr]) -> Result<()> {
    let mut network = Network::open()?;
    network.up("lo")?;
    network.up("eth0")?;
    for (position, address) in addresses.iter().enumerate() {
        let prefix = match (address, position) {
            (IpAddr::V4(_), 0) => 24,
            (IpAddr::V6(_), 1) => 64,
            (IpAddr::V4(_), _) => 32,
            (IpAddr::V6(_), _) => 128,
        };
        network.address("eth0", *address, prefix)?;
    }
    for address in &addresses[..2] {
        network.everything_on_link("eth0", *address)?;
    }
    Ok(())
}

fn labels(of: &[(&str, &str)]) -> Labels {
    of.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn identify(
    world: &mut World,
    id: u32,
    namespace: &str,
    of: &[(&str, &str)],
    ports: &[(&str, Protocol, u16)],
    addresses: &[IpAddr],
) {
    let identity = Identity {
        id,
        namespace: namespace.to_owned(),
        service_account: None,
        labels: labels(of),
        named_ports: ports
            .iter()
            .map(|(name, protocol, port)| (((*name).to_owned(), *protocol), *port))
            .collect(),
    };
    world.identities.insert(id, identity);
    for address in addresses {
        let facts = AddressFacts { identity: Some(id), entities: Entities::CLUSTER };
        world.addresses.insert(*address, facts);
    }
}

/// A UID for the pod of this number, which no other run on this machine has: an engine knows pods by nothing else.
#[must_use]
pub fn pod_uid(number: u8) -> String {
    format!("{number:08x}-aaaa-4bbb-8ccc-{:012x}", std::process::id())
}

/// A container id for the pod of this number.
#[must_use]
pub fn container_id(number: u8) -> String {
    format!("{number:064x}")
}

/// The pod's cgroup and its container's, below the top.
fn cgroup_paths(layout: Layout, uid: &str, id: &str) -> (String, String) {
    let slice = || {
        let underscored = uid.replace('-', "_");
        format!("kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{underscored}.slice")
    };
    match layout {
        Layout::CgroupFs => {
            let pod = format!("kubepods/burstable/pod{uid}");
            (pod.clone(), format!("{pod}/{id}"))
        }
        Layout::SystemdContainerd => (slice(), format!("{}/cri-containerd-{id}.scope", slice())),
        Layout::SystemdCrio => (slice(), format!("{}/crio-{id}.scope", slice())),
    }
}

/// A socket address.
#[must_use]
pub fn at(ip: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(ip, port)
}

/// A directory for sockets and files that processes share.
///
/// # Errors
/// When it cannot be made.
pub fn scratch() -> Result<(tempfile::TempDir, PathBuf)> {
    let directory = tempfile::tempdir().context("a temporary directory")?;
    let path = directory.path().to_owned();
    Ok((directory, path))
}
