//! Zipkin v1 thrift (`zipkin-api/thrift/zipkinCore.thrift`): a list of spans in the binary protocol, without a message
//! around it.
//!
//! ```text
//! Span              1 trace_id  3 name  4 id  5 parent_id  6 annotations  8 binary_annotations  9 debug
//!                   10 timestamp  11 duration  12 trace_id_high
//! Annotation        1 timestamp  2 value  3 host
//! BinaryAnnotation  1 key  2 value  3 type: bool 0, bytes 1, i16 2, i32 3, i64 4, double 5, string 6  4 host
//! Endpoint          1 ipv4  2 port  3 service_name  4 ipv6
//! ```
//!
//! Looser than the reference server in one thing: a binary annotation that is a number, or a bool that is no address, becomes
//! a tag with its text instead of nothing. One of bytes is passed over, as there.

use weir_thrift::{Malformed, Protocol, Reader};

use crate::span::{Annotation, Endpoint, Fault, Span, Tag, Text, lower_case, text};
use crate::v1::V1;

/// The thrift type of a struct, and the one that an old reporter wrote for it.
const STRUCTS: [u8; 2] = [12, 11];

/// Bytes of the list's head: the type of its elements and their number.
const HEAD_BYTES: usize = 5;

/// Whether a body begins as such a list.
pub(crate) fn is_list(body: &[u8]) -> bool {
    body.len() >= HEAD_BYTES && STRUCTS.contains(&body[0])
}

/// Reads a list and hands on the v2 spans of each of its spans, complete.
pub(crate) fn read<'a>(
    body: &'a [u8],
    mut take: impl FnMut(&mut Span<'a>) -> Result<(), Fault>,
) -> Result<(), Fault> {
    let Some((head, structs)) = body.split_first_chunk::<HEAD_BYTES>() else {
        return Err(Fault::malformed("the list's head is cut"));
    };
    let [_, count @ ..] = *head;
    let mut reader = Reader::new(structs, Protocol::Binary);
    for _ in 0..u32::from_be_bytes(count) {
        for mut span in read_span(&mut reader)?.finish()? {
            take(&mut span)?;
        }
    }
    Ok(())
}

fn read_span<'a>(reader: &mut Reader<'a>) -> Result<V1<'a>, Fault> {
    let mut span = V1::default();
    let mut fields = reader.begin()?;
    while let Some((id, kind)) = reader.field(&mut fields)? {
        use weir_thrift::Type::{Binary, Bool, I64, List};
        match (id, kind) {
            (1, I64) => span.trace_id[8..].copy_from_slice(&reader.i64()?.to_be_bytes()),
            (3, Binary) => span.name = lower_case(text(reader.text()?)?),
            (4, I64) => span.id = reader.i64()?.to_be_bytes(),
            (5, I64) => span.parent_id = reader.i64()?.to_be_bytes(),
            (6, List) => each(reader, |reader| annotation(reader, &mut span))?,
            (8, List) => each(reader, |reader| binary_annotation(reader, &mut span))?,
            (9, Bool) => span.debug |= reader.bool()?,
            (10, I64) => span.timestamp = reader.i64()?,
            (11, I64) => span.duration = reader.i64()?,
            (12, I64) => span.trace_id[..8].copy_from_slice(&reader.i64()?.to_be_bytes()),
            _ => reader.skip(kind)?,
        }
    }
    Ok(span)
}

/// Each struct of a list.
fn each<'a>(
    reader: &mut Reader<'a>,
    mut element: impl FnMut(&mut Reader<'a>) -> Result<(), Fault>,
) -> Result<(), Fault> {
    let (kind, count) = reader.list()?;
    for _ in 0..count {
        if kind == weir_thrift::Type::Struct { element(reader)? } else { reader.skip(kind)? }
    }
    Ok(())
}

fn annotation<'a>(reader: &mut Reader<'a>, span: &mut V1<'a>) -> Result<(), Fault> {
    let (mut timestamp, mut value, mut host) = (0, None, None);
    let mut fields = reader.begin()?;
    while let Some((id, kind)) = reader.field(&mut fields)? {
        use weir_thrift::Type::{Binary, I64, Struct};
        match (id, kind) {
            (1, I64) => timestamp = reader.i64()?,
            (2, Binary) => value = Some(text(reader.text()?)?),
            (3, Struct) => host = endpoint(reader)?,
            _ => reader.skip(kind)?,
        }
    }
    match value {
        Some(value) if timestamp != 0 => span.annotate(Annotation { timestamp, value }, host),
        _ => Ok(()),
    }
}

fn binary_annotation<'a>(reader: &mut Reader<'a>, span: &mut V1<'a>) -> Result<(), Fault> {
    let (mut key, mut value, mut of, mut host) = (None, None, -1, None);
    let mut fields = reader.begin()?;
    while let Some((id, kind)) = reader.field(&mut fields)? {
        use weir_thrift::Type::{Binary, I32, Struct};
        match (id, kind) {
            (1, Binary) => key = Some(text(reader.text()?)?),
            (2, Binary) => value = Some(reader.text()?),
            (3, I32) => of = reader.i32()?,
            (4, Struct) => host = endpoint(reader)?,
            _ => reader.skip(kind)?,
        }
    }
    let (Some(key), Some(value)) = (key, value) else { return Ok(()) };
    if of == 0 && value == [1] && matches!(&*key, b"ca" | b"sa" | b"ma") {
        if let Some(host) = host {
            span.address(&key, host);
        }
        return Ok(());
    }
    match told(of, value)? {
        Some(value) => span.tag(Tag { key, value }, host),
        None => Ok(()),
    }
}

/// A value as text; nothing for bytes, for a type that nobody knows, and for what is too short for its type. What is too
/// long is read from its beginning: Go's clients have written such.
fn told(of: i32, value: &[u8]) -> Result<Option<Text<'_>>, Fault> {
    let number = match of {
        0 => value.first().map(|flag| (*flag != 0).to_string()),
        2 => value.first_chunk().map(|bytes| i16::from_be_bytes(*bytes).to_string()),
        3 => value.first_chunk().map(|bytes| i32::from_be_bytes(*bytes).to_string()),
        4 => value.first_chunk().map(|bytes| i64::from_be_bytes(*bytes).to_string()),
        5 => value.first_chunk().map(|bytes| f64::from_be_bytes(*bytes).to_string()),
        6 => return text(value).map(Some),
        _ => None,
    };
    Ok(number.map(|number| number.into_bytes().into()))
}

/// An endpoint of which something is known.
fn endpoint<'a>(reader: &mut Reader<'a>) -> Result<Option<Endpoint<'a>>, Fault> {
    let mut endpoint = Endpoint::default();
    let mut fields = reader.begin()?;
    while let Some((id, kind)) = reader.field(&mut fields)? {
        use weir_thrift::Type::{Binary, I16, I32};
        match (id, kind) {
            // Zero is none: the field is not optional.
            (1, I32) => match reader.i32()? {
                0 => {}
                ipv4 => endpoint.take_address(&ipv4.to_be_bytes()),
            },
            (2, I16) => endpoint.port = reader.i16()?.cast_unsigned(),
            (3, Binary) => endpoint.service = lower_case(text(reader.text()?)?),
            (4, Binary) => endpoint.take_address(reader.text()?),
            _ => reader.skip(kind)?,
        }
    }
    Ok(Some(endpoint).filter(|endpoint| !endpoint.is_absent()))
}

impl From<Malformed> for Fault {
    fn from(malformed: Malformed) -> Self {
        Self::malformed(malformed.to_string())
    }
}
