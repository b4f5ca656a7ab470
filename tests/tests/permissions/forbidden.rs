//! What service accounts must not do is tried, and refused.

use anyhow::{Result, ensure};
use holdfast_tests::{
    controlplane::{ControlPlane, Options, client_of},
    demo::{self, NODE, POLICY},
    operator::{self, AGENT_ACCOUNT, NAMESPACE},
    wait::until,
};
use http::StatusCode;
use kube::Client;
use serde_json::{Value, json};

use crate::{
    OTHERS, PATIENCE, TEST_ACCOUNT, install,
    requests::{API, CORE, EXTENSIONS, RBAC, Try, attempt_to, send},
};

/// What nobody of Holdfast's may do, whoever it is.
fn forbidden_to_all() -> Vec<Try> {
    let policy = json!({"apiVersion": "holdfast.dev/v1alpha1", "kind": "WorkloadPolicy", "metadata": {"name": "p"},
        "spec": {"selector": {}, "network": {"ingress": {}}}});
    let cluster_policy = json!({"apiVersion": "holdfast.dev/v1alpha1", "kind": "ClusterWorkloadPolicy",
        "metadata": {"name": "p"}, "spec": {"namespaceSelector": {}, "selector": {}, "network": {"ingress": {}}}});
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
        "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
        "metadata": {"name": "mine"}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole",
        "name": "cluster-admin"}, "subjects": [{"kind": "Group", "apiGroup": "rbac.authorization.k8s.io",
        "name": "system:serviceaccounts:holdfast-system"}]});
    let role = json!({"rules": [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]});
    let token = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}});
    let marked = json!({"metadata": {"labels": {"marked": "true"}}});
    vec![
        attempt_to("GET", format!("{CORE}/secrets"), Value::Null),
        attempt_to("GET", format!("{CORE}/namespaces/{NAMESPACE}/secrets"), Value::Null),
        attempt_to("GET", format!("{CORE}/namespaces/shop/secrets/s"), Value::Null),
        attempt_to("GET", format!("{CORE}/configmaps"), Value::Null),
        attempt_to("GET", format!("{CORE}/namespaces/{NAMESPACE}/configmaps/kube-root-ca.crt"), Value::Null),
        attempt_to("POST", format!("{CORE}/namespaces/shop/pods"), pod.clone()),
        attempt_to("POST", format!("{CORE}/namespaces/{NAMESPACE}/pods"), pod),
        attempt_to(
            "POST",
            format!("{CORE}/namespaces/shop/pods/web/exec?command=id&stdout=true"),
            Value::Null,
        ),
        attempt_to("GET", format!("{CORE}/namespaces/shop/pods/web/log"), Value::Null),
        attempt_to("DELETE", format!("{CORE}/namespaces/shop/pods/web"), Value::Null),
        attempt_to(
            "POST",
            format!("{CORE}/namespaces/shop/pods/web/eviction"),
            json!({"apiVersion": "policy/v1",
            "kind": "Eviction", "metadata": {"name": "web"}}),
        ),
        attempt_to("PATCH", format!("{CORE}/namespaces/shop/pods/web"), marked.clone()),
        attempt_to("PATCH", format!("{CORE}/nodes/{NODE}"), marked.clone()),
        attempt_to("PATCH", format!("{CORE}/nodes/{NODE}/status"), marked.clone()),
        attempt_to("DELETE", format!("{CORE}/nodes/{NODE}"), Value::Null),
        attempt_to("PATCH", format!("{CORE}/namespaces/shop"), marked.clone()),
        attempt_to(
            "POST",
            format!("{CORE}/namespaces/{NAMESPACE}/serviceaccounts/holdfast-operator/token"),
            token,
        ),
        attempt_to("POST", format!("{RBAC}/clusterrolebindings"), binding),
        attempt_to("PATCH", format!("{RBAC}/clusterroles/holdfast-operator"), role.clone()),
        attempt_to("PATCH", format!("{RBAC}/clusterroles/holdfast-agent"), role.clone()),
        attempt_to("PATCH", format!("{RBAC}/namespaces/{NAMESPACE}/roles/holdfast-operator"), role),
        attempt_to("GET", format!("{RBAC}/clusterroles/cluster-admin"), Value::Null),
        attempt_to("POST", format!("{API}/namespaces/shop/workloadpolicies"), policy),
        attempt_to("DELETE", format!("{API}/namespaces/shop/workloadpolicies/api"), Value::Null),
        attempt_to(
            "PATCH",
            format!("{API}/namespaces/shop/workloadpolicies/api"),
            json!({"spec": {"mode": "Audit"}}),
        ),
        attempt_to("POST", format!("{API}/clusterworkloadpolicies"), cluster_policy),
        attempt_to("PATCH", format!("{API}/nodeagents/default"), json!({"spec": {"imageTag": "v0"}})),
        attempt_to("DELETE", format!("{API}/nodeagents/default"), Value::Null),
        attempt_to("DELETE", format!("{API}/namespaces/shop/externalworkloads/ledger"), Value::Null),
        attempt_to("DELETE", format!("{EXTENSIONS}/workloadpolicies.holdfast.dev"), Value::Null),
        attempt_to("DELETE", format!("{EXTENSIONS}/widgets.example.com"), Value::Null),
        attempt_to("PATCH", format!("{EXTENSIONS}/widgets.example.com"), marked.clone()),
        attempt_to("GET", EXTENSIONS, Value::Null),
        attempt_to(
            "DELETE",
            "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies/holdfast-agent",
            Value::Null,
        ),
        attempt_to(
            "DELETE",
            "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings/holdfast-agent",
            Value::Null,
        ),
        attempt_to(
            "DELETE",
            format!("/apis/apps/v1/namespaces/{NAMESPACE}/deployments/holdfast-operator"),
            Value::Null,
        ),
        attempt_to("GET", "/apis/apps/v1/namespaces/kube-system/daemonsets", Value::Null),
        attempt_to(
            "PUT",
            "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/kube-scheduler",
            json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "kube-scheduler"}}),
        ),
    ]
}

fn lease_path(name: &str) -> String {
    format!("/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases/{name}?fieldManager=t&force=true")
}

fn lease(node: &str) -> Try {
    let name = format!("holdfast-agent-{node}");
    let body = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name},
        "spec": {"holderIdentity": node}});
    attempt_to("PATCH", lease_path(&name), body)
}

fn report(node: &str) -> Try {
    let body =
        json!({"apiVersion": "holdfast.dev/v1alpha1", "kind": "WorkloadNode", "metadata": {"name": node}});
    attempt_to("PATCH", format!("{API}/workloadnodes/{node}?fieldManager=t&force=true"), body)
}

fn status(node: &str) -> Try {
    let body = json!({"apiVersion": "holdfast.dev/v1alpha1", "kind": "WorkloadNode", "metadata": {"name": node},
        "status": {"agentVersion": "t"}});
    attempt_to("PATCH", format!("{API}/workloadnodes/{node}/status?fieldManager=t&force=true"), body)
}

/// What an agent, even with the token of its own node, may not do.
fn forbidden_to_agents() -> Vec<Try> {
    let marked = json!({"metadata": {"labels": {"marked": "true"}}});
    let named_by_the_server = json!({"apiVersion": "holdfast.dev/v1alpha1", "kind": "WorkloadNode",
        "metadata": {"generateName": "node-"}});
    let leader = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {"name": "holdfast-operator"}, "spec": {"holderIdentity": "me"}});
    vec![
        lease("node-2"),
        lease("node-new"),
        report("node-2"),
        report("node-new"),
        status("node-2"),
        attempt_to("POST", format!("{API}/workloadnodes"), named_by_the_server),
        attempt_to("DELETE", format!("{API}/workloadnodes/{NODE}"), Value::Null),
        attempt_to("PATCH", lease_path("holdfast-operator"), leader),
        attempt_to(
            "PATCH",
            format!("{API}/namespaces/shop/workloadpolicies/api/status"),
            json!({"status": {}}),
        ),
        attempt_to("PATCH", format!("{API}/addressslices/addresses-000001"), marked.clone()),
        attempt_to("DELETE", format!("{API}/addressslices/addresses-000001"), Value::Null),
        attempt_to("GET", format!("{CORE}/nodes"), Value::Null),
        attempt_to("GET", format!("{API}/nodeagents"), Value::Null),
        attempt_to("PATCH", format!("{EXTENSIONS}/workloadnodes.holdfast.dev"), marked),
        attempt_to("GET", format!("/apis/apps/v1/namespaces/{NAMESPACE}/daemonsets"), Value::Null),
    ]
}

fn forbidden_to_operators() -> Vec<Try> {
    let node_agent = json!({"apiVersion": "holdfast.dev/v1alpha1", "kind": "NodeAgent", "metadata": {"name": "n"}, "spec": {}});
    vec![
        status(NODE),
        report("node-3"),
        attempt_to("POST", format!("{API}/nodeagents"), node_agent),
        attempt_to("GET", format!("{EXTENSIONS}/widgets.example.com"), Value::Null),
        attempt_to("DELETE", format!("/apis/apps/v1/namespaces/{NAMESPACE}/daemonsets/d"), Value::Null),
        attempt_to("GET", format!("{CORE}/namespaces/shop/pods/web"), Value::Null),
        lease("node-2"),
    ]
}

const FOREIGN: &str = "
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.example.com}
spec:
  group: example.com
  scope: Cluster
  names: {kind: Widget, plural: widgets}
  versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object}}}]
---
apiVersion: v1
kind: Node
metadata: {name: node-2}
---
apiVersion: v1
kind: Secret
metadata: {name: s, namespace: shop}
---
apiVersion: holdfast.dev/v1alpha1
kind: WorkloadNode
metadata: {name: node-2}
---
apiVersion: coordination.k8s.io/v1
kind: Lease
metadata: {name: holdfast-agent-node-2, namespace: holdfast-system}
spec: {holderIdentity: node-2}
";

async fn all_forbidden(who: &str, client: &Client, tries: &[Try]) -> Result<()> {
    for request in tries {
        let (code, message) = send(client, request).await?;
        ensure!(
            code == StatusCode::FORBIDDEN.as_u16(),
            "{who}: {} {} was answered with {code} {message}",
            request.method,
            request.path
        );
    }
    Ok(())
}

#[tokio::test]
async fn what_service_accounts_must_not_do_is_refused() -> Result<()> {
    let cluster = ControlPlane::start(Options { controller_manager: true, ..Options::default() }).await?;
    install(&cluster)?;
    for documents in [demo::CLUSTER, POLICY, OTHERS, FOREIGN] {
        operator::apply(&cluster, documents)?;
    }
    let unbound = client_of(&cluster.service_account_kubeconfig(NAMESPACE, AGENT_ACCOUNT)?).await?;
    let agent = client_of(&cluster.pod_kubeconfig(NAMESPACE, AGENT_ACCOUNT, "agent")?).await?;
    let operator = client_of(&cluster.service_account_kubeconfig(NAMESPACE, "holdfast-operator")?).await?;
    let test = client_of(&cluster.service_account_kubeconfig(NAMESPACE, TEST_ACCOUNT)?).await?;

    // The admission policy takes a moment to come into force; until then an agent's token of no node is good enough.
    until(PATIENCE, "an agent without a node is refused", async || {
        let (code, message) = send(&unbound, &lease(NODE)).await?;
        Ok((code == 403 && message.contains("bound to a pod on a node")).then_some(()))
    })
    .await?;
    for own in [lease(NODE), report(NODE), status(NODE)] {
        let (code, message) = send(&agent, &own).await?;
        assert_eq!(code, 200, "{} {message}", own.path);
        let (code, _) = send(&unbound, &own).await?;
        assert_eq!(code, 403, "{}", own.path);
    }
    let (_, message) = send(&agent, &status("node-2")).await?;
    assert!(message.contains("the agent of node node-1 may write node-1 only, and not node-2"), "{message}");

    for (who, client) in [("agent", &agent), ("operator", &operator), ("test", &test)] {
        all_forbidden(who, client, &forbidden_to_all()).await?;
    }
    all_forbidden("agent", &agent, &forbidden_to_agents()).await?;
    all_forbidden("operator", &operator, &forbidden_to_operators()).await?;
    // Which NodeAgents there are, `helm test` has to see.
    let mut tries = forbidden_to_agents();
    tries.retain(|request| request.path != format!("{API}/nodeagents"));
    all_forbidden("test", &test, &tries).await?;
    all_forbidden("test", &test, &[lease(NODE), report(NODE), status(NODE)]).await
}
