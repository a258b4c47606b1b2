//! One pass over a batch: what goes where.
//!
//! ```text
//! Resource ──▶ localEndpoint.serviceName, tags ┐ spelled once a scope
//! Scope    ──▶ tags                            ┘
//! Span     ──▶ traceId, id, parentId, kind, name, timestamp, duration
//!   attributes ──▶ tags, some also localEndpoint, remoteEndpoint, shared, debug
//!   status, tracestate, links, dropped counts ──▶ tags
//!   events ──▶ annotations
//! ```

use weir_guest::json::JsonWriter;
use weir_guest::spans::{Attribute, EventFields, Fields, attribute, text_attribute};
use weir_guest::text;
use weir_guest::wire::Malformed;
use weir_guest::wire::otlp::{AnyValue, LinkView, View, resource_groups};

use crate::Format;
use crate::endpoint::{Endpoint, Ends};
use crate::json::JsonSpelling;
use crate::protobuf::ProtobufSpelling;
use crate::roles::{Flag, Own, Role, role};
use crate::shared_tags::{CommonTags, Resource};

/// Bytes of a body. Zipkin takes 10 MiB as a rule and the Collector's receiver 20; an instance has 64 MiB, of
/// which the batch and a growing body take three times this.
const BODY_BYTES_MAX: usize = 16 << 20;

/// Room behind that: the body is looked at after each span, and growing would copy all of it.
const BODY_BYTES_SPARE: usize = 1 << 20;

/// What a body and each text for it may have while they are written: a text can grow to six times its bytes.
pub(crate) const TEXT_BYTES_MAX: usize = BODY_BYTES_MAX + BODY_BYTES_SPARE;

/// Links that are written; the Collector's reader stops there too. The rest is counted as dropped.
const LINKS_MAX: u32 = 128;

const STATUS_OK: i32 = 1;
const STATUS_ERROR: i32 = 2;

/// A body for Zipkin.
#[derive(Debug, PartialEq, Eq)]
pub struct Encoded {
    /// The list of spans.
    pub body: Vec<u8>,
    /// Spans in it.
    pub spans: u32,
    /// Spans that are not in it, since their ids are no ids.
    pub invalid: u32,
}

/// Why there is no body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The batch is not made of whole messages, or a value in it is nested too deep.
    Malformed(Malformed),
    /// The body would be larger than a backend takes: half of the batch may fit.
    TooLarge,
}

impl From<Malformed> for Failure {
    fn from(malformed: Malformed) -> Self {
        Self::Malformed(malformed)
    }
}

/// The kinds that Zipkin has, with the numbers of its protobuf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Client = 1,
    Server = 2,
    Producer = 3,
    Consumer = 4,
}

/// What a span begins with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Head<'a> {
    pub(crate) trace_id: &'a [u8; 16],
    pub(crate) id: &'a [u8; 8],
    pub(crate) parent_id: Option<&'a [u8; 8]>,
    pub(crate) kind: Option<Kind>,
    pub(crate) name: &'a [u8],
    /// Microseconds since the Unix epoch; 0 is absent.
    pub(crate) timestamp: u64,
    /// Microseconds; 0 is absent.
    pub(crate) duration: u64,
}

/// A tag with a text. By reference, because a guest's fifth argument goes over the stack, where it is stored in four
/// bytes and read in eight: that waits a dozen cycles, a third of the time of a span with eight tags.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tag<'a> {
    pub(crate) key: &'a [u8],
    pub(crate) value: &'a [u8],
}

/// A way to write spans down. For each span the methods are called in the order in which they stand here.
///
/// Strings are whatever the sender sent; a spelling makes UTF-8 of them.
pub(crate) trait Spelling: Default {
    fn begin(&mut self, head: &Head<'_>);
    fn tag(&mut self, tag: &Tag<'_>);
    fn tag_number(&mut self, key: &[u8], value: i64);
    /// Tags that this spelling has written elsewhere.
    fn spelled_tags(&mut self, spelled: &[u8]);
    fn end_tags(&mut self);
    /// `time` in microseconds since the Unix epoch.
    fn annotation(&mut self, time: u64, event: &EventFields<'_>) -> Result<(), Malformed>;
    fn end_annotations(&mut self);
    fn local(&mut self, endpoint: &Endpoint<'_>);
    fn remote(&mut self, endpoint: &Endpoint<'_>);
    fn end(&mut self, shared: bool, debug: bool);

    /// Makes room for `bytes` more.
    fn reserve(&mut self, bytes: usize);
    /// Bytes written so far.
    fn len(&self) -> usize;
    /// Whether something was left out since it is past [`TEXT_BYTES_MAX`]: what was written is worth nothing then.
    fn overflowed(&self) -> bool;
    fn as_bytes(&self) -> &[u8];
    /// The list of all spans written.
    fn into_list(self) -> Vec<u8>;
}

/// Writes the spans of an `ExportTraceServiceRequest` for Zipkin.
///
/// # Errors
/// [`Failure`]; nothing is sent then.
pub fn encode(body: &[u8], format: Format) -> Result<Encoded, Failure> {
    match format {
        Format::Json => encode_as::<JsonSpelling>(body),
        Format::Protobuf => encode_as::<ProtobufSpelling>(body),
    }
}

fn encode_as<S: Spelling>(body: &[u8]) -> Result<Encoded, Failure> {
    let scratch = JsonWriter::default().limited(TEXT_BYTES_MAX);
    let mut pass = Pass { out: S::default(), scratch, ..Pass::default() };
    let mut span = Fields::default();
    let (mut spans, mut invalid) = (0, 0);
    pass.out.reserve(body.len().saturating_mul(2).min(TEXT_BYTES_MAX));
    for group in resource_groups(body) {
        let group = group?;
        let resource = Resource::parse(&group)?;
        for scope in group.scopes() {
            let scope = scope?;
            // Spelled for the first span: a scope without one costs nothing, however large its resource is.
            let mut common = None;
            for message in scope.items() {
                span.read(message?)?;
                let Some(head) = head(&span)? else {
                    invalid += 1;
                    continue;
                };
                let common = match &common {
                    Some(common) => common,
                    None => {
                        let tags = CommonTags::new(&resource, &scope.scope_view()?)?;
                        if tags.overflowed() {
                            return Err(Failure::TooLarge);
                        }
                        common.insert(tags)
                    }
                };
                pass.span(&span, &head, resource.service, common)?;
                spans += 1;
                if pass.out.len() > BODY_BYTES_MAX || pass.out.overflowed() || pass.scratch.overflowed() {
                    return Err(Failure::TooLarge);
                }
            }
        }
    }
    Ok(Encoded { body: pass.out.into_list(), spans, invalid })
}

/// What is used again from span to span.
#[derive(Default)]
struct Pass<'a, S> {
    out: S,
    scratch: JsonWriter,
    event: EventFields<'a>,
    /// Common tags that the span at hand overrides.
    overridden: Vec<usize>,
    noted: Noted<'a>,
}

/// What the attributes of a span have said, beside their being tags.
#[derive(Default)]
struct Noted<'a> {
    ends: Ends<'a>,
    shared: bool,
    debug: bool,
    /// An attribute `error` is written.
    error: bool,
}

impl<'a, S: Spelling> Pass<'a, S> {
    /// Writes a span.
    #[inline]
    fn span(
        &mut self,
        span: &Fields<'a>,
        head: &Head<'_>,
        service: &'a [u8],
        common: &CommonTags<'_, S>,
    ) -> Result<(), Malformed> {
        self.noted = Noted::default();
        self.out.begin(head);
        for message in &span.attributes {
            let (key, value) = match text_attribute(message) {
                Some((key, text)) => (key, Attribute::Text(text)),
                None => attribute(message)?,
            };
            match (role(key), common.index(key), value) {
                (Role::Plain, None, Attribute::Text(text)) => self.out.tag(&Tag { key, value: text }),
                (Role::Plain, None, Attribute::Int(number)) => self.out.tag_number(key, number),
                (role, index, value) => self.attribute(key, &value, role, index, span, head)?,
            }
        }
        common.write(&mut self.out, &mut self.overridden);
        self.own_tags(span)?;
        self.out.end_tags();
        for message in &span.events {
            self.event.read(message)?;
            self.out.annotation(self.event.time_unix_nano / 1_000, &self.event)?;
        }
        self.out.end_annotations();
        self.out.local(&self.noted.ends.local(service));
        if let Some(remote) = self.noted.ends.remote() {
            self.out.remote(&remote);
        }
        // Zipkin's rule: a client span is nobody else's.
        self.out.end(self.noted.shared && head.kind != Some(Kind::Client), self.noted.debug);
        Ok(())
    }

    /// An attribute that is not text, or more than a tag, or overrides a common tag.
    fn attribute(
        &mut self,
        key: &[u8],
        value: &Attribute<'a>,
        role: Role,
        common: Option<usize>,
        span: &Fields<'a>,
        head: &Head<'_>,
    ) -> Result<(), Malformed> {
        if !self.note(role, value, span, head) {
            return Ok(());
        }
        self.overridden.extend(common);
        match value {
            Attribute::Text(text) => self.out.tag(&Tag { key, value: text }),
            Attribute::Int(number) => self.out.tag_number(key, *number),
            Attribute::Other(value) => self.out.tag(&Tag { key, value: text::of(value, &mut self.scratch)? }),
        }
        Ok(())
    }

    /// Takes note of an attribute that is more than a tag; says whether it is a tag nevertheless.
    #[inline]
    fn note(&mut self, role: Role, value: &Attribute<'a>, span: &Fields<'a>, head: &Head<'_>) -> bool {
        let is_true = matches!(value, Attribute::Other(AnyValue::Bool(true)));
        let noted = &mut self.noted;
        match role {
            Role::Plain => true,
            Role::Error => {
                // Zipkin takes any `error` for a failure, so `false` must go; of a status with a text the
                // text is written.
                let is_false =
                    matches!(value, Attribute::Text(b"false") | Attribute::Other(AnyValue::Bool(false)));
                let kept = !is_false && (span.status_code != STATUS_ERROR || span.status_message.is_empty());
                noted.error |= kept;
                kept
            }
            Role::Own(own) => !writes(span, own),
            Role::Flag(Flag::Shared) => {
                noted.shared |= is_true;
                !is_true
            }
            Role::Flag(Flag::Debug) => {
                noted.debug |= is_true;
                !is_true
            }
            Role::AbsentStart => !(is_true && span.start_time_unix_nano == 0),
            Role::Peer(peer) => {
                let calls = matches!(head.kind, Some(Kind::Client | Kind::Producer));
                noted.ends.note_peer(peer, value, calls);
                true
            }
            Role::Local(local) => {
                noted.ends.note_local(local, value);
                true
            }
        }
    }

    /// Tags for what Zipkin has no field for.
    #[inline]
    fn own_tags(&mut self, span: &Fields<'_>) -> Result<(), Malformed> {
        if span.kind == 1 {
            self.out.tag(&Tag { key: b"span.kind", value: b"internal" });
        }
        match span.status_code {
            STATUS_OK => self.out.tag(&Tag { key: b"otel.status_code", value: b"OK" }),
            STATUS_ERROR => {
                self.out.tag(&Tag { key: b"otel.status_code", value: b"ERROR" });
                if !self.noted.error {
                    self.out.tag(&Tag { key: b"error", value: span.status_message });
                }
            }
            _ => {} // UNSET, and what a later version of OTLP may bring
        }
        if !span.trace_state.is_empty() {
            self.out.tag(&Tag { key: b"w3c.tracestate", value: span.trace_state });
        }
        let mut links = 0;
        let mut dropped_links = span.dropped_links_count;
        for link in &span.links {
            if links < LINKS_MAX && self.link(links, &LinkView::parse(link)?)? {
                links += 1;
            } else {
                dropped_links = dropped_links.saturating_add(1);
            }
        }
        let counts: [(&[u8], u32); 3] = [
            (b"otel.dropped_attributes_count", span.dropped_attributes_count),
            (b"otel.dropped_events_count", span.dropped_events_count),
            (b"otel.dropped_links_count", dropped_links),
        ];
        for (key, count) in counts {
            if count > 0 {
                self.out.tag_number(key, i64::from(count));
            }
        }
        Ok(())
    }

    /// `otlp.link.N`: trace id, span id, tracestate, attributes as JSON and their dropped count, as the
    /// Collector's exporter writes it. Says whether the link has ids.
    fn link(&mut self, number: u32, link: &LinkView<'_>) -> Result<bool, Malformed> {
        let (Some(trace_id), Some(span_id)) = (id::<16>(link.trace_id), id::<8>(link.span_id)) else {
            return Ok(false);
        };
        let text = &mut self.scratch;
        text.clear();
        text.hex(trace_id);
        text.raw(b"|");
        text.hex(span_id);
        text.raw(b"|");
        text.raw(link.trace_state);
        text.raw(b"|{");
        text::json_members(text, link.attributes())?;
        text.raw(b"}|");
        text.unsigned(u64::from(link.dropped_attributes_count));
        self.out.tag(&Tag { key: format!("otlp.link.{number}").as_bytes(), value: text.as_bytes() });
        Ok(true)
    }
}

/// Whether the exporter writes this tag itself for this span.
fn writes(span: &Fields<'_>, own: Own) -> bool {
    match own {
        Own::SpanKind => span.kind == 1,
        Own::StatusCode => matches!(span.status_code, STATUS_OK | STATUS_ERROR),
        Own::TraceState => !span.trace_state.is_empty(),
        Own::DroppedAttributes => span.dropped_attributes_count > 0,
        Own::DroppedEvents => span.dropped_events_count > 0,
        Own::DroppedLinks => span.dropped_links_count > 0,
        Own::Link => !span.links.is_empty(),
    }
}

/// What a span begins with; nothing for a span whose ids are no ids.
#[inline]
fn head<'a>(span: &Fields<'a>) -> Result<Option<Head<'a>>, Malformed> {
    let (Some(trace_id), Some(span_id)) = (id(span.trace_id), id(span.span_id)) else { return Ok(None) };
    let (start, end) = (span.start_time_unix_nano, span.end_time_unix_nano);
    // Zipkin's durations are at least 1 µs. A span that ends before it begins has none, and neither has one
    // that began nobody knows when, unless it came from Zipkin with a duration alone.
    let duration = match end.checked_sub(start) {
        Some(0) if start == 0 => 0,
        Some(nanos) if start > 0 || came_without_start(span)? => (nanos / 1_000).max(1),
        Some(_) | None => 0,
    };
    Ok(Some(Head {
        trace_id,
        id: span_id,
        parent_id: id(span.parent_span_id),
        kind: match span.kind {
            2 => Some(Kind::Server),
            3 => Some(Kind::Client),
            4 => Some(Kind::Producer),
            5 => Some(Kind::Consumer),
            _ => None, // internal, unspecified, and what a later version of OTLP may bring
        },
        name: span.name,
        timestamp: start / 1_000,
        duration,
    }))
}

fn came_without_start(span: &Fields<'_>) -> Result<bool, Malformed> {
    for message in &span.attributes {
        let (key, value) = attribute(message)?;
        if role(key) == Role::AbsentStart {
            return Ok(matches!(value, Attribute::Other(AnyValue::Bool(true))));
        }
    }
    Ok(false)
}

/// An id that is one: of the right length, and not all zeros.
#[inline]
fn id<const N: usize>(bytes: &[u8]) -> Option<&[u8; N]> {
    <&[u8; N]>::try_from(bytes).ok().filter(|id| **id != [0; N])
}
