//! The seam between a session and the lane of states, which have rules and a store of their own.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::Notify;
use weir_model::BoxFuture;
use weir_proto::weir::link::v1::{KindDigest, StateDown, StateUp};

/// The agent's side: what is to be said, and what was heard. It belongs to the agent, not to a stream.
pub trait AgentStates: Send {
    /// A stream is up, and this is what the collector knows; `store` is whether it is the store that knew us before.
    fn welcomed(&mut self, known: &[KindDigest], is_known_store: bool, now: Instant);

    /// The collector said something about states.
    fn received(&mut self, message: StateDown, now: Instant);

    /// The next message, where there is one to send now.
    fn next(&mut self, now: Instant) -> Option<StateUp>;

    /// When there may be one although nothing was received.
    fn wake(&self) -> Option<Instant>;

    /// The stream is gone: what was in flight is sent again on the next.
    fn broken(&mut self);

    /// Notified when there may be a message although nothing was received and no time has passed: somebody has reported
    /// something. Whoever drives the stream asks [`AgentStates::next`] then. None where that never happens.
    fn reported(&self) -> Option<Arc<Notify>> {
        None
    }

    /// The incarnation of the agent's folder: said before the first stream, and whenever a new one was taken.
    fn numbered(&mut self, _incarnation: u128) {}
}

/// The collector's side, for all agents.
pub trait CollectorStates: Send + Sync {
    /// Digests of what is stored of an agent.
    fn known(&self, identity: &str) -> Vec<KindDigest>;

    /// Takes a message of an agent; ready when what is answered is persisted. `epoch` is (incarnation, epoch) of the stream.
    fn received<'a>(
        &'a self,
        identity: &'a str,
        epoch: (u128, u64),
        message: StateUp,
    ) -> BoxFuture<'a, Vec<StateDown>>;

    /// A stream of the agent is live from now on: what is stored of it is not given up. [`CollectorStates::left`] follows each.
    fn came(&self, _identity: &str) {}

    /// That stream has ended.
    fn left(&self, _identity: &str) {}

    /// Lets go of what is stored of an agent that is not remembered any more, unless it has a live stream, as at another door.
    /// False where that could not be written: it is to be asked for again.
    fn forget<'a>(&'a self, identity: &'a str) -> BoxFuture<'a, bool>;
}
