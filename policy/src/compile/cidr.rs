//! Classes of address prefixes: for each prefix that some block names, the blocks that hold everything in it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use ipnet::IpNet;

use crate::model::IpBlock;

use super::universe::ClassId;

/// Every prefix that a block or one of its exceptions names, with the groups of the blocks that match there, sorted.
/// The longest prefix holds the complete answer; prefixes that answer like the next shorter one (or, without one, match
/// nothing) are left out. `None` if they list more than `limit` blocks in all: a few thousand blocks that lie in each
/// other would otherwise fill the memory.
pub(crate) fn prefixes(blocks: &[IpBlock], groups: &[u32], limit: usize) -> Option<Vec<(IpNet, Vec<u32>)>> {
    let mut begins: HashMap<IpNet, Vec<u32>> = HashMap::new();
    let mut ends: HashMap<IpNet, Vec<u32>> = HashMap::new();
    let mut nodes: BTreeSet<Node> = BTreeSet::new();
    for (index, block) in (0..).zip(blocks) {
        if block.except.iter().any(|except| except.contains(&block.cidr)) {
            continue;
        }
        begins.entry(block.cidr).or_default().push(index);
        nodes.insert(Node::of(block.cidr));
        for except in block.except.iter().filter(|except| block.cidr.contains(*except)) {
            ends.entry(*except).or_default().push(index);
            nodes.insert(Node::of(*except));
        }
    }

    // The nodes come in depth-first order: whatever encloses a node is on the stack when it is met.
    let mut found = Vec::with_capacity(nodes.len());
    let mut stack: Vec<(IpNet, Vec<u32>, Vec<u32>)> = Vec::new();
    let mut listed = 0;
    for Node { net, .. } in nodes {
        while stack.last().is_some_and(|(outer, ..)| !outer.contains(&net)) {
            stack.pop();
        }
        let (above, groups_above): (&[u32], &[u32]) =
            stack.last().map_or((&[], &[]), |(_, blocks, groups)| (blocks, groups));
        let mut here = above.to_vec();
        here.extend(begins.get(&net).into_iter().flatten());
        if let Some(ending) = ends.get(&net) {
            here.retain(|block| !ending.contains(block));
        }
        here.sort_unstable();
        listed += here.len();
        if listed > limit {
            return None;
        }
        let mut groups_here: Vec<u32> = here.iter().map(|block| groups[*block as usize]).collect();
        groups_here.sort_unstable();
        groups_here.dedup();
        if groups_here != groups_above {
            found.push((net, groups_here.clone()));
        }
        stack.push((net, here, groups_here));
    }
    Some(found)
}

/// A prefix, ordered so that it comes right before everything that it encloses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Node {
    v6: bool,
    first: IpAddr,
    len: u8,
    net: IpNet,
}

impl Node {
    fn of(net: IpNet) -> Self {
        Self { v6: net.addr().is_ipv6(), first: net.network(), len: net.prefix_len(), net }
    }
}

/// Longest-prefix matching over [`Compiled::cidr_class`](super::Compiled::cidr_class).
#[derive(Debug)]
pub(crate) struct Trie<'a> {
    classes: &'a BTreeMap<IpNet, ClassId>,
    /// The lengths in use, the longest first.
    v4: Vec<u8>,
    v6: Vec<u8>,
}

impl<'a> Trie<'a> {
    pub(crate) fn new(classes: &'a BTreeMap<IpNet, ClassId>) -> Self {
        let lengths = |v6: bool| {
            let lengths: BTreeSet<u8> =
                classes.keys().filter(|net| net.addr().is_ipv6() == v6).map(IpNet::prefix_len).collect();
            lengths.into_iter().rev().collect()
        };
        Self { classes, v4: lengths(false), v6: lengths(true) }
    }

    pub(crate) fn class(&self, address: IpAddr) -> ClassId {
        let lengths = if address.is_ipv6() { &self.v6 } else { &self.v4 };
        lengths
            .iter()
            .filter_map(|len| IpNet::new(address, *len).ok())
            .find_map(|net| self.classes.get(&net.trunc()))
            .copied()
            .unwrap_or(ClassId::NONE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(cidr: &str, except: &[&str]) -> IpBlock {
        IpBlock { cidr: cidr.parse().unwrap(), except: except.iter().map(|e| e.parse().unwrap()).collect() }
    }

    fn seen(blocks: &[IpBlock]) -> Vec<(String, Vec<u32>)> {
        prefixes(blocks, &[0, 1, 2], 100)
            .unwrap()
            .into_iter()
            .map(|(net, blocks)| (net.to_string(), blocks))
            .collect()
    }

    #[test]
    fn a_prefix_holds_every_enclosing_block_and_not_only_the_longest() {
        let blocks = [block("10.0.0.0/8", &[]), block("10.1.0.0/16", &[]), block("0.0.0.0/0", &[])];
        let expected = [("0.0.0.0/0", vec![2]), ("10.0.0.0/8", vec![0, 2]), ("10.1.0.0/16", vec![0, 1, 2])];
        assert_eq!(seen(&blocks), expected.map(|(net, blocks)| (net.to_owned(), blocks)));
    }

    #[test]
    fn an_exception_cuts_a_hole_in_its_own_block_only() {
        let blocks =
            [block("10.0.0.0/8", &["10.1.0.0/16"]), block("10.1.2.0/24", &[]), block("10.0.0.0/8", &[])];
        let expected = [("10.0.0.0/8", vec![0, 2]), ("10.1.0.0/16", vec![2]), ("10.1.2.0/24", vec![1, 2])];
        assert_eq!(seen(&blocks), expected.map(|(net, blocks)| (net.to_owned(), blocks)));
    }

    #[test]
    fn blocks_of_one_group_are_one() {
        let blocks =
            [block("10.0.0.0/8", &["10.1.0.0/16"]), block("10.1.0.0/24", &[]), block("10.2.0.0/16", &[])];
        let expected = [("10.0.0.0/8", vec![7]), ("10.1.0.0/16", vec![]), ("10.1.0.0/24", vec![7])];
        let seen: Vec<(String, Vec<u32>)> = prefixes(&blocks, &[7, 7, 7], 100)
            .unwrap()
            .into_iter()
            .map(|(net, groups)| (net.to_string(), groups))
            .collect();
        assert_eq!(seen, expected.map(|(net, groups)| (net.to_owned(), groups)));
    }

    #[test]
    fn a_hole_in_everything_is_a_prefix_that_matches_nothing() {
        let expected = [("::/0", vec![0]), ("2001:db8::/32", vec![])];
        assert_eq!(
            seen(&[block("::/0", &["2001:db8::/32"])]),
            expected.map(|(net, blocks)| (net.to_owned(), blocks))
        );
    }

    #[test]
    fn a_prefix_that_answers_like_the_one_above_is_left_out() {
        let blocks = [block("10.0.0.0/8", &["10.1.0.0/16", "10.1.2.0/24"])];
        let expected = [("10.0.0.0/8", vec![0]), ("10.1.0.0/16", vec![])];
        assert_eq!(seen(&blocks), expected.map(|(net, blocks)| (net.to_owned(), blocks)));
    }
}
