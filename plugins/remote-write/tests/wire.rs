//! Both versions from outside: what is written is read, what is hostile is refused or costs little.

use std::time::{Duration, Instant};

use weir_exposition::Kind;
use weir_remote_write::{
    Buckets, Count, Exemplar, Fault, Histogram, Metadata, Request, Sample, Series, Span, Version, Writer,
};
use weir_wire::Encoder;

fn native() -> Histogram {
    Histogram {
        count: Count::Int(27),
        sum: 18.4,
        schema: 3,
        zero_threshold: 1e-128,
        zero_count: Count::Int(2),
        negative: Buckets::default(),
        positive: Buckets {
            spans: vec![Span { offset: -2, length: 2 }, Span { offset: 3, length: 3 }],
            deltas: vec![5, -2, 4, 1, -6],
            counts: Vec::new(),
        },
        reset_hint: 2,
        timestamp: 1_700_000_000_000,
        custom_values: Vec::new(),
        start: 0,
    }
}

fn all() -> Vec<Series<'static>> {
    let exemplar = Exemplar { labels: vec![("trace_id", "abc")], value: 0.25, timestamp: -5 };
    vec![
        Series {
            labels: vec![("A", "before"), ("__name__", "c_total"), ("job", "j")],
            samples: vec![
                Sample { value: 42.0, timestamp: 1_700_000_000_000, start: 0 },
                Sample { value: f64::INFINITY, timestamp: -1, start: 0 },
            ],
            exemplars: vec![exemplar.clone()],
            ..Series::default()
        },
        Series {
            labels: vec![("__name__", "h")],
            histograms: vec![
                native(),
                Histogram {
                    count: Count::Float(1.5),
                    zero_count: Count::Float(0.5),
                    schema: -53,
                    negative: Buckets {
                        spans: vec![Span { offset: 0, length: 1 }],
                        deltas: Vec::new(),
                        counts: vec![1.0],
                    },
                    custom_values: vec![-1.0, 1.0],
                    ..Histogram::default()
                },
            ],
            exemplars: vec![exemplar],
            ..Series::default()
        },
    ]
}

fn read(message: &[u8], version: Version) -> Result<Vec<Series<'_>>, Fault> {
    let mut series = Vec::new();
    Request::parse(message, version)?.each(|one| {
        series.push(one.clone());
        Ok(())
    })?;
    Ok(series)
}

fn faults(message: &[u8], version: Version) -> Vec<Option<&'static str>> {
    read(message, version).expect("a message").iter().map(|series| series.fault).collect()
}

/// Scenario: series with samples, native histograms of both flavours and exemplars in 1.0, with metadata.
/// Guarantees: what was written is read.
#[test]
fn version_1_is_read_as_it_was_written() {
    let mut writer = Writer::new(Version::V1);
    assert!(writer.is_empty());
    all().iter().for_each(|series| writer.series(series));
    let metadata = Metadata { family: "c", kind: Kind::Counter, help: "Things.", unit: "" };
    writer.metadata(&metadata);
    assert!(!writer.is_empty() && writer.len() > 100);
    let message = writer.into_message();
    assert_eq!(read(&message, Version::V1), Ok(all()));
    let request = Request::parse(&message, Version::V1).expect("a message");
    assert_eq!(request.metadata(), [metadata]);
    assert!(request.mentions("c_total") && !request.mentions("target_info"));
}

/// Scenario: the same in 2.0, with kinds, texts and start times.
/// Guarantees: what was written is read; a text that stands in several series is written once.
#[test]
fn version_2_is_read_as_it_was_written() {
    let mut series = all();
    for series in &mut series {
        (series.kind, series.help, series.unit) = (Kind::Histogram, "Seldom said.", "seconds");
        series.samples.iter_mut().for_each(|sample| sample.start = 5);
        series.histograms.iter_mut().for_each(|histogram| histogram.start = 6);
    }
    let mut writer = Writer::new(Version::V2);
    series.iter().for_each(|series| writer.series(series));
    let message = writer.into_message();
    assert_eq!(read(&message, Version::V2), Ok(series));
    let said = message.windows(12).filter(|window| *window == b"Seldom said.").count();
    assert_eq!(said, 1);
    let request = Request::parse(&message, Version::V2).expect("a message");
    assert!(request.mentions("c_total") && !request.mentions("target_info"));
}

/// Scenario: labels that are not sorted, empty, twice there, without a name, without `__name__`, not UTF-8, in 1.0.
/// Guarantees: the first two are put right; the others are a fault of their own series.
#[test]
fn a_bad_label_is_a_fault_of_its_series() {
    let series = |labels: &[(&[u8], &[u8])]| {
        let mut out = Encoder::new();
        out.message(1, |out| {
            for (name, value) in labels {
                out.message(1, |out| {
                    out.bytes(1, name);
                    out.bytes(2, value);
                });
            }
        });
        out.into_bytes()
    };
    let good = series(&[(b"z", b"1"), (b"__name__", b"m"), (b"a", b"")]);
    assert_eq!(read(&good, Version::V1).expect("a message")[0].labels, [("__name__", "m"), ("z", "1")]);
    let bad = [
        series(&[(b"__name__", b"m"), (b"a", b"1"), (b"a", b"2")]),
        series(&[(b"__name__", b"m"), (b"", b"1")]),
        series(&[(b"a", b"1")]),
        series(&[(b"__name__", b"")]),
        series(&[(b"__name__", b"m"), (b"a", b"\xff")]),
        good,
    ]
    .concat();
    assert_eq!(
        faults(&bad, Version::V1),
        [
            Some("a label name is not unique"),
            Some("a label has no name"),
            Some("a series has no __name__"),
            Some("a series has no __name__"),
            Some("a label is not UTF-8"),
            None
        ]
    );
}

/// Scenario: 2.0 with references beyond the symbols, of 64 bits, without a partner, to a symbol that is no UTF-8; to a help that is
/// not there; then symbols that begin with a text.
/// Guarantees: a fault of its own series; the last refuses the request.
#[test]
fn a_bad_reference_is_a_fault_of_its_series() {
    let mut out = Encoder::new();
    for symbol in [&b""[..], b"__name__", b"m", b"\xff"] {
        out.bytes(4, symbol);
    }
    let symbols = out.len();
    for refs in [&[1, 2, 1, 4][..], &[1, u64::MAX], &[1, 2, 1], &[1, 2, 0, 3], &[1, 2]] {
        out.message(5, |out| out.packed_varint(1, refs.iter().copied()));
    }
    out.message(5, |out| {
        // References need not be packed.
        out.varint(1, 1);
        out.varint(1, 2);
        out.message(5, |out| out.varint(3, 9));
    });
    let message = out.into_bytes();
    assert_eq!(
        faults(&message, Version::V2),
        [
            Some("a reference leads to no symbol"),
            Some("a reference leads to no symbol"),
            Some("the last of the label references has no partner"),
            Some("a label is not UTF-8"),
            None,
            Some("a reference leads to no symbol"),
        ]
    );
    assert_eq!(faults(&message[symbols..], Version::V2).len(), 6, "without symbols all lead nowhere");
    let fault = read(&message[2..], Version::V2).expect_err("no empty symbol");
    assert_eq!((fault.status, &*fault.text), (400, "the first of the symbols must be the empty text"));
}

/// Scenario: a series with more labels than are held; of more samples; with packed buckets beyond it; more symbols; more metadata.
/// Guarantees: 413, before they are held.
#[test]
fn floods_are_refused() {
    let many = |count: usize, field: u32| {
        let mut out = Encoder::new();
        (0..count).for_each(|_| out.bytes(field, b""));
        out.into_bytes()
    };
    let series = |content: Vec<u8>| {
        let mut out = Encoder::new();
        out.bytes(1, content);
        out.into_bytes()
    };
    let mut buckets = Encoder::new();
    buckets.message(4, |out| out.bytes(9, vec![0; 1 << 19]));
    for (message, version) in [
        (series(many(1 << 19, 1)), Version::V1),
        (series(many(1 << 19, 2)), Version::V1),
        (series(buckets.into_bytes()), Version::V1),
        (many((1 << 20) + 1, 4), Version::V2),
        (many((1 << 16) + 1, 3), Version::V1),
    ] {
        assert_eq!(read(&message, version).expect_err("too many").status, 413);
    }
    let mut huge = Encoder::new();
    huge.message(1, |out| {
        out.message(1, |out| {
            out.string(1, "__name__");
            out.string(2, "m");
        });
        out.message(4, |out| out.message(11, |out| out.varint(2, u64::from(u32::MAX))));
    });
    let huge = huge.into_bytes();
    let read = read(&huge, Version::V1).expect("a claim costs nothing");
    assert_eq!(read[0].histograms[0].positive.spans, [Span { offset: 0, length: u32::MAX }]);
}

/// Scenario: a second of good messages with bytes changed, cut or doubled.
/// Guarantees: no panic; what is read can be written and is read again as it was.
#[test]
fn random_messages_do_no_harm() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let good = [Version::V1, Version::V2].map(|version| {
        let mut writer = Writer::new(version);
        all().iter().for_each(|series| writer.series(series));
        (version, writer.into_message())
    });
    let (mut accepted, mut refused) = (0, 0);
    let until = Instant::now() + Duration::from_secs(1);
    while Instant::now() < until {
        let (version, message) = &good[random.usize(..2)];
        let mut message = message.clone();
        for _ in 0..random.usize(..4) {
            let at = random.usize(..message.len());
            match random.u8(..4) {
                0 => message.truncate(at.max(1)),
                1 => message.insert(at, random.u8(..)),
                2 => message.extend_from_within(at..),
                _ => message[at] = random.u8(..),
            }
        }
        let Ok(series) = read(&message, *version) else {
            refused += 1;
            continue;
        };
        accepted += 1;
        let mut writer = Writer::new(*version);
        series.iter().for_each(|series| writer.series(series));
        let again = writer.into_message();
        let again = read(&again, *version).expect("what we write can be read");
        // A NaN is not itself; its text is.
        let text = |series: &[Series<'_>]| {
            let labels = |series: &Series<'_>| {
                format!("{:?} {:?} {:?}", series.labels, series.samples, series.histograms)
            };
            series.iter().map(labels).collect::<Vec<_>>()
        };
        assert_eq!(text(&again), text(&series), "seed {seed}");
    }
    println!("{accepted} accepted, {refused} refused");
    assert!(accepted > 100 && refused > 100);
}
