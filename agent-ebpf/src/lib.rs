//! The node agent of Holdfast: brings policies into the kernel, keeps them there, and says what became of each.
//!
//! A source ([`source`]) yields facts ([`facts`]); workloads are found in the cgroup tree ([`cgroups`], [`workloads`]);
//! policies are compiled by `holdfast-policy`, turned into rows ([`lower`]), compared with what the kernel has
//! ([`tables`]) and written ([`engine`], [`maps`]) where programs that were loaded once ([`loader`], [`hooks`]) read them.

pub mod abi;
pub mod break_glass;
pub mod cgroups;
pub mod check;
pub mod engine;
pub mod events;
pub mod explain;
pub mod facts;
pub mod hooks;
pub mod loader;
pub mod lower;
pub mod maps;
pub mod mechanisms;
pub mod metrics;
pub mod probe;
pub mod proof;
pub mod run;
pub mod sockets;
pub mod source;
pub mod status;
pub mod tables;
pub mod workloads;
