//! Pods, indexed by what plans ask for: by the addresses they claim, by node, and by shape.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use crate::facts::{ObjectKey, PodFacts, Shape};

/// Where the pods of one shape run.
#[derive(Debug, Default)]
pub struct ShapeUse {
    /// All pods of the shape, also finished ones and those without a node.
    pods: usize,
    /// How many pods policies must cover, by node.
    pub nodes: HashMap<Arc<str>, u32>,
}

/// All pods.
#[derive(Debug, Default)]
pub struct PodIndex {
    pods: HashMap<Arc<ObjectKey>, PodFacts>,
    claims: HashMap<IpAddr, Vec<Arc<ObjectKey>>>,
    by_node: HashMap<Arc<str>, HashSet<Arc<ObjectKey>>>,
    shapes: HashMap<String, HashMap<Arc<Shape>, ShapeUse>>,
}

/// What a change of a pod makes stale.
#[derive(Debug, Default, Eq, PartialEq)]
pub struct PodDirt {
    /// Addresses that it held or holds.
    pub addresses: Vec<IpAddr>,
    /// Whether the pods that policies must cover changed.
    pub coverage: bool,
}

impl PodIndex {
    /// Takes a pod in.
    pub fn set(&mut self, key: ObjectKey, mut facts: PodFacts) -> PodDirt {
        if self.pods.get(&key).is_some_and(|old| *old == facts) {
            return PodDirt::default();
        }
        let mut dirt = PodDirt { addresses: facts.addresses.clone(), coverage: facts.covered() };
        let shared = if let Some((shared, old)) = self.pods.remove_entry(&key) {
            self.unlink(&shared, &old);
            dirt.coverage = (old.covered() || facts.covered())
                && (old.covered(), &old.node, &old.shape) != (facts.covered(), &facts.node, &facts.shape);
            dirt.addresses.extend(old.addresses);
            shared
        } else {
            Arc::new(key)
        };
        facts.shape = self.intern(facts.shape);
        if let Some(known) = facts.node.as_ref().and_then(|node| self.by_node.get_key_value(node)) {
            facts.node = Some(known.0.clone());
        }
        self.link(&shared, &facts);
        self.pods.insert(shared, facts);
        dirt
    }

    /// Forgets a pod.
    pub fn remove(&mut self, key: &ObjectKey) -> PodDirt {
        let Some((shared, facts)) = self.pods.remove_entry(key) else { return PodDirt::default() };
        self.unlink(&shared, &facts);
        PodDirt { coverage: facts.covered(), addresses: facts.addresses }
    }

    fn link(&mut self, key: &Arc<ObjectKey>, facts: &PodFacts) {
        if facts.publishable() {
            for address in &facts.addresses {
                self.claims.entry(*address).or_default().push(key.clone());
            }
        }
        if let Some(node) = &facts.node {
            self.by_node.entry(node.clone()).or_default().insert(key.clone());
        }
        let shapes = self.shapes.entry(facts.shape.identity.namespace.clone()).or_default();
        let shape = shapes.entry(facts.shape.clone()).or_default();
        shape.pods += 1;
        if facts.covered()
            && let Some(node) = &facts.node
        {
            *shape.nodes.entry(node.clone()).or_default() += 1;
        }
    }

    fn unlink(&mut self, key: &Arc<ObjectKey>, facts: &PodFacts) {
        if facts.publishable() {
            for address in &facts.addresses {
                if let Some(claims) = self.claims.get_mut(address) {
                    if let Some(at) = claims.iter().position(|claim| claim == key) {
                        claims.swap_remove(at);
                    }
                    if claims.is_empty() {
                        self.claims.remove(address);
                    }
                }
            }
        }
        if let Some(node) = &facts.node
            && let Some(pods) = self.by_node.get_mut(node)
        {
            pods.remove(key);
            if pods.is_empty() {
                self.by_node.remove(node);
            }
        }
        if let Some(shapes) = self.shapes.get_mut(&facts.shape.identity.namespace)
            && let Some(shape) = shapes.get_mut(&facts.shape)
        {
            shape.pods -= 1;
            if facts.covered()
                && let Some(node) = &facts.node
                && let Some(count) = shape.nodes.get_mut(node)
            {
                *count -= 1;
                if *count == 0 {
                    shape.nodes.remove(node);
                }
            }
        }
        self.forget_unused(&facts.shape);
    }

    /// The one copy of a shape that equal shapes share.
    fn intern(&self, shape: Arc<Shape>) -> Arc<Shape> {
        let known =
            self.shapes.get(&shape.identity.namespace).and_then(|shapes| shapes.get_key_value(&shape));
        known.map_or(shape, |(known, _)| known.clone())
    }

    fn forget_unused(&mut self, shape: &Arc<Shape>) {
        let Some(shapes) = self.shapes.get_mut(&shape.identity.namespace) else { return };
        if shapes.get(shape).is_some_and(|shape| shape.pods == 0) {
            shapes.remove(shape);
            if shapes.is_empty() {
                self.shapes.remove(&shape.identity.namespace);
            }
        }
    }

    /// The keys of all pods.
    pub fn keys(&self) -> impl Iterator<Item = &ObjectKey> {
        self.pods.keys().map(AsRef::as_ref)
    }

    /// How many pods there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.pods.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pods.is_empty()
    }

    /// The live pods that say this address is theirs.
    pub fn claims(&self, address: IpAddr) -> impl Iterator<Item = &PodFacts> {
        self.claims.get(&address).into_iter().flatten().filter_map(|key| self.pods.get(key))
    }

    /// All addresses that live pods say are theirs.
    pub fn claimed(&self) -> impl Iterator<Item = IpAddr> {
        self.claims.keys().copied()
    }

    /// The addresses that pods of this node say are theirs.
    pub fn addresses_on<'a>(&'a self, node: &str) -> impl Iterator<Item = IpAddr> + use<'a> {
        self.by_node
            .get(node)
            .into_iter()
            .flatten()
            .filter_map(|key| self.pods.get(key))
            .flat_map(|pod| pod.addresses.iter().copied())
    }

    /// Whether any pod is bound to this node.
    #[must_use]
    pub fn any_on(&self, node: &str) -> bool {
        self.by_node.contains_key(node)
    }

    /// The shapes of the pods of one namespace.
    pub fn shapes_of(&self, namespace: &str) -> impl Iterator<Item = (&Arc<Shape>, &ShapeUse)> {
        self.shapes.get(namespace).into_iter().flatten()
    }

    /// The namespaces that have pods.
    pub fn namespaces(&self) -> impl Iterator<Item = &str> {
        self.shapes.keys().map(String::as_str)
    }
}
