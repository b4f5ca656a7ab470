//! A NodeAgent's DaemonSet, the nodes that should run it, and the NodeAgent's status.

use std::collections::BTreeMap;

use holdfast_crds::node_agent::{LogFormat, LogLevel, NodeAgentSpec, NodeAgentStatus};
use holdfast_crds::{API_VERSION, node_agent};
use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetSpec, DaemonSetUpdateStrategy, RollingUpdateDaemonSet};
use k8s_openapi::api::core::v1::{PodTemplateSpec, Toleration};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use k8s_openapi::jiff::Timestamp;

use super::conditions::{Conditions, Truth};
use crate::args::PullPolicy;
use crate::facts::node_agent::NODE_AGENT_LABEL;
use crate::facts::{DaemonSetFacts, NodeAgentFacts, NodeFacts, Taint};
use crate::index::Index;

mod pod;

/// The longest name of a NodeAgent: it becomes a label's value and part of the names of pods.
pub const NAME_LIMIT: usize = 46;
/// The label by which the operator finds what it made.
pub const MANAGED_BY_LABEL: &str = "app.kubernetes.io/managed-by";
/// The value of [`MANAGED_BY_LABEL`].
pub const MANAGED_BY: &str = "holdfast-operator";
const NAME_LABEL: &str = "app.kubernetes.io/name";
const AGENT: &str = "holdfast-agent";

/// What all agents of this operator have in common.
#[derive(Clone, Debug)]
pub struct AgentSettings {
    /// The namespace of Holdfast.
    pub namespace: String,
    /// The repository of the agent's image.
    pub image_repository: String,
    /// The tag where a NodeAgent names neither tag nor digest.
    pub default_tag: String,
    /// The Secrets with which the kubelet fetches the image.
    pub pull_secrets: Vec<String>,
    /// When the kubelet fetches the image.
    pub pull_policy: PullPolicy,
    /// The service account of the agent's pods.
    pub service_account: String,
    /// The port, of the node, of the agent's metrics and readiness.
    pub metrics_port: u16,
}

/// The name of a NodeAgent's DaemonSet.
#[must_use]
pub fn daemon_set_name(node_agent: &str) -> String {
    format!("{AGENT}-{node_agent}")
}

fn image(settings: &AgentSettings, spec: &NodeAgentSpec) -> String {
    let repository = &settings.image_repository;
    match (&spec.image_digest, &spec.image_tag) {
        (Some(digest), _) => format!("{repository}@{digest}"),
        (None, Some(tag)) => format!("{repository}:{tag}"),
        (None, None) => format!("{repository}:{}", settings.default_tag),
    }
}

fn log_level(level: LogLevel) -> &'static str {
    match level {
        LogLevel::Error => "error",
        LogLevel::Warn => "warn",
        LogLevel::Info => "info",
        LogLevel::Debug => "debug",
        LogLevel::Trace => "trace",
    }
}

fn log_format(format: LogFormat) -> &'static str {
    match format {
        LogFormat::Json => "json",
        LogFormat::Text => "text",
    }
}

/// The tolerations of the agent's pods: all taints, unless the NodeAgent says otherwise.
fn tolerations(spec: &NodeAgentSpec) -> Vec<Toleration> {
    spec.tolerations
        .clone()
        .unwrap_or_else(|| vec![Toleration { operator: Some("Exists".to_owned()), ..Toleration::default() }])
}

/// The DaemonSet of a NodeAgent.
#[must_use]
pub fn daemon_set(settings: &AgentSettings, name: &str, uid: &str, spec: &NodeAgentSpec) -> DaemonSet {
    let selected = BTreeMap::from([
        (NAME_LABEL.to_owned(), AGENT.to_owned()),
        (NODE_AGENT_LABEL.to_owned(), name.to_owned()),
    ]);
    let mut labels = selected.clone();
    labels.insert(MANAGED_BY_LABEL.to_owned(), MANAGED_BY.to_owned());
    labels.insert("app.kubernetes.io/component".to_owned(), "agent".to_owned());
    labels.insert("app.kubernetes.io/part-of".to_owned(), "holdfast".to_owned());
    let max_unavailable = spec.update_strategy.as_ref().and_then(|strategy| strategy.max_unavailable.clone());
    DaemonSet {
        metadata: ObjectMeta {
            name: Some(daemon_set_name(name)),
            namespace: Some(settings.namespace.clone()),
            labels: Some(labels.clone()),
            owner_references: Some(vec![OwnerReference {
                api_version: API_VERSION.to_owned(),
                // Deleting the NodeAgent never waits for the DaemonSet.
                block_owner_deletion: Some(false),
                controller: Some(true),
                kind: "NodeAgent".to_owned(),
                name: name.to_owned(),
                uid: uid.to_owned(),
            }]),
            ..ObjectMeta::default()
        },
        spec: DaemonSetSpec {
            revision_history_limit: Some(10),
            selector: LabelSelector { match_labels: Some(selected), match_expressions: None },
            template: PodTemplateSpec {
                metadata: Some(ObjectMeta {
                    annotations: Some(BTreeMap::from([(
                        "kubectl.kubernetes.io/default-container".to_owned(),
                        pod::CONTAINER.to_owned(),
                    )])),
                    labels: Some(labels),
                    ..ObjectMeta::default()
                }),
                spec: Some(pod::spec(settings, name, uid, spec)),
            },
            update_strategy: Some(DaemonSetUpdateStrategy {
                rolling_update: Some(RollingUpdateDaemonSet {
                    max_surge: Some(IntOrString::Int(0)),
                    max_unavailable: Some(max_unavailable.unwrap_or(IntOrString::Int(1))),
                }),
                type_: Some("RollingUpdate".to_owned()),
            }),
            ..DaemonSetSpec::default()
        },
        status: None,
    }
}

/// Whether a toleration takes a taint, as the scheduler decides.
fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let effect = toleration.effect.as_deref().unwrap_or_default();
    let key = toleration.key.as_deref().unwrap_or_default();
    let value = toleration.value.as_deref().unwrap_or_default();
    let numbers = || Some((taint.value.parse::<i64>().ok()?, value.parse::<i64>().ok()?));
    (effect.is_empty() || effect == taint.effect)
        && (key.is_empty() || key == taint.key)
        && match toleration.operator.as_deref() {
            Some("Exists") => true,
            None | Some("" | "Equal") => value == taint.value && !key.is_empty(),
            Some("Gt") => numbers().is_some_and(|(taint, value)| taint > value),
            Some("Lt") => numbers().is_some_and(|(taint, value)| taint < value),
            Some(_) => false,
        }
}

/// The taints that the DaemonSet controller lets every pod of a DaemonSet tolerate; the last for host networking.
const ALWAYS_TOLERATED: [(&str, &str); 7] = [
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
    ("node.kubernetes.io/network-unavailable", "NoSchedule"),
];

/// Whether a node should run the agent, as the DaemonSet controller decides.
#[must_use]
pub fn eligible(spec: &NodeAgentSpec, node: &NodeFacts) -> bool {
    let tolerations = tolerations(spec);
    pod::node_selector(spec).iter().all(|(key, value)| node.labels.get(key) == Some(value))
        && node.taints.iter().filter(|taint| taint.effect != "PreferNoSchedule").all(|taint| {
            ALWAYS_TOLERATED.contains(&(taint.key.as_str(), taint.effect.as_str()))
                || tolerations.iter().any(|toleration| tolerates(toleration, taint))
        })
}

/// Why no DaemonSet is made of a NodeAgent.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Refusal {
    /// In one word.
    pub reason: &'static str,
    /// For people.
    pub message: String,
}

/// Whether a DaemonSet may be made of a NodeAgent. An older one that selects one of its nodes stands in its way, as two
/// agents on one node would undo each other's work.
///
/// # Errors
/// Why it may not.
pub fn check(index: &Index, name: &str, facts: &NodeAgentFacts) -> Result<(), Refusal> {
    let refuse = |reason, message| Err(Refusal { reason, message });
    let Some(spec) = &facts.spec else {
        return refuse("Malformed", facts.malformed.clone().unwrap_or_default());
    };
    if name.len() > NAME_LIMIT {
        return refuse("NameTooLong", format!("metadata.name: more than {NAME_LIMIT} characters"));
    }
    for (other, older) in index.node_agents() {
        let before = (older.created, other.as_str()) < (facts.created, name);
        let Some(theirs) = older.spec.as_ref().filter(|_| before && !older.deleting) else { continue };
        let both = |node: &NodeFacts| eligible(spec, node) && eligible(theirs, node);
        if let Some((node, _)) = index.nodes().iter().find(|(_, node)| both(node)) {
            return refuse(
                "Overlaps",
                format!("spec.nodeSelector: NodeAgent {other} also selects node {node}"),
            );
        }
    }
    Ok(())
}

/// The status of a NodeAgent: available only when every node that should run the agent has a ready one of the current
/// generation.
#[must_use]
pub fn status(
    index: &Index,
    facts: &NodeAgentFacts,
    refusal: Option<&Refusal>,
    set: Option<&DaemonSetFacts>,
    now: Timestamp,
) -> NodeAgentStatus {
    let count = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
    let desired = facts
        .spec
        .as_ref()
        .map_or(0, |spec| count(index.nodes().values().filter(|node| eligible(spec, node)).count()));
    let mut conditions = Conditions::new(&facts.status.conditions, facts.generation, now);
    // What the controller counted for another generation says nothing of this one.
    let current = set.filter(|set| set.observed_generation == set.generation);
    let (updated, ready) = current.map_or((0, 0), |set| (set.updated, set.ready));
    let message = format!("{ready} of {desired} agents ready, {updated} of the current generation");
    if let Some(refusal) = refusal {
        conditions.add("Available", Truth::False, refusal.reason, refusal.message.clone());
        conditions.add("Progressing", Truth::False, refusal.reason, "");
    } else if desired == 0 {
        conditions.add("Available", Truth::Unknown, "NoNodes", "no node is selected");
        conditions.add("Progressing", Truth::False, "NoNodes", "");
    } else if let Some(set) = current
        && set.desired == desired
        && updated >= desired
        && ready >= desired
    {
        conditions.add("Available", Truth::True, "AllReady", message);
        conditions.add("Progressing", Truth::False, "Complete", "");
    } else {
        let (reason, progressing) = match current {
            None => ("RollingOut", "the DaemonSet is not taken up yet"),
            Some(set) if set.desired != desired => {
                ("NodesChanged", "the DaemonSet does not know all nodes yet")
            }
            Some(_) if updated < desired => ("RollingOut", "agents are being replaced"),
            Some(_) => ("NotReady", "agents are starting"),
        };
        conditions.add("Available", Truth::False, reason, message);
        conditions.add("Progressing", Truth::True, reason, progressing);
    }
    node_agent::NodeAgentStatus {
        observed_generation: Some(facts.generation),
        conditions: conditions.done(),
        desired,
        ready,
        updated,
    }
}

#[cfg(test)]
pub(super) mod tests;
