//! The series of a batch, each once, its samples in the order of their times.

use std::collections::BTreeMap;

use weir_exposition::Kind;
use weir_guest::wire::otlp::{
    Each, ExemplarView, ExponentialPointView, HistogramPointView, SummaryPointView,
};
use weir_prometheus::accumulate::Explicit;
use weir_prometheus::exemplar;
use weir_prometheus::labels::Labels;
use weir_prometheus::names::Strategy;
use weir_prometheus::series::{Metric, Point, Reason, Sink, Value, reason};
use weir_remote_write::series::{NAME, STALE_NAN};
use weir_remote_write::{Exemplar, Histogram, Metadata, Sample, Series, Version, Writer};

use crate::native;

/// Bytes of all series of a request, reckoned as 1.0 writes them. Receivers take 32 MiB, and an instance must have room for it twice
/// and for the batch.
const REQUEST_BYTES_MAX: usize = 8 * 1024 * 1024;

/// What a label, a sample, a span or a bucket takes beside its texts.
const ENTRY_BYTES: usize = 16;

const NANOS_PER_MILLI: u64 = 1_000_000;

/// The series of a batch.
#[derive(Debug)]
pub struct Sheet {
    strategy: Strategy,
    metrics: Vec<Family>,
    series: BTreeMap<Key, Held>,
    /// Reckoned, of what is held.
    bytes: usize,
    name: String,
}

/// What is said of a metric.
#[derive(Debug)]
struct Family {
    name: String,
    kind: Kind,
    help: String,
    unit: String,
}

/// Labels, `__name__` among them: names and values one behind the other, and where each ends.
#[derive(Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    text: String,
    ends: Vec<u32>,
}

#[derive(Debug, Default)]
struct Held {
    /// Place of its metric.
    metric: usize,
    samples: Vec<Sample>,
    histograms: Vec<Histogram>,
    exemplars: Vec<exemplar::Exemplar>,
}

/// The times of a point, in milliseconds since the Unix epoch.
#[derive(Clone, Copy)]
struct Times {
    timestamp: i64,
    start: i64,
}

impl Sheet {
    /// An empty one.
    #[must_use]
    pub fn new(strategy: Strategy) -> Self {
        Self { strategy, metrics: Vec::new(), series: BTreeMap::new(), bytes: 0, name: String::new() }
    }

    /// Whether there is nothing to send.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.series.is_empty()
    }

    /// Whether there was more than one request may have; what is there is not all then.
    #[must_use]
    pub const fn is_full(&self) -> bool {
        self.bytes > REQUEST_BYTES_MAX
    }

    /// Writes it as a request.
    #[must_use]
    pub fn write(self, version: Version, send_metadata: bool) -> Writer {
        let Self { metrics, series, .. } = self;
        let mut writer = Writer::new(version);
        for (key, held) in series {
            let Held { metric, mut samples, mut histograms, mut exemplars } = held;
            samples.sort_by_key(|sample| sample.timestamp);
            keep_last(&mut samples, |sample| sample.timestamp);
            histograms.sort_by_key(|histogram| histogram.timestamp);
            keep_last(&mut histograms, |histogram| histogram.timestamp);
            exemplars.sort_by_key(|exemplar| exemplar.time);
            let Family { kind, help, unit, .. } = &metrics[metric];
            writer.series(&Series {
                labels: key.labels(),
                samples,
                histograms,
                exemplars: exemplars.iter().map(exemplar_of).collect(),
                kind: *kind,
                help,
                unit,
                fault: None,
            });
        }
        if send_metadata && version == Version::V1 {
            // Of the same metric in several scopes once; a message for a person, so the first will do.
            let families: BTreeMap<&str, &Family> =
                metrics.iter().rev().map(|family| (&*family.name, family)).collect();
            for Family { name, kind, help, unit } in families.into_values() {
                writer.metadata(&Metadata { family: name, kind: *kind, help, unit });
            }
        }
        writer
    }

    /// The series of the metric at hand with these labels, and one more.
    fn series(
        &mut self,
        suffix: &str,
        labels: &Labels,
        more: Option<(&str, &str)>,
    ) -> Result<&mut Held, Reason> {
        let metric = self.metrics.len() - 1;
        self.name.clear();
        self.name.push_str(&self.metrics[metric].name);
        self.name.push_str(suffix);
        let key = Key::of(&self.name, labels, more);
        self.spend(key.text.len() + (key.ends.len() / 2 + 2) * ENTRY_BYTES)?;
        Ok(self.series.entry(key).or_insert_with(|| Held { metric, ..Held::default() }))
    }

    fn spend(&mut self, bytes: usize) -> Result<(), Reason> {
        self.bytes = self.bytes.saturating_add(bytes);
        if self.is_full() { Err(reason::SIZE) } else { Ok(()) }
    }

    fn exemplars(
        &mut self,
        views: Each<'_, ExemplarView<'_>>,
        time: u64,
    ) -> Result<Vec<exemplar::Exemplar>, Reason> {
        let mut exemplars = Vec::new();
        for view in views.filter_map(Result::ok) {
            if let Some(mut exemplar) = exemplar::read(&view, self.strategy) {
                self.spend((exemplar.labels.len() + 2) * ENTRY_BYTES + exemplar::EXEMPLAR_CHARS_MAX)?;
                exemplar.time = if exemplar.time == 0 { time } else { exemplar.time };
                exemplars.push(exemplar);
            }
        }
        Ok(exemplars)
    }

    // === points ===

    fn number(
        &mut self,
        kind: Kind,
        point: &Point<'_, '_>,
        value: f64,
        views: Each<'_, ExemplarView<'_>>,
    ) -> Result<(), Reason> {
        let is_counter = kind == Kind::Counter;
        let exemplars =
            if is_counter && !point.is_gone { self.exemplars(views, point.time)? } else { Vec::new() };
        let times = Times::of(point, is_counter);
        let held = self.series("", point.labels, None)?;
        held.samples.push(times.sample(if point.is_gone { stale() } else { value }));
        held.exemplars.extend(exemplars);
        Ok(())
    }

    fn histogram(&mut self, point: &Point<'_, '_>, view: &HistogramPointView<'_>) -> Result<(), Reason> {
        let Point { labels, .. } = point;
        let times = Times::of(point, true);
        if point.is_gone {
            for bound in view.explicit_bounds().chain([f64::INFINITY]) {
                let bucket = self.series("_bucket", labels, Some(("le", &text_of(bound))))?;
                bucket.samples.push(times.sample(stale()));
            }
            return self.gone(labels, times);
        }
        let Explicit { bounds, counts, count, sum } = Explicit::read(view, None)?;
        let mut exemplars = self.exemplars(view.exemplars(), point.time)?;
        let mut below = 0;
        for (bound, own) in bounds.iter().copied().chain([f64::INFINITY]).zip(&counts) {
            below += own;
            let bucket = self.series("_bucket", labels, Some(("le", &text_of(bound))))?;
            bucket.samples.push(times.sample(below as f64));
            bucket.exemplars.extend(exemplars.extract_if(.., |exemplar| exemplar.value <= bound));
        }
        self.series("_count", labels, None)?.samples.push(times.sample(count as f64));
        if let Some(sum) = sum {
            self.series("_sum", labels, None)?.samples.push(times.sample(sum));
        }
        Ok(())
    }

    fn exponential(&mut self, point: &Point<'_, '_>, view: &ExponentialPointView<'_>) -> Result<(), Reason> {
        let Times { timestamp, start } = Times::of(point, true);
        if point.is_gone {
            let histogram = Histogram { sum: stale(), timestamp, ..Histogram::default() };
            self.series("", point.labels, None)?.histograms.push(histogram);
            return Ok(());
        }
        let histogram = native::histogram(view)?;
        let entries =
            [&histogram.positive, &histogram.negative].map(|side| side.spans.len() + side.deltas.len());
        self.spend((entries.iter().sum::<usize>() + 8) * ENTRY_BYTES)?;
        let exemplars = self.exemplars(view.exemplars(), point.time)?;
        let held = self.series("", point.labels, None)?;
        held.histograms.push(Histogram { timestamp, start, ..histogram });
        held.exemplars.extend(exemplars);
        Ok(())
    }

    fn summary(&mut self, point: &Point<'_, '_>, view: &SummaryPointView<'_>) -> Result<(), Reason> {
        let Point { labels, is_gone, .. } = point;
        let times = Times::of(point, true);
        // All or nothing: half of a summary would be sent although it is told as refused.
        if view.quantiles().any(|quantile| quantile.is_err()) {
            return Err(reason::MALFORMED);
        }
        for quantile in view.quantiles() {
            let quantile = quantile.map_err(|_| reason::MALFORMED)?;
            let value = if *is_gone { stale() } else { quantile.value };
            let series = self.series("", labels, Some(("quantile", &text_of(quantile.quantile))))?;
            series.samples.push(times.sample(value));
        }
        if *is_gone {
            return self.gone(labels, times);
        }
        self.series("_count", labels, None)?.samples.push(times.sample(view.count as f64));
        self.series("_sum", labels, None)?.samples.push(times.sample(view.sum));
        Ok(())
    }

    fn gone(&mut self, labels: &Labels, times: Times) -> Result<(), Reason> {
        for suffix in ["_count", "_sum"] {
            self.series(suffix, labels, None)?.samples.push(times.sample(stale()));
        }
        Ok(())
    }
}

impl Sink for Sheet {
    fn metric(&mut self, metric: &Metric<'_>) -> Result<(), Reason> {
        let Metric { name, kind, help, unit, is_delta, is_target: _ } = *metric;
        if is_delta {
            return Err(reason::TEMPORALITY);
        }
        self.spend(name.len() + help.len() + unit.len() + ENTRY_BYTES)?;
        let [name, help, unit] = [name, help, unit].map(str::to_owned);
        self.metrics.push(Family { name, kind, help, unit });
        Ok(())
    }

    fn point(&mut self, metric: &Metric<'_>, point: &Point<'_, '_>) -> Result<(), Reason> {
        match &point.value {
            Value::Number(value, exemplars) => self.number(metric.kind, point, *value, exemplars.clone()),
            Value::Histogram(view) => self.histogram(point, view),
            Value::Exponential(view) => self.exponential(point, view),
            Value::Summary(view) => self.summary(point, view),
        }
    }
}

impl Key {
    fn of(name: &str, labels: &Labels, more: Option<(&str, &str)>) -> Self {
        let mut all: Vec<(&str, &str)> = labels.iter().collect();
        all.push((NAME, name));
        all.extend(more);
        all.sort_unstable();
        let mut key = Self::default();
        for text in all.into_iter().flat_map(|(name, value)| [name, value]) {
            key.text.push_str(text);
            // Labels have some KiB.
            key.ends.push(u32::try_from(key.text.len()).unwrap_or(u32::MAX));
        }
        key
    }

    fn labels(&self) -> Vec<(&str, &str)> {
        let mut start = 0;
        let mut texts = self.ends.iter().map(|end| {
            let end = *end as usize;
            &self.text[std::mem::replace(&mut start, end)..end]
        });
        let mut labels = Vec::with_capacity(self.ends.len() / 2);
        while let (Some(name), Some(value)) = (texts.next(), texts.next()) {
            labels.push((name, value));
        }
        labels
    }
}

impl Times {
    fn of(point: &Point<'_, '_>, has_start: bool) -> Self {
        let millis = |nanos: u64| (nanos / NANOS_PER_MILLI).cast_signed();
        let start = if has_start { point.start } else { 0 };
        Self { timestamp: millis(point.time), start: millis(start) }
    }

    const fn sample(self, value: f64) -> Sample {
        let Self { timestamp, start } = self;
        Sample { value, timestamp, start }
    }
}

const fn stale() -> f64 {
    f64::from_bits(STALE_NAN)
}

/// A bound or a quantile as Prometheus' own libraries write it.
fn text_of(bound: f64) -> String {
    if bound == f64::INFINITY { "+Inf".to_owned() } else { bound.to_string() }
}

/// Of neighbours with the same time the last stays.
fn keep_last<T>(points: &mut Vec<T>, time: impl Fn(&T) -> i64) {
    let mut points_by_time = std::mem::take(points).into_iter().peekable();
    while let Some(point) = points_by_time.next() {
        if points_by_time.peek().is_none_or(|next| time(next) != time(&point)) {
            points.push(point);
        }
    }
}

fn exemplar_of(exemplar: &exemplar::Exemplar) -> Exemplar<'_> {
    let exemplar::Exemplar { value, time, labels } = exemplar;
    Exemplar {
        labels: labels.iter().map(|(name, value)| (&**name, &**value)).collect(),
        value: *value,
        timestamp: (time / NANOS_PER_MILLI).cast_signed(),
    }
}
