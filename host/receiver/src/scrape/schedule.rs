//! When each target is due: spread over its interval by its hash, so that it has the same moment after a restart.
//!
//! Turns follow one another on the clock that only goes forward; the wall clock says where the first one lies.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use tokio::time::Instant;

/// One turn of a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Due {
    pub(super) at: Instant,
    /// The target's slot.
    pub(super) slot: usize,
    /// What the slot's number was when this was planned: a turn of whoever had the slot before is no turn.
    pub(super) number: u64,
}

/// Turns to come, the next first: one for each target.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    heap: BinaryHeap<Reverse<Due>>,
}

impl Schedule {
    pub(super) fn plan(&mut self, due: Due) {
        self.heap.push(Reverse(due));
    }

    /// When the next turn is.
    pub(super) fn next_at(&self) -> Option<Instant> {
        self.heap.peek().map(|Reverse(due)| due.at)
    }

    /// The next turn, where it is due.
    pub(super) fn take(&mut self, now: Instant) -> Option<Due> {
        self.next_at().filter(|at| *at <= now)?;
        self.heap.pop().map(|Reverse(due)| due)
    }
}

/// How long after `unix_nanos` a target with this hash has its first turn: less than an interval.
pub(super) fn first_turn(unix_nanos: u64, interval: Duration, hash: u64) -> Duration {
    let interval = u64::try_from(interval.as_nanos()).unwrap_or(u64::MAX).max(1);
    let (place, now) = (hash % interval, unix_nanos % interval);
    let wait = if place >= now { place - now } else { interval - now + place };
    Duration::from_nanos(wait)
}

/// The turn after the one at `at`, and how many before it have been missed by now.
pub(super) fn next_turn(at: Instant, interval: Duration, now: Instant) -> (Instant, u64) {
    let next = at + interval;
    if next > now {
        return (next, 0);
    }
    let late = now.saturating_duration_since(at).as_nanos();
    let missed = u64::try_from(late / interval.as_nanos().max(1)).unwrap_or(u64::MAX);
    let turns = u32::try_from(missed).unwrap_or(u32::MAX).saturating_add(1);
    (at + interval.saturating_mul(turns), missed)
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(15);

    /// Scenario: targets with different hashes, seen at different times of the day.
    /// Guarantees: each has its own place within the interval, and has it whenever one looks.
    #[test]
    fn a_place_is_the_hash_and_not_the_start() {
        let nanos = INTERVAL.as_nanos() as u64;
        for hash in [0, 1, nanos - 1, nanos, 12_345_678_901_234, u64::MAX] {
            for start in [0, 1, nanos - 1, 1_700_000_000_000_000_000] {
                let first = first_turn(start, INTERVAL, hash);
                assert!(first < INTERVAL, "{first:?}");
                assert_eq!((start + first.as_nanos() as u64) % nanos, hash % nanos);
            }
        }
    }

    /// Scenario: a turn is looked at in time, a little late, and after the machine has slept for an hour.
    /// Guarantees: turns stay on their grid, the next lies ahead, and the missed ones are counted.
    #[tokio::test(start_paused = true)]
    async fn missed_turns_are_counted_and_not_made_up_for() {
        let at = Instant::now();
        assert_eq!(next_turn(at, INTERVAL, at), (at + INTERVAL, 0));
        assert_eq!(next_turn(at, INTERVAL, at + INTERVAL / 2), (at + INTERVAL, 0));
        assert_eq!(next_turn(at, INTERVAL, at + INTERVAL), (at + 2 * INTERVAL, 1));
        let hour = Duration::from_secs(3600);
        assert_eq!(next_turn(at, INTERVAL, at + hour), (at + hour + INTERVAL, 240));
    }

    /// Scenario: turns are planned out of order.
    /// Guarantees: they come in order, and none before it is due.
    #[tokio::test(start_paused = true)]
    async fn turns_come_in_order() {
        let start = Instant::now();
        let mut schedule = Schedule::default();
        for (slot, seconds) in [(0, 3), (1, 1), (2, 2)] {
            schedule.plan(Due { at: start + Duration::from_secs(seconds), slot, number: 0 });
        }
        assert_eq!(schedule.take(start), None);
        let now = start + Duration::from_secs(2);
        assert_eq!(schedule.take(now).map(|due| due.slot), Some(1));
        assert_eq!(schedule.take(now).map(|due| due.slot), Some(2));
        assert_eq!(schedule.take(now), None);
        assert_eq!(schedule.next_at(), Some(start + Duration::from_secs(3)));
    }
}
