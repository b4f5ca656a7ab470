//! The CRDs: schemas of fields that the derive cannot express, and the last touches on what it makes.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use schemars::{Schema, SchemaGenerator, json_schema};
use serde_json::{Value, json};

use crate::{names, rules};

/// The CRDs of all six kinds, as they are installed.
///
/// # Errors
/// When a derived schema is not one that a CRD can hold, which a test of this crate excludes.
pub fn crds() -> Result<Vec<CustomResourceDefinition>, serde_json::Error> {
    [
        crate::AddressSlice::crd(),
        crate::ClusterWorkloadPolicy::crd(),
        crate::ExternalWorkload::crd(),
        crate::NodeAgent::crd(),
        crate::WorkloadNode::crd(),
        crate::WorkloadPolicy::crd(),
    ]
    .into_iter()
    .map(|crd| {
        let mut value = serde_json::to_value(crd)?;
        if let Some(versions) = value.pointer_mut("/spec/versions").and_then(Value::as_array_mut) {
            for version in versions {
                if let Some(schema) = version.pointer_mut("/schema/openAPIV3Schema") {
                    finish(schema);
                }
            }
        }
        serde_json::from_value(value)
    })
    .collect()
}

/// The structural schema of one kind, as JSON.
pub(crate) fn of_kind(kind: &str) -> Option<Value> {
    let crd = crds().ok()?.into_iter().find(|crd| crd.spec.names.kind == kind)?;
    let schema = crd.spec.versions.into_iter().next()?.schema?.open_api_v3_schema?;
    serde_json::to_value(schema).ok()
}

/// Makes null mean absent, drops formats that the API server does not know, and joins wrapped lines of descriptions.
fn finish(schema: &mut Value) {
    if let Some(object) = schema.as_object_mut() {
        object.remove("nullable");
        if object.get("format").and_then(Value::as_str).is_some_and(|format| format.starts_with("uint")) {
            object.remove("format");
        }
        if let Some(Value::String(description)) = object.get_mut("description") {
            *description = description
                .split("\n\n")
                .map(|part| part.replace('\n', " "))
                .collect::<Vec<_>>()
                .join("\n\n");
        }
        for key in ["properties", "items", "additionalProperties"] {
            match object.get_mut(key) {
                Some(Value::Object(children)) if key == "properties" => {
                    children.values_mut().for_each(finish)
                }
                Some(child) => finish(child),
                None => {}
            }
        }
    }
}

fn string(pattern: &str, max: u32) -> Schema {
    json_schema!({"type": "string", "pattern": pattern, "minLength": 1, "maxLength": max})
}

/// A DNS label: the name of a namespace or container.
pub(crate) fn dns_label(_: &mut SchemaGenerator) -> Schema {
    string(names::DNS_LABEL, 63)
}

/// A DNS subdomain: the name of most objects.
pub(crate) fn dns_subdomain(_: &mut SchemaGenerator) -> Schema {
    string(names::DNS_SUBDOMAIN, 253)
}

/// The name of a port.
pub(crate) fn port_name(_: &mut SchemaGenerator) -> Schema {
    string(names::PORT_NAME, 15)
}

/// A port by number or name.
pub(crate) fn port(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "x-kubernetes-int-or-string": true,
        "minimum": 1,
        "maximum": 65535,
        "pattern": names::PORT_NAME,
        "maxLength": 15,
    })
}

/// A count of nodes, at least one, or a percentage from 1% to 100%.
pub(crate) fn count_or_percentage(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "x-kubernetes-int-or-string": true,
        "minimum": 1,
        "maximum": 100_000,
        "pattern": "^([1-9][0-9]?|100)%$",
        "maxLength": 4,
    })
}

/// The labels of a selector.
pub(crate) fn match_labels(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": 16,
        "additionalProperties": {"type": "string", "pattern": names::LABEL_VALUE, "maxLength": 63},
    })
}

/// The key of a selector's expression.
pub(crate) fn label_key(_: &mut SchemaGenerator) -> Schema {
    string(names::LABEL_KEY, 317)
}

/// The values of a selector's expression.
pub(crate) fn label_values(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": 32,
        "items": {"type": "string", "pattern": names::LABEL_VALUE, "maxLength": 63},
    })
}

fn set(min: u32, max: u32, items: &Value) -> Schema {
    let mut schema = json_schema!({
        "type": "array",
        "maxItems": max,
        "items": items,
        "x-kubernetes-list-type": "set",
    });
    if min > 0 {
        schema.insert("minItems".into(), json!(min));
    }
    schema
}

/// Names of containers.
pub(crate) fn containers(generator: &mut SchemaGenerator) -> Schema {
    set(1, 64, dns_label(generator).as_value())
}

/// One address block.
pub(crate) fn cidr(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string",
        "maxLength": 49,
        "x-kubernetes-validations": rules::schema(&rules::cidrs()),
    })
}

/// Address blocks.
pub(crate) fn cidrs(generator: &mut SchemaGenerator) -> Schema {
    set(0, 16, cidr(generator).as_value())
}

/// Addresses of one workload.
pub(crate) fn addresses(_: &mut SchemaGenerator) -> Schema {
    let item = json!({
        "type": "string",
        "maxLength": 45,
        "x-kubernetes-validations": rules::schema(&rules::addresses()),
    });
    set(0, 16, &item)
}

/// Paths of cgroups.
pub(crate) fn cgroups(_: &mut SchemaGenerator) -> Schema {
    let item = json!({
        "type": "string",
        "maxLength": 1024,
        "x-kubernetes-validations": rules::schema(&rules::cgroup()),
    });
    set(0, 64, &item)
}

/// Names of system calls and groups.
pub(crate) fn syscall_names(_: &mut SchemaGenerator) -> Schema {
    let item = json!({
        "type": "string",
        "maxLength": 40,
        "x-kubernetes-validations": rules::schema(&rules::syscall_name()),
    });
    set(1, 128, &item)
}

/// An image's tag.
pub(crate) fn image_tag(_: &mut SchemaGenerator) -> Schema {
    string("^[A-Za-z0-9_][A-Za-z0-9_.-]*$", 128)
}

/// An image's digest.
pub(crate) fn image_digest(_: &mut SchemaGenerator) -> Schema {
    string("^sha256:[0-9a-f]{64}$", 71)
}

/// The labels that a node must have.
pub(crate) fn node_selector(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": 16,
        "additionalProperties": {"type": "string", "pattern": names::LABEL_VALUE, "maxLength": 63},
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn walk(value: &Value, visit: &mut impl FnMut(&serde_json::Map<String, Value>)) {
        match value {
            Value::Object(object) => {
                visit(object);
                object.values().for_each(|child| walk(child, visit));
            }
            Value::Array(children) => children.iter().for_each(|child| walk(child, visit)),
            _ => {}
        }
    }

    #[test]
    fn every_cel_rule_of_the_crds_has_its_function_and_every_function_is_used() {
        let mut in_crds = BTreeSet::new();
        for crd in crds().unwrap() {
            walk(&serde_json::to_value(crd).unwrap(), &mut |object| {
                for rule in
                    object.get("x-kubernetes-validations").and_then(Value::as_array).into_iter().flatten()
                {
                    in_crds.insert(rule["rule"].as_str().unwrap().to_owned());
                }
            });
        }
        let functions: BTreeSet<String> =
            rules::all().into_iter().map(|rule| rule.cel.into_owned()).collect();
        assert_eq!(in_crds, functions);
        assert!(in_crds.len() > 20);
    }

    #[test]
    fn no_schema_lets_null_stand_or_has_a_format_that_the_api_server_does_not_know() {
        for crd in crds().unwrap() {
            let name = crd.metadata.name.clone().unwrap();
            walk(&serde_json::to_value(crd).unwrap(), &mut |object| {
                assert!(!object.contains_key("nullable"), "{name}: {object:?}");
                if let Some(format) = object.get("format").and_then(Value::as_str) {
                    assert!(["int32", "int64", "date-time"].contains(&format), "{name}: {format}");
                }
            });
        }
    }

    #[test]
    fn every_list_and_map_that_users_write_is_bounded() {
        for kind in ["WorkloadPolicy", "ClusterWorkloadPolicy", "ExternalWorkload", "NodeAgent"] {
            walk(&of_kind(kind).unwrap()["properties"]["spec"], &mut |object| match object
                .get("type")
                .and_then(Value::as_str)
            {
                Some("array") => assert!(object.contains_key("maxItems"), "{kind}: {object:?}"),
                Some("object") if object.contains_key("additionalProperties") => {
                    assert!(object.contains_key("maxProperties"), "{kind}: {object:?}");
                }
                _ => {}
            });
        }
    }
}
