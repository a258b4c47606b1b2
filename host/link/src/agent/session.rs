//! The agent's half of the protocol: messages and time go in, messages and verdicts come out.
//!
//! ```text
//! offer ──▶ kept ──────────────── next: hello · heartbeat · state · leaving · parts ──▶
//!            │ ▲ broken: all of it waits for the next stream, in the order of the offers
//!            ▼ │
//! unsent ─▶ under way ─▶ sent ── ack ──▶ settled
//! ```
//!
//! What is kept belongs to the agent, not to a stream: it goes when it is acknowledged or withdrawn, and for nothing else.
//!
//! Invariant: no I/O and no clock; a lane of a log has at most one bundle that is begun and not acknowledged.

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::Notify;
use weir_proto::weir::link::v1::collector_message::Message as Down;
use weir_proto::weir::link::v1::{Ack, BundleHead, CollectorMessage, DataPart, Hello, LogFacts, Welcome};

use crate::agent::pace::Pace;
use crate::agent::parcel::{Encoding, Kept, Parcel};
use crate::agent::words::{check, cut, violation};
use crate::lanes::AgentStates;
use crate::limits::{
    BUNDLES_MAX, CONNECT_TIMEOUT, DEAD_AFTER_TENTHS, FIRST_SIGN_MIN, HEARTBEAT_MIN, HELLO_TIMEOUT, VERSION,
};
use crate::names::{Incarnation, StoreId, to_wire};

pub use crate::agent::words::{Effect, Ended, Farewell, Names, Outgoing, ParcelId, Verdict};

/// How the session ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stay {
    /// It does not.
    On,
    /// Once nothing is kept.
    UntilEmpty,
    /// At the next chance.
    Leave,
}

/// What the collector said in its Welcome, and since.
#[derive(Debug)]
struct Terms {
    /// None: no heartbeats.
    interval: Option<Duration>,
    encoding: Encoding,
    /// Bytes that may be sent.
    credit: u64,
}

/// A bundle that is begun.
#[derive(Debug)]
struct UnderWay {
    ordinal: u64,
    /// What is left of the body as it is sent. Its own, so that a withdrawal does not tear the bundle.
    rest: Bytes,
}

/// A bundle that is begun, and perhaps all there.
#[derive(Debug)]
struct Sent {
    ordinal: u64,
    id: ParcelId,
    lane: (u32, usize),
}

/// What belongs to one stream, and goes with it.
#[derive(Debug)]
struct Stream {
    hello: Option<Box<Hello>>,
    opened: Instant,
    terms: Option<Terms>,
    heard: Instant,
    said: Instant,
    /// Of the last bundle that was begun.
    ordinal: u64,
    under_way: Option<UnderWay>,
    /// Begun and not acknowledged, in the order of their ordinals.
    sent: VecDeque<Sent>,
    /// The lanes of `sent`.
    busy: HashSet<(u32, usize)>,
    pace: Pace,
    has_left: bool,
}

/// The agent's half.
pub struct Session {
    names: Names,
    states: Box<dyn AgentStates>,
    kept: BTreeMap<ParcelId, Kept>,
    /// Those of `kept` that are not begun on this stream.
    unsent: BTreeSet<ParcelId>,
    next_id: u64,
    /// By the Welcome of this stream.
    bundle_bytes_max: Option<u64>,
    /// Of heartbeats, as a collector had them last.
    interval: Option<Duration>,
    stream: Option<Stream>,
    stay: Stay,
    resent: u64,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { names, kept, unsent, stream, stay, .. } = self;
        f.debug_struct("Session")
            .field("names", names)
            .field("kept", &kept.len())
            .field("unsent", &unsent.len())
            .field("stream", stream)
            .field("stay", stay)
            .finish_non_exhaustive()
    }
}

// === impl Session: what the agent does ===

impl Session {
    /// A session without a stream.
    pub fn new(names: Names, mut states: Box<dyn AgentStates>) -> Self {
        states.numbered(names.incarnation.0);
        Self {
            names,
            states,
            kept: BTreeMap::new(),
            unsent: BTreeSet::new(),
            next_id: 1,
            bundle_bytes_max: None,
            interval: None,
            stream: None,
            stay: Stay::On,
            resent: 0,
        }
    }

    /// Who it is.
    pub fn names(&self) -> &Names {
        &self.names
    }

    /// Keeps a parcel until it is acknowledged or withdrawn, whether there is a stream or not.
    ///
    /// # Errors
    /// A verdict where the collector is known to take no such large one; none where [`BUNDLES_MAX`] are kept.
    pub fn offer(&mut self, parcel: Parcel, now: Instant) -> Result<ParcelId, Option<Verdict>> {
        if let Some(verdict) = self.too_large(&parcel) {
            return Err(Some(verdict));
        }
        if self.kept.len() >= BUNDLES_MAX {
            return Err(None);
        }
        let id = ParcelId(self.next_id);
        self.next_id += 1;
        self.kept.insert(id, Kept { parcel, since: now, was_sent: false });
        self.unsent.insert(id);
        Ok(id)
    }

    /// Keeps it no longer. Where it is begun on this stream its parts go on to the end, so that the stream stays whole, and
    /// its acknowledgement only frees its lane.
    pub fn withdraw(&mut self, id: ParcelId) {
        self.kept.remove(&id);
        self.unsent.remove(&id);
    }

    /// The next that is to be sent, from the highest lane that has something: heartbeat, state, data. None: nothing now.
    ///
    /// To be called when the writer has room, and by nobody else: the rate of the stream is measured by it.
    pub fn next(&mut self, now: Instant) -> Option<Outgoing> {
        self.stream.as_mut()?.pace.asked(now);
        let outgoing = self.choose(now);
        let stream = self.stream.as_mut()?;
        let bytes = match &outgoing {
            Some(Outgoing::Part(part)) => Some(part.body.len() as u64),
            _ => None,
        };
        stream.pace.took(bytes);
        if outgoing.is_some() {
            stream.said = now;
        }
        outgoing
    }

    /// When [`Session::tick`] and [`Session::next`] may have something to say although nothing was received or offered.
    pub fn wake(&self) -> Option<Instant> {
        let stream = self.stream.as_ref()?;
        let Some(terms) = &stream.terms else { return Some(stream.opened + HELLO_TIMEOUT) };
        let beat = terms.interval.map(|interval| stream.said + interval);
        let dead = terms.interval.map(|interval| stream.heard + dead_after(interval));
        [beat, dead, self.states.wake()].into_iter().flatten().min()
    }

    /// Looks at the time.
    ///
    /// # Errors
    /// [`Ended`]: the collector was silent for too long.
    pub fn tick(&self, now: Instant) -> Result<(), Ended> {
        let Some(stream) = &self.stream else { return Ok(()) };
        let Some(terms) = &stream.terms else {
            let late = now.saturating_duration_since(stream.opened) >= HELLO_TIMEOUT;
            return if late { Err(Ended::NoWelcome) } else { Ok(()) };
        };
        let Some(limit) = terms.interval.map(dead_after) else { return Ok(()) };
        if now.saturating_duration_since(stream.heard) >= limit { Err(Ended::Silent(limit)) } else { Ok(()) }
    }

    /// A connection is there: a Hello with these facts will be the first of the stream.
    pub fn connected(&mut self, logs: Vec<LogFacts>, now: Instant) {
        self.broken();
        let Names { identity, incarnation, epoch, boot, boots, store, host, program, encodings } =
            self.names.clone();
        let hello = Box::new(Hello {
            version_min: VERSION,
            version_max: VERSION,
            identity,
            incarnation: to_wire(incarnation.0),
            epoch,
            boot: to_wire(boot.0),
            boots: boots.into_iter().map(|boot| to_wire(boot.0)).collect(),
            logs,
            store: store.map(|store| to_wire(store.0)).unwrap_or_default(),
            host,
            program,
            encodings: encodings.iter().map(|encoding| encoding.name().to_owned()).collect(),
        });
        self.stream = Some(Stream {
            hello: Some(hello),
            opened: now,
            terms: None,
            heard: now,
            said: now,
            ordinal: 0,
            under_way: None,
            sent: VecDeque::new(),
            busy: HashSet::new(),
            pace: Pace::new(),
            has_left: false,
        });
    }

    /// The stream is gone: all that is kept will be sent on the next one, in the order in which it was offered.
    pub fn broken(&mut self) {
        let Some(stream) = self.stream.take() else { return };
        // The next collector may take larger ones: what is kept is looked at when it has said.
        self.bundle_bytes_max = None;
        for sent in &stream.sent {
            if let Some(kept) = self.kept.get_mut(&sent.id) {
                kept.was_sent = true;
                self.unsent.insert(sent.id);
            }
        }
        if stream.terms.is_some() {
            self.states.broken();
        }
    }

    /// It begins a new life, or the store that acknowledges is another: the next Hello says so.
    pub fn rename(&mut self, incarnation: Incarnation, epoch: u64, store: Option<StoreId>) {
        if incarnation != self.names.incarnation {
            self.names.boots = vec![self.names.boot];
        }
        self.names = Names { incarnation, epoch, store, ..self.names.clone() };
        // States are ordered by it: what a copy of this folder says from now on must not pass for what this one says.
        self.states.numbered(incarnation.0);
    }

    /// Says Leaving, and nothing after it: at once, or when nothing is kept any more.
    pub fn leave(&mut self, at_once: bool) {
        self.stay = if at_once { Stay::Leave } else { Stay::UntilEmpty };
    }

    /// Whether Leaving was sent on this stream.
    pub fn has_left(&self) -> bool {
        self.stream.as_ref().is_some_and(|stream| stream.has_left)
    }

    /// Whether a Welcome was heard on this stream.
    pub fn is_welcome(&self) -> bool {
        self.stream.as_ref().is_some_and(|stream| stream.terms.is_some())
    }

    /// How long a dial waits for the first sign of a collector.
    pub fn first_sign_within(&self) -> Duration {
        self.interval.map_or(CONNECT_TIMEOUT, |interval| interval.clamp(FIRST_SIGN_MIN, CONNECT_TIMEOUT))
    }

    /// Notified when the lane of states has something new to send.
    pub fn reported(&self) -> Option<Arc<Notify>> {
        self.states.reported()
    }

    /// How bodies go on this stream.
    pub fn encoding(&self) -> Encoding {
        let terms = self.stream.as_ref().and_then(|stream| stream.terms.as_ref());
        terms.map(|terms| terms.encoding).unwrap_or_default()
    }

    /// What is kept: parcels, records, bytes, and since when the first.
    pub fn kept(&self) -> (u64, u64, u64, Option<Instant>) {
        let records = self.kept.values().map(|kept| kept.parcel.records()).sum();
        let bytes = self.kept.values().map(|kept| kept.parcel.bytes()).sum();
        let since = self.kept.first_key_value().map(|(_, kept)| kept.since);
        (self.kept.len() as u64, records, bytes, since)
    }

    /// Bundles that were begun more than once, since the start.
    pub fn resent(&self) -> u64 {
        self.resent
    }
}

// === impl Session: lanes ===

impl Session {
    fn choose(&mut self, now: Instant) -> Option<Outgoing> {
        let stream = self.stream.as_mut()?;
        if let Some(hello) = stream.hello.take() {
            return Some(Outgoing::Hello(hello));
        }
        let terms = stream.terms.as_ref()?;
        if stream.has_left {
            return None;
        }
        if terms.interval.is_some_and(|interval| now.saturating_duration_since(stream.said) >= interval) {
            return Some(Outgoing::Heartbeat);
        }
        if let Some(state) = self.states.next(now) {
            return Some(Outgoing::State(state));
        }
        let is_idle = self.kept.is_empty() && stream.sent.is_empty();
        if self.stay == Stay::Leave || (self.stay == Stay::UntilEmpty && is_idle) {
            stream.has_left = true;
            return Some(Outgoing::Leaving);
        }
        self.part().map(Outgoing::Part)
    }

    /// The next part of the bundle under way, or the first of the next bundle.
    fn part(&mut self) -> Option<DataPart> {
        let begun = self.stream.as_ref()?.under_way.is_some();
        let head = if begun { None } else { Some(self.begin()?) };
        let stream = self.stream.as_mut()?;
        let terms = stream.terms.as_mut()?;
        let under_way = stream.under_way.as_mut()?;
        let credit = usize::try_from(terms.credit).unwrap_or(usize::MAX);
        let length = under_way.rest.len().min(stream.pace.part_bytes()).min(credit);
        if length == 0 && !under_way.rest.is_empty() {
            return None;
        }
        terms.credit -= length as u64;
        let body = under_way.rest.split_to(length);
        if under_way.rest.is_empty() {
            stream.under_way = None;
        }
        Some(DataPart { head, body })
    }

    /// Begins the oldest bundle whose lane is free, where there is credit for a byte of it.
    fn begin(&mut self) -> Option<BundleHead> {
        let stream = self.stream.as_mut()?;
        let terms = stream.terms.as_ref()?;
        let lane_of = |kept: &Kept| (kept.parcel.log, kept.parcel.lane.index());
        let free = |id: &&ParcelId| !stream.busy.contains(&lane_of(&self.kept[*id]));
        let id = *self.unsent.iter().find(free)?;
        let kept = self.kept.get_mut(&id)?;
        let rest = kept.parcel.sent(terms.encoding);
        if terms.credit == 0 && !rest.is_empty() {
            return None;
        }
        stream.ordinal += 1;
        let ordinal = stream.ordinal;
        let head = kept.parcel.head(ordinal, rest.len() as u64);
        let lane = lane_of(kept);
        self.resent += u64::from(kept.was_sent);
        self.unsent.remove(&id);
        stream.busy.insert(lane);
        stream.sent.push_back(Sent { ordinal, id, lane });
        stream.under_way = Some(UnderWay { ordinal, rest });
        Some(head)
    }

    fn too_large(&self, parcel: &Parcel) -> Option<Verdict> {
        let bytes_max = self.bundle_bytes_max?;
        let bytes = parcel.bytes();
        (bytes > bytes_max).then_some(Verdict::TooLarge { bytes, bytes_max })
    }
}

// === impl Session: what the collector says ===

impl Session {
    /// Takes a message of the collector.
    ///
    /// # Errors
    /// [`Ended`]: it was the last of the stream, or one that the protocol does not allow.
    pub fn received(&mut self, message: CollectorMessage, now: Instant) -> Result<Vec<Effect>, Ended> {
        let Some(stream) = self.stream.as_mut() else { return Ok(Vec::new()) };
        stream.heard = now;
        // An unknown kind of message is a sign of life like any other.
        let Some(message) = message.message else { return Ok(Vec::new()) };
        match (message, stream.terms.as_mut()) {
            (Down::Goodbye(goodbye), _) => Err(Ended::Goodbye(Farewell::of(goodbye))),
            (Down::Welcome(welcome), None) => self.welcomed(welcome, now),
            (Down::Welcome(_), Some(_)) => Err(violation("a second Welcome")),
            (_, None) => Err(violation("its first message was not a Welcome")),
            (Down::Ack(ack), Some(_)) => self.acknowledged(ack),
            (Down::State(state), Some(_)) => {
                self.states.received(state, now);
                Ok(Vec::new())
            }
            (Down::Heartbeat(_), Some(_)) => Ok(Vec::new()),
            (Down::Credit(credit), Some(terms)) => {
                terms.credit = terms.credit.saturating_add(credit.bytes);
                Ok(Vec::new())
            }
            (Down::Settings(settings), Some(terms)) => {
                terms.interval = interval_of(settings.heartbeat_ms);
                self.interval = terms.interval;
                Ok(Vec::new())
            }
        }
    }

    fn welcomed(&mut self, welcome: Welcome, now: Instant) -> Result<Vec<Effect>, Ended> {
        let (store, encoding) = check(&welcome, &self.names.encodings)?;
        let Some(stream) = self.stream.as_mut() else { return Ok(Vec::new()) };
        if stream.hello.is_some() {
            return Err(violation("a Welcome before our Hello"));
        }
        let interval = interval_of(welcome.heartbeat_ms);
        stream.terms = Some(Terms { interval, encoding, credit: welcome.credit });
        self.bundle_bytes_max = Some(welcome.bundle_bytes_max);
        self.interval = interval;
        self.states.welcomed(&welcome.states, self.names.store == Some(store), now);
        let mut effects =
            vec![Effect::Welcomed { store, session: welcome.session, durable: welcome.durable }];
        let too_large = |(id, kept): (&ParcelId, &Kept)| Some((*id, self.too_large(&kept.parcel)?));
        let too_large: Vec<_> = self.kept.iter().filter_map(too_large).collect();
        for (id, verdict) in too_large {
            effects.extend(self.settled(id, verdict));
        }
        Ok(effects)
    }

    fn acknowledged(&mut self, ack: Ack) -> Result<Vec<Effect>, Ended> {
        let Some(stream) = self.stream.as_mut() else { return Ok(Vec::new()) };
        let complete = stream.under_way.as_ref().map_or(stream.ordinal, |begun| begun.ordinal - 1);
        if ack.upto > complete {
            return Err(violation(&format!("it acknowledged bundle {} of {complete}", ack.upto)));
        }
        if ack.also.len() > BUNDLES_MAX {
            return Err(violation(&format!("it acknowledged {} bundles beside the others", ack.also.len())));
        }
        let also: BTreeSet<u64> = ack.also.into_iter().collect();
        let is_done = |sent: &Sent| sent.ordinal <= ack.upto || also.contains(&sent.ordinal);
        let news: BTreeSet<u64> =
            stream.sent.iter().filter(|sent| is_done(sent)).map(|sent| sent.ordinal).collect();
        if let Some(other) = also.iter().find(|one| **one > complete || !news.contains(one)) {
            return Err(violation(&format!(
                "it acknowledged bundle {other} of {complete}, which was not out any more, or not yet"
            )));
        }
        let mut rejected = BTreeMap::new();
        for one in ack.rejected {
            if !news.contains(&one.ordinal) {
                let ordinal = one.ordinal;
                return Err(violation(&format!(
                    "it rejected bundle {ordinal}, which it did not acknowledge"
                )));
            }
            rejected.insert(one.ordinal, one.reason);
        }
        // Nothing is refused from here on: what leaves `sent` is settled.
        let (done, out): (Vec<_>, Vec<_>) =
            std::mem::take(&mut stream.sent).into_iter().partition(|sent| news.contains(&sent.ordinal));
        stream.sent = out.into();
        for sent in &done {
            stream.busy.remove(&sent.lane);
        }
        let mut effects = Vec::with_capacity(done.len());
        for Sent { ordinal, id, .. } in done {
            let verdict = match rejected.remove(&ordinal) {
                Some(reason) => Verdict::Rejected(cut(reason)),
                None => Verdict::Taken,
            };
            effects.extend(self.settled(id, verdict));
        }
        Ok(effects)
    }

    /// None where it was withdrawn.
    fn settled(&mut self, id: ParcelId, verdict: Verdict) -> Option<Effect> {
        self.unsent.remove(&id);
        let kept = self.kept.remove(&id)?;
        let Parcel { log, again, .. } = kept.parcel;
        Some(Effect::Settled { id, verdict, log, last: kept.parcel.last(), again })
    }
}

// === intervals ===

fn interval_of(millis: u32) -> Option<Duration> {
    (millis > 0).then(|| Duration::from_millis(millis.into()).max(HEARTBEAT_MIN))
}

fn dead_after(interval: Duration) -> Duration {
    interval * DEAD_AFTER_TENTHS / 10
}
