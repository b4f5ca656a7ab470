//! The cluster, read with the rights of whoever asks.

use std::time::Duration;

use http::Request;
use k8s_openapi::jiff::Timestamp;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::args::Common;
use crate::error::{ApiError, Failure, Problem};

/// Objects that one page of a list holds.
const PAGE: usize = 500;
/// The longest time that connecting may take.
const CONNECT: Duration = Duration::from_secs(10);

/// A kind of object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kind {
    /// Group and version, such as `apps/v1`; `v1` for the core group.
    pub(crate) version: &'static str,
    /// The name in paths.
    pub(crate) plural: &'static str,
    /// The name in documents.
    pub(crate) name: &'static str,
}

macro_rules! kinds {
    ($($name:ident $version:literal $plural:literal $kind:literal),* $(,)?) => {
        $(
            #[doc = concat!("`", $kind, "` of ", $version, ".")]
            pub(crate) const $name: Kind = Kind { version: $version, plural: $plural, name: $kind };
        )*
    };
}

kinds! {
    WORKLOAD_POLICIES "holdfast.dev/v1alpha1" "workloadpolicies" "WorkloadPolicy",
    CLUSTER_POLICIES "holdfast.dev/v1alpha1" "clusterworkloadpolicies" "ClusterWorkloadPolicy",
    NODE_AGENTS "holdfast.dev/v1alpha1" "nodeagents" "NodeAgent",
    EXTERNAL_WORKLOADS "holdfast.dev/v1alpha1" "externalworkloads" "ExternalWorkload",
    WORKLOAD_NODES "holdfast.dev/v1alpha1" "workloadnodes" "WorkloadNode",
    ADDRESS_SLICES "holdfast.dev/v1alpha1" "addressslices" "AddressSlice",
    PODS "v1" "pods" "Pod",
    SERVICES "v1" "services" "Service",
    NAMESPACES "v1" "namespaces" "Namespace",
    NODES "v1" "nodes" "Node",
    REPLICATION_CONTROLLERS "v1" "replicationcontrollers" "ReplicationController",
    DEPLOYMENTS "apps/v1" "deployments" "Deployment",
    REPLICA_SETS "apps/v1" "replicasets" "ReplicaSet",
    STATEFUL_SETS "apps/v1" "statefulsets" "StatefulSet",
    DAEMON_SETS "apps/v1" "daemonsets" "DaemonSet",
    JOBS "batch/v1" "jobs" "Job",
    CRON_JOBS "batch/v1" "cronjobs" "CronJob",
    LEASES "coordination.k8s.io/v1" "leases" "Lease",
    EVENTS "events.k8s.io/v1" "events" "Event",
    CUSTOM_RESOURCES "apiextensions.k8s.io/v1" "customresourcedefinitions" "CustomResourceDefinition",
}

/// Where objects are looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    /// In all namespaces, or without any.
    All,
    /// In one namespace.
    Namespace(String),
}

impl Scope {
    fn suffix(&self) -> String {
        match self {
            Self::All => String::new(),
            Self::Namespace(name) => format!(" in namespace {name}"),
        }
    }
}

/// An API server, and who asks.
#[derive(Clone)]
pub(crate) struct Cluster {
    client: Client,
    /// The namespace that is meant where none is said.
    pub(crate) namespace: String,
    /// All namespaces are asked for.
    pub(crate) everywhere: bool,
    /// The namespace that Holdfast runs in.
    pub(crate) holdfast: String,
    timeout: Option<Duration>,
}

impl Cluster {
    /// Reads the kubeconfig. Nothing is asked yet.
    ///
    /// # Errors
    /// When there is none, or it says nothing usable.
    pub(crate) async fn connect(common: &Common) -> Result<Self, Failure> {
        let options = KubeConfigOptions { context: common.context.clone(), ..KubeConfigOptions::default() };
        let config = |error: kube::config::KubeconfigError| Failure::Config(error.into());
        let mut config = match &common.kubeconfig {
            Some(path) => {
                let file = Kubeconfig::read_from(path).map_err(config)?;
                Config::from_custom_kubeconfig(file, &options).await.map_err(config)?
            }
            None => Config::from_kubeconfig(&options).await.map_err(config)?,
        };
        let timeout = Some(common.request_timeout).filter(|timeout| !timeout.is_zero());
        config.connect_timeout = Some(timeout.map_or(CONNECT, |timeout| timeout.min(CONNECT)));
        let agent = concat!("kubectl-holdfast/", env!("CARGO_PKG_VERSION"));
        config.headers.push((http::header::USER_AGENT, http::HeaderValue::from_static(agent)));
        // A person waits.
        config.default_retry = false;
        let namespace = common.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
        let client = Client::try_from(config).map_err(|error| Failure::Config(error.into()))?;
        Ok(Self {
            client,
            namespace,
            everywhere: common.all_namespaces,
            holdfast: common.holdfast_namespace.clone(),
            timeout,
        })
    }

    /// Where objects that have a namespace are looked for.
    pub(crate) fn scope(&self) -> Scope {
        if self.everywhere { Scope::All } else { Scope::Namespace(self.namespace.clone()) }
    }

    /// The client itself, for streams.
    pub(crate) fn client(&self) -> Client {
        self.client.clone()
    }

    /// All objects of a kind, each with its `apiVersion` and `kind`. `query` is a selector such as
    /// `labelSelector=app%3Dx`, or empty.
    ///
    /// # Errors
    /// When the API server refuses or does not answer.
    pub(crate) async fn list(&self, kind: Kind, scope: &Scope, query: &str) -> Result<Vec<Value>, ApiError> {
        let what = format!("{}{}", kind.plural, scope.suffix());
        let path = path(kind, scope);
        let (mut items, mut next) = (Vec::new(), String::new());
        loop {
            let more = if next.is_empty() { String::new() } else { format!("&continue={next}") };
            let filter = if query.is_empty() { String::new() } else { format!("&{query}") };
            let mut page: Value = self.get(&what, &format!("{path}?limit={PAGE}{filter}{more}")).await?;
            next = page.pointer("/metadata/continue").and_then(Value::as_str).map(encode).unwrap_or_default();
            let found = page.get_mut("items").map(Value::take);
            let found = if let Some(Value::Array(found)) = found { found } else { Vec::new() };
            items.extend(found.into_iter().map(|mut item| {
                if let Some(fields) = item.as_object_mut() {
                    fields.insert("apiVersion".to_owned(), kind.version.into());
                    fields.insert("kind".to_owned(), kind.name.into());
                }
                item
            }));
            if next.is_empty() {
                return Ok(items);
            }
        }
    }

    /// One object.
    ///
    /// # Errors
    /// When it is not there, or the API server refuses or does not answer.
    pub(crate) async fn object(&self, kind: Kind, scope: &Scope, name: &str) -> Result<Value, ApiError> {
        let what = format!("{}/{name}{}", kind.plural, scope.suffix());
        self.get(&what, &format!("{}/{}", path(kind, scope), encode(name))).await
    }

    /// Asks for JSON at a path of the API server.
    ///
    /// # Errors
    /// When the API server refuses or does not answer.
    pub(crate) async fn get<T: DeserializeOwned>(&self, what: &str, path: &str) -> Result<T, ApiError> {
        let failed = |problem| ApiError { what: what.to_owned(), problem };
        let request =
            Request::get(path).body(Vec::new()).map_err(|error| failed(Problem::Other(error.to_string())))?;
        self.within(what, self.client.request(request)).await
    }

    /// Waits for an answer no longer than a request may take.
    ///
    /// # Errors
    /// When the API server refuses or does not answer.
    pub(crate) async fn within<T>(
        &self,
        what: &str,
        answer: impl Future<Output = Result<T, kube::Error>>,
    ) -> Result<T, ApiError> {
        let answer = match self.timeout {
            Some(timeout) => match tokio::time::timeout(timeout, answer).await {
                Ok(answer) => answer,
                Err(_) => return Err(ApiError { what: what.to_owned(), problem: Problem::Timeout }),
            },
            None => answer.await,
        };
        answer.map_err(|error| ApiError::new(what, &error))
    }
}

fn path(kind: Kind, scope: &Scope) -> String {
    let root = if kind.version.contains('/') { "apis" } else { "api" };
    match scope {
        Scope::All => format!("/{root}/{}/{}", kind.version, kind.plural),
        Scope::Namespace(name) => {
            format!("/{root}/{}/namespaces/{}/{}", kind.version, encode(name), kind.plural)
        }
    }
}

/// A text as it stands in a part of a path or query.
pub(crate) fn encode(text: &str) -> String {
    use std::fmt::Write;
    text.bytes().fold(String::new(), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
        out
    })
}

/// Objects of a type; those that do not read as such are counted.
pub(crate) fn typed<T: DeserializeOwned>(values: Vec<Value>) -> (Vec<T>, usize) {
    let count = values.len();
    let objects: Vec<T> = values.into_iter().filter_map(|value| serde_json::from_value(value).ok()).collect();
    let unread = count - objects.len();
    (objects, unread)
}

/// How long ago a time was, as kubectl prints ages.
pub(crate) fn age(then: Timestamp, now: Timestamp) -> String {
    let seconds = now.as_second().saturating_sub(then.as_second()).max(0);
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    match seconds {
        ..120 => format!("{seconds}s"),
        120..600 if seconds % 60 != 0 => format!("{minutes}m{}s", seconds % 60),
        120..10800 => format!("{minutes}m"),
        10800..28800 if minutes % 60 != 0 => format!("{hours}h{}m", minutes % 60),
        10800..172_800 => format!("{hours}h"),
        172_800..691_200 if hours % 24 != 0 => format!("{days}d{}h", hours % 24),
        _ => format!("{days}d"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_those_of_the_api_server() {
        assert_eq!(path(PODS, &Scope::All), "/api/v1/pods");
        assert_eq!(
            path(WORKLOAD_POLICIES, &Scope::Namespace("shop".to_owned())),
            "/apis/holdfast.dev/v1alpha1/namespaces/shop/workloadpolicies"
        );
        assert_eq!(path(PODS, &Scope::Namespace("../x".to_owned())), "/api/v1/namespaces/..%2Fx/pods");
        assert_eq!(encode("a=b,c"), "a%3Db%2Cc");
    }

    #[test]
    fn ages_are_short() {
        let at = |seconds| Timestamp::from_second(seconds).unwrap();
        for (seconds, text) in [
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (125, "2m5s"),
            (660, "11m"),
            (10_800, "3h"),
            (11_100, "3h5m"),
            (90_000, "25h"),
            (180_000, "2d2h"),
            (864_000, "10d"),
        ] {
            assert_eq!(age(at(1000), at(1000 + seconds)), text);
        }
        assert_eq!(age(at(1000), at(10)), "0s");
    }
}
