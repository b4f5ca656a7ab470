//! One pod, from its first container's start to its end.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, Preconditions},
};
use tokio::{
    sync::{Notify, watch},
    task::JoinSet,
};

use super::{
    Inner, container,
    logs::Log,
    place::PodNetwork,
    status::{self, Conditions, State, Track},
    volumes, wires,
};

/// How a pod is to end.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Stop {
    /// How long its processes have from SIGTERM to SIGKILL.
    pub(super) grace: Duration,
}

/// A pod on the node.
pub(super) struct PodRun {
    pub(super) inner: Arc<Inner>,
    pub(super) uid: String,
    pub(super) namespace: String,
    pub(super) name: String,
    latest: Mutex<Pod>,
    network: OnceLock<PodNetwork>,
    cgroup: OnceLock<String>,
    tracks: Mutex<Vec<Track>>,
    conditions: Mutex<Conditions>,
    changed: Notify,
    stop: watch::Sender<Option<Stop>>,
}

impl PodRun {
    pub(super) fn new(inner: &Arc<Inner>, pod: Pod) -> Arc<Self> {
        let spec = pod.spec.clone().unwrap_or_default();
        let init = spec.init_containers.unwrap_or_default();
        let tracks = init
            .iter()
            .map(|container| Track::new(container, true))
            .chain(spec.containers.iter().map(|container| Track::new(container, false)))
            .collect();
        Arc::new(Self {
            inner: Arc::clone(inner),
            uid: pod.uid().unwrap_or_default(),
            namespace: pod.namespace().unwrap_or_default(),
            name: pod.name_any(),
            conditions: Mutex::new(Conditions::of(&pod)),
            latest: Mutex::new(pod),
            network: OnceLock::new(),
            cgroup: OnceLock::new(),
            tracks: Mutex::new(tracks),
            changed: Notify::new(),
            stop: watch::Sender::new(None),
        })
    }

    /// The object as it was last seen.
    pub(super) fn object(&self) -> Pod {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn spec(&self) -> PodSpec {
        self.object().spec.unwrap_or_default()
    }

    /// The folder of the pod's volumes and logs.
    pub(super) fn folder(&self) -> PathBuf {
        self.inner.folder.path().join("pods").join(&self.uid)
    }

    pub(super) fn network(&self) -> Option<&PodNetwork> {
        self.network.get()
    }

    pub(super) fn cgroup(&self) -> Option<&str> {
        self.cgroup.get().map(String::as_str)
    }

    /// The object has changed.
    pub(super) fn update(&self, pod: Pod) {
        let deleted = pod.metadata.deletion_timestamp.is_some();
        let seconds = pod.metadata.deletion_grace_period_seconds.unwrap_or(30);
        *self.latest.lock().unwrap_or_else(PoisonError::into_inner) = pod;
        if deleted {
            self.ask_to_stop(Duration::from_secs(seconds.unsigned_abs()));
        }
    }

    /// The object is gone.
    pub(super) fn end_now(&self) {
        self.ask_to_stop(Duration::ZERO);
    }

    /// A shorter grace replaces a longer one.
    fn ask_to_stop(&self, grace: Duration) {
        self.stop.send_if_modified(|stop| {
            let sooner = stop.is_none_or(|old| grace < old.grace);
            if sooner {
                *stop = Some(Stop { grace });
            }
            sooner
        });
    }

    /// The order to end, as it comes and changes.
    pub(super) fn stopping(&self) -> watch::Receiver<Option<Stop>> {
        self.stop.subscribe()
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stop.borrow().is_some()
    }

    /// Waits until it is to end.
    pub(super) async fn stopped(&self) {
        let mut stop = self.stopping();
        // The sender lives as long as this pod.
        let _ = stop.wait_for(Option::is_some).await;
    }

    /// Changes what is known of a container, and lets it be reported.
    pub(super) fn track<T>(&self, index: usize, change: impl FnOnce(&mut Track) -> T) -> Option<T> {
        let mut tracks = self.tracks.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = tracks.get_mut(index).map(change);
        drop(tracks);
        self.changed.notify_one();
        changed
    }

    fn named<T>(&self, name: &str, read: impl FnOnce(&Track) -> T) -> Option<T> {
        let tracks = self.tracks.lock().unwrap_or_else(PoisonError::into_inner);
        tracks.iter().find(|track| track.name == name).map(read)
    }

    pub(super) fn pid(&self, name: &str) -> Option<u32> {
        self.named(name, |track| track.pid)?
    }

    pub(super) fn running_id(&self, name: &str) -> Option<String> {
        self.named(name, |track| matches!(track.state, State::Running { .. }).then(|| track.id.clone()))??
    }

    pub(super) fn kill(&self, name: &str) -> Result<()> {
        let signalled = self.named(name, |track| track.handle.as_ref().map(|handle| handle.kill()));
        signalled
            .flatten()
            .with_context(|| format!("{name} of {}/{} does not run", self.namespace, self.name))?
    }

    /// The log of a container's current instance or, before that, its last.
    pub(super) fn log(&self, name: &str, previous: bool) -> Result<Arc<Log>> {
        let logs = self
            .named(name, |track| track.logs.clone())
            .with_context(|| format!("container {name} is not valid for pod {}", self.name))?;
        let at = if previous { logs.len().checked_sub(2) } else { logs.len().checked_sub(1) };
        let what = if previous { "previous terminated container" } else { "container" };
        at.and_then(|at| logs.get(at).cloned())
            .with_context(|| format!("{what} \"{name}\" in pod \"{}\" is waiting to start", self.name))
    }

    /// Runs the pod until its object may go, and lets it go.
    pub(super) async fn run(self: Arc<Self>) {
        let reporter = tokio::spawn(Arc::clone(&self).report_changes());
        let way = tokio::select! {
            way = self.prepare() => way,
            () = self.stopped() => None,
        };
        if way.is_some() || self.network.get().is_some() {
            self.run_containers().await;
        }
        // Until the object is to go, its status stays to be read, and its logs.
        self.changed.notify_one();
        self.stopped().await;
        reporter.abort();
        if let Some(way) = way {
            way.abort();
        }
        self.clean();
        self.let_go().await;
    }

    /// Cgroup, network and volumes; tries again until it can. Returns the pod's way to the API server.
    async fn prepare(&self) -> Option<tokio::task::JoinHandle<()>> {
        let mut pause = Duration::from_millis(100);
        loop {
            let tried = async {
                let spec = self.spec();
                if self.cgroup.get().is_none() {
                    let quality =
                        self.object().status.and_then(|status| status.qos_class).unwrap_or_default();
                    let _ = self.cgroup.set(self.inner.place.pod_cgroup(&quality, &self.uid)?);
                }
                let mut way = None;
                if self.network.get().is_none() {
                    let host = spec.host_network.unwrap_or(false);
                    let network = self.inner.place.pod_network(host)?;
                    if !host {
                        let netns = network.netns(&self.inner.place);
                        way = Some(wires::to_api_server(&self.inner.runtime, netns, self.inner.api_port)?);
                    }
                    let _ = self.network.set(network);
                }
                anyhow::Ok(way)
            };
            let made = tried.await;
            let filled = match made {
                Ok(way) => match volumes::make(self).await {
                    Ok(()) => return Some(way.unwrap_or_else(|| tokio::spawn(async {}))),
                    Err(error) => {
                        // The way goes with the network, which stays.
                        drop(way);
                        error
                    }
                },
                Err(error) => error,
            };
            self.inner.note(&format!("{}/{}: {filled:#}", self.namespace, self.name));
            self.all_wait("ContainerCreating", &format!("{filled:#}"));
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(2));
        }
    }

    fn all_wait(&self, reason: &str, message: &str) {
        let count = self.tracks.lock().unwrap_or_else(PoisonError::into_inner).len();
        for index in 0..count {
            self.track(index, |track| track.wait(reason, message));
        }
    }

    async fn run_containers(self: &Arc<Self>) {
        let spec = self.spec();
        let init: Vec<Container> = spec.init_containers.unwrap_or_default();
        let count = init.len();
        for (index, container) in init.into_iter().enumerate() {
            if !container::supervise(Arc::clone(self), index, container).await {
                return;
            }
        }
        let mut running = JoinSet::new();
        for (index, container) in spec.containers.into_iter().enumerate() {
            running.spawn(container::supervise(Arc::clone(self), count + index, container));
        }
        running.join_all().await;
    }

    fn clean(&self) {
        if let Some(cgroup) = self.cgroup()
            && let Err(error) = self.inner.place.remove_cgroup(cgroup)
        {
            self.inner.note(&format!("{}/{}: {error:#}", self.namespace, self.name));
        }
        if let Some(network) = self.network.get() {
            self.inner.place.release(network);
        }
    }

    /// Reports what came of it, and lets the object go.
    async fn let_go(&self) {
        if let Err(error) = self.report(&mut None).await {
            self.inner.note(&format!("{}/{}: its last status: {error:#}", self.namespace, self.name));
        }
        let pods: Api<Pod> = Api::namespaced(self.inner.client.clone(), &self.namespace);
        let how = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(Preconditions { uid: Some(self.uid.clone()), resource_version: None }),
            ..DeleteParams::default()
        };
        let mut pause = Duration::from_millis(100);
        loop {
            match pods.delete(&self.name, &how).await {
                Ok(_) => return,
                Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => return,
                Err(error) => self.inner.note(&format!("{}/{}: {error:#}", self.namespace, self.name)),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(5));
        }
    }

    async fn report_changes(self: Arc<Self>) {
        let mut last = None;
        let mut pause = Duration::from_millis(100);
        loop {
            match self.report(&mut last).await {
                Ok(()) => {
                    pause = Duration::from_millis(100);
                    self.changed.notified().await;
                }
                Err(error) => {
                    self.inner.note(&format!("{}/{}: its status: {error:#}", self.namespace, self.name));
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(Duration::from_secs(5));
                }
            }
        }
    }

    /// Writes the status, where it is not `last`.
    async fn report(&self, last: &mut Option<serde_json::Value>) -> Result<()> {
        let status = {
            let object = self.object();
            let tracks = self.tracks.lock().unwrap_or_else(PoisonError::into_inner);
            let mut conditions = self.conditions.lock().unwrap_or_else(PoisonError::into_inner);
            let host = super::place::addresses(self.inner.number, 1);
            let addresses = self.network.get().map(PodNetwork::addresses);
            status::of(&object, &tracks, &mut conditions, host, addresses)
        };
        if last.as_ref() == Some(&status) {
            return Ok(());
        }
        let pods: Api<Pod> = Api::namespaced(self.inner.client.clone(), &self.namespace);
        let patch = serde_json::json!({"metadata": {"uid": self.uid}, "status": status});
        match pods.patch_status(&self.name, &PatchParams::default(), &Patch::Strategic(patch)).await {
            Ok(_) => {}
            // Gone; or another of the same name, which ends this one.
            Err(kube::Error::Api(error))
                if error.code == 404 || (error.code == 409 && self.is_stopping()) => {}
            Err(error) => return Err(error.into()),
        }
        *last = Some(status);
        Ok(())
    }
}
