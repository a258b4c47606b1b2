//! One series of a request, whichever version it came in.

use weir_exposition::Kind;

/// The label that holds the metric's name.
pub const NAME: &str = "__name__";

/// The bits of the NaN that says that a series is gone.
pub const STALE_NAN: u64 = 0x7ff0_0000_0000_0002;

/// A series with what was measured of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Series<'a> {
    /// Names with their values, `__name__` among them; after [`Series::settle`] in the order of their names, none empty.
    pub labels: Vec<(&'a str, &'a str)>,
    /// Numbers; a series has these or histograms.
    pub samples: Vec<Sample>,
    /// Native histograms.
    pub histograms: Vec<Histogram>,
    /// Some of what was counted.
    pub exemplars: Vec<Exemplar<'a>>,
    /// What its metadata say; version 1.0 has them apart.
    pub kind: Kind,
    /// Likewise: for a person.
    pub help: &'a str,
    /// Likewise: in Prometheus' words.
    pub unit: &'a str,
    /// Why it cannot be taken, a phrase for a person.
    pub fault: Option<&'static str>,
}

/// A number at a time.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sample {
    /// The number; with the bits of [`STALE_NAN`] the series is gone.
    pub value: f64,
    /// Milliseconds since the Unix epoch.
    pub timestamp: i64,
    /// Since when it counts, milliseconds since the Unix epoch; 0 is unknown. Version 2.0 only.
    pub start: i64,
}

/// One of the things that were counted.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Exemplar<'a> {
    /// Names with their values.
    pub labels: Vec<(&'a str, &'a str)>,
    /// What was measured.
    pub value: f64,
    /// Milliseconds since the Unix epoch.
    pub timestamp: i64,
}

/// A native histogram at a time.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Histogram {
    /// Values in all of it.
    pub count: Count,
    /// Their sum; with the bits of [`STALE_NAN`] the series is gone.
    pub sum: f64,
    /// -4 to 8: the base is 2^(2^-schema); -53: [`Histogram::custom_values`] are the bounds.
    pub schema: i32,
    /// Values no further from zero than this are in the zero bucket.
    pub zero_threshold: f64,
    /// Values in that.
    pub zero_count: Count,
    /// Buckets below zero, from it on.
    pub negative: Buckets,
    /// Buckets above zero, from it on; of schema -53 all of them.
    pub positive: Buckets,
    /// 0 unknown, 1 it was reset, 2 it was not, 3 a gauge.
    pub reset_hint: u64,
    /// Milliseconds since the Unix epoch.
    pub timestamp: i64,
    /// Upper bounds but the last one (+Inf), of schema -53.
    pub custom_values: Vec<f64>,
    /// As of a [`Sample`].
    pub start: i64,
}

/// How many: whole, or not.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Count {
    /// Whole.
    Int(u64),
    /// Not whole, as after a rate.
    Float(f64),
}

/// Buckets above or below zero.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Buckets {
    /// Where they are.
    pub spans: Vec<Span>,
    /// Of whole counts: each less the one before.
    pub deltas: Vec<i64>,
    /// Counts that are not whole.
    pub counts: Vec<f64>,
}

/// A run of buckets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// Buckets between it and the run before; the index of its first bucket, where it is the first.
    pub offset: i32,
    /// Buckets in it.
    pub length: u32,
}

impl Default for Count {
    fn default() -> Self {
        Self::Int(0)
    }
}

impl<'a> Series<'a> {
    /// The metric's name; empty where there is none.
    #[must_use]
    pub fn name(&self) -> &'a str {
        self.labels.iter().find(|(name, _)| *name == NAME).map_or("", |(_, value)| value)
    }

    /// Forgets everything but the room.
    pub fn clear(&mut self) {
        let Self { labels, samples, histograms, exemplars, kind, help, unit, fault } = self;
        labels.clear();
        samples.clear();
        histograms.clear();
        exemplars.clear();
        (*kind, *help, *unit, *fault) = (Kind::Unknown, "", "", None);
    }

    /// Sorts the labels, takes out the empty ones (which say nothing) and finds what is wrong with them.
    pub fn settle(&mut self) {
        if !self.labels.is_sorted_by(|(left, _), (right, _)| left < right) {
            self.labels.sort_unstable();
        }
        let fault = if self.labels.windows(2).any(|pair| pair[0].0 == pair[1].0) {
            Some("a label name is not unique")
        } else if self.labels.iter().any(|(name, _)| name.is_empty()) {
            Some("a label has no name")
        } else if self.name().is_empty() {
            Some("a series has no __name__")
        } else {
            None
        };
        self.labels.retain(|(_, value)| !value.is_empty());
        self.fault = self.fault.or(fault);
    }
}
