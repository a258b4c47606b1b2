//! Bundles that are with pipelines now, by agent. A log that has begun to write a bundle does not stop when the bundle's stream
//! ends, so that an agent's next stream would be told places that are old before it reads them.
//!
//! Invariant: a bundle that may still change an agent's marks is counted here, whatever became of its stream.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::limits::BUNDLES_MAX;

/// How many each agent has; none where that is zero.
#[derive(Debug, Default)]
pub(super) struct Flights(Mutex<HashMap<String, watch::Sender<usize>>>);

/// One bundle, until this is dropped.
#[derive(Debug)]
pub(super) struct Flight {
    flights: Arc<Flights>,
    identity: String,
}

impl Flights {
    /// A bundle of this agent is handed to its pipeline.
    pub(super) fn begin(self: &Arc<Self>, identity: &str) -> Flight {
        let mut flights = self.lock();
        flights.entry(identity.to_owned()).or_insert_with(|| watch::channel(0).0).send_modify(|n| *n += 1);
        drop(flights);
        Flight { flights: Arc::clone(self), identity: identity.to_owned() }
    }

    /// Whether as many bundles of this agent are with pipelines as one stream may have out. Older streams may have left theirs
    /// there: whoever comes again and again to a log that hangs waits for those.
    pub(super) fn is_full(&self, identity: &str) -> bool {
        self.lock().get(identity).is_some_and(|count| *count.borrow() >= BUNDLES_MAX)
    }

    /// Returns when no bundle of this agent is with a pipeline.
    pub(super) async fn settled(&self, identity: &str) {
        let watched = self.lock().get(identity).map(watch::Sender::subscribe);
        if let Some(mut watched) = watched {
            // Where the count is gone, so are the bundles.
            drop(watched.wait_for(|count| *count == 0).await);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, watch::Sender<usize>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        let mut flights = self.flights.lock();
        let Some(count) = flights.get(&self.identity) else { return };
        count.send_modify(|count| *count -= 1);
        if *count.borrow() == 0 {
            flights.remove(&self.identity);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::poll;

    use super::*;

    /// Scenario: two bundles of one agent and one of another are with pipelines, and end one after the other.
    /// Guarantees: who waits for the first agent waits for both of its bundles and for nobody else's; nothing is left then.
    #[tokio::test]
    async fn an_agent_is_settled_with_its_last_bundle() {
        let flights = Arc::<Flights>::default();
        flights.settled("a").await;
        let (one, two, other) = (flights.begin("a"), flights.begin("a"), flights.begin("b"));
        let mut settled = Box::pin(flights.settled("a"));
        assert!(poll!(&mut settled).is_pending());
        drop(one);
        assert!(poll!(&mut settled).is_pending());
        drop(two);
        settled.await;
        drop(other);
        assert!(flights.lock().is_empty());
    }

    /// Scenario: as many bundles of an agent are with pipelines as one stream may have out; one of them ends.
    /// Guarantees: there is no room for more of that agent until then, and always for another.
    #[tokio::test]
    async fn an_agent_has_no_more_with_pipelines_than_one_stream_may_have() {
        let flights = Arc::<Flights>::default();
        let mut all: Vec<Flight> = (0..BUNDLES_MAX - 1).map(|_| flights.begin("a")).collect();
        assert!(!flights.is_full("a"));
        all.push(flights.begin("a"));
        assert!(flights.is_full("a") && !flights.is_full("b"));
        drop(all.pop());
        assert!(!flights.is_full("a"));
    }
}
