//! Events: that each says what happened, whose it was and by which rule, and that all of them together, with what they
//! say was suppressed or lost, are what the kernel counted.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs,
    net::SocketAddr,
    os::unix::{ffi::OsStrExt, fs::PermissionsExt},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use holdfast_crds::event::{Asked, Direction, Done, Event, EventKind, RuleKind};
use holdfast_policy::syscalls::{Abi, number};

use super::{
    agent::{DEFAULT, Home, TO_DB},
    node::{V4, V6, at},
    protocol::{Answer, Op},
    rig::{Attempt, Call, Rig, network, tcp, udp},
    suite::Scenario,
    syscalls::CALLS,
};

mod watch;

use watch::is_worker;
pub(super) use watch::{Watch, is_of};

/// All of them.
#[must_use]
pub fn all() -> Vec<Scenario> {
    vec![
        Scenario {
            name: "a dropped packet is an event with pod, container, process, policy and rule",
            run: dropped,
        },
        Scenario { name: "a refused call to connect is an event of the process that made it", run: rejected },
        Scenario {
            name: "a packet that arrives and is dropped is an event with the cgroup of its socket",
            run: ingress,
        },
        Scenario { name: "what a policy in Audit would refuse is an event of kind Audited", run: audited },
        Scenario {
            name: "a process that dies at once is told with its path and arguments, escaped where they are no UTF-8",
            run: killed,
        },
        Scenario { name: "an audited system call is an event that says its arguments", run: audited_call },
        Scenario { name: "events and what they say is suppressed are what was counted", run: exact },
        Scenario { name: "a burst of audits pushes out no denials", run: burst_of_audits },
        Scenario { name: "of a flood the agent tells every denial and stays small", run: flood },
        Scenario { name: "the next agent tells what was refused while none ran", run: restart },
    ]
}

fn dropped(rig: &mut Rig) -> Result<()> {
    rig.enforce(&[("shop/drops", network("front", "{egress: {}}"))])?;
    let mut watch = Watch::new(rig)?;
    for family in [V4, V6] {
        let to = rig.at("db", family, 8080)?;
        for attempt in [udp("front", to), tcp("front", to)] {
            let protocol = if attempt.call == Call::Udp { "UDP" } else { "TCP" };
            rig.dropped(attempt, "shop/drops", "network.egress")?;
            let event = watch.by(rig, "shop/drops", "network.egress")?;
            is_of(rig, &event, "front")?;
            is_worker(rig, &event, "front")?;
            ensure!(
                event.kind == EventKind::Denied
                    && event.generation == Some(1)
                    && event.rule_kind == Some(RuleKind::Network)
                    && (event.asked, event.given) == (Some(Asked::Deny), Some(Done::Drop))
                    && event.mechanism.as_deref() == Some("cgroup_skb")
                    && (event.count, event.suppressed) == (1, 0),
                "{event:?}"
            );
            let seen = event.network.clone().context("no packet")?;
            let source: SocketAddr = seen.source.clone().context("no source")?.parse()?;
            ensure!(
                seen.direction == Direction::Egress
                    && seen.protocol == protocol
                    && seen.destination == Some(to.to_string())
                    && source.ip() == rig.node.address("front", family)?
                    && source.port() > 0,
                "{seen:?}"
            );
            // A time of day that is now, to the second or so.
            let time: k8s_openapi::jiff::Timestamp = event.time.parse()?;
            let age = k8s_openapi::jiff::Timestamp::now().as_second() - time.as_second();
            ensure!((-1..=60).contains(&age), "{} is {age} s old", event.time);
        }
    }
    Ok(())
}

fn rejected(rig: &mut Rig) -> Result<()> {
    rig.enforce(&[("shop/rejects", network("front", "{egress: {}, onDeny: Reject}"))])?;
    let mut watch = Watch::new(rig)?;
    for family in [V4, V6] {
        let to = rig.at("db", family, 8080)?;
        for attempt in
            [tcp("front", to), udp("front", to), Attempt { call: Call::UdpUnconnected, ..udp("front", to) }]
        {
            rig.rejected(attempt, "shop/rejects", "network.egress")?;
            let event = watch.by(rig, "shop/rejects", "network.egress")?;
            is_of(rig, &event, "front")?;
            is_worker(rig, &event, "front")?;
            ensure!(
                event.given == Some(Done::Reject) && event.mechanism.as_deref() == Some("cgroup_sock_addr"),
                "{event:?}"
            );
            let seen = event.network.context("no connection")?;
            ensure!(seen.source.is_none() && seen.destination == Some(to.to_string()), "{seen:?}");
        }
    }
    Ok(())
}

fn ingress(rig: &mut Rig) -> Result<()> {
    rig.enforce(&[("shop/closed", network("front", "{ingress: {}}"))])?;
    let mut watch = Watch::new(rig)?;
    let to = rig.at("front", V4, 8080)?;
    rig.dropped(udp("db", to), "shop/closed", "network.ingress")?;
    let event = watch.by(rig, "shop/closed", "network.ingress")?;
    is_of(rig, &event, "front")?;
    let process = event.process.as_ref().context("no process")?;
    ensure!(process.pid.is_none() && process.executable.is_none(), "whoever ran then is not who: {event:?}");
    let seen = event.network.context("no packet")?;
    ensure!(
        seen.direction == Direction::Ingress
            && seen.destination == Some(to.to_string())
            && seen.source.is_some_and(|source| source.starts_with("10.77.0.13:")),
        "the packet is another one"
    );
    Ok(())
}

fn audited(rig: &mut Rig) -> Result<()> {
    let spec = "{selector: {matchLabels: {app: front}}, mode: Audit, network: {egress: {}}}";
    rig.enforce(&[("shop/trial", spec)])?;
    let mut watch = Watch::new(rig)?;
    let to = rig.at("db", V4, 8080)?;
    rig.audited(udp("front", to), "shop/trial", "network.egress")?;
    let event = watch.by(rig, "shop/trial", "network.egress")?;
    is_of(rig, &event, "front")?;
    is_worker(rig, &event, "front")?;
    ensure!(
        event.kind == EventKind::Audited
            && (event.asked, event.given) == (Some(Asked::Audit), Some(Done::Audit)),
        "{event:?}"
    );
    Ok(())
}

/// A name that is no UTF-8, and how it is shown.
const STRANGE: (&[u8], &str) = (b"prog\xff\\ram", r"prog\xff\\ram");

fn killed(rig: &mut Rig) -> Result<()> {
    let spec = "{selector: {matchLabels: {app: api}}, syscalls: {rules: [{names: [mount], action: Kill}]}}";
    rig.enforce(&[("shop/kills", spec)])?;
    let mut watch = Watch::new(rig)?;
    let folder = tempfile::tempdir()?;
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
    let program = folder.path().join(OsStr::from_bytes(STRANGE.0));
    fs::write(&program, CALLS)?;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
    let nr = number(Abi::X86_64, "mount").context("no such call")?;
    let long = "x".repeat(600);
    for (last, whole) in [(b"\xfe\nend".to_vec(), true), (long.into_bytes(), false)] {
        let mut command: Vec<Vec<u8>> = vec![program.as_os_str().as_bytes().to_vec(), b"native".to_vec()];
        command.extend([nr.to_string(), "s:none".into(), "s:/".into()].map(String::into_bytes));
        command.push([b"s:".to_vec(), last].concat());
        let wait_ms = rig.answer_ms();
        let answer = rig.inside("api")?.act(Op::RunBytes { command, wait_ms })?;
        ensure!(matches!(answer, Answer::Ended { signal: Some(9), .. }), "should be killed: {answer:?}");
        let event = watch.by(rig, "shop/kills", "syscalls.rules[0]")?;
        is_of(rig, &event, "api")?;
        let given = rig.report("shop/kills", "syscalls.rules[0]")?;
        ensure!(
            event.kind == EventKind::Denied
                && event.rule_kind == Some(RuleKind::Syscall)
                && event.asked == Some(Asked::Kill)
                && event.given.map(Done::as_str) == Some(given.given.as_str())
                && event.mechanism.as_deref() == given.mechanism,
            "{event:?}, and the report says {given:?}"
        );
        let call = event.syscall.clone().context("no call")?;
        ensure!(
            call.name.as_deref() == Some("mount") && call.abi == "x86_64" && call.number == nr,
            "{call:?}"
        );
        ensure!(call.arguments.len() == 6 && call.arguments.iter().all(|a| a.starts_with("0x")), "{call:?}");
        let process = event.process.clone().context("no process")?;
        let shown = format!("{}/{}", folder.path().display(), STRANGE.1);
        ensure!(process.executable.as_ref() == Some(&shown), "{process:?}");
        let arguments = &process.arguments;
        ensure!(arguments[..5] == [&shown, "native", &nr.to_string(), "s:none", "s:/"], "{process:?}");
        if whole {
            ensure!(arguments[5] == r"s:\xfe\x0aend" && process.truncated.is_empty(), "{process:?}");
        } else {
            ensure!(
                arguments[5].starts_with("s:xxx") && arguments[5].len() < 600 && process.truncated.len() == 1,
                "{process:?}"
            );
        }
        let parent = process.parent.and_then(|parent| parent.executable).context("no parent")?;
        let worker = fs::read_link(format!("/proc/{}/exe", rig.inside("api")?.id()))?;
        ensure!(Some(parent.as_str()) == worker.to_str(), "{parent} is not {}", worker.display());
    }
    Ok(())
}

fn audited_call(rig: &mut Rig) -> Result<()> {
    let rules = "{rules: [{names: [socket], args: [{index: 0, op: Equal, value: 17}], action: Audit}]}";
    let spec = format!("{{selector: {{matchLabels: {{app: api}}}}, syscalls: {rules}}}");
    rig.enforce(&[("shop/watches", spec)])?;
    let mut watch = Watch::new(rig)?;
    rig.inside("api")?.act(Op::PacketSocket)?;
    let event = watch.by(rig, "shop/watches", "syscalls.rules[0]")?;
    is_of(rig, &event, "api")?;
    is_worker(rig, &event, "api")?;
    ensure!(
        event.kind == EventKind::Audited
            && (event.asked, event.given) == (Some(Asked::Audit), Some(Done::Audit)),
        "{event:?}"
    );
    let call = event.syscall.context("no call")?;
    ensure!(call.name.as_deref() == Some("socket") && call.arguments[0] == "0x11", "{call:?}");
    Ok(())
}

/// Counts by policy, rule and what was done.
type Told = BTreeMap<(String, String, &'static str), u64>;

/// What all events stand for, by policy, rule and what was done; and what they say is lost, by buffer.
fn sums(events: &[Event]) -> (Told, BTreeMap<String, u64>) {
    let (mut told, mut lost) = (BTreeMap::new(), BTreeMap::new());
    for event in events {
        if let Some(gap) = &event.gap {
            *lost.entry(gap.buffer.clone()).or_default() += gap.lost;
        } else {
            let text = |text: &Option<String>| text.clone().unwrap_or_default();
            let given = event.given.map_or("", Done::as_str);
            *told.entry((text(&event.policy), text(&event.rule), given)).or_default() += event.count;
        }
    }
    (told, lost)
}

fn exact(rig: &mut Rig) -> Result<()> {
    const COUNT: u64 = 5000;
    rig.enforce(&[("shop/drops", network("front", "{egress: {}}"))])?;
    let mut watch = Watch::new(rig)?;
    let before = rig.counts()?;
    let (to, from) = (rig.at("db", V4, 8080)?, rig.at("front", V4, 0)?);
    let inside = rig.inside("front")?;
    let (socket, _) = inside.open(Op::UdpOpen { at: from, connect: None, recverr: false })?;
    inside.act(Op::UdpFlood { socket, to: vec![to], count: COUNT })?;
    inside.act(Op::Close { socket })?;
    let counted: u64 = rig.counted_since(&before)?.values().sum();
    ensure!(counted == COUNT, "{counted} of {COUNT} are counted");
    let events = watch.take(rig, true)?;
    let (told, lost) = sums(&events);
    let key = ("shop/drops".to_owned(), "network.egress".to_owned(), "Drop");
    ensure!(told.get(&key) == Some(&COUNT) && told.len() == 1 && lost.is_empty(), "{told:?}, {lost:?}");
    let suppressed: u64 = events.iter().map(|event| event.suppressed).sum();
    ensure!(suppressed > COUNT * 9 / 10, "{suppressed} suppressed in {} lines", events.len());
    // Tokens come back, and the next event carries what was suppressed before it.
    let (again, word) = (rig.inside("front")?, "again".to_owned());
    let (socket, _) = again.open(Op::UdpOpen { at: from, connect: None, recverr: false })?;
    again.act(Op::UdpFlood { socket, to: vec![to], count: 1000 })?;
    let wait_ms = rig.answer_ms();
    ensure!(wait_ms > 1000, "a token takes half a second");
    let mut carried = Vec::new();
    rig.until("an event carries what was suppressed", |rig| {
        let say = Op::UdpSay { socket, to: Some(to), word: word.clone(), padding: 0, wait_ms: 50 };
        rig.inside("front")?.act(say)?;
        carried.extend(watch.take(rig, false)?);
        Ok(carried.iter().any(|event| event.suppressed > 500 && event.count == event.suppressed + 1))
    })
}

fn burst_of_audits(rig: &mut Rig) -> Result<()> {
    // Each rule has records of its own; together they are more than the ring buffer of audits holds.
    let block = |policy: usize, rule: usize| format!("198.51.{policy}.{rule}");
    let mut policies = Vec::new();
    for policy in 0..2 {
        let rules: Vec<String> = (0..64)
            .map(|rule| format!("{{to: [{{ipBlock: {{cidr: {}/32}}}}]}}", block(policy, rule)))
            .collect();
        policies.push((
            format!("bank/burst-{policy}"),
            format!(
                "{{selector: {{matchLabels: {{app: batch}}}}, mode: Audit, network: {{egress: {{allow: [{{}}], deny: [{}]}}}}}}",
                rules.join(", ")
            ),
        ));
    }
    policies.push(("shop/drops".to_owned(), network("front", "{egress: {}}")));
    let policies: Vec<(&str, &str)> =
        policies.iter().map(|(id, spec)| (id.as_str(), spec.as_str())).collect();
    rig.enforce(&policies)?;
    let mut watch = Watch::new(rig)?;
    let before = rig.counts()?;
    let all: Result<Vec<SocketAddr>> =
        (0..128).map(|number| Ok(at(block(number / 64, number % 64).parse()?, 9))).collect();
    let (batch, front) = (rig.at("batch", V4, 0)?, rig.at("front", V4, 0)?);
    let db = rig.at("db", V4, 8080)?;
    let inside = rig.inside("batch")?;
    let (socket, _) = inside.open(Op::UdpOpen { at: batch, connect: None, recverr: false })?;
    inside.act(Op::UdpFlood { socket, to: all?, count: 128 * 12 })?;
    inside.act(Op::Close { socket })?;
    let victim = rig.inside("front")?;
    let (socket, _) = victim.open(Op::UdpOpen { at: front, connect: None, recverr: false })?;
    victim.act(Op::UdpFlood { socket, to: vec![db], count: 5 })?;
    victim.act(Op::Close { socket })?;
    let events = watch.take(rig, true)?;
    let denials = events.iter().filter(|event| event.kind == EventKind::Denied).count();
    ensure!(denials == 5, "{denials} of 5 denials have a line");
    let (told, lost) = sums(&events);
    ensure!(lost.get("audits").is_some_and(|lost| *lost > 0), "the burst was too small: {lost:?}");
    ensure!(!lost.contains_key("denials"), "{lost:?}");
    let counted: u64 = rig.counted_since(&before)?.values().sum();
    let sum = told.values().sum::<u64>() + lost.values().sum::<u64>();
    ensure!(counted == sum && counted == 128 * 12 + 5, "{counted} counted, {sum} told and lost");
    Ok(())
}

/// The lines of the agent's file, but for one that is being written.
fn lines(home: &Home) -> Result<Vec<Event>> {
    let text = fs::read_to_string(home.events())?;
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole.lines().map(|line| Event::from_line(line).with_context(|| line.to_owned())).collect()
}

/// What is told of refusals by default, with what is told to be lost.
fn told(home: &Home) -> Result<u64> {
    Ok(lines(home)?.iter().map(|event| event.count + event.gap.as_ref().map_or(0, |gap| gap.lost)).sum())
}

/// The most that an agent may be under a flood.
const MEMORY_KB: u64 = 60 * 1024;

fn flood(rig: &mut Rig) -> Result<()> {
    // An emulated machine makes a thousandth of that in the same time.
    let count: u64 = if rig.patience > 2 { 20_000 } else { 1_000_000 };
    let mut home = Home::new(rig)?;
    home.policy(1, TO_DB)?;
    home.start(rig)?;
    home.ready(rig)?;
    let (front, at) = (rig.at("front", V4, 8080)?, rig.at("ledger", V4, 0)?);
    let inside = rig.inside("ledger")?;
    let (socket, _) = inside.open(Op::UdpOpen { at, connect: None, recverr: false })?;
    let (mut most, mut sent) = (0, 0);
    let began = Instant::now();
    while sent < count {
        inside.act(Op::UdpFlood { socket, to: vec![front], count: count / 10 })?;
        sent += count / 10;
        most = most.max(home.resident()?);
    }
    println!("      {count} denials in {:?}, the agent resident with {most} KiB", began.elapsed());
    let counted = home.count(DEFAULT)?;
    ensure!(counted == count, "{counted} of {count} are counted");
    // What nothing carries any more is told after a rest.
    let until = Instant::now() + Duration::from_secs(30) * rig.patience;
    while told(&home)? < count {
        ensure!(Instant::now() < until, "{} of {count} are told\n{}", told(&home)?, home.log());
        std::thread::sleep(crate::process::POLL);
    }
    ensure!(told(&home)? == count, "{} of {count} are told", told(&home)?);
    let first = lines(&home)?.into_iter().next().context("no line")?;
    ensure!(
        first.node == "vm"
            && first.namespace.as_deref() == Some("bank")
            && first.workload.as_deref() == Some("ExternalWorkload/ledger")
            && first.pod.is_none()
            && first.policy.as_deref() == Some("bank/ledger")
            && first.generation.is_some(),
        "{first:?}"
    );
    is_worker(rig, &first, "ledger")?;
    let metrics = home.get("/metrics")?;
    ensure!(metrics.contains("holdfast_events_lost_total{buffer=\"denials\"} 0"), "{metrics}");
    let denied = metrics.lines().find(|line| line.starts_with("holdfast_events_total{kind=\"denied\"}"));
    ensure!(denied.is_some_and(|line| !line.ends_with(" 0")), "{metrics}");
    most = most.max(home.resident()?);
    ensure!(most < MEMORY_KB, "{most} KiB were resident");
    Ok(())
}

fn restart(rig: &mut Rig) -> Result<()> {
    let mut home = Home::new(rig)?;
    home.policy(1, TO_DB)?;
    home.start(rig)?;
    home.ready(rig)?;
    home.kill()?;
    let before = told(&home)?;
    ensure!(before == 0, "{before} told before anything was refused");
    let (front, at) = (rig.at("front", V4, 8080)?, rig.at("ledger", V4, 0)?);
    let inside = rig.inside("ledger")?;
    let (socket, _) = inside.open(Op::UdpOpen { at, connect: None, recverr: false })?;
    inside.act(Op::UdpFlood { socket, to: vec![front], count: 300 })?;
    home.start(rig)?;
    home.ready(rig)?;
    let until = Instant::now() + Duration::from_secs(30) * rig.patience;
    while told(&home)? < 300 {
        ensure!(Instant::now() < until, "{} of 300 are told\n{}", told(&home)?, home.log());
        std::thread::sleep(crate::process::POLL);
    }
    let events = lines(&home)?;
    let (sum, _) = sums(&events);
    ensure!(sum.values().sum::<u64>() == 300 && sum.len() == 1, "{sum:?}");
    ensure!(events.iter().all(|event| event.policy.as_deref() == Some("bank/ledger")), "{events:?}");
    // And the one after it does not tell it again.
    home.kill()?;
    home.start(rig)?;
    home.ready(rig)?;
    inside.act(Op::UdpFlood { socket, to: vec![front], count: 5 })?;
    inside.act(Op::Close { socket })?;
    let until = Instant::now() + Duration::from_secs(30) * rig.patience;
    while told(&home)? < 305 {
        ensure!(Instant::now() < until, "{} of 305 are told\n{}", told(&home)?, home.log());
        std::thread::sleep(crate::process::POLL);
    }
    let all = told(&home)?;
    ensure!(all == 305, "{all} told");
    Ok(())
}
