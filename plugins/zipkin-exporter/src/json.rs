//! Zipkin v2 JSON.
//!
//! ```text
//! [{"traceId":"…","id":"…","parentId":"…","kind":"CLIENT","name":"…","timestamp":µs,"duration":µs,
//!   "tags":{"k":"v"},"annotations":[{"timestamp":µs,"value":"…"}],
//!   "localEndpoint":{"serviceName":"…","ipv4":"…","port":n},"remoteEndpoint":{…},"shared":true,"debug":true}]
//! ```
//!
//! Absent members are left out. A tag and an annotation are each written with a comma behind it; ends take
//! the last one back.

use core::net::IpAddr;

use weir_guest::json::{Around, JsonWriter, Literal};
use weir_guest::spans::{Attribute, EventFields, attribute};
use weir_guest::text;
use weir_guest::wire::Malformed;

use crate::encode::{Head, Kind, Spelling, TEXT_BYTES_MAX, Tag};
use crate::endpoint::Endpoint;

/// Spans in JSON, each with a comma behind it.
pub(crate) struct JsonSpelling {
    out: JsonWriter,
    scratch: JsonWriter,
    /// Where the members of the object at hand begin: an object without any is taken back.
    members_at: usize,
}

impl Default for JsonSpelling {
    fn default() -> Self {
        let writer = || JsonWriter::default().limited(TEXT_BYTES_MAX);
        Self { out: writer(), scratch: writer(), members_at: 0 }
    }
}

const SPAN: Literal = Literal::new("{\"traceId\":\"");
const ID: Literal = Literal::new("\",\"id\":\"");
const PARENT_ID: Literal = Literal::new("\",\"parentId\":\"");
const CLIENT: Literal = Literal::new("\",\"kind\":\"CLIENT");
const SERVER: Literal = Literal::new("\",\"kind\":\"SERVER");
const PRODUCER: Literal = Literal::new("\",\"kind\":\"PRODUCER");
const CONSUMER: Literal = Literal::new("\",\"kind\":\"CONSUMER");
const NAME: Around = Around::new("\",\"name\":\"", "");
const QUOTE: Literal = Literal::new("\"");
const TIMESTAMP: Literal = Literal::new(",\"timestamp\":");
const DURATION: Literal = Literal::new(",\"duration\":");
const TAGS: Literal = Literal::new(",\"tags\":{");
const ANNOTATIONS: Literal = Literal::new(",\"annotations\":[");
const ANNOTATION: Literal = Literal::new("{\"timestamp\":");
const VALUE: Literal = Literal::new(",\"value\":\"");
const PLAIN_VALUE: Around = Around::new(",\"value\":\"", "\"},");
const END_VALUE: Literal = Literal::new("\"},");
const ATTRIBUTES: Literal = Literal::new(": {");
const COLON: Literal = Literal::new(":");
const COMMA: Literal = Literal::new(",");
const DROPPED: Literal = Literal::new("otel.dropped_attributes_count");
const INNER_QUOTE: Literal = Literal::new("\\\"");
const LOCAL: Literal = Literal::new(",\"localEndpoint\":{");
const REMOTE: Literal = Literal::new(",\"remoteEndpoint\":{");
const SERVICE: Around = Around::new("\"serviceName\":\"", "\",");
const IPV4: Around = Around::new("\"ipv4\":\"", "\",");
const IPV6: Around = Around::new("\"ipv6\":\"", "\",");
const PORT: Literal = Literal::new("\"port\":");
const SHARED: Literal = Literal::new(",\"shared\":true");
const DEBUG: Literal = Literal::new(",\"debug\":true");
const END: Literal = Literal::new("},");

impl Spelling for JsonSpelling {
    #[inline]
    fn begin(&mut self, head: &Head<'_>) {
        let out = &mut self.out;
        out.literal(&SPAN);
        // Zipkin's own ids of 64 bits have 16 digits; a random one of 128 bits never begins with 64 zeros.
        match head.trace_id.split_first_chunk::<8>() {
            Some(([0, 0, 0, 0, 0, 0, 0, 0], low)) => low.iter().for_each(|byte| out.hex(&[*byte])),
            Some(_) | None => out.hex(head.trace_id),
        }
        out.literal(&ID);
        out.hex(head.id);
        if let Some(parent_id) = head.parent_id {
            out.literal(&PARENT_ID);
            out.hex(parent_id);
        }
        match head.kind {
            Some(Kind::Client) => out.literal(&CLIENT),
            Some(Kind::Server) => out.literal(&SERVER),
            Some(Kind::Producer) => out.literal(&PRODUCER),
            Some(Kind::Consumer) => out.literal(&CONSUMER),
            None => {}
        }
        if !head.name.is_empty() {
            out.delimited(&NAME, head.name);
        }
        out.literal(&QUOTE);
        if head.timestamp > 0 {
            out.literal(&TIMESTAMP);
            out.unsigned(head.timestamp);
        }
        if head.duration > 0 {
            out.literal(&DURATION);
            out.unsigned(head.duration);
        }
        out.literal(&TAGS);
        self.members_at = out.len();
    }

    // Always: a call within a guest checks the stack and the epoch, and a span would pay for it at each attribute.
    #[inline(always)]
    fn tag(&mut self, tag: &Tag<'_>) {
        self.out.member(tag.key, tag.value);
    }

    #[inline]
    fn tag_number(&mut self, key: &[u8], value: i64) {
        self.out.member_number(key, value);
    }

    #[inline]
    fn spelled_tags(&mut self, spelled: &[u8]) {
        self.out.raw(spelled);
    }

    #[inline]
    fn end_tags(&mut self) {
        if self.out.len() == self.members_at {
            self.out.truncate(self.members_at - TAGS.len());
        } else {
            self.out.trim_comma();
            self.out.literal(&CLOSE);
        }
        self.members_at = self.out.len();
    }

    #[inline]
    fn annotation(&mut self, time: u64, event: &EventFields<'_>) -> Result<(), Malformed> {
        if self.out.len() == self.members_at {
            self.out.literal(&ANNOTATIONS);
        }
        self.out.literal(&ANNOTATION);
        self.out.unsigned(time);
        if event.attributes.is_empty() && event.dropped_attributes_count == 0 && !reads_as_event(event.name) {
            self.out.delimited(&PLAIN_VALUE, event.name);
            return Ok(());
        }
        self.out.literal(&VALUE);
        self.out.inner_string(event.name);
        self.out.literal(&ATTRIBUTES);
        for message in &event.attributes {
            let (key, value) = attribute(message)?;
            self.event_attribute(key, &value)?;
        }
        if event.dropped_attributes_count > 0 {
            self.out.literal(&INNER_QUOTE);
            self.out.literal(&DROPPED);
            self.out.literal(&INNER_QUOTE);
            self.out.literal(&COLON);
            self.out.unsigned(u64::from(event.dropped_attributes_count));
        }
        self.out.trim_comma();
        self.out.literal(&CLOSE);
        self.out.literal(&END_VALUE);
        Ok(())
    }

    #[inline]
    fn end_annotations(&mut self) {
        if self.out.len() != self.members_at {
            self.out.trim_comma();
            self.out.literal(&CLOSE_LIST);
        }
    }

    #[inline]
    fn local(&mut self, endpoint: &Endpoint<'_>) {
        self.out.literal(&LOCAL);
        self.endpoint(endpoint);
    }

    #[inline]
    fn remote(&mut self, endpoint: &Endpoint<'_>) {
        self.out.literal(&REMOTE);
        self.endpoint(endpoint);
    }

    #[inline]
    fn end(&mut self, shared: bool, debug: bool) {
        if shared {
            self.out.literal(&SHARED);
        }
        if debug {
            self.out.literal(&DEBUG);
        }
        self.out.literal(&END);
    }

    fn reserve(&mut self, bytes: usize) {
        self.out = JsonWriter::with_capacity(bytes).limited(TEXT_BYTES_MAX);
        self.out.raw(b"[");
    }

    fn len(&self) -> usize {
        self.out.len()
    }

    fn overflowed(&self) -> bool {
        self.out.overflowed() || self.scratch.overflowed()
    }

    fn as_bytes(&self) -> &[u8] {
        self.out.as_bytes()
    }

    fn into_list(mut self) -> Vec<u8> {
        self.out.trim_comma();
        self.out.raw(b"]");
        self.out.into_bytes()
    }
}

impl JsonSpelling {
    /// An event's attribute: JSON inside of a JSON string.
    #[inline]
    fn event_attribute(&mut self, key: &[u8], value: &Attribute<'_>) -> Result<(), Malformed> {
        self.out.inner_string(key);
        self.out.literal(&COLON);
        match value {
            Attribute::Text(text) => self.out.inner_string(text),
            Attribute::Int(number) => self.out.signed(*number),
            Attribute::Other(value) => {
                self.scratch.clear();
                text::json(&mut self.scratch, value)?;
                self.out.text(self.scratch.as_bytes());
            }
        }
        self.out.literal(&COMMA);
        Ok(())
    }

    #[inline]
    fn endpoint(&mut self, endpoint: &Endpoint<'_>) {
        let out = &mut self.out;
        if !endpoint.service.is_empty() {
            out.delimited(&SERVICE, endpoint.service);
        }
        if let Some(ip) = endpoint.ip {
            let key = match ip.addr {
                IpAddr::V4(_) => &IPV4,
                IpAddr::V6(_) => &IPV6,
            };
            out.delimited(key, ip.text);
        }
        if endpoint.port != 0 {
            out.literal(&PORT);
            out.unsigned(u64::from(endpoint.port));
        }
        out.trim_comma();
        out.literal(&CLOSE);
    }
}

const CLOSE: Literal = Literal::new("}");
const CLOSE_LIST: Literal = Literal::new("]");

/// Whether a reader could take the plain name for one of the spellings of an event with attributes.
#[inline]
pub(crate) fn reads_as_event(name: &[u8]) -> bool {
    matches!(name.first(), Some(b'"' | b'{')) || name.windows(2).any(|pair| pair == b"|{")
}
