use std::sync::Arc;
use std::time::Duration;

use holdfast_policy::model::{NamespaceTarget, Target};
use holdfast_policy::selector::Selector;

use super::*;
use crate::facts::{EndpointPort, IdentityKey, Shape, Taint};

fn pod(namespace: &str, app: &str, node: &str, address: &str) -> PodFacts {
    let identity = IdentityKey {
        namespace: namespace.to_owned(),
        labels: [("app".to_owned(), app.to_owned())].into(),
        ..IdentityKey::default()
    };
    PodFacts {
        node: Some(Arc::from(node)),
        addresses: vec![address.parse().unwrap()],
        shape: Arc::new(Shape { identity: Arc::new(identity), containers: vec!["main".to_owned()] }),
        ..PodFacts::default()
    }
}

fn key(name: &str) -> ObjectKey {
    ObjectKey::namespaced("shop", name)
}

fn feed(index: &mut Index, update: Update) {
    index.apply(update, Instant::now(), SystemTime::now());
}

fn addresses(index: &Index) -> Vec<String> {
    let mut all: Vec<String> = index.pods().claimed().map(|address| address.to_string()).collect();
    all.sort();
    all
}

#[test]
fn a_listing_removes_what_it_does_not_name_but_only_once_it_is_complete() {
    let mut index = Index::new("holdfast-system");
    feed(&mut index, Update::Pod(Change::Begin));
    feed(&mut index, Update::Pod(Change::Set(key("a"), pod("shop", "a", "n1", "10.0.0.1"))));
    feed(&mut index, Update::Pod(Change::Set(key("b"), pod("shop", "b", "n1", "10.0.0.2"))));
    assert!(index.unsynced().any(|kind| kind == Kind::Pod));
    feed(&mut index, Update::Pod(Change::End));
    assert!(!index.unsynced().any(|kind| kind == Kind::Pod));
    assert_eq!(addresses(&index), ["10.0.0.1", "10.0.0.2"]);
    feed(&mut index, Update::Pod(Change::Begin));
    feed(&mut index, Update::Pod(Change::Begin));
    feed(&mut index, Update::Pod(Change::Set(key("b"), pod("shop", "b", "n1", "10.0.0.2"))));
    assert_eq!(addresses(&index), ["10.0.0.1", "10.0.0.2"], "half a listing removes nothing");
    feed(&mut index, Update::Pod(Change::End));
    assert_eq!(addresses(&index), ["10.0.0.2"]);
    assert!(index.dirty.addresses.contains(&"10.0.0.1".parse::<IpAddr>().unwrap()));
}

#[test]
fn a_change_that_changes_nothing_makes_nothing_stale() {
    let mut index = Index::new("holdfast-system");
    let node = NodeFacts { uid: "u".to_owned(), taints: vec![], ..NodeFacts::default() };
    let heartbeat = Heartbeat {
        uid: String::new(),
        renewed: k8s_openapi::jiff::Timestamp::now(),
        duration: 40,
        proven: None,
    };
    for round in 0..2 {
        feed(&mut index, Update::Pod(Change::Set(key("a"), pod("shop", "a", "n1", "10.0.0.1"))));
        feed(&mut index, Update::Node(Change::Set(ObjectKey::cluster("n1"), node.clone())));
        feed(&mut index, Update::Namespace(Change::Set(ObjectKey::cluster("shop"), Labels::new())));
        feed(&mut index, Update::Service(Change::Set(key("web"), ServiceFacts::default())));
        feed(&mut index, Update::Lease(Change::Set(ObjectKey::cluster("n1"), heartbeat.clone())));
        assert_eq!(index.is_dirty(), round == 0, "{:?}", index.dirty);
        index.take_dirty();
    }
}

#[test]
fn pods_are_counted_by_shape_and_node_as_they_come_change_and_go() {
    let mut index = Index::new("holdfast-system");
    let uses = |index: &Index| -> Vec<(String, String, u32)> {
        let mut uses: Vec<(String, String, u32)> = index
            .pods()
            .shapes_of("shop")
            .flat_map(|(shape, uses)| {
                let app = shape.identity.labels["app"].clone();
                uses.nodes.iter().map(move |(node, count)| (app.clone(), node.to_string(), *count))
            })
            .collect();
        uses.sort();
        uses
    };
    let row = |app: &str, node: &str, count| (app.to_owned(), node.to_owned(), count);
    for (name, app, node) in [("a", "web", "n1"), ("b", "web", "n1"), ("c", "web", "n2"), ("d", "db", "n1")] {
        feed(&mut index, Update::Pod(Change::Set(key(name), pod("shop", app, node, "10.0.0.1"))));
    }
    assert_eq!(uses(&index), [row("db", "n1", 1), row("web", "n1", 2), row("web", "n2", 1)]);
    feed(&mut index, Update::Pod(Change::Set(key("a"), pod("shop", "db", "n1", "10.0.0.1"))));
    let finished = PodFacts { finished: true, ..pod("shop", "web", "n2", "10.0.0.1") };
    feed(&mut index, Update::Pod(Change::Set(key("c"), finished)));
    assert_eq!(uses(&index), [row("db", "n1", 2), row("web", "n1", 1)]);
    assert_eq!(
        index.pods().claims("10.0.0.1".parse().unwrap()).count(),
        3,
        "the finished one claims nothing"
    );
    for name in ["a", "b", "c", "d"] {
        feed(&mut index, Update::Pod(Change::Gone(key(name))));
    }
    assert!(uses(&index).is_empty() && index.pods().is_empty() && index.pods().namespaces().next().is_none());
    assert!(!index.pods().any_on("n1"));
}

#[test]
fn a_heartbeat_counts_until_it_runs_out_by_the_operators_own_clock() {
    let mut index = Index::new("holdfast-system");
    let (now, wall) = (Instant::now(), SystemTime::now());
    let stamp = |ago: u64| k8s_openapi::jiff::Timestamp::try_from(wall - Duration::from_secs(ago)).unwrap();
    let beat = |ago: u64| Heartbeat { uid: String::new(), renewed: stamp(ago), duration: 40, proven: None };
    let lease = |name: &str, beat| Update::Lease(Change::Set(ObjectKey::cluster(name), beat));
    for node in ["n1", "n2", "n3"] {
        let facts = NodeFacts { uid: node.to_owned(), ..NodeFacts::default() };
        feed(&mut index, Update::Node(Change::Set(ObjectKey::cluster(node), facts)));
        let report = Report { node_uid: node.to_owned(), ..Report::default() };
        feed(&mut index, Update::WorkloadNode(Change::Set(ObjectKey::cluster(node), report)));
    }
    index.apply(lease("n1", beat(10)), now, wall);
    index.apply(lease("n2", beat(3600)), now, wall);
    assert!(index.report("n1").is_ok());
    assert_eq!(index.report("n2"), Err(NoReport::Stale), "what is seen first must not be old");
    assert_eq!(index.report("n3"), Err(NoReport::NoAgent));
    assert_eq!(index.tick(now), Some(now + Duration::from_secs(30)));
    index.tick(now + Duration::from_secs(30));
    assert_eq!(index.report("n1"), Err(NoReport::Stale));
    // The agent's clock is an hour behind, but it is alive: its Lease changes.
    index.apply(lease("n2", beat(3590)), now, wall);
    assert!(index.report("n2").is_ok());
    index.tick(now + Duration::from_secs(39));
    assert!(index.report("n2").is_ok());
    feed(&mut index, Update::Lease(Change::Gone(ObjectKey::cluster("n2"))));
    assert_eq!(index.report("n2"), Err(NoReport::NoAgent));
}

#[test]
fn a_report_counts_for_its_node_and_boot_only_and_makes_the_changed_policies_stale() {
    let mut index = Index::new("holdfast-system");
    let row = |generation| crate::facts::report::PolicyRow {
        generation,
        state: holdfast_crds::workload_node::PolicyState::Programmed,
        message: None,
        rules: vec![],
    };
    let report = |rows: &[(&str, i64)]| Report {
        policies: rows.iter().map(|(uid, generation)| ((*uid).to_owned(), row(*generation))).collect(),
        ..Report::default()
    };
    let set = |report| Update::WorkloadNode(Change::Set(ObjectKey::cluster("n1"), report));
    feed(&mut index, set(report(&[("a", 1), ("b", 1)])));
    index.take_dirty();
    feed(&mut index, set(report(&[("a", 1), ("b", 2), ("c", 1)])));
    assert_eq!(index.take_dirty().policies.uids, HashSet::from(["b".to_owned(), "c".to_owned()]));
    feed(&mut index, set(Report { boot_id: "other".to_owned(), ..report(&[("a", 1)]) }));
    assert_eq!(index.take_dirty().policies.uids.len(), 3, "another boot: nothing said before counts");
}

#[test]
fn an_object_that_does_not_parse_is_counted_and_keeps_what_its_status_said() {
    let mut index = Index::new("holdfast-system");
    let target = Target { namespaces: NamespaceTarget::One("shop".to_owned()), pods: Selector::default() };
    let status = holdfast_crds::policy_status::PolicyStatus { workloads: Some(7), ..Default::default() };
    let good = PolicyFacts {
        uid: "u".to_owned(),
        generation: 1,
        target: Ok(target),
        audit: false,
        containers: vec![],
        status: status.clone(),
    };
    let id = PolicyId::namespaced("shop", "p");
    let bad = |index: &Index| index.bad().find(|(kind, _)| *kind == Kind::WorkloadPolicy).unwrap().1;
    feed(&mut index, Update::WorkloadPolicy(Change::Set(key("p"), good.clone())));
    let malformed = Malformed { uid: "u".to_owned(), generation: 2, problem: "mode: Sideways".to_owned() };
    feed(&mut index, Update::WorkloadPolicy(Change::Bad(key("p"), malformed)));
    assert_eq!(bad(&index), 1);
    assert!(index.policies()[&id].is_malformed());
    assert_eq!(index.policies()[&id].status, status);
    feed(&mut index, Update::WorkloadPolicy(Change::Set(key("p"), good)));
    assert_eq!(bad(&index), 0);
    // The two kinds of policies share a map, and listings of the one leave the other alone.
    feed(&mut index, Update::ClusterWorkloadPolicy(Change::Begin));
    feed(&mut index, Update::ClusterWorkloadPolicy(Change::End));
    assert!(index.policies().contains_key(&id));
}

#[test]
fn a_node_makes_stale_what_depends_on_it() {
    let mut index = Index::new("holdfast-system");
    feed(&mut index, Update::Pod(Change::Set(key("a"), pod("shop", "a", "n1", "10.0.0.1"))));
    let set = |node: &NodeFacts| Update::Node(Change::Set(ObjectKey::cluster("n1"), node.clone()));
    let mut node = NodeFacts { uid: "u".to_owned(), ..NodeFacts::default() };
    feed(&mut index, set(&node));
    index.take_dirty();
    node.pod_cidrs = vec!["10.0.0.0/24".parse().unwrap()];
    feed(&mut index, set(&node));
    let dirty = index.take_dirty();
    assert!(dirty.addresses.contains(&"10.0.0.1".parse::<IpAddr>().unwrap()) && dirty.externals);
    node.boot_id = "two".to_owned();
    feed(&mut index, set(&node));
    assert!(index.take_dirty().policies.all);
    node.taints = vec![Taint { key: "a".to_owned(), value: String::new(), effect: "NoSchedule".to_owned() }];
    feed(&mut index, set(&node));
    let dirty = index.take_dirty();
    assert!(dirty.agents && !dirty.policies.all && dirty.addresses.is_empty());
}

#[test]
fn the_endpoints_of_the_api_server_are_known_by_their_service() {
    let mut index = Index::new("holdfast-system");
    let address: IpAddr = "192.0.2.10".parse().unwrap();
    let facts = EndpointFacts {
        service: "kubernetes".to_owned(),
        ready: vec![address],
        all: vec![address],
        ports: vec![EndpointPort {
            name: "https".to_owned(),
            protocol: holdfast_policy::model::Protocol::Tcp,
            port: 6443,
        }],
    };
    let slice = ObjectKey::namespaced("default", "kubernetes");
    feed(&mut index, Update::EndpointSlice(Change::Set(slice.clone(), facts.clone())));
    assert!(index.is_api_server(address) && index.dirty.addresses.contains(&address));
    feed(&mut index, Update::EndpointSlice(Change::Gone(slice)));
    assert!(!index.is_api_server(address));
    feed(&mut index, Update::EndpointSlice(Change::Set(ObjectKey::namespaced("shop", "kubernetes"), facts)));
    assert!(!index.is_api_server(address), "a Service of that name elsewhere is no API server");
}
