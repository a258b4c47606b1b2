//! A plugin seen as an exporter.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio_util::sync::CancellationToken;
use weir_model::{BoxFuture, Claim, Exhausted, Exporter, Ledger, Outcome, Push};
use weir_wire::json::{Unwritten, to_json_within};

use crate::describe::Encoding;
use crate::end::{End, PUSH};
use crate::instance::Mold;
use crate::pool::Turn;
use crate::slot::{Away, Generation, Slot};
use crate::wanted::shows_its_slot;

/// When to try again where the plugin's file is away: somebody may be copying it, and it is looked for each second.
const LOOKED_FOR: Duration = Duration::from_secs(2);

/// What is claimed for JSON at first, for each byte of protobuf: common telemetry becomes two to three times as long, and
/// the buffer that it is written to doubles.
const JSON_BYTES_FOR_ONE: u64 = 8;

/// What is claimed at least: a buffer's first sizes.
const JSON_BYTES_MIN: u64 = 16 * 1024;

/// The part of the memory budget that one push may have for its JSON: as many pushes as the pool has instances by default
/// fit beside each other, and with the usual 192 MiB the JSON may have 24 MiB.
const JSON_LEDGER_SHARE: u64 = 4;

/// One configured id whose exporter is a plugin.
pub struct PluginExporter {
    pub(crate) slot: Arc<Slot>,
}

shows_its_slot!(PluginExporter);

impl PluginExporter {
    async fn try_push(&self, push: Push) -> Outcome {
        let (generation, turn) = match entered(&self.slot, &push).await {
            Ok(entered) => entered,
            Err(outcome) => return outcome,
        };
        let Encoded { encoding, body, claim } = match encoded(&push, &generation) {
            Ok(encoded) => encoded,
            Err(outcome) => return outcome,
        };
        // A push that nobody waits for any more was deferred by its owner: it ends with its instance, so that a backend
        // that hangs does not hold up a stop for the rest of the call's deadline.
        let nobody_waits = CancellationToken::new();
        let _waiting = nobody_waits.clone().drop_guard();
        let pushed = generation.pool.call(turn, PUSH, move |instance| {
            Box::pin(async move {
                let pushing = instance.push(&push, encoding, &body);
                let outcome = nobody_waits.run_until_cancelled(pushing).await;
                drop(claim);
                outcome.unwrap_or_else(|| Err(instance.cut(&push)))
            })
        });
        told(pushed.await)
    }
}

/// Waits until the code that serves has room for a push.
///
/// # Errors
/// What becomes of the push where no call can be made now.
pub(crate) async fn entered(slot: &Slot, push: &Push) -> Result<(Arc<Generation>, Turn), Outcome> {
    slot.enter(push.searching).await.map_err(|away| {
        let after = match &away {
            Away::Absent(_) => LOOKED_FOR,
            Away::Kept { after, .. } => *after,
        };
        Outcome::Retryable { message: away.to_string(), after: Some(after) }
    })
}

/// A push's body as the plugin wants it.
pub(crate) struct Encoded {
    pub(crate) encoding: Encoding,
    pub(crate) body: Bytes,
    /// Pays for it, where it is not the push's own.
    pub(crate) claim: Option<Claim>,
}

/// The body of a push in the encoding that the code asks for.
///
/// # Errors
/// What becomes of the push where it cannot be had.
pub(crate) fn encoded(push: &Push, generation: &Generation) -> Result<Encoded, Outcome> {
    let encoding = generation.loaded.descriptor.encoding;
    let Mold { ledger, limits, .. } = generation.pool.mold();
    let (body, claim) = match encoding {
        Encoding::Protobuf => (push.body.clone(), None),
        Encoding::Json => {
            let (body, claim) = json(push, ledger, limits.memory_bytes)?;
            (body, Some(claim))
        }
    };
    Ok(Encoded { encoding, body, claim })
}

/// What became of a push, an end as well.
pub(crate) fn told(pushed: Result<Outcome, End>) -> Outcome {
    pushed.unwrap_or_else(|end| {
        let blames_records = end.blames_records();
        Outcome::Ended { kind: end.kind.name(), message: end.message, blames_records }
    })
}

/// The batch is paid for; the JSON that it is converted to is paid for here, before it is written: first as it is with
/// common telemetry, then up to what one push may have. What is longer than that has to come in halves.
fn json(push: &Push, ledger: &Arc<Ledger>, memory_bytes: usize) -> Result<(Bytes, Claim), Outcome> {
    let exhausted = |exhausted: Exhausted| Outcome::Retryable { message: exhausted.to_string(), after: None };
    let most = (2 * memory_bytes as u64).min(ledger.limit() / JSON_LEDGER_SHARE);
    let common = push.body.len() as u64 * JSON_BYTES_FOR_ONE + JSON_BYTES_MIN;
    let mut claim = ledger.claim(common.min(most)).map_err(exhausted)?;
    loop {
        let mut json = Vec::new();
        // The buffer doubles when it grows.
        let bytes_max = usize::try_from(claim.bytes() / 2).unwrap_or(usize::MAX);
        match to_json_within(push.signal, &push.body, bytes_max, &mut json) {
            Ok(()) => {
                claim.shrink_to(json.capacity() as u64);
                return Ok((json.into(), claim));
            }
            Err(Unwritten::Malformed(error)) => {
                return Err(Outcome::Permanent(format!("not OTLP: {error}")));
            }
            Err(Unwritten::TooLong) if claim.bytes() < most => {
                drop(json);
                claim.grow(most - claim.bytes()).map_err(exhausted)?;
            }
            Err(Unwritten::TooLong) => return Err(Outcome::TooLarge),
        }
    }
}

impl Exporter for PluginExporter {
    fn push(&self, push: Push) -> BoxFuture<'_, Outcome> {
        Box::pin(async move {
            let items = push.items;
            let outcome = self.try_push(push).await;
            self.counts().outcomes.count(&outcome, items);
            outcome
        })
    }

    fn in_flight_max(&self) -> usize {
        self.slot.instances_max()
    }

    fn generation(&self) -> u64 {
        self.slot.generation()
    }

    fn found_at_fault(&self) {
        self.slot.try_now();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weir_model::Signal;
    use weir_wire::Encoder;

    const MIB: usize = 1024 * 1024;

    /// A request with so many empty attributes: each has 2 bytes, and 3 as JSON.
    fn tiny_attributes(count: usize) -> Push {
        let mut body = Encoder::new();
        body.message(1, |group| {
            group.message(1, |resource| (0..count).for_each(|_| resource.message(1, |_| ())));
        });
        let (body, id) = (body.into_bytes().into(), "one".to_owned());
        Push { signal: Signal::Traces, body, id, attempt: 1, items: 1, places: None, searching: false }
    }

    /// A request with a text of control characters: each becomes six.
    fn control_characters(count: usize) -> Push {
        let mut body = Encoder::new();
        body.message(1, |group| group.bytes(3, vec![1; count]));
        Push { body: body.into_bytes().into(), ..tiny_attributes(0) }
    }

    /// Scenario: requests whose JSON is short, longer than usual, longer than an instance's memory, longer than its share
    /// of the budget; and one that finds the budget in use.
    /// Guarantees: it is paid for before it is written, and what was claimed too much comes back; what can never fit is to
    /// be halved and not tried for ever; only what may fit later waits.
    #[test]
    fn json_is_paid_for_before_it_is_written() {
        let ledger = Ledger::new(16 * MIB as u64);
        for (push, memory_bytes, fits) in [
            (tiny_attributes(10), 64 * MIB, true),
            (tiny_attributes(600_000), 64 * MIB, true),
            (control_characters(300_000), 64 * MIB, true),
            (control_characters(300_000), MIB, false),
            (tiny_attributes(1_000_000), 64 * MIB, false),
            (control_characters(4_000_000), 64 * MIB, false),
        ] {
            match json(&push, &ledger, memory_bytes) {
                Ok((json, claim)) => {
                    assert!(fits && json.len() as u64 <= claim.bytes(), "{} bytes", json.len());
                    assert!(claim.bytes() <= 2 * json.len() as u64 + JSON_BYTES_MIN);
                }
                Err(outcome) => assert_eq!((outcome, fits), (Outcome::TooLarge, false)),
            }
            assert_eq!(ledger.used(), 0);
            assert!(ledger.peak() <= ledger.limit() / JSON_LEDGER_SHARE);
        }
        let _others = ledger.claim(ledger.limit() - 1000).unwrap();
        let waits = json(&tiny_attributes(10), &ledger, 64 * MIB);
        assert!(matches!(waits, Err(Outcome::Retryable { .. })), "{waits:?}");
    }
}
