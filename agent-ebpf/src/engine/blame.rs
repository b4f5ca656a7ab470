//! Which policy gives way when what all ask for does not fit. Never one that is in force while a newcomer could: else
//! whoever may write policies in one namespace could push another's rules off a node.

use std::collections::HashMap;

use holdfast_policy::model::{Policy, PolicyId};

/// Something that does not fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Misfit {
    /// The policy that the error names.
    pub(super) named: PolicyId,
    /// The policies that the limit is about; empty = all of the node.
    pub(super) concerned: Vec<PolicyId>,
    /// What is wrong, for people.
    pub(super) message: String,
}

/// Picks the policy: of those concerned a newcomer before one in force, a namespaced one before a cluster's, the one the
/// error names before others, and then the last by name.
pub(super) fn gives_way(
    misfit: &Misfit,
    policies: &[Policy],
    in_force: &HashMap<PolicyId, Policy>,
) -> PolicyId {
    let concerned = |policy: &&Policy| misfit.concerned.is_empty() || misfit.concerned.contains(&policy.id);
    policies
        .iter()
        .filter(concerned)
        .max_by_key(|policy| {
            (
                !is_in_force(policy, in_force),
                policy.id.namespace.is_some(),
                policy.id == misfit.named,
                policy.id.clone(),
            )
        })
        .map_or_else(|| misfit.named.clone(), |policy| policy.id.clone())
}

/// Whether this very version is in force.
pub(super) fn is_in_force(policy: &Policy, in_force: &HashMap<PolicyId, Policy>) -> bool {
    in_force
        .get(&policy.id)
        .is_some_and(|good| good.uid == policy.uid && good.fingerprint() == policy.fingerprint())
}

#[cfg(test)]
mod tests {
    use holdfast_policy::model::{Mode, NamespaceTarget, Target};
    use holdfast_policy::selector::Selector;

    use super::*;

    fn policy(id: PolicyId) -> Policy {
        Policy {
            uid: id.to_string(),
            id,
            generation: 1,
            target: Target {
                namespaces: NamespaceTarget::Matching(Selector::default()),
                pods: Selector::default(),
            },
            containers: None,
            mode: Mode::Enforce,
            network: None,
            syscalls: None,
            processes: None,
            files: None,
            capabilities: None,
        }
    }

    fn known(policies: &[Policy]) -> HashMap<PolicyId, Policy> {
        policies.iter().map(|policy| (policy.id.clone(), policy.clone())).collect()
    }

    #[test]
    fn a_tenant_s_new_policies_give_way_before_a_cluster_policy_that_is_in_force() {
        let ceiling = policy(PolicyId::cluster("ceiling"));
        let mut all = vec![ceiling.clone()];
        all.extend((0..64).map(|n| policy(PolicyId::namespaced("apps", format!("p{n:02}")))));
        let misfit = Misfit { named: ceiling.id.clone(), concerned: Vec::new(), message: String::new() };
        assert_eq!(
            gives_way(&misfit, &all, &known(std::slice::from_ref(&ceiling))),
            PolicyId::namespaced("apps", "p63")
        );
        // After a restart nothing is known to be in force.
        assert_eq!(gives_way(&misfit, &all, &HashMap::new()), PolicyId::namespaced("apps", "p63"));
        // All in force, and the limit passed by a change of the workload.
        assert_eq!(gives_way(&misfit, &all, &known(&all)), PolicyId::namespaced("apps", "p63"));
    }

    #[test]
    fn only_policies_that_the_limit_is_about_give_way() {
        let (a, b) = (policy(PolicyId::namespaced("a", "one")), policy(PolicyId::namespaced("b", "two")));
        let misfit = Misfit { named: a.id.clone(), concerned: vec![a.id.clone()], message: String::new() };
        assert_eq!(gives_way(&misfit, &[a.clone(), b], &HashMap::new()), a.id);
    }
}
