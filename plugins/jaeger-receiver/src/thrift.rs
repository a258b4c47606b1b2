//! `jaeger.thrift`: a batch alone (HTTP), or as the argument of `emitBatch` (datagrams).
//!
//! ```text
//! Batch    1 process  2 spans                Process  1 serviceName  2 tags
//! Span     1 traceIdLow  2 traceIdHigh  3 spanId  4 parentSpanId  5 operationName  6 references  7 flags
//!          8 startTime  9 duration  10 tags  11 logs
//! SpanRef  1 refType: child of 0, follows from 1  2 traceIdLow  3 traceIdHigh  4 spanId
//! Log      1 timestamp  2 fields
//! Tag      1 key  2 vType: string 0, double 1, bool 2, long 3, binary 4  3 vStr  4 vDouble  5 vBool  6 vLong  7 vBinary
//! ```
//!
//! Node's clients write all five values of every tag: `vType` alone says which one counts.

use weir_thrift::Type::{Binary, Bool, Double, I32, I64, List, Struct};
use weir_thrift::{Malformed, Protocol, Reader};

use crate::otlp::Request;
use crate::span::{Fault, Log, Process, Reference, ReferenceKind, Span, Tag, Text, Value, add, text};

/// The method whose argument is a batch.
const EMIT_BATCH: &[u8] = b"emitBatch";

/// A batch alone, in the binary protocol.
pub(crate) fn read_batch(body: &[u8]) -> Result<Request, Fault> {
    batch(&mut Reader::new(body, Protocol::Binary))
}

/// A message with a batch.
pub(crate) fn read_message(datagram: &[u8], protocol: Protocol) -> Result<Request, Fault> {
    let mut reader = Reader::new(datagram, protocol);
    let message = reader.message()?;
    if message.name != EMIT_BATCH {
        let name = String::from_utf8_lossy(&message.name[..message.name.len().min(64)]).into_owned();
        return Err(Fault::new(format!("method {name:?}: this receiver takes emitBatch only")));
    }
    let mut request = None;
    let mut fields = reader.begin()?;
    while let Some((id, kind)) = reader.field(&mut fields)? {
        match (id, kind) {
            (1, Struct) => request = Some(batch(&mut reader)?),
            _ => reader.skip(kind)?,
        }
    }
    request.ok_or_else(|| missing("the batch"))
}

fn batch(reader: &mut Reader<'_>) -> Result<Request, Fault> {
    let mut request = Request::default();
    let (mut has_process, mut has_spans, mut waiting) = (false, false, None);
    let mut fields = reader.begin()?;
    while let Some((id, kind)) = reader.field(&mut fields)? {
        match (id, kind) {
            (1, Struct) => {
                request.process(&mut process(reader)?);
                has_process = true;
            }
            (2, List) if has_process => {
                spans(reader, &mut request)?;
                has_spans = true;
            }
            // Nobody sends them in this order, but it may be done.
            (2, List) => {
                waiting = Some(reader.clone());
                reader.skip(kind)?;
            }
            _ => reader.skip(kind)?,
        }
    }
    match (has_process, has_spans, waiting) {
        (false, ..) => Err(missing("Process")),
        (true, false, None) => Err(missing("Spans")),
        (true, true, _) => Ok(request),
        (true, false, Some(mut waiting)) => spans(&mut waiting, &mut request).map(|()| request),
    }
}

fn process<'a>(reader: &mut Reader<'a>) -> Result<Process<'a>, Fault> {
    let mut process = Process::default();
    let mut fields = reader.begin()?;
    while let Some((id, kind)) = reader.field(&mut fields)? {
        match (id, kind) {
            (1, Binary) => process.service = text(reader.text()?)?,
            (2, List) => tags(reader, &mut process.tags)?,
            _ => reader.skip(kind)?,
        }
    }
    Ok(process)
}

fn spans(reader: &mut Reader<'_>, request: &mut Request) -> Result<(), Fault> {
    let mut span = Span::default();
    each(reader, |reader| {
        span.clear();
        read_span(reader, &mut span)?;
        request.add(&mut span)
    })
}

fn read_span<'a>(reader: &mut Reader<'a>, span: &mut Span<'a>) -> Result<(), Fault> {
    let mut fields = reader.begin()?;
    while let Some((id, kind)) = reader.field(&mut fields)? {
        match (id, kind) {
            (1, I64) => span.trace_id[8..].copy_from_slice(&reader.i64()?.to_be_bytes()),
            (2, I64) => span.trace_id[..8].copy_from_slice(&reader.i64()?.to_be_bytes()),
            (3, I64) => span.id = reader.i64()?.to_be_bytes(),
            (4, I64) => span.parent_id = reader.i64()?.to_be_bytes(),
            (5, Binary) => span.name = text(reader.text()?)?,
            (6, List) => each(reader, |reader| add(&mut span.references, reference(reader)?))?,
            (7, I32) => span.flags = reader.i32()?.cast_unsigned(),
            (8, I64) => span.start = nanos(reader.i64()?),
            (9, I64) => span.duration = nanos(reader.i64()?),
            (10, List) => tags(reader, &mut span.tags)?,
            (11, List) => each(reader, |reader| log(reader, span))?,
            _ => reader.skip(kind)?,
        }
    }
    Ok(())
}

fn reference(reader: &mut Reader<'_>) -> Result<Reference, Fault> {
    let mut reference = Reference { kind: ReferenceKind::ChildOf, trace_id: [0; 16], id: [0; 8] };
    let mut fields = reader.begin()?;
    while let Some((id, kind)) = reader.field(&mut fields)? {
        match (id, kind) {
            (1, I32) => {
                reference.kind = match reader.i32()? {
                    0 => ReferenceKind::ChildOf,
                    _ => ReferenceKind::FollowsFrom,
                };
            }
            (2, I64) => reference.trace_id[8..].copy_from_slice(&reader.i64()?.to_be_bytes()),
            (3, I64) => reference.trace_id[..8].copy_from_slice(&reader.i64()?.to_be_bytes()),
            (4, I64) => reference.id = reader.i64()?.to_be_bytes(),
            _ => reader.skip(kind)?,
        }
    }
    Ok(reference)
}

fn log<'a>(reader: &mut Reader<'a>, span: &mut Span<'a>) -> Result<(), Fault> {
    let (mut time, fields_from) = (None, span.fields.len());
    let mut fields = reader.begin()?;
    while let Some((id, kind)) = reader.field(&mut fields)? {
        match (id, kind) {
            (1, I64) => time = Some(nanos(reader.i64()?)),
            (2, List) => tags(reader, &mut span.fields)?,
            _ => reader.skip(kind)?,
        }
    }
    let time = time.ok_or_else(|| missing("Timestamp"))?;
    add(&mut span.logs, Log { time, fields_from })
}

fn tags<'a>(reader: &mut Reader<'a>, tags: &mut Vec<Tag<'a>>) -> Result<(), Fault> {
    each(reader, |reader| add(tags, tag(reader)?))
}

fn tag<'a>(reader: &mut Reader<'a>) -> Result<Tag<'a>, Fault> {
    let (mut key, mut of) = (None, None);
    let (mut told, mut double, mut flag, mut long, mut bytes) = (&[][..], 0.0, false, 0, &[][..]);
    let mut fields = reader.begin()?;
    while let Some((id, kind)) = reader.field(&mut fields)? {
        match (id, kind) {
            (1, Binary) => key = Some(text(reader.text()?)?),
            (2, I32) => of = Some(reader.i32()?),
            (3, Binary) => told = reader.text()?,
            (4, Double) => double = reader.double()?,
            (5, Bool) => flag = reader.bool()?,
            (6, I64) => long = reader.i64()?,
            (7, Binary) => bytes = reader.text()?,
            _ => reader.skip(kind)?,
        }
    }
    let value = match of.ok_or_else(|| missing("VType"))? {
        0 => Value::Text(text(told)?),
        1 => Value::Double(double),
        2 => Value::Bool(flag),
        3 => Value::Int(long),
        4 => Value::Bytes(bytes),
        other => Value::Text(Text::from(format!("<Unknown Jaeger TagType {other}>").into_bytes())),
    };
    Ok(Tag { key: key.ok_or_else(|| missing("Key"))?, value })
}

/// Each struct of a list.
fn each<'a>(
    reader: &mut Reader<'a>,
    mut element: impl FnMut(&mut Reader<'a>) -> Result<(), Fault>,
) -> Result<(), Fault> {
    let (kind, count) = reader.list()?;
    for _ in 0..count {
        if kind == Struct { element(reader)? } else { reader.skip(kind)? }
    }
    Ok(())
}

/// Microseconds as nanoseconds; what is negative, or after the year 2554, is no time.
fn nanos(micros: i64) -> u64 {
    // Not `checked_mul`, which is a call of a 128-bit multiplication in the sandbox.
    u64::try_from(micros).ok().filter(|micros| *micros <= u64::MAX / 1_000).map_or(0, |micros| micros * 1_000)
}

/// In the words of Thrift's own readers.
fn missing(field: &str) -> Fault {
    Fault::new(format!("required field {field} is not set"))
}

impl From<Malformed> for Fault {
    fn from(malformed: Malformed) -> Self {
        Self::new(malformed.to_string())
    }
}
