//! The source that is a directory of YAML files: how a virtual machine or a plain host runs, without any Kubernetes.
//!
//! The kernel tells of changes (inotify), and a scan every few seconds finds what it cannot tell. What a file says is
//! in the facts a few milliseconds after its writer closes it or moves it into place.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use futures::StreamExt;
use inotify::{EventMask, EventOwned, EventStream, Inotify, WatchMask};
use tokio::sync::watch;
use tracing::{debug, info};

use super::assemble::{error_of, log, renew};
use super::state::{Problems, Saver};
use super::{Setting, host};
use crate::facts::{Facts, SourceError};
use files::{Files, Saved};
use scan::{Hints, Scanner};

mod files;
mod scan;

/// How long events are gathered before the directory is read.
const GATHER: Duration = Duration::from_millis(2);
/// How often it is read without any event.
const RESCAN: Duration = Duration::from_secs(2);
/// How often it is read while its changes cannot be watched: it is not there, or inotify has no room.
const UNWATCHED: Duration = Duration::from_millis(250);
/// How long a file must be missing until its objects go.
const MISSING: Duration = Duration::from_millis(100);
/// The name of the state file.
const STATE: &str = "directory";

/// Runs the source until it is stopped.
pub(crate) async fn work(folder: PathBuf, setting: Setting) {
    let Setting { node_name, state, facts: out, mut stop } = setting;
    let mut source = Source::new(folder, node_name);
    source.facts = Facts { complete: false, ..out.borrow().clone() };
    let problems = watch::Sender::new(Problems::new());
    let mut problems_seen = problems.subscribe();
    let mut saver = None;
    if let Some(state) = &state {
        match state.read(STATE) {
            Ok(records) => source.restore(&records.unwrap_or_default()),
            Err(error) => source.doubts.push(error_of("state", error.to_string())),
        }
        saver = Some(Saver::start(state.clone(), STATE, problems));
    }
    let mut host_read = None::<Instant>;
    let mut hints = Hints { all_done: true, ..Hints::default() };
    loop {
        if host_read.is_none_or(|read| read.elapsed() >= host::INTERVAL) {
            host_read = Some(Instant::now());
            source.read_host();
        }
        source.problems = problems_seen.borrow_and_update().clone();
        // Reading and parsing may take a while when there is a lot.
        let mut busy = source;
        let work = tokio::task::spawn_blocking(move || {
            let to_save = busy.step(&hints);
            (busy, to_save)
        });
        let to_save;
        (source, to_save) = match work.await {
            Ok(done) => done,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // The runtime is shutting down.
                Err(_) => return,
            },
        };
        if let (Some(saver), Some(records)) = (&saver, to_save) {
            saver.save(records);
        }
        out.send_if_modified(|shown| source.show(shown));

        hints = Hints::default();
        let next_look = tokio::time::sleep(source.next_look());
        let mut next_look = std::pin::pin!(next_look);
        let stopped = loop {
            tokio::select! {
                () = Setting::stopped(&mut stop) => break true,
                () = &mut next_look => break false,
                Ok(()) = problems_seen.changed() => break false,
                event = next_event(&mut source.watcher) => {
                    if source.note(event, &mut hints) {
                        tokio::time::sleep(GATHER).await;
                        while let Some(event) = ready_event(&mut source.watcher) {
                            source.note(event, &mut hints);
                        }
                        break false;
                    }
                }
            }
        };
        if stopped {
            break;
        }
    }
    if let Some(saver) = saver {
        saver.finish().await;
    }
}

/// The directory and what it came to.
struct Source {
    folder: PathBuf,
    scanner: Scanner,
    files: Files,
    facts: Facts,
    watcher: Option<Watcher>,
    /// Why there is no watcher.
    unwatched: Option<String>,
    host: BTreeSet<IpAddr>,
    host_problem: Option<String>,
    /// What is wrong with the saved state; until the directory was read.
    doubts: Vec<SourceError>,
    /// What could not be saved.
    problems: Problems,
    missing_since: Option<Instant>,
    postponed: bool,
}

/// Watches one directory, which keeps its inode, and the one above for its name.
struct Watcher {
    events: EventStream<Vec<u8>>,
    /// Device and inode of the directory.
    watched: (u64, u64),
    folder: inotify::WatchDescriptor,
    /// The directory's name in the one above.
    name: Option<std::ffi::OsString>,
}

impl Source {
    fn new(folder: PathBuf, node_name: String) -> Self {
        Self {
            scanner: Scanner::new(folder.clone()),
            files: Files::new(folder.clone(), node_name),
            folder,
            facts: Facts::default(),
            watcher: None,
            unwatched: None,
            host: BTreeSet::new(),
            host_problem: None,
            doubts: Vec::new(),
            problems: Problems::new(),
            missing_since: None,
            postponed: false,
        }
    }

    fn restore(&mut self, records: &[String]) {
        let problems = self.files.restore(records);
        self.doubts.extend(problems);
        info!(files = records.len(), "took over the saved state");
    }

    fn read_host(&mut self) {
        match host::addresses() {
            Ok(addresses) => (self.host, self.host_problem) = (addresses, None),
            Err(error) => self.host_problem = Some(format!("this node's addresses cannot be read: {error}")),
        }
    }

    /// Watches the directory if it is not watched, reads what changed and brings the facts up to date. Returns what is
    /// to be saved, if that changed.
    fn step(&mut self, hints: &Hints) -> Option<Vec<std::sync::Arc<Saved>>> {
        let fresh = self.watch();
        let hints = if fresh { &Hints { all_done: true, ..Hints::default() } } else { hints };
        let mut errors = Vec::new();
        let mut changed = false;
        match self.scanner.scan(hints) {
            Ok(found) => {
                for (name, content) in found.read {
                    changed |= self.files.put(&name, content);
                }
                changed |= self.clear_missing(&found.present);
                self.postponed = found.postponed;
                // The first scan postpones nothing.
                self.facts.complete = true;
                self.doubts.clear();
            }
            Err(error) => {
                let problem =
                    format!("the directory cannot be read: {error}; its last good state stays in force");
                errors.push(error_of(self.folder.display().to_string(), problem));
            }
        }
        errors.extend(self.doubts.iter().cloned());
        errors.extend(self.host_problem.iter().map(|problem| error_of("host", problem.clone())));
        errors.extend(
            self.unwatched.iter().map(|problem| error_of(self.folder.display().to_string(), problem.clone())),
        );
        errors.extend(
            self.problems.iter().map(|(name, problem)| error_of(format!("state/{name}"), problem.clone())),
        );
        let before = self.facts.errors.clone();
        if self.facts.complete || !self.files.is_empty() {
            self.files.update(&mut self.facts, &self.host, errors);
        } else {
            // Nothing is known: what others knew before stays.
            renew(&mut self.facts.errors, errors);
        }
        log(&before, &self.facts.errors);
        changed.then(|| self.files.saved())
    }

    /// Files that are missing for long enough go. Those that were saved and are not there when the directory is first
    /// read were deleted while the agent was away: they go at once.
    fn clear_missing(&mut self, present: &BTreeSet<String>) -> bool {
        let mut changed = false;
        for name in self.files.absent(present) {
            changed |= self.files.missing(&name);
        }
        let missing: Vec<String> = self.files.all_missing();
        let missing: Vec<&String> = missing.iter().filter(|name| !present.contains(*name)).collect();
        if missing.is_empty() {
            self.missing_since = None;
            return changed;
        }
        let since = *self.missing_since.get_or_insert_with(Instant::now);
        if since.elapsed() >= MISSING || !self.facts.complete {
            self.missing_since = None;
            for name in missing {
                debug!(name, "the file is gone, and its objects with it");
                changed |= self.files.remove(name);
            }
        }
        changed
    }

    /// Gives the facts out. Returns whether they are others than those shown.
    fn show(&self, shown: &mut Facts) -> bool {
        use std::sync::Arc;
        let same = Arc::ptr_eq(&shown.policies, &self.facts.policies)
            && Arc::ptr_eq(&shown.world, &self.facts.world)
            && Arc::ptr_eq(&shown.externals, &self.facts.externals)
            && Arc::ptr_eq(&shown.errors, &self.facts.errors)
            && shown.complete == self.facts.complete;
        if !same {
            *shown = self.facts.clone();
        }
        !same
    }

    fn next_look(&self) -> Duration {
        let pending = self.missing_since.map(|since| MISSING.saturating_sub(since.elapsed()));
        let postponed = self.postponed.then_some(MISSING);
        let usual = if self.watcher.is_some() { RESCAN } else { UNWATCHED };
        [pending, postponed].into_iter().flatten().fold(usual, Duration::min)
    }

    /// Returns whether the directory has just begun to be watched.
    fn watch(&mut self) -> bool {
        let now = std::fs::metadata(&self.folder).map(|folder| (folder.dev(), folder.ino())).ok();
        if self.watcher.as_ref().is_some_and(|watcher| Some(watcher.watched) == now) {
            return false;
        }
        self.watcher = None;
        self.unwatched = None;
        match Watcher::new(&self.folder) {
            Ok(watcher) => {
                self.watcher = Some(watcher);
                true
            }
            // That will be said when it is read.
            Err(_) if now.is_none() => false,
            Err(error) => {
                self.unwatched = Some(format!(
                    "changes of the directory cannot be watched: {error}; it is read every {} ms",
                    UNWATCHED.as_millis()
                ));
                false
            }
        }
    }

    /// Takes an event. Returns whether the directory is to be looked at.
    fn note(&mut self, event: io::Result<EventOwned>, hints: &mut Hints) -> bool {
        let Some(watcher) = &self.watcher else { return true };
        let event = match event {
            Ok(event) => event,
            Err(error) => {
                debug!(%error, "inotify failed and is set up again");
                self.watcher = None;
                return true;
            }
        };
        let lost = EventMask::IGNORED | EventMask::UNMOUNT | EventMask::DELETE_SELF | EventMask::MOVE_SELF;
        if event.mask.contains(EventMask::Q_OVERFLOW) {
            return true;
        }
        if event.wd != watcher.folder {
            let own_name = event.name == watcher.name;
            if own_name {
                self.watcher = None;
            }
            return own_name;
        }
        if event.mask.intersects(lost) {
            self.watcher = None;
        } else if event.mask.intersects(EventMask::CLOSE_WRITE | EventMask::MOVED_TO) {
            let name =
                event.name.as_ref().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            if scan::counts(&name) {
                hints.done.insert(name);
            } else if event.mask.contains(EventMask::MOVED_TO) && name.starts_with("..") {
                // A ConfigMap's new version comes into place as a whole.
                hints.all_done = true;
            }
        }
        true
    }
}

impl Watcher {
    fn new(folder: &Path) -> io::Result<Self> {
        let inotify = Inotify::init()?;
        let mut watches = inotify.watches();
        let mask = WatchMask::CLOSE_WRITE
            | WatchMask::MOVED_TO
            | WatchMask::MOVED_FROM
            | WatchMask::CREATE
            | WatchMask::DELETE
            | WatchMask::ATTRIB
            | WatchMask::DELETE_SELF
            | WatchMask::MOVE_SELF
            | WatchMask::ONLYDIR;
        let descriptor = watches.add(folder, mask)?;
        let metadata = std::fs::metadata(folder)?;
        let name = folder.file_name().map(std::ffi::OsStr::to_owned);
        if let (Some(parent), Some(_)) = (folder.parent(), &name) {
            let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
            let mask = WatchMask::MOVED_TO | WatchMask::MOVED_FROM | WatchMask::CREATE | WatchMask::DELETE;
            // Without it a change of the name is found by the next scan.
            if let Err(error) = watches.add(parent, mask | WatchMask::ONLYDIR) {
                debug!(%error, "the directory above cannot be watched");
            }
        }
        let events = inotify.into_event_stream(vec![0; 16 << 10])?;
        Ok(Self { events, watched: (metadata.dev(), metadata.ino()), folder: descriptor, name })
    }
}

/// The next event; never, where nothing is watched.
async fn next_event(watcher: &mut Option<Watcher>) -> io::Result<EventOwned> {
    match watcher {
        Some(watcher) => {
            watcher.events.next().await.unwrap_or_else(|| Err(io::ErrorKind::UnexpectedEof.into()))
        }
        None => std::future::pending().await,
    }
}

/// The next event that is there already.
fn ready_event(watcher: &mut Option<Watcher>) -> Option<io::Result<EventOwned>> {
    use futures::FutureExt;
    watcher.as_mut()?.events.next().now_or_never().flatten()
}

#[cfg(test)]
mod tests;
