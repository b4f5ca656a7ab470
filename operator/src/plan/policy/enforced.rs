//! The condition `Enforced`: true only where every selected node has a fresh report, gives every rule what it asks, and
//! has proven it by effect since.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Conditions, NAMED_NODES, PolicyFacts, Selected, Truth, limited, missing_containers};

/// Why a policy is not enforced on a node; the first of them that some node has is the condition's reason.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Lack {
    /// No agent has ever reported from there.
    NoAgent,
    /// Its agent is silent: nobody knows what the node does now.
    NotReporting,
    /// Its kernel does not have this generation.
    NotProgrammed,
    /// Some rule is given less than it asks.
    RulesWeaker,
    /// No recent proof held.
    NotProven,
}

impl Lack {
    fn reason(self) -> &'static str {
        match self {
            Self::NoAgent => "NoAgent",
            Self::NotReporting => "NotReporting",
            Self::NotProgrammed => "NotProgrammed",
            Self::RulesWeaker => "RulesWeaker",
            Self::NotProven => "NotProven",
        }
    }

    /// Whether nothing at all is known of such a node.
    pub(super) fn is_unknown(self) -> bool {
        matches!(self, Self::NoAgent | Self::NotReporting)
    }
}

/// The nodes on which a policy is not enforced, and why.
pub(super) type Lacking = BTreeMap<Lack, Vec<(Arc<str>, String)>>;

/// Adds the condition.
pub(super) fn add(
    conditions: &mut Conditions<'_>,
    policy: &PolicyFacts,
    selected: &Selected,
    lacking: &Lacking,
) {
    let missing = missing_containers(policy, selected);
    if selected.nodes.is_empty() {
        conditions.add("Enforced", Truth::Unknown, "NoWorkloads", "no running pod is selected");
    } else if policy.audit {
        let message = "spec.mode: Audit records what the rules would refuse, and refuses nothing";
        conditions.add("Enforced", Truth::False, "AuditMode", message);
    } else if !missing.is_empty() {
        let message = format!("spec.containers: no selected pod has a container {}", missing.join(", "));
        conditions.add("Enforced", Truth::False, "ContainerNotFound", limited(&message));
    } else if let Some((worst, _)) = lacking.first_key_value() {
        conditions.add("Enforced", Truth::False, worst.reason(), describe(lacking, selected.nodes.len()));
    } else {
        let count = selected.nodes.len();
        let message =
            format!("every rule is given what it asks, and that was proven, on {count} of {count} nodes");
        conditions.add("Enforced", Truth::True, "Enforced", message);
    }
}

fn describe(lacking: &Lacking, selected: usize) -> String {
    let nodes: Vec<&(Arc<str>, String)> = lacking.values().flatten().collect();
    let mut message = format!("enforced on {} of {selected} nodes", selected.saturating_sub(nodes.len()));
    for (at, (node, why)) in nodes.iter().take(NAMED_NODES).enumerate() {
        message.extend([if at == 0 { "; " } else { ", " }, node, ": ", why]);
    }
    if nodes.len() > NAMED_NODES {
        message.extend([" and ", &(nodes.len() - NAMED_NODES).to_string(), " more"]);
    }
    limited(&message)
}
