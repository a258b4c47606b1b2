//! What real senders have sent, to OTLP and back.
//!
//! The vectors lie in `../shared/vectors/prometheus` beside the repository.

use std::fs;
use std::path::{Path, PathBuf};

use prometheusremotewrite_exporter::PrometheusRemoteWriteExporter;
use weir_exposition::Kind;
use weir_guest::{Plugin, settings};
use weir_remote_write::{Buckets, Count, Histogram, Metadata, Request, Sample, Series, Version, snappy};

/// Every body, what it is, and how many series come back.
const BODIES: [(&str, Version, usize); 5] = [
    ("npm_prometheus-remote-write_0.5.1", Version::V1, 1),
    // Metadata alone are gone.
    ("prometheus_2.42_remote_write_metadata", Version::V1, 0),
    ("prometheus_2.42_remote_write_samples", Version::V1, 0),
    // Of them a histogram of custom buckets, which comes back as a classic one: six buckets, count and sum.
    ("prw1_native_1", Version::V1, 4 + 8),
    ("prw2_1", Version::V2, 3),
];

/// Names stay as they are, and 1.0 says what metrics are.
const SETTINGS: &str =
    r#"{"endpoint": "http://p/w", "translation_strategy": "NoTranslation", "send_metadata": true}"#;

const NOW: u64 = 1_750_000_000_000_000_000;

/// The schema of buckets with bounds of their own.
const CUSTOM_BUCKETS: i32 = -53;

fn vectors() -> Option<PathBuf> {
    let vectors = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/vectors/prometheus/made-here");
    if !vectors.is_dir() {
        eprintln!("{} is absent: nothing to compare", vectors.display());
        return None;
    }
    Some(vectors)
}

/// Buckets that are not empty, with their indexes: which empty ones lie between them is not kept.
fn populated(side: &Buckets) -> Vec<(i64, i64)> {
    assert!(side.counts.is_empty());
    let (mut index, mut count, mut deltas) = (0, 0, side.deltas.iter());
    let mut populated = Vec::new();
    for span in &side.spans {
        index += i64::from(span.offset);
        for _ in 0..span.length {
            count += deltas.next().expect("a delta for each bucket");
            populated.push((index, count));
            index += 1;
        }
    }
    assert_eq!(deltas.next(), None);
    populated.retain(|(_, count)| *count > 0);
    populated
}

/// A series as text, to the bit: a marker is another NaN than one that was measured.
fn line(series: &Series<'_>) -> String {
    let Series { labels, samples, histograms, exemplars, kind, help, unit, fault } = series;
    assert_eq!(*fault, None);
    let samples: Vec<String> = samples
        .iter()
        .map(|Sample { value, timestamp, start }| {
            format!("{value} = {:x} at {timestamp} since {start}", value.to_bits())
        })
        .collect();
    let histograms: Vec<String> = histograms
        .iter()
        .map(|histogram| {
            let (negative, positive) = (populated(&histogram.negative), populated(&histogram.positive));
            let rest =
                Histogram { negative: Buckets::default(), positive: Buckets::default(), ..histogram.clone() };
            format!("{rest:?} {negative:?} {positive:?}")
        })
        .collect();
    format!("{labels:?} {samples:?} {histograms:?} {exemplars:?} {kind:?} {help:?} {unit:?}")
}

/// The lines of what a histogram of custom buckets comes back as.
fn classic(series: &Series<'_>, histogram: &Histogram) -> Vec<String> {
    let (name, Count::Int(count)) = (series.name(), histogram.count) else { panic!("{histogram:?}") };
    let counts = populated(&histogram.positive);
    let one = |suffix: &str, le: Option<&str>, value: f64| {
        let name = format!("{name}{suffix}");
        let mut labels: Vec<(&str, &str)> =
            series.labels.iter().copied().filter(|(label, _)| *label != "__name__").collect();
        labels.push(("__name__", &name));
        labels.extend(le.map(|le| ("le", le)));
        labels.sort_unstable();
        let Histogram { timestamp, start, .. } = *histogram;
        let samples = vec![Sample { value, timestamp, start }];
        line(&Series { labels, samples, histograms: Vec::new(), ..series.clone() })
    };
    let bounds = histogram.custom_values.iter().copied().chain([f64::INFINITY]);
    let buckets = (0..).zip(bounds).map(|(last, bound)| {
        let below = counts.iter().filter(|(index, _)| *index <= last).map(|(_, count)| *count).sum::<i64>();
        let le = if bound.is_finite() { bound.to_string() } else { "+Inf".to_owned() };
        one("_bucket", Some(&le), below as f64)
    });
    let rest = [one("_count", None, count as f64), one("_sum", None, histogram.sum)];
    buckets.chain(rest).collect()
}

/// Series of a message as lines, sorted; histograms of custom buckets as what they come back as.
fn lines(message: &[u8], version: Version) -> Vec<String> {
    let mut lines = Vec::new();
    let read = Request::parse(message, version).expect("a message").each(|series| {
        match series.histograms.iter().find(|histogram| histogram.schema == CUSTOM_BUCKETS) {
            Some(histogram) => lines.extend(classic(series, histogram)),
            None => lines.push(line(series)),
        }
        Ok(())
    });
    read.expect("a message");
    lines.sort();
    lines
}

/// Scenario: every captured body and those made by hand, of both versions, to OTLP and back in the same version.
/// Guarantees: series by series what was sent, to the bit, but for the points in LOSSY.md; in 1.0 also what was said of metrics.
#[test]
fn bodies_of_the_vectors_survive_the_way_to_otlp_and_back() {
    let Some(vectors) = vectors() else { return };
    for (name, version, series) in BODIES {
        let block = fs::read(vectors.join(format!("{name}.pb.snappy"))).expect(name);
        let before = snappy::decode(&block).expect(name);
        let read = prometheusremotewrite_receiver::read(&before, version).expect(name);
        assert_eq!((read.rejected, read.lost_exemplars), (0, 0), "{name}: {:?}", read.reasons);
        let mut after = Vec::new();
        let settings = settings::read(SETTINGS).expect("good settings");
        let mut exporter =
            PrometheusRemoteWriteExporter::configure(settings).unwrap_or_else(|faults| panic!("{faults:?}"));
        for batch in &read.batches {
            let (sheet, read) = exporter.sheet(batch, NOW).expect(name);
            assert_eq!((read.rejected(), sheet.is_full()), (0, false), "{name}: {read:?}");
            let body = sheet.write(version, true).into_body().expect(name);
            let message = snappy::decode(&body).expect(name);
            metadata_are_of(&before, &message, version);
            after.extend(lines(&message, version));
        }
        after.sort();
        let before = lines(&before, version);
        for (before, after) in before.iter().zip(&after) {
            assert_eq!(after, before, "{name}");
        }
        assert_eq!((before.len(), after.len()), (series, series), "{name}");
    }
}

/// What is said of metrics is what was said of them, and nothing of others.
fn metadata_are_of(before: &[u8], after: &[u8], version: Version) {
    let [before, after] = [before, after].map(|message| Request::parse(message, version).expect("a message"));
    // That a native histogram is a histogram is known though nobody says it.
    let is_plain = |kind| matches!(kind, Kind::Unknown | Kind::Histogram);
    let says = |said: &&Metadata<'_>| !said.help.is_empty() || !said.unit.is_empty() || !is_plain(said.kind);
    assert!(
        after.metadata().iter().filter(says).eq(before.metadata()),
        "{:?}: {:?}",
        before.metadata(),
        after.metadata()
    );
}
