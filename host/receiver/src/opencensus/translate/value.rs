//! Texts, ids, times and attributes: what spans, metrics and nodes have in common.

use std::borrow::Cow;

use weir_wire::{Field, Malformed, Reader, Value};

use super::{Output, TranslateError};

/// A message field that may be absent. Where it stands twice its bytes are joined, which is how protobuf merges.
pub(super) type Slot<'a> = Option<Cow<'a, [u8]>>;

/// What an attribute is where its library set no value.
const UNKNOWN_VALUE: &str = "<Unknown OpenCensus attribute value type>";

/// Puts a message field into its slot.
#[inline]
pub(super) fn put<'a>(slot: &mut Slot<'a>, bytes: &'a [u8]) {
    match slot {
        None => *slot = Some(Cow::Borrowed(bytes)),
        Some(before) => before.to_mut().extend_from_slice(bytes),
    }
}

/// The bytes of a text, bytes or message field.
#[inline]
pub(super) fn message<'a>(field: &Field<'a>) -> Result<&'a [u8], Malformed> {
    field.value.bytes().ok_or_else(|| foreign(field))
}

/// The number of a varint field.
#[inline]
pub(super) fn number(field: &Field<'_>) -> Result<u64, Malformed> {
    field.value.varint().ok_or_else(|| foreign(field))
}

/// The number of a `double` field.
#[inline]
pub(super) fn double(field: &Field<'_>) -> Result<f64, Malformed> {
    match field.value {
        Value::Fixed64(bits) => Ok(f64::from_bits(bits)),
        Value::Varint(_) | Value::Bytes(_) | Value::Fixed32(_) => Err(foreign(field)),
    }
}

#[cold]
fn foreign(field: &Field<'_>) -> Malformed {
    Malformed { at: field.start, what: "a known field has a foreign wire type" }
}

/// An `int32` that counts something; a negative count is none.
pub(super) fn count(number: u64) -> u32 {
    // Truncation is how protobuf reads an int32 that was written as 64 bits.
    u32::try_from(number as i32).unwrap_or(0)
}

/// An id of `N` bytes, or nothing where it is absent or all zeros.
///
/// Twice its length in hex is decoded, a longer one is cut, a shorter one is filled with zeros at its end.
#[inline]
pub(super) fn id<const N: usize>(raw: &[u8]) -> Option<[u8; N]> {
    let id = match raw.first_chunk::<N>() {
        Some(id) if raw.len() == N => *id,
        Some(id) if raw.len() == 2 * N => hex(raw).unwrap_or(*id),
        Some(id) => *id,
        None => {
            let mut id = [0; N];
            id[..raw.len()].copy_from_slice(raw);
            id
        }
    };
    (id != [0; N]).then_some(id)
}

/// `N` bytes from their hex digits of either case.
pub(super) fn hex<const N: usize>(digits: &[u8]) -> Option<[u8; N]> {
    if digits.len() != 2 * N {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let high = char::from(pair[0]).to_digit(16)?;
        let low = char::from(pair[1]).to_digit(16)?;
        *byte = (high << 4 | low) as u8;
    }
    Some(bytes)
}

/// A moment as seconds and nanoseconds.
///
/// ```text
/// Timestamp   seconds int64 = 1 · nanos int32 = 2
/// ```
pub(super) fn moment(timestamp: &[u8]) -> Result<(i64, i32), Malformed> {
    let (mut seconds, mut nanos) = (0, 0);
    let mut reader = Reader::new(timestamp);
    while let Some(field) = reader.next()? {
        match field.number {
            1 => seconds = number(&field)?.cast_signed(),
            2 => nanos = number(&field)? as i32,
            _ => {}
        }
    }
    Ok((seconds, nanos))
}

/// Nanoseconds since 1970 of a timestamp that may be absent; 0 where OTLP cannot say it.
#[inline]
pub(super) fn unix_nanos(timestamp: Option<&[u8]>) -> Result<u64, Malformed> {
    let Some(timestamp) = timestamp else { return Ok(0) };
    let (seconds, nanos) = moment(timestamp)?;
    let nanos = i128::from(seconds) * 1_000_000_000 + i128::from(nanos);
    Ok(u64::try_from(nanos).unwrap_or(0))
}

/// The number in a wrapper message (`BoolValue`, `UInt32Value`, `Int64Value`).
pub(super) fn wrapped(wrapper: &[u8]) -> Result<u64, Malformed> {
    let mut value = 0;
    let mut reader = Reader::new(wrapper);
    while let Some(field) = reader.next()? {
        if field.number == 1 {
            value = number(&field)?;
        }
    }
    Ok(value)
}

/// The number in a `DoubleValue`.
pub(super) fn wrapped_double(wrapper: &[u8]) -> Result<f64, Malformed> {
    let mut value = 0.0;
    let mut reader = Reader::new(wrapper);
    while let Some(field) = reader.next()? {
        if field.number == 1 {
            value = double(&field)?;
        }
    }
    Ok(value)
}

/// The text of a `TruncatableString`; how much its library cut off is not kept.
#[inline]
pub(super) fn truncatable(message_bytes: &[u8]) -> Result<&[u8], Malformed> {
    let mut text: &[u8] = &[];
    let mut reader = Reader::new(message_bytes);
    while let Some(field) = reader.next()? {
        if field.number == 1 {
            text = message(&field)?;
        }
    }
    Ok(text)
}

/// Key and value of a map's entry, the value absent where the encoder left it out.
#[inline]
pub(super) fn entry(entry_bytes: &[u8]) -> Result<(&[u8], &[u8]), Malformed> {
    let (mut key, mut value): (&[u8], &[u8]) = (&[], &[]);
    let mut reader = Reader::new(entry_bytes);
    while let Some(field) = reader.next()? {
        match field.number {
            1 => key = message(&field)?,
            2 => value = message(&field)?,
            _ => {}
        }
    }
    Ok((key, value))
}

/// A text as OTLP may have it: UTF-8, and not longer than `bytes_max`.
pub(super) fn text<'a>(raw: &'a [u8], bytes_max: usize, cut: &mut u32, repaired: &mut u32) -> Cow<'a, str> {
    let is_long = raw.len() > bytes_max;
    // Four bytes more, so that a letter across the border is seen whole.
    let within = if is_long { &raw[..(bytes_max.saturating_add(4)).min(raw.len())] } else { raw };
    let mut text = match std::str::from_utf8(within) {
        Ok(text) => Cow::Borrowed(text),
        // The border fell into a letter that goes on behind it.
        Err(error) if is_long && error.error_len().is_none() => {
            Cow::Borrowed(std::str::from_utf8(&within[..error.valid_up_to()]).expect("valid up to there"))
        }
        Err(_) => {
            *repaired += 1;
            String::from_utf8_lossy(within).into_owned().into()
        }
    };
    if is_long || text.len() > bytes_max {
        *cut += 1;
        let mut end = bytes_max.min(text.len());
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        match &mut text {
            Cow::Borrowed(text) => *text = &text[..end],
            Cow::Owned(text) => text.truncate(end),
        }
    }
    text
}

/// An attribute's value.
///
/// ```text
/// AttributeValue   string_value TruncatableString = 1 · int_value int64 = 2 · bool_value = 3 · double_value = 4
/// ```
#[derive(Debug, Clone, Copy)]
pub(super) enum Attribute<'a> {
    Text(&'a [u8]),
    Int(i64),
    Bool(bool),
    Double(f64),
    Unset,
}

impl<'a> Attribute<'a> {
    /// Reads a value; of several the last counts, as in every oneof.
    #[inline]
    pub(super) fn read(value: &'a [u8]) -> Result<Self, Malformed> {
        let mut attribute = Self::Unset;
        let mut reader = Reader::new(value);
        while let Some(field) = reader.next()? {
            attribute = match field.number {
                1 => Self::Text(truncatable(message(&field)?)?),
                2 => Self::Int(number(&field)?.cast_signed()),
                3 => Self::Bool(number(&field)? != 0),
                4 => Self::Double(double(&field)?),
                _ => continue,
            };
        }
        Ok(attribute)
    }
}

impl Output<'_> {
    /// A text as OTLP may have it; nearly all are short and ASCII.
    #[inline]
    pub(super) fn text<'a>(&mut self, raw: &'a [u8]) -> Cow<'a, [u8]> {
        if raw.len() <= self.limits.text_bytes_max && raw.is_ascii() {
            Cow::Borrowed(raw)
        } else {
            self.odd_text(raw)
        }
    }

    #[cold]
    fn odd_text<'a>(&mut self, raw: &'a [u8]) -> Cow<'a, [u8]> {
        let tally = &mut self.tally;
        match text(raw, self.limits.text_bytes_max, &mut tally.texts_cut, &mut tally.texts_repaired) {
            Cow::Borrowed(text) => Cow::Borrowed(text.as_bytes()),
            Cow::Owned(text) => Cow::Owned(text.into_bytes()),
        }
    }

    /// Writes an attribute into repeated field `field`.
    #[inline]
    pub(super) fn attribute(&mut self, field: u32, key: &[u8], value: Attribute<'_>) {
        let key = self.text(key);
        match value {
            Attribute::Text(text) => {
                let text = self.text(text);
                self.out.attribute_str(field, key, text);
            }
            Attribute::Int(value) => self.out.attribute_int(field, key, value),
            Attribute::Bool(value) => self.out.attribute_bool(field, key, value),
            Attribute::Double(value) => self.out.attribute_double(field, key, value),
            Attribute::Unset => self.out.attribute_str(field, key, UNKNOWN_VALUE),
        }
    }

    /// Writes the attributes of a span, an event or a link, at most `max` of them; what `special` takes is not written.
    /// Returns how many were dropped, here and by the library.
    ///
    /// ```text
    /// Attributes   attribute_map = 1, repeated entries · dropped_attributes_count int32 = 2
    /// ```
    #[inline]
    pub(super) fn attributes<'a>(
        &mut self,
        field: u32,
        attributes: &'a [u8],
        max: usize,
        mut special: impl FnMut(&'a [u8], Attribute<'a>) -> bool,
    ) -> Result<u32, TranslateError> {
        let (mut written, mut dropped, mut cut) = (0, 0, 0u32);
        let mut reader = Reader::new(attributes);
        while let Some(member) = reader.next()? {
            match member.number {
                1 => {
                    let (key, value) = entry(message(&member)?)?;
                    let value = Attribute::read(value)?;
                    if written == max {
                        cut += 1;
                        continue;
                    }
                    written += 1;
                    if !special(key, value) {
                        self.attribute(field, key, value);
                    }
                }
                2 => dropped = count(number(&member)?),
                _ => {}
            }
        }
        self.tally.attributes_cut = self.tally.attributes_cut.saturating_add(cut);
        Ok(dropped.saturating_add(cut))
    }

    /// W3C's spelling of a trace state, into `field`; nothing for an empty one.
    ///
    /// ```text
    /// Tracestate   entries = 1, repeated      Entry   key = 1 · value = 2
    /// ```
    pub(super) fn trace_state(&mut self, field: u32, state: &[u8]) -> Result<(), TranslateError> {
        let mut spelled = Vec::new();
        let mut reader = Reader::new(state);
        while let Some(member) = reader.next()? {
            if member.number == 1 {
                let (key, value) = entry(message(&member)?)?;
                if !spelled.is_empty() {
                    spelled.push(b',');
                }
                spelled.extend_from_slice(key);
                spelled.push(b'=');
                spelled.extend_from_slice(value);
            }
        }
        let spelled = self.text(&spelled);
        self.out.nonempty_bytes(field, spelled);
        Ok(())
    }
}
