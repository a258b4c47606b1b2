//! What one configured id counts. Only the daemon knows how these are named on `/metrics`.

use std::time::Duration;

use weir_model::durations::Durations;
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
