//! From the rules that concern one class to the fewest prefixes over protocols and ports.

use crate::model::Protocol;

use super::network::{Cell, PortPrefix, Scope};

/// What one rule says, on which ports.
#[derive(Debug, Clone)]
pub(crate) struct Voice {
    /// What it says where it matches.
    pub(crate) cell: Cell,
    /// Its inclusive port ranges; `None` = every protocol and port.
    pub(crate) ports: Option<Vec<(Protocol, u16, u16)>>,
}

/// The rows of a class: `Scope::All`, then for each protocol with ports the row of fragments, then prefixes.
///
/// A prefix holds the complete answer. One that would say what the next wider row says is left out. The prefix without
/// bits is what rules say that cover every port each by itself, and nothing else is ever folded into it.
///
/// On the `failsafe` ports every row says 'allowed', and nothing else.
pub(crate) fn rows(voices: &[Voice], failsafe: &[(Protocol, u16, u16)]) -> Vec<(Scope, Cell)> {
    let everywhere = voices
        .iter()
        .filter(|voice| voice.ports.is_none())
        .fold(Cell::default(), |cell, voice| cell.join(voice.cell));
    let mut rows = Vec::new();
    if !everywhere.is_empty() {
        rows.push((Scope::All, everywhere));
    }
    for protocol in Protocol::ALL {
        let ranges = merged(voices, protocol);
        let open: Vec<(u16, u16)> = failsafe
            .iter()
            .filter(|(of, ..)| *of == protocol)
            .map(|(_, first, last)| (*first, *last))
            .collect();
        if ranges.is_empty() && open.is_empty() {
            continue;
        }
        let fragments = ranges
            .iter()
            .filter(|(_, ranges)| matches!(ranges[..], [(0..=1, u16::MAX)]))
            .fold(everywhere, |cell, (says, _)| cell.join(*says));
        let mut push = |prefix, cell| rows.push((Scope::Ports { protocol, prefix }, cell));
        if fragments != everywhere {
            push(PortPrefix::EVERY, fragments);
        }
        cover(&segments(everywhere, &ranges, &open), PortPrefix::EVERY, fragments, &mut push);
    }
    rows
}

/// For each rule with ports of this protocol: what it says, and its ranges sorted, disjoint and not adjacent.
fn merged(voices: &[Voice], protocol: Protocol) -> Vec<(Cell, Vec<(u16, u16)>)> {
    let mut all = Vec::new();
    for voice in voices {
        let listed =
            voice.ports.iter().flatten().filter(|(of, first, last)| *of == protocol && first <= last);
        let mut ranges: Vec<(u16, u16)> = listed.map(|(_, first, last)| (*first, *last)).collect();
        ranges.sort_unstable();
        ranges.dedup_by(|next, range| {
            let joins = u32::from(next.0) <= u32::from(range.1) + 1;
            if joins {
                range.1 = range.1.max(next.1);
            }
            joins
        });
        if !ranges.is_empty() {
            all.push((voice.cell, ranges));
        }
    }
    all
}

/// The port space in consecutive pieces of one answer each: (first port, answer). The first begins at 0, and
/// neighbours differ.
fn segments(everywhere: Cell, ranges: &[(Cell, Vec<(u16, u16)>)], open: &[(u16, u16)]) -> Vec<(u16, Cell)> {
    let mut starts: Vec<u16> = vec![0];
    for (first, last) in ranges.iter().flat_map(|(_, ranges)| ranges).chain(open) {
        starts.push(*first);
        starts.extend(last.checked_add(1));
    }
    starts.sort_unstable();
    starts.dedup();
    let mut cells = vec![everywhere; starts.len()];
    let within = |first: u16, last: u16| {
        starts.partition_point(|start| *start < first)..starts.partition_point(|start| *start <= last)
    };
    for (says, ranges) in ranges {
        for (first, last) in ranges {
            cells[within(*first, *last)].iter_mut().for_each(|cell| *cell = cell.join(*says));
        }
    }
    for (first, last) in open {
        cells[within(*first, *last)].fill(Cell { allow: true, ..Cell::default() });
    }
    let mut segments: Vec<(u16, Cell)> = starts.into_iter().zip(cells).collect();
    segments.dedup_by(|next, segment| next.1 == segment.1);
    segments
}

/// Writes the rows below `prefix`, where the next wider row says `wider`. The prefix without bits is not written here.
fn cover(segments: &[(u16, Cell)], prefix: PortPrefix, wider: Cell, push: &mut impl FnMut(PortPrefix, Cell)) {
    let last = prefix.port | u16::MAX.checked_shr(u32::from(prefix.len)).unwrap_or(0);
    let from = segments.partition_point(|(start, _)| *start <= prefix.port) - 1;
    let to = segments.partition_point(|(start, _)| *start <= last);
    let within = &segments[from..to];
    if let [(_, cell)] = within {
        if *cell == wider {
            return;
        }
        if prefix.len > 0 {
            push(prefix, *cell);
            return;
        }
    }
    let half = PortPrefix { port: prefix.port, len: prefix.len + 1 };
    let bit = 1 << (16 - half.len);
    cover(within, half, wider, push);
    cover(within, PortPrefix { port: half.port | bit, ..half }, wider, push);
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALLOW: Cell = Cell { allow: true, audit_allow: false, deny: None, audit_deny: None };

    fn voice(ports: Option<&[(Protocol, u16, u16)]>) -> Voice {
        Voice { cell: ALLOW, ports: ports.map(<[_]>::to_vec) }
    }

    fn tcp(port: u16, len: u8) -> Scope {
        Scope::Ports { protocol: Protocol::Tcp, prefix: PortPrefix { port, len } }
    }

    #[test]
    fn a_rule_without_ports_is_one_row() {
        assert_eq!(rows(&[voice(None)], &[]), [(Scope::All, ALLOW)]);
    }

    #[test]
    fn a_single_port_is_one_row() {
        assert_eq!(rows(&[voice(Some(&[(Protocol::Tcp, 80, 80)]))], &[]), [(tcp(80, 16), ALLOW)]);
    }

    #[test]
    fn a_range_becomes_the_fewest_prefixes() {
        let seen = rows(&[voice(Some(&[(Protocol::Tcp, 9000, 9010)]))], &[]);
        assert_eq!(seen, [(tcp(9000, 13), ALLOW), (tcp(9008, 15), ALLOW), (tcp(9010, 16), ALLOW)]);
    }

    #[test]
    fn every_port_of_a_protocol_is_one_row_that_fragments_find() {
        assert_eq!(rows(&[voice(Some(&[(Protocol::Tcp, 0, 65535)]))], &[]), [(tcp(0, 0), ALLOW)]);
        let seen = rows(&[voice(Some(&[(Protocol::Tcp, 1, 1000), (Protocol::Tcp, 1001, 65535)]))], &[]);
        assert_eq!(seen[0], (tcp(0, 0), ALLOW), "the union within one rule counts");
        assert_eq!(seen[1], (tcp(0, 16), Cell::default()), "port 0 is not in it");
        assert_eq!(seen.len(), 2);
    }

    #[test]
    fn two_rules_that_cover_every_port_only_together_do_not_let_fragments_pass() {
        let halves =
            [voice(Some(&[(Protocol::Tcp, 0, 32767)])), voice(Some(&[(Protocol::Tcp, 32768, 65535)]))];
        assert_eq!(rows(&halves, &[]), [(tcp(0, 1), ALLOW), (tcp(32768, 1), ALLOW)]);
    }

    #[test]
    fn rows_that_say_what_the_wider_row_says_are_left_out() {
        let seen = rows(&[voice(None), voice(Some(&[(Protocol::Tcp, 80, 80)]))], &[]);
        assert_eq!(seen, [(Scope::All, ALLOW)]);
    }
}
