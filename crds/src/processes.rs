//! The process part of a policy's spec: which executables a workload may start.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::action::Action;
use crate::rules;

/// Process rules. The first rule that matches an executable decides.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[schemars(extend("x-kubernetes-validations" = rules::schema(&rules::processes())))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Processes {
    /// What becomes of an executable that no rule matches.
    #[serde(default)]
    pub default: ProcessDefault,
    /// The rules, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub rules: Vec<ProcessRule>,
}

/// What becomes of an executable that no rule matches.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum ProcessDefault {
    /// It may be started.
    #[default]
    Allow,
    /// It may not be started: the rules are an allow-list.
    Deny,
}

/// One process rule, about executables by path or about those that are not in the container's image.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[schemars(extend("x-kubernetes-validations" = rules::schema(&rules::process_rule())))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ProcessRule {
    /// Executables by their absolute path, with `*` and `**`. A script matches by itself and by its interpreter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::paths")]
    pub paths: Option<Vec<String>>,
    /// `true`: executables that were not in the container's image: written later, on a volume, or without a name (memfd).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_in_image: Option<bool>,
    /// What happens to a start of such an executable.
    pub action: Action,
}
