//! The groups of system calls, under the names that systemd gave them.
//!
//! Who belongs where was read from `systemd-analyze syscall-filter` of systemd 257. Names that none of the three
//! ABIs has were left out, and `open_tree_attr`, which is newer, was added to `@mount`. `@known` is not listed: it
//! is every call of the table.

use super::Group;

const fn group(name: &'static str, about: &'static str, members: &'static [&'static str]) -> Group {
    Group { name, about, members }
}

/// All groups but `@known`, sorted by name; a member that opens with `@` is another group.
#[rustfmt::skip]
pub(super) static GROUPS: &[Group] = &[
    group("@aio", "Asynchronous and ring-based input and output.", &[
        "io_cancel", "io_destroy", "io_getevents", "io_pgetevents", "io_pgetevents_time64", "io_setup",
        "io_submit", "io_uring_enter", "io_uring_register", "io_uring_setup",
    ]),
    group("@basic-io", "Reading, writing, seeking and closing open files.", &[
        "_llseek", "close", "close_range", "dup", "dup2", "dup3", "lseek", "pread64", "preadv", "preadv2",
        "pwrite64", "pwritev", "pwritev2", "read", "readv", "write", "writev",
    ]),
    group("@chown", "Changing the owner of files.", &[
        "chown", "chown32", "fchown", "fchown32", "fchownat", "lchown", "lchown32",
    ]),
    group("@clock", "Setting the clocks.", &[
        "adjtimex", "clock_adjtime", "clock_adjtime64", "clock_settime", "clock_settime64", "settimeofday",
    ]),
    group("@cpu-emulation", "What emulators of old processor modes use.", &[
        "modify_ldt", "vm86", "vm86old",
    ]),
    group("@debug", "Looking into other processes: tracing, performance counters.", &[
        "lookup_dcookie", "perf_event_open", "pidfd_getfd", "ptrace",
    ]),
    group("@default", "What any program needs to run at all.", &[
        "@sandbox", "arch_prctl", "brk", "clock_getres", "clock_getres_time64", "clock_gettime",
        "clock_gettime64", "clock_nanosleep", "clock_nanosleep_time64", "execve", "exit", "exit_group",
        "futex", "futex_time64", "futex_waitv", "get_robust_list", "get_thread_area", "getegid",
        "getegid32", "geteuid", "geteuid32", "getgid", "getgid32", "getgroups", "getgroups32", "getpgid",
        "getpgrp", "getpid", "getppid", "getrandom", "getresgid", "getresgid32", "getresuid", "getresuid32",
        "getrlimit", "getsid", "gettid", "gettimeofday", "getuid", "getuid32", "lsm_get_self_attr",
        "lsm_list_modules", "membarrier", "mmap", "mmap2", "mprotect", "mseal", "munmap", "nanosleep",
        "pause", "prlimit64", "restart_syscall", "rseq", "rt_sigreturn", "sched_getaffinity", "sched_yield",
        "set_robust_list", "set_thread_area", "set_tid_address", "sigreturn", "time", "ugetrlimit",
        "uretprobe",
    ]),
    group("@file-system", "Opening, making, changing and removing files and directories.", &[
        "access", "chdir", "chmod", "close", "creat", "faccessat", "faccessat2", "fallocate", "fchdir",
        "fchmod", "fchmodat", "fchmodat2", "fcntl", "fcntl64", "fgetxattr", "file_getattr", "file_setattr",
        "flistxattr", "fremovexattr", "fsetxattr", "fstat", "fstat64", "fstatat64", "fstatfs", "fstatfs64",
        "ftruncate", "ftruncate64", "futimesat", "getcwd", "getdents", "getdents64", "getxattr",
        "getxattrat", "inotify_add_watch", "inotify_init", "inotify_init1", "inotify_rm_watch", "lgetxattr",
        "link", "linkat", "listmount", "listxattr", "listxattrat", "llistxattr", "lremovexattr",
        "lsetxattr", "lstat", "lstat64", "mkdir", "mkdirat", "mknod", "mknodat", "newfstatat", "oldfstat",
        "oldlstat", "oldstat", "open", "openat", "openat2", "readlink", "readlinkat", "removexattr",
        "removexattrat", "rename", "renameat", "renameat2", "rmdir", "setxattr", "setxattrat", "stat",
        "stat64", "statfs", "statfs64", "statmount", "statx", "symlink", "symlinkat", "truncate",
        "truncate64", "unlink", "unlinkat", "utime", "utimensat", "utimensat_time64", "utimes",
    ]),
    group("@io-event", "Waiting for several descriptors at once.", &[
        "_newselect", "epoll_create", "epoll_create1", "epoll_ctl", "epoll_ctl_old", "epoll_pwait",
        "epoll_pwait2", "epoll_wait", "epoll_wait_old", "eventfd", "eventfd2", "poll", "ppoll",
        "ppoll_time64", "pselect6", "pselect6_time64", "select",
    ]),
    group("@ipc", "Pipes, System V and POSIX queues, semaphores, shared memory, other processes' memory.", &[
        "ipc", "memfd_create", "mq_getsetattr", "mq_notify", "mq_open", "mq_timedreceive",
        "mq_timedreceive_time64", "mq_timedsend", "mq_timedsend_time64", "mq_unlink", "msgctl", "msgget",
        "msgrcv", "msgsnd", "pipe", "pipe2", "process_madvise", "process_vm_readv", "process_vm_writev",
        "semctl", "semget", "semop", "semtimedop", "semtimedop_time64", "shmat", "shmctl", "shmdt",
        "shmget",
    ]),
    group("@keyring", "The kernel's key store.", &[
        "add_key", "keyctl", "request_key",
    ]),
    group("@memlock", "Keeping memory from being swapped out.", &[
        "mlock", "mlock2", "mlockall", "munlock", "munlockall",
    ]),
    group("@module", "Loading and unloading kernel modules.", &[
        "delete_module", "finit_module", "init_module",
    ]),
    group("@mount", "Changing the tree of mounts, chroot included.", &[
        "chroot", "fsconfig", "fsmount", "fsopen", "fspick", "mount", "mount_setattr", "move_mount",
        "open_tree", "open_tree_attr", "pivot_root", "umount", "umount2",
    ]),
    group("@network-io", "Sockets, local ones too.", &[
        "accept", "accept4", "bind", "connect", "getpeername", "getsockname", "getsockopt", "listen",
        "recvfrom", "recvmmsg", "recvmmsg_time64", "recvmsg", "sendmmsg", "sendmsg", "sendto", "setsockopt",
        "shutdown", "socket", "socketcall", "socketpair",
    ]),
    group("@obsolete", "Out of use, or never there.", &[
        "_sysctl", "afs_syscall", "bdflush", "break", "create_module", "ftime", "get_kernel_syms",
        "getpmsg", "gtty", "idle", "lock", "mpx", "prof", "profil", "putpmsg", "query_module", "security",
        "sgetmask", "ssetmask", "stime", "stty", "sysfs", "tuxcall", "ulimit", "uselib", "ustat", "vserver",
    ]),
    group("@pkey", "Memory protection keys.", &[
        "pkey_alloc", "pkey_free", "pkey_mprotect",
    ]),
    group("@privileged", "Calls that want a capability.", &[
        "@chown", "@clock", "@module", "@raw-io", "@reboot", "@swap", "_sysctl", "acct", "bpf", "capset",
        "chroot", "fanotify_init", "fanotify_mark", "nfsservctl", "open_by_handle_at", "pivot_root",
        "quotactl", "quotactl_fd", "setdomainname", "setfsuid", "setfsuid32", "setgroups", "setgroups32",
        "sethostname", "setresuid", "setresuid32", "setreuid", "setreuid32", "setuid", "setuid32",
        "vhangup",
    ]),
    group("@process", "Making, ending and running processes; namespaces.", &[
        "capget", "clone", "clone3", "execveat", "fork", "getrusage", "kill", "pidfd_open",
        "pidfd_send_signal", "prctl", "rt_sigqueueinfo", "rt_tgsigqueueinfo", "setns", "tgkill", "times",
        "tkill", "unshare", "vfork", "wait4", "waitid", "waitpid",
    ]),
    group("@raw-io", "Input and output ports, and device memory past the drivers.", &[
        "ioperm", "iopl",
    ]),
    group("@reboot", "Restarting, and loading another kernel.", &[
        "kexec_file_load", "kexec_load", "reboot",
    ]),
    group("@resources", "Limits, priorities, scheduling, placement of memory.", &[
        "ioprio_set", "mbind", "migrate_pages", "move_pages", "nice", "sched_setaffinity", "sched_setattr",
        "sched_setparam", "sched_setscheduler", "set_mempolicy", "set_mempolicy_home_node", "setpriority",
        "setrlimit",
    ]),
    group("@sandbox", "What a program confines itself with.", &[
        "landlock_add_rule", "landlock_create_ruleset", "landlock_restrict_self", "seccomp",
    ]),
    group("@setuid", "Changing user, group and their lists.", &[
        "setgid", "setgid32", "setgroups", "setgroups32", "setregid", "setregid32", "setresgid",
        "setresgid32", "setresuid", "setresuid32", "setreuid", "setreuid32", "setuid", "setuid32",
    ]),
    group("@signal", "Sending, blocking and handling signals.", &[
        "rt_sigaction", "rt_sigpending", "rt_sigprocmask", "rt_sigsuspend", "rt_sigtimedwait",
        "rt_sigtimedwait_time64", "sigaction", "sigaltstack", "signal", "signalfd", "signalfd4",
        "sigpending", "sigprocmask", "sigsuspend",
    ]),
    group("@swap", "Swap devices.", &[
        "swapoff", "swapon",
    ]),
    group("@sync", "Writing caches to disk.", &[
        "fdatasync", "fsync", "msync", "sync", "sync_file_range", "syncfs",
    ]),
    group("@system-service", "What a usual service needs; a base for allow-lists.", &[
        "@aio", "@basic-io", "@chown", "@default", "@file-system", "@io-event", "@ipc", "@keyring",
        "@memlock", "@network-io", "@process", "@resources", "@setuid", "@signal", "@sync", "@timer",
        "capget", "capset", "copy_file_range", "fadvise64", "fadvise64_64", "flock", "get_mempolicy",
        "getcpu", "getpriority", "ioctl", "ioprio_get", "kcmp", "madvise", "mremap", "name_to_handle_at",
        "oldolduname", "olduname", "personality", "readahead", "readdir", "remap_file_pages",
        "sched_get_priority_max", "sched_get_priority_min", "sched_getattr", "sched_getparam",
        "sched_getscheduler", "sched_rr_get_interval", "sched_rr_get_interval_time64", "sched_yield",
        "sendfile", "sendfile64", "setfsgid", "setfsgid32", "setfsuid", "setfsuid32", "setpgid", "setsid",
        "splice", "sysinfo", "tee", "umask", "uname", "userfaultfd", "vmsplice",
    ]),
    group("@timer", "Timers and alarms.", &[
        "alarm", "getitimer", "setitimer", "timer_create", "timer_delete", "timer_getoverrun",
        "timer_gettime", "timer_gettime64", "timer_settime", "timer_settime64", "timerfd_create",
        "timerfd_gettime", "timerfd_gettime64", "timerfd_settime", "timerfd_settime64", "times",
    ]),
];
