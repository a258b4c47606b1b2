//! Histograms that are kept, and deltas that become cumulative.
//!
//! ```text
//! held       ──────────┤ time
//! continues            ├────────┤   start == time of what is held, or unknown ──▶ added
//! gap                       ├───┤   start later                               ──▶ begins anew: a reset
//! overlap          ├────────┤       start earlier, or told before             ──▶ not taken
//! ```
//!
//! Cumulative points replace what is held; an older one is passed over, and a later start is a reset that shows by itself.

use std::rc::Rc;

use weir_guest::wire::otlp::{BucketsView, ExponentialPointView, HistogramPointView};

use crate::series::{Reason, reason};

/// Buckets of a histogram: its lines on a page, and its room in memory. SDKs have 16; hand-made ones some dozens.
pub const BUCKETS_MAX: usize = 1024;

/// Buckets of one side of an exponential histogram; SDKs have 160. More are merged.
pub const EXPONENTIAL_BUCKETS_MAX: usize = 320;

/// The finest scale that is kept: SDKs have none finer, and bounds of a finer one are hardly different doubles.
const SCALE_MAX: i32 = 20;

/// What becomes of a point beside what is held of its series.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// It takes the place of what is held.
    Replace,
    /// It is added to what is held.
    Add,
    /// What is held is newer.
    Old,
    /// Some of it has been told before.
    Overlap,
}

/// What becomes of a point; `held` is the time of what is held. Times are in nanoseconds, 0 is an unknown start.
#[must_use]
pub const fn turn(is_delta: bool, held: u64, start: u64, time: u64) -> Turn {
    if !is_delta {
        if time < held { Turn::Old } else { Turn::Replace }
    } else if time <= held || (start != 0 && start < held) {
        Turn::Overlap
    } else if start > held {
        Turn::Replace
    } else {
        Turn::Add
    }
}

// === bounds ===

/// A histogram with bounds.
#[derive(Clone, Debug, PartialEq)]
pub struct Explicit {
    /// Rising; shared among series that have the same.
    pub bounds: Rc<[f64]>,
    /// Values of each bucket, one more than bounds.
    pub counts: Box<[u64]>,
    /// All values; as many as are in the buckets.
    pub count: u64,
    /// Sum of all values, where it is known.
    pub sum: Option<f64>,
}

impl Explicit {
    /// Reads a point. `like` are bounds that it may have, so as to share them.
    ///
    /// # Errors
    /// [`reason::MALFORMED`] for bounds that do not rise and counts that do not fit, [`reason::SIZE`].
    pub fn read(view: &HistogramPointView<'_>, like: Option<&Rc<[f64]>>) -> Result<Self, Reason> {
        let bounds = || view.explicit_bounds();
        let mut counts: Vec<u64> = Vec::new();
        for count in view.bucket_counts() {
            if counts.len() > BUCKETS_MAX {
                return Err(reason::SIZE);
            }
            counts.push(count);
        }
        let bounds: Rc<[f64]> = match like.filter(|like| like.iter().copied().eq(bounds())) {
            Some(like) => Rc::clone(like),
            None => bounds().take(BUCKETS_MAX + 1).collect::<Vec<f64>>().into(),
        };
        if bounds.len() > BUCKETS_MAX {
            return Err(reason::SIZE);
        }
        // A histogram without buckets is fine: it has a count, and perhaps a sum.
        if counts.is_empty() && bounds.is_empty() {
            counts.push(view.count);
        }
        let rises =
            bounds.windows(2).all(|pair| pair[0] < pair[1]) && !bounds.iter().any(|bound| bound.is_nan());
        let total = counts.iter().try_fold(0_u64, |total, count| total.checked_add(*count));
        if counts.len() != bounds.len() + 1 || !rises || total != Some(view.count) {
            return Err(reason::MALFORMED);
        }
        Ok(Self { bounds, counts: counts.into(), count: view.count, sum: view.sum })
    }

    /// Adds what came since; says whether it could: only histograms with the same bounds go together.
    pub fn add(&mut self, more: &Self) -> bool {
        if self.bounds != more.bounds {
            return false;
        }
        for (count, more) in self.counts.iter_mut().zip(&more.counts) {
            *count = count.saturating_add(*more);
        }
        // Saturated or not, the count is that of the buckets.
        self.count = self.counts.iter().fold(0, |total, count| total.saturating_add(*count));
        self.sum = self.sum.zip(more.sum).map(|(sum, more)| sum + more);
        true
    }
}

// === exponents ===

/// A histogram whose bounds are powers of 2^(2^-scale).
#[derive(Clone, Debug, PartialEq)]
pub struct Exponential {
    /// At most 20.
    pub scale: i32,
    /// Values not farther from zero than the threshold.
    pub zero_count: u64,
    /// Not negative.
    pub zero_threshold: f64,
    /// Values above.
    pub positive: Dense,
    /// Values below.
    pub negative: Dense,
    /// All values; as many as are in the buckets.
    pub count: u64,
    /// Sum of all values, where it is known.
    pub sum: Option<f64>,
}

/// Buckets that follow each other. Bucket `i` is from base^i, exclusive, to base^(i+1), inclusive.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Dense {
    /// Index of the first.
    pub offset: i64,
    /// At most [`EXPONENTIAL_BUCKETS_MAX`].
    pub counts: Vec<u64>,
}

impl Exponential {
    /// Reads a point. However many buckets it claims, what is kept is bounded: two become one until it fits.
    ///
    /// # Errors
    /// [`reason::MALFORMED`] for counts that do not fit, or a threshold that is none.
    pub fn read(view: &ExponentialPointView<'_>) -> Result<Self, Reason> {
        let ranges = [Range::of(&view.positive), Range::of(&view.negative)];
        let mut shift = shift_to(view.scale, SCALE_MAX);
        while ranges.iter().any(|range| range.shifted(shift).width() > EXPONENTIAL_BUCKETS_MAX as i64) {
            shift += 1;
        }
        let dense = |view: &BucketsView<'_>, range: &Range| {
            let mut dense = Dense::new(range.shifted(shift));
            for (at, count) in view.counts().enumerate().filter(|(_, count)| *count > 0) {
                dense.put(down(i64::from(view.offset) + at as i64, shift), count)?;
            }
            Ok(dense)
        };
        let [positive, negative] = &ranges;
        let histogram = Self {
            scale: i32::try_from(i64::from(view.scale) - i64::from(shift)).map_err(|_| reason::MALFORMED)?,
            zero_count: view.zero_count,
            zero_threshold: view.zero_threshold,
            positive: dense(&view.positive, positive)?,
            negative: dense(&view.negative, negative)?,
            count: view.count,
            sum: view.sum,
        };
        // Negative ones and NaN are no thresholds.
        let is_fit = histogram.zero_threshold >= 0.0 && histogram.zero_threshold.is_finite();
        if is_fit && histogram.total() == Some(view.count) { Ok(histogram) } else { Err(reason::MALFORMED) }
    }

    fn total(&self) -> Option<u64> {
        let counts = self.positive.counts.iter().chain(&self.negative.counts);
        counts.chain([&self.zero_count]).try_fold(0_u64, |total, count| total.checked_add(*count))
    }

    /// Adds what came since. Of two scales the coarser is kept, of two thresholds the larger.
    pub fn add(&mut self, more: &Self) {
        let threshold = self.zero_threshold.max(more.zero_threshold);
        let scale = self.scale.min(more.scale);
        let shifts = [shift_to(self.scale, scale), shift_to(more.scale, scale)];
        let range =
            |own: &Dense, more: &Dense| own.range().shifted(shifts[0]).with(more.range().shifted(shifts[1]));
        let ranges = [range(&self.positive, &more.positive), range(&self.negative, &more.negative)];
        let mut coarser = 0;
        while ranges.iter().any(|range| range.shifted(coarser).width() > EXPONENTIAL_BUCKETS_MAX as i64) {
            coarser += 1;
        }
        let join = |own: &Dense, more: &Dense, range: &Range| {
            let mut dense = Dense::new(range.shifted(coarser));
            for (from, shift) in [(own, shifts[0]), (more, shifts[1])] {
                for (at, count) in from.counts.iter().enumerate() {
                    dense.put_saturating(down(down(from.offset + at as i64, shift), coarser), *count);
                }
            }
            dense
        };
        self.positive = join(&self.positive, &more.positive, &ranges[0]);
        self.negative = join(&self.negative, &more.negative, &ranges[1]);
        self.scale = scale.saturating_sub(coarser as i32);
        self.zero_count = self.zero_count.saturating_add(more.zero_count);
        self.zero_threshold = threshold;
        let scale = self.scale;
        for side in [&mut self.positive, &mut self.negative] {
            self.zero_count = self.zero_count.saturating_add(side.cut_below(scale, threshold));
        }
        self.count = self.total().unwrap_or(u64::MAX);
        self.sum = self.sum.zip(more.sum).map(|(sum, more)| sum + more);
    }

    /// The same values in buckets with bounds: those of its own buckets. Bounds that no double tells apart are one; what lies
    /// beyond all doubles is above the last.
    #[must_use]
    pub fn to_explicit(&self) -> Explicit {
        let mut buckets: Vec<(f64, u64)> = Vec::new();
        let mut put = |bound: f64, count: u64| match buckets.last_mut() {
            Some((last, total)) if *last >= bound => *total = total.saturating_add(count),
            _ => buckets.push((bound, count)),
        };
        let negative = &self.negative;
        for (at, count) in negative.counts.iter().enumerate().rev() {
            // Of values below zero the bound that is nearer to zero is the upper one.
            put(-bound(self.scale, negative.offset + at as i64), *count);
        }
        let has_zero = self.zero_count > 0 || !negative.counts.is_empty();
        if has_zero {
            put(self.zero_threshold, self.zero_count);
        }
        let positive = &self.positive;
        if let (false, Some(_)) = (has_zero, positive.counts.first()) {
            put(bound(self.scale, positive.offset), 0);
        }
        for (at, count) in positive.counts.iter().enumerate() {
            put(bound(self.scale, positive.offset + at as i64 + 1), *count);
        }
        let is_bound = |(bound, _): &&(f64, u64)| bound.is_finite();
        let bounds: Vec<f64> = buckets.iter().filter(is_bound).map(|(bound, _)| *bound).collect();
        let mut counts: Vec<u64> = buckets.iter().filter(is_bound).map(|(_, count)| *count).collect();
        // What lies below all doubles is at or below the first bound that is one.
        let below = buckets.iter().filter(|(bound, _)| *bound == f64::NEG_INFINITY).map(|(_, count)| *count);
        if let (Some(first), Some(below)) = (counts.first_mut(), below.reduce(u64::saturating_add)) {
            *first = first.saturating_add(below);
        }
        let within = counts.iter().fold(0_u64, |total, count| total.saturating_add(*count));
        counts.push(self.count.saturating_sub(within));
        Explicit { bounds: bounds.into(), counts: counts.into(), count: self.count, sum: self.sum }
    }
}

/// Steps from a scale to a coarser one; none where it is not coarser.
const fn shift_to(scale: i32, coarser: i32) -> u32 {
    if scale > coarser { scale.abs_diff(coarser) } else { 0 }
}

/// The index of the bucket of a coarser scale in which a bucket lies.
fn down(index: i64, shift: u32) -> i64 {
    index >> shift.min(i64::BITS - 1)
}

/// base^index, which is 0 or infinite where no double is so small or large.
fn bound(scale: i32, index: i64) -> f64 {
    if index == 0 {
        return 1.0;
    }
    // Scales below are as coarse as it gets: the first bound beside 1 is beyond all doubles.
    let scale = scale.max(-11);
    (index as f64 * (-f64::from(scale)).exp2()).exp2()
}

// === buckets ===

/// Indexes from the first to the last; none where the last is smaller.
#[derive(Clone, Copy, Debug)]
struct Range {
    first: i64,
    last: i64,
}

impl Range {
    const NONE: Self = Self { first: 0, last: -1 };

    /// Of the buckets that have something.
    fn of(view: &BucketsView<'_>) -> Self {
        let mut range = Self::NONE;
        for (at, _) in view.counts().enumerate().filter(|(_, count)| *count > 0) {
            let index = i64::from(view.offset) + at as i64;
            range = Self { first: if range.is_none() { index } else { range.first }, last: index };
        }
        range
    }

    const fn is_none(self) -> bool {
        self.last < self.first
    }

    const fn width(self) -> i64 {
        self.last - self.first + 1
    }

    fn shifted(self, shift: u32) -> Self {
        if self.is_none() {
            self
        } else {
            Self { first: down(self.first, shift), last: down(self.last, shift) }
        }
    }

    fn with(self, other: Self) -> Self {
        match (self.is_none(), other.is_none()) {
            (true, _) => other,
            (_, true) => self,
            _ => Self { first: self.first.min(other.first), last: self.last.max(other.last) },
        }
    }
}

impl Dense {
    /// Empty buckets; the range was bounded before.
    fn new(range: Range) -> Self {
        let width = usize::try_from(range.width()).unwrap_or(0);
        Self { offset: if range.is_none() { 0 } else { range.first }, counts: vec![0; width] }
    }

    fn range(&self) -> Range {
        if self.counts.is_empty() {
            return Range::NONE;
        }
        Range { first: self.offset, last: self.offset + self.counts.len() as i64 - 1 }
    }

    fn slot(&mut self, index: i64) -> Option<&mut u64> {
        let at = usize::try_from(index.checked_sub(self.offset)?).ok()?;
        self.counts.get_mut(at)
    }

    fn put(&mut self, index: i64, count: u64) -> Result<(), Reason> {
        let slot = self.slot(index).ok_or(reason::MALFORMED)?;
        *slot = slot.checked_add(count).ok_or(reason::MALFORMED)?;
        Ok(())
    }

    fn put_saturating(&mut self, index: i64, count: u64) {
        if let Some(slot) = self.slot(index) {
            *slot = slot.saturating_add(count);
        }
    }

    /// Takes out the buckets that lie within a threshold of zero; what they counted.
    fn cut_below(&mut self, scale: i32, threshold: f64) -> u64 {
        let offset = self.offset;
        let within = |at: usize| bound(scale, offset + at as i64 + 1) <= threshold;
        let cut = (0..self.counts.len()).take_while(|at| within(*at)).count();
        self.offset += cut as i64;
        self.counts.drain(..cut).fold(0, u64::saturating_add)
    }
}

#[cfg(test)]
mod tests;
