use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use holdfast_policy::compile::{self, Compiled};
use holdfast_policy::model::{NetScope, Policy, Workload, World};

use super::*;
use crate::abi::event::{Bytes, Event as Raw, NO_HOOK, Task, task_flags};
use crate::events::book::Lesson;
use crate::lower::Meaning;
use crate::mechanisms::Mechanisms;
use crate::workloads::{Cgroup, Placement};

const POLICIES: &str = "
apiVersion: holdfast.dev/v1alpha1
kind: WorkloadPolicy
metadata: {name: api, namespace: shop, uid: p-1, generation: 4}
spec:
  selector: {}
  network: {egress: {allow: [{}], deny: [{to: [{ipBlock: {cidr: 192.0.2.0/24}}]}]}}
  syscalls: {rules: [{names: [ptrace], action: Kill}]}
---
apiVersion: holdfast.dev/v1alpha1
kind: WorkloadPolicy
metadata: {name: trial, namespace: shop, uid: p-2, generation: 7}
spec: {selector: {}, mode: Audit, syscalls: {rules: [{names: [mount], action: Deny}]}}
";

fn policies() -> Vec<Policy> {
    let parsed = holdfast_crds::document::parse("policies.yaml", POLICIES.as_bytes());
    assert!(parsed.errors.is_empty(), "{:?}", parsed.errors);
    let policies: Vec<Policy> = parsed
        .documents
        .iter()
        .filter_map(|document| match &document.object {
            holdfast_crds::document::Object::WorkloadPolicy(policy) => {
                holdfast_crds::convert::workload_policy(policy).ok()
            }
            _ => None,
        })
        .collect();
    assert_eq!(policies.len(), 2);
    policies
}

fn workload() -> Workload {
    Workload {
        namespace: "shop".to_owned(),
        name: "api-0".to_owned(),
        uid: "u-1".to_owned(),
        container: Some("api".to_owned()),
        labels: std::collections::BTreeMap::default(),
        service_account: None,
        owner: None,
        named_ports: std::collections::BTreeMap::default(),
        net: NetScope::Own,
    }
}

fn book() -> Book {
    let policies = policies();
    let workload = workload();
    let input = compile::Input {
        policies: &policies,
        world: &World::default(),
        workloads: std::slice::from_ref(&workload),
        abis: &[Abi::X86_64],
    };
    let compiled: Compiled = compile::compile(&input, None).expect("compiled");
    let meaning = Meaning {
        net_sets: [(3, Arc::clone(&compiled.net_sets[0]))].into(),
        sys_sets: [(4, Arc::clone(&compiled.sys_sets[0]))].into(),
        access_sets: std::collections::BTreeMap::new(),
        workloads: [(9, 0)].into(),
    };
    let placement = Placement { key: "k".to_owned(), workload, cgroups: vec![77], pod: true };
    let in_force: HashMap<_, _> = policies.into_iter().map(|policy| (policy.id.clone(), policy)).collect();
    let mut mechanisms = Mechanisms::default();
    mechanisms.hooks.insert(holdfast_policy::syscalls::hooks::Hook::SbMount, Mechanism::FmodRet);
    let mut book = Book::default();
    book.learn(
        Lesson {
            meaning: &meaning,
            placements: &[placement],
            policies: &in_force,
            mechanisms: &mechanisms,
            cgroups: &[Cgroup { id: 77, path: "/kubepods/pod1/c1".to_owned() }],
        },
        Instant::now(),
    );
    book
}

/// The number of a rule in the book's sets.
fn rule(kind: u8, path: &str) -> u16 {
    let number = |rule: &u16| {
        let set = if kind < 2 { 3 } else { 4 };
        let key = CounterKey { workload: 9, set, rule: *rule, kind, given: 0 };
        book().rule(&key).is_some_and(|rule| format!("{} {}", rule.policy_name, rule.path) == path)
    };
    (0..10).find(number).expect("a rule")
}

const CLOCK: Clock = Clock { boot_unix_ns: 1_000_000_000_000_000_000 };

fn packet() -> Record {
    let key = CounterKey {
        workload: 9,
        set: 3,
        rule: rule(1, "shop/api network.egress.deny[0]"),
        kind: 1,
        given: abi::given::DROP,
    };
    Record {
        event: Raw {
            time_ns: 5,
            key,
            flags: flags::PACKET | flags::FROM | flags::PORTS,
            cgroup: 77,
            from: "10.0.0.1".parse::<IpAddr>().expect("an address").into(),
            to: "192.0.2.9".parse::<IpAddr>().expect("an address").into(),
            from_port: 40_000,
            to_port: 443,
            proto: 6,
            program: program::EGRESS,
            hook: NO_HOOK,
            ..Raw::default()
        },
        task: None,
        object: None,
    }
}

#[test]
fn a_packet_says_whose_it_was_by_which_rule_it_was_dropped_and_where_it_was_to_go() {
    let record = packet();
    // As it comes out of the ring buffer.
    let record = Record::read(&record.to_bytes()).expect("a record");
    let event = event(&record, &book(), CLOCK, "n1", 6);
    let line = serde_json::to_value(&event).expect("JSON");
    assert_eq!(
        line,
        serde_json::json!({
            "schema": "holdfast.dev/event/v1", "time": "2001-09-09T01:46:40.000000005Z", "node": "n1", "kind": "Denied",
            "namespace": "shop", "workload": "Pod/api-0", "pod": {"name": "api-0", "uid": "u-1"}, "container": "api",
            "process": {"cgroup": "/kubepods/pod1/c1"},
            "policy": "shop/api", "generation": 4, "rule": "network.egress.deny[0]", "ruleKind": "network",
            "mechanism": "cgroup_skb", "asked": "Deny", "given": "Drop",
            "network": {
                "direction": "Egress", "protocol": "TCP", "source": "10.0.0.1:40000", "destination": "192.0.2.9:443"
            },
            "count": 7, "suppressed": 6,
        })
    );
}

#[test]
fn a_packet_without_ports_has_addresses_only_and_a_connect_no_source() {
    let mut record = packet();
    record.event.flags = flags::PACKET | flags::FROM;
    record.event.proto = 58;
    record.event.from = "fd00::1".parse::<IpAddr>().expect("an address").into();
    let network = event(&record, &book(), CLOCK, "n1", 0).network.expect("a packet");
    assert_eq!(network.protocol, "ICMPv6");
    assert_eq!(network.source.as_deref(), Some("fd00::1"));
    let mut record = packet();
    record.event.flags = flags::PACKET | flags::PORTS;
    record.event.program = program::CONNECT;
    record.event.to = "fd00::1".parse::<IpAddr>().expect("an address").into();
    let seen = event(&record, &book(), CLOCK, "n1", 0);
    assert_eq!(seen.mechanism.as_deref(), Some("cgroup_sock_addr"));
    let network = seen.network.expect("a packet");
    assert_eq!((network.source, network.destination.as_deref()), (None, Some("[fd00::1]:443")));
}

#[test]
fn a_call_says_its_name_and_arguments_and_who_made_it() {
    let key = CounterKey {
        workload: 9,
        set: 4,
        rule: rule(2, "shop/trial syscalls.rules[0]"),
        kind: 2,
        given: abi::given::AUDIT,
    };
    let hook = u8::try_from(holdfast_policy::syscalls::hooks::Hook::SbMount as u32).expect("small");
    let mut name = Bytes::default();
    name.0[..2].copy_from_slice(b"sh");
    let record = Record {
        event: Raw {
            key,
            flags: flags::CALL | flags::ARGUMENTS | flags::TASK,
            argument: [1, 0xffff_ffff_ffff_ffff, 0, 0, 0, 0],
            nr: syscalls::number(Abi::X86_64, "mount").expect("a call"),
            program: program::SYSCALL,
            hook,
            ..Raw::default()
        },
        task: Some(Box::new(Task { tgid: 7, pid: 7, name, flags: task_flags::ROOTED, ..Task::default() })),
        object: None,
    };
    let record = Record::read(&record.to_bytes()).expect("a record");
    let event = event(&record, &book(), CLOCK, "n1", 0);
    assert_eq!(
        (event.kind, event.given, event.asked),
        (EventKind::Audited, Some(Done::Audit), Some(holdfast_crds::event::Asked::Audit))
    );
    assert_eq!((event.generation, event.mechanism.as_deref()), (Some(7), Some("fmod_ret")));
    assert_eq!(event.rule_kind, Some(holdfast_crds::event::RuleKind::Syscall));
    let call = event.syscall.expect("a call");
    assert_eq!((call.name.as_deref(), call.abi.as_str()), (Some("mount"), "x86_64"));
    assert_eq!(call.arguments, ["0x1", "0xffffffffffffffff", "0x0", "0x0", "0x0", "0x0"]);
    let process = event.process.expect("a process");
    assert_eq!((process.pid, process.name.as_deref(), process.cgroup), (Some(7), Some("sh"), None));
}

#[test]
fn numbers_that_nobody_knows_are_still_an_event() {
    let mut record = packet();
    record.event.key = CounterKey { workload: u32::MAX, set: 0, rule: u16::MAX, kind: 0, given: 0 };
    record.event.cgroup = 1;
    let event = event(&record, &book(), CLOCK, "n1", 0);
    assert_eq!((event.namespace, event.policy, event.process), (None, None, None));
    assert_eq!((event.kind, event.given, event.count), (EventKind::Denied, Some(Done::Drop), 1));
    assert!(Record::read(&packet().to_bytes()[..50]).is_none());
}

#[test]
fn what_is_left_without_a_record_and_what_is_lost_have_lines_too() {
    let key = packet().event.key;
    let event = rest(&key, &book(), "t".to_owned(), "n1", 5);
    assert_eq!((event.count, event.suppressed, event.policy.as_deref()), (5, 5, Some("shop/api")));
    assert!(event.network.is_none() && event.process.is_none());
    let gap = gap("t".to_owned(), "n1", "denials", 3);
    assert_eq!((gap.kind, gap.count, gap.gap.expect("a gap").lost), (EventKind::Gap, 0, 3));
}

#[test]
fn what_it_was_done_to_is_told_with_its_path_whatever_bytes_that_has() {
    let mut record = packet();
    record.event.flags = flags::CALL | flags::TASK | flags::OBJECT;
    record.task = Some(Box::new(Task { tgid: 7, pid: 7, ..Task::default() }));
    let mut object = Object { does: 1 << 1 | 1 << 4, flags: object_flags::ROOTED, ..Object::default() };
    let path = b"/srv/a\xffb";
    object.path.0[..path.len()].copy_from_slice(path);
    object.path_size = u16::try_from(path.len()).expect("small");
    record.object = Some(Box::new(object));
    let read = Record::read(&record.to_bytes()).expect("a record");
    let told = event(&read, &book(), CLOCK, "n1", 0).file.expect("a file");
    assert_eq!((told.path.as_str(), told.truncated), (r"/srv/a\xffb", false));
    assert_eq!(told.operations, ["Write", "Rename"]);
    assert_eq!(told.origin, None, "nothing is guessed");
    object.origin = origin::TMPFS;
    object.does = 0;
    object.flags |= object_flags::PATH_CUT;
    record.object = Some(Box::new(object));
    let told = event(&record, &book(), CLOCK, "n1", 0).file.expect("a file");
    assert_eq!((told.operations, told.truncated), (vec!["Execute".to_owned()], true));
    assert_eq!(told.origin, Some(Origin::Tmpfs));
    assert_eq!(capability("capabilities.deny[NET_RAW]").as_deref(), Some("NET_RAW"));
    assert_eq!(capability("files.rules[0]"), None);
}
