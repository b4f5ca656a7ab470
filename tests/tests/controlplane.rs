//! The control plane rig itself.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use holdfast_tests::{
    controlplane::{self, ControlPlane, Options},
    wait::until,
};
use k8s_openapi::{
    api::{
        apps::v1::Deployment,
        authentication::v1::SelfSubjectReview,
        core::v1::{ConfigMap, Namespace, Node, Pod, ServiceAccount},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api,
    api::{ListParams, PostParams},
};
use serde_json::json;

const PATIENCE: Duration = Duration::from_secs(30);

fn namespace(name: &str) -> Namespace {
    Namespace {
        metadata: ObjectMeta { name: Some(name.to_owned()), ..Default::default() },
        ..Default::default()
    }
}

#[tokio::test]
async fn what_was_written_before_an_outage_of_the_api_server_is_there_after_it() -> Result<()> {
    let began = Instant::now();
    let mut cluster = ControlPlane::start(Options::default()).await?;
    println!("etcd and kube-apiserver are ready after {:?}", began.elapsed());
    let namespaces: Api<Namespace> = Api::all(cluster.client().await?);
    namespaces.create(&PostParams::default(), &namespace("shop")).await?;
    let list = namespaces.list(&ListParams::default()).await?;
    assert!(list.items.iter().any(|item| item.metadata.name.as_deref() == Some("shop")));

    cluster.stop_apiserver()?;
    let refused = namespaces.get("shop").await.expect_err("a stopped API server answered");
    assert!(matches!(refused, kube::Error::Service(_) | kube::Error::HyperError(_)), "{refused:?}");

    let began = Instant::now();
    cluster.start_apiserver().await?;
    println!("kube-apiserver is ready again after {:?}", began.elapsed());
    namespaces.get("shop").await?;

    let created: Vec<_> = cluster
        .audit_events()?
        .into_iter()
        .filter(|event| event["verb"] == "create" && event["objectRef"]["name"] == "shop")
        .collect();
    assert_eq!(created.len(), 1);
    assert_eq!(created[0]["user"]["username"], "admin");
    Ok(())
}

#[tokio::test]
async fn users_may_do_what_rbac_grants_and_nodes_may_write_only_themselves() -> Result<()> {
    let cluster = ControlPlane::start(Options::default()).await?;
    let denied = |error: kube::Error| match error {
        kube::Error::Api(status) => status.code,
        other => panic!("not an answer of the API server: {other:?}"),
    };
    let node = |name: &str| Node {
        metadata: ObjectMeta { name: Some(name.to_owned()), ..Default::default() },
        ..Default::default()
    };

    let somebody: Api<Namespace> = Api::all(cluster.client_as("somebody", None).await?);
    assert_eq!(denied(somebody.list(&ListParams::default()).await.expect_err("somebody may list")), 403);
    cluster.kubectl(&["create", "clusterrole", "lister", "--verb=list", "--resource=namespaces"])?;
    cluster.kubectl(&["create", "clusterrolebinding", "l", "--clusterrole=lister", "--user=somebody"])?;
    until(PATIENCE, "somebody may list namespaces", async || {
        Ok(somebody.list(&ListParams::default()).await.is_ok().then_some(()))
    })
    .await?;

    let nodes: Api<Node> = Api::all(cluster.client_as("system:node:n1", Some("system:nodes")).await?);
    nodes.create(&PostParams::default(), &node("n1")).await?;
    assert_eq!(
        denied(nodes.create(&PostParams::default(), &node("n2")).await.expect_err("n1 may be n2")),
        403
    );
    Ok(())
}

#[tokio::test]
async fn the_controller_manager_and_the_scheduler_do_their_work() -> Result<()> {
    let options = Options { controller_manager: true, scheduler: true, ..Options::default() };
    let cluster = ControlPlane::start(options).await?;
    let client = cluster.client().await?;

    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), "default");
    until(PATIENCE, "the default service account", async || Ok(accounts.get_opt("default").await?)).await?;

    // A token tells the API server which service account its bearer is.
    let kubeconfig = cluster.service_account_kubeconfig("default", "default")?;
    let reviews: Api<SelfSubjectReview> = Api::all(controlplane::client_of(&kubeconfig).await?);
    let review = reviews.create(&PostParams::default(), &SelfSubjectReview::default()).await?;
    let user = review.status.and_then(|status| status.user_info).context("a review without its answer")?;
    assert_eq!(user.username.as_deref(), Some("system:serviceaccount:default:default"));

    // A deployment's pod is made by the one and placed by the other.
    let nodes: Api<Node> = Api::all(client.clone());
    let node = json!({"metadata": {"name": "n1"}, "status": {
        "allocatable": {"cpu": "4", "memory": "8Gi", "pods": "110"}, "conditions": [{"type": "Ready", "status": "True"}]}});
    nodes.create(&PostParams::default(), &serde_json::from_value(node)?).await?;
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), "default");
    let deployment = json!({"metadata": {"name": "web"}, "spec": {
        "selector": {"matchLabels": {"app": "web"}},
        "template": {
            "metadata": {"labels": {"app": "web"}},
            "spec": {
                "containers": [{"name": "web", "image": "none.invalid/web:1"}],
                "tolerations": [{"operator": "Exists"}]}}}});
    deployments.create(&PostParams::default(), &serde_json::from_value(deployment)?).await?;
    let pods: Api<Pod> = Api::namespaced(client, "default");
    let selected = ListParams::default().labels("app=web");
    let placed = until(PATIENCE, "a pod of the deployment on a node", async || {
        let pod = pods.list(&selected).await?.items.into_iter().next();
        Ok(pod.and_then(|pod| pod.spec?.node_name))
    })
    .await?;
    assert_eq!(placed, "n1");
    Ok(())
}

#[tokio::test]
async fn kubectl_works_and_what_it_is_refused_is_told() -> Result<()> {
    let cluster = ControlPlane::start(Options::default()).await?;
    let input = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "notes", "namespace": "default"}});
    let applied = cluster.kubectl_output(&["apply", "-f", "-"], &input.to_string())?;
    assert!(applied.status.success(), "{}", String::from_utf8_lossy(&applied.stderr));
    let maps: Api<ConfigMap> = Api::namespaced(cluster.client().await?, "default");
    maps.get("notes").await?;

    let error = cluster
        .kubectl(&["get", "configmap", "nosuch"])
        .expect_err("kubectl found what is not there")
        .to_string();
    assert!(error.contains("configmaps \"nosuch\" not found"), "{error}");
    Ok(())
}

#[tokio::test]
async fn nothing_is_left_when_a_control_plane_is_dropped() -> Result<()> {
    let options = Options { controller_manager: true, ..Options::default() };
    let cluster = ControlPlane::start(options).await?;
    let folder = cluster.folder().to_path_buf();
    // A process that is just being executed has no command line for a moment.
    until(PATIENCE, "three processes that know the folder", async || {
        Ok((processes_with(&folder)?.len() == 3).then_some(()))
    })
    .await?;
    drop(cluster);
    assert_eq!(processes_with(&folder)?, Vec::<String>::new());
    assert!(!folder.exists());
    Ok(())
}

/// The processes that were told of `folder` on their command line.
fn processes_with(folder: &Path) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let Ok(line) = std::fs::read(entry?.path().join("cmdline")) else { continue };
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if line.contains(&*folder.to_string_lossy()) {
            found.push(line);
        }
    }
    Ok(found)
}
