//! What people may do by the chart's roles, as the API server decides.

use anyhow::Result;
use holdfast_tests::{
    controlplane::{ControlPlane, Options, client_of},
    demo, operator,
    wait::until,
};
use serde_json::json;

use crate::{
    PATIENCE, install,
    requests::{API, attempt_to, send},
};

const READ: [&str; 3] = ["get", "list", "watch"];
const WRITE: [&str; 4] = ["create", "update", "patch", "delete"];

/// Whether a user may do something, as the API server decides.
fn may(cluster: &ControlPlane, user: &str, namespace: &str, verb: &str, resource: &str) -> Result<bool> {
    let (kind, subresource) = resource.split_once('/').unwrap_or((resource, ""));
    let (kind, subresource) = (format!("{kind}.holdfast.dev"), format!("--subresource={subresource}"));
    let mut arguments = vec!["auth", "can-i", verb, &kind, &subresource, "--as", user];
    if !namespace.is_empty() {
        arguments.extend(["-n", namespace]);
    }
    let output = cluster.kubectl_output(&arguments, "")?;
    match String::from_utf8_lossy(&output.stdout).trim() {
        "yes" => Ok(true),
        "no" => Ok(false),
        other => anyhow::bail!("kubectl auth can-i said {other}"),
    }
}

#[tokio::test]
async fn people_may_see_all_of_it_and_write_policies_of_their_own_namespaces() -> Result<()> {
    let cluster = ControlPlane::start(Options { controller_manager: true, ..Options::default() }).await?;
    install(&cluster)?;
    operator::apply(&cluster, demo::CLUSTER)?;
    for role in ["view", "edit", "admin"] {
        let (name, user) = (format!("{role}-of-shop"), format!("--user={role}"));
        let clusterrole = format!("--clusterrole={role}");
        cluster.kubectl(&["create", "rolebinding", &name, "-n", "shop", &clusterrole, &user])?;
    }
    cluster.kubectl(&[
        "create",
        "clusterrolebinding",
        "platform",
        "--clusterrole=holdfast-admin",
        "--user=platform",
    ])?;
    cluster.kubectl(&[
        "create",
        "rolebinding",
        "vms",
        "-n",
        "shop",
        "--clusterrole=holdfast-admin",
        "--user=vms",
    ])?;
    cluster.kubectl(&["create", "clusterrolebinding", "auditor", "--clusterrole=view", "--user=auditor"])?;
    until(PATIENCE, "the built-in roles have taken the chart's up", async || {
        Ok(may(&cluster, "edit", "shop", "create", "workloadpolicies")?.then_some(()))
    })
    .await?;

    let table: [(&str, &str, &[&str], &str, bool); 26] = [
        ("view", "shop", &READ, "workloadpolicies", true),
        ("view", "shop", &READ, "externalworkloads", true),
        ("view", "shop", &WRITE, "workloadpolicies", false),
        ("view", "default", &READ, "workloadpolicies", false),
        ("edit", "shop", &READ, "workloadpolicies", true),
        ("edit", "shop", &WRITE, "workloadpolicies", true),
        ("edit", "shop", &WRITE, "externalworkloads", false),
        ("edit", "shop", &WRITE, "clusterworkloadpolicies", false),
        ("edit", "shop", &WRITE, "workloadpolicies/status", false),
        ("edit", "default", &WRITE, "workloadpolicies", false),
        ("admin", "shop", &WRITE, "workloadpolicies", true),
        ("admin", "shop", &WRITE, "externalworkloads", false),
        ("admin", "shop", &WRITE, "nodeagents", false),
        ("admin", "default", &READ, "workloadpolicies", false),
        ("auditor", "", &READ, "clusterworkloadpolicies", true),
        ("auditor", "", &READ, "nodeagents", true),
        ("auditor", "", &READ, "workloadnodes", true),
        ("auditor", "", &READ, "addressslices", true),
        ("auditor", "", &WRITE, "clusterworkloadpolicies", false),
        ("platform", "", &WRITE, "clusterworkloadpolicies", true),
        ("platform", "", &WRITE, "nodeagents", true),
        ("platform", "default", &WRITE, "externalworkloads", true),
        ("platform", "", &WRITE, "addressslices", false),
        ("platform", "", &WRITE, "workloadnodes", false),
        ("vms", "shop", &WRITE, "externalworkloads", true),
        ("vms", "shop", &WRITE, "clusterworkloadpolicies", false),
    ];
    for (user, namespace, verbs, resource, wanted) in table {
        for verb in verbs {
            // Cluster-wide kinds are asked about without a namespace, as they are used.
            let cluster_wide =
                !matches!(resource.split('/').next(), Some("workloadpolicies" | "externalworkloads"));
            let namespace = if cluster_wide { "" } else { namespace };
            let seen = may(&cluster, user, namespace, verb, resource)?;
            assert_eq!(seen, wanted, "{user} {verb} {resource} in {namespace:?}");
        }
    }
    // And so it is.
    let editor = client_of(&cluster.kubeconfig("edit", None)?).await?;
    let policy = |namespace: &str| {
        let body = json!({"apiVersion": "holdfast.dev/v1alpha1", "kind": "WorkloadPolicy", "metadata": {"name": "p"},
            "spec": {"selector": {}, "network": {"ingress": {}}}});
        attempt_to("POST", format!("{API}/namespaces/{namespace}/workloadpolicies"), body)
    };
    assert_eq!(send(&editor, &policy("shop")).await?.0, 200);
    assert_eq!(send(&editor, &policy("default")).await?.0, 403);
    Ok(())
}
