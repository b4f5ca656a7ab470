//! The classes of one compilation, by a dense local number that serves as an index while compiling.

use std::collections::BTreeMap;

use ipnet::IpNet;

use crate::error::CompileError;
use crate::model::{Entities, World};

use super::cidr;
use super::peers;
use super::rules::PlannedRule;
use super::universe::{ClassId, ClassKey, Renumbering, Universe};

/// A class, by its place in [`Classes`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Local(u32);

impl Local {
    pub(crate) const ANY: Self = Self(0);
    pub(crate) const NODE_FLOW: Self = Self(1);
}

/// The classes of identities and of prefixes, and which groups of matchers and blocks they belong to.
#[derive(Debug)]
pub(crate) struct Classes {
    /// By local number: the number for the kernel, and the named ports.
    known: Vec<(ClassId, Vec<(u32, u16)>)>,
    locals: BTreeMap<ClassId, Local>,
    /// By group of matchers, and of blocks.
    by_matchers: Vec<Vec<Local>>,
    by_blocks: Vec<Vec<Local>>,
}

/// The classes and who belongs to them.
pub(crate) struct Classified {
    pub(crate) classes: Classes,
    pub(crate) identity_class: BTreeMap<(u32, Entities), ClassId>,
    pub(crate) cidr_class: BTreeMap<IpNet, ClassId>,
}

/// How often peers may match, identities and prefixes each: 32 MB while compiling. The largest node that is planned
/// for (1,000 policies, 5,000 identities) stays well below.
pub(crate) const MAX_MATCHES: usize = 8_000_000;

/// What there are too many of; the compiler knows whose they are.
pub(crate) enum Excess {
    Identities,
    Prefixes,
    Other(CompileError),
}

impl From<CompileError> for Excess {
    fn from(error: CompileError) -> Self {
        Self::Other(error)
    }
}

/// Classifies the world's (identity, entities) pairs and the universe's prefixes.
pub(crate) fn classify(
    universe: &Universe,
    world: &World,
    numbering: &mut Renumbering<'_>,
) -> Result<Classified, Excess> {
    let mut classes = Classes {
        known: vec![(ClassId::ANY, Vec::new()), (ClassId::NODE_FLOW, Vec::new())],
        locals: BTreeMap::new(),
        by_matchers: vec![Vec::new(); universe.matchers.len()],
        by_blocks: vec![Vec::new(); universe.blocks.len()],
    };
    let mut identity_class = BTreeMap::new();
    for (pair, matches) in peers::matches(universe, world, MAX_MATCHES).ok_or(Excess::Identities)? {
        let key = ClassKey::Identity(matches.groups.clone(), matches.named_ports.clone());
        let (id, new) = numbering.number(key)?;
        if new {
            let local = classes.add(id, matches.named_ports);
            for group in matches.groups {
                classes.by_matchers[group as usize].push(local);
            }
        }
        identity_class.insert(pair, id);
    }
    let mut cidr_class = BTreeMap::new();
    for (net, groups) in
        cidr::prefixes(&universe.blocks, &universe.block_groups, MAX_MATCHES).ok_or(Excess::Prefixes)?
    {
        if groups.is_empty() {
            cidr_class.insert(net, ClassId::NONE);
            continue;
        }
        let (id, new) = numbering.number(ClassKey::Cidr(groups.clone()))?;
        if new {
            let local = classes.add(id, Vec::new());
            for group in groups {
                classes.by_blocks[group as usize].push(local);
            }
        }
        cidr_class.insert(net, id);
    }
    Ok(Classified { classes, identity_class, cidr_class })
}

impl Classes {
    fn add(&mut self, id: ClassId, named_ports: Vec<(u32, u16)>) -> Local {
        let local = Local(u32::try_from(self.known.len()).unwrap_or(u32::MAX));
        self.known.push((id, named_ports));
        self.locals.insert(id, local);
        local
    }

    /// The number for the kernel.
    pub(crate) fn id(&self, local: Local) -> ClassId {
        self.known[local.0 as usize].0
    }

    /// The class of this number, unless it is none.
    pub(crate) fn local(&self, id: ClassId) -> Option<Local> {
        self.locals.get(&id).copied()
    }

    /// The named ports of the universe that the identities of this class declare.
    pub(crate) fn named_ports(&self, local: Local) -> &[(u32, u16)] {
        &self.known[local.0 as usize].1
    }

    /// The classes that a rule concerns, each once.
    pub(crate) fn concerned(&self, rule: &PlannedRule) -> Vec<Local> {
        let mut concerned: Vec<Local> = Vec::new();
        if rule.anyone {
            concerned.push(Local::ANY);
        }
        if rule.node_flow {
            concerned.push(Local::NODE_FLOW);
        }
        for group in &rule.matchers {
            concerned.extend(&self.by_matchers[*group as usize]);
        }
        for group in &rule.blocks {
            concerned.extend(&self.by_blocks[*group as usize]);
        }
        concerned.sort_unstable();
        concerned.dedup();
        concerned
    }
}
