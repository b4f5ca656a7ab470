//! What is kept of a pod of this node.

use std::time::Duration;

use holdfast_crds::pod::{Pod, read, trim};
use k8s_openapi::api::core::v1::Pod as Object;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Serialize, Serializer};

use super::store::Record;

/// A pod and what it states.
pub(crate) struct PodRecord {
    object: Object,
    pub(crate) pod: Pod,
}

impl Serialize for PodRecord {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.object.serialize(serializer)
    }
}

impl Record for PodRecord {
    type Object = Object;
    const KIND: &'static str = "Pod";
    const STATE: &'static str = "pods";
    const GRACE: Duration = Duration::ZERO;

    fn new(object: Object) -> Result<Option<Self>, String> {
        let phase = object.status.as_ref().and_then(|status| status.phase.as_deref());
        if matches!(phase, Some("Succeeded" | "Failed")) {
            return Ok(None);
        }
        let pod = read(&object);
        Ok(Some(Self { object: trim(object), pod }))
    }

    fn metadata(&self) -> &ObjectMeta {
        &self.object.metadata
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn in_phase(phase: &str) -> Object {
        serde_json::from_value(json!({
            "metadata": {"namespace": "shop", "name": "web", "annotations": {"other": "x"}},
            "status": {"phase": phase},
        }))
        .unwrap()
    }

    #[test]
    fn no_more_of_a_pod_is_saved_than_is_read() {
        let record = PodRecord::new(in_phase("Running")).unwrap().unwrap();
        let saved = serde_json::to_value(&record).unwrap();
        assert_eq!(saved, serde_json::to_value(trim(in_phase("Running"))).unwrap());
        assert_ne!(saved, serde_json::to_value(in_phase("Running")).unwrap());
        assert_eq!(record.pod, read(&in_phase("Running")));
    }

    #[test]
    fn a_finished_pod_does_not_matter() {
        assert!(PodRecord::new(in_phase("Succeeded")).unwrap().is_none());
    }
}
