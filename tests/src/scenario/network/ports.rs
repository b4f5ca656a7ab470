//! Ports: numbers, ranges, names, protocols.

use anyhow::Result;

use crate::scenario::{
    node::{V4, V6},
    rig::{Rig, network, tcp, udp},
    suite::Scenario,
};

pub(super) const ALL: &[Scenario] = &[
    Scenario { name: "a port of a rule is that port of that protocol", run: number },
    Scenario { name: "a range of ports holds at both of its ends and not beyond", run: range },
    Scenario { name: "a protocol without a port is all of its ports", run: protocol },
    Scenario { name: "a named port at ingress is the workload's own", run: name_ingress },
    Scenario { name: "a named port at egress is that of each peer", run: name_egress },
    Scenario { name: "a name that means another port of another peer does not open it", run: name_elsewhere },
];

fn number(rig: &mut Rig) -> Result<()> {
    let rules = "{ingress: {allow: [{ports: [{protocol: TCP, port: 8080}, {protocol: UDP, port: 9000}]}]}}";
    rig.enforce(&[("shop/number", network("api", rules))])?;
    for family in [V4, V6] {
        let (first, second) = (rig.at("api", family, 8080)?, rig.at("api", family, 9000)?);
        rig.allowed(tcp("front", first))?;
        rig.allowed(udp("front", second))?;
        rig.dropped(udp("front", first), "shop/number", "network.ingress")?;
        rig.dropped(tcp("front", second), "shop/number", "network.ingress")?;
    }
    Ok(())
}

fn range(rig: &mut Rig) -> Result<()> {
    let rules = "{egress: {allow: [{ports: [{protocol: TCP, port: 5433, endPort: 9000}]}]}}";
    rig.enforce(&[("shop/range", network("front", rules))])?;
    for (port, open) in [(5432, false), (8080, true), (9000, true), (9005, false)] {
        let to = rig.at("db", V4, port)?;
        if open {
            rig.allowed(tcp("front", to))?;
        } else {
            rig.dropped(tcp("front", to), "shop/range", "network.egress")?;
        }
    }
    let to = rig.at("db", V4, 8080)?;
    rig.dropped(udp("front", to), "shop/range", "network.egress")
}

fn protocol(rig: &mut Rig) -> Result<()> {
    let rules = "{egress: {allow: [{ports: [{protocol: UDP}]}]}}";
    rig.enforce(&[("shop/protocol", network("front", rules))])?;
    let (first, second) = (rig.at("db", V4, 5353)?, rig.at("db", V6, 9000)?);
    rig.allowed(udp("front", first))?;
    rig.allowed(udp("front", second))?;
    rig.dropped(tcp("front", first), "shop/protocol", "network.egress")?;
    rig.dropped(tcp("front", second), "shop/protocol", "network.egress")
}

fn name_ingress(rig: &mut Rig) -> Result<()> {
    let rules = "{ingress: {allow: [{ports: [{protocol: TCP, port: http}, {protocol: UDP, port: names}]}]}}";
    rig.enforce(&[("shop/name-in", network("api", rules))])?;
    let (http, names) = (rig.at("api", V4, 8080)?, rig.at("api", V4, 5353)?);
    rig.allowed(tcp("front", http))?;
    rig.allowed(udp("front", names))?;
    rig.dropped(udp("front", http), "shop/name-in", "network.ingress")?;
    rig.dropped(tcp("front", names), "shop/name-in", "network.ingress")
}

fn name_egress(rig: &mut Rig) -> Result<()> {
    let rules = "{egress: {allow: [{to: [{podSelector: {}, namespaceSelector: {}}],
        ports: [{protocol: TCP, port: http}, {protocol: TCP, port: pg}]}]}}";
    rig.enforce(&[("shop/name-out", network("front", rules))])?;
    for (name, port, open) in [
        ("api", 8080, true),
        ("api", 5432, false),
        ("db", 5432, true),
        ("db", 8080, false),
        ("batch", 8080, false),
    ] {
        let to = rig.at(name, V4, port)?;
        if open {
            rig.allowed(tcp("front", to))?;
        } else {
            rig.dropped(tcp("front", to), "shop/name-out", "network.egress")?;
        }
    }
    Ok(())
}

fn name_elsewhere(rig: &mut Rig) -> Result<()> {
    let rules = "{egress: {allow: [{to: [{podSelector: {matchLabels: {app: api}}}], ports: [{protocol: TCP, port: pg}]}]}}";
    rig.enforce(&[("shop/name-elsewhere", network("front", rules))])?;
    let (api, db) = (rig.at("api", V4, 5432)?, rig.at("db", V4, 5432)?);
    rig.dropped(tcp("front", api), "shop/name-elsewhere", "network.egress")?;
    rig.dropped(tcp("front", db), "shop/name-elsewhere", "network.egress")?;
    let rules = "{egress: {allow: [{to: [{namespaceSelector: {}}], ports: [{protocol: TCP, port: pg}]}]}}";
    rig.enforce(&[("shop/name-there", network("front", rules))])?;
    rig.allowed(tcp("front", db))
}
