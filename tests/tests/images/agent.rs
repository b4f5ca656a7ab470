//! The agent's image, as the DaemonSet that the operator makes runs it.

use std::{
    fs,
    io::Write,
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};
use holdfast_tests::{
    images::{Image, Runtime, Spec},
    process::Process,
    scenario::netns::NetNs,
    wait::until,
};
use serde_json::Value;

use super::{SOON, agent_pod, image};

const NODE: &str = "vm";
const METRICS: &str = "127.0.0.1:9465";

/// The agent's image on a node that has one external workload, which may speak to nobody.
struct Agent {
    runtime: Runtime,
    netns: NetNs,
    image: Image,
    spec: Spec,
}

impl Agent {
    async fn new() -> Result<Self> {
        let pod = agent_pod().await?;
        let runtime = Runtime::new()?;
        let netns = NetNs::new()?;
        netns.within(|| {
            for words in
                ["link set lo up", "address add 10.78.0.1/32 dev lo", "address add 10.78.0.2/32 dev lo"]
            {
                let status = Command::new("ip").args(words.split(' ')).status()?;
                ensure!(status.success(), "ip {words}");
            }
            Ok(())
        })?;
        let policies = runtime.folder().join("policies");
        for folder in [&policies, &runtime.folder().join("state")] {
            fs::create_dir(folder)?;
        }
        let (ledger, _) = (runtime.top.make("ledger")?, runtime.top.make("other")?);
        fs::write(
            policies.join("ledger.yaml"),
            format!(
                "apiVersion: holdfast.dev/v1alpha1\nkind: ExternalWorkload\nmetadata: {{name: ledger, namespace: bank, labels: {{app: ledger}}}}\n\
                 spec: {{node: {NODE}, addresses: [10.78.0.1], cgroups: [{ledger}]}}\n---\n\
                 apiVersion: holdfast.dev/v1alpha1\nkind: WorkloadPolicy\nmetadata: {{name: ledger, namespace: bank}}\n\
                 spec: {{selector: {{matchLabels: {{app: ledger}}}}, network: {{egress: {{}}, onDeny: Reject}}}}\n"
            ),
        )?;
        let spec = as_in_pod(&pod, &runtime, &policies, netns.path())?;
        Ok(Self { runtime, netns, image: image("agent")?, spec })
    }

    fn command(&self, words: &[&str]) -> Spec {
        Spec { args: words.iter().map(|word| (*word).to_owned()).collect(), ..self.spec.clone() }
    }

    /// Whether a process in a cgroup gets a connection to the node's other address.
    fn connects(&self, cgroup: &str) -> Result<bool> {
        let procs = self.runtime.top.full(&format!("{}/{cgroup}", self.runtime.top.path()));
        self.netns.within(|| {
            let _listener = TcpListener::bind("10.78.0.2:8080")?;
            let client = "echo 0 >\"$0/cgroup.procs\" && exec busybox nc -w 5 10.78.0.2 8080 -e true";
            let output = Command::new("sh").args(["-c", client]).arg(&procs).output()?;
            Ok(output.status.success())
        })
    }

    fn get(&self, path: &str) -> Result<String> {
        self.netns.within(|| {
            let mut stream = TcpStream::connect(METRICS)?;
            stream.set_read_timeout(Some(SOON))?;
            write!(stream, "GET {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n")?;
            Ok(std::io::read_to_string(stream)?)
        })
    }

    /// Starts it, and waits until it is ready.
    fn start(&self, spec: &Spec) -> Result<Process> {
        let mut process = self.runtime.start(&self.image, spec)?;
        process.wait_until(SOON, || {
            self.get("/readyz").is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
        })?;
        Ok(process)
    }

    /// Starts it where it must fail; what it says.
    async fn fails(&self, spec: &Spec) -> Result<String> {
        let _ = fs::remove_file(self.runtime.folder().join("log"));
        let mut process = self.runtime.start(&self.image, spec)?;
        let ended = until(SOON, "the agent ends", async || process.try_wait()).await;
        let status = ended.with_context(|| self.runtime.log())?;
        let said = self.runtime.log();
        ensure!(status.code() == Some(1), "{status}: {said}");
        Ok(said)
    }
}

/// The container of the agent's pod as the kubelet would run it, on a node of the test's own. Its policies come from a
/// directory, as this node has no API server.
fn as_in_pod(pod: &Value, runtime: &Runtime, policies: &Path, netns: PathBuf) -> Result<Spec> {
    let container = &pod["containers"][0];
    let security = &container["securityContext"];
    ensure!(
        security["readOnlyRootFilesystem"] == true
            && security["runAsUser"] == 0
            && security["privileged"] == false
            && security["capabilities"]["drop"] == serde_json::json!(["ALL"])
            && pod["hostNetwork"] == true,
        "the tests do not know such a container: {container}"
    );
    // Nothing stands between it and the kernel but its capabilities; here neither.
    ensure!(pod["securityContext"]["seccompProfile"]["type"] == "Unconfined", "{pod}");
    let capabilities = serde_json::from_value(security["capabilities"]["add"].clone())?;
    let mut mounts = vec![(policies.to_owned(), "/etc/holdfast".to_owned(), false)];
    for mount in container["volumeMounts"].as_array().context("no mounts")? {
        let path = mount["mountPath"].as_str().context("no path")?;
        let from = match path {
            "/sys/fs/bpf" => runtime.bpffs(),
            "/sys/fs/cgroup" => PathBuf::from(path),
            "/var/lib/holdfast" => runtime.folder().join("state"),
            // The service account, which the API server's admission adds.
            _ if path.starts_with("/var/run/secrets/") => continue,
            other => bail!("the tests do not know the mount {other}"),
        };
        mounts.push((from, path.to_owned(), mount["readOnly"] != true));
    }
    let args = container["args"].as_array().context("no arguments")?.iter().filter_map(Value::as_str);
    let args = args
        .map(|arg| match arg.split_once('=') {
            Some(("--source", _)) => "--source=dir:/etc/holdfast".to_owned(),
            Some(("--node-name", _)) => format!("--node-name={NODE}"),
            Some(("--metrics-addr", _)) => format!("--metrics-addr={METRICS}"),
            _ => arg.to_owned(),
        })
        .collect();
    Ok(Spec {
        args,
        env: Vec::new(),
        capabilities,
        mounts,
        netns: Some(netns),
        host_pid: pod["hostPID"] == true,
    })
}

#[tokio::test]
async fn the_agents_image_enforces_with_what_its_pod_gives_it() -> Result<()> {
    let agent = Agent::new().await?;
    ensure!(agent.connects("ledger")? && agent.connects("other")?, "nobody refuses anything yet");
    let mut process = agent.start(&agent.spec)?;
    ensure!(!agent.connects("ledger")?, "the policy is not in force:\n{}", agent.runtime.log());
    ensure!(agent.connects("other")?, "a process that no policy selects is refused");
    let metrics = agent.get("/metrics")?;
    let failed = |line: &&str| line.starts_with("holdfast_bpf_helper_errors_total") && !line.ends_with(" 0");
    ensure!(!metrics.lines().any(|line| failed(&line)), "helpers fail:\n{metrics}");
    agent.runtime.kill()?;
    until(SOON, "the container ends", async || process.try_wait()).await?;
    Ok(())
}

#[tokio::test]
async fn the_agents_image_probes_the_kernel_with_what_its_pod_gives_it() -> Result<()> {
    let agent = Agent::new().await?;
    let output = agent.runtime.run(&agent.image, &agent.command(&["probe", "-o", "json"]))?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout)?;
    let states = report["mechanisms"].as_array().context("no mechanisms")?;
    for name in ["lsm", "fmod_ret", "sys_enter"] {
        let row = states.iter().find(|row| row["mechanism"] == name).context("no row")?;
        // An error would mean that the probe itself lacks a permission.
        ensure!(row["state"] != "Error", "{row}");
    }
    for name in ["sys_enter", "cgroup_skb", "cgroup_sock_addr", "cgroup_events"] {
        let row = states.iter().find(|row| row["mechanism"] == name);
        ensure!(row.is_some_and(|row| row["state"] == "Available"), "{name}: {report}");
    }
    Ok(())
}

#[tokio::test]
async fn the_agents_image_needs_each_capability_and_mount_of_its_pod() -> Result<()> {
    let agent = Agent::new().await?;
    let without = |capability: &str| {
        let mut spec = agent.spec.clone();
        spec.capabilities.retain(|name| name != capability);
        assert_eq!(spec.capabilities.len() + 1, agent.spec.capabilities.len(), "{capability} is not there");
        spec
    };
    // What each is for is what cannot be done without it.
    let needed = [
        ("BPF", "was not permitted"),
        ("NET_ADMIN", "hf_sockops: the BPF_PROG_LOAD syscall returned Operation not permitted"),
        ("PERFMON", "hf_cgroup_mkdir: the BPF_PROG_LOAD syscall returned Operation not permitted"),
    ];
    let names: Vec<&str> = needed.iter().map(|(name, _)| *name).collect();
    assert_eq!(agent.spec.capabilities, names, "the pod has a capability that is not shown to be needed");
    for (capability, error) in needed {
        let said = agent.fails(&without(capability)).await?;
        ensure!(said.contains(error), "without {capability}: {said}");
    }
    // It starts without a state that can be written, so that a full disk disarms nobody.
    for path in ["/sys/fs/bpf", "/sys/fs/cgroup"] {
        let mut spec = agent.spec.clone();
        let mount = spec.mounts.iter_mut().find(|(_, to, _)| to == path).context("no such mount")?;
        ensure!(mount.2, "{path} is read-only in the pod");
        mount.2 = false;
        let said = agent.fails(&spec).await?;
        ensure!(said.contains("Read-only file system"), "{path} read-only: {said}");
    }
    Ok(())
}
