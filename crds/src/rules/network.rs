//! Network rules of policies.

use serde_json::Value;

use super::address::lies_inside;
use super::{Rule, has, list};

/// About `network`.
pub(crate) fn network() -> Vec<Rule> {
    vec![Rule::new(
        "",
        "has neither ingress nor egress, so it says nothing",
        "has(self.ingress) || has(self.egress)",
        |value| has(value, "ingress") || has(value, "egress"),
    )]
}

/// About one rule of `egress`.
pub(crate) fn egress_rule() -> Vec<Rule> {
    vec![Rule::new(
        ".ports",
        "names a port, but an address block in to has no named ports; use a number, or a rule of its own",
        "!has(self.to) || !has(self.ports) || !self.to.exists(p, has(p.ipBlock)) || \
         !self.ports.exists(p, has(p.port) && type(p.port) == string)",
        |value| {
            !list(value, "to").iter().any(|peer| has(peer, "ipBlock"))
                || !list(value, "ports").iter().any(|port| port.get("port").is_some_and(Value::is_string))
        },
    )]
}

const PEER_FORMS: [fn(&Value) -> bool; 4] = [
    |value| has(value, "podSelector") || has(value, "namespaceSelector"),
    |value| has(value, "serviceAccount"),
    |value| has(value, "ipBlock"),
    |value| has(value, "entity"),
];

/// About one peer.
pub(crate) fn peer() -> Vec<Rule> {
    vec![
        Rule::new(
            "",
            "names nobody: give podSelector, namespaceSelector, serviceAccount, ipBlock or entity",
            "has(self.podSelector) || has(self.namespaceSelector) || has(self.serviceAccount) || has(self.ipBlock) || \
             has(self.entity)",
            |value| PEER_FORMS.iter().any(|form| form(value)),
        ),
        Rule::new(
            "",
            "mixes forms that exclude each other: pods (podSelector, namespaceSelector or both), serviceAccount, ipBlock \
             and entity are separate peers",
            "[has(self.podSelector) || has(self.namespaceSelector), has(self.serviceAccount), has(self.ipBlock), \
             has(self.entity)].filter(form, form).size() <= 1",
            |value| PEER_FORMS.iter().filter(|form| form(value)).count() <= 1,
        ),
    ]
}

/// About one address block with its exceptions.
pub(crate) fn ip_block() -> Vec<Rule> {
    vec![Rule::new(
        ".except",
        "has a block that does not lie inside cidr: each must be of the same family, and smaller",
        "!has(self.except) || !isCIDR(self.cidr) || self.except.all(e, !isCIDR(e) || \
         (cidr(self.cidr).containsCIDR(cidr(e)) && cidr(e).prefixLength() > cidr(self.cidr).prefixLength()))",
        |value| {
            let outer = value.get("cidr").unwrap_or(&Value::Null);
            list(value, "except").iter().all(|inner| lies_inside(outer, inner))
        },
    )]
}

/// About a list of ports. Not `x-kubernetes-list-type: set`: server-side apply refuses every write to an object that has
/// a set of maps, that of its status included.
pub(crate) fn ports() -> Vec<Rule> {
    vec![Rule::new(
        "",
        "has an entry twice",
        "self.all(port, self.exists_one(other, other == port))",
        |value| {
            let ports = value.as_array().map_or(&[][..], Vec::as_slice);
            ports.iter().enumerate().all(|(at, port)| !ports[..at].contains(port))
        },
    )]
}

/// About one entry of a list of ports.
pub(crate) fn port_match() -> Vec<Rule> {
    vec![
        Rule::new(
            ".endPort",
            "needs port, the first of the range",
            "!has(self.endPort) || has(self.port)",
            |value| !has(value, "endPort") || has(value, "port"),
        ),
        Rule::new(
            ".endPort",
            "cannot follow a named port",
            "!has(self.endPort) || !has(self.port) || type(self.port) != string",
            |value| !has(value, "endPort") || !value.get("port").is_some_and(Value::is_string),
        ),
        Rule::new(
            ".endPort",
            "is below port: a range runs from port to endPort",
            "!has(self.endPort) || !has(self.port) || type(self.port) != int || self.endPort >= self.port",
            |value| {
                let number = |field| value.get(field).and_then(Value::as_i64);
                match (number("port"), number("endPort")) {
                    (Some(first), Some(last)) => last >= first,
                    _ => true,
                }
            },
        ),
    ]
}
