//! The forms of names, as Kubernetes has them, for patterns in schemas and for rules.

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, PoisonError};

use regex::Regex;

/// A label's key: a name of at most 63 characters, after a DNS prefix and `/` where there is one.
pub(crate) const LABEL_KEY: &str = r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$";
/// A label's value; with at most 63 characters.
pub(crate) const LABEL_VALUE: &str = r"^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$";
/// Names of namespaces and containers; with at most 63 characters.
pub(crate) const DNS_LABEL: &str = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$";
/// Names of most objects; with at most 253 characters.
pub(crate) const DNS_SUBDOMAIN: &str = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";
/// A named port: letters and digits, at least one letter, single hyphens between them; with at most 15 characters.
pub(crate) const PORT_NAME: &str = r"^([a-z0-9]+-)*[a-z0-9]*[a-z][a-z0-9]*(-[a-z0-9]+)*$";
/// A quantity of a resource, not negative, such as `50m` or `64Mi`.
pub(crate) const QUANTITY: &str = r"^([0-9]+(\.[0-9]*)?|\.[0-9]+)([KMGTPE]i|[numkMGTPE]|[eE][-+]?[0-9]+)?$";

/// The pattern, ready for use. Each is prepared once, as that takes long and much memory. `None`: it is no pattern.
pub(crate) fn prepared(pattern: &str) -> Option<Regex> {
    static PREPARED: LazyLock<Mutex<HashMap<String, Regex>>> = LazyLock::new(Mutex::default);
    let mut prepared = PREPARED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = prepared.get(pattern) {
        return Some(known.clone());
    }
    let regex = Regex::new(pattern).ok()?;
    prepared.insert(pattern.to_owned(), regex.clone());
    Some(regex)
}

/// Whether this is a label's key.
pub(crate) fn is_label_key(key: &str) -> bool {
    static PATTERN: LazyLock<Option<Regex>> = LazyLock::new(|| prepared(LABEL_KEY));
    PATTERN.as_ref().is_some_and(|pattern| pattern.is_match(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn label_keys_are_told_from_others() {
        for good in ["app", "app.kubernetes.io/name", "a_b.c-D", &"x".repeat(63)] {
            assert!(is_label_key(good), "{good}");
        }
        for bad in ["", "-app", "app-", "UPPER.io/x", "a/b/c", "/x", "a b", &"x".repeat(64)] {
            assert!(!is_label_key(bad), "{bad}");
        }
    }

    #[test]
    fn port_names_have_a_letter_and_single_hyphens() {
        let pattern = Regex::new(PORT_NAME).unwrap();
        for good in ["http", "h2", "2h", "a-b", "8-a-8", "http-1"] {
            assert!(pattern.is_match(good), "{good}");
        }
        for bad in ["80", "8-0", "-http", "http-", "a--b", "HTTP", "a_b", ""] {
            assert!(!pattern.is_match(bad), "{bad}");
        }
    }
}
