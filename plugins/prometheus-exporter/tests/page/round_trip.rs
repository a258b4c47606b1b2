//! Prometheus' text to OTLP and back.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use weir_exposition::{Dialect, Kind};
use weir_guest::Outcome;
use weir_prometheus::family::{self, Exemplar, Family, Labels, Point, Value};
use weir_prometheus::otlp::{Honor, Metrics, STALE_NAN};

use crate::fetch::{OPEN_METRICS_UTF8, UTF8, absorb, check_all, exporter, page, vectors};

/// When the texts are fetched.
const NOW: u64 = 1_700_000_000_000_000_000;

/// A series as both sides must have it: its kind, its value, since when it counts, what it has for exemplars.
#[derive(Debug, PartialEq)]
struct Shown {
    kind: Kind,
    value: String,
    start: Option<u64>,
    exemplars: Vec<String>,
}

type Series = BTreeMap<(String, Labels), (i64, Shown)>;

/// The series of a text, but for what LOSSY.md says.
fn series(families: &[Family], dialect: Dialect, is_page: bool) -> Series {
    let mut all = Series::new();
    for family in families.iter().filter(|family| !family.name.starts_with("weir_page_")) {
        // OTLP has no gauge histograms; what describes a target needs one.
        if family.kind == Kind::GaugeHistogram || family.name == "target_info" {
            continue;
        }
        for point in &family.points {
            let time = point.time.unwrap_or(if is_page { 0 } else { NOW as i64 });
            // Before 1970 OTLP has no time.
            let time = if time <= 0 && !is_page { NOW as i64 } else { time };
            let Some(shown) = shown(family, point, dialect, is_page) else { continue };
            let key = (name_of(family), point.labels.clone());
            if let Some((held, _)) = all.get(&key)
                && *held > time
            {
                continue;
            }
            all.insert(key, (time, shown));
        }
    }
    all
}

/// Families of the plain text are called as their samples; so are those of OpenMetrics here.
fn name_of(family: &Family) -> String {
    family.name.clone()
}

fn shown(family: &Family, point: &Point, dialect: Dialect, is_page: bool) -> Option<Shown> {
    let is_open = dialect == Dialect::OpenMetrics;
    let kind = match (family.kind, is_open) {
        // The plain text has no words for them.
        (Kind::Info | Kind::StateSet, false) => Kind::Gauge,
        // Without its suffix a counter is none in OpenMetrics.
        (Kind::Counter, true) if !family.name.ends_with("_total") => Kind::Unknown,
        (kind, _) => kind,
    };
    let value = match &point.value {
        Value::Number(number) if number.to_bits() == STALE_NAN => return None,
        Value::Number(number) if kind == Kind::Counter && is_open && (*number < 0.0 || number.is_nan()) => {
            return None;
        }
        Value::Number(number) => format!("{number}"),
        Value::Histogram(histogram) => {
            let mut buckets = histogram.buckets.clone();
            buckets.sort_by(|left, right| left.0.total_cmp(&right.0));
            let may_fall = is_open && buckets.first().is_some_and(|(bound, _)| *bound < 0.0);
            let sum = histogram.sum.filter(|sum| !may_fall && (!is_open || *sum >= 0.0));
            // In OpenMetrics the last bucket may stand for the count; in the plain text the count for the last bucket.
            let last = buckets.last().filter(|(bound, _)| *bound == f64::INFINITY).map(|(_, count)| *count);
            let count = histogram.count.or(last.filter(|_| is_page))?;
            buckets.retain(|(bound, _)| *bound != f64::INFINITY);
            let falls = buckets.windows(2).any(|pair| pair[0].1 > pair[1].1);
            if falls || buckets.last().is_some_and(|(_, below)| *below > count) {
                return None;
            }
            format!("{buckets:?} {count} {sum:?}")
        }
        Value::Summary(summary) => {
            let mut quantiles = summary.quantiles.clone();
            quantiles.sort_by(|left, right| left.0.total_cmp(&right.0));
            if is_open {
                quantiles.retain(|(quantile, value)| {
                    (0.0..=1.0).contains(quantile) && (*value >= 0.0 || value.is_nan())
                });
            }
            let sum = summary.sum.unwrap_or(0.0);
            format!("{quantiles:?} {} {sum}", summary.count?)
        }
        Value::Native(_) => unreachable!("texts have no native histograms"),
    };
    let start = point.start.filter(|_| is_open && kind != Kind::Unknown).map(|start| start / 1_000_000);
    let exemplars = point.exemplars.iter().filter(|_| is_open).map(exemplar).collect();
    Some(Shown { kind, value, start, exemplars })
}

/// Where the text has no time of an exemplar, OTLP has that of its point.
fn exemplar(exemplar: &Exemplar) -> String {
    let mut labels = exemplar.labels.clone();
    labels.sort();
    format!("{} {labels:?}", exemplar.value)
}

fn read(text: &[u8], dialect: Dialect) -> Option<Vec<Family>> {
    let mut families = Vec::new();
    family::read(text, dialect, |family| families.push(family)).ok()?;
    Some(families)
}

/// Texts under a folder that are as they should be.
fn texts(folder: &Path, dialect: Dialect, into: &mut Vec<(PathBuf, Vec<u8>, Dialect)>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            // Names of cases that no reader should take begin so.
            let is_bad = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("bad_"));
            if !is_bad {
                let is_open = path.to_string_lossy().contains("openmetrics-parsers");
                texts(&path, if is_open { Dialect::OpenMetrics } else { Dialect::Plain }, into);
            }
            continue;
        }
        let name = path.to_string_lossy().into_owned();
        let is_text = [".prom", ".txt", "_text", "/text", "/metrics"].iter().any(|end| name.ends_with(end))
            || name.contains("expfmt-corpus");
        if is_text {
            let is_open = name.contains("openmetrics") || name.contains(".om.");
            let text = fs::read(&path).expect("a text");
            into.push((path, text, if is_open { Dialect::OpenMetrics } else { dialect }));
        }
    }
}

/// Scenario: every text of the vectors that can be read, to OTLP and onto the page, as it is called there.
/// Guarantees: the page has the same series with the same values, but for the points in LOSSY.md, and it is one that a
/// strict reader reads, in each format.
#[test]
fn texts_survive_the_way_to_otlp_and_back() {
    let Some(vectors) = vectors("prometheus") else { return };
    let mut all = Vec::new();
    texts(&vectors, Dialect::Plain, &mut all);
    let mut compared = 0;
    for (path, text, dialect) in all {
        let Some(families) = read(&text, dialect) else { continue };
        let what = path.display().to_string();
        let mut metrics = Metrics::new(&[], Honor::Exposed, NOW);
        families.iter().for_each(|family| metrics.add(family));
        let Some(body) = metrics.finish(None) else { continue };
        let mut exporter = exporter(r#"{"translation_strategy": "NoTranslation"}"#);
        let outcome = absorb(&mut exporter, body, NOW);
        assert!(matches!(outcome, Outcome::Accepted), "{what}: {outcome:?}");
        check_all(&mut exporter, NOW, &what);
        let accept = if dialect == Dialect::OpenMetrics { OPEN_METRICS_UTF8 } else { UTF8 };
        let page = page(&mut exporter, accept, NOW);
        let shown = read(page.as_bytes(), dialect).expect("a page");
        let (before, after) = (series(&families, dialect, false), series(&shown, dialect, true));
        let names = |series: &Series| series.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&before), names(&after), "{what}\n{page}");
        for (key, (_, is)) in &after {
            assert_eq!(&before[key].1, is, "{what} {key:?}");
        }
        compared += after.len();
    }
    println!("{compared} series");
    assert!(compared > 1_000, "{compared} series");
}
