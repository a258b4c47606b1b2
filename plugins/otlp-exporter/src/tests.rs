//! Requests as they would be posted.

mod spelled;

use std::io::Read as _;

use super::*;

fn exporter(written: serde_json::Value) -> OtlpExporter {
    let settings = settings::read(&written.to_string()).expect("good settings");
    OtlpExporter::configure(settings).map_err(|faults| format!("{faults:?}")).expect("good settings")
}

fn batch(signal: Signal) -> Batch {
    let mut body = wire::Encoder::new();
    body.message(1, |resource| {
        resource.message(1, |resource| resource.attribute_str(1, "service.name", "shop"));
    });
    Batch { signal, encoding: Encoding::Protobuf, body: body.into_bytes() }
}

/// Scenario: a base with and without a slash at its end, and a full URL for one signal.
/// Guarantees: the path is added to the base alone; a signal without an endpoint has none.
#[test]
fn a_signal_goes_to_its_endpoint() {
    for base in ["http://a:4318", "http://a:4318/"] {
        let exporter = exporter(serde_json::json!({"endpoint": base, "logs_endpoint": "http://b/custom"}));
        let target = |signal| exporter.settings.target(signal);
        assert_eq!(target(Signal::Traces).as_deref(), Some("http://a:4318/v1/traces"));
        assert_eq!(target(Signal::Metrics).as_deref(), Some("http://a:4318/v1/metrics"));
        assert_eq!(target(Signal::Logs).as_deref(), Some("http://b/custom"));
        assert_eq!(target(Signal::Profiles), None);
    }
    let traces = exporter(serde_json::json!({"traces_endpoint": "http://b/custom"}));
    assert_eq!(traces.settings.target(Signal::Metrics), None);
}

/// Scenario: a batch in both encodings, compressed and not, with a header of the operator's.
/// Guarantees: the headers say what the body is; uncompressed protobuf is the batch's own bytes.
#[test]
fn a_request_says_what_its_body_is() {
    let of = |written| exporter(written).request("http://a/".into(), batch(Signal::Traces)).expect("a batch");
    let has = |request: &Request, name: &str, value: &str| {
        request.headers.iter().any(|header| *header == (name.to_owned(), value.to_owned()))
    };
    let plain = of(serde_json::json!({"endpoint": "http://a", "headers": {"x-key": "k"}}));
    assert!(has(&plain, "content-type", "application/x-protobuf") && has(&plain, "x-key", "k"));
    assert_eq!(plain.body, batch(Signal::Traces).body);
    let json = of(serde_json::json!({"endpoint": "http://a", "encoding": "json", "compression": "gzip"}));
    assert!(has(&json, "content-type", "application/json") && has(&json, "content-encoding", "gzip"));
    let mut text = String::new();
    flate2::read::GzDecoder::new(&*json.body).read_to_string(&mut text).expect("a gzip stream");
    let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let attribute = &value["resourceSpans"][0]["resource"]["attributes"][0];
    assert_eq!(
        (&attribute["key"], &attribute["value"]["stringValue"]),
        (&"service.name".into(), &"shop".into())
    );
}

/// Scenario: what OpenTelemetry's SDKs have sent of each signal, plain and compressed.
/// Guarantees: it is sent on as it came, byte for byte.
#[test]
fn what_sdks_sent_is_sent_on_unchanged() {
    let vectors = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/vectors/otlp/made-here");
    if !std::path::Path::new(vectors).is_dir() {
        eprintln!("{vectors} is absent: nothing to compare");
        return;
    }
    for (file, signal) in [
        ("otel_py_1.45.2_traces.pb", Signal::Traces),
        ("otel_py_1.45.2_metrics.pb", Signal::Metrics),
        ("otel_py_1.45.2_logs.pb", Signal::Logs),
        ("concat_two_trace_requests.pb", Signal::Traces),
    ] {
        let sent = std::fs::read(format!("{vectors}/{file}")).expect(file);
        for compression in ["none", "gzip"] {
            let exporter = exporter(serde_json::json!({"endpoint": "http://a", "compression": compression}));
            let batch = Batch { signal, encoding: Encoding::Protobuf, body: sent.clone() };
            let mut body = exporter.request("http://a/".into(), batch).expect("a batch").body;
            if compression == "gzip" {
                let mut plain = Vec::new();
                flate2::read::GzDecoder::new(&*body).read_to_end(&mut plain).expect("a gzip stream");
                body = plain;
            }
            assert!(body == sent, "{file} {compression}");
        }
    }
}

/// Scenario: a header that follows from other settings.
/// Guarantees: a fault that names it.
#[test]
fn the_contents_headers_are_ours() {
    let written = serde_json::json!({"endpoint": "http://a", "headers": {"Content-Encoding": "br"}});
    let settings = settings::read(&written.to_string()).expect("it can be read");
    let faults = OtlpExporter::configure(settings).err().expect("a fault");
    assert!(faults[0].at == "/headers" && faults[0].message.starts_with("Content-Encoding follows"));
}
