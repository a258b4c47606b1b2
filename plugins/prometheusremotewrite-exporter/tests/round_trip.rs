//! From remote write to OTLP and back, and batches that no remote write was before.

use prometheusremotewrite_exporter::{PrometheusRemoteWriteExporter, Sheet};
use weir_exposition::Kind;
use weir_guest::wire::Encoder;
use weir_guest::{Plugin, settings};
use weir_prometheus::series::Read;
use weir_remote_write::series::STALE_NAN;
use weir_remote_write::{
    Buckets, Count, Exemplar, Histogram, Request, Sample, Series, Span, Version, Writer,
};

const TIME: i64 = 1_700_000_000_000;
const NOW: u64 = 1_700_000_009_000_000_000;
const WITHOUT_TARGET: &str = r#", "target_info": {"enabled": false}"#;

fn sheet(more: &str, body: &[u8]) -> (Sheet, Read) {
    let settings = settings::read(&format!(r#"{{"endpoint": "http://p/w"{more}}}"#)).expect("good settings");
    let exporter = PrometheusRemoteWriteExporter::configure(settings);
    exporter.unwrap_or_else(|faults| panic!("{faults:?}")).sheet(body, NOW).expect("a batch")
}

/// What `show` says of each series.
fn each<T>(message: &[u8], version: Version, show: impl Fn(&Series<'_>) -> T) -> Vec<T> {
    let mut all = Vec::new();
    let request = Request::parse(message, version).expect("a message");
    let read = request.each(|series| {
        assert_eq!(series.fault, None);
        all.push(show(series));
        Ok(())
    });
    read.expect("a message");
    all
}

/// Series as text, sorted.
fn lines(message: &[u8], version: Version) -> Vec<String> {
    let mut lines = each(message, version, |series| format!("{series:?}"));
    lines.sort();
    lines
}

/// Labels and values.
fn values(message: &[u8], version: Version) -> Vec<String> {
    each(message, version, |series| {
        let labels: Vec<_> = series.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let samples = series.samples.iter().map(|sample| format!("{}@{}", sample.value, sample.timestamp));
        format!("{} {}", labels.join(","), samples.collect::<Vec<_>>().join(" "))
    })
}

fn message(all: &[Series<'_>], version: Version) -> Vec<u8> {
    let mut writer = Writer::new(version);
    all.iter().for_each(|series| writer.series(series));
    writer.into_message()
}

fn series<'a>(kind: Kind, labels: &[(&'a str, &'a str)], value: f64) -> Series<'a> {
    let mut labels: Vec<_> = labels.iter().copied().filter(|(_, value)| !value.is_empty()).collect();
    labels.extend([("instance", "i"), ("job", "j")]);
    labels.sort_unstable();
    let counts = matches!(kind, Kind::Counter | Kind::Histogram | Kind::Summary);
    let samples = vec![Sample { value, timestamp: TIME, start: if counts { TIME - 60_000 } else { 0 } }];
    Series { labels, samples, kind, help: "Help.", ..Series::default() }
}

fn exemplar(value: f64) -> Vec<Exemplar<'static>> {
    let ids = [("trace_id", "0af7651916cd43dd8448eb211c80319c"), ("span_id", "00f067aa0ba902b7"), ("k", "v")];
    vec![Exemplar { labels: ids.to_vec(), value, timestamp: TIME - 5 }]
}

fn native() -> Histogram {
    Histogram {
        count: Count::Int(17),
        sum: 3.0,
        schema: 2,
        zero_threshold: 1e-128,
        zero_count: Count::Int(1),
        negative: Buckets { spans: vec![Span { offset: 0, length: 1 }], deltas: vec![3], counts: Vec::new() },
        positive: Buckets {
            spans: vec![Span { offset: -4, length: 3 }, Span { offset: 9, length: 1 }],
            deltas: vec![2, -2, 1, 9],
            counts: Vec::new(),
        },
        timestamp: TIME,
        start: TIME - 60_000,
        ..Histogram::default()
    }
}

fn all() -> Vec<Series<'static>> {
    let scope = [("__name__", "scoped_total"), ("otel_scope_name", "lib"), ("otel_scope_x", "y")];
    let mut all = vec![
        series(Kind::Counter, &[("__name__", "c_total"), ("a", "1")], 5.0),
        series(Kind::Counter, &[("__name__", "c_total"), ("a", "2")], 6.0),
        series(Kind::Gauge, &[("__name__", "g_celsius")], -0.5),
        series(Kind::Unknown, &[("__name__", "u")], f64::INFINITY),
        series(Kind::Info, &[("__name__", "build_info"), ("version", "1")], 1.0),
        series(Kind::StateSet, &[("__name__", "state"), ("state", "on")], 1.0),
        series(Kind::Counter, &scope, 1.0),
        series(Kind::Gauge, &[("__name__", "gone")], f64::from_bits(STALE_NAN)),
    ];
    all[0].exemplars = exemplar(1.0);
    all[2].unit = "celsius";
    for (name, le, value) in
        [("h_bucket", "0.5", 1.0), ("h_bucket", "+Inf", 3.0), ("h_count", "", 3.0), ("h_sum", "", 4.5)]
    {
        all.push(series(Kind::Histogram, &[("__name__", name), ("le", le)], value));
    }
    all[9].exemplars = exemplar(0.75);
    for (name, quantile, value) in
        [("s", "0.5", 1.0), ("s", "0.99", 2.0), ("s_count", "", 2.0), ("s_sum", "", 3.0)]
    {
        all.push(series(Kind::Summary, &[("__name__", name), ("quantile", quantile)], value));
    }
    let mut histogram = series(Kind::Histogram, &[("__name__", "n")], 0.0);
    histogram.samples.clear();
    histogram.histograms = vec![native()];
    histogram.exemplars = exemplar(2.0);
    all.push(histogram);
    let target = series(Kind::Info, &[("__name__", "target_info"), ("host", "h")], 1.0);
    all.push(Series { help: "Target metadata", ..target });
    all
}

/// Scenario: every kind of series, exemplars, start times, a marker, a scope and a target's labels, in 2.0.
/// Guarantees: after OTLP and back it is what it was, series by series.
#[test]
fn version_2_comes_back_as_it_was() {
    let before = message(&all(), Version::V2);
    let read = prometheusremotewrite_receiver::read(&before, Version::V2).expect("a request");
    assert_eq!((read.rejected, read.lost_exemplars, read.batches.len()), (0, 0, 1), "{:?}", read.reasons);
    let (sheet, read) = sheet("", &read.batches[0]);
    assert_eq!((read.rejected(), sheet.is_full()), (0, false), "{read:?}");
    let after = sheet.write(Version::V2, false).into_message();
    let (before, after) = (lines(&before, Version::V2), lines(&after, Version::V2));
    for (before, after) in before.iter().zip(&after) {
        assert_eq!(after, before);
    }
    assert_eq!(after.len(), before.len());
}

/// Scenario: the same in 1.0, where nobody says what anything is.
/// Guarantees: labels, values and times are what they were; kinds, texts and starts are not there.
#[test]
fn version_1_comes_back_with_its_values() {
    let mut all = all();
    // It has its own time and place: those of the resource.
    all.retain(|series| series.name() != "target_info");
    for series in &mut all {
        (series.kind, series.help, series.unit) = (Kind::Unknown, "", "");
        series.samples.iter_mut().for_each(|sample| sample.start = 0);
        series.histograms.iter_mut().for_each(|histogram| histogram.start = 0);
        // Those of gauges are not written.
        if !series.samples.is_empty() {
            series.exemplars.clear();
        }
    }
    let before = message(&all, Version::V1);
    let read = prometheusremotewrite_receiver::read(&before, Version::V1).expect("a request");
    assert_eq!(read.rejected, 0, "{:?}", read.reasons);
    // A gauge of the unit 1 would be a ratio; none has a unit here.
    let (sheet, read) = sheet("", &read.batches[0]);
    assert_eq!(read.rejected(), 0);
    let after = sheet.write(Version::V1, false).into_message();
    assert_eq!(lines(&after, Version::V1), lines(&before, Version::V1));
}

/// A metric of a resource `service.name` = `j`, `host` = `h`.
fn batch(name: &str, unit: &str, data: impl FnOnce(&mut Encoder)) -> Vec<u8> {
    let mut out = Encoder::new();
    out.message(1, |group| {
        group.message(1, |resource| {
            resource.attribute_str(1, "service.name", "j");
            resource.attribute_str(1, "host", "h");
        });
        group.message(2, |scope| {
            scope.message(2, |metric| {
                metric.string(1, name);
                metric.string(3, unit);
                data(metric);
            });
        });
    });
    out.into_bytes()
}

/// Scenario: points of one series out of order, two at one millisecond; external labels that a point has and has not; a namespace.
/// Guarantees: one series, its samples in order, the later of the two; labels sorted, the point's own before the external one.
#[test]
fn a_series_is_written_once_and_in_order() {
    let body = batch("req.time", "s", |metric| {
        metric.message(5, |gauge| {
            for (time, value) in
                [(3_000_000_000, 3.0), (1_000_000_000, 1.0), (2_000_000_001, 9.0), (2_000_000_000, 2.0)]
            {
                gauge.message(1, |point| {
                    point.fixed64(3, time);
                    point.double(4, value);
                    point.attribute_str(7, "Upper", "U");
                    point.attribute_str(7, "env", "own");
                });
            }
        });
    });
    let (written, read) = sheet(r#", "namespace": "ns", "external_labels": {"env": "e", "dc": "d"}"#, &body);
    assert_eq!(read.rejected(), 0);
    assert_eq!(
        values(&written.write(Version::V1, false).into_message(), Version::V1),
        [
            "Upper=U,__name__=ns_req_time_seconds,dc=d,env=own,job=j 1@1000 2@2000 3@3000",
            "__name__=target_info,dc=d,env=e,host=h,job=j 1@3000",
        ]
    );
    let plain = format!(r#"{WITHOUT_TARGET}, "translation_strategy": "NoTranslation""#);
    let message = sheet(&plain, &body).0.write(Version::V2, false).into_message();
    assert_eq!(
        values(&message, Version::V2),
        ["Upper=U,__name__=req.time,env=own,job=j 1@1000 2@2000 3@3000"]
    );
}

/// Scenario: metadata asked for in 1.0, of a counter whose point has no time.
/// Guarantees: each metric's once; the point has the time of the sending.
#[test]
fn metadata_are_sent_where_they_are_asked_for() {
    let body = batch("c", "By", |metric| {
        metric.message(7, |sum| {
            sum.message(1, |point| point.double(4, 1.0));
            sum.varint(2, 2);
            sum.bool(3, true);
        });
    });
    let message = sheet("", &body).0.write(Version::V1, true).into_message();
    let request = Request::parse(&message, Version::V1).expect("a message");
    let metadata: Vec<_> = request.metadata().iter().map(|one| (one.family, one.kind, one.unit)).collect();
    assert_eq!(metadata, [("c_bytes_total", Kind::Counter, "bytes"), ("target_info", Kind::Info, "")]);
    assert_eq!(
        values(&message, Version::V1)[0],
        format!("__name__=c_bytes_total,job=j 1@{}", NOW / 1_000_000)
    );
}

/// The native histogram of an exponential one, or the reason why there is none.
fn native_of(scale: i64, sum: Option<f64>, offset: i64, counts: &[u64]) -> Result<Histogram, &'static str> {
    let body = batch("e", "", |metric| {
        metric.message(10, |data| {
            data.message(1, |point| {
                point.fixed64(3, 1_000_000_000);
                point.fixed64(4, counts.iter().sum());
                if let Some(sum) = sum {
                    point.double(5, sum);
                }
                point.sint(6, scale);
                point.message(8, |buckets| {
                    buckets.sint(1, offset);
                    buckets.packed_varint(2, counts.iter().copied());
                });
            });
            data.varint(2, 2);
        });
    });
    let (sheet, read) = sheet(WITHOUT_TARGET, &body);
    if let Some(reason) = read.dropped.into_keys().next() {
        assert!(sheet.is_empty());
        return Err(reason);
    }
    let message = sheet.write(Version::V2, false).into_message();
    let mut found = each(&message, Version::V2, |series| series.histograms.clone()).concat();
    assert_eq!(found.len(), 1);
    Ok(found.remove(0))
}

/// Scenario: exponential histograms of scale 2, of scale 10, of scale -5, without a sum, with gaps short and long.
/// Guarantees: indexes are one more than OTLP's; scale 10 is merged to schema 8; the others are counted under their reasons.
#[test]
fn an_exponential_histogram_is_native() {
    let plain = native_of(2, Some(1.0), -2, &[1, 0, 0, 2, 0, 0, 0, 3]).expect("sent");
    assert_eq!((plain.schema, plain.count, plain.zero_threshold), (2, Count::Int(6), 1e-128));
    assert_eq!(plain.positive.spans, [Span { offset: -1, length: 4 }, Span { offset: 3, length: 1 }]);
    assert_eq!(plain.positive.deltas, [1, -1, 0, 2, 1]);
    let fine = native_of(10, Some(1.0), 0, &[1, 1, 1, 1, 1]).expect("sent");
    assert_eq!((fine.schema, fine.count), (8, Count::Int(5)));
    assert_eq!(fine.positive.spans, [Span { offset: 1, length: 2 }]);
    assert_eq!(fine.positive.deltas, [4, -3]);
    assert_eq!(native_of(-5, Some(1.0), 0, &[1]), Err("scale"));
    assert_eq!(native_of(0, None, 0, &[1]), Err("sum"));
}

/// Scenario: a histogram with bounds, one that is gone, one whose counts do not fit.
/// Guarantees: cumulative buckets to +Inf, count, sum; markers for each; the last is counted.
#[test]
fn a_histogram_is_its_series() {
    let of = |flags: u64, counts: &[u64]| {
        let body = batch("h", "", |metric| {
            metric.message(9, |data| {
                data.message(1, |point| {
                    point.fixed64(3, 1_000_000_000);
                    point.fixed64(4, 6);
                    point.double(5, 0.25);
                    point.packed_fixed64(6, counts.iter().copied());
                    point.packed_double(7, [0.001, 10.0].into_iter());
                    point.varint(10, flags);
                });
                data.varint(2, 2);
            });
        });
        let (sheet, read) = sheet(WITHOUT_TARGET, &body);
        (values(&sheet.write(Version::V1, false).into_message(), Version::V1), read.rejected())
    };
    let wanted = [
        "__name__=h_bucket,job=j,le=+Inf 6@1000",
        "__name__=h_bucket,job=j,le=0.001 1@1000",
        "__name__=h_bucket,job=j,le=10 3@1000",
        "__name__=h_count,job=j 6@1000",
        "__name__=h_sum,job=j 0.25@1000",
    ];
    let (mut lines, rejected) = of(0, &[1, 2, 3]);
    lines.sort();
    assert_eq!((lines, rejected), (wanted.map(str::to_owned).to_vec(), 0));
    let (gone, rejected) = of(1, &[0, 0, 0]);
    assert_eq!((gone.len(), rejected), (5, 0));
    assert!(gone.iter().all(|line| line.ends_with(" NaN@1000")), "{gone:?}");
    assert_eq!(of(0, &[1, 2, 4]), (Vec::new(), 1));
}

/// Scenario: two hundred histograms with a thousand buckets each, long labels on all of them.
/// Guarantees: it is full before all of that is held, and says so.
#[test]
fn a_batch_that_is_too_much_is_full() {
    let body = batch("h", "", |metric| {
        let data = metric.open_large(9);
        for number in 0..200 {
            let point = metric.open(1);
            metric.fixed64(4, 0);
            metric.attribute_str(9, "series", format!("{number:0200}"));
            metric.packed_fixed64(6, (0..1001).map(|_| 0));
            metric.packed_double(7, (0..1000).map(|bound: u16| f64::from(bound)));
            metric.close(point);
        }
        metric.varint(2, 2);
        metric.close(data);
    });
    let (sheet, read) = sheet("", &body);
    assert!(sheet.is_full() && read.rejected() > 100, "{read:?}");
}

/// Scenario: a summary of which the second quantile is cut off.
/// Guarantees: it is refused as a whole: nothing of it is sent.
#[test]
fn half_a_summary_is_not_sent() {
    let mut out = Encoder::new();
    out.message(1, |group| {
        group.message(2, |scope| {
            scope.message(2, |metric| {
                metric.string(1, "s");
                metric.message(11, |summary| {
                    summary.message(1, |point| {
                        point.fixed64(3, NOW);
                        point.message(6, |quantile| quantile.double(1, 0.5));
                        point.bytes(6, [0x09, 1]);
                    });
                });
            });
        });
    });
    let (sheet, read) = sheet("", &out.into_bytes());
    assert_eq!(read.rejected(), 1);
    assert!(sheet.is_empty());
}
