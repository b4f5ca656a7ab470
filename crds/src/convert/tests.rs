use holdfast_policy::model;
use serde_json::{Value, json};

use super::*;

#[expect(clippy::needless_pass_by_value, reason = "the calls read better")]
fn object(spec: Value) -> WorkloadPolicy {
    serde_json::from_value(json!({
        "apiVersion": "holdfast.dev/v1alpha1", "kind": "WorkloadPolicy",
        "metadata": {"name": "p", "namespace": "shop", "uid": "u-1", "generation": 3},
        "spec": spec,
    }))
    .unwrap()
}

fn fields(spec: Value) -> Vec<String> {
    workload_policy(&object(spec)).unwrap_err().into_iter().map(|error| error.field).collect()
}

#[test]
fn every_part_of_a_policy_arrives_in_the_model() {
    let policy = workload_policy(&object(json!({
        "selector": {"matchLabels": {"app": "api"}, "matchExpressions": [{"key": "tier", "operator": "NotIn", "values": ["x"]}]},
        "containers": ["api"],
        "mode": "Audit",
        "network": {
            "ingress": {
                "allow": [{
                    "from": [
                        {"podSelector": {"matchLabels": {"app": "web"}}, "namespaceSelector": {}},
                        {"serviceAccount": {"name": "web"}},
                        {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}},
                        {"entity": "KubeApiserver"},
                    ],
                    "ports": [{"port": "http"}, {"protocol": "UDP", "port": 9000, "endPort": 9010}, {"protocol": "UDP"}],
                }],
                "deny": [{}],
            },
            "onDeny": "Reject",
        },
        "syscalls": {
            "rules": [
                {"names": ["socket"], "args": [{"index": 0, "op": "Equal", "value": 17}], "action": "Deny"},
                {"names": ["clone"], "args": [{"index": 0, "op": "MaskedEqual", "value": 0, "mask": 268_435_456}], "action": "Kill"},
            ],
            "default": "Audit",
            "fallback": "Kill",
        },
    })))
    .unwrap();
    assert_eq!(policy.id.to_string(), "shop/p");
    assert_eq!((policy.uid.as_str(), policy.generation), ("u-1", 3));
    assert_eq!(policy.mode, model::Mode::Audit);
    assert_eq!(policy.target.pods.match_labels["app"], "api");
    assert_eq!(policy.target.pods.match_expressions[0].operator, Operator::NotIn);
    assert_eq!(policy.containers, Some(vec!["api".to_owned()]));
    let network = policy.network.unwrap();
    assert_eq!(network.on_deny, model::OnDeny::Reject);
    assert_eq!(network.egress, None);
    let ingress = network.ingress.unwrap();
    assert_eq!(ingress.deny, [model::NetRule { peers: None, ports: None }]);
    let rule = &ingress.allow[0];
    let peers = rule.peers.as_ref().unwrap();
    assert!(
        matches!(&peers[0], model::Peer::Pods { namespaces: Some(all), pods: Some(_) } if *all == Selector::default())
    );
    assert_eq!(peers[1], model::Peer::ServiceAccount { name: "web".into(), namespace: None });
    let block =
        model::IpBlock { cidr: "10.0.0.0/8".parse().unwrap(), except: vec!["10.1.0.0/16".parse().unwrap()] };
    assert_eq!(peers[2], model::Peer::IpBlock(block));
    assert_eq!(peers[3], model::Peer::Entity(model::Entity::KubeApiserver));
    let ports = rule.ports.as_ref().unwrap();
    let named = model::PortMatch {
        protocol: model::Protocol::Tcp,
        port: Some(model::PortRef::Name("http".into())),
        end_port: None,
    };
    assert_eq!(ports[0], named);
    assert_eq!((ports[1].protocol, ports[1].end_port), (model::Protocol::Udp, Some(9010)));
    assert_eq!(ports[2].port, None);
    let syscalls = policy.syscalls.unwrap();
    assert_eq!(syscalls.fallback, model::Fallback::Kill);
    assert_eq!(syscalls.default, model::SyscallDefault::Audit);
    assert_eq!(
        syscalls.rules[0].args,
        [model::ArgCondition { index: 0, op: model::ArgOp::Equal, value: 17 }]
    );
    assert_eq!(syscalls.rules[1].args[0].op, model::ArgOp::MaskedEqual { mask: 268_435_456 });
    assert_eq!(syscalls.rules[1].action, model::Action::Kill);
}

#[test]
fn process_file_and_capability_rules_arrive_in_the_model() {
    let policy = workload_policy(&object(json!({
        "selector": {},
        "processes": {"default": "Deny", "rules": [
            {"paths": ["/app/**", "/bin/sh"], "action": "Allow"}, {"notInImage": true, "action": "Kill"}]},
        "files": {"rules": [{
            "paths": ["/etc/shadow"], "operations": ["Write", "Read", "ExecuteMap"], "action": "Deny",
            "unless": {"executables": ["/app/api"]}}]},
        "capabilities": {"deny": ["NET_RAW", "CHOWN"]},
    })))
    .unwrap();
    let pattern = |text: &str| holdfast_policy::paths::Pattern::parse(text).unwrap();
    let processes = policy.processes.unwrap();
    assert_eq!(processes.default, model::ProcessDefault::Deny);
    let paths = model::Executables::Paths(vec![pattern("/app/**"), pattern("/bin/sh")]);
    assert_eq!(processes.rules[0], model::ProcessRule { executables: paths, action: model::Action::Allow });
    assert_eq!(
        processes.rules[1],
        model::ProcessRule { executables: model::Executables::NotInImage, action: model::Action::Kill }
    );
    let rule = model::FileRule {
        paths: vec![pattern("/etc/shadow")],
        operations: [model::Operation::Read, model::Operation::Write, model::Operation::ExecuteMap].into(),
        action: model::Action::Deny,
        unless: vec![pattern("/app/api")],
    };
    assert_eq!(policy.files.unwrap().rules, [rule]);
    let names: Vec<&str> =
        policy.capabilities.unwrap().deny.into_iter().map(model::Capability::name).collect();
    assert_eq!(names, ["CHOWN", "NET_RAW"]);
}

#[test]
fn a_negative_value_is_twos_complement() {
    let spec = json!({"selector": {}, "syscalls": {"rules": [
        {"names": ["openat"], "args": [{"index": 0, "op": "Equal", "value": -100}], "action": "Deny"}]}});
    let policy = workload_policy(&object(spec)).unwrap();
    assert_eq!(policy.syscalls.unwrap().rules[0].args[0].value, (-100_i64).cast_unsigned());
}

#[test]
fn what_an_older_schema_let_through_is_refused_with_its_field() {
    let mixed = json!({"entity": "Host", "ipBlock": {"cidr": "10.0.0.0/8"}});
    let bad = json!({"ipBlock": {"cidr": "10.0.0.0/40"}});
    let spec = json!({"selector": {}, "network": {"egress": {"deny": [{"to": [mixed, {}, bad]}]}}});
    let expected = [
        "network.egress.deny[0].to[0]",
        "network.egress.deny[0].to[1]",
        "network.egress.deny[0].to[2].ipBlock.cidr",
    ];
    assert_eq!(fields(spec)[..3], expected);
    let args = json!([{"index": 0, "op": "MaskedEqual", "value": 1}]);
    let spec = json!({"selector": {}, "syscalls": {"rules": [{"names": ["clone"], "args": args, "action": "Deny"}]}});
    assert_eq!(fields(spec), ["syscalls.rules[0].args[0].mask"]);
}

#[test]
fn process_and_file_rules_of_an_older_schema_are_refused_with_their_fields() {
    let rules = json!([
        {"action": "Deny"}, {"paths": ["/a"], "notInImage": true, "action": "Deny"},
        {"notInImage": false, "action": "Deny"}, {"paths": ["/a", "b"], "action": "Deny"}]);
    let file = json!({"paths": ["/a/../b"], "operations": ["Read"], "action": "Deny", "unless": {"executables": []}});
    let spec = json!({"selector": {}, "processes": {"rules": rules}, "files": {"rules": [file]},
        "capabilities": {"deny": ["NET_RAW", "CAP_CHOWN"]}});
    let expected = [
        "processes.rules[0]",
        "processes.rules[1]",
        "processes.rules[2].notInImage",
        "processes.rules[3].paths[1]",
        "files.rules[0].unless.executables",
        "files.rules[0].paths[0]",
        "capabilities.deny[1]",
    ];
    assert_eq!(fields(spec), expected);
}

#[test]
fn a_value_too_wide_for_its_argument_is_refused() {
    let args = json!([{"index": 0, "op": "Equal", "value": 4_294_967_313_u64}]);
    let spec = json!({"selector": {}, "syscalls": {"rules": [{"names": ["socket"], "args": args, "action": "Deny"}]}});
    assert_eq!(fields(spec), ["syscalls.rules[0].args[0].value"]);
}

#[test]
fn a_cluster_policy_matches_namespaces() {
    let object: ClusterWorkloadPolicy = serde_json::from_value(json!({
        "apiVersion": "holdfast.dev/v1alpha1", "kind": "ClusterWorkloadPolicy", "metadata": {"name": "base"},
        "spec": {"namespaceSelector": {"matchLabels": {"team": "shop"}}, "selector": {}, "network": {"ingress": {}}},
    }))
    .unwrap();
    let policy = cluster_workload_policy(&object).unwrap();
    assert_eq!(policy.id.to_string(), "cluster/base");
    assert!(
        matches!(&policy.target.namespaces, model::NamespaceTarget::Matching(s) if s.match_labels["team"] == "shop")
    );
}

fn slice(value: Value) -> AddressSliceSpec {
    serde_json::from_value(value).unwrap()
}

#[test]
fn slices_join_to_one_world() {
    let service = |part: u32, backend: &str| {
        json!({"namespace": "shop", "name": "db", "address": "10.96.0.5", "part": part, "parts": 2,
            "ports": [{"port": 5432, "backends": [{"address": backend, "port": 5432}]}]})
    };
    let first = slice(json!({
        "namespaces": [{"name": "shop", "labels": {"team": "shop"}}],
        "identities": [{"id": 256, "namespace": "shop", "serviceAccount": "web", "labels": {"app": "web"},
            "ports": [{"name": "http", "port": 8080}]}],
        "addresses": [{"address": "::ffff:10.0.0.1", "identity": 256, "entities": ["Cluster"], "node": "n1"}],
        "services": [service(0, "10.0.0.2")],
    }));
    let second = slice(json!({
        "addresses": [{"address": "192.168.0.1", "entities": ["Host", "Cluster"]}],
        "services": [service(1, "10.0.0.3")],
    }));
    let port = (model::Protocol::Tcp, 5432);
    let half = world([&first], None);
    assert!(!half.services[&"10.96.0.5".parse::<IpAddr>().unwrap()].ports[&port].complete);
    let whole = world([&first, &second], Some("holdfast".into()));
    let backends = &whole.services[&"10.96.0.5".parse::<IpAddr>().unwrap()].ports[&port];
    assert!(backends.complete);
    assert_eq!(backends.ready.len(), 2);
    let facts = whole.facts("10.0.0.1".parse().unwrap());
    assert_eq!(facts.identity, Some(256));
    assert_eq!(whole.identities[&256].named_ports[&("http".to_owned(), model::Protocol::Tcp)], 8080);
    let node = whole.facts("192.168.0.1".parse().unwrap());
    assert_eq!(node.entities, model::Entities::HOST | model::Entities::CLUSTER);
    assert_eq!(whole.namespaces["shop"]["team"], "shop");
    assert!(whole.protects("holdfast"));
}

#[test]
fn an_external_workload_with_cgroups_is_a_part_of_the_host() {
    let object = |cgroups: Value| -> ExternalWorkload {
        serde_json::from_value(json!({
            "apiVersion": "holdfast.dev/v1alpha1", "kind": "ExternalWorkload",
            "metadata": {"name": "ledger", "labels": {"app": "ledger"}},
            "spec": {"node": "vm-17", "addresses": ["10.20.0.17"], "cgroups": cgroups, "ports": [{"name": "http", "port": 80}]},
        }))
        .unwrap()
    };
    let part = external_workload(&object(json!(["/system.slice/ledger.service"])));
    assert_eq!((part.namespace.as_str(), part.net), ("default", model::NetScope::HostPart));
    assert_eq!(external_workload(&object(json!([]))).net, model::NetScope::WholeHost);
    assert_eq!(external_addresses(&object(json!([]))), ["10.20.0.17".parse::<IpAddr>().unwrap()]);
    assert_eq!(external_identity(&object(json!([])), 300).labels["app"], "ledger");
}
