//! Classic histograms and summaries: on the wire they are series apart, in OTLP one point.
//!
//! ```text
//! h_bucket{le="1"} h_bucket{le="+Inf"} h_count h_sum   ──▶ a histogram, where all are there and agree
//! s{quantile="0.5"} s_count s_sum                      ──▶ a summary, likewise
//! ```
//!
//! What does not make a whole stays what it came as: numbers.

use std::collections::BTreeMap;

use weir_exposition::{Kind, float};
use weir_prometheus::family::{Exemplar, Histogram, Summary, Value};
use weir_remote_write::series::{NAME, STALE_NAN};

/// Labels as they lie in the request.
pub(crate) type Borrowed<'a> = Vec<(&'a str, &'a str)>;

/// Which series of one it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Role {
    Bucket,
    Quantile,
    Count,
    Sum,
}

/// What a series is part of.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Place<'a> {
    /// Name of the whole.
    pub(crate) base: &'a str,
    pub(crate) role: Role,
    /// The value of `le` or `quantile`, with what it is as a number.
    pub(crate) own: Option<(&'a str, f64)>,
    /// Without that and `__name__`.
    pub(crate) labels: Borrowed<'a>,
}

/// A number of a whole.
#[derive(Clone, Debug)]
pub(crate) struct Part<'a> {
    pub(crate) role: Role,
    pub(crate) own: Option<(&'a str, f64)>,
    pub(crate) value: f64,
    /// Nanoseconds since the Unix epoch, where it is known.
    pub(crate) start: Option<u64>,
    pub(crate) exemplars: Vec<Exemplar>,
}

/// What is there of one at a time.
#[derive(Clone, Debug, Default)]
pub(crate) struct Group<'a> {
    pub(crate) kind: Kind,
    pub(crate) help: &'a str,
    pub(crate) unit: &'a str,
    pub(crate) parts: Vec<Part<'a>>,
}

/// Groups by name, labels and time (nanoseconds since the Unix epoch).
pub(crate) type Groups<'a> = BTreeMap<(&'a str, Borrowed<'a>, i64), Group<'a>>;

/// Where a series of a histogram or a summary belongs; nothing for what is none, whatever its metadata say.
pub(crate) fn place<'a>(labels: &[(&'a str, &'a str)], name: &'a str, kind: Kind) -> Option<Place<'a>> {
    let own = |label: &str| {
        let (_, value) = labels.iter().find(|(name, _)| *name == label)?;
        Some((*value, float(value)?))
    };
    let (base, role, own, but) = match kind {
        Kind::Histogram => match () {
            () if name.ends_with("_bucket") => {
                (name.strip_suffix("_bucket")?, Role::Bucket, Some(own("le")?), "le")
            }
            () if name.ends_with("_count") => (name.strip_suffix("_count")?, Role::Count, None, ""),
            () => (name.strip_suffix("_sum")?, Role::Sum, None, ""),
        },
        Kind::Summary => match own("quantile") {
            Some(own) => (name, Role::Quantile, Some(own), "quantile"),
            None if name.ends_with("_count") => (name.strip_suffix("_count")?, Role::Count, None, ""),
            None => (name.strip_suffix("_sum")?, Role::Sum, None, ""),
        },
        Kind::Unknown | Kind::Counter | Kind::Gauge | Kind::GaugeHistogram | Kind::Info | Kind::StateSet => {
            return None;
        }
    };
    let labels = labels.iter().filter(|(name, _)| *name != NAME && *name != but).copied().collect();
    Some(Place { base, role, own, labels })
}

impl Role {
    /// What the series is called behind the name of the whole.
    pub(crate) const fn suffix(self) -> &'static str {
        match self {
            Self::Bucket => "_bucket",
            Self::Quantile => "",
            Self::Count => "_count",
            Self::Sum => "_sum",
        }
    }

    /// The label that tells such series apart.
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::Bucket => "le",
            Self::Quantile => "quantile",
            Self::Count | Self::Sum => "",
        }
    }
}

impl<'a> Part<'a> {
    /// What tells it from the others of its group.
    fn key(&self) -> (Role, Option<&'a str>) {
        (self.role, self.own.map(|(text, _)| text))
    }
}

impl<'a> Group<'a> {
    /// Puts the parts into the order that [`Group::part`] wants.
    pub(crate) fn sort(&mut self) {
        self.parts.sort_unstable_by(|left, right| left.key().cmp(&right.key()));
    }

    /// The part in this role with this value of `le` or `quantile`; the parts are sorted.
    pub(crate) fn part(&mut self, role: Role, own: Option<&'a str>) -> Option<&mut Part<'a>> {
        let at = self.parts.partition_point(|part| part.key() < (role, own));
        self.parts.get_mut(at).filter(|part| part.key() == (role, own))
    }

    /// The one part in this role; nothing where there are several or none.
    fn only(&self, role: Role) -> Option<f64> {
        let mut parts = self.parts.iter().filter(|part| part.role == role);
        let value = parts.next()?.value;
        parts.next().is_none().then_some(value)
    }

    /// Buckets or quantiles in the order of their bounds; nothing where two have the same or one is no number.
    fn steps(&self, role: Role) -> Option<Vec<(f64, f64)>> {
        let parts = self.parts.iter().filter(|part| part.role == role);
        let mut steps: Vec<(f64, f64)> =
            parts.filter_map(|part| part.own.map(|(_, bound)| (bound, part.value))).collect();
        if steps.iter().any(|(bound, _)| bound.is_nan()) {
            return None;
        }
        steps.sort_by(|(left, _), (right, _)| left.total_cmp(right));
        (!steps.windows(2).any(|pair| pair[0].0 == pair[1].0)).then_some(steps)
    }

    /// The whole; nothing where a part of it is missing or they do not agree.
    pub(crate) fn whole(&self) -> Option<Value> {
        let (count, sum) = (self.only(Role::Count)?, self.only(Role::Sum)?);
        let is_stale = |value: f64| value.to_bits() == STALE_NAN;
        let stale = self.parts.iter().filter(|part| is_stale(part.value)).count();
        if stale != 0 && stale != self.parts.len() {
            return None;
        }
        if stale == 0 && !is_whole(count) {
            return None;
        }
        let (count, sum) = (Some(count), Some(sum));
        if self.kind == Kind::Summary {
            let quantiles = self.steps(Role::Quantile)?;
            return Some(Value::Summary(Summary { quantiles, count, sum }));
        }
        let buckets = self.steps(Role::Bucket)?;
        let agree = match buckets.last() {
            Some((bound, _)) if *bound != f64::INFINITY => false,
            Some((_, last)) => stale != 0 || Some(*last) == count,
            None => false,
        };
        let rise = buckets.is_sorted_by(|(_, left), (_, right)| left <= right);
        let is_good = agree && (stale != 0 || (rise && buckets.iter().all(|(_, count)| is_whole(*count))));
        is_good.then_some(Value::Histogram(Histogram { buckets, count, sum }))
    }
}

/// Whether a double is a count; above 2^53 it has no halves any more, and 2^64 is beyond all counts.
fn is_whole(value: f64) -> bool {
    value >= 0.0 && value.fract() == 0.0 && value < 1.8e19
}
