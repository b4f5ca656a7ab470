//! Executables, files and capabilities: the compiled automata and rows against the oracle.

use proptest::collection::vec;

use super::*;
use crate::arbitrary::access;
use crate::compile::lookup::{lookup_capability, lookup_executable, lookup_file, lookup_move};
use crate::decide::{FileAccess, Judgement, decide_capability, decide_executable, decide_file};
use crate::model::Operation;

/// Policies with access rules only, for workloads that most of them select.
fn scenarios() -> impl Strategy<Value = Scenario> {
    let halves = vec(access::halves(), 8);
    (arbitrary::scenario(), halves).prop_map(|(mut scenario, halves)| {
        for (policy, (processes, files, capabilities)) in scenario.policies.iter_mut().zip(halves) {
            policy.network = None;
            policy.syscalls = None;
            (policy.processes, policy.files, policy.capabilities) = (processes, files, capabilities);
        }
        scenario
    })
}

#[test]
fn access_sets_answer_what_the_oracle_answers() {
    let met = Met::default();
    let questions =
        (vec(access::executable(), 20), vec(access::file_access(), 40), vec(access::capability(), 4));
    let mut runner = TestRunner::new(Config { cases: 500, failure_persistence: None, ..Config::default() });
    let result = runner.run(&(scenarios(), questions), |(scenario, (executables, files, capabilities))| {
        let (policies, world) = (&scenario.policies, &scenario.world);
        let compiled = compile(&input(&scenario), None).map_err(|e| TestCaseError::fail(e.to_string()))?;
        let check = |seen: CallOutcome, expected: Judgement, what: &'static str| {
            count(&met, what);
            if expected.action.refuses() {
                count(&met, "refused");
            }
            if expected.audited.is_some() {
                count(&met, "audited");
            }
            seen == call_outcome(expected)
        };
        for (place, workload) in scenario.workloads.iter().enumerate() {
            for executable in &executables {
                let expected = decide_executable(policies, world, workload, executable);
                let seen = lookup_executable(&compiled, place, executable);
                prop_assert!(check(seen, expected, "executables"), "{:?} of {:?}", executable, workload);
            }
            for access in &files {
                let expected = decide_file(policies, world, workload, access);
                let seen = lookup_file(&compiled, place, access);
                prop_assert!(check(seen, expected, "files"), "{:?} of {:?}", access, workload);
            }
            for capability in &capabilities {
                let expected = decide_capability(policies, world, workload, *capability);
                let seen = lookup_capability(&compiled, place, *capability);
                prop_assert!(check(seen, expected, "capabilities"), "{:?} of {:?}", capability, workload);
            }
        }
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
    let met = met.into_inner();
    for kind in ["executables", "files", "capabilities", "refused", "audited"] {
        assert!(met.get(kind).is_some_and(|count| *count >= 1000), "{kind} is met too seldom: {met:?}");
    }
}

#[test]
fn a_name_that_protects_more_than_the_new_one_is_not_given_up() {
    let met = Met::default();
    let paths = (access::path(), access::path(), vec(access::path(), 10), vec(access::executable(), 3));
    let mut runner = TestRunner::new(Config { cases: 2000, failure_persistence: None, ..Config::default() });
    let result = runner.run(&(scenarios(), paths), |(scenario, (from, to, below, executables))| {
        let (policies, world) = (&scenario.policies, &scenario.world);
        let compiled = compile(&input(&scenario), None).map_err(|e| TestCaseError::fail(e.to_string()))?;
        for (place, workload) in scenario.workloads.iter().enumerate() {
            for executable in executables.iter().map(|executable| executable.path.clone()) {
                let action = |path: &[u8], operation| {
                    let (path, executable) = (path.to_vec(), executable.clone());
                    let access = FileAccess { path, operation, executable };
                    decide_file(policies, world, workload, &access).action
                };
                // A file: its own answers count. A directory: those of what is below it.
                let lost = |below: &[u8]| {
                    Operation::ALL.into_iter().any(|operation| {
                        let (old, new) = ([&from[..], below].concat(), [&to[..], below].concat());
                        action(&old, operation).refuses() && action(&new, operation) < action(&old, operation)
                    })
                };
                let file = lookup_move(&compiled, place, &from, &to, false, executable.as_deref());
                if lost(b"") {
                    count(&met, "files kept");
                    prop_assert!(file.action.refuses());
                }
                let directory = lookup_move(&compiled, place, &from, &to, true, executable.as_deref());
                if below.iter().any(|below| lost(below)) {
                    count(&met, "directories kept");
                    prop_assert!(directory.action.refuses());
                }
                for outcome in [file, directory] {
                    count(&met, if outcome.action.refuses() { "kept" } else { "let go" });
                }
            }
        }
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
    let met = met.into_inner();
    for kind in ["files kept", "directories kept", "kept", "let go"] {
        assert!(met.get(kind).is_some_and(|count| *count >= 10), "{kind} is met too seldom: {met:?}");
    }
}
