//! The chart's values: their paths, and which of them values.yaml documents.

use anyhow::{Result, bail};
use serde_json::Value;

/// A key of values.yaml.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Documented {
    /// Its path, such as `image.tag`.
    pub path: String,
    /// Its comment where that begins with `# --`: it is a value by itself, whatever it holds. None: a section of values.
    pub text: Option<String>,
}

/// The values and sections of a values.yaml in block style, in their order. What is below a documented value is part of
/// it, and not listed.
///
/// # Errors
/// When a key that is not below a documented value has no comment before it.
pub fn documented(text: &str) -> Result<Vec<Documented>> {
    let mut found: Vec<Documented> = Vec::new();
    // The keys that the current line is below: their indentation, name, and whether they are documented values.
    let mut above: Vec<(usize, String, bool)> = Vec::new();
    let mut comment: Vec<&str> = Vec::new();
    for line in text.lines() {
        let trimmed = line.trim_start();
        if trimmed.starts_with('#') {
            comment.push(trimmed.trim_start_matches('#').trim());
            continue;
        }
        let before = std::mem::take(&mut comment);
        let Some((name, _)) = trimmed.split_once(':').filter(|_| !trimmed.starts_with('-')) else { continue };
        let indentation = line.len() - trimmed.len();
        above.retain(|(outer, _, _)| *outer < indentation);
        let inside = above.iter().any(|(_, _, value)| *value);
        if inside {
            above.push((indentation, name.to_owned(), false));
            continue;
        }
        let mut path: Vec<_> = above.iter().map(|(_, name, _)| name.as_str()).collect();
        path.push(name);
        let path = path.join(".");
        if before.is_empty() {
            bail!("{path} has no comment");
        }
        let text = before.iter().position(|line| line.starts_with("-- "));
        let text = text.map(|first| before[first..].join(" ").trim_start_matches("-- ").to_owned());
        above.push((indentation, name.to_owned(), text.is_some()));
        found.push(Documented { path, text });
    }
    Ok(found)
}

/// The value at a path such as `image.tag`.
#[must_use]
pub fn lookup<'value>(values: &'value Value, path: &str) -> Option<&'value Value> {
    path.split('.').try_fold(values, |value, name| value.get(name))
}

/// Those of the paths that values say something of.
#[must_use]
pub fn paths<'path>(values: &Value, all: &[&'path str]) -> Vec<&'path str> {
    all.iter().copied().filter(|path| lookup(values, path).is_some()).collect()
}

/// Values without what they say at a path.
#[must_use]
pub fn without(values: &Value, path: &str) -> Value {
    let mut less = values.clone();
    let (section, name) = path.rsplit_once('.').unwrap_or(("", path));
    let section = if section.is_empty() { String::new() } else { format!("/{}", section.replace('.', "/")) };
    if let Some(section) = less.pointer_mut(&section).and_then(Value::as_object_mut) {
        section.remove(name);
    }
    less
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_below_a_documented_value_is_part_of_it() -> Result<()> {
        let text = "# A section.\na:\n  # -- A value\n  # of two lines.\n  b:\n    c: 1\n    d:\n    - e: 2\n  # -- Another.\n  f: 3\n";
        let found = documented(text)?;
        let found: Vec<_> = found.iter().map(|value| (value.path.as_str(), value.text.as_deref())).collect();
        assert_eq!(found, [("a", None), ("a.b", Some("A value of two lines.")), ("a.f", Some("Another."))]);
        assert!(documented("a: 1\n").is_err());
        Ok(())
    }

    #[test]
    fn a_value_is_found_and_taken_away_by_its_path() {
        let values = json!({"a": {"b": 1, "c": 2}, "d": 3});
        assert_eq!(lookup(&values, "a.b"), Some(&json!(1)));
        assert_eq!(paths(&values, &["a.b", "a.x", "d"]), ["a.b", "d"]);
        assert_eq!(without(&values, "a.b"), json!({"a": {"c": 2}, "d": 3}));
        assert_eq!(without(&values, "d"), json!({"a": {"b": 1, "c": 2}}));
    }
}
