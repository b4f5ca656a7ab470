//! Network sets: the rows of each distinct list of policies.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::rc::Rc;
use std::sync::Arc;

use crate::error::CompileError;
use crate::model::{Direction, FAILSAFE, Mode, Policy, PolicyId, Protocol, RulePath, RuleRef, Workload};

use super::classes::{Classes, Local};
use super::network::{Cell, DirectionHeader, Header, NetSet, NetSetKey, PolicyKey, Refusal, VerdictKey};
use super::rows::{Voice, rows};
use super::rules::{PlannedPolicy, PlannedRule, Ports};
use super::service::{ServiceClasses, service_rows};

/// One policy with network rules that selects some workload.
pub(crate) struct Source<'a> {
    pub(crate) policy: &'a Policy,
    pub(crate) key: PolicyKey,
    pub(crate) planned: PlannedPolicy,
    /// The classes that each rule concerns, in the order of the planned rules of ingress, then of egress.
    pub(crate) classes: [Vec<Vec<Local>>; 2],
}

/// The named ports of a workload that an ingress rule of these policies uses.
pub(crate) fn own_ports(sources: &[&Source<'_>], workload: &Workload) -> Vec<(String, Protocol, u16)> {
    if workload.named_ports.is_empty() {
        return Vec::new();
    }
    let mut used = BTreeSet::new();
    for port in sources
        .iter()
        .filter_map(|source| source.planned.ingress.as_ref())
        .flatten()
        .filter_map(|rule| rule.ports.as_ref())
        .flatten()
    {
        if let Ports::Own(name) = &port.ports
            && let Some(number) = workload.named_ports.get(&(name.clone(), port.protocol))
        {
            used.insert((name.clone(), port.protocol, *number));
        }
    }
    used.into_iter().collect()
}

/// Builds the set of these policies, which are in the order of their names.
pub(crate) fn build(
    key: NetSetKey,
    sources: &[&Source<'_>],
    classes: &Classes,
    services: &ServiceClasses,
    workload: &Workload,
) -> Result<NetSet, CompileError> {
    let rules = number_rules(sources, workload)?;
    let number = |policy: &PolicyId, path: RulePath| {
        let found = rules.numbers.get(&(policy, path)).copied();
        found.unwrap_or(u16::MAX)
    };
    let mut set = NetSet { key, rules: Vec::new(), header: Header::default(), verdicts: Vec::new() };
    for direction in Direction::ALL {
        let header = header(sources, direction, &number);
        match direction {
            Direction::Ingress => set.header.ingress = header,
            Direction::Egress => set.header.egress = header,
        }
        let failsafe: Vec<(Protocol, u16, u16)> = FAILSAFE
            .iter()
            .filter(|(of, ..)| set.key.failsafe && *of == direction)
            .map(|(_, protocol, first, last)| (*protocol, *first, *last))
            .collect();
        let builder = Builder { direction, classes, own_ports: &set.key.named_ports, failsafe: &failsafe };
        let by_class = builder.rows(sources, &number);
        let mut verdicts: Vec<(VerdictKey, Cell)> = Vec::new();
        for (local, rows) in &by_class {
            let class = classes.id(*local);
            verdicts.extend(
                rows.iter().map(|(scope, cell)| (VerdictKey { direction, class, scope: *scope }, *cell)),
            );
        }
        if direction == Direction::Egress {
            service_rows(services, &by_class, &mut verdicts);
        }
        verdicts.sort_unstable_by_key(|(key, _)| *key);
        set.verdicts.append(&mut verdicts);
    }
    set.rules = rules.refs;
    Ok(set)
}

/// The rules that a refusal can be attributed to.
struct Numbered<'a> {
    refs: Vec<RuleRef>,
    numbers: HashMap<(&'a PolicyId, RulePath), u16>,
}

fn number_rules<'a>(sources: &[&'a Source<'_>], workload: &Workload) -> Result<Numbered<'a>, CompileError> {
    let mut numbered = Numbered { refs: Vec::new(), numbers: HashMap::new() };
    for source in sources {
        let mut paths = Vec::new();
        for direction in Direction::ALL {
            let Some(rules) = source.planned.direction(direction) else { continue };
            paths.push(RulePath::Default(direction));
            let denies = rules.iter().filter(|rule| rule.deny);
            paths.extend(denies.map(|rule| RulePath::Deny(direction, rule.index)));
        }
        paths.sort_unstable();
        for path in paths {
            let number =
                u16::try_from(numbered.refs.len()).ok().filter(|n| usize::from(*n) < NetSet::MAX_RULES);
            let Some(number) = number else {
                return Err(CompileError::TooManyRules {
                    policy: source.policy.id.clone(),
                    workload: format!("{}/{}", workload.namespace, workload.name),
                    limit: NetSet::MAX_RULES,
                    kind: "network",
                });
            };
            numbered.refs.push(RuleRef { policy: source.policy.id.clone(), path });
            numbered.numbers.insert((&source.policy.id, path), number);
        }
    }
    Ok(numbered)
}

fn header(
    sources: &[&Source<'_>],
    direction: Direction,
    number: &impl Fn(&PolicyId, RulePath) -> u16,
) -> DirectionHeader {
    let first = |mode| {
        let isolating = |source: &&&Source<'_>| {
            source.planned.mode == mode && source.planned.direction(direction).is_some()
        };
        sources.iter().find(isolating).map(|source| {
            let rule = number(&source.policy.id, RulePath::Default(direction));
            Refusal { rule, reject: source.planned.reject }
        })
    };
    DirectionHeader { enforce: first(Mode::Enforce), audit: first(Mode::Audit).map(|refusal| refusal.rule) }
}

/// The rows of each class that some rule concerns.
pub(crate) type RowsByClass = BTreeMap<Local, Rc<Vec<(super::network::Scope, Cell)>>>;

/// What decides the rows of a class: the rules that concern it, and how it resolves the names that they use.
type HeardAs = (Vec<usize>, Vec<(u32, u16)>);

struct Builder<'a> {
    direction: Direction,
    classes: &'a Classes,
    own_ports: &'a [(String, Protocol, u16)],
    failsafe: &'a [(Protocol, u16, u16)],
}

impl Builder<'_> {
    fn rows(&self, sources: &[&Source<'_>], number: &impl Fn(&PolicyId, RulePath) -> u16) -> RowsByClass {
        // What each rule says, and the classes that hear it.
        let mut rules: Vec<(&PlannedRule, Cell)> = Vec::new();
        let mut heard: HashMap<Local, Vec<usize>> = HashMap::new();
        if !self.failsafe.is_empty()
            && sources.iter().any(|source| source.planned.direction(self.direction).is_some())
        {
            heard.insert(Local::ANY, Vec::new());
        }
        for source in sources {
            let Some(planned) = source.planned.direction(self.direction) else { continue };
            for (rule, concerned) in planned.iter().zip(&source.classes[side(self.direction)]) {
                let cell = self.says(source, rule, number);
                for local in concerned {
                    heard.entry(*local).or_default().push(rules.len());
                }
                rules.push((rule, cell));
            }
        }
        // Classes that hear the same rules and resolve names alike share their rows.
        let mut known: HashMap<HeardAs, Rc<Vec<_>>> = HashMap::new();
        let mut by_class = BTreeMap::new();
        for (local, list) in heard {
            let asks_names = self.direction == Direction::Egress
                && list.iter().any(|index| {
                    let ports = rules[*index].0.ports.iter().flatten();
                    ports.into_iter().any(|port| matches!(port.ports, Ports::Peers(_)))
                });
            let named: &[(u32, u16)] = if asks_names { self.classes.named_ports(local) } else { &[] };
            let rows = known.entry((list, named.to_vec())).or_insert_with_key(|(list, named)| {
                let voices: Vec<Voice> = list
                    .iter()
                    .map(|index| {
                        let (rule, cell) = rules[*index];
                        Voice { cell, ports: self.ports(rule, named) }
                    })
                    .collect();
                Rc::new(rows(&voices, self.failsafe))
            });
            if !rows.is_empty() {
                by_class.insert(local, Rc::clone(rows));
            }
        }
        by_class
    }

    fn says(
        &self,
        source: &Source<'_>,
        rule: &PlannedRule,
        number: &impl Fn(&PolicyId, RulePath) -> u16,
    ) -> Cell {
        let mut cell = Cell::default();
        let path = RulePath::Deny(self.direction, rule.index);
        match (source.planned.mode, rule.deny) {
            (Mode::Enforce, false) => cell.allow = true,
            (Mode::Audit, false) => cell.audit_allow = true,
            (Mode::Enforce, true) => {
                let rule = number(&source.policy.id, path);
                cell.deny = Some(Refusal { rule, reject: source.planned.reject });
            }
            (Mode::Audit, true) => cell.audit_deny = Some(number(&source.policy.id, path)),
        }
        cell
    }

    /// The rule's port ranges, names resolved: the workload's own at ingress, those of the class at egress.
    fn ports(&self, rule: &PlannedRule, named: &[(u32, u16)]) -> Option<Vec<(Protocol, u16, u16)>> {
        let ports = rule.ports.as_ref()?;
        let resolve = |port: &super::rules::PlannedPort| match &port.ports {
            Ports::Range(first, last) => Some((*first, *last)),
            Ports::Own(name) => self
                .own_ports
                .iter()
                .find(|(own, protocol, _)| own == name && *protocol == port.protocol)
                .map(|(_, _, number)| (*number, *number)),
            Ports::Peers(index) => {
                named.iter().find(|(of, _)| of == index).map(|(_, number)| (*number, *number))
            }
        };
        Some(
            ports
                .iter()
                .filter_map(|port| resolve(port).map(|(first, last)| (port.protocol, first, last)))
                .collect(),
        )
    }
}

/// The place of a direction in [`Source::classes`].
pub(crate) fn side(direction: Direction) -> usize {
    match direction {
        Direction::Ingress => 0,
        Direction::Egress => 1,
    }
}

/// Takes the set of the previous compilation where nothing changed, so that whoever compares finds it at once.
pub(crate) fn shared(set: NetSet, previous: Option<&Arc<NetSet>>) -> Arc<NetSet> {
    match previous {
        Some(previous) if **previous == set => Arc::clone(previous),
        _ => Arc::new(set),
    }
}
