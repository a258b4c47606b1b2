//! What the views show, gathered into the oracle's messages.

use crate::oracle::*;
use weir_wire::otlp::{
    AnyValue as View, BucketsView, ExemplarView, KeyValues, LogRecordView, MetricData, MetricView, Number,
    SpanView, resource_groups,
};
use weir_wire::{Malformed, ResourceView};

type Outcome<T> = Result<T, Malformed>;

pub(crate) fn traces(body: &[u8]) -> Outcome<Traces> {
    let mut request = Traces::default();
    for group in resource_groups(body) {
        let group = group?;
        let mut resource_spans = ResourceSpans {
            resource: resource(group.resource)?,
            scope_spans: vec![],
            schema_url: text(group.schema_url),
        };
        for scope_group in group.scopes() {
            let scope_group = scope_group?;
            resource_spans.scope_spans.push(ScopeSpans {
                scope: scope(&scope_group)?,
                spans: scope_group.spans().map(|it| span(&it?)).collect::<Outcome<_>>()?,
                schema_url: text(scope_group.schema_url),
            });
        }
        request.resource_spans.push(resource_spans);
    }
    Ok(request)
}

pub(crate) fn metrics(body: &[u8]) -> Outcome<Metrics> {
    let mut request = Metrics::default();
    for group in resource_groups(body) {
        let group = group?;
        let mut resource_metrics = ResourceMetrics {
            resource: resource(group.resource)?,
            scope_metrics: vec![],
            schema_url: text(group.schema_url),
        };
        for scope_group in group.scopes() {
            let scope_group = scope_group?;
            resource_metrics.scope_metrics.push(ScopeMetrics {
                scope: scope(&scope_group)?,
                metrics: scope_group.metrics().map(|it| metric(it?)).collect::<Outcome<_>>()?,
                schema_url: text(scope_group.schema_url),
            });
        }
        request.resource_metrics.push(resource_metrics);
    }
    Ok(request)
}

pub(crate) fn logs(body: &[u8]) -> Outcome<Logs> {
    let mut request = Logs::default();
    for group in resource_groups(body) {
        let group = group?;
        let mut resource_logs = ResourceLogs {
            resource: resource(group.resource)?,
            scope_logs: vec![],
            schema_url: text(group.schema_url),
        };
        for scope_group in group.scopes() {
            let scope_group = scope_group?;
            resource_logs.scope_logs.push(ScopeLogs {
                scope: scope(&scope_group)?,
                log_records: scope_group.log_records().map(|it| log_record(it?)).collect::<Outcome<_>>()?,
                schema_url: text(scope_group.schema_url),
            });
        }
        request.resource_logs.push(resource_logs);
    }
    Ok(request)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The view shows attributes only; the caller leaves the rest out of the comparison too.
fn resource(bytes: &[u8]) -> Outcome<Option<Resource>> {
    let attributes = attributes(ResourceView::new(bytes).attributes())?;
    Ok((!attributes.is_empty()).then(|| Resource { attributes, ..Resource::default() }))
}

fn scope(group: &weir_wire::otlp::ScopeGroup<'_>) -> Outcome<Option<Scope>> {
    if group.scope.is_empty() {
        return Ok(None);
    }
    let scope = group.scope_view()?;
    Ok(Some(Scope {
        name: text(scope.name),
        version: text(scope.version),
        attributes: attributes(scope.attributes())?,
        dropped_attributes_count: scope.dropped_attributes_count,
    }))
}

fn attributes(pairs: KeyValues<'_>) -> Outcome<Vec<KeyValue>> {
    pairs
        .map(|pair| {
            let pair = pair?;
            Ok(KeyValue { key: text(pair.key), value: any_value(pair.value)? })
        })
        .collect()
}

/// No value and an empty value look the same through a view.
fn any_value(value: View<'_>) -> Outcome<Option<AnyValue>> {
    let value = match value {
        View::Empty => return Ok(None),
        View::String(bytes) => Any::String(text(bytes)),
        View::Bool(flag) => Any::Bool(flag),
        View::Int(number) => Any::Int(number),
        View::Double(number) => Any::Double(number),
        View::Bytes(bytes) => Any::Bytes(bytes.to_vec()),
        View::Array(values) => Any::Array(ArrayValue {
            values: values.map(|value| Ok(any_value(value?)?.unwrap_or_default())).collect::<Outcome<_>>()?,
        }),
        View::Map(pairs) => Any::Map(KeyValueList { values: attributes(pairs)? }),
    };
    Ok(Some(AnyValue { value: Some(value) }))
}

fn span(span: &SpanView<'_>) -> Outcome<Span> {
    Ok(Span {
        trace_id: span.trace_id.to_vec(),
        span_id: span.span_id.to_vec(),
        trace_state: text(span.trace_state),
        parent_span_id: span.parent_span_id.to_vec(),
        name: text(span.name),
        kind: span.kind,
        start_time_unix_nano: span.start_time_unix_nano,
        end_time_unix_nano: span.end_time_unix_nano,
        attributes: attributes(span.attributes())?,
        dropped_attributes_count: span.dropped_attributes_count,
        events: span
            .events()
            .map(|event| {
                let event = event?;
                Ok(Event {
                    time_unix_nano: event.time_unix_nano,
                    name: text(event.name),
                    attributes: attributes(event.attributes())?,
                    dropped_attributes_count: event.dropped_attributes_count,
                })
            })
            .collect::<Outcome<_>>()?,
        dropped_events_count: span.dropped_events_count,
        links: span
            .links()
            .map(|link| {
                let link = link?;
                Ok(Link {
                    trace_id: link.trace_id.to_vec(),
                    span_id: link.span_id.to_vec(),
                    trace_state: text(link.trace_state),
                    attributes: attributes(link.attributes())?,
                    dropped_attributes_count: link.dropped_attributes_count,
                    flags: link.flags,
                })
            })
            .collect::<Outcome<_>>()?,
        dropped_links_count: span.dropped_links_count,
        status: Some(Status { message: text(span.status.message), code: span.status.code })
            .filter(|status| *status != Status::default()),
        flags: span.flags,
    })
}

fn metric(metric: MetricView<'_>) -> Outcome<Metric> {
    let metadata = attributes(metric.metadata())?;
    let data = match metric.data {
        MetricData::Empty => None,
        MetricData::Gauge(points) => Some(Data::Gauge(Gauge {
            data_points: points.map(|it| number_point(&it?)).collect::<Outcome<_>>()?,
        })),
        MetricData::Sum { points, temporality, is_monotonic } => Some(Data::Sum(Sum {
            data_points: points.map(|it| number_point(&it?)).collect::<Outcome<_>>()?,
            aggregation_temporality: temporality,
            is_monotonic,
        })),
        MetricData::Histogram { points, temporality } => Some(Data::Histogram(Histogram {
            data_points: points.map(|it| histogram_point(&it?)).collect::<Outcome<_>>()?,
            aggregation_temporality: temporality,
        })),
        MetricData::ExponentialHistogram { points, temporality } => Some(Data::Exponential(Exponential {
            data_points: points.map(|it| exponential_point(&it?)).collect::<Outcome<_>>()?,
            aggregation_temporality: temporality,
        })),
        MetricData::Summary(points) => Some(Data::Summary(Summary {
            data_points: points.map(|it| summary_point(&it?)).collect::<Outcome<_>>()?,
        })),
    };
    Ok(Metric {
        name: text(metric.name),
        description: text(metric.description),
        unit: text(metric.unit),
        data,
        metadata,
    })
}

fn number_point(point: &weir_wire::otlp::NumberPointView<'_>) -> Outcome<NumberPoint> {
    Ok(NumberPoint {
        start_time_unix_nano: point.start_time_unix_nano,
        time_unix_nano: point.time_unix_nano,
        value: match point.value {
            Number::Empty => None,
            Number::Int(value) => Some(PointValue::Int(value)),
            Number::Double(value) => Some(PointValue::Double(value)),
        },
        exemplars: point.exemplars().map(|it| exemplar(&it?)).collect::<Outcome<_>>()?,
        attributes: attributes(point.attributes())?,
        flags: point.flags,
    })
}

fn histogram_point(point: &weir_wire::otlp::HistogramPointView<'_>) -> Outcome<HistogramPoint> {
    Ok(HistogramPoint {
        start_time_unix_nano: point.start_time_unix_nano,
        time_unix_nano: point.time_unix_nano,
        count: point.count,
        sum: point.sum,
        bucket_counts: point.bucket_counts().collect(),
        explicit_bounds: point.explicit_bounds().collect(),
        exemplars: point.exemplars().map(|it| exemplar(&it?)).collect::<Outcome<_>>()?,
        attributes: attributes(point.attributes())?,
        flags: point.flags,
        min: point.min,
        max: point.max,
    })
}

fn exponential_point(point: &weir_wire::otlp::ExponentialPointView<'_>) -> Outcome<ExponentialPoint> {
    let buckets = |view: &BucketsView<'_>| {
        Some(Buckets { offset: view.offset, bucket_counts: view.counts().collect() })
            .filter(|buckets| *buckets != Buckets::default())
    };
    Ok(ExponentialPoint {
        attributes: attributes(point.attributes())?,
        start_time_unix_nano: point.start_time_unix_nano,
        time_unix_nano: point.time_unix_nano,
        count: point.count,
        sum: point.sum,
        scale: point.scale,
        zero_count: point.zero_count,
        positive: buckets(&point.positive),
        negative: buckets(&point.negative),
        flags: point.flags,
        exemplars: point.exemplars().map(|it| exemplar(&it?)).collect::<Outcome<_>>()?,
        min: point.min,
        max: point.max,
        zero_threshold: point.zero_threshold,
    })
}

fn summary_point(point: &weir_wire::otlp::SummaryPointView<'_>) -> Outcome<SummaryPoint> {
    Ok(SummaryPoint {
        start_time_unix_nano: point.start_time_unix_nano,
        time_unix_nano: point.time_unix_nano,
        count: point.count,
        sum: point.sum,
        quantile_values: point
            .quantiles()
            .map(|it| it.map(|it| Quantile { quantile: it.quantile, value: it.value }))
            .collect::<Outcome<_>>()?,
        attributes: attributes(point.attributes())?,
        flags: point.flags,
    })
}

fn exemplar(exemplar: &ExemplarView<'_>) -> Outcome<Exemplar> {
    Ok(Exemplar {
        time_unix_nano: exemplar.time_unix_nano,
        value: match exemplar.value {
            Number::Empty => None,
            Number::Int(value) => Some(ExemplarValue::Int(value)),
            Number::Double(value) => Some(ExemplarValue::Double(value)),
        },
        span_id: exemplar.span_id.to_vec(),
        trace_id: exemplar.trace_id.to_vec(),
        filtered_attributes: attributes(exemplar.filtered_attributes())?,
    })
}

fn log_record(record: LogRecordView<'_>) -> Outcome<LogRecord> {
    Ok(LogRecord {
        time_unix_nano: record.time_unix_nano,
        severity_number: record.severity_number,
        severity_text: text(record.severity_text),
        attributes: attributes(record.attributes())?,
        dropped_attributes_count: record.dropped_attributes_count,
        flags: record.flags,
        trace_id: record.trace_id.to_vec(),
        span_id: record.span_id.to_vec(),
        observed_time_unix_nano: record.observed_time_unix_nano,
        event_name: text(record.event_name),
        body: any_value(record.body)?,
    })
}
