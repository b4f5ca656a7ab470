//! One container of a pod: started, watched, probed, started again, ended.

use std::{
    fmt, fs,
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
use k8s_openapi::{api::core::v1::Container, jiff::Timestamp};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open};
use tokio::sync::watch;

use super::{
    Inner, bundle, env,
    logs::Log,
    pod::PodRun,
    probe,
    status::{Ended, Handle, State},
};
use crate::{process, tools};

/// The pauses before a container is started again: none, then these, doubled each time.
const BACK_OFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));
/// A container that ran for this long starts afresh.
const STEADY: Duration = Duration::from_mins(1);
/// How long the runtime may take to make a container.
const MADE: Duration = Duration::from_mins(1);

/// Why a container is not there.
#[derive(Debug)]
pub(super) struct Trouble {
    /// As a kubelet calls it.
    pub(super) reason: &'static str,
    /// For people.
    pub(super) message: String,
}

impl Trouble {
    pub(super) fn new(reason: &'static str, message: impl fmt::Display) -> Self {
        Self { reason, message: message.to_string() }
    }
}

impl From<anyhow::Error> for Trouble {
    fn from(error: anyhow::Error) -> Self {
        Self::new("CreateContainerError", format!("{error:#}"))
    }
}

/// A container's exit code, once it has ended and all that it wrote is in its log.
struct Exit(watch::Receiver<Option<i32>>);

impl Exit {
    fn now(&self) -> Option<i32> {
        *self.0.borrow()
    }

    async fn code(&mut self) -> i32 {
        // Nobody who would tell is as good as killed.
        self.0.wait_for(Option::is_some).await.ok().and_then(|code| *code).unwrap_or(137)
    }
}

/// A container that was started.
struct Running {
    id: String,
    since: Timestamp,
    /// `None` where it had ended before it could be had.
    handle: Option<Arc<Handle>>,
    exit: Exit,
    cgroup: PathBuf,
    termination: PathBuf,
    folder: PathBuf,
}

/// Runs a container, as often as its pod's restart policy says, until it is done or the pod ends; whether it is done well.
pub(super) async fn supervise(pod: Arc<PodRun>, index: usize, container: Container) -> bool {
    let policy = pod.spec().restart_policy.unwrap_or_else(|| "Always".to_owned());
    let init = pod.track(index, |track| track.init).unwrap_or_default();
    let mut pause = Duration::ZERO;
    let mut attempt = 0;
    loop {
        if pod.is_stopping() {
            return false;
        }
        match start(&pod, index, &container, attempt).await {
            Ok(running) => {
                attempt += 1;
                let began = tokio::time::Instant::now();
                let code = attend(&pod, index, &container, running).await;
                let well = code == 0;
                let again = match policy.as_str() {
                    "Never" => false,
                    "OnFailure" => !well,
                    _ => !(init && well),
                };
                if !again || pod.is_stopping() {
                    return well;
                }
                if began.elapsed() > STEADY {
                    pause = Duration::ZERO;
                }
                if !pause.is_zero() {
                    let message = format!("back-off {}s restarting failed container", pause.as_secs());
                    pod.track(index, |track| track.wait("CrashLoopBackOff", &message));
                }
            }
            Err(trouble) => {
                pod.inner.note(&format!(
                    "{}/{} {}: {}: {}",
                    pod.namespace, pod.name, container.name, trouble.reason, trouble.message
                ));
                pod.track(index, |track| track.wait(trouble.reason, &trouble.message));
                pause = pause.max(BACK_OFF.0);
            }
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = pod.stopped() => return false,
        }
        pause = (pause * 2).clamp(BACK_OFF.0, BACK_OFF.1);
    }
}

/// Watches a running container until it has ended, by itself or because it must; returns its exit code.
async fn attend(pod: &Arc<PodRun>, index: usize, container: &Container, mut running: Running) -> i32 {
    let code = tokio::select! {
        code = running.exit.code() => code,
        why = probe::watch(pod, index, container, &running.id) => {
            pod.inner.note(&format!("{}/{} {}: {why}", pod.namespace, pod.name, container.name));
            let grace = pod.spec().termination_grace_period_seconds.unwrap_or(30).unsigned_abs();
            end(pod, &mut running, Duration::from_secs(grace)).await
        }
        () = pod.stopped() => {
            let grace = pod.stopping().borrow().map_or(Duration::ZERO, |stop| stop.grace);
            end(pod, &mut running, grace).await
        }
    };
    // Whatever it left in its cgroup ends with it.
    let _ = fs::write(running.cgroup.join("cgroup.kill"), "1");
    let message = fs::read_to_string(&running.termination).unwrap_or_default();
    let reason = if code == 0 { "Completed" } else { "Error" };
    let (id, since, at) = (running.id, running.since, Timestamp::now());
    let _ = fs::remove_dir_all(&running.folder);
    pod.track(index, |track| {
        track.state = State::Terminated(Ended { code, reason, message, since, at, id });
        (track.started, track.ready, track.pid, track.handle) = (false, false, None, None);
        if let Some(log) = track.logs.last() {
            log.close();
        }
    });
    code
}

/// SIGTERM, and SIGKILL after the grace, which the pod's end may shorten; returns the exit code.
async fn end(pod: &PodRun, running: &mut Running, grace: Duration) -> i32 {
    let mut stop = pod.stopping();
    let began = tokio::time::Instant::now();
    let mut deadline = began + grace;
    if !grace.is_zero() {
        // An error means that it has ended.
        let _ = running.handle.as_ref().map(|handle| handle.signal(Signal::TERM));
    }
    loop {
        if let Some(order) = *stop.borrow_and_update() {
            deadline = deadline.min(began + order.grace.max(Duration::from_millis(1)));
        }
        tokio::select! {
            code = running.exit.code() => return code,
            () = tokio::time::sleep_until(deadline) => break,
            Ok(()) = stop.changed() => {}
        }
    }
    let _ = running.handle.as_ref().map(|handle| handle.kill());
    let _ = fs::write(running.cgroup.join("cgroup.kill"), "1");
    running.exit.code().await
}

/// An id that no container had, as long as containerd's.
fn new_id() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let (number, now) = (NEXT.fetch_add(1, Ordering::Relaxed), Timestamp::now().as_nanosecond());
    format!("{:016x}{:08x}{number:040x}", now & i128::from(u64::MAX), std::process::id())
}

async fn start(
    pod: &Arc<PodRun>,
    index: usize,
    container: &Container,
    attempt: i32,
) -> Result<Running, Trouble> {
    let inner = &pod.inner;
    let image = bundle::image(inner, container)?;
    let environment = env::of(pod, container).await?;
    let id = new_id();
    let folder = inner.folder.path().join("containers").join(&id);
    let cgroup = format!("{}/cri-containerd-{id}.scope", pod.cgroup().context("no cgroup")?);
    let bundle = bundle::Bundle { pod, container, image, environment, folder: &folder, cgroup: &cgroup };
    bundle.write()?;
    let log = Arc::new(Log::new(&pod.folder().join(&container.name), attempt)?);
    let exit = spawn(inner, &folder, &id, &log)?;
    let pid = made(&folder, &exit).await?;
    let handle = i32::try_from(pid)
        .ok()
        .and_then(Pid::from_raw)
        .and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok())
        .map(|fd| Arc::new(Handle(fd)));
    let since = Timestamp::now();
    pod.track(index, |track| {
        if let State::Terminated(ended) = &track.state {
            track.last = Some(ended.clone());
        }
        track.state = State::Running { since };
        track.restarts = attempt;
        track.id = Some(id.clone());
        track.pid = handle.is_some().then_some(pid);
        track.handle.clone_from(&handle);
        track.logs.push(log);
        (track.started, track.ready) = (false, false);
    });
    let termination = folder.join("termination-log");
    Ok(Running { id, since, handle, exit, cgroup: inner.place.full(&cgroup), termination, folder })
}

/// Waits until the runtime has made the container, and knows its first process.
async fn made(folder: &Path, exit: &Exit) -> Result<u32, Trouble> {
    let file = folder.join("pid");
    let began = tokio::time::Instant::now();
    loop {
        if let Some(pid) = fs::read_to_string(&file).ok().and_then(|text| text.trim().parse().ok()) {
            return Ok(pid);
        }
        if let Some(code) = exit.now() {
            // One that ended as soon as it began has left the number of its process too.
            if !file.exists() {
                let said = fs::read_to_string(folder.join("crun.log")).unwrap_or_default();
                return Err(Trouble::new(
                    "CreateContainerError",
                    format!("crun exits with {code}: {}", said.trim()),
                ));
            }
        }
        if began.elapsed() > MADE {
            return Err(Trouble::new("CreateContainerError", "crun makes no container"));
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn crun(inner: &Inner, log: Option<&Path>) -> Result<Command> {
    let mut command = inner.place.command(&tools::system_program("crun", "crun")?)?;
    command.arg("--root").arg(inner.folder.path().join("crun"));
    if let Some(log) = log {
        command.arg("--log").arg(log);
    }
    Ok(command)
}

/// Starts the runtime in the foreground. The exit code comes when it has ended and all that it wrote is in the log.
fn spawn(inner: &Inner, folder: &Path, id: &str, log: &Arc<Log>) -> Result<Exit> {
    let run = {
        let mut command = crun(inner, Some(&folder.join("crun.log")))?;
        command.arg("run").arg("--bundle").arg(folder).arg("--pid-file").arg(folder.join("pid")).arg(id);
        command
    };
    // It dies with this process; the container's own process with it (see `bundle`).
    let mut command = Command::new(tools::system_program("setpriv", "util-linux")?);
    command.args(["--pdeathsig", "KILL", "--"]).arg(run.get_program()).args(run.get_args());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = process::spawn(command)?.context("cannot start crun")?;
    let (done, readers) = mpsc::channel();
    let outputs: [(Option<Box<dyn Read + Send>>, &'static str); 2] = [
        (child.stdout.take().map(|pipe| Box::new(pipe) as _), "stdout"),
        (child.stderr.take().map(|pipe| Box::new(pipe) as _), "stderr"),
    ];
    for (pipe, stream) in outputs {
        let (pipe, log, done) = (pipe.context("no pipe")?, Arc::clone(log), done.clone());
        thread::spawn(move || {
            let mut lines = BufReader::new(pipe);
            let mut line = Vec::new();
            while lines.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
                log.append(stream, &String::from_utf8_lossy(&line));
                line.clear();
            }
            // The other side may be gone.
            let _ = done.send(());
        });
    }
    let (ended, exit) = watch::channel(None);
    thread::spawn(move || {
        let code = child.wait().ok().and_then(|status| status.code()).unwrap_or(137);
        for _ in 0..2 {
            let _ = readers.recv_timeout(Duration::from_secs(1));
        }
        let _ = ended.send(Some(code));
    });
    Ok(Exit(exit))
}

/// A command that executes a program in a running container.
pub(super) fn exec(inner: &Inner, id: &str, words: &[&str]) -> Result<Command> {
    let mut command = crun(inner, None)?;
    command.arg("exec").arg(id).args(words).stdin(Stdio::null());
    Ok(command)
}
