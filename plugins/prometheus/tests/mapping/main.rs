//! Families to OTLP: every row of OpenTelemetry's mapping (`compatibility/prometheus_and_openmetrics.md`).

mod protobuf;
mod text;

use weir_exposition::{Dialect, Kind};
use weir_prometheus::family::{Family, Histogram, Point, Summary, Value};
use weir_prometheus::native::Native;
use weir_prometheus::otlp::{Honor, Metrics, Url};
use weir_prometheus::point::STALE_NAN;
use weir_prometheus::{Format, to_otlp};

/// When the tests' targets were fetched.
pub(crate) const TIME: u64 = 7;

pub(crate) fn labels(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn dialect(text: &str) -> Dialect {
    if text.ends_with("# EOF\n") { Dialect::OpenMetrics } else { Dialect::Plain }
}

/// The metrics of a text, without the lines around them, and what is dropped.
fn mapped(text: &str) -> (String, Vec<(&'static str, u64)>) {
    let (body, dropped) =
        to_otlp(text.as_bytes(), Format::Text(dialect(text)), &[], TIME).expect("a good text");
    let text = text::of(body.as_deref());
    let metrics: Vec<&str> =
        text.lines().filter(|line| line.starts_with("    ")).map(|line| &line[4..]).collect();
    (metrics.join("\n"), dropped)
}

/// The metrics of a family with one point.
fn one(kind: Kind, value: Value) -> (String, Vec<(&'static str, u64)>) {
    let point = Point { value, ..Point::default() };
    let family = Family { name: "m".into(), kind, points: vec![point], ..Family::default() };
    let mut metrics = Metrics::new(&[], Honor::Target, TIME);
    metrics.add(&family);
    let dropped = metrics.dropped().iter().map(|(reason, count)| (*reason, *count)).collect();
    let text = text::of(metrics.finish(None).as_deref());
    let lines: Vec<&str> =
        text.lines().filter(|line| line.starts_with("      ")).map(str::trim_start).collect();
    (lines.join("\n"), dropped)
}

fn check(text: &str, expected: &str) {
    assert_eq!(mapped(text), (expected.to_owned(), vec![]), "{text}");
}

/// Scenario: a counter with HELP, in both texts; in OpenMetrics with a unit.
/// Guarantees: a cumulative, monotonic sum of doubles; the name as the samples have it; HELP, the unit in UCUM, the type.
#[test]
fn a_counter_is_a_monotonic_sum() {
    check(
        "# HELP c_total Things.\n# TYPE c_total counter\nc_total{a=\"1\"} 5\nc_total 6\n",
        "sum cumulative monotonic \"c_total\" type counter\n  about \"Things.\"\n  {a=\"1\"} time 7 value 5.0\n  {} time 7 value 6.0",
    );
    check(
        "# TYPE c_seconds counter\n# UNIT c_seconds seconds\nc_seconds_total 5\n# EOF\n",
        "sum cumulative monotonic \"c_seconds_total\" unit \"s\" type counter\n  {} time 7 value 5.0",
    );
}

/// Scenario: a gauge, a family of no type, one that nobody announced; a unit that OpenTelemetry has no word for.
/// Guarantees: gauges, with the type in the metadata; the unit stays.
#[test]
fn gauges_and_the_unknown_are_gauges() {
    check("# TYPE g gauge\ng 1.5\n", "gauge \"g\" type gauge\n  {} time 7 value 1.5");
    check("# TYPE u untyped\nu -1\n", "gauge \"u\" type unknown\n  {} time 7 value -1.0");
    check("alone NaN\n", "gauge \"alone\" type unknown\n  {} time 7 value NaN");
    check(
        "# TYPE g_apples gauge\n# UNIT g_apples apples\ng_apples 1\n# EOF\n",
        "gauge \"g_apples\" unit \"apples\" type gauge\n  {} time 7 value 1.0",
    );
}

/// Scenario: facts, and flags of which one is set.
/// Guarantees: sums that are cumulative and not monotonic.
#[test]
fn info_and_states_are_sums_that_do_not_grow() {
    check(
        "# TYPE build info\nbuild_info{v=\"1\"} 1\n# EOF\n",
        "sum cumulative \"build_info\" type info\n  {v=\"1\"} time 7 value 1.0",
    );
    check(
        "# TYPE s stateset\ns{s=\"on\"} 1\ns{s=\"off\"} 0\n# EOF\n",
        "sum cumulative \"s\" type stateset\n  {s=\"on\"} time 7 value 1.0\n  {s=\"off\"} time 7 value 0.0",
    );
}

/// Scenario: a histogram; one without +Inf, without a sum, without buckets; bounds out of order.
/// Guarantees: counts of single buckets, of which the last is what `_count` has more; a sum only where there is one.
#[test]
fn a_histogram_has_counts_of_single_buckets() {
    let head = "histogram cumulative \"h\" type histogram\n  ";
    for (samples, expected) in [
        (
            "h_bucket{le=\"1\"} 1\nh_bucket{le=\"2.5\"} 3\nh_bucket{le=\"+Inf\"} 4\nh_sum 9\nh_count 4\n",
            "{} time 7 count 4 sum 9.0 buckets [1, 2, 1] bounds [1.0, 2.5]",
        ),
        ("h_bucket{le=\"1\"} 1\nh_count 4\n", "{} time 7 count 4 buckets [1, 3] bounds [1.0]"),
        ("h_sum 9\nh_count 4\n", "{} time 7 count 4 sum 9.0 buckets [4] bounds []"),
        (
            "h_bucket{le=\"2\"} 3\nh_bucket{le=\"+Inf\"} 3\nh_bucket{le=\"1\"} 1\nh_count 3\n",
            "{} time 7 count 3 buckets [1, 2, 0] bounds [1.0, 2.0]",
        ),
        (
            "h_bucket{le=\"1\"} 1\nh_bucket{le=\"1.0\"} 2\nh_count 3\n",
            "{} time 7 count 3 buckets [1, 2] bounds [1.0]",
        ),
    ] {
        check(&format!("# TYPE h histogram\n{samples}"), &format!("{head}{expected}"));
    }
}

/// Scenario: histograms without a count, with buckets that fall, that are NaN, that count more than there is, halves.
/// Guarantees: the point is dropped, with the reason; others of the family are there.
#[test]
fn what_is_no_histogram_is_dropped_and_counted() {
    for (samples, reason) in [
        ("h_bucket{le=\"+Inf\"} 4\nh_sum 9\n", "a histogram without a count"),
        ("h_bucket{le=\"1\"} 3\nh_bucket{le=\"2\"} 2\nh_count 3\n", "buckets that fall"),
        ("h_bucket{le=\"1\"} NaN\nh_count 3\n", "a bucket that counts nothing whole"),
        ("h_bucket{le=\"1\"} 0.5\nh_count 3\n", "a bucket that counts nothing whole"),
        ("h_bucket{le=\"1\"} 5\nh_count 3\n", "buckets that count more than there is"),
        ("h_bucket{le=\"NaN\"} 3\nh_count 3\n", "a bound that is not a number"),
        ("h_count -1\n", "a count that is none"),
    ] {
        let text = format!("# TYPE h histogram\n{samples}h_count{{a=\"1\"}} 2\n");
        let (metrics, dropped) = mapped(&text);
        assert_eq!(dropped, [(reason, 1)], "{text}");
        assert!(metrics.ends_with("{a=\"1\"} time 7 count 2 buckets [2] bounds []"), "{metrics}");
    }
}

/// Scenario: a gauge histogram.
/// Guarantees: it is dropped and counted; there is no request.
#[test]
fn a_gauge_histogram_is_dropped() {
    let text = "# TYPE g gaugehistogram\ng_bucket{le=\"+Inf\"} 4\ng_gsum 9\ng_gcount 4\n# EOF\n";
    assert_eq!(mapped(text), (String::new(), vec![("a gauge histogram, which OTLP has not", 1)]));
}

/// Scenario: summaries, one without a sum, one without a count.
/// Guarantees: quantiles as they stand; the sum is 0; the last is dropped and counted.
#[test]
fn a_summary_needs_a_count() {
    check(
        "# TYPE s summary\ns{quantile=\"0.5\"} 1\ns{quantile=\"0.9\"} NaN\ns_sum 3.5\ns_count 2\n",
        "summary \"s\" type summary\n  {} time 7 count 2 sum 3.5 quantiles [0.5 = 1.0, 0.9 = NaN]",
    );
    check("# TYPE s summary\ns_count 2\n", "summary \"s\" type summary\n  {} time 7 count 2 sum 0.0");
    let (metrics, dropped) = mapped("# TYPE s summary\ns{quantile=\"0.5\"} 1\ns_sum 3.5\n");
    assert_eq!((metrics.as_str(), dropped), ("", vec![("a summary without a count", 1)]));
}

/// Scenario: exemplars with ids, with ids that are none, with other labels, with and without a time.
/// Guarantees: ids are fields, everything else is a filtered attribute; without a time they have the point's.
#[test]
fn ids_of_exemplars_are_fields() {
    check(
        "# TYPE c counter\n\
         c_total{a=\"1\"} 5 # {trace_id=\"0af7651916cd43dd8448eb211c80319c\",span_id=\"b7ad6b7169203331\",k=\"v\"} 0.5 9.5\n\
         c_total{a=\"2\"} 5 # {trace_id=\"abc\",span_id=\"0000000000000000\"} 1\n# EOF\n",
        "sum cumulative monotonic \"c_total\" type counter\n  {a=\"1\"} time 7 value 5.0\n    \
         exemplar time 9500000000 value 0.5 trace 0af7651916cd43dd8448eb211c80319c span b7ad6b7169203331 {k=\"v\"}\n  \
         {a=\"2\"} time 7 value 5.0\n    exemplar time 7 value 1.0 {span_id=\"0000000000000000\", trace_id=\"abc\"}",
    );
    check(
        "# TYPE h histogram\nh_bucket{le=\"+Inf\"} 1 # {} 3\nh_count 1\nh_sum 3\n# EOF\n",
        "histogram cumulative \"h\" type histogram\n  {} time 7 count 1 sum 3.0 buckets [1] bounds []\n    exemplar time 7 value 3.0",
    );
}

/// Scenario: times that the target says, one before 1970; when a counter and a histogram began.
/// Guarantees: they are the points' times and starts; none is made up.
#[test]
fn times_and_starts_are_the_targets() {
    check("g 1 1500\n", "gauge \"g\" type unknown\n  {} time 1500000000 value 1.0");
    check("g 1 -5\n", "gauge \"g\" type unknown\n  {} value 1.0");
    check(
        "# TYPE c counter\nc_total 5\nc_created 2.5\n# EOF\n",
        "sum cumulative monotonic \"c_total\" type counter\n  {} time 7 start 2500000000 value 5.0",
    );
    check(
        "# TYPE h histogram\nh_bucket{le=\"+Inf\"} 1\nh_count 1\nh_sum 3\nh_created 1\n# EOF\n",
        "histogram cumulative \"h\" type histogram\n  {} time 7 start 1000000000 count 1 sum 3.0 buckets [1] bounds []",
    );
}

/// Scenario: the NaN that says that a series is gone, in every kind of value; and any other NaN.
/// Guarantees: points with the flag, a histogram's buckets with nothing in them; another NaN is a value.
#[test]
fn the_stale_nan_is_a_flag() {
    let stale = f64::from_bits(STALE_NAN);
    assert_eq!(one(Kind::Gauge, Value::Number(stale)).0, "{} time 7 gone");
    assert_eq!(one(Kind::Gauge, Value::Number(f64::NAN)).0, "{} time 7 value NaN");
    let buckets = vec![(1.0, stale), (f64::INFINITY, stale)];
    let histogram = Histogram { buckets, count: Some(stale), sum: Some(stale) };
    assert_eq!(
        one(Kind::Histogram, Value::Histogram(histogram)).0,
        "{} time 7 buckets [0, 0] bounds [1.0] gone"
    );
    let summary = Summary { quantiles: vec![(0.5, stale)], count: Some(stale), sum: Some(stale) };
    assert_eq!(one(Kind::Summary, Value::Summary(summary)).0, "{} time 7 gone");
    let native = Native { sum: Some(stale), ..Native::default() };
    assert_eq!(
        one(Kind::Histogram, Value::Native(Box::new(native))).0,
        "{} time 7 scale 0 zero 0 below 0.0 gone"
    );
}

/// Scenario: native histograms: with a gap, with values below zero, with infinite ones, of the schema with bounds of its own.
/// Guarantees: offsets one less than the first index, gaps as zeros, the count is that of the buckets.
#[test]
fn a_native_histogram_is_exponential() {
    let native = Native {
        schema: 1,
        zero_threshold: 0.5,
        zero_count: 1,
        count: 99,
        sum: Some(4.0),
        negative: vec![(3, 2)],
        positive: vec![(-1, 3), (0, 5), (2, 1), (2049, 7)],
        ..Native::default()
    };
    assert_eq!(
        one(Kind::Histogram, Value::Native(Box::new(native.clone()))).0,
        "{} time 7 count 12 sum 4.0 scale 1 zero 1 below 0.5 negative 2 [2] positive -2 [3, 5, 0, 1]"
    );
    let custom = Native {
        schema: -53,
        count: 4,
        sum: Some(9.0),
        positive: vec![(0, 1), (2, 3)],
        bounds: vec![1.0, 2.5],
        ..Native::default()
    };
    let point = "{} time 7 count 4 sum 9.0 buckets [1, 0, 3] bounds [1.0, 2.5]";
    assert_eq!(one(Kind::Histogram, Value::Native(Box::new(custom.clone()))).0, point);
    for (native, kind, reason) in [
        (
            Native { is_float: true, ..native.clone() },
            Kind::Histogram,
            "a native histogram of floats, which OTLP has not",
        ),
        (Native { schema: 9, ..native.clone() }, Kind::Histogram, "a native histogram of an unknown schema"),
        (native.clone(), Kind::GaugeHistogram, "a gauge histogram, which OTLP has not"),
        (
            Native { positive: vec![(-20_000, 1), (1, 1)], ..native },
            Kind::Histogram,
            "a native histogram with too many buckets from the first to the last",
        ),
        (Native { positive: vec![(3, 1)], ..custom.clone() }, Kind::Histogram, "a bucket without a bound"),
        (Native { bounds: vec![2.0, 1.0, 3.0], ..custom }, Kind::Histogram, "bounds that do not rise"),
    ] {
        assert_eq!(one(kind, Value::Native(Box::new(native))), (String::new(), vec![(reason, 1)]));
    }
}

/// Scenario: a native histogram that must have fewer buckets, and wider ones.
/// Guarantees: neighbours are joined, schema by schema; a limit that can't be met is said to be.
#[test]
fn a_native_histogram_is_made_coarser() {
    let fine =
        Native { schema: 2, positive: vec![(-3, 1), (-2, 2), (1, 4), (2, 8), (3, 16)], ..Native::default() };
    let mut two = fine.clone();
    assert!(two.coarsen(Some(3), 0.0));
    assert_eq!((two.schema, two.positive), (1, vec![(-1, 3), (1, 12), (2, 16)]));
    let mut wide = fine.clone();
    assert!(wide.coarsen(None, 2.0));
    assert_eq!((wide.schema, wide.positive), (0, vec![(0, 3), (1, 28)]));
    let mut none = fine;
    assert!(!none.coarsen(Some(0), 0.0));
    assert_eq!(none.schema, -4);
}

/// Scenario: a target with labels beside job and instance; a `target_info`; labels that say a scope; labels that clash.
/// Guarantees: resource, scope and points have what is theirs.
#[test]
fn labels_go_where_they_belong() {
    let target = labels(&[("env", "prod"), ("instance", "h:1"), ("job", "shop")]);
    let text = "# TYPE target info\ntarget_info{version=\"2\",service.name=\"no\"} 1\n"
        .replace("service.name", "service_name")
        + "g{job=\"own\",exported_job=\"x\",a=\"\"} 1\n\
           g{otel_scope_name=\"lib\",otel_scope_version=\"1.0\",otel_scope_k=\"v\"} 2\n# EOF\n";
    let mut honored = [Honor::Target, Honor::Exposed].map(|honor| {
        let mut metrics = Metrics::new(&target, honor, TIME).scope("translator", "0.1");
        weir_prometheus::family::read(text.as_bytes(), Dialect::OpenMetrics, |family| metrics.add(&family))
            .expect("a good text");
        let url = Url::of("http://user@h:1/metrics?x=http://y");
        text::of(metrics.finish(url.as_ref()).as_deref())
    });
    assert_eq!(
        std::mem::take(&mut honored[0]),
        "resource\n  env = \"prod\"\n  server.address = \"h\"\n  server.port = \"1\"\n  service.instance.id = \"h:1\"\n  \
         service.name = \"shop\"\n  service_name = \"no\"\n  url.scheme = \"http\"\n  version = \"2\"\n  \
         scope \"translator\" \"0.1\"\n    gauge \"g\" type unknown\n      \
         {env=\"prod\", exported_exported_job=\"own\", exported_job=\"x\"} time 7 value 1.0\n  \
         scope \"lib\" \"1.0\"\n    k = \"v\"\n    gauge \"g\" type unknown\n      {env=\"prod\"} time 7 value 2.0\n"
    );
    let own = honored[1].split("resource\n").nth(1).expect("another resource");
    assert!(
        own.contains("service.name = \"own\"") && own.contains("{env=\"prod\", exported_job=\"x\"}"),
        "{own}"
    );
}

/// Scenario: URLs with and without a port, with an address of IPv6, one that is none.
/// Guarantees: host, port and scheme; the port of the scheme where there is none.
#[test]
fn a_url_has_a_host_a_port_and_a_scheme() {
    for (url, parts) in [
        ("http://h:9100/metrics", ("h", "9100", "http")),
        ("https://h", ("h", "443", "https")),
        ("http://[::1]/a:b", ("::1", "80", "http")),
        ("http://[::1]:9/", ("::1", "9", "http")),
    ] {
        let Url { host, port, scheme } = Url::of(url).expect(url);
        assert_eq!((host, port, scheme), parts, "{url}");
    }
    assert!(Url::of("h:9100").is_none());
}
