//! Where a rule is in force.

use super::*;

/// What two nodes report of the shop's policies, and the pods that run there.
pub(super) const NODES: &str = "
apiVersion: v1
kind: Pod
metadata: {name: api-2, namespace: shop, labels: {app: api}}
spec: {nodeName: n1, containers: [{name: main, image: api, ports: [{name: http, containerPort: 8080}]}]}
status: {podIP: 10.1.0.6}
---
apiVersion: v1
kind: Pod
metadata: {name: api-3, namespace: shop, labels: {app: api}}
spec: {nodeName: n2, containers: [{name: main, image: api, ports: [{name: http, containerPort: 8080}]}]}
status: {podIP: 10.1.0.7}
---
apiVersion: v1
kind: Pod
metadata: {name: api-4, namespace: shop, labels: {app: api}}
spec: {nodeName: n3, containers: [{name: main, image: api, ports: [{name: http, containerPort: 8080}]}]}
status: {podIP: 10.1.0.8}
---
apiVersion: holdfast.dev/v1alpha1
kind: WorkloadNode
metadata: {name: n1}
status:
  mechanisms: [{name: fmod_ret, state: Available}, {name: lsm, state: Unavailable, reason: never called}]
  policies:
  - {namespace: shop, name: api, uid: '', generation: 3, state: Programmed, workloads: 1}
  - {namespace: shop, name: api-calls, uid: '', generation: 3, state: Programmed, workloads: 1}
---
apiVersion: holdfast.dev/v1alpha1
kind: WorkloadNode
metadata: {name: n2}
status:
  policies:
  - {namespace: shop, name: api, uid: '', generation: 3, state: Failed, inForce: 2, message: map full, workloads: 1}
  - namespace: shop
    name: api-calls
    uid: ''
    generation: 3
    state: Programmed
    workloads: 1
    rules:
    - {rule: 'syscalls.rules[0]', asked: Deny, given: KillAfterEffect, mechanism: sys_enter, reason: NoLsmAndNoFmodRet}
";

pub(super) fn on_nodes(line: &str) -> String {
    ask(NODES, line).unwrap().0
}

#[test]
fn a_rule_is_told_with_the_nodes_and_mechanisms_that_enforce_it() {
    let web = "--from shop/deployment/web --port 8080 --to";
    let rule = "allowed, by shop/api network.ingress.allow[0]\n    ";
    let disclaimer = "note: that is what the policies ask; it is not in force like this on every node";
    let text = on_nodes(&format!("{web} shop/api-2"));
    assert!(text.contains(&format!("{rule}on n1: in force by cgroup_skb\n")), "{text}");
    assert!(!text.contains(disclaimer), "{text}");
    let text = on_nodes(&format!("{web} shop/api-3"));
    assert!(
        text.contains(&format!("{rule}on n2: not in force: Failed (map full); generation 2 is in force\n")),
        "{text}"
    );
    assert!(text.contains(disclaimer), "{text}");
    let text = on_nodes(&format!("{web} shop/api-4"));
    assert!(text.contains(&format!("{rule}on n3: not in force: no agent reports of this node\n")), "{text}");

    let text = on_nodes("--from shop/api-2 --syscall mount --container main");
    assert!(text.contains("syscalls.rules[0]\n    on n1: in force by fmod_ret\n"), "{text}");
    let text = on_nodes("--from shop/api-3 --syscall mount --container main");
    assert!(
        text.contains(
            "syscalls.rules[0]\n    on n2: given KillAfterEffect by sys_enter (NoLsmAndNoFmodRet)\n"
        ),
        "{text}"
    );
    let (text, _) = ask(NODES, "--from shop/api-3 --syscall mount --container main -o json").unwrap();
    let answer: Value = serde_json::from_str(&text).unwrap();
    let on = &answer["calls"][0]["nodes"][0];
    assert_eq!(
        (&on["node"], &on["state"], &on["given"]),
        (&"n2".into(), &"Weaker".into(), &"KillAfterEffect".into())
    );
}

#[test]
fn nodes_that_are_alike_share_a_line() {
    let owned = |name: &str, node: &str| {
        format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: shop, labels: {{app: web}}, \
             ownerReferences: [{{apiVersion: apps/v1, kind: DaemonSet, name: front, uid: u, controller: true}}]}}\n\
             spec: {{nodeName: {node}, containers: [{{name: main, image: web}}]}}\n"
        )
    };
    let set = "---\napiVersion: apps/v1\nkind: DaemonSet\nmetadata: {name: front, namespace: shop}\n\
               spec: {selector: {matchLabels: {app: web}}, template: {metadata: {labels: {app: web}}, \
               spec: {containers: [{name: main, image: web}]}}}\n\
               ---\napiVersion: holdfast.dev/v1alpha1\nkind: WorkloadPolicy\nmetadata: {name: w, namespace: shop}\n\
               spec: {selector: {matchLabels: {app: web}}, network: {egress: {}}}\n";
    let pods: String = (1..=7).map(|n| owned(&format!("front-{n}"), &format!("m{n}"))).collect();
    let (text, allowed) =
        ask(&format!("{NODES}{set}{pods}"), "--from shop/daemonset/front --to 192.0.2.1 --port 443").unwrap();
    assert!(!allowed);
    assert!(text.contains("    on m1, m2, m3, m4, m5 and 2 more: not in force: no agent reports"), "{text}");
}

#[test]
fn without_the_nodes_reports_the_status_of_the_policy_is_told() {
    let policy = "apiVersion: holdfast.dev/v1alpha1\nkind: WorkloadPolicy\nmetadata: {name: more, namespace: shop}\n\
                  spec: {selector: {matchLabels: {app: api}}, syscalls: {rules: [{names: [mount], action: Kill}]}}\n\
                  status: {nodes: {selected: 3, programmed: 2}, weakest: [{node: n2, rule: 'syscalls.rules[0]', \
                  asked: Kill, given: KillAfterEffect, reason: NoHookForCall}]}\n";
    let (text, _) = ask(policy, "--from shop/api-1 --syscall mount --container main").unwrap();
    assert!(
        text.contains(
            "Kill by shop/more syscalls.rules[0]\n    the policy is in force on 2 of its 3 nodes; given KillAfterEffect on \
             n2 (NoHookForCall)\n"
        ),
        "{text}"
    );
}
