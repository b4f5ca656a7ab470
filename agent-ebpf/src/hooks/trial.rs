//! Does a mechanism do what it is for? Found out by its effect: a program is attached that knows one cgroup only, made
//! for the purpose, with maps of its own, and a child in that cgroup makes a call that they forbid.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use aya::maps::{HashMap, Map, MapData, MapError};
use aya::{EbpfLoader, Pod};
use holdfast_policy::syscalls::hooks::Hook;

use super::HookError;
use super::object::{Object, Programs};
use crate::abi::sys::bpf::{self, ProgramKind};
use crate::abi::sys::child::{self, Attempt, Call};
use crate::abi::{self, compare};
use crate::cgroups;
use crate::loader::Places;
use crate::mechanisms::{Mechanisms, State};

/// Entries that each map has room for.
const ROOM: u32 = 128;
/// Bytes of a ring buffer: a power of two, and no less than a page of any kernel.
const ROOM_FOR_RECORDS: u32 = 64 * 1024;
const SET: u32 = 1;
const WORKLOAD: u32 = 1;
const DENY: u8 = 2;
const KILL: u8 = 3;

/// A cgroup, maps and programs that nobody else uses; gone when dropped.
pub(super) struct Trial {
    cgroup: Folder,
    programs: Programs,
    calls: HashMap<MapData, abi::SyscallKey, abi::Syscall>,
    clauses: HashMap<MapData, abi::ClauseKey, abi::Clause>,
    #[cfg(test)]
    counters: aya::maps::PerCpuHashMap<MapData, abi::CounterKey, u64>,
}

/// A directory, removed when dropped.
struct Folder(PathBuf);

impl Folder {
    fn make(path: PathBuf) -> Result<Self, HookError> {
        match fs::create_dir(&path) {
            // Of an earlier process of this number, which did not get to its end.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            made => made.map_err(|source| HookError::Io { path: path.clone(), source })?,
        }
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir(&self.0) {
            tracing::warn!(path = %self.0.display(), %error, "cannot remove what a probe was made in");
        }
    }
}

/// What a trial found.
pub(super) enum Verdict {
    Works,
    No(String),
}

impl Trial {
    /// Makes everything that a trial needs.
    pub(super) fn prepare(places: &Places, bytes: &[u8], object: &Object) -> Result<Self, HookError> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("holdfast-probe-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let pins = places.bpffs.join(&name);
        let (programs, mut maps) = private_maps(&pins, bytes, object)?;
        // Below the agent's own cgroup: a container may move a process there only, and may not write to the tree's root.
        let own = cgroups::own(&places.cgroup_root).unwrap_or_default();
        let cgroup = Folder::make(places.cgroup_root.join(own.trim_start_matches('/')).join(&name))?;
        let id =
            fs::metadata(&cgroup.0).map_err(|source| HookError::Io { path: cgroup.0.clone(), source })?.ino();
        let workload = abi::Workload { sys_set: SET, pod: 1, ..abi::Workload::default() };
        typed::<u32, abi::Workload>(&mut maps, "workloads")?
            .insert(WORKLOAD, workload, 0)
            .map_err(HookError::Trial)?;
        typed::<u64, u32>(&mut maps, "cgroups")?.insert(id, WORKLOAD, 0).map_err(HookError::Trial)?;
        let calls = typed(&mut maps, "syscalls")?;
        let clauses = typed(&mut maps, "clauses")?;
        #[cfg(test)]
        let counters = match maps.take_map("counters") {
            Some(map) => aya::maps::PerCpuHashMap::try_from(map).map_err(HookError::Trial)?,
            None => return Err(HookError::Trial(MapError::InvalidName { name: "counters".to_owned() })),
        };
        Ok(Self {
            cgroup,
            programs,
            calls,
            clauses,
            #[cfg(test)]
            counters,
        })
    }

    /// A refusal in the hook that setpriority(2) passes, which takes no capability.
    pub(super) fn hook(&mut self, kind: ProgramKind, target: Option<u32>) -> State {
        let Some(target) = target else {
            return State::Unavailable("the kernel has nothing of the kind to attach to".to_owned());
        };
        let rule = abi::Syscall { hooks: Mechanisms::bit(Hook::TaskSetnice), clauses: 1, flags: 0 };
        let refused = |attempt| attempt == Attempt::Returned(libc::EPERM);
        state(self.tried("hf_task_setnice", kind, target, Call::BeNice, rule, DENY, refused))
    }

    /// A signal at the entry of a call.
    pub(super) fn sys_enter(&mut self, target: Option<u32>) -> State {
        let Some(target) = target else {
            return State::Unavailable("the kernel has no tracepoint there".to_owned());
        };
        let rule = abi::Syscall { hooks: 0, clauses: 1, flags: abi::SYSCALL_AT_ENTRY };
        let killed = |attempt| attempt == Attempt::Killed(libc::SIGKILL);
        let kind = ProgramKind::TracePoint;
        state(self.tried("hf_sys_enter", kind, target, Call::Getppid([0; 6]), rule, KILL, killed))
    }

    /// Makes the call without the program, and with it.
    #[expect(clippy::too_many_arguments, reason = "what is tried, and how its effect is told")]
    fn tried(
        &mut self,
        program: &str,
        kind: ProgramKind,
        target: u32,
        call: Call,
        rule: abi::Syscall,
        action: u8,
        took_effect: impl Fn(Attempt) -> bool,
    ) -> Result<Verdict, HookError> {
        let clause = abi::Clause {
            action,
            condition: [abi::Condition { accept: compare::ANY, ..abi::Condition::default() }; abi::ARGUMENTS],
            ..abi::Clause::default()
        };
        self.rule(call, rule, &[clause])?;
        if took_effect(self.attempt(call)?) {
            return Err(HookError::AlreadyRefused);
        }
        let link = match self.attach(program, kind, target)? {
            Ok(link) => link,
            Err(no) => return Ok(Verdict::No(no)),
        };
        let seen = self.attempt(call)?;
        drop(link);
        Ok(if took_effect(seen) {
            Verdict::Works
        } else {
            Verdict::No("programs load and attach, and are never called".to_owned())
        })
    }

    /// Attaches a program for as long as the link is held, or says why the kernel does not.
    pub(super) fn attach(
        &self,
        program: &str,
        kind: ProgramKind,
        target: u32,
    ) -> Result<Result<OwnedFd, String>, HookError> {
        let loaded = match self.programs.load(program, kind, target) {
            Ok(loaded) => loaded,
            Err(failure) if is_a_no(&failure.source) && failure.log.is_empty() => {
                return Ok(Err(format!("the kernel does not load such programs: {}", failure.source)));
            }
            Err(source) => return Err(HookError::Load { program: program.to_owned(), source }),
        };
        match bpf::attach(loaded.as_fd()) {
            Ok(link) => Ok(Ok(link)),
            Err(error) if is_a_no(&error) => {
                Ok(Err(format!("the kernel does not attach such programs: {error}")))
            }
            Err(source) => Err(HookError::Attach { program: program.to_owned(), source }),
        }
    }

    /// Makes these clauses the ones that judge a call.
    pub(super) fn rule(
        &mut self,
        call: Call,
        rule: abi::Syscall,
        clauses: &[abi::Clause],
    ) -> Result<(), HookError> {
        let nr = call.number();
        for (index, clause) in (0..).zip(clauses) {
            let key = abi::ClauseKey { set: SET, abi: 0, nr, index };
            self.clauses.insert(key, clause, 0).map_err(HookError::Trial)?;
        }
        self.calls.insert(abi::SyscallKey { set: SET, abi: 0, nr }, rule, 0).map_err(HookError::Trial)
    }

    /// Makes the call in the cgroup.
    pub(super) fn attempt(&self, call: Call) -> Result<Attempt, HookError> {
        let path = self.cgroup.0.join("cgroup.procs");
        let procs = File::options().write(true).open(&path);
        procs.and_then(|procs| child::attempt(procs, call)).map_err(|source| HookError::Io { path, source })
    }
}

#[cfg(test)]
impl Trial {
    /// What was counted since the last time: rule and `given`, each with how often.
    pub(super) fn take_counts(&mut self) -> std::collections::BTreeMap<(u16, u8), u64> {
        let rows: Vec<_> = self.counters.iter().map(Result::unwrap).collect();
        for (key, _) in &rows {
            self.counters.remove(key).unwrap();
        }
        rows.iter().map(|(key, counts)| ((key.rule, key.given), counts.iter().sum())).collect()
    }
}

/// Creates small maps for the object, and links it to them.
fn private_maps(pins: &Path, bytes: &[u8], object: &Object) -> Result<(Programs, aya::Ebpf), HookError> {
    let _folder = Folder::make(pins.to_owned())?;
    let small = [
        "cgroups",
        "workloads",
        "counters",
        "helper_errors",
        "processes",
        "syscalls",
        "clauses",
        "event_buckets",
        "event_told",
        "path_rows",
        "access_rows",
        "access_sets",
        "other_roots",
    ];
    let mut loader = EbpfLoader::new();
    // The programs come from `object`.
    loader.btf(None).default_map_pin_directory(pins);
    for name in small {
        loader.map_max_entries(name, ROOM);
    }
    for ring in ["denials", "audits"] {
        loader.map_max_entries(ring, ROOM_FOR_RECORDS);
    }
    let maps = loader.load(bytes).map_err(|source| HookError::Maps(Box::new(source)));
    let linked = maps.and_then(|maps| Ok((object.link(pins)?, maps)));
    // The descriptors hold the maps from here on.
    for entry in
        fs::read_dir(pins).map_err(|source| HookError::Io { path: pins.to_owned(), source })?.flatten()
    {
        let path = entry.path();
        fs::remove_file(&path).map_err(|source| HookError::Io { path, source })?;
    }
    linked
}

fn typed<K: Pod, V: Pod>(
    maps: &mut aya::Ebpf,
    name: &'static str,
) -> Result<HashMap<MapData, K, V>, HookError> {
    match maps.take_map(name) {
        Some(Map::HashMap(data)) => HashMap::try_from(Map::HashMap(data)).map_err(HookError::Trial),
        _ => Err(HookError::Trial(MapError::InvalidName { name: name.to_owned() })),
    }
}

/// Errors that say that there is no such mechanism, or not for us; all others are errors.
pub(super) fn is_a_no(error: &io::Error) -> bool {
    /// Inside the kernel only, and let out by some versions of it (include/linux/errno.h).
    const ENOTSUPP: i32 = 524;
    matches!(
        error.raw_os_error(),
        Some(
            libc::EPERM
                | libc::EINVAL
                | libc::ENOSYS
                | libc::EOPNOTSUPP
                | libc::ENOENT
                | libc::EBUSY
                | ENOTSUPP
        )
    )
}

fn state(found: Result<Verdict, HookError>) -> State {
    match found {
        Ok(Verdict::Works) => State::Available,
        Ok(Verdict::No(why)) => State::Unavailable(why),
        Err(error) => State::Error(error.to_string()),
    }
}
