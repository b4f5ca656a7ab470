//! The writes of one change, in an order in which every state between is right.

use std::collections::HashMap;
use std::hash::Hash;

use tracing::debug;

use super::EngineError;
use crate::abi::{self, workload_flags};
use crate::hooks::Hooks;
use crate::lower::Lowered;
use crate::maps::{MapError, Maps, Table};
use crate::tables::{Tables, delta};

/// What a socket is judged as whose cgroup, and whose pod, are gone while another process still holds it: refused.
pub(super) const GONE: u32 = u32::MAX;

/// Isolated in both directions.
const ISOLATED_BOTH: u32 = workload_flags::ISOLATED | workload_flags::ISOLATED << 1;

/// What a change is written with.
pub(super) struct Change<'a> {
    pub(super) lowered: &'a Lowered,
    /// Ids of the cgroups that are in the tree.
    pub(super) live: &'a std::collections::HashSet<u64>,
    /// Cgroups that are new and no part of a workload.
    pub(super) strangers: &'a [u64],
    /// Whether the facts are all that there is to know. If not, nothing is taken away.
    pub(super) complete: bool,
    /// The highest number given out.
    pub(super) highest: u32,
    pub(super) host_netns: u32,
}

/// Writes it. `known` is the control element as last written. `stale` says that rows were written which live flows have
/// not been told of. Both hold after a change that failed, too.
pub(super) fn write(
    maps: &mut Maps,
    current: &mut Tables,
    hooks: &mut Hooks,
    known: &mut abi::Control,
    stale: &mut bool,
    change: &Change<'_>,
) -> Result<bool, EngineError> {
    let lowered = change.lowered;
    let mut cgroups_wanted = lowered.tables.cgroups.clone();
    let mut workloads_wanted = lowered.tables.workloads.clone();
    keep_sockets_of_the_gone(maps, current, change, &mut cgroups_wanted, &mut workloads_wanted)?;

    let new = &lowered.tables;
    // What cannot be attached must not hold up the network rules; the error comes at the end.
    let attached = hooks.ensure(lowered.hooks, lowered.sys_enter);
    let verdicts = delta(&current.verdicts, &new.verdicts);
    let syscalls = delta(&current.syscalls, &new.syscalls);
    let clauses = delta(&current.clauses, &new.clauses);
    let path_rows = delta(&current.path_rows, &new.path_rows);
    let access_rows = delta(&current.access_rows, &new.access_rows);
    let access_sets = delta(&current.access_sets, &new.access_sets);
    let peers = delta(&current.classes, &new.classes);
    let cidrs = delta(&current.cidrs, &new.cidrs);
    let addresses = delta(&current.addresses, &new.addresses);
    let workloads = delta(&current.workloads, &workloads_wanted);
    let cgroups = delta(&current.cgroups, &cgroups_wanted);
    let who = [&addresses.write.len(), &addresses.remove.len(), &peers.write.len(), &peers.remove.len()];
    let where_ = [&cidrs.write.len(), &cidrs.remove.len()];
    let who_changed = who.iter().chain(&where_).any(|n| **n > 0);
    *stale |= who_changed;

    // The numbers are marked as used before anything carries them.
    let flags = if lowered.node_flows { abi::CONTROL_NODE_FLOWS } else { 0 };
    let wanted = abi::Control {
        host_netns: change.host_netns,
        highest: known.highest.max(change.highest),
        // The node's own flows are recorded before the first workload that needs them is flipped.
        flags: known.flags | flags,
        // And what no rule speaks of shrinks before there are rules that do.
        elsewhere: known.elsewhere.and(&elsewhere(&workloads_wanted)),
        ..*known
    };
    set_control(maps, known, wanted)?;
    // What a set says, before anybody points to it.
    put(&mut maps.verdicts, &mut current.verdicts, &verdicts.write)?;
    put(&mut maps.clauses, &mut current.clauses, &clauses.write)?;
    put(&mut maps.syscalls, &mut current.syscalls, &syscalls.write)?;
    put(&mut maps.path_rows, &mut current.path_rows, &path_rows.write)?;
    put(&mut maps.access_rows, &mut current.access_rows, &access_rows.write)?;
    put(&mut maps.access_sets, &mut current.access_sets, &access_sets.write)?;
    // Who is who, before addresses name them.
    put(&mut maps.classes, &mut current.classes, &peers.write)?;
    put(&mut maps.cidrs, &mut current.cidrs, &cidrs.write)?;
    put(&mut maps.addresses, &mut current.addresses, &addresses.write)?;
    // The flip, one write for each workload.
    put(&mut maps.workloads, &mut current.workloads, &workloads.write)?;
    put(&mut maps.cgroups, &mut current.cgroups, &cgroups.write)?;
    drop_rows(&mut maps.cgroups, &mut current.cgroups, change.strangers)?;
    if change.complete {
        // Nobody points to these any more.
        drop_rows(&mut maps.cgroups, &mut current.cgroups, &cgroups.remove)?;
        drop_rows(&mut maps.workloads, &mut current.workloads, &workloads.remove)?;
        drop_rows(&mut maps.addresses, &mut current.addresses, &addresses.remove)?;
        drop_rows(&mut maps.classes, &mut current.classes, &peers.remove)?;
        drop_rows(&mut maps.cidrs, &mut current.cidrs, &cidrs.remove)?;
        drop_rows(&mut maps.verdicts, &mut current.verdicts, &verdicts.remove)?;
        drop_rows(&mut maps.syscalls, &mut current.syscalls, &syscalls.remove)?;
        drop_rows(&mut maps.clauses, &mut current.clauses, &clauses.remove)?;
        drop_rows(&mut maps.access_sets, &mut current.access_sets, &access_sets.remove)?;
        drop_rows(&mut maps.access_rows, &mut current.access_rows, &access_rows.remove)?;
        drop_rows(&mut maps.path_rows, &mut current.path_rows, &path_rows.remove)?;
    }
    // Flows are decided anew when they meet another epoch.
    let epoch = known.epoch.wrapping_add(u32::from(*stale));
    let done = abi::Control { epoch, flags, elsewhere: elsewhere(&current.workloads), ..*known };
    set_control(maps, known, done)?;
    *stale = false;
    read_back(&maps.verdicts, &verdicts.write)?;
    read_back(&maps.clauses, &clauses.write)?;
    read_back(&maps.syscalls, &syscalls.write)?;
    read_back(&maps.path_rows, &path_rows.write)?;
    read_back(&maps.access_rows, &access_rows.write)?;
    read_back(&maps.access_sets, &access_sets.write)?;
    read_back(&maps.classes, &peers.write)?;
    read_back(&maps.cidrs, &cidrs.write)?;
    read_back(&maps.addresses, &addresses.write)?;
    // Rows of cgroups are not read back: one may be gone by now, and the kernel removes its row then.
    read_back(&maps.workloads, &workloads.write)?;
    if maps.control()? != *known {
        // The next change would not write it, as it is known to hold this.
        maps.set_control(*known)?;
        return Err(MapError::ReadBack { map: "control", rows: 1 }.into());
    }
    attached?;
    if change.complete {
        hooks.release(lowered.hooks, lowered.sys_enter)?;
    }
    let rows = [
        verdicts.write.len(),
        syscalls.write.len(),
        clauses.write.len(),
        access_rows.write.len(),
        access_sets.write.len(),
        workloads.write.len(),
        workloads.remove.len(),
        cgroups.write.len(),
        cgroups.remove.len(),
    ];
    Ok(who_changed || rows.iter().any(|n| *n > 0))
}

fn set_control(maps: &mut Maps, known: &mut abi::Control, control: abi::Control) -> Result<(), MapError> {
    if control != *known {
        maps.set_control(control)?;
        *known = control;
    }
    Ok(())
}

/// Of which paths no rule on files of these workloads speaks.
pub(super) fn elsewhere(workloads: &HashMap<u32, abi::Workload>) -> abi::Elsewhere {
    let speaking = workloads.values().filter(|row| row.flags & workload_flags::FILES != 0);
    speaking.fold(abi::Elsewhere::EVERYTHING, |all, row| all.and(&row.elsewhere))
}

/// A cgroup without a directory may live on in its sockets, which another process can hold. The kernel removes its row
/// with the last of them; until then it stays what it was: its pod, or where that is gone, refused.
fn keep_sockets_of_the_gone(
    maps: &Maps,
    current: &mut Tables,
    change: &Change<'_>,
    cgroups: &mut HashMap<u64, u32>,
    workloads: &mut HashMap<u32, abi::Workload>,
) -> Result<(), EngineError> {
    let missing: Vec<(u64, u32)> = current
        .cgroups
        .iter()
        .filter(|(id, _)| !cgroups.contains_key(*id) && !change.live.contains(*id))
        .map(|(id, index)| (*id, *index))
        .collect();
    for (id, index) in missing {
        if maps.cgroups.get(&id)?.is_none() {
            current.cgroups.remove(&id);
            continue;
        }
        let Some(old) = current.workloads.get(&index) else { continue };
        let isolated = old.flags & ISOLATED_BOTH != 0;
        let same_pod = workloads.iter().filter(|(_, row)| row.pod == old.pod).map(|(index, _)| *index).min();
        let heir = match same_pod {
            Some(heir) => heir,
            None if isolated || index == GONE => GONE,
            // Nothing was refused to it, and there is nobody to ask what should be.
            None => continue,
        };
        cgroups.insert(id, heir);
        if heir == GONE {
            workloads.entry(GONE).or_insert(abi::Workload {
                gen_: GONE,
                flags: workload_flags::NET | ISOLATED_BOTH,
                default_rule: [abi::NO_RULE; 2],
                would_default_rule: [abi::NO_RULE; 2],
                ..abi::Workload::default()
            });
        }
    }
    Ok(())
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

/// Writes what differs from what it should be; returns how many rows did.
pub(super) fn repair<K: Eq + Hash + Copy, V: PartialEq + Copy>(
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

#[cfg(test)]
mod tests {
    use super::*;

    fn speaking_of(first: usize) -> abi::Workload {
        let mut elsewhere = abi::Elsewhere::EVERYTHING;
        abi::strike(&mut elsewhere.first, first);
        abi::Workload { flags: workload_flags::FILES, elsewhere, ..abi::Workload::default() }
    }

    #[test]
    fn where_any_workload_has_a_rule_on_files_is_nowhere_else() {
        let silent = abi::Workload::default();
        let rows = [(1, speaking_of(3)), (2, silent), (3, speaking_of(130))];
        let all = elsewhere(&HashMap::from(rows));
        let cleared: Vec<usize> =
            (0..64 * abi::BEGINNING_WORDS).filter(|bit| all.first[bit / 64] >> (bit % 64) & 1 == 0).collect();
        assert_eq!(cleared, [3, 130]);
        assert_eq!(all.second, abi::Elsewhere::EVERYTHING.second);
        assert_eq!(elsewhere(&HashMap::from([(2, silent)])), abi::Elsewhere::EVERYTHING);
    }
}
