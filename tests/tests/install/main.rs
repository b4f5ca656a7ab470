//! An installation's whole life on a real cluster: Helm installs the chart, the scheduler places the operator, a kubelet
//! runs it and the agents as containers with their own service accounts, and everything is refused, upgraded, rolled
//! back and removed as users do it.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use holdfast_crds::{NodeAgent, schema};
use holdfast_tests::{
    chart::{self, NAMESPACE, Objects, RELEASE, objects},
    kubelet::{Kubelet, NodeOptions},
    wait::until,
};
use k8s_openapi::api::apps::v1::DaemonSet;
use kube::Api;
use serde_json::Value;

mod stage;

use stage::{POLICY, SHOP, Stage, differences, may_stay, names, settled};

/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_mins(3);
/// How long it may take from `helm install` to the DaemonSet and the NodeAgent's status.
const DEPLOYED: Duration = Duration::from_secs(15);

/// A value with which `helm test` says soon that something is wrong, and does not wait for it to become right.
const IMPATIENT: &str = r#"extraEnv=[{"name": "HOLDFAST_TEST_TIMEOUT", "value": "5"}]"#;

#[tokio::test]
async fn an_installation_enforces_changes_only_what_it_is_told_and_leaves_the_crds() -> Result<()> {
    let stage = Stage::new(&[NodeOptions::named("node-a")]).await?;
    stage.cluster.apply(SHOP)?;
    stage
        .kubectl("wait --for=condition=Ready pods --all -n shop --timeout=120s")
        .with_context(|| stage.why())?;
    ensure!(stage.reaches(8080)? && stage.reaches(9000)?, "without Holdfast everything gets through");
    let before = settled(&stage).await?;

    install(&stage).await?;
    stage.cluster.apply(POLICY)?;
    stage.programmed().await?;
    stage.in_force()?;
    let said = stage.helm(&format!("test {RELEASE}"), &["--logs", "--timeout", "2m"]).await;
    let said = said.with_context(|| stage.why())?;
    ensure!(said.contains("ok    leader: ") && said.contains("default: 1 of 1 ready"), "{said}");
    ensure!(!said.contains("FAIL"), "{said}");

    upgrades(&stage).await?;
    leadership_moves(&stage).await?;
    let forbidden = stage.forbidden()?;
    ensure!(forbidden.is_empty(), "Holdfast asked for what it may not do: {forbidden:#?}");
    uninstall(&stage, &before).await
}

/// Installs the chart, and measures how long it takes until agents are on their way and are reported.
async fn install(stage: &Stage) -> Result<()> {
    let client = stage.cluster.client().await?;
    let sets: Api<DaemonSet> = Api::namespaced(client.clone(), NAMESPACE);
    let agents: Api<NodeAgent> = Api::all(client);
    let began = Instant::now();
    let installing = stage.install(&chart::directory(), &[]);
    let deployed = until(PATIENCE, "the DaemonSet is there and the NodeAgent has a status", async || {
        // While the kind is not served yet, the answer is 404 too, or one that is no NodeAgent.
        let (Ok(Some(_)), Ok(Some(agent))) =
            (sets.get_opt("holdfast-agent-default").await, agents.get_opt("default").await)
        else {
            return Ok(None);
        };
        let status = agent.status.unwrap_or_default();
        let current = status.observed_generation == agent.metadata.generation && status.desired == 1;
        Ok(current.then(|| began.elapsed()))
    })
    .await;
    let (deployed, notes) = match deployed {
        Ok(deployed) => (deployed, installing.await.with_context(|| stage.why())?),
        Err(error) => {
            let installed = installing.await;
            return Err(error.context(format!("helm says {installed:?}\n{}", stage.why())));
        }
    };
    println!("from helm install to the DaemonSet and the NodeAgent's status: {deployed:.1?}");
    println!("to the end of helm install --wait: {:.1?}", began.elapsed());
    ensure!(deployed < DEPLOYED, "{deployed:?} is more than {DEPLOYED:?}");
    ensure!(notes.contains("STATUS: deployed"), "{notes}");
    stage.agents_available().await?;
    println!("to the availability of all agents: {:.1?}", began.elapsed());
    ensure!(stage.operators()?.len() == 2, "two operators: {:?}", stage.operators()?);
    Ok(())
}

async fn upgrades(stage: &Stage) -> Result<()> {
    // The same again.
    let before = settled(stage).await?;
    stage.upgrade(&[]).await.with_context(|| stage.why())?;
    let same = settled(stage).await?;
    let changed = differences(&before, &same);
    ensure!(changed.is_empty(), "an upgrade to the same changes {:?}", names(&changed));

    // One value.
    stage.upgrade(&["--set", "service.annotations.colour=blue"]).await?;
    let after = settled(stage).await?;
    let changed = names(&differences(&same, &after));
    ensure!(changed == ["Service holdfast-operator"], "one annotation changes {changed:?}");

    // One that reaches the agents: they are replaced, and nothing of the policy lapses meanwhile.
    let agents = stage.pods("app.kubernetes.io/component=agent")?;
    stage
        .upgrade(&["--set", "service.annotations.colour=blue", "--set", "nodeAgent.spec.logLevel=Debug"])
        .await?;
    stage
        .until("the agent is another", async || {
            ensure!(!stage.reaches(9000)?, "what is refused gets through while the agent is replaced");
            let now = stage.pods("app.kubernetes.io/component=agent")?;
            Ok((now.len() == 1 && now != agents).then_some(()))
        })
        .await?;
    stage.agents_available().await?;
    stage.programmed().await?;
    stage.in_force()?;
    let debug = settled(stage).await?;
    let changed: BTreeSet<String> =
        differences(&after, &debug).into_iter().map(|(kind, _, _)| kind).collect();
    let wanted = ["ControllerRevision.apps", "DaemonSet.apps", "NodeAgent.holdfast.dev", "Pod"];
    let unexpected: Vec<_> = changed
        .iter()
        .filter(|kind| !wanted.contains(&kind.as_str()) && *kind != "WorkloadNode.holdfast.dev")
        .collect();
    ensure!(
        unexpected.is_empty() && wanted.iter().all(|kind| changed.contains(*kind)),
        "it changes {changed:?}"
    );

    // And back to the first.
    stage.helm(&format!("rollback {RELEASE} 1"), &["--wait", "--timeout", "3m"]).await?;
    stage.agents_available().await?;
    stage.programmed().await?;
    stage.in_force()?;
    let level = "jsonpath={.spec.template.spec.containers[0].args}";
    let arguments =
        stage.kubectl(&format!("get daemonset holdfast-agent-default -n {NAMESPACE} -o {level}"))?;
    ensure!(arguments.contains("--log-level=info"), "{arguments}");
    let annotations = stage.kubectl(&format!(
        "get service holdfast-operator -n {NAMESPACE} -o jsonpath={{.metadata.annotations.colour}}"
    ))?;
    ensure!(annotations.is_empty(), "{annotations}");
    Ok(())
}

async fn leadership_moves(stage: &Stage) -> Result<()> {
    let node = stage.nodes.first().context("no node")?;
    let leader = stage.leader()?;
    let pod = stage.operators()?.into_iter().find(|pod| leader.contains(pod.as_str()));
    let pod = pod.with_context(|| format!("the leader {leader} is no operator's pod"))?;
    // Without a word of farewell, as when a node is lost.
    node.kill(NAMESPACE, &pod, "operator")?;
    let began = Instant::now();
    stage.kubectl(&format!("delete pod {pod} -n {NAMESPACE} --force --grace-period=0"))?;
    let next = stage
        .until("another leads", async || {
            let now = stage.leader()?;
            Ok((!now.is_empty() && now != leader).then_some(now))
        })
        .await?;
    println!("from the leader's death to another leader: {:.1?}", began.elapsed());
    ensure!(!next.contains(pod.as_str()), "{next} leads after {pod} is gone");
    stage.in_force()?;
    // The new leader does its work.
    stage.kubectl("label wlp client -n shop touched=yes")?;
    stage.cluster.apply(&POLICY.replace("port: 8080", "port: 9000"))?;
    stage.programmed().await?;
    ensure!(stage.reaches(9000)? && !stage.reaches(8080)?, "the new generation is in force");
    stage.cluster.apply(POLICY)?;
    stage.programmed().await?;
    stage.in_force()
}

async fn uninstall(stage: &Stage, before: &Objects) -> Result<()> {
    // Policies are the users' own: they are deleted by users, here after the fact.
    stage.helm(&format!("uninstall {RELEASE}"), &["--wait", "--timeout", "3m"]).await?;
    let mut left = Vec::new();
    let outcome = until(PATIENCE, "only the CRDs are left", async || {
        let now = objects(&stage.cluster).await?;
        let more = now.keys().filter(|key| !before.contains_key(*key) && !may_stay(key));
        left = more.filter(|(kind, _, _)| kind != "WorkloadPolicy.holdfast.dev").cloned().collect();
        Ok(left.is_empty().then_some(now))
    })
    .await;
    let now = outcome.with_context(|| format!("left behind: {left:#?}\n{}", stage.why()))?;
    let crds = now.keys().filter(|(kind, _, name)| {
        kind.starts_with("CustomResourceDefinition.") && name.ends_with(".holdfast.dev")
    });
    ensure!(crds.count() == 6, "the CRDs stay");
    ensure!(now.keys().any(|(kind, _, _)| kind == "WorkloadPolicy.holdfast.dev"), "users' policies stay");
    let missing: Vec<_> = before.keys().filter(|key| !now.contains_key(*key)).collect();
    ensure!(missing.is_empty(), "taken away too: {missing:?}");

    // No agent runs, and what the kernel holds stays, until somebody on the node says otherwise.
    let node = stage.nodes.first().context("no node")?;
    stage.in_force()?;
    let status = node.agent(&["status"])?;
    ensure!(status.contains("shop/client"), "{status}");
    let said = node.agent(&["uninstall"])?;
    ensure!(said.contains("pins removed"), "{said}");
    ensure!(stage.reaches(8080)? && stage.reaches(9000)?, "nothing is refused any more");
    ensure!(node.agent(&["status"]).is_err(), "nothing is in force");
    Ok(())
}

#[tokio::test]
async fn helm_test_fails_without_a_leader_or_an_agent() -> Result<()> {
    let lacking = NodeOptions { missing_images: vec!["/agent".to_owned()], ..NodeOptions::named("node-b") };
    let mut stage = Stage::new(&[NodeOptions::named("node-a")]).await?;
    let values = ["--set", "replicaCount=1", "--set-json", IMPATIENT];
    stage.install(&chart::directory(), &values).await.with_context(|| stage.why())?;
    stage.agents_available().await?;
    let test = ["--logs", "--timeout", "2m"];
    let said = stage.helm(&format!("test {RELEASE}"), &test).await.with_context(|| stage.why())?;
    ensure!(said.contains("ok    leader: ") && !said.contains("FAIL"), "{said}");

    // A node that cannot have an agent.
    stage.nodes.push(Kubelet::start(&stage.cluster, lacking).await?);
    stage
        .until("the NodeAgent is not available", async || {
            let path = "jsonpath={.status.desired} {.status.conditions[?(@.type==\"Available\")].status}";
            let answer = stage.cluster.kubectl(&["get", "nodeagent", "default", "-o", path])?;
            Ok((answer == "2 False").then_some(()))
        })
        .await?;
    let error = stage.helm(&format!("test {RELEASE}"), &test).await.err().context("a node has no agent")?;
    let said = format!("{error:#}");
    ensure!(said.contains("FAIL  agents: NodeAgent default is not available"), "{said}");
    stage.kubectl("delete node node-b")?;
    stage.nodes.pop();
    stage.agents_available().await?;

    // Nobody leads.
    stage.kubectl(&format!("scale deployment holdfast-operator -n {NAMESPACE} --replicas=0"))?;
    stage.until("no operator runs", async || Ok(stage.operators()?.is_empty().then_some(()))).await?;
    let error = stage.helm(&format!("test {RELEASE}"), &test).await.err().context("nobody leads")?;
    let said = format!("{error:#}");
    ensure!(said.contains("FAIL  leader: "), "{said}");
    Ok(())
}

/// The chart as an older release would have had it: CRDs of an older version, and `WorkloadPolicies` without `mode`.
fn older_chart(folder: &Path) -> Result<PathBuf> {
    let status = Command::new("cp").arg("-r").arg(chart::directory()).arg(folder).status()?;
    ensure!(status.success(), "cp fails");
    let older = folder.join("holdfast");
    for entry in fs::read_dir(older.join("crds"))? {
        fs::remove_file(entry?.path())?;
    }
    for crd in schema::crds()? {
        let mut crd = serde_json::to_value(&crd)?;
        crd["metadata"]["annotations"][schema::VERSION_ANNOTATION] = "0.0.1".into();
        let name = crd["metadata"]["name"].as_str().context("a CRD has a name")?.to_owned();
        if name == "workloadpolicies.holdfast.dev" {
            let spec = crd
                .pointer_mut("/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties")
                .and_then(Value::as_object_mut)
                .context("the schema of a spec")?;
            spec.remove("mode").context("a policy has a mode")?;
        }
        fs::write(older.join("crds").join(format!("{name}.yaml")), serde_json::to_vec(&crd)?)?;
    }
    Ok(older)
}

#[tokio::test]
async fn crds_of_an_older_release_are_brought_up_to_date_by_the_operator() -> Result<()> {
    let stage = Stage::new(&[NodeOptions::named("node-a")]).await?;
    let folder = tempfile::tempdir()?;
    let older = older_chart(folder.path())?;
    stage
        .install(&older, &["--set", "crds.manage=false", "--set-json", IMPATIENT])
        .await
        .with_context(|| stage.why())?;
    stage.agents_available().await?;
    let mode = "jsonpath={.spec.versions[0].schema.openAPIV3Schema.properties.spec.properties.mode.type}";
    let found = || stage.kubectl(&format!("get crd workloadpolicies.holdfast.dev -o {mode}"));
    ensure!(found()?.is_empty(), "the older CRD has no mode, and nobody was told to change it");
    let uid = stage.kubectl("get crd workloadpolicies.holdfast.dev -o jsonpath={.metadata.uid}")?;
    let test = stage.helm(&format!("test {RELEASE}"), &["--logs", "--timeout", "3m"]).await;
    let said = format!("{:#}", test.err().context("the CRDs are old")?);
    ensure!(said.contains("FAIL  crds: ") && said.contains("0.0.1"), "{said}");

    // Helm does not touch CRDs that are there; the operator does.
    stage.upgrade(&["--set", "crds.manage=true"]).await?;
    stage
        .until("the operator brings the CRD up to date", async || Ok((found()? == "string").then_some(())))
        .await?;
    let version = "jsonpath={.items[*].metadata.annotations.holdfast\\.dev/version}";
    stage
        .until("all CRDs are of this version", async || {
            let versions = stage.kubectl(&format!("get crds -o {version}"))?;
            let versions: Vec<&str> = versions.split(' ').collect();
            Ok((versions == [schema::RELEASE; 6]).then_some(()))
        })
        .await?;
    let now = stage.kubectl("get crd workloadpolicies.holdfast.dev -o jsonpath={.metadata.uid}")?;
    ensure!(now == uid, "the CRD is the same, with all its objects");
    stage.helm(&format!("test {RELEASE}"), &["--timeout", "3m"]).await.with_context(|| stage.why())?;
    let forbidden = stage.forbidden()?;
    ensure!(forbidden.is_empty(), "Holdfast asked for what it may not do: {forbidden:#?}");

    // What is removed can be installed again, beside the CRDs that stay.
    stage.helm(&format!("uninstall {RELEASE}"), &["--wait", "--timeout", "3m"]).await?;
    stage.install(&chart::directory(), &[]).await.with_context(|| stage.why())?;
    stage.agents_available().await
}
