//! Families as OTLP metrics.
//!
//! ```text
//! job, instance                          ──▶ Resource: service.name, service.instance.id
//! target_info's labels                   ──▶ Resource
//! otel_scope_*                           ──▶ Scope
//! counter                                ──▶ Sum, cumulative, monotonic
//! gauge, unknown                         ──▶ Gauge
//! info, stateset                         ──▶ Sum, cumulative, not monotonic
//! histogram                              ──▶ Histogram, cumulative; what is no histogram is dropped and counted
//! summary                                ──▶ Summary; one without a count is dropped and counted
//! gaugehistogram                         ──▶ dropped and counted
//! stale NaN                              ──▶ a point with the flag "no recorded value"
//! ```
//!
//! Names stay as they are; the type stands in the metric's metadata as `prometheus.type`.

use std::collections::BTreeMap;

use weir_exposition::Kind;
use weir_guest::wire::Encoder;

use crate::family::{Exemplar, Family, Histogram, Labels, Point, Summary, Value};
use crate::units::ucum;

/// The bits of the NaN that says that a series is gone.
pub const STALE_NAN: u64 = 0x7ff0_0000_0000_0002;

/// The flag of a point that has no value.
const NO_RECORDED_VALUE: u64 = 1;

const CUMULATIVE: u64 = 2;

/// The series whose labels describe the target.
const TARGET_INFO: &str = "target_info";

/// Whose labels count where the target and what it exposes have the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Honor {
    /// The target's; the other is called `exported_…`.
    #[default]
    Target,
    /// What is exposed.
    Exposed,
}

/// Metrics of one fetch.
pub struct Metrics<'t> {
    /// Labels of the target, `job` and `instance` among them.
    labels: &'t [(String, String)],
    honor: Honor,
    /// Of points without a time of their own, nanoseconds since the Unix epoch.
    time: u64,
    resources: BTreeMap<(String, String), Resource>,
    /// Points that are not there, by reason.
    dropped: BTreeMap<&'static str, u64>,
}

#[derive(Default)]
struct Resource {
    info: Labels,
    /// Metrics by their scope's encoding.
    scopes: BTreeMap<Vec<u8>, Encoder>,
}

/// Where a point belongs, and what is left of its labels.
struct Placed {
    resource: (String, String),
    scope: Vec<u8>,
    labels: Labels,
}

impl<'t> Metrics<'t> {
    pub fn new(labels: &'t [(String, String)], honor: Honor, time: u64) -> Self {
        Self { labels, honor, time, resources: BTreeMap::new(), dropped: BTreeMap::new() }
    }

    /// Points that are not there, by reason.
    pub fn dropped(&self) -> &BTreeMap<&'static str, u64> {
        &self.dropped
    }

    /// Takes a family.
    pub fn add(&mut self, family: &Family) {
        if family.name == TARGET_INFO {
            return family.points.iter().for_each(|point| self.describe(point));
        }
        let mut points: BTreeMap<((String, String), Vec<u8>), Encoder> = BTreeMap::new();
        for point in &family.points {
            let placed = self.place(&point.labels);
            let mut out = Encoder::new();
            match self.point(&mut out, family.kind, point, &placed.labels) {
                Ok(()) => {
                    let to = points.entry((placed.resource, placed.scope)).or_default();
                    to.bytes(1, out.as_bytes());
                }
                Err(reason) => *self.dropped.entry(reason).or_default() += 1,
            }
        }
        for ((resource, scope), points) in points {
            let to = self.resources.entry(resource).or_default().scopes.entry(scope).or_default();
            write_metric(to, family, points.as_bytes());
        }
    }

    /// The request; nothing for no points.
    pub fn finish(self, url: Option<&Url<'_>>) -> Option<Vec<u8>> {
        let mut out = Encoder::new();
        for ((job, instance), Resource { info, scopes }) in self.resources {
            if scopes.is_empty() {
                continue;
            }
            let group = out.open_large(1);
            out.message(1, |resource| {
                let mut said = vec![("service.name", &*job), ("service.instance.id", &*instance)];
                if let Some(Url { host, port, scheme }) = url {
                    said.extend([("server.address", *host), ("server.port", *port), ("url.scheme", *scheme)]);
                }
                let is_said = |name: &str| said.iter().any(|(key, value)| *key == name && !value.is_empty());
                let info = info.iter().filter(|(name, _)| !is_said(name));
                for (key, value) in said.iter().filter(|(_, value)| !value.is_empty()) {
                    resource.attribute_str(1, key, value);
                }
                info.for_each(|(name, value)| resource.attribute_str(1, name, value));
            });
            for (scope, metrics) in scopes {
                let group = out.open_large(2);
                out.raw(&scope);
                out.raw(metrics.as_bytes());
                out.close(group);
            }
            out.close(group);
        }
        (!out.is_empty()).then(|| out.into_bytes())
    }

    /// A point of `target_info`.
    fn describe(&mut self, point: &Point) {
        let Placed { resource, labels, .. } = self.place(&point.labels);
        self.resources.entry(resource).or_default().info = labels;
    }

    /// Joins a point's labels with the target's, and takes those out that are not its own.
    fn place(&self, labels: &Labels) -> Placed {
        let mut joined: BTreeMap<&str, &str> =
            labels.iter().map(|(name, value)| (&**name, &**value)).collect();
        let mut exported: Labels = Vec::new();
        for (name, value) in self.labels {
            match (joined.contains_key(&**name), self.honor) {
                (true, Honor::Exposed) => continue,
                (true, Honor::Target) => {
                    let mut other = format!("exported_{name}");
                    while joined.contains_key(&*other) || exported.iter().any(|(name, _)| *name == other) {
                        other.insert_str(0, "exported_");
                    }
                    exported.push((other, joined[&**name].to_owned()));
                }
                (false, _) => {}
            }
            joined.insert(name, value);
        }
        let mut take = |name: &str| joined.remove(name).unwrap_or_default().to_owned();
        let resource = (take("job"), take("instance"));
        let scope = write_scope(&mut joined);
        let mut labels: Labels = joined
            .into_iter()
            .filter(|(_, value)| !value.is_empty())
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        labels.extend(exported);
        labels.sort_unstable();
        Placed { resource, scope, labels }
    }

    fn point(
        &self,
        out: &mut Encoder,
        kind: Kind,
        point: &Point,
        labels: &Labels,
    ) -> Result<(), &'static str> {
        let time = point.time.map_or(self.time, |time| u64::try_from(time).unwrap_or(0));
        let start = point.start.unwrap_or(0);
        match &point.value {
            Value::Number(value) => {
                write_labels(out, 7, labels);
                out.nonzero_fixed64(2, start);
                out.nonzero_fixed64(3, time);
                if value.to_bits() == STALE_NAN {
                    out.varint(8, NO_RECORDED_VALUE);
                } else {
                    out.double(4, *value);
                    write_exemplars(out, 5, &point.exemplars, time);
                }
                Ok(())
            }
            Value::Histogram(_) if kind == Kind::GaugeHistogram => {
                Err("a gauge histogram, which OTLP has not")
            }
            Value::Histogram(histogram) => {
                let parts = Parts::of(histogram)?;
                write_labels(out, 9, labels);
                out.nonzero_fixed64(2, start);
                out.nonzero_fixed64(3, time);
                match parts {
                    None => out.varint(10, NO_RECORDED_VALUE),
                    Some(parts) => {
                        parts.write(out);
                        write_exemplars(out, 8, &point.exemplars, time);
                    }
                }
                Ok(())
            }
            Value::Summary(summary) => {
                let Summary { quantiles, count, sum } = summary;
                let count = count.ok_or("a summary without a count")?;
                write_labels(out, 7, labels);
                out.nonzero_fixed64(2, start);
                out.nonzero_fixed64(3, time);
                if count.to_bits() == STALE_NAN {
                    out.varint(8, NO_RECORDED_VALUE);
                    return Ok(());
                }
                out.fixed64(4, whole(count).ok_or("a count that is none")?);
                out.double(5, sum.unwrap_or(0.0));
                for (quantile, value) in quantiles {
                    out.message(6, |out| {
                        out.double(1, *quantile);
                        out.double(2, *value);
                    });
                }
                Ok(())
            }
        }
    }
}

/// What a target's URL says of it.
pub struct Url<'u> {
    pub host: &'u str,
    pub port: &'u str,
    pub scheme: &'u str,
}

/// A histogram as OTLP has it: counts of single buckets.
struct Parts {
    bounds: Vec<f64>,
    counts: Vec<u64>,
    count: u64,
    sum: Option<f64>,
}

impl Parts {
    /// Nothing for one that is gone.
    fn of(histogram: &Histogram) -> Result<Option<Self>, &'static str> {
        let Histogram { buckets, count, sum } = histogram;
        let count = count.ok_or("a histogram without a count")?;
        if count.to_bits() == STALE_NAN {
            return Ok(None);
        }
        let count = whole(count).ok_or("a count that is none")?;
        let mut ordered: Vec<(f64, f64)> =
            buckets.iter().copied().filter(|(bound, _)| *bound != f64::INFINITY).collect();
        ordered.sort_by(|(left, _), (right, _)| left.total_cmp(right));
        let (mut bounds, mut counts, mut below) = (Vec::new(), Vec::new(), 0);
        for (bound, cumulative) in ordered {
            let cumulative = whole(cumulative).ok_or("a bucket that counts nothing whole")?;
            let own = cumulative.checked_sub(below).ok_or("buckets that fall")?;
            bounds.push(bound);
            counts.push(own);
            below = cumulative;
        }
        counts.push(count.checked_sub(below).ok_or("buckets that count more than there is")?);
        Ok(Some(Self { bounds, counts, count, sum: *sum }))
    }

    fn write(&self, out: &mut Encoder) {
        out.fixed64(4, self.count);
        if let Some(sum) = self.sum {
            out.double(5, sum);
        }
        out.packed_fixed64(6, self.counts.iter().copied());
        out.packed_double(7, self.bounds.iter().copied());
    }
}

/// A count; nothing for what is negative, broken or not a number.
fn whole(value: f64) -> Option<u64> {
    // Above 2^53 a double has no halves; above 2^64 it is no count.
    (value >= 0.0 && value.fract() == 0.0 && value < 1.8e19).then_some(value as u64)
}

fn write_metric(out: &mut Encoder, family: &Family, points: &[u8]) {
    let Family { name, kind, help, unit, points: _ } = family;
    let metric = out.open_large(2);
    out.string(1, name);
    out.nonempty_bytes(2, help);
    out.nonempty_bytes(3, ucum(unit));
    let (field, is_sum, is_monotonic) = match kind {
        Kind::Unknown | Kind::Gauge => (5, false, false),
        Kind::Counter => (7, true, true),
        Kind::Info | Kind::StateSet => (7, true, false),
        Kind::Histogram | Kind::GaugeHistogram => (9, true, false),
        Kind::Summary => (11, false, false),
    };
    let data = out.open_large(field);
    out.raw(points);
    if is_sum {
        out.varint(2, CUMULATIVE);
    }
    if is_monotonic {
        out.bool(3, true);
    }
    out.close(data);
    out.attribute_str(
        12,
        "prometheus.type",
        match kind {
            Kind::Unknown => "unknown",
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
            Kind::GaugeHistogram => "gaugehistogram",
            Kind::Summary => "summary",
            Kind::Info => "info",
            Kind::StateSet => "stateset",
        },
    );
    out.close(metric);
}

fn write_labels(out: &mut Encoder, field: u32, labels: &Labels) {
    for (name, value) in labels {
        out.attribute_str(field, name, value);
    }
}

/// The scope that labels say, as field 1 and 3 of a `ScopeMetrics`; takes them out.
fn write_scope(labels: &mut BTreeMap<&str, &str>) -> Vec<u8> {
    const PREFIX: &str = "otel_scope_";
    let said: Vec<(&str, &str)> = labels
        .iter()
        .filter(|(name, _)| name.starts_with(PREFIX))
        .map(|(name, value)| (*name, *value))
        .collect();
    labels.retain(|name, _| !name.starts_with(PREFIX));
    let find =
        |key: &str| said.iter().find(|(name, _)| &name[PREFIX.len()..] == key).map_or("", |(_, value)| value);
    let mut out = Encoder::new();
    if said.is_empty() {
        return out.into_bytes();
    }
    out.message(1, |scope| {
        scope.nonempty_bytes(1, find("name"));
        scope.nonempty_bytes(2, find("version"));
        let own = said.iter().map(|(name, value)| (&name[PREFIX.len()..], *value));
        let own = own.filter(|(key, _)| !matches!(*key, "name" | "version" | "schema_url"));
        own.for_each(|(key, value)| scope.attribute_str(3, key, value));
    });
    out.nonempty_bytes(3, find("schema_url"));
    out.into_bytes()
}

fn write_exemplars(out: &mut Encoder, field: u32, exemplars: &[Exemplar], time: u64) {
    for Exemplar { value, time: own, labels } in exemplars {
        let id = |name: &str, bytes: usize| {
            let text = labels.iter().find(|(label, _)| label == name)?;
            hex(&text.1).filter(|id| id.len() == bytes && id.iter().any(|byte| *byte != 0))
        };
        let (trace_id, span_id) = (id("trace_id", 16), id("span_id", 8));
        out.message(field, |out| {
            out.nonzero_fixed64(2, own.map_or(time, |own| u64::try_from(own).unwrap_or(0)));
            out.double(3, *value);
            if let Some(id) = &span_id {
                out.bytes(4, id);
            }
            if let Some(id) = &trace_id {
                out.bytes(5, id);
            }
            let is_id = |name: &str| {
                (name == "trace_id" && trace_id.is_some()) || (name == "span_id" && span_id.is_some())
            };
            for (name, value) in labels.iter().filter(|(name, _)| !is_id(name)) {
                out.attribute_str(7, name, value);
            }
        });
    }
}

fn hex(text: &str) -> Option<Vec<u8>> {
    let digit = |digit: u8| (digit as char).to_digit(16).and_then(|value| u8::try_from(value).ok());
    let pairs = text.as_bytes().chunks(2);
    pairs.map(|pair| Some(digit(pair[0])? << 4 | digit(*pair.get(1)?)?)).collect()
}
