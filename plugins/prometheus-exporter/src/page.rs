//! What is on the page: families, each with its series in the order of their labels.
//!
//! ```text
//! batch ─ Translator ▶ metric: family found or to be made, its type and names checked
//!                    ▶ point:  labels as text ─▶ series found: replaced, added to, older than what is there
//!                                             ─▶ none: made, if there is room
//! ```

use std::collections::{BTreeMap, HashSet};
use std::ops::Bound;
use std::rc::Rc;

use weir_exposition::Kind;
use weir_guest::wire::Malformed;
use weir_prometheus::accumulate::{Turn, turn};
use weir_prometheus::labels::Labels;
use weir_prometheus::names::Strategy;
use weir_prometheus::series::{Metric, Options, Point, Read, Reason, Sink, Translator, reason};

use crate::escape::{push_label, push_plain_label};
use crate::held::{self, Held, Series};

/// Bytes of state for each series that a page may have: labels of some 300 bytes and a number, or a histogram with few labels.
pub(crate) const BYTES_EACH: usize = 512;

/// Bytes of a family beside its texts and bounds: the first node of its tree, which has room for eleven series and is counted
/// twice already by the first, its places in a list and a set that grow by doubling, and what the allocator adds.
const FAMILY_BYTES: usize = 10 * size_of::<(Box<str>, Series)>() + 6 * size_of::<Family>();

/// What the page says of itself begins so.
pub(crate) const OWN: &str = "weir_page_";

/// A full page looks for what has expired at most so often, in nanoseconds: it goes through all series for it.
const SWEEP_EACH: u64 = 1_000_000_000;

/// Why a new series is not taken: there is no room for one more.
const FULL: Reason = "full";

/// Why a metric is not taken: its names are another's.
const CONFLICT: Reason = "conflict";

/// Older than what the page says. No point is lost by that: the page would have shown the newer one anyway.
pub(crate) const OLD: Reason = "old";

/// What a page may become.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) series_max: usize,
    /// Nanoseconds without a point after which a series goes.
    pub(crate) expiration: u64,
    pub(crate) has_exemplars: bool,
}

impl Limits {
    /// Bytes that all series and families may take.
    const fn bytes(&self) -> usize {
        self.series_max.saturating_mul(BYTES_EACH)
    }
}

/// A family.
#[derive(Debug)]
pub(crate) struct Family {
    pub(crate) kind: Kind,
    pub(crate) help: Box<str>,
    pub(crate) unit: Box<str>,
    /// By their labels as they stand in the text.
    pub(crate) series: BTreeMap<Box<str>, Series>,
    /// Of the last histogram.
    bounds: Option<Rc<[f64]>>,
}

/// The state.
#[derive(Debug)]
pub(crate) struct Page {
    limits: Limits,
    strategy: Strategy,
    translator: Translator,
    state: State,
}

#[derive(Debug, Default)]
struct State {
    /// Places of families.
    names: BTreeMap<Box<str>, usize>,
    families: Vec<Option<Family>>,
    free: Vec<usize>,
    /// Names of samples, each of one family.
    claims: HashSet<Box<str>>,
    series: usize,
    bytes: usize,
    started: u64,
    swept: u64,
    dropped: BTreeMap<Reason, u64>,
}

impl Page {
    /// An empty page; `now` is when it began.
    pub(crate) fn new(options: Options, limits: Limits, now: u64) -> Self {
        let strategy = options.strategy;
        let state = State { started: now, swept: now, ..State::default() };
        Self { limits, strategy, translator: Translator::new(options), state }
    }

    /// Takes a batch. What of it is not on the page and should be; how many points were older than what is there.
    pub(crate) fn absorb(&mut self, body: &[u8], now: u64) -> Result<(Read, u64), Malformed> {
        let Self { limits, strategy, translator, state } = self;
        if now.saturating_sub(state.swept) >= (limits.expiration / 4).max(SWEEP_EACH) {
            state.sweep(limits.expiration, now);
        }
        let mut sink = Absorb {
            state,
            limits: *limits,
            strategy: *strategy,
            now,
            place: None,
            text: String::new(),
            old: 0,
        };
        let read = translator.read(body, now, &mut sink);
        let old = sink.old;
        let read = read?;
        for (reason, count) in &read.dropped {
            *state.dropped.entry(reason).or_default() += u64::from(*count);
        }
        if old > 0 {
            *state.dropped.entry(OLD).or_default() += old;
        }
        Ok((read, old))
    }

    /// The first family behind a name; without one the first of all.
    pub(crate) fn behind(&self, name: Option<&str>) -> Option<(&str, &Family)> {
        let from = name.map_or(Bound::Unbounded, Bound::Excluded);
        let (name, place) = self.state.names.range::<str, _>((from, Bound::Unbounded)).next()?;
        Some((name, self.state.families.get(*place)?.as_ref()?))
    }

    /// Bytes that its families and series are reckoned to take.
    #[cfg(test)]
    pub(crate) const fn bytes(&self) -> usize {
        self.state.bytes
    }

    /// The family of a name.
    pub(crate) fn family(&self, name: &str) -> Option<&Family> {
        self.state.families.get(*self.state.names.get(name)?)?.as_ref()
    }

    /// Whether samples of a family have such a name.
    pub(crate) fn is_taken(&self, name: &str) -> bool {
        self.state.claims.contains(name)
    }

    /// Whether OpenMetrics gives this name to a sample of another family: since when a histogram or a summary counts.
    pub(crate) fn is_start_of_another(&self, name: &str) -> bool {
        let stem = name.strip_suffix("_created").and_then(|stem| self.state.names.get(stem));
        let family = stem.and_then(|place| self.state.families.get(*place)?.as_ref());
        family.is_some_and(|family| {
            matches!(family.kind, Kind::Histogram | Kind::GaugeHistogram | Kind::Summary)
        })
    }

    /// Whether a series is still on the page.
    pub(crate) fn is_alive(&self, series: &Series, now: u64) -> bool {
        now.saturating_sub(series.seen) <= self.limits.expiration
    }

    /// Whether names may have other characters than Prometheus has always known.
    pub(crate) fn has_all_of_utf8(&self) -> bool {
        !self.strategy.escapes()
    }

    /// What the page says of itself.
    pub(crate) fn own(&self) -> [(&'static str, Family); 3] {
        let State { series, started, dropped, .. } = &self.state;
        let family = |kind, help: &str, unit: &str| Family {
            kind,
            help: help.into(),
            unit: unit.into(),
            series: BTreeMap::new(),
            bounds: None,
        };
        let number = |number| Series {
            time: 0,
            start: 0,
            seen: u64::MAX,
            held: Held::Number(number),
            exemplars: None,
        };
        let help = "Points that are not on the page, since it began, by reason.";
        let mut points = family(Kind::Counter, help, "");
        for (reason, count) in dropped {
            let mut labels = String::new();
            push_label(&mut labels, "reason", reason);
            points.series.insert(labels.into(), number(*count as f64));
        }
        let mut now = family(Kind::Gauge, "Series on the page, and those that are about to go.", "");
        now.series.insert("".into(), number(*series as f64));
        let help = "When the page began, empty; deltas are accumulated since.";
        let mut since = family(Kind::Gauge, help, "seconds");
        since.series.insert("".into(), number(*started as f64 / 1e9));
        [
            ("weir_page_dropped_points_total", points),
            ("weir_page_series", now),
            ("weir_page_start_timestamp_seconds", since),
        ]
    }
}

// === state ===

impl State {
    /// Takes out what has expired, and families of which nothing is left.
    fn sweep(&mut self, expiration: u64, now: u64) {
        self.swept = now;
        let Self { names, families, free, claims, series: all, bytes, .. } = self;
        names.retain(|name, place| {
            let Some(family) = families.get_mut(*place).and_then(Option::as_mut) else { return false };
            family.series.retain(|labels, series| {
                let stays = now.saturating_sub(series.seen) <= expiration;
                if !stays {
                    *all -= 1;
                    *bytes -= series.bytes(labels.len());
                }
                stays
            });
            if !family.series.is_empty() {
                return true;
            }
            *bytes -= family.bytes(name);
            claimed(family.kind, name).for_each(|name| {
                claims.remove(&*name);
            });
            families[*place] = None;
            free.push(*place);
            false
        });
    }

    /// Whether there is room for so many bytes more.
    fn has_room(&mut self, series: usize, bytes: usize, limits: &Limits, now: u64) -> bool {
        let fits = |state: &Self| {
            state.series + series <= limits.series_max && state.bytes + bytes <= limits.bytes()
        };
        if !fits(self) && now.saturating_sub(self.swept) >= SWEEP_EACH {
            self.sweep(limits.expiration, now);
        }
        fits(self)
    }

    /// Makes a family without series.
    fn open(&mut self, metric: &Metric<'_>) -> usize {
        let family = Family {
            kind: metric.kind,
            help: metric.help.into(),
            unit: metric.unit.into(),
            series: BTreeMap::new(),
            bounds: None,
        };
        self.bytes += family.bytes(metric.name);
        claimed(metric.kind, metric.name).for_each(|name| {
            self.claims.insert(name);
        });
        let place = self.free.pop().unwrap_or_else(|| {
            self.families.push(None);
            self.families.len() - 1
        });
        self.families[place] = Some(family);
        self.names.insert(metric.name.into(), place);
        place
    }
}

impl Family {
    fn bytes(&self, name: &str) -> usize {
        family_bytes(name, &self.help, &self.unit) + shared_bytes(self.bounds.as_ref())
    }
}

/// Bytes of a family without series. Its name is there up to five times.
const fn family_bytes(name: &str, help: &str, unit: &str) -> usize {
    FAMILY_BYTES + 6 * name.len() + help.len() + unit.len()
}

/// Bytes of the bounds that a family keeps for its next histogram: its series may have others by now.
fn shared_bytes(bounds: Option<&Rc<[f64]>>) -> usize {
    bounds.map_or(0, |bounds| size_of_val::<[f64]>(bounds) + 32)
}

/// The names that samples of a family have, in any format; but for `_created`, which is in OpenMetrics alone.
fn claimed(kind: Kind, name: &str) -> impl Iterator<Item = Box<str>> {
    let suffixes: &[&str] = match kind {
        Kind::Histogram | Kind::GaugeHistogram => &["", "_bucket", "_count", "_sum"],
        Kind::Summary => &["", "_count", "_sum"],
        Kind::Unknown | Kind::Counter | Kind::Gauge | Kind::Info | Kind::StateSet => &[""],
    };
    suffixes.iter().map(move |suffix| format!("{name}{suffix}").into())
}

// === absorb ===

/// Takes the points of one batch.
struct Absorb<'p> {
    state: &'p mut State,
    limits: Limits,
    strategy: Strategy,
    now: u64,
    /// The family of the metric at hand, once there is one.
    place: Option<usize>,
    /// Labels of the point at hand.
    text: String,
    old: u64,
}

impl Sink for Absorb<'_> {
    fn metric(&mut self, metric: &Metric<'_>) -> Result<(), Reason> {
        if metric.name.starts_with(OWN) {
            return Err(reason::NAME);
        }
        self.place = self.state.names.get(metric.name).copied();
        let Some(place) = self.place else {
            let is_free = claimed(metric.kind, metric.name).all(|name| !self.state.claims.contains(&name));
            return if is_free { Ok(()) } else { Err(CONFLICT) };
        };
        let family = self.state.families.get(place).and_then(Option::as_ref);
        if family.is_some_and(|family| family.kind == metric.kind) { Ok(()) } else { Err(CONFLICT) }
    }

    fn point(&mut self, metric: &Metric<'_>, point: &Point<'_, '_>) -> Result<(), Reason> {
        self.text.clear();
        let rest = render(metric, point.labels, self.strategy, &mut self.text);
        if point.is_gone {
            self.remove(point.time);
            return Ok(());
        }
        let State { families, bytes, .. } = &mut *self.state;
        let family = self.place.and_then(|place| families.get_mut(place)?.as_mut());
        let mut bounds = family.as_ref().and_then(|family| family.bounds.clone());
        let held = match rest {
            Some(rest) => Held::Target(rest),
            None => Held::of(&point.value, &mut bounds)?,
        };
        if held.is_too_long(metric.name.len(), self.text.len(), metric.is_delta) {
            return Err(reason::SIZE);
        }
        let has_exemplars =
            matches!(metric.kind, Kind::Counter | Kind::Histogram) && self.limits.has_exemplars;
        let exemplars = if has_exemplars { held::exemplars(&point.value, self.strategy) } else { None };
        let new = Series { time: point.time, start: point.start, seen: self.now, held, exemplars };
        let there = family.and_then(|family| Some((family.series.get_mut(&*self.text)?, &mut family.bounds)));
        let Some((series, shared)) = there else { return self.insert(metric, new, bounds) };
        let adds = match turn(metric.is_delta, series.time, point.start, point.time) {
            Turn::Old => {
                self.old += 1;
                return Ok(());
            }
            Turn::Overlap => return Err(reason::OVERLAP),
            Turn::Replace => false,
            Turn::Add => true,
        };
        let before = series.bytes(self.text.len()) + shared_bytes(shared.as_ref());
        let without = *bytes - before;
        let after = renew(series, new, adds, self.text.len(), |most| {
            let most = most + shared_bytes(bounds.as_ref());
            most <= before || without + most <= self.limits.bytes()
        })?;
        *bytes = without + after + shared_bytes(bounds.as_ref());
        *shared = bounds;
        Ok(())
    }
}

/// Puts a newer value in the place of what a series holds, or adds it to that. Bytes that the series takes then;
/// `has_room` says whether it may take so many.
fn renew(
    series: &mut Series,
    mut new: Series,
    adds: bool,
    labels: usize,
    has_room: impl Fn(usize) -> bool,
) -> Result<usize, Reason> {
    let exemplars = if new.exemplars.is_none() { series.exemplar_bytes() } else { 0 };
    // A histogram with a scale has other buckets when it is added to, no more than both have; the others stay what they are.
    let grows = adds && matches!(new.held, Held::Exponential(_));
    let most = new.bytes(labels) + exemplars + if grows { series.bytes(labels) } else { 0 };
    if !has_room(most) {
        return Err(FULL);
    }
    if new.exemplars.is_none() {
        new.exemplars = series.exemplars.take();
    }
    if adds {
        let mut held = std::mem::replace(&mut series.held, Held::Number(0.0));
        // Another kind of histogram, or other bounds: it begins anew.
        new.start = if held.add(new.held) { series.start } else { new.start };
        new.held = held;
    }
    *series = new;
    Ok(series.bytes(labels))
}

impl Absorb<'_> {
    fn insert(&mut self, metric: &Metric<'_>, new: Series, bounds: Option<Rc<[f64]>>) -> Result<(), Reason> {
        let bytes = new.bytes(self.text.len());
        let Metric { name, help, unit, .. } = metric;
        let family = if self.place.is_none() { family_bytes(name, help, unit) } else { 0 };
        let more = bytes + family + shared_bytes(bounds.as_ref());
        if !self.state.has_room(1, more, &self.limits, self.now) {
            return Err(FULL);
        }
        // Where room was made, the family may have gone.
        let place = self.state.names.get(metric.name).copied();
        let place = place.unwrap_or_else(|| self.state.open(metric));
        self.place = Some(place);
        let State { families, series, bytes: all, .. } = &mut *self.state;
        if let Some(family) = families.get_mut(place).and_then(Option::as_mut) {
            *all = *all - shared_bytes(family.bounds.as_ref()) + shared_bytes(bounds.as_ref()) + bytes;
            family.bounds = bounds;
            family.series.insert(self.text.as_str().into(), new);
            *series += 1;
        }
        Ok(())
    }

    /// The series has ended.
    fn remove(&mut self, time: u64) {
        let family = self.place.and_then(|place| self.state.families.get_mut(place)?.as_mut());
        let Some(family) = family else { return };
        if family.series.get(&*self.text).is_some_and(|series| series.time <= time)
            && let Some(series) = family.series.remove(&*self.text)
        {
            self.state.series -= 1;
            self.state.bytes -= series.bytes(self.text.len());
        }
    }
}

/// Writes the labels that tell a series from the others of its family; of `target_info` the rest comes back.
fn render(metric: &Metric<'_>, labels: &Labels, strategy: Strategy, text: &mut String) -> Option<Box<str>> {
    // Names that were escaped need no quotes, and those of `const_labels` were checked.
    let push = if strategy.escapes() { push_plain_label } else { push_label };
    if !metric.is_target {
        labels.iter().for_each(|(name, value)| push(text, name, value));
        return None;
    }
    let mut rest = String::new();
    for (name, value) in labels.iter() {
        let to = if matches!(name, "job" | "instance") { &mut *text } else { &mut rest };
        push(to, name, value);
    }
    Some(rest.into())
}
