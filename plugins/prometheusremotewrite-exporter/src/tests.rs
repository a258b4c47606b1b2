//! Settings, headers, answers.

use weir_guest::{Batch, Delivery, HttpError, Response, settings};
use weir_prometheus::names::Strategy;

use super::*;

fn exporter(written: &str) -> Result<PrometheusRemoteWriteExporter, Vec<SettingsFault>> {
    PrometheusRemoteWriteExporter::configure(settings::read(written)?)
}

fn faults(written: &str) -> Vec<String> {
    exporter(written).err().expect("faulty").into_iter().map(|fault| fault.at).collect()
}

/// Scenario: settings as the Collector's users write them; each with a fault.
/// Guarantees: the first are taken for what they say; each fault is said at its place.
#[test]
fn settings_are_those_of_the_collector() {
    let all = exporter(
        r#"{"endpoint": "http://p/w", "namespace": "n", "external_labels": {"a.b": "c"}, "headers": {"X-Scope-OrgID": "t"},
            "resource_to_telemetry_conversion": {"enabled": true}, "target_info": {"enabled": false}, "send_metadata": true,
            "add_metric_suffixes": false, "timeout": "5s", "protobuf_message": "io.prometheus.write.v2.Request"}"#,
    )
    .unwrap_or_else(|faults| panic!("{faults:?}"));
    let options = all.settings.options();
    assert_eq!(options.strategy, Strategy::UnderscoreEscapingWithoutSuffixes);
    assert_eq!(options.const_labels, [("a_b".to_owned(), "c".to_owned())]);
    assert!(options.resource_labels && !options.target_info && options.scope_labels);
    assert_eq!(all.settings.version(), Version::V2);
    let least = exporter(r#"{"endpoint": "http://p/w", "target_info": {}}"#)
        .unwrap_or_else(|faults| panic!("{faults:?}"));
    assert!(least.settings.options().target_info && !least.settings.options().resource_labels);
    assert_eq!((least.settings.version(), least.settings.strategy()), (Version::V1, Strategy::default()));
    for (at, fault) in [
        ("/headers", r#""headers": {"content-Type": "x"}"#),
        ("/external_labels", r#""external_labels": {"__name__": "x"}"#),
        (
            "/add_metric_suffixes",
            r#""add_metric_suffixes": false, "translation_strategy": "UnderscoreEscapingWithSuffixes""#,
        ),
        ("/translation_strategy", r#""translation_strategy": "None""#),
        ("/protobuf_message", r#""protobuf_message": "WriteRequest""#),
    ] {
        assert_eq!(faults(&format!(r#"{{"endpoint": "http://p/w", {fault}}}"#)), [at]);
    }
    assert_eq!(faults("{}"), [""]);
    assert!(!faults(r#"{"endpoint": "http://p/w", "wal": {}}"#).is_empty());
}

/// Scenario: a first and a third attempt of both versions, with a header of the operator's.
/// Guarantees: the headers that the specifications ask for; a retry says which one it is.
#[test]
fn a_request_has_the_headers_of_its_version() {
    let exporter =
        exporter(r#"{"endpoint": "http://p/w", "headers": {"x-scope-orgid": "t", "User-Agent": "mine"}}"#)
            .unwrap_or_else(|faults| panic!("{faults:?}"));
    let of = |version, attempt| {
        let request = exporter.request(Vec::new(), version, attempt);
        assert_eq!((&*request.method, &*request.target), ("POST", "http://p/w"));
        move |name: &str| {
            let all = request.headers.iter().filter(|(own, _)| own.eq_ignore_ascii_case(name));
            all.map(|(_, value)| value.clone()).collect::<Vec<_>>().join("|")
        }
    };
    let first = of(Version::V1, 1);
    assert_eq!(first("content-type"), "application/x-protobuf");
    assert_eq!(first("x-prometheus-remote-write-version"), "0.1.0");
    assert_eq!((&*first("content-encoding"), &*first("retry-attempt")), ("snappy", ""));
    assert_eq!((&*first("user-agent"), &*first("x-scope-orgid")), ("mine", "t"));
    let third = of(Version::V2, 3);
    assert_eq!(third("content-type"), "application/x-protobuf;proto=io.prometheus.write.v2.Request");
    assert_eq!((&*third("x-prometheus-remote-write-version"), &*third("retry-attempt")), ("2.0.0", "2"));
}

fn outcome(status: u16, headers: &[(&str, &str)], body: &str, version: Version) -> Outcome {
    let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    answer::outcome(Ok(Response { status, headers, body: body.into() }), version)
}

/// Scenario: each answer of the specifications' tables, to both versions.
/// Guarantees: the outcome that the table in `answer.rs` names.
#[test]
fn each_answer_has_its_outcome() {
    let (v1, v2) = (Version::V1, Version::V2);
    let written = [("X-Prometheus-Remote-Write-Samples-Written", "1")];
    for status in [200, 202, 204] {
        assert_eq!(outcome(status, &[], "", v1), Outcome::Accepted);
        assert_eq!(outcome(status, &written, "", v2), Outcome::Accepted);
        let Outcome::Stopped(message) = outcome(status, &[], "", v2) else { panic!("{status}") };
        assert!(message.contains("set `protobuf_message` to prometheus.WriteRequest"), "{message}");
    }
    let Outcome::Stopped(message) = outcome(415, &[], "", v1) else { panic!("415") };
    assert!(message.contains("set `protobuf_message` to io.prometheus.write.v2.Request"), "{message}");
    assert!(matches!(outcome(415, &written, "", v2), Outcome::Stopped(_)));
    for status in [429, 500, 503] {
        let Outcome::Retryable(retry) = outcome(status, &[("Retry-After", "7")], "", v1) else {
            panic!("{status}")
        };
        assert_eq!(retry.after_ms, Some(7_000));
    }
    for status in [401, 403] {
        assert!(matches!(outcome(status, &[], "", v2), Outcome::Stopped(_)));
    }
    assert_eq!(outcome(413, &[], "", v1), Outcome::TooLarge);
    let long = format!("out of order sample {}", "x".repeat(2_000));
    let Outcome::Permanent(message) = outcome(400, &[], &long, v1) else { panic!("400") };
    assert!(
        message.contains("out of order sample") && (1_024..1_100).contains(&message.len()),
        "{}",
        message.len()
    );
    assert!(matches!(answer::outcome(Err(HttpError::Timeout), v2), Outcome::Retryable(_)));
}

/// Scenario: another signal; bytes that are no request; a request without points; one of deltas alone.
/// Guarantees: nothing is sent for them (there is nothing to send through here), and what is not sent is said.
#[test]
fn what_gives_no_series_is_not_sent() {
    let mut exporter =
        exporter(r#"{"endpoint": "http://p/w"}"#).unwrap_or_else(|faults| panic!("{faults:?}"));
    let mut push = |signal, body: Vec<u8>| {
        let batch = Batch { signal, encoding: Encoding::Protobuf, body };
        exporter.push(batch, Delivery { id: "1".into(), attempt: 1, items: 1 })
    };
    assert!(matches!(push(Signal::Traces, Vec::new()), Outcome::Permanent(_)));
    assert!(matches!(push(Signal::Metrics, vec![0x0a, 9]), Outcome::Permanent(_)));
    assert_eq!(push(Signal::Metrics, Vec::new()), Outcome::Accepted);
    let mut deltas = weir_guest::wire::Encoder::new();
    deltas.message(1, |group| {
        group.message(2, |scope| {
            scope.message(2, |metric| {
                metric.string(1, "c");
                metric.message(7, |sum| {
                    sum.message(1, |point| point.double(4, 1.0));
                    sum.message(1, |point| point.double(4, 2.0));
                    sum.varint(2, 1);
                    sum.bool(3, true);
                });
            });
        });
    });
    let message = "points that Prometheus can't have (temporality: 2)".to_owned();
    assert_eq!(
        push(Signal::Metrics, deltas.into_bytes()),
        Outcome::Partial(PartialSuccess { rejected: 2, message })
    );
}
