//! What the kernel tells, read as the agent reads it.

use std::{fs, os::unix::fs::MetadataExt, time::Instant};

use anyhow::{Context, Result, ensure};
use aya::maps::{MapData, RingBuf};
use holdfast_agent::{
    abi::event::{LOST_AUDITS, LOST_DENIALS, Record},
    cgroups::Tree,
    events::{
        book::{Book, Lesson},
        decode::{self, Clock},
        tally::{Buffer, Tally},
    },
    loader,
    maps::events::EventMaps,
};
use holdfast_crds::event::Event;

use crate::scenario::rig::Rig;

/// The ring buffers of the rig, read as the agent reads them.
pub(in crate::scenario) struct Watch {
    rings: [(Buffer, RingBuf<MapData>); 2],
    maps: EventMaps,
    tally: Tally,
    book: Book,
}

impl Watch {
    /// From now on.
    pub(in crate::scenario) fn new(rig: &Rig) -> Result<Self> {
        let maps = EventMaps::open(&rig.places.pins())?;
        let rings = [
            (Buffer::Denials, loader::ring(&rig.places, Buffer::Denials.name())?),
            (Buffer::Audits, loader::ring(&rig.places, Buffer::Audits.name())?),
        ];
        let mut watch = Self { rings, maps, tally: Tally::default(), book: Book::default() };
        watch.take(rig, true)?;
        Ok(watch)
    }

    /// What happened since; with `all` also what has no record.
    pub(super) fn take(&mut self, rig: &Rig, all: bool) -> Result<Vec<Event>> {
        let cgroups = Tree::walk(rig.node.top.root())?.all();
        let lesson = Lesson {
            meaning: rig.engine.meaning(),
            placements: rig.engine.placements(),
            policies: rig.engine.in_force(),
            mechanisms: rig.engine.mechanisms(),
            cgroups: &cgroups,
        };
        self.book.learn(lesson, Instant::now());
        let mut events = Vec::new();
        for (buffer, ring) in &mut self.rings {
            while let Some(item) = ring.next() {
                let record = Record::read(&item).context("a record is shorter than it says")?;
                let lost = self.tally.lost(*buffer, record.event.lost);
                if lost > 0 {
                    events.push(decode::gap(String::new(), "node", buffer.name(), lost));
                }
                let suppressed = self.tally.suppressed(&record.event.key, record.event.suppressed);
                events.push(decode::event(&record, &self.book, Clock::now(), "node", suppressed));
            }
        }
        if all {
            for (buffer, element) in [(Buffer::Denials, LOST_DENIALS), (Buffer::Audits, LOST_AUDITS)] {
                let lost = self.tally.lost(buffer, self.maps.lost(element)?);
                if lost > 0 {
                    events.push(decode::gap(String::new(), "node", buffer.name(), lost));
                }
            }
            for (key, bucket) in self.maps.buckets()? {
                let suppressed = self.tally.suppressed(&key, bucket.suppressed);
                if suppressed > 0 {
                    events.push(decode::rest(&key, &self.book, String::new(), "node", suppressed));
                }
            }
        }
        Ok(events)
    }

    /// The first event by this rule that was told since; waits for it.
    pub(in crate::scenario) fn by(&mut self, rig: &mut Rig, policy: &str, rule: &str) -> Result<Event> {
        let mut found = None;
        let mut others = Vec::new();
        rig.until(&format!("an event by {policy} {rule}"), |rig| {
            for event in self.take(rig, false)? {
                if event.policy.as_deref() == Some(policy) && event.rule.as_deref() == Some(rule) {
                    found.get_or_insert(event);
                } else {
                    others.push(event);
                }
            }
            Ok(found.is_some())
        })?;
        found.with_context(|| format!("only {others:?}"))
    }
}

/// That an event says of a place who it is.
pub(in crate::scenario) fn is_of(rig: &Rig, event: &Event, place: &str) -> Result<()> {
    let pod = rig.facts.pods.iter().find(|pod| pod.name == place).context("no such pod")?;
    let said = event.pod.as_ref().map(|pod| (pod.name.as_str(), pod.uid.as_str()));
    ensure!(
        event.namespace.as_deref() == Some(&pod.namespace)
            && said == Some((place, pod.uid.as_str()))
            && event.container.as_deref() == Some("main")
            && event.workload.is_some()
            && event.node == "node",
        "{event:?}"
    );
    let cgroup = event.process.as_ref().and_then(|process| process.cgroup.clone());
    ensure!(cgroup.as_ref() == Some(&rig.node.place(place)?.cgroup), "{event:?}");
    Ok(())
}

/// Whether this process is in the first PID namespace, whose numbers the kernel tells.
fn in_first_pid_namespace() -> bool {
    /// `PROC_PID_INIT_INO` in `include/linux/proc_ns.h`
    const FIRST: u64 = 0xefff_fffc;
    fs::metadata("/proc/self/ns/pid").is_ok_and(|ns| ns.ino() == FIRST)
}

/// That an event names the process that works in a place.
pub(super) fn is_worker(rig: &Rig, event: &Event, place: &str) -> Result<()> {
    let process = event.process.as_ref().context("no process")?;
    let id = rig.inside(place)?.id();
    let own = fs::read_link(format!("/proc/{id}/exe"))?;
    ensure!(!in_first_pid_namespace() || process.pid == Some(id), "{id} is not {process:?}");
    ensure!(
        process.executable.as_deref() == own.to_str()
            && process.arguments.last().map(String::as_str) == Some("work")
            && process.pid.is_some_and(|pid| pid > 0)
            && process.parent.as_ref().is_some_and(|parent| parent.pid > 0)
            && process.truncated.is_empty(),
        "{} is not {process:?}",
        own.display()
    );
    Ok(())
}
