//! Reads all maps back, holds them against what they should hold, and writes what differs.

use std::collections::{HashMap, HashSet};

use super::{EngineError, write::repair};
use crate::abi;
use crate::cgroups::Tree;
use crate::maps::{Maps, Table};
use crate::tables::Tables;

/// Returns the maps of which rows were wrong, and how many. `seen` are the cgroups that were in the tree at the last
/// change, `control` is what was last written there.
pub(super) fn verify(
    maps: &mut Maps,
    current: &mut Tables,
    seen: &HashSet<u64>,
    control: abi::Control,
) -> Result<Vec<(&'static str, usize)>, EngineError> {
    // First, as every file rule hangs on it, and a map that cannot be repaired ends this.
    let altered = maps.control()? != control;
    if altered {
        maps.set_control(control)?;
    }
    let mut real = maps.read()?;
    // Of the elements that should be used: where a set itself was changed it may name others.
    real.path_rows = maps.path_rows.read_these(current.path_rows.keys().copied())?;
    // Taken apart in full, so that a table that is added and not verified does not compile.
    let Tables {
        addresses,
        classes,
        cidrs,
        verdicts,
        syscalls,
        clauses,
        path_rows,
        access_rows,
        access_sets,
        workloads,
        cgroups,
    } = &*current;
    let mut wrong = vec![
        (maps.verdicts.name(), repair(&mut maps.verdicts, &real.verdicts, verdicts)?),
        (maps.clauses.name(), repair(&mut maps.clauses, &real.clauses, clauses)?),
        (maps.syscalls.name(), repair(&mut maps.syscalls, &real.syscalls, syscalls)?),
        (maps.path_rows.name(), repair(&mut maps.path_rows, &real.path_rows, path_rows)?),
        (maps.access_rows.name(), repair(&mut maps.access_rows, &real.access_rows, access_rows)?),
        (maps.access_sets.name(), repair(&mut maps.access_sets, &real.access_sets, access_sets)?),
        (maps.classes.name(), repair(&mut maps.classes, &real.classes, classes)?),
        (maps.cidrs.name(), repair(&mut maps.cidrs, &real.cidrs, cidrs)?),
        (maps.addresses.name(), repair(&mut maps.addresses, &real.addresses, addresses)?),
        (maps.workloads.name(), repair(&mut maps.workloads, &real.workloads, workloads)?),
    ];
    let (rows, gone) = cgroup_rows(maps, &real.cgroups, cgroups, seen)?;
    wrong.push((maps.cgroups.name(), rows));
    wrong.push(("control", usize::from(altered)));
    // The kernel removed these with their cgroups.
    for id in gone {
        current.cgroups.remove(&id);
    }
    wrong.retain(|(_, rows)| *rows > 0);
    Ok(wrong)
}

/// The kernel itself adds the rows of children to this map, and removes a row with its cgroup. So a row is wrong that says
/// something else, one that is missing while its cgroup is in the tree, and one of a cgroup that was there at the last
/// change and has none. Also returns the cgroups that are gone.
fn cgroup_rows(
    maps: &mut Maps,
    real: &HashMap<u64, u32>,
    want: &HashMap<u64, u32>,
    seen: &HashSet<u64>,
) -> Result<(usize, Vec<u64>), EngineError> {
    let mut wrong = 0;
    for (id, index) in want {
        if real.get(id).is_some_and(|real| real != index) {
            maps.cgroups.write(id, index)?;
            wrong += 1;
        }
    }
    let missing: Vec<u64> = want.keys().filter(|id| !real.contains_key(*id)).copied().collect();
    let mut gone = Vec::new();
    if !missing.is_empty() {
        // Looked at after the map was: what is in the tree now was there all the time.
        let there: Option<HashSet<u64>> = crate::cgroups::root(std::path::Path::new("/proc/self/mountinfo"))
            .and_then(|root| Tree::walk(&root))
            .map(|tree| tree.all().into_iter().map(|cgroup| cgroup.id).collect())
            .ok();
        for id in missing {
            if there.as_ref().is_none_or(|there| there.contains(&id)) {
                maps.cgroups.write(&id, &want[&id])?;
                wrong += 1;
            } else {
                gone.push(id);
            }
        }
    }
    for id in real.keys().filter(|id| !want.contains_key(*id) && seen.contains(*id)) {
        maps.cgroups.remove(id)?;
        wrong += 1;
    }
    Ok((wrong, gone))
}
