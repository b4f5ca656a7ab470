//! When a policy counts as enforced.

use super::*;

const NAME: &str = "p";

/// One node with an agent, one pod, one policy that is in force as asked.
fn rig() -> Rig {
    let mut rig = Rig::new();
    rig.node("n1", "10.0.0.0/24", "192.0.2.1");
    rig.pod("shop", "a", "web", "n1", "10.0.0.1");
    rig.policy(NAME, &json!({"selector": {}, "network": {"ingress": {}}}));
    rig.agent("n1", &[(NAME, programmed(vec![]))]);
    rig
}

fn enforced(rig: &Rig) -> (String, String) {
    rig.condition(NAME, "Enforced")
}

fn weak(asked: Asked, given: Given) -> PolicyRow {
    programmed(vec![Row { rule: "syscalls.rules[0]".to_owned(), asked, given, reason: "R".to_owned() }])
}

impl Rig {
    fn proof(&mut self, node: &str, proof: Proof) {
        let report = Report { proof, ..self.planner.index().report(node).unwrap().clone() };
        self.feed(Update::WorkloadNode(Change::Set(ObjectKey::cluster(node), report)));
    }

    fn proven_ago(&mut self, node: &str, seconds: Option<i64>) {
        let renewed = Timestamp::now();
        let proven = seconds.map(|ago| Timestamp::from_second(renewed.as_second() - ago).unwrap());
        let beat = Heartbeat { uid: format!("lease-{node}"), renewed, duration: 40, proven };
        self.feed(Update::Lease(Change::Set(ObjectKey::cluster(node), beat)));
    }

    /// Whether the change before this call made the policy's status stale.
    fn is_stale(&mut self) -> bool {
        let id = PolicyId::namespaced("shop", NAME);
        let dirty = self.planner.index_mut().take_dirty();
        dirty.policies.contains(&id, &self.planner.index().policies()[&id])
    }
}

#[test]
fn a_policy_is_enforced_where_every_node_gives_what_is_asked_and_proved_it() {
    let rig = rig();
    assert_eq!(enforced(&rig), pair("True", "Enforced"));
    let nodes = rig.status(NAME).nodes.unwrap();
    assert_eq!((nodes.selected, nodes.programmed, nodes.enforced, nodes.unknown), (1, 1, 1, 0));
}

#[test]
fn a_policy_without_workloads_is_unknown() {
    let mut rig = rig();
    rig.gone("shop", "a");
    assert_eq!(enforced(&rig), pair("Unknown", "NoWorkloads"));
}

#[test]
fn a_container_that_no_pod_has_is_not_enforced() {
    let mut rig = rig();
    let rules = json!({"rules": [{"names": ["mount"], "action": "Deny"}]});
    rig.policy(NAME, &json!({"selector": {}, "containers": ["mian"], "syscalls": rules}));
    assert_eq!(enforced(&rig), pair("False", "ContainerNotFound"));
    rig.policy(NAME, &json!({"selector": {}, "containers": ["main"], "syscalls": rules}));
    assert_eq!(enforced(&rig), pair("True", "Enforced"));
}

#[test]
fn audit_is_not_enforcement() {
    let mut rig = rig();
    rig.policy(NAME, &json!({"selector": {}, "mode": "Audit", "network": {"ingress": {}}}));
    assert_eq!(enforced(&rig), pair("False", "AuditMode"));
    assert_eq!(rig.status(NAME).nodes.unwrap().enforced, 0);
}

#[test]
fn a_policy_that_is_not_accepted_is_not_enforced() {
    let mut rig = rig();
    rig.policy(
        NAME,
        &json!({"selector": {"matchLabels": {"pod-template-hash": "x"}}, "network": {"ingress": {}}}),
    );
    assert_eq!(enforced(&rig), pair("False", "NotAccepted"));
}

#[test]
fn one_node_without_an_agent_is_enough() {
    let mut rig = rig();
    rig.node("n2", "10.0.1.0/24", "192.0.2.2");
    rig.pod("shop", "b", "web", "n2", "10.0.1.1");
    assert_eq!(enforced(&rig), pair("False", "NoAgent"));
    let nodes = rig.status(NAME).nodes.unwrap();
    assert_eq!((nodes.selected, nodes.enforced, nodes.unknown), (2, 1, 1));
    let message = rig.status(NAME).conditions.iter().find(|c| c.type_ == "Enforced").unwrap().message.clone();
    assert_eq!(message, "enforced on 1 of 2 nodes; n2: no agent has reported");
}

#[test]
fn a_rule_that_is_given_less_than_asked_is_not_enforced() {
    use Asked::{Audit, Deny, Kill};
    let table = [
        (Deny, Given::Deny, true),
        (Deny, Given::DenyAndKill, true),
        (Deny, Given::KillAfterEffect, false),
        (Deny, Given::Audit, false),
        (Deny, Given::NotCovered, false),
        (Kill, Given::DenyAndKill, true),
        (Kill, Given::Deny, false),
        (Kill, Given::KillAfterEffect, false),
        (Audit, Given::Audit, true),
        (Audit, Given::NotCovered, false),
        // There is nothing that could be done.
        (Deny, Given::NotApplicable, true),
    ];
    for (asked, given, holds) in table {
        let mut rig = rig();
        rig.agent("n1", &[(NAME, weak(asked, given))]);
        let expected = if holds { pair("True", "Enforced") } else { pair("False", "RulesWeaker") };
        assert_eq!(enforced(&rig), expected, "{asked:?} given {given:?}");
    }
}

#[test]
fn a_generation_that_is_not_in_the_kernel_is_not_enforced() {
    let mut rig = rig();
    for row in [
        PolicyRow { generation: 0, ..programmed(vec![]) },
        PolicyRow { state: PolicyState::Failed, ..programmed(vec![]) },
        PolicyRow { state: PolicyState::Pending, ..programmed(vec![]) },
    ] {
        rig.agent("n1", &[(NAME, row)]);
        assert_eq!(enforced(&rig), pair("False", "NotProgrammed"));
    }
}

#[test]
fn a_proof_that_failed_flips_the_condition_and_one_that_holds_flips_it_back() {
    let mut rig = rig();
    rig.is_stale();
    rig.proof("n1", Proof::Failed("its proof failed: link: hf_egress is detached".to_owned()));
    assert!(rig.is_stale());
    assert_eq!(enforced(&rig), pair("False", "NotProven"));
    let message = rig.status(NAME).conditions.iter().find(|c| c.type_ == "Enforced").unwrap().message.clone();
    assert!(message.ends_with("n1: its proof failed: link: hf_egress is detached"), "{message}");
    rig.proof("n1", Proof::Pending);
    assert!(rig.is_stale());
    assert_eq!(enforced(&rig), pair("False", "NotProven"));
    rig.proof("n1", Proof::Holds);
    assert!(rig.is_stale());
    assert_eq!(enforced(&rig), pair("True", "Enforced"));
}

#[test]
fn a_proof_counts_for_three_minutes() {
    let mut rig = rig();
    for (ago, holds) in [(0, true), (60, true), (140, true), (141, false), (3600, false)] {
        rig.proven_ago("n1", Some(ago));
        let expected = if holds { pair("True", "Enforced") } else { pair("False", "NotProven") };
        assert_eq!(enforced(&rig), expected, "{ago} s");
    }
    rig.proven_ago("n1", None);
    assert_eq!(enforced(&rig), pair("False", "NotProven"));
    rig.is_stale();
    rig.proven_ago("n1", Some(0));
    assert!(rig.is_stale(), "a proof that came late is an event");
    rig.proven_ago("n1", Some(10));
    assert!(!rig.is_stale(), "a heartbeat that changes nothing is none");
}

#[test]
fn a_silent_agent_is_unknown_within_45_seconds_and_nothing_else_has_to_happen() {
    let mut rig = rig();
    rig.pass();
    let job = rig.planner.next_job(rig.now, Timestamp::now()).unwrap();
    rig.planner.status_written(job, rig.now);
    let due = rig.planner.tick(rig.now).unwrap();
    assert!(due <= rig.now + Duration::from_secs(40), "the planner asks to be woken then");
    rig.now = due;
    rig.planner.tick(due);
    rig.pass();
    assert_eq!(enforced(&rig), pair("False", "NotReporting"));
    let nodes = rig.status(NAME).nodes.unwrap();
    assert_eq!((nodes.enforced, nodes.unknown), (0, 1));
    assert!(rig.planner.next_job(due, Timestamp::now()).is_some(), "a flip is written at once");
}
