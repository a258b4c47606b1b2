//! The door's check: count the items of a request, look at each from outside, find the bad ones.
//!
//! The walk reads the frames down to the fields of each item and no further: attribute values, events and
//! bodies are somebody else's, and that somebody has to be total. Links and exemplars are looked into for
//! their ids alone, because official readers refuse a whole request for one id of a wrong length.
//!
//! A broken frame, a known field on the way with a foreign wire type, a group with two resources and a metric
//! with two kinds of data make the whole request malformed: what they mean depends on who reads them. An item
//! that is whole but not valid is listed, and `splice::cut` takes it out.

use core::fmt;
use core::ops::Range;

use crate::reader::{Field, Malformed, Reader};
use crate::shape::{MEMBERS, OWNER};
use crate::signal::Signal;

/// Items of a request unless a limit says otherwise: eight times what a batching sender puts into one.
pub const ITEMS_MAX: usize = 65_536;
/// Attributes of an item unless a limit says otherwise: twice what the OpenTelemetry SDKs allow by default.
pub const ATTRIBUTES_MAX: usize = 256;
/// Resource groups of a request. An empty one takes two bytes on the wire and forty in a [`Walk`], so they
/// are counted.
pub const RESOURCES_MAX: usize = 65_536;

/// What a request may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalkLimits {
    /// Spans, data points or log records; more refuse the request.
    pub items_max: usize,
    /// Attributes of one item; an item with more is invalid.
    pub attributes_max: usize,
    /// Resource groups; more refuse the request.
    pub resources_max: usize,
}

impl Default for WalkLimits {
    fn default() -> Self {
        Self { items_max: ITEMS_MAX, attributes_max: ATTRIBUTES_MAX, resources_max: RESOURCES_MAX }
    }
}

/// What the walk has seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Walk {
    /// As told.
    pub signal: Signal,
    /// All items, the invalid ones too.
    pub items: usize,
    /// The items that are not valid, in the order of the body; at most `items_max`.
    pub invalid: Vec<Invalid>,
    /// The resource groups, in the order of the body; at most `resources_max`.
    pub resources: Vec<ResourcePart>,
}

/// One resource group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResourcePart {
    /// Its record in the body: key, length, message.
    pub record: Range<usize>,
    /// The bytes of its `Resource` message in the body; empty where there is none.
    pub resource: Range<usize>,
    /// Its items, the invalid ones too.
    pub items: usize,
}

/// An item that must not be passed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid {
    /// Its record in the body: key, length, message.
    pub range: Range<usize>,
    /// What is wrong with it.
    pub reason: Reason,
}

/// Why an item is not valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// A trace id that is not 16 bytes or is all zeros; a log record's may be absent.
    TraceId,
    /// A span id that is not 8 bytes or is all zeros; a log record's may be absent.
    SpanId,
    /// A parent span id that is neither absent nor 8 bytes.
    ParentSpanId,
    /// An id of a link or an exemplar that has a wrong length.
    LinkedId,
    /// More attributes than the limit.
    Attributes,
}

/// Why a request is refused whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WalkError {
    /// The bytes are no such request.
    Malformed(Malformed),
    /// More of `what` than `limit`.
    TooMany {
        /// What there is too much of, in the plural.
        what: &'static str,
        /// How many are allowed.
        limit: usize,
    },
}

/// Walks a request.
///
/// # Errors
/// [`WalkError`] when the request has to be refused whole.
pub fn walk(signal: Signal, body: &[u8], limits: &WalkLimits) -> Result<Walk, WalkError> {
    let mut walker = Walker {
        limits,
        walk: Walk { signal, items: 0, invalid: Vec::new(), resources: Vec::new() },
        check: match signal {
            Signal::Traces => Check::Span,
            Signal::Metrics => Check::NUMBER,
            Signal::Logs => Check::Log,
        },
    };
    let mut reader = Reader::new(body);
    while let Some(field) = reader.next()? {
        if field.number == 1 {
            walker.resource_group(&field, message(&field, 0)?)?;
        }
    }
    Ok(walker.walk)
}

// === impl Walk ===

impl Walk {
    /// Items that may be passed on.
    #[must_use]
    pub fn valid_items(&self) -> usize {
        self.items - self.invalid.len()
    }
}

// === impl Reason ===

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TraceId => "trace id is not 16 bytes or is all zeros",
            Self::SpanId => "span id is not 8 bytes or is all zeros",
            Self::ParentSpanId => "parent span id is not 8 bytes",
            Self::LinkedId => "an id of a link or exemplar has a wrong length",
            Self::Attributes => "too many attributes",
        })
    }
}

// === impl WalkError ===

impl fmt::Display for WalkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed(malformed) => malformed.fmt(f),
            Self::TooMany { what, limit } => {
                write!(f, "more than {limit} {what} in one request, send smaller ones")
            }
        }
    }
}

impl core::error::Error for WalkError {}

impl From<Malformed> for WalkError {
    fn from(malformed: Malformed) -> Self {
        Self::Malformed(malformed)
    }
}

// === impl Walker ===

struct Walker<'l> {
    limits: &'l WalkLimits,
    walk: Walk,
    check: Check,
}

/// How an item is looked at.
#[derive(Clone, Copy)]
enum Check {
    Span,
    Log,
    Point { attributes: u32, exemplars: u32 },
}

impl Check {
    const NUMBER: Self = Self::Point { attributes: 7, exemplars: 5 };
    const HISTOGRAM: Self = Self::Point { attributes: 9, exemplars: 8 };
    const EXPONENTIAL: Self = Self::Point { attributes: 1, exemplars: 11 };
    /// Summaries have no exemplars; no field has the number 0.
    const SUMMARY: Self = Self::Point { attributes: 7, exemplars: 0 };
}

/// The message in `field`, which must hold one.
#[inline]
fn message<'a>(field: &Field<'a>, base: usize) -> Result<&'a [u8], Malformed> {
    field.value.bytes().ok_or(Malformed { at: base + field.start, what: "a message has a foreign wire type" })
}

impl Walker<'_> {
    fn resource_group(&mut self, field: &Field<'_>, group: &[u8]) -> Result<(), WalkError> {
        if self.walk.resources.len() == self.limits.resources_max {
            return Err(WalkError::TooMany { what: "resources", limit: self.limits.resources_max });
        }
        let base = field.end - group.len();
        let items_before = self.walk.items;
        let mut resource = None;
        let mut reader = Reader::new(group);
        while let Some(field) = reader.next().map_err(|error| error.shifted(base))? {
            match field.number {
                OWNER => {
                    let bytes = message(&field, base)?;
                    let start = base + field.end - bytes.len();
                    if resource.replace(start..base + field.end).is_some() {
                        return Err(
                            Malformed { at: base + field.start, what: "a group has two resources" }.into()
                        );
                    }
                    frames(bytes, start)?;
                }
                MEMBERS => {
                    let bytes = message(&field, base)?;
                    self.scope_group(bytes, base + field.end - bytes.len())?;
                }
                _ => {}
            }
        }
        self.walk.resources.push(ResourcePart {
            record: field.start..field.end,
            resource: resource.unwrap_or(field.end..field.end),
            items: self.walk.items - items_before,
        });
        Ok(())
    }

    fn scope_group(&mut self, group: &[u8], base: usize) -> Result<(), WalkError> {
        let mut reader = Reader::new(group);
        while let Some(field) = reader.next().map_err(|error| error.shifted(base))? {
            match field.number {
                OWNER => {
                    let bytes = message(&field, base)?;
                    frames(bytes, base + field.end - bytes.len())?;
                }
                MEMBERS => {
                    let bytes = message(&field, base)?;
                    match self.walk.signal {
                        Signal::Traces | Signal::Logs => self.item(&field, bytes, base)?,
                        Signal::Metrics => self.metric(bytes, base + field.end - bytes.len())?,
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn metric(&mut self, metric: &[u8], base: usize) -> Result<(), WalkError> {
        let mut seen = false;
        let mut reader = Reader::new(metric);
        while let Some(field) = reader.next().map_err(|error| error.shifted(base))? {
            self.check = match field.number {
                5 | 7 => Check::NUMBER,
                9 => Check::HISTOGRAM,
                10 => Check::EXPONENTIAL,
                11 => Check::SUMMARY,
                _ => continue,
            };
            let data = message(&field, base)?;
            if core::mem::replace(&mut seen, true) {
                return Err(
                    Malformed { at: base + field.start, what: "a metric has two kinds of data" }.into()
                );
            }
            let base = base + field.end - data.len();
            let mut points = Reader::new(data);
            while let Some(field) = points.next().map_err(|error| error.shifted(base))? {
                if field.number == 1 {
                    self.item(&field, message(&field, base)?, base)?;
                }
            }
        }
        Ok(())
    }

    #[inline]
    fn item(&mut self, field: &Field<'_>, item: &[u8], base: usize) -> Result<(), WalkError> {
        if self.walk.items == self.limits.items_max {
            return Err(WalkError::TooMany { what: "items", limit: self.limits.items_max });
        }
        self.walk.items += 1;
        let reason = match self.check {
            Check::Span => span(item, self.limits.attributes_max),
            Check::Log => log_record(item, self.limits.attributes_max),
            Check::Point { attributes, exemplars } => {
                data_point(item, attributes, exemplars, self.limits.attributes_max)
            }
        };
        if let Some(reason) = reason.map_err(|error| error.shifted(base + field.end - item.len()))? {
            self.walk.invalid.push(Invalid { range: base + field.start..base + field.end, reason });
        }
        Ok(())
    }
}

// A span's keys: field number and wire type.
const TRACE_ID: u8 = 1 << 3 | 2;
const SPAN_ID: u8 = 2 << 3 | 2;
const PARENT_SPAN_ID: u8 = 4 << 3 | 2;
const NAME: u8 = 5 << 3 | 2;
const KIND: u8 = 6 << 3;
const START_TIME: u8 = 7 << 3 | 1;
const END_TIME: u8 = 8 << 3 | 1;
const ATTRIBUTES: u8 = 9 << 3 | 2;
const EVENTS: u8 = 11 << 3 | 2;
const LINKS: u8 = 13 << 3 | 2;
const STATUS: u8 = 15 << 3 | 2;

/// Checks that `message` is made of whole fields.
fn frames(message: &[u8], base: usize) -> Result<(), Malformed> {
    let mut reader = Reader::new(message);
    while reader.next().map_err(|error| error.shifted(base))?.is_some() {}
    Ok(())
}

/// Looks at a span. Of a field that stands twice the last counts, as everywhere in protobuf.
///
/// Encoders write fields in the order of their numbers. The first steps pass over what stands in that order,
/// each with one comparison; whatever is not as they expect is left, with everything behind it, to the loop,
/// which knows no order.
fn span(span: &[u8], attributes_max: usize) -> Result<Option<Reason>, Malformed> {
    let mut reader = Reader::new(span);
    let mut trace_id = reader.take_exact::<2, 18>([TRACE_ID, 16]).unwrap_or_default();
    let mut span_id = reader.take_exact::<2, 10>([SPAN_ID, 8]).unwrap_or_default();
    let mut parent = reader.take_exact::<2, 10>([PARENT_SPAN_ID, 8]).unwrap_or_default();
    reader.skip_run(NAME);
    reader.skip_short_varint(KIND);
    reader.take_exact::<1, 9>([START_TIME]);
    reader.take_exact::<1, 9>([END_TIME]);
    let mut attributes = 0;
    let mut links_hold = true;
    loop {
        attributes += reader.skip_run(ATTRIBUTES);
        reader.skip_run(EVENTS);
        reader.skip_run(STATUS);
        let Some(frame) = reader.next_frame()? else { break };
        let bytes = || &span[frame.payload..frame.end];
        match u8::try_from(frame.key).unwrap_or(0) {
            ATTRIBUTES => attributes += 1,
            TRACE_ID => trace_id = bytes(),
            SPAN_ID => span_id = bytes(),
            PARENT_SPAN_ID => parent = bytes(),
            LINKS => links_hold &= linked_ids_hold(bytes(), 1, 2)?,
            _ if matches!(frame.key >> 3, 1 | 2 | 4 | 9 | 13) => return Err(foreign(frame.start)),
            _ => {}
        }
    }
    Ok(if !is_id::<16>(trace_id) {
        Some(Reason::TraceId)
    } else if !is_id::<8>(span_id) {
        Some(Reason::SpanId)
    } else if !matches!(parent.len(), 0 | 8) {
        Some(Reason::ParentSpanId)
    } else if !links_hold {
        Some(Reason::LinkedId)
    } else {
        (attributes > attributes_max).then_some(Reason::Attributes)
    })
}

fn log_record(record: &[u8], attributes_max: usize) -> Result<Option<Reason>, Malformed> {
    let (mut trace_id, mut span_id): (&[u8], &[u8]) = (&[], &[]);
    let mut attributes = 0;
    let mut reader = Reader::new(record);
    while let Some(frame) = reader.next_frame()? {
        let bytes = || &record[frame.payload..frame.end];
        match (frame.key >> 3, frame.key & 7) {
            (6, 2) => attributes += 1,
            (9, 2) => trace_id = bytes(),
            (10, 2) => span_id = bytes(),
            (6 | 9 | 10, _) => return Err(foreign(frame.start)),
            _ => {}
        }
    }
    Ok(if !matches!(trace_id.len(), 0 | 16) {
        Some(Reason::TraceId)
    } else if !matches!(span_id.len(), 0 | 8) {
        Some(Reason::SpanId)
    } else {
        (attributes > attributes_max).then_some(Reason::Attributes)
    })
}

fn data_point(
    point: &[u8],
    attributes_number: u32,
    exemplars_number: u32,
    attributes_max: usize,
) -> Result<Option<Reason>, Malformed> {
    let mut attributes = 0;
    let mut exemplars_hold = true;
    let mut reader = Reader::new(point);
    while let Some(frame) = reader.next_frame()? {
        let number = frame.key >> 3;
        if number != attributes_number && number != exemplars_number {
            continue;
        }
        if frame.key & 7 != 2 {
            return Err(foreign(frame.start));
        }
        if number == attributes_number {
            attributes += 1;
        } else {
            exemplars_hold &= linked_ids_hold(&point[frame.payload..frame.end], 5, 4)?;
        }
    }
    Ok(if exemplars_hold {
        (attributes > attributes_max).then_some(Reason::Attributes)
    } else {
        Some(Reason::LinkedId)
    })
}

/// Whether the ids of a link or an exemplar are absent or have their lengths.
fn linked_ids_hold(message: &[u8], trace_id: u32, span_id: u32) -> Result<bool, Malformed> {
    let mut hold = true;
    let mut reader = Reader::new(message);
    while let Some(field) = reader.next()? {
        let length = if field.number == trace_id {
            16
        } else if field.number == span_id {
            8
        } else {
            continue;
        };
        hold &= field.value.bytes().is_some_and(|id| id.is_empty() || id.len() == length);
    }
    Ok(hold)
}

fn is_id<const N: usize>(bytes: &[u8]) -> bool {
    <&[u8; N]>::try_from(bytes).is_ok_and(|id| *id != [0; N])
}

#[cold]
fn foreign(at: usize) -> Malformed {
    Malformed { at, what: "an id, attribute, link or exemplar has a foreign wire type" }
}
