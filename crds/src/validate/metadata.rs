//! The judgement about `apiVersion`, `kind` and `metadata`.

use serde_json::{Map, Value};

use super::{Problem, TextLimits, name_of, unknown_field_of};
use crate::{names, path};

/// Fields of `metadata` that hold text.
const TEXT: [&str; 8] = [
    "creationTimestamp",
    "deletionTimestamp",
    "generateName",
    "name",
    "namespace",
    "resourceVersion",
    "selfLink",
    "uid",
];
/// Fields of `metadata` that the API server writes, as exported objects have them; not looked into.
const OPAQUE: [&str; 5] =
    ["deletionGracePeriodSeconds", "finalizers", "generation", "managedFields", "ownerReferences"];

/// Judges the metadata of an object that is about to be created.
pub(crate) fn metadata(object: &mut Map<String, Value>) -> Vec<Problem> {
    let mut problems = Vec::new();
    let fields = match object.get_mut("metadata") {
        Some(Value::Object(fields)) => fields,
        Some(other) if !other.is_null() => {
            return vec![Problem::new("metadata", format!("must be a mapping, and is {}", name_of(other)))];
        }
        _ => return vec![Problem::new("metadata.name", "is missing")],
    };
    fields.retain(|_, value| !value.is_null());
    if !fields.contains_key("name") {
        problems.push(Problem::new("metadata.name", "is missing"));
    }
    for (name, value) in fields.iter() {
        let at = path::key("metadata", name);
        match name.as_str() {
            "labels" | "annotations" => map(&at, value, name == "labels", &mut problems),
            name if TEXT.contains(&name) => match value {
                Value::String(text) => {
                    problems.extend(form(name, text).map(|problem| Problem::new(at, problem)));
                }
                other => problems.push(Problem::new(at, format!("must be text, and is {}", name_of(other)))),
            },
            name if OPAQUE.contains(&name) => {}
            _ => problems.push(Problem::new(
                at,
                unknown_field_of(name, &["annotations", "labels", "name", "namespace"]),
            )),
        }
    }
    problems
}

fn form(field: &str, text: &str) -> Option<String> {
    match field {
        "name" => TextLimits::of(names::DNS_SUBDOMAIN, 253).check(text),
        "namespace" => TextLimits::of(names::DNS_LABEL, 63).check(text),
        _ => None,
    }
}

fn map(at: &str, value: &Value, labels: bool, problems: &mut Vec<Problem>) {
    let Value::Object(entries) = value else {
        problems.push(Problem::new(at, format!("must be a mapping, and is {}", name_of(value))));
        return;
    };
    let limits = TextLimits::of(names::LABEL_VALUE, 63);
    for (key, value) in entries {
        // The keys of annotations are compared in lower case.
        let good = if labels { names::is_label_key(key) } else { names::is_label_key(&key.to_lowercase()) };
        if !good {
            problems.push(Problem::new(at, format!("has the key {key:?}, which is no label key")));
        }
        match value {
            Value::String(text) if labels => {
                if let Some(problem) = limits.check_optional(text) {
                    problems.push(Problem::new(at, format!("{key}: {problem}")));
                }
            }
            Value::String(_) => {}
            other => {
                problems.push(Problem::new(
                    path::key(at, key),
                    format!("must be text, and is {}", name_of(other)),
                ));
            }
        }
    }
}
