//! What Holdfast reads of a pod: who it is, where it is in the network, and what its containers are called.

use std::collections::BTreeMap;
use std::net::IpAddr;

use holdfast_policy::model::{NamedPorts, Owner, Protocol};
use holdfast_policy::selector::Labels;
use k8s_openapi::api::core::v1::{self as core, Pod as Object};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

/// What the kubelet names the cgroup of a static pod after.
const CONFIG_HASH: &str = "kubernetes.io/config.hash";
/// What a Deployment adds to the names of its `ReplicaSets`, and to the labels of their pods.
const TEMPLATE_HASH: &str = "pod-template-hash";

/// A pod, as policies see it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID, as the API has it.
    pub uid: String,
    /// What the kubelet names the cgroup of a static pod after (annotation `kubernetes.io/config.hash`).
    pub config_hash: Option<String>,
    /// Its labels.
    pub labels: Labels,
    /// Its service account.
    pub service_account: Option<String>,
    /// Its top owner.
    pub owner: Option<Owner>,
    /// Named ports of all of its containers.
    pub named_ports: NamedPorts,
    /// It uses the node's own network namespace.
    pub host_network: bool,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Its containers, init and ephemeral ones included.
    pub containers: Vec<Container>,
}

/// A container of a pod.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Container {
    /// Its name in the pod.
    pub name: String,
    /// The runtime's id of it without the runtime's name; `None` until it was created.
    pub id: Option<String>,
}

/// Reads a pod.
#[must_use]
pub fn read(object: &Object) -> Pod {
    let metadata = &object.metadata;
    let spec = object.spec.as_ref();
    let labels = metadata.labels.clone().unwrap_or_default();
    let annotation = metadata.annotations.as_ref().and_then(|annotations| annotations.get(CONFIG_HASH));
    let addresses = object.status.iter().flat_map(|status| {
        let all = status.pod_ips.iter().flatten().map(|address| address.ip.as_str());
        all.chain(status.pod_ip.as_deref())
    });
    let mut addresses: Vec<std::net::IpAddr> = addresses
        .filter_map(|address| address.parse::<std::net::IpAddr>().ok())
        .map(|address| address.to_canonical())
        .collect();
    addresses.sort_unstable();
    addresses.dedup();
    Pod {
        namespace: metadata.namespace.clone().unwrap_or_default(),
        name: metadata.name.clone().unwrap_or_default(),
        uid: metadata.uid.clone().unwrap_or_default(),
        config_hash: annotation.cloned(),
        service_account: spec.map(service_account),
        owner: owner(metadata.owner_references.as_deref().unwrap_or_default(), &labels),
        named_ports: spec.map(named_ports).unwrap_or_default(),
        host_network: spec.and_then(|spec| spec.host_network).unwrap_or_default(),
        addresses,
        containers: containers(object),
        labels,
    }
}

/// The service account that a pod of this spec runs as.
#[must_use]
pub fn service_account(spec: &core::PodSpec) -> String {
    let named = spec.service_account_name.as_ref().filter(|name| !name.is_empty());
    named.cloned().unwrap_or_else(|| "default".to_owned())
}

/// The protocol of a port as Kubernetes' own objects have it, TCP where none is given; `None` for one that has no ports.
#[must_use]
pub fn protocol(name: Option<&str>) -> Option<Protocol> {
    let Some(name) = name else { return Some(Protocol::Tcp) };
    Protocol::ALL.into_iter().find(|protocol| protocol.to_string() == name)
}

/// The named ports of a pod; the first container that has a name wins, as it does for probes and Services.
#[must_use]
pub fn named_ports(spec: &core::PodSpec) -> NamedPorts {
    let mut named = NamedPorts::new();
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    for port in containers.flat_map(|container| container.ports.iter().flatten()) {
        let Some(protocol) = protocol(port.protocol.as_deref()) else { continue };
        if let (Some(name), Ok(number @ 1..)) = (&port.name, u16::try_from(port.container_port)) {
            named.entry((name.clone(), protocol)).or_insert(number);
        }
    }
    named
}

fn containers(object: &Object) -> Vec<Container> {
    let spec = object.spec.as_ref();
    let status = object.status.as_ref();
    let statuses = status.into_iter().flat_map(|status| {
        let init = status.init_container_statuses.iter().flatten();
        let main = status.container_statuses.iter().flatten();
        init.chain(main).chain(status.ephemeral_container_statuses.iter().flatten())
    });
    let ids: BTreeMap<&str, &str> =
        statuses.filter_map(|status| Some((status.name.as_str(), status.container_id.as_deref()?))).collect();
    let names = spec.into_iter().flat_map(|spec| {
        let init = spec.init_containers.iter().flatten().map(|container| &container.name);
        let main = spec.containers.iter().map(|container| &container.name);
        init.chain(main).chain(spec.ephemeral_containers.iter().flatten().map(|container| &container.name))
    });
    names
        .map(|name| Container {
            name: name.clone(),
            // `containerd://<id>`; empty while there is none.
            id: ids
                .get(name.as_str())
                .map(|id| id.split_once("://").map_or(*id, |(_, id)| id))
                .filter(|id| !id.is_empty())
                .map(str::to_owned),
        })
        .collect()
}

/// The top owner. A pod names its own controller only; what is above it is told by how controllers name what they make:
/// a Deployment's `ReplicaSet` has the pods' template hash at the end of its name, a `CronJob`'s Job its time in minutes.
fn owner(references: &[OwnerReference], labels: &BTreeMap<String, String>) -> Option<Owner> {
    let controller = references.iter().find(|reference| reference.controller == Some(true))?;
    let of = |kind: &str, name: &str| Some(Owner { kind: kind.to_owned(), name: name.to_owned() });
    match controller.kind.as_str() {
        "ReplicaSet" => {
            let hash = labels.get(TEMPLATE_HASH);
            let base = hash.and_then(|hash| controller.name.strip_suffix(hash.as_str())?.strip_suffix('-'));
            match base {
                Some(base) if !base.is_empty() => of("Deployment", base),
                _ => of("ReplicaSet", &controller.name),
            }
        }
        "Job" => match controller.name.rsplit_once('-') {
            Some((base, minutes))
                if !base.is_empty()
                    && minutes.len() >= 8
                    && minutes.bytes().all(|byte| byte.is_ascii_digit()) =>
            {
                of("CronJob", base)
            }
            _ => of("Job", &controller.name),
        },
        kind => of(kind, &controller.name),
    }
}

/// The pod with nothing but what [`read`] looks at: what it says is the same.
#[must_use]
pub fn trim(object: Object) -> Object {
    let Object { mut metadata, spec, status } = object;
    metadata.managed_fields = None;
    metadata.finalizers = None;
    if let Some(annotations) = &mut metadata.annotations {
        annotations.retain(|key, _| key == CONFIG_HASH);
    }
    let container = |container: core::Container| core::Container {
        name: container.name,
        ports: container.ports,
        ..core::Container::default()
    };
    let statuses = |statuses: Option<Vec<core::ContainerStatus>>| {
        statuses.map(|statuses| {
            let trimmed = statuses.into_iter().map(|status| core::ContainerStatus {
                name: status.name,
                container_id: status.container_id,
                ..core::ContainerStatus::default()
            });
            trimmed.collect()
        })
    };
    let spec = spec.map(|spec| core::PodSpec {
        containers: spec.containers.into_iter().map(container).collect(),
        init_containers: spec.init_containers.map(|init| init.into_iter().map(container).collect()),
        ephemeral_containers: spec.ephemeral_containers.map(|ephemeral| {
            let trimmed = ephemeral.into_iter().map(|container| core::EphemeralContainer {
                name: container.name,
                ..core::EphemeralContainer::default()
            });
            trimmed.collect()
        }),
        host_network: spec.host_network,
        node_name: spec.node_name,
        service_account_name: spec.service_account_name,
        ..core::PodSpec::default()
    });
    let status = status.map(|status| core::PodStatus {
        phase: status.phase,
        pod_ip: status.pod_ip,
        pod_ips: status.pod_ips,
        container_statuses: statuses(status.container_statuses),
        init_container_statuses: statuses(status.init_container_statuses),
        ephemeral_container_statuses: statuses(status.ephemeral_container_statuses),
        ..core::PodStatus::default()
    });
    Object { metadata, spec, status }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn example() -> Object {
        serde_json::from_value(json!({
            "metadata": {
                "namespace": "shop", "name": "web-5d8f-x", "uid": "u1", "resourceVersion": "7",
                "labels": {"app": "web", "pod-template-hash": "5d8f"},
                "annotations": {"kubernetes.io/config.hash": "abc", "other": "x"},
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-5d8f", "uid": "r",
                    "controller": true}],
            },
            "spec": {
                "nodeName": "n1", "serviceAccountName": "web", "hostNetwork": false,
                "initContainers": [{"name": "init", "image": "i", "ports": [{"name": "http", "containerPort": 1}]}],
                "containers": [
                    {"name": "main", "image": "i", "ports": [
                        {"name": "http", "containerPort": 8080}, {"name": "dns", "containerPort": 53, "protocol": "UDP"},
                        {"name": "m3ua", "containerPort": 2905, "protocol": "SCTP"},
                        {"name": "quic", "containerPort": 9, "protocol": "QUIC"}, {"containerPort": 7}]},
                    {"name": "new", "image": "i"},
                ],
                "ephemeralContainers": [{"name": "debug", "image": "i"}],
            },
            "status": {
                "phase": "Running", "podIP": "10.0.0.5", "podIPs": [{"ip": "10.0.0.5"}, {"ip": "fd00::5"}],
                "containerStatuses": [
                    {"name": "main", "containerID": "containerd://c1", "image": "i", "imageID": "", "ready": true,
                     "restartCount": 0},
                    {"name": "new", "image": "i", "imageID": "", "ready": false, "restartCount": 0}],
                "initContainerStatuses": [{"name": "init", "containerID": "cri-o://c0", "image": "i", "imageID": "",
                    "ready": true, "restartCount": 0}],
                "ephemeralContainerStatuses": [{"name": "debug", "containerID": "docker://c2", "image": "i",
                    "imageID": "", "ready": false, "restartCount": 0}],
            },
        }))
        .unwrap()
    }

    #[test]
    fn what_is_kept_of_a_pod_says_the_same_as_the_pod() {
        let saved = serde_json::to_string(&trim(example())).unwrap();
        assert!(!saved.contains("other") && !saved.contains("image\":\"i"), "{saved}");
        let again: Object = serde_json::from_str(&saved).unwrap();
        assert_eq!(read(&again), read(&example()));
    }

    #[test]
    fn a_pod_is_read_with_all_its_containers_and_ports() {
        let pod = read(&example());
        assert_eq!(pod.owner, Some(Owner { kind: "Deployment".into(), name: "web".into() }));
        assert_eq!(pod.config_hash.as_deref(), Some("abc"));
        assert_eq!(pod.service_account.as_deref(), Some("web"));
        let addresses: Vec<String> = pod.addresses.iter().map(ToString::to_string).collect();
        assert_eq!(addresses, ["10.0.0.5", "fd00::5"]);
        let containers: Vec<_> = pod
            .containers
            .iter()
            .map(|container| (container.name.as_str(), container.id.as_deref()))
            .collect();
        assert_eq!(
            containers,
            [("init", Some("c0")), ("main", Some("c1")), ("new", None), ("debug", Some("c2"))]
        );
        let expected =
            [("dns", Protocol::Udp, 53), ("http", Protocol::Tcp, 8080), ("m3ua", Protocol::Sctp, 2905)];
        let expected = expected.map(|(name, protocol, port)| ((name.to_owned(), protocol), port));
        assert_eq!(pod.named_ports, NamedPorts::from(expected));
    }

    #[test]
    fn the_top_owner_is_found_by_the_names_of_what_it_makes() {
        let hash = BTreeMap::from([(TEMPLATE_HASH.to_owned(), "5d8f".to_owned())]);
        let owner_of = |kind: &str, name: &str, controller: bool, labels: &BTreeMap<String, String>| {
            let reference = OwnerReference {
                kind: kind.to_owned(),
                name: name.to_owned(),
                controller: Some(controller),
                ..OwnerReference::default()
            };
            owner(&[reference], labels).map(|owner| owner.to_string())
        };
        let none = BTreeMap::new();
        for (kind, name, labels, expected) in [
            ("ReplicaSet", "web-5d8f", &hash, "Deployment/web"),
            ("ReplicaSet", "a-b-5d8f", &hash, "Deployment/a-b"),
            ("ReplicaSet", "alone", &hash, "ReplicaSet/alone"),
            ("ReplicaSet", "web-5d8f", &none, "ReplicaSet/web-5d8f"),
            ("Job", "backup-29384756", &none, "CronJob/backup"),
            ("Job", "migrate-2024", &none, "Job/migrate-2024"),
            ("StatefulSet", "db", &none, "StatefulSet/db"),
            ("DaemonSet", "agent", &none, "DaemonSet/agent"),
            ("Node", "n1", &none, "Node/n1"),
        ] {
            assert_eq!(owner_of(kind, name, true, labels).as_deref(), Some(expected), "{kind} {name}");
        }
        assert_eq!(owner_of("ReplicaSet", "web-5d8f", false, &hash), None);
    }
}
