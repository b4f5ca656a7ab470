use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::*;

fn now() -> Timestamp {
    "2026-11-25T10:00:00Z".parse().unwrap()
}

fn objects<T: DeserializeOwned>(values: Value) -> Vec<T> {
    serde_json::from_value(values).unwrap()
}

fn condition(kind: &str, status: &str, reason: &str, message: &str) -> Value {
    json!({
        "type": kind, "status": status, "reason": reason, "message": message, "observedGeneration": 2,
        "lastTransitionTime": "2026-11-25T09:55:00Z",
    })
}

fn policy(name: &str, spec: &Value, status: &Value) -> Value {
    json!({
        "apiVersion": "holdfast.dev/v1alpha1", "kind": "WorkloadPolicy",
        "metadata": {
            "name": name, "namespace": "shop", "uid": format!("uid-{name}"), "generation": 2,
            "creationTimestamp": "2026-11-25T08:00:00Z",
        },
        "spec": spec, "status": status,
    })
}

fn api() -> Value {
    policy(
        "api",
        &json!({
            "selector": {"matchLabels": {"app": "api"}},
            "network": {"ingress": {"allow": [{"from": [{"podSelector": {}}]}], "deny": []}},
            "syscalls": {"rules": [
                {"names": ["mount", "umount2"], "action": "Deny"},
                {"names": ["socket"], "args": [{"index": 0, "op": "Equal", "value": 17}], "action": "Kill"},
            ]},
        }),
        &json!({
            "observedGeneration": 2, "nodes": {"selected": 3, "programmed": 3}, "workloads": 5,
            "conditions": [
                condition("Accepted", "True", "Accepted", ""),
                condition("Programmed", "True", "Programmed", "3 of 3 nodes"),
                condition("Degraded", "True", "RulesWeaker", "1 rules are honoured less than asked on some node; see weakest"),
            ],
            "weakest": [
                {"node": "n1", "rule": "syscalls.rules[0]", "asked": "Deny", "given": "KillAfterEffect",
                    "reason": "NoLsmAndNoFmodRet"},
                {"node": "n3", "rule": "syscalls.rules[0]", "asked": "Deny", "given": "KillAfterEffect",
                    "reason": "NoLsmAndNoFmodRet"},
            ],
        }),
    )
}

fn node(name: &str, version: &str, policies: &Value) -> Value {
    json!({
        "metadata": {"name": name},
        "status": {
            "nodeUid": format!("uid-{name}"), "bootId": "boot", "agentVersion": version,
            "kernel": {"release": "6.12.117+deb13-cloud-amd64", "architecture": "x86_64"},
            "mechanisms": [
                {"name": "fmod_ret", "state": "Available"},
                {"name": "lsm", "state": "Unavailable", "reason": "never called"},
                {"name": "sys_enter", "state": "Available"},
            ],
            "policies": policies,
            "proof": {"result": "Proven", "time": "2026-11-25T09:40:00Z", "tried": ["cgroup_skb"]},
        },
    })
}

fn report(state: &str, rules: &Value) -> Value {
    json!({"namespace": "shop", "name": "api", "uid": "uid-api", "generation": 2, "state": state, "workloads": 2,
        "rules": rules})
}

fn short() -> Value {
    json!([{"rule": "syscalls.rules[0]", "asked": "Deny", "given": "KillAfterEffect", "mechanism": "sys_enter",
        "reason": "NoLsmAndNoFmodRet"}])
}

fn lease(name: &str, holder: &str, renewed: &str, lasts: i32) -> Value {
    json!({"metadata": {"name": name}, "spec": {
        "holderIdentity": holder, "leaseDurationSeconds": lasts, "renewTime": renewed}})
}

/// The heartbeats of the agents of the three nodes that report. The last one says nothing of proofs.
fn leases() -> Vec<Lease> {
    let proven = |mut lease: Value, at: &str| {
        lease["metadata"]["annotations"] = json!({"holdfast.dev/proven": at});
        lease
    };
    objects(json!([
        proven(lease("holdfast-agent-n1", "n1", "2026-11-25T09:59:55.000000Z", 40), "2026-11-25T09:59:30Z"),
        proven(lease("holdfast-agent-n2", "n2", "2026-11-25T09:50:00.000000Z", 40), "2026-11-25T09:49:00Z"),
        lease("holdfast-agent-n3", "n3", "2026-11-25T09:59:58.000000Z", 40),
    ]))
}

/// Three nodes that report, of which one is silent and one has booted since, and one without an agent.
fn facts() -> Facts {
    let kube_node = |name: &str, boot: &str| {
        json!({"metadata": {"name": name, "uid": format!("uid-{name}")}, "status": {"nodeInfo": {
            "bootID": boot, "kernelVersion": "", "architecture": "", "operatingSystem": "", "machineID": "",
            "systemUUID": "", "osImage": "", "containerRuntimeVersion": "", "kubeletVersion": "",
            "kubeProxyVersion": ""}}})
    };
    Facts {
        workload_nodes: Some(objects(json!([
            node("n1", "0.1.0", &json!([report("Programmed", &short())])),
            node("n2", "0.1.0", &json!([report("Programmed", &json!([]))])),
            node("n3", "0.0.9", &json!([report("Failed", &json!([]))])),
        ]))),
        nodes: Some(objects(json!([
            kube_node("n1", "boot"),
            kube_node("n2", "boot"),
            kube_node("n3", "another"),
            kube_node("n4", "boot"),
        ]))),
        leases: Some(
            [
                leases(),
                objects(json!([lease(
                    "holdfast-operator",
                    "holdfast-operator-6d-x_50461a42-ff22-47d4",
                    "2026-11-25T09:59:59.000000Z",
                    15
                )])),
            ]
            .concat(),
        ),
        node_agents: Some(objects(json!([{
            "apiVersion": "holdfast.dev/v1alpha1", "kind": "NodeAgent", "metadata": {"name": "default"}, "spec": {},
            "status": {"desired": 4, "ready": 2, "updated": 3, "conditions": [
                condition("Available", "False", "NotReady", "2 of 4 agents ready, 3 of the current generation")]},
        }]))),
        policies: objects(json!([
            policy(
                "web",
                &json!({"selector": {}, "mode": "Audit", "network": {"egress": {}}}),
                &json!({"observedGeneration": 2, "nodes": {"selected": 2, "programmed": 2}, "workloads": 4,
                    "conditions": [
                        condition("Accepted", "True", "Accepted", ""),
                        condition("Programmed", "True", "Programmed", "2 of 2 nodes"),
                        condition("Degraded", "False", "AsAsked", "")]}),
            ),
            api(),
            policy(
                "new",
                &json!({"selector": {}, "network": {"egress": {}}}),
                &json!({"observedGeneration": 1})
            ),
        ])),
        cluster_policies: objects(json!([{
            "apiVersion": "holdfast.dev/v1alpha1", "kind": "ClusterWorkloadPolicy",
            "metadata": {"name": "base", "uid": "u", "generation": 2, "creationTimestamp": "2026-11-20T08:00:00Z"},
            "spec": {"namespaceSelector": {}, "selector": {}, "network": {"egress": {}}},
            "status": {"observedGeneration": 2, "nodes": {"selected": 4, "programmed": 2}, "workloads": 9,
                "conditions": [
                    condition("Accepted", "True", "Accepted", ""),
                    condition("Programmed", "False", "NoAgent", "2 of 4 nodes; n2: no heartbeat, n4: no report"),
                    condition("Degraded", "False", "AsAsked", "")]},
        }])),
        left_out: Vec::new(),
    }
}

#[test]
fn the_fleet_and_its_policies_are_told_worst_first_at_a_hundred_columns() {
    let text = Status::new(facts(), &Scope::All, now()).text(false, now());
    assert_eq!(
        text,
        "\
operator   holdfast-operator-6d-x leads, heard of 1s ago
agents     NodeAgent default: 4 wanted, 2 ready, 3 updated; not available: NotReady
nodes      4: 1 alive, 1 no agent, 1 outdated, 1 silent
versions   0.1.0 on 2 nodes, 0.0.9 on 1 node
mechanisms fmod_ret on 3 of 3 nodes, lsm on 0, sys_enter on 3

NODE   AGENT      SEEN   VERSION   KERNEL                       POLICIES   BEHIND   WEAKER
n4     no agent                                                 0          0        0
n3     outdated   2s     0.0.9     6.12.117+deb13-cloud-amd64   1          1        0
n2     silent     10m    0.1.0     6.12.117+deb13-cloud-amd64   1          0        0
n1     alive      5s     0.1.0     6.12.117+deb13-cloud-amd64   1          0        1

POLICY         MODE      STATE          NODES   WORKLOADS   PROVEN   AGE    WHY
cluster/base   Enforce   not in force   2/4     9                    5d2h   NoAgent: 2 of 4 nodes;
                                                                            n2: no heartbeat, n4: no
                                                                            report
shop/new       Enforce   unobserved                                  120m   the operator has not
                                                                            looked at this
                                                                            generation yet
shop/api       Enforce   degraded       3/3     5           20m      120m   RulesWeaker: 1 rules are
                                                                            honoured less than asked
                                                                            on some node; see
                                                                            weakest
shop/web       Audit     in force       2/2     4                    120m

POLICY     RULE                ASKED   GIVEN             REASON              ON
shop/api   syscalls.rules[0]   Deny    KillAfterEffect   NoLsmAndNoFmodRet   n1, n3
"
    );
    assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
}

#[test]
fn wide_shows_the_conditions_and_the_mechanisms_of_each_node() {
    let text = Status::new(facts(), &Scope::All, now()).text(true, now());
    for expected in ["ACCEPTED", "PROGRAMMED", "DEGRADED", "ARCH", "x86_64", "fmod_ret sys_enter"] {
        assert!(text.contains(expected), "{expected}: {text}");
    }
}

#[test]
fn what_may_not_be_read_is_named_and_the_rest_is_told() {
    let facts = Facts {
        workload_nodes: None,
        nodes: None,
        leases: None,
        node_agents: None,
        cluster_policies: Vec::new(),
        left_out: vec!["what each node reports (workloadnodes: you may not list them)".to_owned()],
        ..facts()
    };
    let text = Status::new(facts, &Scope::Namespace("shop".to_owned()), now()).text(false, now());
    assert!(text.starts_with("POLICY "), "{text}");
    assert!(text.contains("shop/api   Enforce   degraded"), "{text}");
    assert!(
        text.ends_with(
            "\nLeft out, as your permissions or the cluster do not give it:\n  \
             what each node reports (workloadnodes: you may not list them)\n"
        ),
        "{text}"
    );
}

#[test]
fn without_leases_nobody_is_called_silent() {
    let status = Status::new(Facts { leases: None, ..facts() }, &Scope::All, now());
    let text = status.text(false, now());
    assert!(text.contains("2 unknown") && !text.contains("silent"), "{text}");
}

#[test]
fn of_many_nodes_those_to_look_at_are_shown() {
    let fine = json!([report("Programmed", &json!([]))]);
    let mut nodes: Vec<Value> = (0..30).map(|n| node(&format!("m{n:02}"), "0.1.0", &fine)).collect();
    nodes.push(node("weak", "0.1.0", &json!([report("Programmed", &short())])));
    let leases: Vec<Value> = (0..30)
        .map(|n| format!("m{n:02}"))
        .chain(["weak".to_owned()])
        .map(|node| lease(&format!("holdfast-agent-{node}"), &node, "2026-11-25T09:59:55.000000Z", 40))
        .collect();
    let make = || Facts {
        workload_nodes: Some(objects(nodes.clone().into())),
        leases: Some(objects(leases.clone().into())),
        ..Facts::default()
    };
    let text = Status::new(make(), &Scope::All, now()).text(false, now());
    assert!(text.contains("\nweak ") && !text.contains("m07"), "{text}");
    assert!(text.contains("30 other nodes are not shown: -o wide shows every node"), "{text}");
    let text = Status::new(make(), &Scope::All, now()).text(true, now());
    assert!(text.contains("m07") && !text.contains("not shown"), "{text}");
}

#[test]
fn json_has_all_of_it() {
    let json = serde_json::to_value(Status::new(facts(), &Scope::All, now())).unwrap();
    assert_eq!(json["fleet"]["operator"]["alive"], true);
    assert_eq!(json["fleet"]["nodes"][0]["state"], "NoAgent");
    assert_eq!(json["fleet"]["nodes"][3]["mechanisms"]["lsm"], "Unavailable");
    assert_eq!(json["policies"][0]["state"], "NotInForce");
    assert_eq!(json["policies"][2]["weakest"][1]["node"], "n3");
}

#[test]
fn one_policy_is_told_rule_by_rule_and_node_by_node() {
    let nodes: Vec<WorkloadNode> = objects(json!([
        node("n1", "0.1.0", &json!([report("Programmed", &short())])),
        node("n2", "0.1.0", &json!([report("Programmed", &json!([]))])),
        node(
            "n3",
            "0.1.0",
            &json!([{"namespace": "shop", "name": "api", "uid": "uid-api", "generation": 2,
            "state": "Failed", "inForce": 1, "message": "map full", "workloads": 1}])
        ),
        node(
            "n4",
            "0.1.0",
            &json!([{"namespace": "shop", "name": "api", "uid": "another", "generation": 2,
            "state": "Programmed", "workloads": 1}])
        ),
    ]));
    let text = policy::detail(&api(), &nodes, &leases(), Vec::new()).unwrap().text(now());
    assert_eq!(
        text,
        "\
WorkloadPolicy shop/api, Enforce, generation 2: in force on 3 of 3 nodes, 5 workloads

CONDITION    STATUS   SINCE   REASON        MESSAGE
Accepted     True     5m      Accepted
Programmed   True     5m      Programmed    3 of 3 nodes
Degraded     True     5m      RulesWeaker   1 rules are honoured less than asked on some node; see
                                            weakest

RULE                       ASKED   GIVEN                          ON        ABOUT
network.ingress            Deny    as asked                       2 nodes   what no rule allows
network.ingress.allow[0]   Allow   as asked                       2 nodes
syscalls.rules[0]          Deny    KillAfterEffect by sys_enter   n1        mount umount2:
                                                                            NoLsmAndNoFmodRet
                                   as asked                       1 node
syscalls.rules[1]          Kill    as asked                       2 nodes   socket with conditions

NODE   STATE        GENERATION   WORKLOADS   PROVEN   MESSAGE
n3     Failed       2            1           20m      map full; generation 1 is in force
n1     Programmed   2            2           30s
n2     Programmed   2            2           11m
"
    );
}

#[test]
fn a_policy_without_the_nodes_reports_is_told_by_its_status() {
    let left = vec!["what each node reports (workloadnodes: you may not list them)".to_owned()];
    let text = policy::detail(&api(), &[], &[], left).unwrap().text(now());
    assert!(text.contains("RULE                       ASKED   ABOUT\n"), "{text}");
    assert!(text.contains("KillAfterEffect"), "the weakest rules are in the status: {text}");
    assert!(
        text.ends_with("\nLeft out: what each node reports (workloadnodes: you may not list them)\n"),
        "{text}"
    );
}

#[test]
fn a_policy_without_a_recent_proof_is_not_called_in_force() {
    let mut object = api();
    let message = "enforced on 0 of 1 nodes; n1: hf_egress is detached";
    object["status"]["conditions"] = json!([
        condition("Accepted", "True", "Accepted", ""),
        condition("Programmed", "True", "Programmed", "1 of 1 nodes"),
        condition("Enforced", "False", "NotProven", message),
        condition("Degraded", "False", "AsAsked", ""),
    ]);
    object["status"]["weakest"] = json!([]);
    let mut of_node = node("n1", "0.1.0", &json!([report("Programmed", &json!([]))]));
    let failure = json!({"kind": "link", "message": "hf_egress is detached; attached anew"});
    of_node["status"]["proof"] = json!({"result": "Failed", "failures": [failure], "tried": []});
    let facts = Facts {
        workload_nodes: Some(objects(json!([of_node]))),
        policies: objects(json!([object])),
        ..Facts::default()
    };
    let status = Status::new(facts, &Scope::All, now());
    let text = status.text(false, now());
    let expected = "\
n1: not proven: link: hf_egress is detached; attached anew

POLICY     MODE      STATE        NODES   WORKLOADS   PROVEN   AGE    WHY
shop/api   Enforce   not proven   3/3     5           never    120m   NotProven: enforced on 0 of 1
                                                                      nodes; n1: hf_egress is
                                                                      detached
";
    assert!(text.ends_with(expected), "{text}");
    let wide = status.text(true, now());
    assert!(wide.contains("ENFORCED"), "{wide}");
    let json = serde_json::to_value(status).unwrap();
    assert_eq!(json["policies"][0]["neverProven"], 1);
}

#[test]
fn rules_of_every_kind_have_a_row() {
    let mut object = api();
    object["spec"] = json!({
        "selector": {},
        "syscalls": {"default": "Kill", "rules": [{"names": ["read", "write"], "action": "Allow"}]},
        "processes": {"default": "Deny", "rules": [
            {"paths": ["/usr/bin/api", "/opt/**"], "action": "Allow"},
            {"notInImage": true, "action": "Kill"},
        ]},
        "files": {"rules": [{"paths": ["/etc/shadow"], "operations": ["Read", "Write"], "action": "Deny",
            "unless": {"executables": ["/usr/bin/login"]}}]},
        "capabilities": {"deny": ["NET_RAW"]},
    });
    let short = json!([{"rule": "files.rules[0]", "asked": "Deny", "given": "NotCovered", "reason": "NoLsmAndNoFmodRet"}]);
    let nodes: Vec<WorkloadNode> =
        objects(json!([node("n1", "0.1.0", &json!([report("Programmed", &short)]))]));
    let detail = policy::detail(&object, &nodes, &leases(), Vec::new()).unwrap();
    let text = detail.text(now());
    let table = text.split("\n\n").find(|part| part.starts_with("RULE")).unwrap();
    assert_eq!(
        table,
        "\
RULE                         ASKED   GIVEN        ON       ABOUT
syscalls.default             Kill    as asked     1 node   what no rule names
syscalls.rules[0]            Allow   as asked     1 node   read write
processes.default            Deny    as asked     1 node   what no rule names
processes.rules[0]           Allow   as asked     1 node   /usr/bin/api /opt/**
processes.rules[1]           Kill    as asked     1 node   what is not in the image
files.rules[0]               Deny    NotCovered   n1       Read Write /etc/shadow unless
                                                           /usr/bin/login: NoLsmAndNoFmodRet
capabilities.deny[NET_RAW]   Deny    as asked     1 node"
    );
    // A policy in Audit asks for no more than to be told.
    object["spec"]["mode"] = json!("Audit");
    let json = serde_json::to_value(policy::detail(&object, &nodes, &[], Vec::new()).unwrap()).unwrap();
    let asked: Vec<&str> =
        json["rules"].as_array().unwrap().iter().map(|rule| rule["asked"].as_str().unwrap()).collect();
    assert_eq!(asked, ["Audit", "Allow", "Audit", "Allow", "Audit", "Audit", "Audit"]);
}
