//! Which hook of the kernel's security modules a system call always passes before it has any effect.
//!
//! A program on such a hook sees the call's number and arguments in the task's registers, and its error makes the
//! call fail: that is what a Deny needs. The table names for each call the hooks that are enough, or none where no
//! hook is certain: then a Deny cannot be given, and saying so is better than hoping.
//!
//! What holds for every entry, and what a program on a hook has to respect:
//! * It may refuse a call only in the hooks of the route that was chosen for that call. The same call can pass other
//!   hooks when its effect has begun already.
//! * A call that fails for another reason first (a wrong flag, a missing file, a lacking capability) never reaches
//!   the hook. It had no effect, and its caller sees that other error.
//! * A hook may be reached several times in one call: [`Hook::Capable`] in `setns`, [`Hook::TaskKill`] for each
//!   process signalled, [`Hook::SocketCreate`] in `socketpair`, [`Hook::FileMprotect`] for each mapping. The first
//!   refusal ends the call (`kill(-1)` goes on to the next process), but what is only counted is counted each time.
//! * `capability` comes before `bpf` among the security modules, so with LSM programs a caller without the
//!   capability gets its EPERM before the program runs; with `fmod_ret` the program runs first.
//! * Threads of `io_uring` and of the kernel carry no call of their own in their registers.
//!
//! Sources: Linux 6.1 and 6.12, read call by call. All hooks but [`Hook::FileTruncate`], [`Hook::InodeSetAcl`] and
//! [`Hook::UringAllowed`] are in the BTF of Debian's 6.1; all but the last are in that of its 6.12.

mod routes;

use std::{collections::HashMap, sync::LazyLock};

use crate::compile::Condition;
use crate::model::ArgOp;

/// The caller sees that the operation is not permitted.
pub const EPERM: i32 = 1;
/// The caller sees that there is no memory.
pub const ENOMEM: i32 = 12;
/// The caller sees that the access is denied.
pub const EACCES: i32 = 13;
/// The caller sees that there is no such key.
pub const ENOKEY: i32 = 126;

/// Hooks that together are passed by every form of a call that matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// All of them are needed. Each form of the call passes at least one of them before it has any effect.
    pub hooks: &'static [Hook],
    /// The first kernel, major and minor, where the call passes them. The hook itself may be older.
    pub since: (u16, u16),
    /// The errnos that the caller may see when a hook refuses with EPERM, the usual one first. None for a call that
    /// reports no failure and simply does nothing.
    pub errnos: &'static [i32],
    /// Forms of the call that pass no hook and go ahead. None of them has an effect that a rule against the call is
    /// there to prevent; but a rule with conditions on arguments may mean just such a form, and is then not
    /// enforced by this route.
    pub gap: Option<&'static str>,
    /// Forms of the call that are in no gap: those with any of these bits in this argument.
    pub whole: Option<(u8, u64)>,
}

impl Route {
    const fn of(hooks: &'static [Hook]) -> Self {
        Self { hooks, since: (5, 10), errnos: &[EPERM], gap: None, whole: None }
    }

    const fn since(mut self, major: u16, minor: u16) -> Self {
        self.since = (major, minor);
        self
    }

    const fn seen_as(mut self, errnos: &'static [i32]) -> Self {
        self.errnos = errnos;
        self
    }

    const fn but(mut self, gap: &'static str) -> Self {
        self.gap = Some(gap);
        self
    }

    const fn whole_with_any_of(mut self, argument: u8, bits: u64) -> Self {
        self.whole = Some((argument, bits));
        self
    }

    /// Whether every call that a rule with these conditions means passes the hooks.
    #[must_use]
    pub fn covers(&self, conditions: &[Condition]) -> bool {
        let has_any = |condition: &Condition, (argument, bits): (u8, u64)| {
            let asked = match condition.op {
                ArgOp::Equal => condition.value,
                ArgOp::MaskedEqual { mask } => condition.value & mask,
                _ => 0,
            };
            condition.register == argument && asked & bits != 0
        };
        let whole = |whole| conditions.iter().any(|condition| has_any(condition, whole));
        self.gap.is_none() || conditions.is_empty() || self.whole.is_some_and(whole)
    }
}

/// The ways to refuse a call, best first; empty where there is none. [`route`] picks a node's.
#[must_use]
pub fn hooks(name: &str) -> &'static [Route] {
    static INDEX: LazyLock<HashMap<&str, &[Route]>> = LazyLock::new(|| {
        routes::ROUTES.iter().flat_map(|(names, routes)| names.iter().map(|name| (*name, *routes))).collect()
    });
    INDEX.get(name).copied().unwrap_or_default()
}

/// The way to refuse a call on one kernel, given its version (major, minor) and which hooks it has.
///
/// A hook that is there but to which nothing can be attached counts as had: a later route may hold only for kernels
/// without it (`ftruncate` stopped passing `path_truncate` when `file_truncate` came), and taking that one would
/// refuse nothing. The call has no route then.
#[must_use]
pub fn route(name: &str, kernel: (u16, u16), has: impl Fn(Hook) -> bool) -> Option<&'static Route> {
    hooks(name).iter().find(|route| route.since <= kernel && route.hooks.iter().all(|hook| has(*hook)))
}

/// Every call of the table, in its order.
#[cfg(test)]
pub(super) fn listed() -> impl Iterator<Item = &'static str> {
    routes::ROUTES.iter().flat_map(|(names, _)| names.iter().copied())
}

/// Whether no 64-bit kernel since 5.10 carries the call: it always fails with ENOSYS, so there is nothing to refuse.
#[must_use]
pub fn is_gone(name: &str) -> bool {
    routes::GONE.contains(&name)
}

macro_rules! hooks {
    ($($(#[$doc:meta])* $variant:ident $lsm:literal $function:literal),* $(,)?) => {
        /// A hook of the kernel's security modules.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Hook {
            $($(#[$doc])* $variant,)*
        }

        impl Hook {
            /// Every hook.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// The name that an LSM program attaches to; the kernel's BTF has it as the function `bpf_lsm_NAME`.
            #[must_use]
            pub const fn lsm_name(self) -> &'static str {
                match self {
                    $(Self::$variant => $lsm,)*
                }
            }

            /// The kernel function that calls the hook: what an `fmod_ret` program attaches to.
            #[must_use]
            pub const fn security_fn(self) -> &'static str {
                match self {
                    $(Self::$variant => $function,)*
                }
            }
        }
    };
}

hooks! {
    /// `mount`, at its start.
    SbMount "sb_mount" "security_sb_mount",
    /// `umount`, once the mount is found.
    SbUmount "sb_umount" "security_sb_umount",
    /// `pivot_root`, once both paths are found.
    SbPivotroot "sb_pivotroot" "security_sb_pivotroot",
    /// Any use of a capability. Often passed.
    Capable "capable" "security_capable",
    /// Looking into another process. Also passed by reads in `/proc`.
    PtraceAccessCheck "ptrace_access_check" "security_ptrace_access_check",
    /// Offering oneself to be traced by one's parent.
    PtraceTraceme "ptrace_traceme" "security_ptrace_traceme",
    /// `perf_event_open`, once its attributes are read.
    PerfEventOpen "perf_event_open" "security_perf_event_open",
    /// Setting the real-time clock or the time zone.
    Settime "settime" "security_settime64",
    /// `bpf`, once its attributes are read.
    Bpf "bpf" "security_bpf",
    /// `capset`, before the new capabilities are in force.
    Capset "capset" "security_capset",
    /// Every command of `quotactl`.
    Quotactl "quotactl" "security_quotactl",
    /// Before new user numbers are in force.
    TaskFixSetuid "task_fix_setuid" "security_task_fix_setuid",
    /// Before new group numbers are in force.
    TaskFixSetgid "task_fix_setgid" "security_task_fix_setgid",
    /// Any use of a key by its number.
    KeyPermission "key_permission" "security_key_permission",
    /// A new key or keyring.
    KeyAlloc "key_alloc" "security_key_alloc",
    /// A new socket.
    SocketCreate "socket_create" "security_socket_create",
    /// `bind`.
    SocketBind "socket_bind" "security_socket_bind",
    /// `connect`.
    SocketConnect "socket_connect" "security_socket_connect",
    /// `listen`.
    SocketListen "socket_listen" "security_socket_listen",
    /// `accept`, before it waits.
    SocketAccept "socket_accept" "security_socket_accept",
    /// Execution of a program, once its file is open.
    BprmCredsForExec "bprm_creds_for_exec" "security_bprm_creds_for_exec",
    /// A new open file of any sort, before a path is looked up. Often passed.
    FileAlloc "file_alloc_security" "security_file_alloc",
    /// Removal of a file.
    PathUnlink "path_unlink" "security_path_unlink",
    /// Removal of a directory.
    PathRmdir "path_rmdir" "security_path_rmdir",
    /// Renaming.
    PathRename "path_rename" "security_path_rename",
    /// A new directory.
    PathMkdir "path_mkdir" "security_path_mkdir",
    /// A new hard link.
    PathLink "path_link" "security_path_link",
    /// A new symbolic link.
    PathSymlink "path_symlink" "security_path_symlink",
    /// A new file, device, pipe or socket in a directory.
    PathMknod "path_mknod" "security_path_mknod",
    /// A new mode for a file.
    PathChmod "path_chmod" "security_path_chmod",
    /// A new owner for a file.
    PathChown "path_chown" "security_path_chown",
    /// A new length for a file named by its path; before 6.2 for an open one too.
    PathTruncate "path_truncate" "security_path_truncate",
    /// A new length for an open file. Since 6.2.
    FileTruncate "file_truncate" "security_file_truncate",
    /// A new value for an extended attribute.
    InodeSetxattr "inode_setxattr" "security_inode_setxattr",
    /// A new access control list. Since 6.2; before, it was an extended attribute like others.
    InodeSetAcl "inode_set_acl" "security_inode_set_acl",
    /// A signal, for each process that would get it.
    TaskKill "task_kill" "security_task_kill",
    /// A new user namespace. Since 6.1.
    UsernsCreate "userns_create" "security_create_user_ns",
    /// A copy of credentials to be changed. Often passed.
    CredPrepare "cred_prepare" "security_prepare_creds",
    /// A new task, before it has namespaces of its own. Often passed.
    TaskAlloc "task_alloc" "security_task_alloc",
    /// A new mapping, of a file or of none. Often passed.
    MmapFile "mmap_file" "security_mmap_file",
    /// A new protection, for each mapping it concerns. Often passed.
    FileMprotect "file_mprotect" "security_file_mprotect",
    /// `prctl`, at its start. The hook's neutral answer is -ENOSYS, so 0 would end the call as a success: a program
    /// has to leave the answer alone rather than give 0 in its place. A program's own 0 does leave it alone.
    TaskPrctl "task_prctl" "security_task_prctl",
    /// A new nice value.
    TaskSetnice "task_setnice" "security_task_setnice",
    /// A new scheduling policy or set of CPUs.
    TaskSetscheduler "task_setscheduler" "security_task_setscheduler",
    /// A new resource limit.
    TaskSetrlimit "task_setrlimit" "security_task_setrlimit",
    /// `ioctl`, at its start. Often passed.
    FileIoctl "file_ioctl" "security_file_ioctl",
    /// `ioctl` of a 32-bit program, where the kernel has it apart. Since 6.8, and in later updates of 6.1 and 6.6.
    FileIoctlCompat "file_ioctl_compat" "security_file_ioctl_compat",
    /// `fcntl`. Often passed.
    FileFcntl "file_fcntl" "security_file_fcntl",
    /// Reading or clearing the kernel's log, or its level on the console.
    Syslog "syslog" "security_syslog",
    /// An anonymous file that security modules are asked about. Since 5.12.
    InodeInitSecurityAnon "inode_init_security_anon" "security_inode_init_security_anon",
    /// `io_uring_setup`, at its start. Since 6.15.
    UringAllowed "uring_allowed" "security_uring_allowed",
    /// Watching a path.
    PathNotify "path_notify" "security_path_notify",
    /// The opening of a file that was found, whichever call asks for it.
    FileOpen "file_open" "security_file_open",
    /// A file that another process hands over in a message.
    FileReceive "file_receive" "security_file_receive",
    /// A program about to be executed, and each interpreter of it.
    BprmCheckSecurity "bprm_check_security" "security_bprm_check",
    /// `move_mount`: where a mount is put that was made elsewhere.
    MoveMount "move_mount" "security_move_mount",
    /// Connecting to a UNIX socket that listens.
    UnixStreamConnect "unix_stream_connect" "security_unix_stream_connect",
    /// Sending to a UNIX socket without a connection, or naming it as the one to send to.
    UnixMaySend "unix_may_send" "security_unix_may_send",
}

/// The hooks that rules on processes are decided in: an executable is executed, or mapped by a dynamic loader.
pub const OF_PROCESSES: &[Hook] = &[Hook::BprmCheckSecurity, Hook::MmapFile, Hook::FileMprotect];

/// The hooks that rules on files are decided in.
pub const OF_FILES: &[Hook] = &[
    Hook::FileOpen,
    Hook::FileReceive,
    Hook::FileTruncate,
    Hook::PathTruncate,
    Hook::PathMknod,
    Hook::PathMkdir,
    Hook::PathSymlink,
    Hook::PathUnlink,
    Hook::PathRmdir,
    Hook::PathRename,
    Hook::PathLink,
    Hook::PathChmod,
    Hook::PathChown,
    Hook::MmapFile,
    Hook::FileMprotect,
    Hook::UnixStreamConnect,
    Hook::UnixMaySend,
];

/// The hooks that are passed where something is mounted: what is mounted elsewhere has another path there.
pub const OF_MOUNTS: &[Hook] = &[Hook::SbMount, Hook::MoveMount, Hook::SbPivotroot];

/// The hook that rules on capabilities are decided in.
pub const OF_CAPABILITIES: &[Hook] = &[Hook::Capable];

impl Hook {
    /// Whether rules on system calls may be decided in it: the programs of the others do not look for such rules.
    #[must_use]
    pub const fn is_of_calls(self) -> bool {
        (self as u32) < Self::FileOpen as u32
    }

    /// Whether ordinary work passes the hook so often that a program on it is felt: better attached only while a
    /// rule needs it.
    #[must_use]
    pub const fn is_busy(self) -> bool {
        matches!(
            self,
            Self::Capable
                | Self::FileAlloc
                | Self::FileOpen
                | Self::CredPrepare
                | Self::TaskAlloc
                | Self::MmapFile
                | Self::FileMprotect
                | Self::FileIoctl
                | Self::FileFcntl
        )
    }
}
