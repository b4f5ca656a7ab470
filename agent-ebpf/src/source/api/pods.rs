//! What is kept of a pod of this node.

use std::time::Duration;

use holdfast_crds::pod::{CONFIG_HASH, Pod, read};
use k8s_openapi::api::core::v1::{self as core, Pod as Object};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Serialize, Serializer};

use super::store::Record;

/// A pod and what it states.
pub(crate) struct PodRecord {
    object: Object,
    pub(crate) pod: Pod,
}

impl Serialize for PodRecord {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.object.serialize(serializer)
    }
}

impl Record for PodRecord {
    type Object = Object;
    const KIND: &'static str = "Pod";
    const STATE: &'static str = "pods";
    const GRACE: Duration = Duration::ZERO;

    fn new(object: Object) -> Result<Option<Self>, String> {
        let phase = object.status.as_ref().and_then(|status| status.phase.as_deref());
        if matches!(phase, Some("Succeeded" | "Failed")) {
            return Ok(None);
        }
        let pod = read(&object);
        Ok(Some(Self { object: trim(object), pod }))
    }

    fn metadata(&self) -> &ObjectMeta {
        &self.object.metadata
    }
}

/// The parts of a pod that [`read`] looks at.
fn trim(object: Object) -> Object {
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
                        {"name": "sctp", "containerPort": 9, "protocol": "SCTP"}, {"containerPort": 7}]},
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
        let record = PodRecord::new(example()).unwrap().unwrap();
        let saved = serde_json::to_string(&record).unwrap();
        assert!(!saved.contains("other") && !saved.contains("image\":\"i"), "{saved}");
        let again = PodRecord::new(serde_json::from_str(&saved).unwrap()).unwrap().unwrap();
        assert_eq!(again.pod, read(&example()));
    }

    #[test]
    fn a_finished_pod_does_not_matter() {
        let mut object = example();
        object.status.as_mut().unwrap().phase = Some("Succeeded".to_owned());
        assert!(PodRecord::new(object).unwrap().is_none());
    }
}
