//! Each kind of data by each temporality: two points, and what is on the page.

use super::*;

/// The page after two batches of one metric each, and what was not taken of the second.
fn after_two(first: Write<'_>, second: Write<'_>) -> (Vec<String>, (u32, String)) {
    let mut exporter = exporter("{}");
    assert_eq!(rejected(exporter.absorb_at(&batch(&[first]), 1)).0, 0);
    let outcome = rejected(exporter.absorb_at(&batch(&[second]), 2));
    (samples(&mut exporter, OPEN, 2), outcome)
}

fn lines(page: &[&str]) -> Vec<String> {
    page.iter().map(|line| (*line).to_owned()).collect()
}

/// Scenario: monotonic sums, cumulative and delta: that follow, leave a gap, overlap, are older.
/// Guarantees: the last value, the sum of deltas since the last gap, each with its start; what is not taken is counted.
#[test]
fn sums_are_counters() {
    let sum = |temporality, start, time, value| {
        let point = number(start * SECOND, time * SECOND, value);
        move |out: &mut Encoder| metric("s", 7, temporality, &[&point])(out)
    };
    let page = |value: u64, start: &str| {
        (lines(&[&format!("s_total {value}"), &format!("s_created {start}")]), (0, String::new()))
    };
    assert_eq!(after_two(&sum(2, 1, 2, 5.0), &sum(2, 1, 3, 7.0)), page(7, "1.0"));
    assert_eq!(after_two(&sum(2, 1, 2, 5.0), &sum(2, 3, 4, 1.0)), page(1, "3.0"), "a reset");
    assert_eq!(after_two(&sum(2, 1, 3, 5.0), &sum(2, 1, 2, 4.0)), page(5, "1.0"), "older");
    assert_eq!(after_two(&sum(1, 1, 2, 5.0), &sum(1, 2, 3, 7.0)), page(12, "1.0"));
    assert_eq!(after_two(&sum(1, 1, 2, 5.0), &sum(1, 0, 3, 7.0)), page(12, "1.0"), "no start");
    assert_eq!(after_two(&sum(1, 1, 2, 5.0), &sum(1, 3, 4, 7.0)), page(7, "3.0"), "a gap");
    let (samples, (count, message)) = after_two(&sum(1, 1, 3, 5.0), &sum(1, 2, 4, 7.0));
    assert_eq!((samples, count), (lines(&["s_total 5", "s_created 1.0"]), 1));
    assert!(message.contains("1 overlap"), "{message}");
}

/// Scenario: sums that are not monotonic, cumulative and delta, and gauges.
/// Guarantees: gauges with the last value; a delta is not taken, and counted.
#[test]
fn what_goes_down_is_a_gauge() {
    let sum = |temporality: u64, value| {
        move |out: &mut Encoder| {
            out.string(1, "s");
            out.message(7, |data| {
                data.message(1, number(0, 5, value));
                data.varint(2, temporality);
            });
        }
    };
    let point = [number(0, 5, 1.0), number(0, 6, -2.5)];
    let gauge = |at: usize| {
        let point = &point[at];
        move |out: &mut Encoder| metric("g", 5, 0, &[point])(out)
    };
    assert_eq!(after_two(&sum(2, 5.0), &sum(2, -7.0)).0, lines(&["s -7"]));
    assert_eq!(after_two(&gauge(0), &gauge(1)).0, lines(&["g -2.5"]));
    let mut exporter = exporter("{}");
    let (count, message) = rejected(exporter.absorb_at(&batch(&[&sum(1, 5.0)]), 1));
    assert!(count == 1 && message.contains("1 temporality"), "{count} {message}");
    assert_eq!(samples(&mut exporter, "", 1), Vec::<String>::new());
    let own = "weir_page_dropped_points_total{reason=\"temporality\"} 1\n";
    assert!(text(&mut exporter, "", 1).contains(own));
}

/// Scenario: histograms, cumulative and delta, with the same bounds and with others.
/// Guarantees: cumulative counts for each bound; deltas added up; other bounds begin anew.
#[test]
fn histograms_have_buckets() {
    let data = |temporality, start, time, bound, counts: [u64; 2]| {
        let point = histogram(start * SECOND, time * SECOND, &[bound], &counts, Some(1.5));
        move |out: &mut Encoder| metric("h", 9, temporality, &[&point])(out)
    };
    let page = |bound: &str, below: u64, count: u64, sum: &str, start: &str| {
        vec![
            format!("h_bucket{{le=\"{bound}\"}} {below}"),
            format!("h_bucket{{le=\"+Inf\"}} {count}"),
            format!("h_sum {sum}"),
            format!("h_count {count}"),
            format!("h_created {start}"),
        ]
    };
    let first = |temporality| data(temporality, 1, 2, 1.0, [1, 2]);
    assert_eq!(after_two(&first(2), &data(2, 1, 3, 1.0, [2, 3])).0, page("1.0", 2, 5, "1.5", "1.0"));
    assert_eq!(after_two(&first(1), &data(1, 2, 3, 1.0, [2, 3])).0, page("1.0", 3, 8, "3", "1.0"));
    assert_eq!(after_two(&first(1), &data(1, 2, 3, 7.0, [2, 3])).0, page("7.0", 2, 5, "1.5", "2.0"));
    assert_eq!(after_two(&first(1), &data(1, 5, 6, 1.0, [2, 3])).0, page("1.0", 2, 5, "1.5", "5.0"));
}

/// Scenario: exponential histograms, cumulative and delta of another scale, and one after one with bounds.
/// Guarantees: bounds of their buckets; deltas merged down to the coarser scale; another kind of histogram begins anew.
#[test]
fn exponential_histograms_have_buckets_too() {
    let data = |temporality: u64, start: u64, time: u64, scale: i64, counts: Vec<u64>| {
        move |out: &mut Encoder| {
            let counts = &counts;
            let point = move |out: &mut Encoder| {
                out.fixed64(2, start * SECOND);
                out.fixed64(3, time * SECOND);
                out.fixed64(4, counts.iter().sum::<u64>());
                out.double(5, 2.0);
                out.sint(6, scale);
                out.message(8, |side| side.packed_varint(2, counts.iter().copied()));
            };
            metric("h", 10, temporality, &[&point])(out);
        }
    };
    let buckets = |samples: &[String]| {
        let buckets = samples.iter().filter_map(|line| line.strip_prefix("h_bucket{le=\""));
        buckets.map(|line| line.replace("\"}", "")).collect::<Vec<_>>().join(", ")
    };
    let (samples, _) = after_two(&data(2, 1, 2, 0, vec![1]), &data(2, 1, 3, 0, vec![1, 2]));
    assert_eq!(buckets(&samples), "1.0 0, 2.0 1, 4.0 3, +Inf 3");
    let (samples, _) = after_two(&data(1, 1, 2, 0, vec![1]), &data(1, 2, 3, 1, vec![1, 2, 4]));
    assert_eq!(buckets(&samples), "1.0 0, 2.0 4, 4.0 8, +Inf 8");
    assert!(samples.contains(&"h_sum 4".to_owned()) && samples.contains(&"h_created 1.0".to_owned()));
    let bounds = histogram(SECOND, 2 * SECOND, &[1.0], &[1, 2], None);
    let explicit = |out: &mut Encoder| metric("h", 9, 1, &[&bounds])(out);
    let (samples, _) = after_two(&explicit, &data(1, 2, 3, 0, vec![5]));
    assert_eq!(buckets(&samples), "1.0 0, 2.0 5, +Inf 5");
}

/// Scenario: summaries, quantiles out of order, one twice.
/// Guarantees: the last one, quantiles in order, each once.
#[test]
fn summaries_have_quantiles() {
    let data = |time: u64, quantiles: &[(f64, f64)]| {
        let quantiles = quantiles.to_vec();
        move |out: &mut Encoder| {
            let quantiles = &quantiles;
            let point = move |out: &mut Encoder| {
                out.fixed64(2, SECOND);
                out.fixed64(3, time);
                out.fixed64(4, 3);
                out.double(5, 0.5);
                for (quantile, value) in quantiles {
                    out.message(6, |out| {
                        out.double(1, *quantile);
                        out.double(2, *value);
                    });
                }
            };
            metric("q", 11, 0, &[&point])(out);
        }
    };
    let (samples, _) =
        after_two(&data(2, &[(0.5, 9.0)]), &data(3, &[(0.99, 3.0), (0.0, 1.0), (0.99, 4.0), (-0.0, 2.0)]));
    let page = ["q{quantile=\"0.0\"} 1", "q{quantile=\"0.99\"} 3", "q_sum 0.5", "q_count 3", "q_created 1.0"];
    assert_eq!(samples, lines(&page));
}
