//! The rules of OpenMetrics for records that follow each other, as `prometheus_client` reads them.
//!
//! ```text
//! family  TYPE, UNIT, HELP once each and before its samples; its names clash with no other's; not interleaved
//! group   samples with the same labels (less le, quantile and the states' own): together, times present or absent and in order
//! value   counters and counts: no NaN, not negative; info 1; state 0 or 1; exemplars on buckets and totals only
//! buckets in order, not falling, the last +Inf, the same as the count; a count where there is a sum, and the other way round
//! ```

use std::borrow::Cow;
use std::collections::{BTreeSet, HashSet};
use std::hash::{BuildHasher, RandomState};

use crate::number::float;
use crate::{Fault, Kind, Label, Reader, Record, Sample, shown};

/// Holds a text against the rules.
#[derive(Debug, Default)]
pub struct Check {
    /// Names of families that are complete, with all their suffixes.
    names: BTreeSet<String>,
    family: Option<Family>,
    hasher: RandomState,
}

/// The family at hand.
#[derive(Debug, Default)]
struct Family {
    name: String,
    kind: Option<Kind>,
    has_help: bool,
    unit: Option<String>,
    has_samples: bool,
    /// Began with a sample nobody announced: this is its only name.
    is_bare: bool,
    /// The group of the last sample.
    group: Option<Group>,
    /// Hashes of the labels of groups so far.
    groups: HashSet<u64>,
    buckets: Option<Buckets>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Group {
    labels: u64,
    time: Option<i64>,
}

/// The histogram at hand: samples of one group at one time.
#[derive(Debug)]
struct Buckets {
    of: Group,
    bound: Option<f64>,
    value: f64,
    count: Option<f64>,
    has_sum: bool,
    has_gauge_sum: bool,
    has_negative_gauge_sum: bool,
    has_negative_bounds: bool,
}

type Broken = Cow<'static, str>;

impl Check {
    /// Reads a whole OpenMetrics text.
    ///
    /// # Errors
    /// [`Fault`], the first.
    pub fn all(text: &[u8]) -> Result<(), Fault> {
        let mut reader = Reader::new(text, crate::Dialect::OpenMetrics)?;
        let mut check = Self::default();
        while let Some(record) = reader.next()? {
            let fault = |what| Fault { line: reader.line(), what };
            check.take(&record, reader.labels()).map_err(fault)?;
        }
        check.finish().map_err(|what| Fault { line: reader.line(), what })
    }

    /// The next record; `labels` of a sample.
    ///
    /// # Errors
    /// The rule that is broken.
    pub fn take(&mut self, record: &Record<'_>, labels: &[Label<'_>]) -> Result<(), Broken> {
        match record {
            Record::Help { family, .. } => {
                let family = self.announced(family)?;
                once(&mut family.has_help, "HELP")
            }
            Record::Type { family, kind } => {
                let family = self.announced(family)?;
                match family.kind.replace(*kind) {
                    Some(_) => Err("more than one TYPE for a family".into()),
                    None => Ok(()),
                }
            }
            Record::Unit { family, unit } => {
                let family = self.announced(family)?;
                match family.unit.replace(unit.clone().into_owned()) {
                    Some(_) => Err("more than one UNIT for a family".into()),
                    None => Ok(()),
                }
            }
            Record::Sample(sample) => self.sample(sample, labels),
        }
    }

    /// The text is over.
    ///
    /// # Errors
    /// The rule that its last family breaks.
    pub fn finish(mut self) -> Result<(), Broken> {
        self.close()
    }

    /// The family of a line before its samples.
    fn announced(&mut self, name: &str) -> Result<&mut Family, Broken> {
        match &self.family {
            Some(family) if family.name == name && family.has_samples => {
                return Err("metadata behind the samples of its family".into());
            }
            Some(family) if family.name == name => {}
            Some(_) | None => self.begin(name, false)?,
        }
        self.family.as_mut().ok_or(Cow::Borrowed("no family"))
    }

    fn begin(&mut self, name: &str, is_bare: bool) -> Result<(), Broken> {
        self.close()?;
        let kind = is_bare.then_some(Kind::Unknown);
        self.family = Some(Family { name: name.to_owned(), is_bare, kind, ..Family::default() });
        Ok(())
    }

    /// The family at hand is complete.
    fn close(&mut self) -> Result<(), Broken> {
        let Some(mut family) = self.family.take() else { return Ok(()) };
        let kind = family.kind.unwrap_or_default();
        let suffixes: BTreeSet<&str> = kind.suffixes().iter().copied().chain([""]).collect();
        for suffix in suffixes {
            if !self.names.insert(format!("{}{suffix}", family.name)) {
                return Err(format!("clashing name: {}{suffix}", shown(&family.name)).into());
            }
        }
        if let Some(unit) = family.unit.take().filter(|unit| !unit.is_empty()) {
            if !family.name.strip_suffix(&*unit).is_some_and(|rest| rest.ends_with('_')) {
                return Err(format!("the unit {} is not the end of the name", shown(&unit)).into());
            }
            if matches!(kind, Kind::Info | Kind::StateSet) {
                return Err("info and states have no unit".into());
            }
        }
        family.buckets.take().map_or(Ok(()), Buckets::close)
    }

    fn sample(&mut self, sample: &Sample<'_>, labels: &[Label<'_>]) -> Result<(), Broken> {
        if !self.family.as_ref().is_some_and(|family| family.has(&sample.name)) {
            self.begin(&sample.name, true)?;
        }
        let Some(family) = &mut self.family else { return Ok(()) };
        family.has_samples = true;
        let kind = family.kind.unwrap_or_default();
        let suffix = sample.name.get(family.name.len()..).unwrap_or_default();
        labels_fit(kind, family, suffix, sample, labels)?;
        let own = own_label(kind, &family.name, suffix);
        let group = Group { labels: hash(&self.hasher, labels, own), time: sample.time };
        family.groups(group, kind)?;
        values_fit(kind, suffix, sample)?;
        if matches!(kind, Kind::Histogram | Kind::GaugeHistogram) && !suffix.is_empty() {
            if family.buckets.as_ref().is_some_and(|buckets| buckets.of != group) {
                family.buckets.take().map_or(Ok(()), Buckets::close)?;
            }
            family.buckets.get_or_insert_with(|| Buckets::new(group)).take(suffix, sample.value, labels)?;
        }
        Ok(())
    }
}

impl Family {
    /// Whether a sample of this name is its.
    fn has(&self, name: &str) -> bool {
        let Some(suffix) = name.strip_prefix(&*self.name) else { return false };
        match self.kind {
            Some(kind) if !self.is_bare => kind.suffixes().contains(&suffix),
            Some(_) | None => suffix.is_empty(),
        }
    }

    fn groups(&mut self, now: Group, kind: Kind) -> Result<(), Broken> {
        match self.group {
            Some(last) if last.labels == now.labels => {
                if last.time.is_some() != now.time.is_some() {
                    return Err("samples with and without a time in one group".into());
                }
                if last.time > now.time && kind != Kind::Info {
                    return Err("times go backwards in a group".into());
                }
            }
            Some(_) if self.groups.contains(&now.labels) => {
                return Err("the samples of a group do not stand together".into());
            }
            Some(_) | None => {}
        }
        self.groups.insert(now.labels);
        self.group = Some(now);
        Ok(())
    }
}

impl Buckets {
    fn new(of: Group) -> Self {
        Self {
            of,
            bound: None,
            value: 0.0,
            count: None,
            has_sum: false,
            has_gauge_sum: false,
            has_negative_gauge_sum: false,
            has_negative_bounds: false,
        }
    }

    fn take(&mut self, suffix: &str, value: f64, labels: &[Label<'_>]) -> Result<(), Broken> {
        match suffix {
            "_bucket" => {
                let bound = find(labels, "le").and_then(float).ok_or("a bucket without a bound")?;
                self.has_negative_bounds |= bound < 0.0;
                if self.bound.is_some_and(|last| bound <= last) {
                    return Err("buckets out of order".into());
                }
                if value < self.value {
                    return Err("a bucket counts less than the one before".into());
                }
                (self.bound, self.value) = (Some(bound), value);
            }
            "_count" | "_gcount" => self.count = Some(value),
            "_sum" => self.has_sum = true,
            "_gsum" => {
                self.has_gauge_sum = true;
                self.has_negative_gauge_sum |= value < 0.0;
            }
            _ => {}
        }
        Ok(())
    }

    fn close(self) -> Result<(), Broken> {
        let has_any_sum = self.has_sum || self.has_gauge_sum;
        Err(if self.bound != Some(f64::INFINITY) {
            "the bucket +Inf is missing"
        } else if self.count.is_some_and(|count| count != self.value) {
            "the count is not that of the bucket +Inf"
        } else if has_any_sum && self.count.is_none() {
            "a sum without a count"
        } else if !has_any_sum && self.count.is_some() {
            "a count without a sum"
        } else if self.has_negative_bounds && self.has_sum {
            "a sum beside buckets below zero"
        } else if !self.has_negative_bounds && self.has_negative_gauge_sum {
            "a sum below zero without buckets below zero"
        } else {
            return Ok(());
        }
        .into())
    }
}

/// The label that tells the samples of one group apart.
fn own_label<'n>(kind: Kind, family: &'n str, suffix: &str) -> Option<&'n str> {
    match (kind, suffix) {
        (Kind::Summary, "") => Some("quantile"),
        (Kind::StateSet, _) => Some(family),
        (Kind::Histogram | Kind::GaugeHistogram, "_bucket") => Some("le"),
        _ => None,
    }
}

fn hash(hasher: &RandomState, labels: &[Label<'_>], but: Option<&str>) -> u64 {
    let mut pairs: Vec<(&str, &str)> = labels
        .iter()
        .map(|label| (&*label.name, &*label.value))
        .filter(|(name, _)| Some(*name) != but)
        .collect();
    pairs.sort_unstable();
    hasher.hash_one(pairs)
}

fn labels_fit(
    kind: Kind,
    family: &Family,
    suffix: &str,
    sample: &Sample<'_>,
    labels: &[Label<'_>],
) -> Result<(), Broken> {
    if kind == Kind::StateSet && find(labels, &family.name).is_none() {
        return Err("a state without the label of its family's name".into());
    }
    let is_whole = || sample.value.is_finite() && sample.value.fract() == 0.0;
    if suffix == "_bucket" {
        let bound = find(labels, "le").ok_or("a bucket without le")?;
        if bound == "NaN" || is_uncanonical(bound) {
            return Err("le is no bound".into());
        }
        if !sample.is_whole && !is_whole() {
            return Err("a bucket does not count whole things".into());
        }
    }
    if matches!(suffix, "_count" | "_gcount") && !sample.is_whole && !is_whole() {
        return Err("a count is no whole number".into());
    }
    if kind == Kind::Summary && suffix.is_empty() {
        let quantile = find(labels, "quantile").ok_or("a quantile without its label")?;
        let value = float(quantile).ok_or("quantile is no number")?;
        if !(0.0..=1.0).contains(&value) || is_uncanonical(quantile) {
            return Err("quantile is not from 0 to 1".into());
        }
    }
    Ok(())
}

fn values_fit(kind: Kind, suffix: &str, sample: &Sample<'_>) -> Result<(), Broken> {
    let value = sample.value;
    let is_bucket = suffix == "_bucket" && matches!(kind, Kind::Histogram | Kind::GaugeHistogram);
    let counts = matches!(suffix, "_total" | "_sum" | "_count" | "_bucket" | "_gcount");
    Err(if kind == Kind::StateSet && value != 0.0 && value != 1.0 {
        "a state is neither 0 nor 1"
    } else if kind == Kind::Info && value != 1.0 {
        "info is not 1"
    } else if kind == Kind::Summary && suffix.is_empty() && value < 0.0 {
        "a quantile below zero"
    } else if (counts || suffix == "_gsum") && value.is_nan() {
        "what counts is not a number"
    } else if counts && value < 0.0 {
        "what counts is below zero"
    } else if sample.exemplar.is_some() && !is_bucket && !(kind == Kind::Counter && suffix == "_total") {
        "an exemplar on something else than a bucket or a total"
    } else {
        return Ok(());
    }
    .into())
}

/// Infinity in another spelling than `+Inf`.
fn is_uncanonical(number: &str) -> bool {
    match float(number) {
        Some(value) if value == f64::INFINITY => number != "+Inf",
        Some(_) => false,
        None => true,
    }
}

fn find<'l>(labels: &'l [Label<'_>], name: &str) -> Option<&'l str> {
    labels.iter().find(|label| label.name == name).map(|label| &*label.value)
}

fn once(said: &mut bool, what: &str) -> Result<(), Broken> {
    if std::mem::replace(said, true) {
        Err(format!("more than one {what} for a family").into())
    } else {
        Ok(())
    }
}
