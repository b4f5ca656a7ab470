//! The system call half of a policy.

use std::fmt;

use crate::syscalls::{self, Abi, ArgKind, Entry, Operand};

/// The calls that are always allowed: without them a process cannot even end, or return from a signal. A rule that
/// names one is refused; a group that holds one does not concern it.
pub const ALWAYS_ALLOWED: [&str; 5] = ["exit", "exit_group", "restart_syscall", "rt_sigreturn", "sigreturn"];

/// Where the argument of a condition is found when the call `name` is made by this entry of an ABI.
///
/// `None` where it cannot be compared there: it lies in memory or in two registers, the entry is another call whose
/// arguments are not laid out alike, or the value is wider than the argument. Such a condition counts as met in a rule
/// that refuses, and as not met in one that lets through.
#[must_use]
pub fn operand(abi: Abi, name: &str, entry: Entry, condition: &ArgCondition) -> Option<Operand> {
    if entry.selector.is_some() {
        return None;
    }
    let made = syscalls::name(abi, entry.number)?;
    if made != name {
        let (wanted, there) = (syscalls::signature(name)?, syscalls::signature(made)?);
        let alike =
            wanted.iter().map(|kind| kind.is_pointer()).eq(there.iter().map(|kind| kind.is_pointer()));
        if !alike {
            return None;
        }
    }
    let operand = syscalls::operand(abi, made, usize::from(condition.index))?;
    let comparable = !operand.kind.is_pointer()
        && fits(condition.value, operand.kind)
        && match condition.op {
            ArgOp::MaskedEqual { mask } => fits(mask, operand.kind),
            _ => true,
        };
    comparable.then_some(operand)
}

/// Whether an argument of this kind can hold the value (in two's complement of 64 bits).
#[must_use]
pub fn fits(value: u64, kind: ArgKind) -> bool {
    match kind.width() {
        64.. => true,
        width => value >> width == 0 || (value.cast_signed() >> (width - 1)) == -1,
    }
}

/// The system call rules of a policy.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Syscalls {
    /// The first that matches decides.
    pub rules: Vec<SyscallRule>,
    /// What becomes of a call that no rule matches; [`ALWAYS_ALLOWED`] ones are allowed whatever this says.
    pub default: SyscallDefault,
    /// What a node may do where it cannot give EPERM to a rule with [`Action::Deny`].
    pub fallback: Fallback,
}

/// What becomes of a call that no rule matches.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SyscallDefault {
    /// It is let through.
    #[default]
    Allow,
    /// It is let through, and counted.
    Audit,
    /// The process is killed: the rules are an allow-list. The call's effect may stand.
    Kill,
}

impl SyscallDefault {
    /// The answer that stands behind all rules; `None` for [`Allow`](Self::Allow), which is no rule.
    #[must_use]
    pub fn action(self) -> Option<Action> {
        match self {
            Self::Allow => None,
            Self::Audit => Some(Action::Audit),
            Self::Kill => Some(Action::Kill),
        }
    }
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
