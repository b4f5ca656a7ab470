//! What was decided for flows, and the sockets of those that are refused by now.

use super::Addr;

mirrors! {
    /// What was decided for a flow.
    Decision = "hf_decision" {
        /// Of the workload, then.
        gen_: u32,
        /// Of the node, then.
        epoch: u32,
        /// Rule that refuses.
        rule: u16,
        /// Rule that would refuse.
        would_rule: u16,
        /// `HF_D_*`.
        flags: u8,
        /// Zero.
        pad: [u8; 3],
    }
    /// A flow without a connection.
    FlowKey = "hf_flow_key" {
        /// Pod number.
        pod: u32,
        /// Peer.
        peer: Addr,
        /// Port of the peer.
        peer_port: u16,
        /// Port of the workload.
        local_port: u16,
        /// As in the header.
        proto: u8,
        /// Zero.
        pad: [u8; 3],
    }
    /// What is known of it.
    Flow = "hf_flow" {
        /// The verdict.
        decision: Decision,
        /// Last packet, in nanoseconds of `CLOCK_MONOTONIC`.
        seen_ns: u64,
        /// Who opened it: 0 the peer, 1 the workload.
        direction: u8,
        /// `HF_F_*`.
        flags: u8,
        /// Zero.
        pad: [u8; 6],
    }
    /// A flow that this node opened to a pod of its own.
    NodeFlowKey = "hf_node_flow_key" {
        /// Source.
        from: Addr,
        /// Destination.
        to: Addr,
        /// Source port.
        from_port: u16,
        /// Destination port.
        to_port: u16,
        /// As in the header.
        proto: u8,
        /// Zero.
        pad: [u8; 3],
    }
    /// A socket whose connection is refused by now.
    Socket = "hf_socket" {
        /// Tells it from every other socket; 0 = it has none yet.
        cookie: u64,
        /// Id of its creator's cgroup.
        cgroup: u64,
        /// Its own address as the socket has it: IPv4 of an IPv4 socket in the first word.
        local: Addr,
        /// Its peer's.
        remote: Addr,
        /// Inode number of its network namespace.
        netns: u32,
        /// Index of the device that it is bound to, or 0.
        device: u32,
        /// Its own port.
        local_port: u16,
        /// Its peer's.
        remote_port: u16,
        /// `AF_INET` or `AF_INET6`.
        family: u8,
        /// Protocol number.
        proto: u8,
        /// Nothing.
        pad: [u8; 2],
    }
}

impl Socket {
    /// Reads rows that stand one after the other; what is left at the end is none.
    #[must_use]
    pub fn read_all(bytes: &[u8]) -> Vec<Self> {
        let rows = bytes.as_chunks::<{ size_of::<Self>() }>().0;
        // SAFETY: integers only, of just that many bytes, which need no alignment to be read so.
        rows.iter().map(|row| unsafe { std::ptr::read_unaligned(row.as_ptr().cast::<Self>()) }).collect()
    }
}
