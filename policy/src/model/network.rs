//! The network half of a policy.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use super::world::Entities;
use crate::selector::Selector;

/// Seen from the workload that a policy applies to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Direction {
    /// Flows that a peer opens to the workload.
    Ingress,
    /// Flows that the workload opens to a peer.
    Egress,
}

impl Direction {
    /// Both, in order.
    pub const ALL: [Self; 2] = [Self::Ingress, Self::Egress];
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        })
    }
}

/// A transport protocol with ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// IP protocol 6.
    Tcp,
    /// IP protocol 17.
    Udp,
    /// IP protocol 132.
    Sctp,
}

impl Protocol {
    /// All of them, in order.
    pub const ALL: [Self; 3] = [Self::Tcp, Self::Udp, Self::Sctp];

    /// Its number in IP headers.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        })
    }
}

/// What the workload sees of a refusal.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum OnDeny {
    /// Silence.
    #[default]
    Drop,
    /// EPERM at connect and sendmsg.
    Reject,
}

/// The network rules of a policy.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Network {
    /// Rules for flows to the workload. Present, even without a rule, isolates that direction.
    pub ingress: Option<Rules>,
    /// Rules for flows from the workload. Present, even without a rule, isolates that direction.
    pub egress: Option<Rules>,
    /// What the workload sees of a refusal that is attributed to this policy.
    pub on_deny: OnDeny,
}

impl Network {
    /// The rules of one direction, if the policy has that direction.
    #[must_use]
    pub fn direction(&self, direction: Direction) -> Option<&Rules> {
        match direction {
            Direction::Ingress => self.ingress.as_ref(),
            Direction::Egress => self.egress.as_ref(),
        }
    }
}

/// The rules of one direction.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Rules {
    /// What is allowed; rules unite.
    pub allow: Vec<NetRule>,
    /// What is refused, whatever any policy allows.
    pub deny: Vec<NetRule>,
}

/// One rule: any of the peers, on any of the ports.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct NetRule {
    /// The other end; `None` = anyone.
    pub peers: Option<Vec<Peer>>,
    /// The destination port (the workload's own at ingress, the peer's at egress); `None` = every protocol and port,
    /// ICMP and others too.
    pub ports: Option<Vec<PortMatch>>,
}

/// The other end of a flow.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Peer {
    /// Pods (and external workloads) by their labels.
    Pods {
        /// Their namespaces; `None` = the policy's own, and for a cluster policy all.
        namespaces: Option<Selector>,
        /// Their labels; `None` = all.
        pods: Option<Selector>,
    },
    /// Pods by their service account.
    ServiceAccount {
        /// The account's name.
        name: String,
        /// The account's namespace; `None` = the policy's own, and for a cluster policy any.
        namespace: Option<String>,
    },
    /// Addresses, whoever holds them.
    IpBlock(IpBlock),
    /// A kind of address.
    Entity(Entity),
}

/// A range of addresses without some parts of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IpBlock {
    /// The range.
    pub cidr: IpNet,
    /// The parts left out; of the same family and inside `cidr`.
    pub except: Vec<IpNet>,
}

impl IpBlock {
    /// Whether the address is in the range and in none of the parts left out. The address is taken as it is: make it
    /// [`canonical`](super::canonical) first.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.cidr.contains(&address) && !self.except.iter().any(|except| except.contains(&address))
    }
}

/// A kind of address. One address can be of several kinds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Entity {
    /// Any node's own addresses.
    Host,
    /// Addresses of pods and nodes.
    Cluster,
    /// Everything that is not known.
    World,
    /// The Kubernetes API servers.
    KubeApiserver,
}

impl Entity {
    /// The entity as its bit.
    #[must_use]
    pub fn bit(self) -> Entities {
        match self {
            Self::Host => Entities::HOST,
            Self::Cluster => Entities::CLUSTER,
            Self::World => Entities::WORLD,
            Self::KubeApiserver => Entities::KUBE_APISERVER,
        }
    }
}

/// One entry of a rule's `ports`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortMatch {
    /// The protocol.
    pub protocol: Protocol,
    /// The port, or the first of a range; `None` = every port of the protocol.
    pub port: Option<PortRef>,
    /// The last port of a range, inclusive; only with a number in `port`.
    pub end_port: Option<u16>,
}

/// A port by number or by name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PortRef {
    /// The number.
    Number(u16),
    /// The name of a container port of the destination: at ingress of the workload itself, at egress of the identity
    /// that holds the address. A destination that declares no such port is not matched. At egress a name is resolved
    /// through the peer's identity only: together with an `ipBlock` it matches nothing, which `validate` refuses.
    Name(String),
}
