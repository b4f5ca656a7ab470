//! What policies on programs, files and capabilities cost a workload that they let do everything.

use std::{fs, path::Path};

use anyhow::{Context, Result, ensure};
use holdfast_agent::loader::Places;
use nix::sched::{CloneFlags, unshare};
use serde::{Deserialize, Serialize};

use super::{node::Node, rig::Rig};

/// One thing that the workload does, by the nanoseconds that it takes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Cost {
    /// What is done.
    pub what: String,
    /// While an agent's programs enforce policies on it.
    pub with: u64,
    /// Without any agent.
    pub without: u64,
}

impl Cost {
    /// How many times as long it takes with the policies.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    pub fn ratio(&self) -> f64 {
        self.with as f64 / self.without as f64
    }
}

/// What many workloads are given: nothing of it concerns what is done here.
const POLICY: &str = "{selector: {matchLabels: {app: api}}, \
    processes: {rules: [{paths: ['/usr/bin/nc', '/usr/bin/nmap', '/tmp/**'], action: Deny}, {notInImage: true, action: Deny}]}, \
    files: {rules: [{paths: ['/etc/shadow', '/root/.ssh/**', '/var/run/secrets/**'], operations: [Read, Write], action: Deny}]}, \
    capabilities: {deny: [NET_RAW, SYS_PTRACE]}}";

/// What is done, how often in each round, and in how many rounds. The fastest of them counts: in the others the kernel did
/// something else too.
const DEEDS: [(&str, u32, u32); 9] = [
    ("fork", 40, 40),
    ("exec /usr/bin/other", 20, 40),
    ("open /usr/bin/tool 0", 200, ROUNDS),
    ("open /usr/bin/tool 4096", 200, ROUNDS),
    ("open /usr/bin/tool 16384", 100, ROUNDS),
    ("open /usr/bin/tool 65536", 50, ROUNDS),
    // In a directory that a rule speaks of.
    ("open /etc/plain 7", 200, ROUNDS),
    // On a mount of its own.
    ("open {v}/tool 4096", 200, ROUNDS),
    ("open {v}/tool 16384", 100, ROUNDS),
];
const ROUNDS: u32 = 100;

/// Measures, and writes the costs as JSON.
///
/// # Errors
/// When the node cannot be made, or has no mechanism for such policies.
pub fn write(path: &Path) -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNS).context("a mount namespace")?;
    let private = rustix::mount::MountPropagationFlags::PRIVATE | rustix::mount::MountPropagationFlags::REC;
    rustix::mount::mount_change("/", private).context("making the mount namespace private")?;
    let folder = tempfile::tempdir()?;
    let node = Node::new().context("making the node")?;
    let places = Places { bpffs: folder.path().join("bpf"), cgroup_root: node.top.root().to_owned() };
    let mut rig = Rig::new(node, &places, 20)?;
    ensure!(rig.refuses(), "this kernel has no mechanism for such policies");
    let house = rig.house("api")?;
    rig.enforce(&[("shop/costs", POLICY)])?;
    let (rooms, wait_ms) = (house.rooms()?, rig.answer_ms());
    let measure = || -> Result<Vec<u64>> {
        let mut fastest = vec![u64::MAX; DEEDS.len()];
        for round in 0..ROUNDS {
            let deeds = DEEDS.iter().zip(&mut fastest).filter(|((.., rounds), _)| round < *rounds);
            for ((what, times, _), fastest) in deeds {
                *fastest = house.times(*times, &rooms.fill(what), wait_ms)?.min(*fastest);
            }
        }
        Ok(fastest)
    };
    let with = measure()?;
    let attached = rig.engine.attached();
    for hook in ["hf_file_open", "hf_bprm_check_security", "hf_capable"] {
        ensure!(attached.iter().any(|name| name == hook), "{hook} is not attached");
    }
    // The last pin of a link detaches its program.
    fs::remove_dir_all(places.links())?;
    let without = measure()?;
    let costs: Vec<Cost> = DEEDS
        .iter()
        .zip(with.into_iter().zip(without))
        .map(|((what, ..), (with, without))| Cost { what: (*what).to_owned(), with, without })
        .collect();
    for cost in &costs {
        println!("{:<28} {:>9} {:>9} {:.3}", cost.what, cost.with, cost.without, cost.ratio());
    }
    Ok(fs::write(path, serde_json::to_vec_pretty(&costs)?)?)
}
