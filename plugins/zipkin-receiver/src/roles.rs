//! Tag keys that are more than an attribute.

use weir_guest::keys::KeyTable;

/// What a tag is, beside an attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// An attribute and nothing else.
    Plain,
    /// Part of the status.
    Status(StatusTag),
    /// Name or version of the instrumentation scope, under the keys of today or those of before.
    Scope(ScopeTag),
    /// `span.kind`: how an internal span says so.
    SpanKind,
    /// `w3c.tracestate`.
    TraceState,
    /// `otel.dropped_*_count`.
    Dropped(Dropped),
    /// `otlp.link.N`.
    Link,
    /// `service.name`, which the local endpoint has too.
    ServiceName,
    /// `otlp.service.name.source`: which resource attribute the local endpoint's name comes from.
    ServiceSource,
    /// Says something about the whole process: `service.*`, `telemetry.sdk.*`.
    Resource,
    /// An attribute that an endpoint is written as.
    Endpoint(EndpointTag),
    /// An attribute that a field of a Zipkin span is written as.
    Mark(Mark),
}

/// Parts of the status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StatusTag {
    Error,
    Code,
    Description,
}

/// Parts of the instrumentation scope.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ScopeTag {
    Name = 0,
    Version = 1,
    OldName = 2,
    OldVersion = 3,
}

/// Counts of what a sender has left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dropped {
    Attributes = 0,
    Events = 1,
    Links = 2,
}

/// Attributes that endpoints are written as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EndpointTag {
    PeerService = 0,
    PeerAddress = 1,
    PeerPort = 2,
    LocalAddress = 3,
    LocalPort = 4,
}

/// Attributes that fields of a Zipkin span are written as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mark {
    Shared = 0,
    Debug = 1,
    AbsentStart = 2,
}

/// Keys of [`EndpointTag`], by its numbers.
pub(crate) const ENDPOINT_KEYS: [&[u8]; 5] = [
    b"peer.service",
    b"network.peer.address",
    b"network.peer.port",
    b"network.local.address",
    b"network.local.port",
];

/// Keys of [`Mark`], by its numbers.
pub(crate) const MARK_KEYS: [&[u8]; 3] =
    [b"zipkin.shared", b"zipkin.debug", b"otel.zipkin.absentField.startTime"];

const LINK_PREFIX: &[u8] = b"otlp.link.";

static ROLES: KeyTable<Role, 22> = KeyTable::new([
    (b"error", Role::Status(StatusTag::Error)),
    (b"otel.status_code", Role::Status(StatusTag::Code)),
    (b"otel.status_description", Role::Status(StatusTag::Description)),
    (b"otel.scope.name", Role::Scope(ScopeTag::Name)),
    (b"otel.scope.version", Role::Scope(ScopeTag::Version)),
    (b"otel.library.name", Role::Scope(ScopeTag::OldName)),
    (b"otel.library.version", Role::Scope(ScopeTag::OldVersion)),
    (b"span.kind", Role::SpanKind),
    (b"w3c.tracestate", Role::TraceState),
    (b"otel.dropped_attributes_count", Role::Dropped(Dropped::Attributes)),
    (b"otel.dropped_events_count", Role::Dropped(Dropped::Events)),
    (b"otel.dropped_links_count", Role::Dropped(Dropped::Links)),
    (b"service.name", Role::ServiceName),
    (b"otlp.service.name.source", Role::ServiceSource),
    (ENDPOINT_KEYS[0], Role::Endpoint(EndpointTag::PeerService)),
    (ENDPOINT_KEYS[1], Role::Endpoint(EndpointTag::PeerAddress)),
    (ENDPOINT_KEYS[2], Role::Endpoint(EndpointTag::PeerPort)),
    (ENDPOINT_KEYS[3], Role::Endpoint(EndpointTag::LocalAddress)),
    (ENDPOINT_KEYS[4], Role::Endpoint(EndpointTag::LocalPort)),
    (MARK_KEYS[0], Role::Mark(Mark::Shared)),
    (MARK_KEYS[1], Role::Mark(Mark::Debug)),
    (MARK_KEYS[2], Role::Mark(Mark::AbsentStart)),
]);

/// What a tag's key means.
#[inline]
pub(crate) fn role(key: &[u8]) -> Role {
    if let Some(role) = ROLES.get(key) {
        return role;
    }
    match key.first() {
        Some(b'o') if key.starts_with(LINK_PREFIX) => Role::Link,
        // `service.peer.*` is about the other end.
        Some(b's') if key.starts_with(b"service.") && !key.starts_with(b"service.peer.") => Role::Resource,
        Some(b't') if key.starts_with(b"telemetry.sdk.") => Role::Resource,
        _ => Role::Plain,
    }
}

/// The number of a link's tag, below what the exporters write.
pub(crate) fn link_number(key: &[u8]) -> Option<u8> {
    const LINKS_MAX: u8 = 128;
    let digits = core::str::from_utf8(key.strip_prefix(LINK_PREFIX)?).ok()?;
    let canonical =
        digits.bytes().all(|digit| digit.is_ascii_digit()) && (digits == "0" || !digits.starts_with('0'));
    digits.parse().ok().filter(|number| canonical && *number < LINKS_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: every key with a role, those of the families, and their neighbours.
    /// Guarantees: each has its own role and the others none.
    #[test]
    fn a_key_has_the_role_that_the_table_gives_it() {
        for &(key, expected) in ROLES.entries() {
            assert_eq!(role(key), expected);
        }
        for (key, expected) in [
            ("otlp.link.3", Role::Link),
            ("service.version", Role::Resource),
            ("service.peer.name", Role::Plain),
            ("telemetry.sdk.language", Role::Resource),
            ("telemetry.auto.version", Role::Plain),
            ("services", Role::Plain),
            ("", Role::Plain),
        ] {
            assert_eq!(role(key.as_bytes()), expected, "{key}");
        }
    }

    /// Scenario: keys of links, good and bad.
    /// Guarantees: the number as it is written by exporters, and nothing else.
    #[test]
    fn a_link_has_a_number_below_128() {
        let number = |key: &str| link_number(key.as_bytes());
        assert_eq!((number("otlp.link.0"), number("otlp.link.127")), (Some(0), Some(127)));
        for key in
            ["otlp.link.", "otlp.link.128", "otlp.link.+1", "otlp.link.01", "otlp.link.x", "otlp.links.1"]
        {
            assert_eq!(number(key), None, "{key}");
        }
    }
}
