//! What one configured id counts. Only the daemon knows how these are named on `/metrics`.

use std::time::Duration;

use weir_model::{Counter, Outcome};

use crate::end::EndKind;

/// Counters of one configured id, the same for every plugin. Cloning shares them.
#[derive(Debug, Clone, Default)]
pub struct PluginCounts {
    /// Calls into the guest that have returned or ended.
    pub calls: Counter,
    /// How long those calls took, waiting in the host included.
    pub durations: Durations,
    /// Instances made.
    pub instances: Counter,
    /// Pushes and items by outcome.
    pub outcomes: ByOutcome,
    /// Instances that ended in a call, by kind.
    pub ends: ByEnd,
    /// The most memory that one instance ever had, bytes.
    pub memory_peak_bytes: Counter,
    /// HTTP requests sent for the guest.
    pub requests: Counter,
    /// Bytes of their bodies.
    pub egress_bytes: Counter,
    /// Requests that were denied: not granted by name or by address.
    pub denials: Counter,
    /// Log lines that were over the rate and not written.
    pub log_lines_suppressed: Counter,
    /// Meter additions that had no room (too many counters or label sets, bad names).
    pub meter_suppressed: Counter,
    /// Calls that computed for so long that they left the threads of the doors, or never began there.
    pub moved: Counter,
    /// Instances that were dropped between calls, by reason.
    pub retired: ByRetirement,
    /// Times that it was kept from work, each further time after a failed try counted.
    pub quarantines: Counter,
    /// 1 while it is kept from work, else 0.
    pub quarantined: Counter,
}

impl PluginCounts {
    pub(crate) fn called(&self, took: Duration) {
        self.calls.add(1);
        self.durations.add(took);
    }

    /// Calls that were answered, as far as can be told while others count.
    pub(crate) fn answered(&self) -> u64 {
        self.calls.get().saturating_sub(self.ends.sum())
    }
}

/// Upper bounds of the histogram of calls, in microseconds.
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
    pub(crate) fn add(&self, took: Duration) {
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

/// Pushes and items for each kind of [`Outcome`].
#[derive(Debug, Clone, Default)]
pub struct ByOutcome([(Counter, Counter); OUTCOMES.len()]);

/// The label's values, in the order of [`ByOutcome`].
pub const OUTCOMES: [&str; 7] =
    ["accepted", "partial", "retryable", "too_large", "stopped", "permanent", "ended"];

impl ByOutcome {
    pub(crate) fn count(&self, outcome: &Outcome, items: u32) {
        let index = match outcome {
            Outcome::Accepted => 0,
            Outcome::Partial { .. } => 1,
            Outcome::Retryable { .. } => 2,
            Outcome::TooLarge => 3,
            Outcome::Stopped(_) => 4,
            Outcome::Permanent(_) => 5,
            Outcome::Ended { .. } => 6,
        };
        self.0[index].0.add(1);
        self.0[index].1.add(u64::from(items));
    }

    /// Name, pushes, items of each outcome.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &Counter, &Counter)> {
        OUTCOMES.iter().zip(&self.0).map(|(name, (pushes, items))| (*name, pushes, items))
    }
}

/// Why an instance was dropped although it had not ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Retirement {
    /// It has made as many calls as `pool.calls_max` allows.
    Calls,
    /// It is older than `pool.age_max`.
    Age,
    /// It has more than half of the memory that it may have, or the process has too little left.
    Memory,
    /// It had nothing to do for a minute.
    Idle,
}

impl Retirement {
    /// Every reason.
    pub const ALL: [Self; 4] = [Self::Calls, Self::Age, Self::Memory, Self::Idle];

    /// The label's value.
    pub fn name(self) -> &'static str {
        match self {
            Self::Calls => "calls",
            Self::Age => "age",
            Self::Memory => "memory",
            Self::Idle => "idle",
        }
    }
}

/// Retired instances for each [`Retirement`].
#[derive(Debug, Clone, Default)]
pub struct ByRetirement([Counter; Retirement::ALL.len()]);

impl ByRetirement {
    /// The counter of one reason.
    pub fn of(&self, why: Retirement) -> &Counter {
        &self.0[why as usize]
    }
}

/// Ends of instances for each [`EndKind`].
#[derive(Debug, Clone, Default)]
pub struct ByEnd([Counter; EndKind::ALL.len()]);

impl ByEnd {
    /// The counter of one kind.
    pub fn of(&self, kind: EndKind) -> &Counter {
        &self.0[kind as usize]
    }

    fn sum(&self) -> u64 {
        self.0.iter().map(Counter::get).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: calls as long as a bound, a little longer, and longer than the last.
    /// Guarantees: a bound belongs to its own bucket, nothing is lost above the last, the sum is exact.
    #[test]
    fn a_call_is_counted_where_it_belongs() {
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
