//! The file part of a policy's spec.

use holdfast_policy::model;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::action::Action;

/// File rules. For each operation on a file the first rule that matches decides; what no rule matches is allowed.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Files {
    /// The rules, in order.
    #[schemars(length(min = 1, max = 64))]
    pub rules: Vec<FileRule>,
}

/// One file rule.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FileRule {
    /// Files and directories by their absolute path, with `*` and `**`.
    #[schemars(schema_with = "crate::schema::paths")]
    pub paths: Vec<String>,
    /// What is done to them.
    #[schemars(length(min = 1, max = 8), extend("x-kubernetes-list-type" = "set"))]
    pub operations: Vec<Operation>,
    /// What happens to such an operation.
    pub action: Action,
    /// Whom the rule does not concern.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unless: Option<Unless>,
}

/// Whom a file rule does not concern.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Unless {
    /// Processes that run one of these executables, by its absolute path, with `*` and `**`.
    #[schemars(schema_with = "crate::schema::executables")]
    pub executables: Vec<String>,
}

/// What is done to a file or directory.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum Operation {
    /// Open for reading, or be handed it open for reading. Starting it is not reading.
    Read,
    /// Open for writing, truncate, or be handed it open for writing.
    Write,
    /// Make a file, directory, symbolic link, device, socket or pipe of this name.
    Create,
    /// Remove this name.
    Delete,
    /// Rename from or to this name.
    Rename,
    /// Make a hard link from or to this name.
    Link,
    /// Change its permissions or its owner.
    Chmod,
    /// Map it to memory as code, as the dynamic loader does with libraries.
    ExecuteMap,
}

impl From<Operation> for model::Operation {
    fn from(operation: Operation) -> Self {
        match operation {
            Operation::Read => Self::Read,
            Operation::Write => Self::Write,
            Operation::Create => Self::Create,
            Operation::Delete => Self::Delete,
            Operation::Rename => Self::Rename,
            Operation::Link => Self::Link,
            Operation::Chmod => Self::Chmod,
            Operation::ExecuteMap => Self::ExecuteMap,
        }
    }
}
