//! The operator's DaemonSets, with the controllers and the scheduler of a real control plane.

use std::time::Duration;

use anyhow::{Context, Result};
use holdfast_crds::{NodeAgent, node_agent::NodeAgentStatus};
use holdfast_tests::{
    controlplane::{ControlPlane, Options},
    operator::{self, NAMESPACE, Operator},
    wait::until,
};
use k8s_openapi::api::{
    apps::v1::DaemonSet,
    core::v1::{Node, Pod},
};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_mins(1);
const SET: &str = "holdfast-agent-default";

fn object<K: DeserializeOwned>(value: Value) -> K {
    serde_json::from_value(value).expect("the test's own object parses")
}

async fn node(client: &Client, name: &str, taints: Value) -> Result<()> {
    let api: Api<Node> = Api::all(client.clone());
    let node = json!({"metadata": {"name": name, "labels": {"kubernetes.io/os": "linux"}}, "spec": {"taints": taints}});
    api.create(&PostParams::default(), &object(node)).await?;
    let resources = json!({"cpu": "8", "memory": "16Gi", "pods": "100"});
    let status = json!({"status": {"capacity": resources, "allocatable": resources,
        "conditions": [{"type": "Ready", "status": "True"}]}});
    api.patch_status(name, &PatchParams::default(), &Patch::Merge(&status)).await?;
    Ok(())
}

/// Plays the kubelets: every agent that was placed runs, and those that are to go have gone.
async fn play_kubelets(client: &Client, ready: bool) -> Result<usize> {
    let api: Api<Pod> = Api::namespaced(client.clone(), NAMESPACE);
    let mut running = 0;
    for pod in api.list(&ListParams::default()).await? {
        let name = pod.name_any();
        if pod.metadata.deletion_timestamp.is_some() {
            api.delete(&name, &DeleteParams::default().grace_period(0)).await?;
        } else if pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some()) {
            let condition = json!({"type": "Ready", "status": if ready { "True" } else { "False" }});
            let status = json!({"status": {"phase": "Running", "conditions": [condition]}});
            api.patch_status(&name, &PatchParams::default(), &Patch::Strategic(&status)).await?;
            running += 1;
        }
    }
    Ok(running)
}

async fn status(client: &Client, name: &str) -> Result<NodeAgentStatus> {
    let api: Api<NodeAgent> = Api::all(client.clone());
    Ok(api.get(name).await?.status.unwrap_or_default())
}

/// Waits, with kubelets at work, until the NodeAgent's condition `Available` has this status.
async fn wait_available(client: &Client, name: &str, wanted: &str, ready: bool) -> Result<NodeAgentStatus> {
    let mut last = None;
    let result = until(PATIENCE, &format!("Available of {name} is {wanted}"), async || {
        play_kubelets(client, ready).await?;
        let now = status(client, name).await?;
        last = Some(now.clone());
        let right = now.conditions.iter().any(|now| now.type_ == "Available" && now.status == wanted);
        Ok(right.then_some(now))
    })
    .await;
    result.with_context(|| format!("last seen: {last:#?}"))
}

fn agent(name: &str, spec: &Value) -> NodeAgent {
    object(
        json!({"apiVersion": "holdfast.dev/v1alpha1", "kind": "NodeAgent", "metadata": {"name": name}, "spec": spec}),
    )
}

/// Changes that somebody may make: of a field that the operator sets, of one that it does not, in a map, of the labels,
/// of the owner.
fn drifts() -> [Value; 5] {
    [
        json!({"spec": {"template": {"spec": {"containers": [{"name": "agent", "image": "evil.test/agent"}]}}}}),
        json!({"spec": {"template": {"spec": {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
            {"nodeSelectorTerms": [{"matchExpressions": [{"key": "nowhere", "operator": "Exists"}]}]}}}}}}}),
        json!({"spec": {"template": {"spec": {"nodeSelector": {"nowhere": "true"}}}}}),
        json!({"metadata": {"labels": {"app.kubernetes.io/name": "other"}}}),
        json!({"metadata": {"ownerReferences": null}}),
    ]
}

#[tokio::test]
async fn a_daemon_set_follows_its_node_agent_and_is_put_back_when_it_drifts() -> Result<()> {
    let cluster =
        ControlPlane::start(Options { controller_manager: true, scheduler: true, ..Options::default() })
            .await?;
    operator::prepare(&cluster)?;
    let client = cluster.client().await?;
    node(&client, "n1", json!([])).await?;
    node(&client, "n2", json!([{"key": "dedicated", "value": "db", "effect": "NoSchedule"}])).await?;
    let mut operator = Operator::start(&cluster, "operator", &["--agent-default-tag", "v9"])?;
    operator.wait_ready().await?;
    let agents: Api<NodeAgent> = Api::all(client.clone());
    let sets: Api<DaemonSet> = Api::namespaced(client.clone(), NAMESPACE);
    agents.create(&PostParams::default(), &agent("default", &json!({}))).await?;

    let set = until(PATIENCE, "the DaemonSet exists", async || Ok(sets.get_opt(SET).await?)).await?;
    let pod = set.spec.template.spec.clone().context("a pod's spec")?;
    assert_eq!(pod.containers[0].image.as_deref(), Some("registry.test/agent:v9"));
    let security = pod.containers[0].security_context.clone().context("a security context")?;
    assert_eq!(security.privileged, Some(false));
    assert_eq!(set.owner_references()[0].name, "default");

    // One ready agent of two is not available; both are, the tainted node included.
    let not_yet = wait_available(&client, "default", "False", false).await?;
    assert_eq!((not_yet.desired, not_yet.ready), (2, 0));
    let all = wait_available(&client, "default", "True", true).await?;
    assert_eq!((all.desired, all.ready, all.updated), (2, 2, 2));

    // A node more: not available until its agent is ready too.
    node(&client, "n3", json!([])).await?;
    until(PATIENCE, "a third node is without an agent", async || {
        let now = status(&client, "default").await?;
        let available = now.conditions.iter().any(|now| now.type_ == "Available" && now.status == "True");
        Ok((!available && now.desired == 3).then_some(()))
    })
    .await?;
    wait_available(&client, "default", "True", true).await?;

    let wanted = |set: &DaemonSet| {
        let mut spec = set.spec.clone();
        spec.template.metadata.get_or_insert_default().annotations = None;
        (spec, set.metadata.labels.clone(), set.metadata.owner_references.clone())
    };
    let before = wanted(&sets.get(SET).await?);
    for drift in drifts() {
        let drifted = sets
            .patch(
                SET,
                &PatchParams { field_manager: Some("somebody".to_owned()), ..PatchParams::default() },
                &Patch::Strategic(&drift),
            )
            .await?;
        assert_ne!(wanted(&drifted), before, "{drift} changes nothing");
        until(PATIENCE, &format!("{drift} is put back"), async || {
            Ok((wanted(&sets.get(SET).await?) == before).then_some(()))
        })
        .await?;
    }
    // What people may do: restart the agents.
    cluster.kubectl(&["rollout", "restart", "-n", NAMESPACE, &format!("daemonset/{SET}")])?;
    sets.patch(SET, &PatchParams::default(), &Patch::Strategic(json!({"spec": {"minReadySeconds": 3600}})))
        .await?;
    until(PATIENCE, "minReadySeconds is put back", async || {
        Ok((wanted(&sets.get(SET).await?) == before).then_some(()))
    })
    .await?;
    let template = sets.get(SET).await?.spec.template.metadata.context("metadata")?;
    assert!(
        template.annotations.unwrap_or_default().contains_key("kubectl.kubernetes.io/restartedAt"),
        "the restart is undone"
    );
    wait_available(&client, "default", "True", true).await?;

    // Deleted by hand.
    let uid = sets.get(SET).await?.uid();
    sets.delete(SET, &DeleteParams::background()).await?;
    until(PATIENCE, "the DaemonSet is there again", async || {
        play_kubelets(&client, true).await?;
        Ok(sets.get_opt(SET).await?.filter(|set| set.uid() != uid).map(|_| ()))
    })
    .await?;

    // A change of the NodeAgent; a second one in its way.
    let digest = format!("sha256:{}", "a".repeat(64));
    let change = json!({"spec": {"imageDigest": digest, "logLevel": "Debug"}});
    agents.patch("default", &PatchParams::default(), &Patch::Merge(&change)).await?;
    until(PATIENCE, "the new image is in the DaemonSet", async || {
        let spec = sets.get(SET).await?.spec.template.spec.context("a spec")?;
        let image = spec.containers[0].image.clone();
        Ok((image == Some(format!("registry.test/agent@{digest}"))).then_some(()))
    })
    .await?;
    agents.create(&PostParams::default(), &agent("second", &json!({}))).await?;
    let second = wait_available(&client, "second", "False", true).await?;
    assert_eq!(second.conditions[0].reason, "Overlaps");
    assert!(sets.get_opt("holdfast-agent-second").await?.is_none());

    // Deleting never hangs: the NodeAgent goes at once, also while no operator runs, and its DaemonSet with it.
    operator.kill()?;
    agents.delete("default", &DeleteParams::default()).await?;
    assert!(agents.get_opt("default").await?.is_none());
    until(PATIENCE, "the DaemonSet is collected", async || {
        play_kubelets(&client, true).await?;
        Ok(sets.get_opt(SET).await?.is_none().then_some(()))
    })
    .await?;
    Ok(())
}
