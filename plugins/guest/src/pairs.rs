//! Attributes and tags in protobuf, made for the sandbox: see `json.rs` for why.
//!
//! ```text
//! attribute   field { 1: key, 2: AnyValue { 1: text } }      OTLP's KeyValue
//! entry       field { 1: key, 2: text }                      an entry of map<string, string>
//! ```
//!
//! A receiver writes the attributes of a span here and hands them to the encoder as one piece.

#![expect(
    unsafe_code,
    reason = "stores without capacity checks; each block names the reservation it stands on"
)]

use weir_wire::encode::varint_len;

use crate::stores::put_bytes;

/// Bytes around key and text when all lengths have one byte.
const FRAME: usize = 9;

/// Largest field number whose tag has one byte.
const FIELD_MAX: u8 = 15;

/// Writes pairs of strings, one after the other.
#[derive(Clone, Debug, Default)]
pub struct PairWriter {
    out: Vec<u8>,
}

impl PairWriter {
    /// What has been written.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.out
    }

    /// Forgets what has been written and keeps the room.
    pub fn clear(&mut self) {
        self.out.clear();
    }

    /// A `KeyValue` with a string in repeated field `field`, 1 to 15.
    #[inline]
    pub fn attribute(&mut self, field: u8, key: &[u8], text: &[u8]) {
        let any = text.len() + 2;
        let pair = key.len() + any + 4;
        if pair >= 0x80 || field > FIELD_MAX {
            return self.attribute_of_any_length(field, key, text);
        }
        self.out.reserve(pair + FRAME);
        let at: *mut u8 = self.out.spare_capacity_mut().as_mut_ptr().cast();
        // SAFETY: two bytes of the field, two before the key, the key, four before the text, and the text are
        // `pair` + 2 bytes, all reserved. Truncation of the lengths is excluded by the comparison above.
        unsafe {
            at.cast::<[u8; 4]>().write_unaligned([field << 3 | 2, pair as u8, 0x0a, key.len() as u8]);
            let (at, _) = put_bytes(at.add(4), key);
            at.cast::<[u8; 4]>().write_unaligned([0x12, any as u8, 0x0a, text.len() as u8]);
            let (_, _) = put_bytes(at.add(4), text);
            self.out.set_len(self.out.len() + pair + 2);
        }
    }

    #[cold]
    #[inline(never)]
    fn attribute_of_any_length(&mut self, field: u8, key: &[u8], text: &[u8]) {
        let any = 1 + varint_len(text.len() as u64) + text.len();
        self.head(field, key, any);
        self.bytes(1, text);
    }

    /// An entry of a `map<string, string>` in field `field`, 1 to 15.
    #[inline]
    pub fn entry(&mut self, field: u8, key: &[u8], text: &[u8]) {
        let pair = key.len() + text.len() + 4;
        if pair >= 0x80 || field > FIELD_MAX {
            return self.entry_of_any_length(field, key, text);
        }
        self.out.reserve(pair + FRAME);
        let at: *mut u8 = self.out.spare_capacity_mut().as_mut_ptr().cast();
        // SAFETY: two bytes of the field, two before the key, the key, two before the text, and the text are
        // `pair` + 2 bytes, all reserved. Truncation of the lengths is excluded by the comparison above.
        unsafe {
            at.cast::<[u8; 4]>().write_unaligned([field << 3 | 2, pair as u8, 0x0a, key.len() as u8]);
            let (at, _) = put_bytes(at.add(4), key);
            at.cast::<[u8; 2]>().write_unaligned([0x12, text.len() as u8]);
            let (_, _) = put_bytes(at.add(2), text);
            self.out.set_len(self.out.len() + pair + 2);
        }
    }

    #[cold]
    #[inline(never)]
    fn entry_of_any_length(&mut self, field: u8, key: &[u8], text: &[u8]) {
        let key_bytes = 1 + varint_len(key.len() as u64) + key.len();
        let text_bytes = 1 + varint_len(text.len() as u64) + text.len();
        self.varint(u64::from(field) << 3 | 2);
        self.varint((key_bytes + text_bytes) as u64);
        self.bytes(1, key);
        self.bytes(2, text);
    }

    /// Everything of a `KeyValue` up to its `AnyValue` of `any` bytes.
    fn head(&mut self, field: u8, key: &[u8], any: usize) {
        let key_bytes = 1 + varint_len(key.len() as u64) + key.len();
        let any_bytes = 1 + varint_len(any as u64) + any;
        self.varint(u64::from(field) << 3 | 2);
        self.varint((key_bytes + any_bytes) as u64);
        self.bytes(1, key);
        self.varint(2 << 3 | 2);
        self.varint(any as u64);
    }

    fn bytes(&mut self, field: u8, bytes: &[u8]) {
        self.varint(u64::from(field) << 3 | 2);
        self.varint(bytes.len() as u64);
        self.out.extend_from_slice(bytes);
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.out.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.out.push(value as u8);
    }
}

#[cfg(test)]
mod tests {
    use weir_wire::Encoder;

    use super::*;

    /// Scenario: keys and texts of all lengths around those where a length grows a byte, in fields of one and
    /// of two bytes.
    /// Guarantees: byte for byte what the encoder writes.
    #[test]
    fn pairs_are_what_the_encoder_writes() {
        let lengths: Vec<usize> =
            (0..20).chain(55..65).chain(100..140).chain([16_380, 16_384, 70_000]).collect();
        let mut pairs = PairWriter::default();
        let mut encoder = Encoder::new();
        for &key_len in lengths.iter().filter(|len| **len < 200) {
            for &text_len in &lengths {
                let (key, text) = (vec![b'k'; key_len], vec![b't'; text_len]);
                for field in [9, 15, 16] {
                    pairs.attribute(field, &key, &text);
                    encoder.attribute_str(field.into(), &key, &text);
                    pairs.entry(field, &key, &text);
                    encoder.message(field.into(), |entry| {
                        entry.bytes(1, &key);
                        entry.bytes(2, &text);
                    });
                    assert_eq!(pairs.as_bytes(), encoder.as_bytes(), "{field} {key_len} {text_len}");
                    pairs.clear();
                    encoder.clear();
                }
            }
        }
    }
}
