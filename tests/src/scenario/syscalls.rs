//! System call scenarios. What a node can do differs, so each asserts what the report says, and that the report is true:
//! a rule that is given Deny is one whose call had no effect, and one that is not covered is one whose call had.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};
use holdfast_policy::syscalls::{Abi, number};

use super::{
    process::Inside,
    protocol::{Answer, Op},
    rig::{Counted, Rig, only},
    suite::Scenario,
};

mod answers;
mod calls;
mod entries;

/// All of them.
#[must_use]
pub fn all() -> Vec<Scenario> {
    [calls::ALL, answers::ALL, entries::ALL].concat()
}

/// The program that makes a call.
pub(super) static CALLS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/calls"));

/// What a call leaves behind where it is not refused.
#[derive(Debug, Clone, Copy)]
enum Effect {
    /// Nothing to be seen from outside; its answer has to do.
    Answer,
    /// This file or directory.
    Made(&'static str),
    /// This file or directory is gone.
    Gone(&'static str),
    /// Something is mounted here, in the mount namespace of the caller.
    Mounted(&'static str),
    /// Nothing is mounted here any more.
    Unmounted(&'static str),
    /// The program says so.
    Says(&'static str),
}

/// A call, and what it leaves behind. In its arguments `{dir}` is a directory of its own with the file `f` and the
/// directories `d` and `m`. A first word with `!` is one of the program's own.
#[derive(Debug, Clone, Copy)]
struct Call {
    words: &'static [&'static str],
    effect: Effect,
}

/// What came of a call.
#[derive(Debug)]
struct Made {
    answer: Answer,
    /// Its error number, 0 for none; absent where the process died or was not started.
    errno: Option<i32>,
    effect: bool,
}

/// A directory with the program, and directories for calls.
struct Bench {
    _folder: tempfile::TempDir,
    path: PathBuf,
    rooms: usize,
}

impl Bench {
    fn new() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().to_owned();
        let program = path.join("calls");
        fs::write(&program, CALLS)?;
        for path in [&path, &program] {
            fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
        }
        Ok(Self { _folder: folder, path, rooms: 0 })
    }

    fn program(&self) -> String {
        self.path.join("calls").display().to_string()
    }

    fn room(&mut self) -> Result<PathBuf> {
        self.rooms += 1;
        let room = self.path.join(format!("room-{}", self.rooms));
        for part in ["d", "m"] {
            fs::create_dir_all(room.join(part))?;
        }
        fs::write(room.join("f"), "content")?;
        Ok(room)
    }

    fn command(&self, words: &[&str], room: &Path) -> Result<Vec<String>> {
        let [name, arguments @ ..] = words else { bail!("no call") };
        let mut command = vec![self.program()];
        if let Some(own) = name.strip_prefix('!') {
            command.push(own.to_owned());
        } else {
            let number = number(NATIVE, name).with_context(|| format!("there is no call {name}"))?;
            command.extend(["native".to_owned(), number.to_string()]);
        }
        let room = room.display().to_string();
        command.extend(arguments.iter().map(|word| word.replace("{dir}", &room)));
        Ok(command)
    }

    /// Makes the call in a place, in a new directory.
    fn make(&mut self, rig: &Rig, place: &str, call: Call) -> Result<Made> {
        let room = self.room()?;
        let inside = rig.inside(place)?;
        if let Effect::Unmounted(at) = call.effect {
            let target = format!("s:{}", room.join(at).display());
            let mount = self.command(&["mount", "s:none", &target, "s:tmpfs", "0", "0"], &room)?;
            let mounted = inside.act(Op::Run { command: mount, wait_ms: rig.answer_ms() })?;
            ensure!(errno(&mounted) == Some(0), "what is to be unmounted cannot be mounted: {mounted:?}");
        }
        self.make_in(rig, inside, call, &room)
    }

    fn make_in(&self, rig: &Rig, inside: &Inside, call: Call, room: &Path) -> Result<Made> {
        let command = self.command(call.words, room)?;
        let answer = inside.act(Op::Run { command, wait_ms: rig.answer_ms() })?;
        let errno = errno(&answer);
        let mounted = |at: &str| -> Result<bool> {
            let table = fs::read_to_string(format!("/proc/{}/mountinfo", inside.id()))?;
            let wanted = room.join(at).display().to_string();
            Ok(table.lines().any(|line| line.split(' ').nth(4) == Some(&wanted)))
        };
        let effect = match call.effect {
            Effect::Answer => errno == Some(0),
            Effect::Made(name) => room.join(name).symlink_metadata().is_ok(),
            Effect::Gone(name) => room.join(name).symlink_metadata().is_err(),
            Effect::Mounted(at) => mounted(at)?,
            Effect::Unmounted(at) => !mounted(at)?,
            Effect::Says(words) => matches!(&answer, Answer::Ended { output, .. } if output.contains(words)),
        };
        Ok(Made { answer, errno, effect })
    }
}

/// The table of the machine's own calls.
const NATIVE: Abi = if cfg!(target_arch = "x86_64") { Abi::X86_64 } else { Abi::Aarch64 };

fn errno(answer: &Answer) -> Option<i32> {
    match answer {
        Answer::Ended { code: Some(0), output, .. } => output.trim().rsplit_once("errno=")?.1.parse().ok(),
        Answer::Errno(errno) => Some(*errno),
        _ => None,
    }
}

/// A policy for `api` with these rules.
fn rules(rules: &str) -> String {
    format!("{{selector: {{matchLabels: {{app: api}}}}, syscalls: {rules}}}")
}

/// What a node gives to a rule that asks for Deny.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Given {
    Refused,
    NotCovered,
}

/// What the report says of a Deny rule, after checking that it says what this kind of node must say.
pub(super) fn given(rig: &Rig, policy: &str, rule: &str) -> Result<Given> {
    let row = rig.report(policy, rule)?;
    ensure!(row.asked == "Deny", "{row:?}");
    let given = match (row.given.as_str(), row.mechanism, row.reason) {
        ("Deny", Some("lsm" | "fmod_ret"), None) => Given::Refused,
        ("NotCovered", None, Some(_)) => Given::NotCovered,
        _ => bail!("{row:?}"),
    };
    if let Some(expected) = &rig.mechanism {
        let seen = row.mechanism.unwrap_or("none");
        ensure!(seen == expected, "this node should have {expected}, and the report is {row:?}");
    }
    Ok(given)
}

/// What a call of `api` came to, and what was counted.
fn watched(rig: &mut Rig, bench: &mut Bench, call: Call) -> Result<(Made, Counted)> {
    let before = rig.counts()?;
    let made = bench.make(rig, "api", call)?;
    Ok((made, rig.counted_since(&before)?))
}

/// That the call does what it is for in a place that no rule concerns.
fn free(rig: &Rig, bench: &mut Bench, call: Call) -> Result<()> {
    let made = bench.make(rig, "db", call)?;
    ensure!(made.errno == Some(0) && made.effect, "where no rule concerns it: {call:?}: {made:?}");
    Ok(())
}

/// That a Deny rule on the call is what the report says it is, and that others may make it.
fn denied(rig: &mut Rig, id: &str, rule: &str, call: Call, errnos: &[i32]) -> Result<()> {
    let mut bench = Bench::new()?;
    rig.enforce(&[(id, rules(&format!("{{rules: [{rule}]}}")))])?;
    let given = given(rig, id, "syscalls.rules[0]")?;
    let (made, counted) = watched(rig, &mut bench, call)?;
    match given {
        Given::Refused => ensure!(
            made.errno.is_some_and(|errno| errnos.contains(&errno))
                && !made.effect
                && only(&counted, id, "syscalls.rules[0]", "Deny") >= 1,
            "should be refused: {call:?}: {made:?}, counted {counted:?}"
        ),
        Given::NotCovered => ensure!(
            made.errno == Some(0) && made.effect && counted.is_empty(),
            "is reported as not covered: {call:?}: {made:?}, counted {counted:?}"
        ),
    }
    free(rig, &mut bench, call)
}
