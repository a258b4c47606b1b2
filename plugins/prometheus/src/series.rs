//! OTLP metrics as Prometheus' series: families, labels, values, point by point, read where the bytes lie.
//!
//! ```text
//! Sum, monotonic                  ──▶ counter; of delta temporality too: `Metric::is_delta`, see accumulate.rs
//! Sum, not monotonic, cumulative  ──▶ gauge, or what `prometheus.type` says: unknown, info, stateset
//! Gauge                           ──▶ gauge, or likewise
//! Histogram, ExponentialHistogram ──▶ histogram
//! Summary                         ──▶ summary
//! service.namespace/service.name  ──▶ job          service.instance.id  ──▶ instance
//! the rest of the resource        ──▶ labels of target_info
//! scope                           ──▶ otel_scope_name, otel_scope_version, otel_scope_schema_url, otel_scope_<attribute>
//! ```
//!
//! ```ignore
//! let mut translator = Translator::new(Options::default());
//! let read = translator.read(&batch.body, now, &mut sink)?; // sink.metric(…), sink.point(…), sink.point(…), sink.metric(…)
//! ```

use std::borrow::Cow;
use std::collections::BTreeMap;

use weir_exposition::Kind;
use weir_guest::json::JsonWriter;
use weir_guest::wire::Malformed;
use weir_guest::wire::otlp::{
    Each, ExemplarView, ExponentialPointView, HistogramPointView, KeyValues, MetricData, MetricView, Number,
    NumberPointView, ResourceGroup, ScopeGroup, SummaryPointView, View, resource_groups,
};

use crate::labels::{LABELS_BYTES_MAX, Labels};
use crate::names::{self, Instrument, Strategy};

/// Why a point is not taken: the label of its counter.
pub type Reason = &'static str;

/// The reasons of this crate.
pub mod reason {
    use super::Reason;

    /// Nothing is left of the metric's name.
    pub const NAME: Reason = "name";
    /// A delta that is not monotonic, or no temporality at all.
    pub const TEMPORALITY: Reason = "temporality";
    /// No value, or one that is not what it says it is.
    pub const MALFORMED: Reason = "malformed";
    /// More or longer labels, a longer name, more buckets than are taken.
    pub const SIZE: Reason = "size";
    /// A delta that tells again what was told.
    pub const OVERLAP: Reason = "overlap";
}

/// Bytes of a family's name: instruments may have 255.
pub const NAME_BYTES_MAX: usize = 1024;

/// Bytes of a description that are kept: it is for a person.
pub const HELP_BYTES_MAX: usize = 1024;

/// The name of the family that has the labels of resources.
pub const TARGET_INFO: &str = "target_info";

/// The flag of a point that has no value.
const NO_RECORDED_VALUE: u32 = 1;

const DELTA: i32 = 1;
const CUMULATIVE: i32 = 2;

/// Attributes of a resource that are labels of each series.
const IDENTITY: [&[u8]; 3] = [b"service.namespace", b"service.name", b"service.instance.id"];

/// How metrics become series.
#[derive(Clone, Debug)]
pub struct Options {
    /// How names are made.
    pub strategy: Strategy,
    /// Stands before each family's name; may be empty.
    pub namespace: String,
    /// Labels of every series that has not got them.
    pub const_labels: Vec<(String, String)>,
    /// Whether scopes become labels.
    pub scope_labels: bool,
    /// Whether all attributes of a resource become labels of its series; they replace the point's own of the same key, as
    /// in the Collector.
    pub resource_labels: bool,
    /// Whether there is a `target_info` for each resource.
    pub target_info: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            strategy: Strategy::default(),
            namespace: String::new(),
            const_labels: Vec::new(),
            scope_labels: true,
            resource_labels: false,
            target_info: true,
        }
    }
}

/// A metric as a family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metric<'m> {
    /// As the samples are called; of histograms and summaries without their suffixes. Not empty, UTF-8, at most
    /// [`NAME_BYTES_MAX`].
    pub name: &'m str,
    /// What it is. Never a gauge histogram.
    pub kind: Kind,
    /// For a person; at most [`HELP_BYTES_MAX`].
    pub help: &'m str,
    /// In Prometheus' words; may be empty.
    pub unit: &'m str,
    /// Whether points say what came since the last one.
    pub is_delta: bool,
    /// Whether it is [`TARGET_INFO`], which is made of a resource and not of a metric.
    pub is_target: bool,
}

/// A point of a series.
#[derive(Clone, Debug)]
pub struct Point<'b, 'l> {
    /// Sorted, each name once, no value empty; `job` and `instance` among them.
    pub labels: &'l Labels,
    /// Since when it counts, nanoseconds since the Unix epoch; 0 where nobody knows.
    pub start: u64,
    /// Nanoseconds since the Unix epoch; where the point does not say it, what [`Translator::read`] was told.
    pub time: u64,
    /// Whether the series has ended ("no recorded value"): the value means nothing then.
    pub is_gone: bool,
    /// What was measured.
    pub value: Value<'b>,
}

/// What was measured, as the batch has it.
#[derive(Clone, Debug)]
pub enum Value<'b> {
    /// Of counters, gauges and the like.
    Number(f64, Each<'b, ExemplarView<'b>>),
    /// A histogram with bounds.
    Histogram(HistogramPointView<'b>),
    /// A histogram with a scale.
    Exponential(ExponentialPointView<'b>),
    /// Quantiles.
    Summary(SummaryPointView<'b>),
}

/// Takes series.
pub trait Sink {
    /// A metric begins: what follows are its points.
    ///
    /// # Errors
    /// Why none of its points is taken.
    fn metric(&mut self, metric: &Metric<'_>) -> Result<(), Reason>;

    /// A point of a metric that was taken.
    ///
    /// # Errors
    /// Why it is not taken.
    fn point(&mut self, metric: &Metric<'_>, point: &Point<'_, '_>) -> Result<(), Reason>;
}

/// What became of a batch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Read {
    /// Data points that were in it.
    pub points: u32,
    /// Points that were not taken, by reason.
    pub dropped: BTreeMap<Reason, u32>,
    /// Resources whose `target_info` was not taken; no point is lost by that.
    pub targets_dropped: u32,
}

impl Read {
    /// Points that were not taken.
    #[must_use]
    pub fn rejected(&self) -> u32 {
        self.dropped.values().fold(0, |all, some| all.saturating_add(*some))
    }

    fn drop(&mut self, reason: Reason) {
        *self.dropped.entry(reason).or_default() += 1;
    }
}

/// Reads batches.
#[derive(Debug)]
pub struct Translator {
    options: Options,
    /// Labels that are the same in all of a scope.
    base: Labels,
    /// Labels of the point at hand.
    labels: Labels,
    scratch: JsonWriter,
    name: String,
    unit: String,
    /// The newest time of a resource's points.
    newest: u64,
}

impl Translator {
    /// A translator; it can read any number of batches.
    #[must_use]
    pub fn new(options: Options) -> Self {
        Self {
            options,
            base: Labels::default(),
            labels: Labels::default(),
            scratch: JsonWriter::default().limited(LABELS_BYTES_MAX),
            name: String::new(),
            unit: String::new(),
            newest: 0,
        }
    }

    /// Reads an `ExportMetricsServiceRequest` and hands on its points. `now` stands for the time of points that have none.
    ///
    /// # Errors
    /// [`Malformed`] where it is not made of whole resources, scopes and metrics; what came before has been handed on.
    pub fn read(&mut self, body: &[u8], now: u64, sink: &mut impl Sink) -> Result<Read, Malformed> {
        let mut read = Read::default();
        for group in resource_groups(body) {
            let group = group?;
            let attributes = KeyValues::new(group.resource, 1);
            self.newest = 0;
            let identity = self.identity(&attributes);
            for scope in group.scopes() {
                let scope = scope?;
                let is_fit = identity.and_then(|()| self.scope(&attributes, &scope));
                for metric in scope.metrics() {
                    self.metric(&metric?, &attributes, is_fit, now, sink, &mut read);
                }
            }
            if self.options.target_info && self.newest > 0 && self.target(&group, &attributes, sink).is_err()
            {
                read.targets_dropped += 1;
            }
        }
        Ok(read)
    }

    /// Begins the labels with the resource's.
    fn identity(&mut self, resource: &KeyValues<'_>) -> Result<(), Reason> {
        let Self { base, labels, scratch, options, .. } = self;
        base.clear();
        // Its texts are taken by way of labels, which bound them.
        let mut text = |key: &[u8]| -> Result<Option<String>, Reason> {
            labels.clear();
            let Some(value) = resource.clone().get(key) else { return Ok(None) };
            labels.attribute(options.strategy, "", b"v", &value, scratch)?;
            Ok(labels.iter().next().map(|(_, value)| value.to_owned()))
        };
        let [namespace, name, instance] = IDENTITY;
        if let Some(name) = text(name)? {
            match text(namespace)? {
                Some(namespace) => base.fixed("job", &format!("{namespace}/{name}"))?,
                None => base.fixed("job", &name)?,
            }
        }
        if let Some(instance) = text(instance)? {
            base.fixed("instance", &instance)?;
        }
        Ok(())
    }

    /// Goes on with the scope's, in place of another scope's.
    fn scope(&mut self, resource: &KeyValues<'_>, group: &ScopeGroup<'_>) -> Result<(), Reason> {
        self.identity(resource)?;
        if !self.options.scope_labels {
            return Ok(());
        }
        let Self { base, scratch, options, .. } = self;
        let scope = group.scope_view().map_err(|_| reason::MALFORMED)?;
        base.fixed("otel_scope_name", &String::from_utf8_lossy(scope.name))?;
        base.fixed("otel_scope_version", &String::from_utf8_lossy(scope.version))?;
        base.fixed("otel_scope_schema_url", &String::from_utf8_lossy(group.schema_url))?;
        for attribute in scope.attributes() {
            let attribute = attribute.map_err(|_| reason::MALFORMED)?;
            if !matches!(attribute.key, b"name" | b"version" | b"schema_url") {
                base.attribute(options.strategy, "otel_scope_", attribute.key, &attribute.value, scratch)?;
            }
        }
        Ok(())
    }

    fn metric(
        &mut self,
        view: &MetricView<'_>,
        resource: &KeyValues<'_>,
        is_fit: Result<(), Reason>,
        now: u64,
        sink: &mut impl Sink,
        read: &mut Read,
    ) {
        let mut name = std::mem::take(&mut self.name);
        let mut unit = std::mem::take(&mut self.unit);
        let help = help_of(view.description);
        let metric =
            is_fit.and_then(|()| self.family(view, &mut name, &mut unit)).and_then(|(kind, is_delta)| {
                let (name, unit) = (&*name, &*unit);
                let metric = Metric { name, kind, help: &help, unit, is_delta, is_target: false };
                sink.metric(&metric).map(|()| metric)
            });
        let mut walk = Walk { translator: &mut *self, resource, metric, now, sink, read };
        match &view.data {
            MetricData::Empty => {}
            MetricData::Gauge(points) | MetricData::Sum { points, .. } => walk.numbers(points.clone()),
            MetricData::Histogram { points, .. } => walk.histograms(points.clone()),
            MetricData::ExponentialHistogram { points, .. } => walk.exponentials(points.clone()),
            MetricData::Summary(points) => walk.summaries(points.clone()),
        }
        (self.name, self.unit) = (name, unit);
    }

    /// What a metric's family is: its kind, and whether its points are deltas.
    fn family(
        &self,
        view: &MetricView<'_>,
        name: &mut String,
        unit: &mut String,
    ) -> Result<(Kind, bool), Reason> {
        let said = || match view.metadata().get(b"prometheus.type") {
            Some(weir_guest::wire::otlp::AnyValue::String(said)) => said,
            Some(_) | None => b"",
        };
        let gauge = || match said() {
            b"unknown" => Kind::Unknown,
            b"info" => Kind::Info,
            b"stateset" => Kind::StateSet,
            _ => Kind::Gauge,
        };
        let (kind, temporality, instrument) = match &view.data {
            MetricData::Empty => return Err(reason::MALFORMED),
            MetricData::Gauge(_) => (gauge(), CUMULATIVE, Instrument::Gauge),
            MetricData::Sum { temporality, is_monotonic: true, .. } => {
                (Kind::Counter, *temporality, Instrument::Counter)
            }
            // What was added since nobody knows when is no gauge.
            MetricData::Sum { temporality: DELTA, .. } => return Err(reason::TEMPORALITY),
            MetricData::Sum { temporality, .. } => (gauge(), *temporality, Instrument::Other),
            MetricData::Histogram { temporality, .. } => (Kind::Histogram, *temporality, Instrument::Other),
            MetricData::ExponentialHistogram { temporality, .. } => {
                (Kind::Histogram, *temporality, Instrument::Other)
            }
            MetricData::Summary(_) => (Kind::Summary, CUMULATIVE, Instrument::Other),
        };
        if !matches!(temporality, DELTA | CUMULATIVE) {
            return Err(reason::TEMPORALITY);
        }
        if view.name.len() > NAME_BYTES_MAX || view.unit.len() > NAME_BYTES_MAX {
            return Err(reason::SIZE);
        }
        let Options { strategy, namespace, .. } = &self.options;
        let (own, ucum) = (String::from_utf8_lossy(view.name), String::from_utf8_lossy(view.unit));
        *name = names::metric(*strategy, namespace, &own, &ucum, instrument);
        *unit = names::unit(&ucum, instrument);
        match name.len() {
            0 => Err(reason::NAME),
            1..=NAME_BYTES_MAX => Ok((kind, temporality == DELTA)),
            _ => Err(reason::SIZE),
        }
    }

    /// The labels of a point.
    fn label(
        &mut self,
        attributes: KeyValues<'_>,
        resource: &KeyValues<'_>,
        kind: Kind,
    ) -> Result<(), Reason> {
        let Self { options, base, labels, scratch, .. } = self;
        labels.copy_from(base);
        for attribute in attributes {
            let attribute = attribute.map_err(|_| reason::MALFORMED)?;
            labels.attribute(options.strategy, "", attribute.key, &attribute.value, scratch)?;
        }
        if options.resource_labels {
            for attribute in resource.clone() {
                let attribute = attribute.map_err(|_| reason::MALFORMED)?;
                labels.attribute(options.strategy, "", attribute.key, &attribute.value, scratch)?;
            }
        }
        let reserved = match kind {
            Kind::Histogram => "le",
            Kind::Summary => "quantile",
            _ => "",
        };
        labels.settle(reserved, &options.const_labels)
    }

    /// The `target_info` of a resource, where it says more than which one it is.
    fn target(
        &mut self,
        group: &ResourceGroup<'_>,
        resource: &KeyValues<'_>,
        sink: &mut impl Sink,
    ) -> Result<(), Reason> {
        self.identity(resource)?;
        if self.base.is_empty() || group.resource.is_empty() {
            return Ok(());
        }
        let Self { options, base, labels, scratch, newest, .. } = self;
        labels.copy_from(base);
        let identity = labels.len();
        for attribute in resource.clone() {
            let attribute = attribute.map_err(|_| reason::MALFORMED)?;
            if !IDENTITY.contains(&attribute.key) {
                labels.attribute(options.strategy, "", attribute.key, &attribute.value, scratch)?;
            }
        }
        if labels.len() == identity {
            return Ok(());
        }
        labels.settle("", &options.const_labels)?;
        let metric = Metric {
            name: TARGET_INFO,
            kind: Kind::Info,
            help: "Target metadata",
            unit: "",
            is_delta: false,
            is_target: true,
        };
        sink.metric(&metric)?;
        let value = Value::Number(1.0, Each::new(&[], 5));
        sink.point(&metric, &Point { labels, start: 0, time: *newest, is_gone: false, value })
    }
}

/// The points of one metric.
struct Walk<'w, 'r, S> {
    translator: &'w mut Translator,
    resource: &'w KeyValues<'r>,
    metric: Result<Metric<'w>, Reason>,
    now: u64,
    sink: &'w mut S,
    read: &'w mut Read,
}

impl<S: Sink> Walk<'_, '_, S> {
    fn numbers<'b>(&mut self, points: Each<'b, NumberPointView<'b>>) {
        self.each(points, |point| {
            let times = (point.start_time_unix_nano, point.time_unix_nano, point.flags);
            let value = match point.value {
                Number::Int(number) => number as f64,
                Number::Double(number) => number,
                Number::Empty if point.flags & NO_RECORDED_VALUE == 0 => return Err(reason::MALFORMED),
                Number::Empty => 0.0,
            };
            Ok((times, point.attributes(), Value::Number(value, point.exemplars())))
        });
    }

    fn histograms<'b>(&mut self, points: Each<'b, HistogramPointView<'b>>) {
        self.each(points, |point| {
            let times = (point.start_time_unix_nano, point.time_unix_nano, point.flags);
            Ok((times, point.attributes(), Value::Histogram(point)))
        });
    }

    fn exponentials<'b>(&mut self, points: Each<'b, ExponentialPointView<'b>>) {
        self.each(points, |point| {
            let times = (point.start_time_unix_nano, point.time_unix_nano, point.flags);
            Ok((times, point.attributes(), Value::Exponential(point)))
        });
    }

    fn summaries<'b>(&mut self, points: Each<'b, SummaryPointView<'b>>) {
        self.each(points, |point| {
            let times = (point.start_time_unix_nano, point.time_unix_nano, point.flags);
            Ok((times, point.attributes(), Value::Summary(point)))
        });
    }

    fn each<'b, V: View<'b>>(
        &mut self,
        points: Each<'b, V>,
        look: impl Fn(V) -> Result<((u64, u64, u32), KeyValues<'b>, Value<'b>), Reason>,
    ) {
        for point in points {
            self.read.points = self.read.points.saturating_add(1);
            let taken = self.metric.and_then(|metric| {
                let ((start, time, flags), attributes, value) = look(point.map_err(|_| reason::MALFORMED)?)?;
                let translator = &mut *self.translator;
                translator.label(attributes, self.resource, metric.kind)?;
                let time = if time == 0 { self.now } else { time };
                translator.newest = translator.newest.max(time);
                let is_gone = flags & NO_RECORDED_VALUE != 0;
                let point = Point { labels: &translator.labels, start, time, is_gone, value };
                self.sink.point(&metric, &point)
            });
            if let Err(reason) = taken {
                self.read.drop(reason);
            }
        }
    }
}

/// A description as far as it is kept.
fn help_of(description: &[u8]) -> Cow<'_, str> {
    // Cut between characters: continuation bytes begin with 10.
    let mut end = description.len().min(HELP_BYTES_MAX);
    while end < description.len() && end > 0 && description[end] & 0xc0 == 0x80 {
        end -= 1;
    }
    String::from_utf8_lossy(&description[..end])
}

#[cfg(test)]
mod tests;
