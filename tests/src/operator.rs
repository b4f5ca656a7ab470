//! Holdfast's operator as a child process, next to a [`ControlPlane`], as the chart's service account with what the chart
//! grants, and nothing more.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::PathBuf,
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{builds::program, controlplane::ControlPlane, process::Process, tools, wait::until};

/// The namespace that the operator is told is Holdfast's.
pub const NAMESPACE: &str = "holdfast-system";
/// The operator's service account.
const ACCOUNT: &str = "holdfast-operator";
/// The agents' service account.
pub const AGENT_ACCOUNT: &str = "holdfast-agent";
/// The templates of the chart that say who may do what, and what those need who may.
const TEMPLATES: [&str; 6] = [
    "serviceaccounts.yaml",
    "lease.yaml",
    "rbac-operator.yaml",
    "rbac-agent.yaml",
    "rbac-test.yaml",
    "admission.yaml",
];

/// A running operator. Dropping it kills it.
#[derive(Debug)]
pub struct Operator {
    process: Process,
    address: SocketAddr,
}

/// What `helm template` makes of templates of the chart; of all of them, where none is named. The release is `holdfast`.
///
/// # Errors
/// When helm is missing (the error says how to get it) or fails.
pub fn render(templates: &[&str], more: &[&str]) -> Result<String> {
    let mut command = Command::new(tools::control_plane_program("helm")?);
    command
        .args(["template", "holdfast", "--namespace", NAMESPACE])
        .arg(tools::root().join("charts/holdfast"));
    for template in templates {
        command.args(["--show-only", &format!("templates/{template}")]);
    }
    let output = command.args(more).output().context("cannot run helm")?;
    if !output.status.success() {
        bail!("helm template failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    String::from_utf8(output.stdout).context("helm printed no UTF-8")
}

/// Makes the control plane ready for operators and agents: the CRDs are there and served, as are the namespace, the
/// service accounts, and what they may do.
///
/// # Errors
/// When kubectl or helm fails.
pub fn prepare(cluster: &ControlPlane) -> Result<()> {
    let crds = tools::root().join("crds/yaml");
    let crds = crds.to_str().context("the path of the CRDs is no UTF-8")?;
    cluster.kubectl(&["create", "namespace", NAMESPACE])?;
    cluster.kubectl(&["apply", "--server-side", "-f", crds])?;
    cluster.kubectl(&["wait", "--for=condition=Established", "--timeout=60s", "-f", crds])?;
    apply(cluster, &render(&TEMPLATES, &[])?)
}

/// Applies documents as a user who may do everything.
///
/// # Errors
/// When one is refused; the error is what kubectl said.
pub fn apply(cluster: &ControlPlane, yaml: &str) -> Result<()> {
    let applied = cluster.kubectl_output(&["apply", "--server-side", "-f", "-"], yaml)?;
    if !applied.status.success() {
        bail!("kubectl apply failed: {}", String::from_utf8_lossy(&applied.stderr).trim());
    }
    Ok(())
}

/// The operator's program, built where it is not.
///
/// # Errors
/// When cargo fails; the error holds the end of what it said.
pub fn binary() -> Result<PathBuf> {
    program("holdfast-operator")
}

impl Operator {
    /// Starts one, whose log is `name.log` in the folder of the control plane. `flags` come after those that every test
    /// needs.
    ///
    /// # Errors
    /// When it cannot be built or started.
    pub fn start(cluster: &ControlPlane, name: &str, flags: &[&str]) -> Result<Operator> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?));
        let kubeconfig = cluster.service_account_kubeconfig(NAMESPACE, ACCOUNT)?;
        let process = Process::start(&binary()?, &cluster.folder().join(format!("{name}.log")), |command| {
            command.env("KUBECONFIG", kubeconfig);
            command.args([
                "run",
                "--namespace",
                NAMESPACE,
                "--agent-image-repository",
                "registry.test/agent",
            ]);
            command.args(["--installation", ACCOUNT]);
            command.args(["--metrics-addr", &address.to_string(), "--lease-duration", "3"]);
            command.args(flags);
        })?;
        Ok(Operator { process, address })
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Where it serves its metrics.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Kills it with SIGKILL.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn kill(&mut self) -> Result<()> {
        self.process.kill()
    }

    /// Tells it to stop, and waits until it has; whether it exited with success.
    ///
    /// # Errors
    /// When it cannot be told, or has not ended after half a minute.
    pub async fn terminate(&mut self) -> Result<bool> {
        let told = Command::new("kill").args(["-TERM", &self.id().to_string()]).status()?;
        if !told.success() {
            bail!("kill failed");
        }
        let status =
            until(Duration::from_secs(30), "the operator ends", async || self.process.try_wait()).await?;
        Ok(status.success())
    }

    /// That it still runs.
    ///
    /// # Errors
    /// When it has ended; the error shows the end of its log.
    pub fn check(&mut self) -> Result<()> {
        self.process.check()
    }

    /// The last lines of its log, for an error message.
    #[must_use]
    pub fn log_tail(&self) -> String {
        self.process.log_tail()
    }

    /// The status code and body that it answers a path of its metrics server with.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn get(&self, path: &str) -> Result<(u16, String)> {
        let mut stream = TcpStream::connect(self.address).await?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP answer")?;
        let code = head.split(' ').nth(1).context("no status line")?.parse()?;
        Ok((code, body.to_owned()))
    }

    /// The value of a metric, by its name and labels as they are printed; `None` while it has none.
    ///
    /// # Errors
    /// When the metrics server does not answer or prints no number.
    pub async fn metric(&self, series: &str) -> Result<Option<f64>> {
        let (_, body) = self.get("/metrics").await?;
        let value = body.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        value.map(|value| value.trim().parse().context("a metric's value is no number")).transpose()
    }

    /// Waits until it knows the whole cluster.
    ///
    /// # Errors
    /// When it ends, or that takes more than half a minute; the error shows the end of its log.
    pub async fn wait_ready(&mut self) -> Result<()> {
        let ready = until(Duration::from_secs(30), "the operator is ready", async || {
            self.process.check()?;
            Ok(self.get("/readyz").await.ok().filter(|(code, _)| *code == 200))
        })
        .await;
        ready.with_context(|| self.log_tail())?;
        Ok(())
    }

    /// Whether it leads, as far as it says.
    pub async fn leads(&self) -> bool {
        self.metric("holdfast_leader").await.is_ok_and(|value| value == Some(1.0))
    }
}

/// A port of the loopback interface that nobody listens on.
fn free_port() -> Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}
