//! Tags that are more than an attribute.

use weir_guest::keys::KeyTable;

/// What a tag of a span is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// `span.kind`.
    Kind,
    /// `error`.
    Error,
    /// `otel.status_code`.
    Code,
    /// `otel.status_description`.
    Description,
    /// `http.status_message`, the message of an error where nothing better is there.
    HttpMessage,
    /// `http.status_code`, and what it is called today.
    HttpCode,
    /// `w3c.tracestate`.
    TraceState,
    /// Of the scope.
    Scope(ScopeTag),
    /// `otel.dropped_*_count`: of attributes, events, links.
    Dropped(usize),
}

/// What a tag says of the scope.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ScopeTag {
    Name,
    Version,
    /// As it was called before.
    OldName,
    OldVersion,
}

static ROLES: KeyTable<Role, 15> = KeyTable::new([
    (b"span.kind", Role::Kind),
    (b"error", Role::Error),
    (b"otel.status_code", Role::Code),
    (b"otel.status_description", Role::Description),
    (b"http.status_message", Role::HttpMessage),
    (b"http.status_code", Role::HttpCode),
    (b"http.response.status_code", Role::HttpCode),
    (b"w3c.tracestate", Role::TraceState),
    (b"otel.scope.name", Role::Scope(ScopeTag::Name)),
    (b"otel.scope.version", Role::Scope(ScopeTag::Version)),
    (b"otel.library.name", Role::Scope(ScopeTag::OldName)),
    (b"otel.library.version", Role::Scope(ScopeTag::OldVersion)),
    (b"otel.dropped_attributes_count", Role::Dropped(0)),
    (b"otel.dropped_events_count", Role::Dropped(1)),
    (b"otel.dropped_links_count", Role::Dropped(2)),
]);

/// What the tag with this key is; nothing for a plain attribute.
pub(crate) fn role(key: &[u8]) -> Option<Role> {
    ROLES.get(key)
}
