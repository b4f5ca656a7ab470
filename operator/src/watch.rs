//! Watches: from the API's objects to updates of the index.
//!
//! A watch goes on whatever happens: errors are counted and retried with backoff, an object that does not parse arrives
//! as such, and a server without streaming lists is asked for pages. Objects become compact records here, so that the
//! full ones never wait in a channel.

use std::fmt::Debug;
use std::time::Duration;

use futures::{Stream, StreamExt};
use holdfast_crds::{
    AddressSlice, ClusterWorkloadPolicy, ExternalWorkload, NodeAgent, WorkloadNode, WorkloadPolicy,
};
use ipnet::IpNet;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use kube::core::DeserializeGuard;
use kube::runtime::watcher::{self, DefaultBackoff, Event, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;

use crate::apply;
use crate::error;
use crate::facts::{
    DaemonSetFacts, EndpointFacts, ExternalFacts, Heartbeat, Malformed, NodeAgentFacts, NodeFacts, ObjectKey,
    PodFacts, PolicyFacts, Report, ServiceFacts,
};
use crate::index::{Change, Kind, Update};
use crate::metrics::Metrics;
use crate::plan::node_agent::{MANAGED_BY, MANAGED_BY_LABEL};
use crate::plan::slices::SliceNews;

/// What watches send.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "most news are of the larger kind")]
pub enum News {
    /// A change of a kind that the index holds.
    Index(Update),
    /// A change of AddressSlices.
    Slices(SliceNews),
}

/// Where watches get their objects from, and where they send what they see.
#[derive(Clone)]
pub struct Watches {
    /// The client.
    pub client: Client,
    /// The namespace of Holdfast.
    pub namespace: String,
    /// Where to send.
    pub news: mpsc::Sender<News>,
    /// Where to count errors.
    pub metrics: Metrics,
}

/// The record of an object under its key; `None` for an object that is of no concern.
type Record<K, F> = fn(K) -> Option<(ObjectKey, F)>;

fn key<K: ResourceExt>(object: &K) -> ObjectKey {
    ObjectKey::namespaced(object.namespace().unwrap_or_default(), object.name_any())
}

fn malformed(invalid: &kube::core::error_boundary::InvalidObject) -> Malformed {
    Malformed {
        uid: invalid.metadata.uid.clone().unwrap_or_default(),
        generation: invalid.metadata.generation.unwrap_or_default(),
        problem: invalid.error.clone(),
    }
}

impl Watches {
    /// Watches one kind for as long as somebody listens.
    pub async fn watch(self, kind: Kind) {
        let client = self.client.clone();
        let everything = watcher::Config::default();
        let ours = watcher::Config::default().labels(&format!("{MANAGED_BY_LABEL}={MANAGED_BY}"));
        let namespace = self.namespace.clone();
        match kind {
            Kind::Pod => {
                let record: Record<Pod, _> = |pod| Some((key(&pod), PodFacts::new(&pod)));
                self.core(kind, Api::all(client), everything, record, Update::Pod).await;
            }
            Kind::Node => {
                let record: Record<Node, _> = |node| Some((key(&node), NodeFacts::new(&node)));
                self.core(kind, Api::all(client), everything, record, Update::Node).await;
            }
            Kind::Namespace => {
                let record: Record<Namespace, _> =
                    |namespace| Some((key(&namespace), namespace.metadata.labels.unwrap_or_default()));
                self.core(kind, Api::all(client), everything, record, Update::Namespace).await;
            }
            Kind::Service => {
                let record: Record<Service, _> = |service| Some((key(&service), ServiceFacts::new(&service)));
                self.core(kind, Api::all(client), everything, record, Update::Service).await;
            }
            Kind::EndpointSlice => {
                let record: Record<EndpointSlice, _> =
                    |slice| Some((key(&slice), EndpointFacts::new(&slice)?));
                self.core(kind, Api::all(client), everything, record, Update::EndpointSlice).await;
            }
            Kind::ServiceCidr => {
                let record: Record<ServiceCIDR, Vec<IpNet>> = |range| {
                    let cidrs = range.spec.iter().flat_map(|spec| spec.cidrs.iter().flatten());
                    Some((key(&range), cidrs.filter_map(|cidr| cidr.parse().ok()).collect()))
                };
                self.core(kind, Api::all(client), everything, record, Update::ServiceCidr).await;
            }
            Kind::Lease => {
                let record: Record<Lease, _> = |lease| {
                    Heartbeat::new(&lease).map(|(node, heartbeat)| (ObjectKey::cluster(node), heartbeat))
                };
                self.core(kind, Api::namespaced(client, &namespace), everything, record, Update::Lease).await;
            }
            Kind::DaemonSet => {
                let record: Record<DaemonSet, _> = |set| Some((key(&set), DaemonSetFacts::new(&set)));
                self.core(kind, Api::namespaced(client, &namespace), ours, record, Update::DaemonSet).await;
            }
            Kind::ExternalWorkload => {
                let record: Record<ExternalWorkload, _> =
                    |workload| Some((key(&workload), ExternalFacts::new(&workload)));
                self.guarded(kind, Api::all(client), record, Update::ExternalWorkload).await;
            }
            Kind::WorkloadPolicy => {
                let record: Record<WorkloadPolicy, _> =
                    |policy| Some((key(&policy), PolicyFacts::of_namespaced(&policy)));
                self.guarded(kind, Api::all(client), record, Update::WorkloadPolicy).await;
            }
            Kind::ClusterWorkloadPolicy => {
                let record: Record<ClusterWorkloadPolicy, _> =
                    |policy| Some((key(&policy), PolicyFacts::of_cluster(&policy)));
                self.guarded(kind, Api::all(client), record, Update::ClusterWorkloadPolicy).await;
            }
            Kind::WorkloadNode => {
                let record: Record<WorkloadNode, _> = |node| Some((key(&node), Report::new(node)));
                self.guarded(kind, Api::all(client), record, Update::WorkloadNode).await;
            }
            Kind::NodeAgent => {
                let record: Record<NodeAgent, _> = |agent| Some((key(&agent), NodeAgentFacts::new(agent)));
                self.guarded(kind, Api::all(client), record, Update::NodeAgent).await;
            }
            Kind::AddressSlice => self.slices(Api::all(client)).await,
        }
    }

    /// Watches a kind of Kubernetes itself, whose objects the API server has checked.
    async fn core<K, F>(
        self,
        kind: Kind,
        api: Api<K>,
        config: watcher::Config,
        record: Record<K, F>,
        update: fn(Change<F>) -> Update,
    ) where
        K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
        K::DynamicType: Default,
    {
        let translate = move |event| {
            let change = match event {
                Event::Init => Change::Begin,
                Event::InitDone => Change::End,
                Event::Apply(object) | Event::InitApply(object) => {
                    let name = key(&object);
                    match record(object) {
                        Some((key, facts)) => Change::Set(key, facts),
                        // It may have been of concern before. (For a Lease, the key is its node's name.)
                        None => Change::Gone(gone_key(kind, name)?),
                    }
                }
                Event::Delete(object) => Change::Gone(gone_key(kind, key(&object))?),
            };
            Some(News::Index(update(change)))
        };
        self.follow(kind, api, config, translate).await;
    }

    /// Watches a kind of Holdfast's own, whose objects may come from another version of the CRD.
    async fn guarded<K, F>(
        self,
        kind: Kind,
        api: Api<DeserializeGuard<K>>,
        record: Record<K, F>,
        update: fn(Change<F>) -> Update,
    ) where
        K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
        K::DynamicType: Default,
    {
        let translate = move |event: Event<DeserializeGuard<K>>| {
            let change = match event {
                Event::Init => Change::Begin,
                Event::InitDone => Change::End,
                Event::Apply(object) | Event::InitApply(object) => {
                    let name = key(&object);
                    match object.0 {
                        Ok(object) => {
                            let (key, facts) = record(object)?;
                            Change::Set(key, facts)
                        }
                        Err(invalid) => {
                            tracing::warn!(kind = kind.name(), object = %name, error = %invalid.error, "the object does not parse");
                            Change::Bad(name, malformed(&invalid))
                        }
                    }
                }
                Event::Delete(object) => Change::Gone(key(&object)),
            };
            Some(News::Index(update(change)))
        };
        self.follow(kind, api, watcher::Config::default(), translate).await;
    }

    /// Watches AddressSlices: one that does not parse arrives without content.
    async fn slices(self, api: Api<DeserializeGuard<AddressSlice>>) {
        let translate = |event: Event<DeserializeGuard<AddressSlice>>| {
            let observed =
                |object: DeserializeGuard<AddressSlice>| (object.name_any(), apply::observed(object));
            Some(News::Slices(match event {
                Event::Init => SliceNews::Begin,
                Event::InitDone => SliceNews::End,
                Event::Apply(object) | Event::InitApply(object) => {
                    let (name, observed) = observed(object);
                    SliceNews::Seen(name, observed)
                }
                Event::Delete(object) => {
                    let (name, observed) = observed(object);
                    SliceNews::Gone { name, resource_version: observed.resource_version }
                }
            }))
        };
        self.follow(Kind::AddressSlice, api, watcher::Config::default(), translate).await;
    }

    async fn follow<K>(
        self,
        kind: Kind,
        api: Api<K>,
        config: watcher::Config,
        mut translate: impl FnMut(Event<K>) -> Option<News>,
    ) where
        K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
        K::DynamicType: Default,
    {
        let mut backoff = DefaultBackoff::default();
        let mut config = config.streaming_lists();
        let mut stream = std::pin::pin!(start(api.clone(), config.clone()));
        loop {
            let Some(event) = stream.next().await else { return };
            match event {
                Ok(event) => {
                    let progress = !matches!(event, Event::Init);
                    if let Some(news) = translate(event)
                        && self.news.send(news).await.is_err()
                    {
                        return;
                    }
                    if progress {
                        backoff = DefaultBackoff::default();
                    }
                }
                Err(error) => {
                    if kind == Kind::ServiceCidr && code(&error) == Some(404) {
                        // Clusters older than 1.33 do not have it; what they have is known by their Services.
                        for change in [Change::Begin, Change::End] {
                            if self.news.send(News::Index(Update::ServiceCidr(change))).await.is_err() {
                                return;
                            }
                        }
                        tokio::time::sleep(Duration::from_mins(10)).await;
                        continue;
                    }
                    self.metrics.failed(kind.name(), watch_reason(&error));
                    tracing::warn!(kind = kind.name(), error = %chain(&error), "the watch failed, and is tried again");
                    if config.initial_list_strategy == watcher::InitialListStrategy::StreamingList
                        && matches!(code(&error), Some(400 | 422))
                    {
                        config.initial_list_strategy = watcher::InitialListStrategy::ListWatch;
                        stream.set(start(api.clone(), config.clone()));
                    }
                    let wait = backoff.next().unwrap_or(Duration::from_secs(30));
                    tokio::time::sleep(wait).await;
                }
            }
        }
    }
}

fn start<K>(api: Api<K>, config: watcher::Config) -> impl Stream<Item = watcher::Result<Event<K>>> + Send
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    watcher(api, config)
}

/// The key under which the index knows an object that is gone; `None` if it never did.
fn gone_key(kind: Kind, key: ObjectKey) -> Option<ObjectKey> {
    if kind == Kind::Lease {
        let node = key.name.strip_prefix(holdfast_crds::workload_node::LEASE_PREFIX)?;
        return Some(ObjectKey::cluster(node));
    }
    Some(key)
}

fn cause(error: &watcher::Error) -> Option<&kube::Error> {
    match error {
        watcher::Error::InitialListFailed(error)
        | watcher::Error::WatchStartFailed(error)
        | watcher::Error::WatchFailed(error) => Some(error),
        watcher::Error::WatchError(_) | watcher::Error::NoResourceVersion => None,
    }
}

fn code(error: &watcher::Error) -> Option<u16> {
    match error {
        watcher::Error::WatchError(status) => Some(status.code),
        _ => match cause(error)? {
            kube::Error::Api(status) => Some(status.code),
            _ => None,
        },
    }
}

/// A short stable word, the `reason` label of metrics.
fn watch_reason(error: &watcher::Error) -> &'static str {
    match (error, cause(error)) {
        (_, Some(cause)) => error::reason(cause),
        (watcher::Error::WatchError(status), None) if status.code == 410 => "gone",
        _ => "watch",
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
