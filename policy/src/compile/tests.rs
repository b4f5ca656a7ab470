//! The compiled tables against the oracle, and what stays stable from one compilation to the next.

use std::cell::RefCell;
use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::lookup::{CallOutcome, PacketOutcome, lookup_call, lookup_packet};
use super::*;
use crate::arbitrary::{self, Scenario};
use crate::decide::{AllowedBy, Enforced, SyscallVerdict, Transport, Verdict, decide_packet, decide_syscall};

fn input(scenario: &Scenario) -> Input<'_> {
    Input {
        policies: &scenario.policies,
        world: &scenario.world,
        workloads: &scenario.workloads,
        abis: &Abi::ALL,
    }
}

fn outcome(verdict: Verdict) -> PacketOutcome {
    let refused = match verdict.enforced {
        Enforced::Allow(_) => None,
        Enforced::Deny { rule, reject, .. } => Some((rule, reject)),
    };
    PacketOutcome { refused, audited: verdict.audited }
}

fn call_outcome(verdict: SyscallVerdict) -> CallOutcome {
    CallOutcome { action: verdict.action, rule: verdict.rule, audited: verdict.audited }
}

/// How often each kind of verdict was met, so that a generator that stops meeting one is noticed.
type Met = RefCell<BTreeMap<&'static str, usize>>;

fn count(met: &Met, kind: &'static str) {
    *met.borrow_mut().entry(kind).or_default() += 1;
}

fn count_verdict(met: &Met, packet: &crate::decide::Packet, verdict: &Verdict) {
    count(met, "packets");
    match &verdict.enforced {
        Enforced::Allow(AllowedBy::Rule(_)) => count(met, "allowed by a rule"),
        Enforced::Allow(AllowedBy::NotIsolated) => count(met, "not isolated"),
        Enforced::Allow(AllowedBy::Loopback) => count(met, "loopback"),
        Enforced::Allow(AllowedBy::NodeFlow) => count(met, "node flow"),
        Enforced::Allow(AllowedBy::Backends(_)) => count(met, "every backend allowed"),
        Enforced::Deny { rule, reject, service } => {
            count(
                met,
                match rule.path {
                    crate::model::RulePath::Default(_) => "refused by default",
                    _ => "refused by a rule",
                },
            );
            count(met, if *reject { "rejected" } else { "dropped" });
            if service.is_some() {
                count(met, "service refused");
            }
        }
    }
    match packet.transport {
        Transport::Port(..) => {}
        Transport::Fragment(_) => count(met, "fragments"),
        Transport::Other => count(met, "other protocols"),
    }
    if packet.peer.is_ipv6() {
        count(met, "IPv6");
    }
    match verdict.audited.as_ref().map(|rule| rule.path) {
        Some(crate::model::RulePath::Default(_)) => count(met, "audited by default"),
        Some(_) => count(met, "audited by a rule"),
        None => {}
    }
}

#[test]
fn the_compiled_tables_answer_what_the_oracle_answers() {
    let met = Met::default();
    let mut runner = TestRunner::new(Config { cases: 2000, failure_persistence: None, ..Config::default() });
    let result = runner.run(&arbitrary::scenario(), |scenario| {
        let compiled = compile(&input(&scenario), None).map_err(|e| TestCaseError::fail(e.to_string()))?;
        for (place, workload) in scenario.workloads.iter().enumerate() {
            for packet in &scenario.packets {
                let expected = decide_packet(&scenario.policies, &scenario.world, workload, packet);
                count_verdict(&met, packet, &expected);
                let seen = lookup_packet(&compiled, &scenario.world, place, workload, packet);
                prop_assert_eq!(seen, outcome(expected), "{:?} of {:?}", packet, workload);
            }
            for call in &scenario.calls {
                let expected = decide_syscall(&scenario.policies, &scenario.world, workload, call);
                count(&met, "calls");
                count(&met, if expected.action.refuses() { "calls refused" } else { "calls let through" });
                if expected.audited.is_some() {
                    count(&met, "calls audited");
                }
                prop_assert_eq!(
                    lookup_call(&compiled, place, call),
                    call_outcome(expected),
                    "{:?} of {:?}",
                    call,
                    workload
                );
            }
        }
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
    let met = met.into_inner();
    eprintln!("{met:#?}");
    assert!(met["packets"] >= 100_000, "{met:?}");
    for kind in [
        "allowed by a rule",
        "not isolated",
        "loopback",
        "node flow",
        "every backend allowed",
        "refused by default",
        "refused by a rule",
        "rejected",
        "dropped",
        "service refused",
        "fragments",
        "other protocols",
        "IPv6",
        "audited by default",
        "audited by a rule",
        "calls refused",
        "calls audited",
    ] {
        assert!(met.get(kind).is_some_and(|count| *count >= 300), "{kind} is met too seldom: {met:?}");
    }
}
