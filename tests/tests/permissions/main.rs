//! Who may do what, on a real API server, with the chart's own service accounts and roles. That everything works with
//! them is held against the audit log both ways: nothing was refused, and nothing is granted that was not needed. What
//! must fail is tried.

mod forbidden;
mod people;
mod requests;

use std::{path::Path, process::Command, time::Duration};

use anyhow::{Context, Result, ensure};
use holdfast_tests::{
    controlplane::{ControlPlane, Options},
    demo::{
        self, Control, NODE, PODS, POLICY, Stage,
        agent::{self, Agent, Mounts},
        attempt::{self, DONE, SILENCE},
        node::{self, Node},
    },
    operator::{self, AGENT_ACCOUNT, NAMESPACE, Operator, render},
    rights::{self, Grant, Request},
    wait::until,
};
use requests::{API, CORE, attempt_to, send};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_mins(2);
const OPERATOR: &str = "system:serviceaccount:holdfast-system:holdfast-operator";
const AGENT: &str = "system:serviceaccount:holdfast-system:holdfast-agent";
const TEST: &str = "system:serviceaccount:holdfast-system:holdfast-test";
const TEST_ACCOUNT: &str = "holdfast-test";
const CRDS: [&str; 6] = [
    "addressslices.holdfast.dev",
    "clusterworkloadpolicies.holdfast.dev",
    "externalworkloads.holdfast.dev",
    "nodeagents.holdfast.dev",
    "workloadnodes.holdfast.dev",
    "workloadpolicies.holdfast.dev",
];

/// The whole chart, but for what only a scheduler and kubelets could run.
fn install(cluster: &ControlPlane) -> Result<()> {
    let folder = holdfast_tests::tools::root().join("charts/holdfast/crds");
    let folder = folder.to_str().context("the path of the CRDs is no UTF-8")?;
    cluster.kubectl(&["create", "namespace", NAMESPACE])?;
    cluster.kubectl(&["create", "--save-config=false", "-f", folder])?;
    cluster.kubectl(&["wait", "--for=condition=Established", "--timeout=60s", "-f", folder])?;
    operator::apply(cluster, &render(&[], &[])?)
}

/// The arguments of the chart's Deployment, without the command, and without what two operators on one machine cannot share.
fn operator_flags(cluster: &ControlPlane) -> Result<Vec<String>> {
    let path = "jsonpath={.spec.template.spec.containers[0].args}";
    let arguments =
        cluster.kubectl(&["get", "deployment", "-n", NAMESPACE, "holdfast-operator", "-o", path])?;
    let mut arguments: Vec<String> = serde_json::from_str(&arguments)?;
    ensure!(arguments.remove(0) == "run", "another command");
    arguments.retain(|flag| !flag.starts_with("--metrics-addr=") && !flag.starts_with("--lease-duration="));
    Ok(arguments)
}

fn get(cluster: &ControlPlane, what: &[&str], path: &str) -> Result<String> {
    cluster.kubectl(&[&["get"], what, &["-o", &format!("jsonpath={path}")]].concat())
}

/// Says of the pods of Holdfast's agents what a kubelet says when they run.
fn agents_run(cluster: &ControlPlane) -> Result<Option<String>> {
    let selector = ["pods", "-n", NAMESPACE, "-l", "app.kubernetes.io/name=holdfast-agent"];
    let name = get(cluster, &selector, "{.items[?(@.spec.nodeName==\"node-1\")].metadata.name}")?;
    if name.is_empty() {
        return Ok(None);
    }
    let status = json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}});
    let subject = ["patch", "pod", "-n", NAMESPACE, &name, "--subresource=status", "--type=merge"];
    cluster.kubectl(&[&subject[..], &["-p", &status.to_string()]].concat())?;
    Ok(Some(name))
}

/// A cluster with everything of the chart's, where the operator and an agent run as its service accounts.
async fn stage() -> Result<Stage> {
    // Without streaming lists a watch begins with a list: clusters older than 1.34 need both verbs.
    let options = Options {
        controller_manager: true,
        scheduler: true,
        apiserver_flags: vec!["--feature-gates=WatchList=false".to_owned()],
        ..Options::default()
    };
    let cluster = ControlPlane::start(options).await?;
    install(&cluster)?;
    // As an older version has left them.
    for crd in CRDS {
        cluster.kubectl(&["annotate", "--overwrite", "crd", crd, "holdfast.dev/version=0.0.1"])?;
    }
    operator::apply(&cluster, demo::CLUSTER)?;
    cluster.kubectl(&["label", "node", NODE, "kubernetes.io/os=linux"])?;
    let flags = operator_flags(&cluster)?;
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let mut operator = Operator::start(&cluster, "operator", &flags)?;
    operator.wait_ready().await?;
    let control = Control { operator, cluster };

    let mut node = Node::new(Path::new(env!("CARGO_BIN_EXE_demo")))?;
    control.report_node(&node::boot_id()?, &node::kernel())?;
    let room = json!({"cpu": "8", "memory": "16Gi", "pods": "100"});
    let room = json!({"status": {"capacity": room, "allocatable": room}}).to_string();
    control.cluster.kubectl(&["patch", "node", NODE, "--subresource=status", "--type=merge", "-p", &room])?;
    for (name, number) in PODS {
        node.run(name, &control.pod_uid(name)?, number)?;
        control.report_pod(name, number)?;
    }
    // The pod that the operator's DaemonSet has on the node: its token, and its environment.
    let pod = until(PATIENCE, "the agent's pod is on its node", async || agents_run(&control.cluster))
        .await
        .with_context(|| control.operator.log_tail())?;
    let variables = "{.spec.containers[0].env}";
    let variables: Value =
        serde_json::from_str(&get(&control.cluster, &["pod", "-n", NAMESPACE, &pod], variables)?)?;
    let environment: Vec<(String, String)> = variables
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|entry| Some((entry["name"].as_str()?.to_owned(), entry["value"].as_str()?.to_owned())))
        .collect();
    ensure!(environment.len() == 2, "the agent does not learn its NodeAgent: {variables}");
    let folder = tempfile::Builder::new().prefix("holdfast-permissions-").tempdir()?;
    let mounts = Mounts::new(folder.path(), &agent::binary()?)?;
    let kubeconfig = control.cluster.pod_kubeconfig(NAMESPACE, AGENT_ACCOUNT, &pod)?;
    let mut agent = Agent::start_with(&mounts, &kubeconfig, &node.host_netns(), folder.path(), &environment)?;
    agent.wait_ready()?;
    Ok(Stage { agent, mounts, node, control, folder })
}

const OTHERS: &str = r#"
apiVersion: holdfast.dev/v1alpha1
kind: ClusterWorkloadPolicy
metadata: {name: baseline}
spec:
  mode: Audit
  namespaceSelector: {matchLabels: {team: shop}}
  selector: {}
  network: {ingress: {}}
---
apiVersion: holdfast.dev/v1alpha1
kind: ExternalWorkload
metadata: {name: ledger, namespace: shop}
spec: {addresses: [198.51.100.7]}
---
# A slice that the operator has not made, and does not want.
apiVersion: holdfast.dev/v1alpha1
kind: AddressSlice
metadata: {name: addresses-999999}
---
# What the agent of a node that is gone has left.
apiVersion: holdfast.dev/v1alpha1
kind: WorkloadNode
metadata: {name: node-gone}
---
apiVersion: coordination.k8s.io/v1
kind: Lease
metadata: {name: holdfast-agent-node-gone, namespace: holdfast-system}
spec: {holderIdentity: node-gone, leaseDurationSeconds: 40, renewTime: "2020-01-01T00:00:00.000000Z"}
"#;

fn exists(cluster: &ControlPlane, what: &[&str]) -> Result<bool> {
    Ok(!cluster.kubectl(&[&["get", "--ignore-not-found", "-o", "name"], what].concat())?.is_empty())
}

async fn wait_gone(cluster: &ControlPlane, what: &[&str]) -> Result<()> {
    until(PATIENCE, &format!("{what:?} is gone"), async || Ok((!exists(cluster, what)?).then_some(()))).await
}

/// The operator writes an Event on a policy whose `Enforced` flips, and counts on it when that happens again.
async fn flips(stage: &Stage) -> Result<()> {
    for (told, app) in ["nobody", "api", "nobody", "api", "nobody"].into_iter().enumerate() {
        stage.apply(&format!(
            "apiVersion: holdfast.dev/v1alpha1
kind: WorkloadPolicy
metadata: {{name: flips, namespace: shop}}
spec: {{selector: {{matchLabels: {{app: {app}}}}}, syscalls: {{rules: [{{names: [mount], action: Audit}}]}}}}
"
        ))?;
        until(PATIENCE, &format!("flip {told} is told"), async || {
            let times = get(
                &stage.cluster,
                &["events.events.k8s.io", "-n", "shop", "--field-selector", "regarding.name=flips"],
                "{range .items[*]}{.series.count}{\"\\n\"}{end}",
            )?;
            Ok((times.lines().map(|line| line.parse().unwrap_or(1)).sum::<usize>() >= told).then_some(()))
        })
        .await?;
    }
    stage.cluster.kubectl(&["delete", "wlp", "flips", "-n", "shop"])?;
    let requests = rights::requests(&stage.cluster, OPERATOR)?;
    let counts = "patch /apis/events.k8s.io/v1/namespaces/shop/events/flips.";
    assert!(requests.iter().any(|request| request.text.contains(counts)), "no flip is counted on an Event");
    Ok(())
}

/// Writes a slice under the operator's hands until the operator has had to read it anew: while it writes the slice
/// because a pod's address has changed, the slice changes every few milliseconds.
async fn conflict(stage: &Stage) -> Result<()> {
    let client = stage.cluster.client().await?;
    let slices = get(&stage.cluster, &["adsl"], "{.items[*].metadata.name}")?;
    let slice = slices.split(' ').find(|name| name.starts_with("addresses-")).context("no slice")?;
    let slice = format!("{API}/addressslices/{slice}");
    let mut round = 0;
    until(PATIENCE, "the operator reads a slice that somebody else has written", async || {
        round += 1;
        let address = node::addresses(30 + u8::try_from(round % 60)?)[0];
        let status = json!({"status": {"podIP": address, "podIPs": [{"ip": address}]}});
        let moved = attempt_to("PATCH", format!("{CORE}/namespaces/shop/pods/batch/status"), status);
        ensure!(send(&client, &moved).await?.0 == 200, "the pod keeps its address");
        for turn in 0..60 {
            let mark =
                json!({"metadata": {"annotations": {"holdfast.test/turn": format!("{round}-{turn}")}}});
            let (code, message) = send(&client, &attempt_to("PATCH", &slice, mark)).await?;
            ensure!(code == 200, "{slice} cannot be written: {message}");
        }
        let requests = rights::requests(&stage.cluster, OPERATOR)?;
        let read = |request: &Request| request.text.contains(&format!("get {API}/addressslices/"));
        Ok(requests.iter().any(read).then_some(()))
    })
    .await?;
    stage.report_pod("batch", 14)
}

fn no_refusals(cluster: &ControlPlane, user: &str) -> Result<Vec<Request>> {
    let requests = rights::requests(cluster, user)?;
    let refused: Vec<&str> = requests
        .iter()
        .filter(|request| matches!(request.code, 401 | 403))
        .map(|request| request.text.as_str())
        .collect();
    ensure!(refused.is_empty(), "{user} was refused {refused:#?}");
    Ok(requests)
}

fn all_used(cluster: &ControlPlane, account: &str, requests: &[Request]) -> Result<()> {
    let grants = rights::grants(cluster, NAMESPACE, account)?;
    ensure!(!grants.is_empty(), "{account} is granted nothing");
    let unused: Vec<&Grant> = rights::unused(&grants, requests);
    ensure!(unused.is_empty(), "{account} is granted what it never needed: {unused:#?}");
    Ok(())
}

#[tokio::test]
async fn everything_works_with_what_the_chart_grants_and_nothing_is_granted_that_is_not_needed() -> Result<()>
{
    let mut stage = stage().await?;
    let lease = ["lease", "-n", NAMESPACE, "holdfast-operator"];
    assert_ne!(get(&stage.cluster, &lease, "{.spec.holderIdentity}")?, "", "nobody holds the chart's Lease");

    // Everything that the operator and the agent write.
    stage.apply(POLICY)?;
    stage.apply(OTHERS)?;
    stage.wait_programmed("api").await?;
    assert_eq!(attempt::tcp(&stage.node, "batch", "api", 8080, SILENCE)?, SILENCE);
    assert_eq!(attempt::tcp(&stage.node, "web", "api", 8080, DONE)?, DONE);
    for (what, field) in [
        (&["ewl", "-n", "shop", "ledger"][..], "{.status.conditions[0].type}"),
        (&["cwlp", "baseline"], "{.status.observedGeneration}"),
        (&["nag", "default"], "{.status.observedGeneration}"),
        (&["wln", NODE], "{.status.agentVersion}"),
    ] {
        until(PATIENCE, &format!("the status of {what:?}"), async || {
            Ok(Some(get(&stage.cluster, what, field)?).filter(|text| !text.is_empty()))
        })
        .await?;
    }
    for crd in CRDS {
        until(PATIENCE, &format!("{crd} is up to date"), async || {
            let version =
                get(&stage.cluster, &["crd", crd], "{.metadata.annotations.holdfast\\.dev/version}")?;
            Ok((version == holdfast_crds::schema::RELEASE).then_some(()))
        })
        .await
        .with_context(|| stage.operator.log_tail())?;
    }
    let owners = "{.metadata.ownerReferences[*].name}";
    assert_eq!(get(&stage.cluster, &["wln", NODE], owners)?, "default");
    let heartbeat = format!("holdfast-agent-{NODE}");
    assert_eq!(get(&stage.cluster, &["lease", "-n", NAMESPACE, &heartbeat], owners)?, "default");

    // What others do to it.
    let set = ["daemonset", "-n", NAMESPACE, "holdfast-agent-default"];
    // A field that applying leaves alone, as it is none of the operator's.
    let drift = r#"{"spec": {"template": {"spec": {"affinity": {"nodeAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchExpressions":
        [{"key": "nowhere", "operator": "Exists"}]}]}}}}}}}"#;
    stage.cluster.kubectl(&[&["patch"], &set[..], &["-p", drift]].concat())?;
    let affinity = "{.spec.template.spec.affinity}";
    until(PATIENCE, "the DaemonSet is put back", async || {
        Ok(get(&stage.cluster, &set, affinity)?.is_empty().then_some(()))
    })
    .await?;
    wait_gone(&stage.cluster, &["adsl", "addresses-999999"]).await?;
    conflict(&stage).await?;
    wait_gone(&stage.cluster, &["wln", "node-gone"]).await?;
    wait_gone(&stage.cluster, &["lease", "-n", NAMESPACE, "holdfast-agent-node-gone"]).await?;
    until(PATIENCE, "the agent looks after its report", async || {
        let requests = rights::requests(&stage.cluster, AGENT)?;
        let looks = format!("get /apis/holdfast.dev/v1alpha1/workloadnodes/{NODE}");
        Ok(requests.iter().any(|request| request.text.contains(&looks)).then_some(()))
    })
    .await?;

    until(PATIENCE, "the agent counts on an Event what it refuses", async || {
        assert_eq!(attempt::tcp(&stage.node, "batch", "api", 8080, SILENCE)?, SILENCE);
        let requests = rights::requests(&stage.cluster, AGENT)?;
        let counts =
            |request: &Request| request.text.contains("patch /apis/events.k8s.io/v1/namespaces/shop/");
        Ok(requests.iter().any(counts).then_some(()))
    })
    .await?;

    flips(&stage).await?;

    // `helm test`.
    until(PATIENCE, "the NodeAgent is available", async || {
        agents_run(&stage.cluster)?;
        let path = "{.status.conditions[?(@.type==\"Available\")].status}";
        Ok((get(&stage.cluster, &["nag", "default"], path)? == "True").then_some(()))
    })
    .await?;
    let kubeconfig = stage.cluster.service_account_kubeconfig(NAMESPACE, TEST_ACCOUNT)?;
    let check = || {
        let mut command = Command::new(operator::binary()?);
        command.env("KUBECONFIG", &kubeconfig).args(["test", "--namespace", NAMESPACE, "--timeout", "5"]);
        let output = command.output()?;
        anyhow::Ok((output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned()))
    };
    let (code, said) = check()?;
    assert!(
        code == Some(0) && said.lines().filter(|line| line.starts_with("ok ")).count() == 3,
        "{code:?} {said}"
    );

    assert!(stage.operator.terminate().await?, "{}", stage.operator.log_tail());
    let (code, said) = check()?;
    assert!(code == Some(1) && said.contains("FAIL  leader: nobody holds"), "{code:?} {said}");
    assert!(stage.agent.terminate()?.success());

    for (user, account) in [(OPERATOR, "holdfast-operator"), (AGENT, AGENT_ACCOUNT), (TEST, TEST_ACCOUNT)] {
        let requests = no_refusals(&stage.cluster, user)?;
        all_used(&stage.cluster, account, &requests)?;
    }

    // What goes with its owners, as `helm uninstall` takes them away.
    stage.cluster.kubectl(&["delete", "nag", "default"])?;
    wait_gone(&stage.cluster, &["wln"]).await?;
    wait_gone(&stage.cluster, &["lease", "-n", NAMESPACE, &heartbeat]).await?;
    wait_gone(&stage.cluster, &set).await?;
    assert!(exists(&stage.cluster, &["adsl"])?);
    stage.cluster.kubectl(&["delete", "clusterrole", "holdfast-operator"])?;
    wait_gone(&stage.cluster, &["adsl"]).await
}

#[tokio::test]
async fn crds_are_brought_up_to_date_and_never_back() -> Result<()> {
    let cluster = ControlPlane::start(Options::default()).await?;
    install(&cluster)?;
    let described = |crd: &str| {
        let path = "{.spec.versions[0].schema.openAPIV3Schema.description}";
        get(&cluster, &["crd", crd], path)
    };
    let change = |crd: &str, version: &str| {
        let patch = json!([
            {"op": "add", "path": "/metadata/annotations/holdfast.dev~1version", "value": version},
            {"op": "add", "path": "/spec/versions/0/schema/openAPIV3Schema/description", "value": "Other."},
        ]);
        cluster.kubectl(&["patch", "crd", crd, "--type=json", "-p", &patch.to_string()])
    };
    let [slices, _, externals, agents, nodes, policies] = CRDS;
    let was = described(slices)?;
    change(slices, "0.0.9")?;
    change(externals, "99.0.0")?;
    change(agents, holdfast_crds::schema::RELEASE)?;
    let untouched = get(&cluster, &["crd", policies], "{.metadata.resourceVersion}")?;

    let flags = ["--manage-crds=false"];
    let mut operator = Operator::start(&cluster, "hands-off", &flags)?;
    operator.wait_ready().await?;
    until(PATIENCE, "the operator leads", async || Ok(operator.leads().await.then_some(()))).await?;
    assert!(operator.terminate().await?);
    assert_eq!(described(slices)?, "Other.", "CRDs are managed though that was switched off");

    let mut operator = Operator::start(&cluster, "operator", &[])?;
    operator.wait_ready().await?;
    for crd in [slices, agents] {
        until(PATIENCE, &format!("{crd} is up to date"), async || {
            Ok((described(crd)? != "Other.").then_some(()))
        })
        .await
        .with_context(|| operator.log_tail())?;
    }
    assert_eq!(described(slices)?, was);
    assert_eq!(described(externals)?, "Other.", "a newer version's CRD was replaced");
    // A pass takes them in the order of their names: those between and after were looked at too.
    until(PATIENCE, "all CRDs were looked at", async || {
        let requests = rights::requests(&cluster, OPERATOR)?;
        let seen = |crd: &&str| requests.iter().any(|request| request.text.ends_with(&format!("/{crd}")));
        Ok(CRDS.iter().all(seen).then_some(()))
    })
    .await?;
    let patched: Vec<String> = rights::requests(&cluster, OPERATOR)?
        .into_iter()
        .filter(|request| {
            request.text.contains("patch") && request.text.contains("customresourcedefinitions")
        })
        .map(|request| request.text)
        .collect();
    assert_eq!(patched.len(), 2, "{patched:#?}");
    assert_eq!(get(&cluster, &["crd", policies], "{.metadata.resourceVersion}")?, untouched);

    // One that is gone is not made anew, and its kind's objects with it; the operator says so and goes on.
    cluster.kubectl(&["delete", "crd", nodes])?;
    operator.kill()?;
    let mut operator = Operator::start(&cluster, "without", &[])?;
    let failures = "holdfast_reconcile_errors_total{kind=\"CustomResourceDefinition\",reason=\"not-found\"}";
    until(PATIENCE, "the operator says that a CRD is missing", async || {
        operator.check()?;
        Ok(operator.metric(failures).await.ok().flatten().filter(|count| *count > 0.0).map(|_| ()))
    })
    .await
    .with_context(|| operator.log_tail())?;
    assert!(!exists(&cluster, &["crd", nodes])?);
    Ok(())
}

/// The line that a program says when it is started with these arguments and this variable, and with what it exits.
/// A program, its arguments, a variable of its environment, and what it is to name.
type Case<'a> = (&'a Path, &'a [&'a str], Option<(&'a str, &'a str)>, &'a str);

fn refusal(
    program: &Path,
    arguments: &[&str],
    variable: Option<(&str, &str)>,
) -> Result<(Option<i32>, String)> {
    let output = Command::new(program).args(arguments).envs(variable).output()?;
    ensure!(output.stdout.is_empty(), "it prints {}", String::from_utf8_lossy(&output.stdout));
    Ok((output.status.code(), String::from_utf8(output.stderr)?))
}

#[test]
fn wrong_flags_and_variables_are_one_line_that_names_them() -> Result<()> {
    let (operator, agent) = (operator::binary()?, agent::binary()?);
    let repository = "--agent-image-repository=registry.test/agent";
    let table: [Case<'_>; 20] = [
        (&operator, &[], None, "holdfast-operator --help"),
        (&operator, &["walk"], None, "walk"),
        (&operator, &["run"], None, "--agent-image-repository"),
        (&operator, &["run", repository, "--colour=red"], None, "--colour"),
        (&operator, &["run", repository, "--lease-duration=0"], None, "--lease-duration"),
        (
            &operator,
            &["run", repository, "--agent-image-pull-policy=Often"],
            None,
            "--agent-image-pull-policy",
        ),
        (&operator, &["run", repository], Some(("HOLDFAST_METRICS_ADDR", "here")), "HOLDFAST_METRICS_ADDR"),
        (&operator, &["run", repository], Some(("HOLDFAST_MANAGE_CRDS", "perhaps")), "HOLDFAST_MANAGE_CRDS"),
        (&operator, &["run", repository], Some(("HOLDFAST_NAMESPACE", "")), "HOLDFAST_NAMESPACE"),
        (&operator, &["run", repository], Some(("HOLDFAST_POD_CIDR", "10.0.0.0/99")), "HOLDFAST_POD_CIDR"),
        (
            &operator,
            &["run"],
            Some(("HOLDFAST_AGENT_IMAGE_REPOSITORY", "a:v1")),
            "HOLDFAST_AGENT_IMAGE_REPOSITORY",
        ),
        (&operator, &["test"], Some(("HOLDFAST_TEST_TIMEOUT", "soon")), "HOLDFAST_TEST_TIMEOUT"),
        (&agent, &[], None, "holdfast-agent --help"),
        (&agent, &["run", "--colour=red"], None, "--colour"),
        (&agent, &["run", "--source=nowhere"], None, "--source"),
        (&agent, &["run"], Some(("HOLDFAST_NODE_NAME", "No Name")), "HOLDFAST_NODE_NAME"),
        (&agent, &["run"], Some(("HOLDFAST_METRICS_ADDR", "here")), "HOLDFAST_METRICS_ADDR"),
        (&agent, &["run"], Some(("HOLDFAST_LOG_LEVEL", "loud=very")), "HOLDFAST_LOG_LEVEL"),
        (&agent, &["run"], Some(("HOLDFAST_LOG_FORMAT", "yaml")), "HOLDFAST_LOG_FORMAT"),
        (&agent, &["run"], Some(("HOLDFAST_NODE_AGENT", "default")), "--node-agent-uid"),
    ];
    for (program, arguments, variable, named) in table {
        let (code, said) = refusal(program, arguments, variable)?;
        assert!(
            code == Some(2) && said.lines().count() == 1 && said.contains(named),
            "{arguments:?} {variable:?}: {code:?} {said}"
        );
    }
    Ok(())
}
