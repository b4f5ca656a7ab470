//! The book's dealings with the API server: what was read, what is to be requested, and how it went.

use std::time::Instant;

use holdfast_crds::address_slice::AddressSliceSpec;

use super::layout::OnServer;
use super::{Book, Class, Entry, Key, Slice, Urgency, entries_of, hash_of, identities_of};

/// An AddressSlice as it was read.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observed {
    /// The object's UID.
    pub uid: String,
    /// The object's resourceVersion.
    pub resource_version: String,
    /// Its content; `None` if it does not parse.
    pub content: Option<AddressSliceSpec>,
    /// The highest number of an identity ever given out, as it carries it.
    pub mark: u32,
}

impl Observed {
    /// The resourceVersion as a number that grows with each write.
    fn version(&self) -> u64 {
        self.resource_version.parse().unwrap_or_default()
    }

    fn on_server(&self) -> OnServer {
        OnServer {
            uid: self.uid.clone(),
            resource_version: self.resource_version.clone(),
            version: self.version(),
            content: self.content.as_ref().map(hash_of),
            mark: self.mark,
        }
    }
}

/// What a watch says of AddressSlices.
#[derive(Clone, Debug, PartialEq)]
pub enum SliceNews {
    /// A complete listing begins.
    Begin,
    /// The slice of this name looks like this.
    Seen(String, Observed),
    /// The slice of this name is gone.
    Gone {
        /// The name.
        name: String,
        /// The version at which it went.
        resource_version: String,
    },
    /// The listing is complete.
    End,
}

/// A request.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Create it; fails if it exists.
    Create {
        /// Its content.
        content: AddressSliceSpec,
        /// The mark of identities that it carries.
        mark: u32,
    },
    /// Replace this very version of it.
    Update {
        /// Its content.
        content: AddressSliceSpec,
        /// The mark of identities that it carries.
        mark: u32,
        /// The UID of the object that is replaced.
        uid: String,
        /// The version that is replaced.
        resource_version: String,
    },
    /// Delete this very version of it.
    Delete {
        /// The UID of the object.
        uid: String,
        /// The version that is deleted.
        resource_version: String,
    },
    /// Read it.
    Read,
}

/// A request about one slice.
#[derive(Clone, Debug, PartialEq)]
pub struct Write {
    /// The slice's name.
    pub name: String,
    /// What to do.
    pub action: Action,
}

/// Why a request failed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Refusal {
    /// The API server has another version than the book thought.
    Conflict,
    /// Anything else; to be tried again at the given time.
    Failed(Instant),
}

/// A request that is under way.
#[derive(Debug, Default)]
pub(super) struct Flight {
    /// What was pressing, in case it fails.
    dirty: Option<(Urgency, u64)>,
    /// The hash of the content that is written.
    content: Option<u64>,
    /// The mark that is written.
    mark: u32,
    /// The identities that are listed.
    identities: Vec<u32>,
    /// What has left the slice, and stands in it no longer once this has succeeded.
    left: Vec<Key>,
}

fn class_of(name: &str, content: Option<&AddressSliceSpec>) -> Class {
    let by_name = [Class::Namespaces, Class::Addresses, Class::Services]
        .into_iter()
        .find(|class| name.starts_with(class.prefix()));
    by_name.unwrap_or(match content {
        Some(content) if !content.namespaces.is_empty() => Class::Namespaces,
        Some(content) if !content.services.is_empty() => Class::Services,
        _ => Class::Addresses,
    })
}

impl Book {
    /// A book of everything that the API server has. Where slices contradict each other, the first by name is right;
    /// what it contradicts is left out, and the slice that said it is to be written anew.
    #[must_use]
    pub fn load(mut observed: Vec<(String, Observed)>) -> Self {
        observed.sort_by(|(a, _), (b, _)| a.cmp(b));
        let mut book = Self::default();
        for (name, observed) in observed {
            book.adopt(&name, &observed);
        }
        book
    }

    fn adopt(&mut self, name: &str, observed: &Observed) {
        let class = class_of(name, observed.content.as_ref());
        let mut slice = Slice::new(class);
        slice.server = Some(observed.on_server());
        self.learn(name, observed);
        for (key, mut entry) in observed.content.as_ref().map(entries_of).unwrap_or_default() {
            if key.class() != class || self.places.contains_key(&key) {
                continue;
            }
            if let Entry::Address(facts) = &mut entry
                && let Some((id, identity)) = facts.identity.take()
                && self.identities.load(id, &identity)
            {
                facts.identity = self.identities.acquire(&identity);
            }
            if slice.fits(&key, &entry) {
                slice.insert(key.clone(), entry);
                self.places.insert(key, name.to_owned());
            }
        }
        for (id, identity) in observed.content.iter().flat_map(identities_of) {
            if self.identities.load(id, &identity) {
                slice.list_idle(id, &identity);
                self.homes.entry(id).or_insert_with(|| name.to_owned());
            }
        }
        let differs = slice.server.as_ref().and_then(|server| server.content) != Some(hash_of(&slice.spec()));
        let bare = slice.is_bare();
        self.slices.insert(name.to_owned(), slice);
        if differs || bare {
            self.touch(name, Urgency::Wrong);
        }
    }

    /// Remembers which names and numbers are taken.
    fn learn(&mut self, name: &str, observed: &Observed) {
        if let Some(number) = name.rsplit('-').next().and_then(|number| number.parse::<u64>().ok()) {
            self.next_name = self.next_name.max(number);
        }
        self.identities.raise_mark(observed.mark);
        for identity in observed.content.iter().flat_map(|content| &content.identities) {
            self.identities.raise_mark(identity.id);
        }
    }

    /// Takes in what a watch says of a slice. Old news change nothing; a slice that somebody else changed or made is to
    /// be put right.
    pub fn observe(&mut self, name: &str, observed: Observed) {
        let version = observed.version();
        if let Some(slice) = self.slices.get_mut(name) {
            if slice.in_flight.is_some() {
                // It may be the very request that is under way; its answer will tell.
                if slice.news.as_ref().is_none_or(|news| news.version() < version) {
                    slice.news = Some(observed);
                }
                return;
            }
            if slice.server.as_ref().is_some_and(|server| version <= server.version) {
                return;
            }
            let server = observed.on_server();
            let right = server.content == Some(hash_of(&slice.spec()));
            slice.server = Some(server);
            self.learn(name, &observed);
            if !right {
                self.touch(name, Urgency::Wrong);
            }
            return;
        }
        if self.tombs.get(name).is_some_and(|tomb| version <= *tomb) {
            return;
        }
        // Nobody but the operator makes slices: what it did not lay out itself says nothing that it wants said.
        let mut slice = Slice::new(class_of(name, observed.content.as_ref()));
        slice.server = Some(observed.on_server());
        self.learn(name, &observed);
        self.slices.insert(name.to_owned(), slice);
        self.touch(name, Urgency::Wrong);
    }

    /// Takes in that a watch saw a slice go, at this version.
    pub fn gone(&mut self, name: &str, resource_version: &str) {
        self.tombs.remove(name);
        let version: u64 = resource_version.parse().unwrap_or(u64::MAX);
        let Some(slice) = self.slices.get_mut(name) else { return };
        if slice.in_flight.is_some() || slice.server.as_ref().is_none_or(|server| version < server.version) {
            return;
        }
        slice.server = None;
        self.missing(name);
    }

    /// Takes in that a complete listing of the watch did not have a slice.
    pub fn unlisted(&mut self, name: &str) {
        if let Some(slice) = self.slices.get_mut(name) {
            slice.suspect |= slice.server.is_some();
        }
        self.tombs.remove(name);
    }

    fn missing(&mut self, name: &str) {
        self.leaving.retain(|_, left| left != name);
        if self.slices.get(name).is_some_and(Slice::is_bare) {
            self.slices.remove(name);
        } else {
            self.touch(name, Urgency::Wrong);
        }
    }

    /// The next slice to read, because what the API server has of it is uncertain.
    pub fn next_read(&mut self, now: Instant) -> Option<Write> {
        let (name, slice) = self
            .slices
            .iter_mut()
            .find(|(_, slice)| slice.suspect && slice.in_flight.is_none() && slice.ready(now))?;
        slice.in_flight = Some(Flight::default());
        Some(Write { name: name.clone(), action: Action::Read })
    }

    /// The next write: of the slices that are to be written, the most pressing one that has waited longest.
    pub fn next_write(&mut self, now: Instant) -> Option<Write> {
        loop {
            let name = self.most_pressing(now)?.to_owned();
            if let Some(action) = self.action(&name) {
                return Some(Write { name, action });
            }
        }
    }

    fn most_pressing(&self, now: Instant) -> Option<&str> {
        let mut waiting: Vec<(Urgency, u64, &str)> = Vec::new();
        let mut all = true;
        for (name, slice) in &self.slices {
            let Some((urgency, since)) = slice.dirty else { continue };
            if slice.suspect || slice.in_flight.is_some() || !slice.ready(now) {
                all = false;
            } else {
                waiting.push((urgency, since, name));
            }
        }
        waiting.sort_unstable();
        let free = waiting.iter().find(|(_, _, name)| !self.must_wait(name));
        // Where every slice waits for another one, which takes two entries that have grown out of their slices and
        // into each other's, one of them goes first all the same.
        free.or_else(|| waiting.first().filter(|_| all)).map(|(_, _, name)| *name)
    }

    /// Whether an entry of a slice may still stand in another one on the server.
    fn must_wait(&self, name: &str) -> bool {
        !self.leaving.is_empty()
            && self.slices.get(name).is_some_and(|slice| {
                slice.entries.keys().any(|key| self.leaving.get(key).is_some_and(|left| left != name))
            })
    }

    /// Begins to write a slice. `None` when it turns out that there is nothing to write.
    fn action(&mut self, name: &str) -> Option<Action> {
        let keep = self.must_keep(name);
        let mark = self.identities.mark();
        let left: Vec<Key> =
            self.leaving.iter().filter(|(_, left)| *left == name).map(|(key, _)| key.clone()).collect();
        let (homes, identities) = (&self.homes, &self.identities);
        let slice = self.slices.get_mut(name)?;
        slice.purge(|id| identities.knows(id) && homes.get(&id).is_none_or(|home| home == name));
        let dirty = slice.dirty.take();
        let content = slice.spec();
        let hash = hash_of(&content);
        let listed = content.identities.iter().map(|identity| identity.id).collect();
        let mark = if slice.class == Class::Addresses { mark } else { 0 };
        let (action, flight) = match &slice.server {
            None if slice.is_bare() => {
                self.slices.remove(name);
                self.has_left(name, &left);
                return None;
            }
            None => (
                Action::Create { content, mark },
                Flight { dirty, content: Some(hash), mark, identities: listed, left },
            ),
            Some(server) if slice.is_bare() && !keep => (
                Action::Delete { uid: server.uid.clone(), resource_version: server.resource_version.clone() },
                Flight { dirty, left, ..Flight::default() },
            ),
            Some(server) if server.content == Some(hash) => {
                self.has_left(name, &left);
                return None;
            }
            Some(server) => (
                Action::Update {
                    content,
                    mark,
                    uid: server.uid.clone(),
                    resource_version: server.resource_version.clone(),
                },
                Flight { dirty, content: Some(hash), mark, identities: listed, left },
            ),
        };
        slice.in_flight = Some(flight);
        Some(action)
    }

    /// Whether an empty slice is all that keeps the highest number of an identity, so that it has to stay.
    fn must_keep(&self, name: &str) -> bool {
        let Some(slice) = self.slices.get(name).filter(|slice| slice.is_empty()) else { return false };
        let mark = slice.server.as_ref().map_or(0, |server| server.mark);
        let elsewhere = self
            .slices
            .iter()
            .filter(|(other, slice)| *other != name && !(slice.is_bare() && slice.in_flight.is_some()))
            .filter_map(|(_, slice)| Some(slice.server.as_ref()?.mark))
            .max();
        mark > elsewhere.unwrap_or_default()
    }

    /// A creation or update succeeded and made this version.
    pub fn written(&mut self, name: &str, uid: String, resource_version: String) {
        let Some(slice) = self.slices.get_mut(name) else { return };
        let flight = slice.in_flight.take();
        slice.succeeded();
        slice.server = Some(OnServer {
            uid,
            version: resource_version.parse().unwrap_or_default(),
            resource_version,
            content: flight.as_ref().and_then(|flight| flight.content),
            mark: flight.as_ref().map_or(0, |flight| flight.mark),
        });
        let Flight { identities, left, .. } = flight.unwrap_or_default();
        self.has_left(name, &left);
        for id in identities {
            let at_home =
                self.homes.get(&id).and_then(|home| self.slices.get(home)).is_some_and(|home| home.uses(id));
            if !at_home && self.slices.get(name).is_some_and(|slice| slice.lists(id)) {
                self.homes.insert(id, name.to_owned());
            }
        }
        self.catch_up(name);
    }

    /// These stand in a slice no longer.
    fn has_left(&mut self, name: &str, keys: &[Key]) {
        for key in keys {
            if self.leaving.get(key).is_some_and(|left| left == name) {
                self.leaving.remove(key);
            }
        }
    }

    /// A deletion succeeded, or the slice turned out not to be there.
    pub fn deleted(&mut self, name: &str) {
        self.leaving.retain(|_, left| left != name);
        let Some(slice) = self.slices.get_mut(name) else { return };
        slice.in_flight = None;
        slice.succeeded();
        let version = slice.server.take().map_or(0, |server| server.version);
        slice.news = None;
        if slice.is_bare() {
            self.slices.remove(name);
            self.tombs.insert(name.to_owned(), version);
        } else {
            self.touch(name, Urgency::Wrong);
        }
    }

    /// A reading succeeded.
    pub fn read(&mut self, name: &str, observed: Option<Observed>) {
        let Some(slice) = self.slices.get_mut(name) else { return };
        slice.in_flight = None;
        slice.suspect = false;
        slice.succeeded();
        slice.news = None;
        let Some(observed) = observed else {
            slice.server = None;
            self.missing(name);
            return;
        };
        slice.server = Some(observed.on_server());
        self.learn(name, &observed);
        self.touch(name, Urgency::Wrong);
    }

    /// A request failed.
    pub fn refused(&mut self, name: &str, refusal: Refusal) {
        let Some(slice) = self.slices.get_mut(name) else { return };
        if let Some(Flight { dirty: Some(dirty), .. }) = slice.in_flight.take() {
            slice.dirty = Some(
                slice.dirty.map_or(dirty, |(urgency, since)| (urgency.min(dirty.0), since.min(dirty.1))),
            );
        }
        match refusal {
            Refusal::Conflict => {
                slice.suspect = true;
                slice.news = None;
            }
            Refusal::Failed(retry) => {
                slice.failures += 1;
                slice.not_before = Some(retry);
                self.catch_up(name);
            }
        }
    }

    /// How often requests about a slice have failed since the last one that succeeded.
    #[must_use]
    pub fn failures(&self, name: &str) -> u32 {
        self.slices.get(name).map_or(0, |slice| slice.failures)
    }

    fn catch_up(&mut self, name: &str) {
        if let Some(news) = self.slices.get_mut(name).and_then(|slice| slice.news.take()) {
            self.observe(name, news);
        }
    }

    /// Whether every slice says on the server what it should.
    #[must_use]
    pub fn settled(&self) -> bool {
        self.slices.values().all(|slice| slice.dirty.is_none() && slice.in_flight.is_none() && !slice.suspect)
    }

    /// When the next slice that waits after a failure may be tried again.
    #[must_use]
    pub fn wake(&self, now: Instant) -> Option<Instant> {
        let waiting = |slice: &&Slice| (slice.dirty.is_some() || slice.suspect) && slice.in_flight.is_none();
        self.slices.values().filter(waiting).filter_map(|slice| slice.not_before).filter(|at| *at > now).min()
    }

    /// Whether `key` stands in this slice.
    #[must_use]
    pub fn stands_in(&self, key: &Key, name: &str) -> bool {
        self.places.get(key).is_some_and(|place| place == name)
    }
}

impl Slice {
    fn ready(&self, now: Instant) -> bool {
        self.not_before.is_none_or(|at| at <= now)
    }

    fn succeeded(&mut self) {
        self.failures = 0;
        self.not_before = None;
    }
}
