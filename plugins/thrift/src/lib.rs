//! Thrift's binary and compact protocols (`apache/thrift/doc/specs`), read where they lie, and written.
//!
//! There is no generated code and no schema: a caller asks for the fields of a struct one by one, takes those that it knows,
//! and skips the others.
//!
//! Invariant: depends on nobody, keeps no state, and is total: no input makes it panic, recurse deeper than
//! [`DEPTH_MAX`](reader::DEPTH_MAX), allocate, or do more work than the input is long.
//!
//! | file | what it is |
//! |---|---|
//! | `reader.rs` | [`Reader`]: one message, struct by struct |
//! | `varint.rs` | numbers of the compact protocol |
//! | `writer.rs` | [`Writer`]: the same forwards into one buffer |

pub mod reader;
mod varint;
pub mod writer;

pub use reader::{Fields, Malformed, Message, Reader};
pub use writer::{OpenList, Writer};

/// How values are spelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Fixed width, big-endian.
    Binary,
    /// Varints, field numbers as differences, little-endian doubles.
    Compact,
}

/// What a field or an element is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// One of two.
    Bool,
    /// A byte.
    I8,
    /// IEEE 754, 64 bits.
    Double,
    /// 16 bits, signed.
    I16,
    /// 32 bits, signed; an enumeration too.
    I32,
    /// 64 bits, signed.
    I64,
    /// Text or bytes.
    Binary,
    /// Fields, until one that says stop.
    Struct,
    /// Keys with values.
    Map,
    /// Elements without order.
    Set,
    /// Elements in order.
    List,
    /// 16 bytes.
    Uuid,
}

/// What a message is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A call that is answered.
    Call,
    /// An answer.
    Reply,
    /// An answer that is an error.
    Exception,
    /// A call that is not answered.
    Oneway,
}

impl Kind {
    fn of(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Call),
            2 => Some(Self::Reply),
            3 => Some(Self::Exception),
            4 => Some(Self::Oneway),
            _ => None,
        }
    }

    fn number(self) -> u8 {
        match self {
            Self::Call => 1,
            Self::Reply => 2,
            Self::Exception => 3,
            Self::Oneway => 4,
        }
    }
}

impl Type {
    /// Every type, with its number in the binary and in the compact protocol. A compact bool has two numbers, of which this
    /// is that of `true`.
    const NUMBERS: [(Self, u8, u8); 12] = [
        (Self::Bool, 2, 1),
        (Self::I8, 3, 3),
        (Self::Double, 4, 7),
        (Self::I16, 6, 4),
        (Self::I32, 8, 5),
        (Self::I64, 10, 6),
        (Self::Binary, 11, 8),
        (Self::Struct, 12, 12),
        (Self::Map, 13, 11),
        (Self::Set, 14, 10),
        (Self::List, 15, 9),
        (Self::Uuid, 16, 13),
    ];

    fn of(number: u8, protocol: Protocol) -> Option<Self> {
        if protocol == Protocol::Compact && number == COMPACT_FALSE {
            return Some(Self::Bool);
        }
        let known = Self::NUMBERS.iter().find(|(_, binary, compact)| match protocol {
            Protocol::Binary => *binary == number,
            Protocol::Compact => *compact == number,
        });
        known.map(|(kind, ..)| *kind)
    }

    fn number(self, protocol: Protocol) -> u8 {
        let known = Self::NUMBERS.iter().find(|(kind, ..)| *kind == self);
        known.map_or(0, |(_, binary, compact)| match protocol {
            Protocol::Binary => *binary,
            Protocol::Compact => *compact,
        })
    }

    /// Bytes that a value takes at least: what a claimed number of elements is held against.
    fn bytes_min(self, protocol: Protocol) -> usize {
        match (self, protocol) {
            (Self::Uuid, _) => 16,
            (Self::Double, _) | (Self::I64, Protocol::Binary) => 8,
            (Self::Map, Protocol::Binary) => 6,
            (Self::Set | Self::List, Protocol::Binary) => 5,
            (Self::I32 | Self::Binary, Protocol::Binary) => 4,
            (Self::I16, Protocol::Binary) => 2,
            _ => 1,
        }
    }
}

/// The compact protocol's `false`, in a field's head and as an element.
const COMPACT_FALSE: u8 = 2;

/// The compact protocol's first byte.
const COMPACT_ID: u8 = 0x82;

/// The compact protocol's version, in the lower five bits of the second byte.
const COMPACT_VERSION: u8 = 1;

/// The binary protocol's version, in the upper half of the first four bytes.
const BINARY_VERSION: u32 = 0x8001_0000;
