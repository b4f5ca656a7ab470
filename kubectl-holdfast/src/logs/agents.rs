//! The events of all agents' logs.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::Write;
use std::time::Duration;

use futures::stream::{self, StreamExt};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::filter::Filter;
use super::stream::{self as log, Ask, CONTAINER, Found};
use super::{Extent, Format, render};
use crate::cluster::{self, Cluster, Scope, encode, typed};
use crate::error::{ApiError, Failure};

/// What agents' pods are labelled with.
pub(crate) const AGENTS: &str = "app.kubernetes.io/part-of=holdfast,app.kubernetes.io/component=agent";
/// So many logs are read at the same time, where they are not followed.
const AT_ONCE: usize = 16;
/// How often new and restarted agents are looked for.
const LOOK: Duration = Duration::from_secs(2);

/// The agents' pods.
///
/// # Errors
/// When they cannot be listed, or there are none.
async fn agents(cluster: &Cluster, filter: &Filter) -> Result<Vec<Pod>, Failure> {
    let scope = Scope::Namespace(cluster.holdfast.clone());
    let query = format!("labelSelector={}", encode(AGENTS));
    let (mut pods, _) = typed::<Pod>(cluster.list(cluster::PODS, &scope, &query).await?);
    if pods.is_empty() {
        return Err(Failure::NotFound(format!(
            "no agents run in namespace {}: is Holdfast in another (--holdfast-namespace)?",
            cluster.holdfast
        )));
    }
    if let Some(node) = &filter.node {
        pods.retain(|pod| node_of(pod) == Some(node));
        if pods.is_empty() {
            return Err(Failure::NotFound(format!("no agent runs on node {node}")));
        }
    }
    pods.sort_by_key(ResourceExt::name_any);
    Ok(pods)
}

fn node_of(pod: &Pod) -> Option<&String> {
    pod.spec.as_ref()?.node_name.as_ref()
}

fn restarts(pod: &Pod) -> i32 {
    let statuses = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    statuses.filter(|status| status.name == CONTAINER).map(|status| status.restart_count).sum()
}

/// Whether its container has ever run, so that there is a log.
fn has_run(pod: &Pod) -> bool {
    let mut statuses = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    statuses.any(|status| {
        let state = status.state.as_ref();
        status.name == CONTAINER
            && state.is_some_and(|state| state.running.is_some() || state.terminated.is_some())
    })
}

/// Shows the events.
///
/// # Errors
/// When no agent's log can be read.
pub(crate) async fn show(
    cluster: &Cluster,
    filter: &Filter,
    extent: Extent,
    format: Format,
) -> Result<(), Failure> {
    let pods = agents(cluster, filter).await?;
    let (mut found, marks) = history(cluster, &pods, extent).await?;
    found.retain(|found| filter.takes(&found.event));
    found.sort_by_cached_key(|found| found.event.time.parse::<Timestamp>().unwrap_or(Timestamp::UNIX_EPOCH));
    if let Some(tail) = extent.tail {
        found.drain(..found.len().saturating_sub(tail));
    }
    for found in &found {
        if !put(found, format) {
            return Ok(());
        }
    }
    if extent.follow {
        follow(cluster, filter, extent.since, marks, format).await?;
    }
    Ok(())
}

/// Writes one event; whether anybody still reads.
fn put(found: &Found, format: Format) -> bool {
    let mut out = std::io::stdout().lock();
    let written = match format {
        Format::Text => writeln!(out, "{}", render::line(&found.event)),
        Format::Json => writeln!(out, "{}", found.line.trim()),
    };
    written.and_then(|()| out.flush()).is_ok()
}

/// How far a pod's log has been read.
type Marks = BTreeMap<String, Option<Timestamp>>;

/// All that the logs hold. An agent whose log cannot be read is named; it is an error only where that is so of all.
async fn history(cluster: &Cluster, pods: &[Pod], extent: Extent) -> Result<(Vec<Found>, Marks), Failure> {
    let (to, mut from) = mpsc::channel::<Found>(1024);
    let read = async move {
        let reads = pods.iter().filter(|pod| has_run(pod)).map(|pod| {
            let to = to.clone();
            async move {
                let name = pod.name_any();
                if restarts(pod) > 0 {
                    let ask = Ask { since: extent.since, previous: true, ..Ask::default() };
                    // It may be gone already, and then so are its events.
                    let _ = log::read(cluster, &name, ask, &to).await;
                }
                let ask = Ask { since: extent.since, ..Ask::default() };
                let read = log::read(cluster, &name, ask, &to).await;
                (pod.uid().unwrap_or_default(), node_of(pod).cloned().unwrap_or(name), read)
            }
        });
        stream::iter(reads).buffer_unordered(AT_ONCE).collect::<Vec<_>>().await
    };
    let collect = async {
        let mut all = Vec::new();
        while let Some(found) = from.recv().await {
            all.push(found);
        }
        all
    };
    let (reads, found) = tokio::join!(read, collect);
    let (mut marks, mut failed, mut good) = (Marks::new(), Vec::<(String, ApiError)>::new(), 0);
    for (uid, node, read) in reads {
        match read {
            Ok(mark) => {
                good += 1;
                marks.insert(uid, mark);
            }
            Err(error) => failed.push((node, error)),
        }
    }
    // What is forbidden is forbidden of all.
    if good == 0
        && let Some((_, error)) = failed.pop()
    {
        return Err(error.into());
    }
    for (node, error) in failed {
        eprintln!("note: {node} is left out: {error}");
    }
    Ok((found, marks))
}

/// Shows what comes, from agents that come and restart too, until nobody reads.
async fn follow(
    cluster: &Cluster,
    filter: &Filter,
    since: Option<Timestamp>,
    marks: Marks,
    format: Format,
) -> Result<(), Failure> {
    let (to, mut from) = mpsc::channel::<Found>(1024);
    let mut readers = Readers { running: HashMap::new(), marks, since, failing: BTreeSet::new(), told: None };
    let mut look = tokio::time::interval(LOOK);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            found = from.recv() => {
                let Some(found) = found else { return Ok(()) };
                if filter.takes(&found.event) && !put(&found, format) {
                    return Ok(());
                }
            }
            _ = look.tick() => readers.look(cluster, filter, &to).await?,
        }
    }
}

/// One task for each agent that is followed.
struct Readers {
    running: HashMap<String, JoinHandle<Result<Option<Timestamp>, ApiError>>>,
    marks: Marks,
    since: Option<Timestamp>,
    /// Pods whose logs cannot be read, so that each is told once.
    failing: BTreeSet<String>,
    /// The last problem of all of them, likewise.
    told: Option<String>,
}

impl Readers {
    /// Takes up again what ended, and whoever is new.
    async fn look(
        &mut self,
        cluster: &Cluster,
        filter: &Filter,
        to: &mpsc::Sender<Found>,
    ) -> Result<(), Failure> {
        let ended: Vec<String> =
            self.running.iter().filter(|(_, task)| task.is_finished()).map(|(uid, _)| uid.clone()).collect();
        for uid in ended {
            let Some(task) = self.running.remove(&uid) else { continue };
            match task.await {
                Ok(Ok(mark)) => {
                    self.failing.remove(&uid);
                    self.marks.insert(uid, mark);
                }
                Ok(Err(error)) if self.failing.insert(uid) => eprintln!("note: {error}; trying again"),
                Ok(Err(_)) | Err(_) => {}
            }
        }
        let pods = match agents(cluster, filter).await {
            Ok(pods) => pods,
            Err(Failure::Api(error)) if error.is_forbidden() => return Err(error.into()),
            // The API server, or the agents, may come back.
            Err(problem) => {
                let problem = problem.to_string();
                if self.told.as_ref() != Some(&problem) {
                    eprintln!("note: {problem}; trying again");
                    self.told = Some(problem);
                }
                return Ok(());
            }
        };
        self.told = None;
        for pod in pods.iter().filter(|pod| has_run(pod)) {
            let uid = pod.uid().unwrap_or_default();
            if self.running.contains_key(&uid) {
                continue;
            }
            // Of a log without a line so far, everything is new.
            let after = self.marks.get(&uid).copied().flatten();
            let ask = Ask { after, since: self.since, follow: true, previous: false };
            let (cluster, name, to) = (cluster.clone(), pod.name_any(), to.clone());
            let task = async move { log::read(&cluster, &name, ask, &to).await };
            self.running.insert(uid, tokio::spawn(task));
        }
        Ok(())
    }
}
