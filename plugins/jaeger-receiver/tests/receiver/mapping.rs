//! What tags, references and flags become.

use jaeger_receiver::{Spelling, read};
use serde_json::{Value, json};
use weir_thrift::Protocol;

use crate::{encode, text};

/// The one span of a batch, as text, in all three spellings of thrift alike.
fn span(span: Value) -> String {
    batch(json!({"process": {"serviceName": "shop"}, "spans": [with_ids(span)]}))
}

fn with_ids(mut span: Value) -> Value {
    for (name, id) in [("traceIdLow", 1), ("spanId", 2)] {
        if span[name].is_null() {
            span[name] = id.into();
        }
    }
    span
}

fn batch(batch: Value) -> String {
    let told = |body: &[u8], spelling| {
        let (bodies, rejected) = read(body, spelling).expect("a batch");
        assert_eq!(rejected, 0);
        text::of(&bodies)
    };
    let alone = told(&encode::batch(&batch), Spelling::Batch);
    for (protocol, spelling) in [(Protocol::Binary, Spelling::Binary), (Protocol::Compact, Spelling::Compact)]
    {
        assert_eq!(told(&encode::message(&batch, protocol), spelling), alone);
    }
    alone
}

#[track_caller]
fn assert_lines(told: &str, lines: &[&str], absent: &[&str]) {
    for line in lines {
        assert!(told.lines().any(|told| told.trim() == *line), "no {line} in\n{told}");
    }
    for word in absent {
        assert!(!told.contains(word), "{word} in\n{told}");
    }
}

fn tags(tags: &[(&str, Value)]) -> Value {
    let tag = |(key, value): &(&str, Value)| match value {
        Value::Bool(flag) => json!({"key": key, "vType": "BOOL", "vBool": flag}),
        Value::Number(number) if number.is_f64() => json!({"key": key, "vType": "DOUBLE", "vDouble": number}),
        Value::Number(number) => json!({"key": key, "vType": "LONG", "vLong": number}),
        Value::Array(bytes) => json!({"key": key, "vType": "BINARY", "vBinary": bytes}),
        text => json!({"key": key, "vType": "STRING", "vStr": text}),
    };
    tags.iter().map(tag).collect()
}

/// Scenario: a tag of each type, one with all five values, one of a type that nobody knows, one that stands twice.
/// Guarantees: the type alone decides; the last of two counts.
#[test]
fn a_tag_is_what_its_type_says() {
    let all = json!({"key": "all", "vType": "LONG", "vStr": "", "vDouble": 0.0, "vBool": false, "vLong": 7, "vBinary": []});
    let odd = json!({"key": "odd", "vType": 9, "vStr": "x"});
    let mut list = tags(&[
        ("text", "x".into()),
        ("double", 1.5.into()),
        ("flag", true.into()),
        ("bytes", json!([0, 255])),
        ("twice", "first".into()),
        ("twice", 2.into()),
    ]);
    list.as_array_mut().expect("a list").extend([all, odd]);
    let told = span(json!({"tags": list}));
    let lines = [
        "text = \"x\"",
        "double = 1.5",
        "flag = true",
        "bytes = base16\"00ff\"",
        "twice = 2",
        "all = 7",
        "odd = \"<Unknown Jaeger TagType 9>\"",
    ];
    assert_lines(&told, &lines, &["first"]);
}

/// Scenario: tags that say how a span ended, each with what it is beside.
/// Guarantees: the first that decides is the error tag, then the code, then HTTP's status, which is no failure of a server
/// where it is the client's.
#[test]
fn the_status_is_found_in_the_tags() {
    for (list, status, absent) in [
        (vec![("error", true.into())], "status ERROR", "error ="),
        (vec![("error", "TRUE".into())], "status ERROR", "error ="),
        (
            vec![("error", true.into()), ("otel.status_description", "why".into())],
            "status ERROR \"why\"",
            "description",
        ),
        (
            vec![("error", true.into()), ("http.status_message", "gone".into())],
            "status ERROR \"gone\"",
            "error =",
        ),
        (vec![("error", true.into()), ("otel.status_code", "OK".into())], "status ERROR", "otel."),
        (vec![("error", false.into()), ("otel.status_code", "Error".into())], "status ERROR", "otel."),
        (vec![("otel.status_code", "ok".into())], "status OK", "otel."),
        (vec![("otel.status_code", "what".into())], "otel.status_code = \"what\"", "status E"),
        (vec![("otel.status_description", "why".into())], "otel.status_description = \"why\"", "status E"),
        (vec![("http.status_code", 404.into())], "status ERROR", "status OK"),
        (vec![("http.status_code", 500.0.into())], "status ERROR", "status OK"),
        (vec![("http.response.status_code", "503".into())], "status ERROR", "status OK"),
        (vec![("http.status_code", 399.into())], "http.status_code = 399", "status E"),
        (vec![("http.status_code", 404.into()), ("span.kind", "server".into())], "kind SERVER", "status E"),
        (vec![("http.status_code", 500.into()), ("span.kind", "SERVER".into())], "status ERROR", "span.kind"),
        (
            vec![("http.status_code", 500.into()), ("otel.status_code", "UNSET".into())],
            "http.status_code = 500",
            "status E",
        ),
        (vec![("error", "timeout".into())], "error = \"timeout\"", "status E"),
        (vec![("span.kind", "wizard".into())], "span.kind = \"wizard\"", "kind W"),
    ] {
        assert_lines(&span(json!({"tags": tags(&list)})), &[status], &[absent]);
    }
}

/// Scenario: references to the parent, to other spans of the trace and of others, and none where the parent's id is given.
/// Guarantees: the parent is found by Jaeger's rules; every other reference is a link that says what it was.
#[test]
fn references_are_the_parent_or_links() {
    let reference =
        |kind: &str, trace: u64, id: u64| json!({"refType": kind, "traceIdLow": trace, "spanId": id});
    let told =
        |parent: u64, references: &[Value]| span(json!({"parentSpanId": parent, "references": references}));
    let (child, follows) = ("CHILD_OF", "FOLLOWS_FROM");
    assert_lines(&told(5, &[]), &["parent 0000000000000005"], &["link"]);
    assert_lines(&told(5, &[reference(child, 1, 5)]), &["parent 0000000000000005"], &["link"]);
    assert_lines(
        &told(0, &[reference(follows, 1, 4), reference(child, 1, 5)]),
        &[
            "parent 0000000000000005",
            "link 00000000000000000000000000000001 0000000000000004",
            "opentracing.ref_type = \"follows_from\"",
        ],
        &["child_of"],
    );
    let followed = told(0, &[reference(child, 9, 8), reference(follows, 1, 4)]);
    assert_lines(
        &followed,
        &[
            "parent 0000000000000004",
            "link 00000000000000000000000000000009 0000000000000008",
            "opentracing.ref_type = \"child_of\"",
            "link 00000000000000000000000000000001 0000000000000004",
        ],
        &[],
    );
    assert_lines(&told(0, &[reference(child, 9, 8)]), &["opentracing.ref_type = \"child_of\""], &["parent"]);
    assert_lines(&told(5, &[reference(follows, 0, 0)]), &["dropped 1 links"], &["link 0"]);
}

/// Scenario: logs with `event`, with `message`, with both, with neither, with an `event` that is no text.
/// Guarantees: the name is `event`, or else `message`; every other field is an attribute.
#[test]
fn a_log_is_named_by_its_event() {
    let log = |fields: &[(&str, Value)]| json!({"timestamp": 3, "fields": tags(fields)});
    let told = span(json!({"logs": [
        log(&[("event", "retry".into()), ("n", 1.into())]),
        log(&[("message", "said".into()), ("level", "info".into())]),
        log(&[("message", "kept".into()), ("event", "both".into())]),
        log(&[("k", "v".into())]),
        log(&[("event", 7.into())]),
        log(&[]),
    ]}));
    let lines: Vec<&str> =
        told.lines().map(str::trim).skip_while(|line| !line.starts_with("event")).collect();
    assert_eq!(
        lines,
        [
            "event 3000 \"retry\"",
            "n = 1",
            "event 3000 \"said\"",
            "level = \"info\"",
            "event 3000 \"both\"",
            "message = \"kept\"",
            "event 3000 \"\"",
            "k = \"v\"",
            "event 3000 \"\"",
            "event = 7",
            "event 3000 \"\"",
        ]
    );
}

/// Scenario: flags, scopes, a trace state, times before the epoch and after the end of nanoseconds; a process with a host's
/// name and one without a name of its own.
/// Guarantees: each has its field, or a mark; spans are grouped by scope, in the order of the first.
#[test]
fn everything_else_has_its_place() {
    let told = batch(json!({
    "process": {"serviceName": "shop", "tags": tags(&[("hostname", "h1".into()), ("service.name", "other".into())])},
    "spans": [
        with_ids(json!({"flags": 11, "startTime": 1, "duration": 2, "tags": tags(&[("w3c.tracestate", "a=b".into())])})),
        with_ids(json!({"spanId": 3, "startTime": -1, "duration": -5, "tags": tags(&[
            ("otel.scope.name", "lib".into()), ("otel.library.version", "1".into())])})),
        with_ids(json!({"spanId": 4, "startTime": i64::MAX})),
    ]}));
    assert_eq!(
        told,
        "resource
  host.name = \"h1\"
  service.name = \"shop\"
  scope
    span 00000000000000000000000000000001 0000000000000002
      state \"a=b\"
      start 1000
      end 3000
      flags 1
      jaeger.debug = true
      jaeger.firehose = true
    span 00000000000000000000000000000001 0000000000000004
resource
  host.name = \"h1\"
  service.name = \"shop\"
  scope \"lib\" \"1\"
    span 00000000000000000000000000000001 0000000000000003
"
    );
    let nameless = json!({"process": {"serviceName": "OTLPResourceNoServiceName",
        "tags": tags(&[("hostname", "h1".into()), ("host.name", "h2".into())])}, "spans": [with_ids(json!({}))]});
    assert_lines(&batch(nameless), &["hostname = \"h1\"", "host.name = \"h2\""], &["service"]);
}

/// Scenario: spans without ids among others; more than are taken of spans, tags and attributes.
/// Guarantees: the first are counted and the others taken; a flood is refused with 413, or cut and counted.
#[test]
fn what_cannot_be_taken_is_counted_or_refused() {
    let some =
        json!({"process": {"serviceName": "s"}, "spans": [{}, with_ids(json!({})), {"traceIdLow": 1}]});
    let (bodies, rejected) = read(&encode::batch(&some), Spelling::Batch).expect("a batch");
    assert_eq!((rejected, text::of(&bodies).matches("span ").count()), (2, 1));
    let many = |count: usize| tags(&(0..count).map(|_| ("k", Value::from(""))).collect::<Vec<_>>());
    let flood = json!({"process": {"serviceName": "s"}, "spans": [with_ids(json!({"tags": many(20_000)}))]});
    assert_eq!(read(&encode::batch(&flood), Spelling::Batch).expect_err("a flood").status, 413);
    let keys: Vec<String> = (0..300).map(|n| format!("k{n}")).collect();
    let wide: Vec<(&str, Value)> = keys.iter().map(|key| (key.as_str(), Value::from(1))).collect();
    assert_lines(&span(json!({"tags": tags(&wide)})), &["dropped 46 attributes"], &[]);
    let spans: Vec<Value> = (0..=65_536).map(|_| json!({"traceIdLow": 1, "spanId": 2})).collect();
    let spans = json!({"process": {"serviceName": "s"}, "spans": spans});
    assert_eq!(read(&encode::batch(&spans), Spelling::Batch).expect_err("too many").status, 413);
}

/// Scenario: spans before their process; no process, no spans, no type; another method; a claim of four billion spans.
/// Guarantees: the first is read; the others are refused in words.
#[test]
fn what_is_missing_is_said() {
    let good = encode::batch(&json!({"process": {"serviceName": "s"}, "spans": [with_ids(json!({}))]}));
    let split = good.windows(4).position(|window| window == [0, 15, 0, 2]).expect("the spans' field") + 1;
    let (process, spans) = (&good[..split], &good[split..good.len() - 1]);
    let turned = [spans, process, &[0]].concat();
    assert_eq!(read(&turned, Spelling::Batch), read(&good, Spelling::Batch));
    let words = |body: &[u8], spelling| read(body, spelling).expect_err("refused").text;
    assert_eq!(words(&[spans, &[0]].concat(), Spelling::Batch), "required field Process is not set");
    assert_eq!(words(&[process, &[0]].concat(), Spelling::Batch), "required field Spans is not set");
    assert_eq!(words(&[0], Spelling::Batch), "required field Process is not set");
    let zipkin = b"\x82\x81\x01\x0femitZipkinBatch\x00";
    assert_eq!(
        words(zipkin, Spelling::Compact),
        "method \"emitZipkinBatch\": this receiver takes emitBatch only"
    );
    let claim = [process, &[15, 0, 2, 12, 0xff, 0xff, 0xff, 0xff]].concat();
    assert!(words(&claim, Spelling::Batch).contains("more elements than there are bytes for"));
}

/// Scenario: a protobuf batch whose spans have the batch's process, processes of their own, and ids of 8 and 3 bytes.
/// Guarantees: each span is its own process's; short ids are the low half; other lengths are refused in Jaeger's words.
#[test]
fn a_span_in_protobuf_may_have_its_own_process() {
    let id = |bytes: &[u8]| Value::from(bytes.to_vec());
    let span = |id_byte: u8, process: Value| json!({"trace_id": id(&[0, 0, 0, 0, 0, 0, 0, 1]), "span_id": id(&[0, 0, 0, 0, 0, 0, 0, id_byte]), "process": process});
    let own = json!({"service_name": "own"});
    let spans = [span(1, Value::Null), span(2, own.clone()), span(3, Value::Null), span(4, own)];
    let body = encode::request(&json!({"process": {"service_name": "common"}, "spans": spans}));
    let (bodies, rejected) = read(&body, Spelling::Protobuf).expect("a batch");
    let told = text::of(&bodies);
    let lines: Vec<&str> = told.lines().map(str::trim).filter(|line| !line.starts_with("scope")).collect();
    assert_eq!(
        (lines, rejected),
        (
            vec![
                "resource",
                "service.name = \"common\"",
                "span 00000000000000000000000000000001 0000000000000001",
                "span 00000000000000000000000000000001 0000000000000003",
                "resource",
                "service.name = \"own\"",
                "span 00000000000000000000000000000001 0000000000000002",
                "span 00000000000000000000000000000001 0000000000000004",
            ],
            0
        )
    );
    let odd = json!({"spans": [{"trace_id": id(&[1, 2, 3]), "span_id": id(&[1])}]});
    let refused = read(&encode::request(&odd), Spelling::Protobuf).expect_err("odd ids");
    assert_eq!(refused.text, "invalid length for TraceID: 3");
}
