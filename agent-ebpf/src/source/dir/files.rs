//! What the files of the directory come to. No disk here: contents go in, facts come out.
//!
//! A file is taken as a whole: with one error in it, its last good contents stay in force. One that vanished is first
//! only missing: its objects stay until it is removed, but give way to any file that has them, so that moving a file or
//! an editor that writes a new one in its place leaves no gap.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use holdfast_crds::document::{self, Document, DocumentError, Key, Object};
use holdfast_crds::{ExternalWorkload, convert};
use holdfast_policy::model::{AddressFacts, Entities, FIRST_IDENTITY, NamedPorts, Policy, PolicyId, World};
use holdfast_policy::selector::Labels;
use serde::{Deserialize, Serialize};

use crate::facts::{External, Facts, SourceError};
use crate::source::assemble::{add_host, error_of, renew};

/// What could be read of a file: its bytes, or why not.
pub(crate) type Content = Result<Vec<u8>, String>;

/// The last good contents of one file, as they are saved.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Saved {
    file: String,
    text: String,
    /// By the policy's displayed name.
    generations: BTreeMap<String, i64>,
}

/// The directory, as it was read.
pub(crate) struct Files {
    folder: PathBuf,
    node: String,
    by_name: BTreeMap<String, File>,
    generations: BTreeMap<PolicyId, Generation>,
    identities: BTreeMap<Distinct, u32>,
}

#[derive(Default)]
struct File {
    /// In force.
    objects: Vec<Good>,
    /// What `objects` was read from.
    saved: Option<Arc<Saved>>,
    /// What is wrong with the newest contents.
    errors: Vec<SourceError>,
    /// A hash of the newest contents, good or not.
    seen: Option<u64>,
    missing: bool,
}

struct Good {
    key: Key,
    document: usize,
    item: Item,
}

enum Item {
    Policy(Box<Policy>),
    External(Box<ExternalWorkload>),
}

/// The version of a policy: moves whenever what it says does.
#[derive(Debug, Clone, Copy)]
struct Generation {
    number: i64,
    /// Of what it says; `None` where only the number was saved.
    fingerprint: Option<u64>,
}

/// What makes an identity distinct.
type Distinct = (String, Labels, NamedPorts);

impl Files {
    /// Nothing yet. `folder` is the directory's path, for messages.
    pub(crate) fn new(folder: PathBuf, node: String) -> Self {
        Self {
            folder,
            node,
            by_name: BTreeMap::new(),
            generations: BTreeMap::new(),
            identities: BTreeMap::new(),
        }
    }

    /// Takes the saved state of an earlier run. Returns what is wrong with it: a text that an older version accepted
    /// may be refused by this one.
    pub(crate) fn restore(&mut self, records: &[String]) -> Vec<SourceError> {
        let mut errors = Vec::new();
        for record in records {
            let saved: Saved = match serde_json::from_str(record) {
                Ok(saved) => saved,
                Err(error) => {
                    errors.push(error_of("state", format!("a saved file cannot be read: {error}")));
                    continue;
                }
            };
            for (name, number) in &saved.generations {
                let id = match name.split_once('/') {
                    Some(("cluster", name)) => PolicyId::cluster(name),
                    Some((namespace, name)) => PolicyId::namespaced(namespace, name),
                    None => continue,
                };
                // The text read next is the one that had this number.
                let known = self.generations.entry(id).or_insert(Generation { number: 0, fingerprint: None });
                known.number = known.number.max(*number - 1);
            }
            self.put(&saved.file, Ok(saved.text.into_bytes()));
            if let Some(file) = self.by_name.get_mut(&saved.file) {
                errors.append(&mut file.errors);
                // It is not known yet whether the file is still there.
                file.missing = true;
                file.seen = None;
            }
        }
        errors
    }

    /// Whether no file is known.
    pub(crate) fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    /// The contents of every file in force, to be saved.
    pub(crate) fn saved(&self) -> Vec<Arc<Saved>> {
        self.by_name.values().filter_map(|file| file.saved.clone()).collect()
    }

    /// Takes the contents of a file. Returns whether they are others than before.
    pub(crate) fn put(&mut self, name: &str, content: Content) -> bool {
        let mut hasher = DefaultHasher::new();
        content.hash(&mut hasher);
        let hash = hasher.finish();
        let known = self.by_name.get(name);
        if known.is_some_and(|file| file.seen == Some(hash) && !file.missing) {
            return false;
        }
        let place = self.folder.join(name).display().to_string();
        let (objects, errors) = match content {
            Ok(bytes) => self.read(name, &place, bytes),
            Err(problem) => (None, vec![error_of(&place, problem)]),
        };
        let file = self.by_name.entry(name.to_owned()).or_default();
        file.seen = Some(hash);
        file.missing = false;
        file.errors = errors;
        if let Some((objects, saved)) = objects {
            file.objects = objects;
            file.saved = Some(Arc::new(saved));
        }
        true
    }

    /// The names of the files that are not among these.
    pub(crate) fn absent(&self, present: &BTreeSet<String>) -> Vec<String> {
        self.by_name.keys().filter(|name| !present.contains(*name)).cloned().collect()
    }

    /// The file is not there; its objects give way to others but stay for now. Returns whether that is news.
    pub(crate) fn missing(&mut self, name: &str) -> bool {
        match self.by_name.get_mut(name) {
            Some(file) if !file.missing => {
                file.missing = true;
                file.errors.clear();
                true
            }
            _ => false,
        }
    }

    /// The names of the files that are missing.
    pub(crate) fn all_missing(&self) -> Vec<String> {
        self.by_name.iter().filter(|(_, file)| file.missing).map(|(name, _)| name.clone()).collect()
    }

    /// The file is gone for good, and its objects with it.
    pub(crate) fn remove(&mut self, name: &str) -> bool {
        self.by_name.remove(name).is_some()
    }

    fn read(
        &mut self,
        name: &str,
        place: &str,
        bytes: Vec<u8>,
    ) -> (Option<(Vec<Good>, Saved)>, Vec<SourceError>) {
        let parsed = document::parse(place, &bytes);
        let mut errors: Vec<SourceError> = parsed.errors.iter().map(source_error).collect();
        let mut objects = Vec::new();
        let mut generations = BTreeMap::new();
        let empty = parsed.documents.is_empty() && errors.is_empty();
        for document in parsed.documents {
            match self.take(document, &mut generations) {
                Ok(object) => objects.push(object),
                Err(error) => errors.push(error),
            }
        }
        if empty {
            errors.push(error_of(place, "holds no document; delete the file to take its objects back"));
        }
        match String::from_utf8(bytes) {
            Ok(text) if errors.is_empty() => {
                (Some((objects, Saved { file: name.to_owned(), text, generations })), errors)
            }
            _ => (None, errors),
        }
    }

    fn take(
        &mut self,
        document: Document,
        generations: &mut BTreeMap<String, i64>,
    ) -> Result<Good, SourceError> {
        let key = document.object.key();
        let refuse = |field: &str, problem: String| {
            source_error(&DocumentError {
                file: document.file.clone(),
                document: Some(document.index),
                line: None,
                object: Some(key.to_string()),
                field: field.to_owned(),
                problem,
            })
        };
        let policy = match document.object {
            Object::WorkloadPolicy(mut object) => {
                object.metadata.uid = Some(uid(&key));
                convert::workload_policy(&object)
            }
            Object::ClusterWorkloadPolicy(mut object) => {
                object.metadata.uid = Some(uid(&key));
                convert::cluster_workload_policy(&object)
            }
            Object::ExternalWorkload(mut object) => {
                object.metadata.uid = Some(uid(&key));
                return Ok(Good { key, document: document.index, item: Item::External(object) });
            }
            Object::NodeAgent(_) => {
                let problem =
                    "NodeAgent means something to a cluster only; a directory holds WorkloadPolicy, \
                               ClusterWorkloadPolicy and ExternalWorkload"
                        .to_owned();
                return Err(refuse("kind", problem));
            }
        };
        let mut policy = policy.map_err(|errors| {
            // `document::parse` has asked the same already.
            let first = errors.into_iter().next();
            let (field, problem) = first.map(|error| (error.field, error.problem)).unwrap_or_default();
            refuse(&format!("spec.{field}"), problem)
        })?;
        let fingerprint = policy.fingerprint();
        let known =
            self.generations.entry(policy.id.clone()).or_insert(Generation { number: 0, fingerprint: None });
        if known.fingerprint != Some(fingerprint) {
            *known = Generation { number: known.number + 1, fingerprint: Some(fingerprint) };
        }
        policy.generation = known.number;
        generations.insert(policy.id.to_string(), known.number);
        Ok(Good { key, document: document.index, item: Item::Policy(Box::new(policy)) })
    }

    /// Brings facts up to date with the files. Returns whether they changed. `also` are errors of others: of the
    /// directory itself, of the state.
    pub(crate) fn update(
        &mut self,
        facts: &mut Facts,
        host: &BTreeSet<IpAddr>,
        also: Vec<SourceError>,
    ) -> bool {
        let mut errors = also;
        let mut seen: BTreeMap<&Key, (&str, usize)> = BTreeMap::new();
        let mut holders: BTreeMap<IpAddr, &Key> = BTreeMap::new();
        let (mut policies, mut locals, mut peers) = (Vec::new(), Vec::new(), Vec::new());
        let (missing, present): (Vec<_>, Vec<_>) = self.by_name.iter().partition(|(_, file)| file.missing);
        for (name, file) in present.into_iter().chain(missing) {
            errors.extend(file.errors.iter().cloned());
            let place = self.folder.join(name).display().to_string();
            let refuse = |good: &Good, field: &str, problem: String| {
                source_error(&DocumentError {
                    file: place.clone(),
                    document: Some(good.document),
                    line: None,
                    object: Some(good.key.to_string()),
                    field: field.to_owned(),
                    problem,
                })
            };
            for good in &file.objects {
                if let Some((first, document)) = seen.get(&good.key) {
                    if !file.missing {
                        let problem = format!(
                            "is the name of document {document} of {} already",
                            self.folder.join(first).display()
                        );
                        errors.push(refuse(good, "metadata.name", problem));
                    }
                    continue;
                }
                match &good.item {
                    Item::Policy(policy) => policies.push((**policy).clone()),
                    Item::External(object) => {
                        let addresses = convert::external_addresses(object);
                        let claimed = addresses
                            .iter()
                            .enumerate()
                            .find_map(|(index, address)| Some((index, *address, *holders.get(address)?)));
                        if let Some((index, address, holder)) = claimed {
                            if !file.missing {
                                let field = format!("spec.addresses[{index}]");
                                let problem = format!("{address} is an address of {holder} already");
                                errors.push(refuse(good, &field, problem));
                            }
                            continue;
                        }
                        holders.extend(addresses.iter().map(|address| (*address, &good.key)));
                        if object.spec.node.as_deref() == Some(self.node.as_str()) {
                            locals.push(external(object));
                        }
                        peers.push(&**object);
                    }
                }
                seen.insert(&good.key, (name.as_str(), good.document));
            }
        }
        policies.sort_by(|a, b| a.id.cmp(&b.id));
        locals.sort_by(|a: &External, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));

        let mut world = World::default();
        for object in peers {
            let distinct = convert::external_identity(object, 0);
            let distinct = (distinct.namespace, distinct.labels, distinct.named_ports);
            let next = FIRST_IDENTITY + u32::try_from(self.identities.len()).unwrap_or(u32::MAX / 2);
            let id = *self.identities.entry(distinct).or_insert(next);
            world.identities.insert(id, convert::external_identity(object, id));
            for address in convert::external_addresses(object) {
                // Not of the cluster, so without an entity: World.
                let facts = AddressFacts { identity: Some(id), entities: Entities::NONE };
                world.addresses.insert(address, facts);
            }
        }
        add_host(&mut world, host);

        let mut changed = renew(&mut facts.policies, policies);
        changed |= renew(&mut facts.externals, locals);
        changed |= renew(&mut facts.world, world);
        changed | renew(&mut facts.errors, errors)
    }
}

fn external(object: &ExternalWorkload) -> External {
    let workload = convert::external_workload(object);
    External {
        namespace: workload.namespace,
        name: workload.name,
        uid: workload.uid,
        labels: workload.labels,
        named_ports: workload.named_ports,
        addresses: convert::external_addresses(object),
        cgroups: object.spec.cgroups.clone(),
    }
}

/// The UID of a file's object: the same for as long as it has this kind, namespace and name.
fn uid(key: &Key) -> String {
    format!("file:{key}").replace(' ', "/")
}

fn source_error(error: &DocumentError) -> SourceError {
    let mut message = String::new();
    if let Some(document) = error.document {
        let _ = write!(message, "document {document}");
    }
    if let Some(line) = error.line {
        let _ = write!(message, "{}line {line}", if message.is_empty() { "" } else { ", " });
    }
    if let Some(object) = &error.object {
        let _ = write!(message, " ({object})");
    }
    for part in [&error.field, &error.problem] {
        if !part.is_empty() {
            let _ = write!(message, "{}{part}", if message.is_empty() { "" } else { ": " });
        }
    }
    let object =
        error.object.as_ref().and_then(|title| title.split_once(' ')).map(|(_, name)| name.to_owned());
    SourceError { place: error.file.clone(), object, version: None, message }
}

#[cfg(test)]
mod tests;
