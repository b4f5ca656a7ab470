//! Errors that name what is at fault: the field of a policy, or the policy that no longer fits.

use crate::model::PolicyId;

/// Why a set of policies cannot be compiled. Nothing is ever left out in silence: the caller keeps what was in force.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CompileError {
    /// The policies that select one workload have more rules than can be numbered.
    #[error(
        "{policy}: the policies that select workload {workload} have more than {limit} {kind} rules together"
    )]
    TooManyRules {
        /// The policy at which the limit is passed, in the order of names.
        policy: PolicyId,
        /// The workload, `namespace/name`.
        workload: String,
        /// The limit.
        limit: usize,
        /// `network`, `system call`, or `process, file and capability`.
        kind: &'static str,
    },
    /// The peers of the policies that select workloads of this node are too many to be told apart.
    #[error(
        "{policy}: its peers, with those of the other policies of this node, match more than {limit} {kind}"
    )]
    TooManyPeers {
        /// The policy that adds most to it.
        policy: PolicyId,
        /// The limit, counted once for each peer and each of what it matches.
        limit: usize,
        /// `identities` or `address prefixes`.
        kind: &'static str,
    },
    /// The tables of this node would be too large.
    #[error(
        "{policy}: its rules, with those of the other policies of this node, make more than {limit} rows"
    )]
    TooManyRows {
        /// The policy that adds most to the set of rows that passes the limit.
        policy: PolicyId,
        /// The limit, of all sets together.
        limit: usize,
    },
    /// The paths of the policies that concern one container cannot be matched together.
    #[error("{}: their paths together are too intricate (more than {limit} states): use fewer ** that begin a path", names(.policies))]
    PathsTooIntricate {
        /// The policies, in the order of their names.
        policies: Vec<PolicyId>,
        /// The limit.
        limit: usize,
    },
    /// The paths of the policies that concern one container meet in too many ways.
    #[error("{}: their paths and executables together make more than {limit} rows", names(.policies))]
    TooManyPathRows {
        /// The policies, in the order of their names.
        policies: Vec<PolicyId>,
        /// The limit.
        limit: usize,
    },
    /// Two policies share one name.
    #[error("{policy}: two policies have this name")]
    DuplicatePolicy {
        /// The name.
        policy: PolicyId,
    },
    /// The numbers for classes are used up, after four billion of them.
    #[error("no class number is left: start again without the previous result")]
    TooManyClasses,
}

/// A field of a policy that cannot be accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("spec{}{field}: {problem}", if .field.is_empty() { "" } else { "." })]
pub struct FieldError {
    /// The field below `spec`, such as `network.ingress.allow[0].ports[1].endPort`; empty = `spec` itself.
    pub field: String,
    /// What is wrong with it, for a human, without the field's name.
    pub problem: String,
}

impl FieldError {
    /// An error of `field` (below `spec`).
    pub fn new(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { field: field.into(), problem: problem.into() }
    }
}

fn names(policies: &[PolicyId]) -> String {
    policies.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
