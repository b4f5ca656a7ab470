//! Who may do what, and who did what: the rules that RBAC grants a service account, one verb at a time, held against the
//! audit log of the API server that enforced them.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::controlplane::ControlPlane;

/// One verb on one resource.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Grant {
    /// The namespace that it holds in; empty for all of the cluster.
    pub namespace: String,
    /// The API group.
    pub group: String,
    /// The resource, with its subresource where it has one: `nodeagents/status`.
    pub resource: String,
    /// The verb.
    pub verb: String,
    /// The only object that it holds for; empty for all.
    pub name: String,
}

impl Grant {
    /// Whether a request needs this grant.
    fn covers(&self, request: &Request) -> bool {
        (self.namespace.is_empty() || self.namespace == request.namespace)
            && (self.name.is_empty() || self.name == request.name)
            && self.group == request.group
            && self.resource == request.resource
            && request.verbs.contains(&self.verb.as_str())
    }
}

/// A request as the audit log has it.
#[derive(Clone, Debug)]
pub struct Request {
    namespace: String,
    group: String,
    resource: String,
    name: String,
    /// What it was authorized for: what makes an object by applying it needs two verbs.
    verbs: Vec<&'static str>,
    /// The status code of the answer.
    pub code: i64,
    /// The line of the log, for messages.
    pub text: String,
}

const VERBS: [&str; 8] = ["get", "list", "watch", "create", "update", "patch", "delete", "deletecollection"];

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// The requests of a user for resources, oldest first.
///
/// # Errors
/// When the audit log cannot be read.
pub fn requests(cluster: &ControlPlane, user: &str) -> Result<Vec<Request>> {
    let of_user =
        |event: &Value| event["user"]["username"] == user && event["objectRef"]["resource"].is_string();
    let request = |event: Value| {
        let object = &event["objectRef"];
        let resource = match object["subresource"].as_str() {
            Some(sub) => format!("{}/{sub}", text(&object["resource"])),
            None => text(&object["resource"]),
        };
        let code = event["responseStatus"]["code"].as_i64().unwrap_or_default();
        let mut verbs: Vec<&str> = VERBS.into_iter().filter(|verb| event["verb"] == *verb).collect();
        if verbs == ["patch"] && code == 201 {
            verbs.push("create");
        }
        Request {
            namespace: text(&object["namespace"]),
            group: text(&object["apiGroup"]),
            resource,
            name: text(&object["name"]),
            verbs,
            code,
            text: format!("{code} {} {}", text(&event["verb"]), text(&event["requestURI"])),
        }
    };
    Ok(cluster.audit_events()?.into_iter().filter(of_user).map(request).collect())
}

/// What RBAC grants a service account, beyond what every account has.
///
/// # Errors
/// When kubectl fails.
pub fn grants(cluster: &ControlPlane, namespace: &str, account: &str) -> Result<BTreeSet<Grant>> {
    let read = |kind: &str| -> Result<Vec<Value>> {
        let list: Value = serde_json::from_str(&cluster.kubectl(&["get", kind, "-A", "-o", "json"])?)?;
        Ok(list["items"].as_array().cloned().unwrap_or_default())
    };
    let (cluster_roles, roles) = (read("clusterroles")?, read("roles")?);
    let bindings = [read("clusterrolebindings")?, read("rolebindings")?].concat();
    let mut grants = BTreeSet::new();
    for binding in bindings {
        let bound = binding["subjects"].as_array().into_iter().flatten().any(|subject| {
            subject["kind"] == "ServiceAccount"
                && subject["name"] == account
                && subject["namespace"] == namespace
        });
        if !bound {
            continue;
        }
        let scope = text(&binding["metadata"]["namespace"]);
        let of_cluster = binding["roleRef"]["kind"] == "ClusterRole";
        let role = if of_cluster { &cluster_roles } else { &roles }
            .iter()
            .find(|role| {
                role["metadata"]["name"] == binding["roleRef"]["name"]
                    && (of_cluster || role["metadata"]["namespace"] == binding["metadata"]["namespace"])
            })
            .context("a binding of a role that is not there")?;
        for rule in role["rules"].as_array().into_iter().flatten() {
            add(&mut grants, &scope, rule);
        }
    }
    Ok(grants)
}

fn add(grants: &mut BTreeSet<Grant>, scope: &str, rule: &Value) {
    let list = |key: &str| -> Vec<String> { rule[key].as_array().into_iter().flatten().map(text).collect() };
    let mut names = list("resourceNames");
    if names.is_empty() {
        names.push(String::new());
    }
    for group in list("apiGroups") {
        for resource in list("resources") {
            for verb in list("verbs") {
                for name in &names {
                    grants.insert(Grant {
                        namespace: scope.to_owned(),
                        group: group.clone(),
                        resource: resource.clone(),
                        verb: verb.clone(),
                        name: name.clone(),
                    });
                }
            }
        }
    }
}

/// The grants that no request needed.
#[must_use]
pub fn unused<'a>(grants: &'a BTreeSet<Grant>, requests: &[Request]) -> Vec<&'a Grant> {
    grants.iter().filter(|grant| !requests.iter().any(|request| grant.covers(request))).collect()
}
