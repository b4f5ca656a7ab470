//! What the runner and the process inside a workload say to each other: a line of JSON each way, over the process's
//! standard input and output. Requests carry a number, and are worked on side by side.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// Something to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Op {
    /// Serve echo, over TCP and UDP, at these addresses from now on. What arrives is recorded.
    Serve {
        /// Where.
        at: Vec<SocketAddr>,
        /// An IPv6 socket takes IPv4 too, which it then sees as IPv4-mapped addresses.
        dual: bool,
    },
    /// What has arrived since this was last asked.
    Arrivals,
    /// Open a TCP connection.
    TcpOpen {
        /// To where.
        to: SocketAddr,
        /// From where.
        from: Option<SocketAddr>,
        /// From a socket of the other family: the IPv4 address as IPv4-mapped.
        mapped: bool,
        /// How long to wait for an answer.
        wait_ms: u64,
    },
    /// Send a word over a connection and wait for its echo.
    TcpSay {
        /// The connection.
        socket: u64,
        /// The word.
        word: String,
        /// How long to wait for an answer.
        wait_ms: u64,
    },
    /// Say a word to whoever was accepted at this port, unasked, over all its connections.
    TcpTell {
        /// The port.
        port: u16,
        /// The word.
        word: String,
    },
    /// Take the connection that was accepted last at this port.
    TcpAccepted {
        /// The port.
        port: u16,
    },
    /// Dissolve a connection, and open another with the same socket.
    TcpAgain {
        /// The connection.
        socket: u64,
        /// To where.
        to: SocketAddr,
        /// How long to wait for an answer.
        wait_ms: u64,
    },
    /// Wait until a connection has brought a word.
    TcpHear {
        /// The connection.
        socket: u64,
        /// The word.
        word: String,
        /// How long to wait.
        wait_ms: u64,
    },
    /// A UDP socket.
    UdpOpen {
        /// Its own address.
        at: SocketAddr,
        /// Its only peer.
        connect: Option<SocketAddr>,
        /// Asks the kernel for errors of what it sends (`IP_RECVERR`).
        recverr: bool,
    },
    /// Send a word by a UDP socket and wait for its echo.
    UdpSay {
        /// The socket.
        socket: u64,
        /// To whom; nobody where the socket has a peer.
        to: Option<SocketAddr>,
        /// The word.
        word: String,
        /// Send it with so many bytes behind it.
        padding: usize,
        /// How long to wait for an answer.
        wait_ms: u64,
    },
    /// Wait for a word on a UDP socket.
    UdpHear {
        /// The socket.
        socket: u64,
        /// The word.
        word: String,
        /// How long to wait.
        wait_ms: u64,
    },
    /// Send so many datagrams by a UDP socket as fast as it takes them, and wait for no answer.
    UdpFlood {
        /// The socket.
        socket: u64,
        /// To whom, in turn.
        to: Vec<SocketAddr>,
        /// How many in all.
        count: u64,
    },
    /// Close a connection or socket.
    Close {
        /// Which.
        socket: u64,
    },
    /// Send an ICMP echo request and wait for the reply.
    Ping {
        /// To whom.
        to: std::net::IpAddr,
        /// How long to wait.
        wait_ms: u64,
    },
    /// Send a UDP datagram in raw IP packets.
    RawUdp {
        /// From where; the packets are not touched by the kernel's own sockets.
        from: SocketAddr,
        /// To where.
        to: SocketAddr,
        /// What is in it.
        word: String,
        /// How it is packed.
        form: RawForm,
    },
    /// Serve echo over SCTP, one socket for each association, at these addresses from now on. What arrives is recorded
    /// as for TCP.
    SctpServe {
        /// Where.
        at: Vec<SocketAddr>,
    },
    /// Open an SCTP association, with a socket of its own. What TCP says and hears, it says and hears.
    SctpOpen {
        /// To where.
        to: SocketAddr,
        /// How long to wait for an answer.
        wait_ms: u64,
    },
    /// Record the SCTP packets that reach these addresses from now on, whatever ports they have. No SCTP socket is needed.
    RawSctpHear {
        /// Where.
        at: Vec<std::net::IpAddr>,
    },
    /// Send an SCTP packet of one chunk in raw IP packets. Its checksum is none: no SCTP socket takes it for its own.
    RawSctp {
        /// From where.
        from: SocketAddr,
        /// To where.
        to: SocketAddr,
        /// What is in the chunk.
        word: String,
        /// The type of the chunk.
        chunk: u8,
        /// How it is packed.
        form: RawForm,
    },
    /// Open a packet socket (`AF_PACKET`).
    PacketSocket,
    /// Hand the socket that listens at this port to whoever takes it at the unix socket.
    GiveListener {
        /// The port, TCP.
        port: u16,
        /// Where the other side listens.
        path: String,
    },
    /// Take a listening socket and serve echo at it.
    TakeListener {
        /// Where to wait for it.
        path: String,
        /// How long.
        wait_ms: u64,
    },
    /// Run a program whose path and arguments are any bytes, and wait for its end.
    RunBytes {
        /// The program and its arguments.
        command: Vec<Vec<u8>>,
        /// How long to wait.
        wait_ms: u64,
    },
    /// Run a program with its arguments and wait for its end.
    Run {
        /// The program and its arguments.
        command: Vec<String>,
        /// How long to wait.
        wait_ms: u64,
    },
}

/// How a datagram is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RawForm {
    /// One IPv4 or IPv6 packet.
    Plain,
    /// IPv4 with options.
    Options,
    /// IPv6: hop-by-hop options, destination options, then the datagram.
    Extensions,
    /// Two fragments, in order.
    Fragments,
    /// The second fragment alone.
    LastFragment,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// It worked.
    Done,
    /// A connection or socket was opened.
    Socket {
        /// Its number for later requests.
        socket: u64,
        /// Its own address.
        at: SocketAddr,
    },
    /// The echo, or the word waited for, came.
    Echo,
    /// Nothing came in the time.
    Silence,
    /// The other side ended the connection.
    Closed,
    /// The kernel refused, with this errno.
    Errno(i32),
    /// What arrived.
    Arrivals(Vec<Arrival>),
    /// A program ended.
    Ended {
        /// Its exit code.
        code: Option<i32>,
        /// The signal that ended it.
        signal: Option<i32>,
        /// What it wrote.
        output: String,
    },
    /// The request itself was at fault.
    Fault(String),
}

/// Something that reached a server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Arrival {
    /// Over a connection, else in a datagram or raw packet.
    pub tcp: bool,
    /// The server's port.
    pub port: u16,
    /// From whom.
    pub peer: SocketAddr,
    /// What; empty for a TCP connection.
    pub word: String,
}

/// A numbered request.
#[derive(Debug, Serialize, Deserialize)]
pub struct Request {
    /// The number.
    pub id: u64,
    /// What to do.
    pub op: Op,
}

/// The answer of that number.
#[derive(Debug, Serialize, Deserialize)]
pub struct Response {
    /// The number.
    pub id: u64,
    /// What came of it.
    pub answer: Answer,
}
