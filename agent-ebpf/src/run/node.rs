//! What this node reports to the API server: its `WorkloadNode`, written when it changes, and a Lease that says that the
//! agent lives. Both belong to the NodeAgent that the agent was deployed by, so that they go with it. What somebody takes
//! away is written again: at once where the Lease went too, else within minutes.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use holdfast_crds::workload_node::{
    Asked, Given, Kernel, LEASE_PREFIX, Mechanism as ApiMechanism, MechanismState, PROVEN_ANNOTATION,
    PolicyReport as ApiPolicy, PolicyState, Proof as ApiProof, ProofFailure, ProofResult, RuleReport,
    SourceError as ApiError, WorkloadNodeStatus,
};
use holdfast_crds::{API_VERSION, WorkloadNode};
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::{Node, ObjectReference};
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, OwnerReference, Time};
use k8s_openapi::jiff::Timestamp;
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;
use tokio::sync::watch;
use tracing::{debug, warn};

use super::Progress;
use crate::break_glass::{self, Broken};
use crate::engine::report::PolicyReport;
use crate::mechanisms::{Mechanisms, State};
use crate::proof::{self, Outcome, Proof};

/// The field manager of an agent's own objects.
const MANAGER: &str = "holdfast-agent";
/// Renewed this often; the operator takes an agent for gone after [`LEASE_SECONDS`].
const RENEW_EVERY: Duration = Duration::from_secs(10);
/// How long a Lease lasts.
const LEASE_SECONDS: i32 = 40;
/// How often it is looked whether the report is still there, and still about the node that there is.
const CHECK_EVERY: Duration = Duration::from_mins(5);
/// When that is done first: a node that boots may be registered anew while its agent starts.
const FIRST_CHECK: Duration = Duration::from_secs(20);
/// Reports are not written more often than this.
const REPORT_PAUSE: Duration = Duration::from_millis(500);
/// The longest pause before a report that failed is tried again.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// The most that a report may weigh, in bytes of JSON.
const MAX_REPORT: usize = 256 * 1024;

/// Writes the reports of one node.
pub struct Reporter {
    /// The node.
    pub node: String,
    /// Holdfast's own namespace, where Leases are.
    pub namespace: String,
    /// Name and UID of the NodeAgent that owns what is written.
    pub owner: Option<(String, String)>,
    /// What the kernel has.
    pub mechanisms: Mechanisms,
    /// What became of the policies.
    pub progress: watch::Receiver<Progress>,
    /// The last break-glass that an Event told of.
    pub told: Option<Broken>,
}

impl Reporter {
    /// Reports until `shutdown`.
    ///
    /// # Errors
    ///
    /// When there is no client configuration.
    pub async fn run(mut self, shutdown: impl Future<Output = ()>) -> Result<()> {
        let client = Client::try_default().await.context("the API server's address and credentials")?;
        let mut shutdown = std::pin::pin!(shutdown);
        let mut renew = tokio::time::interval(RENEW_EVERY);
        renew.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let first_check = tokio::time::Instant::now() + super::jitter(FIRST_CHECK);
        let mut check = tokio::time::interval_at(first_check, CHECK_EVERY);
        check.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut lease: Option<String> = None;
        let mut written: Option<WorkloadNodeStatus> = None;
        let mut due = true;
        let mut pause = REPORT_PAUSE;
        loop {
            tokio::select! {
                () = &mut shutdown => return Ok(()),
                _ = renew.tick() => {
                    match self.renew(&client).await {
                        // Whoever takes the Lease away takes the report with it.
                        Ok(uid) if lease.as_ref().is_some_and(|known| *known != uid) => {
                            (lease, written, due) = (Some(uid), None, true);
                        }
                        Ok(uid) => lease = Some(uid),
                        Err(error) => warn!(%error, "the agent's Lease cannot be renewed"),
                    }
                }
                _ = check.tick(), if written.is_some() => {
                    match self.is_intact(&client, written.as_ref()).await {
                        Ok(true) => {}
                        Ok(false) => (written, due) = (None, true),
                        Err(error) => warn!(%error, "the node's report cannot be looked at"),
                    }
                }
                changed = self.progress.changed(), if !due => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    due = true;
                }
                () = tokio::time::sleep(super::jitter(pause)), if due => {
                    self.progress.mark_unchanged();
                    self.tell_of_glass(&client).await;
                    match self.report(&client, written.as_ref()).await {
                        Ok(status) => {
                            written = status.or(written);
                            due = false;
                            pause = REPORT_PAUSE;
                        }
                        Err(error) => {
                            warn!(%error, "the node's report cannot be written; trying again");
                            pause = (pause * 2).min(LONGEST_PAUSE);
                        }
                    }
                }
            }
        }
    }

    /// An Event on the node, when the glass is broken and when that is over. One that cannot be written is logged: the
    /// report says the same.
    async fn tell_of_glass(&mut self, client: &Client) {
        let now = self.progress.borrow().break_glass.clone();
        if now == self.told {
            return;
        }
        let (reason, kind, note) = match &now {
            Some(broken) => (break_glass::REASON, "Warning", broken.message()),
            None => ("BreakGlassEnded", "Normal", "this node refuses again what its policies say".to_owned()),
        };
        let time = Timestamp::now();
        let event = Event {
            metadata: ObjectMeta {
                name: Some(format!("{}.{:x}", self.node, time.as_nanosecond())),
                namespace: Some("default".to_owned()),
                ..ObjectMeta::default()
            },
            event_time: Some(MicroTime(time)),
            action: Some(reason.to_owned()),
            reason: Some(reason.to_owned()),
            type_: Some(kind.to_owned()),
            // The API takes no longer ones.
            note: Some(note.chars().take(1000).collect()),
            regarding: Some(ObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Node".to_owned()),
                name: Some(self.node.clone()),
                ..ObjectReference::default()
            }),
            reporting_controller: Some("holdfast.dev/agent".to_owned()),
            reporting_instance: Some(self.node.chars().take(128).collect()),
            ..Event::default()
        };
        let api: Api<Event> = Api::namespaced(client.clone(), "default");
        match api.create(&PostParams::default(), &event).await {
            Ok(_) => self.told = now,
            Err(error) => warn!(%error, "the Event of a break-glass cannot be written"),
        }
    }

    fn owners(&self) -> Option<Vec<OwnerReference>> {
        let (name, uid) = self.owner.clone()?;
        Some(vec![OwnerReference {
            api_version: API_VERSION.to_owned(),
            kind: "NodeAgent".to_owned(),
            name,
            uid,
            ..OwnerReference::default()
        }])
    }

    /// Whether the report is there, and about the node that there is.
    async fn is_intact(&self, client: &Client, written: Option<&WorkloadNodeStatus>) -> Result<bool> {
        let reports: Api<WorkloadNode> = Api::all(client.clone());
        let nodes: Api<Node> = Api::all(client.clone());
        let there = reports.get_metadata_opt(&self.node).await?.is_some();
        let uid = nodes.get_metadata(&self.node).await?.metadata.uid.unwrap_or_default();
        Ok(there && written.is_some_and(|written| written.node_uid == uid))
    }

    /// Renews the Lease, and returns its UID.
    async fn renew(&self, client: &Client) -> Result<String> {
        let name = format!("{LEASE_PREFIX}{}", self.node);
        let proven = proof::proven_at(&self.progress.borrow().proof);
        let lease = Lease {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                namespace: Some(self.namespace.clone()),
                annotations: proven.map(|at| [(PROVEN_ANNOTATION.to_owned(), at.to_string())].into()),
                owner_references: self.owners(),
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                holder_identity: Some(self.node.clone()),
                lease_duration_seconds: Some(LEASE_SECONDS),
                renew_time: Some(MicroTime(Timestamp::now())),
                ..LeaseSpec::default()
            }),
        };
        let api: Api<Lease> = Api::namespaced(client.clone(), &self.namespace);
        let lease = api.patch(&name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(&lease)).await?;
        Ok(lease.metadata.uid.unwrap_or_default())
    }

    async fn report(
        &self,
        client: &Client,
        written: Option<&WorkloadNodeStatus>,
    ) -> Result<Option<WorkloadNodeStatus>> {
        let nodes: Api<Node> = Api::all(client.clone());
        let node_uid = nodes.get_metadata(&self.node).await?.metadata.uid.unwrap_or_default();
        let progress = self.progress.borrow().clone();
        if !progress.complete && progress.error.is_none() && progress.applied.policies.is_empty() {
            return Ok(None);
        }
        let mut status = status(&progress, &self.mechanisms, node_uid);
        if written.is_some_and(|old| timeless(old.clone()) == status) {
            return Ok(None);
        }
        if let Some(told) = &mut status.proof {
            told.time = proof::proven_at(&progress.proof).map(Time);
        }
        status.observed_at = Some(Time(Timestamp::now()));
        let api: Api<WorkloadNode> = Api::all(client.clone());
        let params = PatchParams::apply(MANAGER).force();
        let mut object = json!({
            "apiVersion": API_VERSION, "kind": "WorkloadNode", "metadata": { "name": self.node },
        });
        if let Some(owners) = self.owners() {
            object["metadata"]["ownerReferences"] = json!(owners);
        }
        api.patch(&self.node, &params, &Patch::Apply(&object)).await?;
        let object = json!({
            "apiVersion": API_VERSION, "kind": "WorkloadNode", "metadata": { "name": self.node },
            "status": status,
        });
        api.patch_status(&self.node, &params, &Patch::Apply(&object)).await?;
        debug!(policies = status.policies.len(), "reported");
        Ok(Some(status))
    }
}

/// A report without the times that alone are no reason to write it.
fn timeless(mut status: WorkloadNodeStatus) -> WorkloadNodeStatus {
    status.observed_at = None;
    if let Some(proof) = &mut status.proof {
        proof.time = None;
    }
    status
}

/// What the report says of the proof; its time is left empty.
fn told(proof: &Proof) -> ApiProof {
    ApiProof {
        result: match proof.outcome {
            Outcome::Pending => ProofResult::Pending,
            Outcome::Proven => ProofResult::Proven,
            Outcome::Failed => ProofResult::Failed,
        },
        time: None,
        failures: proof
            .failures
            .iter()
            .map(|failure| ProofFailure {
                kind: failure.kind.clone(),
                message: failure.message.chars().take(500).collect(),
            })
            .collect(),
        tried: proof.tried.iter().map(|name| (*name).to_owned()).collect(),
    }
}

/// The report, within its bound: what was left out is counted. `observed_at` is left empty.
fn status(progress: &Progress, mechanisms: &Mechanisms, node_uid: String) -> WorkloadNodeStatus {
    let uname = rustix::system::uname();
    let mut status = WorkloadNodeStatus {
        node_uid,
        boot_id: fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned(),
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        kernel: Some(Kernel {
            release: uname.release().to_string_lossy().into_owned(),
            architecture: uname.machine().to_string_lossy().into_owned(),
        }),
        mechanisms: mechanisms
            .states
            .iter()
            .map(|(name, state)| {
                let (state, reason) = match state {
                    State::Available => (MechanismState::Available, None),
                    State::Unavailable(why) => (MechanismState::Unavailable, Some(why.clone())),
                    State::Error(why) => (MechanismState::Error, Some(why.clone())),
                };
                ApiMechanism { name: (*name).to_owned(), state, reason }
            })
            .collect(),
        errors: progress
            .source_errors
            .iter()
            .take(32)
            .map(|error| ApiError {
                origin: error
                    .object
                    .as_ref()
                    .map_or_else(|| error.place.clone(), |o| format!("{} {o}", error.place)),
                message: error.message.clone(),
            })
            .collect(),
        last_error: progress.error.clone(),
        proof: Some(told(&progress.proof)),
        ..WorkloadNodeStatus::default()
    };
    if let Some(broken) = &progress.break_glass {
        let error = ApiError { origin: "holdfast-agent break-glass".to_owned(), message: broken.message() };
        status.errors.insert(0, error);
        status.errors.truncate(32);
    }
    let mut size = serde_json::to_string(&status).map_or(0, |text| text.len());
    // Policies without workloads here say nothing about this node, and come last.
    let mut reports: Vec<&PolicyReport> = progress.applied.policies.iter().collect();
    reports.sort_by_key(|report| (report.workloads == 0, report.id.clone()));
    for report in reports {
        let policy = policy(report);
        let weight = serde_json::to_string(&policy).map_or(0, |text| text.len() + 1);
        if size + weight > MAX_REPORT || status.policies.len() >= 4096 {
            status.omitted += 1;
            continue;
        }
        size += weight;
        status.policies.push(policy);
    }
    status
}

fn policy(report: &PolicyReport) -> ApiPolicy {
    let current = report.generation == Some(report.wanted) && report.failure.is_none();
    let short: Vec<_> = report.rules.iter().filter(|rule| rule.falls_short()).collect();
    ApiPolicy {
        namespace: report.id.namespace.clone(),
        name: report.id.name.clone(),
        uid: report.uid.clone(),
        generation: report.wanted,
        state: if current { PolicyState::Programmed } else { PolicyState::Failed },
        in_force: report.generation.filter(|_| !current),
        message: report.failure.clone(),
        workloads: i64::try_from(report.workloads).unwrap_or(i64::MAX),
        omitted: i64::try_from(short.len().saturating_sub(256)).unwrap_or(0),
        rules: short
            .into_iter()
            .take(256)
            .map(|rule| RuleReport {
                rule: rule.rule.clone(),
                asked: asked(&rule.asked),
                given: given(&rule.given),
                mechanism: rule.mechanism.map(str::to_owned),
                reason: rule.reason.unwrap_or_default().to_owned(),
            })
            .collect(),
    }
}

fn asked(word: &str) -> Asked {
    match word {
        "Allow" => Asked::Allow,
        "Audit" => Asked::Audit,
        "Kill" => Asked::Kill,
        _ => Asked::Deny,
    }
}

fn given(word: &str) -> Given {
    match word {
        "Deny" => Given::Deny,
        "DenyAndKill" => Given::DenyAndKill,
        "KillAfterEffect" => Given::KillAfterEffect,
        "Audit" => Given::Audit,
        "NotApplicable" => Given::NotApplicable,
        _ => Given::NotCovered,
    }
}
