//! What is asked for, which answers are taken, and which settings.

use serde_json::{Value as Json, json};
use weir_guest::{Plugin, Scraper, configure};

use prometheus_receiver::PrometheusReceiver;

use crate::{Bench, OPEN_METRICS, PLAIN, response};

fn accept(job: Json) -> String {
    let mut bench = Bench::new(job);
    let request = bench.plugin.prepare(bench.target.clone());
    assert_eq!((&*request.method, &*request.target), ("GET", "http://h:1/metrics"));
    request.headers.into_iter().find(|(name, _)| name == "accept").expect("an accept header").1
}

/// Scenario: a job without wishes; one that wants native histograms; one with protocols and escaping of its own.
/// Guarantees: the header that Prometheus 3 sends.
#[test]
fn the_accept_header_is_that_of_prometheus() {
    assert_eq!(
        accept(json!({})),
        "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
         application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,\
         text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
    );
    assert_eq!(
        accept(json!({"scrape_native_histograms": true, "metric_name_escaping_scheme": "underscores"})),
        "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.6,\
         application/openmetrics-text;version=1.0.0;escaping=underscores;q=0.5,\
         application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=1.0.0;escaping=underscores;q=0.3,\
         text/plain;version=0.0.4;q=0.2,*/*;q=0.1"
    );
    assert_eq!(
        accept(
            json!({"scrape_protocols": ["PrometheusText0.0.4"], "metric_name_validation_scheme": "legacy"})
        ),
        "text/plain;version=0.0.4;q=0.6,*/*;q=0.5"
    );
}

/// Scenario: a timeout of the job, one of all jobs, none.
/// Guarantees: the target is told its seconds.
#[test]
fn a_target_is_told_how_long_it_has() {
    for (job, global, seconds) in [
        (json!({"scrape_timeout": "1m30s"}), json!({"scrape_timeout": "5s"}), "90"),
        (json!({}), json!({"scrape_timeout": "500ms"}), "0.5"),
        (json!({}), json!({}), "10"),
    ] {
        let mut bench = Bench::with(job, global);
        let request = bench.plugin.prepare(bench.target.clone());
        let header = ("x-prometheus-scrape-timeout-seconds".to_owned(), seconds.to_owned());
        assert!(request.headers.contains(&header), "{:?}", request.headers);
    }
}

/// Scenario: answers of every kind: types that are known and not, other statuses, none at all.
/// Guarantees: status 200 and a known type, or a fallback, are a scrape; everything else is one that failed.
#[test]
fn only_a_good_answer_of_a_known_type_is_a_scrape() {
    let open = "g 1\n# EOF\n";
    for (status, content_type, body, fallback, up) in [
        (200, Some(PLAIN), "g 1\n", None, 1.0),
        (200, Some("text/plain"), "g 1\n", None, 1.0),
        (200, Some(OPEN_METRICS), open, None, 1.0),
        (200, Some("APPLICATION/OpenMetrics-Text"), open, None, 1.0),
        (200, Some("text/html"), "g 1\n", None, 0.0),
        (200, Some("text/html"), "g 1\n", Some("PrometheusText0.0.4"), 1.0),
        (200, None, "g 1\n", None, 0.0),
        (200, None, open, Some("OpenMetricsText1.0.0"), 1.0),
        (200, Some("application/vnd.google.protobuf; encoding=text"), "", None, 0.0),
        (200, Some(OPEN_METRICS), "g 1\n", None, 0.0),
        (204, Some(PLAIN), "g 1\n", None, 0.0),
        (500, Some(PLAIN), "g 1\n", None, 0.0),
    ] {
        let mut bench = Bench::new(json!({"fallback_scrape_protocol": fallback}));
        let scraped = bench.fetched(Ok(response(status, content_type, body)));
        assert_eq!(scraped.report("up"), up, "{status} {content_type:?} {fallback:?}");
        assert_eq!(scraped.points.is_empty(), up == 0.0, "{}", scraped.points);
    }
    let failed = Bench::new(json!({})).fetched(Err("connection refused".into()));
    assert_eq!(failed.counts(), [0.0, 0.0, 0.0, 0.0]);
    assert_eq!(failed.report("scrape_duration_seconds"), 0.5);
}

/// Scenario: a job that asks for the extra reports, with a good answer, none, and one that was too large.
/// Guarantees: three more gauges; the size is 0 and -1 for the last two.
#[test]
fn extra_reports_are_there_where_they_are_asked_for() {
    let job = json!({"extra_scrape_metrics": true, "sample_limit": 9, "scrape_timeout": "3s"});
    for (answer, size) in [
        (Ok(response(200, Some(PLAIN), "g 1\n")), 4.0),
        (Err("connection refused".to_owned()), 0.0),
        (Err("body size limit exceeded".to_owned()), -1.0),
    ] {
        let scraped = Bench::new(job.clone()).fetched(answer);
        assert_eq!(scraped.report("scrape_body_size_bytes"), size);
        assert_eq!(scraped.report("scrape_sample_limit"), 9.0);
        assert_eq!(scraped.report("scrape_timeout_seconds"), 3.0);
        assert_eq!(scraped.reports.len(), 8);
    }
}

/// Scenario: settings as a user of the Collector has them, with the keys that the host reads.
/// Guarantees: they are taken; the schema knows them too.
#[test]
fn settings_of_the_collector_are_taken() {
    let settings = json!({"report_extra_scrape_metrics": true, "config": {
    "global": {"scrape_interval": "15s", "external_labels": {"dc": "x"}},
    "scrape_configs": [{
        "job_name": "a", "scrape_interval": "5s", "metrics_path": "/m", "scheme": "https", "params": {"x": ["y"]},
        "static_configs": [{"targets": ["h:1"], "labels": {"env": "prod"}}],
        "file_sd_configs": [{"files": ["*.json"]}], "relabel_configs": [{"action": "labelmap", "regex": "x"}],
        "basic_auth": {"username": "u"}, "authorization": null, "tls_config": {"insecure_skip_verify": true},
        "body_size_limit": "10MB", "honor_labels": true, "follow_redirects": false,
        "metric_relabel_configs": [{"source_labels": ["__name__"], "regex": "go_.*", "action": "drop"}]
    }]}});
    assert!(configure::<PrometheusReceiver>(&settings.to_string()).is_ok());
    let schema: Json =
        serde_json::from_str(PrometheusReceiver::describe().settings_schema).expect("the schema is JSON");
    let jobs = &schema["properties"]["config"]["properties"]["scrape_configs"]["items"]["properties"];
    for key in settings["config"]["scrape_configs"][0].as_object().expect("a job").keys() {
        assert!(jobs.get(key).is_some(), "{key} is not in the schema");
    }
}

/// Scenario: settings with faults: keys that nobody knows, two jobs of one name, rules and words that are none.
/// Guarantees: each fault has its place.
#[test]
fn faults_of_settings_have_their_place() {
    let faults = |scrape_configs: Json| -> Vec<String> {
        let settings = json!({"config": {"scrape_configs": scrape_configs}});
        let faults = configure::<PrometheusReceiver>(&settings.to_string()).err().expect("faults");
        faults.into_iter().map(|fault| fault.at).collect()
    };
    let at = |rest: &str| format!("/config/scrape_configs/{rest}");
    assert_eq!(faults(json!([{"job_name": "a", "honour_labels": true}])), [at("0/honour_labels")]);
    assert_eq!(
        faults(json!([{"job_name": "a"}, {"job_name": "a"}, {}])),
        [at("1/job_name"), at("2/job_name")]
    );
    assert_eq!(
        faults(json!([{
            "job_name": "a", "scrape_protocols": ["PrometheusText0.0.4", "x"], "scrape_timeout": "soon",
            "fallback_scrape_protocol": "y", "metric_name_validation_scheme": "z",
            "metric_relabel_configs": [
                {"action": "keep"}, {"action": "melt"}, {"regex": "(", "target_label": "t"}, {"action": "hashmod", "target_label": "t"},
                {"action": "uppercase"}
            ]
        }])),
        [
            at("0/metric_relabel_configs/1/action"),
            at("0/metric_relabel_configs/2/regex"),
            at("0/metric_relabel_configs/3/modulus"),
            at("0/metric_relabel_configs/4/target_label"),
            at("0/scrape_protocols/1"),
            at("0/fallback_scrape_protocol"),
            at("0/metric_name_validation_scheme"),
            at("0/scrape_timeout"),
        ]
    );
}
