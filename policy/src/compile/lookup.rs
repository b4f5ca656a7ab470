//! Reads the compiled tables as the kernel does: a packet's or a call's verdict from look-ups alone.
//!
//! It knows no policy. What it answers must be what [`decide`](crate::decide) answers; the property tests hold the two
//! against each other, and the kernel's programs are held against both.

use ipnet::IpNet;
use std::net::IpAddr;

use crate::decide::{Call, Executable, FileAccess, Packet, Transport, Via};
use crate::model::{Action, Capability, Direction, Mode, NetScope, RuleRef, Workload, World, canonical};
use crate::paths::Automaton;

use super::Compiled;
use super::access::{AccessSet, Answers};
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

/// What happens to a system call, or to an access to an executable, a file or a capability.
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
    let clauses = set.calls.get(&(call.abi, call.number)).unwrap_or(&set.others);
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

/// What the policies say of running a program, for the workload at this place of the input.
#[must_use]
pub fn lookup_executable(compiled: &Compiled, place: usize, executable: &Executable) -> CallOutcome {
    let Some(set) = compiled.access_set(place) else { return allowed() };
    let outcome = outcome(set.executables.as_ref(), executable.path.as_deref());
    let row = set.processes.get(usize::from(outcome)).copied().unwrap_or_default();
    named(set, row[usize::from(!executable.in_image)])
}

/// What the policies say of an operation on a file, for the workload at this place of the input.
#[must_use]
pub fn lookup_file(compiled: &Compiled, place: usize, access: &FileAccess) -> CallOutcome {
    let Some(set) = compiled.access_set(place) else { return allowed() };
    let file = outcome(set.files.as_ref(), Some(&access.path));
    if file == 0 {
        return allowed();
    }
    let executable = outcome(set.executables.as_ref(), access.executable.as_deref());
    let row = set.operations.get(&(file, executable)).copied().unwrap_or_default();
    named(set, row[access.operation.index()])
}

/// What the policies say of a file or directory losing the protection of a name, for the workload at this place of the
/// input: see [`AccessSet`].
#[must_use]
pub fn lookup_move(
    compiled: &Compiled,
    place: usize,
    from: &[u8],
    to: &[u8],
    is_directory: bool,
    executable: Option<&[u8]>,
) -> CallOutcome {
    let Some(set) = compiled.access_set(place) else { return allowed() };
    let Some(files) = &set.files else { return allowed() };
    let state = |path| {
        let state = files.walk(Automaton::START, path);
        if is_directory { files.walk(state, b"/") } else { state }
    };
    let (from, to) = (state(from), state(to));
    let reach = set.reach[usize::from(from)];
    if from == to || reach == 0 {
        return allowed();
    }
    let executable = outcome(set.executables.as_ref(), executable);
    named(set, set.moves.get(&(reach, executable)).copied().unwrap_or_default())
}

/// What the policies say of using a capability, for the workload at this place of the input.
#[must_use]
pub fn lookup_capability(compiled: &Compiled, place: usize, capability: Capability) -> CallOutcome {
    let Some(set) = compiled.access_set(place) else { return allowed() };
    named(set, set.capabilities.get(&capability).copied().unwrap_or_default())
}

fn outcome(automaton: Option<&Automaton>, path: Option<&[u8]>) -> u16 {
    automaton.zip(path).map_or(0, |(automaton, path)| automaton.outcome_of(path))
}

fn allowed() -> CallOutcome {
    CallOutcome { action: Action::Allow, rule: None, audited: None }
}

fn named(set: &AccessSet, answers: Answers) -> CallOutcome {
    let rule = |number: u16| set.rules[usize::from(number)].rule.clone();
    CallOutcome {
        action: answers.action(),
        rule: answers.enforced.map(|answer| rule(answer.rule)),
        audited: answers.audited.map(|answer| (answer.action, rule(answer.rule))),
    }
}
