use std::time::SystemTime;

use holdfast_crds::address_slice::ServiceEntry;
use holdfast_crds::network::Entity::{Cluster, Host, KubeApiserver};
use holdfast_crds::policy_status::PolicyStatus;
use holdfast_crds::workload_node::{Asked, Given, PolicyState};
use holdfast_crds::{ClusterWorkloadPolicy, ExternalWorkload, WorkloadPolicy};
use serde_json::{Value, json};

use super::slices::Entry;
use super::*;
use crate::facts::report::{PolicyRow, Proof, Row};
use crate::facts::{
    EndpointFacts, ExternalFacts, Heartbeat, NodeFacts, PodFacts, PolicyFacts, Report, ServiceFacts,
};
use crate::index::{Change, Kind, Update};

mod enforced;
mod rig;

use rig::{Rig, pair, parse, programmed};

#[test]
fn nothing_is_planned_or_written_before_every_kind_was_listed() {
    let mut rig = Rig::new();
    let mut fresh = Planner::new(rig.planner.settings.clone());
    fresh.lead(Vec::new());
    fresh.index_mut().apply(Update::Namespace(Change::Begin), rig.now, SystemTime::now());
    assert!(!fresh.ready() && fresh.begin().is_none() && fresh.next_write(rig.now).is_none());
    assert!(fresh.index().unsynced().any(|kind| kind == Kind::Pod));
    rig.pod("shop", "a", "web", "n1", "10.0.0.1");
    rig.planner.step_down();
    assert!(rig.planner.begin().is_none() && rig.planner.next_write(rig.now).is_none());
}

#[test]
fn the_book_of_an_earlier_leader_is_not_written_before_it_was_held_against_the_cluster() {
    let mut rig = Rig::new();
    rig.planner.lead(Vec::new());
    assert!(rig.planner.next_write(rig.now).is_none());
    rig.pod("shop", "a", "web", "", "10.0.0.1");
    rig.pass();
    assert!(rig.planner.next_write(rig.now).is_some());
}

#[test]
fn an_address_belongs_to_a_node_before_a_pod_and_to_a_pod_only_without_contest() {
    let mut rig = Rig::new();
    rig.node("n1", "10.0.0.0/24", "192.0.2.1");
    rig.pod("shop", "a", "web", "n1", "10.0.0.1");
    rig.pod("shop", "thief", "web", "n1", "192.0.2.1");
    rig.pod("shop", "stray", "web", "n1", "10.1.0.1");
    rig.pod("shop", "unknown", "web", "n9", "10.1.0.2");
    rig.pass();
    assert_eq!(rig.entry("10.0.0.1").unwrap().entities, [Cluster]);
    let node = rig.entry("192.0.2.1").unwrap();
    assert_eq!((node.entities, node.node.as_deref(), node.identity), (vec![Host, Cluster], Some("n1"), None));
    assert!(rig.entry("10.1.0.1").is_none());
    assert!(
        rig.entry("10.1.0.2").is_some(),
        "the ranges of a node that is not known yet are not known either"
    );
    let counts: Vec<usize> = rig.planner.unpublished().map(|(_, count)| count).collect();
    assert_eq!(counts, [0, 1, 1, 0]);
    rig.pod("shop", "b", "db", "n1", "10.0.0.1");
    rig.pass();
    assert!(rig.entry("10.0.0.1").is_none());
    rig.gone("shop", "a");
    rig.pass();
    let (_, identity) = rig.entry("10.0.0.1").unwrap().identity.unwrap();
    assert_eq!(identity.labels["app"], "db");
    rig.feed(Update::Node(Change::Gone(ObjectKey::cluster("n1"))));
    rig.pass();
    assert!(rig.entry("192.0.2.1").unwrap().identity.is_some(), "now it is the pod's");
}

#[test]
fn api_servers_are_an_entity_of_their_own_wherever_they_run() {
    let mut rig = Rig::new();
    rig.node("n1", "10.0.0.0/24", "192.0.2.1");
    let slice = json!({"metadata": {"namespace": "default", "name": "kubernetes",
        "labels": {"kubernetes.io/service-name": "kubernetes"}}, "addressType": "IPv4",
        "endpoints": [{"addresses": ["192.0.2.1"]}, {"addresses": ["203.0.113.1"]}], "ports": []});
    let facts = EndpointFacts::new(&parse(slice)).unwrap();
    rig.feed(Update::EndpointSlice(Change::Set(ObjectKey::namespaced("default", "kubernetes"), facts)));
    rig.pass();
    assert_eq!(rig.entry("192.0.2.1").unwrap().entities, [Host, Cluster, KubeApiserver]);
    assert_eq!(rig.entry("203.0.113.1").unwrap().entities, [KubeApiserver]);
}

fn service(rig: &mut Rig, name: &str, backends: usize) {
    let key = ObjectKey::namespaced("shop", name);
    let spec = json!({"metadata": {"name": name}, "spec": {"clusterIP": "10.96.0.1",
        "clusterIPs": ["10.96.0.1", "fd00::1"], "ports": [{"name": "http", "port": 80}, {"name": "x", "port": 90}]}});
    rig.feed(Update::Service(Change::Set(key, ServiceFacts::new(&parse(spec)))));
    let endpoints: Vec<Value> =
        (0..backends).map(|n| json!({"addresses": [format!("10.0.{}.{}", n / 250, n % 250 + 1)]})).collect();
    let slice = json!({"metadata": {"namespace": "shop", "name": name, "labels": {"kubernetes.io/service-name": name}},
        "addressType": "IPv4", "endpoints": endpoints, "ports": [{"name": "http", "port": 8080}]});
    let facts = EndpointFacts::new(&parse(slice)).unwrap();
    rig.feed(Update::EndpointSlice(Change::Set(ObjectKey::namespaced("shop", name), facts)));
    rig.pass();
}

fn parts(rig: &Rig, address: &str) -> Vec<ServiceEntry> {
    let book = rig.planner.book().unwrap();
    let address = address.parse().unwrap();
    (0..)
        .map_while(|part| match book.entry(&Key::Service(address, part)) {
            Some(Entry::Service(entry)) => Some(entry.as_ref().clone()),
            _ => None,
        })
        .collect()
}

#[test]
fn a_large_service_is_published_in_parts_that_together_say_everything() {
    let mut rig = Rig::new();
    service(&mut rig, "web", 1000);
    let all = parts(&rig, "10.96.0.1");
    assert_eq!(all.len(), 3);
    assert!(all.iter().all(|part| part.parts == 3));
    let http: usize = all
        .iter()
        .flat_map(|part| &part.ports)
        .filter(|port| port.port == 80)
        .map(|port| port.backends.len())
        .sum();
    assert_eq!(http, 1000);
    assert!(all.iter().flat_map(|part| &part.ports).any(|port| port.port == 90 && port.backends.is_empty()));
    let six = parts(&rig, "fd00::1");
    assert!(
        six.len() == 1 && six[0].ports.iter().all(|port| port.backends.is_empty()),
        "no backend of that family"
    );
    service(&mut rig, "web", 2);
    assert_eq!(parts(&rig, "10.96.0.1").len(), 1, "the parts that are needed no longer are gone");
}

#[test]
fn the_address_of_a_service_passes_on_when_the_service_goes() {
    let mut rig = Rig::new();
    service(&mut rig, "a", 1);
    service(&mut rig, "b", 2);
    assert_eq!(parts(&rig, "10.96.0.1")[0].name, "a");
    rig.feed(Update::Service(Change::Gone(ObjectKey::namespaced("shop", "a"))));
    rig.pass();
    assert_eq!(parts(&rig, "10.96.0.1")[0].name, "b");
    rig.feed(Update::Service(Change::Gone(ObjectKey::namespaced("shop", "b"))));
    rig.pass();
    assert!(parts(&rig, "10.96.0.1").is_empty());
}

#[test]
fn an_external_workload_loses_its_addresses_to_a_pod() {
    let mut rig = Rig::new();
    let workload: ExternalWorkload =
        parse(json!({"apiVersion": "holdfast.dev/v1alpha1", "kind": "ExternalWorkload",
        "metadata": {"namespace": "bank", "name": "ledger", "uid": "u"},
        "spec": {"addresses": ["::ffff:198.51.100.1", "198.51.100.2"]}}));
    let key = ObjectKey::namespaced("bank", "ledger");
    rig.feed(Update::ExternalWorkload(Change::Set(key.clone(), ExternalFacts::new(&workload))));
    rig.pass();
    assert!(rig.entry("198.51.100.1").unwrap().entities.is_empty());
    let job = rig.planner.next_job(rig.now, Timestamp::now()).unwrap();
    assert_eq!(job.subject, Subject::External(key));
    rig.pod("shop", "a", "web", "", "198.51.100.2");
    rig.pass();
    assert!(rig.entry("198.51.100.1").is_none(), "it is refused as a whole");
    assert_eq!(rig.entry("198.51.100.2").unwrap().identity.unwrap().1.namespace, "shop");
    rig.gone("shop", "a");
    rig.pass();
    assert_eq!(rig.entry("198.51.100.2").unwrap().identity.unwrap().1.namespace, "bank");
}

#[test]
fn a_policy_is_counted_from_the_pods_that_it_selects() {
    let mut rig = Rig::new();
    rig.policy("p", &json!({"selector": {"matchLabels": {"app": "web"}}, "network": {"ingress": {}}}));
    assert_eq!(rig.condition("p", "Programmed"), pair("Unknown", "NoWorkloads"));
    for (n, node) in ["n1", "n2", "n3"].into_iter().enumerate() {
        rig.node(node, &format!("10.0.{n}.0/24"), &format!("192.0.2.{n}"));
        rig.pod("shop", &format!("web-{n}"), "web", node, &format!("10.0.{n}.1"));
        rig.pod("shop", &format!("more-{n}"), "web", node, &format!("10.0.{n}.2"));
        rig.pod("bank", &format!("web-{n}"), "web", node, &format!("10.0.{n}.3"));
        rig.pod("shop", &format!("db-{n}"), "db", node, &format!("10.0.{n}.4"));
    }
    let status = rig.status("p");
    assert_eq!((status.workloads, status.nodes.unwrap().selected), (Some(6), 3));
    assert_eq!(rig.condition("p", "Programmed"), pair("False", "NoAgent"));
    for node in ["n1", "n2", "n3"] {
        rig.agent(node, &[("p", programmed(vec![]))]);
    }
    assert_eq!(rig.condition("p", "Programmed"), pair("True", "Programmed"));
    assert_eq!(rig.condition("p", "Degraded"), pair("False", "AsAsked"));
    // Left out of a report, an old generation, invalid.
    rig.agent("n2", &[]);
    assert_eq!(rig.condition("p", "Programmed"), pair("False", "Pending"));
    rig.agent("n2", &[("p", PolicyRow { generation: 0, ..programmed(vec![]) })]);
    assert_eq!(rig.condition("p", "Programmed"), pair("False", "Pending"));
    rig.agent("n2", &[("p", PolicyRow { state: PolicyState::Invalid, ..programmed(vec![]) })]);
    assert_eq!(rig.condition("p", "Programmed"), pair("False", "Failed"));
    rig.agent("n2", &[("p", programmed(vec![]))]);
    // Time passes without a heartbeat.
    rig.now += Duration::from_secs(41);
    rig.planner.tick(rig.now);
    assert_eq!(rig.status("p").nodes.unwrap().programmed, 0);
}

#[test]
fn an_agent_that_is_too_old_for_a_policy_is_told_from_one_that_refuses_it() {
    let mut rig = Rig::new();
    rig.policy("p", &json!({"selector": {}, "network": {"ingress": {}}}));
    for (n, node) in ["n1", "n2"].into_iter().enumerate() {
        rig.node(node, &format!("10.0.{n}.0/24"), &format!("192.0.2.{n}"));
        rig.pod("shop", &format!("web-{n}"), "web", node, &format!("10.0.{n}.1"));
        rig.agent(node, &[("p", programmed(vec![]))]);
    }
    // Old, and able to do what is asked all the same.
    rig.agent_of("n2", "0.0.7", &[("p", programmed(vec![]))], &[]);
    assert_eq!(rig.condition("p", "Degraded"), pair("False", "AsAsked"));
    rig.agent_of("n2", "0.0.7", &[], &["p"]);
    assert_eq!(rig.condition("p", "Programmed"), pair("False", "AgentTooOld"));
    assert_eq!(rig.condition("p", "Degraded"), pair("True", "AgentTooOld"));
    let message = rig.status("p").conditions[1].message.clone();
    assert!(message.contains("n2: agent 0.0.7 is too old"), "{message}");
    // Old, and not there yet.
    rig.agent_of("n2", "0.0.7", &[], &[]);
    assert_eq!(rig.condition("p", "Programmed"), pair("False", "Pending"));
    rig.agent_of("n2", holdfast_crds::schema::RELEASE, &[], &["p"]);
    assert_eq!(rig.condition("p", "Programmed"), pair("False", "Failed"));
    rig.agent_of("n2", "99.0.0", &[], &["other"]);
    assert_eq!(rig.condition("p", "Programmed"), pair("False", "Pending"));
}

#[test]
fn what_the_agent_of_a_node_wrote_goes_some_time_after_the_node_and_the_agent() {
    let mut rig = Rig::new();
    let jobs = |rig: &mut Rig| {
        rig.pass();
        let mut found = Vec::new();
        while let Some(job) = rig.planner.next_job(rig.now, Timestamp::now()) {
            rig.planner.deleted(&job.subject);
            found.push((job.subject, job.content));
        }
        found
    };
    for node in ["n1", "n2"] {
        rig.node(node, "10.0.0.0/24", "192.0.2.1");
        rig.agent(node, &[]);
    }
    rig.feed(Update::Node(Change::Gone(ObjectKey::cluster("n1"))));
    rig.now += GONE_FOR;
    assert_eq!(jobs(&mut rig), [], "its agent is still there");
    rig.now += Duration::from_secs(11);
    rig.planner.tick(rig.now);
    assert_eq!(jobs(&mut rig), [], "it may be a matter of news that have not come yet");
    let later = rig.now + GONE_FOR;
    assert_eq!(rig.planner.tick(rig.now), Some(later));
    rig.now = later;
    let deletion = |subject: Subject, uid: &str| (subject, Content::Deletion(uid.to_owned()));
    assert_eq!(
        jobs(&mut rig),
        [
            deletion(Subject::WorkloadNode("n1".to_owned()), "report-n1"),
            deletion(Subject::Lease("n1".to_owned()), "lease-n1")
        ]
    );
    rig.feed(Update::WorkloadNode(Change::Gone(ObjectKey::cluster("n1"))));
    rig.feed(Update::Lease(Change::Gone(ObjectKey::cluster("n1"))));
    // One that comes back in time keeps them.
    rig.feed(Update::Node(Change::Gone(ObjectKey::cluster("n2"))));
    assert_eq!(jobs(&mut rig), []);
    rig.node("n2", "10.0.0.0/24", "192.0.2.1");
    rig.now += GONE_FOR;
    assert_eq!(jobs(&mut rig), []);
}

#[test]
fn the_weakest_rules_are_at_most_ten_and_the_weakest_first() {
    let mut rig = Rig::new();
    rig.policy(
        "p",
        &json!({"selector": {}, "syscalls": {"rules": [{"names": ["ptrace"], "action": "Deny"}]}}),
    );
    rig.node("n1", "10.0.0.0/24", "192.0.2.1");
    rig.pod("shop", "a", "web", "n1", "10.0.0.1");
    let row = |n: usize, asked, given| Row {
        rule: format!("syscalls.rules[{n}]"),
        asked,
        given,
        reason: "R".to_owned(),
    };
    let mut rows: Vec<Row> = (0..12).map(|n| row(n, Asked::Deny, Given::KillAfterEffect)).collect();
    rows.push(row(20, Asked::Deny, Given::NotCovered));
    rows.push(row(21, Asked::Deny, Given::DenyAndKill));
    rows.push(row(22, Asked::Deny, Given::NotApplicable));
    rig.agent("n1", &[("p", programmed(rows))]);
    let status = rig.status("p");
    assert_eq!(status.weakest.len(), 10);
    assert_eq!(status.weakest[0].given, Given::NotCovered);
    assert_eq!(rig.condition("p", "Degraded"), pair("True", "RulesWeaker"));
    assert_eq!(
        status.conditions.last().unwrap().message,
        "13 rules do less than asked on some node; weakest: syscalls.rules[20] on n1: asked Deny, given NotCovered (R)"
    );
    rig.agent("n1", &[("p", programmed(vec![row(22, Asked::Deny, Given::NotApplicable)]))]);
    assert_eq!(
        rig.condition("p", "Degraded"),
        pair("False", "AsAsked"),
        "what a node does not have cannot be called there"
    );
    assert_eq!(rig.status("p").weakest.len(), 1);
}

#[test]
fn a_policy_that_names_a_label_of_single_pods_is_not_accepted() {
    let mut rig = Rig::new();
    rig.policy(
        "p",
        &json!({"selector": {"matchLabels": {"pod-template-hash": "x"}}, "network": {"ingress": {}}}),
    );
    assert_eq!(rig.condition("p", "Accepted").0, "False");
    assert_eq!(rig.condition("p", "Programmed"), pair("False", "NotAccepted"));
    let message = rig.status("p").conditions[0].message.clone();
    assert!(message.contains("spec.selector") && message.contains("pod-template-hash"), "{message}");
}

#[test]
fn a_cluster_policy_leaves_protected_namespaces_alone() {
    let mut rig = Rig::new();
    rig.node("n1", "10.0.0.0/24", "192.0.2.1");
    for (n, namespace) in ["shop", "kube-system", "holdfast-system"].into_iter().enumerate() {
        rig.feed(Update::Namespace(Change::Set(
            ObjectKey::cluster(namespace),
            std::collections::BTreeMap::default(),
        )));
        rig.pod(namespace, "a", "web", "n1", &format!("10.0.0.{n}"));
    }
    let workloads = |selector: Value| {
        let policy: ClusterWorkloadPolicy = parse(json!({"apiVersion": "holdfast.dev/v1alpha1",
            "kind": "ClusterWorkloadPolicy", "metadata": {"name": "p", "uid": "p", "generation": 1},
            "spec": {"namespaceSelector": selector, "selector": {}, "network": {"ingress": {}}}}));
        let facts = PolicyFacts::of_cluster(&policy);
        policy::status(rig.planner.index(), &PolicyId::cluster("p"), &facts, Timestamp::now()).workloads
    };
    assert_eq!(workloads(json!({})), Some(1));
    assert_eq!(workloads(json!({"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}})), Some(1));
}

#[test]
fn a_status_that_flips_is_written_at_once_and_another_after_ten_seconds() {
    let mut rig = Rig::new();
    rig.node("n1", "10.0.0.0/24", "192.0.2.1");
    rig.policy("p", &json!({"selector": {}, "network": {"ingress": {}}}));
    rig.pass();
    let job = rig.planner.next_job(rig.now, Timestamp::now()).unwrap();
    rig.planner.status_written(job, rig.now);
    rig.pass();
    assert!(rig.planner.next_job(rig.now, Timestamp::now()).is_none());
    // Unknown -> False: a flip.
    rig.pod("shop", "a", "web", "n1", "10.0.0.1");
    rig.pass();
    let job = rig.planner.next_job(rig.now, Timestamp::now()).unwrap();
    rig.planner.status_written(job, rig.now);
    // One workload more: no flip.
    rig.pod("shop", "b", "web", "n1", "10.0.0.2");
    rig.pass();
    assert!(rig.planner.next_job(rig.now, Timestamp::now()).is_none());
    let later = rig.now + STATUS_INTERVAL;
    assert_eq!(rig.planner.tick(rig.now), Some(later));
    assert!(rig.planner.next_job(later, Timestamp::now()).is_some());
}

#[test]
fn a_policy_change_in_a_large_cluster_is_planned_quickly() {
    let mut rig = Rig::new();
    for node in 0..500 {
        rig.node(
            &format!("n{node}"),
            &format!("10.{}.{}.0/24", node / 250, node % 250),
            &format!("192.0.{}.{}", 2 + node / 250, node % 250),
        );
        for pod in 0..20 {
            let namespace = format!("ns{}", pod % 5);
            let address = format!("10.{}.{}.{}", node / 250, node % 250, pod + 1);
            rig.pod(
                &namespace,
                &format!("p{node}-{pod}"),
                &format!("app{pod}"),
                &format!("n{node}"),
                &address,
            );
        }
    }
    rig.pass();
    assert_eq!(rig.planner.book().unwrap().addresses(), 500 * 21);
    let began = Instant::now();
    rig.policy("p", &json!({"selector": {}, "network": {"ingress": {}}}));
    rig.pass();
    // The budget of a release build is 200 ms at ten times the size.
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
}
