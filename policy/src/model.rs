//! Policies, workloads and the known network as plain data: the input of the oracle and of the compiler.
//!
//! Addresses are canonical everywhere: an IPv4-mapped IPv6 address is its IPv4 address (see [`canonical`]).

use std::net::IpAddr;

pub mod access;
pub mod network;
pub mod policy;
pub mod syscall;
pub mod world;

pub use access::{
    Capabilities, Capability, Executables, FileRule, Files, Operation, ProcessDefault, ProcessRule, Processes,
};
pub use network::{
    Direction, Entity, IpBlock, NetRule, Network, OnDeny, Peer, PortMatch, PortRef, Protocol, Rules,
};
pub use policy::{Mode, NamespaceTarget, Policy, PolicyId, RulePath, RuleRef, Target, selecting};
pub use syscall::{
    ALWAYS_ALLOWED, Action, ArgCondition, ArgOp, Fallback, SyscallDefault, SyscallRule, Syscalls,
};
pub use world::{
    AddressFacts, Backends, Entities, FAILSAFE, FIRST_IDENTITY, Identity, NamedPorts, NetScope, Owner,
    Service, Workload, World,
};

/// The address in its one form: IPv4 for an IPv4-mapped IPv6 address, itself for every other.
#[must_use]
pub fn canonical(address: IpAddr) -> IpAddr {
    address.to_canonical()
}
