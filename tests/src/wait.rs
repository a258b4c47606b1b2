//! Waiting for a state, with a deadline.

use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior};

/// How often a state is looked at. Short beside every deadline, long beside a look.
const LOOK_INTERVAL: Duration = Duration::from_millis(5);

/// Looks until `look` finds something, and returns it.
///
/// # Panics
/// When `deadline` has passed: `what` says what did not happen.
#[track_caller]
pub fn wait_until<T>(
    deadline: Duration,
    what: &str,
    mut look: impl FnMut() -> Option<T>,
) -> impl Future<Output = T> {
    // The place of the caller, which an async function would lose.
    let place = std::panic::Location::caller();
    async move {
        match until(deadline, async || look()).await {
            Some(found) => found,
            None => panic!("{place}: not within {deadline:?}: {what}"),
        }
    }
}

/// As [`wait_until`] where looking itself waits, as for an HTTP answer. `None` when the deadline has passed.
pub async fn until<T>(deadline: Duration, mut look: impl AsyncFnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + deadline;
    let mut ticks = tokio::time::interval(LOOK_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if let Some(found) = look().await {
            return Some(found);
        }
        if Instant::now() >= end {
            return None;
        }
    }
}
