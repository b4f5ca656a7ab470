//! From a record and what is known of its numbers to an event. Pure.

use std::net::{IpAddr, SocketAddr};

use holdfast_crds::event::{
    Direction, Done, Event, EventKind, File, Gap, Network, Origin, Process, Syscall, escape,
};
use holdfast_policy::model::Operation;
use holdfast_policy::syscalls::{self, Abi};
use k8s_openapi::jiff::Timestamp;

use super::book::Book;
use super::process::process;
use crate::abi::event::{Object, Record, flags, object_flags, origin, program};
use crate::abi::{self, CounterKey};
use crate::engine::counts::rule_kind;
use crate::mechanisms::Mechanism;

/// Turns the kernel's time since boot into time of day.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clock {
    /// When the machine booted, as it is by the clock of now: nanoseconds since 1970.
    pub boot_unix_ns: i128,
}

impl Clock {
    /// As of now.
    #[must_use]
    pub fn now() -> Self {
        let unix = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let unix = i128::try_from(unix.as_nanos()).unwrap_or_default();
        Self { boot_unix_ns: unix - i128::from(abi::sys::boot_time_ns()) }
    }

    /// A time since boot, as events show it.
    #[must_use]
    pub fn show(self, since_boot_ns: u64) -> String {
        let time = Timestamp::from_nanosecond(self.boot_unix_ns + i128::from(since_boot_ns));
        format!("{:.9}", time.unwrap_or(Timestamp::UNIX_EPOCH))
    }
}

/// What a record says. `suppressed` is what it stands for beside itself.
#[must_use]
pub fn event(record: &Record, book: &Book, clock: Clock, node: &str, suppressed: u64) -> Event {
    let raw = &record.event;
    let mut event = of_key(&raw.key, book, clock.show(raw.time_ns), node);
    event.count = suppressed.saturating_add(1);
    event.suppressed = suppressed;
    event.mechanism = mechanism(raw.program, raw.hook, book).map(str::to_owned);
    if raw.flags & flags::PACKET != 0 {
        let show = |addr: abi::Addr, port: u16| {
            let address = IpAddr::from(addr);
            if raw.flags & flags::PORTS == 0 {
                address.to_string()
            } else {
                SocketAddr::new(address, port).to_string()
            }
        };
        event.network = Some(Network {
            direction: if raw.key.kind == 0 { Direction::Ingress } else { Direction::Egress },
            protocol: protocol(raw.proto),
            source: (raw.flags & flags::FROM != 0).then(|| show(raw.from, raw.from_port)),
            destination: Some(show(raw.to, raw.to_port)),
        });
    }
    if raw.flags & flags::CALL != 0 {
        event.syscall = Some(syscall(raw));
    }
    event.file = record.object.as_deref().map(file);
    let cgroup = book.cgroup(raw.cgroup).cloned();
    event.process = match &record.task {
        Some(task) => Some(Process { cgroup, ..process(task, clock) }),
        None => cgroup.map(|path| Process { cgroup: Some(path), ..Process::default() }),
    };
    event
}

/// What was suppressed under a key when nothing came after it.
#[must_use]
pub fn rest(key: &CounterKey, book: &Book, time: String, node: &str, suppressed: u64) -> Event {
    Event { count: suppressed, suppressed, ..of_key(key, book, time, node) }
}

/// That records or lines are missing.
#[must_use]
pub fn gap(time: String, node: &str, buffer: &str, lost: u64) -> Event {
    Event {
        gap: Some(Gap { buffer: buffer.to_owned(), lost }),
        ..Event::new(time, node.to_owned(), EventKind::Gap)
    }
}

fn of_key(key: &CounterKey, book: &Book, time: String, node: &str) -> Event {
    let kind = if key.given == abi::given::AUDIT { EventKind::Audited } else { EventKind::Denied };
    let mut event = Event::new(time, node.to_owned(), kind);
    if let Some(who) = book.who(key) {
        event.namespace = Some(who.namespace);
        event.workload = Some(who.workload);
        event.pod = who.pod;
        event.container = who.container;
    }
    if let Some(rule) = book.rule(key) {
        event.policy = Some(rule.policy_name);
        event.generation = rule.generation;
        event.capability = capability(&rule.path);
        event.rule = Some(rule.path);
        event.asked = rule.asked;
    }
    event.rule_kind = Some(rule_kind(key.kind));
    event.given = Some(match key.given {
        abi::given::DROP => Done::Drop,
        abi::given::REJECT => Done::Reject,
        abi::given::DENY => Done::Deny,
        abi::given::DENY_AND_KILL => Done::DenyAndKill,
        abi::given::KILL_AFTER_EFFECT => Done::KillAfterEffect,
        _ => Done::Audit,
    });
    event
}

/// The capability of a rule such as `capabilities.deny[NET_RAW]`.
fn capability(rule: &str) -> Option<String> {
    let name = rule.strip_prefix("capabilities.deny[")?.strip_suffix(']')?;
    Some(name.to_owned())
}

fn file(object: &Object) -> File {
    let size = usize::from(object.path_size).min(object.path.0.len());
    let operations = if object.does == 0 {
        vec!["Execute".to_owned()]
    } else {
        let does = |operation: &&Operation| object.does >> operation.index() & 1 != 0;
        Operation::ALL.iter().filter(does).map(ToString::to_string).collect()
    };
    File {
        path: escape(&object.path.0[..size]),
        operations,
        origin: match object.origin {
            origin::IMAGE => Some(Origin::Image),
            origin::WRITTEN => Some(Origin::Written),
            origin::MEMORY => Some(Origin::Memory),
            origin::TMPFS => Some(Origin::Tmpfs),
            origin::VOLUME => Some(Origin::Volume),
            _ => None,
        },
        truncated: object.flags & (object_flags::PATH_CUT | object_flags::PARTIAL) != 0,
    }
}

fn mechanism(program: u8, hook: u8, book: &Book) -> Option<&'static str> {
    match program {
        program::EGRESS | program::INGRESS => Some("cgroup_skb"),
        program::CONNECT | program::SENDMSG => Some("cgroup_sock_addr"),
        program::SYSCALL | program::ACCESS => book.mechanism(hook).map(Mechanism::name),
        program::SYS_ENTER => Some(Mechanism::SysEnter.name()),
        _ => None,
    }
}

/// Numbers of <https://www.iana.org/assignments/protocol-numbers>.
fn protocol(number: u8) -> String {
    match number {
        1 => "ICMP".to_owned(),
        6 => "TCP".to_owned(),
        17 => "UDP".to_owned(),
        58 => "ICMPv6".to_owned(),
        132 => "SCTP".to_owned(),
        other => other.to_string(),
    }
}

fn syscall(raw: &abi::event::Event) -> Syscall {
    let (table, abi) = match (raw.abi, cfg!(target_arch = "aarch64")) {
        (0, false) => (Some(Abi::X86_64), "x86_64"),
        (0, true) => (Some(Abi::Aarch64), "aarch64"),
        (_, false) => (Some(Abi::I386), "i386"),
        (_, true) => (None, "arm"),
    };
    Syscall {
        name: table.and_then(|table| syscalls::name(table, raw.nr)).map(str::to_owned),
        number: raw.nr,
        abi: abi.to_owned(),
        arguments: if raw.flags & flags::ARGUMENTS == 0 {
            Vec::new()
        } else {
            raw.argument.iter().map(|argument| format!("{argument:#x}")).collect()
        },
    }
}

#[cfg(test)]
mod tests;
