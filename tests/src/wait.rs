//! Waiting for a condition, the only way in which a test may let time pass.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::process::POLL;

/// Asks `condition` until it answers with something, and returns that. `what` says in an error what was waited for.
///
/// # Errors
/// When `condition` fails, or has answered with nothing for as long as `timeout`.
pub async fn until<T>(
    timeout: Duration,
    what: &str,
    mut condition: impl AsyncFnMut() -> Result<Option<T>>,
) -> Result<T> {
    let began = Instant::now();
    loop {
        let asked = Instant::now();
        if let Some(answer) = condition().await? {
            return Ok(answer);
        }
        if began.elapsed() > timeout {
            bail!("still not so after {timeout:?}: {what}");
        }
        // What is dear to ask, such as by kubectl, would else take the processor from what it asks about.
        tokio::time::sleep(POLL.max(asked.elapsed())).await;
    }
}
