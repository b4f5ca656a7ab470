//! What a Holdfast policy means, and its translation for the kernel.
//!
//! * [`model`]: policies, workloads and what is known of the network, as plain data.
//! * [`compile`]: policies, workloads and the known network become classes and tables that a kernel program reads
//!   with a few look-ups; [`compile::lookup`] reads them exactly as the kernel does.
//! * [`syscalls`]: names, numbers, groups and signatures of system calls.
//!
//! Nothing here knows Kubernetes' client, the kernel, the clock or the disk: the same input gives the same output.

pub mod compile;
pub mod error;
pub mod model;
pub mod selector;
pub mod syscalls;
