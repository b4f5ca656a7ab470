//! Which Kubernetes Events are due. Pure.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use holdfast_crds::event::{Event, EventKind};
use holdfast_policy::model::PolicyId;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::jiff::Timestamp;

use super::News;

/// The `reason` of what was refused.
pub(super) const DENIED: &str = "Denied";
/// The `reason` of what was let through.
const AUDITED: &str = "Audited";
/// The least time between two writes of one series.
const EVERY: Duration = Duration::from_secs(30);
/// Writes for one rule, and for the node, in a minute.
const PER_RULE: usize = 4;
const PER_NODE: usize = 20;
const MINUTE: Duration = Duration::from_mins(1);
/// A series without news for this long is over; later news begin another.
const OVER: Duration = Duration::from_mins(10);
/// Series that are kept.
const MOST: usize = 512;
/// The longest note that the API takes, in bytes.
const NOTE: usize = 1024;
/// The longest name that is taken over into an Event's, in bytes; the API takes 253 in all.
const NAME: usize = 220;

/// What an Event is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Object {
    pub(super) api_version: &'static str,
    pub(super) kind: &'static str,
    /// `None` for cluster-scoped ones.
    pub(super) namespace: Option<String>,
    pub(super) name: String,
    pub(super) uid: Option<String>,
}

impl Object {
    fn policy((id, uid): &(PolicyId, Option<String>)) -> Self {
        Self {
            api_version: holdfast_crds::API_VERSION,
            kind: if id.namespace.is_some() { "WorkloadPolicy" } else { "ClusterWorkloadPolicy" },
            namespace: id.namespace.clone(),
            name: id.name.clone(),
            uid: uid.clone(),
        }
    }

    fn pod(event: &Event) -> Option<Self> {
        let pod = event.pod.as_ref()?;
        Some(Self {
            api_version: "v1",
            kind: "Pod",
            namespace: event.namespace.clone(),
            name: pod.name.clone(),
            uid: Some(pod.uid.clone()),
        })
    }

    /// Events of cluster-scoped objects are in the namespace `default`: the API wants it so.
    pub(super) fn event_namespace(&self) -> String {
        self.namespace.clone().unwrap_or_else(|| "default".to_owned())
    }

    pub(super) fn reference(&self) -> ObjectReference {
        ObjectReference {
            api_version: Some(self.api_version.to_owned()),
            kind: Some(self.kind.to_owned()),
            namespace: self.namespace.clone(),
            name: Some(self.name.clone()),
            uid: self.uid.clone(),
            ..ObjectReference::default()
        }
    }
}

/// An Event to be written.
#[derive(Debug, Clone)]
pub(super) struct Write {
    /// The name of the Event.
    pub(super) name: String,
    /// It is not there yet.
    pub(super) first: bool,
    pub(super) object: Object,
    pub(super) related: Option<Object>,
    pub(super) reason: &'static str,
    pub(super) action: String,
    pub(super) note: String,
    pub(super) started: Timestamp,
    pub(super) last: Timestamp,
    pub(super) count: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    object: Object,
    policy: String,
    rule: String,
    action: String,
}

#[derive(Debug)]
struct Series {
    write: Write,
    written: Option<Instant>,
    dirty: bool,
    news: Instant,
}

/// All series.
#[derive(Debug, Default)]
pub(super) struct Summary {
    series: HashMap<Key, Series>,
    /// Writes of the last minute, with the rule.
    recent: Vec<(Instant, String)>,
    number: u64,
}

impl Summary {
    /// Takes in an event.
    pub(super) fn add(&mut self, news: &News, now: Instant) {
        let (Some(policy), event) = (&news.policy, &news.event) else { return };
        let of_policy = Object::policy(policy);
        if let Some(pod) = Object::pod(event) {
            self.count(pod, Some(of_policy.clone()), event, now);
        }
        self.count(of_policy, None, event, now);
    }

    fn count(&mut self, object: Object, related: Option<Object>, event: &Event, now: Instant) {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let action = event.given.map_or("", |given| given.as_str()).to_owned();
        let key =
            Key { object, policy: text(&event.policy), rule: text(&event.rule), action: action.clone() };
        let time = event.time.parse().unwrap_or(Timestamp::UNIX_EPOCH);
        if let Some(series) = self.series.get_mut(&key) {
            series.write.count = series.write.count.saturating_add(event.count);
            series.write.last = time.max(series.write.last);
            series.dirty = true;
            series.news = now;
            return;
        }
        if self.series.len() >= MOST {
            self.series.retain(|_, series| now.duration_since(series.news) < OVER);
            if self.series.len() >= MOST {
                return;
            }
        }
        self.number += 1;
        let short: String = key.object.name.chars().take(NAME).collect();
        let write = Write {
            // Names have to differ between agents and their lives; the time alone could be another node's too.
            name: format!("{short}.{:x}{:04x}", time.as_nanosecond(), self.number & 0xffff),
            first: true,
            object: key.object.clone(),
            related,
            reason: if event.kind == EventKind::Denied { DENIED } else { AUDITED },
            action,
            note: note(event, key.object.kind == "Pod"),
            started: time,
            last: time,
            count: event.count,
        };
        self.series.insert(key, Series { write, written: None, dirty: true, news: now });
    }

    /// What is to be written now; it counts as written.
    pub(super) fn due(&mut self, now: Instant) -> Vec<Write> {
        self.recent.retain(|(at, _)| now.duration_since(*at) < MINUTE);
        self.series.retain(|_, series| series.dirty || now.duration_since(series.news) < OVER);
        let mut due: Vec<(&Key, &mut Series)> = self
            .series
            .iter_mut()
            .filter(|(_, series)| {
                series.dirty && series.written.is_none_or(|at| now.duration_since(at) >= EVERY)
            })
            .collect();
        // A policy before its pods, of which there may be many, and then whoever has waited longest.
        due.sort_by_key(|(key, series)| (key.object.kind == "Pod", series.written, series.write.started));
        let mut writes = Vec::new();
        for (key, series) in due {
            let rule = format!("{} {}", key.policy, key.rule);
            let of_rule = self.recent.iter().filter(|(_, other)| *other == rule).count();
            // Pods leave room for what comes of their policy within the minute.
            let most = if key.object.kind == "Pod" { PER_RULE / 2 } else { PER_RULE };
            if self.recent.len() >= PER_NODE || of_rule >= most {
                continue;
            }
            self.recent.push((now, rule));
            writes.push(series.write.clone());
            series.write.first = false;
            series.dirty = false;
            series.written = Some(now);
        }
        writes
    }
}

/// One example, in words. It is that of the series' first event, as the API lets nobody change it later.
fn note(event: &Event, on_pod: bool) -> String {
    let mut note = String::new();
    let mut say = |words: String| note.push_str(&words);
    let given = event.given.map_or("", |given| given.as_str());
    if event.kind == EventKind::Denied {
        say(format!("{given} by "));
    } else {
        say("let through and recorded for ".to_owned());
    }
    if on_pod {
        say(format!("policy {}, ", event.policy.as_deref().unwrap_or_default()));
    }
    say(event.rule.clone().unwrap_or_default());
    if let Some(network) = &event.network {
        say(format!(": {}", network.protocol));
        if let Some(source) = &network.source {
            say(format!(" from {source}"));
        }
        if let Some(destination) = &network.destination {
            say(format!(" to {destination}"));
        }
    }
    if let Some(call) = &event.syscall {
        say(format!(": {}", call.name.clone().unwrap_or_else(|| format!("system call {}", call.number))));
    }
    if let Some(executable) = event.process.as_ref().and_then(|process| process.executable.as_ref()) {
        say(format!(" of {executable}"));
    }
    if let Some(container) = &event.container {
        say(format!(" in container {container}"));
    }
    if !on_pod && let Some(pod) = &event.pod {
        say(format!(" of pod {}/{}", event.namespace.as_deref().unwrap_or_default(), pod.name));
    }
    let mut end = note.len().min(NOTE);
    while !note.is_char_boundary(end) {
        end -= 1;
    }
    note.truncate(end);
    note
}

#[cfg(test)]
mod tests {
    use holdfast_crds::event::{Done, EventPod};

    use super::*;

    fn news(pod: usize, rule: &str, count: u64) -> News {
        let mut event = Event::new("2026-11-25T01:00:00.5Z".to_owned(), "n".to_owned(), EventKind::Denied);
        event.namespace = Some("shop".to_owned());
        event.pod = Some(EventPod { name: format!("api-{pod}"), uid: format!("u-{pod}") });
        event.policy = Some("shop/api".to_owned());
        event.rule = Some(rule.to_owned());
        event.given = Some(Done::Drop);
        event.count = count;
        News { event, policy: Some((PolicyId::namespaced("shop", "api"), Some("p-1".to_owned()))) }
    }

    #[test]
    fn a_denial_is_an_event_on_the_pod_and_one_on_the_policy() {
        let mut summary = Summary::default();
        let now = Instant::now();
        summary.add(&news(0, "network.egress", 3), now);
        let writes = summary.due(now);
        let about: Vec<_> = writes.iter().map(|w| (w.object.kind, w.count, w.first)).collect();
        assert_eq!(about, [("WorkloadPolicy", 3, true), ("Pod", 3, true)]);
        assert_eq!(writes[0].object.uid.as_deref(), Some("p-1"));
        assert_eq!(writes[1].related.as_ref().map(|o| o.kind), Some("WorkloadPolicy"));
        assert_eq!(writes[0].note, "Drop by network.egress of pod shop/api-0");
        assert_eq!(writes[1].note, "Drop by policy shop/api, network.egress");
        assert_ne!(writes[0].name, writes[1].name);
        assert!(summary.due(now + EVERY).is_empty(), "nothing new");
    }

    #[test]
    fn a_flood_is_a_few_writes_a_minute_for_a_rule_and_no_count_is_lost() {
        let mut summary = Summary::default();
        let begin = Instant::now();
        let (mut writes, mut last) = (Vec::new(), 0);
        for second in 0..300 {
            let now = begin + Duration::from_secs(second);
            for pod in 0..50 {
                summary.add(&news(pod, "network.egress", 10), now);
            }
            for write in summary.due(now) {
                if write.object.kind == "WorkloadPolicy" {
                    last = write.count;
                }
                writes.push(now);
            }
        }
        for start in 0..240 {
            let window = begin + Duration::from_secs(start)..begin + Duration::from_secs(start + 60);
            let count = writes.iter().filter(|at| window.contains(at)).count();
            assert!(count <= PER_RULE, "{count} from {start} s on");
        }
        assert!(last > 250 * 50 * 10, "{last}");
    }

    #[test]
    fn the_node_as_a_whole_has_a_bound_and_so_has_what_is_kept() {
        let mut summary = Summary::default();
        let now = Instant::now();
        for rule in 0..2000 {
            summary.add(&news(rule, &format!("network.egress.deny[{rule}]"), 1), now);
        }
        assert_eq!(summary.due(now).len(), PER_NODE);
        assert!(summary.due(now + Duration::from_secs(30)).is_empty());
        assert_eq!(summary.series.len(), MOST);
    }

    #[test]
    fn a_series_that_was_quiet_for_long_is_another_one() {
        let mut summary = Summary::default();
        let now = Instant::now();
        summary.add(&news(0, "network.egress", 1), now);
        let first = summary.due(now);
        assert!(summary.due(now + OVER).is_empty());
        summary.add(&news(0, "network.egress", 1), now + OVER);
        let second = summary.due(now + OVER);
        assert!(second.iter().all(|write| write.first && write.count == 1));
        assert!(first.iter().all(|write| second.iter().all(|other| other.name != write.name)));
    }

    #[test]
    fn a_note_is_no_longer_than_the_api_takes() {
        let mut long = news(0, "network.egress", 1);
        long.event.process = Some(holdfast_crds::event::Process {
            executable: Some("ä".repeat(2000)),
            ..holdfast_crds::event::Process::default()
        });
        assert!(note(&long.event, true).len() <= NOTE);
    }
}
