//! The Kubernetes Events that agents leave, for who may not read the agents' logs.

use std::collections::HashMap;
use std::io::Write;
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;

use super::filter::Filter;
use super::{Extent, Format, Kind};
use crate::cluster::{self, Cluster, typed};
use crate::error::{Failure, one_line};

/// Who reports them.
const CONTROLLER: &str = "holdfast.dev/agent";
/// How often new ones are looked for.
const LOOK: Duration = Duration::from_secs(2);

/// Shows the Events.
///
/// # Errors
/// When they cannot be read.
pub(crate) async fn show(
    cluster: &Cluster,
    filter: &Filter,
    extent: Extent,
    format: Format,
) -> Result<(), Failure> {
    for (given, flag) in
        [(filter.rule_kind.is_some(), "--rule-kind"), (filter.workload.is_some(), "--workload")]
    {
        if given {
            return Err(Failure::Usage(format!(
                "{flag} needs the agents' logs: Kubernetes Events do not say it"
            )));
        }
    }
    let mut shown: HashMap<String, i32> = HashMap::new();
    let mut first = true;
    let mut look = tokio::time::interval(LOOK);
    loop {
        look.tick().await;
        let (events, _) = typed::<Event>(cluster.list(cluster::EVENTS, &cluster.scope(), "").await?);
        let mut fresh: Vec<&Event> = events
            .iter()
            .filter(|event| event.reporting_controller.as_deref() == Some(CONTROLLER) && takes(filter, event))
            .filter(|event| extent.since.is_none_or(|since| last_seen(event) >= since))
            .filter(|event| {
                let uid = event.uid().unwrap_or_default();
                shown.insert(uid, count(event)) != Some(count(event))
            })
            .collect();
        fresh.sort_by_key(|event| last_seen(event));
        if first && let Some(tail) = extent.tail {
            fresh.drain(..fresh.len().saturating_sub(tail));
        }
        first = false;
        for event in fresh {
            if !put(event, format)? {
                return Ok(());
            }
        }
        if !extent.follow {
            return Ok(());
        }
    }
}

fn put(event: &Event, format: Format) -> Result<bool, Failure> {
    let text = match format {
        Format::Text => line(event),
        Format::Json => serde_json::to_string(event)?,
    };
    let mut out = std::io::stdout().lock();
    Ok(writeln!(out, "{text}").and_then(|()| out.flush()).is_ok())
}

fn count(event: &Event) -> i32 {
    event.series.as_ref().map(|series| series.count).or(event.deprecated_count).unwrap_or(1)
}

fn last_seen(event: &Event) -> Timestamp {
    let series = event.series.as_ref().map(|series| series.last_observed_time.0);
    let old = event.deprecated_last_timestamp.as_ref().map(|time| time.0);
    series.or(event.event_time.as_ref().map(|time| time.0)).or(old).unwrap_or(Timestamp::UNIX_EPOCH)
}

fn references(event: &Event) -> impl Iterator<Item = &ObjectReference> {
    event.regarding.iter().chain(&event.related)
}

/// The policy of a reference, as events and metrics name it.
fn policy(reference: &ObjectReference) -> Option<String> {
    let name = reference.name.as_deref()?;
    match reference.kind.as_deref()? {
        "WorkloadPolicy" => Some(format!("{}/{name}", reference.namespace.as_deref()?)),
        "ClusterWorkloadPolicy" => Some(format!("cluster/{name}")),
        _ => None,
    }
}

/// Whether an Event is asked for. A pod that was made by a controller is named by the pod.
fn takes(filter: &Filter, event: &Event) -> bool {
    let is_pod = |reference: &ObjectReference| {
        reference.kind.as_deref() == Some("Pod") && reference.name == filter.pod
    };
    let audited = event.reason.as_deref().is_some_and(|reason| reason.contains("Audit"));
    let kind = filter.kind.is_none_or(|kind| (kind == Kind::Audited) == audited);
    // What a policy is called stands in the note where neither reference is to it.
    let of_policy = filter.policy.as_ref().is_none_or(|wanted| {
        let mut named = references(event).filter_map(policy).peekable();
        if named.peek().is_some() {
            named.any(|policy| policy == *wanted)
        } else {
            let note = event.note.as_deref().unwrap_or_default();
            note.split(|c: char| c.is_whitespace() || ",;:()".contains(c)).any(|word| word == wanted)
        }
    });
    let node = filter.node.as_ref().is_none_or(|node| event.reporting_instance.as_ref() == Some(node));
    kind && of_policy && node && (filter.pod.is_none() || references(event).any(is_pod))
}

fn line(event: &Event) -> String {
    let about = event.regarding.as_ref().map(|reference| {
        let parts = [&reference.namespace, &reference.kind, &reference.name];
        parts.into_iter().flatten().map(String::as_str).collect::<Vec<_>>().join("/")
    });
    let times = match count(event) {
        ..2 => String::new(),
        count => format!("; {count} times"),
    };
    format!(
        "{:.3} {} {:<8} {}; {}{times}",
        last_seen(event),
        event.reporting_instance.as_deref().unwrap_or("-"),
        event.reason.as_deref().unwrap_or_default(),
        about.unwrap_or_default(),
        one_line(event.note.as_deref().unwrap_or_default()),
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn event() -> Event {
        serde_json::from_value(json!({
            "metadata": {"name": "e", "namespace": "shop", "uid": "u"},
            "eventTime": "2026-11-25T01:00:00.000000Z", "reason": "Denied", "type": "Warning", "action": "Deny",
            "reportingController": "holdfast.dev/agent", "reportingInstance": "n1",
            "note": "egress TCP to 192.0.2.1:443 denied by shop/api network.egress",
            "regarding": {"kind": "Pod", "namespace": "shop", "name": "api-1"},
            "series": {"count": 12, "lastObservedTime": "2026-11-25T01:05:00.000000Z"},
        }))
        .unwrap()
    }

    #[test]
    fn an_event_is_one_line_with_how_often_it_was_seen() {
        assert_eq!(
            line(&event()),
            "2026-11-25T01:05:00.000Z n1 Denied   shop/Pod/api-1; egress TCP to 192.0.2.1:443 denied by shop/api \
             network.egress; 12 times"
        );
    }

    #[test]
    fn events_are_told_apart_by_pod_policy_node_and_kind() {
        let text = |text: &str| Some(text.to_owned());
        for (good, bad) in [
            (
                Filter { pod: text("api-1"), ..Filter::default() },
                Filter { pod: text("api"), ..Filter::default() },
            ),
            (
                Filter { node: text("n1"), ..Filter::default() },
                Filter { node: text("n2"), ..Filter::default() },
            ),
            (
                Filter { policy: text("shop/api"), ..Filter::default() },
                Filter { policy: text("shop/ap"), ..Filter::default() },
            ),
            (
                Filter { kind: Some(Kind::Denied), ..Filter::default() },
                Filter { kind: Some(Kind::Audited), ..Filter::default() },
            ),
        ] {
            assert!(takes(&good, &event()), "{good:?}");
            assert!(!takes(&bad, &event()), "{bad:?}");
        }
        let mut related = event();
        related.related =
            serde_json::from_value(json!({"kind": "ClusterWorkloadPolicy", "name": "base"})).ok();
        let by = |policy: &str| Filter { policy: text(policy), ..Filter::default() };
        assert!(takes(&by("cluster/base"), &related) && !takes(&by("shop/api"), &related));
    }
}
