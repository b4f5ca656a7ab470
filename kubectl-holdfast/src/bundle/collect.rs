//! Reading what goes into a bundle. Nothing that cannot be read stops it.

use k8s_openapi::api::core::v1::Pod;
use kube::api::LogParams;
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use crate::cluster::{self, Cluster, Kind, Scope, typed};
use crate::error::{ApiError, Failure, Problem};

/// A log is cut to so many bytes.
const LOG_BYTES: i64 = 4 << 20;
/// What reports Kubernetes Events of Holdfast.
const CONTROLLERS: &str = "holdfast.dev/";

/// What was read, and what could not be.
#[derive(Debug, Default)]
pub(super) struct Collected {
    pub(super) parts: Vec<Part>,
    /// What, and why.
    pub(super) not_read: Vec<(String, String)>,
}

/// What becomes a file.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) name: String,
    pub(super) about: String,
    pub(super) content: Content,
}

/// What a file holds.
#[derive(Debug)]
pub(super) enum Content {
    Objects(Vec<Value>),
    Text(String),
}

impl Collected {
    pub(super) fn text(&mut self, name: &str, about: &str, text: String) {
        let part = Part { name: name.to_owned(), about: about.to_owned(), content: Content::Text(text) };
        self.parts.push(part);
    }

    fn objects(&mut self, name: &str, about: &str, values: Vec<Value>) {
        let part = Part { name: name.to_owned(), about: about.to_owned(), content: Content::Objects(values) };
        self.parts.push(part);
    }

    pub(super) fn not_read(&mut self, what: impl Into<String>, why: impl Into<String>) {
        self.not_read.push((what.into(), why.into()));
    }

    fn read(&mut self, name: &str, about: &str, read: Result<Vec<Value>, ApiError>) {
        match read {
            Ok(values) => self.objects(name, about, values),
            Err(error) => self.not_read(error.what, error.problem.to_string()),
        }
    }
}

/// The six kinds of Holdfast's.
const OWN: [Kind; 6] = [
    cluster::WORKLOAD_POLICIES,
    cluster::CLUSTER_POLICIES,
    cluster::NODE_AGENTS,
    cluster::EXTERNAL_WORKLOADS,
    cluster::WORKLOAD_NODES,
    cluster::ADDRESS_SLICES,
];

/// Reads everything.
///
/// # Errors
/// When the API server does not answer at all.
pub(super) async fn collect(cluster: &Cluster, log_lines: u32) -> Result<Collected, Failure> {
    let mut all = Collected::default();
    let server = cluster.get::<Value>("version of the API server", "/version").await;
    let server = match server {
        Err(error) if matches!(error.problem, Problem::Timeout | Problem::Other(_)) => {
            return Err(error.into());
        }
        server => server,
    };
    let versions = json!({
        "kubectl-holdfast": env!("CARGO_PKG_VERSION"),
        "server": server.as_ref().ok(),
        "holdfastNamespace": cluster.holdfast,
    });
    all.objects("versions.json", "versions of this plugin and of the API server", vec![versions]);
    if let Err(error) = server {
        all.not_read(error.what, error.problem.to_string());
    }
    definitions(cluster, &mut all).await;
    for kind in OWN {
        let read = cluster.list(kind, &Scope::All, "").await;
        let about = match kind {
            cluster::WORKLOAD_NODES => "what each node can do, and what each policy was given there",
            cluster::ADDRESS_SLICES => "who holds which address, as agents know it",
            _ => "with their status",
        };
        all.read(&format!("holdfast.dev/{}.json", kind.plural), about, read);
    }
    let read = cluster.list(cluster::NODES, &Scope::All, "").await.map(trim_nodes);
    all.read("nodes.json", "the nodes: labels, taints, addresses, conditions and versions", read);
    let own = Scope::Namespace(cluster.holdfast.clone());
    for kind in [
        cluster::DEPLOYMENTS,
        cluster::DAEMON_SETS,
        cluster::REPLICA_SETS,
        cluster::LEASES,
        cluster::SERVICES,
    ] {
        let read = cluster.list(kind, &own, "").await;
        all.read(&format!("installation/{}.json", kind.plural), "in Holdfast's namespace", read);
    }
    let pods = cluster.list(cluster::PODS, &own, "").await;
    let names: Vec<Pod> = pods.as_ref().map(|pods| typed(pods.clone()).0).unwrap_or_default();
    all.read("installation/pods.json", "in Holdfast's namespace", pods);
    let read = cluster.list(cluster::EVENTS, &own, "").await;
    all.read("installation/events.json", "Kubernetes Events of Holdfast's namespace", read);
    let read = cluster.list(cluster::EVENTS, &Scope::All, "").await.map(|events| {
        let ours = |event: &Value| {
            let by = event.get("reportingController").and_then(Value::as_str);
            by.is_some_and(|by| by.starts_with(CONTROLLERS))
        };
        events.into_iter().filter(ours).collect()
    });
    all.read("events.json", "Kubernetes Events that Holdfast reported, of all namespaces", read);
    for pod in &names {
        logs(cluster, pod, log_lines, &mut all).await;
    }
    Ok(all)
}

/// The definitions of the six kinds, without their schemas' text, which is that of the version.
async fn definitions(cluster: &Cluster, all: &mut Collected) {
    let mut found = Vec::new();
    for kind in OWN {
        let name = format!("{}.holdfast.dev", kind.plural);
        match cluster.object(cluster::CUSTOM_RESOURCES, &Scope::All, &name).await {
            Ok(mut definition) => {
                for version in definition
                    .pointer_mut("/spec/versions")
                    .and_then(Value::as_array_mut)
                    .into_iter()
                    .flatten()
                {
                    if let Some(fields) = version.as_object_mut() {
                        fields.remove("schema");
                    }
                }
                found.push(definition);
            }
            Err(error) => all.not_read(error.what, error.problem.to_string()),
        }
    }
    all.objects(
        "customresourcedefinitions.json",
        "the definitions of Holdfast's kinds, without schemas",
        found,
    );
}

/// Nodes without the images that they hold.
fn trim_nodes(mut nodes: Vec<Value>) -> Vec<Value> {
    for status in nodes.iter_mut().filter_map(|node| node.get_mut("status")?.as_object_mut()) {
        for field in ["images", "volumesInUse", "volumesAttached"] {
            status.remove(field);
        }
    }
    nodes
}

/// The last lines of each container's log, and of the one before where it was restarted.
async fn logs(cluster: &Cluster, pod: &Pod, lines: u32, all: &mut Collected) {
    let api: Api<Pod> = Api::namespaced(cluster.client(), &cluster.holdfast);
    let name = pod.name_any();
    let containers =
        pod.spec.iter().flat_map(|spec| spec.init_containers.iter().flatten().chain(&spec.containers));
    for container in containers.map(|container| &container.name) {
        let mut statuses = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
        let restarted = statuses.any(|status| status.name == *container && status.restart_count > 0);
        for previous in [false, true] {
            if previous && !restarted {
                continue;
            }
            let params = LogParams {
                container: Some(container.clone()),
                tail_lines: Some(lines.into()),
                limit_bytes: Some(LOG_BYTES),
                previous,
                timestamps: false,
                ..LogParams::default()
            };
            let which = if previous { "previous log" } else { "log" };
            let what = format!("{which} of {name}, container {container}");
            match cluster.within(&what, api.logs(&name, &params)).await {
                Ok(text) => {
                    let ending = if previous { "previous.log" } else { "log" };
                    all.text(&format!("logs/{name}/{container}.{ending}"), &format!("the {which}"), text);
                }
                Err(error) => all.not_read(error.what, error.problem.to_string()),
            }
        }
    }
}
