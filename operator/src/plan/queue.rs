//! Which subject is to be looked at when: one write at a time for each, not too often, and later after failures.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use super::Subject;

/// How a request failed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Failure {
    /// The object is gone, or is another one, or was changed: what is wanted has to be seen anew.
    Conflict,
    /// The API server will not have it, now or later: it waits for the object's next change.
    Invalid,
    /// It may well succeed later.
    Retry,
}

/// The wait after the first failure.
const FIRST_WAIT: Duration = Duration::from_millis(500);
/// The longest wait.
const LONGEST_WAIT: Duration = Duration::from_mins(1);

/// How long to wait after `failures` earlier failures. `jitter`, between 0 and 1, spreads it over its upper half.
#[must_use]
pub(super) fn backoff(failures: u32, jitter: f64) -> Duration {
    let full = FIRST_WAIT.saturating_mul(1 << failures.min(10)).min(LONGEST_WAIT);
    full.mul_f64(0.5 + 0.5 * jitter.clamp(0.0, 1.0))
}

#[derive(Debug, Default)]
struct Item {
    /// When it is to be looked at next.
    due: Option<Instant>,
    /// Whether a write is under way.
    in_flight: bool,
    /// When a write last succeeded.
    written: Option<Instant>,
    failures: u32,
    /// After a failure: not before this.
    not_before: Option<Instant>,
}

/// The queue.
#[derive(Debug, Default)]
pub(super) struct Queue {
    items: HashMap<Subject, Item>,
    /// The subjects that are due some time and of which no write is under way.
    order: BTreeSet<(Instant, Subject)>,
    in_flight: usize,
}

impl Queue {
    /// Changes an item, and keeps the order with it.
    fn change(&mut self, subject: &Subject, change: impl FnOnce(&mut Item)) {
        let Some(item) = self.items.get_mut(subject) else { return };
        if let Some(due) = item.due.filter(|_| !item.in_flight) {
            self.order.remove(&(due, subject.clone()));
        }
        self.in_flight -= usize::from(item.in_flight);
        change(item);
        self.in_flight += usize::from(item.in_flight);
        if let Some(due) = item.due.filter(|_| !item.in_flight) {
            self.order.insert((due, subject.clone()));
        }
    }

    /// Asks for a subject to be looked at: now if `urgent`, else not within `interval` of its last write.
    pub(super) fn ask(&mut self, subject: &Subject, urgent: bool, interval: Duration, now: Instant) {
        self.items.entry(subject.clone()).or_default();
        self.change(subject, |item| {
            let mut at = match item.written {
                Some(written) if !urgent => now.max(written + interval),
                _ => now,
            };
            if let Some(not_before) = item.not_before {
                at = at.max(not_before);
            }
            item.due = Some(item.due.map_or(at, |due| due.min(at)));
        });
    }

    /// Asks for a subject to be looked at after a while, where that is not asked for already.
    pub(super) fn ask_later(&mut self, subject: &Subject, after: Duration, now: Instant) {
        self.items.entry(subject.clone()).or_default();
        self.change(subject, |item| {
            item.due.get_or_insert(now + after);
        });
    }

    /// Nothing is to be written of a subject for now.
    pub(super) fn settle(&mut self, subject: &Subject) {
        self.change(subject, |item| item.due = None);
    }

    /// A subject is gone.
    pub(super) fn forget(&mut self, subject: &Subject) {
        self.change(subject, |item| *item = Item::default());
        self.items.remove(subject);
    }

    /// A subject that is due and of which no write is under way.
    pub(super) fn next(&mut self, now: Instant) -> Option<Subject> {
        let (_, subject) = self.order.first().filter(|(due, _)| *due <= now)?.clone();
        self.settle(&subject);
        Some(subject)
    }

    /// A write of a subject begins.
    pub(super) fn begin(&mut self, subject: &Subject) {
        self.change(subject, |item| item.in_flight = true);
    }

    /// A write of a subject succeeded.
    pub(super) fn succeeded(&mut self, subject: &Subject, now: Instant) {
        self.change(subject, |item| *item = Item { due: item.due, written: Some(now), ..Item::default() });
    }

    /// A write of a subject failed.
    pub(super) fn failed(&mut self, subject: &Subject, failure: Failure, now: Instant, jitter: f64) {
        self.change(subject, |item| {
            item.in_flight = false;
            match failure {
                Failure::Conflict | Failure::Invalid => item.failures = 0,
                Failure::Retry => {
                    let at = now + backoff(item.failures, jitter);
                    item.failures += 1;
                    item.not_before = Some(at);
                    item.due = Some(at);
                }
            }
        });
    }

    /// When the next subject is due that is not due yet.
    pub(super) fn wake(&self, now: Instant) -> Option<Instant> {
        self.order.iter().map(|(due, _)| *due).find(|due| *due > now)
    }

    /// Whether nothing is asked for or under way.
    pub(super) fn is_empty(&self) -> bool {
        self.order.is_empty() && self.in_flight == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject(name: &str) -> Subject {
        Subject::NodeAgent(name.to_owned())
    }

    #[test]
    fn a_second_write_waits_for_the_interval_unless_it_is_urgent() {
        let mut queue = Queue::default();
        let start = Instant::now();
        let ten = Duration::from_secs(10);
        queue.ask(&subject("a"), false, ten, start);
        assert_eq!(queue.next(start), Some(subject("a")));
        queue.begin(&subject("a"));
        queue.ask(&subject("a"), true, ten, start);
        assert_eq!(queue.next(start), None, "a write is under way");
        queue.succeeded(&subject("a"), start);
        assert_eq!(queue.next(start), Some(subject("a")), "asked for meanwhile");
        queue.ask(&subject("a"), false, ten, start + Duration::from_secs(1));
        assert_eq!(queue.next(start + Duration::from_secs(9)), None);
        assert_eq!(queue.wake(start), Some(start + ten));
        queue.ask(&subject("a"), true, ten, start + Duration::from_secs(2));
        assert_eq!(queue.next(start + Duration::from_secs(2)), Some(subject("a")));
        assert!(queue.is_empty());
    }

    #[test]
    fn failures_wait_longer_and_longer_even_when_urgent() {
        let mut queue = Queue::default();
        let mut now = Instant::now();
        queue.ask(&subject("a"), true, Duration::ZERO, now);
        let mut waits = Vec::new();
        for _ in 0..10 {
            assert_eq!(queue.next(now), Some(subject("a")));
            queue.begin(&subject("a"));
            queue.failed(&subject("a"), Failure::Retry, now, 1.0);
            queue.ask(&subject("a"), true, Duration::ZERO, now);
            let at = queue.wake(now).unwrap();
            waits.push(at - now);
            now = at;
        }
        assert!(waits.windows(2).all(|pair| pair[0] <= pair[1]), "{waits:?}");
        assert_eq!(waits[0], FIRST_WAIT);
        assert_eq!(waits[9], LONGEST_WAIT);
        assert!(backoff(0, 0.0) >= FIRST_WAIT / 2);
    }
}
