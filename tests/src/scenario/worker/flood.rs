//! Many datagrams as fast as they can be sent.

use std::net::SocketAddr;

use anyhow::Result;
use socket2::Socket;

use super::Answer;

/// Sends to each of `to` in turn, `count` datagrams in all.
pub(super) fn datagrams(socket: &Socket, to: &[SocketAddr], count: u64) -> Result<Answer> {
    let to: Vec<socket2::SockAddr> = to.iter().map(|address| (*address).into()).collect();
    for (address, _) in to.iter().cycle().zip(0..count) {
        loop {
            match socket.send_to(b"flood", address) {
                Ok(_) => break,
                // The buffer is full of those before.
                Err(error) if error.raw_os_error() == Some(nix::libc::ENOBUFS) => std::thread::yield_now(),
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(Answer::Done)
}
