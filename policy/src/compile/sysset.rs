//! System call sets: the clauses of each distinct list of policies.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::error::CompileError;
use crate::model::syscall::operand;
use crate::model::{
    ALWAYS_ALLOWED, Action, ArgCondition, ArgOp, Policy, RulePath, RuleRef, SyscallRule, Workload,
};
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
    /// The calls of this node that are always allowed; empty where the policy has no default.
    always: Vec<(Abi, u32)>,
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
    let syscalls = policy.syscalls.as_ref()?;
    let default = syscalls.default.action();
    if syscalls.rules.is_empty() && default.is_none() {
        return None;
    }
    let rules = syscalls.rules.iter().map(|rule| plan_rule(rule, abis, entries)).collect();
    let numbers = |abi: &Abi| {
        let abi = *abi;
        ALWAYS_ALLOWED.into_iter().filter_map(move |name| Some((abi, syscalls::number(abi, name)?)))
    };
    let always = if default.is_some() { abis.iter().flat_map(numbers).collect() } else { Vec::new() };
    Some(Source { policy, key, rules, always })
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
        let Some(syscalls) = source.policy.syscalls.as_ref() else { continue };
        set.policies.push(SysPolicy {
            id: source.policy.id.clone(),
            mode: source.policy.mode,
            fallback: syscalls.fallback,
        });
        for ((index, rule), planned) in (0..=u16::MAX).zip(&syscalls.rules).zip(&source.rules) {
            let clause = add_rule(&mut set, source, workload, RulePath::Syscall(index), rule.action)?;
            if let Some(added) = set.rules.last_mut() {
                added.not_applicable.clone_from(&planned.not_applicable);
            }
            for (call, conditions) in &planned.calls {
                let clause = Clause { policy, conditions: conditions.clone(), ..clause.clone() };
                add(&mut set.calls, *call, clause);
            }
        }
        if let Some(action) = syscalls.default.action() {
            let clause = add_rule(&mut set, source, workload, RulePath::SyscallDefault, action)?;
            set.others.push(clause);
            for call in &source.always {
                set.calls.entry(*call).or_default();
            }
        }
    }
    let always: BTreeSet<(Abi, u32)> =
        sources.iter().flat_map(|source| source.always.iter().copied()).collect();
    for (_, clauses) in set.calls.iter_mut().filter(|(call, _)| !always.contains(call)) {
        for default in &set.others {
            let after = clauses.partition_point(|clause| clause.policy <= default.policy);
            let own = clauses[..after].iter().rev().take_while(|clause| clause.policy == default.policy);
            if own.clone().all(|earlier| !earlier.conditions.is_empty()) {
                clauses.insert(after, default.clone());
            }
        }
    }
    Ok(set)
}

/// Adds a rule of the last policy, and gives its clause without conditions.
fn add_rule(
    set: &mut SysSet,
    source: &Source<'_>,
    workload: &Workload,
    path: RulePath,
    action: Action,
) -> Result<Clause, CompileError> {
    let rule = u16::try_from(set.rules.len()).ok().filter(|rule| usize::from(*rule) < SysSet::MAX_RULES);
    let Some(rule) = rule else {
        return Err(CompileError::TooManyRules {
            policy: source.policy.id.clone(),
            workload: format!("{}/{}", workload.namespace, workload.name),
            limit: SysSet::MAX_RULES,
            kind: "system call",
        });
    };
    let policy = u16::try_from(set.policies.len().saturating_sub(1)).unwrap_or(u16::MAX);
    set.rules.push(SysRule {
        rule: RuleRef { policy: source.policy.id.clone(), path },
        policy,
        action,
        not_applicable: Vec::new(),
    });
    Ok(Clause { policy, rule, action, mode: source.policy.mode, conditions: Vec::new() })
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
