//! The reference verdict: what the kernel must answer, written straight from the semantics.
//!
//! Simple on purpose and slow by design: it looks at every policy, rule and peer for every question, and shares nothing
//! with [`compile`](crate::compile) but the model. It is the oracle of the tests and the engine of `explain`.

use crate::model::{Action, RuleRef};

mod access;
mod network;
mod syscall;

pub use access::{Executable, FileAccess, decide_capability, decide_executable, decide_file};
pub use network::{
    AllowedBy, AllowingBackend, Enforced, Packet, ServiceProblem, Transport, Verdict, Via, decide_packet,
};
pub use syscall::{Call, decide_syscall};

/// What happens to a system call, or to an access to an executable, a file or a capability, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judgement {
    /// The strictest answer of the Enforce policies.
    pub action: Action,
    /// The rule that gives it; `None` for [`Action::Allow`].
    pub rule: Option<RuleRef>,
    /// For what is let through: the rule of an Audit policy with a stricter answer still, and that answer.
    pub audited: Option<(Action, RuleRef)>,
}
