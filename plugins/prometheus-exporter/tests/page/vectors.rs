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
/// Guarantees: a line of each kind of them as it is to be expected.
#[test]
fn a_real_page_reads_as_expected() {
    let Some(batches) = batches() else { return };
    let mut exporter = exporter("{}");
    for (_, body) in batches {
        absorb(&mut exporter, body, 1);
    }
    let page = page(&mut exporter, OPEN_METRICS, 1);
    let labels = "instance=\"i-1\",job=\"ns/otlp-py\"";
    let scope = "otel_scope_name=\"lib.m\",otel_scope_version=\"0.2\"";
    for line in [
        "# TYPE http_server_requests counter".to_owned(),
        format!("http_server_requests_total{{http_route=\"/a\",{labels},{scope}}} 5"),
        format!("http_server_duration_milliseconds_bucket{{{labels},m=\"GET\",{scope},le=\"10.0\"}} 2"),
        format!("mem_ratio{{{labels},{scope}}} 0.5"),
        format!("queue_size{{{labels},{scope}}} -2"),
        format!("exp_hist_seconds_bucket{{{labels},{scope},le=\"+Inf\"}} 5"),
        format!("exp_hist_seconds_sum{{{labels},{scope}}} 6.601"),
        "# TYPE target info".to_owned(),
        "# EOF".to_owned(),
    ] {
        assert!(page.lines().any(|is| is == line), "{line}\n{page}");
    }
}
