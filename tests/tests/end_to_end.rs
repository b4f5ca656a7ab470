//! Everything together: a real API server, the real operator and the real agent as child processes, real processes in
//! pods' cgroups and network namespaces. What is held against what was asked: what the processes see, what the
//! policy's status says, and what the metrics count.

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use holdfast_tests::{
    demo::{
        POLICY, Stage,
        attempt::{self, DONE, EPERM, KILLED, SILENCE},
        http,
    },
    operator::Operator,
    wait::until,
};
use tokio::sync::{Mutex, MutexGuard};

const SOON: Duration = Duration::from_secs(30);

/// A stage has a tree of cgroups, of which a process has one.
static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

async fn stage() -> Result<(Stage, MutexGuard<'static, ()>)> {
    let turn = ONE_AT_A_TIME.lock().await;
    let stage = Stage::new(Path::new(env!("CARGO_BIN_EXE_demo"))).await?;
    Ok((stage, turn))
}

/// The policy of the demo, with `batch` allowed beside `web`.
fn with_batch() -> String {
    let one = "from: [{podSelector: {matchLabels: {app: web}}}]";
    assert!(POLICY.contains(one));
    let two = "from: [{podSelector: {matchLabels: {app: web}}}, {podSelector: {matchLabels: {app: batch}}}]";
    POLICY.replace(one, two)
}

fn tcp(stage: &Stage, from: &str, to: &str, port: u16, wanted: &str) -> Result<()> {
    let seen = attempt::tcp(&stage.node, from, to, port, wanted)?;
    ensure!(seen == wanted, "{from} to {to}:{port}: {seen}, and not {wanted}\n{}", stage.agent.log_tail());
    Ok(())
}

/// That the policy of the demo is in force: one attempt of each kind.
fn in_force(stage: &Stage) -> Result<()> {
    tcp(stage, "web", "api", 8080, DONE)?;
    tcp(stage, "batch", "api", 8080, SILENCE)?;
    tcp(stage, "api", "db", 5432, DONE)?;
    tcp(stage, "api", "outside", 443, EPERM)
}

/// Waits until `batch` gets through to `api`.
async fn wait_for_batch(stage: &Stage) -> Result<()> {
    until(SOON, "batch gets through to api", async || {
        Ok((attempt::tcp(&stage.node, "batch", "api", 8080, SILENCE)? == DONE).then_some(()))
    })
    .await
    .with_context(|| stage.agent.log_tail())
}

fn mount(stage: &Stage, pod: &str, folder: &str) -> Result<String> {
    attempt::call(&stage.node, pod, "mount", &stage.folder.path().join(folder))
}

#[tokio::test]
async fn a_policy_refuses_is_reported_and_counted_and_lets_go_when_it_is_deleted() -> Result<()> {
    let (stage, _turn) = stage().await?;
    let refuses = stage.mounts.probe()?.refuses_calls();
    for (from, to, port) in [("web", "api", 8080), ("batch", "api", 8080), ("api", "outside", 443)] {
        tcp(&stage, from, to, port, DONE)?;
    }
    assert_eq!(mount(&stage, "api", "before")?, DONE);
    let older = attempt::open(&stage.node, "batch", "api", 8080)?;
    assert_eq!(attempt::say(&stage.node, "batch", older, "api", DONE)?, DONE);
    assert_eq!(stage.agent.denials("shop/api", "network")?, 0);

    stage.apply(POLICY)?;
    stage.wait_programmed("api").await?;
    assert_eq!(stage.policy("api", "{.status.observedGeneration}")?, "1");
    assert_eq!(stage.policy("api", "{.status.nodes['selected','programmed']} {.status.workloads}")?, "1 1 1");
    assert_eq!(stage.policy("api", "{.status.conditions[?(@.type==\"Accepted\")].status}")?, "True");
    let given = stage.policy("api", "{.status.weakest[?(@.rule==\"syscalls.rules[0]\")].given}")?;
    assert_eq!(given, if refuses { "" } else { "KillAfterEffect" });
    // Where the kernel cannot refuse the mount, whoever waits for the policy to be enforced waits in vain.
    let patience = if refuses { "--timeout=60s" } else { "--timeout=5s" };
    let wait = ["wait", "wlp/api", "-n", "shop", "--for=condition=Enforced", patience];
    let waited = stage.cluster.kubectl_output(&wait, "")?;
    assert_eq!(waited.status.success(), refuses, "{waited:?}");
    let reason = stage.policy("api", "{.status.conditions[?(@.type==\"Enforced\")].reason}")?;
    assert_eq!(reason, if refuses { "Enforced" } else { "RulesWeaker" });

    in_force(&stage)?;
    assert_eq!(
        attempt::say(&stage.node, "batch", older, "api", SILENCE)?,
        SILENCE,
        "an older connection goes on"
    );
    let network = stage.agent.denials("shop/api", "network")?;
    assert!(
        network >= 3,
        "{network} packets counted of one refused caller, an older connection and a refused call"
    );
    tcp(&stage, "web", "api", 8080, DONE)?;
    assert_eq!(stage.agent.denials("shop/api", "network")?, network, "what is allowed is counted as refused");
    tcp(&stage, "api", "outside", 443, EPERM)?;
    assert_eq!(stage.agent.denials("shop/api", "network")?, network + 1);

    assert_eq!(mount(&stage, "api", "refused")?, if refuses { EPERM } else { KILLED });
    assert_eq!(stage.agent.denials("shop/api", "syscall")?, 1);
    assert_eq!(attempt::call(&stage.node, "api", "mkdir", &stage.folder.path().join("made"))?, DONE);
    assert_eq!(mount(&stage, "web", "other")?, DONE);
    assert_eq!(stage.agent.denials("shop/api", "syscall")?, 1);
    let of = "holdfast_policy_nodes{namespace=\"shop\",policy=\"shop/api\",state=\"programmed\"}";
    assert_eq!(stage.operator.metric(of).await?, Some(1.0));

    // A new generation.
    stage.apply(&with_batch())?;
    stage.wait_programmed("api").await?;
    assert_eq!(stage.policy("api", "{.status.observedGeneration}")?, "2");
    tcp(&stage, "batch", "api", 8080, DONE)?;
    tcp(&stage, "api", "outside", 443, EPERM)?;

    let uid = stage.policy("api", "{.metadata.uid}")?;
    stage.cluster.kubectl(&["delete", "wlp", "api", "-n", "shop"])?;
    stage.wait_gone(&uid).await?;
    for (from, to, port) in [("batch", "api", 9000), ("web", "api", 8080), ("api", "outside", 443)] {
        tcp(&stage, from, to, port, DONE)?;
    }
    assert_eq!(mount(&stage, "api", "after")?, DONE);
    assert!(stage.agent.denials("shop/api", "network")? > network, "what was counted is forgotten");
    until(SOON, "the operator forgets the policy's metric", async || {
        Ok(stage.operator.metric(of).await?.is_none().then_some(()))
    })
    .await
}

#[tokio::test]
async fn enforcement_stays_while_the_agent_the_operator_and_the_api_server_are_away() -> Result<()> {
    let (mut stage, _turn) = stage().await?;
    stage.apply(POLICY)?;
    stage.wait_programmed("api").await?;
    in_force(&stage)?;

    // The agent.
    stage.agent.kill()?;
    in_force(&stage)?;
    let refuses = stage.mounts.probe()?.refuses_calls();
    assert_eq!(mount(&stage, "api", "no-agent")?, if refuses { EPERM } else { KILLED });
    stage.restart_agent()?;
    in_force(&stage)?;
    stage.agent.wait_ready()?;
    in_force(&stage)?;
    // What changed meanwhile is taken up.
    assert!(stage.agent.terminate()?.success());
    in_force(&stage)?;
    stage.apply(&with_batch())?;
    until(SOON, "the status says that the new generation is not programmed", async || {
        let condition = "{.status.observedGeneration} {.status.conditions[?(@.type==\"Programmed\")].status}";
        Ok((stage.policy("api", condition)? == "2 False").then_some(()))
    })
    .await?;
    in_force(&stage)?;
    stage.restart_agent()?;
    stage.agent.wait_ready()?;
    tcp(&stage, "batch", "api", 8080, DONE)?;
    stage.wait_programmed("api").await?;

    // The operator: agents see the policies for themselves.
    stage.operator.kill()?;
    stage.apply(POLICY)?;
    until(SOON, "batch is refused again", async || {
        Ok((attempt::tcp(&stage.node, "batch", "api", 8080, SILENCE)? == SILENCE).then_some(()))
    })
    .await?;
    in_force(&stage)?;
    assert_eq!(stage.policy("api", "{.status.observedGeneration}")?, "2");
    stage.control.operator = Operator::start(&stage.control.cluster, "operator", &[])?;
    stage.operator.wait_ready().await?;
    stage.wait_programmed("api").await?;
    assert_eq!(stage.policy("api", "{.status.observedGeneration}")?, "3");

    // The API server, and then the agent too.
    stage.cluster.stop_apiserver()?;
    in_force(&stage)?;
    stage.agent.kill()?;
    stage.restart_agent()?;
    until(SOON, "the agent answers", async || Ok(stage.agent.get("/healthz").ok())).await?;
    in_force(&stage)?;
    stage.cluster.start_apiserver().await?;
    stage.agent.wait_ready()?;
    in_force(&stage)?;
    stage.apply(&with_batch())?;
    wait_for_batch(&stage).await?;
    stage.wait_programmed("api").await
}

#[tokio::test]
async fn readiness_says_no_until_everything_known_is_in_force() -> Result<()> {
    let (mut stage, _turn) = stage().await?;
    stage.apply(POLICY)?;
    stage.wait_programmed("api").await?;
    assert_eq!(stage.agent.get("/readyz")?.0, 200);
    stage.cluster.stop_apiserver()?;
    // Once everything was known, an outage takes nothing back.
    assert_eq!(stage.agent.get("/readyz")?.0, 200);
    stage.agent.kill()?;
    stage.operator.kill()?;

    // An agent and an operator that start meanwhile live, and do not know everything.
    stage.restart_agent()?;
    let (code, why) = until(SOON, "the agent answers", async || Ok(stage.agent.get("/readyz").ok())).await?;
    assert!(code == 503 && !why.trim().is_empty(), "{code} {why}");
    assert_eq!(stage.agent.get("/healthz")?.0, 200);
    stage.control.operator = Operator::start(&stage.control.cluster, "operator", &[])?;
    let (code, why) =
        until(SOON, "the operator answers", async || Ok(stage.operator.get("/readyz").await.ok())).await?;
    assert!(code == 503 && !why.trim().is_empty(), "{code} {why}");
    in_force(&stage)?;
    assert_eq!(stage.agent.get("/readyz")?.0, 503);

    stage.cluster.start_apiserver().await?;
    stage.agent.wait_ready()?;
    stage.operator.wait_ready().await?;
    in_force(&stage)
}

/// Breaks the glass, or ends that.
fn break_glass(stage: &Stage, words: &[&str]) -> Result<String> {
    let folder = stage.folder.path().join("state").display().to_string();
    stage.mounts.agent(&[&["break-glass", "--state-dir", &folder], words].concat())
}

/// Waits for a condition of the demo's policy: its status, and words of its message.
async fn wait_condition(stage: &Stage, kind: &str, status: &str, words: &str) -> Result<()> {
    let path = format!("{{.status.conditions[?(@.type==\"{kind}\")]['status','message']}}");
    until(SOON, &format!("the policy is {kind}={status}: {words}"), async || {
        let said = stage.policy("api", &path)?;
        Ok((said.starts_with(status) && said.contains(words)).then_some(()))
    })
    .await
    .with_context(|| stage.policy("api", "{.status}").unwrap_or_default())
}

#[tokio::test]
async fn while_the_glass_is_broken_node_policy_event_and_metric_say_so_until_it_is_over() -> Result<()> {
    let (stage, _turn) = stage().await?;
    stage.apply(POLICY)?;
    stage.wait_programmed("api").await?;
    in_force(&stage)?;
    let node =
        |path: &str| stage.cluster.kubectl(&["get", "wln", "node-1", "-o", &format!("jsonpath={path}")]);
    let event = |reason: &str| {
        let path = "jsonpath={.items[*].note}";
        let selector = format!("reason={reason},regarding.kind=Node,regarding.name=node-1");
        let resource = "events.v1.events.k8s.io";
        stage.cluster.kubectl(&["get", resource, "-n", "default", "--field-selector", &selector, "-o", path])
    };
    let metric =
        || -> Result<Option<u64>> { Ok(http::sum(&stage.agent.metrics()?, "holdfast_break_glass", &[])) };
    assert_eq!(metric()?, Some(0));
    assert!(event("BreakGlass")?.is_empty());

    let said = break_glass(&stage, &["--for", "20m", "--reason", "incident 7"])?;
    assert!(said.starts_with("BreakGlass: this node refuses nothing until "), "{said}");
    tcp(&stage, "batch", "api", 8080, DONE)?;
    tcp(&stage, "api", "outside", 443, DONE)?;
    until(SOON, "the metric is 1", async || Ok((metric()? == Some(1)).then_some(()))).await?;
    until(SOON, "the node's report says so", async || {
        let said = node("{.status.errors[*].message} {.status.policies[*].state}")?;
        Ok((said.contains("BreakGlass: ") && said.contains("incident 7") && said.ends_with(" Failed"))
            .then_some(()))
    })
    .await?;
    assert!(node("{.status.policies[*].rules[*].reason}")?.contains("BreakGlass"));
    wait_condition(&stage, "Programmed", "False", "BreakGlass").await?;
    until(SOON, "an Event tells of it", async || {
        Ok(event("BreakGlass")?.contains("incident 7").then_some(()))
    })
    .await?;
    assert!(event("BreakGlassEnded")?.is_empty());

    // It ends by itself, with nobody to end it.
    break_glass(&stage, &["--for", "1s"])?;
    stage.wait_programmed("api").await?;
    in_force(&stage)?;
    until(SOON, "the metric is 0", async || Ok((metric()? == Some(0)).then_some(()))).await?;
    until(SOON, "an Event tells that it is over", async || {
        Ok((!event("BreakGlassEnded")?.is_empty()).then_some(()))
    })
    .await?;
    assert!(!node("{.status.errors[*].message}")?.contains("BreakGlass"));
    Ok(())
}

#[tokio::test]
async fn a_node_that_boots_without_the_api_server_enforces_what_it_knew() -> Result<()> {
    let (mut stage, _turn) = stage().await?;
    stage.apply(POLICY)?;
    stage.wait_programmed("api").await?;
    in_force(&stage)?;
    stage.cluster.stop_apiserver()?;
    stage.lose_kernel_state()?;
    wait_for_batch(&stage).await.context("nothing is in the kernel, and yet something refuses")?;
    stage.restart_agent()?;
    until(SOON, "batch is refused by what the agent has on disk", async || {
        Ok((attempt::tcp(&stage.node, "batch", "api", 8080, SILENCE)? == SILENCE).then_some(()))
    })
    .await
    .with_context(|| stage.agent.log_tail())?;
    in_force(&stage)?;
    assert_eq!(stage.agent.get("/readyz")?.0, 503);
    stage.cluster.start_apiserver().await?;
    stage.agent.wait_ready()?;
    in_force(&stage)
}

const LATE: &str = "apiVersion: v1
kind: Pod
metadata: {name: api-late, namespace: shop, labels: {app: api}}
spec:
  nodeName: node-1
  serviceAccountName: api
  automountServiceAccountToken: false
  containers: [{name: main, image: registry.test/api, ports: [{name: http, containerPort: 8080}]}]
";

const SERVICE: &str = "apiVersion: v1
kind: Service
metadata: {name: api, namespace: shop}
spec:
  clusterIP: 10.96.0.50
  selector: {app: api}
  ports: [{name: http, port: 80, targetPort: http}]
---
apiVersion: holdfast.dev/v1alpha1
kind: WorkloadPolicy
metadata: {name: batch, namespace: shop}
spec:
  selector: {matchLabels: {app: batch}}
  network:
    egress:
      allow: [{to: [{podSelector: {matchLabels: {app: api}}}], ports: [{port: http}]}]
";

#[tokio::test]
async fn a_pod_that_comes_later_is_covered_and_leaves_when_it_goes() -> Result<()> {
    let (mut stage, _turn) = stage().await?;
    stage.apply(POLICY)?;
    stage.wait_programmed("api").await?;
    stage.run_pod(LATE, "api-late", 21)?;
    until(SOON, "the policy counts two workloads", async || {
        Ok((stage.policy("api", "{.status.workloads}")? == "2").then_some(()))
    })
    .await?;
    until(SOON, "the late pod is isolated", async || {
        Ok((attempt::tcp(&stage.node, "batch", "api-late", 8080, SILENCE)? == SILENCE).then_some(()))
    })
    .await?;
    tcp(&stage, "web", "api-late", 8080, DONE)?;
    tcp(&stage, "api-late", "outside", 443, EPERM)?;
    // The identity of its labels is the same, so it may do what the other may.
    tcp(&stage, "api-late", "db", 5432, DONE)?;
    // Its object goes first, by force; the process goes on, and so does what holds for it.
    stage.cluster.kubectl(&["delete", "pod", "api-late", "-n", "shop", "--force", "--grace-period=0"])?;
    until(SOON, "the policy counts one workload", async || {
        Ok((stage.policy("api", "{.status.workloads}")? == "1").then_some(()))
    })
    .await?;
    tcp(&stage, "batch", "api-late", 8080, SILENCE)?;
    tcp(&stage, "api-late", "outside", 443, EPERM)?;
    stage.node.stop("api-late")?;
    until(SOON, "the agent knows one workload less", async || {
        let known = http::sum(&stage.agent.metrics()?, "holdfast_workloads", &["state=\"selected\""]);
        Ok((known == Some(2)).then_some(()))
    })
    .await
}

#[tokio::test]
async fn a_service_address_is_allowed_when_its_backends_are() -> Result<()> {
    let (stage, _turn) = stage().await?;
    let service = "10.96.0.50:80".parse()?;
    stage.node.alias("api", "10.96.0.50".parse()?)?;
    let attempt = |stage: &Stage, wanted: &str| attempt::tcp_at(&stage.node, "batch", "api", service, wanted);
    assert_eq!(attempt(&stage, DONE)?, DONE);
    stage.apply(SERVICE)?;
    stage.wait_programmed("batch").await?;
    until(SOON, "the Service's address is allowed", async || {
        Ok((attempt(&stage, SILENCE)? == DONE).then_some(()))
    })
    .await
    .with_context(|| {
        stage.cluster.kubectl(&["get", "endpointslices,adsl", "-A", "-o", "yaml"]).unwrap_or_default()
    })?;
    tcp(&stage, "batch", "db", 5432, SILENCE)?;
    // Another port of the same address is no port of the Service.
    let other = "10.96.0.50:443".parse()?;
    assert_eq!(attempt::tcp_at(&stage.node, "batch", "api", other, SILENCE)?, SILENCE);
    // Without backends nothing is behind the address, and so nothing allowed.
    let selector = r#"{"spec":{"selector":{"app":"nobody"}}}"#;
    stage.cluster.kubectl(&["patch", "service", "api", "-n", "shop", "-p", selector])?;
    until(SOON, "the Service's address is refused", async || {
        Ok((attempt(&stage, SILENCE)? == SILENCE).then_some(()))
    })
    .await
}

/// The demo, with all that it leaves in a folder of its own.
fn demo(folder: &Path) -> Result<Child> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_demo"));
    command.env("TMPDIR", folder).stdout(Stdio::piped()).spawn().context("starting the demo")
}

/// Names of cgroups whose maker, a demo or a test, is gone.
fn orphans() -> Result<BTreeSet<String>> {
    let root = holdfast_agent::cgroups::root(Path::new("/proc/self/mountinfo"))?;
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(root)? {
        names.insert(entry?.file_name().to_string_lossy().into_owned());
    }
    names.retain(|name| {
        let owner = name.strip_prefix("holdfast-test-").and_then(|id| id.parse::<u32>().ok());
        owner.is_some_and(|id| !Path::new(&format!("/proc/{id}")).exists())
    });
    Ok(names)
}

#[tokio::test]
async fn the_demo_sees_what_it_expects_and_leaves_nothing() -> Result<()> {
    let _turn = ONE_AT_A_TIME.lock().await;
    let (folder, before) = (tempfile::tempdir()?, orphans()?);
    let output = demo(folder.path())?.wait_with_output()?;
    let text = String::from_utf8(output.stdout)?;
    assert!(output.status.success(), "{text}");
    let rows = text.lines().filter(|line| line.starts_with("  ok ")).count();
    assert!(rows >= 20 && !text.contains("\n NOT "), "{text}");
    for shown in [
        "kubectl apply",
        "kubectl get wlp,wln",
        "Programmed=True",
        "holdfast_denials_total{",
        "holdfast_policy_nodes{",
    ] {
        assert!(text.contains(shown), "no {shown} in\n{text}");
    }
    assert_eq!(fs::read_dir(folder.path())?.count(), 0);
    assert!(orphans()?.is_subset(&before));
    Ok(())
}

#[tokio::test]
async fn the_demo_leaves_nothing_when_it_is_interrupted() -> Result<()> {
    let _turn = ONE_AT_A_TIME.lock().await;
    let (folder, before) = (tempfile::tempdir()?, orphans()?);
    let mut demo = demo(folder.path())?;
    let output = demo.stdout.take().context("no output")?;
    // By then pods run, and the agent is about to attach its programs.
    let begun = BufReader::new(output)
        .lines()
        .map_while(Result::ok)
        .any(|line| line.contains("starting holdfast-agent"));
    assert!(begun, "the demo ended early");
    let interrupted = Command::new("kill").args(["-INT", &demo.id().to_string()]).status()?;
    assert!(interrupted.success());
    assert_eq!(demo.wait()?.code(), Some(130));
    assert_eq!(fs::read_dir(folder.path())?.count(), 0);
    assert!(orphans()?.is_subset(&before));
    Ok(())
}
