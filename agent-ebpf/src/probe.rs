//! `holdfast-agent probe`: the table of what this kernel can refuse.

use std::fmt;

use serde::Serialize;

use crate::hooks::{HookError, Hooks};
use crate::loader::Places;
use crate::mechanisms::State;

/// What was found.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Release of the kernel.
    pub kernel: String,
    /// Each mechanism.
    pub mechanisms: Vec<Row>,
}

/// One mechanism.
#[derive(Debug, Serialize)]
pub struct Row {
    /// Its name.
    pub mechanism: String,
    /// `Available`, `Unavailable` or `Error`.
    pub state: &'static str,
    /// Why it is not available.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Why nothing could be probed.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// No BTF.
    #[error(transparent)]
    Load(#[from] crate::loader::LoadError),
    /// The hooks.
    #[error(transparent)]
    Hook(#[from] HookError),
}

/// Probes this kernel.
///
/// # Errors
///
/// When something is missing that every mechanism needs.
pub fn probe(places: &Places) -> Result<Report, ProbeError> {
    let btf = aya::Btf::from_sys_fs().map_err(crate::loader::LoadError::Btf)?;
    let hooks = Hooks::probe(places, &btf)?;
    let mechanisms = hooks
        .mechanisms()
        .states
        .iter()
        .map(|(name, state)| {
            let (state, reason) = match state {
                State::Available => ("Available", None),
                State::Unavailable(why) => ("Unavailable", Some(why.clone())),
                State::Error(why) => ("Error", Some(why.clone())),
            };
            Row { mechanism: (*name).to_owned(), state, reason }
        })
        .collect();
    Ok(Report { kernel: rustix::system::uname().release().to_string_lossy().into_owned(), mechanisms })
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "kernel {}", self.kernel)?;
        writeln!(f, "{:<16} {:<12} REASON", "MECHANISM", "STATE")?;
        for row in &self.mechanisms {
            writeln!(
                f,
                "{:<16} {:<12} {}",
                row.mechanism,
                row.state,
                row.reason.as_deref().unwrap_or_default()
            )?;
        }
        Ok(())
    }
}
