//! Log records.

use super::{AnyValue, KeyValues, View, Window};
use crate::reader::{Malformed, Reader, Value};

/// A `LogRecord`.
#[derive(Clone, Debug)]
pub struct LogRecordView<'a> {
    /// Nanoseconds since 1970; 0 is unknown.
    pub time_unix_nano: u64,
    /// Nanoseconds since 1970; 0 is unknown.
    pub observed_time_unix_nano: u64,
    /// 1 to 4 trace, 5 debug, 9 info, 13 warn, 17 error, 21 to 24 fatal; 0 is unknown.
    pub severity_number: i32,
    /// As the source spells it.
    pub severity_text: &'a [u8],
    /// What was logged.
    pub body: AnyValue<'a>,
    /// Attributes that the sender has left out.
    pub dropped_attributes_count: u32,
    /// W3C trace flags.
    pub flags: u32,
    /// 16 bytes, or none.
    pub trace_id: &'a [u8],
    /// 8 bytes, or none.
    pub span_id: &'a [u8],
    /// Name of the event, if it is one.
    pub event_name: &'a [u8],
    message: &'a [u8],
    attributes: Window,
}

// === impl LogRecordView ===

impl<'a> View<'a> for LogRecordView<'a> {
    fn parse(message: &'a [u8]) -> Result<Self, Malformed> {
        let mut view = Self {
            time_unix_nano: 0,
            observed_time_unix_nano: 0,
            severity_number: 0,
            severity_text: &[],
            body: AnyValue::Empty,
            dropped_attributes_count: 0,
            flags: 0,
            trace_id: &[],
            span_id: &[],
            event_name: &[],
            message,
            attributes: Window::default(),
        };
        let mut reader = Reader::new(message);
        while let Some(field) = reader.next()? {
            match (field.number, field.value) {
                (1, Value::Fixed64(time)) => view.time_unix_nano = time,
                (2, Value::Varint(number)) => view.severity_number = number as i32,
                (3, Value::Bytes(text)) => view.severity_text = text,
                (5, Value::Bytes(body)) => {
                    view.body = AnyValue::parse(body)
                        .map_err(|malformed| malformed.shifted(field.end - body.len()))?;
                }
                (6, _) => view.attributes.widen(&field),
                (7, Value::Varint(count)) => view.dropped_attributes_count = count as u32,
                (8, Value::Fixed32(flags)) => view.flags = flags,
                (9, Value::Bytes(id)) => view.trace_id = id,
                (10, Value::Bytes(id)) => view.span_id = id,
                (11, Value::Fixed64(time)) => view.observed_time_unix_nano = time,
                (12, Value::Bytes(name)) => view.event_name = name,
                _ => {}
            }
        }
        Ok(view)
    }
}

impl<'a> LogRecordView<'a> {
    /// Reads a `LogRecord` message.
    ///
    /// # Errors
    /// [`Malformed`] when it is not made of whole fields.
    pub fn parse(message: &'a [u8]) -> Result<Self, Malformed> {
        View::parse(message)
    }

    /// Its attributes.
    #[must_use]
    pub fn attributes(&self) -> KeyValues<'a> {
        KeyValues::new(self.attributes.of(self.message), 6)
    }
}
