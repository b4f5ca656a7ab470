//! What an API server holds, of every kind, by name and version.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::controlplane::ControlPlane;

/// Which object: kind with its group, namespace (empty where there is none), name.
pub type Key = (String, String, String);

/// Which state of an object.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Version {
    /// Which of all objects that ever had this name.
    pub uid: String,
    /// Changes with every write that changes anything.
    pub resource: String,
    /// Changes with every write that changes what is asked for.
    pub generation: i64,
}

/// Objects, and their versions.
pub type Snapshot = BTreeMap<Key, Version>;

/// The key of an object as JSON.
#[must_use]
pub fn key(object: &Value) -> Key {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let group = text("/apiVersion").split_once('/').map_or("", |(group, _)| group);
    let kind = text("/kind");
    let kind = if group.is_empty() { kind.to_owned() } else { format!("{kind}.{group}") };
    (kind, text("/metadata/namespace").to_owned(), text("/metadata/name").to_owned())
}

/// All objects of all kinds that can be listed and deleted, but Events, which time removes.
///
/// # Errors
/// When kubectl cannot list them.
pub fn snapshot(cluster: &ControlPlane) -> Result<Snapshot> {
    let kinds = cluster.kubectl(&["api-resources", "--verbs=list,delete", "--output=name"])?;
    let kinds: Vec<_> =
        kinds.lines().filter(|kind| !matches!(*kind, "events" | "events.events.k8s.io")).collect();
    let listed = cluster.kubectl(&["get", &kinds.join(","), "--all-namespaces", "--output=json"])?;
    let listed: Value = serde_json::from_str(&listed)?;
    let items = listed["items"].as_array().context("kubectl printed no list")?;
    Ok(items.iter().map(|item| (key(item), version(item))).collect())
}

fn version(object: &Value) -> Version {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    Version {
        uid: text("/metadata/uid"),
        resource: text("/metadata/resourceVersion"),
        generation: object.pointer("/metadata/generation").and_then(Value::as_i64).unwrap_or_default(),
    }
}
