//! What a body in protobuf tells of each series, read field by field, without any of the plugins' own readers.
//!
//! What becomes of it is what `LOSSY.md` of the three plugins says, each at its line here.

use std::collections::{BTreeMap, BTreeSet};

use weir_exposition::Kind;
use weir_guest::wire::reader::{unzigzag, varint};
use weir_guest::wire::{Reader, Value as Field};

/// A series: its labels, `__name__` among them, bounds and quantiles as `{:?}` writes numbers.
pub(crate) type Key = BTreeMap<String, String>;

/// Series with what is known of them.
pub(crate) type All = BTreeMap<Key, Shown>;

/// What is known of a series.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Shown {
    pub(crate) kind: Kind,
    pub(crate) help: String,
    pub(crate) unit: String,
    pub(crate) value: Value,
    /// Milliseconds since the Unix epoch.
    pub(crate) time: i64,
    /// Likewise; 0 for unknown.
    pub(crate) start: i64,
    /// As [`exemplar`] writes them, in order.
    pub(crate) exemplars: BTreeSet<String>,
}

/// What was measured.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    /// As `{:?}` writes it: NaN is NaN, and -0.0 is not 0.0.
    Number(String),
    Native(Native),
}

/// A native histogram.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Native {
    pub(crate) count: u64,
    pub(crate) sum: f64,
    pub(crate) schema: i32,
    pub(crate) zero_threshold: f64,
    pub(crate) zero_count: u64,
    /// Indexes and counts of the buckets that are not empty.
    pub(crate) negative: Vec<(i64, u64)>,
    pub(crate) positive: Vec<(i64, u64)>,
}

impl Default for Value {
    fn default() -> Self {
        number(0.0)
    }
}

pub(crate) fn number(value: f64) -> Value {
    Value::Number(format!("{value:?}"))
}

/// An exemplar as text; `time` in milliseconds.
pub(crate) fn exemplar<'l>(
    value: f64,
    time: i64,
    labels: impl Iterator<Item = (&'l str, &'l str)>,
) -> String {
    let labels: BTreeMap<_, _> = labels.collect();
    format!("{value:?} at {time} {labels:?}")
}

/// Buckets that are not empty, of spans `(offset, length)` and deltas.
pub(crate) fn buckets(spans: &[(i64, u64)], deltas: &[i64]) -> Vec<(i64, u64)> {
    let (mut index, mut count, mut deltas) = (0, 0, deltas.iter());
    let mut buckets = Vec::new();
    for (offset, length) in spans {
        index += offset;
        for _ in 0..*length {
            count += deltas.next().expect("a delta for each bucket");
            buckets.push((index, u64::try_from(count).expect("a count")));
            index += 1;
        }
    }
    assert_eq!(deltas.next(), None);
    // An empty bucket within a span says as much as a gap between two.
    buckets.retain(|(_, count)| *count > 0);
    buckets
}

// === messages ===

/// The fields of a message.
struct Message<'a>(Vec<(u32, Field<'a>)>);

impl<'a> Message<'a> {
    fn of(bytes: &'a [u8]) -> Self {
        let (mut fields, mut reader) = (Vec::new(), Reader::new(bytes));
        while let Some(field) = reader.next().expect("a message") {
            fields.push((field.number, field.value));
        }
        Self(fields)
    }

    fn each(&self, number: u32) -> impl Iterator<Item = Field<'a>> {
        self.0.iter().filter(move |(found, _)| *found == number).map(|(_, value)| *value)
    }

    fn has(&self, number: u32) -> bool {
        self.each(number).next().is_some()
    }

    fn messages(&self, number: u32) -> impl Iterator<Item = Message<'a>> {
        self.each(number).filter_map(Field::bytes).map(Message::of)
    }

    fn message(&self, number: u32) -> Message<'a> {
        self.messages(number).last().unwrap_or(Message(Vec::new()))
    }

    fn text(&self, number: u32) -> String {
        let bytes = self.each(number).filter_map(Field::bytes).last().unwrap_or_default();
        String::from_utf8(bytes.to_vec()).expect("UTF-8")
    }

    fn int(&self, number: u32) -> u64 {
        self.each(number).filter_map(Field::varint).last().unwrap_or(0)
    }

    fn double(&self, number: u32) -> f64 {
        let double = |field| if let Field::Fixed64(bits) = field { Some(f64::from_bits(bits)) } else { None };
        self.each(number).filter_map(double).last().unwrap_or(0.0)
    }

    /// Signed numbers, packed or not.
    fn signed(&self, number: u32) -> Vec<i64> {
        let mut all = Vec::new();
        for field in self.each(number) {
            match field {
                Field::Varint(value) => all.push(unzigzag(value)),
                Field::Bytes(packed) => {
                    let mut at = 0;
                    while at < packed.len() {
                        let (value, behind) = varint(packed, at).expect("a number");
                        all.push(unzigzag(value));
                        at = behind;
                    }
                }
                other => panic!("{other:?}"),
            }
        }
        all
    }

    /// A `Timestamp` in milliseconds.
    fn time(&self, number: u32) -> Option<i64> {
        let time = self.has(number).then(|| self.message(number))?;
        Some((time.int(1) * 1_000 + time.int(2) / 1_000_000).cast_signed())
    }

    fn labels(&self, number: u32) -> Vec<(String, String)> {
        self.messages(number).map(|pair| (pair.text(1), pair.text(2))).collect()
    }

    /// Exemplars; those without a time have that of their point.
    fn exemplars(&self, number: u32, time: i64) -> BTreeSet<String> {
        let all = self.messages(number).map(|one| {
            let labels = one.labels(1);
            let labels = labels.iter().map(|(name, value)| (&**name, &**value));
            exemplar(one.double(2), one.time(3).unwrap_or(time), labels)
        });
        all.collect()
    }

    fn side(&self, spans: u32, deltas: u32) -> Vec<(i64, u64)> {
        let spans: Vec<(i64, u64)> =
            self.messages(spans).map(|span| (unzigzag(span.int(1)), span.int(2))).collect();
        buckets(&spans, &self.signed(deltas))
    }
}

// === families ===

/// Everything that a body tells.
#[derive(Debug, Default)]
pub(crate) struct Told {
    pub(crate) series: All,
    /// Families that have series.
    pub(crate) families: BTreeMap<String, (Kind, String, String)>,
}

/// What the samples of a point have in common.
struct Point<'t> {
    told: &'t mut Told,
    family: &'t str,
    labels: Key,
    shown: Shown,
}

/// What a body tells that was fetched at a time, of a target with these labels.
pub(crate) fn told(body: &[u8], at: i64, target: &[(String, String)]) -> Told {
    let (mut told, mut place) = (Told::default(), 0);
    while place < body.len() {
        let (length, begin) = varint(body, place).expect("a length");
        place = begin + usize::try_from(length).expect("a length");
        let family = Message::of(&body[begin..place]);
        let (name, help, unit) = (family.text(1), family.text(2), family.text(5));
        let kind = [Kind::Counter, Kind::Gauge, Kind::Summary, Kind::Unknown, Kind::Histogram]
            .get(usize::try_from(family.int(3)).expect("a type"));
        // OTLP has no gauge histograms.
        let Some(kind) = kind.copied() else { continue };
        for metric in family.messages(4) {
            let time = if metric.has(6) { metric.int(6).cast_signed() } else { at };
            let labels = labels(&metric, target);
            let shown = Shown { kind, help: help.clone(), unit: unit.clone(), time, ..Shown::default() };
            let mut point = Point { told: &mut told, family: &name, labels, shown };
            match kind {
                Kind::Counter => point.counter(&metric.message(3)),
                Kind::Gauge => point.put("", None, metric.message(2).double(1)),
                Kind::Summary => point.summary(&metric.message(4)),
                Kind::Unknown => point.put("", None, metric.message(5).double(1)),
                _ => point.histogram(&metric.message(7)),
            }
        }
    }
    told
}

/// The labels of a point and of its target; empty ones say nothing, and what both have is the target's.
fn labels(metric: &Message<'_>, target: &[(String, String)]) -> Key {
    let mut labels = Key::new();
    for (name, value) in metric.labels(1).into_iter().filter(|(_, value)| !value.is_empty()) {
        let is_target = target.iter().any(|(known, _)| *known == name);
        labels.insert(if is_target { format!("exported_{name}") } else { name }, value);
    }
    labels.extend(target.iter().cloned());
    labels
}

impl Point<'_> {
    fn add(&mut self, suffix: &str, own: Option<(&str, f64)>, shown: Shown) {
        let mut key = self.labels.clone();
        key.insert("__name__".into(), format!("{}{suffix}", self.family));
        key.extend(own.map(|(label, bound)| (label.to_owned(), format!("{bound:?}"))));
        let Shown { kind, help, unit, .. } = &shown;
        self.told.families.insert(self.family.to_owned(), (*kind, help.clone(), unit.clone()));
        assert_eq!(self.told.series.insert(key, shown), None, "a series twice");
    }

    fn put(&mut self, suffix: &str, own: Option<(&str, f64)>, value: f64) {
        self.add(suffix, own, Shown { value: number(value), ..self.shown.clone() });
    }

    fn counter(&mut self, counter: &Message<'_>) {
        self.shown.start = counter.time(3).unwrap_or(0);
        let exemplars = counter.exemplars(2, self.shown.time);
        self.add("", None, Shown { value: number(counter.double(1)), exemplars, ..self.shown.clone() });
    }

    fn summary(&mut self, summary: &Message<'_>) {
        self.shown.start = summary.time(4).unwrap_or(0);
        for quantile in summary.messages(3) {
            self.put("", Some(("quantile", quantile.double(1))), quantile.double(2));
        }
        self.put("_count", None, summary.int(1) as f64);
        self.put("_sum", None, summary.double(2));
    }

    fn histogram(&mut self, histogram: &Message<'_>) {
        self.shown.start = histogram.time(15).unwrap_or(0);
        let is_native = [5, 6, 9, 12].iter().any(|field| histogram.has(*field));
        let is_float = histogram.double(4) > 0.0;
        let schema = unzigzag(histogram.int(5));
        let has_classic = histogram.has(3);
        if is_native && !is_float && (-4..=8).contains(&schema) {
            return self.native(histogram, schema);
        }
        // Of custom buckets nothing but count and sum is told; what else OTLP has not is dropped.
        if is_native && !has_classic && schema != -53 {
            return;
        }
        let count = if is_float { histogram.double(4) } else { histogram.int(1) as f64 };
        let (mut is_closed, time) = (false, self.shown.time);
        for bucket in histogram.messages(3) {
            let bound = bucket.double(2);
            is_closed |= bound == f64::INFINITY;
            let own = if bucket.double(4) > 0.0 { bucket.double(4) } else { bucket.int(1) as f64 };
            let shown =
                Shown { value: number(own), exemplars: bucket.exemplars(3, time), ..self.shown.clone() };
            self.add("_bucket", Some(("le", bound)), shown);
        }
        if !is_closed {
            self.put("_bucket", Some(("le", f64::INFINITY)), count);
        }
        self.put("_count", None, count);
        self.put("_sum", None, histogram.double(2));
    }

    fn native(&mut self, histogram: &Message<'_>, schema: i64) {
        let threshold = histogram.double(6);
        let [mut negative, mut positive] = [histogram.side(9, 10), histogram.side(12, 13)];
        // Values that are infinite lie behind 2^1024, and are in no bucket of OTLP.
        let last = if schema >= 0 { 1024 << schema } else { 1024 >> -schema };
        for side in [&mut negative, &mut positive] {
            side.retain(|(index, _)| *index <= last);
        }
        let zero_count = histogram.int(7);
        let counts = negative.iter().chain(&positive).map(|(_, count)| count);
        let native = Native {
            // That of its buckets.
            count: zero_count + counts.sum::<u64>(),
            sum: histogram.double(2),
            schema: i32::try_from(schema).expect("a schema"),
            // A threshold of 0 is written as the default.
            zero_threshold: if threshold == 0.0 { 1e-128 } else { threshold },
            zero_count,
            negative,
            positive,
        };
        let time = self.shown.time;
        let own = histogram.exemplars(16, time);
        let of_buckets = histogram.messages(3).flat_map(|bucket| bucket.exemplars(3, time)).collect();
        let exemplars = if own.is_empty() { of_buckets } else { own };
        self.add("", None, Shown { value: Value::Native(native), exemplars, ..self.shown.clone() });
    }
}
