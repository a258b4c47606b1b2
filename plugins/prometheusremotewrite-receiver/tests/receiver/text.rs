//! OTLP metrics as lines that a person can compare.
//!
//! ```text
//! {service.name=j} [scope 1.0] sum counter c_total "help" s {a=1} start..time value exemplars
//! ```

use weir_guest::wire::otlp::{
    AnyValue, BucketsView, Each, ExemplarView, ExponentialPointView, HistogramPointView, KeyValues,
    MetricData, MetricView, Number, NumberPointView, SummaryPointView, View, resource_groups,
};

fn plain(value: &AnyValue<'_>) -> String {
    match value {
        AnyValue::String(text) => String::from_utf8_lossy(text).into_owned(),
        other => format!("{other:?}"),
    }
}

fn pairs(pairs: KeyValues<'_>) -> String {
    let pairs = pairs.map(|pair| pair.expect("whole"));
    let pairs: Vec<_> =
        pairs.map(|pair| format!("{}={}", String::from_utf8_lossy(pair.key), plain(&pair.value))).collect();
    format!("{{{}}}", pairs.join(","))
}

fn exemplars(exemplars: Each<'_, ExemplarView<'_>>) -> String {
    let mut text = String::new();
    for exemplar in exemplars {
        let exemplar = exemplar.expect("whole");
        let hex = |id: &[u8]| id.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        text.push_str(&format!(
            " #{}@{}/{}/{}{}",
            number(exemplar.value),
            exemplar.time_unix_nano,
            hex(exemplar.trace_id),
            hex(exemplar.span_id),
            pairs(exemplar.filtered_attributes())
        ));
    }
    text
}

fn number(number: Number) -> String {
    match number {
        Number::Empty => "-".to_owned(),
        Number::Int(value) => value.to_string(),
        Number::Double(value) => format!("{value:?}"),
    }
}

fn time(start: u64, time: u64, flags: u32) -> String {
    let gone = if flags & 1 == 1 { " gone" } else { "" };
    format!("{start}..{time}{gone}")
}

fn points(metric: &MetricView<'_>) -> (&'static str, Vec<String>) {
    let word = match metric.data {
        MetricData::Empty => "empty",
        MetricData::Gauge(_) => "gauge",
        MetricData::Sum { is_monotonic: true, temporality: 2, .. } => "counter",
        MetricData::Sum { .. } => "sum",
        MetricData::Histogram { .. } => "histogram",
        MetricData::ExponentialHistogram { .. } => "exponential",
        MetricData::Summary(_) => "summary",
    };
    let lines = match metric.data.clone() {
        MetricData::Empty => Vec::new(),
        MetricData::Gauge(points) | MetricData::Sum { points, .. } => lines(points, of_number),
        MetricData::Histogram { points, .. } => lines(points, of_histogram),
        MetricData::ExponentialHistogram { points, .. } => lines(points, of_exponential),
        MetricData::Summary(points) => lines(points, of_summary),
    };
    (word, lines)
}

fn lines<'a, V: View<'a>>(points: Each<'a, V>, show: impl Fn(V) -> String) -> Vec<String> {
    points.map(|point| show(point.expect("whole"))).collect()
}

fn of_number(point: NumberPointView<'_>) -> String {
    let at = time(point.start_time_unix_nano, point.time_unix_nano, point.flags);
    format!("{} {at} {}{}", pairs(point.attributes()), number(point.value), exemplars(point.exemplars()))
}

fn of_histogram(point: HistogramPointView<'_>) -> String {
    let at = time(point.start_time_unix_nano, point.time_unix_nano, point.flags);
    let counts: Vec<_> = point.bucket_counts().collect();
    let bounds: Vec<_> = point.explicit_bounds().collect();
    let (labels, exemplars) = (pairs(point.attributes()), exemplars(point.exemplars()));
    format!("{labels} {at} {}/{:?} {counts:?} {bounds:?}{exemplars}", point.count, point.sum)
}

fn of_exponential(point: ExponentialPointView<'_>) -> String {
    let at = time(point.start_time_unix_nano, point.time_unix_nano, point.flags);
    let side = |side: BucketsView<'_>| (side.offset, side.counts().collect::<Vec<_>>());
    format!(
        "{} {at} {}/{:?} 2^{} {}<={:?} +{:?} -{:?}{}",
        pairs(point.attributes()),
        point.count,
        point.sum,
        point.scale,
        point.zero_count,
        point.zero_threshold,
        side(point.positive),
        side(point.negative),
        exemplars(point.exemplars())
    )
}

fn of_summary(point: SummaryPointView<'_>) -> String {
    let at = time(point.start_time_unix_nano, point.time_unix_nano, point.flags);
    let steps = point.quantiles().map(|step| step.map(|step| (step.quantile, step.value)).expect("whole"));
    let steps: Vec<_> = steps.collect();
    format!("{} {at} {}/{:?} {steps:?}", pairs(point.attributes()), point.count, point.sum)
}

/// A line for each point, sorted.
pub(crate) fn of(batches: &[Vec<u8>]) -> Vec<String> {
    let mut lines = Vec::new();
    for group in batches.iter().flat_map(|batch| resource_groups(batch)) {
        let group = group.expect("whole");
        let resource = pairs(group.resource_view().attributes());
        for scope in group.scopes() {
            let scope = scope.expect("whole");
            let view = scope.scope_view().expect("whole");
            let own = match view.name {
                b"" => String::new(),
                name if name.starts_with(b"prometheus") => String::new(),
                name => format!(
                    " [{} {}{}]",
                    String::from_utf8_lossy(name),
                    String::from_utf8_lossy(view.version),
                    pairs(view.attributes())
                ),
            };
            for metric in scope.metrics() {
                let metric = metric.expect("whole");
                let name = String::from_utf8_lossy(metric.name);
                let help = String::from_utf8_lossy(metric.description);
                let unit = String::from_utf8_lossy(metric.unit);
                let (word, points) = points(&metric);
                for point in points {
                    lines.push(format!("{resource}{own} {word} {name} {help:?} {unit:?} {point}"));
                }
            }
        }
    }
    lines.sort();
    lines
}
