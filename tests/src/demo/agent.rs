//! The agent as a child process, and the mount namespace that holds its BPF file system.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use super::{NODE, http};
use crate::{
    builds::program,
    operator::NAMESPACE,
    process::{POLL, Process},
    tools,
};

/// How long the agent may take until all that it knows is in force, on a busy machine.
const READY: Duration = Duration::from_mins(2);

/// A mount namespace with a BPF file system of its own, held by a process that only sleeps. When that process ends, so
/// does everything that is pinned there, whatever became of the agents.
#[derive(Debug)]
pub struct Mounts {
    process: Process,
    bpffs: PathBuf,
    program: PathBuf,
}

impl Mounts {
    /// Makes it, for the agent whose program is `agent`; the file system is mounted at `bpf` in `folder`.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn new(folder: &Path, agent: &Path) -> Result<Self> {
        let (bpffs, made) = (folder.join("bpf"), folder.join("mounted"));
        fs::create_dir_all(&bpffs)?;
        if made.exists() {
            fs::remove_file(&made)?;
        }
        let program = tools::system_program("unshare", "util-linux")?;
        let mut process = Process::start(&program, &folder.join("mounts.log"), |command| {
            command.args(["--mount", "--propagation", "private", "sh", "-c"]);
            command.arg("mount -t bpf bpf \"$1\" && : >\"$2\" && exec sleep 1000000000").arg("sh");
            command.args([&bpffs, &made]);
        })?;
        process
            .wait_until(Duration::from_secs(10), || made.exists())
            .context("a BPF file system of its own")?;
        Ok(Self { process, bpffs, program: agent.to_owned() })
    }

    /// Ends it.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn end(&mut self) -> Result<()> {
        self.process.kill()
    }

    /// Makes `nsenter` run the agent in the namespace.
    fn enter(&self, command: &mut Command) {
        command.arg(format!("--mount=/proc/{}/ns/mnt", self.process.id())).arg("--").arg(&self.program);
    }

    /// Runs a command of the agent there, such as `probe`, and returns what it printed.
    ///
    /// # Errors
    /// When it fails; the error holds what it wrote to its standard error.
    pub fn agent(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new(tools::system_program("nsenter", "util-linux")?);
        self.enter(&mut command);
        let output = command.args(arguments).arg("--bpffs").arg(&self.bpffs).output()?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!("holdfast-agent {} failed: {}", arguments.join(" "), said.trim());
        }
        Ok(String::from_utf8(output.stdout)?)
    }

    /// What this kernel can refuse, as `holdfast-agent probe` finds it.
    ///
    /// # Errors
    /// When that fails.
    pub fn probe(&self) -> Result<Probe> {
        Probe::read(&self.agent(&["probe", "-o", "json"])?)
    }
}

/// What `holdfast-agent probe -o json` prints.
#[derive(Debug, Deserialize)]
pub struct Probe {
    /// Release of the kernel.
    pub kernel: String,
    mechanisms: Vec<Mechanism>,
}

#[derive(Debug, Deserialize)]
struct Mechanism {
    mechanism: String,
    state: String,
}

impl Probe {
    /// Reads it.
    ///
    /// # Errors
    /// When it is no JSON of that form.
    pub fn read(json: &str) -> Result<Self> {
        serde_json::from_str(json).context("what the agent's probe printed")
    }

    /// Whether this kernel has a mechanism.
    #[must_use]
    pub fn has(&self, mechanism: &str) -> bool {
        self.mechanisms.iter().any(|row| row.mechanism == mechanism && row.state == "Available")
    }

    /// Whether a call can be refused before its effect.
    #[must_use]
    pub fn refuses_calls(&self) -> bool {
        self.has("lsm") || self.has("fmod_ret")
    }
}

/// A running agent. Dropping it kills it; what it pinned stays in force as long as its [`Mounts`].
#[derive(Debug)]
pub struct Agent {
    process: Process,
    address: SocketAddr,
}

impl Agent {
    /// Starts one on [`NODE`]. Its log is `agent.log`, its state `state`, in `folder`.
    ///
    /// # Errors
    /// When it cannot be built or started.
    pub fn start(mounts: &Mounts, kubeconfig: &Path, host_netns: &Path, folder: &Path) -> Result<Self> {
        Self::start_with(mounts, kubeconfig, host_netns, folder, &[])
    }

    /// The same with more in its environment.
    ///
    /// # Errors
    /// When it cannot be built or started.
    pub fn start_with(
        mounts: &Mounts,
        kubeconfig: &Path,
        host_netns: &Path,
        folder: &Path,
        environment: &[(String, String)],
    ) -> Result<Self> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?));
        let program = tools::system_program("nsenter", "util-linux")?;
        let process = Process::start(&program, &folder.join("agent.log"), |command| {
            mounts.enter(command);
            command.env("KUBECONFIG", kubeconfig).envs(environment.iter().cloned());
            command.args(["run", "--source", "api", "--node-name", NODE, "--namespace", NAMESPACE]);
            command.args(["--metrics-addr", &address.to_string()]);
            command.arg("--host-netns").arg(host_netns);
            command.arg("--bpffs").arg(&mounts.bpffs).arg("--state-dir").arg(folder.join("state"));
        })?;
        Ok(Self { process, address })
    }

    /// Waits until everything that it knew at its start is in force; returns how long that took.
    ///
    /// # Errors
    /// When it ends first, or that takes two minutes; the error shows the end of its log.
    pub fn wait_ready(&mut self) -> Result<Duration> {
        let (began, address) = (Instant::now(), self.address);
        self.process
            .wait_until(READY, || http::get(address, "/readyz").is_ok_and(|(code, _)| code == 200))?;
        Ok(began.elapsed())
    }

    /// Where it serves its metrics.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The status code and the body that it answers a path with.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn get(&self, path: &str) -> Result<(u16, String)> {
        http::get(self.address, path)
    }

    /// Its metrics.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn metrics(&self) -> Result<String> {
        let (code, body) = self.get("/metrics")?;
        ensure!(code == 200, "the agent answers /metrics with {code}: {body}");
        Ok(body)
    }

    /// Packets and calls that it says a policy has refused, of this kind: `network` or `syscall`.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn denials(&self, policy: &str, kind: &str) -> Result<u64> {
        Ok(denials(&self.metrics()?, policy, kind))
    }

    /// Kills it with SIGKILL.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn kill(&mut self) -> Result<()> {
        self.process.kill()
    }

    /// Tells it to stop, and waits until it has.
    ///
    /// # Errors
    /// When it cannot be told, or has not ended after half a minute.
    pub fn terminate(&mut self) -> Result<ExitStatus> {
        let told = Command::new("kill").args(["-TERM", &self.process.id().to_string()]).status()?;
        ensure!(told.success(), "kill failed");
        let began = Instant::now();
        loop {
            if let Some(status) = self.process.try_wait()? {
                return Ok(status);
            }
            ensure!(began.elapsed() < READY, "the agent does not stop");
            std::thread::sleep(POLL);
        }
    }

    /// The last lines of its log, for an error message.
    #[must_use]
    pub fn log_tail(&self) -> String {
        self.process.log_tail()
    }
}

/// Packets and calls that a policy has refused, by an agent's metrics and the kind: `network` or `syscall`.
#[must_use]
pub fn denials(metrics: &str, policy: &str, kind: &str) -> u64 {
    let labels = [format!("policy=\"{policy}\""), format!("rule_kind=\"{kind}\"")];
    let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
    http::sum(metrics, "holdfast_denials_total", &labels).unwrap_or(0)
}

/// The agent's program, built where it is not.
///
/// # Errors
/// When cargo fails; the error holds the end of what it said.
pub fn binary() -> Result<PathBuf> {
    program("holdfast-agent")
}

/// A port of the loopback interface that nobody listens on.
fn free_port() -> Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}
