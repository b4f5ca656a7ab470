//! What an API server holds, of every kind.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::controlplane::ControlPlane;

/// Which object: kind with its group, namespace (empty where there is none), name.
pub type Key = (String, String, String);

/// Objects, as the API server holds them.
pub type Objects = BTreeMap<Key, Value>;

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
pub fn objects(cluster: &ControlPlane) -> Result<Objects> {
    let kinds = cluster.kubectl(&["api-resources", "--verbs=list,delete", "--output=name"])?;
    let kinds: Vec<_> =
        kinds.lines().filter(|kind| !matches!(*kind, "events" | "events.events.k8s.io")).collect();
    let kinds = kinds.join(",");
    let listed =
        cluster.kubectl(&["get", &kinds, "--all-namespaces", "--show-managed-fields", "--output=json"])?;
    let mut listed: Value = serde_json::from_str(&listed)?;
    let items = listed["items"].as_array_mut().context("kubectl printed no list")?;
    Ok(std::mem::take(items).into_iter().map(|item| (key(&item), item)).collect())
}

/// What was written to an object but by those who write its status, and when. It is equal only if no write, not even one
/// of the same values by somebody new, has changed the object.
#[must_use]
pub fn written(object: &Value) -> Value {
    let mut written = object.clone();
    let has_status = written.as_object_mut().is_some_and(|fields| fields.remove("status").is_some());
    if has_status && let Some(metadata) = written["metadata"].as_object_mut() {
        metadata.remove("resourceVersion");
        if let Some(fields) = metadata.get_mut("managedFields").and_then(Value::as_array_mut) {
            fields.retain(|field| field["subresource"] != "status");
        }
    }
    written
}
