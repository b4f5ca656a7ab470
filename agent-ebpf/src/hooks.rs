//! The mechanisms that refuse system calls: which of them this kernel has, found out by their effect, and the programs on
//! them, attached while some workload needs them.
//!
//! Each hook has one program. Where BPF programs among the security modules are called it is one of those; else it
//! modifies the return of the function that calls the hook. A hook costs every process of the node that passes it, so
//! only those are attached that some rule on this node needs. Links are pinned: the agent's end detaches nothing, and
//! the next agent puts its own in their place before it lets go of them.

mod object;
mod targets;
#[cfg(test)]
mod tests;
mod trial;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use aya::Btf;
use holdfast_policy::syscalls::hooks::Hook;

use crate::abi::sys::bpf::{self, LoadFailure, ProgramKind};
use crate::loader::{self, LoadError, Places, objects};
use crate::mechanisms::{Mechanism, Mechanisms, State};
use crate::sockets;
use object::{Object, Programs};
use targets::Targets;
use trial::Trial;

/// Why a mechanism could not be probed, attached or detached.
#[derive(Debug, thiserror::Error)]
pub enum HookError {
    /// The object of programs cannot be used.
    #[error("kernel programs syscall: {0}")]
    Object(String),
    /// Its type information was refused.
    #[error("kernel programs syscall: their BTF was refused: {0}")]
    Types(#[source] io::Error),
    /// The kernel's type information cannot be read.
    #[error("/sys/kernel/btf/vmlinux holds no BTF, or of a later version than this agent knows")]
    KernelTypes,
    /// There is no BPF file system.
    #[error(transparent)]
    BpfFs(Box<LoadError>),
    /// A pinned map cannot be opened.
    #[error("{path}: {source}")]
    Map {
        /// The pin.
        path: PathBuf,
        /// Why.
        source: aya::maps::MapError,
    },
    /// Maps for a probe cannot be made.
    #[error("maps for a probe: {0}")]
    Maps(#[source] Box<aya::EbpfError>),
    /// Maps of a probe cannot be written.
    #[error("maps of a probe: {0}")]
    Trial(#[source] aya::maps::MapError),
    /// The call that a probe makes is refused already, by somebody else.
    #[error("the call that the probe makes is refused by something else on this machine")]
    AlreadyRefused,
    /// A program was refused.
    #[error("kernel program {program}: {source}")]
    Load {
        /// Which.
        program: String,
        /// Why.
        source: LoadFailure,
    },
    /// A program that was loaded cannot be attached.
    #[error("attaching kernel program {program}: {source}")]
    Attach {
        /// Which.
        program: String,
        /// Why.
        source: io::Error,
    },
    /// A mechanism is asked for that this kernel does not have.
    #[error("there is no way to attach {0} on this kernel")]
    NotThere(String),
    /// A file or directory.
    #[error("{path}: {source}")]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// What can be attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Place {
    Hook(Hook),
    SysEnter,
}

impl Place {
    /// The name of the program and of the pin of its link.
    fn name(self) -> String {
        match self {
            Self::Hook(hook) => format!("hf_{}", hook.lsm_name()),
            Self::SysEnter => "hf_sys_enter".to_owned(),
        }
    }

    fn all() -> impl Iterator<Item = Self> {
        Hook::ALL.iter().copied().map(Self::Hook).chain([Self::SysEnter])
    }

    /// The places of a set of hooks by their bits.
    fn of(hooks: u64, sys_enter: bool) -> BTreeSet<Self> {
        Self::all()
            .filter(|place| match place {
                Self::Hook(hook) => hooks & Mechanisms::bit(*hook) != 0,
                Self::SysEnter => sys_enter,
            })
            .collect()
    }
}

/// The programs: linked to the pinned maps when they are first needed, and what they were linked from is forgotten then.
enum Source {
    Unlinked(Box<Object>),
    Linked(Programs),
}

impl Source {
    fn linked(&mut self, pins: &Path) -> Result<&Programs, HookError> {
        if let Self::Unlinked(object) = self {
            *self = Self::Linked(object.link(pins)?);
        }
        match self {
            Self::Linked(programs) => Ok(programs),
            Self::Unlinked(_) => Err(HookError::Object("it is not linked".to_owned())),
        }
    }
}

/// All mechanisms of this node.
pub struct Hooks {
    mechanisms: Mechanisms,
    targets: Targets,
    programs: Source,
    /// What this agent attached.
    attached: BTreeSet<Place>,
    /// What this agent loaded once: the verifier takes longer over a program than all else that a policy asks for, and
    /// policies come and go. A program that is loaded and not attached costs nobody time.
    loaded: BTreeMap<Place, OwnedFd>,
    pins: PathBuf,
    links: PathBuf,
}

impl Hooks {
    /// Finds out what the kernel can refuse. Attaches nothing that stays, and needs none of the pinned maps.
    ///
    /// A mechanism that could not be probed is [`State::Error`] and not used.
    ///
    /// # Errors
    ///
    /// When no mechanism could be probed: the kernel's types, or the programs, cannot be read.
    pub fn probe(places: &Places, btf: &Btf) -> Result<Self, HookError> {
        loader::mount_bpffs(&places.bpffs).map_err(|source| HookError::BpfFs(Box::new(source)))?;
        let targets = Targets::of_this_kernel()?;
        let bytes = if targets.has_loop { objects::SYSCALL } else { objects::SYSCALL_OLD };
        let object = Object::read(bytes, btf, targets.cast.zip(targets.mount))?;
        let mut trial = Trial::prepare(places, bytes, &object)?;
        let lsm = trial.hook(ProgramKind::Lsm, targets.lsm.get(&Hook::TaskSetnice).copied());
        let fmod_ret =
            trial.hook(ProgramKind::ModifyReturn, targets.functions.get(&Hook::TaskSetnice).copied());
        let sys_enter = trial.sys_enter(targets.sys_enter);
        drop(trial);
        let mut found = mechanisms(&targets, lsm, fmod_ret, sys_enter);
        found.states.insert(sockets::MECHANISM, sockets::probe(places, btf));
        Ok(Self {
            mechanisms: found,
            targets,
            programs: Source::Unlinked(Box::new(object)),
            attached: BTreeSet::new(),
            loaded: BTreeMap::new(),
            pins: places.pins(),
            links: places.links(),
        })
    }

    /// What the kernel can refuse.
    #[must_use]
    pub fn mechanisms(&self) -> &Mechanisms {
        &self.mechanisms
    }

    /// Attaches what is needed and was not attached by this agent. What an earlier one left is replaced.
    ///
    /// # Errors
    ///
    /// When the kernel refuses; what was attached before that stays attached. A hook that it refuses for good is no
    /// longer among [`Self::mechanisms`], so that rules can be lowered again without it.
    pub fn ensure(&mut self, hooks: u64, sys_enter: bool) -> Result<(), HookError> {
        for place in Place::of(hooks, sys_enter) {
            if self.attached.contains(&place) {
                continue;
            }
            if let Err(error) = self.attach(place) {
                self.lose(place, &error);
                return Err(error);
            }
            self.attached.insert(place);
        }
        Ok(())
    }

    fn lose(&mut self, place: Place, error: &HookError) {
        let for_good = match error {
            HookError::Load { source, .. } => trial::is_a_no(&source.source) || !source.log.is_empty(),
            HookError::Attach { source, .. } => trial::is_a_no(source),
            _ => false,
        };
        if !for_good {
            return;
        }
        match place {
            Place::Hook(hook) => drop(self.mechanisms.hooks.remove(&hook)),
            Place::SysEnter => self.mechanisms.no_sys_enter = Some(error.to_string()),
        }
    }

    /// Detaches what nobody needs any more, an earlier agent's too; but that stays while it is not sure that this agent
    /// can do the same.
    ///
    /// # Errors
    ///
    /// When the pin of a link cannot be removed.
    pub fn release(&mut self, hooks: u64, sys_enter: bool) -> Result<(), HookError> {
        let needed = Place::of(hooks, sys_enter);
        let unsure = self.mechanisms.states.values().any(|state| matches!(state, State::Error(_)));
        for place in Place::all().filter(|place| !needed.contains(place)) {
            if unsure && !self.attached.contains(&place) {
                continue;
            }
            remove(&self.links.join(place.name()))?;
            self.attached.remove(&place);
        }
        Ok(())
    }

    /// The names of what this agent attached.
    pub fn attached(&self) -> impl Iterator<Item = String> {
        self.attached.iter().map(|place| place.name())
    }

    /// Attaches one of them again, in place of a link that is broken. `false`: there is none of this name.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn attach_again(&mut self, name: &str) -> Result<bool, HookError> {
        let place = self.attached.iter().copied().find(|place| place.name() == name);
        place.map_or(Ok(false), |place| self.attach(place).map(|()| true))
    }

    fn attach(&mut self, place: Place) -> Result<(), HookError> {
        let name = place.name();
        let link = self.link(place)?;
        let (path, new) = (self.links.join(&name), self.links.join(format!("{name}-new")));
        remove(&new)?;
        bpf::pin(link.as_fd(), &new).map_err(|source| HookError::Io { path: new.clone(), source })?;
        // Lets go of the earlier agent's link, now that ours is there.
        fs::rename(&new, &path).map_err(|source| HookError::Io { path, source })
    }

    /// A new link of the program of a place.
    fn link(&mut self, place: Place) -> Result<OwnedFd, HookError> {
        let name = place.name();
        // Kernels before 5.13 attach an LSM or `fmod_ret` program only once, so that a refusal here says nothing.
        if let Some(link) = self.loaded.get(&place).and_then(|loaded| bpf::attach(loaded.as_fd()).ok()) {
            return Ok(link);
        }
        let (kind, target) = self.kind(place).ok_or_else(|| HookError::NotThere(name.clone()))?;
        let loaded = self
            .programs
            .linked(&self.pins)?
            .load(&name, kind, target)
            .map_err(|source| HookError::Load { program: name.clone(), source })?;
        let link =
            bpf::attach(loaded.as_fd()).map_err(|source| HookError::Attach { program: name, source })?;
        self.loaded.insert(place, loaded);
        Ok(link)
    }

    fn kind(&self, place: Place) -> Option<(ProgramKind, u32)> {
        let Place::Hook(hook) = place else {
            return Some((ProgramKind::TracePoint, self.targets.sys_enter?));
        };
        match self.mechanisms.hooks.get(&hook)? {
            Mechanism::Lsm => Some((ProgramKind::Lsm, *self.targets.lsm.get(&hook)?)),
            Mechanism::FmodRet => Some((ProgramKind::ModifyReturn, *self.targets.functions.get(&hook)?)),
            Mechanism::SysEnter => None,
        }
    }
}

fn remove(path: &Path) -> Result<(), HookError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done.map_err(|source| HookError::Io { path: path.to_owned(), source }),
    }
}

/// Gives each hook the best mechanism that works and that the kernel has for it.
fn mechanisms(targets: &Targets, lsm: State, fmod_ret: State, sys_enter: State) -> Mechanisms {
    let mut found = Mechanisms { kernel: kernel_version(), ..Mechanisms::default() };
    for hook in Hook::ALL.iter().copied() {
        if lsm == State::Available && targets.lsm.contains_key(&hook) {
            found.hooks.insert(hook, Mechanism::Lsm);
        } else if fmod_ret == State::Available && targets.functions.contains_key(&hook) {
            found.hooks.insert(hook, Mechanism::FmodRet);
        }
    }
    let why = |state: &State| match state {
        State::Available => None,
        State::Unavailable(why) | State::Error(why) => Some(why.clone()),
    };
    if found.hooks.is_empty()
        && let (Some(lsm), Some(fmod_ret)) = (why(&lsm), why(&fmod_ret))
    {
        found.no_hooks =
            Some(format!("{}: {lsm}; {}: {fmod_ret}", Mechanism::Lsm.name(), Mechanism::FmodRet.name()));
    }
    found.no_sys_enter = why(&sys_enter);
    for (mechanism, state) in
        [(Mechanism::Lsm, lsm), (Mechanism::FmodRet, fmod_ret), (Mechanism::SysEnter, sys_enter)]
    {
        found.states.insert(mechanism.name(), state);
    }
    found
}

/// Major and minor version of the running kernel.
fn kernel_version() -> (u16, u16) {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}
