//! What the canary does, in its own process: each attempt, and a line of what came of it. It needs no privilege, opens
//! no file but its own program, and sends nothing beyond loopback unless what should have refused it does not work; that
//! goes to addresses that RFC 5737 and RFC 3849 keep for documents, which are routed nowhere.

use std::fs;
use std::io::{self, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

/// The machine does not have what the attempt would take.
pub const UNTRIED: &str = "untried";
/// A packet came through.
pub const ARRIVED: &str = "arrived";
const NOT_ARRIVED: &str = "refused";

/// How long a packet on loopback may take to arrive.
const PATIENCE: Duration = Duration::from_millis(20);
/// The canary ends itself after so many seconds, whatever it waits for.
const LONGEST: u32 = 5;

/// Tries each, and prints what came of it.
///
/// # Errors
///
/// When nothing can be printed.
pub fn run(attempts: &[String]) -> io::Result<()> {
    crate::abi::sys::child::end_after(LONGEST);
    let mut out = io::stdout().lock();
    for attempt in attempts {
        let answer = match attempt.as_str() {
            "egress" | "ingress" => packet(),
            "connect4" => connect(Ipv4Addr::new(192, 0, 2, 1).into()),
            "connect6" => connect(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into()),
            "sendmsg4" => send(Ipv4Addr::new(192, 0, 2, 1).into()),
            "sendmsg6" => send(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into()),
            "nice" => rustix::process::setpriority_process(None, 19)
                .map_or_else(|error| error.raw_os_error().to_string(), |()| "0".to_owned()),
            "read" => fs::File::open("/proc/self/exe").map_or_else(|error| errno(&error), done),
            "capability" => buffer(),
            "entry" => {
                let _parent = rustix::process::getppid();
                "alive".to_owned()
            }
            other => format!("unknown attempt {other}"),
        };
        writeln!(out, "{attempt} {answer}")?;
    }
    out.flush()
}

fn done<T>(_: T) -> String {
    "0".to_owned()
}

/// A receive buffer past `net.core.rmem_max`, which takes `CAP_NET_ADMIN` (`SO_RCVBUFFORCE` of socket(7)).
fn buffer() -> String {
    let forced = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|socket| Ok(rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, 1 << 16)?));
    forced.map_or_else(|error| errno(&error), done)
}

fn errno(error: &io::Error) -> String {
    match error.raw_os_error() {
        // No such protocol, or no address of the kind to send from.
        Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL) | None => UNTRIED.to_owned(),
        Some(number) => number.to_string(),
    }
}

/// From one socket to another on loopback.
fn packet() -> String {
    let attempt = || -> io::Result<String> {
        let to = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        let from = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        to.set_read_timeout(Some(PATIENCE))?;
        match from.send_to(b"canary", to.local_addr()?) {
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => return Ok(NOT_ARRIVED.to_owned()),
            sent => drop(sent?),
        }
        Ok(if to.recv(&mut [0; 16]).is_ok() { ARRIVED } else { NOT_ARRIVED }.to_owned())
    };
    match attempt() {
        Ok(answer) => answer,
        // There is no loopback here.
        Err(error) if error.raw_os_error() == Some(libc::ENETUNREACH) => UNTRIED.to_owned(),
        Err(error) => errno(&error),
    }
}

fn socket(to: &SocketAddr) -> io::Result<UdpSocket> {
    match to {
        SocketAddr::V4(_) => UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)),
    }
}

/// connect(2) of a datagram socket, which sends nothing.
fn connect(to: std::net::IpAddr) -> String {
    let to = SocketAddr::new(to, 9);
    match socket(&to).and_then(|socket| socket.connect(to)) {
        Ok(()) => "0".to_owned(),
        Err(error) => errno(&error),
    }
}

fn send(to: std::net::IpAddr) -> String {
    let to = SocketAddr::new(to, 9);
    match socket(&to).and_then(|socket| socket.send_to(b"canary", to)) {
        Ok(_) => "0".to_owned(),
        Err(error) => errno(&error),
    }
}
