//! SCTP. What rules say of its packets is shown with raw ones, on every kernel. Associations need SCTP sockets: guests
//! have them; a kernel without shows with raw packets alone what it does, and the scenario says so.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};

use crate::scenario::{
    node::{Family, V4, V6},
    protocol::{Answer, Op, RawForm},
    rig::{Counted, Rig, network, only, sctp, tcp},
    suite::Scenario,
};

pub(super) const ALL: &[Scenario] = &[
    Scenario { name: "associations obey ports, and rules without ports", run: sockets },
    Scenario { name: "a server answers and speaks first on associations it may not open", run: server },
    Scenario { name: "a revoked permission ends a live association, whatever else is open", run: revoked },
    Scenario { name: "an association older than its workload's rules obeys them", run: elder },
    Scenario { name: "to reject SCTP is to drop it", run: reject },
    // These last: a raw socket that hears SCTP has its packets counted too.
    Scenario { name: "an SCTP port is that port, whatever hides it in raw packets", run: ports },
    Scenario { name: "an INIT alone opens an SCTP flow, and each way for itself", run: init },
    Scenario { name: "an SCTP flow that nobody opened is judged both ways", run: unopened },
];

/// Types of chunks (RFC 9260 section 3.2).
const DATA: u8 = 0;
const INIT: u8 = 1;

/// Sends a raw packet between two pods and says whether it arrived, and what was counted.
fn raw(
    rig: &mut Rig,
    (from, source): (&str, SocketAddr),
    (to, target): (&str, SocketAddr),
    chunk: u8,
    form: RawForm,
) -> Result<(bool, Counted)> {
    let word = rig.word();
    rig.inside(to)?.arrivals()?;
    let before = rig.counts()?;
    let op = Op::RawSctp { from: source, to: target, word: word.clone(), chunk, form };
    let sent = rig.inside(from)?.act(op)?;
    ensure!(sent == Answer::Done, "the packet was not sent: {sent:?}");
    let (mut arrived, mut counted) = (false, Counted::new());
    rig.until(&format!("chunk {chunk} of {source} to {target} arrives or is counted"), |rig| {
        arrived |= rig
            .inside(to)?
            .arrivals()?
            .iter()
            .any(|arrival| arrival.word == word && arrival.port == target.port());
        counted = rig.counted_since(&before)?;
        Ok(arrived || !counted.is_empty())
    })?;
    Ok((arrived, counted))
}

/// Two pods with a port each, between which raw packets go.
#[derive(Clone, Copy)]
struct Pair {
    family: Family,
    ours: (&'static str, u16),
    theirs: (&'static str, u16),
}

impl Pair {
    fn back(self) -> Self {
        Self { ours: self.theirs, theirs: self.ours, ..self }
    }

    fn send(self, rig: &mut Rig, chunk: u8, form: RawForm) -> Result<(bool, Counted)> {
        let source = rig.at(self.ours.0, self.family, self.ours.1)?;
        let target = rig.at(self.theirs.0, self.family, self.theirs.1)?;
        raw(rig, (self.ours.0, source), (self.theirs.0, target), chunk, form)
    }

    fn passes(self, rig: &mut Rig, chunk: u8, form: RawForm) -> Result<()> {
        let (arrived, counted) = self.send(rig, chunk, form)?;
        let (ours, theirs) = (self.ours, self.theirs);
        ensure!(
            arrived && counted.is_empty(),
            "{form:?} of {ours:?} to {theirs:?}: arrived {arrived}, counted {counted:?}"
        );
        Ok(())
    }

    fn stops(self, rig: &mut Rig, chunk: u8, form: RawForm, policy: &str, rule: &str) -> Result<()> {
        let (arrived, counted) = self.send(rig, chunk, form)?;
        let (ours, theirs) = (self.ours, self.theirs);
        let count = only(&counted, policy, rule, "Drop");
        ensure!(
            !arrived && count >= 1,
            "{form:?} of {ours:?} to {theirs:?}: arrived {arrived}, counted {counted:?}"
        );
        rig.reports(policy, rule, "Deny", "Deny")
    }
}

/// Lets pods hear raw packets. One that heard before hears them twice, and its rules count them twice.
fn hear(rig: &mut Rig, pods: &[&'static str]) -> Result<()> {
    for pod in pods {
        let at = [rig.at(pod, V4, 0)?.ip(), rig.at(pod, V6, 0)?.ip()].to_vec();
        let answer = rig.inside(pod)?.act(Op::RawSctpHear { at })?;
        ensure!(answer == Answer::Done, "{pod} cannot hear raw packets: {answer:?}");
    }
    Ok(())
}

fn ports(rig: &mut Rig) -> Result<()> {
    hear(rig, &["api"])?;
    let only_one = "{egress: {allow: [{ports: [{protocol: SCTP, port: 2905}]}]}}";
    let inwards =
        "{ingress: {allow: [{ports: [{protocol: SCTP, port: 2905}, {protocol: TCP}, {protocol: UDP}]}]}}";
    for family in [V4, V6] {
        let open = Pair { family, ours: ("front", 7200), theirs: ("api", 2905) };
        let shut = Pair { theirs: ("api", 2906), ..open };
        let packed = if family == V4 { RawForm::Options } else { RawForm::Extensions };
        for (id, spec, rule) in [
            ("shop/sctp-out", network("front", only_one), "network.egress"),
            ("shop/sctp-in", network("api", inwards), "network.ingress"),
        ] {
            rig.enforce(&[(id, spec)])?;
            for form in [RawForm::Plain, packed] {
                open.passes(rig, INIT, form)?;
                shut.stops(rig, INIT, form, id, rule)?;
            }
        }
        // Of fragments the last has no port; at the other end the kernel has put them together.
        open.passes(rig, INIT, RawForm::Fragments)?;
        shut.stops(rig, INIT, RawForm::Fragments, "shop/sctp-in", "network.ingress")?;
        rig.enforce(&[("shop/sctp-out", network("front", only_one))])?;
        open.stops(rig, INIT, RawForm::LastFragment, "shop/sctp-out", "network.egress")?;
        // Rules for the other protocols say nothing of it, and rules without ports are for all.
        rig.enforce(&[(
            "shop/no-sctp",
            network("front", "{egress: {allow: [{ports: [{protocol: TCP}, {protocol: UDP}]}]}}"),
        )])?;
        open.stops(rig, INIT, RawForm::Plain, "shop/no-sctp", "network.egress")?;
        rig.enforce(&[("shop/every", network("front", "{egress: {allow: [{to: [{podSelector: {}}]}]}}"))])?;
        open.passes(rig, INIT, RawForm::Plain)?;
    }
    Ok(())
}

fn init(rig: &mut Rig) -> Result<()> {
    opened(rig, 2907)
}

/// What opens a flow to this port of `api`, which no other scenario may use: such flows stay.
fn opened(rig: &mut Rig, port: u16) -> Result<()> {
    hear(rig, &["front", "api"])?;
    let serves =
        format!("{{ingress: {{allow: [{{ports: [{{protocol: SCTP, port: {port}}}]}}]}}, egress: {{}}}}");
    rig.enforce(&[("shop/sctp-serves", network("api", &serves))])?;
    for family in [V4, V6] {
        let call = Pair { family, ours: ("front", 7201), theirs: ("api", port) };
        // Before anybody has called, the server's packets are no replies.
        call.back().stops(rig, DATA, RawForm::Plain, "shop/sctp-serves", "network.egress")?;
        call.passes(rig, INIT, RawForm::Plain)?;
        call.back().passes(rig, DATA, RawForm::Plain)?;
        call.passes(rig, DATA, RawForm::Plain)?;
        // With the same ports, the other way round: no reply, and what was opened stays open.
        call.back().stops(rig, INIT, RawForm::Plain, "shop/sctp-serves", "network.egress")?;
        call.back().passes(rig, DATA, RawForm::Plain)?;
    }
    Ok(())
}

fn unopened(rig: &mut Rig) -> Result<()> {
    hear(rig, &["api"])?;
    for family in [V4, V6] {
        let call = Pair { family, ours: ("front", 7202), theirs: ("api", 2908) };
        rig.enforce(&[("shop/out-only", network("front", "{ingress: {}, egress: {allow: [{}]}}"))])?;
        call.stops(rig, DATA, RawForm::Plain, "shop/out-only", "network.ingress")?;
        let both = "{ingress: {allow: [{ports: [{protocol: SCTP, port: 7202}]}]}, egress: {allow: [{}]}}";
        rig.enforce(&[("shop/both-ways", network("front", both))])?;
        call.passes(rig, DATA, RawForm::Plain)?;
        // It has opened nothing.
        rig.enforce(&[("shop/out-only", network("front", "{ingress: {}, egress: {allow: [{}]}}"))])?;
        call.stops(rig, DATA, RawForm::Plain, "shop/out-only", "network.ingress")?;
    }
    Ok(())
}

/// Serves SCTP at ports of a pod. `false`: the kernel has no SCTP sockets, which is said.
fn serve(rig: &mut Rig, pod: &'static str, ports: &[u16]) -> Result<bool> {
    let mut at = Vec::new();
    for port in ports {
        at.extend([rig.at(pod, V4, *port)?, rig.at(pod, V6, *port)?]);
    }
    match rig.inside(pod)?.act(Op::SctpServe { at })? {
        Answer::Done => Ok(true),
        Answer::Errno(nix::libc::EPROTONOSUPPORT | nix::libc::ESOCKTNOSUPPORT) => {
            // The kernels of guests have the module; only one that refuses no system calls either may lack it.
            let known = rig.mechanism.as_deref().is_some_and(|mechanism| mechanism != "none");
            ensure!(!known, "this kernel should have SCTP sockets");
            println!("      this kernel has no SCTP sockets: raw packets in their place");
            opened(rig, *ports.first().context("no port")?)?;
            Ok(false)
        }
        other => anyhow::bail!("{pod} cannot serve SCTP: {other:?}"),
    }
}

fn sockets(rig: &mut Rig) -> Result<()> {
    if !serve(rig, "api", &[2910, 2911])? {
        return Ok(());
    }
    for family in [V4, V6] {
        let (open, shut) = (rig.at("api", family, 2910)?, rig.at("api", family, 2911)?);
        let http = rig.at("api", family, 8080)?;
        let rules = "{ingress: {allow: [{ports: [{protocol: SCTP, port: 2910}]}]}}";
        rig.enforce(&[("shop/sctp-port", network("api", rules))])?;
        rig.allowed(sctp("front", open))?;
        rig.dropped(sctp("front", shut), "shop/sctp-port", "network.ingress")?;
        rig.dropped(tcp("front", http), "shop/sctp-port", "network.ingress")?;
        let rules =
            "{egress: {allow: [{ports: [{protocol: TCP}, {protocol: UDP}, {protocol: SCTP, port: 2911}]}]}}";
        rig.enforce(&[("shop/sctp-port-out", network("front", rules))])?;
        rig.allowed(sctp("front", shut))?;
        rig.dropped(sctp("front", open), "shop/sctp-port-out", "network.egress")?;
        let rules = "{ingress: {allow: [{from: [{podSelector: {matchLabels: {app: front}}}]}]}}";
        rig.enforce(&[("shop/sctp-all", network("api", rules))])?;
        rig.allowed(sctp("front", open))?;
        rig.dropped(sctp("db", open), "shop/sctp-all", "network.ingress")?;
    }
    Ok(())
}

fn server(rig: &mut Rig) -> Result<()> {
    if !serve(rig, "api", &[2912])? || !serve(rig, "front", &[2912])? {
        return Ok(());
    }
    rig.enforce(&[("shop/sctp-pushes", network("api", "{egress: {}}"))])?;
    let wait_ms = rig.answer_ms();
    for family in [V4, V6] {
        let (to, word) = (rig.at("api", family, 2912)?, rig.word());
        let (socket, _) = rig.inside("front")?.open(Op::SctpOpen { to, wait_ms })?;
        let said = rig.inside("front")?.act(Op::TcpSay { socket, word: "hello".to_owned(), wait_ms })?;
        ensure!(said == Answer::Echo, "the association does not work: {said:?}");
        rig.inside("api")?.act(Op::TcpTell { port: 2912, word: word.clone() })?;
        let heard = rig.inside("front")?.act(Op::TcpHear { socket, word, wait_ms })?;
        ensure!(heard == Answer::Echo, "the server's own word did not come: {heard:?}");
        rig.inside("front")?.act(Op::Close { socket })?;
        let front = rig.at("front", family, 2912)?;
        rig.dropped(sctp("api", front), "shop/sctp-pushes", "network.egress")?;
    }
    Ok(())
}

/// What `front` says over an association to `api` comes to nothing under `shut`, and comes through under `open`.
fn shut_and_open(rig: &mut Rig, socket: u64, id: &str, shut: &str, open: &str) -> Result<()> {
    let (wait_ms, silence) = (rig.answer_ms(), rig.silence_ms());
    rig.enforce(&[(id, network("api", shut))])?;
    rig.inside("api")?.arrivals()?;
    let (before, word) = (rig.counts()?, rig.word());
    let said = rig.inside("front")?.act(Op::TcpSay { socket, word: word.clone(), wait_ms: silence })?;
    let counted = rig.counted_since(&before)?;
    let arrived = rig.inside("api")?.arrivals()?;
    let count = only(&counted, id, "network.ingress", "Drop");
    ensure!(
        said == Answer::Silence && arrived.is_empty() && count >= 1,
        "shut: {said:?}, arrived {arrived:?}, counted {counted:?}"
    );
    rig.reports(id, "network.ingress", "Deny", "Deny")?;
    rig.enforce(&[(id, network("api", open))])?;
    // The association itself sends again what was lost.
    let heard = rig.inside("front")?.act(Op::TcpHear { socket, word, wait_ms })?;
    ensure!(heard == Answer::Echo, "open again: {heard:?}");
    rig.inside("front")?.act(Op::Close { socket })?;
    Ok(())
}

fn revoked(rig: &mut Rig) -> Result<()> {
    if !serve(rig, "api", &[2913])? {
        return Ok(());
    }
    let (to, wait_ms) = (rig.at("api", V4, 2913)?, rig.answer_ms());
    let open = "{ingress: {allow: [{ports: [{protocol: SCTP, port: 2913}]}]}, egress: {allow: [{}]}}";
    rig.enforce(&[("shop/sctp-live", network("api", open))])?;
    let (socket, _) = rig.inside("front")?.open(Op::SctpOpen { to, wait_ms })?;
    let said = rig.inside("front")?.act(Op::TcpSay { socket, word: "first".to_owned(), wait_ms })?;
    ensure!(said == Answer::Echo, "the association does not work: {said:?}");
    shut_and_open(rig, socket, "shop/sctp-live", "{ingress: {}, egress: {allow: [{}]}}", open)
}

fn elder(rig: &mut Rig) -> Result<()> {
    if !serve(rig, "api", &[2914])? {
        return Ok(());
    }
    let (to, wait_ms) = (rig.at("api", V6, 2914)?, rig.answer_ms());
    let (socket, _) = rig.inside("front")?.open(Op::SctpOpen { to, wait_ms })?;
    let said = rig.inside("front")?.act(Op::TcpSay { socket, word: "first".to_owned(), wait_ms })?;
    ensure!(said == Answer::Echo, "the association does not work: {said:?}");
    // Where one way is shut it ends, though the server could have called as well for all that can be seen.
    let open = "{ingress: {allow: [{ports: [{protocol: SCTP, port: 2914}]}]}}";
    shut_and_open(rig, socket, "shop/sctp-elder", "{ingress: {}}", open)
}

fn reject(rig: &mut Rig) -> Result<()> {
    if !serve(rig, "api", &[2915])? {
        return Ok(());
    }
    rig.enforce(&[("shop/sctp-reject", network("front", "{egress: {}, onDeny: Reject}"))])?;
    for family in [V4, V6] {
        let (to, http) = (rig.at("api", family, 2915)?, rig.at("api", family, 8080)?);
        rig.rejected(tcp("front", http), "shop/sctp-reject", "network.egress")?;
        rig.dropped(sctp("front", to), "shop/sctp-reject", "network.egress")?;
    }
    Ok(())
}
