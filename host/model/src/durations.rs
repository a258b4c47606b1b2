//! How long things took, counted by size.

use std::time::Duration;

use crate::Counter;

/// Upper bounds of the buckets, in microseconds.
///
/// Encoding a batch takes some hundred microseconds, a backend nearby a few milliseconds, one far away some hundred, and
/// the deadlines are 5 s (`cpu_deadline`) and 60 s (`call_deadline`): three bounds for each decade between them.
pub const DURATION_BOUNDS_MICROS: [u64; 18] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    2_500_000, 5_000_000, 10_000_000, 30_000_000, 60_000_000,
];

/// A histogram that many threads add to at once without waiting for each other. Cloning shares it.
#[derive(Debug, Clone, Default)]
pub struct Durations {
    /// One for each bound, and one for what is above the last.
    buckets: [Counter; DURATION_BOUNDS_MICROS.len() + 1],
    nanoseconds: Counter,
}

impl Durations {
    /// Counts one.
    pub fn add(&self, took: Duration) {
        let bucket = DURATION_BOUNDS_MICROS.iter().position(|bound| took <= Duration::from_micros(*bound));
        self.buckets[bucket.unwrap_or(DURATION_BOUNDS_MICROS.len())].add(1);
        self.nanoseconds.add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
    }

    /// How many were at most as long as each bound and longer than the one before; the last has no bound. Read while
    /// others add, so their sum is the only count that goes with them.
    pub fn buckets(&self) -> impl Iterator<Item = (Option<Duration>, u64)> {
        let bounds = DURATION_BOUNDS_MICROS.iter().map(|micros| Some(Duration::from_micros(*micros)));
        bounds.chain([None]).zip(self.buckets.iter().map(Counter::get))
    }

    /// All together.
    pub fn sum(&self) -> Duration {
        Duration::from_nanos(self.nanoseconds.get())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: things as long as a bound, a little longer, and longer than the last.
    /// Guarantees: a bound belongs to its own bucket, nothing is lost above the last, the sum is exact.
    #[test]
    fn a_duration_is_counted_where_it_belongs() {
        let durations = Durations::default();
        for micros in [0, 100, 101, 60_000_000, 60_000_001, 600_000_000] {
            durations.add(Duration::from_micros(micros));
        }
        let buckets: Vec<u64> = durations.buckets().map(|(_, count)| count).collect();
        assert_eq!((buckets[0], buckets[1], buckets[17], buckets[18]), (2, 1, 1, 2));
        assert_eq!(buckets.iter().sum::<u64>(), 6);
        assert_eq!(durations.sum(), Duration::from_micros(720_000_202));
        assert!(DURATION_BOUNDS_MICROS.is_sorted());
    }
}
