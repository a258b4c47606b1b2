//! From a bundle's bytes to its pipeline: unpack, check, hand on, and again while it is refused for now.

use std::future::pending;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use tracing::{Instrument, debug, warn};
use weir_model::{Arrival, Claim, Consumer, Ledger, Reason, Receipt, Refusal, Signal, Source};
use weir_net::decompress::{DecompressError, Encoding, decompress};
use weir_net::limits::BodyLimits;

use super::assembly::Sent;
use super::bundle::{Head, check};
use super::lot::Parked;
use super::patience::Patience;
use super::registry::RejectedBundle;
use super::{Collector, Violation};
use crate::limits::BUNDLES_MAX;

/// Bytes of a body that are walked before other tasks of the thread get their turn: some 200 µs of work.
const TURN_BYTES: usize = 256 * 1024;

/// What became of a bundle.
#[derive(Debug)]
pub(super) enum Fate {
    /// It is where the pipeline promises it to be.
    Taken(Receipt),
    /// It will never be taken as it is.
    Rejected(Reason, String),
    /// It is not what its head says.
    Broken(Violation),
    /// There was no memory for it, for too long.
    NoMemory(String),
}

/// A bundle that is done with.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) ordinal: u64,
    pub(super) signal: Signal,
    pub(super) items: u64,
    pub(super) records: u64,
    pub(super) last: u64,
    pub(super) bytes: u64,
    pub(super) sent_bytes: u64,
    pub(super) fate: Fate,
}

/// Takes a whole body of the stream `session` to its end. Waits without end while the pipeline refuses for now.
pub(super) async fn take(
    collector: Arc<Collector>,
    session: u64,
    sent: Sent,
    source: Arc<Source>,
    epoch: u64,
    is_packed: bool,
) -> Done {
    let Sent { head, body, claim } = sent;
    let mut done = Done {
        ordinal: head.ordinal,
        signal: head.signal,
        items: u64::from(head.items),
        records: head.records.len() as u64,
        last: head.last(),
        bytes: head.bytes,
        sent_bytes: head.sent_bytes,
        fate: Fate::NoMemory(String::new()),
    };
    let its = Arc::clone(&source);
    done.fate = match unpack(&collector, &head, body, claim, is_packed).await {
        Err(fate) => fate,
        Ok(Whole { body, claim, packed }) => match walk_all(&collector, &head, &body).await {
            Err(text) => Fate::Rejected(Reason::Malformed, text),
            Ok(()) => {
                let (signal, items) = (head.signal, head.items);
                let identity = source.identity.clone();
                let bundle = Some(Arc::new(head.bundle(source, epoch)));
                let (receiver, claim) = (Arc::clone(&collector.settings.id), Some(Arc::new(claim)));
                let arrival = Arrival { signal, body, items, receiver, node: None, bundle, claim };
                hand_on(&collector, (&identity, session), arrival, packed).await
            }
        },
    };
    if let Fate::Rejected(cause, text) = &done.fate {
        let rejected =
            RejectedBundle { source: &its, last: done.last, records: done.records, cause: *cause, text };
        note(&collector, &rejected).await;
    }
    done
}

/// Remembers a rejection before the agent is told of it: what the agent has settled then is in no log, and a collector that has
/// forgotten why would show it as lost.
async fn note(collector: &Arc<Collector>, rejected: &RejectedBundle<'_>) {
    collector.store.registry().rejected(&rejected.source.identity, rejected, Instant::now());
    if let Err(cause) = collector.store.persist().await {
        let (receiver, agent) = (&collector.settings.id, &rejected.source.identity);
        warn!(%receiver, %agent, %cause, "a rejected bundle could not be remembered: after a restart it may be shown as lost");
    }
}

/// A body as it was meant, and its payment.
struct Whole {
    body: Bytes,
    claim: Claim,
    /// Where it came packed: what is kept of it while there is no room for more.
    packed: Option<Packed>,
}

/// A body as it was sent, and its payment.
struct Packed {
    body: Bytes,
    /// Bytes of it when it is unpacked.
    bytes: u64,
    _claim: Claim,
}

impl Packed {
    async fn unpack(&self, ledger: &Arc<Ledger>) -> Result<(Bytes, Claim), DecompressError> {
        // The size is known, so that there is nothing to be learned from how much it grows.
        let bytes_max = usize::try_from(self.bytes).unwrap_or(usize::MAX);
        let limits = BodyLimits { ratio_max: u32::MAX, ..BodyLimits::of_bytes(bytes_max) };
        let (unpacked, claim) = decompress(Encoding::Zstd, &self.body, &limits, ledger).await?;
        Ok((Bytes::from(unpacked), claim))
    }
}

async fn unpack(
    collector: &Collector,
    head: &Head,
    body: Bytes,
    claim: Claim,
    is_packed: bool,
) -> Result<Whole, Fate> {
    let ordinal = head.ordinal;
    let broken = |what: String| Fate::Broken(Violation(format!("bundle {ordinal}: {what}")));
    // What packing would not have made shorter may come as it is.
    if !is_packed || (head.sent_bytes == head.bytes && head.is_of(&body)) {
        return match head.is_of(&body) {
            true => Ok(Whole { body, claim, packed: None }),
            false => Err(broken("its body does not have its checksum".to_owned())),
        };
    }
    let packed = Packed { body, bytes: head.bytes, _claim: claim };
    let mut patience = Patience::for_memory();
    let (body, claim) = loop {
        match packed.unpack(&collector.settings.ledger).await {
            Ok(unpacked) => break unpacked,
            Err(DecompressError::Exhausted(error)) => {
                patience.wait(error).await.map_err(|error| Fate::NoMemory(error.to_string()))?;
            }
            Err(error) => return Err(broken(format!("its body cannot be unpacked: {error}"))),
        }
    };
    match head.is_of(&body) {
        true => Ok(Whole { body, claim, packed: Some(packed) }),
        false => Err(broken("its body does not have its length and checksum when it is unpacked".to_owned())),
    }
}

/// Walks each record, as doors do.
async fn walk_all(collector: &Collector, head: &Head, body: &Bytes) -> Result<(), String> {
    let (mut at, mut turn_ends) = (0, TURN_BYTES);
    for place in &head.records {
        // Their sum is the body's length, which was checked.
        let end = at + place.bytes as usize;
        check(head.signal, *place, &body[at..end], &collector.settings.walk)?;
        at = end;
        if at >= turn_ends {
            turn_ends = at + TURN_BYTES;
            tokio::task::yield_now().await;
        }
    }
    Ok(())
}

/// Hands an arrival to its pipeline, and again while that refuses it for now. Meanwhile it has a place in the lot: as it is, or
/// as it was packed, and is unpacked for each try then. Where there is room for neither its stream ends, and the agent keeps it.
async fn hand_on(
    collector: &Collector,
    stream: (&str, u64),
    mut arrival: Arrival,
    packed: Option<Packed>,
) -> Fate {
    let mut patience = Patience::endless();
    let mut parked: Option<Parked<'_>> = None;
    loop {
        if let (None, Some(packed)) = (&arrival.claim, &packed) {
            match packed.unpack(&collector.settings.ledger).await {
                Ok((body, claim)) => (arrival.body, arrival.claim) = (body, Some(Arc::new(claim))),
                // It was unpacked before: there is no memory now.
                Err(_) => {
                    tokio::time::sleep(patience.pause(None)).await;
                    continue;
                }
            }
        }
        // Asked for each try: what refuses while it is taken out of the configuration may have a successor.
        let Some(consumer) = collector.settings.pipelines.of(arrival.signal) else {
            let (signal, id) = (arrival.signal, &arrival.receiver);
            let text = format!(
                "no pipeline of the collector takes {signal} from {id}; add {id} to the receivers of a {signal} pipeline there"
            );
            return Fate::Rejected(Reason::NoPipeline, text);
        };
        let (retry_after, refusal) = match consume(collector, stream, consumer, arrival.clone()).await {
            Ok(receipt) => return Fate::Taken(receipt),
            Err(refusal @ Refusal::Permanent { .. }) => {
                return Fate::Rejected(refusal.reason(), refusal.explain());
            }
            Err(Refusal::Transient { retry_after, reason, cause }) => (retry_after, (reason, cause)),
        };
        collector.settings.link_counts.refused_for_now.add(1);
        let (reason, cause) = refusal;
        debug!(%reason, %cause, "bundle refused for now, trying on");
        let bytes = arrival.body.len() as u64;
        let is_whole = parked.as_ref().is_some_and(|parked| parked.bytes() >= bytes);
        if !is_whole && let Some(place) = collector.lot.park(bytes) {
            parked = Some(place);
        } else if !is_whole {
            let sent = packed.as_ref().map(|packed| packed.body.len() as u64);
            parked = parked.or_else(|| collector.lot.park(sent?));
            if parked.is_none() {
                return Fate::NoMemory(format!(
                    "its pipeline refuses it for now ({cause}), and as much waits as may"
                ));
            }
            (arrival.body, arrival.claim) = (Bytes::new(), None);
        }
        tokio::time::sleep(patience.pause(retry_after)).await;
    }
}

/// One try. It goes on to its end where the stream ends meanwhile, since the log does too: whoever comes next of that agent is
/// told what the log has then.
async fn consume(
    collector: &Collector,
    (identity, session): (&str, u64),
    consumer: Arc<dyn Consumer>,
    arrival: Arrival,
) -> Result<Receipt, Refusal> {
    if collector.store.flights.is_full(identity) {
        let cause = format!("{BUNDLES_MAX} bundles of the agent, of older streams too, are with pipelines");
        return Err(Refusal::transient(Reason::Unavailable, None, cause));
    }
    let Some(flight) = collector.store.fly(identity, session) else {
        // Somebody newer has the place of this stream, and the word that ends it is on its way.
        return pending().await;
    };
    let consuming = async move {
        let consumed = consumer.consume(arrival).await;
        drop(flight);
        consumed
    };
    match tokio::spawn(consuming.in_current_span()).await {
        Ok(consumed) => consumed,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => resume_unwind(panic),
            // The runtime ends, and everything with it.
            Err(_) => pending().await,
        },
    }
}
