//! The tables of `docs/policy-reference.md`, from the CRDs.
//!
//! The document says where each table stands, between two comments, and crdgen writes what is between them:
//!
//! ```text
//! <!-- fields: WorkloadPolicy spec.network; ingress #directions; egress #directions -->
//! <!-- end -->
//! ```
//!
//! What follows a `;` is a field of the table whose own fields stand elsewhere: in another table of the document
//! (`#anchor`), or in somebody else's documentation (`https://...`). Every field of every kind must stand somewhere.

use std::collections::BTreeSet;
use std::fmt::Write;

use serde_json::{Map, Value};

const BEGIN: &str = "<!-- fields: ";
const END: &str = "<!-- end -->";

/// What is wrong with the document.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The CRDs cannot be made.
    #[error("the CRDs: {0}")]
    Crds(#[from] serde_json::Error),
    /// A marker that is not closed.
    #[error("{0:?} has no end")]
    Open(String),
    /// A marker that names what there is not.
    #[error("{marker:?}: there is no {name}")]
    Unknown {
        /// The marker.
        marker: String,
        /// What it names.
        name: String,
    },
    /// Fields that stand nowhere.
    #[error("fields without a table: {}", .0.join(", "))]
    Missing(Vec<String>),
}

/// The document with its tables as the CRDs say.
pub(crate) fn fill(document: &str) -> Result<String, Error> {
    let kinds = kinds()?;
    let mut printed = BTreeSet::new();
    let mut filled = String::new();
    let mut rest = document;
    while let Some((before, after)) = rest.split_once(BEGIN) {
        let open = || Error::Open(after.lines().next().unwrap_or_default().to_owned());
        let (marker, after) = after.split_once(" -->\n").ok_or_else(open)?;
        let (_, after) = after.split_once(END).ok_or_else(open)?;
        let table = table(&kinds, marker, &mut printed)?;
        let _ = write!(filled, "{before}{BEGIN}{marker} -->\n{table}{END}");
        rest = after;
    }
    filled.push_str(rest);
    let mut missing = Vec::new();
    for (kind, schema) in &kinds {
        uncovered(kind, schema, &printed, &mut missing);
    }
    if missing.is_empty() { Ok(filled) } else { Err(Error::Missing(missing)) }
}

/// The schema of each kind.
fn kinds() -> Result<Map<String, Value>, Error> {
    let mut kinds = Map::new();
    for crd in holdfast_crds::all()? {
        for version in crd.spec.versions {
            if let Some(schema) = version.schema {
                let schema = serde_json::to_value(schema.open_api_v3_schema)?;
                kinds.insert(crd.spec.names.kind.clone(), schema);
            }
        }
    }
    Ok(kinds)
}

/// A field whose own fields stand elsewhere, and where.
type Elsewhere<'a> = (&'a str, &'a str);

fn table(kinds: &Map<String, Value>, marker: &str, printed: &mut BTreeSet<String>) -> Result<String, Error> {
    let unknown = |name: &str| Error::Unknown { marker: marker.to_owned(), name: name.to_owned() };
    let mut parts = marker.split(';').map(str::trim);
    let (kind, path) = parts.next().unwrap_or_default().split_once(' ').unwrap_or((marker, ""));
    let mut schema = kinds.get(kind).ok_or_else(|| unknown(kind))?;
    for name in path.split('.').filter(|name| !name.is_empty()) {
        schema = below(schema, name).ok_or_else(|| unknown(name))?;
    }
    let mut elsewhere = Vec::new();
    for part in parts {
        elsewhere.push(part.split_once(' ').ok_or_else(|| unknown(part))?);
    }
    let mut sheet = Sheet { elsewhere: &elsewhere, printed, rows: String::new(), refusals: Vec::new() };
    sheet.refusals(if path.ends_with(']') { "an entry" } else { "" }, schema);
    sheet.object("", schema);
    if let Some((name, _)) = elsewhere.iter().find(|(name, _)| !sheet.rows.contains(&format!("| `{name}` |")))
    {
        return Err(unknown(name));
    }
    let mut text = String::from("\n| field | type | bounds | meaning |\n|---|---|---|---|\n");
    text.push_str(&sheet.rows);
    if !sheet.refusals.is_empty() {
        text.push_str("\nRefused, in these words:\n\n");
        text.extend(sheet.refusals);
    }
    text.push('\n');
    Ok(text)
}

/// The schema of a field, or of the entries of a list (`name[]`).
fn below<'a>(schema: &'a Value, name: &str) -> Option<&'a Value> {
    match name.strip_suffix("[]") {
        Some(list) => schema.get("properties")?.get(list)?.get("items"),
        None => schema.get("properties")?.get(name),
    }
}

struct Sheet<'a> {
    elsewhere: &'a [Elsewhere<'a>],
    printed: &'a mut BTreeSet<String>,
    rows: String,
    refusals: Vec<String>,
}

impl Sheet<'_> {
    /// A row for every field of an object and of what is in it.
    fn object(&mut self, prefix: &str, schema: &Value) {
        self.printed.insert(shape(schema));
        let required = schema.get("required").and_then(Value::as_array);
        for (name, field) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
            let path = format!("{prefix}{name}");
            let is_required = required.is_some_and(|all| all.iter().any(|one| one == name));
            let place = self.elsewhere.iter().find(|(known, _)| *known == path).map(|(_, place)| *place);
            let _ = writeln!(
                self.rows,
                "| `{path}` | {} | {} | {}{} |",
                kind(field),
                bounds(field, is_required),
                meaning(field),
                place.map(|place| format!(" See [{}]({place}).", title(place))).unwrap_or_default(),
            );
            self.refusals(&format!("`{path}`"), field);
            let (inner, mark) = match field.get("items") {
                Some(items) => (items, "[]"),
                None => (field, ""),
            };
            if mark == "[]" {
                self.refusals(&format!("`{path}[]`"), inner);
            }
            match place {
                Some(place) if !place.starts_with('#') => cover(inner, self.printed),
                Some(_) => {}
                None => self.object(&format!("{path}{mark}."), inner),
            }
        }
    }

    fn refusals(&mut self, path: &str, schema: &Value) {
        let stands_there =
            |(known, _): &Elsewhere<'_>| path.trim_matches('`').trim_end_matches("[]") == *known;
        if schema.get("items").is_none() && self.elsewhere.iter().any(stands_there) {
            return;
        }
        for rule in schema.get("x-kubernetes-validations").and_then(Value::as_array).into_iter().flatten() {
            let text = |key| rule.get(key).and_then(Value::as_str);
            let message =
                text("message").map(str::to_owned).or_else(|| text("messageExpression").map(spoken));
            let field = text("fieldPath").unwrap_or_default();
            let path = match (path, field) {
                ("", field) => format!("`{}`", field.trim_start_matches('.')),
                (path, "") => path.to_owned(),
                ("an entry", field) => format!("`{}`", field.trim_start_matches('.')),
                (path, field) => format!("{}{field}`", path.trim_end_matches('`')),
            };
            let subject = if path == "``" { String::new() } else { format!("{path} ") };
            let line = format!("- {subject}{}\n", message.unwrap_or_default());
            if !self.refusals.contains(&line) {
                self.refusals.push(line);
            }
        }
    }
}

/// A message that CEL composes, with an ellipsis for what depends on the value.
fn spoken(expression: &str) -> String {
    let last = expression.matches('\'').count();
    let parts = expression.split('\'').enumerate().map(|(at, part)| match at {
        _ if at % 2 == 1 => part,
        _ if part.is_empty() && (at == 0 || at == last) => "",
        _ => "…",
    });
    parts.collect()
}

fn title(place: &str) -> String {
    match place.strip_prefix('#') {
        Some(anchor) => anchor.replace('-', " "),
        None => "Kubernetes".to_owned(),
    }
}

fn kind(field: &Value) -> String {
    let type_of = |schema: &Value| match schema.get("type").and_then(Value::as_str) {
        Some(kind) => kind.to_owned(),
        None => "integer or string".to_owned(),
    };
    match (field.get("items"), field.get("additionalProperties")) {
        (Some(items), _) => format!("list of {}", type_of(items)),
        (_, Some(values)) if values.is_object() => format!("map to {}", type_of(values)),
        _ if field.get("format").is_some_and(|format| format == "date-time") => "time".to_owned(),
        _ => type_of(field),
    }
}

fn bounds(field: &Value, required: bool) -> String {
    let mut bounds = Vec::new();
    if required {
        bounds.push("required".to_owned());
    }
    if let Some(default) = field.get("default") {
        bounds.push(format!(
            "default `{}`",
            default.as_str().map_or_else(|| default.to_string(), str::to_owned)
        ));
    }
    let number = |schema: &Value, key: &str| {
        schema.get(key).and_then(Value::as_f64).map(|number| format!("{number:.0}"))
    };
    let mut range = |schema: &Value, keys: [&str; 2], unit: &str| {
        let text =
            match keys.map(|key| number(schema, key).filter(|least| key != "minLength" || least != "1")) {
                [Some(least), Some(most)] => format!("{least} to {most}{unit}"),
                [Some(least), None] => format!("at least {least}{unit}"),
                [None, Some(most)] => format!("at most {most}{unit}"),
                [None, None] => return,
            };
        bounds.push(text);
    };
    range(field, ["minItems", "maxItems"], " entries");
    range(field, ["minProperties", "maxProperties"], " entries");
    let (inner, each) = match field.get("items").or_else(|| field.get("additionalProperties")) {
        Some(inner) => (inner, " each"),
        None => (field, ""),
    };
    range(inner, ["minimum", "maximum"], each);
    range(inner, ["minLength", "maxLength"], &format!(" characters{each}"));
    if let Some(keys) = field.get("x-kubernetes-list-map-keys").and_then(Value::as_array) {
        let keys: Vec<&str> = keys.iter().filter_map(Value::as_str).collect();
        bounds.push(format!("no two of the same {}", keys.join(" and ")));
    } else if field.get("x-kubernetes-list-type").is_some_and(|kind| kind == "set") {
        bounds.push("none twice".to_owned());
    }
    if let Some(pattern) = inner.get("pattern").and_then(Value::as_str) {
        bounds.push(format!("matches `{}`", pattern.replace('|', "\\|")));
    }
    if let Some(values) = inner.get("enum").and_then(Value::as_array) {
        let described = meaning(field).contains(&format!("`{}`:", values[0].as_str().unwrap_or_default()));
        if !described {
            let values: Vec<String> =
                values.iter().filter_map(Value::as_str).map(|value| format!("`{value}`")).collect();
            bounds.push(values.join(", "));
        }
    }
    bounds.join("; ")
}

/// The description on one line.
fn meaning(field: &Value) -> String {
    let text = field.get("description").and_then(Value::as_str).unwrap_or_default();
    let text = match text.split_once(holdfast_crds::schema::values::HEADING) {
        Some((text, values)) => format!("{}{}", text.trim_end(), values.replace("\n - ", "<br>")),
        None => text.replace("\n\n", "<br>"),
    };
    text.replace('|', "\\|")
}

/// What makes two objects the same: their fields, whatever is said of them.
fn shape(schema: &Value) -> String {
    schema.get("properties").map(|properties| stripped(properties, true).to_string()).unwrap_or_default()
}

/// Without descriptions. `names`: the keys are names of fields.
fn stripped(value: &Value, names: bool) -> Value {
    match value {
        Value::Object(object) => object
            .iter()
            .filter(|(key, _)| names || *key != "description")
            .map(|(key, child)| (key.clone(), stripped(child, !names && key == "properties")))
            .collect::<Map<_, _>>()
            .into(),
        other => other.clone(),
    }
}

/// Counts an object and all in it as printed.
fn cover(schema: &Value, printed: &mut BTreeSet<String>) {
    printed.insert(shape(schema));
    for child in children(schema) {
        cover(child.1, printed);
    }
}

fn uncovered(path: &str, schema: &Value, printed: &BTreeSet<String>, missing: &mut Vec<String>) {
    // The object itself, with `spec` and `status`, needs no table.
    if path.contains('.') && schema.get("properties").is_some() && !printed.contains(&shape(schema)) {
        missing.push(path.to_owned());
    }
    for (name, child) in children(schema) {
        uncovered(&format!("{path}.{name}"), child, printed, missing);
    }
}

/// The objects in an object's fields.
fn children(schema: &Value) -> impl Iterator<Item = (&String, &Value)> {
    let fields = schema.get("properties").and_then(Value::as_object).into_iter().flatten();
    fields.map(|(name, field)| (name, field.get("items").unwrap_or(field)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document() -> String {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/policy-reference.md");
        std::fs::read_to_string(path).unwrap()
    }

    #[test]
    fn the_reference_is_what_the_crds_say_and_filling_it_again_changes_nothing() {
        let document = document();
        assert_eq!(fill(&document).unwrap(), document, "run `make generate`");
    }

    #[test]
    fn a_field_without_a_table_is_named() {
        let document = document();
        let at = document.find("<!-- fields: ExternalWorkload spec").unwrap();
        let end = at + document[at..].find(END).unwrap() + END.len();
        let without = [&document[..at], &document[end..]].concat();
        let error = fill(&without).unwrap_err().to_string();
        assert!(error.contains("ExternalWorkload.spec"), "{error}");
    }

    #[test]
    fn a_marker_that_names_what_there_is_not_or_has_no_end_is_refused() {
        for (wrong, said) in [
            ("<!-- fields: WorkloadPolicy spec.colour -->\n<!-- end -->", "colour"),
            ("<!-- fields: Policy spec -->\n<!-- end -->", "Policy"),
            ("<!-- fields: WorkloadPolicy spec; colour #colours -->\n<!-- end -->", "colour"),
            ("<!-- fields: WorkloadPolicy spec -->\n", "no end"),
        ] {
            let error = fill(wrong).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
    }

    #[test]
    fn a_composed_message_has_an_ellipsis_for_the_value() {
        assert_eq!(spoken("self + ' is no call'"), "… is no call");
        assert_eq!(spoken("'port ' + string(self) + ' is low'"), "port … is low");
    }
}
