//! One point of a metric, and the metric around it.
//!
//! Field numbers are those of `opentelemetry/proto/metrics/v1/metrics.proto`.

use weir_exposition::Kind;
use weir_guest::wire::Encoder;

use crate::family::{Histogram, Summary, Value};
use crate::native::{CUSTOM_BUCKETS, Native};
use crate::units::ucum;

/// The bits of the NaN that says that a series is gone.
pub const STALE_NAN: u64 = 0x7ff0_0000_0000_0002;

/// The flag of a point that has no value.
const NO_RECORDED_VALUE: u64 = 1;

const CUMULATIVE: u64 = 2;

/// What a metric's points are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Shape {
    /// Numbers that go up and down.
    Gauge,
    /// Numbers that only grow.
    Counter,
    /// Numbers that are counted, as facts and states are.
    Sum,
    /// Histograms with bounds.
    Histogram,
    /// A histogram that goes up and down, which OTLP has not.
    GaugeHistogram,
    /// Histograms with bounds that are powers.
    Exponential,
    /// Quantiles.
    Summary,
}

/// What a metric is called, and what is said of it.
#[derive(Clone, Copy, Debug)]
pub struct Head<'h> {
    pub name: &'h str,
    pub kind: Kind,
    pub help: &'h str,
    /// As Prometheus writes it.
    pub unit: &'h str,
}

/// Whether a point has a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    Recorded,
    /// The series is gone.
    Stale,
}

impl Shape {
    /// What a value of a family of this kind becomes.
    #[must_use]
    pub fn of(kind: Kind, value: &Value) -> Self {
        match (value, kind) {
            (Value::Histogram(_) | Value::Native(_), Kind::GaugeHistogram) => Self::GaugeHistogram,
            (Value::Histogram(_), _) => Self::Histogram,
            (Value::Native(native), _) if native.schema == CUSTOM_BUCKETS => Self::Histogram,
            (Value::Native(_), _) => Self::Exponential,
            (Value::Summary(_), _) => Self::Summary,
            (Value::Number(_), kind) => Self::of_number(kind),
        }
    }

    /// What a number of a family of this kind becomes.
    #[must_use]
    pub const fn of_number(kind: Kind) -> Self {
        match kind {
            Kind::Counter => Self::Counter,
            Kind::Info | Kind::StateSet => Self::Sum,
            Kind::Unknown | Kind::Gauge | Kind::Histogram | Kind::GaugeHistogram | Kind::Summary => {
                Self::Gauge
            }
        }
    }

    /// The number of the field that a point's attributes are in.
    #[must_use]
    pub const fn attributes_field(self) -> u32 {
        match self {
            Self::Gauge | Self::Counter | Self::Sum | Self::Summary => 7,
            Self::Histogram | Self::GaugeHistogram => 9,
            Self::Exponential => 1,
        }
    }

    /// Of the field that a point's exemplars are in; summaries have none.
    const fn exemplars_field(self) -> Option<u32> {
        match self {
            Self::Gauge | Self::Counter | Self::Sum => Some(5),
            Self::Histogram | Self::GaugeHistogram => Some(8),
            Self::Exponential => Some(11),
            Self::Summary => None,
        }
    }

    const fn flags_field(self) -> u32 {
        match self {
            Self::Gauge | Self::Counter | Self::Sum | Self::Summary => 8,
            Self::Histogram | Self::GaugeHistogram | Self::Exponential => 10,
        }
    }
}

/// Writes a metric into field 2 of its scope's; `points` are repeated fields 1.
pub fn write_metric(out: &mut Encoder, head: &Head<'_>, shape: Shape, points: &[u8]) {
    let Head { name, kind, help, unit } = head;
    let metric = out.open_large(2);
    out.string(1, name);
    out.nonempty_bytes(2, help);
    out.nonempty_bytes(3, ucum(unit));
    let data = out.open_large(match shape {
        Shape::Gauge => 5,
        Shape::Counter | Shape::Sum => 7,
        Shape::Histogram | Shape::GaugeHistogram => 9,
        Shape::Exponential => 10,
        Shape::Summary => 11,
    });
    out.raw(points);
    if !matches!(shape, Shape::Gauge | Shape::Summary) {
        out.varint(2, CUMULATIVE);
    }
    if shape == Shape::Counter {
        out.bool(3, true);
    }
    out.close(data);
    out.attribute_str(12, "prometheus.type", word(*kind));
    out.close(metric);
}

/// A kind as OpenMetrics calls it.
const fn word(kind: Kind) -> &'static str {
    match kind {
        Kind::Unknown => "unknown",
        Kind::Counter => "counter",
        Kind::Gauge => "gauge",
        Kind::Histogram => "histogram",
        Kind::GaugeHistogram => "gaugehistogram",
        Kind::Summary => "summary",
        Kind::Info => "info",
        Kind::StateSet => "stateset",
    }
}

/// Writes when a point was measured, and since when it counts; nanoseconds since the Unix epoch, 0 for unknown.
pub fn write_times(out: &mut Encoder, _shape: Shape, start: u64, time: u64) {
    // The same fields in points of every shape.
    out.nonzero_fixed64(2, start);
    out.nonzero_fixed64(3, time);
}

/// Writes a point's value.
///
/// # Errors
/// Why it is none for OTLP.
pub fn write_value(out: &mut Encoder, shape: Shape, value: &Value) -> Result<Written, &'static str> {
    if shape == Shape::GaugeHistogram {
        return Err("a gauge histogram, which OTLP has not");
    }
    match value {
        Value::Number(value) => {
            if is_stale(*value) {
                write_stale(out, shape, &[]);
                return Ok(Written::Stale);
            }
            out.double(4, *value);
        }
        Value::Histogram(histogram) => return write_histogram(out, histogram),
        Value::Native(native) if native.sum.is_some_and(is_stale) => {
            write_stale(out, shape, &native.bounds);
            return Ok(Written::Stale);
        }
        Value::Native(native) if native.schema == CUSTOM_BUCKETS => write_custom(out, native)?,
        Value::Native(native) => native.write(out)?,
        Value::Summary(Summary { quantiles, count, sum }) => {
            let count = count.ok_or("a summary without a count")?;
            if is_stale(count) || sum.is_some_and(is_stale) {
                write_stale(out, shape, &[]);
                return Ok(Written::Stale);
            }
            out.fixed64(4, whole(count).ok_or("a count that is none")?);
            out.double(5, sum.unwrap_or(0.0));
            for (quantile, value) in quantiles {
                out.message(6, |out| {
                    out.double(1, *quantile);
                    out.double(2, *value);
                });
            }
        }
    }
    Ok(Written::Recorded)
}

/// Writes that a series is gone: the flag, and of a histogram its buckets, with nothing in them.
pub fn write_stale(out: &mut Encoder, shape: Shape, bounds: &[f64]) {
    if shape == Shape::Histogram && !bounds.is_empty() {
        out.packed_fixed64(6, (0..bounds.len() + 1).map(|_| 0));
        out.packed_double(7, bounds.iter().copied());
    }
    out.varint(shape.flags_field(), NO_RECORDED_VALUE);
}

/// Writes an exemplar. Labels `trace_id` and `span_id` that are ids are fields; `else_time` is for one without a time.
pub fn write_exemplar<'l>(
    out: &mut Encoder,
    shape: Shape,
    value: f64,
    time: Option<i64>,
    else_time: u64,
    labels: impl Iterator<Item = (&'l str, &'l str)> + Clone,
) {
    let Some(field) = shape.exemplars_field() else { return };
    let id = |name: &str, bytes: usize| {
        let (_, text) = labels.clone().find(|(label, _)| *label == name)?;
        (text.len() == 2 * bytes).then(|| hex(text)).flatten().filter(|id| id.iter().any(|byte| *byte != 0))
    };
    let (trace_id, span_id) = (id("trace_id", 16), id("span_id", 8));
    out.message(field, |out| {
        out.nonzero_fixed64(2, time.map_or(else_time, |own| u64::try_from(own).unwrap_or(0)));
        out.double(3, value);
        if let Some(id) = &span_id {
            out.bytes(4, id);
        }
        if let Some(id) = &trace_id {
            out.bytes(5, id);
        }
        let is_id = |name: &str| {
            (name == "trace_id" && trace_id.is_some()) || (name == "span_id" && span_id.is_some())
        };
        for (name, value) in labels.clone().filter(|(name, _)| !is_id(name)) {
            out.attribute_str(7, name, value);
        }
    });
}

/// Whether a value is the one that says that a series is gone. A comparison of floats would not see it.
#[must_use]
pub const fn is_stale(value: f64) -> bool {
    value.to_bits() == STALE_NAN
}

fn hex(text: &str) -> Option<Vec<u8>> {
    let digit = |digit: u8| (digit as char).to_digit(16).and_then(|value| u8::try_from(value).ok());
    let pairs = text.as_bytes().chunks(2);
    pairs.map(|pair| Some(digit(pair[0])? << 4 | digit(*pair.get(1)?)?)).collect()
}

// === histograms ===

/// Bounds of a classic histogram in order, the same ones once, without infinity.
#[must_use]
pub fn bounds(histogram: &Histogram) -> Vec<f64> {
    ordered(histogram).into_iter().map(|(bound, _)| bound).collect()
}

fn ordered(histogram: &Histogram) -> Vec<(f64, f64)> {
    let finite = histogram.buckets.iter().copied().filter(|(bound, _)| *bound != f64::INFINITY);
    let mut ordered: Vec<(f64, f64)> = finite.collect();
    // Stable: of one bound the first counts.
    ordered.sort_by(|(left, _), (right, _)| left.total_cmp(right));
    ordered.dedup_by(|(later, _), (first, _)| later == first);
    ordered
}

fn write_histogram(out: &mut Encoder, histogram: &Histogram) -> Result<Written, &'static str> {
    let count = histogram.count.ok_or("a histogram without a count")?;
    let ordered = ordered(histogram);
    if ordered.last().is_some_and(|(bound, _)| bound.is_nan())
        || ordered.first().is_some_and(|(bound, _)| bound.is_nan())
    {
        return Err("a bound that is not a number");
    }
    if is_stale(count) || histogram.sum.is_some_and(is_stale) {
        let bounds: Vec<f64> = ordered.into_iter().map(|(bound, _)| bound).collect();
        write_stale(out, Shape::Histogram, &bounds);
        return Ok(Written::Stale);
    }
    let count = whole(count).ok_or("a count that is none")?;
    let (mut bounds, mut counts, mut below) = (Vec::new(), Vec::new(), 0);
    for (bound, cumulative) in ordered {
        let cumulative = whole(cumulative).ok_or("a bucket that counts nothing whole")?;
        counts.push(cumulative.checked_sub(below).ok_or("buckets that fall")?);
        bounds.push(bound);
        below = cumulative;
    }
    counts.push(count.checked_sub(below).ok_or("buckets that count more than there is")?);
    write_buckets(out, count, histogram.sum, &counts, &bounds);
    Ok(Written::Recorded)
}

/// A native histogram with bounds of its own: bucket i ends at bound i, the one behind the last at infinity.
fn write_custom(out: &mut Encoder, native: &Native) -> Result<(), &'static str> {
    if native.is_float {
        return Err("a native histogram of floats, which OTLP has not");
    }
    let is_rising = native.bounds.windows(2).all(|pair| pair[0] < pair[1]);
    if !is_rising || native.bounds.iter().any(|bound| !bound.is_finite()) {
        return Err("bounds that do not rise");
    }
    let mut counts: Vec<u64> = vec![0; native.bounds.len() + 1];
    for (index, count) in &native.positive {
        let place = usize::try_from(*index).ok().and_then(|index| counts.get_mut(index));
        let place = place.ok_or("a bucket without a bound")?;
        *place = place.checked_add(*count).ok_or("a native histogram that counts too much")?;
    }
    let total = counts.iter().try_fold(0_u64, |total, count| total.checked_add(*count));
    let total = total.ok_or("a native histogram that counts too much")?;
    write_buckets(out, total, native.sum, &counts, &native.bounds);
    Ok(())
}

fn write_buckets(out: &mut Encoder, count: u64, sum: Option<f64>, counts: &[u64], bounds: &[f64]) {
    out.fixed64(4, count);
    if let Some(sum) = sum {
        out.double(5, sum);
    }
    out.packed_fixed64(6, counts.iter().copied());
    out.packed_double(7, bounds.iter().copied());
}

/// A count; nothing for what is negative, broken or not a number.
fn whole(value: f64) -> Option<u64> {
    // Above 2^53 a double has no halves; above 2^64 it is no count.
    (value >= 0.0 && value.fract() == 0.0 && value < 1.8e19).then_some(value as u64)
}
