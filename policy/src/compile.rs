//! Policies, workloads and the known network become tables that a kernel program reads with a few look-ups.
//!
//! # How a packet is decided
//!
//! A workload points to a [`NetSet`]. For one packet the kernel finds up to three classes:
//!
//! 1. [`ClassId::ANY`];
//! 2. the class of the peer's (identity, entities) in [`Compiled::identity_class`], none if it is not there;
//! 3. the class of the longest prefix in [`Compiled::cidr_class`] that contains the peer's address, none if there is
//!    no such prefix or it says [`ClassId::NONE`].
//!
//! For each it looks up the longest prefix of (direction, class, protocol, port) in [`NetSet::verdicts`], where the
//! longest prefix holds the complete answer of that class, and joins the cells found ([`Cell::join`]). The joined cell
//! and the [`Header`] of the set give the verdict ([`Cell::verdict`]).
//!
//! * A packet without a port (a fragment that is not the first) is looked up with the protocol and no port bit: it
//!   finds `Scope::Ports` with a prefix of length 0, else `Scope::All`. A protocol other than TCP and UDP finds
//!   `Scope::All` only.
//! * A flow that a socket of the host's own network namespace opened to a workload with its own ([`NetScope::Own`])
//!   is looked up at ingress under [`ClassId::NODE_FLOW`] only, with the [`Header`] taken as 'not isolated'.
//! * Loopback (interface 1): allowed without any look-up for [`NetScope::Own`] and [`NetScope::WholeHost`]. For
//!   [`NetScope::HostPart`] the peer is what [`World::loopback_facts`] says: (0, HOST) unless the address has HOST.
//! * At egress of [`NetScope::Own`], a peer in [`Compiled::services`] is looked up under the class it has there and
//!   nothing else: not ANY, not by address. An absent row there is an empty cell: the header decides.
//!
//! # What stays stable
//!
//! [`Compiled::universe`] says what classes are made of. While it is equal, classes keep their numbers from one
//! compilation to the next (given the previous result), numbers are never used twice, and a set with an equal
//! [`NetSetKey`] differs at most by rows of classes that came or went. When it differs, no number means the same.
//!
//! [`NetScope::Own`]: crate::model::NetScope::Own
//! [`NetScope::WholeHost`]: crate::model::NetScope::WholeHost
//! [`NetScope::HostPart`]: crate::model::NetScope::HostPart
//! [`World::loopback_facts`]: crate::model::World::loopback_facts

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::model::{Entities, Policy, Workload, World};
use crate::syscalls::Abi;

pub mod network;
pub mod syscall;
pub mod universe;

pub use network::{
    Cell, DirectionHeader, Header, NetSet, NetSetKey, NetVerdict, PolicyKey, PortPrefix, Refusal, Scope,
    VerdictKey,
};
pub use syscall::{Clause, Condition, SysPolicy, SysRule, SysSet, SysSetKey, Width};
pub use universe::{ClassId, Matcher, NamespaceScope, Universe};

/// What is compiled.
#[derive(Debug, Clone, Copy)]
pub struct Input<'a> {
    /// Every policy that is in force, in any order, with distinct names.
    pub policies: &'a [Policy],
    /// What is known of the network.
    pub world: &'a World,
    /// This node's workloads.
    pub workloads: &'a [Workload],
    /// The system call tables of this node's kernel.
    pub abis: &'a [Abi],
}

/// Everything that the kernel of one node is told.
#[derive(Debug, Clone, Default)]
pub struct Compiled {
    /// What the classes are made of. Two results with different universes share no class number.
    pub universe: Arc<Universe>,
    /// (identity, entities) -> class, for every pair that an address of the world has, for (0, WORLD) and for
    /// (0, HOST). The identity is 0 where the address has none. A pair that matches nothing is absent.
    pub identity_class: BTreeMap<(u32, Entities), ClassId>,
    /// Prefix -> class, longest match wins. [`ClassId::NONE`] cuts a hole in an enclosing prefix.
    pub cidr_class: BTreeMap<IpNet, ClassId>,
    /// Every Service address of the world -> class; [`ClassId::NONE`] where it has no port that could be permitted.
    /// Addresses with equal ports and equally classified backends share a class.
    pub services: BTreeMap<IpAddr, ClassId>,
    /// The network sets in use, each once, in the order of their keys.
    pub net_sets: Vec<Arc<NetSet>>,
    /// The system call sets in use, each once, in the order of their keys.
    pub sys_sets: Vec<Arc<SysSet>>,
    /// For each workload of the input, in its order.
    pub assignments: Vec<Assignment>,
    /// The numbers of classes, for the next compilation.
    pub(crate) classes: universe::Numbering,
}

/// What one workload is given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Assignment {
    /// Index into [`Compiled::net_sets`]; `None` = no policy with network rules selects it: everything is allowed.
    pub net_set: Option<usize>,
    /// Index into [`Compiled::sys_sets`]; `None` = no policy with system call rules concerns it.
    pub sys_set: Option<usize>,
    /// The policies that select it, as indices into [`Input::policies`], in the order of their names. (One whose
    /// `containers` leaves this container out is listed too.)
    pub policies: Vec<usize>,
}

impl Compiled {
    /// The network set of a workload, by its index in the input.
    #[must_use]
    pub fn net_set(&self, workload: usize) -> Option<&Arc<NetSet>> {
        self.net_sets.get(self.assignments.get(workload)?.net_set?)
    }

    /// The system call set of a workload, by its index in the input.
    #[must_use]
    pub fn sys_set(&self, workload: usize) -> Option<&Arc<SysSet>> {
        self.sys_sets.get(self.assignments.get(workload)?.sys_set?)
    }
}
