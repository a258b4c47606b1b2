//! Zipkin v2 protobuf: `zipkin.proto3.ListOfSpans { repeated Span spans = 1 }`.
//!
//! Looser than the reference server in nothing, as loose in this: trace ids of 64 bits, a kind that is
//! unknown, a tag without a key or an annotation without both of its parts, which are passed over.

use weir_guest::wire::reader::{Malformed, Reader, Value};

use crate::span::{
    Annotation, Endpoint, Fault, Kind, Span, Tag, Text, add, byte_id, lower_case, micros, not_zero, text,
};

/// Reads a list and hands on each of its spans, complete.
pub(crate) fn read<'a>(
    body: &'a [u8],
    mut take: impl FnMut(&mut Span<'a>) -> Result<(), Fault>,
) -> Result<(), Fault> {
    let mut list = Reader::new(body);
    let mut span = Span::default();
    while let Some(field) = list.next()? {
        if let (1, Value::Bytes(message)) = (field.number, field.value) {
            span.clear();
            read_span(message, &mut span)?;
            span.complete()?;
            take(&mut span)?;
        }
    }
    Ok(())
}

fn read_span<'a>(message: &'a [u8], span: &mut Span<'a>) -> Result<(), Fault> {
    let mut fields = Reader::new(message);
    while let Some(field) = fields.next()? {
        match (field.number, field.value) {
            (1, Value::Bytes(id)) => span.trace_id = not_zero("traceId", byte_id("traceId", id)?)?,
            (2, Value::Bytes(id)) => span.parent_id = byte_id("parentId", id)?,
            (3, Value::Bytes(id)) => span.id = not_zero("id", byte_id("id", id)?)?,
            (4, Value::Varint(kind)) => {
                span.kind = match kind {
                    1 => Some(Kind::Client),
                    2 => Some(Kind::Server),
                    3 => Some(Kind::Producer),
                    4 => Some(Kind::Consumer),
                    _ => span.kind,
                };
            }
            (5, Value::Bytes(name)) => span.name = lower_case(text(name)?),
            (6, Value::Fixed64(time)) => span.timestamp = micros(time.cast_signed()),
            (7, Value::Varint(time)) => span.duration = micros(time.cast_signed()),
            (8, Value::Bytes(endpoint)) => span.local = read_endpoint(endpoint)?,
            (9, Value::Bytes(endpoint)) => span.remote = read_endpoint(endpoint)?,
            (10, Value::Bytes(annotation)) => {
                if let Some(annotation) = read_annotation(annotation)? {
                    add(&mut span.annotations, annotation)?;
                }
            }
            (11, Value::Bytes(tag)) => {
                if let Some(tag) = read_tag(tag)? {
                    add(&mut span.tags, tag)?;
                }
            }
            (12, Value::Varint(flag)) => span.debug |= flag != 0,
            (13, Value::Varint(flag)) => span.shared |= flag != 0,
            _ => {} // unknown, or of a foreign wire type
        }
    }
    Ok(())
}

fn read_endpoint(message: &[u8]) -> Result<Endpoint<'_>, Fault> {
    let mut endpoint = Endpoint::default();
    let mut fields = Reader::new(message);
    while let Some(field) = fields.next()? {
        match (field.number, field.value) {
            (1, Value::Bytes(name)) => endpoint.service = lower_case(text(name)?),
            (2 | 3, Value::Bytes(address)) => endpoint.take_address(address),
            // An int32: the upper half of the varint is a sign.
            (4, Value::Varint(port)) => endpoint.take_port(i64::from(port as i32))?,
            _ => {} // as above
        }
    }
    Ok(endpoint)
}

fn read_annotation(message: &[u8]) -> Result<Option<Annotation<'_>>, Fault> {
    let (mut timestamp, mut value) = (0, None);
    let mut fields = Reader::new(message);
    while let Some(field) = fields.next()? {
        match (field.number, field.value) {
            (1, Value::Fixed64(time)) => timestamp = time.cast_signed(),
            (2, Value::Bytes(bytes)) => value = Some(text(bytes)?),
            _ => {} // as above
        }
    }
    Ok(value.filter(|_| timestamp != 0).map(|value| Annotation { timestamp, value }))
}

fn read_tag(message: &[u8]) -> Result<Option<Tag<'_>>, Fault> {
    let (mut key, mut value) = (None, Text::default());
    let mut fields = Reader::new(message);
    while let Some(field) = fields.next()? {
        match (field.number, field.value) {
            (1, Value::Bytes(bytes)) => key = Some(text(bytes)?),
            (2, Value::Bytes(bytes)) => value = text(bytes)?,
            _ => {} // as above
        }
    }
    Ok(key.map(|key| Tag { key, value }))
}

impl From<Malformed> for Fault {
    fn from(malformed: Malformed) -> Self {
        Self::malformed(malformed.to_string())
    }
}
