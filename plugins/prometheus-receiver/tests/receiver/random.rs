//! Bodies that nobody would send.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::{Bench, OPEN_METRICS, PLAIN, PROTOBUF};

/// Scenario: a second of scrapes of one target, with good bodies and such with bytes changed, cut and doubled, in every spelling, with
/// rules and limits and without.
/// Guarantees: no panic; what comes out passes the check of the host's doors (in `Scraped::of`); a good body behind it all is as good
/// as it ever was.
#[test]
fn random_bodies_do_no_harm() {
    const TEXT: &str = "# HELP h text \\\\ \\n\n# TYPE h histogram\nh_bucket{le=\"1.0\",b=\"\\\"q\\\"\"} 1\nh_bucket{le=\"+Inf\",b=\"\\\"q\\\"\"} 2\n\
        h_count{b=\"\\\"q\\\"\"} 2\nh_sum{b=\"\\\"q\\\"\"} 3\n# TYPE c counter\nc_total{job=\"x\",otel_scope_name=\"s\"} 5\n\
        {\"quoted.name\",\"lab.el\"=\"v\"} NaN\ntarget_info{a=\"b\"} 1\n";
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let vectors = crate::vectors::all();
    let rules = json!([{"source_labels": ["b"], "regex": "(.)(.*)", "target_label": "${1}x", "replacement": "$2"}, {"regex": "lab.*", "action": "labeldrop"}]);
    let mut benches = [
        Bench::new(json!({"scrape_native_histograms": true, "always_scrape_classic_histograms": true})),
        Bench::new(
            json!({"metric_relabel_configs": rules, "honor_labels": true, "label_limit": 9, "track_timestamps_staleness": true}),
        ),
    ];
    let (mut good, mut bad) = (0, 0);
    let until = Instant::now() + Duration::from_secs(1);
    while Instant::now() < until {
        let (content_type, mut body) = match random.usize(..3 + usize::from(!vectors.is_empty())) {
            0 => (PLAIN, TEXT.as_bytes().to_vec()),
            1 => (OPEN_METRICS, format!("{TEXT}# EOF\n").into_bytes()),
            2 => (PROTOBUF, std::iter::repeat_with(|| random.u8(..)).take(64).collect()),
            _ => vectors[random.usize(..vectors.len())].clone(),
        };
        for _ in 0..random.usize(..4) {
            if body.is_empty() {
                break;
            }
            let at = random.usize(..body.len());
            match random.u8(..5) {
                0 => body.truncate(at),
                1 => body.insert(at, b"{}\"\\\n#=, "[random.usize(..9)]),
                2 if body.len() < 100_000 => body.extend_from_within(at..),
                3 => drop(body.remove(at)),
                _ => body[at] = random.u8(..),
            }
        }
        let bench = &mut benches[random.usize(..2)];
        let up = bench.scrape(content_type, body).report("up");
        if up == 1.0 { good += 1 } else { bad += 1 }
    }
    println!("{good} good, {bad} bad");
    assert!(good > 20 && bad > 20);
    for mut bench in benches {
        bench.fetched(Err("timeout".to_owned()));
        let scraped = bench.plain("g{a=\"1\"} 1\n");
        assert_eq!(
            (scraped.counts(), scraped.points.matches("value 1.0").count()),
            ([1.0, 1.0, 1.0, 1.0], 1),
            "seed {seed}"
        );
        assert_eq!(bench.plain("").points.matches("gone").count(), 1, "seed {seed}");
    }
}
