//! What the operator remembers of each object: compact records, made from the API's objects and nothing else.
//!
//! Pure. A record holds only what a plan needs, so that 100,000 pods fit into the operator's memory; everything else
//! of an object is dropped in the watch, before it is kept anywhere.

use std::fmt;
use std::net::IpAddr;

pub mod external;
pub mod node;
pub mod node_agent;
pub mod pod;
pub mod policy;
pub mod report;
pub mod service;

pub use external::ExternalFacts;
pub use node::{NodeFacts, Taint};
pub use node_agent::{DaemonSetFacts, NodeAgentFacts};
pub use pod::{IdentityKey, PodFacts, Shape};
pub use policy::PolicyFacts;
pub use report::{Heartbeat, Report, Row};
pub use service::{EndpointFacts, EndpointPort, ServiceFacts, ServicePortFacts};

/// Namespace and name of an object; the namespace is empty for cluster-scoped kinds.
#[derive(Clone, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ObjectKey {
    /// The namespace, or nothing.
    pub namespace: String,
    /// The name.
    pub name: String,
}

impl ObjectKey {
    /// The key of a namespaced object.
    pub fn namespaced(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }

    /// The key of a cluster-scoped object.
    pub fn cluster(name: impl Into<String>) -> Self {
        Self { namespace: String::new(), name: name.into() }
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            f.write_str(&self.name)
        } else {
            write!(f, "{}/{}", self.namespace, self.name)
        }
    }
}

/// An object of one of Holdfast's own kinds that does not parse: what its metadata still tell, and why.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Malformed {
    /// The object's UID.
    pub uid: String,
    /// The object's generation.
    pub generation: i64,
    /// What is wrong with it.
    pub problem: String,
}

/// An address in its one form: IPv4 for an IPv4-mapped IPv6 address. `None` if it does not parse.
#[must_use]
pub fn address(text: &str) -> Option<IpAddr> {
    text.parse::<IpAddr>().ok().map(|address| address.to_canonical())
}
