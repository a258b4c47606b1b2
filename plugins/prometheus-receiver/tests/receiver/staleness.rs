//! Series that are gone.

use serde_json::json;
use weir_guest::Scraper;

use crate::{BEGIN, Bench, PLAIN, SECOND, Scraped, response, target};

/// Lines of points that are gone.
fn gone(scraped: &Scraped) -> Vec<&str> {
    scraped.points.lines().filter(|line| line.ends_with("gone")).map(str::trim_start).collect()
}

/// Scenario: a series that is there, not there, there again, with others beside it.
/// Guarantees: one marker, with its labels and the time of the scrape that did not have it; `scrape_series_added` says what is new.
#[test]
fn a_series_that_is_missing_gets_one_marker() {
    let mut bench = Bench::new(json!({}));
    let first = bench.plain("# TYPE g gauge\ng{a=\"1\",b=\"x\"} 1\ng{a=\"2\"} 1\n");
    assert_eq!((gone(&first), first.report("scrape_series_added")), (vec![], 2.0));
    // Labels in another order are the same labels.
    let second = bench.plain("# TYPE g gauge\ng{b=\"x\",a=\"1\"} 1\n");
    assert_eq!(gone(&second), ["{a=\"2\"} time 1001000000000 gone"]);
    assert_eq!(second.report("scrape_series_added"), 0.0);
    assert!(second.points.starts_with("gauge \"g\" type gauge\n"), "{}", second.points);
    assert_eq!(gone(&bench.plain("# TYPE g gauge\ng{a=\"1\",b=\"x\"} 1\n")), Vec::<&str>::new());
    let back = bench.plain("# TYPE g gauge\ng{a=\"1\",b=\"x\"} 1\ng{a=\"2\"} 1\n");
    assert_eq!((gone(&back), back.report("scrape_series_added")), (vec![], 1.0));
}

/// Scenario: a histogram, a summary, a counter and a fact whose target then has nothing; the histogram with other buckets between.
/// Guarantees: one marker each, in a metric of the same kind, the histogram's with its last buckets and nothing in them.
#[test]
fn every_kind_of_series_gets_its_marker() {
    let mut bench = Bench::new(json!({}));
    bench.plain("# TYPE h histogram\nh_bucket{le=\"1\"} 1\nh_bucket{le=\"+Inf\"} 2\nh_count 2\n# TYPE s summary\ns_count 1\n");
    let between = bench.plain(
        "# TYPE h histogram\nh_bucket{le=\"2\"} 1\nh_bucket{le=\"+Inf\"} 2\nh_count 2\n# TYPE s summary\ns_count 1\n# TYPE c_total counter\nc_total 1\n",
    );
    assert_eq!((gone(&between), between.report("scrape_series_added")), (vec![], 1.0));
    let empty = bench.plain("");
    assert_eq!(empty.report("up"), 1.0);
    assert_eq!(
        empty.points,
        "histogram cumulative \"h\" type histogram\n  {} time 1002000000000 buckets [0, 0] bounds [2.0] gone\n\
         summary \"s\" type summary\n  {} time 1002000000000 gone\n\
         sum cumulative monotonic \"c_total\" type counter\n  {} time 1002000000000 gone\n"
    );
}

/// Scenario: scrapes that fail in every way, after a good one; the first of them with a body that is good but for its last line.
/// Guarantees: all series of the good one get markers, once; `up` is 0 and has none; nothing of the bad body leaves a trace.
#[test]
fn a_failed_scrape_ends_all_series() {
    for answer in [
        Ok(response(200, Some(PLAIN), "g{a=\"1\"} 1\nnew 1\nbad{\n")),
        Ok(response(500, None, "")),
        Err("connection refused".to_owned()),
    ] {
        let mut bench = Bench::new(json!({}));
        bench.plain("g{a=\"1\"} 1\nplain 1\n");
        let failed = bench.fetched(answer.clone());
        assert_eq!(failed.report("up"), 0.0);
        assert_eq!(
            gone(&failed),
            ["{a=\"1\"} time 1001000000000 gone", "{} time 1001000000000 gone"],
            "{answer:?}"
        );
        assert!(!failed.points.contains("\"new\""), "{}", failed.points);
        let again = bench.fetched(answer);
        assert_eq!(again.points, "");
        assert_eq!(bench.plain("g{a=\"1\"} 1\n").report("scrape_series_added"), 1.0);
    }
}

/// Scenario: a target without labels of its series, of which the only one goes by a failure.
/// Guarantees: its marker is there.
#[test]
fn a_series_without_labels_is_not_forgotten() {
    let mut bench = Bench::new(json!({}));
    bench.plain("g 1\n");
    assert_eq!(gone(&bench.fetched(Err("timeout".to_owned()))).len(), 1);
}

/// Scenario: series with times of their own that go, with and without `track_timestamps_staleness`.
/// Guarantees: markers only where that is asked for.
#[test]
fn series_with_times_get_markers_where_that_is_asked_for() {
    for (tracks, markers) in [(false, 0), (true, 1)] {
        let mut bench = Bench::new(json!({"track_timestamps_staleness": tracks}));
        assert_eq!(bench.plain("g 1 1000\n").report("scrape_series_added"), 1.0);
        assert_eq!(bench.plain("g 2 2000\n").report("scrape_series_added"), 0.0);
        assert_eq!(gone(&bench.plain("")).len(), markers);
    }
}

/// Scenario: a target that leaves the configuration, well or failing; another of the same URL with other labels that stays.
/// Guarantees: markers of its series and of every report, once; the other one's series are untouched.
#[test]
fn a_target_that_leaves_takes_its_reports_with_it() {
    let mut bench = Bench::new(json!({"extra_scrape_metrics": true}));
    bench.plain("g 1\n");
    let kept = bench.target.clone();
    bench.target = target("http://h:1/metrics", &[("env", "other")]);
    bench.plain("g{a=\"1\"} 1\n");
    let left = bench.forget();
    assert_eq!(gone(&left), ["{a=\"1\", env=\"other\"} time 1002000000000 gone"]);
    assert_eq!(left.reports.len(), 8);
    assert!(left.reports.iter().all(|(_, value)| *value == f64::NEG_INFINITY), "{:?}", left.reports);
    assert!(bench.plugin.forget(bench.target.clone(), BEGIN + 9 * SECOND).is_empty());
    bench.target = kept;
    assert_eq!(gone(&bench.plain("")).len(), 1);
}

/// Scenario: a target with other names, labels and buckets in each of a thousand scrapes.
/// Guarantees: each scrape's series get their markers in the next one; nothing piles up that would change a later one.
#[test]
fn a_target_that_is_always_another_one_is_followed() {
    let mut bench = Bench::new(json!({}));
    for round in 0..1_000 {
        let mut body = String::new();
        for series in 0..5 {
            body.push_str(&format!("# TYPE h{round}_{series} histogram\nh{round}_{series}_bucket{{r=\"{round}\",le=\"{round}\"}} 1\nh{round}_{series}_count{{r=\"{round}\"}} 1\n"));
        }
        body.push_str("same 1\n");
        let scraped = bench.plain(&body);
        assert_eq!(gone(&scraped).len(), if round == 0 { 0 } else { 5 }, "round {round}");
        assert_eq!(scraped.points.matches(" count 1 ").count(), 5, "round {round}");
        if round > 0 {
            let name = format!("h{}_0\"", round - 1);
            assert!(scraped.points.contains(&name), "{name} in {}", scraped.points);
        }
    }
}
