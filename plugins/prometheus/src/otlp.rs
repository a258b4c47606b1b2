//! Families as OTLP metrics.
//!
//! ```text
//! job, instance                          ──▶ Resource: service.name, service.instance.id
//! target_info's labels                   ──▶ Resource
//! otel_scope_*                           ──▶ Scope
//! counter                                ──▶ Sum, cumulative, monotonic
//! gauge, unknown                         ──▶ Gauge
//! info, stateset                         ──▶ Sum, cumulative, not monotonic
//! histogram, native of custom bounds     ──▶ Histogram, cumulative; what is no histogram is dropped and counted
//! native histogram                       ──▶ ExponentialHistogram, cumulative; of floats: dropped and counted
//! summary                                ──▶ Summary; one without a count is dropped and counted
//! gaugehistogram                         ──▶ dropped and counted
//! stale NaN                              ──▶ a point with the flag "no recorded value"
//! ```
//!
//! Names stay as they are; the type stands in the metric's metadata as `prometheus.type`.

use std::collections::BTreeMap;

use weir_guest::wire::Encoder;

use crate::family::{Family, Labels, Point};
use crate::point::{self, Head, Shape};

pub use crate::point::STALE_NAN;

/// The series whose labels describe the target.
pub const TARGET_INFO: &str = "target_info";

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
    /// Of points that say none.
    scope: Vec<u8>,
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

/// Where points of one metric belong: `job` and `instance`, the scope, what they are.
type Place = ((String, String), Vec<u8>, Shape);

/// Where a point belongs, and what is left of its labels.
struct Placed {
    resource: (String, String),
    scope: Vec<u8>,
    labels: Labels,
}

impl<'t> Metrics<'t> {
    /// Nothing yet. `labels` are the target's, `time` is that of points without their own, in nanoseconds since the Unix epoch.
    #[must_use]
    pub fn new(labels: &'t [(String, String)], honor: Honor, time: u64) -> Self {
        let (resources, dropped) = (BTreeMap::new(), BTreeMap::new());
        Self { labels, honor, time, scope: Vec::new(), resources, dropped }
    }

    /// The scope of points that say none: who translates.
    #[must_use]
    pub fn scope(mut self, name: &str, version: &str) -> Self {
        self.scope = scope([("name", name), ("version", version)].into_iter());
        self
    }

    /// Points that are not there, by reason.
    #[must_use]
    pub fn dropped(&self) -> &BTreeMap<&'static str, u64> {
        &self.dropped
    }

    /// Takes a family.
    pub fn add(&mut self, family: &Family) {
        if family.name == TARGET_INFO {
            return family.points.iter().for_each(|point| self.describe(point));
        }
        let mut points: BTreeMap<Place, Encoder> = BTreeMap::new();
        for point in &family.points {
            let placed = self.place(&point.labels);
            let shape = Shape::of(family.kind, &point.value);
            let mut out = Encoder::new();
            match self.point(&mut out, shape, point, &placed.labels) {
                Ok(()) => {
                    let to = points.entry((placed.resource, placed.scope, shape)).or_default();
                    to.bytes(1, out.as_bytes());
                }
                Err(reason) => *self.dropped.entry(reason).or_default() += 1,
            }
        }
        for ((resource, scope, shape), points) in points {
            let to = self.resources.entry(resource).or_default().scopes.entry(scope).or_default();
            let Family { name, kind, help, unit, points: _ } = family;
            point::write_metric(to, &Head { name, kind: *kind, help, unit }, shape, points.as_bytes());
        }
    }

    /// The request; nothing for no points.
    #[must_use]
    pub fn finish(self, url: Option<&Url<'_>>) -> Option<Vec<u8>> {
        let mut out = Encoder::new();
        for ((job, instance), Resource { info, scopes }) in self.resources {
            if scopes.is_empty() {
                continue;
            }
            let group = out.open_large(1);
            let info = info.iter().map(|(name, value)| (&**name, &**value));
            write_resource(&mut out, &job, &instance, url, info);
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
            match (joined.get(&**name), self.honor) {
                (Some(_), Honor::Exposed) => continue,
                (Some(exposed), Honor::Target) if !exposed.is_empty() => {
                    let mut other = format!("exported_{name}");
                    while joined.contains_key(&*other) || exported.iter().any(|(name, _)| *name == other) {
                        other.insert_str(0, "exported_");
                    }
                    exported.push((other, (*exposed).to_owned()));
                }
                (_, _) => {}
            }
            joined.insert(name, value);
        }
        let mut take = |name: &str| joined.remove(name).unwrap_or_default().to_owned();
        let resource = (take("job"), take("instance"));
        let own = scope(joined.iter().filter_map(|(name, value)| Some((name.strip_prefix(SCOPE)?, *value))));
        joined.retain(|name, value| !name.starts_with(SCOPE) && !value.is_empty());
        let scope = if own.is_empty() { self.scope.clone() } else { own };
        let mut labels: Labels =
            joined.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        labels.extend(exported);
        labels.sort_unstable();
        Placed { resource, scope, labels }
    }

    fn point(
        &self,
        out: &mut Encoder,
        shape: Shape,
        point: &Point,
        labels: &Labels,
    ) -> Result<(), &'static str> {
        for (name, value) in labels {
            out.attribute_str(shape.attributes_field(), name, value);
        }
        let time = point.time.map_or(self.time, |time| u64::try_from(time).unwrap_or(0));
        point::write_times(out, point.start.unwrap_or(0), time);
        if point::write_value(out, shape, &point.value)? == point::Written::Recorded {
            for exemplar in &point.exemplars {
                let labels = exemplar.labels.iter().map(|(name, value)| (&**name, &**value));
                point::write_exemplar(out, shape, exemplar.value, exemplar.time, time, labels);
            }
        }
        Ok(())
    }
}

/// What a target's URL says of it.
#[derive(Clone, Copy, Debug)]
pub struct Url<'u> {
    /// A name or an address.
    pub host: &'u str,
    /// As text.
    pub port: &'u str,
    /// `http` or `https`.
    pub scheme: &'u str,
}

impl<'u> Url<'u> {
    /// The parts of a URL that was fetched; the port is that of its scheme where it says none.
    #[must_use]
    pub fn of(url: &'u str) -> Option<Self> {
        let (scheme, rest) = url.split_once("://")?;
        let authority = rest.split(['/', '?', '#']).next()?;
        let authority = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
        let usual = if scheme == "https" { "443" } else { "80" };
        // An address of IPv6 stands in brackets, with colons of its own.
        let (host, port) = match authority.strip_prefix('[').and_then(|inner| inner.split_once(']')) {
            Some((host, rest)) => (host, rest.strip_prefix(':').unwrap_or(usual)),
            None => authority.rsplit_once(':').unwrap_or((authority, usual)),
        };
        Some(Self { host, port, scheme })
    }
}

/// Writes a `Resource` as field 1. What `info` says of a key that is the target's does not count.
pub fn write_resource<'i>(
    out: &mut Encoder,
    job: &str,
    instance: &str,
    url: Option<&Url<'_>>,
    info: impl Iterator<Item = (&'i str, &'i str)>,
) {
    out.message(1, |resource| {
        let mut said = vec![("service.name", job), ("service.instance.id", instance)];
        if let Some(Url { host, port, scheme }) = url {
            said.extend([("server.address", *host), ("server.port", *port), ("url.scheme", *scheme)]);
        }
        said.retain(|(_, value)| !value.is_empty());
        for (key, value) in &said {
            resource.attribute_str(1, key, value);
        }
        for (name, value) in info {
            if !said.iter().any(|(key, _)| *key == name) {
                resource.attribute_str(1, name, value);
            }
        }
    });
}

/// What labels begin with that say a point's scope.
pub const SCOPE: &str = "otel_scope_";

/// Fields 1 and 3 of a `ScopeMetrics` from what labels say behind [`SCOPE`]; empty where they say nothing.
#[must_use]
pub fn scope<'s>(said: impl Iterator<Item = (&'s str, &'s str)>) -> Vec<u8> {
    let said: Vec<(&str, &str)> = said.filter(|(_, value)| !value.is_empty()).collect();
    let find = |key: &str| said.iter().find(|(name, _)| *name == key).map_or("", |(_, value)| value);
    let mut out = Encoder::new();
    if said.is_empty() {
        return out.into_bytes();
    }
    out.message(1, |scope| {
        scope.nonempty_bytes(1, find("name"));
        scope.nonempty_bytes(2, find("version"));
        let own = said.iter().filter(|(key, _)| !matches!(*key, "name" | "version" | "schema_url"));
        own.for_each(|(key, value)| scope.attribute_str(3, key, value));
    });
    out.nonempty_bytes(3, find("schema_url"));
    out.into_bytes()
}
