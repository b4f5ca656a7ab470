//! Break-glass: what is refused goes ahead for a while, is counted as an audit, and is refused again by itself.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use holdfast_agent::break_glass;
use nix::libc::SIGKILL;

use super::{
    agent::{DEFAULT, Home, TO_DB},
    node::V4,
    protocol::{Answer, Op},
    rig::{Rig, network, tcp, udp},
    suite::Scenario,
};

/// All of them.
#[must_use]
pub fn all() -> Vec<Scenario> {
    vec![
        Scenario {
            name: "a glass that is broken lets through, counts audits, and is whole again with no agent",
            run: ends_by_itself,
        },
        Scenario {
            name: "while the glass is broken status, metrics and log say so, and it can be ended at once",
            run: is_told,
        },
        Scenario {
            name: "while the glass is broken connects and calls that are refused go ahead and are audits",
            run: rejects_and_calls,
        },
        Scenario { name: "break-glass says what is wrong in one line", run: wrong_words },
    ]
}

const AUDIT: &str = "bank/ledger network.egress Audit";

/// Whether a datagram of `ledger` to a place that its policy does not allow is answered.
fn passes(rig: &mut Rig) -> Result<bool> {
    let front = rig.at("front", V4, 8080)?;
    let seen = rig.attempt(udp("ledger", front), rig.silence_ms())?.seen;
    ensure!(matches!(seen, Answer::Echo | Answer::Silence), "{seen:?}");
    Ok(seen == Answer::Echo)
}

fn ends_by_itself(rig: &mut Rig) -> Result<()> {
    let mut home = Home::new(rig)?;
    home.policy(1, TO_DB)?;
    home.start(rig)?;
    home.ready(rig)?;
    ensure!(!passes(rig)?, "not refused before");
    let (denials, audits) = (home.count(DEFAULT)?, home.count(AUDIT)?);
    let seconds = 6 * u64::from(rig.patience);
    let began = Instant::now();
    home.break_glass(&["--for", &format!("{seconds}s")])?;
    ensure!(passes(rig)?, "the glass is broken, and yet it is refused\n{}", home.log());
    ensure!(began.elapsed() < Duration::from_secs(seconds), "this machine is too slow for this scenario");
    let (denied, audited) = (home.count(DEFAULT)? - denials, home.count(AUDIT)? - audits);
    ensure!(denied == 0 && audited >= 1, "{denied} denied and {audited} audited");
    // An answer of what was let through is no permission for later.
    home.kill()?;
    while passes(rig)? {
        ensure!(
            began.elapsed() < Duration::from_secs(seconds) * 2,
            "{seconds} seconds are over, and nothing is refused"
        );
    }
    ensure!(began.elapsed() >= Duration::from_secs(seconds), "it was over after {:?}", began.elapsed());
    ensure!(home.count(DEFAULT)? > denials, "what is refused again is not counted");
    ensure!(home.status()?["breakGlass"].is_null(), "status does not know that it is over");
    Ok(())
}

fn is_told(rig: &mut Rig) -> Result<()> {
    let mut home = Home::new(rig)?;
    home.policy(1, TO_DB)?;
    home.start(rig)?;
    home.ready(rig)?;
    let metric = |home: &Home, name: &str| -> Result<u64> {
        let text = home.get("/metrics")?;
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.context("no such metric")?.parse().context("no number")
    };
    ensure!(metric(&home, "holdfast_break_glass")? == 0, "broken at first");
    home.break_glass(&["--for", "1h", "--reason", "INC-4711"])?;
    ensure!(metric(&home, "holdfast_break_glass")? == 1, "the metric");
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs();
    let left = metric(&home, "holdfast_break_glass_until_seconds")?.saturating_sub(now);
    ensure!((3500..3610).contains(&left), "{left} seconds left");
    let told = |home: &Home| -> Result<()> {
        let status = home.status()?;
        ensure!(status["breakGlass"]["reason"] == "INC-4711", "{status}");
        let policy = &status["policies"][0];
        ensure!(policy["failure"].as_str().is_some_and(|text| text.starts_with("BreakGlass: ")), "{status}");
        let rule = &policy["rules"][0];
        ensure!(rule["given"] == "Audit" && rule["reason"] == "BreakGlass", "{status}");
        Ok(())
    };
    told(&home)?;
    rig.until("the log says so", |_| Ok(home.log().contains("refuses nothing until")))?;
    rig.until("the rules are no longer given", |_| {
        let text = home.get("/metrics")?;
        let line = "holdfast_policy_rules{mechanism=\"cgroup_skb\",state=\"short\"} 1";
        Ok(text.lines().any(|found| found == line))
    })?;
    // The next agent knows it, and cannot end it.
    home.kill()?;
    told(&home)?;
    home.start(rig)?;
    home.ready(rig)?;
    ensure!(passes(rig)?, "refused after the agent's start");
    home.break_glass(&["--end"])?;
    ensure!(!passes(rig)?, "not refused at its end");
    ensure!(metric(&home, "holdfast_break_glass")? == 0, "the metric at its end");
    let status = home.status()?;
    ensure!(status["breakGlass"].is_null() && status["policies"][0]["failure"].is_null(), "{status}");
    rig.until("the log says that it is over", |_| Ok(home.log().contains("break-glass is over")))
}

fn rejects_and_calls(rig: &mut Rig) -> Result<()> {
    let id = "shop/strict";
    let calls = "syscalls: {rules: [{names: [mkdir, mkdirat], action: Deny}], fallback: Kill}";
    let spec = network("front", "{egress: {}, onDeny: Reject}").replacen('{', &format!("{{{calls}, "), 1);
    rig.enforce(&[(id, spec)])?;
    let db = rig.at("db", V4, 8080)?;
    let folder = tempfile::tempdir()?;
    let state = tempfile::tempdir()?;
    let made = folder.path().join("made");
    let both = |rig: &mut Rig| -> Result<(Answer, bool, bool)> {
        let connected = rig.attempt(tcp("front", db), rig.answer_ms())?.seen;
        let command = ["/bin/busybox".to_owned(), "mkdir".to_owned(), made.display().to_string()];
        let wait_ms = rig.answer_ms();
        let ended = rig.inside("front")?.act(Op::Run { command: command.to_vec(), wait_ms })?;
        let killed = matches!(ended, Answer::Ended { signal: Some(SIGKILL), .. });
        let worked = matches!(ended, Answer::Ended { code: Some(0), .. });
        let _ = std::fs::remove_dir(&made);
        Ok((connected, worked, killed))
    };
    let refused = |seen: &(Answer, bool, bool)| matches!(seen, (Answer::Errno(_), false, _));
    let before = both(rig)?;
    ensure!(refused(&before), "before: {before:?}");
    break_glass::begin(&rig.places, state.path(), Duration::from_mins(10), None)?;
    let counts = rig.counts()?;
    let broken = both(rig);
    let counted = rig.counted_since(&counts)?;
    break_glass::end(&rig.places, state.path())?;
    let broken = broken?;
    ensure!(broken == (Answer::Echo, true, false), "while it is broken: {broken:?}");
    for rule in ["network.egress", "syscalls.rules[0]"] {
        let of = |given: &str| {
            counted
                .iter()
                .filter(|(subject, _)| subject.rule == rule && subject.given == given)
                .map(|(_, count)| count)
                .sum::<u64>()
        };
        ensure!(of("Audit") >= 1, "{rule} is not audited: {counted:?}");
    }
    ensure!(counted.keys().all(|subject| subject.given == "Audit"), "{counted:?}");
    let after = both(rig)?;
    ensure!(refused(&after), "after: {after:?}");
    Ok(())
}

fn wrong_words(rig: &mut Rig) -> Result<()> {
    let home = Home::new(rig)?;
    for words in [
        &["break-glass"][..],
        &["break-glass", "--for", "0m"],
        &["break-glass", "--for", "25h"],
        &["break-glass", "--for", "30m", "--end"],
        &["break-glass", "--end", "--reason", "x"],
    ] {
        let output = home.command(words)?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.code() == Some(2) && said.trim().lines().count() == 1, "{words:?}: {output:?}");
    }
    // Where nothing is in force there is nothing to end.
    let output = home.command(&["break-glass", "--for", "30m"])?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(
        output.status.code() == Some(1) && said.contains("nothing of Holdfast's is in force"),
        "{output:?}"
    );
    Ok(())
}
