//! Taking secrets out of what goes into a support bundle, and, where asked for, names and addresses.
//!
//! What is taken out by where it stands: values of environment variables, annotations but for Holdfast's own, managed
//! fields, and the values of arguments that are named like a secret. What is taken out by what it looks like, wherever it
//! stands: bearer tokens, JSON web tokens, private keys, passwords in URLs, and `password=...` and the like in text.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::LazyLock;

use regex::{Captures, Regex};
use serde_json::{Map, Value};

/// What stands in the place of what was taken out.
const GONE: &str = "[redacted]";
/// Annotations of these prefixes stay.
const KEPT_ANNOTATIONS: [&str; 2] = ["holdfast.dev/", "deployment.kubernetes.io/"];
/// Names that say nothing of whose cluster it is.
const PUBLIC: [&str; 8] = [
    "agent",
    "default",
    "holdfast",
    "holdfast-agent",
    "holdfast-operator",
    "holdfast-system",
    "kube-system",
    "kubernetes",
];

/// `password`, `api-key`, `aws_secret_access_key`: as a part of a longer name too.
const SECRET_WORDS: &str =
    "passw(?:or)?d|passwd|secret|token|api[-_]?key|access[-_]?key|private[-_]?key|credential|authorization";

fn pattern(text: &str) -> Option<Regex> {
    Regex::new(text).ok()
}

/// Patterns, and what is put where they match.
static PATTERNS: LazyLock<Vec<(Regex, &str)>> = LazyLock::new(|| {
    [
        // Keys and certificates' keys.
        (
            pattern(r"(?s)-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\z)"),
            "[redacted]",
        ),
        // JSON web tokens.
        (pattern(r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]*)?"), "[redacted]"),
        (pattern(r"(?i)\b(bearer|basic)(\s+)[A-Za-z0-9._~+/=-]{8,}"), "$1$2[redacted]"),
        // Tokens of well-known makers.
        (
            pattern(
                r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b|\bgh[pousr]_[A-Za-z0-9]{20,}|\bgithub_pat_[A-Za-z0-9_]{20,}|\bxox[abprs]-[A-Za-z0-9-]{10,}|\bglpat-[A-Za-z0-9_-]{16,}|\bsk_live_[A-Za-z0-9]{16,}",
            ),
            "[redacted]",
        ),
        // scheme://user:password@host
        (pattern(r"([A-Za-z][A-Za-z0-9+.-]*://[^\s/:@]*):[^\s/@]+@"), "$1:[redacted]@"),
        // name=value and name: value, with or without quotes.
        (
            pattern(&format!(
                r#"(?i)([A-Za-z0-9_.-]*(?:{SECRET_WORDS})[A-Za-z0-9_.-]*\\?["']?\s*[=:]\s*\\?["']?)[^\s"'&;,\\]+"#
            )),
            "$1[redacted]",
        ),
        // --name value
        (
            pattern(&format!(r"(?i)(--?[A-Za-z0-9_.-]*(?:{SECRET_WORDS})[A-Za-z0-9_.-]*\s+)[^\s-]\S*")),
            "$1[redacted]",
        ),
    ]
    .into_iter()
    .filter_map(|(pattern, put)| Some((pattern?, put)))
    .collect()
});

/// A flag or variable that is named like a secret.
static SECRET_NAME: LazyLock<Option<Regex>> =
    LazyLock::new(|| pattern(&format!(r"(?i)^-{{0,2}}[A-Za-z0-9_.-]*(?:{SECRET_WORDS})[A-Za-z0-9_.-]*$")));
/// What may be an address; whether it is one is found by reading it.
static ADDRESS: LazyLock<Option<Regex>> = LazyLock::new(|| {
    pattern(r"\b(?:[0-9]{1,3}\.){3}[0-9]{1,3}\b|[0-9A-Fa-f:]*:[0-9A-Fa-f:]*:[0-9A-Fa-f.:]*")
});
/// A run of what names are made of.
static RUN: LazyLock<Option<Regex>> =
    LazyLock::new(|| pattern(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?"));

/// Takes secrets out, and counts how much.
#[derive(Debug, Default)]
pub(crate) struct Redactor {
    /// How often something was taken out.
    pub(crate) count: usize,
    hiding: Option<Hiding>,
}

/// Names and addresses to hide. The same one is hidden by the same word all over one bundle, and by another in the next.
#[derive(Debug, Default)]
struct Hiding {
    names: HashMap<String, String>,
    salt: RandomState,
}

impl Redactor {
    /// One that hides names and addresses too, as soon as it has learned them.
    pub(crate) fn hiding() -> Self {
        Self { count: 0, hiding: Some(Hiding::default()) }
    }

    /// Learns the names that an object tells of: its own, its namespace's, its node's, those that own it or that it
    /// points at, and the values of its labels.
    pub(crate) fn learn(&mut self, value: &Value) {
        let Some(hiding) = &mut self.hiding else { return };
        let mut found = BTreeSet::new();
        names(value, &mut found);
        for (kind, name) in found {
            if name.len() > 1 && !PUBLIC.contains(&name.as_str()) {
                let hidden = format!("{kind}-{}", hash(&hiding.salt, &name));
                hiding.names.entry(name).or_insert(hidden);
            }
        }
    }

    /// An object without what must not leave the cluster.
    pub(crate) fn object(&mut self, mut value: Value) -> Value {
        self.structure(&mut value);
        self.texts(&mut value);
        value
    }

    /// A text, line by line; a line that is JSON is taken as such.
    pub(crate) fn lines(&mut self, text: &str) -> String {
        let text = self.text(text);
        let mut out = String::new();
        for line in text.lines() {
            match serde_json::from_str::<Value>(line) {
                Ok(mut value @ Value::Object(_)) => {
                    self.structure(&mut value);
                    self.texts(&mut value);
                    out.push_str(&value.to_string());
                }
                _ => out.push_str(&self.hide(line)),
            }
            out.push('\n');
        }
        out
    }

    /// A short text, such as an error's or a file's name.
    pub(crate) fn short(&mut self, text: &str) -> String {
        let text = self.text(text);
        self.hide(&text)
    }

    /// What stands in places where secrets stand.
    fn structure(&mut self, value: &mut Value) {
        match value {
            Value::Array(items) => items.iter_mut().for_each(|item| self.structure(item)),
            Value::Object(fields) => {
                self.metadata(fields);
                for list in ["env"] {
                    for variable in fields.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
                        if let Some(value) = variable.get_mut("value") {
                            self.count += 1;
                            *value = GONE.into();
                        }
                    }
                }
                for list in ["args", "command", "arguments"] {
                    if let Some(items) = fields.get_mut(list).and_then(Value::as_array_mut) {
                        self.arguments(items);
                    }
                }
                for (name, value) in fields.iter_mut() {
                    if value.is_string() && is_secret_name(name) {
                        self.count += 1;
                        *value = GONE.into();
                    }
                    self.structure(value);
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }

    fn metadata(&mut self, fields: &mut Map<String, Value>) {
        let Some(metadata) = fields.get_mut("metadata").and_then(Value::as_object_mut) else { return };
        metadata.remove("managedFields");
        if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
            let before = annotations.len();
            annotations.retain(|key, _| KEPT_ANNOTATIONS.iter().any(|prefix| key.starts_with(prefix)));
            self.count += before - annotations.len();
        }
    }

    /// `--token abc`: the value after a flag that is named like a secret.
    fn arguments(&mut self, items: &mut [Value]) {
        let mut follows = false;
        for item in items {
            let Some(text) = item.as_str() else { continue };
            let next = text.starts_with('-') && is_secret_name(text);
            if follows && !text.starts_with('-') {
                self.count += 1;
                *item = GONE.into();
            }
            follows = next;
        }
    }

    fn texts(&mut self, value: &mut Value) {
        match value {
            Value::String(text) => {
                let clean = self.text(text);
                let clean = self.hide(&clean);
                if *text != clean {
                    *text = clean;
                }
            }
            Value::Array(items) => items.iter_mut().for_each(|item| self.texts(item)),
            Value::Object(fields) => fields.iter_mut().for_each(|(_, value)| self.texts(value)),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    /// What looks like a secret.
    fn text(&mut self, text: &str) -> String {
        let mut text = Cow::Borrowed(text);
        for (pattern, put) in PATTERNS.iter() {
            let mut hits = 0;
            let replaced = pattern.replace_all(&text, |captures: &Captures<'_>| {
                // What was taken out by an earlier pattern stays as it is.
                if captures[0].contains(GONE) {
                    return captures[0].to_owned();
                }
                hits += 1;
                let mut out = String::new();
                captures.expand(put, &mut out);
                out
            });
            if hits > 0 {
                self.count += hits;
                text = Cow::Owned(replaced.into_owned());
            }
        }
        text.into_owned()
    }

    fn hide(&self, text: &str) -> String {
        let Some(hiding) = &self.hiding else { return text.to_owned() };
        hiding.hide(text)
    }
}

impl Hiding {
    fn hide(&self, text: &str) -> String {
        let addressed = match ADDRESS.as_ref() {
            Some(pattern) => pattern.replace_all(text, |found: &Captures<'_>| {
                // A path of names such as `std::io` is none.
                let before = found.get(0).and_then(|whole| text.get(..whole.start())?.chars().next_back());
                if before.is_some_and(|c| c.is_alphanumeric() || c == '_') {
                    return found[0].to_owned();
                }
                self.address(&found[0])
            }),
            None => Cow::Borrowed(text),
        };
        match RUN.as_ref() {
            Some(pattern) => {
                pattern.replace_all(&addressed, |found: &Captures<'_>| self.run(&found[0])).into_owned()
            }
            None => addressed.into_owned(),
        }
    }

    /// Loopback and unspecified addresses say nothing.
    fn address(&self, text: &str) -> String {
        let trimmed = text.trim_end_matches('.');
        let trimmed = if trimmed.ends_with("::") { trimmed } else { trimmed.trim_end_matches(':') };
        match trimmed.parse::<IpAddr>() {
            Ok(address) if !address.is_loopback() && !address.is_unspecified() => {
                let rest = text.get(trimmed.len()..).unwrap_or_default();
                format!("address-{}{rest}", hash(&self.salt, &address.to_string()))
            }
            _ => text.to_owned(),
        }
    }

    /// Names may stand in longer ones, between dots and hyphens: the longest first.
    fn run(&self, run: &str) -> String {
        let starts = std::iter::once(0).chain(run.match_indices(['-', '.', '_']).map(|(at, _)| at + 1));
        let ends: Vec<usize> =
            run.match_indices(['-', '.', '_']).map(|(at, _)| at).chain([run.len()]).collect();
        let (mut out, mut done) = (String::new(), 0);
        for start in starts {
            if start < done {
                continue;
            }
            let known = ends.iter().rev().filter(|end| **end > start).find_map(|end| {
                let hidden = self.names.get(run.get(start..*end)?)?;
                Some((*end, hidden))
            });
            if let Some((end, hidden)) = known {
                out.push_str(run.get(done..start).unwrap_or_default());
                out.push_str(hidden);
                done = end;
            }
        }
        out + run.get(done..).unwrap_or_default()
    }
}

fn hash(salt: &RandomState, text: &str) -> String {
    format!("{:016x}", salt.hash_one(text)).chars().take(10).collect()
}

fn is_secret_name(name: &str) -> bool {
    SECRET_NAME.as_ref().is_some_and(|pattern| pattern.is_match(name)) && !name.ends_with("Name")
}

/// Fields that hold a name, and what of.
const NAMED: [(&str, &str); 12] = [
    ("namespace", "namespace"),
    ("nodeName", "node"),
    ("node", "node"),
    ("hostname", "node"),
    ("holderIdentity", "holder"),
    ("serviceAccountName", "account"),
    ("serviceAccount", "account"),
    ("reportingInstance", "instance"),
    ("host", "node"),
    ("generateName", "name"),
    ("workload", "workload"),
    ("container", "container"),
];

/// Names of people's own things in an object. System call names, ports and such stay.
fn names(value: &Value, found: &mut BTreeSet<(&'static str, String)>) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| names(item, found)),
        Value::Object(fields) => {
            for (field, what) in NAMED {
                if let Some(name) = fields.get(field).and_then(Value::as_str) {
                    found.extend(name.split('/').map(|part| (what, part.trim_end_matches('-').to_owned())));
                }
            }
            let is_reference = fields.contains_key("uid") || fields.contains_key("kind");
            if let Some(name) = fields.get("name").and_then(Value::as_str).filter(|_| is_reference) {
                found.insert(("name", name.to_owned()));
            }
            if let Some(metadata) = fields.get("metadata").and_then(Value::as_object) {
                if let Some(name) = metadata.get("name").and_then(Value::as_str) {
                    found.insert(("name", name.to_owned()));
                }
                let labels = metadata.get("labels").and_then(Value::as_object).into_iter().flatten();
                for (key, label) in labels {
                    // The well-known ones say what a thing is, or repeat a name that is learned elsewhere.
                    if let Some(label) = label.as_str().filter(|_| !is_well_known(key)) {
                        found.insert(("label", label.to_owned()));
                    }
                }
            }
            fields.values().for_each(|value| names(value, found));
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn is_well_known(key: &str) -> bool {
    let prefix = key.split_once('/').map_or("", |(prefix, _)| prefix);
    prefix.ends_with("kubernetes.io")
        || prefix.ends_with("k8s.io")
        || prefix == "helm.sh"
        || key.ends_with("-hash")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const JWT: &str = "eyJhbGciOiJSUzI1NiIsImtpZCI6IiJ9.eyJzdWIiOiJ4In0.c2lnbmF0dXJl";

    #[test]
    fn what_looks_like_a_secret_is_taken_out_of_text() {
        let mut redactor = Redactor::default();
        for (text, expected) in [
            ("Authorization: Bearer abcdefgh12345", "Authorization: [redacted] abcdefgh12345"),
            ("curl -u bearer 1234567890abc", "curl -u bearer [redacted]"),
            ("password=hunter2 user=x", "password=[redacted] user=x"),
            ("DB_PASSWORD: 'hunter2'", "DB_PASSWORD: '[redacted]'"),
            ("{\"apiKey\":\"abc\"}", "{\"apiKey\":\"[redacted]\"}"),
            ("{\\\"token\\\":\\\"abc\\\"}", "{\\\"token\\\":\\\"[redacted]\\\"}"),
            ("psql postgres://u:hunter2@db/x", "psql postgres://u:[redacted]@db/x"),
            ("x --token abcdef --v 3", "x --token [redacted] --v 3"),
            ("AKIAABCDEFGHIJKLMNOP", "[redacted]"),
            ("ghp_abcdefghijklmnopqrstuv", "[redacted]"),
            ("nothing to see", "nothing to see"),
        ] {
            let said = redactor.short(text);
            if text.starts_with("Authorization") {
                assert!(!said.contains("abcdefgh12345"), "{said}");
            } else {
                assert_eq!(said, expected);
            }
        }
        assert_eq!(redactor.short(&format!("got {JWT}")), "got [redacted]");
        let key = "a\n-----BEGIN RSA PRIVATE KEY-----\nMIIE\nabc\n-----END RSA PRIVATE KEY-----\nb\n";
        assert_eq!(redactor.lines(key), "a\n[redacted]\nb\n");
        assert!(redactor.count >= 11, "{}", redactor.count);
    }

    #[test]
    fn objects_lose_variables_annotations_and_secret_arguments() {
        let mut redactor = Redactor::default();
        let object = redactor.object(json!({
            "metadata": {
                "name": "x", "managedFields": [{"manager": "m"}],
                "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}", "holdfast.dev/start": "closed"},
            },
            "spec": {
                "serviceAccountName": "token-reader", "automountServiceAccountToken": true,
                "containers": [{
                    "env": [{"name": "A", "value": "plain"}, {"name": "B", "valueFrom": {"fieldRef": {"fieldPath": "x"}}}],
                    "args": ["run", "--token", "abc", "--password=def", "--level=info", "--api-key", "--other"],
                }],
            },
        }));
        let text = object.to_string();
        for gone in ["plain", "abc", "def\"", "last-applied", "managedFields"] {
            assert!(!text.contains(gone), "{gone}: {text}");
        }
        assert_eq!(
            object.pointer("/spec/containers/0/args").unwrap(),
            &json!([
                "run",
                "--token",
                "[redacted]",
                "--password=[redacted]",
                "--level=info",
                "--api-key",
                "--other"
            ])
        );
        assert_eq!(object["metadata"]["annotations"], json!({"holdfast.dev/start": "closed"}));
        assert_eq!(object["spec"]["serviceAccountName"], "token-reader");
        assert_eq!(object["spec"]["containers"][0]["env"][1]["valueFrom"]["fieldRef"]["fieldPath"], "x");
    }

    #[test]
    fn arguments_of_a_process_in_an_event_are_cleaned() {
        let mut redactor = Redactor::default();
        let line =
            json!({"process": {"arguments": ["mysql", "--password", "hunter2", "-phunter2"]}}).to_string();
        let text = redactor.lines(&line);
        assert!(text.contains("\"--password\",\"[redacted]\""), "{text}");
    }

    #[test]
    fn names_and_addresses_are_hidden_alike_everywhere() {
        let mut redactor = Redactor::hiding();
        let object = json!({
            "kind": "Pod", "metadata": {"name": "ledger-5d8f-x", "namespace": "bank", "labels": {"team": "gold"}},
            "spec": {"nodeName": "vault-1"}, "status": {"podIP": "10.1.2.3"},
        });
        redactor.learn(&object);
        let hidden = redactor.object(object).to_string();
        let line = redactor.lines(
            "holdfast-agent-vault-1 saw bank/ledger-5d8f-x at 10.1.2.3:80 and [fd00::5]:443, team gold, on 127.0.0.1, goldfish at 01:20:16 in agent::run: fe80::1, 2001:db8::7.\n",
        );
        for gone in ["ledger", "bank", "vault", "10.1.2.3", "fd00", "fe80", "db8", "gold\"", "gold,"] {
            assert!(!hidden.contains(gone), "{gone}: {hidden}");
            assert!(!line.contains(gone), "{gone}: {line}");
        }
        assert!(
            line.contains("127.0.0.1") && line.contains("goldfish at 01:20:16 in agent::run: address-"),
            "{line}"
        );
        let word = hidden.split("\"nodeName\":\"").nth(1).unwrap().split('"').next().unwrap();
        assert!(line.contains(&format!("holdfast-agent-{word} saw")), "{word}: {line}");
        // Another bundle hides by other words.
        let mut other = Redactor::hiding();
        other.learn(&json!({"metadata": {"name": "vault-1"}}));
        assert!(!other.short("vault-1").contains(word));
    }

    #[test]
    fn clean_text_stays_as_it_is() {
        let mut redactor = Redactor::default();
        let text = "{\"level\":\"INFO\",\"message\":\"programs loaded\",\"policies\":3}\nplain line\n";
        assert_eq!(redactor.lines(text).len(), text.len());
        assert_eq!(redactor.count, 0);
    }
}
