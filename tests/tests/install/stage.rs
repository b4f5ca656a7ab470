//! A cluster that Helm installs into, and what runs on it.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    future::Future,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use holdfast_tests::{
    chart::{self, Helm, Key, NAMESPACE, Objects, RELEASE, objects},
    controlplane::{ControlPlane, Options},
    kubelet::{Kubelet, NodeOptions},
    wait::until,
};
use serde_json::Value;

use super::PATIENCE;

/// A cluster and Helm. Nodes go first, as what they run are clients of the control plane.
pub(super) struct Stage {
    pub(super) nodes: Vec<Kubelet>,
    pub(super) helm: Arc<Helm>,
    pub(super) cluster: ControlPlane,
}

impl Stage {
    pub(super) async fn new(nodes: &[NodeOptions]) -> Result<Self> {
        let cluster = ControlPlane::start(Options::whole()).await?;
        let helm = Arc::new(Helm::with_cluster(&cluster.kubeconfig("admin", Some("system:masters"))?)?);
        let mut stage = Self { nodes: Vec::new(), helm, cluster };
        for node in nodes {
            stage.nodes.push(Kubelet::start(&stage.cluster, node.clone()).await?);
        }
        until(PATIENCE, "the built-in namespaces have what the control plane puts into each", async || {
            let found = stage.kubectl("get serviceaccounts,configmaps -A -o name")?;
            let count = |what: &str| found.lines().filter(|line| line.ends_with(what)).count();
            Ok((count("/default") >= 4 && count("/kube-root-ca.crt") >= 4).then_some(()))
        })
        .await?;
        Ok(stage)
    }

    pub(super) fn kubectl(&self, words: &str) -> Result<String> {
        self.cluster.kubectl(&words.split(' ').collect::<Vec<_>>())
    }

    /// Runs Helm in a thread, so that the test sees what happens meanwhile.
    pub(super) fn helm(&self, command: &str, more: &[&str]) -> impl Future<Output = Result<String>> + use<> {
        let mut words: Vec<OsString> = command.split(' ').map(OsString::from).collect();
        words.extend(["--namespace", NAMESPACE].map(OsString::from));
        words.extend(more.iter().map(OsString::from));
        let helm = Arc::clone(&self.helm);
        let run = tokio::task::spawn_blocking(move || helm.run(&words));
        async { run.await? }
    }

    pub(super) fn install(
        &self,
        chart: &Path,
        more: &[&str],
    ) -> impl Future<Output = Result<String>> + use<> {
        let all = [&["--create-namespace", "--wait", "--timeout", "3m"], more].concat();
        self.helm(&format!("install {RELEASE} {}", chart.display()), &all)
    }

    pub(super) fn upgrade(&self, more: &[&str]) -> impl Future<Output = Result<String>> + use<> {
        let chart = chart::directory().display().to_string();
        let all = [&["--wait", "--timeout", "3m"], more].concat();
        self.helm(&format!("upgrade {RELEASE} {chart}"), &all)
    }

    /// What says why something is not so.
    pub(super) fn why(&self) -> String {
        let mut text = String::new();
        for words in [
            "get nodes,pods,daemonsets,deployments,leases,nodeagents,workloadnodes -A -o wide".to_owned(),
            "get nodeagents,workloadpolicies,workloadnodes -A -o yaml".to_owned(),
            format!("describe pods -n {NAMESPACE}"),
        ] {
            text += &self.kubectl(&words).unwrap_or_else(|error| format!("{error:#}"));
        }
        for pod in self.pods("app.kubernetes.io/name").unwrap_or_default() {
            let log = self.kubectl(&format!("logs -n {NAMESPACE} {pod} --tail=60"));
            let log = log.unwrap_or_else(|error| format!("{error:#}"));
            text.extend(["\n-- ", &pod, "\n", &log]);
        }
        for node in &self.nodes {
            text.extend(["\n-- ", node.name(), "\n", &node.own_log()]);
        }
        text
    }

    pub(super) async fn until<T>(
        &self,
        what: &str,
        condition: impl AsyncFnMut() -> Result<Option<T>>,
    ) -> Result<T> {
        until(PATIENCE, what, condition).await.with_context(|| self.why())
    }

    /// The names of pods in Holdfast's namespace with these labels.
    pub(super) fn pods(&self, labels: &str) -> Result<Vec<String>> {
        let names = self.kubectl(&format!("get pods -n {NAMESPACE} -l {labels} -o name"))?;
        Ok(names.lines().filter_map(|line| Some(line.strip_prefix("pod/")?.to_owned())).collect())
    }

    pub(super) fn operators(&self) -> Result<Vec<String>> {
        self.pods("app.kubernetes.io/component=operator")
    }

    /// Waits until the operator says that every node has a ready agent of the current generation.
    pub(super) async fn agents_available(&self) -> Result<()> {
        self.until("the NodeAgent is available", async || {
            let path = "{.metadata.generation} {.status.observedGeneration} \
                        {.status.conditions[?(@.type==\"Available\")].status}";
            let answer =
                self.cluster.kubectl(&["get", "nodeagent", "default", "-o", &format!("jsonpath={path}")])?;
            let words: Vec<&str> = answer.split(' ').collect();
            Ok(matches!(words.as_slice(), [wanted, seen, "True"] if wanted == seen).then_some(()))
        })
        .await
    }

    /// Waits until the policy `client` is in force where it should be, as its status says.
    pub(super) async fn programmed(&self) -> Result<()> {
        self.until("the policy is programmed", async || {
            let path = "{.metadata.generation} {.status.observedGeneration} {.status.nodes.selected} \
                        {.status.nodes.programmed} {.status.conditions[?(@.type==\"Programmed\")].status}";
            let answer = self.cluster.kubectl(&[
                "get",
                "wlp",
                "client",
                "-n",
                "shop",
                "-o",
                &format!("jsonpath={path}"),
            ])?;
            let words: Vec<&str> = answer.split(' ').collect();
            Ok(matches!(words.as_slice(), [wanted, seen, "1", "1", "True"] if wanted == seen).then_some(()))
        })
        .await
    }

    pub(super) fn leader(&self) -> Result<String> {
        self.kubectl(&format!(
            "get lease holdfast-operator -n {NAMESPACE} -o jsonpath={{.spec.holderIdentity}}"
        ))
    }

    /// Whether the client's process reaches a port of the server's.
    pub(super) fn reaches(&self, port: u16) -> Result<bool> {
        let server = self.kubectl("get pod server -n shop -o jsonpath={.status.podIP}")?;
        let program = format!(
            "import socket; print(socket.create_connection(('{server}', {port}), 1).recv(16).decode())"
        );
        let node = self.nodes.first().context("no node")?;
        let output = node.exec("shop", "client", "main", &["python3", "-c", &program])?;
        let said = String::from_utf8_lossy(&output.stdout);
        let wrong = String::from_utf8_lossy(&output.stderr);
        ensure!(
            said.trim() == "hello" || wrong.contains("PermissionError") || wrong.contains("TimeoutError"),
            "the client's attempt says {said} and {wrong}"
        );
        Ok(said.trim() == "hello")
    }

    /// That the policy of the client is in force: it reaches one port, and not the other.
    pub(super) fn in_force(&self) -> Result<()> {
        ensure!(self.reaches(8080)?, "what is allowed does not get through\n{}", self.why());
        ensure!(!self.reaches(9000)?, "what is refused gets through\n{}", self.why());
        Ok(())
    }

    /// Requests of Holdfast's service accounts that the API server has refused for want of a permission.
    pub(super) fn forbidden(&self) -> Result<BTreeMap<String, usize>> {
        let mut found = BTreeMap::new();
        for event in self.cluster.audit_events()? {
            let text = |pointer: &str| event.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
            let user = text("/user/username");
            if user.starts_with(&format!("system:serviceaccount:{NAMESPACE}:"))
                && event.pointer("/responseStatus/code").and_then(Value::as_i64) == Some(403)
            {
                *found.entry(format!("{user} {} {}", text("/verb"), text("/requestURI"))).or_default() += 1;
            }
        }
        Ok(found)
    }
}

/// A server of two ports, and a client of it.
pub(super) const SHOP: &str = r#"apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: shop, namespace: shop}
---
apiVersion: v1
kind: Pod
metadata: {name: server, namespace: shop, labels: {app: server}}
spec:
  serviceAccountName: shop
  automountServiceAccountToken: false
  terminationGracePeriodSeconds: 0
  nodeSelector: {kubernetes.io/hostname: node-a}
  containers:
  - name: main
    image: registry.test/tools
    command: [python3, -u, -c]
    args:
    - |
      import socketserver, threading
      class Hello(socketserver.BaseRequestHandler):
          def handle(self): self.request.sendall(b"hello")
      socketserver.TCPServer.allow_reuse_address = True
      for port in (8080, 9000):
          server = socketserver.ThreadingTCPServer(("", port), Hello)
          threading.Thread(target=server.serve_forever).start()
    readinessProbe: {tcpSocket: {port: 9000}, periodSeconds: 1}
---
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: shop, labels: {app: client}}
spec:
  serviceAccountName: shop
  automountServiceAccountToken: false
  terminationGracePeriodSeconds: 0
  nodeSelector: {kubernetes.io/hostname: node-a}
  containers: [{name: main, image: registry.test/tools, command: [sleep, infinity]}]
"#;

pub(super) const POLICY: &str = r"apiVersion: holdfast.dev/v1alpha1
kind: WorkloadPolicy
metadata: {name: client, namespace: shop}
spec:
  selector: {matchLabels: {app: client}}
  network:
    egress:
      allow: [{to: [{podSelector: {matchLabels: {app: server}}}], ports: [{protocol: TCP, port: 8080}]}]
    onDeny: Reject
";

/// Objects that change by themselves while nobody changes anything: heartbeats, and what Helm keeps of releases.
fn restless(key: &Key) -> bool {
    let (kind, _, name) = key;
    kind == "Lease.coordination.k8s.io" || (kind == "Secret" && name.starts_with("sh.helm.release."))
}

/// The keys of what was added, removed, or changed from one time to another.
pub(super) fn differences(before: &Objects, after: &Objects) -> BTreeSet<Key> {
    let changed =
        after.iter().filter(|(key, version)| before.get(*key) != Some(*version)).map(|(key, _)| key);
    let removed = before.keys().filter(|key| !after.contains_key(*key));
    changed.chain(removed).filter(|key| !restless(key)).cloned().collect()
}

pub(super) fn names(keys: &BTreeSet<Key>) -> Vec<String> {
    keys.iter().map(|(kind, _, name)| format!("{kind} {name}")).collect()
}

/// What an installation may leave: the CRDs, and the namespace that Helm made for it.
pub(super) fn may_stay(key: &Key) -> bool {
    let (kind, namespace, name) = key;
    match kind.as_str() {
        "CustomResourceDefinition.apiextensions.k8s.io" => name.ends_with(".holdfast.dev"),
        "APIService.apiregistration.k8s.io" => name == "v1alpha1.holdfast.dev",
        "Namespace" => name == NAMESPACE,
        // What the control plane puts into every namespace.
        "ServiceAccount" => namespace == NAMESPACE && name == "default",
        "ConfigMap" => namespace == NAMESPACE && name == "kube-root-ca.crt",
        _ => false,
    }
}

/// Waits until no controller has anything left to do.
pub(super) async fn settled(stage: &Stage) -> Result<Objects> {
    let mut last = (objects(&stage.cluster).await?, Instant::now());
    stage
        .until("nothing changes for three seconds", async || {
            let now = objects(&stage.cluster).await?;
            if !differences(&last.0, &now).is_empty() {
                last = (now, Instant::now());
                return Ok(None);
            }
            Ok((last.1.elapsed() > Duration::from_secs(3)).then_some(now))
        })
        .await
}
