//! What real senders have sent.
//!
//! The vectors lie in `../shared/vectors/prometheus` beside the repository, each with what it decodes to.

use std::fs;
use std::path::{Path, PathBuf};

use prometheusremotewrite_receiver::{Written, read};
use serde_json::Value;
use weir_exposition::Kind;
use weir_remote_write::series::STALE_NAN;
use weir_remote_write::{Request, Series, Version, snappy};

use crate::text;

/// Every body, what it is and what is written of it.
const BODIES: [(&str, Version, Written); 5] = [
    ("npm_prometheus-remote-write_0.5.1", Version::V1, Written { samples: 1, histograms: 0, exemplars: 0 }),
    (
        "prometheus_2.42_remote_write_metadata",
        Version::V1,
        Written { samples: 0, histograms: 0, exemplars: 0 },
    ),
    (
        "prometheus_2.42_remote_write_samples",
        Version::V1,
        Written { samples: 0, histograms: 0, exemplars: 0 },
    ),
    ("prw1_native_1", Version::V1, Written { samples: 4, histograms: 2, exemplars: 1 }),
    ("prw2_1", Version::V2, Written { samples: 3, histograms: 1, exemplars: 1 }),
];

fn vectors() -> Option<PathBuf> {
    let vectors = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/vectors/prometheus/made-here");
    if !vectors.is_dir() {
        eprintln!("{} is absent: nothing to compare", vectors.display());
        return None;
    }
    Some(vectors)
}

fn block(vectors: &Path, name: &str) -> Vec<u8> {
    fs::read(vectors.join(format!("{name}.pb.snappy"))).expect(name)
}

/// The rendering of a vector: labels are a list of pairs, or an object.
fn labels(value: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let mut labels: Vec<_> = match value {
        Value::Object(map) => map.iter().map(|(name, value)| (name.clone(), text(value))).collect(),
        Value::Array(pairs) => pairs.iter().map(|pair| (text(&pair[0]), text(&pair[1]))).collect(),
        other => panic!("{other}"),
    };
    labels.sort();
    labels
}

fn number(value: &Value) -> u64 {
    match value {
        Value::Number(number) => number.as_f64().expect("a double").to_bits(),
        Value::String(text) if text == "StaleNaN" => STALE_NAN,
        Value::String(text) if text == "NaN" => f64::NAN.to_bits(),
        Value::String(text) => text.trim_start_matches('+').parse::<f64>().expect("a double").to_bits(),
        other => panic!("{other}"),
    }
}

fn owned(labels: &[(&str, &str)]) -> Vec<(String, String)> {
    labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn compare(name: &str, series: &Series<'_>, rendering: &Value) {
    let list = |key: &str| rendering[key].as_array().cloned().unwrap_or_default();
    assert_eq!(owned(&series.labels), labels(&rendering["labels"]), "{name}");
    let bits = |value: f64| {
        if value.is_nan() && value.to_bits() != STALE_NAN { f64::NAN.to_bits() } else { value.to_bits() }
    };
    let samples: Vec<_> =
        series.samples.iter().map(|sample| (sample.timestamp, bits(sample.value))).collect();
    let rendered: Vec<_> =
        list("samples").iter().map(|pair| (pair[0].as_i64().expect("a time"), number(&pair[1]))).collect();
    assert_eq!(samples, rendered, "{name}");
    let exemplars: Vec<_> =
        series.exemplars.iter().map(|exemplar| (owned(&exemplar.labels), exemplar.timestamp)).collect();
    let rendered: Vec<_> = list("exemplars")
        .iter()
        .map(|exemplar| (labels(&exemplar["labels"]), exemplar["timestamp"].as_i64().expect("a time")))
        .collect();
    assert_eq!(exemplars, rendered, "{name}");
    let whole = |value: &Value| value.as_str().and_then(|text| text.parse::<i64>().ok()).or(value.as_i64());
    for (histogram, rendered) in series.histograms.iter().zip(list("histograms")) {
        let deltas: Vec<_> =
            rendered["positive_deltas"].as_array().expect("deltas").iter().filter_map(whole).collect();
        assert_eq!(histogram.positive.deltas, deltas, "{name}");
        assert_eq!(Some(histogram.timestamp), whole(&rendered["timestamp"]), "{name}");
        assert_eq!(Some(i64::from(histogram.schema)), whole(&rendered["schema"]), "{name}");
        assert_eq!(histogram.start, whole(&rendered["start_timestamp"]).unwrap_or(0), "{name}");
    }
    assert_eq!(series.histograms.len(), list("histograms").len(), "{name}");
}

/// Scenario: every captured body, and those made by hand.
/// Guarantees: series by series it decodes to what is noted beside it; all of it is taken.
#[test]
fn a_vector_is_read_as_it_is_noted() {
    let Some(vectors) = vectors() else { return };
    for (name, version, written) in BODIES {
        let body = snappy::decode(&block(&vectors, name)).expect(name);
        let rendering = fs::read(vectors.join(format!("{name}.decoded.json"))).expect(name);
        let rendering: Value = serde_json::from_slice(&rendering).expect(name);
        let mut rendered = rendering["timeseries"].as_array().expect(name).iter();
        let request = Request::parse(&body, version).expect(name);
        let read_series = request.each(|series| {
            assert_eq!(series.fault, None, "{name}");
            compare(name, series, rendered.next().expect("as many as are noted"));
            Ok(())
        });
        read_series.expect(name);
        assert_eq!(rendered.next(), None, "{name}");
        let metadata = rendering["metadata"].as_array().map_or(0, Vec::len);
        assert_eq!(request.metadata().len(), metadata, "{name}");
        let read = read(&body, version).expect(name);
        assert_eq!((read.written, read.rejected), (written, 0), "{name}: {:?}", read.reasons);
    }
}

/// Scenario: the bodies made by hand, with native histograms, markers, exemplars, kinds.
/// Guarantees: the points that the mapping's table says.
#[test]
fn the_vectors_made_by_hand_give_the_points_of_the_tables() {
    let Some(vectors) = vectors() else { return };
    let lines = |name: &str, version| {
        let body = snappy::decode(&block(&vectors, name)).expect(name);
        text::of(&read(&body, version).expect(name).batches)
    };
    assert_eq!(
        lines("prw2_1", Version::V2),
        [
            "{service.name=j} counter http_requests_total \"Requests\" \"\" {code=200} 1699999940000000000..1700000000000000000 42.0 \
             #1.0@1699999999990000000/4bf92f3577b34da6a3ce929d0e0e4736/{}",
            "{service.name=j} exponential rpc_seconds \"rpc\" \"s\" {} 1699999999000000000..1700000000000000000 6/Some(3.0) 2^2 \
             1<=1e-128 +(-1, [2, 3]) -(0, [])",
            "{service.name=j} gauge temp_celsius \"\" \"Cel\" {my.dotted=ü} 0..1700000000000000000 -1.5",
            "{service.name=j} gauge temp_celsius \"\" \"Cel\" {my.dotted=ü} 0..1700000015000000000 gone -",
        ]
    );
    assert_eq!(
        lines("prw1_native_1", Version::V1),
        [
            "{service.name=j,service.instance.id=h:1} exponential rpc_latency_seconds \"Latency, \\\"quoted\\\"\\nand newline\" \"s\" {} \
             0..1700000000000000000 27/Some(18.4) 2^3 2<=1e-128 +(-3, [5, 3, 0, 0, 0, 7, 8, 2]) -(0, []) \
             #0.25@1699999999500000000/0af7651916cd43dd8448eb211c80319c/{}",
            "{service.name=j} gauge gone_total \"\" \"\" {} 0..1700000000000000000 gone -",
            "{service.name=j} gauge inf_gauge \"\" \"\" {} 0..1700000000000000000 inf",
            "{service.name=j} gauge inf_gauge \"\" \"\" {} 0..1700000001000000000 -inf",
            "{service.name=j} gauge nan_gauge \"\" \"\" {} 0..1700000000000000000 NaN",
            "{service.name=j} histogram nhcb_seconds \"\" \"\" {} 0..1700000000000000000 37/Some(99.5) [10, 0, 0, 20, 5, 2] \
             [-2.0, -1.0, 0.0, 1.0, 2.0]",
        ]
    );
    // A capture that has metadata alone, whatever it is called.
    assert_eq!(lines("prometheus_2.42_remote_write_samples", Version::V1), [""; 0]);
}

/// Scenario: the kinds that Prometheus 2.42 has sent apart from its samples.
/// Guarantees: each is read.
#[test]
fn metadata_of_a_vector_are_read() {
    let Some(vectors) = vectors() else { return };
    let name = "prometheus_2.42_remote_write_metadata";
    let body = snappy::decode(&block(&vectors, name)).expect(name);
    let request = Request::parse(&body, Version::V1).expect(name);
    let kind =
        |family| request.metadata().iter().find(|metadata| metadata.family == family).map(|found| found.kind);
    assert_eq!(kind("shop_orders"), Some(Kind::Counter));
    assert_eq!(kind("shop_build"), Some(Kind::Info));
    assert_eq!(kind("shop_state"), Some(Kind::StateSet));
    assert_eq!(kind("process_max_fds"), Some(Kind::Gauge));
}
