//! A request as batches, and how much of it was taken.

use std::collections::{BTreeMap, BTreeSet};

use weir_exposition::Kind;
use weir_prometheus::family::{Exemplar, Family, Labels, Point, Value};
use weir_prometheus::native::Native;
use weir_prometheus::otlp::{Honor, Metrics};
use weir_remote_write::series::{NAME, STALE_NAN};
use weir_remote_write::{Fault, Metadata, Request, Series, Version};

use crate::classic::{Borrowed, Group, Groups, Part, Place, Role, place};
use crate::native;

/// Memory that one request may cost, as it is reckoned here: an instance has 64 MiB by default, and what allocators add is not
/// reckoned.
const MEMORY_BYTES_MAX: usize = 44 * 1024 * 1024;

/// What a point or a label costs beside its texts.
const ENTRY_BYTES: usize = 16;

/// Each byte of a point is held once in its family and once in a batch.
const COPIES: usize = 2;

/// Points are written to a batch once they take so much, so that their families need not all be held.
const HELD_BYTES_MAX: usize = 8 * 1024 * 1024;

/// What an allocator adds to a text, and rounds it up by.
const ALLOCATION_BYTES: usize = 16;

/// What a group takes beside its labels: nodes of a tree may be half empty.
const GROUP_BYTES: usize =
    2 * size_of::<(&str, Borrowed<'_>, i64, Group<'_>)>() + size_of::<Part<'_>>() + 2 * ALLOCATION_BYTES;

/// What one more part of a group takes: room grows by doubling.
const PART_BYTES: usize = 2 * size_of::<Part<'_>>();

/// How often a `target_info` is held: here, and in a batch that is being written twice.
const INFO_COPIES: usize = 3;

/// Labels of a series: the host's doors take 256 attributes of a point.
const LABELS_MAX: usize = 255;

/// Labels of an exemplar: OpenMetrics' 128 characters hold no more.
const EXEMPLAR_LABELS_MAX: usize = 64;

/// The series whose labels describe the target.
const TARGET_INFO: &str = "target_info";

/// Reasons that are named in an answer; the others are summed up.
const REASONS_MAX: usize = 8;

const NANOS_PER_MILLI: i64 = 1_000_000;

/// What was made of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Read {
    /// `ExportMetricsServiceRequest`s: one as a rule, none for no points.
    pub batches: Vec<Vec<u8>>,
    /// How much was taken.
    pub written: Written,
    /// Samples and histograms that were not.
    pub rejected: u32,
    /// Why, and how many for it.
    pub reasons: BTreeMap<&'static str, u32>,
    /// Exemplars without a point.
    pub lost_exemplars: u32,
}

/// How much was taken, as 2.0 counts it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Numbers.
    pub samples: u64,
    /// Native histograms.
    pub histograms: u64,
    /// Exemplars.
    pub exemplars: u64,
}

impl Read {
    /// What was rejected, for the sender's log.
    #[must_use]
    pub fn explain(&self) -> String {
        let Written { samples, histograms, .. } = self.written;
        let mut text = format!(
            "{} samples and histograms are not valid, {} are taken:",
            self.rejected,
            samples + histograms
        );
        for (reason, count) in self.reasons.iter().take(REASONS_MAX) {
            text.push_str(&format!(" {reason} ({count});"));
        }
        text.pop();
        text.push('\n');
        text
    }
}

/// Reads a request, decoded.
///
/// # Errors
/// [`Fault`]; nothing of the request is taken then.
pub fn read(body: &[u8], version: Version) -> Result<Read, Fault> {
    let request = Request::parse(body, version)?;
    let mut mapping = Mapping { left: MEMORY_BYTES_MAX.saturating_sub(body.len()), ..Mapping::default() };
    mapping.known = request.metadata().iter().map(|metadata| (metadata.family, *metadata)).collect();
    if request.mentions(TARGET_INFO) {
        request.each(|series| mapping.describe(series))?;
    }
    request.each(|series| mapping.take(series))?;
    mapping.close_groups()?;
    mapping.flush();
    mapping.read.lost_exemplars += count(mapping.waiting.iter().map(|(_, exemplars)| exemplars.len()).sum());
    Ok(mapping.read)
}

/// What tells one family from another. A name may come with several kinds, and then they are several metrics.
type FamilyKey<'a> = (&'a str, &'static str, u8, &'a str, &'a str);

#[derive(Default)]
struct Mapping<'a> {
    /// Metadata of 1.0 by family.
    known: BTreeMap<&'a str, Metadata<'a>>,
    infos: Vec<Point>,
    families: Vec<Family>,
    places: BTreeMap<FamilyKey<'a>, usize>,
    groups: Groups<'a>,
    /// Exemplars of series that came without a point, with their labels.
    waiting: Vec<(Borrowed<'a>, Vec<Exemplar>)>,
    /// Bytes that may still be spent.
    left: usize,
    /// Bytes of `families`.
    held: usize,
    read: Read,
}

/// What is said of a metric.
#[derive(Clone, Copy)]
struct Said<'a> {
    kind: Kind,
    help: &'a str,
    unit: &'a str,
}

impl<'a> Mapping<'a> {
    /// Keeps the labels of a `target_info`.
    fn describe(&mut self, series: &Series<'a>) -> Result<(), Fault> {
        if series.name() != TARGET_INFO || series.fault.is_some() || series.labels.len() > LABELS_MAX {
            return Ok(());
        }
        let is_there = |sample: &&weir_remote_write::Sample| sample.value.to_bits() != STALE_NAN;
        if let Some(sample) = series.samples.iter().rfind(is_there) {
            self.charge(INFO_COPIES.saturating_mul(point_bytes(&series.labels)))?;
            self.infos.push(Point {
                labels: owned(&series.labels),
                value: Value::Number(sample.value),
                ..Point::default()
            });
        }
        Ok(())
    }

    fn take(&mut self, series: &Series<'a>) -> Result<(), Fault> {
        let points = count(series.samples.len() + series.histograms.len());
        let fault = series
            .fault
            .or((series.labels.len() > LABELS_MAX).then_some("a series has more than 255 labels"));
        if let Some(fault) = fault {
            self.reject(fault, points);
            return Ok(());
        }
        let name = series.name();
        if name == TARGET_INFO {
            self.read.written.samples += series.samples.len() as u64;
            self.reject("target_info is no histogram", count(series.histograms.len()));
            return Ok(());
        }
        let said = self.said(name, series);
        let weight = weight(&series.labels);
        // Before a point is made: a label costs what it costs in each of them.
        let all = series.samples.len() + series.histograms.len() + series.exemplars.len();
        let texts = said.help.len() + said.unit.len();
        self.spend(weight.saturating_mul(all.max(1)).saturating_add(texts))?;
        self.held += texts;
        let exemplars = self.exemplars(series)?;
        match place(&series.labels, name, said.kind) {
            Some(place) => self.take_parts(series, said, place, exemplars)?,
            None => self.take_numbers(series, said, exemplars),
        }
        self.take_natives(series, said)?;
        if self.held > HELD_BYTES_MAX {
            self.flush();
        }
        Ok(())
    }

    /// What is said of a series, by itself (2.0) or apart (1.0).
    fn said(&self, name: &str, series: &Series<'a>) -> Said<'a> {
        if self.known.is_empty() {
            return Said { kind: series.kind, help: series.help, unit: series.unit };
        }
        const SUFFIXES: [&str; 5] = ["_total", "_bucket", "_count", "_sum", "_info"];
        let by_suffix = || {
            SUFFIXES.iter().find_map(|suffix| {
                let metadata = self.known.get(name.strip_suffix(suffix)?)?;
                metadata.kind.suffixes().contains(suffix).then_some(metadata)
            })
        };
        match self.known.get(name).or_else(by_suffix) {
            Some(Metadata { kind, help, unit, .. }) => Said { kind: *kind, help, unit },
            None => Said { kind: Kind::Unknown, help: "", unit: "" },
        }
    }

    // === points ===

    fn take_parts(
        &mut self,
        series: &Series<'a>,
        said: Said<'a>,
        place: Place<'a>,
        exemplars: Vec<Exemplar>,
    ) -> Result<(), Fault> {
        let Place { base, role, own, labels } = place;
        let mut exemplars = Some(exemplars);
        for (at, sample) in series.samples.iter().enumerate() {
            let Some(time) = self.time(sample.timestamp) else { continue };
            let is_last = at + 1 == series.samples.len();
            let exemplars = exemplars.take_if(|_| is_last).unwrap_or_default();
            let key = (base, labels.clone(), time);
            let cost = match self.groups.contains_key(&key) {
                true => PART_BYTES,
                false => GROUP_BYTES + size_of_val(&*labels),
            };
            self.charge(cost)?;
            let group = self.groups.entry(key).or_default();
            if group.parts.is_empty() {
                // Room for four, which is what a first part takes otherwise, is three too many for most.
                group.parts.reserve_exact(1);
            }
            (group.kind, group.help, group.unit) = (said.kind, said.help, said.unit);
            group.parts.push(Part { role, own, value: sample.value, start: start(sample.start), exemplars });
            self.read.written.samples += 1;
        }
        self.wait(series, exemplars);
        Ok(())
    }

    fn take_numbers(&mut self, series: &Series<'a>, said: Said<'a>, exemplars: Vec<Exemplar>) {
        let name = series.name();
        let kind = match said.kind {
            Kind::Counter if name.ends_with("_created") => Kind::Gauge,
            // A number of what is made of several is none of those.
            Kind::Histogram | Kind::GaugeHistogram | Kind::Summary => Kind::Unknown,
            kind @ (Kind::Unknown | Kind::Counter | Kind::Gauge | Kind::Info | Kind::StateSet) => kind,
        };
        let mut exemplars = Some(exemplars);
        for (at, sample) in series.samples.iter().enumerate() {
            let Some(time) = self.time(sample.timestamp) else { continue };
            let is_last = at + 1 == series.samples.len();
            let point = Point {
                labels: owned(&series.labels),
                time: Some(time),
                start: start(sample.start),
                value: Value::Number(sample.value),
                exemplars: exemplars.take_if(|_| is_last).unwrap_or_default(),
            };
            self.family(name, "", Said { kind, ..said }).points.push(point);
            self.hold(point_bytes(&series.labels));
            self.read.written.samples += 1;
        }
        self.wait(series, exemplars);
    }

    fn take_natives(&mut self, series: &Series<'a>, said: Said<'a>) -> Result<(), Fault> {
        for histogram in &series.histograms {
            let native = match native::point(histogram) {
                Ok(native) => native,
                Err(reason) => {
                    self.reject(reason, 1);
                    continue;
                }
            };
            let Some(time) = self.time(histogram.timestamp) else { continue };
            // OTLP has the empty buckets too.
            for side in [&native.positive, &native.negative] {
                let wide = match (side.first(), side.last()) {
                    (Some((first, _)), Some((last, _))) => last.abs_diff(*first).min(WIDTH_MAX) as usize,
                    _ => 0,
                };
                self.spend(side.len() * ENTRY_BYTES + wide)?;
                self.held += side.len() * ENTRY_BYTES + wide;
            }
            self.charge(size_of::<Native>())?;
            let point = Point {
                labels: owned(&series.labels),
                time: Some(time),
                start: start(histogram.start),
                value: Value::Native(Box::new(native)),
                exemplars: Vec::new(),
            };
            let said = Said { kind: Kind::Histogram, ..said };
            self.family(series.name(), "", said).points.push(point);
            self.hold(point_bytes(&series.labels) + size_of::<Native>());
            self.read.written.histograms += 1;
        }
        Ok(())
    }

    /// Exemplars that found no point of their own series look for one later.
    fn wait(&mut self, series: &Series<'a>, exemplars: Option<Vec<Exemplar>>) {
        if let Some(exemplars) = exemplars.filter(|exemplars| !exemplars.is_empty()) {
            self.waiting.push((series.labels.clone(), exemplars));
        }
    }

    /// Exemplars of a series, as points have them.
    fn exemplars(&mut self, series: &Series<'a>) -> Result<Vec<Exemplar>, Fault> {
        let mut exemplars = Vec::with_capacity(series.exemplars.len());
        for exemplar in &series.exemplars {
            if exemplar.labels.len() > EXEMPLAR_LABELS_MAX {
                self.read.lost_exemplars += 1;
                continue;
            }
            let bytes = size_of::<Exemplar>() + owned_bytes(&exemplar.labels);
            self.charge(weight(&exemplar.labels).saturating_add(bytes))?;
            self.held += bytes;
            let labels = exemplar.labels.iter();
            exemplars.push(Exemplar {
                value: exemplar.value,
                time: exemplar.timestamp.checked_mul(NANOS_PER_MILLI).filter(|time| *time > 0),
                labels: labels.map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            });
        }
        Ok(exemplars)
    }

    /// A time of the wire in nanoseconds; one that OTLP has not is counted.
    fn time(&mut self, millis: i64) -> Option<i64> {
        let time = millis.checked_mul(NANOS_PER_MILLI).filter(|time| *time >= 0);
        if time.is_none() {
            self.reject("a time is before 1970 or beyond 2262", 1);
        }
        time
    }

    fn family(&mut self, base: &'a str, suffix: &'static str, said: Said<'a>) -> &mut Family {
        let Said { kind, help, unit } = said;
        let key = (base, suffix, kind as u8, help, unit);
        let place = *self.places.entry(key).or_insert_with(|| {
            let name = format!("{base}{suffix}");
            self.families.push(Family {
                name,
                kind,
                help: help.to_owned(),
                unit: unit.to_owned(),
                points: Vec::new(),
            });
            self.families.len() - 1
        });
        &mut self.families[place]
    }

    // === the end ===

    /// Makes points of what the groups hold.
    fn close_groups(&mut self) -> Result<(), Fault> {
        self.exemplars_of_groups();
        while let Some(((base, labels, time), group)) = self.groups.pop_first() {
            self.close_group(base, &labels, time, group);
        }
        Ok(())
    }

    fn close_group(&mut self, base: &'a str, labels: &[(&'a str, &'a str)], time: i64, group: Group<'a>) {
        let whole = group.whole();
        let Group { kind, help, unit, parts } = group;
        let steps = parts.len();
        let point = |labels: Labels, start, value, exemplars| Point {
            labels,
            time: Some(time),
            start,
            value,
            exemplars,
        };
        if let Some(value) = whole {
            let start = parts.iter().find(|part| part.role == Role::Count).and_then(|part| part.start);
            let mut exemplars: Vec<Exemplar> = parts.into_iter().flat_map(|part| part.exemplars).collect();
            if kind == Kind::Summary {
                self.read.lost_exemplars += count(exemplars.len());
                exemplars.clear();
            }
            let point = point(owned(labels), start, value, exemplars);
            self.family(base, "", Said { kind, help, unit }).points.push(point);
            return self.hold(point_bytes(labels) + steps * size_of::<(f64, f64)>());
        }
        for Part { role, own, value, start, exemplars } in parts {
            let mut labels = owned(labels);
            if let Some((text, _)) = own {
                labels.push((role.label().to_owned(), text.to_owned()));
                labels.sort_unstable();
            }
            let bytes = owned_point_bytes(&labels);
            let said = Said { kind: Kind::Unknown, help, unit };
            let point = point(labels, start, Value::Number(value), exemplars);
            self.family(base, role.suffix(), said).points.push(point);
            self.hold(bytes);
        }
    }

    /// Gives exemplars that came apart to the parts of groups that they belong to.
    fn exemplars_of_groups(&mut self) {
        if self.groups.is_empty() || self.waiting.is_empty() {
            return;
        }
        // A group may have as many parts as a request has series, and each of those an exemplar apart.
        self.groups.values_mut().for_each(Group::sort);
        let mut still = Vec::new();
        for (labels, exemplars) in std::mem::take(&mut self.waiting) {
            let name = labels.iter().find(|(name, _)| *name == NAME).map_or("", |(_, value)| value);
            let found =
                place(&labels, name, Kind::Histogram).and_then(|Place { base, role, own, labels }| {
                    let last = self
                        .groups
                        .range_mut((base, labels.clone(), i64::MIN)..=(base, labels, i64::MAX))
                        .next_back();
                    last?.1.part(role, own.map(|(text, _)| text))
                });
            match found {
                Some(part) => part.exemplars.extend(exemplars),
                None => still.push((labels, exemplars)),
            }
        }
        self.waiting = still;
    }

    /// Gives exemplars that came apart to the last points of their series.
    fn exemplars_of_points(&mut self) {
        if self.waiting.is_empty() {
            return;
        }
        let name = |labels: &[(&'a str, &'a str)]| {
            labels.iter().find(|(name, _)| *name == NAME).map_or("", |(_, value)| *value)
        };
        let wanted: BTreeSet<&str> = self.waiting.iter().map(|(labels, _)| name(labels)).collect();
        let mut points: BTreeMap<(&str, &Labels), (usize, usize)> = BTreeMap::new();
        for (family, at) in self.families.iter().zip(0..) {
            if wanted.contains(&*family.name) {
                let numbered = family.points.iter().zip(0..);
                points.extend(numbered.map(|(point, place)| ((&*family.name, &point.labels), (at, place))));
            }
        }
        let mut found = Vec::new();
        let mut still = Vec::new();
        for (labels, exemplars) in std::mem::take(&mut self.waiting) {
            let key = owned(&labels);
            match points.get(&(name(&labels), &key)) {
                Some(place) => found.push((*place, exemplars)),
                None => still.push((labels, exemplars)),
            }
        }
        for ((family, point), exemplars) in found {
            self.families[family].points[point].exemplars.extend(exemplars);
        }
        self.waiting = still;
    }

    /// Writes what is held to a batch.
    fn flush(&mut self) {
        self.exemplars_of_points();
        self.places.clear();
        self.held = 0;
        let mut metrics = Metrics::new(&[], Honor::Exposed, 0);
        let name = TARGET_INFO.to_owned();
        let infos = Family { name, points: std::mem::take(&mut self.infos), ..Family::default() };
        metrics.add(&infos);
        self.infos = infos.points;
        for family in self.families.drain(..) {
            let exemplars = family.points.iter().map(|point| point.exemplars.len() as u64);
            self.read.written.exemplars += exemplars.sum::<u64>();
            metrics.add(&family);
        }
        let dropped: Vec<_> = metrics.dropped().iter().map(|(reason, count)| (*reason, *count)).collect();
        for (reason, points) in dropped {
            // Numbers and what was put together here are good; a native histogram may have what OTLP has not.
            self.read.written.histograms = self.read.written.histograms.saturating_sub(points);
            self.reject(reason, u32::try_from(points).unwrap_or(u32::MAX));
        }
        if let Some(mut batch) = metrics.finish(None) {
            batch.shrink_to_fit();
            self.read.batches.push(batch);
        }
    }

    // === the account ===

    /// Charges what is held once in a family and once in a batch.
    fn spend(&mut self, bytes: usize) -> Result<(), Fault> {
        self.charge(bytes.saturating_mul(COPIES))
    }

    fn charge(&mut self, bytes: usize) -> Result<(), Fault> {
        match self.left.checked_sub(bytes) {
            Some(left) => {
                self.left = left;
                Ok(())
            }
            None => Err(Fault::beyond(
                "the request is larger as OTLP than this receiver can hold; send fewer samples at once",
            )),
        }
    }

    /// Reckons a point that is held, and writes what is held where that has become much.
    fn hold(&mut self, bytes: usize) {
        self.held += bytes;
        if self.held > HELD_BYTES_MAX {
            self.flush();
        }
    }

    fn reject(&mut self, reason: &'static str, points: u32) {
        if points > 0 {
            self.read.rejected = self.read.rejected.saturating_add(points);
            let sum = self.read.reasons.entry(reason).or_default();
            *sum = sum.saturating_add(points);
        }
    }
}

/// Buckets beyond it are refused where the point is written.
const WIDTH_MAX: u32 = 1 << 14;

/// Bytes of a point with these labels.
fn weight(labels: &[(&str, &str)]) -> usize {
    let texts = labels.iter().map(|(name, value)| name.len() + value.len() + ENTRY_BYTES);
    texts.sum::<usize>() + 4 * ENTRY_BYTES
}

/// Bytes of these labels as a point or an exemplar holds them.
fn owned_bytes(labels: &[(&str, &str)]) -> usize {
    let bytes = |(name, value): &(&str, &str)| {
        name.len() + value.len() + size_of::<(String, String)>() + 2 * ALLOCATION_BYTES
    };
    labels.iter().map(bytes).sum()
}

/// Bytes of a point with these labels where it is held.
fn point_bytes(labels: &[(&str, &str)]) -> usize {
    size_of::<Point>() + ALLOCATION_BYTES + owned_bytes(labels)
}

/// The same of labels that are the point's own already.
fn owned_point_bytes(labels: &Labels) -> usize {
    let texts = labels.iter().map(|(name, value)| name.len() + value.len() + 2 * ALLOCATION_BYTES);
    size_of::<Point>() + ALLOCATION_BYTES + texts.sum::<usize>() + size_of_val(&**labels)
}

fn count(items: usize) -> u32 {
    u32::try_from(items).unwrap_or(u32::MAX)
}

fn start(millis: i64) -> Option<u64> {
    u64::try_from(millis.checked_mul(NANOS_PER_MILLI)?).ok().filter(|start| *start > 0)
}

/// Labels of a point: all but the name.
fn owned(labels: &[(&str, &str)]) -> Labels {
    let labels = labels.iter().filter(|(name, _)| *name != NAME);
    labels.map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}
