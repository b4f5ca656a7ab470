//! `holdfast-agent probe`: the table of what this kernel can refuse.
//!
//! Every mechanism is loaded and tried by its effect, apart from what is in force on the node: with maps and pins of its own,
//! and with programs that are attached to a cgroup made for the purpose, below the one that this process is in.

use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use aya::Btf;
use serde::Serialize;

use crate::abi::{CGROUP_MADE, CgroupEvent};
use crate::cgroups;
use crate::engine::{Engine, EngineError};
use crate::facts::Facts;
use crate::hooks::{HookError, Hooks};
use crate::loader::{self, Kernel, LoadError, Places};
use crate::mechanisms::State;
use crate::proof::{Proof, Prover};

/// Packets, where a socket is told of a refusal, and the tree of cgroups: what enforces nothing by itself is not here.
const OF_EVERY_NODE: [&str; 3] = ["cgroup_skb", "cgroup_sock_addr", "cgroup_events"];

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
    /// Something that every mechanism needs.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The hooks.
    #[error(transparent)]
    Hook(#[from] HookError),
    /// The maps.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// A cgroup and a folder for pins that nobody else uses; gone when dropped.
struct Apart(Places);

impl Apart {
    fn make(places: &Places) -> Result<Self, LoadError> {
        loader::mount_bpffs(&places.bpffs)?;
        let name = format!("holdfast-probe-{}", std::process::id());
        let own = cgroups::own(&places.cgroup_root).unwrap_or_default();
        let apart = Self(Places {
            bpffs: places.bpffs.join(&name),
            cgroup_root: places.cgroup_root.join(own.trim_start_matches('/')).join(&name),
        });
        for path in [&apart.0.bpffs, &apart.0.cgroup_root] {
            fs::create_dir(path).map_err(|source| LoadError::Io { path: path.clone(), source })?;
        }
        Ok(apart)
    }
}

impl Drop for Apart {
    fn drop(&mut self) {
        let remove = |path: &PathBuf, done: std::io::Result<()>| match done {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!(path = %path.display(), %error, "cannot remove what a probe was made in");
            }
            _ => {}
        };
        // The last pin of a link detaches its program.
        remove(&self.0.bpffs, fs::remove_dir_all(&self.0.bpffs));
        remove(&self.0.cgroup_root, fs::remove_dir(&self.0.cgroup_root));
    }
}

/// Probes this kernel.
///
/// # Errors
///
/// When something is missing that every mechanism needs.
pub fn probe(places: &Places) -> Result<Report, ProbeError> {
    let apart = Apart::make(places)?;
    let mut rows = Vec::new();
    let hooks = match loader::load(&apart.0) {
        Ok(kernel) => {
            let hooks = Hooks::probe(&apart.0, &kernel.btf)?;
            let states = hooks.mechanisms().states.clone();
            rows.extend(of_every_node(&apart.0, kernel, hooks)?);
            states
        }
        // Without them no agent starts; the rest is told all the same.
        Err(error @ LoadError::NotPermitted { .. }) => return Err(error.into()),
        Err(error) => {
            let error = error.to_string();
            rows.extend(OF_EVERY_NODE.map(|name| Row::new(name, &State::Error(error.clone()))));
            let btf = Btf::from_sys_fs().map_err(LoadError::Btf)?;
            Hooks::probe(&apart.0, &btf)?.mechanisms().states.clone()
        }
    };
    rows.extend(hooks.iter().map(|(name, state)| Row::new(name, state)));
    rows.sort_by(|a, b| a.mechanism.cmp(&b.mechanism));
    Ok(Report { kernel: rustix::system::uname().release().to_string_lossy().into_owned(), mechanisms: rows })
}

/// Lets a canary try the programs that every node has.
fn of_every_node(apart: &Places, kernel: Kernel, hooks: Hooks) -> Result<Vec<Row>, ProbeError> {
    let Kernel { maps, mut cgroup_events, .. } = kernel;
    let netns = fs::metadata("/proc/self/ns/net").map(|netns| netns.ino()).unwrap_or_default();
    let mut engine = Engine::adopt(maps, hooks, u32::try_from(netns).unwrap_or_default())?;
    let mut prover = Prover::new(apart, Path::new("/proc/self/exe"), &mut engine)?;
    engine.apply(&Facts { complete: true, ..Facts::default() }, &[])?;
    let proof = prover.prove(&mut engine, &Proof::default(), true);
    let wrong: Vec<&str> = proof.failures.iter().map(|failure| failure.message.as_str()).collect();
    let tried = |mechanisms: &[&str]| {
        if mechanisms.iter().all(|mechanism| proof.tried.contains(mechanism)) && wrong.is_empty() {
            State::Available
        } else if wrong.is_empty() {
            State::Error("it could not be tried: there is no loopback device, or no IPv4".to_owned())
        } else {
            State::Error(wrong.join("; "))
        }
    };
    // The canary's own cgroups.
    let mut made = 0;
    while let Some(item) = cgroup_events.next() {
        made += u32::from(CgroupEvent::read(&item).is_some_and(|event| event.kind == CGROUP_MADE));
    }
    let tree = match made {
        0 => State::Error("a cgroup was made, and no event came".to_owned()),
        _ => State::Available,
    };
    let states = [tried(&["cgroup_skb"]), tried(&["connect", "sendmsg"]), tree];
    Ok(OF_EVERY_NODE.iter().zip(&states).map(|(name, state)| Row::new(name, state)).collect())
}

impl Row {
    fn new(mechanism: &str, state: &State) -> Self {
        let (state, reason) = match state {
            State::Available => ("Available", None),
            State::Unavailable(why) => ("Unavailable", Some(why.clone())),
            State::Error(why) => ("Error", Some(why.clone())),
        };
        Self { mechanism: mechanism.to_owned(), state, reason }
    }
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
