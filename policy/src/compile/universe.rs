//! What peers are compared with, and the classes that come of it.

use std::collections::BTreeMap;

use crate::error::CompileError;
use crate::model::{Entities, IpBlock, Protocol};
use crate::selector::Selector;

/// A class of peers: those that no rule of this universe can tell apart.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClassId(pub u32);

impl ClassId {
    /// Matches nothing; never has a row.
    pub const NONE: Self = Self(0);
    /// Everybody: rules without peers.
    pub const ANY: Self = Self(1);
    /// Flows that a socket of the host's own network namespace opened: deny rules that name `entity: Host`.
    pub const NODE_FLOW: Self = Self(2);
    /// The smallest number of an ordinary class.
    pub const FIRST: Self = Self(16);
}

/// The namespaces of a [`Matcher`].
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum NamespaceScope {
    /// Every namespace.
    All,
    /// The policy's own.
    One(String),
    /// By label.
    Matching(Selector),
}

/// What an (identity, entities) pair is compared with. Canonical: equal meanings written in another order are equal.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Matcher {
    /// The pair has this entity.
    Entity(Entities),
    /// The identity is in these namespaces and has these labels.
    Pods {
        /// The namespaces.
        namespaces: NamespaceScope,
        /// The labels.
        pods: Selector,
    },
    /// The identity has this service account.
    ServiceAccount {
        /// The account's namespaces.
        namespaces: NamespaceScope,
        /// The account's name.
        name: String,
    },
    /// The identity declares this named port (for rules without peers that name a port at egress).
    DeclaresPort {
        /// The port's name.
        name: String,
        /// The port's protocol.
        protocol: Protocol,
    },
}

/// What the classes of one compilation are made of: everything that the policies selecting a workload of this node
/// compare peers with. The lists of matchers, blocks and names are sorted and without repetition.
///
/// Matchers (and likewise blocks) that exactly the same rules use are one group: no rule can tell apart which of them a
/// peer matches, so classes are made of groups.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Universe {
    /// What identities and entities are compared with.
    pub matchers: Vec<Matcher>,
    /// The address blocks.
    pub blocks: Vec<IpBlock>,
    /// The named ports that egress rules use. Two identities of one class resolve them alike.
    pub named_ports: Vec<(String, Protocol)>,
    /// For each matcher its group.
    pub matcher_groups: Vec<u32>,
    /// For each block its group.
    pub block_groups: Vec<u32>,
    /// For each group of matchers the named ports (as indices) that its rules use at egress.
    pub group_ports: Vec<Vec<u32>>,
}

/// What a class is known by from one compilation to the next, within one universe.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum ClassKey {
    /// The groups of matchers that match, and (index, number) of the declared named ports that their rules use.
    Identity(Vec<u32>, Vec<(u32, u16)>),
    /// The groups of blocks that match.
    Cidr(Vec<u32>),
    /// For each port the classes of the backends and their target ports.
    Service(Vec<ServicePortKey>),
}

/// One port of a Service whose backends are complete and not empty.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct ServicePortKey {
    pub(crate) protocol: Protocol,
    pub(crate) port: u16,
    /// (identity class, CIDR class, target port), sorted, each once.
    pub(crate) backends: Vec<(ClassId, ClassId, u16)>,
}

/// The numbers of the classes that are in use, and the next one that never was (`None` = all are used up).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Numbering {
    numbers: BTreeMap<ClassKey, ClassId>,
    next: Option<ClassId>,
}

impl Numbering {
    /// The numbers to go on with in the same universe: what was given out stays, nothing is given out twice.
    pub(crate) fn continued(&self) -> Renumbering<'_> {
        Renumbering { previous: Some(&self.numbers), numbers: BTreeMap::new(), next: self.next }
    }

    /// The numbers of a new universe.
    pub(crate) fn fresh() -> Renumbering<'static> {
        Renumbering { previous: None, numbers: BTreeMap::new(), next: Some(ClassId::FIRST) }
    }
}

/// Numbers being given out.
#[derive(Debug)]
pub(crate) struct Renumbering<'a> {
    previous: Option<&'a BTreeMap<ClassKey, ClassId>>,
    numbers: BTreeMap<ClassKey, ClassId>,
    next: Option<ClassId>,
}

impl Renumbering<'_> {
    /// The number of a class, and whether it was met for the first time in this compilation.
    pub(crate) fn number(&mut self, key: ClassKey) -> Result<(ClassId, bool), CompileError> {
        if let Some(&id) = self.numbers.get(&key) {
            return Ok((id, false));
        }
        let id = if let Some(&id) = self.previous.and_then(|previous| previous.get(&key)) {
            id
        } else {
            let id = self.next.ok_or(CompileError::TooManyClasses)?;
            self.next = id.0.checked_add(1).map(ClassId);
            id
        };
        self.numbers.insert(key, id);
        Ok((id, true))
    }

    pub(crate) fn finish(self) -> Numbering {
        Numbering { numbers: self.numbers, next: self.next }
    }
}
