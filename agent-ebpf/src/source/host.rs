//! The node's own addresses. The agent knows more of them than the API does: a Node's status lists one or two.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;

/// How often they are read again.
pub(crate) const INTERVAL: Duration = Duration::from_secs(30);

/// Every address of this network namespace's interfaces but those of loopback. The agent runs in the host's.
pub(crate) fn addresses() -> io::Result<BTreeSet<IpAddr>> {
    let found = getifaddrs()?.filter(|entry| !entry.flags.contains(InterfaceFlags::IFF_LOOPBACK));
    let addresses = found.filter_map(|entry| {
        let address = entry.address?;
        let v4 = address.as_sockaddr_in().map(|address| IpAddr::from(address.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|address| IpAddr::from(address.ip())))
    });
    Ok(addresses.map(|address| address.to_canonical()).filter(|address| !address.is_loopback()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_not_among_the_nodes_addresses_and_what_a_socket_uses_is() {
        let addresses = addresses().unwrap();
        assert!(addresses.iter().all(|address| !address.is_loopback()));
        // Connecting a UDP socket sends nothing; it only picks the source address.
        let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
        if socket.connect("192.0.2.1:9").is_ok() {
            let used = socket.local_addr().unwrap().ip();
            assert!(addresses.contains(&used), "{used} in {addresses:?}");
        }
    }
}
