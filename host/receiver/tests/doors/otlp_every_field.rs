//! Requests with every field of OTLP, and what the text makes of them: nothing may be without a line.

use prost::Message;
use weir_model::Signal;
use weir_proto::opentelemetry::proto::collector::logs::v1::ExportLogsServiceRequest;
use weir_proto::opentelemetry::proto::collector::metrics::v1::ExportMetricsServiceRequest;
use weir_proto::opentelemetry::proto::collector::trace::v1::ExportTraceServiceRequest;
use weir_proto::opentelemetry::proto::common::v1::any_value::Value;
use weir_proto::opentelemetry::proto::common::v1::{
    AnyValue, ArrayValue, EntityRef, InstrumentationScope, KeyValue, KeyValueList,
};
use weir_proto::opentelemetry::proto::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use weir_proto::opentelemetry::proto::metrics::v1::exponential_histogram_data_point::Buckets;
use weir_proto::opentelemetry::proto::metrics::v1::metric::Data;
use weir_proto::opentelemetry::proto::metrics::v1::summary_data_point::ValueAtQuantile;
use weir_proto::opentelemetry::proto::metrics::v1::{
    Exemplar, ExponentialHistogram, ExponentialHistogramDataPoint, Gauge, Histogram, HistogramDataPoint,
    Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics, Sum, Summary, SummaryDataPoint, exemplar,
    number_data_point,
};
use weir_proto::opentelemetry::proto::resource::v1::Resource;
use weir_proto::opentelemetry::proto::trace::v1::span::{Event, Link};
use weir_proto::opentelemetry::proto::trace::v1::{ResourceSpans, ScopeSpans, Span, Status};

use crate::otlp_text as text;

/// Whether both are requests, and not the same one. Not a number is not even itself, so their bytes are compared.
fn differ(signal: Signal, one: &[u8], other: &[u8]) -> bool {
    fn of<M: Message + Default>(one: &[u8], other: &[u8]) -> bool {
        let read = |body| M::decode(body).map(|request| request.encode_to_vec());
        matches!((read(one), read(other)), (Ok(one), Ok(other)) if one != other)
    }
    match signal {
        Signal::Traces => of::<ExportTraceServiceRequest>(one, other),
        Signal::Metrics => of::<ExportMetricsServiceRequest>(one, other),
        Signal::Logs => of::<ExportLogsServiceRequest>(one, other),
    }
}

/// Flips a bit of each byte.
///
/// # Panics
///
/// When a change that makes another request leaves the text as it was, when few changes do make one, or when a field
/// that nobody knows is not in the text.
pub(crate) fn assert_that_changes_show(name: &str, signal: Signal, body: &[u8]) {
    let before = text::of(signal, body).expect(name);
    let mut shown = 0;
    for at in 0..body.len() {
        let mut changed = body.to_vec();
        changed[at] ^= 1 << (at % 8);
        if differ(signal, body, &changed) {
            let after = text::of(signal, &changed).expect(name);
            assert_ne!(after, before, "{name}: bit {} of byte {at}", at % 8);
            shown += 1;
        }
    }
    let more = [body, b"\xc0\x3e\x07"].concat();
    assert_eq!(text::of(signal, &more).expect(name), format!("{before}unread 3 bytes\n"));
    // Most bytes are ids, times and texts; the rest are lengths, tags and continuations of UTF-8.
    assert!(shown > body.len() / 4, "{name}: only {shown} of {} changes made another request", body.len());
}

// === requests with everything ===

fn any(value: Value) -> AnyValue {
    AnyValue { value: Some(value) }
}

fn pair(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(any(value)) }
}

fn resource() -> Resource {
    Resource {
        attributes: vec![pair("service.name", Value::StringValue("shop".to_owned()))],
        dropped_attributes_count: 1,
        entity_refs: vec![EntityRef {
            schema_url: "e".to_owned(),
            r#type: "host".to_owned(),
            id_keys: vec!["host.id".to_owned()],
            description_keys: vec!["host.name".to_owned()],
        }],
    }
}

fn scope() -> InstrumentationScope {
    InstrumentationScope {
        name: "library".to_owned(),
        version: "1.0".to_owned(),
        attributes: vec![pair("in", Value::BoolValue(false))],
        dropped_attributes_count: 2,
    }
}

/// How a resource and a scope with everything begin the text.
const HEAD: &str = r#"resource
  schema "r"
  service.name = "shop"
  dropped 1 attributes
  entity "host" "e"
    id "host.id"
    description "host.name"
  scope "library" "1.0"
    schema "s"
    in = false
    dropped 2 attributes
"#;

/// A value of each kind.
fn values() -> Vec<KeyValue> {
    vec![
        pair("none", Value::StringValue(String::new())),
        KeyValue { key: "bare".to_owned(), value: None },
        KeyValue { key: "empty".to_owned(), value: Some(AnyValue { value: None }) },
        pair("double", Value::DoubleValue(5.0)),
        pair("stale", Value::DoubleValue(f64::from_bits(0x7ff0_0000_0000_0002))),
        pair("bytes", Value::BytesValue(vec![0, 255])),
        pair(
            "map",
            Value::KvlistValue(KeyValueList {
                values: vec![pair(
                    "in \"it\"",
                    Value::ArrayValue(ArrayValue {
                        values: vec![any(Value::IntValue(-1)), any(Value::BoolValue(true))],
                    }),
                )],
            }),
        ),
    ]
}

fn full_span() -> Span {
    Span {
        trace_id: vec![0xa1; 16],
        span_id: vec![0xb2; 8],
        trace_state: "k=v".to_owned(),
        parent_span_id: vec![0xc3; 8],
        flags: 257,
        name: "get".to_owned(),
        kind: 5,
        start_time_unix_nano: 1,
        end_time_unix_nano: u64::MAX,
        attributes: values(),
        dropped_attributes_count: 3,
        events: vec![Event {
            time_unix_nano: 2,
            name: "gone".to_owned(),
            attributes: vec![pair("n", Value::IntValue(i64::MIN))],
            dropped_attributes_count: 4,
        }],
        dropped_events_count: 5,
        links: vec![Link {
            trace_id: vec![0xd4; 16],
            span_id: vec![0xe5; 8],
            trace_state: "l=w".to_owned(),
            attributes: vec![pair("f", Value::DoubleValue(0.1))],
            dropped_attributes_count: 6,
            flags: 769,
        }],
        dropped_links_count: 7,
        status: Some(Status { message: "why".to_owned(), code: 0 }),
    }
}

/// Scenario: a span with everything that a span may have, and one with nothing but ids and with numbers that
/// have no name.
/// Guarantees: each field has its line, and no change of a byte is without one.
#[test]
fn a_span_is_shown_with_every_field() {
    let odd = Span {
        trace_id: vec![1; 16],
        span_id: vec![2; 8],
        kind: 9,
        status: Some(Status { code: 3, ..Status::default() }),
        ..Span::default()
    };
    let scope_spans =
        vec![ScopeSpans { scope: Some(scope()), spans: vec![full_span(), odd], schema_url: "s".to_owned() }];
    let resource_spans =
        vec![ResourceSpans { resource: Some(resource()), scope_spans, schema_url: "r".to_owned() }];
    let body = ExportTraceServiceRequest { resource_spans }.encode_to_vec();
    let expected = r#"    span a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1 b2b2b2b2b2b2b2b2
      parent c3c3c3c3c3c3c3c3
      state "k=v"
      flags 257
      name "get"
      kind CONSUMER
      start 1
      end 18446744073709551615
      none = ""
      bare = empty
      empty = empty
      double = 5.0
      stale = NaN 0x7ff0000000000002
      bytes = base16"00ff"
      map = {"in \"it\"": [-1, true]}
      dropped 3 attributes
      event 2 "gone"
        n = -9223372036854775808
        dropped 4 attributes
      dropped 5 events
      link d4d4d4d4d4d4d4d4d4d4d4d4d4d4d4d4 e5e5e5e5e5e5e5e5 "l=w"
        flags 769
        f = 0.1
        dropped 6 attributes
      dropped 7 links
      status UNSET "why"
    span 01010101010101010101010101010101 0202020202020202
      kind 9
      status 3
"#;
    assert_eq!(text::of(Signal::Traces, &body).unwrap(), format!("{HEAD}{expected}"));
    assert_that_changes_show("a full span", Signal::Traces, &body);
}

fn exemplars() -> Vec<Exemplar> {
    let value = Some(exemplar::Value::AsInt(-3));
    let full = Exemplar {
        filtered_attributes: vec![pair("who", Value::IntValue(1))],
        time_unix_nano: 9,
        span_id: vec![0xb2; 8],
        trace_id: vec![0xa1; 16],
        value,
    };
    vec![full, Exemplar { value: Some(exemplar::Value::AsDouble(0.5)), ..Exemplar::default() }]
}

fn sum_and_gauge() -> [Data; 2] {
    let at = vec![pair("at", Value::StringValue("/".to_owned()))];
    let point = |value| NumberDataPoint {
        attributes: at.clone(),
        start_time_unix_nano: 1,
        time_unix_nano: 2,
        exemplars: exemplars(),
        flags: 1,
        value,
    };
    let points = vec![point(Some(number_data_point::Value::AsInt(0))), point(None)];
    let sum = Sum { data_points: points, aggregation_temporality: 4, is_monotonic: true };
    let value = Some(number_data_point::Value::AsDouble(0.0));
    let gauge = Gauge { data_points: vec![NumberDataPoint { value, ..NumberDataPoint::default() }] };
    [Data::Sum(sum), Data::Gauge(gauge)]
}

fn distributions() -> [Data; 3] {
    let at = vec![pair("at", Value::StringValue("/".to_owned()))];
    let histogram = HistogramDataPoint {
        attributes: at.clone(),
        start_time_unix_nano: 1,
        time_unix_nano: 2,
        count: 9,
        sum: Some(0.0),
        bucket_counts: vec![2, 2, 5, 0, 0, 0],
        explicit_bounds: vec![0.0, 1.5, 1e300],
        exemplars: exemplars(),
        flags: 1,
        min: Some(-1.0),
        max: Some(f64::INFINITY),
    };
    let exponential = ExponentialHistogramDataPoint {
        attributes: at.clone(),
        start_time_unix_nano: 1,
        time_unix_nano: 2,
        count: 9,
        sum: Some(4.5),
        scale: -2,
        zero_count: 3,
        positive: Some(Buckets { offset: -80, bucket_counts: vec![1; 4] }),
        negative: Some(Buckets::default()),
        flags: 1,
        exemplars: exemplars(),
        min: Some(0.0),
        max: Some(2.0),
        zero_threshold: 0.25,
    };
    let summary = SummaryDataPoint {
        attributes: at,
        start_time_unix_nano: 1,
        time_unix_nano: 2,
        count: 9,
        sum: 4.5,
        quantile_values: vec![ValueAtQuantile { quantile: 0.99, value: 12.0 }],
        flags: 1,
    };
    [
        Data::Histogram(Histogram { data_points: vec![histogram], aggregation_temporality: 1 }),
        Data::ExponentialHistogram(ExponentialHistogram {
            data_points: vec![exponential],
            aggregation_temporality: 2,
        }),
        Data::Summary(Summary { data_points: vec![summary] }),
    ]
}

/// Scenario: a metric of each kind with everything that it and its points may have.
/// Guarantees: each field has its line, and no change of a byte is without one.
#[test]
fn a_metric_is_shown_with_every_field() {
    let data = sum_and_gauge().into_iter().chain(distributions()).map(Some).chain([None]);
    let mut metrics: Vec<_> = data.map(|data| Metric { data, ..Metric::default() }).collect();
    metrics[0].name = "requests".to_owned();
    metrics[0].description = "how many".to_owned();
    metrics[0].unit = "{request}".to_owned();
    metrics[0].metadata = vec![pair("type", Value::StringValue("counter".to_owned()))];
    let scope_metrics = vec![ScopeMetrics { scope: Some(scope()), metrics, schema_url: "s".to_owned() }];
    let resource_metrics =
        vec![ResourceMetrics { resource: Some(resource()), scope_metrics, schema_url: "r".to_owned() }];
    let body = ExportMetricsServiceRequest { resource_metrics }.encode_to_vec();
    let point = r#"        point
          at = "/"
          start 1
          time 2
          flags 1
"#;
    let exemplars = r#"          exemplar 9 -3
            trace a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1
            span b2b2b2b2b2b2b2b2
            who = 1
          exemplar 0 0.5
"#;
    let expected = format!(
        r#"{HEAD}    metric "requests"
      description "how many"
      unit "{{request}}"
      metadata
        type = "counter"
      sum 4 monotonic
{point}          value 0
{exemplars}{point}{exemplars}    metric ""
      gauge
        point
          value 0.0
    metric ""
      histogram DELTA
{point}          count 9
          sum 0.0
          min -1.0
          max inf
          bounds [0.0, 1.5, 1e300]
          buckets [2, 2, 5, 0*3]
{exemplars}    metric ""
      exponential histogram CUMULATIVE
{point}          count 9
          sum 4.5
          min 0.0
          max 2.0
          scale -2
          zero 3
          threshold 0.25
          positive -80 [1*4]
          negative 0 []
{exemplars}    metric ""
      summary
{point}          count 9
          sum 4.5
          quantile 0.99 12.0
    metric ""
"#
    );
    assert_eq!(text::of(Signal::Metrics, &body).unwrap(), expected);
    assert_that_changes_show("full metrics", Signal::Metrics, &body);
}

/// Scenario: a log record with everything that a record may have, and one with an empty body.
/// Guarantees: each field has its line, and no change of a byte is without one.
#[test]
fn a_log_record_is_shown_with_every_field() {
    let full = LogRecord {
        time_unix_nano: 1,
        observed_time_unix_nano: 2,
        severity_number: 9,
        severity_text: "Information".to_owned(),
        body: Some(any(Value::BytesValue(vec![1]))),
        attributes: vec![pair("k", Value::IntValue(1))],
        dropped_attributes_count: 3,
        flags: 1,
        trace_id: vec![0xa1; 16],
        span_id: vec![0xb2; 8],
        event_name: "login".to_owned(),
    };
    let bare = LogRecord { body: Some(AnyValue { value: None }), ..LogRecord::default() };
    let scope_logs =
        vec![ScopeLogs { scope: Some(scope()), log_records: vec![full, bare], schema_url: "s".to_owned() }];
    let resource_logs =
        vec![ResourceLogs { resource: Some(resource()), scope_logs, schema_url: "r".to_owned() }];
    let body = ExportLogsServiceRequest { resource_logs }.encode_to_vec();
    let expected = r#"    log
      time 1
      observed 2
      severity 9 "Information"
      event "login"
      trace a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1
      span b2b2b2b2b2b2b2b2
      flags 1
      body base16"01"
      k = 1
      dropped 3 attributes
    log
      body empty
"#;
    assert_eq!(text::of(Signal::Logs, &body).unwrap(), format!("{HEAD}{expected}"));
    assert_that_changes_show("full log records", Signal::Logs, &body);
}
