//! Zipkin v1 spans, in whatever they were spelled, as v2 spans.
//!
//! In v1 an annotation carries the endpoint that logged it, `cs`, `sr`, `ss`, `cr` (and `ms`, `mr`, `ws`,
//! `wr`) are the ends of a call, and one span may hold both sides of it. The conversion is the reference
//! server's (`V1SpanConverter`, which OpenTelemetry names as the reference too):
//!
//! ```text
//! cs · cr                    ──▶ CLIENT            both sides in one span ──▶ two spans, the server's shared
//! sr · ss                    ──▶ SERVER            sr without a timestamp of the span ──▶ shared
//! ms · ws                    ──▶ PRODUCER          sa, ca, ma ──▶ remote endpoint of client, server, messaging span
//! wr · mr                    ──▶ CONSUMER          an end without its beginning stays an annotation
//! ```
//!
//! Only annotations with an endpoint are ends of a call.

use crate::span::{Annotation, Endpoint, Fault, Kind, Span, Tag, Text, add};

/// A v1 span as it was sent.
#[derive(Default)]
pub(crate) struct V1<'a> {
    /// All zeros: not seen.
    pub(crate) trace_id: [u8; 16],
    /// All zeros: not seen.
    pub(crate) id: [u8; 8],
    pub(crate) parent_id: [u8; 8],
    pub(crate) name: Text<'a>,
    /// Microseconds since the Unix epoch, 0 where absent.
    pub(crate) timestamp: i64,
    /// Microseconds, 0 where absent.
    pub(crate) duration: i64,
    pub(crate) debug: bool,
    annotations: Vec<Logged<'a>>,
    tags: Vec<TagAt<'a>>,
    addresses: [Option<Endpoint<'a>>; 3],
}

impl<'a> V1<'a> {
    /// Something that happened, and who logged it.
    pub(crate) fn annotate(
        &mut self,
        annotation: Annotation<'a>,
        endpoint: Option<Endpoint<'a>>,
    ) -> Result<(), Fault> {
        add(&mut self.annotations, Logged { annotation, endpoint })
    }

    /// A binary annotation with a text, and who logged it.
    pub(crate) fn tag(&mut self, tag: Tag<'a>, endpoint: Option<Endpoint<'a>>) -> Result<(), Fault> {
        add(&mut self.tags, TagAt { tag, endpoint })
    }

    /// A binary annotation that is `true`: an address, if its key says so.
    pub(crate) fn address(&mut self, key: &[u8], endpoint: Endpoint<'a>) {
        if let Some(place) = ADDRESSES.iter().position(|address| *address == key) {
            self.addresses[place] = Some(endpoint);
        }
    }

    /// The v2 spans of it, complete.
    ///
    /// # Errors
    /// [`Fault`] where an id is missing, or more than [`SERVICES_MAX`] services take part.
    pub(crate) fn finish(mut self) -> Result<Vec<Span<'a>>, Fault> {
        if self.trace_id == [0; 16] {
            return Err(Fault::new("traceId == 0"));
        }
        if self.id == [0; 8] {
            return Err(Fault::new("id == 0"));
        }
        // In order of time and text; tags in order of their keys.
        self.annotations.sort_by(|left, right| left.annotation.cmp(&right.annotation));
        self.tags.sort_by(|left, right| left.tag.key.cmp(&right.tag.key));
        let mut spans = Conversion::of(self)?;
        spans.iter_mut().try_for_each(Span::complete)?;
        Ok(spans)
    }
}

/// An annotation and who logged it.
#[derive(Clone, PartialEq)]
struct Logged<'a> {
    annotation: Annotation<'a>,
    endpoint: Option<Endpoint<'a>>,
}

/// A binary annotation with a string, and who logged it.
struct TagAt<'a> {
    tag: Tag<'a>,
    endpoint: Option<Endpoint<'a>>,
}

/// Keys of binary annotations that are addresses (of the client, the server, the broker), in the order of
/// [`V1::addresses`].
const ADDRESSES: [&[u8]; 3] = [b"ca", b"sa", b"ma"];

/// Ends of a call, by their place in [`Conversion::ends`].
const ENDS: [&[u8]; 8] = [b"cs", b"sr", b"ss", b"cr", b"ms", b"mr", b"ws", b"wr"];
const CS: usize = 0;
const SR: usize = 1;
const SS: usize = 2;
const CR: usize = 3;
const MS: usize = 4;
const MR: usize = 5;
const WS: usize = 6;
const WR: usize = 7;

/// Services that take part in one span. Two are the rule, and each is looked for among the others.
const SERVICES_MAX: usize = 64;

// === conversion ===

/// The v2 spans that become of a v1 span: one for each service that took part.
struct Conversion<'a> {
    source: V1<'a>,
    /// The first is there from the beginning.
    spans: Vec<Span<'a>>,
    ends: [Option<Logged<'a>>; ENDS.len()],
    too_many_services: bool,
}

impl<'a> Conversion<'a> {
    fn of(mut source: V1<'a>) -> Result<Vec<Span<'a>>, Fault> {
        let annotations = core::mem::take(&mut source.annotations);
        let tags = core::mem::take(&mut source.tags);
        let addresses = core::mem::take(&mut source.addresses);
        let mut conversion =
            Self { source, spans: Vec::with_capacity(1), ends: Default::default(), too_many_services: false };
        let first = conversion.blank(Endpoint::default());
        conversion.spans.push(first);
        annotations.into_iter().for_each(|logged| conversion.annotate(logged));
        conversion.infer_beginnings();
        conversion.call();
        conversion.message();
        tags.into_iter().for_each(|tag| conversion.tag(tag));
        conversion.addresses(addresses);
        if conversion.too_many_services {
            return Err(Fault::too_much(format!("more than {SERVICES_MAX} services in one span")));
        }
        Ok(conversion.spans)
    }

    /// What all spans of the source have in common.
    fn blank(&self, local: Endpoint<'a>) -> Span<'a> {
        let V1 { trace_id, id, parent_id, ref name, debug, .. } = self.source;
        Span { trace_id, id, parent_id, name: name.clone(), debug, local, ..Span::default() }
    }

    /// The span of this endpoint's service; the first, where nobody says who.
    fn span_of(&mut self, endpoint: Option<&Endpoint<'a>>) -> &mut Span<'a> {
        let place = match endpoint {
            None => 0,
            Some(endpoint) => {
                let close = |span: &Span<'a>| span.local.is_absent() || span.local.has_name_of(endpoint);
                match self.spans.iter().position(close) {
                    Some(place) => {
                        let local = &mut self.spans[place].local;
                        if local.is_absent() {
                            *local = endpoint.clone();
                        }
                        place
                    }
                    None => self.fork(endpoint.clone()),
                }
            }
        };
        &mut self.spans[place]
    }

    /// A further span. Where there are too many the last one stands for all, and the conversion is refused in
    /// the end.
    fn fork(&mut self, endpoint: Endpoint<'a>) -> usize {
        if self.spans.len() == SERVICES_MAX {
            self.too_many_services = true;
            return SERVICES_MAX - 1;
        }
        let span = self.blank(endpoint);
        self.spans.push(span);
        self.spans.len() - 1
    }

    fn span_of_end(&mut self, end: usize) -> &mut Span<'a> {
        let endpoint = self.ends[end].as_ref().and_then(|logged| logged.endpoint.clone());
        self.span_of(endpoint.as_ref())
    }

    /// When this end was logged.
    fn time_of(&self, end: usize) -> Option<i64> {
        self.ends[end].as_ref().map(|logged| logged.annotation.timestamp)
    }

    fn has(&self, end: usize) -> bool {
        self.ends[end].is_some()
    }

    /// Sorts an annotation out: an end of a call, or something that happened.
    fn annotate(&mut self, logged: Logged<'a>) {
        let end = ENDS.iter().position(|end| *end == &*logged.annotation.value && logged.endpoint.is_some());
        let span = self.span_of(logged.endpoint.as_ref());
        match end {
            Some(CS | CR) => span.kind = Some(Kind::Client),
            Some(SR | SS) => span.kind = Some(Kind::Server),
            Some(MS) => span.kind = Some(Kind::Producer),
            Some(MR) => span.kind = Some(Kind::Consumer),
            Some(_) => {} // ws and wr: the wire's share of a message, no kind
            None => span.annotations.push(logged.annotation.clone()),
        }
        if let Some(end) = end {
            self.ends[end] = Some(logged);
        }
    }

    /// An end whose time is that of the whole span's end: then the span's timestamp is the missing beginning.
    fn infer_beginnings(&mut self) {
        let V1 { timestamp, duration, .. } = self.source;
        for (begin, end) in [(CS, CR), (SR, SS)] {
            if self.has(begin) || timestamp == 0 || duration == 0 {
                continue;
            }
            if let Some(logged) = &self.ends[end]
                && timestamp.checked_add(duration) == Some(logged.annotation.timestamp)
            {
                let annotation = Annotation { timestamp, value: ENDS[begin].into() };
                self.ends[begin] = Some(Logged { annotation, endpoint: logged.endpoint.clone() });
            }
        }
    }

    /// Times of a call.
    fn call(&mut self) {
        match [CS, SR, SS, CR].map(|end| self.has(end)) {
            [true, true, ..] => self.both_sides(),
            [true, false, _, true] => self.times(CS, Some(CR)),
            [false, true, true, _] => self.times(SR, Some(SS)),
            _ => self.incomplete(),
        }
        // v1 had no flag `shared`; that a server's span lacks its timestamp, or its duration although it has
        // answered, says that the client has them.
        let V1 { timestamp, duration, .. } = self.source;
        if !self.has(CS) && self.has(SR) && (timestamp == 0 || (self.has(SS) && duration == 0)) {
            self.span_of_end(SR).shared = true;
        }
    }

    /// Client and server in one span: the client owns its times, the server gets a span of its own.
    fn both_sides(&mut self) {
        self.times(CS, Some(CR));
        let one_way = !self.has(CR) && self.source.duration == 0;
        let (received, answered) = (self.time_of(SR).unwrap_or(0), self.time_of(SS));
        let same_service = self.same_service(CS, SR);
        let client = self.span_of_end(CS);
        if same_service {
            client.kind = Some(Kind::Client);
        }
        if one_way {
            client.duration = 0;
        }
        let server = self.other_side(SR, same_service, Kind::Server);
        server.shared = true;
        server.timestamp = positive(received);
        if let Some(answered) = answered {
            server.duration = between(received, answered);
        }
    }

    /// The span of an end; a further one where both ends are of one service (a call to oneself).
    fn other_side(&mut self, end: usize, same_service: bool, kind: Kind) -> &mut Span<'a> {
        if !same_service {
            return self.span_of_end(end);
        }
        let endpoint = self.ends[end].as_ref().and_then(|logged| logged.endpoint.clone()).unwrap_or_default();
        let place = self.fork(endpoint);
        let span = &mut self.spans[place];
        span.kind = Some(kind);
        span
    }

    fn same_service(&self, left: usize, right: usize) -> bool {
        let endpoint = |end: usize| self.ends[end].as_ref().and_then(|logged| logged.endpoint.as_ref());
        match (endpoint(left), endpoint(right)) {
            (Some(left), Some(right)) => left.has_name_of(right),
            (_, _) => false,
        }
    }

    /// Times of the span of `begin`: the source's own where it has both, else those of the ends.
    fn times(&mut self, begin: usize, end: Option<usize>) {
        let V1 { timestamp, duration, .. } = self.source;
        let began = self.time_of(begin).unwrap_or(0);
        let ended = end.and_then(|end| self.time_of(end));
        let span = self.span_of_end(begin);
        if timestamp != 0 && duration != 0 {
            (span.timestamp, span.duration) = (positive(timestamp), positive(duration));
        } else {
            span.timestamp = positive(began);
            if let Some(ended) = ended {
                span.duration = between(began, ended);
            }
        }
    }

    /// Not both ends of either side: what is known becomes the beginning, and a lone end is something that
    /// happened.
    fn incomplete(&mut self) {
        let [began_client, began_server, ended_server, ended_client] =
            [CS, SR, SS, CR].map(|end| self.ends[end].as_ref().map(|logged| logged.annotation.clone()));
        for span in &mut self.spans {
            let (began, ended) = match span.kind {
                Some(Kind::Client) => (&began_client, &ended_client),
                Some(Kind::Server) => (&began_server, &ended_server),
                Some(Kind::Producer | Kind::Consumer) | None => continue,
            };
            if let Some(began) = began {
                span.timestamp = positive(began.timestamp);
            }
            span.annotations.extend(ended.clone());
        }
        let V1 { timestamp, duration, .. } = self.source;
        if timestamp != 0 {
            let first = &mut self.spans[0];
            (first.timestamp, first.duration) = (positive(timestamp), positive(duration));
        }
    }

    /// Times of a message, which the wire's ends refine.
    fn message(&mut self) {
        match (self.has(MS), self.has(MR)) {
            (true, true) => self.sent_and_received(),
            (true, false) => self.times(MS, Some(WS)),
            (false, true) if self.has(WR) => self.times(WR, Some(MR)),
            (false, true) => self.times(MR, None),
            (false, false) => {
                for end in [WS, WR] {
                    if let Some(logged) = self.ends[end].clone() {
                        self.span_of(logged.endpoint.as_ref()).annotations.push(logged.annotation);
                    }
                }
            }
        }
    }

    /// Producer and consumer in one span, which should not be.
    fn sent_and_received(&mut self) {
        let [sent, received, left, arrived] = [MS, MR, WS, WR].map(|end| self.time_of(end));
        let (sent, received) = (sent.unwrap_or(0), received.unwrap_or(0));
        let same_service = self.same_service(MS, MR);
        if same_service {
            self.span_of_end(MS).kind = Some(Kind::Producer);
        }
        let consumer = self.other_side(MR, same_service, Kind::Consumer);
        consumer.shared = true;
        match arrived {
            Some(arrived) => {
                consumer.timestamp = positive(arrived);
                consumer.duration = between(arrived, received);
            }
            None => consumer.timestamp = positive(received),
        }
        let producer = self.span_of_end(MS);
        producer.timestamp = positive(sent);
        producer.duration = left.map_or(0, |left| between(sent, left));
    }

    fn tag(&mut self, TagAt { tag, endpoint }: TagAt<'a>) {
        let span = self.span_of(endpoint.as_ref());
        // `lc` without a text only says that the span is local.
        if !(&*tag.key == b"lc" && tag.value.is_empty()) {
            span.tags.push(tag);
        }
    }

    /// Address annotations become remote endpoints.
    fn addresses(&mut self, addresses: [Option<Endpoint<'a>>; 3]) {
        let [ca, sa, ma] = addresses;
        let is_call = [CS, SR, SS, CR].into_iter().any(|end| self.has(end));
        match (ca, sa) {
            (Some(ca), Some(sa)) if !is_call => return self.span_of(Some(&ca)).remote = sa,
            // An address to call does not make a client of the span.
            (None, Some(sa)) if !is_call => return self.span_of(None).remote = sa,
            (Some(ca), None) if !is_call => {
                let span = self.span_of(None);
                span.kind = Some(Kind::Server);
                span.remote = ca;
                return;
            }
            (ca, sa) => {
                if let Some(ca) = ca {
                    self.caller(ca);
                }
                if let Some(sa) = sa
                    && let Some(end) = [CS, CR].into_iter().find(|end| self.has(*end))
                {
                    self.span_of_end(end).remote = sa;
                }
            }
        }
        if let Some(ma) = ma {
            for end in [MS, MR] {
                if self.has(end) {
                    self.span_of_end(end).remote = ma.clone();
                }
            }
        }
    }

    /// `ca` on a server's span. Finagle gives it the server's own name, which would make the service call
    /// itself.
    fn caller(&mut self, mut ca: Endpoint<'a>) {
        let Some(end) = [SR, SS].into_iter().find(|end| self.has(*end)) else { return };
        let Some(server) = self.ends[end].as_ref().and_then(|logged| logged.endpoint.clone()) else { return };
        if ca == server {
            return;
        }
        if ca.has_name_of(&server) {
            ca.service = Text::default();
        }
        self.span_of(Some(&server)).remote = ca;
    }
}

/// A time, or absent for what can't be one.
fn positive(time: i64) -> u64 {
    crate::span::micros(time)
}

/// A span of time, or absent for one that ends before it begins.
fn between(begin: i64, end: i64) -> u64 {
    positive(end.saturating_sub(begin))
}
