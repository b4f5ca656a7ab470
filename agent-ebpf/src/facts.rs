//! What a source knows: policies, the network around, and this node's pods and external workloads. Where it comes from,
//! the API server or a directory of files, makes no difference to anything after it.

use std::net::IpAddr;
use std::sync::Arc;

pub use holdfast_crds::pod::{Container, Pod};
use holdfast_policy::model::{NamedPorts, Policy, World};
use holdfast_policy::selector::Labels;

/// One consistent view. Parts are shared, so that a new view costs what changed.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// Policies in force: for one whose newest version is bad, its last good one.
    pub policies: Arc<Vec<Policy>>,
    /// Identities, addresses, Services and namespaces.
    pub world: Arc<World>,
    /// Pods bound to this node that are not finished.
    pub pods: Arc<Vec<Pod>>,
    /// External workloads whose `node` is this one.
    pub externals: Arc<Vec<External>>,
    /// What could not be read. The last good state of each is in the other members.
    pub errors: Arc<Vec<SourceError>>,
    /// Everything known at start has been read once.
    pub complete: bool,
}

/// An external workload on this machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct External {
    /// Namespace of the object.
    pub namespace: String,
    /// Name of the object.
    pub name: String,
    /// UID of the object; of a file's, a name made of the object's.
    pub uid: String,
    /// Labels of the object.
    pub labels: Labels,
    /// Named ports.
    pub named_ports: NamedPorts,
    /// Addresses.
    pub addresses: Vec<IpAddr>,
    /// Paths in the cgroup v2 tree; empty = the whole host.
    pub cgroups: Vec<String>,
}

/// An object or a file that could not be taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceError {
    /// The file, or the kind of object.
    pub place: String,
    /// `namespace/name`, where it could be read.
    pub object: Option<String>,
    /// UID and generation, where known.
    pub version: Option<(String, i64)>,
    /// What is wrong, naming the field.
    pub message: String,
}
