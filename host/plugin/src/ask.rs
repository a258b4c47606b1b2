//! A call on behalf of somebody outside (a sender, a target, whoever fetches a page), who is told no more than whether to
//! come again: frames, limits and what the guest said are the operator's.

use std::time::Duration;

use tracing::warn;
use weir_model::{BoxFuture, EndedByInput, Exhausted, Reason, Refusal};

use crate::end::End;
use crate::instance::Instance;
use crate::slot::{Away, Slot};

/// When to come again after an end: a fresh instance takes microseconds, so at once, but not in a tight loop.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// One kind of call.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asking {
    /// What the plugin is, in an answer: `receiver`.
    pub(crate) what: &'static str,
    /// Interface and function.
    pub(crate) call: &'static str,
    /// How long it waits for an instance.
    pub(crate) wait_max: Duration,
}

/// Why an answer of a guest that goes on is of no use.
#[derive(Debug)]
pub(crate) enum Unfit {
    /// What is not valid about it, for the log.
    NotValid(String),
    /// The process has no memory for it.
    NoMemory(Exhausted),
}

impl From<String> for Unfit {
    fn from(why: String) -> Self {
        Self::NotValid(why)
    }
}

impl Slot {
    /// Waits for an instance and calls `f` with it.
    ///
    /// # Errors
    /// [`Refusal::Transient`]: there was no instance in time, it ended, or its answer is of no use.
    ///
    /// # Cancel safety
    /// A call that was dropped goes on to its end; only its answer is lost.
    pub(crate) async fn ask<R: Send + 'static>(
        &self,
        asking: Asking,
        f: impl for<'a> FnOnce(&'a mut Instance) -> BoxFuture<'a, Result<Result<R, Unfit>, End>> + Send + 'static,
    ) -> Result<R, Refusal> {
        let Asking { what, call, wait_max } = asking;
        let refused = |reason, after, why: &str| {
            Err(Refusal::transient(reason, Some(after), format!("the plugin of this {what} {why}")))
        };
        let (generation, turn) = match tokio::time::timeout(wait_max, self.enter(false)).await {
            Ok(Ok(entered)) => entered,
            // Where its file belongs, and how its instances end, is told to the operator.
            Ok(Err(Away::Absent(_))) => return refused(Reason::Unavailable, RETRY_AFTER, "is away"),
            Ok(Err(Away::Kept { after, .. })) => {
                return refused(Reason::PluginEnded, after, "is in quarantine");
            }
            Err(_) => return refused(Reason::Unavailable, RETRY_AFTER, "is busy"),
        };
        match generation.pool.call(turn, call, f).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(Unfit::NotValid(why))) => {
                let identity = &generation.pool.mold().identity;
                let (plugin, id) = (&identity.plugin, &identity.id);
                warn!(%plugin, %id, call, error = why, "answer of a plugin is not valid");
                refused(Reason::PluginEnded, RETRY_AFTER, "gave an answer that is not valid")
            }
            Ok(Err(Unfit::NoMemory(exhausted))) => {
                Err(Refusal::transient(Reason::MemoryFull, Some(RETRY_AFTER), exhausted))
            }
            Err(end) if end.blames_answer() => {
                let why = format!("the plugin of this {what} ended ({})", end.kind.name());
                Err(Refusal::transient(Reason::PluginEnded, Some(RETRY_AFTER), EndedByInput(why)))
            }
            Err(end) => refused(Reason::PluginEnded, RETRY_AFTER, &format!("ended ({})", end.kind.name())),
        }
    }
}
