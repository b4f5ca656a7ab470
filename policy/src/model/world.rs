//! What is known of the network, and the workloads of a node.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::ops::{BitOr, BitOrAssign};

use super::{Direction, Protocol, canonical};
use crate::selector::Labels;

/// The smallest number of an identity; smaller ones are reserved, and 0 stands for 'none'.
pub const FIRST_IDENTITY: u32 = 256;

/// A set of [`Entity`](super::Entity) bits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Entities(u8);

impl Entities {
    /// No bit.
    pub const NONE: Self = Self(0);
    /// A node's own address.
    pub const HOST: Self = Self(1);
    /// A pod's or a node's address.
    pub const CLUSTER: Self = Self(2);
    /// Nobody known.
    pub const WORLD: Self = Self(4);
    /// An API server.
    pub const KUBE_APISERVER: Self = Self(8);

    /// The bits, as the kernel holds them.
    #[must_use]
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// The set with these bits; `None` if one of them means nothing.
    #[must_use]
    pub const fn from_bits(bits: u8) -> Option<Self> {
        if bits & !0xf == 0 { Some(Self(bits)) } else { None }
    }

    /// Whether every bit of `other` is in this set.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether there is no bit.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl BitOr for Entities {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitOrAssign for Entities {
    fn bitor_assign(&mut self, other: Self) {
        self.0 |= other.0;
    }
}

/// Named container ports: (name, protocol) -> number.
pub type NamedPorts = BTreeMap<(String, Protocol), u16>;

/// A distinct set of properties that policies can select on. Many addresses share one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Identity {
    /// Its number, at least [`FIRST_IDENTITY`]; the same number means the same everywhere.
    pub id: u32,
    /// The namespace.
    pub namespace: String,
    /// The service account, for pods.
    pub service_account: Option<String>,
    /// The labels, without those that differ for each pod.
    pub labels: Labels,
    /// The container ports that have a name.
    pub named_ports: NamedPorts,
}

/// What is known of an address.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AddressFacts {
    /// The identity that holds it, if any. A number that [`World::identities`] does not have matches no peer.
    pub identity: Option<u32>,
    /// Its kinds, as published: a pod's address has CLUSTER, a node's own HOST and CLUSTER. Without any it is WORLD.
    pub entities: Entities,
}

/// The backends of one port of a Service.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Backends {
    /// Address and target port of each ready backend.
    pub ready: Vec<(IpAddr, u16)>,
    /// Whether that is all of them. A list known in part permits nothing.
    pub complete: bool,
}

/// A Service, at one of its virtual addresses.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Service {
    /// The Service's namespace, for messages.
    pub namespace: String,
    /// The Service's name, for messages.
    pub name: String,
    /// The Service's ports.
    pub ports: BTreeMap<(Protocol, u16), Backends>,
}

/// What is known of the cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct World {
    /// The namespaces and their labels. One that is missing here has only its name.
    pub namespaces: BTreeMap<String, Labels>,
    /// The identities, by their number.
    pub identities: BTreeMap<u32, Identity>,
    /// The known addresses, canonical.
    pub addresses: BTreeMap<IpAddr, AddressFacts>,
    /// The Services' virtual addresses, canonical.
    pub services: BTreeMap<IpAddr, Service>,
    /// The namespace that Holdfast itself runs in.
    pub own_namespace: Option<String>,
}

impl World {
    /// What is known of an address: unknown ones, and known ones without any entity, are WORLD.
    #[must_use]
    pub fn facts(&self, address: IpAddr) -> AddressFacts {
        let mut facts = self.addresses.get(&canonical(address)).copied().unwrap_or_default();
        if facts.entities.is_empty() {
            facts.entities = Entities::WORLD;
        }
        facts
    }

    /// What is known of a peer that is met on the loopback interface by a workload which is a part of the host: the
    /// host itself. An address of a node keeps its other entities; any other is Host and nothing else.
    #[must_use]
    pub fn loopback_facts(&self, address: IpAddr) -> AddressFacts {
        let facts = self.facts(address);
        if facts.entities.contains(Entities::HOST) {
            facts
        } else {
            AddressFacts { identity: None, entities: Entities::HOST }
        }
    }

    /// The identity that holds an address, where both are known.
    #[must_use]
    pub fn identity_of(&self, facts: AddressFacts) -> Option<&Identity> {
        facts.identity.and_then(|id| self.identities.get(&id))
    }

    /// Whether cluster policies leave this namespace alone unless they name it.
    #[must_use]
    pub fn protects(&self, namespace: &str) -> bool {
        namespace == "kube-system" || self.own_namespace.as_deref() == Some(namespace)
    }
}

/// The controller at the top of a pod: its Deployment, not its `ReplicaSet`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Owner {
    /// Its kind.
    pub kind: String,
    /// Its name.
    pub name: String,
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.kind, self.name)
    }
}

/// How a workload is placed in the network.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum NetScope {
    /// It has a network namespace of its own. Its loopback is its own business; it sees a Service's virtual address.
    #[default]
    Own,
    /// It is a part of the host: a hostNetwork pod, or an external workload with cgroups. Its loopback peers are the
    /// host; it sees a Service's backends.
    HostPart,
    /// It is the whole host: an external workload without cgroups. Its loopback is its own business; it sees a
    /// Service's backends; and its [`FAILSAFE`] ports stay open.
    WholeHost,
}

/// The ports that no policy closes on a whole host, so that it can still be reached and managed: SSH, etcd, the
/// API server, the kubelet, DNS and DHCP. (direction, protocol, first, last); the workload's own ports at ingress, the
/// peer's at egress.
pub const FAILSAFE: [(Direction, Protocol, u16, u16); 13] = [
    (Direction::Ingress, Protocol::Tcp, 22, 22),
    (Direction::Ingress, Protocol::Tcp, 2379, 2380),
    (Direction::Ingress, Protocol::Tcp, 6443, 6443),
    (Direction::Ingress, Protocol::Tcp, 10250, 10250),
    (Direction::Ingress, Protocol::Udp, 68, 68),
    (Direction::Ingress, Protocol::Udp, 546, 546),
    (Direction::Egress, Protocol::Tcp, 53, 53),
    (Direction::Egress, Protocol::Tcp, 2379, 2380),
    (Direction::Egress, Protocol::Tcp, 6443, 6443),
    (Direction::Egress, Protocol::Tcp, 10250, 10250),
    (Direction::Egress, Protocol::Udp, 53, 53),
    (Direction::Egress, Protocol::Udp, 67, 67),
    (Direction::Egress, Protocol::Udp, 547, 547),
];

/// One workload of this node: a pod (`container` = `None`), one of its containers, or an external workload. Network
/// rules act on pods, system call rules on containers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Workload {
    /// The namespace.
    pub namespace: String,
    /// The name of the pod or of the `ExternalWorkload`.
    pub name: String,
    /// The pod's UID.
    pub uid: String,
    /// The container; `None` = the pod's own cgroup.
    pub container: Option<String>,
    /// The labels.
    pub labels: Labels,
    /// The service account, for pods.
    pub service_account: Option<String>,
    /// The controller at the top.
    pub owner: Option<Owner>,
    /// The named ports of all its containers.
    pub named_ports: NamedPorts,
    /// How it is placed in the network.
    pub net: NetScope,
}
