//! What belongs to a flow, and for how long: replies, live connections, sockets older than the rules.

use std::net::SocketAddr;

use anyhow::{Result, ensure};

use crate::scenario::{
    node::{V4, V6},
    protocol::{Answer, Op, RawForm},
    rig::{Attempt, Call, Rig, network, tcp, udp},
    suite::Scenario,
};

pub(super) const ALL: &[Scenario] = &[
    Scenario { name: "replies reach a workload that nobody may call", run: replies_to_client },
    Scenario { name: "a server that may call nobody answers who may call it", run: replies_of_server },
    Scenario {
        name: "a server that may call nobody may speak first on a connection it accepted",
        run: server_push,
    },
    Scenario { name: "a UDP peer that was not asked is no reply", run: unasked },
    Scenario { name: "a revoked permission ends a live connection at the server", run: revoked_ingress },
    Scenario { name: "a revoked permission ends a live connection at the client", run: revoked_egress },
    Scenario { name: "a revoked permission ends a live UDP flow", run: revoked_udp },
    Scenario { name: "a peer whose labels change loses a live connection", run: relabelled },
    Scenario { name: "a socket older than the kernel programs obeys egress rules", run: elder_out },
    Scenario { name: "a socket older than the kernel programs obeys ingress rules", run: elder_in },
    Scenario { name: "a socket accepted before the policy obeys it", run: accepted_before },
    Scenario { name: "an AF_INET6 socket to an IPv4-mapped address is judged as IPv4", run: mapped_client },
    Scenario { name: "a dual-stack server is judged by its clients' IPv4 addresses", run: mapped_server },
    Scenario { name: "an answer in flight when the policy comes opens no way out", run: in_flight },
    Scenario { name: "a socket that is connected anew is judged anew", run: connected_anew },
    Scenario { name: "an accepted socket that is connected anew is judged as a client", run: accepted_anew },
    Scenario { name: "a workload may always reach itself", run: itself },
];

fn say(rig: &Rig, from: &str, socket: u64, word: &str, wait_ms: u64) -> Result<Answer> {
    rig.inside(from)?.act(Op::TcpSay { socket, word: word.to_owned(), wait_ms })
}

fn replies_to_client(rig: &mut Rig) -> Result<()> {
    rig.enforce(&[("shop/no-callers", network("front", "{ingress: {}}"))])?;
    for family in [V4, V6] {
        let (db, front) = (rig.at("db", family, 8080)?, rig.at("front", family, 8080)?);
        rig.allowed(tcp("front", db))?;
        rig.allowed(udp("front", db))?;
        rig.allowed(Attempt { call: Call::UdpUnconnected, ..udp("front", db) })?;
        rig.dropped(tcp("db", front), "shop/no-callers", "network.ingress")?;
        rig.dropped(udp("db", front), "shop/no-callers", "network.ingress")?;
    }
    Ok(())
}

fn replies_of_server(rig: &mut Rig) -> Result<()> {
    let rules = "{ingress: {allow: [{from: [{podSelector: {matchLabels: {app: front}}}]}]}, egress: {}}";
    rig.enforce(&[("shop/only-serves", network("api", rules))])?;
    for family in [V4, V6] {
        let (api, db) = (rig.at("api", family, 8080)?, rig.at("db", family, 8080)?);
        // The server's SYN-ACK, and its datagrams from a socket without a peer.
        rig.allowed(tcp("front", api))?;
        rig.allowed(udp("front", api))?;
        rig.allowed(Attempt { call: Call::UdpUnconnected, ..udp("front", api) })?;
        rig.dropped(tcp("api", db), "shop/only-serves", "network.egress")?;
        rig.dropped(udp("api", db), "shop/only-serves", "network.egress")?;
        rig.dropped(tcp("db", api), "shop/only-serves", "network.ingress")?;
    }
    Ok(())
}

fn server_push(rig: &mut Rig) -> Result<()> {
    rig.enforce(&[("shop/pushes", network("api", "{egress: {}}"))])?;
    let (to, wait_ms, word) = (rig.at("api", V4, 9005)?, rig.answer_ms(), rig.word());
    let (socket, _) = rig.inside("front")?.open(Op::TcpOpen { to, from: None, mapped: false, wait_ms })?;
    ensure!(say(rig, "front", socket, "hello", wait_ms)? == Answer::Echo, "the connection does not work");
    rig.inside("api")?.act(Op::TcpTell { port: 9005, word: word.clone() })?;
    let heard = rig.inside("front")?.act(Op::TcpHear { socket, word, wait_ms })?;
    ensure!(heard == Answer::Echo, "the server's own word did not come: {heard:?}");
    rig.inside("front")?.act(Op::Close { socket })?;
    let front = rig.at("front", V4, 9005)?;
    rig.dropped(tcp("api", front), "shop/pushes", "network.egress")
}

fn unasked(rig: &mut Rig) -> Result<()> {
    rig.enforce(&[("shop/unasked", network("front", "{ingress: {}}"))])?;
    let (db, batch) = (rig.at("db", V4, 8080)?, rig.at("batch", V4, 8080)?);
    let (wait_ms, silence, word) = (rig.answer_ms(), rig.silence_ms(), rig.word());
    let at = rig.at("front", V4, 7000)?;
    let inside = rig.inside("front")?;
    let (socket, _) = inside.open(Op::UdpOpen { at, connect: None, recverr: false })?;
    let echo = inside.act(Op::UdpSay { socket, to: Some(db), word: word.clone(), padding: 0, wait_ms })?;
    ensure!(echo == Answer::Echo, "the reply did not come: {echo:?}");
    // From another port of the same peer, and from another peer, to the very socket that has asked.
    for (from, source) in [("db", rig.at("db", V4, 7001)?), ("batch", batch)] {
        let before = rig.counts()?;
        let word = rig.word();
        let other = rig.inside(from)?;
        let port = if from == "db" { source } else { rig.at("batch", V4, 7001)? };
        let (speaker, _) = other.open(Op::UdpOpen { at: port, connect: None, recverr: false })?;
        let hear = rig.inside("front")?.ask(Op::UdpHear { socket, word: word.clone(), wait_ms: silence })?;
        other.act(Op::UdpSay { socket: speaker, to: Some(at), word, padding: 0, wait_ms: 1 })?;
        let heard = hear.wait()?;
        other.act(Op::Close { socket: speaker })?;
        let counted = rig.counted_since(&before)?;
        let count = crate::scenario::rig::only(&counted, "shop/unasked", "network.ingress", "Drop");
        ensure!(heard == Answer::Silence && count == 1, "{from}: {heard:?}, {counted:?}");
    }
    rig.inside("front")?.act(Op::Close { socket })?;
    Ok(())
}

const FROM_FRONT: &str = "{ingress: {allow: [{from: [{podSelector: {matchLabels: {app: front}}}]}]}}";
const TO_API: &str = "{egress: {allow: [{to: [{podSelector: {matchLabels: {app: api}}}]}]}}";

/// A connection of `front` to `api` that works under one policy, not under another, and again under the first.
fn live(rig: &mut Rig, id: &str, open: &str, shut: &str, rule: &str) -> Result<()> {
    rig.enforce(&[(id, open)])?;
    let (to, wait_ms, silence) = (rig.at("api", V4, 9000)?, rig.answer_ms(), rig.silence_ms());
    let (socket, _) = rig.inside("front")?.open(Op::TcpOpen { to, from: None, mapped: false, wait_ms })?;
    ensure!(say(rig, "front", socket, "first", wait_ms)? == Answer::Echo, "the connection does not work");
    rig.enforce(&[(id, shut)])?;
    rig.inside("api")?.arrivals()?;
    let before = rig.counts()?;
    let word = rig.word();
    let said = say(rig, "front", socket, &word, silence)?;
    let counted = rig.counted_since(&before)?;
    let arrived = rig.inside("api")?.arrivals()?;
    ensure!(
        said == Answer::Silence
            && arrived.is_empty()
            && crate::scenario::rig::only(&counted, id, rule, "Drop") >= 1,
        "after the permission was revoked: {said:?}, arrived {arrived:?}, counted {counted:?}"
    );
    rig.reports(id, rule, "Deny", "Deny")?;
    rig.enforce(&[(id, open)])?;
    let again = rig.inside("front")?.act(Op::TcpHear { socket, word, wait_ms })?;
    ensure!(again == Answer::Echo, "after the permission was given again: {again:?}");
    rig.inside("front")?.act(Op::Close { socket })?;
    Ok(())
}

fn revoked_ingress(rig: &mut Rig) -> Result<()> {
    let (open, shut) = (network("api", FROM_FRONT), network("api", "{ingress: {}}"));
    live(rig, "shop/revoked-in", &open, &shut, "network.ingress")
}

fn revoked_egress(rig: &mut Rig) -> Result<()> {
    let (open, shut) = (network("front", TO_API), network("front", "{egress: {}}"));
    live(rig, "shop/revoked-out", &open, &shut, "network.egress")
}

fn revoked_udp(rig: &mut Rig) -> Result<()> {
    let (open, shut) = (network("api", FROM_FRONT), network("api", "{ingress: {}}"));
    rig.enforce(&[("shop/revoked-udp", &open)])?;
    let (to, wait_ms, silence) = (rig.at("api", V6, 9000)?, rig.answer_ms(), rig.silence_ms());
    let at = rig.at("front", V6, 0)?;
    let (socket, _) = rig.inside("front")?.open(Op::UdpOpen { at, connect: Some(to), recverr: false })?;
    let attempt = |rig: &mut Rig, wait_ms| -> Result<Answer> {
        let word = rig.word();
        rig.inside("front")?.act(Op::UdpSay { socket, to: None, word, padding: 0, wait_ms })
    };
    ensure!(attempt(rig, wait_ms)? == Answer::Echo, "the flow does not work");
    rig.enforce(&[("shop/revoked-udp", &shut)])?;
    rig.inside("api")?.arrivals()?;
    let before = rig.counts()?;
    let said = attempt(rig, silence)?;
    let (counted, arrived) = (rig.counted_since(&before)?, rig.inside("api")?.arrivals()?);
    let count = crate::scenario::rig::only(&counted, "shop/revoked-udp", "network.ingress", "Drop");
    ensure!(
        said == Answer::Silence && arrived.is_empty() && count == 1,
        "{said:?}, {arrived:?}, {counted:?}"
    );
    rig.enforce(&[("shop/revoked-udp", &open)])?;
    ensure!(attempt(rig, wait_ms)? == Answer::Echo, "the flow does not work again");
    rig.inside("front")?.act(Op::Close { socket })?;
    Ok(())
}

fn in_flight(rig: &mut Rig) -> Result<()> {
    let (db, wait_ms, silence) = (rig.at("db", V4, 8080)?, rig.answer_ms(), rig.silence_ms());
    // The kernel chooses the port: this socket calls, and is not called.
    let at = rig.at("front", V4, 0)?;
    let (socket, own) = rig.inside("front")?.open(Op::UdpOpen { at, connect: None, recverr: false })?;
    let said = |rig: &Rig, word: String, wait_ms| -> Result<Answer> {
        rig.inside("front")?.act(Op::UdpSay { socket, to: Some(db), word, padding: 0, wait_ms })
    };
    let word = rig.word();
    ensure!(said(rig, word, wait_ms)? == Answer::Echo, "the flow does not work");
    rig.enforce(&[("shop/in-flight", network("front", "{egress: {}}"))])?;
    // The first packet that the rules see of the flow is one that comes in, as an answer that was under way does.
    let word = rig.word();
    let hear = rig.inside("front")?.ask(Op::UdpHear { socket, word: word.clone(), wait_ms })?;
    let late = Op::RawUdp { from: db, to: own, word, form: RawForm::Plain };
    ensure!(rig.inside("db")?.act(late)? == Answer::Done, "the late answer was not sent");
    ensure!(hear.wait()? == Answer::Echo, "the late answer did not come");
    rig.inside("db")?.arrivals()?;
    let before = rig.counts()?;
    let word = rig.word();
    let seen = said(rig, word, silence)?;
    let (counted, arrived) = (rig.counted_since(&before)?, rig.inside("db")?.arrivals()?);
    let count = crate::scenario::rig::only(&counted, "shop/in-flight", "network.egress", "Drop");
    ensure!(
        seen == Answer::Silence && arrived.is_empty() && count == 1,
        "{seen:?}, {arrived:?}, {counted:?}"
    );
    rig.inside("front")?.act(Op::Close { socket })?;
    // A server, which asked for its port, may answer who calls it.
    let front = rig.at("front", V4, 8080)?;
    rig.allowed(udp("db", front))
}

fn relabelled(rig: &mut Rig) -> Result<()> {
    rig.enforce(&[("shop/relabelled", network("api", FROM_FRONT))])?;
    let (to, wait_ms, silence) = (rig.at("api", V4, 9000)?, rig.answer_ms(), rig.silence_ms());
    let (socket, _) = rig.inside("front")?.open(Op::TcpOpen { to, from: None, mapped: false, wait_ms })?;
    ensure!(say(rig, "front", socket, "first", wait_ms)? == Answer::Echo, "the connection does not work");
    let relabel = |app: &str| {
        let app = app.to_owned();
        move |world: &mut holdfast_policy::model::World| {
            for identity in world.identities.values_mut() {
                if identity.service_account.as_deref() == Some("front") {
                    identity.labels.insert("app".to_owned(), app.clone());
                }
            }
        }
    };
    rig.change_world(relabel("other"))?;
    let before = rig.counts()?;
    let word = rig.word();
    let said = say(rig, "front", socket, &word, silence)?;
    let counted = rig.counted_since(&before)?;
    let count = crate::scenario::rig::only(&counted, "shop/relabelled", "network.ingress", "Drop");
    ensure!(said == Answer::Silence && count >= 1, "{said:?}, {counted:?}");
    rig.change_world(relabel("front"))?;
    let again = rig.inside("front")?.act(Op::TcpHear { socket, word, wait_ms })?;
    ensure!(again == Answer::Echo, "after the labels are back: {again:?}");
    rig.inside("front")?.act(Op::Close { socket })?;
    Ok(())
}

/// A connection that exists, refused by one policy and let through by another.
fn elder(
    rig: &mut Rig,
    caller: &str,
    socket: u64,
    id: &str,
    shut: &str,
    open: &str,
    rule: &str,
) -> Result<()> {
    let (wait_ms, silence) = (rig.answer_ms(), rig.silence_ms());
    rig.enforce(&[(id, open)])?;
    let word = rig.word();
    let said = say(rig, caller, socket, &word, wait_ms)?;
    ensure!(said == Answer::Echo, "where it is allowed: {said:?}");
    rig.enforce(&[(id, shut)])?;
    let before = rig.counts()?;
    let word = rig.word();
    let said = say(rig, caller, socket, &word, silence)?;
    let counted = rig.counted_since(&before)?;
    let count = crate::scenario::rig::only(&counted, id, rule, "Drop");
    ensure!(said == Answer::Silence && count >= 1, "where it is refused: {said:?}, {counted:?}");
    rig.reports(id, rule, "Deny", "Deny")?;
    rig.enforce(&[(id, open)])?;
    let again = rig.inside(caller)?.act(Op::TcpHear { socket, word, wait_ms })?;
    ensure!(again == Answer::Echo, "where it is allowed again: {again:?}");
    Ok(())
}

fn elder_out(rig: &mut Rig) -> Result<()> {
    let socket = rig.elders().front_to_api;
    let (open, shut) = (network("front", TO_API), network("front", "{egress: {}}"));
    elder(rig, "front", socket, "shop/elder-out", &shut, &open, "network.egress")
}

fn elder_in(rig: &mut Rig) -> Result<()> {
    let socket = rig.elders().db_to_front;
    let from_db = "{egress: {}, ingress: {allow: [{from: [{namespaceSelector: {}}], ports: [{protocol: TCP, port: 9000}]}]}}";
    let (open, shut) = (network("front", from_db), network("front", "{ingress: {}, egress: {allow: [{}]}}"));
    elder(rig, "db", socket, "shop/elder-in", &shut, &open, "network.ingress")
}

fn accepted_before(rig: &mut Rig) -> Result<()> {
    let (to, wait_ms) = (rig.at("api", V6, 9000)?, rig.answer_ms());
    let (socket, _) = rig.inside("front")?.open(Op::TcpOpen { to, from: None, mapped: false, wait_ms })?;
    ensure!(say(rig, "front", socket, "first", wait_ms)? == Answer::Echo, "the connection does not work");
    let (open, shut) =
        (network("api", "{egress: {}}"), network("api", "{ingress: {}, egress: {allow: [{}]}}"));
    elder(rig, "front", socket, "shop/accepted-before", &shut, &open, "network.ingress")?;
    rig.inside("front")?.act(Op::Close { socket })?;
    Ok(())
}

fn mapped_client(rig: &mut Rig) -> Result<()> {
    rig.enforce(&[("shop/mapped-out", network("front", TO_API))])?;
    let (api, db) = (rig.at("api", V4, 8080)?, rig.at("db", V4, 8080)?);
    let mapped = |to| Attempt { call: Call::TcpMapped, ..tcp("front", to) };
    rig.allowed(mapped(api))?;
    rig.dropped(mapped(db), "shop/mapped-out", "network.egress")?;
    let block = "{egress: {allow: [{to: [{ipBlock: {cidr: 10.77.0.13/32}}]}]}}";
    rig.enforce(&[("shop/mapped-block", network("front", block))])?;
    rig.allowed(mapped(db))?;
    rig.dropped(mapped(api), "shop/mapped-block", "network.egress")
}

fn mapped_server(rig: &mut Rig) -> Result<()> {
    rig.enforce(&[("shop/mapped-in", network("api", FROM_FRONT))])?;
    let at = std::net::SocketAddr::from((std::net::Ipv6Addr::UNSPECIFIED, 7777));
    rig.inside("api")?.act(Op::Serve { at: vec![at], dual: true })?;
    for family in [V4, V6] {
        let to = rig.at("api", family, 7777)?;
        rig.allowed(tcp("front", to))?;
        rig.allowed(udp("front", to))?;
        rig.dropped(tcp("db", to), "shop/mapped-in", "network.ingress")?;
        rig.dropped(udp("db", to), "shop/mapped-in", "network.ingress")?;
    }
    Ok(())
}

fn itself(rig: &mut Rig) -> Result<()> {
    rig.enforce(&[("shop/alone", network("api", "{ingress: {}, egress: {}}"))])?;
    for address in ["127.0.0.1:8080", "[::1]:8080"] {
        rig.allowed(tcp("api", address.parse()?))?;
        rig.allowed(udp("api", address.parse()?))?;
    }
    for family in [V4, V6] {
        let (own, db) = (rig.at("api", family, 8080)?, rig.at("db", family, 8080)?);
        rig.allowed(tcp("api", own))?;
        rig.allowed(udp("api", own))?;
        rig.dropped(tcp("api", db), "shop/alone", "network.egress")?;
        rig.dropped(tcp("db", own), "shop/alone", "network.ingress")?;
    }
    Ok(())
}

/// Connects a socket of `from` anew, to `shut` and to `open`.
fn anew(rig: &mut Rig, from: &str, socket: u64, open: SocketAddr, shut: SocketAddr, id: &str) -> Result<()> {
    let (wait_ms, silence) = (rig.answer_ms(), rig.silence_ms());
    let before = rig.counts()?;
    let refused = rig.inside(from)?.act(Op::TcpAgain { socket, to: shut, wait_ms: silence })?;
    let counted = rig.counted_since(&before)?;
    let count = crate::scenario::rig::only(&counted, id, "network.egress", "Drop");
    ensure!(refused == Answer::Silence && count >= 1, "to {shut}: {refused:?}, {counted:?}");
    rig.reports(id, "network.egress", "Deny", "Deny")?;
    let allowed = rig.inside(from)?.act(Op::TcpAgain { socket, to: open, wait_ms })?;
    ensure!(allowed == Answer::Done, "to {open}: {allowed:?}");
    ensure!(say(rig, from, socket, "anew", wait_ms)? == Answer::Echo, "the new connection does not work");
    rig.inside(from)?.act(Op::Close { socket })?;
    Ok(())
}

fn connected_anew(rig: &mut Rig) -> Result<()> {
    rig.enforce(&[("shop/anew", network("front", TO_API))])?;
    let (open, shut, wait_ms) = (rig.at("api", V4, 9000)?, rig.at("db", V4, 9000)?, rig.answer_ms());
    let (socket, _) =
        rig.inside("front")?.open(Op::TcpOpen { to: open, from: None, mapped: false, wait_ms })?;
    ensure!(say(rig, "front", socket, "first", wait_ms)? == Answer::Echo, "the connection does not work");
    anew(rig, "front", socket, open, shut, "shop/anew")
}

fn accepted_anew(rig: &mut Rig) -> Result<()> {
    let rules =
        "{ingress: {allow: [{}]}, egress: {allow: [{to: [{podSelector: {matchLabels: {app: front}}}]}]}}";
    rig.enforce(&[("shop/accepted-anew", network("api", rules))])?;
    let (to, wait_ms) = (rig.at("api", V4, 9000)?, rig.answer_ms());
    let (caller, _) = rig.inside("db")?.open(Op::TcpOpen { to, from: None, mapped: false, wait_ms })?;
    ensure!(say(rig, "db", caller, "first", wait_ms)? == Answer::Echo, "the connection does not work");
    let (socket, _) = rig.inside("api")?.open(Op::TcpAccepted { port: 9000 })?;
    let (open, shut) = (rig.at("front", V4, 9000)?, rig.at("db", V4, 9000)?);
    anew(rig, "api", socket, open, shut, "shop/accepted-anew")?;
    rig.inside("db")?.act(Op::Close { socket: caller })?;
    Ok(())
}
