//! TCP from a workload.

use std::{
    io::{Read, Write},
    net::{IpAddr, Shutdown, SocketAddr},
    time::{Duration, Instant},
};

use anyhow::Result;
use socket2::{Domain, Protocol, Socket, Type};

use super::{Answer, Worker, timed_out};

/// How long the other side may take to end a connection too.
const PARTING: Duration = Duration::from_millis(500);

impl Worker {
    pub(super) fn tcp_open(
        &self,
        to: SocketAddr,
        from: Option<SocketAddr>,
        mapped: bool,
        wait: Duration,
    ) -> Result<Answer> {
        let to = if mapped { as_mapped(to) } else { to };
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
        if mapped {
            socket.set_only_v6(false)?;
        }
        if let Some(from) = from {
            socket.bind(&from.into())?;
        }
        match socket.connect_timeout(&to.into(), wait) {
            Ok(()) => self.keep(socket),
            Err(error) if error.raw_os_error().is_none() && timed_out(&error) => Ok(Answer::Silence),
            Err(error) => Err(error.into()),
        }
    }
}

/// The IPv4 address as an `AF_INET6` socket names it.
pub(super) fn as_mapped(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(v4) => SocketAddr::new(v4.to_ipv6_mapped().into(), address.port()),
        IpAddr::V6(_) => address,
    }
}

pub(super) fn say(socket: &Socket, word: &str, wait: Duration) -> Result<Answer> {
    let mut stream = socket;
    stream.write_all(format!("{word}\n").as_bytes())?;
    hear(socket, word, wait)
}

pub(super) fn hear(socket: &Socket, word: &str, wait: Duration) -> Result<Answer> {
    let mut stream = socket;
    let began = Instant::now();
    let mut heard = String::new();
    let mut bytes = [0; 2048];
    loop {
        let Some(left) = wait.checked_sub(began.elapsed()).filter(|left| !left.is_zero()) else {
            return Ok(Answer::Silence);
        };
        socket.set_read_timeout(Some(left))?;
        match stream.read(&mut bytes) {
            Ok(0) => return Ok(Answer::Closed),
            Ok(length) => heard.push_str(&String::from_utf8_lossy(&bytes[..length])),
            Err(error) if timed_out(&error) => return Ok(Answer::Silence),
            Err(error) => return Err(error.into()),
        }
        if heard.lines().any(|line| line == word) {
            return Ok(Answer::Echo);
        }
    }
}

/// The same socket, another connection.
pub(super) fn again(socket: &Socket, to: SocketAddr, wait: Duration) -> Result<Answer> {
    rustix::net::connect_unspec(socket).map_err(std::io::Error::from)?;
    match socket.connect_timeout(&to.into(), wait) {
        Ok(()) => Ok(Answer::Done),
        Err(error) if error.raw_os_error().is_none() && timed_out(&error) => Ok(Answer::Silence),
        Err(error) => Err(error.into()),
    }
}

/// Ends a connection so that nothing of it is left to be sent later, when another policy may be in force.
pub(super) fn close(socket: &Socket) -> Result<()> {
    let mut stream = socket;
    socket.set_read_timeout(Some(PARTING))?;
    let mut bytes = [0; 2048];
    let ended = socket.shutdown(Shutdown::Write).is_ok()
        && loop {
            match stream.read(&mut bytes) {
                Ok(0) => break true,
                Ok(_) => {}
                Err(_) => break false,
            }
        };
    if !ended {
        socket.set_linger(Some(Duration::ZERO))?;
    }
    Ok(())
}
