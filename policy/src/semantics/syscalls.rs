//! System calls.

use super::*;
use crate::decide::Call;
use crate::model::{Action, ArgCondition, ArgOp, SyscallDefault, SyscallRule};
use Action::{Allow, Audit, Deny, Kill};

fn rule(names: &[&str], action: Action) -> SyscallRule {
    SyscallRule { names: names.iter().map(|name| (*name).to_owned()).collect(), args: Vec::new(), action }
}

impl SyscallRule {
    fn when(mut self, index: u8, op: ArgOp, value: u64) -> Self {
        self.args.push(ArgCondition { index, op, value });
        self
    }
}

fn rules(name: &str, rules: impl Into<Vec<SyscallRule>>) -> Policy {
    policy(name).with_syscalls(Syscalls { rules: rules.into(), ..Syscalls::default() })
}

fn action(ask: &Ask, name: &str, args: &[u64]) -> Action {
    ask.call(Abi::X86_64, name, args).action
}

#[test]
fn a_call_that_no_rule_names_is_allowed() {
    let ask = Ask::of([rules("shop/a", [rule(&["ptrace"], Deny)])]);
    assert_eq!(action(&ask, "getpid", &[]), Allow);
    let verdict = ask.call(Abi::X86_64, "ptrace", &[]);
    assert_eq!(
        (verdict.action, verdict.rule.unwrap().to_string().as_str()),
        (Deny, "shop/a syscalls.rules[0]")
    );
}

#[test]
fn the_first_rule_that_matches_decides() {
    let ask = Ask::of([rules(
        "shop/a",
        [
            rule(&["socket"], Allow).when(0, ArgOp::Equal, 1),
            rule(&["socket"], Audit).when(0, ArgOp::Equal, 2),
            rule(&["socket", "ptrace"], Deny),
            rule(&["socket", "ptrace"], Kill),
        ],
    )]);
    assert_eq!(action(&ask, "socket", &[1]), Allow);
    assert_eq!(action(&ask, "socket", &[2]), Audit);
    assert_eq!(action(&ask, "socket", &[3]), Deny);
    assert_eq!(action(&ask, "ptrace", &[1]), Deny);
}

#[test]
fn the_strictest_policy_wins_and_among_equals_the_first_by_name() {
    let ask = Ask::of([
        rules("shop/c", [rule(&["ptrace"], Deny)]),
        rules("shop/b", [rule(&["mount"], Allow), rule(&["ptrace"], Deny)]),
        rules("shop/a", [rule(&["ptrace"], Allow)]),
        rules("cluster/z", [rule(&["mount"], Kill), rule(&["ptrace"], Audit)]),
    ]);
    let verdict = ask.call(Abi::X86_64, "ptrace", &[]);
    assert_eq!(
        (verdict.action, verdict.rule.unwrap().to_string().as_str()),
        (Deny, "shop/b syscalls.rules[1]")
    );
    assert_eq!(action(&ask, "mount", &[]), Kill, "an Allow is no exemption from another policy");
}

#[test]
fn an_audit_policy_counts_what_it_would_have_refused_and_refuses_nothing() {
    let ask = Ask::of([
        rules("shop/a", [rule(&["mount"], Deny), rule(&["ptrace"], Audit)]),
        rules("shop/b", [rule(&["mount", "ptrace", "unshare"], Kill), rule(&["swapon"], Audit)]).audit(),
    ]);
    let seen = |name: &str| {
        let verdict = ask.call(Abi::X86_64, name, &[]);
        (verdict.action, verdict.audited.map(|(action, rule)| format!("{action} by {rule}")))
    };
    assert_eq!(seen("mount"), (Deny, None), "what is refused is no audit hit");
    assert_eq!(seen("ptrace"), (Audit, Some("Kill by shop/b syscalls.rules[0]".to_owned())));
    assert_eq!(seen("unshare"), (Allow, Some("Kill by shop/b syscalls.rules[0]".to_owned())));
    assert_eq!(seen("swapon"), (Allow, Some("Audit by shop/b syscalls.rules[1]".to_owned())));
    assert_eq!(seen("getpid"), (Allow, None));
}

#[test]
fn containers_limit_system_call_rules() {
    let limited =
        Policy { containers: Some(vec!["api".to_owned()]), ..rules("shop/a", [rule(&["ptrace"], Deny)]) };
    let mut ask = Ask::of([limited]);
    for (container, expected) in [(Some("api"), Deny), (Some("side"), Allow), (None, Allow)] {
        ask.workload.container = container.map(str::to_owned);
        assert_eq!(action(&ask, "ptrace", &[]), expected, "{container:?}");
    }
}

#[test]
fn a_group_is_all_its_calls() {
    let ask = Ask::of([rules("shop/a", [rule(&["@module", "@swap"], Deny)])]);
    for name in ["init_module", "finit_module", "delete_module", "swapon", "swapoff"] {
        assert_eq!(action(&ask, name, &[]), Deny, "{name}");
    }
    assert_eq!(action(&ask, "mount", &[]), Allow);
}

#[test]
fn an_argument_is_compared_at_the_width_of_the_calls_signature() {
    let ask = Ask::of([rules("shop/a", [rule(&["socket"], Deny).when(0, ArgOp::Equal, 17)])]);
    assert_eq!(action(&ask, "socket", &[17]), Deny);
    assert_eq!(action(&ask, "socket", &[0x1_0000_0011]), Deny);
    assert_eq!(action(&ask, "socket", &[16]), Allow);
    let ask = Ask::of([rules("shop/a", [rule(&["mmap"], Deny).when(1, ArgOp::Equal, 17)])]);
    assert_eq!(action(&ask, "mmap", &[0, 0x1_0000_0011]), Allow, "a size has 64 bits");
}

#[test]
fn a_signed_argument_is_compared_as_one() {
    let below = Ask::of([rules("shop/a", [rule(&["kill"], Deny).when(0, ArgOp::LessThan, 0)])]);
    assert_eq!(action(&below, "kill", &[u64::MAX]), Deny, "-1");
    assert_eq!(action(&below, "kill", &[0xffff_ffff]), Deny, "-1 in the lower half");
    assert_eq!(action(&below, "kill", &[1]), Allow);
    let minus_one = Ask::of([rules("shop/a", [rule(&["kill"], Deny).when(0, ArgOp::Equal, u64::MAX)])]);
    assert_eq!(action(&minus_one, "kill", &[0xffff_ffff]), Deny);
}

#[test]
fn every_operator_compares_as_it_says() {
    for (op, expected) in [
        (ArgOp::Equal, [false, true, false]),
        (ArgOp::NotEqual, [true, false, true]),
        (ArgOp::LessThan, [true, false, false]),
        (ArgOp::LessOrEqual, [true, true, false]),
        (ArgOp::GreaterThan, [false, false, true]),
        (ArgOp::GreaterOrEqual, [false, true, true]),
        (ArgOp::MaskedEqual { mask: 0b101 }, [false, true, false]),
    ] {
        let ask = Ask::of([rules("shop/a", [rule(&["socket"], Deny).when(0, op, 5)])]);
        let seen = [4, 5, 6].map(|value| action(&ask, "socket", &[value]) == Deny);
        assert_eq!(seen, expected, "{op:?}");
    }
    let masked = rule(&["socket"], Deny).when(1, ArgOp::MaskedEqual { mask: 0xf }, 3);
    let ask = Ask::of([rules("shop/a", [masked])]);
    assert_eq!(action(&ask, "socket", &[2, 0o2_000_000 | 3]), Deny, "SOCK_RAW with a flag");
    assert_eq!(action(&ask, "socket", &[2, 1]), Allow);
}

#[test]
fn all_conditions_of_a_rule_have_to_hold() {
    let both = rule(&["socket"], Deny).when(0, ArgOp::Equal, 2).when(1, ArgOp::Equal, 3);
    let ask = Ask::of([rules("shop/a", [both])]);
    assert_eq!(action(&ask, "socket", &[2, 3]), Deny);
    assert_eq!(action(&ask, "socket", &[2, 1]), Allow);
    assert_eq!(action(&ask, "socket", &[10, 3]), Allow);
}

#[test]
fn what_a_process_cannot_do_without_is_always_allowed() {
    let ask = Ask::of([rules("shop/a", [rule(&["@known", "exit_group"], Kill)])]);
    for name in ["exit", "exit_group", "rt_sigreturn", "restart_syscall"] {
        assert_eq!(action(&ask, name, &[]), Allow, "{name}");
    }
    assert_eq!(ask.call(Abi::I386, "sigreturn", &[]).action, Allow);
    assert_eq!(action(&ask, "getpid", &[]), Kill);
}

#[test]
fn a_rule_concerns_the_call_on_every_abi_that_has_it() {
    let ask = Ask::of([rules("shop/a", [rule(&["unlink", "unlinkat"], Deny)])]);
    for (abi, name) in [
        (Abi::X86_64, "unlink"),
        (Abi::X86_64, "unlinkat"),
        (Abi::I386, "unlink"),
        (Abi::Aarch64, "unlinkat"),
    ] {
        assert_eq!(ask.call(abi, name, &[]).action, Deny, "{abi:?} {name}");
    }
}

#[test]
fn a_multiplexed_call_is_no_way_round() {
    let ask = Ask::of([rules("shop/a", [rule(&["socket"], Deny).when(0, ArgOp::Equal, 17)])]);
    assert_eq!(
        ask.call(Abi::I386, "socketcall", &[1]).action,
        Deny,
        "its arguments are in memory: taken as met"
    );
    assert_eq!(ask.call(Abi::I386, "socketcall", &[2]).action, Allow, "bind");
    assert_eq!(ask.call(Abi::I386, "socket", &[16]).action, Allow);
    let exempt = Ask::of([rules(
        "shop/a",
        [rule(&["socket"], Allow).when(0, ArgOp::Equal, 1), rule(&["socket"], Deny)],
    )]);
    assert_eq!(
        exempt.call(Abi::I386, "socketcall", &[1]).action,
        Deny,
        "an exemption that cannot be checked is none"
    );
}

#[test]
fn names_that_the_node_does_not_have_are_told() {
    let ask = Ask::of([rules("shop/a", [rule(&["unlink", "unlinkat", "arch_prctl"], Deny)])]);
    let compiled = compile(&Input { abis: &[Abi::Aarch64], ..ask.input() }, None).unwrap();
    assert_eq!(compiled.sys_sets[0].rules[0].not_applicable, ["arch_prctl", "unlink"]);
    assert_eq!(compiled.sys_sets[0].calls.len(), 1);
}

/// A policy whose other calls get this answer.
fn list(name: &str, default: SyscallDefault, rules: impl Into<Vec<SyscallRule>>) -> Policy {
    policy(name).with_syscalls(Syscalls { rules: rules.into(), default, ..Syscalls::default() })
}

#[test]
fn an_allow_list_kills_what_no_rule_names_whatever_its_number() {
    let ask = Ask::of([list(
        "shop/a",
        SyscallDefault::Kill,
        [rule(&["read"], Allow), rule(&["socket"], Allow).when(0, ArgOp::Equal, 1), rule(&["mount"], Deny)],
    )]);
    assert_eq!(action(&ask, "read", &[]), Allow);
    assert_eq!(action(&ask, "socket", &[1]), Allow);
    assert_eq!(action(&ask, "mount", &[]), Deny);
    for (name, args) in [("socket", 2), ("getpid", 0)] {
        let verdict = ask.call(Abi::X86_64, name, &[args]);
        assert_eq!(
            (verdict.action, verdict.rule.unwrap().to_string().as_str()),
            (Kill, "shop/a syscalls.default")
        );
    }
    assert_eq!(ask.call(Abi::I386, "getpid", &[]).action, Kill);
    for number in [100_000, 0x4000_0000, u32::MAX] {
        let call = Call { abi: Abi::X86_64, number, args: [0; 6] };
        assert_eq!(decide_syscall(&ask.policies, &ask.world, &ask.workload, &call).action, Kill);
        assert_eq!(lookup_call(&compile(&ask.input(), None).unwrap(), 0, &call).action, Kill);
    }
}

#[test]
fn an_allow_list_leaves_what_a_process_cannot_do_without() {
    let ask = Ask::of([list("shop/a", SyscallDefault::Kill, [])]);
    for name in ["exit", "exit_group", "rt_sigreturn", "restart_syscall"] {
        assert_eq!(action(&ask, name, &[]), Allow, "{name}");
    }
    assert_eq!(ask.call(Abi::I386, "sigreturn", &[]).action, Allow);
}

#[test]
fn what_one_policy_allows_another_policys_allow_list_kills() {
    let ask = Ask::of([
        list("shop/a", SyscallDefault::Kill, [rule(&["read", "write"], Allow)]),
        list("shop/b", SyscallDefault::Kill, [rule(&["read"], Allow)]),
        list("shop/c", SyscallDefault::Audit, []),
    ]);
    assert_eq!(action(&ask, "read", &[]), Audit);
    let verdict = ask.call(Abi::X86_64, "write", &[]);
    assert_eq!(
        (verdict.action, verdict.rule.unwrap().to_string().as_str()),
        (Kill, "shop/b syscalls.default")
    );
}

#[test]
fn an_allow_list_of_an_audit_policy_only_counts() {
    let ask = Ask::of([list("shop/a", SyscallDefault::Kill, [rule(&["read"], Allow)]).audit()]);
    let verdict = ask.call(Abi::X86_64, "write", &[]);
    assert_eq!(verdict.action, Allow);
    assert_eq!(verdict.audited.unwrap().1.to_string(), "shop/a syscalls.default");
    assert_eq!(ask.call(Abi::X86_64, "read", &[]).audited, None);
}
