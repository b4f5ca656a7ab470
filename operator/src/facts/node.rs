//! Nodes: their own addresses, pod ranges, and what the DaemonSet controller looks at.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;

use super::address;

/// A taint of a node.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Taint {
    /// The key.
    pub key: String,
    /// The value, perhaps empty.
    pub value: String,
    /// `NoSchedule`, `PreferNoSchedule` or `NoExecute`.
    pub effect: String,
}

/// A node.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NodeFacts {
    /// Its UID.
    pub uid: String,
    /// The boot id that the kubelet reports; empty before it has.
    pub boot_id: String,
    /// Its own addresses, canonical.
    pub addresses: Vec<IpAddr>,
    /// The ranges of its pods; empty where they are not known.
    pub pod_cidrs: Vec<IpNet>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its taints.
    pub taints: Vec<Taint>,
}

impl NodeFacts {
    /// The record of a node.
    #[must_use]
    pub fn new(node: &Node) -> Self {
        let spec = node.spec.as_ref();
        let status = node.status.as_ref();
        let mut addresses: Vec<IpAddr> = status
            .and_then(|status| status.addresses.as_ref())
            .into_iter()
            .flatten()
            .filter(|entry| matches!(entry.type_.as_str(), "InternalIP" | "ExternalIP"))
            .filter_map(|entry| address(&entry.address))
            .collect();
        addresses.sort_unstable();
        addresses.dedup();
        let mut pod_cidrs: Vec<IpNet> = spec
            .and_then(|spec| spec.pod_cidrs.as_ref())
            .into_iter()
            .flatten()
            .chain(spec.and_then(|spec| spec.pod_cidr.as_ref()))
            .filter_map(|cidr| cidr.parse().ok())
            .collect();
        pod_cidrs.sort_unstable();
        pod_cidrs.dedup();
        Self {
            uid: node.metadata.uid.clone().unwrap_or_default(),
            boot_id: status
                .and_then(|status| status.node_info.as_ref())
                .map(|info| info.boot_id.clone())
                .unwrap_or_default(),
            addresses,
            pod_cidrs,
            labels: node.metadata.labels.clone().unwrap_or_default(),
            taints: spec
                .and_then(|spec| spec.taints.as_ref())
                .into_iter()
                .flatten()
                .map(|taint| Taint {
                    key: taint.key.clone(),
                    value: taint.value.clone().unwrap_or_default(),
                    effect: taint.effect.clone(),
                })
                .collect(),
        }
    }
}
