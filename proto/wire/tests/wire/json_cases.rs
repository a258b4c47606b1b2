//! OTLP/JSON by the rules of its specification, case by case.

use expect_test::{Expect, expect};
use weir_wire::json::{JsonLimits, Unwritten, to_json, to_json_within, to_protobuf};
use weir_wire::{Encoder, Signal};

const LIMITS: JsonLimits = JsonLimits { string_bytes_max: 100 };

/// To protobuf and back: what was understood.
fn understood(signal: Signal, json: &str) -> String {
    match to_protobuf(signal, json.as_bytes(), &LIMITS) {
        Ok(body) => {
            let mut out = Vec::new();
            to_json(signal, &body, &mut out).expect("what was just made");
            String::from_utf8(out).expect("JSON is UTF-8")
        }
        Err(error) => format!("! {error}"),
    }
}

fn check(signal: Signal, json: &str, expected: Expect) {
    expected.assert_eq(&understood(signal, json));
}

fn span(members: &str) -> String {
    let json = format!(r#"{{"resourceSpans":[{{"scopeSpans":[{{"spans":[{{{members}}}]}}]}}]}}"#);
    let text = understood(Signal::Traces, &json);
    let inner = text.strip_prefix(r#"{"resourceSpans":[{"scopeSpans":[{"spans":["#);
    inner.and_then(|text| text.strip_suffix("]}]}]}")).unwrap_or(&text).to_owned()
}

fn value(any_value: &str) -> String {
    let text = span(&format!(r#""attributes":[{{"key":"k","value":{any_value}}}]"#));
    let inner = text.strip_prefix(r#"{"attributes":[{"key":"k","value":"#);
    inner.and_then(|text| text.strip_suffix("}]}")).unwrap_or(&text).to_owned()
}

/// Scenario: ids in either case, empty, odd, not hex, of any length.
/// Guarantees: hex is read in either case and written in lower; what is not hex is refused; lengths are the
/// walk's business.
#[test]
fn ids_are_hex_of_either_case() {
    assert_eq!(
        span(r#""traceId":"5B8EFFF798038103D269B633813FC60C","spanId":"eee19b7ec3c1b174","parentSpanId":"""#),
        r#"{"traceId":"5b8efff798038103d269b633813fc60c","spanId":"eee19b7ec3c1b174"}"#
    );
    assert_eq!(span(r#""traceId":"ab""#), r#"{"traceId":"ab"}"#);
    assert_eq!(
        span(r#""traceId":"abc""#),
        "! line 1, column 55: traceId: expected hex digits, two for each byte"
    );
    assert_eq!(span(r#""spanId":7"#), "! line 1, column 54: spanId: expected a string");
}

/// Scenario: enumerations as numbers, as digits in quotes, as names, beyond 32 bits.
/// Guarantees: numbers only, as the specification has it.
#[test]
fn enumerations_are_numbers() {
    assert_eq!(span(r#""kind":2"#), r#"{"kind":2}"#);
    assert_eq!(span(r#""kind":"3""#), r#"{"kind":3}"#);
    assert_eq!(
        span(r#""kind":"SPAN_KIND_SERVER""#),
        "! line 1, column 52: kind: expected a whole number within range (names of values are not allowed)"
    );
    assert!(span(r#""kind":2147483648"#).starts_with("! line 1"));
    assert_eq!(span(r#""status":{"code":2,"message":"m"}"#), r#"{"status":{"message":"m","code":2}}"#);
}

/// Scenario: unknown keys with values of all kinds, and keys in snake case.
/// Guarantees: they are passed over, whatever is in them.
#[test]
fn unknown_keys_are_passed_over() {
    assert_eq!(
        span(r#""who":{"a":[1,{"b":null}]},"trace_id":7,"name":"n","start_time_unix_nano":{},"":[]"#),
        r#"{"name":"n"}"#
    );
    check(Signal::Traces, r#"{"resourceMetrics":[{"resource":7}]}"#, expect!["{}"]);
}

/// Scenario: `null` for every kind of field, and within lists.
/// Guarantees: it is the default; in a list it counts as an element.
#[test]
fn null_is_the_default() {
    assert_eq!(
        span(
            r#""traceId":null,"name":null,"kind":null,"startTimeUnixNano":null,"attributes":null,"status":null"#
        ),
        "{}"
    );
    assert_eq!(value("null"), r#"{"attributes":[{"key":"k"}]}"#);
    assert_eq!(value(r#"{"stringValue":null,"intValue":"5"}"#), r#"{"intValue":"5"}"#);
    assert_eq!(value(r#"{"arrayValue":{"values":[null,{}]}}"#), r#"{"arrayValue":{"values":[{},{}]}}"#);
    check(Signal::Traces, r#"{"resourceSpans":[null]}"#, expect![[r#"{"resourceSpans":[{}]}"#]]);
}

/// Scenario: 64-bit numbers as strings, numbers, in scientific spelling, with fractions, beyond range.
/// Guarantees: what is whole and fits is taken exactly.
#[test]
fn whole_numbers_are_strings_or_numbers() {
    assert_eq!(
        span(r#""startTimeUnixNano":"1544712660000000000","endTimeUnixNano":1544712661000000001"#),
        r#"{"startTimeUnixNano":"1544712660000000000","endTimeUnixNano":"1544712661000000001"}"#
    );
    assert_eq!(value(r#"{"intValue":1}"#), r#"{"intValue":"1"}"#);
    assert_eq!(value(r#"{"intValue":"-9223372036854775808"}"#), r#"{"intValue":"-9223372036854775808"}"#);
    assert_eq!(value(r#"{"intValue":1.5e1}"#), r#"{"intValue":"15"}"#);
    for bad in ["1.5", "9223372036854775808", "1e400", "\"1 \"", "\"\"", "true", "{}", "[1]", "\"0x1\""] {
        assert!(value(&format!(r#"{{"intValue":{bad}}}"#)).contains("expected a whole number"), "{bad}");
    }
    assert!(span(r#""startTimeUnixNano":-1"#).contains("not negative"));
    assert!(span(r#""droppedEventsCount":4294967296"#).contains("within range"));
    assert_eq!(
        span(r#""droppedEventsCount":4294967295,"flags":257"#),
        r#"{"droppedEventsCount":4294967295,"flags":257}"#
    );
}

/// Scenario: doubles as numbers, as numbers in quotes, as the three names, beyond range.
/// Guarantees: all but the last are taken.
#[test]
fn doubles_may_be_none() {
    assert_eq!(value(r#"{"doubleValue":"NaN"}"#), r#"{"doubleValue":"NaN"}"#);
    assert_eq!(value(r#"{"doubleValue":"-Infinity"}"#), r#"{"doubleValue":"-Infinity"}"#);
    assert_eq!(value(r#"{"doubleValue":"2.5"}"#), r#"{"doubleValue":2.5}"#);
    assert_eq!(value(r#"{"doubleValue":0}"#), r#"{"doubleValue":0.0}"#);
    assert_eq!(value(r#"{"doubleValue":1e-400}"#), r#"{"doubleValue":0.0}"#);
    for bad in ["1e400", "\"inf\"", "\"nan\"", "true", "\"\""] {
        assert!(value(&format!(r#"{{"doubleValue":{bad}}}"#)).contains("expected a number"), "{bad}");
    }
}

/// Scenario: values of every kind, empty ones too, nested in one another.
/// Guarantees: the kind is kept even where the value is the default.
#[test]
fn every_kind_of_value_keeps_its_kind() {
    for same in [
        r#"{"stringValue":""}"#,
        r#"{"boolValue":false}"#,
        r#"{"intValue":"0"}"#,
        r#"{"bytesValue":""}"#,
        r#"{"bytesValue":"+/8="}"#,
        r#"{"arrayValue":{}}"#,
        r#"{"kvlistValue":{"values":[{"key":"a","value":{"arrayValue":{"values":[{"intValue":"1"}]}}}]}}"#,
        "{}",
    ] {
        assert_eq!(value(same), same);
    }
    assert_eq!(value(r#"{"bytesValue":"-_8"}"#), r#"{"bytesValue":"+/8="}"#);
    assert!(value(r#"{"bytesValue":"*"}"#).contains("bytesValue: expected base64"));
    assert!(value(r#"{"boolValue":"true"}"#).contains("boolValue: expected true or false"));
    assert_eq!(value(r#"{"stringValue":"\ud83d\ude00\n"}"#), r#"{"stringValue":"😀\n"}"#);
}

/// Scenario: a key twice, two kinds of value in one object, two kinds of data in one metric.
/// Guarantees: each is refused, because readers differ on which one counts.
#[test]
fn what_readers_would_take_differently_is_refused() {
    assert_eq!(span(r#""name":"a","name":"b""#), "! line 1, column 56: name: stands twice in one object");
    assert!(span(r#""name":null,"name":"b""#).contains("stands twice"));
    assert!(value(r#"{"stringValue":"a","intValue":1}"#).contains("intValue: another kind of value"));
    check(
        Signal::Metrics,
        r#"{"resourceMetrics":[{"scopeMetrics":[{"metrics":[{"gauge":{},"sum":{}}]}]}]}"#,
        expect!["! line 1, column 68: sum: another kind of value stands in the same object"],
    );
}

/// Scenario: no object, two objects, text behind, a list where an object is due and the reverse.
/// Guarantees: exactly one object with white space around is a request.
#[test]
fn a_request_is_one_object() {
    let traces = |json| understood(Signal::Traces, json);
    assert_eq!(traces(" {} \n"), "{}");
    assert_eq!(traces("{}{}"), "! line 1, column 3: something stands behind the value");
    assert_eq!(traces("[]"), "! line 1, column 1: expected an object");
    assert_eq!(traces("null"), "! line 1, column 1: expected an object");
    assert_eq!(traces(""), "! line 1, column 1: the text ends too early");
    assert_eq!(traces(r#"{"resourceSpans":{}}"#), "! line 1, column 18: resourceSpans: expected an array");
    assert_eq!(
        traces("{\n\"resourceSpans\":[\n7]}"),
        "! line 3, column 1: resourceSpans: expected an object"
    );
    assert_eq!(
        traces(r#"{"resourceSpans":[{"resource":[]}]}"#),
        "! line 1, column 31: resource: expected an object"
    );
}

/// Scenario: strings at the limit and beyond, escaped or not; values nested to the depth of messages and
/// beyond.
/// Guarantees: the limits hold and are exact.
#[test]
fn strings_and_nesting_have_limits() {
    let name = |name: &str| span(&format!(r#""name":"{name}""#));
    assert!(name(&"x".repeat(100)).starts_with("{"));
    assert!(name(&"x".repeat(101)).contains("name: a string is longer than the limit"));
    assert!(name(&r"\u0041".repeat(100)).starts_with("{"));
    assert!(name(&r"\u0041".repeat(101)).contains("longer than the limit"));
    // Six messages down to the value, two for each list; the innermost value is the sixty-fourth.
    let nested = |lists: usize| {
        value(&(r#"{"arrayValue":{"values":["#.repeat(lists) + r#"{"intValue":1}"# + &"]}}".repeat(lists)))
    };
    assert!(nested(29).starts_with("{"), "{}", nested(29));
    assert!(nested(30).contains("messages are nested deeper than 64"), "{}", nested(30));
    assert!(
        span(&format!(r#""x":{}{}"#, "[".repeat(200), "]".repeat(200))).contains("nested deeper than 128")
    );
}

/// JSON without the white space that lines and indentation bring.
fn compact(json: &str) -> String {
    json.lines().map(str::trim).collect()
}

/// Scenario: every field of metrics.
/// Guarantees: each is understood and written as it came, in the order of the protobuf numbers.
#[test]
fn metrics_have_all_their_fields() {
    let kinds = [
        r#""gauge":{"dataPoints":[{
            "startTimeUnixNano":"1","timeUnixNano":"2","asDouble":0.0,
            "exemplars":[{
                "timeUnixNano":"1","asDouble":0.5,"spanId":"0102","traceId":"03",
                "filteredAttributes":[{"key":"f"}]
            }],
            "attributes":[{"key":"a"}],"flags":1
        }]}"#,
        r#""sum":{"dataPoints":[{"asInt":"-3"}],"aggregationTemporality":2,"isMonotonic":true}"#,
        r#""histogram":{"dataPoints":[{
            "count":"3","sum":0.0,"bucketCounts":["1","2"],"explicitBounds":[0.5,"Infinity"],
            "exemplars":[{"asInt":"5"}],"attributes":[{"key":"a"}],"flags":1,"min":-1.0,"max":1.0
        }],"aggregationTemporality":1}"#,
        r#""exponentialHistogram":{"dataPoints":[{
            "attributes":[{"key":"a"}],"count":"3","sum":1.0,"scale":-5,"zeroCount":"1",
            "positive":{"offset":-2,"bucketCounts":["0","300"]},"negative":{},"flags":1,
            "exemplars":[{}],"min":0.0,"max":2.0,"zeroThreshold":0.1
        }]}"#,
        r#""summary":{"dataPoints":[{
            "count":"3","sum":4.5,"quantileValues":[{"quantile":0.5,"value":1.0}],"flags":1
        }]}"#,
    ];
    for data in kinds {
        let json = compact(&format!(
            r#"{{"resourceMetrics":[{{
                "resource":{{
                    "attributes":[{{"key":"a"}}],"droppedAttributesCount":1,
                    "entityRefs":[{{"schemaUrl":"u","type":"t","idKeys":["a","b"],"descriptionKeys":["c"]}}]
                }},
                "scopeMetrics":[{{
                    "scope":{{"name":"n","version":"v"}},
                    "metrics":[{{"name":"m","description":"d","unit":"1",{data},"metadata":[{{"key":"x"}}]}}],
                    "schemaUrl":"u"
                }}],
                "schemaUrl":"s"
            }}]}}"#
        ));
        assert_eq!(understood(Signal::Metrics, &json), json);
    }
}

/// Scenario: every field of traces and logs.
/// Guarantees: each is understood and written as it came, in the order of the protobuf numbers.
#[test]
fn traces_and_logs_have_all_their_fields() {
    let attributes = r#""attributes":[{"key":"a","value":{"boolValue":true}}],"droppedAttributesCount":1"#;
    let traces = compact(&format!(
        r#"{{"resourceSpans":[{{"scopeSpans":[{{
            "scope":{{"name":"n","version":"v",{attributes}}},
            "spans":[{{
                "traceId":"01","spanId":"02","traceState":"s","parentSpanId":"03","name":"n","kind":5,
                "startTimeUnixNano":"1","endTimeUnixNano":"2",{attributes},
                "events":[{{"timeUnixNano":"1","name":"e",{attributes}}},{{}}],"droppedEventsCount":2,
                "links":[{{"traceId":"01","spanId":"02","traceState":"s",{attributes},"flags":257}}],
                "droppedLinksCount":3,"status":{{"message":"m","code":2}},"flags":256
            }},{{}}]
        }}]}}]}}"#
    ));
    assert_eq!(understood(Signal::Traces, &traces), traces);
    let logs = compact(&format!(
        r#"{{"resourceLogs":[{{"scopeLogs":[{{"logRecords":[{{
            "timeUnixNano":"1","severityNumber":9,"severityText":"INFO","body":{{"stringValue":"hi"}},
            {attributes},"flags":1,"traceId":"01","spanId":"02","observedTimeUnixNano":"3","eventName":"e"
        }}]}}]}}]}}"#
    ));
    assert_eq!(understood(Signal::Logs, &logs), logs);
}

// === protobuf that no encoder of today writes ===

/// The JSON of a resource group that `write` writes, or what is left where that fails.
fn group_json(write: impl FnOnce(&mut Encoder)) -> String {
    let mut body = Encoder::new();
    body.message(1, write);
    let mut out = b"before ".to_vec();
    let written = to_json(Signal::Traces, body.as_bytes(), &mut out);
    let text = String::from_utf8(out).expect("JSON is UTF-8");
    match written {
        Ok(()) => text
            .strip_prefix(r#"before {"resourceSpans":["#)
            .and_then(|text| text.strip_suffix("]}"))
            .expect("a request")
            .to_owned(),
        Err(malformed) => format!("{text}! {malformed}"),
    }
}

/// Scenario: single fields, messages and alternatives twice, side by side and apart; fields out of order; a
/// list in two places.
/// Guarantees: the JSON is what a protobuf reader sees: the last field, the merged message, the whole list.
#[test]
fn odd_protobuf_becomes_the_json_of_its_meaning() {
    let twice = group_json(|group| {
        group.string(3, "first");
        group.string(3, "last");
    });
    assert_eq!(twice, r#"{"schemaUrl":"last"}"#);
    let twice_with_default = group_json(|group| {
        group.string(3, "first");
        group.string(3, "");
    });
    assert_eq!(twice_with_default, "{}");
    let default_first = group_json(|group| {
        group.string(3, "");
        group.string(3, "last");
    });
    assert_eq!(default_first, r#"{"schemaUrl":"last"}"#);
    let merged = group_json(|group| {
        group.message(1, |resource| resource.attribute_int(1, "a", 1));
        group.message(1, |resource| resource.attribute_int(1, "b", 2));
    });
    assert_eq!(
        merged,
        compact(
            r#"{"resource":{"attributes":[
                {"key":"a","value":{"intValue":"1"}},{"key":"b","value":{"intValue":"2"}}
            ]}}"#
        )
    );
    // In and against the order of their numbers, and the same twice: the last one is the value.
    let alternatives = |any_value: &[u8]| {
        let text = group_json(|group| group.message(1, |it| it.attribute_any(1, "a", any_value)));
        let inner = text.strip_prefix(r#"{"resource":{"attributes":[{"key":"a","value":"#);
        inner.and_then(|text| text.strip_suffix("}]}}")).unwrap_or(&text).to_owned()
    };
    assert_eq!(alternatives(&[0x18, 5, 0x10, 1]), r#"{"boolValue":true}"#);
    assert_eq!(alternatives(&[0x10, 1, 0x18, 5]), r#"{"intValue":"5"}"#);
    assert_eq!(alternatives(&[0x18, 5, 0x18, 6]), r#"{"intValue":"6"}"#);
    let apart = group_json(|group| {
        group.message(2, |scope| scope.string(3, "a"));
        group.string(3, "u");
        group.message(2, |scope| scope.string(3, "b"));
        group.message(1, |_| ());
    });
    assert_eq!(
        apart,
        r#"{"resource":{},"scopeSpans":[{"schemaUrl":"a"},{"schemaUrl":"b"}],"schemaUrl":"u"}"#
    );
}

/// Scenario: unknown fields between the elements of a list, foreign wire types, an empty packed row, strings
/// that are not UTF-8.
/// Guarantees: the first three leave no trace, the last are made UTF-8.
#[test]
fn what_json_cannot_say_is_left_out() {
    let unknown = group_json(|group| {
        group.message(2, |scope| scope.string(3, "a"));
        group.fixed32(99, 1);
        group.varint(1, 1);
        group.message(2, |scope| scope.bytes(3, [b'x', 0xff]));
        group.varint(3, 7);
    });
    assert_eq!(unknown, "{\"scopeSpans\":[{\"schemaUrl\":\"a\"},{\"schemaUrl\":\"x\u{fffd}\"}]}");
    let mut body = Encoder::new();
    body.message(1, |group| {
        group.message(2, |scope| {
            scope.message(2, |metric| {
                metric.message(9, |histogram| {
                    histogram.message(1, |point| {
                        point.bytes(6, []);
                        point.packed_fixed64(6, [1].into_iter());
                        point.bytes(6, []);
                        point.fixed64(6, 2);
                        point.bytes(7, []);
                    });
                });
            });
        });
    });
    let mut out = Vec::new();
    to_json(Signal::Metrics, body.as_bytes(), &mut out).expect("a request");
    let text = String::from_utf8(out).expect("JSON is UTF-8");
    assert!(text.contains(r#""dataPoints":[{"bucketCounts":["1","2"]}]"#), "{text}");
}

/// Scenario: strings that grow sixfold, threefold or not at all, bytes, packed numbers, half a million empty attributes;
/// each as JSON within its own length, a quarter of it, and nothing.
/// Guarantees: what fits is written whole; else the buffer is as before, and had no more than twice the bytes that were
/// allowed.
#[test]
fn json_that_would_be_too_long_is_not_written() {
    const ALLOWED_MORE: usize = 16 * 1024;
    let attribute = |value: &dyn Fn(&mut Encoder)| {
        let mut body = Encoder::new();
        body.message(1, |group| {
            group
                .message(1, |resource| resource.message(1, |attribute| attribute.message(2, |it| value(it))));
        });
        body.into_bytes()
    };
    let text = |text: String| attribute(&|value| value.bytes(1, text.as_bytes()));
    let mut empty = Encoder::new();
    empty.message(1, |group| {
        group.message(1, |resource| (0..500_000).for_each(|_| resource.message(1, |_| ())));
    });
    let mut counts = Encoder::new();
    counts.message(1, |group| {
        group.message(2, |scope| {
            scope.message(2, |metric| {
                metric.message(9, |histogram| {
                    histogram.message(1, |point| point.packed_fixed64(6, (0..100_000).map(|_| u64::MAX)));
                });
            });
        });
    });
    let bodies = [
        (Signal::Traces, text("\u{1}".repeat(400_000))),
        (Signal::Traces, text("\n\"".repeat(400_000))),
        (Signal::Traces, text("\u{6c34}".repeat(400_000))),
        (Signal::Traces, attribute(&|value| value.bytes(1, vec![0xff; 400_000]))),
        (Signal::Traces, attribute(&|value| value.bytes(7, vec![7; 400_000]))),
        (Signal::Traces, empty.into_bytes()),
        (Signal::Metrics, counts.into_bytes()),
    ];
    for (number, (signal, body)) in bodies.iter().enumerate() {
        let mut whole = Vec::new();
        to_json(*signal, body, &mut whole).expect("a request");
        assert!(whole.len() > 500_000, "{number}: {} bytes", whole.len());
        let mut out = Vec::new();
        assert_eq!(to_json_within(*signal, body, whole.len(), &mut out), Ok(()), "{number}");
        assert!(out == whole, "{number}");
        for bytes_max in [whole.len() / 4, 0] {
            let mut out = Vec::new();
            let written = to_json_within(*signal, body, bytes_max, &mut out);
            assert_eq!((written, out.len()), (Err(Unwritten::TooLong), 0), "{number}");
            assert!(out.capacity() <= 2 * bytes_max + ALLOWED_MORE, "{number}: {} bytes", out.capacity());
        }
    }
}

/// Scenario: values nested too deep, a broken frame, a packed row that ends inside a number.
/// Guarantees: the buffer is left as it was, and the place is named.
#[test]
fn what_cannot_be_shown_is_refused() {
    let mut value = vec![0x18, 5];
    for _ in 0..40 {
        let mut outer = Encoder::new();
        outer.message(5, |list| list.bytes(1, &value));
        value = outer.into_bytes();
    }
    let deep = group_json(|group| group.message(1, |resource| resource.attribute_any(1, "a", &value)));
    assert!(deep.starts_with("before ! malformed protobuf at byte"), "{deep}");
    assert!(deep.ends_with("messages are nested deeper than 64"), "{deep}");
    assert_eq!(
        group_json(|group| group.bytes(1, [0x0a, 9])),
        "before ! malformed protobuf at byte 4: a length reaches beyond the message"
    );
}
