//! Objects as they are read, and the scene that they make.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use holdfast_policy::model::{Entities, NetScope, Owner, PolicyId, Workload, canonical};
use holdfast_policy::selector::Labels;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::{apps::v1 as apps, batch::v1 as batch};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt;
use serde::de::DeserializeOwned;

use super::front::{front, virtual_service};
use super::{Scene, Subject};
use crate::document::{self, Document, DocumentError, Object, Raw};
use crate::policy_status::PolicyStatus;
use crate::{AddressSlice, ExternalWorkload, GROUP, WorkloadNode, convert, pod};

/// The kinds that are read.
pub(super) const KINDS: [&str; 17] = [
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

/// Objects as they were read.
#[derive(Default)]
pub(super) struct Objects {
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
    pub(super) errors: Vec<DocumentError>,
}

impl Objects {
    pub(super) fn read(&mut self, file: &str, bytes: &[u8]) {
        let (documents, errors) = document::read(file, bytes);
        self.errors.extend(errors);
        for raw in documents {
            match raw.items() {
                Some(items) => items.iter().for_each(|item| self.take(item)),
                None => self.take(&raw),
            }
        }
    }

    pub(super) fn take(&mut self, raw: &Raw) {
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

    pub(super) fn scene(self, own_namespace: &str) -> Scene {
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

fn typed<T: DeserializeOwned>(raw: &Raw) -> Result<T, Box<DocumentError>> {
    let object = serde_path_to_error::deserialize(&raw.value);
    if raw.value.pointer("/metadata/name").is_none() {
        return Err(Box::new(raw.error("metadata.name", "is missing")));
    }
    object.map_err(|error| Box::new(raw.error(&error.path().to_string(), error.inner().to_string())))
}

pub(super) fn named(metadata: &ObjectMeta) -> (String, String) {
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
