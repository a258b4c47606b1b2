//! There and back: what Jaeger carries comes back as it was, and what it can't is what `LOSSY.md` says.

#[path = "../../zipkin-receiver/tests/receiver/text.rs"]
mod text;

#[path = "../../jaeger-receiver/tests/receiver/encode.rs"]
#[allow(dead_code, reason = "the receiver's own tests need more of it")]
mod encode;

#[path = "../../jaeger-receiver/tests/receiver/vectors.rs"]
mod vectors;

use jaeger_exporter::{Encoded, encode};
use jaeger_receiver::{Spelling, read};
use weir_guest::wire::Encoder;

/// A batch through thrift and back.
fn there_and_back(body: &[u8]) -> String {
    let Encoded { batches, invalid } = encode(body).expect("a batch");
    assert_eq!(invalid, 0);
    let back = batches.iter().flat_map(|batch| {
        let (bodies, rejected) = read(batch, Spelling::Batch).expect("our own batch");
        assert_eq!(rejected, 0);
        bodies
    });
    text::of(&back.collect::<Vec<_>>())
}

/// Scenario: every vector with spans, in all four spellings, as OTLP, through thrift and back.
/// Guarantees: nothing is lost: the receiver reads back what it read before.
#[test]
fn what_came_from_jaeger_survives() {
    let Some(vectors) = vectors::vectors() else { return };
    for (file, spelling) in vectors::SPANS {
        let (bodies, _) = read(&vectors::body(&vectors, file, spelling), spelling).expect(file);
        assert_eq!(there_and_back(&bodies.concat()), text::of(&bodies), "{file}");
    }
}

fn value(out: &mut Encoder, key: &str, write: impl FnOnce(&mut Encoder)) {
    out.message(9, |pair| {
        pair.string(1, key);
        pair.message(2, write);
    });
}

/// A span with something in every field, and what comes after its ids.
fn span(out: &mut Encoder, trace: u8, more: impl FnOnce(&mut Encoder)) {
    out.message(2, |span| {
        span.bytes(1, [trace; 16]);
        span.bytes(2, [2; 8]);
        more(span);
    });
}

fn everything() -> Vec<u8> {
    let mut body = Encoder::new();
    body.message(1, |group| {
        group.message(1, |resource| {
            resource.attribute_str(1, "service.name", "shop");
            resource.attribute_int(1, "pid", 7);
        });
        group.message(2, |scope| {
            scope.message(1, |scope| {
                scope.string(1, "lib");
                scope.string(2, "1.0");
            });
            span(scope, 1, |span| {
                span.string(3, "a=b");
                span.bytes(4, [3; 8]);
                span.string(5, "GET /");
                span.varint(6, 1);
                span.fixed64(7, 5_000);
                span.fixed64(8, 9_000);
                value(span, "text", |any| any.string(1, "x"));
                value(span, "flag", |any| any.varint(2, 0));
                value(span, "int", |any| any.int(3, -5));
                value(span, "double", |any| any.double(4, f64::INFINITY));
                value(span, "bytes", |any| any.bytes(7, [0, 255]));
                value(span, "jaeger.debug", |any| any.varint(2, 1));
                span.varint(10, 4);
                span.message(11, |event| {
                    event.fixed64(1, 6_000);
                    event.string(2, "retry");
                    event.attribute_bool(3, "again", true);
                });
                span.varint(12, 5);
                for (trace, id, kind) in [(1, 3, "follows_from"), (9, 8, "child_of"), (9, 7, "follows_from")]
                {
                    span.message(13, |link| {
                        link.bytes(1, [trace; 16]);
                        link.bytes(2, [id; 8]);
                        link.attribute_str(4, "opentracing.ref_type", kind);
                    });
                }
                span.varint(14, 6);
                span.message(15, |status| {
                    status.string(2, "broken");
                    status.varint(3, 2);
                });
                span.fixed32(16, 1);
            });
        });
    });
    body.into_bytes()
}

/// Scenario: a span with something in every field that Jaeger has room for.
/// Guarantees: it comes back as it was, to the last field.
#[test]
fn what_jaeger_carries_survives() {
    let body = everything();
    assert_eq!(there_and_back(&body), text::of(&[body]));
}

/// Scenario: what Jaeger has no room for: nanoseconds, lists, an empty value, a scope's attributes, an event's counts, a link's
/// state and attributes, an end before the beginning, text that is not UTF-8, no service.
/// Guarantees: each becomes what `LOSSY.md` says.
#[test]
fn what_jaeger_cannot_carry_is_lost_as_said() {
    let mut body = Encoder::new();
    body.message(1, |group| {
        group.message(2, |scope| {
            scope.message(1, |scope| scope.attribute_str(3, "of.scope", "s"));
            span(scope, 1, |span| {
                span.fixed64(7, 5_999);
                span.fixed64(8, 4_000);
                value(span, "list", |any| any.message(5, |list| list.message(1, |any| any.varint(3, 1))));
                value(span, "none", |_| {});
                value(span, "odd", |any| any.bytes(1, [0xff]));
                span.message(11, |event| event.varint(4, 3));
                span.message(13, |link| {
                    link.bytes(1, [9; 16]);
                    link.bytes(2, [8; 8]);
                    link.string(3, "state");
                    link.attribute_str(4, "why", "x");
                });
                span.message(15, |status| {
                    status.string(2, "unseen");
                    status.varint(3, 1);
                });
            });
        });
    });
    let told = there_and_back(body.as_bytes());
    assert_eq!(
        told,
        "resource
  service.name = \"unknown_service\"
  scope
    span 01010101010101010101010101010101 0202020202020202
      start 5000
      end 5000
      list = \"[1]\"
      none = \"\"
      odd = \"\u{fffd}\"
      of.scope = \"s\"
      event 0 \"\"
      link 09090909090909090909090909090909 0808080808080808
        opentracing.ref_type = \"follows_from\"
      status OK
"
    );
}

/// Scenario: two resources, the first twice in a row; a span whose id is none; bytes that are no batch.
/// Guarantees: a batch for each resource, the bad span counted; no batch for nothing.
#[test]
fn each_resource_has_its_batch() {
    let mut body = Encoder::new();
    for (service, trace) in [("a", 1), ("a", 2), ("b", 3)] {
        body.message(1, |group| {
            group.message(1, |resource| resource.attribute_str(1, "service.name", service));
            group.message(2, |scope| span(scope, trace, |_| {}));
        });
    }
    body.message(1, |group| group.message(2, |scope| span(scope, 0, |_| {})));
    let Encoded { batches, invalid } = encode(body.as_bytes()).expect("a batch");
    assert_eq!((batches.len(), invalid), (2, 1));
    assert_eq!(encode(b"").map(|encoded| encoded.batches.len()), Ok(0));
    assert!(encode(b"\x0a\xff").is_err());
}

/// Scenario: a second of random batches: a good one with bytes changed.
/// Guarantees: no panic; what is written is read again by the receiver, with every span.
#[test]
fn random_batches_do_no_harm() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let good = everything();
    let until = std::time::Instant::now() + std::time::Duration::from_secs(1);
    let mut written = 0;
    while std::time::Instant::now() < until {
        let mut body = good.clone();
        for _ in 0..random.usize(..4) {
            let at = random.usize(..body.len());
            body[at] = random.u8(..);
        }
        if let Ok(Encoded { batches, .. }) = encode(&body) {
            written += 1;
            for batch in batches {
                let (_, rejected) = read(&batch, Spelling::Batch).expect("our own batch");
                assert_eq!(rejected, 0, "seed {seed}");
            }
        }
    }
    assert!(written > 100);
}
