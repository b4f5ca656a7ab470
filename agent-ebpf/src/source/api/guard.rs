//! Objects that may not be what they should be: one that does not parse must not stall a watch.

use std::borrow::Cow;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

/// An object of a watch, or what is wrong with it. Unlike `kube::core::DeserializeGuard` it names the field at fault.
#[derive(Debug, Clone)]
pub(crate) struct Guarded<K> {
    /// Its metadata; with only namespace, name, UID and generation where the rest cannot be read.
    pub(crate) metadata: ObjectMeta,
    /// The object, or `field: problem`.
    pub(crate) object: Result<Box<K>, String>,
}

impl<'de, K: DeserializeOwned> Deserialize<'de> for Guarded<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        let metadata = value.get("metadata").cloned().unwrap_or_default();
        let metadata = ObjectMeta::deserialize(&metadata).unwrap_or_else(|_| barest(&metadata));
        let object = serde_path_to_error::deserialize(&value)
            .map(Box::new)
            .map_err(|error| format!("{}: {}", error.path(), error.inner()));
        Ok(Self { metadata, object })
    }
}

fn barest(metadata: &Value) -> ObjectMeta {
    let text = |field: &str| metadata.get(field).and_then(Value::as_str).map(str::to_owned);
    ObjectMeta {
        namespace: text("namespace"),
        name: text("name"),
        uid: text("uid"),
        resource_version: text("resourceVersion"),
        generation: metadata.get("generation").and_then(Value::as_i64),
        ..ObjectMeta::default()
    }
}

impl<K: Resource> Resource for Guarded<K> {
    type DynamicType = K::DynamicType;
    type Scope = K::Scope;

    fn kind(dt: &Self::DynamicType) -> Cow<'_, str> {
        K::kind(dt)
    }

    fn group(dt: &Self::DynamicType) -> Cow<'_, str> {
        K::group(dt)
    }

    fn version(dt: &Self::DynamicType) -> Cow<'_, str> {
        K::version(dt)
    }

    fn plural(dt: &Self::DynamicType) -> Cow<'_, str> {
        K::plural(dt)
    }

    fn metadata_api() -> bool {
        K::metadata_api()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

#[cfg(test)]
mod tests {
    use holdfast_crds::WorkloadPolicy;
    use serde_json::json;

    use super::*;

    fn read(value: Value) -> Guarded<WorkloadPolicy> {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn a_bad_object_keeps_its_metadata_and_names_the_field() {
        let mut object = json!({
            "apiVersion": "holdfast.dev/v1alpha1", "kind": "WorkloadPolicy",
            "metadata": {"namespace": "shop", "name": "p", "uid": "u", "generation": 3},
            "spec": {"selector": {}, "network": {"ingress": {"allow": [{"ports": [{"port": 80}]}]}}},
        });
        assert!(read(object.clone()).object.is_ok());
        object["spec"]["network"]["ingress"]["allow"][0]["ports"][0]["protocol"] = json!("ICMP");
        let bad = read(object.clone());
        assert_eq!((bad.metadata.name.as_deref(), bad.metadata.generation), (Some("p"), Some(3)));
        let problem = bad.object.unwrap_err();
        assert!(problem.starts_with("spec.network.ingress.allow[0].ports[0].protocol: "), "{problem}");
        object["metadata"]["labels"] = json!(["not", "a", "map"]);
        assert_eq!(read(object).metadata.name.as_deref(), Some("p"));
    }
}
