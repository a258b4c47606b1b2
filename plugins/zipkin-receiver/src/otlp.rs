//! Zipkin spans as OTLP.
//!
//! ```text
//! localEndpoint.serviceName, tags service.* and telemetry.sdk.*   ──▶ Resource
//! tags otel.scope.*, otel.library.*                               ──▶ Scope
//! traceId, id, parentId, kind, name, timestamp, duration          ──▶ Span
//!   tags, endpoints' addresses and ports, peer.service, marks     ──▶ attributes
//!   tags error, otel.status_*                                     ──▶ status
//!   tags w3c.tracestate, otlp.link.N, otel.dropped_*, span.kind   ──▶ fields of the same meaning
//!   annotations                                                   ──▶ events
//! ```
//!
//! Spans of one resource and scope become one `ResourceSpans`, in the order in which they came.

use weir_guest::groups::Groups;
use weir_guest::keys::keep_last_of_each;
use weir_guest::pairs::PairWriter;
use weir_guest::wire::Encoder;

use crate::event::{is_link, write_event, write_link};
use crate::roles::{
    Dropped, ENDPOINT_KEYS, EndpointTag, MARK_KEYS, Mark, Role, ScopeTag, StatusTag, link_number, role,
};
use crate::span::{Endpoint, Fault, Kind, Span, Tag};

/// Spans of one request, as the host's other doors have it.
pub(crate) const SPANS_MAX: usize = 64 << 10;

/// Tags of one span that become attributes; what is beyond is counted as dropped. The host's other doors take
/// 256 attributes of a span, and endpoints and marks may add eight.
pub(crate) const TAGS_MAX: usize = 256 - ENDPOINT_KEYS.len() - MARK_KEYS.len();

/// Tags of one span that go into the resource; what is beyond stays the span's. Real senders have five.
const RESOURCE_TAGS_MAX: usize = 64;

const STATUS_OK: u64 = 1;
const STATUS_ERROR: u64 = 2;

/// Resource attributes that the Collector falls back to for a service's name; what else a tag says is no
/// source.
const SERVICE_SOURCES: [&[u8]; 4] =
    [b"service.name", b"faas.name", b"k8s.deployment.name", b"process.executable.name"];

/// The spans of a request.
#[derive(Default)]
pub(crate) struct Request {
    groups: Groups,
    /// Service and group of the last span whose local endpoint alone decided on its group.
    plain: Option<(Vec<u8>, usize)>,
    head: Encoder,
    spans: usize,
    sorted: Sorted,
    attributes: PairWriter,
}

/// Where the tags of a span go: indexes into them.
#[derive(Default)]
struct Sorted {
    attributes: Vec<usize>,
    resource: Vec<usize>,
    links: Vec<(u8, usize)>,
    scope: [Option<usize>; 4],
    endpoint: [Option<usize>; 5],
    service_name: Option<usize>,
    service_source: Option<usize>,
    trace_state: Option<usize>,
    error: Option<usize>,
    code: Option<usize>,
    description: Option<usize>,
    dropped: [u32; 3],
    internal: bool,
}

impl Request {
    /// Takes a span.
    pub(crate) fn add(&mut self, span: &mut Span<'_>) -> Result<(), Fault> {
        self.spans += 1;
        if self.spans > SPANS_MAX {
            return Err(Fault::too_much(format!("more than {SPANS_MAX} spans in one request, send fewer")));
        }
        keep_last_of_each(&mut span.tags, |tag| &tag.key);
        self.sorted.sort(span);
        let group = self.group_of(span);
        let Self { groups, sorted, attributes, .. } = self;
        groups.add(group, |out| write_span(out, span, sorted, attributes));
        Ok(())
    }

    fn group_of(&mut self, span: &Span<'_>) -> usize {
        let is_plain = self.sorted.leaves_the_group_to_the_endpoint();
        let service = &*span.local.service;
        if is_plain
            && let Some((known, group)) = &self.plain
            && known == service
        {
            return *group;
        }
        self.write_head(span);
        let group = self.groups.find(self.head.as_bytes());
        if is_plain {
            self.plain = Some((service.to_vec(), group));
        }
        group
    }

    /// The requests' bodies: none for no spans, several where one would be too large.
    pub(crate) fn finish(self) -> Vec<Vec<u8>> {
        self.groups.finish()
    }

    /// Resource and scope of a span, as the fields that its group begins with.
    fn write_head(&mut self, span: &Span<'_>) {
        let Self { head, sorted, .. } = self;
        head.clear();
        head.message(1, |resource| sorted.write_resource(resource, span));
        let text =
            |tag: ScopeTag| sorted.scope[tag as usize].map_or(&[][..], |index| &*span.tags[index].value);
        let either = |today: &'static ScopeTag, before: &'static ScopeTag| match text(*today) {
            [] => text(*before),
            text => text,
        };
        let name = either(&ScopeTag::Name, &ScopeTag::OldName);
        let version = either(&ScopeTag::Version, &ScopeTag::OldVersion);
        head.message(2, |scope| {
            scope.nonempty_bytes(1, name);
            scope.nonempty_bytes(2, version);
        });
    }
}

impl Sorted {
    /// Finds out where each tag goes.
    fn sort(&mut self, span: &Span<'_>) {
        let Self { attributes, resource, links, .. } = self;
        let mut emptied = (core::mem::take(attributes), core::mem::take(resource), core::mem::take(links));
        emptied.0.clear();
        emptied.1.clear();
        emptied.2.clear();
        *self = Self { attributes: emptied.0, resource: emptied.1, links: emptied.2, ..Self::default() };
        for (index, tag) in span.tags.iter().enumerate() {
            if !self.takes(span, index, tag) {
                self.attributes.push(index);
            }
        }
        self.settle_status(span);
        self.settle_service(span);
        self.settle_endpoints(span);
        self.resource.sort_by(|left, right| span.tags[*left].key.cmp(&span.tags[*right].key));
        self.links.sort_unstable();
    }

    /// Whether a tag is something else than an attribute, for now: status, service and endpoints are settled
    /// when all tags have been seen.
    fn takes(&mut self, span: &Span<'_>, index: usize, tag: &Tag<'_>) -> bool {
        match role(&tag.key) {
            Role::Plain => return false,
            Role::Status(StatusTag::Error) => self.error = Some(index),
            Role::Status(StatusTag::Code) => self.code = Some(index),
            Role::Status(StatusTag::Description) => self.description = Some(index),
            Role::Scope(part) => self.scope[part as usize] = Some(index),
            Role::SpanKind => {
                self.internal = span.kind.is_none() && tag.value.eq_ignore_ascii_case(b"internal");
                return self.internal;
            }
            Role::TraceState if tag.value.is_empty() => return false,
            Role::TraceState => self.trace_state = Some(index),
            Role::Dropped(what) => match count(&tag.value) {
                Some(count) => self.dropped[what as usize] = count,
                None => return false,
            },
            Role::Link => match link_number(&tag.key).filter(|_| is_link(&tag.value)) {
                Some(number) => self.links.push((number, index)),
                None => return false,
            },
            Role::ServiceName => self.service_name = Some(index),
            Role::ServiceSource => self.service_source = Some(index),
            Role::Resource if self.resource.len() == RESOURCE_TAGS_MAX => return false,
            Role::Resource => self.resource.push(index),
            Role::Endpoint(part) => self.endpoint[part as usize] = Some(index),
            // The field of the span says the same; without it the tag is just a tag.
            Role::Mark(Mark::Shared) => return span.shared,
            Role::Mark(Mark::Debug) => return span.debug,
            Role::Mark(Mark::AbsentStart) => return nanos(span.timestamp).is_none(),
        }
        true
    }

    /// What the status leaves as attributes.
    fn settle_status(&mut self, span: &Span<'_>) {
        if let Some(code) = self.code
            && status_code(&span.tags[code].value).is_none()
        {
            self.attributes.push(code);
            self.code = None;
        }
        let (status, _) = self.status(span);
        if let Some(error) = self.error
            && !matches!(&*span.tags[error].value, b"" | b"true")
        {
            self.attributes.push(error);
        }
        if let Some(description) = self.description
            && status != STATUS_ERROR
        {
            self.attributes.push(description);
        }
    }

    /// The status: its code and its message.
    fn status<'s>(&self, span: &'s Span<'_>) -> (u64, &'s [u8]) {
        let value = |index: Option<usize>| index.map(|index| &*span.tags[index].value);
        let error = value(self.error).filter(|text| *text != b"false");
        if error.is_some() || value(self.code).and_then(status_code) == Some(STATUS_ERROR) {
            let description = value(self.description).filter(|text| !text.is_empty());
            let message = description.or_else(|| error.filter(|text| *text != b"true")).unwrap_or(&[]);
            (STATUS_ERROR, message)
        } else {
            (value(self.code).and_then(status_code).unwrap_or(0), &[])
        }
    }

    /// A tag `service.name` that is not the local endpoint's stays an attribute, and so does a source that is
    /// none.
    fn settle_service(&mut self, span: &Span<'_>) {
        let local = &*span.local.service;
        if let Some(name) = self.service_name {
            let tag = &span.tags[name].value;
            let same = local.is_empty() || String::from_utf8_lossy(tag).to_lowercase().as_bytes() == local;
            if tag.is_empty() || !same {
                self.attributes.push(name);
                self.service_name = None;
            }
        }
        if let Some(source) = self.service_source {
            let is_source =
                SERVICE_SOURCES.contains(&&*span.tags[source].value) && self.service_name.is_none();
            if local.is_empty() || !is_source {
                self.attributes.push(source);
                self.service_source = None;
            }
        }
    }

    /// A tag that says the same as the endpoint is the endpoint's, with its type; one that says something
    /// else stays, and the endpoint's is left out.
    fn settle_endpoints(&mut self, span: &Span<'_>) {
        for (part, slot) in self.endpoint.iter_mut().enumerate() {
            if let Some(index) = *slot {
                if endpoint_says(span, part, &span.tags[index].value) {
                    *slot = None;
                } else {
                    self.attributes.push(index);
                }
            }
        }
    }

    /// Whether no tag says anything about resource or scope.
    fn leaves_the_group_to_the_endpoint(&self) -> bool {
        let Self { resource, scope, service_name, service_source, .. } = self;
        resource.is_empty() && *scope == [None; 4] && service_name.is_none() && service_source.is_none()
    }

    fn write_resource(&self, out: &mut Encoder, span: &Span<'_>) {
        let source = self.service_source.map_or(SERVICE_SOURCES[0], |index| &*span.tags[index].value);
        match self.service_name {
            // The tag has the name as it was before Zipkin's rule made it lower case.
            Some(index) => out.attribute_str(1, "service.name", &span.tags[index].value),
            None if span.local.service.is_empty() => {}
            None => out.attribute_str(1, source, &span.local.service),
        }
        for &index in &self.resource {
            let Tag { key, value } = &span.tags[index];
            out.attribute_str(1, key, value);
        }
    }
}

fn write_span(out: &mut Encoder, span: &Span<'_>, sorted: &Sorted, attributes: &mut PairWriter) {
    let message = out.open_large(2);
    out.bytes(1, span.trace_id);
    out.bytes(2, span.id);
    if let Some(trace_state) = sorted.trace_state {
        out.bytes(3, &span.tags[trace_state].value);
    }
    if span.parent_id != [0; 8] {
        out.bytes(4, span.parent_id);
    }
    out.nonempty_bytes(5, &span.name);
    out.nonzero_varint(6, kind(span, sorted.internal));
    let start = nanos(span.timestamp);
    let end = nanos(span.duration).and_then(|duration| duration.checked_add(start.unwrap_or(0)));
    out.nonzero_fixed64(7, start.unwrap_or(0));
    out.nonzero_fixed64(8, end.or(start).unwrap_or(0));
    write_attributes(out, span, sorted, attributes);
    for (mark, is_set) in
        [(Mark::Shared, span.shared), (Mark::Debug, span.debug), (Mark::AbsentStart, start.is_none())]
    {
        if is_set {
            out.attribute_bool(9, MARK_KEYS[mark as usize], true);
        }
    }
    let beyond = sorted.attributes.len().saturating_sub(TAGS_MAX) as u64;
    out.nonzero_varint(10, beyond + u64::from(sorted.dropped[Dropped::Attributes as usize]));
    for annotation in &span.annotations {
        let time = nanos(crate::span::micros(annotation.timestamp)).unwrap_or(0);
        write_event(out, 11, time, &annotation.value);
    }
    out.nonzero_varint(12, u64::from(sorted.dropped[Dropped::Events as usize]));
    for &(_, index) in &sorted.links {
        write_link(out, 13, &span.tags[index].value);
    }
    out.nonzero_varint(14, u64::from(sorted.dropped[Dropped::Links as usize]));
    let (code, text) = sorted.status(span);
    if code != 0 {
        out.message(15, |status| {
            status.nonempty_bytes(2, text);
            status.varint(3, code);
        });
    }
    out.close(message);
}

/// Tags as attributes, and what the endpoints say where no tag says it.
fn write_attributes(out: &mut Encoder, span: &Span<'_>, sorted: &Sorted, attributes: &mut PairWriter) {
    let is_free = |tag: EndpointTag| sorted.endpoint[tag as usize].is_none();
    attributes.clear();
    for &index in sorted.attributes.iter().take(TAGS_MAX) {
        let Tag { key, value } = &span.tags[index];
        attributes.attribute(9, key, value);
    }
    for (tag, text) in [
        (EndpointTag::PeerService, &*span.remote.service),
        (EndpointTag::PeerAddress, span.remote.address()),
        (EndpointTag::LocalAddress, span.local.address()),
    ] {
        if !text.is_empty() && is_free(tag) {
            attributes.attribute(9, ENDPOINT_KEYS[tag as usize], text);
        }
    }
    out.raw(attributes.as_bytes());
    for (tag, port) in [(EndpointTag::PeerPort, span.remote.port), (EndpointTag::LocalPort, span.local.port)]
    {
        if port != 0 && is_free(tag) {
            out.attribute_int(9, ENDPOINT_KEYS[tag as usize], i64::from(port));
        }
    }
}

/// Whether an endpoint's part, by [`EndpointTag`], is what this text says.
fn endpoint_says(span: &Span<'_>, part: usize, text: &[u8]) -> bool {
    let is_port =
        |endpoint: &Endpoint<'_>| endpoint.port != 0 && endpoint.port.to_string().as_bytes() == text;
    match part {
        _ if text.is_empty() => false,
        1 => span.remote.address() == text,
        2 => is_port(&span.remote),
        3 => span.local.address() == text,
        4 => is_port(&span.local),
        _ => false, // the service's name, for which a tag always wins
    }
}

fn kind(span: &Span<'_>, internal: bool) -> u64 {
    match span.kind {
        None if internal => 1,
        None => 0,
        Some(Kind::Server) => 2,
        Some(Kind::Client) => 3,
        Some(Kind::Producer) => 4,
        Some(Kind::Consumer) => 5,
    }
}

/// Nanoseconds; nothing for an absent time and for one after the year 2554, which nanoseconds can't express.
fn nanos(micros: u64) -> Option<u64> {
    // Not `checked_mul`, which is a call of a 128-bit multiplication in the sandbox.
    (1..=u64::MAX / 1_000).contains(&micros).then(|| micros * 1_000)
}

/// `OK`, `ERROR` and `UNSET` in the spellings that are in use: `STATUS_CODE_OK`, `Ok`.
fn status_code(text: &[u8]) -> Option<u64> {
    const PREFIX: &[u8] = b"STATUS_CODE_";
    let text = match text.split_at_checked(PREFIX.len()) {
        Some((prefix, rest)) if prefix.eq_ignore_ascii_case(PREFIX) => rest,
        Some(_) | None => text,
    };
    [(&b"UNSET"[..], 0), (b"OK", STATUS_OK), (b"ERROR", STATUS_ERROR)]
        .into_iter()
        .find(|(name, _)| text.eq_ignore_ascii_case(name))
        .map(|(_, code)| code)
}

/// A count other than zero.
fn count(text: &[u8]) -> Option<u32> {
    core::str::from_utf8(text).ok()?.parse().ok().filter(|count| *count != 0)
}
