//! Where a workload is: hostNetwork, external, child cgroups, the node itself, Services.

use std::fs;

use anyhow::{Context, Result, ensure};

use crate::scenario::{
    node::{SERVICE_PORT, V4, V6, at, scratch, service},
    process::Inside,
    protocol::{Answer, Op, RawForm},
    rig::{Rig, network, only, tcp, udp},
    suite::Scenario,
};

pub(super) const ALL: &[Scenario] = &[
    Scenario { name: "a hostNetwork pod is isolated by its cgroup and the node is not", run: host_network },
    Scenario { name: "loopback is the entity Host to a hostNetwork pod", run: host_loopback },
    Scenario { name: "an external workload is isolated by its cgroup", run: external },
    Scenario { name: "the node reaches its pods and its address from elsewhere does not", run: probes },
    Scenario {
        name: "a connection of the node's stays the node's when its record has gone stale",
        run: slow_probe,
    },
    Scenario { name: "a deny rule that names Host stops the node's probes", run: no_probes },
    Scenario { name: "a cgroup made inside a workload is of it before anything runs there", run: child },
    Scenario { name: "a process in the pod's own cgroup is of the pod", run: pod_cgroup },
    Scenario { name: "a listening socket handed to another cgroup keeps its maker's rules", run: handed },
    Scenario { name: "a Service is allowed where its backends are", run: service_allowed },
    Scenario { name: "a Service of which one backend is refused is refused", run: service_partly },
    Scenario {
        name: "a Service that has no backends or is not known in full is refused",
        run: service_unknown,
    },
    Scenario { name: "a Service's address opens no port that it does not have", run: service_port },
];

fn host_network(rig: &mut Rig) -> Result<()> {
    let rules = "{egress: {allow: [{to: [{namespaceSelector: {matchLabels: {team: shop}}}]}]}}";
    rig.enforce(&[("ops/host-network", network("exporter", rules))])?;
    for family in [V4, V6] {
        let (front, db) = (rig.at("front", family, 8080)?, rig.at("db", family, 8080)?);
        rig.allowed(tcp("exporter", front))?;
        rig.allowed(udp("exporter", front))?;
        rig.dropped(tcp("exporter", db), "ops/host-network", "network.egress")?;
        rig.dropped(udp("exporter", db), "ops/host-network", "network.egress")?;
        rig.allowed(tcp("node", db))?;
    }
    Ok(())
}

fn host_loopback(rig: &mut Rig) -> Result<()> {
    rig.enforce(&[("ops/loopback-shut", network("exporter", "{egress: {}}"))])?;
    let to = "127.0.0.1:8080".parse()?;
    rig.dropped(tcp("exporter", to), "ops/loopback-shut", "network.egress")?;
    rig.allowed(tcp("node", to))?;
    rig.enforce(&[(
        "ops/loopback-open",
        network("exporter", "{egress: {allow: [{to: [{entity: Host}]}]}}"),
    )])?;
    rig.allowed(tcp("exporter", to))?;
    rig.allowed(tcp("exporter", "[::1]:8080".parse()?))
}

fn external(rig: &mut Rig) -> Result<()> {
    let rules = "{egress: {allow: [{to: [{podSelector: {matchLabels: {app: db}}}]}]}}";
    rig.enforce(&[("bank/ledger", network("ledger", rules))])?;
    for family in [V4, V6] {
        let (front, db) = (rig.at("front", family, 8080)?, rig.at("db", family, 8080)?);
        rig.allowed(tcp("ledger", db))?;
        rig.dropped(tcp("ledger", front), "bank/ledger", "network.egress")?;
        rig.dropped(udp("ledger", front), "bank/ledger", "network.egress")?;
        rig.allowed(tcp("node", front))?;
    }
    Ok(())
}

fn probes(rig: &mut Rig) -> Result<()> {
    rig.enforce(&[("shop/probed", network("api", "{ingress: {}}"))])?;
    for family in [V4, V6] {
        let (api, node) = (rig.at("api", family, 8080)?, rig.at("node", family, 7200)?);
        rig.allowed(tcp("node", api))?;
        rig.allowed(udp("node", api))?;
        rig.dropped(tcp("db", api), "shop/probed", "network.ingress")?;
        // Somebody else's packet that wears the node's address, as masquerading gives it.
        rig.inside("api")?.arrivals()?;
        let before = rig.counts()?;
        let forged = Op::RawUdp { from: node, to: api, word: rig.word(), form: RawForm::Plain };
        ensure!(rig.inside("outside")?.act(forged)? == Answer::Done, "the forged packet was not sent");
        rig.until("the forged packet is counted", |rig| {
            let counted = rig.counted_since(&before)?;
            Ok(only(&counted, "shop/probed", "network.ingress", "Drop") == 1)
        })?;
        ensure!(rig.inside("api")?.arrivals()?.is_empty(), "the forged packet arrived");
    }
    Ok(())
}

fn slow_probe(rig: &mut Rig) -> Result<()> {
    rig.enforce(&[("shop/slow-probe", network("api", "{ingress: {}}"))])?;
    let (to, wait_ms, word) = (rig.at("api", V4, 9005)?, rig.answer_ms(), rig.word());
    let open = Op::TcpOpen { to, from: None, mapped: false, wait_ms };
    let (socket, _) = rig.inside("node")?.open(open)?;
    // Time itself is what is waited for: a record is good for five seconds.
    let heard = rig.inside("node")?.act(Op::TcpHear { socket, word: "nothing".to_owned(), wait_ms: 5500 })?;
    ensure!(heard == Answer::Silence, "{heard:?}");
    rig.inside("api")?.act(Op::TcpTell { port: 9005, word: word.clone() })?;
    let heard = rig.inside("node")?.act(Op::TcpHear { socket, word, wait_ms })?;
    ensure!(heard == Answer::Echo, "the server's first word did not come: {heard:?}");
    rig.inside("node")?.act(Op::Close { socket })?;
    // A packet with the addresses and ports of a record that has gone stale is not the node's.
    let (own, there) = (rig.at("node", V4, 7210)?, rig.at("api", V4, 7211)?);
    let (speaker, _) = rig.inside("node")?.open(Op::UdpOpen { at: own, connect: None, recverr: false })?;
    let say = |word: String| Op::UdpSay { socket: speaker, to: Some(there), word, padding: 0, wait_ms: 1 };
    // Nobody listens there: the record is made, and no flow.
    let word = rig.word();
    rig.inside("node")?.act(say(word))?;
    let heard =
        rig.inside("node")?.act(Op::UdpHear { socket: speaker, word: "none".to_owned(), wait_ms: 5500 })?;
    ensure!(matches!(heard, Answer::Silence | Answer::Errno(_)), "{heard:?}");
    rig.inside("api")?.act(Op::Serve { at: vec![at(there.ip(), 7211)], dual: false })?;
    let before = rig.counts()?;
    let forged = Op::RawUdp { from: own, to: there, word: rig.word(), form: RawForm::Plain };
    ensure!(rig.inside("outside")?.act(forged)? == Answer::Done, "the forged packet was not sent");
    rig.until("the forged packet is counted", |rig| {
        let counted = rig.counted_since(&before)?;
        Ok(only(&counted, "shop/slow-probe", "network.ingress", "Drop") == 1)
    })?;
    rig.inside("node")?.act(Op::Close { socket: speaker })?;
    Ok(())
}

fn no_probes(rig: &mut Rig) -> Result<()> {
    let rules = "{ingress: {allow: [{from: [{podSelector: {}}]}], deny: [{from: [{entity: Host}],
        ports: [{protocol: TCP, port: 9000}]}]}}";
    rig.enforce(&[("shop/no-probes", network("api", rules))])?;
    let (open, shut) = (rig.at("api", V4, 8080)?, rig.at("api", V4, 9000)?);
    rig.allowed(tcp("node", open))?;
    rig.dropped(tcp("node", shut), "shop/no-probes", "network.ingress.deny[0]")?;
    rig.allowed(tcp("front", shut))
}

fn child(rig: &mut Rig) -> Result<()> {
    let rules = "{egress: {allow: [{to: [{podSelector: {matchLabels: {app: api}}}]}]}}";
    rig.enforce(&[("shop/child", network("front", rules))])?;
    let place = rig.node.place("front")?;
    let (parent, netns) = (place.cgroup.clone(), rig.node.netns(place.netns)?.path());
    let full = rig.node.top.full(&parent).join("child/deep");
    // The agent is told of nothing: the kernel programs enroll it.
    fs::create_dir_all(&full)?;
    let inside = Inside::start("front's child", &full, &netns)?;
    let (api, db, silence, answer) =
        (rig.at("api", V4, 8080)?, rig.at("db", V4, 8080)?, rig.silence_ms(), rig.answer_ms());
    let before = rig.counts()?;
    let seen = inside.act(Op::TcpOpen { to: db, from: None, mapped: false, wait_ms: silence })?;
    let counted = rig.counted_since(&before)?;
    ensure!(
        seen == Answer::Silence && only(&counted, "shop/child", "network.egress", "Drop") >= 1,
        "{seen:?}, {counted:?}"
    );
    let (socket, _) = inside.open(Op::TcpOpen { to: api, from: None, mapped: false, wait_ms: answer })?;
    let seen = inside.act(Op::TcpSay { socket, word: "hello".to_owned(), wait_ms: answer })?;
    ensure!(seen == Answer::Echo, "{seen:?}");
    drop(inside);
    rig.node.top.remove(&format!("{parent}/child"))
}

fn pod_cgroup(rig: &mut Rig) -> Result<()> {
    let rules = "{egress: {allow: [{to: [{podSelector: {matchLabels: {app: api}}}]}]}}";
    rig.enforce(&[("shop/pod-cgroup", network("front", rules))])?;
    let place = rig.node.place("front")?;
    let pod = place.pod_cgroup.clone().context("front is a pod")?;
    let inside =
        Inside::start("front's pod", &rig.node.top.full(&pod), &rig.node.netns(place.netns)?.path())?;
    let (api, db, silence, answer) =
        (rig.at("api", V6, 8080)?, rig.at("db", V6, 8080)?, rig.silence_ms(), rig.answer_ms());
    let before = rig.counts()?;
    let seen = inside.act(Op::TcpOpen { to: db, from: None, mapped: false, wait_ms: silence })?;
    let counted = rig.counted_since(&before)?;
    ensure!(
        seen == Answer::Silence && only(&counted, "shop/pod-cgroup", "network.egress", "Drop") >= 1,
        "{seen:?}, {counted:?}"
    );
    inside.open(Op::TcpOpen { to: api, from: None, mapped: false, wait_ms: answer })?;
    Ok(())
}

fn handed(rig: &mut Rig) -> Result<()> {
    let rules = "{ingress: {allow: [{from: [{podSelector: {matchLabels: {app: front}}}]}]}}";
    rig.enforce(&[("shop/handed", network("api", rules))])?;
    let (_folder, path) = scratch()?;
    let path = path.join("door").display().to_string();
    // A maker of its own, so that nobody else listens at the port.
    let maker = rig.node.another("api")?;
    let listen = at(std::net::Ipv4Addr::UNSPECIFIED.into(), 7300);
    maker.act(Op::Serve { at: vec![listen], dual: false })?;
    let taken =
        rig.inside("batch")?.ask(Op::TakeListener { path: path.clone(), wait_ms: rig.answer_ms() })?;
    rig.until("the other process waits for the socket", |_| Ok(std::path::Path::new(&path).exists()))?;
    let given = maker.act(Op::GiveListener { port: 7300, path })?;
    ensure!(given == Answer::Done, "{given:?}");
    let taken = taken.wait()?;
    ensure!(taken == Answer::Done, "{taken:?}");
    drop(maker);
    rig.inside("batch")?.arrivals()?;
    let (to, silence, answer) = (rig.at("api", V4, 7300)?, rig.silence_ms(), rig.answer_ms());
    let front = rig.inside("front")?;
    let (socket, _) = front.open(Op::TcpOpen { to, from: None, mapped: false, wait_ms: answer })?;
    let seen = front.act(Op::TcpSay { socket, word: "handed".to_owned(), wait_ms: answer })?;
    front.act(Op::Close { socket })?;
    let arrived = rig.inside("batch")?.arrivals()?;
    ensure!(
        seen == Answer::Echo && arrived.iter().any(|arrival| arrival.word == "handed"),
        "through the new owner: {seen:?}, {arrived:?}"
    );
    let before = rig.counts()?;
    let seen = rig.inside("db")?.act(Op::TcpOpen { to, from: None, mapped: false, wait_ms: silence })?;
    let counted = rig.counted_since(&before)?;
    ensure!(
        seen == Answer::Silence && only(&counted, "shop/handed", "network.ingress", "Drop") >= 1,
        "{seen:?}, {counted:?}"
    );
    ensure!(rig.inside("batch")?.arrivals()?.is_empty(), "the refused connection was accepted");
    Ok(())
}

const TO_API: &str = "{to: [{podSelector: {matchLabels: {app: api}}}], ports: [{protocol: TCP, port: 8080}]}";

fn service_allowed(rig: &mut Rig) -> Result<()> {
    let api = "{ingress: {allow: [{from: [{podSelector: {}}], ports: [{protocol: TCP, port: 80}]}]}}";
    let rules = format!("{{egress: {{allow: [{TO_API}]}}}}");
    rig.enforce(&[("shop/service", network("front", &rules)), ("shop/service-in", network("api", api))])?;
    for family in [V4, V6] {
        let to = at(service("one", family), SERVICE_PORT);
        rig.allowed(tcp("front", to))?;
        // The Service serves UDP too, and that backend port is not allowed.
        rig.dropped(udp("front", to), "shop/service", "network.egress")?;
    }
    Ok(())
}

fn service_partly(rig: &mut Rig) -> Result<()> {
    let rules = format!("{{egress: {{allow: [{TO_API}]}}}}");
    rig.enforce(&[("shop/partly", network("front", &rules))])?;
    let (one, two) = (at(service("one", V4), SERVICE_PORT), at(service("two", V4), SERVICE_PORT));
    rig.allowed(tcp("front", one))?;
    rig.dropped(tcp("front", two), "shop/partly", "network.egress")?;
    let rules = "{egress: {allow: [{to: [{namespaceSelector: {}}], ports: [{protocol: TCP, port: 8080}]}]}}";
    rig.enforce(&[("shop/both", network("front", rules))])?;
    rig.allowed(tcp("front", two))?;
    let rules = "{egress: {allow: [{}], deny: [{to: [{namespaceSelector: {}, podSelector: {matchLabels: {app: db}}}]}]}}";
    rig.enforce(&[("shop/deny-one", network("front", rules))])?;
    rig.allowed(tcp("front", one))?;
    rig.dropped(tcp("front", two), "shop/deny-one", "network.egress.deny[0]")
}

fn service_unknown(rig: &mut Rig) -> Result<()> {
    let (none, partial) = (at(service("none", V4), SERVICE_PORT), at(service("partial", V6), SERVICE_PORT));
    rig.allowed(tcp("front", none))?;
    let closed = "{egress: {allow: [{to: [{podSelector: {}}]}]}}";
    rig.enforce(&[("shop/unknown", network("front", closed))])?;
    rig.dropped(tcp("front", none), "shop/unknown", "network.egress")?;
    rig.dropped(tcp("front", partial), "shop/unknown", "network.egress")?;
    let one = at(service("one", V4), SERVICE_PORT);
    rig.allowed(tcp("front", one))
}

fn service_port(rig: &mut Rig) -> Result<()> {
    let rules = "{egress: {allow: [{to: [{podSelector: {}}]}]}}";
    rig.enforce(&[("shop/service-port", network("front", rules))])?;
    let (own, other) = (at(service("one", V4), SERVICE_PORT), at(service("one", V4), 9000));
    rig.allowed(tcp("front", own))?;
    rig.dropped(tcp("front", other), "shop/service-port", "network.egress")
}
