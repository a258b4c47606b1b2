//! Answers in protobuf.

use serde_json::{Value as Json, json};
use weir_guest::wire::Encoder;

use crate::{Bench, PROTOBUF};

/// A histogram, classic and native, with an exemplar on a bucket and its start.
fn body() -> Vec<u8> {
    let mut family = Encoder::new();
    family.string(1, "h");
    family.string(2, "About.");
    family.varint(3, 4);
    family.string(5, "seconds");
    family.message(4, |metric| {
        metric.message(1, |label| {
            label.string(1, "a");
            label.string(2, "1");
        });
        metric.message(7, |out| {
            out.varint(1, 3);
            out.double(2, 4.5);
            for (count, bound) in [(1, 0.5), (3, 2.0)] {
                out.message(3, |out| {
                    out.varint(1, count);
                    out.double(2, bound);
                    out.message(3, |exemplar| exemplar.double(2, bound));
                });
            }
            out.sint(5, 1);
            out.double(6, 0.25);
            out.message(12, |span| {
                span.sint(1, 0);
                span.varint(2, 2);
            });
            out.packed_varint(13, [2, 2]);
            out.message(15, |time| time.varint(1, 5));
        });
    });
    let mut out = Encoder::new();
    out.raw_varint(family.len() as u64);
    out.raw(family.as_bytes());
    out.into_bytes()
}

fn points(job: Json) -> String {
    let scraped = Bench::new(job).scrape(PROTOBUF, body());
    assert_eq!(scraped.report("up"), 1.0);
    scraped.points
}

const CLASSIC: &str = "histogram cumulative \"h\" unit \"s\" type histogram\n  about \"About.\"\n  {a=\"1\"} time 1000000000000 start 5000000000 \
    count 3 sum 4.5 buckets [1, 2, 0] bounds [0.5, 2.0]\n    exemplar time 1000000000000 value 0.5\n    exemplar time 1000000000000 value 2.0\n";
const NATIVE: &str = "exponential cumulative \"h\" unit \"s\" type histogram\n  about \"About.\"\n  {a=\"1\"} time 1000000000000 start 5000000000 \
    count 3 sum 4.5 scale 1 zero 0 below 0.25 positive -1 [1, 2]\n    exemplar time 1000000000000 value 0.5\n    exemplar time 1000000000000 value 2.0\n";

/// Scenario: a histogram that is classic and native, for jobs that want either, both, wider buckets, or fewer than
/// there can be.
/// Guarantees: what is wanted, with exemplars and start; too many buckets fail the scrape.
#[test]
fn a_job_gets_the_histograms_that_it_wants() {
    assert_eq!(points(json!({})), CLASSIC);
    assert_eq!(points(json!({"scrape_native_histograms": true})), NATIVE);
    let both = json!({"scrape_native_histograms": true, "always_scrape_classic_histograms": true});
    assert_eq!(points(both), format!("{CLASSIC}{NATIVE}"));
    // The buckets meet at 1, where no schema joins them.
    let few = json!({"scrape_native_histograms": true, "native_histogram_bucket_limit": 1});
    let failed = Bench::new(few).scrape(PROTOBUF, body());
    assert_eq!((failed.report("up"), &*failed.points), (0.0, ""));
    assert!(
        points(json!({"scrape_native_histograms": true, "native_histogram_min_bucket_factor": 1.9}))
            .contains("scale 0")
    );
}

/// Scenario: rules over the labels of a native histogram and over the buckets of a classic one; a target that then has nothing.
/// Guarantees: rules see both as Prometheus does; each gets its marker.
#[test]
fn rules_and_markers_know_protobuf_too() {
    let rules = json!([{"source_labels": ["le"], "regex": "0.5", "action": "drop"}, {"target_label": "b", "replacement": "2"}]);
    let classic = points(json!({"metric_relabel_configs": rules}));
    assert!(
        classic.contains("{a=\"1\", b=\"2\"}") && classic.contains("buckets [3, 0] bounds [2.0]"),
        "{classic}"
    );
    let native = points(json!({"metric_relabel_configs": rules, "scrape_native_histograms": true}));
    assert!(native.contains("{a=\"1\", b=\"2\"}") && native.contains("positive -1 [1, 2]"), "{native}");
    let mut bench = Bench::new(json!({"scrape_native_histograms": true}));
    bench.scrape(PROTOBUF, body());
    let empty = bench.scrape(PROTOBUF, "");
    assert_eq!(
        empty.points,
        "exponential cumulative \"h\" unit \"s\" type histogram\n  about \"About.\"\n  {a=\"1\"} time 1001000000000 scale 0 zero 0 below 0.0 gone\n"
    );
}

/// Scenario: a native histogram of schema -53, whose bounds are none.
/// Guarantees: it is a histogram with bounds, not an exponential one.
#[test]
fn a_native_histogram_with_bounds_is_no_exponential_one() {
    let mut family = Encoder::new();
    family.string(1, "h");
    family.varint(3, 4);
    family.message(4, |metric| {
        metric.message(7, |out| {
            out.varint(1, 3);
            out.double(2, 4.5);
            out.sint(5, -53);
            out.message(12, |span| {
                span.sint(1, 0);
                span.varint(2, 1);
            });
            out.packed_varint(13, [6]);
        });
    });
    let mut body = Encoder::new();
    body.raw_varint(family.len() as u64);
    body.raw(family.as_bytes());
    let scraped = Bench::new(json!({"scrape_native_histograms": true})).scrape(PROTOBUF, body.into_bytes());
    assert_eq!(
        scraped.points,
        "histogram cumulative \"h\" type histogram\n  {} time 1000000000000 count 3 sum 4.5 buckets [3] bounds []\n"
    );
}

/// Scenario: bytes that are no protobuf, behind a good family.
/// Guarantees: nothing of the scrape is taken.
#[test]
fn a_broken_message_fails_the_scrape() {
    let scraped = Bench::new(json!({})).scrape(PROTOBUF, [body(), vec![200, 1, 0]].concat());
    assert_eq!((scraped.report("up"), &*scraped.points), (0.0, ""));
}
