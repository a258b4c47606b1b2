//! The ways back: OTLP to remote write and to a page, and what these say, read again.

use std::collections::BTreeMap;

use prometheus_exporter::PrometheusExporter;
use prometheusremotewrite_exporter::PrometheusRemoteWriteExporter;
use weir_exposition::{Check, Dialect, Kind, Reader, Record};
use weir_guest::{Batch, Outcome, Plugin, Request as HttpRequest, settings};
use weir_remote_write::{Buckets, Count, Histogram, Request, Series, Version, snappy};

use crate::NOW;
use crate::told::{All, Key, Native, Shown, Value, buckets, exemplar, number};

/// Names stay as they are; the target's own description is not of the body.
const REMOTE_WRITE: &str = r#"{"endpoint": "http://p/w", "translation_strategy": "NoTranslation", "send_metadata": true,
    "target_info": {"enabled": false}}"#;
const PAGE: &str = r#"{"translation_strategy": "NoTranslation", "send_timestamps": true}"#;

const NANOS_PER_MILLI: i64 = 1_000_000;

/// Labels of series as they are compared: the receiver's scope is said and taken out, bounds are numbers.
fn key<'l>(labels: impl Iterator<Item = (&'l str, &'l str)>) -> Key {
    let mut key: Key = labels.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    assert_eq!(key.remove("otel_scope_name").as_deref(), Some("prometheus-receiver"), "{key:?}");
    assert!(key.remove("otel_scope_version").is_some(), "{key:?}");
    for label in ["le", "quantile"] {
        if let Some(text) = key.get_mut(label) {
            *text = format!("{:?}", text.parse::<f64>().expect("a number"));
        }
    }
    key
}

// === remote write ===

/// The messages that the exporter would send, out of their snappy blocks.
fn messages(batches: &[Batch], version: Version) -> Vec<Vec<u8>> {
    let settings = settings::read(REMOTE_WRITE).expect("good settings");
    let mut exporter =
        PrometheusRemoteWriteExporter::configure(settings).unwrap_or_else(|faults| panic!("{faults:?}"));
    let message = |batch: &Batch| {
        let (sheet, read) = exporter.sheet(&batch.body, NOW).expect("a batch");
        assert_eq!((read.rejected(), sheet.is_full()), (0, false), "{read:?}");
        let body = sheet.write(version, true).into_body().expect("a body");
        snappy::decode(&body).expect("a block")
    };
    batches.iter().map(message).collect()
}

/// Series of the messages.
pub(crate) fn remote_write(batches: &[Batch], version: Version) -> All {
    let mut all = All::new();
    for message in messages(batches, version) {
        let request = Request::parse(&message, version).expect("a message");
        let read = request.each(|series| {
            let (key, shown) = shown(series);
            assert_eq!(all.insert(key, shown), None, "{series:?} is there twice");
            Ok(())
        });
        read.expect("a message");
    }
    all
}

/// What version 1.0 says of families: kind, help and unit.
pub(crate) fn metadata(batches: &[Batch]) -> BTreeMap<String, (Kind, String, String)> {
    let mut all = BTreeMap::new();
    for message in messages(batches, Version::V1) {
        let request = Request::parse(&message, Version::V1).expect("a message");
        for said in request.metadata() {
            let texts = (said.kind, said.help.to_owned(), said.unit.to_owned());
            assert_eq!(all.insert(said.family.to_owned(), texts), None, "{said:?} is there twice");
        }
    }
    all
}

fn shown(series: &Series<'_>) -> (Key, Shown) {
    assert_eq!(series.fault, None, "{series:?}");
    let (value, time, start) = match (&series.samples[..], &series.histograms[..]) {
        ([sample], []) => (number(sample.value), sample.timestamp, sample.start),
        ([], [histogram]) => (Value::Native(native(histogram)), histogram.timestamp, histogram.start),
        _ => panic!("{series:?}"),
    };
    let exemplars = series
        .exemplars
        .iter()
        .map(|one| exemplar(one.value, one.timestamp, one.labels.iter().copied()))
        .collect();
    let (kind, help, unit) = (series.kind, series.help.to_owned(), series.unit.to_owned());
    (key(series.labels.iter().copied()), Shown { kind, help, unit, value, time, start, exemplars })
}

fn native(histogram: &Histogram) -> Native {
    let whole = |count| match count {
        Count::Int(count) => count,
        Count::Float(_) => panic!("{histogram:?}"),
    };
    let side = |side: &Buckets| {
        assert!(side.counts.is_empty());
        let spans: Vec<_> =
            side.spans.iter().map(|span| (i64::from(span.offset), u64::from(span.length))).collect();
        buckets(&spans, &side.deltas)
    };
    assert!(histogram.custom_values.is_empty() && histogram.reset_hint == 0);
    Native {
        count: whole(histogram.count),
        sum: histogram.sum,
        schema: histogram.schema,
        zero_threshold: histogram.zero_threshold,
        zero_count: whole(histogram.zero_count),
        negative: side(&histogram.negative),
        positive: side(&histogram.positive),
    }
}

// === pages ===

/// Series of the page. Of the native histograms among those that were told, the buckets are left out: their bounds are made for the page.
pub(crate) fn page(batches: &[Batch], dialect: Dialect, told: &All) -> All {
    let settings = settings::read(PAGE).expect("good settings");
    let mut exporter = PrometheusExporter::begin(settings, NOW).expect("good settings");
    for batch in batches {
        let outcome = exporter.absorb_at(batch, NOW);
        assert!(matches!(outcome, Outcome::Accepted), "{outcome:?}");
    }
    let media_type = match dialect {
        Dialect::Plain => "text/plain;version=1.0.0;escaping=allow-utf-8",
        Dialect::OpenMetrics => "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8",
    };
    let headers = vec![("Accept".to_owned(), media_type.to_owned())];
    let request = HttpRequest { method: "GET".into(), target: "/metrics".into(), headers, body: Vec::new() };
    let mut text = exporter.serve_at(&request, NOW).body;
    loop {
        match exporter.more_at(NOW) {
            piece if piece.is_empty() => break,
            piece => text.extend(piece),
        }
    }
    if dialect == Dialect::OpenMetrics {
        Check::all(&text).expect("a page that a strict reader reads");
    }
    let natives: Vec<String> = told
        .iter()
        .filter(|(_, shown)| matches!(shown.value, Value::Native(_)))
        .map(|(key, _)| format!("{}_bucket", key["__name__"]))
        .collect();
    let mut all = read(&text, dialect);
    all.retain(|key, _| !natives.contains(&key["__name__"]));
    all
}

/// Families of a text, by their names.
type Families = BTreeMap<String, Shown>;

/// The family of a sample, and what the sample's name has behind it.
fn family<'f>(families: &'f Families, name: &'f str) -> (&'f str, &'f str, &'f Shown) {
    if let Some(shown) = families.get(name) {
        return (name, "", shown);
    }
    let suffixes = ["_total", "_created", "_bucket", "_count", "_sum", "_info"];
    let found = suffixes.iter().find_map(|suffix| {
        let base = name.strip_suffix(suffix)?;
        Some((base, *suffix, families.get(base)?))
    });
    found.unwrap_or_else(|| panic!("{name} is in no family"))
}

fn read(text: &[u8], dialect: Dialect) -> All {
    let mut reader = Reader::new(text, dialect).expect("a page");
    let (mut all, mut families, mut starts) = (All::new(), Families::new(), BTreeMap::new());
    while let Some(record) = reader.next().expect("a page") {
        let sample = match record {
            Record::Help { family, text } => {
                families.entry(family.into_owned()).or_default().help = text.into_owned();
                continue;
            }
            Record::Type { family, kind } => {
                families.entry(family.into_owned()).or_default().kind = kind;
                continue;
            }
            Record::Unit { family, unit } => {
                families.entry(family.into_owned()).or_default().unit = unit.into_owned();
                continue;
            }
            Record::Sample(sample) => sample,
        };
        // What the page says of itself and of the target.
        if sample.name.starts_with("weir_page_") || sample.name == "target_info" {
            continue;
        }
        let (base, suffix, known) = family(&families, &sample.name);
        let mut key = key(reader.labels().iter().map(|label| (&*label.name, &*label.value)));
        if suffix == "_created" {
            starts.insert((base.to_owned(), key), (sample.value * 1e3).round() as i64);
            continue;
        }
        key.insert("__name__".into(), sample.name.to_string());
        let millis = |nanos: i64| (nanos + NANOS_PER_MILLI / 2) / NANOS_PER_MILLI;
        let time = millis(sample.time.expect("a time"));
        let exemplars = sample.exemplar.map(|one| {
            let labels = reader.exemplar_labels().iter().map(|label| (&*label.name, &*label.value));
            exemplar(one.value, millis(one.time.expect("a time")), labels)
        });
        let value = number(sample.value);
        let exemplars = exemplars.into_iter().collect();
        let shown = Shown { value, time, exemplars, ..known.clone() };
        assert_eq!(all.insert(key, shown), None, "{} is there twice", sample.name);
    }
    for (key, shown) in &mut all {
        let (base, ..) = family(&families, &key["__name__"]);
        let mut common = key.clone();
        ["__name__", "le", "quantile"].iter().for_each(|label| drop(common.remove(*label)));
        shown.start = starts.get(&(base.to_owned(), common)).copied().unwrap_or(0);
    }
    all
}
