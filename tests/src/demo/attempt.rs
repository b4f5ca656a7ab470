//! What is attempted inside the pods, and the words for what came of it.

use std::{
    fs,
    net::SocketAddr,
    path::Path,
    process::ExitCode,
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context, Result, bail, ensure};
use rustix::mount::MountFlags;

use super::node::Node;
use crate::scenario::protocol::{Answer, Op};

/// It worked: the echo of what was said came back, or the call had its effect.
pub const DONE: &str = "done";
/// The caller heard nothing, and nothing arrived at the other side.
pub const SILENCE: &str = "no answer, nothing arrived";
/// The call was refused, without effect.
pub const EPERM: &str = "EPERM, no effect";
/// The process was ended by SIGKILL.
pub const KILLED: &str = "killed by SIGKILL";

/// How long something that should come may take, in milliseconds.
const ANSWER_MS: u64 = 10_000;
/// How long nothing must come, in milliseconds: longer than TCP waits before it tries for the second time.
const SILENCE_MS: u64 = 1_500;

/// A TCP connection from one place to another, a word and its echo. `wanted` only decides how long to wait.
///
/// # Errors
/// When it cannot be tried.
pub fn tcp(node: &Node, from: &str, to: &str, port: u16, wanted: &str) -> Result<String> {
    tcp_at(node, from, to, node.at(to, port)?, wanted)
}

/// The same to any address at which the place `to` serves.
///
/// # Errors
/// When it cannot be tried.
pub fn tcp_at(node: &Node, from: &str, to: &str, address: SocketAddr, wanted: &str) -> Result<String> {
    let (caller, server) = (node.inside(from)?, node.inside(to)?);
    server.arrivals()?;
    let wait_ms = if wanted == DONE { ANSWER_MS } else { SILENCE_MS };
    let open = Op::TcpOpen { to: address, from: None, mapped: false, wait_ms };
    match caller.act(open)? {
        Answer::Socket { socket, .. } => {
            let seen = say(node, from, socket, to, wanted)?;
            caller.act(Op::Close { socket })?;
            Ok(seen)
        }
        other => seen(node, to, &other),
    }
}

/// A word and its echo over a connection that is open already.
///
/// # Errors
/// When it cannot be tried.
pub fn say(node: &Node, from: &str, socket: u64, to: &str, wanted: &str) -> Result<String> {
    static WORDS: AtomicU32 = AtomicU32::new(0);
    let word = format!("word-{}", WORDS.fetch_add(1, Ordering::Relaxed));
    let wait_ms = if wanted == DONE { ANSWER_MS } else { SILENCE_MS };
    let caller = node.inside(from)?;
    if wanted != DONE {
        node.inside(to)?.arrivals()?;
    }
    let answer = caller.act(Op::TcpSay { socket, word, wait_ms })?;
    seen(node, to, &answer)
}

/// Opens a connection to be used later.
///
/// # Errors
/// When it cannot be opened.
pub fn open(node: &Node, from: &str, to: &str, port: u16) -> Result<u64> {
    let open = Op::TcpOpen { to: node.at(to, port)?, from: None, mapped: false, wait_ms: ANSWER_MS };
    Ok(node.inside(from)?.open(open)?.0)
}

/// The words for an answer; what arrived at the other side is part of it.
fn seen(node: &Node, to: &str, answer: &Answer) -> Result<String> {
    let arrived = node.inside(to)?.arrivals()?.len();
    Ok(match answer {
        Answer::Echo if arrived > 0 => DONE.to_owned(),
        Answer::Silence if arrived == 0 => SILENCE.to_owned(),
        Answer::Errno(nix::libc::EPERM) if arrived == 0 => EPERM.to_owned(),
        other => format!("{other:?}, {arrived} arrived"),
    })
}

/// A packet socket in a pod.
///
/// # Errors
/// When it cannot be tried.
pub fn packet_socket(node: &Node, pod: &str) -> Result<String> {
    Ok(match node.inside(pod)?.act(Op::PacketSocket)? {
        Answer::Done => DONE.to_owned(),
        Answer::Errno(nix::libc::EPERM) => EPERM.to_owned(),
        other => format!("{other:?}"),
    })
}

/// A system call in a pod, by a process of its own: `mount` (a tmpfs at the folder) or `mkdir` (of the folder).
///
/// # Errors
/// When it cannot be tried.
pub fn call(node: &Node, pod: &str, call: &str, folder: &Path) -> Result<String> {
    let run = |call: &str| -> Result<Answer> {
        let folder = folder.to_str().context("a folder's name is no UTF-8")?;
        let command = ["/proc/self/exe", "try", call, folder].map(str::to_owned).to_vec();
        node.inside(pod)?.act(Op::Run { command, wait_ms: ANSWER_MS })
    };
    if call == "mount" {
        fs::create_dir_all(folder)?;
    }
    let answer = run(call)?;
    // Whether it had its effect is looked up by another process of the same pod, which no rule concerns.
    let effect = match run(&format!("{call}-effect"))? {
        Answer::Ended { code: Some(0), .. } => true,
        Answer::Ended { code: Some(1), .. } => false,
        other => bail!("{pod}: looking for the effect of {call}: {other:?}"),
    };
    Ok(match &answer {
        Answer::Ended { code: Some(0), .. } if effect => DONE.to_owned(),
        Answer::Ended { code: Some(nix::libc::EPERM), .. } if !effect => EPERM.to_owned(),
        Answer::Ended { signal: Some(nix::libc::SIGKILL), .. } => KILLED.to_owned(),
        other => format!("{other:?}, effect: {effect}"),
    })
}

/// What `demo try CALL FOLDER` does, inside a pod. The exit code is the errno, 0 for success; for `CALL-effect` it is 0
/// when the call's effect is there and 1 when it is not.
///
/// # Errors
/// When there is no such call, or the effect cannot be looked up.
pub fn try_call(call: &str, folder: &Path) -> Result<ExitCode> {
    let errno = match call {
        "mount" => rustix::mount::mount("tmpfs", folder, "tmpfs", MountFlags::empty(), None).err(),
        "mkdir" => rustix::fs::mkdir(folder, 0o700.into()).err(),
        "mount-effect" => {
            let mounts = fs::read_to_string("/proc/self/mountinfo")?;
            let wanted = folder.to_str();
            let found = mounts.lines().any(|line| line.split(' ').nth(4) == wanted);
            return Ok(ExitCode::from(u8::from(!found)));
        }
        "mkdir-effect" => return Ok(ExitCode::from(u8::from(!folder.is_dir()))),
        other => bail!("there is no call {other} to try"),
    };
    let code = errno.map_or(0, rustix::io::Errno::raw_os_error);
    ensure!((0..256).contains(&code), "errno {code}");
    Ok(ExitCode::from(u8::try_from(code)?))
}
