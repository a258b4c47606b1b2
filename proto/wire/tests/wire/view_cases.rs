//! What views do that no encoder of today writes.

use weir_wire::otlp::{
    AnyValue, Each, HistogramPointView, KeyValues, MetricView, Repeated, SpanView, View, resource_groups,
};
use weir_wire::{Encoder, ResourceView};

/// Scenario: a list in a list, sixty-four times and once more.
/// Guarantees: the first is followed to its end, the second is malformed where it gets too deep.
#[test]
fn values_are_nested_to_a_bound() {
    let nested = |depth: usize| {
        let mut value = vec![0x18, 5];
        for _ in 0..depth {
            let mut outer = Encoder::new();
            outer.message(5, |list| list.bytes(1, &value));
            value = outer.into_bytes();
        }
        value
    };
    fn follow(value: AnyValue<'_>) -> Result<i64, &'static str> {
        match value {
            AnyValue::Int(number) => Ok(number),
            AnyValue::Array(mut values) => {
                follow(values.next().ok_or("an empty list")?.map_err(|malformed| malformed.what)?)
            }
            _ => Err("something else"),
        }
    }
    let value = nested(64);
    assert_eq!(follow(AnyValue::parse(&value).expect("a value")), Ok(5));
    let value = nested(65);
    assert_eq!(follow(AnyValue::parse(&value).expect("a value")), Err("values are nested deeper than 64"));
}

/// Scenario: attributes stand before and behind other fields, so that the window between the first and the
/// last holds strangers.
/// Guarantees: the strangers are passed over.
#[test]
fn repeated_fields_need_not_stand_together() {
    let mut span = Encoder::new();
    span.attribute_int(9, "a", 1);
    span.string(5, "name");
    span.message(11, |event| event.string(2, "e"));
    span.attribute_int(9, "b", 2);
    let span = SpanView::parse(span.as_bytes()).expect("a span");
    let keys: Vec<_> = span.attributes().map(|pair| pair.expect("a pair").key).collect();
    assert_eq!(keys, [b"a", b"b"]);
    assert_eq!(span.events().map(|event| event.expect("an event").name).collect::<Vec<_>>(), [b"e"]);
    assert_eq!(span.links().count(), 0);
}

/// Scenario: a single field stands twice; a status stands twice with different fields; known numbers have
/// foreign wire types.
/// Guarantees: the last counts, the two are one message, the foreign are passed over: as every protobuf
/// reader does.
#[test]
fn single_fields_that_stand_twice_are_one() {
    let mut span = Encoder::new();
    span.string(5, "first");
    span.string(5, "last");
    span.message(15, |status| status.string(2, "text"));
    span.message(15, |status| status.varint(3, 2));
    span.varint(1, 7);
    span.string(7, "no time");
    let span = SpanView::parse(span.as_bytes()).expect("a span");
    assert_eq!(span.name, b"last");
    assert_eq!((span.status.message, span.status.code), (&b"text"[..], 2));
    assert_eq!((span.trace_id, span.start_time_unix_nano), (&b""[..], 0));
}

/// Scenario: bucket counts packed, in pieces, and one by one.
/// Guarantees: the list is the same; a packed list that ends inside a number is malformed.
#[test]
fn numbers_are_read_packed_or_not() {
    let mut point = Encoder::new();
    point.packed_fixed64(6, [1, 2].into_iter());
    point.packed_double(7, [0.5].into_iter());
    point.fixed64(6, 3);
    point.packed_fixed64(6, [4].into_iter());
    let view = HistogramPointView::parse(point.as_bytes()).expect("a point");
    assert_eq!(view.bucket_counts().collect::<Vec<_>>(), [1, 2, 3, 4]);
    assert_eq!(view.explicit_bounds().collect::<Vec<_>>(), [0.5]);
    point.bytes(6, [0; 7]);
    assert!(HistogramPointView::parse(point.as_bytes()).is_err());
}

/// Scenario: a list whose second message is malformed in itself, and one whose frame is.
/// Guarantees: the first goes on, the second ends; neither repeats itself for ever.
#[test]
fn iteration_goes_on_behind_a_bad_message_and_ends_at_a_bad_frame() {
    let spans =
        |body: &'static [u8]| Each::<SpanView<'_>>::new(body, 2).map(|span| span.is_ok()).collect::<Vec<_>>();
    assert_eq!(spans(&[0x12, 0, 0x12, 1, 0x0a, 0x12, 0]), [true, false, true]);
    assert_eq!(spans(&[0x12, 0, 0x12, 9, 0x12, 0]), [true, false]);
    let malformed = Each::<SpanView<'_>>::new(&[0x12, 0, 0x12, 1, 0x0a], 2).find_map(Result::err);
    assert_eq!(malformed.map(|malformed| malformed.at), Some(5));
    assert_eq!(Repeated::new(&[0x0b], 1).count(), 1);
    assert_eq!(
        KeyValues::new(&[0x0a, 1, 0x0b, 0x0a, 0], 1).map(|pair| pair.is_ok()).collect::<Vec<_>>(),
        [false, true]
    );
}

/// Scenario: attributes of a resource are looked up: present, twice, of another kind, absent, behind a broken
/// frame.
/// Guarantees: the first counts, kinds are told apart, what is broken counts as absent.
#[test]
fn a_resource_is_asked_by_key() {
    let mut resource = Encoder::new();
    resource.attribute_str(1, "service.name", "shop");
    resource.attribute_int(1, "process.pid", 7);
    resource.attribute_str(1, "service.name", "again");
    resource.attribute_str(1, "empty", "");
    resource.raw(&[0x0a, 99]);
    resource.attribute_str(1, "behind", "x");
    let resource = ResourceView::new(resource.as_bytes());
    assert_eq!(resource.get_str("service.name"), Some(&b"shop"[..]));
    assert_eq!((resource.get_int("process.pid"), resource.get_int("service.name")), (Some(7), None));
    assert_eq!((resource.get_str("process.pid"), resource.get_str("empty")), (None, None));
    assert!(resource.get("behind").is_none() && resource.get("absent").is_none());
}

/// Scenario: a broken data message, and the request around it.
/// Guarantees: views that read one level report it at its place.
#[test]
fn a_broken_frame_is_reported_by_the_view_that_reads_it() {
    let metric = [0x0a, 1, b'm', 0x2a, 2, 0x0a, 9];
    assert_eq!(MetricView::parse(&metric).expect_err("malformed").at, 5);
    assert!(resource_groups(&[0x0a, 1, 0x0a]).next().is_some_and(|group| group.is_err()));
}
