//! UDP from a workload.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::Result;
use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, Socket, Type};

use super::{Answer, Worker, timed_out};

impl Worker {
    pub(super) fn udp_open(
        &self,
        at: SocketAddr,
        connect: Option<SocketAddr>,
        recverr: bool,
    ) -> Result<Answer> {
        let socket = Socket::new(Domain::for_address(at), Type::DGRAM, Some(Protocol::UDP))?;
        if recverr && at.is_ipv4() {
            setsockopt(&socket, sockopt::Ipv4RecvErr, &true).map_err(std::io::Error::from)?;
        } else if recverr {
            setsockopt(&socket, sockopt::Ipv6RecvErr, &true).map_err(std::io::Error::from)?;
        }
        socket.bind(&at.into())?;
        if let Some(peer) = connect {
            socket.connect(&peer.into())?;
        }
        self.keep(socket)
    }
}

pub(super) fn say(
    socket: &Socket,
    to: Option<SocketAddr>,
    word: &str,
    padding: usize,
    wait: Duration,
) -> Result<Answer> {
    let text = format!("{word} {}", "x".repeat(padding));
    match to {
        Some(to) => socket.send_to(text.as_bytes(), &to.into())?,
        None => socket.send(text.as_bytes())?,
    };
    hear(socket, word, wait)
}

pub(super) fn hear(socket: &Socket, word: &str, wait: Duration) -> Result<Answer> {
    let began = Instant::now();
    let mut plain = vec![0; 65536];
    loop {
        let Some(left) = wait.checked_sub(began.elapsed()).filter(|left| !left.is_zero()) else {
            return Ok(Answer::Silence);
        };
        socket.set_read_timeout(Some(left))?;
        let length = match std::io::Read::read(&mut &*socket, &mut plain) {
            Ok(length) => length,
            Err(error) if timed_out(&error) => return Ok(Answer::Silence),
            Err(error) => return Err(error.into()),
        };
        let text = String::from_utf8_lossy(&plain[..length]);
        if text.split_whitespace().next() == Some(word) {
            return Ok(Answer::Echo);
        }
    }
}
