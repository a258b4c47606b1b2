//! Free ports of this machine.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use tokio::net::TcpListener;

/// Below the ports that the system gives to outgoing connections (from 32768 on Linux): a client that tries a closed port among
/// those again and again may one day connect to itself, and then nobody can listen there.
const PORTS: Range<u16> = 16_384..32_768;

/// Ports that are tried before the test gives up.
const TRIES_MAX: usize = 1000;

/// Ports that this process has given away: two names in one configuration must not get the same.
static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());

/// An address that nobody listened on a moment ago, and that nobody in this process was given before.
pub fn free_address() -> SocketAddr {
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    let is_free = |address: &SocketAddr| {
        !given.contains(&address.port())
            && std::net::TcpListener::bind(address).is_ok()
            && std::net::UdpSocket::bind(address).is_ok()
    };
    let found = candidates().find(is_free).expect("one of a thousand ports is free");
    given.insert(found.port());
    found
}

/// Listens on a free port.
pub(crate) async fn listen() -> TcpListener {
    for address in candidates() {
        if let Ok(listener) = TcpListener::bind(address).await {
            return listener;
        }
    }
    panic!("none of {TRIES_MAX} ports is free");
}

fn candidates() -> impl Iterator<Item = SocketAddr> {
    std::iter::repeat_with(|| SocketAddr::from((Ipv4Addr::LOCALHOST, fastrand::u16(PORTS)))).take(TRIES_MAX)
}
