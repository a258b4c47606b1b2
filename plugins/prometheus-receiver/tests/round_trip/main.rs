//! Prometheus' protobuf exposition to OTLP and back: as remote write of both versions, and on a page.
//!
//! ```text
//! body ─▶ prometheus-receiver ─▶ OTLP ─▶ prometheusremotewrite-exporter ─▶ 2.0, 1.0 ─┐
//!   │                             └────▶ prometheus-exporter ─▶ both texts ──────────┤ series by series
//!   └─▶ what it tells, read field by field (`told.rs`) ──────────────────────────────┘
//! ```

mod back;
mod own;
mod told;

use std::fs;
use std::path::Path;

use prometheus_receiver::PrometheusReceiver;
use serde_json::json;
use weir_exposition::{Dialect, Kind};
use weir_guest::{Batch, Fetched, Response, Scraper, Target, configure};
use weir_remote_write::Version;

use crate::back::{metadata, page, remote_write};
use crate::told::{All, Shown, Told, Value, number, told};

/// When the bodies are fetched, in nanoseconds since the Unix epoch.
const NOW: u64 = 1_750_000_000_000_000_000;

const PROTOBUF: &str =
    "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited";

/// What the receiver says of the scrape itself.
const REPORTS: [&str; 5] = [
    "up",
    "scrape_duration_seconds",
    "scrape_samples_scraped",
    "scrape_samples_post_metric_relabeling",
    "scrape_series_added",
];

fn target() -> Vec<(String, String)> {
    [("instance", "h:1"), ("job", "shop")].map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec()
}

/// What the receiver makes of a body.
fn scraped(body: &[u8]) -> Vec<Batch> {
    let job = json!({"job_name": "shop", "scrape_native_histograms": true});
    let settings = json!({"config": {"scrape_configs": [job]}});
    let mut plugin: PrometheusReceiver =
        configure(&settings.to_string()).unwrap_or_else(|faults| panic!("{faults:?}"));
    let target = Target { job: "shop".into(), url: "http://h:1/metrics".into(), labels: target() };
    let headers = vec![("Content-Type".to_owned(), PROTOBUF.to_owned())];
    let answer = Ok(Response { status: 200, headers, body: body.to_vec() });
    plugin.digest(target, Fetched { at: NOW, took: 1, answer })
}

/// The same series, and the same of each.
fn same(what: &str, told: &All, found: &All) {
    for (key, shown) in told {
        assert_eq!(found.get(key), Some(shown), "{what}: {key:?}");
    }
    let more: Vec<_> = found.keys().filter(|key| !told.contains_key(*key)).collect();
    assert!(more.is_empty(), "{what}: {more:?} are in nothing that was told");
}

/// Takes the reports on the scrape out, all of which must be there.
fn without_reports(mut all: All) -> All {
    for name in REPORTS {
        let before = all.len();
        all.retain(|key, _| key["__name__"] != name);
        assert_eq!(all.len() + 1, before, "{name}");
    }
    all
}

/// Series as version 1.0 has them: it says neither what they are nor since when they count.
fn bare(told: &All) -> All {
    let bare = |shown: &Shown| Shown {
        kind: Kind::Unknown,
        help: String::new(),
        unit: String::new(),
        start: 0,
        ..shown.clone()
    };
    told.iter().map(|(key, shown)| (key.clone(), bare(shown))).collect()
}

/// Series as a page has them: a native histogram as a classic one, of which count and sum are compared here; in the plain text nothing
/// but values and times, in OpenMetrics what it allows.
fn on_a_page(told: &All, dialect: Dialect) -> All {
    let mut all = All::new();
    for (key, shown) in told {
        let mut shown = shown.clone();
        if let Value::Native(native) = &shown.value {
            // With a bound below zero, OpenMetrics has neither.
            if dialect == Dialect::OpenMetrics && !native.negative.is_empty() {
                continue;
            }
            for (suffix, value) in [("_count", native.count as f64), ("_sum", native.sum)] {
                let mut key = key.clone();
                key.insert("__name__".into(), format!("{}{suffix}", key["__name__"]));
                let (value, exemplars) = (number(value), Default::default());
                all.insert(key, Shown { value, exemplars, ..shown.clone() });
            }
            continue;
        }
        if dialect == Dialect::Plain {
            (shown.start, shown.exemplars, shown.unit) = (0, Default::default(), String::new());
        }
        all.insert(key.clone(), shown);
    }
    if dialect == Dialect::Plain {
        all.values_mut().for_each(|shown| (shown.start, shown.unit) = (0, String::new()));
        return all;
    }
    for (key, shown) in &mut all {
        let name = &key["__name__"];
        // Without its suffix a counter is none.
        if shown.kind == Kind::Counter && !name.ends_with("_total") {
            (shown.kind, shown.exemplars) = (Kind::Unknown, Default::default());
        }
        // What says no start in OpenMetrics has none.
        if !matches!(shown.kind, Kind::Counter | Kind::Histogram | Kind::Summary) {
            shown.start = 0;
        }
        let family = ["_total", "_bucket", "_count", "_sum"].iter().find_map(|end| name.strip_suffix(end));
        let family = family.filter(|_| shown.kind != Kind::Gauge && shown.kind != Kind::Unknown);
        // A unit is the end of the name, or is not said.
        if !family.unwrap_or(name).ends_with(&format!("_{}", shown.unit)) {
            shown.unit.clear();
        }
    }
    all
}

/// Takes a body on all ways back; returns how many series came back on each.
fn check(what: &str, body: &[u8]) -> usize {
    let Told { series, families } = told(body, (NOW / 1_000_000).cast_signed(), &target());
    let batches = scraped(body);
    same(&format!("{what}, 2.0"), &series, &without_reports(remote_write(&batches, Version::V2)));
    same(&format!("{what}, 1.0"), &bare(&series), &without_reports(remote_write(&batches, Version::V1)));
    let mut said = metadata(&batches);
    said.retain(|name, _| !REPORTS.contains(&&**name));
    assert_eq!(said, families, "{what}, metadata of 1.0");
    for dialect in [Dialect::Plain, Dialect::OpenMetrics] {
        let wanted = on_a_page(&series, dialect);
        let found = without_reports(page(&batches, dialect, &series));
        same(&format!("{what}, {dialect:?}"), &wanted, &found);
    }
    series.len()
}

/// Scenario: a body with a family of each type, with what is easy to lose: NaN, a minus before zero, times of their own, starts,
/// exemplars, labels that the target has too, native histograms with gaps, below zero, of each end of the schemas, and empty.
/// Guarantees: as remote write of both versions and on both pages each series is what the body told, but for the points in LOSSY.md.
#[test]
fn a_body_of_each_type_survives_the_way_to_otlp_and_back() {
    assert_eq!(check("own", &own::body()), own::SERIES);
}

/// Scenario: histograms that OTLP has not, each beside a counter: of floats, of an unknown schema, a gauge's; and of custom buckets.
/// Guarantees: classic buckets come back in the place of native ones that cannot; without any, custom buckets come back as count and sum;
/// the others do not, and the counter always does.
#[test]
fn histograms_that_otlp_has_not_come_back_as_classic_ones_or_not_at_all() {
    for (what, body, series) in own::lost() {
        assert_eq!(check(what, &body), series, "{what}");
    }
}

/// Scenario: a body of which one thing is told otherwise.
/// Guarantees: the comparison sees it, whatever it is.
#[test]
fn what_is_told_otherwise_is_seen() {
    let Told { series, .. } = told(&own::body(), (NOW / 1_000_000).cast_signed(), &target());
    let found = without_reports(remote_write(&scraped(&own::body()), Version::V2));
    let differs = |change: &dyn Fn(&mut Shown)| {
        found.iter().all(|(key, shown)| {
            let mut other = series[key].clone();
            change(&mut other);
            other != *shown
        })
    };
    assert!(differs(&|shown| shown.time += 1));
    assert!(differs(&|shown| shown.start += 1));
    assert!(differs(&|shown| shown.help.push('x')));
    assert!(differs(&|shown| assert!(shown.exemplars.insert("x".into()))));
    assert!(differs(&|shown| match &mut shown.value {
        Value::Number(number) => number.push('1'),
        Value::Native(native) => native.positive.push((0, 1)),
    }));
}

/// Scenario: every body in protobuf of the vectors.
/// Guarantees: as of the test's own body.
#[test]
fn bodies_of_the_vectors_survive_the_way_to_otlp_and_back() {
    let vectors = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/vectors/prometheus");
    if !vectors.is_dir() {
        eprintln!("{} is absent: nothing to read", vectors.display());
        return;
    }
    let mut all = 0;
    for file in ["upstream/expfmt_protobuf.bin", "made-here/metricfamily_delimited_1.pb"] {
        let series = check(file, &fs::read(vectors.join(file)).expect(file));
        assert!(series > 10, "{file}: {series} series");
        all += series;
    }
    println!("{all} series");
    assert!(all > 100, "{all} series");
}
