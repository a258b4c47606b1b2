//! One message, struct by struct, without copying.
//!
//! ```text
//! binary    field  type · id (2)                value   fixed width, big-endian; text: length (4), bytes
//! compact   field  delta|type, or 0|type · id   value   varints, zigzag where signed; text: length, bytes
//! ```
//!
//! A bool in a compact field's head has no bytes of its own; a compact double is little-endian, as everybody writes it.

use core::fmt;

use crate::varint;
use crate::{BINARY_VERSION, COMPACT_FALSE, COMPACT_ID, COMPACT_VERSION, Kind, Protocol, Type};

/// How deep structs, lists and maps may lie in each other. Jaeger's lie five deep.
pub const DEPTH_MAX: u32 = 16;

/// Bytes that are no Thrift.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed {
    /// Offset of the value at fault.
    pub at: usize,
    /// What is wrong, a phrase for a person.
    pub what: &'static str,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "malformed thrift at byte {}: {}", self.at, self.what)
    }
}

impl core::error::Error for Malformed {}

/// A message's head; its arguments are a struct.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    /// Of the method.
    pub name: &'a [u8],
    /// What it is for.
    pub kind: Kind,
    /// The sender's number for it.
    pub sequence: i32,
}

/// Where the reading or writing of one struct stands: the last field's id.
#[derive(Debug, Default)]
pub struct Fields {
    last: i16,
}

impl Fields {
    /// Goes on to the field `id`; the difference where the compact protocol has a short form for it.
    pub(crate) fn advance(&mut self, id: i16) -> Option<u8> {
        let delta = id.checked_sub(std::mem::replace(&mut self.last, id));
        delta.and_then(|delta| u8::try_from(delta).ok()).filter(|delta| (1..16).contains(delta))
    }
}

/// Reads values one after the other.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    protocol: Protocol,
    depth: u32,
    /// A bool that stood in its field's head.
    flag: Option<bool>,
}

impl<'a> Reader<'a> {
    /// Starts at the first byte.
    #[must_use]
    pub const fn new(bytes: &'a [u8], protocol: Protocol) -> Self {
        Self { bytes, at: 0, protocol, depth: 0, flag: None }
    }

    /// Offset of the next value.
    #[must_use]
    pub const fn at(&self) -> usize {
        self.at
    }

    /// Bytes that are left.
    #[must_use]
    pub const fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    // === messages ===

    /// A message's head, in the protocol's own form; of the binary one also the old form without a version.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn message(&mut self) -> Result<Message<'a>, Malformed> {
        match self.protocol {
            Protocol::Binary => self.binary_message(),
            Protocol::Compact => self.compact_message(),
        }
    }

    fn binary_message(&mut self) -> Result<Message<'a>, Malformed> {
        let start = self.at;
        let first = u32::from_be_bytes(self.array()?);
        let (name, kind) = if first >> 31 == 0 {
            let name = self.take(first as usize)?;
            (name, u32::from(self.byte()?))
        } else if first & 0xffff_0000 == BINARY_VERSION {
            (self.text()?, first & 0xff)
        } else {
            return Err(Malformed { at: start, what: "a message of an unknown version" });
        };
        let kind = u8::try_from(kind).ok().and_then(Kind::of);
        let kind = kind.ok_or(Malformed { at: start, what: "a message of an unknown kind" })?;
        Ok(Message { name, kind, sequence: self.i32()? })
    }

    fn compact_message(&mut self) -> Result<Message<'a>, Malformed> {
        let start = self.at;
        let [id, head] = self.array()?;
        if id != COMPACT_ID || head & 0x1f != COMPACT_VERSION {
            return Err(Malformed { at: start, what: "not a message of the compact protocol, version 1" });
        }
        let kind = Kind::of(head >> 5);
        let kind = kind.ok_or(Malformed { at: start, what: "a message of an unknown kind" })?;
        // Some write the sequence as an unsigned number of 32 bits, some extend a negative one's sign to 64.
        let sequence = (self.varint()? as u32).cast_signed();
        Ok(Message { name: self.text()?, kind, sequence })
    }

    // === structs ===

    /// A struct begins.
    ///
    /// # Errors
    /// [`Malformed`] where it lies deeper than [`DEPTH_MAX`].
    pub fn begin(&mut self) -> Result<Fields, Malformed> {
        self.deeper()?;
        Ok(Fields { last: 0 })
    }

    /// The next field's id and type; nothing at the struct's end. Its value must be read, or skipped, before the next one.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn field(&mut self, fields: &mut Fields) -> Result<Option<(i16, Type)>, Malformed> {
        let start = self.at;
        let head = self.byte()?;
        if head == 0 {
            self.depth = self.depth.saturating_sub(1);
            return Ok(None);
        }
        let (number, id) = match self.protocol {
            Protocol::Binary => (head, self.i16()?),
            Protocol::Compact if head >> 4 == 0 => (head & 0xf, self.i16()?),
            Protocol::Compact => {
                let id = fields.last.checked_add(i16::from(head >> 4));
                (head & 0xf, id.ok_or(Malformed { at: start, what: "a field's id is too large" })?)
            }
        };
        fields.last = id;
        let kind = Type::of(number, self.protocol);
        let kind = kind.ok_or(Malformed { at: start, what: "a field of an unknown type" })?;
        if kind == Type::Bool && self.protocol == Protocol::Compact {
            self.flag = Some(number != COMPACT_FALSE);
        }
        Ok(Some((id, kind)))
    }

    // === values ===

    /// A bool.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn bool(&mut self) -> Result<bool, Malformed> {
        if let Some(flag) = self.flag.take() {
            return Ok(flag);
        }
        let byte = self.byte()?;
        Ok(match self.protocol {
            Protocol::Binary => byte != 0,
            Protocol::Compact => byte == 1,
        })
    }

    /// A byte.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn i8(&mut self) -> Result<i8, Malformed> {
        Ok(self.byte()?.cast_signed())
    }

    /// A number of 16 bits.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn i16(&mut self) -> Result<i16, Malformed> {
        match self.protocol {
            Protocol::Binary => Ok(i16::from_be_bytes(self.array()?)),
            Protocol::Compact => self.signed(),
        }
    }

    /// A number of 32 bits, or an enumeration.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn i32(&mut self) -> Result<i32, Malformed> {
        match self.protocol {
            Protocol::Binary => Ok(i32::from_be_bytes(self.array()?)),
            Protocol::Compact => self.signed(),
        }
    }

    /// A number of 64 bits.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn i64(&mut self) -> Result<i64, Malformed> {
        match self.protocol {
            Protocol::Binary => Ok(i64::from_be_bytes(self.array()?)),
            Protocol::Compact => self.signed(),
        }
    }

    /// A double.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn double(&mut self) -> Result<f64, Malformed> {
        let bytes = self.array()?;
        Ok(match self.protocol {
            Protocol::Binary => f64::from_be_bytes(bytes),
            Protocol::Compact => f64::from_le_bytes(bytes),
        })
    }

    /// Text or bytes, as they are: nobody has looked whether it is UTF-8.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn text(&mut self) -> Result<&'a [u8], Malformed> {
        let start = self.at;
        let length = match self.protocol {
            Protocol::Binary => u64::from(u32::from_be_bytes(self.array()?)),
            Protocol::Compact => self.varint()?,
        };
        let length = usize::try_from(length).ok().filter(|length| *length <= self.left());
        self.take(length.ok_or(Malformed { at: start, what: "a text is longer than what is left" })?)
    }

    /// A list's or set's head: the type of its elements and their number, for which there are bytes enough. Each element
    /// must be read or skipped.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn list(&mut self) -> Result<(Type, usize), Malformed> {
        let start = self.at;
        let head = self.byte()?;
        let (number, count) = match self.protocol {
            Protocol::Binary => (head, u64::from(u32::from_be_bytes(self.array()?))),
            Protocol::Compact if head >> 4 == 0xf => (head & 0xf, self.varint()?),
            Protocol::Compact => (head & 0xf, u64::from(head >> 4)),
        };
        let kind = self.element(number, count, start)?;
        Ok((kind, self.count(count, kind.bytes_min(self.protocol), start)?))
    }

    /// A map's head: the types of its keys and values and their number.
    fn map(&mut self) -> Result<(Type, Type, usize), Malformed> {
        let start = self.at;
        let (key, value, count) = match self.protocol {
            Protocol::Binary => {
                let [key, value] = self.array()?;
                (key, value, u64::from(u32::from_be_bytes(self.array()?)))
            }
            Protocol::Compact => match self.varint()? {
                0 => (0, 0, 0),
                count => {
                    let types = self.byte()?;
                    (types >> 4, types & 0xf, count)
                }
            },
        };
        let (key, value) = (self.element(key, count, start)?, self.element(value, count, start)?);
        let bytes_min = key.bytes_min(self.protocol) + value.bytes_min(self.protocol);
        Ok((key, value, self.count(count, bytes_min, start)?))
    }

    /// The type of elements. Where there are none, some write no type.
    fn element(&self, number: u8, count: u64, start: usize) -> Result<Type, Malformed> {
        match Type::of(number, self.protocol) {
            Some(kind) => Ok(kind),
            None if count == 0 => Ok(Type::I8),
            None => Err(Malformed { at: start, what: "elements of an unknown type" }),
        }
    }

    fn count(&self, claimed: u64, bytes_min: usize, start: usize) -> Result<usize, Malformed> {
        let count = usize::try_from(claimed).ok().filter(|count| *count <= self.left() / bytes_min);
        count.ok_or(Malformed { at: start, what: "more elements than there are bytes for" })
    }

    // === what nobody knows ===

    /// Passes over a value.
    ///
    /// # Errors
    /// [`Malformed`], also where it lies deeper than [`DEPTH_MAX`].
    pub fn skip(&mut self, kind: Type) -> Result<(), Malformed> {
        match kind {
            Type::Bool => self.bool().map(drop),
            Type::I8 => self.i8().map(drop),
            Type::I16 => self.i16().map(drop),
            Type::I32 => self.i32().map(drop),
            Type::I64 => self.i64().map(drop),
            Type::Double => self.take(8).map(drop),
            Type::Uuid => self.take(16).map(drop),
            Type::Binary => self.text().map(drop),
            Type::Struct => {
                let mut fields = self.begin()?;
                while let Some((_, kind)) = self.field(&mut fields)? {
                    self.skip(kind)?;
                }
                Ok(())
            }
            Type::Set | Type::List => {
                let (kind, count) = self.list()?;
                self.skip_all(&[kind], count)
            }
            Type::Map => {
                let (key, value, count) = self.map()?;
                self.skip_all(&[key, value], count)
            }
        }
    }

    fn skip_all(&mut self, kinds: &[Type], count: usize) -> Result<(), Malformed> {
        self.deeper()?;
        for _ in 0..count {
            for kind in kinds {
                self.skip(*kind)?;
            }
        }
        self.depth -= 1;
        Ok(())
    }

    // === bytes ===

    fn deeper(&mut self) -> Result<(), Malformed> {
        if self.depth == DEPTH_MAX {
            return Err(Malformed { at: self.at, what: "structs and lists lie too deep in each other" });
        }
        self.depth += 1;
        Ok(())
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let end = self.at.checked_add(length);
        let taken = end.and_then(|end| self.bytes.get(self.at..end));
        let taken = taken.ok_or(Malformed { at: self.at, what: "the bytes end in the middle of a value" })?;
        self.at += length;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let ends = Malformed { at: self.at, what: "the bytes end in the middle of a value" };
        self.take(N)?.try_into().map_err(|_| ends)
    }

    fn byte(&mut self) -> Result<u8, Malformed> {
        let [byte] = self.array()?;
        Ok(byte)
    }

    fn varint(&mut self) -> Result<u64, Malformed> {
        let read = self.bytes.get(self.at..).and_then(varint::read);
        let (number, bytes) = read.ok_or(Malformed { at: self.at, what: "not a varint" })?;
        self.at += bytes;
        Ok(number)
    }

    fn signed<T: TryFrom<i64>>(&mut self) -> Result<T, Malformed> {
        let start = self.at;
        let number = varint::unzigzag(self.varint()?);
        T::try_from(number).map_err(|_| Malformed { at: start, what: "a number is too large for its type" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Writer;

    const PROTOCOLS: [Protocol; 2] = [Protocol::Binary, Protocol::Compact];

    /// A message with a field of each type, in an order that has gaps, steps back and leaps.
    fn everything(protocol: Protocol) -> Vec<u8> {
        let (mut writer, mut fields) = (Writer::new(protocol), Fields::default());
        writer.message("emit", Kind::Oneway, 7);
        writer.field(&mut fields, 1, Type::I64);
        writer.i64(i64::MIN);
        writer.flag(&mut fields, 3, true);
        writer.flag(&mut fields, 2, false);
        writer.field(&mut fields, 300, Type::Binary);
        writer.text("text".as_bytes());
        writer.field(&mut fields, 301, Type::Double);
        writer.double(0.1);
        writer.field(&mut fields, 302, Type::List);
        let list = writer.open_list(Type::I32);
        (0..200).for_each(|n| writer.i32(-n));
        writer.close_list(list, 200);
        writer.field(&mut fields, 303, Type::Struct);
        let mut inner = Fields::default();
        writer.field(&mut inner, 1, Type::I16);
        writer.i16(-1);
        writer.field(&mut inner, 2, Type::List);
        writer.list(Type::Binary, 1);
        writer.text(b"one");
        writer.stop();
        writer.stop();
        writer.finish()
    }

    /// Scenario: a message with every type that is written, in both protocols.
    /// Guarantees: each field is read as it was written; nothing is left.
    #[test]
    fn a_message_is_read_as_it_was_written() {
        for protocol in PROTOCOLS {
            let bytes = everything(protocol);
            let mut reader = Reader::new(&bytes, protocol);
            let message = reader.message().unwrap();
            assert_eq!((message.name, message.kind, message.sequence), (&b"emit"[..], Kind::Oneway, 7));
            let mut fields = reader.begin().unwrap();
            let mut seen = Vec::new();
            while let Some((id, kind)) = reader.field(&mut fields).unwrap() {
                seen.push(id);
                match (id, kind) {
                    (1, Type::I64) => assert_eq!(reader.i64().unwrap(), i64::MIN),
                    (3, Type::Bool) => assert!(reader.bool().unwrap()),
                    (2, Type::Bool) => assert!(!reader.bool().unwrap()),
                    (300, Type::Binary) => assert_eq!(reader.text().unwrap(), b"text"),
                    (301, Type::Double) => assert_eq!(reader.double().unwrap(), 0.1),
                    (302, Type::List) => {
                        assert_eq!(reader.list().unwrap(), (Type::I32, 200));
                        (0..200).for_each(|n| assert_eq!(reader.i32().unwrap(), -n));
                    }
                    (303, Type::Struct) => reader.skip(kind).unwrap(),
                    other => panic!("{other:?}"),
                }
            }
            assert_eq!((seen, reader.left()), (vec![1, 3, 2, 300, 301, 302, 303], 0));
        }
    }

    /// Scenario: a message cut at each byte, and with each byte changed.
    /// Guarantees: no panic; what is cut is malformed; a whole one is passed over to its last byte.
    #[test]
    fn no_bytes_make_it_panic() {
        let pass = |bytes: &[u8], protocol| {
            let mut reader = Reader::new(bytes, protocol);
            reader.message()?;
            reader.skip(Type::Struct)?;
            Ok::<_, Malformed>(reader.left())
        };
        for protocol in PROTOCOLS {
            let whole = everything(protocol);
            assert_eq!(pass(&whole, protocol), Ok(0));
            for cut in 0..whole.len() {
                assert!(pass(&whole[..cut], protocol).is_err(), "{cut} bytes of {protocol:?}");
            }
            for at in 0..whole.len() {
                for byte in 0..=u8::MAX {
                    let mut bytes = whole.clone();
                    bytes[at] = byte;
                    pass(&bytes, protocol).ok();
                }
            }
        }
        let seed = fastrand::u64(..);
        eprintln!("seed {seed}");
        let mut random = fastrand::Rng::with_seed(seed);
        for _ in 0..20_000 {
            let bytes: Vec<u8> = (0..random.usize(..64)).map(|_| random.u8(..)).collect();
            for protocol in PROTOCOLS {
                Reader::new(&bytes, protocol).skip(Type::Struct).ok();
                Reader::new(&bytes, protocol).message().ok();
            }
        }
    }

    /// Scenario: lists, texts and maps that claim more than there is; structs in structs in structs.
    /// Guarantees: refused at the claim, not after as much work as was claimed.
    #[test]
    fn claims_are_held_against_the_bytes() {
        for (protocol, kind, bytes, what) in [
            (Protocol::Binary, Type::List, &[10, 0x7f, 0xff, 0xff, 0xff][..], "more elements"),
            (Protocol::Binary, Type::List, &[10, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0], "more elements"),
            (Protocol::Binary, Type::Map, &[3, 3, 0xff, 0xff, 0xff, 0xff], "more elements"),
            (Protocol::Binary, Type::Binary, &[0xff, 0xff, 0xff, 0xff, 0], "longer than"),
            (Protocol::Compact, Type::List, &[0xf3, 0xff, 0xff, 0xff, 0xff, 0x0f], "more elements"),
            (Protocol::Compact, Type::Binary, &[0xff, 0xff, 0xff, 0xff, 0x0f], "longer than"),
            (Protocol::Compact, Type::I16, &[0x80, 0x80, 0x04], "too large"),
            (Protocol::Compact, Type::Struct, &[0x1c; 40], "too deep"),
            (Protocol::Compact, Type::List, &[0x19; 40], "too deep"),
        ] {
            let fault = Reader::new(bytes, protocol).skip(kind).unwrap_err();
            assert!(fault.to_string().contains(what), "{bytes:x?}: {fault}");
        }
    }

    /// Scenario: the heads that clients write: old and strict binary, compact; an empty map; a list without a type.
    /// Guarantees: each is read.
    #[test]
    fn heads_of_real_clients_are_read() {
        let head = |bytes: &'static [u8], protocol| Reader::new(bytes, protocol).message().unwrap();
        let python = head(b"\x82\x81\x01\x09emitBatch", Protocol::Compact);
        let node = head(b"\x80\x01\x00\x04\x00\x00\x00\x09emitBatch\x00\x00\x00\x00", Protocol::Binary);
        let old = head(b"\x00\x00\x00\x09emitBatch\x01\x00\x00\x00\x05", Protocol::Binary);
        for message in [python, node, old] {
            assert_eq!(message.name, b"emitBatch");
        }
        assert_eq!([python.kind, node.kind, old.kind], [Kind::Oneway, Kind::Oneway, Kind::Call]);
        assert_eq!([python.sequence, node.sequence, old.sequence], [1, 0, 5]);
        for (protocol, kind, bytes) in [
            (Protocol::Compact, Type::Map, &[0][..]),
            (Protocol::Compact, Type::List, &[0]),
            (Protocol::Binary, Type::Map, &[0, 0, 0, 0, 0, 0]),
            (Protocol::Binary, Type::List, &[0, 0, 0, 0, 0]),
        ] {
            let mut reader = Reader::new(bytes, protocol);
            assert_eq!((reader.skip(kind), reader.left()), (Ok(()), 0));
        }
    }
}
