//! The condition `Enforced`, as kubectl waits for it, against a real API server: what agents report is played here.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use holdfast_crds::WorkloadPolicy;
use holdfast_operator::announce;
use holdfast_tests::controlplane::{ControlPlane, Options};
use holdfast_tests::operator::{self, NAMESPACE, Operator};
use holdfast_tests::wait::until;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(30);
/// What an agent's Lease says.
const LEASE_SECONDS: u32 = 40;

fn object<K: serde::de::DeserializeOwned>(value: Value) -> K {
    serde_json::from_value(value).expect("the test's own object parses")
}

struct Stage {
    cluster: ControlPlane,
    operator: Operator,
    client: Client,
}

impl Stage {
    async fn start() -> Result<Self> {
        let cluster = ControlPlane::start(Options::default()).await?;
        operator::prepare(&cluster)?;
        let client = cluster.client().await?;
        let mut operator = Operator::start(&cluster, "operator", &[])?;
        operator.wait_ready().await?;
        let namespaces: Api<Namespace> = Api::all(client.clone());
        namespaces.create(&PostParams::default(), &object(json!({"metadata": {"name": "shop"}}))).await?;
        Ok(Self { cluster, operator, client })
    }

    /// A node with one running pod of an application named like the node.
    async fn node(&self, name: &str, n: u8) -> Result<Node> {
        let nodes: Api<Node> = Api::all(self.client.clone());
        let cidr = format!("10.244.{n}.0/24");
        let node = json!({"metadata": {"name": name}, "spec": {"podCIDR": cidr, "podCIDRs": [cidr]}});
        nodes.create(&PostParams::default(), &object(node)).await?;
        let info = json!({"bootID": "boot", "machineID": "", "systemUUID": "", "kernelVersion": "", "osImage": "",
            "containerRuntimeVersion": "", "kubeletVersion": "", "kubeProxyVersion": "", "operatingSystem": "linux",
            "architecture": "amd64"});
        let status = json!({"status": {"nodeInfo": info,
            "addresses": [{"type": "InternalIP", "address": format!("192.0.2.{n}")}]}});
        let node = nodes.patch_status(name, &PatchParams::default(), &Patch::Merge(&status)).await?;
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), "shop");
        let pod = json!({"metadata": {"name": name, "labels": {"app": name}}, "spec": {"nodeName": name,
            "containers": [{"name": "main", "image": "registry.test/none"}]}});
        pods.create(&PostParams::default(), &object(pod)).await?;
        let address = format!("10.244.{n}.1");
        let status = json!({"status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]}});
        pods.patch_status(name, &PatchParams::default(), &Patch::Merge(&status)).await?;
        Ok(node)
    }

    async fn policy(&self, app: &str, more: Value) -> Result<WorkloadPolicy> {
        let mut spec = json!({"selector": {"matchLabels": {"app": app}},
            "syscalls": {"rules": [{"names": ["ptrace"], "action": "Deny"}]}});
        for (key, value) in more.as_object().into_iter().flatten() {
            spec[key] = value.clone();
        }
        let policy = json!({"apiVersion": "holdfast.dev/v1alpha1", "kind": "WorkloadPolicy",
            "metadata": {"name": app}, "spec": spec});
        let api: Api<WorkloadPolicy> = Api::namespaced(self.client.clone(), "shop");
        Ok(api.patch(app, &PatchParams::apply("test").force(), &Patch::Apply(&policy)).await?)
    }

    /// The agent's Lease, as if all had been proven so many seconds ago.
    async fn beat(&self, node: &str, proven_ago: i64) -> Result<Instant> {
        let api: Api<Lease> = Api::namespaced(self.client.clone(), NAMESPACE);
        let now = Timestamp::now();
        let proven = Timestamp::from_second(now.as_second() - proven_ago)?;
        let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": {"name": format!("holdfast-agent-{node}"),
                "annotations": {"holdfast.dev/proven": proven.to_string()}},
            "spec": {"holderIdentity": node, "leaseDurationSeconds": LEASE_SECONDS, "renewTime": MicroTime(now)}});
        let name = format!("holdfast-agent-{node}");
        api.patch(&name, &PatchParams::apply("agent").force(), &Patch::Apply(&lease)).await?;
        Ok(Instant::now())
    }

    /// The agent's report: the policy is programmed, with these rules given less than asked, and this proof.
    async fn report(&self, node: &Node, policy: &WorkloadPolicy, rules: Value, proof: Value) -> Result<()> {
        let api: Api<holdfast_crds::WorkloadNode> = Api::all(self.client.clone());
        let name = node.name_any();
        let params = PatchParams::apply("agent").force();
        let head = json!({"apiVersion": "holdfast.dev/v1alpha1", "kind": "WorkloadNode", "metadata": {"name": name}});
        api.patch(&name, &params, &Patch::Apply(&head)).await?;
        let mut status = head;
        status["status"] = json!({"nodeUid": node.uid(), "bootId": "boot", "agentVersion": "0.1.0", "proof": proof,
            "policies": [{"namespace": "shop", "name": policy.name_any(), "uid": policy.uid(), "workloads": 1,
                "generation": policy.metadata.generation, "state": "Programmed", "rules": rules}]});
        api.patch_status(&name, &params, &Patch::Apply(&status)).await?;
        Ok(())
    }

    /// Waits until `Enforced` is as expected.
    async fn enforced(&self, policy: &str, status: &str, reason: &str) -> Result<()> {
        let api: Api<WorkloadPolicy> = Api::namespaced(self.client.clone(), "shop");
        until(PATIENCE + Duration::from_secs(u64::from(LEASE_SECONDS)), reason, async || {
            let conditions = api.get(policy).await?.status.unwrap_or_default().conditions;
            let found = conditions.iter().find(|condition| condition.type_ == "Enforced");
            Ok(found
                .is_some_and(|c| (c.status.as_str(), c.reason.as_str()) == (status, reason))
                .then_some(()))
        })
        .await
    }

    /// The Events on a policy.
    async fn told(&self, policy: &str) -> Result<Vec<Event>> {
        let api: Api<Event> = Api::namespaced(self.client.clone(), "shop");
        let of =
            ListParams::default().fields(&format!("regarding.name={policy},regarding.kind=WorkloadPolicy"));
        Ok(api.list(&of).await?.items)
    }

    /// What `kubectl wait --for=condition=Enforced` says: whether it came to hold.
    fn waited(&self, policy: &str) -> Result<bool> {
        let wait = ["wait", "--for=condition=Enforced", "--timeout=2s", "-n", "shop"];
        let output = self.cluster.kubectl_output(&[&wait[..], &[&format!("wlp/{policy}")]].concat(), "")?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success() || said.contains("timed out waiting"), "kubectl wait: {said}");
        Ok(output.status.success())
    }
}

#[tokio::test]
async fn kubectl_waits_for_enforced_only_where_it_is_so() -> Result<()> {
    let mut stage = Stage::start().await?;
    let began = Instant::now();
    let proven = || json!({"result": "Proven", "tried": ["cgroup_skb"]});
    let node = stage.node("n1", 1).await?;
    stage.node("n2", 2).await?;

    // Nobody to enforce it on, and nobody to enforce it.
    stage.policy("nobody", json!({})).await?;
    stage.enforced("nobody", "Unknown", "NoWorkloads").await?;
    ensure!(!stage.waited("nobody")?);
    stage.policy("n2", json!({})).await?;
    stage.enforced("n2", "False", "NoAgent").await?;
    ensure!(!stage.waited("n2")?);

    // As it should be.
    let policy = stage.policy("n1", json!({})).await?;
    stage.beat("n1", 5).await?;
    stage.report(&node, &policy, json!([]), proven()).await?;
    stage.enforced("n1", "True", "Enforced").await?;
    ensure!(stage.waited("n1")?);
    let table = stage.cluster.kubectl(&["get", "wlp", "-n", "shop"])?;
    ensure!(table.lines().all(|line| line.len() <= 100), "{table}");
    let row: Vec<&str> =
        table.lines().find(|line| line.starts_with("n1")).context("n1")?.split_whitespace().collect();
    ensure!(row[..6] == ["n1", "Enforce", "Programmed", "True", "1", "1"], "{table}");
    let series = "holdfast_policy_nodes{namespace=\"shop\",policy=\"shop/n1\",state=\"enforced\"}";
    ensure!(stage.operator.metric(series).await? == Some(1.0), "{series}");

    // A rule that does less than it asks.
    let weak = json!([{"rule": "syscalls.rules[0]", "asked": "Deny", "given": "KillAfterEffect", "reason": "NoBpfLsm"}]);
    stage.report(&node, &policy, weak, proven()).await?;
    stage.enforced("n1", "False", "RulesWeaker").await?;
    ensure!(!stage.waited("n1")?);
    // A proof that failed, one of an agent that tells of none, one that is old.
    let failed =
        json!({"result": "Failed", "failures": [{"kind": "link", "message": "hf_egress is detached"}]});
    stage.report(&node, &policy, json!([]), failed).await?;
    stage.enforced("n1", "False", "NotProven").await?;
    ensure!(!stage.waited("n1")?);
    stage.report(&node, &policy, json!([]), proven()).await?;
    stage.enforced("n1", "True", "Enforced").await?;
    stage.beat("n1", 600).await?;
    stage.enforced("n1", "False", "NotProven").await?;
    stage.beat("n1", 5).await?;
    stage.enforced("n1", "True", "Enforced").await?;
    // A container that no pod has, and rules that only record.
    let named = stage.policy("n1", json!({"containers": ["mian"]})).await?;
    stage.report(&node, &named, json!([]), proven()).await?;
    stage.enforced("n1", "False", "ContainerNotFound").await?;
    ensure!(!stage.waited("n1")?);
    let audit = stage.policy("n1", json!({"mode": "Audit"})).await?;
    stage.report(&node, &audit, json!([]), proven()).await?;
    stage.enforced("n1", "False", "AuditMode").await?;
    ensure!(!stage.waited("n1")?);

    // The agent stops: from its last heartbeat on, nothing happens at all.
    let policy = stage.policy("n1", json!({})).await?;
    stage.report(&node, &policy, json!([]), proven()).await?;
    let last = stage.beat("n1", 5).await?;
    stage.enforced("n1", "True", "Enforced").await?;
    stage.enforced("n1", "False", "NotReporting").await?;
    let took = last.elapsed();
    println!("{:.1} s from the last heartbeat to NotReporting", took.as_secs_f64());
    ensure!(took < Duration::from_secs(45), "{took:?}");
    ensure!(!stage.waited("n1")?);
    stage.operator.check()?;

    // The flips are told on the policy: a few a minute, though there were more, and the last one in any case.
    let mut told = Vec::new();
    let last = until(PATIENCE + announce::WINDOW, "the last flip is told", async || {
        told = stage.told("n1").await?;
        Ok(told.iter().any(|event| event.action.as_deref() == Some("NotReporting")).then_some(()))
    });
    let last = last.await;
    last.with_context(|| format!("{told:#?}\n{}", stage.operator.log_tail()))?;
    let reasons: BTreeSet<&str> = told.iter().filter_map(|event| event.reason.as_deref()).collect();
    ensure!(reasons.is_superset(&BTreeSet::from(["NotEnforced", "Degraded"])), "{told:#?}");
    let times = |event: &Event| event.series.as_ref().map_or(1, |series| i64::from(series.count));
    let minutes = i64::try_from(began.elapsed().as_secs() / announce::WINDOW.as_secs())? + 1;
    let most = i64::try_from(announce::PER_POLICY)? * minutes;
    let written: i64 = told.iter().map(times).sum();
    ensure!(written <= most, "{written} Events of one policy in {minutes} minutes");
    println!("{written} writes of {} Events in {:.0} s", told.len(), began.elapsed().as_secs_f64());
    for reason in ["forbidden", "invalid", "not-found", "conflict"] {
        let series = format!("holdfast_reconcile_errors_total{{kind=\"Event\",reason=\"{reason}\"}}");
        ensure!(stage.operator.metric(&series).await?.is_none(), "Events could not be written: {series}");
    }
    Ok(())
}
