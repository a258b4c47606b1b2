//! A plugin seen as a receiver of HTTP requests.

use std::sync::Arc;
use std::time::Duration;

use tracing::warn;
use weir_model::{BoxFuture, HttpReceiver, Reason, Refusal, http};

use crate::counts::PluginCounts;
use crate::end::RECEIVE;
use crate::meter::Meter;
use crate::quarantine::Quarantined;
use crate::slot::{Away, Released, Slot};

/// How long a request waits for an instance. The sender will try again; it must not hold its connection for minutes.
const WAIT_MAX: Duration = Duration::from_secs(3);

/// When a sender may try again after an end: a fresh instance takes microseconds, so at once, but not in a tight loop.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// One configured id whose receiver is a plugin.
pub struct PluginHttpReceiver {
    pub(crate) slot: Arc<Slot>,
}

impl PluginHttpReceiver {
    /// What it counts, whatever code serves.
    pub fn counts(&self) -> &PluginCounts {
        self.slot.counts()
    }

    /// What the plugin counts itself.
    pub fn meter(&self) -> &Meter {
        self.slot.meter()
    }

    /// The quarantine that it is in.
    pub fn quarantine(&self) -> Option<Quarantined> {
        self.slot.quarantine()
    }

    /// Ends its quarantine, and forgets what led to it. `false`: it has no code.
    pub fn release(&self) -> bool {
        self.slot.release() != Released::Nothing
    }

    async fn try_receive(&self, listener: &str, request: http::Request) -> Result<http::Answer, Refusal> {
        let unavailable = |why| Err(Refusal::transient(Reason::Unavailable, Some(RETRY_AFTER), why));
        let (generation, turn) = match tokio::time::timeout(WAIT_MAX, self.slot.enter(false)).await {
            Ok(Ok(entered)) => entered,
            // Where its file belongs, and how its instances end, is told to the operator, not to the sender.
            Ok(Err(Away::Absent(_))) => return unavailable("the plugin of this receiver is away"),
            Ok(Err(Away::Kept { after, .. })) => {
                let why = "the plugin of this receiver is in quarantine";
                return Err(Refusal::transient(Reason::PluginEnded, Some(after), why));
            }
            Err(_) => return unavailable("all instances of the plugin are busy"),
        };
        let listener = listener.to_owned();
        let received = generation.pool.call(turn, RECEIVE, move |instance| {
            Box::pin(async move { instance.receive(&listener, &request).await })
        });
        match received.await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(why)) => {
                let identity = &generation.pool.mold().identity;
                warn!(plugin = %identity.plugin, id = %identity.id, error = why, "answer of a plugin is not valid");
                let why = "the plugin of this receiver gave an answer that is not valid";
                Err(Refusal::transient(Reason::PluginEnded, Some(RETRY_AFTER), why))
            }
            // Frames, limits and what the guest said are in the log: a sender may be anybody.
            Err(end) => {
                let why = format!("the plugin of this receiver ended ({})", end.kind.name());
                Err(Refusal::transient(Reason::PluginEnded, Some(RETRY_AFTER), why))
            }
        }
    }
}

impl HttpReceiver for PluginHttpReceiver {
    fn receive<'a>(
        &'a self,
        listener: &'a str,
        request: http::Request,
    ) -> BoxFuture<'a, Result<http::Answer, Refusal>> {
        Box::pin(self.try_receive(listener, request))
    }
}
