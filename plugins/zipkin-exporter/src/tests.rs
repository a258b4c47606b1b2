//! Batches written by hand, and what Zipkin gets of them.

use serde_json::{Value, json};
use weir_guest::wire::Encoder;
use weir_guest::{Outcome, Plugin};

use super::*;
use list_of_spans::list_of_spans;

mod list_of_spans;

const TRACE_ID: [u8; 16] =
    [0x5b, 0x8a, 0xa5, 0xa2, 0xd2, 0xc8, 0x72, 0xe8, 0x32, 0x1c, 0xf3, 0x73, 0x08, 0xd6, 0x9d, 0xf2];
const SPAN_ID: [u8; 8] = [0x05, 0x1e, 0x58, 0x1b, 0xf3, 0xcb, 0x55, 0xc1];
const PARENT_ID: [u8; 8] = [0x6b, 0x22, 0x1d, 0x5b, 0xc9, 0xe6, 0x49, 0x6c];
const START: u64 = 1_600_000_000_123_456_789;

type Write<'a> = &'a dyn Fn(&mut Encoder);

/// One span with ids, a start and an end 1,234,567 ns later, and what `span` adds.
fn request(resource: Write<'_>, scope: Write<'_>, span: Write<'_>) -> Vec<u8> {
    let mut request = Encoder::new();
    request.message(1, |resource_spans| {
        resource_spans.message(1, resource);
        resource_spans.message(2, |scope_spans| {
            scope_spans.message(1, scope);
            scope_spans.message(2, |out| {
                out.bytes(1, TRACE_ID);
                out.bytes(2, SPAN_ID);
                out.fixed64(7, START);
                out.fixed64(8, START + 1_234_567);
                span(out);
            });
        });
    });
    request.into_bytes()
}

fn shop(resource: &mut Encoder) {
    resource.attribute_str(1, "service.name", "shop");
}

fn nothing(_: &mut Encoder) {}

/// What both spellings say, which must be the same, as JSON.
fn spans(request: &[u8]) -> Value {
    let json = encode(request, Format::Json).expect("a good batch");
    let protobuf = encode(request, Format::Protobuf).expect("a good batch");
    assert_eq!((json.spans, json.invalid), (protobuf.spans, protobuf.invalid));
    let spans: Value = serde_json::from_slice(&json.body).unwrap_or_else(|error| {
        panic!("{error}: {}", String::from_utf8_lossy(&json.body));
    });
    assert_eq!(spans, list_of_spans(&protobuf.body), "the two spellings differ");
    spans
}

fn span(resource: Write<'_>, scope: Write<'_>, span: Write<'_>) -> Value {
    let spans = spans(&request(resource, scope, span));
    assert_eq!(spans.as_array().map(Vec::len), Some(1));
    spans[0].clone()
}

/// Scenario: a span with all that Zipkin has a field for.
/// Guarantees: ids in hex, truncated microseconds, the kind by name, no member that is empty.
#[test]
fn a_span_has_zipkins_fields() {
    let span = span(&shop, &nothing, &|span| {
        span.bytes(4, PARENT_ID);
        span.string(5, "get /items");
        span.varint(6, 3);
        span.attribute_str(9, "http.path", "/items");
        span.message(11, |event| {
            event.fixed64(1, START + 999);
            event.string(2, "sent");
        });
    });
    assert_eq!(
        span,
        json!({
            "traceId": "5b8aa5a2d2c872e8321cf37308d69df2",
            "id": "051e581bf3cb55c1",
            "parentId": "6b221d5bc9e6496c",
            "kind": "CLIENT",
            "name": "get /items",
            "timestamp": 1_600_000_000_123_456u64,
            "duration": 1_234,
            "tags": {"http.path": "/items"},
            "annotations": [{"timestamp": 1_600_000_000_123_457u64, "value": "sent"}],
            "localEndpoint": {"serviceName": "shop"},
        })
    );
}

/// Scenario: a span with nothing but ids, of a resource with nothing.
/// Guarantees: no tags, no annotations, no name, and the service of OpenTelemetry's default resource.
#[test]
fn an_empty_span_has_no_empty_members() {
    let mut request = Encoder::new();
    request.message(1, |resource_spans| {
        resource_spans.message(2, |scope_spans| {
            scope_spans.message(2, |span| {
                span.bytes(1, [0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]);
                span.bytes(2, SPAN_ID);
            });
        });
    });
    assert_eq!(
        spans(request.as_bytes()),
        json!([{
            "traceId": "0102030405060708",
            "id": "051e581bf3cb55c1",
            "localEndpoint": {"serviceName": "unknown_service"},
        }])
    );
}

/// Scenario: each kind of OTLP, one unknown.
/// Guarantees: Zipkin's four by name, internal as a tag, the rest as nothing.
#[test]
fn kinds_are_named_and_internal_is_a_tag() {
    for (kind, name, tag) in [
        (0, json!(null), json!(null)),
        (1, json!(null), json!("internal")),
        (2, json!("SERVER"), json!(null)),
        (3, json!("CLIENT"), json!(null)),
        (4, json!("PRODUCER"), json!(null)),
        (5, json!("CONSUMER"), json!(null)),
        (9, json!(null), json!(null)),
    ] {
        let span = span(&shop, &nothing, &|span| span.varint(6, kind));
        assert_eq!((&span["kind"], &span["tags"]["span.kind"]), (&name, &tag), "{kind}");
    }
}

/// Scenario: a span shorter than a microsecond, one of no length, one that ends before it begins, one without
/// a start, and one that came from Zipkin with a duration alone.
/// Guarantees: durations are at least one microsecond, or absent where there is none; the batch is never
/// refused for it.
#[test]
fn a_duration_is_at_least_one_microsecond_or_absent() {
    let times = |start: u64, end: u64, marked: bool| {
        let span = span(&shop, &nothing, &|span| {
            span.fixed64(7, start);
            span.fixed64(8, end);
            if marked {
                span.attribute_bool(9, "otel.zipkin.absentField.startTime", true);
            }
        });
        assert!(!marked || start != 0 || span["tags"].is_null(), "the mark is no tag");
        (span["timestamp"].clone(), span["duration"].clone())
    };
    assert_eq!(times(START, START + 999, false), (json!(1_600_000_000_123_456u64), json!(1)));
    assert_eq!(times(START, START, false).1, json!(1));
    assert_eq!(times(START, START - 1, false).1, json!(null));
    assert_eq!(times(0, START, false), (json!(null), json!(null)));
    assert_eq!(times(0, 5_999, true), (json!(null), json!(5)));
    assert_eq!(times(0, 0, true), (json!(null), json!(null)));
}

/// Scenario: a resource without `service.name` and with what the Collector falls back to, in several
/// combinations.
/// Guarantees: the first in the Collector's order names the service, a mark says which, and that one is no
/// tag.
#[test]
fn a_service_without_a_name_has_the_collectors_fallback() {
    let named = |keys: &[&str]| {
        let resource = |resource: &mut Encoder| {
            keys.iter().for_each(|key| resource.attribute_str(1, key, format!("by {key}")))
        };
        let span = span(&resource, &nothing, &nothing);
        (span["localEndpoint"]["serviceName"].clone(), span["tags"].clone())
    };
    assert_eq!(
        named(&["faas.name", "service.name"]),
        (json!("by service.name"), json!({"faas.name": "by faas.name"}))
    );
    assert_eq!(
        named(&["process.executable.name", "k8s.deployment.name"]),
        (
            json!("by k8s.deployment.name"),
            json!({
                "otlp.service.name.source": "k8s.deployment.name",
                "process.executable.name": "by process.executable.name",
            })
        )
    );
    assert_eq!(named(&["service.namespace"]).0, json!("unknown_service"));
}

/// Scenario: a key in the resource, in the scope and in the span; values of every kind.
/// Guarantees: the span wins over the scope and the scope over the resource; each value has OpenTelemetry's
/// text; scope name and version stand under both pairs of keys.
#[test]
fn resource_and_scope_are_tags_and_the_span_wins() {
    let resource = |resource: &mut Encoder| {
        shop(resource);
        resource.attribute_str(1, "a", "resource");
        resource.attribute_str(1, "b", "resource");
        resource.attribute_str(1, "c", "resource");
        resource.attribute_int(1, "process.pid", 42);
    };
    let scope = |scope: &mut Encoder| {
        scope.string(1, "lib");
        scope.string(2, "1.0");
        scope.attribute_str(3, "b", "scope");
        scope.attribute_str(3, "c", "scope");
    };
    let span = span(&resource, &scope, &|span| {
        span.attribute_str(9, "c", "span");
        span.attribute_bool(9, "bool", true);
        span.attribute_double(9, "double", 0.5);
        span.attribute_bytes(9, "bytes", b"foob");
        span.attribute_int(9, "int", -7);
        span.attribute_int(9, "long", i64::MAX);
        span.attribute_any(9, "none", b"");
        span.attribute_str(9, "long text", "x".repeat(300));
        let mut list = Encoder::new();
        list.message(5, |list| list.message(1, |any| any.string(1, "x\"y")));
        span.attribute_any(9, "list", list.as_bytes());
    });
    assert_eq!(
        span["tags"],
        json!({
            "a": "resource", "b": "scope", "c": "span", "process.pid": "42",
            "otel.scope.name": "lib", "otel.scope.version": "1.0",
            "otel.library.name": "lib", "otel.library.version": "1.0",
            "bool": "true", "double": "0.5", "bytes": "Zm9vYg==", "int": "-7", "long": "9223372036854775807", "none": "",
            "list": "[\"x\\\"y\"]", "long text": "x".repeat(300),
        })
    );
}

/// Scenario: each status, with and without a text, and spans that have an attribute `error` of their own.
/// Guarantees: the tags of OpenTelemetry's table; `error=false` never reaches Zipkin.
#[test]
fn a_status_is_two_tags() {
    let tags = |code: u64, text: &str, error: Option<&str>| {
        let span = span(&shop, &nothing, &|span| {
            span.message(15, |status| {
                status.nonempty_bytes(2, text);
                status.nonzero_varint(3, code);
            });
            if let Some(error) = error {
                span.attribute_str(9, "error", error);
            }
        });
        span["tags"].clone()
    };
    assert_eq!(tags(0, "", None), json!(null));
    assert_eq!(tags(0, "ignored", None), json!(null));
    assert_eq!(tags(1, "", None), json!({"otel.status_code": "OK"}));
    assert_eq!(tags(2, "", None), json!({"otel.status_code": "ERROR", "error": ""}));
    assert_eq!(tags(2, "bad", None), json!({"otel.status_code": "ERROR", "error": "bad"}));
    assert_eq!(tags(2, "bad", Some("worse")), json!({"otel.status_code": "ERROR", "error": "bad"}));
    assert_eq!(tags(2, "", Some("worse")), json!({"otel.status_code": "ERROR", "error": "worse"}));
    assert_eq!(tags(2, "", Some("false")), json!({"otel.status_code": "ERROR", "error": ""}));
    assert_eq!(tags(0, "", Some("false")), json!(null));
    assert_eq!(tags(0, "", Some("odd")), json!({"error": "odd"}));
}

/// Attributes that name the other end, from the lowest to the highest rank, and the endpoint that is read
/// when all up to this one are there.
const RANKING: [(&str, &str, &str); 13] = [
    ("db.name", "db", r#"{"serviceName":"db"}"#),
    ("peer.address", "pa", r#"{"serviceName":"pa"}"#),
    ("peer.hostname", "ph", r#"{"serviceName":"ph"}"#),
    ("net.sock.peer.addr", "10.0.0.4", r#"{"ipv4":"10.0.0.4"}"#),
    ("net.sock.peer.name", "nspn", r#"{"serviceName":"nspn","ipv4":"10.0.0.4"}"#),
    ("server.socket.address", "10.0.0.3", r#"{"ipv4":"10.0.0.3"}"#),
    ("server.socket.domain", "ssd", r#"{"serviceName":"ssd","ipv4":"10.0.0.3"}"#),
    ("net.peer.ip", "10.0.0.2", r#"{"ipv4":"10.0.0.2"}"#),
    ("network.peer.address", "10.0.0.1", r#"{"ipv4":"10.0.0.1"}"#),
    ("net.peer.name", "npn", r#"{"serviceName":"npn","ipv4":"10.0.0.1"}"#),
    ("server.address", "sa", r#"{"serviceName":"sa","ipv4":"10.0.0.1"}"#),
    ("service.peer.name", "spn", r#"{"serviceName":"spn","ipv4":"10.0.0.1"}"#),
    ("peer.service", "ps", r#"{"serviceName":"ps","ipv4":"10.0.0.1"}"#),
];

/// Scenario: attributes that name the other end of a client span, from the highest to the lowest rank; the
/// same in a server span.
/// Guarantees: OpenTelemetry's ranking; addresses with their ports; in a server span only who the peer is
/// counts. All stay tags.
#[test]
fn the_remote_endpoint_follows_the_ranking() {
    let remote = |kind: u64, attributes: &[(&str, &str)]| {
        let span = span(&shop, &nothing, &|span| {
            span.varint(6, kind);
            for (key, value) in attributes {
                match value.parse() {
                    Ok(number) => span.attribute_int(9, key, number),
                    Err(_) => span.attribute_str(9, key, value),
                }
            }
        });
        assert_eq!(span["tags"].as_object().map_or(0, serde_json::Map::len), attributes.len());
        span["remoteEndpoint"].clone()
    };
    let all = RANKING.map(|(key, value, _)| (key, value));
    for (count, (.., best)) in RANKING.into_iter().enumerate() {
        let best: Value = serde_json::from_str(best).expect("JSON");
        for kind in [3, 4] {
            assert_eq!(remote(kind, &all[..=count]), best, "{count}");
        }
    }
    assert_eq!(
        remote(3, &[("network.peer.port", "8080"), ("network.peer.address", "2001:db8::1")]),
        json!({"ipv6": "2001:db8::1", "port": 8080})
    );
    assert_eq!(
        remote(3, &[("server.address", "a"), ("server.port", "443")]),
        json!({"serviceName": "a", "port": 443})
    );
    assert_eq!(remote(3, &[("server.address", "a"), ("server.port", "70000")]), json!({"serviceName": "a"}));
    assert_eq!(
        remote(3, &[("network.peer.address", "/run/socket"), ("db.name", "d")]),
        json!({"serviceName": "d"})
    );
    for kind in [0, 1, 2, 5] {
        if kind != 1 {
            assert_eq!(
                remote(kind, &[("server.address", "me"), ("db.name", "d"), ("server.port", "1")]),
                json!(null)
            );
            assert_eq!(
                remote(kind, &[("peer.service", "caller"), ("network.peer.address", "10.0.0.1")]),
                json!({"serviceName": "caller", "ipv4": "10.0.0.1"})
            );
        }
    }
}

/// Scenario: attributes that `zipkin-receiver` makes of what OTLP has no field for.
/// Guarantees: `shared`, `debug` and the local address are restored; a client is never shared; other values
/// stay tags.
#[test]
fn what_came_from_zipkin_is_restored() {
    let with = |kind: u64| {
        span(&shop, &nothing, &|span| {
            span.varint(6, kind);
            span.attribute_bool(9, "zipkin.shared", true);
            span.attribute_bool(9, "zipkin.debug", true);
            span.attribute_str(9, "network.local.address", "10.0.0.9");
            span.attribute_int(9, "network.local.port", 8080);
        })
    };
    let server = with(2);
    assert_eq!((&server["shared"], &server["debug"]), (&json!(true), &json!(true)));
    assert_eq!(server["localEndpoint"], json!({"serviceName": "shop", "ipv4": "10.0.0.9", "port": 8080}));
    assert!(server["tags"].get("zipkin.shared").is_none());
    assert_eq!(with(3)["shared"], json!(null));
    let text = span(&shop, &nothing, &|span| span.attribute_str(9, "zipkin.debug", "true"));
    assert_eq!((&text["debug"], &text["tags"]["zipkin.debug"]), (&json!(null), &json!("true")));
}

/// Scenario: events without attributes, with attributes of every kind, with characters that JSON escapes,
/// with a dropped count, and with names that read like an event with attributes.
/// Guarantees: a plain name, or OpenTelemetry's `"name": {json}`.
#[test]
fn an_event_is_an_annotation() {
    let value = |event: Write<'_>| {
        let span = span(&shop, &nothing, &|span| span.message(11, event));
        span["annotations"][0]["value"].as_str().expect("a string").to_owned()
    };
    assert_eq!(value(&|event| event.string(2, "a|b|c")), "a|b|c");
    assert_eq!(value(&nothing), "");
    assert_eq!(
        value(&|event| {
            event.string(2, "x\"\u{e4}");
            event.attribute_str(3, "s", "t\n\"");
            event.attribute_int(3, "i", 3);
            event.attribute_bool(3, "b", true);
            event.attribute_double(3, "d", f64::NAN);
        }),
        "\"x\\\"\u{e4}\": {\"s\":\"t\\n\\\"\",\"i\":3,\"b\":true,\"d\":\"NaN\"}"
    );
    assert_eq!(
        value(&|event| {
            event.string(2, "n");
            event.varint(4, 2);
        }),
        "\"n\": {\"otel.dropped_attributes_count\":2}"
    );
    assert_eq!(value(&|event| event.string(2, "{\"a\": {}}")), "\"{\\\"a\\\": {}}\": {}");
    assert_eq!(value(&|event| event.string(2, "a|{}|0")), "\"a|{}|0\": {}");
}

/// Scenario: tracestate, links with and without attributes, one without ids, more than may be written,
/// dropped counts, and attributes that have the keys of these tags.
/// Guarantees: the Collector's tags; what is not written is counted; the exporter's own tags win.
#[test]
fn what_zipkin_has_no_field_for_is_tags() {
    let link = |trace_id: &'static [u8], attributes: bool| {
        move |link: &mut Encoder| {
            link.bytes(1, trace_id);
            link.bytes(2, PARENT_ID);
            if attributes {
                link.string(3, "k=v");
                link.attribute_int(4, "n", 1);
                link.varint(5, 7);
            }
        }
    };
    let one = span(&shop, &nothing, &|span| {
        span.string(3, "a=b");
        span.attribute_str(9, "w3c.tracestate", "old");
        span.attribute_str(9, "otlp.link.0", "old");
        span.attribute_str(9, "otel.dropped_events_count", "kept");
        span.varint(10, 1);
        span.message(13, link(&TRACE_ID, true));
        span.message(13, link(b"short", false));
        span.message(13, link(&TRACE_ID, false));
        span.varint(14, 2);
    });
    assert_eq!(
        one["tags"],
        json!({
            "w3c.tracestate": "a=b",
            "otlp.link.0": "5b8aa5a2d2c872e8321cf37308d69df2|6b221d5bc9e6496c|k=v|{\"n\":1}|7",
            "otlp.link.1": "5b8aa5a2d2c872e8321cf37308d69df2|6b221d5bc9e6496c||{}|0",
            "otel.dropped_attributes_count": "1",
            "otel.dropped_events_count": "kept",
            "otel.dropped_links_count": "3",
        })
    );
    let many = span(&shop, &nothing, &|span| (0..130).for_each(|_| span.message(13, link(&TRACE_ID, false))));
    assert!(many["tags"].get("otlp.link.127").is_some() && many["tags"].get("otlp.link.128").is_none());
    assert_eq!(many["tags"]["otel.dropped_links_count"], "2");
}

/// Scenario: fields in an order that no encoder writes, lengths spelled long, a field of a later version.
/// Guarantees: the span is the same.
#[test]
fn unusual_encodings_are_read() {
    let mut unusual = Encoder::new();
    unusual.message(1, |resource_spans| {
        resource_spans.message(2, |scope_spans| {
            scope_spans.message(2, |span| {
                span.string(99, "later");
                span.message(15, |status| status.varint(3, 1));
                let attribute = span.open_large(9);
                // Value before key, both with four-byte lengths.
                let any = span.open_large(2);
                span.string(1, "v");
                span.close(any);
                let key = span.open_large(1);
                span.raw(b"k");
                span.close(key);
                span.close(attribute);
                span.fixed64(8, START + 1_000_000);
                span.fixed64(7, START);
                span.bytes(2, SPAN_ID);
                span.bytes(1, TRACE_ID);
                span.attribute_str(9, "k2", "v2");
            });
        });
        resource_spans.message(1, shop);
    });
    let spans = spans(unusual.as_bytes());
    assert_eq!(spans[0]["tags"], json!({"k": "v", "k2": "v2", "otel.status_code": "OK"}));
    assert_eq!(spans[0]["duration"], 1_000);
    assert_eq!(spans[0]["localEndpoint"]["serviceName"], "shop");
}

/// Scenario: spans without ids among good ones; a batch with nothing but such.
/// Guarantees: they are counted, the others are written.
#[test]
fn spans_without_ids_are_counted() {
    let mut request = Encoder::new();
    request.message(1, |resource_spans| {
        resource_spans.message(2, |scope_spans| {
            for (trace_id, id) in
                [(&TRACE_ID[..], &SPAN_ID[..]), (&[0; 16], &SPAN_ID), (&TRACE_ID, &[1]), (&[], &[])]
            {
                scope_spans.message(2, |span| {
                    span.bytes(1, trace_id);
                    span.bytes(2, id);
                });
            }
        });
    });
    let encoded = encode(request.as_bytes(), Format::Json).expect("a good batch");
    assert_eq!((encoded.spans, encoded.invalid), (1, 3));
    assert_eq!(encode(b"", Format::Json).map(|encoded| encoded.body), Ok(b"[]".to_vec()));
}

/// Scenario: one span with 5 MB of control characters, which JSON spells with six bytes each: as an attribute, in a list,
/// as its name, in an event, in its resource.
/// Guarantees: JSON is too large and says so before it has grown to that; protobuf, which does not grow, takes it.
#[test]
fn one_span_that_grows_past_the_limit_is_too_large() {
    let text = "\u{1}".repeat(5_000_000);
    let mut list = Encoder::new();
    list.message(5, |list| list.message(1, |any| any.string(1, &text)));
    let span_with = |write: &dyn Fn(&mut Encoder)| {
        request(&nothing, &nothing, &|span| {
            write(span);
        })
    };
    let resource = |resource: &mut Encoder| resource.attribute_str(1, "text", &text);
    for (place, request) in [
        ("attribute", span_with(&|span| span.attribute_str(9, "text", &text))),
        ("list", span_with(&|span| span.attribute_any(9, "list", list.as_bytes()))),
        ("name", span_with(&|span| span.string(5, &text))),
        ("event", span_with(&|span| span.message(11, |event| event.string(2, &text)))),
        (
            "event's attribute",
            span_with(&|span| span.message(11, |event| event.attribute_str(3, "a", &text))),
        ),
        ("resource", request(&resource, &nothing, &|_| {})),
    ] {
        assert_eq!(encode(&request, Format::Json), Err(Failure::TooLarge), "{place}");
        let grows = matches!(place, "list" | "event's attribute");
        match encode(&request, Format::Protobuf) {
            Ok(encoded) => assert!(!grows && encoded.body.len() < 6_000_000, "{place}"),
            Err(failure) => assert!(grows && failure == Failure::TooLarge, "{place}: {failure:?}"),
        }
    }
}

/// Scenario: broken frames, a value nested too deep, a resource so large that a few spans fill a body.
/// Guarantees: the failure that the host can act on.
#[test]
fn failures_say_what_the_host_can_do() {
    assert!(matches!(encode(b"\x0a\x05x", Format::Json), Err(Failure::Malformed(_))));
    let mut any = Vec::new();
    for _ in 0..100 {
        let mut outer = Encoder::new();
        outer.message(5, |list| list.bytes(1, &any));
        any = outer.into_bytes();
    }
    for format in [Format::Json, Format::Protobuf] {
        let deep = request(&shop, &nothing, &|span| span.attribute_any(9, "deep", &any));
        assert!(matches!(encode(&deep, format), Err(Failure::Malformed(_))));
        let mut large = Encoder::new();
        large.message(1, |resource_spans| {
            resource_spans.message(1, |resource| resource.attribute_str(1, "large", "x".repeat(1 << 20)));
            resource_spans.message(2, |scope_spans| {
                for _ in 0..20 {
                    scope_spans.message(2, |span| {
                        span.bytes(1, TRACE_ID);
                        span.bytes(2, SPAN_ID);
                    });
                }
            });
        });
        assert_eq!(encode(large.as_bytes(), format), Err(Failure::TooLarge));
        let mut empty = Encoder::new();
        empty.message(1, |resource_spans| {
            resource_spans.message(1, |resource| resource.attribute_str(1, "large", "x".repeat(1 << 20)));
            (0..100_000)
                .for_each(|_| resource_spans.message(2, |scope_spans| scope_spans.message(2, |_| {})));
        });
        assert_eq!(encode(empty.as_bytes(), format).map(|encoded| encoded.invalid), Ok(100_000));
    }
}

/// Scenario: strings that are not UTF-8 wherever a string may be.
/// Guarantees: U+FFFD, in valid JSON and valid protobuf.
#[test]
fn what_is_not_utf_8_is_replaced() {
    let resource = |resource: &mut Encoder| resource.attribute_str(1, "service.name", b"s\xff");
    let span = span(&resource, &nothing, &|span| {
        span.bytes(5, b"n\xff");
        span.attribute_str(9, b"k\xff", b"v\xff");
        span.message(11, |event| {
            event.bytes(2, b"e\xff");
            event.attribute_str(3, b"a\xff", b"b\xff");
        });
    });
    assert_eq!(span["localEndpoint"]["serviceName"], "s\u{fffd}");
    assert_eq!(span["name"], "n\u{fffd}");
    assert_eq!(span["tags"], json!({"k\u{fffd}": "v\u{fffd}"}));
    assert_eq!(span["annotations"][0]["value"], "\"e\u{fffd}\": {\"a\u{fffd}\":\"b\u{fffd}\"}");
}

/// Scenario: a second of random batches: good ones with bytes changed, cut or doubled.
/// Guarantees: no panic; what comes out is JSON, and both spellings agree on how many spans there are.
#[test]
fn random_batches_do_no_harm() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let good = request(&shop, &|scope| scope.string(1, "lib"), &|span| {
        span.string(3, "a=b");
        span.string(5, "name");
        span.varint(6, 3);
        span.attribute_str(9, "server.address", "10.0.0.1");
        span.attribute_int(9, "server.port", 443);
        span.attribute_double(9, "double", 0.5);
        span.message(11, |event| event.attribute_str(3, "k", "v\"\n"));
        span.message(13, |link| link.bytes(1, TRACE_ID));
        span.message(15, |status| status.varint(3, 2));
    });
    let until = std::time::Instant::now() + std::time::Duration::from_secs(1);
    while std::time::Instant::now() < until {
        for _ in 0..100 {
            let mut bytes = good.repeat(random.usize(1..3));
            for _ in 0..random.usize(1..8) {
                let at = random.usize(..bytes.len());
                match random.u8(..3) {
                    0 => bytes[at] = random.u8(..),
                    1 => bytes.truncate(at.max(1)),
                    _ => bytes.insert(at, random.u8(..)),
                }
            }
            match (encode(&bytes, Format::Json), encode(&bytes, Format::Protobuf)) {
                (Ok(json), Ok(protobuf)) => {
                    assert_eq!(json.spans, protobuf.spans);
                    let spans: Vec<Value> = serde_json::from_slice(&json.body).expect("JSON");
                    assert_eq!(spans.len(), json.spans as usize);
                    assert_eq!(list_of_spans(&protobuf.body).as_array().map(Vec::len), Some(spans.len()));
                }
                (json, protobuf) => assert_eq!(json.is_err(), protobuf.is_err()),
            }
        }
    }
}

fn exporter(settings: &str) -> Result<ZipkinExporter, Vec<SettingsFault>> {
    settings::read(settings).and_then(ZipkinExporter::configure)
}

/// Scenario: settings as an operator writes them, and wrong ones.
/// Guarantees: the request has the URL, the content type and the headers; a fault is named with its place.
#[test]
fn settings_become_requests() {
    let good = exporter(
        r#"{"endpoint":"https://z.example/api/v2/spans","format":"protobuf","headers":{"x-tenant":"a"},"timeout":"10s"}"#,
    )
    .unwrap_or_else(|faults| panic!("{faults:?}"));
    let request = good.request(b"body".to_vec());
    assert_eq!(
        (request.method.as_str(), request.target.as_str()),
        ("POST", "https://z.example/api/v2/spans")
    );
    let header = |name: &str| delivery::header(&request.headers, name).map(str::to_owned);
    assert_eq!(header("Content-Type").as_deref(), Some("application/x-protobuf"));
    assert_eq!(header("x-tenant").as_deref(), Some("a"));
    assert_eq!(good.timeout_ms(), Some(10_000));
    for (settings, at) in [
        ("{}", ""),
        (r#"{"endpoint":"localhost:9411"}"#, "/endpoint"),
        (r#"{"endpoint":"http://x","format":"thrift"}"#, "/format"),
        (r#"{"endpoint":"http://x","headers":{"Content-Type":"a"}}"#, "/headers"),
        (r#"{"endpoint":"http://x","endpiont":"http://x"}"#, "/endpiont"),
    ] {
        let faults = exporter(settings).err().expect(settings);
        assert_eq!(faults[0].at, at, "{settings}: {faults:?}");
    }
}

/// Scenario: the schema, against the names that serde reads.
/// Guarantees: it is JSON, knows the same keys, and marks what the host must know.
#[test]
fn the_schema_marks_what_the_host_must_know() {
    let schema: Value = serde_json::from_str(ZipkinExporter::describe().settings_schema).expect("JSON");
    assert_eq!(schema["properties"]["endpoint"]["x-weir"], "egress");
    assert_eq!(schema["properties"]["headers"]["additionalProperties"]["x-weir"], "secret");
    let keys: Vec<_> = schema["properties"].as_object().expect("an object").keys().cloned().collect();
    assert_eq!(keys, ["endpoint", "format", "headers", "timeout"]);
}

/// Scenario: batches that need no request, and ones that can't be sent since there is no host.
/// Guarantees: nothing is sent for an empty batch; metrics are refused for good; without an answer the batch
/// is kept.
#[test]
fn push_answers_what_became_of_the_batch() {
    let mut exporter = exporter(r#"{"endpoint":"http://x"}"#).unwrap_or_else(|faults| panic!("{faults:?}"));
    let mut push = |signal, body: Vec<u8>| {
        let batch = Batch { signal, encoding: Encoding::Protobuf, body };
        exporter.push(batch, Delivery { id: "1".into(), attempt: 1, items: 1 })
    };
    assert_eq!(push(Signal::Traces, Vec::new()), Outcome::Accepted);
    assert!(matches!(push(Signal::Metrics, Vec::new()), Outcome::Permanent(_)));
    assert!(matches!(push(Signal::Traces, b"\x0a\x09".to_vec()), Outcome::Permanent(_)));
    assert!(matches!(push(Signal::Traces, request(&shop, &nothing, &nothing)), Outcome::Retryable(_)));
    let mut invalid = Encoder::new();
    invalid
        .message(1, |resource_spans| resource_spans.message(2, |scope_spans| scope_spans.message(2, |_| {})));
    assert!(
        matches!(push(Signal::Traces, invalid.into_bytes()), Outcome::Partial(partial) if partial.rejected == 1)
    );
}
