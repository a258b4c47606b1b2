//! Families of samples, as a target exposes them in whatever it is spelled in.

use std::collections::HashMap;

use weir_exposition::{Dialect, Fault, Kind, Label, Reader, Record, Sample, float};

use crate::native::Native;

/// Points of one family. They are held until it is complete; targets with more than this are refused.
const POINTS_MAX: usize = 1 << 20;

/// Families that are announced in one text. They are known until its end, as their samples may come late: some 150 bytes each beside
/// their texts. Targets have some thousand.
const FAMILIES_MAX: usize = 1 << 16;

/// Labels in the order of their names, none empty.
pub type Labels = Vec<(String, String)>;

/// A family with its points.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Family {
    /// As the samples are called; of histograms and summaries without a suffix.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// For a person.
    pub help: String,
    /// As Prometheus writes it: `seconds`.
    pub unit: String,
    /// Its points, in the order of their first samples.
    pub points: Vec<Point>,
}

/// What a family is at a time for some labels.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Point {
    /// Without `le` and `quantile`.
    pub labels: Labels,
    /// Nanoseconds since the Unix epoch, where the target says it.
    pub time: Option<i64>,
    /// Since when it counts, where the target says it (`_created`).
    pub start: Option<u64>,
    /// What was measured.
    pub value: Value,
    /// Some of the things that were counted.
    pub exemplars: Vec<Exemplar>,
}

/// What was measured.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Of a counter, a gauge, a fact or a state.
    Number(f64),
    /// A histogram with bounds.
    Histogram(Histogram),
    /// A histogram whose bounds follow from a schema; texts have none.
    Native(Box<Native>),
    /// Quantiles.
    Summary(Summary),
}

/// Counts of values up to bounds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Histogram {
    /// Bounds with how many values are not above them, in the order of the text.
    pub buckets: Vec<(f64, f64)>,
    /// All values, where the target says it.
    pub count: Option<f64>,
    /// Their sum, where the target says it.
    pub sum: Option<f64>,
}

/// Quantiles.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Summary {
    /// Quantiles with their values, in the order of the text.
    pub quantiles: Vec<(f64, f64)>,
    /// All values, where the target says it.
    pub count: Option<f64>,
    /// Their sum, where the target says it.
    pub sum: Option<f64>,
}

/// One of the things that were counted.
#[derive(Clone, Debug, PartialEq)]
pub struct Exemplar {
    /// What it was.
    pub value: f64,
    /// Nanoseconds since the Unix epoch, where the target says it.
    pub time: Option<i64>,
    /// `trace_id` and `span_id` among them, where they are known.
    pub labels: Labels,
}

impl Default for Value {
    fn default() -> Self {
        Self::Number(f64::NAN)
    }
}

/// Reads a text and hands on its families, complete. Returns the number of samples.
///
/// # Errors
/// [`Fault`], the first; what was handed on before is worth nothing either.
pub fn read(text: &[u8], dialect: Dialect, take: impl FnMut(Family)) -> Result<usize, Fault> {
    let mut reader = Reader::new(text, dialect)?;
    let mut collector = Collector { take, known: HashMap::new(), open: None, samples: 0 };
    while let Some(record) = reader.next()? {
        let taken = match record {
            Record::Help { family, text } => {
                collector.known(&family).map(|known| known.help = text.into_owned())
            }
            Record::Type { family, kind } => collector.known(&family).map(|known| known.kind = kind),
            Record::Unit { family, unit } => {
                collector.known(&family).map(|known| known.unit = unit.into_owned())
            }
            Record::Sample(sample) => collector.sample(&sample, reader.labels(), reader.exemplar_labels()),
        };
        taken.map_err(|what| Fault { line: reader.line(), what: what.into() })?;
    }
    collector.close();
    Ok(collector.samples)
}

/// What was said of a family.
#[derive(Clone, Debug, Default)]
struct Known {
    kind: Kind,
    help: String,
    unit: String,
}

struct Collector<F> {
    take: F,
    known: HashMap<String, Known>,
    open: Option<Open>,
    samples: usize,
}

/// The family at hand.
struct Open {
    /// What its samples are called, less their suffixes.
    base: String,
    family: Family,
    /// Places of points by their labels and times, once the last point was not the one that was looked for.
    places: Option<HashMap<(Labels, Option<i64>), usize>>,
}

impl<F: FnMut(Family)> Collector<F> {
    fn known(&mut self, family: &str) -> Result<&mut Known, &'static str> {
        if !self.known.contains_key(family) {
            if self.known.len() == FAMILIES_MAX {
                return Err("more families in one text than are taken");
            }
            self.known.insert(family.to_owned(), Known::default());
        }
        Ok(self.known.get_mut(family).expect("it was just put there"))
    }

    fn close(&mut self) {
        if let Some(open) = self.open.take()
            && !open.family.points.is_empty()
        {
            (self.take)(open.family);
        }
    }

    fn sample(
        &mut self,
        sample: &Sample<'_>,
        labels: &[Label<'_>],
        exemplar_labels: &[Label<'_>],
    ) -> Result<(), &'static str> {
        self.samples += 1;
        let (base, suffix) = self.place(&sample.name);
        if self.open.as_ref().is_none_or(|open| open.base != base) {
            self.begin(base, suffix, &sample.name);
        }
        let Some(open) = &mut self.open else { return Ok(()) };
        open.take(suffix, sample, labels, exemplar_labels)
    }

    /// The family that a sample is of, and what its name has behind the family's.
    fn place<'n>(&self, name: &'n str) -> (&'n str, &'n str) {
        // A client of the plain text has a gauge `h_created` behind a histogram `h`.
        if self.known.contains_key(name) {
            return (name, "");
        }
        if let Some(open) = &self.open
            && let Some(suffix) = name.strip_prefix(&*open.base)
            && has(open.family.kind, suffix)
        {
            return name.split_at(name.len() - suffix.len());
        }
        const SUFFIXES: [&str; 8] =
            ["_total", "_created", "_bucket", "_sum", "_count", "_gsum", "_gcount", "_info"];
        let split = SUFFIXES.iter().find_map(|suffix| {
            let base = name.strip_suffix(suffix)?;
            let known = self.known.get(base)?;
            has(known.kind, suffix).then(|| name.split_at(base.len()))
        });
        split.unwrap_or((name, ""))
    }

    fn begin(&mut self, base: &str, suffix: &str, name: &str) {
        self.close();
        let Known { kind, help, unit } = self.known.get(base).cloned().unwrap_or_default();
        let is_one = matches!(kind, Kind::Histogram | Kind::GaugeHistogram | Kind::Summary);
        // A counter may begin with when it began.
        let name = match (is_one, suffix, kind) {
            (true, ..) => base.to_owned(),
            (false, "_created", Kind::Counter) => format!("{base}_total"),
            (false, ..) => name.to_owned(),
        };
        let family = Family { name, kind, help, unit, points: Vec::new() };
        self.open = Some(Open { base: base.to_owned(), family, places: None });
    }
}

/// Whether samples of a family of this kind have such a suffix, in either of the texts.
fn has(kind: Kind, suffix: &str) -> bool {
    kind.suffixes().contains(&suffix) || (suffix.is_empty() && matches!(kind, Kind::Counter | Kind::Info))
}

impl Open {
    fn take(
        &mut self,
        suffix: &str,
        sample: &Sample<'_>,
        labels: &[Label<'_>],
        exemplar_labels: &[Label<'_>],
    ) -> Result<(), &'static str> {
        let kind = self.family.kind;
        let own = match (kind, suffix) {
            (Kind::Histogram | Kind::GaugeHistogram, "_bucket") => Some("le"),
            (Kind::Summary, "") => Some("quantile"),
            _ => None,
        };
        let bound = labels.iter().find(|label| own.is_some_and(|own| label.name == own));
        let bound = match (own, bound) {
            (Some(_), None) => return Err("a bucket without le, or a quantile without its label"),
            (Some(_), Some(label)) => Some(float(&label.value).ok_or("le or quantile is no number")?),
            (None, _) => None,
        };
        let labels = sorted(labels, own);
        let is_composed = matches!(kind, Kind::Histogram | Kind::GaugeHistogram | Kind::Summary);
        let point = match (is_composed, suffix) {
            (false, "_created") | (true, _) => self.point(labels, sample.time)?,
            (false, _) => self.push(Point { labels, time: sample.time, ..Point::default() })?,
        };
        if let Some(exemplar) = sample.exemplar {
            let labels = sorted(exemplar_labels, None);
            point.exemplars.push(Exemplar { value: exemplar.value, time: exemplar.time, labels });
        }
        if suffix == "_created" {
            // Seconds; before 1970 nothing was measured.
            point.start =
                (sample.value > 0.0 && sample.value < 1.8e10).then_some((sample.value * 1e9) as u64);
            return Ok(());
        }
        point.set(kind, suffix, sample.value, bound);
        Ok(())
    }

    /// The point with these labels at this time.
    fn point(&mut self, labels: Labels, time: Option<i64>) -> Result<&mut Point, &'static str> {
        let points = &self.family.points;
        let is_last = points.last().is_some_and(|last| last.labels == labels && last.time == time);
        let place = if is_last {
            Some(points.len() - 1)
        } else if points.is_empty() {
            None
        } else {
            let places = self.places.get_or_insert_with(|| {
                let keyed = points.iter().enumerate();
                keyed.map(|(place, point)| ((point.labels.clone(), point.time), place)).collect()
            });
            places.get(&(labels.clone(), time)).copied()
        };
        match place {
            Some(place) => Ok(&mut self.family.points[place]),
            None => self.push(Point { labels, time, ..Point::default() }),
        }
    }

    fn push(&mut self, point: Point) -> Result<&mut Point, &'static str> {
        let points = &mut self.family.points;
        if points.len() == POINTS_MAX {
            return Err("more series in one family than are taken");
        }
        if let Some(places) = &mut self.places {
            places.insert((point.labels.clone(), point.time), points.len());
        }
        points.push(point);
        Ok(points.last_mut().expect("it was just put there"))
    }
}

impl Point {
    fn set(&mut self, kind: Kind, suffix: &str, value: f64, bound: Option<f64>) {
        match kind {
            Kind::Histogram | Kind::GaugeHistogram => {
                if !matches!(self.value, Value::Histogram(_)) {
                    self.value = Value::Histogram(Histogram::default());
                }
                let Value::Histogram(histogram) = &mut self.value else { return };
                match (suffix, bound) {
                    ("_bucket", Some(bound)) => histogram.buckets.push((bound, value)),
                    ("_count" | "_gcount", _) => histogram.count = Some(value),
                    ("_sum" | "_gsum", _) => histogram.sum = Some(value),
                    _ => {}
                }
            }
            Kind::Summary => {
                if !matches!(self.value, Value::Summary(_)) {
                    self.value = Value::Summary(Summary::default());
                }
                let Value::Summary(summary) = &mut self.value else { return };
                match (suffix, bound) {
                    ("", Some(quantile)) => summary.quantiles.push((quantile, value)),
                    ("_count", _) => summary.count = Some(value),
                    ("_sum", _) => summary.sum = Some(value),
                    _ => {}
                }
            }
            Kind::Unknown | Kind::Counter | Kind::Gauge | Kind::Info | Kind::StateSet => {
                self.value = Value::Number(value);
            }
        }
    }
}

/// Labels in the order of their names, without empty ones and `but`.
fn sorted(labels: &[Label<'_>], but: Option<&str>) -> Labels {
    let labels = labels.iter().filter(|label| !label.value.is_empty() && Some(&*label.name) != but);
    let mut sorted: Labels = labels.map(|label| (label.name.to_string(), label.value.to_string())).collect();
    sorted.sort_unstable();
    sorted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn families(text: &str, dialect: Dialect) -> Vec<Family> {
        let mut families = Vec::new();
        read(text.as_bytes(), dialect, |family| families.push(family)).expect("a good text");
        families
    }

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    /// Scenario: a text that announces as many families as are taken, each twice, and has a sample; one with one family more.
    /// Guarantees: the first is read; the other is refused at the line of that family.
    #[test]
    fn announcements_are_bounded() {
        let text = |count: usize| {
            let lines = (0..count).map(|family| format!("# HELP f{family} x\n# TYPE f{family} gauge\n"));
            lines.collect::<String>() + "f0 1\n"
        };
        assert_eq!(families(&text(FAMILIES_MAX), Dialect::Plain).len(), 1);
        let fault =
            read(text(FAMILIES_MAX + 1).as_bytes(), Dialect::Plain, |_| {}).expect_err("one too many");
        assert_eq!(
            (fault.line, &*fault.what),
            (2 * FAMILIES_MAX + 1, "more families in one text than are taken")
        );
    }

    /// Scenario: a text with a family of each kind, one that nobody announced, an empty label.
    /// Guarantees: each sample is a point of its family; histograms and summaries are one point for each set of labels.
    #[test]
    fn a_text_is_read_family_by_family() {
        let families = families(
            "# HELP http_total Requests.\n# TYPE http_total counter\nhttp_total{code=\"200\",x=\"\"} 5\nhttp_total{code=\"500\"} 1 1000\n\
             # TYPE t summary\nt{quantile=\"0.5\"} 1\nt{quantile=\"0.9\"} 2\nt_sum 10\nt_count 4\n\
             # TYPE h histogram\nh_bucket{a=\"1\",le=\"1\"} 1\nh_bucket{a=\"1\",le=\"+Inf\"} 2\nh_sum{a=\"1\"} 3\nh_count{a=\"1\"} 2\n\
             h_bucket{a=\"2\",le=\"+Inf\"} 7\nh_count{a=\"2\"} 7\nalone 1\n",
            Dialect::Plain,
        );
        let names: Vec<_> =
            families.iter().map(|family| (&*family.name, family.kind, family.points.len())).collect();
        assert_eq!(
            names,
            [
                ("http_total", Kind::Counter, 2),
                ("t", Kind::Summary, 1),
                ("h", Kind::Histogram, 2),
                ("alone", Kind::Unknown, 1),
            ]
        );
        assert_eq!(families[0].help, "Requests.");
        assert_eq!(families[0].points[0].labels, labels(&[("code", "200")]));
        assert_eq!(families[0].points[1].time, Some(1_000_000_000));
        let summary = Summary { quantiles: vec![(0.5, 1.0), (0.9, 2.0)], count: Some(4.0), sum: Some(10.0) };
        assert_eq!(families[1].points[0].value, Value::Summary(summary));
        let histogram =
            Histogram { buckets: vec![(1.0, 1.0), (f64::INFINITY, 2.0)], count: Some(2.0), sum: Some(3.0) };
        assert_eq!(families[2].points[0].value, Value::Histogram(histogram));
        assert_eq!(families[2].points[1].labels, labels(&[("a", "2")]));
    }

    /// Scenario: an OpenMetrics counter with exemplars and when each of its series began, in an order that mixes them; an info.
    /// Guarantees: the metric is called as its samples are; each start finds its series.
    #[test]
    fn what_openmetrics_adds_is_read() {
        let families = families(
            "# TYPE c counter\n# UNIT c seconds\nc_total{a=\"1\"} 5 # {trace_id=\"x\"} 0.5 9.5\nc_total{a=\"2\"} 6\nc_created{a=\"1\"} 1000.5\n\
             c_created{a=\"2\"} 2000\n# TYPE build info\nbuild_info{v=\"1\"} 1\n# EOF\n"
                .replace("# UNIT c seconds\n", "")
                .as_str(),
            Dialect::OpenMetrics,
        );
        let Family { name, points, .. } = &families[0];
        assert_eq!((&**name, points.len()), ("c_total", 2));
        assert_eq!([points[0].start, points[1].start], [Some(1_000_500_000_000), Some(2_000_000_000_000)]);
        let exemplar =
            Exemplar { value: 0.5, time: Some(9_500_000_000), labels: labels(&[("trace_id", "x")]) };
        assert_eq!((&points[0].exemplars, &points[1].exemplars), (&vec![exemplar], &Vec::new()));
        assert_eq!((&*families[1].name, families[1].kind), ("build_info", Kind::Info));
    }

    /// Scenario: families that are interleaved, a type behind its samples, a bound that is none.
    /// Guarantees: nothing is lost of the first; the last refuses the text at its line.
    #[test]
    fn disorder_is_read_and_nonsense_is_not() {
        let text = "# TYPE h histogram\n# TYPE g gauge\nh_bucket{le=\"+Inf\"} 1\ng 1\nh_count 1\nlate 2\n# TYPE late counter\n";
        let families = families(text, Dialect::Plain);
        let names: Vec<_> = families.iter().map(|family| (&*family.name, family.kind)).collect();
        assert_eq!(
            names,
            [("h", Kind::Histogram), ("g", Kind::Gauge), ("h", Kind::Histogram), ("late", Kind::Unknown),]
        );
        let fault =
            read(b"# TYPE h histogram\nh_bucket{le=\"x\"} 1\n", Dialect::Plain, drop).expect_err("no bound");
        assert_eq!(fault.line, 2);
    }
}
