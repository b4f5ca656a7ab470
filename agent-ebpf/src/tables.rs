//! The contents of the kernel's maps, as plain data.

use std::collections::HashMap;
use std::hash::Hash;

use crate::abi;

/// Everything the agent writes, keyed as the kernel keys it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tables {
    /// `addresses`.
    pub addresses: HashMap<abi::Addr, abi::Address>,
    /// `classes`.
    pub classes: HashMap<abi::ClassKey, u32>,
    /// `cidrs`.
    pub cidrs: HashMap<abi::CidrKey, u32>,
    /// `verdicts`.
    pub verdicts: HashMap<abi::VerdictKey, abi::Verdict>,
    /// `syscalls`.
    pub syscalls: HashMap<abi::SyscallKey, abi::Syscall>,
    /// `clauses`.
    pub clauses: HashMap<abi::ClauseKey, abi::Clause>,
    /// `path_rows`: the elements that some set uses.
    pub path_rows: HashMap<u32, abi::PathRow>,
    /// `access_rows`.
    pub access_rows: HashMap<abi::AccessKey, abi::AccessRow>,
    /// `access_sets`.
    pub access_sets: HashMap<u32, abi::Access>,
    /// `workloads`.
    pub workloads: HashMap<u32, abi::Workload>,
    /// `cgroups`.
    pub cgroups: HashMap<u64, u32>,
}

/// What makes one table another: rows to write (new or changed) and keys to remove.
#[derive(Debug)]
pub struct Delta<K, V> {
    /// Rows that are new or changed.
    pub write: Vec<(K, V)>,
    /// Keys that are gone.
    pub remove: Vec<K>,
}

/// Compares two states of one table.
#[must_use]
#[expect(clippy::implicit_hasher, reason = "tables are all of one kind")]
pub fn delta<K: Eq + Hash + Copy, V: PartialEq + Copy>(
    old: &HashMap<K, V>,
    new: &HashMap<K, V>,
) -> Delta<K, V> {
    Delta {
        write: new.iter().filter(|(key, value)| old.get(key) != Some(value)).map(|(k, v)| (*k, *v)).collect(),
        remove: old.keys().filter(|key| !new.contains_key(key)).copied().collect(),
    }
}
