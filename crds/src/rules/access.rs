//! Process, file and capability rules of policies.

use std::sync::LazyLock;

use holdfast_policy::model::Capability;
use serde_json::Value;

use super::{Message, Rule, has, list, text};

/// About `processes`.
pub(crate) fn processes() -> Vec<Rule> {
    vec![
        Rule::new(
            "",
            "has no rules and allows by default, so it says nothing",
            "self.default == 'Deny' || (has(self.rules) && self.rules.size() > 0)",
            |value| text(value, "default") == "Deny" || !list(value, "rules").is_empty(),
        ),
        Rule::new(
            ".rules",
            "says notInImage twice; the second would never decide",
            "!has(self.rules) || self.rules.filter(r, has(r.notInImage)).size() <= 1",
            |value| list(value, "rules").iter().filter(|rule| has(rule, "notInImage")).count() <= 1,
        ),
    ]
}

/// About one process rule.
pub(crate) fn process_rule() -> Vec<Rule> {
    vec![
        Rule::new(
            "",
            "names no executables: give paths, or notInImage: true",
            "has(self.paths) || has(self.notInImage)",
            |value| has(value, "paths") || has(value, "notInImage"),
        ),
        Rule::new(
            "",
            "mixes paths and notInImage: each is a rule of its own",
            "!has(self.paths) || !has(self.notInImage)",
            |value| !has(value, "paths") || !has(value, "notInImage"),
        ),
        Rule::new(
            ".notInImage",
            "can only be true; leave it out otherwise",
            "!has(self.notInImage) || self.notInImage",
            |value| value.get("notInImage").is_none_or(|given| given == true),
        ),
    ]
}

/// About one path, with its patterns. What stands here in CEL, [`Pattern`](holdfast_policy::paths::Pattern) says in Rust;
/// both agree but for the
/// length of names in bytes and on both sides of a `*`, which only the latter counts.
pub(crate) fn path() -> Vec<Rule> {
    vec![
        Rule::new("", "is relative; a path begins with /", "self.startsWith('/')", |value| {
            of(value).starts_with('/')
        }),
        Rule::new(
            "",
            "ends with /; for all that a directory holds, write /** at the end",
            "!self.endsWith('/')",
            |value| !of(value).ends_with('/'),
        ),
        Rule::new("", "has an empty component (//)", "!self.contains('//')", |value| {
            !of(value).contains("//")
        }),
        Rule::new(
            "",
            "has a component . or .., which no resolved path has, so that it can never match",
            r"!self.matches(r'/\.\.?(/|$)')",
            |value| !of(value).split('/').skip(1).any(|part| matches!(part, "." | "..")),
        ),
        Rule::new(
            "",
            "has ** beside other characters; it stands alone between slashes",
            r"!self.matches(r'[^/]\*\*') && !self.matches(r'\*\*[^/]')",
            |value| !of(value).split('/').any(|part| part != "**" && part.contains("**")),
        ),
        Rule::new(
            "",
            "has a name of more than 255 characters, so that it can never match",
            r"!self.matches(r'[^/*]{256}')",
            |value| {
                of(value).split('/').all(|part| part.split('*').all(|piece| piece.chars().count() <= 255))
            },
        ),
        Rule::new(
            "",
            "has one of ? [ { \\, which are kept for later; only * and ** are patterns",
            r"!self.matches(r'[?[{\\]')",
            |value| !of(value).contains(['?', '[', '{', '\\']),
        ),
        Rule::new("", "has a zero byte, so that it can never match", r"!self.contains('\u0000')", |value| {
            !of(value).contains('\0')
        }),
    ]
}

/// About one name in `capabilities.deny`.
pub(crate) fn capability() -> Vec<Rule> {
    vec![Rule {
        cel: format!("self in {}", *CAPABILITIES).into(),
        message: Message::Composed("self + ' is no known capability (without CAP_, in capitals)'", |value| {
            format!(
                "{} is no known capability (without CAP_, in capitals)",
                value.as_str().unwrap_or_default()
            )
        }),
        field: "",
        holds: |value| value.as_str().is_some_and(|name| Capability::named(name).is_some()),
    }]
}

fn of(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// A CEL list of all names.
static CAPABILITIES: LazyLock<String> = LazyLock::new(|| {
    let names: Vec<String> = Capability::all().map(|known| format!("'{}'", known.name())).collect();
    format!("[{}]", names.join(", "))
});
