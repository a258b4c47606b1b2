//! Attributes and their values.

use super::Repeated;
use crate::reader::{Malformed, Reader, Value};

/// How deep lists and maps may be nested in one another, as in the door's other limits on depth. A value
/// deeper than that is malformed, so that whoever follows it by recursion is safe.
pub const DEPTH_MAX: u8 = 64;

/// An `AnyValue`.
#[derive(Clone, Debug)]
pub enum AnyValue<'a> {
    /// No value, or one of a kind that this version does not know.
    Empty,
    /// `string_value`: UTF-8 where the sender kept to the rules.
    String(&'a [u8]),
    /// `bool_value`.
    Bool(bool),
    /// `int_value`.
    Int(i64),
    /// `double_value`.
    Double(f64),
    /// `array_value`.
    Array(ArrayValues<'a>),
    /// `kvlist_value`.
    Map(KeyValues<'a>),
    /// `bytes_value`.
    Bytes(&'a [u8]),
}

/// A `KeyValue`.
#[derive(Clone, Debug)]
pub struct KeyValueView<'a> {
    /// The key.
    pub key: &'a [u8],
    /// The value.
    pub value: AnyValue<'a>,
}

/// The values of a list.
#[derive(Clone, Debug)]
pub struct ArrayValues<'a> {
    messages: Repeated<'a>,
    depth: u8,
}

/// Attributes, in order. A malformed one does not end the iteration; a broken frame around them does.
#[derive(Clone, Debug)]
pub struct KeyValues<'a> {
    messages: Repeated<'a>,
    depth: u8,
}

// === impl AnyValue ===

impl<'a> AnyValue<'a> {
    /// Reads an `AnyValue` message.
    ///
    /// # Errors
    /// [`Malformed`] when it is not made of whole fields.
    pub fn parse(message: &'a [u8]) -> Result<Self, Malformed> {
        Self::parse_at(message, 0)
    }

    #[inline]
    fn parse_at(message: &'a [u8], depth: u8) -> Result<Self, Malformed> {
        let mut value = Self::Empty;
        let mut reader = Reader::new(message);
        while let Some(field) = reader.next()? {
            value = match (field.number, field.value) {
                (1, Value::Bytes(text)) => Self::String(text),
                (2, Value::Varint(flag)) => Self::Bool(flag != 0),
                (3, Value::Varint(number)) => Self::Int(number.cast_signed()),
                (4, Value::Fixed64(bits)) => Self::Double(f64::from_bits(bits)),
                (5 | 6, Value::Bytes(_)) if depth == DEPTH_MAX => {
                    return Err(Malformed { at: field.start, what: "values are nested deeper than 64" });
                }
                (5, Value::Bytes(list)) => {
                    Self::Array(ArrayValues { messages: Repeated::new(list, 1), depth: depth + 1 })
                }
                (6, Value::Bytes(map)) => {
                    Self::Map(KeyValues { messages: Repeated::new(map, 1), depth: depth + 1 })
                }
                (7, Value::Bytes(bytes)) => Self::Bytes(bytes),
                _ => continue,
            };
        }
        Ok(value)
    }
}

// === impl KeyValueView ===

impl<'a> KeyValueView<'a> {
    /// Reads a `KeyValue` message.
    ///
    /// # Errors
    /// [`Malformed`] when it or the value in it is not made of whole fields.
    pub fn parse(message: &'a [u8]) -> Result<Self, Malformed> {
        Self::parse_at(message, 0)
    }

    #[inline]
    fn parse_at(message: &'a [u8], depth: u8) -> Result<Self, Malformed> {
        let mut view = Self { key: &[], value: AnyValue::Empty };
        let mut reader = Reader::new(message);
        while let Some(field) = reader.next()? {
            match (field.number, field.value) {
                (1, Value::Bytes(key)) => view.key = key,
                (2, Value::Bytes(value)) => {
                    view.value = AnyValue::parse_at(value, depth)
                        .map_err(|malformed| malformed.shifted(field.end - value.len()))?;
                }
                _ => {}
            }
        }
        Ok(view)
    }

    /// The key of a `KeyValue` message, without a look at the value.
    ///
    /// # Errors
    /// [`Malformed`] when the message is not made of whole fields.
    #[inline]
    pub fn key_of(message: &'a [u8]) -> Result<&'a [u8], Malformed> {
        let mut key: &[u8] = &[];
        let mut reader = Reader::new(message);
        while let Some(field) = reader.next()? {
            if let (1, Value::Bytes(bytes)) = (field.number, field.value) {
                key = bytes;
            }
        }
        Ok(key)
    }
}

// === impl ArrayValues ===

impl<'a> Iterator for ArrayValues<'a> {
    type Item = Result<AnyValue<'a>, Malformed>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        Some(self.messages.next()?.and_then(|message| AnyValue::parse_at(message, self.depth)))
    }
}

// === impl KeyValues ===

impl<'a> KeyValues<'a> {
    /// The attributes in the fields numbered `number` of `message`.
    #[must_use]
    pub const fn new(message: &'a [u8], number: u32) -> Self {
        Self { messages: Repeated::new(message, number), depth: 0 }
    }

    /// The value of the attribute `key`, of those that are left; of several the first. What is malformed
    /// counts as absent.
    #[must_use]
    pub fn get(self, key: &[u8]) -> Option<AnyValue<'a>> {
        let Self { messages, depth } = self;
        let pair = messages.map_while(Result::ok).find(|pair| KeyValueView::key_of(pair) == Ok(key))?;
        KeyValueView::parse_at(pair, depth).ok().map(|pair| pair.value)
    }
}

impl<'a> Iterator for KeyValues<'a> {
    type Item = Result<KeyValueView<'a>, Malformed>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        Some(self.messages.next()?.and_then(|message| KeyValueView::parse_at(message, self.depth)))
    }
}
