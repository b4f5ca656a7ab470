//! System calls.

use super::Judgement;
use crate::model::syscall::operand;
use crate::model::{
    ALWAYS_ALLOWED, Action, ArgCondition, ArgOp, Mode, Policy, RulePath, RuleRef, SyscallRule, Workload,
    World, selecting,
};
use crate::syscalls::{self, Abi, ArgKind, Entry, Operand};

/// A system call as a task makes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Call {
    /// The way into the kernel.
    pub abi: Abi,
    /// The number. The x32 entry is no matter of numbers: the kernel refuses it before any rule is asked.
    pub number: u32,
    /// The argument registers.
    pub args: [u64; 6],
}

impl Call {
    /// The call of this name; `None` where the ABI has none.
    #[must_use]
    pub fn named(abi: Abi, name: &str, args: [u64; 6]) -> Option<Self> {
        syscalls::number(abi, name).map(|number| Self { abi, number, args })
    }
}

/// Decides a system call of this container.
#[must_use]
pub fn decide_syscall(policies: &[Policy], world: &World, workload: &Workload, call: &Call) -> Judgement {
    let mut verdict = Judgement { action: Action::Allow, rule: None, audited: None };
    if syscalls::name(call.abi, call.number).is_some_and(|name| ALWAYS_ALLOWED.contains(&name)) {
        return verdict;
    }
    let mut concerned = selecting(policies, world, workload);
    concerned.retain(|policy| policy.covers_container(workload.container.as_deref()));

    if let Some((action, rule)) = strictest(&concerned, Mode::Enforce, call) {
        verdict = Judgement { action, rule: Some(rule), audited: None };
    }
    if !verdict.action.refuses() {
        verdict.audited =
            strictest(&concerned, Mode::Audit, call).filter(|(action, _)| *action > verdict.action);
    }
    verdict
}

/// The strictest answer of the policies of one mode, if it is stricter than Allow, and the first policy that gives it.
fn strictest(policies: &[&Policy], mode: Mode, call: &Call) -> Option<(Action, RuleRef)> {
    let mut strictest: Option<(Action, RuleRef)> = None;
    for policy in policies.iter().filter(|policy| policy.mode == mode) {
        let Some((action, path)) = answer(policy, call) else { continue };
        if action > strictest.as_ref().map_or(Action::Allow, |(action, _)| *action) {
            strictest = Some((action, RuleRef { policy: policy.id.clone(), path }));
        }
    }
    strictest
}

/// The answer of one policy: that of its first rule that matches, or its default.
fn answer(policy: &Policy, call: &Call) -> Option<(Action, RulePath)> {
    let syscalls = policy.syscalls.as_ref()?;
    (0..=u16::MAX)
        .zip(&syscalls.rules)
        .find(|(_, rule)| rule_matches(rule, call))
        .map(|(index, rule)| (rule.action, RulePath::Syscall(index)))
        .or_else(|| Some((syscalls.default.action()?, RulePath::SyscallDefault)))
}

fn rule_matches(rule: &SyscallRule, call: &Call) -> bool {
    rule.names.iter().flat_map(|name| syscalls::expand(name)).any(|name| {
        !ALWAYS_ALLOWED.contains(&name)
            && syscalls::entries(call.abi, name).into_iter().any(|entry| {
                entry.number == call.number
                    && picked(entry, call)
                    && rule.args.iter().all(|condition| {
                        // Where the argument cannot be compared, doubt is on the side of refusing.
                        operand(call.abi, name, entry, condition)
                            .map_or(rule.action.refuses(), |operand| holds(condition, operand, call))
                    })
            })
    })
}

/// A call that stands for many is this one only if its first argument says so.
fn picked(entry: Entry, call: &Call) -> bool {
    entry.selector.is_none_or(|selector| call.args[0] & u64::from(selector.mask) == u64::from(selector.value))
}

fn holds(condition: &ArgCondition, operand: Operand, call: &Call) -> bool {
    let as_seen = |register: u64| number(register, operand.kind);
    let Some(&register) = call.args.get(operand.register) else { return false };
    let (argument, value) = (as_seen(register), as_seen(condition.value));
    match condition.op {
        ArgOp::Equal => argument == value,
        ArgOp::NotEqual => argument != value,
        ArgOp::LessThan => argument < value,
        ArgOp::LessOrEqual => argument <= value,
        ArgOp::GreaterThan => argument > value,
        ArgOp::GreaterOrEqual => argument >= value,
        ArgOp::MaskedEqual { mask } => as_seen(register & mask) == value,
    }
}

/// The number that the call takes a register to hold.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    reason = "what the call does with the register, too"
)]
fn number(register: u64, kind: ArgKind) -> i128 {
    match kind {
        ArgKind::Uint16 => i128::from(register as u16),
        ArgKind::Int32 => i128::from(register as i32),
        ArgKind::Uint32 => i128::from(register as u32),
        ArgKind::Int64 => i128::from(register as i64),
        ArgKind::Uint64 | ArgKind::Pointer => i128::from(register),
    }
}
