//! Prometheus' protobuf exposition: `io.prometheus.client.MetricFamily`, each behind its length as a varint.
//!
//! ```text
//! MetricFamily  1 name  2 help  3 type: counter 0, gauge 1, summary 2, untyped 3, histogram 4, gauge histogram 5  4 metric  5 unit
//! Metric        1 label  2 gauge  3 counter  4 summary  5 untyped  6 timestamp_ms  7 histogram      LabelPair  1 name  2 value
//! Gauge, Untyped  1 value            Counter  1 value  2 exemplar  3 start_timestamp
//! Summary       1 sample_count  2 sample_sum  3 quantile {1 quantile  2 value}  4 start_timestamp
//! Histogram     1 sample_count  2 sample_sum  3 bucket  4 sample_count_float  5 schema  6 zero_threshold  7 zero_count
//!               8 zero_count_float  9 negative_span  10 negative_delta  11 negative_count  12 positive_span
//!               13 positive_delta  14 positive_count  15 start_timestamp  16 exemplars
//! Bucket        1 cumulative_count  2 upper_bound  3 exemplar  4 cumulative_count_float
//! BucketSpan    1 offset  2 length            Exemplar  1 label  2 value  3 timestamp
//! ```
//!
//! A histogram is native where its schema, its zero bucket or a span is said. Where OTLP cannot have it so, it is its classic buckets,
//! if it has some. Bounds of custom buckets (schema -53) have no field.
//!
//! What is held is bounded by bytes of the body, of which each becomes some dozens at most: a point of nothing is two bytes in the
//! body and a hundred here.

use std::fmt;

use weir_exposition::{Kind, shown};
use weir_guest::wire::reader::{Malformed, unzigzag, varint};
use weir_guest::wire::{Reader, Value as Field};

use crate::family::{Exemplar, Family, Histogram, Labels, Point, Summary, Value};
use crate::native::{CUSTOM_BUCKETS, Native, POPULATED_MAX, buckets};

/// Labels of one point or exemplar; as many as of a line.
const LABELS_MAX: usize = 1_000;

/// Classic buckets, quantiles or exemplars of one point; clients have a dozen.
const PARTS_MAX: usize = 16_384;

/// Bytes of a metric in the body; with a dozen labels and buckets it has some hundreds. Its parts are held until it is complete.
pub const METRIC_BYTES_MAX: usize = 256 << 10;

/// Bytes of a family's name, its help and its unit each in the body; they are held as long as the family is read, and handed on with
/// each piece of it.
pub const HEAD_BYTES_MAX: usize = 16 << 10;

/// Points of a family that are handed on at once: 128 KiB where they have no parts.
const PIECE_POINTS_MAX: usize = 1_024;

/// Bytes in the body of metrics that are handed on at once, but for the last of them.
const PIECE_BYTES_MAX: usize = 64 << 10;

/// Nanoseconds of a second.
const SECOND: u64 = 1_000_000_000;

/// A body that is refused, as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Number of the family at fault, counted from 1.
    pub family: usize,
    /// What is wrong, a phrase for a person.
    pub what: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "family {}: {}", self.family, self.what)
    }
}

impl std::error::Error for Fault {}

/// What a histogram is read as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Native histograms; else their classic buckets.
    pub native: bool,
    /// Classic buckets beside them.
    pub classic_too: bool,
}

/// Reads a body and hands on its families, one after the other; one of many points in several pieces, with the same name, kind,
/// help and unit. At least one piece of each family is handed on, be it without points.
///
/// # Errors
/// [`Fault`], the first; what was handed on before is worth nothing either.
pub fn read(body: &[u8], wanted: Wanted, mut take: impl FnMut(Family)) -> Result<(), Fault> {
    let (mut at, mut number) = (0, 0);
    while at < body.len() {
        number += 1;
        let fault = |broken: Broken| Fault { family: number, what: broken.0 };
        let (length, behind) = varint(body, at).map_err(|malformed| fault(malformed.into()))?;
        let end = usize::try_from(length).ok().and_then(|length| behind.checked_add(length));
        let message = end.and_then(|end| body.get(behind..end));
        let message = message.ok_or_else(|| fault("its length goes beyond the end of the body".into()))?;
        read_family(message, wanted, &mut take).map_err(fault)?;
        at = behind + message.len();
    }
    Ok(())
}

/// What is wrong.
struct Broken(String);

impl From<Malformed> for Broken {
    fn from(malformed: Malformed) -> Self {
        Self(malformed.to_string())
    }
}

impl From<&str> for Broken {
    fn from(what: &str) -> Self {
        Self(what.to_owned())
    }
}

fn read_family(message: &[u8], wanted: Wanted, take: &mut impl FnMut(Family)) -> Result<(), Broken> {
    let mut family = Family { kind: Kind::Counter, ..Family::default() };
    let mut fields = Reader::new(message);
    while let Some(field) = fields.next()? {
        match (field.number, field.value) {
            (1, Field::Bytes(name)) => family.name = head(name)?,
            (2, Field::Bytes(help)) => family.help = head(help)?,
            (3, Field::Varint(kind)) => family.kind = kind_of(kind)?,
            (5, Field::Bytes(unit)) => family.unit = head(unit)?,
            _ => {} // metrics, later; unknown, or of a foreign wire type
        }
    }
    if family.name.is_empty() {
        return Err("a family without a name".into());
    }
    let mut bytes = 0;
    let mut fields = Reader::new(message);
    while let Some(field) = fields.next()? {
        let (4, Field::Bytes(metric)) = (field.number, field.value) else { continue };
        if metric.len() > METRIC_BYTES_MAX {
            return Err(Broken(format!("a metric of more than {METRIC_BYTES_MAX} bytes")));
        }
        if bytes >= PIECE_BYTES_MAX || family.points.len() >= PIECE_POINTS_MAX {
            let Family { name, kind, help, unit, points: _ } = &family;
            let (name, help, unit) = (name.clone(), help.clone(), unit.clone());
            let rest = Family { name, kind: *kind, help, unit, points: Vec::new() };
            take(std::mem::replace(&mut family, rest));
            bytes = 0;
        }
        read_metric(metric, wanted, &mut family.points)?;
        bytes += metric.len();
    }
    take(family);
    Ok(())
}

/// A name, a help or a unit.
fn head(bytes: &[u8]) -> Result<String, Broken> {
    if bytes.len() > HEAD_BYTES_MAX {
        return Err(Broken(format!("a name, a help or a unit of more than {HEAD_BYTES_MAX} bytes")));
    }
    text(bytes)
}

fn kind_of(number: u64) -> Result<Kind, Broken> {
    Ok(match number {
        0 => Kind::Counter,
        1 => Kind::Gauge,
        2 => Kind::Summary,
        3 => Kind::Unknown,
        4 => Kind::Histogram,
        5 => Kind::GaugeHistogram,
        other => return Err(Broken(format!("unknown type {other}"))),
    })
}

/// Adds one point; two for a histogram that is native and classic, where both are wanted.
fn read_metric(message: &[u8], wanted: Wanted, points: &mut Vec<Point>) -> Result<(), Broken> {
    let mut point = Point::default();
    let mut classic = None;
    let mut fields = Reader::new(message);
    while let Some(field) = fields.next()? {
        match (field.number, field.value) {
            (1, Field::Bytes(pair)) => push_label(&mut point.labels, pair)?,
            (2 | 3 | 5, Field::Bytes(number)) => read_number(number, &mut point)?,
            (4, Field::Bytes(summary)) => read_summary(summary, &mut point)?,
            (6, Field::Varint(millis)) => point.time = millis.cast_signed().checked_mul(1_000_000),
            (7, Field::Bytes(histogram)) => classic = read_histogram(histogram, wanted, &mut point)?,
            _ => {} // as above
        }
    }
    point.labels.sort_unstable();
    if let Some(two) = point.labels.windows(2).find(|two| two[0].0 == two[1].0) {
        return Err(Broken(format!("label name {:?} is not unique", shown(&two[0].0))));
    }
    if let Some((classic, exemplars)) = classic {
        points.push(Point { value: Value::Histogram(classic), exemplars, ..point.clone() });
    }
    points.push(point);
    Ok(())
}

fn push_label(labels: &mut Labels, pair: &[u8]) -> Result<(), Broken> {
    let (mut name, mut value) = (String::new(), String::new());
    let mut fields = Reader::new(pair);
    while let Some(field) = fields.next()? {
        match (field.number, field.value) {
            (1, Field::Bytes(bytes)) => name = text(bytes)?,
            (2, Field::Bytes(bytes)) => value = text(bytes)?,
            _ => {} // as above
        }
    }
    if name.is_empty() {
        return Err("a label without a name".into());
    }
    push(labels, (name, value), LABELS_MAX)
}

/// A `Gauge`, a `Counter` or an `Untyped`.
fn read_number(message: &[u8], point: &mut Point) -> Result<(), Broken> {
    let mut number = 0.0;
    let mut fields = Reader::new(message);
    while let Some(field) = fields.next()? {
        match (field.number, field.value) {
            (1, Field::Fixed64(bits)) => number = f64::from_bits(bits),
            (2, Field::Bytes(exemplar)) => push(&mut point.exemplars, read_exemplar(exemplar)?, PARTS_MAX)?,
            (3, Field::Bytes(time)) => point.start = read_time(time)?,
            _ => {} // as above
        }
    }
    point.value = Value::Number(number);
    Ok(())
}

fn read_summary(message: &[u8], point: &mut Point) -> Result<(), Broken> {
    let mut summary = Summary { count: Some(0.0), sum: Some(0.0), ..Summary::default() };
    let mut fields = Reader::new(message);
    while let Some(field) = fields.next()? {
        match (field.number, field.value) {
            (1, Field::Varint(count)) => summary.count = Some(count as f64),
            (2, Field::Fixed64(bits)) => summary.sum = Some(f64::from_bits(bits)),
            (3, Field::Bytes(quantile)) => {
                let [quantile, value] = read_doubles(quantile)?;
                push(&mut summary.quantiles, (quantile, value), PARTS_MAX)?;
            }
            (4, Field::Bytes(time)) => point.start = read_time(time)?,
            _ => {} // as above
        }
    }
    point.value = Value::Summary(summary);
    Ok(())
}

/// Fields 1 and 2, both doubles.
fn read_doubles(message: &[u8]) -> Result<[f64; 2], Broken> {
    let mut read = [0.0; 2];
    let mut fields = Reader::new(message);
    while let Some(field) = fields.next()? {
        match (field.number, field.value) {
            (1, Field::Fixed64(bits)) => read[0] = f64::from_bits(bits),
            (2, Field::Fixed64(bits)) => read[1] = f64::from_bits(bits),
            _ => {} // as above
        }
    }
    Ok(read)
}

/// Spans, and what each bucket counts more than the one before.
type Side = (Vec<(i32, u32)>, Vec<i64>);

/// What is collected of a histogram before it is known what it is.
#[derive(Default)]
struct Parts {
    classic: Histogram,
    native: Native,
    is_native: bool,
    count: u64,
    count_float: f64,
    /// Of the buckets.
    exemplars: Vec<Exemplar>,
    /// Of the whole.
    own_exemplars: Vec<Exemplar>,
    /// Below and above zero.
    sides: [Side; 2],
}

/// Classic buckets with their exemplars.
type Classic = (Histogram, Vec<Exemplar>);

/// Sets a point's value; returns the classic buckets where they are wanted beside it.
fn read_histogram(message: &[u8], wanted: Wanted, point: &mut Point) -> Result<Option<Classic>, Broken> {
    let mut parts = Parts::default();
    // What is 0 need not be written, and the sum always is one.
    parts.classic.sum = Some(0.0);
    let mut fields = Reader::new(message);
    while let Some(field) = fields.next()? {
        match (field.number, field.value) {
            (15, Field::Bytes(time)) => point.start = read_time(time)?,
            (number, value) => parts.field(number, value)?,
        }
    }
    let has_classic = !parts.classic.buckets.is_empty();
    let is_float = parts.count_float > 0.0;
    let count = if is_float { parts.count_float } else { parts.count as f64 };
    let classic = Histogram { count: Some(count), ..parts.classic };
    let mut native = Native { count: parts.count, is_float, sum: classic.sum, ..parts.native };
    let [(negative_spans, negative), (positive_spans, positive)] = parts.sides;
    let is_wanted = parts.is_native && wanted.native;
    if is_wanted && !native.is_float {
        native.negative = buckets(negative_spans, negative)?;
        native.positive = buckets(positive_spans, positive)?;
    }
    // The message has no field for bounds, so that of custom buckets only count and sum are known.
    let is_known = native.schema != CUSTOM_BUCKETS && (native.is_exponential() || !has_classic);
    if !is_wanted || !is_known {
        point.value = Value::Histogram(classic);
        let is_own = !has_classic && !parts.own_exemplars.is_empty();
        point.exemplars = if is_own { parts.own_exemplars } else { parts.exemplars };
        return Ok(None);
    }
    point.value = Value::Native(Box::new(native));
    let mut exemplars = parts.own_exemplars;
    let beside = wanted.classic_too && has_classic;
    if exemplars.is_empty() {
        exemplars.clone_from(&parts.exemplars);
    }
    point.exemplars = exemplars;
    Ok(beside.then_some((classic, parts.exemplars)))
}

impl Parts {
    fn field(&mut self, number: u32, value: Field<'_>) -> Result<(), Broken> {
        match (number, value) {
            (1, Field::Varint(count)) => self.count = count,
            (2, Field::Fixed64(bits)) => self.classic.sum = Some(f64::from_bits(bits)),
            (3, Field::Bytes(bucket)) => self.bucket(bucket)?,
            (4, Field::Fixed64(bits)) => self.count_float = f64::from_bits(bits),
            (5, Field::Varint(schema)) => {
                self.is_native = true;
                let schema = i32::try_from(unzigzag(schema));
                self.native.schema = schema.map_err(|_| "a schema beyond all schemas")?;
            }
            (6, Field::Fixed64(bits)) => {
                self.is_native = true;
                self.native.zero_threshold = f64::from_bits(bits);
            }
            (7, Field::Varint(count)) => self.native.zero_count = count,
            (9 | 12, Field::Bytes(span)) => {
                self.is_native = true;
                push(&mut self.sides[usize::from(number == 12)].0, read_span(span)?, POPULATED_MAX)?;
            }
            (10 | 13, value) => push_deltas(&mut self.sides[usize::from(number == 13)].1, value)?,
            (16, Field::Bytes(exemplar)) => {
                push(&mut self.own_exemplars, read_exemplar(exemplar)?, PARTS_MAX)?;
            }
            _ => {} // as above
        }
        Ok(())
    }

    fn bucket(&mut self, message: &[u8]) -> Result<(), Broken> {
        let (mut count, mut bound) = (0.0, 0.0);
        let mut fields = Reader::new(message);
        while let Some(field) = fields.next()? {
            match (field.number, field.value) {
                (1, Field::Varint(number)) => count = number as f64,
                (2, Field::Fixed64(bits)) => bound = f64::from_bits(bits),
                (3, Field::Bytes(exemplar)) => {
                    push(&mut self.exemplars, read_exemplar(exemplar)?, PARTS_MAX)?;
                }
                (4, Field::Fixed64(bits)) if f64::from_bits(bits) > 0.0 => count = f64::from_bits(bits),
                _ => {} // as above
            }
        }
        push(&mut self.classic.buckets, (bound, count), PARTS_MAX)
    }
}

fn read_span(message: &[u8]) -> Result<(i32, u32), Broken> {
    let (mut offset, mut length) = (0, 0);
    let mut fields = Reader::new(message);
    while let Some(field) = fields.next()? {
        match (field.number, field.value) {
            (1, Field::Varint(number)) => {
                offset = i32::try_from(unzigzag(number)).map_err(|_| "a span beyond all indexes")?;
            }
            (2, Field::Varint(number)) => {
                length = u32::try_from(number).map_err(|_| "a span beyond all indexes")?;
            }
            _ => {} // as above
        }
    }
    Ok((offset, length))
}

/// `repeated sint64`, packed or not.
fn push_deltas(deltas: &mut Vec<i64>, value: Field<'_>) -> Result<(), Broken> {
    match value {
        Field::Varint(delta) => push(deltas, unzigzag(delta), POPULATED_MAX),
        Field::Bytes(packed) => {
            let mut at = 0;
            while at < packed.len() {
                let (delta, behind) = varint(packed, at)?;
                push(deltas, unzigzag(delta), POPULATED_MAX)?;
                at = behind;
            }
            Ok(())
        }
        Field::Fixed64(_) | Field::Fixed32(_) => Ok(()),
    }
}

fn read_exemplar(message: &[u8]) -> Result<Exemplar, Broken> {
    let mut exemplar = Exemplar { value: 0.0, time: None, labels: Labels::new() };
    let mut fields = Reader::new(message);
    while let Some(field) = fields.next()? {
        match (field.number, field.value) {
            (1, Field::Bytes(pair)) => push_label(&mut exemplar.labels, pair)?,
            (2, Field::Fixed64(bits)) => exemplar.value = f64::from_bits(bits),
            (3, Field::Bytes(time)) => {
                exemplar.time = read_time(time)?.and_then(|nanos| i64::try_from(nanos).ok());
            }
            _ => {} // as above
        }
    }
    exemplar.labels.sort_unstable();
    Ok(exemplar)
}

/// A `Timestamp`: seconds in field 1, nanoseconds in field 2. Nothing for what is not after 1970.
fn read_time(message: &[u8]) -> Result<Option<u64>, Broken> {
    let (mut seconds, mut nanos) = (0, 0);
    let mut fields = Reader::new(message);
    while let Some(field) = fields.next()? {
        match (field.number, field.value) {
            (1, Field::Varint(value)) => seconds = value,
            (2, Field::Varint(value)) => nanos = value,
            _ => {} // as above
        }
    }
    let fits = nanos < SECOND && seconds < i64::MAX as u64 / SECOND;
    Ok(fits.then(|| seconds * SECOND + nanos).filter(|time| *time > 0))
}

fn text(bytes: &[u8]) -> Result<String, Broken> {
    match core::str::from_utf8(bytes) {
        Ok(text) => Ok(text.to_owned()),
        Err(_) => Err("a text that is not UTF-8".into()),
    }
}

fn push<T>(list: &mut Vec<T>, item: T, max: usize) -> Result<(), Broken> {
    if list.len() >= max {
        return Err(Broken(format!("a list of more than {max}")));
    }
    list.push(item);
    Ok(())
}
