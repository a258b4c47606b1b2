//! The same translation, slowly, over generated types, written from the tables alone; and random streams that compare both.

use std::collections::BTreeMap;

use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use prost::Message;
use weir_model::{Claim, Ledger};
use weir_proto::google::protobuf::{BoolValue, DoubleValue, Int64Value, Timestamp, UInt32Value};
use weir_proto::opencensus::proto::agent::common::v1::{LibraryInfo, Node, ProcessIdentifier, ServiceInfo};
use weir_proto::opencensus::proto::agent::metrics::v1::ExportMetricsServiceRequest as OcMetrics;
use weir_proto::opencensus::proto::agent::trace::v1::ExportTraceServiceRequest as OcTraces;
use weir_proto::opencensus::proto::metrics::v1 as oc_metrics;
use weir_proto::opencensus::proto::resource::v1::Resource as OcResource;
use weir_proto::opencensus::proto::trace::v1 as oc;
use weir_proto::opentelemetry::proto::collector::metrics::v1::ExportMetricsServiceRequest;
use weir_proto::opentelemetry::proto::collector::trace::v1::ExportTraceServiceRequest;
use weir_proto::opentelemetry::proto::common::v1::any_value::Value as Any;
use weir_proto::opentelemetry::proto::common::v1::{AnyValue, KeyValue};
use weir_proto::opentelemetry::proto::metrics::v1 as metrics;
use weir_proto::opentelemetry::proto::resource::v1::Resource;
use weir_proto::opentelemetry::proto::trace::v1 as trace;
use weir_wire::Signal;

use super::{Envelope, Limits, Speaker, Tally, TranslateError, Translation};

// === the slow translation ===

/// What a stream has said so far.
#[derive(Default)]
struct Said {
    node: Option<Node>,
    resource: Option<OcResource>,
}

impl Said {
    fn hear(&mut self, node: &Option<Node>, resource: &Option<OcResource>) {
        self.node = node.clone().or(self.node.take());
        self.resource = resource.clone().or(self.resource.take());
    }
}

fn cut(text: &str, limits: &Limits) -> String {
    let mut kept = String::new();
    for letter in text.chars() {
        if kept.len() + letter.len_utf8() > limits.text_bytes_max {
            break;
        }
        kept.push(letter);
    }
    kept
}

fn key_value(key: &str, value: Any) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }) }
}

fn text(key: &str, value: &str, limits: &Limits) -> KeyValue {
    key_value(&cut(key, limits), Any::StringValue(cut(value, limits)))
}

fn language(number: i32) -> &'static str {
    let names = ["", "cpp", "dotnet", "erlang", "go", "java", "nodejs", "php", "python", "ruby", "webjs"];
    usize::try_from(number).ok().and_then(|number| names.get(number)).copied().unwrap_or("")
}

fn resource(node: Option<&Node>, resource: Option<&OcResource>, limits: &Limits) -> Resource {
    let mut strong: Vec<KeyValue> = Vec::new();
    let mut say = |key: &str, value: &str| {
        if !value.is_empty() {
            strong.push(key_value(key, Any::StringValue(cut(value, limits))));
        }
    };
    say("opencensus.resourcetype", resource.map_or("", |resource| &resource.r#type));
    let node = node.cloned().unwrap_or_default();
    let library = node.library_info.unwrap_or_default();
    let identifier = node.identifier.unwrap_or_default();
    say("telemetry.sdk.language", language(library.language));
    say("opencensus.exporterversion", &library.exporter_version);
    say("telemetry.sdk.version", &library.core_library_version);
    say("host.name", &identifier.host_name);
    say("service.name", &node.service_info.unwrap_or_default().name);
    if let Some(started) = identifier.start_timestamp {
        let started = super::node::rfc3339((started.seconds, started.nanos));
        say("opencensus.starttime", started.as_deref().unwrap_or(""));
    }
    if identifier.pid != 0 {
        strong.push(key_value("process.pid", Any::IntValue(i64::from(identifier.pid))));
    }
    let mut dropped = 0;
    let labels = resource.map(|resource| resource.labels.clone()).unwrap_or_default();
    let renamed = labels.into_iter().map(|(key, value)| {
        (if key == "cloud.zone" { "cloud.availability_zone".to_owned() } else { key }, value)
    });
    for (key, value) in node.attributes.into_iter().chain(renamed) {
        let pair = text(&key, &value, limits);
        if strong.len() >= limits.attributes_max as usize {
            dropped += 1;
        } else if strong.iter().all(|before| before.key != pair.key) {
            strong.push(pair);
        }
    }
    Resource { attributes: strong, dropped_attributes_count: dropped, entity_refs: Vec::new() }
}

fn padded(raw: &[u8], length: usize) -> Vec<u8> {
    let digits: Option<Vec<u8>> = (raw.len() == 2 * length)
        .then(|| {
            let text =
                std::str::from_utf8(raw).ok().filter(|text| text.chars().all(|c| c.is_ascii_hexdigit()))?;
            (0..length).map(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).ok()).collect()
        })
        .flatten();
    let mut id = digits.unwrap_or_else(|| raw.to_vec());
    id.resize(length, 0);
    if id.iter().all(|byte| *byte == 0) { Vec::new() } else { id }
}

fn nanos(time: Option<&Timestamp>) -> u64 {
    let Some(time) = time else { return 0 };
    u64::try_from(i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanos)).unwrap_or(0)
}

fn state(state: Option<&oc::span::Tracestate>, limits: &Limits) -> String {
    let entries: Vec<String> = state
        .iter()
        .flat_map(|state| &state.entries)
        .map(|entry| format!("{}={}", entry.key, entry.value))
        .collect();
    cut(&entries.join(","), limits)
}

fn truncatable(text: Option<&oc::TruncatableString>, limits: &Limits) -> String {
    cut(text.map_or("", |text| &text.value), limits)
}

fn converted(value: &oc::AttributeValue, limits: &Limits) -> Any {
    match &value.value {
        None => Any::StringValue("<Unknown OpenCensus attribute value type>".to_owned()),
        Some(oc::attribute_value::Value::StringValue(text)) => Any::StringValue(cut(&text.value, limits)),
        Some(oc::attribute_value::Value::IntValue(number)) => Any::IntValue(*number),
        Some(oc::attribute_value::Value::BoolValue(truth)) => Any::BoolValue(*truth),
        Some(oc::attribute_value::Value::DoubleValue(number)) => Any::DoubleValue(*number),
    }
}

/// The first `max` attributes, and how many were dropped here and before.
fn attributes(of: Option<&oc::span::Attributes>, max: usize) -> (Vec<(String, oc::AttributeValue)>, u32) {
    let Some(of) = of else { return (Vec::new(), 0) };
    let kept: Vec<_> =
        of.attribute_map.iter().take(max).map(|(key, value)| (key.clone(), value.clone())).collect();
    let dropped = of.dropped_attributes_count.max(0) as u32 + (of.attribute_map.len() - kept.len()) as u32;
    (kept, dropped)
}

fn plain(of: Option<&oc::span::Attributes>, limits: &Limits) -> (Vec<KeyValue>, u32) {
    let (kept, dropped) = attributes(of, limits.attributes_max as usize);
    (
        kept.iter().map(|(key, value)| key_value(&cut(key, limits), converted(value, limits))).collect(),
        dropped,
    )
}

fn event(event: &oc::span::TimeEvent, limits: &Limits) -> trace::span::Event {
    use oc::span::time_event::Value;
    let (name, attributes, dropped) = match &event.value {
        None => {
            ("An unknown OpenCensus TimeEvent type was detected when translating".to_owned(), Vec::new(), 0)
        }
        Some(Value::Annotation(annotation)) => {
            let (attributes, dropped) = plain(annotation.attributes.as_ref(), limits);
            (truncatable(annotation.description.as_ref(), limits), attributes, dropped)
        }
        Some(Value::MessageEvent(message)) => {
            let of_type = match message.r#type {
                0 => "TYPE_UNSPECIFIED".to_owned(),
                1 => "SENT".to_owned(),
                2 => "RECEIVED".to_owned(),
                newer => newer.to_string(),
            };
            let sizes = [
                ("messaging.message_id", message.id),
                ("messaging.message_payload_size_bytes", message.uncompressed_size),
                ("messaging.message_payload_compressed_size_bytes", message.compressed_size),
            ];
            let mut attributes = vec![key_value("message.type", Any::StringValue(of_type))];
            attributes.extend(sizes.map(|(key, size)| key_value(key, Any::IntValue(size as i64))));
            ("message".to_owned(), attributes, 0)
        }
    };
    trace::span::Event {
        time_unix_nano: nanos(event.time.as_ref()),
        name,
        attributes,
        dropped_attributes_count: dropped,
    }
}

fn link(link: &oc::span::Link, limits: &Limits) -> trace::span::Link {
    let (attributes, dropped_attributes_count) = plain(link.attributes.as_ref(), limits);
    trace::span::Link {
        trace_id: padded(&link.trace_id, 16),
        span_id: padded(&link.span_id, 8),
        trace_state: state(link.tracestate.as_ref(), limits),
        attributes,
        dropped_attributes_count,
        flags: 0,
    }
}

/// Attributes, kind, dropped count and status of a span: each may come from the others.
fn span_attributes(span: &oc::Span, limits: &Limits) -> (Vec<KeyValue>, i32, u32, Option<trace::Status>) {
    use oc::attribute_value::Value;
    let code = span.status.as_ref().map_or(0, |status| status.code);
    let mut ours = Vec::new();
    if let Some(same) = &span.same_process_as_parent_span {
        ours.push(key_value("opencensus.same_process_as_parent_span", Any::BoolValue(same.value)));
    }
    if let Some(children) = &span.child_span_count {
        ours.push(key_value("opencensus.child_span_count", Any::IntValue(i64::from(children.value))));
    }
    if code != 0 {
        ours.push(key_value("opencensus.status_code", Any::IntValue(i64::from(code))));
    }
    let max = (limits.attributes_max as usize).saturating_sub(ours.len());
    let (kept, dropped) = attributes(span.attributes.as_ref(), max);
    let mut kind = match span.kind {
        1 => 2,
        2 => 3,
        _ => 0,
    };
    let mut status = if code == 0 { 0 } else { 2 };
    let mut written = Vec::new();
    for (key, value) in kept {
        match (key.as_str(), &value.value) {
            ("span.kind", Some(Value::StringValue(said))) if kind == 0 && said.value == "internal" => {
                kind = 1
            }
            ("span.kind", Some(Value::StringValue(said))) if kind == 0 && said.value == "producer" => {
                kind = 4
            }
            ("span.kind", Some(Value::StringValue(said))) if kind == 0 && said.value == "consumer" => {
                kind = 5
            }
            ("otel.status_code", Some(Value::IntValue(said @ 0..=2))) if span.status.is_some() => {
                status = *said as i32;
            }
            ("otel.status_code", Some(Value::IntValue(_))) => {
                written.push(key_value(&cut(&key, limits), converted(&value, limits)));
            }
            ("otel.status_code", _) if span.status.is_some() => status = 0,
            (key, _) if ours.iter().any(|ours| ours.key == key) => {}
            (key, _) => written.push(key_value(&cut(key, limits), converted(&value, limits))),
        }
    }
    written.extend(ours);
    let status =
        span.status.as_ref().map(|said| trace::Status { message: cut(&said.message, limits), code: status });
    (written, kind, dropped, status.filter(|status| *status != trace::Status::default()))
}

fn span(span: &oc::Span, limits: &Limits) -> Option<trace::Span> {
    let (trace_id, span_id) = (padded(&span.trace_id, 16), padded(&span.span_id, 8));
    if trace_id.is_empty() || span_id.is_empty() {
        return None;
    }
    let (attributes, kind, dropped_attributes_count, status) = span_attributes(span, limits);
    let events = span.time_events.clone().unwrap_or_default();
    let links = span.links.clone().unwrap_or_default();
    Some(trace::Span {
        trace_id,
        span_id,
        trace_state: state(span.tracestate.as_ref(), limits),
        parent_span_id: padded(&span.parent_span_id, 8),
        flags: 0,
        name: truncatable(span.name.as_ref(), limits),
        kind,
        start_time_unix_nano: nanos(span.start_time.as_ref()),
        end_time_unix_nano: nanos(span.end_time.as_ref()),
        attributes,
        dropped_attributes_count,
        events: events.time_event.iter().map(|each| event(each, limits)).collect(),
        dropped_events_count: events.dropped_annotations_count.max(0) as u32
            + events.dropped_message_events_count.max(0) as u32,
        links: links.link.iter().map(|each| link(each, limits)).collect(),
        dropped_links_count: links.dropped_links_count.max(0) as u32,
        status,
    })
}

fn slow_traces(said: &Said, request: &OcTraces, limits: &Limits) -> ExportTraceServiceRequest {
    let mut groups: Vec<(Option<OcResource>, trace::ResourceSpans)> = Vec::new();
    for oc_span in &request.spans {
        let Some(span) = span(oc_span, limits) else {
            continue;
        };
        if groups.last().is_none_or(|(own, _)| *own != oc_span.resource) {
            let of = oc_span.resource.as_ref().or(said.resource.as_ref());
            let group = trace::ResourceSpans {
                resource: Some(resource(said.node.as_ref(), of, limits)),
                scope_spans: vec![trace::ScopeSpans::default()],
                schema_url: String::new(),
            };
            groups.push((oc_span.resource.clone(), group));
        }
        let (_, group) = groups.last_mut().expect("one was pushed");
        group.scope_spans[0].spans.push(span);
    }
    ExportTraceServiceRequest { resource_spans: groups.into_iter().map(|(_, group)| group).collect() }
}

fn labels(
    keys: &[oc_metrics::LabelKey],
    values: &[oc_metrics::LabelValue],
    limits: &Limits,
) -> Vec<KeyValue> {
    keys.iter()
        .take(limits.attributes_max as usize)
        .zip(values)
        .filter(|(_, value)| value.has_value)
        .map(|(key, value)| text(&key.key, &value.value, limits))
        .collect()
}

fn exemplar(of: &oc_metrics::distribution_value::Exemplar, limits: &Limits) -> metrics::Exemplar {
    let mut exemplar = metrics::Exemplar {
        time_unix_nano: nanos(of.timestamp.as_ref()),
        value: Some(metrics::exemplar::Value::AsDouble(of.value)),
        ..metrics::Exemplar::default()
    };
    for (key, value) in of.attachments.iter().take(limits.attributes_max as usize) {
        let is_hex = |length| value.len() == length && value.chars().all(|digit| digit.is_ascii_hexdigit());
        let is_some = value.chars().any(|digit| digit != '0');
        match key.as_str() {
            "trace_id" if is_hex(32) && is_some => exemplar.trace_id = padded(value.as_bytes(), 16),
            "span_id" if is_hex(16) && is_some => exemplar.span_id = padded(value.as_bytes(), 8),
            key => exemplar.filtered_attributes.push(text(key, value, limits)),
        }
    }
    exemplar
}

fn histogram(of: &oc_metrics::DistributionValue, limits: &Limits) -> metrics::HistogramDataPoint {
    use oc_metrics::distribution_value::bucket_options::Type;
    let bounds = match of.bucket_options.as_ref().and_then(|options| options.r#type.as_ref()) {
        Some(Type::Explicit(explicit)) => explicit.bounds.clone(),
        None => Vec::new(),
    };
    let fits = of.buckets.len() == bounds.len() + 1 && bounds.is_sorted_by(|low, high| low < high);
    let counts = of.buckets.iter().map(|bucket| bucket.count.max(0) as u64);
    metrics::HistogramDataPoint {
        count: of.count.max(0) as u64,
        sum: Some(of.sum),
        bucket_counts: if fits { counts.collect() } else { Vec::new() },
        explicit_bounds: if fits { bounds } else { Vec::new() },
        exemplars: of
            .buckets
            .iter()
            .filter_map(|bucket| bucket.exemplar.as_ref())
            .map(|of| exemplar(of, limits))
            .collect(),
        ..metrics::HistogramDataPoint::default()
    }
}

fn summary(of: &oc_metrics::SummaryValue) -> metrics::SummaryDataPoint {
    let snapshot = of.snapshot.clone().unwrap_or_default();
    metrics::SummaryDataPoint {
        count: of.count.as_ref().map_or(0, |count| count.value.max(0) as u64),
        sum: of.sum.as_ref().map_or(0.0, |sum| sum.value),
        quantile_values: snapshot
            .percentile_values
            .iter()
            .map(|at| metrics::summary_data_point::ValueAtQuantile {
                quantile: at.percentile / 100.0,
                value: at.value,
            })
            .collect(),
        ..metrics::SummaryDataPoint::default()
    }
}

fn data(of: &oc_metrics::Metric, limits: &Limits) -> Option<metrics::metric::Data> {
    use metrics::metric::Data;
    use metrics::number_data_point::Value as Number;
    use oc_metrics::point::Value;
    let descriptor = of.metric_descriptor.as_ref()?;
    let of_type = descriptor.r#type;
    let all = of.timeseries.iter().flat_map(|series| {
        let attributes = labels(&descriptor.label_keys, &series.label_values, limits);
        series
            .points
            .iter()
            .map(move |point| (nanos(series.start_timestamp.as_ref()), attributes.clone(), point))
    });
    let number = |(start, attributes, point): (u64, Vec<KeyValue>, &oc_metrics::Point)| {
        let value = match (of_type, &point.value) {
            (1 | 4, Some(Value::Int64Value(value))) => Some(Number::AsInt(*value)),
            (2 | 5, Some(Value::DoubleValue(value))) => Some(Number::AsDouble(*value)),
            _ => None,
        };
        metrics::NumberDataPoint {
            attributes,
            start_time_unix_nano: start,
            time_unix_nano: nanos(point.timestamp.as_ref()),
            flags: u32::from(value.is_none()),
            value,
            exemplars: Vec::new(),
        }
    };
    Some(match of_type {
        1 | 2 => Data::Gauge(metrics::Gauge { data_points: all.map(number).collect() }),
        4 | 5 => Data::Sum(metrics::Sum {
            data_points: all.map(number).collect(),
            aggregation_temporality: 2,
            is_monotonic: true,
        }),
        6 => Data::Histogram(metrics::Histogram {
            data_points: all
                .map(|(start, attributes, point)| {
                    let value = match &point.value {
                        Some(Value::DistributionValue(value)) => histogram(value, limits),
                        _ => {
                            metrics::HistogramDataPoint { flags: 1, ..metrics::HistogramDataPoint::default() }
                        }
                    };
                    let time_unix_nano = nanos(point.timestamp.as_ref());
                    metrics::HistogramDataPoint {
                        attributes,
                        start_time_unix_nano: start,
                        time_unix_nano,
                        ..value
                    }
                })
                .collect(),
            aggregation_temporality: 2,
        }),
        7 => Data::Summary(metrics::Summary {
            data_points: all
                .map(|(start, attributes, point)| {
                    let value = match &point.value {
                        Some(Value::SummaryValue(value)) => summary(value),
                        _ => metrics::SummaryDataPoint { flags: 1, ..metrics::SummaryDataPoint::default() },
                    };
                    let time_unix_nano = nanos(point.timestamp.as_ref());
                    metrics::SummaryDataPoint {
                        attributes,
                        start_time_unix_nano: start,
                        time_unix_nano,
                        ..value
                    }
                })
                .collect(),
        }),
        _ => return None,
    })
}

fn slow_metrics(said: &Said, request: &OcMetrics, limits: &Limits) -> ExportMetricsServiceRequest {
    let mut groups: Vec<(Option<OcResource>, metrics::ResourceMetrics)> = Vec::new();
    for oc_metric in &request.metrics {
        let Some(data) = data(oc_metric, limits) else {
            continue;
        };
        if oc_metric.timeseries.iter().all(|series| series.points.is_empty()) {
            continue;
        }
        let descriptor = oc_metric.metric_descriptor.clone().unwrap_or_default();
        if groups.last().is_none_or(|(own, _)| *own != oc_metric.resource) {
            let of = oc_metric.resource.as_ref().or(said.resource.as_ref());
            let group = metrics::ResourceMetrics {
                resource: Some(resource(said.node.as_ref(), of, limits)),
                scope_metrics: vec![metrics::ScopeMetrics::default()],
                schema_url: String::new(),
            };
            groups.push((oc_metric.resource.clone(), group));
        }
        let (_, group) = groups.last_mut().expect("one was pushed");
        group.scope_metrics[0].metrics.push(metrics::Metric {
            name: cut(&descriptor.name, limits),
            description: cut(&descriptor.description, limits),
            unit: cut(&descriptor.unit, limits),
            metadata: Vec::new(),
            data: Some(data),
        });
    }
    ExportMetricsServiceRequest { resource_metrics: groups.into_iter().map(|(_, group)| group).collect() }
}

// === random streams ===

fn small_text() -> impl Strategy<Value = String> {
    prop_oneof![
        2 => Just(String::new()),
        4 => "[a-d]{1,3}",
        2 => "[äß€𝄞x]{1,6}",
        1 => "[aä€𝄞]{30,60}",
        1 => Just("cloud.zone".to_owned()),
    ]
}

fn any_time() -> impl Strategy<Value = Option<Timestamp>> {
    option::of(prop_oneof![
        Just(Timestamp::default()),
        (1_600_000_000..1_800_000_000_i64, 0..1_000_000_000)
            .prop_map(|(seconds, nanos)| Timestamp { seconds, nanos }),
        (any::<i64>(), any::<i32>()).prop_map(|(seconds, nanos)| Timestamp { seconds, nanos }),
    ])
}

fn any_id(length: usize) -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        8 => vec(any::<u8>(), length),
        1 => Just(Vec::new()),
        1 => Just(vec![0; length]),
        1 => vec(any::<u8>(), 0..2 * length + 2),
        1 => vec(prop::sample::select(b"0123456789abcdefABCDEF".to_vec()), 2 * length),
    ]
}

fn any_number() -> impl Strategy<Value = f64> {
    prop_oneof![-1e6..1e6_f64, Just(0.0), Just(f64::INFINITY)]
}

fn any_map() -> impl Strategy<Value = BTreeMap<String, String>> {
    btree_map(small_text(), small_text(), 0..5)
}

fn any_resource() -> impl Strategy<Value = Option<OcResource>> {
    // Few different ones, so that runs of the same come up.
    option::of(prop_oneof![
        Just(OcResource::default()),
        Just(OcResource { r#type: "k8s".to_owned(), labels: BTreeMap::new() }),
        (small_text(), any_map()).prop_map(|(r#type, labels)| OcResource { r#type, labels }),
    ])
}

fn any_node() -> impl Strategy<Value = Option<Node>> {
    let identifier = (small_text(), any::<u32>(), any_time())
        .prop_map(|(host_name, pid, start_timestamp)| ProcessIdentifier { host_name, pid, start_timestamp });
    let library = (-1..13, small_text(), small_text()).prop_map(
        |(language, exporter_version, core_library_version)| LibraryInfo {
            language,
            exporter_version,
            core_library_version,
        },
    );
    let service = small_text().prop_map(|name| ServiceInfo { name });
    option::of((option::of(identifier), option::of(library), option::of(service), any_map()).prop_map(
        |(identifier, library_info, service_info, attributes)| Node {
            identifier,
            library_info,
            service_info,
            attributes,
        },
    ))
}

fn any_truncatable() -> impl Strategy<Value = Option<oc::TruncatableString>> {
    option::of(
        (small_text(), 0..9)
            .prop_map(|(value, truncated_byte_count)| oc::TruncatableString { value, truncated_byte_count }),
    )
}

fn any_value() -> impl Strategy<Value = oc::AttributeValue> {
    use oc::attribute_value::Value;
    let said = prop_oneof![
        prop_oneof![small_text(), Just("internal".to_owned()), Just("consumer".to_owned())]
            .prop_map(|value| Value::StringValue(oc::TruncatableString { value, truncated_byte_count: 0 })),
        prop_oneof![any::<i64>(), 0..4_i64].prop_map(Value::IntValue),
        any::<bool>().prop_map(Value::BoolValue),
        any_number().prop_map(Value::DoubleValue),
    ];
    option::weighted(0.9, said).prop_map(|value| oc::AttributeValue { value })
}

fn any_attributes() -> impl Strategy<Value = Option<oc::span::Attributes>> {
    let special = prop::sample::select(vec![
        "span.kind",
        "otel.status_code",
        "opencensus.same_process_as_parent_span",
        "opencensus.child_span_count",
        "opencensus.status_code",
    ]);
    let key = prop_oneof![3 => small_text(), 1 => special.prop_map(str::to_owned)];
    option::of((btree_map(key, any_value(), 0..6), -2..3).prop_map(
        |(attribute_map, dropped_attributes_count)| oc::span::Attributes {
            attribute_map,
            dropped_attributes_count,
        },
    ))
}

fn any_state() -> impl Strategy<Value = Option<oc::span::Tracestate>> {
    let entry =
        (small_text(), small_text()).prop_map(|(key, value)| oc::span::tracestate::Entry { key, value });
    option::of(vec(entry, 0..3).prop_map(|entries| oc::span::Tracestate { entries }))
}

fn any_event() -> impl Strategy<Value = oc::span::TimeEvent> {
    use oc::span::time_event::{Annotation, MessageEvent, Value};
    let annotation = (any_truncatable(), any_attributes())
        .prop_map(|(description, attributes)| Value::Annotation(Annotation { description, attributes }));
    let message = (0..5, any::<u64>(), any::<u64>(), 0..300_u64).prop_map(
        |(r#type, id, uncompressed_size, compressed_size)| {
            Value::MessageEvent(MessageEvent { r#type, id, uncompressed_size, compressed_size })
        },
    );
    (any_time(), option::weighted(0.9, prop_oneof![annotation, message]))
        .prop_map(|(time, value)| oc::span::TimeEvent { time, value })
}

fn any_link() -> impl Strategy<Value = oc::span::Link> {
    (any_id(16), any_id(8), 0..3, any_attributes(), any_state()).prop_map(
        |(trace_id, span_id, r#type, attributes, tracestate)| oc::span::Link {
            trace_id,
            span_id,
            r#type,
            attributes,
            tracestate,
        },
    )
}

fn any_span() -> impl Strategy<Value = oc::Span> {
    let head =
        (any_id(16), any_id(8), any_id(8), any_state(), any_truncatable(), 0..4, any_time(), any_time());
    let events = (vec(any_event(), 0..3), -1..4, -1..4).prop_map(
        |(time_event, dropped_annotations_count, dropped_message_events_count)| oc::span::TimeEvents {
            time_event,
            dropped_annotations_count,
            dropped_message_events_count,
        },
    );
    let links = (vec(any_link(), 0..3), -1..4)
        .prop_map(|(link, dropped_links_count)| oc::span::Links { link, dropped_links_count });
    let status = (-1..17, small_text()).prop_map(|(code, message)| oc::Status { code, message });
    let tail = (
        any_attributes(),
        option::of(events),
        option::of(links),
        option::of(status),
        option::weighted(0.2, any_resource()).prop_map(Option::flatten),
        option::of(any::<bool>().prop_map(|value| BoolValue { value })),
        option::of(any::<u32>().prop_map(|value| UInt32Value { value })),
    );
    (head, tail).prop_map(|(head, tail)| {
        let (trace_id, span_id, parent_span_id, tracestate, name, kind, start_time, end_time) = head;
        let (attributes, time_events, links, status, resource, same_process_as_parent_span, child_span_count) = tail;
        oc::Span {
            trace_id,
            span_id,
            tracestate,
            parent_span_id,
            name,
            kind,
            start_time,
            end_time,
            attributes,
            stack_trace: None,
            time_events,
            links,
            status,
            resource,
            same_process_as_parent_span,
            child_span_count,
        }
    })
}

fn any_distribution() -> impl Strategy<Value = oc_metrics::DistributionValue> {
    use oc_metrics::distribution_value::bucket_options::{Explicit, Type};
    use oc_metrics::distribution_value::{Bucket, BucketOptions, Exemplar};
    let key = prop_oneof![small_text(), Just("trace_id".to_owned()), Just("span_id".to_owned())];
    let value =
        prop_oneof![small_text(), "[0-9a-f]{32}", "[0-9A-F]{16}", Just("0".repeat(32)), Just("0".repeat(16))];
    let exemplar = (any_number(), any_time(), btree_map(key, value, 0..4))
        .prop_map(|(value, timestamp, attachments)| Exemplar { value, timestamp, attachments });
    let bucket = (-1..9_i64, option::of(exemplar)).prop_map(|(count, exemplar)| Bucket { count, exemplar });
    let bounds = prop_oneof![
        Just(vec![]),
        Just(vec![1.0]),
        Just(vec![1.0, 2.5]),
        Just(vec![2.0, 2.0]),
        vec(any_number(), 0..4)
    ];
    let options =
        bounds.prop_map(|bounds| BucketOptions { r#type: Some(Type::Explicit(Explicit { bounds })) });
    (-1..99_i64, any_number(), any_number(), option::of(options), vec(bucket, 0..4)).prop_map(
        |(count, sum, sum_of_squared_deviation, bucket_options, buckets)| oc_metrics::DistributionValue {
            count,
            sum,
            sum_of_squared_deviation,
            bucket_options,
            buckets,
        },
    )
}

fn any_summary() -> impl Strategy<Value = oc_metrics::SummaryValue> {
    use oc_metrics::summary_value::Snapshot;
    use oc_metrics::summary_value::snapshot::ValueAtPercentile;
    let at = (0.0..100.0_f64, any_number())
        .prop_map(|(percentile, value)| ValueAtPercentile { percentile, value });
    let snapshot =
        vec(at, 0..4).prop_map(|percentile_values| Snapshot { count: None, sum: None, percentile_values });
    let count = option::of((-1..99_i64).prop_map(|value| Int64Value { value }));
    let sum = option::of(any_number().prop_map(|value| DoubleValue { value }));
    (count, sum, option::of(snapshot)).prop_map(|(count, sum, snapshot)| oc_metrics::SummaryValue {
        count,
        sum,
        snapshot,
    })
}

fn any_metric() -> impl Strategy<Value = oc_metrics::Metric> {
    use oc_metrics::point::Value;
    let value = prop_oneof![
        any::<i64>().prop_map(Value::Int64Value),
        any_number().prop_map(Value::DoubleValue),
        any_distribution().prop_map(Value::DistributionValue),
        any_summary().prop_map(Value::SummaryValue),
    ];
    let point = (any_time(), option::weighted(0.9, value))
        .prop_map(|(timestamp, value)| oc_metrics::Point { timestamp, value });
    let label = (small_text(), any::<bool>())
        .prop_map(|(value, has_value)| oc_metrics::LabelValue { value, has_value });
    let series = (any_time(), vec(label, 0..5), vec(point, 0..4)).prop_map(
        |(start_timestamp, label_values, points)| oc_metrics::TimeSeries {
            start_timestamp,
            label_values,
            points,
        },
    );
    let key = small_text().prop_map(|key| oc_metrics::LabelKey { key, description: String::new() });
    let descriptor = (small_text(), small_text(), small_text(), 0..9, vec(key, 0..5)).prop_map(
        |(name, description, unit, r#type, label_keys)| oc_metrics::MetricDescriptor {
            name,
            description,
            unit,
            r#type,
            label_keys,
        },
    );
    (option::weighted(0.95, descriptor), vec(series, 0..3), option::weighted(0.3, any_resource())).prop_map(
        |(metric_descriptor, timeseries, resource)| oc_metrics::Metric {
            metric_descriptor,
            timeseries,
            resource: resource.flatten(),
        },
    )
}

fn any_limits() -> impl Strategy<Value = Limits> {
    (prop_oneof![Just(256), 0..6_u32], prop_oneof![Just(65_536), 38..60_usize]).prop_map(
        |(attributes_max, text_bytes_max)| Limits {
            items_max: 65_536,
            attributes_max,
            text_bytes_max,
            output_bytes_max: 1 << 20,
        },
    )
}

// === the comparison ===

/// The quick translation, span by span.
pub(super) fn translated(
    signal: Signal,
    envelope: &Envelope<'_>,
    speaker: &Speaker,
    limits: &Limits,
    claim: &mut Claim,
) -> Result<(Vec<u8>, Tally), TranslateError> {
    let mut translation = Translation::begin(signal, envelope, speaker, limits, claim)?;
    while translation.step(1)? {}
    translation.finish()
}

/// Attributes in the order of their keys: in which order they stand means nothing.
fn sorted(attributes: &mut [KeyValue]) {
    attributes.sort_by_cached_key(|pair| (pair.key.clone(), format!("{:?}", pair.value)));
}

fn sorted_traces(mut request: ExportTraceServiceRequest) -> ExportTraceServiceRequest {
    for group in &mut request.resource_spans {
        sorted(&mut group.resource.get_or_insert_default().attributes);
        for span in group.scope_spans.iter_mut().flat_map(|scope| &mut scope.spans) {
            sorted(&mut span.attributes);
            span.events.iter_mut().for_each(|event| sorted(&mut event.attributes));
            span.links.iter_mut().for_each(|link| sorted(&mut link.attributes));
        }
    }
    request
}

fn sorted_metrics(mut request: ExportMetricsServiceRequest) -> ExportMetricsServiceRequest {
    for group in &mut request.resource_metrics {
        sorted(&mut group.resource.get_or_insert_default().attributes);
    }
    request
}

/// The seed of this run: `WEIR_SEED` runs an earlier one again.
fn config() -> ProptestConfig {
    let seed = std::env::var("WEIR_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or_else(|| fastrand::u64(..));
    eprintln!("WEIR_SEED={seed}");
    ProptestConfig {
        cases: 512,
        rng_seed: RngSeed::Fixed(seed),
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config())]

    /// Scenario: random streams of spans: odd ids, absent fields, own resources, small limits.
    /// Guarantees: the quick translation says what the slow one says, and counts what it leaves out.
    #[test]
    fn spans_become_what_the_tables_say(
        stream in vec((any_node(), any_resource(), vec(any_span(), 0..5)), 1..4),
        limits in any_limits(),
    ) {
        let ledger = Ledger::new(1 << 30);
        let (mut said, mut speaker) = (Said::default(), Speaker::default());
        for (node, resource, spans) in stream {
            let request = OcTraces { node, resource, spans };
            said.hear(&request.node, &request.resource);
            let bytes = request.encode_to_vec();
            let envelope = Envelope::open(&bytes).unwrap();
            if let Some(heard) = speaker.hears(&envelope, &limits, &mut Tally::default()).unwrap() {
                speaker = heard;
            }
            let mut claim = ledger.claim(bytes.len() as u64).unwrap();
            let (quick, tally) = translated(Signal::Traces, &envelope, &speaker, &limits, &mut claim).unwrap();
            let slow = slow_traces(&said, &request, &limits);
            let written: usize = slow.resource_spans.iter().map(|group| group.scope_spans[0].spans.len()).sum();
            prop_assert_eq!(tally.items as usize, written);
            prop_assert_eq!(tally.left_out() as usize, request.spans.len() - written);
            prop_assert!(claim.bytes() >= (bytes.len() + quick.len()) as u64, "the output is not paid for");
            let quick = ExportTraceServiceRequest::decode(&*quick).expect("the quick translation writes OTLP");
            prop_assert_eq!(sorted_traces(quick), sorted_traces(slow));
        }
        prop_assert_eq!(ledger.used(), 0);
    }

    /// Scenario: random streams of metrics: every type with every value, missing labels, odd buckets, small limits.
    /// Guarantees: the quick translation says what the slow one says, and counts what it leaves out.
    #[test]
    fn metrics_become_what_the_tables_say(
        stream in vec((any_node(), any_resource(), vec(any_metric(), 0..4)), 1..3),
        limits in any_limits(),
    ) {
        let ledger = Ledger::new(1 << 30);
        let (mut said, mut speaker) = (Said::default(), Speaker::default());
        for (node, resource, metrics) in stream {
            let request = OcMetrics { node, resource, metrics };
            said.hear(&request.node, &request.resource);
            let bytes = request.encode_to_vec();
            let envelope = Envelope::open(&bytes).unwrap();
            if let Some(heard) = speaker.hears(&envelope, &limits, &mut Tally::default()).unwrap() {
                speaker = heard;
            }
            let mut claim = ledger.claim(bytes.len() as u64).unwrap();
            let (quick, tally) = translated(Signal::Metrics, &envelope, &speaker, &limits, &mut claim).unwrap();
            let points = |metric: &oc_metrics::Metric| metric.timeseries.iter().map(|series| series.points.len()).sum::<usize>();
            let all: usize = request.metrics.iter().map(points).sum();
            prop_assert_eq!((tally.items + tally.left_out()) as usize, all);
            prop_assert!(claim.bytes() >= (bytes.len() + quick.len()) as u64, "the output is not paid for");
            let quick = ExportMetricsServiceRequest::decode(&*quick).expect("the quick translation writes OTLP");
            prop_assert_eq!(sorted_metrics(quick), sorted_metrics(slow_metrics(&said, &request, &limits)));
        }
    }

    /// Scenario: random bytes, and requests of which random bytes were changed.
    /// Guarantees: no input makes the translation panic, and what it writes is OTLP, whole.
    #[test]
    fn no_input_breaks_the_translation(
        spans in vec(any_span(), 0..3),
        metrics in vec(any_metric(), 0..3),
        noise in vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        junk in vec(any::<u8>(), 0..64),
        limits in any_limits(),
    ) {
        let mut traces = OcTraces { node: None, resource: None, spans }.encode_to_vec();
        let mut points = OcMetrics { node: None, resource: None, metrics }.encode_to_vec();
        for (at, byte) in noise {
            for bytes in [&mut traces, &mut points] {
                if !bytes.is_empty() {
                    let at = at.index(bytes.len());
                    bytes[at] = byte;
                }
            }
        }
        let ledger = Ledger::new(1 << 30);
        for bytes in [&traces, &points, &junk] {
            let Ok(envelope) = Envelope::open(bytes) else { continue };
            let mut tally = Tally::default();
            let Ok(heard) = Speaker::default().hears(&envelope, &limits, &mut tally) else { continue };
            let speaker = heard.unwrap_or_default();
            let mut claim = ledger.claim(0).unwrap();
            if let Ok((body, _)) = translated(Signal::Traces, &envelope, &speaker, &limits, &mut claim) {
                prop_assert!(ExportTraceServiceRequest::decode(&*body).is_ok());
            }
            if let Ok((body, _)) = translated(Signal::Metrics, &envelope, &speaker, &limits, &mut claim) {
                prop_assert!(ExportMetricsServiceRequest::decode(&*body).is_ok());
            }
        }
    }
}
