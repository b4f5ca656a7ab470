//! `/metrics`, `/healthz` and `/readyz`.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use holdfast_crds::usage::Usage;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tracing::warn;

use super::Progress;
use crate::break_glass;
use crate::engine::Engine;
use crate::metrics::Metrics;

/// What the handlers read.
#[derive(Clone)]
pub struct Shared {
    /// For counters and map sizes.
    pub engine: Arc<Mutex<Engine>>,
    /// Everything else.
    pub metrics: Metrics,
    /// For the reason of a break-glass.
    pub state_dir: PathBuf,
    /// For readiness.
    pub progress: watch::Receiver<Progress>,
}

/// Serves until `shutdown`.
///
/// # Errors
///
/// When the socket fails.
pub async fn serve(
    listener: TcpListener,
    shared: Shared,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let app = Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .with_state(shared);
    axum::serve(listener, app).with_graceful_shutdown(shutdown).await
}

async fn ready(State(shared): State<Shared>) -> (StatusCode, String) {
    let progress = shared.progress.borrow();
    if progress.ready() {
        return (StatusCode::OK, "ok\n".to_owned());
    }
    let why = progress
        .error
        .clone()
        .unwrap_or_else(|| "not everything known at start is in the kernel yet".to_owned());
    (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n"))
}

async fn metrics(State(shared): State<Shared>) -> (StatusCode, String) {
    // Reading maps blocks for microseconds a row, and scrapes are rare: a thread of its own keeps the loop free.
    let read = tokio::task::spawn_blocking(move || {
        let mut engine = shared.engine.lock().unwrap_or_else(PoisonError::into_inner);
        match engine.counts() {
            Ok(counts) => shared.metrics.set_counts(counts.totals()),
            Err(error) => return Err(error.to_string()),
        }
        match engine.maps().helper_errors() {
            Ok(errors) => shared.metrics.set_helper_errors(&errors),
            Err(error) => return Err(error.to_string()),
        }
        match break_glass::look(engine.maps(), &shared.state_dir) {
            Ok(broken) => shared.metrics.set_break_glass(broken.as_ref()),
            Err(error) => return Err(error.to_string()),
        }
        let tables = engine.tables();
        let entries = [
            ("addresses", tables.addresses.len()),
            ("classes", tables.classes.len()),
            ("cidrs", tables.cidrs.len()),
            ("verdicts", tables.verdicts.len()),
            ("syscalls", tables.syscalls.len()),
            ("clauses", tables.clauses.len()),
            ("path_rows", tables.path_rows.len()),
            ("access_rows", tables.access_rows.len()),
            ("access_sets", tables.access_sets.len()),
            ("workloads", tables.workloads.len()),
            ("cgroups", tables.cgroups.len()),
        ];
        for (map, capacity) in engine.maps().capacities() {
            let count = entries.iter().find(|(name, _)| *name == map).map_or(0, |(_, count)| *count);
            shared.metrics.set_map(map, count, capacity);
        }
        drop(engine);
        match Usage::read() {
            Ok(usage) => shared.metrics.set_usage(&usage),
            Err(error) => warn!(%error, "what this process takes cannot be read"),
        }
        shared.metrics.encode().map_err(|error| error.to_string())
    });
    match read.await {
        Ok(Ok(text)) => (StatusCode::OK, text),
        Ok(Err(why)) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{why}\n")),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    }
}
