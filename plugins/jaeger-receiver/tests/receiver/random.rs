//! Bytes that nobody would send.

use std::time::{Duration, Instant};

use jaeger_receiver::{Spelling, read};
use serde_json::json;
use weir_guest::wire::Signal;
use weir_guest::wire::walk::{WalkLimits, walk};
use weir_thrift::Protocol;

use crate::encode;

/// Scenario: a second of random bodies in every spelling: a good one with bytes changed, cut or doubled, and plain noise.
/// Guarantees: no panic; what is accepted passes the check of the host's own doors, whole.
#[test]
fn random_bodies_do_no_harm() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let thrift = json!({"process": {"serviceName": "shop", "tags": [{"key": "hostname", "vType": "STRING", "vStr": "h"}]},
        "spans": [{"traceIdLow": 1, "spanId": 2, "parentSpanId": 3, "operationName": "n", "flags": 3, "startTime": 5, "duration": 6,
            "references": [{"refType": "FOLLOWS_FROM", "traceIdLow": 1, "spanId": 4}],
            "tags": [{"key": "error", "vType": "BOOL", "vBool": true}, {"key": "b", "vType": "BINARY", "vBinary": [1]}],
            "logs": [{"timestamp": 7, "fields": [{"key": "event", "vType": "STRING", "vStr": "e"}]}]}]});
    let id = [0, 0, 0, 0, 0, 0, 0, 1];
    let protobuf = json!({"process": {"service_name": "shop"}, "spans": [{"trace_id": id, "span_id": id, "operation_name": "n",
        "start_time": "2017-01-26T21:46:31.639875Z", "duration": 5, "tags": [{"key": "k", "v_type": 3, "v_float64": 0.5}],
        "logs": [{"timestamp": "2017-01-26T21:46:31Z", "fields": [{"key": "message", "v_str": "m"}]}]}]});
    let good = [
        (encode::batch(&thrift), Spelling::Batch),
        (encode::message(&thrift, Protocol::Binary), Spelling::Binary),
        (encode::message(&thrift, Protocol::Compact), Spelling::Compact),
        (encode::request(&protobuf), Spelling::Protobuf),
    ];
    for (body, spelling) in &good {
        assert_eq!(read(body, *spelling).map(|(bodies, rejected)| (bodies.len(), rejected)), Ok((1, 0)));
    }
    let (mut accepted, mut refused) = (0, 0);
    let until = Instant::now() + Duration::from_secs(1);
    while Instant::now() < until {
        for _ in 0..200 {
            let (body, spelling) = &good[random.usize(..good.len())];
            let mut body = body.clone();
            for _ in 0..random.usize(..6) {
                let at = random.usize(..body.len());
                match random.u8(..5) {
                    0 => body.truncate(at.max(1)),
                    1 => body.insert(at, random.u8(..)),
                    2 => body.extend_from_within(at..),
                    3 => body[at] = [0, 1, 0x7f, 0x80, 0xff, 11, 12, 15][random.usize(..8)],
                    _ => body[at] = random.u8(..),
                }
            }
            match read(&body, *spelling) {
                Ok((bodies, _)) => {
                    accepted += 1;
                    for body in bodies {
                        let walked = walk(Signal::Traces, &body, &WalkLimits::default());
                        assert_eq!(walked.expect("well-formed").invalid, [], "seed {seed}");
                    }
                }
                Err(_) => refused += 1,
            }
        }
    }
    println!("{accepted} accepted, {refused} refused");
    assert!(accepted > 100 && refused > 100);
}
