//! One slice: its entries, how large they are, and what the API server is known to have of it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use holdfast_crds::address_slice::{AddressEntry, AddressSliceSpec, NamespaceEntry};

use super::sync::{Flight, Observed};
use super::{Class, Entry, Key, MAX_BYTES, MAX_ENTRIES, Urgency, json_len};
use crate::facts::IdentityKey;

/// An identity that a slice lists.
#[derive(Debug)]
struct Listed {
    key: Arc<IdentityKey>,
    users: usize,
    bytes: usize,
}

/// What the API server is known to have.
#[derive(Debug)]
pub(super) struct OnServer {
    pub(super) uid: String,
    pub(super) resource_version: String,
    pub(super) version: u64,
    /// The hash of its content; `None` when it is not known to be what the book last wrote or read.
    pub(super) content: Option<u64>,
    /// The mark of identities that it carries.
    pub(super) mark: u32,
}

/// A slice.
#[derive(Debug)]
pub struct Slice {
    pub(super) class: Class,
    pub(super) entries: BTreeMap<Key, Entry>,
    identities: BTreeMap<u32, Listed>,
    /// The bytes of all entries, and of the identities that they use.
    bytes: usize,
    /// The bytes of identities that are listed without being used.
    idle_bytes: usize,
    pub(super) server: Option<OnServer>,
    /// How pressing it is to write it, and since when; `None` when nothing is to be written.
    pub(super) dirty: Option<(Urgency, u64)>,
    /// The request about it that is under way.
    pub(super) in_flight: Option<Flight>,
    /// What the API server had is no longer certain: read it before writing.
    pub(super) suspect: bool,
    /// The latest news that came while a request was under way.
    pub(super) news: Option<Observed>,
    /// After failures: how many, and until when to wait.
    pub(super) failures: u32,
    pub(super) not_before: Option<Instant>,
}

fn entry_bytes(key: &Key, entry: &Entry) -> usize {
    match (key, entry) {
        (Key::Namespace(name), Entry::Namespace(labels)) => {
            json_len(&NamespaceEntry { name: name.clone(), labels: labels.clone() })
        }
        (Key::Address(address), Entry::Address(facts)) => json_len(&AddressEntry {
            address: *address,
            identity: facts.identity.as_ref().map(|(id, _)| *id),
            entities: facts.entities.clone(),
            node: facts.node.clone(),
        }),
        (_, Entry::Service(service)) => json_len(service),
        // Keys and entries are paired by `Book`; a pair that does not match would fit nowhere.
        _ => MAX_BYTES + 1,
    }
}

fn identity_of(entry: &Entry) -> Option<&(u32, Arc<IdentityKey>)> {
    match entry {
        Entry::Address(facts) => facts.identity.as_ref(),
        Entry::Namespace(_) | Entry::Service(_) => None,
    }
}

impl Slice {
    pub(super) fn new(class: Class) -> Self {
        Self {
            class,
            entries: BTreeMap::new(),
            identities: BTreeMap::new(),
            bytes: 0,
            idle_bytes: 0,
            server: None,
            dirty: None,
            in_flight: None,
            suspect: false,
            news: None,
            failures: 0,
            not_before: None,
        }
    }

    /// How many entries it should have.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether it should have none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether it should say nothing at all.
    pub(super) fn is_bare(&self) -> bool {
        self.entries.is_empty() && self.identities.is_empty()
    }

    pub(super) fn is_half_empty(&self) -> bool {
        self.entries.len() < MAX_ENTRIES / 2 && self.bytes < MAX_BYTES / 2
    }

    /// The bytes that an entry adds, with its identity if that is not listed yet.
    fn added_bytes(&self, key: &Key, entry: &Entry) -> usize {
        let identity = identity_of(entry)
            .filter(|(id, _)| self.identities.get(id).is_none_or(|listed| listed.users == 0))
            .map_or(0, |(id, identity)| json_len(&identity.entry(*id)));
        entry_bytes(key, entry) + identity
    }

    /// Whether one more entry fits.
    pub(super) fn fits(&self, key: &Key, entry: &Entry) -> bool {
        let too_many_ports = identity_of(entry).is_some_and(|(_, identity)| identity.ports.len() > 128);
        self.entries.len() < MAX_ENTRIES
            && !too_many_ports
            && self.bytes + self.added_bytes(key, entry) <= MAX_BYTES
    }

    pub(super) fn insert(&mut self, key: Key, entry: Entry) {
        self.bytes += entry_bytes(&key, &entry);
        if let Some((id, identity)) = identity_of(&entry) {
            self.list(*id, identity);
            if let Some(listed) = self.identities.get_mut(id) {
                if listed.users == 0 {
                    self.idle_bytes -= listed.bytes;
                    self.bytes += listed.bytes;
                }
                listed.users += 1;
            }
        }
        self.entries.insert(key, entry);
        self.make_room();
    }

    /// Lists an identity, used or not.
    fn list(&mut self, id: u32, identity: &Arc<IdentityKey>) {
        if !self.identities.contains_key(&id) {
            let bytes = json_len(&identity.entry(id));
            self.idle_bytes += bytes;
            self.identities.insert(id, Listed { key: identity.clone(), users: 0, bytes });
        }
    }

    /// Lists an identity that nobody uses, if there is room.
    pub(super) fn list_idle(&mut self, id: u32, identity: &Arc<IdentityKey>) {
        self.list(id, identity);
        self.make_room();
    }

    /// Lists an identity no longer, unless an entry uses it. Whether it was listed so far.
    pub(super) fn unlist(&mut self, id: u32) -> bool {
        let Some(listed) = self.identities.get(&id).filter(|listed| listed.users == 0) else { return false };
        self.idle_bytes -= listed.bytes;
        self.identities.remove(&id);
        true
    }

    /// Whether an entry uses an identity.
    pub(super) fn uses(&self, id: u32) -> bool {
        self.identities.get(&id).is_some_and(|listed| listed.users > 0)
    }

    /// Whether an identity is listed, used or not.
    pub(super) fn lists(&self, id: u32) -> bool {
        self.identities.contains_key(&id)
    }

    /// Lists only those unused identities that are to be kept here.
    pub(super) fn purge(&mut self, keep: impl Fn(u32) -> bool) {
        let idle: Vec<u32> = self
            .identities
            .iter()
            .filter(|(id, listed)| listed.users == 0 && !keep(**id))
            .map(|(id, _)| *id)
            .collect();
        for id in idle {
            self.unlist(id);
        }
    }

    /// What is used comes before what only rests here.
    fn make_room(&mut self) {
        while self.identities.len() > MAX_ENTRIES || self.bytes + self.idle_bytes > MAX_BYTES {
            let Some(id) = self.identities.iter().find(|(_, listed)| listed.users == 0).map(|(id, _)| *id)
            else {
                return;
            };
            self.unlist(id);
        }
    }

    pub(super) fn remove(&mut self, key: &Key) -> Option<Entry> {
        let entry = self.entries.remove(key)?;
        self.bytes -= entry_bytes(key, &entry);
        if let Some((id, _)) = identity_of(&entry)
            && let Some(listed) = self.identities.get_mut(id)
        {
            listed.users -= 1;
            if listed.users == 0 {
                self.bytes -= listed.bytes;
                self.idle_bytes += listed.bytes;
            }
        }
        Some(entry)
    }

    /// Puts another entry in the place of the one that is there. `false`, and nothing changes, if it does not fit.
    pub(super) fn replace(&mut self, key: &Key, entry: &Entry) -> bool {
        let Some(old) = self.remove(key) else { return false };
        let fits = self.fits(key, entry);
        self.insert(key.clone(), if fits { entry.clone() } else { old });
        fits
    }

    pub(super) fn touch(&mut self, urgency: Urgency, clock: u64) {
        self.dirty = Some(match self.dirty {
            Some((known, since)) => (known.min(urgency), since),
            None => (urgency, clock),
        });
    }

    /// What it should say.
    #[must_use]
    pub fn spec(&self) -> AddressSliceSpec {
        let mut spec = AddressSliceSpec {
            identities: self.identities.iter().map(|(id, listed)| listed.key.entry(*id)).collect(),
            ..AddressSliceSpec::default()
        };
        for (key, entry) in &self.entries {
            match (key, entry) {
                (Key::Namespace(name), Entry::Namespace(labels)) => {
                    spec.namespaces.push(NamespaceEntry { name: name.clone(), labels: labels.clone() });
                }
                (Key::Address(address), Entry::Address(facts)) => spec.addresses.push(AddressEntry {
                    address: *address,
                    identity: facts.identity.as_ref().map(|(id, _)| *id),
                    entities: facts.entities.clone(),
                    node: facts.node.clone(),
                }),
                (_, Entry::Service(service)) => spec.services.push(service.as_ref().clone()),
                _ => {}
            }
        }
        spec
    }
}
