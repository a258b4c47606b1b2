//! Spans.
//!
//! ```text
//! OpenCensus                                        OTLP
//! trace_id 1 · span_id 2 · parent_span_id 3         trace_id 1 · span_id 2 · parent_span_id 4
//! name 4 · start_time 5 · end_time 6 · kind 14      name 5 · start 7 · end 8 · kind 6
//! attributes 7                                      attributes 9 · dropped 10
//! time_events 9                                     events 11 · dropped 12
//! links 10                                          links 13 · dropped 14
//! status 11 · tracestate 15                         status 15 · trace_state 3
//! same_process 12 · child_span_count 13             attributes
//! resource 16                                       the group that it stands in
//! stack_trace 8                                     –
//! ```

use weir_wire::{Malformed, Reader};

use super::value::{Attribute, Slot, count, id, message, number, put, truncatable, unix_nanos, wrapped};
use super::{Output, TranslateError};

const SAME_PROCESS: &[u8] = b"opencensus.same_process_as_parent_span";
const CHILD_COUNT: &[u8] = b"opencensus.child_span_count";
const STATUS_CODE: &[u8] = b"opencensus.status_code";
const OTEL_STATUS_CODE: &[u8] = b"otel.status_code";
const SPAN_KIND: &[u8] = b"span.kind";

/// The name of an event that is neither annotation nor message.
const UNKNOWN_EVENT: &[u8] = b"An unknown OpenCensus TimeEvent type was detected when translating";

/// What no span without bytes costs: the constant texts of an event and its numbers.
const EVENT_BYTES_MAX: usize = 256;

/// OTLP's kinds.
mod kind {
    pub(super) const INTERNAL: u64 = 1;
    pub(super) const SERVER: u64 = 2;
    pub(super) const CLIENT: u64 = 3;
    pub(super) const PRODUCER: u64 = 4;
    pub(super) const CONSUMER: u64 = 5;
}

/// OTLP's status codes.
mod status {
    pub(super) const UNSET: u64 = 0;
    pub(super) const ERROR: u64 = 2;
}

/// Which slice of a span is which field.
#[derive(Default)]
struct Parts<'a> {
    trace_id: &'a [u8],
    span_id: &'a [u8],
    parent: &'a [u8],
    kind: u64,
    has_stack: bool,
    name: Slot<'a>,
    start: Slot<'a>,
    end: Slot<'a>,
    attributes: Slot<'a>,
    events: Slot<'a>,
    links: Slot<'a>,
    status: Slot<'a>,
    same_process: Slot<'a>,
    child_count: Slot<'a>,
    trace_state: Slot<'a>,
    resource: Slot<'a>,
}

impl<'a> Parts<'a> {
    fn gather(span: &'a [u8]) -> Result<Self, Malformed> {
        let mut parts = Self::default();
        let mut reader = Reader::new(span);
        while let Some(field) = reader.next()? {
            match field.number {
                1 => parts.trace_id = message(&field)?,
                2 => parts.span_id = message(&field)?,
                3 => parts.parent = message(&field)?,
                4 => put(&mut parts.name, message(&field)?),
                5 => put(&mut parts.start, message(&field)?),
                6 => put(&mut parts.end, message(&field)?),
                7 => put(&mut parts.attributes, message(&field)?),
                8 => parts.has_stack = true,
                9 => put(&mut parts.events, message(&field)?),
                10 => put(&mut parts.links, message(&field)?),
                11 => put(&mut parts.status, message(&field)?),
                12 => put(&mut parts.same_process, message(&field)?),
                13 => put(&mut parts.child_count, message(&field)?),
                14 => parts.kind = number(&field)?,
                15 => put(&mut parts.trace_state, message(&field)?),
                16 => put(&mut parts.resource, message(&field)?),
                _ => {}
            }
        }
        Ok(parts)
    }
}

/// Attributes that mean something else than an attribute, held back until all are read.
#[derive(Default)]
struct Special<'a> {
    span_kind: Option<Attribute<'a>>,
    otel_status_code: Option<Attribute<'a>>,
}

/// A status as both sides know it.
struct Outcome<'a> {
    code: i32,
    message: &'a [u8],
}

impl<'a> Outcome<'a> {
    fn read(status: &'a [u8]) -> Result<Self, Malformed> {
        let mut outcome = Self { code: 0, message: &[] };
        let mut reader = Reader::new(status);
        while let Some(field) = reader.next()? {
            match field.number {
                // Truncation is how protobuf reads an int32.
                1 => outcome.code = number(&field)? as i32,
                2 => outcome.message = message(&field)?,
                _ => {}
            }
        }
        Ok(outcome)
    }
}

impl Output<'_> {
    /// Writes one span into the group of its resource; one without usable ids is left out and counted.
    pub(super) fn span(&mut self, span: &[u8]) -> Result<(), TranslateError> {
        let parts = Parts::gather(span)?;
        let (Some(trace_id), Some(span_id)) = (id::<16>(parts.trace_id), id::<8>(parts.span_id)) else {
            self.tally.invalid += 1;
            return Ok(());
        };
        self.enter(&parts.resource)?;
        self.room(span.len() + EVENT_BYTES_MAX)?;
        self.tally.stack_traces_cut += u32::from(parts.has_stack);
        let open = self.out.open(2);
        self.out.bytes(1, trace_id);
        self.out.bytes(2, span_id);
        if let Some(state) = &parts.trace_state {
            self.trace_state(3, state)?;
        }
        if let Some(parent) = id::<8>(parts.parent) {
            self.out.bytes(4, parent);
        }
        if let Some(name) = &parts.name {
            let name = self.text(truncatable(name)?);
            self.out.nonempty_bytes(5, name);
        }
        self.out.nonzero_fixed64(7, unix_nanos(parts.start.as_deref())?);
        self.out.nonzero_fixed64(8, unix_nanos(parts.end.as_deref())?);
        self.kind_status_and_attributes(&parts)?;
        if let Some(events) = &parts.events {
            self.events(events)?;
        }
        if let Some(links) = &parts.links {
            self.links(links)?;
        }
        self.out.close(open);
        self.tally.items += 1;
        Ok(())
    }

    /// Kind and status may be said by attributes, and some fields become attributes: all three are one matter.
    fn kind_status_and_attributes(&mut self, parts: &Parts<'_>) -> Result<(), TranslateError> {
        let outcome = parts.status.as_deref().map(Outcome::read).transpose()?;
        let code = outcome.as_ref().map_or(0, |outcome| outcome.code);
        let of_kind = match parts.kind {
            1 => kind::SERVER,
            2 => kind::CLIENT,
            _ => 0,
        };
        let ours = usize::from(parts.same_process.is_some())
            + usize::from(parts.child_count.is_some())
            + usize::from(code != 0);
        let max = (self.limits.attributes_max as usize).saturating_sub(ours);
        let mut special = Special::default();
        let mut dropped = 0;
        if let Some(attributes) = &parts.attributes {
            dropped = self.attributes(9, attributes, max, |key, value| match key {
                SPAN_KIND if of_kind == 0 => {
                    special.span_kind = Some(value);
                    true
                }
                OTEL_STATUS_CODE if outcome.is_some() => {
                    special.otel_status_code = Some(value);
                    true
                }
                // The field says the same, and an attribute may stand only once.
                SAME_PROCESS => parts.same_process.is_some(),
                CHILD_COUNT => parts.child_count.is_some(),
                STATUS_CODE => code != 0,
                _ => false,
            })?;
        }
        if let Some(same_process) = &parts.same_process {
            self.out.attribute_bool(9, SAME_PROCESS, wrapped(same_process)? != 0);
        }
        if let Some(child_count) = &parts.child_count {
            self.out.attribute_int(9, CHILD_COUNT, i64::from(wrapped(child_count)? as u32));
        }
        if code != 0 {
            self.out.attribute_int(9, STATUS_CODE, i64::from(code));
        }
        let of_kind = special.span_kind.map_or(of_kind, |value| self.kind_of_attribute(value));
        self.out.nonzero_varint(6, of_kind);
        self.out.nonzero_varint(10, u64::from(dropped));
        if let Some(outcome) = outcome {
            let of_code = if code == 0 { status::UNSET } else { status::ERROR };
            let otel = special.otel_status_code.map(|value| self.status_of_attribute(value, of_code));
            self.status(outcome.message, otel.unwrap_or(of_code));
        }
        Ok(())
    }

    /// The kind that the attribute `span.kind` says, where OpenCensus has no word for it; else it stays an attribute.
    fn kind_of_attribute(&mut self, value: Attribute<'_>) -> u64 {
        let said = match value {
            Attribute::Text(b"internal") => kind::INTERNAL,
            Attribute::Text(b"producer") => kind::PRODUCER,
            Attribute::Text(b"consumer") => kind::CONSUMER,
            Attribute::Text(_)
            | Attribute::Int(_)
            | Attribute::Bool(_)
            | Attribute::Double(_)
            | Attribute::Unset => 0,
        };
        if said == 0 {
            self.attribute(9, SPAN_KIND, value);
        }
        said
    }

    /// The status that the attribute `otel.status_code` says: what is no int counts as 0, an int that is no status
    /// stays an attribute.
    fn status_of_attribute(&mut self, value: Attribute<'_>, of_code: u64) -> u64 {
        match value {
            Attribute::Int(said @ 0..=2) => said.cast_unsigned(),
            Attribute::Int(_) => {
                self.attribute(9, OTEL_STATUS_CODE, value);
                of_code
            }
            Attribute::Text(_) | Attribute::Bool(_) | Attribute::Double(_) | Attribute::Unset => {
                status::UNSET
            }
        }
    }

    fn status(&mut self, message: &[u8], code: u64) {
        let message = self.text(message);
        if code == status::UNSET && message.is_empty() {
            return;
        }
        let open = self.out.open(15);
        self.out.nonempty_bytes(2, message);
        self.out.nonzero_varint(3, code);
        self.out.close(open);
    }

    /// ```text
    /// TimeEvents   time_event = 1, repeated · dropped_annotations_count = 2 · dropped_message_events_count = 3
    /// TimeEvent    time = 1 · annotation = 2 or message_event = 3
    /// ```
    fn events(&mut self, events: &[u8]) -> Result<(), TranslateError> {
        let (mut annotations, mut messages) = (0, 0);
        let mut reader = Reader::new(events);
        while let Some(field) = reader.next()? {
            match field.number {
                1 => self.event(message(&field)?)?,
                2 => annotations = count(number(&field)?),
                3 => messages = count(number(&field)?),
                _ => {}
            }
        }
        // Two int32 that are not negative.
        self.out.nonzero_varint(12, u64::from(annotations + messages));
        Ok(())
    }

    fn event(&mut self, event: &[u8]) -> Result<(), TranslateError> {
        // A message event of four bytes becomes one of 150.
        self.room(event.len() + EVENT_BYTES_MAX)?;
        let mut time: Slot<'_> = None;
        let (mut annotation, mut message_event): (Slot<'_>, Slot<'_>) = (None, None);
        let mut reader = Reader::new(event);
        while let Some(field) = reader.next()? {
            match field.number {
                1 => put(&mut time, message(&field)?),
                // Of a oneof the last counts.
                2 => {
                    message_event = None;
                    put(&mut annotation, message(&field)?);
                }
                3 => {
                    annotation = None;
                    put(&mut message_event, message(&field)?);
                }
                _ => {}
            }
        }
        let open = self.out.open(11);
        self.out.nonzero_fixed64(1, unix_nanos(time.as_deref())?);
        match (annotation, message_event) {
            (Some(annotation), _) => self.annotation(&annotation)?,
            (None, Some(message_event)) => self.message_event(&message_event)?,
            (None, None) => self.out.bytes(2, UNKNOWN_EVENT),
        }
        self.out.close(open);
        Ok(())
    }

    /// `Annotation   description TruncatableString = 1 · attributes = 2`
    fn annotation(&mut self, annotation: &[u8]) -> Result<(), TranslateError> {
        let (mut description, mut attributes): (Slot<'_>, Slot<'_>) = (None, None);
        let mut reader = Reader::new(annotation);
        while let Some(field) = reader.next()? {
            match field.number {
                1 => put(&mut description, message(&field)?),
                2 => put(&mut attributes, message(&field)?),
                _ => {}
            }
        }
        if let Some(description) = &description {
            let name = self.text(truncatable(description)?);
            self.out.nonempty_bytes(2, name);
        }
        if let Some(attributes) = &attributes {
            let dropped =
                self.attributes(3, attributes, self.limits.attributes_max as usize, |_, _| false)?;
            self.out.nonzero_varint(4, u64::from(dropped));
        }
        Ok(())
    }

    /// `MessageEvent   type = 1 · id uint64 = 2 · uncompressed_size uint64 = 3 · compressed_size uint64 = 4`
    fn message_event(&mut self, event: &[u8]) -> Result<(), TranslateError> {
        let mut numbers = [0; 4];
        let mut reader = Reader::new(event);
        while let Some(field) = reader.next()? {
            if let 1..=4 = field.number {
                numbers[field.number as usize - 1] = number(&field)?;
            }
        }
        let [of_type, id, uncompressed, compressed] = numbers;
        let out = &mut self.out;
        out.bytes(2, b"message");
        match of_type as i32 {
            0 => out.attribute_str(3, b"message.type", b"TYPE_UNSPECIFIED"),
            1 => out.attribute_str(3, b"message.type", b"SENT"),
            2 => out.attribute_str(3, b"message.type", b"RECEIVED"),
            // A newer type than ours, told as Go tells it.
            newer => out.attribute_str(3, b"message.type", newer.to_string()),
        }
        out.attribute_int(3, b"messaging.message_id", id.cast_signed());
        out.attribute_int(3, b"messaging.message_payload_size_bytes", uncompressed.cast_signed());
        out.attribute_int(3, b"messaging.message_payload_compressed_size_bytes", compressed.cast_signed());
        Ok(())
    }

    /// ```text
    /// Links   link = 1, repeated · dropped_links_count = 2
    /// Link    trace_id = 1 · span_id = 2 · type = 3 · attributes = 4 · tracestate = 5
    /// ```
    fn links(&mut self, links: &[u8]) -> Result<(), TranslateError> {
        let mut dropped = 0;
        let mut reader = Reader::new(links);
        while let Some(field) = reader.next()? {
            match field.number {
                1 => self.link(message(&field)?)?,
                2 => dropped = count(number(&field)?),
                _ => {}
            }
        }
        self.out.nonzero_varint(14, u64::from(dropped));
        Ok(())
    }

    fn link(&mut self, link: &[u8]) -> Result<(), TranslateError> {
        self.room(link.len() + EVENT_BYTES_MAX)?;
        let (mut trace_id, mut span_id): (&[u8], &[u8]) = (&[], &[]);
        let (mut attributes, mut trace_state): (Slot<'_>, Slot<'_>) = (None, None);
        let mut reader = Reader::new(link);
        while let Some(field) = reader.next()? {
            match field.number {
                1 => trace_id = message(&field)?,
                2 => span_id = message(&field)?,
                4 => put(&mut attributes, message(&field)?),
                5 => put(&mut trace_state, message(&field)?),
                _ => {}
            }
        }
        let open = self.out.open(13);
        // A link without ids keeps what else it says.
        if let Some(trace_id) = id::<16>(trace_id) {
            self.out.bytes(1, trace_id);
        }
        if let Some(span_id) = id::<8>(span_id) {
            self.out.bytes(2, span_id);
        }
        if let Some(state) = &trace_state {
            self.trace_state(3, state)?;
        }
        if let Some(attributes) = &attributes {
            let dropped =
                self.attributes(4, attributes, self.limits.attributes_max as usize, |_, _| false)?;
            self.out.nonzero_varint(5, u64::from(dropped));
        }
        self.out.close(open);
        Ok(())
    }
}
