//! The agent's end of a link as a part: one agent for each exporter of type `weir`, whichever pipelines send over it.
//!
//! ```text
//! pipeline traces  ─ log ─ delivery ─ Lane ─┐
//! pipeline metrics ─ log ─ delivery ─ Lane ─┼─ Link ─ agent ─▶ collector
//! pipeline logs    ─ log ─ delivery ─ Lane ─┘
//! ```
//!
//! A folder has one agent at a time. So an agent that takes another's place begins when that one has ended, and pushes wait
//! meanwhile, as they wait for a collector that is away.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use weir_link::agent::AgentCounts;
use weir_link::state::OutboxHandle;
use weir_model::{BoxFuture, Exporter, LANES, Outcome, Push};
use weir_queue::Queue;

/// How long pushes of a link that ends may wait for what is on its way. What is not acknowledged by then is sent again after the
/// next start, and known by its place: this spares a bundle, it saves nothing.
const LEAVING_GRACE: Duration = Duration::from_secs(3);

/// A log whose records go over a link.
#[derive(Clone)]
pub(crate) struct LinkLog {
    /// Its pipeline's name.
    pub(crate) name: String,
    /// It.
    pub(crate) queue: Arc<dyn Queue>,
}

/// How an agent is.
#[derive(Debug, Clone, Default)]
pub(crate) struct CarrierStatus {
    /// Since when it has a stream; none where it has none.
    pub(crate) connected: Option<Instant>,
    /// Since when it has none; none where it never had one.
    pub(crate) away_since: Option<Instant>,
    /// Why it has none.
    pub(crate) why_not: String,
    /// Records that it holds and that are not acknowledged.
    pub(crate) unacknowledged: u64,
    /// Bundles that were begun on more than one stream.
    pub(crate) resent: u64,
    /// What it counts.
    pub(crate) counts: AgentCounts,
}

/// What carries bundles: an agent.
pub(crate) trait Carrier: Send + Sync {
    /// What pushes records of one log; none once it has ended.
    fn exporter(&self, log: &str) -> Option<Arc<dyn Exporter>>;

    /// What states are reported through.
    fn outbox(&self) -> Option<OutboxHandle>;

    /// How it is.
    fn status(&self) -> CarrierStatus;

    /// Takes leave of the collector. Ready when its folder is another's to take.
    fn stop(&self) -> BoxFuture<'static, ()>;
}

/// One exporter of type `weir`.
pub(crate) struct Link {
    /// The configured id.
    pub(crate) id: String,
    carrier: watch::Sender<Option<Arc<dyn Carrier>>>,
    leaving: CancellationToken,
    /// Since when it could have had a stream, for whoever asks since when it has none.
    begun: Mutex<Option<Instant>>,
}

impl Link {
    /// A link whose pushes wait until it begins.
    pub(crate) fn new(id: String) -> Arc<Self> {
        let (carrier, _) = watch::channel(None);
        Arc::new(Self { id, carrier, leaving: CancellationToken::new(), begun: Mutex::default() })
    }

    /// From now on pushes are carried.
    pub(crate) fn begin(&self, carrier: Arc<dyn Carrier>) {
        *self.begun.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        self.carrier.send_replace(Some(carrier));
    }

    /// Whether it waits to begin.
    pub(crate) fn is_idle(&self) -> bool {
        self.carrier.borrow().is_none()
    }

    /// From now on pushes end soon, whatever becomes of them.
    pub(crate) fn leave(&self) {
        self.leaving.cancel();
    }

    /// Ends the agent behind it, if there is one.
    pub(crate) async fn end(&self) {
        self.leave();
        let carrier = self.carrier.send_replace(None);
        if let Some(carrier) = carrier {
            carrier.stop().await;
        }
    }

    /// How its agent is, and since when it has been asked to be connected; nothing where it has not begun.
    pub(crate) fn status(&self) -> Option<(CarrierStatus, Instant)> {
        let carrier = self.carrier.borrow().clone()?;
        let begun = *self.begun.lock().unwrap_or_else(PoisonError::into_inner);
        Some((carrier.status(), begun?))
    }

    /// What states are reported through; nothing where it has not begun.
    pub(crate) fn outbox(&self) -> Option<OutboxHandle> {
        self.carrier.borrow().as_ref()?.outbox()
    }

    /// What pushes of one log go through.
    pub(crate) fn lane(self: &Arc<Self>, log: &str) -> Arc<dyn Exporter> {
        Arc::new(Lane { link: Arc::clone(self), log: log.to_owned() })
    }

    async fn push(&self, log: &str, push: Push) -> Outcome {
        let mut carrier = self.carrier.subscribe();
        let Ok(carrier) = carrier.wait_for(Option::is_some).await.map(|carrier| carrier.clone()) else {
            return given_up();
        };
        match carrier {
            Some(carrier) => match carrier.exporter(log) {
                Some(exporter) => exporter.push(push).await,
                None => given_up(),
            },
            None => given_up(),
        }
    }

    /// Returns when what is under way is not waited for any more.
    async fn is_given_up(&self) {
        self.leaving.cancelled().await;
        let is_connected =
            self.carrier.borrow().as_ref().is_some_and(|carrier| carrier.status().connected.is_some());
        if is_connected {
            sleep(LEAVING_GRACE).await;
        }
    }
}

/// The records stay where they are, and are sent again.
fn given_up() -> Outcome {
    Outcome::Retryable {
        message: "the link ends; what it has under way is sent again".to_owned(),
        after: None,
    }
}

/// A log's way over a link.
struct Lane {
    link: Arc<Link>,
    log: String,
}

impl Exporter for Lane {
    fn push(&self, push: Push) -> BoxFuture<'_, Outcome> {
        Box::pin(async move {
            tokio::select! {
                biased;
                outcome = self.link.push(&self.log, push) => outcome,
                () = self.link.is_given_up() => given_up(),
            }
        })
    }

    fn in_flight_max(&self) -> usize {
        LANES
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use bytes::Bytes;
    use weir_model::Signal;

    use super::*;

    /// A carrier that takes everything, or nothing.
    struct Fake {
        takes: bool,
        connected: Option<Instant>,
        stopped: Arc<AtomicBool>,
    }

    struct Endless;

    impl Exporter for Endless {
        fn push(&self, _: Push) -> BoxFuture<'_, Outcome> {
            Box::pin(std::future::pending())
        }

        fn in_flight_max(&self) -> usize {
            LANES
        }
    }

    struct Taking;

    impl Exporter for Taking {
        fn push(&self, _: Push) -> BoxFuture<'_, Outcome> {
            Box::pin(std::future::ready(Outcome::Accepted))
        }

        fn in_flight_max(&self) -> usize {
            LANES
        }
    }

    impl Carrier for Fake {
        fn exporter(&self, _: &str) -> Option<Arc<dyn Exporter>> {
            Some(if self.takes { Arc::new(Taking) } else { Arc::new(Endless) })
        }

        fn outbox(&self) -> Option<OutboxHandle> {
            None
        }

        fn status(&self) -> CarrierStatus {
            CarrierStatus { connected: self.connected, ..CarrierStatus::default() }
        }

        fn stop(&self) -> BoxFuture<'static, ()> {
            self.stopped.store(true, Ordering::SeqCst);
            Box::pin(std::future::ready(()))
        }
    }

    fn fake(takes: bool, connected: bool) -> (Arc<Fake>, Arc<AtomicBool>) {
        let stopped = Arc::new(AtomicBool::new(false));
        let connected = connected.then(Instant::now);
        (Arc::new(Fake { takes, connected, stopped: Arc::clone(&stopped) }), stopped)
    }

    fn a_push() -> Push {
        Push {
            signal: Signal::Traces,
            body: Bytes::new(),
            id: String::new(),
            attempt: 1,
            items: 0,
            places: None,
            searching: false,
        }
    }

    /// Scenario: a push comes before its agent has begun.
    /// Guarantees: it waits, and is carried when the agent begins.
    #[tokio::test]
    async fn a_push_waits_for_its_agent() {
        let link = Link::new("weir".to_owned());
        let lane = link.lane("traces");
        let mut push = lane.push(a_push());
        let early = futures_util::poll!(&mut push);
        assert!(early.is_pending(), "{early:?}");
        link.begin(fake(true, true).0);
        assert_eq!(push.await, Outcome::Accepted);
    }

    /// Scenario: a link ends while pushes wait: for a collector that is away, for one that does not answer.
    /// Guarantees: the first is given back at once, the second after a grace; both are sent again; the agent is told to end.
    #[tokio::test(start_paused = true)]
    async fn a_link_that_ends_gives_its_pushes_back() {
        for (connected, grace) in [(false, Duration::ZERO), (true, LEAVING_GRACE)] {
            let link = Link::new("weir".to_owned());
            let (carrier, stopped) = fake(false, connected);
            link.begin(carrier);
            let lane = link.lane("traces");
            let mut push = lane.push(a_push());
            assert!(futures_util::poll!(&mut push).is_pending());
            let before = tokio::time::Instant::now();
            link.leave();
            let outcome = push.await;
            assert!(matches!(outcome, Outcome::Retryable { .. }), "{outcome:?}");
            let waited = before.elapsed();
            assert!(waited >= grace && waited < grace + Duration::from_secs(1), "{waited:?}");
            link.end().await;
            assert!(stopped.load(Ordering::SeqCst) && link.is_idle());
        }
    }
}
