//! The scraper from outside: settings and answers in, OTLP out.

#[path = "../../../prometheus/tests/mapping/text.rs"]
mod text;

mod asking;
mod limits;
mod mapping;
mod protobuf;
mod random;
mod relabel;
mod staleness;
mod vectors;

use prometheus_receiver::PrometheusReceiver;
use serde_json::{Value as Json, json};
use weir_guest::wire::Signal;
use weir_guest::wire::walk::{WalkLimits, walk};
use weir_guest::{Batch, Fetched, Response, Scraper, Target, configure};

/// A second, in nanoseconds.
const SECOND: u64 = 1_000_000_000;

/// When the first scrape is; the others follow each other by a second.
const BEGIN: u64 = 1_000 * SECOND;

const PLAIN: &str = "text/plain; version=0.0.4; charset=utf-8";
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const PROTOBUF: &str =
    "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited";

/// A plugin with one target that is scraped.
struct Bench {
    plugin: PrometheusReceiver,
    target: Target,
    at: u64,
}

/// What came of one scrape: the text of its points, and of the reports on it.
struct Scraped {
    points: String,
    reports: Vec<(String, f64)>,
    batches: Vec<Batch>,
}

impl Bench {
    /// A job `shop` with these settings.
    fn new(job: Json) -> Self {
        Self::with(job, json!({}))
    }

    fn with(mut job: Json, global: Json) -> Self {
        job["job_name"] = json!("shop");
        let settings = json!({"config": {"global": global, "scrape_configs": [job]}});
        let plugin = configure(&settings.to_string()).unwrap_or_else(|faults| panic!("{faults:?}"));
        Self { plugin, target: target("http://h:1/metrics", &[]), at: BEGIN }
    }

    /// One that remembers a MiB.
    fn small(mut job: Json) -> Self {
        job["job_name"] = json!("shop");
        let settings = json!({"config": {"scrape_configs": [job]}, "state_mib": 1});
        let plugin = configure(&settings.to_string()).unwrap_or_else(|faults| panic!("{faults:?}"));
        Self { plugin, target: target("http://h:1/metrics", &[]), at: BEGIN }
    }

    fn fetched(&mut self, answer: Result<Response, String>) -> Scraped {
        let fetched = Fetched { at: self.at, took: SECOND / 2, answer };
        self.at += SECOND;
        Scraped::of(self.plugin.digest(self.target.clone(), fetched))
    }

    fn scrape(&mut self, content_type: &str, body: impl Into<Vec<u8>>) -> Scraped {
        self.fetched(Ok(response(200, Some(content_type), body)))
    }

    fn plain(&mut self, body: &str) -> Scraped {
        self.scrape(PLAIN, body)
    }

    fn forget(&mut self) -> Scraped {
        self.at += SECOND;
        Scraped::of(self.plugin.forget(self.target.clone(), self.at - SECOND))
    }
}

fn target(url: &str, more: &[(&str, &str)]) -> Target {
    let mut labels = vec![("instance".to_owned(), "h:1".to_owned()), ("job".to_owned(), "shop".to_owned())];
    labels.extend(more.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    labels.sort();
    Target { job: "shop".into(), url: url.into(), labels }
}

fn response(status: u16, content_type: Option<&str>, body: impl Into<Vec<u8>>) -> Response {
    let headers = content_type.map(|value| ("Content-Type".to_owned(), value.to_owned()));
    Response { status, headers: headers.into_iter().collect(), body: body.into() }
}

impl Scraped {
    fn of(batches: Vec<Batch>) -> Self {
        for batch in &batches {
            let walked = walk(Signal::Metrics, &batch.body, &WalkLimits::default());
            assert_eq!(walked.expect("well-formed").invalid, []);
        }
        let text = text::of(batches.iter().map(|batch| &*batch.body));
        let (mut points, mut reports) = (String::new(), Vec::new());
        let mut report = None;
        for line in text.lines() {
            if let Some(head) = line.strip_prefix("    gauge \"") {
                let name = head.split('"').next().expect("a name");
                report = (name == "up" || name.starts_with("scrape_")).then(|| name.to_owned());
            } else if !line.starts_with("      ") {
                report = None;
            }
            match &report {
                Some(name) => {
                    if let Some((_, value)) = line.rsplit_once(" value ") {
                        reports.push((name.clone(), value.parse().expect("a number")));
                    } else if line.ends_with(" gone") {
                        reports.push((name.clone(), f64::NEG_INFINITY));
                    }
                }
                None if line.starts_with("    ") => {
                    points.push_str(&line[4..]);
                    points.push('\n');
                }
                None => {}
            }
        }
        Self { points, reports, batches }
    }

    fn report(&self, name: &str) -> f64 {
        let found: Vec<f64> =
            self.reports.iter().filter(|(known, _)| known == name).map(|(_, value)| *value).collect();
        let [value] = found[..] else { panic!("{name}: {:?}", self.reports) };
        value
    }

    /// up, samples scraped, samples left, series added.
    fn counts(&self) -> [f64; 4] {
        ["up", "scrape_samples_scraped", "scrape_samples_post_metric_relabeling", "scrape_series_added"]
            .map(|name| self.report(name))
    }

    fn text(&self) -> String {
        text::of(self.batches.iter().map(|batch| &*batch.body))
    }
}
