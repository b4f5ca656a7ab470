//! Destroying sockets: `SOCK_DESTROY` of `sock_diag(7)`, in the network namespace of the calling thread.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::net::netlink::{SOCK_DIAG, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, sockopt};

use crate::abi;

/// `include/uapi/linux/sock_diag.h`
const SOCK_DESTROY: u16 = 21;
/// include/uapi/linux/netlink.h: `NLM_F_REQUEST`, `NLM_F_ACK`
const FLAGS: u16 = 1 | 4;
const NLMSG_ERROR: u16 = 2;
const HEADER: usize = 16;
/// `struct inet_diag_req_v2`
const REQUEST: usize = 56;
/// `INET_DIAG_NOCOOKIE`, twice.
const NO_COOKIE: u64 = u64::MAX;
/// The kernel answers within the call; this is for what nobody foresees.
const PATIENCE: Duration = Duration::from_secs(2);

/// What became of a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Its owner sees an error.
    Destroyed,
    /// It was gone already.
    Gone,
}

/// A way to the kernel's list of sockets, in the namespace that it was opened in.
#[derive(Debug)]
pub struct Diag {
    socket: OwnedFd,
    sequence: u32,
}

impl Diag {
    /// Opens one in the network namespace of this thread.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn open() -> io::Result<Self> {
        let socket = rustix::net::socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            Some(SOCK_DIAG),
        )?;
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(PATIENCE))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Destroys one socket. With its cookie no other can be meant.
    ///
    /// # Errors
    ///
    /// The kernel's: `EOPNOTSUPP` where it is built without this, `EPERM` without `CAP_NET_ADMIN`.
    pub fn destroy(&mut self, socket: &abi::Socket) -> io::Result<Fate> {
        self.sequence = self.sequence.wrapping_add(1);
        let message = request(socket, self.sequence);
        let kernel = SocketAddrNetlink::new(0, 0);
        rustix::net::sendto(&self.socket, &message, SendFlags::empty(), &kernel)?;
        let mut buffer = [0; 1024];
        loop {
            let (_, length) = rustix::net::recv(&self.socket, &mut buffer, RecvFlags::empty())?;
            let Some(code) = answer(buffer.get(..length).unwrap_or_default(), self.sequence) else {
                continue;
            };
            return match code {
                0 => Ok(Fate::Destroyed),
                code if code == -libc::ENOENT => Ok(Fate::Gone),
                code => Err(io::Error::from_raw_os_error(code.saturating_neg())),
            };
        }
    }
}

/// The message that asks for it.
fn request(socket: &abi::Socket, sequence: u32) -> [u8; HEADER + REQUEST] {
    let mut message = [0; HEADER + REQUEST];
    let mut at = 0;
    let mut put = |bytes: &[u8]| {
        if let Some(room) = message.get_mut(at..at + bytes.len()) {
            room.copy_from_slice(bytes);
        }
        at += bytes.len();
    };
    // struct nlmsghdr: length, type, flags, sequence, port.
    put(&72_u32.to_ne_bytes());
    put(&SOCK_DESTROY.to_ne_bytes());
    put(&FLAGS.to_ne_bytes());
    put(&sequence.to_ne_bytes());
    put(&0_u32.to_ne_bytes());
    // struct inet_diag_req_v2: family, protocol, extensions, padding, states.
    put(&[socket.family, socket.proto, 0, 0]);
    put(&u32::MAX.to_ne_bytes());
    // struct inet_diag_sockid.
    put(&socket.local_port.to_be_bytes());
    put(&socket.remote_port.to_be_bytes());
    for address in [socket.local, socket.remote] {
        for word in address.w {
            put(&word.to_ne_bytes());
        }
    }
    put(&socket.device.to_ne_bytes());
    let cookie = if socket.cookie == 0 { NO_COOKIE } else { socket.cookie };
    for half in [cookie & 0xffff_ffff, cookie >> 32] {
        put(&u32::try_from(half).unwrap_or_default().to_ne_bytes());
    }
    message
}

/// The code of the acknowledgement of a request, 0 or a negative errno; `None` for anything else.
fn answer(bytes: &[u8], sequence: u32) -> Option<i32> {
    let word = |at: usize| bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes);
    let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
    let code = word(HEADER)?.cast_signed();
    (kind == NLMSG_ERROR && word(8)? == sequence && code <= 0).then_some(code)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_answer_however_garbled_is_taken_for_one(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Some(code) = answer(&bytes, 7) {
                prop_assert!(code <= 0 && bytes.len() >= HEADER + 4 && bytes[8..12] == 7_u32.to_ne_bytes());
            }
        }
    }

    #[test]
    fn a_request_names_addresses_ports_and_cookie() {
        let socket = abi::Socket {
            cookie: 0x1122_3344_5566_7788,
            local: abi::Addr { w: [u32::from_ne_bytes([10, 0, 0, 1]), 0, 0, 0] },
            remote: abi::Addr { w: [u32::from_ne_bytes([10, 0, 0, 2]), 0, 0, 0] },
            local_port: 0x1234,
            remote_port: 443,
            family: 2,
            proto: 6,
            ..abi::Socket::default()
        };
        let message = request(&socket, 9);
        assert_eq!(message[..4], 72_u32.to_ne_bytes());
        assert_eq!(message[16..20], [2, 6, 0, 0]);
        assert_eq!(message[24..28], [0x12, 0x34, 0x01, 0xbb]);
        assert_eq!((&message[28..32], &message[44..48]), (&[10, 0, 0, 1][..], &[10, 0, 0, 2][..]));
        assert_eq!(message[64..68], 0x5566_7788_u32.to_ne_bytes());
        assert_eq!(message[68..72], 0x1122_3344_u32.to_ne_bytes());
        // Without a cookie the addresses alone tell which.
        assert_eq!(request(&abi::Socket::default(), 9)[64..72], [0xff; 8]);
    }
}
