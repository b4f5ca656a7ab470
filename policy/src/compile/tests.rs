//! The compiled tables against the oracle, and what stays stable from one compilation to the next.

mod access;
mod limits;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::lookup::{CallOutcome, PacketOutcome, lookup_call, lookup_packet};
use super::*;
use crate::arbitrary::{self, Scenario};
use crate::decide::{AllowedBy, Enforced, Judgement, Transport, Verdict, decide_packet, decide_syscall};

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

fn call_outcome(verdict: Judgement) -> CallOutcome {
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
        Enforced::Allow(AllowedBy::Failsafe) => count(met, "failsafe"),
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
        "failsafe",
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
        assert!(met.get(kind).is_some_and(|count| *count >= 100), "{kind} is met too seldom: {met:?}");
    }
}

/// What every result has to be, whatever went in.
fn assert_sound(scenario: &Scenario, compiled: &Compiled) {
    let known: BTreeSet<ClassId> = compiled
        .identity_class
        .values()
        .chain(compiled.cidr_class.values())
        .chain(compiled.services.values())
        .copied()
        .chain([ClassId::ANY, ClassId::NODE_FLOW])
        .collect();
    for set in &compiled.net_sets {
        assert!(set.verdicts.is_sorted_by(|a, b| a.0 < b.0), "sorted, each key once");
        assert!(set.rules.is_sorted_by(|a, b| a < b), "sorted, each rule once");
        for (key, cell) in &set.verdicts {
            assert!(known.contains(&key.class) && key.class != ClassId::NONE, "nobody is in {key:?}");
            let in_row = cell.deny.map(|refusal| refusal.rule).into_iter().chain(cell.audit_deny);
            in_row.for_each(|rule| assert!(usize::from(rule) < set.rules.len()));
            if let Scope::Ports { prefix, .. } = key.scope {
                assert!(prefix.len <= 16 && prefix.contains(prefix.port));
                let bits = u32::from(prefix.port) << prefix.len & 0xffff;
                assert_eq!(bits, 0, "{prefix:?} has bits beyond its length");
            }
        }
    }
    let mut keys: Vec<&NetSetKey> = compiled.net_sets.iter().map(|set| &set.key).collect();
    keys.dedup();
    assert_eq!(keys.len(), compiled.net_sets.len(), "each set once");
    assert_eq!(compiled.services.len(), scenario.world.services.len());
    assert_eq!(compiled.assignments.len(), scenario.workloads.len());
    for (assignment, workload) in compiled.assignments.iter().zip(&scenario.workloads) {
        let expected = crate::model::selecting(&scenario.policies, &scenario.world, workload);
        let seen: Vec<&Policy> = assignment.policies.iter().map(|index| &scenario.policies[*index]).collect();
        assert_eq!(seen, expected);
    }
}

/// The result without what may differ between a fresh compilation and a continued one: the classes' numbers.
type Numberless = (BTreeSet<String>, Vec<Option<(NetSetKey, usize)>>);

fn numberless(compiled: &Compiled) -> Numberless {
    let mut members: BTreeMap<ClassId, Vec<String>> = BTreeMap::new();
    for (pair, class) in &compiled.identity_class {
        members.entry(*class).or_default().push(format!("{pair:?}"));
    }
    for (net, class) in &compiled.cidr_class {
        members.entry(*class).or_default().push(format!("{net}"));
    }
    for (address, class) in &compiled.services {
        members.entry(*class).or_default().push(format!("service {address}"));
    }
    let classes = members.into_values().map(|members| members.join(" ")).collect();
    let sets = (0..compiled.assignments.len())
        .map(|place| compiled.net_set(place).map(|set| (set.key.clone(), set.verdicts.len())))
        .collect();
    (classes, sets)
}

#[test]
fn a_continued_compilation_is_a_fresh_one_with_stable_numbers() {
    let met = Met::default();
    let strategy = (arbitrary::scenario(), arbitrary::some_of(7), arbitrary::some_of(8), any::<bool>());
    let mut runner = TestRunner::new(Config { cases: 600, failure_persistence: None, ..Config::default() });
    let result = runner.run(&strategy, |(scenario, addresses, policies, swap)| {
        // Another state of the same cluster: some addresses and some policies fewer.
        let mut other = scenario.clone();
        let mut place = 0;
        other.world.addresses.retain(|_, _| {
            place += 1;
            !addresses.contains(&(place - 1))
        });
        if policies.len() > 4 {
            let mut place = 0;
            other.policies.retain(|_| {
                place += 1;
                !policies.contains(&(place - 1))
            });
        }
        let (first, second) = if swap { (&other, &scenario) } else { (&scenario, &other) };

        let before = compile(&input(first), None).unwrap();
        let after = compile(&input(second), Some(&before)).unwrap();
        let again = compile(&input(first), Some(&after)).unwrap();
        for (of, result) in [(first, &before), (second, &after), (first, &again)] {
            assert_sound(of, result);
        }
        prop_assert_eq!(numberless(&before), numberless(&again));
        prop_assert_eq!(numberless(&after), numberless(&compile(&input(second), None).unwrap()));

        if before.universe == after.universe {
            count(&met, "same universe");
            for (pair, class) in &after.identity_class {
                // A class that was there keeps its number; a new one has a number that nobody had.
                let was = before.identity_class.get(pair);
                let old = before.identity_class.values().any(|known| known == class);
                prop_assert!(was.is_none_or(|was| was == class), "{:?} moved", pair);
                prop_assert!(old || !numbers(&before).contains(class), "a number is used twice");
            }
            prop_assert!(Arc::ptr_eq(&before.universe, &after.universe));
            for set in &after.net_sets {
                if let Some(old) = before.net_sets.iter().find(|old| old.key == set.key) {
                    count(&met, "same set");
                    prop_assert_eq!(
                        Arc::ptr_eq(old, set),
                        old == set,
                        "an unchanged set is the very same one"
                    );
                }
            }
        } else {
            count(&met, "another universe");
        }
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
    let met = met.into_inner();
    eprintln!("{met:#?}");
    for kind in ["same universe", "same set", "another universe"] {
        assert!(met.get(kind).is_some_and(|count| *count >= 50), "{kind} is met too seldom: {met:?}");
    }
}

fn numbers(compiled: &Compiled) -> BTreeSet<ClassId> {
    compiled
        .identity_class
        .values()
        .chain(compiled.cidr_class.values())
        .chain(compiled.services.values())
        .copied()
        .collect()
}
