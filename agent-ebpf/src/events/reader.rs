//! Takes records out of the ring buffers as they come, and makes sure that everything that was counted is told.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aya::maps::{MapData, RingBuf};
use holdfast_crds::event::{Event, EventKind};
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;
use tracing::warn;

use super::announce::News;
use super::book::{Book, Rule};
use super::decode::{self, Clock};
use super::process;
use super::sink::Sink;
use super::tally::{Buffer, Tally};
use crate::abi::event::{LOST_AUDITS, LOST_DENIALS, Record, TOLD_AUDITS, TOLD_DENIALS};
use crate::abi::sys::boot_time_ns;
use crate::maps::MapError;
use crate::maps::events::EventMaps;
use crate::metrics::Metrics;

/// How often what was suppressed or lost is told where no record came to tell it.
const REST_EVERY: Duration = Duration::from_secs(5);
/// A bucket that nothing took from for this long, and whose workload is gone, is forgotten; in nanoseconds.
const FORGET_NS: u64 = 60_000_000_000;
/// Records of one ring buffer taken in a row.
const BATCH: usize = 128;

/// Why events cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReaderError {
    /// A map.
    #[error(transparent)]
    Map(#[from] MapError),
    /// A ring buffer cannot be waited for.
    #[error("the ring buffer {buffer}: {source}")]
    Poll {
        /// Which.
        buffer: &'static str,
        /// Why.
        source: io::Error,
    },
}

type Ring = AsyncFd<RingBuf<MapData>>;

/// What a reader works with.
pub struct Parts {
    /// Ring buffer of denials.
    pub denials: RingBuf<MapData>,
    /// Ring buffer of audits.
    pub audits: RingBuf<MapData>,
    /// The maps beside them.
    pub maps: EventMaps,
    /// What numbers mean.
    pub book: Arc<Mutex<Book>>,
    /// Where lines go; `None` = nowhere.
    pub sink: Option<Sink>,
    /// Where events go that are to be announced; `None` = nowhere. What finds no room there is dropped.
    pub announce: Option<mpsc::Sender<News>>,
    /// Counts events.
    pub metrics: Metrics,
    /// This node's name.
    pub node: String,
}

/// Reads until it is told to stop.
pub struct Reader {
    denials: Ring,
    audits: Ring,
    maps: EventMaps,
    tally: Tally,
    book: Arc<Mutex<Book>>,
    sink: Option<Sink>,
    announce: Option<mpsc::Sender<News>>,
    metrics: Metrics,
    node: String,
    proc: PathBuf,
    complained: bool,
}

impl Reader {
    /// Goes on where an earlier agent stopped.
    ///
    /// # Errors
    ///
    /// When the maps cannot be read, or no runtime is running.
    pub fn new(parts: Parts) -> Result<Self, ReaderError> {
        let Parts { denials, audits, maps, book, sink, announce, metrics, node } = parts;
        let tally = Tally::new(maps.told()?, maps.lost(TOLD_DENIALS)?, maps.lost(TOLD_AUDITS)?);
        let poll = |buffer: Buffer| move |source| ReaderError::Poll { buffer: buffer.name(), source };
        Ok(Self {
            denials: crate::abi::sys::pollable(denials).map_err(poll(Buffer::Denials))?,
            audits: crate::abi::sys::pollable(audits).map_err(poll(Buffer::Audits))?,
            maps,
            tally,
            book,
            sink,
            announce,
            metrics,
            node,
            proc: PathBuf::from("/proc"),
            complained: false,
        })
    }

    /// Reads until `shutdown`, and then what has come by then.
    ///
    /// # Errors
    ///
    /// When a ring buffer cannot be waited for.
    pub async fn run(mut self, shutdown: impl Future<Output = ()>) -> Result<(), ReaderError> {
        let mut shutdown = std::pin::pin!(shutdown);
        let mut rest = tokio::time::interval(REST_EVERY);
        rest.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut stopping = false;
        while !stopping {
            let mut due = false;
            tokio::select! {
                biased;
                () = &mut shutdown => stopping = true,
                ready = self.denials.readable_mut() => {
                    let poll = |source| ReaderError::Poll { buffer: Buffer::Denials.name(), source };
                    ready.map_err(poll)?.clear_ready();
                }
                ready = self.audits.readable_mut() => {
                    let poll = |source| ReaderError::Poll { buffer: Buffer::Audits.name(), source };
                    ready.map_err(poll)?.clear_ready();
                }
                _ = rest.tick() => due = true,
            }
            self.drain().await;
            if due || stopping {
                self.tell_rest(stopping);
            }
        }
        if let Some(sink) = &self.sink {
            sink.flush(Duration::from_secs(1));
        }
        Ok(())
    }

    /// Empties both ring buffers: denials before each batch of audits.
    async fn drain(&mut self) {
        loop {
            while self.take(Buffer::Denials) == BATCH {
                tokio::task::yield_now().await;
            }
            if self.take(Buffer::Audits) < BATCH {
                return;
            }
            tokio::task::yield_now().await;
        }
    }

    /// Takes up to a batch of records; returns how many there were.
    fn take(&mut self, buffer: Buffer) -> usize {
        let mut records = Vec::new();
        let ring = match buffer {
            Buffer::Denials => self.denials.get_mut(),
            Buffer::Audits => self.audits.get_mut(),
        };
        let mut taken = 0;
        while taken < BATCH
            && let Some(item) = ring.next()
        {
            taken += 1;
            records.extend(Record::read(&item));
        }
        if taken == 0 {
            return 0;
        }
        let clock = Clock::now();
        let book = Arc::clone(&self.book);
        for record in records {
            self.gap(buffer, record.event.lost);
            let key = record.event.key;
            let suppressed = self.suppressed(&key, record.event.suppressed);
            let (mut event, rule) = {
                let book = book.lock().unwrap_or_else(PoisonError::into_inner);
                (decode::event(&record, &book, clock, &self.node, suppressed), book.rule(&key))
            };
            complete(&mut event, &record, &self.proc);
            self.tell(event, rule);
        }
        taken
    }

    fn suppressed(&mut self, key: &crate::abi::CounterKey, total: u64) -> u64 {
        let new = self.tally.suppressed(key, total);
        if new > 0
            && let Err(error) = self.maps.set_told(key, total)
        {
            self.complain(&error);
        }
        new
    }

    /// Tells what a ring buffer has lost, where that is news.
    fn gap(&mut self, buffer: Buffer, total: u64) {
        let lost = self.tally.lost(buffer, total);
        if lost == 0 {
            return;
        }
        let told = if buffer == Buffer::Denials { TOLD_DENIALS } else { TOLD_AUDITS };
        if let Err(error) = self.maps.set_lost(told, total) {
            self.complain(&error);
        }
        self.metrics.events_lost(buffer.name(), lost);
        let event = decode::gap(Clock::now().show(boot_time_ns()), &self.node, buffer.name(), lost);
        self.tell(event, None);
    }

    /// Tells what no record told: nothing came after it. At the end everything; else only what has rested.
    fn tell_rest(&mut self, all: bool) {
        for (buffer, element) in [(Buffer::Denials, LOST_DENIALS), (Buffer::Audits, LOST_AUDITS)] {
            match self.maps.lost(element) {
                Ok(total) => self.gap(buffer, total),
                Err(error) => self.complain(&error),
            }
        }
        let buckets = match self.maps.buckets() {
            Ok(buckets) => buckets,
            Err(error) => return self.complain(&error),
        };
        let now = boot_time_ns();
        let time = Clock::now().show(now);
        let book = Arc::clone(&self.book);
        for (key, bucket) in buckets {
            if bucket.full_ns > now && !all {
                continue;
            }
            let suppressed = self.suppressed(&key, bucket.suppressed);
            let live = {
                let book = book.lock().unwrap_or_else(PoisonError::into_inner);
                if suppressed > 0 {
                    let event = decode::rest(&key, &book, time.clone(), &self.node, suppressed);
                    let rule = book.rule(&key);
                    drop(book);
                    self.tell(event, rule);
                    true
                } else {
                    book.is_live(&key)
                }
            };
            if !live && bucket.full_ns.saturating_add(FORGET_NS) < now {
                self.tally.forget(&key);
                if let Err(error) = self.maps.forget(&key) {
                    self.complain(&error);
                }
            }
        }
    }

    fn tell(&mut self, event: Event, rule: Option<Rule>) {
        let kind = match event.kind {
            EventKind::Denied => "denied",
            EventKind::Audited => "audited",
            EventKind::Gap => "gap",
        };
        self.metrics.events(kind, 1);
        if let Some(sink) = &self.sink {
            sink.put(&event);
        }
        if event.kind != EventKind::Gap
            && let Some(announce) = &self.announce
        {
            let policy = rule.and_then(|rule| Some((rule.policy?, rule.policy_uid)));
            // Kubernetes Events are a summary: whoever is behind with them misses some.
            drop(announce.try_send(News { event, policy }));
        }
    }

    fn complain(&mut self, error: &MapError) {
        if !self.complained {
            warn!(%error, "the maps of events cannot be used; counts of suppressed events may be told twice");
            self.complained = true;
        }
    }
}

/// Arguments that the kernel could not read, as they were not in memory, are asked of the process if it lives.
fn complete(event: &mut Event, record: &Record, proc: &Path) {
    let (Some(process), Some(task)) = (&mut event.process, &record.task) else { return };
    if process.arguments.is_empty()
        && let Some((arguments, cut)) = process::arguments_of(proc, task)
    {
        process.arguments = arguments;
        if cut {
            process.truncated.push(holdfast_crds::event::Truncated::Arguments);
        }
    }
}
