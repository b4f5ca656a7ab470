//! A node with a kubelet, for tests: it registers with a [`ControlPlane`], runs the pods that the scheduler gives it as
//! real containers under Debian's crun, probes them, reports them, and serves their logs.
//!
//! ```no_run
//! use holdfast_tests::{controlplane::{ControlPlane, Options}, kubelet::{Kubelet, NodeOptions}};
//!
//! # async fn test() -> anyhow::Result<()> {
//! let cluster = ControlPlane::start(Options::whole()).await?;
//! let node = Kubelet::start(&cluster, NodeOptions::named("node-1")).await?;
//! // ... a Deployment of the image `registry.test/holdfast/operator:v1` ...
//! let metrics = node.forward("holdfast-system", "holdfast-operator-0", 9466)?; // an address on this machine's loopback
//! cluster.kubectl(&["logs", "-n", "holdfast-system", "holdfast-operator-0"])?;
//! node.agent(&["status"])?; // the agent's command line, as root on that node
//! # Ok(())
//! # }
//! ```
//!
//! **Images.** The last part of a repository's name decides: `operator` and `agent` are the programs of this tree, built
//! by cargo, at `/holdfast-operator` and `/holdfast-agent` in a root file system with nothing else but shared libraries;
//! they run as 65532 and as root where the pod does not say. Any other image holds what this machine has in `/usr` and
//! `/etc`, without an entry point: the container names its `command`. Images of [`NodeOptions::missing_images`] cannot
//! be pulled, so that a node can be without an agent.
//!
//! **What is as on any node.** The kubelet is `system:node:NAME`, and may do what the Node authorizer and
//! `NodeRestriction` let it. Tokens come from `TokenRequest`, bound to pod and node, in the projected volume that the API
//! server adds to pods. Containers have namespaces of their own (mount, PID, IPC, UTS, cgroup, and the pod's network), the
//! user, groups, capabilities, `no_new_privs` and read-only root that the pod's spec says, and sit in cgroups named as by
//! the systemd driver and containerd. Init containers, restarts with back-off, startup, liveness and readiness probes
//! (HTTP, TCP, exec), the grace period at the end, `terminationMessagePath`, the node's heartbeat.
//!
//! **What is not.** The node is this machine's kernel with a mount namespace, a network namespace and a folder of its own:
//! `/sys/fs/bpf` is a BPF file system of the node's own, `/sys/fs/cgroup` the machine's cgroup v2 tree, and any other host
//! path but those in `/sys`, `/proc` and `/dev` lies in the node's folder. PID 1 is this machine's, and not in the node's
//! network namespace. `KUBERNETES_SERVICE_HOST` is 127.0.0.1, where each network namespace
//! has a way to the API server. Nodes have no way to each other's pods. A capability that this machine's root has not is
//! not given. No profiles of seccomp or of a security module, limits of resources, DNS, Services, lifecycle hooks, sidecars, or
//! volumes other than emptyDir, hostPath, configMap, secret, downwardAPI and projected; what is not there and would
//! matter is a reason in the container's status. The back-off starts at a second and ends at ten.
//!
//! The kubelet has threads of its own, so a test may block in kubectl. Everything goes when a [`Kubelet`] is dropped, or
//! when the test's process dies: containers, cgroups, and what was pinned in the node's BPF file system. The Node object
//! stays, and becomes `NotReady`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU8, Ordering},
    },
};

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::core::v1::Taint;
use kube::Client;
use tempfile::TempDir;
use tokio::runtime::{Builder, Handle, Runtime};

use crate::{
    controlplane::{ControlPlane, client_of},
    demo, operator,
    scenario::netns::NetNs,
};

mod bundle;
mod container;
mod env;
mod logs;
mod node;
mod place;
mod pod;
mod pods;
mod probe;
mod server;
mod status;
mod volumes;
mod wires;

use place::Place;
use pod::PodRun;

/// A node.
#[derive(Clone, Debug, Default)]
pub struct NodeOptions {
    /// Its name.
    pub name: String,
    /// Labels of the Node, beside those that every kubelet sets.
    pub labels: BTreeMap<String, String>,
    /// Taints of the Node.
    pub taints: Vec<Taint>,
    /// Ends of repositories' names, such as `agent`, of images that this node cannot pull.
    pub missing_images: Vec<String>,
    /// Further environment of containers of images whose repository ends so: what a test changes about a program that the
    /// pod's spec does not.
    pub environment: BTreeMap<String, Vec<(String, String)>>,
}

impl NodeOptions {
    /// One with a name and nothing else.
    #[must_use]
    pub fn named(name: &str) -> Self {
        Self { name: name.to_owned(), ..Self::default() }
    }
}

/// A running node. Dropping it ends it.
pub struct Kubelet {
    inner: Arc<Inner>,
    runtime: Option<Runtime>,
}

/// What all parts of a kubelet share.
struct Inner {
    options: NodeOptions,
    /// The last part of its name in addresses: pods are in 10.77.NUMBER.0/24.
    number: u8,
    client: Client,
    runtime: Handle,
    /// kube-apiserver's port on this machine.
    api_port: u16,
    port: u16,
    programs: PathBuf,
    pods: Mutex<BTreeMap<String, Arc<PodRun>>>,
    /// Pods whose end was reported.
    done: Mutex<BTreeSet<String>>,
    log: Mutex<fs::File>,
    // From here on in this order: processes, then their places, then the files.
    place: Place,
    folder: TempDir,
}

impl Inner {
    /// Writes to the kubelet's own log.
    fn note(&self, text: &str) {
        use std::io::Write as _;
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        // A log that cannot be written fails no test.
        let _ = writeln!(log, "{:.3} {text}", k8s_openapi::jiff::Timestamp::now());
    }

    fn pods(&self) -> Vec<Arc<PodRun>> {
        self.pods.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    fn pod(&self, namespace: &str, name: &str) -> Result<Arc<PodRun>> {
        self.pods()
            .into_iter()
            .find(|pod| pod.namespace == namespace && pod.name == name)
            .with_context(|| format!("node {} runs no pod {namespace}/{name}", self.options.name))
    }
}

impl Kubelet {
    /// Makes the node, registers it, and waits until the control plane takes it for ready.
    ///
    /// # Errors
    /// When the control plane is not [whole](crate::controlplane::Options::whole), a program cannot be built, or the
    /// kernel or the API server refuses. It takes root.
    pub async fn start(cluster: &ControlPlane, options: NodeOptions) -> Result<Self> {
        static NUMBERS: AtomicU8 = AtomicU8::new(1);
        let whole = cluster.options();
        ensure!(
            whole.controller_manager && whole.scheduler && whole.node_lifecycle,
            "a kubelet needs a control plane of Options::whole()"
        );
        let number = NUMBERS.fetch_add(1, Ordering::Relaxed) % 250 + 1;
        let folder = tempfile::Builder::new().prefix("holdfast-node-").tempdir()?;
        let programs = folder.path().join("programs");
        fs::create_dir_all(&programs)?;
        for built in [operator::binary()?, demo::agent::binary()?] {
            // Copies: the originals may be replaced by a build meanwhile.
            fs::copy(&built, programs.join(built.file_name().context("a program has a name")?))
                .with_context(|| built.display().to_string())?;
        }
        let place =
            Place::new(number, folder.path()).with_context(|| format!("making the node {}", options.name))?;
        let log = fs::File::options().create(true).append(true).open(folder.path().join("kubelet.log"))?;
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let handle = runtime.handle().clone();
        let user = format!("system:node:{}", options.name);
        let kubeconfig = cluster.kubeconfig(&user, Some("system:nodes"))?;
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let tls = server::tls(cluster, &options.name)?;
        let port = listener.local_addr()?.port();
        let (api_port, of) = (cluster.port(), handle.clone());
        let started = handle.spawn(async move {
            let client = client_of(&kubeconfig).await?;
            let inner = Arc::new(Inner {
                options,
                number,
                client,
                runtime: of,
                api_port,
                port,
                programs,
                pods: Mutex::default(),
                done: Mutex::default(),
                log: Mutex::new(log),
                place,
                folder,
            });
            wires::to_api_server(&inner.runtime, inner.place.netns(), api_port)?;
            tokio::spawn(server::serve(Arc::clone(&inner), listener, tls));
            node::register(&inner).await.context("registering the node")?;
            tokio::spawn(node::heartbeat(Arc::clone(&inner)));
            tokio::spawn(pods::watch(Arc::clone(&inner)));
            node::wait_ready(&inner).await?;
            anyhow::Ok(inner)
        });
        let inner = match started.await.context("the kubelet's start") {
            Ok(Ok(inner)) => inner,
            Ok(Err(error)) | Err(error) => {
                runtime.shutdown_background();
                return Err(error);
            }
        };
        Ok(Self { inner, runtime: Some(runtime) })
    }

    /// The name of the node.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.inner.options.name
    }

    /// The node's address, as its Node object has it.
    #[must_use]
    pub fn address(&self) -> std::net::IpAddr {
        place::addresses(self.inner.number, 1)[0]
    }

    /// What a container has written so far, without time stamps; the current instance of it, or the last.
    ///
    /// # Errors
    /// When there is none.
    pub fn log(&self, namespace: &str, pod: &str, container: &str) -> Result<String> {
        let log = self.inner.pod(namespace, pod)?.log(container, false)?;
        log.text(&logs::Query::default())
    }

    /// The process id, on this machine, of a container's first process.
    ///
    /// # Errors
    /// When it does not run.
    pub fn pid(&self, namespace: &str, pod: &str, container: &str) -> Result<u32> {
        self.inner
            .pod(namespace, pod)?
            .pid(container)
            .with_context(|| format!("{container} of {namespace}/{pod} does not run"))
    }

    /// Kills a container's first process with SIGKILL, as a crash does. The kubelet starts it again, if its pod says so.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill(&self, namespace: &str, pod: &str, container: &str) -> Result<()> {
        self.inner.pod(namespace, pod)?.kill(container)
    }

    /// An address on this machine's loopback interface that leads to a port of a pod, as a connection from its node. It
    /// holds as long as the node; each connection asks for the pod anew, so it also leads to a successor of that name.
    ///
    /// # Errors
    /// When there is no such pod.
    pub fn forward(&self, namespace: &str, pod: &str, port: u16) -> Result<SocketAddr> {
        self.inner.pod(namespace, pod)?;
        wires::forward(Arc::clone(&self.inner), namespace.to_owned(), pod.to_owned(), port)
    }

    /// Executes a program in a running container, as `kubectl exec` does.
    ///
    /// # Errors
    /// When it does not run, or crun cannot be run; not when the program fails.
    pub fn exec(&self, namespace: &str, pod: &str, container: &str, words: &[&str]) -> Result<Output> {
        let pod = self.inner.pod(namespace, pod)?;
        let id = pod.running_id(container).with_context(|| format!("{container} does not run"))?;
        container::exec(&self.inner, &id, words)?.output().context("cannot run crun")
    }

    /// Runs something in a pod's network namespace, in a thread of this process.
    ///
    /// # Errors
    /// Those of `work`, and when there is no such pod.
    pub fn within<T: Send>(
        &self,
        namespace: &str,
        pod: &str,
        work: impl FnOnce() -> Result<T> + Send,
    ) -> Result<T> {
        let pod = self.inner.pod(namespace, pod)?;
        let network = pod.network().context("the pod has no network yet")?;
        network.netns(&self.inner.place).within(work)
    }

    /// The node's own network namespace.
    #[must_use]
    pub fn netns(&self) -> &NetNs {
        self.inner.place.netns()
    }

    /// A command that runs as root on the node: in its mount namespace, where `/sys/fs/bpf` is the node's.
    ///
    /// # Errors
    /// When `nsenter` is missing.
    pub fn command(&self, program: &Path) -> Result<Command> {
        self.inner.place.command(program)
    }

    /// Runs the agent's command line on the node, such as `status`, and returns what it printed.
    ///
    /// # Errors
    /// When it fails; the error holds what it wrote to its standard error.
    pub fn agent(&self, arguments: &[&str]) -> Result<String> {
        let mut command = self.command(&self.inner.programs.join("holdfast-agent"))?;
        command.env("HOLDFAST_STATE_DIR", self.host_path(Path::new("/var/lib/holdfast")));
        command.env("HOLDFAST_NODE_NAME", self.name());
        let output = command.args(arguments).output()?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!("holdfast-agent {} failed: {}", arguments.join(" "), said.trim());
        }
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Where on this machine a path of the node is.
    #[must_use]
    pub fn host_path(&self, path: &Path) -> PathBuf {
        volumes::host_path(self.inner.folder.path(), path)
    }

    /// The kubelet's own log, for an error message.
    #[must_use]
    pub fn own_log(&self) -> String {
        fs::read_to_string(self.inner.folder.path().join("kubelet.log")).unwrap_or_default()
    }
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        // The tasks first, so that nobody starts what is ended here. They end in a thread, as a test may be in a runtime
        // of its own, where no other may be waited for.
        if let Some(runtime) = self.runtime.take() {
            let ended =
                std::thread::spawn(move || runtime.shutdown_timeout(std::time::Duration::from_secs(5)));
            drop(ended.join());
        }
        self.inner.place.end();
        // Pods and node hold each other.
        self.inner.pods.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}
