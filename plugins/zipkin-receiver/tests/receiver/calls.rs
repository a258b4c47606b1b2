//! v1's ends of calls, as the reference server converts them.

use zipkin_receiver::{Refused, Spelling, read};

use crate::text;

/// A v1 span of annotations `value@time` or `value@time/service`, and binary annotations as JSON.
fn converted(members: &str, annotations: &str, binary: &str) -> String {
    let annotations: Vec<_> = annotations
        .split_whitespace()
        .map(|annotation| {
            let (value, rest) = annotation.split_once('@').expect("value@time");
            let (time, service) =
                rest.split_once('/').map_or((rest, None), |(time, service)| (time, Some(service)));
            let endpoint = service
                .map_or(String::new(), |service| format!(r#","endpoint":{{"serviceName":"{service}"}}"#));
            format!(r#"{{"timestamp":{time},"value":"{value}"{endpoint}}}"#)
        })
        .collect();
    let body = format!(
        r#"[{{"traceId":"1","id":"2","annotations":[{}],"binaryAnnotations":[{binary}]{members}}}]"#,
        annotations.join(",")
    );
    let bodies =
        read(body.as_bytes(), Spelling::JsonV1).unwrap_or_else(|refused| panic!("{body}: {refused:?}"));
    let text = text::of(&bodies);
    let lines = text.lines().filter(|line| *line != "  scope" && !line.contains("absentField"));
    lines
        .map(|line| format!("{}\n", line.replace(" 00000000000000000000000000000001 0000000000000002", "")))
        .collect()
}

/// Scenario: one side of a call, with both ends, with its own times, and with times that the ends must give.
/// Guarantees: client or server with start and end; a server without a timestamp of its own is shared.
#[test]
fn two_ends_are_a_span() {
    assert_eq!(
        converted("", "cs@1/a cr@4/a", ""),
        "resource\n  service.name = \"a\"\n    span\n      kind CLIENT\n      start 1000\n      end 4000\n"
    );
    assert_eq!(
        converted("", "sr@1/a ss@4/a", ""),
        "resource\n  service.name = \"a\"\n    span\n      kind SERVER\n      start 1000\n      end 4000\n      zipkin.shared = true\n"
    );
    assert_eq!(
        converted(r#","timestamp":2,"duration":5"#, "sr@1/a ss@4/a", ""),
        "resource\n  service.name = \"a\"\n    span\n      kind SERVER\n      start 2000\n      end 7000\n"
    );
    assert_eq!(
        converted(r#","timestamp":2"#, "sr@1/a ss@4/a", ""),
        "resource\n  service.name = \"a\"\n    span\n      kind SERVER\n      start 1000\n      end 4000\n      zipkin.shared = true\n"
    );
}

/// Scenario: both sides in one span, of two services and of one; one way; with an event of each.
/// Guarantees: two spans of one id; the client owns the times, the server is shared.
#[test]
fn both_sides_are_two_spans() {
    assert_eq!(
        converted(r#","timestamp":1,"duration":9"#, "cs@1/a sr@3/b x@4/b ss@5/b cr@10/a", ""),
        r#"resource
  service.name = "a"
    span
      kind CLIENT
      start 1000
      end 10000
resource
  service.name = "b"
    span
      kind SERVER
      start 3000
      end 5000
      zipkin.shared = true
      event 4000 "x"
"#
    );
    assert_eq!(
        converted("", "cs@1/a sr@3/a ss@5/a cr@10/a", ""),
        r#"resource
  service.name = "a"
    span
      kind CLIENT
      start 1000
      end 10000
    span
      kind SERVER
      start 3000
      end 5000
      zipkin.shared = true
"#
    );
    let one_way = converted(r#","timestamp":1"#, "cs@1/a sr@3/b", "");
    assert_eq!(
        one_way.lines().filter(|line| line.contains("end ")).collect::<Vec<_>>(),
        ["      end 1000", "      end 3000"]
    );
}

/// Scenario: ends without their beginnings, beginnings without their ends, ends that nobody logged, an end
/// whose beginning the span's own times tell.
/// Guarantees: a lone end is something that happened; only what has an endpoint is an end.
#[test]
fn a_lone_end_is_something_that_happened() {
    assert_eq!(
        converted("", "cr@4/a", ""),
        "resource\n  service.name = \"a\"\n    span\n      kind CLIENT\n      event 4000 \"cr\"\n"
    );
    assert_eq!(
        converted("", "sr@4/a", ""),
        "resource\n  service.name = \"a\"\n    span\n      kind SERVER\n      start 4000\n      end 4000\n      zipkin.shared = true\n"
    );
    assert_eq!(
        converted(r#","timestamp":1,"duration":3"#, "ss@4/a", ""),
        "resource\n  service.name = \"a\"\n    span\n      kind SERVER\n      start 1000\n      end 4000\n"
    );
    assert_eq!(
        converted("", "cs@1 cr@4 ws@5/a", ""),
        "resource\n  service.name = \"a\"\n    span\n      event 1000 \"cs\"\n      event 4000 \"cr\"\n      event 5000 \"ws\"\n"
    );
}

/// Scenario: messages: sent, received, with the wire's share, both in one span.
/// Guarantees: producer and consumer with the wire's times; both in one span are two, the consumer shared.
#[test]
fn messages_have_the_wires_times() {
    assert_eq!(
        converted("", "ms@1/a ws@3/a", ""),
        "resource\n  service.name = \"a\"\n    span\n      kind PRODUCER\n      start 1000\n      end 3000\n"
    );
    assert_eq!(
        converted("", "wr@1/a mr@3/a", ""),
        "resource\n  service.name = \"a\"\n    span\n      kind CONSUMER\n      start 1000\n      end 3000\n"
    );
    assert_eq!(
        converted("", "mr@3/a", ""),
        "resource\n  service.name = \"a\"\n    span\n      kind CONSUMER\n      start 3000\n      end 3000\n"
    );
    assert_eq!(
        converted("", "ms@1/a ws@2/a wr@5/b mr@7/b", ""),
        r#"resource
  service.name = "a"
    span
      kind PRODUCER
      start 1000
      end 2000
resource
  service.name = "b"
    span
      kind CONSUMER
      start 5000
      end 7000
      zipkin.shared = true
"#
    );
}

/// Scenario: address annotations with and without ends of a call; one with the server's own name.
/// Guarantees: the remote endpoint of the side that it belongs to; a service does not call itself.
#[test]
fn addresses_are_remote_endpoints() {
    let address = |key: &str, service: &str| {
        format!(
            r#"{{"key":"{key}","value":true,"endpoint":{{"serviceName":"{service}","ipv4":"10.0.0.1"}}}}"#
        )
    };
    let remote = |text: &str| {
        let kept = ["kind", "peer", "service.name"];
        let lines = text.lines().filter(|line| kept.iter().any(|kept| line.contains(kept)));
        lines.map(str::trim).collect::<Vec<_>>().join(", ")
    };
    let both = format!("{},{}", address("ca", "c"), address("sa", "s"));
    assert_eq!(
        remote(&converted("", "cs@1/a cr@4/a", &both)),
        "service.name = \"a\", kind CLIENT, network.peer.address = \"10.0.0.1\", peer.service = \"s\""
    );
    assert_eq!(
        remote(&converted("", "sr@1/a ss@4/a", &both)),
        "service.name = \"a\", kind SERVER, network.peer.address = \"10.0.0.1\", peer.service = \"c\""
    );
    assert_eq!(
        remote(&converted("", "sr@1/a ss@4/a", &address("ca", "a"))),
        "service.name = \"a\", kind SERVER, network.peer.address = \"10.0.0.1\""
    );
    assert_eq!(
        remote(&converted("", "", &both)),
        "service.name = \"c\", network.peer.address = \"10.0.0.1\", peer.service = \"s\""
    );
    assert_eq!(
        remote(&converted("", "", &address("sa", "s"))),
        "network.peer.address = \"10.0.0.1\", peer.service = \"s\""
    );
    assert_eq!(
        remote(&converted("", "", &address("ca", "c"))),
        "kind SERVER, network.peer.address = \"10.0.0.1\", peer.service = \"c\""
    );
    assert_eq!(
        remote(&converted("", "ms@1/a", &address("ma", "k"))),
        "service.name = \"a\", kind PRODUCER, network.peer.address = \"10.0.0.1\", peer.service = \"k\""
    );
}

/// Scenario: binary annotations of all types, `lc` with and without a text.
/// Guarantees: strings are tags of the span of their service; the rest is passed over; `lc` alone only says
/// who.
#[test]
fn binary_annotations_are_tags() {
    let binary = r#"{"key":"s","value":"t","endpoint":{"serviceName":"a"}},{"key":"n","value":5},{"key":"o","value":{"x":[1]}},
        {"key":"b","value":true},{"key":"z","value":null},{"key":"lc","value":"","endpoint":{"serviceName":"a"}}"#;
    assert_eq!(converted("", "", binary), "resource\n  service.name = \"a\"\n    span\n      s = \"t\"\n");
    assert_eq!(converted("", "", r#"{"key":"lc","value":"me"}"#), "resource\n    span\n      lc = \"me\"\n");
}

/// Scenario: faults, and v2 spans on v1's path.
/// Guarantees: 400, in the reference server's words.
#[test]
fn faults_have_the_reference_servers_words() {
    let refused = |span: &str| {
        let Err(Refused { status: 400, text }) = read(format!("[{span}]").as_bytes(), Spelling::JsonV1)
        else {
            panic!("{span} is accepted");
        };
        text
    };
    assert_eq!(refused(r#"{"id":"1"}"#), "traceId == 0 reading List<Span> from json");
    assert_eq!(refused(r#"{"traceId":"1","id":"0"}"#), "id == 0 reading List<Span> from json");
    assert!(
        refused(r#"{"traceId":"1","id":"2","annotations":[{"value":"x"}]}"#)
            .starts_with("Incomplete annotation at line 1")
    );
    assert!(
        refused(r#"{"traceId":"1","id":"2","binaryAnnotations":[{"value":"x"}]}"#)
            .starts_with("No key at line 1")
    );
    for member in [r#""tags":{}"#, r#""kind":"CLIENT""#, r#""remoteEndpoint":{}"#, r#""shared":true"#] {
        let text = refused(&format!(r#"{{"traceId":"1","id":"2",{member}}}"#));
        assert_eq!(text, "Expected a JSON_V1 encoded list, but received: JSON_V2\n");
    }
}

/// Scenario: a span that more services took part in than any real one has.
/// Guarantees: refused with 413, and the answer says the limit.
#[test]
fn a_span_has_a_bounded_number_of_services() {
    let body = |services: usize| {
        let annotation = |number: usize| {
            format!(r#"{{"timestamp":1,"value":"x","endpoint":{{"serviceName":"s{number}"}}}}"#)
        };
        let annotations: Vec<_> = (0..services).map(annotation).collect();
        format!(r#"[{{"traceId":"1","id":"2","annotations":[{}]}}]"#, annotations.join(","))
    };
    assert!(read(body(64).as_bytes(), Spelling::JsonV1).is_ok());
    let Err(Refused { status, text }) = read(body(65).as_bytes(), Spelling::JsonV1) else {
        panic!("accepted")
    };
    assert_eq!(
        (status, text.as_str()),
        (413, "more than 64 services in one span reading List<Span> from json")
    );
}
