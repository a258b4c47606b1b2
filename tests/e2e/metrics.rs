//! Metrics of OTLP and OpenCensus through all that speaks Prometheus: the page in both formats, remote write out and in.

mod shop;
mod text;

use expect_test::{Expect, expect};
use http::Request;
use http_body_util::Full;
use prost::Message as _;
use weir_proto::google::protobuf::{DoubleValue, Int64Value, Timestamp};
use weir_proto::opencensus::proto::agent::common::v1::{Node, ProcessIdentifier, ServiceInfo};
use weir_proto::opencensus::proto::agent::metrics::v1 as census_service;
use weir_proto::opencensus::proto::metrics::v1 as census;
use weir_proto::opentelemetry::proto::collector::metrics::v1::ExportMetricsServiceRequest;
use weir_proto::opentelemetry::proto::common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value};
use weir_proto::opentelemetry::proto::metrics::v1::metric::Data;
use weir_proto::opentelemetry::proto::metrics::v1::{
    AggregationTemporality, ExponentialHistogram, ExponentialHistogramDataPoint, Gauge, Histogram,
    HistogramDataPoint, Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics, Sum, Summary,
    SummaryDataPoint, exponential_histogram_data_point, number_data_point, summary_data_point,
};
use weir_proto::opentelemetry::proto::resource::v1::Resource;
use weir_tests::client::{Grpc, HttpClient};
use weir_tests::sender::OPENCENSUS_METRICS_EXPORT;
use weir_tests::sink::grpc_path;
use weir_tests::wait::until;
use weir_tests::{OtlpSink, RequestSink, Weir, wait_until};
use weir_wire::Signal;

use crate::run::DELIVERY_DEADLINE;

/// What comes by OTLP and OpenCensus is shown, written in version 1.0, and written in version 2.0 to another pipeline.
const CONFIG: &str = "receivers:
  otlp: {protocols: {grpc: {endpoint: <otlp>}}}
  opencensus: {endpoint: <opencensus>}
  prometheusremotewrite: {endpoint: <write>}
exporters:
  prometheus: {endpoint: <page>}
  prometheusremotewrite: {endpoint: 'http://<sink>/api/v1/write', retry: {initial_interval: 10ms, max_interval: 100ms}}
  prometheusremotewrite/two:
    endpoint: http://<write>/api/v1/write
    protobuf_message: io.prometheus.write.v2.Request
    retry: {initial_interval: 10ms, max_interval: 100ms}
  otlp: {endpoint: 'http://<backend>', retry: {initial_interval: 10ms, max_interval: 100ms}}
service:
  pipelines:
    metrics: {receivers: [otlp, opencensus], exporters: [prometheus, prometheusremotewrite, prometheusremotewrite/two]}
    metrics/back: {receivers: [prometheusremotewrite], exporters: [otlp]}
";

const SECOND: u64 = 1_000_000_000;

/// When counts begin, and when they are read, in nanoseconds of the epoch.
const START: u64 = 1_700_000_000 * SECOND;
const READ: u64 = START + 60 * SECOND;

struct Stage {
    weir: Weir,
    sink: RequestSink,
    backend: OtlpSink,
    http: HttpClient,
}

impl Stage {
    async fn start() -> Self {
        let (sink, backend) = (RequestSink::start([]).await, OtlpSink::start().await);
        let known = [("sink", sink.address()), ("backend", backend.address())];
        let weir = Weir::start(CONFIG, &known).await;
        Self { weir, sink, backend, http: HttpClient::default() }
    }

    async fn call(&self, door: &str, path: &str, message: &impl prost::Message) {
        let mut grpc = Grpc::connect(self.weir.address(door)).await.expect("the door is open");
        let outcome = grpc.call(path, &message.encode_to_vec()).await.expect("an end");
        assert_eq!(outcome.status.code, 0, "{:?}", outcome.status);
    }

    /// The page for somebody who takes this, without what it says of itself.
    async fn page(&self, accept: &str) -> String {
        let request = Request::get(format!("http://{}/metrics", self.weir.address("page")));
        let request = request.header("accept", accept).body(Full::default()).expect("a request of ours");
        let answer = self.http.send(request).await.expect("the page answers");
        assert_eq!(answer.status(), 200, "{:?}", answer.body());
        let content = answer.headers()["content-type"].to_str().expect("text").to_owned();
        let text = String::from_utf8(answer.into_body().into()).expect("the page is text");
        let lines = text.lines().filter(|line| !line.contains("weir_page_"));
        lines.fold(format!("{content}\n"), |page, line| page + line + "\n")
    }

    /// Waits until this is on the page, and compares both formats.
    async fn shows(&self, last: &str, plain: Expect, open: Expect) {
        let shown =
            until(DELIVERY_DEADLINE, async || self.page("text/plain").await.contains(last).then_some(()));
        shown.await.unwrap_or_else(|| panic!("no {last} on the page:\n{}", self.weir.log().tail()));
        plain.assert_eq(&self.page("text/plain").await);
        open.assert_eq(&self.page("application/openmetrics-text;version=1.0.0").await);
    }

    /// Waits for a first request of remote write, and compares it.
    async fn writes(&self, expected: Expect) {
        let arrival = wait_until(DELIVERY_DEADLINE, "what is written", || self.sink.arrivals().pop()).await;
        assert_eq!(arrival.path, "/api/v1/write");
        assert_eq!(arrival.headers["content-type"], "application/x-protobuf");
        assert_eq!(arrival.headers["x-prometheus-remote-write-version"], "0.1.0");
        let body = snap::raw::Decoder::new().decompress_vec(&arrival.body).expect("it is snappy");
        expected.assert_eq(&text::of_write(&text::WriteRequest::decode(&*body).expect("a request")));
    }

    /// Compares what the receiver of remote write made of what came to it.
    async fn takes_back(&self, expected: Expect) {
        let seen = wait_until(DELIVERY_DEADLINE, "points at the backend", || {
            Some(self.backend.metrics()).filter(|seen| !seen.is_empty())
        });
        expected.assert_eq(&text::of_otlp(&seen.await));
    }
}

// === OTLP ===

fn pair(key: &str, text: &str) -> KeyValue {
    let value = Some(AnyValue { value: Some(any_value::Value::StringValue(text.into())) });
    KeyValue { key: key.into(), value }
}

fn otlp(metrics: Vec<Metric>) -> ExportMetricsServiceRequest {
    let attributes = vec![
        pair("service.name", "shop"),
        pair("service.namespace", "eu"),
        pair("service.instance.id", "one"),
        pair("host.name", "h1"),
    ];
    let scope = InstrumentationScope { name: "meter".into(), version: "1.2".into(), ..Default::default() };
    let scope_metrics = vec![ScopeMetrics { scope: Some(scope), metrics, ..Default::default() }];
    let resource = Some(Resource { attributes, ..Default::default() });
    ExportMetricsServiceRequest {
        resource_metrics: vec![ResourceMetrics { resource, scope_metrics, ..Default::default() }],
    }
}

fn metric(name: &str, unit: &str, data: Data) -> Metric {
    let (name, description) = (name.to_owned(), format!("what {name} is"));
    Metric { name, description, unit: unit.into(), data: Some(data), ..Default::default() }
}

fn number(start: u64, time: u64, value: number_data_point::Value) -> Vec<NumberDataPoint> {
    vec![NumberDataPoint {
        attributes: vec![pair("path", "/items")],
        start_time_unix_nano: start,
        time_unix_nano: time,
        value: Some(value),
        ..Default::default()
    }]
}

fn sum(temporality: AggregationTemporality, is_monotonic: bool, from: u64, to: u64, value: i64) -> Data {
    let data_points = number(from, to, number_data_point::Value::AsInt(value));
    Data::Sum(Sum { data_points, aggregation_temporality: temporality.into(), is_monotonic })
}

/// Every type that OTLP has.
fn all_types() -> Vec<Metric> {
    let attributes = || vec![pair("path", "/items")];
    let gauge = Gauge { data_points: number(0, READ, number_data_point::Value::AsDouble(21.5)) };
    let histogram = HistogramDataPoint {
        attributes: attributes(),
        start_time_unix_nano: START,
        time_unix_nano: READ,
        count: 6,
        sum: Some(9.5),
        explicit_bounds: vec![0.1, 1.0],
        bucket_counts: vec![1, 2, 3],
        ..Default::default()
    };
    let exponential = ExponentialHistogramDataPoint {
        attributes: attributes(),
        start_time_unix_nano: START,
        time_unix_nano: READ,
        count: 4,
        sum: Some(5.5),
        scale: 0,
        zero_count: 1,
        positive: Some(exponential_histogram_data_point::Buckets { offset: 0, bucket_counts: vec![2, 1] }),
        ..Default::default()
    };
    let quantile = |quantile, value| summary_data_point::ValueAtQuantile { quantile, value };
    let summary = SummaryDataPoint {
        attributes: attributes(),
        start_time_unix_nano: START,
        time_unix_nano: READ,
        count: 5,
        sum: 12.5,
        quantile_values: vec![quantile(0.5, 2.0), quantile(0.99, 4.0)],
        ..Default::default()
    };
    let cumulative = AggregationTemporality::Cumulative;
    let aggregation_temporality = cumulative.into();
    let histogram = Histogram { data_points: vec![histogram], aggregation_temporality };
    let exponential = ExponentialHistogram { data_points: vec![exponential], aggregation_temporality };
    vec![
        metric("shop.requests", "1", sum(cumulative, true, START, READ, 7)),
        delta(START, READ, 100),
        metric("shop.waiting", "", sum(cumulative, false, START, READ, 3)),
        metric("shop.temperature", "Cel", Data::Gauge(gauge)),
        metric("shop.latency", "s", Data::Histogram(histogram)),
        metric("shop.sizes", "By", Data::ExponentialHistogram(exponential)),
        metric("shop.patience", "s", Data::Summary(Summary { data_points: vec![summary] })),
    ]
}

fn delta(from: u64, to: u64, value: i64) -> Metric {
    metric("shop.sent", "By", sum(AggregationTemporality::Delta, true, from, to, value))
}

/// Scenario: metrics of every type come by OTLP, a delta twice; the page is read in both formats; they are written in version 1.0
/// to a backend, and in 2.0 to a receiver of ours.
/// Guarantees: each is on the page, the deltas added up; each but the deltas, which are counted, is written, and comes out of the
/// receiver as what it was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn otlp_metrics_are_on_the_page_and_written_and_come_back() {
    let stage = Stage::start().await;
    let path = grpc_path(Signal::Metrics);
    stage.call("otlp", path, &otlp(all_types())).await;
    stage.writes(shop::written()).await;
    stage.takes_back(shop::back()).await;
    stage.call("otlp", path, &otlp(vec![delta(READ, READ + SECOND, 50)])).await;
    stage.shows("} 150\n", shop::plain(), shop::open()).await;
    let lost = [("exporter", "prometheusremotewrite")];
    let name = "weir_exporter_rejected_metric_points_total";
    stage.weir.metric_becomes(DELIVERY_DEADLINE, name, &lost, 2.0).await;
    stage.weir.stop().await;
}

// === OpenCensus ===

fn moment(nanos: u64) -> Option<Timestamp> {
    Some(Timestamp { seconds: (nanos / SECOND).cast_signed(), nanos: 0 })
}

fn measured(
    name: &str,
    unit: &str,
    kind: census::metric_descriptor::Type,
    value: census::point::Value,
) -> census::Metric {
    let descriptor = census::MetricDescriptor {
        name: name.into(),
        description: format!("what {name} is"),
        unit: unit.into(),
        r#type: kind.into(),
        label_keys: vec![census::LabelKey { key: "path".into(), description: String::new() }],
    };
    let series = census::TimeSeries {
        start_timestamp: moment(START),
        label_values: vec![census::LabelValue { value: "/items".into(), has_value: true }],
        points: vec![census::Point { timestamp: moment(READ), value: Some(value) }],
    };
    census::Metric { metric_descriptor: Some(descriptor), timeseries: vec![series], resource: None }
}

fn census_metrics() -> census_service::ExportMetricsServiceRequest {
    use census::distribution_value::bucket_options::{Explicit, Type as Bounds};
    use census::distribution_value::{Bucket, BucketOptions};
    use census::metric_descriptor::Type;
    use census::point::Value;
    use census::summary_value::{Snapshot, snapshot::ValueAtPercentile};

    let bucket = |count| Bucket { count, exemplar: None };
    let distribution = census::DistributionValue {
        count: 6,
        sum: 30.5,
        bucket_options: Some(BucketOptions {
            r#type: Some(Bounds::Explicit(Explicit { bounds: vec![1.0, 10.0] })),
        }),
        buckets: vec![bucket(1), bucket(2), bucket(3)],
        ..Default::default()
    };
    let percentile = |percentile, value| ValueAtPercentile { percentile, value };
    let summary = census::SummaryValue {
        count: Some(Int64Value { value: 5 }),
        sum: Some(DoubleValue { value: 12.5 }),
        snapshot: Some(Snapshot {
            percentile_values: vec![percentile(50.0, 2.0), percentile(99.0, 4.0)],
            ..Default::default()
        }),
    };
    let identifier = ProcessIdentifier { host_name: "h2".into(), pid: 42, start_timestamp: moment(START) };
    let service_info = Some(ServiceInfo { name: "till".into() });
    census_service::ExportMetricsServiceRequest {
        node: Some(Node { identifier: Some(identifier), service_info, ..Default::default() }),
        metrics: vec![
            measured("till.calls", "1", Type::CumulativeInt64, Value::Int64Value(11)),
            measured("till.paid", "By", Type::CumulativeDouble, Value::DoubleValue(2.5)),
            measured("till.open", "", Type::GaugeInt64, Value::Int64Value(3)),
            measured(
                "till.latency",
                "ms",
                Type::CumulativeDistribution,
                Value::DistributionValue(distribution),
            ),
            measured("till.patience", "s", Type::Summary, Value::SummaryValue(summary)),
        ],
        resource: None,
    }
}

/// Scenario: metrics of OpenCensus: counts, a gauge, a distribution, a summary; the page is read in both formats; they are
/// written in version 1.0 to a backend, and in 2.0 to a receiver of ours.
/// Guarantees: each is on the page, is written, and comes out of the receiver as what it was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn opencensus_metrics_are_on_the_page_and_written_and_come_back() {
    let stage = Stage::start().await;
    stage.call("opencensus", OPENCENSUS_METRICS_EXPORT, &census_metrics()).await;
    stage.writes(expect![[r#"
        target_info{host_name="h2",job="till",opencensus_starttime="2023-11-14T22:13:20Z",process_pid="42"} 1 @1700000060000
        till_calls_total{job="till",path="/items"} 11 @1700000060000
        till_latency_milliseconds_bucket{job="till",le="+Inf",path="/items"} 6 @1700000060000
        till_latency_milliseconds_bucket{job="till",le="1",path="/items"} 1 @1700000060000
        till_latency_milliseconds_bucket{job="till",le="10",path="/items"} 3 @1700000060000
        till_latency_milliseconds_count{job="till",path="/items"} 6 @1700000060000
        till_latency_milliseconds_sum{job="till",path="/items"} 30.5 @1700000060000
        till_open{job="till",path="/items"} 3 @1700000060000
        till_paid_bytes_total{job="till",path="/items"} 2.5 @1700000060000
        till_patience_seconds_count{job="till",path="/items"} 5 @1700000060000
        till_patience_seconds_sum{job="till",path="/items"} 12.5 @1700000060000
        till_patience_seconds{job="till",path="/items",quantile="0.5"} 2 @1700000060000
        till_patience_seconds{job="till",path="/items",quantile="0.99"} 4 @1700000060000
    "#]]).await;
    stage.takes_back(expect![[r#"
        [service.name="till",host_name="h2",opencensus_starttime="2023-11-14T22:13:20Z",process_pid="42"] till_calls_total ("", sum 2 true) {path="/items"} 11.0 @1700000060000000000
        [service.name="till",host_name="h2",opencensus_starttime="2023-11-14T22:13:20Z",process_pid="42"] till_open ("", gauge) {path="/items"} 3.0 @1700000060000000000
        [service.name="till",host_name="h2",opencensus_starttime="2023-11-14T22:13:20Z",process_pid="42"] till_paid_bytes_total ("By", sum 2 true) {path="/items"} 2.5 @1700000060000000000
        [service.name="till",host_name="h2",opencensus_starttime="2023-11-14T22:13:20Z",process_pid="42"] till_latency_milliseconds ("ms", histogram 2) {path="/items"} count 6 sum Some(30.5) bounds [1.0, 10.0] buckets [1, 2, 3] @1700000060000000000
        [service.name="till",host_name="h2",opencensus_starttime="2023-11-14T22:13:20Z",process_pid="42"] till_patience_seconds ("s", summary) {path="/items"} count 5 sum 12.5 [(0.5, 2.0), (0.99, 4.0)] @1700000060000000000
    "#]]).await;
    stage
        .shows(
            "till_open",
            expect![[r#"
        text/plain; version=0.0.4; charset=utf-8
        # HELP target_info Target metadata
        # TYPE target_info gauge
        target_info{job="till",host_name="h2",opencensus_starttime="2023-11-14T22:13:20Z",process_pid="42"} 1
        # HELP till_calls_total what till.calls is
        # TYPE till_calls_total counter
        till_calls_total{job="till",path="/items"} 11
        # HELP till_latency_milliseconds what till.latency is
        # TYPE till_latency_milliseconds histogram
        till_latency_milliseconds_bucket{job="till",path="/items",le="1"} 1
        till_latency_milliseconds_bucket{job="till",path="/items",le="10"} 3
        till_latency_milliseconds_bucket{job="till",path="/items",le="+Inf"} 6
        till_latency_milliseconds_sum{job="till",path="/items"} 30.5
        till_latency_milliseconds_count{job="till",path="/items"} 6
        # HELP till_open what till.open is
        # TYPE till_open gauge
        till_open{job="till",path="/items"} 3
        # HELP till_paid_bytes_total what till.paid is
        # TYPE till_paid_bytes_total counter
        till_paid_bytes_total{job="till",path="/items"} 2.5
        # HELP till_patience_seconds what till.patience is
        # TYPE till_patience_seconds summary
        till_patience_seconds{job="till",path="/items",quantile="0.5"} 2
        till_patience_seconds{job="till",path="/items",quantile="0.99"} 4
        till_patience_seconds_sum{job="till",path="/items"} 12.5
        till_patience_seconds_count{job="till",path="/items"} 5
    "#]],
            expect![[r#"
        application/openmetrics-text; version=1.0.0; charset=utf-8
        # HELP target Target metadata
        # TYPE target info
        target_info{job="till",host_name="h2",opencensus_starttime="2023-11-14T22:13:20Z",process_pid="42"} 1
        # HELP till_calls what till.calls is
        # TYPE till_calls counter
        till_calls_total{job="till",path="/items"} 11
        till_calls_created{job="till",path="/items"} 1700000000.0
        # HELP till_latency_milliseconds what till.latency is
        # TYPE till_latency_milliseconds histogram
        # UNIT till_latency_milliseconds milliseconds
        till_latency_milliseconds_bucket{job="till",path="/items",le="1.0"} 1
        till_latency_milliseconds_bucket{job="till",path="/items",le="10.0"} 3
        till_latency_milliseconds_bucket{job="till",path="/items",le="+Inf"} 6
        till_latency_milliseconds_sum{job="till",path="/items"} 30.5
        till_latency_milliseconds_count{job="till",path="/items"} 6
        till_latency_milliseconds_created{job="till",path="/items"} 1700000000.0
        # HELP till_open what till.open is
        # TYPE till_open gauge
        till_open{job="till",path="/items"} 3
        # HELP till_paid_bytes what till.paid is
        # TYPE till_paid_bytes counter
        # UNIT till_paid_bytes bytes
        till_paid_bytes_total{job="till",path="/items"} 2.5
        till_paid_bytes_created{job="till",path="/items"} 1700000000.0
        # HELP till_patience_seconds what till.patience is
        # TYPE till_patience_seconds summary
        # UNIT till_patience_seconds seconds
        till_patience_seconds{job="till",path="/items",quantile="0.5"} 2
        till_patience_seconds{job="till",path="/items",quantile="0.99"} 4
        till_patience_seconds_sum{job="till",path="/items"} 12.5
        till_patience_seconds_count{job="till",path="/items"} 5
        till_patience_seconds_created{job="till",path="/items"} 1700000000.0
        # EOF
    "#]],
        )
        .await;
    stage.weir.stop().await;
}
