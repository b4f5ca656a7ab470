use holdfast_crds::WorkloadPolicy;
use serde_json::{Value, json};

use super::super::records::{NamespaceRecord, PolicyRecord};
use super::*;

type Policies = Store<PolicyRecord<WorkloadPolicy>>;

const OBJECTS: Effect = Effect { objects: true, rest: false };
const REST: Effect = Effect { objects: false, rest: true };
const BOTH: Effect = Effect { objects: true, rest: true };
const NOTHING: Effect = Effect { objects: false, rest: false };

fn json_of(name: &str, uid: &str, version: u32, mode: &str) -> Value {
    json!({
        "apiVersion": "holdfast.dev/v1alpha1", "kind": "WorkloadPolicy",
        "metadata": {
            "namespace": "shop", "name": name, "uid": uid, "resourceVersion": version.to_string(),
            "generation": version, "managedFields": [], "annotations": {"a": "b"},
        },
        "spec": {"selector": {}, "mode": mode, "network": {"ingress": {}}},
    })
}

fn policy(name: &str, version: u32) -> Guarded<WorkloadPolicy> {
    serde_json::from_value(json_of(name, "u", version, "Enforce")).unwrap()
}

fn bad(name: &str, uid: &str, version: u32) -> Guarded<WorkloadPolicy> {
    serde_json::from_value(json_of(name, uid, version, "Perhaps")).unwrap()
}

/// A store with these policies, listed.
fn listed(names: &[&str], now: Instant) -> Policies {
    let mut store = Policies::new();
    store.take(Change::Begin, now);
    for name in names {
        store.take(Change::Listed(policy(name, 1)), now);
    }
    store.take(Change::Done, now);
    store
}

fn good(store: &Policies) -> Vec<String> {
    store.good().map(|record| format!("{}@{}", record.policy.id.name, record.policy.generation)).collect()
}

fn failed(gone: bool) -> Change<WorkloadPolicy> {
    Change::Failed { problem: "no".to_owned(), gone }
}

#[test]
fn objects_come_and_change_and_go() {
    let now = Instant::now();
    let mut store = Policies::new();
    assert!(!store.known());
    store.take(Change::Begin, now);
    assert_eq!(store.take(Change::Listed(policy("a", 1)), now), OBJECTS);
    assert!(!store.known() && !store.listed());
    assert_eq!(store.take(Change::Done, now), REST);
    assert!(store.known() && store.listed());
    assert_eq!(store.take(Change::Applied(policy("b", 2)), now), OBJECTS);
    assert_eq!(store.take(Change::Applied(policy("a", 3)), now), OBJECTS);
    assert_eq!(store.take(Change::Applied(policy("a", 3)), now), NOTHING, "the same version");
    assert_eq!(good(&store), ["a@3", "b@2"]);
    assert_eq!(store.take(Change::Deleted(policy("a", 4).metadata), now), NOTHING);
    assert_eq!(store.pass(now), NOTHING);
    assert_eq!(store.next_pass(), Some(now + Duration::from_secs(2)));
    assert_eq!(store.pass(now + Duration::from_secs(2)), OBJECTS);
    assert_eq!(good(&store), ["b@2"]);
    assert_eq!(store.next_pass(), None);
}

#[test]
fn what_a_new_list_does_not_name_goes() {
    let now = Instant::now();
    let mut store = listed(&["a", "b"], now);
    store.take(Change::Begin, now);
    store.take(Change::Listed(policy("b", 1)), now);
    assert_eq!(good(&store), ["a@1", "b@1"], "while the list is under way");
    store.take(Change::Done, now);
    store.pass(now + Duration::from_secs(2));
    assert_eq!(good(&store), ["b@1"]);
}

#[test]
fn a_list_that_breaks_off_takes_nothing_away() {
    let now = Instant::now();
    let mut store = listed(&["a", "b"], now);
    store.take(Change::Begin, now);
    store.take(failed(false), now);
    store.pass(now + Duration::from_secs(100));
    assert_eq!(good(&store), ["a@1", "b@1"]);
    assert!(store.errors().next().unwrap().message.contains("last good state stays in force"));
    assert_eq!(store.take(Change::Recovered, now), REST);
    assert_eq!(store.errors().count(), 0);
}

#[test]
fn a_bad_version_leaves_the_last_good_one_and_is_an_error() {
    let now = Instant::now();
    let mut store = listed(&["a"], now);
    assert_eq!(store.take(Change::Applied(bad("a", "u", 2)), now), BOTH);
    assert_eq!(good(&store), ["a@1"]);
    let error = store.errors().next().unwrap();
    assert_eq!((error.place.as_str(), error.object.as_deref()), ("WorkloadPolicy", Some("shop/a")));
    assert_eq!(error.version, Some(("u".to_owned(), 2)));
    assert!(error.message.starts_with("spec.mode: "), "{}", error.message);
    assert!(error.message.ends_with("; generation 1 stays in force"), "{}", error.message);
    assert_eq!(store.take(Change::Applied(policy("a", 3)), now), BOTH);
    assert_eq!((good(&store), store.errors().count()), (vec!["a@3".to_owned()], 0));
}

#[test]
fn a_bad_object_made_anew_under_the_name_of_another_has_no_last_good_version() {
    let now = Instant::now();
    let mut store = listed(&["a"], now);
    store.take(Change::Applied(bad("a", "other", 2)), now);
    assert_eq!(good(&store), Vec::<String>::new());
    assert!(store.errors().next().unwrap().message.contains("no good version"));
}

#[test]
fn what_only_the_conversion_can_refuse_is_an_error_too() {
    let mut object = json_of("a", "u", 1, "Enforce");
    object["spec"]["syscalls"] = json!({"rules": [{"names": ["no_such_call"], "action": "Deny"}]});
    let mut store = Policies::new();
    store.take(Change::Applied(serde_json::from_value(object).unwrap()), Instant::now());
    let message = store.errors().next().unwrap().message;
    assert!(message.starts_with("spec.syscalls.rules[0].names[0]: "), "{message}");
}

#[test]
fn a_kind_that_vanishes_takes_nothing_with_it() {
    let now = Instant::now();
    let second = |count| now + Duration::from_secs(count);
    let mut store = listed(&["a", "b", "c"], now);
    // The objects of a kind are deleted before it is.
    store.take(Change::Deleted(policy("a", 2).metadata), now);
    store.take(Change::Deleted(policy("b", 2).metadata), second(1));
    assert_eq!(store.pass(second(2)), OBJECTS);
    assert_eq!(good(&store), ["b@1", "c@1"]);
    assert_eq!(store.take(failed(true), second(2)), BOTH);
    store.pass(second(100));
    assert_eq!(good(&store), ["a@1", "b@1", "c@1"]);
    // It is back, and has none of them.
    store.take(Change::Begin, second(200));
    store.take(Change::Done, second(200));
    store.pass(second(202));
    assert_eq!(good(&store), Vec::<String>::new());
}

#[test]
fn a_deletion_long_ago_is_not_taken_back() {
    let now = Instant::now();
    let mut store = listed(&["a"], now);
    store.take(Change::Deleted(policy("a", 2).metadata), now);
    store.pass(now + Duration::from_secs(2));
    store.pass(now + Duration::from_secs(63));
    store.take(failed(true), now + Duration::from_secs(63));
    assert_eq!(good(&store), Vec::<String>::new());
}

#[test]
fn an_object_that_comes_back_in_time_was_never_gone() {
    let now = Instant::now();
    let mut store = listed(&["a"], now);
    store.take(Change::Deleted(policy("a", 2).metadata), now);
    assert_eq!(store.take(Change::Applied(policy("a", 3)), now), OBJECTS);
    assert_eq!(store.pass(now + Duration::from_secs(9)), NOTHING);
    assert_eq!(good(&store), ["a@3"]);
}

#[test]
fn a_kind_that_is_not_ours_loses_its_objects_at_once() {
    let namespace = |name: &str| -> Guarded<_> {
        serde_json::from_value(json!({"metadata": {"name": name, "uid": name, "resourceVersion": "1"}}))
            .unwrap()
    };
    let mut store = Store::<NamespaceRecord>::new();
    store.take(Change::Applied(namespace("a")), Instant::now());
    assert_eq!(store.take(Change::Deleted(namespace("a").metadata), Instant::now()), OBJECTS);
    assert_eq!(store.good().count(), 0);
}

#[test]
fn what_was_saved_is_in_force_until_the_list_says_otherwise() {
    let now = Instant::now();
    let saved: Vec<String> =
        listed(&["a", "b"], now).good().map(|record| serde_json::to_string(&**record).unwrap()).collect();
    assert!(!saved[0].contains("annotations") && !saved[0].contains("managedFields"), "{}", saved[0]);
    let mut store = Policies::new();
    let errors = store.restore(&[saved[0].clone(), "{\"nonsense\": 1}".to_owned(), saved[1].clone()]);
    assert_eq!(errors.len(), 1);
    assert!(store.known() && !store.listed());
    assert_eq!(good(&store), ["a@1", "b@1"]);
    // The newest version of `a` is bad: what was saved is its last good one.
    store.take(Change::Begin, now);
    store.take(Change::Listed(bad("a", "u", 2)), now);
    store.take(Change::Done, now);
    store.pass(now + Duration::from_secs(2));
    assert_eq!(good(&store), ["a@1"]);
    assert_eq!(store.errors().count(), 1);
}
