//! The table of `docs/chart-values.md`, from the comments of the chart's `values.yaml`.
//!
//! A comment that begins with `# -- ` says what the value below it means; what stands below that value, indented, is its
//! default. A key without such a comment is a group of values.

use std::fmt::Write;

/// The lines between which the table stands.
const BEGIN: &str = "<!-- values -->\n";
const END: &str = "<!-- end -->";

/// One value.
#[derive(Debug, Eq, PartialEq)]
struct Row {
    path: String,
    default: String,
    meaning: String,
}

/// The document with its table as `values` says; `None` where it has no place for one.
pub(crate) fn fill(document: &str, values: &str) -> Option<String> {
    let (before, rest) = document.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    let mut table = String::from("\n| value | default | meaning |\n|---|---|---|\n");
    for Row { path, default, meaning } in rows(values) {
        let default = default.replace('|', "\\|");
        let _ = writeln!(table, "| `{path}` | `{default}` | {} |", meaning.replace('|', "\\|"));
    }
    Some(format!("{before}{BEGIN}{table}\n{END}{after}"))
}

fn rows(values: &str) -> Vec<Row> {
    let mut rows = Vec::new();
    let mut path: Vec<(usize, &str)> = Vec::new();
    let mut meaning: Option<String> = None;
    let mut lines = values.lines().peekable();
    while let Some(line) = lines.next() {
        let text = line.trim_start();
        let indent = line.len() - text.len();
        if let Some(comment) = text.strip_prefix('#') {
            let comment = comment.trim();
            match comment.strip_prefix("-- ") {
                Some(begin) => meaning = Some(begin.to_owned()),
                None => {
                    if let Some(meaning) = &mut meaning {
                        meaning.push(' ');
                        meaning.push_str(comment);
                    }
                }
            }
            continue;
        }
        let Some((key, value)) = text.split_once(':') else {
            meaning = None;
            continue;
        };
        path.retain(|(above, _)| *above < indent);
        path.push((indent, key));
        let Some(meaning) = meaning.take() else { continue };
        let mut default = value.trim().to_owned();
        // What belongs to this value: deeper lines, and entries of a list, which may stand as far left as their key.
        while default.is_empty() || lines.peek().is_some_and(|next| belongs(next, indent)) {
            let Some(next) = lines.next_if(|next| belongs(next, indent)) else { break };
            let next = next.trim_end();
            default.push_str(if default.is_empty() { "" } else { "; " });
            default.push_str(next.trim_start());
        }
        let path: Vec<&str> = path.iter().map(|(_, key)| *key).collect();
        rows.push(Row { path: path.join("."), default, meaning });
    }
    rows
}

fn belongs(line: &str, indent: usize) -> bool {
    let text = line.trim_start();
    let own = line.len() - text.len();
    !text.is_empty() && (own > indent || (own == indent && text.starts_with("- ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_their_paths_defaults_and_meanings() {
        let values = "# A chart.\n\n# The image.\nimage:\n  # -- Its tag, which\n  # is long.\n  tag: \"\"\n\
            # -- Requests.\nresources:\n  limits:\n    memory: 1Gi\n# -- A list.\nspread:\n- a: 1\n  b: 2\n# -- Last.\nlast: {}\n";
        let row = |path: &str, default: &str, meaning: &str| Row {
            path: path.into(),
            default: default.into(),
            meaning: meaning.into(),
        };
        let expected = vec![
            row("image.tag", "\"\"", "Its tag, which is long."),
            row("resources", "limits:; memory: 1Gi", "Requests."),
            row("spread", "- a: 1; b: 2", "A list."),
            row("last", "{}", "Last."),
        ];
        assert_eq!(rows(values), expected);
    }

    #[test]
    fn a_document_without_a_place_is_refused() {
        assert_eq!(fill("# Values\n", "a: 1\n"), None);
    }
}
