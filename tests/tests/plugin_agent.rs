//! `kubectl holdfast` and the whole of Holdfast: the chart's operator and a real agent on a node with a kubelet, a real
//! connection that is refused, and what the plugin says of it.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use holdfast_tests::{
    chart::{self, Helm, NAMESPACE, RELEASE},
    controlplane::{ControlPlane, Options},
    kubelet::{Kubelet, NodeOptions},
    plugin,
    wait::until,
};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_mins(4);

const SHOP: &str = "apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: shop, namespace: shop}
---
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: shop, labels: {app: client}}
spec:
  serviceAccountName: shop
  automountServiceAccountToken: false
  terminationGracePeriodSeconds: 0
  containers: [{name: main, image: registry.test/tools, command: [sleep, infinity]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: dev, namespace: shop}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: view}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: dev}]
";

const POLICY: &str = "apiVersion: holdfast.dev/v1alpha1
kind: WorkloadPolicy
metadata: {name: client, namespace: shop}
spec:
  selector: {matchLabels: {app: client}}
  network: {egress: {}, onDeny: Reject}
  syscalls: {rules: [{names: [mount], action: Deny}], fallback: Kill}
";

struct Stage {
    node: Kubelet,
    helm: Helm,
    cluster: ControlPlane,
}

impl Stage {
    async fn new() -> Result<Self> {
        let cluster = ControlPlane::start(Options::whole()).await?;
        let helm = Helm::with_cluster(&cluster.kubeconfig("admin", Some("system:masters"))?)?;
        let node = Kubelet::start(&cluster, NodeOptions::named("node-a")).await?;
        Ok(Self { node, helm, cluster })
    }

    fn kubectl(&self, words: &str) -> Result<String> {
        self.cluster.kubectl(&words.split(' ').collect::<Vec<_>>())
    }

    fn holdfast(&self, user: &str, words: &str) -> Result<plugin::Said> {
        let kubeconfig = self.cluster.kubeconfig(user, (user == "admin").then_some("system:masters"))?;
        plugin::run(&kubeconfig, self.cluster.folder(), &words.split(' ').collect::<Vec<_>>())
    }

    async fn until<T>(&self, what: &str, condition: impl AsyncFnMut() -> Result<Option<T>>) -> Result<T> {
        until(PATIENCE, what, condition).await.with_context(|| {
            let objects =
                self.kubectl("get pods,nodeagents,workloadnodes,wlp -A -o yaml").unwrap_or_default();
            format!("{objects}\n{}", self.node.own_log())
        })
    }

    /// The policy's rules and the client that they are about are seen to work.
    async fn begin(&self) -> Result<()> {
        let chart = chart::directory().display().to_string();
        self.helm.run(&["install", RELEASE, &chart, "--namespace", NAMESPACE, "--create-namespace"])?;
        self.cluster.apply(SHOP)?;
        self.cluster.apply(POLICY)?;
        self.until("the policy is in force", async || {
            let path = "{.status.observedGeneration} {.status.conditions[?(@.type==\"Programmed\")].status}";
            let path = format!("jsonpath={path}");
            let said = self.cluster.kubectl(&["get", "wlp", "client", "-n", "shop", "-o", &path])?;
            Ok((said == "1 True").then_some(()))
        })
        .await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_a_real_agent_refuses_is_explained_and_logged() -> Result<()> {
    let stage = Arc::new(Stage::new().await?);
    stage.begin().await?;

    let status = stage.holdfast("admin", "status -A")?;
    println!("$ kubectl holdfast status -A\n{}", status.out);
    ensure!(status.code == 0 && status.out.contains("nodes      1: 1 alive"), "{status:?}");
    ensure!(status.out.contains("agents     NodeAgent default: 1 wanted"), "{status:?}");
    ensure!(status.out.contains("\nshop/client "), "{status:?}");
    let detail = stage.holdfast("admin", "status client -n shop")?;
    println!("$ kubectl holdfast status client -n shop\n{}", detail.out);
    ensure!(detail.out.contains("network.egress"), "{detail:?}");

    let question = "explain --from shop/client --to 192.0.2.1 --port 443 --syscall mount";
    let said = stage.holdfast("admin", question)?;
    println!("$ kubectl holdfast {question}; echo $?\n{}{}", said.out, said.code);
    ensure!(said.code == 1 && said.err.is_empty(), "{said:?}");
    ensure!(
        said.out.contains(
            "denied, as shop/client isolates it and no rule allows this (Reject: EPERM at connect)\n    on node-a: in \
             force by cgroup_skb\n"
        ),
        "{said:?}"
    );
    // What the kernel of this machine gives the call is what the agent reports of it.
    let row = "jsonpath={.items[*].status.policies[*].rules[?(@.rule==\"syscalls.rules[0]\")].given}";
    let given = stage.cluster.kubectl(&["get", "wln", "-o", row])?;
    let expected = if given.is_empty() {
        "on node-a: in force by ".to_owned()
    } else {
        format!("on node-a: given {given}")
    };
    ensure!(said.out.contains(&expected), "{expected} is not in {said:?}");
    ensure!(!said.out.contains("nodes take"), "the slices and the pods say the same: {said:?}");

    // The refusal itself: in the agent's log for an admin, in a Kubernetes Event for a user of the namespace.
    let program = "import socket; socket.create_connection(('192.0.2.1', 443), 1)";
    let output = stage.node.exec("shop", "client", "main", &["python3", "-c", program])?;
    ensure!(String::from_utf8_lossy(&output.stderr).contains("PermissionError"), "{output:?}");
    let event = stage
        .until("the agent logs it", async || {
            let said = stage.holdfast("admin", "logs -n shop --kind denied --policy client -o json")?;
            ensure!(said.code == 0, "{said:?}");
            let line = said.out.lines().find(|line| line.contains("192.0.2.1:443"));
            Ok(line.map(serde_json::from_str::<Value>).transpose()?)
        })
        .await?;
    assert_eq!(event["node"], "node-a");
    assert_eq!(event["pod"]["name"], "client");
    assert_eq!(event["rule"], "network.egress");
    let text = stage.holdfast("admin", "logs -n shop")?;
    println!("$ kubectl holdfast logs -n shop\n{}", text.out);
    ensure!(text.out.contains("DENIED   shop/"), "{text:?}");
    ensure!(stage.holdfast("admin", "logs -n default")?.out.is_empty());
    let text = stage
        .until("a Kubernetes Event tells of it", async || {
            let said = stage.holdfast("dev", "logs -n shop --pod client")?;
            Ok((said.code == 0 && said.out.contains("shop/Pod/client")).then_some(said))
        })
        .await?;
    println!(
        "$ kubectl holdfast logs -n shop --pod client   # as a user of one namespace\n{}{}",
        text.err, text.out
    );
    ensure!(text.err.starts_with("note: the agents' logs may not be read"), "{text:?}");
    ensure!(stage.holdfast("dev", "logs -n shop --policy shop/other")?.out.is_empty());
    ensure!(!stage.holdfast("dev", "logs -n shop --policy client")?.out.is_empty());
    Ok(())
}
