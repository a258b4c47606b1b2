//! What stays on the page, what goes, what is not let in.

use super::*;

/// Scenario: two series, one fed on and one not, past the time of expiration; then none at all.
/// Guarantees: a series without points goes, the other stays; its family goes with its last series.
#[test]
fn a_series_goes_when_nothing_comes_for_it() {
    let mut exporter = exporter(r#"{"metric_expiration": "10s"}"#);
    let both = batch(&[&metric("g", 5, 0, &[&labelled(1, 1.0, "x"), &labelled(1, 2.0, "y")])]);
    exporter.absorb_at(&both, SECOND);
    assert_eq!(samples(&mut exporter, "", 11 * SECOND).len(), 2);
    exporter.absorb_at(&batch(&[&metric("g", 5, 0, &[&labelled(2, 3.0, "y")])]), 11 * SECOND);
    assert_eq!(samples(&mut exporter, "", 12 * SECOND), ["g{a=\"y\"} 3"]);
    assert!(!text(&mut exporter, "", 22 * SECOND).contains("# TYPE g"));
    exporter.absorb_at(&batch(&[]), 30 * SECOND);
    assert!(text(&mut exporter, "", 30 * SECOND).contains("weir_page_series 0\n"));
    // What has gone stands in nobody's way.
    exporter.absorb_at(&batch(&[&metric("g", 11, 0, &[&number(0, 1, 1.0)])]), 30 * SECOND);
    assert!(text(&mut exporter, "", 30 * SECOND).contains("# TYPE g summary"));
}

/// Scenario: three points of a metric, the second says that its series is gone; later an old one says so of another.
/// Guarantees: only that series goes, and the points behind it are taken; an old word ends nothing.
#[test]
fn a_series_that_is_gone_takes_no_other_with_it() {
    let mut exporter = exporter("{}");
    let all = [labelled(5, 1.0, "x"), labelled(5, 2.0, "y"), labelled(5, 3.0, "z")];
    exporter.absorb_at(&batch(&[&metric("g", 5, 0, &[&all[0], &all[1], &all[2]])]), 1);
    let gone = |time: u64, a: &'static str| {
        move |out: &mut Encoder| {
            out.fixed64(3, time);
            out.attribute_str(7, "a", a);
            out.varint(8, 1);
        }
    };
    let next = [labelled(6, 4.0, "x"), labelled(6, 5.0, "z")];
    let outcome = exporter.absorb_at(&batch(&[&metric("g", 5, 0, &[&next[0], &gone(6, "y"), &next[1]])]), 1);
    assert_eq!(outcome, Outcome::Accepted);
    assert_eq!(samples(&mut exporter, "", 1), ["g{a=\"x\"} 4", "g{a=\"z\"} 5"]);
    exporter.absorb_at(&batch(&[&metric("g", 5, 0, &[&gone(5, "x"), &gone(9, "nobody")])]), 1);
    assert_eq!(samples(&mut exporter, "", 1).len(), 2);
}

/// Scenario: more series than the page may have, by number and by bytes; then room is made by expiration.
/// Guarantees: what is there stays and is fed on; what is new is refused, counted on the page and told; then it is taken.
#[test]
fn a_full_page_takes_no_new_series() {
    let mut exporter = exporter(r#"{"series_max": 5, "metric_expiration": "10s"}"#);
    let points: Vec<_> = (0..7).map(|at| labelled(1, f64::from(at), &at.to_string())).collect();
    let points: Vec<Write<'_>> = points.iter().map(|point| point as Write<'_>).collect();
    let all = metric("g", 5, 0, &points);
    for times in 1..3 {
        let (count, message) = rejected(exporter.absorb_at(&batch(&[&all]), SECOND));
        assert!(count == 2 && message.contains("2 full"), "{message}");
        let page = text(&mut exporter, "", SECOND);
        assert!(page.contains(&format!("weir_page_dropped_points_total{{reason=\"full\"}} {}\n", 2 * times)));
        assert!(page.contains("g{a=\"2\"} 2\n") && page.contains("weir_page_series 5\n"), "{page}");
    }
    let late = labelled(1, 9.0, "late");
    assert_eq!(rejected(exporter.absorb_at(&batch(&[&metric("g", 5, 0, &[&late])]), 20 * SECOND)).0, 0);
    assert_eq!(samples(&mut exporter, "", 20 * SECOND), ["g{a=\"late\"} 9"]);
    // 512 bytes for each of five series, and one label takes them all.
    let long = labelled(1, 1.0, &"x".repeat(5 * page::BYTES_EACH));
    assert_eq!(rejected(exporter.absorb_at(&batch(&[&metric("g", 5, 0, &[&long])]), 20 * SECOND)).0, 1);
    // A histogram does not grow past it either.
    let bounds: Vec<f64> = (0..400).map(f64::from).collect();
    let wide = histogram(0, 2, &bounds, &vec![1; 401], None);
    assert_eq!(rejected(exporter.absorb_at(&batch(&[&metric("h", 9, 2, &[&wide])]), 20 * SECOND)).0, 1);
}

/// Scenario: deltas of a counter on a page that has no bytes left, once more for the same series.
/// Guarantees: those that are there are added to; only those that are not are refused.
#[test]
fn a_full_page_adds_to_what_is_there() {
    let mut exporter = exporter(r#"{"series_max": 40}"#);
    let mut absorb = |time: u64| {
        let points: Vec<_> =
            (10..50).map(|at| labelled(time, 1.0, &format!("{at}{}", "x".repeat(1_000)))).collect();
        let points: Vec<Write<'_>> = points.iter().map(|point| point as Write<'_>).collect();
        rejected(exporter.absorb_at(&batch(&[&metric("c", 7, 1, &points)]), 1)).0
    };
    let refused = absorb(1);
    assert!((1..40).contains(&refused), "{refused}");
    assert_eq!(absorb(2), refused);
    let all = samples(&mut exporter, "", 1);
    assert_eq!(all.len(), 40 - refused as usize);
    assert!(all.iter().all(|line| line.ends_with("} 2")), "{}", all[0]);
}

/// Scenario: a histogram of a thousand buckets with four labels of nothing but quotes; one with a scale and a long label, which
/// may get buckets as a delta; a summary of that kind.
/// Guarantees: what would be text without end is refused for its size, what is not is taken.
#[test]
fn a_series_is_no_longer_than_a_page_can_write() {
    let mut exporter = exporter("{}");
    let bounds: Vec<f64> = (0..1_024).map(f64::from).collect();
    let quotes = |out: &mut Encoder| {
        histogram(0, 1, &bounds, &vec![1; 1_025], None)(out);
        for key in ["a", "b", "c", "d"] {
            out.attribute_str(9, key, "\"".repeat(4_000));
        }
    };
    let scaled = |out: &mut Encoder| {
        out.fixed64(3, 1);
        out.attribute_str(1, "a", "x".repeat(2_000));
    };
    let summary = |out: &mut Encoder| {
        out.fixed64(3, 1);
        for quantile in 0..200 {
            out.message(6, |out| out.double(1, f64::from(quantile) / 200.0));
        }
        out.attribute_str(7, "a", "\"".repeat(4_000));
    };
    let outcome = exporter.absorb_at(
        &batch(&[
            &metric("h", 9, 2, &[&quotes]),
            &metric("delta", 10, 1, &[&scaled]),
            &metric("whole", 10, 2, &[&scaled]),
            &metric("s", 11, 0, &[&summary]),
        ]),
        1,
    );
    let (count, message) = rejected(outcome);
    assert!(count == 3 && message.contains("3 size"), "{count} {message}");
    assert!(text(&mut exporter, "", 1).len() < 64 * 1024);
}

/// Scenario: metrics of the same name and other types, of names that another's samples have, of the page's own names, with
/// another description.
/// Guarantees: the first stays and the points of the others are counted; of descriptions the first stays.
#[test]
fn names_have_one_owner() {
    let mut exporter = exporter("{}");
    let described = |help: &'static str| {
        move |out: &mut Encoder| {
            metric("g", 5, 0, &[&number(0, 1, 1.0)])(out);
            out.string(2, help);
        }
    };
    let point = number(0, 1, 1.0);
    let buckets = histogram(0, 1, &[], &[1], None);
    assert_eq!(
        exporter.absorb_at(&batch(&[&described("one\n\\"), &metric("h", 9, 2, &[&buckets])]), 1),
        Outcome::Accepted
    );
    let (count, message) = rejected(exporter.absorb_at(
        &batch(&[
            &described("two"),
            &metric("g", 9, 2, &[&buckets]),
            &metric("h_count", 5, 0, &[&point, &point]),
            &metric("h_sum", 5, 0, &[&point]),
            &metric("weir_page_series", 5, 0, &[&point]),
            &metric("g_total", 7, 2, &[&point]),
        ]),
        1,
    ));
    assert!(count == 5 && message.contains("4 conflict, 1 name"), "{count} {message}");
    let page = text(&mut exporter, "", 1);
    assert!(page.contains("# HELP g one\\n\\\\\n# TYPE g gauge\n") && !page.contains("two"), "{page}");
}

/// Scenario: two resources with the same job and instance, the newer last, then the older again.
/// Guarantees: one target_info, with the newer one's labels.
#[test]
fn a_target_has_one_target_info() {
    let mut exporter = exporter("{}");
    let mut absorb = |version: &'static str, time: u64| {
        let resource = |out: &mut Encoder| {
            out.attribute_str(1, "service.name", "shop");
            out.attribute_str(1, "service.instance.id", "1");
            out.attribute_str(1, "service.version", version);
        };
        let point = number(0, time, 1.0);
        exporter.absorb_at(&batch_of(&resource, &[&metric("g", 5, 0, &[&point])]), 1);
    };
    absorb("1", 5);
    absorb("2", 6);
    absorb("1", 4);
    let all = samples(&mut exporter, OPEN, 1);
    let target = "target_info{instance=\"1\",job=\"shop\",service_version=\"2\"} 1";
    assert_eq!(all, ["g{instance=\"1\",job=\"shop\"} 1", target]);
}

/// Scenario: a hundred thousand series of ten labels, the most that a page has unless somebody says otherwise.
/// Guarantees: what the page holds itself to is below 512 bytes a series; another batch of the same adds nothing.
#[test]
fn a_page_full_of_ordinary_series_fits() {
    let mut exporter = exporter("{}");
    let mut absorb = |from: usize| {
        let points = |data: &mut Encoder| {
            for at in from..from + 10_000 {
                data.message(1, |out| {
                    number(0, 1, 1.0)(out);
                    out.attribute_str(7, "series", at.to_string());
                    for label in 0..9 {
                        out.attribute_str(7, format!("label_{label}"), format!("value of {label}"));
                    }
                });
            }
        };
        let gauge = |out: &mut Encoder| {
            out.string(1, "g");
            out.message(5, points);
        };
        rejected(exporter.absorb_at(&batch(&[&gauge]), 1)).0
    };
    for from in [0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9] {
        assert_eq!(absorb(from * 10_000), 0);
    }
    assert_eq!(absorb(100_000), 10_000);
    assert!(text(&mut exporter, "", 1).contains("weir_page_series 100000\n"));
}

/// Scenario: a histogram and, as Prometheus' clients write it in the plain text, a gauge that says since when it counts.
/// Guarantees: both are on the plain page; in OpenMetrics, where the name is the histogram's, the gauge is left out.
#[test]
fn a_gauge_that_is_the_start_of_a_histogram_is_on_the_plain_page() {
    let mut exporter = exporter("{}");
    let (point, buckets) = (number(0, 1, 7.0), histogram(0, 1, &[], &[1], None));
    let both = batch(&[&metric("h", 9, 2, &[&buckets]), &metric("h_created", 5, 0, &[&point])]);
    assert_eq!(exporter.absorb_at(&both, 1), Outcome::Accepted);
    assert!(text(&mut exporter, "", 1).contains("# TYPE h_created gauge\nh_created 7\n"));
    let page = text(&mut exporter, "application/openmetrics-text", 1);
    assert!(page.contains("# TYPE h histogram") && !page.contains("h_created"), "{page}");
}
