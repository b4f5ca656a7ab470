//! Brings the kernel to what the facts ask for, in an order in which every state between is right: first what a new
//! policy set needs, then the identities, then each workload is flipped with one write, then what nobody points to any
//! more goes. What was written is read back before anything is called programmed.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::hash::Hash;
use std::sync::Arc;

use holdfast_policy::compile::{self, Compiled};
use holdfast_policy::error::CompileError;
use holdfast_policy::model::{AddressFacts, Entities, Policy, PolicyId};
use tracing::{debug, warn};

use crate::abi;
use crate::enforcers::{HookError, Hooks};
use crate::facts::Facts;
use crate::lower::{self, Lowered, Meaning, Numbers};
use crate::maps::{MapError, Maps, Table};
use crate::mechanisms::Mechanisms;
use crate::tables::{Tables, delta};
use crate::workloads::{self, Cgroup, Placement};

pub mod counts;
pub mod report;

use counts::Counts;
use report::PolicyReport;

/// Why the facts are not in force.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// A map.
    #[error(transparent)]
    Map(#[from] MapError),
    /// A hook could not be attached.
    #[error(transparent)]
    Hook(#[from] HookError),
}

/// What the last change came to.
#[derive(Debug, Default, Clone)]
pub struct Applied {
    /// Whether anything in the kernel changed.
    pub changed: bool,
    /// For every policy of the facts.
    pub policies: Vec<PolicyReport>,
    /// Workloads on this node.
    pub workloads: usize,
    /// Workloads that some policy selects.
    pub selected: usize,
}

/// The state of the kernel, and how it came about.
pub struct Engine {
    maps: Maps,
    hooks: Hooks,
    numbers: Numbers,
    /// What the maps hold.
    current: Tables,
    compiled: Compiled,
    meaning: Meaning,
    placements: Arc<Vec<Placement>>,
    /// The versions in force.
    in_force: HashMap<PolicyId, Policy>,
    counts: Counts,
    host_netns: u32,
    /// Cgroups that were there at the last change.
    seen: HashSet<u64>,
    /// Cgroups that a whole-host workload leaves alone, beside those of the node's own services.
    spared: Vec<String>,
}

impl Engine {
    /// Takes over what is pinned.
    ///
    /// # Errors
    ///
    /// When the maps cannot be read.
    pub fn adopt(maps: Maps, hooks: Hooks, host_netns: u32) -> Result<Self, EngineError> {
        let current = maps.read()?;
        let numbers = Numbers::above(&current);
        let mut engine = Self {
            maps,
            hooks,
            numbers,
            current,
            compiled: Compiled::default(),
            meaning: Meaning::default(),
            placements: Arc::default(),
            in_force: HashMap::new(),
            counts: Counts::default(),
            host_netns,
            seen: HashSet::new(),
            spared: own_cgroup().into_iter().collect(),
        };
        let control = engine.maps.control()?;
        engine.maps.set_control(abi::Control { host_netns, ..control })?;
        Ok(engine)
    }

    /// What this kernel can refuse.
    #[must_use]
    pub fn mechanisms(&self) -> &Mechanisms {
        self.hooks.mechanisms()
    }

    /// The maps.
    #[must_use]
    pub fn maps(&self) -> &Maps {
        &self.maps
    }

    /// What the maps should hold.
    #[must_use]
    pub fn tables(&self) -> &Tables {
        &self.current
    }

    /// What the kernel's numbers mean.
    #[must_use]
    pub fn meaning(&self) -> &Meaning {
        &self.meaning
    }

    /// This node's workloads.
    #[must_use]
    pub fn placements(&self) -> &[Placement] {
        &self.placements
    }

    /// Brings the kernel to the facts. A policy that cannot be compiled or written keeps its last good version in force
    /// and is reported; it never keeps others from coming into force.
    ///
    /// # Errors
    ///
    /// When the kernel refuses a write: what was in force before is in force still.
    pub fn apply(&mut self, facts: &Facts, cgroups: &[Cgroup]) -> Result<Applied, EngineError> {
        let placements = workloads::place(facts, cgroups, &self.spared);
        let local = workloads::local_addresses(facts);
        let facts = &with_local(facts, &local);
        let mut policies: Vec<Policy> = facts.policies.iter().cloned().collect();
        let mut failures: BTreeMap<PolicyId, String> = BTreeMap::new();
        let (compiled, lowered) = loop {
            match self.compile(facts, &policies, &placements, &local) {
                Ok(done) => break done,
                Err((culprit, message)) => {
                    warn!(policy = %culprit, message, "policy cannot be put in force; its last good version stays");
                    if failures.insert(culprit.clone(), message).is_some() {
                        // Its last good version fails too by now: without it, then.
                        policies.retain(|policy| policy.id != culprit);
                    } else {
                        let good = self.in_force.get(&culprit).cloned();
                        policies.retain(|policy| policy.id != culprit);
                        policies.extend(good);
                    }
                }
            }
        };
        // What the kernel made a child inherit that is no part of the workload: the monitor of a container's runtime, the
        // services that a whole host keeps open.
        let strangers: Vec<u64> = cgroups
            .iter()
            .map(|cgroup| cgroup.id)
            .filter(|id| !lowered.tables.cgroups.contains_key(id) && !self.seen.contains(id))
            .collect();
        let changed = self.write(&lowered, &strangers)?;
        self.seen = cgroups.iter().map(|cgroup| cgroup.id).collect();
        self.counts.learn(&lowered.meaning, &placements);
        self.compiled = compiled;
        self.meaning = lowered.meaning;
        self.placements = Arc::new(placements);
        self.in_force = policies.into_iter().map(|policy| (policy.id.clone(), policy)).collect();
        let selected = self.compiled.assignments.iter().filter(|a| !a.policies.is_empty()).count();
        let policies = report::policies(&report::Input {
            wanted: &facts.policies,
            in_force: &self.in_force,
            failures: &failures,
            compiled: &self.compiled,
            placements: &self.placements,
            mechanisms: self.hooks.mechanisms(),
        });
        Ok(Applied { changed, policies, workloads: self.placements.len(), selected })
    }

    fn compile(
        &mut self,
        facts: &Facts,
        policies: &[Policy],
        placements: &[Placement],
        local: &[(std::net::IpAddr, String)],
    ) -> Result<(Compiled, Lowered), (PolicyId, String)> {
        let workloads: Vec<_> = placements.iter().map(|placement| placement.workload.clone()).collect();
        let input = compile::Input { policies, world: &facts.world, workloads: &workloads, abis: ABIS };
        let compiled = match compile::compile(&input, Some(&self.compiled)) {
            // Class numbers start again, in a universe of their own.
            Err(CompileError::TooManyClasses) => compile::compile(&input, None),
            other => other,
        }
        .map_err(|error| {
            let message = error.to_string();
            match error {
                CompileError::TooManyRules { policy, .. }
                | CompileError::TooManyPeers { policy, .. }
                | CompileError::TooManyRows { policy, .. }
                | CompileError::DuplicatePolicy { policy } => (policy, message),
                CompileError::TooManyClasses => (PolicyId::cluster("*"), message),
            }
        })?;
        let input = lower::Input {
            compiled: &compiled,
            world: &facts.world,
            placements,
            local,
            mechanisms: self.hooks.mechanisms(),
        };
        let lowered = lower::lower(input, &mut self.numbers, &self.current)
            .map_err(|error| (error.policy().clone(), error.to_string()))?;
        Ok((compiled, lowered))
    }

    fn write(&mut self, lowered: &Lowered, strangers: &[u64]) -> Result<bool, EngineError> {
        let Self { maps, current, hooks, .. } = self;
        let new = &lowered.tables;
        hooks.ensure(lowered.hooks, lowered.sys_enter)?;
        let verdicts = delta(&current.verdicts, &new.verdicts);
        let syscalls = delta(&current.syscalls, &new.syscalls);
        let clauses = delta(&current.clauses, &new.clauses);
        let peers = delta(&current.classes, &new.classes);
        let cidrs = delta(&current.cidrs, &new.cidrs);
        let addresses = delta(&current.addresses, &new.addresses);
        let workloads = delta(&current.workloads, &new.workloads);
        let cgroups = delta(&current.cgroups, &new.cgroups);
        let who_changed = [
            addresses.write.len(),
            addresses.remove.len(),
            peers.write.len(),
            peers.remove.len(),
            cidrs.write.len(),
            cidrs.remove.len(),
        ]
        .iter()
        .any(|n| *n > 0);

        // What a set says, before anybody points to it.
        put(&mut maps.verdicts, &mut current.verdicts, &verdicts.write)?;
        put(&mut maps.clauses, &mut current.clauses, &clauses.write)?;
        put(&mut maps.syscalls, &mut current.syscalls, &syscalls.write)?;
        // Who is who, before addresses name them.
        put(&mut maps.classes, &mut current.classes, &peers.write)?;
        put(&mut maps.cidrs, &mut current.cidrs, &cidrs.write)?;
        put(&mut maps.addresses, &mut current.addresses, &addresses.write)?;
        let mut control = maps.control()?;
        let flags = if lowered.node_flows { abi::CONTROL_NODE_FLOWS } else { 0 };
        if control.flags & flags != flags {
            // Recorded before the first workload that needs it is flipped.
            control.flags |= flags;
            maps.set_control(control)?;
        }
        // The flip, one write for each workload.
        put(&mut maps.workloads, &mut current.workloads, &workloads.write)?;
        put(&mut maps.cgroups, &mut current.cgroups, &cgroups.write)?;
        // Nobody points to these any more.
        drop_rows(&mut maps.cgroups, &mut current.cgroups, &cgroups.remove)?;
        drop_rows(&mut maps.cgroups, &mut current.cgroups, strangers)?;
        drop_rows(&mut maps.workloads, &mut current.workloads, &workloads.remove)?;
        drop_rows(&mut maps.addresses, &mut current.addresses, &addresses.remove)?;
        drop_rows(&mut maps.classes, &mut current.classes, &peers.remove)?;
        drop_rows(&mut maps.cidrs, &mut current.cidrs, &cidrs.remove)?;
        drop_rows(&mut maps.verdicts, &mut current.verdicts, &verdicts.remove)?;
        drop_rows(&mut maps.syscalls, &mut current.syscalls, &syscalls.remove)?;
        drop_rows(&mut maps.clauses, &mut current.clauses, &clauses.remove)?;
        if who_changed || control.flags != flags || control.host_netns != self.host_netns {
            // Flows are decided anew when they meet another epoch.
            control.epoch = control.epoch.wrapping_add(u32::from(who_changed));
            maps.set_control(abi::Control { flags, host_netns: self.host_netns, ..control })?;
        }
        let changed = who_changed
            || [
                verdicts.write.len(),
                syscalls.write.len(),
                clauses.write.len(),
                workloads.write.len(),
                workloads.remove.len(),
                cgroups.write.len(),
                cgroups.remove.len(),
            ]
            .iter()
            .any(|n| *n > 0);
        read_back(&maps.verdicts, &verdicts.write)?;
        read_back(&maps.clauses, &clauses.write)?;
        read_back(&maps.syscalls, &syscalls.write)?;
        read_back(&maps.classes, &peers.write)?;
        read_back(&maps.cidrs, &cidrs.write)?;
        read_back(&maps.addresses, &addresses.write)?;
        read_back(&maps.workloads, &workloads.write)?;
        // A cgroup may be gone by now, and the kernel removes its row then.
        hooks.release(lowered.hooks, lowered.sys_enter)?;
        Ok(changed)
    }

    /// Compares all maps with what they should hold and writes what differs. Returns the number of rows that were wrong.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn verify(&mut self) -> Result<usize, EngineError> {
        let real = self.maps.read()?;
        let maps = &mut self.maps;
        let want = &self.current;
        let mut wrong = 0;
        wrong += repair(&mut maps.verdicts, &real.verdicts, &want.verdicts)?;
        wrong += repair(&mut maps.clauses, &real.clauses, &want.clauses)?;
        wrong += repair(&mut maps.syscalls, &real.syscalls, &want.syscalls)?;
        wrong += repair(&mut maps.classes, &real.classes, &want.classes)?;
        wrong += repair(&mut maps.cidrs, &real.cidrs, &want.cidrs)?;
        wrong += repair(&mut maps.addresses, &real.addresses, &want.addresses)?;
        wrong += repair(&mut maps.workloads, &real.workloads, &want.workloads)?;
        Ok(wrong)
    }

    /// Removes one counter from the kernel's map, without settling it.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn forget_counter(&mut self, key: &abi::CounterKey) -> Result<(), EngineError> {
        Ok(self.maps.forget_counter(key)?)
    }

    /// Denials and would-have denials since the agent started counting.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn counts(&mut self) -> Result<&Counts, EngineError> {
        let raw = self.maps.counters()?;
        for key in self.counts.take(&raw) {
            self.maps.forget_counter(&key)?;
        }
        Ok(&self.counts)
    }
}

/// The facts, with the addresses of this node's pods that the operator has not published yet: in the cluster, of nobody
/// known.
fn with_local(facts: &Facts, local: &[(std::net::IpAddr, String)]) -> Facts {
    let mut facts = facts.clone();
    let unpublished: Vec<_> = local
        .iter()
        .map(|(address, _)| *address)
        .filter(|address| !facts.world.addresses.contains_key(address))
        .collect();
    if !unpublished.is_empty() {
        let cluster = AddressFacts { identity: None, entities: Entities::CLUSTER };
        Arc::make_mut(&mut facts.world)
            .addresses
            .extend(unpublished.into_iter().map(|address| (address, cluster)));
    }
    facts
}

/// The tables of this machine's kernel.
const ABIS: &[holdfast_policy::syscalls::Abi] = if cfg!(target_arch = "x86_64") {
    &[holdfast_policy::syscalls::Abi::X86_64, holdfast_policy::syscalls::Abi::I386]
} else {
    &[holdfast_policy::syscalls::Abi::Aarch64]
};

/// The cgroup that the agent itself is in; `None` where it cannot tell, as in a cgroup namespace of its own.
fn own_cgroup() -> Option<String> {
    let text = fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::"))?;
    (path != "/").then(|| path.to_owned())
}

fn put<K: Eq + Hash + Copy, V: Copy>(
    map: &mut impl Table<K, V>,
    known: &mut HashMap<K, V>,
    rows: &[(K, V)],
) -> Result<(), MapError> {
    for (key, value) in rows {
        map.write(key, value)?;
        known.insert(*key, *value);
    }
    if !rows.is_empty() {
        debug!(map = map.name(), rows = rows.len(), "written");
    }
    Ok(())
}

fn drop_rows<K: Eq + Hash + Copy, V: Copy>(
    map: &mut impl Table<K, V>,
    known: &mut HashMap<K, V>,
    keys: &[K],
) -> Result<(), MapError> {
    for key in keys {
        map.remove(key)?;
        known.remove(key);
    }
    Ok(())
}

fn read_back<K, V: PartialEq>(map: &impl Table<K, V>, rows: &[(K, V)]) -> Result<(), MapError> {
    let mut wrong = 0;
    for (key, value) in rows {
        if map.get(key)?.as_ref() != Some(value) {
            wrong += 1;
        }
    }
    if wrong > 0 {
        return Err(MapError::ReadBack { map: map.name(), rows: wrong });
    }
    Ok(())
}

fn repair<K: Eq + Hash + Copy, V: PartialEq + Copy>(
    map: &mut impl Table<K, V>,
    real: &HashMap<K, V>,
    want: &HashMap<K, V>,
) -> Result<usize, MapError> {
    let delta = delta(real, want);
    for (key, value) in &delta.write {
        map.write(key, value)?;
    }
    for key in &delta.remove {
        map.remove(key)?;
    }
    Ok(delta.write.len() + delta.remove.len())
}
