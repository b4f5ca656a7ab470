//! The network part of a policy's spec.

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};

use crate::rules;
use crate::selector::LabelSelector;

/// Network rules. A direction that is present, even as `{}`, isolates the workload in that direction.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[schemars(extend("x-kubernetes-validations" = rules::schema(&rules::network())))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Network {
    /// Traffic to the workload. Absent: not isolated by this policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress: Option<Ingress>,
    /// Traffic from the workload. Absent: not isolated by this policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress: Option<Egress>,
    /// What the sender notices of a refusal.
    #[serde(default)]
    pub on_deny: OnDeny,
}

/// What the sender notices of a refusal.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum OnDeny {
    /// Silence: the packet vanishes.
    #[default]
    Drop,
    /// The workload's own connect fails with EPERM (SCTP: silence).
    Reject,
}

/// Rules for traffic to the workload.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Ingress {
    /// What is allowed; traffic that no rule allows is refused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub allow: Vec<IngressRule>,
    /// What is refused, whatever this or another policy allows.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub deny: Vec<IngressRule>,
}

/// Rules for traffic from the workload.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Egress {
    /// What is allowed; traffic that no rule allows is refused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub allow: Vec<EgressRule>,
    /// What is refused, whatever this or another policy allows.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub deny: Vec<EgressRule>,
}

/// One rule for traffic to the workload. Both `from` and `ports` must match.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct IngressRule {
    /// Who sends; any one of them. Absent: anyone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 32))]
    pub from: Option<Vec<Peer>>,
    /// The workload's ports; any one of them. Absent: every protocol and port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 32), extend("x-kubernetes-validations" = rules::schema(&rules::ports())))]
    pub ports: Option<Vec<PortMatch>>,
}

/// One rule for traffic from the workload. Both `to` and `ports` must match.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[schemars(extend("x-kubernetes-validations" = rules::schema(&rules::egress_rule())))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EgressRule {
    /// Who receives; any one of them. Absent: anyone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 32))]
    pub to: Option<Vec<Peer>>,
    /// The receiver's ports; any one of them. Absent: every protocol and port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 32), extend("x-kubernetes-validations" = rules::schema(&rules::ports())))]
    pub ports: Option<Vec<PortMatch>>,
}

/// The other end of a connection. Exactly one form: pods (`podSelector`, `namespaceSelector` or both), a service
/// account, an address block, or an entity.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[schemars(extend("x-kubernetes-validations" = rules::schema(&rules::peer())))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Peer {
    /// Pods and external workloads with these labels, in the namespaces of `namespaceSelector`, or, without one, in the
    /// policy's own namespace (a cluster policy: in every namespace).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_selector: Option<LabelSelector>,
    /// Workloads of the namespaces with these labels; without `podSelector`, all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace_selector: Option<LabelSelector>,
    /// Workloads that run as this service account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_account: Option<ServiceAccountPeer>,
    /// Addresses, whoever holds them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip_block: Option<IpBlock>,
    /// A group of addresses that the cluster knows by its role.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entity: Option<Entity>,
}

/// Workloads by their service account.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ServiceAccountPeer {
    /// The service account's name.
    #[schemars(schema_with = "crate::schema::dns_subdomain")]
    pub name: String,
    /// Its namespace. Absent: the policy's own namespace; in a cluster policy: any namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::dns_label")]
    pub namespace: Option<String>,
}

/// An address block without some smaller blocks.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[schemars(extend("x-kubernetes-validations" = rules::schema(&rules::ip_block())))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct IpBlock {
    /// The block, such as `10.0.0.0/8` or `2001:db8::/32`, without host bits.
    #[schemars(schema_with = "crate::schema::cidr")]
    pub cidr: String,
    /// Blocks inside `cidr` that are left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "crate::schema::cidrs")]
    pub except: Vec<String>,
}

/// A group of addresses that the cluster knows by its role. One address can be several at once.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum Entity {
    /// Any node's own addresses, and so hostNetwork pods.
    Host,
    /// Everything that belongs to the cluster: its pods and nodes.
    Cluster,
    /// Addresses that nobody in the cluster knows.
    World,
    /// The Kubernetes API server's addresses.
    KubeApiserver,
}

/// A protocol with a port or a range of ports.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[schemars(extend("x-kubernetes-validations" = rules::schema(&rules::port_match())))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PortMatch {
    /// The protocol.
    #[serde(default)]
    pub protocol: Protocol,
    /// A number, or a name that is resolved for each destination pod. Absent: every port of the protocol.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<Port>,
    /// The last port of a range that starts at `port`, inclusive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub end_port: Option<u16>,
}

/// A transport protocol.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

/// A port by number (1 to 65535) or by the name that a container gives it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Port {
    /// A port number.
    Number(u16),
    /// A named container port.
    Name(String),
}

impl JsonSchema for Port {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Port".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        crate::schema::port(generator)
    }
}
