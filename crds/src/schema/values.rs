//! What the values of an enumeration mean, in the description of each field that takes them: the derive drops it, and
//! `kubectl explain` shows nothing else.

use std::fmt::Write;

use schemars::JsonSchema;
use serde_json::{Map, Value};

use crate::action::Action;
use crate::files::Operation;
use crate::network::{Entity, OnDeny};
use crate::node_agent::{LogFormat, LogLevel};
use crate::processes::ProcessDefault;
use crate::selector::LabelOperator;
use crate::syscalls::{ArgOp, Fallback, SyscallDefault};
use crate::workload_node::{Asked, Given, MechanismState, PolicyState, ProofResult};
use crate::workload_policy::Mode;

/// The heading of the values in a description, as the API server's own kinds have it.
pub const HEADING: &str = "Possible enum values:";

/// Adds to every described field of `schema` what its values mean.
pub(super) fn describe(schema: &mut Value) {
    describe_with("", schema, &enumerations());
}

#[derive(Debug, PartialEq)]
struct Enumeration {
    /// The field that it is meant for, where another enumeration has the same values.
    field: Option<&'static str>,
    values: Vec<String>,
    text: String,
}

fn enumerations() -> Vec<Enumeration> {
    [
        Enumeration { field: Some("asked"), ..of::<Asked>() },
        Enumeration { field: Some("action"), ..of::<Action>() },
        of::<ArgOp>(),
        of::<Entity>(),
        of::<Fallback>(),
        of::<Given>(),
        of::<LabelOperator>(),
        of::<LogFormat>(),
        of::<LogLevel>(),
        of::<MechanismState>(),
        of::<Mode>(),
        of::<OnDeny>(),
        of::<Operation>(),
        of::<PolicyState>(),
        of::<ProofResult>(),
        of::<ProcessDefault>(),
        of::<SyscallDefault>(),
    ]
    .into()
}

fn of<T: JsonSchema>() -> Enumeration {
    let schema = schemars::schema_for!(T).to_value();
    let mut values = Vec::new();
    let mut text = String::from(HEADING);
    for variant in schema.get("oneOf").and_then(Value::as_array).into_iter().flatten() {
        let word = |key| variant.get(key).and_then(Value::as_str).unwrap_or_default();
        values.push(word("const").to_owned());
        let _ = write!(text, "\n - `{}`: {}", word("const"), word("description").replace('\n', " "));
    }
    Enumeration { field: None, values, text }
}

fn describe_with(name: &str, schema: &mut Value, enumerations: &[Enumeration]) {
    let Some(object) = schema.as_object_mut() else { return };
    if let Some(text) = text(name, object, enumerations)
        && let Some(Value::String(description)) = object.get_mut("description")
    {
        description.push_str("\n\n");
        description.push_str(text);
    }
    for (key, child) in object {
        match (key.as_str(), child) {
            ("properties", Value::Object(children)) => {
                children.iter_mut().for_each(|(name, child)| describe_with(name, child, enumerations));
            }
            ("items" | "additionalProperties", child) => describe_with("", child, enumerations),
            _ => {}
        }
    }
}

/// The text for a field, or for a list of such values.
fn text<'a>(name: &str, field: &Map<String, Value>, enumerations: &'a [Enumeration]) -> Option<&'a str> {
    let values = field.get("enum").or_else(|| field.get("items")?.get("enum"))?.as_array()?;
    let fits = |known: &&Enumeration| {
        known.values.iter().map(String::as_str).eq(values.iter().filter_map(Value::as_str))
            && known.field.is_none_or(|field| field == name)
    };
    Some(&enumerations.iter().find(fits)?.text)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_two_enumerations_can_be_taken_for_each_other() {
        let enumerations = enumerations();
        assert!(enumerations.iter().all(|known| known.values.len() > 1), "{enumerations:?}");
        let keys: BTreeSet<_> = enumerations.iter().map(|known| (known.field, &known.values)).collect();
        assert_eq!(keys.len(), enumerations.len());
        for one in enumerations.iter().filter(|known| known.field.is_none()) {
            assert_eq!(enumerations.iter().filter(|other| other.values == one.values).count(), 1, "{one:?}");
        }
    }

    fn undescribed(path: &str, schema: &Value, found: &mut Vec<String>) {
        for (name, field) in schema["properties"].as_object().into_iter().flatten() {
            let path = format!("{path}.{name}");
            let description = field["description"].as_str().unwrap_or_default();
            let is_enum = field["enum"].is_array() || field["items"]["enum"].is_array();
            let protocol = field["enum"][0] == "TCP";
            if description.len() < 5 || (is_enum && !protocol && !description.contains(HEADING)) {
                found.push(path.clone());
            }
            undescribed(&path, field, found);
        }
        for below in ["items", "additionalProperties"] {
            if schema[below].is_object() {
                undescribed(path, &schema[below], found);
            }
        }
    }

    #[test]
    fn every_field_of_every_kind_says_what_it_is_and_what_its_values_mean() {
        let mut found = Vec::new();
        for crd in crate::all().unwrap() {
            let crd = serde_json::to_value(crd).unwrap();
            let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
            let kind = crd["spec"]["names"]["kind"].as_str().unwrap();
            assert!(schema["description"].as_str().unwrap().len() > 20, "{kind}");
            undescribed(kind, schema, &mut found);
        }
        assert!(found.is_empty(), "{found:?}");
    }
}
