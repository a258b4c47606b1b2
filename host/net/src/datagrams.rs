//! Sockets of datagrams: bound at once, read later, emptied at the end. There is no TLS, and nobody to answer.

use std::io::{self, Read};
use std::net::{SocketAddr, UdpSocket as StdSocket};

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::UdpSocket;
use tracing::{debug, info};

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
        if buffer < asked {
            info!(
                listen.addr = %local_addr, bytes = buffer, asked,
                "the kernel's buffer for datagrams is smaller than asked for, net.core.rmem_max is its limit"
            );
        } else {
            debug!(listen.addr = %local_addr, bytes = buffer, "the kernel's buffer for datagrams");
        }
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

    fn of(&self, length: usize) -> Datagram<'_> {
        match self.buffer.get(..length) {
            Some(whole) if length <= DATAGRAM_BYTES_MAX => Datagram::Whole(whole),
            Some(_) | None => Datagram::TooLarge,
        }
    }
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
}
