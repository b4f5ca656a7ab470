//! The corpus against a real API server: the generated CRDs install, every valid document is accepted, every invalid
//! one is refused with the field named, and the parser of `holdfast-agent check` judges alike.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use holdfast_crds::document::{Object, parse};
use holdfast_tests::controlplane::{ControlPlane, Options};
use holdfast_tests::tools;
use kube::Client;

#[path = "../corpus/cases.rs"]
mod cases;

use cases::{Case, cases};

/// The collection that objects of a kind are created in.
fn collection(text: &str) -> Result<&'static str> {
    let kind =
        text.lines().find_map(|line| line.strip_prefix("kind: ")).context("the document has no kind")?;
    Ok(match kind {
        "WorkloadPolicy" => "namespaces/shop/workloadpolicies",
        "ExternalWorkload" => "namespaces/shop/externalworkloads",
        "ClusterWorkloadPolicy" => "clusterworkloadpolicies",
        "NodeAgent" => "nodeagents",
        other => bail!("{other} is no kind of the corpus"),
    })
}

/// Why the API server refuses to create the document, which it is sent as it is; `None` if it does not.
async fn refusal(client: &Client, case: &Case) -> Result<Option<String>> {
    let text = std::str::from_utf8(&case.bytes)?;
    let uri = format!(
        "/apis/holdfast.dev/v1alpha1/{}?dryRun=All&fieldValidation=Strict&fieldManager=corpus",
        collection(text)?
    );
    let request =
        http::Request::post(uri).header("Content-Type", "application/yaml").body(case.bytes.clone())?;
    match client.request_text(request).await {
        Ok(_) => Ok(None),
        Err(kube::Error::Api(status)) => {
            ensure!(matches!(status.code, 400 | 422), "{}: {}", case.path.display(), status.message);
            Ok(Some(status.message.clone()))
        }
        Err(error) => Err(error).context("the API server does not answer"),
    }
}

async fn cluster() -> Result<(ControlPlane, Client)> {
    let cluster = ControlPlane::start(Options::default()).await?;
    let crds = tools::root().join("crds/yaml");
    let crds = crds.to_str().context("the path is not UTF-8")?;
    cluster.kubectl(&["apply", "--filename", crds])?;
    cluster.kubectl(&["wait", "--for=condition=Established", "--timeout=60s", "--filename", crds])?;
    cluster.kubectl(&["create", "namespace", "shop"])?;
    let client = cluster.client().await?;
    Ok((cluster, client))
}

fn corpus() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus")
}

#[tokio::test]
async fn the_api_server_and_check_give_the_same_verdict_on_every_document() -> Result<()> {
    let (_cluster, client) = cluster().await?;
    let mut wrong = Vec::new();
    let mut asked = 0;
    for (folder, server_accepts, check_accepts) in
        [("valid", true, true), ("unaccepted", true, false), ("invalid", false, false)]
    {
        for case in cases(&corpus(), folder) {
            asked += 1;
            let name = format!("{folder}/{}", case.path.file_name().unwrap_or_default().display());
            match (refusal(&client, &case).await?, server_accepts) {
                (None, true) => {}
                (None, false) => wrong.push(format!("{name}: the API server accepts it")),
                (Some(refusal), true) => wrong.push(format!("{name}: the API server refuses it: {refusal}")),
                (Some(refusal), false) => {
                    let missing = case.missing_in(&refusal);
                    wrong.extend(missing.map(|missing| {
                        format!("{name}: the API server's refusal does not have {missing}: {refusal}")
                    }));
                }
            }
            let parsed = parse(&name, &case.bytes);
            match (parsed.errors.first(), check_accepts) {
                (None, true) => {}
                (None, false) => wrong.push(format!("{name}: check accepts it")),
                (Some(error), true) => wrong.push(format!("{name}: check refuses it: {error}")),
                (Some(error), false) => {
                    let missing = case.missing_in(&error.to_string());
                    wrong
                        .extend(missing.map(|missing| {
                            format!("{name}: check's error does not have {missing}: {error}")
                        }));
                }
            }
        }
    }
    assert!(asked >= 100, "{asked} documents are too few");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

#[tokio::test]
async fn what_the_api_server_stores_of_a_policy_is_what_the_parser_makes_of_it() -> Result<()> {
    let (_cluster, client) = cluster().await?;
    for case in cases(&corpus(), "valid") {
        let text = std::str::from_utf8(&case.bytes)?;
        let uri = format!("/apis/holdfast.dev/v1alpha1/{}?dryRun=All", collection(text)?);
        let request =
            http::Request::post(uri).header("Content-Type", "application/yaml").body(case.bytes.clone())?;
        let stored: serde_json::Value = client.request(request).await?;
        let parsed = parse("f.yaml", &case.bytes);
        let document = parsed.documents.first().with_context(|| format!("{:?}", parsed.errors))?;
        // The types leave out what is empty, so both go through them.
        let spec = match &document.object {
            Object::WorkloadPolicy(object) => same(&object.spec, &stored)?,
            Object::ClusterWorkloadPolicy(object) => same(&object.spec, &stored)?,
            Object::ExternalWorkload(object) => same(&object.spec, &stored)?,
            Object::NodeAgent(object) => same(&object.spec, &stored)?,
        };
        assert!(spec, "{}: {stored}", case.path.display());
    }
    Ok(())
}

fn same<T: serde::de::DeserializeOwned + PartialEq>(spec: &T, stored: &serde_json::Value) -> Result<bool> {
    let stored: T = serde_json::from_value(stored["spec"].clone())?;
    Ok(*spec == stored)
}

#[tokio::test]
async fn a_policy_with_every_list_as_long_as_allowed_stays_in_the_budget_of_cel() -> Result<()> {
    use serde_json::json;

    let (_cluster, client) = cluster().await?;
    let labels: serde_json::Map<_, _> =
        (0..8).map(|n| (format!("some.example.org/label-{n}"), json!("v"))).collect();
    let exceptions: Vec<String> = (0..16).map(|n| format!("10.{n}.0.0/16")).collect();
    let peers = |peer: serde_json::Value| vec![json!({ "from": vec![peer; 32] }); 64];
    let names: Vec<&str> = holdfast_policy::syscalls::names()
        .iter()
        .copied()
        .filter(|name| !holdfast_policy::model::ALWAYS_ALLOWED.contains(name))
        .take(128)
        .collect();
    let ports: Vec<_> = (1..=32).map(|port| json!({ "port": port })).collect();
    let specs = [
        json!({"network": {"ingress": {"allow": peers(json!({"podSelector": {"matchLabels": labels}}))}}}),
        json!({"network": {"ingress": {"deny": peers(json!({"ipBlock": {"cidr": "10.0.0.0/8", "except": exceptions}}))}}}),
        json!({"network": {"egress": {"allow": vec![json!({ "ports": ports }); 64], "deny": vec![json!({ "ports": ports }); 64]}}}),
        json!({"syscalls": {"rules": vec![json!({"names": names, "action": "Deny"}); 64]}}),
    ];
    for mut spec in specs {
        spec["selector"] = json!({});
        let policy = json!({
            "apiVersion": "holdfast.dev/v1alpha1", "kind": "WorkloadPolicy", "metadata": {"name": "large"}, "spec": spec,
        });
        let text = policy.to_string();
        let uri =
            "/apis/holdfast.dev/v1alpha1/namespaces/shop/workloadpolicies?dryRun=All&fieldValidation=Strict";
        let request = http::Request::post(uri)
            .header("Content-Type", "application/json")
            .body(text.clone().into_bytes())?;
        client.request_text(request).await.context("the API server refuses it")?;
        let parsed = parse("large.yaml", text.as_bytes());
        assert_eq!(parsed.errors, []);
    }
    Ok(())
}
