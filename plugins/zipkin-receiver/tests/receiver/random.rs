//! Bytes that nobody would send.

use std::time::{Duration, Instant};

use weir_guest::wire::Signal;
use weir_guest::wire::walk::{WalkLimits, walk};
use zipkin_receiver::{Spelling, read};

/// Pieces that bodies are made of, so that random ones get past the first bracket.
const PIECES: [&str; 40] = [
    "[",
    "]",
    "{",
    "}",
    ",",
    ":",
    "null",
    "true",
    "1",
    "-1",
    "1e3",
    "\"\"",
    "\"x\"",
    "\"\\u00e4\"",
    "\"traceId\":\"1\",\"id\":\"2\"",
    "\"traceId\"",
    "\"id\"",
    "\"parentId\"",
    "\"kind\":\"SERVER\"",
    "\"name\"",
    "\"timestamp\"",
    "\"duration\"",
    "\"localEndpoint\":{",
    "\"remoteEndpoint\":{",
    "\"serviceName\"",
    "\"ipv4\":\"1.2.3.4\"",
    "\"port\"",
    "\"annotations\":[{",
    "\"value\"",
    "\"tags\":{",
    "\"error\"",
    "\"otel.status_code\":\"ERROR\"",
    "\"otlp.link.0\"",
    "\"binaryAnnotations\":[{",
    "\"key\":\"sa\"",
    "\"endpoint\":{",
    "\"value\":\"cs\"",
    "\"value\":\"sr\"",
    "\"n|{}|0\"",
    "\"\\\"n\\\": {\\\"k\\\":[1]}\"",
];

const GOOD: [(&[u8], Spelling); 4] = [
    (
        br#"[{"traceId":"1","id":"2","kind":"CLIENT","name":"n","timestamp":1,"duration":2,"localEndpoint":{"serviceName":"a","ipv4":"1.2.3.4","port":5},
        "annotations":[{"timestamp":1,"value":"\"n\": {\"k\":[1]}"}],"tags":{"k":"v","error":"x","otlp.link.0":"y"},"shared":true}]"#,
        Spelling::JsonV2,
    ),
    (
        br#"[{"traceId":"1","id":"2","annotations":[{"timestamp":1,"value":"cs","endpoint":{"serviceName":"a"}},
        {"timestamp":2,"value":"sr","endpoint":{"serviceName":"b"}}],"binaryAnnotations":[{"key":"sa","value":true,"endpoint":{"serviceName":"b"}}]}]"#,
        Spelling::JsonV1,
    ),
    (
        b"\x0a\x34\x0a\x08\x01\x02\x03\x04\x05\x06\x07\x08\x1a\x01\x02\x20\x01\x2a\x01n\x31\x01\0\0\0\0\0\0\0\x42\x09\x0a\x01a\x12\x04\x01\x02\x03\x04\x5a\x06\x0a\x01k\x12\x01v",
        Spelling::Proto3,
    ),
    (
        b"\x0c\0\0\0\x01\x0a\0\x01\0\0\0\0\0\0\0\x01\x0a\0\x04\0\0\0\0\0\0\0\x02\x0b\0\x03\0\0\0\x01n\x0f\0\x06\x0c\0\0\0\x01\x0a\0\x01\0\0\0\0\0\0\0\x05\x0b\0\x02\0\0\0\x02cs\x0c\0\x03\x08\0\x01\x01\x02\x03\x04\0\0\0",
        Spelling::Thrift,
    ),
];

/// Scenario: a second of random bodies: good ones with bytes changed, cut or doubled, and pieces thrown
/// together.
/// Guarantees: no panic; what is accepted passes the check of the host's own doors, whole.
#[test]
fn random_bodies_do_no_harm() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let (mut accepted, mut refused) = (0, 0);
    let until = Instant::now() + Duration::from_secs(1);
    while Instant::now() < until {
        for _ in 0..200 {
            let (mut body, mut spelling) = {
                let (body, spelling) = GOOD[random.usize(..GOOD.len())];
                (body.to_vec(), spelling)
            };
            if random.u8(..4) == 0 {
                body = b"[{".to_vec();
                (0..random.usize(..40))
                    .for_each(|_| body.extend_from_slice(PIECES[random.usize(..PIECES.len())].as_bytes()));
                spelling = if random.bool() { Spelling::JsonV1 } else { Spelling::JsonV2 };
            }
            for _ in 0..random.usize(..4) {
                let at = random.usize(..body.len());
                match random.u8(..4) {
                    0 => body[at] = random.u8(..),
                    1 => body.truncate(at.max(1)),
                    2 => body.insert(at, random.u8(..)),
                    _ => drop(body.splice(at..at, PIECES[random.usize(..PIECES.len())].bytes())),
                }
            }
            match read(&body, spelling) {
                Err(_) => refused += 1,
                Ok(bodies) => {
                    accepted += 1;
                    for otlp in bodies {
                        let walked = walk(Signal::Traces, &otlp, &WalkLimits::default());
                        let walked =
                            walked.unwrap_or_else(|error| panic!("{error:?} for {}", body.escape_ascii()));
                        assert!(
                            walked.invalid.is_empty(),
                            "{:?} for {}",
                            walked.invalid,
                            body.escape_ascii()
                        );
                    }
                }
            }
        }
    }
    println!("{accepted} accepted, {refused} refused");
    assert!(accepted > 0 && refused > 0);
}
