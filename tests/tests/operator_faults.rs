//! The operator when things go wrong: objects that do not parse, an API server that is away, a leader that stops.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use holdfast_crds::{AddressSlice, WorkloadPolicy};
use holdfast_tests::{
    controlplane::{ControlPlane, Options},
    operator::{self, NAMESPACE, Operator},
    tools,
    wait::until,
};
use k8s_openapi::api::{coordination::v1::Lease, core::v1::Pod};
use kube::{
    Api, Client,
    api::{ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_mins(1);

fn policy(name: &str) -> WorkloadPolicy {
    serde_json::from_value(json!({
        "apiVersion": "holdfast.dev/v1alpha1", "kind": "WorkloadPolicy",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"selector": {}, "network": {"ingress": {}}}
    }))
    .expect("the test's own policy parses")
}

/// Waits until the condition `Accepted` of a policy has this status and reason; gives its message.
async fn wait_accepted(client: &Client, name: &str, status: &str, reason: &str) -> Result<String> {
    let kind = ApiResource::erase::<WorkloadPolicy>(&());
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), "default", &kind);
    let mut last = Value::Null;
    let waited = until(PATIENCE, &format!("{name} is Accepted={status}, {reason}"), async || {
        last = api.get(name).await?.data["status"].clone();
        let conditions = last["conditions"].as_array().cloned().unwrap_or_default();
        let accepted = conditions.iter().find(|now| now["type"] == "Accepted").cloned().unwrap_or_default();
        let right = accepted["status"] == status && accepted["reason"] == reason;
        Ok(right.then(|| accepted["message"].as_str().unwrap_or_default().to_owned()))
    })
    .await;
    waited.with_context(|| format!("last seen: {last:#}"))
}

#[tokio::test]
async fn an_object_that_does_not_parse_is_named_and_holds_nothing_up() -> Result<()> {
    let cluster = ControlPlane::start(Options::default()).await?;
    operator::prepare(&cluster)?;
    let client = cluster.client().await?;
    // An object of an earlier, laxer CRD.
    let lax = json!([{"op": "replace", "path": "/spec/versions/0/schema/openAPIV3Schema",
        "value": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}]);
    let crd = "workloadpolicies.holdfast.dev";
    cluster.kubectl(&["patch", "crd", crd, "--type=json", "-p", &lax.to_string()])?;
    let kind = ApiResource::erase::<WorkloadPolicy>(&());
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), "default", &kind);
    let bad = DynamicObject::new("bad", &kind)
        .data(json!({"spec": {"selector": {}, "mode": "Sideways", "network": {"ingress": {}}}}));
    until(PATIENCE, "the laxer CRD is in force", async || {
        Ok(api.create(&PostParams::default(), &bad).await.ok().map(|_| ()))
    })
    .await?;
    let strict = tools::root().join("crds/yaml/holdfast.dev_workloadpolicies.yaml");
    let strict = strict.to_str().context("the path is no UTF-8")?;
    cluster.kubectl(&["apply", "--server-side", "--force-conflicts", "-f", strict])?;
    let probe = serde_json::from_value(
        json!({"apiVersion": "holdfast.dev/v1alpha1", "kind": "WorkloadPolicy",
        "metadata": {"name": "probe"}, "spec": {"selector": {}, "mode": "Sideways", "network": {"ingress": {}}}}),
    )?;
    let dry_run = PostParams { dry_run: true, ..PostParams::default() };
    until(PATIENCE, "the strict CRD is in force again", async || {
        Ok(api.create(&dry_run, &probe).await.err().map(|_| ()))
    })
    .await?;

    let mut operator = Operator::start(&cluster, "operator", &[])?;
    operator.wait_ready().await?;
    let policies: Api<WorkloadPolicy> = Api::namespaced(client.clone(), "default");
    policies.create(&PostParams::default(), &policy("good")).await?;
    wait_accepted(&client, "good", "True", "Accepted").await?;
    let message = wait_accepted(&client, "bad", "False", "Malformed").await?;
    assert!(message.contains("Sideways"), "{message}");
    let series = "holdfast_invalid_objects{kind=\"WorkloadPolicy\"}";
    until(PATIENCE, "the bad object is counted", async || {
        Ok((operator.metric(series).await? == Some(1.0)).then_some(()))
    })
    .await?;

    // Put right, it is accepted; a later one is seen at once.
    let right = json!({"spec": {"mode": "Audit"}});
    api.patch("bad", &PatchParams::default(), &Patch::Merge(&right)).await?;
    wait_accepted(&client, "bad", "True", "Accepted").await?;
    until(PATIENCE, "no bad object is left", async || {
        Ok((operator.metric(series).await? == Some(0.0)).then_some(()))
    })
    .await?;
    operator.check()?;
    Ok(())
}

#[tokio::test]
async fn an_outage_of_the_api_server_is_survived() -> Result<()> {
    let mut cluster = ControlPlane::start(Options::default()).await?;
    operator::prepare(&cluster)?;
    let client = cluster.client().await?;
    let mut operator = Operator::start(&cluster, "operator", &[])?;
    operator.wait_ready().await?;
    let policies: Api<WorkloadPolicy> = Api::namespaced(client.clone(), "default");
    policies.create(&PostParams::default(), &policy("before")).await?;
    wait_accepted(&client, "before", "True", "Accepted").await?;
    cluster.stop_apiserver()?;
    until(PATIENCE, "the operator gives up leading", async || Ok((!operator.leads().await).then_some(())))
        .await?;
    cluster.start_apiserver().await?;
    policies.create(&PostParams::default(), &policy("after")).await?;
    wait_accepted(&client, "after", "True", "Accepted").await?;
    operator.check()?;
    assert!(operator.terminate().await?);
    Ok(())
}

#[tokio::test]
async fn a_leader_that_is_told_to_stop_hands_over_without_a_wait() -> Result<()> {
    let cluster = ControlPlane::start(Options::default()).await?;
    operator::prepare(&cluster)?;
    let client = cluster.client().await?;
    // So long that a wait for its end would be noticed.
    let long = &["--lease-duration", "60"];
    let mut first = Operator::start(&cluster, "first", &long[..])?;
    first.wait_ready().await?;
    until(PATIENCE, "the first leads", async || Ok(first.leads().await.then_some(()))).await?;
    let mut second = Operator::start(&cluster, "second", &long[..])?;
    second.wait_ready().await?;
    let leases: Api<Lease> = Api::namespaced(client.clone(), NAMESPACE);
    assert!(!second.leads().await);
    let told = Instant::now();
    assert!(first.terminate().await?, "{}", first.log_tail());
    let spec = leases.get("holdfast-operator").await?.spec.context("a spec")?;
    let holder = spec.holder_identity.unwrap_or_default();
    until(PATIENCE, "the second leads", async || Ok(second.leads().await.then_some(()))).await?;
    assert!(told.elapsed() < Duration::from_secs(30), "{:?}; the holder was {holder:?}", told.elapsed());
    second.check()?;
    Ok(())
}

#[tokio::test]
async fn a_leader_that_slept_through_the_end_of_its_term_undoes_nothing() -> Result<()> {
    let cluster = ControlPlane::start(Options::default()).await?;
    operator::prepare(&cluster)?;
    let client = cluster.client().await?;
    let pods: Api<Pod> = Api::namespaced(client.clone(), "default");
    let run = async |name: &str, address: &str| -> Result<()> {
        let pod = json!({"metadata": {"name": name, "labels": {"app": name}}, "spec": {"nodeName": "n1",
            "terminationGracePeriodSeconds": 0, "containers": [{"name": "main", "image": "registry.test/none"}]}});
        pods.create(&PostParams::default(), &serde_json::from_value(pod)?).await?;
        let status = json!({"status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]}});
        pods.patch_status(name, &PatchParams::default(), &Patch::Merge(&status)).await?;
        Ok(())
    };
    let slices: Api<AddressSlice> = Api::all(client.clone());
    let published = async || -> Result<Vec<(String, String)>> {
        let mut all = Vec::new();
        for slice in slices.list(&ListParams::default()).await? {
            for entry in &slice.spec.addresses {
                let identity =
                    slice.spec.identities.iter().find(|identity| Some(identity.id) == entry.identity);
                let app = identity.and_then(|identity| identity.labels.get("app")).cloned();
                all.push((entry.address.to_string(), app.unwrap_or_default()));
            }
        }
        all.sort();
        Ok(all)
    };
    let wait_published = async |wanted: &[(&str, &str)]| {
        let wanted: Vec<(String, String)> =
            wanted.iter().map(|(address, app)| ((*address).to_owned(), (*app).to_owned())).collect();
        until(PATIENCE, &format!("{wanted:?} is published"), async || {
            Ok((published().await? == wanted).then_some(()))
        })
        .await
    };
    let mut first = Operator::start(&cluster, "first", &[])?;
    first.wait_ready().await?;
    until(PATIENCE, "the first leads", async || Ok(first.leads().await.then_some(()))).await?;
    let mut second = Operator::start(&cluster, "second", &[])?;
    second.wait_ready().await?;
    run("a", "10.0.0.1").await?;
    run("b", "10.0.0.2").await?;
    wait_published(&[("10.0.0.1", "a"), ("10.0.0.2", "b")]).await?;

    // The first falls asleep with news that it has not acted on, and wakes up when another leads.
    signal(first.id(), "STOP")?;
    pods.delete("a", &DeleteParams::default().grace_period(0)).await?;
    run("c", "10.0.0.1").await?;
    until(PATIENCE, "the second leads", async || Ok(second.leads().await.then_some(()))).await?;
    wait_published(&[("10.0.0.1", "c"), ("10.0.0.2", "b")]).await?;
    pods.delete("b", &DeleteParams::default().grace_period(0)).await?;
    wait_published(&[("10.0.0.1", "c")]).await?;
    signal(first.id(), "CONT")?;
    until(PATIENCE, "the first knows that it leads no longer", async || {
        assert_eq!(published().await?, [("10.0.0.1".to_owned(), "c".to_owned())]);
        Ok((first.metric("holdfast_leader").await? == Some(0.0)).then_some(()))
    })
    .await?;
    run("d", "10.0.0.4").await?;
    wait_published(&[("10.0.0.1", "c"), ("10.0.0.4", "d")]).await?;
    assert!(second.leads().await);
    first.check()?;
    second.check()?;
    Ok(())
}

fn signal(process: u32, name: &str) -> Result<()> {
    let sent = Command::new("kill").args([&format!("-{name}"), &process.to_string()]).status()?;
    anyhow::ensure!(sent.success(), "kill failed");
    Ok(())
}

#[test]
fn wrong_flags_are_answered_with_one_line_and_exit_code_2() -> Result<()> {
    let binary = operator::binary()?;
    for wrong in [
        &["run"][..],
        &["run", "--agent-image-repository", "a", "--slice-writes-per-second", "none"],
        &["run", "--agent-image-repository", "a", "--colour"],
        &["fly"],
        &[],
    ] {
        let output = Command::new(&binary).args(wrong).output()?;
        let said = String::from_utf8(output.stderr)?;
        assert_eq!(output.status.code(), Some(2), "{wrong:?}: {said}");
        assert_eq!(said.trim_end().lines().count(), 1, "{wrong:?}: {said}");
        assert!(said.starts_with("error: "), "{wrong:?}: {said}");
    }
    let help = Command::new(&binary).args(["run", "--help"]).output()?;
    assert!(help.status.success());
    Ok(())
}
