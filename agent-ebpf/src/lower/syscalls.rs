//! System call sets: which hook refuses each call on this kernel, what is left where none does, and what each rule is
//! given by that.

use std::collections::BTreeSet;
use std::sync::Arc;

use holdfast_policy::compile::{Clause, Condition, SysSet, Width};
use holdfast_policy::model::{Action, ArgOp, Fallback, Mode, PolicyId};
use holdfast_policy::syscalls::{self, Abi};

use super::{LowerError, Lowered};
use crate::abi::{self, compare};
use crate::mechanisms::{Mechanism, Mechanisms};

#[cfg(test)]
mod tests;

/// What a rule really does on this node, from the best to the least.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Given {
    /// The call fails and has no effect.
    Deny,
    /// The call has no effect, and the process dies.
    DenyAndKill,
    /// Let through on purpose.
    Allow,
    /// Counted only.
    Audit,
    /// Nothing on this node has such a call.
    NotApplicable,
    /// The process dies; the call's effect may stand.
    KillAfterEffect,
    /// Nothing happens.
    NotCovered,
}

impl Given {
    /// As status shows it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Deny => "Deny",
            Self::DenyAndKill => "DenyAndKill",
            Self::Allow => "Allow",
            Self::Audit => "Audit",
            Self::NotApplicable => "NotApplicable",
            Self::KillAfterEffect => "KillAfterEffect",
            Self::NotCovered => "NotCovered",
        }
    }
}

/// What one rule of a set is given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleGiven {
    /// The weakest of what its calls are given.
    pub given: Given,
    /// How.
    pub mechanism: Option<Mechanism>,
    /// Why it is not what was asked, as one word.
    pub reason: Option<&'static str>,
    /// The calls that are given less than asked.
    pub calls: BTreeSet<String>,
}

/// What is asked of a rule.
#[must_use]
pub const fn asked(action: Action) -> &'static str {
    match action {
        Action::Allow => "Allow",
        Action::Audit => "Audit",
        Action::Deny => "Deny",
        Action::Kill => "Kill",
    }
}

/// Calls that `io_uring` makes without making them (the opcodes of `include/uapi/linux/io_uring.h`, 6.12).
const URING_CALLS: [&str; 40] = [
    "accept",
    "accept4",
    "bind",
    "close",
    "connect",
    "epoll_ctl",
    "fadvise64",
    "fallocate",
    "fgetxattr",
    "fsetxattr",
    "fsync",
    "ftruncate",
    "futex",
    "getxattr",
    "link",
    "linkat",
    "listen",
    "madvise",
    "mkdir",
    "mkdirat",
    "open",
    "openat",
    "openat2",
    "recv",
    "recvmsg",
    "rename",
    "renameat",
    "renameat2",
    "send",
    "sendmsg",
    "setxattr",
    "shutdown",
    "socket",
    "splice",
    "statx",
    "symlink",
    "symlinkat",
    "tee",
    "unlink",
    "unlinkat",
];

/// The clauses of a set's calls.
type Calls = std::collections::BTreeMap<(Abi, u32), Vec<Clause>>;

/// The ABI of this machine's own programs.
const HOST_ABI: Abi = if cfg!(target_arch = "aarch64") { Abi::Aarch64 } else { Abi::X86_64 };

/// How one call of a set is judged on this kernel.
struct Way {
    hooks: u64,
    mechanism: Option<Mechanism>,
    at_entry: bool,
}

/// Writes the rows of one set, and what each of its rules is given.
pub(super) fn lower_set(
    set: &Arc<SysSet>,
    number: u32,
    mechanisms: &Mechanisms,
    out: &mut Lowered,
) -> Result<(), LowerError> {
    let mut calls = set.calls.clone();
    let closing = ring_clauses(&calls, others(set, mechanisms));
    close_io_uring(&mut calls, &closing);
    for ((abi, nr), clauses) in &calls {
        let name = syscalls::name(*abi, *nr).unwrap_or_default();
        let way = way(name, clauses, mechanisms);
        let rows: Vec<abi::Clause> =
            clauses.iter().flat_map(|clause| rows(clause, at_entry_action(set, clause, &way))).collect();
        if rows.len() > abi::MAX_CLAUSES {
            return Err(LowerError::TooManyClauses {
                policy: most(set, clauses),
                concerned: set.policies.iter().map(|policy| policy.id.clone()).collect(),
                call: name.to_owned(),
                count: rows.len(),
            });
        }
        let enter = way.at_entry && rows.iter().any(|row| row.action != action(Action::Allow));
        out.sys_enter |= enter;
        out.hooks |= way.hooks;
        // Under an allow-list a row that is not there means the default, so that what is allowed needs one too.
        if way.hooks == 0 && !enter && others(set, mechanisms).is_empty() {
            continue;
        }
        let key = abi::SyscallKey { set: number, abi: u32::from(*abi == Abi::I386), nr: *nr };
        out.tables.syscalls.insert(
            key,
            abi::Syscall {
                hooks: way.hooks,
                clauses: u32::try_from(rows.len()).unwrap_or(u32::MAX),
                flags: if enter { abi::SYSCALL_AT_ENTRY } else { 0 },
            },
        );
        for (index, row) in (0..).zip(rows) {
            let key = abi::ClauseKey { set: number, abi: key.abi, nr: *nr, index };
            out.tables.clauses.insert(key, row);
        }
    }
    lower_others(set, number, mechanisms, out)?;
    refuse_old_rings(&calls, &closing, number, mechanisms, out);
    Ok(())
}

/// What becomes of the calls that no rule names, where this kernel lets them be seen.
fn others<'a>(set: &'a SysSet, mechanisms: &Mechanisms) -> &'a [Clause] {
    if mechanisms.no_sys_enter.is_none() { &set.others } else { &[] }
}

/// The rows of every call that no rule names, on both ways into the kernel: judged at its entry, as a call of any number
/// has to be.
fn lower_others(
    set: &Arc<SysSet>,
    number: u32,
    mechanisms: &Mechanisms,
    out: &mut Lowered,
) -> Result<(), LowerError> {
    let others = others(set, mechanisms);
    if others.is_empty() {
        return Ok(());
    }
    let found: Vec<abi::Clause> = others.iter().flat_map(|clause| rows(clause, clause.action)).collect();
    if found.len() > abi::MAX_CLAUSES {
        return Err(LowerError::TooManyClauses {
            policy: most(set, others),
            concerned: set.policies.iter().map(|policy| policy.id.clone()).collect(),
            call: "syscalls.default".to_owned(),
            count: found.len(),
        });
    }
    out.sys_enter = true;
    let clauses = u32::try_from(found.len()).unwrap_or(u32::MAX);
    for abi in [false, true].map(u32::from) {
        let key = abi::SyscallKey { set: number, abi, nr: abi::NR_ANY };
        out.tables.syscalls.insert(key, abi::Syscall { hooks: 0, clauses, flags: abi::SYSCALL_AT_ENTRY });
        for (index, row) in (0..).zip(&found) {
            out.tables.clauses.insert(abi::ClauseKey { set: number, abi, nr: abi::NR_ANY, index }, *row);
        }
    }
    Ok(())
}

/// The policy with the most clauses.
fn most(set: &SysSet, clauses: &[Clause]) -> PolicyId {
    let count = |policy: u16| clauses.iter().filter(|clause| clause.policy == policy).count();
    let ordinal = clauses.iter().map(|clause| clause.policy).max_by_key(|policy| count(*policy)).unwrap_or(0);
    set.policies.get(usize::from(ordinal)).map_or_else(|| PolicyId::cluster(""), |policy| policy.id.clone())
}

/// The clauses that refuse a ring, by ABI: one for each policy that refuses a call which `io_uring` can make.
/// What `others` refuses is refused to rings too, unless rules name every call that a ring can make.
fn ring_clauses(calls: &Calls, others: &[Clause]) -> Vec<(Abi, Clause)> {
    let mut closing: Vec<(Abi, Clause)> = Vec::new();
    for abi in [HOST_ABI, Abi::I386] {
        let mut made = URING_CALLS.iter().filter_map(|name| syscalls::number(abi, name));
        if made.any(|nr| !calls.contains_key(&(abi, nr))) {
            let refusing = others.iter().filter(|clause| clause.action.refuses());
            closing.extend(refusing.map(|clause| (abi, clause.clone())));
        }
    }
    for ((abi, nr), clauses) in calls {
        for clause in clauses.iter().filter(|clause| is_ring_call(*abi, *nr) && clause.action.refuses()) {
            let closes = Clause { conditions: Vec::new(), action: Action::Deny, ..clause.clone() };
            if !closing.iter().any(|(of, known)| of == abi && known.policy == closes.policy) {
                closing.push((*abi, closes));
            }
        }
    }
    closing.sort_by_key(|(_, clause)| clause.policy);
    closing
}

fn is_ring_call(abi: Abi, nr: u32) -> bool {
    syscalls::name(abi, nr).is_some_and(|name| URING_CALLS.contains(&name))
}

/// Where a rule refuses a call that `io_uring` can make, the making of rings is refused to the workload.
fn close_io_uring(calls: &mut Calls, closing: &[(Abi, Clause)]) {
    for (abi, clause) in closing {
        if let Some(nr) = syscalls::number(*abi, "io_uring_setup") {
            let list = calls.entry((*abi, nr)).or_default();
            let at = list.partition_point(|known| known.policy <= clause.policy);
            list.insert(at, clause.clone());
        }
    }
}

/// A ring that is older than its workload's rules cannot be taken away, but what it does passes the hooks of the calls
/// that it makes: there it is refused too. Its threads count as callers of `io_uring_enter` on the native ABI.
fn refuse_old_rings(
    calls: &Calls,
    closing: &[(Abi, Clause)],
    number: u32,
    mechanisms: &Mechanisms,
    out: &mut Lowered,
) {
    for (native, abi) in [(true, HOST_ABI), (false, Abi::I386)] {
        let Some(nr) = syscalls::number(abi, "io_uring_enter") else { continue };
        let hooks = calls
            .iter()
            .filter(|((of, nr), clauses)| {
                *of == abi && is_ring_call(abi, *nr) && clauses.iter().any(|clause| clause.action.refuses())
            })
            .map(|((_, nr), clauses)| {
                way(syscalls::name(abi, *nr).unwrap_or_default(), clauses, mechanisms).hooks
            })
            .fold(0, |all, hooks| all | hooks);
        let rows: Vec<abi::Clause> = closing
            .iter()
            .filter(|(of, _)| *of == abi)
            .flat_map(|(_, clause)| rows(clause, clause.action))
            .collect();
        let key = abi::SyscallKey { set: number, abi: u32::from(!native), nr };
        // A rule that names io_uring_enter itself is left as it is.
        if hooks == 0
            || rows.is_empty()
            || rows.len() > abi::MAX_CLAUSES
            || out.tables.syscalls.contains_key(&key)
        {
            continue;
        }
        let clauses = u32::try_from(rows.len()).unwrap_or(u32::MAX);
        out.tables.syscalls.insert(key, abi::Syscall { hooks, clauses, flags: 0 });
        for (index, row) in (0..).zip(rows) {
            out.tables.clauses.insert(abi::ClauseKey { set: number, abi: key.abi, nr, index }, row);
        }
    }
}

fn way(name: &str, clauses: &[Clause], mechanisms: &Mechanisms) -> Way {
    if syscalls::hooks::is_gone(name) {
        return Way { hooks: 0, mechanism: None, at_entry: false };
    }
    // These two carry many calls; the named ones' hooks are theirs.
    let members: &[&str] = match name {
        "socketcall" => &["socket", "bind", "connect", "listen", "accept"],
        "ipc" => &[],
        _ => &[name],
    };
    let routes: Vec<_> = members.iter().filter_map(|member| mechanisms.route(member, clauses)).collect();
    let hooks = routes
        .iter()
        .flat_map(|(route, _)| route.hooks)
        .map(|hook| Mechanisms::bit(*hook))
        .fold(0, |a, b| a | b);
    let mechanism = routes.iter().map(|(_, mechanism)| *mechanism).max();
    Way { hooks, mechanism, at_entry: hooks == 0 && mechanisms.no_sys_enter.is_none() }
}

/// What a clause does: as written where a hook refuses; at the entry of the call only what still means something there.
fn at_entry_action(set: &SysSet, clause: &Clause, way: &Way) -> Action {
    if way.hooks != 0 || clause.mode == Mode::Audit {
        return clause.action;
    }
    match clause.action {
        Action::Deny if fallback(set, clause.policy) == Fallback::Kill => Action::Kill,
        Action::Deny => Action::Allow,
        other => other,
    }
}

fn fallback(set: &SysSet, policy: u16) -> Fallback {
    set.policies.get(usize::from(policy)).map_or(Fallback::None, |policy| policy.fallback)
}

/// The kernel's number of an action (`enum hf_action`).
pub(super) const fn action(action: Action) -> u8 {
    match action {
        Action::Allow => 0,
        Action::Audit => 1,
        Action::Deny => 2,
        Action::Kill => 3,
    }
}

/// The rows of a clause: several where one argument has several conditions, each holding with the next.
pub(crate) fn rows(clause: &Clause, does: Action) -> Vec<abi::Clause> {
    let empty = abi::Clause {
        policy: clause.policy,
        rule: clause.rule,
        action: action(does),
        flags: if clause.mode == Mode::Audit { abi::CLAUSE_AUDIT_MODE } else { 0 },
        pad: [0; 2],
        condition: [abi::Condition { accept: compare::ANY, ..abi::Condition::default() }; abi::ARGUMENTS],
    };
    let mut rows = vec![empty];
    for condition in &clause.conditions {
        let register = usize::from(condition.register);
        let free = rows.iter_mut().find(|row| row.condition[register].accept == compare::ANY);
        if let Some(row) = free {
            row.condition[register] = lower_condition(condition);
        } else {
            let mut row = empty;
            row.condition[register] = lower_condition(condition);
            rows.push(row);
        }
    }
    let last = rows.len() - 1;
    for row in &mut rows[..last] {
        row.flags |= abi::CLAUSE_AND_NEXT;
    }
    rows
}

fn lower_condition(condition: &Condition) -> abi::Condition {
    let (width, sign): (u64, u64) = match condition.width {
        Width::Bits16 => (0xffff, 1 << 15),
        Width::Bits32 => (0xffff_ffff, 1 << 31),
        Width::Bits64 => (u64::MAX, 1 << 63),
    };
    let (accept, mask) = match condition.op {
        ArgOp::Equal => (compare::EQUAL, u64::MAX),
        ArgOp::NotEqual => (compare::LESS | compare::GREATER, u64::MAX),
        ArgOp::LessThan => (compare::LESS, u64::MAX),
        ArgOp::LessOrEqual => (compare::LESS | compare::EQUAL, u64::MAX),
        ArgOp::GreaterThan => (compare::GREATER, u64::MAX),
        ArgOp::GreaterOrEqual => (compare::GREATER | compare::EQUAL, u64::MAX),
        ArgOp::MaskedEqual { mask } => (compare::EQUAL, mask),
    };
    abi::Condition {
        value: condition.value & width,
        keep: width & mask,
        sign: if condition.signed { sign } else { 0 },
        accept,
        pad: [0; 7],
    }
}

/// What each rule of a set is given on this node, by its number in the set.
#[must_use]
pub fn given(set: &SysSet, mechanisms: &Mechanisms) -> Vec<RuleGiven> {
    let mut out: Vec<Option<RuleGiven>> = vec![None; set.rules.len()];
    let mut count = |clause: &Clause, name: &str, way: &Way| {
        let (given, mechanism, reason) = clause_given(set, clause, name, way, mechanisms);
        let short = given > wanted(clause.action, clause.mode);
        let entry = out[usize::from(clause.rule)].get_or_insert_with(|| RuleGiven {
            given,
            mechanism,
            reason,
            calls: BTreeSet::new(),
        });
        if given > entry.given {
            entry.given = given;
            entry.reason = reason;
        }
        entry.mechanism = entry.mechanism.max(mechanism);
        if short && !name.is_empty() {
            entry.calls.insert(name.to_owned());
        }
    };
    for ((abi, nr), clauses) in &set.calls {
        let name = syscalls::name(*abi, *nr).unwrap_or_default();
        let way = way(name, clauses, mechanisms);
        for clause in clauses {
            count(clause, name, &way);
        }
    }
    // The calls of any number.
    let at_entry = Way { hooks: 0, mechanism: None, at_entry: mechanisms.no_sys_enter.is_none() };
    for clause in &set.others {
        count(clause, "", &at_entry);
    }
    out.into_iter()
        .map(|given| {
            given.unwrap_or(RuleGiven {
                given: Given::NotApplicable,
                mechanism: None,
                reason: Some("NoSuchCall"),
                calls: BTreeSet::new(),
            })
        })
        .collect()
}

/// What a rule is given that gets all it asks for.
pub(super) fn wanted(action: Action, mode: Mode) -> Given {
    match (mode, action) {
        (_, Action::Allow) => Given::Allow,
        (Mode::Audit, _) | (_, Action::Audit) => Given::Audit,
        (_, Action::Deny) => Given::Deny,
        (_, Action::Kill) => Given::DenyAndKill,
    }
}

fn clause_given(
    set: &SysSet,
    clause: &Clause,
    name: &str,
    way: &Way,
    mechanisms: &Mechanisms,
) -> (Given, Option<Mechanism>, Option<&'static str>) {
    if syscalls::hooks::is_gone(name) {
        return (Given::NotApplicable, None, Some("CallIsGone"));
    }
    let wanted = wanted(clause.action, clause.mode);
    if way.hooks != 0 || wanted == Given::Allow {
        return (wanted, way.mechanism, None);
    }
    let reason = if syscalls::hooks::hooks(name).is_empty() {
        "NoHookForCall"
    } else if mechanisms.hooks.is_empty() {
        "NoLsmAndNoFmodRet"
    } else {
        "HookMissing"
    };
    if !way.at_entry {
        return (Given::NotCovered, None, Some(reason));
    }
    let entry = Some(Mechanism::SysEnter);
    match (wanted, clause.action, fallback(set, clause.policy)) {
        (Given::Audit, _, _) => (Given::Audit, entry, None),
        (_, Action::Kill, _) | (_, _, Fallback::Kill) => (Given::KillAfterEffect, entry, Some(reason)),
        _ => (Given::NotCovered, None, Some(reason)),
    }
}
