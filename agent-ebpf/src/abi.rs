//! Rust mirrors of `bpf/abi.h`, and the only home of unsafe code. A test compares both layouts through BTF.
#![allow(unsafe_code, reason = "plain data crosses to the kernel here")]

use std::net::{IpAddr, Ipv6Addr};

pub mod sys;

/// The layout version of the pinned maps (`HF_LAYOUT`): part of the directory they are pinned in.
pub const LAYOUT: u32 = 1;
/// `HF_CLASS_NONE`, `_ANY` and `_NODE_FLOW` are `ClassId`'s own constants.
pub const NO_RULE: u16 = 0xffff;
/// The first of the eight numbers that only the canary has (`HF_CANARY`), as workload, pod and set.
pub const CANARY: u32 = 0xffff_fff0;

/// Bits of [`Workload::flags`].
pub mod workload_flags {
    /// Isolated at ingress by Enforce policies; shift left by 1 for egress.
    pub const ISOLATED: u32 = 1;
    /// Would be isolated at ingress if Audit policies were Enforce; shift left by 1 for egress.
    pub const WOULD_ISOLATE: u32 = 4;
    /// The default refusal at ingress is Reject; shift left by 1 for egress.
    pub const REJECT: u32 = 16;
    /// Some policy has network rules for it.
    pub const NET: u32 = 1 << 6;
    /// A part of the host's network namespace.
    pub const HOST_PART: u32 = 1 << 7;
    /// Some refusal may be Reject.
    pub const ANY_REJECT: u32 = 1 << 8;
    /// A whole host.
    pub const WHOLE_HOST: u32 = 1 << 9;
    /// Has a mount namespace of its own, which its runtime makes.
    pub const CONTAINER: u32 = 1 << 10;
    /// Its access set has rules on files.
    pub const FILES: u32 = 1 << 11;
}

/// Bits of [`Verdict::flags`].
pub mod verdict_flags {
    /// An Enforce policy allows.
    pub const ALLOW: u8 = 1;
    /// An Enforce policy denies.
    pub const DENY: u8 = 2;
    /// That denial is Reject.
    pub const REJECT: u8 = 4;
    /// An Audit policy allows.
    pub const WOULD_ALLOW: u8 = 8;
    /// An Audit policy denies.
    pub const WOULD_DENY: u8 = 16;
}

/// Bit of [`Address::flags`]: a Service's virtual address. The low bits are the entities.
pub const ADDRESS_SERVICE: u32 = 1 << 8;
/// Bit of [`Control::flags`]: some pod here is isolated at ingress.
pub const CONTROL_NODE_FLOWS: u32 = 1;
/// Protocols without ports, as verdict keys have them.
pub const PROTO_OTHER: u8 = 255;
/// Prefix lengths of a verdict key: to the class, to the protocol; the port's bits follow.
pub const VERDICT_BITS_CLASS: u32 = 72;
/// See [`VERDICT_BITS_CLASS`].
pub const VERDICT_BITS_PROTO: u32 = 80;
/// Bits of a CIDR key before the address.
pub const CIDR_BITS_SPACE: u32 = 32;
/// The most clauses that one call of a set may have.
pub const MAX_CLAUSES: usize = 64;
/// Argument registers of a call.
pub const ARGUMENTS: usize = 6;
/// Bits of [`Condition::accept`].
pub mod compare {
    /// The argument is less.
    pub const LESS: u8 = 1;
    /// It is equal.
    pub const EQUAL: u8 = 2;
    /// It is greater.
    pub const GREATER: u8 = 4;
    /// There is no condition.
    pub const ANY: u8 = 7;
}

/// Bit of [`Syscall::flags`]: judged at `sys_enter`.
pub const SYSCALL_AT_ENTRY: u32 = 1;
/// `HF_NR_ANY`: the number in the key of the row for every call that has no row of its own.
pub const NR_ANY: u32 = u32::MAX;
/// Bit of [`Clause::flags`]: of a policy in mode Audit.
pub const CLAUSE_AUDIT_MODE: u8 = 1;
/// Bit of [`Clause::flags`]: holds only if the next clause does too, which then decides.
pub const CLAUSE_AND_NEXT: u8 = 2;

/// Values of [`CounterKey::kind`].
pub mod kind {
    /// Network rules have the two kinds before this one, by direction.
    pub const SYSCALL: u8 = 2;
    /// Executables.
    pub const PROCESS: u8 = 3;
    /// Files.
    pub const FILE: u8 = 4;
    /// Capabilities.
    pub const CAPABILITY: u8 = 5;
}

/// [`CidrKey`] without its length, as aya's trie keys want it.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct CidrData {
    /// See [`CidrKey::space_be`].
    pub space_be: u32,
    /// See [`CidrKey::addr`].
    pub addr: Addr,
}
/// [`VerdictKey`] without its length.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct VerdictData {
    /// See [`VerdictKey::set_be`].
    pub set_be: u32,
    /// See [`VerdictKey::class_be`].
    pub class_be: u32,
    /// See [`VerdictKey::direction`].
    pub direction: u8,
    /// See [`VerdictKey::proto`].
    pub proto: u8,
    /// See [`VerdictKey::port_be`].
    pub port_be: u16,
}
// SAFETY: as for the mirrors below.
unsafe impl aya::Pod for CidrData {}
// SAFETY: as for the mirrors below.
unsafe impl aya::Pod for VerdictData {}

macro_rules! mirrors {
    ($($(#[$doc:meta])* $name:ident = $c:literal { $($(#[$fdoc:meta])* $field:ident: $ty:ty),* $(,)? })*) => {
        $(
            $(#[$doc])*
            #[repr(C)]
            #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
            pub struct $name { $($(#[$fdoc])* pub $field: $ty),* }
            // SAFETY: `repr(C)`, integers and arrays of them only, and no implicit padding (the layout test compares the
            // sum of the members with the size).
            unsafe impl aya::Pod for $name {}
        )*
        /// (C name, size, [(member, offset, size)]) of each mirror.
        #[cfg(test)]
        pub(super) fn layouts() -> Vec<(&'static str, usize, Vec<(&'static str, usize, usize)>)> {
            vec![$(
                ($c, size_of::<$name>(), vec![$((stringify!($field), std::mem::offset_of!($name, $field), size_of::<$ty>())),*])
            ),*]
        }
    };
}

mod access;
pub mod event;
mod flow;

pub use access::*;
pub use flow::*;

mirrors! {
    /// An address; IPv4 as `::ffff:a.b.c.d`, in network order.
    Addr = "hf_addr" { /// The bytes.
        w: [u32; 4] }
    /// What a workload index stands for.
    Workload = "hf_workload" {
        /// Generation of the class universe.
        view: u32,
        /// Network policy set; 0 = none.
        net_set: u32,
        /// System call policy set; 0 = none.
        sys_set: u32,
        /// Set of process, file and capability rules; 0 = none.
        access_set: u32,
        /// One number for all cgroups of a pod.
        pod: u32,
        /// Differs with every change.
        gen_: u32,
        /// [`workload_flags`].
        flags: u32,
        /// Rule of a refusal by default, by direction.
        default_rule: [u16; 2],
        /// The same with Audit policies taken as Enforce.
        would_default_rule: [u16; 2],
        /// Zero.
        pad: u32,
        /// Of which paths its rules on files do not speak.
        elsewhere: Elsewhere,
    }
    /// What is known of an address.
    Address = "hf_address" {
        /// Number of the identity or Service, or 0.
        identity: u32,
        /// Entities and [`ADDRESS_SERVICE`].
        flags: u32,
        /// Pod number, where the address is of a pod on this node.
        pod: u32,
    }
    /// Who, in which view.
    ClassKey = "hf_class_key" {
        /// View.
        view: u32,
        /// Identity.
        identity: u32,
        /// [`Address::flags`].
        flags: u32,
    }
    /// A prefix in a view. Lengths count [`CIDR_BITS_SPACE`].
    CidrKey = "hf_cidr_key" {
        /// Length in bits.
        prefixlen: u32,
        /// view << 1 | is IPv6, big-endian.
        space_be: u32,
        /// The address; IPv4 in the first word.
        addr: Addr,
    }
    /// A row of the verdicts.
    VerdictKey = "hf_verdict_key" {
        /// Length in bits.
        prefixlen: u32,
        /// Set, big-endian.
        set_be: u32,
        /// Class, big-endian.
        class_be: u32,
        /// 0 = ingress, 1 = egress.
        direction: u8,
        /// 6, 17, 132 or [`PROTO_OTHER`].
        proto: u8,
        /// Port, big-endian.
        port_be: u16,
    }
    /// An answer.
    Verdict = "hf_verdict" {
        /// [`verdict_flags`].
        flags: u8,
        /// Zero.
        pad: u8,
        /// Rule that denies.
        deny_rule: u16,
        /// Audit rule that denies.
        would_rule: u16,
        /// Zero.
        pad2: u16,
    }
    /// How to judge a call.
    Syscall = "hf_syscall" {
        /// Bits of the hooks where it may be refused.
        hooks: u64,
        /// How many clauses there are.
        clauses: u32,
        /// [`SYSCALL_AT_ENTRY`].
        flags: u32,
    }
    /// A call of a set.
    SyscallKey = "hf_syscall_key" {
        /// Set.
        set: u32,
        /// 0 = native, 1 = 32-bit.
        abi: u32,
        /// Number.
        nr: u32,
    }
    /// One clause of a call.
    ClauseKey = "hf_clause_key" {
        /// Set.
        set: u32,
        /// 0 = native, 1 = 32-bit.
        abi: u32,
        /// Number of the call.
        nr: u32,
        /// Position.
        index: u32,
    }
    /// A condition on an argument: `(argument & keep) ^ sign` against `value ^ sign`, unsigned.
    Condition = "hf_condition" {
        /// Compared with.
        value: u64,
        /// Bits that are compared.
        keep: u64,
        /// Turns signed order into unsigned.
        sign: u64,
        /// [`compare`]: how the argument may stand to the value.
        accept: u8,
        /// Zero.
        pad: [u8; 7],
    }
    /// What a rule says of a call.
    Clause = "hf_clause" {
        /// Ordinal of the policy.
        policy: u16,
        /// Rule in the set.
        rule: u16,
        /// `enum hf_action`.
        action: u8,
        /// [`CLAUSE_AUDIT_MODE`] and [`CLAUSE_AND_NEXT`].
        flags: u8,
        /// Zero.
        pad: [u8; 2],
        /// By argument register; all must hold.
        condition: [Condition; ARGUMENTS],
    }
    /// What holds for the node.
    Control = "hf_control" {
        /// Moves when addresses or classes change.
        epoch: u32,
        /// Inode number of the host's network namespace.
        host_netns: u32,
        /// [`CONTROL_NODE_FLOWS`].
        flags: u32,
        /// The highest number that any agent gave out: none is used twice, also after a restart.
        highest: u32,
        /// Of which paths no workload's rules on files speak.
        elsewhere: Elsewhere,
    }
    /// Whose count.
    CounterKey = "hf_counter_key" {
        /// Workload index.
        workload: u32,
        /// Policy set.
        set: u32,
        /// Rule in the set.
        rule: u16,
        /// 0 ingress, 1 egress, else one of [`kind`].
        kind: u8,
        /// What was done: see [`given`].
        given: u8,
    }
    /// Which helper of which program failed.
    ErrorKey = "hf_error_key" {
        /// `enum hf_program`.
        program: u16,
        /// `enum hf_helper`.
        helper: u16,
    }
}

/// Values of [`CounterKey::given`].
pub mod given {
    /// A packet dropped.
    pub const DROP: u8 = 0;
    /// A call that would send refused.
    pub const REJECT: u8 = 1;
    /// A system call refused.
    pub const DENY: u8 = 2;
    /// Refused, and the process killed.
    pub const DENY_AND_KILL: u8 = 3;
    /// The process killed; the call may have had its effect.
    pub const KILL_AFTER_EFFECT: u8 = 4;
    /// Counted only.
    pub const AUDIT: u8 = 5;
}

/// [`ErrorKey::helper`] of a ring buffer without room.
pub const HELPER_RINGBUF: u16 = 4;
/// [`CgroupEvent::kind`] of a new cgroup.
pub const CGROUP_MADE: u32 = 1;

/// A record of the ring buffer of cgroup events (`hf_cgroup_event`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CgroupEvent {
    /// Id of the cgroup.
    pub id: u64,
    /// [`CGROUP_MADE`], or it is gone.
    pub kind: u32,
    /// Path from the root of the tree; `None` where it did not fit.
    pub path: Option<String>,
}

impl CgroupEvent {
    /// Reads a record; `None` when it is shorter than one.
    #[must_use]
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let word = |at: usize| bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes);
        let id = u64::from_ne_bytes(bytes.get(..8)?.try_into().ok()?);
        let (kind, len) = (word(16)?, usize::try_from(word(20)?).ok()?);
        // The length counts the final zero.
        let path = bytes.get(24..24 + len.saturating_sub(1))?;
        let path = (len > 0).then(|| String::from_utf8_lossy(path).into_owned());
        Some(Self { id, kind, path })
    }
}

impl From<IpAddr> for Addr {
    fn from(address: IpAddr) -> Self {
        let v6 = match address {
            IpAddr::V4(v4) => v4.to_ipv6_mapped(),
            IpAddr::V6(v6) => v6,
        };
        let mut w = [0; 4];
        for (word, bytes) in w.iter_mut().zip(v6.octets().as_chunks::<4>().0) {
            *word = u32::from_ne_bytes(*bytes);
        }
        Self { w }
    }
}

impl From<Addr> for IpAddr {
    fn from(addr: Addr) -> Self {
        let mut octets = [0; 16];
        for (word, bytes) in addr.w.iter().zip(octets.as_chunks_mut::<4>().0) {
            *bytes = word.to_ne_bytes();
        }
        let v6 = Ipv6Addr::from(octets);
        v6.to_ipv4_mapped().map_or(IpAddr::V6(v6), IpAddr::V4)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::process::Command;

    use super::*;

    /// The structures of an object, as `bpftool btf dump -j` tells: name -> (size, member -> byte offset).
    fn structures(object: &str) -> HashMap<String, (usize, HashMap<String, usize>)> {
        let path = format!("{}/{object}", env!("OUT_DIR"));
        let out = Command::new("bpftool")
            .args(["-j", "btf", "dump", "file", &path])
            .output()
            .expect("bpftool runs: install the package bpftool (make setup)");
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let dump: serde_json::Value = serde_json::from_slice(&out.stdout).expect("JSON");
        let number =
            |value: &serde_json::Value| usize::try_from(value.as_u64().expect("a number")).expect("small");
        dump["types"]
            .as_array()
            .expect("types")
            .iter()
            .filter(|kind| kind["kind"] == "STRUCT")
            .map(|kind| {
                let members = kind["members"].as_array().expect("members");
                let members = members
                    .iter()
                    .map(|m| {
                        (m["name"].as_str().unwrap_or_default().to_owned(), number(&m["bits_offset"]) / 8)
                    })
                    .collect();
                (kind["name"].as_str().unwrap_or_default().to_owned(), (number(&kind["size"]), members))
            })
            .collect()
    }

    #[test]
    fn every_mirror_has_the_layout_of_the_kernel_programs() {
        let mut known = HashMap::new();
        for object in ["net.o", "cgroup.o", "process.o", "syscall.o", "sock.o"] {
            known.extend(structures(object));
        }
        for (name, size, fields) in
            layouts().into_iter().chain(access::layouts()).chain(flow::layouts()).chain(event::layouts())
        {
            let (real, members) = known.get(name).unwrap_or_else(|| panic!("{name} is in no object"));
            assert_eq!(*real, size, "size of {name}");
            let sum: usize = fields.iter().map(|(_, _, size)| size).sum();
            assert_eq!(sum, size, "{name} has padding that is not written down");
            for (field, offset, _) in fields {
                let field = field.trim_end_matches('_');
                assert_eq!(members.get(field), Some(&offset), "{name}.{field}");
            }
        }
    }

    #[test]
    fn addresses_cross_over_and_back() {
        for text in ["10.1.2.3", "::1", "fd00::1", "2001:db8::ffff"] {
            let address: IpAddr = text.parse().expect("an address");
            assert_eq!(IpAddr::from(Addr::from(address)), address);
        }
        let mapped: IpAddr = "::ffff:10.1.2.3".parse().expect("an address");
        assert_eq!(IpAddr::from(Addr::from(mapped)), "10.1.2.3".parse::<IpAddr>().expect("an address"));
    }
}
