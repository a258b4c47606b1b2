//! Protobuf, written forwards into one buffer.
//!
//! A nested message is begun before its length is known. [`Encoder::open`] leaves one byte for the length and
//! moves the message when it turns out to need more, which costs a copy of the message; that suits whatever
//! is small. What holds a whole batch is begun with [`Encoder::open_large`]: four bytes are left and the
//! length is spelled in all four (`0x85 0x80 0x80 0x00` is 5), which every protobuf reader takes and nothing
//! has to be moved.
//!
//! Methods write what they are told, zero or not; those that begin with `nonzero_` and `nonempty_` leave the
//! default of a proto3 field out.

/// Bytes that a varint of 64 bits takes at most.
pub const VARINT_BYTES_MAX: usize = 10;

/// Length bytes that [`Encoder::open_large`] leaves: enough for 256 MiB, more than a request may have.
const LARGE_LENGTH_BYTES: usize = 4;

const VARINT: u32 = 0;
const FIXED64: u32 = 1;
const BYTES: u32 = 2;
const FIXED32: u32 = 5;

/// Writes protobuf fields, one after the other.
#[derive(Clone, Debug, Default)]
pub struct Encoder {
    out: Vec<u8>,
}

/// A nested message that was begun and is owed its length; [`Encoder::close`] pays.
#[must_use = "a message that is not closed has no length"]
#[derive(Debug)]
pub struct Open {
    /// Where the length bytes stand; the message begins behind them.
    at: usize,
    width: usize,
}

impl Encoder {
    /// An empty buffer.
    #[must_use]
    pub const fn new() -> Self {
        Self { out: Vec::new() }
    }

    /// An empty buffer with room for `bytes`.
    #[must_use]
    pub fn with_capacity(bytes: usize) -> Self {
        Self { out: Vec::with_capacity(bytes) }
    }

    /// Goes on at the end of `out`, so that a buffer can be used again or a message continued.
    #[must_use]
    pub const fn append_to(out: Vec<u8>) -> Self {
        Self { out }
    }

    /// What has been written.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.out
    }

    /// What has been written so far; the lengths of open messages in it are not valid yet.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.out
    }

    /// Bytes written so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.out.len()
    }

    /// Whether nothing has been written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.out.is_empty()
    }

    /// Forgets what has been written and keeps the room.
    pub fn clear(&mut self) {
        self.out.clear();
    }

    /// Takes back everything behind the first `len` bytes: a message that turned out to be unwanted, from its
    /// [`Open`] on.
    pub fn truncate(&mut self, len: usize) {
        self.out.truncate(len);
    }

    // === scalars ===

    /// `uint32`, `uint64`, and enumerations.
    #[inline]
    pub fn varint(&mut self, field: u32, value: u64) {
        self.tag(field, VARINT);
        self.raw_varint(value);
    }

    /// `int32` and `int64`; negative numbers take ten bytes.
    #[inline]
    pub fn int(&mut self, field: u32, value: i64) {
        self.varint(field, value.cast_unsigned());
    }

    /// `sint32` and `sint64`, in zigzag.
    #[inline]
    pub fn sint(&mut self, field: u32, value: i64) {
        self.varint(field, zigzag(value));
    }

    /// `bool`.
    #[inline]
    pub fn bool(&mut self, field: u32, value: bool) {
        self.varint(field, u64::from(value));
    }

    /// `fixed64` and, through `cast_unsigned`, `sfixed64`.
    #[inline]
    pub fn fixed64(&mut self, field: u32, value: u64) {
        self.tag(field, FIXED64);
        self.out.extend_from_slice(&value.to_le_bytes());
    }

    /// `fixed32`.
    #[inline]
    pub fn fixed32(&mut self, field: u32, value: u32) {
        self.tag(field, FIXED32);
        self.out.extend_from_slice(&value.to_le_bytes());
    }

    /// `double`; the bits are kept, also of a NaN.
    #[inline]
    pub fn double(&mut self, field: u32, value: f64) {
        self.fixed64(field, value.to_bits());
    }

    /// `bytes`, `string` (the caller vouches for UTF-8) and messages that are encoded already.
    #[inline]
    pub fn bytes(&mut self, field: u32, value: impl AsRef<[u8]>) {
        let value = value.as_ref();
        self.tag(field, BYTES);
        self.raw_varint(value.len() as u64);
        self.out.extend_from_slice(value);
    }

    /// `string`.
    #[inline]
    pub fn string(&mut self, field: u32, value: &str) {
        self.bytes(field, value);
    }

    /// A varint field, left out when zero.
    #[inline]
    pub fn nonzero_varint(&mut self, field: u32, value: u64) {
        if value != 0 {
            self.varint(field, value);
        }
    }

    /// A `fixed64` field, left out when zero.
    #[inline]
    pub fn nonzero_fixed64(&mut self, field: u32, value: u64) {
        if value != 0 {
            self.fixed64(field, value);
        }
    }

    /// A `fixed32` field, left out when zero.
    #[inline]
    pub fn nonzero_fixed32(&mut self, field: u32, value: u32) {
        if value != 0 {
            self.fixed32(field, value);
        }
    }

    /// A `bytes` or `string` field, left out when empty.
    #[inline]
    pub fn nonempty_bytes(&mut self, field: u32, value: impl AsRef<[u8]>) {
        let value = value.as_ref();
        if !value.is_empty() {
            self.bytes(field, value);
        }
    }

    // === packed numbers ===

    /// `repeated fixed64`, packed; nothing for an empty list. Doubles go in as their bits.
    pub fn packed_fixed64(&mut self, field: u32, values: impl ExactSizeIterator<Item = u64>) {
        if values.len() == 0 {
            return;
        }
        self.tag(field, BYTES);
        self.raw_varint(values.len() as u64 * 8);
        self.out.reserve(values.len() * 8);
        for value in values {
            self.out.extend_from_slice(&value.to_le_bytes());
        }
    }

    /// `repeated double`, packed; nothing for an empty list.
    pub fn packed_double(&mut self, field: u32, values: impl ExactSizeIterator<Item = f64>) {
        self.packed_fixed64(field, values.map(f64::to_bits));
    }

    /// `repeated uint64`, packed; nothing for an empty list.
    pub fn packed_varint(&mut self, field: u32, values: impl IntoIterator<Item = u64>) {
        let start = self.out.len();
        let open = self.open(field);
        let empty = self.out.len();
        for value in values {
            self.raw_varint(value);
        }
        if self.out.len() == empty {
            self.out.truncate(start);
        } else {
            self.close(open);
        }
    }

    // === nested messages ===

    /// A nested message, small enough to be moved once (up to a few kilobytes).
    #[inline]
    pub fn message(&mut self, field: u32, write: impl FnOnce(&mut Self)) {
        let open = self.open(field);
        write(self);
        self.close(open);
    }

    /// Begins a nested message. Messages are closed in the reverse order of their opening.
    #[inline]
    pub fn open(&mut self, field: u32) -> Open {
        self.tag(field, BYTES);
        self.out.push(0);
        Open { at: self.out.len() - 1, width: 1 }
    }

    /// Begins a nested message that may become large: its length is spelled in four bytes and nothing is
    /// moved.
    #[inline]
    pub fn open_large(&mut self, field: u32) -> Open {
        self.tag(field, BYTES);
        self.out.extend_from_slice(&[0; LARGE_LENGTH_BYTES]);
        Open { at: self.out.len() - LARGE_LENGTH_BYTES, width: LARGE_LENGTH_BYTES }
    }

    /// Ends a nested message: everything since its opening is in it.
    ///
    /// # Panics
    /// When the message was taken back by [`Encoder::truncate`] or belongs to another encoder: a mistake of
    /// the program, never of its input.
    #[inline]
    pub fn close(&mut self, open: Open) {
        let start = open.at + open.width;
        let length = self.out.len() - start;
        if open.width == 1 && length < 0x80 {
            // Truncation is excluded by the comparison.
            self.out[open.at] = length as u8;
        } else {
            self.close_wide(&open, length);
        }
    }

    /// Begins a nested message of about `length` bytes, which [`Encoder::close_exact`] will end.
    pub(crate) fn open_for(&mut self, field: u32, length: usize) -> Open {
        self.tag(field, BYTES);
        let width = varint_len(length as u64);
        self.out.extend_from_slice(&[0; VARINT_BYTES_MAX][..width]);
        Open { at: self.out.len() - width, width }
    }

    /// Ends a nested message with a length of the least width, whatever room was left for it.
    pub(crate) fn close_exact(&mut self, open: Open) {
        let start = open.at + open.width;
        let end = self.out.len();
        let needed = varint_len((end - start) as u64);
        if needed < open.width {
            self.out.copy_within(start..end, open.at + needed);
            self.out.truncate(end - (open.width - needed));
        }
        self.close_wide(&Open { at: open.at, width: open.width.min(needed) }, end - start);
    }

    fn close_wide(&mut self, open: &Open, length: usize) {
        let needed = varint_len(length as u64);
        let start = open.at + open.width;
        if needed > open.width {
            let end = self.out.len();
            self.out.resize(end + needed - open.width, 0);
            self.out.copy_within(start..end, open.at + needed);
        }
        let width = needed.max(open.width);
        let mut rest = length;
        for byte in &mut self.out[open.at..open.at + width - 1] {
            *byte = (rest & 0x7f) as u8 | 0x80;
            rest >>= 7;
        }
        self.out[open.at + width - 1] = rest as u8;
    }

    // === OTLP ===

    /// A `KeyValue` with a string value in repeated field `field`.
    #[inline]
    pub fn attribute_str(&mut self, field: u32, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) {
        let value = value.as_ref();
        let any = 1 + varint_len(value.len() as u64) + value.len();
        self.attribute_head(field, key.as_ref(), any);
        self.bytes(1, value);
    }

    /// A `KeyValue` with a bytes value in repeated field `field`.
    #[inline]
    pub fn attribute_bytes(&mut self, field: u32, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) {
        let value = value.as_ref();
        let any = 1 + varint_len(value.len() as u64) + value.len();
        self.attribute_head(field, key.as_ref(), any);
        self.bytes(7, value);
    }

    /// A `KeyValue` with a boolean value in repeated field `field`.
    #[inline]
    pub fn attribute_bool(&mut self, field: u32, key: impl AsRef<[u8]>, value: bool) {
        self.attribute_head(field, key.as_ref(), 2);
        self.bool(2, value);
    }

    /// A `KeyValue` with an integer value in repeated field `field`.
    #[inline]
    pub fn attribute_int(&mut self, field: u32, key: impl AsRef<[u8]>, value: i64) {
        self.attribute_head(field, key.as_ref(), 1 + varint_len(value.cast_unsigned()));
        self.int(3, value);
    }

    /// A `KeyValue` with a floating point value in repeated field `field`.
    #[inline]
    pub fn attribute_double(&mut self, field: u32, key: impl AsRef<[u8]>, value: f64) {
        self.attribute_head(field, key.as_ref(), 9);
        self.double(4, value);
    }

    /// A `KeyValue` whose `AnyValue` is encoded already, in repeated field `field`.
    #[inline]
    pub fn attribute_any(&mut self, field: u32, key: impl AsRef<[u8]>, any_value: &[u8]) {
        self.attribute_head(field, key.as_ref(), any_value.len());
        self.out.extend_from_slice(any_value);
    }

    /// Everything of a `KeyValue` up to its `AnyValue` of `any` bytes. All lengths are known, so nothing is
    /// moved.
    #[inline]
    fn attribute_head(&mut self, field: u32, key: &[u8], any: usize) {
        let key_bytes = 1 + varint_len(key.len() as u64) + key.len();
        let value_bytes = 1 + varint_len(any as u64) + any;
        self.out.reserve(key_bytes + value_bytes + 2 * VARINT_BYTES_MAX);
        self.tag(field, BYTES);
        self.raw_varint((key_bytes + value_bytes) as u64);
        self.bytes(1, key);
        self.tag(2, BYTES);
        self.raw_varint(any as u64);
    }

    // === raw ===

    /// Fields that are encoded already.
    #[inline]
    pub fn raw(&mut self, fields: &[u8]) {
        self.out.extend_from_slice(fields);
    }

    /// A bare varint.
    #[inline]
    pub fn raw_varint(&mut self, value: u64) {
        if value < 0x80 {
            self.out.push(value as u8);
        } else {
            self.raw_varint_long(value);
        }
    }

    fn raw_varint_long(&mut self, mut value: u64) {
        let mut bytes = [0; VARINT_BYTES_MAX];
        let mut count = 0;
        while value >= 0x80 {
            bytes[count] = value as u8 | 0x80;
            value >>= 7;
            count += 1;
        }
        bytes[count] = value as u8;
        self.out.extend_from_slice(&bytes[..=count]);
    }

    #[inline]
    fn tag(&mut self, field: u32, wire_type: u32) {
        self.raw_varint(u64::from(field) << 3 | u64::from(wire_type));
    }
}

/// Bytes that `value` takes as a varint, 1 to 10.
#[inline]
#[must_use]
pub const fn varint_len(value: u64) -> usize {
    // Each byte carries seven bits: ceil(bits / 7) for 1 to 64 bits, without a division by 7.
    ((64 - (value | 1).leading_zeros() as usize) * 9 + 64) / 64
}

/// The spelling of `sint32` and `sint64`: 0, -1, 1, -2 become 0, 1, 2, 3.
#[inline]
#[must_use]
pub const fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)).cast_unsigned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reader::{Reader, Value, unzigzag, varint};

    /// Scenario: numbers around every width of a varint.
    /// Guarantees: the measured width is the written one, and what is written is read back.
    #[test]
    fn a_varint_has_the_width_that_was_measured() {
        for shift in 0..64 {
            for value in [1u64 << shift, (1u64 << shift) - 1, (1u64 << shift) | 1, u64::MAX >> shift] {
                let mut encoder = Encoder::new();
                encoder.raw_varint(value);
                assert_eq!(encoder.len(), varint_len(value), "{value}");
                assert_eq!(varint(encoder.as_bytes(), 0), Ok((value, varint_len(value))));
            }
        }
        assert_eq!(
            [0, -1, 1, i64::MIN, i64::MAX].map(|value| unzigzag(zigzag(value))),
            [0, -1, 1, i64::MIN, i64::MAX]
        );
    }

    /// Scenario: nested messages of lengths around each width of the length, begun small and large.
    /// Guarantees: both spellings are read as the same message; the small one is minimal.
    #[test]
    fn a_nested_message_gets_its_length_at_any_size() {
        for length in [0usize, 1, 127, 128, 129, 16_383, 16_384, 2_097_151, 2_097_152] {
            let content = vec![0x2a; length];
            let mut small = Encoder::new();
            small.message(1, |inner| inner.raw(&content));
            assert_eq!(small.len(), 1 + varint_len(length as u64) + length);
            let mut large = Encoder::new();
            let open = large.open_large(1);
            large.raw(&content);
            large.close(open);
            for encoder in [small, large] {
                let field = Reader::new(encoder.as_bytes()).next().expect("well formed").expect("a field");
                assert_eq!(
                    (field.number, field.value, field.end),
                    (1, Value::Bytes(&content), encoder.len())
                );
            }
        }
    }

    /// Scenario: a large message outgrows the four bytes that were left for its length.
    /// Guarantees: it is moved and whole; checked on the private step, a real one has 256 MiB.
    #[test]
    fn a_length_wider_than_its_room_moves_the_message() {
        let mut encoder = Encoder::append_to(vec![0x0a, 0, 0, 7, 7, 7]);
        // Two length bytes are there; the claim of 2^21 bytes needs four.
        encoder.close_wide(&Open { at: 1, width: 2 }, 1 << 21);
        assert_eq!(encoder.into_bytes(), [0x0a, 0x80, 0x80, 0x80, 0x01, 7, 7, 7]);
    }

    /// Scenario: an attribute of each kind, with short and long keys and values.
    /// Guarantees: the bytes are those of the same messages written by the general means.
    #[test]
    fn attributes_are_what_the_general_means_write() {
        let long = "k".repeat(200);
        for key in ["", "k", long.as_str()] {
            let mut quick = Encoder::new();
            quick.attribute_str(9, key, &long);
            quick.attribute_bytes(9, key, [1, 2]);
            quick.attribute_bool(9, key, false);
            quick.attribute_int(9, key, -1);
            quick.attribute_double(300, key, 1.5);
            quick.attribute_any(9, key, &[0x18, 5]);
            let mut general = Encoder::new();
            let mut attribute = |field, write: &dyn Fn(&mut Encoder)| {
                general.message(field, |pair| {
                    pair.string(1, key);
                    pair.message(2, |value| write(value));
                });
            };
            attribute(9, &|value| value.string(1, &long));
            attribute(9, &|value| value.bytes(7, [1, 2]));
            attribute(9, &|value| value.bool(2, false));
            attribute(9, &|value| value.int(3, -1));
            attribute(300, &|value| value.double(4, 1.5));
            attribute(9, &|value| value.int(3, 5));
            assert_eq!(quick.as_bytes(), general.as_bytes());
        }
    }

    /// Scenario: packed lists, empty and not, and fields that hold their default.
    /// Guarantees: an empty list and a default leave no trace where they may be left out.
    #[test]
    fn defaults_and_empty_lists_leave_no_trace() {
        let mut encoder = Encoder::new();
        encoder.packed_varint(1, []);
        encoder.packed_double(1, [].into_iter());
        encoder.nonzero_varint(1, 0);
        encoder.nonzero_fixed64(1, 0);
        encoder.nonzero_fixed32(1, 0);
        encoder.nonempty_bytes(1, "");
        assert!(encoder.is_empty());
        encoder.packed_varint(1, [1, 300]);
        encoder.packed_double(2, [1.0].into_iter());
        assert_eq!(encoder.as_bytes(), [0x0a, 3, 1, 0xac, 0x02, 0x12, 8, 0, 0, 0, 0, 0, 0, 0xf0, 0x3f]);
        encoder.truncate(5);
        encoder.nonzero_fixed32(1, 1);
        assert_eq!(encoder.as_bytes(), [0x0a, 3, 1, 0xac, 0x02, 0x0d, 1, 0, 0, 0]);
    }
}
