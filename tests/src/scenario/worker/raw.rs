//! Packets that a workload makes itself, and ICMP.

use std::{
    io::Read,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use socket2::{Domain, Protocol, Socket, Type};

use super::{super::protocol::RawForm, Answer, timed_out};

const UDP: u8 = 17;
const SCTP: u8 = 132;
const HOP_BY_HOP: u8 = 0;
const FRAGMENT: u8 = 44;
const DESTINATION_OPTIONS: u8 = 60;

/// An ICMP echo request and its reply, over a raw socket.
pub(super) fn ping(to: IpAddr, wait: Duration) -> Result<Answer> {
    let (domain, protocol, request, reply) = match to {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4, 8, 0),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6, 128, 129),
    };
    let socket = Socket::new(domain, Type::RAW, Some(protocol))?;
    let id = std::process::id().to_be_bytes();
    let mut message = vec![request, 0, 0, 0, id[2], id[3], 0, 1];
    message.extend(b"holdfast");
    if to.is_ipv4() {
        // The kernel fills it in for ICMPv6.
        let sum = checksum(&[&message]);
        message[2..4].copy_from_slice(&sum.to_be_bytes());
    }
    socket.send_to(&message, &SocketAddr::new(to, 0).into())?;
    let began = Instant::now();
    let mut bytes = [0; 512];
    loop {
        let Some(left) = wait.checked_sub(began.elapsed()).filter(|left| !left.is_zero()) else {
            return Ok(Answer::Silence);
        };
        socket.set_read_timeout(Some(left))?;
        let length = match (&socket).read(&mut bytes) {
            Ok(length) => length,
            Err(error) if timed_out(&error) => return Ok(Answer::Silence),
            Err(error) => return Err(error.into()),
        };
        // Raw IPv4 sockets show the IP header, raw IPv6 sockets do not.
        let start = if to.is_ipv4() { usize::from(bytes[0] & 0xf) * 4 } else { 0 };
        if bytes[start..length].first() == Some(&reply) && bytes[start..length].get(4..6) == Some(&id[2..]) {
            return Ok(Answer::Echo);
        }
    }
}

/// A packet socket, which sees and sends what no cgroup hook sees.
pub(super) fn packet_socket() -> Result<Answer> {
    socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None)
        .map_err(std::io::Error::from)?;
    Ok(Answer::Done)
}

pub(super) fn udp(from: SocketAddr, to: SocketAddr, word: &str, form: RawForm) -> Result<Answer> {
    send(from, to, UDP, &datagram(from, to, word), form)
}

/// One chunk behind the common header (RFC 9260 section 3).
pub(super) fn sctp(from: SocketAddr, to: SocketAddr, word: &str, chunk: u8, form: RawForm) -> Result<Answer> {
    let text = format!("{word:<64}");
    let mut bytes = [from.port().to_be_bytes(), to.port().to_be_bytes()].concat();
    // The tag, which tells these packets apart, and no checksum.
    bytes.extend([0, 0]);
    bytes.extend(checksum(&[text.as_bytes()]).to_be_bytes());
    bytes.extend([0; 4]);
    bytes.extend([chunk, 0]);
    bytes.extend(u16::try_from(4 + text.len())?.to_be_bytes());
    bytes.extend(text.as_bytes());
    send(from, to, SCTP, &bytes, form)
}

fn send(from: SocketAddr, to: SocketAddr, protocol: u8, datagram: &[u8], form: RawForm) -> Result<Answer> {
    let packets = match (from.ip(), to.ip()) {
        (IpAddr::V4(source), IpAddr::V4(target)) => v4(source, target, protocol, datagram, form)?,
        (IpAddr::V6(source), IpAddr::V6(target)) => v6(source, target, protocol, datagram, form)?,
        _ => bail!("{from} and {to} are of two families"),
    };
    let socket = Socket::new(Domain::for_address(to), Type::RAW, Some(Protocol::from(255)))?;
    for packet in packets {
        socket.send_to(&packet, &SocketAddr::new(to.ip(), 0).into())?;
    }
    Ok(Answer::Done)
}

fn datagram(from: SocketAddr, to: SocketAddr, word: &str) -> Vec<u8> {
    // Long enough for two fragments.
    let text = format!("{word:<64}");
    let length = u16::try_from(8 + text.len()).unwrap_or(u16::MAX);
    let mut bytes = Vec::new();
    for field in [from.port(), to.port(), length, 0] {
        bytes.extend(field.to_be_bytes());
    }
    bytes.extend(text.as_bytes());
    let mut pseudo = match (from.ip(), to.ip()) {
        (IpAddr::V4(source), IpAddr::V4(target)) => [source.octets(), target.octets()].concat(),
        (IpAddr::V6(source), IpAddr::V6(target)) => [source.octets(), target.octets()].concat(),
        _ => Vec::new(),
    };
    pseudo.extend(u16::from(UDP).to_be_bytes());
    pseudo.extend(length.to_be_bytes());
    let sum = match checksum(&[&pseudo, &bytes]) {
        0 => 0xffff,
        sum => sum,
    };
    bytes[6..8].copy_from_slice(&sum.to_be_bytes());
    bytes
}

/// The datagram's bytes by fragment: (offset in units of eight bytes, more follow, bytes).
fn pieces(datagram: &[u8], form: RawForm) -> Vec<(u16, bool, &[u8])> {
    let (first, last) = datagram.split_at(32);
    match form {
        RawForm::Fragments => vec![(0, true, first), (4, false, last)],
        RawForm::LastFragment => vec![(4, false, last)],
        _ => vec![(0, false, datagram)],
    }
}

fn v4(
    source: Ipv4Addr,
    target: Ipv4Addr,
    protocol: u8,
    datagram: &[u8],
    form: RawForm,
) -> Result<Vec<Vec<u8>>> {
    // The datagrams that are put together again are told apart by this.
    let id = u16::from_be_bytes([datagram[6], datagram[7]]);
    // No operation three times, then the end of the options.
    let options: &[u8] = if form == RawForm::Options { &[1, 1, 1, 0] } else { &[] };
    let mut packets = Vec::new();
    for (offset, more, bytes) in pieces(datagram, form) {
        let header_length = 20 + options.len();
        let mut packet = vec![0x40 | u8::try_from(header_length / 4)?, 0];
        packet.extend(u16::try_from(header_length + bytes.len())?.to_be_bytes());
        packet.extend(id.to_be_bytes());
        packet.extend((u16::from(more) << 13 | offset).to_be_bytes());
        packet.extend([64, protocol, 0, 0]);
        packet.extend(source.octets());
        packet.extend(target.octets());
        packet.extend(options);
        let sum = checksum(&[&packet]);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        packet.extend(bytes);
        packets.push(packet);
    }
    Ok(packets)
}

fn v6(
    source: Ipv6Addr,
    target: Ipv6Addr,
    protocol: u8,
    datagram: &[u8],
    form: RawForm,
) -> Result<Vec<Vec<u8>>> {
    let mut packets = Vec::new();
    for (offset, more, bytes) in pieces(datagram, form) {
        let (first, extensions) = match form {
            // Each is eight bytes long, and holds one option that pads.
            RawForm::Extensions => {
                let padding = [1, 4, 0, 0, 0, 0];
                let hop = [&[DESTINATION_OPTIONS, 0], &padding[..]].concat();
                let destination = [&[protocol, 0], &padding[..]].concat();
                (HOP_BY_HOP, [hop, destination].concat())
            }
            RawForm::Fragments | RawForm::LastFragment => {
                let mut extension = vec![protocol, 0];
                extension.extend((offset << 3 | u16::from(more)).to_be_bytes());
                extension.extend([0, 0, datagram[6], datagram[7]]);
                (FRAGMENT, extension)
            }
            _ => (protocol, Vec::new()),
        };
        let mut packet = vec![0x60, 0, 0, 0];
        packet.extend(u16::try_from(extensions.len() + bytes.len())?.to_be_bytes());
        packet.extend([first, 64]);
        packet.extend(source.octets());
        packet.extend(target.octets());
        packet.extend(extensions);
        packet.extend(bytes);
        packets.push(packet);
    }
    Ok(packets)
}

/// The Internet checksum (RFC 1071). Every part but the last must have an even length.
fn checksum(parts: &[&[u8]]) -> u16 {
    let mut sum = 0_u32;
    for pair in parts.iter().flat_map(|part| part.chunks(2)) {
        let low = pair.get(1).copied().unwrap_or_default();
        sum += u32::from(u16::from_be_bytes([pair[0], low]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(0)
}
