//! Where facts come from: the API server ([`SourceKind::Api`]) or a watched directory ([`SourceKind::Dir`]).
//!
//! A source never ends by itself and never gives up what it knew: what cannot be read is an entry of
//! [`Facts::errors`](crate::facts::Facts::errors), and its last good state stays in the other members. With a
//! [`StateDir`] that holds across restarts too: the saved state is given out at once, with
//! [`Facts::complete`](crate::facts::Facts::complete) `false`, until the source itself has been read.

use std::path::PathBuf;
use std::pin::pin;
use std::time::Duration;

use kube::Client;
use tokio::sync::watch;
use tracing::error;

use crate::facts::Facts;

pub(crate) mod api;
mod assemble;
mod dir;
mod host;
mod state;

pub use state::{StateDir, StateError};

/// How long a source may take to save its state when it is stopped.
const GOODBYE: Duration = Duration::from_secs(5);
/// The first and the longest pause before a source that broke off is started again.
const RESTART: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(30));

/// A place that facts come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourceKind {
    /// A directory of YAML files, with no Kubernetes at all.
    Dir(PathBuf),
    /// The API server, found as kubectl finds it or as a pod does.
    Api {
        /// The namespace that Holdfast itself runs in.
        namespace: String,
    },
}

/// Why a source ended.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Whoever wanted the facts is gone.
    #[error("nobody receives the facts of the source any more")]
    NoReceiver,
}

/// Keeps `facts` up to date until `shutdown`. The node's name picks its pods and its external workloads. A source that
/// breaks off (a panic) is reported and started again.
///
/// # Errors
/// When the last receiver of `facts` is gone.
pub async fn run(
    kind: SourceKind,
    node_name: String,
    state: Option<StateDir>,
    facts: watch::Sender<Facts>,
    shutdown: impl Future<Output = ()>,
) -> Result<(), RunError> {
    let work = move |setting: Setting| {
        let kind = kind.clone();
        async move {
            match kind {
                SourceKind::Dir(path) => dir::work(path, setting).await,
                SourceKind::Api { namespace } => api::work(None, namespace, setting).await,
            }
        }
    };
    supervise(work, node_name, state, facts, shutdown).await
}

/// As [`run`] of [`SourceKind::Api`], with a client that is known already.
///
/// # Errors
/// When the last receiver of `facts` is gone.
pub async fn run_api(
    client: Client,
    namespace: String,
    node_name: String,
    state: Option<StateDir>,
    facts: watch::Sender<Facts>,
    shutdown: impl Future<Output = ()>,
) -> Result<(), RunError> {
    let work = move |setting| api::work(Some(client.clone()), namespace.clone(), setting);
    supervise(work, node_name, state, facts, shutdown).await
}

async fn supervise<W: Future<Output = ()> + Send + 'static>(
    work: impl Fn(Setting) -> W,
    node_name: String,
    state: Option<StateDir>,
    facts: watch::Sender<Facts>,
    shutdown: impl Future<Output = ()>,
) -> Result<(), RunError> {
    let mut shutdown = pin!(shutdown);
    let stop = watch::Sender::new(false);
    let mut pause = RESTART.0;
    loop {
        let setting = Setting {
            node_name: node_name.clone(),
            state: state.clone(),
            facts: facts.clone(),
            stop: stop.subscribe(),
        };
        let mut worker = Worker(tokio::spawn(work(setting)));
        let ended = tokio::select! {
            () = &mut shutdown => None,
            () = facts.closed() => return Err(RunError::NoReceiver),
            ended = &mut worker.0 => Some(ended),
        };
        let Some(ended) = ended else {
            stop.send_replace(true);
            if tokio::time::timeout(GOODBYE, &mut worker.0).await.is_err() {
                error!("the source did not stop in time; its newest state may not be saved");
            }
            return Ok(());
        };
        let problem = ended.err().map_or_else(|| "it ended".to_owned(), |error| error.to_string());
        error!(%problem, "the source broke off and is started again in {pause:?}");
        facts.send_modify(|facts| assemble::broke_off(facts, &problem));
        tokio::select! {
            () = &mut shutdown => return Ok(()),
            () = tokio::time::sleep(pause) => {}
        }
        pause = (pause * 2).min(RESTART.1);
    }
}

/// What every source needs.
pub(crate) struct Setting {
    pub(crate) node_name: String,
    pub(crate) state: Option<StateDir>,
    pub(crate) facts: watch::Sender<Facts>,
    pub(crate) stop: watch::Receiver<bool>,
}

impl Setting {
    /// Waits until the source is to stop.
    pub(crate) async fn stopped(stop: &mut watch::Receiver<bool>) {
        // The sender goes only with the supervisor, which ends the worker anyway.
        let _ = stop.wait_for(|stop| *stop).await;
    }
}

/// A task that ends with its supervisor.
struct Worker(tokio::task::JoinHandle<()>);

impl Drop for Worker {
    fn drop(&mut self) {
        self.0.abort();
    }
}
