//! Proof that the kernel does what it was told: maps and links are read back and repaired, and a canary tries what each
//! mechanism in use has to refuse. Made after every change, every minute and after the machine slept. Nothing is told as
//! enforced without it.

use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::abi::sys;
use crate::engine::{Engine, EngineError};
use crate::loader::{LoadError, Places};

pub mod canary;
mod held;

use canary::Canary;
use held::Held;

/// The kinds of failures, as the metric `holdfast_probe_failures_total` has them.
pub const KINDS: [&str; 4] = ["map", "pin", "link", "canary"];
/// Failures that are told one by one.
const TOLD: usize = 16;

/// Something that was not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// One of [`KINDS`], or `read`.
    pub kind: String,
    /// What it was, and what became of it.
    pub message: String,
}

impl Failure {
    fn new(kind: &'static str, message: impl Into<String>) -> Self {
        Self { kind: kind.to_owned(), message: message.into() }
    }
}

/// What became of the last proof.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// There was none since the last change.
    #[default]
    Pending,
    /// All was as it should be, and every attempt was refused.
    Proven,
    /// Something was not.
    Failed,
}

/// A proof.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Proof {
    /// What became of it.
    pub outcome: Outcome,
    /// What was wrong; at most 16.
    pub failures: Arc<Vec<Failure>>,
    /// Mechanisms that were tried by their effect.
    pub tried: Vec<&'static str>,
    /// When all was last proven, in nanoseconds since boot, sleep included.
    pub proven_ns: Option<u64>,
}

impl Proof {
    /// How long ago all was last proven.
    #[must_use]
    pub fn age(&self) -> Option<std::time::Duration> {
        self.proven_ns.map(|then| std::time::Duration::from_nanos(sys::boot_time_ns().saturating_sub(then)))
    }
}

/// Makes proofs.
pub struct Prover {
    held: Held,
    canary: Result<Canary, String>,
    places: Places,
}

impl Prover {
    /// Takes note of what is pinned and attached, and makes the canary's cgroups. `program` is the agent's own program.
    ///
    /// # Errors
    ///
    /// When what was just pinned cannot be opened.
    pub fn new(places: &Places, program: &Path, engine: &mut Engine) -> Result<Self, LoadError> {
        let held = Held::adopt(places, &engine.attached())?;
        // Without it there is no proof, which every report then says; the policies are in force all the same.
        let canary = Canary::make(places, program).map_err(|error| error.to_string());
        if let Ok(canary) = &canary {
            engine.enroll(Some(canary.site()));
        }
        Ok(Self { held, canary, places: places.clone() })
    }

    /// Reads everything back, repairs what differs, and lets the canary try. `refuses` is false while the glass is broken.
    pub fn prove(&mut self, engine: &mut Engine, before: &Proof, refuses: bool) -> Proof {
        let mut failures = Vec::new();
        self.held.check(&self.places, engine, &mut failures);
        match engine.verify() {
            Ok(wrong) => failures.extend(wrong.into_iter().map(|(map, rows)| {
                Failure::new("map", format!("{map}: {rows} rows were wrong; written anew"))
            })),
            Err(error) => {
                failures.push(Failure::new("read", format!("the maps cannot be read back: {error}")));
            }
        }
        let mut tried = Vec::new();
        match &self.canary {
            _ if !refuses => {}
            Ok(canary) => match canary.sing(engine) {
                Ok(song) => {
                    tried = song.tried;
                    failures.extend(song.failures.into_iter().map(|what| Failure::new("canary", what)));
                }
                Err(error) => failures.push(Failure::new("canary", error.to_string())),
            },
            Err(error) => failures.push(Failure::new("canary", error.clone())),
        }
        let outcome = if failures.is_empty() { Outcome::Proven } else { Outcome::Failed };
        let proven_ns = if failures.is_empty() { Some(sys::boot_time_ns()) } else { before.proven_ns };
        failures.truncate(TOLD);
        Proof { outcome, failures: Arc::new(failures), tried, proven_ns }
    }
}

/// Where a proof is kept for `holdfast-agent status`.
#[must_use]
pub fn file(state_dir: &Path) -> std::path::PathBuf {
    state_dir.join("proof.json")
}

/// A proof as it is kept.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Kept {
    /// What became of the last one.
    pub outcome: Outcome,
    /// When all was last proven, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proven: Option<String>,
    /// What was wrong.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failures: Vec<Failure>,
    /// Mechanisms that were tried.
    pub tried: Vec<String>,
}

impl From<&Proof> for Kept {
    fn from(proof: &Proof) -> Self {
        Self {
            outcome: proof.outcome,
            proven: proven_at(proof).map(|at| at.to_string()),
            failures: proof.failures.to_vec(),
            tried: proof.tried.iter().map(|name| (*name).to_owned()).collect(),
        }
    }
}

/// When all was last proven, by the wall clock, to the second.
#[must_use]
pub fn proven_at(proof: &Proof) -> Option<k8s_openapi::jiff::Timestamp> {
    let age = i64::try_from(proof.age()?.as_secs()).ok()?;
    k8s_openapi::jiff::Timestamp::from_second(k8s_openapi::jiff::Timestamp::now().as_second() - age).ok()
}

/// Why a proof could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ProofError {
    /// The engine.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A map.
    #[error(transparent)]
    Map(#[from] crate::maps::MapError),
    /// A cgroup for the canary.
    #[error("the canary's cgroup {path}: {source}")]
    Cgroup {
        /// Which.
        path: std::path::PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The canary could not be run.
    #[error("the canary could not be run: {0}")]
    Run(#[source] std::io::Error),
    /// What it said makes no sense.
    #[error("the canary said {0:?}")]
    Said(String),
}
