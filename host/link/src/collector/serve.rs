//! A stream's task: waits for what comes, is done, or is due; the session says what follows from it.
//!
//! Nothing that takes long stands between two messages: bundles are taken beside each other, states go their own way, and while
//! there is no memory for a bundle only reading stops. So a heartbeat is answered while a pipeline hangs.

use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use futures_util::stream::FuturesUnordered;
use futures_util::{Stream as Messages, StreamExt, stream};
use prost::Message as _;
use tokio::sync::oneshot;
use tokio::time::{sleep_until, timeout};
use tracing::debug;
use weir_model::{BoxFuture, Claim, Exhausted};
use weir_net::grpc::{MessageReader, Replies, Status};
use weir_net::listen::Peer;
use weir_proto::weir::link::v1::collector_message::Message as Down;
use weir_proto::weir::link::v1::goodbye::Reason;
use weir_proto::weir::link::v1::{CollectorMessage, Goodbye, StateDown};

use super::Collector;
use super::assembly::{Assembly, Sent};
use super::decode::decode;
use super::greet::{Place, Welcomed, greet, too_many, unread};
use super::intake::{Done, Fate, take};
use super::registry::End;
use super::session::{Heard, Part, Session};
use super::states_lane::StatesLane;
use crate::limits::GOODBYE_GRACE;

/// What a reader gives: a message with its payment.
type Read = Result<(Bytes, Claim), Status>;

/// Serves one stream to its end.
pub(super) async fn run(
    collector: Arc<Collector>,
    peer: Arc<Peer>,
    mut reader: MessageReader,
    replies: Replies,
) -> Result<(), Status> {
    let welcomed = match greet(&collector, &peer, &mut reader).await {
        Ok(welcomed) => welcomed,
        Err(goodbye) => {
            let Some(goodbye) = goodbye else { return Ok(()) };
            let (reason, text) = (goodbye.reason(), &goodbye.text);
            debug!(receiver = %collector.settings.id, peer.addr = %peer.addr, reason = reason.as_str_name(), %text, "stream refused");
            collector.settings.link_counts.refused.of(reason).add(1);
            send(&replies, Down::Goodbye(goodbye)).await;
            read_on(&mut pin!(messages(reader))).await;
            return Ok(());
        }
    };
    let Welcomed { place, facts, session, terms, welcome, fenced, paid } = welcomed;
    collector.settings.link_counts.welcomed.add(1);
    debug!(receiver = %collector.settings.id, agent = %place.identity, session = place.session, peer.addr = %peer.addr, "agent welcomed");
    send(&replies, Down::Welcome(welcome)).await;
    let epoch = (facts.incarnation.0, facts.epoch);
    let states = StatesLane::new(Arc::clone(&collector.settings.states), Arc::clone(&place.identity), epoch);
    let stream = Stream {
        collector,
        peer,
        place,
        session,
        is_packed: terms.is_packed,
        coming: None,
        paying: None,
        under_way: FuturesUnordered::new(),
        states,
        is_read: false,
        _paid: paid,
    };
    let mut messages = pin!(messages(reader));
    stream.run(messages.as_mut(), &replies, fenced).await;
    read_on(&mut messages).await;
    Ok(())
}

/// The messages of a request, which may be waited for beside other things.
fn messages(reader: MessageReader) -> impl Messages<Item = Read> {
    let messages = stream::unfold(Some(reader), async |reader| {
        let mut reader = reader?;
        match reader.next().await {
            Ok(Some(read)) => Some((Ok(read), Some(reader))),
            Ok(None) => None,
            // Nothing can be read after an error.
            Err(status) => Some((Err(status), None)),
        }
    });
    // It may be asked again after its end.
    messages.fuse()
}

/// Reads and drops for a while what comes after a Goodbye: a stream that ends under an agent that still sends may cost it the
/// Goodbye.
async fn read_on(messages: &mut Pin<&mut impl Messages<Item = Read>>) {
    let all = async { while messages.next().await.is_some_and(|read| read.is_ok()) {} };
    // An agent that goes on sending has had its time.
    drop(timeout(GOODBYE_GRACE, all).await);
}

async fn send(replies: &Replies, message: Down) {
    replies.send(&CollectorMessage { message: Some(message) }.encode_to_vec()).await;
}

/// A stream after its Welcome.
struct Stream {
    collector: Arc<Collector>,
    peer: Arc<Peer>,
    place: Place,
    session: Session,
    is_packed: bool,
    /// The body of which parts are missing.
    coming: Option<Assembly>,
    /// The same while there is no memory for it.
    paying: Option<BoxFuture<'static, Result<Assembly, Exhausted>>>,
    under_way: FuturesUnordered<BoxFuture<'static, Done>>,
    states: StatesLane,
    /// Whether the agent has ended its side.
    is_read: bool,
    _paid: Claim,
}

/// What was waited for.
enum Event {
    Said,
    Fenced(Goodbye),
    Done(Done),
    Answered(Vec<StateDown>),
    Paid(Result<Assembly, Exhausted>),
    Drained,
    Due,
    Read(Option<Read>),
}

impl Stream {
    /// Runs until the Goodbye is said, or the agent is gone. Waits, then applies what came.
    async fn run(
        mut self,
        mut messages: Pin<&mut impl Messages<Item = Read>>,
        replies: &Replies,
        fenced: oneshot::Receiver<Goodbye>,
    ) {
        let mut fenced = pin!(told(fenced));
        let peer = Arc::clone(&self.peer);
        let mut drained = pin!(peer.drain.signaled());
        let mut saying: Option<BoxFuture<'_, ()>> = None;
        let mut ending: Option<Instant> = None;
        loop {
            let now = Instant::now();
            if !self.may_read() && !self.is_read {
                self.session.paused(now);
            }
            self.session.tick(now);
            if self.session.is_ending() && now >= *ending.get_or_insert(now) + GOODBYE_GRACE {
                // It does not even take what is said to it.
                self.peer.cut();
                return;
            }
            if saying.is_none() {
                match self.session.next(now) {
                    Some(message) => {
                        self.note_end(&message);
                        saying = Some(Box::pin(send(replies, message)));
                    }
                    None if self.is_over() => return,
                    None => (),
                }
            }
            let due = match (ending, &saying) {
                (Some(since), _) => Some(since + GOODBYE_GRACE),
                (None, Some(_)) => self.session.deadline(),
                (None, None) => self.session.wake(),
            };
            let due = due.map(tokio::time::Instant::from_std);
            let (may_read, is_draining) = (self.may_read(), self.session.is_draining());
            let (is_paying, is_busy) = (self.paying.is_some(), self.states.is_busy());
            let event = tokio::select! {
                biased;
                () = maybe(&mut saying) => { saying = None; Event::Said }
                Ok(goodbye) = &mut fenced, if !self.session.is_ending() => Event::Fenced(goodbye),
                Some(done) = self.under_way.next(), if !self.under_way.is_empty() => Event::Done(done),
                answers = self.states.next(), if is_busy => Event::Answered(answers),
                paid = maybe(&mut self.paying), if is_paying => { self.paying = None; Event::Paid(paid) }
                () = &mut drained, if !is_draining => Event::Drained,
                () = until(due) => Event::Due,
                read = messages.next(), if may_read => Event::Read(read),
            };
            self.apply(event);
        }
    }

    fn may_read(&self) -> bool {
        !self.is_read
            && !self.session.is_ending()
            && !self.session.is_draining()
            && self.paying.is_none()
            && self.states.has_room()
            && self.session.has_room_for_states()
    }

    /// Whether nothing is left to be done: the Goodbye is said, or the agent has ended and is owed nothing.
    fn is_over(&self) -> bool {
        let is_settled =
            self.is_read && !self.session.owes() && self.under_way.is_empty() && !self.states.is_busy();
        self.session.is_over() || is_settled
    }

    fn apply(&mut self, event: Event) {
        let now = Instant::now();
        match event {
            Event::Said | Event::Due => (),
            Event::Fenced(goodbye) => {
                // What it has under way is sent again by whoever has its place: it hands nothing on any more. What is with a
                // pipeline goes on there, and the welcome of that one waits for it.
                self.under_way.clear();
                (self.coming, self.paying) = (None, None);
                self.session.end(goodbye);
            }
            Event::Done(done) => self.done(done),
            Event::Answered(answers) => self.session.answered(answers),
            Event::Paid(Ok(assembly)) => self.coming = Some(assembly),
            Event::Paid(Err(error)) => self.session.end(too_many(format!("no memory for a bundle: {error}"))),
            Event::Drained => self.session.drain(now),
            Event::Read(Some(Ok((bytes, claim)))) => self.read(bytes, claim, now),
            Event::Read(Some(Err(status))) => {
                debug!(%status, agent = %self.place.identity, session = self.place.session, "stream cannot be read");
                self.is_read = true;
                match unread(&status) {
                    Some(goodbye) => self.session.end(goodbye),
                    // Whoever is gone is owed nothing: what is under way is sent again, and known by its places.
                    None => self.broke_off(),
                }
            }
            Event::Read(None) => {
                self.is_read = true;
                if self.place.end != End::Orderly {
                    self.collector.settings.link_counts.broken_off.add(1);
                }
            }
        }
    }

    /// The agent is gone without a word.
    fn broke_off(&mut self) {
        if self.place.end != End::Orderly {
            self.collector.settings.link_counts.broken_off.add(1);
        }
        self.under_way.clear();
        self.session.abandon();
    }

    fn read(&mut self, bytes: Bytes, claim: Claim, now: Instant) {
        let settings = &self.collector.settings;
        settings.counts.requests.add(1);
        let message = match decode(bytes) {
            Ok(message) => message,
            Err(violation) => {
                settings.counts.requests_refused.add(1);
                self.session.misbehaved(&violation);
                return;
            }
        };
        let Some(heard) = self.session.received(message, now) else {
            settings.counts.requests_refused.add(1);
            return;
        };
        let (identity, session) = (&self.place.identity, self.place.session);
        let mut registry = self.collector.store.registry();
        registry.heard(identity, session, now);
        if let Heard::Heartbeat(heartbeat) = &heard {
            registry.heartbeat(identity, session, heartbeat);
        }
        drop(registry);
        match heard {
            Heard::Part(part) => self.part(part, claim),
            Heard::State(state) => self.states.push(state, claim),
            Heard::Heartbeat(_) => (),
            Heard::Leaving => {
                (self.coming, self.paying) = (None, None);
                (self.place.end, self.place.why) = (End::Orderly, "the agent took its leave".to_owned());
            }
        }
    }

    /// A part that is in its place.
    fn part(&mut self, part: Part, claim: Claim) {
        let Part { head, body, is_last } = part;
        match (head, is_last) {
            (Some(head), true) => self.take(Sent { head, body, claim }),
            (Some(head), false) => {
                let ledger = Arc::clone(&self.collector.settings.ledger);
                self.paying = Some(Box::pin(Assembly::begin(head, body, claim, ledger)));
            }
            (None, _) => {
                let Some(coming) = &mut self.coming else { return };
                coming.add(&body);
                if is_last && let Some(coming) = self.coming.take() {
                    self.take(coming.finish());
                }
            }
        }
    }

    /// Sets a whole bundle on its way.
    fn take(&mut self, sent: Sent) {
        let (source, epoch) = self.session.source(sent.head.log);
        let collector = Arc::clone(&self.collector);
        let session = self.place.session;
        self.under_way.push(Box::pin(take(collector, session, sent, source, epoch, self.is_packed)));
    }

    /// A bundle is done with.
    fn done(&mut self, done: Done) {
        let Done { ordinal, signal, items, records, bytes, sent_bytes, fate, .. } = done;
        let settings = &self.collector.settings;
        let (counts, link) = (&settings.counts, &settings.link_counts);
        let mut registry = self.collector.store.registry();
        match fate {
            Fate::Taken(receipt) => {
                counts.accepted.of(signal).add(items);
                link.bundles.add(1);
                link.records.add(records);
                link.bytes.add(bytes);
                link.sent_bytes.add(sent_bytes);
                link.duplicates.add(receipt.known());
                registry.took(&self.place.identity, records, receipt.known(), bytes);
                drop(registry);
                self.session.consumed(ordinal, Ok(receipt));
            }
            Fate::Rejected(cause, text) => {
                counts.refused.of(signal, cause).add(items);
                link.bundles_rejected.add(1);
                drop(registry);
                debug!(agent = %self.place.identity, ordinal, %cause, %text, "bundle rejected");
                self.session.consumed(ordinal, Err(text));
            }
            Fate::Broken(violation) => {
                drop(registry);
                counts.requests_refused.add(1);
                self.session.misbehaved(&violation);
            }
            Fate::NoMemory(text) => {
                drop(registry);
                self.session.end(too_many(format!("no memory for a bundle: {text}")));
            }
        }
    }

    /// What is shown of how the stream ends by a Goodbye.
    fn note_end(&mut self, message: &Down) {
        let Down::Goodbye(goodbye) = message else { return };
        let reason = goodbye.reason();
        self.collector.settings.link_counts.goodbyes.of(reason).add(1);
        self.place.end = match reason {
            Reason::Draining => End::Orderly,
            Reason::Fenced => End::Fenced,
            _ => End::Dead,
        };
        self.place.why.clone_from(&goodbye.text);
    }
}

/// The word that somebody newer is here; never ready where nobody will come.
async fn told(fenced: oneshot::Receiver<Goodbye>) -> Result<Goodbye, Infallible> {
    match fenced.await {
        Ok(goodbye) => Ok(goodbye),
        Err(_) => std::future::pending().await,
    }
}

/// What a future gives that is there; never ready where there is none.
async fn maybe<T>(future: &mut Option<BoxFuture<'_, T>>) -> T {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}

async fn until(due: Option<tokio::time::Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => std::future::pending().await,
    }
}
