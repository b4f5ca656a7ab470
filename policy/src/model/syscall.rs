//! The system call half of a policy.

use std::fmt;

/// The system call rules of a policy. A call that no rule matches is allowed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Syscalls {
    /// The first that matches decides.
    pub rules: Vec<SyscallRule>,
    /// What a node may do where it cannot give EPERM to a rule with [`Action::Deny`].
    pub fallback: Fallback,
}

/// What a node may do where it cannot give EPERM.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Fallback {
    /// Nothing: the rule is reported as not covered.
    #[default]
    None,
    /// Kill the process, though the call's effect may stand.
    Kill,
}

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SyscallRule {
    /// Names of calls, of any architecture, and of groups (`@module`).
    pub names: Vec<String>,
    /// Conditions on arguments; all must hold.
    pub args: Vec<ArgCondition>,
    /// The answer.
    pub action: Action,
}

/// The answer to a call, from the mildest to the strictest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Action {
    /// Let through.
    Allow,
    /// Let through, and count.
    Audit,
    /// Refuse with EPERM.
    Deny,
    /// Refuse, and kill the process.
    Kill,
}

impl Action {
    /// Whether the call is refused.
    #[must_use]
    pub fn refuses(self) -> bool {
        self >= Self::Deny
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Allow => "Allow",
            Self::Audit => "Audit",
            Self::Deny => "Deny",
            Self::Kill => "Kill",
        })
    }
}

/// A condition on one argument's value.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ArgCondition {
    /// Which argument, 0 to 5.
    pub index: u8,
    /// The comparison: `argument OP value`, at the width and signedness of the call's signature.
    pub op: ArgOp,
    /// The value, negative ones in two's complement of 64 bits.
    pub value: u64,
}

/// A comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ArgOp {
    /// `==`
    Equal,
    /// `!=`
    NotEqual,
    /// `<`
    LessThan,
    /// `<=`
    LessOrEqual,
    /// `>`
    GreaterThan,
    /// `>=`
    GreaterOrEqual,
    /// `(argument & mask) == value`
    MaskedEqual {
        /// The bits that are compared.
        mask: u64,
    },
}
