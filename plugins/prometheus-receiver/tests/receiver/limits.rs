//! Limits of a job, and of the plugin itself.

use serde_json::{Value as Json, json};

use crate::Bench;

fn up(job: Json, body: &str) -> f64 {
    Bench::new(job).plain(body).report("up")
}

/// Scenario: samples at a limit and one beyond; of those beyond some that rules drop.
/// Guarantees: at the limit is fine; beyond the scrape fails, and all samples are counted; those that are dropped do not count.
#[test]
fn more_samples_than_the_limit_fail_the_scrape() {
    assert_eq!(up(json!({"sample_limit": 2}), "a 1\nb 1\n"), 1.0);
    let failed = Bench::new(json!({"sample_limit": 2})).plain("a 1\nb 1\nc 1\nd 1\n");
    assert_eq!((failed.counts(), &*failed.points), ([0.0, 4.0, 4.0, 0.0], ""));
    let rules = json!([{"source_labels": ["__name__"], "regex": "c", "action": "drop"}]);
    assert_eq!(up(json!({"sample_limit": 2, "metric_relabel_configs": rules}), "a 1\nb 1\nc 1\n"), 1.0);
}

/// Scenario: labels at and beyond each limit, the name, job and instance among them; a limit of all jobs.
/// Guarantees: at the limit is fine; beyond the scrape fails.
#[test]
fn more_labels_than_the_limits_fail_the_scrape() {
    assert_eq!(up(json!({"label_limit": 4}), "g{a=\"1\"} 1\n"), 1.0);
    assert_eq!(up(json!({"label_limit": 3}), "g{a=\"1\"} 1\n"), 0.0);
    assert_eq!(up(json!({"label_name_length_limit": 8}), "g{aaaaaaaa=\"1\"} 1\n"), 1.0);
    assert_eq!(up(json!({"label_name_length_limit": 8}), "g{aaaaaaaaa=\"1\"} 1\n"), 0.0);
    assert_eq!(up(json!({"label_value_length_limit": 5}), "g{a=\"12345\"} 1\n"), 1.0);
    assert_eq!(up(json!({"label_value_length_limit": 5}), "g{a=\"123456\"} 1\n"), 0.0);
    let mut bench = Bench::with(json!({"label_limit": 9}), json!({"label_limit": 3, "sample_limit": 1}));
    assert_eq!(bench.plain("g{a=\"1\"} 1\n").report("up"), 1.0);
    assert_eq!(bench.plain("g{a=\"1\"} 1\ng 1\n").report("up"), 0.0);
}

/// Scenario: names in quotes, with both schemes of validation.
/// Guarantees: `legacy` refuses them, the usual one does not.
#[test]
fn the_legacy_scheme_refuses_other_names() {
    let body = "{\"my.metric\",\"a.b\"=\"1\"} 1\n";
    assert!(
        Bench::new(json!({}))
            .plain(body)
            .points
            .starts_with("gauge \"my.metric\" type unknown\n  {a.b=\"1\"}")
    );
    let legacy = json!({"metric_name_validation_scheme": "legacy"});
    assert_eq!(up(legacy.clone(), body), 0.0);
    assert_eq!(up(legacy.clone(), "m{\"a.b\"=\"1\"} 1\n"), 0.0);
    assert_eq!(up(legacy, "m:x{a_b=\"1\"} 1\n"), 1.0);
}

/// Scenario: a series with more labels than doors take; one line with a million labels; a million short lines; one histogram with
/// a hundred thousand buckets; nothing but braces.
/// Guarantees: the first is dropped, the second fails its scrape, and none of them takes long: the test would not end.
#[test]
fn floods_do_no_harm() {
    let labels = |count: usize| -> String {
        (0..count).map(|label| format!("l{label}=\"\u{e9}\",")).collect::<String>()
    };
    let scraped = Bench::new(json!({})).plain(&format!("g{{{}}} 1\nh 1\n", labels(300)));
    assert!(scraped.points.starts_with("gauge \"h\""), "{}", scraped.points);
    assert_eq!(up(json!({}), &format!("g{{{}}} 1\n", labels(100_000))), 0.0);
    assert_eq!(up(json!({}), &"g 1\n".repeat(1 << 18)), 1.0);
    let buckets: String = (0..100_000).map(|bound| format!("h_bucket{{le=\"{bound}\"}} 1\n")).collect();
    let scraped = Bench::new(json!({})).plain(&format!("# TYPE h histogram\n{buckets}h_count 1\ng 1\n"));
    assert_eq!(scraped.report("up"), 1.0);
    assert_eq!(up(json!({}), &"{".repeat(1 << 20)), 0.0);
    let names: String = (0..50_000).map(|name| format!("# TYPE n{name} counter\n")).collect();
    assert_eq!(up(json!({}), &names), 1.0);
}

/// Scenario: a scrape whose points are more than can be handed to the host at once, after a good one.
/// Guarantees: it fails, says so by `up`, and ends the series that there were.
#[test]
fn more_points_than_can_be_handed_over_fail_the_scrape() {
    let mut bench = Bench::new(json!({}));
    bench.plain("before 1\n");
    let value = "v".repeat(1 << 10);
    let body: String = (0..26_000).map(|series| format!("g{{s=\"{series}\",v=\"{value}\"}} 1\n")).collect();
    let failed = bench.plain(&body);
    assert_eq!(failed.report("up"), 0.0);
    assert!(failed.points.contains("gauge \"before\"") && failed.points.matches("gone").count() == 1);
    assert_eq!(bench.plain("before 1\n").report("up"), 1.0);
}

/// What a body is full of, with how many lines, and these.
type Flood<'f> = (&'static str, usize, &'f dyn Fn(usize) -> String);

/// Scenario: bodies that would take more memory than there is, each in another way: names of families, names of metrics, points that
/// are held, scopes with long texts, one long label, resources that say much; each after a good scrape and before another.
/// Guarantees: each fails its scrape alone, and a target that is remembered is again well afterwards; a tenth of each is fine.
#[test]
fn a_scrape_that_takes_too_much_memory_fails_alone() {
    let lines = |count: usize, line: &dyn Fn(usize) -> String| (0..count).map(line).collect::<String>();
    let help = "h".repeat(4 << 10);
    let floods: [Flood<'_>; 6] = [
        ("families", 13_000, &|n| format!("# TYPE a{n} gauge\n")),
        ("names", 4_000, &|n| format!("a{n} 1\n")),
        ("held", 6_000, &|n| format!("h_bucket{{le=\"1\"}} 1 {n}\n")),
        ("scopes", 1_300, &|n| format!("g{{otel_scope_name=\"{n}\"}} 1\n")),
        ("label", 1, &|_| format!("g{{a=\"{}\"}} 1\n", "v".repeat(500_000))),
        ("infos", 9_000, &|n| format!("target_info{{n=\"{}\"}} 1\n", "v".repeat(n.min(300)))),
    ];
    for (what, count, line) in floods {
        let head = match what {
            "held" => "# TYPE h histogram\n".to_owned(),
            "scopes" => format!("# HELP g {help}\n"),
            _ => String::new(),
        };
        let mut bench = Bench::small(json!({}));
        assert_eq!(bench.plain("before 1\n").report("up"), 1.0);
        let failed = bench.plain(&format!("{head}{}", lines(count, line)));
        assert_eq!(failed.report("up"), 0.0, "{what}");
        assert!(failed.points.contains("gauge \"before\""), "{what}: {}", failed.points);
        assert_eq!(bench.plain("before 1\n").report("up"), 1.0, "{what}");
        if count > 1 {
            assert_eq!(
                bench.plain(&format!("{head}{}", lines(count / 10, line))).report("up"),
                1.0,
                "{what}"
            );
        }
    }
}

/// Scenario: a HELP of many KiB.
/// Guarantees: its beginning is kept.
#[test]
fn a_long_help_is_cut() {
    let scraped = Bench::new(json!({})).plain(&format!("# HELP g {}\ng 1\n", "h".repeat(1 << 16)));
    assert!(scraped.points.contains(&format!("about \"{}\"\n", "h".repeat(1024))), "{}", scraped.points);
}

/// Scenario: ever more targets of a thousand series each in an instance that remembers one MiB; then one of them leaves.
/// Guarantees: those for which there is no room fail, the others go on; there is room for another one where one has left.
#[test]
fn targets_for_which_there_is_no_room_fail_alone() {
    let body: String = (0..1_000).map(|n| format!("g{{n=\"{n}\"}} 1\n")).collect();
    let mut bench = Bench::small(json!({}));
    let mut up = Vec::new();
    for target in 0..12 {
        bench.target = crate::target(&format!("http://h:{target}/metrics"), &[]);
        up.push(bench.plain(&body).report("up"));
    }
    assert_eq!((up[0], up[11]), (1.0, 0.0), "{up:?}");
    bench.target = crate::target("http://h:0/metrics", &[]);
    assert_eq!(bench.plain(&body).report("up"), 1.0);
    bench.forget();
    bench.target = crate::target("http://h:11/metrics", &[]);
    assert_eq!(bench.plain(&body).report("up"), 1.0);
}

/// Scenario: samples that their family has not, each with a scope of its own, scrape after scrape.
/// Guarantees: nothing of them is remembered: many such scrapes are as good as the first.
#[test]
fn samples_without_a_place_leave_nothing_behind() {
    let mut bench = Bench::small(json!({}));
    for round in 0..20 {
        let samples: String =
            (0..1_000).map(|n| format!("h{{otel_scope_name=\"{round}_{n}\"}} 1\n")).collect();
        let scraped = bench.plain(&format!("# TYPE h histogram\n{samples}g 1\n"));
        assert_eq!(scraped.report("up"), 1.0, "round {round}");
    }
}
