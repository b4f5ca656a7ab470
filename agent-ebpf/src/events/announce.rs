//! Kubernetes Events on pods and policies: a summary for people who look at an object, never a record of each denial. All
//! denials of one object by one rule are one series, written at most twice a minute; a rule, and the node as a whole, have
//! bounds beside that. What is not written now is in the next count.

mod summary;

use k8s_openapi::api::events::v1::{Event as ApiEvent, EventSeries};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tracing::warn;

use holdfast_crds::event::Event;
use holdfast_policy::model::PolicyId;
use summary::{Summary, Write};

/// Who the Events are from.
pub const CONTROLLER: &str = "holdfast.dev/agent";
/// How often it is looked whether something is due.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Events that may wait to be summed up.
pub const ROOM: usize = 1024;

/// An event, and the policy that it is about.
#[derive(Debug, Clone)]
pub struct News {
    /// What happened.
    pub event: Event,
    /// Name and UID of the policy.
    pub policy: Option<(PolicyId, Option<String>)>,
}

/// Announces until `shutdown`.
///
/// # Errors
///
/// When there is no client configuration.
pub async fn run(
    mut news: mpsc::Receiver<News>,
    node: String,
    shutdown: impl Future<Output = ()>,
) -> Result<(), kube::Error> {
    let client = Client::try_default().await?;
    let mut shutdown = std::pin::pin!(shutdown);
    let mut look = tokio::time::interval(LOOK_EVERY);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut summary = Summary::default();
    let mut open = true;
    loop {
        tokio::select! {
            () = &mut shutdown => return Ok(()),
            some = news.recv(), if open => match some {
                Some(news) => summary.add(&news, Instant::now()),
                None => open = false,
            },
            _ = look.tick() => {
                for write in summary.due(Instant::now()) {
                    if let Err(error) = carry_out(&client, &node, &write).await {
                        warn!(%error, object = %write.object.name, "a Kubernetes Event cannot be written");
                    }
                }
            }
        }
    }
}

async fn carry_out(client: &Client, node: &str, write: &Write) -> Result<(), kube::Error> {
    let api: Api<ApiEvent> = Api::namespaced(client.clone(), &write.object.event_namespace());
    if !write.first {
        let series =
            json!({"series": {"count": count(write.count), "lastObservedTime": MicroTime(write.last)}});
        match api.patch(&write.name, &PatchParams::default(), &Patch::Merge(&series)).await {
            // The API server forgets Events after a while.
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            done => return done.map(drop),
        }
    }
    match api.create(&PostParams::default(), &object(node, write)).await {
        // Written, but the answer was lost.
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
        done => done.map(drop),
    }
}

fn count(count: u64) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

fn object(node: &str, write: &Write) -> ApiEvent {
    ApiEvent {
        metadata: ObjectMeta {
            name: Some(write.name.clone()),
            namespace: Some(write.object.event_namespace()),
            ..ObjectMeta::default()
        },
        event_time: Some(MicroTime(write.started)),
        action: Some(write.action.clone()),
        reason: Some(write.reason.to_owned()),
        type_: Some(if write.reason == summary::DENIED { "Warning" } else { "Normal" }.to_owned()),
        note: Some(write.note.clone()),
        regarding: Some(write.object.reference()),
        related: write.related.as_ref().map(summary::Object::reference),
        reporting_controller: Some(CONTROLLER.to_owned()),
        // The API takes no longer ones.
        reporting_instance: Some(node.chars().take(128).collect()),
        series: (write.count > 1)
            .then(|| EventSeries { count: count(write.count), last_observed_time: MicroTime(write.last) }),
        ..ApiEvent::default()
    }
}
