//! Spans.

use super::{Each, KeyValues, View, Window};
use crate::reader::{Malformed, Reader, Value};

/// A `Span`.
#[derive(Clone, Copy, Debug, Default)]
pub struct SpanView<'a> {
    /// 16 bytes in a span that has passed the door.
    pub trace_id: &'a [u8],
    /// 8 bytes in a span that has passed the door.
    pub span_id: &'a [u8],
    /// 8 bytes, or none for a root.
    pub parent_span_id: &'a [u8],
    /// W3C `tracestate`.
    pub trace_state: &'a [u8],
    /// Name of the operation.
    pub name: &'a [u8],
    /// 0 unspecified, 1 internal, 2 server, 3 client, 4 producer, 5 consumer.
    pub kind: i32,
    /// Nanoseconds since 1970; 0 is unknown.
    pub start_time_unix_nano: u64,
    /// Nanoseconds since 1970; 0 is unknown.
    pub end_time_unix_nano: u64,
    /// Attributes that the sender has left out.
    pub dropped_attributes_count: u32,
    /// Events that the sender has left out.
    pub dropped_events_count: u32,
    /// Links that the sender has left out.
    pub dropped_links_count: u32,
    /// How it ended.
    pub status: StatusView<'a>,
    /// 0xff W3C trace flags, 0x100 has-is-remote, 0x200 is-remote. The sampled bit is not dependable.
    pub flags: u32,
    message: &'a [u8],
    attributes: Window,
    events: Window,
    links: Window,
}

/// A span's `Status`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StatusView<'a> {
    /// For a person, on errors.
    pub message: &'a [u8],
    /// 0 unset, 1 ok, 2 error.
    pub code: i32,
}

/// A span's `Event`.
#[derive(Clone, Copy, Debug, Default)]
pub struct EventView<'a> {
    /// Nanoseconds since 1970.
    pub time_unix_nano: u64,
    /// Its name.
    pub name: &'a [u8],
    /// Attributes that the sender has left out.
    pub dropped_attributes_count: u32,
    message: &'a [u8],
    attributes: Window,
}

/// A span's `Link`.
#[derive(Clone, Copy, Debug, Default)]
pub struct LinkView<'a> {
    /// 16 bytes, or none.
    pub trace_id: &'a [u8],
    /// 8 bytes, or none.
    pub span_id: &'a [u8],
    /// W3C `tracestate`.
    pub trace_state: &'a [u8],
    /// Attributes that the sender has left out.
    pub dropped_attributes_count: u32,
    /// As in [`SpanView::flags`].
    pub flags: u32,
    message: &'a [u8],
    attributes: Window,
}

// === impl SpanView ===

impl<'a> View<'a> for SpanView<'a> {
    fn parse(message: &'a [u8]) -> Result<Self, Malformed> {
        let mut view = Self { message, ..Self::default() };
        let mut reader = Reader::new(message);
        while let Some(field) = reader.next()? {
            match (field.number, field.value) {
                (9, _) => view.attributes.widen(&field),
                (1, Value::Bytes(id)) => view.trace_id = id,
                (2, Value::Bytes(id)) => view.span_id = id,
                (3, Value::Bytes(state)) => view.trace_state = state,
                (4, Value::Bytes(id)) => view.parent_span_id = id,
                (5, Value::Bytes(name)) => view.name = name,
                (6, Value::Varint(kind)) => view.kind = kind as i32,
                (7, Value::Fixed64(time)) => view.start_time_unix_nano = time,
                (8, Value::Fixed64(time)) => view.end_time_unix_nano = time,
                (10, Value::Varint(count)) => view.dropped_attributes_count = count as u32,
                (11, _) => view.events.widen(&field),
                (12, Value::Varint(count)) => view.dropped_events_count = count as u32,
                (13, _) => view.links.widen(&field),
                (14, Value::Varint(count)) => view.dropped_links_count = count as u32,
                (15, Value::Bytes(status)) => view
                    .status
                    .merge(status)
                    .map_err(|malformed| malformed.shifted(field.end - status.len()))?,
                (16, Value::Fixed32(flags)) => view.flags = flags,
                _ => {}
            }
        }
        Ok(view)
    }
}

impl<'a> SpanView<'a> {
    /// Reads a `Span` message.
    ///
    /// # Errors
    /// [`Malformed`] when it is not made of whole fields.
    pub fn parse(message: &'a [u8]) -> Result<Self, Malformed> {
        View::parse(message)
    }

    /// Its attributes.
    #[must_use]
    pub fn attributes(&self) -> KeyValues<'a> {
        KeyValues::new(self.attributes.of(self.message), 9)
    }

    /// Its events.
    #[must_use]
    pub fn events(&self) -> Each<'a, EventView<'a>> {
        Each::new(self.events.of(self.message), 11)
    }

    /// Its links.
    #[must_use]
    pub fn links(&self) -> Each<'a, LinkView<'a>> {
        Each::new(self.links.of(self.message), 13)
    }
}

// === impl StatusView ===

impl<'a> StatusView<'a> {
    /// A message that stands twice is one message: later fields go over earlier ones.
    fn merge(&mut self, message: &'a [u8]) -> Result<(), Malformed> {
        let mut reader = Reader::new(message);
        while let Some(field) = reader.next()? {
            match (field.number, field.value) {
                (2, Value::Bytes(text)) => self.message = text,
                (3, Value::Varint(code)) => self.code = code as i32,
                _ => {}
            }
        }
        Ok(())
    }
}

// === impl EventView ===

impl<'a> View<'a> for EventView<'a> {
    fn parse(message: &'a [u8]) -> Result<Self, Malformed> {
        let mut view = Self { message, ..Self::default() };
        let mut reader = Reader::new(message);
        while let Some(field) = reader.next()? {
            match (field.number, field.value) {
                (1, Value::Fixed64(time)) => view.time_unix_nano = time,
                (2, Value::Bytes(name)) => view.name = name,
                (3, _) => view.attributes.widen(&field),
                (4, Value::Varint(count)) => view.dropped_attributes_count = count as u32,
                _ => {}
            }
        }
        Ok(view)
    }
}

impl<'a> EventView<'a> {
    /// Its attributes.
    #[must_use]
    pub fn attributes(&self) -> KeyValues<'a> {
        KeyValues::new(self.attributes.of(self.message), 3)
    }
}

// === impl LinkView ===

impl<'a> View<'a> for LinkView<'a> {
    fn parse(message: &'a [u8]) -> Result<Self, Malformed> {
        let mut view = Self { message, ..Self::default() };
        let mut reader = Reader::new(message);
        while let Some(field) = reader.next()? {
            match (field.number, field.value) {
                (1, Value::Bytes(id)) => view.trace_id = id,
                (2, Value::Bytes(id)) => view.span_id = id,
                (3, Value::Bytes(state)) => view.trace_state = state,
                (4, _) => view.attributes.widen(&field),
                (5, Value::Varint(count)) => view.dropped_attributes_count = count as u32,
                (6, Value::Fixed32(flags)) => view.flags = flags,
                _ => {}
            }
        }
        Ok(view)
    }
}

impl<'a> LinkView<'a> {
    /// Its attributes.
    #[must_use]
    pub fn attributes(&self) -> KeyValues<'a> {
        KeyValues::new(self.attributes.of(self.message), 4)
    }
}
