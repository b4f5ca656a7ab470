//! The halves of a policy about processes, files and capabilities.

use std::collections::BTreeSet;
use std::fmt;

use super::Action;
use crate::paths::Pattern;

/// The process rules of a policy: which executables a workload may start.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Processes {
    /// What no rule matches.
    pub default: ProcessDefault,
    /// The first that matches decides.
    pub rules: Vec<ProcessRule>,
}

/// What becomes of an executable that no rule matches.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ProcessDefault {
    /// It may be started.
    #[default]
    Allow,
    /// It may not: the rules are an allow-list.
    Deny,
}

/// One process rule.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ProcessRule {
    /// Which executables.
    pub executables: Executables,
    /// The answer.
    pub action: Action,
}

/// Which executables a process rule speaks of.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Executables {
    /// Those at these paths. A script is asked about twice: as itself, and as its interpreter.
    Paths(Vec<Pattern>),
    /// Those that were not in the container's image: written later, on a volume, or without a name (memfd).
    NotInImage,
}

/// The file rules of a policy.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Files {
    /// For each operation, the first that matches decides. What no rule matches is allowed.
    pub rules: Vec<FileRule>,
}

/// One file rule.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct FileRule {
    /// Which files and directories.
    pub paths: Vec<Pattern>,
    /// Which operations.
    pub operations: BTreeSet<Operation>,
    /// The answer.
    pub action: Action,
    /// The executables that the rule does not speak to, by the path of the program that the process runs.
    pub unless: Vec<Pattern>,
}

/// What is done to a file or directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Operation {
    /// Open for reading, or be handed it open for reading.
    Read,
    /// Open for writing, truncate, or be handed it open for writing.
    Write,
    /// Make a file, directory, symbolic link, device, socket or pipe of this name.
    Create,
    /// Remove this name.
    Delete,
    /// Rename from or to this name.
    Rename,
    /// Make a hard link from or to this name.
    Link,
    /// Change its permissions or its owner.
    Chmod,
    /// Map it to memory as code, as the dynamic loader does with libraries.
    ExecuteMap,
}

impl Operation {
    /// All of them, in their order.
    pub const ALL: [Self; 8] = [
        Self::Read,
        Self::Write,
        Self::Create,
        Self::Delete,
        Self::Rename,
        Self::Link,
        Self::Chmod,
        Self::ExecuteMap,
    ];

    /// Its name, as policies write it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Read => "Read",
            Self::Write => "Write",
            Self::Create => "Create",
            Self::Delete => "Delete",
            Self::Rename => "Rename",
            Self::Link => "Link",
            Self::Chmod => "Chmod",
            Self::ExecuteMap => "ExecuteMap",
        }
    }

    /// Its place in [`ALL`](Self::ALL).
    #[must_use]
    pub fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The capability rules of a policy.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Capabilities {
    /// The capabilities whose use is refused.
    pub deny: BTreeSet<Capability>,
}

/// A capability, by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Capability(u8);

/// The names of capabilities without `CAP_`, by number (include/uapi/linux/capability.h, 6.18).
const CAPABILITIES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

impl Capability {
    /// The capability of this name, without `CAP_`, as pods name it.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        CAPABILITIES.iter().position(|known| *known == name).and_then(|at| u8::try_from(at).ok()).map(Self)
    }

    /// The capability of this number.
    #[must_use]
    pub fn numbered(number: u8) -> Option<Self> {
        (usize::from(number) < CAPABILITIES.len()).then_some(Self(number))
    }

    /// All that are known, in the order of their numbers.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..=u8::MAX).map_while(Self::numbered)
    }

    /// Its number.
    #[must_use]
    pub fn number(self) -> u8 {
        self.0
    }

    /// Its name without `CAP_`.
    #[must_use]
    pub fn name(self) -> &'static str {
        CAPABILITIES[usize::from(self.0)]
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
