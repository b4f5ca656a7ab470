//! Holdfast as a whole on one machine: a real API server, the real operator and the real agent as child processes, and
//! pods without a kubelet, whose processes are real and whose cgroups and networks are as on a node. [`Stage`] is what
//! `make demo` and the end-to-end suite share; [`script`] is what the demo does on it.
//!
//! Everything goes when a [`Stage`] is dropped, or when this program dies in any other way: children by the kernel's
//! word ([`crate::process`]), and what the agent pinned with the mount namespace that its BPF file system is in.

use std::{path::Path, time::Duration};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::{
    controlplane::{ControlPlane, Options},
    operator::{self, Operator},
};

pub mod agent;
pub mod attempt;
pub mod http;
pub mod node;
pub mod script;
pub mod table;

use agent::{Agent, Mounts};
use node::Node;

/// The name of the node, and of its agent's report.
pub const NODE: &str = "node-1";
/// The namespace of the pods.
pub const NAMESPACE: &str = "shop";
/// The pods, with the last number of their addresses.
pub const PODS: [(&str, u8); 4] = [("web", 11), ("api", 12), ("db", 13), ("batch", 14)];
/// The policy that the demo applies: its text, as a user would write it.
pub const POLICY: &str = include_str!("demo/policy.yaml");

const CLUSTER: &str = include_str!("demo/cluster.yaml");
const AGENT_ROLES: &str = include_str!("demo/agent-roles.yaml");
/// As whom the agent talks to the API server.
const AGENT_USER: &str = "holdfast-agent";

/// A cluster of one node with everything of Holdfast's on it.
pub struct Stage {
    /// The operator.
    pub operator: Operator,
    /// The agent.
    pub agent: Agent,
    /// The mount namespace of the agent's BPF file system: what is pinned there outlives the agent.
    pub mounts: Mounts,
    /// The node and the pods' processes.
    pub node: Node,
    /// The control plane.
    pub cluster: ControlPlane,
    /// The agent's files.
    pub folder: TempDir,
}

impl Stage {
    /// Makes it, step by step; `step` is told of each before it begins. `program` knows `enter` and `work`, and what
    /// [`attempt::try_call`] is asked: the program `demo` of this crate.
    ///
    /// # Errors
    /// When a step fails. It takes root and a cgroup v2 tree.
    pub async fn new(program: &Path, mut step: impl FnMut(&str)) -> Result<Self> {
        step("starting etcd, kube-apiserver and kube-controller-manager");
        let cluster = ControlPlane::start(Options { controller_manager: true, ..Options::default() }).await?;
        step("applying the CRDs of crds/yaml with kubectl");
        operator::prepare(&cluster)?;
        apply(&cluster, AGENT_ROLES)?;
        step("creating a node, a namespace, service accounts and pods");
        apply(&cluster, CLUSTER)?;
        let mut node = Node::new(program).context("making the node")?;
        report_node(&cluster, &node)?;
        for (name, number) in PODS {
            run_pod(&cluster, &mut node, name, number).with_context(|| format!("running the pod {name}"))?;
        }
        step("starting holdfast-operator run");
        let mut operator = Operator::start(&cluster, "operator", &[])?;
        operator.wait_ready().await?;
        step("starting holdfast-agent run --source api");
        let folder = tempfile::Builder::new().prefix("holdfast-demo-").tempdir()?;
        let mounts = Mounts::new(folder.path())?;
        let kubeconfig = cluster.kubeconfig(AGENT_USER, None)?;
        let mut agent = Agent::start(&mounts, &kubeconfig, &node.host_netns(), folder.path())?;
        agent.wait_ready()?;
        Ok(Self { operator, agent, mounts, node, cluster, folder })
    }

    /// Starts another agent after the last one ended, on the same state and what is pinned.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn restart_agent(&mut self) -> Result<()> {
        let kubeconfig = self.cluster.kubeconfig(AGENT_USER, None)?;
        self.agent = Agent::start(&self.mounts, &kubeconfig, &self.node.host_netns(), self.folder.path())?;
        Ok(())
    }

    /// Takes everything out of the kernel at once, as a reboot of the node does: the agent is killed, and nothing pinned
    /// stays. The pods' processes go on, and the agent's state on disk stays.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn lose_kernel_state(&mut self) -> Result<()> {
        self.agent.kill()?;
        self.mounts.end()?;
        self.mounts = Mounts::new(self.folder.path())?;
        Ok(())
    }

    /// Applies YAML with kubectl.
    ///
    /// # Errors
    /// When it is refused; the error is what kubectl said.
    pub fn apply(&self, yaml: &str) -> Result<String> {
        apply(&self.cluster, yaml)
    }

    /// Waits until the operator says that a policy of [`NAMESPACE`] is in force on all its nodes in this generation.
    ///
    /// # Errors
    /// When it does not in a minute; the error shows the policy's status and the logs.
    pub async fn wait_programmed(&mut self, policy: &str) -> Result<()> {
        let path = "{.metadata.generation} {.status.observedGeneration} \
                    {.status.conditions[?(@.type==\"Programmed\")].status}";
        let output = format!("jsonpath={path}");
        let arguments = ["get", "wlp", policy, "-n", NAMESPACE, "-o", &output];
        let cluster = &self.cluster;
        let done = crate::wait::until(Duration::from_mins(1), "the policy is programmed", async || {
            let answer = cluster.kubectl(&arguments)?;
            let words: Vec<&str> = answer.split_whitespace().collect();
            Ok(matches!(words.as_slice(), [wanted, seen, "True"] if wanted == seen).then_some(()))
        })
        .await;
        done.with_context(|| {
            let status =
                cluster.kubectl(&["get", "wlp,wln", "-n", NAMESPACE, "-o", "yaml"]).unwrap_or_default();
            format!(
                "{status}\n-- operator:\n{}\n-- agent:\n{}",
                self.operator.log_tail(),
                self.agent.log_tail()
            )
        })
    }

    /// Waits until nobody reports the policy of this UID any more: it is out of every node's kernel.
    ///
    /// # Errors
    /// When it still is after a minute.
    pub async fn wait_gone(&self, uid: &str) -> Result<()> {
        crate::wait::until(Duration::from_mins(1), "no node reports the policy", async || {
            let reported =
                self.cluster.kubectl(&["get", "wln", "-o", "jsonpath={.items[*].status.policies[*].uid}"])?;
            Ok((!reported.contains(uid)).then_some(()))
        })
        .await
    }

    /// Makes a pod by its YAML and runs it, as the kubelet of its node does.
    ///
    /// # Errors
    /// When the API server or the kernel refuses.
    pub fn run_pod(&mut self, yaml: &str, name: &str, number: u8) -> Result<()> {
        self.apply(yaml)?;
        run_pod(&self.cluster, &mut self.node, name, number)
    }

    /// A JSON path of a policy of [`NAMESPACE`], as kubectl prints it.
    ///
    /// # Errors
    /// When kubectl fails.
    pub fn policy(&self, policy: &str, path: &str) -> Result<String> {
        self.cluster.kubectl(&["get", "wlp", policy, "-n", NAMESPACE, "-o", &format!("jsonpath={path}")])
    }
}

fn apply(cluster: &ControlPlane, yaml: &str) -> Result<String> {
    let output = cluster.kubectl_output(&["apply", "-f", "-"], yaml)?;
    if !output.status.success() {
        bail!("kubectl apply failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// What a kubelet says of its node: where it is, and which boot of which kernel.
fn report_node(cluster: &ControlPlane, node: &Node) -> Result<()> {
    let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let uname = rustix::system::uname();
    let status = serde_json::json!({ "status": {
        "addresses": node.addresses().map(|ip| serde_json::json!({ "type": "InternalIP", "address": ip })),
        "conditions": [{ "type": "Ready", "status": "True" }],
        "nodeInfo": {
            "bootID": boot_id.trim(), "kernelVersion": uname.release().to_string_lossy(),
            "architecture": "amd64", "operatingSystem": "linux", "machineID": "", "systemUUID": "", "osImage": "",
            "containerRuntimeVersion": "", "kubeletVersion": "", "kubeProxyVersion": "",
        },
    }});
    cluster.kubectl(&[
        "patch",
        "node",
        NODE,
        "--subresource=status",
        "--type=merge",
        "-p",
        &status.to_string(),
    ])?;
    Ok(())
}

/// Runs a pod that the API knows, and says so, as a kubelet does.
fn run_pod(cluster: &ControlPlane, node: &mut Node, name: &str, number: u8) -> Result<()> {
    let uid = cluster.kubectl(&["get", "pod", name, "-n", NAMESPACE, "-o", "jsonpath={.metadata.uid}"])?;
    let pod = node.run(name, &uid, number)?;
    let addresses: Vec<String> = pod.addresses.iter().map(ToString::to_string).collect();
    let status = serde_json::json!({ "status": {
        "phase": "Running",
        "podIP": addresses.first(),
        "podIPs": addresses.iter().map(|ip| serde_json::json!({ "ip": ip })).collect::<Vec<_>>(),
        "conditions": [{ "type": "Ready", "status": "True" }],
        "containerStatuses": [{
            "name": "main", "containerID": format!("containerd://{}", pod.container), "image": name, "imageID": "",
            "ready": true, "restartCount": 0, "started": true,
            "state": { "running": { "startedAt": null } },
        }],
    }});
    cluster.kubectl(&[
        "patch",
        "pod",
        name,
        "-n",
        NAMESPACE,
        "--subresource=status",
        "--type=merge",
        "-p",
        &status.to_string(),
    ])?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_readme_shows_the_policy_of_the_demo() {
        let readme = std::fs::read_to_string(crate::tools::root().join("README.md")).unwrap();
        assert!(
            readme.contains(&format!("```yaml\n{POLICY}```")),
            "README.md differs from tests/src/demo/policy.yaml"
        );
    }
}
