//! A real Kubernetes control plane: etcd and kube-apiserver, and where asked for kube-controller-manager and
//! kube-scheduler, as child processes on loopback, with their own certificates, in a folder that goes with them.
//!
//! ```no_run
//! use holdfast_tests::controlplane::{ControlPlane, Options};
//!
//! # async fn test() -> anyhow::Result<()> {
//! let mut cluster = ControlPlane::start(Options::default()).await?;
//! let namespaces: kube::Api<k8s_openapi::api::core::v1::Namespace> = kube::Api::all(cluster.client().await?);
//! namespaces.get("default").await?;
//! cluster.kubectl(&["get", "namespaces"])?;
//! cluster.stop_apiserver()?; // an outage
//! cluster.start_apiserver().await?;
//! # Ok(())
//! # }
//! ```
//!
//! Authorization is by Node and RBAC, `NodeRestriction` is on, and every request is in the audit log (level `Metadata`).
//! There is no kubelet: a test that needs a node's side of the API writes it, or has [`crate::kubelet`]. Without a controller manager nothing makes
//! service accounts, so the admission plugin that demands one of each pod is off then.

mod pki;
mod ports;

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail};
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    process::{POLL, Process},
    tools,
};

/// How long a server may take until it is ready.
const READY: Duration = Duration::from_mins(2);

const AUDIT_POLICY: &str = "apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules: [{level: Metadata}]
";

/// What a control plane consists of. The default is etcd and kube-apiserver alone.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Run kube-controller-manager: service accounts, deployments, daemon sets, endpoint slices, garbage collection. Its
    /// node lifecycle controller is off, as without kubelets it would declare every node dead.
    pub controller_manager: bool,
    /// Leave the node lifecycle controller on: for nodes that have a [`kubelet`](crate::kubelet).
    pub node_lifecycle: bool,
    /// Run kube-scheduler.
    pub scheduler: bool,
    /// Further flags of kube-apiserver, such as `--max-requests-inflight=10`.
    pub apiserver_flags: Vec<String>,
}

impl Options {
    /// All of it, as nodes with kubelets need it.
    #[must_use]
    pub fn whole() -> Self {
        Self { controller_manager: true, node_lifecycle: true, scheduler: true, apiserver_flags: Vec::new() }
    }
}

/// A certificate and its key, in files, in PEM.
#[derive(Clone, Debug)]
pub struct Certificate {
    /// The file of the certificate.
    pub certificate: PathBuf,
    /// The file of its key.
    pub key: PathBuf,
}

/// As whom kube-apiserver talks to kubelets.
const KUBELET_CLIENT: &str = "kube-apiserver-kubelet-client";

/// A running control plane. Dropping it kills its processes and removes its folder.
#[derive(Debug)]
pub struct ControlPlane {
    // Dropped from the top: clients of kube-apiserver first, and the folder after all that write to it.
    others: BTreeMap<&'static str, Process>,
    apiserver: Option<Process>,
    etcd: Process,
    authority: pki::Authority,
    port: u16,
    etcd_port: u16,
    options: Options,
    folder: TempDir,
}

impl ControlPlane {
    /// Starts it, and waits until kube-apiserver says that it is ready.
    ///
    /// # Errors
    /// When a program is missing (the error says how to get it), or a server ends or is not ready in two minutes (the
    /// error shows the end of its log).
    pub async fn start(options: Options) -> Result<ControlPlane> {
        let folder = tempfile::Builder::new().prefix("holdfast-cluster-").tempdir()?;
        let authority = pki::Authority::new(folder.path().join("pki"))?;
        authority.server("apiserver")?;
        authority.user(KUBELET_CLIENT, KUBELET_CLIENT, None)?;
        authority.keys("service-account")?;
        fs::write(folder.path().join("audit-policy.yaml"), AUDIT_POLICY)?;
        let (etcd_port, port) = (ports::free_port()?, ports::free_port()?);
        let etcd = start_etcd(folder.path(), etcd_port)?;
        let mut cluster = ControlPlane {
            others: BTreeMap::new(),
            apiserver: None,
            etcd,
            authority,
            port,
            etcd_port,
            options,
            folder,
        };
        cluster.start_apiserver().await?;
        if cluster.options.controller_manager {
            cluster.start_controller_manager()?;
        }
        if cluster.options.scheduler {
            cluster.start_scheduler()?;
        }
        Ok(cluster)
    }

    /// The address of kube-apiserver.
    #[must_use]
    pub fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }

    /// A folder for the test's own files, which goes with the control plane. It also holds the logs of the servers
    /// (`kube-apiserver.log`, ...).
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The port of 127.0.0.1 at which kube-apiserver listens.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// What this control plane consists of.
    #[must_use]
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// The file of the certificate of the authority that signs all others.
    #[must_use]
    pub fn authority(&self) -> PathBuf {
        self.authority.certificate()
    }

    /// The client certificate by which a kubelet knows kube-apiserver.
    #[must_use]
    pub fn kubelet_client(&self) -> PathBuf {
        self.folder.path().join("pki").join(format!("{KUBELET_CLIENT}.crt"))
    }

    /// A certificate for a server on loopback that kube-apiserver is to believe, such as a kubelet.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn server_certificate(&self, name: &str) -> Result<Certificate> {
        let pki::Files { certificate, key } = self.authority.server(&file_name(name))?;
        Ok(Certificate { certificate, key })
    }

    /// A client that may do everything. It belongs to the tokio runtime that asks for it.
    ///
    /// # Errors
    /// When its certificate cannot be made.
    pub async fn client(&self) -> Result<Client> {
        self.client_as("admin", Some("system:masters")).await
    }

    /// A client of some user, such as `system:node:n1` of the group `system:nodes`. It may do what RBAC grants.
    ///
    /// # Errors
    /// When its certificate cannot be made.
    pub async fn client_as(&self, user: &str, group: Option<&str>) -> Result<Client> {
        client_of(&self.kubeconfig(user, group)?).await
    }

    /// A kubeconfig file of some user, who is known by a client certificate.
    ///
    /// # Errors
    /// When the certificate or the file cannot be written.
    pub fn kubeconfig(&self, user: &str, group: Option<&str>) -> Result<PathBuf> {
        let name = file_name(&format!("{user}-{}", group.unwrap_or_default()));
        let path = self.folder.path().join(format!("{name}.kubeconfig"));
        if !path.exists() {
            let files = self.authority.user(&name, user, group)?;
            let credentials = format!(
                "client-certificate: '{}', client-key: '{}'",
                files.certificate.display(),
                files.key.display()
            );
            self.write_kubeconfig(&path, &credentials)?;
        }
        Ok(path)
    }

    /// A kubeconfig file of a service account that exists, with a token good for an hour: what a pod of it gets. It is
    /// made once, so that it is there during an outage.
    ///
    /// # Errors
    /// When kube-apiserver gives no token.
    pub fn service_account_kubeconfig(&self, namespace: &str, name: &str) -> Result<PathBuf> {
        self.token_kubeconfig(&format!("sa-{namespace}-{name}"), &["--namespace", namespace, name])
    }

    /// The same with a token that is bound to a pod of the service account, and so to the pod's node: what a kubelet
    /// gives that pod.
    ///
    /// # Errors
    /// When there is no such pod, or kube-apiserver gives no token.
    pub fn pod_kubeconfig(&self, namespace: &str, account: &str, pod: &str) -> Result<PathBuf> {
        let bound = ["--bound-object-kind", "Pod", "--bound-object-name", pod];
        let token = [&["--namespace", namespace, account], &bound[..]].concat();
        self.token_kubeconfig(&format!("pod-{namespace}-{pod}"), &token)
    }

    fn token_kubeconfig(&self, name: &str, token: &[&str]) -> Result<PathBuf> {
        let path = self.folder.path().join(format!("{}.kubeconfig", file_name(name)));
        if !path.exists() {
            let token = self.kubectl(&[&["create", "token"], token].concat())?;
            self.write_kubeconfig(&path, &format!("token: '{}'", token.trim()))?;
        }
        Ok(path)
    }

    /// Runs kubectl as a user who may do everything, and returns what it printed.
    ///
    /// # Errors
    /// When it is missing or fails; the error holds what it wrote to its standard error.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        let output = self.kubectl_output(arguments, "")?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!("kubectl {} failed: {}", arguments.join(" "), said.trim());
        }
        String::from_utf8(output.stdout).context("kubectl printed no UTF-8")
    }

    /// Applies documents as a user who may do everything, and returns what kubectl printed.
    ///
    /// # Errors
    /// When one is refused; the error is what kubectl said.
    pub fn apply(&self, yaml: &str) -> Result<String> {
        let output = self.kubectl_output(&["apply", "-f", "-"], yaml)?;
        if !output.status.success() {
            bail!("kubectl apply failed: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        String::from_utf8(output.stdout).context("kubectl printed no UTF-8")
    }

    /// Runs kubectl as a user who may do everything, gives it `input` as its standard input, and returns whatever came
    /// of it: for tests of what must be refused.
    ///
    /// # Errors
    /// When it is missing or cannot be run.
    pub fn kubectl_output(&self, arguments: &[&str], input: &str) -> Result<Output> {
        let stdin = self.folder.path().join(format!("stdin-{}", ports::unique()));
        fs::write(&stdin, input)?;
        let output = Command::new(tools::control_plane_program("kubectl")?)
            .arg("--kubeconfig")
            .arg(self.kubeconfig("admin", Some("system:masters"))?)
            .arg("--cache-dir")
            .arg(self.folder.path().join("kubectl-cache"))
            .args(arguments)
            .stdin(Stdio::from(fs::File::open(&stdin)?))
            .output()
            .context("cannot run kubectl")?;
        fs::remove_file(&stdin)?;
        Ok(output)
    }

    /// Kills kube-apiserver with SIGKILL. Clients are refused until [`ControlPlane::start_apiserver`]; etcd and its
    /// content stay. It does nothing when it is stopped already.
    ///
    /// # Errors
    /// When it cannot be killed.
    pub fn stop_apiserver(&mut self) -> Result<()> {
        match self.apiserver.take() {
            Some(mut process) => process.kill(),
            None => Ok(()),
        }
    }

    /// Starts kube-apiserver, at the same address as before, and waits until it says that it is ready.
    ///
    /// # Errors
    /// When it ends or is not ready in two minutes; the error shows the end of its log.
    pub async fn start_apiserver(&mut self) -> Result<()> {
        let program = tools::control_plane_program("kube-apiserver")?;
        let process = Process::start(&program, &self.log("kube-apiserver"), |command| {
            self.apiserver_arguments(command);
        })?;
        self.apiserver = Some(process);
        let mut config = config_of(&self.kubeconfig("admin", Some("system:masters"))?).await?;
        config.default_retry = false;
        let client = Client::try_from(config)?;
        let began = Instant::now();
        loop {
            let request = http::Request::get("/readyz").body(Vec::new())?;
            let Err(reason) = client.request_text(request).await else { return Ok(()) };
            for process in self.apiserver.iter_mut().chain([&mut self.etcd]) {
                process.check()?;
            }
            if began.elapsed() > READY {
                let log = self.apiserver.as_ref().map(Process::log_tail).unwrap_or_default();
                return Err(
                    anyhow!(reason).context(format!("kube-apiserver is not ready after {READY:?}:\n{log}"))
                );
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// The file of the audit log: one JSON object a line, one line a request that was answered.
    #[must_use]
    pub fn audit_log(&self) -> PathBuf {
        self.folder.path().join("audit.log")
    }

    /// The audit log's events so far (`audit.k8s.io/v1` Event), oldest first.
    ///
    /// # Errors
    /// When the file cannot be read or a complete line of it is no JSON.
    pub fn audit_events(&self) -> Result<Vec<Value>> {
        let text = fs::read_to_string(self.audit_log()).context("cannot read the audit log")?;
        // What follows the last line feed is still being written.
        let complete = text.rsplit_once('\n').map_or("", |(complete, _)| complete);
        complete
            .lines()
            .map(|line| serde_json::from_str(line).context("the audit log holds no JSON"))
            .collect()
    }

    fn apiserver_arguments(&self, command: &mut Command) {
        let pki = |name: &str| self.folder.path().join("pki").join(name).display().to_string();
        let mut flags = vec![
            format!("--etcd-servers=http://127.0.0.1:{}", self.etcd_port),
            "--bind-address=127.0.0.1".to_owned(),
            "--advertise-address=127.0.0.1".to_owned(),
            format!("--secure-port={}", self.port),
            // A loopback address may not be published as the endpoint of the Service `kubernetes`.
            "--endpoint-reconciler-type=none".to_owned(),
            format!("--tls-cert-file={}", pki("apiserver.crt")),
            format!("--tls-private-key-file={}", pki("apiserver.key")),
            format!("--client-ca-file={}", pki("ca.crt")),
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local".to_owned(),
            format!("--service-account-key-file={}", pki("service-account.pub")),
            format!("--service-account-signing-key-file={}", pki("service-account.key")),
            "--service-cluster-ip-range=10.96.0.0/16,fd00:10:96::/112".to_owned(),
            "--authorization-mode=Node,RBAC".to_owned(),
            "--enable-admission-plugins=NodeRestriction".to_owned(),
            "--allow-privileged=true".to_owned(),
            // A kubelet of a test listens on loopback, whatever the address of its node.
            "--kubelet-preferred-address-types=InternalDNS".to_owned(),
            format!("--kubelet-certificate-authority={}", pki("ca.crt")),
            format!("--kubelet-client-certificate={}", pki(&format!("{KUBELET_CLIENT}.crt"))),
            format!("--kubelet-client-key={}", pki(&format!("{KUBELET_CLIENT}.key"))),
            format!("--audit-log-path={}", self.audit_log().display()),
            format!("--audit-policy-file={}", self.folder.path().join("audit-policy.yaml").display()),
        ];
        if !self.options.controller_manager {
            flags.push("--disable-admission-plugins=ServiceAccount".to_owned());
        }
        command.args(flags).args(&self.options.apiserver_flags);
    }

    fn start_controller_manager(&mut self) -> Result<()> {
        let pki = |name: &str| self.folder.path().join("pki").join(name).display().to_string();
        let lifecycle = if self.options.node_lifecycle { "" } else { ",-node-lifecycle-controller" };
        let flags = [
            format!("--controllers=*{lifecycle}"),
            "--use-service-account-credentials=true".to_owned(),
            format!("--service-account-private-key-file={}", pki("service-account.key")),
            format!("--root-ca-file={}", pki("ca.crt")),
        ];
        self.start_other("kube-controller-manager", "system:kube-controller-manager", &flags)
    }

    fn start_scheduler(&mut self) -> Result<()> {
        self.start_other("kube-scheduler", "system:kube-scheduler", &[])
    }

    fn start_other(&mut self, name: &'static str, user: &str, flags: &[String]) -> Result<()> {
        let kubeconfig = self.kubeconfig(user, None)?;
        let program = tools::control_plane_program(name)?;
        let port = ports::free_port()?;
        let process = Process::start(&program, &self.log(name), |command| {
            for flag in ["kubeconfig", "authentication-kubeconfig", "authorization-kubeconfig"] {
                command.arg(format!("--{flag}={}", kubeconfig.display()));
            }
            command.args(["--leader-elect=false", "--bind-address=127.0.0.1"]);
            command.args([
                format!("--secure-port={port}"),
                format!("--cert-dir={}/{name}", self.folder.path().display()),
            ]);
            command.args(flags);
        })?;
        self.others.insert(name, process);
        Ok(())
    }

    fn write_kubeconfig(&self, path: &Path, credentials: &str) -> Result<()> {
        let mut text = String::from("apiVersion: v1\nkind: Config\ncurrent-context: test\n");
        writeln!(
            text,
            "clusters: [{{name: test, cluster: {{server: '{}', certificate-authority: '{}'}}}}]",
            self.url(),
            self.authority.certificate().display()
        )?;
        writeln!(text, "users: [{{name: test, user: {{{credentials}}}}}]")?;
        writeln!(text, "contexts: [{{name: test, context: {{cluster: test, user: test}}}}]")?;
        fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
    }

    fn log(&self, name: &str) -> PathBuf {
        self.folder.path().join(format!("{name}.log"))
    }
}

fn start_etcd(folder: &Path, port: u16) -> Result<Process> {
    let program = tools::control_plane_program("etcd")?;
    let url = format!("http://127.0.0.1:{port}");
    let peer = format!("http://127.0.0.1:{}", ports::free_port()?);
    Process::start(&program, &folder.join("etcd.log"), |command| {
        command.arg("--data-dir").arg(folder.join("etcd"));
        command.args(["--listen-client-urls", &url, "--advertise-client-urls", &url]);
        command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        command.args([
            "--initial-cluster",
            &format!("default={peer}"),
            "--log-level",
            "warn",
            "--unsafe-no-fsync",
        ]);
    })
}

/// A client by a kubeconfig file. It belongs to the tokio runtime that asks for it.
///
/// # Errors
/// When the file cannot be read or is no kubeconfig.
pub async fn client_of(kubeconfig: &Path) -> Result<Client> {
    Ok(Client::try_from(config_of(kubeconfig).await?)?)
}

async fn config_of(kubeconfig: &Path) -> Result<Config> {
    let parsed = Kubeconfig::read_from(kubeconfig)?;
    Ok(Config::from_custom_kubeconfig(parsed, &KubeConfigOptions::default()).await?)
}

/// `text` with what does not belong in a file's name replaced.
fn file_name(text: &str) -> String {
    text.chars().map(|letter| if letter.is_ascii_alphanumeric() { letter } else { '-' }).collect()
}
