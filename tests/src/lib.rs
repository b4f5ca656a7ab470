//! The rigs that Holdfast's suites run on, as a library: real kernels in QEMU ([`vm`]), a real Kubernetes control
//! plane ([`controlplane`]), nodes with kubelets for it ([`kubelet`]), and what they share: child processes that cannot
//! outlive a test ([`process`]), the tools that `make setup` brings ([`tools`]), statically linked builds for guests
//! ([`builds`]), Helm with the chart ([`chart`]), and the kubectl plugin ([`plugin`]).
//!
//! What a rig needs and does not find is an error that says how to get it; nothing is ever skipped.

pub mod builds;
pub mod chart;
pub mod controlplane;
pub mod demo;
pub mod images;
pub mod kubelet;
pub mod operator;
pub mod plugin;
pub mod process;
pub mod rights;
pub mod scenario;
pub mod tools;
pub mod vm;
pub mod wait;
