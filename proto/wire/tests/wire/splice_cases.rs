//! Cut, augment, group and halve, as text.

use std::borrow::Cow;

use expect_test::{Expect, expect};
use weir_wire::{
    Addition, Encoder, Signal, WalkError, WalkLimits, augment, augmented_bytes_max, cut, group, halve, join,
    walk,
};

use crate::notation::{ATTRIBUTES_MAX, encode, render};

const LIMITS: WalkLimits = WalkLimits { items_max: 100, attributes_max: ATTRIBUTES_MAX, resources_max: 10 };

fn check_cut(signal: Signal, request: &str, expected: Expect) {
    let body = encode(request);
    let walked = walk(signal, &body, &LIMITS).expect("a request");
    let mut text = String::new();
    for invalid in &walked.invalid {
        text += &format!("invalid: {}\n", invalid.reason);
    }
    text += &render(signal, &cut(&body, &walked).expect("the body that was walked"));
    expected.assert_eq(&text);
}

fn check_augment(request: &str, additions: &[Addition], overwrite: bool, expected: Expect) {
    let body = encode(request);
    let augmented = augment(&body, additions, overwrite).expect("a request");
    let unchanged = if matches!(augmented, Cow::Borrowed(_)) { "unchanged\n" } else { "" };
    expected.assert_eq(&(unchanged.to_owned() + &render(Signal::Traces, &augmented)));
}

fn check_halve(signal: Signal, request: &str, expected: Expect) {
    let text = match halve(signal, &encode(request)) {
        None => "can't be halved\n".to_owned(),
        Some((first, second)) => render(signal, &first) + "---\n" + &render(signal, &second),
    };
    expected.assert_eq(&text);
}

fn check_group(request: &str, group_of: &[usize], groups: usize, expected: Expect) {
    let body = encode(request);
    let walked = walk(Signal::Traces, &body, &LIMITS).expect("a request");
    let mut text = String::new();
    for (index, request) in group(&body, &walked.resources, group_of, groups).iter().enumerate() {
        let copied = if matches!(request, Cow::Borrowed(_)) { "" } else { ", copied" };
        text += &format!("--- {index}{copied}\n{}", render(Signal::Traces, request));
    }
    expected.assert_eq(&text);
}

// === cut ===

/// Scenario: invalid spans at the beginning, in the middle and at the end, a scope of nothing else, a
/// resource of nothing else.
/// Guarantees: exactly these go; what stands aside and what was empty before stays.
#[test]
fn invalid_spans_are_cut_out_with_the_groups_that_held_nothing_else() {
    check_cut(
        Signal::Traces,
        "
resource app=a
  scope one
    span bad a
    span ok b
    span bad c
    span ok d
    span bad e
    unknown 99
  scope two
    span bad f
  scope empty
  unknown 98
resource app=b
  scope three
    span bad g
resource -
unknown 97
",
        expect![[r#"
            invalid: trace id is not 16 bytes or is all zeros
            invalid: trace id is not 16 bytes or is all zeros
            invalid: trace id is not 16 bytes or is all zeros
            invalid: trace id is not 16 bytes or is all zeros
            invalid: trace id is not 16 bytes or is all zeros
            unknown 97
            resource app=a
              scope one
                span ok b
                span ok d
                unknown 99
              scope empty
              unknown 98
            resource -
        "#]],
    );
}

/// Scenario: points with too many attributes in every kind of metric, one metric with nothing else.
/// Guarantees: the points go, the metric with nothing else goes, the others keep their names.
#[test]
fn invalid_points_are_cut_out_of_every_kind_of_metric() {
    check_cut(
        Signal::Metrics,
        "
resource app=a
  scope one
    gauge a
      point bad 1
      point ok 2
    sum b
      point bad 3
    histogram c
      point ok 4
      point bad 5
    exponential d
      point bad 6
      point ok 7
    summary e
      point ok 8
      point bad 9
",
        expect![[r#"
            invalid: too many attributes
            invalid: too many attributes
            invalid: too many attributes
            invalid: too many attributes
            invalid: too many attributes
            resource app=a
              scope one
                gauge a
                  point ok 2
                histogram c
                  point ok 4
                exponential d
                  point ok 7
                summary e
                  point ok 8
        "#]],
    );
}

/// Scenario: a request of invalid log records only, and one of valid ones only.
/// Guarantees: nothing is left of the first; the second comes back uncopied.
#[test]
fn nothing_may_be_left_and_nothing_may_have_to_go() {
    check_cut(
        Signal::Logs,
        "
resource app=a
  scope one
    log bad x
",
        expect![[r#"
            invalid: span id is not 8 bytes or is all zeros
        "#]],
    );
    let body = encode("resource app=a\n  scope one\n    log ok x");
    let walked = walk(Signal::Logs, &body, &LIMITS).expect("a request");
    assert!(matches!(cut(&body, &walked), Ok(Cow::Borrowed(_))));
}

// === augment ===

/// Scenario: resources with the key, without it, and a group without a resource.
/// Guarantees: the sender's value stays, the others get ours, everything else is as it was.
#[test]
fn an_attribute_is_added_where_the_sender_has_none() {
    check_augment(
        "
resource app=a host.name=sender
  scope one
    span ok a
  unknown 99
resource app=b
resource -
  scope two
unknown 97
",
        &[Addition::string("host.name", "weir")],
        false,
        expect![[r#"
            unknown 97
            resource app=a host.name=sender
              scope one
                span ok a
              unknown 99
            resource app=b host.name=weir
            resource host.name=weir
              scope two
        "#]],
    );
}

/// Scenario: bodies of groups without a resource, with one, and with a large one; one addition and many.
/// Guarantees: what is announced is never less than what is made, and not much more.
#[test]
fn what_augmenting_makes_is_known_before() {
    let large = "x".repeat(20_000);
    let additions: Vec<Addition> =
        (0..10).map(|number| Addition::string(&format!("key.{number}"), &large[..number * 40])).collect();
    let group = |resource: &[u8]| {
        let mut body = Encoder::new();
        body.message(1, |group| {
            if !resource.is_empty() {
                group.message(1, |owner| owner.raw(resource));
            }
        });
        body.into_bytes()
    };
    let mut sender = Encoder::new();
    sender.attribute_str(1, "a", &large);
    for body in [vec![], group(&[]), group(&[]).repeat(65_535), group(sender.as_bytes()).repeat(3)] {
        for additions in [&additions[..0], &additions[..1], &additions[..]] {
            let most = augmented_bytes_max(&body, additions).unwrap();
            let made = augment(&body, additions, false).unwrap().len();
            assert!(made <= most && most <= made + 16 * body.len().div_ceil(2), "{made} of {most}");
        }
    }
}

/// Scenario: the same with permission to overwrite, and a key that stands twice.
/// Guarantees: ours stands once, where the sender's stood first.
#[test]
fn an_attribute_is_replaced_when_told_to() {
    check_augment(
        "
resource host.name=sender app=a host.name=again
  scope one
resource app=b
",
        &[Addition::string("host.name", "weir"), Addition::int("pid", 7), Addition::int("pid", 8)],
        true,
        expect![[r#"
            resource host.name=weir app=a pid=Int(7)
              scope one
            resource app=b host.name=weir pid=Int(7)
        "#]],
    );
}

/// Scenario: every resource has the attribute, once even with the same value and permission to overwrite; or
/// there is nothing to add.
/// Guarantees: the body is not copied.
#[test]
fn a_body_that_needs_no_attribute_is_not_copied() {
    let request = "resource host.name=weir\n  scope one\n";
    let unchanged = || {
        expect![[r#"
            unchanged
            resource host.name=weir
              scope one
        "#]]
    };
    check_augment(request, &[Addition::string("host.name", "other")], false, unchanged());
    check_augment(request, &[Addition::string("host.name", "weir")], true, unchanged());
    check_augment(request, &[], true, unchanged());
}

/// Scenario: a resource grows until its length and those around it need more bytes.
/// Guarantees: all lengths fit, at every size around the steps.
#[test]
fn lengths_grow_with_what_is_added() {
    for length in (100..140).chain(16_300..16_420) {
        let value = "x".repeat(length);
        let body = encode("resource app=a\n  scope one\n    span ok a");
        let augmented = augment(&body, &[Addition::string("k", &value)], false).expect("a request");
        let expected = format!("resource app=a k={value}\n  scope one\n    span ok a");
        assert_eq!(augmented, encode(&expected));
    }
}

// === group ===

/// Scenario: four parts go to two requests, one of which has neighbours only.
/// Guarantees: each request has its parts in order; neighbours are not copied; a request may be empty.
#[test]
fn parts_are_sorted_into_requests() {
    let request = "
resource app=a
resource app=b
resource app=c
resource app=d
";
    check_group(
        request,
        &[0, 1, 1, 0],
        3,
        expect![[r#"
            --- 0, copied
            resource app=a
            resource app=d
            --- 1
            resource app=b
            resource app=c
            --- 2
        "#]],
    );
}

/// Scenario: all parts go to one request, with unknown fields between them; and a body without parts.
/// Guarantees: the request is the body, not a copy.
#[test]
fn a_request_that_holds_every_part_is_the_body() {
    let body = encode("unknown 97\nresource app=a\nunknown 98\nresource app=b\nunknown 99");
    let walked = walk(Signal::Traces, &body, &LIMITS).expect("a request");
    let requests = group(&body, &walked.resources, &[0, 0], 1);
    assert!(matches!(&requests[..], [Cow::Borrowed(request)] if *request == body));
    let body = encode("unknown 97");
    assert_eq!(group(&body, &[], &[], 1), [body.as_slice()]);
    assert!(group(&body, &[], &[], 0).is_empty());
}

// === halve and join ===

/// Scenario: five spans in two scopes of two resources.
/// Guarantees: the cut goes through a scope; resource and scope around it stand in both halves.
#[test]
fn a_request_is_halved_by_spans() {
    check_halve(
        Signal::Traces,
        "
resource app=a
  scope one
    span ok a
  scope two
    span ok b
    span ok c
    unknown 99
  unknown 98
resource app=b
  scope three
    span ok d
    span ok e
",
        expect![[r#"
            resource app=a
              scope one
                span ok a
              scope two
                span ok b
                unknown 99
              unknown 98
            ---
            resource app=a
              scope two
                span ok c
                unknown 99
              unknown 98
            resource app=b
              scope three
                span ok d
                span ok e
        "#]],
    );
}

/// Scenario: one metric with three points.
/// Guarantees: it is halved by points, and both halves are the same metric.
#[test]
fn one_metric_is_halved_by_points() {
    check_halve(
        Signal::Metrics,
        "
resource app=a
  scope one
    histogram m
      point ok 1
      point ok 2
      point ok 3
",
        expect![[r#"
            resource app=a
              scope one
                histogram m
                  point ok 1
            ---
            resource app=a
              scope one
                histogram m
                  point ok 2
                  point ok 3
        "#]],
    );
}

/// Scenario: one item, none, and a body that is no request.
/// Guarantees: none is halved.
#[test]
fn what_has_fewer_than_two_items_is_not_halved() {
    check_halve(Signal::Logs, "resource app=a\n  scope one\n    log ok x", expect!["can't be halved\n"]);
    check_halve(Signal::Logs, "", expect!["can't be halved\n"]);
    assert_eq!(halve(Signal::Traces, &[0x0a, 9]), None);
}

/// Scenario: three requests are joined, one of them empty.
/// Guarantees: the result is one request with all of the first, then all of the last.
#[test]
fn requests_are_joined_by_concatenation() {
    let joined = join(&[&encode("resource app=a"), &[], &encode("resource app=b")]);
    assert_eq!(render(Signal::Traces, &joined), "resource app=a\nresource app=b\n");
}

// === walk ===

fn refusal(signal: Signal, body: &[u8]) -> String {
    walk(signal, body, &LIMITS).expect_err("a refusal").to_string()
}

/// Scenario: more items, and more resources, than the limits allow; and exactly as many.
/// Guarantees: the request is refused with the number, or taken.
#[test]
fn too_many_of_anything_refuse_the_request() {
    let spans = |count| "resource app=a\n  scope one\n".to_owned() + &"    span ok a\n".repeat(count);
    assert_eq!(walk(Signal::Traces, &encode(&spans(100)), &LIMITS).map(|walked| walked.items), Ok(100));
    assert_eq!(
        refusal(Signal::Traces, &encode(&spans(101))),
        "more than 100 items in one request, send smaller ones"
    );
    assert!(walk(Signal::Traces, &encode(&"resource -\n".repeat(10)), &LIMITS).is_ok());
    assert_eq!(
        walk(Signal::Traces, &encode(&"resource -\n".repeat(11)), &LIMITS),
        Err(WalkError::TooMany { what: "resources", limit: 10 })
    );
}

/// Scenario: requests whose meaning depends on the reader, and broken frames at each level.
/// Guarantees: each is refused at its place.
#[test]
fn a_request_of_doubtful_meaning_is_refused() {
    let traces = |body: &[u8]| refusal(Signal::Traces, body);
    let metrics = |body: &[u8]| refusal(Signal::Metrics, body);
    assert_eq!(traces(&[0x08, 1]), "malformed protobuf at byte 0: a message has a foreign wire type");
    assert_eq!(
        traces(&[0x0a, 2, 0x08, 1]),
        "malformed protobuf at byte 2: a message has a foreign wire type"
    );
    assert_eq!(
        traces(&[0x0a, 4, 0x0a, 0, 0x0a, 0]),
        "malformed protobuf at byte 4: a group has two resources"
    );
    assert_eq!(
        traces(&[0x0a, 6, 0x12, 4, 0x12, 2, 0x08, 1]),
        "malformed protobuf at byte 6: an id, attribute, link or exemplar has a foreign wire type"
    );
    assert_eq!(
        traces(&[0x0a, 6, 0x12, 4, 0x12, 2, 0x4a, 1]),
        "malformed protobuf at byte 6: a length reaches beyond the message"
    );
    assert_eq!(
        traces(&[0x0a, 4, 0x0a, 2, 0x0a, 1]),
        "malformed protobuf at byte 4: a length reaches beyond the message"
    );
    assert_eq!(
        metrics(&[0x0a, 8, 0x12, 6, 0x12, 4, 0x2a, 0, 0x3a, 0]),
        "malformed protobuf at byte 8: a metric has two kinds of data"
    );
    assert_eq!(
        metrics(&[0x0a, 8, 0x12, 6, 0x12, 4, 0x2a, 2, 0x0a, 1]),
        "malformed protobuf at byte 8: a length reaches beyond the message"
    );
}

/// Scenario: a span whose trace id stands twice, first valid, then not.
/// Guarantees: the last counts, as for every reader.
#[test]
fn of_two_ids_the_last_counts() {
    let mut out = weir_wire::Encoder::new();
    out.message(1, |group| {
        group.message(2, |scope| {
            scope.message(2, |span| {
                span.bytes(1, [1; 16]);
                span.bytes(2, [2; 8]);
                span.bytes(1, [0; 16]);
            });
        });
    });
    let walked = walk(Signal::Traces, out.as_bytes(), &LIMITS).expect("a request");
    assert_eq!(walked.invalid.len(), 1);
    assert_eq!((walked.items, walked.valid_items()), (1, 0));
}

/// Scenario: resources are found in their request.
/// Guarantees: the ranges are those of the record and of the `Resource` in it, empty where there is none.
#[test]
fn resources_are_found_at_their_place() {
    let body = encode("resource app=a\n  scope one\n    span ok a\nresource -");
    let walked = walk(Signal::Traces, &body, &LIMITS).expect("a request");
    let [first, second] = &walked.resources[..] else { panic!("{:?}", walked.resources) };
    assert_eq!(weir_wire::ResourceView::new(&body[first.resource.clone()]).get_str("app"), Some(&b"a"[..]));
    assert_eq!((first.record.start, first.record.end, first.items), (0, second.record.start, 1));
    assert_eq!((second.record.end, second.resource.len(), second.items), (body.len(), 0, 0));
}
