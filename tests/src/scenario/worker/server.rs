//! Echo servers that record what arrives, and listening sockets handed from one process to another.

use std::{
    io::{IoSlice, IoSliceMut, Read, Write},
    mem::MaybeUninit,
    net::SocketAddr,
    os::{
        fd::AsFd,
        unix::net::{UnixListener, UnixStream},
    },
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use socket2::{Domain, Protocol, Socket, Type};

use crate::process::POLL;

use super::{Answer, Arrival, Worker, lock, timed_out};

impl Worker {
    pub(super) fn serve(&self, at: &[SocketAddr], dual: bool) -> Result<Answer> {
        for address in at {
            let domain = Domain::for_address(*address);
            let tcp = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
            tcp.set_reuse_address(true)?;
            let udp = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
            for socket in [&tcp, &udp] {
                if address.is_ipv6() {
                    socket.set_only_v6(!dual)?;
                }
                socket.bind(&(*address).into()).with_context(|| format!("binding {address}"))?;
            }
            tcp.listen(64)?;
            self.serve_stream(tcp)?;
            self.serve_udp(udp, address.port());
        }
        Ok(Answer::Done)
    }

    pub(super) fn serve_stream(&self, listener: Socket) -> Result<()> {
        let port = listener.local_addr()?.as_socket().context("a listener without an address")?.port();
        let listener = Arc::new(listener);
        lock(&self.listeners).insert(port, Arc::clone(&listener));
        let (arrivals, accepted) = (Arc::clone(&self.arrivals), Arc::clone(&self.accepted));
        thread::spawn(move || {
            while let Ok((connection, peer)) = listener.accept() {
                let Some(peer) = peer.as_socket() else { continue };
                lock(&arrivals).push(Arrival { tcp: true, port, peer, word: String::new() });
                let connection = Arc::new(connection);
                lock(&accepted).entry(port).or_default().push(Arc::clone(&connection));
                let (arrivals, accepted) = (Arc::clone(&arrivals), Arc::clone(&accepted));
                thread::spawn(move || {
                    let mut bytes = [0; 2048];
                    let is_kept = || {
                        let accepted = lock(&accepted);
                        accepted.get(&port).into_iter().flatten().any(|other| Arc::ptr_eq(other, &connection))
                    };
                    while is_kept() {
                        if !readable(&connection) {
                            continue;
                        }
                        let Ok(length @ 1..) = (&*connection).read(&mut bytes) else { break };
                        let word = String::from_utf8_lossy(&bytes[..length]).trim().to_owned();
                        lock(&arrivals).push(Arrival { tcp: true, port, peer, word });
                        if (&*connection).write_all(&bytes[..length]).is_err() {
                            break;
                        }
                    }
                    // Closed at once, so that the other side sees the end.
                    if let Some(open) = lock(&accepted).get_mut(&port) {
                        open.retain(|other| !Arc::ptr_eq(other, &connection));
                    }
                });
            }
        });
        Ok(())
    }

    /// From a socket that has no peer, as servers do.
    fn serve_udp(&self, socket: Socket, port: u16) {
        let arrivals = Arc::clone(&self.arrivals);
        let socket = std::net::UdpSocket::from(socket);
        thread::spawn(move || {
            let mut bytes = vec![0; 65536];
            loop {
                match socket.recv_from(&mut bytes) {
                    Ok((length, peer)) => {
                        let text = String::from_utf8_lossy(&bytes[..length]);
                        let word = text.split_whitespace().next().unwrap_or_default().to_owned();
                        lock(&arrivals).push(Arrival { tcp: false, port, peer, word });
                        // A reply that is refused is seen by whoever waits for it.
                        let _ = socket.send_to(&bytes[..length], peer);
                    }
                    // What a peer or the kernel says of an earlier reply.
                    Err(error) if error.raw_os_error().is_some() => {}
                    Err(_) => break,
                }
            }
        });
    }

    pub(super) fn tcp_tell(&self, port: u16, word: &str) -> Answer {
        let accepted = lock(&self.accepted).get(&port).cloned().unwrap_or_default();
        for connection in accepted {
            // Those that are over do not matter.
            let _ = (&*connection).write_all(format!("{word}\n").as_bytes());
        }
        Answer::Done
    }

    /// Takes the last one out of the hands of its echo server: Linux 5.10 connects no socket anew that somebody reads.
    pub(super) fn tcp_accepted(&self, port: u16) -> Result<Answer> {
        let last = lock(&self.accepted).get_mut(&port).and_then(Vec::pop);
        let last = last.with_context(|| format!("nobody was accepted at {port}"))?;
        let began = Instant::now();
        while Arc::strong_count(&last) > 1 {
            ensure!(began.elapsed() < LET_GO, "the echo server at {port} does not let go of its connection");
            thread::sleep(POLL);
        }
        self.keep(last.try_clone()?)
    }

    pub(super) fn give_listener(&self, port: u16, path: &str) -> Result<Answer> {
        let listener =
            lock(&self.listeners).get(&port).cloned().with_context(|| format!("nobody listens at {port}"))?;
        let other = UnixStream::connect(path)?;
        let descriptors = [listener.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut rights = SendAncillaryBuffer::new(&mut space);
        if !rights.push(SendAncillaryMessage::ScmRights(&descriptors)) {
            bail!("no room for a descriptor");
        }
        sendmsg(&other, &[IoSlice::new(b"x")], &mut rights, SendFlags::empty())
            .map_err(std::io::Error::from)?;
        Ok(Answer::Done)
    }

    pub(super) fn take_listener(&self, path: &str, wait: Duration) -> Result<Answer> {
        let door = UnixListener::bind(path)?;
        door.set_nonblocking(true)?;
        let began = Instant::now();
        let other = loop {
            match door.accept() {
                Ok((other, _)) => break other,
                Err(error) if timed_out(&error) && began.elapsed() < wait => thread::sleep(POLL),
                Err(error) => return Err(error.into()),
            }
        };
        other.set_nonblocking(false)?;
        let mut byte = [0];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut messages = RecvAncillaryBuffer::new(&mut space);
        recvmsg(&other, &mut [IoSliceMut::new(&mut byte)], &mut messages, RecvFlags::CMSG_CLOEXEC)
            .map_err(std::io::Error::from)?;
        let taken = messages.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
            _ => None,
        });
        let Some(taken) = taken else { bail!("no socket came") };
        self.serve_stream(Socket::from(taken))?;
        Ok(Answer::Done)
    }
}

/// How long an echo server may take to notice that its connection was taken away: a moment, many times over.
const LET_GO: Duration = Duration::from_secs(30);

/// Whether a read has an answer, be it an error or the end; waits a moment for it.
fn readable(connection: &Socket) -> bool {
    const MOMENT: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
    let mut events = [PollFd::new(connection, PollFlags::IN)];
    poll(&mut events, Some(&MOMENT)).is_ok_and(|ready| ready > 0)
}
