//! Classes of (identity, entities) pairs.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use crate::model::{Entities, Identity, World};
use crate::selector::{Operator, Requirement, Selector};

use super::universe::{Matcher, NamespaceScope, Universe};

/// What each (identity, entities) pair of the world matches. Pairs that match nothing are left out. `None` if they match more than `limit` times in all.
pub(crate) fn matches(
    universe: &Universe,
    world: &World,
    limit: usize,
) -> Option<BTreeMap<(u32, Entities), PeerMatches>> {
    let mut pairs: HashSet<(u32, Entities)> = HashSet::new();
    pairs.insert((0, Entities::WORLD));
    pairs.insert((0, Entities::HOST));
    for facts in world.addresses.values() {
        let entities = if facts.entities.is_empty() { Entities::WORLD } else { facts.entities };
        pairs.insert((facts.identity.unwrap_or(0), entities));
    }

    let ids: BTreeSet<u32> = pairs.iter().map(|(identity, _)| *identity).collect();
    let identities: Vec<&Identity> = ids.iter().filter_map(|id| world.identities.get(id)).collect();
    let by_identity = identity_matches(universe, world, &identities, limit)?;
    let entity_groups: Vec<(u32, Entities)> = universe
        .matcher_groups
        .iter()
        .zip(&universe.matchers)
        .filter_map(|(group, matcher)| match matcher {
            Matcher::Entity(entity) => Some((*group, *entity)),
            _ => None,
        })
        .collect();

    let mut found = BTreeMap::new();
    for (id, entities) in pairs {
        let by_entity = entity_groups.iter().filter(|(_, entity)| entities.contains(*entity));
        let mut groups: Vec<u32> = by_entity.map(|(group, _)| *group).collect();
        let mut named_ports = Vec::new();
        if let Some(known) = by_identity.get(&id) {
            groups.extend(&known.groups);
            named_ports.clone_from(&known.named_ports);
        }
        groups.sort_unstable();
        groups.dedup();
        // Names that no rule asks this pair for do not make it another class.
        let asked =
            |index: &u32| groups.iter().any(|group| universe.group_ports[*group as usize].contains(index));
        named_ports.retain(|(index, _)| asked(index));
        if !groups.is_empty() {
            found.insert((id, entities), PeerMatches { groups, named_ports });
        }
    }
    Some(found)
}

/// What a pair matches.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct PeerMatches {
    /// Groups of matchers, sorted.
    pub(crate) groups: Vec<u32>,
    /// (Index, number) of the declared named ports that rules of these groups use, sorted.
    pub(crate) named_ports: Vec<(u32, u16)>,
}

fn identity_matches(
    universe: &Universe,
    world: &World,
    identities: &[&Identity],
    limit: usize,
) -> Option<HashMap<u32, PeerMatches>> {
    let mut matched = 0;
    let index = Index::new(universe, world, identities);
    let mut found: Vec<PeerMatches> = vec![PeerMatches::default(); identities.len()];
    for (group, matcher) in universe.matcher_groups.iter().zip(&universe.matchers) {
        for place in index.matching(matcher).iter() {
            found[place].groups.push(*group);
            matched += 1;
        }
        if matched > limit {
            return None;
        }
    }
    for (number, named) in (0..).zip(&universe.named_ports) {
        for (identity, found) in identities.iter().zip(&mut found) {
            if let Some(port) = identity.named_ports.get(named) {
                found.named_ports.push((number, *port));
            }
        }
    }
    Some(identities.iter().zip(found).map(|(identity, found)| (identity.id, found)).collect())
}

/// A set of places in the list of identities.
#[derive(Debug, Clone)]
struct Places(Vec<u64>);

impl Places {
    fn none(count: usize) -> Self {
        Self(vec![0; count.div_ceil(64)])
    }

    fn all(count: usize) -> Self {
        let mut all = Self::none(count);
        (0..count).for_each(|place| all.insert(place));
        all
    }

    fn insert(&mut self, place: usize) {
        self.0[place / 64] |= 1 << (place % 64);
    }

    fn insert_all(&mut self, places: Option<&Vec<usize>>) {
        places.into_iter().flatten().for_each(|place| self.insert(*place));
    }

    fn retain(&mut self, other: &Self) {
        self.0.iter_mut().zip(&other.0).for_each(|(word, other)| *word &= other);
    }

    fn remove(&mut self, other: &Self) {
        self.0.iter_mut().zip(&other.0).for_each(|(word, other)| *word &= !other);
    }

    fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        self.0.iter().enumerate().flat_map(|(at, word)| {
            let mut rest = *word;
            std::iter::from_fn(move || {
                let bit = (rest != 0).then(|| rest.trailing_zeros() as usize)?;
                rest &= rest - 1;
                Some(at * 64 + bit)
            })
        })
    }
}

/// The identities by what matchers ask for, so that a matcher costs a few set operations and not a comparison with
/// each identity.
struct Index<'a> {
    world: &'a World,
    count: usize,
    by_namespace: HashMap<&'a str, Vec<usize>>,
    by_account: HashMap<&'a str, Vec<usize>>,
    by_port: HashMap<&'a (String, crate::model::Protocol), Vec<usize>>,
    /// Of the label keys that some selector of the universe looks at.
    by_label: HashMap<&'a str, HashMap<&'a str, Vec<usize>>>,
}

impl<'a> Index<'a> {
    fn new(universe: &'a Universe, world: &'a World, identities: &[&'a Identity]) -> Self {
        let mut by_label: HashMap<&str, HashMap<&str, Vec<usize>>> = HashMap::new();
        for matcher in &universe.matchers {
            if let Matcher::Pods { pods, .. } = matcher {
                for key in pods.keys() {
                    by_label.entry(key).or_default();
                }
            }
        }
        let mut index = Self {
            world,
            count: identities.len(),
            by_namespace: HashMap::new(),
            by_account: HashMap::new(),
            by_port: HashMap::new(),
            by_label,
        };
        for (place, identity) in identities.iter().enumerate() {
            index.by_namespace.entry(&identity.namespace).or_default().push(place);
            if let Some(account) = &identity.service_account {
                index.by_account.entry(account).or_default().push(place);
            }
            for named in identity.named_ports.keys() {
                index.by_port.entry(named).or_default().push(place);
            }
            for (key, value) in &identity.labels {
                if let Some(values) = index.by_label.get_mut(key.as_str()) {
                    values.entry(value).or_default().push(place);
                }
            }
        }
        index
    }

    fn matching(&self, matcher: &Matcher) -> Places {
        match matcher {
            Matcher::Entity(_) => Places::none(self.count),
            Matcher::Pods { namespaces, pods } => {
                let mut places = self.in_namespaces(namespaces);
                self.retain_labelled(&mut places, pods);
                places
            }
            Matcher::ServiceAccount { namespaces, name } => {
                let mut places = self.in_namespaces(namespaces);
                places.retain(&self.listed(self.by_account.get(name.as_str())));
                places
            }
            Matcher::DeclaresPort { name, protocol } => {
                self.listed(self.by_port.get(&(name.clone(), *protocol)))
            }
        }
    }

    fn listed(&self, list: Option<&Vec<usize>>) -> Places {
        let mut places = Places::none(self.count);
        places.insert_all(list);
        places
    }

    fn in_namespaces(&self, scope: &NamespaceScope) -> Places {
        match scope {
            NamespaceScope::All => Places::all(self.count),
            NamespaceScope::One(namespace) => self.listed(self.by_namespace.get(namespace.as_str())),
            NamespaceScope::Matching(selector) => {
                let mut places = Places::none(self.count);
                for (namespace, list) in &self.by_namespace {
                    if selector.matches_namespace(namespace, self.world.namespaces.get(*namespace)) {
                        places.insert_all(Some(list));
                    }
                }
                places
            }
        }
    }

    fn retain_labelled(&self, places: &mut Places, selector: &Selector) {
        for (key, value) in &selector.match_labels {
            places.retain(&self.with_values(key, std::slice::from_ref(value)));
        }
        for Requirement { key, operator, values } in &selector.match_expressions {
            match operator {
                Operator::In => places.retain(&self.with_values(key, values)),
                Operator::NotIn => places.remove(&self.with_values(key, values)),
                Operator::Exists => places.retain(&self.with_key(key)),
                Operator::DoesNotExist => places.remove(&self.with_key(key)),
            }
        }
    }

    fn with_values(&self, key: &str, values: &[String]) -> Places {
        let mut places = Places::none(self.count);
        if let Some(by_value) = self.by_label.get(key) {
            for value in values {
                places.insert_all(by_value.get(value.as_str()));
            }
        }
        places
    }

    fn with_key(&self, key: &str) -> Places {
        let mut places = Places::none(self.count);
        if let Some(by_value) = self.by_label.get(key) {
            for list in by_value.values() {
                places.insert_all(Some(list));
            }
        }
        places
    }
}
