//! The cluster that files, or an API server's objects, describe: policies, workloads, Services, namespaces, and what
//! nodes report, as far as they say.
//!
//! Besides Holdfast's own kinds these are what `kubectl get -o yaml` prints of pods, of what makes pods (one workload
//! for each template), of Services, namespaces and nodes. What has no address is given one of `0.0.0.0/8`, which
//! nothing else has. Where there are AddressSlices, they say who holds the addresses that no object here has, and which
//! backends a Service has; where they and an object disagree, the object is believed, and a note says so.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use holdfast_policy::model::{
    AddressFacts, Entities, FIRST_IDENTITY, Identity, NamedPorts, NetScope, Owner, Policy, PolicyId,
    Workload, World,
};
use holdfast_policy::selector::Labels;
use holdfast_policy::validate::is_per_pod_label;
use serde_json::Value;

use crate::WorkloadNode;
use crate::document::{DocumentError, MAX_FILE, Raw};
use crate::policy_status::PolicyStatus;

mod front;
mod objects;

pub(super) use front::Front;
use objects::{KINDS, Objects};

/// Whether it is the kind of something that runs or leads to what runs, whatever its letters' case.
pub(super) fn is_kind(kind: &str) -> bool {
    const NOT: [&str; 7] = [
        "WorkloadPolicy",
        "ClusterWorkloadPolicy",
        "NodeAgent",
        "WorkloadNode",
        "AddressSlice",
        "Namespace",
        "Node",
    ];
    KINDS.iter().any(|known| known.eq_ignore_ascii_case(kind) && !NOT.contains(known))
}

/// What the files describe.
#[derive(Debug, Default)]
pub struct Scene {
    pub(super) policies: Vec<Policy>,
    /// What the operator says of those that have a status.
    pub(super) statuses: BTreeMap<PolicyId, PolicyStatus>,
    pub(super) world: World,
    pub(super) subjects: Vec<Subject>,
    pub(super) services: Vec<Front>,
    /// What agents report, by node. Empty where nothing is known of any.
    pub(super) reports: BTreeMap<String, WorkloadNode>,
    /// What limits every answer.
    pub(super) notes: Vec<String>,
}

/// A workload.
#[derive(Debug, Clone)]
pub(super) struct Subject {
    /// The kind of the object that states it.
    pub(super) kind: &'static str,
    pub(super) workload: Workload,
    pub(super) containers: Vec<String>,
    pub(super) addresses: Vec<IpAddr>,
    /// The address was made up.
    pub(super) invented: bool,
    /// Whether this is one running thing, and no template of many.
    pub(super) single: bool,
    /// Whether a Service sends to it.
    ready: bool,
    /// The nodes that it runs on, as far as they are known.
    pub(super) nodes: BTreeSet<String>,
}

impl Scene {
    /// Reads the files; `-` is `stdin`. `own_namespace` is the one that Holdfast runs in, which cluster policies leave
    /// alone.
    ///
    /// # Errors
    /// Everything that is wrong with them.
    pub fn read(
        files: &[PathBuf],
        mut stdin: impl Read,
        own_namespace: &str,
    ) -> Result<Self, Vec<DocumentError>> {
        let mut objects = Objects::default();
        for file in files {
            let name = file.display().to_string();
            let bytes = if file == Path::new("-") {
                contents(&mut stdin)
            } else {
                std::fs::File::open(file).and_then(contents)
            };
            match bytes {
                Ok(bytes) => objects.read(&name, &bytes),
                Err(error) => objects.errors.push(DocumentError {
                    file: name,
                    document: None,
                    line: None,
                    object: None,
                    field: String::new(),
                    problem: format!("cannot be read: {error}"),
                }),
            }
        }
        if objects.errors.is_empty() { Ok(objects.scene(own_namespace)) } else { Err(objects.errors) }
    }

    /// The scene of objects as an API server has them, each with its `apiVersion` and `kind`. One that cannot be read
    /// is left out, and a note of every answer says so.
    #[must_use]
    pub fn of(values: Vec<Value>, own_namespace: &str) -> Self {
        let mut objects = Objects::default();
        for (value, index) in values.into_iter().zip(1..) {
            objects.take(&Raw { file: "the cluster".to_owned(), index, line: 1, value });
        }
        let left_out: Vec<String> = objects
            .errors
            .drain(..)
            .map(|error| {
                let object = error.object.unwrap_or_default();
                let field = if error.field.is_empty() { String::new() } else { format!("{}: ", error.field) };
                format!("{object} is left out, as this version cannot read it: {field}{}", error.problem)
            })
            .collect();
        let mut scene = objects.scene(own_namespace);
        scene.notes.extend(left_out);
        scene
    }

    /// Adds to what every answer notes.
    pub fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }
}

/// Whether the address was made up.
pub(super) fn is_invented(address: IpAddr) -> bool {
    matches!(address, IpAddr::V4(address) if address.octets()[0] == 0)
}

fn contents(from: impl Read) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let limit = u64::try_from(MAX_FILE).unwrap_or(u64::MAX).saturating_add(1);
    from.take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
}

impl Scene {
    /// What is made of a template runs where its pods do.
    fn spread(&mut self) {
        let mut nodes: BTreeMap<(String, Owner), BTreeSet<String>> = BTreeMap::new();
        for subject in self.subjects.iter().filter(|subject| subject.single) {
            if let Some(owner) = &subject.workload.owner {
                let key = (subject.workload.namespace.clone(), owner.clone());
                nodes.entry(key).or_default().extend(subject.nodes.iter().cloned());
            }
        }
        for subject in self.subjects.iter_mut().filter(|subject| !subject.single) {
            let owner = Owner { kind: subject.kind.to_owned(), name: subject.workload.name.clone() };
            if let Some(found) = nodes.get(&(subject.workload.namespace.clone(), owner)) {
                subject.nodes.clone_from(found);
            }
        }
    }

    /// Gives every workload an address, and every address its facts. `published`: there are slices to compare with.
    fn settle(&mut self, published: bool, invent: &mut impl FnMut() -> IpAddr) {
        let world = &mut self.world;
        let first = world.identities.last_key_value().map_or(FIRST_IDENTITY, |(id, _)| id.saturating_add(1));
        let mut identities: BTreeMap<Distinct, u32> = BTreeMap::new();
        for subject in &mut self.subjects {
            if subject.addresses.is_empty() {
                subject.addresses.push(invent());
                subject.invented = true;
            }
            let (entities, distinct) = facts(subject);
            let next = first.saturating_add(u32::try_from(identities.len()).unwrap_or(u32::MAX / 2));
            let identity = distinct.clone().map(|distinct| *identities.entry(distinct).or_insert(next));
            for address in &subject.addresses {
                let told = world.addresses.get(address).copied();
                let same = told.is_some_and(|told| {
                    let held = told.identity.and_then(|id| world.identities.get(&id)).map(of_identity);
                    held == distinct && told.entities.contains(entities)
                });
                if same {
                    continue;
                }
                if published && !subject.invented && subject.workload.net == NetScope::Own {
                    let what = if told.is_some() { "another workload's" } else { "nobody's" };
                    self.notes.push(format!(
                        "nodes take {address} of {}/{} for {what}, as the AddressSlices say",
                        subject.workload.namespace, subject.workload.name
                    ));
                }
                // What is an API server's too, say, stays so.
                let entities = told.map_or(Entities::NONE, |told| told.entities) | entities;
                world.addresses.insert(*address, AddressFacts { identity, entities });
            }
        }
        for ((namespace, service_account, labels, named_ports), id) in identities {
            let identity = Identity { id, namespace, service_account, labels, named_ports };
            world.identities.insert(id, identity);
        }
    }
}

/// What makes one identity another: namespace, service account, labels and named ports.
type Distinct = (String, Option<String>, Labels, NamedPorts);

fn of_identity(identity: &Identity) -> Distinct {
    let Identity { id: _, namespace, service_account, labels, named_ports } = identity.clone();
    (namespace, service_account, labels, named_ports)
}

/// What peers know of a workload's addresses.
fn facts(subject: &Subject) -> (Entities, Option<Distinct>) {
    let workload = &subject.workload;
    let is_pod = subject.kind != "ExternalWorkload";
    if is_pod && workload.net != NetScope::Own {
        return (Entities::HOST | Entities::CLUSTER, None);
    }
    let labels = workload.labels.iter().filter(|(key, _)| !is_per_pod_label(key));
    let distinct = (
        workload.namespace.clone(),
        workload.service_account.clone(),
        labels.map(|(key, value)| (key.clone(), value.clone())).collect(),
        workload.named_ports.clone(),
    );
    (if is_pod { Entities::CLUSTER } else { Entities::NONE }, Some(distinct))
}
