//! Who the other end is.

use anyhow::Result;

use crate::scenario::{
    node::V4,
    rig::{Attempt, Call, Rig},
    suite::Scenario,
};

pub(super) const ALL: &[Scenario] = &[Scenario {
    name: "ingress allows pods by label and drops the others",
    run: by_label,
}];

fn by_label(rig: &mut Rig) -> Result<()> {
    rig.enforce(&[(
        "shop/by-label",
        "{selector: {matchLabels: {app: api}}, network: {ingress: {allow: [{from: [{podSelector: {matchLabels: {app: front}}}]}]}}}",
    )])?;
    let to = rig.at("api", V4, 8080)?;
    rig.allowed(Attempt { from: "front", source: None, to, call: Call::Tcp })?;
    rig.dropped(Attempt { from: "db", source: None, to, call: Call::Tcp }, "shop/by-label", "network.ingress")
}
