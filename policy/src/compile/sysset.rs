//! System call sets: the clauses of each distinct list of policies.

use std::collections::{BTreeMap, HashMap};

use crate::error::CompileError;
use crate::model::syscall::operand;
use crate::model::{ALWAYS_ALLOWED, ArgCondition, ArgOp, Policy, RulePath, RuleRef, SyscallRule, Workload};
use crate::syscalls::{self, Abi, Entry};

use super::network::PolicyKey;
use super::syscall::{Clause, Condition, SysPolicy, SysRule, SysSet, SysSetKey, Width};

/// The entries of a call, by ABI and name: looking them up is dear, and groups of several policies share names.
pub(crate) type Entries = HashMap<(Abi, &'static str), Vec<Entry>>;

/// The system call rules of one policy on the tables of one node.
pub(crate) struct Source<'a> {
    pub(crate) policy: &'a Policy,
    pub(crate) key: PolicyKey,
    rules: Vec<PlannedRule>,
}

struct PlannedRule {
    /// The calls that the rule concerns, each with the conditions under which it does.
    calls: Vec<((Abi, u32), Vec<Condition>)>,
    not_applicable: Vec<String>,
}

/// The rules of a policy; `None` where it has none.
pub(crate) fn plan<'a>(
    policy: &'a Policy,
    key: PolicyKey,
    abis: &[Abi],
    entries: &mut Entries,
) -> Option<Source<'a>> {
    let rules = &policy.syscalls.as_ref()?.rules;
    if rules.is_empty() {
        return None;
    }
    let rules = rules.iter().map(|rule| plan_rule(rule, abis, entries)).collect();
    Some(Source { policy, key, rules })
}

fn plan_rule(rule: &SyscallRule, abis: &[Abi], entries: &mut Entries) -> PlannedRule {
    let mut names: Vec<&'static str> = rule.names.iter().flat_map(|name| syscalls::expand(name)).collect();
    names.sort_unstable();
    names.dedup();
    names.retain(|name| !ALWAYS_ALLOWED.contains(name));
    let mut planned = PlannedRule { calls: Vec::new(), not_applicable: Vec::new() };
    for name in names {
        let mut applicable = false;
        for abi in abis {
            for entry in entries.entry((*abi, name)).or_insert_with(|| syscalls::entries(*abi, name)) {
                applicable = true;
                if let Some(conditions) = conditions(rule, *abi, name, *entry) {
                    planned.calls.push(((*abi, entry.number), conditions));
                }
            }
        }
        if !applicable {
            planned.not_applicable.push(name.to_owned());
        }
    }
    // A call that always exits is reached through no multiplexer, but its number may be named under another name.
    planned.calls.retain(|((abi, number), _)| {
        syscalls::name(*abi, *number).is_none_or(|name| !ALWAYS_ALLOWED.contains(&name))
    });
    planned
}

/// The conditions under which the rule concerns this entry; `None` = never.
fn conditions(rule: &SyscallRule, abi: Abi, name: &str, entry: Entry) -> Option<Vec<Condition>> {
    let mut conditions = Vec::with_capacity(rule.args.len() + 1);
    if let Some(selector) = entry.selector {
        conditions.push(Condition {
            register: 0,
            op: ArgOp::MaskedEqual { mask: u64::from(selector.mask) },
            value: u64::from(selector.value),
            width: Width::Bits32,
            signed: false,
        });
    }
    for argument in &rule.args {
        match condition(abi, name, entry, argument) {
            Some(condition) => conditions.push(condition),
            // It cannot be compared here: taken as met where the rule refuses, as not met where it lets through.
            None if rule.action.refuses() => {}
            None => return None,
        }
    }
    Some(conditions)
}

fn condition(abi: Abi, name: &str, entry: Entry, argument: &ArgCondition) -> Option<Condition> {
    let operand = operand(abi, name, entry, argument)?;
    let (width, bits) = match operand.kind.width() {
        16 => (Width::Bits16, 0xffff),
        32 => (Width::Bits32, 0xffff_ffff),
        _ => (Width::Bits64, u64::MAX),
    };
    let op = match argument.op {
        ArgOp::MaskedEqual { mask } => ArgOp::MaskedEqual { mask: mask & bits },
        op => op,
    };
    let register = u8::try_from(operand.register).ok().filter(|register| *register < 6)?;
    Some(Condition { register, op, value: argument.value & bits, width, signed: operand.kind.is_signed() })
}

/// Builds the set of these policies, which are in the order of their names.
pub(crate) fn build(
    key: SysSetKey,
    sources: &[&Source<'_>],
    workload: &Workload,
) -> Result<SysSet, CompileError> {
    let mut set = SysSet { key, ..SysSet::default() };
    for source in sources {
        let policy = u16::try_from(set.policies.len()).unwrap_or(u16::MAX);
        let syscalls = source.policy.syscalls.as_ref();
        set.policies.push(SysPolicy {
            id: source.policy.id.clone(),
            mode: source.policy.mode,
            fallback: syscalls.map(|syscalls| syscalls.fallback).unwrap_or_default(),
        });
        let asked = syscalls.into_iter().flat_map(|syscalls| &syscalls.rules);
        for ((index, rule), planned) in (0..=u16::MAX).zip(asked).zip(&source.rules) {
            let number = u16::try_from(set.rules.len()).ok().filter(|n| usize::from(*n) < SysSet::MAX_RULES);
            let Some(number) = number else {
                return Err(CompileError::TooManyRules {
                    policy: source.policy.id.clone(),
                    workload: format!("{}/{}", workload.namespace, workload.name),
                    limit: SysSet::MAX_RULES,
                    kind: "system call",
                });
            };
            set.rules.push(SysRule {
                rule: RuleRef { policy: source.policy.id.clone(), path: RulePath::Syscall(index) },
                policy,
                action: rule.action,
                not_applicable: planned.not_applicable.clone(),
            });
            for (call, conditions) in &planned.calls {
                let clause = Clause {
                    policy,
                    rule: number,
                    action: rule.action,
                    mode: source.policy.mode,
                    conditions: conditions.clone(),
                };
                add(&mut set.calls, *call, clause);
            }
        }
    }
    Ok(set)
}

/// Adds a clause, unless an earlier one of the same policy always decides before it.
fn add(calls: &mut BTreeMap<(Abi, u32), Vec<Clause>>, call: (Abi, u32), clause: Clause) {
    let clauses = calls.entry(call).or_default();
    let mut own = clauses.iter().rev().take_while(|earlier| earlier.policy == clause.policy);
    let reached = own.all(|earlier| !earlier.conditions.is_empty() && *earlier != clause);
    if reached {
        clauses.push(clause);
    }
}
