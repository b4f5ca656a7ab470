//! Kubernetes Events on policies: that `Enforced` or `Degraded` flipped, for whoever looks with `kubectl describe`.
//!
//! [`Announcer`] decides what is told when, without a client. A flip is told once it has lasted, so that a change of a
//! policy, which takes a moment to be everywhere, is no news; what flips back before is dropped. A policy's Events, and
//! those of all policies together, are bounded; what is not told in time is told later, as it is then.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::{Duration, Instant};

use holdfast_crds::conditions;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::runtime::events::{Event, EventType};

use crate::reconcile::Pace;

/// Who the Events are from.
pub const CONTROLLER: &str = "holdfast.dev/operator";
/// The conditions whose flips are told.
const TOLD: [&str; 2] = ["Enforced", "Degraded"];
/// A flip that lasts so long is told.
const SETTLED: Duration = Duration::from_secs(2);
/// At most so many Events of one policy are written within [`WINDOW`].
pub const PER_POLICY: usize = 4;
/// See [`PER_POLICY`].
pub const WINDOW: Duration = Duration::from_mins(1);
/// At most so many Events are written in a second.
const PER_SECOND: u32 = 10;
/// What the API takes of a note, in bytes.
const NOTE: usize = 1024;

/// A flip that is to be told.
#[derive(Clone, Debug, PartialEq)]
pub struct Announcement {
    /// The policy.
    pub object: ObjectReference,
    /// The condition as it is now.
    pub condition: Condition,
}

/// A flip that was not told yet.
#[derive(Debug)]
struct Waiting {
    /// State and reason that were told last, or held when this began to wait.
    before: (String, String),
    condition: Condition,
    since: Instant,
}

#[derive(Debug)]
struct Policy {
    object: ObjectReference,
    /// By type.
    waiting: BTreeMap<String, Waiting>,
    /// When the last Events were told, oldest first.
    told: VecDeque<Instant>,
}

impl Policy {
    /// The next flip, and when it may be told.
    fn next(&self) -> Option<(Instant, &str)> {
        let (kind, waiting) = self.waiting.iter().min_by_key(|(_, waiting)| waiting.since)?;
        let free = self.told.front().filter(|_| self.told.len() >= PER_POLICY).map(|at| *at + WINDOW);
        let settled = waiting.since + SETTLED;
        Some((free.map_or(settled, |free| free.max(settled)), kind))
    }
}

/// What is told of policies, and when.
#[derive(Debug)]
pub struct Announcer {
    /// By UID; those that wait for something, or of which something was told lately.
    policies: HashMap<String, Policy>,
    pace: Pace,
}

/// A condition's status, as far as a change of it is told: that nobody knows whether a policy is degraded, `Enforced` says.
fn state(condition: &Condition) -> &str {
    match condition.type_.as_str() {
        "Degraded" if condition.status != "True" => "False",
        _ => &condition.status,
    }
}

/// What an Event tells of a condition: flips that end where they began in both are no news.
fn told(condition: &Condition) -> (String, String) {
    let reason =
        if condition.type_ == "Degraded" && condition.status != "True" { "" } else { &condition.reason };
    (state(condition).to_owned(), reason.to_owned())
}

impl Announcer {
    /// An announcer that has told nothing yet.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self { policies: HashMap::new(), pace: Pace::new(PER_SECOND, now) }
    }

    /// Takes in that the conditions of a policy were written.
    pub fn written(
        &mut self,
        object: &ObjectReference,
        earlier: &[Condition],
        now: &[Condition],
        at: Instant,
    ) {
        let uid = object.uid.clone().unwrap_or_default();
        for kind in TOLD {
            let find = |all| conditions::get(all, kind);
            let (Some(earlier), Some(condition)) = (find(earlier), find(now)) else { continue };
            let known = self.policies.get(&uid).and_then(|policy| policy.waiting.get(kind));
            let flipped = match known {
                Some(waiting) => waiting.before != told(condition),
                None => state(earlier) != state(condition),
            };
            let before = known.map_or_else(|| told(earlier), |waiting| waiting.before.clone());
            let since = known.filter(|waiting| state(&waiting.condition) == state(condition));
            let since = since.map_or(at, |waiting| waiting.since);
            if flipped {
                let policy = self.policies.entry(uid.clone()).or_insert_with(|| Policy {
                    object: object.clone(),
                    waiting: BTreeMap::new(),
                    told: VecDeque::new(),
                });
                let condition = condition.clone();
                policy.waiting.insert(kind.to_owned(), Waiting { before, condition, since });
            } else if let Some(policy) = self.policies.get_mut(&uid) {
                policy.waiting.remove(kind);
            }
        }
        self.policies.retain(|_, policy| {
            !policy.waiting.is_empty() || policy.told.back().is_some_and(|told| at < *told + WINDOW)
        });
    }

    /// When something is to be told; `None` if nothing waits.
    #[must_use]
    pub fn wake(&self) -> Option<Instant> {
        let first = self.policies.values().filter_map(Policy::next).map(|(at, _)| at).min()?;
        Some(first.max(self.pace.next()))
    }

    /// What is to be told now; it counts as told.
    pub fn next(&mut self, now: Instant) -> Option<Announcement> {
        let waiting = self.policies.values_mut().filter(|policy| !policy.waiting.is_empty());
        let policy = waiting.min_by_key(|policy| policy.next().map(|(at, _)| at))?;
        let kind = policy.next().filter(|(at, _)| *at <= now)?.1.to_owned();
        if !self.pace.take(now) {
            return None;
        }
        let condition = policy.waiting.remove(&kind)?.condition;
        policy.told.push_back(now);
        if policy.told.len() > PER_POLICY {
            policy.told.pop_front();
        }
        Some(Announcement { object: policy.object.clone(), condition })
    }
}

impl Announcement {
    /// As an Event. Its reason says what flipped and how, its action why: Events that agree in both are one series.
    #[must_use]
    pub fn event(&self) -> Event {
        let Condition { type_, status, reason, message, .. } = &self.condition;
        let holds = status == "True";
        // Nobody need look where that was asked for, or where nothing runs.
        let asked = status == "Unknown" || reason == "AuditMode";
        let bad = if type_ == "Enforced" { !holds && !asked } else { holds };
        let mut note = format!("{reason}: {message}");
        note.truncate(note.floor_char_boundary(NOTE));
        Event {
            type_: if bad { EventType::Warning } else { EventType::Normal },
            reason: match status.as_str() {
                "True" => type_.clone(),
                "False" => format!("Not{type_}"),
                _ => format!("{type_}Unknown"),
            },
            note: Some(note),
            action: reason.clone(),
            secondary: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conditions(enforced: &str, degraded: &str) -> Vec<Condition> {
        let condition = |kind: &str, status: &str| {
            let json = serde_json::json!({"type": kind, "status": status, "reason": "Why", "message": "é".repeat(600),
                "lastTransitionTime": "2026-01-01T00:00:00Z"});
            serde_json::from_value(json).unwrap()
        };
        vec![condition("Enforced", enforced), condition("Degraded", degraded)]
    }

    fn object(uid: usize) -> ObjectReference {
        ObjectReference { uid: Some(uid.to_string()), ..ObjectReference::default() }
    }

    /// What is told until nothing waits, and after how many seconds.
    fn drain(announcer: &mut Announcer, start: Instant) -> Vec<(u64, String)> {
        let mut told = Vec::new();
        while let Some(at) = announcer.wake() {
            let announcement = announcer.next(at).expect("what is due is told");
            told.push((at.duration_since(start).as_secs(), announcement.event().reason));
        }
        told
    }

    #[test]
    fn a_flip_that_lasts_is_told_once_and_one_that_does_not_is_not() {
        let start = Instant::now();
        let mut announcer = Announcer::new(start);
        // The first conditions of a policy are no flip.
        announcer.written(&object(1), &[], &conditions("False", "Unknown"), start);
        assert_eq!(announcer.wake(), None);
        // A change of the policy: away and back.
        let (good, bad) = (conditions("True", "False"), conditions("False", "Unknown"));
        announcer.written(&object(1), &good, &bad, start);
        assert!(announcer.next(start + SETTLED / 2).is_none());
        announcer.written(&object(1), &bad, &good, start + SETTLED / 2);
        assert_eq!(announcer.wake(), None);
        // It stays away; what is written meanwhile without a flip changes nothing.
        announcer.written(&object(1), &good, &bad, start);
        announcer.written(&object(1), &bad, &bad, start + Duration::from_secs(1));
        assert_eq!(drain(&mut announcer, start), [(2, "NotEnforced".to_owned())]);
        announcer.written(&object(1), &bad, &conditions("False", "True"), start);
        announcer.written(&object(1), &conditions("False", "True"), &good, start + Duration::from_secs(9));
        assert_eq!(drain(&mut announcer, start), [(11, "Enforced".to_owned())], "never told to be degraded");
        // Back to where it was before that was told, but for another reason.
        announcer.written(&object(1), &good, &bad, start);
        announcer.written(&object(1), &bad, &good, start);
        assert_eq!(announcer.wake(), None);
        announcer.written(&object(1), &bad, &good, start);
        let mut other = bad.clone();
        other[0].reason = "Another".to_owned();
        announcer.written(&object(1), &good, &other, start);
        let said = announcer.next(start + WINDOW).unwrap().event();
        assert_eq!((said.reason.as_str(), said.action.as_str()), ("NotEnforced", "Another"));
    }

    #[test]
    fn a_policy_that_flaps_is_told_of_a_few_times_a_minute_and_last_as_it_is() {
        let start = Instant::now();
        let mut announcer = Announcer::new(start);
        let (good, bad) = (conditions("True", "False"), conditions("False", "True"));
        let mut told = Vec::new();
        for second in 0..601 {
            let at = start + Duration::from_secs(second);
            if second % 3 == 0 {
                let (before, now) = if second % 2 == 0 { (&good, &bad) } else { (&bad, &good) };
                announcer.written(&object(1), before, now, at);
            }
            told.extend(std::iter::from_fn(|| announcer.next(at)).map(|one| (at, one.event().reason)));
        }
        for (at, _) in &told {
            let within = told.iter().filter(|(other, _)| other >= at && *other < *at + WINDOW).count();
            assert!(within <= PER_POLICY, "{within} in a minute");
        }
        assert!(told.len() > 20, "{told:?}");
        told.extend(std::iter::from_fn(|| {
            let at = announcer.wake()?;
            announcer.next(at).map(|one| (at, one.event().reason))
        }));
        let last =
            |kind: &str| told.iter().rev().find(|(_, reason)| reason.ends_with(kind)).unwrap().1.clone();
        assert_eq!([last("Enforced"), last("Degraded")], ["NotEnforced", "Degraded"], "how it ended");
    }

    #[test]
    fn a_thousand_policies_that_flip_at_once_are_told_of_at_a_bounded_pace() {
        let start = Instant::now();
        let mut announcer = Announcer::new(start);
        for uid in 0..1000 {
            announcer.written(
                &object(uid),
                &conditions("True", "False"),
                &conditions("False", "False"),
                start,
            );
        }
        let told = drain(&mut announcer, start);
        assert_eq!(told.len(), 1000);
        assert!((95..=110).contains(&told.last().unwrap().0), "{:?}", told.last());
        // And then forgotten.
        announcer.written(&object(0), &[], &[], start + 4 * WINDOW);
        assert!(announcer.policies.is_empty());
    }

    #[test]
    fn an_event_says_what_flipped_and_why_and_is_no_longer_than_the_api_takes() {
        let event = |enforced: &str, at: usize| {
            let condition = conditions(enforced, "True").swap_remove(at);
            Announcement { object: object(1), condition }.event()
        };
        assert_eq!(event("True", 0).type_, EventType::Normal);
        assert_eq!(event("Unknown", 0).type_, EventType::Normal);
        assert_eq!(event("Unknown", 0).reason, "EnforcedUnknown");
        assert_eq!(event("False", 0).type_, EventType::Warning);
        assert_eq!(event("True", 1).type_, EventType::Warning);
        let note = event("False", 0).note.unwrap();
        assert!(note.starts_with("Why: é") && note.len() <= NOTE, "{} bytes", note.len());
    }
}
