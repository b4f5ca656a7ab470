//! Lines on their way out. Whoever has one leaves it in a queue and goes on; a thread of its own writes, and may wait for a
//! slow disk or pipe as long as it likes. The queues are bounded, denials and audits apart, so that audits push out no
//! denials; a line that finds no room, or cannot be written, is counted, and the next line written is a gap that says so.

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use holdfast_crds::event::{Event, EventKind};
use tracing::{error, warn};

use super::decode::{Clock, gap};
use super::file::{Destination, Target, is_pipe};
use crate::abi::sys::boot_time_ns;
use crate::metrics::Metrics;

/// The name of this place in gaps and metrics.
pub const BUFFER: &str = "output";
/// How much text may wait: of denials and gaps, and of audits, in bytes.
const ROOM: [usize; 2] = [4 << 20, 1 << 20];
/// The least time between two words in the log about lines that cannot be written.
const COMPLAIN_EVERY: Duration = Duration::from_mins(1);

/// The destination cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("--events-file {path}: {source}")]
pub struct SinkError {
    path: PathBuf,
    source: io::Error,
}

struct Line {
    text: String,
    count: u64,
}

#[derive(Default)]
struct Queue {
    lines: [VecDeque<Line>; 2],
    bytes: [usize; 2],
    /// Denials and audits whose lines are lost, and of which no gap tells yet.
    lost: u64,
    /// The thread is at a line.
    busy: bool,
}

impl Queue {
    fn put(&mut self, which: usize, line: Line) -> bool {
        if self.bytes[which] + line.text.len() > ROOM[which] {
            self.lost = self.lost.saturating_add(line.count);
            return false;
        }
        self.bytes[which] += line.text.len();
        self.lines[which].push_back(line);
        true
    }

    fn take(&mut self) -> Option<Line> {
        let which = usize::from(self.lines[0].is_empty());
        let line = self.lines[which].pop_front()?;
        self.bytes[which] -= line.text.len();
        Some(line)
    }

    fn is_empty(&self) -> bool {
        self.lines.iter().all(VecDeque::is_empty) && !self.busy && self.lost == 0
    }
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    /// There is something to write, or all is written.
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes lines; clones leave them in the same queue.
#[derive(Clone)]
pub struct Sink {
    shared: Arc<Shared>,
    metrics: Metrics,
}

impl Sink {
    /// Opens a destination and starts the thread that writes to it.
    ///
    /// # Errors
    ///
    /// When it cannot be opened; a named pipe is opened once somebody reads it.
    pub fn open(destination: Destination, node: String, metrics: Metrics) -> Result<Self, SinkError> {
        let path = match &destination {
            Destination::Stdout => PathBuf::from("-"),
            Destination::File { path, .. } => path.clone(),
        };
        let target = if is_pipe(&path) {
            None
        } else {
            let opened = Target::open(&destination);
            Some(opened.map_err(|source| SinkError { path: path.clone(), source })?)
        };
        let shared = Arc::new(Shared::default());
        let mut writer =
            Writer { shared: Arc::clone(&shared), node, metrics: metrics.clone(), complained: None };
        thread::Builder::new()
            .name("events".to_owned())
            .spawn(move || match target.map_or_else(|| Target::open(&destination), Ok) {
                Ok(target) => writer.run(target),
                Err(error) => error!(%error, "the file of events cannot be opened; events are lost"),
            })
            .map_err(|source| SinkError { path, source })?;
        Ok(Self { shared, metrics })
    }

    /// Leaves an event to be written. Never waits.
    pub fn put(&self, event: &Event) {
        let mut text = match serde_json::to_string(event) {
            Ok(text) => text,
            Err(error) => {
                // It has only strings and numbers.
                error!(%error, "an event cannot be written as JSON");
                return;
            }
        };
        text.push('\n');
        let lane = usize::from(event.kind == EventKind::Audited);
        let count = event.count + event.gap.as_ref().map_or(0, |gap| gap.lost);
        let fits = self.shared.lock().put(lane, Line { text, count });
        if !fits {
            self.metrics.events_lost(BUFFER, count);
        }
        self.shared.changed.notify_all();
    }

    /// Waits until everything is written, but no longer than that.
    pub fn flush(&self, most: Duration) {
        let until = Instant::now() + most;
        let mut queue = self.shared.lock();
        while !queue.is_empty() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            queue = self.shared.changed.wait_timeout(queue, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

struct Writer {
    shared: Arc<Shared>,
    node: String,
    metrics: Metrics,
    complained: Option<Instant>,
}

impl Writer {
    fn run(&mut self, mut target: Target) {
        loop {
            let (lost, line) = self.next();
            if lost > 0 {
                let event = gap(Clock::now().show(boot_time_ns()), &self.node, BUFFER, lost);
                let text = serde_json::to_string(&event).unwrap_or_default() + "\n";
                match target.write(text.as_bytes()) {
                    Ok(()) => self.metrics.events("gap", 1),
                    Err(error) => {
                        // Counted when it was lost.
                        self.complain(&error);
                        self.shared.lock().lost += lost;
                    }
                }
            }
            if let Some(line) = line
                && let Err(error) = target.write(line.text.as_bytes())
            {
                self.complain(&error);
                self.metrics.events_lost(BUFFER, line.count);
                let mut queue = self.shared.lock();
                queue.lost = queue.lost.saturating_add(line.count);
            }
            self.shared.lock().busy = false;
            self.shared.changed.notify_all();
        }
    }

    /// Waits for a line. What was lost is said with the next line, or when there was room again for a while.
    fn next(&self) -> (u64, Option<Line>) {
        let mut queue = self.shared.lock();
        loop {
            if let Some(line) = queue.take() {
                queue.busy = true;
                return (std::mem::take(&mut queue.lost), Some(line));
            }
            if queue.lost == 0 {
                queue = self.shared.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let (back, timeout) = self
                .shared
                .changed
                .wait_timeout(queue, Duration::from_secs(1))
                .unwrap_or_else(PoisonError::into_inner);
            queue = back;
            if timeout.timed_out() && queue.lost > 0 && queue.lines.iter().all(VecDeque::is_empty) {
                queue.busy = true;
                return (std::mem::take(&mut queue.lost), None);
            }
        }
    }

    fn complain(&mut self, error: &io::Error) {
        if self.complained.is_none_or(|last| last.elapsed() >= COMPLAIN_EVERY) {
            warn!(%error, "events cannot be written and are lost; they are counted, and the file will say how many");
            self.complained = Some(Instant::now());
        }
    }
}

#[cfg(test)]
mod tests;
