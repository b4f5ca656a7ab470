//! What is refused, and what is shared.

use super::*;
use crate::model::{
    AddressFacts, Identity, IpBlock, Mode, NamespaceTarget, NetRule, Network, Peer, PolicyId, PortMatch,
    PortRef, Protocol, Rules, Target,
};
use crate::selector::{Operator, Requirement, Selector};

/// A scenario of one policy with so many deny rules, at ingress.
fn with_denies(names: &[&str], denies: usize) -> Scenario {
    let rules = Rules { allow: Vec::new(), deny: vec![NetRule::default(); denies] };
    let network = Network { ingress: Some(rules), ..Network::default() };
    let policy = |name: &&str| Policy {
        id: PolicyId::namespaced("shop", *name),
        uid: (*name).to_owned(),
        generation: 1,
        target: Target { namespaces: NamespaceTarget::One("shop".to_owned()), pods: Selector::default() },
        containers: None,
        mode: Mode::Enforce,
        network: Some(network.clone()),
        syscalls: None,
        processes: None,
        files: None,
        capabilities: None,
    };
    Scenario {
        policies: names.iter().map(policy).collect(),
        world: World::default(),
        workloads: vec![Workload {
            namespace: "shop".to_owned(),
            name: "pod".to_owned(),
            ..Workload::default()
        }],
        packets: Vec::new(),
        calls: Vec::new(),
    }
}

#[test]
fn more_rules_than_can_be_numbered_are_an_error_that_names_the_policy() {
    let fits = with_denies(&["a", "b"], 32_766);
    assert_eq!(compile(&input(&fits), None).unwrap().net_sets[0].rules.len(), 65_534);
    let error = compile(&input(&with_denies(&["a", "b"], 32_767)), None).unwrap_err();
    assert_eq!(
        error.to_string(),
        "shop/b: the policies that select workload shop/pod have more than 65535 network rules together"
    );
}

#[test]
fn two_policies_of_one_name_are_an_error_that_names_them() {
    let error = compile(&input(&with_denies(&["a", "b", "a"], 1)), None).unwrap_err();
    assert_eq!(error, CompileError::DuplicatePolicy { policy: PolicyId::namespaced("shop", "a") });
}

#[test]
fn a_policy_that_selects_no_workload_adds_nothing() {
    let mut scenario = with_denies(&["a"], 1);
    scenario.workloads[0].namespace = "bank".to_owned();
    let compiled = compile(&input(&scenario), None).unwrap();
    assert_eq!(*compiled.universe, Universe::default());
    assert!(compiled.net_sets.is_empty() && compiled.identity_class.is_empty());
    assert_eq!(compiled.assignments, [Assignment::default()]);
}

#[test]
fn workloads_with_the_same_policies_and_ports_share_a_set() {
    let mut scenario = with_denies(&["a"], 1);
    scenario.policies[0].network.as_mut().unwrap().ingress.as_mut().unwrap().allow.push(NetRule {
        peers: None,
        ports: Some(vec![PortMatch {
            protocol: Protocol::Tcp,
            port: Some(PortRef::Name("http".to_owned())),
            end_port: None,
        }]),
    });
    let mut with_port = scenario.workloads[0].clone();
    with_port.named_ports.insert(("http".to_owned(), Protocol::Tcp), 80);
    let mut with_another_port = with_port.clone();
    with_another_port.named_ports.insert(("metrics".to_owned(), Protocol::Tcp), 9100);
    scenario.workloads.extend([with_port, with_another_port]);
    let compiled = compile(&input(&scenario), None).unwrap();
    let sets: Vec<_> = compiled.assignments.iter().map(|assignment| assignment.net_set.unwrap()).collect();
    assert_eq!(sets[1], sets[2], "no rule uses the other port");
    assert_ne!(sets[0], sets[1]);
}

/// For each of the address blocks an egress rule, on the ports.
fn with_blocks(blocks: impl Iterator<Item = IpBlock>, ports: Option<&[PortMatch]>) -> Scenario {
    let mut scenario = with_denies(&["a", "b"], 1);
    let rule = |block| NetRule { peers: Some(vec![Peer::IpBlock(block)]), ports: ports.map(<[_]>::to_vec) };
    let rules = Rules { allow: blocks.map(rule).collect(), deny: Vec::new() };
    scenario.policies[0].network.as_mut().unwrap().egress = Some(rules);
    scenario
}

fn host(number: u32) -> IpNet {
    IpNet::new(IpAddr::from((0x0a00_0000 + number).to_be_bytes()), 32).unwrap()
}

#[test]
fn blocks_that_multiply_beyond_all_bounds_are_an_error_that_names_the_policy() {
    let holes = |count| {
        let block = |n: u32| IpBlock { cidr: "0.0.0.0/0".parse().unwrap(), except: vec![host(n)] };
        with_blocks((0..count).map(block), None)
    };
    assert_eq!(compile(&input(&holes(2000)), None).unwrap().cidr_class.len(), 2001);
    let policy = PolicyId::namespaced("shop", "a");
    let expected = CompileError::TooManyPeers { policy, limit: 8_000_000, kind: "address prefixes" };
    assert_eq!(compile(&input(&holes(3000)), None).unwrap_err(), expected);
}

#[test]
fn peers_that_match_beyond_all_bounds_are_an_error_that_names_the_policy() {
    let mut scenario = with_denies(&["a", "b"], 1);
    let everybody_but = |name: usize| {
        let values = vec![format!("app-{name}")];
        let expression = Requirement { key: "app".to_owned(), operator: Operator::NotIn, values };
        let pods = Selector { match_expressions: vec![expression], ..Selector::default() };
        Peer::Pods { namespaces: Some(Selector::default()), pods: Some(pods) }
    };
    let rule = NetRule { peers: Some((0..2000).map(everybody_but).collect()), ports: None };
    scenario.policies[1].network.as_mut().unwrap().ingress.as_mut().unwrap().allow.push(rule);
    for id in 256..=4256 {
        let identity = Identity {
            id,
            namespace: "shop".to_owned(),
            service_account: None,
            labels: BTreeMap::new(),
            named_ports: BTreeMap::new(),
        };
        scenario.world.identities.insert(id, identity);
        let facts = AddressFacts { identity: Some(id), entities: Entities::CLUSTER };
        scenario.world.addresses.insert(host(id).addr(), facts);
    }
    let policy = PolicyId::namespaced("shop", "b");
    let expected = CompileError::TooManyPeers { policy, limit: 8_000_000, kind: "identities" };
    assert_eq!(compile(&input(&scenario), None).unwrap_err(), expected);
    scenario.world.addresses.pop_first();
    assert!(compile(&input(&scenario), None).is_ok());
}

#[test]
fn rows_beyond_all_bounds_are_an_error_that_names_the_policy() {
    // Each block is a class of its own, the range takes 30 rows, and each workload needs a set of its own.
    let ports =
        |port, end_port| Some(vec![PortMatch { protocol: Protocol::Tcp, port: Some(port), end_port }]);
    let block = |n: u32| IpBlock { cidr: host(2 * n), except: Vec::new() };
    let mut scenario = with_blocks((0..5000).map(block), ports(PortRef::Number(1), Some(65534)).as_deref());
    let rule = NetRule { peers: None, ports: ports(PortRef::Name("http".to_owned()), None) };
    scenario.policies[1].network.as_mut().unwrap().ingress.as_mut().unwrap().allow.push(rule);
    let pod = scenario.workloads[0].clone();
    let workload =
        |port| Workload { named_ports: [(("http".to_owned(), Protocol::Tcp), port)].into(), ..pod.clone() };
    scenario.workloads = (1..=14).map(workload).collect();
    let policy = PolicyId::namespaced("shop", "a");
    let expected = CompileError::TooManyRows { policy, limit: Compiled::MAX_ROWS };
    assert_eq!(compile(&input(&scenario), None).unwrap_err(), expected);
    scenario.workloads.truncate(13);
    assert_eq!(compile(&input(&scenario), None).unwrap().net_sets.len(), 13);
}

#[test]
fn peers_that_only_one_rule_names_make_one_class() {
    let hosts: Vec<Peer> =
        (0..32).map(|n| Peer::IpBlock(IpBlock { cidr: host(2 * n), except: Vec::new() })).collect();
    let mut scenario = with_blocks(std::iter::empty(), None);
    let allow = &mut scenario.policies[0].network.as_mut().unwrap().egress.as_mut().unwrap().allow;
    allow.push(NetRule { peers: Some(hosts.clone()), ports: None });
    let compiled = compile(&input(&scenario), None).unwrap();
    assert_eq!(compiled.cidr_class.len(), 32);
    assert_eq!(compiled.cidr_class.values().collect::<BTreeSet<_>>().len(), 1);

    // A rule for one of them alone tells it apart from the others.
    let allow = &mut scenario.policies[0].network.as_mut().unwrap().egress.as_mut().unwrap().allow;
    allow.push(NetRule { peers: Some(vec![hosts[3].clone()]), ports: None });
    let compiled = compile(&input(&scenario), None).unwrap();
    assert_eq!(compiled.cidr_class.values().collect::<BTreeSet<_>>().len(), 2);
}
