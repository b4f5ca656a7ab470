//! Connections that a change of policies revokes: their owners see an error at once, and nobody else does.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use aya::Btf;
use holdfast_agent::{abi, break_glass, cgroups::Tree, mechanisms::State, sockets};
use nix::libc::{ECONNABORTED, EPIPE};

use super::{
    agent::{Home, TO_DB},
    node::{Family, V4, V6},
    protocol::{Answer, Op},
    rig::{Rig, network},
    suite::Scenario,
};

/// All of them.
#[must_use]
pub fn all() -> Vec<Scenario> {
    vec![
        Scenario {
            name: "a blocked reader and an idle client see an error at once when a policy revokes their connection",
            run: client,
        },
        Scenario { name: "a server sees an error at once when a policy revokes its caller", run: server },
        Scenario {
            name: "no connection is ended by an audit, by a broken glass or in another workload",
            run: untouched,
        },
        Scenario {
            name: "the agent ends revoked connections of a workload on the host, and counts them",
            run: agent,
        },
    ]
}

const BOTH: &str = "{egress: {allow: [{to: [{podSelector: {matchLabels: {app: api}}}]}, \
                    {to: [{namespaceSelector: {}, podSelector: {matchLabels: {app: db}}}]}]}}";
const DB: &str =
    "{egress: {allow: [{to: [{namespaceSelector: {}, podSelector: {matchLabels: {app: db}}}]}]}}";

fn open(rig: &mut Rig, from: &str, to: &str, family: Family, mapped: bool) -> Result<u64> {
    let (to, wait_ms) = (rig.at(to, family, 8080)?, rig.answer_ms());
    let (socket, _) = rig.inside(from)?.open(Op::TcpOpen { to, from: None, mapped, wait_ms })?;
    let said = say(rig, from, socket)?;
    ensure!(said == Answer::Echo, "the connection does not work: {said:?}");
    Ok(socket)
}

fn say(rig: &mut Rig, from: &str, socket: u64) -> Result<Answer> {
    let (word, wait_ms) = (rig.word(), rig.answer_ms());
    rig.inside(from)?.act(Op::TcpSay { socket, word, wait_ms })
}

fn is_error(answer: &Answer) -> bool {
    matches!(answer, Answer::Errno(ECONNABORTED | EPIPE))
}

/// Refused connections by the kernel programs, and how many of them were destroyed by a thread of its own.
fn end_refused(rig: &Rig) -> Result<(Vec<abi::Socket>, u64)> {
    let list = sockets::Refused::new(&rig.places, &Btf::from_sys_fs()?)?.list()?;
    let cgroups = Tree::walk(&rig.places.cgroup_root)?.all();
    let count = std::thread::scope(|scope| {
        scope.spawn(|| sockets::destroy(&list, &cgroups, &rig.places.cgroup_root)).join()
    });
    let count = count.ok().context("the thread panicked")?;
    Ok((list, count))
}

/// Whether connections can be ended aloud here. Where they cannot, the agent must have found out why, and the kernel must
/// refuse to list them.
fn ends_aloud(rig: &Rig) -> Result<bool> {
    let states = &rig.engine.mechanisms().states;
    match states.get(sockets::MECHANISM).context("sock_destroy is not probed")? {
        State::Available => return Ok(true),
        State::Unavailable(why) => println!("      not here: {why}"),
        State::Error(why) => bail!("sock_destroy could not be probed: {why}"),
    }
    let listed = sockets::Refused::new(&rig.places, &Btf::from_sys_fs()?).and_then(|refused| refused.list());
    ensure!(listed.is_err(), "called not available, and connections can be listed");
    Ok(false)
}

fn client(rig: &mut Rig) -> Result<()> {
    if !ends_aloud(rig)? {
        return Ok(());
    }
    rig.enforce(&[("shop/live", network("front", BOTH))])?;
    let reader = open(rig, "front", "api", V4, false)?;
    let idle = [
        open(rig, "front", "api", V4, false)?,
        open(rig, "front", "api", V6, false)?,
        open(rig, "front", "api", V4, true)?,
    ];
    let allowed = [
        open(rig, "front", "db", V4, false)?,
        open(rig, "front", "db", V6, false)?,
        open(rig, "front", "db", V4, true)?,
    ];
    ensure!(end_refused(rig)?.0.is_empty(), "refused while all is allowed");
    let wait_ms = rig.answer_ms() * 4;
    let word = rig.word();
    let blocked = rig.inside("front")?.ask(Op::TcpHear { socket: reader, word, wait_ms })?;
    rig.enforce(&[("shop/live", network("front", DB))])?;
    let began = Instant::now();
    let (list, count) = end_refused(rig)?;
    // Connections to other ports are what earlier scenarios left open.
    let ours = list.iter().filter(|socket| socket.remote_port == 8080).count();
    ensure!(ours == 4 && count == u64::try_from(list.len())?, "{count} of {list:?}");
    let seen = blocked.wait()?;
    let took = began.elapsed();
    ensure!(
        is_error(&seen) && took < Duration::from_secs(1) * rig.patience,
        "the reader: {seen:?} after {took:?}"
    );
    for socket in idle {
        let seen = say(rig, "front", socket)?;
        ensure!(is_error(&seen), "an idle client: {seen:?}");
    }
    for socket in allowed {
        let seen = say(rig, "front", socket)?;
        ensure!(seen == Answer::Echo, "an allowed connection: {seen:?}");
        rig.inside("front")?.act(Op::Close { socket })?;
    }
    ensure!(end_refused(rig)?.0.is_empty(), "refused connections are left");
    Ok(())
}

fn server(rig: &mut Rig) -> Result<()> {
    if !ends_aloud(rig)? {
        return Ok(());
    }
    let open_to = |who: &str| {
        network(
            "api",
            &format!(
                "{{ingress: {{allow: [{{from: [{{namespaceSelector: {{}}, podSelector: {{matchLabels: {who}}}}}]}}]}}}}"
            ),
        )
    };
    rig.enforce(&[("shop/callers", open_to("{app: front}"))])?;
    let socket = open(rig, "front", "api", V4, false)?;
    let (accepted, _) = rig.inside("api")?.open(Op::TcpAccepted { port: 8080 })?;
    rig.enforce(&[("shop/callers", open_to("{app: db}"))])?;
    let other = open(rig, "db", "api", V4, false)?;
    let (list, count) = end_refused(rig)?;
    // Halves that earlier scenarios left are of the same caller.
    let caller = abi::Addr::from(rig.at("front", V4, 0)?.ip()).w[3];
    let ours = list.iter().filter(|socket| socket.remote.w[0] == caller).count();
    ensure!(ours >= 1 && count == u64::try_from(list.len())?, "{count} of {list:?}");
    let seen = say(rig, "api", accepted)?;
    ensure!(is_error(&seen), "the server: {seen:?}");
    ensure!(say(rig, "db", other)? == Answer::Echo, "the allowed caller");
    for (from, socket) in [("db", other), ("front", socket)] {
        rig.inside(from)?.act(Op::Close { socket })?;
    }
    Ok(())
}

fn untouched(rig: &mut Rig) -> Result<()> {
    if !ends_aloud(rig)? {
        return Ok(());
    }
    rig.enforce(&[("shop/live", network("front", BOTH))])?;
    let mine = open(rig, "front", "api", V4, false)?;
    let others = open(rig, "db", "api", V4, false)?;
    let audit = network("front", DB).replacen('{', "{mode: Audit, ", 1);
    rig.enforce(&[("shop/live", audit)])?;
    ensure!(end_refused(rig)?.0.is_empty(), "an audit refuses");
    ensure!(say(rig, "front", mine)? == Answer::Echo, "audited");
    let state = tempfile::tempdir()?;
    break_glass::begin(&rig.places, state.path(), Duration::from_mins(10), None)?;
    let broken = rig.enforce(&[("shop/live", network("front", DB))]).and_then(|()| {
        let list = end_refused(rig)?.0;
        Ok((list, say(rig, "front", mine)?))
    });
    break_glass::end(&rig.places, state.path())?;
    let (list, seen) = broken?;
    ensure!(list.is_empty() && seen == Answer::Echo, "while the glass is broken: {list:?}, {seen:?}");
    let (list, count) = end_refused(rig)?;
    ensure!(list.len() == 1 && count == 1, "after that: {count} of {list:?}");
    ensure!(is_error(&say(rig, "front", mine)?), "after that");
    let seen = say(rig, "db", others)?;
    ensure!(seen == Answer::Echo, "a connection of another workload: {seen:?}");
    rig.inside("db")?.act(Op::Close { socket: others })?;
    Ok(())
}

const TO_DB_AND_API: &str = "{ipBlock: {cidr: 10.77.0.0/24}}";

fn agent(rig: &mut Rig) -> Result<()> {
    let aloud = ends_aloud(rig)?;
    let mut home = Home::new(rig)?;
    home.policy(1, TO_DB_AND_API)?;
    home.start(rig)?;
    home.ready(rig)?;
    let (reader, allowed) = (open(rig, "ledger", "api", V4, false)?, open(rig, "ledger", "db", V4, false)?);
    // Of the same network namespace, and of another cgroup.
    let neighbour = open(rig, "node", "api", V4, false)?;
    let wait_ms = if aloud { rig.answer_ms() * 4 } else { rig.silence_ms() * 4 };
    let word = rig.word();
    let blocked = rig.inside("ledger")?.ask(Op::TcpHear { socket: reader, word, wait_ms })?;
    let began = Instant::now();
    home.policy(2, TO_DB)?;
    let seen = blocked.wait()?;
    let took = began.elapsed();
    println!("      from written to the reader's error: {took:?}");
    let right = if aloud {
        is_error(&seen) && took < Duration::from_secs(1) * rig.patience
    } else {
        seen == Answer::Silence && say(rig, "ledger", reader)? == Answer::Silence
    };
    ensure!(right, "the reader: {seen:?} after {took:?}\n{}", home.log());
    let ended = format!("holdfast_sockets_destroyed_total {}", u32::from(aloud));
    rig.until("it is counted", |_| Ok(home.get("/metrics")?.lines().any(|line| line == ended)))?;
    for (from, socket) in [("ledger", allowed), ("node", neighbour)] {
        let seen = say(rig, from, socket)?;
        ensure!(seen == Answer::Echo, "{from}: {seen:?}\n{}", home.log());
        rig.inside(from)?.act(Op::Close { socket })?;
    }
    Ok(())
}
