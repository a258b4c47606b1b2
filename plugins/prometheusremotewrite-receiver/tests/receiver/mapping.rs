//! Series and the points that they become.

use prometheusremotewrite_receiver::{Read, Written, read};
use weir_exposition::Kind;
use weir_remote_write::series::STALE_NAN;
use weir_remote_write::{
    Buckets, Count, Exemplar, Histogram, Metadata, Sample, Series, Span, Version, Writer,
};

use crate::text;

pub(crate) const TIME: i64 = 1_700_000_000_000;

pub(crate) fn sample(value: f64) -> Sample {
    Sample { value, timestamp: TIME, start: 0 }
}

pub(crate) fn series<'a>(kind: Kind, labels: &[(&'a str, &'a str)], values: &[f64]) -> Series<'a> {
    let samples = values.iter().map(|value| sample(*value)).collect();
    Series { labels: labels.to_vec(), samples, kind, ..Series::default() }
}

pub(crate) fn read_all(series: &[Series<'_>], version: Version) -> Read {
    let mut writer = Writer::new(version);
    series.iter().for_each(|series| writer.series(series));
    read(&writer.into_message(), version).expect("a good request")
}

fn lines(series: &[Series<'_>]) -> Vec<String> {
    let read = read_all(series, Version::V2);
    assert_eq!(read.rejected, 0, "{:?}", read.reasons);
    text::of(&read.batches)
}

/// Scenario: a counter, a gauge, an info, a state set, a series of nobody knows what, in 2.0 with help and unit.
/// Guarantees: each is what its kind says, under its own name, with job and instance in the resource and its start time.
#[test]
fn each_kind_has_its_metric() {
    let mut counter =
        series(Kind::Counter, &[("__name__", "c_seconds_total"), ("instance", "i"), ("job", "j")], &[1.0]);
    (counter.help, counter.unit) = ("Help.", "seconds");
    counter.samples[0].start = TIME - 5;
    let all = [
        counter,
        series(Kind::Gauge, &[("__name__", "g"), ("a", "1")], &[-0.5]),
        series(Kind::Info, &[("__name__", "build_info"), ("v", "1")], &[1.0]),
        series(Kind::StateSet, &[("__name__", "s"), ("s", "on")], &[1.0]),
        series(Kind::Unknown, &[("__name__", "u_total")], &[f64::INFINITY]),
        series(Kind::Counter, &[("__name__", "c_created")], &[1.0]),
        series(Kind::GaugeHistogram, &[("__name__", "gh_bucket"), ("le", "1")], &[1.0]),
    ];
    assert_eq!(
        lines(&all),
        [
            "{service.name=j,service.instance.id=i} counter c_seconds_total \"Help.\" \"s\" {} 1699999999995000000..1700000000000000000 1.0",
            "{} gauge c_created \"\" \"\" {} 0..1700000000000000000 1.0",
            "{} gauge g \"\" \"\" {a=1} 0..1700000000000000000 -0.5",
            "{} gauge gh_bucket \"\" \"\" {le=1} 0..1700000000000000000 1.0",
            "{} gauge u_total \"\" \"\" {} 0..1700000000000000000 inf",
            "{} sum build_info \"\" \"\" {v=1} 0..1700000000000000000 1.0",
            "{} sum s \"\" \"\" {s=on} 0..1700000000000000000 1.0",
        ]
        .map(str::to_owned)
        .into_iter()
        .collect::<std::collections::BTreeSet<_>>()
        .into_iter()
        .collect::<Vec<_>>()
    );
}

/// Scenario: target_info beside series of its target and of another one; labels of a scope.
/// Guarantees: the resource of the first has its labels, wherever it stands in the request; the scope has its own.
#[test]
fn target_info_and_scopes_find_their_places() {
    let of = |name, instance, more: &[(&'static str, &'static str)]| {
        let mut labels = vec![("__name__", name), ("instance", instance), ("job", "j")];
        labels.extend_from_slice(more);
        labels.sort_unstable();
        series(Kind::Gauge, &labels, &[1.0])
    };
    let scope = [("otel_scope_name", "lib"), ("otel_scope_version", "2"), ("otel_scope_x", "y")];
    let all = [of("a", "1", &[]), of("b", "2", &scope), of("target_info", "1", &[("host", "h")])];
    assert_eq!(
        lines(&all),
        [
            "{service.name=j,service.instance.id=1,host=h} gauge a \"\" \"\" {} 0..1700000000000000000 1.0",
            "{service.name=j,service.instance.id=2} [lib 2{x=y}] gauge b \"\" \"\" {} 0..1700000000000000000 1.0",
        ]
    );
    let read = read_all(&all, Version::V1);
    assert_eq!(read.written, Written { samples: 3, ..Written::default() });
}

fn histogram<'a>(suffixes: &[(&'a str, &'a str, f64)]) -> Vec<Series<'a>> {
    let series = suffixes.iter().map(|(name, le, value)| {
        let labels = [("__name__", *name), ("job", "j"), ("le", *le)];
        let labels = &labels[..if le.is_empty() { 2 } else { 3 }];
        series(Kind::Histogram, labels, &[*value])
    });
    series.collect()
}

/// Scenario: a classic histogram whole and out of order, with an exemplar at a bucket; a summary; both gone.
/// Guarantees: one point each; gone as a whole.
#[test]
fn a_whole_histogram_is_one_point() {
    let mut all = histogram(&[
        ("h_bucket", "+Inf", 5.0),
        ("h_count", "", 5.0),
        ("h_bucket", "2.5", 3.0),
        ("h_bucket", "1", 1.0),
        ("h_sum", "", 7.5),
    ]);
    all[2].exemplars = vec![Exemplar {
        labels: vec![
            ("trace_id", "0af7651916cd43dd8448eb211c80319c"),
            ("span_id", "00f067aa0ba902b7"),
            ("k", "v"),
        ],
        value: 2.0,
        timestamp: TIME - 1,
    }];
    let stale = f64::from_bits(STALE_NAN);
    all.extend(histogram(&[
        ("gone_bucket", "+Inf", stale),
        ("gone_count", "", stale),
        ("gone_sum", "", stale),
    ]));
    for (name, quantile, value) in
        [("s", "0.5", 1.0), ("s_sum", "", 3.0), ("s", "0.9", 2.0), ("s_count", "", 2.0)]
    {
        let labels = [("__name__", name), ("quantile", quantile)];
        all.push(series(Kind::Summary, &labels[..if quantile.is_empty() { 1 } else { 2 }], &[value]));
    }
    assert_eq!(
        lines(&all),
        [
            "{service.name=j} histogram gone \"\" \"\" {} 0..1700000000000000000 gone 0/None [] []",
            "{service.name=j} histogram h \"\" \"\" {} 0..1700000000000000000 5/Some(7.5) [1, 2, 2] [1.0, 2.5] \
             #2.0@1699999999999000000/0af7651916cd43dd8448eb211c80319c/00f067aa0ba902b7{k=v}",
            "{} summary s \"\" \"\" {} 0..1700000000000000000 2/3.0 [(0.5, 1.0), (0.9, 2.0)]",
        ]
        .map(str::to_owned)
        .into_iter()
        .collect::<std::collections::BTreeSet<_>>()
        .into_iter()
        .collect::<Vec<_>>()
    );
    let read = read_all(&all, Version::V2);
    assert_eq!(read.written, Written { samples: 12, histograms: 0, exemplars: 1 });
}

/// Scenario: histograms without a sum, without +Inf, at two times, with buckets that fall, with half a count, with another count than
/// the last bucket's, with a bound twice, half gone.
/// Guarantees: none is a histogram, and no sample is lost.
#[test]
fn half_a_histogram_stays_numbers() {
    let stale = f64::from_bits(STALE_NAN);
    let halves: [&[(&str, &str, f64)]; 7] = [
        &[("h_bucket", "+Inf", 1.0), ("h_count", "", 1.0)],
        &[("h_bucket", "1", 1.0), ("h_count", "", 1.0), ("h_sum", "", 1.0)],
        &[("h_bucket", "1", 2.0), ("h_bucket", "+Inf", 1.0), ("h_count", "", 1.0), ("h_sum", "", 1.0)],
        &[("h_bucket", "+Inf", 1.5), ("h_count", "", 1.5), ("h_sum", "", 1.0)],
        &[("h_bucket", "+Inf", 1.0), ("h_count", "", 2.0), ("h_sum", "", 1.0)],
        &[
            ("h_bucket", "1", 1.0),
            ("h_bucket", "1.0", 1.0),
            ("h_bucket", "+Inf", 1.0),
            ("h_count", "", 1.0),
            ("h_sum", "", 1.0),
        ],
        &[("h_bucket", "+Inf", 1.0), ("h_count", "", stale), ("h_sum", "", 1.0)],
    ];
    for half in halves {
        let lines = lines(&histogram(half));
        assert_eq!(lines.len(), half.len(), "{half:?}");
        assert!(lines.iter().all(|line| line.starts_with("{service.name=j} gauge h_")), "{lines:?}");
    }
    let mut late = histogram(&[("h_bucket", "+Inf", 1.0), ("h_count", "", 1.0), ("h_sum", "", 1.0)]);
    late[2].samples[0].timestamp += 1;
    let lines = lines(&late);
    assert!(lines.len() == 3 && lines[0].contains(" gauge h_bucket \"\" \"\" {le=+Inf} "), "{lines:?}");
}

pub(crate) fn native(schema: i32) -> Histogram {
    Histogram {
        count: Count::Int(6),
        sum: 3.0,
        schema,
        zero_threshold: 1e-128,
        zero_count: Count::Int(1),
        positive: Buckets {
            spans: vec![Span { offset: -1, length: 2 }, Span { offset: 1, length: 1 }],
            deltas: vec![2, -1, 1],
            counts: Vec::new(),
        },
        timestamp: TIME,
        start: TIME - 1_000,
        ..Histogram::default()
    }
}

/// Scenario: a native histogram with an exemplar that came apart; one with bounds of its own; one that is gone.
/// Guarantees: an exponential histogram with OTLP's offset and the empty bucket between; a histogram; a marker.
#[test]
fn a_native_histogram_is_exponential() {
    let of = |name, histogram| {
        let labels = vec![("__name__", name), ("job", "j")];
        Series { labels, histograms: vec![histogram], kind: Kind::Histogram, ..Series::default() }
    };
    let custom = Histogram {
        count: Count::Int(3),
        zero_count: Count::Int(0),
        zero_threshold: 0.0,
        positive: Buckets {
            spans: vec![Span { offset: 1, length: 2 }],
            deltas: vec![1, 1],
            counts: Vec::new(),
        },
        custom_values: vec![0.5, 1.0],
        start: 0,
        ..native(-53)
    };
    let gone = Histogram { sum: f64::from_bits(STALE_NAN), timestamp: TIME, ..Histogram::default() };
    let mut apart = of("n", native(2));
    apart.histograms.clear();
    apart.exemplars = vec![Exemplar { labels: vec![("k", "v")], value: 1.0, timestamp: TIME }];
    let all = [of("n", native(2)), of("custom", custom), of("gone", gone), apart];
    assert_eq!(
        lines(&all),
        [
            "{service.name=j} exponential gone \"\" \"\" {} 0..1700000000000000000 gone 0/None 2^0 0<=0.0 +(0, []) -(0, [])",
            "{service.name=j} exponential n \"\" \"\" {} 1699999999000000000..1700000000000000000 6/Some(3.0) 2^2 1<=1e-128 \
             +(-2, [2, 1, 0, 2]) -(0, []) #1.0@1700000000000000000//{k=v}",
            "{service.name=j} histogram custom \"\" \"\" {} 0..1700000000000000000 3/Some(3.0) [0, 1, 2] [0.5, 1.0]",
        ]
    );
    let written = read_all(&all, Version::V2).written;
    assert_eq!(written, Written { samples: 0, histograms: 3, exemplars: 1 });
}

/// Scenario: one good sample between series that cannot be taken, each for another reason.
/// Guarantees: the good one is taken; the others are counted, each under its reason.
#[test]
fn what_cannot_be_taken_is_counted_and_the_rest_is_taken() {
    let mut early = series(Kind::Gauge, &[("__name__", "m")], &[1.0]);
    early.samples[0].timestamp = -1;
    let of = |histogram| {
        let labels = vec![("__name__", "n")];
        Series { labels, histograms: vec![histogram], kind: Kind::Histogram, ..Series::default() }
    };
    let float = Histogram { count: Count::Float(1.0), ..native(1) };
    let gauge = Histogram { reset_hint: 3, ..native(1) };
    let mut short = native(1);
    short.positive.deltas.pop();
    let mut wide = native(1);
    wide.positive.spans[0].offset = -(1 << 20);
    wide.positive.spans[1].offset = 1 << 19;
    let many: Vec<(String, String)> =
        (0..255).map(|number| (format!("l{number:03}"), "x".to_owned())).collect();
    let mut labels = vec![("__name__", "many")];
    labels.extend(many.iter().map(|(name, value)| (&**name, &**value)));
    let all = [
        series(Kind::Gauge, &[("job", "j")], &[1.0, 2.0]),
        early,
        of(float),
        of(gauge),
        of(short),
        of(wide),
        of(native(9)),
        series(Kind::Gauge, &labels, &[1.0]),
        series(Kind::Gauge, &[("__name__", "good")], &[1.0]),
    ];
    let read = read_all(&all, Version::V2);
    assert_eq!(read.written, Written { samples: 1, histograms: 0, exemplars: 0 });
    assert_eq!(read.rejected, 9, "{:?}", read.reasons);
    assert_eq!(read.reasons.len(), 8, "{:?}", read.reasons);
    assert_eq!(read.reasons["a series has no __name__"], 2);
    assert_eq!(text::of(&read.batches).len(), 1);
    let said = read.explain();
    assert!(said.starts_with("9 samples and histograms are not valid, 1 are taken: "), "{said}");
    assert!(said.contains("a series has no __name__ (2)"), "{said}");
}

/// Scenario: 1.0 with metadata of a counter and of a histogram in the same request; metadata alone.
/// Guarantees: they count for the series of their families; alone they are nothing.
#[test]
fn metadata_beside_samples_count_in_version_1() {
    let mut writer = Writer::new(Version::V1);
    for (name, le, value) in
        [("h_bucket", "+Inf", 1.0), ("h_count", "", 1.0), ("h_sum", "", 2.0), ("c_total", "", 3.0)]
    {
        let labels = [("__name__", name), ("le", le)];
        writer.series(&series(Kind::Unknown, &labels[..if le.is_empty() { 1 } else { 2 }], &[value]));
    }
    let metadata = |family, kind| Metadata { family, kind, help: "Help.", unit: "" };
    writer.metadata(&metadata("h", Kind::Histogram));
    writer.metadata(&metadata("c", Kind::Counter));
    let read_both = read(&writer.into_message(), Version::V1).expect("good");
    assert_eq!(
        text::of(&read_both.batches),
        [
            "{} counter c_total \"Help.\" \"\" {} 0..1700000000000000000 3.0",
            "{} histogram h \"Help.\" \"\" {} 0..1700000000000000000 1/Some(2.0) [1] []",
        ]
    );
    let mut writer = Writer::new(Version::V1);
    writer.metadata(&metadata("h", Kind::Histogram));
    assert_eq!(read(&writer.into_message(), Version::V1), Ok(Read::default()));
}

/// Scenario: exemplars of series without a point; of a bucket whose series came apart.
/// Guarantees: the first is counted as lost, the second finds its histogram.
#[test]
fn an_exemplar_finds_its_point_or_is_counted() {
    let exemplar = || vec![Exemplar { labels: Vec::new(), value: 0.5, timestamp: TIME }];
    let mut all = histogram(&[("h_bucket", "+Inf", 1.0), ("h_count", "", 1.0), ("h_sum", "", 1.0)]);
    let mut apart = histogram(&[("h_bucket", "+Inf", 1.0), ("other_bucket", "+Inf", 1.0)]);
    for series in &mut apart {
        series.samples.clear();
        series.exemplars = exemplar();
    }
    all.extend(apart);
    let read = read_all(&all, Version::V2);
    assert_eq!((read.written.exemplars, read.lost_exemplars, read.rejected), (1, 1, 0));
    let lines = text::of(&read.batches);
    assert_eq!(
        lines,
        [
            "{service.name=j} histogram h \"\" \"\" {} 0..1700000000000000000 1/Some(1.0) [1] [] #0.5@1700000000000000000//{}"
        ]
    );
}

/// Scenario: more samples than are held at once.
/// Guarantees: several batches, every sample in one of them, the target's labels in each.
#[test]
fn a_large_request_is_several_batches() {
    let values: Vec<String> = (0..40_000).map(|number| format!("value-{number}")).collect();
    let mut all: Vec<_> = values
        .iter()
        .map(|value| {
            series(
                Kind::Counter,
                &[("__name__", "c_total"), ("instance", "i"), ("job", "j"), ("v", value)],
                &[1.0],
            )
        })
        .collect();
    all.push(series(
        Kind::Info,
        &[("__name__", "target_info"), ("instance", "i"), ("job", "j"), ("k", "v")],
        &[1.0],
    ));
    let read = read_all(&all, Version::V2);
    assert!(read.batches.len() > 1, "{}", read.batches.len());
    assert_eq!(read.written.samples, 40_001);
    let lines = text::of(&read.batches);
    assert_eq!(lines.len(), 40_000);
    assert!(
        lines
            .iter()
            .all(|line| line.starts_with("{service.name=j,service.instance.id=i,k=v} counter c_total "))
    );
}
