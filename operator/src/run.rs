//! Starts the operator's tasks, watches over them, and stops them in order.

use std::collections::HashMap;
use std::fs;

use kube::{Client, Config};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::{Id, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::apply::Writer;
use crate::args;
use crate::crds::Keeper;
use crate::error::RunError;
use crate::index::Kind;
use crate::lease::{Elector, Leadership, LeaseSettings};
use crate::metrics::{self, Metrics, Readiness};
use crate::plan::Settings;
use crate::plan::external::Ranges;
use crate::plan::node_agent::AgentSettings;
use crate::reconcile::Reconciler;
use crate::watch::Watches;

/// At most so many changes wait between the watches and the reconciler.
const WAITING_NEWS: usize = 8192;

/// Tasks of which none may end before it is told to.
#[derive(Default)]
struct Tasks {
    set: JoinSet<()>,
    names: HashMap<Id, &'static str>,
}

impl Tasks {
    fn spawn(&mut self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let id = self.set.spawn(task).id();
        self.names.insert(id, name);
    }

    /// Waits for the first task that ends, and says which and how.
    async fn first(&mut self) -> RunError {
        match self.set.join_next_with_id().await {
            Some(Ok((id, ()))) => RunError::TaskEnded(self.name(id)),
            Some(Err(source)) => RunError::TaskPanicked { name: self.name(source.id()), source },
            None => RunError::TaskEnded("none"),
        }
    }

    fn name(&self, id: Id) -> &'static str {
        self.names.get(&id).copied().unwrap_or("unknown")
    }
}

/// A name that no other replica has, nor this one after a restart.
fn identity() -> Result<String, std::io::Error> {
    let host = fs::read_to_string("/proc/sys/kernel/hostname")?;
    let unique = fs::read_to_string("/proc/sys/kernel/random/uuid")?;
    Ok(format!("{}_{}", host.trim(), unique.trim()))
}

/// Runs the operator until SIGTERM or SIGINT.
///
/// # Errors
/// When it cannot start, or one of its tasks ends or panics.
pub async fn run(arguments: args::Run) -> Result<(), RunError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(RunError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(RunError::Signals)?;
    let metrics = Metrics::new()?;
    let ready = Readiness::default();
    let address = arguments.metrics_addr;
    let listener = TcpListener::bind(address).await.map_err(|source| RunError::Listen { address, source })?;
    let config = Config::infer().await.map_err(|error| RunError::NoCluster(Box::new(error)))?;
    tracing::info!(version = env!("CARGO_PKG_VERSION"), server = %config.cluster_url, metrics = %address, "starting");
    let client = Client::try_from(config).map_err(|error| RunError::Client(Box::new(error)))?;

    let (stop, stop_serving) = (CancellationToken::new(), CancellationToken::new());
    let mut tasks = Tasks::default();
    tasks.spawn("metrics", metrics::serve(listener, metrics.clone(), ready.clone(), stop_serving.clone()));

    let (news, incoming) = mpsc::channel(WAITING_NEWS);
    let watches = Watches {
        client: client.clone(),
        namespace: arguments.namespace.clone(),
        news,
        metrics: metrics.clone(),
    };
    for kind in Kind::ALL {
        tasks.spawn(kind.name(), watches.clone().watch(kind));
    }
    drop(watches);

    let leadership = Leadership::default();
    let (terms, term) = watch::channel(None);
    let identity = identity().map_err(RunError::Identity)?;
    let lease = LeaseSettings {
        namespace: arguments.namespace.clone(),
        name: arguments.lease_name.clone(),
        identity: identity.clone(),
        duration: arguments.lease_duration,
    };
    if arguments.manage_crds {
        let (client, metrics) = (client.clone(), metrics.clone());
        let keeper = Keeper { client, leadership: leadership.clone(), terms: term.clone(), metrics };
        tasks.spawn("crds", keeper.run(stop.clone()));
    }
    let elector = Elector::new(client.clone(), lease, leadership.clone(), terms, metrics.clone());
    let lease_stop = CancellationToken::new();
    let election = tokio::spawn(elector.run(lease_stop.clone()));

    let (namespace, installation) = (arguments.namespace.clone(), arguments.installation.clone());
    let writer = Writer::new(client, namespace, installation, leadership, identity);
    let per_second = arguments.slice_writes_per_second.get();
    let reconciler = Reconciler::new(settings(arguments), writer, metrics, ready, per_second);
    let reconciling = tokio::spawn(reconciler.run(incoming, term, stop.clone()));

    let (mut election, mut reconciling) = (election, reconciling);
    let failure = tokio::select! {
        _ = terminate.recv() => None,
        _ = interrupt.recv() => None,
        failure = tasks.first() => Some(failure),
        ended = &mut election => Some(ended_early("lease", ended)),
        ended = &mut reconciling => Some(ended_early("reconcile", ended)),
    };
    // The last writes end before the Lease is given up, and metrics are there to the end.
    tracing::info!("stopping");
    stop.cancel();
    if !reconciling.is_finished() {
        let _ = reconciling.await;
    }
    lease_stop.cancel();
    if !election.is_finished() {
        let _ = election.await;
    }
    stop_serving.cancel();
    tasks.set.shutdown().await;
    failure.map_or(Ok(()), Err)
}

fn ended_early(name: &'static str, ended: Result<(), tokio::task::JoinError>) -> RunError {
    match ended {
        Ok(()) => RunError::TaskEnded(name),
        Err(source) => RunError::TaskPanicked { name, source },
    }
}

fn settings(arguments: args::Run) -> Settings {
    Settings {
        agent: AgentSettings {
            namespace: arguments.namespace,
            image_repository: arguments.agent_image_repository,
            default_tag: arguments.agent_default_tag,
            pull_secrets: arguments.agent_image_pull_secret,
            pull_policy: arguments.agent_image_pull_policy,
            service_account: arguments.agent_service_account,
            metrics_port: arguments.agent_metrics_port,
        },
        ranges: Ranges { pods: arguments.pod_cidr, services: arguments.service_cidr },
    }
}
