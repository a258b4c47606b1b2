//! The protobuf exposition.

use weir_exposition::Kind;
use weir_guest::wire::Encoder;
use weir_guest::wire::Signal;
use weir_guest::wire::walk::{WalkLimits, walk};
use weir_prometheus::family::{Family, Value};
use weir_prometheus::protobuf::{Fault, Wanted, read};
use weir_prometheus::{Format, to_otlp};

use crate::{TIME, text};

const NATIVE: Wanted = Wanted { native: true, classic_too: false };

/// A family behind its length.
fn family(name: &str, kind: u64, write: impl FnOnce(&mut Encoder)) -> Vec<u8> {
    let mut family = Encoder::new();
    family.string(1, name);
    family.varint(3, kind);
    family.message(4, write);
    let mut out = Encoder::new();
    out.raw_varint(family.len() as u64);
    out.raw(family.as_bytes());
    out.into_bytes()
}

fn span(out: &mut Encoder, field: u32, offset: i64, length: u64) {
    out.message(field, |out| {
        out.sint(1, offset);
        out.varint(2, length);
    });
}

/// A histogram with classic buckets and native ones.
fn both() -> Vec<u8> {
    family("h", 4, |metric| {
        metric.message(7, |out| {
            out.varint(1, 3);
            out.double(2, 4.5);
            for (count, bound) in [(1, 0.5), (3, 2.0)] {
                out.message(3, |out| {
                    out.varint(1, count);
                    out.double(2, bound);
                });
            }
            out.sint(5, 0);
            out.double(6, 0.25);
            span(out, 12, -1, 2);
            span(out, 12, 1, 1);
            out.sint(13, 1);
            out.sint(13, 0);
            out.sint(13, 0);
        });
    })
}

fn families(body: &[u8], wanted: Wanted) -> Result<Vec<Family>, Fault> {
    let mut families = Vec::new();
    read(body, wanted, |family| families.push(family))?;
    Ok(families)
}

fn lines(body: &[u8]) -> Vec<String> {
    let (body, _) = to_otlp(body, Format::Protobuf, &[], TIME).expect("a good body");
    text::of(body.as_deref()).lines().skip(2).map(|line| line.trim_start().to_owned()).collect()
}

/// Scenario: a counter with a label, an exemplar and its start; a summary; a gauge with a time.
/// Guarantees: the same metrics as of a text.
#[test]
fn families_are_read_from_their_messages() {
    let counter = family("c_total", 0, |metric| {
        metric.message(1, |label| {
            label.string(1, "a");
            label.string(2, "1");
        });
        metric.message(3, |out| {
            out.double(1, 5.0);
            out.message(2, |exemplar| {
                exemplar.double(2, 0.5);
                exemplar.message(3, |time| time.varint(1, 9));
            });
            out.message(3, |time| {
                time.varint(1, 2);
                time.varint(2, 5);
            });
        });
    });
    let summary = family("s", 2, |metric| {
        metric.message(4, |out| {
            out.varint(1, 2);
            out.double(2, 3.5);
            out.message(3, |out| {
                out.double(1, 0.5);
                out.double(2, 1.0);
            });
        });
    });
    let gauge = family("g", 1, |metric| {
        metric.message(2, |out| out.double(1, 1.0));
        metric.int(6, 1_500);
    });
    assert_eq!(
        lines(&[counter, summary, gauge].concat()),
        [
            "sum cumulative monotonic \"c_total\" type counter",
            "{a=\"1\"} time 7 start 2000000005 value 5.0",
            "exemplar time 9000000000 value 0.5",
            "summary \"s\" type summary",
            "{} time 7 count 2 sum 3.5 quantiles [0.5 = 1.0]",
            "gauge \"g\" type gauge",
            "{} time 1500000000 value 1.0",
        ]
    );
}

/// Scenario: a histogram that is classic and native, read as either and as both.
/// Guarantees: what is wanted, and nothing else.
#[test]
fn a_histogram_is_read_as_what_is_wanted() {
    assert_eq!(
        lines(&both()),
        [
            "exponential cumulative \"h\" type histogram",
            "{} time 7 count 3 sum 4.5 scale 0 zero 0 below 0.25 positive -2 [1, 1, 0, 1]",
        ]
    );
    let classic = families(&both(), Wanted::default()).expect("a good body");
    let [point] = &classic[0].points[..] else { panic!("{classic:?}") };
    let Value::Histogram(histogram) = &point.value else { panic!("{point:?}") };
    assert_eq!(histogram.buckets, [(0.5, 1.0), (2.0, 3.0)]);
    assert_eq!((histogram.count, histogram.sum), (Some(3.0), Some(4.5)));
    let two = families(&both(), Wanted { native: true, classic_too: true }).expect("a good body");
    assert_eq!(two[0].points.len(), 2);
    assert_eq!(two[0].kind, Kind::Histogram);
}

/// Scenario: native histograms that OTLP cannot have (of floats, of schema 9, of custom buckets, with buckets far from each other), each
/// with classic buckets and without; one whose sum is 0 and not written.
/// Guarantees: they are their classic buckets; without any, custom buckets are count and sum, the others are dropped and counted; the
/// sum that is not written is 0.
#[test]
fn what_otlp_cannot_have_as_native_is_classic() {
    let body = |schema: i64, far: i64, count_float: f64, has_classic: bool| {
        family("h", 4, |metric| {
            metric.message(7, |out| {
                out.varint(1, 3);
                if count_float > 0.0 {
                    out.double(4, count_float);
                }
                if has_classic {
                    out.message(3, |out| {
                        out.varint(1, 1);
                        out.double(2, 0.5);
                    });
                }
                out.sint(5, schema);
                span(out, 12, 0, 1);
                span(out, 12, far, 1);
                out.packed_varint(13, [2, 2]);
            });
        })
    };
    for (schema, far, count_float, reason) in [
        (0, 20_000, 0.0, Some("a native histogram with too many buckets from the first to the last")),
        (9, 1, 0.0, Some("a native histogram of an unknown schema")),
        (0, 1, 3.0, Some("a native histogram of floats, which OTLP has not")),
        (-53, 1, 0.0, None),
    ] {
        // Beyond schema 4 there is no room for such a gap among finite values.
        let schema = if far > 1 { 8 } else { schema };
        let classic = "{} time 7 count 3 sum 0.0 buckets [1, 2] bounds [0.5]".to_owned();
        assert_eq!(lines(&body(schema, far, count_float, true))[1..], [classic]);
        let (alone, dropped) = to_otlp(&body(schema, far, count_float, false), Format::Protobuf, &[], TIME)
            .expect("a good body");
        match reason {
            Some(reason) => assert_eq!((alone, dropped), (None, vec![(reason, 1)])),
            None => assert_eq!(
                lines(&body(schema, far, count_float, false))[1..],
                ["{} time 7 count 3 sum 0.0 buckets [3] bounds []"]
            ),
        }
    }
}

/// Scenario: spans that claim four thousand million buckets, that overlap, that have fewer deltas; deltas below nothing; a length
/// beyond the body; a name that is not UTF-8; a label twice; a type that is none; no name.
/// Guarantees: the body is refused with the family's number, and a claim costs nothing.
#[test]
fn what_is_claimed_is_not_believed() {
    let histogram = |write: fn(&mut Encoder)| family("h", 4, |metric| metric.message(7, write));
    let bad: [(Vec<u8>, &str); 9] = [
        (
            histogram(|out| {
                span(out, 12, 0, u64::from(u32::MAX));
                out.sint(13, 1);
            }),
            "a span over more buckets than there are",
        ),
        (
            histogram(|out| {
                span(out, 12, 0, 1);
                span(out, 12, -1, 1);
                out.packed_varint(13, [2, 0]);
            }),
            "a span before the one before it",
        ),
        (
            histogram(|out| {
                span(out, 12, 0, 1);
                out.packed_varint(13, [2, 0]);
            }),
            "more buckets than the spans are over",
        ),
        (
            histogram(|out| {
                span(out, 9, 0, 1);
                out.sint(10, -1);
            }),
            "a bucket that counts less than nothing",
        ),
        (vec![200, 1, 0], "its length goes beyond the end of the body"),
        (
            {
                let mut out = Encoder::new();
                out.bytes(1, [0xff]);
                [vec![3], out.into_bytes()].concat()
            },
            "a text that is not UTF-8",
        ),
        (
            family("c", 0, |metric| {
                for value in ["1", "2"] {
                    metric.message(1, |label| {
                        label.string(1, "a");
                        label.string(2, value);
                    });
                }
            }),
            "label name \"a\" is not unique",
        ),
        (family("c", 9, |_| {}), "unknown type 9"),
        (family("", 0, |_| {}), "a family without a name"),
    ];
    for (body, what) in bad {
        let body = [both(), body].concat();
        let fault = families(&body, NATIVE).expect_err(what);
        assert_eq!((fault.family, &*fault.what), (2, what));
    }
}

/// Scenario: a second of good bodies with bytes changed, cut and doubled.
/// Guarantees: no panic; what is accepted passes the check of the host's own doors.
#[test]
fn random_messages_do_no_harm() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let good = [both(), family("c", 0, |metric| metric.message(3, |out| out.double(1, 5.0)))].concat();
    let until = std::time::Instant::now() + std::time::Duration::from_secs(1);
    let (mut accepted, mut refused) = (0, 0);
    while std::time::Instant::now() < until {
        let mut body = good.clone();
        for _ in 0..random.usize(..4) {
            let at = random.usize(..body.len());
            match random.u8(..5) {
                0 => body.truncate(at.max(1)),
                1 => body.insert(at, random.u8(..)),
                2 => body.extend_from_within(at..),
                3 => body[at] = [0, 1, 0x7f, 0x80, 0xff][random.usize(..5)],
                _ => body[at] = random.u8(..),
            }
        }
        match to_otlp(&body, Format::Protobuf, &[], TIME) {
            Ok((Some(body), _)) => {
                accepted += 1;
                let walked = walk(Signal::Metrics, &body, &WalkLimits::default());
                assert_eq!(walked.expect("well-formed").invalid, [], "seed {seed}");
            }
            Ok((None, _)) => accepted += 1,
            Err(_) => refused += 1,
        }
    }
    println!("{accepted} accepted, {refused} refused");
    assert!(accepted > 100 && refused > 100);
}
