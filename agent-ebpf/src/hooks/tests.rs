//! The list of hooks, the choice of mechanisms, and the clauses as the kernel evaluates them. The last needs root and a
//! cgroup v2 hierarchy, as the agent does; it uses the tracepoint at the entry of calls, which every kernel has.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use holdfast_policy::compile::{Clause, Condition, Width};
use holdfast_policy::model::{Action, ArgOp, Mode};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::*;
use crate::abi::sys::child::{Attempt, Call};
use crate::abi::{self, given};
use crate::{cgroups, lower};

#[test]
fn the_kernel_programs_number_the_hooks_as_the_policy_crate_does() {
    let header = include_str!("../../bpf/hooks.h");
    let listed: Vec<&str> = header
        .lines()
        .filter_map(|line| line.trim().strip_prefix("X(")?.split_once(')').map(|(name, _)| name))
        .collect();
    let known: Vec<&str> = Hook::ALL.iter().map(|hook| hook.lsm_name()).collect();
    assert_eq!(listed, known);
    assert!(Hook::ALL.len() <= 64, "hf_syscall.hooks has 64 bits");
    for (bit, hook) in Hook::ALL.iter().enumerate() {
        assert_eq!(Mechanisms::bit(*hook), 1 << bit);
    }
}

fn targets(lsm: &[Hook], functions: &[Hook]) -> Targets {
    let numbered = |hooks: &[Hook]| hooks.iter().copied().zip(1..).collect();
    Targets {
        lsm: numbered(lsm),
        functions: numbered(functions),
        sys_enter: Some(9),
        has_loop: true,
        cast: None,
        mount: None,
    }
}

fn no(why: &str) -> State {
    State::Unavailable(why.to_owned())
}

#[test]
fn an_lsm_program_is_preferred_and_fmod_ret_takes_the_hooks_that_lsm_lacks() {
    let targets = targets(&[Hook::SbMount], &[Hook::SbMount, Hook::Bpf]);
    let found = mechanisms(&targets, State::Available, State::Available, State::Available);
    assert_eq!(found.hooks.get(&Hook::SbMount), Some(&Mechanism::Lsm));
    assert_eq!(found.hooks.get(&Hook::Bpf), Some(&Mechanism::FmodRet));
    assert_eq!(found.hooks.get(&Hook::Capset), None);
    assert_eq!((found.no_hooks, found.no_sys_enter), (None, None));
}

#[test]
fn lsm_programs_that_are_never_called_are_not_used() {
    let targets = targets(&[Hook::SbMount], &[Hook::SbMount]);
    let found = mechanisms(&targets, no("never called"), State::Available, State::Available);
    assert_eq!(found.hooks.get(&Hook::SbMount), Some(&Mechanism::FmodRet));
    assert_eq!(found.states["lsm"], no("never called"));
}

#[test]
fn a_mechanism_whose_probe_failed_is_not_used_and_the_error_is_told() {
    let targets = targets(&[Hook::SbMount], &[Hook::SbMount]);
    let found = mechanisms(&targets, State::Error("out of memory".to_owned()), no("EPERM"), no("none"));
    assert!(found.hooks.is_empty());
    let why = found.no_hooks.unwrap();
    assert!(why.contains("out of memory") && why.contains("EPERM"), "{why}");
    assert_eq!(found.no_sys_enter.as_deref(), Some("none"));
    assert_eq!(found.states["lsm"], State::Error("out of memory".to_owned()));
}

fn this_machine() -> Places {
    let cgroup_root = cgroups::root(Path::new("/proc/self/mountinfo")).unwrap();
    Places { bpffs: "/sys/fs/bpf".into(), cgroup_root }
}

#[test]
fn probing_this_machine_finds_the_entry_of_calls_and_leaves_nothing_behind() {
    let machine = this_machine();
    loader::mount_bpffs(&machine.bpffs).unwrap();
    let name = format!("holdfast-test-{}", std::process::id());
    let places = Places { bpffs: machine.bpffs.join(&name), cgroup_root: machine.cgroup_root.join(&name) };
    fs::create_dir(&places.bpffs).unwrap();
    fs::create_dir(&places.cgroup_root).unwrap();
    let hooks = Hooks::probe(&places, &Btf::from_sys_fs().unwrap());
    // Either can be removed only when nothing is in it.
    fs::remove_dir(&places.bpffs).unwrap();
    fs::remove_dir(&places.cgroup_root).unwrap();
    let hooks = hooks.unwrap();
    let found = hooks.mechanisms();
    assert_eq!(found.states["sys_enter"], State::Available);
    assert!(!found.states.values().any(|state| matches!(state, State::Error(_))), "{:?}", found.states);
    assert_eq!(found.hooks.is_empty(), found.no_hooks.is_some());
}

/// The answer of one mode's policies: the strictest of what each policy's first matching clause says, the first rule
/// among equals.
fn strictest(clauses: &[Clause], mode: Mode, args: &[u64; 6]) -> (Action, u16) {
    let mut best = (Action::Allow, 0);
    for policy in 0..4 {
        let first = clauses.iter().find(|clause| {
            clause.policy == policy && clause.conditions.iter().all(|condition| condition.holds(args))
        });
        match first {
            Some(clause) if clause.mode == mode && clause.action > best.0 => {
                best = (clause.action, clause.rule);
            }
            _ => {}
        }
    }
    best
}

/// What is to be seen of a call: whether its process dies, and what is counted.
fn expected(clauses: &[Clause], args: &[u64; 6]) -> (bool, BTreeMap<(u16, u8), u64>) {
    let (action, rule) = strictest(clauses, Mode::Enforce, args);
    if action == Action::Kill {
        return (true, [((rule, given::KILL_AFTER_EFFECT), 1)].into());
    }
    let mut counts = BTreeMap::new();
    if action == Action::Audit {
        counts.insert((rule, given::AUDIT), 1);
    }
    let (would, rule) = strictest(clauses, Mode::Audit, args);
    if would > action {
        counts.insert((rule, given::AUDIT), 1);
    }
    (false, counts)
}

/// Numbers at the edges of every width, so that conditions hold often.
fn word() -> impl Strategy<Value = u64> {
    prop_oneof![
        prop::sample::select(vec![
            0,
            1,
            2,
            0x7fff,
            0x8000,
            0xffff,
            0x7fff_ffff,
            0x8000_0000,
            0xffff_ffff,
            0x1_0000_0011,
            0x11,
            0x7fff_ffff_ffff_ffff,
            0x8000_0000_0000_0000,
            u64::MAX,
        ]),
        any::<u64>(),
    ]
}

fn condition() -> impl Strategy<Value = Condition> {
    let width = prop::sample::select(vec![Width::Bits16, Width::Bits32, Width::Bits64]);
    let op = prop_oneof![
        Just(ArgOp::Equal),
        Just(ArgOp::NotEqual),
        Just(ArgOp::LessThan),
        Just(ArgOp::LessOrEqual),
        Just(ArgOp::GreaterThan),
        Just(ArgOp::GreaterOrEqual),
        prop::sample::select(vec![1, 0x10, 0xff, 0xffff_0000, u64::MAX])
            .prop_map(|mask| ArgOp::MaskedEqual { mask }),
    ];
    (0_u8..6, op, word(), width, any::<bool>()).prop_map(|(register, op, value, width, signed)| {
        let keep = match width {
            Width::Bits16 => 0xffff,
            Width::Bits32 => 0xffff_ffff,
            Width::Bits64 => u64::MAX,
        };
        let masked = if let ArgOp::MaskedEqual { mask } = op { value & mask } else { value };
        // Only orders are signed, as the compiler has it.
        let signed = signed && !matches!(op, ArgOp::Equal | ArgOp::NotEqual | ArgOp::MaskedEqual { .. });
        Condition { register, op, value: masked & keep, width, signed }
    })
}

fn clauses() -> impl Strategy<Value = Vec<Clause>> {
    let action = prop::sample::select(vec![Action::Allow, Action::Audit, Action::Deny, Action::Kill]);
    let clause = (0_u16..4, action, prop::collection::vec(condition(), 0..3));
    (prop::collection::vec(clause, 1..12), prop::array::uniform4(any::<bool>())).prop_map(
        |(mut list, audit)| {
            list.sort_by_key(|(policy, ..)| *policy);
            (0..)
                .zip(list)
                .map(|(rule, (policy, action, conditions))| {
                    let mode = if audit[usize::from(policy)] { Mode::Audit } else { Mode::Enforce };
                    Clause { policy, rule, action, mode, conditions }
                })
                .collect()
        },
    )
}

#[test]
fn the_kernel_answers_calls_as_the_clauses_mean() {
    let (places, btf) = (this_machine(), Btf::from_sys_fs().unwrap());
    let object = Object::read(objects::SYSCALL, &btf, None).unwrap();
    let trial = RefCell::new(Trial::prepare(&places, objects::SYSCALL, &object).unwrap());
    let target = Targets::of_this_kernel().unwrap().sys_enter.unwrap();
    let link = trial.borrow().attach("hf_sys_enter", ProgramKind::TracePoint, target).unwrap().unwrap();
    let (killed, counted, silent) = (Cell::new(0), Cell::new(0), Cell::new(0));
    TestRunner::new(Config { cases: 600, failure_persistence: None, ..Config::default() })
        .run(&(clauses(), prop::array::uniform6(word())), |(clauses, args)| {
            let rows: Vec<abi::Clause> =
                clauses.iter().flat_map(|clause| lower::syscalls::rows(clause, clause.action)).collect();
            let call = Call::Getppid(args);
            let rule = abi::Syscall {
                hooks: 0,
                clauses: u32::try_from(rows.len()).unwrap(),
                flags: abi::SYSCALL_AT_ENTRY,
            };
            let mut trial = trial.borrow_mut();
            trial.rule(call, rule, &rows).unwrap();
            let attempt = trial.attempt(call).unwrap();
            let (dies, counts) = expected(&clauses, &args);
            prop_assert_eq!(attempt == Attempt::Killed(libc::SIGKILL), dies);
            prop_assert_eq!(&trial.take_counts(), &counts);
            let kind = match (dies, counts.is_empty()) {
                (true, _) => &killed,
                (false, false) => &counted,
                (false, true) => &silent,
            };
            kind.set(kind.get() + 1);
            Ok(())
        })
        .unwrap();
    drop(link);
    let (killed, counted, silent) = (killed.get(), counted.get(), silent.get());
    assert!(
        killed > 60 && counted > 60 && silent > 60,
        "{killed} killed, {counted} counted, {silent} neither"
    );
}
