//! The capability part of a policy's spec.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Capability rules. A call that needs one of these capabilities fails as if the process did not have it.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Capabilities {
    /// The capabilities whose use is refused, by name without `CAP_`, such as `NET_RAW`.
    #[schemars(schema_with = "crate::schema::capabilities")]
    pub deny: Vec<String>,
}
