//! Requests that would cost much more than they are large.

use std::time::{Duration, Instant};

use jaeger_receiver::{Spelling, read};
use weir_guest::wire::Encoder;

/// The longest text that is taken.
const TEXT_BYTES_MAX: usize = 4 << 20;

/// As many spans as are taken.
const SPANS: u32 = 65_536;

/// Far more than any of these takes, and far less than it would take if each span cost what its process is large.
const GENEROUS: Duration = Duration::from_secs(20);

/// What an instance has.
const INSTANCE_BYTES: usize = 64 << 20;

// === thrift, as it lies in a body ===

fn text(out: &mut Vec<u8>, id: u8, text: &[u8]) {
    out.extend([11, 0, id]);
    out.extend((text.len() as u32).to_be_bytes());
    out.extend(text);
}

fn list(out: &mut Vec<u8>, id: u8, count: u32) {
    out.extend([15, 0, id, 12]);
    out.extend(count.to_be_bytes());
}

fn tag(out: &mut Vec<u8>, key: &str, value: &[u8]) {
    text(out, 1, key.as_bytes());
    out.extend([8, 0, 2, 0, 0, 0, 0]);
    text(out, 3, value);
    out.push(0);
}

/// A batch of as many spans as are taken, of a process with tags of these sizes, each with a tag that names its scope.
fn batch(tags: &[usize], scope: impl Fn(u32) -> String) -> Vec<u8> {
    let mut out = vec![12, 0, 1];
    text(&mut out, 1, b"shop");
    list(&mut out, 2, tags.len() as u32);
    for (number, bytes) in tags.iter().enumerate() {
        tag(&mut out, &format!("large{number}"), &vec![b'x'; *bytes]);
    }
    out.push(0);
    list(&mut out, 2, SPANS);
    for number in 1..=SPANS {
        for id in [1, 3] {
            out.extend([10, 0, id]);
            out.extend(u64::from(number).to_be_bytes());
        }
        list(&mut out, 10, 1);
        tag(&mut out, "otel.scope.name", scope(number).as_bytes());
        out.push(0);
    }
    out.push(0);
    out
}

// === the tests ===

/// Scenario: the largest process that is taken and as many spans as are taken: each with one of two scopes (thrift); every other
/// one with an empty process of its own (protobuf).
/// Guarantees: all are taken, and a span does not cost what its process is large.
#[test]
fn a_large_process_costs_nothing_with_each_span() {
    let started = Instant::now();
    let body = batch(&[TEXT_BYTES_MAX - 100], |number| format!("scope{}", number % 2));
    let (bodies, rejected) = read(&body, Spelling::Batch).expect("a batch");
    assert_eq!(rejected, 0);
    assert!(bodies.iter().map(Vec::len).sum::<usize>() < INSTANCE_BYTES / 2);

    let mut request = Encoder::new();
    let open = request.open_large(1);
    for number in 0..u64::from(SPANS) {
        request.message(1, |span| {
            span.bytes(1, [1; 16]);
            span.bytes(2, (number + 1).to_be_bytes());
            if number % 2 == 0 {
                span.bytes(10, b"");
            }
        });
    }
    request.message(2, |process| {
        process.string(1, "shop");
        process.message(2, |tag| {
            tag.string(1, "large");
            tag.bytes(3, vec![b'x'; TEXT_BYTES_MAX]);
        });
    });
    request.close(open);
    let (bodies, rejected) = read(request.as_bytes(), Spelling::Protobuf).expect("a batch");
    assert_eq!((rejected, bodies.is_empty()), (0, false));
    let took = started.elapsed();
    assert!(took < GENEROUS, "{took:?}");
}

/// Scenario: the largest process, and each span with a scope of its own; a process of a kilobyte, likewise.
/// Guarantees: pairs of process and scope are refused beyond a limit: each would be a copy of the process.
#[test]
fn many_scopes_of_a_large_process_are_refused() {
    for bytes in [TEXT_BYTES_MAX, 1 << 10] {
        let refused =
            read(&batch(&[bytes], |number| number.to_string()), Spelling::Batch).expect_err("too much");
        assert_eq!(refused.status, 413);
        assert!(refused.text.starts_with("processes and scopes together"), "{}", refused.text);
    }
    let small = batch(&[8], |number| number.to_string());
    let (_, rejected) = read(&small, Spelling::Batch).expect("small processes may have many scopes");
    assert_eq!(rejected, 0);
}

/// Scenario: a process of more bytes than the spans of a body may have, and as many spans as are taken.
/// Guarantees: it is not written again with each span.
#[test]
fn a_process_beyond_a_bodys_size_is_written_once() {
    let body = batch(&[TEXT_BYTES_MAX - 100, 1 << 20], |_| "scope".to_owned());
    let (bodies, _) = read(&body, Spelling::Batch).expect("a batch");
    assert!(bodies.len() < 4, "{} bodies", bodies.len());
}

/// Scenario: lists of tags, references, logs and fields that claim four billion elements; a text that claims as many bytes; structs
/// a hundred thousand deep in a field that nobody knows; twenty thousand logs; each as thrift. Lengths of 2^63 and twenty
/// thousand tags of a process, as protobuf.
/// Guarantees: refused, in words or as a flood.
#[test]
fn claims_depth_and_floods_are_refused() {
    let head = [12, 0, 1, 11, 0, 1, 0, 0, 0, 1, b's', 0, 15, 0, 2, 12, 0, 0, 0, 1];
    let claims = [[15, 0, 6, 12], [15, 0, 10, 12], [15, 0, 11, 12], [11, 0, 5, 0xff]];
    for claim in claims.iter().map(|claim| [&claim[..], &[0xff; 4], &[0; 8]].concat()) {
        assert_eq!(read(&[&head[..], &claim].concat(), Spelling::Batch).expect_err("a claim").status, 400);
    }
    let fields = [15, 0, 11, 12, 0, 0, 0, 1, 15, 0, 2, 12, 0xff, 0xff, 0xff, 0xff, 0];
    assert_eq!(read(&[&head[..], &fields].concat(), Spelling::Batch).expect_err("a claim").status, 400);
    let deep = [&head[..], &[12, 0, 99].repeat(100_000)].concat();
    assert!(read(&deep, Spelling::Batch).expect_err("too deep").text.contains("too deep"));
    let logs =
        [&[15, 0, 11, 12, 0, 0, 0x4e, 0x20][..], &[10, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0].repeat(20_000)];
    assert_eq!(
        read(&[&head[..], &logs.concat()].concat(), Spelling::Batch).expect_err("a flood").status,
        413
    );

    let claim = [&b"\x0a"[..], &[0xff; 8], b"\x7f"].concat();
    assert_eq!(read(&claim, Spelling::Protobuf).expect_err("a claim").status, 400);
    let mut flood = Encoder::new();
    flood.message(1, |batch| batch.message(2, |process| (0..20_000).for_each(|_| process.bytes(2, b""))));
    assert_eq!(read(flood.as_bytes(), Spelling::Protobuf).expect_err("a flood").status, 413);
}
