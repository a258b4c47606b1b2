//! One pass over a batch: a thrift batch for each resource.
//!
//! ```text
//! Resource ──▶ Process: service.name, tags
//! Span     ──▶ ids, operationName, startTime, duration, flags
//!   parent, links ──▶ references, the parent first
//!   attributes ──▶ tags; jaeger.debug and jaeger.firehose are flags again
//!   scope, kind, status, tracestate, dropped counts ──▶ tags
//!   events ──▶ logs, the name as field `event`
//! ```

use weir_guest::json::JsonWriter;
use weir_guest::wire::Malformed;
use weir_guest::wire::otlp::{
    AnyValue, EventView, KeyValues, LinkView, ResourceGroup, ScopeView, SpanView, resource_groups,
};
use weir_thrift::{Fields, OpenList, Protocol, Type, Writer};

use crate::tags::{Tags, put_text};

/// Bytes of all batches. An instance has 64 MiB, of which they take three times this while one of them grows.
const BODY_BYTES_MAX: usize = 16 << 20;

/// The service's name where there is none, as OpenTelemetry wants it.
const UNKNOWN_SERVICE: &[u8] = b"unknown_service";

/// The attribute of a link that says what the other span is to this one.
const REFERENCE_TYPE: &[u8] = b"opentracing.ref_type";

const CHILD_OF: i32 = 0;
const FOLLOWS_FROM: i32 = 1;

/// Jaeger's flags: sampled, and the two that `jaeger-receiver` keeps as attributes.
const SAMPLED: i32 = 1;
const MARKS: [(&[u8], i32); 2] = [(b"jaeger.debug", 2), (b"jaeger.firehose", 8)];

const STATUS_OK: i32 = 1;
const STATUS_ERROR: i32 = 2;

/// Bodies for Jaeger.
#[derive(Debug, PartialEq, Eq)]
pub struct Encoded {
    /// A `Batch` each.
    pub batches: Vec<Vec<u8>>,
    /// Spans that are in none, since their ids are no ids.
    pub invalid: u32,
}

/// Why there are no bodies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The batch is not made of whole messages, or a value in it is nested too deep.
    Malformed(Malformed),
    /// The bodies would be larger than an instance can hold: half of the batch may fit.
    TooLarge,
}

impl From<Malformed> for Failure {
    fn from(malformed: Malformed) -> Self {
        Self::Malformed(malformed)
    }
}

/// One `Batch` that is being written.
struct Open<'a> {
    /// The bytes of its `Resource`.
    resource: &'a [u8],
    writer: Writer,
    spans: OpenList,
    count: u32,
}

/// Writes the spans of an `ExportTraceServiceRequest` for Jaeger. Neighbours with one resource share a batch.
///
/// # Errors
/// [`Failure`]; nothing is sent then.
pub fn encode(body: &[u8]) -> Result<Encoded, Failure> {
    let mut encoded = Encoded { batches: Vec::new(), invalid: 0 };
    let (mut open, mut bytes, mut scratch): (Option<Open<'_>>, _, _) = (None, 0, JsonWriter::default());
    for group in resource_groups(body) {
        let group = group?;
        if open.as_ref().is_none_or(|open| open.resource != group.resource) {
            let next = Open::begin(&group, &mut scratch)?;
            if let Some(batch) = open.replace(next).and_then(Open::finish) {
                bytes += batch.len();
                encoded.batches.push(batch);
            }
        }
        let Some(open) = &mut open else { continue };
        for scope in group.scopes() {
            let scope = scope?;
            let scope_view = scope.scope_view()?;
            for span in scope.spans() {
                if !open.span(&span?, &scope_view, &mut scratch)? {
                    encoded.invalid += 1;
                }
                if bytes + open.writer.len() > BODY_BYTES_MAX {
                    return Err(Failure::TooLarge);
                }
            }
        }
    }
    encoded.batches.extend(open.and_then(Open::finish));
    Ok(encoded)
}

impl<'a> Open<'a> {
    fn begin(group: &ResourceGroup<'a>, scratch: &mut JsonWriter) -> Result<Self, Malformed> {
        let (mut writer, mut fields) = (Writer::new(Protocol::Binary), Fields::default());
        let resource = group.resource_view();
        let service = resource.get_str("service.name").filter(|name| !name.is_empty());
        writer.field(&mut fields, 1, Type::Struct);
        let mut process = Fields::default();
        writer.field(&mut process, 1, Type::Binary);
        put_text(&mut writer, service.unwrap_or(UNKNOWN_SERVICE));
        let mut tags = Tags::open(&mut writer, &mut process, 2);
        for attribute in resource.attributes() {
            let attribute = attribute?;
            if !(service.is_some() && attribute.key == b"service.name") {
                tags.attribute(attribute.key, &attribute.value, scratch)?;
            }
        }
        tags.close();
        writer.stop();
        writer.field(&mut fields, 2, Type::List);
        let spans = writer.open_list(Type::Struct);
        Ok(Self { resource: group.resource, writer, spans, count: 0 })
    }

    /// The batch; nothing where it has no spans.
    fn finish(self) -> Option<Vec<u8>> {
        let Self { mut writer, spans, count, resource: _ } = self;
        writer.close_list(spans, count);
        writer.stop();
        (count > 0).then(|| writer.finish())
    }

    /// Writes a span. `false`: its ids are no ids.
    fn span(
        &mut self,
        span: &SpanView<'_>,
        scope: &ScopeView<'_>,
        scratch: &mut JsonWriter,
    ) -> Result<bool, Malformed> {
        let (Some((high, low)), Some(id)) = (trace_id(span.trace_id), span_id(span.span_id)) else {
            return Ok(false);
        };
        let parent = span_id(span.parent_span_id).unwrap_or(0);
        let (start, end) = (span.start_time_unix_nano, span.end_time_unix_nano);
        let writer = &mut self.writer;
        let mut fields = Fields::default();
        for (number, value) in [(1, low), (2, high), (3, id), (4, parent)] {
            writer.field(&mut fields, number, Type::I64);
            writer.i64(value);
        }
        writer.field(&mut fields, 5, Type::Binary);
        put_text(writer, span.name);
        references(writer, &mut fields, span, (high, low, parent))?;
        writer.field(&mut fields, 7, Type::I32);
        writer.i32(flags(span)?);
        for (number, nanos) in [(8, start), (9, end.saturating_sub(start))] {
            writer.field(&mut fields, number, Type::I64);
            writer.i64(micros(nanos));
        }
        let mut tags = Tags::open(writer, &mut fields, 10);
        span_tags(&mut tags, span, scope, scratch)?;
        tags.close();
        writer.field(&mut fields, 11, Type::List);
        let logs = writer.open_list(Type::Struct);
        let mut count = 0;
        for event in span.events() {
            log(writer, &event?, scratch)?;
            count += 1;
        }
        writer.close_list(logs, count);
        writer.stop();
        self.count += 1;
        Ok(true)
    }
}

/// The parent, then the links. A link to the parent only says what kind of reference that is.
fn references(
    writer: &mut Writer,
    fields: &mut Fields,
    span: &SpanView<'_>,
    (high, low, parent): (i64, i64, i64),
) -> Result<(), Malformed> {
    let target = |link: &LinkView<'_>| Some((trace_id(link.trace_id)?, span_id(link.span_id)?));
    let to_parent = Some(((high, low), parent));
    let mut kind = CHILD_OF;
    for link in span.links() {
        let link = link?;
        if target(&link) == to_parent {
            kind = reference_type(&link)?;
        }
    }
    writer.field(fields, 6, Type::List);
    let list = writer.open_list(Type::Struct);
    let mut count = 0;
    if parent != 0 {
        reference(writer, kind, (high, low), parent);
        count += 1;
    }
    for link in span.links() {
        let link = link?;
        let found = target(&link);
        let Some((trace, id)) = found.filter(|_| found != to_parent) else { continue };
        reference(writer, reference_type(&link)?, trace, id);
        count += 1;
    }
    writer.close_list(list, count);
    Ok(())
}

fn reference(writer: &mut Writer, kind: i32, (high, low): (i64, i64), id: i64) {
    let mut fields = Fields::default();
    writer.field(&mut fields, 1, Type::I32);
    writer.i32(kind);
    for (number, value) in [(2, low), (3, high), (4, id)] {
        writer.field(&mut fields, number, Type::I64);
        writer.i64(value);
    }
    writer.stop();
}

fn reference_type(link: &LinkView<'_>) -> Result<i32, Malformed> {
    for attribute in link.attributes() {
        let attribute = attribute?;
        if attribute.key == REFERENCE_TYPE {
            let is_child = matches!(attribute.value, AnyValue::String(b"child_of"));
            return Ok(if is_child { CHILD_OF } else { FOLLOWS_FROM });
        }
    }
    Ok(FOLLOWS_FROM)
}

/// Attributes, and what Jaeger has no field for.
fn span_tags(
    tags: &mut Tags<'_>,
    span: &SpanView<'_>,
    scope: &ScopeView<'_>,
    scratch: &mut JsonWriter,
) -> Result<(), Malformed> {
    for attribute in span.attributes() {
        let attribute = attribute?;
        if mark(attribute.key, &attribute.value).is_none() {
            tags.attribute(attribute.key, &attribute.value, scratch)?;
        }
    }
    for attribute in scope.attributes() {
        let attribute = attribute?;
        tags.attribute(attribute.key, &attribute.value, scratch)?;
    }
    let kinds: [&[u8]; 6] = [b"", b"internal", b"server", b"client", b"producer", b"consumer"];
    let kind = usize::try_from(span.kind).ok().and_then(|kind| kinds.get(kind)).copied();
    let (code, error): (&[u8], bool) = match span.status.code {
        STATUS_OK => (b"OK", false),
        STATUS_ERROR => (b"ERROR", true),
        _ => (b"", false),
    };
    let description = if error { span.status.message } else { b"" };
    for (key, text) in [
        (&b"otel.scope.name"[..], scope.name),
        (b"otel.scope.version", scope.version),
        (b"span.kind", kind.unwrap_or_default()),
        (b"otel.status_code", code),
        (b"otel.status_description", description),
        (b"w3c.tracestate", span.trace_state),
    ] {
        if !text.is_empty() {
            tags.text(key, text);
        }
    }
    if error {
        tags.bool(b"error", true);
    }
    for (key, count) in [
        (&b"otel.dropped_attributes_count"[..], span.dropped_attributes_count),
        (b"otel.dropped_events_count", span.dropped_events_count),
        (b"otel.dropped_links_count", span.dropped_links_count),
    ] {
        if count != 0 {
            tags.long(key, i64::from(count));
        }
    }
    Ok(())
}

fn log(writer: &mut Writer, event: &EventView<'_>, scratch: &mut JsonWriter) -> Result<(), Malformed> {
    let mut fields = Fields::default();
    writer.field(&mut fields, 1, Type::I64);
    writer.i64(micros(event.time_unix_nano));
    let mut tags = Tags::open(writer, &mut fields, 2);
    if !event.name.is_empty() && !has(event.attributes(), b"event")? {
        tags.text(b"event", event.name);
    }
    for attribute in event.attributes() {
        let attribute = attribute?;
        tags.attribute(attribute.key, &attribute.value, scratch)?;
    }
    tags.close();
    writer.stop();
    Ok(())
}

fn has(mut attributes: KeyValues<'_>, key: &[u8]) -> Result<bool, Malformed> {
    attributes.try_fold(false, |found, attribute| Ok(found || attribute?.key == key))
}

fn flags(span: &SpanView<'_>) -> Result<i32, Malformed> {
    let mut flags = if span.flags & 1 != 0 { SAMPLED } else { 0 };
    for attribute in span.attributes() {
        let attribute = attribute?;
        flags |= mark(attribute.key, &attribute.value).unwrap_or(0);
    }
    Ok(flags)
}

/// The flag that an attribute stands for.
fn mark(key: &[u8], value: &AnyValue<'_>) -> Option<i32> {
    let known = MARKS.iter().find(|(mark, _)| key == *mark);
    known.filter(|_| matches!(value, AnyValue::Bool(true))).map(|(_, flag)| *flag)
}

/// The high and the low half; nothing for what is no id.
fn trace_id(bytes: &[u8]) -> Option<(i64, i64)> {
    let id = u128::from_be_bytes(bytes.try_into().ok()?);
    let [high, low] = [(id >> 64) as u64, id as u64].map(u64::cast_signed);
    (id != 0).then_some((high, low))
}

fn span_id(bytes: &[u8]) -> Option<i64> {
    Some(i64::from_be_bytes(bytes.try_into().ok()?)).filter(|id| *id != 0)
}

fn micros(nanos: u64) -> i64 {
    // At most 2^64 / 1000, which fits.
    (nanos / 1_000).cast_signed()
}
