//! How long something is waited for that others hold.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::limits::{CONSUME_PAUSE_MAX, CONSUME_PAUSE_MIN, MEMORY_PATIENCE};

/// Pauses between tries: doubling, with jitter, up to a second; without end, or up to a deadline.
#[derive(Debug)]
pub(super) struct Patience {
    deadline: Option<Instant>,
    tries: u32,
}

impl Patience {
    /// For memory: whoever waits holds some too, so that nobody waits without end; not all give up in one moment.
    pub(super) fn for_memory() -> Self {
        let patience = MEMORY_PATIENCE.mul_f64(0.5 + fastrand::f64() / 2.0);
        Self { deadline: Some(Instant::now() + patience), tries: 0 }
    }

    /// For a pipeline that refuses for now: without end.
    pub(super) fn endless() -> Self {
        Self { deadline: None, tries: 0 }
    }

    /// A pause.
    ///
    /// # Errors
    /// `error` where the patience is used up.
    pub(super) async fn wait<E>(&mut self, error: E) -> Result<(), E> {
        if self.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            return Err(error);
        }
        sleep(self.pause(None)).await;
        Ok(())
    }

    /// The next pause: what was asked for, within the bounds, or twice the last one.
    pub(super) fn pause(&mut self, asked: Option<Duration>) -> Duration {
        let doubled = CONSUME_PAUSE_MIN.saturating_mul(1 << self.tries.min(8));
        self.tries = self.tries.saturating_add(1);
        let pause = asked.unwrap_or(doubled).clamp(CONSUME_PAUSE_MIN, CONSUME_PAUSE_MAX);
        pause.mul_f64(0.5 + fastrand::f64() / 2.0).max(CONSUME_PAUSE_MIN)
    }
}
