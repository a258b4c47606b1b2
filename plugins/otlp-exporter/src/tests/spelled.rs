//! OTLP/JSON that others have written, sent on in both spellings.
//!
//! The reference is the text itself, in one spelling of what the format lets be spelled in several ways: whole numbers of 64 bits as
//! text, bare zeros and empty values absent, ids in lower case, keys in order.

use serde_json::{Value, json};

use super::*;

/// Keys whose values are whole numbers of 64 bits, which may be numbers or texts.
const LONG: [&str; 8] = [
    "timeUnixNano",
    "startTimeUnixNano",
    "endTimeUnixNano",
    "observedTimeUnixNano",
    "count",
    "zeroCount",
    "intValue",
    "asInt",
];

/// Likewise, of lists of such numbers.
const LONG_LISTS: [&str; 1] = ["bucketCounts"];

/// Keys whose values are hexadecimal.
const IDS: [&str; 3] = ["traceId", "spanId", "parentSpanId"];

/// Keys that say something also where their value is a zero or empty: it is one of several, or may be absent.
const SAID: [&str; 14] = [
    "stringValue",
    "boolValue",
    "intValue",
    "doubleValue",
    "bytesValue",
    "arrayValue",
    "kvlistValue",
    "asInt",
    "asDouble",
    "sum",
    "min",
    "max",
    "gauge",
    "histogram",
];

/// A value in one spelling; `key` is where it stands.
fn canonical(key: &str, value: &Value) -> Value {
    match value {
        Value::Object(members) => {
            let members = members.iter().map(|(key, value)| (key.clone(), canonical(key, value)));
            Value::Object(
                members.filter(|(key, value)| SAID.contains(&&**key) || !is_default(value)).collect(),
            )
        }
        // What is empty in a list is still one of it.
        Value::Array(items) => items.iter().map(|item| canonical(key, item)).collect(),
        Value::String(text) if IDS.contains(&key) => json!(text.to_lowercase()),
        Value::Number(number) if LONG.contains(&key) || LONG_LISTS.contains(&key) => {
            json!(number.to_string())
        }
        // 5 and 5.0 are one number here.
        Value::Number(number) => json!(number.as_f64()),
        Value::String(_) | Value::Bool(_) | Value::Null => value.clone(),
    }
}

fn is_default(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Bool(true) => false,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty() || text == "0",
        Value::Array(items) => items.is_empty(),
        Value::Object(members) => members.is_empty(),
    }
}

/// A request in one spelling. Messages that are there and empty (`scope`, `status`) say nothing either way.
fn reference(text: &[u8]) -> Value {
    canonical("", &serde_json::from_slice(text).expect("JSON"))
}

/// Holds what would be posted of a text, in every spelling and compressed or not, against the text.
fn check(what: &str, signal: Signal, text: &[u8]) {
    let wire_signal = signal_of(signal).expect("a signal with a spelling in JSON");
    let body = wire::json::to_protobuf(wire_signal, text, &wire::json::JsonLimits::default());
    let body = body.unwrap_or_else(|error| panic!("{what}: {error}"));
    let said = reference(text);
    assert!(said.as_object().is_some_and(|members| !members.is_empty()), "{what}");
    for (encoding, content_type) in [("proto", "application/x-protobuf"), ("json", "application/json")] {
        for compression in ["none", "gzip"] {
            let exporter =
                exporter(json!({"endpoint": "http://a", "encoding": encoding, "compression": compression}));
            let batch = Batch { signal, encoding: Encoding::Protobuf, body: body.clone() };
            let request = exporter.request("http://a/".into(), batch).expect(what);
            let header = request.headers.iter().find(|(name, _)| name == "content-type");
            assert_eq!(header.map(|(_, value)| &**value), Some(content_type), "{what}");
            let mut posted = request.body;
            if compression == "gzip" {
                let mut plain = Vec::new();
                flate2::read::GzDecoder::new(&*posted).read_to_end(&mut plain).expect("a gzip stream");
                posted = plain;
            }
            if encoding == "proto" {
                assert!(posted == body, "{what}: not the batch's own bytes");
                let mut json = Vec::new();
                wire::json::to_json(wire_signal, &posted, &mut json).expect(what);
                posted = json;
            }
            assert_eq!(reference(&posted), said, "{what}, {encoding}, {compression}");
        }
    }
}

/// A request of each signal with what is spelled in several ways: long numbers as numbers and texts, large ids, values that are zero.
fn own() -> [(Signal, Value); 3] {
    let resource = json!({"attributes": [
        {"key": "service.name", "value": {"stringValue": "shop"}}, {"key": "zero", "value": {"intValue": 0}},
        {"key": "least", "value": {"intValue": "-9223372036854775808"}}, {"key": "none", "value": {"stringValue": ""}},
        {"key": "list", "value": {"arrayValue": {"values": [{"doubleValue": 0.1}, {"boolValue": false}]}}},
        {"key": "map", "value": {"kvlistValue": {"values": [{"key": "b", "value": {"bytesValue": "AAEC/w=="}}]}}}]});
    let id = "5B8EFFF798038103D269B633813FC60C";
    let traces = json!({"resourceSpans": [{"resource": resource, "schemaUrl": "http://s", "scopeSpans": [{"scope": {"name": "l"},
        "spans": [{"traceId": id, "spanId": "EEE19B7EC3C1B174", "name": "n\"\u{e9}\n", "kind": 2, "startTimeUnixNano": 5,
            "endTimeUnixNano": "18446744073709551615", "status": {"code": 2, "message": "m"}, "flags": 257,
            "events": [{"timeUnixNano": "7", "name": "e"}], "links": [{"traceId": id, "spanId": "EEE19B7EC3C1B174"}]}]}]}]});
    let metrics = json!({"resourceMetrics": [{"resource": resource, "scopeMetrics": [{"scope": {}, "metrics": [
        {"name": "c", "unit": "1", "sum": {"aggregationTemporality": 2, "isMonotonic": true,
            "dataPoints": [{"asInt": "0", "timeUnixNano": 9, "attributes": []}, {"asDouble": 0, "timeUnixNano": "9"}]}},
        {"name": "h", "histogram": {"aggregationTemporality": 2, "dataPoints": [{"timeUnixNano": "9", "count": 3, "sum": 0,
            "bucketCounts": [1, "2"], "explicitBounds": [-0.5], "min": 0,
            "exemplars": [{"timeUnixNano": "8", "asDouble": 1.5, "traceId": id, "spanId": "EEE19B7EC3C1B174"}]}]}},
        {"name": "x", "exponentialHistogram": {"aggregationTemporality": 1, "dataPoints": [{"timeUnixNano": "9", "count": "2", "scale": -1,
            "zeroCount": "1", "positive": {"offset": -3, "bucketCounts": ["0", 1]}}]}}]}]}]});
    let logs = json!({"resourceLogs": [{"resource": resource, "scopeLogs": [{"logRecords": [{"timeUnixNano": 1, "observedTimeUnixNano": "2",
        "severityNumber": 9, "severityText": "Info", "body": {"stringValue": "text"}, "traceId": id, "eventName": "e"}]}]}]});
    [(Signal::Traces, traces), (Signal::Metrics, metrics), (Signal::Logs, logs)]
}

/// Scenario: OTLP/JSON of each signal with what the format lets be spelled in several ways, sent as JSON and protobuf, compressed or not.
/// Guarantees: what is posted says what the text said, and nothing else.
#[test]
fn json_is_posted_as_what_it_said() {
    for (signal, request) in own() {
        check(&format!("{signal:?}"), signal, request.to_string().as_bytes());
    }
}

/// Scenario: a request that says something else in one place: a number, an id, an attribute that is gone.
/// Guarantees: its reference is another one, so that the comparison sees it.
#[test]
fn another_request_has_another_reference() {
    let (_, traces) = &own()[0];
    let said = reference(traces.to_string().as_bytes());
    for (from, to) in
        [("EEE19B7E", "EEE19B7F"), (":2,", ":3,"), ("\"zero\"", "\"one\""), ("{\"intValue\":0}", "{}")]
    {
        let other = traces.to_string().replacen(from, to, 1);
        assert_ne!(other, traces.to_string(), "{from}");
        assert_ne!(reference(other.as_bytes()), said, "{from}");
    }
}

/// Scenario: every JSON that OpenTelemetry's SDKs, its examples and Jaeger's tests have, sent as JSON and protobuf.
/// Guarantees: what is posted says what the text said, and nothing else.
#[test]
fn json_of_others_is_posted_as_what_it_said() {
    let vectors = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/vectors/otlp");
    if !std::path::Path::new(vectors).is_dir() {
        eprintln!("{vectors} is absent: nothing to compare");
        return;
    }
    let mut compared = 0;
    for part in ["made-here", "upstream"] {
        for entry in std::fs::read_dir(format!("{vectors}/{part}")).expect("a folder of vectors") {
            let path = entry.expect("an entry").path();
            let name = path.to_string_lossy().into_owned();
            if !name.ends_with(".json") || name.ends_with(".request.json") {
                continue;
            }
            let signal = if name.contains("metrics") { Signal::Metrics } else { Signal::Traces };
            check(&name, signal, &std::fs::read(&path).expect("a vector"));
            compared += 1;
        }
    }
    assert!(compared >= 7, "{compared} vectors");
}
