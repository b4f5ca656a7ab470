//! Many patterns as one deterministic automaton over bytes, which a kernel program walks with one look-up a byte.

use std::collections::{BTreeSet, HashMap};

use super::{Component, Pattern};

/// A minimal deterministic automaton: two states are one exactly if the same continuations lead to the same patterns.
///
/// That is of use beyond matching: what a directory's new name protects is what its old name protected exactly if both
/// names, with a slash, lead to the same state.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Automaton {
    /// For each byte its column in [`next`](Self::next): bytes that no pattern tells apart share one.
    pub columns: [u8; 256],
    /// How many columns there are.
    pub width: usize,
    /// state * [`width`](Self::width) + column -> state.
    pub next: Vec<u16>,
    /// state -> which patterns match a path that ends there, as an index into [`outcomes`](Self::outcomes).
    pub outcome: Vec<u16>,
    /// The distinct sets of patterns that match together, each in ascending order; the first is empty.
    pub outcomes: Vec<Vec<usize>>,
}

/// The patterns together would need more than [`Automaton::MAX_STATES`] states.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the paths together are too intricate: more than {} states; use fewer ** that begin a path",
    Automaton::MAX_STATES
)]
pub struct TooManyStates;

impl Automaton {
    /// No path that comes here can match any more.
    pub const DEAD: u16 = 0;
    /// Where a path begins.
    pub const START: u16 = 1;
    /// The most states that an automaton may have, before what is equal is made one.
    pub const MAX_STATES: usize = 16_384;

    /// Builds the automaton of these patterns.
    ///
    /// # Errors
    /// When there would be too many states.
    pub fn build(patterns: &[Pattern]) -> Result<Self, TooManyStates> {
        let (columns, width) = columns(patterns);
        let nfa = Nfa::new(patterns);
        let raw = determine(&nfa, &columns, width)?;
        Ok(minimal(raw, columns, width))
    }

    /// How many states there are, the dead one included.
    #[must_use]
    pub fn states(&self) -> usize {
        self.outcome.len()
    }

    /// The state that these bytes lead to.
    #[must_use]
    pub fn walk(&self, from: u16, bytes: &[u8]) -> u16 {
        bytes.iter().fold(from, |state, byte| {
            self.next[usize::from(state) * self.width + usize::from(self.columns[usize::from(*byte)])]
        })
    }

    /// The index into [`outcomes`](Self::outcomes) for a path.
    #[must_use]
    pub fn outcome_of(&self, path: &[u8]) -> u16 {
        self.outcome[usize::from(self.walk(Self::START, path))]
    }

    /// The patterns that match a path, in ascending order.
    #[must_use]
    pub fn matching(&self, path: &[u8]) -> &[usize] {
        &self.outcomes[usize::from(self.outcome_of(path))]
    }
}

/// The slash has a column of its own, as have the bytes that some pattern names; all others share column 0.
fn columns(patterns: &[Pattern]) -> ([u8; 256], usize) {
    let mut named: BTreeSet<u8> = BTreeSet::from([b'/']);
    for component in patterns.iter().flat_map(Pattern::components) {
        if let Component::Name(pieces) = component {
            named.extend(pieces.iter().flatten());
        }
    }
    let mut columns = [0; 256];
    // At most 255: zero bytes are in no pattern.
    for (column, byte) in (1..=u8::MAX).zip(&named) {
        columns[usize::from(*byte)] = column;
    }
    (columns, named.len() + 1)
}

#[derive(Clone, Copy)]
enum Label {
    Byte(u8),
    NotSlash,
}

#[derive(Default)]
struct Node {
    edges: Vec<(Label, usize)>,
    free: Vec<usize>,
    accepts: Option<usize>,
}

/// The patterns side by side, as a nondeterministic automaton. Node 0 is where all begin.
struct Nfa {
    nodes: Vec<Node>,
}

impl Nfa {
    fn new(patterns: &[Pattern]) -> Self {
        let mut nfa = Self { nodes: vec![Node::default()] };
        for (number, pattern) in patterns.iter().enumerate() {
            let mut at = nfa.node();
            nfa.nodes[0].free.push(at);
            let last = pattern.components().len().saturating_sub(1);
            for (index, component) in pattern.components().iter().enumerate() {
                at = match component {
                    Component::Deep => nfa.deep(at, index == last),
                    Component::Name(pieces) => nfa.name(at, pieces),
                };
            }
            nfa.nodes[at].accepts = Some(number);
        }
        nfa
    }

    fn node(&mut self) -> usize {
        self.nodes.push(Node::default());
        self.nodes.len() - 1
    }

    fn edge(&mut self, from: usize, label: Label) -> usize {
        let to = self.node();
        self.nodes[from].edges.push((label, to));
        to
    }

    /// Components, any number of them; at least one where they end the pattern.
    fn deep(&mut self, at: usize, ends: bool) -> usize {
        let slash = self.edge(at, Label::Byte(b'/'));
        let inside = self.edge(slash, Label::NotSlash);
        self.nodes[inside].edges.push((Label::NotSlash, inside));
        if ends {
            self.nodes[inside].edges.push((Label::Byte(b'/'), slash));
            return inside;
        }
        self.nodes[inside].free.push(at);
        at
    }

    fn name(&mut self, at: usize, pieces: &[Vec<u8>]) -> usize {
        let mut at = self.edge(at, Label::Byte(b'/'));
        for (index, piece) in pieces.iter().enumerate() {
            if index > 0 {
                let star = self.node();
                self.nodes[at].free.push(star);
                self.nodes[star].edges.push((Label::NotSlash, star));
                at = star;
            }
            for byte in piece {
                at = self.edge(at, Label::Byte(*byte));
            }
        }
        at
    }

    /// The nodes, and what they lead to without a byte; sorted.
    fn closed(&self, mut nodes: Vec<usize>) -> Vec<usize> {
        let mut seen: BTreeSet<usize> = nodes.iter().copied().collect();
        while let Some(node) = nodes.pop() {
            for next in &self.nodes[node].free {
                if seen.insert(*next) {
                    nodes.push(*next);
                }
            }
        }
        seen.into_iter().collect()
    }
}

struct Raw {
    next: Vec<u16>,
    accepts: Vec<Vec<usize>>,
}

/// The subset construction. State 0 is the empty set, state 1 the beginning.
fn determine(nfa: &Nfa, columns: &[u8; 256], width: usize) -> Result<Raw, TooManyStates> {
    let start = nfa.closed(vec![0]);
    let mut numbers: HashMap<Vec<usize>, u16> = HashMap::from([(Vec::new(), 0), (start.clone(), 1)]);
    let mut states = vec![Vec::new(), start];
    let mut raw = Raw { next: Vec::new(), accepts: Vec::new() };
    let mut at = 0;
    while let Some(state) = states.get(at).cloned() {
        at += 1;
        let mut accepts: Vec<usize> = state.iter().filter_map(|node| nfa.nodes[*node].accepts).collect();
        accepts.sort_unstable();
        raw.accepts.push(accepts);
        let mut reached: Vec<Vec<usize>> = vec![Vec::new(); width];
        for (label, to) in state.iter().flat_map(|node| &nfa.nodes[*node].edges) {
            match label {
                Label::Byte(byte) => reached[usize::from(columns[usize::from(*byte)])].push(*to),
                Label::NotSlash => {
                    let slash = usize::from(columns[usize::from(b'/')]);
                    for (column, nodes) in reached.iter_mut().enumerate() {
                        if column != slash {
                            nodes.push(*to);
                        }
                    }
                }
            }
        }
        for nodes in reached {
            let target = nfa.closed(nodes);
            let number = match numbers.get(&target) {
                Some(number) => *number,
                None if states.len() >= Automaton::MAX_STATES => return Err(TooManyStates),
                None => {
                    let number = u16::try_from(states.len()).map_err(|_too_many| TooManyStates)?;
                    numbers.insert(target.clone(), number);
                    states.push(target);
                    number
                }
            };
            raw.next.push(number);
        }
    }
    Ok(raw)
}

/// Makes one of states that no continuation tells apart, by refining what tells them apart until nothing more does.
fn minimal(raw: Raw, columns: [u8; 256], width: usize) -> Automaton {
    let mut outcomes: Vec<Vec<usize>> = vec![Vec::new()];
    let mut known: HashMap<Vec<usize>, u16> = HashMap::from([(Vec::new(), 0)]);
    let outcome: Vec<u16> = raw
        .accepts
        .into_iter()
        .map(|accepts| {
            *known.entry(accepts).or_insert_with_key(|accepts| {
                outcomes.push(accepts.clone());
                // No more than there are states.
                u16::try_from(outcomes.len() - 1).unwrap_or(u16::MAX)
            })
        })
        .collect();
    let count = outcome.len();
    let mut block: Vec<u16> = outcome.clone();
    let mut blocks = outcomes.len();
    loop {
        let mut signatures: HashMap<Vec<u16>, u16> = HashMap::new();
        let refined: Vec<u16> = (0..count)
            .map(|state| {
                let row = &raw.next[state * width..(state + 1) * width];
                let mut signature = Vec::with_capacity(width + 1);
                signature.push(block[state]);
                signature.extend(row.iter().map(|to| block[usize::from(*to)]));
                let fresh = u16::try_from(signatures.len()).unwrap_or(u16::MAX);
                *signatures.entry(signature).or_insert(fresh)
            })
            .collect();
        let found = signatures.len();
        block = refined;
        if found == blocks {
            break;
        }
        blocks = found;
    }
    // Blocks are numbered as their first states come: the dead state is in block 0; the beginning gets number 1 unless
    // nothing ever matches, which no pattern does.
    let mut order: Vec<Option<u16>> = vec![None; blocks];
    let mut representatives = Vec::new();
    for (state, block) in block.iter().enumerate() {
        let place = &mut order[usize::from(*block)];
        if place.is_none() {
            *place = u16::try_from(representatives.len()).ok();
            representatives.push(state);
        }
    }
    let number = |state: u16| order[usize::from(block[usize::from(state)])].unwrap_or_default();
    if representatives.len() < 2 {
        // No patterns at all: the beginning is a state of its own all the same.
        return Automaton { columns, width, next: vec![0; 2 * width], outcome: vec![0; 2], outcomes };
    }
    let next = representatives
        .iter()
        .flat_map(|state| raw.next[state * width..(state + 1) * width].iter().map(|to| number(*to)))
        .collect();
    let outcome = representatives.iter().map(|state| outcome[*state]).collect();
    Automaton { columns, width, next, outcome, outcomes }
}
