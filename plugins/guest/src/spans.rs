//! A span's fields in one pass, and its attributes without a detour.
//!
//! `wire`'s views are right for most readers. An exporter that writes all of a span reads each byte once
//! here: the fields go into a [`Fields`] that is used again for the next span, so nothing large is moved, and
//! an attribute in the form that every encoder gives it is taken apart by a few comparisons. Everything else
//! goes the way of `wire`'s reader.

use weir_wire::Malformed;
use weir_wire::otlp::{AnyValue, KeyValueView};
use weir_wire::reader::{Reader, Value};

/// The fields of a span. Of a field that stands twice the last counts; unknown ones are passed over.
#[derive(Clone, Debug, Default)]
pub struct Fields<'a> {
    /// 16 bytes in a valid span.
    pub trace_id: &'a [u8],
    /// 8 bytes in a valid span.
    pub span_id: &'a [u8],
    /// 8 bytes, or none for a root.
    pub parent_span_id: &'a [u8],
    /// W3C tracestate.
    pub trace_state: &'a [u8],
    /// What the span is called.
    pub name: &'a [u8],
    /// `Span.SpanKind`.
    pub kind: i32,
    /// Nanoseconds since the Unix epoch.
    pub start_time_unix_nano: u64,
    /// Nanoseconds since the Unix epoch.
    pub end_time_unix_nano: u64,
    /// `KeyValue` messages; [`attribute`] takes them apart.
    pub attributes: Vec<&'a [u8]>,
    /// Attributes that the sender has left out.
    pub dropped_attributes_count: u32,
    /// `Span.Event` messages.
    pub events: Vec<&'a [u8]>,
    /// Events that the sender has left out.
    pub dropped_events_count: u32,
    /// `Span.Link` messages.
    pub links: Vec<&'a [u8]>,
    /// Links that the sender has left out.
    pub dropped_links_count: u32,
    /// `Status.code`.
    pub status_code: i32,
    /// `Status.message`.
    pub status_message: &'a [u8],
    /// Trace flags.
    pub flags: u32,
}

impl<'a> Fields<'a> {
    /// Forgets the last span and reads this one.
    ///
    /// # Errors
    /// [`Malformed`] when it is not made of whole fields; what was read before is no span then.
    pub fn read(&mut self, span: &'a [u8]) -> Result<(), Malformed> {
        self.forget();
        let mut at = 0;
        while at < span.len() {
            // The fields of an ordinary span first: keys and lengths of one byte.
            let rest = &span[at..];
            let key = rest[0];
            if let (0x39 | 0x41, Some(time)) =
                (key, rest.get(1..9).and_then(|bytes| bytes.first_chunk::<8>()))
            {
                let time = u64::from_le_bytes(*time);
                *if key == 0x39 { &mut self.start_time_unix_nano } else { &mut self.end_time_unix_nano } =
                    time;
                at += 9;
                continue;
            }
            if let [0x85, 0x01, a, b, c, d, ..] = *rest {
                self.flags = u32::from_le_bytes([a, b, c, d]);
                at += 6;
                continue;
            }
            let length = rest.get(1).copied().unwrap_or(0x80);
            if length < 0x80 {
                if key == 0x30 {
                    self.kind = i32::from(length);
                    at += 2;
                    continue;
                }
                if let Some(bytes) = rest.get(2..2 + usize::from(length)) {
                    let known = match key {
                        0x4a => {
                            self.attributes.push(bytes);
                            true
                        }
                        0x5a => {
                            self.events.push(bytes);
                            true
                        }
                        0x0a => replace(&mut self.trace_id, bytes),
                        0x12 => replace(&mut self.span_id, bytes),
                        0x22 => replace(&mut self.parent_span_id, bytes),
                        0x2a => replace(&mut self.name, bytes),
                        _ => false,
                    };
                    if known {
                        at += 2 + bytes.len();
                        continue;
                    }
                }
            }
            at = self.field(span, at)?;
        }
        Ok(())
    }

    /// Reads the field at `at`, whatever it is, and tells where the next one begins.
    fn field(&mut self, span: &'a [u8], at: usize) -> Result<usize, Malformed> {
        let mut reader = Reader::new(&span[at..]);
        let Some(field) = reader.next().map_err(|malformed| malformed.shifted(at))? else {
            return Ok(span.len());
        };
        match (field.number, field.value) {
            (1, Value::Bytes(id)) => self.trace_id = id,
            (2, Value::Bytes(id)) => self.span_id = id,
            (3, Value::Bytes(state)) => self.trace_state = state,
            (4, Value::Bytes(id)) => self.parent_span_id = id,
            (5, Value::Bytes(name)) => self.name = name,
            (6, Value::Varint(kind)) => self.kind = kind as i32,
            (7, Value::Fixed64(time)) => self.start_time_unix_nano = time,
            (8, Value::Fixed64(time)) => self.end_time_unix_nano = time,
            (9, Value::Bytes(attribute)) => self.attributes.push(attribute),
            (10, Value::Varint(count)) => self.dropped_attributes_count = count as u32,
            (11, Value::Bytes(event)) => self.events.push(event),
            (12, Value::Varint(count)) => self.dropped_events_count = count as u32,
            (13, Value::Bytes(link)) => self.links.push(link),
            (14, Value::Varint(count)) => self.dropped_links_count = count as u32,
            (15, Value::Bytes(status)) => {
                let start = at + field.end - status.len();
                self.status(status).map_err(|malformed| malformed.shifted(start))?;
            }
            (16, Value::Fixed32(flags)) => self.flags = flags,
            _ => {} // unknown, or of a foreign wire type: passed over, as protobuf's own readers do
        }
        Ok(at + field.end)
    }

    fn status(&mut self, status: &'a [u8]) -> Result<(), Malformed> {
        let mut reader = Reader::new(status);
        while let Some(field) = reader.next()? {
            match (field.number, field.value) {
                (2, Value::Bytes(message)) => self.status_message = message,
                (3, Value::Varint(code)) => self.status_code = code as i32,
                _ => {} // as above
            }
        }
        Ok(())
    }

    fn forget(&mut self) {
        let Self { attributes, events, links, .. } = self;
        attributes.clear();
        events.clear();
        links.clear();
        self.trace_id = &[];
        self.span_id = &[];
        self.parent_span_id = &[];
        self.trace_state = &[];
        self.name = &[];
        self.kind = 0;
        self.start_time_unix_nano = 0;
        self.end_time_unix_nano = 0;
        self.dropped_attributes_count = 0;
        self.dropped_events_count = 0;
        self.dropped_links_count = 0;
        self.status_code = 0;
        self.status_message = &[];
        self.flags = 0;
    }
}

#[inline(always)]
fn replace<'a>(field: &mut &'a [u8], bytes: &'a [u8]) -> bool {
    *field = bytes;
    true
}

/// The fields of a span's event.
#[derive(Clone, Debug, Default)]
pub struct EventFields<'a> {
    /// Nanoseconds since the Unix epoch.
    pub time_unix_nano: u64,
    /// What happened.
    pub name: &'a [u8],
    /// `KeyValue` messages; [`attribute`] takes them apart.
    pub attributes: Vec<&'a [u8]>,
    /// Attributes that the sender has left out.
    pub dropped_attributes_count: u32,
}

impl<'a> EventFields<'a> {
    /// Forgets the last event and reads this one.
    ///
    /// # Errors
    /// [`Malformed`] when it is not made of whole fields.
    pub fn read(&mut self, event: &'a [u8]) -> Result<(), Malformed> {
        self.attributes.clear();
        self.time_unix_nano = 0;
        self.name = &[];
        self.dropped_attributes_count = 0;
        let mut at = 0;
        while at < event.len() {
            // As in a span: time, name and attributes in their usual forms first.
            let rest = &event[at..];
            let key = rest[0];
            if let (0x09, Some(time)) = (key, rest.get(1..9).and_then(|bytes| bytes.first_chunk::<8>())) {
                self.time_unix_nano = u64::from_le_bytes(*time);
                at += 9;
                continue;
            }
            if let (0x12 | 0x1a, Some(&length @ 0..0x80)) = (key, rest.get(1))
                && let Some(bytes) = rest.get(2..2 + usize::from(length))
            {
                if key == 0x12 {
                    self.name = bytes;
                } else {
                    self.attributes.push(bytes);
                }
                at += 2 + bytes.len();
                continue;
            }
            at = self.field(event, at)?;
        }
        Ok(())
    }

    /// Reads the field at `at`, whatever it is, and tells where the next one begins.
    fn field(&mut self, event: &'a [u8], at: usize) -> Result<usize, Malformed> {
        let mut reader = Reader::new(&event[at..]);
        let Some(field) = reader.next().map_err(|malformed| malformed.shifted(at))? else {
            return Ok(event.len());
        };
        match (field.number, field.value) {
            (1, Value::Fixed64(time)) => self.time_unix_nano = time,
            (2, Value::Bytes(name)) => self.name = name,
            (3, Value::Bytes(attribute)) => self.attributes.push(attribute),
            (4, Value::Varint(count)) => self.dropped_attributes_count = count as u32,
            _ => {} // unknown, or of a foreign wire type
        }
        Ok(at + field.end)
    }
}

/// An attribute's value.
#[derive(Clone, Debug)]
pub enum Attribute<'a> {
    /// A string.
    Text(&'a [u8]),
    /// A whole number.
    Int(i64),
    /// Anything else.
    Other(AnyValue<'a>),
}

/// An attribute whose value is a string, in the form that every encoder gives it: `0a` *length* key `12`
/// *length* `0a` *length* text, all lengths in one byte. For anything else ask [`attribute`].
#[inline(always)]
#[must_use]
pub fn text_attribute(message: &[u8]) -> Option<(&[u8], &[u8])> {
    let (key, any) = key_and_any(message)?;
    let (&[0x0a, length], text) = any.split_first_chunk::<2>()? else { return None };
    (usize::from(length) == text.len()).then_some((key, text))
}

/// An attribute: its key and its value.
///
/// # Errors
/// As [`KeyValueView::parse`].
#[inline]
pub fn attribute(message: &[u8]) -> Result<(&[u8], Attribute<'_>), Malformed> {
    if let Some((key, any)) = key_and_any(message) {
        match any {
            [0x0a, length, text @ ..] if usize::from(*length) == text.len() => {
                return Ok((key, Attribute::Text(text)));
            }
            [0x18, byte] if *byte < 0x80 => return Ok((key, Attribute::Int(i64::from(*byte)))),
            [0x18, low, high] if *low >= 0x80 && *high < 0x80 => {
                return Ok((key, Attribute::Int(i64::from(low & 0x7f) | i64::from(*high) << 7)));
            }
            _ => {}
        }
    }
    let KeyValueView { key, value } = KeyValueView::parse(message)?;
    Ok((
        key,
        match value {
            AnyValue::String(text) => Attribute::Text(text),
            AnyValue::Int(number) => Attribute::Int(number),
            other => Attribute::Other(other),
        },
    ))
}

/// Key and `AnyValue` of an attribute with lengths of one byte, the key first and nothing behind the value.
#[inline(always)]
fn key_and_any(message: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&[0x0a, key_length], rest) = message.split_first_chunk::<2>()? else { return None };
    if key_length >= 0x80 {
        return None;
    }
    let (key, rest) = rest.split_at_checked(usize::from(key_length))?;
    let (&[0x12, any_length], any) = rest.split_first_chunk::<2>()? else { return None };
    (any_length < 0x80 && usize::from(any_length) == any.len()).then_some((key, any))
}

#[cfg(test)]
mod tests {
    use weir_wire::Encoder;
    use weir_wire::otlp::{EventView, SpanView, View};

    use super::*;

    /// A span with every field, some in an order and a form that no encoder writes.
    fn span() -> Vec<u8> {
        let mut span = Encoder::new();
        span.bytes(1, [1; 16]);
        span.bytes(2, [2; 8]);
        span.string(3, "a=b");
        span.bytes(4, [3; 8]);
        span.string(5, "n".repeat(200).as_str());
        span.varint(6, 3);
        span.fixed64(7, 1_600_000_000_000_000_000);
        span.fixed64(8, 1_600_000_000_000_000_001);
        span.attribute_str(9, "k", "v");
        span.attribute_str(9, "long", "v".repeat(300));
        span.attribute_int(9, "small", 5);
        span.attribute_int(9, "medium", 404);
        span.attribute_int(9, "negative", -1);
        span.attribute_double(9, "d", 0.5);
        span.message(9, |attribute| {
            attribute.message(2, |any| any.string(1, "value first"));
            attribute.string(1, "k2");
        });
        span.varint(10, 300);
        for name in ["e1", "e2"] {
            span.message(11, |event| {
                event.fixed64(1, 7);
                event.string(2, name);
                event.attribute_str(3, "k", "v");
                event.varint(4, 2);
            });
        }
        span.varint(12, 2);
        span.message(13, |link| link.bytes(1, [4; 16]));
        span.varint(14, 3);
        span.message(15, |status| {
            status.string(2, "bad");
            status.varint(3, 2);
        });
        span.fixed32(16, 0x101);
        span.string(5, "name");
        span.string(99, "later");
        span.into_bytes()
    }

    fn attributes(messages: &[&[u8]]) -> Vec<String> {
        let describe = |message: &&[u8]| {
            if let Some((key, text)) = text_attribute(message) {
                let Ok((same_key, Attribute::Text(same_text))) = attribute(message) else {
                    panic!("not text")
                };
                assert_eq!((key, text), (same_key, same_text));
            }
            let (key, value) = attribute(message).expect("an attribute");
            let value = match value {
                Attribute::Text(text) => AnyValue::String(text),
                Attribute::Int(number) => AnyValue::Int(number),
                Attribute::Other(other) => other,
            };
            format!("{key:?} {value:?}")
        };
        messages.iter().map(describe).collect()
    }

    /// Reads by [`Fields`] and by the view, and compares; says whether both read it.
    fn compare(span: &[u8]) -> bool {
        let mut fields = Fields::default();
        let (read, view) = (fields.read(span), SpanView::parse(span));
        assert_eq!(read.is_ok(), view.is_ok(), "{}", span.escape_ascii());
        let Ok(view) = view else { return false };
        assert_eq!(
            (fields.trace_id, fields.span_id, fields.parent_span_id, fields.trace_state, fields.name),
            (view.trace_id, view.span_id, view.parent_span_id, view.trace_state, view.name)
        );
        assert_eq!(
            (fields.kind, fields.start_time_unix_nano, fields.end_time_unix_nano, fields.flags),
            (view.kind, view.start_time_unix_nano, view.end_time_unix_nano, view.flags)
        );
        assert_eq!((fields.status_code, fields.status_message), (view.status.code, view.status.message));
        assert_eq!(
            (fields.dropped_attributes_count, fields.dropped_events_count, fields.dropped_links_count),
            (view.dropped_attributes_count, view.dropped_events_count, view.dropped_links_count)
        );
        assert_eq!(fields.links.len(), view.links().count());
        let expected: Result<Vec<_>, _> = view
            .attributes()
            .map(|pair| pair.map(|pair| format!("{:?} {:?}", pair.key, pair.value)))
            .collect();
        match expected {
            Ok(expected) => assert_eq!(attributes(&fields.attributes), expected),
            Err(_) => assert!(fields.attributes.iter().any(|message| attribute(message).is_err())),
        }
        for message in &fields.events {
            let mut event = EventFields::default();
            let (read, view) = (event.read(message), EventView::parse(message));
            assert_eq!(read.is_ok(), view.is_ok());
            if let Ok(view) = view {
                assert_eq!((event.time_unix_nano, event.name), (view.time_unix_nano, view.name));
                assert_eq!(event.dropped_attributes_count, view.dropped_attributes_count);
                assert_eq!(event.attributes.len(), view.attributes().count());
            }
        }
        true
    }

    /// Scenario: a span with every field, in usual and unusual forms; the same buffer for a second, empty
    /// one.
    /// Guarantees: the fields are what `wire`'s views see, and nothing of the first span is in the second.
    #[test]
    fn fields_are_what_the_views_see() {
        assert!(compare(&span()));
        let bytes = span();
        let mut fields = Fields::default();
        fields.read(&bytes).expect("a span");
        fields.read(&[]).expect("an empty span");
        assert_eq!(format!("{fields:?}"), format!("{:?}", Fields::default()));
    }

    /// Scenario: the same span with bytes changed, cut and put in, at random.
    /// Guarantees: refused by both ways of reading or by neither, with the same fields; no panic.
    #[test]
    fn random_spans_are_read_as_the_views_read_them() {
        let seed = fastrand::u64(..);
        println!("seed {seed}");
        let mut random = fastrand::Rng::with_seed(seed);
        let good = span();
        let mut read = 0;
        for _ in 0..50_000 {
            let mut bytes = good.clone();
            for _ in 0..random.usize(1..4) {
                let at = random.usize(..bytes.len());
                match random.u8(..3) {
                    0 => bytes[at] = random.u8(..),
                    1 => bytes.truncate(at.max(1)),
                    _ => bytes.insert(at, random.u8(..)),
                }
            }
            read += usize::from(compare(&bytes));
        }
        assert!(read > 0);
    }
}
