//! One scrape's samples as points.

use serde_json::json;
use weir_exposition::Dialect;
use weir_prometheus::family;
use weir_prometheus::otlp::{Honor, Metrics};

use crate::{BEGIN, Bench, OPEN_METRICS, SECOND, target, text};

/// Scenario: a text with families of every kind in both dialects.
/// Guarantees: the same metrics as those of the mapping's own tests (`plugins/prometheus`), and a report on the scrape.
#[test]
fn points_are_those_of_the_mapping() {
    let open = "# HELP c Things.\n# TYPE c counter\nc_total{a=\"1\"} 5 # {k=\"v\"} 0.5\nc_created{a=\"1\"} 3\nc_total{a=\"2\"} 6\n\
        # TYPE h histogram\nh_bucket{le=\"1\"} 1\nh_bucket{le=\"+Inf\"} 2\nh_count 2\nh_sum 3\nh_created 2\n\
        # TYPE s summary\ns{quantile=\"0.5\"} 1\ns_count 2\ns_sum 3\n# TYPE b info\nb_info{v=\"1\"} 1\n\
        # TYPE st stateset\nst{st=\"x\"} 1\n# TYPE g_seconds gauge\n# UNIT g_seconds seconds\ng_seconds{z=\"1\",a=\"2\"} 1 9.5\n# EOF\n";
    let plain = "# TYPE c counter\nc{b=\"1\",a=\"\"} 5\n# TYPE h histogram\nh_bucket{le=\"1\"} 1\nh_bucket{le=\"+Inf\"} 2\nh_sum 3\nh_count 2\n\
        h_bucket{x=\"y\",le=\"+Inf\"} 2\nh_count{x=\"y\"} 2\nalone NaN 5\n# TYPE gh gaugehistogram\ngh_gcount 1\n";
    for (body, dialect, content_type) in
        [(open, Dialect::OpenMetrics, OPEN_METRICS), (plain, Dialect::Plain, crate::PLAIN)]
    {
        let mut bench = Bench::new(json!({}));
        bench.target = target("http://h:1/metrics", &[("env", "prod")]);
        let mut metrics = Metrics::new(&bench.target.labels, Honor::Target, BEGIN);
        let samples =
            family::read(body.as_bytes(), dialect, |family| metrics.add(&family)).expect("a good text");
        let expected = text::of(metrics.finish(None).as_deref());
        let expected: Vec<&str> =
            expected.lines().filter(|line| line.starts_with("    ")).map(|line| &line[4..]).collect();
        let expected = expected.join("\n") + "\n";
        let scraped = bench.scrape(content_type, body);
        assert_eq!(scraped.points, expected);
        assert_eq!(scraped.report("scrape_samples_scraped"), samples as f64);
        assert_eq!(scraped.report("up"), 1.0);
    }
}

/// Scenario: a target with a label of its own, one that clashes, a scope, a `target_info`.
/// Guarantees: the resource has what is known of the target, points have the rest; the plugin is the scope of points that say none.
#[test]
fn a_target_is_a_resource() {
    let mut bench = Bench::with(json!({}), json!({"external_labels": {"dc": "x"}}));
    bench.target = target("https://h/metrics", &[("env", "prod")]);
    let scraped = bench.plain(
        "# TYPE target_info gauge\ntarget_info{version=\"2\"} 1\ng{env=\"dev\",job=\"j\",otel_scope_name=\"lib\",otel_scope_k=\"v\"} 1\ng 2\n",
    );
    let text = scraped.text();
    let version = env!("CARGO_PKG_VERSION");
    let expected = format!(
        "resource\n  dc = \"x\"\n  env = \"prod\"\n  server.address = \"h\"\n  server.port = \"443\"\n  service.instance.id = \"h:1\"\n  \
         service.name = \"shop\"\n  url.scheme = \"https\"\n  version = \"2\"\n  scope \"prometheus-receiver\" \"{version}\"\n    \
         gauge \"g\" type unknown\n      {{dc=\"x\", env=\"prod\"}} time 1000000000000 value 2.0\n"
    );
    assert!(text.starts_with(&expected), "{text}");
    let other = "  scope \"lib\"\n    k = \"v\"\n    gauge \"g\" type unknown\n      \
        {dc=\"x\", env=\"prod\", exported_env=\"dev\", exported_job=\"j\"} time 1000000000000 value 1.0\n";
    assert!(text.contains(other), "{text}");
    assert!(text.contains(
        "gauge \"up\" type gauge\n      about \"The scraping was successful\"\n      {dc=\"x\", env=\"prod\"}"
    ));
}

/// Scenario: federated series, with labels that the target has too, some of them empty; `honor_labels`.
/// Guarantees: what is exposed counts; an empty label keeps the target's away; each job and instance is a resource of its own.
#[test]
fn honored_labels_make_resources() {
    let mut bench = Bench::new(json!({"honor_labels": true}));
    let scraped = bench.plain("g{job=\"a\",instance=\"x\"} 1\ng{job=\"b\",instance=\"\"} 2\ng 3\n");
    let text = scraped.text();
    for resource in [
        "resource\n  service.instance.id = \"x\"\n  service.name = \"a\"\n  scope",
        "resource\n  service.name = \"b\"\n  scope",
        "resource\n  server.address = \"h\"\n  server.port = \"1\"\n  service.instance.id = \"h:1\"\n  service.name = \"shop\"",
    ] {
        assert!(text.contains(resource), "{resource} is not in {text}");
    }
}

/// Scenario: a target that says times, with and without `honor_timestamps`.
/// Guarantees: its times, or that of the scrape.
#[test]
fn times_are_the_targets_unless_they_are_not_honored() {
    assert!(Bench::new(json!({})).plain("g 1 5\n").points.contains("{} time 5000000 value"));
    let scraped = Bench::new(json!({"honor_timestamps": false})).plain("g 1 5\n");
    assert!(scraped.points.contains(&format!("{{}} time {BEGIN} value")), "{}", scraped.points);
}

/// Scenario: a series twice, a bucket twice, a count twice; the same series at two times, and twice at one.
/// Guarantees: the first of each counts, and all of another time; the scrape is good.
#[test]
fn of_a_series_that_stands_twice_the_first_counts() {
    let scraped = Bench::new(json!({})).plain(
        "g{a=\"1\"} 1\ng{a=\"1\"} 2\n# TYPE h histogram\nh_bucket{le=\"1\"} 1\nh_bucket{le=\"1.0\"} 2\nh_count 2\nh_count 3\n\
         t 1 1000\nt 2 2000\nt 3 1000\n",
    );
    assert_eq!(
        scraped.points,
        "gauge \"g\" type unknown\n  {a=\"1\"} time 1000000000000 value 1.0\n\
         histogram cumulative \"h\" type histogram\n  {} time 1000000000000 count 2 buckets [1, 1] bounds [1.0]\n\
         gauge \"t\" type unknown\n  {} time 1000000000 value 1.0\n  {} time 2000000000 value 2.0\n"
    );
    assert_eq!(scraped.report("up"), 1.0);
}

/// Scenario: samples of a histogram that do not stand together; a family whose TYPE comes late.
/// Guarantees: the histogram is one point; only samples behind a TYPE know of it.
#[test]
fn samples_find_together_across_a_text() {
    let scraped = Bench::new(json!({})).plain(
        "# TYPE h histogram\nh_bucket{le=\"1\"} 1\nlate{a=\"1\"} 1\n# TYPE late counter\nlate{a=\"2\"} 2\nh_sum 3\nh_count 2\n",
    );
    assert_eq!(
        scraped.points,
        "histogram cumulative \"h\" type histogram\n  {} time 1000000000000 count 2 sum 3.0 buckets [1, 1] bounds [1.0]\n\
         gauge \"late\" type unknown\n  {a=\"1\"} time 1000000000000 value 1.0\n\
         sum cumulative monotonic \"late\" type counter\n  {a=\"2\"} time 1000000000000 value 2.0\n"
    );
}

/// Scenario: one bad line behind good ones; a label twice; a bucket without a bound.
/// Guarantees: nothing of the scrape is taken.
#[test]
fn one_bad_line_fails_the_scrape() {
    for bad in [
        "x{",
        "x{a=\"1\",a=\"2\"} 1",
        "x 1 2 3",
        "# TYPE x nonsense",
        "x \u{1}",
        "# TYPE h histogram\nh_bucket 1",
    ] {
        let mut bench = Bench::new(json!({}));
        let scraped = bench.plain(&format!("g 1\n{bad}\n"));
        assert_eq!((scraped.report("up"), &*scraped.points), (0.0, ""), "{bad}");
        assert_eq!(bench.at, BEGIN + SECOND);
    }
}

/// Scenario: a hundred thousand series.
/// Guarantees: batches of at most 32,768 points, all of them within a few MiB, and every series in one.
#[test]
fn a_large_scrape_is_several_batches() {
    let mut body = String::new();
    for series in 0..100_000 {
        body.push_str(&format!("g{{series=\"{series}\"}} {series}\n"));
    }
    let scraped = Bench::new(json!({})).plain(&body);
    assert!((4..=8).contains(&scraped.batches.len()), "{}", scraped.batches.len());
    assert!(scraped.batches.iter().all(|batch| batch.body.len() < 5 << 20));
    assert_eq!(scraped.points.matches("value").count(), 100_000);
    assert_eq!(scraped.counts(), [1.0, 100_000.0, 100_000.0, 100_000.0]);
}
