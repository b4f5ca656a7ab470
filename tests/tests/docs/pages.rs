//! The commands of the documents: what stands in a page's fenced blocks, and how it is to be run.
//!
//! ```text
//! <!-- file: api.yaml -->          the next block is the content of that file
//! <!-- not run: REASON -->         the next block cannot run in a test
//! <!-- on: node -->                the next block runs as root on a node, not beside kubectl
//! <!-- exit: 1 -->                 the last command of the next block ends with this status
//! ```
//!
//! Blocks of `sh` are commands; blocks of `console` are commands behind `$ `, each followed by what it prints. Blocks of
//! other languages, without a mark, are left alone.

use anyhow::{Context, Result, bail, ensure};

/// One block that somebody may type or save.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Block {
    /// The line of the page that it begins at, from 1.
    pub(crate) line: usize,
    /// What to do with it.
    pub(crate) action: Action,
    /// The status with which its last command ends.
    pub(crate) exit: i32,
}

/// What to do with a block.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Action {
    /// Write it to a file of this name.
    Save(String, String),
    /// Run its commands, one after the other.
    Run {
        /// The commands, and what each prints; empty where the page does not say.
        commands: Vec<(String, String)>,
        /// On a node.
        on_node: bool,
    },
    /// Look at it only, for this reason.
    NotRun {
        /// The commands.
        commands: Vec<String>,
        /// Why.
        reason: String,
    },
}

impl Default for Action {
    fn default() -> Self {
        Self::Run { commands: Vec::new(), on_node: false }
    }
}

/// The blocks of a page, in order.
///
/// # Errors
/// When a block has no end, a mark stands before nothing or is not one of those above, or a console block prints before
/// it has a command.
pub(crate) fn blocks(page: &str) -> Result<Vec<Block>> {
    let mut blocks = Vec::new();
    let mut marks: Vec<(&str, &str)> = Vec::new();
    let mut lines = page.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        if let Some(mark) = line.strip_prefix("<!-- ").and_then(|rest| rest.strip_suffix(" -->"))
            && let Some((key @ ("file" | "not run" | "on" | "exit"), value)) = mark.split_once(": ")
        {
            marks.push((key, value));
            continue;
        }
        let Some(language) = line.trim_start().strip_prefix("```") else {
            ensure!(marks.is_empty() || line.is_empty(), "line {}: a mark without a block", number + 1);
            continue;
        };
        let mut text = String::new();
        loop {
            let (_, line) =
                lines.next().with_context(|| format!("line {}: a block without an end", number + 1))?;
            if line.trim_start().starts_with("```") {
                break;
            }
            text.push_str(line);
            text.push('\n');
        }
        let block = block(number + 1, language, &text, &std::mem::take(&mut marks));
        blocks.extend(block.with_context(|| format!("line {}", number + 1))?);
    }
    ensure!(marks.is_empty(), "a mark behind the last block");
    Ok(blocks)
}

fn block(line: usize, language: &str, text: &str, marks: &[(&str, &str)]) -> Result<Option<Block>> {
    let mark = |wanted: &str| marks.iter().find(|(key, _)| *key == wanted).map(|(_, value)| *value);
    if let Some(name) = mark("file") {
        return Ok(Some(Block { line, action: Action::Save(name.to_owned(), text.to_owned()), exit: 0 }));
    }
    let commands = match language {
        "sh" => scripts(text),
        "console" => console(text)?,
        _ if marks.is_empty() => return Ok(None),
        other => bail!("a mark before a block of {other:?}"),
    };
    let action = match (mark("not run"), mark("on")) {
        (Some(reason), None) => {
            let commands = commands.into_iter().map(|(command, _)| command).collect();
            Action::NotRun { commands, reason: reason.to_owned() }
        }
        (None, None) => Action::Run { commands, on_node: false },
        (None, Some("node")) => Action::Run { commands, on_node: true },
        (_, other) => bail!("a block cannot be run on {other:?}"),
    };
    let exit = mark("exit").map_or(Ok(0), str::parse).context("exit")?;
    Ok(Some(Block { line, action, exit }))
}

/// The commands of a block of `sh`: one a line, with what a backslash or a here-document makes belong to it.
fn scripts(text: &str) -> Vec<(String, String)> {
    let mut commands: Vec<(String, String)> = Vec::new();
    let mut open = false;
    let mut end: Option<String> = None;
    for line in text.lines() {
        if !open && (line.trim().is_empty() || line.starts_with('#')) {
            continue;
        }
        if open {
            if let Some((command, _)) = commands.last_mut() {
                command.push('\n');
                command.push_str(line);
            }
        } else {
            commands.push((line.to_owned(), String::new()));
        }
        if let Some(word) = &end {
            if line == word {
                (end, open) = (None, false);
            }
        } else {
            let word = line.split_once("<<").and_then(|(_, rest)| rest.split_whitespace().next());
            end = word.map(|word| word.trim_matches(['\'', '"']).to_owned());
            open = end.is_some() || line.ends_with('\\');
        }
    }
    commands
}

fn console(text: &str) -> Result<Vec<(String, String)>> {
    let mut commands: Vec<(String, String)> = Vec::new();
    let mut open = false;
    for line in text.lines() {
        if let Some(command) = line.strip_prefix("$ ") {
            open = command.ends_with('\\');
            commands.push((command.to_owned(), String::new()));
            continue;
        }
        let (command, output) = commands.last_mut().context("output before a command")?;
        let into = if open { command } else { output };
        into.push_str(if open { "\n" } else { "" });
        into.push_str(line);
        into.push_str(if open { "" } else { "\n" });
        open = open && line.ends_with('\\');
    }
    Ok(commands)
}

/// Whether a command printed what the page shows. Numbers stand for numbers, blanks for any blanks, `...` for anything, in
/// a line or, alone, for any lines; blank lines do not count. Lines that the page does not show are allowed only where it
/// has such a `...`.
///
/// # Errors
/// The first line of the page that was not printed.
pub(crate) fn same_shape(shown: &str, printed: &str) -> Result<()> {
    let lines =
        |text: &str| -> Vec<String> { text.lines().map(shape).filter(|line| !line.is_empty()).collect() };
    let (shown, printed) = (lines(shown), lines(printed));
    if shown.is_empty() {
        return Ok(());
    }
    let mut rest = printed.as_slice();
    let mut gap = false;
    for line in &shown {
        if line == "..." {
            gap = true;
            continue;
        }
        let at = rest.iter().position(|printed| matches(line, printed));
        match at {
            Some(at) if at == 0 || gap => rest = &rest[at + 1..],
            _ => bail!("it did not print {line:?} but {:?}", rest.first().map_or("no more", String::as_str)),
        }
        gap = false;
    }
    match rest.first() {
        Some(line) if !gap => bail!("it also printed {line:?}"),
        _ => Ok(()),
    }
}

/// With one blank for blanks and `0` for numbers.
fn shape(line: &str) -> String {
    let mut shape = String::new();
    for word in line.split_whitespace() {
        if !shape.is_empty() {
            shape.push(' ');
        }
        for letter in word.chars() {
            if !letter.is_ascii_digit() {
                shape.push(letter);
            } else if !shape.ends_with('0') {
                shape.push('0');
            }
        }
    }
    shape
}

fn matches(shown: &str, printed: &str) -> bool {
    let mut rest = printed;
    let mut parts = shown.split("...").map(str::trim).peekable();
    let mut first = true;
    while let Some(part) = parts.next() {
        let last = parts.peek().is_none();
        let at = match (first, last) {
            (true, true) => (rest == part).then_some(0),
            (true, false) => rest.starts_with(part).then_some(0),
            (false, true) if part.is_empty() => Some(rest.len()),
            (false, true) => rest.ends_with(part).then(|| rest.len() - part.len()),
            (false, false) => rest.find(part),
        };
        let Some(at) = at else { return false };
        rest = &rest[at + part.len()..];
        first = false;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_files_commands_and_what_is_not_run() {
        let page = "# A page\n\n<!-- file: a.yaml -->\n```yaml\na: 1\n```\n\ntext\n\n```sh\n# why\nkubectl get \\\n  nodes\n\
            X=1\n```\n<!-- not run: no Docker -->\n\n```sh\ndocker build .\n```\n```yaml\nnot: saved\n```\n\
            <!-- exit: 1 -->\n```console\n$ true\n$ false\nline\n```\n";
        let blocks = blocks(page).unwrap();
        assert_eq!(blocks.len(), 4);
        assert_eq!(blocks[0].action, Action::Save("a.yaml".into(), "a: 1\n".into()));
        let commands =
            vec![("kubectl get \\\n  nodes".to_owned(), String::new()), ("X=1".to_owned(), String::new())];
        assert_eq!(blocks[1].action, Action::Run { commands, on_node: false });
        let commands = vec!["docker build .".to_owned()];
        assert_eq!(blocks[2].action, Action::NotRun { commands, reason: "no Docker".into() });
        let commands = vec![("true".to_owned(), String::new()), ("false".to_owned(), "line\n".to_owned())];
        assert_eq!(blocks[3].action, Action::Run { commands, on_node: false });
        assert_eq!((blocks[3].exit, blocks[3].line), (1, 25));
    }

    #[test]
    fn marks_before_nothing_and_blocks_without_an_end_are_errors() {
        for page in [
            "<!-- not run: x -->\ntext\n",
            "```sh\nls\n",
            "<!-- on: moon -->\n```sh\nls\n```\n",
            "```console\nx\n```\n",
        ] {
            assert!(blocks(page).is_err(), "{page}");
        }
    }

    #[test]
    fn a_here_document_belongs_to_its_command() {
        let text = "cat <<'END' >f\na\n\n# b\nEND\nls\n";
        let commands = scripts(text);
        assert_eq!(commands.len(), 2, "{commands:?}");
    }

    #[test]
    fn what_is_shown_and_what_is_printed_have_the_same_shape_or_not() {
        let same = |shown, printed| same_shape(shown, printed).is_ok();
        assert!(same("NAME  AGE\napi   6s\n", "NAME   AGE\napi    113s\n\n"));
        assert!(same("pod/web-...\n", "pod/web-7d9f-x2\n"));
        assert!(same("a\n...\nz\n", "a\nb\nc\nz\n"));
        assert!(same("Status: True ... nodes\n", "Status: True, 1 of 1 nodes\n"));
        assert!(same("", "anything"));
        assert!(!same("True\n", "False\n"));
        assert!(!same("a\nz\n", "a\nb\nz\n"));
        assert!(!same("a\n", "a\nb\n"));
        assert!(!same("a\nb\n", "a\n"));
        assert!(!same("x ... y\n", "x y z\n"));
    }
}
