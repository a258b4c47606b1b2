//! Through the exporter and back: what a Zipkin sender said is what a Zipkin backend behind Weir hears, and
//! what a second Weir makes of it is what the first one had, but for what `LOSSY.md` lists.

use weir_guest::wire::Encoder;
use zipkin_exporter::{Format, encode};
use zipkin_receiver::{Spelling, read};

use crate::{text, vectors};

/// The OTLP of a body, and the OTLP of what the exporter makes of it, in both spellings.
fn there_and_back(body: &[u8], spelling: Spelling) -> [String; 3] {
    let once = read(body, spelling).unwrap_or_else(|refused| panic!("{refused:?}"));
    let [json, protobuf] =
        [(Format::Json, Spelling::JsonV2), (Format::Protobuf, Spelling::Proto3)].map(|(format, spelling)| {
            let encoded = encode(&once.concat(), format).expect("the receiver gives good batches");
            assert_eq!(encoded.invalid, 0);
            text::of(&read(&encoded.body, spelling).unwrap_or_else(|refused| panic!("{refused:?}")))
        });
    [text::of(&once), json, protobuf]
}

/// A span without a service becomes one of `unknown_service`, and one without a duration lasts a microsecond.
fn with_known_losses(text: &str) -> String {
    let mut lines: Vec<String> = Vec::new();
    let mut start = None;
    let mut error_text: Option<String> = None;
    for line in text.lines() {
        let mut line = line.to_owned();
        if line == "  scope" && lines.last().is_some_and(|last| last == "resource") {
            lines.push("  service.name = \"unknown_service\"".into());
        }
        if let Some(time) = line.strip_prefix("      start ") {
            start = Some(time.to_owned());
        }
        if let Some(time) = line.strip_prefix("      end ")
            && start.as_deref() == Some(time)
        {
            let nanos: u64 = time.parse().expect("a number");
            line = format!("      end {}", nanos + 1_000);
        }
        if let Some(message) = line.strip_prefix("      status ERROR ") {
            error_text = Some(message.to_owned());
        }
        lines.push(line);
        if let Some(message) = error_text.take() {
            description_as_error(&mut lines, &message);
        }
    }
    lines.iter().map(|line| format!("{line}\n")).collect()
}

/// A description that came without a tag `error` comes back with one: the exporter writes it there, as
/// OpenTelemetry wants it.
fn description_as_error(lines: &mut Vec<String>, message: &str) {
    let span = lines.iter().rposition(|line| line.starts_with("    span ")).expect("a status is a span's");
    if lines[span..].iter().any(|line| line.starts_with("      error = ")) {
        return;
    }
    let attribute = format!("      error = {message}");
    let is_later = |line: &String| {
        let field = line.trim_start();
        let is_attribute =
            line.starts_with("      ") && !line.starts_with("       ") && field.contains(" = ");
        (is_attribute && field > attribute.trim_start())
            || field.starts_with("event ")
            || field.starts_with("status ")
    };
    let at = span + lines[span..].iter().position(is_later).expect("the status is later");
    lines.insert(at, attribute);
}

/// Scenario: every accepted vector, received, exported in both spellings, and received again.
/// Guarantees: the same OTLP, but for the losses that are listed.
#[test]
fn every_vector_survives_the_round_trip() {
    let Some(vectors) = vectors::vectors() else { return };
    for (file, spelling) in vectors::ACCEPTED {
        let [once, json, protobuf] = there_and_back(&vectors::body(&vectors, file, spelling), spelling);
        let expected = with_known_losses(&once);
        assert_eq!(json, expected, "{file} as JSON");
        assert_eq!(protobuf, expected, "{file} as protobuf");
    }
}

/// Scenario: a span with all that has a place in both formats, in v2 JSON.
/// Guarantees: nothing is lost, in either spelling.
#[test]
fn a_full_span_survives_the_round_trip() {
    let body = r#"[{"traceId":"000000000000000012345678","id":"1","parentId":"2","kind":"SERVER","name":"get","timestamp":5,"duration":7,
        "shared":true,"debug":true,
        "localEndpoint":{"serviceName":"shop","ipv4":"10.0.0.1","port":80},
        "remoteEndpoint":{"serviceName":"caller","ipv6":"2001:db8::1","port":1234},
        "annotations":[{"timestamp":6,"value":"plain"},{"timestamp":6,"value":"\"n\": {\"k\":[1,0.5,true,null,{\"m\":\"x\"}]}"},
            {"timestamp":7,"value":"a|b|c"},{"timestamp":8,"value":"{\"odd\": 1}"},
            {"timestamp":9,"value":"n|{\"k\":\"v\"}|3"}],
        "tags":{"k":"v","empty":"","quote":"\"\\\n","error":"bad","otel.scope.name":"lib","otel.scope.version":"1",
            "service.version":"2","telemetry.sdk.name":"sdk","w3c.tracestate":"a=b",
            "otlp.link.0":"5b8aa5a2d2c872e8321cf37308d69df2|6b221d5bc9e6496c|k=v|{\"n\":1}|7",
            "otel.dropped_attributes_count":"1","otel.dropped_events_count":"2","otel.dropped_links_count":"3",
            "otel.status_code":"ERROR"}}]"#;
    let [once, json, protobuf] = there_and_back(body.as_bytes(), Spelling::JsonV2);
    assert!(
        once.contains("status ERROR \"bad\"") && once.contains("link ") && once.contains("dropped 3 links"),
        "{once}"
    );
    assert_eq!(json, once);
    assert_eq!(protobuf, once);
}

/// Scenario: OTLP spans with what Zipkin has a place for, exported and received.
/// Guarantees: the same OTLP again; what is not is in `LOSSY.md`.
#[test]
fn otlp_survives_the_way_through_zipkin() {
    let mut request = Encoder::new();
    request.message(1, |resource_spans| {
        resource_spans.message(1, |resource| {
            resource.attribute_str(1, "service.name", "shop");
            resource.attribute_str(1, "service.version", "1");
        });
        resource_spans.message(2, |scope_spans| {
            scope_spans.message(1, |scope| scope.string(1, "lib"));
            for kind in 0..=5 {
                scope_spans.message(2, |span| {
                    span.bytes(1, [0xab; 16]);
                    span.bytes(2, [0xcd; 8]);
                    span.string(3, "a=b");
                    span.bytes(4, [0xef; 8]);
                    span.string(5, "name");
                    span.nonzero_varint(6, kind);
                    span.fixed64(7, 1_000_000);
                    span.fixed64(8, 3_000_000);
                    span.attribute_str(9, "k", "v");
                    span.varint(10, 4);
                    span.message(11, |event| {
                        event.fixed64(1, 2_000_000);
                        event.string(2, "event");
                        event.attribute_str(3, "k", "v");
                        event.attribute_int(3, "n", 5);
                        event.varint(4, 6);
                    });
                    span.message(13, |link| {
                        link.bytes(1, [0x12; 16]);
                        link.bytes(2, [0x34; 8]);
                        link.attribute_bool(4, "b", true);
                    });
                    span.message(15, |status| status.varint(3, 1));
                });
            }
        });
    });
    let before = request.into_bytes();
    for (format, spelling) in [(Format::Json, Spelling::JsonV2), (Format::Protobuf, Spelling::Proto3)] {
        let encoded = encode(&before, format).expect("a good batch");
        let after = read(&encoded.body, spelling).unwrap_or_else(|refused| panic!("{refused:?}"));
        assert_eq!(text::of(&after), text::of(std::slice::from_ref(&before)));
    }
}
