//! Who called whom, from attributes.
//!
//! OpenTelemetry's ranking decides what the remote endpoint of a client or producer span is called;
//! `net.peer.ip` and `service.peer.name`, which other translators write, stand beside their nearest kin. A
//! server or consumer span, and one without a kind, has a remote endpoint too when somebody says who the peer
//! is: `peer.service`, `service.peer.name`, or the address of the socket's other end. What names the *called*
//! side (`server.address`, `db.name` and the like) is not taken there: in a server span that is the server
//! itself.

use core::net::IpAddr;

use weir_guest::spans::Attribute;

use crate::roles::{Local, Peer, Port, RANK_NET_PEER_NAME, RANK_PEER_MAX, RANK_SERVER_ADDRESS};

/// A Zipkin endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Endpoint<'a> {
    /// Empty where it is not known.
    pub(crate) service: &'a [u8],
    pub(crate) ip: Option<Ip<'a>>,
    /// 0 where it is not known.
    pub(crate) port: u16,
}

/// An address, as a sender wrote it and as a number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Ip<'a> {
    pub(crate) text: &'a [u8],
    pub(crate) addr: IpAddr,
}

/// What a span's attributes say about its ends.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Ends<'a> {
    name: Option<(u8, &'a [u8])>,
    address: Option<(u8, Port, &'a [u8])>,
    ports: [u16; Port::COUNT],
    local_address: Option<&'a [u8]>,
    local_port: u16,
    /// Whether anything at all was seen.
    seen: bool,
}

impl<'a> Ends<'a> {
    /// Takes note of an attribute about the other end. `calls` says whether the span called somebody: client
    /// or producer.
    pub(crate) fn note_peer(&mut self, peer: Peer, value: &Attribute<'a>, calls: bool) {
        self.seen = true;
        match peer {
            Peer::Name(rank) if calls || rank <= RANK_PEER_MAX => {
                if let Some(name) = text(value)
                    && self.name.is_none_or(|(best, _)| rank < best)
                {
                    self.name = Some((rank, name));
                }
            }
            Peer::Name(_) => {}
            Peer::Address(_, Port::ServerSocket) if !calls => {}
            Peer::Address(rank, port) => {
                if let Some(address) = text(value)
                    && self.address.is_none_or(|(best, ..)| rank < best)
                {
                    self.address = Some((rank, port, address));
                }
            }
            Peer::Port(port) => self.ports[port as usize] = number(value),
        }
    }

    /// Takes note of an attribute about the span's own end.
    pub(crate) fn note_local(&mut self, local: Local, value: &Attribute<'a>) {
        self.seen = true;
        match local {
            Local::Address => self.local_address = text(value).or(self.local_address),
            Local::OldAddress => self.local_address = self.local_address.or_else(|| text(value)),
            Local::Port => self.local_port = number(value),
            Local::OldPort if self.local_port == 0 => self.local_port = number(value),
            Local::OldPort => {}
        }
    }

    /// The span's own end.
    #[inline]
    pub(crate) fn local(&self, service: &'a [u8]) -> Endpoint<'a> {
        Endpoint { service, ip: self.local_address.and_then(ip), port: self.local_port }
    }

    /// The other end, if anything is known about it.
    #[inline]
    pub(crate) fn remote(&self) -> Option<Endpoint<'a>> {
        if !self.seen {
            return None;
        }
        let ip = self.address.and_then(|(_, _, address)| ip(address));
        // An address that outranks the name is the whole endpoint; a name that outranks the address takes it
        // along.
        let service = match (self.name, self.address) {
            (Some((name_rank, _)), Some((address_rank, ..))) if address_rank < name_rank && ip.is_some() => {
                &[][..]
            }
            (Some((_, name)), _) => name,
            (None, _) => &[],
        };
        let port = match (self.address, self.name) {
            (Some((_, port, _)), _) => self.ports[port as usize],
            (None, Some((RANK_SERVER_ADDRESS, _))) => self.ports[Port::Server as usize],
            (None, Some((RANK_NET_PEER_NAME, _))) => self.ports[Port::NetPeer as usize],
            (None, _) => self.ports[Port::NetworkPeer as usize],
        };
        (!service.is_empty() || ip.is_some() || port != 0).then_some(Endpoint { service, ip, port })
    }
}

fn text<'a>(value: &Attribute<'a>) -> Option<&'a [u8]> {
    match value {
        Attribute::Text(text) if !text.is_empty() => Some(text),
        Attribute::Text(_) | Attribute::Int(_) | Attribute::Other(_) => None,
    }
}

/// A port as a number or as text, 0 for everything else.
fn number(value: &Attribute<'_>) -> u16 {
    match value {
        Attribute::Int(number) => u16::try_from(*number).unwrap_or(0),
        Attribute::Text(text) => {
            core::str::from_utf8(text).ok().and_then(|text| text.parse().ok()).unwrap_or(0)
        }
        Attribute::Other(_) => 0,
    }
}

fn ip(text: &[u8]) -> Option<Ip<'_>> {
    let addr = core::str::from_utf8(text).ok()?.parse().ok()?;
    Some(Ip { text, addr })
}
