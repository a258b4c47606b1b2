//! What the two texts allow, and what becomes of the rest.

use super::*;

/// Scenario: values that OpenMetrics forbids: negative counters, sums that may fall, quantiles beyond 1, facts that are not 1.
/// Guarantees: all are in the plain text; the other is one that a strict reader reads, without them.
#[test]
fn openmetrics_leaves_out_what_it_forbids() {
    let mut exporter = exporter("{}");
    let said = |name: &'static str, kind: &'static str, value: f64| {
        move |out: &mut Encoder| {
            out.string(1, name);
            out.message(7, |data| {
                data.message(1, number(0, 1, value));
                data.varint(2, 2);
            });
            out.attribute_str(12, "prometheus.type", kind);
        }
    };
    let quantiles = |out: &mut Encoder| {
        out.fixed64(3, 1);
        out.double(5, -1.0);
        for (quantile, value) in [(0.5, -1.0), (0.9, 1.0), (1.5, 1.0)] {
            out.message(6, |out| {
                out.double(1, quantile);
                out.double(2, value);
            });
        }
    };
    let outcome = exporter.absorb_at(
        &batch(&[
            &metric("c", 7, 2, &[&number(0, 1, -1.0)]),
            &metric("nan", 7, 2, &[&number(0, 1, f64::NAN)]),
            &metric("h", 9, 2, &[&histogram(0, 1, &[-1.0], &[1, 1], Some(2.0))]),
            &metric("n", 9, 2, &[&histogram(0, 1, &[1.0], &[1, 1], Some(-2.0))]),
            &metric("none", 9, 2, &[&histogram(0, 1, &[1.0], &[1, 1], None)]),
            &metric("q", 11, 0, &[&quantiles]),
            &said("good_info", "info", 1.0),
            &said("bad_info", "info", 2.0),
            &said("fact", "info", 2.0),
            &said("states", "stateset", 1.0),
            &said("any", "unknown", f64::NAN),
        ]),
        1,
    );
    assert_eq!(outcome, Outcome::Accepted);
    assert_eq!(samples(&mut exporter, "", 1).len(), 23);
    let page = text(&mut exporter, OPEN, 1);
    assert_eq!(
        samples(&mut exporter, OPEN, 1),
        [
            "any NaN",
            "fact 2",
            "good_info 1",
            "h_bucket{le=\"-1.0\"} 1",
            "h_bucket{le=\"+Inf\"} 2",
            "n_bucket{le=\"1.0\"} 1",
            "n_bucket{le=\"+Inf\"} 2",
            "none_bucket{le=\"1.0\"} 1",
            "none_bucket{le=\"+Inf\"} 2",
            "q{quantile=\"0.9\"} 1",
            "q_count 0",
        ]
    );
    for kind in ["any unknown", "good info", "fact unknown", "states stateset", "c counter"] {
        assert!(page.contains(&format!("# TYPE {kind}\n")), "{kind}\n{page}");
    }
    let plain = text(&mut exporter, "", 1);
    for kind in ["any untyped", "good_info gauge", "states gauge", "c_total counter"] {
        assert!(plain.contains(&format!("# TYPE {kind}\n")), "{kind}\n{plain}");
    }
}

/// Scenario: counters and infos of which the rest of the name is another family's, or which have no suffix at all.
/// Guarantees: in OpenMetrics of unknown type under their full name; nothing is lost, no name is there twice.
#[test]
fn a_suffix_is_none_where_the_rest_is_anothers() {
    let mut exporter = exporter(r#"{"add_metric_suffixes": false}"#);
    let point = number(SECOND, 2 * SECOND, 1.0);
    let names = ["a_total", "b_total", "c", "d_total", "d_created_total", "e_total"];
    let points: [Write<'_>; 1] = [&point];
    let counters: Vec<_> = names.iter().map(|name| metric(name, 7, 2, &points)).collect();
    let mut all: Vec<Write<'_>> = counters.iter().map(|counter| counter as Write<'_>).collect();
    let gauges = [metric("a", 5, 0, &points), metric("b_created", 5, 0, &points)];
    all.extend(gauges.iter().map(|gauge| gauge as Write<'_>));
    let info = |out: &mut Encoder| {
        out.string(1, "e_info");
        out.message(5, |data| data.message(1, number(0, 1, 1.0)));
        out.attribute_str(12, "prometheus.type", "info");
    };
    all.push(&info);
    assert_eq!(exporter.absorb_at(&batch(&all), 1), Outcome::Accepted);
    let page = text(&mut exporter, OPEN, 1);
    for kind in [
        "a gauge",
        "a_total unknown",
        "b_created gauge",
        "b_total unknown",
        "c unknown",
        "d counter",
        "d_created_total unknown",
        "e counter",
        "e_info unknown",
    ] {
        assert!(page.contains(&format!("# TYPE {kind}\n")), "{kind}\n{page}");
    }
    assert_eq!(samples(&mut exporter, "", 1).len(), 9);
}

/// Scenario: points with a time, on pages with and without times, in both texts; a unit in the name and one that is not.
/// Guarantees: milliseconds or seconds where wanted; UNIT only where it is the end of the name.
#[test]
fn times_are_written_where_wanted() {
    let unit = |name: &'static str, unit: &'static str| {
        move |out: &mut Encoder| {
            metric(name, 5, 0, &[&number(0, 1_600_000_000_123_456_789, 1.0)])(out);
            out.string(3, unit);
        }
    };
    let body = batch(&[&unit("lag", "s"), &unit("seconds.of.lag", "s"), &unit("x", "{y}")]);
    let mut with = exporter(r#"{"send_timestamps": true}"#);
    let mut without = exporter("{}");
    with.absorb_at(&body, 1);
    without.absorb_at(&body, 1);
    assert_eq!(samples(&mut without, "", 1), ["lag_seconds 1", "seconds_of_lag 1", "x 1"]);
    assert_eq!(samples(&mut with, "", 1)[0], "lag_seconds 1 1600000000123");
    assert_eq!(samples(&mut with, OPEN, 1)[2], "x 1 1600000000.123456789");
    let page = text(&mut without, OPEN, 1);
    let units: Vec<_> =
        page.lines().filter(|line| line.starts_with("# UNIT") && !line.contains("weir")).collect();
    assert_eq!(units, ["# UNIT lag_seconds seconds"]);
}

/// Scenario: a counter and a histogram with exemplars, several in one bucket; then points without any.
/// Guarantees: the newest of each bucket, in OpenMetrics only, and still there later; other kinds have none.
#[test]
fn exemplars_are_the_newest_of_their_bucket() {
    let exemplar = |time: u64, value: f64, trace: u8| {
        move |out: &mut Encoder| {
            out.fixed64(2, time * SECOND);
            out.double(3, value);
            out.bytes(5, [trace; 16]);
        }
    };
    let counter = |out: &mut Encoder| {
        number(0, 9, 5.0)(out);
        out.message(5, exemplar(2, 1.0, 0xaa));
        out.message(5, exemplar(1, 2.0, 0xbb));
    };
    let buckets = |out: &mut Encoder| {
        histogram(0, 9, &[1.0, 2.0], &[1, 0, 3], Some(9.0))(out);
        out.message(8, exemplar(1, 0.5, 0xcc));
        out.message(8, exemplar(3, 7.0, 0xdd));
        out.message(8, exemplar(4, f64::INFINITY, 0xee));
    };
    let mut exporter = exporter("{}");
    exporter.absorb_at(
        &batch(&[
            &metric("c", 7, 2, &[&counter]),
            &metric("g", 5, 0, &[&counter]),
            &metric("h", 9, 2, &[&buckets]),
        ]),
        1,
    );
    let wanted = [
        format!("c_total 5 # {{trace_id=\"{}\"}} 1 2.0", "aa".repeat(16)),
        "g 5".to_owned(),
        format!("h_bucket{{le=\"1.0\"}} 1 # {{trace_id=\"{}\"}} 0.5 1.0", "cc".repeat(16)),
        "h_bucket{le=\"2.0\"} 1".to_owned(),
        format!("h_bucket{{le=\"+Inf\"}} 4 # {{trace_id=\"{}\"}} +Inf 4.0", "ee".repeat(16)),
        "h_sum 9".to_owned(),
        "h_count 4".to_owned(),
    ];
    assert_eq!(samples(&mut exporter, OPEN, 1), wanted);
    exporter.absorb_at(&batch(&[&metric("c", 7, 2, &[&number(0, 10, 6.0)])]), 1);
    assert_eq!(samples(&mut exporter, OPEN, 1)[0], wanted[0].replace("l 5", "l 6"));
    assert!(samples(&mut exporter, "", 1).iter().all(|line| !line.contains('#')));
}

/// Scenario: names with dots and underscores that become the same by escaping, asked for in each scheme.
/// Guarantees: quotes only where UTF-8 is wanted; elsewhere each name and series once.
#[test]
fn names_are_escaped_as_a_scraper_wants() {
    let mut exporter = exporter(r#"{"translation_strategy": "NoTranslation"}"#);
    let point = |key: &'static str, value: f64| {
        move |out: &mut Encoder| {
            number(0, 1, value)(out);
            out.attribute_str(7, key, "x");
        }
    };
    exporter.absorb_at(
        &batch(&[
            &metric("a.b", 5, 0, &[&point("k.l", 1.0), &point("k_l", 2.0)]),
            &metric("a_b", 5, 0, &[&point("k", 3.0)]),
        ]),
        1,
    );
    let mut in_scheme = |scheme: &str| samples(&mut exporter, &format!("{OPEN}{scheme}"), 1);
    assert_eq!(
        in_scheme(";escaping=allow-utf-8"),
        ["{\"a.b\",\"k.l\"=\"x\"} 1", "{\"a.b\",k_l=\"x\"} 2", "a_b{k=\"x\"} 3"]
    );
    assert_eq!(in_scheme(""), ["a_b{k_l=\"x\"} 1"]);
    assert_eq!(
        in_scheme(";escaping=dots"),
        ["a_dot_b{k_dot_l=\"x\"} 1", "a_dot_b{k__l=\"x\"} 2", "a__b{k=\"x\"} 3"]
    );
    assert_eq!(
        in_scheme(";escaping=values"),
        ["U__a_2e_b{U__k_2e_l=\"x\"} 1", "U__a_2e_b{k_l=\"x\"} 2", "a_b{k=\"x\"} 3"]
    );
}
