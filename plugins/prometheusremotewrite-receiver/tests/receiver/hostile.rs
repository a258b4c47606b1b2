//! Bytes that nobody would send.

use std::time::{Duration, Instant};

use prometheusremotewrite_receiver::read;
use weir_exposition::Kind;
use weir_guest::wire::walk::{WalkLimits, walk};
use weir_guest::wire::{Encoder, Signal};
use weir_remote_write::{Exemplar, Series, Version, Writer};

use crate::mapping::{TIME, native, series};

/// Scenario: a symbol of a megabyte that a thousand series refer to; a series of a megabyte with a thousand samples; one with a help of
/// a megabyte a thousand times; spans of 2^32 buckets, each with no bucket; a native histogram as wide as indexes go.
/// Guarantees: what would be gigabytes as OTLP is refused before; what only claims to be large costs nothing.
#[test]
fn little_that_would_become_much_is_refused() {
    let long = "x".repeat(1 << 20);
    let labels = [("__name__", "m"), ("long", &*long)];
    let many: Vec<_> = (0..1_000).map(|_| series(Kind::Gauge, &labels, &[1.0])).collect();
    let values = vec![1.0; 1_000];
    let one = [series(Kind::Gauge, &labels, &values)];
    let helped: Vec<_> = (0..1_000)
        .map(|_| Series { help: &long, ..series(Kind::Gauge, &[("__name__", "m")], &[1.0]) })
        .collect();
    for (all, version) in
        [(&many[..], Version::V2), (&one, Version::V1), (&one, Version::V2), (&helped, Version::V2)]
    {
        let mut writer = Writer::new(version);
        all.iter().for_each(|series| writer.series(series));
        let fault = read(&writer.into_message(), version).expect_err("too large");
        assert_eq!(fault.status, 413, "{fault}");
    }
    let mut wide = native(1);
    wide.positive.spans[0].offset = i32::MIN;
    wide.positive.spans[1].offset = i32::MAX;
    let mut claims = native(1);
    claims.positive.spans.iter_mut().for_each(|span| span.length = u32::MAX);
    let labels = vec![("__name__", "m")];
    let histograms = vec![wide, claims];
    let mut writer = Writer::new(Version::V2);
    writer.series(&Series { labels, histograms, kind: Kind::Histogram, ..Series::default() });
    let read = read(&writer.into_message(), Version::V2).expect("a message");
    assert_eq!((read.rejected, read.batches.len()), (2, 0));
}

/// Scenario: half a million empty series; half a million empty samples in one.
/// Guarantees: the first are counted, the second are refused; neither is held.
#[test]
fn floods_of_nothing_are_counted_or_refused() {
    let mut out = Encoder::new();
    (0..500_000).for_each(|_| out.message(1, |out| out.bytes(2, b"")));
    let series = read(out.as_bytes(), Version::V1).expect("a message");
    assert_eq!((series.rejected, series.batches.len()), (500_000, 0));
    let mut out = Encoder::new();
    let one = out.open(1);
    (0..500_000).for_each(|_| out.bytes(2, b""));
    out.close(one);
    assert_eq!(read(out.as_bytes(), Version::V1).expect_err("too many").status, 413);
}

/// Scenario: forty-five thousand buckets of one histogram at one time, and then the same series again, each with only an exemplar.
/// Guarantees: each exemplar finds its part, without a look at all parts for each.
#[test]
fn exemplars_apart_find_their_parts_at_once() {
    let bounds: Vec<String> = (0..45_000).map(|bound| bound.to_string()).collect();
    let labels = |bound| [("__name__", "h_bucket"), ("le", bound)];
    let started = Instant::now();
    let mut writer = Writer::new(Version::V2);
    for bound in &bounds {
        writer.series(&series(Kind::Histogram, &labels(bound), &[1.0]));
    }
    for bound in &bounds {
        let exemplars = vec![Exemplar { labels: Vec::new(), value: 1.0, timestamp: TIME }];
        writer.series(&Series { exemplars, ..series(Kind::Histogram, &labels(bound), &[]) });
    }
    let read = read(&writer.into_message(), Version::V2).expect("a message");
    assert_eq!((read.written.samples, read.written.exemplars, read.lost_exemplars), (45_000, 45_000, 0));
    let took = started.elapsed();
    assert!(took < Duration::from_secs(15), "{took:?}");
}

/// Scenario: a second of good messages with bytes changed, cut or doubled.
/// Guarantees: no panic; what is accepted passes the check of the host's own doors, whole.
#[test]
fn random_messages_do_no_harm() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let good = [Version::V1, Version::V2].map(|version| {
        let mut writer = Writer::new(version);
        for (name, le, kind) in [
            ("h_bucket", "+Inf", Kind::Histogram),
            ("h_count", "", Kind::Histogram),
            ("h_sum", "", Kind::Histogram),
            ("c_total", "x", Kind::Counter),
            ("target_info", "x", Kind::Info),
        ] {
            let labels = [("__name__", name), ("job", "j"), ("le", le)];
            let mut series = series(kind, &labels[..if le.is_empty() { 2 } else { 3 }], &[1.0]);
            series.exemplars =
                vec![Exemplar { labels: vec![("trace_id", "ab")], value: 1.0, timestamp: TIME }];
            writer.series(&series);
        }
        let histograms = vec![native(2), native(-53)];
        writer.series(&Series { labels: vec![("__name__", "n")], histograms, ..Series::default() });
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
        match read(&message, *version) {
            Ok(read) => {
                accepted += 1;
                for batch in &read.batches {
                    let walked = walk(Signal::Metrics, batch, &WalkLimits::default());
                    assert_eq!(walked.expect("well-formed").invalid, [], "seed {seed}");
                }
            }
            Err(_) => refused += 1,
        }
    }
    println!("{accepted} accepted, {refused} refused");
    assert!(accepted > 100 && refused > 100);
}
