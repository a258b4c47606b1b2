//! What the page holds of a series.

use std::rc::Rc;

use weir_guest::wire::otlp::{Each, ExemplarView, SummaryPointView};
use weir_prometheus::accumulate::{EXPONENTIAL_BUCKETS_MAX, Explicit, Exponential};
use weir_prometheus::exemplar;
use weir_prometheus::names::Strategy;
use weir_prometheus::series::{Reason, Value, reason};

use crate::escape::push_label;

/// Quantiles of a summary; clients have three or four.
const QUANTILES_MAX: usize = 256;

/// Exemplars of a series: one for each bucket of an ordinary histogram, and more.
const EXEMPLARS_MAX: usize = 64;

/// Bytes that a series takes beside its labels' text and what its value points to: two places in a tree, whose nodes are half
/// full where they were filled in order, its part of the nodes above, and what the allocator adds.
const SERIES_BYTES: usize = 2 * size_of::<(Box<str>, Series)>() + 32;

/// Bytes of a bucket: its count and its bound. Bounds are shared as a rule, but nobody has to share them.
const BUCKET_BYTES: usize = 16;

/// Bytes of text that a series may be on a page. All of its lines are written at once, into a text that grows by doubling; an
/// escaping makes names, which are a part of it, up to five times as long. 64 MiB are all that there is.
const TEXT_BYTES_MAX: usize = 1024 * 1024;

/// Bytes of a line beside the family's name and the labels: a suffix, a bound, a value and a time.
const LINE_BYTES: usize = 96;

/// Lines of a series beside its buckets: a sum, a count, a start; around zero and at both ends an exponential histogram has one
/// bucket more.
const LINES_BESIDE: usize = 6;

/// A series.
#[derive(Debug)]
pub(crate) struct Series {
    /// Of the last point, nanoseconds since the Unix epoch.
    pub(crate) time: u64,
    /// Since when it counts; 0 where nobody knows.
    pub(crate) start: u64,
    /// When the last point came, by the host's clock.
    pub(crate) seen: u64,
    pub(crate) held: Held,
    /// By value, OpenMetrics' only; none more than once in a bucket is shown.
    pub(crate) exemplars: Option<Box<[Kept]>>,
}

/// The value of a series.
#[derive(Debug, PartialEq)]
pub(crate) enum Held {
    Number(f64),
    Explicit(Box<Explicit>),
    Exponential(Box<Exponential>),
    Summary(Box<Summary>),
    /// Of `target_info`: the labels beside those that say which target it is. The value is 1.
    Target(Box<str>),
}

/// Quantiles in their order, each once.
#[derive(Debug, PartialEq)]
pub(crate) struct Summary {
    pub(crate) quantiles: Box<[(f64, f64)]>,
    pub(crate) count: u64,
    pub(crate) sum: f64,
}

/// An exemplar.
#[derive(Debug, PartialEq)]
pub(crate) struct Kept {
    pub(crate) value: f64,
    pub(crate) time: u64,
    /// As they stand in the text.
    pub(crate) labels: Box<str>,
}

impl Series {
    /// Bytes that a series with labels of so many takes.
    pub(crate) fn bytes(&self, labels: usize) -> usize {
        SERIES_BYTES + labels + self.held.bytes() + self.exemplar_bytes()
    }

    /// Those of its exemplars.
    pub(crate) fn exemplar_bytes(&self) -> usize {
        let exemplars = self.exemplars.iter().flatten();
        exemplars.map(|kept| size_of::<Kept>() + kept.labels.len() + 32).sum()
    }
}

impl Held {
    /// Of a point. `bounds` are those of the family's last histogram, to be shared.
    pub(crate) fn of(value: &Value<'_>, bounds: &mut Option<Rc<[f64]>>) -> Result<Self, Reason> {
        Ok(match value {
            Value::Number(number, _) => Self::Number(*number),
            Value::Histogram(view) => {
                let explicit = Explicit::read(view, bounds.as_ref())?;
                *bounds = Some(Rc::clone(&explicit.bounds));
                Self::Explicit(Box::new(explicit))
            }
            Value::Exponential(view) => Self::Exponential(Box::new(Exponential::read(view)?)),
            Value::Summary(view) => Self::Summary(Box::new(Summary::of(view)?)),
        })
    }

    /// Adds what came since; where the two don't go together, what came takes the place of what was, and the answer is no.
    pub(crate) fn add(&mut self, more: Self) -> bool {
        match (&mut *self, &more) {
            (Self::Number(number), Self::Number(more)) => {
                *number += more;
                true
            }
            (Self::Explicit(held), Self::Explicit(with)) => {
                let fits = held.add(with);
                if !fits {
                    *self = more;
                }
                fits
            }
            (Self::Exponential(held), Self::Exponential(more)) => {
                held.add(more);
                true
            }
            _ => {
                *self = more;
                false
            }
        }
    }

    /// Whether its lines, with labels of so many bytes and a family's name, are more than a page writes at once. What may be
    /// added to later is taken for as large as it can become.
    pub(crate) fn is_too_long(&self, name: usize, labels: usize, is_delta: bool) -> bool {
        let lines = match self {
            Self::Number(_) | Self::Target(_) => 0,
            Self::Explicit(held) => held.counts.len(),
            Self::Exponential(_) if is_delta => 2 * EXPONENTIAL_BUCKETS_MAX,
            Self::Exponential(held) => held.positive.counts.len() + held.negative.counts.len(),
            Self::Summary(held) => held.quantiles.len(),
        };
        (lines + LINES_BESIDE) * (name + labels + LINE_BYTES) > TEXT_BYTES_MAX
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Number(_) => 0,
            Self::Explicit(held) => size_of::<Explicit>() + BUCKET_BYTES * held.counts.len() + 48,
            Self::Exponential(held) => {
                // What was cut off stays where it was.
                let buckets = held.positive.counts.capacity() + held.negative.counts.capacity();
                size_of::<Exponential>() + size_of::<u64>() * buckets + 48
            }
            Self::Summary(held) => size_of::<Summary>() + 16 * held.quantiles.len() + 32,
            Self::Target(labels) => labels.len() + 16,
        }
    }
}

impl Summary {
    fn of(view: &SummaryPointView<'_>) -> Result<Self, Reason> {
        let mut quantiles: Vec<(f64, f64)> = Vec::new();
        for quantile in view.quantiles() {
            let quantile = quantile.map_err(|_| reason::MALFORMED)?;
            if quantiles.len() == QUANTILES_MAX {
                return Err(reason::SIZE);
            }
            if quantile.quantile.is_nan() {
                return Err(reason::MALFORMED);
            }
            // Minus zero would be another label than zero.
            quantiles.push((quantile.quantile + 0.0, quantile.value));
        }
        quantiles.sort_by(|left, right| left.0.total_cmp(&right.0));
        quantiles.dedup_by(|later, earlier| later.0 == earlier.0);
        Ok(Self { quantiles: quantiles.into(), count: view.count, sum: view.sum })
    }
}

/// The exemplars of a point; none where it brings none.
pub(crate) fn exemplars(value: &Value<'_>, strategy: Strategy) -> Option<Box<[Kept]>> {
    let views: Each<'_, ExemplarView<'_>> = match value {
        Value::Number(_, views) => views.clone(),
        Value::Histogram(view) => view.exemplars(),
        Value::Exponential(view) => view.exemplars(),
        Value::Summary(_) => return None,
    };
    let mut all: Vec<Kept> = Vec::new();
    for view in views.filter_map(Result::ok) {
        let Some(read) = exemplar::read(&view, strategy) else { continue };
        let mut labels = String::new();
        read.labels.iter().for_each(|(name, value)| push_label(&mut labels, name, value));
        let kept = Kept { value: read.value, time: read.time, labels: labels.into() };
        if all.len() < EXEMPLARS_MAX {
            all.push(kept);
        } else if let Some(oldest) = all.iter_mut().min_by_key(|kept| kept.time)
            && oldest.time < kept.time
        {
            *oldest = kept;
        }
    }
    all.sort_by(|left, right| left.value.total_cmp(&right.value));
    (!all.is_empty()).then(|| all.into())
}
