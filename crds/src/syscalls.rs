//! The system call part of a policy's spec.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::action::Action;
use crate::rules;

/// System call rules. The first rule that matches a call decides.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[schemars(extend("x-kubernetes-validations" = rules::schema(&rules::syscalls())))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Syscalls {
    /// What becomes of a call that no rule matches.
    #[serde(default)]
    pub default: SyscallDefault,
    /// The rules, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub rules: Vec<SyscallRule>,
    /// What a node may do for a `Deny` rule where it cannot give EPERM.
    #[serde(default)]
    pub fallback: Fallback,
}

/// What becomes of a call that no rule matches.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum SyscallDefault {
    /// It is let through.
    #[default]
    Allow,
    /// It is let through and recorded.
    Audit,
    /// The process is killed, though the call's effect may stand: the rules are an allow-list.
    Kill,
}

/// What a node may do for a `Deny` rule where it cannot give EPERM.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum Fallback {
    /// Nothing: the rule is reported as `NotCovered` there.
    #[default]
    None,
    /// Kill the process, though the call's effect may stand; reported as `KillAfterEffect`.
    Kill,
}

/// One system call rule.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[schemars(extend("x-kubernetes-validations" = rules::schema(&rules::syscall_rule())))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SyscallRule {
    /// System calls by name, of either architecture, and groups such as `@mount`.
    #[schemars(schema_with = "crate::schema::syscall_names")]
    pub names: Vec<String>,
    /// Conditions on the call's arguments, by value; all must hold. A pointer cannot be compared.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 6))]
    pub args: Vec<ArgMatch>,
    /// What happens to a call that matches.
    pub action: Action,
}

/// A condition on one argument of a system call, compared at the width of the call's signature.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[schemars(extend("x-kubernetes-validations" = rules::schema(&rules::argument())))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ArgMatch {
    /// Which argument, from 0 to 5.
    #[schemars(range(min = 0, max = 5))]
    pub index: u8,
    /// The comparison.
    pub op: ArgOp,
    /// What the argument, after `mask` for `MaskedEqual`, is compared with.
    pub value: i64,
    /// The bits that `MaskedEqual` looks at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mask: Option<i64>,
}

/// How an argument is compared with a value.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum ArgOp {
    /// argument = value
    Equal,
    /// argument ≠ value
    NotEqual,
    /// argument < value
    LessThan,
    /// argument ≤ value
    LessOrEqual,
    /// argument > value
    GreaterThan,
    /// argument ≥ value
    GreaterOrEqual,
    /// argument & mask = value
    MaskedEqual,
}
