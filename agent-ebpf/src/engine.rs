//! Brings the kernel to what the facts ask for, in an order in which every state between is right: first what a new
//! policy set needs, then the identities, then each workload is flipped with one write, then what nobody points to any
//! more goes. What the whole node is told shrinks before all of that, and widens after it. What was written is read back
//! before anything is called programmed.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use holdfast_policy::compile::{self, Compiled};
use holdfast_policy::error::CompileError;
use holdfast_policy::model::{AddressFacts, Entities, Policy, PolicyId};
use tracing::warn;

use crate::abi;
use crate::cgroups;
use crate::facts::{Facts, Pod};
use crate::hooks::{HookError, Hooks};
use crate::loader::{self, Places};
use crate::lower::{self, LowerError, Lowered, Meaning, Numbers};
use crate::maps::{MapError, Maps, Table};
use crate::mechanisms::Mechanisms;
use crate::proof::canary;
use crate::tables::Tables;
use crate::workloads::{self, Cgroup, Placement};

mod blame;
pub mod counts;
pub mod report;
mod verify;
mod write;

use blame::Misfit;
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
    /// Rows were written that live flows have not been told of.
    stale: bool,
    /// Pods of this node as of the last change, those included that only their cgroups still show.
    pods: Arc<Vec<Pod>>,
    /// Cgroups that were there at the last change.
    seen: HashSet<u64>,
    /// Workloads, by place, whose root is no overlayfs, as of the last report.
    other_roots: HashSet<usize>,
    /// Cgroups that a whole-host workload leaves alone, beside those of the node's own services.
    spared: Vec<String>,
    /// Where the canary sits.
    canary: Option<canary::Site>,
    /// The control element, as last written.
    control: abi::Control,
}

impl Engine {
    /// Takes over what is pinned.
    ///
    /// # Errors
    ///
    /// When the maps cannot be read.
    pub fn adopt(mut maps: Maps, hooks: Hooks, host_netns: u32) -> Result<Self, EngineError> {
        let current = maps.read()?;
        let control = maps.control()?;
        let numbers = Numbers::above(&canary::without(&current), control.highest);
        // What the rows say is believed, and not what stands beside them.
        let elsewhere = control.elsewhere.and(&write::elsewhere(&current.workloads));
        let wanted = abi::Control { host_netns, elsewhere, ..control };
        if wanted != control {
            maps.set_control(wanted)?;
        }
        Ok(Self {
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
            stale: false,
            pods: Arc::default(),
            seen: HashSet::new(),
            other_roots: HashSet::new(),
            spared: own_cgroup().into_iter().collect(),
            canary: None,
            control: wanted,
        })
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

    /// From the next change on the maps hold the canary that sits here, or none.
    pub fn enroll(&mut self, site: Option<canary::Site>) {
        self.canary = site;
    }

    /// The names of all links that this agent made.
    #[must_use]
    pub fn attached(&self) -> Vec<String> {
        loader::links().map(str::to_owned).chain(self.hooks.attached()).collect()
    }

    /// Attaches one of them again, in place of a link that is broken.
    ///
    /// # Errors
    ///
    /// Why it cannot be, for people.
    pub fn attach_again(&mut self, name: &str, places: &Places) -> Result<(), String> {
        match self.hooks.attach_again(name) {
            Ok(true) => Ok(()),
            Ok(false) => loader::attach_again(name, places).map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        }
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

    /// The versions of policies that are in force.
    #[must_use]
    pub fn in_force(&self) -> &HashMap<PolicyId, Policy> {
        &self.in_force
    }

    /// Brings the kernel to the facts. A policy that cannot be compiled or written keeps its last good version in force
    /// and is reported; it never keeps others from coming into force.
    ///
    /// # Errors
    ///
    /// When the kernel refuses a write: what was in force before is in force still.
    pub fn apply(&mut self, facts: &Facts, cgroups: &[Cgroup]) -> Result<Applied, EngineError> {
        let facts = &self.with_lingering_pods(facts, cgroups);
        let placements = workloads::place(facts, cgroups, &self.spared);
        let local = workloads::local_addresses(facts);
        let facts = &with_local(facts, &local);
        let mut policies: Vec<Policy> = facts.policies.iter().cloned().collect();
        let mut failures: BTreeMap<PolicyId, String> = BTreeMap::new();
        let (compiled, lowered, changed) = loop {
            let misfit = match self.compile(facts, &policies, &placements, &local) {
                Ok((compiled, lowered)) => match self.write(&lowered, cgroups, facts.complete) {
                    Ok(changed) => break (compiled, lowered, changed),
                    Err(EngineError::Map(error @ MapError::Full { .. })) => {
                        match newcomers(&policies, &self.in_force) {
                            Some(concerned) => {
                                Misfit { named: PolicyId::cluster(""), concerned, message: error.to_string() }
                            }
                            None => return Err(error.into()),
                        }
                    }
                    Err(error) => return Err(error),
                },
                Err(misfit) => misfit,
            };
            let id = blame::gives_way(&misfit, &policies, &self.in_force);
            warn!(policy = %id, problem = misfit.message, "policy cannot be put in force; its last good version stays");
            let good = self.in_force.get(&id).filter(|_| !failures.contains_key(&id)).cloned();
            policies.retain(|policy| policy.id != id);
            policies.extend(good);
            failures.insert(id, misfit.message);
        };
        self.counts.learn(&lowered.meaning, &placements);
        self.compiled = compiled;
        self.meaning = lowered.meaning;
        self.placements = Arc::new(placements);
        self.in_force = policies.into_iter().map(|policy| (policy.id.clone(), policy)).collect();
        let selected = self.compiled.assignments.iter().filter(|a| !a.policies.is_empty()).count();
        let other_roots = self.other_roots()?;
        let policies = report::policies(&report::Input {
            wanted: &facts.policies,
            in_force: &self.in_force,
            failures: &failures,
            compiled: &self.compiled,
            placements: &self.placements,
            mechanisms: self.hooks.mechanisms(),
            other_roots: &other_roots,
        });
        self.other_roots = other_roots;
        Ok(Applied { changed, policies, workloads: self.placements.len(), selected })
    }

    /// Places of the workloads whose root is no overlayfs, as far as the kernel has met them; forgets those that are gone.
    fn other_roots(&mut self) -> Result<HashSet<usize>, EngineError> {
        let mut found = HashSet::new();
        for index in self.maps.other_roots.read()?.into_keys() {
            match self.meaning.workloads.get(&index) {
                Some(position) => drop(found.insert(*position)),
                None => self.maps.other_roots.remove(&index)?,
            }
        }
        Ok(found)
    }

    /// Whether the kernel met a workload whose root is no overlayfs since the last report.
    ///
    /// # Errors
    ///
    /// When the map cannot be read.
    pub fn met_other_roots(&mut self) -> Result<bool, EngineError> {
        Ok(self.other_roots()? != self.other_roots)
    }

    /// A pod that the source no longer has, by force or because it finished, is a workload as long as its cgroup is there:
    /// its processes may run still.
    fn with_lingering_pods(&mut self, facts: &Facts, cgroups: &[Cgroup]) -> Facts {
        let there: HashSet<String> =
            cgroups.iter().filter_map(|cgroup| workloads::parse(&cgroup.path)).map(|path| path.uid).collect();
        let known: HashSet<&str> = facts.pods.iter().map(|pod| pod.uid.as_str()).collect();
        let is_there = |pod: &Pod| {
            there.contains(&pod.uid) || pod.config_hash.as_ref().is_some_and(|hash| there.contains(hash))
        };
        let taken: HashSet<IpAddr> =
            facts.pods.iter().flat_map(|pod| pod.addresses.iter().copied()).collect();
        let lingering: Vec<Pod> = self
            .pods
            .iter()
            .filter(|pod| !known.contains(pod.uid.as_str()) && is_there(pod))
            .map(|pod| {
                let mut pod = pod.clone();
                pod.addresses.retain(|address| !taken.contains(address));
                pod
            })
            .collect();
        let mut out = facts.clone();
        if !lingering.is_empty() {
            Arc::make_mut(&mut out.pods).extend(lingering);
        }
        self.pods = Arc::clone(&out.pods);
        out
    }

    fn compile(
        &mut self,
        facts: &Facts,
        policies: &[Policy],
        placements: &[Placement],
        local: &[(std::net::IpAddr, String)],
    ) -> Result<(Compiled, Lowered), Misfit> {
        let workloads: Vec<_> = placements.iter().map(|placement| placement.workload.clone()).collect();
        let input = compile::Input { policies, world: &facts.world, workloads: &workloads, abis: ABIS };
        let compiled = match compile::compile(&input, Some(&self.compiled)) {
            // Class numbers start again, in a universe of their own.
            Err(CompileError::TooManyClasses) => compile::compile(&input, None),
            other => other,
        }
        .map_err(|error| {
            let message = error.to_string();
            let (named, concerned) = match error {
                CompileError::TooManyRules { policy, workload, .. } => {
                    let of = workloads.iter().find(|w| format!("{}/{}", w.namespace, w.name) == workload);
                    let selecting = |w| policies.iter().filter(move |p| p.target.selects(&facts.world, w));
                    let ids = of.map(|w| selecting(w).map(|p| p.id.clone()).collect()).unwrap_or_default();
                    (policy, ids)
                }
                CompileError::TooManyPeers { policy, .. } | CompileError::TooManyRows { policy, .. } => {
                    (policy, Vec::new())
                }
                CompileError::PathsTooIntricate { policies, .. }
                | CompileError::TooManyPathRows { policies, .. } => {
                    let first = policies.first().cloned().unwrap_or_else(|| PolicyId::cluster(""));
                    (first, policies)
                }
                CompileError::DuplicatePolicy { policy } => (policy.clone(), vec![policy]),
                CompileError::TooManyClasses => (PolicyId::cluster(""), Vec::new()),
            };
            Misfit { named, concerned, message }
        })?;
        let input = lower::Input {
            compiled: &compiled,
            world: &facts.world,
            placements,
            local,
            mechanisms: self.hooks.mechanisms(),
        };
        let mut lowered = lower::lower(input, &mut self.numbers, &self.current).map_err(|error| {
            let message = error.to_string();
            let (named, concerned) = match error {
                LowerError::TooManyClauses { policy, concerned, .. } => (policy, concerned),
                LowerError::NoRoomForPaths { concerned } => {
                    // Whoever is new gives way, whose ever the set is.
                    let new = newcomers(policies, &self.in_force);
                    let named = concerned.last().cloned().unwrap_or_else(|| PolicyId::cluster(""));
                    let with_paths: Vec<_> =
                        new.into_iter().flatten().filter(|id| has_paths(policies, id)).collect();
                    (named, if with_paths.is_empty() { concerned } else { with_paths })
                }
            };
            Misfit { named, concerned, message }
        })?;
        if let Some(site) = self.canary {
            canary::enroll(site, &mut lowered, self.hooks.mechanisms());
        }
        Ok((compiled, lowered))
    }

    fn write(&mut self, lowered: &Lowered, cgroups: &[Cgroup], complete: bool) -> Result<bool, EngineError> {
        let live: HashSet<u64> = cgroups.iter().map(|cgroup| cgroup.id).collect();
        // What the kernel made a child inherit that is no part of the workload: the monitor of a container's runtime, the
        // services that a whole host keeps open.
        let is_stranger = |id: &u64| !lowered.tables.cgroups.contains_key(id) && !self.seen.contains(id);
        let strangers: Vec<u64> = live.iter().filter(|id| is_stranger(id)).copied().collect();
        let change = write::Change {
            lowered,
            live: &live,
            strangers: if complete { &strangers } else { &[] },
            complete,
            highest: self.numbers.highest(),
            host_netns: self.host_netns,
        };
        let changed = write::write(
            &mut self.maps,
            &mut self.current,
            &mut self.hooks,
            &mut self.control,
            &mut self.stale,
            &change,
        )?;
        if complete {
            self.seen = live;
        }
        Ok(changed)
    }

    /// Compares all maps with what they should hold and writes what differs. Returns the maps of which rows were wrong,
    /// and how many.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn verify(&mut self) -> Result<Vec<(&'static str, usize)>, EngineError> {
        let wrong = verify::verify(&mut self.maps, &mut self.current, &self.seen, self.control)?;
        self.stale |= !wrong.is_empty();
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

    /// Denials and would-have denials, by workload and policy.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn counts(&mut self) -> Result<&Counts, EngineError> {
        let raw = self.maps.counters()?;
        for gone in self.counts.take(&raw, Instant::now()) {
            self.maps.forget_counter(&gone.key)?;
            self.counts.settle(gone);
        }
        Ok(&self.counts)
    }

    /// Tells what the numbers mean that an earlier agent left in the maps.
    pub fn know_names(&mut self, names: &crate::status::Names) {
        self.counts.know_names(names);
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

/// Whether a policy has rules on paths.
fn has_paths(policies: &[Policy], id: &PolicyId) -> bool {
    let found = policies.iter().find(|policy| policy.id == *id);
    found.is_some_and(|policy| policy.processes.is_some() || policy.files.is_some())
}

/// The policies that are not in force as they are now; `None` where there are none.
fn newcomers(policies: &[Policy], in_force: &HashMap<PolicyId, Policy>) -> Option<Vec<PolicyId>> {
    let new = policies.iter().filter(|policy| !blame::is_in_force(policy, in_force));
    let ids: Vec<PolicyId> = new.map(|policy| policy.id.clone()).collect();
    (!ids.is_empty()).then_some(ids)
}

/// The cgroup that the agent itself is in; `None` where that is the root, or cannot be told.
fn own_cgroup() -> Option<String> {
    let root = cgroups::root(Path::new("/proc/self/mountinfo")).ok()?;
    cgroups::own(&root).filter(|path| path != "/")
}
