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
//! * The failsafe ports of a whole host are open in its rows; the kernel does nothing for them.
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

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use ipnet::IpNet;

use crate::error::CompileError;
use crate::model::{Direction, Entities, NetScope, Policy, Protocol, Workload, World};
use crate::syscalls::Abi;

use classes::Excess;
use rules::{PlannedPolicy, PlannedRule};

pub mod access;
mod accessset;
mod cidr;
mod classes;
pub mod lookup;
mod netset;
pub mod network;
mod peers;
mod rows;
mod rules;
mod select;
mod service;
pub mod syscall;
mod sysset;
#[cfg(test)]
mod tests;
pub mod universe;

pub use access::{AccessPolicy, AccessRule, AccessSet, AccessSetKey, Answer, Answers};
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
    /// The access sets in use, each once, in the order of their keys.
    pub access_sets: Vec<Arc<AccessSet>>,
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
    /// Index into [`Compiled::access_sets`]; `None` = no policy with process, file or capability rules concerns it.
    pub access_set: Option<usize>,
    /// The policies that select it, as indices into [`Input::policies`], in the order of their names. (One whose
    /// `containers` leaves this container out is listed too.)
    pub policies: Vec<usize>,
}

/// Compiles. `previous` is the last result, of whatever input, if there is one: it keeps the numbers of classes and
/// the sets that did not change (as the very same [`Arc`]).
///
/// # Errors
///
/// Where something does not fit or two policies share a name; the error names the policy. Nothing is cut short.
pub fn compile(input: &Input<'_>, previous: Option<&Compiled>) -> Result<Compiled, CompileError> {
    let selected = select::select(input)?;
    let in_use: Vec<usize> =
        selected.iter().flat_map(|list| list.iter().copied()).collect::<BTreeSet<_>>().into_iter().collect();

    let (universe, planned) = rules::plan(in_use.iter().map(|index| &input.policies[*index]));
    let previous_universe = previous.filter(|previous| *previous.universe == universe);
    let mut numbering = match previous_universe {
        Some(previous) => previous.classes.continued(),
        None => universe::Numbering::fresh(),
    };
    let classified = classes::classify(&universe, input.world, &mut numbering)
        .map_err(|excess| blame(excess, input, &in_use, &planned))?;
    let services = service::classify_services(
        input.world,
        &classified.classes,
        &classified.identity_class,
        &classified.cidr_class,
        &mut numbering,
    )?;

    let mut compiled = Compiled {
        universe: previous_universe
            .map_or_else(|| Arc::new(universe), |previous| Arc::clone(&previous.universe)),
        identity_class: classified.identity_class,
        cidr_class: classified.cidr_class,
        net_sets: Vec::new(),
        sys_sets: Vec::new(),
        access_sets: Vec::new(),
        assignments: selected
            .iter()
            .map(|policies| Assignment { policies: policies.to_vec(), ..Assignment::default() })
            .collect(),
        services: BTreeMap::new(),
        classes: numbering.finish(),
    };
    let mut keys: HashMap<usize, PolicyKey> = HashMap::new();
    for index in &in_use {
        let policy = &input.policies[*index];
        let (id, uid) = (policy.id.clone(), policy.uid.clone());
        keys.insert(*index, PolicyKey { id, uid, fingerprint: policy.fingerprint() });
    }
    let mut sources: HashMap<usize, netset::Source<'_>> = HashMap::new();
    for (index, planned) in in_use.iter().zip(planned) {
        let Some(planned) = planned else { continue };
        let concerned = Direction::ALL.map(|direction| {
            let rules = planned.direction(direction).into_iter().flatten();
            rules.map(|rule| classified.classes.concerned(rule)).collect()
        });
        let (policy, key) = (&input.policies[*index], keys[index].clone());
        sources.insert(*index, netset::Source { policy, key, planned, classes: concerned });
    }
    net_sets(input, &selected, &sources, &classified.classes, &services, previous_universe, &mut compiled)?;
    sys_sets(input, &selected, &keys, previous, &mut compiled)?;
    access_sets(input, &selected, &keys, previous, &mut compiled)?;
    compiled.services = services.by_address;
    Ok(compiled)
}

/// The error for what there are too many of, naming the policy that adds most to it.
fn blame(
    excess: Excess,
    input: &Input<'_>,
    in_use: &[usize],
    planned: &[Option<PlannedPolicy>],
) -> CompileError {
    let (of, kind): (fn(&PlannedRule) -> usize, _) = match excess {
        Excess::Identities => (|rule| rule.matchers.len(), "identities"),
        Excess::Prefixes => (|rule| rule.blocks.len(), "address prefixes"),
        Excess::Other(error) => return error,
    };
    let size = |planned: &Option<PlannedPolicy>| -> usize {
        let rules =
            planned.iter().flat_map(|planned| planned.ingress.iter().chain(&planned.egress)).flatten();
        rules.map(of).sum()
    };
    let largest = in_use.iter().zip(planned).max_by_key(|(_, planned)| size(planned));
    largest.map_or(CompileError::TooManyClasses, |(index, _)| CompileError::TooManyPeers {
        policy: input.policies[*index].id.clone(),
        limit: classes::MAX_MATCHES,
        kind,
    })
}

/// Builds the network sets, each distinct one once, and points the workloads to them.
fn net_sets(
    input: &Input<'_>,
    selected: &[Rc<Vec<usize>>],
    sources: &HashMap<usize, netset::Source<'_>>,
    classes: &classes::Classes,
    services: &service::ServiceClasses,
    previous: Option<&Compiled>,
    compiled: &mut Compiled,
) -> Result<(), CompileError> {
    let mut previous_sets: HashMap<&NetSetKey, &Arc<NetSet>> = HashMap::new();
    for set in previous.iter().flat_map(|previous| &previous.net_sets) {
        previous_sets.insert(&set.key, set);
    }
    // Sets do not have to be built again while no class came or went.
    let same_classes = previous.is_some_and(|previous| previous.classes == compiled.classes);

    let mut sets: BTreeMap<NetSetOf, (Arc<NetSet>, Vec<usize>)> = BTreeMap::new();
    let mut rows = 0;
    let mut with_rules: HashMap<*const Vec<usize>, Rc<Vec<usize>>> = HashMap::new();
    for (at, (policies, workload)) in selected.iter().zip(input.workloads).enumerate() {
        let policies = with_rules.entry(Rc::as_ptr(policies)).or_insert_with(|| {
            Rc::new(policies.iter().copied().filter(|index| sources.contains_key(index)).collect())
        });
        if policies.is_empty() {
            continue;
        }
        let list: Vec<&netset::Source<'_>> = policies.iter().map(|index| &sources[index]).collect();
        let own_ports = netset::own_ports(&list, workload);
        let failsafe = workload.net == NetScope::WholeHost;
        match sets.entry((Rc::clone(policies), own_ports, failsafe)) {
            Entry::Occupied(mut entry) => entry.get_mut().1.push(at),
            Entry::Vacant(entry) => {
                let key = NetSetKey {
                    policies: list.iter().map(|source| source.key.clone()).collect(),
                    named_ports: entry.key().1.clone(),
                    failsafe,
                };
                let known = previous_sets.get(&key).copied();
                let set = match known {
                    Some(known) if same_classes => Arc::clone(known),
                    _ => netset::shared(netset::build(key, &list, classes, services, workload)?, known),
                };
                rows += set.verdicts.len();
                if rows > Compiled::MAX_ROWS {
                    let largest =
                        list.iter().max_by_key(|source| source.classes.iter().flatten().flatten().count());
                    let policy = largest.map_or(&list[0].policy.id, |source| &source.policy.id).clone();
                    return Err(CompileError::TooManyRows { policy, limit: Compiled::MAX_ROWS });
                }
                entry.insert((set, vec![at]));
            }
        }
    }
    let sets: Vec<(Arc<NetSet>, Vec<usize>)> = sets.into_values().collect();
    compiled.net_sets = placed(
        sets,
        |set| &set.key,
        |workload, place| {
            compiled.assignments[workload].net_set = Some(place);
        },
    );
    Ok(())
}

/// Sets, each with its workloads, in the order of their keys; `assign` is told of each workload and the place of its set.
fn placed<S, K: Ord>(
    mut sets: Vec<(Arc<S>, Vec<usize>)>,
    key: impl Fn(&S) -> &K,
    mut assign: impl FnMut(usize, usize),
) -> Vec<Arc<S>> {
    sets.sort_by(|a, b| key(&a.0).cmp(key(&b.0)));
    for (place, (_, workloads)) in sets.iter().enumerate() {
        for workload in workloads {
            assign(*workload, place);
        }
    }
    sets.into_iter().map(|(set, _)| set).collect()
}

/// What distinguishes network sets within one compilation: the policies, the workload's own named ports (name,
/// protocol, number), and whether it is a whole host.
type NetSetOf = (Rc<Vec<usize>>, Vec<(String, Protocol, u16)>, bool);

/// The distinct lists of policies, of those that `has_source` knows, which concern a workload's own container, each with
/// the workloads that have it, at least one; in the order in which they are met.
fn groups(
    input: &Input<'_>,
    selected: &[Rc<Vec<usize>>],
    has_source: impl Fn(usize) -> bool,
) -> Vec<(Vec<usize>, Vec<usize>)> {
    let mut groups: Vec<(Vec<usize>, Vec<usize>)> = Vec::new();
    let mut known: BTreeMap<Vec<usize>, usize> = BTreeMap::new();
    for (at, (policies, workload)) in selected.iter().zip(input.workloads).enumerate() {
        let container = workload.container.as_deref();
        let concerns =
            |index: &usize| has_source(*index) && input.policies[*index].covers_container(container);
        let policies: Vec<usize> = policies.iter().copied().filter(concerns).collect();
        if policies.is_empty() {
            continue;
        }
        let place = *known.entry(policies.clone()).or_insert(groups.len());
        match groups.get_mut(place) {
            Some((_, workloads)) => workloads.push(at),
            None => groups.push((policies, vec![at])),
        }
    }
    groups
}

/// Builds the system call sets, each distinct one once, and points the workloads to them.
fn sys_sets(
    input: &Input<'_>,
    selected: &[Rc<Vec<usize>>],
    keys: &HashMap<usize, PolicyKey>,
    previous: Option<&Compiled>,
    compiled: &mut Compiled,
) -> Result<(), CompileError> {
    let mut entries = sysset::Entries::new();
    let mut sources: BTreeMap<usize, sysset::Source<'_>> = BTreeMap::new();
    for (index, key) in keys {
        if let Some(source) = sysset::plan(&input.policies[*index], key.clone(), input.abis, &mut entries) {
            sources.insert(*index, source);
        }
    }
    let mut sets = Vec::new();
    for (policies, workloads) in groups(input, selected, |index| sources.contains_key(&index)) {
        let list: Vec<&sysset::Source<'_>> = policies.iter().map(|index| &sources[index]).collect();
        let key = SysSetKey { policies: list.iter().map(|source| source.key.clone()).collect() };
        let set = sysset::build(key, &list, &input.workloads[workloads[0]])?;
        let mut known = previous.into_iter().flat_map(|previous| &previous.sys_sets);
        let known = known.find(|known| ***known == set).map(Arc::clone);
        sets.push((known.unwrap_or_else(|| Arc::new(set)), workloads));
    }
    compiled.sys_sets = placed(
        sets,
        |set| &set.key,
        |workload, place| {
            compiled.assignments[workload].sys_set = Some(place);
        },
    );
    Ok(())
}

/// Builds the access sets, each distinct one once, and points the workloads to them.
fn access_sets(
    input: &Input<'_>,
    selected: &[Rc<Vec<usize>>],
    keys: &HashMap<usize, PolicyKey>,
    previous: Option<&Compiled>,
    compiled: &mut Compiled,
) -> Result<(), CompileError> {
    let sources: BTreeMap<usize, accessset::Source<'_>> = keys
        .iter()
        .filter_map(|(index, key)| Some((*index, accessset::plan(&input.policies[*index], key.clone())?)))
        .collect();
    let mut sets = Vec::new();
    for (policies, workloads) in groups(input, selected, |index| sources.contains_key(&index)) {
        let list: Vec<&accessset::Source<'_>> = policies.iter().map(|index| &sources[index]).collect();
        let key = AccessSetKey { policies: list.iter().map(|source| source.key.clone()).collect() };
        // Equal keys mean equal rules, and building the automata anew is dear.
        let mut known = previous.into_iter().flat_map(|previous| &previous.access_sets);
        let set = match known.find(|known| known.key == key) {
            Some(known) => Arc::clone(known),
            None => Arc::new(accessset::build(key, &list, &input.workloads[workloads[0]])?),
        };
        sets.push((set, workloads));
    }
    compiled.access_sets = placed(
        sets,
        |set| &set.key,
        |workload, place| {
            compiled.assignments[workload].access_set = Some(place);
        },
    );
    Ok(())
}

impl Compiled {
    /// The largest number of rows of all network sets together. Ten times what the largest node that is planned for
    /// needs; the kernel's map may hold fewer.
    pub const MAX_ROWS: usize = 2_000_000;

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

    /// The access set of a workload, by its index in the input.
    #[must_use]
    pub fn access_set(&self, workload: usize) -> Option<&Arc<AccessSet>> {
        self.access_sets.get(self.assignments.get(workload)?.access_set?)
    }
}
