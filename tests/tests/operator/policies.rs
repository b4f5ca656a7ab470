//! What the operator says of policies.

use anyhow::Result;
use holdfast_crds::{
    WorkloadNode, WorkloadPolicy,
    workload_node::{PolicyReport, PolicyState},
};
use holdfast_tests::operator::NAMESPACE;
use k8s_openapi::{
    api::{coordination::v1::Lease, core::v1::Node},
    jiff::Timestamp,
};
use kube::{
    Api, Client, ResourceExt,
    api::{Patch, PatchParams},
};
use serde_json::json;

use super::*;

/// Plays the agent of a node: its heartbeat and its report.
struct FakeAgent {
    client: Client,
    node: Node,
}

impl FakeAgent {
    async fn beat(&self, seconds: u32) -> Result<()> {
        let api: Api<Lease> = Api::namespaced(self.client.clone(), NAMESPACE);
        let name = format!("holdfast-agent-{}", self.node.name_any());
        let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name},
            "spec": {"holderIdentity": "agent", "leaseDurationSeconds": seconds,
                "renewTime": k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime(Timestamp::now())}});
        api.patch(&name, &PatchParams::apply("agent").force(), &Patch::Apply(&lease)).await?;
        Ok(())
    }

    async fn report(&self, boot_id: &str, policies: Vec<PolicyReport>) -> Result<()> {
        let api: Api<WorkloadNode> = Api::all(self.client.clone());
        let name = self.node.name_any();
        let head = json!({"apiVersion": "holdfast.dev/v1alpha1", "kind": "WorkloadNode", "metadata": {"name": name}});
        api.patch(&name, &PatchParams::apply("agent").force(), &Patch::Apply(&head)).await?;
        let mut status = head;
        status["status"] = json!({"nodeUid": self.node.uid(), "bootId": boot_id, "agentVersion": "0.1.0", "policies": policies});
        api.patch_status(&name, &PatchParams::apply("agent").force(), &Patch::Apply(&status)).await?;
        Ok(())
    }
}

fn row(policy: &WorkloadPolicy, state: PolicyState) -> PolicyReport {
    object(json!({"namespace": "shop", "name": policy.name_any(), "uid": policy.uid(),
        "generation": policy.metadata.generation, "state": state, "workloads": 1}))
}

#[tokio::test]
async fn a_policy_is_programmed_only_where_every_node_with_a_selected_pod_says_so() -> Result<()> {
    let (cluster, mut operator, client) = rig(&[]).await?;
    namespace(&client, "shop", json!({})).await?;
    let policies: Api<WorkloadPolicy> = Api::namespaced(client.clone(), "shop");
    let web = policies.create(&PostParams::default(), &policy("web")).await?;
    let status = wait_policy(&client, "web", "Programmed", "Unknown", "NoWorkloads").await?;
    assert_eq!(condition(&status.conditions, "Accepted").map(|now| now.status.as_str()), Some("True"));

    let mut agents = Vec::new();
    for (n, name) in ["n1", "n2"].into_iter().enumerate() {
        let node = node(&client, name, &format!("10.244.{n}.0/24"), &format!("192.0.2.{n}")).await?;
        let pod = pod(&format!("web-{n}"), name, &json!({"app": "web"}));
        run_pod(&client, "shop", &pod, &format!("10.244.{n}.1")).await?;
        agents.push(FakeAgent { client: client.clone(), node });
    }
    let status = wait_policy(&client, "web", "Programmed", "False", "NoAgent").await?;
    assert_eq!(status.observed_generation, web.metadata.generation);

    for agent in &agents {
        agent.beat(3600).await?;
    }
    agents[0].report("boot-1", vec![row(&web, PolicyState::Programmed)]).await?;
    agents[1].report("boot-1", vec![row(&web, PolicyState::Pending)]).await?;
    let series = |state: &str| {
        format!("holdfast_policy_nodes{{namespace=\"shop\",policy=\"shop/web\",state=\"{state}\"}}")
    };
    until(PATIENCE, "one of two nodes is programmed", async || {
        let seen =
            (operator.metric(&series("selected")).await?, operator.metric(&series("programmed")).await?);
        Ok((seen == (Some(2.0), Some(1.0))).then_some(()))
    })
    .await?;
    agents[1].report("boot-1", vec![row(&web, PolicyState::Programmed)]).await?;
    let status = wait_policy(&client, "web", "Programmed", "True", "Programmed").await?;
    let nodes = status.nodes.context("nodes")?;
    assert_eq!((nodes.selected, nodes.programmed, status.workloads), (2, 2, Some(2)));
    let since = condition(&status.conditions, "Programmed").map(|now| now.last_transition_time.clone());

    // A rule that a node honours less than asked.
    let mut weak = row(&web, PolicyState::Programmed);
    weak.rules = object(
        json!([{"rule": "syscalls.rules[0]", "asked": "Deny", "given": "KillAfterEffect", "reason": "NoBpfLsm"}]),
    );
    agents[1].report("boot-1", vec![weak]).await?;
    let status = wait_policy(&client, "web", "Degraded", "True", "RulesWeaker").await?;
    assert_eq!(
        (status.weakest[0].node.as_str(), status.weakest[0].rule.as_str()),
        ("n2", "syscalls.rules[0]")
    );
    let still = condition(&status.conditions, "Programmed").map(|now| now.last_transition_time.clone());
    assert_eq!(still, since, "a transition time stays until the status flips");

    // Each of these alone takes the node away: another boot, an old generation, a failure, silence.
    agents[1].report("boot-0", vec![row(&web, PolicyState::Programmed)]).await?;
    wait_policy(&client, "web", "Programmed", "False", "NoAgent").await?;
    agents[1].report("boot-1", vec![row(&web, PolicyState::Programmed)]).await?;
    wait_policy(&client, "web", "Programmed", "True", "Programmed").await?;
    agents[1].report("boot-1", vec![row(&web, PolicyState::Failed)]).await?;
    wait_policy(&client, "web", "Programmed", "False", "Failed").await?;
    agents[1].report("boot-1", vec![row(&web, PolicyState::Programmed)]).await?;
    wait_policy(&client, "web", "Programmed", "True", "Programmed").await?;
    let changed = policies
        .patch("web", &PatchParams::default(), &Patch::Merge(&json!({"spec": {"mode": "Audit"}})))
        .await?;
    assert_ne!(changed.metadata.generation, web.metadata.generation);
    let status = wait_policy(&client, "web", "Programmed", "False", "Pending").await?;
    assert_eq!(status.observed_generation, changed.metadata.generation);
    for agent in &agents {
        agent.report("boot-1", vec![row(&changed, PolicyState::Programmed)]).await?;
    }
    wait_policy(&client, "web", "Programmed", "True", "Programmed").await?;
    agents[0].beat(1).await?;
    wait_policy(&client, "web", "Programmed", "False", "NoAgent").await?;
    agents[0].beat(3600).await?;
    wait_policy(&client, "web", "Programmed", "True", "Programmed").await?;

    // A container that no pod has.
    let patch = json!({"spec": {"containers": ["api"], "syscalls": {"rules": [{"names": ["ptrace"], "action": "Deny"}]}}});
    policies.patch("web", &PatchParams::default(), &Patch::Merge(&patch)).await?;
    wait_policy(&client, "web", "Degraded", "True", "ContainerNotFound").await?;

    // Many reports that flip nothing cost at most one write in ten seconds.
    let writes = || -> Result<usize> {
        let events = cluster.audit_events()?;
        let status = |event: &&Value| {
            event["objectRef"]["resource"] == "workloadpolicies"
                && event["objectRef"]["subresource"] == "status"
                && event["verb"] == "patch"
        };
        Ok(events.iter().filter(status).count())
    };
    let before = writes()?;
    let mut reported = 0;
    let current = policies.get("web").await?;
    until(PATIENCE, "the last of many reports is in the status", async || {
        if reported < 40 {
            reported += 1;
            let mut row = row(&current, PolicyState::Programmed);
            row.rules = object(json!([{"rule": format!("syscalls.rules[{reported}]"), "asked": "Deny",
                "given": "NotCovered", "reason": "NoBpfLsm"}]));
            agents[1].report("boot-1", vec![row]).await?;
        }
        let status = policies.get("web").await?.status.unwrap_or_default();
        Ok(status.weakest.iter().any(|weak| weak.rule == "syscalls.rules[40]").then_some(()))
    })
    .await?;
    let written = writes()? - before;
    assert!(written <= 4, "{written} writes for 40 reports");
    operator.check()?;
    Ok(())
}
