//! Reads the compiled tables as the kernel does: a packet's or a call's verdict from look-ups alone.
//!
//! It knows no policy. What it answers must be what [`decide`](crate::decide) answers; the property tests hold the two
//! against each other, and the kernel's programs are held against both.

use ipnet::IpNet;
use std::net::IpAddr;

use crate::decide::{Call, Packet, Transport, Via};
use crate::model::{Action, Direction, Mode, NetScope, RuleRef, Workload, World, canonical};

use super::Compiled;
use super::network::{Cell, DirectionHeader, NetSet, PortPrefix, Scope, VerdictKey};
use super::syscall::{Clause, SysSet};
use super::universe::ClassId;

/// What happens to a packet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PacketOutcome {
    /// The rule that refuses it, and whether the workload is told; `None` = it passes.
    pub refused: Option<(RuleRef, bool)>,
    /// For a packet that passes: the rule by which all policies, taken as Enforce, would refuse it.
    pub audited: Option<RuleRef>,
}

/// What happens to a system call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallOutcome {
    /// The answer.
    pub action: Action,
    /// The rule that gives it, unless it is Allow.
    pub rule: Option<RuleRef>,
    /// For a call that is let through: the stricter answer that the Audit policies would have given.
    pub audited: Option<(Action, RuleRef)>,
}

/// The verdict on a packet of the workload at this place of the input. `world` stands for the kernel's map of
/// addresses.
#[must_use]
pub fn lookup_packet(
    compiled: &Compiled,
    world: &World,
    place: usize,
    workload: &Workload,
    packet: &Packet,
) -> PacketOutcome {
    let Some(set) = compiled.net_set(place) else { return PacketOutcome::default() };
    if packet.via == Via::Loopback && workload.net != NetScope::HostPart {
        return PacketOutcome::default();
    }
    let own = workload.net == NetScope::Own;
    let address = canonical(packet.peer);
    let (classes, header) = if own && packet.via == Via::NodeFlow && packet.direction == Direction::Ingress {
        (vec![ClassId::NODE_FLOW], DirectionHeader::default())
    } else if let Some(class) =
        compiled.services.get(&address).filter(|_| own && packet.direction == Direction::Egress)
    {
        (vec![*class], set.header.direction(packet.direction))
    } else {
        let facts =
            if packet.via == Via::Loopback { world.loopback_facts(address) } else { world.facts(address) };
        let by_identity = compiled.identity_class.get(&(facts.identity.unwrap_or(0), facts.entities));
        let classes =
            vec![ClassId::ANY, by_identity.copied().unwrap_or_default(), longest(compiled, address)];
        (classes, set.header.direction(packet.direction))
    };
    let cell = classes
        .into_iter()
        .filter(|class| *class != ClassId::NONE)
        .map(|class| cell(set, packet.direction, class, packet.transport))
        .fold(Cell::default(), Cell::join);
    let verdict = cell.verdict(header);
    let rule = |number: u16| set.rules[usize::from(number)].clone();
    PacketOutcome {
        refused: verdict.refused.map(|refusal| (rule(refusal.rule), refusal.reject)),
        audited: verdict.audited.map(rule),
    }
}

/// The class of the longest prefix that contains the address.
fn longest(compiled: &Compiled, address: IpAddr) -> ClassId {
    let bits = if address.is_ipv4() { 32 } else { 128 };
    (0..=bits)
        .rev()
        .filter_map(|len| IpNet::new(address, len).ok())
        .find_map(|net| compiled.cidr_class.get(&net.trunc()).copied())
        .unwrap_or(ClassId::NONE)
}

/// The row of the longest prefix of (direction, class, protocol, port).
fn cell(set: &NetSet, direction: Direction, class: ClassId, transport: Transport) -> Cell {
    let row = |scope| {
        let key = VerdictKey { direction, class, scope };
        set.verdicts.binary_search_by_key(&key, |(key, _)| *key).ok().map(|at| set.verdicts[at].1)
    };
    let (protocol, port, longest) = match transport {
        Transport::Port(protocol, port) => (protocol, port, 16),
        Transport::Fragment(protocol) => (protocol, 0, 0),
        Transport::Other => return row(Scope::All).unwrap_or_default(),
    };
    (0..=longest)
        .rev()
        .find_map(|len| {
            let kept = u16::MAX.checked_shl(16 - u32::from(len)).unwrap_or(0);
            row(Scope::Ports { protocol, prefix: PortPrefix { port: port & kept, len } })
        })
        .or_else(|| row(Scope::All))
        .unwrap_or_default()
}

/// The verdict on a system call of the workload at this place of the input.
#[must_use]
pub fn lookup_call(compiled: &Compiled, place: usize, call: &Call) -> CallOutcome {
    let mut outcome = CallOutcome { action: Action::Allow, rule: None, audited: None };
    let Some(set) = compiled.sys_set(place) else { return outcome };
    let Some(clauses) = set.calls.get(&(call.abi, call.number)) else { return outcome };
    if let Some((action, rule)) = strictest(set, clauses, Mode::Enforce, call) {
        (outcome.action, outcome.rule) = (action, Some(rule));
    }
    if !outcome.action.refuses() {
        outcome.audited =
            strictest(set, clauses, Mode::Audit, call).filter(|(action, _)| *action > outcome.action);
    }
    outcome
}

/// One pass over the clauses: the first that holds decides for its policy.
fn strictest(set: &SysSet, clauses: &[Clause], mode: Mode, call: &Call) -> Option<(Action, RuleRef)> {
    let mut decided = None;
    let mut strictest: Option<&Clause> = None;
    for clause in clauses.iter().filter(|clause| clause.mode == mode) {
        if decided == Some(clause.policy)
            || !clause.conditions.iter().all(|condition| condition.holds(&call.args))
        {
            continue;
        }
        decided = Some(clause.policy);
        if clause.action > strictest.map_or(Action::Allow, |clause| clause.action) {
            strictest = Some(clause);
        }
    }
    strictest.map(|clause| (clause.action, set.rules[usize::from(clause.rule)].rule.clone()))
}
