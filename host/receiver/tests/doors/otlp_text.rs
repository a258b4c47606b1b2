//! OTLP as text, for reading and comparing; `tests/cases/otlp/README.md` says how to read it.
//!
//! Every message is taken apart by all of its fields, so that one which has no line here does not compile.

use std::fmt::Write as _;

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

/// The text of a request, or why its bytes are none.
pub(crate) fn of(signal: Signal, body: &[u8]) -> Result<String, prost::DecodeError> {
    let mut text = String::new();
    let read = match signal {
        Signal::Traces => {
            let request = ExportTraceServiceRequest::decode(body)?;
            traces(&mut text, &request);
            request.encoded_len()
        }
        Signal::Metrics => {
            let request = ExportMetricsServiceRequest::decode(body)?;
            metrics(&mut text, &request);
            request.encoded_len()
        }
        Signal::Logs => {
            let request = ExportLogsServiceRequest::decode(body)?;
            logs(&mut text, &request);
            request.encoded_len()
        }
    };
    if read != body.len() {
        line(&mut text, 0, format!("unread {} bytes", body.len() as i64 - read as i64));
    }
    Ok(text)
}

// === resources and scopes ===

fn traces(text: &mut String, ExportTraceServiceRequest { resource_spans }: &ExportTraceServiceRequest) {
    for ResourceSpans { resource, scope_spans, schema_url } in resource_spans {
        self::resource(text, resource.as_ref(), schema_url);
        for ScopeSpans { scope, spans, schema_url } in scope_spans {
            self::scope(text, scope.as_ref(), schema_url);
            spans.iter().for_each(|each| span(text, each));
        }
    }
}

fn metrics(
    text: &mut String,
    ExportMetricsServiceRequest { resource_metrics }: &ExportMetricsServiceRequest,
) {
    for ResourceMetrics { resource, scope_metrics, schema_url } in resource_metrics {
        self::resource(text, resource.as_ref(), schema_url);
        for ScopeMetrics { scope, metrics, schema_url } in scope_metrics {
            self::scope(text, scope.as_ref(), schema_url);
            metrics.iter().for_each(|each| metric(text, each));
        }
    }
}

fn logs(text: &mut String, ExportLogsServiceRequest { resource_logs }: &ExportLogsServiceRequest) {
    for ResourceLogs { resource, scope_logs, schema_url } in resource_logs {
        self::resource(text, resource.as_ref(), schema_url);
        for ScopeLogs { scope, log_records, schema_url } in scope_logs {
            self::scope(text, scope.as_ref(), schema_url);
            log_records.iter().for_each(|each| log(text, each));
        }
    }
}

fn resource(text: &mut String, resource: Option<&Resource>, schema_url: &str) {
    line(text, 0, "resource");
    string(text, 1, "schema", schema_url);
    let Some(Resource { attributes, dropped_attributes_count, entity_refs }) = resource else { return };
    self::attributes(text, 1, attributes);
    dropped(text, 1, *dropped_attributes_count, "attributes");
    for EntityRef { schema_url, r#type, id_keys, description_keys } in entity_refs {
        line(text, 1, format!("entity {}{}", quoted(r#type), behind(schema_url)));
        id_keys.iter().for_each(|key| line(text, 2, format!("id {}", quoted(key))));
        description_keys.iter().for_each(|key| line(text, 2, format!("description {}", quoted(key))));
    }
}

fn scope(text: &mut String, scope: Option<&InstrumentationScope>, schema_url: &str) {
    let none = InstrumentationScope::default();
    let InstrumentationScope { name, version, attributes, dropped_attributes_count } = scope.unwrap_or(&none);
    line(text, 1, format!("scope{}{}", behind(name), behind(version)));
    string(text, 2, "schema", schema_url);
    self::attributes(text, 2, attributes);
    dropped(text, 2, *dropped_attributes_count, "attributes");
}

// === spans ===

const KINDS: [&str; 6] = ["UNSPECIFIED", "INTERNAL", "SERVER", "CLIENT", "PRODUCER", "CONSUMER"];
const CODES: [&str; 3] = ["UNSET", "OK", "ERROR"];

fn span(text: &mut String, span: &Span) {
    let Span {
        trace_id,
        span_id,
        trace_state,
        parent_span_id,
        flags,
        name,
        kind,
        start_time_unix_nano,
        end_time_unix_nano,
        attributes,
        dropped_attributes_count,
        events,
        dropped_events_count,
        links,
        dropped_links_count,
        status,
    } = span;
    line(text, 2, format!("span {} {}", hex(trace_id), hex(span_id)));
    id(text, 3, "parent", parent_span_id);
    string(text, 3, "state", trace_state);
    number(text, 3, "flags", u64::from(*flags));
    string(text, 3, "name", name);
    if *kind != 0 {
        line(text, 3, format!("kind {}", named(&KINDS, *kind)));
    }
    number(text, 3, "start", *start_time_unix_nano);
    number(text, 3, "end", *end_time_unix_nano);
    self::attributes(text, 3, attributes);
    dropped(text, 3, *dropped_attributes_count, "attributes");
    events.iter().for_each(|each| event(text, each));
    dropped(text, 3, *dropped_events_count, "events");
    links.iter().for_each(|each| link(text, each));
    dropped(text, 3, *dropped_links_count, "links");
    let Some(Status { message, code }) = status else { return };
    if *code != 0 || !message.is_empty() {
        line(text, 3, format!("status {}{}", named(&CODES, *code), behind(message)));
    }
}

fn event(text: &mut String, event: &Event) {
    let Event { time_unix_nano, name, attributes, dropped_attributes_count } = event;
    line(text, 3, format!("event {time_unix_nano} {}", quoted(name)));
    self::attributes(text, 4, attributes);
    dropped(text, 4, *dropped_attributes_count, "attributes");
}

fn link(text: &mut String, link: &Link) {
    let Link { trace_id, span_id, trace_state, attributes, dropped_attributes_count, flags } = link;
    line(text, 3, format!("link {} {}{}", hex(trace_id), hex(span_id), behind(trace_state)));
    number(text, 4, "flags", u64::from(*flags));
    self::attributes(text, 4, attributes);
    dropped(text, 4, *dropped_attributes_count, "attributes");
}

// === metrics ===

const TEMPORALITIES: [&str; 3] = ["UNSPECIFIED", "DELTA", "CUMULATIVE"];

fn metric(text: &mut String, metric: &Metric) {
    let Metric { name, description, unit, metadata, data } = metric;
    line(text, 2, format!("metric {}", quoted(name)));
    string(text, 3, "description", description);
    string(text, 3, "unit", unit);
    if !metadata.is_empty() {
        line(text, 3, "metadata");
        attributes(text, 4, metadata);
    }
    match data {
        None => {}
        Some(Data::Gauge(Gauge { data_points })) => {
            line(text, 3, "gauge");
            data_points.iter().for_each(|point| number_point(text, point));
        }
        Some(Data::Sum(Sum { data_points, aggregation_temporality, is_monotonic })) => {
            let monotonic = if *is_monotonic { " monotonic" } else { "" };
            line(text, 3, format!("sum {}{monotonic}", named(&TEMPORALITIES, *aggregation_temporality)));
            data_points.iter().for_each(|point| number_point(text, point));
        }
        Some(Data::Histogram(Histogram { data_points, aggregation_temporality })) => {
            line(text, 3, format!("histogram {}", named(&TEMPORALITIES, *aggregation_temporality)));
            data_points.iter().for_each(|point| histogram_point(text, point));
        }
        Some(Data::ExponentialHistogram(ExponentialHistogram { data_points, aggregation_temporality })) => {
            let temporality = named(&TEMPORALITIES, *aggregation_temporality);
            line(text, 3, format!("exponential histogram {temporality}"));
            data_points.iter().for_each(|point| exponential_point(text, point));
        }
        Some(Data::Summary(Summary { data_points })) => {
            line(text, 3, "summary");
            data_points.iter().for_each(|point| summary_point(text, point));
        }
    }
}

/// What points of all kinds have.
fn point(text: &mut String, attributes: &[KeyValue], start: u64, time: u64, flags: u32) {
    line(text, 4, "point");
    self::attributes(text, 5, attributes);
    number(text, 5, "start", start);
    number(text, 5, "time", time);
    number(text, 5, "flags", u64::from(flags));
}

fn number_point(text: &mut String, point: &NumberDataPoint) {
    let NumberDataPoint { attributes, start_time_unix_nano, time_unix_nano, exemplars, flags, value } = point;
    self::point(text, attributes, *start_time_unix_nano, *time_unix_nano, *flags);
    match value {
        None => {}
        Some(number_data_point::Value::AsDouble(value)) => line(text, 5, format!("value {}", double(*value))),
        Some(number_data_point::Value::AsInt(value)) => line(text, 5, format!("value {value}")),
    }
    exemplars.iter().for_each(|each| exemplar(text, each));
}

fn histogram_point(text: &mut String, point: &HistogramDataPoint) {
    let HistogramDataPoint {
        attributes,
        start_time_unix_nano,
        time_unix_nano,
        count,
        sum,
        bucket_counts,
        explicit_bounds,
        exemplars,
        flags,
        min,
        max,
    } = point;
    self::point(text, attributes, *start_time_unix_nano, *time_unix_nano, *flags);
    line(text, 5, format!("count {count}"));
    extent(text, *sum, *min, *max);
    if !explicit_bounds.is_empty() {
        let bounds: Vec<_> = explicit_bounds.iter().copied().map(double).collect();
        line(text, 5, format!("bounds [{}]", bounds.join(", ")));
    }
    if !bucket_counts.is_empty() {
        line(text, 5, format!("buckets {}", runs(bucket_counts)));
    }
    exemplars.iter().for_each(|each| exemplar(text, each));
}

fn exponential_point(text: &mut String, point: &ExponentialHistogramDataPoint) {
    let ExponentialHistogramDataPoint {
        attributes,
        start_time_unix_nano,
        time_unix_nano,
        count,
        sum,
        scale,
        zero_count,
        positive,
        negative,
        flags,
        exemplars,
        min,
        max,
        zero_threshold,
    } = point;
    self::point(text, attributes, *start_time_unix_nano, *time_unix_nano, *flags);
    line(text, 5, format!("count {count}"));
    extent(text, *sum, *min, *max);
    line(text, 5, format!("scale {scale}"));
    line(text, 5, format!("zero {zero_count}"));
    if zero_threshold.to_bits() != 0 {
        line(text, 5, format!("threshold {}", double(*zero_threshold)));
    }
    for (side, buckets) in [("positive", positive), ("negative", negative)] {
        if let Some(Buckets { offset, bucket_counts }) = buckets {
            line(text, 5, format!("{side} {offset} {}", runs(bucket_counts)));
        }
    }
    exemplars.iter().for_each(|each| exemplar(text, each));
}

fn summary_point(text: &mut String, point: &SummaryDataPoint) {
    let SummaryDataPoint {
        attributes,
        start_time_unix_nano,
        time_unix_nano,
        count,
        sum,
        quantile_values,
        flags,
    } = point;
    self::point(text, attributes, *start_time_unix_nano, *time_unix_nano, *flags);
    line(text, 5, format!("count {count}"));
    extent(text, Some(*sum), None, None);
    for ValueAtQuantile { quantile, value } in quantile_values {
        line(text, 5, format!("quantile {} {}", double(*quantile), double(*value)));
    }
}

fn extent(text: &mut String, sum: Option<f64>, min: Option<f64>, max: Option<f64>) {
    for (name, value) in [("sum", sum), ("min", min), ("max", max)] {
        if let Some(value) = value {
            line(text, 5, format!("{name} {}", double(value)));
        }
    }
}

fn exemplar(text: &mut String, exemplar: &Exemplar) {
    let Exemplar { filtered_attributes, time_unix_nano, span_id, trace_id, value } = exemplar;
    let value = match value {
        None => String::new(),
        Some(exemplar::Value::AsDouble(value)) => format!(" {}", double(*value)),
        Some(exemplar::Value::AsInt(value)) => format!(" {value}"),
    };
    line(text, 5, format!("exemplar {time_unix_nano}{value}"));
    id(text, 6, "trace", trace_id);
    id(text, 6, "span", span_id);
    attributes(text, 6, filtered_attributes);
}

// === log records ===

fn log(text: &mut String, record: &LogRecord) {
    let LogRecord {
        time_unix_nano,
        observed_time_unix_nano,
        severity_number,
        severity_text,
        body,
        attributes,
        dropped_attributes_count,
        flags,
        trace_id,
        span_id,
        event_name,
    } = record;
    line(text, 2, "log");
    number(text, 3, "time", *time_unix_nano);
    number(text, 3, "observed", *observed_time_unix_nano);
    if *severity_number != 0 || !severity_text.is_empty() {
        line(text, 3, format!("severity {severity_number}{}", behind(severity_text)));
    }
    string(text, 3, "event", event_name);
    id(text, 3, "trace", trace_id);
    id(text, 3, "span", span_id);
    number(text, 3, "flags", u64::from(*flags));
    if let Some(body) = body {
        line(text, 3, format!("body {}", value(body)));
    }
    self::attributes(text, 3, attributes);
    dropped(text, 3, *dropped_attributes_count, "attributes");
}

// === lines ===

fn line(text: &mut String, depth: usize, line: impl AsRef<str>) {
    writeln!(text, "{:width$}{}", "", line.as_ref(), width = 2 * depth).expect("a String takes all");
}

fn string(text: &mut String, depth: usize, name: &str, value: &str) {
    if !value.is_empty() {
        line(text, depth, format!("{name} {}", quoted(value)));
    }
}

fn number(text: &mut String, depth: usize, name: &str, value: u64) {
    if value != 0 {
        line(text, depth, format!("{name} {value}"));
    }
}

fn id(text: &mut String, depth: usize, name: &str, value: &[u8]) {
    if !value.is_empty() {
        line(text, depth, format!("{name} {}", hex(value)));
    }
}

fn dropped(text: &mut String, depth: usize, count: u32, what: &str) {
    if count != 0 {
        line(text, depth, format!("dropped {count} {what}"));
    }
}

fn attributes(text: &mut String, depth: usize, attributes: &[KeyValue]) {
    for KeyValue { key, value } in attributes {
        line(text, depth, format!("{key} = {}", value.as_ref().map_or("empty".into(), self::value)));
    }
}

// === values ===

fn value(AnyValue { value }: &AnyValue) -> String {
    match value {
        None => "empty".into(),
        Some(Value::StringValue(text)) => quoted(text),
        Some(Value::BoolValue(flag)) => flag.to_string(),
        Some(Value::IntValue(number)) => number.to_string(),
        Some(Value::DoubleValue(number)) => double(*number),
        Some(Value::BytesValue(bytes)) => format!("base16\"{}\"", hex(bytes)),
        Some(Value::ArrayValue(ArrayValue { values })) => {
            let values: Vec<_> = values.iter().map(self::value).collect();
            format!("[{}]", values.join(", "))
        }
        Some(Value::KvlistValue(KeyValueList { values })) => {
            let member = |KeyValue { key, value }: &KeyValue| {
                format!("{}: {}", quoted(key), value.as_ref().map_or("empty".into(), self::value))
            };
            let members: Vec<_> = values.iter().map(member).collect();
            format!("{{{}}}", members.join(", "))
        }
    }
}

fn double(number: f64) -> String {
    if number.is_nan() { format!("NaN {:#018x}", number.to_bits()) } else { format!("{number:?}") }
}

/// Counts of buckets; most are zero, and what stands often in a row stands once with how often.
fn runs(counts: &[u64]) -> String {
    let part = |run: &[u64]| match run {
        [count, _, _, ..] => format!("{count}*{}", run.len()),
        _ => run.iter().map(u64::to_string).collect::<Vec<_>>().join(", "),
    };
    let parts: Vec<_> = counts.chunk_by(u64::eq).map(part).collect();
    format!("[{}]", parts.join(", "))
}

/// The name of a number, or the number where it has none.
fn named(names: &[&str], number: i32) -> String {
    let name = usize::try_from(number).ok().and_then(|index| names.get(index));
    name.map_or_else(|| number.to_string(), ToString::to_string)
}

/// A text that stands behind others in its line, where it is not empty.
fn behind(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!(" {}", quoted(text)) }
}

fn quoted(text: &str) -> String {
    serde_json::to_string(text).expect("a string is JSON")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
