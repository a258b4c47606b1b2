//! A message forwards into one buffer.

use crate::varint;
use crate::{BINARY_VERSION, COMPACT_FALSE, COMPACT_ID, COMPACT_VERSION, Fields, Kind, Protocol, Type};

/// Bytes of a varint that has room for every number of 32 bits; it need not be minimal.
const LONG_VARINT_BYTES: usize = 5;

/// A list whose number of elements is not written yet.
#[derive(Debug)]
#[must_use]
pub struct OpenList {
    at: usize,
}

/// Writes values one after the other. What is written is right where the caller keeps the order: a field's head before
/// its value, as many elements as a list's head has promised, [`Writer::stop`] at a struct's end.
#[derive(Clone, Debug)]
pub struct Writer {
    out: Vec<u8>,
    protocol: Protocol,
}

impl Writer {
    /// An empty buffer.
    #[must_use]
    pub const fn new(protocol: Protocol) -> Self {
        Self { out: Vec::new(), protocol }
    }

    /// What was written.
    #[must_use]
    pub fn finish(self) -> Vec<u8> {
        self.out
    }

    /// A message's head. The name of a method is short.
    pub fn message(&mut self, name: &str, kind: Kind, sequence: i32) {
        match self.protocol {
            Protocol::Binary => {
                let head = BINARY_VERSION | u32::from(kind.number());
                self.out.extend_from_slice(&head.to_be_bytes());
                self.text(name.as_bytes());
                self.i32(sequence);
            }
            Protocol::Compact => {
                self.out.extend_from_slice(&[COMPACT_ID, kind.number() << 5 | COMPACT_VERSION]);
                varint::write(&mut self.out, u64::from(sequence.cast_unsigned()));
                self.text(name.as_bytes());
            }
        }
    }

    /// A field's head; not of a bool, whose value may be part of it ([`Writer::flag`]).
    pub fn field(&mut self, fields: &mut Fields, id: i16, kind: Type) {
        self.head(fields, id, kind.number(self.protocol));
    }

    /// A field that is a bool.
    pub fn flag(&mut self, fields: &mut Fields, id: i16, value: bool) {
        let kind = Type::Bool.number(self.protocol);
        match self.protocol {
            Protocol::Binary => {
                self.head(fields, id, kind);
                self.out.push(u8::from(value));
            }
            Protocol::Compact => self.head(fields, id, if value { kind } else { COMPACT_FALSE }),
        }
    }

    fn head(&mut self, fields: &mut Fields, id: i16, kind: u8) {
        let delta = fields.advance(id);
        match self.protocol {
            Protocol::Binary => {
                self.out.push(kind);
                self.i16(id);
            }
            Protocol::Compact => match delta {
                Some(delta) => self.out.push(delta << 4 | kind),
                None => {
                    self.out.push(kind);
                    self.i16(id);
                }
            },
        }
    }

    /// The end of a struct.
    pub fn stop(&mut self) {
        self.out.push(0);
    }

    /// A list's head.
    pub fn list(&mut self, kind: Type, count: u32) {
        let kind = kind.number(self.protocol);
        match (self.protocol, u8::try_from(count)) {
            (Protocol::Binary, _) => {
                self.out.push(kind);
                self.out.extend_from_slice(&count.to_be_bytes());
            }
            (Protocol::Compact, Ok(count @ 0..15)) => self.out.push(count << 4 | kind),
            (Protocol::Compact, _) => {
                self.out.push(0xf0 | kind);
                varint::write(&mut self.out, u64::from(count));
            }
        }
    }

    /// The head of a list of which nobody knows yet how long it becomes; [`Writer::close_list`] writes the number.
    pub fn open_list(&mut self, kind: Type) -> OpenList {
        let kind = kind.number(self.protocol);
        self.out.push(match self.protocol {
            Protocol::Binary => kind,
            Protocol::Compact => 0xf0 | kind,
        });
        let at = self.out.len();
        let room = match self.protocol {
            Protocol::Binary => 4,
            Protocol::Compact => LONG_VARINT_BYTES,
        };
        self.out.resize(at + room, 0);
        OpenList { at }
    }

    /// Writes how long a list has become.
    pub fn close_list(&mut self, list: OpenList, count: u32) {
        match self.protocol {
            Protocol::Binary => self.out[list.at..list.at + 4].copy_from_slice(&count.to_be_bytes()),
            Protocol::Compact => {
                let bytes = &mut self.out[list.at..list.at + LONG_VARINT_BYTES];
                for (place, byte) in bytes.iter_mut().enumerate() {
                    let more = if place + 1 < LONG_VARINT_BYTES { 0x80 } else { 0 };
                    *byte = (count >> (7 * place)).to_le_bytes()[0] & 0x7f | more;
                }
            }
        }
    }

    /// Bytes written so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.out.len()
    }

    /// Whether nothing is written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.out.is_empty()
    }

    /// A number of 16 bits.
    pub fn i16(&mut self, value: i16) {
        self.number(&value.to_be_bytes(), i64::from(value));
    }

    /// A number of 32 bits, or an enumeration.
    pub fn i32(&mut self, value: i32) {
        self.number(&value.to_be_bytes(), i64::from(value));
    }

    /// A number of 64 bits.
    pub fn i64(&mut self, value: i64) {
        self.number(&value.to_be_bytes(), value);
    }

    fn number(&mut self, bytes: &[u8], value: i64) {
        match self.protocol {
            Protocol::Binary => self.out.extend_from_slice(bytes),
            Protocol::Compact => varint::write(&mut self.out, varint::zigzag(value)),
        }
    }

    /// A double.
    pub fn double(&mut self, value: f64) {
        self.out.extend_from_slice(&match self.protocol {
            Protocol::Binary => value.to_be_bytes(),
            Protocol::Compact => value.to_le_bytes(),
        });
    }

    /// Text or bytes, shorter than 2 GiB.
    pub fn text(&mut self, bytes: &[u8]) {
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        match self.protocol {
            Protocol::Binary => self.out.extend_from_slice(&length.to_be_bytes()),
            Protocol::Compact => varint::write(&mut self.out, u64::from(length)),
        }
        self.out.extend_from_slice(bytes);
    }
}
