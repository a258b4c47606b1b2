//! How long to wait before the next try.
//!
//! Jittered and exponential, with the backend's own wish clamped into our range. There is no last try: what a
//! sender was promised is tried until the backend takes it or an operator says otherwise (DESIGN 1.3).

use std::time::Duration;

use serde::Deserialize;

/// `retry:` of an exporter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Retry {
    /// Wait after the first refusal.
    pub initial: Duration,
    /// Longest wait, also for what the backend asks for.
    pub max: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Self { initial: Duration::from_millis(500), max: Duration::from_secs(30) }
    }
}

/// Doublings after which the wait no longer grows: 2^20 times the initial wait is past any sensible maximum.
const DOUBLINGS_MAX: u32 = 20;

/// The wait after this many refusals in a row (1 for the first).
///
/// Between half and the whole of the exponential step, so that lanes and hosts do not knock in unison.
pub fn delay(retry: Retry, refusals: u32, wish: Option<Duration>, jitter: f64) -> Duration {
    let doublings = refusals.saturating_sub(1).min(DOUBLINGS_MAX);
    let step = retry.initial.saturating_mul(1 << doublings).min(retry.max);
    let own = step.mul_f64(0.5 + jitter.clamp(0.0, 1.0) / 2.0);
    match wish {
        Some(wish) => wish.clamp(own, retry.max.max(own)),
        None => own,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RETRY: Retry = Retry { initial: Duration::from_secs(1), max: Duration::from_secs(30) };

    /// Scenario: refusals in a row, without jitter's luck.
    /// Guarantees: the wait doubles up to its maximum and stays there, whatever the count.
    #[test]
    fn the_wait_doubles_up_to_its_maximum() {
        let waits: Vec<u64> =
            [1, 2, 3, 6, 7, u32::MAX].iter().map(|n| delay(RETRY, *n, None, 1.0).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 30, 30, 30]);
    }

    /// Scenario: a backend asks for nothing, for five seconds, for a year.
    /// Guarantees: its wish counts, but neither below our own wait nor above our maximum.
    #[test]
    fn the_backends_wish_is_clamped() {
        assert_eq!(delay(RETRY, 1, Some(Duration::ZERO), 1.0).as_secs(), 1);
        assert_eq!(delay(RETRY, 1, Some(Duration::from_secs(5)), 1.0).as_secs(), 5);
        assert_eq!(delay(RETRY, 1, Some(Duration::from_secs(31_536_000)), 1.0).as_secs(), 30);
    }
}
