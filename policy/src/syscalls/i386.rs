//! Where i386 differs: arguments that no single register holds, and several calls with one effect.

use super::{ArgKind, Entry, Operand, Selector, number};

/// For a call whose registers are not its arguments one by one: the register of each argument, or `None` where the
/// argument is split over two or read from memory.
#[rustfmt::skip]
static REGISTERS: &[(&str, &[Option<usize>])] = &[
    ("fadvise64", &[Some(0), None, Some(3), Some(4)]),
    ("fallocate", &[Some(0), Some(1), None, None]),
    ("fanotify_mark", &[Some(0), Some(1), None, Some(4), Some(5)]),
    ("lookup_dcookie", &[None, Some(2), Some(3)]),
    ("mmap", &[]),
    ("pread64", &[Some(0), Some(1), Some(2), None]),
    ("preadv", &[Some(0), Some(1), Some(2), None, None]),
    ("preadv2", &[Some(0), Some(1), Some(2), None, None, Some(5)]),
    ("pwrite64", &[Some(0), Some(1), Some(2), None]),
    ("pwritev", &[Some(0), Some(1), Some(2), None, None]),
    ("pwritev2", &[Some(0), Some(1), Some(2), None, None, Some(5)]),
    ("readahead", &[Some(0), None, Some(3)]),
    ("select", &[]),
    ("sync_file_range", &[Some(0), None, None, Some(5)]),
];

/// The calls that take user and group numbers of 16 bits here, with the first such argument. All that follow are
/// numbers too.
#[rustfmt::skip]
static SHORT_IDS: &[(&str, usize)] = &[
    ("chown", 1), ("fchown", 1), ("lchown", 1), ("setfsgid", 0), ("setfsuid", 0), ("setgid", 0), ("setregid", 0),
    ("setresgid", 0), ("setresuid", 0), ("setreuid", 0), ("setuid", 0),
];

/// A call of the 64-bit table, and calls of i386 with its effect whose names do not follow from its own.
#[rustfmt::skip]
static SAME_EFFECT: &[(&str, &[&str])] = &[
    ("mmap", &["mmap2"]),
    ("rt_sigaction", &["sigaction", "signal"]),
    ("rt_sigpending", &["sigpending"]),
    ("rt_sigprocmask", &["sigprocmask", "sgetmask", "ssetmask"]),
    ("rt_sigsuspend", &["sigsuspend"]),
    ("fadvise64", &["fadvise64_64"]),
    ("getrlimit", &["ugetrlimit"]),
    ("lseek", &["_llseek"]),
    ("newfstatat", &["fstatat64"]),
    ("select", &["_newselect"]),
    ("semtimedop", &["semtimedop_time64"]),
    ("umount2", &["umount"]),
    ("uname", &["oldolduname"]),
    ("wait4", &["waitpid"]),
];

/// The calls that `socketcall` stands for, by its first argument.
#[rustfmt::skip]
static SOCKET_CALLS: &[(&str, u32)] = &[
    ("socket", 1), ("bind", 2), ("connect", 3), ("listen", 4), ("accept", 5), ("getsockname", 6),
    ("getpeername", 7), ("socketpair", 8), ("sendto", 11), ("recvfrom", 12),
    ("shutdown", 13), ("setsockopt", 14), ("getsockopt", 15), ("sendmsg", 16), ("recvmsg", 17), ("accept4", 18),
    ("recvmmsg", 19), ("sendmmsg", 20),
    // send and recv, which are no calls elsewhere.
    ("sendto", 9), ("recvfrom", 10),
];

/// The calls that `ipc` stands for, by the low half of its first argument; the high half is a version.
#[rustfmt::skip]
static IPC_CALLS: &[(&str, u32)] = &[
    ("semop", 1), ("semget", 2), ("semctl", 3), ("semtimedop", 4), ("msgsnd", 11), ("msgrcv", 12), ("msgget", 13),
    ("msgctl", 14), ("shmat", 21), ("shmdt", 22), ("shmget", 23), ("shmctl", 24),
];

pub(super) fn operand(name: &str, index: usize, kind: ArgKind) -> Option<Operand> {
    let register = match REGISTERS.iter().find(|(call, _)| *call == name) {
        Some((_, registers)) => (*registers.get(index)?)?,
        None => index,
    };
    let short = SHORT_IDS.iter().any(|(call, first)| *call == name && index >= *first);
    Some(Operand { register, kind: if short { ArgKind::Uint16 } else { kind } })
}

/// The other ways to a call's effect. `name64`, `name32`, `name_time64` and `oldname` are found by their names.
pub(super) fn variants(name: &str) -> Vec<Entry> {
    let whole = |call: &str| number(super::Abi::I386, call).map(|number| Entry { number, selector: None });
    let picked = |table: &[(&str, u32)], by: &str, mask: u32| -> Vec<Entry> {
        let Some(number) = number(super::Abi::I386, by) else { return Vec::new() };
        let picks = table.iter().filter(|(call, _)| *call == name);
        picks.map(|(_, value)| Entry { number, selector: Some(Selector { mask, value: *value }) }).collect()
    };
    let derived = [format!("{name}64"), format!("{name}32"), format!("{name}_time64"), format!("old{name}")];
    let mut entries: Vec<Entry> = derived.iter().filter_map(|call| whole(call)).collect();
    let same = SAME_EFFECT.iter().filter(|(call, _)| *call == name).flat_map(|(_, same)| same.iter());
    entries.extend(same.filter_map(|call| whole(call)));
    entries.extend(picked(SOCKET_CALLS, "socketcall", u32::MAX));
    entries.extend(picked(IPC_CALLS, "ipc", 0xffff));
    entries
}
