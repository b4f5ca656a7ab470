//! The rules of the selected policies in terms of the universe: what peers are compared with gets a number.

use std::collections::HashMap;
use std::hash::Hash;

use crate::model::{
    Direction, Entity, IpBlock, Mode, NetRule, OnDeny, Peer, Policy, PolicyId, PortMatch, PortRef, Protocol,
};
use crate::selector::Selector;

use super::universe::{Matcher, NamespaceScope, Universe};

/// The network rules of one policy.
#[derive(Debug)]
pub(crate) struct PlannedPolicy {
    pub(crate) mode: Mode,
    pub(crate) reject: bool,
    /// The rules of ingress and egress; `None` = the policy does not have that direction.
    pub(crate) ingress: Option<Vec<PlannedRule>>,
    pub(crate) egress: Option<Vec<PlannedRule>>,
}

impl PlannedPolicy {
    pub(crate) fn direction(&self, direction: Direction) -> Option<&Vec<PlannedRule>> {
        match direction {
            Direction::Ingress => self.ingress.as_ref(),
            Direction::Egress => self.egress.as_ref(),
        }
    }
}

/// One network rule.
#[derive(Debug)]
pub(crate) struct PlannedRule {
    /// Whether it is a deny rule, and its place among those (or among the allow rules).
    pub(crate) deny: bool,
    pub(crate) index: u16,
    /// It has no peers.
    pub(crate) anyone: bool,
    /// It refuses flows that the host's own sockets opened.
    pub(crate) node_flow: bool,
    /// Groups of the universe's matchers and blocks.
    pub(crate) matchers: Vec<u32>,
    pub(crate) blocks: Vec<u32>,
    /// `None` = every protocol and port.
    pub(crate) ports: Option<Vec<PlannedPort>>,
}

/// One entry of a rule's ports.
#[derive(Debug)]
pub(crate) struct PlannedPort {
    pub(crate) protocol: Protocol,
    pub(crate) ports: Ports,
}

/// The ports of a [`PlannedPort`].
#[derive(Debug)]
pub(crate) enum Ports {
    /// From the first to the last, inclusive; none where the first is above the last.
    Range(u16, u16),
    /// A named port of the workload itself.
    Own(String),
    /// A named port of the peer, as an index into the universe's.
    Peers(u32),
}

/// Builds the universe of these policies, and their rules in terms of it, in the same order.
pub(crate) fn plan<'a>(policies: impl Iterator<Item = &'a Policy>) -> (Universe, Vec<Option<PlannedPolicy>>) {
    let mut terms = Terms::default();
    let mut planned: Vec<Option<PlannedPolicy>> = policies.map(|policy| terms.policy(policy)).collect();
    let (matchers, matcher_order) = terms.matchers.sorted();
    let (blocks, block_order) = terms.blocks.sorted();
    let (named_ports, port_order) = terms.named_ports.sorted();
    let mut rules: Vec<&mut PlannedRule> = planned
        .iter_mut()
        .flatten()
        .flat_map(|policy| policy.ingress.iter_mut().chain(&mut policy.egress).flatten())
        .collect();
    for rule in &mut rules {
        renumber(&mut rule.matchers, &matcher_order);
        renumber(&mut rule.blocks, &block_order);
        for port in rule.ports.iter_mut().flatten() {
            if let Ports::Peers(index) = &mut port.ports {
                *index = port_order[*index as usize];
            }
        }
    }

    let matcher_groups = groups(matchers.len(), rules.iter().map(|rule| &rule.matchers));
    let block_groups = groups(blocks.len(), rules.iter().map(|rule| &rule.blocks));
    let count = matcher_groups.iter().max().map_or(0, |last| *last as usize + 1);
    let mut group_ports = vec![Vec::new(); count];
    for rule in &mut rules {
        renumber(&mut rule.matchers, &matcher_groups);
        renumber(&mut rule.blocks, &block_groups);
        for port in rule.ports.iter().flatten() {
            if let Ports::Peers(index) = port.ports {
                rule.matchers.iter().for_each(|group| group_ports[*group as usize].push(index));
            }
        }
    }
    for ports in &mut group_ports {
        ports.sort_unstable();
        ports.dedup();
    }
    let universe = Universe { matchers, blocks, named_ports, matcher_groups, block_groups, group_ports };
    (universe, planned)
}

/// Puts those of `count` terms together that exactly the same rules use. Groups are numbered by their first terms.
fn groups<'a>(count: usize, rules: impl Iterator<Item = &'a Vec<u32>>) -> Vec<u32> {
    let mut users: Vec<Vec<u32>> = vec![Vec::new(); count];
    for (rule, terms) in (0..).zip(rules) {
        for term in terms {
            users[*term as usize].push(rule);
        }
    }
    let mut numbers = Interner::default();
    users.into_iter().map(|users| numbers.index(users)).collect()
}

fn renumber(indices: &mut Vec<u32>, order: &[u32]) {
    for index in indices.iter_mut() {
        *index = order[*index as usize];
    }
    indices.sort_unstable();
    indices.dedup();
}

/// Values met so far, numbered in the order of their arrival.
#[derive(Debug)]
struct Interner<T>(HashMap<T, u32>);

impl<T> Default for Interner<T> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<T: Hash + Ord> Interner<T> {
    fn index(&mut self, value: T) -> u32 {
        let next = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        *self.0.entry(value).or_insert(next)
    }

    /// The values sorted, and for each number of arrival the place in the sorted list.
    fn sorted(self) -> (Vec<T>, Vec<u32>) {
        let mut values: Vec<(T, u32)> = self.0.into_iter().collect();
        values.sort_unstable();
        let mut order = vec![0; values.len()];
        for ((_, arrival), place) in values.iter().zip(0..) {
            order[*arrival as usize] = place;
        }
        (values.into_iter().map(|(value, _)| value).collect(), order)
    }
}

#[derive(Debug, Default)]
struct Terms {
    matchers: Interner<Matcher>,
    blocks: Interner<IpBlock>,
    named_ports: Interner<(String, Protocol)>,
}

impl Terms {
    fn policy(&mut self, policy: &Policy) -> Option<PlannedPolicy> {
        let network = policy.network.as_ref()?;
        let mut direction = |direction| {
            let rules = network.direction(direction)?;
            let mut planned = Vec::with_capacity(rules.allow.len() + rules.deny.len());
            for (deny, list) in [(false, &rules.allow), (true, &rules.deny)] {
                for (index, rule) in (0..=u16::MAX).zip(list) {
                    planned.push(self.rule(&policy.id, direction, deny, index, rule));
                }
            }
            Some(planned)
        };
        Some(PlannedPolicy {
            mode: policy.mode,
            reject: network.on_deny == OnDeny::Reject,
            ingress: direction(Direction::Ingress),
            egress: direction(Direction::Egress),
        })
    }

    fn rule(
        &mut self,
        policy: &PolicyId,
        direction: Direction,
        deny: bool,
        index: u16,
        rule: &NetRule,
    ) -> PlannedRule {
        let mut planned = PlannedRule {
            deny,
            index,
            anyone: rule.peers.is_none(),
            node_flow: false,
            matchers: Vec::new(),
            blocks: Vec::new(),
            ports: rule
                .ports
                .as_ref()
                .map(|ports| ports.iter().map(|port| self.port(direction, port)).collect()),
        };
        for peer in rule.peers.iter().flatten() {
            match peer {
                Peer::IpBlock(block) => planned.blocks.push(self.blocks.index(canonical_block(block))),
                Peer::Entity(entity) => {
                    planned.matchers.push(self.matchers.index(Matcher::Entity(entity.bit())));
                    planned.node_flow |= deny && direction == Direction::Ingress && *entity == Entity::Host;
                }
                Peer::Pods { namespaces, pods } => {
                    let matcher = Matcher::Pods {
                        namespaces: namespace_scope(policy, namespaces.as_ref()),
                        pods: pods.as_ref().map(Selector::canonical).unwrap_or_default(),
                    };
                    planned.matchers.push(self.matchers.index(matcher));
                }
                Peer::ServiceAccount { name, namespace } => {
                    let own = namespace.as_ref().or(policy.namespace.as_ref());
                    let namespaces = own.cloned().map_or(NamespaceScope::All, NamespaceScope::One);
                    let matcher = Matcher::ServiceAccount { namespaces, name: name.clone() };
                    planned.matchers.push(self.matchers.index(matcher));
                }
            }
        }
        if rule.peers.is_none() && direction == Direction::Egress {
            // Anyone, but the named ports are only those of peers that declare them.
            for port in rule.ports.iter().flatten() {
                if let Some(PortRef::Name(name)) = &port.port {
                    let matcher = Matcher::DeclaresPort { name: name.clone(), protocol: port.protocol };
                    planned.matchers.push(self.matchers.index(matcher));
                }
            }
        }
        planned
    }

    fn port(&mut self, direction: Direction, port: &PortMatch) -> PlannedPort {
        let ports = match (&port.port, direction) {
            (None, _) => Ports::Range(0, u16::MAX),
            (Some(PortRef::Number(first)), _) => Ports::Range(*first, port.end_port.unwrap_or(*first)),
            (Some(PortRef::Name(name)), Direction::Ingress) => Ports::Own(name.clone()),
            (Some(PortRef::Name(name)), Direction::Egress) => {
                Ports::Peers(self.named_ports.index((name.clone(), port.protocol)))
            }
        };
        PlannedPort { protocol: port.protocol, ports }
    }
}

fn namespace_scope(policy: &PolicyId, selector: Option<&Selector>) -> NamespaceScope {
    match (selector, &policy.namespace) {
        (Some(selector), _) if *selector == Selector::default() => NamespaceScope::All,
        (Some(selector), _) => NamespaceScope::Matching(selector.canonical()),
        (None, Some(own)) => NamespaceScope::One(own.clone()),
        (None, None) => NamespaceScope::All,
    }
}

fn canonical_block(block: &IpBlock) -> IpBlock {
    let mut except: Vec<_> = block.except.iter().map(ipnet::IpNet::trunc).collect();
    except.sort_unstable();
    except.dedup();
    IpBlock { cidr: block.cidr.trunc(), except }
}
