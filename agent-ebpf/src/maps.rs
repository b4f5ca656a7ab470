//! The pinned maps, typed. Every failure names the map; a full map is its own error, as it is the one an operator can do
//! something about.

use std::collections::HashMap;
use std::path::Path;

use aya::Pod;
use aya::maps::{Array, Map, MapData, MapError as AyaError, PerCpuHashMap};

use crate::abi;
use crate::tables::Tables;

pub mod events;
mod table;

pub use table::{Hash, PrefixKey, Rows, Table, Trie};
use table::{Meta, absent_is_fine};

/// Why a map could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum MapError {
    /// There is no room for another entry.
    #[error("map {map} is full ({capacity} entries)")]
    Full {
        /// Its name.
        map: &'static str,
        /// How many it can hold.
        capacity: u32,
    },
    /// The kernel refused.
    #[error("map {map}: {source}")]
    Kernel {
        /// Its name.
        map: &'static str,
        /// Why.
        source: AyaError,
    },
    /// A pinned map cannot be opened.
    #[error("{path}: {source}")]
    Open {
        /// The pin.
        path: String,
        /// Why.
        source: AyaError,
    },
    /// A pinned map is of another shape than this agent's.
    #[error("{path}: key {key}, value {value} bytes, and this agent's are {want_key} and {want_value}")]
    Shape {
        /// The pin.
        path: String,
        /// Its key's size in bytes.
        key: u32,
        /// Its value's size in bytes.
        value: u32,
        /// The expected size in bytes.
        want_key: usize,
        /// The expected size in bytes.
        want_value: usize,
    },
    /// A row read back is not the row written.
    #[error("map {map}: {rows} rows read back differ from what was written")]
    ReadBack {
        /// Its name.
        map: &'static str,
        /// How many.
        rows: usize,
    },
}

/// All maps that the agent reads and writes.
pub struct Maps {
    /// `addresses`
    pub addresses: Hash<abi::Addr, abi::Address>,
    /// `classes`
    pub classes: Hash<abi::ClassKey, u32>,
    /// `cidrs`
    pub cidrs: Trie<abi::CidrKey, u32>,
    /// `verdicts`
    pub verdicts: Trie<abi::VerdictKey, abi::Verdict>,
    /// `syscalls`
    pub syscalls: Hash<abi::SyscallKey, abi::Syscall>,
    /// `clauses`
    pub clauses: Hash<abi::ClauseKey, abi::Clause>,
    /// `path_rows`
    pub path_rows: Rows,
    /// `access_rows`
    pub access_rows: Hash<abi::AccessKey, abi::AccessRow>,
    /// `access_sets`
    pub access_sets: Hash<u32, abi::Access>,
    /// `other_roots`: workloads of which the kernel found that their root is no overlayfs. Written by it alone.
    pub other_roots: Hash<u32, u32>,
    /// `workloads`
    pub workloads: Hash<u32, abi::Workload>,
    /// `cgroups`
    pub cgroups: Hash<u64, u32>,
    /// `control`
    pub control: Array<MapData, abi::Control>,
    break_glass: Array<MapData, u64>,
    counters: PerCpuHashMap<MapData, abi::CounterKey, u64>,
    helper_errors: PerCpuHashMap<MapData, abi::ErrorKey, u64>,
}

impl Maps {
    /// Opens what is pinned in a directory.
    ///
    /// # Errors
    ///
    /// When a map is missing, or has another shape than this agent's.
    pub fn open(dir: &Path) -> Result<Self, MapError> {
        Ok(Self {
            addresses: hash(dir, "addresses")?,
            classes: hash(dir, "classes")?,
            cidrs: trie(dir, "cidrs")?,
            verdicts: trie(dir, "verdicts")?,
            syscalls: hash(dir, "syscalls")?,
            clauses: hash(dir, "clauses")?,
            path_rows: rows(dir, "path_rows")?,
            access_rows: hash(dir, "access_rows")?,
            access_sets: hash(dir, "access_sets")?,
            other_roots: hash(dir, "other_roots")?,
            workloads: hash(dir, "workloads")?,
            cgroups: hash(dir, "cgroups")?,
            control: typed(dir, "control", 4, size_of::<abi::Control>(), Map::Array)?.0,
            break_glass: typed(dir, "break_glass", 4, 8, Map::Array)?.0,
            counters: typed(dir, "counters", size_of::<abi::CounterKey>(), 8, Map::PerCpuHashMap)?.0,
            helper_errors: typed(dir, "helper_errors", size_of::<abi::ErrorKey>(), 8, Map::PerCpuHashMap)?.0,
        })
    }

    /// Reads back everything. Of the rows of automata those that some set uses.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn read(&self) -> Result<Tables, MapError> {
        let access_sets = self.access_sets.read()?;
        let used = access_sets
            .values()
            .flat_map(|set| [&set.executables, &set.files])
            .map(abi::PathAutomaton::range);
        let path_rows = self.path_rows.read_these(used.flatten())?;
        Ok(Tables {
            addresses: self.addresses.read()?,
            classes: self.classes.read()?,
            cidrs: self.cidrs.read()?,
            verdicts: self.verdicts.read()?,
            syscalls: self.syscalls.read()?,
            clauses: self.clauses.read()?,
            path_rows,
            access_rows: self.access_rows.read()?,
            access_sets,
            workloads: self.workloads.read()?,
            cgroups: self.cgroups.read()?,
        })
    }

    /// Reads the control element.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn control(&self) -> Result<abi::Control, MapError> {
        self.control.get(&0, 0).map_err(|source| MapError::Kernel { map: "control", source })
    }

    /// Writes the control element.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn set_control(&mut self, control: abi::Control) -> Result<(), MapError> {
        self.control.set(0, control, 0).map_err(|source| MapError::Kernel { map: "control", source })
    }

    /// Until when nothing is refused, in nanoseconds since the machine was started.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn break_glass(&self) -> Result<u64, MapError> {
        self.break_glass.get(&0, 0).map_err(|source| MapError::Kernel { map: "break_glass", source })
    }

    /// Writes it.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn set_break_glass(&mut self, deadline: u64) -> Result<(), MapError> {
        self.break_glass.set(0, deadline, 0).map_err(|source| MapError::Kernel { map: "break_glass", source })
    }

    /// Denials and would-have denials, summed over processors.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn counters(&self) -> Result<HashMap<abi::CounterKey, u64>, MapError> {
        sum("counters", &self.counters)
    }

    /// One counter, summed over processors.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn counter(&self, key: &abi::CounterKey) -> Result<u64, MapError> {
        match self.counters.get(key, 0) {
            Ok(cpus) => Ok(cpus.iter().sum()),
            Err(AyaError::KeyNotFound) => Ok(0),
            Err(source) => Err(MapError::Kernel { map: "counters", source }),
        }
    }

    /// Forgets the counters of a set that is gone.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn forget_counter(&mut self, key: &abi::CounterKey) -> Result<(), MapError> {
        absent_is_fine(self.counters.remove(key))
            .map_err(|source| MapError::Kernel { map: "counters", source })
    }

    /// Failures of helpers, summed over processors.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn helper_errors(&self) -> Result<HashMap<abi::ErrorKey, u64>, MapError> {
        sum("helper_errors", &self.helper_errors)
    }

    /// (name, capacity) of the tables.
    #[must_use]
    pub fn capacities(&self) -> Vec<(&'static str, u32)> {
        vec![
            ("addresses", self.addresses.capacity()),
            ("classes", self.classes.capacity()),
            ("cidrs", self.cidrs.capacity()),
            ("verdicts", self.verdicts.capacity()),
            ("syscalls", self.syscalls.capacity()),
            ("clauses", self.clauses.capacity()),
            ("path_rows", self.path_rows.capacity()),
            ("access_rows", self.access_rows.capacity()),
            ("access_sets", self.access_sets.capacity()),
            ("workloads", self.workloads.capacity()),
            ("cgroups", self.cgroups.capacity()),
        ]
    }
}

fn sum<K: Pod + Eq + std::hash::Hash>(
    map: &'static str,
    counts: &PerCpuHashMap<MapData, K, u64>,
) -> Result<HashMap<K, u64>, MapError> {
    counts
        .iter()
        .map(|row| {
            row.map(|(key, cpus)| (key, cpus.iter().sum())).map_err(|source| MapError::Kernel { map, source })
        })
        .collect()
}

fn typed<T: TryFrom<Map, Error = AyaError>>(
    dir: &Path,
    name: &'static str,
    want_key: usize,
    want_value: usize,
    wrap: fn(MapData) -> Map,
) -> Result<(T, Meta), MapError> {
    let path = dir.join(name);
    let show = || path.display().to_string();
    let open = |source| MapError::Open { path: show(), source };
    let data = MapData::from_pin(&path).map_err(open)?;
    let info = data.info().map_err(open)?;
    let (key, value, capacity) = (info.key_size(), info.value_size(), info.max_entries());
    if key as usize != want_key || value as usize != want_value {
        return Err(MapError::Shape { path: show(), key, value, want_key, want_value });
    }
    Ok((T::try_from(wrap(data)).map_err(open)?, Meta { name, capacity }))
}

fn hash<K: Pod, V: Pod>(dir: &Path, name: &'static str) -> Result<Hash<K, V>, MapError> {
    let (map, meta) = typed(dir, name, size_of::<K>(), size_of::<V>(), Map::HashMap)?;
    Ok(Hash { meta, map })
}

fn rows(dir: &Path, name: &'static str) -> Result<Rows, MapError> {
    let (map, meta) = typed(dir, name, 4, size_of::<abi::PathRow>(), Map::Array)?;
    Ok(Rows { meta, map })
}

fn trie<K: PrefixKey, V: Pod>(dir: &Path, name: &'static str) -> Result<Trie<K, V>, MapError> {
    let (map, meta) = typed(dir, name, size_of::<K>(), size_of::<V>(), Map::LpmTrie)?;
    Ok(Trie { meta, map })
}
