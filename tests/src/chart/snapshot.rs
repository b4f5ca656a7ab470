//! What an API server holds, of every kind.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use futures::{StreamExt, TryStreamExt, stream};
use http::Request;
use kube::{
    Client, Resource,
    api::DynamicObject,
    discovery::{ApiResource, Discovery, verbs},
};
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
/// When the API server does not list them.
pub async fn objects(cluster: &ControlPlane) -> Result<Objects> {
    let client = cluster.client().await?;
    let kinds = Discovery::new(client.clone()).run_aggregated().await?;
    let kinds = kinds.groups().flat_map(kube::discovery::ApiGroup::resources_by_stability);
    let kinds = kinds.filter(|(kind, can)| {
        kind.kind != "Event" && can.supports_operation(verbs::LIST) && can.supports_operation(verbs::DELETE)
    });
    let lists = stream::iter(kinds.map(|(kind, _)| list(client.clone(), kind))).buffer_unordered(8);
    Ok(lists.try_collect::<Vec<_>>().await?.into_iter().flatten().collect())
}

/// All objects of one kind, with kind and version, which an item of a list does not repeat.
async fn list(client: Client, kind: ApiResource) -> Result<Vec<(Key, Value)>> {
    let path = DynamicObject::url_path(&kind, None);
    let mut listed: Value = match client.request(Request::get(&path).body(Vec::new())?).await {
        // A kind that was removed in the meantime has no objects.
        Err(kube::Error::Api(status)) if status.code == 404 => return Ok(Vec::new()),
        listed => listed.with_context(|| path.clone())?,
    };
    let items = listed["items"].as_array_mut().with_context(|| format!("{path} is no list"))?;
    Ok(std::mem::take(items)
        .into_iter()
        .map(|mut item| {
            item["apiVersion"] = kind.api_version.clone().into();
            item["kind"] = kind.kind.clone().into();
            (key(&item), item)
        })
        .collect())
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
