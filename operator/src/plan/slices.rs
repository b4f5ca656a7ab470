//! How entries are laid out in AddressSlices, and which slice is to be written next.
//!
//! Pure: the book holds what each slice should say and what the API server is known to have; [`Book::next`] names one
//! request at a time and [`Book`] is told how it went. What it guarantees:
//! * an address, a namespace, or a part of a Service stands in one slice only, at every moment: where it has to move, the
//!   slice that it leaves is written first;
//! * no slice has more than [`MAX_ENTRIES`] entries of a kind or more than [`MAX_BYTES`] of JSON;
//! * an identity is taken out of a slice only when another slice on the server lists it, or when its number has rested,
//!   so that it has the same number when it comes back, whoever leads then (unless its slice has no room for it);
//! * a new entry goes to the one open slice of its class, so a burst of them costs few writes;
//! * slices with deletions and changed entries are written before slices with new ones only;
//! * an update names the version that it replaces, so that it fails when somebody else wrote in between.

use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use holdfast_crds::address_slice::{AddressEntry, AddressSliceSpec, NamespaceEntry, ServiceEntry};
use holdfast_crds::network::Entity;
use holdfast_policy::selector::Labels;
use serde::Serialize;

use super::identities::Identities;
use crate::facts::IdentityKey;

mod layout;
mod sync;
#[cfg(test)]
mod tests;

pub use layout::Slice;
pub use sync::{Action, Observed, Refusal, SliceNews, Write};

/// At most so many entries of a kind are in one slice.
pub const MAX_ENTRIES: usize = 100;
/// At most so many bytes of JSON are in one slice's lists: 64 KiB with room for the metadata.
pub const MAX_BYTES: usize = 60 * 1024;
/// The annotation that keeps the highest number of an identity ever given out.
pub const MARK_ANNOTATION: &str = "holdfast.dev/highest-identity";

/// What an entry is about.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Key {
    /// A namespace.
    Namespace(String),
    /// An address.
    Address(IpAddr),
    /// A part of a Service, by its virtual address.
    Service(IpAddr, u32),
}

impl Key {
    fn class(&self) -> Class {
        match self {
            Self::Namespace(_) => Class::Namespaces,
            Self::Address(_) => Class::Addresses,
            Self::Service(..) => Class::Services,
        }
    }
}

/// Slices hold entries of one class. Where several wait to be written, the lower class goes first.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Class {
    /// Namespaces.
    Namespaces,
    /// Addresses and their identities.
    Addresses,
    /// Services.
    Services,
}

impl Class {
    /// What the names of its slices begin with.
    #[must_use]
    pub fn prefix(self) -> &'static str {
        match self {
            Self::Namespaces => "namespaces-",
            Self::Addresses => "addresses-",
            Self::Services => "services-",
        }
    }
}

/// What an address's entry says.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct AddressFacts {
    /// The entities that it belongs to.
    pub entities: Vec<Entity>,
    /// The node that it lives on.
    pub node: Option<String>,
    /// The identity that holds it.
    pub identity: Option<(u32, Arc<IdentityKey>)>,
}

/// An entry.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Entry {
    /// A namespace's labels.
    Namespace(Labels),
    /// Who holds an address.
    Address(AddressFacts),
    /// A part of a Service.
    Service(Box<ServiceEntry>),
}

/// How pressing it is to write a slice.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Urgency {
    /// It says something that is no longer so.
    Wrong,
    /// It lacks something.
    Lacking(Class),
}

/// All slices, and the identities that they use.
#[derive(Debug, Default)]
pub struct Book {
    slices: BTreeMap<String, Slice>,
    places: HashMap<Key, String>,
    /// What was taken out of a slice, and may still stand in it on the server.
    leaving: HashMap<Key, String>,
    open: HashMap<Class, String>,
    identities: Identities,
    /// For each identity, a slice that lists it on the server.
    homes: HashMap<u32, String>,
    /// The next number for a slice's name.
    next_name: u64,
    /// Counts changes, so that the slice that has waited longest goes first.
    clock: u64,
    /// Slices that were deleted, and the version at which they were last known; late news of them mean nothing.
    tombs: HashMap<String, u64>,
}

/// The length of a value's JSON.
fn json_len(value: &impl Serialize) -> usize {
    serde_json::to_vec(value).map_or(MAX_BYTES + 1, |json| json.len() + 1)
}

fn hash_of(spec: &AddressSliceSpec) -> u64 {
    let mut hasher = DefaultHasher::new();
    serde_json::to_vec(spec).unwrap_or_default().hash(&mut hasher);
    hasher.finish()
}

impl Book {
    /// Says what a namespace's labels are. `false` if that does not fit any slice; then nothing is said of it.
    pub fn set_namespace(&mut self, name: &str, labels: Labels) -> bool {
        self.set(Key::Namespace(name.to_owned()), Entry::Namespace(labels))
    }

    /// Says what a part of a Service is. `false` if that does not fit any slice; then nothing is said of it.
    pub fn set_service(&mut self, entry: ServiceEntry) -> bool {
        self.set(Key::Service(entry.address, entry.part), Entry::Service(Box::new(entry)))
    }

    /// Says who holds an address. `false` if that does not fit any slice, or no number is free for the identity; then
    /// nothing is said of it.
    pub fn set_address(
        &mut self,
        address: IpAddr,
        entities: Vec<Entity>,
        node: Option<String>,
        identity: Option<&Arc<IdentityKey>>,
        now: Instant,
    ) -> bool {
        let key = Key::Address(address);
        let old = self.identity_at(&key);
        let identity = match (identity, &old) {
            (None, _) => None,
            (Some(wanted), Some((id, known))) if **wanted == **known => Some((*id, known.clone())),
            (Some(wanted), _) => {
                let Some(numbered) = self.identities.acquire(wanted) else {
                    self.remove(&key, now);
                    return false;
                };
                Some(numbered)
            }
        };
        let new = identity.as_ref().map(|(id, _)| *id);
        let fits = self.set(key, Entry::Address(AddressFacts { entities, node, identity }));
        let old = old.map(|(id, _)| id);
        if let Some(old) = old
            && Some(old) != new
        {
            self.identities.release(old, now);
        }
        if let Some(new) = new
            && !fits
        {
            self.identities.release(new, now);
        }
        fits
    }

    /// Says nothing more of a key.
    pub fn remove(&mut self, key: &Key, now: Instant) {
        let identity = self.identity_at(key);
        self.take_out(key);
        if let Some((id, _)) = identity {
            self.identities.release(id, now);
        }
    }

    fn identity_at(&self, key: &Key) -> Option<(u32, Arc<IdentityKey>)> {
        match self.entry(key)? {
            Entry::Address(facts) => facts.identity.clone(),
            Entry::Namespace(_) | Entry::Service(_) => None,
        }
    }

    /// What is said of a key.
    #[must_use]
    pub fn entry(&self, key: &Key) -> Option<&Entry> {
        self.slices.get(self.places.get(key)?)?.entries.get(key)
    }

    /// Every key of which something is said.
    pub fn keys(&self) -> impl Iterator<Item = &Key> {
        self.places.keys()
    }

    /// How many addresses have an entry.
    #[must_use]
    pub fn addresses(&self) -> usize {
        self.slices.values().filter(|slice| slice.class == Class::Addresses).map(Slice::len).sum()
    }

    /// How many identities are in use.
    #[must_use]
    pub fn identities(&self) -> usize {
        self.identities.in_use()
    }

    /// Lets identities' numbers go that have rested.
    pub fn tick(&mut self, now: Instant) {
        for id in self.identities.tick(now) {
            self.homes.remove(&id);
            let mut bare = Vec::new();
            for (name, slice) in &mut self.slices {
                if slice.unlist(id) && slice.is_bare() {
                    bare.push(name.clone());
                }
            }
            // On the server others say one word too many, until they are written for another reason.
            for name in bare {
                self.touch(&name, Urgency::Wrong);
            }
        }
    }

    /// The slices by name.
    #[must_use]
    pub fn slices(&self) -> &BTreeMap<String, Slice> {
        &self.slices
    }

    fn set(&mut self, key: Key, entry: Entry) -> bool {
        if let Some(name) = self.places.get(&key).cloned() {
            if let Some(slice) = self.slices.get_mut(&name) {
                if slice.entries.get(&key) == Some(&entry) {
                    return true;
                }
                if slice.replace(&key, &entry) {
                    self.touch(&name, Urgency::Wrong);
                    return true;
                }
            }
            // It has grown out of its slice: it leaves before it appears elsewhere.
            self.take_out(&key);
        }
        let class = key.class();
        let back = self
            .leaving
            .get(&key)
            .filter(|name| self.slices.get(*name).is_some_and(|slice| slice.fits(&key, &entry)));
        if let Some(name) = back.cloned() {
            self.leaving.remove(&key);
            if let Some(slice) = self.slices.get_mut(&name) {
                slice.insert(key.clone(), entry);
            }
            self.places.insert(key, name.clone());
            self.touch(&name, Urgency::Wrong);
            return true;
        }
        let Some(name) = self.room_for(class, &key, &entry) else { return false };
        if let Some(slice) = self.slices.get_mut(&name) {
            slice.insert(key.clone(), entry);
        }
        self.places.insert(key, name.clone());
        self.touch(&name, Urgency::Lacking(class));
        true
    }

    fn take_out(&mut self, key: &Key) {
        if let Some(name) = self.places.remove(key) {
            if let Some(slice) = self.slices.get_mut(&name) {
                slice.remove(key);
                if slice.server.is_some() || slice.in_flight.is_some() {
                    self.leaving.insert(key.clone(), name.clone());
                }
            }
            self.touch(&name, Urgency::Wrong);
        }
    }

    /// The slice that takes a new entry: the open one, else one that is less than half full, else a new one.
    fn room_for(&mut self, class: Class, key: &Key, entry: &Entry) -> Option<String> {
        let fits = |slice: &Slice| slice.class == class && slice.fits(key, entry);
        if let Some(open) = self.open.get(&class)
            && self.slices.get(open).is_some_and(fits)
        {
            return Some(open.clone());
        }
        let half_empty = self
            .slices
            .iter()
            .filter(|(_, slice)| slice.is_half_empty() && fits(slice))
            .min_by_key(|(_, slice)| slice.entries.len())
            .map(|(name, _)| name.clone());
        let name = if let Some(name) = half_empty {
            name
        } else {
            let slice = Slice::new(class);
            if !slice.fits(key, entry) {
                return None;
            }
            self.next_name += 1;
            let name = format!("{}{:06}", class.prefix(), self.next_name);
            self.slices.insert(name.clone(), slice);
            name
        };
        self.open.insert(class, name.clone());
        Some(name)
    }

    fn touch(&mut self, name: &str, urgency: Urgency) {
        self.clock += 1;
        let clock = self.clock;
        if let Some(slice) = self.slices.get_mut(name) {
            slice.touch(urgency, clock);
        }
    }
}

/// The identities that a slice lists.
fn identities_of(spec: &AddressSliceSpec) -> HashMap<u32, Arc<IdentityKey>> {
    spec.identities.iter().map(|entry| (entry.id, Arc::new(IdentityKey::of_entry(entry)))).collect()
}

/// The entries of a slice's lists.
fn entries_of(spec: &AddressSliceSpec) -> Vec<(Key, Entry)> {
    let identities = identities_of(spec);
    let namespaces = spec.namespaces.iter().map(|NamespaceEntry { name, labels }| {
        (Key::Namespace(name.clone()), Entry::Namespace(labels.clone()))
    });
    let addresses = spec.addresses.iter().map(|AddressEntry { address, identity, entities, node }| {
        let identity = identity.and_then(|id| Some((id, identities.get(&id)?.clone())));
        let facts = AddressFacts { entities: entities.clone(), node: node.clone(), identity };
        (Key::Address(*address), Entry::Address(facts))
    });
    let services = spec
        .services
        .iter()
        .map(|entry| (Key::Service(entry.address, entry.part), Entry::Service(Box::new(entry.clone()))));
    namespaces.chain(addresses).chain(services).collect()
}
