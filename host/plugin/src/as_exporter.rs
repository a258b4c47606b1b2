//! A plugin seen as an exporter.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio_util::sync::CancellationToken;
use weir_model::{BoxFuture, Exporter, Outcome, Push};

use crate::counts::PluginCounts;
use crate::describe::Encoding;
use crate::end::End;
use crate::meter::Meter;
use crate::quarantine::Quarantined;
use crate::slot::{Away, Released, Slot};

/// When to try again where the plugin's file is away: somebody may be copying it, and it is looked for each second.
const LOOKED_FOR: Duration = Duration::from_secs(2);

/// One configured id whose exporter is a plugin.
pub struct PluginExporter {
    pub(crate) slot: Arc<Slot>,
}

impl PluginExporter {
    /// What it counts, whatever code serves.
    pub fn counts(&self) -> &PluginCounts {
        self.slot.counts()
    }

    /// What the plugin counts itself.
    pub fn meter(&self) -> &Meter {
        self.slot.meter()
    }

    /// Bytes of guest memory in its idle instances.
    pub fn idle_bytes(&self) -> usize {
        self.slot.idle_bytes()
    }

    /// The quarantine that it is in.
    pub fn quarantine(&self) -> Option<Quarantined> {
        self.slot.quarantine()
    }

    /// Ends its quarantine, and forgets what led to it. `false`: it has no code.
    pub fn release(&self) -> bool {
        self.slot.release() != Released::Nothing
    }

    async fn try_push(&self, push: Push) -> Outcome {
        let (generation, turn) = match self.slot.enter(push.searching).await {
            Ok(entered) => entered,
            Err(away) => {
                let after = match &away {
                    Away::Absent(_) => LOOKED_FOR,
                    Away::Kept { after, .. } => *after,
                };
                return Outcome::Retryable { message: away.to_string(), after: Some(after) };
            }
        };
        let encoding = generation.loaded.descriptor.encoding;
        let body = match encode(encoding, &push) {
            Ok(body) => body,
            Err(why) => return Outcome::Permanent(why),
        };
        // The batch is paid for; what it was converted to is not yet.
        let more = if encoding == Encoding::Json { body.len() as u64 } else { 0 };
        let claim = match generation.pool.mold().ledger.claim(more) {
            Ok(claim) => claim,
            Err(exhausted) => {
                return Outcome::Retryable { message: exhausted.to_string(), after: None };
            }
        };
        // A push that nobody waits for any more was deferred by its owner: it ends with its instance, so that a backend
        // that hangs does not hold up a stop for the rest of the call's deadline.
        let nobody_waits = CancellationToken::new();
        let _waiting = nobody_waits.clone().drop_guard();
        let pushed = generation.pool.call(turn, move |instance| {
            Box::pin(async move {
                let pushing = instance.push(&push, encoding, &body);
                let outcome = nobody_waits.run_until_cancelled(pushing).await;
                drop(claim);
                outcome.unwrap_or_else(|| Err(instance.cut(&push)))
            })
        });
        match pushed.await {
            Ok(outcome) => outcome,
            Err(End { kind, message, .. }) => Outcome::Ended { kind: kind.name(), message },
        }
    }
}

fn encode(encoding: Encoding, push: &Push) -> Result<Bytes, String> {
    match encoding {
        Encoding::Protobuf => Ok(push.body.clone()),
        Encoding::Json => {
            let mut json = Vec::new();
            let encoded = weir_wire::json::to_json(push.signal, &push.body, &mut json);
            encoded.map(|()| Bytes::from(json)).map_err(|error| format!("not OTLP: {error}"))
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
}
