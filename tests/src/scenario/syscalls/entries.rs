//! Other ways into the kernel than the usual one.

use anyhow::{Context, Result, ensure};
use holdfast_policy::syscalls::{Abi, number};
use nix::libc::{ENOSYS, EPERM};

use super::{Bench, Call, Effect, Given, given, rules, watched};
use crate::scenario::{
    protocol::Op,
    rig::{Rig, only},
    suite::Scenario,
};

pub(super) const ALL: &[Scenario] = &[
    Scenario { name: "a 32-bit call is refused as the call that it is", run: compat },
    Scenario { name: "a 32-bit call with the number of a refused one is another call", run: compat_number },
    Scenario { name: "sockets by the 32-bit socketcall are no way round", run: socketcall },
    Scenario { name: "an x32 call is refused as the call that it is, or there is none", run: x32 },
    Scenario { name: "io_uring is refused where it could make a refused call", run: uring },
    Scenario { name: "a program is not executed where execve is refused", run: execve },
    Scenario { name: "a module is not looked at where init_module is refused", run: module },
    Scenario {
        name: "a restart with wrong magic numbers is refused before they are looked at",
        run: restart,
    },
];

const RULE: &str = "syscalls.rules[0]";

/// Makes a call of another entry in `api` and in `db`: (its error number, whether the directory came to be) of each.
fn by_entry(rig: &mut Rig, bench: &mut Bench, entry: &str, number: u32) -> Result<[(Option<i32>, bool); 2]> {
    let mut seen = [(None, false); 2];
    for (place, seen) in ["api", "db"].into_iter().zip(&mut seen) {
        let room = bench.room()?;
        let command = vec![
            bench.program(),
            entry.to_owned(),
            number.to_string(),
            format!("s:{}", room.join("new").display()),
            "0755".to_owned(),
        ];
        let answer = rig.inside(place)?.act(Op::Run { command, wait_ms: rig.answer_ms() })?;
        *seen = (super::errno(&answer), room.join("new").exists());
    }
    Ok(seen)
}

fn compat(rig: &mut Rig) -> Result<()> {
    let mut bench = Bench::new()?;
    rig.enforce(&[("shop/compat", rules("{rules: [{names: [mkdir], action: Deny}]}"))])?;
    let given = given(rig, "shop/compat", RULE)?;
    let mkdir = number(Abi::I386, "mkdir").context("mkdir of i386")?;
    let before = rig.counts()?;
    let [api, db] = by_entry(rig, &mut bench, "i386", mkdir)?;
    let counted = rig.counted_since(&before)?;
    ensure!(db == (Some(0), true), "where no rule concerns it: {db:?}");
    if given == Given::Refused {
        ensure!(
            api == (Some(EPERM), false) && only(&counted, "shop/compat", RULE, "Deny") == 1,
            "{api:?}, {counted:?}"
        );
    } else {
        ensure!(api == (Some(0), true), "{api:?}");
    }
    Ok(())
}

fn compat_number(rig: &mut Rig) -> Result<()> {
    let mut bench = Bench::new()?;
    // 39 is mkdir of i386, and getpid of x86-64; 20 is getpid of i386.
    rig.enforce(&[("shop/compat-number", rules("{rules: [{names: [getpid], action: Kill}]}"))])?;
    let mkdir = number(Abi::I386, "mkdir").context("mkdir of i386")?;
    let before = rig.counts()?;
    let [api, db] = by_entry(rig, &mut bench, "i386", mkdir)?;
    ensure!(api == (Some(0), true) && db == api, "{api:?}, {db:?}");
    ensure!(rig.counted_since(&before)?.is_empty(), "it was counted");
    let getpid = Call { words: &["getpid"], effect: Effect::Answer };
    let (made, counted) = watched(rig, &mut bench, getpid)?;
    let count = only(&counted, "shop/compat-number", RULE, "KillAfterEffect");
    ensure!(made.errno.is_none() && count == 1, "{made:?}, {counted:?}");
    Ok(())
}

fn socketcall(rig: &mut Rig) -> Result<()> {
    let mut bench = Bench::new()?;
    let text = "{rules: [{names: [socket], args: [{index: 0, op: Equal, value: 17}], action: Deny}]}";
    rig.enforce(&[("shop/socketcall", rules(text))])?;
    let given = given(rig, "shop/socketcall", RULE)?;
    let packet = Call { words: &["!socketcall", "17"], effect: Effect::Answer };
    let (made, counted) = watched(rig, &mut bench, packet)?;
    if given == Given::Refused {
        ensure!(
            made.errno == Some(EPERM) && only(&counted, "shop/socketcall", RULE, "Deny") == 1,
            "{made:?}, {counted:?}"
        );
    } else {
        ensure!(made.errno != Some(EPERM), "{made:?}");
    }
    let other = bench.make(rig, "db", Call { words: &["!socketcall", "2"], effect: Effect::Answer })?;
    ensure!(other.errno == Some(0), "where no rule concerns it: {other:?}");
    Ok(())
}

fn x32(rig: &mut Rig) -> Result<()> {
    let mut bench = Bench::new()?;
    rig.enforce(&[("shop/x32", rules("{rules: [{names: [mkdir], action: Deny}]}"))])?;
    let given = given(rig, "shop/x32", RULE)?;
    let mkdir = number(Abi::X86_64, "mkdir").context("mkdir of x86-64")?;
    let before = rig.counts()?;
    let [api, db] = by_entry(rig, &mut bench, "x32", mkdir)?;
    let counted = rig.counted_since(&before)?;
    if db == (Some(ENOSYS), false) {
        // This kernel has no such entry (it takes `syscall.x32=y`).
        ensure!(api == db && counted.is_empty(), "{api:?}, {counted:?}");
    } else if given == Given::Refused {
        ensure!(db == (Some(0), true), "where no rule concerns it: {db:?}");
        ensure!(
            api == (Some(EPERM), false) && only(&counted, "shop/x32", RULE, "Deny") == 1,
            "{api:?}, {counted:?}"
        );
    } else {
        ensure!(api == (Some(0), true), "{api:?}");
    }
    Ok(())
}

fn uring(rig: &mut Rig) -> Result<()> {
    let mut bench = Bench::new()?;
    rig.enforce(&[("shop/uring", rules("{rules: [{names: [mkdir, mkdirat], action: Deny}]}"))])?;
    let given = given(rig, "shop/uring", RULE)?;
    let uring = Call { words: &["!uring"], effect: Effect::Answer };
    let (made, counted) = watched(rig, &mut bench, uring)?;
    let other = bench.make(rig, "db", uring)?;
    ensure!(other.errno == Some(0), "where no rule concerns it: {other:?}");
    if given == Given::Refused {
        ensure!(
            made.errno == Some(EPERM) && only(&counted, "shop/uring", RULE, "Deny") == 1,
            "{made:?}, {counted:?}"
        );
    } else {
        ensure!(made.errno == Some(0), "{made:?}");
    }
    // A rule that no ring can get round leaves rings alone.
    rig.enforce(&[("shop/no-uring", rules("{rules: [{names: [mount], action: Deny}]}"))])?;
    let (made, counted) = watched(rig, &mut bench, uring)?;
    ensure!(made.errno == Some(0) && counted.is_empty(), "{made:?}, {counted:?}");
    Ok(())
}

fn execve(rig: &mut Rig) -> Result<()> {
    let mut bench = Bench::new()?;
    rig.enforce(&[("shop/execve", rules("{rules: [{names: [execve, execveat], action: Deny}]}"))])?;
    let given = given(rig, "shop/execve", RULE)?;
    let mkdir = Call { words: &["mkdir", "s:{dir}/new", "0755"], effect: Effect::Made("new") };
    let (made, counted) = watched(rig, &mut bench, mkdir)?;
    if given == Given::Refused {
        ensure!(
            made.errno == Some(EPERM) && !made.effect && only(&counted, "shop/execve", RULE, "Deny") >= 1,
            "{made:?}, {counted:?}"
        );
    } else {
        ensure!(made.errno == Some(0) && made.effect, "{made:?}");
    }
    super::free(rig, &mut bench, mkdir)
}

/// A call that fails everywhere: where a rule refuses it, with EPERM, and else with what the kernel thinks of it.
fn refused_first(rig: &mut Rig, id: &str, names: &str, call: Call) -> Result<()> {
    let mut bench = Bench::new()?;
    rig.enforce(&[(id, rules(&format!("{{rules: [{{names: [{names}], action: Deny}}]}}")))])?;
    let given = given(rig, id, RULE)?;
    let (made, counted) = watched(rig, &mut bench, call)?;
    let other = bench.make(rig, "db", call)?;
    ensure!(!matches!(other.errno, None | Some(0 | EPERM)), "where no rule concerns it: {other:?}");
    if given == Given::Refused {
        ensure!(made.errno == Some(EPERM) && only(&counted, id, RULE, "Deny") == 1, "{made:?}, {counted:?}");
    } else {
        ensure!(made.errno == other.errno && counted.is_empty(), "{made:?}, {counted:?}");
    }
    Ok(())
}

fn module(rig: &mut Rig) -> Result<()> {
    let call = Call { words: &["init_module", "z:64", "64", "s:"], effect: Effect::Answer };
    refused_first(rig, "shop/module", "'@module'", call)
}

fn restart(rig: &mut Rig) -> Result<()> {
    let call = Call { words: &["reboot", "0", "0", "0", "0"], effect: Effect::Answer };
    refused_first(rig, "shop/restart", "'@reboot'", call)
}
