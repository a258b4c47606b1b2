//! One protobuf message, field by field, without copying.
//!
//! ```text
//! field    key varint (number << 3 | wire type) · value
//! value    0 varint · 1 eight bytes · 2 length varint, bytes · 5 four bytes      3 and 4 (groups) are refused
//! varint   at most ten bytes, seven bits each, low first; the tenth may only be 0 or 1
//! ```
//!
//! Lengths and keys need not be minimal; every encoder's spelling is read.

use core::fmt;

/// Bytes that are no protobuf message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed {
    /// Offset of the field at fault or of the varint in it, from the start of the slice that was handed to
    /// the function that failed.
    pub at: usize,
    /// What is wrong, a phrase for a person.
    pub what: &'static str,
}

impl Malformed {
    /// The same fault, seen from a message that begins `offset` bytes before this one.
    #[must_use]
    pub const fn shifted(self, offset: usize) -> Self {
        Self { at: self.at.saturating_add(offset), what: self.what }
    }
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "malformed protobuf at byte {}: {}", self.at, self.what)
    }
}

impl core::error::Error for Malformed {}

/// The value of a field, by wire type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// Wire type 0: integers, booleans, enumerations.
    Varint(u64),
    /// Wire type 1: `fixed64`, `sfixed64`, `double`.
    Fixed64(u64),
    /// Wire type 2: strings, bytes, messages, packed numbers.
    Bytes(&'a [u8]),
    /// Wire type 5: `fixed32`, `sfixed32`, `float`.
    Fixed32(u32),
}

/// One field as it stands in the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field<'a> {
    /// Field number, 1 to 2^29 - 1.
    pub number: u32,
    /// Its value.
    pub value: Value<'a>,
    /// Offset of the field's first key byte in the message.
    pub start: usize,
    /// Offset behind the field's last byte.
    pub end: usize,
}

/// A field's outline.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frame {
    /// Field number and wire type, as on the wire.
    pub(crate) key: u32,
    /// Offset of the field's first key byte in the message.
    pub(crate) start: usize,
    /// Offset of the bytes of a string, bytes or message field; anything for another wire type.
    pub(crate) payload: usize,
    /// Offset behind the field's last byte.
    pub(crate) end: usize,
}

/// Reads one message from its first to its last field.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    /// Starts at the first field of `message`.
    #[must_use]
    pub const fn new(message: &'a [u8]) -> Self {
        Self { bytes: message, at: 0 }
    }

    /// Offset of the next field.
    #[must_use]
    pub const fn at(&self) -> usize {
        self.at
    }

    /// The whole message.
    #[must_use]
    pub const fn message(&self) -> &'a [u8] {
        self.bytes
    }

    /// The next field, or nothing at the end.
    ///
    /// # Errors
    /// [`Malformed`] where the bytes are no field; the reader stands at that field then and says the same
    /// again.
    #[inline(always)]
    #[expect(
        clippy::should_implement_trait,
        reason = "an iterator of results can't be asked with `?` in a `while let`"
    )]
    #[expect(
        clippy::inline_always,
        reason = "out of line the field goes through memory, and reading a span takes half as long again"
    )]
    pub fn next(&mut self) -> Result<Option<Field<'a>>, Malformed> {
        // Nearly every field has a key of one byte, and a length or number that fits one byte.
        let start = self.at;
        if let Some((&[key @ 8..0x80, second], rest)) =
            self.bytes.get(start..).and_then(|rest| rest.split_first_chunk::<2>())
        {
            let number = u32::from(key >> 3);
            let field = match key & 7 {
                2 if usize::from(second) <= rest.len() && second < 0x80 => {
                    let end = start + 2 + usize::from(second);
                    Some(Field { number, value: Value::Bytes(&rest[..usize::from(second)]), start, end })
                }
                0 if second < 0x80 => {
                    Some(Field { number, value: Value::Varint(u64::from(second)), start, end: start + 2 })
                }
                _ => None,
            };
            if let Some(field) = field {
                self.at = field.end;
                return Ok(Some(field));
            }
        }
        let field = field(self.bytes, start)?;
        if let Some(field) = field {
            self.at = field.end;
        }
        Ok(field)
    }

    /// Passes over a run of short records (a length of one byte) that begin with the key byte `key`; says how
    /// many. What follows, whatever it is, is left to the other methods.
    #[inline]
    pub(crate) fn skip_run(&mut self, key: u8) -> usize {
        let mut count = 0;
        let mut at = self.at;
        while let Some([found, length @ 0..0x80]) =
            self.bytes.get(at..).and_then(|rest| rest.first_chunk::<2>())
            && *found == key
        {
            let end = at + 2 + usize::from(*length);
            if end > self.bytes.len() {
                break;
            }
            at = end;
            count += 1;
        }
        self.at = at;
        count
    }

    /// Takes a record of `LENGTH` bytes if one is there that begins with `head`; gives what stands behind the
    /// head.
    #[inline]
    pub(crate) fn take_exact<const HEAD: usize, const LENGTH: usize>(
        &mut self,
        head: [u8; HEAD],
    ) -> Option<&'a [u8]> {
        let record = self.bytes.get(self.at..)?.first_chunk::<LENGTH>()?;
        let (found, rest) = record.split_at(HEAD);
        if found != head {
            return None;
        }
        self.at += LENGTH;
        Some(rest)
    }

    /// Passes over a varint field with the key byte `key` if one is there and its value fits one byte.
    #[inline]
    pub(crate) fn skip_short_varint(&mut self, key: u8) {
        if let Some([found, 0..0x80]) = self.bytes.get(self.at..).and_then(|rest| rest.first_chunk::<2>())
            && *found == key
        {
            self.at += 2;
        }
    }

    /// The next field's outline: enough to pass over it, and half as much work as reading it.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "the walk spends its time here and nowhere else")]
    pub(crate) fn next_frame(&mut self) -> Result<Option<Frame>, Malformed> {
        let start = self.at;
        // Nearly every field has a key of one byte, and a length or number that fits one byte.
        if let Some([key @ 8..0x80, second]) =
            self.bytes.get(start..).and_then(|rest| rest.first_chunk::<2>())
        {
            let short = *second < 0x80;
            let length = match key & 7 {
                2 if short => 2 + usize::from(*second),
                0 if short => 2,
                1 => 9,
                5 => 5,
                _ => usize::MAX,
            };
            if length <= self.bytes.len() - start {
                self.at = start + length;
                return Ok(Some(Frame { key: u32::from(*key), start, payload: start + 2, end: self.at }));
            }
        }
        let frame = frame_unusual(self.bytes, start)?;
        if let Some(frame) = frame {
            self.at = frame.end;
        }
        Ok(frame)
    }
}

/// The field at `at`, however it is spelled. It takes and gives plain values: a reader handed over by
/// reference would have to live in memory, and its offset is what every step waits for.
fn field(message: &[u8], start: usize) -> Result<Option<Field<'_>>, Malformed> {
    if start == message.len() {
        return Ok(None);
    }
    let broken = |what| Malformed { at: start, what };
    let (key, at) = varint(message, start)?;
    let number = match u32::try_from(key >> 3) {
        Ok(number) if number != 0 && number < 1 << 29 => number,
        _ => return Err(broken("a field number is out of range")),
    };
    let (value, end) = match key & 7 {
        0 => {
            let (value, end) = varint(message, at)?;
            (Value::Varint(value), end)
        }
        1 => {
            let (bytes, end) = array(message, start, at)?;
            (Value::Fixed64(u64::from_le_bytes(bytes)), end)
        }
        2 => {
            let (length, at) = varint(message, at)?;
            let end = usize::try_from(length).ok().and_then(|length| at.checked_add(length));
            match end.and_then(|end| Some((message.get(at..end)?, end))) {
                Some((bytes, end)) => (Value::Bytes(bytes), end),
                None => return Err(broken("a length reaches beyond the message")),
            }
        }
        5 => {
            let (bytes, end) = array(message, start, at)?;
            (Value::Fixed32(u32::from_le_bytes(bytes)), end)
        }
        3 | 4 => return Err(broken("groups are not supported")),
        _ => return Err(broken("a wire type is unknown")),
    };
    Ok(Some(Field { number, value, start, end }))
}

#[inline]
fn array<const N: usize>(message: &[u8], start: usize, at: usize) -> Result<([u8; N], usize), Malformed> {
    match message.get(at..).and_then(|rest| rest.first_chunk::<N>()) {
        Some(bytes) => Ok((*bytes, at + N)),
        None => Err(Malformed { at: start, what: "the message ends inside a number" }),
    }
}

/// Reads a varint at `at`; returns it and the offset behind it.
///
/// # Errors
/// [`Malformed`] where the bytes end inside it or it does not fit 64 bits.
#[inline]
pub fn varint(bytes: &[u8], at: usize) -> Result<(u64, usize), Malformed> {
    match bytes.get(at) {
        // One byte is by far the commonest.
        Some(&byte) if byte < 0x80 => Ok((u64::from(byte), at + 1)),
        _ => varint_long(bytes, at),
    }
}

#[inline(never)]
fn varint_long(bytes: &[u8], at: usize) -> Result<(u64, usize), Malformed> {
    let mut value = 0u64;
    for index in 0..10 {
        let Some(&byte) = at.checked_add(index).and_then(|at| bytes.get(at)) else {
            return Err(Malformed { at, what: "the message ends inside a varint" });
        };
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte < 0x80 {
            if index == 9 && byte > 1 {
                break;
            }
            return Ok((value, at + index + 1));
        }
    }
    Err(Malformed { at, what: "a varint does not fit 64 bits" })
}

/// The outline of the field at `at`, however it is spelled. It takes and gives plain values: a reader handed
/// over by reference would have to live in memory, and its offset is what every step of a walk waits for.
#[inline(never)]
fn frame_unusual(message: &[u8], at: usize) -> Result<Option<Frame>, Malformed> {
    let mut reader = Reader { bytes: message, at };
    let Some(Field { number, value, start, end }) = reader.next()? else {
        return Ok(None);
    };
    let (wire_type, payload) = match value {
        Value::Varint(_) => (0, end),
        Value::Fixed64(_) => (1, end),
        Value::Bytes(bytes) => (2, end - bytes.len()),
        Value::Fixed32(_) => (5, end),
    };
    Ok(Some(Frame { key: number << 3 | wire_type, start, payload, end }))
}

// === impl Value ===

impl<'a> Value<'a> {
    /// The bytes of a string, bytes or message field; nothing for another wire type.
    #[must_use]
    pub const fn bytes(self) -> Option<&'a [u8]> {
        match self {
            Value::Bytes(bytes) => Some(bytes),
            Value::Varint(_) | Value::Fixed64(_) | Value::Fixed32(_) => None,
        }
    }

    /// The number of a varint field; nothing for another wire type.
    #[must_use]
    pub const fn varint(self) -> Option<u64> {
        match self {
            Value::Varint(value) => Some(value),
            Value::Bytes(_) | Value::Fixed64(_) | Value::Fixed32(_) => None,
        }
    }
}

/// Undoes zigzag, the spelling of `sint32` and `sint64`.
#[must_use]
pub const fn unzigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(bytes: &[u8]) -> Result<Vec<(u32, Value<'_>, usize, usize)>, Malformed> {
        let mut reader = Reader::new(bytes);
        let mut fields = Vec::new();
        while let Some(field) = reader.next()? {
            fields.push((field.number, field.value, field.start, field.end));
        }
        Ok(fields)
    }

    fn what(bytes: &[u8]) -> &'static str {
        all(bytes).expect_err("malformed").what
    }

    /// Scenario: one field of each wire type, the last with a two-byte key and a length spelled in two bytes.
    /// Guarantees: numbers, values and offsets are those of the bytes.
    #[test]
    fn every_wire_type_is_read_with_its_place() {
        let bytes = [
            0x08, 0x96, 0x01, 0x11, 1, 0, 0, 0, 0, 0, 0, 0, 0x1d, 2, 0, 0, 0, 0x82, 0x01, 0x82, 0x00, b'h',
            b'i',
        ];
        let fields = all(&bytes).expect("well formed");
        assert_eq!(
            fields,
            [
                (1, Value::Varint(150), 0, 3),
                (2, Value::Fixed64(1), 3, 12),
                (3, Value::Fixed32(2), 12, 17),
                (16, Value::Bytes(b"hi"), 17, 23),
            ]
        );
    }

    /// Scenario: each way in which a field can be broken.
    /// Guarantees: it is refused, with the reason.
    #[test]
    fn a_broken_field_is_refused_with_its_reason() {
        assert_eq!(what(&[0x00, 0x00]), "a field number is out of range");
        assert_eq!(what(&[0x80, 0x80, 0x80, 0x80, 0x10, 0]), "a field number is out of range");
        assert_eq!(what(&[0x0b]), "groups are not supported");
        assert_eq!(what(&[0x0c]), "groups are not supported");
        assert_eq!(what(&[0x0e]), "a wire type is unknown");
        assert_eq!(what(&[0x0a, 2, b'x']), "a length reaches beyond the message");
        assert_eq!(
            what(&[0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01]),
            "a length reaches beyond the message"
        );
        assert_eq!(what(&[0x09, 1, 2]), "the message ends inside a number");
        assert_eq!(what(&[0x08, 0x80]), "the message ends inside a varint");
        assert_eq!(
            what(&[0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02]),
            "a varint does not fit 64 bits"
        );
        assert_eq!(
            what(&[0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01]),
            "a varint does not fit 64 bits"
        );
    }

    /// Scenario: the largest varint, in ten bytes.
    /// Guarantees: it is read whole.
    #[test]
    fn the_largest_varint_is_read() {
        let bytes = [0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
        assert_eq!(all(&bytes).expect("well formed"), [(1, Value::Varint(u64::MAX), 0, 11)]);
    }

    /// Scenario: zigzag's first numbers and its ends.
    /// Guarantees: they are undone as the protobuf manual says.
    #[test]
    fn zigzag_is_undone() {
        assert_eq!([0, 1, 2, 3, u64::MAX].map(unzigzag), [0, -1, 1, -2, i64::MIN]);
    }
}
