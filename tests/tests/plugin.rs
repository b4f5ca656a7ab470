//! `kubectl holdfast` against the real control plane, as users with different permissions, with a real operator that says
//! what became of policies, and a node whose report and whose agent's log are the test's.

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    path::PathBuf,
    process::{Child, Stdio},
    sync::{Arc, Weak, mpsc},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use holdfast_crds::{WorkloadNode, WorkloadPolicy};
use holdfast_tests::{
    chart::{self, Helm},
    controlplane::{ControlPlane, Options},
    kubelet::{Kubelet, NodeOptions},
    operator::{self, NAMESPACE, Operator},
    plugin::{self, Said},
    wait::until,
};
use k8s_openapi::{
    api::{coordination::v1::Lease, core::v1::Node},
    jiff::Timestamp,
};
use kube::{
    Api, Client, ResourceExt,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};
use tokio::sync::Mutex;

const SOON: Duration = Duration::from_mins(2);
const NODE: &str = "node-1";
/// Stands in places where secrets stand, and must be in no bundle.
const PLANTED: &str = "hunter2correcthorse";

const CLUSTER: &str = include_str!("plugin/cluster.yaml");

/// A cluster of one node, for all tests that run at a time.
struct Stage {
    operator: Operator,
    node: Kubelet,
    cluster: ControlPlane,
}

async fn stage() -> Result<Arc<Stage>> {
    static STAGE: Mutex<Weak<Stage>> = Mutex::const_new(Weak::new());
    let mut shared = STAGE.lock().await;
    if let Some(stage) = shared.upgrade() {
        return Ok(stage);
    }
    let stage = Arc::new(Stage::new().await?);
    *shared = Arc::downgrade(&stage);
    Ok(stage)
}

impl Stage {
    async fn new() -> Result<Self> {
        let cluster = ControlPlane::start(Options::whole()).await?;
        operator::prepare(&cluster)?;
        let chart = chart::directory().display().to_string();
        let users = ["template", chart::RELEASE, &chart, "--show-only", "templates/rbac-users.yaml"];
        apply(&cluster, &Helm::new()?.run(&users)?)?;
        let node = Kubelet::start(&cluster, NodeOptions::named(NODE)).await?;
        apply(&cluster, &CLUSTER.replace("PLANTED", PLANTED))?;
        let mut operator = Operator::start(&cluster, "operator", &[])?;
        operator.wait_ready().await?;
        let stage = Self { operator, node, cluster };
        stage
            .wait("pods run", "get pods -A -o jsonpath={.items[*].status.phase}", |phases| {
                phases.split(' ').count() == 5 && phases.split(' ').all(|phase| phase == "Running")
            })
            .await
            .with_context(|| stage.node.own_log())?;
        stage
            .wait(
                "a backend is ready",
                "get endpointslices -n shop -o jsonpath={.items[*].endpoints[*].conditions.ready}",
                |ready| ready == "true",
            )
            .await?;
        // The controller manager gathers what people may do.
        stage
            .wait("dev may read policies", "auth can-i list workloadpolicies -n shop --as dev", |said| {
                said == "yes"
            })
            .await?;
        stage
            .wait(
                "sre may read logs",
                &format!("auth can-i get pods --subresource=log -n {NAMESPACE} --as sre"),
                |said| said == "yes",
            )
            .await?;
        stage.report().await?;
        stage
            .wait(
                "policies are in force",
                "get wlp -n shop -o jsonpath={.items[*].status.conditions[?(@.type==\"Programmed\")].status}",
                |said| said == "True True",
            )
            .await
            .with_context(|| stage.operator.log_tail())?;
        stage
            .wait("slices know the pods", "get adsl -o jsonpath={.items[*].addresses[*].node}", |said| {
                said.split(' ').filter(|node| *node == NODE).count() >= 4
            })
            .await?;
        Ok(stage)
    }

    /// What the agent of the node would report: policies in force, but for one rule on this kernel.
    async fn report(&self) -> Result<()> {
        let client = self.cluster.client().await?;
        let node = Api::<Node>::all(client.clone()).get(NODE).await?;
        let boot = node
            .status
            .as_ref()
            .and_then(|status| status.node_info.as_ref())
            .map(|info| info.boot_id.clone());
        let policies =
            Api::<WorkloadPolicy>::namespaced(client.clone(), "shop").list(&Default::default()).await?;
        let rows: Vec<Value> = policies
            .items
            .iter()
            .map(|policy| {
                let short = json!([{"rule": "syscalls.rules[0]", "asked": "Deny", "given": "KillAfterEffect",
                    "mechanism": "sys_enter", "reason": "NoLsmAndNoFmodRet"}]);
                json!({
                    "namespace": "shop", "name": policy.name_any(), "uid": policy.uid(),
                    "generation": policy.metadata.generation, "state": "Programmed", "workloads": 1, "omitted": 0,
                    "rules": if policy.name_any() == "api" { short } else { json!([]) },
                })
            })
            .collect();
        let object = json!({
            "apiVersion": "holdfast.dev/v1alpha1", "kind": "WorkloadNode", "metadata": {"name": NODE},
        });
        let status = json!({
            "nodeUid": node.uid(), "bootId": boot, "agentVersion": env!("CARGO_PKG_VERSION"),
            "kernel": {"release": "6.18.0", "architecture": "x86_64"},
            "mechanisms": [
                {"name": "fmod_ret", "state": "Unavailable", "reason": "refused"},
                {"name": "lsm", "state": "Unavailable", "reason": "never called"},
                {"name": "sys_enter", "state": "Available"},
            ],
            "policies": rows, "omitted": 0, "observedAt": Timestamp::now(),
        });
        let params = PatchParams::apply("test").force();
        let api: Api<WorkloadNode> = Api::all(client.clone());
        api.patch(NODE, &params, &Patch::Apply(&object)).await?;
        let mut whole = object;
        whole["status"] = status;
        api.patch_status(NODE, &params, &Patch::Apply(&whole)).await?;
        heartbeat(&client).await
    }

    fn kubectl(&self, words: &str) -> Result<String> {
        self.cluster.kubectl(&words.split(' ').collect::<Vec<_>>())
    }

    async fn wait(&self, what: &str, words: &str, is: impl Fn(&str) -> bool) -> Result<()> {
        let mut seen = String::new();
        until(SOON, what, async || {
            let output = self.cluster.kubectl_output(&words.split(' ').collect::<Vec<_>>(), "")?;
            seen = String::from_utf8_lossy(&output.stdout).trim().to_owned();
            Ok(is(&seen).then_some(()))
        })
        .await
        .with_context(|| format!("it is {seen}"))
    }

    fn kubeconfig(&self, user: &str) -> Result<PathBuf> {
        self.cluster.kubeconfig(user, (user == "admin").then_some("system:masters"))
    }

    /// `kubectl holdfast` as some user.
    fn holdfast(&self, user: &str, words: &[&str]) -> Result<Said> {
        plugin::run(&self.kubeconfig(user)?, self.cluster.folder(), words)
    }

    /// The same; it must succeed.
    fn told(&self, user: &str, words: &[&str]) -> Result<String> {
        let said = self.holdfast(user, words)?;
        ensure!(said.code == 0, "{words:?}: {said:?}");
        Ok(said.out)
    }

    /// Has an agent write a line to its log.
    fn write(&self, agent: &str, line: &str) -> Result<()> {
        let words = ["sh", "-c", "printf '%s\\n' \"$1\" >/tmp/pipe", "sh", line];
        let output = self.node.exec(NAMESPACE, agent, "agent", &words)?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    /// Writes lines, and waits until the log has the last.
    async fn write_all(&self, agent: &str, lines: &[String]) -> Result<()> {
        for line in lines {
            self.write(agent, line)?;
        }
        until(SOON, "the log has the lines", async || {
            let log = self.node.log(NAMESPACE, agent, "agent")?;
            Ok(lines.iter().all(|line| log.contains(line.as_str())).then_some(()))
        })
        .await
    }
}

/// Applies documents as a user who may do everything.
fn apply(cluster: &ControlPlane, yaml: &str) -> Result<()> {
    let output = cluster.kubectl_output(&["apply", "--server-side", "-f", "-"], yaml)?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// Renews the Lease of the node's agent, for an hour.
async fn heartbeat(client: &Client) -> Result<()> {
    let name = format!("holdfast-agent-{NODE}");
    let now = Timestamp::now();
    let lease = json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {"holderIdentity": NODE, "leaseDurationSeconds": 3600, "renewTime": format!("{now:.6}")},
    });
    let api: Api<Lease> = Api::namespaced(client.clone(), NAMESPACE);
    api.patch(&name, &PatchParams::apply("test").force(), &Patch::Apply(&lease)).await?;
    Ok(())
}

/// An event of a pod of the namespace; the moment counts seconds of one minute.
fn event(namespace: &str, pod: &str, kind: &str, moment: u8, note: &str) -> String {
    json!({
        "schema": "holdfast.dev/event/v1", "time": format!("2026-11-25T01:00:{moment:02}.000000001Z"), "node": NODE,
        "kind": kind, "namespace": namespace, "workload": format!("Deployment/{pod}"),
        "pod": {"name": pod, "uid": "u"}, "process": {"pid": 7, "executable": note},
        "policy": format!("{namespace}/{pod}"), "generation": 1, "rule": "network.egress", "ruleKind": "network",
        "mechanism": "cgroup_skb", "asked": "Deny", "given": if kind == "Denied" { "Drop" } else { "Audit" },
        "network": {"direction": "Egress", "protocol": "TCP", "destination": "192.0.2.1:443"}, "count": 1,
    })
    .to_string()
}

/// The `executable` of each event that was printed as JSON.
fn notes(out: &str) -> Result<Vec<String>> {
    out.lines()
        .map(|line| {
            let event: Value = serde_json::from_str(line).with_context(|| line.to_owned())?;
            let note = event.pointer("/process/executable").or(event.pointer("/gap/buffer"));
            Ok(note.and_then(Value::as_str).unwrap_or_default().to_owned())
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn status_tells_what_each_user_may_read_and_what_is_left_out() -> Result<()> {
    let stage = stage().await?;
    // A platform admin sees all of it.
    let text = stage.told("admin", &["status", "-A"])?;
    println!("$ kubectl holdfast status -A\n{text}");
    for expected in [
        "operator   ",
        " leads, heard of ",
        "agents     NodeAgent nowhere: 0 wanted, 0 ready, 0 updated",
        "nodes      1: 1 alive\n",
        &format!("versions   {} on 1 node\n", env!("CARGO_PKG_VERSION")),
        "mechanisms fmod_ret on 0 of 1 nodes, lsm on 0, sys_enter on 1\n",
        "\nnode-1   alive ",
        "\nshop/api ",
        "degraded",
        "\nshop/web ",
        "Audit     in force",
        "\ncluster/bank ",
        "no workloads",
        "shop/api   syscalls.rules[0]   Deny    KillAfterEffect   NoLsmAndNoFmodRet   node-1\n",
    ] {
        ensure!(text.contains(expected), "{expected} is not in\n{text}");
    }
    ensure!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
    ensure!(!text.contains("Left out"), "{text}");

    // Who may look into one namespace sees its policies, and is told what is missing.
    let text = stage.told("dev", &["status", "-n", "shop"])?;
    println!("$ kubectl holdfast status -n shop   # as a user of one namespace\n{text}");
    ensure!(
        text.starts_with("POLICY ") && text.contains("\nshop/api ") && text.contains("\nshop/web "),
        "{text}"
    );
    for expected in [
        "what each node reports (workloadnodes: you may not list them)",
        "policies of the whole cluster (clusterworkloadpolicies: you may not list them)",
        "which agents live, and who leads (leases: you may not list them)",
    ] {
        ensure!(text.contains(expected), "{expected} is not in\n{text}");
    }
    ensure!(!text.contains("cluster/bank") && !text.contains("node-1 "), "{text}");
    let refused = stage.holdfast("dev", &["status", "-A"])?;
    ensure!(refused.code == 2 && refused.err.contains("name a namespace with -n"), "{refused:?}");
    let refused = stage.holdfast("dev", &["status", "-n", "bank"])?;
    ensure!(refused.code == 1 && refused.err.lines().count() == 1, "{refused:?}");
    ensure!(refused.err.starts_with("error: workloadpolicies in namespace bank: forbidden: "), "{refused:?}");

    // JSON says the same.
    let json: Value = serde_json::from_str(&stage.told("admin", &["status", "-A", "-o", "json"])?)?;
    assert_eq!(json["fleet"]["nodes"][0]["state"], "Alive");
    assert_eq!(json["fleet"]["nodes"][0]["weaker"], 1);
    let states: Vec<&Value> =
        json["policies"].as_array().context("policies")?.iter().map(|policy| &policy["state"]).collect();
    assert_eq!(states, ["Degraded", "NoWorkloads", "NoWorkloads", "InForce"]);

    // One policy, with and without the nodes' reports.
    let text = stage.told("admin", &["status", "shop/api"])?;
    println!("$ kubectl holdfast status shop/api\n{text}");
    for expected in [
        "WorkloadPolicy shop/api, Enforce, generation 1: in force on 1 of 1 node, 1 workload\n",
        "syscalls.rules[0]          Deny    KillAfterEffect by sys_enter   node-1   mount: NoLsmAndNoFmodRet\n",
        "network.ingress.allow[0]   Allow   as asked                       1 node\n",
        "\nnode-1   Programmed   1            1\n",
    ] {
        ensure!(text.contains(expected), "{expected} is not in\n{text}");
    }
    let text = stage.told("dev", &["status", "api", "-n", "shop"])?;
    ensure!(text.contains("KillAfterEffect") && text.contains("Left out: what each node reports"), "{text}");
    let text = stage.told("admin", &["status", "cluster/bank"])?;
    ensure!(text.starts_with("ClusterWorkloadPolicy cluster/bank, Enforce"), "{text}");
    let missing = stage.holdfast("admin", &["status", "nobody", "-n", "shop"])?;
    ensure!(missing.code == 1, "{missing:?}");
    assert_eq!(
        missing.err,
        "error: there is no WorkloadPolicy nobody in namespace shop; a ClusterWorkloadPolicy is cluster/nobody\n"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn explain_of_the_cluster_gives_the_answer_that_its_objects_in_files_give() -> Result<()> {
    let stage = stage().await?;
    let dump = stage.cluster.folder().join("dump.yaml");
    let kinds = "pods,services,deployments,replicasets,namespaces,nodes,wlp,cwlp,nag,ewl,wln,adsl";
    fs::write(&dump, stage.kubectl(&format!("get {kinds} -A -o yaml"))?)?;
    let dump = dump.to_str().context("no UTF-8")?;
    let address = stage.kubectl("get pod api -n shop -o jsonpath={.status.podIP}")?;
    let to_address = format!("--from shop/deployment/web --to {address} --port 8080");
    for (question, code, expected) in [
        (
            "--from shop/deployment/web --to shop/pod/api --port 8080",
            0,
            "by shop/api network.ingress.allow[0]\n    on node-1: in force by cgroup_skb\n",
        ),
        (
            "--from shop/deployment/web --to shop/pod/api --port 8080",
            0,
            "audit: shop/web network.egress would refuse it",
        ),
        (
            "--from bank/client --to shop/pod/api --port 8080",
            1,
            "denied, as shop/api isolates it and no rule allows this",
        ),
        (
            "--from shop/deployment/web --to shop/service/api --port 80",
            0,
            "ingress of shop/api (Pod), TCP 8080: allowed",
        ),
        (to_address.as_str(), 0, "by shop/api network.ingress.allow[0]"),
        (
            "--from shop/pod/api --syscall mount",
            1,
            "Deny by shop/api syscalls.rules[0]\n    on node-1: given KillAfterEffect by sys_enter (NoLsmAndNoFmodRet)\n",
        ),
        ("--from shop/pod/api --syscall read", 0, "Allow as no rule says otherwise"),
        (
            "--from 192.0.2.7 --to 10.20.30.41 --port 5432",
            1,
            "ingress of bank/ledger (ExternalWorkload), TCP 5432: denied",
        ),
    ] {
        let words: Vec<&str> = ["explain"].into_iter().chain(question.split(' ')).collect();
        let live = stage.holdfast("admin", &words)?;
        println!("$ kubectl holdfast explain {question}; echo $?\n{}{}", live.out, live.code);
        ensure!(
            live.code == code && live.out.contains(expected),
            "{question}: {expected} is not in {live:?}"
        );
        ensure!(live.err.is_empty(), "{live:?}");
        let offline = stage.holdfast("nobody", &[&words[..], &["-f", dump]].concat())?;
        assert_eq!((live.code, &live.out), (offline.code, &offline.out), "{question}: {}", offline.err);
        let agent = stage.node.agent(&[&words[..1], &[dump], &words[1..]].concat());
        // The agent's command fails where the answer is no.
        if code == 0 {
            assert_eq!(agent?, live.out, "{question}");
        }
    }
    // A user of one namespace gets an answer, and is told what it lacks.
    let question = "explain -n shop --from deployment/web --to pod/api --port 8080";
    let said = stage.holdfast("dev", &question.split(' ').collect::<Vec<_>>())?;
    println!("$ kubectl holdfast {question}   # as a user of one namespace\n{}", said.out);
    ensure!(said.code == 0, "{said:?}");
    for expected in [
        "by shop/api network.ingress.allow[0]\n    the policy is in force on 1 of its 1 nodes\n",
        "note: you may not read clusterworkloadpolicies: one of them may refuse or allow what is said here\n",
        "note: you may not read workloadnodes: on which nodes and by which mechanism is not known\n",
        "note: you may not read addressslices: addresses outside the namespaces asked about count as World\n",
    ] {
        ensure!(said.out.contains(expected), "{expected} is not in\n{}", said.out);
    }
    let said = stage
        .holdfast("dev", &["explain", "--from", "bank/client", "--to", "shop/pod/api", "--port", "80"])?;
    ensure!(
        said.code == 2 && said.err.contains("there is no workload and no Service bank/client"),
        "{said:?}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_are_the_agents_events_for_who_may_read_them_filtered_and_in_order() -> Result<()> {
    let stage = stage().await?;
    let gap = r#"{"schema":"holdfast.dev/event/v1","time":"2026-11-25T01:00:04Z","node":"node-1","kind":"Gap","gap":{"buffer":"denials","lost":37}}"#;
    let lines = [
        "2026-11-25T01:00:00Z INFO holdfast_agent: programs loaded".to_owned(),
        event("shop", "api", "Denied", 1, "/first"),
        event("bank", "client", "Denied", 2, "/elsewhere"),
        "{\"schema\":\"holdfast.dev/event/v2\",\"time\":\"x\"}".to_owned(),
        event("shop", "web", "Audited", 3, "/audited"),
        gap.to_owned(),
        event("shop", "api", "Denied", 5, "/last"),
    ];
    stage.write_all("agent-a", &lines).await?;
    stage.write_all("agent-b", &[event("shop", "api", "Denied", 2, "/other-agent")]).await?;

    for user in ["admin", "sre"] {
        let text = stage.told(user, &["logs", "-n", "shop"])?;
        println!("$ kubectl holdfast logs -n shop\n{text}");
        let said = stage.holdfast(user, &["logs", "-n", "shop", "-o", "json"])?;
        ensure!(said.code == 0 && said.err.is_empty(), "{said:?}");
        assert_eq!(notes(&said.out)?, ["/first", "/other-agent", "/audited", "denials", "/last"]);
    }
    let ask = |more: &str| -> Result<Vec<String>> {
        let words: Vec<&str> = ["logs", "-o", "json"].into_iter().chain(more.split(' ')).collect();
        notes(&stage.told("sre", &words)?)
    };
    // Other tests write events of other namespaces.
    let all = ask("-A")?;
    ensure!(
        ["/first", "/elsewhere", "/last"].iter().all(|note| all.iter().any(|other| other == note)),
        "{all:?}"
    );
    assert_eq!(ask("-n bank")?, ["/elsewhere", "denials"]);
    assert_eq!(ask("-n shop --tail 2")?, ["denials", "/last"]);
    assert_eq!(ask("-n shop --kind audited")?, ["/audited"]);
    assert_eq!(ask("-n shop --policy web")?, ["/audited", "denials"]);
    assert_eq!(ask("-A --policy bank/client --kind denied")?, ["/elsewhere", "denials"]);
    assert_eq!(ask("-n shop --workload Deployment/web")?, ["/audited", "denials"]);
    assert_eq!(ask("-n shop --pod web --rule-kind network")?, ["/audited", "denials"]);
    assert_eq!(ask("-n shop --rule-kind syscall")?, ["denials"]);
    assert_eq!(ask("-n shop --since 1s")?, [] as [&str; 0], "they are all of another day");
    let said = stage.holdfast("sre", &["logs", "-n", "shop", "--node", "node-9"])?;
    ensure!(said.code == 1 && said.err == "error: no agent runs on node node-9\n", "{said:?}");
    let said = stage.holdfast("sre", &["logs", "--holdfast-namespace", "bank"])?;
    ensure!(said.code == 1 && said.err.starts_with("error: no agents run in namespace bank"), "{said:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_are_kubernetes_events_for_who_may_not_read_the_agents() -> Result<()> {
    let stage = stage().await?;
    let made = |name: &str, reason: &str, count: i32| {
        let note = format!("egress TCP to 192.0.2.1:443 by shop/api network.egress ({name})");
        json!({
            "apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": name, "namespace": "shop"},
            "eventTime": "2026-11-25T01:00:00.000000Z", "reason": reason, "type": "Warning", "action": reason,
            "reportingController": "holdfast.dev/agent", "reportingInstance": NODE, "note": note,
            "regarding": {"apiVersion": "v1", "kind": "Pod", "namespace": "shop", "name": "api"},
            "series": {"count": count, "lastObservedTime": "2026-11-25T01:05:00.000000Z"},
        })
        .to_string()
    };
    apply(&stage.cluster, &made("one", "Denied", 12))?;
    let other = made("two", "Audited", 2).replace("holdfast.dev/agent", "example.com/other");
    apply(&stage.cluster, &other)?;
    let said = stage.holdfast("dev", &["logs", "-n", "shop"])?;
    println!("$ kubectl holdfast logs -n shop   # as a user of one namespace\n{}{}", said.err, said.out);
    ensure!(said.code == 0, "{said:?}");
    ensure!(
        said.err.starts_with("note: the agents' logs may not be read (") && said.err.lines().count() == 1,
        "{said:?}"
    );
    assert_eq!(
        said.out,
        "2026-11-25T01:05:00.000Z node-1 Denied   shop/Pod/api; egress TCP to 192.0.2.1:443 by shop/api network.egress \
         (one); 12 times\n"
    );
    for (words, lines) in [
        ("--policy api", 1),
        ("--policy web", 0),
        ("--pod api", 1),
        ("--kind audited", 0),
        ("--node node-2", 0),
    ] {
        let words: Vec<&str> = ["logs", "-n", "shop"].into_iter().chain(words.split(' ')).collect();
        assert_eq!(stage.told("dev", &words)?.lines().count(), lines, "{words:?}");
    }
    let said = stage.holdfast("dev", &["logs", "-n", "shop", "--rule-kind", "network"])?;
    ensure!(said.code == 2 && said.err.contains("--rule-kind needs the agents' logs"), "{said:?}");
    let said = stage.holdfast("dev", &["logs", "-n", "bank"])?;
    ensure!(said.code == 1 && said.err.contains("error: events in namespace bank: forbidden"), "{said:?}");

    // Followed: what comes, and what comes again.
    let follower = Follower::start(&stage, "dev", &["logs", "-n", "shop", "-f"])?;
    follower.expect("(one); 12 times")?;
    apply(&stage.cluster, &made("three", "Denied", 2))?;
    follower.expect("(three); 2 times")?;
    apply(&stage.cluster, &made("one", "Denied", 13))?;
    follower.expect("(one); 13 times")?;
    Ok(())
}

/// A command that goes on, and its lines.
struct Follower {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Follower {
    fn start(stage: &Stage, user: &str, words: &[&str]) -> Result<Self> {
        let mut command = plugin::command(&stage.kubeconfig(user)?, stage.cluster.folder())?;
        let mut child = command.args(words).stdout(Stdio::piped()).spawn()?;
        let out = BufReader::new(child.stdout.take().context("no output")?);
        let (to, lines) = mpsc::channel();
        thread::spawn(move || out.lines().map_while(Result::ok).try_for_each(|line| to.send(line)));
        Ok(Self { child, lines })
    }

    /// The next line must hold this.
    fn expect(&self, wanted: &str) -> Result<()> {
        let line = self.lines.recv_timeout(SOON).with_context(|| format!("no line with {wanted}"))?;
        ensure!(line.contains(wanted), "{line} is not about {wanted}");
        Ok(())
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_are_followed_over_an_agents_restart_without_saying_anything_twice() -> Result<()> {
    let stage = stage().await?;
    let follower =
        Follower::start(&stage, "sre", &["logs", "-n", "follow", "--kind", "audited", "-f", "-o", "json"])?;
    let say = |moment, note: &str| stage.write("agent-c", &event("follow", "api", "Audited", moment, note));
    say(1, "/one")?;
    follower.expect("/one")?;
    say(2, "/two")?;
    follower.expect("/two")?;
    stage.node.kill(NAMESPACE, "agent-c", "agent")?;
    let count =
        format!("get pod agent-c -n {NAMESPACE} -o jsonpath={{.status.containerStatuses[0].restartCount}}");
    stage.wait("the agent is restarted", &count, |count| count == "1").await?;
    until(SOON, "the agent runs again", async || Ok(say(3, "/three").ok())).await?;
    follower.expect("/three")?;
    say(4, "/four")?;
    follower.expect("/four")?;
    // What came before the restart is still told, from the log of the container before.
    let said = stage.told("sre", &["logs", "-n", "follow", "--kind", "audited", "-o", "json"])?;
    assert_eq!(notes(&said)?, ["/one", "/two", "/three", "/four"]);
    Ok(())
}

/// Name -> contents of the files of an archive.
fn unpack(path: &std::path::Path) -> Result<Vec<(String, String)>> {
    let folder = tempfile::tempdir()?;
    let status =
        std::process::Command::new("tar").arg("-xzf").arg(path).arg("-C").arg(folder.path()).status()?;
    ensure!(status.success(), "tar cannot read {}", path.display());
    let (mut files, mut folders) = (Vec::new(), vec![folder.path().to_owned()]);
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let mut text = String::new();
                fs::File::open(&path)?.read_to_string(&mut text)?;
                files.push((path.strip_prefix(folder.path())?.display().to_string(), text));
            }
        }
    }
    files.sort();
    Ok(files)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_support_bundle_holds_what_helps_and_no_secret() -> Result<()> {
    let stage = stage().await?;
    let planted =
        [format!("connecting with password={PLANTED}"), event("bundle", "api", "Denied", 9, "/bundled")];
    stage.write_all("agent-a", &planted).await?;
    let path = stage.cluster.folder().join("bundle.tar.gz");
    let name = path.to_str().context("no UTF-8")?;
    let said = stage.holdfast("admin", &["support-bundle", "-o", name])?;
    println!(
        "$ kubectl holdfast support-bundle -o bundle.tar.gz\n{}",
        said.out.replace(name, "bundle.tar.gz")
    );
    ensure!(said.code == 0, "{said:?}");
    let files = unpack(&path)?;
    let names: Vec<&str> = files.iter().map(|(name, _)| name.as_str()).collect();
    println!("{}", names.join("\n"));
    for wanted in [
        "manifest.json",
        "versions.json",
        "status.txt",
        "nodes.json",
        "events.json",
        "customresourcedefinitions.json",
        "holdfast.dev/workloadnodes.json",
        "holdfast.dev/workloadpolicies.json",
        "holdfast.dev/nodeagents.json",
        "installation/daemonsets.json",
        "installation/leases.json",
        "installation/pods.json",
        "logs/agent-a/agent.log",
    ] {
        ensure!(names.contains(&format!("bundle/{wanted}").as_str()), "{wanted} is not in {names:?}");
    }
    let text = |wanted: &str| {
        let found = files.iter().find(|(name, _)| *name == format!("bundle/{wanted}"));
        found.map(|(_, text)| text.as_str()).with_context(|| wanted.to_owned())
    };
    for (name, text) in &files {
        ensure!(!text.contains(PLANTED), "a secret is in {name}:\n{text}");
        ensure!(!text.contains("last-applied") && !text.contains("managedFields"), "{name}");
    }
    // It was there to be found.
    ensure!(stage.kubectl(&format!("get pod agent-a -n {NAMESPACE} -o yaml"))?.contains(PLANTED));
    ensure!(text("logs/agent-a/agent.log")?.contains("/bundled"));
    ensure!(text("logs/agent-a/agent.log")?.contains("password=[redacted]"));
    ensure!(text("installation/pods.json")?.contains("[redacted]"));
    ensure!(text("holdfast.dev/workloadnodes.json")?.contains("NoLsmAndNoFmodRet"));
    ensure!(text("status.txt")?.contains("shop/api"));
    let manifest: Value = serde_json::from_str(text("manifest.json")?)?;
    assert_eq!(manifest["files"].as_array().map(Vec::len), Some(files.len() - 1));
    assert_eq!(manifest["notRead"], json!([]), "an admin may read all of it");
    // Nobody asked for a Secret or a ConfigMap.
    let asked: Vec<String> = stage
        .cluster
        .audit_events()?
        .iter()
        .filter(|event| {
            event
                .pointer("/userAgent")
                .and_then(Value::as_str)
                .is_some_and(|by| by.contains("kubectl-holdfast"))
        })
        .filter_map(|event| Some(event.pointer("/objectRef/resource")?.as_str()?.to_owned()))
        .collect();
    ensure!(asked.iter().any(|kind| kind == "workloadnodes"), "{asked:?}");
    ensure!(!asked.iter().any(|kind| kind == "secrets" || kind == "configmaps"), "{asked:?}");

    // A file that is there is left alone, and nobody else may read one that is made.
    let before = fs::read(&path)?;
    let refused = stage.holdfast("admin", &["support-bundle", "-o", name])?;
    ensure!(
        refused.code == 1 && refused.err.contains("File exists") && refused.err.lines().count() == 1,
        "{refused:?}"
    );
    assert_eq!(fs::read(&path)?, before);
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&path)?.permissions()) & 0o777, 0o600);

    // Who may read little gets little, and a list of what is missing.
    let path = stage.cluster.folder().join("little.tar.gz");
    let said = stage.holdfast("dev", &["support-bundle", "-o", path.to_str().context("no UTF-8")?])?;
    ensure!(said.code == 0 && said.out.contains("not read: workloadnodes: forbidden: "), "{said:?}");
    let files = unpack(&path)?;
    let manifest = files.iter().find(|(name, _)| name == "little/manifest.json").context("no manifest")?;
    let manifest: Value = serde_json::from_str(&manifest.1)?;
    ensure!(manifest["notRead"].as_array().is_some_and(|list| list.len() > 10), "{manifest}");

    // Without names and addresses.
    let path = stage.cluster.folder().join("nameless.tar.gz");
    stage.told("admin", &["support-bundle", "--anonymize", "-o", path.to_str().context("no UTF-8")?])?;
    let address = stage.kubectl("get pod api -n shop -o jsonpath={.status.podIP}")?;
    for (name, text) in unpack(&path)? {
        for gone in [NODE, "shop/", "\"shop\"", "agent-a", "agent-b", address.as_str()] {
            ensure!(!text.contains(gone) && !name.contains(gone), "{gone} is in {name}:\n{text}");
        }
    }
    // What cannot be made leaves no file.
    let nowhere = stage.cluster.folder().join("nowhere.kubeconfig");
    fs::write(
        &nowhere,
        fs::read_to_string(stage.kubeconfig("admin")?)?.replace(&stage.cluster.url(), "https://127.0.0.1:1"),
    )?;
    let path = stage.cluster.folder().join("none.tar.gz");
    let said = plugin::run(
        &nowhere,
        stage.cluster.folder(),
        &["support-bundle", "-o", path.to_str().context("no UTF-8")?],
    )?;
    ensure!(said.code == 1 && said.err.lines().count() == 1 && !path.exists(), "{said:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_flags_and_unusable_kubeconfigs_are_one_line() -> Result<()> {
    let stage = stage().await?;
    for (words, code, expected) in [
        ("stats", 2, "error: unrecognized subcommand 'stats'"),
        ("status --output yaml", 2, "error: invalid value 'yaml' for '--output <OUTPUT>'"),
        (
            "status -A -n x",
            2,
            "error: the argument '--all-namespaces' cannot be used with '--namespace <NAME>'",
        ),
        ("status api -A", 2, "error: a policy is of one namespace: -A goes with no POLICY"),
        (
            "status --request-timeout soon",
            2,
            "error: invalid value 'soon' for '--request-timeout <DURATION>'",
        ),
        ("status --context nowhere", 1, "error: the kubeconfig cannot be used: "),
        ("status --kubeconfig /nowhere", 1, "error: the kubeconfig cannot be used: "),
        ("logs --since yesterday", 2, "error: invalid value 'yesterday' for '--since <DURATION>'"),
        ("explain --from shop/api", 2, "error: the following required arguments were not provided"),
        (
            "explain --from shop/none --syscall read",
            2,
            "error: there is no workload and no Service shop/none",
        ),
        ("explain -f /nowhere --from shop/api --syscall read", 2, "/nowhere: cannot be read: "),
    ] {
        let said =
            stage.holdfast("admin", &words.split(' ').filter(|word| !word.is_empty()).collect::<Vec<_>>())?;
        ensure!(said.code == code && said.err.starts_with(expected), "{words}: {said:?}");
        ensure!(said.err.lines().count() == 1 && said.out.is_empty(), "{words}: {said:?}");
    }
    let said = stage.holdfast("admin", &[])?;
    ensure!(said.code == 2 && said.err.contains("support-bundle"), "{said:?}");
    let said = stage.holdfast("admin", &["--version"])?;
    assert_eq!(said.out, format!("kubectl-holdfast {}\n", env!("CARGO_PKG_VERSION")));
    let help = stage.told("admin", &["status", "--help"])?;
    ensure!(help.contains("Usage: kubectl holdfast status"), "{help}");
    let completion = stage.told("admin", &["completion", "bash"])?;
    ensure!(completion.contains("support-bundle"), "{completion}");
    Ok(())
}
