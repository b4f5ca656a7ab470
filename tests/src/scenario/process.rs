//! A process inside a workload, from outside: starts it, and asks it to do things.

use std::{
    collections::HashMap,
    io::{BufRead, BufReader, Write},
    net::{IpAddr, SocketAddr},
    path::Path,
    process::{Child, ChildStdin, Command, Stdio},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
        mpsc::{self, Receiver, Sender},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail};

use super::protocol::{Answer, Arrival, Op, Request, Response};

/// How long an answer may be late: the worker itself bounds every wait.
const LATE: Duration = Duration::from_secs(30);

type Waiting = Arc<Mutex<HashMap<u64, Sender<Answer>>>>;

/// A process inside a workload. Dropping it kills it.
pub struct Inside {
    name: String,
    child: Child,
    input: Mutex<ChildStdin>,
    waiting: Waiting,
    next: AtomicU64,
}

/// An answer that is still to come.
pub struct Promise {
    what: String,
    answer: Receiver<Answer>,
}

impl Promise {
    /// Waits for it.
    ///
    /// # Errors
    /// When the process has ended, or says that the request makes no sense.
    pub fn wait(self) -> Result<Answer> {
        match self.answer.recv_timeout(LATE) {
            Ok(Answer::Fault(fault)) => Err(anyhow!(fault).context(self.what)),
            Ok(answer) => Ok(answer),
            Err(error) => Err(anyhow!(error).context(format!("{}: the process gave no answer", self.what))),
        }
    }
}

impl Inside {
    /// Starts one in the cgroup (the path of its directory) and the network namespace (the path of its file).
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(name: &str, cgroup: &Path, netns: &Path) -> Result<Self> {
        Self::start_by(Path::new("/proc/self/exe"), name, cgroup, netns)
    }

    /// Starts one with what `enter` is to execute: these arguments of this program.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_as(name: &str, cgroup: &Path, netns: &Path, arguments: &[&str]) -> Result<Self> {
        Self::spawn(Path::new("/proc/self/exe"), name, cgroup, netns, arguments)
    }

    /// Starts one by another program that knows `enter` and `work`: for callers that do not, such as tests.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_by(program: &Path, name: &str, cgroup: &Path, netns: &Path) -> Result<Self> {
        Self::spawn(program, name, cgroup, netns, &["work"])
    }

    fn spawn(program: &Path, name: &str, cgroup: &Path, netns: &Path, arguments: &[&str]) -> Result<Self> {
        let mut child = Command::new(program)
            .arg("enter")
            .args([cgroup, netns])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting the process of {name}"))?;
        let input = child.stdin.take().context("no standard input")?;
        let output = child.stdout.take().context("no standard output")?;
        let waiting = Waiting::default();
        let known = Arc::clone(&waiting);
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                let Ok(Response { id, answer }) = serde_json::from_str(&line) else { continue };
                if let Some(sender) = known.lock().unwrap_or_else(PoisonError::into_inner).remove(&id) {
                    // Whoever asked may have given up.
                    let _ = sender.send(answer);
                }
            }
            // Nobody answers any more: those who wait are told by the end of their channels.
            known.lock().unwrap_or_else(PoisonError::into_inner).clear();
        });
        Ok(Self { name: name.to_owned(), child, input: Mutex::new(input), waiting, next: AtomicU64::new(0) })
    }

    /// Asks for something, without waiting for the answer.
    ///
    /// # Errors
    /// When the process has ended.
    pub fn ask(&self, op: Op) -> Result<Promise> {
        let what = format!("{}: {op:?}", self.name);
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, answer) = mpsc::channel();
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).insert(id, sender);
        let mut line = serde_json::to_vec(&Request { id, op })?;
        line.push(b'\n');
        let mut input = self.input.lock().unwrap_or_else(PoisonError::into_inner);
        input.write_all(&line).with_context(|| format!("{what}: the process has ended"))?;
        Ok(Promise { what, answer })
    }

    /// Asks for something and waits for the answer.
    ///
    /// # Errors
    /// When the process has ended, or says that the request makes no sense.
    pub fn act(&self, op: Op) -> Result<Answer> {
        self.ask(op)?.wait()
    }

    /// Opens something.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open(&self, op: Op) -> Result<(u64, SocketAddr)> {
        let what = format!("{}: {op:?}", self.name);
        match self.act(op)? {
            Answer::Socket { socket, at } => Ok((socket, at)),
            other => bail!("{what}: {other:?}"),
        }
    }

    /// What has arrived since this was last asked.
    ///
    /// # Errors
    /// When the process has ended.
    pub fn arrivals(&self) -> Result<Vec<Arrival>> {
        match self.act(Op::Arrivals)? {
            Answer::Arrivals(arrivals) => Ok(arrivals),
            other => bail!("{}: {other:?} for arrivals", self.name),
        }
    }

    /// Serves echo at these ports, over TCP and UDP, v4 and v6, at any of the workload's addresses.
    ///
    /// # Errors
    /// When a port is taken.
    pub fn serve(&self, ports: &[u16]) -> Result<()> {
        let any: [IpAddr; 2] =
            [std::net::Ipv4Addr::UNSPECIFIED.into(), std::net::Ipv6Addr::UNSPECIFIED.into()];
        let at = ports.iter().flat_map(|port| any.map(|ip| SocketAddr::new(ip, *port))).collect();
        match self.act(Op::Serve { at, dual: false })? {
            Answer::Done => Ok(()),
            other => bail!("{} cannot serve: {other:?}", self.name),
        }
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        // An error here means that it has ended and been reaped already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
