//! A bucket of things that may happen: a burst, then one for each interval.

use std::time::{Duration, Instant};

/// So many at once, then one for each interval.
pub(crate) struct Bucket {
    burst: u32,
    interval: Duration,
    left: u32,
    since: Instant,
}

impl Bucket {
    pub(crate) fn new(burst: u32, interval: Duration) -> Self {
        Self { burst, interval, left: burst, since: Instant::now() }
    }

    /// Takes one; `false` where none is left.
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        let earned = now.saturating_duration_since(self.since).as_nanos() / self.interval.as_nanos().max(1);
        let earned = u32::try_from(earned).unwrap_or(u32::MAX);
        if earned > 0 {
            self.left = self.left.saturating_add(earned).min(self.burst);
            self.since = now;
        }
        match self.left.checked_sub(1) {
            Some(left) => {
                self.left = left;
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: a flood, then rests of half an interval and of one.
    /// Guarantees: a burst passes, then one for each interval.
    #[test]
    fn a_flood_is_rated() {
        let interval = Duration::from_millis(100);
        let mut bucket = Bucket::new(10, interval);
        let start = bucket.since;
        assert_eq!((0..1000).filter(|_| bucket.take(start)).count(), 10);
        assert!(!bucket.take(start + interval / 2));
        assert!(bucket.take(start + interval));
        assert!(!bucket.take(start + interval));
    }
}
