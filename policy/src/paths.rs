//! Patterns of paths, and the automaton that matches many of them at once.
//!
//! A path is what a workload sees: absolute, after symbolic links, components separated by single slashes, none of them
//! `.` or `..`. It is bytes, not text. In a pattern `*` stands for any bytes within one component and `**`, alone
//! between two slashes, for any number of components: none or more in the middle, one or more at the end.

use std::fmt;

pub mod automaton;

pub use automaton::{Automaton, TooManyStates};

/// The longest pattern, in bytes. Paths themselves end at 4,096 bytes (`PATH_MAX`, include/uapi/linux/limits.h).
pub const MAX_PATTERN: usize = 400;
/// The longest component of a path, in bytes (`NAME_MAX`, include/uapi/linux/limits.h).
const NAME_MAX: usize = 255;

/// A pattern of paths.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pattern {
    components: Vec<Component>,
}

/// What stands between two slashes of a [`Pattern`].
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Component {
    /// `**`
    Deep,
    /// Pieces between `*`; one piece = no `*`.
    Name(Vec<Vec<u8>>),
}

/// Why a text is no pattern, for a human, without the field's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// Nothing.
    #[error("is empty")]
    Empty,
    /// It does not begin with a slash.
    #[error("is relative; a path begins with /")]
    Relative,
    /// It is longer than [`MAX_PATTERN`].
    #[error("is longer than {MAX_PATTERN} bytes")]
    TooLong,
    /// It is `/`, or ends with a slash.
    #[error("ends with /; for all that a directory holds, write /** at the end")]
    TrailingSlash,
    /// Two slashes in a row.
    #[error("has an empty component (//)")]
    EmptyComponent,
    /// `.` or `..`, which no resolved path has.
    #[error("has the component {0:?}, which no resolved path has, so that it can never match")]
    Dots(&'static str),
    /// `**` beside other bytes.
    #[error("has ** beside other characters in {0:?}; it stands alone between slashes")]
    DeepBeside(String),
    /// A component longer than a file name can be.
    #[error("has a component of more than {NAME_MAX} bytes, so that it can never match")]
    ComponentTooLong,
    /// A zero byte.
    #[error("has a zero byte, so that it can never match")]
    Zero,
    /// What other pattern languages give a meaning, and this one does not.
    #[error("has {0:?}, which is kept for later; only * and ** are patterns")]
    Reserved(char),
}

impl Pattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        if text.is_empty() {
            return Err(PatternError::Empty);
        }
        if text.len() > MAX_PATTERN {
            return Err(PatternError::TooLong);
        }
        let Some(rest) = text.strip_prefix('/') else { return Err(PatternError::Relative) };
        if let Some(reserved) = text.chars().find(|c| "?[{\\".contains(*c)) {
            return Err(PatternError::Reserved(reserved));
        }
        if text.contains('\0') {
            return Err(PatternError::Zero);
        }
        if rest.is_empty() || rest.ends_with('/') {
            return Err(PatternError::TrailingSlash);
        }
        let components = rest.split('/').map(component).collect::<Result<Vec<_>, _>>()?;
        Ok(Self { components })
    }

    /// The components, first to last.
    pub(crate) fn components(&self) -> &[Component] {
        &self.components
    }

    /// Whether the pattern stands for one path only.
    #[must_use]
    pub fn is_literal(&self) -> bool {
        self.components
            .iter()
            .all(|component| matches!(component, Component::Name(pieces) if pieces.len() == 1))
    }

    /// Whether it matches a path, straight from the meaning: slow, and the measure of the [`Automaton`].
    #[must_use]
    pub fn matches(&self, path: &[u8]) -> bool {
        let Some(rest) = path.strip_prefix(b"/") else { return false };
        let names: Vec<&[u8]> = rest.split(|byte| *byte == b'/').collect();
        names.iter().all(|name| !name.is_empty()) && components_match(&self.components, &names)
    }

    /// Whether it, or one of the patterns that stand for it ([`with_aliases`]), matches a path.
    #[must_use]
    pub fn matches_or_alias(&self, path: &[u8]) -> bool {
        with_aliases(self).iter().any(|pattern| pattern.matches(path))
    }

    /// The same pattern where its first components are `from`, with `to` in their place; `None` where they are not.
    #[must_use]
    pub(crate) fn with_prefix(&self, from: &[&str], to: &[&str]) -> Option<Self> {
        let name = |text: &&str| Component::Name(vec![text.as_bytes().to_vec()]);
        let rest = self.components.strip_prefix(from.iter().map(name).collect::<Vec<_>>().as_slice())?;
        if rest.is_empty() {
            return None;
        }
        Some(Self { components: to.iter().map(name).chain(rest.iter().cloned()).collect() })
    }
}

fn component(text: &str) -> Result<Component, PatternError> {
    match text {
        "" => Err(PatternError::EmptyComponent),
        "." => Err(PatternError::Dots(".")),
        ".." => Err(PatternError::Dots("..")),
        "**" => Ok(Component::Deep),
        _ if text.contains("**") => Err(PatternError::DeepBeside(text.to_owned())),
        _ if text.bytes().filter(|byte| *byte != b'*').count() > NAME_MAX => {
            Err(PatternError::ComponentTooLong)
        }
        _ => Ok(Component::Name(text.split('*').map(|piece| piece.as_bytes().to_vec()).collect())),
    }
}

fn components_match(components: &[Component], names: &[&[u8]]) -> bool {
    match components.split_first() {
        None => names.is_empty(),
        Some((Component::Deep, [])) => !names.is_empty(),
        Some((Component::Deep, rest)) => (0..=names.len()).any(|skip| components_match(rest, &names[skip..])),
        Some((Component::Name(pieces), rest)) => names
            .split_first()
            .is_some_and(|(name, others)| name_matches(pieces, name) && components_match(rest, others)),
    }
}

fn name_matches(pieces: &[Vec<u8>], name: &[u8]) -> bool {
    match pieces {
        [] => name.is_empty(),
        [only] => name == only.as_slice(),
        [first, rest @ ..] => name
            .strip_prefix(first.as_slice())
            .is_some_and(|after| (0..=after.len()).any(|skip| name_matches(rest, &after[skip..]))),
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for component in &self.components {
            f.write_str("/")?;
            match component {
                Component::Deep => f.write_str("**")?,
                Component::Name(pieces) => {
                    for (index, piece) in pieces.iter().enumerate() {
                        if index > 0 {
                            f.write_str("*")?;
                        }
                        f.write_str(&String::from_utf8_lossy(piece))?;
                    }
                }
            }
        }
        Ok(())
    }
}

/// Directories that are symbolic links to others in the images of today, and what they point to: `/var/run` (Filesystem
/// Hierarchy Standard 3.0, 5.13), `/var/lock`, and the merged `/usr` (<https://systemd.io/THE_CASE_FOR_THE_USR_MERGE>).
const LINKS: [(&[&str], &[&str]); 6] = [
    (&["var", "run"], &["run"]),
    (&["var", "lock"], &["run", "lock"]),
    (&["bin"], &["usr", "bin"]),
    (&["sbin"], &["usr", "sbin"]),
    (&["lib"], &["usr", "lib"]),
    (&["lib64"], &["usr", "lib64"]),
];

/// The patterns that stand for this one: itself, and the same below the other name of each well-known directory that is
/// a link in some images. What is matched are paths after links, so `/var/run/x` alone would never match where
/// `/var/run` is a link to `/run`.
#[must_use]
pub fn with_aliases(pattern: &Pattern) -> Vec<Pattern> {
    let mut all = vec![pattern.clone()];
    let mut next = 0;
    while let Some(known) = all.get(next).cloned() {
        next += 1;
        for (link, target) in LINKS {
            for (from, to) in [(link, target), (target, link)] {
                if let Some(other) = known.with_prefix(from, to)
                    && !all.contains(&other)
                {
                    all.push(other);
                }
            }
        }
        // /usr/sbin is a link to /usr/bin where both were merged.
        if let Some(other) = known.with_prefix(&["usr", "sbin"], &["usr", "bin"])
            && !all.contains(&other)
        {
            all.push(other);
        }
    }
    all
}

#[cfg(test)]
mod tests;
