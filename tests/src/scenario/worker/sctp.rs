//! SCTP from a workload: associations of the kernel's own sockets, and raw packets heard.

use std::{
    io::Read,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
use socket2::{Domain, Protocol, Socket, Type};

use super::{Answer, Arrival, Worker, lock, timed_out};

const SCTP: i32 = 132;
/// The common header and the header of a chunk (RFC 9260 section 3).
const HEADERS: usize = 12 + 4;

fn socket(at: SocketAddr) -> std::io::Result<Socket> {
    Socket::new(Domain::for_address(at), Type::STREAM, Some(Protocol::from(SCTP)))
}

impl Worker {
    pub(super) fn sctp_serve(&self, at: &[SocketAddr]) -> Result<Answer> {
        for address in at {
            let listener = socket(*address)?;
            listener.bind(&(*address).into()).with_context(|| format!("binding {address}"))?;
            listener.listen(64)?;
            self.serve_stream(listener)?;
        }
        Ok(Answer::Done)
    }

    pub(super) fn sctp_open(&self, to: SocketAddr, wait: Duration) -> Result<Answer> {
        let socket = socket(to)?;
        match socket.connect_timeout(&to.into(), wait) {
            Ok(()) => self.keep(socket),
            Err(error) if error.raw_os_error().is_none() && timed_out(&error) => Ok(Answer::Silence),
            Err(error) => Err(error.into()),
        }
    }

    pub(super) fn raw_sctp_hear(&self, at: &[IpAddr]) -> Result<Answer> {
        for address in at {
            let at = SocketAddr::new(*address, 0);
            let socket = Socket::new(Domain::for_address(at), Type::RAW, Some(Protocol::from(SCTP)))?;
            socket.bind(&at.into()).with_context(|| format!("binding {address}"))?;
            let arrivals = Arc::clone(&self.arrivals);
            thread::spawn(move || {
                let mut bytes = [0; 2048];
                while let Ok(length) = (&socket).read(&mut bytes) {
                    // Raw IPv4 sockets show the IP header, raw IPv6 sockets do not.
                    let start = if at.is_ipv4() { usize::from(bytes[0] & 0xf) * 4 } else { 0 };
                    if let Some(arrival) = bytes.get(start..length).and_then(|packet| heard(packet, at.ip()))
                    {
                        lock(&arrivals).push(arrival);
                    }
                }
            });
        }
        Ok(Answer::Done)
    }
}

/// The packet as an arrival; of the sender the port alone is known.
fn heard(packet: &[u8], at: IpAddr) -> Option<Arrival> {
    let port = |bytes: &[u8]| Some(u16::from_be_bytes(bytes.try_into().ok()?));
    let word = String::from_utf8_lossy(packet.get(HEADERS..)?).trim().to_owned();
    let unknown = if at.is_ipv4() { IpAddr::from([0; 4]) } else { IpAddr::from([0; 16]) };
    let peer = SocketAddr::new(unknown, port(&packet[..2])?);
    Some(Arrival { tcp: false, port: port(&packet[2..4])?, peer, word })
}
