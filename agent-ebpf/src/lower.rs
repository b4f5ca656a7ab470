//! From what was compiled to the rows of the kernel's maps. Pure but for the numbers it gives out, which it keeps: a set
//! that stays keeps its number, and no number is used twice while the agent runs.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use holdfast_policy::compile::{
    AccessSet, AccessSetKey, Cell, Compiled, DirectionHeader, NetSet, NetSetKey, Scope, SysSet, SysSetKey,
    Universe, VerdictKey,
};
use holdfast_policy::model::{Direction, NetScope, PolicyId, World};
use holdfast_policy::syscalls::hooks::Hook;

use crate::abi::{self, verdict_flags, workload_flags};
use crate::mechanisms::Mechanisms;
use crate::tables::Tables;
use crate::workloads::Placement;

pub mod access;
pub mod syscalls;

/// Why a state cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum LowerError {
    /// A call has more clauses than a kernel program may look at.
    #[error(
        "{policy}: system call {call} is concerned by {count} rules of the policies of one workload, and at most {max} \
         can be evaluated",
        max = abi::MAX_CLAUSES
    )]
    TooManyClauses {
        /// The policy with the most of them.
        policy: PolicyId,
        /// All policies of the set.
        concerned: Vec<PolicyId>,
        /// The call.
        call: String,
        /// How many clauses there are.
        count: usize,
    },
    /// The automata of paths do not fit beside those of the other sets.
    #[error(
        "there is no room for the paths of {}: the paths of all workloads of the node take at most {max} rows",
        concerned.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
        max = abi::PATH_ROWS
    )]
    NoRoomForPaths {
        /// All policies of the set.
        concerned: Vec<PolicyId>,
    },
}

/// Numbers given out so far.
#[derive(Debug, Default)]
pub struct Numbers {
    next_set: u32,
    next_view: u32,
    next_service: u32,
    next_workload: u32,
    next_gen: u32,
    view: u32,
    universe: Option<Arc<Universe>>,
    net_sets: HashMap<NetSetKey, u32>,
    sys_sets: HashMap<SysSetKey, u32>,
    access_sets: HashMap<AccessSetKey, u32>,
    /// Where room for rows of automata was last found.
    next_path_row: u32,
    services: HashMap<IpAddr, u32>,
    workloads: HashMap<String, u32>,
    pods: HashMap<String, u32>,
}

impl Numbers {
    /// Starts above everything that the maps hold already, so that what an earlier agent left stays in force, and
    /// apart, until it is replaced.
    #[must_use]
    pub fn above(tables: &Tables, highest: u32) -> Self {
        let set =
            tables.workloads.values().flat_map(|w| [w.net_set, w.sys_set, w.access_set]).max().unwrap_or(0);
        let set = set.max(tables.verdicts.keys().map(|k| u32::from_be(k.set_be)).max().unwrap_or(0));
        let set = set.max(tables.syscalls.keys().map(|k| k.set).max().unwrap_or(0));
        let set = set.max(tables.access_sets.keys().copied().max().unwrap_or(0));
        let view = tables.workloads.values().map(|w| w.view).max().unwrap_or(0);
        let view = view.max(tables.classes.keys().map(|k| k.view).max().unwrap_or(0));
        let view = view.max(tables.cidrs.keys().map(|k| u32::from_be(k.space_be) >> 1).max().unwrap_or(0));
        let used = |index: &&u32| **index != u32::MAX;
        let workload = tables.workloads.keys().filter(used).max().copied().unwrap_or(0);
        let pod = tables.workloads.values().map(|w| w.pod).max().unwrap_or(0);
        Self {
            next_set: set.max(highest),
            next_view: view,
            next_service: tables
                .addresses
                .values()
                .map(|a| a.identity)
                .filter(|id| *id >= SERVICE_BASE)
                .max()
                .unwrap_or(0),
            next_workload: workload.max(pod).max(highest),
            next_gen: tables
                .workloads
                .values()
                .map(|w| w.gen_)
                .filter(|number| *number != u32::MAX)
                .max()
                .unwrap_or(0)
                .max(highest),
            ..Self::default()
        }
    }

    /// The highest number given out to a set, a workload, a pod or a change.
    #[must_use]
    pub fn highest(&self) -> u32 {
        self.next_set.max(self.next_workload).max(self.next_gen)
    }

    /// The number of a pod, by its UID, also while it has no cgroup.
    pub fn pod(&mut self, uid: &str) -> u32 {
        if let Some(number) = self.pods.get(uid) {
            return *number;
        }
        self.next_workload += 1;
        self.pods.insert(uid.to_owned(), self.next_workload);
        self.next_workload
    }

    fn workload(&mut self, key: &str) -> u32 {
        if let Some(number) = self.workloads.get(key) {
            return *number;
        }
        self.next_workload += 1;
        self.workloads.insert(key.to_owned(), self.next_workload);
        self.next_workload
    }
}

/// Services are numbered apart from identities.
const SERVICE_BASE: u32 = 1 << 30;

/// What each number of the kernel stands for, for counters and `status`.
#[derive(Debug, Clone, Default)]
pub struct Meaning {
    /// Network sets by number.
    pub net_sets: BTreeMap<u32, Arc<NetSet>>,
    /// System call sets by number.
    pub sys_sets: BTreeMap<u32, Arc<SysSet>>,
    /// Sets of process, file and capability rules by number.
    pub access_sets: BTreeMap<u32, Arc<AccessSet>>,
    /// Workload index -> its placement, by position.
    pub workloads: BTreeMap<u32, usize>,
}

/// The wanted contents of the maps.
#[derive(Debug, Clone, Default)]
pub struct Lowered {
    /// The rows.
    pub tables: Tables,
    /// What the numbers mean.
    pub meaning: Meaning,
    /// Some workload is isolated at ingress: the node's own flows must be known.
    pub node_flows: bool,
    /// Some call is judged at its entry.
    pub sys_enter: bool,
    /// Bits of the hooks that some set needs.
    pub hooks: u64,
}

/// What is lowered.
#[derive(Debug, Clone, Copy)]
pub struct Input<'a> {
    /// The compiled policies.
    pub compiled: &'a Compiled,
    /// The world they were compiled for.
    pub world: &'a World,
    /// This node's workloads, in the order of the compilation's input.
    pub placements: &'a [Placement],
    /// Addresses of this node's own pods, by pod UID.
    pub local: &'a [(IpAddr, String)],
    /// What this kernel can refuse, and how.
    pub mechanisms: &'a Mechanisms,
}

/// Turns a compilation into rows.
///
/// # Errors
///
/// [`LowerError`] when something does not fit; nothing was given out that matters.
pub fn lower(input: Input<'_>, numbers: &mut Numbers, before: &Tables) -> Result<Lowered, LowerError> {
    let mut out = Lowered::default();
    if numbers.universe.as_ref() != Some(&input.compiled.universe) {
        numbers.next_view += 1;
        numbers.view = numbers.next_view;
        numbers.universe = Some(Arc::clone(&input.compiled.universe));
        // Class numbers mean something else now, so no set of before can be used with them.
        numbers.net_sets.clear();
    }
    addresses(&input, numbers, &mut out.tables);
    classes(&input, numbers, &mut out.tables);
    let net: Vec<u32> = input.compiled.net_sets.iter().map(|set| net_set(set, numbers, &mut out)).collect();
    let mut sys = Vec::with_capacity(input.compiled.sys_sets.len());
    for set in &input.compiled.sys_sets {
        let number = number_of(&mut numbers.sys_sets, &set.key, &mut numbers.next_set);
        syscalls::lower_set(set, number, input.mechanisms, &mut out)?;
        out.meaning.sys_sets.insert(number, Arc::clone(set));
        sys.push(number);
    }
    let mut space = access::Space::of(before, numbers.next_path_row);
    let mut access = Vec::with_capacity(input.compiled.access_sets.len());
    for set in &input.compiled.access_sets {
        let number = number_of(&mut numbers.access_sets, &set.key, &mut numbers.next_set);
        access::lower_set(set, number, input.mechanisms, &mut space, &mut out)?;
        out.meaning.access_sets.insert(number, Arc::clone(set));
        access.push((number, set.files.as_ref().map(access::elsewhere)));
    }
    numbers.next_path_row = space.next();
    let live: Vec<u32> = out.meaning.net_sets.keys().copied().collect();
    numbers.net_sets.retain(|_, number| live.binary_search(number).is_ok());
    let live: Vec<u32> = out.meaning.sys_sets.keys().copied().collect();
    numbers.sys_sets.retain(|_, number| live.binary_search(number).is_ok());
    let live: Vec<u32> = out.meaning.access_sets.keys().copied().collect();
    numbers.access_sets.retain(|_, number| live.binary_search(number).is_ok());
    for (position, placement) in input.placements.iter().enumerate() {
        let assignment = &input.compiled.assignments[position];
        let set = assignment.net_set.map(|i| (net[i], &input.compiled.net_sets[i]));
        let index = numbers.workload(&placement.key);
        let mut row = workload_row(numbers.view, set, placement.workload.net);
        if placement.pod {
            row.flags |= workload_flags::CONTAINER;
        }
        row.pod = numbers.pod(&placement.workload.uid);
        row.sys_set = assignment.sys_set.map_or(0, |i| sys[i]);
        if let Some((number, elsewhere)) = assignment.access_set.map(|i| access[i]) {
            row.access_set = number;
            if let Some(elsewhere) = elsewhere {
                row.flags |= workload_flags::FILES;
                row.elsewhere = elsewhere;
            }
        }
        if is_isolated(row.flags) && input.mechanisms.hooks.contains_key(&Hook::SocketCreate) {
            out.hooks |= Mechanisms::bit(Hook::SocketCreate);
        }
        out.node_flows |=
            row.flags & workload_flags::ISOLATED != 0 || row.flags & workload_flags::WOULD_ISOLATE != 0;
        row.gen_ = match before.workloads.get(&index) {
            Some(old) if (abi::Workload { gen_: 0, ..*old }) == row => old.gen_,
            _ => {
                numbers.next_gen += 1;
                numbers.next_gen
            }
        };
        out.tables.workloads.insert(index, row);
        out.meaning.workloads.insert(index, position);
        for cgroup in &placement.cgroups {
            out.tables.cgroups.insert(*cgroup, index);
        }
    }
    numbers.workloads.retain(|_, number| out.meaning.workloads.contains_key(number));
    let known: HashSet<&str> = input
        .placements
        .iter()
        .map(|placement| placement.workload.uid.as_str())
        .chain(input.local.iter().map(|(_, uid)| uid.as_str()))
        .collect();
    numbers.pods.retain(|uid, _| known.contains(uid.as_str()));
    Ok(out)
}

/// Whether packet sockets, which pass by the network programs, are refused to the workload: the programs on the hook
/// decide the same way.
fn is_isolated(flags: u32) -> bool {
    flags & (workload_flags::ISOLATED | workload_flags::ISOLATED << 1) != 0
        && flags & (workload_flags::HOST_PART | workload_flags::WHOLE_HOST) == 0
}

fn number_of<K: Clone + Eq + std::hash::Hash>(known: &mut HashMap<K, u32>, key: &K, next: &mut u32) -> u32 {
    *known.entry(key.clone()).or_insert_with(|| {
        *next += 1;
        *next
    })
}

fn addresses(input: &Input<'_>, numbers: &mut Numbers, tables: &mut Tables) {
    for address in input.world.addresses.keys() {
        // Not the entry itself: an address without entities counts as World.
        let facts = input.world.facts(*address);
        let row = abi::Address {
            identity: facts.identity.unwrap_or(0),
            flags: u32::from(facts.entities.bits()),
            pod: 0,
        };
        tables.addresses.insert((*address).into(), row);
    }
    numbers.services.retain(|address, _| input.world.services.contains_key(address));
    numbers.next_service = numbers.next_service.max(SERVICE_BASE);
    for address in input.world.services.keys() {
        let number = number_of(&mut numbers.services, address, &mut numbers.next_service);
        tables.addresses.insert(
            (*address).into(),
            abi::Address { identity: number, flags: abi::ADDRESS_SERVICE, pod: 0 },
        );
    }
    for (address, uid) in input.local {
        let pod = numbers.pod(uid);
        let cluster = u32::from(holdfast_policy::model::Entities::CLUSTER.bits());
        // A pod of this node whose address the operator has not published yet is in the cluster all the same.
        tables
            .addresses
            .entry((*address).into())
            .or_insert(abi::Address { identity: 0, flags: cluster, pod })
            .pod = pod;
    }
}

fn classes(input: &Input<'_>, numbers: &Numbers, tables: &mut Tables) {
    let view = numbers.view;
    for ((identity, entities), class) in &input.compiled.identity_class {
        let key = abi::ClassKey { view, identity: *identity, flags: u32::from(entities.bits()) };
        tables.classes.insert(key, class.0);
    }
    for (address, class) in &input.compiled.services {
        if let Some(number) = numbers.services.get(address) {
            let key = abi::ClassKey { view, identity: *number, flags: abi::ADDRESS_SERVICE };
            tables.classes.insert(key, class.0);
        }
    }
    for (prefix, class) in &input.compiled.cidr_class {
        tables.cidrs.insert(cidr_key(view, *prefix), class.0);
    }
}

/// The key of a prefix in a view.
#[must_use]
pub fn cidr_key(view: u32, prefix: ipnet::IpNet) -> abi::CidrKey {
    let (v6, addr) = match prefix.network() {
        IpAddr::V4(v4) => (0, abi::Addr { w: [u32::from_ne_bytes(v4.octets()), 0, 0, 0] }),
        address @ IpAddr::V6(_) => (1, address.into()),
    };
    abi::CidrKey {
        prefixlen: abi::CIDR_BITS_SPACE + u32::from(prefix.prefix_len()),
        space_be: (view << 1 | v6).to_be(),
        addr,
    }
}

fn net_set(set: &Arc<NetSet>, numbers: &mut Numbers, out: &mut Lowered) -> u32 {
    let number = number_of(&mut numbers.net_sets, &set.key, &mut numbers.next_set);
    for (key, cell) in &set.verdicts {
        out.tables.verdicts.insert(verdict_key(number, *key), verdict(*cell));
    }
    out.meaning.net_sets.insert(number, Arc::clone(set));
    number
}

/// The key of a verdict in a set.
#[must_use]
pub fn verdict_key(set: u32, key: VerdictKey) -> abi::VerdictKey {
    let (prefixlen, proto, port) = match key.scope {
        Scope::All => (abi::VERDICT_BITS_CLASS, 0, 0),
        Scope::Ports { protocol, prefix } => {
            (abi::VERDICT_BITS_PROTO + u32::from(prefix.len), protocol.number(), prefix.port)
        }
    };
    abi::VerdictKey {
        prefixlen,
        set_be: set.to_be(),
        class_be: key.class.0.to_be(),
        direction: direction(key.direction),
        proto,
        port_be: port.to_be(),
    }
}

/// The kernel's number of a direction.
#[must_use]
pub fn direction(direction: Direction) -> u8 {
    match direction {
        Direction::Ingress => 0,
        Direction::Egress => 1,
    }
}

fn verdict(cell: Cell) -> abi::Verdict {
    let mut flags = 0;
    if cell.allow {
        flags |= verdict_flags::ALLOW;
    }
    if cell.audit_allow {
        flags |= verdict_flags::WOULD_ALLOW;
    }
    if let Some(refusal) = cell.deny {
        flags |= verdict_flags::DENY | if refusal.reject { verdict_flags::REJECT } else { 0 };
    }
    if cell.audit_deny.is_some() {
        flags |= verdict_flags::WOULD_DENY;
    }
    abi::Verdict {
        flags,
        pad: 0,
        deny_rule: cell.deny.map_or(abi::NO_RULE, |r| r.rule),
        would_rule: cell.audit_deny.unwrap_or(abi::NO_RULE),
        pad2: 0,
    }
}

fn workload_row(view: u32, set: Option<(u32, &Arc<NetSet>)>, scope: NetScope) -> abi::Workload {
    let mut row = abi::Workload {
        view,
        default_rule: [abi::NO_RULE; 2],
        would_default_rule: [abi::NO_RULE; 2],
        ..abi::Workload::default()
    };
    row.flags = match scope {
        NetScope::Own => 0,
        NetScope::HostPart => workload_flags::HOST_PART,
        NetScope::WholeHost => workload_flags::WHOLE_HOST,
    };
    let Some((number, set)) = set else { return row };
    row.net_set = number;
    row.flags |= workload_flags::NET;
    for way in [Direction::Ingress, Direction::Egress] {
        let bit = direction(way);
        let DirectionHeader { enforce, audit } = set.header.direction(way);
        if let Some(refusal) = enforce {
            row.flags |= workload_flags::ISOLATED << bit;
            row.default_rule[usize::from(bit)] = refusal.rule;
            if refusal.reject {
                row.flags |= workload_flags::REJECT << bit;
                if way == Direction::Egress {
                    row.flags |= workload_flags::ANY_REJECT;
                }
            }
        }
        if let Some(rule) = audit {
            row.flags |= workload_flags::WOULD_ISOLATE << bit;
            row.would_default_rule[usize::from(bit)] = rule;
        }
    }
    let rejects = |(key, cell): &(VerdictKey, Cell)| {
        key.direction == Direction::Egress && cell.deny.is_some_and(|refusal| refusal.reject)
    };
    if set.verdicts.iter().any(rejects) {
        row.flags |= workload_flags::ANY_REJECT;
    }
    row
}
