//! What real targets expose, and the corpora of Prometheus and OpenMetrics.
//!
//! The vectors lie in `../shared/vectors/prometheus` beside the repository. Beside this test lies what some of them become:
//! `tests/cases/prometheus/<file>.otlp.txt`, written from the mapping's tables (`tests/cases/prometheus/README.md`). The texts are not
//! rewritten by this test, whatever it finds.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::json;
use weir_exposition::{Dialect, Reader, Record};

use crate::{Bench, OPEN_METRICS, PLAIN, PROTOBUF, text};

/// Bodies of scrapes that are good.
const GOOD: [(&str, &str); 10] = [
    ("upstream/expfmt_text.txt", PLAIN),
    ("upstream/metrics-test.prom", PLAIN),
    ("upstream/alltypes.237mfs.nometa.prom.txt", PLAIN),
    ("made-here/prometheus_client_python_0.26_text.txt", PLAIN),
    ("made-here/node_exporter_1.5.0_text.txt", PLAIN),
    ("upstream/1histogram.om.txt", OPEN_METRICS),
    ("upstream/dump-openmetrics-test.prom", OPEN_METRICS),
    ("made-here/prometheus_client_python_0.26_openmetrics.txt", OPEN_METRICS),
    ("upstream/expfmt_protobuf.bin", PROTOBUF),
    ("made-here/metricfamily_delimited_1.pb", PROTOBUF),
];

/// Those of which it is written down what they become.
const WRITTEN: [(&str, &str); 4] = [
    ("made-here/prometheus_client_python_0.26_text.txt", PLAIN),
    ("made-here/prometheus_client_python_0.26_openmetrics.txt", OPEN_METRICS),
    ("upstream/1histogram.om.txt", OPEN_METRICS),
    ("made-here/metricfamily_delimited_1.pb", PROTOBUF),
];

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The folder of the vectors, where it is there.
fn vectors() -> Option<PathBuf> {
    let vectors = repository().join("../shared/vectors/prometheus");
    if !vectors.is_dir() {
        eprintln!("{} is absent: nothing to read", vectors.display());
        return None;
    }
    Some(vectors)
}

/// All good bodies, with their types.
pub(crate) fn all() -> Vec<(&'static str, Vec<u8>)> {
    let Some(vectors) = vectors() else { return Vec::new() };
    GOOD.iter()
        .map(|(file, content_type)| (*content_type, fs::read(vectors.join(file)).expect(file)))
        .collect()
}

/// Scenario: every body of a real target; and its series being gone.
/// Guarantees: it is taken; of texts the report counts the samples; as many markers as there were points.
#[test]
fn a_body_of_a_real_target_is_taken() {
    let Some(vectors) = vectors() else { return };
    for (file, content_type) in GOOD {
        let body = fs::read(vectors.join(file)).expect(file);
        let mut bench = Bench::new(json!({"scrape_native_histograms": true, "honor_timestamps": false}));
        let scraped = bench.scrape(content_type, body.clone());
        assert_eq!(scraped.report("up"), 1.0, "{file}");
        let points = scraped.points.lines().filter(|line| line.starts_with("  {")).count();
        assert!(points > 0, "{file}");
        if content_type != PROTOBUF {
            let text = String::from_utf8_lossy(&body);
            let samples = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).count();
            assert_eq!(scraped.report("scrape_samples_scraped"), samples as f64, "{file}");
        }
        let gone = bench.fetched(Err("timeout".to_owned()));
        assert_eq!(gone.points.matches(" gone\n").count(), points, "{file}");
        assert!(
            gone.points.lines().all(|line| !line.starts_with("  {") || line.ends_with(" gone")),
            "{file}"
        );
    }
}

/// Scenario: every case of the OpenMetrics corpus.
/// Guarantees: what should parse is taken; of what should not, that is refused which Prometheus' own reader refuses, line by line: its
/// scraper is as lenient with rules over several lines.
#[test]
fn the_openmetrics_corpus_is_taken_as_prometheus_does() {
    let Some(vectors) = vectors() else { return };
    let (mut good, mut refused) = (0, 0);
    for entry in fs::read_dir(vectors.join("upstream/openmetrics-parsers")).expect("the corpus") {
        let folder = entry.expect("an entry").path();
        let body = fs::read(folder.join("metrics")).expect("a text");
        let verdict = fs::read_to_string(folder.join("test.json")).expect("a verdict");
        let should_parse = verdict.contains("\"shouldParse\": true");
        let up = Bench::new(json!({})).scrape(OPEN_METRICS, body.clone()).report("up");
        good += usize::from(should_parse);
        refused += usize::from(up == 0.0);
        assert!(!should_parse || up == 1.0, "{} is refused", folder.display());
        if lines_are_bad(&body) {
            assert_eq!(up, 0.0, "{} is taken", folder.display());
        }
    }
    assert!(good > 20 && refused > 40, "{good} good, {refused} refused");
}

/// Whether a line is none of OpenMetrics.
fn lines_are_bad(body: &[u8]) -> bool {
    let Ok(mut reader) = Reader::new(body, Dialect::OpenMetrics) else { return true };
    loop {
        match reader.next() {
            Ok(Some(Record::Sample(_) | Record::Help { .. } | Record::Type { .. } | Record::Unit { .. })) => {
            }
            Ok(None) => return false,
            Err(_) => return true,
        }
    }
}

/// Scenario: the corpus of Prometheus' text parser: texts that parse, and texts that must not.
/// Guarantees: as it says, but for a second TYPE and the escape \t, which Prometheus' scraper takes.
#[test]
fn the_corpus_of_the_text_format_is_taken_as_it_says() {
    let Some(vectors) = vectors() else { return };
    for entry in fs::read_dir(vectors.join("upstream/expfmt-corpus")).expect("the corpus") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().and_then(|name| name.to_str()).expect("a name");
        let scraped = Bench::new(json!({})).scrape(PLAIN, fs::read(&path).expect("a text"));
        let is_good =
            !name.contains("error") || matches!(name, "from_test_parse_error_1" | "from_test_parse_error_13");
        assert_eq!(scraped.report("up"), f64::from(u8::from(is_good)), "{name}");
    }
}

/// Scenario: vectors of which it is written down what they become.
/// Guarantees: they become that.
#[test]
fn a_vector_gives_the_otlp_of_the_tables() {
    let Some(vectors) = vectors() else { return };
    let mut wrong = Vec::new();
    for (file, content_type) in WRITTEN {
        let name = Path::new(file).file_name().and_then(|name| name.to_str()).expect("a file");
        let written = repository().join(format!("tests/cases/prometheus/{name}.otlp.txt"));
        let expected =
            fs::read_to_string(&written).unwrap_or_else(|error| panic!("{}: {error}", written.display()));
        let mut bench = Bench::new(json!({"scrape_native_histograms": true}));
        let scraped = bench.scrape(content_type, fs::read(vectors.join(file)).expect(file));
        let got = scraped.points;
        if got != expected {
            let line = got.lines().zip(expected.lines()).position(|(got, expected)| got != expected);
            let line = line.unwrap_or(got.lines().count().min(expected.lines().count()));
            let show = |text: &str| text.lines().nth(line).unwrap_or("(nothing)").to_owned();
            wrong.push(format!("{name}:{}: expected {}, got {}", line + 1, show(&expected), show(&got)));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Scenario: a good text of each spelling, through the whole-body function of the mapping and through the scraper.
/// Guarantees: the same metrics.
#[test]
fn the_scraper_agrees_with_the_mapping() {
    let Some(vectors) = vectors() else { return };
    for (file, content_type) in GOOD {
        let body = fs::read(vectors.join(file)).expect(file);
        let format = match content_type {
            PROTOBUF => weir_prometheus::Format::Protobuf,
            OPEN_METRICS => weir_prometheus::Format::Text(Dialect::OpenMetrics),
            _ => weir_prometheus::Format::Text(Dialect::Plain),
        };
        let (request, _) = weir_prometheus::to_otlp(&body, format, &[], crate::BEGIN).expect(file);
        let mapped = text::of(request.as_deref());
        let points = |text: &str| {
            let mut lines: Vec<String> = text
                .lines()
                .filter(|line| line.contains("} time"))
                .map(|line| line.trim().to_owned())
                .collect();
            lines.sort();
            lines
        };
        let scraped = Bench::new(json!({"scrape_native_histograms": true})).scrape(content_type, body);
        assert_eq!(points(&scraped.points), points(&mapped), "{file}");
    }
}
