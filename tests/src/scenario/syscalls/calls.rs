//! One call after the other, refused.

use anyhow::Result;
use nix::libc::{EACCES, ENOKEY, ENOMEM, EPERM};

use super::{Call, Effect, denied};
use crate::scenario::{rig::Rig, suite::Scenario};

macro_rules! calls {
    ($($function:ident, $name:literal, $rule:literal, $effect:expr, $errnos:expr, [$($word:literal),+];)*) => {
        pub(super) const ALL: &[Scenario] = &[$(Scenario { name: concat!($name, ", or it is reported as not covered"), run: $function }),*];
        $(fn $function(rig: &mut Rig) -> Result<()> {
            let call = Call { words: &[$($word),+], effect: $effect };
            denied(rig, concat!("shop/call-", stringify!($function)), $rule, call, &$errnos)
        })*
    };
}

calls! {
    mount, "mount is refused and nothing is mounted",
        "{names: ['@mount'], action: Deny}",
        Effect::Mounted("m"), [EPERM], ["mount", "s:none", "s:{dir}/m", "s:tmpfs", "0", "0"];
    umount2, "umount2 is refused and the mount stays",
        "{names: [umount2], action: Deny}",
        Effect::Unmounted("m"), [EPERM], ["umount2", "s:{dir}/m", "0"];
    unlink, "unlink is refused and the file stays",
        "{names: [unlink, unlinkat], action: Deny}",
        Effect::Gone("f"), [EPERM], ["unlink", "s:{dir}/f"];
    unlinkat, "unlinkat is refused as rmdir and the directory stays",
        "{names: [unlinkat], action: Deny}",
        Effect::Gone("d"), [EPERM], ["unlinkat", "-100", "s:{dir}/d", "0x200"];
    mkdir, "mkdir is refused and there is no directory",
        "{names: [mkdir, mkdirat], action: Deny}",
        Effect::Made("new"), [EPERM], ["mkdir", "s:{dir}/new", "0755"];
    rmdir, "rmdir is refused and the directory stays",
        "{names: [rmdir], action: Deny}",
        Effect::Gone("d"), [EPERM], ["rmdir", "s:{dir}/d"];
    rename, "rename is refused and the file keeps its name",
        "{names: [rename, renameat, renameat2], action: Deny}",
        Effect::Gone("f"), [EPERM], ["rename", "s:{dir}/f", "s:{dir}/g"];
    link, "link is refused and there is no second name",
        "{names: [link, linkat], action: Deny}",
        Effect::Made("g"), [EPERM], ["link", "s:{dir}/f", "s:{dir}/g"];
    symlink, "symlink is refused and there is no link",
        "{names: [symlink, symlinkat], action: Deny}",
        Effect::Made("g"), [EPERM], ["symlink", "s:f", "s:{dir}/g"];
    mknod, "mknod is refused and there is no pipe",
        "{names: [mknod, mknodat], action: Deny}",
        Effect::Made("p"), [EPERM], ["mknod", "s:{dir}/p", "010644", "0"];
    ptrace, "ptrace is refused to a tracer",
        "{names: [ptrace], action: Deny}",
        Effect::Answer, [EPERM], ["!ptrace-child"];
    kill, "kill is refused and the other process lives",
        "{names: [kill], action: Deny}",
        Effect::Says("killed=1"), [EPERM], ["!kill-child"];
    setns, "setns is refused",
        "{names: [setns], action: Deny}",
        Effect::Answer, [EPERM], ["!setns-own"];
    newuser, "unshare of a user namespace is refused and the caller stays in its own",
        "{names: [unshare], action: Deny}",
        Effect::Says("changed=1"), [EPERM, ENOMEM], ["!newuser"];
    newuserflag, "unshare of a user namespace is refused by its flag",
        "{names: [unshare], args: [{index: 0, op: MaskedEqual, mask: 0x10000000, value: 0x10000000}], action: Deny}",
        Effect::Says("changed=1"), [EPERM, ENOMEM], ["!newuser"];
    chroot, "chroot is refused",
        "{names: [chroot], action: Deny}",
        Effect::Answer, [EPERM], ["chroot", "s:{dir}"];
    sethostname, "sethostname is refused and the name stays",
        "{names: [sethostname], action: Deny}",
        Effect::Says("changed=1"), [EPERM], ["!newuts-sethostname", "holdfast-test"];
    perf, "perf_event_open is refused",
        "{names: [perf_event_open], action: Deny}",
        Effect::Answer, [EPERM], ["!perf"];
    bpf, "bpf is refused",
        // BPF_MAP_GET_NEXT_ID: charges no memory, which kernels before 5.11 limit for each user.
        "{names: [bpf], action: Deny}",
        Effect::Answer, [EPERM], ["bpf", "11", "w:0,0,0,0,0,0,0,0", "32"];
    keyctl, "keyctl is refused",
        "{names: ['@keyring'], action: Deny}",
        Effect::Answer, [EPERM, ENOKEY, EACCES], ["!keyring"];
    syslog, "reading the kernel's log is refused",
        // SYSLOG_ACTION_SIZE_BUFFER.
        "{names: [syslog], action: Deny}",
        Effect::Answer, [EPERM], ["syslog", "10", "0", "0"];
    setpriority, "setpriority is refused",
        "{names: [setpriority], action: Deny}",
        Effect::Answer, [EPERM], ["setpriority", "0", "0", "5"];
    setuid, "setuid is refused",
        "{names: [setuid], action: Deny}",
        Effect::Answer, [EPERM], ["setuid", "0"];
    sched, "sched_setscheduler is refused",
        "{names: [sched_setscheduler], action: Deny}",
        Effect::Answer, [EPERM], ["sched_setscheduler", "0", "3", "w:0"];
    chmod, "chmod is refused",
        "{names: [chmod, fchmod, fchmodat], action: Deny}",
        Effect::Answer, [EPERM], ["chmod", "s:{dir}/f", "0600"];
    truncate, "truncate is refused",
        "{names: [truncate], action: Deny}",
        Effect::Answer, [EPERM], ["truncate", "s:{dir}/f", "0"];
    bind, "a call with several names is refused under each",
        "{names: [socketpair, socket], action: Deny}",
        Effect::Answer, [EPERM], ["socketpair", "1", "1", "0", "z:8"];
}
