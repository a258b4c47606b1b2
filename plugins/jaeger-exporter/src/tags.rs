//! Tags: attributes, and what Jaeger has no field for.

use weir_guest::json::JsonWriter;
use weir_guest::text;
use weir_guest::wire::Malformed;
use weir_guest::wire::otlp::AnyValue;
use weir_thrift::{Fields, OpenList, Type, Writer};

/// `TagType` of `jaeger.thrift`.
const STRING: i32 = 0;
const DOUBLE: i32 = 1;
const BOOL: i32 = 2;
const LONG: i32 = 3;
const BINARY: i32 = 4;

/// A list of tags that is being written.
pub(crate) struct Tags<'w> {
    writer: &'w mut Writer,
    list: OpenList,
    count: u32,
}

impl<'w> Tags<'w> {
    /// A list in field `id` of a struct.
    pub(crate) fn open(writer: &'w mut Writer, fields: &mut Fields, id: i16) -> Self {
        writer.field(fields, id, Type::List);
        let list = writer.open_list(Type::Struct);
        Self { writer, list, count: 0 }
    }

    /// The end of the list.
    pub(crate) fn close(self) {
        self.writer.close_list(self.list, self.count);
    }

    /// An attribute. Lists and maps become JSON.
    pub(crate) fn attribute(
        &mut self,
        key: &[u8],
        value: &AnyValue<'_>,
        scratch: &mut JsonWriter,
    ) -> Result<(), Malformed> {
        match value {
            AnyValue::Bool(flag) => self.bool(key, *flag),
            AnyValue::Int(number) => self.long(key, *number),
            AnyValue::Double(number) => {
                let mut fields = self.begin(key, DOUBLE);
                self.writer.field(&mut fields, 4, Type::Double);
                self.writer.double(*number);
                self.writer.stop();
            }
            AnyValue::Bytes(bytes) => {
                let mut fields = self.begin(key, BINARY);
                self.writer.field(&mut fields, 7, Type::Binary);
                self.writer.text(bytes);
                self.writer.stop();
            }
            AnyValue::String(_) | AnyValue::Empty | AnyValue::Array(_) | AnyValue::Map(_) => {
                self.text(key, text::of(value, scratch)?);
            }
        }
        Ok(())
    }

    /// A tag with a text.
    pub(crate) fn text(&mut self, key: &[u8], value: &[u8]) {
        let mut fields = self.begin(key, STRING);
        self.writer.field(&mut fields, 3, Type::Binary);
        put_text(self.writer, value);
        self.writer.stop();
    }

    /// A tag with a flag.
    pub(crate) fn bool(&mut self, key: &[u8], value: bool) {
        let mut fields = self.begin(key, BOOL);
        self.writer.flag(&mut fields, 5, value);
        self.writer.stop();
    }

    /// A tag with a number.
    pub(crate) fn long(&mut self, key: &[u8], value: i64) {
        let mut fields = self.begin(key, LONG);
        self.writer.field(&mut fields, 6, Type::I64);
        self.writer.i64(value);
        self.writer.stop();
    }

    fn begin(&mut self, key: &[u8], kind: i32) -> Fields {
        self.count += 1;
        let mut fields = Fields::default();
        self.writer.field(&mut fields, 1, Type::Binary);
        put_text(self.writer, key);
        self.writer.field(&mut fields, 2, Type::I32);
        self.writer.i32(kind);
        fields
    }
}

/// Text; what is not UTF-8 becomes U+FFFD, since Jaeger's readers expect it.
pub(crate) fn put_text(writer: &mut Writer, text: &[u8]) {
    match core::str::from_utf8(text) {
        Ok(_) => writer.text(text),
        Err(_) => writer.text(String::from_utf8_lossy(text).as_bytes()),
    }
}
