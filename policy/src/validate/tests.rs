//! Each complaint, the field that it names, and the twin that is fine.

use super::*;
use crate::model::{Action, Entity, Mode, NamespaceTarget, PolicyId, Protocol, Rules, SyscallRule, Target};
use crate::selector::Requirement;

fn policy(network: Option<Network>, syscalls: Option<Syscalls>) -> Policy {
    Policy {
        id: PolicyId::namespaced("shop", "a"),
        uid: "1".to_owned(),
        generation: 1,
        target: Target { namespaces: NamespaceTarget::One("shop".to_owned()), pods: Selector::default() },
        containers: None,
        mode: Mode::Enforce,
        network,
        syscalls,
        processes: None,
        files: None,
        capabilities: None,
    }
}

fn complaints(policy: &Policy) -> Vec<String> {
    validate(policy).iter().map(ToString::to_string).collect()
}

fn of_rule(direction: Direction, rule: NetRule) -> Vec<String> {
    let rules = Some(Rules { allow: vec![NetRule::default(), rule], deny: Vec::new() });
    complaints(&policy(
        Some(match direction {
            Direction::Ingress => Network { ingress: rules, ..Network::default() },
            Direction::Egress => Network { egress: rules, ..Network::default() },
        }),
        None,
    ))
}

fn of_peer(peer: Peer) -> Vec<String> {
    of_rule(Direction::Ingress, NetRule { peers: Some(vec![peer]), ports: None })
}

fn of_block(cidr: &str, except: &[&str]) -> Vec<String> {
    let except = except.iter().map(|text| text.parse().unwrap()).collect();
    of_peer(Peer::IpBlock(IpBlock { cidr: cidr.parse().unwrap(), except }))
}

fn of_port(port: Option<PortRef>, end_port: Option<u16>) -> Vec<String> {
    let ports = Some(vec![PortMatch { protocol: Protocol::Tcp, port, end_port }]);
    of_rule(Direction::Egress, NetRule { peers: None, ports })
}

fn of_call(names: &[&str], args: Vec<ArgCondition>) -> Vec<String> {
    let names = names.iter().map(|name| (*name).to_owned()).collect();
    let rules = vec![SyscallRule { names, args, action: Action::Deny }];
    complaints(&policy(None, Some(Syscalls { rules, fallback: Fallback::Kill, ..Syscalls::default() })))
}

fn condition(index: u8, op: ArgOp, value: u64) -> Vec<ArgCondition> {
    vec![ArgCondition { index, op, value }]
}

const NONE: [String; 0] = [];

#[test]
fn a_policy_has_to_say_something() {
    assert_eq!(
        complaints(&policy(None, None)),
        [
            "spec: the policy has none of network, syscalls, processes, files and capabilities: it says nothing"
        ]
    );
    let nothing = policy(Some(Network::default()), None);
    assert_eq!(complaints(&nothing), ["spec.network: has neither ingress nor egress, so it says nothing"]);
    let isolating = Network { ingress: Some(Rules::default()), ..Network::default() };
    assert_eq!(complaints(&policy(Some(isolating), None)), NONE);
}

/// System call rules that say something.
fn watching() -> Syscalls {
    Syscalls { default: SyscallDefault::Audit, ..Syscalls::default() }
}

#[test]
fn system_call_rules_that_say_nothing_are_refused() {
    let problem = "spec.syscalls.rules: is empty and calls are allowed by default, so that it says nothing";
    assert_eq!(complaints(&policy(None, Some(Syscalls::default()))), [problem]);
    assert_eq!(complaints(&policy(None, Some(watching()))), NONE);
}

#[test]
fn containers_are_absent_or_some() {
    let mut policy = policy(None, Some(watching()));
    policy.containers = Some(vec!["api".to_owned()]);
    assert_eq!(complaints(&policy), NONE);
    policy.containers = Some(Vec::new());
    assert_eq!(complaints(&policy), ["spec.containers: is empty; leave it out to mean all containers"]);
}

#[test]
fn a_selector_on_a_label_that_differs_for_each_pod_is_refused_wherever_it_is() {
    let selector = |key: &str| Selector {
        match_labels: [(key.to_owned(), "x".to_owned())].into(),
        ..Selector::default()
    };
    let mut target = policy(None, Some(watching()));
    target.target.pods = selector("pod-template-hash");
    assert_eq!(
        complaints(&target),
        ["spec.selector: selects on pod-template-hash, which differs for each pod and is in no identity"]
    );
    let peer = |key| of_peer(Peer::Pods { namespaces: None, pods: Some(selector(key)) });
    assert_eq!(
        peer("batch.kubernetes.io/job-name"),
        [
            "spec.network.ingress.allow[1].from[0].podSelector: selects on batch.kubernetes.io/job-name, which differs \
         for each pod and is in no identity"
        ]
    );
    assert_eq!(peer("app"), NONE);
}

#[test]
fn expressions_have_values_exactly_where_the_operator_takes_some() {
    let peer = |operator, values: &[&str]| {
        let values = values.iter().map(|value| (*value).to_owned()).collect();
        let expression = Requirement { key: "app".to_owned(), operator, values };
        let pods = Selector { match_expressions: vec![expression], ..Selector::default() };
        of_peer(Peer::Pods { namespaces: None, pods: Some(pods) })
    };
    let field = "spec.network.ingress.allow[1].from[0].podSelector.matchExpressions[0].values";
    assert_eq!(peer(Operator::In, &[]), [format!("{field}: is empty, though In and NotIn need values")]);
    assert_eq!(
        peer(Operator::Exists, &["x"]),
        [format!("{field}: has values, though Exists and DoesNotExist take none")]
    );
    assert_eq!(peer(Operator::NotIn, &["x"]), NONE);
    assert_eq!(peer(Operator::DoesNotExist, &[]), NONE);
}

#[test]
fn lists_of_peers_and_ports_are_absent_or_some() {
    let rule = NetRule { peers: Some(Vec::new()), ports: Some(Vec::new()) };
    assert_eq!(
        of_rule(Direction::Ingress, rule.clone()),
        [
            "spec.network.ingress.allow[1].from: is empty; leave it out to mean anyone",
            "spec.network.ingress.allow[1].ports: is empty; leave it out to mean every port",
        ]
    );
    assert!(of_rule(Direction::Egress, rule)[0].starts_with("spec.network.egress.allow[1].to: "));
}

#[test]
fn a_peer_has_something_in_it() {
    assert_eq!(
        of_peer(Peer::Pods { namespaces: None, pods: None }),
        ["spec.network.ingress.allow[1].from[0]: has nothing in it"]
    );
    assert_eq!(of_peer(Peer::Pods { namespaces: None, pods: Some(Selector::default()) }), NONE);
    assert_eq!(
        of_peer(Peer::ServiceAccount { name: String::new(), namespace: None }),
        ["spec.network.ingress.allow[1].from[0].serviceAccount.name: is empty"]
    );
    assert_eq!(of_peer(Peer::Entity(Entity::Host)), NONE);
}

#[test]
fn an_address_block_is_a_network_and_its_exceptions_are_parts_of_it() {
    let field = "spec.network.ingress.allow[1].from[0].ipBlock";
    assert_eq!(of_block("10.0.0.0/8", &["10.1.0.0/16"]), NONE);
    assert_eq!(of_block("10.0.0.1/8", &[]), [format!("{field}.cidr: has host bits; 10.0.0.0/8 is meant?")]);
    assert_eq!(
        of_block("10.0.0.0/8", &["10.1.0.1/16"]),
        [format!("{field}.except[0]: has host bits; 10.1.0.0/16 is meant?")]
    );
    assert_eq!(
        of_block("10.0.0.0/8", &["10.1.0.0/16", "fd00::/8"]),
        [format!("{field}.except[1]: fd00::/8 is of another address family than 10.0.0.0/8")]
    );
    for outside in ["11.0.0.0/16", "10.0.0.0/8", "0.0.0.0/0"] {
        let problem = format!("{field}.except[0]: {outside} is not a part of 10.0.0.0/8");
        assert_eq!(of_block("10.0.0.0/8", &[outside]), [problem]);
    }
}

#[test]
fn a_range_of_ports_goes_upwards_from_a_number() {
    let field = "spec.network.egress.allow[1].ports[0]";
    assert_eq!(of_port(Some(PortRef::Number(80)), Some(80)), NONE);
    assert_eq!(of_port(None, None), NONE);
    assert_eq!(
        of_port(Some(PortRef::Number(80)), Some(79)),
        [format!("{field}.endPort: 79 is below port 80")]
    );
    assert_eq!(of_port(Some(PortRef::Number(0)), None), [format!("{field}.port: 0 is no port")]);
    assert_eq!(of_port(None, Some(80)), [format!("{field}.endPort: needs port, the first of the range")]);
    let named = Some(PortRef::Name("http".to_owned()));
    assert_eq!(of_port(named.clone(), None), NONE);
    assert_eq!(of_port(named, Some(80)), [format!("{field}.endPort: cannot follow a named port")]);
}

#[test]
fn a_named_port_at_egress_does_not_go_with_an_address_block() {
    let rule = NetRule {
        peers: Some(vec![
            Peer::Entity(Entity::Cluster),
            Peer::IpBlock(IpBlock { cidr: "10.0.0.0/8".parse().unwrap(), except: Vec::new() }),
        ]),
        ports: Some(vec![PortMatch {
            protocol: Protocol::Tcp,
            port: Some(PortRef::Name("http".to_owned())),
            end_port: None,
        }]),
    };
    assert_eq!(
        of_rule(Direction::Egress, rule.clone()),
        ["spec.network.egress.allow[1].ports[0].port: names the port \"http\", but an address block \
         (network.egress.allow[1].to[1]) has no named ports"]
    );
    assert_eq!(of_rule(Direction::Ingress, rule), NONE, "there it is the workload's own port");
}

#[test]
fn system_calls_and_groups_are_known_ones() {
    assert_eq!(of_call(&["ptrace", "@module"], Vec::new()), NONE);
    assert_eq!(
        of_call(&["ptrace", "open_sesame", "@nothing"], Vec::new()),
        [
            "spec.syscalls.rules[0].names[1]: open_sesame is no known system call",
            "spec.syscalls.rules[0].names[2]: @nothing is no known group of system calls",
        ]
    );
    assert_eq!(of_call(&[], Vec::new()), ["spec.syscalls.rules[0].names: is empty"]);
    for name in ALWAYS_ALLOWED {
        let seen = of_call(&[name], Vec::new());
        assert_eq!(seen.len(), 1, "{name}");
        assert!(seen[0].contains("is always allowed"), "{seen:?}");
    }
}

#[test]
fn an_argument_exists_is_no_pointer_and_can_hold_the_value() {
    let args = "spec.syscalls.rules[0].args[0]";
    assert_eq!(of_call(&["socket"], condition(0, ArgOp::Equal, 17)), NONE);
    assert_eq!(of_call(&["kill"], condition(0, ArgOp::LessThan, u64::MAX)), NONE, "-1 fits");
    assert_eq!(
        of_call(&["socket"], condition(6, ArgOp::Equal, 17)),
        [format!("{args}.index: 6 is not from 0 to 5")]
    );
    assert_eq!(
        of_call(&["socket"], condition(3, ArgOp::Equal, 17)),
        [format!("{args}.index: socket has no argument 3")]
    );
    assert_eq!(
        of_call(&["socket", "mount"], condition(0, ArgOp::Equal, 17)),
        [format!(
            "{args}.index: argument 0 of mount is a pointer: what it points at can change after the check"
        )]
    );
    assert_eq!(
        of_call(&["socket"], condition(0, ArgOp::Equal, 0x1_0000_0011)),
        [format!("{args}.value: does not fit argument 0 of socket, which has 32 bits")]
    );
    let masked = |mask, value| of_call(&["socket"], condition(1, ArgOp::MaskedEqual { mask }, value));
    assert_eq!(masked(0xf, 3), NONE);
    assert_eq!(
        masked(1 << 40, 0),
        [format!("{args}.mask: does not fit argument 1 of socket, which has 32 bits")]
    );
    assert_eq!(
        masked(0xf, 0x13),
        [format!("{args}.value: has bits outside the mask, so that it never holds")]
    );
}

#[test]
fn a_fallback_needs_a_rule_that_denies() {
    let syscalls = |action| {
        let rules = vec![SyscallRule { names: vec!["ptrace".to_owned()], args: Vec::new(), action }];
        complaints(&policy(None, Some(Syscalls { rules, fallback: Fallback::Kill, ..Syscalls::default() })))
    };
    assert_eq!(syscalls(Action::Deny), NONE);
    assert_eq!(
        syscalls(Action::Kill),
        ["spec.syscalls.fallback: says what to do where Deny is impossible, but no rule has action Deny"]
    );
}

mod access {
    //! Process, file and capability rules.

    use std::collections::BTreeSet;

    use super::*;
    use crate::model::{
        Capabilities, Executables, FileRule, Files, Operation, ProcessDefault, ProcessRule, Processes,
    };
    use crate::paths::Pattern;

    fn paths(texts: &[&str]) -> Vec<Pattern> {
        texts.iter().map(|text| Pattern::parse(text).unwrap()).collect()
    }

    fn process(executables: Executables) -> ProcessRule {
        ProcessRule { executables, action: Action::Deny }
    }

    fn of_processes(default: ProcessDefault, rules: Vec<ProcessRule>) -> Vec<String> {
        let processes = Some(Processes { default, rules });
        complaints(&Policy { processes, ..policy(None, None) })
    }

    fn file(texts: &[&str], operations: &[Operation], unless: &[&str]) -> FileRule {
        FileRule {
            paths: paths(texts),
            operations: operations.iter().copied().collect(),
            action: Action::Deny,
            unless: paths(unless),
        }
    }

    fn of_files(rules: Vec<FileRule>) -> Vec<String> {
        complaints(&Policy { files: Some(Files { rules }), ..policy(None, None) })
    }

    #[test]
    fn a_half_that_says_nothing_is_named() {
        assert_eq!(
            of_processes(ProcessDefault::Allow, vec![]),
            ["spec.processes: has no rules and allows by default, so it says nothing"]
        );
        assert!(of_processes(ProcessDefault::Deny, vec![]).is_empty());
        assert_eq!(of_files(vec![]), ["spec.files.rules: is empty, so it says nothing"]);
        let capabilities = Some(Capabilities { deny: BTreeSet::new() });
        assert_eq!(
            complaints(&Policy { capabilities, ..policy(None, None) }),
            ["spec.capabilities.deny: is empty, so it says nothing"]
        );
    }

    #[test]
    fn a_path_that_an_earlier_rule_decides_on_is_named() {
        let rules = vec![
            process(Executables::Paths(paths(&["/bin/a", "/bin/b"]))),
            process(Executables::Paths(paths(&["/bin/c", "/bin/b"]))),
        ];
        assert_eq!(
            of_processes(ProcessDefault::Allow, rules),
            [
                "spec.processes.rules[1].paths[1]: /bin/b is named by processes.rules[0] already, which decides"
            ]
        );
        let twice = vec![process(Executables::NotInImage), process(Executables::NotInImage)];
        assert_eq!(
            of_processes(ProcessDefault::Allow, twice),
            ["spec.processes.rules[1].notInImage: never decides: processes.rules[0] says it before"]
        );
        assert_eq!(
            of_files(vec![
                file(&["/etc/a"], &[Operation::Read, Operation::Write], &[]),
                file(&["/etc/a"], &[Operation::Write, Operation::Chmod], &[]),
            ]),
            [
                "spec.files.rules[1].paths[0]: /etc/a is named by files.rules[0] already, which decides on Write"
            ]
        );
    }

    #[test]
    fn the_same_path_may_come_again_for_other_operations_or_after_exceptions() {
        let rules = vec![
            file(&["/etc/a"], &[Operation::Read], &["/bin/x"]),
            file(&["/etc/a"], &[Operation::Read], &[]),
            file(&["/etc/a"], &[Operation::Write], &[]),
        ];
        assert!(of_files(rules).is_empty());
    }

    #[test]
    fn empty_lists_are_named() {
        assert_eq!(
            of_files(vec![file(&[], &[], &[])]),
            ["spec.files.rules[0].operations: is empty", "spec.files.rules[0].paths: is empty"]
        );
        assert_eq!(
            of_processes(ProcessDefault::Allow, vec![process(Executables::Paths(vec![]))]),
            ["spec.processes.rules[0].paths: is empty"]
        );
        assert_eq!(
            of_files(vec![file(&["/a", "/a"], &[Operation::Read], &[])]),
            ["spec.files.rules[0].paths[1]: /a is there twice"]
        );
    }
}
