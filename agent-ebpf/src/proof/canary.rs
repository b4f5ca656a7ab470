//! The canary: a process of the agent's own, in cgroups of its own below the agent's, that the real maps hold as workloads
//! to which everything is refused. What it tries over the real attachments has to fail. Its rows have numbers that no
//! workload ever gets; nothing of it is reported, counted or told of as a denial.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use holdfast_policy::syscalls::hooks::Hook;

use super::ProofError;
use crate::abi::sys::child::{self, Call};
use crate::abi::{self, compare, workload_flags};
use crate::cgroups;
use crate::engine::Engine;
use crate::loader::Places;
use crate::lower::Lowered;
use crate::mechanisms::Mechanisms;
use crate::tables::Tables;

pub mod act;

/// The workload that may send nothing and is refused calls.
const OUT: u32 = abi::CANARY;
/// The workload that may receive nothing.
const IN: u32 = abi::CANARY + 1;
/// The number of its policy sets.
const SET: u32 = abi::CANARY;
const DENY: u8 = 2;
const KILL: u8 = 3;

/// Whether a number of a workload is the canary's.
#[must_use]
pub fn is_canary(workload: u32) -> bool {
    workload & !7 == abi::CANARY
}

/// The cgroups of the canary: where nothing may leave, and where nothing may arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cgroups {
    /// Id of the one that may send nothing.
    pub out: u64,
    /// Id of the one that may receive nothing.
    pub into: u64,
}

/// The tables without what an earlier agent's canary left.
#[must_use]
pub fn without(tables: &Tables) -> Tables {
    let mut tables = tables.clone();
    tables.workloads.retain(|index, _| !is_canary(*index));
    tables.cgroups.retain(|_, index| !is_canary(*index));
    tables.syscalls.retain(|key, _| key.set != SET);
    tables.clauses.retain(|key, _| key.set != SET);
    tables
}

/// Adds the canary's rows, and the hook that it tries where any hook is in use.
pub fn enroll(cgroups: Cgroups, lowered: &mut Lowered, mechanisms: &Mechanisms) {
    let tables = &mut lowered.tables;
    let base = abi::Workload {
        pod: OUT,
        gen_: 1,
        flags: workload_flags::NET | workload_flags::HOST_PART,
        default_rule: [0; 2],
        would_default_rule: [abi::NO_RULE; 2],
        ..abi::Workload::default()
    };
    let egress = (workload_flags::ISOLATED | workload_flags::REJECT) << 1 | workload_flags::ANY_REJECT;
    tables
        .workloads
        .insert(OUT, abi::Workload { net_set: SET, sys_set: SET, flags: base.flags | egress, ..base });
    let ingress = workload_flags::ISOLATED;
    tables.workloads.insert(IN, abi::Workload { net_set: SET, pod: IN, flags: base.flags | ingress, ..base });
    tables.cgroups.insert(cgroups.out, OUT);
    tables.cgroups.insert(cgroups.into, IN);
    let mut rule = |call: Call, entry: abi::Syscall, action: u8| {
        let nr = call.number();
        let condition =
            [abi::Condition { accept: compare::ANY, ..abi::Condition::default() }; abi::ARGUMENTS];
        let clause = abi::Clause { action, condition, ..abi::Clause::default() };
        tables.syscalls.insert(abi::SyscallKey { set: SET, abi: 0, nr }, entry);
        tables.clauses.insert(abi::ClauseKey { set: SET, abi: 0, nr, index: 0 }, clause);
    };
    if lowered.hooks != 0 && mechanisms.hooks.contains_key(&Hook::TaskSetnice) {
        lowered.hooks |= Mechanisms::bit(Hook::TaskSetnice);
        rule(
            Call::BeNice,
            abi::Syscall { hooks: Mechanisms::bit(Hook::TaskSetnice), clauses: 1, flags: 0 },
            DENY,
        );
    }
    if lowered.sys_enter {
        let entry = abi::Syscall { hooks: 0, clauses: 1, flags: abi::SYSCALL_AT_ENTRY };
        rule(Call::Getppid([0; 6]), entry, KILL);
    }
}

/// What the canary found.
#[derive(Debug, Default)]
pub(super) struct Song {
    pub(super) tried: Vec<&'static str>,
    pub(super) failures: Vec<String>,
}

/// The canary's cgroups, removed when dropped.
pub(super) struct Canary {
    folders: [PathBuf; 2],
    cgroups: Cgroups,
    program: PathBuf,
}

impl Canary {
    pub(super) fn make(places: &Places, program: &Path) -> Result<Self, ProofError> {
        let own = cgroups::own(&places.cgroup_root).unwrap_or_default();
        let parent = places.cgroup_root.join(own.trim_start_matches('/'));
        sweep(&parent);
        let folders = ["out", "in"].map(|part| parent.join(format!("{PREFIX}{}-{part}", std::process::id())));
        let mut ids = [0; 2];
        for (folder, id) in folders.iter().zip(&mut ids) {
            let failed = |source| ProofError::Cgroup { path: folder.clone(), source };
            match fs::create_dir(folder) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                made => made.map_err(failed)?,
            }
            *id = fs::metadata(folder).map_err(failed)?.ino();
        }
        Ok(Self { folders, cgroups: Cgroups { out: ids[0], into: ids[1] }, program: program.to_owned() })
    }

    pub(super) fn cgroups(&self) -> Cgroups {
        self.cgroups
    }

    /// Tries everything that is in use.
    pub(super) fn sing(&self, engine: &Engine) -> Result<Song, ProofError> {
        let mut song = Song::default();
        if !engine.tables().workloads.contains_key(&OUT) {
            // Nothing was put in force yet, and so the canary neither.
            return Ok(song);
        }
        let counted = |workload, kind| {
            let key = abi::CounterKey { workload, set: SET, rule: 0, kind, given: abi::given::DROP };
            engine.maps().counter(&key)
        };
        let calls = engine.tables().syscalls.contains_key(&abi::SyscallKey {
            set: SET,
            abi: 0,
            nr: Call::BeNice.number(),
        });
        let mut attempts = vec!["egress", "connect4", "connect6", "sendmsg4", "sendmsg6"];
        if calls {
            attempts.push("nice");
        }
        let before = (counted(OUT, 1)?, counted(IN, 0)?);
        let mut said = self.run(&self.folders[0], &attempts)?;
        said.extend(self.run(&self.folders[1], &["ingress"])?);
        let after = (counted(OUT, 1)?, counted(IN, 0)?);

        for (attempt, counted) in [("egress", before.0 != after.0), ("ingress", before.1 != after.1)] {
            match said.get(attempt).map(String::as_str) {
                Some(act::UNTRIED) => continue,
                Some(act::ARRIVED) => {
                    song.failures.push(format!("{attempt}: a packet that was refused arrived"));
                }
                Some(_) if counted => {}
                other => song.failures.push(format!("{attempt}: no program refused the packet ({other:?})")),
            }
            song.tried.push("cgroup_skb");
        }
        let eperm = libc::EPERM.to_string();
        for (attempt, mechanism) in [
            ("connect4", "connect"),
            ("connect6", "connect"),
            ("sendmsg4", "sendmsg"),
            ("sendmsg6", "sendmsg"),
        ] {
            match said.get(attempt) {
                Some(answer) if answer == act::UNTRIED => continue,
                Some(answer) if *answer == eperm => {}
                other => song.failures.push(format!("{attempt}: not refused ({other:?})")),
            }
            song.tried.push(mechanism);
        }
        if calls {
            if said.get("nice") != Some(&eperm) {
                song.failures.push(format!("setpriority: not refused ({:?})", said.get("nice")));
            }
            if let Some(mechanism) = engine.mechanisms().hooks.get(&Hook::TaskSetnice) {
                song.tried.push(mechanism.name());
            }
        }
        let key = abi::SyscallKey { set: SET, abi: 0, nr: Call::Getppid([0; 6]).number() };
        if engine.tables().syscalls.contains_key(&key) {
            let status = self.command(&self.folders[0], &["entry"])?.status().map_err(ProofError::Run)?;
            if status.signal() != Some(libc::SIGKILL) {
                song.failures.push(format!("getppid: not killed at its entry ({status})"));
            }
            song.tried.push("sys_enter");
        }
        song.tried.sort_unstable();
        song.tried.dedup();
        Ok(song)
    }

    fn command(&self, folder: &Path, attempts: &[&str]) -> Result<Command, ProofError> {
        let path = folder.join("cgroup.procs");
        let procs = fs::File::options()
            .write(true)
            .open(&path)
            .map_err(|source| ProofError::Cgroup { path: path.clone(), source })?;
        let mut command = Command::new(&self.program);
        command.arg("canary").args(attempts).stdin(Stdio::null()).stderr(Stdio::null()).env_clear();
        child::enter(&mut command, procs);
        Ok(command)
    }

    fn run(&self, folder: &Path, attempts: &[&str]) -> Result<BTreeMap<String, String>, ProofError> {
        let output = self.command(folder, attempts)?.output().map_err(ProofError::Run)?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            return Err(ProofError::Said(format!("{} ({text})", output.status)));
        }
        Ok(text
            .lines()
            .filter_map(|line| line.split_once(' '))
            .map(|(attempt, answer)| (attempt.to_owned(), answer.to_owned()))
            .collect())
    }
}

const PREFIX: &str = "holdfast-canary-";

/// Removes what agents left that were killed.
fn sweep(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(rest) = name.strip_prefix(PREFIX) else { continue };
        let process = rest.split('-').next().unwrap_or_default();
        if !Path::new("/proc").join(process).exists()
            && let Err(error) = fs::remove_dir(entry.path())
        {
            tracing::debug!(name, %error, "an earlier canary's cgroup cannot be removed");
        }
    }
}

impl Drop for Canary {
    fn drop(&mut self) {
        for folder in &self.folders {
            if let Err(error) = fs::remove_dir(folder) {
                tracing::warn!(path = %folder.display(), %error, "the canary's cgroup cannot be removed");
            }
        }
    }
}
