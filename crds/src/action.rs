//! What rules on system calls, processes and files do with what they match.

use holdfast_policy::model;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What happens to what a rule matches.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum Action {
    /// It is let through, and later rules are not looked at.
    Allow,
    /// It is let through and recorded.
    Audit,
    /// It has no effect and fails with EPERM.
    Deny,
    /// The process is killed.
    Kill,
}

impl From<Action> for model::Action {
    fn from(action: Action) -> Self {
        match action {
            Action::Allow => Self::Allow,
            Action::Audit => Self::Audit,
            Action::Deny => Self::Deny,
            Action::Kill => Self::Kill,
        }
    }
}
