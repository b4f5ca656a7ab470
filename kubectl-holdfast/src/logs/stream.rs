//! One agent's log, line by line.
//!
//! The kubelet puts its own time before each line. A stream that breaks off is taken up again from the last one's time,
//! without saying anything twice.

use futures::{AsyncBufReadExt, TryStreamExt};
use holdfast_crds::event::{Event, SCHEMA};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::LogParams;
use tokio::sync::mpsc::Sender;

use crate::cluster::Cluster;
use crate::error::ApiError;

/// The agent's container.
pub(crate) const CONTAINER: &str = "agent";

/// An event, and the line that held it.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    pub(crate) event: Event,
    pub(crate) line: String,
}

/// What is asked of one agent's log.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Ask {
    /// Nothing older.
    pub(crate) since: Option<Timestamp>,
    /// Only what comes after this time of the kubelet's.
    pub(crate) after: Option<Timestamp>,
    /// Go on.
    pub(crate) follow: bool,
    /// The log of the container before the present one.
    pub(crate) previous: bool,
}

/// Reads an agent's log, and sends its events. Returns the kubelet's time of the last line.
///
/// # Errors
/// When the log cannot be opened. A stream that breaks off has ended.
pub(crate) async fn read(
    cluster: &Cluster,
    pod: &str,
    ask: Ask,
    to: &Sender<Found>,
) -> Result<Option<Timestamp>, ApiError> {
    let params = LogParams {
        container: Some(CONTAINER.to_owned()),
        follow: ask.follow,
        previous: ask.previous,
        since_time: ask.after.or(ask.since).and_then(second),
        timestamps: true,
        ..LogParams::default()
    };
    let api: Api<Pod> = Api::namespaced(cluster.client(), &cluster.holdfast);
    let what = format!("log of {pod}");
    let stream = cluster.within(&what, api.log_stream(pod, &params)).await?;
    let mut lines = stream.lines();
    let mut last = ask.after;
    // An error is the stream's end: the kubelet went away, or the container did.
    while let Ok(Some(line)) = lines.try_next().await {
        let (at, text) = split(&line);
        if at.is_some() && at <= ask.after {
            continue;
        }
        last = at.or(last);
        if let Some(event) = Event::from_line(text) {
            let recent =
                ask.since.is_none_or(|since| event.time.parse::<Timestamp>().is_ok_and(|time| time >= since));
            if recent && to.send(Found { event, line: text.to_owned() }).await.is_err() {
                break;
            }
        } else if text.contains(SCHEMA) {
            eprintln!("{pod}: an event that this version cannot read: {text}");
        }
    }
    Ok(last)
}

/// The whole second that a time is in: the API takes no parts of one, and the client would round up.
fn second(time: Timestamp) -> Option<Timestamp> {
    Timestamp::from_second(time.as_nanosecond().div_euclid(1_000_000_000).try_into().ok()?).ok()
}

/// The kubelet's time, where the line begins with one, and the rest.
fn split(line: &str) -> (Option<Timestamp>, &str) {
    let time = line.split_once(' ').and_then(|(time, rest)| Some((time.parse::<Timestamp>().ok()?, rest)));
    time.map_or((None, line), |(time, rest)| (Some(time), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_asked_for_from_a_second_that_has_not_passed() {
        let time: Timestamp = "2026-11-25T01:20:16.999Z".parse().unwrap();
        assert_eq!(second(time).unwrap().to_string(), "2026-11-25T01:20:16Z");
    }

    #[test]
    fn the_kubelets_time_is_taken_off() {
        let (time, rest) = split("2026-11-25T01:20:16.123456789Z {\"a\": 1}");
        assert_eq!((time.unwrap().as_nanosecond() % 1_000_000_000, rest), (123_456_789, "{\"a\": 1}"));
        for line in ["{\"time\": 1}", "", "INFO starting up", "2026 x"] {
            assert_eq!(split(line), (None, line));
        }
    }
}
