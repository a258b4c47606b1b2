//! Which series a target had, so that those that are gone can be said to be.
//!
//! ```text
//! metric   name, unit, kind and where it belongs: once each, however many series it has
//! series   32 bytes and a place in a table: metric, and where in `bytes` its attributes stand, as they are in the point
//! ```
//!
//! A histogram is one series here, as it is one point in OTLP.

use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, Hasher, RandomState};

use weir_exposition::Kind;
use weir_prometheus::point::Shape;

use crate::room::{HOME_COST, ITEM_COST, METRIC_COST, SERIES_COST};

/// Layouts of buckets that are remembered of one target; of histograms with another one the marker has no buckets.
const LAYOUTS_MAX: usize = 256;

/// Series whose hashes are the same; 64 bits with a seed of the process make even two unlikely.
const PROBES_MAX: usize = 16;

/// From a series to the next one of the same hash.
const NEXT: u64 = 0x9e37_79b9_7f4a_7c15;

/// What metrics, homes and layouts cost that no series has any more, before they are forgotten; less would often be made anew.
const UNUSED_BYTES_MAX: usize = 32 << 10;

/// Places of a table of series that are not worth to be given back.
const ENTRIES_MIN: usize = 64;

/// The series waits for its marker, for which there was no room yet.
const PENDING: u8 = 0;

/// A resource: `job` and `instance`, and what `target_info` says.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Resource {
    pub(crate) job: String,
    pub(crate) instance: String,
    pub(crate) info: Vec<(String, String)>,
    /// Said by the scrape at hand.
    pub(crate) next_info: Vec<(String, String)>,
}

/// Where metrics belong.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Home {
    pub(crate) resource: usize,
    /// Fields 1 and 3 of a `ScopeMetrics`.
    pub(crate) scope: Vec<u8>,
}

/// A metric, without its points.
#[derive(Clone, Debug)]
pub(crate) struct Metric {
    pub(crate) key: MetricKey,
    pub(crate) kind: Kind,
    pub(crate) help: String,
}

/// What makes a metric another one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct MetricKey {
    pub(crate) home: usize,
    pub(crate) name: String,
    pub(crate) unit: String,
    pub(crate) shape: Shape,
    pub(crate) kind: u8,
}

/// One series.
#[derive(Clone, Copy, Debug)]
struct Entry {
    at: u32,
    length: u32,
    metric: u32,
    /// Samples that it was made of.
    samples: u16,
    /// Of its buckets, counted from 1.
    layout: u16,
    /// Of the scrape that saw it last.
    generation: u8,
    /// Whether it gets a marker when it is gone.
    is_marked: bool,
    /// Whether it came with the scrape at hand.
    is_new: bool,
}

/// A series as a scrape sees it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sight {
    pub(crate) metric: usize,
    pub(crate) samples: u16,
    pub(crate) layout: u16,
    pub(crate) is_marked: bool,
}

/// What is known of a series that was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// So many samples more than the last time.
    More(usize),
    /// This scrape has had it already.
    Twice,
    /// There is no room for another one.
    Full,
}

/// A series that is gone.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Gone<'s> {
    pub(crate) metric: usize,
    pub(crate) shape: Shape,
    /// As they stood in its point.
    pub(crate) attributes: &'s [u8],
    /// Of its buckets.
    pub(crate) bounds: &'s [f64],
}

/// Series of one target.
pub(crate) struct Series {
    pub(crate) resources: Vec<Resource>,
    pub(crate) homes: Vec<Home>,
    pub(crate) metrics: Vec<Metric>,
    ids: HashMap<MetricKey, usize>,
    /// Resources by `job` and `instance`, homes by these and their scope.
    places: HashMap<Vec<u8>, usize>,
    entries: HashMap<u64, Entry, BuildHasherDefault<AsIs>>,
    bytes: Vec<u8>,
    /// Bytes of series that are gone.
    dead: usize,
    layouts: Vec<Vec<f64>>,
    /// What metrics, homes and layouts cost, and what resources say.
    around_bytes: usize,
    info_bytes: usize,
    generation: u8,
    seed: u64,
}

/// What series have.
struct Used {
    metrics: Vec<bool>,
    layouts: Vec<bool>,
    /// What these cost, and the homes of the metrics.
    cost: usize,
}

/// Hashes are keys already.
#[derive(Clone, Copy, Default)]
pub(crate) struct AsIs(u64);

impl Hasher for AsIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0 = bytes.iter().fold(self.0, |hash, byte| hash << 8 | u64::from(*byte));
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = number;
    }
}

impl Default for Series {
    fn default() -> Self {
        Self {
            resources: Vec::new(),
            homes: Vec::new(),
            metrics: Vec::new(),
            ids: HashMap::new(),
            places: HashMap::new(),
            entries: HashMap::default(),
            bytes: Vec::new(),
            dead: 0,
            layouts: Vec::new(),
            around_bytes: 0,
            info_bytes: 0,
            generation: 1,
            // What a target exposes must not be made to fall on one place.
            seed: RandomState::new().hash_one(0_u8),
        }
    }
}

impl Series {
    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.entries.len()
    }

    /// What all that is remembered costs, in bytes.
    pub(crate) fn cost(&self) -> usize {
        self.entries.len() * SERIES_COST + self.bytes.len() * 2 + self.around_bytes + self.info_bytes
    }

    /// A scrape begins.
    pub(crate) fn begin(&mut self) {
        self.generation = if self.generation == 1 { 2 } else { 1 };
        self.resources.iter_mut().for_each(|resource| resource.next_info.clear());
        self.count_info();
    }

    /// Takes what `target_info` says of a resource.
    pub(crate) fn say(&mut self, resource: usize, said: Vec<(String, String)>) {
        let known = &mut self.resources[resource].next_info;
        self.info_bytes = self.info_bytes + info_cost(&said) - info_cost(known);
        *known = said;
    }

    fn count_info(&mut self) {
        let cost = |resource: &Resource| info_cost(&resource.info) + info_cost(&resource.next_info);
        self.info_bytes = self.resources.iter().map(cost).sum();
    }

    /// The number of a home.
    pub(crate) fn home(&mut self, job: &str, instance: &str, scope: &[u8]) -> usize {
        // No text has a byte of 255, so that two keys are never the same by chance.
        let resource_key = [job.as_bytes(), &[255], instance.as_bytes()].concat();
        let key = [&*resource_key, &[255], scope].concat();
        if let Some(home) = self.places.get(&key) {
            return *home;
        }
        let resource = match self.places.get(&resource_key) {
            Some(resource) => *resource,
            None => {
                let (job, instance) = (job.to_owned(), instance.to_owned());
                self.places.insert(resource_key, self.resources.len());
                self.resources.push(Resource { job, instance, ..Resource::default() });
                self.resources.len() - 1
            }
        };
        self.places.insert(key, self.homes.len());
        self.homes.push(Home { resource, scope: scope.to_vec() });
        self.around_bytes += home_cost(job, instance, scope);
        self.homes.len() - 1
    }

    /// The number of a metric.
    pub(crate) fn metric(&mut self, key: MetricKey, kind: Kind, help: &str) -> usize {
        match self.ids.get(&key) {
            Some(&id) => {
                let known = &mut self.metrics[id].help;
                if known != help {
                    self.around_bytes = self.around_bytes + help.len() - known.len();
                    *known = help.to_owned();
                }
                id
            }
            None => {
                self.ids.insert(key.clone(), self.metrics.len());
                let metric = Metric { key, kind, help: help.to_owned() };
                self.around_bytes += metric.cost();
                self.metrics.push(metric);
                self.metrics.len() - 1
            }
        }
    }

    /// The number of a layout of buckets, counted from 1; 0 for none.
    pub(crate) fn layout(&mut self, bounds: Vec<f64>) -> u16 {
        let found = self.layouts.iter().position(|known| *known == bounds);
        let place = match found {
            Some(place) => place + 1,
            None if bounds.is_empty() || self.layouts.len() == LAYOUTS_MAX => 0,
            None => {
                self.around_bytes += layout_cost(&bounds);
                self.layouts.push(bounds);
                self.layouts.len()
            }
        };
        u16::try_from(place).unwrap_or(0)
    }

    /// A hash of a series that nobody can guess.
    pub(crate) fn hash(&self, metric: usize, attributes: &[u8]) -> u64 {
        const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
        let fold = |left: u64, right: u64| {
            let product = u128::from(left) * u128::from(right);
            (product as u64) ^ ((product >> 64) as u64)
        };
        let mut hash = fold(self.seed ^ metric as u64, FACTOR ^ attributes.len() as u64);
        let mut words = attributes.chunks_exact(8);
        for word in &mut words {
            let word = u64::from_le_bytes(word.try_into().unwrap_or_default());
            hash = fold(hash ^ word, FACTOR ^ self.seed);
        }
        let rest = words.remainder().iter().fold(0, |rest, byte| rest << 8 | u64::from(*byte));
        fold(hash ^ rest, FACTOR.rotate_left(32) ^ self.seed)
    }

    /// Sees a series, `attributes` as they stand in its point; `room` is what all series may cost.
    pub(crate) fn see(&mut self, hash: u64, sight: Sight, attributes: &[u8], room: usize) -> Seen {
        let mut key = hash;
        for _ in 0..PROBES_MAX {
            let Some(entry) = self.entries.get_mut(&key) else { break };
            let known = &self.bytes[entry.at as usize..][..entry.length as usize];
            if entry.metric as usize == sight.metric && known == attributes {
                if entry.generation == self.generation {
                    return Seen::Twice;
                }
                let more = sight.samples.saturating_sub(entry.samples);
                entry.samples = sight.samples;
                entry.layout = sight.layout;
                entry.generation = self.generation;
                entry.is_marked = sight.is_marked;
                return Seen::More(usize::from(more));
            }
            key = key.wrapping_add(NEXT);
        }
        if self.cost() + SERIES_COST + attributes.len() * 2 > room {
            return Seen::Full;
        }
        let (Ok(at), Ok(length), Ok(metric)) =
            (u32::try_from(self.bytes.len()), u32::try_from(attributes.len()), u32::try_from(sight.metric))
        else {
            return Seen::Full;
        };
        self.bytes.extend_from_slice(attributes);
        let Sight { samples, layout, is_marked, .. } = sight;
        let generation = self.generation;
        let entry = Entry { at, length, metric, samples, layout, generation, is_marked, is_new: true };
        self.entries.insert(key, entry);
        Seen::More(usize::from(samples))
    }

    /// The scrape is over, and good: those that it has not seen are gone. `mark` writes a marker, or says that there is no room;
    /// such a series waits for the next time.
    pub(crate) fn sweep(&mut self, mut mark: impl FnMut(Gone<'_>) -> bool) {
        let Self { entries, bytes, dead, layouts, generation, metrics, .. } = self;
        entries.retain(|_, entry| {
            entry.is_new = false;
            if entry.generation == *generation {
                return true;
            }
            if entry.is_marked && !mark(Gone::of(entry, metrics, bytes, layouts)) {
                entry.generation = PENDING;
                return true;
            }
            *dead += entry.length as usize;
            false
        });
        for resource in &mut self.resources {
            resource.info = std::mem::take(&mut resource.next_info);
        }
        self.count_info();
    }

    /// The scrape is over, and nothing of it counts: all series that there were before are gone. `mark` as for [`Series::sweep`].
    pub(crate) fn sweep_all(&mut self, mut mark: impl FnMut(Gone<'_>) -> bool) {
        let Self { entries, bytes, dead, layouts, metrics, .. } = self;
        entries.retain(|_, entry| {
            let has_marker = !entry.is_new && entry.is_marked;
            if has_marker && !mark(Gone::of(entry, metrics, bytes, layouts)) {
                entry.generation = PENDING;
                return true;
            }
            *dead += entry.length as usize;
            false
        });
        self.resources.iter_mut().for_each(|resource| resource.next_info.clear());
        self.count_info();
    }

    /// Forgets the bytes of series that are gone, and metrics, homes and layouts that no series has, once they are as many as the
    /// others. Numbers of metrics and homes are others then.
    pub(crate) fn compact(&mut self) {
        let live = self.bytes.len() - self.dead;
        if self.dead > live {
            let mut bytes = Vec::with_capacity(live);
            for entry in self.entries.values_mut() {
                let range = entry.at as usize..entry.at as usize + entry.length as usize;
                entry.at = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
                bytes.extend_from_slice(&self.bytes[range]);
            }
            (self.bytes, self.dead) = (bytes, 0);
        }
        let used = self.used();
        let unused = self.around_bytes.saturating_sub(used.cost);
        if unused > UNUSED_BYTES_MAX && unused > used.cost {
            self.forget(&used);
        }
        // A table that is full has up to twice the places that it needs.
        if self.entries.capacity() > self.entries.len() * 3 + ENTRIES_MIN {
            self.entries.shrink_to_fit();
        }
        if self.bytes.capacity() > self.bytes.len() / 4 * 5 {
            self.bytes.shrink_to_fit();
        }
    }

    /// What the series have.
    fn used(&self) -> Used {
        let mut used = Used {
            metrics: vec![false; self.metrics.len()],
            layouts: vec![false; self.layouts.len()],
            cost: 0,
        };
        for entry in self.entries.values() {
            used.metrics[entry.metric as usize] = true;
            if let Some(is_used) = usize::from(entry.layout).checked_sub(1).map(|at| &mut used.layouts[at]) {
                *is_used = true;
            }
        }
        let mut homes = vec![false; self.homes.len()];
        for (metric, _) in self.metrics.iter().zip(&used.metrics).filter(|(_, is_used)| **is_used) {
            used.cost += metric.cost();
            homes[metric.key.home] = true;
        }
        for (Home { resource, scope }, _) in self.homes.iter().zip(&homes).filter(|(_, is_used)| **is_used) {
            let Resource { job, instance, .. } = &self.resources[*resource];
            used.cost += home_cost(job, instance, scope);
        }
        let layouts = self.layouts.iter().zip(&used.layouts).filter(|(_, is_used)| **is_used);
        used.cost += layouts.map(|(bounds, _)| layout_cost(bounds)).sum::<usize>();
        used
    }

    /// Forgets metrics and layouts that are not used, with the homes that have none.
    fn forget(&mut self, used: &Used) {
        let metrics = std::mem::take(&mut self.metrics);
        let homes = std::mem::take(&mut self.homes);
        let resources = std::mem::take(&mut self.resources);
        let layouts = std::mem::take(&mut self.layouts);
        (self.ids, self.places, self.around_bytes) = (HashMap::new(), HashMap::new(), 0);
        let mut renumbered = HashMap::new();
        for (id, mut metric) in metrics.into_iter().enumerate() {
            if !used.metrics[id] {
                continue;
            }
            let Home { resource, scope } = &homes[metric.key.home];
            let Resource { job, instance, info, .. } = &resources[*resource];
            metric.key.home = self.home(job, instance, scope);
            let new = self.homes[metric.key.home].resource;
            self.resources[new].info.clone_from(info);
            let (kind, help) = (metric.kind, std::mem::take(&mut metric.help));
            renumbered.insert(id, self.metric(metric.key, kind, &help));
        }
        self.count_info();
        // Numbers of layouts count from 1.
        let mut layout_of = vec![0];
        for (bounds, is_used) in layouts.into_iter().zip(&used.layouts) {
            layout_of.push(if *is_used { self.layout(bounds) } else { 0 });
        }
        // Hashes are of the numbers too.
        for (_, mut entry) in std::mem::take(&mut self.entries) {
            let new = renumbered.get(&(entry.metric as usize)).copied().unwrap_or(0);
            entry.metric = u32::try_from(new).unwrap_or(0);
            entry.layout = layout_of.get(usize::from(entry.layout)).copied().unwrap_or(0);
            let attributes = &self.bytes[entry.at as usize..][..entry.length as usize];
            let mut key = self.hash(new, attributes);
            while self.entries.contains_key(&key) {
                key = key.wrapping_add(NEXT);
            }
            self.entries.insert(key, entry);
        }
    }
}

impl Metric {
    /// What it costs to remember it; its name and unit are written twice.
    fn cost(&self) -> usize {
        METRIC_COST + (self.key.name.len() + self.key.unit.len()) * 2 + self.help.len()
    }
}

/// What a home costs: all is written twice, what its resource is once more.
fn home_cost(job: &str, instance: &str, scope: &[u8]) -> usize {
    HOME_COST + (job.len() + instance.len()) * 3 + scope.len() * 2
}

fn layout_cost(bounds: &[f64]) -> usize {
    ITEM_COST + size_of_val(bounds)
}

fn info_cost(info: &[(String, String)]) -> usize {
    info.iter().map(|(name, value)| ITEM_COST + name.len() + value.len()).sum()
}

impl<'s> Gone<'s> {
    fn of(entry: &Entry, metrics: &[Metric], bytes: &'s [u8], layouts: &'s [Vec<f64>]) -> Self {
        let place = usize::from(entry.layout).checked_sub(1);
        let metric = entry.metric as usize;
        Self {
            metric,
            shape: metrics[metric].key.shape,
            attributes: &bytes[entry.at as usize..][..entry.length as usize],
            bounds: place.and_then(|place| layouts.get(place)).map_or(&[], Vec::as_slice),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOM: usize = 1 << 20;

    fn metric(series: &mut Series, name: &str) -> usize {
        let home = series.home("job", "instance", b"scope");
        let (name, unit) = (name.to_owned(), String::new());
        let key = MetricKey { home, name, unit, shape: Shape::Gauge, kind: Kind::Gauge as u8 };
        series.metric(key, Kind::Gauge, "about")
    }

    fn see(series: &mut Series, name: &str, attributes: &[u8], room: usize) -> Seen {
        let metric = metric(series, name);
        let sight = Sight { metric, samples: 1, layout: 0, is_marked: true };
        series.see(series.hash(metric, attributes), sight, attributes, room)
    }

    /// Names and attributes of those that are gone; `most` of them have room.
    fn gone(series: &mut Series, is_good: bool, most: usize) -> Vec<String> {
        let names: Vec<String> = series.metrics.iter().map(|metric| metric.key.name.clone()).collect();
        let mut found = Vec::new();
        let mark = |gone: Gone<'_>| {
            let has_room = found.len() < most;
            if has_room {
                found.push(format!("{} {}", names[gone.metric], String::from_utf8_lossy(gone.attributes)));
            }
            has_room
        };
        if is_good {
            series.sweep(mark)
        } else {
            series.sweep_all(mark)
        }
        series.compact();
        found.sort();
        found
    }

    /// Scenario: more series than there is room for; then one that was there.
    /// Guarantees: those beyond are refused, what was there is still known.
    #[test]
    fn there_is_no_series_without_room() {
        let mut series = Series::default();
        series.begin();
        metric(&mut series, "a");
        let room = series.cost() + 2 * (SERIES_COST + 2);
        assert_eq!(see(&mut series, "a", b"1", room), Seen::More(1));
        assert_eq!(see(&mut series, "a", b"2", room), Seen::More(1));
        assert_eq!(see(&mut series, "a", b"3", room), Seen::Full);
        assert_eq!(see(&mut series, "a", b"1", room), Seen::Twice);
        assert_eq!(gone(&mut series, true, 9), Vec::<String>::new());
        series.begin();
        assert_eq!(see(&mut series, "a", b"1", room), Seen::More(0));
        gone(&mut series, true, 9);
        assert!(series.count() == 1 && series.cost() < room);
    }

    /// Scenario: thousands of homes, layouts and metrics with long texts that come with a series each, beside one that stays; each is
    /// gone with the next scrape.
    /// Guarantees: all of it is counted, and what is remembered does not grow; the one that stays keeps its bounds.
    #[test]
    fn homes_and_layouts_are_forgotten_too() {
        let mut series = Series::default();
        let stays = |series: &mut Series| {
            let metric = metric(series, "stays");
            let sight = Sight { metric, samples: 1, layout: series.layout(vec![0.5]), is_marked: true };
            series.see(series.hash(metric, b"s"), sight, b"s", ROOM)
        };
        for round in 0..2_000 {
            series.begin();
            stays(&mut series);
            let scope = format!("{round}{}", "s".repeat(1_000));
            let home = series.home("job", "instance", scope.as_bytes());
            let key =
                MetricKey { home, name: "m".into(), unit: String::new(), shape: Shape::Histogram, kind: 3 };
            let before = series.cost();
            let metric = series.metric(key, Kind::Histogram, "about");
            let sight =
                Sight { metric, samples: 1, layout: series.layout(vec![f64::from(round)]), is_marked: true };
            assert!(sight.layout > 0 && series.cost() > before + METRIC_COST, "round {round}");
            series.see(series.hash(metric, b"once"), sight, b"once", ROOM);
            gone(&mut series, true, 9);
            assert!(series.cost() < 3 * UNUSED_BYTES_MAX && series.homes.len() < 64, "round {round}");
        }
        series.begin();
        let mut bounds = Vec::new();
        series.sweep(|gone| {
            bounds.extend_from_slice(gone.bounds);
            true
        });
        bounds.sort_by(f64::total_cmp);
        assert_eq!(bounds, [0.5, 1_999.0]);
    }

    /// Scenario: five series that go, with room for two markers in a scrape; one of those that wait comes back.
    /// Guarantees: each that is gone has its marker once, in a later scrape, and the one that is back has none.
    #[test]
    fn a_marker_without_room_waits() {
        for is_good in [true, false] {
            let mut series = Series::default();
            series.begin();
            for attributes in [b"1", b"2", b"3", b"4", b"5"] {
                see(&mut series, "a", attributes, ROOM);
            }
            gone(&mut series, true, 9);
            series.begin();
            let mut told = gone(&mut series, is_good, 2);
            assert_eq!(told.len(), 2);
            series.begin();
            let back = [b"1", b"2", b"3", b"4", b"5"]
                .into_iter()
                .find(|attributes| !told.contains(&format!("a {}", String::from_utf8_lossy(*attributes))));
            let back = back.expect("three are waiting");
            see(&mut series, "a", back, ROOM);
            told.extend(gone(&mut series, true, 9));
            told.sort();
            told.dedup();
            assert_eq!(told.len(), 4, "{told:?}");
            series.begin();
            assert_eq!(gone(&mut series, true, 9), [format!("a {}", String::from_utf8_lossy(back))]);
            assert_eq!(series.count(), 0);
        }
    }

    /// Scenario: one series that stays beside thousands of metrics, each of which is there once.
    /// Guarantees: what is held does not grow, and the one that stays is never said to be gone.
    #[test]
    fn what_is_gone_is_forgotten() {
        let mut series = Series::default();
        for round in 0..3_000 {
            series.begin();
            let before = series.cost();
            assert_eq!(see(&mut series, "stays", b"s", ROOM), Seen::More(usize::from(round == 0)));
            let name = format!("m{round}");
            assert_eq!(see(&mut series, &name, b"once", ROOM), Seen::More(1));
            let told = gone(&mut series, true, 9);
            let expected = (round > 0).then(|| format!("m{} once", round - 1));
            assert_eq!(told, Vec::from_iter(expected));
            assert!(series.cost() < 2 * UNUSED_BYTES_MAX && series.bytes.len() < 64, "{before}");
            assert_eq!(series.ids.len(), series.metrics.len());
        }
        assert_eq!((series.homes.len(), series.resources.len()), (1, 1));
    }
}
