//! A guest as the node: it holds the agent and the program `demo`, connects back to this program, and works on what it
//! is asked, a line of JSON each way. The API server that its agent watches is this machine's.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::Path,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail};

use super::{Ask, Local, Site};
use crate::{
    builds,
    process::POLL,
    vm::{Kernel, Vm, VmOutcome},
};

/// How long a guest may live.
const LIFE: Duration = Duration::from_mins(15);
/// How long it may take to start, and to answer.
const PATIENCE: Duration = Duration::from_mins(5);
/// Where QEMU's user network shows a guest the host's loopback interface.
const HOST: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);

/// A running guest. Dropping it ends it.
pub struct Guest {
    // The first to go: the guest ends when its connection does.
    wire: Option<BufReader<TcpStream>>,
    run: Option<JoinHandle<Result<VmOutcome>>>,
}

impl Guest {
    /// Boots it, and waits until it has connected.
    ///
    /// # Errors
    /// When a program or a tool is missing, or it ends first.
    pub fn new(kernel: Kernel, lsm_bpf: bool) -> Result<Self> {
        let (agent, demo) = (builds::guest_program("holdfast-agent")?, builds::guest_program("demo")?);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let at = SocketAddr::from((HOST, listener.local_addr()?.port()));
        let mut vm = Vm::new(kernel).lsm_bpf(lsm_bpf).network();
        for program in ["setpriv", "nsenter", "unshare"] {
            vm = vm.program(program, "util-linux")?;
        }
        let vm = vm.file("/usr/bin/holdfast-agent", agent)?.file("/usr/bin/demo", demo)?;
        let command = format!(
            "ip link set eth0 up && ip addr add 10.0.2.15/24 dev eth0 && exec demo guest {at} /usr/bin/holdfast-agent"
        );
        let run = thread::spawn(move || vm.run(&command, LIFE));
        let mut me = Self { wire: None, run: Some(run) };
        let began = Instant::now();
        loop {
            match listener.accept() {
                Ok((wire, _)) => {
                    wire.set_nonblocking(false)?;
                    wire.set_read_timeout(Some(PATIENCE))?;
                    me.wire = Some(BufReader::new(wire));
                    return Ok(me);
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
            if me.run.as_ref().is_some_and(JoinHandle::is_finished) {
                return Err(me.ended());
            }
            if began.elapsed() > PATIENCE {
                bail!("the guest has not come up after {PATIENCE:?}");
            }
            thread::sleep(POLL);
        }
    }

    fn ended(&mut self) -> anyhow::Error {
        match self.run.take().map(JoinHandle::join) {
            Some(Ok(Ok(outcome))) => {
                anyhow!("the guest ended:\n-- console:\n{}\n-- output:\n{}", outcome.console, outcome.output)
            }
            Some(Ok(Err(error))) => error,
            _ => anyhow!("the guest ended"),
        }
    }
}

impl Site for Guest {
    fn ask(&mut self, ask: Ask) -> Result<String> {
        let ask = match ask {
            Ask::StartAgent { kubeconfig, .. } => for_guest(&kubeconfig)?,
            other => other,
        };
        let wire = self.wire.as_mut().context("the guest has gone")?;
        let mut line = serde_json::to_vec(&ask)?;
        line.push(b'\n');
        wire.get_mut().write_all(&line)?;
        let mut answer = String::new();
        if wire.read_line(&mut answer).context("the guest does not answer")? == 0 {
            self.wire = None;
            return Err(self.ended());
        }
        let answer: Result<String, String> = serde_json::from_str(&answer)?;
        answer.map_err(|said| anyhow!("in the guest: {said}"))
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.wire = None;
        if let Some(run) = self.run.take() {
            // What it came to was seen already, by what it answered.
            drop(run.join());
        }
    }
}

/// A kubeconfig and the files that it names, as they hold in a guest.
fn for_guest(kubeconfig: &Path) -> Result<Ask> {
    let text = fs::read_to_string(kubeconfig)?;
    let local = "server: 'https://127.0.0.1:";
    let there = format!("tls-server-name: localhost, server: 'https://{HOST}:");
    let mut files = Vec::new();
    for path in text.split('\'').filter(|word| word.starts_with('/')) {
        files.push((path.into(), fs::read_to_string(path).with_context(|| path.to_owned())?));
    }
    files.push((kubeconfig.to_owned(), text.replace(local, &there)));
    Ok(Ask::StartAgent { kubeconfig: kubeconfig.to_owned(), files })
}

/// What `demo guest` does, inside the guest: works on what it is asked until the connection ends.
///
/// # Errors
/// When the node cannot be made, or the connection breaks.
pub fn serve(host: SocketAddr, agent: &Path) -> Result<()> {
    let mut site = Local::new(Path::new("/proc/self/exe"), agent)?;
    let wire = TcpStream::connect(host).with_context(|| format!("connecting to {host}"))?;
    let mut out = wire.try_clone()?;
    for line in BufReader::new(wire).lines() {
        let answer = site.ask(serde_json::from_str(&line?)?).map_err(|error| format!("{error:#}"));
        let mut line = serde_json::to_vec(&answer)?;
        line.push(b'\n');
        out.write_all(&line)?;
    }
    Ok(())
}
