//! The documents of `tests/corpus/` and what their first lines expect. Shared by the tests that read them.

use std::path::{Path, PathBuf};

/// One document of the corpus.
#[derive(Debug)]
pub(crate) struct Case {
    /// The file.
    pub(crate) path: PathBuf,
    /// What is in it; not always UTF-8.
    pub(crate) bytes: Vec<u8>,
    /// The field that a refusal must name.
    pub(crate) field: Option<String>,
    /// A part of what a refusal must say.
    pub(crate) message: Option<String>,
}

impl Case {
    /// What a refusal fails to name or say; `None` if it is as expected.
    pub(crate) fn missing_in(&self, refusal: &str) -> Option<String> {
        match (&self.field, &self.message) {
            (Some(field), _) if !names(refusal, field) => Some(format!("the field {field}")),
            (_, Some(message)) if !refusal.contains(message.as_str()) => {
                Some(format!("the words {message:?}"))
            }
            _ => None,
        }
    }
}

/// Whether the text names this very field: not one beside it, above it or below it.
fn names(text: &str, field: &str) -> bool {
    // A list of errors stands in brackets, so '[' may come before a path; it goes on with one.
    let goes_on = |c: char| c.is_ascii_alphanumeric() || "_.[".contains(c);
    let goes_before = |c: char| c.is_ascii_alphanumeric() || "_.]".contains(c);
    text.match_indices(field).any(|(start, _)| {
        let before = text[..start].chars().next_back();
        let mut after = text[start + field.len()..].chars();
        let follows = match after.next() {
            // A full stop may end a sentence.
            Some('.') => after.next().is_some_and(goes_on),
            Some(c) => goes_on(c),
            None => false,
        };
        !before.is_some_and(goes_before) && !follows
    })
}

/// The documents of one folder of the corpus, by name.
///
/// # Panics
/// When the folder cannot be read.
pub(crate) fn cases(corpus: &Path, folder: &str) -> Vec<Case> {
    let entries = std::fs::read_dir(corpus.join(folder)).expect("the corpus is there");
    let mut paths: Vec<PathBuf> =
        entries.map(|entry| entry.expect("the corpus can be listed").path()).collect();
    paths.sort();
    let read = |path: PathBuf| {
        let bytes = std::fs::read(&path).expect("the corpus can be read");
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let header = |name: &str| {
            let mut comments = text.lines().take_while(|line| line.starts_with("# "));
            comments.find_map(|line| line.strip_prefix(name)).map(str::to_owned)
        };
        Case { field: header("# field: "), message: header("# message: "), path, bytes }
    };
    paths.into_iter().map(read).collect()
}
