//! The canary: a process of the agent's own, in cgroups of its own below the agent's, that the real maps hold as workloads
//! to which everything is refused. What it tries over the real attachments has to fail. Its rows have numbers that no
//! workload ever gets; nothing of it is reported, counted or told of as a denial.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use holdfast_policy::model::Operation;
use holdfast_policy::syscalls::hooks::Hook;

use super::ProofError;
use crate::abi::event::Bytes;
use crate::abi::sys::child::{self, Call};
use crate::abi::{self, access_flags, access_kind, compare, workload_flags};
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
/// The workload that may execute nothing.
const STILL: u32 = abi::CANARY + 2;
/// The number of its policy sets.
const SET: u32 = abi::CANARY;
/// The number of the access set that refuses executables.
const STILL_SET: u32 = abi::CANARY + 2;
/// Where the automaton that leads every path to outcome 1 has its two rows: the last ones, which no policy gets.
const EVERY_PATH: u32 = abi::POLICY_PATH_ROWS;
const DENY: u8 = 2;
const KILL: u8 = 3;
/// `CAP_NET_ADMIN`, include/uapi/linux/capability.h: one that an agent has.
const NET_ADMIN: u16 = 12;

/// Whether a number of a workload is the canary's.
#[must_use]
pub fn is_canary(workload: u32) -> bool {
    workload & !7 == abi::CANARY
}

/// Where the canary sits: cgroups where nothing may leave, where nothing may arrive, and where nothing may be executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Site {
    /// Id of the one that may send nothing.
    pub out: u64,
    /// Id of the one that may receive nothing.
    pub into: u64,
    /// Id of the one that may execute nothing.
    pub still: u64,
    /// Every path but those that begin like its program's.
    pub elsewhere: abi::Elsewhere,
}

/// The tables without what an earlier agent's canary left.
#[must_use]
pub fn without(tables: &Tables) -> Tables {
    let mut tables = tables.clone();
    tables.workloads.retain(|index, _| !is_canary(*index));
    tables.cgroups.retain(|_, index| !is_canary(*index));
    tables.syscalls.retain(|key, _| key.set != SET);
    tables.clauses.retain(|key, _| key.set != SET);
    tables.access_sets.retain(|set, _| !is_canary(*set));
    tables.access_rows.retain(|key, _| !is_canary(key.set));
    tables.path_rows.retain(|element, _| *element < EVERY_PATH);
    tables
}

/// Adds the canary's rows, and the hook that it tries where any hook is in use.
pub fn enroll(site: Site, lowered: &mut Lowered, mechanisms: &Mechanisms) {
    enroll_access(site, lowered, mechanisms);
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
    let mut out = abi::Workload { net_set: SET, sys_set: SET, flags: base.flags | egress, ..base };
    if let Some(set) = tables.access_sets.get(&SET) {
        out.access_set = SET;
        if set.flags & access_flags::FILES != 0 {
            out.flags |= workload_flags::FILES;
            out.elsewhere = site.elsewhere;
        }
    }
    tables.workloads.insert(OUT, out);
    let ingress = workload_flags::ISOLATED;
    tables.workloads.insert(IN, abi::Workload { net_set: SET, pod: IN, flags: base.flags | ingress, ..base });
    tables.cgroups.insert(site.out, OUT);
    tables.cgroups.insert(site.into, IN);
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

/// What is tried of the hooks of programs, files and capabilities: one that is in use, and how the attempt is named.
const ACCESS: [(Hook, &str); 3] =
    [(Hook::FileOpen, "read"), (Hook::Capable, "capability"), (Hook::BprmCheckSecurity, "execute")];

/// Every path but those that begin like this program's, which the attempt `read` opens: the kernel looks at beginnings first,
/// and that is tried too. The path is as the agent's root shows it, which is that of its mount namespace: no chroot.
fn elsewhere(program: &Path) -> abi::Elsewhere {
    // A program that was replaced has no path any more, but a name.
    let Ok(path) = fs::canonicalize(program).or_else(|_| fs::read_link(program)) else {
        return abi::Elsewhere::default();
    };
    let mut elsewhere = abi::Elsewhere::EVERYTHING;
    let names = path.as_os_str().as_bytes().split(|byte| *byte == b'/').skip(1);
    for (words, name) in [&mut elsewhere.first, &mut elsewhere.second].into_iter().zip(names) {
        abi::strike(words, abi::beginning_of(name));
    }
    elsewhere
}

/// Is this hook attached for what is in force?
fn in_use(hook: Hook, lowered: &Lowered, mechanisms: &Mechanisms) -> bool {
    lowered.hooks & Mechanisms::bit(hook) != 0 && mechanisms.hooks.contains_key(&hook)
}

/// Adds what the canary is refused of programs, files and capabilities, as far as the hooks are in use by themselves.
fn enroll_access(site: Site, lowered: &mut Lowered, mechanisms: &Mechanisms) {
    let [read, capability, execute] = ACCESS.map(|(hook, _)| in_use(hook, lowered, mechanisms));
    let tables = &mut lowered.tables;
    let every_path = abi::PathAutomaton {
        base: EVERY_PATH,
        elements: 1,
        size: abi::PATH_ROWS - EVERY_PATH,
        column: Bytes([u8::try_from(abi::CELL_NEXT).unwrap_or_default(); 256]),
    };
    if read || execute {
        let mut cell = [0; abi::ROW_CELLS];
        // The outcome, nothing that can still come, and the state itself whatever follows.
        (cell[0], cell[abi::CELL_NEXT]) = (1, 1);
        tables.path_rows.insert(EVERY_PATH, abi::PathRow::default());
        tables.path_rows.insert(EVERY_PATH + 1, abi::PathRow { cell });
    }
    let refuse = abi::AccessAnswer { would_rule: abi::NO_RULE, action: DENY, ..abi::AccessAnswer::default() };
    let nothing = abi::AccessAnswer { rule: abi::NO_RULE, ..refuse };
    let mut row = |set, kind, a, b, refused: &[usize]| {
        let mut row =
            abi::AccessRow { answer: [abi::AccessAnswer { action: 0, ..nothing }; abi::OPERATIONS] };
        for place in refused {
            row.answer[*place] = refuse;
        }
        tables.access_rows.insert(abi::AccessKey { set, a, b, kind }, row);
    };
    let none = abi::Access { unknown_rule: abi::NO_RULE, ..abi::Access::default() };
    let mut out = none;
    if read {
        (out.flags, out.files) = (out.flags | access_flags::FILES, every_path);
        row(SET, access_kind::FILE, 1, 0, &[Operation::Read.index()]);
    }
    if capability {
        out.flags |= access_flags::CAPABILITIES;
        out.capabilities = 1 << NET_ADMIN;
        row(SET, access_kind::CAPABILITY, NET_ADMIN, 0, &[0]);
    }
    if execute {
        row(STILL_SET, access_kind::EXECUTABLE, 1, 0, &[0, 1]);
        let set = abi::Access { flags: access_flags::PROCESSES, executables: every_path, ..none };
        tables.access_sets.insert(STILL_SET, set);
        let workload =
            abi::Workload { pod: STILL, gen_: 1, access_set: STILL_SET, ..abi::Workload::default() };
        tables.workloads.insert(STILL, workload);
        tables.cgroups.insert(site.still, STILL);
    }
    if out.flags != 0 {
        tables.access_sets.insert(SET, out);
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
    folders: [PathBuf; 3],
    site: Site,
    program: PathBuf,
}

impl Canary {
    pub(super) fn make(places: &Places, program: &Path) -> Result<Self, ProofError> {
        let own = cgroups::own(&places.cgroup_root).unwrap_or_default();
        let parent = places.cgroup_root.join(own.trim_start_matches('/'));
        sweep(&parent);
        let folders =
            ["out", "in", "still"].map(|part| parent.join(format!("{PREFIX}{}-{part}", std::process::id())));
        let mut ids = [0; 3];
        for (folder, id) in folders.iter().zip(&mut ids) {
            let failed = |source| ProofError::Cgroup { path: folder.clone(), source };
            match fs::create_dir(folder) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                made => made.map_err(failed)?,
            }
            *id = fs::metadata(folder).map_err(failed)?.ino();
        }
        Ok(Self {
            folders,
            site: Site { out: ids[0], into: ids[1], still: ids[2], elsewhere: elsewhere(program) },
            program: program.to_owned(),
        })
    }

    pub(super) fn site(&self) -> Site {
        self.site
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
        let set = engine.tables().access_sets.get(&SET).map_or(0, |set| set.flags);
        let [read, capability, execute] = [
            set & access_flags::FILES != 0,
            set & access_flags::CAPABILITIES != 0,
            engine.tables().access_sets.contains_key(&STILL_SET),
        ];
        attempts.extend(read.then_some("read"));
        attempts.extend(capability.then_some("capability"));
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
        if execute {
            let refused = match self.command(&self.folders[2], &[])?.spawn() {
                Err(error) => {
                    error.raw_os_error().map_or_else(|| error.to_string(), |number| number.to_string())
                }
                Ok(mut child) => child.wait().map_err(ProofError::Run)?.to_string(),
            };
            said.insert("execute".to_owned(), refused);
        }
        for ((hook, attempt), tried) in ACCESS.into_iter().zip([read, capability, execute]) {
            if !tried {
                continue;
            }
            if said.get(attempt) != Some(&eperm) {
                song.failures.push(format!("{attempt}: not refused ({:?})", said.get(attempt)));
            }
            song.tried.extend(engine.mechanisms().hooks.get(&hook).map(|mechanism| mechanism.name()));
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
