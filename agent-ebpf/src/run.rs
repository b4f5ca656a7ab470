//! `holdfast-agent run`: the loop that keeps the kernel in step with the source, and everything around it. Each part is
//! supervised: when one ends, the agent ends, with an error, and what is in the kernel stays.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tracing::{error, info, warn};

use crate::abi;
use crate::break_glass::Broken;
use crate::cgroups::{self, Tree};
use crate::engine::{Applied, Engine};
use crate::events::file::Destination;
use crate::events::reader::Parts;
use crate::events::{Book, Reader, Sink, announce};
use crate::facts::Facts;
use crate::hooks::Hooks;
use crate::loader::{self, Kernel, Places};
use crate::mechanisms::{Mechanisms, State};
use crate::metrics::Metrics;
use crate::proof::{Proof, Prover};
use crate::sockets;
use crate::source::{self, SourceKind, StateDir};
use crate::status;
use main_loop::Main;

pub mod http;
mod main_loop;
pub mod node;

/// What `run` is told.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where policies come from.
    pub source: SourceKind,
    /// This node's name.
    pub node_name: String,
    /// Name and UID of the NodeAgent that owns what this agent writes to the API server.
    pub owner: Option<(String, String)>,
    /// Where the last good state is kept.
    pub state_dir: PathBuf,
    /// Where `/metrics`, `/healthz` and `/readyz` are served.
    pub metrics_addr: SocketAddr,
    /// The BPF file system.
    pub bpffs: PathBuf,
    /// A file that is the host's network namespace.
    pub host_netns: PathBuf,
    /// Where lines of events go; `None` = nowhere.
    pub events: Option<Destination>,
}

/// What others may know of the loop.
#[derive(Debug, Clone, Default)]
pub struct Progress {
    /// The last change that was written and read back.
    pub applied: Applied,
    /// Facts were complete when it was written.
    pub complete: bool,
    /// Why the kernel is not in step, where it is not.
    pub error: Option<String>,
    /// The node refuses nothing at present.
    pub break_glass: Option<Broken>,
    /// Whether the kernel was seen to do it.
    pub proof: Proof,
    /// Errors of the source.
    pub source_errors: Arc<Vec<crate::facts::SourceError>>,
}

impl Progress {
    /// Everything known at start is in the kernel and was read back.
    #[must_use]
    pub fn ready(&self) -> bool {
        self.complete && self.error.is_none()
    }
}

/// Where things are, as mountinfo says.
///
/// # Errors
///
/// When there is no cgroup v2 tree.
pub fn places(bpffs: &Path) -> Result<Places> {
    let cgroup_root = cgroups::root(Path::new("/proc/self/mountinfo"))?;
    Ok(Places { bpffs: bpffs.to_owned(), cgroup_root })
}

/// Runs until a signal asks it to end.
///
/// # Errors
///
/// When something that the agent needs is missing or ends.
#[expect(clippy::too_many_lines, reason = "the parts are started one after the other, each in a block")]
pub async fn run(settings: Settings) -> Result<()> {
    let started = Instant::now();
    let mut places = places(&settings.bpffs)?;
    places.bpffs.clone_from(&settings.bpffs);
    let netns = fs::metadata(&settings.host_netns)
        .with_context(|| {
            format!("the host's network namespace, {} (--host-netns)", settings.host_netns.display())
        })?
        .ino();
    let netns = u32::try_from(netns).with_context(|| {
        format!("--host-netns {}: not a network namespace", settings.host_netns.display())
    })?;
    let state = StateDir::open(&settings.state_dir)?;

    let kernel = loader::load(&places)?;
    let hooks = Hooks::probe(&places, &kernel.btf)?;
    let Kernel { maps, cgroup_events, denials, audits, event_maps, btf } = kernel;
    let mut engine = Engine::adopt(maps, hooks, netns)?;
    let prover = Prover::new(&places, Path::new("/proc/self/exe"), &mut engine)?;
    let mut book = Book::default();
    // What was refused while no agent ran is counted under the names that the last one left.
    match status::read_names(&settings.state_dir) {
        Ok(names) => {
            engine.know_names(&names);
            book.know_names(names);
        }
        Err(error) => info!(%error, "no names of an earlier agent"),
    }
    let metrics = Metrics::new()?;
    metrics.set_mechanisms(engine.mechanisms());
    let book = Arc::new(Mutex::new(book));
    let node_name = settings.node_name.clone();
    let open = |destination| Sink::open(destination, node_name, metrics.clone());
    let sink = settings.events.clone().map(open).transpose()?;
    info!(
        took_ms = started.elapsed().as_millis(),
        cgroup_root = %places.cgroup_root.display(),
        hooks = engine.mechanisms().hooks.len(),
        "kernel programs are attached"
    );

    tell(engine.mechanisms());

    let mechanisms = engine.mechanisms().clone();
    let bell = match mechanisms.states.get(sockets::MECHANISM) {
        // Beside enforcement: without it the node refuses what it should all the same.
        Some(State::Available) => sockets::start(&places, &btf, metrics.clone())
            .inspect_err(|error| warn!(%error, "revoked connections end in silence"))
            .ok(),
        // `tell` has said why.
        _ => None,
    };
    drop(btf);
    abi::sys::trim_memory();
    let engine = Arc::new(Mutex::new(engine));
    let (facts_tx, facts) = watch::channel(Facts::default());
    let (progress_tx, progress) = watch::channel(Progress::default());
    let (stop_tx, stop) = watch::channel(false);
    let stopped = |mut stop: watch::Receiver<bool>| async move {
        // An error means that the sender is gone, which is the end too.
        drop(stop.wait_for(|stop| *stop).await);
    };

    let mut tasks: JoinSet<Result<&'static str>> = JoinSet::new();
    {
        let (kind, node) = (settings.source.clone(), settings.node_name.clone());
        let shutdown = stopped(stop.clone());
        tasks.spawn(async move {
            source::run(kind, node, Some(state), facts_tx, shutdown).await?;
            Ok("source")
        });
    }
    {
        let listener = tokio::net::TcpListener::bind(settings.metrics_addr)
            .await
            .with_context(|| format!("--metrics-addr {}", settings.metrics_addr))?;
        info!(address = %listener.local_addr()?, "serving /metrics, /healthz and /readyz");
        let shared = http::Shared {
            engine: Arc::clone(&engine),
            metrics: metrics.clone(),
            progress: progress.clone(),
            state_dir: settings.state_dir.clone(),
        };
        let shutdown = stopped(stop.clone());
        tasks.spawn(async move {
            http::serve(listener, shared, shutdown).await?;
            Ok("http")
        });
    }
    if let SourceKind::Api { namespace } = &settings.source {
        let reporter = node::Reporter {
            node: settings.node_name.clone(),
            namespace: namespace.clone(),
            owner: settings.owner.clone(),
            mechanisms,
            progress: progress.clone(),
            told: None,
        };
        let shutdown = stopped(stop.clone());
        tasks.spawn(async move {
            reporter.run(shutdown).await?;
            Ok("node report")
        });
    }
    let announce = match &settings.source {
        SourceKind::Api { .. } => {
            let (sender, news) = mpsc::channel(announce::ROOM);
            let node = settings.node_name.clone();
            let shutdown = stopped(stop.clone());
            tasks.spawn(async move {
                announce::run(news, node, shutdown)
                    .await
                    .context("the API server's address and credentials")?;
                Ok("Kubernetes Events")
            });
            Some(sender)
        }
        SourceKind::Dir(_) => None,
    };
    {
        let reader = Reader::new(Parts {
            denials,
            audits,
            maps: event_maps,
            book: Arc::clone(&book),
            sink,
            announce,
            metrics: metrics.clone(),
            node: settings.node_name.clone(),
        })?;
        let shutdown = stopped(stop.clone());
        tasks.spawn(async move {
            reader.run(shutdown).await?;
            Ok("reader of events")
        });
    }
    {
        let main = Main {
            engine,
            facts,
            progress: progress_tx,
            metrics,
            book,
            events: abi::sys::pollable(cgroup_events).context("the ring buffer of cgroup events")?,
            places,
            state_dir: settings.state_dir.clone(),
            tree: Tree::default(),
            started,
            names_due: false,
            broken: None,
            bell,
            prover,
        };
        let shutdown = stopped(stop.clone());
        tasks.spawn(async move {
            main.run(shutdown).await?;
            Ok("main loop")
        });
    }

    until_ended(tasks, &stop_tx).await
}

/// Waits for a signal, or for a part to end, and stops the others.
async fn until_ended(mut tasks: JoinSet<Result<&'static str>>, stop: &watch::Sender<bool>) -> Result<()> {
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let outcome = tokio::select! {
        _ = term.recv() => Ok(()),
        _ = int.recv() => Ok(()),
        Some(ended) = tasks.join_next() => match ended {
            Ok(Ok(name)) => Err(anyhow!("the {name} ended by itself")),
            Ok(Err(error)) => Err(error),
            Err(error) => Err(anyhow!(error)),
        },
    };
    info!("stopping; what is in the kernel stays in force");
    stop.send_replace(true);
    let all = async { while tasks.join_next().await.is_some() {} };
    if tokio::time::timeout(Duration::from_secs(8), all).await.is_err() {
        warn!("not every part stopped in time");
    }
    outcome
}

/// Says what this node can and cannot do, before anything else happens.
fn tell(mechanisms: &Mechanisms) {
    for (name, state) in &mechanisms.states {
        match state {
            State::Available => info!(mechanism = name, "available"),
            // Beside enforcement, and not asked for by default.
            State::Unavailable(why) if *name == sockets::MECHANISM => {
                info!(mechanism = name, why, "not available");
            }
            State::Unavailable(why) => warn!(mechanism = name, why, "not available on this kernel"),
            State::Error(why) => error!(mechanism = name, why, "could not be probed, and is not used"),
        }
    }
    if mechanisms.hooks.is_empty() {
        warn!(
            "system call rules cannot refuse on this kernel; network rules are enforced, audits are counted, and Deny \
             rules kill where their policy says `fallback: Kill`"
        );
    }
}

/// Up to a quarter more or less, so that nodes that failed together do not try again together.
fn jitter(pause: Duration) -> Duration {
    let clock = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    pause.mul_f64(0.75 + f64::from(clock.subsec_nanos() % 1000) / 2000.0)
}
