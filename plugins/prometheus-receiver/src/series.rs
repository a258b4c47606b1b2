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

/// Series of all targets of one instance. A series takes some 150 bytes, so that they take a fraction of what a plugin may.
pub(crate) const SERIES_MAX: usize = 1 << 20;

/// Bytes of all their attributes: 128 each, were there as many as may be.
pub(crate) const SERIES_BYTES_MAX: usize = 128 << 20;

/// Layouts of buckets that are remembered of one target; of histograms with another one the marker has no buckets.
const LAYOUTS_MAX: usize = 256;

/// Series whose hashes are the same; 64 bits with a seed of the process make even two unlikely.
const PROBES_MAX: usize = 16;

/// From a series to the next one of the same hash.
const NEXT: u64 = 0x9e37_79b9_7f4a_7c15;

/// Metrics that no series has any more before they are forgotten.
const UNUSED_METRICS_MAX: usize = 256;

/// The series waits for its marker, for which there was no room yet.
const PENDING: u8 = 0;

/// What is left of the bounds of an instance.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Room {
    pub(crate) series: usize,
    pub(crate) bytes: usize,
}

impl Room {
    /// What is left once a target has `after` where it had `before`: series, and bytes of their attributes.
    pub(crate) fn after(self, before: (usize, usize), after: (usize, usize)) -> Self {
        let left = |left: usize, before: usize, after: usize| (left + before).saturating_sub(after);
        Self { series: left(self.series, before.0, after.0), bytes: left(self.bytes, before.1, after.1) }
    }
}

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
    generation: u8,
    seed: u64,
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
            generation: 1,
            // What a target exposes must not be made to fall on one place.
            seed: RandomState::new().hash_one(0_u8),
        }
    }
}

impl Series {
    /// How many there are, and how many bytes their attributes take.
    pub(crate) fn held(&self) -> (usize, usize) {
        (self.entries.len(), self.bytes.len())
    }

    /// A scrape begins.
    pub(crate) fn begin(&mut self) {
        self.generation = if self.generation == 1 { 2 } else { 1 };
        self.resources.iter_mut().for_each(|resource| resource.next_info.clear());
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
        self.homes.len() - 1
    }

    /// The number of a metric.
    pub(crate) fn metric(&mut self, key: MetricKey, kind: Kind, help: &str) -> usize {
        match self.ids.get(&key) {
            Some(&id) => {
                let known = &mut self.metrics[id].help;
                if known != help {
                    help.clone_into(known);
                }
                id
            }
            None => {
                self.ids.insert(key.clone(), self.metrics.len());
                self.metrics.push(Metric { key, kind, help: help.to_owned() });
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

    /// Sees a series, `attributes` as they stand in its point.
    pub(crate) fn see(&mut self, hash: u64, sight: Sight, attributes: &[u8], room: &mut Room) -> Seen {
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
        if room.series == 0 || room.bytes < attributes.len() {
            return Seen::Full;
        }
        let (Ok(at), Ok(length), Ok(metric)) =
            (u32::try_from(self.bytes.len()), u32::try_from(attributes.len()), u32::try_from(sight.metric))
        else {
            return Seen::Full;
        };
        room.series -= 1;
        room.bytes -= attributes.len();
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
    }

    /// Forgets the bytes of series and the metrics that are gone, once they are as many as the others. Numbers of metrics and
    /// homes are others then.
    pub(crate) fn compact(&mut self) {
        let live = self.bytes.len() - self.dead;
        let has_dead_bytes = self.dead > live;
        let mut used = vec![false; self.metrics.len()];
        self.entries.values().for_each(|entry| used[entry.metric as usize] = true);
        let unused = used.iter().filter(|is_used| !**is_used).count();
        let has_dead_metrics = unused > UNUSED_METRICS_MAX && unused > used.len() / 2;
        if has_dead_bytes {
            let mut bytes = Vec::with_capacity(live);
            for entry in self.entries.values_mut() {
                let range = entry.at as usize..entry.at as usize + entry.length as usize;
                entry.at = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
                bytes.extend_from_slice(&self.bytes[range]);
            }
            (self.bytes, self.dead) = (bytes, 0);
            self.entries.shrink_to_fit();
        }
        if has_dead_metrics {
            self.forget_metrics(&used);
        }
        if self.bytes.capacity() > self.bytes.len() / 4 * 5 {
            self.bytes.shrink_to_fit();
        }
    }

    /// Forgets metrics that are not used, with the homes that have none.
    fn forget_metrics(&mut self, used: &[bool]) {
        let old = std::mem::take(&mut self.metrics);
        let homes = std::mem::take(&mut self.homes);
        let resources = std::mem::take(&mut self.resources);
        self.ids.clear();
        self.places.clear();
        let mut renumbered = HashMap::new();
        for (id, mut metric) in old.into_iter().enumerate() {
            if !used[id] {
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
        // Hashes are of the numbers too.
        for (_, mut entry) in std::mem::take(&mut self.entries) {
            let new = renumbered.get(&(entry.metric as usize)).copied().unwrap_or(0);
            entry.metric = u32::try_from(new).unwrap_or(0);
            let attributes = &self.bytes[entry.at as usize..][..entry.length as usize];
            let mut key = self.hash(new, attributes);
            while self.entries.contains_key(&key) {
                key = key.wrapping_add(NEXT);
            }
            self.entries.insert(key, entry);
        }
    }
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

    const ROOM: Room = Room { series: 1_000, bytes: 100_000 };

    fn metric(series: &mut Series, name: &str) -> usize {
        let home = series.home("job", "instance", b"scope");
        let (name, unit) = (name.to_owned(), String::new());
        let key = MetricKey { home, name, unit, shape: Shape::Gauge, kind: Kind::Gauge as u8 };
        series.metric(key, Kind::Gauge, "about")
    }

    fn see(series: &mut Series, name: &str, attributes: &[u8], room: &mut Room) -> Seen {
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

    /// Scenario: more series than there is room for, by number and by bytes; then one that was there.
    /// Guarantees: those beyond are refused, what was there is still known.
    #[test]
    fn there_is_no_series_without_room() {
        for mut room in [Room { series: 2, bytes: 100 }, Room { series: 9, bytes: 2 }] {
            let mut series = Series::default();
            series.begin();
            assert_eq!(see(&mut series, "a", b"1", &mut room), Seen::More(1));
            assert_eq!(see(&mut series, "a", b"2", &mut room), Seen::More(1));
            assert_eq!(see(&mut series, "a", b"3", &mut room), Seen::Full);
            assert_eq!(see(&mut series, "a", b"1", &mut room), Seen::Twice);
            assert_eq!(gone(&mut series, true, 9), Vec::<String>::new());
            series.begin();
            assert_eq!(see(&mut series, "a", b"1", &mut room), Seen::More(0));
            let (before, _) = (series.held(), gone(&mut series, true, 9));
            let room = room.after(before, series.held());
            assert_eq!(series.held(), (1, 2));
            assert!(room.series > 0);
        }
    }

    /// Scenario: five series that go, with room for two markers in a scrape; one of those that wait comes back.
    /// Guarantees: each that is gone has its marker once, in a later scrape, and the one that is back has none.
    #[test]
    fn a_marker_without_room_waits() {
        for is_good in [true, false] {
            let mut series = Series::default();
            let mut room = ROOM;
            series.begin();
            for attributes in [b"1", b"2", b"3", b"4", b"5"] {
                see(&mut series, "a", attributes, &mut room);
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
            see(&mut series, "a", back, &mut room);
            told.extend(gone(&mut series, true, 9));
            told.sort();
            told.dedup();
            assert_eq!(told.len(), 4, "{told:?}");
            series.begin();
            assert_eq!(gone(&mut series, true, 9), [format!("a {}", String::from_utf8_lossy(back))]);
            assert_eq!(series.held().0, 0);
        }
    }

    /// Scenario: one series that stays beside thousands of metrics, each of which is there once.
    /// Guarantees: what is held does not grow, and the one that stays is never said to be gone.
    #[test]
    fn what_is_gone_is_forgotten() {
        let mut series = Series::default();
        let mut room = ROOM;
        for round in 0..3_000 {
            series.begin();
            let before = series.held();
            assert_eq!(see(&mut series, "stays", b"s", &mut room), Seen::More(usize::from(round == 0)));
            let name = format!("m{round}");
            assert_eq!(see(&mut series, &name, b"once", &mut room), Seen::More(1));
            let told = gone(&mut series, true, 9);
            let expected = (round > 0).then(|| format!("m{} once", round - 1));
            assert_eq!(told, Vec::from_iter(expected));
            room = ROOM.after((0, 0), series.held());
            assert!(series.metrics.len() <= 2 * UNUSED_METRICS_MAX + 2 && series.held().1 < 64, "{before:?}");
            assert_eq!(series.ids.len(), series.metrics.len());
        }
        assert_eq!((series.homes.len(), series.resources.len()), (1, 1));
    }
}
