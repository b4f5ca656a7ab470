use holdfast_crds::AddressSlice;
use holdfast_policy::model::Entities;
use serde_json::{Value, json};

use super::*;

fn guarded<K: DeserializeOwned>(value: Value) -> Guarded<K> {
    serde_json::from_value(value).unwrap()
}

fn policy(name: &str) -> Guarded<WorkloadPolicy> {
    guarded(json!({
        "apiVersion": "holdfast.dev/v1alpha1", "kind": "WorkloadPolicy",
        "metadata": {"namespace": "shop", "name": name, "uid": name, "resourceVersion": "1", "generation": 1},
        "spec": {"selector": {}, "network": {"ingress": {}}},
    }))
}

fn pod(name: &str, phase: &str) -> Guarded<Pod> {
    guarded(json!({
        "metadata": {"namespace": "shop", "name": name, "uid": name, "resourceVersion": phase},
        "spec": {"containers": [{"name": "c", "image": "i"}]}, "status": {"phase": phase},
    }))
}

fn slice() -> Guarded<AddressSlice> {
    guarded(json!({
        "apiVersion": "holdfast.dev/v1alpha1", "kind": "AddressSlice", "metadata": {"name": "s1", "uid": "s1"},
        "namespaces": [{"name": "shop", "labels": {"from": "slice"}}, {"name": "bank", "labels": {"from": "slice"}}],
        "identities": [{"id": 300, "namespace": "shop", "serviceAccount": "web", "labels": {"app": "web"}}],
        "addresses": [{"address": "10.0.0.5", "identity": 300, "entities": ["Cluster"]}],
    }))
}

fn namespace(name: &str) -> Guarded<PartialObjectMeta<Namespace>> {
    guarded(json!({"metadata": {"name": name, "uid": name, "labels": {"from": "namespace"}}}))
}

fn source(state: Option<&StateDir>) -> Source {
    let mut source = Source::new("holdfast-system".to_owned(), state, &watch::Sender::new(Problems::new()));
    source.host = BTreeSet::from(["192.0.2.1".parse().unwrap()]);
    source
}

/// Lists everything, with what is given.
fn fill(source: &mut Source) {
    source.take(Input::Policy(Change::Begin));
    source.take(Input::Policy(Change::Listed(policy("p"))));
    source.take(Input::Policy(Change::Done));
    source.take(Input::ClusterPolicy(Change::Begin));
    source.take(Input::ClusterPolicy(Change::Done));
    source.take(Input::Slice(Change::Begin));
    source.take(Input::Slice(Change::Listed(slice())));
    source.take(Input::Slice(Change::Done));
    source.take(Input::Pod(Change::Begin));
    source.take(Input::Pod(Change::Listed(pod("web-1", "Running"))));
    source.take(Input::Pod(Change::Listed(pod("done-1", "Succeeded"))));
    source.take(Input::Pod(Change::Done));
    source.take(Input::Namespace(Change::Begin));
    source.take(Input::Namespace(Change::Listed(namespace("shop"))));
}

#[tokio::test]
async fn nothing_is_told_until_every_kind_was_listed() {
    let mut source = source(None);
    fill(&mut source);
    source.assemble();
    assert!(source.facts.policies.is_empty() && source.facts.pods.is_empty() && !source.facts.complete);
    source.take(Input::Namespace(Change::Done));
    source.assemble();
    let facts = &source.facts;
    assert!(facts.complete);
    assert_eq!((facts.policies.len(), facts.pods.len()), (1, 1));
    assert_eq!(facts.pods[0].name, "web-1");
}

#[tokio::test]
async fn the_world_is_what_slices_namespaces_and_the_node_say() {
    let mut source = source(None);
    fill(&mut source);
    source.take(Input::Namespace(Change::Done));
    source.assemble();
    let world = &source.facts.world;
    assert_eq!(world.own_namespace.as_deref(), Some("holdfast-system"));
    assert_eq!(world.namespaces["shop"]["from"], "namespace", "the namespace itself is newer");
    assert_eq!(world.namespaces["bank"]["from"], "slice");
    let pod = world.facts("10.0.0.5".parse().unwrap());
    assert_eq!((pod.identity, pod.entities), (Some(300), Entities::CLUSTER));
    assert_eq!(world.facts("192.0.2.1".parse().unwrap()).entities, Entities::HOST | Entities::CLUSTER);
}

#[tokio::test]
async fn a_change_renews_its_own_part_only() {
    let mut source = source(None);
    fill(&mut source);
    source.take(Input::Namespace(Change::Done));
    source.assemble();
    let before = source.facts.clone();
    source.take(Input::Policy(Change::Applied(policy("q"))));
    source.assemble();
    assert_eq!(source.facts.policies.len(), 2);
    assert!(Arc::ptr_eq(&before.world, &source.facts.world) && Arc::ptr_eq(&before.pods, &source.facts.pods));
    let mut shown = before.clone();
    assert!(source.show(&mut shown));
    assert!(!source.show(&mut shown), "nothing new");
    source.take(Input::Pod(Change::Applied(pod("web-1", "Failed"))));
    source.assemble();
    assert!(source.facts.pods.is_empty(), "a finished pod is no workload");
}

#[tokio::test]
async fn a_failing_watch_is_an_error_and_changes_nothing_else() {
    let mut source = source(None);
    fill(&mut source);
    source.take(Input::Namespace(Change::Done));
    source.assemble();
    let before = source.facts.clone();
    source.take(Input::Slice(Change::Failed { problem: "cannot be watched: no".to_owned(), gone: true }));
    source.assemble();
    assert!(Arc::ptr_eq(&before.world, &source.facts.world));
    assert_eq!(source.facts.errors[0].place, "AddressSlice");
    assert!(source.facts.complete);
}

#[tokio::test]
async fn what_was_known_is_in_force_at_the_next_start_before_the_server_answers() {
    let folder = tempfile::tempdir().unwrap();
    let state = StateDir::open(folder.path()).unwrap();
    let mut first = source(Some(&state));
    fill(&mut first);
    first.take(Input::Namespace(Change::Done));
    first.assemble();
    first.save();
    let known = first.facts.clone();
    first.finish().await;

    let mut second = source(Some(&state));
    second.assemble();
    assert!(!second.facts.complete);
    assert_eq!(second.facts.policies, known.policies);
    assert_eq!(second.facts.world, known.world);
    assert_eq!(second.facts.pods, known.pods);
    assert_eq!(*second.facts.errors, []);
}

#[tokio::test]
async fn a_list_that_is_not_complete_is_not_saved() {
    let folder = tempfile::tempdir().unwrap();
    let state = StateDir::open(folder.path()).unwrap();
    let mut first = source(Some(&state));
    first.take(Input::Policy(Change::Begin));
    first.take(Input::Policy(Change::Listed(policy("p"))));
    first.save();
    first.finish().await;
    assert!(state.read("workloadpolicies").unwrap().is_none());
}
