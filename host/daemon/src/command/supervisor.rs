//! What a supervisor such as systemd (`Type=notify`) is told of us: datagrams to the socket that it names in the environment.

use std::io;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use tracing::warn;

/// Everything is bound, and senders are let in.
pub(super) const READY: &str = "READY=1";

/// The drain has begun.
pub(super) const STOPPING: &str = "STOPPING=1";

/// The variable that names the socket: a path, or `@` and an abstract name.
const VARIABLE: &str = "NOTIFY_SOCKET";

/// Who watches over this process, if anybody.
#[derive(Debug)]
pub(super) struct Supervisor(Option<(UnixDatagram, SocketAddr)>);

impl Supervisor {
    /// The one that the environment names. One that cannot be reached is told in the log, and is nobody.
    pub(super) fn of_environment() -> Self {
        let Some(name) = std::env::var_os(VARIABLE).filter(|name| !name.is_empty()) else {
            return Self(None);
        };
        let open = || -> io::Result<_> {
            let socket = UnixDatagram::unbound()?;
            // A supervisor that does not read must not keep us from serving.
            socket.set_nonblocking(true)?;
            Ok((socket, address(name.as_encoded_bytes())?))
        };
        Self(open().inspect_err(|error| warn!(%error, socket = ?name, "the supervisor cannot be told")).ok())
    }

    /// Says what we are about; where that fails there is only the log to say so.
    pub(super) fn tell(&self, state: &str) {
        let Some((socket, address)) = &self.0 else { return };
        if let Err(error) = socket.send_to_addr(state.as_bytes(), address) {
            warn!(%error, state, "the supervisor was not told");
        }
    }
}

fn address(name: &[u8]) -> io::Result<SocketAddr> {
    use std::os::unix::ffi::OsStrExt as _;

    match name {
        [b'@', name @ ..] => of_abstract(name),
        name => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(name)),
    }
}

#[cfg(target_os = "linux")]
fn of_abstract(name: &[u8]) -> io::Result<SocketAddr> {
    use std::os::linux::net::SocketAddrExt as _;

    SocketAddr::from_abstract_name(name)
}

#[cfg(not(target_os = "linux"))]
fn of_abstract(_: &[u8]) -> io::Result<SocketAddr> {
    Err(io::ErrorKind::Unsupported.into())
}
