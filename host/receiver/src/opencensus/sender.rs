//! One sender: what it has said of itself, its row in the table of nodes, and its messages as arrivals.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tracing::debug;
use weir_model::{Arrival, Claim, Node, NodeId, NodeRegistry, Reason, Refusal, Signal};
use weir_net::grpc::{self, Code, RETRY_AFTER_DEFAULT, Status};
use weir_net::listen::Peer;

use super::Door;
use super::translate::{Envelope, Speaker, Tally, TranslateError, Translation};

/// What the reference server says to a stream whose first message has no node.
pub(super) const VIOLATION: &str = "protocol violation: Export's first message must have a Node";

/// Bytes of a message that are translated before other tasks of the thread get their turn: some 300 µs of work.
const TURN_BYTES: usize = 256 * 1024;

/// The other end of a stream, or of one request.
pub(super) struct Sender {
    signal: Signal,
    speaker: Speaker,
    /// Pays for what the speaker keeps.
    paid: Option<Claim>,
    presence: Option<Presence>,
}

/// A message that was understood.
pub(super) enum Told {
    /// Items for the pipeline.
    Items(Items),
    /// Nothing that would have to be kept.
    Nothing,
}

/// Items for the pipeline.
pub(super) struct Items {
    pub(super) arrival: Arrival,
    /// Items of the same message that are not in it, because OTLP cannot say them.
    pub(super) left_out: u32,
}

impl Sender {
    pub(super) fn new(signal: Signal) -> Self {
        Self { signal, speaker: Speaker::default(), paid: None, presence: None }
    }

    /// Whether it has said who it is.
    pub(super) fn is_known(&self) -> bool {
        self.presence.is_some()
    }

    /// Understands one message: remembers who speaks and of what, translates the rest. After a transient refusal the
    /// same message may be told again.
    ///
    /// # Errors
    /// [`Refusal`]: nothing of the message was taken. [`Reason::NoNode`] where the first message has no node.
    pub(super) async fn tells(&mut self, door: &Door, message: &[u8], peer: &Peer) -> Result<Told, Refusal> {
        let signal = self.signal;
        let envelope = Envelope::open(message).map_err(refusal_of)?;
        if !self.is_known() && !envelope.has_node() {
            return Err(Refusal::permanent(Reason::NoNode, VIOLATION));
        }
        let mut tally = Tally::default();
        let heard = self.speaker.hears(&envelope, &door.limits, &mut tally).map_err(refusal_of)?;
        if let Some(speaker) = heard {
            let paid = door.settings.ledger.claim(speaker.bytes() as u64);
            self.paid = Some(paid.map_err(TranslateError::Exhausted).map_err(refusal_of)?);
            self.speaker = speaker;
            door.losses.add(&tally);
            self.identify(door, peer);
        }
        if envelope.members() == 0 {
            return Ok(Told::Nothing);
        }
        if door.settings.pipelines.of(signal).is_none() {
            door.drop_unwanted(signal, envelope.items(signal));
            return Ok(Told::Nothing);
        }
        let (body, tally, claim) = self.translate(door, &envelope).await.map_err(refusal_of)?;
        door.losses.add(&tally);
        if tally.items == 0 {
            door.settings.counts.dropped.of(signal, Reason::InvalidItem).add(u64::from(tally.left_out()));
            return Ok(Told::Nothing);
        }
        let arrival = Arrival {
            signal,
            body: Bytes::from(body),
            items: tally.items,
            receiver: Arc::clone(&door.settings.id),
            node: self.speaker.node().map(|node| node.id),
            bundle: None,
            claim: Some(Arc::new(claim)),
        };
        Ok(Told::Items(Items { arrival, left_out: tally.left_out() }))
    }

    async fn translate(
        &self,
        door: &Door,
        envelope: &Envelope<'_>,
    ) -> Result<(Vec<u8>, Tally, Claim), TranslateError> {
        let mut claim = door.settings.ledger.claim(0).map_err(TranslateError::Exhausted)?;
        let mut translation =
            Translation::begin(self.signal, envelope, &self.speaker, &door.limits, &mut claim)?;
        while translation.step(TURN_BYTES)? {
            tokio::task::yield_now().await;
        }
        let (body, tally) = translation.finish()?;
        Ok((body, tally, claim))
    }

    /// Gives the node its row, where it is another than before.
    fn identify(&mut self, door: &Door, peer: &Peer) {
        let Some(node) = self.speaker.node() else { return };
        if self.presence.as_ref().is_none_or(|presence| presence.id != node.id) {
            debug!(
                node.id = %node.id, node.host = %node.host, node.pid = node.pid, node.service = %node.service,
                peer.addr = %peer.addr, signal = %self.signal, "node identified"
            );
            self.presence = Some(Presence::open(&door.nodes, node));
        }
    }

    /// Counts a message of which nothing was taken: its items, or, where it shows none, the message itself.
    pub(super) fn refused_whole(&self, door: &Door, reason: Reason, message: &[u8]) {
        let counts = &door.settings.counts;
        match Envelope::open(message).map_or(0, |envelope| envelope.items(self.signal)) {
            0 => counts.requests_refused.add(1),
            items => counts.refused.of(self.signal, reason).add(items),
        }
        self.refused(door);
    }

    /// Counts a refusal for the node, once it is known.
    pub(super) fn refused(&self, door: &Door) {
        if let Some(presence) = &self.presence {
            door.nodes.refused(presence.id, Instant::now());
        }
    }
}

/// Counts a message that could not be read; says how its stream ends.
///
/// One that came too slowly ends with UNAVAILABLE: the Node.js library does not come back after DEADLINE_EXCEEDED.
pub(super) fn unread(door: &Door, status: Status) -> Status {
    // A library that goes away has sent nothing that could be refused.
    if status.code() != Code::Cancelled {
        door.settings.counts.requests_refused.add(1);
    }
    if status.code() == Code::DeadlineExceeded {
        return grpc::retry_later(Code::Unavailable, status.message(), RETRY_AFTER_DEFAULT);
    }
    status
}

/// A stream in the table of nodes; it leaves with this value.
pub(super) struct Presence {
    nodes: Arc<NodeRegistry>,
    pub(super) id: NodeId,
}

impl Presence {
    pub(super) fn open(nodes: &Arc<NodeRegistry>, node: &Node) -> Self {
        nodes.stream_opened(node, Instant::now());
        Self { nodes: Arc::clone(nodes), id: node.id }
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        self.nodes.stream_closed(self.id, Instant::now());
    }
}

/// What a sender can do about a message that was not translated.
fn refusal_of(error: TranslateError) -> Refusal {
    match error {
        TranslateError::Malformed { .. } => Refusal::permanent(Reason::Malformed, error),
        TranslateError::TooMany { .. } | TranslateError::TooLarge { .. } => {
            Refusal::permanent(Reason::TooLarge, error)
        }
        TranslateError::Exhausted(_) => {
            Refusal::transient(Reason::MemoryFull, Some(RETRY_AFTER_DEFAULT), error)
        }
    }
}

/// How long one more try is worth waiting for.
#[derive(Debug, Default)]
pub(super) struct Patience {
    since: Option<tokio::time::Instant>,
    tries: u32,
}

/// How long transient refusals of one message are waited out before its stream ends.
///
/// C++ gives a batch five seconds, and the answer should still reach it.
pub(super) const PATIENCE_MAX: Duration = Duration::from_secs(3);

/// The first pause between two tries; each further one is twice as long, up to the largest.
const PAUSE_MIN: Duration = Duration::from_millis(25);

/// The largest pause: a queue that was full takes again within moments or not at all.
const PAUSE_MAX: Duration = Duration::from_millis(400);

impl Patience {
    /// The pause before the next try, with jitter; none once the patience is used up, so that no pause follows the last try.
    pub(super) fn pause(&mut self, refusal: &Refusal) -> Option<Duration> {
        if refusal.reason() == Reason::Draining {
            return None;
        }
        let since = *self.since.get_or_insert_with(tokio::time::Instant::now);
        let left = PATIENCE_MAX.checked_sub(since.elapsed()).filter(|left| !left.is_zero())?;
        let doubled = PAUSE_MIN.saturating_mul(1 << self.tries.min(8)).min(PAUSE_MAX);
        self.tries += 1;
        Some(doubled.mul_f64(0.5 + fastrand::f64() / 2.0).min(left))
    }
}
