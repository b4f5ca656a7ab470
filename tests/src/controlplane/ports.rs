//! Free ports on loopback for servers that have to be told theirs.

use std::{
    net::{Ipv4Addr, TcpListener},
    process,
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Result, bail};

/// Below the range from which the kernel gives ports to clients: a server that is stopped for a while must find its port
/// free, and a client that asks for it meanwhile must be refused, not connected to itself.
const FIRST: u32 = 10_000;
const COUNT: u32 = 20_000;

/// A TCP port of 127.0.0.1 on which nobody listens. Never the same twice in the life of this program; another program
/// starts its search elsewhere.
pub(super) fn free_port() -> Result<u16> {
    for _ in 0..COUNT {
        let offset = process::id().wrapping_mul(97).wrapping_add(unique()) % COUNT;
        let port = u16::try_from(FIRST + offset)?;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no port of 127.0.0.1 from {FIRST} on is free")
}

/// A number that this program has not had yet.
pub(super) fn unique() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_in_use_is_not_given_and_no_port_is_given_twice() {
        let next = free_port().unwrap();
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, next + 1));
        let other = free_port().unwrap();
        assert_ne!(other, next);
        if taken.is_ok() {
            assert_ne!(other, next + 1);
        }
    }
}
