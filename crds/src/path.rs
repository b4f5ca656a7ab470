//! Paths of fields, as Kubernetes writes them: `spec.network.ingress.allow[0].ports[1].endPort`.

use std::fmt::Write;

/// Appends a key of a mapping.
pub(crate) fn push_key(path: &mut String, key: &str) {
    if !path.is_empty() {
        path.push('.');
    }
    path.push_str(key);
}

/// Appends an index of a list, from 0.
pub(crate) fn push_index(path: &mut String, index: usize) {
    // Writing to a String cannot fail.
    let _ = write!(path, "[{index}]");
}

/// The path of a key below `path`.
pub(crate) fn key(path: &str, key: &str) -> String {
    let mut path = path.to_owned();
    push_key(&mut path, key);
    path
}

/// The path of an item below `path`.
pub(crate) fn index(path: &str, index: usize) -> String {
    let mut path = path.to_owned();
    push_index(&mut path, index);
    path
}

/// The path of what holds this field; `None` at the top.
pub(crate) fn parent(path: &str) -> Option<&str> {
    let end = path.rfind(['.', '['])?;
    Some(&path[..end])
}
