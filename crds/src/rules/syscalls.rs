//! System call rules of policies.

use std::fmt::Write;
use std::sync::LazyLock;

use holdfast_policy::model::ALWAYS_ALLOWED;
use holdfast_policy::syscalls as table;
use serde_json::Value;

use super::{Message, Rule, has, list, text};

/// About `syscalls`.
pub(crate) fn syscalls() -> Vec<Rule> {
    vec![
        Rule::new(
            ".rules",
            "is empty and calls are allowed by default, so that it says nothing",
            "self.default != 'Allow' || (has(self.rules) && self.rules.size() > 0)",
            |value| text(value, "default") != "Allow" || !list(value, "rules").is_empty(),
        ),
        Rule::new(
            ".fallback",
            "says what to do where Deny is impossible, but no rule has action Deny",
            "self.fallback == 'None' || (has(self.rules) && self.rules.exists(r, r.action == 'Deny'))",
            |value| {
                text(value, "fallback") == "None"
                    || list(value, "rules").iter().any(|rule| text(rule, "action") == "Deny")
            },
        ),
    ]
}

/// About one name in a rule.
pub(crate) fn syscall_name() -> Vec<Rule> {
    vec![
        Rule {
            cel: format!("self in {}", *KNOWN).into(),
            message: Message::Composed(
                "self + ' is no known system call or group (groups begin with @)'",
                |value| {
                    format!(
                        "{} is no known system call or group (groups begin with @)",
                        value.as_str().unwrap_or_default()
                    )
                },
            ),
            field: "",
            holds: |value| {
                value.as_str().is_some_and(|name| table::is_known(name) || table::group(name).is_some())
            },
        },
        Rule::new(
            "",
            "is always allowed: no process could go on without it",
            format!("!(self in ['{}'])", ALWAYS_ALLOWED.join("', '")),
            |value| !value.as_str().is_some_and(|name| ALWAYS_ALLOWED.contains(&name)),
        ),
    ]
}

/// About one rule.
pub(crate) fn syscall_rule() -> Vec<Rule> {
    vec![
        Rule::new(
            ".args",
            "has a condition on a pointer or on an argument that a named call does not have; only values can be compared, \
             as what a pointer points at can change after the check",
            format!(
                "!has(self.args) || self.names.all(n, self.args.all(a, \
                 {}[?n].orValue(63) / [1, 2, 4, 8, 16, 32][a.index] % 2 == 1))",
                *COMPARABLE
            ),
            |value| {
                let names = list(value, "names");
                list(value, "args").iter().all(|argument| {
                    let index = argument.get("index").and_then(Value::as_u64).unwrap_or_default();
                    names.iter().filter_map(Value::as_str).all(|name| is_comparable(name, index))
                })
            },
        ),
        Rule::new(
            ".args",
            "has a condition twice",
            "!has(self.args) || self.args.all(a, self.args.exists_one(b, a == b))",
            |value| {
                let arguments = list(value, "args");
                arguments.iter().enumerate().all(|(index, argument)| !arguments[..index].contains(argument))
            },
        ),
    ]
}

/// About one condition on an argument.
pub(crate) fn argument() -> Vec<Rule> {
    vec![
        Rule::new(
            ".mask",
            "is needed by op MaskedEqual",
            "self.op != 'MaskedEqual' || has(self.mask)",
            |value| text(value, "op") != "MaskedEqual" || has(value, "mask"),
        ),
        Rule::new(
            ".mask",
            "belongs to op MaskedEqual only",
            "self.op == 'MaskedEqual' || !has(self.mask)",
            |value| text(value, "op") == "MaskedEqual" || !has(value, "mask"),
        ),
    ]
}

/// A CEL map with every known call and group as its keys.
static KNOWN: LazyLock<String> = LazyLock::new(|| cel_map(known().map(|name| (name, "true".to_owned()))));

/// A CEL map: name of a call or group -> the arguments that can be compared, as bits (CEL has no operators for them,
/// so the rule divides).
static COMPARABLE: LazyLock<String> = LazyLock::new(|| {
    let comparable = known().map(|name| {
        let bits = (0..6).filter(|index| is_comparable(name, *index)).map(|index| 1_u32 << index);
        (name, bits.sum::<u32>().to_string())
    });
    cel_map(comparable)
});

fn known() -> impl Iterator<Item = &'static str> {
    table::groups().map(|group| group.name).chain(table::names().iter().copied())
}

fn cel_map(entries: impl Iterator<Item = (&'static str, String)>) -> String {
    let mut map = String::from("{");
    for (key, value) in entries {
        let comma = if map.len() > 1 { ", " } else { "" };
        // Writing to a String cannot fail.
        let _ = write!(map, "{comma}'{key}': {value}");
    }
    map.push('}');
    map
}

/// Whether argument `index` exists in every call that `name` stands for, and is a value and not a pointer. True of
/// unknown names, which another rule refuses.
fn is_comparable(name: &str, index: u64) -> bool {
    let Ok(index) = usize::try_from(index) else { return false };
    table::expand(name).into_iter().filter(|call| !ALWAYS_ALLOWED.contains(call)).all(|call| {
        table::signature(call).and_then(|kinds| kinds.get(index)).is_some_and(|kind| !kind.is_pointer())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_can_be_compared_and_pointers_and_missing_arguments_cannot() {
        assert!(is_comparable("socket", 0) && is_comparable("socket", 2));
        assert!(!is_comparable("socket", 3));
        assert!(!is_comparable("openat", 1) && is_comparable("openat", 2));
        assert!(!is_comparable("@mount", 0));
        assert!(COMPARABLE.contains("'socket': 7,"));
    }
}
