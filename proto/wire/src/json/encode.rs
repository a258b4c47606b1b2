//! Protobuf to OTLP/JSON.

use std::borrow::Cow;

use super::MESSAGES_DEPTH_MAX;
use super::decode::root;
use super::schema::{FIELDS_MAX, Field, Kind, Message, Rule};
use super::writer::Writer;
use crate::reader::{Malformed, Reader, Value, unzigzag, varint};
use crate::signal::Signal;

/// Appends the OTLP/JSON of a request to `out`.
///
/// Keys stand in the order of the protobuf numbers; defaults and unknown fields are left out; strings that
/// are not UTF-8 get U+FFFD in the place of what is not.
///
/// # Errors
/// [`Malformed`] where the body is no such request or its messages are nested too deep; `out` is as it was
/// then.
pub fn to_json(signal: Signal, body: &[u8], out: &mut Vec<u8>) -> Result<(), Malformed> {
    to_json_within(signal, body, usize::MAX, out).map_err(|unwritten| match unwritten {
        Unwritten::Malformed(malformed) => malformed,
        Unwritten::TooLong => Malformed { at: 0, what: "its JSON is longer than memory" },
    })
}

/// Why a request was not written as JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unwritten {
    /// The body is no such request, or its messages are nested too deep.
    Malformed(Malformed),
    /// Its JSON is longer than it may be.
    TooLong,
}

/// As [`to_json`], but stops where `out` would become longer than `bytes_max`: looked at before each value, so it may
/// hold 4 KiB more by keys and brackets. As the buffer doubles when it grows, its capacity stays below twice that.
///
/// # Errors
/// [`Unwritten`]; `out` is as it was then, but for its capacity.
pub fn to_json_within(
    signal: Signal,
    body: &[u8],
    bytes_max: usize,
    out: &mut Vec<u8>,
) -> Result<(), Unwritten> {
    let out_before = Writer::append_to(core::mem::take(out));
    let mut transcoder = Transcoder { out: out_before, orderly: true, bytes_max, too_long: false };
    let start = transcoder.out.len();
    let mut written = transcoder.object(root(signal), body, 1);
    if written.is_ok() && !transcoder.orderly {
        transcoder.out.truncate(start);
        written = transcoder.object(root(signal), body, 1);
    }
    if written.is_err() {
        transcoder.out.truncate(start);
    }
    let too_long = transcoder.too_long;
    *out = transcoder.out.into_bytes();
    written.map_err(|malformed| if too_long { Unwritten::TooLong } else { Unwritten::Malformed(malformed) })
}

/// Bytes of the longest number in quotes.
const NUMBER_BYTES_MAX: usize = 32;

struct Transcoder {
    out: Writer,
    /// Every message so far had its fields in the order of their numbers and no single field twice, as all
    /// encoders write them, so that it could be written while it was read. At the first that does not,
    /// everything is begun again the other way: once, whatever a hostile body holds.
    orderly: bool,
    bytes_max: usize,
    /// It stopped because of `bytes_max`.
    too_long: bool,
}

/// Where a field stands in its message.
#[derive(Clone, Copy, Default)]
struct Place<'a> {
    /// From its first to its last occurrence.
    start: usize,
    end: usize,
    count: usize,
    last: Option<Value<'a>>,
}

impl Transcoder {
    /// `depth` counts messages, so the recursion has a bound.
    fn object(&mut self, message: &'static Message, bytes: &[u8], depth: usize) -> Result<(), Malformed> {
        if depth > MESSAGES_DEPTH_MAX {
            return Err(Malformed { at: 0, what: "messages are nested deeper than 64" });
        }
        if self.orderly {
            self.orderly = self.object_in_order(message, bytes, depth)?;
            return Ok(());
        }
        self.object_in_any_order(message, bytes, depth)
    }

    /// One pass. Says no where the order, here or further down, turns out to be another; what has been
    /// written is worth nothing then.
    fn object_in_order(
        &mut self,
        message: &'static Message,
        bytes: &[u8],
        depth: usize,
    ) -> Result<bool, Malformed> {
        // The index of the last field of the table, plus one; whether it was a list, which may go on.
        let mut last = 0;
        let mut in_list = false;
        let mut first = true;
        let mut one_of = false;
        self.out.literal(b"{");
        let mut reader = Reader::new(bytes);
        while let Some(found) = reader.next()? {
            let from = last.max(1) - 1;
            let ahead = message.fields[from..].iter().take_while(|known| known.number < found.number).count();
            let Some(field) = message.fields.get(from + ahead) else {
                continue;
            };
            if field.number != found.number || !fits(field, found.value) {
                // An unknown number, or a known one that stands further to the front.
                if message.fields[..from].iter().any(|known| known.number == found.number) {
                    return Ok(false);
                }
                continue;
            }
            let index = from + ahead + 1;
            let again = index == last;
            last = index;
            let base = found.end - length(found.value);
            match field.rule {
                Rule::Repeated if again => self.out.literal(b","),
                _ if again => return Ok(false),
                Rule::OneOf if core::mem::replace(&mut one_of, true) => return Ok(false),
                Rule::Single if is_default(found.value) && !matches!(field.kind, Kind::Message(_)) => {
                    continue;
                }
                rule => {
                    if core::mem::replace(&mut in_list, rule == Rule::Repeated) {
                        self.out.literal(b"]");
                    }
                    self.key(field, &mut first);
                    if in_list {
                        self.out.literal(b"[");
                    }
                }
            }
            if in_list {
                self.elements(field, found.value, depth).map_err(|malformed| malformed.shifted(base))?;
            } else {
                self.value(field, found.value, depth).map_err(|malformed| malformed.shifted(base))?;
            }
            if !self.orderly {
                return Ok(false);
            }
        }
        if in_list {
            self.out.literal(b"]");
        }
        self.out.literal(b"}");
        Ok(true)
    }

    /// Two passes: where each field stands, then field by field.
    fn object_in_any_order(
        &mut self,
        message: &'static Message,
        bytes: &[u8],
        depth: usize,
    ) -> Result<(), Malformed> {
        let places = places(message, bytes)?;
        self.out.literal(b"{");
        let mut first = true;
        for (field, place) in message.fields.iter().zip(&places) {
            let Some(last) = place.last else { continue };
            if field.rule == Rule::Single && is_default(last) && !matches!(field.kind, Kind::Message(_)) {
                continue;
            }
            if field.rule == Rule::OneOf && is_overruled(message, &places, place) {
                continue;
            }
            self.key(field, &mut first);
            match (field.rule, field.kind) {
                (Rule::Repeated, _) => self
                    .list(field, &bytes[place.start..place.end], depth)
                    .map_err(|malformed| malformed.shifted(place.start))?,
                (Rule::Single, Kind::Message(inner)) if place.count > 1 => {
                    self.object(inner, &merged(field, bytes), depth + 1)?;
                }
                _ => self
                    .value(field, last, depth)
                    .map_err(|malformed| malformed.shifted(place.end - length(last)))?,
            }
        }
        self.out.literal(b"}");
        Ok(())
    }

    fn key(&mut self, field: &'static Field, first: &mut bool) {
        if !core::mem::take(first) {
            self.out.literal(b",");
        }
        self.out.literal(b"\"");
        self.out.raw(field.name);
        self.out.literal(b"\":");
    }

    fn list(&mut self, field: &'static Field, window: &[u8], depth: usize) -> Result<(), Malformed> {
        self.out.literal(b"[");
        let start = self.out.len();
        let mut reader = Reader::new(window);
        while let Some(found) = reader.next()? {
            if found.number != field.number || !fits(field, found.value) {
                continue;
            }
            if self.out.len() > start {
                self.out.literal(b",");
            }
            self.elements(field, found.value, depth)
                .map_err(|malformed| malformed.shifted(found.end - length(found.value)))?;
        }
        self.out.literal(b"]");
        Ok(())
    }

    /// One element of a list, or a packed row of them.
    fn elements(&mut self, field: &'static Field, value: Value<'_>, depth: usize) -> Result<(), Malformed> {
        match (field.kind, value) {
            (Kind::Fixed64 | Kind::Sfixed64 | Kind::Double, Value::Bytes(packed)) => {
                let (numbers, []) = packed.as_chunks::<8>() else {
                    return Err(Malformed { at: 0, what: "a packed list ends inside a number" });
                };
                for (index, number) in numbers.iter().enumerate() {
                    if index > 0 {
                        self.out.literal(b",");
                    }
                    self.value(field, Value::Fixed64(u64::from_le_bytes(*number)), depth)?;
                }
            }
            (Kind::Uint64, Value::Bytes(packed)) => {
                let mut at = 0;
                while at < packed.len() {
                    if at > 0 {
                        self.out.literal(b",");
                    }
                    let number;
                    (number, at) = varint(packed, at)?;
                    self.value(field, Value::Varint(number), depth)?;
                }
            }
            (_, value) => self.value(field, value, depth)?,
        }
        Ok(())
    }

    fn value(&mut self, field: &'static Field, value: Value<'_>, depth: usize) -> Result<(), Malformed> {
        self.look_at_length(field.kind, value)?;
        let out = &mut self.out;
        match (field.kind, value) {
            (Kind::Message(message), Value::Bytes(bytes)) => self.object(message, bytes, depth + 1)?,
            (Kind::String, Value::Bytes(text)) => out.string(text),
            (Kind::Id, Value::Bytes(id)) => quoted(out, |out| out.hex(id)),
            (Kind::Bytes, Value::Bytes(bytes)) => quoted(out, |out| out.base64(bytes)),
            (Kind::Bool, Value::Varint(flag)) => out.bool(flag != 0),
            // Readers of protobuf cut 32-bit numbers to size.
            (Kind::Uint32, Value::Varint(number)) => out.u64(u64::from(number as u32)),
            (Kind::Enum, Value::Varint(number)) => out.i64(i64::from(number as i32)),
            (Kind::Sint32, Value::Varint(number)) => out.i64(unzigzag(u64::from(number as u32))),
            (Kind::Fixed32, Value::Fixed32(number)) => out.u64(u64::from(number)),
            (Kind::Uint64, Value::Varint(number)) | (Kind::Fixed64, Value::Fixed64(number)) => {
                quoted(out, |out| out.u64(number));
            }
            (Kind::Int64, Value::Varint(number)) | (Kind::Sfixed64, Value::Fixed64(number)) => {
                quoted(out, |out| out.i64(number.cast_signed()));
            }
            (Kind::Double, Value::Fixed64(bits)) => out.f64(f64::from_bits(bits)),
            // `fits` has let nothing else through.
            _ => out.literal(b"null"),
        }
        Ok(())
    }
}

impl Transcoder {
    /// Whether there is room for one more value; a message's own values are looked at one by one.
    #[inline]
    fn look_at_length(&mut self, kind: Kind, value: Value<'_>) -> Result<(), Malformed> {
        // Bytes of a string may become six, and there are quotes.
        let most = match (kind, value) {
            (Kind::Message(_), _) => 2,
            (_, Value::Bytes(bytes)) => bytes.len().saturating_mul(6).saturating_add(2),
            _ => NUMBER_BYTES_MAX,
        };
        if self.out.len().saturating_add(most) <= self.bytes_max {
            return Ok(());
        }
        self.look_closer(kind, value)
    }

    #[cold]
    #[inline(never)]
    fn look_closer(&mut self, kind: Kind, value: Value<'_>) -> Result<(), Malformed> {
        let needed = match (kind, value) {
            (Kind::String, Value::Bytes(text)) => {
                let wide = if core::str::from_utf8(text).is_ok() { 1 } else { 3 };
                let escaped = |byte: &u8| match byte {
                    b'"' | b'\\' | b'\n' | b'\r' | b'\t' | 0x08 | 0x0c => 2,
                    0..0x20 => 6,
                    0x20..0x80 => 1,
                    0x80.. => wide,
                };
                text.iter().map(escaped).fold(2, usize::saturating_add)
            }
            (Kind::Id, Value::Bytes(id)) => 2 + 2 * id.len(),
            (Kind::Bytes, Value::Bytes(bytes)) => 2 + 4 * bytes.len().div_ceil(3),
            _ => 2,
        };
        self.too_long = self.out.len().saturating_add(needed) > self.bytes_max;
        if self.too_long { Err(Malformed { at: 0, what: "its JSON is too long" }) } else { Ok(()) }
    }
}

/// One pass over a message: where each field of the table stands. What has a foreign wire type is unknown.
fn places<'a>(message: &'static Message, bytes: &'a [u8]) -> Result<[Place<'a>; FIELDS_MAX], Malformed> {
    let mut places = [Place::default(); FIELDS_MAX];
    let mut index = 0;
    let mut reader = Reader::new(bytes);
    while let Some(field) = reader.next()? {
        // Fields come in the order of their numbers, or nearly so.
        if message.fields.get(index).is_none_or(|known| known.number > field.number) {
            index = 0;
        }
        index += message.fields[index..].iter().take_while(|known| known.number < field.number).count();
        let Some(known) = message.fields.get(index) else {
            index = 0;
            continue;
        };
        if known.number != field.number || !fits(known, field.value) {
            continue;
        }
        let place = &mut places[index];
        if place.count == 0 {
            place.start = field.start;
        }
        place.end = field.end;
        place.count += 1;
        place.last = Some(field.value);
    }
    Ok(places)
}

/// Whether a value has the field's wire type, or is a packed row of it. An empty row says nothing.
fn fits(field: &Field, value: Value<'_>) -> bool {
    match (field.kind, value) {
        (Kind::String | Kind::Bytes | Kind::Id | Kind::Message(_), Value::Bytes(_))
        | (
            Kind::Bool | Kind::Uint32 | Kind::Enum | Kind::Sint32 | Kind::Uint64 | Kind::Int64,
            Value::Varint(_),
        )
        | (Kind::Fixed32, Value::Fixed32(_))
        | (Kind::Fixed64 | Kind::Sfixed64 | Kind::Double, Value::Fixed64(_)) => true,
        (_, Value::Bytes(row)) => field.rule == Rule::Repeated && !row.is_empty(),
        _ => false,
    }
}

/// Bytes of a message or string; only those can be malformed in themselves.
fn length(value: Value<'_>) -> usize {
    value.bytes().map_or(0, <[u8]>::len)
}

const fn is_default(value: Value<'_>) -> bool {
    match value {
        Value::Varint(number) | Value::Fixed64(number) => number == 0,
        Value::Fixed32(number) => number == 0,
        Value::Bytes(bytes) => bytes.is_empty(),
    }
}

/// Whether another of the alternatives stands behind this one; the last counts.
fn is_overruled(message: &Message, places: &[Place<'_>; FIELDS_MAX], place: &Place<'_>) -> bool {
    let mut alternatives = message.fields.iter().zip(places).filter(|(field, _)| field.rule == Rule::OneOf);
    alternatives.any(|(_, other)| other.end > place.end)
}

/// A message that stands more than once is one message, and its bytes in a row are that message (protobuf,
/// "merging").
fn merged<'a>(field: &Field, bytes: &'a [u8]) -> Cow<'a, [u8]> {
    let mut reader = Reader::new(bytes);
    let mut merged = Vec::new();
    while let Ok(Some(found)) = reader.next() {
        if let (true, Value::Bytes(part)) = (found.number == field.number, found.value) {
            merged.extend_from_slice(part);
        }
    }
    Cow::Owned(merged)
}

#[inline]
fn quoted(out: &mut Writer, write: impl FnOnce(&mut Writer)) {
    out.literal(b"\"");
    write(out);
    out.literal(b"\"");
}
