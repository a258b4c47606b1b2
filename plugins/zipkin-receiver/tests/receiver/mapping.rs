//! Each rule of the mapping, by small cases.

use weir_guest::wire::Encoder;
use weir_guest::wire::otlp::resource_groups;
use zipkin_receiver::{Refused, Spelling, read};

use crate::text;

/// A v2 list of one span with ids and a timestamp, and `members` beside them.
fn body(members: &str) -> String {
    let comma = if members.is_empty() { "" } else { "," };
    format!(
        r#"[{{"traceId":"5b8aa5a2d2c872e8321cf37308d69df2","id":"051e581bf3cb55c1","timestamp":1{comma}{members}}}]"#
    )
}

/// What the span of [`body`] becomes, without the lines that all of them have.
fn mapped(members: &str) -> String {
    let text = text_of(&body(members));
    let common = "    span 5b8aa5a2d2c872e8321cf37308d69df2 051e581bf3cb55c1\n";
    assert!(text.contains(common), "{text}");
    let lines = text.replace(common, "").replace("      start 1000\n", "").replace("      end 1000\n", "");
    lines.replace("resource\n  scope\n", "")
}

fn text_of(body: &str) -> String {
    text::of(&read(body.as_bytes(), Spelling::JsonV2).unwrap_or_else(|refused| panic!("{body}: {refused:?}")))
}

fn refused(body: &str) -> String {
    let Err(Refused { status, text }) = read(body.as_bytes(), Spelling::JsonV2) else {
        panic!("{body} is accepted")
    };
    assert_eq!(status, 400, "{body}");
    text
}

/// A tag or an annotation as JSON members.
fn tags(tags: &[(&str, &str)]) -> String {
    let tags: Vec<_> = tags.iter().map(|(key, value)| format!("{}:{}", json(key), json(value))).collect();
    format!("\"tags\":{{{}}}", tags.join(","))
}

fn annotation(value: &str) -> String {
    format!(r#""annotations":[{{"timestamp":2,"value":{}}}]"#, json(value))
}

fn json(text: &str) -> String {
    serde_json::to_string(text).expect("a string is JSON")
}

/// Scenario: ids short, long, with leading zeros, zero, the parent equal to the span.
/// Guarantees: padding on the left; no parent where there is none.
#[test]
fn ids_are_padded_and_a_parent_may_be_none() {
    let ids = |trace_id: &str, id: &str, parent_id: &str| {
        let body = format!(r#"[{{"traceId":"{trace_id}","id":"{id}","parentId":{parent_id}}}]"#);
        let text = text_of(&body);
        text.lines()
            .filter(|line| line.contains("span ") || line.contains("parent"))
            .map(str::trim)
            .collect::<Vec<_>>()
            .join(" ")
    };
    assert_eq!(ids("1", "2", "null"), "span 00000000000000000000000000000001 0000000000000002");
    assert_eq!(
        ids("10000000000000000", "2", "\"3\""),
        "span 00000000000000010000000000000000 0000000000000002 parent 0000000000000003"
    );
    assert_eq!(
        ids("1", "2", "\"0000000000000000\""),
        "span 00000000000000000000000000000001 0000000000000002"
    );
    assert_eq!(ids("1", "2", "\"2\""), "span 00000000000000000000000000000001 0000000000000002");
    assert_eq!(ids("123", "2", "\"2\"").len(), ids("1", "2", "null").len());
}

/// Scenario: every fault of a field.
/// Guarantees: the request is refused, in the reference server's words.
#[test]
fn a_fault_has_the_reference_servers_words() {
    let span = |members: &str| refused(&format!("[{{{members}}}]"));
    let with_ids = |members: &str| refused(&body(members));
    for (text, words) in [
        (span(r#""traceId":"","id":"1""#), "traceId is empty reading List<Span> from json"),
        (span(r#""traceId":"0","id":"1""#), "traceId is all zeros reading"),
        (span(r#""traceId":"123456789012345678901234567890123","id":"1""#), "traceId.length > 32 reading"),
        (span(r#""traceId":"1","id":"12345678901234567""#), "id.length > 16 reading"),
        (span(r#""traceId":"1","id":"0""#), "id is all zeros reading"),
        (span(r#""traceId":"1","id":"x""#), "x should be lower-hex encoded with no prefix reading"),
        (span(r#""traceId":"1","id":null"#), "Expected a string but was NULL at line 1 column"),
        (span(""), "Missing : traceId id reading"),
        (span(r#""id":"1""#), "Missing : traceId reading"),
        (with_ids(r#""parentId":"""#), "parentId is empty reading"),
        (with_ids(r#""kind":"client""#), "No enum constant zipkin2.Span.Kind.client reading"),
        (with_ids(r#""name":{}"#), "Expected a string but was BEGIN_OBJECT at line 1 column"),
        (with_ids(r#""duration":1.5"#), "Expected a long but was 1.5 at line 1 column"),
        (with_ids(r#""duration":"x""#), "Expected a long but was x at line 1 column"),
        (with_ids(r#""duration":9223372036854775808"#), "Expected a long but was 9223372036854775808 at"),
        (with_ids(r#""debug":"true""#), "Expected a boolean but was STRING at"),
        (with_ids(r#""localEndpoint":[]"#), "Expected BEGIN_OBJECT but was BEGIN_ARRAY at"),
        (with_ids(r#""tags":{"k":null}"#), "No value at $.tags.k at"),
        (with_ids(r#""tags":[]"#), "Expected BEGIN_OBJECT but was BEGIN_ARRAY at"),
        (with_ids(r#""annotations":[{"value":"v"}]"#), "Incomplete annotation at"),
        (with_ids(r#""annotations":[{"timestamp":null,"value":"v"}]"#), "Expected a long but was NULL at"),
        (with_ids(r#""binaryAnnotations":[]"#), "Expected a JSON_V2 encoded list, but received: JSON_V1\n"),
        (refused("[null]"), "Malformed reading List<Span> from json: line 1 column 2: expected an object"),
        (refused("[{]"), "Malformed reading List<Span> from json: line 1 column 3"),
        (refused("[] x"), "Malformed reading List<Span> from json: line 1 column 4"),
        (refused("[\n{\"traceId\":\"1\",}]"), "Malformed reading List<Span> from json: line 2 column"),
        (refused("{}"), "Expected a JSON_V2 encoded list\n"),
        (refused("x"), "Expected a JSON_V2 encoded list\n"),
    ] {
        assert!(text.starts_with(words), "expected {words}, got {text}");
    }
}

/// Scenario: numbers in strings, a string that is a number, members that nobody knows, nulls, an empty list
/// between spaces.
/// Guarantees: all is taken as the reference server's reader takes it.
#[test]
fn the_reader_is_as_tolerant_as_the_reference() {
    assert_eq!(
        mapped(r#""duration":"2","x":[{"y":[]}],"tags":{"n":12.50},"kind":null"#),
        "      end 3000\n      n = \"12.50\"\n"
    );
    assert_eq!(
        mapped(r#""duration":2.0,"localEndpoint":{"port":null,"z":1},"debug":false"#),
        "      end 3000\n"
    );
    assert_eq!(text_of(" [ ] \n"), "");
}

/// Scenario: times absent, negative, without a duration, and too late for nanoseconds.
/// Guarantees: a mark where there is no start; the end is the start where there is no duration.
#[test]
fn a_time_that_is_absent_is_marked() {
    let times = |members: &str| {
        let text = text_of(&format!(r#"[{{"traceId":"1","id":"2"{members}}}]"#));
        text.lines().skip(3).map(str::trim).collect::<Vec<_>>().join(", ")
    };
    let mark = "otel.zipkin.absentField.startTime = true";
    assert_eq!(times(""), mark);
    assert_eq!(times(r#","timestamp":0,"duration":5"#), format!("end 5000, {mark}"));
    assert_eq!(times(r#","timestamp":-1,"duration":-1"#), mark);
    assert_eq!(times(r#","timestamp":7"#), "start 7000, end 7000");
    assert_eq!(times(r#","timestamp":7,"duration":5"#), "start 7000, end 12000");
    assert_eq!(times(r#","timestamp":9223372036854775807"#), mark);
    assert_eq!(times(r#","timestamp":7,"duration":9223372036854775807"#), "start 7000, end 7000");
}

/// Scenario: every kind, and spans without one.
/// Guarantees: four kinds; internal only where a tag says so, and only for a span without a kind.
#[test]
fn a_span_without_a_kind_is_internal_only_if_it_says_so() {
    for kind in ["CLIENT", "SERVER", "PRODUCER", "CONSUMER"] {
        assert_eq!(mapped(&format!("\"kind\":\"{kind}\"")), format!("      kind {kind}\n"));
    }
    assert_eq!(mapped(""), "");
    assert_eq!(mapped(&tags(&[("span.kind", "Internal")])), "      kind INTERNAL\n");
    assert_eq!(mapped(&tags(&[("span.kind", "client")])), "      span.kind = \"client\"\n");
    assert_eq!(
        mapped(&format!("\"kind\":\"SERVER\",{}", tags(&[("span.kind", "internal")]))),
        "      kind SERVER\n      span.kind = \"internal\"\n"
    );
}

/// Scenario: names in upper case; endpoints with all parts, with tags that say the same, and with tags that
/// say something else.
/// Guarantees: lower case; addresses and ports as attributes; a tag that differs wins.
#[test]
fn endpoints_are_attributes_unless_a_tag_says_otherwise() {
    let both = r#""name":"GET","localEndpoint":{"serviceName":"Shop","ipv4":"10.0.0.1","ipv6":"::1","port":80},
        "remoteEndpoint":{"serviceName":"DB","ipv6":"2001:DB8::1","port":5432}"#;
    assert_eq!(
        mapped(both),
        r#"resource
  service.name = "shop"
  scope
      name "get"
      network.local.address = "10.0.0.1"
      network.local.port = 80
      network.peer.address = "2001:db8::1"
      network.peer.port = 5432
      peer.service = "db"
"#
    );
    let same = tags(&[
        ("network.peer.address", "2001:db8::1"),
        ("network.peer.port", "5432"),
        ("network.local.port", "80"),
    ]);
    assert_eq!(mapped(&format!("{both},{same}")), mapped(both));
    let other =
        tags(&[("network.peer.address", "10.9.9.9"), ("peer.service", "DB"), ("network.local.port", "x")]);
    let text = mapped(&format!("{both},{other}"));
    for line in [
        "network.peer.address = \"10.9.9.9\"",
        "peer.service = \"DB\"",
        "network.local.port = \"x\"",
        "network.peer.port = 5432",
    ] {
        assert!(text.contains(line), "{text}");
    }
}

/// Scenario: tags about the process; the service's name as a tag in another case, as another name, and alone;
/// the Collector's mark.
/// Guarantees: they are the resource's; what is not the local endpoint's name stays an attribute.
#[test]
fn what_is_said_of_the_process_is_the_resources() {
    let local = r#""localEndpoint":{"serviceName":"Shop"},"#;
    let about =
        [("service.version", "1"), ("telemetry.sdk.name", "o"), ("service.peer.name", "p"), ("k", "v")];
    assert_eq!(
        mapped(&format!("{local}{}", tags(&about))),
        r#"resource
  service.name = "shop"
  service.version = "1"
  telemetry.sdk.name = "o"
  scope
      k = "v"
      service.peer.name = "p"
"#
    );
    assert_eq!(
        mapped(&format!("{local}{}", tags(&[("service.name", "SHOP")]))),
        "resource\n  service.name = \"SHOP\"\n  scope\n"
    );
    assert_eq!(
        mapped(&format!("{local}{}", tags(&[("service.name", "other")]))),
        "resource\n  service.name = \"shop\"\n  scope\n      service.name = \"other\"\n"
    );
    assert_eq!(
        mapped(&tags(&[("service.name", "Alone")])),
        "resource\n  service.name = \"Alone\"\n  scope\n"
    );
    assert_eq!(
        mapped(&format!("{local}{}", tags(&[("otlp.service.name.source", "faas.name")]))),
        "resource\n  faas.name = \"shop\"\n  scope\n"
    );
    assert_eq!(
        mapped(&format!("{local}{}", tags(&[("otlp.service.name.source", "other")]))),
        "resource\n  service.name = \"shop\"\n  scope\n      otlp.service.name.source = \"other\"\n"
    );
}

/// Scenario: scope tags of today, of before, and of both.
/// Guarantees: they are the scope's and no attributes.
#[test]
fn scope_tags_are_the_scopes() {
    let today = tags(&[("otel.scope.name", "n"), ("otel.scope.version", "1")]);
    let before = tags(&[("otel.library.name", "n"), ("otel.library.version", "1")]);
    let both = tags(&[("otel.library.name", "n"), ("otel.library.version", "1"), ("otel.scope.name", "n")]);
    for tags in [today, before, both] {
        assert_eq!(mapped(&tags), "resource\n  scope \"n\" \"1\"\n");
    }
}

/// Scenario: spans of three services and two scopes, mixed.
/// Guarantees: one group for each resource and scope, in the order of their first spans; order within a group
/// is kept.
#[test]
fn spans_are_grouped_by_resource_and_scope() {
    let span = |id: u32, service: &str, scope: &str, version: &str| {
        format!(
            r#"{{"traceId":"1","id":"{id}","timestamp":1,"localEndpoint":{{"serviceName":"{service}"}},{}}}"#,
            tags(&[("otel.scope.name", scope), ("service.version", version)])
        )
    };
    let body = [
        span(1, "a", "x", "1"),
        span(2, "b", "x", "1"),
        span(3, "a", "y", "1"),
        span(4, "a", "x", "1"),
        span(5, "a", "x", "2"),
        span(6, "b", "x", "1"),
    ];
    let text = text_of(&format!("[{}]", body.join(",")));
    let outline: Vec<_> = text
        .lines()
        .filter(|line| !line.contains("start") && !line.contains("end "))
        .map(|line| line.trim().replace("span 00000000000000000000000000000001 000000000000000", "#"))
        .collect();
    assert_eq!(
        outline.join(" "),
        "resource service.name = \"a\" service.version = \"1\" scope \"x\" #1 #4 \
         resource service.name = \"b\" service.version = \"1\" scope \"x\" #2 #6 \
         resource service.name = \"a\" service.version = \"1\" scope \"y\" #3 \
         resource service.name = \"a\" service.version = \"2\" scope \"x\" #5"
    );
}

/// Scenario: the status in all the spellings that are in use, alone and together.
/// Guarantees: any error is an error but `false`; a description beats the error's text; what says more than
/// the status stays an attribute.
#[test]
fn a_status_is_read_in_every_spelling() {
    let status = |tags_in: &[(&str, &str)]| {
        mapped(&tags(tags_in)).lines().map(str::trim).collect::<Vec<_>>().join(", ")
    };
    for ok in ["OK", "Ok", "ok", "STATUS_CODE_OK", "status_code_ok"] {
        assert_eq!(status(&[("otel.status_code", ok)]), "status OK");
    }
    for error in ["ERROR", "Error", "STATUS_CODE_ERROR"] {
        assert_eq!(status(&[("otel.status_code", error)]), "status ERROR");
    }
    for unset in ["UNSET", "Unset", "STATUS_CODE_UNSET"] {
        assert_eq!(status(&[("otel.status_code", unset)]), "");
    }
    assert_eq!(status(&[("otel.status_code", "2")]), "otel.status_code = \"2\"");
    assert_eq!(status(&[("error", "true")]), "status ERROR");
    assert_eq!(status(&[("error", "")]), "status ERROR");
    assert_eq!(status(&[("error", "false")]), "error = \"false\"");
    assert_eq!(status(&[("error", "bad")]), "error = \"bad\", status ERROR \"bad\"");
    assert_eq!(
        status(&[("error", "bad"), ("otel.status_code", "OK")]),
        "error = \"bad\", status ERROR \"bad\""
    );
    assert_eq!(
        status(&[("error", "false"), ("otel.status_code", "ERROR")]),
        "error = \"false\", status ERROR"
    );
    assert_eq!(
        status(&[
            ("otel.status_code", "STATUS_CODE_ERROR"),
            ("error", "true"),
            ("otel.status_description", "why")
        ]),
        "status ERROR \"why\""
    );
    assert_eq!(
        status(&[("error", "bad"), ("otel.status_description", "why")]),
        "error = \"bad\", status ERROR \"why\""
    );
    assert_eq!(status(&[("otel.status_description", "why")]), "otel.status_description = \"why\"");
    assert_eq!(
        status(&[("otel.status_code", "OK"), ("otel.status_description", "why")]),
        "otel.status_description = \"why\", status OK"
    );
}

/// Scenario: fields of a span that OTLP lacks, on spans of several kinds, and tags that have their marks'
/// names.
/// Guarantees: marks; a client is not shared; a tag and a mark of one key are one attribute.
#[test]
fn what_otlp_lacks_is_marked() {
    assert_eq!(mapped(r#""shared":true"#), "      zipkin.shared = true\n");
    assert_eq!(
        mapped(r#""debug":true,"kind":"SERVER","shared":true"#),
        "      kind SERVER\n      zipkin.debug = true\n      zipkin.shared = true\n"
    );
    assert_eq!(mapped(r#""kind":"CLIENT","shared":true"#), "      kind CLIENT\n");
    assert_eq!(
        mapped(&format!("\"debug\":true,{}", tags(&[("zipkin.debug", "x")]))),
        "      zipkin.debug = true\n"
    );
    assert_eq!(mapped(&tags(&[("zipkin.debug", "x")])), "      zipkin.debug = \"x\"\n");
}

/// Scenario: tracestate, dropped counts and links, good ones and ones that are not what their key says.
/// Guarantees: fields of the same meaning; the bad ones stay attributes.
#[test]
fn tags_for_what_zipkin_lacks_are_fields_again() {
    const IDS: &str = "5b8aa5a2d2c872e8321cf37308d69df2|6b221d5bc9e6496c";
    let full = format!("{IDS}|k=v|{{\"n\":1,\"s\":\"t\"}}|7");
    let bare = format!("{IDS}||{{}}|0");
    let odd = format!("{IDS}|a|b|{{}}|0");
    assert_eq!(
        mapped(&tags(&[
            ("w3c.tracestate", "a=b"),
            ("otel.dropped_attributes_count", "1"),
            ("otel.dropped_events_count", "2"),
            ("otel.dropped_links_count", "3"),
            ("otlp.link.10", &odd),
            ("otlp.link.1", &bare),
            ("otlp.link.0", &full),
        ])),
        r#"      state "a=b"
      dropped 1 attributes
      dropped 2 events
      link 5b8aa5a2d2c872e8321cf37308d69df2 6b221d5bc9e6496c "k=v"
        n = 1
        s = "t"
        dropped 7 attributes
      link 5b8aa5a2d2c872e8321cf37308d69df2 6b221d5bc9e6496c
      link 5b8aa5a2d2c872e8321cf37308d69df2 6b221d5bc9e6496c "a|b"
      dropped 3 links
"#
    );
    for (key, value) in [
        ("otel.dropped_events_count", "0"),
        ("otel.dropped_events_count", "many"),
        ("otlp.link.0", "x"),
        ("otlp.link.0", "5b8aa5a2d2c872e8321cf37308d69df2|6b221d5bc9e6496c|||0"),
        ("otlp.link.0", "00000000000000000000000000000000|6b221d5bc9e6496c||{}|0"),
        ("otlp.link.128", "5b8aa5a2d2c872e8321cf37308d69df2|6b221d5bc9e6496c||{}|0"),
        ("w3c.tracestate", ""),
    ] {
        assert_eq!(mapped(&tags(&[(key, value)])), format!("      {key} = {}\n", json(value)));
    }
}

/// Scenario: annotations in the four spellings of events, and texts that nearly are one.
/// Guarantees: name, attributes with their types and the dropped count; a text that is none of the four is a
/// name, whole.
#[test]
fn an_annotation_is_read_in_every_spelling() {
    let event =
        |value: &str| mapped(&annotation(value)).lines().map(str::trim).collect::<Vec<_>>().join(", ");
    assert_eq!(event("plain"), "event 2000 \"plain\"");
    for structured in [
        r#"{"n": {"s": "t", "i": 3, "d": 0.5, "e": 1e3, "b": true, "z": null, "l": [1, "x"], "m": {"k": "v"}}}"#,
        r#""n": {"s": "t", "i": 3, "d": 0.5, "e": 1e3, "b": true, "z": null, "l": [1, "x"], "m": {"k": "v"}}"#,
        r#""n" :{"s":"t","i":3,"d":0.5,"e":1e3,"b":true,"z":null,"l":[1,"x"],"m":{"k":"v"}}"#,
        r#"n|{"s":"t","i":3,"d":0.5,"e":1e3,"b":true,"z":null,"l":[1,"x"],"m":{"k":"v"}}|0"#,
    ] {
        assert_eq!(
            event(structured),
            r#"event 2000 "n", b = true, d = 0.5, e = 1000.0, i = 3, l = [1, "x"], m = {"k": "v"}, s = "t", z = empty"#,
            "{structured}"
        );
    }
    assert_eq!(event(r#"a|{}|b|{"k":"v"}|2"#), r#"event 2000 "a|{}|b", k = "v", dropped 2 attributes"#);
    assert_eq!(
        event(r#""n": {"otel.dropped_attributes_count": 2}"#),
        r#"event 2000 "n", dropped 2 attributes"#
    );
    assert_eq!(event(r#""quo\"te\u00e4": {}"#), "event 2000 \"quo\\\"te\u{e4}\"");
    for plain in [
        "a|b|c",
        "a|b|3",
        "a|{}|x",
        "a|{\"k\":}|0",
        "|{}|99999999999",
        "{}",
        "{\"n\": 1}",
        "{\"n\": {}, \"m\": {}}",
        "{\"n\": {}} x",
        "\"n\"",
        "\"n\": 1",
        "\"n\": {} x",
        "\"n: {}",
        "{",
        "\"",
        "|",
        "",
    ] {
        assert_eq!(event(plain), format!("event 2000 {}", json(plain)));
    }
    let deep = format!("\"n\": {{\"k\":{}1{}}}", "[".repeat(20), "]".repeat(20));
    assert_eq!(event(&deep), format!("event 2000 {}", json(&deep)));
}

/// Scenario: annotations out of order and twice, one before the epoch.
/// Guarantees: in order of time, each once.
#[test]
fn annotations_are_in_order_and_unique() {
    let text = mapped(
        r#""annotations":[{"timestamp":3,"value":"c"},{"timestamp":2,"value":"b"},{"timestamp":2,"value":"a"},
        {"timestamp":3,"value":"c"},{"timestamp":-1,"value":"early"}]"#,
    );
    let events: Vec<_> = text.lines().map(str::trim).collect();
    assert_eq!(events, ["event 0 \"early\"", "event 2000 \"a\"", "event 2000 \"b\"", "event 3000 \"c\""]);
}

/// Scenario: a key that stands twice, among few tags and among many; more tags than a span may have.
/// Guarantees: the last counts; what is beyond the limit is counted as dropped.
#[test]
fn the_last_of_equal_keys_counts_and_the_rest_is_counted() {
    assert_eq!(mapped(&tags(&[("k", "1"), ("l", "2"), ("k", "3")])), "      k = \"3\"\n      l = \"2\"\n");
    let many: Vec<_> = (0..300).map(|number| (format!("k{:03}", number % 290), number.to_string())).collect();
    let many: Vec<_> = many.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    let text = mapped(&tags(&many));
    assert!(
        text.contains("      k000 = \"290\"\n") && text.contains("      dropped 42 attributes\n"),
        "{text}"
    );
    assert_eq!(text.lines().count(), 249);
}

/// Scenario: more spans than a request may have; a string longer than one may be.
/// Guarantees: refused with 413, and the answer says the limit.
#[test]
fn what_is_beyond_a_limit_is_refused() {
    let span = r#"{"traceId":"1","id":"2"}"#;
    let too_much = |body: String| match read(body.as_bytes(), Spelling::JsonV2) {
        Err(Refused { status: 413, text }) => text,
        other => panic!("{other:?}"),
    };
    let spans = |count: usize| format!("[{}]", vec![span; count].join(","));
    assert!(read(spans(65_536).as_bytes(), Spelling::JsonV2).is_ok());
    assert!(too_much(spans(65_537)).starts_with("more than 65536 spans in one request"));
    let text = too_much(body(&tags(&[("k", &"x".repeat(65_537))])));
    assert!(text.starts_with("a string is longer than 65536 bytes at line 1 column"), "{text}");
    assert!(read(body(&tags(&[("k", &"x".repeat(65_536))])).as_bytes(), Spelling::JsonV2).is_ok());
    let many: Vec<_> = (0..16_385).map(|number| format!("\"k{number}\":\"v\"")).collect();
    assert!(
        read(body(&format!("\"tags\":{{{}}}", many[1..].join(","))).as_bytes(), Spelling::JsonV2).is_ok()
    );
    let text = too_much(body(&format!("\"tags\":{{{}}}", many.join(","))));
    assert!(text.starts_with("more than 16384 tags or annotations in one span"), "{text}");
    let deep = format!("[{}", "[".repeat(1_000_000));
    assert!(refused(&deep).starts_with("Malformed"));
}

/// Scenario: twelve megabytes of one service's spans, mixed with those of another.
/// Guarantees: several batches, none much larger than a group may be; every span is in one of them, in order.
#[test]
fn a_large_request_is_several_batches() {
    const SPANS: usize = 60_000;
    let span = |number: usize| {
        let service = if number.is_multiple_of(10) { "b" } else { "a" };
        format!(
            r#"{{"traceId":"1","id":"{:x}","localEndpoint":{{"serviceName":"{service}"}},"tags":{{"k":"{}"}}}}"#,
            number + 1,
            "x".repeat(150)
        )
    };
    let spans: Vec<_> = (0..SPANS).map(span).collect();
    let bodies = read(format!("[{}]", spans.join(",")).as_bytes(), Spelling::JsonV2).expect("accepted");
    assert!(bodies.len() > 2 && bodies.iter().all(|body| body.len() < 5 << 20));
    let mut ids = [Vec::new(), Vec::new()];
    for group in bodies.iter().flat_map(|body| resource_groups(body)) {
        let group = group.expect("a resource group");
        let service = usize::from(group.resource_view().get_str("service.name") == Some(b"b"));
        for span in group.scopes().flat_map(|scope| scope.expect("a scope group").spans()) {
            let id = span.expect("a span").span_id;
            ids[service].push(u64::from_be_bytes(id.try_into().expect("8 bytes")) as usize - 1);
        }
    }
    assert!(ids.iter().all(|ids| ids.is_sorted()));
    assert_eq!((ids[0].len(), ids[1].len()), (SPANS - SPANS / 10, SPANS / 10));
}

/// A `zipkin.proto3.ListOfSpans` of one span.
fn list(write: &dyn Fn(&mut Encoder)) -> Vec<u8> {
    let mut list = Encoder::new();
    list.message(1, write);
    list.into_bytes()
}

/// Scenario: protobuf spans with ids of both lengths and shorter, fields of a later version, kinds and tags
/// that are incomplete, and broken bytes.
/// Guarantees: what the reference server takes is taken, and trace ids of 64 bits; broken bytes are refused
/// with the place.
#[test]
fn protobuf_is_read_by_the_same_rules() {
    let good = list(&|span| {
        span.bytes(1, [1, 2, 3, 4, 5, 6, 7, 8]);
        span.bytes(2, [0; 8]);
        span.bytes(3, [9]);
        span.varint(4, 9);
        span.string(5, "GET");
        span.fixed64(6, 7);
        span.int(7, -1);
        span.message(8, |endpoint| {
            endpoint.string(1, "Shop");
            endpoint.bytes(2, [10, 0, 0, 1]);
            endpoint.int(4, -1);
        });
        span.message(10, |annotation| annotation.fixed64(1, 8));
        span.message(10, |annotation| annotation.string(2, "no time"));
        span.message(10, |annotation| {
            annotation.fixed64(1, 8);
            annotation.string(2, "good");
        });
        span.message(11, |tag| tag.string(2, "no key"));
        span.message(11, |tag| tag.string(1, "no value"));
        span.message(11, |tag| {
            tag.string(1, "k");
            tag.bytes(2, b"v\xff");
        });
        span.bool(13, true);
        span.string(99, "later");
    });
    assert_eq!(
        text::of(&read(&good, Spelling::Proto3).expect("accepted")),
        "resource
  service.name = \"shop\"
  scope
    span 00000000000000000102030405060708 0000000000000009
      name \"get\"
      start 7000
      end 7000
      k = \"v\u{fffd}\"
      network.local.address = \"10.0.0.1\"
      no value = \"\"
      zipkin.shared = true
      event 8000 \"good\"
"
    );
    let refused = |body: &[u8]| read(body, Spelling::Proto3).expect_err("refused").text;
    assert_eq!(
        refused(&list(&|span| span.bytes(3, [1]))),
        "Missing : traceId reading List<Span> from proto3"
    );
    assert_eq!(
        refused(&list(&|span| span.bytes(1, [1; 17]))),
        "traceId.length > 32 reading List<Span> from proto3"
    );
    assert_eq!(
        refused(&list(&|span| span.bytes(3, [0; 8]))),
        "id is all zeros reading List<Span> from proto3"
    );
    let port = list(&|span| span.message(9, |endpoint| endpoint.varint(4, 65_536)));
    assert_eq!(refused(&port), "invalid port 65536 reading List<Span> from proto3");
    assert!(
        refused(&good[..good.len() - 1])
            .starts_with("Malformed reading List<Span> from proto3: malformed protobuf at byte")
    );
    assert_eq!(refused(b"[]"), "Expected a PROTO3 encoded list\n");
}
