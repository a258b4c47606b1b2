//! Attribute keys that mean more than a tag.

use weir_guest::keys::KeyTable;

/// What an attribute is, beside a tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// A tag and nothing else.
    Plain,
    /// `error`: the status has a say in it.
    Error,
    /// A tag that the exporter may write itself; the exporter's wins.
    Own(Own),
    /// `zipkin.shared`, `zipkin.debug`: fields of a Zipkin span that OTLP lacks.
    Flag(Flag),
    /// `otel.zipkin.absentField.startTime`: the span came without a timestamp.
    AbsentStart,
    /// Says who was called.
    Peer(Peer),
    /// Says where the span was made.
    Local(Local),
}

/// Tags that the exporter writes itself when the span has what they say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Own {
    SpanKind,
    StatusCode,
    TraceState,
    DroppedAttributes,
    DroppedEvents,
    DroppedLinks,
    Link,
}

/// Fields of a Zipkin span that OTLP lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flag {
    Shared,
    Debug,
}

/// Where a remote endpoint may be read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    /// A name, with its rank in OpenTelemetry's list; low ranks win.
    Name(u8),
    /// An address, with its rank in the same list and the place of its port.
    Address(u8, Port),
    /// A port of one of the above.
    Port(Port),
}

/// Pairs an address or a name with its port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Port {
    NetworkPeer = 0,
    ServerSocket = 1,
    NetSockPeer = 2,
    NetPeer = 3,
    Server = 4,
}

impl Port {
    pub(crate) const COUNT: usize = 5;
}

/// Where a local endpoint's address may be read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Local {
    /// `network.local.*`, as `zipkin-receiver` writes it.
    Address,
    Port,
    /// `net.host.*`, the keys of semantic conventions 1.6 that other translators still write.
    OldAddress,
    OldPort,
}

/// Ranks of `Peer::Name` that say who the peer is whatever the kind of the span. The others name the called
/// side, which is the span's own side in a server span.
pub(crate) const RANK_PEER_MAX: u8 = 2;

/// Rank of `server.address`, whose port is `server.port`.
pub(crate) const RANK_SERVER_ADDRESS: u8 = 3;

/// Rank of `net.peer.name`, whose port is `net.peer.port`.
pub(crate) const RANK_NET_PEER_NAME: u8 = 4;

/// Every key with a role, but for the family `otlp.link.N`.
static ROLES: KeyTable<Role, 32> = KeyTable::new([
    (b"error", Role::Error),
    (b"span.kind", Role::Own(Own::SpanKind)),
    (b"otel.status_code", Role::Own(Own::StatusCode)),
    (b"w3c.tracestate", Role::Own(Own::TraceState)),
    (b"otel.dropped_attributes_count", Role::Own(Own::DroppedAttributes)),
    (b"otel.dropped_events_count", Role::Own(Own::DroppedEvents)),
    (b"otel.dropped_links_count", Role::Own(Own::DroppedLinks)),
    (b"zipkin.shared", Role::Flag(Flag::Shared)),
    (b"zipkin.debug", Role::Flag(Flag::Debug)),
    (b"otel.zipkin.absentField.startTime", Role::AbsentStart),
    (b"peer.service", Role::Peer(Peer::Name(1))),
    (b"service.peer.name", Role::Peer(Peer::Name(RANK_PEER_MAX))),
    (b"server.address", Role::Peer(Peer::Name(RANK_SERVER_ADDRESS))),
    (b"net.peer.name", Role::Peer(Peer::Name(RANK_NET_PEER_NAME))),
    (b"network.peer.address", Role::Peer(Peer::Address(5, Port::NetworkPeer))),
    (b"net.peer.ip", Role::Peer(Peer::Address(6, Port::NetPeer))),
    (b"server.socket.domain", Role::Peer(Peer::Name(7))),
    (b"server.socket.address", Role::Peer(Peer::Address(8, Port::ServerSocket))),
    (b"net.sock.peer.name", Role::Peer(Peer::Name(9))),
    (b"net.sock.peer.addr", Role::Peer(Peer::Address(10, Port::NetSockPeer))),
    (b"peer.hostname", Role::Peer(Peer::Name(11))),
    (b"peer.address", Role::Peer(Peer::Name(12))),
    (b"db.name", Role::Peer(Peer::Name(13))),
    (b"server.port", Role::Peer(Peer::Port(Port::Server))),
    (b"network.peer.port", Role::Peer(Peer::Port(Port::NetworkPeer))),
    (b"net.peer.port", Role::Peer(Peer::Port(Port::NetPeer))),
    (b"server.socket.port", Role::Peer(Peer::Port(Port::ServerSocket))),
    (b"net.sock.peer.port", Role::Peer(Peer::Port(Port::NetSockPeer))),
    (b"network.local.address", Role::Local(Local::Address)),
    (b"network.local.port", Role::Local(Local::Port)),
    (b"net.host.ip", Role::Local(Local::OldAddress)),
    (b"net.host.port", Role::Local(Local::OldPort)),
]);

const LINK_PREFIX: &[u8] = b"otlp.link.";

/// What the key of a span's attribute means.
#[inline]
pub(crate) fn role(key: &[u8]) -> Role {
    if let Some(role) = ROLES.get(key) {
        return role;
    }
    if key.starts_with(LINK_PREFIX) { Role::Own(Own::Link) } else { Role::Plain }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: every key with a role, and keys that look like one.
    /// Guarantees: each has its own role and the others none.
    #[test]
    fn a_key_has_the_role_that_the_table_gives_it() {
        for &(key, expected) in ROLES.entries() {
            assert_eq!(role(key), expected, "{}", key.escape_ascii());
        }
        assert_eq!(role(b"otlp.link.127"), Role::Own(Own::Link));
        for key in ["", "e", "errors", "Error", "server.addresz", "http.request.method", "net.peer.namf"] {
            assert_eq!(role(key.as_bytes()), Role::Plain, "{key}");
        }
    }
}
