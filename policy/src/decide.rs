//! The reference verdict: what the kernel must answer, written straight from the semantics.
//!
//! Simple on purpose and slow by design: it looks at every policy, rule and peer for every question, and shares nothing
//! with [`compile`](crate::compile) but the model. It is the oracle of the tests and the engine of `explain`.

mod network;
mod syscall;

pub use network::{
    AllowedBy, AllowingBackend, Enforced, Packet, ServiceProblem, Transport, Verdict, Via, decide_packet,
};
pub use syscall::{Call, SyscallVerdict, decide_syscall};
