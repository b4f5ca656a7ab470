//! `holdfast-agent run`: the loop that keeps the kernel in step with the source, and everything around it. Each part is
//! supervised: when one ends, the agent ends, with an error, and what is in the kernel stays.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use tokio::io::unix::AsyncFd;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tracing::{error, info, warn};

use crate::abi;
use crate::break_glass::{self, Broken};
use crate::cgroups::{self, Tree};
use crate::engine::{Applied, Engine};
use crate::events::book::Lesson;
use crate::events::file::Destination;
use crate::events::reader::Parts;
use crate::events::{Book, Reader, Sink, announce};
use crate::facts::Facts;
use crate::hooks::Hooks;
use crate::loader::{self, Kernel, Places};
use crate::mechanisms::{Mechanisms, State};
use crate::metrics::Metrics;
use crate::proof::{self, Kept, Outcome, Proof, Prover};
use crate::sockets::{self, Bell};
use crate::source::{self, SourceKind, StateDir};
use crate::status;

pub mod http;
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

/// The time between two proofs that the kernel does what it should.
const PROVE_EVERY: Duration = Duration::from_mins(1);
/// How soon after a change it is proven, and how soon at the latest where others follow: while something is proven, the next
/// change waits.
const PROVE_AFTER: (Duration, Duration) = (Duration::from_millis(150), Duration::from_secs(2));
/// How soon after a proof that failed there is another: late enough for the failure to be reported.
const PROVE_AGAIN: Duration = Duration::from_secs(5);
/// A machine that slept this long has just woken.
const SLEPT: Duration = Duration::from_secs(1);
/// The time between two walks of the cgroup tree, beside the events.
const WALK_EVERY: Duration = Duration::from_secs(15);
/// The time between two looks whether somebody broke the glass, or it is over.
const GLASS_EVERY: Duration = Duration::from_secs(1);
/// The first and the longest pause before a write that failed is tried again.
const RETRY: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(30));

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

struct Main {
    engine: Arc<Mutex<Engine>>,
    facts: watch::Receiver<Facts>,
    progress: watch::Sender<Progress>,
    metrics: Metrics,
    /// What numbers mean, for whoever reads events.
    book: Arc<Mutex<Book>>,
    events: AsyncFd<aya::maps::RingBuf<aya::maps::MapData>>,
    places: Places,
    state_dir: PathBuf,
    tree: Tree,
    started: Instant,
    /// The file of names is older than what is in force.
    names_due: bool,
    /// The node refuses nothing at present.
    broken: Option<Broken>,
    /// Of whoever destroys the sockets of what is refused by now; `None` = nobody can.
    bell: Option<Bell>,
    prover: Prover,
}

/// Up to a quarter more or less, so that nodes that failed together do not try again together.
fn jitter(pause: Duration) -> Duration {
    let clock = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    pause.mul_f64(0.75 + f64::from(clock.subsec_nanos() % 1000) / 2000.0)
}

/// How long the machine has slept since it was started.
fn asleep() -> Duration {
    Duration::from_nanos(abi::sys::boot_time_ns().saturating_sub(abi::sys::awake_ns()))
}

/// What woke the loop.
enum Wake {
    Facts,
    Cgroups,
    Walk,
    Prove,
    Glass,
    Retry,
    Stop,
}

/// When there is a proof next.
struct Proofs {
    next: tokio::time::Instant,
    /// Without a change.
    regular: tokio::time::Instant,
    /// The first change that is not proven.
    since: Option<tokio::time::Instant>,
}

impl Proofs {
    fn after(pause: Duration) -> Self {
        let next = tokio::time::Instant::now() + pause;
        Self { next, regular: next, since: None }
    }

    fn change(&mut self, now: tokio::time::Instant) {
        let since = *self.since.get_or_insert(now);
        self.next = (now + PROVE_AFTER.0).min(since + PROVE_AFTER.1).min(self.regular);
    }
}

impl Main {
    async fn run(mut self, shutdown: impl Future<Output = ()>) -> Result<()> {
        let mut shutdown = std::pin::pin!(shutdown);
        self.tree = Tree::walk(&self.places.cgroup_root)?;
        let mut walk = tokio::time::interval(WALK_EVERY);
        let mut proofs = Proofs::after(PROVE_EVERY);
        let mut asleep = asleep();
        let mut glass = tokio::time::interval(GLASS_EVERY);
        walk.reset();
        // When to try again, and how long the pause was.
        let mut retry: Option<(tokio::time::Instant, Duration)> = None;
        loop {
            let due = retry.map_or_else(tokio::time::Instant::now, |(due, _)| due);
            let wake = tokio::select! {
                biased;
                () = &mut shutdown => Wake::Stop,
                changed = self.facts.changed() => {
                    if changed.is_err() {
                        bail!("the source is gone");
                    }
                    Wake::Facts
                }
                ready = self.events.readable_mut() => {
                    ready.context("the ring buffer of cgroup events")?.clear_ready();
                    Wake::Cgroups
                }
                _ = walk.tick() => Wake::Walk,
                _ = glass.tick() => Wake::Glass,
                () = tokio::time::sleep_until(proofs.next) => Wake::Prove,
                () = tokio::time::sleep_until(due), if retry.is_some() => Wake::Retry,
            };
            let again = matches!(wake, Wake::Retry);
            let act = match wake {
                Wake::Stop => return Ok(()),
                Wake::Facts | Wake::Retry => true,
                Wake::Cgroups => self.take_events(),
                Wake::Walk => {
                    let differs = self.tree.replace(Tree::walk(&self.places.cgroup_root)?);
                    self.settle_counts();
                    differs | self.met_other_roots()
                }
                Wake::Prove => {
                    proofs = Proofs::after(self.prove());
                    false
                }
                Wake::Glass => {
                    let now = self::asleep();
                    if now > asleep + SLEPT {
                        info!("the machine slept: what is in force is proven anew");
                        proofs = Proofs::after(Duration::ZERO);
                    }
                    asleep = now;
                    self.look_at_glass()
                }
            };
            if act {
                // A proof that failed is told of before it is made again.
                if self.progress.borrow().proof.outcome != Outcome::Failed {
                    proofs.change(tokio::time::Instant::now());
                }
                retry = match (self.apply(), retry) {
                    (true, _) => None,
                    (false, Some(waiting)) if !again => Some(waiting),
                    (false, before) => {
                        let pause = before.map_or(RETRY.0, |(_, pause)| (pause * 2).min(RETRY.1));
                        Some((tokio::time::Instant::now() + jitter(pause), pause))
                    }
                };
            }
        }
    }

    /// Takes in what the kernel told of the tree; returns whether anything is new.
    fn take_events(&mut self) -> bool {
        let mut news = false;
        let externals = !self.facts.borrow().externals.is_empty();
        let ring = self.events.get_mut();
        while let Some(item) = ring.next() {
            let Some(event) = abi::CgroupEvent::read(&item) else { continue };
            self.metrics
                .events(if event.kind == abi::CGROUP_MADE { "cgroup_made" } else { "cgroup_gone" }, 1);
            news |= match (event.kind, event.path) {
                // What can be no workload's needs no look at the policies.
                (abi::CGROUP_MADE, Some(path)) => {
                    let concerns = externals || crate::workloads::parse(&path).is_some();
                    self.tree.made(event.id, &path) && concerns
                }
                (abi::CGROUP_MADE, None) => {
                    // The path did not fit: look for it.
                    drop(item);
                    return match Tree::walk(&self.places.cgroup_root) {
                        Ok(tree) => self.tree.replace(tree) || news,
                        Err(error) => {
                            warn!(%error, "the cgroup tree cannot be read");
                            news
                        }
                    };
                }
                _ => self.tree.gone(event.id),
            };
        }
        news
    }

    /// Brings the kernel to the facts; returns whether it is in step.
    fn apply(&mut self) -> bool {
        let facts = self.facts.borrow_and_update().clone();
        self.metrics.set_source_errors("all", facts.errors.len());
        if !facts.complete && facts.policies.is_empty() {
            // Nothing is known yet, not even from the disk: what an earlier agent put in force stays.
            self.progress.send_modify(|progress| progress.source_errors = Arc::clone(&facts.errors));
            return true;
        }
        let cgroups = self.tree.all();
        let started = Instant::now();
        let mut engine = self.engine.lock().unwrap_or_else(PoisonError::into_inner);
        match engine.apply(&facts, &cgroups) {
            Ok(mut applied) => {
                let took = started.elapsed();
                let lesson = Lesson {
                    meaning: engine.meaning(),
                    placements: engine.placements(),
                    policies: engine.in_force(),
                    mechanisms: engine.mechanisms(),
                    cgroups: &cgroups,
                };
                self.book.lock().unwrap_or_else(PoisonError::into_inner).learn(lesson, Instant::now());
                if applied.changed {
                    self.metrics.apply.observe(took.as_secs_f64());
                    info!(
                        policies = applied.policies.len(),
                        workloads = applied.workloads,
                        selected = applied.selected,
                        took_us = took.as_micros(),
                        "in force"
                    );
                }
                if applied.changed
                    || applied.policies != self.progress.borrow().applied.policies
                    || self.names_due
                {
                    self.names_due = !self.keep_names(&engine, &applied);
                }
                if let Some(broken) = &self.broken {
                    for report in &mut applied.policies {
                        broken.tell(report);
                    }
                }
                self.metrics.set_policies(&applied.policies);
                self.metrics.set_workloads(applied.workloads, applied.selected);
                drop(engine);
                if let Some(bell) = &self.bell
                    && (applied.changed || applied.policies != self.progress.borrow().applied.policies)
                {
                    bell.ring(cgroups);
                }
                let complete = facts.complete;
                if complete && !self.progress.borrow().complete {
                    info!(
                        after_ms = self.started.elapsed().as_millis(),
                        "ready: everything known at start is in force"
                    );
                    abi::sys::trim_memory();
                }
                let mut proof = self.progress.borrow().proof.clone();
                // What was proven before says nothing of this.
                if applied.changed && proof.outcome == Outcome::Proven {
                    proof.outcome = Outcome::Pending;
                }
                self.progress.send_replace(Progress {
                    applied,
                    complete,
                    error: None,
                    break_glass: self.broken.clone(),
                    proof,
                    source_errors: Arc::clone(&facts.errors),
                });
                true
            }
            Err(error) => {
                error!(%error, "the kernel is not in step with the policies; what was in force before stays");
                self.metrics.probe_failed("apply", 1);
                self.progress.send_modify(|progress| progress.error = Some(error.to_string()));
                false
            }
        }
    }

    /// Whether the node refuses nothing: returns whether that has changed.
    fn look_at_glass(&mut self) -> bool {
        let engine = self.engine.lock().unwrap_or_else(PoisonError::into_inner);
        let broken = match break_glass::look(engine.maps(), &self.state_dir) {
            Ok(broken) => broken,
            Err(error) => {
                warn!(%error, "whether the glass is broken cannot be read");
                return false;
            }
        };
        drop(engine);
        if broken == self.broken {
            return false;
        }
        if let Some(broken) = &broken {
            error!("{}", broken.message());
        } else {
            warn!("break-glass is over: this node refuses again what its policies say");
        }
        self.progress.send_modify(|progress| progress.break_glass.clone_from(&broken));
        self.broken = broken;
        true
    }

    fn keep_names(&self, engine: &Engine, applied: &Applied) -> bool {
        let names = status::names(engine, &applied.policies);
        let path = status::names_file(&self.state_dir);
        let written = serde_json::to_vec(&names)
            .map_err(std::io::Error::from)
            .and_then(|bytes| status::write_whole(&path, &bytes));
        if let Err(error) = written {
            warn!(path = %path.display(), %error, "the names for `status` cannot be written");
            return false;
        }
        true
    }

    /// Proves that the kernel does what it should, and repairs what differs. Returns when to do so again.
    fn prove(&mut self) -> Duration {
        let before = self.progress.borrow().proof.clone();
        let mut engine = self.engine.lock().unwrap_or_else(PoisonError::into_inner);
        let proof = self.prover.prove(&mut engine, &before, self.broken.is_none());
        drop(engine);
        for failure in proof.failures.iter() {
            error!(kind = failure.kind, "the proof of what is in force failed: {}", failure.message);
            self.metrics.probe_failed(&failure.kind, 1);
        }
        if before.outcome == Outcome::Failed && proof.outcome == Outcome::Proven {
            info!("what is in force is proven again");
        }
        self.metrics.set_proof(&proof);
        let path = proof::file(&self.state_dir);
        let kept = serde_json::to_vec(&Kept::from(&proof)).map_err(std::io::Error::from);
        if let Err(error) = kept.and_then(|bytes| fs::write(&path, bytes)) {
            warn!(path = %path.display(), %error, "the proof for `status` cannot be written");
        }
        let again = if proof.outcome == Outcome::Proven { PROVE_EVERY } else { PROVE_AGAIN };
        self.progress.send_modify(|progress| progress.proof = proof);
        again
    }

    /// Whether the report has to say of other workloads that their image cannot be told.
    fn met_other_roots(&self) -> bool {
        let mut engine = self.engine.lock().unwrap_or_else(PoisonError::into_inner);
        engine.met_other_roots().unwrap_or_else(|error| {
            warn!(%error, "which roots the kernel met cannot be read");
            false
        })
    }

    /// Counters of workloads that are gone are taken over, so that the map does not fill with them.
    fn settle_counts(&self) {
        let mut engine = self.engine.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = engine.counts() {
            warn!(%error, "the kernel's counters cannot be read");
        }
    }
}
