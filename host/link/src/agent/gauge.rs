//! What waits in the agent's logs: facts for a Hello, numbers for a heartbeat.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use weir_model::Seq;
use weir_proto::weir::link::v1::LogFacts;
use weir_queue::Queue;

use crate::agent::folder::{Life, LogEnd};
use crate::names::{Incarnation, to_wire};

/// Samples of one log's end: at one each five seconds five minutes at full grain; older ones are thinned out.
const SAMPLES_MAX: usize = 64;

/// A log whose records go over the link.
#[derive(Clone)]
pub struct LogHandle {
    /// Its name at the collector: the pipeline's.
    pub name: String,
    /// The log.
    pub queue: Arc<dyn Queue>,
    /// Whose cursor in it is meant: the exporter's id.
    pub exporter: String,
}

/// One log, and what is remembered of it.
pub(crate) struct Gauge {
    pub(crate) log: LogHandle,
    /// The first place that a record could get in this epoch.
    epoch_first: Seq,
    ages: Ages,
}

/// What waits for the collector.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Waiting {
    pub(crate) records: u64,
    pub(crate) bytes: u64,
    pub(crate) oldest: Duration,
}

/// Where a log ended, and when: from this the age of a record, which has no time of its own.
#[derive(Debug)]
struct Ages {
    began: Instant,
    /// With rising times and ends.
    samples: VecDeque<(Instant, Seq)>,
}

impl std::fmt::Debug for LogHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogHandle")
            .field("name", &self.name)
            .field("exporter", &self.exporter)
            .finish_non_exhaustive()
    }
}

// === impl Gauge ===

impl Gauge {
    /// A log as it is at the agent's start, before anything may be appended to it that is sent in this epoch.
    pub(crate) fn new(log: LogHandle, now: Instant) -> Self {
        let epoch_first = log.queue.next();
        Self { log, epoch_first, ages: Ages { began: now, samples: VecDeque::new() } }
    }

    /// A new life has begun: all that is not settled is sent in its first epoch, whatever place it has.
    pub(crate) fn renewed(&mut self) {
        self.epoch_first = Seq(1);
    }

    /// Where the log ends at the agent's start.
    pub(crate) fn end(&self) -> LogEnd {
        LogEnd { log: self.log.name.clone(), numbering: self.log.queue.incarnation(), next: self.epoch_first }
    }

    /// What the log's records are numbered by.
    pub(crate) fn numbering(&self, incarnation: Incarnation) -> u128 {
        incarnation.numbering(self.log.queue.incarnation())
    }

    /// What a Hello says.
    ///
    /// `epoch_first` is for the collector's third rule: a mark of an older epoch at or above it shows that another copy of the
    /// folder has used the numbering. Records of earlier epochs that were not acknowledged are sent again in this one: their
    /// places are below `epoch_first`, so a mark that an earlier epoch left is below it too, and the rule is silent.
    pub(crate) fn facts(&self, life: &Life) -> LogFacts {
        let numbering = self.numbering(life.incarnation);
        // The cursor before the end: the end only grows, so `settled` is never above `next`.
        let settled = self.settled().unwrap_or(Seq(0));
        LogFacts {
            name: self.log.name.clone(),
            incarnation: to_wire(numbering),
            next: self.log.queue.next().0,
            epoch_first: self.epoch_first.0,
            settled: life.settled(&self.log.name, numbering, settled).0,
            firsts: life.firsts(&self.log.name),
        }
    }

    /// The place below which everything is settled; none where the log does not know the cursor. What was settled as rejected is a
    /// dead letter on disk by then.
    pub(crate) fn settled(&self) -> Option<Seq> {
        let status = self.log.queue.status();
        let cursor = status.cursors.iter().find(|cursor| cursor.exporter == self.log.exporter)?;
        Some(cursor.oldest.unwrap_or(status.newest.next()))
    }

    /// What waits in it.
    pub(crate) fn waiting(&self, now: Instant) -> Waiting {
        let status = self.log.queue.status();
        let cursor = status.cursors.into_iter().find(|cursor| cursor.exporter == self.log.exporter);
        cursor.map_or(Waiting::default(), |cursor| Waiting {
            records: cursor.pending_records,
            bytes: cursor.pending_bytes,
            oldest: cursor.oldest.map_or(Duration::ZERO, |oldest| self.ages.age(oldest, now)),
        })
    }

    /// Notes where it ends now. To be called each few seconds.
    pub(crate) fn sample(&mut self, now: Instant) {
        self.ages.sample(now, self.log.queue.next());
    }
}

// === impl Waiting ===

impl Waiting {
    /// Of two logs together.
    pub(crate) fn and(self, other: Self) -> Self {
        Self {
            records: self.records + other.records,
            bytes: self.bytes + other.bytes,
            oldest: self.oldest.max(other.oldest),
        }
    }
}

// === impl Ages ===

impl Ages {
    fn sample(&mut self, now: Instant, next: Seq) {
        if self.samples.back().is_some_and(|(_, last)| *last == next) {
            // Nothing came: the newest such time says most.
            self.samples.pop_back();
        }
        self.samples.push_back((now, next));
        if self.samples.len() > SAMPLES_MAX {
            let mut number = 0_usize;
            let newest = self.samples.len();
            self.samples.retain(|_| {
                number += 1;
                number == newest || number.is_multiple_of(2)
            });
        }
    }

    /// How old a record is at most: it came after the last moment at which the log ended before it.
    fn age(&self, seq: Seq, now: Instant) -> Duration {
        let before = self.samples.iter().rev().find(|(_, next)| *next <= seq);
        now.saturating_duration_since(before.map_or(self.began, |(at, _)| *at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: a record a second for an hour, looked at each five seconds; nobody takes any.
    /// Guarantees: the age of a new record is known to five seconds, that of an old one to a tenth, never too low; few samples
    /// are kept.
    #[test]
    fn the_age_of_a_record_is_known_from_where_its_log_ended() {
        let began = Instant::now();
        let mut ages = Ages { began, samples: VecDeque::new() };
        for second in (0..3_600).step_by(5) {
            ages.sample(began + Duration::from_secs(second), Seq(second + 1));
        }
        assert!(ages.samples.len() <= SAMPLES_MAX);
        let now = began + Duration::from_secs(3_600);
        for (age, slack) in [(3, 5), (60, 20), (3_000, 1_200)] {
            let found = ages.age(Seq(3_600 - age + 1), now).as_secs();
            assert!((age..=age + slack).contains(&found), "{found} for {age}");
        }
    }
}
