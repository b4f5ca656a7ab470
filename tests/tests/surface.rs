//! What people see of the kinds with kubectl alone: that its tables read well, that `describe` says why something is not
//! in force, and that `explain` has words for every field.

use std::{
    collections::BTreeSet,
    sync::{Arc, Weak},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use holdfast_tests::{
    controlplane::{ControlPlane, Options},
    operator::{self, NAMESPACE, Operator},
    wait::until,
};
use k8s_openapi::{apimachinery::pkg::apis::meta::v1::MicroTime, jiff::Timestamp};
use serde_json::{Value, json};
use tokio::sync::Mutex;

const PATIENCE: Duration = Duration::from_secs(30);
/// As long as the names of nodes and kernels of the large clouds.
const NODES: [&str; 2] = ["gke-prod-pool-1-4f2a9c", "aks-pool1-2417-vmss01"];
const KERNEL: &str = "6.1.119-129.201.amzn2023.x86_64";

const OBJECTS: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: holdfast.dev/v1alpha1
kind: WorkloadPolicy
metadata: {name: payments-api, namespace: shop}
spec:
  selector: {matchLabels: {app: payments}}
  network: {ingress: {}}
  syscalls: {rules: [{names: [mount], action: Deny}], fallback: Kill}
---
apiVersion: holdfast.dev/v1alpha1
kind: WorkloadPolicy
metadata: {name: frontend, namespace: shop}
spec: {selector: {matchLabels: {app: web}}, mode: Audit, network: {egress: {}}}
---
apiVersion: holdfast.dev/v1alpha1
kind: WorkloadPolicy
metadata: {name: batch, namespace: shop}
spec: {selector: {matchLabels: {app: batch}}, network: {egress: {}}}
---
apiVersion: holdfast.dev/v1alpha1
kind: WorkloadPolicy
metadata: {name: sockets, namespace: shop}
spec:
  selector: {}
  syscalls: {rules: [{names: [socket], args: [{index: 0, op: Equal, value: 0x100000011}], action: Deny}]}
---
apiVersion: holdfast.dev/v1alpha1
kind: ClusterWorkloadPolicy
metadata: {name: no-modules}
spec:
  namespaceSelector: {}
  selector: {}
  syscalls: {rules: [{names: ['@module'], action: Deny}]}
---
apiVersion: holdfast.dev/v1alpha1
kind: ExternalWorkload
metadata: {name: ledger, namespace: shop}
spec: {node: vm-17, addresses: [10.20.0.17, '2001:db8:0:1::17'], cgroups: [/system.slice/ledger.service]}
---
apiVersion: holdfast.dev/v1alpha1
kind: ExternalWorkload
metadata: {name: imposter, namespace: shop}
spec: {addresses: [192.0.2.1]}
---
apiVersion: holdfast.dev/v1alpha1
kind: NodeAgent
metadata: {name: default}
spec: {}
";

struct Stage {
    cluster: ControlPlane,
    _operator: Operator,
}

impl Stage {
    fn kubectl(&self, words: &str) -> Result<String> {
        self.cluster.kubectl(&words.split(' ').collect::<Vec<_>>())
    }

    fn apply(&self, flags: &[&str], objects: &str) -> Result<()> {
        let output = self.cluster.kubectl_output(&[&["apply", "-f", "-"], flags].concat(), objects)?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    fn set_status(&self, object: &str, status: &Value) -> Result<()> {
        let patch = json!({"status": status}).to_string();
        let words: Vec<&str> = object.split(' ').collect();
        self.cluster.kubectl(
            &[&["patch", "--subresource=status", "--type=merge", "-p", &patch], &words[..]].concat(),
        )?;
        Ok(())
    }

    fn field(&self, object: &str, path: &str) -> Result<String> {
        self.kubectl(&format!("get {object} -o jsonpath={path}"))
    }

    /// A node with a pod of each workload, and its agent, if it has one.
    fn node(&self, number: usize, agent: bool) -> Result<()> {
        let name = NODES[number];
        let cidr = format!("10.244.{number}.0/24");
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name,
            "labels": {"kubernetes.io/os": "linux"}}, "spec": {"podCIDR": cidr, "podCIDRs": [cidr]}});
        self.apply(&[], &node.to_string())?;
        let info = json!({"bootID": "boot-1", "machineID": "", "systemUUID": "", "kernelVersion": KERNEL, "osImage": "",
            "containerRuntimeVersion": "", "kubeletVersion": "", "kubeProxyVersion": "", "operatingSystem": "linux",
            "architecture": "amd64"});
        let addresses = json!([{"type": "InternalIP", "address": format!("192.0.2.{}", number + 1)}]);
        self.set_status(&format!("node {name}"), &json!({"nodeInfo": info, "addresses": addresses}))?;
        for (at, app) in ["payments", "web"].into_iter().enumerate() {
            let pod = json!({"apiVersion": "v1", "kind": "Pod",
                "metadata": {"name": format!("{app}-{number}"), "namespace": "shop", "labels": {"app": app}},
                "spec": {"nodeName": name, "containers": [{"name": "main", "image": "registry.test/none"}]}});
            self.apply(&[], &pod.to_string())?;
            let address = format!("10.244.{number}.{}", at + 1);
            self.set_status(
                &format!("pod -n shop {app}-{number}"),
                &json!({"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]}),
            )?;
        }
        if agent { self.agent(name) } else { Ok(()) }
    }

    /// What an agent writes: it lives, and has two of the policies in its kernel, one of them not in full.
    fn agent(&self, name: &str) -> Result<()> {
        let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": {"name": format!("holdfast-agent-{name}"), "namespace": NAMESPACE},
            "spec": {"holderIdentity": name, "leaseDurationSeconds": 3600, "renewTime": MicroTime(Timestamp::now())}});
        self.apply(&[], &lease.to_string())?;
        let report = json!({"apiVersion": "holdfast.dev/v1alpha1", "kind": "WorkloadNode", "metadata": {"name": name}});
        self.apply(&[], &report.to_string())?;
        let weak = json!({"rule": "syscalls.rules[0]", "asked": "Deny", "given": "KillAfterEffect",
            "mechanism": "sys_enter", "reason": "NoLsmAndNoFmodRet"});
        let row = |policy: &str, rules: &[&Value]| -> Result<Value> {
            let uid = self.field(&format!("wlp -n shop {policy}"), "{.metadata.uid}")?;
            Ok(
                json!({"namespace": "shop", "name": policy, "uid": uid, "generation": 1, "state": "Programmed",
                "workloads": 1, "rules": rules}),
            )
        };
        let mechanisms = json!([
            {"name": "fmod_ret", "state": "Unavailable", "reason": "refused by the kernel"},
            {"name": "lsm", "state": "Unavailable", "reason": "refused by the kernel"},
            {"name": "sys_enter", "state": "Available"},
        ]);
        self.set_status(
            &format!("wln {name}"),
            &json!({"nodeUid": self.field(&format!("node {name}"), "{.metadata.uid}")?, "bootId": "boot-1",
                "agentVersion": env!("CARGO_PKG_VERSION"), "kernel": {"release": KERNEL, "architecture": "x86_64"},
                "mechanisms": mechanisms, "observedAt": "2025-01-01T00:00:00Z",
                "policies": [row("payments-api", &[&weak])?, row("frontend", &[])?]}),
        )
    }

    /// Waits until a condition of an object has this reason.
    async fn wait(&self, object: &str, condition: &str, reason: &str) -> Result<()> {
        let path = format!("{{.status.conditions[?(@.type==\"{condition}\")].reason}}");
        until(PATIENCE, &format!("{condition} of {object} is {reason}"), async || {
            Ok((self.field(object, &path)? == reason).then_some(()))
        })
        .await
    }
}

/// A cluster of two nodes, of which one has no agent: one for all tests that run at a time. None changes it.
async fn stage() -> Result<Arc<Stage>> {
    static STAGE: Mutex<Weak<Stage>> = Mutex::const_new(Weak::new());
    let mut shared = STAGE.lock().await;
    if let Some(stage) = shared.upgrade() {
        return Ok(stage);
    }
    let stage = Arc::new(set_up().await?);
    *shared = Arc::downgrade(&stage);
    Ok(stage)
}

async fn set_up() -> Result<Stage> {
    let cluster = ControlPlane::start(Options::default()).await?;
    operator::prepare(&cluster)?;
    let mut operator = Operator::start(&cluster, "operator", &[])?;
    operator.wait_ready().await?;
    let stage = Stage { cluster, _operator: operator };
    stage.apply(&[], OBJECTS)?;
    stage.node(0, true)?;
    stage.node(1, false)?;
    for (object, condition, reason) in [
        ("wlp -n shop payments-api", "Programmed", "NoAgent"),
        ("wlp -n shop payments-api", "Degraded", "RulesWeaker"),
        ("wlp -n shop sockets", "Programmed", "NotAccepted"),
        ("wlp -n shop batch", "Programmed", "NoWorkloads"),
        ("cwlp no-modules", "Programmed", "NoAgent"),
        ("ewl -n shop imposter", "Accepted", "NodeAddress"),
        ("ewl -n shop ledger", "Accepted", "Accepted"),
        ("nag default", "Available", "RollingOut"),
    ] {
        stage.wait(object, condition, reason).await?;
    }
    // Counts are written a while after conditions flip.
    until(PATIENCE, "both nodes count", async || {
        let counts = stage.field("cwlp no-modules", "{.status.nodes.selected}")?
            + &stage.field("wlp -n shop payments-api", "{.status.nodes.selected}")?;
        Ok((counts == "22").then_some(()))
    })
    .await?;
    until(PATIENCE, "a slice is there", async || {
        Ok((!stage.kubectl("get adsl -o name")?.is_empty()).then_some(()))
    })
    .await?;
    Ok(stage)
}

/// The table as it is printed, which must not be wider than a terminal of 100 columns.
fn table(stage: &Stage, words: &str) -> Result<String> {
    let table = stage.kubectl(words)?;
    eprintln!("$ kubectl {words}\n{table}");
    for line in table.lines() {
        ensure!(line.trim_end().chars().count() <= 100, "wider than 100 columns: {line}");
    }
    Ok(table)
}

/// The words of the line that begins with this one.
fn row<'a>(table: &'a str, first: &str) -> Result<Vec<&'a str>> {
    let line = table.lines().find(|line| line.starts_with(first)).with_context(|| format!("no {first}"))?;
    Ok(line.split_whitespace().collect())
}

/// That the line that begins with the first word has these words behind it, before its age.
fn has(table: &str, words: &[&str]) -> Result<()> {
    let row = row(table, words[0])?;
    ensure!(row[..row.len() - 1] == *words, "{row:?} is not {words:?} and an age");
    Ok(())
}

/// What stands under a heading in the line that begins with this word.
fn cell<'a>(table: &'a str, first: &str, heading: &str) -> Result<&'a str> {
    let head = table.lines().next().context("no headings")?;
    let at = head.find(heading).with_context(|| format!("no {heading}"))?;
    let line = table.lines().find(|line| line.starts_with(first)).with_context(|| format!("no {first}"))?;
    Ok(line.get(at..).and_then(|rest| rest.split_whitespace().next()).unwrap_or_default())
}

#[tokio::test]
async fn tables_fit_a_terminal_and_say_what_matters() -> Result<()> {
    let stage = stage().await?;

    let both = table(&stage, "get wlp,wln -n shop")?;
    let head = ["NAME", "MODE", "STATUS", "ENFORCED", "NODES", "DONE", "AGE"];
    assert_eq!(row(&both, "NAME")?, head);
    let policy = |name: &str| format!("workloadpolicy.holdfast.dev/{name}");
    has(&both, &[&policy("payments-api"), "Enforce", "NoAgent", "False", "2", "1"])?;
    has(&both, &[&policy("frontend"), "Audit", "NoAgent", "False", "2", "1"])?;
    has(&both, &[&policy("batch"), "Enforce", "NoWorkloads", "Unknown", "0", "0"])?;
    has(&both, &[&policy("sockets"), "Enforce", "NotAccepted", "False"])?;
    let node = format!("workloadnode.holdfast.dev/{}", NODES[0]);
    has(&both, &[&node, KERNEL])?;

    table(&stage, "get wlp -A")?;
    has(&table(&stage, "get cwlp")?, &["no-modules", "Enforce", "NoAgent", "False", "2", "0"])?;
    let wide = stage.kubectl("get cwlp -o wide")?;
    assert_eq!(cell(&wide, "no-modules", "DEGRADED")?, "Unknown", "{wide}");
    let nodes = table(&stage, "get wln")?;
    assert_eq!(row(&nodes, "NAME")?, ["NAME", "KERNEL", "PROOF", "AGE"]);
    let agents = table(&stage, "get nag")?;
    assert_eq!(row(&agents, "NAME")?, ["NAME", "DESIRED", "UPDATED", "READY", "AVAILABLE", "AGE"]);
    has(&agents, &["default", "2", "0", "0", "False"])?;
    let externals = table(&stage, "get ewl -n shop")?;
    has(&externals, &["ledger", "vm-17", "10.20.0.17", "True", "Accepted"])?;
    assert_eq!(row(&externals, "imposter")?[1..4], ["192.0.2.1", "False", "NodeAddress"]);
    let slices = table(&stage, "get adsl")?;
    assert_eq!(row(&slices, "NAME")?, ["NAME", "ADDRESS", "SERVICE", "NAMESPACE", "AGE"]);
    table(&stage, "get holdfast -n shop")?;

    // Wide tables may be wide.
    let wide = stage.kubectl("get wlp -n shop -o wide")?;
    eprintln!("{wide}");
    let payments = wide.lines().find(|line| line.starts_with("payments-api")).context("no such policy")?;
    for word in ["syscalls.rules[0]", "KillAfterEffect", "NoLsmAndNoFmodRet", "in force on 1 of 2 nodes"] {
        assert!(payments.contains(word), "{payments}");
    }
    for (name, degraded) in
        [("payments-api", "True"), ("frontend", "False"), ("batch", "Unknown"), ("sockets", "Unknown")]
    {
        assert_eq!(cell(&wide, name, "DEGRADED")?, degraded, "{name}: {wide}");
    }
    let wide = stage.kubectl("get wln -o wide")?;
    eprintln!("{wide}");
    assert_eq!(cell(&wide, NODES[0], "AGENT")?, env!("CARGO_PKG_VERSION"), "{wide}");
    assert!(wide.contains("x86_64   Unavailable   Unavailable"), "{wide}");
    let wide = stage.kubectl("get ewl -n shop -o wide")?;
    assert!(wide.contains("2001:db8:0:1::17") && wide.contains("/system.slice/ledger.service"), "{wide}");
    Ok(())
}

#[tokio::test]
async fn describe_says_why_a_policy_is_not_in_force() -> Result<()> {
    let stage = stage().await?;
    for (object, said) in [
        (
            "wlp -n shop payments-api",
            vec![
                format!("in force on 1 of 2 nodes; {}: no agent has reported", NODES[1]),
                format!(
                    "1 rule does less than asked on some node; weakest: syscalls.rules[0] on {}",
                    NODES[0]
                ),
                "asked Deny, given KillAfterEffect (NoLsmAndNoFmodRet)".to_owned(),
            ],
        ),
        ("wlp -n shop batch", vec!["no running pod is selected".to_owned()]),
        (
            "wlp -n shop sockets",
            vec![
                "spec.syscalls.rules[0].args[0].value".to_owned(),
                "where an earlier generation was in force, it still is".to_owned(),
            ],
        ),
        ("ewl -n shop imposter", vec![format!("192.0.2.1 is an address of node {}", NODES[0])]),
    ] {
        let text = stage.kubectl(&format!("describe {object}"))?;
        // A long message may be folded.
        let flat = text.split_whitespace().collect::<Vec<_>>().join(" ");
        for words in said {
            assert!(flat.contains(&words), "{object}: {words:?} is not in\n{text}");
        }
    }
    Ok(())
}

/// The fields of a schema that say nothing of themselves.
fn wordless(path: &str, schema: &Value, found: &mut BTreeSet<String>) {
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}.{name}");
        if field["description"].as_str().is_none_or(str::is_empty) {
            found.insert(path.clone());
        }
        wordless(&path, field, found);
    }
    for below in ["items", "additionalProperties"] {
        if schema[below].is_object() {
            wordless(path, &schema[below], found);
        }
    }
}

#[tokio::test]
async fn explain_has_words_for_every_field_and_every_value() -> Result<()> {
    let cluster = ControlPlane::start(Options::default()).await?;
    operator::prepare(&cluster)?;
    // What `kubectl explain` reads; the server publishes it a moment after the CRDs.
    let published = until(PATIENCE, "the schemas are published", async || {
        let text = cluster.kubectl(&["get", "--raw", "/openapi/v3/apis/holdfast.dev/v1alpha1"]);
        let all: Value = serde_json::from_str(&text.unwrap_or_default()).unwrap_or_default();
        let ours = all["components"]["schemas"].as_object().map_or(0, |all| {
            all.keys().filter(|name| name.starts_with("dev.holdfast") && !name.ends_with("List")).count()
        });
        Ok((ours == 6).then_some(all))
    })
    .await?;
    let mut found = BTreeSet::new();
    for (name, schema) in published["components"]["schemas"].as_object().context("no schemas")? {
        if name.starts_with("dev.holdfast") && !name.ends_with("List") {
            wordless(name, schema, &mut found);
        }
    }
    assert!(found.is_empty(), "{found:?}");

    // It makes kubectl look anew for what the server has.
    cluster.kubectl(&["api-resources", "--api-group=holdfast.dev"])?;
    let explain = |path: &str| cluster.kubectl(&["explain", path]);
    for (path, words) in [
        ("wlp", ["Rules for the workloads", "status\t<Object>"]),
        ("wlp.spec.mode", ["ENUM: Enforce Audit", "`Audit`: Nothing is refused"]),
        ("wlp.spec.network.egress.allow.to.entity", ["KubeApiserver", "`World`: Addresses that nobody"]),
        (
            "cwlp.spec.namespaceSelector.matchExpressions.operator",
            ["NotIn", "`DoesNotExist`: The label is absent"],
        ),
        ("nag.spec.updateStrategy.maxUnavailable", ["percentage", "Absent: 1"]),
        ("ewl.spec.cgroups", ["/system.slice/ledger.service", "the whole host"]),
        ("wln.status.policies.rules.given", ["`NotCovered`: Nothing", "KillAfterEffect"]),
        ("adsl.services.ports.backends", ["The backend's address", "The backend's port"]),
    ] {
        let text = explain(path)?;
        assert!(!text.contains("<no description>"), "{text}");
        let flat = text.split_whitespace().collect::<Vec<_>>().join(" ");
        for word in words {
            let word = word.split_whitespace().collect::<Vec<_>>().join(" ");
            assert!(flat.contains(&word), "{path}: {word:?} is not in\n{text}");
        }
    }
    let tree = cluster.kubectl(&["explain", "wlp", "--recursive"])?;
    for field in ["matchExpressions", "endPort", "fallback", "weakest", "observedGeneration"] {
        assert!(tree.contains(field), "{tree}");
    }
    Ok(())
}
