//! Every write to the API server, but for the Lease.
//!
//! Nothing is sent once this replica no longer leads. AddressSlices are replaced by their version and never forced;
//! DaemonSets and statuses are applied on the server's side, each under a field manager of its own.

use std::sync::Arc;
use std::time::{Duration, Instant};

use holdfast_crds::workload_node::LEASE_PREFIX;
use holdfast_crds::{
    API_VERSION, AddressSlice, ClusterWorkloadPolicy, ExternalWorkload, NodeAgent, WorkloadNode,
    WorkloadPolicy,
};
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::rbac::v1::ClusterRole;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ManagedFieldsEntry, ObjectMeta, OwnerReference};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::core::DeserializeGuard;
use kube::runtime::events::{Recorder, Reporter};
use kube::{Api, Client, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::Mutex;

use crate::announce::{Announcement, CONTROLLER};
use crate::error::ApiError;
use crate::facts::DaemonSetFacts;
use crate::lease::Leadership;
use crate::plan::slices::{Action, MARK_ANNOTATION, Observed, Write};
use crate::plan::{Content, Job, Subject};

/// The field manager of AddressSlices.
const SLICES: &str = "holdfast-operator-slices";
/// The field manager of DaemonSets.
const AGENTS: &str = "holdfast-operator-agents";
/// The field manager of statuses.
const STATUS: &str = "holdfast-operator-status";
/// For how long the owner of AddressSlices is believed to be the one that was last read.
const OWNER_AGE: Duration = Duration::from_secs(10);
/// `kubectl rollout restart` writes this annotation; it stays.
const RESTARTED_AT: &str = "kubectl.kubernetes.io/restartedAt";

/// How a request about a slice went.
#[derive(Debug)]
pub enum SliceDone {
    /// It was created or updated, and is now of this UID and version.
    Written {
        /// The UID.
        uid: String,
        /// The resourceVersion.
        resource_version: String,
    },
    /// It was deleted, or was not there.
    Deleted,
    /// It was read; `None` if it is not there.
    Read(Option<Observed>),
}

/// How a job went.
#[derive(Debug)]
pub enum JobDone {
    /// The status was written.
    Status,
    /// The object was deleted, or was not there.
    Deleted,
    /// The DaemonSet was applied, and looks like this.
    DaemonSet(Box<DaemonSetFacts>),
}

/// An AddressSlice as the planner wants it.
#[must_use]
pub fn observed(slice: DeserializeGuard<AddressSlice>) -> Observed {
    let (metadata, content) = match slice.0 {
        Ok(slice) => (slice.metadata, Some(slice.spec)),
        Err(invalid) => (invalid.metadata, None),
    };
    let mark = metadata
        .annotations
        .as_ref()
        .and_then(|annotations| annotations.get(MARK_ANNOTATION))
        .and_then(|mark| mark.parse().ok())
        .unwrap_or_default();
    Observed {
        uid: metadata.uid.unwrap_or_default(),
        resource_version: metadata.resource_version.unwrap_or_default(),
        content,
        mark,
    }
}

/// Writes what the planner wants written, while this replica leads.
#[derive(Clone)]
pub struct Writer {
    client: Client,
    namespace: String,
    /// The name of the ClusterRole that owns the AddressSlices.
    installation: Option<String>,
    /// The owner as it was last read, and when.
    owner: Arc<Mutex<Option<(OwnerReference, Instant)>>>,
    leadership: Leadership,
    recorder: Recorder,
}

impl Writer {
    /// A writer for the operator whose agents live in `namespace`, and whose AddressSlices the ClusterRole `installation`
    /// owns. `identity` is what this replica calls itself.
    #[must_use]
    pub fn new(
        client: Client,
        namespace: String,
        installation: Option<String>,
        leadership: Leadership,
        identity: String,
    ) -> Self {
        let reporter = Reporter { controller: CONTROLLER.to_owned(), instance: Some(identity) };
        let recorder = Recorder::new(client.clone(), reporter);
        Self { client, namespace, installation, owner: Arc::default(), leadership, recorder }
    }

    /// Tells of a flip in an Event.
    ///
    /// # Errors
    /// When the request fails.
    pub async fn announce(&self, told: &Announcement) -> Result<(), ApiError> {
        self.leadership.send(self.recorder.publish(&told.event(), &told.object)).await
    }

    /// The owner of AddressSlices. It is read anew now and then: were it made anew meanwhile, slices of its old UID would
    /// be collected as soon as they are written.
    async fn owner(&self) -> Result<Option<OwnerReference>, ApiError> {
        let Some(name) = &self.installation else { return Ok(None) };
        let mut known = self.owner.lock().await;
        if let Some((owner, read)) = known.as_ref()
            && read.elapsed() < OWNER_AGE
        {
            return Ok(Some(owner.clone()));
        }
        let api: Api<ClusterRole> = Api::all(self.client.clone());
        let role = self.leadership.send(api.get_metadata(name)).await?;
        let owner = OwnerReference {
            api_version: ClusterRole::api_version(&()).into_owned(),
            block_owner_deletion: None,
            controller: None,
            kind: ClusterRole::kind(&()).into_owned(),
            name: name.clone(),
            uid: role.metadata.uid.unwrap_or_default(),
        };
        *known = Some((owner.clone(), Instant::now()));
        Ok(Some(owner))
    }

    /// All AddressSlices, read consistently.
    ///
    /// # Errors
    /// When a request fails.
    pub async fn list_slices(&self) -> Result<Vec<(String, Observed)>, ApiError> {
        let api: Api<DeserializeGuard<AddressSlice>> = Api::all(self.client.clone());
        let mut params = kube::api::ListParams::default().limit(200);
        let mut found = Vec::new();
        loop {
            let page = self.leadership.send(api.list(&params)).await?;
            let next = page.metadata.continue_.filter(|token| !token.is_empty());
            found.extend(
                page.items
                    .into_iter()
                    .map(|slice| (slice.meta().name.clone().unwrap_or_default(), observed(slice))),
            );
            match next {
                Some(token) => params = params.continue_token(&token),
                None => return Ok(found),
            }
        }
    }

    /// Sends one request about a slice.
    ///
    /// # Errors
    /// When it fails, or the slice is of another version than the planner thought.
    pub async fn write_slice(&self, write: &Write) -> Result<SliceDone, ApiError> {
        let api: Api<AddressSlice> = Api::all(self.client.clone());
        let post = PostParams { field_manager: Some(SLICES.to_owned()), ..PostParams::default() };
        let owner = match write.action {
            Action::Create { .. } | Action::Update { .. } => self.owner().await?,
            Action::Delete { .. } | Action::Read => None,
        };
        let object = |content: &holdfast_crds::address_slice::AddressSliceSpec, mark: u32| {
            let mut slice = AddressSlice::new(&write.name, content.clone());
            slice.metadata.labels =
                Some([("app.kubernetes.io/managed-by".to_owned(), "holdfast-operator".to_owned())].into());
            slice.metadata.owner_references = owner.clone().map(|owner| vec![owner]);
            if mark > 0 {
                slice.metadata.annotations = Some([(MARK_ANNOTATION.to_owned(), mark.to_string())].into());
            }
            slice
        };
        match &write.action {
            Action::Create { content, mark } => {
                Ok(written(self.leadership.send(api.create(&post, &object(content, *mark))).await?.metadata))
            }
            Action::Update { content, mark, uid, resource_version } => {
                let mut slice = object(content, *mark);
                slice.metadata.uid = Some(uid.clone());
                slice.metadata.resource_version = Some(resource_version.clone());
                Ok(written(self.leadership.send(api.replace(&write.name, &post, &slice)).await?.metadata))
            }
            Action::Delete { uid, resource_version } => {
                self.delete(&api, &write.name, uid, Some(resource_version)).await?;
                Ok(SliceDone::Deleted)
            }
            Action::Read => {
                let api: Api<DeserializeGuard<AddressSlice>> = Api::all(self.client.clone());
                Ok(SliceDone::Read(self.leadership.send(api.get_opt(&write.name)).await?.map(observed)))
            }
        }
    }

    /// Does one job.
    ///
    /// # Errors
    /// When a request fails, or the object is gone or another one.
    pub async fn write(&self, job: &Job) -> Result<JobDone, ApiError> {
        match (&job.subject, &job.content) {
            (Subject::Policy(id), Content::Policy(uid, status)) => {
                if let Some(namespace) = &id.namespace {
                    let api: Api<DeserializeGuard<WorkloadPolicy>> =
                        Api::namespaced(self.client.clone(), namespace);
                    self.apply_status(&api, "WorkloadPolicy", &id.name, uid, status).await
                } else {
                    let api: Api<DeserializeGuard<ClusterWorkloadPolicy>> = Api::all(self.client.clone());
                    self.apply_status(&api, "ClusterWorkloadPolicy", &id.name, uid, status).await
                }
            }
            (Subject::External(key), Content::External(uid, status)) => {
                let api: Api<DeserializeGuard<ExternalWorkload>> =
                    Api::namespaced(self.client.clone(), &key.namespace);
                self.apply_status(&api, "ExternalWorkload", &key.name, uid, status).await
            }
            (Subject::NodeAgent(name), Content::NodeAgent(uid, status)) => {
                let api: Api<DeserializeGuard<NodeAgent>> = Api::all(self.client.clone());
                self.apply_status(&api, "NodeAgent", name, uid, status).await
            }
            (_, Content::DaemonSet(set)) => {
                let facts = self.apply_daemon_set(set).await?;
                Ok(JobDone::DaemonSet(Box::new(facts)))
            }
            (Subject::WorkloadNode(node), Content::Deletion(uid)) => {
                let api: Api<DeserializeGuard<WorkloadNode>> = Api::all(self.client.clone());
                self.delete(&api, node, uid, None).await?;
                Ok(JobDone::Deleted)
            }
            (Subject::Lease(node), Content::Deletion(uid)) => {
                let api: Api<Lease> = Api::namespaced(self.client.clone(), &self.namespace);
                self.delete(&api, &format!("{LEASE_PREFIX}{node}"), uid, None).await?;
                Ok(JobDone::Deleted)
            }
            // The planner pairs subjects and contents; another pair asks for nothing.
            _ => Ok(JobDone::Status),
        }
    }

    /// Deletes an object of this UID, and of this version where one is given. That it is gone already is as good.
    async fn delete<K>(
        &self,
        api: &Api<K>,
        name: &str,
        uid: &str,
        resource_version: Option<&str>,
    ) -> Result<(), ApiError>
    where
        K: Clone + DeserializeOwned + std::fmt::Debug,
    {
        let params = DeleteParams {
            preconditions: Some(Preconditions {
                resource_version: resource_version.map(str::to_owned),
                uid: Some(uid.to_owned()),
            }),
            ..DeleteParams::background()
        };
        match self.leadership.send(api.delete(name, &params)).await {
            Ok(_) => Ok(()),
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn apply_status<K>(
        &self,
        api: &Api<DeserializeGuard<K>>,
        kind: &str,
        name: &str,
        uid: &str,
        status: &impl Serialize,
    ) -> Result<JobDone, ApiError>
    where
        K: Resource + Clone + DeserializeOwned + std::fmt::Debug,
    {
        // With the UID the request fails when the object is meanwhile another one of the same name.
        let patch = json!({
            "apiVersion": API_VERSION,
            "kind": kind,
            "metadata": {"name": name, "uid": uid},
            "status": status,
        });
        let params = PatchParams::apply(STATUS).force();
        self.leadership.send(api.patch_status(name, &params, &Patch::Apply(&patch))).await?;
        Ok(JobDone::Status)
    }

    /// Applies a DaemonSet. What others have added to its spec, which applying leaves alone, is taken out again: one
    /// line of affinity would be enough to empty the cluster of agents.
    async fn apply_daemon_set(&self, set: &DaemonSet) -> Result<DaemonSetFacts, ApiError> {
        let api: Api<DaemonSet> = Api::namespaced(self.client.clone(), &self.namespace);
        let name = set.metadata.name.clone().unwrap_or_default();
        let params = PatchParams::apply(AGENTS).force();
        let applied = self.leadership.send(api.patch(&name, &params, &Patch::Apply(set))).await?;
        if !has_foreign_spec(applied.metadata.managed_fields.as_deref().unwrap_or_default()) {
            return Ok(DaemonSetFacts::new(&applied));
        }
        tracing::warn!(daemonset = %name, "somebody has changed the DaemonSet's spec; it is put back");
        let post = PostParams { field_manager: Some(AGENTS.to_owned()), ..PostParams::default() };
        let replaced = self.leadership.send(api.replace(&name, &post, &replacement(set, &applied))).await?;
        Ok(DaemonSetFacts::new(&replaced))
    }
}

fn written(metadata: ObjectMeta) -> SliceDone {
    SliceDone::Written {
        uid: metadata.uid.unwrap_or_default(),
        resource_version: metadata.resource_version.unwrap_or_default(),
    }
}

/// The wanted DaemonSet as a whole, in the place of the one that is there.
fn replacement(wanted: &DaemonSet, current: &DaemonSet) -> DaemonSet {
    let mut set = wanted.clone();
    set.metadata.resource_version.clone_from(&current.metadata.resource_version);
    set.metadata.annotations.clone_from(&current.metadata.annotations);
    let annotations = |set: &DaemonSet| set.spec.template.metadata.as_ref()?.annotations.clone();
    let restarted = annotations(current).and_then(|annotations| annotations.get(RESTARTED_AT).cloned());
    if let Some(restarted) = restarted
        && let Some(metadata) = set.spec.template.metadata.as_mut()
    {
        metadata.annotations.get_or_insert_default().insert(RESTARTED_AT.to_owned(), restarted);
    }
    set
}

/// Whether another field manager owns a part of the spec, but for a restart that somebody asked for.
fn has_foreign_spec(managed: &[ManagedFieldsEntry]) -> bool {
    managed
        .iter()
        .filter(|entry| entry.manager.as_deref() != Some(AGENTS))
        .filter(|entry| entry.subresource.as_deref().unwrap_or_default().is_empty())
        .filter_map(|entry| entry.fields_v1.as_ref()?.0.get("f:spec"))
        .any(|spec| !is_only_restart(spec, &["f:template", "f:metadata", "f:annotations"]))
}

/// Whether a set of fields names nothing but the restart annotation at the end of this path.
fn is_only_restart(fields: &Value, path: &[&str]) -> bool {
    let Some(fields) = fields.as_object() else { return false };
    let wanted = match path {
        [first, ..] => (*first).to_owned(),
        [] => format!("f:{RESTARTED_AT}"),
    };
    fields.iter().all(|(field, below)| {
        field == "." || (*field == wanted && (path.is_empty() || is_only_restart(below, &path[1..])))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::FieldsV1;

    fn entry(manager: &str, subresource: &str, fields: Value) -> ManagedFieldsEntry {
        ManagedFieldsEntry {
            manager: Some(manager.to_owned()),
            subresource: (!subresource.is_empty()).then(|| subresource.to_owned()),
            fields_v1: Some(FieldsV1(fields)),
            ..ManagedFieldsEntry::default()
        }
    }

    #[test]
    fn a_restart_that_was_asked_for_is_not_drift() {
        let restart = json!({"f:spec": {"f:template": {"f:metadata": {"f:annotations": {
            ".": {}, "f:kubectl.kubernetes.io/restartedAt": {}}}}}});
        let ours = entry(AGENTS, "", json!({"f:spec": {"f:template": {}}}));
        let status = entry("kube-controller-manager", "status", json!({"f:status": {}}));
        assert!(!has_foreign_spec(&[ours.clone(), status.clone(), entry("kubectl", "", restart)]));
        let affinity = json!({"f:spec": {"f:template": {"f:spec": {"f:affinity": {}}}}});
        assert!(has_foreign_spec(&[ours, status, entry("kubectl-edit", "", affinity)]));
    }
}
