//! The agent's source of facts against a real API server.

use std::{fs, path::Path, process::Output, time::Duration};

use anyhow::{Context, Result, ensure};
use holdfast_agent::{
    facts::Facts,
    source::{self, StateDir},
};
use holdfast_policy::model::{Entities, Owner};
use holdfast_tests::{
    controlplane::{ControlPlane, Options},
    tools,
};
use tokio::{
    sync::{oneshot, watch},
    task::JoinHandle,
};

const PATIENCE: Duration = Duration::from_mins(1);

/// A source that runs.
struct Running {
    facts: watch::Receiver<Facts>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<(), source::RunError>>,
}

impl Running {
    async fn start(cluster: &ControlPlane, state: Option<StateDir>) -> Result<Self> {
        let (out, facts) = watch::channel(Facts::default());
        let (stop, stopped) = oneshot::channel();
        let client = cluster.client().await?;
        let task = tokio::spawn(source::run_api(
            client,
            "holdfast-system".to_owned(),
            "n1".to_owned(),
            state,
            out,
            async {
                // An error means that the test is over.
                let _ = stopped.await;
            },
        ));
        Ok(Self { facts, stop, task })
    }

    async fn wait(&mut self, what: &str, condition: impl FnMut(&Facts) -> bool) -> Result<Facts> {
        let seen = tokio::time::timeout(PATIENCE, self.facts.wait_for(condition)).await;
        let seen = seen.map(|facts| facts.map(|facts| facts.clone()));
        match seen {
            Ok(facts) => Ok(facts?),
            Err(_) => anyhow::bail!("never saw {what}: {:#?}", *self.facts.borrow()),
        }
    }

    async fn stop(self) -> Result<()> {
        drop(self.stop);
        Ok(self.task.await??)
    }
}

fn apply(cluster: &ControlPlane, yaml: &str) -> Result<()> {
    let Output { status, stderr, .. } =
        cluster.kubectl_output(&["apply", "--server-side", "-f", "-"], yaml)?;
    ensure!(status.success(), "{}\n{yaml}", String::from_utf8_lossy(&stderr));
    Ok(())
}

fn crds() -> String {
    tools::root().join("crds/yaml").display().to_string()
}

fn install(cluster: &ControlPlane) -> Result<()> {
    cluster.kubectl(&["apply", "--server-side", "-f", &crds()])?;
    cluster.kubectl(&["wait", "--for=condition=Established", "crd", "--all", "--timeout=30s"])?;
    Ok(())
}

fn policy(name: &str, app: &str) -> String {
    format!(
        "apiVersion: holdfast.dev/v1alpha1\nkind: WorkloadPolicy\nmetadata: {{name: {name}, namespace: shop}}\n\
         spec: {{selector: {{matchLabels: {{app: {app}}}}}, network: {{ingress: {{}}}}}}\n"
    )
}

const PODS: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {team: shop}}
---
apiVersion: v1
kind: Pod
metadata:
  {name: web-5d8f-x, namespace: shop, labels: {app: web, pod-template-hash: 5d8f}, ownerReferences: [
    {apiVersion: apps/v1, kind: ReplicaSet, name: web-5d8f, uid: 11111111-1111-1111-1111-111111111111, controller: true}]}
spec:
  nodeName: n1
  automountServiceAccountToken: false
  containers: [{name: main, image: web, ports: [{name: http, containerPort: 8080}]}]
---
apiVersion: v1
kind: Pod
metadata: {name: elsewhere, namespace: shop}
spec: {nodeName: n2, automountServiceAccountToken: false, containers: [{name: main, image: web}]}
";

const SLICE: &str = "
apiVersion: holdfast.dev/v1alpha1
kind: AddressSlice
metadata: {name: s1}
namespaces: [{name: shop, labels: {team: old}}]
identities: [{id: 300, namespace: shop, serviceAccount: default, labels: {app: web}}]
addresses: [{address: 10.1.0.5, identity: 300, entities: [Cluster]}]
";

fn names(facts: &Facts) -> Vec<&str> {
    facts.policies.iter().map(|policy| policy.id.name.as_str()).collect()
}

fn selected_app<'a>(facts: &'a Facts, name: &str) -> Option<&'a str> {
    let policy = facts.policies.iter().find(|policy| policy.id.name == name)?;
    policy.target.pods.match_labels.get("app").map(String::as_str)
}

async fn populated(state: Option<StateDir>) -> Result<(ControlPlane, Running)> {
    let cluster = ControlPlane::start(Options::default()).await?;
    install(&cluster)?;
    apply(&cluster, PODS)?;
    apply(&cluster, SLICE)?;
    apply(&cluster, &policy("a", "web"))?;
    apply(&cluster, &policy("b", "web"))?;
    let mut running = Running::start(&cluster, state).await?;
    running.wait("everything", |facts| facts.complete && names(facts) == ["a", "b"]).await?;
    Ok((cluster, running))
}

#[tokio::test(flavor = "multi_thread")]
async fn facts_follow_the_api_server() -> Result<()> {
    let (cluster, mut running) = populated(None).await?;
    let facts = running.facts.borrow().clone();
    assert_eq!(*facts.errors, []);
    assert_eq!(facts.pods.len(), 1, "only this node's pods: {:?}", facts.pods);
    let pod = &facts.pods[0];
    assert_eq!(pod.owner, Some(Owner { kind: "Deployment".into(), name: "web".into() }));
    assert_eq!(pod.containers[0].id, None);
    let shown =
        cluster.kubectl(&["get", "pod", "-n", "shop", "web-5d8f-x", "-o", "jsonpath={.metadata.uid}"])?;
    assert_eq!(pod.uid, shown);
    let address = facts.world.facts("10.1.0.5".parse()?);
    assert_eq!((address.identity, address.entities), (Some(300), Entities::CLUSTER));
    assert_eq!(facts.world.namespaces["shop"]["team"], "shop", "the namespace itself, not what a slice says");
    let uid = cluster.kubectl(&["get", "wlp", "-n", "shop", "a", "-o", "jsonpath={.metadata.uid}"])?;
    assert_eq!((facts.policies[0].uid.as_str(), facts.policies[0].generation), (uid.as_str(), 1));

    apply(&cluster, &policy("a", "api"))?;
    let facts = running.wait("a change", |facts| selected_app(facts, "a") == Some("api")).await?;
    assert_eq!(facts.policies[0].generation, 2);
    cluster.kubectl(&["label", "namespace", "shop", "team=new", "--overwrite"])?;
    running.wait("the new label", |facts| facts.world.namespaces["shop"]["team"] == "new").await?;
    cluster.kubectl(&["delete", "wlp", "-n", "shop", "b"])?;
    running.wait("a deletion", |facts| names(facts) == ["a"]).await?;

    let status = r#"{"status":{"phase":"Running","podIP":"10.1.0.5","podIPs":[{"ip":"10.1.0.5"}],"containerStatuses":[
        {"name":"main","containerID":"containerd://c1","image":"web","imageID":"","ready":true,"restartCount":0}]}}"#;
    let patch = ["patch", "pod", "-n", "shop", "web-5d8f-x", "--subresource=status", "-p"];
    cluster.kubectl(&[&patch[..], &[status]].concat())?;
    let started =
        |facts: &Facts| facts.pods.first().and_then(|pod| pod.containers[0].id.as_deref()) == Some("c1");
    running.wait("the container", started).await?;
    cluster.kubectl(&[&patch[..], &[r#"{"status":{"phase":"Succeeded"}}"#]].concat())?;
    running.wait("the end of the pod", |facts| facts.pods.is_empty()).await?;
    running.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_object_keeps_its_last_good_version_and_stalls_nothing() -> Result<()> {
    let (cluster, mut running) = populated(None).await?;
    // The schema cannot know how wide an argument is.
    let calls = |value: &str| {
        format!(
            "apiVersion: holdfast.dev/v1alpha1\nkind: WorkloadPolicy\nmetadata: {{name: a, namespace: shop}}\n\
             spec: {{selector: {{matchLabels: {{app: other}}}}, syscalls: {{rules: [{{names: [socket], action: Deny, \
             args: [{{index: 0, op: Equal, value: {value}}}]}}]}}}}\n"
        )
    };
    apply(&cluster, &calls("4294967313"))?;
    let facts = running.wait("an error", |facts| !facts.errors.is_empty()).await?;
    let error = &facts.errors[0];
    assert_eq!((error.place.as_str(), error.object.as_deref()), ("WorkloadPolicy", Some("shop/a")));
    assert!(error.message.starts_with("spec.syscalls.rules[0].args[0].value: "), "{}", error.message);
    assert!(error.message.ends_with("generation 1 stays in force"), "{}", error.message);
    assert_eq!(error.version.as_ref().map(|(_, generation)| *generation), Some(2));
    assert_eq!(selected_app(&facts, "a"), Some("web"));

    // A field of a later version of the API.
    let loose = r#"[{"op":"add","path":"/spec/versions/0/schema/openAPIV3Schema/properties/spec/x-kubernetes-preserve-unknown-fields","value":true}]"#;
    cluster.kubectl(&["patch", "crd", "workloadpolicies.holdfast.dev", "--type=json", "-p", loose])?;
    // The new schema takes a moment: until then the field is refused, or taken away, also from what watches see.
    let mut round = 0;
    holdfast_tests::wait::until(PATIENCE, "the error of an unknown field", async || {
        round += 1;
        let later = policy("later", &format!("web-{round}")).replace("network:", "future: {x: 1}, network:");
        let _ = apply(&cluster, &later);
        let facts = running.facts.borrow();
        let unknown = facts.errors.iter().find(|error| error.message.contains("unknown field `future`"));
        Ok(unknown.map(|error| assert_eq!(error.object.as_deref(), Some("shop/later"))))
    })
    .await?;
    let facts = running.facts.borrow().clone();
    assert!(
        !facts.errors.iter().any(|error| error.message.contains("cannot be watched")),
        "{:?}",
        facts.errors
    );

    apply(&cluster, &policy("c", "web"))?;
    running.wait("the others", |facts| names(facts).contains(&"c")).await?;
    apply(&cluster, &calls("17"))?;
    let fixed = |facts: &Facts| !facts.errors.iter().any(|error| error.object.as_deref() == Some("shop/a"));
    let facts = running.wait("the fixed one", fixed).await?;
    assert_eq!(selected_app(&facts, "a"), Some("other"));
    running.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_changes_nothing_and_what_was_known_survives_a_restart() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let state = StateDir::open(folder.path().join("state"))?;
    let (mut cluster, mut running) = populated(Some(state.clone())).await?;
    let before = running.facts.borrow().clone();

    cluster.stop_apiserver()?;
    let facts = running.wait("an error", |facts| !facts.errors.is_empty()).await?;
    assert!(facts.errors[0].message.contains("stays in force"), "{:?}", facts.errors);
    assert_eq!((&facts.policies, &facts.world, &facts.pods), (&before.policies, &before.world, &before.pods));
    assert!(facts.complete, "everything was read once");
    running.stop().await?;

    // The node boots without the API server.
    let mut running = Running::start(&cluster, Some(state.clone())).await?;
    let facts = running.wait("what was saved", |facts| names(facts) == ["a", "b"]).await?;
    assert!(!facts.complete);
    assert_eq!((&facts.policies, &facts.world, &facts.pods), (&before.policies, &before.world, &before.pods));

    cluster.start_apiserver().await?;
    running.wait("the server", |facts| facts.complete && facts.errors.is_empty()).await?;
    apply(&cluster, &policy("c", "web"))?;
    running.wait("news", |facts| names(facts) == ["a", "b", "c"]).await?;

    // A short outage: the watch goes on by itself, and its error goes without any news.
    cluster.stop_apiserver()?;
    running.wait("an error", |facts| !facts.errors.is_empty()).await?;
    cluster.start_apiserver().await?;
    running.wait("no error", |facts| facts.errors.is_empty()).await?;
    running.stop().await?;
    private(state.path())
}

/// Nobody else reads what is saved.
fn private(state: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let mut count = 0;
    for entry in fs::read_dir(state)? {
        let entry = entry?;
        let mode = entry.metadata()?.permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{}", entry.path().display());
        count += 1;
    }
    assert_eq!(count, 5, "one file for each kind");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kind_that_vanishes_is_an_error_and_no_empty_list() -> Result<()> {
    let cluster = ControlPlane::start(Options::default()).await?;
    apply(&cluster, PODS)?;
    let mut running = Running::start(&cluster, None).await?;
    let facts = running.wait("the errors of three kinds", |facts| facts.errors.len() == 3).await?;
    assert!(facts.errors.iter().all(|error| error.message.contains("404")), "{:?}", facts.errors);
    assert!(!facts.complete && facts.pods.is_empty(), "nothing is told before everything is known");

    install(&cluster)?;
    apply(&cluster, &policy("a", "web"))?;
    apply(&cluster, &policy("b", "web"))?;
    running.wait("everything", |facts| facts.complete && names(facts) == ["a", "b"]).await?;
    running.wait("no error", |facts| facts.errors.is_empty()).await?;

    // Whoever looks sees both policies all the time.
    let mut watched = running.facts.clone();
    let fewer = tokio::spawn(async move {
        watched.wait_for(|facts| names(facts).len() < 2).await.map(|facts| facts.clone())
    });
    cluster.kubectl(&["delete", "crd", "workloadpolicies.holdfast.dev", "--wait=true"])?;
    let facts = running
        .wait("an error", |facts| facts.errors.iter().any(|error| error.place == "WorkloadPolicy"))
        .await?;
    assert_eq!(names(&facts), ["a", "b"]);
    assert!(!fewer.is_finished(), "a policy was lost for a while");
    fewer.abort();

    // The kind comes back, empty: now that is what the server says.
    install(&cluster)?;
    apply(&cluster, &policy("c", "web"))?;
    let facts = running.wait("what is there now", |facts| names(facts) == ["c"]).await?;
    assert_eq!(*facts.errors, []);
    running.stop().await.context("the source")
}
