//! Zipkin v2 protobuf: `zipkin.proto3.ListOfSpans { repeated Span spans = 1 }`.

use core::net::IpAddr;

use std::borrow::Cow;

use weir_guest::json::JsonWriter;
use weir_guest::spans::{Attribute, EventFields, attribute};
use weir_guest::text;
use weir_guest::wire::Malformed;
use weir_guest::wire::encode::{Encoder, Open};

use crate::encode::{Head, Spelling, TEXT_BYTES_MAX, Tag};
use crate::endpoint::Endpoint;
use crate::json::reads_as_event;

/// Spans in protobuf.
pub(crate) struct ProtobufSpelling {
    out: Encoder,
    scratch: JsonWriter,
    span: Option<Open>,
    /// Something was left out, being too large.
    overflowed: bool,
}

impl Default for ProtobufSpelling {
    fn default() -> Self {
        let scratch = JsonWriter::default().limited(TEXT_BYTES_MAX);
        Self { out: Encoder::default(), scratch, span: None, overflowed: false }
    }
}

impl Spelling for ProtobufSpelling {
    fn begin(&mut self, head: &Head<'_>) {
        // Spans have some hundred bytes: the four-byte length is cheaper than moving them.
        self.span = Some(self.out.open_large(1));
        let out = &mut self.out;
        match head.trace_id.split_first_chunk::<8>() {
            Some(([0, 0, 0, 0, 0, 0, 0, 0], low)) => out.bytes(1, low),
            Some(_) | None => out.bytes(1, head.trace_id),
        }
        if let Some(parent_id) = head.parent_id {
            out.bytes(2, parent_id);
        }
        out.bytes(3, head.id);
        if let Some(kind) = head.kind {
            out.varint(4, kind as u64);
        }
        let name = utf8(head.name);
        if self.fits(name.len()) {
            self.out.nonempty_bytes(5, name);
        }
        let out = &mut self.out;
        out.nonzero_fixed64(6, head.timestamp);
        out.nonzero_varint(7, head.duration);
    }

    fn tag(&mut self, tag: &Tag<'_>) {
        let (key, value) = (utf8(tag.key), utf8(tag.value));
        if self.fits(key.len().saturating_add(value.len())) {
            self.out.message(11, |out| {
                out.bytes(1, key);
                out.bytes(2, value);
            });
        }
    }

    fn tag_number(&mut self, key: &[u8], value: i64) {
        self.scratch.clear();
        self.scratch.signed(value);
        self.out.message(11, |tag| {
            tag.bytes(1, utf8(key));
            tag.bytes(2, self.scratch.as_bytes());
        });
    }

    fn spelled_tags(&mut self, spelled: &[u8]) {
        if self.fits(spelled.len()) {
            self.out.raw(spelled);
        }
    }

    fn end_tags(&mut self) {}

    fn annotation(&mut self, time: u64, event: &EventFields<'_>) -> Result<(), Malformed> {
        let plain =
            event.attributes.is_empty() && event.dropped_attributes_count == 0 && !reads_as_event(event.name);
        let text = &mut self.scratch;
        text.clear();
        if !plain {
            text.string(event.name);
            text.raw(b": {");
            for message in &event.attributes {
                let (key, value) = attribute(message)?;
                text.string(key);
                text.raw(b":");
                match value {
                    Attribute::Text(value) => text.string(value),
                    Attribute::Int(number) => text.signed(number),
                    Attribute::Other(value) => text::json(text, &value)?,
                }
                text.raw(b",");
            }
            if event.dropped_attributes_count > 0 {
                text.raw(b"\"otel.dropped_attributes_count\":");
                text.unsigned(u64::from(event.dropped_attributes_count));
            }
            text.trim_comma();
            text.raw(b"}");
        }
        let value = if plain { utf8(event.name) } else { Cow::Borrowed(text.as_bytes()) };
        let fits = fits(&self.out, value.len());
        self.overflowed |= !fits;
        if fits {
            self.out.message(10, |annotation| {
                annotation.fixed64(1, time);
                annotation.bytes(2, value);
            });
        }
        Ok(())
    }

    fn end_annotations(&mut self) {}

    fn local(&mut self, endpoint: &Endpoint<'_>) {
        self.endpoint(8, endpoint);
    }

    fn remote(&mut self, endpoint: &Endpoint<'_>) {
        self.endpoint(9, endpoint);
    }

    fn end(&mut self, shared: bool, debug: bool) {
        if debug {
            self.out.bool(12, true);
        }
        if shared {
            self.out.bool(13, true);
        }
        self.out.close(self.span.take().expect("every span is begun before it ends"));
    }

    fn reserve(&mut self, bytes: usize) {
        self.out = Encoder::with_capacity(bytes);
    }

    fn len(&self) -> usize {
        self.out.len()
    }

    fn overflowed(&self) -> bool {
        self.overflowed || self.scratch.overflowed()
    }

    fn as_bytes(&self) -> &[u8] {
        self.out.as_bytes()
    }

    fn into_list(self) -> Vec<u8> {
        self.out.into_bytes()
    }
}

impl ProtobufSpelling {
    /// Whether so many bytes more may be written; if not, the span is lost.
    fn fits(&mut self, bytes: usize) -> bool {
        let fits = fits(&self.out, bytes);
        self.overflowed |= !fits;
        fits
    }

    fn endpoint(&mut self, field: u32, endpoint: &Endpoint<'_>) {
        self.out.message(field, |out| {
            out.nonempty_bytes(1, utf8(endpoint.service));
            match endpoint.ip.map(|ip| ip.addr) {
                Some(IpAddr::V4(addr)) => out.bytes(2, addr.octets()),
                Some(IpAddr::V6(addr)) => out.bytes(3, addr.octets()),
                None => {}
            }
            out.nonzero_varint(4, u64::from(endpoint.port));
        });
    }
}

fn fits(out: &Encoder, bytes: usize) -> bool {
    out.len().saturating_add(bytes) <= TEXT_BYTES_MAX
}

/// Protobuf strings are UTF-8, which OTLP's senders may have forgotten.
fn utf8(text: &[u8]) -> Cow<'_, [u8]> {
    match core::str::from_utf8(text) {
        Ok(_) => Cow::Borrowed(text),
        Err(_) => Cow::Owned(String::from_utf8_lossy(text).into_owned().into_bytes()),
    }
}
