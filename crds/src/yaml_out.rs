//! Writing YAML: just enough for generated files that people read and diff.

use std::fmt::Write;

use serde_json::Value;

/// The value as one YAML document in block style, keys in the order of the map.
pub(crate) fn to_yaml(value: &Value) -> String {
    let mut out = String::new();
    node(&mut out, value, 0, false);
    out
}

/// `inline`: the cursor stands behind `- `, so that the first line needs no indentation.
fn node(out: &mut String, value: &Value, indent: usize, inline: bool) {
    match value {
        Value::Object(object) if !object.is_empty() => {
            for (position, (key, child)) in object.iter().enumerate() {
                if !(inline && position == 0) {
                    pad(out, indent);
                }
                out.push_str(&scalar_text(key));
                out.push(':');
                child_of_key(out, child, indent);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for (position, item) in items.iter().enumerate() {
                if !(inline && position == 0) {
                    pad(out, indent);
                }
                out.push_str("- ");
                node(out, item, indent + 2, true);
            }
        }
        _ => {
            scalar(out, value);
            out.push('\n');
        }
    }
}

fn child_of_key(out: &mut String, child: &Value, indent: usize) {
    match child {
        Value::Object(object) if !object.is_empty() => {
            out.push('\n');
            node(out, child, indent + 2, false);
        }
        Value::Array(items) if !items.is_empty() => {
            out.push('\n');
            node(out, child, indent, false);
        }
        _ => {
            out.push(' ');
            scalar(out, child);
            out.push('\n');
        }
    }
}

fn scalar(out: &mut String, value: &Value) {
    match value {
        Value::String(text) => out.push_str(&scalar_text(text)),
        // Schemas hold their limits as floating point numbers; whole ones are written as what they are.
        Value::Number(number) => match number.as_f64() {
            Some(float) if number.is_f64() && float.fract() == 0.0 && float.abs() < 1e15 => {
                let _ = write!(out, "{float:.0}");
            }
            _ => {
                let _ = write!(out, "{number}");
            }
        },
        other => {
            let _ = write!(out, "{other}");
        }
    }
}

/// Plain where no YAML reader can take it for anything but text, else quoted as in JSON, which YAML includes.
fn scalar_text(text: &str) -> String {
    let plain_start = text.starts_with(|first: char| first.is_ascii_alphabetic() || first == '/');
    let plain_rest = text.chars().all(|c| c.is_ascii_alphanumeric() || " -_./(),';".contains(c));
    let word = text.to_ascii_lowercase();
    let ambiguous = ["y", "n", "yes", "no", "on", "off", "true", "false", "null"].contains(&word.as_str());
    if plain_start && plain_rest && !ambiguous && !text.ends_with(' ') {
        text.to_owned()
    } else {
        Value::String(text.to_owned()).to_string()
    }
}

fn pad(out: &mut String, indent: usize) {
    out.extend(std::iter::repeat_n(' ', indent));
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::to_yaml;

    #[test]
    fn nested_maps_and_lists_are_in_block_style_and_doubtful_text_is_quoted() {
        let value = json!({"a": {"b": [1, {"c": "x", "d": []}], "e": {}}, "on": "yes", "f": "a: b", "g": 1.0, "h": ["p q"]});
        let expected =
            "a:\n  b:\n  - 1\n  - c: x\n    d: []\n  e: {}\nf: \"a: b\"\ng: 1\nh:\n- p q\n\"on\": \"yes\"\n";
        assert_eq!(to_yaml(&value), expected);
    }
}
