//! The objects of one kind, as the API server tells of them. A state machine without a client, a clock or a disk.
//!
//! What was good stays in force until something better is known: an object that turns bad keeps its last good version, a
//! watch that fails keeps everything, and so does a kind that vanishes. As a kind that is being removed first has its
//! objects deleted one by one, a deletion takes effect only after [`Record::GRACE`], and is taken back for a while longer
//! if the kind turns out to be gone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::guard::Guarded;
use crate::facts::SourceError;
use crate::source::assemble::error_of;

/// How long a deletion can be taken back when the kind turns out to be gone.
const REGRET: Duration = Duration::from_mins(1);

/// What is kept of an object.
pub(crate) trait Record: Serialize + Send + Sync + Sized + 'static {
    /// The object.
    type Object: DeserializeOwned;
    /// Its kind.
    const KIND: &'static str;
    /// The name of its state file.
    const STATE: &'static str;
    /// How long a deleted object stays.
    const GRACE: Duration;

    /// What is kept; `None` if the object does not matter (any more). The error is `field: problem`.
    fn new(object: Self::Object) -> Result<Option<Self>, String>;
    /// The metadata of the object.
    fn metadata(&self) -> &ObjectMeta;
}

/// What a watch told.
#[derive(Debug)]
pub(crate) enum Change<K> {
    /// A list of everything begins.
    Begin,
    /// An object of the list.
    Listed(Guarded<K>),
    /// The list is complete.
    Done,
    /// An object is new or has changed.
    Applied(Guarded<K>),
    /// An object was deleted.
    Deleted(ObjectMeta),
    /// The watch failed; it goes on later.
    Failed {
        /// Why.
        problem: String,
        /// The kind itself is not there.
        gone: bool,
    },
    /// The watch works again.
    Recovered,
}

/// Namespace (empty for cluster-scoped kinds) and name.
type Key = (String, String);

/// The objects of one kind.
pub(crate) struct Store<R> {
    entries: BTreeMap<Key, Entry<R>>,
    /// Deleted not long ago.
    buried: BTreeMap<Key, (Instant, Arc<R>)>,
    /// While a list is under way: what it has named so far.
    listing: Option<BTreeSet<Key>>,
    listed: bool,
    restored: bool,
    problem: Option<String>,
}

struct Entry<R> {
    good: Option<Arc<R>>,
    uid: Option<String>,
    version: Option<String>,
    bad: Option<SourceError>,
    deleted: Option<Instant>,
}

/// What a change came to.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Effect {
    /// Good objects came, went or changed.
    pub(crate) objects: bool,
    /// Something else did: errors, or what is known.
    pub(crate) rest: bool,
}

impl std::ops::BitOrAssign for Effect {
    fn bitor_assign(&mut self, other: Self) {
        self.objects |= other.objects;
        self.rest |= other.rest;
    }
}

impl<R: Record> Store<R> {
    pub(crate) fn new() -> Self {
        Self {
            entries: BTreeMap::new(),
            buried: BTreeMap::new(),
            listing: None,
            listed: false,
            restored: false,
            problem: None,
        }
    }

    /// Takes what an earlier run saved. Returns what could not be read of it.
    pub(crate) fn restore(&mut self, records: &[String]) -> Vec<SourceError> {
        let mut errors = Vec::new();
        for record in records {
            let object: Result<Guarded<R::Object>, _> = serde_json::from_str(record);
            let kept = object.map_err(|error| error.to_string()).and_then(|guarded| {
                let object = guarded.object?;
                Ok((guarded.metadata, R::new(*object)?))
            });
            match kept {
                Ok((metadata, Some(record))) => {
                    self.entries.insert(
                        key(&metadata),
                        Entry {
                            good: Some(Arc::new(record)),
                            uid: metadata.uid,
                            version: metadata.resource_version,
                            bad: None,
                            deleted: None,
                        },
                    );
                }
                Ok((_, None)) => {}
                Err(problem) => {
                    let problem = format!("a saved {} cannot be read: {problem}", R::KIND);
                    errors.push(error_of(format!("state/{}", R::STATE), problem));
                }
            }
        }
        self.restored = true;
        errors
    }

    /// Takes a change.
    pub(crate) fn take(&mut self, change: Change<R::Object>, now: Instant) -> Effect {
        match change {
            Change::Begin => {
                self.listing = Some(BTreeSet::new());
                Effect::default()
            }
            Change::Listed(object) => {
                if let Some(listing) = &mut self.listing {
                    listing.insert(key(&object.metadata));
                }
                self.apply(object)
            }
            Change::Done => self.done(now),
            Change::Applied(object) => {
                let mut effect = self.apply(object);
                effect.rest |= self.problem.take().is_some();
                effect
            }
            Change::Deleted(metadata) => {
                let mut effect = self.delete(&key(&metadata), now);
                effect.rest |= self.problem.take().is_some();
                effect
            }
            Change::Failed { problem, gone } => {
                let mut effect = if gone { self.take_back() } else { Effect::default() };
                let problem = format!("{problem}; the last good state stays in force");
                effect.rest |= self.problem.as_ref() != Some(&problem);
                self.problem = Some(problem);
                effect
            }
            Change::Recovered => Effect { rest: self.problem.take().is_some(), ..Effect::default() },
        }
    }

    fn apply(&mut self, object: Guarded<R::Object>) -> Effect {
        let Guarded { metadata, object } = object;
        let key = key(&metadata);
        self.buried.remove(&key);
        if let Some(entry) = self.entries.get_mut(&key)
            && entry.version == metadata.resource_version
            && entry.uid == metadata.uid
            && entry.version.is_some()
        {
            entry.deleted = None;
            return Effect::default();
        }
        let before = self.entries.remove(&key);
        let had_good = before.as_ref().is_some_and(|entry| entry.good.is_some());
        let had_bad = before.as_ref().is_some_and(|entry| entry.bad.is_some());
        let (good, bad) = match object.and_then(|object| R::new(*object)) {
            Ok(Some(record)) => (Some(Arc::new(record)), None),
            Ok(None) => return Effect { objects: had_good, rest: had_bad },
            Err(problem) => {
                // Another object of this name says nothing about this one.
                let kept = before.filter(|entry| entry.uid == metadata.uid).and_then(|entry| entry.good);
                let bad = bad::<R>(&metadata, &problem, kept.as_deref());
                (kept, Some(bad))
            }
        };
        let effect = Effect { objects: bad.is_none() || had_good, rest: bad.is_some() || had_bad };
        let entry = Entry { good, uid: metadata.uid, version: metadata.resource_version, bad, deleted: None };
        self.entries.insert(key, entry);
        effect
    }

    fn done(&mut self, now: Instant) -> Effect {
        let Some(named) = self.listing.take() else { return Effect::default() };
        let gone: Vec<Key> = self.entries.keys().filter(|key| !named.contains(*key)).cloned().collect();
        let mut effect = Effect { objects: false, rest: !self.listed };
        self.listed = true;
        for key in gone {
            effect |= self.delete(&key, now);
        }
        effect.rest |= self.problem.take().is_some();
        effect
    }

    fn delete(&mut self, key: &Key, now: Instant) -> Effect {
        match self.entries.get_mut(key) {
            Some(entry) if R::GRACE > Duration::ZERO && entry.good.is_some() => {
                entry.deleted.get_or_insert(now);
                let rest = entry.bad.take().is_some();
                Effect { objects: false, rest }
            }
            _ => self.entries.remove(key).map_or(Effect::default(), |entry| Effect {
                objects: entry.good.is_some(),
                rest: entry.bad.is_some(),
            }),
        }
    }

    /// The kind is gone: what was deleted lately was not meant.
    fn take_back(&mut self) -> Effect {
        self.listing = None;
        for entry in self.entries.values_mut() {
            entry.deleted = None;
        }
        let mut effect = Effect::default();
        for (key, (_, good)) in std::mem::take(&mut self.buried) {
            let metadata = good.metadata();
            let entry = Entry {
                uid: metadata.uid.clone(),
                version: metadata.resource_version.clone(),
                good: Some(good),
                bad: None,
                deleted: None,
            };
            self.entries.insert(key, entry);
            effect.objects = true;
        }
        effect
    }

    /// Lets deletions take effect whose time has come.
    pub(crate) fn pass(&mut self, now: Instant) -> Effect {
        self.buried.retain(|_, (since, _)| now.saturating_duration_since(*since) < REGRET);
        let due = |entry: &Entry<R>| {
            entry.deleted.is_some_and(|since| now.saturating_duration_since(since) >= R::GRACE)
        };
        let due: Vec<Key> =
            self.entries.iter().filter(|(_, entry)| due(entry)).map(|(key, _)| key.clone()).collect();
        for key in &due {
            if let Some(good) = self.entries.remove(key).and_then(|entry| entry.good) {
                self.buried.insert(key.clone(), (now, good));
            }
        }
        Effect { objects: !due.is_empty(), rest: false }
    }

    /// When [`pass`](Self::pass) is to be asked next.
    pub(crate) fn next_pass(&self) -> Option<Instant> {
        self.entries.values().filter_map(|entry| entry.deleted).min().map(|since| since + R::GRACE)
    }

    /// Whether everything was listed once.
    pub(crate) fn listed(&self) -> bool {
        self.listed
    }

    /// Whether the objects are worth telling of: all that there are, or all that an earlier run knew.
    pub(crate) fn known(&self) -> bool {
        self.listed || self.restored
    }

    /// The good objects, by namespace and name.
    pub(crate) fn good(&self) -> impl Iterator<Item = &Arc<R>> {
        self.entries.values().filter_map(|entry| entry.good.as_ref())
    }

    /// What is wrong.
    pub(crate) fn errors(&self) -> impl Iterator<Item = SourceError> {
        let problem = self.problem.iter().map(|problem| error_of(R::KIND, problem.clone()));
        problem.chain(self.entries.values().filter_map(|entry| entry.bad.clone()))
    }
}

fn bad<R: Record>(metadata: &ObjectMeta, problem: &str, kept: Option<&R>) -> SourceError {
    let name = metadata.name.clone().unwrap_or_default();
    let object = match &metadata.namespace {
        Some(namespace) => format!("{namespace}/{name}"),
        None => name,
    };
    let kept = match kept.map(|kept| kept.metadata().generation) {
        Some(Some(generation)) => format!("; generation {generation} stays in force"),
        Some(None) => "; its last good version stays in force".to_owned(),
        None => "; no good version of it is known".to_owned(),
    };
    SourceError {
        place: R::KIND.to_owned(),
        object: Some(object),
        version: metadata.uid.clone().zip(metadata.generation),
        message: format!("{problem}{kept}"),
    }
}

fn key(metadata: &ObjectMeta) -> Key {
    (metadata.namespace.clone().unwrap_or_default(), metadata.name.clone().unwrap_or_default())
}

#[cfg(test)]
mod tests;
