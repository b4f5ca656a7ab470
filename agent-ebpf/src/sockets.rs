//! Ends revoked connections aloud: what the packet programs refuse in silence, its owner sees as an error at once.
//!
//! Which connections are refused is asked of the kernel programs themselves (`bpf/sock.bpf.c`), so that the answer cannot
//! be another than that for the next packet; each is named by its cookie, so that no other socket can be meant (before
//! 5.12, where it may have none, by its addresses and ports). To destroy a socket somebody has to stand in its network
//! namespace: a thread of its own does, which goes nowhere else. All this is beside enforcement: where it cannot be done,
//! connections end in silence.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::{self, Read};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use aya::Btf;
use aya::programs::{Program, ProgramError};
use holdfast_policy::model::Capability;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tracing::{debug, info, warn};

use crate::abi::{self, sys::bpf};
use crate::loader::{self, LoadError, Places};
use crate::mechanisms::State;
use crate::metrics::Metrics;
use crate::workloads::Cgroup;

pub mod diag;

use diag::{Diag, Fate};

/// As status, `probe` and metrics name it.
pub const MECHANISM: &str = "sock_destroy";

/// A connection that was being made while the policy changed is looked for once more after this.
const AGAIN: Duration = Duration::from_millis(500);

/// Why refused connections cannot be listed.
#[derive(Debug, thiserror::Error)]
pub enum SocketsError {
    /// The program.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The iterator.
    #[error("listing refused connections: {0}")]
    Iterate(#[source] io::Error),
    /// The thread.
    #[error("the thread that destroys sockets: {0}")]
    Thread(#[source] io::Error),
}

/// Whether this agent can end connections aloud: it tries, with a connection of its own, and lists refused ones, which
/// kernels that take no BPF iterators cannot.
#[must_use]
pub fn probe(places: &Places, btf: &Btf) -> State {
    let status = fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    let missing = missing_capabilities(&status);
    if !missing.is_empty() {
        return State::Unavailable(format!(
            "no capability {}: connections that a policy revokes end in silence (NodeAgent: spec.destroySockets)",
            missing.join(", ")
        ));
    }
    match destroy_own() {
        Ok(()) => match try_iterator(places, btf) {
            Ok(()) => State::Available,
            Err(error) => {
                State::Unavailable(format!("revoked connections end in silence: {}", brief(&error)))
            }
        },
        Err(error) => State::Unavailable(match error.raw_os_error() {
            Some(libc::EOPNOTSUPP) => "the kernel is built without CONFIG_INET_DIAG_DESTROY".to_owned(),
            Some(libc::ENOENT) => "the kernel has no tcp_diag (CONFIG_INET_TCP_DIAG)".to_owned(),
            _ => error.to_string(),
        }),
    }
}

/// Of the capabilities that it takes to enter another's network namespace and destroy sockets there, those that are not
/// in effect by proc(5)'s `status`.
fn missing_capabilities(status: &str) -> Vec<&'static str> {
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0);
    ["NET_ADMIN", "SYS_PTRACE", "SYS_ADMIN"]
        .into_iter()
        .filter_map(Capability::named)
        .filter(|capability| effective >> capability.number() & 1 == 0)
        .map(Capability::name)
        .collect()
}

/// Loads the iterator. It is linked to maps: to the pinned ones, or, where no agent has run yet, to some of its own.
fn try_iterator(places: &Places, btf: &Btf) -> Result<(), LoadError> {
    if places.pins().exists() {
        return loader::iterator(places, btf).map(drop);
    }
    let trial =
        Places { bpffs: places.bpffs.join("holdfast-probe"), cgroup_root: places.cgroup_root.clone() };
    let pins = trial.pins();
    let made = fs::create_dir_all(&pins).map_err(|source| LoadError::Io { path: pins, source });
    let loaded = made.and_then(|()| loader::iterator(&trial, btf).map(drop));
    if let Err(error) = fs::remove_dir_all(&trial.bpffs) {
        warn!(path = %trial.bpffs.display(), %error, "what a probe pinned cannot be removed");
    }
    loaded
}

/// Without the verifier's log, which is of no use to people.
fn brief(error: &LoadError) -> String {
    match error {
        LoadError::Program { program, source: ProgramError::LoadError { io_error, .. } } => {
            format!("kernel program {program}: {io_error}")
        }
        other => other.to_string(),
    }
}

fn destroy_own() -> io::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let mut stream = TcpStream::connect(listener.local_addr()?)?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    let (local, remote) = (stream.local_addr()?, stream.peer_addr()?);
    let (std::net::SocketAddr::V4(local), std::net::SocketAddr::V4(remote)) = (local, remote) else {
        return Err(io::Error::other("an IPv4 socket has no IPv4 address"));
    };
    let word = |address: SocketAddrV4| abi::Addr { w: [u32::from_ne_bytes(address.ip().octets()), 0, 0, 0] };
    let socket = abi::Socket {
        local: word(local),
        remote: word(remote),
        local_port: local.port(),
        remote_port: remote.port(),
        family: 2,
        proto: 6,
        ..abi::Socket::default()
    };
    if Diag::open()?.destroy(&socket)? == Fate::Gone {
        return Err(io::Error::from_raw_os_error(libc::ENOENT));
    }
    match stream.read(&mut [0]) {
        Err(error) if error.raw_os_error() == Some(libc::ECONNABORTED) => Ok(()),
        other => Err(io::Error::other(format!("a connection that was destroyed goes on: {other:?}"))),
    }
}

/// Refused connections, as the kernel programs have it.
pub struct Refused {
    /// A link, which keeps its program and the map that it walks.
    iterator: OwnedFd,
}

impl Refused {
    /// Loads what lists them; the packet programs are loaded already.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn new(places: &Places, btf: &Btf) -> Result<Self, SocketsError> {
        let (object, flows) = loader::iterator(places, btf)?;
        let mut programs = object.programs();
        let Some((_, Program::Iter(program))) = programs.next() else {
            return Err(SocketsError::Iterate(io::Error::other("the object holds no iterator")));
        };
        let program = program.fd().map_err(|error| SocketsError::Iterate(io::Error::other(error)))?;
        let iterator = bpf::iterate(program.as_fd(), flows.fd().as_fd()).map_err(SocketsError::Iterate)?;
        Ok(Self { iterator })
    }

    /// Those of now.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn list(&self) -> Result<Vec<abi::Socket>, SocketsError> {
        let mut rows = Vec::new();
        bpf::begin(self.iterator.as_fd())
            .and_then(|mut file| file.read_to_end(&mut rows))
            .map_err(SocketsError::Iterate)?;
        Ok(abi::Socket::read_all(&rows))
    }
}

/// Whoever changes what is refused tells it here.
#[derive(Debug, Clone)]
pub struct Bell(mpsc::Sender<Vec<Cgroup>>);

impl Bell {
    /// Something changed; these are the cgroups of now.
    pub fn ring(&self, cgroups: Vec<Cgroup>) {
        // The thread ends with the last bell only.
        drop(self.0.send(cgroups));
    }
}

/// Starts the thread; it ends when the bell is gone.
///
/// # Errors
///
/// When the kernel refuses to list connections.
pub fn start(places: &Places, btf: &Btf, metrics: Metrics) -> Result<Bell, SocketsError> {
    let refused = Refused::new(places, btf)?;
    let root = places.cgroup_root.clone();
    let (sender, news) = mpsc::channel::<Vec<Cgroup>>();
    let work = move || {
        let mut again: Option<Vec<Cgroup>> = None;
        loop {
            let (mut cgroups, second) = match &again {
                None => match news.recv() {
                    Ok(cgroups) => (cgroups, false),
                    Err(mpsc::RecvError) => return,
                },
                Some(_) => match news.recv_timeout(AGAIN) {
                    Ok(cgroups) => (cgroups, false),
                    Err(RecvTimeoutError::Timeout) => (again.take().unwrap_or_default(), true),
                    Err(RecvTimeoutError::Disconnected) => return,
                },
            };
            while let Ok(newer) = news.try_recv() {
                cgroups = newer;
            }
            match refused.list() {
                Ok(sockets) => {
                    let count = destroy(&sockets, &cgroups, &root);
                    metrics.sockets_destroyed(count);
                }
                Err(error) => warn!(%error, "revoked connections end in silence"),
            }
            again = (!second).then_some(cgroups);
        }
    };
    std::thread::Builder::new().name("sockets".to_owned()).spawn(work).map_err(SocketsError::Thread)?;
    Ok(Bell(sender))
}

/// Destroys sockets, each in its namespace; returns how many. The calling thread is where it was when this returns, or
/// is of no more use: it is one that does nothing else.
pub fn destroy(sockets: &[abi::Socket], cgroups: &[Cgroup], root: &Path) -> u64 {
    let mut by_netns: BTreeMap<u32, Vec<&abi::Socket>> = BTreeMap::new();
    for socket in sockets {
        by_netns.entry(socket.netns).or_default().push(socket);
    }
    let paths: HashMap<u64, &str> = cgroups.iter().map(|cgroup| (cgroup.id, cgroup.path.as_str())).collect();
    let mut count = 0;
    for (netns, sockets) in by_netns {
        match destroy_in(netns, &sockets, &paths, root) {
            Ok(some) => {
                count += some;
                info!(netns, destroyed = some, refused = sockets.len(), "connections were revoked");
            }
            Err(error) => {
                let held = sockets.len();
                warn!(netns, %error, sockets = held, "revoked connections end in silence");
            }
        }
    }
    count
}

fn destroy_in(
    netns: u32,
    sockets: &[&abi::Socket],
    paths: &HashMap<u64, &str>,
    root: &Path,
) -> io::Result<u64> {
    const OWN: &str = "/proc/thread-self/ns/net";
    let own = File::open(OWN)?;
    let mut diag = if is_netns(&own, netns) {
        Diag::open()?
    } else {
        let cgroups = sockets.iter().filter_map(|socket| paths.get(&socket.cgroup));
        let there = cgroups.flat_map(|path| processes(root, path)).find_map(|process| {
            let file = File::open(format!("/proc/{process}/ns/net")).ok()?;
            is_netns(&file, netns).then_some(file)
        });
        let there = there.ok_or_else(|| {
            io::Error::other(
                "no process of the workload is in its network namespace, or it may not be looked at",
            )
        })?;
        move_into_link_name_space(there.as_fd(), Some(LinkNameSpaceType::Network))?;
        let diag = Diag::open();
        move_into_link_name_space(own.as_fd(), Some(LinkNameSpaceType::Network))?;
        diag?
    };
    let mut count = 0;
    for socket in sockets {
        match diag.destroy(socket)? {
            Fate::Destroyed => count += 1,
            Fate::Gone => debug!(port = socket.local_port, "a revoked connection was over already"),
        }
    }
    Ok(count)
}

fn is_netns(file: &File, netns: u32) -> bool {
    file.metadata().is_ok_and(|meta| meta.ino() == u64::from(netns))
}

/// The processes of a cgroup. What cannot be read has none.
fn processes(root: &Path, path: &str) -> Vec<u32> {
    let file = root.join(path.trim_start_matches('/')).join("cgroup.procs");
    let text = fs::read_to_string(file).unwrap_or_default();
    // 0 is one that this process's own namespace does not show.
    text.lines().filter_map(|line| line.parse().ok()).filter(|process| *process != 0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_that_are_missing_are_named() {
        assert_eq!(missing_capabilities("Name:\tx\nCapEff:\t000001ffffffffff\n"), [""; 0]);
        assert_eq!(missing_capabilities("CapEff:\t000000c000001000\n"), ["SYS_PTRACE", "SYS_ADMIN"]);
        assert_eq!(missing_capabilities("").len(), 3);
    }

    #[test]
    fn rows_are_read_whole_or_not_at_all() {
        let mut bytes = vec![0; size_of::<abi::Socket>() * 2 + 5];
        bytes[0] = 7;
        let rows = abi::Socket::read_all(&bytes);
        assert_eq!(rows.iter().map(|row| row.cookie.to_le() & 0xff).collect::<Vec<_>>(), [7, 0]);
    }
}
