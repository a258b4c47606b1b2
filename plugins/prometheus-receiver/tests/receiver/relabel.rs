//! `metric_relabel_configs`.

use serde_json::{Value as Json, json};

use crate::Bench;

/// The points of a text after some rules.
fn points(rules: Json, body: &str) -> String {
    Bench::new(json!({"metric_relabel_configs": rules})).plain(body).points
}

/// Scenario: each action, with a series that it touches and one that it does not.
/// Guarantees: what Prometheus' own action does.
#[test]
fn every_action_does_what_prometheus_does() {
    let body = "g{a=\"foo\",b=\"bar\",c=\"baz\"} 1\nother{a=\"x\",b=\"x\"} 2\n";
    let (foo, other) = ("{a=\"foo\", b=\"bar\", c=\"baz\"}", "{a=\"x\", b=\"x\"}");
    for (rule, first, second) in [
        (
            json!({"source_labels": ["a"], "regex": "f(.*)", "target_label": "d", "replacement": "ch${1}-$1"}),
            "{a=\"foo\", b=\"bar\", c=\"baz\", d=\"choo-oo\"}",
            other,
        ),
        (
            json!({"source_labels": ["a", "b"], "separator": "-", "target_label": "a"}),
            "{a=\"foo-bar\", b=\"bar\", c=\"baz\"}",
            "{a=\"x-x\", b=\"x\"}",
        ),
        (
            json!({"source_labels": ["a"], "regex": "foo", "target_label": "a", "replacement": ""}),
            "{b=\"bar\", c=\"baz\"}",
            other,
        ),
        (
            json!({"source_labels": ["a"], "regex": "oo", "target_label": "a", "replacement": "part"}),
            foo,
            other,
        ),
        (
            json!({"source_labels": ["a"], "regex": "(f)(.*)", "target_label": "t_$1", "replacement": "$2"}),
            "{a=\"foo\", b=\"bar\", c=\"baz\", t_f=\"oo\"}",
            other,
        ),
        (
            json!({"target_label": "k", "replacement": "v"}),
            "{a=\"foo\", b=\"bar\", c=\"baz\", k=\"v\"}",
            "{a=\"x\", b=\"x\", k=\"v\"}",
        ),
        (json!({"source_labels": ["a"], "regex": "foo|bar", "action": "keep"}), foo, ""),
        (json!({"source_labels": ["a"], "regex": "fo.", "action": "drop"}), "", other),
        (json!({"source_labels": ["a"], "target_label": "b", "action": "keepequal"}), "", other),
        (json!({"source_labels": ["a"], "target_label": "b", "action": "dropequal"}), foo, ""),
        (
            json!({"source_labels": ["c"], "target_label": "d", "action": "hashmod", "modulus": 1000}),
            "{a=\"foo\", b=\"bar\", c=\"baz\", d=\"976\"}",
            "{a=\"x\", b=\"x\", d=\"958\"}",
        ),
        (
            json!({"regex": "(b|c)", "action": "labelmap", "replacement": "bar_${1}"}),
            "{a=\"foo\", b=\"bar\", bar_b=\"bar\", bar_c=\"baz\", c=\"baz\"}",
            "{a=\"x\", b=\"x\", bar_b=\"x\"}",
        ),
        (json!({"regex": "(b.*|c)", "action": "labeldrop"}), "{a=\"foo\"}", "{a=\"x\"}"),
        (json!({"regex": "a|__name__|job|instance", "action": "labelkeep"}), "{a=\"foo\"}", "{a=\"x\"}"),
        (
            json!({"source_labels": ["a"], "target_label": "a", "action": "uppercase"}),
            "{a=\"FOO\", b=\"bar\", c=\"baz\"}",
            "{a=\"X\", b=\"x\"}",
        ),
        (json!({"source_labels": ["a"], "target_label": "a", "action": "Lowercase"}), foo, other),
    ] {
        let points = points(json!([rule]), body);
        let line = |value: &str| {
            let found = points.lines().find(|line| line.ends_with(value)).unwrap_or_default();
            found.trim_start().split(" time").next().unwrap_or_default().to_owned()
        };
        assert_eq!((&*line("value 1.0"), &*line("value 2.0")), (first, second), "{rule}");
    }
}

/// Scenario: rules that rename a metric, that take its name, that drop buckets by their bound.
/// Guarantees: a metric of the new name knows of no type; without a name the scrape fails; a histogram has the buckets that are left.
#[test]
fn a_name_is_a_label_and_so_is_a_bound() {
    let rename = json!([{"source_labels": ["__name__"], "regex": "c_(.*)", "target_label": "__name__", "replacement": "d_$1"}]);
    assert_eq!(
        points(rename, "# TYPE c_total counter\nc_total 1\n"),
        "gauge \"d_total\" type unknown\n  {} time 1000000000000 value 1.0\n"
    );
    let nameless = json!([{"regex": "__name__", "action": "labeldrop"}]);
    let failed = Bench::new(json!({"metric_relabel_configs": nameless})).plain("g 1\n");
    assert_eq!((failed.report("up"), &*failed.points), (0.0, ""));
    let thin = json!([{"source_labels": ["__name__", "le"], "regex": "h_bucket;(1|2)", "action": "drop"}]);
    let mut bench = Bench::new(json!({"metric_relabel_configs": thin}));
    let scraped = bench.plain(
        "# TYPE h histogram\nh_bucket{le=\"1\"} 1\nh_bucket{le=\"2\"} 2\nh_bucket{le=\"3\"} 3\nh_count 4\n",
    );
    assert_eq!(
        scraped.points,
        "histogram cumulative \"h\" type histogram\n  {} time 1000000000000 count 4 buckets [3, 1] bounds [3.0]\n"
    );
    assert_eq!(scraped.counts(), [1.0, 4.0, 2.0, 2.0]);
}

/// Scenario: rules that drop series which were there; `up` among what they match.
/// Guarantees: reports on a scrape are not touched by rules.
#[test]
fn reports_are_not_touched_by_rules() {
    let none = json!([{"source_labels": ["__name__"], "regex": ".*", "action": "drop"}]);
    let scraped = Bench::new(json!({"metric_relabel_configs": none})).plain("g 1\n");
    assert_eq!((&*scraped.points, scraped.counts()), ("", [1.0, 1.0, 0.0, 0.0]));
}
