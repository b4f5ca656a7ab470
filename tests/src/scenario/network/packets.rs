//! Packets that are not the usual ones.

use std::net::SocketAddr;

use anyhow::{Result, ensure};

use crate::scenario::{
    node::{Family, V4, V6},
    protocol::{Answer, Op, RawForm},
    rig::{Rig, network, only, udp},
    suite::Scenario,
};

pub(super) const ALL: &[Scenario] = &[
    Scenario { name: "IPv6 extension headers hide no port from egress rules", run: extensions_out },
    Scenario { name: "IPv6 extension headers hide no port from ingress rules", run: extensions_in },
    Scenario { name: "IPv4 options hide no port", run: options },
    Scenario { name: "fragments pass where every port may pass and not where one may", run: fragments_out },
    Scenario { name: "a fragment without ports is not taken for an allowed flow", run: last_fragment },
    Scenario { name: "a datagram larger than the link passes where its port may", run: large },
    Scenario { name: "ICMP passes by rules without ports alone", run: icmp },
    Scenario {
        name: "a packet socket is refused to an isolated workload or reported as not covered",
        run: packet_socket,
    },
];

/// Sends raw packets and says whether the datagram arrived, and what was counted.
fn raw(
    rig: &mut Rig,
    from: &str,
    to: SocketAddr,
    form: RawForm,
) -> Result<(bool, crate::scenario::rig::Counted)> {
    let word = rig.word();
    let family = if to.is_ipv4() { V4 } else { V6 };
    let server = if to == rig.at("api", family, to.port())? { "api" } else { "db" };
    let source = rig.at(from, family, 7100)?;
    rig.inside(server)?.arrivals()?;
    let before = rig.counts()?;
    let sent = rig.inside(from)?.act(Op::RawUdp { from: source, to, word: word.clone(), form })?;
    ensure!(sent == Answer::Done, "the packets were not sent: {sent:?}");
    let (mut arrived, mut counted) = (false, crate::scenario::rig::Counted::new());
    rig.until(&format!("{form:?} of {from} to {to} arrives or is counted"), |rig| {
        arrived |= rig.inside(server)?.arrivals()?.iter().any(|arrival| arrival.word == word);
        counted = rig.counted_since(&before)?;
        Ok(arrived || !counted.is_empty())
    })?;
    // Counted: nothing may follow.
    arrived |= rig.inside(server)?.arrivals()?.iter().any(|arrival| arrival.word == word);
    Ok((arrived, counted))
}

fn passes(rig: &mut Rig, from: &str, to: SocketAddr, form: RawForm) -> Result<()> {
    let (arrived, counted) = raw(rig, from, to, form)?;
    ensure!(arrived && counted.is_empty(), "{form:?} to {to}: arrived {arrived}, counted {counted:?}");
    Ok(())
}

fn stops(rig: &mut Rig, from: &str, to: SocketAddr, form: RawForm, policy: &str, rule: &str) -> Result<()> {
    let (arrived, counted) = raw(rig, from, to, form)?;
    let count = only(&counted, policy, rule, "Drop");
    ensure!(!arrived && count >= 1, "{form:?} to {to}: arrived {arrived}, counted {counted:?}");
    rig.reports(policy, rule, "Deny", "Deny")
}

const OUT: &str = "{egress: {allow: [{ports: [{protocol: UDP, port: 8080}]}]}}";
const IN: &str = "{ingress: {allow: [{ports: [{protocol: UDP, port: 8080}]}]}}";

fn extensions_out(rig: &mut Rig) -> Result<()> {
    rig.enforce(&[("shop/extensions-out", network("front", OUT))])?;
    let (open, shut) = (rig.at("api", V6, 8080)?, rig.at("api", V6, 9000)?);
    passes(rig, "front", open, RawForm::Plain)?;
    passes(rig, "front", open, RawForm::Extensions)?;
    stops(rig, "front", shut, RawForm::Plain, "shop/extensions-out", "network.egress")?;
    stops(rig, "front", shut, RawForm::Extensions, "shop/extensions-out", "network.egress")
}

fn extensions_in(rig: &mut Rig) -> Result<()> {
    rig.enforce(&[("shop/extensions-in", network("api", IN))])?;
    let (open, shut) = (rig.at("api", V6, 8080)?, rig.at("api", V6, 9000)?);
    passes(rig, "front", open, RawForm::Extensions)?;
    stops(rig, "front", shut, RawForm::Extensions, "shop/extensions-in", "network.ingress")
}

fn options(rig: &mut Rig) -> Result<()> {
    rig.enforce(&[("shop/options-out", network("front", OUT)), ("shop/options-in", network("api", IN))])?;
    let (open, shut, db) = (rig.at("api", V4, 8080)?, rig.at("api", V4, 9000)?, rig.at("db", V4, 9000)?);
    passes(rig, "front", open, RawForm::Options)?;
    stops(rig, "front", db, RawForm::Options, "shop/options-out", "network.egress")?;
    stops(rig, "db", shut, RawForm::Options, "shop/options-in", "network.ingress")
}

fn fragments_out(rig: &mut Rig) -> Result<()> {
    for family in [V4, V6] {
        let to = rig.at("api", family, 8080)?;
        let whole = "{egress: {allow: [{to: [{podSelector: {matchLabels: {app: api}}}]}]}}";
        rig.enforce(&[("shop/fragments-whole", network("front", whole))])?;
        passes(rig, "front", to, RawForm::Fragments)?;
        let db = rig.at("db", family, 8080)?;
        stops(rig, "front", db, RawForm::Fragments, "shop/fragments-whole", "network.egress")?;
        // One port: the fragment without ports cannot be known to be of it.
        rig.enforce(&[("shop/fragments-port", network("front", OUT))])?;
        stops(rig, "front", to, RawForm::Fragments, "shop/fragments-port", "network.egress")?;
        // At the other end the kernel has put the datagram together before the rules see it.
        rig.enforce(&[("shop/fragments-in", network("api", IN))])?;
        passes(rig, "front", to, RawForm::Fragments)?;
        let shut = rig.at("api", family, 9000)?;
        stops(rig, "front", shut, RawForm::Fragments, "shop/fragments-in", "network.ingress")?;
    }
    Ok(())
}

fn last_fragment(rig: &mut Rig) -> Result<()> {
    rig.enforce(&[("shop/last-fragment", network("front", OUT))])?;
    for family in [V4, V6] {
        let to = rig.at("api", family, 8080)?;
        // An allowed flow between the same two, whose permission the fragment must not borrow.
        rig.allowed(udp("front", to))?;
        stops(rig, "front", to, RawForm::LastFragment, "shop/last-fragment", "network.egress")?;
    }
    Ok(())
}

fn large(rig: &mut Rig) -> Result<()> {
    rig.enforce(&[("shop/large-out", network("front", OUT)), ("shop/large-in", network("api", IN))])?;
    for family in [V4, V6] {
        let (open, shut) = (rig.at("api", family, 8080)?, rig.at("api", family, 9000)?);
        ensure!(big(rig, family, open)? == Answer::Echo, "a large datagram to {open} did not come back");
        let before = rig.counts()?;
        let seen = big(rig, family, shut)?;
        let counted = rig.counted_since(&before)?;
        let count = only(&counted, "shop/large-out", "network.egress", "Drop");
        ensure!(seen == Answer::Silence && count == 1, "to {shut}: {seen:?}, {counted:?}");
    }
    Ok(())
}

fn big(rig: &mut Rig, family: Family, to: SocketAddr) -> Result<Answer> {
    let (word, at) = (rig.word(), rig.at("front", family, 0)?);
    let wait_ms = if to.port() == 8080 { rig.answer_ms() } else { rig.silence_ms() };
    let inside = rig.inside("front")?;
    let (socket, _) = inside.open(Op::UdpOpen { at, connect: None, recverr: false })?;
    let seen = inside.act(Op::UdpSay { socket, to: Some(to), word, padding: 6000, wait_ms })?;
    inside.act(Op::Close { socket })?;
    Ok(seen)
}

fn icmp(rig: &mut Rig) -> Result<()> {
    let (silence, answer) = (rig.silence_ms(), rig.answer_ms());
    for family in [V4, V6] {
        let (api, db) = (rig.at("api", family, 0)?.ip(), rig.at("db", family, 0)?.ip());
        let rules = "{egress: {allow: [{to: [{podSelector: {matchLabels: {app: api}}}]},
            {to: [{namespaceSelector: {}}], ports: [{protocol: TCP}, {protocol: UDP}]}]}}";
        rig.enforce(&[("shop/icmp", network("front", rules))])?;
        let seen = rig.inside("front")?.act(Op::Ping { to: api, wait_ms: answer })?;
        ensure!(seen == Answer::Echo, "the pod that every protocol may reach: {seen:?}");
        let before = rig.counts()?;
        let seen = rig.inside("front")?.act(Op::Ping { to: db, wait_ms: silence })?;
        let counted = rig.counted_since(&before)?;
        let count = only(&counted, "shop/icmp", "network.egress", "Drop");
        // Raw IPv6 sockets are told of congestion whether they ask or not.
        let silent = seen == Answer::Silence || seen == Answer::Errno(nix::libc::ENOBUFS);
        ensure!(silent && count == 1, "the pod that TCP and UDP may reach: {seen:?}, {counted:?}");
        rig.reports("shop/icmp", "network.egress", "Deny", "Deny")?;
    }
    Ok(())
}

fn packet_socket(rig: &mut Rig) -> Result<()> {
    use holdfast_agent::engine::report::PACKET_SOCKETS;
    rig.enforce(&[("shop/packets", network("front", "{ingress: {}}"))])?;
    let row = rig.report("shop/packets", PACKET_SOCKETS)?.clone();
    let isolated = rig.inside("front")?.act(Op::PacketSocket)?;
    let covered = row.mechanism.is_some();
    if covered {
        ensure!(
            isolated == Answer::Errno(nix::libc::EPERM),
            "covered by {:?}, and yet: {isolated:?}",
            row.mechanism
        );
        ensure!(row.given == "Deny" && row.reason.is_none(), "{row:?}");
    } else {
        ensure!(isolated == Answer::Done, "not covered, and yet: {isolated:?}");
        ensure!(row.given == "NotCovered" && row.reason.is_some() && row.message.is_some(), "{row:?}");
    }
    let free = rig.inside("api")?.act(Op::PacketSocket)?;
    ensure!(free == Answer::Done, "a workload without rules: {free:?}");
    Ok(())
}
