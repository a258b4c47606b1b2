//! Metrics as text, a line for each sample or point.

use prost::Message;
use weir_proto::opentelemetry::proto::common::v1::{KeyValue, any_value};
use weir_proto::opentelemetry::proto::metrics::v1::{NumberDataPoint, metric, number_data_point};
use weir_tests::sink::SeenMetric;

/// `prometheus.WriteRequest` of remote write 1.0, as far as it is looked at here (prometheus/prompb).
#[derive(Clone, PartialEq, Message)]
pub(super) struct WriteRequest {
    #[prost(message, repeated, tag = "1")]
    timeseries: Vec<TimeSeries>,
}

#[derive(Clone, PartialEq, Message)]
struct TimeSeries {
    #[prost(message, repeated, tag = "1")]
    labels: Vec<Label>,
    #[prost(message, repeated, tag = "2")]
    samples: Vec<Sample>,
    #[prost(message, repeated, tag = "4")]
    histograms: Vec<Histogram>,
}

#[derive(Clone, PartialEq, Message)]
struct Label {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    value: String,
}

#[derive(Clone, PartialEq, Message)]
struct Sample {
    #[prost(double, tag = "1")]
    value: f64,
    #[prost(int64, tag = "2")]
    timestamp: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Histogram {
    #[prost(uint64, tag = "1")]
    count: u64,
    #[prost(double, tag = "3")]
    sum: f64,
    #[prost(sint32, tag = "4")]
    schema: i32,
    #[prost(uint64, tag = "6")]
    zero_count: u64,
    #[prost(message, repeated, tag = "8")]
    negative_spans: Vec<Span>,
    #[prost(sint64, repeated, tag = "9")]
    negative_deltas: Vec<i64>,
    #[prost(message, repeated, tag = "11")]
    positive_spans: Vec<Span>,
    #[prost(sint64, repeated, tag = "12")]
    positive_deltas: Vec<i64>,
    #[prost(int64, tag = "15")]
    timestamp: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Span {
    #[prost(sint32, tag = "1")]
    offset: i32,
    #[prost(uint32, tag = "2")]
    length: u32,
}

/// Samples and native histograms as `name{label="value"} value @milliseconds`, sorted.
pub(super) fn of_write(request: &WriteRequest) -> String {
    let mut lines = Vec::new();
    for TimeSeries { labels, samples, histograms } in &request.timeseries {
        let is_name = |label: &&Label| label.name == "__name__";
        let name = labels.iter().find(is_name).map(|label| label.value.clone()).unwrap_or_default();
        let labels: Vec<String> = labels
            .iter()
            .filter(|label| !is_name(label))
            .map(|Label { name, value }| format!("{name}={value:?}"))
            .collect();
        let head = format!("{name}{{{}}}", labels.join(","));
        for Sample { value, timestamp } in samples {
            lines.push(format!("{head} {value} @{timestamp}\n"));
        }
        for found in histograms {
            let side = |spans: &[Span], deltas: &[i64]| {
                let spans: Vec<_> = spans.iter().map(|span| (span.offset, span.length)).collect();
                format!("{spans:?} {deltas:?}")
            };
            let positive = side(&found.positive_spans, &found.positive_deltas);
            let negative = side(&found.negative_spans, &found.negative_deltas);
            let Histogram { count, sum, schema, zero_count, timestamp, .. } = found;
            lines.push(format!(
                "{head} native count {count} sum {sum} schema {schema} zero {zero_count} positive {positive} negative {negative} @{timestamp}\n"
            ));
        }
    }
    lines.sort();
    lines.concat()
}

fn pairs(attributes: &[KeyValue]) -> String {
    let pair = |attribute: &KeyValue| match attribute.value.as_ref().and_then(|value| value.value.as_ref()) {
        Some(any_value::Value::StringValue(text)) => format!("{}={text:?}", attribute.key),
        other => format!("{}={other:?}", attribute.key),
    };
    attributes.iter().map(pair).collect::<Vec<_>>().join(",")
}

/// Points of OTLP, by resource, in order.
pub(super) fn of_otlp(seen: &[SeenMetric]) -> String {
    let mut text = String::new();
    for SeenMetric { resource, metric, .. } in seen {
        let mut line = |kind: String, attributes: &[KeyValue], value: String| {
            let (name, unit, of) = (&metric.name, &metric.unit, pairs(&resource.attributes));
            let attributes = pairs(attributes);
            text.push_str(&format!("[{of}] {name} ({unit:?}, {kind}) {{{attributes}}} {value}\n"));
        };
        match metric.data.as_ref() {
            Some(metric::Data::Gauge(gauge)) => {
                gauge.data_points.iter().for_each(|p| line("gauge".into(), &p.attributes, number(p)));
            }
            Some(metric::Data::Sum(sum)) => {
                let kind = format!("sum {} {}", sum.aggregation_temporality, sum.is_monotonic);
                sum.data_points.iter().for_each(|p| line(kind.clone(), &p.attributes, number(p)));
            }
            Some(metric::Data::Histogram(histogram)) => {
                for p in &histogram.data_points {
                    let value = format!(
                        "count {} sum {:?} bounds {:?} buckets {:?} @{}",
                        p.count, p.sum, p.explicit_bounds, p.bucket_counts, p.time_unix_nano
                    );
                    line(format!("histogram {}", histogram.aggregation_temporality), &p.attributes, value);
                }
            }
            Some(metric::Data::ExponentialHistogram(histogram)) => {
                for p in &histogram.data_points {
                    let (positive, negative) = (p.positive.as_ref(), p.negative.as_ref());
                    let side = |side: Option<&_>| {
                        side.map(|side: &Buckets| (side.offset, side.bucket_counts.clone()))
                    };
                    let value = format!(
                        "count {} sum {:?} scale {} zero {} positive {:?} negative {:?} @{}",
                        p.count,
                        p.sum,
                        p.scale,
                        p.zero_count,
                        side(positive),
                        side(negative),
                        p.time_unix_nano
                    );
                    let kind = format!("exponential histogram {}", histogram.aggregation_temporality);
                    line(kind, &p.attributes, value);
                }
            }
            Some(metric::Data::Summary(summary)) => {
                for p in &summary.data_points {
                    let quantiles: Vec<_> = p.quantile_values.iter().map(|q| (q.quantile, q.value)).collect();
                    let value =
                        format!("count {} sum {} {quantiles:?} @{}", p.count, p.sum, p.time_unix_nano);
                    line("summary".into(), &p.attributes, value);
                }
            }
            None => line("nothing".into(), &[], String::new()),
        }
    }
    text
}

type Buckets = weir_proto::opentelemetry::proto::metrics::v1::exponential_histogram_data_point::Buckets;

fn number(point: &NumberDataPoint) -> String {
    let value = match point.value {
        Some(number_data_point::Value::AsInt(value)) => value.to_string(),
        Some(number_data_point::Value::AsDouble(value)) => format!("{value:?}"),
        None => "none".into(),
    };
    format!("{value} @{}", point.time_unix_nano)
}
