//! One scrape: samples in, points out.
//!
//! ```text
//! exposed labels ─▶ the target's ─▶ rules ─▶ limits ─▶ family ─▶ home ─▶ attributes ─▶ a point, or a part of one that is held
//! ```

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::hash::BuildHasherDefault;

use weir_exposition::{Kind, float};
use weir_guest::wire::Encoder;
use weir_guest::wire::walk::ATTRIBUTES_MAX;
use weir_prometheus::family::Value;
use weir_prometheus::native::{CUSTOM_BUCKETS, Native};
use weir_prometheus::otlp::{SCOPE, TARGET_INFO, scope};
use weir_prometheus::point::{self, Shape};

use crate::families::{Families, Role};
use crate::held::{Held, Key, Of, Part, TWICE, hash_at};
use crate::limits;
use crate::relabel::{NAME, Pair, get, set};
use crate::room::{NATIVE_COST, PART_COST, Room, TIMED_COST};
use crate::series::{AsIs, MetricKey, Seen, Series, Sight};
use crate::settings::Job;
use crate::sheet::{POINTS_BYTES_MAX, Sheet};

/// Why a scrape fails whose target has more than can be remembered.
const FULL: &str = "more series, names and labels than there is room for in state_mib: drop some, or raise state_mib and \
    limits.memory_mib to at least twice that";

/// Why a scrape fails that takes more memory than there is.
const TOO_MUCH: &str = "the scrape takes more memory than there is beside state_mib: drop some of it, or raise state_mib and \
    limits.memory_mib to at least twice that";

/// The labels of a target.
pub(crate) struct Frame<'t> {
    /// All of them.
    pub(crate) all: &'t [(String, String)],
    pub(crate) job: &'t str,
    pub(crate) instance: &'t str,
    /// The scope of points that say none.
    pub(crate) scope: Vec<u8>,
}

impl<'t> Frame<'t> {
    pub(crate) fn of(labels: &'t [(String, String)]) -> Self {
        let find = |name: &str| labels.iter().find(|(label, _)| label == name).map_or("", |(_, value)| value);
        let translator = [("name", env!("CARGO_PKG_NAME")), ("version", env!("CARGO_PKG_VERSION"))];
        Self {
            all: labels,
            job: find("job"),
            instance: find("instance"),
            scope: scope(translator.into_iter()),
        }
    }
}

/// A sample, but for its name and labels.
pub(crate) struct Sample<'s> {
    pub(crate) value: f64,
    /// A native histogram in the place of a number.
    pub(crate) native: Option<Native>,
    /// Nanoseconds since the Unix epoch, where the target says it.
    pub(crate) time: Option<i64>,
    /// Since when it counts, where that is said with it.
    pub(crate) start: Option<u64>,
    pub(crate) exemplars: &'s [Exemplar<'s>],
}

/// One of the things that a sample counts.
pub(crate) struct Exemplar<'s> {
    pub(crate) value: f64,
    pub(crate) time: Option<i64>,
    pub(crate) labels: Vec<(&'s str, &'s str)>,
}

/// One scrape.
pub(crate) struct Intake<'s> {
    pub(crate) job: &'s Job,
    pub(crate) frame: &'s Frame<'s>,
    pub(crate) series: &'s mut Series,
    room: Room,
    /// Bytes of what is read.
    pub(crate) body_bytes: usize,
    /// Nanoseconds since the Unix epoch.
    pub(crate) at: u64,
    pub(crate) families: Families,
    pub(crate) sheet: Sheet,
    /// Samples, all of them and those that are left after the rules.
    pub(crate) scraped: usize,
    pub(crate) added: usize,
    /// Of series that were not there before.
    pub(crate) new: usize,
    /// Samples that are in no point, by reason.
    pub(crate) dropped: BTreeMap<&'static str, u64>,
    held: Held,
    /// What the points cost that were held and are being written.
    closing_bytes: usize,
    /// Series that came with a time, with it.
    timed: HashSet<u64, BuildHasherDefault<AsIs>>,
    /// The target's own home.
    own: usize,
    attributes: Encoder,
    exemplars: Encoder,
}

/// What a sample is on its way: its family, its metric, which point of it.
struct Placed {
    resolved: usize,
    kind: Kind,
    role: Role,
    metric: usize,
    shape: Shape,
    bound: f64,
}

type Pairs<'p> = Vec<(&'p str, &'p str)>;

impl<'s> Intake<'s> {
    pub(crate) fn new(
        job: &'s Job,
        frame: &'s Frame<'s>,
        series: &'s mut Series,
        room: Room,
        at: u64,
        has_starts: bool,
    ) -> Self {
        series.begin();
        let own = series.home(frame.job, frame.instance, &frame.scope);
        Self {
            job,
            frame,
            series,
            room,
            body_bytes: 0,
            at,
            families: Families::new(has_starts),
            sheet: Sheet::default(),
            scraped: 0,
            added: 0,
            new: 0,
            dropped: BTreeMap::new(),
            held: Held::default(),
            closing_bytes: 0,
            timed: HashSet::default(),
            own,
            attributes: Encoder::new(),
            exemplars: Encoder::new(),
        }
    }

    /// The number of the target's own resource.
    pub(crate) fn own_resource(&self) -> usize {
        self.series.homes[self.own].resource
    }

    /// Holds what is remembered and what the scrape takes against the room there is; `next` is what the next sample may take beside.
    ///
    /// # Errors
    /// What is too much: the whole scrape fails.
    pub(crate) fn fits(&self, next: usize) -> Result<(), String> {
        let state = self.series.cost();
        if state > self.room.state {
            return Err(FULL.to_owned());
        }
        let bytes = self.sheet.bytes();
        if bytes > POINTS_BYTES_MAX {
            return Err(format!(
                "more than {POINTS_BYTES_MAX} bytes of points in one scrape: set sample_limit, or drop some"
            ));
        }
        let held = self.held.bytes() + self.closing_bytes + self.timed.len() * TIMED_COST;
        let reading = self.body_bytes + self.families.bytes() + held + self.sheet.cost();
        // What is read is gone when batches are made of the points.
        let writing = self.sheet.cost() + bytes;
        if state + next + reading.max(writing) > self.room.all {
            return Err(TOO_MUCH.to_owned());
        }
        Ok(())
    }

    /// Forgets what is only of use while samples come.
    pub(crate) fn release(&mut self) {
        (self.held, self.closing_bytes, self.body_bytes) = (Held::default(), 0, 0);
        (self.families, self.timed) = (Families::new(false), HashSet::default());
    }

    /// How many bytes points may be, markers among them; they are there twice while they grow, and once more as batches.
    pub(crate) fn points_bytes_max(&self) -> usize {
        (self.room.all.saturating_sub(self.series.cost()) / 3).min(POINTS_BYTES_MAX)
    }

    /// Takes a sample with its labels, those that are empty too.
    ///
    /// # Errors
    /// Why the whole scrape is worth nothing.
    pub(crate) fn sample<'p>(
        &mut self,
        name: &'p str,
        labels: &mut Pairs<'p>,
        sample: Sample<'_>,
    ) -> Result<(), String>
    where
        's: 'p,
    {
        self.scraped += 1;
        let frame = self.frame;
        let clashes = labels.iter().any(|(name, _)| frame.all.iter().any(|(target, _)| target == name));
        if clashes || !self.job.rules.is_empty() || !self.job.external.is_empty() {
            return self.changed(name, labels, sample);
        }
        labels.retain(|(_, value)| !value.is_empty());
        let target = frame.all.iter().map(|(name, value)| (&**name, &**value));
        labels
            .extend(target.filter(|(name, value)| !matches!(*name, "job" | "instance") && !value.is_empty()));
        self.series(name, labels, Some(self.own), sample)
    }

    /// A sample whose labels are not simply its own and the target's.
    fn changed(&mut self, name: &str, labels: &Pairs<'_>, sample: Sample<'_>) -> Result<(), String> {
        let mut joined = self.joined(name, labels);
        if !self.job.rules.iter().all(|rule| rule.apply(&mut joined)) || joined.is_empty() {
            return Ok(());
        }
        for (name, value) in &self.job.external {
            set(&mut joined, name, value.clone());
        }
        let name = get(&joined, NAME).to_owned();
        if name.is_empty() {
            return Err(format!("missing metric name ({NAME} label)"));
        }
        let mut labels: Pairs<'_> = joined.iter().map(|(name, value)| (&**name, &**value)).collect();
        labels.retain(|(name, value)| *name != NAME && !value.is_empty());
        self.series(&name, &mut labels, None, sample)
    }

    /// A sample's labels and the target's, and its name as one of them.
    fn joined<'p>(&self, name: &'p str, labels: &Pairs<'p>) -> Vec<Pair<'p>>
    where
        's: 'p,
    {
        let mut joined: Vec<Pair<'p>> = vec![(NAME.into(), name.into())];
        let mut exported: Vec<(&str, &str)> = Vec::new();
        let is_target = |name: &str| self.frame.all.iter().any(|(target, _)| target == name);
        for (name, value) in labels {
            if self.job.honor_labels || !is_target(name) {
                joined.push(((*name).into(), (*value).into()));
            } else if !value.is_empty() {
                exported.push((name, value));
            }
        }
        let exposed = |name: &str| labels.iter().any(|(exposed, _)| *exposed == name);
        for (name, value) in self.frame.all {
            if !self.job.honor_labels || !exposed(name) {
                joined.push((Cow::Borrowed(name), Cow::Borrowed(value)));
            }
        }
        exported.sort_by_key(|(name, _)| name.len());
        for (name, value) in exported {
            let mut other = format!("exported_{name}");
            while exposed(&other) || joined.iter().any(|(name, _)| *name == other) {
                other.insert_str(0, "exported_");
            }
            joined.push((other.into(), value.to_owned().into()));
        }
        joined.retain(|(_, value)| !value.is_empty());
        joined
    }

    /// A sample with all its labels; without a home `job` and `instance` are among them.
    fn series(
        &mut self,
        name: &str,
        labels: &mut Pairs<'_>,
        home: Option<usize>,
        sample: Sample<'_>,
    ) -> Result<(), String> {
        let hidden = if home.is_some() {
            self.frame.all.iter().filter(|(name, _)| matches!(&**name, "job" | "instance")).count()
        } else {
            0
        };
        limits::check(self.job, name, labels, hidden)?;
        let labels_bytes = |labels: &[(&str, &str)]| -> usize {
            labels.iter().map(|(name, value)| name.len() + value.len()).sum()
        };
        let exemplars: usize = sample.exemplars.iter().map(|exemplar| labels_bytes(&exemplar.labels)).sum();
        // Encoded, in a list that grows; and kept.
        self.fits((labels_bytes(labels) + exemplars) * 4)?;
        self.added += 1;
        if self.job.limits.samples > 0 && self.added > self.job.limits.samples {
            // All are counted before the scrape fails.
            return Ok(());
        }
        let Some(mut placed) = self.place(name, labels, &sample)? else { return Ok(()) };
        let home = self.home(labels, home);
        if self.families.at(placed.resolved).metric == TARGET_INFO {
            let resource = self.series.homes[home].resource;
            let said = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
            self.series.say(resource, said.collect());
            return Ok(());
        }
        if labels.len() > ATTRIBUTES_MAX {
            self.drop("more labels than a point may have");
            return Ok(());
        }
        placed.metric = self.metric(placed.resolved, home, placed.shape);
        if !labels.is_sorted_by(|left, right| left.0 <= right.0) {
            labels.sort_unstable();
        }
        let mut attributes = std::mem::take(&mut self.attributes);
        attributes.clear();
        for (name, value) in labels.iter() {
            attributes.attribute_str(placed.shape.attributes_field(), name, value);
        }
        let taken = self.point(&placed, attributes.as_bytes(), sample);
        self.attributes = attributes;
        taken
    }

    /// Where a sample belongs; takes the labels out that say it.
    fn home(&mut self, labels: &mut Pairs<'_>, home: Option<usize>) -> usize {
        let has_scope = labels.iter().any(|(name, _)| name.starts_with(SCOPE));
        if let (Some(home), false) = (home, has_scope) {
            return home;
        }
        let find =
            |name: &str| labels.iter().find(|(label, _)| *label == name).map_or("", |(_, value)| value);
        let (job, instance) = match home {
            Some(_) => (self.frame.job, self.frame.instance),
            None => (find("job"), find("instance")),
        };
        let own = scope(labels.iter().filter_map(|(name, value)| Some((name.strip_prefix(SCOPE)?, *value))));
        let scope = if has_scope { &own } else { &self.frame.scope };
        let home = self.series.home(job, instance, scope);
        labels.retain(|(name, _)| !matches!(*name, "job" | "instance") && !name.starts_with(SCOPE));
        home
    }

    /// What a sample is, but for its metric; takes the label out that is no attribute. Nothing for a sample that has no place.
    fn place(
        &mut self,
        name: &str,
        labels: &mut Pairs<'_>,
        sample: &Sample<'_>,
    ) -> Result<Option<Placed>, String> {
        let number = self.families.resolve(name);
        let resolved = self.families.at(number);
        let (kind, role) = (resolved.kind, resolved.role);
        let shape = match (kind, role, &sample.native) {
            (_, _, Some(_)) if kind == Kind::GaugeHistogram => Shape::GaugeHistogram,
            (_, _, Some(native)) if native.schema == CUSTOM_BUCKETS => Shape::Histogram,
            (_, _, Some(_)) => Shape::Exponential,
            (Kind::Histogram, Role::Value, None) | (Kind::GaugeHistogram, Role::Value, None) => {
                self.drop("a sample that its family has not");
                return Ok(None);
            }
            (Kind::Histogram, ..) => Shape::Histogram,
            (Kind::GaugeHistogram, ..) => Shape::GaugeHistogram,
            (Kind::Summary, ..) => Shape::Summary,
            (kind, ..) => Shape::of_number(kind),
        };
        let own = match (kind, role) {
            (Kind::Histogram | Kind::GaugeHistogram, Role::Bucket) => Some("le"),
            (Kind::Summary, Role::Value) => Some("quantile"),
            _ => None,
        };
        let mut bound = 0.0;
        if let Some(own) = own {
            let place = labels.iter().position(|(name, _)| *name == own);
            let place = place.ok_or_else(|| format!("a sample of {name} without {own}"))?;
            let text = labels.remove(place).1;
            bound = float(text).ok_or_else(|| format!("{own} of {name} is no number"))?;
        }
        Ok(Some(Placed { resolved: number, kind, role, metric: 0, shape, bound }))
    }

    /// The number of a metric in a home.
    fn metric(&mut self, number: usize, home: usize, shape: Shape) -> usize {
        let resolved = self.families.at(number);
        if let Some((known_home, metric)) = resolved.known_as
            && known_home == home
            && self.series.metrics[metric].key.shape == shape
        {
            return metric;
        }
        let (name, kind, family) = (resolved.metric.clone(), resolved.kind, resolved.family);
        let family = self.families.family(family);
        let key = MetricKey { home, name, unit: family.unit.clone(), shape, kind: kind as u8 };
        let metric = self.series.metric(key, kind, &family.help);
        self.families.at(number).known_as = Some((home, metric));
        metric
    }

    /// Writes a point, or adds to one that is held.
    fn point(&mut self, placed: &Placed, attributes: &[u8], sample: Sample<'_>) -> Result<(), String> {
        let time = sample.time.filter(|_| self.job.honor_timestamps);
        let (metric, shape) = (placed.metric, placed.shape);
        let hash = self.series.hash(metric, attributes);
        let key = Key { metric, hash, time, attributes };
        let own_time = time.map_or(self.at, |time| u64::try_from(time).unwrap_or(0));
        self.exemplars.clear();
        for Exemplar { value, time, labels } in sample.exemplars {
            point::write_exemplar(
                &mut self.exemplars,
                shape,
                *value,
                *time,
                own_time,
                labels.iter().copied(),
            );
        }
        let is_number = matches!(shape, Shape::Gauge | Shape::Counter | Shape::Sum);
        let has_parts = !is_number || (placed.kind == Kind::Counter && self.families.has_starts());
        if has_parts {
            return self.hold(placed, key, sample);
        }
        if point::is_stale(sample.value) {
            let held = self.held.point(key);
            held.samples = 1;
            held.value = Some(Value::Number(sample.value));
            return Ok(());
        }
        if !self.see(key, 1, 0)? {
            return Ok(());
        }
        let times = (sample.start.unwrap_or(0), own_time);
        self.sheet.number(metric, attributes, times, sample.value, self.exemplars.as_bytes());
        Ok(())
    }

    /// Adds a sample to a point that is held.
    fn hold(&mut self, placed: &Placed, key: Key<'_>, sample: Sample<'_>) -> Result<(), String> {
        let of = match placed.shape {
            Shape::Histogram | Shape::GaugeHistogram | Shape::Exponential => Of::Histogram,
            Shape::Summary => Of::Summary,
            Shape::Gauge | Shape::Counter | Shape::Sum => Of::Number,
        };
        let point = self.held.point(key);
        if let Some(start) = sample.start {
            point.start = start;
        }
        point.exemplars.raw(self.exemplars.as_bytes());
        let mut grown = self.exemplars.len() * 2;
        let set = match sample.native {
            Some(_) if point.value.is_some() => Err(TWICE),
            Some(native) => {
                point.samples = 1;
                let parts = native.negative.len() + native.positive.len() + native.bounds.len();
                point.value = Some(Value::Native(Box::new(native)));
                Ok(NATIVE_COST + parts * PART_COST)
            }
            None => point.set(Part { role: placed.role, value: sample.value, bound: placed.bound, of }),
        };
        match set {
            Ok(bytes) => grown += bytes,
            Err(reason) => self.drop(reason),
        }
        self.held.grow(grown);
        Ok(())
    }

    /// Sees a series; says whether its point is to be written.
    fn see(&mut self, key: Key<'_>, samples: u16, layout: u16) -> Result<bool, String> {
        let Key { metric, hash, time, attributes } = key;
        if time.is_some() && !self.timed.insert(hash_at(key)) {
            self.drop(TWICE);
            return Ok(false);
        }
        let is_marked = time.is_none() || self.job.tracks_timestamps;
        let sight = Sight { metric, samples, layout, is_marked };
        match self.series.see(hash, sight, attributes, self.room.state) {
            Seen::More(samples) => {
                self.new += samples;
                Ok(true)
            }
            Seen::Twice if time.is_some() => Ok(true),
            Seen::Twice => {
                self.drop(TWICE);
                Ok(false)
            }
            Seen::Full => Err(FULL.to_owned()),
        }
    }

    fn drop(&mut self, reason: &'static str) {
        *self.dropped.entry(reason).or_default() += 1;
    }

    /// All samples are there: writes the points that were held.
    ///
    /// # Errors
    /// Why the whole scrape is worth nothing.
    pub(crate) fn close(&mut self) -> Result<(), String> {
        let limit = self.job.limits.samples;
        if limit > 0 && self.added > limit {
            return Err("sample limit exceeded".to_owned());
        }
        self.closing_bytes = self.held.bytes();
        for (point, attributes) in std::mem::take(&mut self.held).take() {
            self.write(point, &attributes)?;
            self.fits(0)?;
        }
        self.fits(0)
    }

    /// Writes a point that was held.
    fn write(&mut self, held: crate::held::Point, attributes: &[u8]) -> Result<(), String> {
        let Some(value) = &held.value else {
            self.drop("a start without a value");
            return Ok(());
        };
        let shape = self.series.metrics[held.metric].key.shape;
        let time = held.time.map_or(self.at, |time| u64::try_from(time).unwrap_or(0));
        let before = self.sheet.mark(held.metric);
        let written = self.sheet.point(held.metric, |out| {
            out.raw(attributes);
            point::write_times(out, held.start, time);
            if point::write_value(out, shape, value)? == point::Written::Recorded {
                out.raw(held.exemplars.as_bytes());
            }
            Ok(())
        });
        if let Err(reason) = written {
            self.drop(reason);
            return Ok(());
        }
        let mut layout = 0;
        if let Value::Histogram(histogram) = value {
            let bounds = point::bounds(histogram);
            let infinite = histogram.buckets.iter().any(|(bound, _)| *bound == f64::INFINITY);
            let twice = histogram.buckets.len() - bounds.len() - usize::from(infinite);
            if twice > 0 {
                *self.dropped.entry(TWICE).or_default() += twice as u64;
            }
            layout = self.series.layout(bounds);
        }
        let key = Key { metric: held.metric, hash: held.hash, time: held.time, attributes };
        if !self.see(key, held.samples, layout)? {
            self.sheet.take_back(held.metric, before);
        }
        Ok(())
    }

    /// Writes a gauge of what is known of the scrape itself.
    pub(crate) fn report(&mut self, name: &str, help: &str, unit: &str, value: f64) {
        let (metric, attributes) = self.report_series(name, help, unit);
        self.sheet.number(metric, &attributes, (0, self.at), value, &[]);
    }

    /// Writes that such a gauge is gone.
    pub(crate) fn report_gone(&mut self, name: &str, help: &str, unit: &str) {
        let (metric, attributes) = self.report_series(name, help, unit);
        let time = self.at;
        let gone = crate::series::Gone { metric, shape: Shape::Gauge, attributes: &attributes, bounds: &[] };
        if !self.sheet.marker(gone, time, POINTS_BYTES_MAX) {
            self.drop("a marker for which there was no room");
        }
    }

    fn report_series(&mut self, name: &str, help: &str, unit: &str) -> (usize, Vec<u8>) {
        let (home, kind) = (self.own, Kind::Gauge);
        let (name, unit) = (name.to_owned(), unit.to_owned());
        let key = MetricKey { home, name, unit, shape: Shape::Gauge, kind: kind as u8 };
        let metric = self.series.metric(key, kind, help);
        let mut labels: BTreeMap<&str, &str> =
            self.frame.all.iter().map(|(name, value)| (&**name, &**value)).collect();
        labels.extend(self.job.external.iter().map(|(name, value)| (&**name, &**value)));
        labels.retain(|name, value| !matches!(*name, "job" | "instance") && !value.is_empty());
        let mut attributes = Encoder::new();
        for (name, value) in labels {
            attributes.attribute_str(Shape::Gauge.attributes_field(), name, value);
        }
        (metric, attributes.into_bytes())
    }
}
