//! Native histograms: buckets whose bounds follow from a schema.
//!
//! ```text
//! span    offset (from the end of the span before; of the first one from 0), length
//! delta   each bucket counts so much more than the one before
//! index   Prometheus' bucket i ends at base^i, OTLP's begins there: OTLP's offset is one less
//! ```

use weir_guest::wire::Encoder;

/// The schema of buckets with bounds of their own.
pub const CUSTOM_BUCKETS: i32 = -53;

/// Schemas whose bounds are powers (`prometheus/model/histogram`).
pub const SCHEMAS: std::ops::RangeInclusive<i32> = -4..=8;

/// Buckets of one side that have a count. Prometheus' clients write at most 160, OpenTelemetry's as many; what a span claims
/// must not cost memory.
pub const POPULATED_MAX: usize = 16_384;

/// Buckets of one side from the first to the last, which OTLP has all, the empty ones too: 128 KiB where each takes a byte or
/// more.
pub const DENSE_MAX: i64 = 16_384;

/// A native histogram of whole numbers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Native {
    /// -4 to 8, or [`CUSTOM_BUCKETS`].
    pub schema: i32,
    /// Values no further from zero than this are in the zero bucket.
    pub zero_threshold: f64,
    /// Values in the zero bucket.
    pub zero_count: u64,
    /// All values, as the target says.
    pub count: u64,
    /// Their sum, where the target says it.
    pub sum: Option<f64>,
    /// Indexes with their counts, rising.
    pub negative: Vec<(i32, u64)>,
    /// Indexes with their counts, rising.
    pub positive: Vec<(i32, u64)>,
    /// Upper bounds of the buckets, where the schema is [`CUSTOM_BUCKETS`].
    pub bounds: Vec<f64>,
    /// Its counts are floats, which OTLP has not; they are not kept.
    pub is_float: bool,
}

/// Buckets with their indexes, of spans `(offset, length)` and of what each bucket counts more than the one before.
///
/// # Errors
/// What does not fit: spans and deltas of other numbers, a count below zero, more than [`POPULATED_MAX`].
pub fn buckets(
    spans: impl IntoIterator<Item = (i32, u32)>,
    deltas: impl IntoIterator<Item = i64>,
) -> Result<Vec<(i32, u64)>, &'static str> {
    let mut deltas = deltas.into_iter();
    let mut buckets: Vec<(i32, u64)> = Vec::new();
    let (mut index, mut count) = (0_i32, 0_i64);
    for (place, (offset, length)) in spans.into_iter().enumerate() {
        if place > 0 && offset < 0 {
            return Err("a span before the one before it");
        }
        index = index.checked_add(offset).ok_or("a span beyond all indexes")?;
        // Each step takes a delta that is there, so that a claimed length costs nothing.
        for _ in 0..length {
            let delta = deltas.next().ok_or("a span over more buckets than there are")?;
            count = count.checked_add(delta).ok_or("a bucket that counts too much")?;
            let own = u64::try_from(count).map_err(|_| "a bucket that counts less than nothing")?;
            if buckets.len() == POPULATED_MAX {
                return Err("a native histogram with too many buckets");
            }
            buckets.push((index, own));
            index = index.checked_add(1).ok_or("a span beyond all indexes")?;
        }
    }
    match deltas.next() {
        None => Ok(buckets),
        Some(_) => Err("more buckets than the spans are over"),
    }
}

impl Native {
    /// Halves the resolution until no more than `limit` buckets have a count and each is at least `factor` times as wide as the
    /// one before; schemas end at -4. Says whether that was possible.
    pub fn coarsen(&mut self, limit: Option<usize>, factor: f64) -> bool {
        if !SCHEMAS.contains(&self.schema) {
            return limit.is_none_or(|limit| self.positive.len() <= limit);
        }
        loop {
            let is_small = limit.is_none_or(|limit| self.positive.len() + self.negative.len() <= limit);
            let growth = f64::exp2(f64::exp2(-f64::from(self.schema)));
            if is_small && growth >= factor {
                return true;
            }
            if self.schema <= *SCHEMAS.start() {
                return is_small;
            }
            self.schema -= 1;
            self.negative = halved(&self.negative);
            self.positive = halved(&self.positive);
        }
    }

    /// Whether OTLP can have it as an exponential histogram: whole counts, a schema whose bounds are powers, and on neither side more
    /// than 16,384 buckets from the first to the last.
    #[must_use]
    pub fn is_exponential(&self) -> bool {
        let is_near = |buckets: &[(i32, u64)]| match finite(buckets, self.schema) {
            [(first, _), .., (last, _)] => i64::from(*last) - i64::from(*first) < DENSE_MAX,
            [] | [_] => true,
        };
        !self.is_float && SCHEMAS.contains(&self.schema) && is_near(&self.negative) && is_near(&self.positive)
    }

    /// Writes the fields of an `ExponentialHistogramDataPoint` that hold values.
    pub(crate) fn write(&self, out: &mut Encoder) -> Result<(), &'static str> {
        if self.is_float {
            return Err("a native histogram of floats, which OTLP has not");
        }
        if !SCHEMAS.contains(&self.schema) {
            return Err("a native histogram of an unknown schema");
        }
        let positive = Dense::of(&self.positive, self.schema)?;
        let negative = Dense::of(&self.negative, self.schema)?;
        let sides = positive.total.checked_add(negative.total);
        let count = sides.and_then(|sides| sides.checked_add(self.zero_count));
        out.fixed64(4, count.ok_or("a native histogram that counts too much")?);
        if let Some(sum) = self.sum {
            out.double(5, sum);
        }
        out.sint(6, i64::from(self.schema));
        out.fixed64(7, self.zero_count);
        for (field, side) in [(8, &positive), (9, &negative)] {
            if !side.counts.is_empty() {
                out.message(field, |out| {
                    out.sint(1, side.offset);
                    out.packed_varint(2, side.counts.iter().copied());
                });
            }
        }
        if self.zero_threshold != 0.0 {
            out.double(14, self.zero_threshold);
        }
        Ok(())
    }
}

/// Two neighbours each in one: bucket i of the finer schema is in bucket ⌈i / 2⌉ of the coarser.
fn halved(buckets: &[(i32, u64)]) -> Vec<(i32, u64)> {
    let mut halved: Vec<(i32, u64)> = Vec::with_capacity(buckets.len().div_ceil(2));
    for (index, count) in buckets {
        // Towards above, also of what is negative and of the greatest of all.
        let index = index.div_euclid(2) + index.rem_euclid(2);
        match halved.last_mut() {
            Some((last, sum)) if *last == index => *sum = sum.saturating_add(*count),
            Some(_) | None => halved.push((index, *count)),
        }
    }
    halved
}

/// The buckets of finite values: the last of them ends at 2^1024, and the one behind it has what is infinite.
fn finite(buckets: &[(i32, u64)], schema: i32) -> &[(i32, u64)] {
    let end = if schema >= 0 { 1024_i32 << schema.min(8) } else { 1024 >> schema.saturating_neg().min(4) };
    &buckets[..buckets.partition_point(|(index, _)| *index <= end)]
}

/// One side as OTLP has it.
#[derive(Default)]
struct Dense {
    offset: i64,
    counts: Vec<u64>,
    total: u64,
}

impl Dense {
    fn of(buckets: &[(i32, u64)], schema: i32) -> Result<Self, &'static str> {
        let buckets = finite(buckets, schema);
        let (Some((first, _)), Some((last, _))) = (buckets.first(), buckets.last()) else {
            return Ok(Self::default());
        };
        let (first, last) = (i64::from(*first), i64::from(*last));
        if last - first >= DENSE_MAX {
            return Err("a native histogram with too many buckets from the first to the last");
        }
        let mut dense = Self { offset: first - 1, ..Self::default() };
        for (index, count) in buckets {
            let place = usize::try_from(i64::from(*index) - first).map_err(|_| "buckets out of order")?;
            if place < dense.counts.len() {
                return Err("buckets out of order");
            }
            dense.counts.resize(place, 0);
            dense.counts.push(*count);
            dense.total = dense.total.checked_add(*count).ok_or("a native histogram that counts too much")?;
        }
        Ok(dense)
    }
}
