//! The first message of a stream, and its answer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tokio::time::timeout;
use tracing::field::display;
use tracing::{error, info, warn};
use weir_model::Claim;
use weir_net::grpc::{Code, MessageReader, Status};
use weir_net::listen::Peer;
use weir_proto::weir::link::v1::agent_message::Message;
use weir_proto::weir::link::v1::goodbye::Reason;
use weir_proto::weir::link::v1::{Goodbye, Hello, Mark, Welcome};

use super::decode::decode;
use super::hello::{Facts, Who};
use super::registry::{End, Note, Weight};
use super::session::{Session, Terms};
use super::{Collector, farewell};
use crate::limits::{HELLO_TIMEOUT, SETTLE_MAX, TOO_MANY_WAIT, VERSION};
use crate::names::to_wire;

/// How long an agent stays away while the collector cannot write its row.
const UNWRITTEN_WAIT: Duration = Duration::from_secs(1);

/// A stream that is welcome.
pub(super) struct Welcomed {
    pub(super) place: Place,
    pub(super) facts: Facts,
    pub(super) session: Session,
    pub(super) terms: Terms,
    pub(super) welcome: Welcome,
    /// Brings the word for a stream whose place somebody newer takes.
    pub(super) fenced: oneshot::Receiver<Goodbye>,
    /// Pays for the session.
    pub(super) paid: Claim,
}

/// A stream that is the live one of its agent, until this is dropped or another takes its place.
pub(super) struct Place {
    collector: Arc<Collector>,
    pub(super) identity: Arc<str>,
    pub(super) session: u64,
    /// How it ends, where nothing else is said.
    pub(super) end: End,
    pub(super) why: String,
}

impl Drop for Place {
    fn drop(&mut self) {
        let Self { collector, identity, session, end, why } = self;
        collector.store.registry().ended(identity, *session, *end, why, Instant::now());
        collector.settings.states.left(identity);
        collector.hands().remove(session);
        collector.count_rows();
        info!(receiver = %collector.settings.id, agent = %identity, session, %why, "agent's stream ended");
    }
}

/// What a stream gets that was not welcome, or that cannot be read any more: a Goodbye; none where nobody is there to read it.
pub(super) fn unread(status: &Status) -> Option<Goodbye> {
    let text = status.message();
    match status.code() {
        Code::Cancelled => None,
        Code::Unavailable => Some(too_many(text)),
        Code::DeadlineExceeded => Some(farewell(Reason::Silent, text)),
        _ => Some(farewell(Reason::Misbehaviour, text)),
    }
}

/// There is no room.
pub(super) fn too_many(text: impl Into<String>) -> Goodbye {
    Goodbye { wait_ms: TOO_MANY_WAIT.as_millis() as u32, ..farewell(Reason::TooMany, text) }
}

/// Reads the Hello, holds it against what is known, and makes the answer; what has to be on the disk before a Welcome is there
/// when this returns.
///
/// # Errors
/// The Goodbye that the agent is owed; none where it is gone.
pub(super) async fn greet(
    collector: &Arc<Collector>,
    peer: &Peer,
    reader: &mut MessageReader,
) -> Result<Welcomed, Option<Goodbye>> {
    let hello = first(reader).await?;
    if peer.drain.is_signaled() {
        return Err(Some(farewell(Reason::Draining, "this collector stops or restarts; come again")));
    }
    let who = match (collector.settings.peer_name)(peer) {
        Some(name) => Who::Certified(name),
        // It is not the lack of one: whoever shows it may not choose a name, from nowhere.
        None if peer.identity.is_some() => Who::Nameless,
        None if peer.addr.ip().to_canonical().is_loopback() => Who::Local,
        None => Who::Stranger,
    };
    let facts = Facts::read(hello, &who).inspect_err(|goodbye| {
        let (receiver, certificate) = (&collector.settings.id, peer.identity.as_ref().map(display));
        let (reason, text) = (goodbye.reason().as_str_name(), &goodbye.text);
        warn!(%receiver, peer.addr = %peer.addr, certificate, reason, %text, "agent not welcomed");
    })?;
    let bytes = facts.bytes() + Session::bytes(facts.logs.len());
    let paid = collector.settings.ledger.claim(bytes).map_err(|error| too_many(error.to_string()))?;
    let marks = collector.settings.logs.marks(&facts.identity);
    let (mut place, mut fenced) = collector.admit(&facts, &marks)?;
    // What an older stream has with pipelines may still change the marks; it is fenced, so that nothing follows.
    let settling = timeout(SETTLE_MAX, collector.store.flights.settled(&facts.identity));
    let (written, settled) = tokio::join!(collector.store.persist(), settling);
    if let Err(cause) = written {
        place.why = format!("its row could not be written: {cause}");
        let wait_ms = UNWRITTEN_WAIT.as_millis() as u32;
        let text = format!("this collector cannot write to its folder ({cause}); it is tried again");
        error!(receiver = %collector.settings.id, agent = %facts.identity, %cause, "agent not welcomed: its row cannot be written");
        return Err(Some(Goodbye { wait_ms, ..farewell(Reason::Draining, text) }));
    }
    if let Ok(goodbye) = fenced.try_recv() {
        return Err(Some(goodbye));
    }
    if settled.is_err() {
        let within = SETTLE_MAX.as_secs();
        warn!(receiver = %collector.settings.id, agent = %facts.identity, within, "bundles of the agent's last stream are still with a pipeline: it may send them again, which is noticed");
    }
    let marks = collector.settings.logs.marks(&facts.identity);
    collector.admit_again(&facts, &marks, &mut place)?;
    let terms = collector.terms(&facts);
    let welcome = collector.welcome(&facts, terms, place.session, &marks);
    let session = Session::new(&facts, terms, Instant::now());
    Ok(Welcomed { place, facts, session, terms, welcome, fenced, paid })
}

async fn first(reader: &mut MessageReader) -> Result<Hello, Option<Goodbye>> {
    let silent = |_| farewell(Reason::Silent, format!("no hello within {} s", HELLO_TIMEOUT.as_secs()));
    let read = timeout(HELLO_TIMEOUT, reader.next()).await.map_err(silent)?;
    let (bytes, claim) = match read {
        Ok(Some(read)) => read,
        Ok(None) => return Err(None),
        Err(status) => return Err(unread(&status)),
    };
    let message = decode(bytes).map_err(|violation| farewell(Reason::Misbehaviour, violation.0))?;
    drop(claim);
    match message {
        Message::Hello(hello) => Ok(hello),
        Message::Data(_) | Message::State(_) | Message::Heartbeat(_) | Message::Leaving(_) => {
            Err(Some(farewell(Reason::Misbehaviour, "the first message of a stream is not a hello")))
        }
    }
}

impl Collector {
    /// Gives the stream its place: from here on it is the live one, and the one before it is told.
    fn admit(
        self: &Arc<Self>,
        facts: &Facts,
        marks: &[weir_model::Mark],
    ) -> Result<(Place, oneshot::Receiver<Goodbye>), Goodbye> {
        let mut registry = self.store.registry();
        let admitted = registry.admit(facts, marks, Instant::now());
        let receiver = &self.settings.id;
        let admitted = admitted.inspect_err(|goodbye| {
            let (agent, reason, text) = (&facts.identity, goodbye.reason().as_str_name(), &goodbye.text);
            warn!(%receiver, %agent, reason, %text, "agent not welcomed");
        })?;
        let (tell, fenced) = oneshot::channel();
        let mut hands = self.hands();
        hands.insert(admitted.session, tell);
        if let Some((old, goodbye)) = admitted.fences
            && let Some(old) = hands.remove(&old)
        {
            // One that ends by itself at this moment needs no word.
            drop(old.send(goodbye));
        }
        drop((hands, registry));
        self.settings.states.came(&facts.identity);
        self.count_rows();
        self.log(&admitted.notes);
        let (collector, identity) = (Arc::clone(self), Arc::from(&*facts.identity));
        let why = "the stream broke off".to_owned();
        Ok((Place { collector, identity, session: admitted.session, end: End::Dead, why }, fenced))
    }

    /// Looks at the marks as they are now.
    fn admit_again(
        &self,
        facts: &Facts,
        marks: &[weir_model::Mark],
        place: &mut Place,
    ) -> Result<(), Goodbye> {
        let admitted = self.store.registry().admit_again(facts, marks, place.session, Instant::now());
        match admitted {
            Ok(notes) => {
                self.log(&notes);
                Ok(())
            }
            Err(goodbye) => {
                let (receiver, agent, text) = (&self.settings.id, &facts.identity, &goodbye.text);
                warn!(%receiver, %agent, reason = goodbye.reason().as_str_name(), %text, "agent not welcomed");
                place.end = End::Fenced;
                place.why.clone_from(text);
                Err(goodbye)
            }
        }
    }

    fn log(&self, notes: &[Note]) {
        let receiver = &self.settings.id;
        for Note { weight, text } in notes {
            match weight {
                Weight::Info => info!(%receiver, "{text}"),
                Weight::Warn => warn!(%receiver, "{text}"),
                Weight::Error => error!(%receiver, "{text}"),
            }
        }
    }

    fn terms(&self, facts: &Facts) -> Terms {
        let bundle_bytes_max = self.settings.bundle_bytes_max;
        Terms {
            heartbeat: self.settings.heartbeat,
            // An agent that may never send its largest bundle would wait without end.
            credit_bytes: self.settings.credit_bytes.max(bundle_bytes_max),
            bundle_bytes_max,
            is_packed: facts.can_zstd,
        }
    }

    fn welcome(&self, facts: &Facts, terms: Terms, session: u64, marks: &[weir_model::Mark]) -> Welcome {
        // Of several logs that one counts that has least: the others know what they have.
        let mark = |log: &super::LogSaid| {
            let of = marks.iter().filter(|mark| mark.source == *log.source).map(|mark| mark.seq.0);
            let (log, incarnation) = (log.source.log.clone(), to_wire(log.source.incarnation));
            (log, incarnation, of.min().unwrap_or_default())
        };
        let marks = facts.logs.iter().map(mark);
        Welcome {
            version: VERSION,
            store: to_wire(self.store.id.0),
            durable: self.store.is_durable,
            session,
            heartbeat_ms: u32::try_from(terms.heartbeat.as_millis()).unwrap_or(u32::MAX),
            credit: terms.credit_bytes,
            bundle_bytes_max: terms.bundle_bytes_max,
            encoding: if terms.is_packed { "zstd".to_owned() } else { String::new() },
            marks: marks.map(|(log, incarnation, seq)| Mark { log, incarnation, seq }).collect(),
            states: self.settings.states.known(&facts.identity),
        }
    }
}
