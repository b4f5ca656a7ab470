//! What rules against calls that `io_uring` can make do to rings.

use holdfast_policy::compile::SysPolicy;
use holdfast_policy::syscalls::hooks::Hook;

use super::*;

const NATIVE: u32 = 0;

fn clause(policy: u16, rule: u16, action: Action) -> Clause {
    Clause { policy, rule, action, mode: Mode::Enforce, conditions: Vec::new() }
}

fn number(name: &str) -> u32 {
    syscalls::number(HOST_ABI, name).unwrap()
}

fn lowered(calls: &[(&str, Vec<Clause>)]) -> Lowered {
    let policy =
        |name| SysPolicy { id: PolicyId::cluster(name), mode: Mode::Enforce, fallback: Fallback::None };
    let set = SysSet {
        policies: vec![policy("a"), policy("b")],
        calls: calls.iter().map(|(name, clauses)| ((HOST_ABI, number(name)), clauses.clone())).collect(),
        ..SysSet::default()
    };
    let hooks = Hook::ALL.iter().map(|hook| (*hook, Mechanism::Lsm)).collect();
    let mechanisms = Mechanisms { kernel: (6, 12), hooks, ..Mechanisms::default() };
    let mut out = Lowered::default();
    lower_set(&Arc::new(set), 7, &mechanisms, &mut out).unwrap();
    out
}

fn entry(out: &Lowered, name: &str) -> Option<abi::Syscall> {
    out.tables.syscalls.get(&abi::SyscallKey { set: 7, abi: NATIVE, nr: number(name) }).copied()
}

fn row(out: &Lowered, name: &str, index: u32) -> abi::Clause {
    out.tables.clauses[&abi::ClauseKey { set: 7, abi: NATIVE, nr: number(name), index }]
}

#[test]
fn a_ring_older_than_the_rules_is_refused_at_the_hooks_of_the_calls_it_makes() {
    let out = lowered(&[
        ("mkdirat", vec![clause(0, 0, Action::Deny)]),
        ("unlinkat", vec![clause(1, 1, Action::Kill)]),
        ("renameat", vec![clause(1, 2, Action::Audit)]),
        ("mount", vec![clause(1, 3, Action::Deny)]),
    ]);
    let enter = entry(&out, "io_uring_enter").unwrap();
    let bits = |hooks: &[Hook]| hooks.iter().fold(0, |all, hook| all | Mechanisms::bit(*hook));
    // Not of a call that is only watched, nor of one that no ring makes.
    assert_eq!(enter.hooks, bits(&[Hook::PathMkdir, Hook::PathUnlink, Hook::PathRmdir]));
    assert_eq!((enter.clauses, enter.flags), (2, 0));
    let rules: Vec<_> = (0..2).map(|index| row(&out, "io_uring_enter", index)).collect();
    assert_eq!(
        rules.iter().map(|row| (row.policy, row.rule, row.action)).collect::<Vec<_>>(),
        [(0, 0, 2), (1, 1, 2)]
    );
    assert_eq!(entry(&out, "io_uring_setup").unwrap().clauses, 2);
    assert_eq!(out.hooks & enter.hooks, enter.hooks);
}

#[test]
fn rings_are_left_alone_where_no_rule_refuses_what_they_can_do() {
    let out = lowered(&[
        ("mount", vec![clause(0, 0, Action::Deny)]),
        ("mkdirat", vec![clause(0, 1, Action::Audit)]),
    ]);
    assert_eq!(entry(&out, "io_uring_enter"), None);
    assert_eq!(entry(&out, "io_uring_setup"), None);
}

fn allow_list(calls: &[(&str, Vec<Clause>)], others: Vec<Clause>) -> (SysSet, Mechanisms, Lowered) {
    let policy =
        |name| SysPolicy { id: PolicyId::cluster(name), mode: Mode::Enforce, fallback: Fallback::None };
    let rule = |path| holdfast_policy::compile::SysRule {
        rule: holdfast_policy::model::RuleRef { policy: PolicyId::cluster("a"), path },
        policy: 0,
        action: Action::Kill,
        not_applicable: Vec::new(),
    };
    let set = SysSet {
        policies: vec![policy("a")],
        rules: vec![
            rule(holdfast_policy::model::RulePath::Syscall(0)),
            rule(holdfast_policy::model::RulePath::SyscallDefault),
        ],
        calls: calls.iter().map(|(name, clauses)| ((HOST_ABI, number(name)), clauses.clone())).collect(),
        others,
        ..SysSet::default()
    };
    let hooks = Hook::ALL.iter().map(|hook| (*hook, Mechanism::Lsm)).collect();
    let mechanisms = Mechanisms { kernel: (6, 12), hooks, ..Mechanisms::default() };
    let mut out = Lowered::default();
    lower_set(&Arc::new(set.clone()), 7, &mechanisms, &mut out).unwrap();
    (set, mechanisms, out)
}

#[test]
fn an_allow_list_has_a_row_for_what_it_allows_and_one_for_all_others() {
    let (set, mechanisms, out) = allow_list(
        &[("read", vec![clause(0, 0, Action::Allow)]), ("exit_group", Vec::new())],
        vec![clause(0, 1, Action::Kill)],
    );
    assert!(out.sys_enter);
    assert_eq!(entry(&out, "read").unwrap().flags, 0, "nothing is asked of it");
    assert_eq!(entry(&out, "exit_group").unwrap(), abi::Syscall { hooks: 0, clauses: 0, flags: 0 });
    assert_eq!(entry(&out, "getpid"), None);
    for abi in [0, 1] {
        let others = out.tables.syscalls[&abi::SyscallKey { set: 7, abi, nr: abi::NR_ANY }];
        assert_eq!((others.clauses, others.flags, others.hooks), (1, abi::SYSCALL_AT_ENTRY, 0));
        assert_eq!(out.tables.clauses[&abi::ClauseKey { set: 7, abi, nr: abi::NR_ANY, index: 0 }].action, 3);
    }
    let given = given(&set, &mechanisms);
    assert_eq!(given[1].given, Given::KillAfterEffect);
    assert_eq!(given[1].mechanism, Some(Mechanism::SysEnter));
    assert!(given[1].calls.is_empty(), "it names none");
}

#[test]
fn an_allow_list_refuses_rings_unless_it_names_every_call_that_they_make() {
    let setup = vec![clause(0, 0, Action::Allow), clause(0, 1, Action::Kill)];
    let (_, _, out) = allow_list(&[("io_uring_setup", setup)], vec![clause(0, 1, Action::Kill)]);
    let index = entry(&out, "io_uring_setup").unwrap().clauses - 1;
    assert_eq!(row(&out, "io_uring_setup", index).action, 3);
}

#[test]
fn an_allow_list_is_not_covered_where_nothing_sees_the_entry_of_calls() {
    let (set, mechanisms, _) = allow_list(&[], vec![clause(0, 1, Action::Kill)]);
    let without = Mechanisms { no_sys_enter: Some("refused".to_owned()), ..mechanisms };
    let mut out = Lowered::default();
    lower_set(&Arc::new(set.clone()), 7, &without, &mut out).unwrap();
    assert!(!out.sys_enter && out.tables.syscalls.is_empty());
    assert_eq!(given(&set, &without)[1].given, Given::NotCovered);
}
