//! Jaeger spans as OTLP.
//!
//! ```text
//! Process: serviceName, tags                                      ──▶ Resource
//! tags otel.scope.*, otel.library.*                               ──▶ Scope
//! ids, operationName, startTime, duration                         ──▶ Span
//!   references: the parent, the others                            ──▶ parent_span_id, links
//!   tags span.kind, w3c.tracestate, otel.dropped_*                ──▶ fields of the same meaning
//!   tags error, otel.status_*, http.status_*                      ──▶ status
//!   logs: field `event`, or else `message`; the others            ──▶ events: name; attributes
//!   flags: sampled; debug, firehose                               ──▶ flags; attributes jaeger.debug, jaeger.firehose
//! ```

use std::collections::BTreeMap;

use weir_guest::groups::Groups;
use weir_guest::keys::keep_last_of_each;
use weir_guest::wire::Encoder;

use crate::roles::{Role, ScopeTag, role};
use crate::span::{DEBUG, FIREHOSE, Fault, Process, ReferenceKind, SAMPLED, Span, Tag, Value};

/// Spans of one request, as the host's other doors have it.
pub(crate) const SPANS_MAX: usize = 64 << 10;

/// Attributes of one span, resource or event; what is beyond is counted as dropped. The host's other doors take as many.
const ATTRIBUTES_MAX: usize = 256;

/// Bytes of all resources with their scopes, where each pair counts once. A process is sent once and a scope with each span, so
/// that a few kilobytes of spans could make gigabytes of pairs; two processes of the largest text fit, or 8,000 of a kilobyte.
const HEADS_BYTES_MAX: usize = 9 << 20;

/// Keys of the flags that OTLP has no field for.
const MARKS: [(u32, &str); 2] = [(DEBUG, "jaeger.debug"), (FIREHOSE, "jaeger.firehose")];

/// The key of a link's attribute that says what the other span is to this one.
const REFERENCE_TYPE: &str = "opentracing.ref_type";

/// The service's name that OpenTelemetry's exporters send where there is none.
const NO_SERVICE: &[u8] = b"OTLPResourceNoServiceName";

const STATUS_OK: u64 = 1;
const STATUS_ERROR: u64 = 2;

const KIND_SERVER: u64 = 2;

/// The spans of a request.
#[derive(Default)]
pub(crate) struct Request {
    groups: Groups,
    /// The process of the spans that come without one, and that of the span at hand where it has its own.
    common: Origin,
    own: Origin,
    is_own: bool,
    /// The scope of the span at hand, in field 2.
    scope: Encoder,
    spans: usize,
    rejected: u32,
    sorted: Sorted,
}

/// A process, and the groups of its spans: a span must not cost what its process is large.
#[derive(Default)]
struct Origin {
    /// The process as a `Resource` in field 1.
    resource: Encoder,
    /// The group of the spans with no tag that says anything of the scope.
    plain: Option<usize>,
    /// The groups of the others, by the scope in field 2.
    scopes: BTreeMap<Vec<u8>, usize>,
}

/// Where the tags of a span go: indexes into them.
#[derive(Default)]
struct Sorted {
    attributes: Vec<usize>,
    scope: [Option<usize>; 4],
    kind: u64,
    trace_state: Option<usize>,
    code: u64,
    message: Option<usize>,
    /// Attributes, events and links that a sender has left out.
    dropped: [u64; 3],
}

impl Request {
    /// The spans that follow are of this process, but for those with their own.
    pub(crate) fn process(&mut self, process: &mut Process<'_>) {
        self.common.set(process);
        self.is_own = false;
    }

    /// The span that follows has its own process, or none.
    pub(crate) fn own_process(&mut self, process: Option<&mut Process<'_>>) {
        self.is_own = process.is_some();
        if let Some(process) = process {
            self.own.set(process);
        }
    }

    /// Takes a span. One without ids is counted as rejected.
    pub(crate) fn add(&mut self, span: &mut Span<'_>) -> Result<(), Fault> {
        self.spans += 1;
        if self.spans > SPANS_MAX {
            return Err(Fault::too_much(format!("more than {SPANS_MAX} spans in one request, send fewer")));
        }
        if span.trace_id == [0; 16] || span.id == [0; 8] {
            self.rejected += 1;
            return Ok(());
        }
        keep_last_of_each(&mut span.tags, |tag| &tag.key);
        self.sorted.sort(span);
        let group = self.group_of(span)?;
        let Self { groups, sorted, .. } = self;
        groups.add(group, |out| write_span(out, span, sorted));
        Ok(())
    }

    fn group_of(&mut self, span: &Span<'_>) -> Result<usize, Fault> {
        let Self { groups, common, own, is_own, scope, sorted, .. } = self;
        let origin = if *is_own { own } else { common };
        let is_plain = sorted.scope == [None; 4];
        if is_plain && let Some(group) = origin.plain {
            return Ok(group);
        }
        let said = |tag: ScopeTag| match sorted.scope[tag as usize].map(|index| &span.tags[index].value) {
            Some(Value::Text(text)) => text,
            _ => &[][..],
        };
        let either = |today: ScopeTag, before: ScopeTag| match said(today) {
            [] => said(before),
            text => text,
        };
        scope.clear();
        scope.message(2, |scope| {
            scope.nonempty_bytes(1, either(ScopeTag::Name, ScopeTag::OldName));
            scope.nonempty_bytes(2, either(ScopeTag::Version, ScopeTag::OldVersion));
        });
        if let Some(&group) = origin.scopes.get(scope.as_bytes()) {
            return Ok(group);
        }
        let group = groups.find(&[origin.resource.as_bytes(), scope.as_bytes()].concat());
        if groups.head_bytes() > HEADS_BYTES_MAX {
            return Err(Fault::too_much(format!(
                "processes and scopes together take more than {HEADS_BYTES_MAX} bytes in one request, send fewer spans"
            )));
        }
        origin.scopes.insert(scope.as_bytes().to_vec(), group);
        if is_plain {
            origin.plain = Some(group);
        }
        Ok(group)
    }

    /// The bodies, none for no spans, and how many spans are not in them.
    pub(crate) fn finish(self) -> (Vec<Vec<u8>>, u32) {
        (self.groups.finish(), self.rejected)
    }
}

impl Origin {
    fn set(&mut self, process: &mut Process<'_>) {
        keep_last_of_each(&mut process.tags, |tag| &tag.key);
        let Process { service, tags } = process;
        let is_known = !service.is_empty() && **service != *NO_SERVICE;
        let has_host_name = tags.iter().any(|tag| &*tag.key == b"host.name");
        self.plain = None;
        self.scopes.clear();
        self.resource.clear();
        self.resource.message(1, |resource| {
            if is_known {
                resource.attribute_str(1, "service.name", service);
            }
            let others = tags.iter().filter(|tag| !(is_known && &*tag.key == b"service.name"));
            for tag in others.take(ATTRIBUTES_MAX - 1) {
                let key = match &*tag.key {
                    b"hostname" if !has_host_name => &b"host.name"[..],
                    key => key,
                };
                attribute(resource, 1, key, &tag.value);
            }
            resource.nonzero_varint(2, beyond(tags.len(), ATTRIBUTES_MAX - 1));
        });
    }
}

impl Sorted {
    /// Finds out where each tag goes.
    fn sort(&mut self, span: &Span<'_>) {
        let mut attributes = core::mem::take(&mut self.attributes);
        attributes.clear();
        *self = Self { attributes, ..Self::default() };
        let (mut error, mut code, mut description, mut http_message) = (None, None, None, None);
        let mut http_code = None;
        for (index, tag) in span.tags.iter().enumerate() {
            let is_text = matches!(&tag.value, Value::Text(text) if !text.is_empty());
            match role(&tag.key) {
                Some(Role::Kind) if let Some(kind) = kind(&tag.value) => self.kind = kind,
                Some(Role::Error) if is_true(&tag.value) => error = Some(index),
                Some(Role::Code) if status_code(&tag.value).is_some() => code = Some(index),
                Some(Role::Description) if is_text => description = Some(index),
                Some(Role::TraceState) if is_text => self.trace_state = Some(index),
                Some(Role::Dropped(what)) if let Some(count) = count(&tag.value) => {
                    self.dropped[what] = count
                }
                Some(Role::Scope(part)) if is_text => self.scope[part as usize] = Some(index),
                Some(Role::HttpCode) => {
                    http_code = http_code.or(http_status(&tag.value));
                    self.attributes.push(index);
                }
                Some(Role::HttpMessage) if is_text => {
                    http_message = Some(index);
                    self.attributes.push(index);
                }
                Some(_) | None => self.attributes.push(index),
            }
        }
        let said = code.and_then(|index: usize| status_code(&span.tags[index].value));
        self.code = match (error, said, http_code) {
            (Some(_), ..) => STATUS_ERROR,
            (None, Some(said), _) => said,
            (None, None, Some(status)) if is_failure(status, self.kind) => STATUS_ERROR,
            (None, None, _) => 0,
        };
        self.message = description.or(http_message).filter(|_| self.code == STATUS_ERROR);
        if let Some(description) = description.filter(|index| self.message != Some(*index)) {
            self.attributes.push(description);
        }
    }
}

fn write_span(out: &mut Encoder, span: &Span<'_>, sorted: &Sorted) {
    let text = |index: usize| match &span.tags[index].value {
        Value::Text(text) => &**text,
        _ => &[][..],
    };
    let (parent, told) = span.parent();
    let message = out.open_large(2);
    out.bytes(1, span.trace_id);
    out.bytes(2, span.id);
    if let Some(trace_state) = sorted.trace_state {
        out.bytes(3, text(trace_state));
    }
    if parent != [0; 8] {
        out.bytes(4, parent);
    }
    out.nonempty_bytes(5, &span.name);
    out.nonzero_varint(6, sorted.kind);
    out.nonzero_fixed64(7, span.start);
    out.nonzero_fixed64(8, span.start.saturating_add(span.duration));
    let room = ATTRIBUTES_MAX - MARKS.len();
    for &index in sorted.attributes.iter().take(room) {
        let Tag { key, value } = &span.tags[index];
        attribute(out, 9, key, value);
    }
    for (flag, key) in MARKS {
        if span.flags & flag != 0 {
            out.attribute_bool(9, key, true);
        }
    }
    let [attributes, events, mut links] = sorted.dropped;
    out.nonzero_varint(10, attributes + beyond(sorted.attributes.len(), room));
    for (number, log) in span.logs.iter().enumerate() {
        write_event(out, log.time, span.fields_of(number));
    }
    out.nonzero_varint(12, events);
    for (place, reference) in span.references.iter().enumerate() {
        if told == Some(place) {
            continue;
        }
        if reference.trace_id == [0; 16] || reference.id == [0; 8] {
            links += 1;
            continue;
        }
        out.message(13, |link| {
            link.bytes(1, reference.trace_id);
            link.bytes(2, reference.id);
            link.attribute_str(
                4,
                REFERENCE_TYPE,
                match reference.kind {
                    ReferenceKind::ChildOf => "child_of",
                    ReferenceKind::FollowsFrom => "follows_from",
                },
            );
        });
    }
    out.nonzero_varint(14, links);
    if sorted.code != 0 {
        out.message(15, |status| {
            status.nonempty_bytes(2, sorted.message.map_or(&[][..], text));
            status.varint(3, sorted.code);
        });
    }
    if span.flags & SAMPLED != 0 {
        out.fixed32(16, SAMPLED);
    }
    out.close(message);
}

/// A log: its name is the field `event`, or else `message`.
fn write_event(out: &mut Encoder, time: u64, fields: &[Tag<'_>]) {
    let named = |name: &[u8]| {
        let is = |field: &Tag<'_>| {
            *field.key == *name && matches!(&field.value, Value::Text(text) if !text.is_empty())
        };
        fields.iter().position(is)
    };
    let name = named(b"event").or_else(|| named(b"message"));
    let event = out.open_large(11);
    out.nonzero_fixed64(1, time);
    if let Some(Tag { value: Value::Text(name), .. }) = name.map(|name| &fields[name]) {
        out.bytes(2, name);
    }
    let others = fields.iter().enumerate().filter(|(place, _)| Some(*place) != name);
    for (_, Tag { key, value }) in others.take(ATTRIBUTES_MAX) {
        attribute(out, 3, key, value);
    }
    out.nonzero_varint(4, beyond(fields.len() - usize::from(name.is_some()), ATTRIBUTES_MAX));
    out.close(event);
}

fn attribute(out: &mut Encoder, field: u32, key: &[u8], value: &Value<'_>) {
    match value {
        Value::Text(text) => out.attribute_str(field, key, text),
        Value::Double(number) => out.attribute_double(field, key, *number),
        Value::Bool(flag) => out.attribute_bool(field, key, *flag),
        Value::Int(number) => out.attribute_int(field, key, *number),
        Value::Bytes(bytes) => out.attribute_bytes(field, key, bytes),
    }
}

fn beyond(count: usize, room: usize) -> u64 {
    count.saturating_sub(room) as u64
}

// === what tags say ===

fn kind(value: &Value<'_>) -> Option<u64> {
    const KINDS: [(&[u8], u64); 5] =
        [(b"internal", 1), (b"server", KIND_SERVER), (b"client", 3), (b"producer", 4), (b"consumer", 5)];
    let Value::Text(text) = value else { return None };
    KINDS.iter().find(|(name, _)| text.eq_ignore_ascii_case(name)).map(|(_, kind)| *kind)
}

/// A count other than zero.
fn count(value: &Value<'_>) -> Option<u64> {
    match value {
        Value::Int(count) => u32::try_from(*count).ok().filter(|count| *count != 0).map(u64::from),
        Value::Text(_) | Value::Double(_) | Value::Bool(_) | Value::Bytes(_) => None,
    }
}

/// True, or the word for it.
fn is_true(value: &Value<'_>) -> bool {
    match value {
        Value::Bool(flag) => *flag,
        Value::Text(text) => text.eq_ignore_ascii_case(b"true"),
        Value::Double(_) | Value::Int(_) | Value::Bytes(_) => false,
    }
}

fn status_code(value: &Value<'_>) -> Option<u64> {
    const CODES: [(&[u8], u64); 3] = [(b"unset", 0), (b"ok", STATUS_OK), (b"error", STATUS_ERROR)];
    let Value::Text(text) = value else { return None };
    CODES.iter().find(|(name, _)| text.eq_ignore_ascii_case(name)).map(|(_, code)| *code)
}

/// A status of HTTP, in whatever type: Node's clients send every number as a double.
fn http_status(value: &Value<'_>) -> Option<i64> {
    match value {
        Value::Int(number) => Some(*number),
        Value::Double(number) if number.fract() == 0.0 && number.abs() < 1e6 => Some(*number as i64),
        Value::Text(text) => core::str::from_utf8(text).ok()?.trim().parse().ok(),
        Value::Double(_) | Value::Bool(_) | Value::Bytes(_) => None,
    }
}

/// What the other side did wrong is no failure of a server.
fn is_failure(status: i64, kind: u64) -> bool {
    match status {
        100..=399 => false,
        400..=499 => kind != KIND_SERVER,
        _ => true,
    }
}
