//! The few requests of rtnetlink(7) that a node's network is made with, in the calling thread's network namespace. No
//! program such as `ip` is needed, so that the smallest guest can do it.

use std::{
    fs::File,
    net::IpAddr,
    os::fd::{AsRawFd, OwnedFd},
};

use anyhow::{Context, Result, bail};
use nix::{
    net::if_::if_nametoindex,
    sys::socket::{
        AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket,
    },
};

// Numbers of include/uapi/linux: rtnetlink.h, if_link.h, if_addr.h, veth.h, netlink.h.
const RTM_NEWLINK: u16 = 16;
const RTM_NEWADDR: u16 = 20;
const RTM_NEWROUTE: u16 = 24;
const NLMSG_ERROR: u16 = 2;
const REQUEST_ACK: u16 = 1 | 4;
const CREATE: u16 = 0x600;
const IFLA_IFNAME: u16 = 3;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_FLAGS: u16 = 8;
const IFA_F_NODAD: u32 = 2;
const RTA_OIF: u16 = 4;
const RTA_SRC: u16 = 7;
const IFF_UP: u32 = 1;
const RT_TABLE_MAIN: u8 = 254;
const RTPROT_STATIC: u8 = 4;
const RT_SCOPE_LINK: u8 = 253;
const RTN_UNICAST: u8 = 1;

/// A connection to the network configuration of the namespace that the thread is in.
pub struct Network {
    socket: OwnedFd,
    sequence: u32,
}

impl Network {
    /// Connects.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn open() -> Result<Self> {
        let socket =
            socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute)
                .context("a netlink socket")?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Makes a bridge and turns it on.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn bridge(&mut self, name: &str) -> Result<()> {
        let mut body = link_header(0, IFF_UP);
        attribute(&mut body, IFLA_IFNAME, &text(name));
        nested(&mut body, IFLA_LINKINFO, |info| attribute(info, IFLA_INFO_KIND, b"bridge"));
        self.request(RTM_NEWLINK, CREATE, &body).with_context(|| format!("bridge {name}"))
    }

    /// Makes a pair of interfaces: `name` here, up and a port of `bridge`; `peer` in the namespace `there`.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn veth(&mut self, name: &str, bridge: &str, peer: &str, there: &File) -> Result<()> {
        let mut body = link_header(0, IFF_UP);
        attribute(&mut body, IFLA_IFNAME, &text(name));
        attribute(&mut body, IFLA_MASTER, &index(bridge)?.to_ne_bytes());
        nested(&mut body, IFLA_LINKINFO, |info| {
            attribute(info, IFLA_INFO_KIND, b"veth");
            nested(info, IFLA_INFO_DATA, |data| {
                nested(data, VETH_INFO_PEER, |other| {
                    other.extend(link_header(0, 0));
                    attribute(other, IFLA_IFNAME, &text(peer));
                    attribute(other, IFLA_NET_NS_FD, &there.as_raw_fd().to_ne_bytes());
                });
            });
        });
        self.request(RTM_NEWLINK, CREATE, &body).with_context(|| format!("interfaces {name} and {peer}"))
    }

    /// Turns an interface on.
    ///
    /// # Errors
    /// When there is none, or the kernel refuses.
    pub fn up(&mut self, name: &str) -> Result<()> {
        let body = link_header(index(name)?, IFF_UP);
        self.request(RTM_NEWLINK, 0, &body).with_context(|| format!("interface {name}"))
    }

    /// Gives an interface an address, at once usable (no duplicate address detection).
    ///
    /// # Errors
    /// When there is no such interface, or the kernel refuses.
    pub fn address(&mut self, name: &str, address: IpAddr, prefix: u8) -> Result<()> {
        let mut body = vec![family(address), prefix, 0, 0];
        body.extend(index(name)?.to_ne_bytes());
        let bytes = octets(address);
        attribute(&mut body, IFA_LOCAL, &bytes);
        attribute(&mut body, IFA_ADDRESS, &bytes);
        if address.is_ipv6() {
            attribute(&mut body, IFA_FLAGS, &IFA_F_NODAD.to_ne_bytes());
        }
        self.request(RTM_NEWADDR, CREATE, &body).with_context(|| format!("address {address} of {name}"))
    }

    /// Everything that has no other route is looked for on the link of `name`, from the address `from`.
    ///
    /// # Errors
    /// When there is no such interface, or the kernel refuses.
    pub fn everything_on_link(&mut self, name: &str, from: IpAddr) -> Result<()> {
        let scope = if from.is_ipv4() { RT_SCOPE_LINK } else { 0 };
        let mut body =
            vec![family(from), 0, 0, 0, RT_TABLE_MAIN, RTPROT_STATIC, scope, RTN_UNICAST, 0, 0, 0, 0];
        attribute(&mut body, RTA_OIF, &index(name)?.to_ne_bytes());
        attribute(&mut body, RTA_SRC, &octets(from));
        self.request(RTM_NEWROUTE, CREATE, &body).with_context(|| format!("default route of {name}"))
    }

    fn request(&mut self, kind: u16, flags: u16, body: &[u8]) -> Result<()> {
        self.sequence += 1;
        let mut message = Vec::with_capacity(16 + body.len());
        message.extend(u32::try_from(16 + body.len())?.to_ne_bytes());
        message.extend(kind.to_ne_bytes());
        message.extend((REQUEST_ACK | flags).to_ne_bytes());
        message.extend(self.sequence.to_ne_bytes());
        message.extend([0; 4]);
        message.extend(body);
        let fd = self.socket.as_raw_fd();
        sendto(fd, &message, &NetlinkAddr::new(0, 0), MsgFlags::empty()).context("sending to netlink")?;
        let mut answer = [0; 4096];
        loop {
            let length = recv(fd, &mut answer, MsgFlags::empty()).context("receiving from netlink")?;
            let word = |at: usize| -> Result<u32> {
                let bytes = answer.get(at..at + 4).filter(|_| at + 4 <= length).context("a short answer")?;
                Ok(u32::from_ne_bytes(bytes.try_into()?))
            };
            if word(4)? & 0xffff != u32::from(NLMSG_ERROR) || word(8)? != self.sequence {
                continue;
            }
            return match word(16)?.cast_signed() {
                0 => Ok(()),
                error => bail!(std::io::Error::from_raw_os_error(-error)),
            };
        }
    }
}

/// `struct ifinfomsg`.
fn link_header(index: u32, flags: u32) -> Vec<u8> {
    let mut body = vec![0; 4];
    body.extend(index.to_ne_bytes());
    body.extend(flags.to_ne_bytes());
    body.extend(flags.to_ne_bytes());
    body
}

fn attribute(to: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    to.extend(length.to_ne_bytes());
    to.extend(kind.to_ne_bytes());
    to.extend(value);
    to.resize(to.len().next_multiple_of(4), 0);
}

fn nested(to: &mut Vec<u8>, kind: u16, fill: impl FnOnce(&mut Vec<u8>)) {
    let mut inner = Vec::new();
    fill(&mut inner);
    attribute(to, kind, &inner);
}

fn text(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.push(0);
    bytes
}

fn index(name: &str) -> Result<u32> {
    if_nametoindex(name).with_context(|| format!("there is no interface {name}"))
}

fn family(address: IpAddr) -> u8 {
    if address.is_ipv4() { 2 } else { 10 }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}
