//! Batches written by hand, and what is on the page of them.

use weir_guest::wire::Encoder;
use weir_guest::{Page as _, settings};

use super::*;

mod kinds;
mod memory;
mod rules;
mod state;
mod streaming;

/// A second, in nanoseconds.
pub(crate) const SECOND: u64 = 1_000_000_000;

pub(crate) const OPEN: &str = "application/openmetrics-text;version=1.0.0";

pub(crate) type Write<'w> = &'w dyn Fn(&mut Encoder);

pub(crate) fn exporter(written: &str) -> PrometheusExporter {
    let settings = settings::read(written).expect("good settings");
    PrometheusExporter::begin(settings, 0).expect("good settings")
}

/// A batch of metrics of one resource without attributes and one scope without a name.
pub(crate) fn batch(metrics: &[Write<'_>]) -> Batch {
    batch_of(&|_| {}, metrics)
}

pub(crate) fn batch_of(resource: Write<'_>, metrics: &[Write<'_>]) -> Batch {
    let mut out = Encoder::new();
    out.message(1, |group| {
        group.message(1, resource);
        group.message(2, |group| metrics.iter().for_each(|metric| group.message(2, metric)));
    });
    Batch { signal: Signal::Metrics, encoding: Encoding::Protobuf, body: out.into_bytes() }
}

/// A metric of a kind of data by its field, with a temporality where it is not 0, and points.
pub(crate) fn metric<'w>(
    name: &'w str,
    field: u32,
    temporality: u64,
    points: &'w [Write<'w>],
) -> impl Fn(&mut Encoder) + 'w {
    move |out| {
        out.string(1, name);
        out.message(field, |data| {
            points.iter().for_each(|point| data.message(1, point));
            data.nonzero_varint(2, temporality);
            if field == 7 {
                data.bool(3, true);
            }
        });
    }
}

/// A number since a time, at a time.
pub(crate) fn number(start: u64, time: u64, value: f64) -> impl Fn(&mut Encoder) {
    move |out| {
        out.nonzero_fixed64(2, start);
        out.fixed64(3, time);
        out.double(4, value);
    }
}

/// The same with an attribute `a`.
pub(crate) fn labelled(time: u64, value: f64, a: &str) -> impl Fn(&mut Encoder) + use<> {
    let a = a.to_owned();
    move |out| {
        number(0, time, value)(out);
        out.attribute_str(7, "a", &a);
    }
}

pub(crate) fn histogram(
    start: u64,
    time: u64,
    bounds: &[f64],
    counts: &[u64],
    sum: Option<f64>,
) -> impl Fn(&mut Encoder) + use<> {
    let (bounds, counts) = (bounds.to_vec(), counts.to_vec());
    move |out| {
        out.nonzero_fixed64(2, start);
        out.fixed64(3, time);
        out.fixed64(4, counts.iter().sum());
        if let Some(sum) = sum {
            out.double(5, sum);
        }
        out.packed_fixed64(6, counts.iter().copied());
        out.packed_double(7, bounds.iter().copied());
    }
}

pub(crate) fn request(method: &str, target: &str, accept: &str) -> Request {
    let headers = if accept.is_empty() { Vec::new() } else { vec![("accept".to_owned(), accept.to_owned())] };
    Request { method: method.into(), target: target.into(), headers, body: Vec::new() }
}

/// The page without what it says of itself, without metadata.
pub(crate) fn samples(exporter: &mut PrometheusExporter, accept: &str, now: u64) -> Vec<String> {
    let page = text(exporter, accept, now);
    let lines = page.lines().filter(|line| {
        !line.starts_with('#') && !line.starts_with(page::OWN) && !line.starts_with("weir__page")
    });
    lines.map(str::to_owned).collect()
}

/// The whole page; OpenMetrics as a strict reader reads it.
pub(crate) fn text(exporter: &mut PrometheusExporter, accept: &str, now: u64) -> String {
    let response = exporter.serve_at(&request("GET", "/metrics", accept), now);
    assert_eq!(response.status, 200);
    let mut body = response.body;
    loop {
        let piece = exporter.more_at(now);
        if piece.is_empty() {
            break;
        }
        body.extend(piece);
    }
    if accept.starts_with("application/openmetrics-text") {
        weir_exposition::Check::all(&body).unwrap_or_else(|fault| {
            panic!("{fault}:\n{}", String::from_utf8_lossy(&body));
        });
    }
    String::from_utf8(body).expect("UTF-8")
}

/// What was not taken.
pub(crate) fn rejected(outcome: Outcome) -> (u32, String) {
    match outcome {
        Outcome::Accepted => (0, String::new()),
        Outcome::Partial(PartialSuccess { rejected, message }) => (rejected, message),
        other => panic!("{other:?}"),
    }
}

/// Scenario: requests for the page, for other paths, by other methods, with and without an Accept header.
/// Guarantees: the page by GET on its path with the type that was negotiated; its headers by HEAD; the rest is told what to do.
#[test]
fn the_page_is_on_its_path() {
    let mut exporter = exporter(r#"{"metrics_path": "/m"}"#);
    let mut status = |method: &str, target: &str, accept: &str| {
        let response = exporter.serve_at(&request(method, target, accept), 1);
        let header = |name| delivery::header(&response.headers, name).unwrap_or_default().to_owned();
        (response.status, header("content-type"), header("allow"), response.body.is_empty())
    };
    let plain = "text/plain; version=0.0.4; charset=utf-8".to_owned();
    let open = "application/openmetrics-text; version=1.0.0; charset=utf-8".to_owned();
    assert_eq!(status("GET", "/m", ""), (200, plain.clone(), String::new(), false));
    assert_eq!(status("GET", "/m?x=1", OPEN), (200, open, String::new(), false));
    assert_eq!(status("HEAD", "/m", ""), (200, plain, String::new(), true));
    assert_eq!(status("POST", "/m", "").0, 405);
    assert_eq!(status("POST", "/m", "").2, "GET, HEAD");
    for other in ["/metrics", "/", "", "/m/"] {
        assert_eq!(status("GET", other, "").0, 404, "{other}");
    }
    assert!(exporter.more().is_empty(), "no page is on its way");
}

/// Scenario: settings with unknown keys and with values that make no page; those of the Collector.
/// Guarantees: each fault is found where it is; the schema knows the same keys.
#[test]
fn settings_are_checked() {
    let at = |written: &str| match settings::read::<Settings>(written) {
        Err(faults) => faults[0].at.clone(),
        Ok(settings) => match PrometheusExporter::configure(settings) {
            Err(faults) => faults[0].at.clone(),
            Ok(_) => "good".to_owned(),
        },
    };
    for (written, place) in [
        (r#"{"metrics_path": "metrics"}"#, "/metrics_path"),
        (r#"{"series_max": 0}"#, "/series_max"),
        (r#"{"metric_expiration": "0s"}"#, "/metric_expiration"),
        (r#"{"metric_expiration": "soon"}"#, "/metric_expiration"),
        (r#"{"namespace": "--"}"#, "/namespace"),
        (r#"{"const_labels": {"a-b": "x"}}"#, "/const_labels/a-b"),
        (r#"{"const_labels": {"__name__": "x"}}"#, "/const_labels/__name__"),
        (r#"{"add_metric_suffixes": true, "translation_strategy": "NoTranslation"}"#, "/add_metric_suffixes"),
        (r#"{"translation_strategy": "None"}"#, "/translation_strategy"),
        (
            r#"{"resource_to_telemetry_conversion": {"enable": true}}"#,
            "/resource_to_telemetry_conversion/enable",
        ),
        (r#"{"send_timestamp": true}"#, "/send_timestamp"),
        (
            r#"{"endpoint": "0.0.0.0:9464", "namespace": "n", "const_labels": {"a": "b"}, "send_timestamps": true,
                "metric_expiration": "1h30m", "enable_open_metrics": false, "add_metric_suffixes": true,
                "resource_to_telemetry_conversion": {"enabled": true}, "without_scope_info": true}"#,
            "good",
        ),
    ] {
        // Faults of keys that serde itself refuses stand at what holds them.
        let found = at(written);
        assert!(
            found == place
                || place.starts_with(&format!("{found}/"))
                || (found.is_empty() && place != "good"),
            "{written}: {found}"
        );
    }
    let schema: serde_json::Value =
        serde_json::from_str(PrometheusExporter::describe().settings_schema).expect("JSON");
    let keys: Vec<&String> = schema["properties"].as_object().expect("properties").keys().collect();
    for key in &keys {
        let written = format!("{{\"{key}\": null}}");
        let faults = settings::read::<Settings>(&written).err().unwrap_or_default();
        assert!(faults.iter().all(|fault| !fault.message.contains("unknown")), "{key}");
    }
    assert_eq!(keys.len(), 12);
}

/// Scenario: a batch of spans, bytes that are no batch.
/// Guarantees: refused for good.
#[test]
fn what_is_no_batch_of_metrics_is_refused() {
    let mut exporter = exporter("{}");
    let spans = Batch { signal: Signal::Traces, ..batch(&[]) };
    assert!(matches!(exporter.absorb_at(&spans, 1), Outcome::Permanent(_)));
    let broken = Batch { body: vec![0x0a, 5, 1], ..batch(&[]) };
    assert!(matches!(exporter.absorb_at(&broken, 1), Outcome::Permanent(_)));
}
