//! The Holdfast API: the six kinds of group `holdfast.dev`, version `v1alpha1`, as Rust types.
//!
//! Users write [`WorkloadPolicy`], [`ClusterWorkloadPolicy`], [`NodeAgent`] and [`ExternalWorkload`]; agents write
//! [`WorkloadNode`]; the operator writes [`AddressSlice`]. The Rust types are the source of the CRDs.
//! A field exists only when the whole system honours it.

#![expect(clippy::duplicated_attributes, reason = "each print column says its type, and types repeat")]

pub mod action;
pub mod address_slice;
pub mod capabilities;
pub mod cluster_workload_policy;
pub mod command_line;
pub mod conditions;
pub mod convert;
pub mod document;
pub mod event;
pub mod explain;
pub mod external_workload;
pub mod files;
mod names;
pub mod network;
pub mod node_agent;
mod path;
pub mod pod;
pub mod policy_status;
pub mod processes;
mod rules;
pub mod schema;
pub mod selector;
pub mod syscalls;
pub mod usage;
mod validate;
pub mod workload_node;
pub mod workload_policy;
mod yaml_in;
mod yaml_out;

pub use address_slice::AddressSlice;
pub use cluster_workload_policy::ClusterWorkloadPolicy;
pub use external_workload::ExternalWorkload;
pub use node_agent::NodeAgent;
pub use schema::crds as all;
pub use workload_node::WorkloadNode;
pub use workload_policy::WorkloadPolicy;

/// The API group of all kinds.
pub const GROUP: &str = "holdfast.dev";
/// The only served version.
pub const VERSION: &str = "v1alpha1";
/// `apiVersion` as it stands in documents.
pub const API_VERSION: &str = "holdfast.dev/v1alpha1";
