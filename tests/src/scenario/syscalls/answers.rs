//! What rules and policies answer together, and the other answers than Deny.

use anyhow::{Result, ensure};
use nix::libc::{EPERM, SIGKILL};

use holdfast_policy::model::ALWAYS_ALLOWED;

use super::{Bench, Call, Effect, Given, errno, free, given, rules, watched};
use crate::scenario::{
    process::Inside,
    protocol::{Answer, Op},
    rig::{Rig, only},
    suite::Scenario,
};

pub(super) const ALL: &[Scenario] = &[
    Scenario { name: "Kill ends the process, before the call where a hook is there", run: kill },
    Scenario { name: "Audit counts the call and lets it be", run: audit },
    Scenario { name: "a policy in Audit counts what it would refuse", run: audit_mode },
    Scenario { name: "the first rule that matches decides", run: first_match },
    Scenario { name: "of two policies the stricter answer holds", run: strictest },
    Scenario { name: "an argument is compared at the width of the call", run: width },
    Scenario { name: "a comparison that does not hold lets the call through", run: comparison },
    Scenario { name: "the fallback Kill ends a process where no hook refuses its call", run: fallback },
    Scenario { name: "without a fallback a call that no hook refuses is not covered", run: no_fallback },
    Scenario { name: "rules for one container leave the rest of the pod alone", run: containers },
    Scenario { name: "a policy that is gone refuses nothing any more", run: revoked },
    Scenario { name: "an allow-list kills whoever makes a call that it does not name", run: allow_list },
    Scenario { name: "what an allow-list does not name can be watched instead", run: watch_list },
    Scenario { name: "what a runtime does before a container's first program is exempt", run: exempt },
    Scenario { name: "a process that joins from outside is inside from its first program on", run: joined },
];

const MKDIR: Call = Call { words: &["mkdir", "s:{dir}/new", "0755"], effect: Effect::Made("new") };
const MOUNT: Call =
    Call { words: &["mount", "s:none", "s:{dir}/m", "s:tmpfs", "0", "0"], effect: Effect::Mounted("m") };
const GETPPID: Call = Call { words: &["getppid"], effect: Effect::Answer };
const RULE: &str = "syscalls.rules[0]";

fn killed(answer: &Answer) -> bool {
    matches!(answer, Answer::Ended { signal: Some(SIGKILL), .. })
}

fn kill(rig: &mut Rig) -> Result<()> {
    let mut bench = Bench::new()?;
    rig.enforce(&[("shop/kill", rules("{rules: [{names: [mkdir, mkdirat], action: Kill}]}"))])?;
    let (made, counted) = watched(rig, &mut bench, MKDIR)?;
    let row = rig.report("shop/kill", RULE)?;
    ensure!(row.asked == "Kill", "{row:?}");
    match row.given.as_str() {
        "DenyAndKill" => ensure!(
            killed(&made.answer) && !made.effect && only(&counted, "shop/kill", RULE, "DenyAndKill") == 1,
            "{made:?}, {counted:?}"
        ),
        "KillAfterEffect" => ensure!(
            killed(&made.answer)
                && row.reason.is_some()
                && row.mechanism == Some("sys_enter")
                && only(&counted, "shop/kill", RULE, "KillAfterEffect") == 1,
            "{made:?}, {counted:?}, {row:?}"
        ),
        _ => anyhow::bail!("{row:?}"),
    }
    free(rig, &mut bench, MKDIR)
}

/// System call rules that allow every known call but `getpriority`, for the list and for a default.
fn all_but_getpriority(default: &str) -> String {
    let names: Vec<&str> = holdfast_policy::syscalls::names()
        .iter()
        .copied()
        .filter(|name| *name != "getpriority" && !ALWAYS_ALLOWED.contains(name))
        .collect();
    let rule = |names: &[&str]| format!("{{names: [{}], action: Allow}}", names.join(", "));
    let rules: Vec<String> = names.chunks(128).map(rule).collect();
    format!("{{default: {default}, rules: [{}]}}", rules.join(", "))
}

const GETPRIORITY: Call = Call { words: &["getpriority", "0", "0"], effect: Effect::Answer };
/// A number that no kernel has.
const UNKNOWN: Call = Call { words: &["!native", "100000"], effect: Effect::Answer };
const DEFAULT: &str = "syscalls.default";

fn allow_list(rig: &mut Rig) -> Result<()> {
    let mut bench = Bench::new()?;
    rig.enforce(&[("shop/allow-list", rules(&all_but_getpriority("Kill")))])?;
    rig.reports("shop/allow-list", DEFAULT, "Kill", "KillAfterEffect")?;
    for call in [GETPRIORITY, UNKNOWN] {
        let (made, counted) = watched(rig, &mut bench, call)?;
        ensure!(
            killed(&made.answer) && only(&counted, "shop/allow-list", DEFAULT, "KillAfterEffect") == 1,
            "{call:?}: {made:?}, {counted:?}"
        );
    }
    let (made, counted) = watched(rig, &mut bench, MKDIR)?;
    ensure!(made.errno == Some(0) && made.effect && counted.is_empty(), "named: {made:?}, {counted:?}");
    let made = bench.make(rig, "db", GETPRIORITY)?;
    ensure!(!killed(&made.answer), "where no rule concerns it: {made:?}");
    Ok(())
}

fn watch_list(rig: &mut Rig) -> Result<()> {
    let mut bench = Bench::new()?;
    rig.enforce(&[("shop/watch-list", rules(&all_but_getpriority("Audit")))])?;
    rig.reports("shop/watch-list", DEFAULT, "Audit", "Audit")?;
    for call in [GETPRIORITY, UNKNOWN] {
        let (made, counted) = watched(rig, &mut bench, call)?;
        ensure!(
            !killed(&made.answer) && only(&counted, "shop/watch-list", DEFAULT, "Audit") == 1,
            "{call:?}: {made:?}, {counted:?}"
        );
    }
    let (made, counted) = watched(rig, &mut bench, MKDIR)?;
    ensure!(made.errno == Some(0) && counted.is_empty(), "named: {made:?}, {counted:?}");
    Ok(())
}

fn audit(rig: &mut Rig) -> Result<()> {
    let mut bench = Bench::new()?;
    rig.enforce(&[("shop/audit-call", rules("{rules: [{names: [mkdir], action: Audit}]}"))])?;
    rig.reports("shop/audit-call", RULE, "Audit", "Audit")?;
    let (made, counted) = watched(rig, &mut bench, MKDIR)?;
    ensure!(
        made.errno == Some(0) && made.effect && only(&counted, "shop/audit-call", RULE, "Audit") == 1,
        "{made:?}, {counted:?}"
    );
    let before = rig.counts()?;
    free(rig, &mut bench, MKDIR)?;
    ensure!(rig.counted_since(&before)?.is_empty(), "another pod's call was counted");
    Ok(())
}

fn audit_mode(rig: &mut Rig) -> Result<()> {
    let mut bench = Bench::new()?;
    let spec = "{selector: {matchLabels: {app: api}}, mode: Audit, syscalls: {rules: [{names: [mkdir], action: Deny}]}}";
    rig.enforce(&[("shop/audit-mode", spec)])?;
    rig.reports("shop/audit-mode", RULE, "Audit", "Audit")?;
    let (made, counted) = watched(rig, &mut bench, MKDIR)?;
    ensure!(
        made.errno == Some(0) && made.effect && only(&counted, "shop/audit-mode", RULE, "Audit") == 1,
        "{made:?}, {counted:?}"
    );
    free(rig, &mut bench, MKDIR)
}

fn first_match(rig: &mut Rig) -> Result<()> {
    let mut bench = Bench::new()?;
    let text = "{rules: [{names: [socket], args: [{index: 0, op: Equal, value: 2}], action: Allow}, {names: [socket], action: Deny}]}";
    rig.enforce(&[("shop/first", rules(text))])?;
    let given = given(rig, "shop/first", "syscalls.rules[1]")?;
    let socket = |family| Call { words: family, effect: Effect::Answer };
    let (inet, unix) = (socket(&["socket", "2", "1", "0"]), socket(&["socket", "1", "1", "0"]));
    let (made, counted) = watched(rig, &mut bench, inet)?;
    ensure!(made.errno == Some(0) && counted.is_empty(), "the first rule allows: {made:?}, {counted:?}");
    let (made, counted) = watched(rig, &mut bench, unix)?;
    let refused = made.errno == Some(EPERM) && only(&counted, "shop/first", "syscalls.rules[1]", "Deny") == 1;
    ensure!(refused == (given == Given::Refused), "the second rule: {made:?}, {counted:?}");
    free(rig, &mut bench, unix)
}

fn strictest(rig: &mut Rig) -> Result<()> {
    let mut bench = Bench::new()?;
    rig.enforce(&[
        ("shop/a-mild", rules("{rules: [{names: [mkdir], action: Allow}]}")),
        ("shop/b-strict", rules("{rules: [{names: [mkdir, rmdir], action: Deny}]}")),
        ("shop/c-audit", rules("{rules: [{names: [mkdir], action: Audit}]}")),
    ])?;
    let given = given(rig, "shop/b-strict", RULE)?;
    let (made, counted) = watched(rig, &mut bench, MKDIR)?;
    if given == Given::Refused {
        ensure!(
            made.errno == Some(EPERM) && !made.effect && only(&counted, "shop/b-strict", RULE, "Deny") == 1,
            "{made:?}, {counted:?}"
        );
    } else {
        ensure!(made.errno == Some(0) && made.effect, "{made:?}, {counted:?}");
    }
    free(rig, &mut bench, MKDIR)
}

fn width(rig: &mut Rig) -> Result<()> {
    let mut bench = Bench::new()?;
    let text = "{rules: [{names: [socket], args: [{index: 0, op: Equal, value: 17}], action: Deny}]}";
    rig.enforce(&[("shop/width", rules(text))])?;
    let given = given(rig, "shop/width", RULE)?;
    for words in [&["socket", "17", "3", "0"], &["socket", "0x100000011", "3", "0"]] {
        let call = Call { words, effect: Effect::Answer };
        let (made, counted) = watched(rig, &mut bench, call)?;
        let refused = made.errno == Some(EPERM) && only(&counted, "shop/width", RULE, "Deny") == 1;
        ensure!(refused == (given == Given::Refused), "{words:?}: {made:?}, {counted:?}");
        free(rig, &mut bench, call)?;
    }
    let other = Call { words: &["socket", "0x200000002", "1", "0"], effect: Effect::Answer };
    let (made, counted) = watched(rig, &mut bench, other)?;
    ensure!(made.errno == Some(0) && counted.is_empty(), "another family: {made:?}, {counted:?}");
    Ok(())
}

fn comparison(rig: &mut Rig) -> Result<()> {
    let mut bench = Bench::new()?;
    // The argument is signed: -5 is less than 1.
    let text = "{rules: [{names: [setpriority], args: [{index: 2, op: LessThan, value: 1}], action: Deny}]}";
    rig.enforce(&[("shop/comparison", rules(text))])?;
    let given = given(rig, "shop/comparison", RULE)?;
    let nice = |value: &'static [&'static str]| Call { words: value, effect: Effect::Answer };
    let (less, more) = (nice(&["setpriority", "0", "0", "-5"]), nice(&["setpriority", "0", "0", "5"]));
    let (made, counted) = watched(rig, &mut bench, less)?;
    let refused = made.errno == Some(EPERM) && only(&counted, "shop/comparison", RULE, "Deny") == 1;
    ensure!(refused == (given == Given::Refused), "less: {made:?}, {counted:?}");
    let (made, counted) = watched(rig, &mut bench, more)?;
    ensure!(made.errno == Some(0) && counted.is_empty(), "more: {made:?}, {counted:?}");
    free(rig, &mut bench, less)
}

fn fallback(rig: &mut Rig) -> Result<()> {
    let mut bench = Bench::new()?;
    rig.enforce(&[("shop/fallback", rules("{rules: [{names: [getppid], action: Deny}], fallback: Kill}"))])?;
    rig.reports("shop/fallback", RULE, "Deny", "KillAfterEffect")?;
    let (made, counted) = watched(rig, &mut bench, GETPPID)?;
    ensure!(
        killed(&made.answer) && only(&counted, "shop/fallback", RULE, "KillAfterEffect") == 1,
        "{made:?}, {counted:?}"
    );
    free(rig, &mut bench, GETPPID)
}

fn no_fallback(rig: &mut Rig) -> Result<()> {
    let mut bench = Bench::new()?;
    rig.enforce(&[("shop/no-fallback", rules("{rules: [{names: [getppid], action: Deny}]}"))])?;
    rig.reports("shop/no-fallback", RULE, "Deny", "NotCovered")?;
    ensure!(rig.report("shop/no-fallback", RULE)?.reason.is_some(), "no reason is given");
    let (made, counted) = watched(rig, &mut bench, GETPPID)?;
    ensure!(made.errno == Some(0) && counted.is_empty(), "{made:?}, {counted:?}");
    free(rig, &mut bench, GETPPID)
}

fn containers(rig: &mut Rig) -> Result<()> {
    let mut bench = Bench::new()?;
    let spec = |container: &str| {
        format!(
            "{{selector: {{matchLabels: {{app: api}}}}, containers: [{container}], syscalls: {{rules: [{{names: [mkdir], action: Deny}}]}}}}"
        )
    };
    rig.enforce(&[("shop/container", spec("main"))])?;
    let given = given(rig, "shop/container", RULE)?;
    let (made, _) = watched(rig, &mut bench, MKDIR)?;
    ensure!(made.effect == (given == Given::NotCovered), "the container that is named: {made:?}");
    // Another container of the pod, which is not known by name.
    let pod = rig.node.place("api")?.pod_cgroup.clone().unwrap_or_default();
    let netns = rig.node.netns("api")?.path();
    let other = Inside::start("another container", &rig.node.top.full(&pod), &netns)?;
    let room = bench.room()?;
    let made = bench.make_in(rig, &other, MKDIR, &room)?;
    ensure!(made.errno == Some(0) && made.effect, "a container that is not named: {made:?}");
    free(rig, &mut bench, MKDIR)
}

fn revoked(rig: &mut Rig) -> Result<()> {
    let mut bench = Bench::new()?;
    rig.enforce(&[("shop/revoked-call", rules("{rules: [{names: [mkdir], action: Deny}]}"))])?;
    let given = given(rig, "shop/revoked-call", RULE)?;
    let (made, _) = watched(rig, &mut bench, MKDIR)?;
    ensure!(made.effect == (given == Given::NotCovered), "{made:?}");
    rig.enforce::<&str>(&[])?;
    let (made, counted) = watched(rig, &mut bench, MKDIR)?;
    ensure!(made.errno == Some(0) && made.effect && counted.is_empty(), "{made:?}, {counted:?}");
    Ok(())
}

fn exempt(rig: &mut Rig) -> Result<()> {
    let mut bench = Bench::new()?;
    rig.enforce(&[("shop/exempt", rules("{rules: [{names: ['@mount', setns, unshare], action: Deny}]}"))])?;
    let given = given(rig, "shop/exempt", RULE)?;
    let before = rig.counts()?;
    // It joins the cgroup, then enters a namespace, makes another, and changes mounts, as a runtime does.
    let other = rig.node.another("api")?;
    let counted = rig.counted_since(&before)?;
    let alive = other.act(Op::Arrivals)?;
    ensure!(matches!(alive, Answer::Arrivals(_)) && counted.is_empty(), "{alive:?}, {counted:?}");
    let room = bench.room()?;
    let made = bench.make_in(rig, &other, MOUNT, &room)?;
    let refused = made.errno == Some(EPERM) && !made.effect;
    ensure!(refused == (given == Given::Refused), "after its first program: {made:?}");
    free(rig, &mut bench, MOUNT)
}

fn joined(rig: &mut Rig) -> Result<()> {
    let mut bench = Bench::new()?;
    rig.enforce(&[("shop/joined", rules("{rules: [{names: [mkdir], action: Deny}]}"))])?;
    let given = given(rig, "shop/joined", RULE)?;
    // As `kubectl exec` does: the program is started from outside, straight into the container.
    let room = bench.room()?;
    let place = rig.node.place("api")?;
    let output = std::process::Command::new("/proc/self/exe")
        .arg("enter")
        .arg(rig.node.top.full(&place.cgroup))
        .arg(rig.node.netns(place.netns)?.path())
        .args(bench.command(MKDIR.words, &room)?)
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let answer = Answer::Ended { code: output.status.code(), signal: None, output: text };
    let refused = errno(&answer) == Some(EPERM) && !room.join("new").exists();
    ensure!(refused == (given == Given::Refused), "{answer:?}, {}", String::from_utf8_lossy(&output.stderr));
    free(rig, &mut bench, MKDIR)
}
