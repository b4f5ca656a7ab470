//! System call sets: the clauses that decide calls.

use std::collections::BTreeMap;

use crate::model::{Action, ArgOp, Fallback, Mode, PolicyId, RuleRef};
use crate::syscalls::Abi;

use super::network::PolicyKey;

/// What a system call set is known by from one compilation to the next.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SysSetKey {
    /// The policies with system call rules that concern the container, in the order of their names.
    pub policies: Vec<PolicyKey>,
}

/// The system call rules of all containers that are concerned by the same policies.
///
/// # How a call is decided
///
/// The clauses of a call are those that [`calls`](SysSet::calls) has for it, or, where it is not there, the
/// [`others`](SysSet::others). Within one policy the first clause whose conditions all hold gives the policy's answer; no
/// such clause = Allow.
/// Among the Enforce policies the strictest answer wins ([`Action`] is ordered), and among equally strict ones the
/// first policy's. If that lets the call through, the strictest answer of the Audit policies is an audit hit where it
/// is stricter still. [`ALWAYS_ALLOWED`](crate::model::ALWAYS_ALLOWED) calls have no clauses.
///
/// # Allow-lists
///
/// A policy whose `syscalls.default` is Audit or Kill has one more rule, `syscalls.default`, and one clause without
/// conditions behind its own in every list of `calls`, and in `others`. So a kernel program that finds no row for a call
/// looks for the row of the others: every call of the node that no rule names, numbers that no table has, and other ways
/// into the kernel. Where `others` is not empty, `calls` has an (empty) list for each always allowed call, and a row has to
/// be written for every list of `calls`, also for one that allows: its absence would mean the others.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SysSet {
    /// What it is known by.
    pub key: SysSetKey,
    /// The policies, in the order of their names: the index is [`Clause::policy`].
    pub policies: Vec<SysPolicy>,
    /// The rules, ordered by policy and place: the index is [`Clause::rule`]. At most [`SysSet::MAX_RULES`].
    pub rules: Vec<SysRule>,
    /// The clauses of each call that any rule names, ordered by rule number (so by policy, then by place).
    pub calls: BTreeMap<(Abi, u32), Vec<Clause>>,
    /// The clauses of every call that is not in `calls`, whatever its number and ABI; without conditions, ordered by
    /// policy. Empty where no policy has a `syscalls.default` other than Allow.
    pub others: Vec<Clause>,
}

impl SysSet {
    /// The largest number of rules, so that a number fits in 16 bits and 0xffff is free to mean 'none'.
    pub const MAX_RULES: usize = 0xffff;
}

/// A policy of a [`SysSet`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SysPolicy {
    /// Its name.
    pub id: PolicyId,
    /// Whether it is carried out or only counted.
    pub mode: Mode,
    /// What a node may do where it cannot give EPERM.
    pub fallback: Fallback,
}

/// A rule of a [`SysSet`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SysRule {
    /// Which rule it is.
    pub rule: RuleRef,
    /// Index into [`SysSet::policies`].
    pub policy: u16,
    /// The answer.
    pub action: Action,
    /// The names that exist in none of the node's tables, groups expanded: not applicable on this node.
    pub not_applicable: Vec<String>,
}

/// One rule as it concerns one call.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Clause {
    /// Index into [`SysSet::policies`].
    pub policy: u16,
    /// Index into [`SysSet::rules`].
    pub rule: u16,
    /// The answer.
    pub action: Action,
    /// The policy's mode.
    pub mode: Mode,
    /// All must hold; none = always.
    pub conditions: Vec<Condition>,
}

/// How many bits of an argument register the call looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Width {
    /// The lower 16.
    Bits16,
    /// The lower 32.
    Bits32,
    /// All 64.
    Bits64,
}

/// A condition on one argument register.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Condition {
    /// The argument register, 0 to 5.
    pub register: u8,
    /// The comparison `argument OP value`; the mask of `MaskedEqual` is cut to the width.
    pub op: ArgOp,
    /// The value, cut to the width.
    pub value: u64,
    /// How many bits are compared.
    pub width: Width,
    /// Whether `<`, `<=`, `>` and `>=` take both as signed numbers of that width.
    pub signed: bool,
}

impl Condition {
    /// Whether the condition holds for the six argument registers, exactly as the kernel computes it.
    #[must_use]
    pub fn holds(&self, args: &[u64; 6]) -> bool {
        let Some(&register) = args.get(usize::from(self.register)) else { return false };
        let (argument, value) = (self.number(register), self.number(self.value));
        match self.op {
            ArgOp::Equal => argument == value,
            ArgOp::NotEqual => argument != value,
            ArgOp::LessThan => argument < value,
            ArgOp::LessOrEqual => argument <= value,
            ArgOp::GreaterThan => argument > value,
            ArgOp::GreaterOrEqual => argument >= value,
            ArgOp::MaskedEqual { mask } => self.number(register & mask) == value,
        }
    }

    /// A register as a number that compares as the width and the sign say: the sign bit is flipped, so that one
    /// unsigned comparison serves all.
    fn number(&self, register: u64) -> u64 {
        let (cut, sign) = match self.width {
            Width::Bits16 => (register & 0xffff, 1 << 15),
            Width::Bits32 => (register & 0xffff_ffff, 1 << 31),
            Width::Bits64 => (register, 1 << 63),
        };
        if self.signed { cut ^ sign } else { cut }
    }
}
