//! Network sets: the rows that decide packets.

use crate::model::{Direction, PolicyId, Protocol, RuleRef};

use super::universe::ClassId;

/// A policy as part of a set's key. Equal keys mean equal rules.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PolicyKey {
    /// The policy's name.
    pub id: PolicyId,
    /// Its UID.
    pub uid: String,
    /// [`Policy::fingerprint`](crate::model::Policy::fingerprint).
    pub fingerprint: u64,
}

/// What a network set is known by from one compilation to the next.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NetSetKey {
    /// The policies with network rules that select the workload, in the order of their names.
    pub policies: Vec<PolicyKey>,
    /// Those of the workload's own named ports that an ingress rule of these policies uses, sorted.
    pub named_ports: Vec<(String, Protocol, u16)>,
    /// Whether the rows keep the [`FAILSAFE`](crate::model::FAILSAFE) ports open, as for a whole host.
    pub failsafe: bool,
}

/// The network rules of all workloads that are selected by the same policies and resolve their own ports alike.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NetSet {
    /// What it is known by.
    pub key: NetSetKey,
    /// The rules that a refusal can be attributed to: the index is the rule's number. Ordered by policy name and
    /// path, at most [`NetSet::MAX_RULES`].
    pub rules: Vec<RuleRef>,
    /// Whether and by whom the workload is isolated.
    pub header: Header,
    /// The rows, sorted by key. Within one (direction, class) a longer prefix holds the complete answer; rows that say
    /// what the next shorter one says are left out.
    pub verdicts: Vec<(VerdictKey, Cell)>,
}

impl NetSet {
    /// The largest number of rules, so that a number fits in 16 bits and 0xffff is free to mean 'none'.
    pub const MAX_RULES: usize = 0xffff;
}

/// Whether and by whom a workload is isolated.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Header {
    /// Flows to the workload.
    pub ingress: DirectionHeader,
    /// Flows from the workload.
    pub egress: DirectionHeader,
}

impl Header {
    /// One of the two.
    #[must_use]
    pub fn direction(&self, direction: Direction) -> DirectionHeader {
        match direction {
            Direction::Ingress => self.ingress,
            Direction::Egress => self.egress,
        }
    }
}

/// Whether and by whom a workload is isolated in one direction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct DirectionHeader {
    /// The default rule of the first Enforce policy that has this direction; `None` = not isolated.
    pub enforce: Option<Refusal>,
    /// The number of the default rule of the first Audit policy that has this direction.
    pub audit: Option<u16>,
}

/// A rule that refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Refusal {
    /// The rule's number in [`NetSet::rules`].
    pub rule: u16,
    /// Whether its policy says `onDeny: Reject`.
    pub reject: bool,
}

/// The first bits of a port.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortPrefix {
    /// The bits, the others 0.
    pub port: u16,
    /// How many bits count, 0 to 16.
    pub len: u8,
}

impl PortPrefix {
    /// The prefix without any bit.
    pub const EVERY: Self = Self { port: 0, len: 0 };

    /// The prefix of exactly one port.
    #[must_use]
    pub fn exact(port: u16) -> Self {
        Self { port, len: 16 }
    }

    /// Whether the port begins with this prefix.
    #[must_use]
    pub fn contains(self, port: u16) -> bool {
        // A shift by 16 is the prefix without bits.
        u32::from(self.port ^ port) >> (16 - u32::from(self.len)) == 0
    }
}

/// The protocols and ports of a row, from the widest to the narrowest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scope {
    /// Every protocol: what rules without `ports` say. The only row for protocols without ports.
    All,
    /// Ports of one protocol. With [`PortPrefix::EVERY`] it is what rules say that cover every port: the row for
    /// fragments.
    Ports {
        /// The protocol.
        protocol: Protocol,
        /// The ports.
        prefix: PortPrefix,
    },
}

/// The key of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VerdictKey {
    /// The direction.
    pub direction: Direction,
    /// The peer's class.
    pub class: ClassId,
    /// Protocols and ports.
    pub scope: Scope,
}

/// What the rules say of one class, protocol and port.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Cell {
    /// Some rule of an Enforce policy allows.
    pub allow: bool,
    /// Some rule of an Audit policy allows. (In rows of a Service: all policies together allow every backend.)
    pub audit_allow: bool,
    /// The first deny rule of an Enforce policy.
    pub deny: Option<Refusal>,
    /// The number of the first deny rule of an Audit policy.
    pub audit_deny: Option<u16>,
}

impl Cell {
    /// What two classes of one peer say together.
    #[must_use]
    pub fn join(self, other: Self) -> Self {
        Self {
            allow: self.allow || other.allow,
            audit_allow: self.audit_allow || other.audit_allow,
            deny: first(self.deny, other.deny),
            audit_deny: first(self.audit_deny, other.audit_deny),
        }
    }

    /// The verdict of a joined cell, exactly as the kernel computes it.
    #[must_use]
    pub fn verdict(self, header: DirectionHeader) -> NetVerdict {
        let default = if self.allow { None } else { header.enforce };
        if let Some(refusal) = self.deny.or(default) {
            return NetVerdict { refused: Some(refusal), audited: None };
        }
        let default = if self.allow || self.audit_allow { None } else { header.audit };
        NetVerdict { refused: None, audited: self.audit_deny.or(default) }
    }

    /// Whether it says nothing at all.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self == Self::default()
    }
}

/// The smaller of two, where `None` is larger than any.
fn first<T: Ord>(a: Option<T>, b: Option<T>) -> Option<T> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

/// What happens to a packet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct NetVerdict {
    /// The rule that refuses it; `None` = it passes.
    pub refused: Option<Refusal>,
    /// For a packet that passes: the rule by which all policies, taken as Enforce, would refuse it.
    pub audited: Option<u16>,
}
