//! Child processes that cannot outlive the test that started them.
//!
//! A [`Process`] is killed when it is dropped. And as a test that is killed itself drops nothing, each one also asks the
//! kernel for SIGKILL at its parent's death (`setpriv --pdeathsig`). The kernel means by that the death of the *thread*
//! that started it, and a test's thread ends with the test while a rig may be shared by several: so all are started by
//! one thread that lives as long as the test program.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{OnceLock, mpsc},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow};

use crate::tools;

/// How often a wait looks again.
pub const POLL: Duration = Duration::from_millis(20);

type Request = (Command, mpsc::Sender<io::Result<Child>>);

/// A running child process. Dropping it kills it with SIGKILL and reaps it.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `program`; what it writes to its standard output and error goes to the file `log`, which is
    /// appended to. `configure` adds arguments and environment.
    ///
    /// # Errors
    /// When `setpriv` is missing, `log` cannot be opened, or the process cannot be started. That `program` itself
    /// cannot be executed is seen in `log` and by [`Process::try_wait`].
    pub fn start(program: &Path, log: &Path, configure: impl FnOnce(&mut Command)) -> Result<Process> {
        let name = program.file_name().unwrap_or(program.as_os_str()).to_string_lossy().into_owned();
        let output = File::options()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("cannot write {}", log.display()))?;
        let mut command = Command::new(tools::system_program("setpriv", "util-linux")?);
        command.args(["--pdeathsig", "KILL", "--"]).arg(program);
        configure(&mut command);
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let child = spawn(command)?.with_context(|| format!("cannot start {name}"))?;
        Ok(Process { name, child, log: log.to_path_buf() })
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Its exit status if it has ended.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub fn try_wait(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().with_context(|| format!("cannot wait for {}", self.name))
    }

    /// That it still runs.
    ///
    /// # Errors
    /// When it has ended; the error shows the end of its log.
    pub fn check(&mut self) -> Result<()> {
        match self.try_wait()? {
            Some(status) => Err(anyhow!("{} ended too early ({status}):\n{}", self.name, self.log_tail())),
            None => Ok(()),
        }
    }

    /// Waits until `ready` says true.
    ///
    /// # Errors
    /// When the process ends first or `timeout` passes; the error shows the end of its log.
    pub fn wait_until(&mut self, timeout: Duration, mut ready: impl FnMut() -> bool) -> Result<()> {
        let began = Instant::now();
        loop {
            if ready() {
                return Ok(());
            }
            self.check()?;
            if began.elapsed() > timeout {
                return Err(anyhow!("{} is not ready after {timeout:?}:\n{}", self.name, self.log_tail()));
            }
            thread::sleep(POLL);
        }
    }

    /// Kills it with SIGKILL and waits for its end.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill().with_context(|| format!("cannot kill {}", self.name))?;
        self.child.wait().with_context(|| format!("cannot wait for {}", self.name))?;
        Ok(())
    }

    /// The last lines of its log, for an error message.
    #[must_use]
    pub fn log_tail(&self) -> String {
        tail(&String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()), 30)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // An error here means that it has ended and been reaped already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The last `lines` lines of `text`.
#[must_use]
pub fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// Starts `command` from the thread that lives as long as this program.
pub(crate) fn spawn(command: Command) -> Result<io::Result<Child>> {
    static SPAWNER: OnceLock<mpsc::Sender<Request>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (requests, inbox) = mpsc::channel::<Request>();
        thread::spawn(move || {
            for (mut command, reply) in inbox {
                // Whoever asked may have given up; the child is then dropped, and dies with this program.
                let _ = reply.send(command.spawn());
            }
        });
        requests
    });
    let (reply, answer) = mpsc::channel();
    spawner.send((command, reply)).ok().context("the thread that starts processes has ended")?;
    answer.recv().context("the thread that starts processes has ended")
}

#[cfg(test)]
mod tests {
    use std::{fs, thread};

    use super::*;

    fn alive(id: u32) -> bool {
        Path::new(&format!("/proc/{id}")).exists()
    }

    fn sleeper(folder: &Path) -> Process {
        Process::start(Path::new("/bin/sleep"), &folder.join("log"), |command| {
            command.arg("300");
        })
        .unwrap()
    }

    #[test]
    fn a_dropped_process_is_dead() {
        let folder = tempfile::tempdir().unwrap();
        let process = sleeper(folder.path());
        let id = process.id();
        assert!(alive(id));
        drop(process);
        assert!(!alive(id));
    }

    #[test]
    fn a_process_survives_the_thread_that_asked_for_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_path_buf();
        let mut process = thread::spawn(move || sleeper(&path)).join().unwrap();
        // The exec of `sleep` through setpriv is done once its name is `sleep`; pdeathsig is set by then.
        let comm = format!("/proc/{}/comm", process.id());
        process
            .wait_until(Duration::from_secs(10), || {
                fs::read_to_string(&comm).is_ok_and(|name| name == "sleep\n")
            })
            .unwrap();
        assert!(process.try_wait().unwrap().is_none());
    }

    #[test]
    fn a_process_that_ends_too_early_shows_its_log() {
        let folder = tempfile::tempdir().unwrap();
        let mut process = Process::start(Path::new("/bin/sh"), &folder.path().join("log"), |command| {
            command.args(["-c", "echo no such luck >&2; exit 3"]);
        })
        .unwrap();
        let error = process.wait_until(Duration::from_secs(10), || false).unwrap_err().to_string();
        assert!(error.contains("exit status: 3") && error.contains("no such luck"), "{error}");
    }
}
