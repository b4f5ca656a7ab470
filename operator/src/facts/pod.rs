//! Pods: who they are, where they run, and which addresses they hold.

use std::net::IpAddr;
use std::sync::Arc;

use holdfast_crds::address_slice::IdentityEntry;
use holdfast_crds::convert;
use holdfast_crds::external_workload::NamedPort;
use holdfast_crds::pod::{named_ports, service_account};
use holdfast_policy::model::{NamedPorts, Protocol};
use holdfast_policy::selector::Labels;
use holdfast_policy::validate::is_per_pod_label;
use k8s_openapi::api::core::v1::Pod;

use super::address;

/// What makes an identity distinct.
#[derive(Clone, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct IdentityKey {
    /// The namespace.
    pub namespace: String,
    /// The service account; `None` for an external workload.
    pub service_account: Option<String>,
    /// The labels, without those that differ for each pod.
    pub labels: Labels,
    /// The ports that have a name.
    pub ports: NamedPorts,
}

impl IdentityKey {
    /// The entry of an [`AddressSlice`](holdfast_crds::AddressSlice) for this identity under the number `id`.
    #[must_use]
    pub fn entry(&self, id: u32) -> IdentityEntry {
        IdentityEntry {
            id,
            namespace: self.namespace.clone(),
            service_account: self.service_account.clone(),
            labels: self.labels.clone(),
            ports: self
                .ports
                .iter()
                .map(|((name, protocol), port)| NamedPort {
                    name: name.clone(),
                    port: *port,
                    protocol: to_api(*protocol),
                })
                .collect(),
        }
    }

    /// The key that an entry was made from.
    #[must_use]
    pub fn of_entry(entry: &IdentityEntry) -> Self {
        Self {
            namespace: entry.namespace.clone(),
            service_account: entry.service_account.clone(),
            labels: entry.labels.clone(),
            ports: entry
                .ports
                .iter()
                .map(|port| ((port.name.clone(), convert::protocol(port.protocol)), port.port))
                .collect(),
        }
    }
}

/// The protocol as it stands in Holdfast's API.
#[must_use]
pub fn to_api(protocol: Protocol) -> holdfast_crds::network::Protocol {
    match protocol {
        Protocol::Tcp => holdfast_crds::network::Protocol::Tcp,
        Protocol::Udp => holdfast_crds::network::Protocol::Udp,
        Protocol::Sctp => holdfast_crds::network::Protocol::Sctp,
    }
}

/// What many pods have in common: all that policies can select them by.
#[derive(Clone, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Shape {
    /// The identity.
    pub identity: Arc<IdentityKey>,
    /// The names of all containers, in order.
    pub containers: Vec<String>,
}

/// A pod.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PodFacts {
    /// The node that it is bound to.
    pub node: Option<Arc<str>>,
    /// Whether all its containers have ended for good.
    pub finished: bool,
    /// Whether it lives in its node's network namespace.
    pub host_network: bool,
    /// Its addresses, canonical.
    pub addresses: Vec<IpAddr>,
    /// What it shares with other pods.
    pub shape: Arc<Shape>,
}

impl PodFacts {
    /// The record of a pod.
    #[must_use]
    pub fn new(pod: &Pod) -> Self {
        let spec = pod.spec.as_ref();
        let status = pod.status.as_ref();
        let mut addresses: Vec<IpAddr> = status
            .and_then(|status| status.pod_ips.as_ref())
            .into_iter()
            .flatten()
            .map(|ip| ip.ip.as_str())
            .chain(status.and_then(|status| status.pod_ip.as_deref()))
            .filter_map(address)
            .collect();
        addresses.sort_unstable();
        addresses.dedup();
        let mut names: Vec<String> = spec
            .into_iter()
            .flat_map(|spec| spec.containers.iter().chain(spec.init_containers.iter().flatten()))
            .map(|container| container.name.clone())
            .collect();
        names.extend(
            spec.and_then(|spec| spec.ephemeral_containers.as_ref())
                .into_iter()
                .flatten()
                .map(|container| container.name.clone()),
        );
        names.sort_unstable();
        let identity = IdentityKey {
            namespace: pod.metadata.namespace.clone().unwrap_or_default(),
            service_account: Some(spec.map_or_else(|| "default".to_owned(), service_account)),
            labels: pod
                .metadata
                .labels
                .iter()
                .flatten()
                .filter(|(key, _)| !is_per_pod_label(key))
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect(),
            ports: spec.map(named_ports).unwrap_or_default(),
        };
        Self {
            node: spec
                .and_then(|spec| spec.node_name.as_deref())
                .filter(|name| !name.is_empty())
                .map(Arc::from),
            finished: matches!(
                status.and_then(|status| status.phase.as_deref()),
                Some("Succeeded" | "Failed")
            ),
            host_network: spec.and_then(|spec| spec.host_network).unwrap_or_default(),
            addresses,
            shape: Arc::new(Shape { identity: Arc::new(identity), containers: names }),
        }
    }

    /// Whether policies must cover it: it has a node, and may still run something there.
    #[must_use]
    pub fn covered(&self) -> bool {
        self.node.is_some() && !self.finished
    }

    /// Whether its addresses are its own.
    #[must_use]
    pub fn publishable(&self) -> bool {
        !self.finished && !self.host_network
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(json: serde_json::Value) -> PodFacts {
        PodFacts::new(&serde_json::from_value(json).unwrap())
    }

    #[test]
    fn labels_that_differ_for_each_pod_are_in_no_identity() {
        let facts = pod(serde_json::json!({
            "metadata": {"namespace": "shop", "name": "web-1", "labels": {
                "app": "web", "pod-template-hash": "abc", "controller-revision-hash": "x",
                "statefulset.kubernetes.io/pod-name": "web-1", "apps.kubernetes.io/pod-index": "1",
                "batch.kubernetes.io/job-name": "j"}},
            "spec": {"containers": [{"name": "c"}]}
        }));
        let labels: Vec<&str> = facts.shape.identity.labels.keys().map(String::as_str).collect();
        assert_eq!(labels, ["app"]);
        assert_eq!(facts.shape.identity.service_account.as_deref(), Some("default"));
    }

    #[test]
    fn addresses_are_canonical_and_named_ports_are_the_first_containers() {
        let facts = pod(serde_json::json!({
            "metadata": {"namespace": "shop", "name": "web"},
            "spec": {"nodeName": "n1", "serviceAccountName": "web", "containers": [
                {"name": "b", "ports": [{"name": "http", "containerPort": 8080},
                                         {"name": "m3ua", "containerPort": 2905, "protocol": "SCTP"},
                                         {"name": "quic", "containerPort": 1, "protocol": "QUIC"}]},
                {"name": "a", "ports": [{"name": "http", "containerPort": 9090},
                                         {"name": "dns", "containerPort": 53, "protocol": "UDP"},
                                         {"containerPort": 7}]}]},
            "status": {"phase": "Running", "podIP": "::ffff:10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]}
        }));
        assert_eq!(facts.addresses, ["10.0.0.1", "fd00::1"].map(|ip| ip.parse::<IpAddr>().unwrap()));
        let ports: Vec<_> =
            facts.shape.identity.ports.iter().map(|((name, _), port)| (name.as_str(), *port)).collect();
        assert_eq!(ports, [("dns", 53), ("http", 8080), ("m3ua", 2905)]);
        assert_eq!(facts.shape.containers, ["a", "b"]);
        assert!(facts.covered() && facts.publishable());
    }

    #[test]
    fn a_finished_pod_is_neither_covered_nor_published() {
        let facts = pod(serde_json::json!({
            "metadata": {"namespace": "shop", "name": "web"}, "spec": {"nodeName": "n1", "containers": []},
            "status": {"phase": "Succeeded", "podIP": "10.0.0.1"}
        }));
        assert!(!facts.covered() && !facts.publishable());
    }

    #[test]
    fn an_identity_survives_the_way_through_a_slice() {
        let facts = pod(serde_json::json!({
            "metadata": {"namespace": "shop", "name": "web", "labels": {"app": "web"}},
            "spec": {"containers": [{"name": "b", "ports": [{"name": "http", "containerPort": 8080},
                {"name": "http", "containerPort": 8081, "protocol": "UDP"}]}]}
        }));
        let key = facts.shape.identity.as_ref();
        assert_eq!(IdentityKey::of_entry(&key.entry(300)), *key);
    }
}
