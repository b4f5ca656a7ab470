//! What a Holdfast policy means, and its translation for the kernel.
//!
//! * [`model`]: policies, workloads and what is known of the network, as plain data.
//! * [`validate`]: what can be said against a policy without knowing a cluster.
//! * [`decide`]: the reference verdict, written straight from the semantics. It is the oracle of every test and the
//!   engine of `holdfast-agent explain`.
//! * [`compile`]: policies, workloads and the known network become classes and tables that a kernel program reads
//!   with a few look-ups; [`compile::lookup`] reads them exactly as the kernel does.
//! * [`paths`]: patterns of paths, and the automaton that matches many at once.
//! * [`syscalls`]: names, numbers, groups and signatures of system calls.
//! * `arbitrary` (feature of that name): random input for tests that hold two verdicts against each other.
//!
//! Nothing here knows Kubernetes' client, the kernel, the clock or the disk: the same input gives the same output.

#[cfg(any(test, feature = "arbitrary"))]
pub mod arbitrary;
pub mod compile;
pub mod decide;
pub mod error;
pub mod model;
pub mod paths;
pub mod selector;
#[cfg(test)]
mod semantics;
pub mod syscalls;
pub mod validate;
