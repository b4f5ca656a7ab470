//! The rig of nodes with kubelets, by itself: what a test that uses it may rely on.

use std::{
    io::{BufRead, BufReader},
    process::{Command, Stdio},
    sync::{Arc, Weak},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use holdfast_tests::{
    controlplane::{ControlPlane, Options},
    kubelet::{Kubelet, NodeOptions},
    tools,
    wait::until,
};
use tokio::sync::Mutex;

const SOON: Duration = Duration::from_mins(1);

struct Stage {
    node: Kubelet,
    cluster: ControlPlane,
}

/// One cluster with one node for all tests that run at a time; each has a namespace of its own.
async fn stage() -> Result<Arc<Stage>> {
    static STAGE: Mutex<Weak<Stage>> = Mutex::const_new(Weak::new());
    let mut shared = STAGE.lock().await;
    if let Some(stage) = shared.upgrade() {
        return Ok(stage);
    }
    let cluster = ControlPlane::start(Options::whole()).await?;
    let node = Kubelet::start(&cluster, NodeOptions::named("node-a")).await?;
    let stage = Arc::new(Stage { node, cluster });
    *shared = Arc::downgrade(&stage);
    Ok(stage)
}

impl Stage {
    fn kubectl(&self, words: &str) -> Result<String> {
        self.cluster.kubectl(&words.split(' ').collect::<Vec<_>>())
    }

    /// Waits until a JSON path of an object is this.
    async fn wait(&self, object: &str, path: &str, wanted: &str) -> Result<()> {
        let mut seen = String::new();
        let done = until(SOON, &format!("{path} of {object} is {wanted}"), async || {
            seen = self.kubectl(&format!("get {object} -o jsonpath={path}")).unwrap_or_default();
            Ok((seen == wanted).then_some(()))
        })
        .await;
        done.with_context(|| {
            let status = self.kubectl(&format!("get {object} -o yaml")).unwrap_or_default();
            format!("it is {seen}\n{status}\n{}", self.node.own_log())
        })
    }

    /// The name of the one pod with a label `app` of this value.
    fn pod(&self, namespace: &str, app: &str) -> Result<String> {
        self.kubectl(&format!("get pods -n {namespace} -l app={app} -o jsonpath={{.items[*].metadata.name}}"))
    }

    async fn namespace(&self, name: &str) -> Result<()> {
        self.kubectl(&format!("create namespace {name}"))?;
        until(SOON, "the service account", async || {
            Ok(self.kubectl(&format!("get serviceaccount default -n {name}")).ok())
        })
        .await?;
        Ok(())
    }
}

const WEB: &str = r#"apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: run}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}, annotations: {colour: blue}}
    spec:
      terminationGracePeriodSeconds: 2
      securityContext: {runAsNonRoot: true, runAsUser: 1000, fsGroup: 2000}
      initContainers:
      - {name: first, image: registry.test/tools, command: [sh, -c, "echo done >/data/first"], volumeMounts: [{name: data, mountPath: /data}]}
      containers:
      - name: main
        image: registry.test/tools
        command: [python3, -u, -c]
        args:
        - |
          import http.server, os, signal, socketserver, sys
          print("started in", os.getcwd(), "as", os.getuid(), os.getgroups(), os.environ["NODE"], os.environ["COLOUR"], "$(NODE)")
          for line in open("/proc/self/status"):
              if line.startswith(("CapEff", "CapBnd", "NoNewPrivs")): print(line.strip())
          print(open("/data/first").read().strip(), os.getpid())
          print(sorted(os.listdir("/var/run/secrets/kubernetes.io/serviceaccount")))
          try: open("/usr/x", "w")
          except OSError as error: print("usr:", error.errno)
          try: open("/x", "w")
          except OSError as error: print("root:", error.errno)
          def stop(*_):
              print("told to stop"); sys.exit(0)
          signal.signal(signal.SIGTERM, stop)
          print("to stderr", file=sys.stderr)
          open("/data/ready", "w")
          class Handler(http.server.SimpleHTTPRequestHandler):
              def log_message(self, *_): pass
          socketserver.TCPServer.allow_reuse_address = True
          socketserver.TCPServer(("", 8080), Handler).serve_forever()
        workingDir: /data
        env:
        - {name: NODE, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}
        - {name: COLOUR, valueFrom: {fieldRef: {fieldPath: "metadata.annotations['colour']"}}}
        ports: [{name: http, containerPort: 8080}]
        readinessProbe: {httpGet: {path: /ready, port: http}, periodSeconds: 1}
        livenessProbe: {httpGet: {path: /ready, port: http}, periodSeconds: 1, initialDelaySeconds: 2, failureThreshold: 2}
        securityContext: {allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: {drop: [ALL]}}
        volumeMounts: [{name: data, mountPath: /data}]
      volumes: [{name: data, emptyDir: {}}]
"#;

#[tokio::test]
async fn a_deployments_pod_runs_as_its_spec_says_and_becomes_ready() -> Result<()> {
    let stage = stage().await?;
    stage.namespace("run").await?;
    stage.cluster.apply(WEB)?;
    stage.wait("deployment/web -n run", "{.status.readyReplicas}", "1").await?;
    let pod = stage.pod("run", "web")?;
    let log = stage.kubectl(&format!("logs -n run {pod}"))?;
    for wanted in [
        "started in /data as 1000 [2000] node-a blue node-a\n",
        "CapEff:\t0000000000000000\nCapBnd:\t0000000000000000\nNoNewPrivs:\t1\n",
        "done 1\n",
        "['ca.crt', 'namespace', 'token']\n",
        "usr: 30\n",
        "root: 30\n",
        "to stderr\n",
    ] {
        ensure!(log.contains(wanted), "{wanted} is not in\n{log}");
    }
    // Its port, from this machine; its network namespace; what is executed in it.
    let at = stage.node.forward("run", &pod, 8080)?;
    let (code, _) = holdfast_tests::demo::http::get(at, "/ready")?;
    assert_eq!(code, 200);
    let executed = stage.node.exec("run", &pod, "main", &["cat", "/data/first"])?;
    assert_eq!(String::from_utf8_lossy(&executed.stdout), "done\n");

    // A failing liveness probe starts it again, with its volume as it was.
    stage.node.exec("run", &pod, "main", &["rm", "/data/ready"])?;
    stage.wait(&format!("pod/{pod} -n run"), "{.status.containerStatuses[0].restartCount}", "1").await?;
    stage
        .wait(&format!("pod/{pod} -n run"), "{.status.conditions[?(@.type==\"Ready\")].status}", "True")
        .await?;
    let previous = stage.kubectl(&format!("logs -n run {pod} --previous"))?;
    ensure!(previous.contains("told to stop"), "{previous}");
    // So does a crash.
    stage.node.kill("run", &pod, "main")?;
    stage.wait(&format!("pod/{pod} -n run"), "{.status.containerStatuses[0].restartCount}", "2").await?;
    let code = "{.status.containerStatuses[0].lastState.terminated.exitCode}";
    stage.wait(&format!("pod/{pod} -n run"), code, "137").await?;

    stage.kubectl("delete deployment web -n run --wait")?;
    stage.wait("pods -n run", "{.items}", "[]").await?;
    stage.kubectl("delete namespace run")?;
    Ok(())
}

const TALKER: &str = r#"apiVersion: v1
kind: Pod
metadata: {name: talker, namespace: talk}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: registry.test/tools
    command: [sh, -c, "echo one; echo two; read line <>/tmp/pipe; echo $line; exit 3"]
    volumeMounts: [{name: tmp, mountPath: /tmp}]
  initContainers:
  - {name: pipe, image: registry.test/tools, command: [mkfifo, /tmp/pipe], volumeMounts: [{name: tmp, mountPath: /tmp}]}
  volumes: [{name: tmp, emptyDir: {}}]
"#;

#[tokio::test]
async fn logs_are_served_in_part_followed_and_kept_after_the_end() -> Result<()> {
    let stage = stage().await?;
    stage.namespace("talk").await?;
    stage.cluster.apply(TALKER)?;
    until(SOON, "two lines", async || {
        Ok(stage.kubectl("logs -n talk talker").ok().filter(|log| log.lines().count() == 2))
    })
    .await
    .with_context(|| stage.node.own_log())?;
    assert_eq!(stage.kubectl("logs -n talk talker --tail 1")?, "two\n");
    assert_eq!(stage.kubectl("logs -n talk talker --since 1h")?, "one\ntwo\n");
    let stamped = stage.kubectl("logs -n talk talker --timestamps --tail 1")?;
    ensure!(stamped.ends_with("Z two\n") && stamped.len() > 25, "{stamped}");
    let kubeconfig = stage.cluster.kubeconfig("admin", Some("system:masters"))?;
    let mut follower = Command::new(tools::control_plane_program("kubectl")?)
        .arg("--kubeconfig")
        .arg(kubeconfig)
        .args(["logs", "-f", "-n", "talk", "talker"])
        .stdout(Stdio::piped())
        .spawn()?;
    let mut lines = BufReader::new(follower.stdout.take().context("no pipe")?).lines();
    assert_eq!(lines.next().context("a line")??, "one");
    assert_eq!(lines.next().context("a line")??, "two");
    let said = stage.node.exec("talk", "talker", "main", &["sh", "-c", "echo three >/tmp/pipe"])?;
    ensure!(said.status.success(), "{said:?}");
    assert_eq!(lines.next().context("a line")??, "three");
    assert!(lines.next().is_none(), "the follower is told of the end");
    assert!(follower.wait()?.success());
    stage.wait("pod/talker -n talk", "{.status.phase}", "Failed").await?;
    let code = "{.status.containerStatuses[0].state.terminated.exitCode}";
    stage.wait("pod/talker -n talk", code, "3").await?;
    assert_eq!(stage.kubectl("logs -n talk talker")?, "one\ntwo\nthree\n");
    stage.kubectl("delete namespace talk")?;
    Ok(())
}

const MISSING: &str = r#"apiVersion: v1
kind: Pod
metadata: {name: lost, namespace: lost}
spec:
  automountServiceAccountToken: false
  containers:
  - {name: main, image: registry.test/nothing}
  - {name: root, image: registry.test/tools, command: ["true"], securityContext: {runAsNonRoot: true}}
"#;

#[tokio::test]
async fn what_cannot_run_says_why_in_its_status() -> Result<()> {
    let stage = stage().await?;
    stage.namespace("lost").await?;
    stage.cluster.apply(MISSING)?;
    let waiting = "{.status.containerStatuses[*].state.waiting.reason}";
    stage.wait("pod/lost -n lost", waiting, "CreateContainerError CreateContainerConfigError").await?;
    stage.wait("pod/lost -n lost", "{.status.phase}", "Pending").await?;
    stage.kubectl("delete pod lost -n lost")?;
    stage.kubectl("delete namespace lost")?;
    Ok(())
}
