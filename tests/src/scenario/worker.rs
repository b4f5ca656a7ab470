//! The process inside a workload. `enter` is what a container runtime does: it joins the cgroup, the network namespace
//! and a mount namespace, and executes the workload's program, which is this one again, as `work`.

use std::{
    collections::HashMap,
    ffi::{OsStr, OsString},
    fs::{self, File},
    io::{BufRead, Write},
    os::unix::ffi::OsStringExt,
    os::unix::process::{CommandExt, ExitStatusExt},
    path::Path,
    process::{Command, Stdio},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use nix::sched::{CloneFlags, setns, unshare};
use socket2::{Socket, Type};

use crate::process::POLL;

use super::protocol::{Answer, Arrival, Op, Request, Response};

mod datagram;
mod flood;
mod raw;
mod sctp;
mod server;
mod stream;

/// Joins a cgroup (the path of its directory) and a network namespace (the path of its file), takes a mount namespace of
/// its own, and executes this program with `arguments`.
///
/// # Errors
/// When a step is refused; it returns only then.
pub fn enter(cgroup: &Path, netns: &Path, arguments: &[String]) -> Result<()> {
    let netns = File::open(netns).with_context(|| netns.display().to_string())?;
    fs::write(cgroup.join("cgroup.procs"), "0").with_context(|| format!("joining {}", cgroup.display()))?;
    setns(&netns, CloneFlags::CLONE_NEWNET).context("joining the network namespace")?;
    unshare(CloneFlags::CLONE_NEWNS).context("a mount namespace")?;
    let private = rustix::mount::MountPropagationFlags::PRIVATE | rustix::mount::MountPropagationFlags::REC;
    rustix::mount::mount_change("/", private).context("making the mount namespace private")?;
    let (program, arguments) = match arguments {
        [first, rest @ ..] if first.starts_with('/') => (first.as_str(), rest),
        all => ("/proc/self/exe", all),
    };
    Err(Command::new(program).args(arguments).exec()).context("executing the workload's program")
}

/// Works on requests until there are no more.
///
/// # Errors
/// When the standard input cannot be read.
pub fn work() -> Result<()> {
    // Whoever is not there to ask for anything any more has ended, perhaps by SIGKILL.
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    let worker = Arc::new(Worker::default());
    for line in std::io::stdin().lock().lines() {
        let Request { id, op } = serde_json::from_str(&line?)?;
        let worker = Arc::clone(&worker);
        thread::spawn(move || {
            let answer = worker.act(op).unwrap_or_else(|error| Answer::Fault(format!("{error:#}")));
            let mut out = std::io::stdout().lock();
            // Nobody is there to read an answer when the runner has gone.
            let _ = serde_json::to_writer(&mut out, &Response { id, answer });
            let _ = out.write_all(b"\n").and_then(|()| out.flush());
        });
    }
    Ok(())
}

#[derive(Default)]
struct Worker {
    next: AtomicU64,
    sockets: Mutex<HashMap<u64, Arc<Socket>>>,
    arrivals: Arc<Mutex<Vec<Arrival>>>,
    listeners: Mutex<HashMap<u16, Arc<Socket>>>,
    accepted: Arc<Mutex<HashMap<u16, Vec<Arc<Socket>>>>>,
}

impl Worker {
    fn act(&self, op: Op) -> Result<Answer> {
        let answer = match op {
            Op::Serve { at, dual } => self.serve(&at, dual),
            Op::Arrivals => Ok(Answer::Arrivals(std::mem::take(&mut *lock(&self.arrivals)))),
            Op::TcpOpen { to, from, mapped, wait_ms } => self.tcp_open(to, from, mapped, millis(wait_ms)),
            Op::TcpSay { socket, word, wait_ms } => {
                stream::say(self.socket(socket)?.as_ref(), &word, millis(wait_ms))
            }
            Op::TcpTell { port, word } => Ok(self.tcp_tell(port, &word)),
            Op::TcpAccepted { port } => self.tcp_accepted(port),
            Op::TcpAgain { socket, to, wait_ms } => {
                stream::again(self.socket(socket)?.as_ref(), to, millis(wait_ms))
            }
            Op::TcpHear { socket, word, wait_ms } => {
                stream::hear(self.socket(socket)?.as_ref(), &word, millis(wait_ms))
            }
            Op::UdpOpen { at, connect, recverr } => self.udp_open(at, connect, recverr),
            Op::UdpSay { socket, to, word, padding, wait_ms } => {
                datagram::say(self.socket(socket)?.as_ref(), to, &word, padding, millis(wait_ms))
            }
            Op::UdpFlood { socket, to, count } => flood::datagrams(self.socket(socket)?.as_ref(), &to, count),
            Op::UdpHear { socket, word, wait_ms } => {
                datagram::hear(self.socket(socket)?.as_ref(), &word, millis(wait_ms))
            }
            Op::Close { socket } => {
                let closed = lock(&self.sockets).remove(&socket);
                if let Some(socket) =
                    closed.filter(|socket| socket.r#type().is_ok_and(|kind| kind == Type::STREAM))
                {
                    stream::close(&socket)?;
                }
                Ok(Answer::Done)
            }
            Op::Ping { to, wait_ms } => raw::ping(to, millis(wait_ms)),
            Op::RawUdp { from, to, word, form } => raw::udp(from, to, &word, form),
            Op::SctpServe { at } => self.sctp_serve(&at),
            Op::SctpOpen { to, wait_ms } => self.sctp_open(to, millis(wait_ms)),
            Op::RawSctpHear { at } => self.raw_sctp_hear(&at),
            Op::RawSctp { from, to, word, chunk, form } => raw::sctp(from, to, &word, chunk, form),
            Op::PacketSocket => raw::packet_socket(),
            Op::GiveListener { port, path } => self.give_listener(port, &path),
            Op::TakeListener { path, wait_ms } => self.take_listener(&path, millis(wait_ms)),
            Op::Run { command, wait_ms } => run(&command, millis(wait_ms)),
            Op::RunBytes { command, wait_ms } => {
                let command: Vec<OsString> = command.into_iter().map(OsString::from_vec).collect();
                run(&command, millis(wait_ms))
            }
        };
        // What the kernel says is an answer, not a fault.
        answer.or_else(|error| {
            match error.downcast_ref::<std::io::Error>().and_then(std::io::Error::raw_os_error) {
                Some(errno) => Ok(Answer::Errno(errno)),
                None => Err(error),
            }
        })
    }

    fn keep(&self, socket: Socket) -> Result<Answer> {
        let at = socket.local_addr()?.as_socket().context("a socket without an address")?;
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        lock(&self.sockets).insert(id, Arc::new(socket));
        Ok(Answer::Socket { socket: id, at })
    }

    fn socket(&self, id: u64) -> Result<Arc<Socket>> {
        lock(&self.sockets).get(&id).cloned().with_context(|| format!("there is no socket {id}"))
    }
}

fn run<S: AsRef<OsStr>>(command: &[S], wait: Duration) -> Result<Answer> {
    let [program, arguments @ ..] = command else { bail!("no program") };
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let began = Instant::now();
    while child.try_wait()?.is_none() {
        if began.elapsed() > wait {
            child.kill()?;
            child.wait()?;
            return Ok(Answer::Silence);
        }
        thread::sleep(POLL / 10);
    }
    let output = child.wait_with_output()?;
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    Ok(Answer::Ended { code: output.status.code(), signal: output.status.signal(), output: text })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn millis(wait: u64) -> Duration {
    Duration::from_millis(wait.max(1))
}

/// The time is over, for a socket with a time limit.
fn timed_out(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut)
}
