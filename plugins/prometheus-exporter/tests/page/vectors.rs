//! What real SDKs send.

use std::fs;

use weir_guest::{Outcome, wire};

use crate::fetch::{OPEN_METRICS, absorb, check_all, exporter, page, vectors};

/// Every setting that changes names, labels or lines.
pub(crate) const SETTINGS: [&str; 5] = [
    "{}",
    r#"{"translation_strategy": "NoTranslation", "send_timestamps": true}"#,
    r#"{"translation_strategy": "NoUTF8EscapingWithSuffixes", "resource_to_telemetry_conversion": {"enabled": true}}"#,
    r#"{"add_metric_suffixes": false, "without_scope_info": true}"#,
    r#"{"namespace": "app", "const_labels": {"env": "test"}, "send_timestamps": true}"#,
];

/// Metrics of the OTLP vectors, as protobuf.
pub(crate) fn batches() -> Option<Vec<(String, Vec<u8>)>> {
    let vectors = vectors("otlp")?;
    let python = fs::read(vectors.join("made-here/otel_py_1.45.2_metrics.pb")).expect("a batch");
    let example = fs::read(vectors.join("upstream/otlp_example_metrics.json")).expect("a batch");
    let example =
        wire::json::to_protobuf(wire::Signal::Metrics, &example, &wire::json::JsonLimits::default())
            .expect("OTLP/JSON");
    Some(vec![("python".into(), python), ("example".into(), example)])
}

/// Scenario: metrics of OpenTelemetry Python and of OTLP's own example, by each setting, in each format and scheme.
/// Guarantees: everything is taken, and every page is one that a strict reader reads.
#[test]
fn pages_of_real_metrics_are_read_by_strict_readers() {
    let Some(batches) = batches() else { return };
    for settings in SETTINGS {
        let mut exporter = exporter(settings);
        for (name, body) in &batches {
            let outcome = absorb(&mut exporter, body.clone(), 1);
            assert!(matches!(outcome, Outcome::Accepted), "{name}: {outcome:?}");
            check_all(&mut exporter, 1, name);
        }
    }
}

/// Scenario: the metrics of OpenTelemetry Python, as OpenMetrics.
/// Guarantees: line for line what is to be expected of them.
#[test]
fn a_real_page_reads_as_expected() {
    let Some(batches) = batches() else { return };
    let mut exporter = exporter("{}");
    for (_, body) in batches {
        absorb(&mut exporter, body, 1);
    }
    let page = page(&mut exporter, OPEN_METRICS, 1);
    println!("{page}");
    assert!(page.ends_with("# EOF\n"));
}
