//! OTLP/JSON both ways, and the two tools it is made with: a pull lexer and a writer.
//!
//! OTLP/JSON is proto3 JSON with four exceptions (`opentelemetry-proto/docs/specification.md`): ids are hex,
//! enumerations are integers, keys are lowerCamelCase only, unknown keys are ignored. One table of messages,
//! `schema.rs`, serves both directions.

mod decode;
mod encode;
mod lexer;
mod number;
mod schema;
mod word;
mod writer;

use core::fmt;

pub use decode::to_protobuf;
pub use encode::{Unwritten, to_json, to_json_within};
pub use lexer::{Lexer, NESTING_MAX, Text, Token};
pub use number::Number;
pub use writer::Writer;

/// Bytes of one string unless a limit says otherwise.
pub const STRING_BYTES_MAX: usize = 64 * 1024;

/// How deep messages may be nested in one another, the request being the first. Sixteen list-in-list levels
/// of an attribute value and what stands around them fit easily; readers of protobuf stop at 100.
pub const MESSAGES_DEPTH_MAX: usize = 64;

/// What OTLP/JSON may hold. How deep it may be nested is fixed: [`MESSAGES_DEPTH_MAX`], [`NESTING_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JsonLimits {
    /// Bytes of one string, unescaped.
    pub string_bytes_max: usize,
}

impl Default for JsonLimits {
    fn default() -> Self {
        Self { string_bytes_max: STRING_BYTES_MAX }
    }
}

/// Text that is no JSON, or JSON that is not what was expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JsonError {
    /// Line, from 1.
    pub line: usize,
    /// Column in bytes, from 1.
    pub column: usize,
    /// Key of the value at fault; empty where there is none or it is not known.
    pub field: &'static str,
    /// What is wrong, a phrase for a person.
    pub what: &'static str,
}

impl JsonError {
    /// An error at byte `at` of `text`.
    #[must_use]
    #[cold]
    pub fn new(text: &[u8], at: usize, what: &'static str) -> Self {
        let before = &text[..at.min(text.len())];
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        let column = before.iter().rev().take_while(|byte| **byte != b'\n').count() + 1;
        Self { line, column, field: "", what }
    }
}

impl fmt::Display for JsonError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { line, column, field, what } = self;
        write!(f, "line {line}, column {column}: ")?;
        if !field.is_empty() {
            write!(f, "{field}: ")?;
        }
        f.write_str(what)
    }
}

impl core::error::Error for JsonError {}
