//! OpenCensus becomes OTLP, wire to wire, once, at the door.
//!
//! The bytes of an `Export{Trace,Metrics}ServiceRequest` are read field by field and an OTLP request is written into one
//! buffer; nothing is decoded into structs. Each span or metric is gathered once (which slice is which field), then
//! written once. The tables are those of the Collector's translator; where it loses or
//! invents something we decide otherwise:
//!
//! | case | decision |
//! |---|---|
//! | metric of no type, GAUGE_DISTRIBUTION, without descriptor | left out and counted, instead of an empty metric |
//! | point without a value, or of another type than its descriptor | a point with NO_RECORDED_VALUE, never a zero |
//! | bounds that do not fit the buckets, or do not rise | bounds and buckets are left out and counted, count and sum stay |
//! | exemplar attachments `trace_id`, `span_id` in hex | become the exemplar's ids |
//! | status code other than 0 | also kept as int attribute `opencensus.status_code` |
//! | `child_span_count` | int attribute `opencensus.child_span_count` |
//! | ids of twice their length in ASCII hex (C++) | decoded; other lengths are padded with zeros or cut, as before |
//! | trace or span id absent or all zeros | the span is left out and counted: OTLP has no such span |
//! | `host.hostname` | stays under its own name |
//! | `otel.status_code` that is an int beyond 0, 1, 2 | stays an attribute, and the code decides |
//! | present timestamps before 1970 or after 2554 | 0, unknown |
//! | text that is not UTF-8, or over the limit | repaired with U+FFFD, cut between letters; both counted |
//! | attributes over the limit | cut, counted in `dropped_attributes_count` (labels of points: counted by us alone) |
//! | spans with a resource of their own | a group for each run of spans with one resource: the order of spans stays |
//! | messages without spans or points | nothing, instead of an empty batch |
//!
//! As before: link types, stack traces (counted), truncated byte counts, sums of squared deviation and a snapshot's own
//! count are lost; buckets keep their counts although OpenCensus closes them below and OTLP above. The codes 1 and 2 of
//! OpenTelemetry-Python's exporter, which means OK and ERROR by them, are read as any library's: both are errors.
//! A map that has a key twice on the wire is passed on with both: no library's encoder writes such a map.

mod metric;
mod node;
mod span;
mod value;

#[cfg(test)]
mod oracle;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::fmt;
use std::ops::AddAssign;
use std::sync::Arc;

use weir_model::{Claim, Exhausted, Node};
use weir_wire::{Encoder, Malformed, Reader, Signal};

use node::{NOTHING, Statement};
use value::{Slot, message, put};

/// What a translation may read and write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Spans or points in one message; more refuse it.
    pub items_max: u32,
    /// Attributes of one span, event, link, point or resource; further ones are cut and counted.
    pub attributes_max: u32,
    /// Bytes of one text; longer ones are cut and counted.
    pub text_bytes_max: usize,
    /// Bytes of the OTLP request; a message that would become more is refused. Points repeat the labels of their
    /// series, so a small message can become a large one.
    pub output_bytes_max: usize,
}

/// What was counted on the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    /// Spans or points that were written.
    pub items: u32,
    /// Spans left out because of their ids.
    pub invalid: u32,
    /// Metrics left out because OTLP has no form for them.
    pub metrics_untranslatable: u32,
    /// The points of those.
    pub points_untranslatable: u32,
    /// Points written without a value.
    pub points_unset: u32,
    /// Histogram points whose bounds and buckets were left out.
    pub buckets_cut: u32,
    /// Attributes and labels over the limit.
    pub attributes_cut: u32,
    /// Texts over the limit.
    pub texts_cut: u32,
    /// Texts that were not UTF-8.
    pub texts_repaired: u32,
    /// Stack traces, for which OTLP has no place.
    pub stack_traces_cut: u32,
}

impl Tally {
    /// Items that were in the message and are not in what was written.
    pub fn left_out(&self) -> u32 {
        self.invalid.saturating_add(self.points_untranslatable)
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        let Self {
            items,
            invalid,
            metrics_untranslatable,
            points_untranslatable,
            points_unset,
            buckets_cut,
            attributes_cut,
            texts_cut,
            texts_repaired,
            stack_traces_cut,
        } = other;
        for (sum, more) in [
            (&mut self.items, items),
            (&mut self.invalid, invalid),
            (&mut self.metrics_untranslatable, metrics_untranslatable),
            (&mut self.points_untranslatable, points_untranslatable),
            (&mut self.points_unset, points_unset),
            (&mut self.buckets_cut, buckets_cut),
            (&mut self.attributes_cut, attributes_cut),
            (&mut self.texts_cut, texts_cut),
            (&mut self.texts_repaired, texts_repaired),
            (&mut self.stack_traces_cut, stack_traces_cut),
        ] {
            *sum = sum.saturating_add(more);
        }
    }
}

/// Why a message was refused whole.
#[derive(Debug, Clone, Copy)]
pub enum TranslateError {
    /// The bytes are no such message.
    Malformed {
        /// Which span or metric is at fault, from 0; none where the message itself, its node or its resource is.
        item: Option<usize>,
        /// What is wrong, a phrase for a person.
        what: &'static str,
    },
    /// More items than the limit.
    TooMany {
        /// How many are allowed.
        limit: u32,
    },
    /// It would become more bytes than the limit.
    TooLarge {
        /// How many are allowed.
        limit: usize,
    },
    /// There is no memory for it now.
    Exhausted(Exhausted),
}

impl fmt::Display for TranslateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed { item: Some(item), what } => {
                write!(f, "malformed protobuf in item {item} of the message: {what}")
            }
            Self::Malformed { item: None, what } => write!(f, "malformed protobuf in the message: {what}"),
            Self::TooMany { limit } => write!(f, "more than {limit} items in one message, send smaller ones"),
            Self::TooLarge { limit } => {
                write!(f, "the message becomes more than {limit} bytes as OTLP, send smaller ones")
            }
            Self::Exhausted(exhausted) => exhausted.fmt(f),
        }
    }
}

impl std::error::Error for TranslateError {}

impl From<Malformed> for TranslateError {
    fn from(malformed: Malformed) -> Self {
        Self::Malformed { item: None, what: malformed.what }
    }
}

impl TranslateError {
    fn in_item(self, index: usize) -> Self {
        match self {
            Self::Malformed { item: _, what } => Self::Malformed { item: Some(index), what },
            Self::TooMany { .. } | Self::TooLarge { .. } | Self::Exhausted(_) => self,
        }
    }
}

/// One message of a stream, looked at from outside: who, of what, and how much.
///
/// ```text
/// request   node = 1 · spans or metrics = 2, repeated · resource = 3
/// ```
#[derive(Debug)]
pub struct Envelope<'a> {
    message: &'a [u8],
    node: Slot<'a>,
    resource: Slot<'a>,
    members: usize,
}

impl<'a> Envelope<'a> {
    /// Reads the outermost fields.
    ///
    /// # Errors
    /// [`TranslateError::Malformed`] where the bytes are no request.
    pub fn open(bytes: &'a [u8]) -> Result<Self, TranslateError> {
        let mut envelope = Self { message: bytes, node: None, resource: None, members: 0 };
        let mut reader = Reader::new(bytes);
        while let Some(field) = reader.next()? {
            match field.number {
                1 => put(&mut envelope.node, message(&field)?),
                2 => {
                    message(&field)?;
                    envelope.members += 1;
                }
                3 => put(&mut envelope.resource, message(&field)?),
                _ => {}
            }
        }
        Ok(envelope)
    }

    /// Whether the message says who speaks; an empty node does.
    pub fn has_node(&self) -> bool {
        self.node.is_some()
    }

    /// The node as the registry knows it, where the message has one.
    ///
    /// # Errors
    /// [`TranslateError::Malformed`] where it is none.
    pub fn node(&self, limits: &Limits) -> Result<Option<Node>, TranslateError> {
        self.node.as_deref().map(|bytes| node::identity(bytes, limits)).transpose()
    }

    /// Spans or metrics in it.
    pub fn members(&self) -> usize {
        self.members
    }

    /// Spans or points in it; what cannot be read does not count.
    pub fn items(&self, signal: Signal) -> u64 {
        match signal {
            Signal::Metrics => metric::points(self.message),
            Signal::Traces | Signal::Logs => self.members as u64,
        }
    }
}

/// What a stream has said of itself so far: the last node, the last resource.
///
/// Both are read when they are said and stay as they were understood, so that a message costs what it says itself.
#[derive(Debug, Default)]
pub struct Speaker {
    node: Option<Arc<Heard>>,
    resource: Option<Arc<Heard>>,
    identity: Option<Arc<Node>>,
    /// The OTLP resource made of both, as the field that begins each group.
    group: Vec<u8>,
}

/// A node or a resource.
#[derive(Debug)]
struct Heard {
    /// As it stood on the wire: libraries that say the same in each message say nothing new.
    bytes: Vec<u8>,
    statement: Statement,
}

impl Heard {
    fn new(bytes: &[u8], statement: Statement) -> Arc<Self> {
        Arc::new(Self { bytes: bytes.to_vec(), statement })
    }

    /// What it means; nothing where it was never said.
    fn statement(heard: &Option<Arc<Self>>) -> &Statement {
        heard.as_ref().map_or(&NOTHING, |heard| &heard.statement)
    }

    /// What is new in `said`.
    fn news<'s>(last: Option<&Self>, said: &'s Slot<'_>) -> Option<&'s [u8]> {
        said.as_deref().filter(|said| last.is_none_or(|last| last.bytes != *said))
    }
}

impl Speaker {
    /// Who speaks, once a node was said.
    pub fn node(&self) -> Option<&Node> {
        self.identity.as_deref()
    }

    /// Bytes kept, for whoever pays for them.
    pub fn bytes(&self) -> usize {
        let kept = [&self.node, &self.resource].into_iter().flatten();
        let kept = kept.map(|heard| heard.bytes.capacity() + heard.statement.bytes());
        kept.sum::<usize>() + self.group.capacity()
    }

    /// What the stream has said once `envelope` is heard too: a new node replaces the last one, a new resource the last
    /// resource, and what is not said stays. None where nothing changes, as in most messages.
    ///
    /// # Errors
    /// [`TranslateError::Malformed`] where node or resource are none.
    pub fn hears(
        &self,
        envelope: &Envelope<'_>,
        limits: &Limits,
        tally: &mut Tally,
    ) -> Result<Option<Self>, TranslateError> {
        let node = Heard::news(self.node.as_deref(), &envelope.node);
        let resource = Heard::news(self.resource.as_deref(), &envelope.resource);
        if node.is_none() && resource.is_none() {
            return Ok(None);
        }
        let mut heard = Self {
            node: self.node.clone(),
            resource: self.resource.clone(),
            identity: self.identity.clone(),
            group: Vec::new(),
        };
        if let Some(node) = node {
            heard.node = Some(Heard::new(node, Statement::of_node(node, limits, tally)?));
            heard.identity = Some(Arc::new(node::identity(node, limits)?));
        }
        if let Some(resource) = resource {
            let statement = Statement::of_resource(resource, limits, tally)?;
            heard.resource = Some(Heard::new(resource, statement));
        }
        let (node, resource) = (Heard::statement(&heard.node), Heard::statement(&heard.resource));
        heard.group = node::group(node, resource, limits, tally);
        Ok(Some(heard))
    }

    /// The field that begins the group of an item with this resource of its own.
    fn group_of(
        &self,
        own_resource: Option<&[u8]>,
        limits: &Limits,
        tally: &mut Tally,
    ) -> Result<Cow<'_, [u8]>, TranslateError> {
        let Some(own) = own_resource else { return Ok(Cow::Borrowed(&self.group)) };
        let resource = Statement::of_resource(own, limits, tally)?;
        Ok(Cow::Owned(node::group(Heard::statement(&self.node), &resource, limits, tally)))
    }
}

/// The translation of one message, in turns: a large one should not keep a thread for itself.
pub struct Translation<'w> {
    output: Output<'w>,
    members: Reader<'w>,
    signal: Signal,
    index: usize,
    /// Room for the labels of a series.
    labels: Encoder,
}

impl<'w> Translation<'w> {
    /// Begins with the message in `envelope`, of which `speaker` has heard; `claim` will pay for what is written, on
    /// top of what it pays for already.
    ///
    /// # Errors
    /// [`TranslateError`] where there are too many spans, or no memory.
    pub fn begin(
        signal: Signal,
        envelope: &Envelope<'w>,
        speaker: &'w Speaker,
        limits: &'w Limits,
        claim: &'w mut Claim,
    ) -> Result<Self, TranslateError> {
        if signal == Signal::Traces && envelope.members > limits.items_max as usize {
            return Err(TranslateError::TooMany { limit: limits.items_max });
        }
        let output = Output::new(envelope, speaker, limits, claim)?;
        Ok(Self { output, members: Reader::new(envelope.message), signal, index: 0, labels: Encoder::new() })
    }

    /// Reads on for about `turn_bytes`; false once all is read.
    ///
    /// # Errors
    /// [`TranslateError`]: nothing of the message may be taken.
    pub fn step(&mut self, turn_bytes: usize) -> Result<bool, TranslateError> {
        let until = self.members.at().saturating_add(turn_bytes);
        while self.members.at() < until {
            let Some(field) = self.members.next()? else { return Ok(false) };
            if field.number == 2 {
                self.member(message(&field)?).map_err(|error| error.in_item(self.index))?;
                self.index += 1;
            }
        }
        Ok(true)
    }

    /// The OTLP request and what was counted; no bytes where there is nothing to pass on.
    ///
    /// # Errors
    /// [`TranslateError`]: nothing of the message may be taken.
    pub fn finish(mut self) -> Result<(Vec<u8>, Tally), TranslateError> {
        while self.step(usize::MAX)? {}
        self.output.finish()
    }

    fn member(&mut self, member: &'w [u8]) -> Result<(), TranslateError> {
        match self.signal {
            Signal::Traces => self.output.span(member),
            Signal::Metrics => self.output.metric(member, &mut self.labels),
            // OpenCensus has no log records.
            Signal::Logs => Ok(()),
        }
    }
}

/// The OTLP request that is being written.
///
/// ```text
/// request            resource_{spans,metrics} = 1, repeated
/// resource_spans     resource = 1 · scope_spans = 2
/// scope_spans        spans or metrics = 2, repeated; no scope
/// ```
struct Output<'w> {
    out: Encoder,
    speaker: &'w Speaker,
    limits: &'w Limits,
    tally: Tally,
    group: Option<Group>,
    claim: &'w mut Claim,
    /// Bytes of the output that the claim pays for.
    paid: usize,
    /// Bytes that the claim paid for before it paid for the output.
    paid_before: u64,
}

/// The group that is open.
struct Group {
    own_resource: Option<Vec<u8>>,
    resource_open: weir_wire::encode::Open,
    scope_open: weir_wire::encode::Open,
}

impl<'w> Output<'w> {
    fn new(
        envelope: &Envelope<'_>,
        speaker: &'w Speaker,
        limits: &'w Limits,
        claim: &'w mut Claim,
    ) -> Result<Self, TranslateError> {
        let paid_before = claim.bytes();
        let mut output = Self {
            out: Encoder::new(),
            speaker,
            limits,
            tally: Tally::default(),
            group: None,
            claim,
            paid: 0,
            paid_before,
        };
        if envelope.members > 0 {
            // OTLP spells spans a little shorter than OpenCensus.
            let guess = (envelope.message.len() + speaker.group.len() + 64).min(limits.output_bytes_max);
            output.pay(guess)?;
            output.out = Encoder::with_capacity(guess);
        }
        Ok(output)
    }

    /// Sees that `more` bytes beyond those written are paid for. What is written between two calls is bounded by the input.
    #[inline]
    fn room(&mut self, more: usize) -> Result<(), TranslateError> {
        let needed = self.out.len().saturating_add(more);
        if needed <= self.paid { Ok(()) } else { self.pay(needed) }
    }

    #[cold]
    fn pay(&mut self, needed: usize) -> Result<(), TranslateError> {
        let limit = self.limits.output_bytes_max;
        if needed > limit {
            return Err(TranslateError::TooLarge { limit });
        }
        let target = if self.paid == 0 { needed } else { needed.max(self.paid.saturating_mul(2)).min(limit) };
        self.claim.grow((target - self.paid) as u64).map_err(TranslateError::Exhausted)?;
        self.paid = target;
        Ok(())
    }

    /// Begins the group of items with this resource of their own, unless it is open already.
    fn enter(&mut self, own_resource: &Slot<'_>) -> Result<(), TranslateError> {
        let own = own_resource.as_deref();
        if self.group.as_ref().is_some_and(|group| group.own_resource.as_deref() == own) {
            return Ok(());
        }
        self.leave();
        let head = self.speaker.group_of(own, self.limits, &mut self.tally)?;
        self.room(head.len() + 16)?;
        let resource_open = self.out.open_large(1);
        self.out.raw(&head);
        let scope_open = self.out.open_large(2);
        self.group = Some(Group { own_resource: own.map(<[u8]>::to_vec), resource_open, scope_open });
        Ok(())
    }

    fn leave(&mut self) {
        if let Some(Group { own_resource: _, resource_open, scope_open }) = self.group.take() {
            self.out.close(scope_open);
            self.out.close(resource_open);
        }
    }

    /// The request, and a claim that pays for it on top of what it paid for before.
    fn finish(mut self) -> Result<(Vec<u8>, Tally), TranslateError> {
        self.leave();
        self.room(0)?;
        let mut bytes = self.out.into_bytes();
        // What is kept is what is paid for: an eighth of slack is not worth a copy.
        if bytes.capacity() - bytes.len() > bytes.len() / 8 {
            bytes.shrink_to_fit();
        }
        self.claim.shrink_to(self.paid_before + bytes.capacity().min(self.paid) as u64);
        Ok((bytes, self.tally))
    }
}
