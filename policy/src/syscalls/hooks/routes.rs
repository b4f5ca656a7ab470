//! The table of [`super::hooks`]: for each call its routes, with why they hold.
//!
//! Left out, as no hook is certain: `modify_ldt`, `sysfs`, `sgetmask`, `ssetmask` (none at all); `ustat`, `statfs`
//! and other pure reads; `seccomp`, `personality`, `arch_prctl`, `mlock` and their kin (at most an optional
//! capability); `read`, `write`, `send*`, `recv*` (`file_permission` and the socket hooks would do, at the price of
//! a program on every transfer); `io_uring_enter` and `io_uring_register` (nothing when they are entered); `mq_open`
//! (makes the queue before it opens it); the System V calls.

use super::{EACCES, ENOKEY, ENOMEM, EPERM, Hook, Route};

const fn by(hooks: &'static [Hook]) -> Route {
    Route::of(hooks)
}

/// `CLONE_NEWTIME`, `NEWNS`, `NEWCGROUP`, `NEWUTS`, `NEWIPC`, `NEWUSER`, `NEWPID` and `NEWNET` of include/uapi/linux/sched.h.
const CLONE_NEW: u64 = 0x7e02_0080;

/// Calls, and the routes that they share.
#[rustfmt::skip]
pub(super) static ROUTES: &[(&[&str], &[Route])] = &[
    // path_mount asks before it looks at the flags: new mounts, remounts, bind mounts and moves alike.
    (&["mount"], &[by(&[Hook::SbMount])]),
    // The first thing in do_umount. i386's umount is umount2 without flags.
    (&["umount", "umount2"], &[by(&[Hook::SbUmount])]),
    // path_pivot_root, right after both paths are found.
    (&["pivot_root"], &[by(&[Hook::SbPivotroot])]),
    // Each of these opens with may_mount, which is CAP_SYS_ADMIN over the mount namespace's user namespace.
    (&["fsopen", "fsmount", "fspick", "move_mount", "mount_setattr"], &[by(&[Hook::Capable])]),
    // Creating and reconfiguring a superblock ask for a capability; parameters are only noted in the context.
    (&["fsconfig"], &[by(&[Hook::Capable]).but("setting parameters, which act only when a superblock is made")]),
    // OPEN_TREE_CLONE opens with may_mount, and so does a change of attributes.
    (&["open_tree", "open_tree_attr"], &[
        by(&[Hook::Capable]).but("without OPEN_TREE_CLONE, which only opens the path as O_PATH does"),
    ]),
    // ns_capable(CAP_SYS_CHROOT), once the path is found.
    (&["chroot"], &[by(&[Hook::Capable])]),

    // may_init_module, and delete_module itself, ask for CAP_SYS_MODULE before all else. finit_module's
    // kernel_read_file would miss a file that another task is loading just now.
    (&["init_module", "finit_module", "delete_module"], &[by(&[Hook::Capable])]),

    // PTRACE_ATTACH and PTRACE_SEIZE through __ptrace_may_access; PTRACE_TRACEME has a hook of its own.
    (&["ptrace"], &[
        by(&[Hook::PtraceAccessCheck, Hook::PtraceTraceme])
            .but("requests to a task that the caller traces already; to get there passes the hooks"),
    ]),
    // mm_access and ptrace_may_access ask about every process but the caller's own.
    (&["process_vm_readv", "process_vm_writev", "kcmp"], &[
        by(&[Hook::PtraceAccessCheck]).but("of the caller's own process"),
    ]),
    (&["pidfd_getfd"], &[by(&[Hook::PtraceAccessCheck]).but("a descriptor of the caller's own process")]),
    // mm_access again, whose EACCES is not made an EPERM here.
    (&["process_madvise"], &[
        by(&[Hook::PtraceAccessCheck]).seen_as(&[EACCES]).but("of the caller's own memory"),
    ]),
    // After the attributes are copied, before a counter is looked for.
    (&["perf_event_open"], &[by(&[Hook::PerfEventOpen])]),
    // Until 6.6, and only for CAP_SYS_ADMIN.
    (&["lookup_dcookie"], &[by(&[Hook::Capable])]),

    // Gaining ports asks for CAP_SYS_RAWIO.
    (&["ioperm", "iopl"], &[by(&[Hook::Capable]).but("giving ports up")]),

    // CAP_SYS_BOOT over the PID namespace's user namespace, before the magic numbers are looked at.
    (&["reboot"], &[by(&[Hook::Capable])]),
    // CAP_SYS_BOOT, before the flags are looked at. Unloading reads no file, so kernel_read_file is not enough.
    (&["kexec_load", "kexec_file_load"], &[by(&[Hook::Capable])]),

    // CAP_SYS_ADMIN, before the path is read.
    (&["swapon", "swapoff"], &[by(&[Hook::Capable])]),

    // do_sys_settimeofday64 asks first, and so does i386's stime.
    (&["settimeofday", "stime"], &[by(&[Hook::Settime])]),
    // The same for CLOCK_REALTIME; the other fixed clocks cannot be set.
    (&["clock_settime", "clock_settime64"], &[
        by(&[Hook::Settime]).but("hardware clocks by a descriptor that is open for writing"),
    ]),
    // timekeeping_validate_timex asks for CAP_SYS_TIME whenever anything is to be changed.
    (&["adjtimex"], &[by(&[Hook::Capable]).but("reading")]),
    (&["clock_adjtime", "clock_adjtime64"], &[
        by(&[Hook::Capable]).but("reading, and hardware clocks by a descriptor that is open for writing"),
    ]),

    // chown_common, for all of them, before the change is announced.
    (&["chown", "chown32", "lchown", "lchown32", "fchown", "fchown32", "fchownat"], &[by(&[Hook::PathChown])]),
    // CAP_SYS_PACCT first.
    (&["acct"], &[by(&[Hook::Capable])]),
    // After the attributes are copied, before the command is looked at.
    (&["bpf"], &[by(&[Hook::Bpf])]),
    (&["capset"], &[by(&[Hook::Capset])]),
    // An unprivileged group needs no capability since 5.13, but every group is an open file.
    (&["fanotify_init"], &[by(&[Hook::FileAlloc])]),
    (&["fanotify_mark"], &[by(&[Hook::PathNotify]).but("removing all marks of a group")]),
    (&["inotify_add_watch"], &[by(&[Hook::PathNotify])]),
    // CAP_DAC_READ_SEARCH; what 6.11 allows without it asks for other capabilities, and each is refused.
    (&["open_by_handle_at"], &[by(&[Hook::Capable]).but("handles of processes, since 6.14, and of namespaces, since 6.18")]),
    // check_quotactl_permission ends in the hook for every command, and so does syncing all file systems.
    (&["quotactl", "quotactl_fd"], &[by(&[Hook::Quotactl])]),
    // CAP_SYS_ADMIN over the UTS namespace's user namespace, first.
    (&["sethostname", "setdomainname"], &[by(&[Hook::Capable])]),
    // Before commit_creds, whatever the capabilities.
    (&["setuid", "setuid32", "setreuid", "setreuid32"], &[by(&[Hook::TaskFixSetuid])]),
    (&["setgid", "setgid32", "setregid", "setregid32"], &[by(&[Hook::TaskFixSetgid])]),
    (&["setresuid", "setresuid32"], &[by(&[Hook::TaskFixSetuid]).but("what changes nothing")]),
    (&["setresgid", "setresgid32"], &[by(&[Hook::TaskFixSetgid]).but("what changes nothing")]),
    // These answer with the old number, come what may.
    (&["setfsuid", "setfsuid32"], &[by(&[Hook::TaskFixSetuid]).seen_as(&[]).but("what changes nothing")]),
    (&["setfsgid", "setfsgid32"], &[by(&[Hook::TaskFixSetgid]).seen_as(&[]).but("what changes nothing")]),
    // may_setgroups is CAP_SETGID, first.
    (&["setgroups", "setgroups32"], &[by(&[Hook::Capable])]),
    // CAP_SYS_TTY_CONFIG, else EPERM.
    (&["vhangup"], &[by(&[Hook::Capable])]),
    // check_syslog_permissions ends in the hook for every command of the call.
    (&["syslog"], &[by(&[Hook::Syslog])]),

    // The keyring to add to is looked up with a permission check. ENOKEY where the session's would be made first.
    (&["add_key"], &[by(&[Hook::KeyPermission]).seen_as(&[EPERM, ENOKEY])]),
    // Each keyring is searched with a permission check, and a refused one counts as one without the key. A key is
    // made before the upcall.
    (&["request_key"], &[by(&[Hook::KeyPermission, Hook::KeyAlloc]).seen_as(&[ENOKEY, EPERM])]),
    // Every operation looks its keys up with a permission check, or makes a keyring. ENOKEY for reading and where the
    // session's keyring would be made first; EACCES where a key that may not be searched for counts as another's.
    (&["keyctl"], &[
        by(&[Hook::KeyPermission, Hook::KeyAlloc])
            .seen_as(&[EPERM, ENOKEY, EACCES])
            .but("asking for features, choosing where keys go by default, and answering an upcall"),
    ]),

    // __sock_create, before the family's module is looked for.
    (&["socket", "socketpair"], &[by(&[Hook::SocketCreate])]),
    (&["bind"], &[by(&[Hook::SocketBind])]),
    (&["connect"], &[by(&[Hook::SocketConnect])]),
    (&["listen"], &[by(&[Hook::SocketListen])]),
    (&["accept", "accept4"], &[by(&[Hook::SocketAccept])]),

    // Once for each execution, after the file is opened and before anything of the caller is given up.
    (&["execve", "execveat"], &[by(&[Hook::BprmCredsForExec])]),
    // copy_process, before namespaces, files or memory are copied or shared. A user namespace that the new task
    // would own is made before and goes again with it.
    (&["clone", "clone3", "fork", "vfork"], &[by(&[Hook::TaskAlloc])]),
    // New namespaces ask for CAP_SYS_ADMIN, a new user namespace has its own hook. Before 6.1 the copy of the
    // credentials is the only place for the latter, and its failure is taken for a lack of memory.
    (&["unshare"], &[
        by(&[Hook::Capable, Hook::UsernsCreate])
            .but("parting with shared files, directories and semaphores only")
            .whole_with_any_of(0, CLONE_NEW),
        by(&[Hook::Capable, Hook::CredPrepare])
            .seen_as(&[EPERM, ENOMEM])
            .but("parting with shared files, directories and semaphores only")
            .whole_with_any_of(0, CLONE_NEW),
    ]),
    // The install function of every sort of namespace asks for CAP_SYS_ADMIN.
    (&["setns"], &[by(&[Hook::Capable])]),

    // path_openat makes the empty file before it looks at the path, so nothing is created or cut, and O_PATH is seen.
    (&["open", "openat", "openat2", "creat", "uselib"], &[by(&[Hook::FileAlloc])]),
    // do_unlinkat and do_rmdir, once the file is found. AT_REMOVEDIR makes unlinkat a rmdir.
    (&["unlink"], &[by(&[Hook::PathUnlink])]),
    (&["unlinkat"], &[by(&[Hook::PathUnlink, Hook::PathRmdir])]),
    (&["rmdir"], &[by(&[Hook::PathRmdir])]),
    (&["rename", "renameat", "renameat2"], &[by(&[Hook::PathRename])]),
    (&["mkdir", "mkdirat"], &[by(&[Hook::PathMkdir])]),
    (&["link", "linkat"], &[by(&[Hook::PathLink])]),
    (&["symlink", "symlinkat"], &[by(&[Hook::PathSymlink])]),
    (&["mknod", "mknodat"], &[by(&[Hook::PathMknod])]),
    // chmod_common, for all of them.
    (&["chmod", "fchmod", "fchmodat", "fchmodat2"], &[by(&[Hook::PathChmod])]),
    // vfs_truncate. A lease on the file is broken before.
    (&["truncate", "truncate64"], &[by(&[Hook::PathTruncate])]),
    // The hook for open files came in 6.2, and since then the other is not passed.
    (&["ftruncate", "ftruncate64"], &[by(&[Hook::FileTruncate]).since(6, 2), by(&[Hook::PathTruncate])]),
    // Access control lists went their own way in 6.2.
    (&["setxattr", "lsetxattr", "fsetxattr", "setxattrat"], &[
        by(&[Hook::InodeSetxattr, Hook::InodeSetAcl]).since(6, 2),
        by(&[Hook::InodeSetxattr]),
    ]),

    // check_kill_permission, for each process. kill(-1) answers 0 when all were refused.
    (&["kill", "tkill", "tgkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo", "pidfd_send_signal"], &[
        by(&[Hook::TaskKill]).but("a queued signal to oneself that claims to come from the kernel"),
    ]),

    // vm_mmap_pgoff, with and without a file.
    (&["mmap", "mmap2"], &[by(&[Hook::MmapFile])]),
    // Before the first mapping is changed.
    (&["mprotect", "pkey_mprotect"], &[by(&[Hook::FileMprotect])]),
    (&["prctl"], &[by(&[Hook::TaskPrctl])]),
    (&["setpriority", "nice"], &[by(&[Hook::TaskSetnice])]),
    (&["sched_setscheduler", "sched_setparam", "sched_setattr", "sched_setaffinity"], &[
        by(&[Hook::TaskSetscheduler]),
    ]),
    (&["setrlimit"], &[by(&[Hook::TaskSetrlimit])]),
    (&["prlimit64"], &[by(&[Hook::TaskSetrlimit]).but("reading")]),
    // The first thing after the descriptor is found.
    (&["ioctl"], &[by(&[Hook::FileIoctl, Hook::FileIoctlCompat]), by(&[Hook::FileIoctl])]),
    (&["fcntl", "fcntl64"], &[by(&[Hook::FileFcntl])]),

    // The ring is in place but unknown to the caller when its file is asked for, and goes with it. The secure file
    // came to io_uring in 5.16, later than the hook.
    (&["io_uring_setup"], &[
        by(&[Hook::UringAllowed]).since(6, 15),
        by(&[Hook::InodeInitSecurityAnon]).since(5, 16),
        by(&[Hook::FileAlloc]),
    ]),
    (&["userfaultfd"], &[by(&[Hook::InodeInitSecurityAnon]).since(5, 12), by(&[Hook::FileAlloc])]),
    // Nothing but a new file comes of these.
    (&[
        "memfd_create", "memfd_secret", "eventfd", "eventfd2", "epoll_create", "epoll_create1", "timerfd_create",
        "inotify_init", "inotify_init1", "pidfd_open", "pipe", "pipe2", "landlock_create_ruleset",
    ], &[by(&[Hook::FileAlloc])]),
    // With a descriptor of its own it only changes that one's mask.
    (&["signalfd", "signalfd4"], &[by(&[Hook::FileAlloc]).but("a new mask for an open signalfd")]),
];

/// Calls that no 64-bit kernel since 5.10 carries.
#[rustfmt::skip]
pub(super) static GONE: &[&str] = &[
    "_sysctl", "afs_syscall", "break", "create_module", "epoll_ctl_old", "epoll_wait_old", "ftime",
    "get_kernel_syms", "getpmsg", "gtty", "idle", "lock", "mpx", "nfsservctl", "prof", "profil", "putpmsg",
    "query_module", "security", "stty", "tuxcall", "ulimit", "vm86", "vm86old", "vserver",
];
