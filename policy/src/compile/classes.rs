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

/// The classes of identities and of prefixes, and which matchers and blocks concern them.
#[derive(Debug)]
pub(crate) struct Classes {
    /// By local number: the number for the kernel, and the named ports.
    known: Vec<(ClassId, Vec<(u32, u16)>)>,
    locals: BTreeMap<ClassId, Local>,
    by_matcher: Vec<Vec<Local>>,
    by_block: Vec<Vec<Local>>,
}

/// The classes and who belongs to them.
pub(crate) struct Classified {
    pub(crate) classes: Classes,
    pub(crate) identity_class: BTreeMap<(u32, Entities), ClassId>,
    pub(crate) cidr_class: BTreeMap<IpNet, ClassId>,
}

/// Classifies the world's (identity, entities) pairs and the universe's prefixes.
pub(crate) fn classify(
    universe: &Universe,
    world: &World,
    numbering: &mut Renumbering<'_>,
) -> Result<Classified, CompileError> {
    let mut classes = Classes {
        known: vec![(ClassId::ANY, Vec::new()), (ClassId::NODE_FLOW, Vec::new())],
        locals: BTreeMap::new(),
        by_matcher: vec![Vec::new(); universe.matchers.len()],
        by_block: vec![Vec::new(); universe.blocks.len()],
    };
    let mut identity_class = BTreeMap::new();
    for (pair, matches) in peers::matches(universe, world) {
        let key = ClassKey::Identity(matches.matchers.clone(), matches.named_ports.clone());
        let (id, new) = numbering.number(key)?;
        if new {
            let local = classes.add(id, matches.named_ports);
            for matcher in matches.matchers {
                classes.by_matcher[matcher as usize].push(local);
            }
        }
        identity_class.insert(pair, id);
    }
    let mut cidr_class = BTreeMap::new();
    for (net, blocks) in cidr::prefixes(&universe.blocks) {
        if blocks.is_empty() {
            cidr_class.insert(net, ClassId::NONE);
            continue;
        }
        let (id, new) = numbering.number(ClassKey::Cidr(blocks.clone()))?;
        if new {
            let local = classes.add(id, Vec::new());
            for block in blocks {
                classes.by_block[block as usize].push(local);
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
        for matcher in &rule.matchers {
            concerned.extend(&self.by_matcher[*matcher as usize]);
        }
        for block in &rule.blocks {
            concerned.extend(&self.by_block[*block as usize]);
        }
        concerned.sort_unstable();
        concerned.dedup();
        concerned
    }
}
