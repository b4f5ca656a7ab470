//! The cluster that files, or an API server's objects, describe: policies, workloads, Services, namespaces, and what
//! nodes report, as far as they say.
//!
//! Besides Holdfast's own kinds these are what `kubectl get -o yaml` prints of pods, of what makes pods (one workload
//! for each template), of Services, namespaces and nodes. What has no address is given one of `0.0.0.0/8`, which
//! nothing else has. Where there are AddressSlices, they say who holds the addresses that no object here has, and which
//! backends a Service has; where they and an object disagree, the object is believed, and a note says so.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use holdfast_policy::model::{
    AddressFacts, Entities, FIRST_IDENTITY, Identity, NamedPorts, NetScope, Owner, Policy, PolicyId,
    Workload, World, canonical,
};
use holdfast_policy::selector::Labels;
use holdfast_policy::validate::is_per_pod_label;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::{apps::v1 as apps, batch::v1 as batch};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::document::{self, Document, DocumentError, MAX_FILE, Object, Raw};
use crate::policy_status::PolicyStatus;
use crate::{AddressSlice, ExternalWorkload, GROUP, WorkloadNode, convert, pod};

mod front;

pub(super) use front::Front;
use front::{front, virtual_service};

/// The kinds that are read.
const KINDS: [&str; 17] = [
    "WorkloadPolicy",
    "ClusterWorkloadPolicy",
    "ExternalWorkload",
    "NodeAgent",
    "WorkloadNode",
    "AddressSlice",
    "Pod",
    "Deployment",
    "ReplicaSet",
    "StatefulSet",
    "DaemonSet",
    "ReplicationController",
    "Job",
    "CronJob",
    "Service",
    "Namespace",
    "Node",
];

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

/// Objects as they were read.
#[derive(Default)]
struct Objects {
    documents: Vec<Document>,
    statuses: BTreeMap<PolicyId, PolicyStatus>,
    slices: Vec<AddressSlice>,
    reports: BTreeMap<String, WorkloadNode>,
    subjects: Vec<Subject>,
    services: Vec<core::Service>,
    namespaces: BTreeMap<String, Labels>,
    nodes: Vec<IpAddr>,
    /// Kind, namespace and name -> where it stands.
    seen: BTreeMap<(String, String, String), String>,
    errors: Vec<DocumentError>,
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

impl Objects {
    fn read(&mut self, file: &str, bytes: &[u8]) {
        let (documents, errors) = document::read(file, bytes);
        self.errors.extend(errors);
        for raw in documents {
            match raw.items() {
                Some(items) => items.iter().for_each(|item| self.take(item)),
                None => self.take(&raw),
            }
        }
    }

    fn take(&mut self, raw: &Raw) {
        let text = |field: &str| raw.value.get(field).and_then(serde_json::Value::as_str).unwrap_or_default();
        let (version, kind) = (text("apiVersion").to_owned(), text("kind").to_owned());
        let taken = match (version.as_str(), kind.as_str()) {
            (version, "WorkloadNode") if version.split('/').next() == Some(GROUP) => {
                typed(raw).map(|object: WorkloadNode| {
                    let name = object.name_any();
                    self.reports.insert(name.clone(), object);
                    (String::new(), name)
                })
            }
            (version, "AddressSlice") if version.split('/').next() == Some(GROUP) => {
                typed(raw).map(|object: AddressSlice| {
                    let name = object.name_any();
                    self.slices.push(object);
                    (String::new(), name)
                })
            }
            (version, _) if version.split('/').next() == Some(GROUP) => match raw.clone().judge() {
                Ok(document) => {
                    let key = document.object.key();
                    self.status(&document.object, raw);
                    self.documents.push(document);
                    Ok((key.namespace.unwrap_or_default(), key.name))
                }
                Err(errors) => {
                    self.errors.extend(errors);
                    return;
                }
            },
            ("v1", "Pod") => typed(raw).map(|object: core::Pod| self.pod(&object)),
            ("v1", "Service") => typed(raw).map(|object: core::Service| {
                let name = named(&object.metadata);
                self.services.push(object);
                name
            }),
            ("v1", "Namespace") => typed(raw).map(|object: core::Namespace| {
                let name = object.metadata.name.unwrap_or_default();
                self.namespaces.insert(name.clone(), object.metadata.labels.unwrap_or_default());
                (String::new(), name)
            }),
            ("v1", "Node") => typed(raw).map(|object: core::Node| self.node(object)),
            ("v1", "ReplicationController") => typed(raw).map(|object: core::ReplicationController| {
                let template = object.spec.and_then(|spec| spec.template);
                self.template("ReplicationController", &object.metadata, template)
            }),
            ("apps/v1", "Deployment") => typed(raw).map(|object: apps::Deployment| {
                self.template("Deployment", &object.metadata, Some(object.spec.template))
            }),
            ("apps/v1", "ReplicaSet") => typed(raw).map(|object: apps::ReplicaSet| {
                self.template("ReplicaSet", &object.metadata, object.spec.template)
            }),
            ("apps/v1", "StatefulSet") => typed(raw).map(|object: apps::StatefulSet| {
                self.template("StatefulSet", &object.metadata, Some(object.spec.template))
            }),
            ("apps/v1", "DaemonSet") => typed(raw).map(|object: apps::DaemonSet| {
                self.template("DaemonSet", &object.metadata, Some(object.spec.template))
            }),
            ("batch/v1", "Job") => typed(raw).map(|object: batch::Job| {
                let template = object.spec.map(|spec| spec.template);
                self.template("Job", &object.metadata, template)
            }),
            ("batch/v1", "CronJob") => typed(raw).map(|object: batch::CronJob| {
                let template = object.spec.job_template.spec.map(|spec| spec.template);
                self.template("CronJob", &object.metadata, template)
            }),
            _ => Err(Box::new(
                raw.error("kind", format!("{version:?} {kind:?} is none of {}", KINDS.join(", "))),
            )),
        };
        match taken {
            Ok((namespace, name)) => {
                let place = format!("document {} of {}", raw.index, raw.file);
                if let Some(first) = self.seen.insert((kind, namespace, name), place) {
                    self.errors.push(raw.error("metadata.name", format!("is the name of {first} already")));
                }
            }
            Err(error) => self.errors.push(*error),
        }
    }

    /// Keeps what the operator says of a policy.
    fn status(&mut self, object: &Object, raw: &Raw) {
        let id = match object {
            Object::WorkloadPolicy(policy) => PolicyId::namespaced(
                policy.namespace().unwrap_or_else(|| convert::DEFAULT_NAMESPACE.to_owned()),
                policy.name_any(),
            ),
            Object::ClusterWorkloadPolicy(policy) => PolicyId::cluster(policy.name_any()),
            Object::ExternalWorkload(_) | Object::NodeAgent(_) => return,
        };
        let status = raw.value.get("status").cloned();
        if let Some(status) = status.and_then(|status| serde_json::from_value(status).ok()) {
            self.statuses.insert(id, status);
        }
    }

    fn pod(&mut self, object: &core::Pod) -> (String, String) {
        let (namespace, name) = named(&object.metadata);
        let mut pod = pod::read(object);
        pod.namespace.clone_from(&namespace);
        let status = object.status.as_ref();
        let finished =
            matches!(status.and_then(|status| status.phase.as_deref()), Some("Succeeded" | "Failed"));
        let unready = status.and_then(|status| status.conditions.as_ref()).is_some_and(|conditions| {
            conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status != "True")
        });
        if finished {
            // Its address may be another's by now.
            pod.addresses.clear();
        }
        let kind = "Pod";
        self.subjects.push(Subject {
            kind,
            containers: pod.containers.iter().map(|container| container.name.clone()).collect(),
            addresses: pod.addresses.clone(),
            invented: false,
            single: true,
            ready: !finished && !unready,
            nodes: object
                .spec
                .iter()
                .filter(|_| !finished)
                .filter_map(|spec| spec.node_name.clone())
                .collect(),
            workload: workload(pod, kind),
        });
        (namespace, name)
    }

    fn template(
        &mut self,
        kind: &'static str,
        metadata: &ObjectMeta,
        template: Option<core::PodTemplateSpec>,
    ) -> (String, String) {
        let (namespace, name) = named(metadata);
        let Some(template) = template else { return (namespace, name) };
        let labels = template.metadata.and_then(|metadata| metadata.labels);
        let object = core::Pod {
            metadata: ObjectMeta {
                namespace: Some(namespace.clone()),
                name: Some(name.clone()),
                labels,
                ..ObjectMeta::default()
            },
            spec: template.spec,
            status: None,
        };
        let mut pod = pod::read(&object);
        pod.owner = Some(Owner { kind: kind.to_owned(), name: name.clone() });
        self.subjects.push(Subject {
            kind,
            containers: pod.containers.iter().map(|container| container.name.clone()).collect(),
            addresses: Vec::new(),
            invented: false,
            single: false,
            ready: true,
            nodes: BTreeSet::new(),
            workload: workload(pod, kind),
        });
        (namespace, name)
    }

    fn node(&mut self, object: core::Node) -> (String, String) {
        let addresses = object.status.and_then(|status| status.addresses).unwrap_or_default();
        self.nodes
            .extend(addresses.iter().filter_map(|address| Some(canonical(address.address.parse().ok()?))));
        (String::new(), object.metadata.name.unwrap_or_default())
    }

    fn scene(self, own_namespace: &str) -> Scene {
        let world =
            convert::world(self.slices.iter().map(|slice| &slice.spec), Some(own_namespace.to_owned()));
        let mut scene = Scene {
            statuses: self.statuses,
            world,
            subjects: self.subjects,
            reports: self.reports,
            ..Scene::default()
        };
        scene.world.namespaces.extend(self.namespaces);
        for document in self.documents {
            match document.object {
                Object::WorkloadPolicy(object) => scene.policies.extend(convert::workload_policy(&object)),
                Object::ClusterWorkloadPolicy(object) => {
                    scene.policies.extend(convert::cluster_workload_policy(&object));
                }
                Object::ExternalWorkload(object) => scene.subjects.push(external(&object)),
                // It has no say in this.
                Object::NodeAgent(_) => {}
            }
        }
        scene.spread();
        let mut next = 0_u32;
        let mut invent = || {
            next += 1;
            IpAddr::from(Ipv4Addr::from(next))
        };
        scene.settle(!self.slices.is_empty(), &mut invent);
        for address in self.nodes {
            scene.world.addresses.entry(address).or_default().entities |= Entities::HOST | Entities::CLUSTER;
        }
        for service in &self.services {
            let front = front(service, &scene.subjects, &mut invent);
            let known = service.spec.as_ref().is_some_and(|spec| spec.selector.is_some());
            for address in &front.addresses {
                // The slices know which backends are ready.
                if !scene.world.services.contains_key(address) {
                    let service = virtual_service(&front, *address, known, &scene.subjects);
                    scene.world.services.insert(*address, service);
                }
            }
            scene.services.push(front);
        }
        scene
    }
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

fn typed<T: DeserializeOwned>(raw: &Raw) -> Result<T, Box<DocumentError>> {
    let object = serde_path_to_error::deserialize(&raw.value);
    if raw.value.pointer("/metadata/name").is_none() {
        return Err(Box::new(raw.error("metadata.name", "is missing")));
    }
    object.map_err(|error| Box::new(raw.error(&error.path().to_string(), error.inner().to_string())))
}

fn named(metadata: &ObjectMeta) -> (String, String) {
    let namespace = metadata.namespace.clone().unwrap_or_else(|| convert::DEFAULT_NAMESPACE.to_owned());
    (namespace, metadata.name.clone().unwrap_or_default())
}

fn workload(pod: pod::Pod, kind: &str) -> Workload {
    Workload {
        owner: pod.owner.or_else(|| Some(Owner { kind: kind.to_owned(), name: pod.name.clone() })),
        namespace: pod.namespace,
        name: pod.name,
        uid: pod.uid,
        container: None,
        labels: pod.labels,
        service_account: pod.service_account,
        named_ports: pod.named_ports,
        net: if pod.host_network { NetScope::HostPart } else { NetScope::Own },
    }
}

fn external(object: &ExternalWorkload) -> Subject {
    Subject {
        kind: "ExternalWorkload",
        workload: convert::external_workload(object),
        containers: Vec::new(),
        addresses: convert::external_addresses(object),
        invented: false,
        single: true,
        ready: false,
        nodes: object.spec.node.iter().cloned().collect(),
    }
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
