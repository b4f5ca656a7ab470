//! A watch that never ends: streaming lists where the server has them, pauses with jitter, a fresh start where the kind
//! vanished.

use std::hash::{BuildHasher, Hasher};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::BoxStream;
use kube::Client;
use kube::core::Status;
use kube::runtime::watcher::{Config, Error, Event};
use tokio::sync::mpsc;
use tracing::debug;

use super::guard::Guarded;
use super::store::Change;

/// The first and the longest pause after an error; each is twice the one before, and up to half of it is left to chance.
const PAUSE: (Duration, Duration) = (Duration::from_millis(400), Duration::from_secs(20));
/// A watch that did not fail again for this long may work.
const QUIET: Duration = Duration::from_millis(500);

/// A stream of events, as kube's watchers yield them.
pub(crate) type Events<K> = BoxStream<'static, Result<Event<Guarded<K>>, Error>>;

/// Sends what `open` watches, until nobody receives it. `wrap` makes the changes what the receiver takes.
pub(crate) async fn feed<K: Send + 'static, T>(
    client: Client,
    config: Config,
    open: impl Fn(Config) -> Events<K>,
    wrap: impl Fn(Change<K>) -> T,
    out: mpsc::Sender<T>,
) {
    let mut streaming = true;
    let mut pause = PAUSE.0;
    loop {
        let config = if streaming { config.clone().streaming_lists() } else { config.clone() };
        let mut events = open(config);
        let mut failed = false;
        loop {
            let event = if failed {
                match tokio::time::timeout(QUIET, events.next()).await {
                    Ok(event) => event,
                    // Either it waits for news, or for the server: ask it.
                    Err(_) if client.apiserver_version().await.is_ok() => {
                        failed = false;
                        if out.send(wrap(Change::Recovered)).await.is_err() {
                            return;
                        }
                        continue;
                    }
                    Err(_) => events.next().await,
                }
            } else {
                events.next().await
            };
            let change = match event {
                // A watcher's stream has no end; a new one is begun if it has.
                None => break,
                Some(Ok(event)) => {
                    failed = false;
                    pause = PAUSE.0;
                    change(event)
                }
                Some(Err(error)) => {
                    let status = status(&error).map(|status| status.code);
                    debug!(%error, "a watch failed");
                    if streaming && matches!(status, Some(400 | 422)) {
                        // A server without streaming lists says that it does not know the parameter.
                        streaming = false;
                        break;
                    }
                    let gone = status == Some(404);
                    let problem = format!("cannot be watched: {}", describe(&error));
                    if out.send(wrap(Change::Failed { problem, gone })).await.is_err() {
                        return;
                    }
                    tokio::time::sleep(jitter(pause)).await;
                    pause = (pause * 2).min(PAUSE.1);
                    failed = true;
                    if gone {
                        // Whatever has its name next is another kind: list it anew.
                        break;
                    }
                    continue;
                }
            };
            if out.send(wrap(change)).await.is_err() {
                return;
            }
        }
    }
}

fn change<K>(event: Event<Guarded<K>>) -> Change<K> {
    match event {
        Event::Init => Change::Begin,
        Event::InitApply(object) => Change::Listed(object),
        Event::InitDone => Change::Done,
        Event::Apply(object) => Change::Applied(object),
        Event::Delete(object) => Change::Deleted(object.metadata),
    }
}

fn client_error(error: &Error) -> Option<&kube::Error> {
    match error {
        Error::InitialListFailed(error) | Error::WatchStartFailed(error) | Error::WatchFailed(error) => {
            Some(error)
        }
        Error::WatchError(_) | Error::NoResourceVersion => None,
    }
}

fn status(error: &Error) -> Option<&Status> {
    match (error, client_error(error)) {
        (Error::WatchError(status), _) | (_, Some(kube::Error::Api(status))) => Some(status),
        _ => None,
    }
}

/// The error in one line: what the server says, or the innermost cause.
fn describe(error: &Error) -> String {
    if let Some(status) = status(error) {
        return format!("{} ({})", status.message, status.code);
    }
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

/// Between three quarters of the time and five quarters of it.
pub(crate) fn jitter(time: Duration) -> Duration {
    // Each `RandomState` has keys of its own.
    let random = std::hash::RandomState::new().build_hasher().finish();
    let percent = u32::try_from(random % 51).unwrap_or(25);
    time * (75 + percent) / 100
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_are_spread_around_their_time() {
        let pauses: std::collections::BTreeSet<Duration> =
            (0..200).map(|_| jitter(Duration::from_secs(4))).collect();
        assert!(pauses.len() > 10, "{pauses:?}");
        assert!(pauses.iter().all(|pause| (3..=5).contains(&pause.as_secs())), "{pauses:?}");
    }
}
