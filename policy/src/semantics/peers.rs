//! Every form of a peer, and the workloads that a policy selects.

use super::*;
use crate::selector::{NAMESPACE_NAME_LABEL, Operator, Requirement};
use Direction::{Egress, Ingress};
use Protocol::Tcp;

/// Which of the world's addresses a peer matches.
fn matched(policy_name: &str, peer: &Peer) -> Vec<&'static str> {
    const ALL: [&str; 7] =
        ["10.0.0.1", "fd00::1", "10.0.0.2", "10.0.1.1", "192.168.0.1", "192.168.0.2", "198.51.100.7"];
    let ask = Ask::of([policy(policy_name)
        .allow(Ingress, peers([peer.clone()]))
        .allow(Egress, peers([peer.clone()]))]);
    let passing = |address: &&str| {
        let passes = ask.passes(&ingress(address, Tcp, 80));
        assert_eq!(ask.passes(&egress(address, Tcp, 80)), passes, "{address}");
        passes
    };
    ALL.into_iter().filter(passing).collect()
}

#[test]
fn a_pod_selector_alone_looks_in_the_policys_own_namespace() {
    assert_eq!(matched("shop/a", &pods(&[("app", "web")])), ["10.0.0.1", "fd00::1"]);
    assert_eq!(matched("shop/a", &pods(&[])), ["10.0.0.1", "fd00::1", "10.0.0.2"]);
}

#[test]
fn a_pod_selector_of_a_cluster_policy_looks_everywhere() {
    assert_eq!(matched("cluster/a", &pods(&[("app", "web")])), ["10.0.0.1", "fd00::1", "10.0.1.1"]);
}

#[test]
fn a_namespace_selector_alone_is_all_pods_of_those_namespaces() {
    let peer = Peer::Pods { namespaces: Some(select(&[("team", "money")])), pods: None };
    assert_eq!(matched("shop/a", &peer), ["10.0.1.1"]);
    let named = Peer::Pods { namespaces: Some(select(&[(NAMESPACE_NAME_LABEL, "shop")])), pods: None };
    assert_eq!(matched("cluster/a", &named), ["10.0.0.1", "fd00::1", "10.0.0.2"]);
}

#[test]
fn both_selectors_of_one_peer_have_to_match() {
    let peer = |pairs: &[(&str, &str)]| Peer::Pods {
        namespaces: Some(select(&[("team", "sales")])),
        pods: Some(select(pairs)),
    };
    assert_eq!(matched("shop/a", &peer(&[("app", "web")])), ["10.0.0.1", "fd00::1"]);
    let everywhere =
        Peer::Pods { namespaces: Some(Selector::default()), pods: Some(select(&[("app", "web")])) };
    assert_eq!(matched("shop/a", &everywhere), ["10.0.0.1", "fd00::1", "10.0.1.1"]);
}

#[test]
fn expressions_select_pods_too() {
    let not_web = Selector {
        match_expressions: vec![Requirement {
            key: "app".to_owned(),
            operator: Operator::NotIn,
            values: vec!["web".to_owned()],
        }],
        ..Selector::default()
    };
    let peer = Peer::Pods { namespaces: Some(Selector::default()), pods: Some(not_web) };
    assert_eq!(matched("shop/a", &peer), ["10.0.0.2"], "addresses without an identity are no pods");
}

#[test]
fn a_service_account_is_of_the_policys_namespace_unless_it_says_another() {
    let peer = |namespace: Option<&str>| Peer::ServiceAccount {
        name: "web".to_owned(),
        namespace: namespace.map(str::to_owned),
    };
    assert_eq!(matched("shop/a", &peer(None)), ["10.0.0.1", "fd00::1"]);
    assert_eq!(matched("shop/a", &peer(Some("bank"))), ["10.0.1.1"]);
    assert_eq!(matched("cluster/a", &peer(None)), ["10.0.0.1", "fd00::1", "10.0.1.1"]);
}

#[test]
fn an_address_can_be_several_entities_and_an_unknown_one_is_the_world() {
    let expected: [&[&str]; 4] = [
        &["192.168.0.1", "192.168.0.2"],
        &["10.0.0.1", "fd00::1", "10.0.0.2", "10.0.1.1", "192.168.0.1", "192.168.0.2"],
        &["198.51.100.7"],
        &["192.168.0.1"],
    ];
    for (entity, expected) in ENTITIES.into_iter().zip(expected) {
        assert_eq!(matched("shop/a", &Peer::Entity(entity)), expected, "{entity:?}");
    }
}

#[test]
fn a_known_address_without_an_entity_is_the_world() {
    let mut ask = Ask::of([policy("shop/a").allow(Ingress, peers([Peer::Entity(Entity::World)]))]);
    let external = AddressFacts { identity: Some(257), entities: Entities::NONE };
    ask.world.addresses.insert(ip("198.51.100.9"), external);
    assert!(ask.passes(&ingress("198.51.100.9", Tcp, 80)));
    ask.policies = vec![policy("shop/a").allow(Ingress, peers([pods(&[("app", "db")])]))];
    assert!(ask.passes(&ingress("198.51.100.9", Tcp, 80)), "and it is its identity as well");
}

#[test]
fn an_address_block_matches_addresses_whoever_holds_them() {
    assert_eq!(matched("shop/a", &block("10.0.0.0/23", &[])), ["10.0.0.1", "10.0.0.2", "10.0.1.1"]);
    assert_eq!(matched("shop/a", &block("fd00::/64", &[])), ["fd00::1"]);
    assert_eq!(matched("shop/a", &block("192.168.0.0/16", &[])), ["192.168.0.1", "192.168.0.2"]);
}

#[test]
fn an_exception_is_left_out_of_its_block_and_of_no_other() {
    assert_eq!(matched("shop/a", &block("10.0.0.0/8", &["10.0.0.0/24"])), ["10.0.1.1"]);
    let ask = Ask::of([policy("shop/a")
        .allow(Ingress, peers([block("10.0.0.0/8", &["10.0.0.0/24"]), block("10.0.0.2/32", &[])]))]);
    assert!(ask.passes(&ingress("10.0.0.2", Tcp, 80)));
    assert!(!ask.passes(&ingress("10.0.0.1", Tcp, 80)));
}

#[test]
fn every_enclosing_block_counts_and_not_only_the_longest() {
    let ask = Ask::of([policy("shop/a")
        .allow(Ingress, peers([block("10.0.0.0/8", &[])]).on(tcp(80)))
        .allow(Ingress, peers([block("10.0.0.0/24", &[])]).on(tcp(443)))
        .deny(Ingress, peers([block("10.0.0.0/16", &["10.0.0.1/32"])]).on(tcp(22)))
        .allow(Ingress, peers([block("0.0.0.0/0", &[])]).on(tcp(22)))]);
    for (address, port, passes) in [
        ("10.0.0.1", 80, true),
        ("10.0.0.1", 443, true),
        ("10.0.1.1", 80, true),
        ("10.0.1.1", 443, false),
        ("10.0.0.1", 22, true),
        ("10.0.0.2", 22, false),
        ("198.51.100.7", 22, true),
    ] {
        assert_eq!(ask.passes(&ingress(address, Tcp, port)), passes, "{address} {port}");
    }
}

#[test]
fn what_identity_and_address_say_is_joined() {
    let ask = Ask::of([
        policy("shop/a").allow(Ingress, peers([pods(&[])])),
        policy("shop/b").deny(Ingress, peers([block("10.0.0.2/32", &[])])),
    ]);
    assert!(ask.passes(&ingress("10.0.0.1", Tcp, 80)));
    assert_eq!(ask.refused(&ingress("10.0.0.2", Tcp, 80)).as_deref(), Some("shop/b network.ingress.deny[0]"));
}

#[test]
fn an_ipv4_mapped_address_is_its_ipv4_address() {
    let ask = Ask::of([policy("shop/a").allow(Ingress, peers([pods(&[("app", "web")])]))]);
    assert!(ask.passes(&ingress("::ffff:10.0.0.1", Tcp, 80)));
    let ask = Ask::of([policy("shop/a").allow(Ingress, peers([block("::/0", &[])]))]);
    assert!(!ask.passes(&ingress("::ffff:10.0.0.1", Tcp, 80)));
    assert!(ask.passes(&ingress("fd00::1", Tcp, 80)));
}

#[test]
fn any_peer_of_a_rule_is_enough_and_no_peer_at_all_is_anyone() {
    let ask = Ask::of([
        policy("shop/a").allow(Ingress, peers([pods(&[("app", "db")]), block("198.51.100.0/24", &[])]))
    ]);
    assert!(ask.passes(&ingress("10.0.0.2", Tcp, 80)));
    assert!(ask.passes(&ingress("198.51.100.7", Tcp, 80)));
    assert!(!ask.passes(&ingress("10.0.0.1", Tcp, 80)));
    let ask = Ask::of([policy("shop/a").allow(Ingress, anyone())]);
    assert!(ask.passes(&ingress("2001:db8::1", Tcp, 80)));
}

#[test]
fn an_identity_that_is_not_known_yet_matches_no_selector_but_keeps_its_entities() {
    let mut ask = Ask::of([policy("cluster/a").allow(Ingress, peers([pods(&[])]))]);
    let unknown = AddressFacts { identity: Some(4711), entities: Entities::CLUSTER };
    ask.world.addresses.insert(ip("10.0.0.9"), unknown);
    assert!(!ask.passes(&ingress("10.0.0.9", Tcp, 80)));
    ask.policies = vec![policy("cluster/a").allow(Ingress, peers([Peer::Entity(Entity::Cluster)]))];
    assert!(ask.passes(&ingress("10.0.0.9", Tcp, 80)));
}

#[test]
fn a_cluster_policy_leaves_the_system_namespaces_alone_unless_it_names_them() {
    let by = |selector: Selector| {
        let mut policy = policy("cluster/a").isolating(Ingress);
        policy.target.namespaces = NamespaceTarget::Matching(selector);
        policy
    };
    let exists = Selector {
        match_expressions: vec![Requirement {
            key: NAMESPACE_NAME_LABEL.to_owned(),
            operator: Operator::Exists,
            values: Vec::new(),
        }],
        ..Selector::default()
    };
    for (namespace, selector, concerned) in [
        ("kube-system", Selector::default(), false),
        ("kube-system", exists, false),
        ("kube-system", select(&[(NAMESPACE_NAME_LABEL, "kube-system")]), true),
        ("holdfast", Selector::default(), false),
        ("holdfast", select(&[(NAMESPACE_NAME_LABEL, "holdfast")]), true),
        ("bank", Selector::default(), true),
        ("bank", select(&[("team", "money")]), true),
        ("bank", select(&[("team", "sales")]), false),
    ] {
        let mut ask = Ask::of([by(selector.clone())]);
        ask.workload.namespace = namespace.to_owned();
        assert_eq!(!ask.passes(&ingress("10.0.0.1", Tcp, 80)), concerned, "{namespace} {selector:?}");
    }
}

#[test]
fn a_namespaced_policy_in_a_system_namespace_works_there() {
    let mut ask = Ask::of([policy("kube-system/a").isolating(Ingress)]);
    ask.workload.namespace = "kube-system".to_owned();
    assert!(!ask.passes(&ingress("10.0.0.1", Tcp, 80)));
}
