//! Sockets of datagrams: bound at once, read later, emptied at the end. There is no TLS, and nobody to answer.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read};
use std::net::{SocketAddr, UdpSocket as StdSocket};
use std::os::fd::AsRawFd;

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::UdpSocket;
use tracing::info;

use crate::listen::{BindError, first_of};

/// Bytes of one datagram: what Jaeger's agent takes, and its clients send no more. UDP itself could carry 507 more.
pub const DATAGRAM_BYTES_MAX: usize = 65_000;

/// Bytes that the kernel is asked to keep for us while we do not read: some 60 of the largest datagrams, which senders of spans
/// send in bursts. The kernel gives at most `net.core.rmem_max`, and says nothing of it.
pub const RECEIVE_BUFFER_BYTES: usize = 4 * 1024 * 1024;

/// An address that is ours; nobody is read yet.
#[derive(Debug)]
pub struct Bound {
    socket: StdSocket,
    local_addr: SocketAddr,
}

impl Bound {
    /// Reserves `endpoint` (`host:port`, port 0 for any), so that a clash is an error at start. What comes from now on waits in
    /// the kernel.
    ///
    /// # Errors
    /// [`BindError`], with the endpoint.
    pub fn bind(endpoint: &str) -> Result<Self, BindError> {
        let (socket, local_addr, buffer) = first_of(endpoint, |addr| {
            let (socket, buffer) = open(addr)?;
            let local_addr = socket.local_addr()?;
            Ok((socket, local_addr, buffer))
        })?;
        let asked = RECEIVE_BUFFER_BYTES;
        info!(listen.addr = %local_addr, bytes = buffer, asked, "buffer for datagrams in the kernel (net.core.rmem_max)");
        Ok(Self { socket, local_addr })
    }

    /// The address, with the port that the system chose where the endpoint left it open.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Begins to read.
    ///
    /// # Errors
    /// Where the socket cannot be handed to the runtime.
    pub fn open(self) -> io::Result<Datagrams> {
        let socket = UdpSocket::from_std(self.socket)?;
        // One byte more, so that what is longer shows.
        Ok(Datagrams { socket, buffer: vec![0; DATAGRAM_BYTES_MAX + 1].into_boxed_slice() })
    }
}

/// A socket, and the bytes that its buffer for receiving has. The address is not shared: two who read one port would each get a
/// part of what is sent to it.
fn open(addr: SocketAddr) -> io::Result<(StdSocket, usize)> {
    let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    socket.set_recv_buffer_size(RECEIVE_BUFFER_BYTES)?;
    socket.bind(&addr.into())?;
    let buffer = usable(socket.recv_buffer_size()?);
    Ok((socket.into(), buffer))
}

/// Linux doubles what it is asked for, for its own bookkeeping, and says the double (socket(7)).
fn usable(said: usize) -> usize {
    if cfg!(target_os = "linux") { said / 2 } else { said }
}

/// A socket that is read.
#[derive(Debug)]
pub struct Datagrams {
    socket: UdpSocket,
    buffer: Box<[u8]>,
}

/// A datagram, as long as nobody reads the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Datagram<'a> {
    /// It came whole.
    Whole(&'a [u8]),
    /// It is longer than [`DATAGRAM_BYTES_MAX`]; the rest of it is gone.
    TooLarge,
}

impl Datagrams {
    /// Waits for the next one.
    ///
    /// # Errors
    /// What the system says; the next call may succeed.
    ///
    /// # Cancel safety
    /// Safe to drop and to call again.
    pub async fn next(&mut self) -> io::Result<Datagram<'_>> {
        let length = self.socket.recv(&mut self.buffer).await?;
        Ok(self.of(length))
    }

    /// One that has come already. Asks the system itself: the runtime knows of what came only once it has looked.
    pub fn waiting(&mut self) -> Option<Datagram<'_>> {
        let length = (&*SockRef::from(&self.socket)).read(&mut self.buffer).ok()?;
        Some(self.of(length))
    }

    /// Datagrams for this socket that the kernel has dropped, since its buffer was full; none where the system does not say.
    ///
    /// Reads a table of all sockets, so it is for once in a while.
    pub fn missed(&self) -> Option<u64> {
        let link = fs::read_link(format!("/proc/self/fd/{}", self.socket.as_raw_fd())).ok()?;
        let inode = link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?;
        SOCKETS.iter().find_map(|table| dropped(BufReader::new(File::open(table).ok()?), inode))
    }

    fn of(&self, length: usize) -> Datagram<'_> {
        match self.buffer.get(..length) {
            Some(whole) if length <= DATAGRAM_BYTES_MAX => Datagram::Whole(whole),
            Some(_) | None => Datagram::TooLarge,
        }
    }
}

/// Tables of this system's UDP sockets (proc(5)).
const SOCKETS: [&str; 2] = ["/proc/self/net/udp", "/proc/self/net/udp6"];

/// The column of a socket's number.
const INODE_COLUMN: usize = 9;

/// What the last column of a socket's line says.
///
/// ```text
///   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops
///  141: 0100007F:1AAF 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 60241 2 0000000000000000 0
/// ```
fn dropped(table: impl BufRead, inode: &str) -> Option<u64> {
    let lines = table.lines().map_while(Result::ok);
    let mut lines = lines.filter(|line| line.split_ascii_whitespace().nth(INODE_COLUMN) == Some(inode));
    lines.next()?.split_ascii_whitespace().last()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: a port that is taken, by UDP and by TCP.
    /// Guarantees: the first is an error that names the endpoint; the second is no clash.
    #[tokio::test]
    async fn a_port_is_taken_by_its_own_protocol_only() {
        let first = Bound::bind("127.0.0.1:0").unwrap();
        let endpoint = first.local_addr().to_string();
        let error = Bound::bind(&endpoint).unwrap_err();
        assert_eq!(error.to_string(), format!("listen on {endpoint}"));
        assert!(matches!(error, BindError::Listen { cause, .. } if cause.kind() == io::ErrorKind::AddrInUse));
        drop(first);
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        Bound::bind(&tcp.local_addr().unwrap().to_string()).unwrap();
    }

    /// Scenario: datagrams of no byte, of the largest size, of one byte more, sent before anybody reads.
    /// Guarantees: each comes as it was sent, or is known to be too large; then none is waiting.
    #[tokio::test]
    async fn datagrams_come_whole_or_are_known_to_be_too_large() {
        let bound = Bound::bind("127.0.0.1:0").unwrap();
        let (addr, sender) = (bound.local_addr(), StdSocket::bind("127.0.0.1:0").unwrap());
        for length in [0, DATAGRAM_BYTES_MAX, DATAGRAM_BYTES_MAX + 1, 3] {
            sender.send_to(&vec![7; length], addr).unwrap();
        }
        let mut datagrams = bound.open().unwrap();
        assert_eq!(datagrams.next().await.unwrap(), Datagram::Whole(&[]));
        assert_eq!(datagrams.next().await.unwrap(), Datagram::Whole(&[7; DATAGRAM_BYTES_MAX]));
        assert_eq!(datagrams.waiting(), Some(Datagram::TooLarge));
        assert_eq!(datagrams.waiting(), Some(Datagram::Whole(&[7; 3])));
        assert_eq!(datagrams.waiting(), None);
    }
    /// Scenario: far more than the kernel's buffer holds is sent before anybody reads.
    /// Guarantees: what is read and what the kernel says it has dropped come to what was sent.
    #[tokio::test]
    async fn what_the_kernel_drops_is_known() {
        const SENT: u64 = 400;
        let bound = Bound::bind("127.0.0.1:0").unwrap();
        let (addr, sender) = (bound.local_addr(), StdSocket::bind("127.0.0.1:0").unwrap());
        let mut datagrams = bound.open().unwrap();
        assert_eq!(datagrams.missed(), Some(0));
        for _ in 0..SENT {
            sender.send_to(&[7; 60_000], addr).unwrap();
        }
        let mut came = 0;
        while datagrams.waiting().is_some() {
            came += 1;
        }
        let missed = datagrams.missed().unwrap();
        assert!(missed > 0 && came + missed == SENT, "{came} came, {missed} are said to be dropped");
        assert_eq!(dropped(&b"  sl local\n 1: a b c d e f g h 42 2 0 9\n"[..], "42"), Some(9));
        assert_eq!(dropped(&b"broken\n"[..], "42"), None);
    }
}
