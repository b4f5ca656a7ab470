//! The cluster that the suite runs on: two namespaces, people with different permissions, an operator, and a node whose
//! report and whose agents' logs are the test's.

use std::{
    path::PathBuf,
    sync::{Arc, Weak},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use holdfast_crds::{WorkloadNode, WorkloadPolicy};
use holdfast_tests::{
    chart::{self, Helm},
    controlplane::{ControlPlane, Options},
    kubelet::{Kubelet, NodeOptions},
    operator::{self, NAMESPACE, Operator},
    plugin::{self, Said},
    wait::until,
};
use k8s_openapi::{
    api::{coordination::v1::Lease, core::v1::Node},
    jiff::Timestamp,
};
use kube::{
    Api, Client, ResourceExt,
    api::{ListParams, Patch, PatchParams},
};
use serde_json::{Value, json};
use tokio::sync::Mutex;

pub(crate) const SOON: Duration = Duration::from_mins(2);
pub(crate) const NODE: &str = "node-1";
/// Stands in places where secrets stand, and must be in no bundle.
pub(crate) const PLANTED: &str = "hunter2correcthorse";

pub(crate) const CLUSTER: &str = include_str!("cluster.yaml");

/// A cluster of one node, for all tests that run at a time.
pub(crate) struct Stage {
    operator: Operator,
    pub(crate) node: Kubelet,
    pub(crate) cluster: ControlPlane,
}

pub(crate) async fn stage() -> Result<Arc<Stage>> {
    static STAGE: Mutex<Weak<Stage>> = Mutex::const_new(Weak::new());
    let mut shared = STAGE.lock().await;
    if let Some(stage) = shared.upgrade() {
        return Ok(stage);
    }
    let stage = Arc::new(Stage::new().await?);
    *shared = Arc::downgrade(&stage);
    Ok(stage)
}

impl Stage {
    pub(crate) async fn new() -> Result<Self> {
        let cluster = ControlPlane::start(Options::whole()).await?;
        operator::prepare(&cluster)?;
        let chart = chart::directory().display().to_string();
        let users = ["template", chart::RELEASE, &chart, "--show-only", "templates/rbac-users.yaml"];
        operator::apply(&cluster, &Helm::new()?.run(&users)?)?;
        let node = Kubelet::start(&cluster, NodeOptions::named(NODE)).await?;
        operator::apply(&cluster, &CLUSTER.replace("PLANTED", PLANTED))?;
        let mut operator = Operator::start(&cluster, "operator", &[])?;
        operator.wait_ready().await?;
        let stage = Self { operator, node, cluster };
        stage
            .wait("pods run", "get pods -A -o jsonpath={.items[*].status.phase}", |phases| {
                phases.split(' ').count() == 5 && phases.split(' ').all(|phase| phase == "Running")
            })
            .await
            .with_context(|| stage.node.own_log())?;
        stage
            .wait(
                "a backend is ready",
                "get endpointslices -n shop -o jsonpath={.items[*].endpoints[*].conditions.ready}",
                |ready| ready == "true",
            )
            .await?;
        // The controller manager gathers what people may do.
        stage
            .wait("dev may read policies", "auth can-i list workloadpolicies -n shop --as dev", |said| {
                said == "yes"
            })
            .await?;
        stage
            .wait(
                "sre may read logs",
                &format!("auth can-i get pods --subresource=log -n {NAMESPACE} --as sre"),
                |said| said == "yes",
            )
            .await?;
        stage.report().await?;
        stage
            .wait(
                "policies are in force",
                "get wlp -n shop -o jsonpath={.items[*].status.conditions[?(@.type==\"Programmed\")].status}",
                |said| said == "True True",
            )
            .await
            .with_context(|| stage.operator.log_tail())?;
        stage
            .wait("slices know the pods", "get adsl -o jsonpath={.items[*].addresses[*].node}", |said| {
                said.split(' ').filter(|node| *node == NODE).count() >= 4
            })
            .await?;
        Ok(stage)
    }

    /// What the agent of the node would report: policies in force, but for one rule on this kernel.
    pub(crate) async fn report(&self) -> Result<()> {
        let client = self.cluster.client().await?;
        let node = Api::<Node>::all(client.clone()).get(NODE).await?;
        let boot = node
            .status
            .as_ref()
            .and_then(|status| status.node_info.as_ref())
            .map(|info| info.boot_id.clone());
        let policies =
            Api::<WorkloadPolicy>::namespaced(client.clone(), "shop").list(&ListParams::default()).await?;
        let rows: Vec<Value> = policies
            .items
            .iter()
            .map(|policy| {
                let short = json!([{"rule": "syscalls.rules[0]", "asked": "Deny", "given": "KillAfterEffect",
                    "mechanism": "sys_enter", "reason": "NoLsmAndNoFmodRet"}]);
                json!({
                    "namespace": "shop", "name": policy.name_any(), "uid": policy.uid(),
                    "generation": policy.metadata.generation, "state": "Programmed", "workloads": 1, "omitted": 0,
                    "rules": if policy.name_any() == "api" { short } else { json!([]) },
                })
            })
            .collect();
        let object = json!({
            "apiVersion": "holdfast.dev/v1alpha1", "kind": "WorkloadNode", "metadata": {"name": NODE},
        });
        let status = json!({
            "nodeUid": node.uid(), "bootId": boot, "agentVersion": env!("CARGO_PKG_VERSION"),
            "kernel": {"release": "6.18.0", "architecture": "x86_64"},
            "mechanisms": [
                {"name": "fmod_ret", "state": "Unavailable", "reason": "refused"},
                {"name": "lsm", "state": "Unavailable", "reason": "never called"},
                {"name": "sys_enter", "state": "Available"},
            ],
            "policies": rows, "omitted": 0, "observedAt": Timestamp::now(),
            "proof": {"result": "Proven", "time": Timestamp::now(), "tried": ["cgroup_skb"]},
        });
        let params = PatchParams::apply("test").force();
        let api: Api<WorkloadNode> = Api::all(client.clone());
        api.patch(NODE, &params, &Patch::Apply(&object)).await?;
        let mut whole = object;
        whole["status"] = status;
        api.patch_status(NODE, &params, &Patch::Apply(&whole)).await?;
        heartbeat(&client).await
    }

    pub(crate) fn kubectl(&self, words: &str) -> Result<String> {
        self.cluster.kubectl(&words.split(' ').collect::<Vec<_>>())
    }

    pub(crate) async fn wait(&self, what: &str, words: &str, is: impl Fn(&str) -> bool) -> Result<()> {
        let mut seen = String::new();
        until(SOON, what, async || {
            let output = self.cluster.kubectl_output(&words.split(' ').collect::<Vec<_>>(), "")?;
            String::from_utf8_lossy(&output.stdout).trim().clone_into(&mut seen);
            Ok(is(&seen).then_some(()))
        })
        .await
        .with_context(|| format!("it is {seen}"))
    }

    pub(crate) fn kubeconfig(&self, user: &str) -> Result<PathBuf> {
        self.cluster.kubeconfig(user, (user == "admin").then_some("system:masters"))
    }

    /// `kubectl holdfast` as some user.
    pub(crate) fn holdfast(&self, user: &str, words: &[&str]) -> Result<Said> {
        plugin::run(&self.kubeconfig(user)?, self.cluster.folder(), words)
    }

    /// The same; it must succeed.
    pub(crate) fn told(&self, user: &str, words: &[&str]) -> Result<String> {
        let said = self.holdfast(user, words)?;
        ensure!(said.code == 0, "{words:?}: {said:?}");
        Ok(said.out)
    }

    /// Has an agent write a line to its log.
    pub(crate) fn write(&self, agent: &str, line: &str) -> Result<()> {
        let words = ["sh", "-c", "printf '%s\\n' \"$1\" >/tmp/pipe", "sh", line];
        let output = self.node.exec(NAMESPACE, agent, "agent", &words)?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    /// Writes lines, and waits until the log has the last.
    pub(crate) async fn write_all(&self, agent: &str, lines: &[String]) -> Result<()> {
        for line in lines {
            self.write(agent, line)?;
        }
        until(SOON, "the log has the lines", async || {
            let log = self.node.log(NAMESPACE, agent, "agent")?;
            Ok(lines.iter().all(|line| log.contains(line.as_str())).then_some(()))
        })
        .await
    }
}

/// Renews the Lease of the node's agent, for an hour.
pub(crate) async fn heartbeat(client: &Client) -> Result<()> {
    let name = format!("holdfast-agent-{NODE}");
    let now = Timestamp::now();
    let lease = json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {"holderIdentity": NODE, "leaseDurationSeconds": 3600, "renewTime": format!("{now:.6}")},
    });
    let api: Api<Lease> = Api::namespaced(client.clone(), NAMESPACE);
    api.patch(&name, &PatchParams::apply("test").force(), &Patch::Apply(&lease)).await?;
    Ok(())
}

/// An event of a pod of the namespace; the moment counts seconds of one minute.
pub(crate) fn event(namespace: &str, pod: &str, kind: &str, moment: u8, note: &str) -> String {
    json!({
        "schema": "holdfast.dev/event/v1", "time": format!("2026-11-25T01:00:{moment:02}.000000001Z"), "node": NODE,
        "kind": kind, "namespace": namespace, "workload": format!("Deployment/{pod}"),
        "pod": {"name": pod, "uid": "u"}, "process": {"pid": 7, "executable": note},
        "policy": format!("{namespace}/{pod}"), "generation": 1, "rule": "network.egress", "ruleKind": "network",
        "mechanism": "cgroup_skb", "asked": "Deny", "given": if kind == "Denied" { "Drop" } else { "Audit" },
        "network": {"direction": "Egress", "protocol": "TCP", "destination": "192.0.2.1:443"}, "count": 1,
    })
    .to_string()
}
