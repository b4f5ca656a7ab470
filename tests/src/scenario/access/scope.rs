//! Whom rules concern, how policies add up, and what is told.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use holdfast_agent::break_glass;
use holdfast_crds::event::{EventKind, Origin, RuleKind};

use super::{Audited, Done, Killed, Refused, Stage, judged, spec, under};
use crate::scenario::{
    events::{Watch, is_of},
    house::House,
    rig::Rig,
    suite::Scenario,
};

/// All of them.
pub(super) fn all() -> Vec<Scenario> {
    vec![
        Scenario {
            name: "of two policies on files and executables the stricter answer holds",
            run: two_policies,
        },
        Scenario { name: "rules on files and executables leave other workloads alone", run: others },
        Scenario { name: "rules on files hold for each workload, whatever others have", run: neighbours },
        Scenario {
            name: "a rule on what is not in the image is not covered where no overlayfs is the root",
            run: plain_root,
        },
        Scenario { name: "a file with a long name in deep directories is protected", run: deep },
        Scenario {
            name: "a refused operation on a file is an event with the path and the operation",
            run: file_event,
        },
        Scenario { name: "a refused start of a program is an event with the path", run: process_event },
        Scenario { name: "a refused start of a program says where the program came from", run: origins },
        Scenario {
            name: "a refused use of a capability is an event with the call that wanted it",
            run: capability_event,
        },
        Scenario {
            name: "while the glass is broken programs, files and capabilities are let through and counted",
            run: broken_glass,
        },
    ]
}

fn two_policies(rig: &mut Rig) -> Result<()> {
    let policies = [
        (
            "shop/mild",
            "processes: {rules: [{paths: [/usr/bin/tool], action: Allow}, {paths: [/usr/bin/other], action: Deny}]}, \
             files: {rules: [{paths: [/etc/secret], operations: [Read], action: Audit}]}",
        ),
        (
            "shop/strict",
            "processes: {rules: [{paths: ['/usr/bin/t*'], action: Deny}, {paths: [/usr/bin/other], action: Kill}]}, \
             files: {rules: [{paths: ['/etc/**'], operations: [Read], action: Deny}]}",
        ),
    ];
    let trials = [
        ("exec /usr/bin/tool", Refused("shop/strict processes.rules[0]")),
        ("exec /usr/bin/other", Killed("shop/strict processes.rules[1]")),
        ("read /etc/secret", Refused("shop/strict files.rules[0]")),
        ("exec {d}/tool", Done),
    ];
    under(rig, &policies, &trials)
}

fn others(rig: &mut Rig) -> Result<()> {
    let rules = "processes: {rules: [{notInImage: true, action: Deny}]}, \
                 files: {rules: [{paths: ['/etc/**'], operations: [Read], action: Deny}]}, \
                 capabilities: {deny: [NET_RAW]}";
    let trials = [("read /etc/secret", Refused("files.rules[0]"))];
    judged(rig, "shop/only-api", rules, &trials)?;
    let stage = Stage::of(rig, "db")?;
    for deed in ["read /etc/secret", "exec {t}/tool", "raw", "tmpfs {d}/sub"] {
        stage.tries(rig, "shop/only-api", (deed, Done))?;
    }
    Ok(())
}

/// A node knows where no rule of any workload looks: that must be right as rules come and go, and on every kind of mount,
/// one of a single file among them.
fn neighbours(rig: &mut Rig) -> Result<()> {
    const OWN: [[&str; 2]; 3] = [
        ["read /etc/secret", "read /usr/bin/other"],
        ["read {v}/f", "read {t}/sub/g"],
        ["read /worker", "read /proc/version"],
    ];
    let ids = ["shop/of-api", "bank/of-db"];
    let stages = [Stage::of(rig, "api")?, Stage::of(rig, "db")?];
    for deeds in OWN {
        let path = |of: usize| stages[of].rooms.fill(deeds[of].trim_start_matches("read "));
        let deny = |of: usize, path: &str| {
            let rules =
                format!("files: {{rules: [{{paths: ['{path}'], operations: [Read], action: Deny}}]}}");
            (ids[of], spec(["api", "db"][of], &rules))
        };
        let (api, db) = (deny(0, &path(0)), deny(1, &path(1)));
        let last = path(1).rsplit('/').next().unwrap_or_default().to_owned();
        for policies in [
            vec![api.clone()],
            vec![api.clone(), db.clone()],
            vec![db.clone()],
            vec![deny(1, &format!("/**/{last}"))],
            vec![api.clone(), db],
            vec![],
            vec![api],
        ] {
            rig.enforce(&policies)?;
            for (of, stage) in stages.iter().enumerate() {
                let has = policies.iter().any(|(id, _)| *id == ids[of]);
                for deed in deeds {
                    let comes = if has && deed == deeds[of] { Refused("files.rules[0]") } else { Done };
                    stage.tries(rig, ids[of], (deed, comes))?;
                }
            }
        }
    }
    Ok(())
}

fn plain_root(rig: &mut Rig) -> Result<()> {
    let house = House::build(rig, "front", false)?;
    let rooms = house.rooms()?;
    let id = "shop/plain-root";
    rig.enforce(&[(id, spec("front", "processes: {rules: [{notInImage: true, action: Deny}]}"))])?;
    let covered = rig.refuses();
    let said = house.does("/usr/bin/deeds", &[rooms.fill("exec {d}/tool")], rig.answer_ms())?;
    ensure!(said == [0], "what cannot be told was refused: {said:?}");
    rig.apply()?;
    let row = rig.report(id, "processes.rules[0]")?;
    let reason = if covered { "NoOverlayRoot" } else { "NoLsmAndNoFmodRet" };
    ensure!(row.given == "NotCovered" && row.reason == Some(reason), "{row:?}");
    Ok(())
}

fn deep(rig: &mut Rig) -> Result<()> {
    let stage = Stage::new(rig)?;
    let long = "n".repeat(240);
    let folder = format!("{}/{}", stage.rooms.fill("{t}"), "deep/".repeat(30));
    std::fs::create_dir_all(stage.house.outside(&folder))?;
    for name in [&long, "short"] {
        std::fs::write(stage.house.outside(&format!("{folder}{name}")), "content")?;
    }
    let id = "shop/deep";
    let rules =
        format!("files: {{rules: [{{paths: ['/tmp/**/{long}'], operations: [Read], action: Deny}}]}}");
    rig.enforce(&[(id, spec("api", &rules))])?;
    for (name, refused) in [(long.as_str(), true), ("short", false)] {
        let (said, counted) = stage.does(rig, &format!("read {folder}{name}"))?;
        let refused = refused && rig.refuses();
        ensure!(
            (said != 0) == refused && counted.len() == usize::from(refused),
            "{name}: it says {said}, counted {counted:?}"
        );
    }
    Ok(())
}

/// The event of a deed that a rule refuses; none where this node has no mechanism for it.
fn told(rig: &mut Rig, id: &str, rules: &str, deed: &'static str, rule: &'static str) -> Result<()> {
    let stage = Stage::new(rig)?;
    rig.enforce(&[(id, spec("api", &stage.rooms.fill(rules)))])?;
    let mut watch = Watch::new(rig)?;
    stage.tries(rig, id, (deed, Refused(rule)))?;
    if !rig.refuses() {
        return Ok(());
    }
    let event = watch.by(rig, id, rule)?;
    is_of(rig, &event, "api")?;
    ensure!(event.kind == EventKind::Denied && event.count == 1, "{event:?}");
    let process = event.process.as_ref().and_then(|process| process.executable.as_deref());
    ensure!(process == Some("/usr/bin/deeds"), "{event:?}");
    let path = event.file.as_ref().map(|file| file.path.clone());
    match event.rule_kind.context("no kind of rule")? {
        RuleKind::File => {
            let file = event.file.as_ref().context("no file")?;
            ensure!(path == Some(stage.rooms.fill("{d}/f")) && file.operations == ["Read"], "{event:?}");
        }
        RuleKind::Process => ensure!(path == Some(stage.rooms.fill("{d}/tool")), "{event:?}"),
        RuleKind::Capability => ensure!(
            event.capability.as_deref() == Some("NET_RAW")
                && event.syscall.as_ref().is_some_and(|call| call.name.as_deref() == Some("socket")),
            "{event:?}"
        ),
        other => anyhow::bail!("{other:?}: {event:?}"),
    }
    Ok(())
}

fn file_event(rig: &mut Rig) -> Result<()> {
    let rules = "files: {rules: [{paths: ['{d}/f'], operations: [Read, Delete], action: Deny}]}";
    told(rig, "shop/file-event", rules, "read {d}/f", "files.rules[0]")
}

fn process_event(rig: &mut Rig) -> Result<()> {
    let rules = "processes: {rules: [{paths: ['{d}/*'], action: Deny}]}";
    told(rig, "shop/process-event", rules, "exec {d}/tool", "processes.rules[0]")
}

/// include/uapi/linux/magic.h
const TMPFS: u32 = 0x0102_1994;

fn origins(rig: &mut Rig) -> Result<()> {
    if !rig.refuses() {
        return Ok(());
    }
    let stage = Stage::new(rig)?;
    let rules =
        "processes: {rules: [{paths: [/usr/bin/tool], action: Deny}, {notInImage: true, action: Deny}]}";
    // A file of the machine's own root, which in a guest is in memory.
    let worker = rustix::fs::statfs(stage.house.outside("/worker"))?.f_type;
    let worker = if u32::try_from(worker) == Ok(TMPFS) { Origin::Tmpfs } else { Origin::Volume };
    for (deed, rule, origin) in [
        ("exec /worker", "processes.rules[1]", worker),
        ("exec /usr/bin/tool", "processes.rules[0]", Origin::Image),
        ("exec {d}/tool", "processes.rules[1]", Origin::Written),
        ("exec {t}/tool", "processes.rules[1]", Origin::Tmpfs),
        // The house's volume is a directory of a tmpfs.
        ("exec {v}/tool", "processes.rules[1]", Origin::Tmpfs),
        ("memfd /usr/bin/other", "processes.rules[1]", Origin::Memory),
    ] {
        let id = "shop/origins";
        rig.enforce(&[(id, spec("api", rules))])?;
        let mut watch = Watch::new(rig)?;
        stage.tries(rig, id, (deed, Refused(rule)))?;
        let event = watch.by(rig, id, rule)?;
        let told = event.file.as_ref().and_then(|file| file.origin);
        ensure!(told == Some(origin), "{deed}: {event:?}");
        rig.reset()?;
    }
    Ok(())
}

fn capability_event(rig: &mut Rig) -> Result<()> {
    told(rig, "shop/capability-event", "capabilities: {deny: [NET_RAW]}", "raw", "capabilities.deny[NET_RAW]")
}

fn broken_glass(rig: &mut Rig) -> Result<()> {
    let stage = Stage::new(rig)?;
    let id = "shop/glass";
    let rules = "processes: {rules: [{paths: ['{d}/tool'], action: Kill}]}, \
                 files: {rules: [{paths: ['{d}/f'], operations: [Read], action: Deny}]}, capabilities: {deny: [NET_RAW]}";
    rig.enforce(&[(id, spec("api", &stage.rooms.fill(rules)))])?;
    let deeds = [
        ("exec {d}/tool", "processes.rules[0]"),
        ("read {d}/f", "files.rules[0]"),
        ("raw", "capabilities.deny[NET_RAW]"),
    ];
    let kept = tempfile::tempdir()?;
    break_glass::begin(&rig.places, kept.path(), Duration::from_mins(10), None)?;
    let broken = deeds.into_iter().try_for_each(|(deed, rule)| stage.tries(rig, id, (deed, Audited(rule))));
    break_glass::end(&rig.places, kept.path())?;
    broken?;
    stage.tries(rig, id, (deeds[0].0, Killed(deeds[0].1)))?;
    stage.tries(rig, id, (deeds[1].0, Refused(deeds[1].1)))
}
