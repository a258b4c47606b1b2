//! A `Resource`: who speaks, as attributes.

use crate::otlp::{AnyValue, KeyValues};

/// A `Resource` message, read without being decoded.
#[derive(Clone, Copy, Debug)]
pub struct ResourceView<'a> {
    bytes: &'a [u8],
}

impl<'a> ResourceView<'a> {
    /// Looks at a `Resource` message; [`crate::ResourcePart::resource`] says where one lies in a request.
    #[must_use]
    pub const fn new(resource: &'a [u8]) -> Self {
        Self { bytes: resource }
    }

    /// Its attributes, in order.
    #[must_use]
    pub const fn attributes(&self) -> KeyValues<'a> {
        KeyValues::new(self.bytes, 1)
    }

    /// The value of the attribute `key`; of several the first. What is malformed counts as absent.
    #[must_use]
    pub fn get(&self, key: impl AsRef<[u8]>) -> Option<AnyValue<'a>> {
        self.attributes().get(key.as_ref())
    }

    /// The bytes of the string attribute `key`; nothing where it is absent, empty or of another kind. They
    /// are UTF-8 where the sender kept to the rules.
    #[must_use]
    pub fn get_str(&self, key: impl AsRef<[u8]>) -> Option<&'a [u8]> {
        match self.get(key)? {
            AnyValue::String(text) if !text.is_empty() => Some(text),
            AnyValue::String(_)
            | AnyValue::Empty
            | AnyValue::Bool(_)
            | AnyValue::Int(_)
            | AnyValue::Double(_)
            | AnyValue::Bytes(_)
            | AnyValue::Array(_)
            | AnyValue::Map(_) => None,
        }
    }

    /// The integer attribute `key`; nothing where it is absent or of another kind.
    #[must_use]
    pub fn get_int(&self, key: impl AsRef<[u8]>) -> Option<i64> {
        match self.get(key)? {
            AnyValue::Int(value) => Some(value),
            AnyValue::Empty
            | AnyValue::String(_)
            | AnyValue::Bool(_)
            | AnyValue::Double(_)
            | AnyValue::Bytes(_)
            | AnyValue::Array(_)
            | AnyValue::Map(_) => None,
        }
    }
}
