//! `jaeger.api_v2.PostSpansRequest { Batch batch = 1 }`.
//!
//! ```text
//! Batch     1 spans  2 process               Process  1 service_name  2 tags
//! Span      1 trace_id  2 span_id  3 operation_name  4 references  5 flags  6 start_time  7 duration  8 tags  9 logs
//!           10 process, which takes the place of the batch's
//! SpanRef   1 trace_id  2 span_id  3 ref_type: child of 0, follows from 1
//! Log       1 timestamp  2 fields
//! KeyValue  1 key  2 v_type: string 0, bool 1, int64 2, float64 3, binary 4  3 v_str  4 v_bool  5 v_int64  6 v_float64
//!           7 v_binary
//! ```
//!
//! The numbers of `v_type` are not those of the thrift.

use weir_guest::wire::reader::Malformed;
use weir_guest::wire::{Reader, reader};

use crate::otlp::Request;
use crate::span::{Fault, Log, Process, Reference, ReferenceKind, Span, Tag, Text, Value, add, text};

/// Nanoseconds of a second.
const SECOND: u64 = 1_000_000_000;

/// Reads a request.
pub(crate) fn read(message: &[u8]) -> Result<Request, Fault> {
    let mut request = Request::default();
    let mut fields = Reader::new(message);
    while let Some(field) = fields.next()? {
        if let (1, reader::Value::Bytes(batch)) = (field.number, field.value) {
            read_batch(batch, &mut request)?;
        }
    }
    Ok(request)
}

fn read_batch(batch: &[u8], request: &mut Request) -> Result<(), Fault> {
    let mut common = Process::default();
    let mut fields = Reader::new(batch);
    while let Some(field) = fields.next()? {
        if let (2, reader::Value::Bytes(process)) = (field.number, field.value) {
            read_process(process, &mut common)?;
        }
    }
    request.process(&mut common);
    let mut span = Span::default();
    let mut fields = Reader::new(batch);
    while let Some(field) = fields.next()? {
        let (1, reader::Value::Bytes(message)) = (field.number, field.value) else { continue };
        span.clear();
        let mut own = read_span(message, &mut span)?;
        request.own_process(own.as_mut());
        request.add(&mut span)?;
    }
    Ok(())
}

fn read_process<'a>(message: &'a [u8], process: &mut Process<'a>) -> Result<(), Fault> {
    let mut fields = Reader::new(message);
    while let Some(field) = fields.next()? {
        match (field.number, field.value) {
            (1, reader::Value::Bytes(service)) => process.service = text(service)?,
            (2, reader::Value::Bytes(pair)) => add(&mut process.tags, tag(pair)?)?,
            _ => {} // unknown, or of a foreign wire type
        }
    }
    Ok(())
}

/// Returns the span's own process.
fn read_span<'a>(message: &'a [u8], span: &mut Span<'a>) -> Result<Option<Process<'a>>, Fault> {
    let mut own = None;
    let mut fields = Reader::new(message);
    while let Some(field) = fields.next()? {
        match (field.number, field.value) {
            (1, reader::Value::Bytes(bytes)) => span.trace_id = trace_id(bytes)?,
            (2, reader::Value::Bytes(bytes)) => span.id = span_id(bytes)?,
            (3, reader::Value::Bytes(name)) => span.name = text(name)?,
            (4, reader::Value::Bytes(other)) => add(&mut span.references, reference(other)?)?,
            (5, reader::Value::Varint(flags)) => span.flags = flags as u32,
            (6, reader::Value::Bytes(time)) => span.start = nanos(time)?,
            (7, reader::Value::Bytes(time)) => span.duration = nanos(time)?,
            (8, reader::Value::Bytes(pair)) => add(&mut span.tags, tag(pair)?)?,
            (9, reader::Value::Bytes(entry)) => log(entry, span)?,
            (10, reader::Value::Bytes(process)) => read_process(process, own.get_or_insert_default())?,
            _ => {} // as above
        }
    }
    Ok(own)
}

fn reference(message: &[u8]) -> Result<Reference, Fault> {
    let mut reference = Reference { kind: ReferenceKind::ChildOf, trace_id: [0; 16], id: [0; 8] };
    let mut fields = Reader::new(message);
    while let Some(field) = fields.next()? {
        match (field.number, field.value) {
            (1, reader::Value::Bytes(bytes)) => reference.trace_id = trace_id(bytes)?,
            (2, reader::Value::Bytes(bytes)) => reference.id = span_id(bytes)?,
            (3, reader::Value::Varint(0)) => reference.kind = ReferenceKind::ChildOf,
            (3, reader::Value::Varint(_)) => reference.kind = ReferenceKind::FollowsFrom,
            _ => {} // as above
        }
    }
    Ok(reference)
}

fn log<'a>(message: &'a [u8], span: &mut Span<'a>) -> Result<(), Fault> {
    let (mut time, fields_from) = (0, span.fields.len());
    let mut fields = Reader::new(message);
    while let Some(field) = fields.next()? {
        match (field.number, field.value) {
            (1, reader::Value::Bytes(bytes)) => time = nanos(bytes)?,
            (2, reader::Value::Bytes(pair)) => add(&mut span.fields, tag(pair)?)?,
            _ => {} // as above
        }
    }
    add(&mut span.logs, Log { time, fields_from })
}

fn tag(message: &[u8]) -> Result<Tag<'_>, Fault> {
    let (mut key, mut of) = (Text::default(), 0);
    let (mut told, mut flag, mut long, mut double, mut bytes) = (&[][..], false, 0, 0.0, &[][..]);
    let mut fields = Reader::new(message);
    while let Some(field) = fields.next()? {
        match (field.number, field.value) {
            (1, reader::Value::Bytes(name)) => key = text(name)?,
            (2, reader::Value::Varint(number)) => of = number,
            (3, reader::Value::Bytes(value)) => told = value,
            (4, reader::Value::Varint(value)) => flag = value != 0,
            (5, reader::Value::Varint(value)) => long = value.cast_signed(),
            (6, reader::Value::Fixed64(bits)) => double = f64::from_bits(bits),
            (7, reader::Value::Bytes(value)) => bytes = value,
            _ => {} // as above
        }
    }
    let value = match of {
        0 => Value::Text(text(told)?),
        1 => Value::Bool(flag),
        2 => Value::Int(long),
        3 => Value::Double(double),
        4 => Value::Bytes(bytes),
        other => Value::Text(Text::from(format!("<Unknown Jaeger TagType {other}>").into_bytes())),
    };
    Ok(Tag { key, value })
}

/// 16 bytes, high half first, or 8, which are the low one.
fn trace_id(bytes: &[u8]) -> Result<[u8; 16], Fault> {
    let mut id = [0; 16];
    match bytes.len() {
        16 => id.copy_from_slice(bytes),
        8 => id[8..].copy_from_slice(bytes),
        0 => {}
        other => return Err(Fault::new(format!("invalid length for TraceID: {other}"))),
    }
    Ok(id)
}

fn span_id(bytes: &[u8]) -> Result<[u8; 8], Fault> {
    match (bytes.len(), bytes.try_into()) {
        (_, Ok(id)) => Ok(id),
        (0, Err(_)) => Ok([0; 8]),
        (other, Err(_)) => Err(Fault::new(format!("invalid length for SpanID: {other}"))),
    }
}

/// A `Timestamp` or a `Duration`: seconds in field 1, nanoseconds in field 2. What is negative is no time.
fn nanos(message: &[u8]) -> Result<u64, Fault> {
    let (mut seconds, mut nanos) = (0, 0);
    let mut fields = Reader::new(message);
    while let Some(field) = fields.next()? {
        match (field.number, field.value) {
            (1, reader::Value::Varint(value)) => seconds = value,
            (2, reader::Value::Varint(value)) => nanos = value,
            _ => {} // as above
        }
    }
    let fits = seconds < u64::MAX / SECOND && nanos < SECOND;
    Ok(if fits { seconds * SECOND + nanos } else { 0 })
}

impl From<Malformed> for Fault {
    fn from(malformed: Malformed) -> Self {
        Self::new(malformed.to_string())
    }
}
