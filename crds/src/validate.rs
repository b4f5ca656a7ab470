//! The judgement of the API server about an object, without one: the CRD's own schema, walked, and its rules.
//!
//! As there: nulls are taken away, defaults filled in, unknown fields are errors, and the rules are asked only where the
//! schema found nothing. In one thing this is stricter: the API server drops an entry of a map whose value is null, so
//! that a selector `{app: null}` becomes one that matches everything; here it is an error.

use std::collections::{BTreeMap, HashMap};
use std::sync::LazyLock;

use regex::Regex;
use serde_json::{Map, Value};

use crate::rules::{self, Rule};
use crate::{names, path};

mod metadata;

pub(crate) use metadata::metadata;

/// One thing that is wrong with an object.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Problem {
    /// The field's path, such as `spec.selector`.
    pub(crate) field: String,
    /// What is wrong with it, without its name.
    pub(crate) problem: String,
}

impl Problem {
    pub(crate) fn new(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { field: field.into(), problem: problem.into() }
    }
}

/// The kinds that users write.
pub(crate) const USER_KINDS: [&str; 4] =
    ["WorkloadPolicy", "ClusterWorkloadPolicy", "ExternalWorkload", "NodeAgent"];

/// Judges an object of a kind in [`USER_KINDS`] and completes it with the defaults. Its `status` is taken away, as the
/// API server does when an object is created.
pub(crate) fn object(kind: &str, object: &mut Value) -> Vec<Problem> {
    macro_rules! schemas {
        ($($kind:literal),*) => {
            [$(($kind, LazyLock::new(|| prepared(include_str!(concat!("validate/schemas/", $kind, ".json")))))),*]
        };
    }
    static KINDS: [(&str, LazyLock<Option<Node>>); USER_KINDS.len()] =
        schemas!["WorkloadPolicy", "ClusterWorkloadPolicy", "ExternalWorkload", "NodeAgent"];
    let schema = KINDS.iter().find(|(name, _)| *name == kind);
    let Some(root) = schema.and_then(|(_, node)| node.as_ref()) else {
        return vec![Problem::new("kind", format!("{kind} is not a kind that can be checked"))];
    };
    let Some(fields) = object.as_object_mut() else {
        return vec![Problem::new("", "is no object")];
    };
    fields.remove("status");
    let mut problems = metadata(fields);
    root.check(object, "", &mut problems);
    if problems.is_empty() {
        root.ask(object, "", &mut problems);
    }
    problems
}

/// A schema, ready to judge. `crdgen` writes them: to derive one from its types takes longer than all else that an agent
/// does with its first file.
fn prepared(schema: &str) -> Option<Node> {
    let schema: Value = serde_json::from_str(schema).ok()?;
    let rules = rules::all().into_iter().map(|rule| (rule.cel.clone().into_owned(), rule)).collect();
    Some(Node::root(&schema, &rules))
}

/// One node of a structural schema, prepared.
struct Node {
    form: Form,
    default: Option<Value>,
    rules: Vec<Rule>,
}

enum Form {
    Object {
        properties: BTreeMap<String, Node>,
        required: Vec<String>,
        max: usize,
        others: Option<Box<Node>>,
    },
    Array {
        items: Box<Node>,
        min: usize,
        max: usize,
        unique: Unique,
    },
    Text(TextLimits),
    Integer(NumberLimits),
    IntegerOrText(NumberLimits, TextLimits),
    Boolean,
    Any,
}

enum Unique {
    No,
    Items,
    Keys(Vec<String>),
}

struct TextLimits {
    pattern: Option<Regex>,
    min: usize,
    max: usize,
    choices: Vec<String>,
}

struct NumberLimits {
    min: i64,
    max: i64,
}

fn number(schema: &Value, field: &str) -> Option<i64> {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the limits in our own schemas are small whole numbers"
    )]
    schema.get(field).and_then(Value::as_f64).map(|number| number as i64)
}

fn size(schema: &Value, field: &str, absent: usize) -> usize {
    number(schema, field).and_then(|number| usize::try_from(number).ok()).unwrap_or(absent)
}

fn texts(schema: &Value, field: &str) -> Vec<String> {
    let list = schema.get(field).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    list.iter().filter_map(|item| item.as_str().map(str::to_owned)).collect()
}

impl NumberLimits {
    fn new(schema: &Value) -> Self {
        let (lowest, highest) = match schema.get("format").and_then(Value::as_str) {
            Some("int32") => (i64::from(i32::MIN), i64::from(i32::MAX)),
            _ => (i64::MIN, i64::MAX),
        };
        Self {
            min: number(schema, "minimum").unwrap_or(lowest),
            max: number(schema, "maximum").unwrap_or(highest),
        }
    }

    fn check(&self, number: i64) -> Option<String> {
        let outside = number < self.min || number > self.max;
        outside.then(|| format!("{number} is not from {} to {}", self.min, self.max))
    }
}

impl TextLimits {
    /// Text of at least one character that matches a pattern.
    fn of(pattern: &str, max: usize) -> Self {
        Self { pattern: names::prepared(pattern), min: 1, max, choices: Vec::new() }
    }

    /// As [`TextLimits::check`], but the empty text is good too.
    fn check_optional(&self, text: &str) -> Option<String> {
        if text.is_empty() { None } else { self.check(text) }
    }

    fn new(schema: &Value) -> Self {
        let pattern = schema.get("pattern").and_then(Value::as_str);
        Self {
            pattern: pattern.and_then(names::prepared),
            min: size(schema, "minLength", 0),
            max: size(schema, "maxLength", usize::MAX),
            choices: texts(schema, "enum"),
        }
    }

    fn check(&self, text: &str) -> Option<String> {
        let length = text.chars().count();
        if length > self.max {
            return Some(format!("has {length} characters, at most {} are allowed", self.max));
        }
        if length < self.min {
            return Some("is empty".to_owned());
        }
        if !self.choices.is_empty() && !self.choices.iter().any(|choice| choice == text) {
            return Some(format!("{text:?} is none of {}", self.choices.join(", ")));
        }
        match &self.pattern {
            Some(pattern) if !pattern.is_match(text) => Some(format!("{text:?} does not match {pattern}")),
            _ => None,
        }
    }
}

impl Node {
    fn root(schema: &Value, rules: &HashMap<String, Rule>) -> Self {
        let mut node = Self::new(schema, rules);
        if let Form::Object { properties, .. } = &mut node.form {
            properties.remove("status");
            for known in ["apiVersion", "kind", "metadata"] {
                properties
                    .insert(known.to_owned(), Self { form: Form::Any, default: None, rules: Vec::new() });
            }
        }
        node
    }

    fn new(schema: &Value, rules: &HashMap<String, Rule>) -> Self {
        let child = |schema: &Value| Box::new(Self::new(schema, rules));
        let int_or_text = schema.get("x-kubernetes-int-or-string") == Some(&Value::Bool(true));
        let form = match schema.get("type").and_then(Value::as_str) {
            _ if int_or_text => Form::IntegerOrText(NumberLimits::new(schema), TextLimits::new(schema)),
            Some("object") => Form::Object {
                properties: schema
                    .get("properties")
                    .and_then(Value::as_object)
                    .into_iter()
                    .flatten()
                    .map(|(name, schema)| (name.clone(), Self::new(schema, rules)))
                    .collect(),
                required: texts(schema, "required"),
                max: size(schema, "maxProperties", usize::MAX),
                others: schema.get("additionalProperties").filter(|schema| schema.is_object()).map(child),
            },
            Some("array") => Form::Array {
                items: child(schema.get("items").unwrap_or(&Value::Null)),
                min: size(schema, "minItems", 0),
                max: size(schema, "maxItems", usize::MAX),
                unique: match schema.get("x-kubernetes-list-type").and_then(Value::as_str) {
                    Some("set") => Unique::Items,
                    Some("map") => Unique::Keys(texts(schema, "x-kubernetes-list-map-keys")),
                    _ => Unique::No,
                },
            },
            Some("string") => Form::Text(TextLimits::new(schema)),
            Some("integer") => Form::Integer(NumberLimits::new(schema)),
            Some("boolean") => Form::Boolean,
            _ => Form::Any,
        };
        let cels = schema.get("x-kubernetes-validations").and_then(Value::as_array).into_iter().flatten();
        let rules = cels.filter_map(|rule| rules.get(rule.get("rule")?.as_str()?).cloned()).collect();
        Self { form, default: schema.get("default").cloned(), rules }
    }

    /// Checks a value against the schema, takes nulls away and fills in defaults.
    fn check(&self, value: &mut Value, at: &str, problems: &mut Vec<Problem>) {
        let wrong = match (&self.form, &mut *value) {
            (Form::Object { properties, required, max, others }, Value::Object(object)) => {
                if object.len() > *max {
                    problems.push(Problem::new(
                        at,
                        format!("has {} entries, at most {max} are allowed", object.len()),
                    ));
                }
                check_object(object, at, properties, required, others.as_deref(), problems);
                None
            }
            (Form::Array { items, min, max, unique }, Value::Array(list)) => {
                let wrong = check_length(list.len(), *min, *max);
                for (index, item) in list.iter_mut().enumerate() {
                    items.check(item, &path::index(at, index), problems);
                }
                unique.check(list, at, problems);
                wrong
            }
            (Form::Text(limits) | Form::IntegerOrText(_, limits), Value::String(text)) => limits.check(text),
            (Form::Integer(limits) | Form::IntegerOrText(limits, _), Value::Number(number)) => {
                match number.as_i64() {
                    Some(number) => limits.check(number),
                    None => Some(format!("{number} is no whole number, or too large")),
                }
            }
            (Form::Boolean, Value::Bool(_)) | (Form::Any, _) => None,
            (_, value) => Some(format!("must be {}, and is {}", self.form.name(), name_of(value))),
        };
        if let Some(wrong) = wrong {
            problems.push(Problem::new(at, wrong));
        }
    }

    /// Asks the rules about a value that has passed [`Node::check`].
    fn ask(&self, value: &Value, at: &str, problems: &mut Vec<Problem>) {
        for rule in &self.rules {
            if !(rule.holds)(value) {
                problems.push(Problem::new(format!("{at}{}", rule.field), rule.message(value)));
            }
        }
        match (&self.form, value) {
            (Form::Object { properties, others, .. }, Value::Object(object)) => {
                for (name, child) in object {
                    if let Some(node) = properties.get(name).or(others.as_deref()) {
                        node.ask(child, &path::key(at, name), problems);
                    }
                }
            }
            (Form::Array { items, .. }, Value::Array(list)) => {
                for (index, item) in list.iter().enumerate() {
                    items.ask(item, &path::index(at, index), problems);
                }
            }
            _ => {}
        }
    }
}

fn check_object(
    object: &mut Map<String, Value>,
    at: &str,
    properties: &BTreeMap<String, Node>,
    required: &[String],
    others: Option<&Node>,
    problems: &mut Vec<Problem>,
) {
    if others.is_none() {
        object.retain(|_, value| !value.is_null());
    }
    for (name, node) in properties {
        if let (Some(default), false) = (&node.default, object.contains_key(name)) {
            object.insert(name.clone(), default.clone());
        }
    }
    for name in required {
        if !object.contains_key(name) {
            problems.push(Problem::new(path::key(at, name), "is missing"));
        }
    }
    for (name, child) in object.iter_mut() {
        let at = path::key(at, name);
        match properties.get(name).or(others) {
            Some(node) => node.check(child, &at, problems),
            None => problems.push(Problem::new(at, unknown_field(name, properties))),
        }
    }
}

fn unknown_field(name: &str, properties: &BTreeMap<String, Node>) -> String {
    unknown_field_of(name, &properties.keys().map(String::as_str).collect::<Vec<_>>())
}

fn unknown_field_of(name: &str, known: &[&str]) -> String {
    match known.iter().find(|known| known.eq_ignore_ascii_case(name)) {
        Some(meant) => format!("unknown field {name:?}; {meant} is meant?"),
        None => format!("unknown field {name:?}; known here: {}", known.join(", ")),
    }
}

fn check_length(length: usize, min: usize, max: usize) -> Option<String> {
    match length {
        0 if min > 0 => Some("is empty".to_owned()),
        _ if length < min => Some(format!("has {length} items, at least {min} are needed")),
        _ if length > max => Some(format!("has {length} items, at most {max} are allowed")),
        _ => None,
    }
}

impl Unique {
    fn check(&self, list: &[Value], at: &str, problems: &mut Vec<Problem>) {
        let same = |a: &Value, b: &Value| match self {
            Self::No => false,
            Self::Items => a == b,
            Self::Keys(keys) => keys.iter().all(|key| a.get(key) == b.get(key)),
        };
        for (index, item) in list.iter().enumerate() {
            if let Some(first) = list[..index].iter().position(|other| same(other, item)) {
                problems.push(Problem::new(path::index(at, index), format!("is the same as {at}[{first}]")));
            }
        }
    }
}

impl Form {
    fn name(&self) -> &'static str {
        match self {
            Self::Object { .. } => "a mapping",
            Self::Array { .. } => "a list",
            Self::Text(_) => "text",
            Self::Integer(_) => "a whole number",
            Self::IntegerOrText(..) => "a whole number or text",
            Self::Boolean => "true or false",
            Self::Any => "anything",
        }
    }
}

/// What a value is, for messages. Text that YAML took for something else is the usual mistake.
fn name_of(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(value) => format!("the boolean {value} (quote it where text is meant)"),
        Value::Number(number) => format!("the number {number} (quote it where text is meant)"),
        Value::String(text) => format!("the text {:?}", text.chars().take(40).collect::<String>()),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "a mapping".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[expect(clippy::needless_pass_by_value, reason = "the calls read better")]
    fn policy(spec: Value) -> Value {
        json!({"apiVersion": "holdfast.dev/v1alpha1", "kind": "WorkloadPolicy", "metadata": {"name": "p"}, "spec": spec})
    }

    fn problems(spec: Value) -> Vec<(String, String)> {
        let mut value = policy(spec);
        object("WorkloadPolicy", &mut value)
            .into_iter()
            .map(|problem| (problem.field, problem.problem))
            .collect()
    }

    #[test]
    fn a_good_policy_has_no_problem_and_gets_its_defaults() {
        let mut value = policy(json!({"selector": {}, "network": {"ingress": null, "egress": {}}}));
        assert_eq!(object("WorkloadPolicy", &mut value), []);
        assert_eq!(
            value["spec"],
            json!({"selector": {}, "mode": "Enforce", "network": {"egress": {}, "onDeny": "Drop"}})
        );
    }

    #[test]
    fn each_problem_names_its_field() {
        let found = problems(json!({
            "selector": {}, "mode": "Maybe", "netwrok": {}, "containers": ["a", "a"],
            "network": {"ingress": {"allow": [{"from": []}, {"ports": [{"port": 0}, {"port": "80"}, {"port": true}]}]}},
        }));
        let fields: Vec<&str> = found.iter().map(|(field, _)| field.as_str()).collect();
        let expected = [
            "spec.containers[1]",
            "spec.mode",
            "spec.network.ingress.allow[0].from",
            "spec.network.ingress.allow[1].ports[0].port",
            "spec.network.ingress.allow[1].ports[1].port",
            "spec.network.ingress.allow[1].ports[2].port",
            "spec.netwrok",
        ];
        assert_eq!(fields, expected);
    }

    #[test]
    fn rules_are_asked_where_the_schema_found_nothing() {
        let found = problems(json!({"selector": {}, "network": {"ingress": {"allow": [{"from": [{}]}]}}}));
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].0, "spec.network.ingress.allow[0].from[0]");
    }
}
