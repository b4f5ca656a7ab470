//! The pods that the API server says are this node's: each new one gets its own task.

use std::sync::{Arc, PoisonError};

use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, ResourceExt,
    runtime::watcher::{self, Event, watcher},
};

use super::{Inner, pod::PodRun};

/// Watches them for as long as the kubelet lives.
pub(super) async fn watch(inner: Arc<Inner>) {
    let pods: Api<Pod> = Api::all(inner.client.clone());
    let ours = watcher::Config::default().fields(&format!("spec.nodeName={}", inner.options.name));
    let mut events = std::pin::pin!(watcher(pods, ours));
    let mut listed = Vec::new();
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Apply(pod)) => take(&inner, &pod),
            Ok(Event::Delete(pod)) => gone(&inner, &pod.uid().unwrap_or_default()),
            Ok(Event::Init) => listed.clear(),
            Ok(Event::InitApply(pod)) => {
                listed.push(pod.uid().unwrap_or_default());
                take(&inner, &pod);
            }
            Ok(Event::InitDone) => {
                for pod in inner.pods() {
                    if !listed.contains(&pod.uid) {
                        gone(&inner, &pod.uid);
                    }
                }
            }
            Err(error) => {
                inner.note(&format!("watching pods: {error:#}"));
                tokio::time::sleep(std::time::Duration::from_millis(200)).await;
            }
        }
    }
}

fn take(inner: &Arc<Inner>, pod: &Pod) {
    let uid = pod.uid().unwrap_or_default();
    let known = inner.pods.lock().unwrap_or_else(PoisonError::into_inner).get(&uid).cloned();
    if let Some(run) = known {
        run.update(pod.clone());
        return;
    }
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default();
    let over = matches!(phase, "Succeeded" | "Failed") && pod.metadata.deletion_timestamp.is_none();
    let done = inner.done.lock().unwrap_or_else(PoisonError::into_inner).contains(&uid);
    if over || done {
        return;
    }
    let run = PodRun::new(inner, pod.clone());
    inner.pods.lock().unwrap_or_else(PoisonError::into_inner).insert(uid.clone(), Arc::clone(&run));
    run.update(pod.clone());
    let inner = Arc::clone(inner);
    tokio::spawn(async move {
        run.run().await;
        inner.done.lock().unwrap_or_else(PoisonError::into_inner).insert(uid.clone());
        inner.pods.lock().unwrap_or_else(PoisonError::into_inner).remove(&uid);
    });
}

/// The object is gone: what runs of it ends at once.
fn gone(inner: &Arc<Inner>, uid: &str) {
    let known = inner.pods.lock().unwrap_or_else(PoisonError::into_inner).get(uid).cloned();
    if let Some(run) = known {
        run.end_now();
    }
}
