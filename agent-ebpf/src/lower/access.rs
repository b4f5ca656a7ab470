//! Access sets: their automata as rows of one array, their answers as rows of a table, and what each rule is given.
//!
//! The array of rows is shared. A set that is in force keeps its place in it; another gets elements that no set uses
//! which the kernel may still look at, so that nothing in force is ever written over. Equal automata share a place.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use holdfast_policy::compile::{AccessSet, Answers};
use holdfast_policy::model::{Action, Executables, Operation, Policy, PolicyId, RulePath};
use holdfast_policy::paths::Automaton;
use holdfast_policy::syscalls::hooks::{Hook, OF_CAPABILITIES, OF_MOUNTS, OF_PROCESSES};

use super::syscalls::{Given, action, wanted};
use super::{LowerError, Lowered};
use crate::abi::event::Bytes;
use crate::abi::{self, access_flags, access_kind};
use crate::mechanisms::{Mechanism, Mechanisms};
use crate::tables::Tables;

#[cfg(test)]
mod tests;

/// The rows of an automaton.
type Rows = Vec<abi::PathRow>;

/// Which elements of the array are used, and by which rows.
pub(super) struct Space {
    /// Begin -> end of what is used; none touch.
    used: BTreeMap<u32, u32>,
    /// Where these rows are already.
    known: HashMap<Rows, u32>,
    /// Where to look for room first: what was freed last is used again last.
    next: u32,
}

impl Space {
    /// What the sets in the maps use. `next` is where the last search ended.
    pub(super) fn of(tables: &Tables, next: u32) -> Self {
        let mut space = Self { used: BTreeMap::new(), known: HashMap::new(), next };
        for automaton in tables.access_sets.values().flat_map(|set| [&set.executables, &set.files]) {
            let range = automaton.range();
            if range.end <= abi::POLICY_PATH_ROWS
                && !range.is_empty()
                && !space.used.contains_key(&range.start)
            {
                space.used.insert(range.start, range.end);
                let rows: Option<Rows> =
                    range.clone().map(|element| tables.path_rows.get(&element).copied()).collect();
                if let Some(rows) = rows {
                    space.known.insert(rows, range.start);
                }
            }
        }
        space
    }

    /// Where the last search ended.
    pub(super) fn next(&self) -> u32 {
        self.next
    }

    /// A place for rows; `None` where there is no room.
    fn place(&mut self, rows: &Rows) -> Option<u32> {
        if let Some(base) = self.known.get(rows) {
            return Some(*base);
        }
        let size = u32::try_from(rows.len()).ok()?;
        let base = self.room(self.next.max(1), size).or_else(|| self.room(1, size))?;
        self.used.insert(base, base + size);
        self.known.insert(rows.clone(), base);
        self.next = base + size;
        Some(base)
    }

    /// The first gap of this size, from an element on. Element 0 belongs to nobody.
    fn room(&self, from: u32, size: u32) -> Option<u32> {
        let mut at = from;
        if let Some((_, end)) = self.used.range(..=from).next_back() {
            at = at.max(*end);
        }
        for (begin, end) in self.used.range(from..) {
            if *begin >= at && begin - at >= size {
                return Some(at);
            }
            at = at.max(*end);
        }
        (abi::POLICY_PATH_ROWS.checked_sub(at)? >= size).then_some(at)
    }
}

/// Writes the rows of one set.
pub(super) fn lower_set(
    set: &Arc<AccessSet>,
    number: u32,
    mechanisms: &Mechanisms,
    space: &mut Space,
    out: &mut Lowered,
) -> Result<(), LowerError> {
    out.hooks |= needed(set, mechanisms);
    let too_many = || LowerError::NoRoomForPaths {
        concerned: set.policies.iter().map(|policy| policy.id.clone()).collect(),
    };
    let mut place = |automaton: Option<&Automaton>, reach: &[u16]| match automaton {
        None => Ok(abi::PathAutomaton::default()),
        Some(automaton) => {
            let (mut header, rows) = automaton_rows(automaton, reach).ok_or_else(too_many)?;
            header.base = space.place(&rows).ok_or_else(too_many)?;
            out.tables.path_rows.extend((header.base..).zip(rows));
            Ok(header)
        }
    };
    let executables = place(set.executables.as_ref(), &[])?;
    let files = place(set.files.as_ref(), &set.reach)?;
    let mut flags = 0;
    for (is, flag) in [
        (!set.processes.is_empty(), access_flags::PROCESSES),
        (set.files.is_some(), access_flags::FILES),
        (!set.capabilities.is_empty(), access_flags::CAPABILITIES),
        (set.unknown.is_some(), access_flags::REFUSES),
    ] {
        if is {
            flags |= flag;
        }
    }
    let capabilities =
        set.capabilities.keys().fold(0, |bits, capability| bits | 1u64 << (capability.number() & 63));
    let row = abi::Access {
        capabilities,
        flags,
        unknown_rule: set.unknown.unwrap_or(abi::NO_RULE),
        pad: 0,
        executables,
        files,
    };
    out.tables.access_sets.insert(number, row);
    answer_rows(set, number, out);
    Ok(())
}

/// The answers of a set.
fn answer_rows(set: &AccessSet, number: u32, out: &mut Lowered) {
    let mut put = |kind, a, b, answers: &[Answers]| {
        let mut row = abi::AccessRow::default();
        for (place, answers) in row.answer.iter_mut().zip(answers) {
            *place = answer(*answers);
        }
        out.tables.access_rows.insert(abi::AccessKey { set: number, a, b, kind }, row);
    };
    for (outcome, answers) in (0..=u16::MAX).zip(&set.processes) {
        if answers.iter().any(|answers| *answers != Answers::default()) {
            put(access_kind::EXECUTABLE, outcome, 0, answers);
        }
    }
    for outcome in &set.loaders {
        put(access_kind::LOADER, *outcome, 0, &[]);
    }
    for ((file, executable), answers) in &set.operations {
        put(access_kind::FILE, *file, *executable, answers);
    }
    for ((reach, executable), answers) in &set.moves {
        put(access_kind::MOVE, *reach, *executable, std::slice::from_ref(answers));
    }
    for (capability, answers) in &set.capabilities {
        put(access_kind::CAPABILITY, u16::from(capability.number()), 0, std::slice::from_ref(answers));
    }
}

fn answer(answers: Answers) -> abi::AccessAnswer {
    let (enforced, audited) = (answers.enforced, answers.audited);
    abi::AccessAnswer {
        rule: enforced.map_or(abi::NO_RULE, |answer| answer.rule),
        would_rule: audited.map_or(abi::NO_RULE, |answer| answer.rule),
        action: action(enforced.map_or(Action::Allow, |answer| answer.action)),
        would_action: action(audited.map_or(Action::Allow, |answer| answer.action)),
        pad: [0; 2],
    }
}

/// Of which paths an automaton says nothing, by how their first two names begin.
pub(super) fn elsewhere(automaton: &Automaton) -> abi::Elsewhere {
    const DEAD: u16 = 0;
    const START: u16 = 1;
    let step = |state: u16, byte: u8| {
        automaton.next
            [usize::from(state) * automaton.width + usize::from(automaton.columns[usize::from(byte)])]
    };
    let of = |states: &BTreeSet<u16>| {
        let mut words = abi::Elsewhere::EVERYTHING.first;
        let bytes = || (1..=u8::MAX).filter(|byte| *byte != b'/');
        for state in states {
            for a in bytes() {
                let state = step(*state, a);
                if state == DEAD {
                    continue;
                }
                if automaton.outcome[usize::from(state)] != 0 || step(state, b'/') != DEAD {
                    abi::strike(&mut words, abi::beginning(a, 0));
                }
                for b in bytes().filter(|b| step(state, *b) != DEAD) {
                    abi::strike(&mut words, abi::beginning(a, b));
                }
            }
        }
        words
    };
    let first: BTreeSet<u16> = [step(START, b'/')].into_iter().filter(|state| *state != DEAD).collect();
    // Every state within the first name.
    let mut within = first.clone();
    let mut todo: Vec<u16> = within.iter().copied().collect();
    while let Some(state) = todo.pop() {
        for byte in (1..=u8::MAX).filter(|byte| *byte != b'/') {
            let next = step(state, byte);
            if next != DEAD && within.insert(next) {
                todo.push(next);
            }
        }
    }
    let second = within.iter().map(|state| step(*state, b'/')).filter(|state| *state != DEAD).collect();
    abi::Elsewhere { first: of(&first), second: of(&second) }
}

/// An automaton as the kernel walks it, and its header without a place; `None` where it has more columns than a header
/// can name.
fn automaton_rows(automaton: &Automaton, reach: &[u16]) -> Option<(abi::PathAutomaton, Rows)> {
    let cells = abi::CELL_NEXT + automaton.width;
    let elements = cells.div_ceil(abi::ROW_CELLS);
    let mut column = [0; 256];
    for (cell, of) in column.iter_mut().zip(automaton.columns) {
        *cell = u8::try_from(abi::CELL_NEXT + usize::from(of)).ok()?;
    }
    let mut rows = vec![abi::PathRow::default(); automaton.states() * elements];
    for (state, outcome) in automaton.outcome.iter().enumerate() {
        let next = &automaton.next[state * automaton.width..(state + 1) * automaton.width];
        let head = [*outcome, reach.get(state).copied().unwrap_or(0)];
        for (place, value) in head.iter().chain(next).enumerate() {
            rows[state * elements + place / abi::ROW_CELLS].cell[place % abi::ROW_CELLS] = *value;
        }
    }
    let header = abi::PathAutomaton {
        base: 0,
        elements: u32::try_from(elements).ok()?,
        size: u32::try_from(rows.len()).ok()?,
        column: Bytes(column),
    };
    Some((header, rows))
}

/// The hooks that an operation is decided in. A kernel before 6.2 has no hook for the length of an open file: it asks
/// about the path instead.
fn hooks_of(operation: Operation, kernel: (u16, u16)) -> &'static [Hook] {
    match operation {
        Operation::Read => &[Hook::FileOpen, Hook::FileReceive, Hook::UnixStreamConnect, Hook::UnixMaySend],
        Operation::Write if kernel < (6, 2) => &[
            Hook::FileOpen,
            Hook::FileReceive,
            Hook::UnixStreamConnect,
            Hook::UnixMaySend,
            Hook::PathTruncate,
        ],
        Operation::Write => &[
            Hook::FileOpen,
            Hook::FileReceive,
            Hook::UnixStreamConnect,
            Hook::UnixMaySend,
            Hook::PathTruncate,
            Hook::FileTruncate,
        ],
        Operation::Create => {
            &[Hook::PathMknod, Hook::PathMkdir, Hook::PathSymlink, Hook::PathLink, Hook::PathRename]
        }
        Operation::Delete => &[Hook::PathUnlink, Hook::PathRmdir, Hook::PathRename],
        Operation::Rename => &[Hook::PathRename],
        Operation::Link => &[Hook::PathLink],
        Operation::Chmod => &[Hook::PathChmod, Hook::PathChown],
        Operation::ExecuteMap => &[Hook::MmapFile, Hook::FileMprotect],
    }
}

/// What keeps a name in its place: nothing that it protects may be moved or linked to a name that does not.
const OF_MOVES: [Hook; 2] = [Hook::PathRename, Hook::PathLink];

/// Bits of the hooks that a set has to be asked in, those that this kernel has.
fn needed(set: &AccessSet, mechanisms: &Mechanisms) -> u64 {
    let mut hooks: BTreeSet<Hook> = BTreeSet::new();
    for (is, of) in [
        (!set.processes.is_empty(), OF_PROCESSES),
        (!set.moves.is_empty(), &OF_MOVES),
        (set.unknown.is_some(), OF_MOUNTS),
        (!set.capabilities.is_empty(), OF_CAPABILITIES),
    ] {
        if is {
            hooks.extend(of);
        }
    }
    for row in set.operations.values() {
        let asked = Operation::ALL.iter().zip(row).filter(|(_, answers)| **answers != Answers::default());
        hooks.extend(asked.flat_map(|(operation, _)| hooks_of(*operation, mechanisms.kernel)));
    }
    let there = hooks.iter().filter(|hook| mechanisms.hooks.contains_key(hook));
    there.fold(0, |bits, hook| bits | Mechanisms::bit(*hook))
}

/// What one rule of a set is given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleGiven {
    /// The weakest of what its operations are given.
    pub given: Given,
    /// How.
    pub mechanism: Option<Mechanism>,
    /// Why it is not what was asked, as one word.
    pub reason: Option<&'static str>,
    /// What is not covered, for people.
    pub message: Option<String>,
}

/// What each rule of a set is given on this node, by its number in the set.
#[must_use]
pub fn given<S: std::hash::BuildHasher>(
    set: &AccessSet,
    policies: &HashMap<PolicyId, Policy, S>,
    mechanisms: &Mechanisms,
) -> Vec<RuleGiven> {
    set.rules
        .iter()
        .map(|rule| {
            let wanted = wanted(rule.action, set.mode(rule));
            if wanted == Given::Allow {
                return RuleGiven { given: wanted, mechanism: None, reason: None, message: None };
            }
            let parts = parts(rule.rule.path, policies.get(&rule.rule.policy), mechanisms.kernel);
            let refuses = matches!(wanted, Given::Deny | Given::DenyAndKill);
            let on_paths = !matches!(rule.rule.path, RulePath::Capability(_));
            let also: &[(&str, &[Hook])] = match (refuses && on_paths, rule.rule.path) {
                (false, _) => &[],
                (true, RulePath::File(_)) => &[("renames and links", &OF_MOVES), ("mounts", OF_MOUNTS)],
                (true, _) => &[("mounts", OF_MOUNTS)],
            };
            judge(
                wanted,
                parts.into_iter().chain(also.iter().map(|(name, of)| ((*name).to_owned(), *of))),
                mechanisms,
            )
        })
        .collect()
}

/// What a rule speaks of, each with the hooks that it takes.
fn parts(path: RulePath, policy: Option<&Policy>, kernel: (u16, u16)) -> Vec<(String, &'static [Hook])> {
    match path {
        RulePath::Capability(capability) => vec![(capability.to_string(), OF_CAPABILITIES)],
        RulePath::File(index) => {
            let files = policy.and_then(|policy| policy.files.as_ref());
            let rule = files.and_then(|files| files.rules.get(usize::from(index)));
            let operations = rule.map(|rule| rule.operations.clone()).unwrap_or_default();
            operations.iter().map(|operation| (operation.to_string(), hooks_of(*operation, kernel))).collect()
        }
        _ => vec![("executables".to_owned(), OF_PROCESSES)],
    }
}

fn judge(
    wanted: Given,
    parts: impl Iterator<Item = (String, &'static [Hook])>,
    mechanisms: &Mechanisms,
) -> RuleGiven {
    let (mut missing, mut mechanism) = (Vec::new(), None);
    for (name, hooks) in parts {
        let lacking: Vec<&str> = hooks
            .iter()
            .filter(|hook| !mechanisms.hooks.contains_key(hook))
            .map(|hook| hook.lsm_name())
            .collect();
        if !lacking.is_empty() {
            missing.push(format!("{name} ({})", lacking.join(", ")));
        }
        mechanism = mechanism.max(hooks.iter().filter_map(|hook| mechanisms.hooks.get(hook).copied()).max());
    }
    if missing.is_empty() {
        return RuleGiven { given: wanted, mechanism, reason: None, message: None };
    }
    let none = mechanisms.hooks.is_empty();
    RuleGiven {
        given: Given::NotCovered,
        mechanism: None,
        reason: Some(if none { "NoLsmAndNoFmodRet" } else { "HookMissing" }),
        message: (!none).then(|| format!("hooks that this kernel lacks: {}", missing.join("; "))),
    }
}

/// Whether a rule is about what was not in the image.
#[must_use]
pub fn is_about_the_image(path: RulePath, policy: &Policy) -> bool {
    let RulePath::Process(index) = path else { return false };
    let rule = policy.processes.as_ref().and_then(|processes| processes.rules.get(usize::from(index)));
    rule.is_some_and(|rule| rule.executables == Executables::NotInImage)
}
