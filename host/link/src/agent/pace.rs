//! How large the next data part is: so large that what comes behind it need not wait long.

use std::time::{Duration, Instant};

use crate::limits::{PART_BYTES_FIRST, PART_BYTES_MAX, PART_BYTES_MIN, PART_TIME};

/// The weight of a new measurement, as one of so many.
const WEIGHT: u64 = 4;

/// The shortest time that is believed: below it a clock shows its own grain, not the network.
const GRAIN: Duration = Duration::from_micros(20);

/// The rate of a stream, as its writer feels it.
///
/// The writer asks for a part, keeps it until what it wrote before has left, and asks again. So the time between two
/// requests is what the part before the last took.
#[derive(Debug)]
pub(crate) struct Pace {
    /// Bytes a second.
    rate: Option<u64>,
    /// The last two parts, the older first, while they were taken one right after the other.
    parts: [Option<u64>; 2],
    asked: Option<Instant>,
}

// === impl Pace ===

impl Pace {
    pub(crate) fn new() -> Self {
        Self { rate: None, parts: [None, None], asked: None }
    }

    /// The writer has room for something.
    pub(crate) fn asked(&mut self, now: Instant) {
        if let ([Some(bytes), Some(_)], Some(before)) = (self.parts, self.asked) {
            let nanos = now.saturating_duration_since(before).max(GRAIN).as_nanos();
            let rate = u128::from(bytes).saturating_mul(1_000_000_000) / nanos;
            let rate = u64::try_from(rate).unwrap_or(u64::MAX);
            self.rate = Some(self.rate.map_or(rate, |old| old - old / WEIGHT + rate / WEIGHT));
        }
        self.asked = Some(now);
    }

    /// It got so many bytes of a body, or something else.
    pub(crate) fn took(&mut self, bytes: Option<u64>) {
        self.parts = [self.parts[1].filter(|_| bytes.is_some()), bytes];
    }

    /// Bytes of the next part.
    pub(crate) fn part_bytes(&self) -> usize {
        let Some(rate) = self.rate else { return PART_BYTES_FIRST };
        let bytes = u128::from(rate) * PART_TIME.as_millis() / 1_000;
        usize::try_from(bytes).unwrap_or(usize::MAX).clamp(PART_BYTES_MIN, PART_BYTES_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: a writer takes parts over networks of a kilobyte, a megabyte and a gigabyte a second, for a while each.
    /// Guarantees: a part is an eighth of a second of the network, within the bounds; whatever was before.
    #[test]
    fn a_part_is_an_eighth_of_a_second() {
        let mut now = Instant::now();
        let mut pace = Pace::new();
        for (rate, expected) in
            [(1_000_000, 125_000), (1_000, PART_BYTES_MIN), (1 << 30, PART_BYTES_MAX), (1_000_000, 125_000)]
        {
            for _ in 0..100 {
                pace.asked(now);
                let bytes = pace.part_bytes();
                pace.took(Some(bytes as u64));
                now += Duration::from_nanos(bytes as u64 * 1_000_000_000 / rate);
            }
            let part = pace.part_bytes();
            assert!(part.abs_diff(expected) <= expected / 8, "{part} at {rate} bytes a second");
        }
    }

    /// Scenario: parts that are taken with pauses between them, in which there was nothing to send.
    /// Guarantees: a pause is not taken for a slow network.
    #[test]
    fn a_pause_says_nothing_of_the_network() {
        let mut now = Instant::now();
        let mut pace = Pace::new();
        for _ in 0..20 {
            pace.asked(now);
            pace.took(Some(1_000));
            pace.asked(now);
            pace.took(None);
            now += Duration::from_secs(60);
        }
        assert_eq!(pace.part_bytes(), PART_BYTES_FIRST);
    }
}
