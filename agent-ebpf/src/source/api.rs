//! The source that is the API server: policies, address slices, namespaces, and the pods of this node.
//!
//! Five watches feed five stores ([`store`]); facts are put together from those soon after something changed, and in a
//! large cluster no more often than a fifth of the time goes into it. What is good in the stores is saved, and taken
//! over at the next start. Nothing is told before each kind was listed once or taken over.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use holdfast_crds::{ClusterWorkloadPolicy, WorkloadPolicy, convert};
use holdfast_policy::model::{Policy, World};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::api::Api;
use kube::core::PartialObjectMeta;
use kube::runtime::watcher::{Config, watcher};
use kube::{Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::assemble::{add_host, error_of, log, renew};
use super::state::{Problems, Saver, StateDir};
use super::{Setting, host};
use crate::facts::{Facts, SourceError};
use feed::{Events, feed, jitter};
use guard::Guarded;
use pods::PodRecord;
use records::{NamespaceRecord, PolicyRecord, SliceRecord};
use store::{Change, Effect, Record, Store};

mod feed;
mod guard;
pub(crate) mod pods;
mod records;
mod store;

/// How long changes are gathered.
const GATHER: Duration = Duration::from_millis(3);
/// At most so many changes at once.
const BATCH: usize = 4096;
/// After facts were put together, the next time waits this many times as long as that took.
const REST: u32 = 4;
/// The pause before credentials that cannot be read are read again.
const CREDENTIALS: Duration = Duration::from_secs(2);

/// Runs the source until it is stopped. Without a client it finds one: by `KUBECONFIG` or a kubeconfig file, or as a
/// pod's service account.
pub(crate) async fn work(client: Option<Client>, namespace: String, setting: Setting) {
    let Setting { node_name, state, facts: out, mut stop } = setting;
    let problems = watch::Sender::new(Problems::new());
    let mut source = Source::new(namespace, state.as_ref(), &problems);
    source.facts = Facts { complete: false, ..out.borrow().clone() };
    source.read_host();
    source.assemble();
    out.send_if_modified(|shown| source.show(shown));

    let client = tokio::select! {
        client = connect(client, &mut source, &out) => client,
        () = Setting::stopped(&mut stop) => return source.finish().await,
    };
    let (tasks, mut inputs) = watches(&client, &node_name);
    let mut tasks = Tasks(tasks);
    let mut problems_seen = problems.subscribe();
    let mut host_read = tokio::time::interval(host::INTERVAL);
    let mut batch = Vec::new();
    let mut not_before = Instant::now();
    loop {
        let pass = source.next_pass();
        tokio::select! {
            () = Setting::stopped(&mut stop) => break,
            // A watch has no end; the supervisor starts everything again.
            _ = tasks.0.join_next() => return,
            count = inputs.recv_many(&mut batch, BATCH) => {
                if count == 0 {
                    return;
                }
                tokio::time::sleep(GATHER.max(not_before.saturating_duration_since(Instant::now()))).await;
                while let Ok(input) = inputs.try_recv() {
                    batch.push(input);
                    if batch.len() >= BATCH {
                        break;
                    }
                }
                for input in batch.drain(..) {
                    source.take(input);
                }
            }
            () = sleep_until(pass) => source.pass(),
            _ = host_read.tick() => source.read_host(),
            Ok(()) = problems_seen.changed() => {
                source.problems = problems_seen.borrow_and_update().clone();
                source.dirty.errors = true;
            }
        }
        let began = Instant::now();
        source.assemble();
        out.send_if_modified(|shown| source.show(shown));
        source.save();
        not_before = Instant::now() + began.elapsed() * REST;
    }
    source.finish().await;
}

/// The watches end with whoever holds this.
struct Tasks(JoinSet<()>);

async fn sleep_until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time.into()).await,
        None => std::future::pending().await,
    }
}

/// Credentials may come later: a mounted token, a kubeconfig that is being written.
async fn connect(known: Option<Client>, source: &mut Source, out: &watch::Sender<Facts>) -> Client {
    if let Some(client) = known {
        return client;
    }
    loop {
        let problem = match Client::try_default().await {
            Ok(client) => {
                source.connection = None;
                source.dirty.errors = true;
                return client;
            }
            Err(error) => format!("no way to the API server is known: {error}"),
        };
        source.connection = Some(problem);
        source.dirty.errors = true;
        source.assemble();
        out.send_if_modified(|shown| source.show(shown));
        tokio::time::sleep(jitter(CREDENTIALS)).await;
    }
}

/// A change of some kind.
enum Input {
    Policy(Change<WorkloadPolicy>),
    ClusterPolicy(Change<ClusterWorkloadPolicy>),
    Slice(Change<holdfast_crds::AddressSlice>),
    Namespace(Change<PartialObjectMeta<Namespace>>),
    Pod(Change<Pod>),
}

fn watches(client: &Client, node_name: &str) -> (JoinSet<()>, mpsc::Receiver<Input>) {
    let (out, inputs) = mpsc::channel(1024);
    let mut tasks = JoinSet::new();
    let config = Config::default();
    tasks.spawn(feed(client.clone(), config.clone(), objects(client), Input::Policy, out.clone()));
    tasks.spawn(feed(client.clone(), config.clone(), objects(client), Input::ClusterPolicy, out.clone()));
    tasks.spawn(feed(client.clone(), config.clone(), objects(client), Input::Slice, out.clone()));
    tasks.spawn(feed(client.clone(), config.clone(), objects(client), Input::Namespace, out.clone()));
    let config = config.fields(&format!("spec.nodeName={node_name}"));
    tasks.spawn(feed(client.clone(), config, objects(client), Input::Pod, out));
    (tasks, inputs)
}

/// Watches all objects of a kind.
fn objects<K>(client: &Client) -> impl Fn(Config) -> Events<K> + use<K>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug + Send + 'static,
{
    let client = client.clone();
    move |config| watcher(Api::<Guarded<K>>::all(client.clone()), config).boxed()
}

/// A store, and its file.
struct Kept<R> {
    store: Store<R>,
    saver: Option<Saver<R>>,
    unsaved: bool,
}

impl<R: Record> Kept<R> {
    fn new(
        state: Option<&StateDir>,
        problems: &watch::Sender<Problems>,
        errors: &mut Vec<SourceError>,
    ) -> Self {
        let mut store = Store::new();
        let mut saver = None;
        if let Some(state) = state {
            match state.read(R::STATE) {
                Ok(Some(records)) => errors.extend(store.restore(&records)),
                Ok(None) => {}
                Err(error) => errors.push(error_of(format!("state/{}", R::STATE), error.to_string())),
            }
            saver = Some(Saver::start(state.clone(), R::STATE, problems.clone()));
        }
        Self { store, saver, unsaved: false }
    }

    fn take(&mut self, change: Change<R::Object>) -> Effect {
        let listed = self.store.listed();
        let effect = self.store.take(change, Instant::now());
        // The first list is saved even if it is empty.
        self.unsaved |= effect.objects || listed != self.store.listed();
        effect
    }

    fn pass(&mut self) -> Effect {
        let effect = self.store.pass(Instant::now());
        self.unsaved |= effect.objects;
        effect
    }

    fn save(&mut self) {
        // A list that is not complete is no state to start from.
        if std::mem::take(&mut self.unsaved)
            && self.store.known()
            && let Some(saver) = &self.saver
        {
            saver.save(self.store.good().cloned().collect());
        }
    }

    async fn finish(self) {
        if let Some(saver) = self.saver {
            saver.finish().await;
        }
    }
}

/// Which parts of the facts are out of date.
#[derive(Default)]
#[expect(clippy::struct_excessive_bools, reason = "one for each part, in any combination")]
struct Dirty {
    policies: bool,
    world: bool,
    pods: bool,
    errors: bool,
}

/// Everything that is known.
struct Source {
    own_namespace: String,
    policies: Kept<PolicyRecord<WorkloadPolicy>>,
    cluster_policies: Kept<PolicyRecord<ClusterWorkloadPolicy>>,
    slices: Kept<SliceRecord>,
    namespaces: Kept<NamespaceRecord>,
    pods: Kept<PodRecord>,
    host: BTreeSet<IpAddr>,
    host_problem: Option<String>,
    /// What is wrong with the saved state; until everything was listed.
    doubts: Vec<SourceError>,
    /// What could not be saved.
    problems: Problems,
    /// Why there is no client.
    connection: Option<String>,
    dirty: Dirty,
    facts: Facts,
}

impl Source {
    fn new(own_namespace: String, state: Option<&StateDir>, problems: &watch::Sender<Problems>) -> Self {
        let mut doubts = Vec::new();
        Self {
            own_namespace,
            policies: Kept::new(state, problems, &mut doubts),
            cluster_policies: Kept::new(state, problems, &mut doubts),
            slices: Kept::new(state, problems, &mut doubts),
            namespaces: Kept::new(state, problems, &mut doubts),
            pods: Kept::new(state, problems, &mut doubts),
            host: BTreeSet::new(),
            host_problem: None,
            doubts,
            problems: Problems::new(),
            connection: None,
            dirty: Dirty { policies: true, world: true, pods: true, errors: true },
            facts: Facts::default(),
        }
    }

    fn take(&mut self, input: Input) {
        let dirty = &mut self.dirty;
        let (effect, part) = match input {
            Input::Policy(change) => (self.policies.take(change), &mut dirty.policies),
            Input::ClusterPolicy(change) => (self.cluster_policies.take(change), &mut dirty.policies),
            Input::Slice(change) => (self.slices.take(change), &mut dirty.world),
            Input::Namespace(change) => (self.namespaces.take(change), &mut dirty.world),
            Input::Pod(change) => (self.pods.take(change), &mut dirty.pods),
        };
        *part |= effect.objects;
        dirty.errors |= effect.rest;
    }

    fn pass(&mut self) {
        let policies = self.policies.pass().objects | self.cluster_policies.pass().objects;
        self.dirty.policies |= policies;
        self.dirty.world |= self.slices.pass().objects;
    }

    fn next_pass(&self) -> Option<Instant> {
        let policies = [self.policies.store.next_pass(), self.cluster_policies.store.next_pass()];
        policies.into_iter().flatten().chain(self.slices.store.next_pass()).min()
    }

    fn read_host(&mut self) {
        match host::addresses() {
            Ok(addresses) => {
                self.dirty.world |= addresses != self.host;
                (self.host, self.host_problem) = (addresses, None);
            }
            Err(error) => self.host_problem = Some(format!("this node's addresses cannot be read: {error}")),
        }
        self.dirty.errors = true;
    }

    /// Brings the facts up to date.
    fn assemble(&mut self) {
        let known = self.policies.store.known()
            && self.cluster_policies.store.known()
            && self.slices.store.known()
            && self.namespaces.store.known()
            && self.pods.store.known();
        let facts = &mut self.facts;
        if known {
            if std::mem::take(&mut self.dirty.policies) {
                let namespaced = self.policies.store.good().map(|record| &record.policy);
                let cluster = self.cluster_policies.store.good().map(|record| &record.policy);
                let mut policies: Vec<Policy> = namespaced.chain(cluster).cloned().collect();
                policies.sort_by(|a, b| a.id.cmp(&b.id));
                renew(&mut facts.policies, policies);
            }
            if std::mem::take(&mut self.dirty.world) {
                let slices = self.slices.store.good().map(|record| &record.0.spec);
                let mut world = convert::world(slices, Some(self.own_namespace.clone()));
                add_namespaces(&mut world, &self.namespaces.store);
                add_host(&mut world, &self.host);
                renew(&mut facts.world, world);
            }
            if std::mem::take(&mut self.dirty.pods) {
                renew(&mut facts.pods, self.pods.store.good().map(|record| record.pod.clone()).collect());
            }
        }
        let complete = self.policies.store.listed()
            && self.cluster_policies.store.listed()
            && self.slices.store.listed()
            && self.namespaces.store.listed()
            && self.pods.store.listed();
        if complete && !facts.complete {
            facts.complete = true;
            self.doubts.clear();
            self.dirty.errors = true;
        }
        if std::mem::take(&mut self.dirty.errors) {
            let mut errors: Vec<SourceError> = self.doubts.clone();
            errors.extend(self.connection.iter().map(|problem| error_of("API server", problem.clone())));
            errors.extend(self.host_problem.iter().map(|problem| error_of("host", problem.clone())));
            errors.extend(
                self.problems
                    .iter()
                    .map(|(name, problem)| error_of(format!("state/{name}"), problem.clone())),
            );
            errors.extend(self.policies.store.errors());
            errors.extend(self.cluster_policies.store.errors());
            errors.extend(self.slices.store.errors());
            errors.extend(self.namespaces.store.errors());
            errors.extend(self.pods.store.errors());
            log(&facts.errors, &errors);
            renew(&mut facts.errors, errors);
        }
    }

    /// Gives the facts out. Returns whether they are others than those shown.
    fn show(&self, shown: &mut Facts) -> bool {
        let same = Arc::ptr_eq(&shown.policies, &self.facts.policies)
            && Arc::ptr_eq(&shown.world, &self.facts.world)
            && Arc::ptr_eq(&shown.pods, &self.facts.pods)
            && Arc::ptr_eq(&shown.errors, &self.facts.errors)
            && shown.complete == self.facts.complete;
        if !same {
            *shown = self.facts.clone();
        }
        !same
    }

    fn save(&mut self) {
        self.policies.save();
        self.cluster_policies.save();
        self.slices.save();
        self.namespaces.save();
        self.pods.save();
    }

    async fn finish(self) {
        self.policies.finish().await;
        self.cluster_policies.finish().await;
        self.slices.finish().await;
        self.namespaces.finish().await;
        self.pods.finish().await;
    }
}

/// The namespaces' own labels are newer than what slices say of them.
fn add_namespaces(world: &mut World, namespaces: &Store<NamespaceRecord>) {
    for record in namespaces.good() {
        let namespace = &record.0;
        world.namespaces.insert(namespace.name_any(), namespace.labels().clone());
    }
}

#[cfg(test)]
mod tests;
