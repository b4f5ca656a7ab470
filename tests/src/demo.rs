//! Holdfast as a whole: a real API server and the real operator ([`Control`]), and a node with the real agent and pods
//! without a kubelet, whose processes are real and whose cgroups and networks are as on any node ([`site`]). The demo
//! plays a [`script`] on both; the end-to-end suite has them together as a [`Stage`].
//!
//! Everything goes when they are dropped, or when this program dies in any other way: children by the kernel's word
//! ([`crate::process`]), and what the agent pinned with the mount namespace that its BPF file system is in.

use std::{
    net::IpAddr,
    ops::{Deref, DerefMut},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};
use serde_json::json;
use tempfile::TempDir;

use crate::{
    controlplane::{ControlPlane, Options},
    operator::{self, Operator},
    wait::until,
};

pub mod agent;
pub mod attempt;
pub mod http;
pub mod node;
pub mod script;
pub mod site;
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

/// The objects of the cluster: [`NODE`], the namespace and its pods, and the pod that the agent's token is bound to.
pub const CLUSTER: &str = include_str!("demo/cluster.yaml");
/// The pod that the agent's token is bound to.
const AGENT_POD: &str = "agent";
/// How long a policy may take until it is in force everywhere, or nowhere.
const PATIENCE: Duration = Duration::from_mins(3);

/// The control plane with everything of Holdfast's that is not on a node, and the objects of a node and its pods.
pub struct Control {
    /// The operator.
    pub operator: Operator,
    /// The control plane.
    pub cluster: ControlPlane,
}

impl Control {
    /// Makes it, step by step; `step` is told of each before it begins.
    ///
    /// # Errors
    /// When a step fails.
    pub async fn new(step: &mut dyn FnMut(&str)) -> Result<Self> {
        step("starting etcd, kube-apiserver and kube-controller-manager");
        let cluster = ControlPlane::start(Options { controller_manager: true, ..Options::default() }).await?;
        step("applying the CRDs of crds/yaml with kubectl");
        operator::prepare(&cluster)?;
        step("creating a node, a namespace, service accounts and pods");
        cluster.apply(CLUSTER)?;
        step("starting holdfast-operator run");
        let mut operator = Operator::start(&cluster, "operator", &[])?;
        operator.wait_ready().await?;
        Ok(Self { operator, cluster })
    }

    /// Says what a kubelet says of its node: where it is, and which boot of which kernel.
    ///
    /// # Errors
    /// When kubectl fails.
    pub fn report_node(&self, boot_id: &str, kernel: &str) -> Result<()> {
        let addresses = node::addresses(1).map(|ip| json!({ "type": "InternalIP", "address": ip }));
        let status = json!({ "status": {
            "addresses": addresses,
            "conditions": [{ "type": "Ready", "status": "True" }],
            "nodeInfo": {
                "bootID": boot_id, "kernelVersion": kernel, "architecture": "amd64", "operatingSystem": "linux",
                "machineID": "", "systemUUID": "", "osImage": "", "containerRuntimeVersion": "", "kubeletVersion": "",
                "kubeProxyVersion": "",
            },
        }});
        self.patch_status("node", NODE, &status)
    }

    /// The UID that the API server gave a pod.
    ///
    /// # Errors
    /// When there is no such pod.
    pub fn pod_uid(&self, name: &str) -> Result<String> {
        self.cluster.kubectl(&["get", "pod", name, "-n", NAMESPACE, "-o", "jsonpath={.metadata.uid}"])
    }

    /// Says what a kubelet says of a pod that it runs. `number` is what its addresses end with.
    ///
    /// # Errors
    /// When kubectl fails.
    pub fn report_pod(&self, name: &str, number: u8) -> Result<()> {
        let addresses: Vec<String> = node::addresses(number).iter().map(IpAddr::to_string).collect();
        let status = json!({ "status": {
            "phase": "Running",
            "podIP": addresses.first(),
            "podIPs": addresses.iter().map(|ip| json!({ "ip": ip })).collect::<Vec<_>>(),
            "conditions": [{ "type": "Ready", "status": "True" }],
            "containerStatuses": [{
                "name": "main", "containerID": format!("containerd://{}", node::container(number)), "image": name,
                "imageID": "", "ready": true, "restartCount": 0, "started": true,
                "state": { "running": { "startedAt": null } },
            }],
        }});
        self.patch_status("pod", name, &status)
    }

    fn patch_status(&self, kind: &str, name: &str, status: &serde_json::Value) -> Result<()> {
        let patch = status.to_string();
        let subject = ["patch", kind, name, "-n", NAMESPACE];
        let how = ["--subresource=status", "--type=merge", "-p", &patch];
        self.cluster.kubectl(&[&subject[..], &how[..]].concat()).map(drop)
    }

    /// The kubeconfig of the agent, with a token of its node.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn agent_kubeconfig(&self) -> Result<PathBuf> {
        self.cluster.pod_kubeconfig(operator::NAMESPACE, operator::AGENT_ACCOUNT, AGENT_POD)
    }

    /// Applies YAML with kubectl.
    ///
    /// # Errors
    /// When it is refused; the error is what kubectl said.
    pub fn apply(&self, yaml: &str) -> Result<String> {
        self.cluster.apply(yaml)
    }

    /// Waits until the operator says that a policy of [`NAMESPACE`] is in force on all its nodes in this generation.
    ///
    /// # Errors
    /// When it still does not after [`PATIENCE`]; the error shows the policy's status and the operator's log.
    pub async fn wait_programmed(&self, policy: &str) -> Result<()> {
        let path = "{.metadata.generation} {.status.observedGeneration} \
                    {.status.conditions[?(@.type==\"Programmed\")].status}";
        let done = until(PATIENCE, "the policy is programmed", async || {
            let answer = self.policy(policy, path)?;
            let words: Vec<&str> = answer.split_whitespace().collect();
            Ok(matches!(words.as_slice(), [wanted, seen, "True"] if wanted == seen).then_some(()))
        })
        .await;
        done.with_context(|| {
            let list = ["get", "wlp,wln", "-n", NAMESPACE, "-o", "yaml"];
            let status = self.cluster.kubectl(&list).unwrap_or_default();
            format!("{status}\n-- operator:\n{}", self.operator.log_tail())
        })
    }

    /// Waits until no node reports the policy of this UID any more: it is out of every kernel.
    ///
    /// # Errors
    /// When one still does after [`PATIENCE`].
    pub async fn wait_gone(&self, uid: &str) -> Result<()> {
        until(PATIENCE, "no node reports the policy", async || {
            let list = ["get", "wln", "-o", "jsonpath={.items[*].status.policies[*].uid}"];
            Ok((!self.cluster.kubectl(&list)?.contains(uid)).then_some(()))
        })
        .await
    }

    /// A JSON path of a policy of [`NAMESPACE`], as kubectl prints it.
    ///
    /// # Errors
    /// When kubectl fails.
    pub fn policy(&self, policy: &str, path: &str) -> Result<String> {
        self.cluster.kubectl(&["get", "wlp", policy, "-n", NAMESPACE, "-o", &format!("jsonpath={path}")])
    }
}

/// A cluster of one node, which is this machine, with everything of Holdfast's on it.
pub struct Stage {
    /// The agent.
    pub agent: Agent,
    /// The mount namespace of the agent's BPF file system: what is pinned there outlives the agent.
    pub mounts: Mounts,
    /// The node and the pods' processes.
    pub node: Node,
    /// The rest of the cluster.
    pub control: Control,
    /// The agent's files.
    pub folder: TempDir,
}

impl Deref for Stage {
    type Target = Control;

    fn deref(&self) -> &Control {
        &self.control
    }
}

impl DerefMut for Stage {
    fn deref_mut(&mut self) -> &mut Control {
        &mut self.control
    }
}

impl Stage {
    /// Makes it. `program` knows `enter` and `work`, and what [`attempt::try_call`] is asked: the program `demo` of this
    /// crate.
    ///
    /// # Errors
    /// When a step fails. It takes root and a cgroup v2 tree.
    pub async fn new(program: &Path) -> Result<Self> {
        let control = Control::new(&mut |_| ()).await?;
        let mut node = Node::new(program).context("making the node")?;
        control.report_node(&node::boot_id()?, &node::kernel())?;
        for (name, number) in PODS {
            node.run(name, &control.pod_uid(name)?, number)?;
            control.report_pod(name, number)?;
        }
        let folder = tempfile::Builder::new().prefix("holdfast-stage-").tempdir()?;
        let mounts = Mounts::new(folder.path(), &agent::binary()?)?;
        let mut agent =
            Agent::start(&mounts, &control.agent_kubeconfig()?, &node.host_netns(), folder.path())?;
        agent.wait_ready()?;
        Ok(Self { agent, mounts, node, control, folder })
    }

    /// Starts another agent after the last one ended, on the same state and what is pinned.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn restart_agent(&mut self) -> Result<()> {
        let kubeconfig = self.agent_kubeconfig()?;
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
        self.mounts = Mounts::new(self.folder.path(), &agent::binary()?)?;
        Ok(())
    }

    /// Makes a pod by its YAML and runs it, as the kubelet of its node does.
    ///
    /// # Errors
    /// When the API server or the kernel refuses.
    pub fn run_pod(&mut self, yaml: &str, name: &str, number: u8) -> Result<()> {
        self.apply(yaml)?;
        let uid = self.pod_uid(name)?;
        self.node.run(name, &uid, number)?;
        self.report_pod(name, number)
    }
}
