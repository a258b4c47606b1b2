//! OTLP metrics as text, for reading and comparing.
//!
//! ```text
//! resource
//!   service.name = "shop"
//!   scope "library" "1.0"
//!     key = value
//!     sum cumulative monotonic "http_total" unit "s" type counter
//!       about "Requests."
//!       {code="200"} time 7 start 5 value 3.0
//!         exemplar time 6 value 0.5 trace HEX span HEX {key="value"}
//!     histogram cumulative "h"
//!       {} time 7 count 2 sum 3.0 buckets [1, 1] bounds [1.0]
//!     exponential cumulative "n"
//!       {} time 7 count 6 sum 4.0 scale 1 zero 1 below 0.001 positive -2 [3, 2]
//!     summary "s"
//!       {} time 7 count 2 sum 3.5 quantiles [0.5 = 1.0]
//!     gauge "gone"
//!       {} time 7 gone
//! ```
//!
//! What is absent or empty is not there; attributes are in the order of their keys, everything else in that of the bytes.

use std::fmt::Write as _;

use weir_guest::wire::otlp::{
    AnyValue, BucketsView, ExemplarView, ExponentialPointView, HistogramPointView, KeyValues, MetricData,
    MetricView, Number, NumberPointView, SummaryPointView, resource_groups,
};

/// The text of requests.
pub(crate) fn of<'b>(bodies: impl IntoIterator<Item = &'b [u8]>) -> String {
    let mut text = String::new();
    for body in bodies {
        for group in resource_groups(body) {
            let group = group.expect("a resource group");
            text.push_str("resource\n");
            lines(&mut text, 1, group.resource_view().attributes());
            for scope_group in group.scopes() {
                let scope_group = scope_group.expect("a scope group");
                let scope = scope_group.scope_view().expect("a scope");
                text.push_str("  scope");
                for part in [scope.name, scope.version] {
                    if !part.is_empty() {
                        write!(text, " {}", quoted(part)).expect("a String takes all");
                    }
                }
                text.push('\n');
                lines(&mut text, 2, scope.attributes());
                scope_group.metrics().for_each(|one| metric(&mut text, &one.expect("a metric")));
            }
        }
    }
    text
}

fn lines(text: &mut String, depth: usize, attributes: KeyValues<'_>) {
    for (key, value) in sorted(attributes) {
        writeln!(text, "{:width$}{key} = {value}", "", width = 2 * depth).expect("a String takes all");
    }
}

fn metric(text: &mut String, metric: &MetricView<'_>) {
    let temporality =
        |number: i32| ["unspecified", "delta", "cumulative"][usize::try_from(number).expect("small")];
    let head = match &metric.data {
        MetricData::Empty => "empty".to_owned(),
        MetricData::Gauge(_) => "gauge".to_owned(),
        MetricData::Sum { temporality: number, is_monotonic, .. } => {
            format!("sum {}{}", temporality(*number), if *is_monotonic { " monotonic" } else { "" })
        }
        MetricData::Histogram { temporality: number, .. } => format!("histogram {}", temporality(*number)),
        MetricData::ExponentialHistogram { temporality: number, .. } => {
            format!("exponential {}", temporality(*number))
        }
        MetricData::Summary(_) => "summary".to_owned(),
    };
    write!(text, "    {head} {}", quoted(metric.name)).expect("a String takes all");
    if !metric.unit.is_empty() {
        write!(text, " unit {}", quoted(metric.unit)).expect("a String takes all");
    }
    for (key, value) in sorted(metric.metadata()) {
        assert_eq!(key, "prometheus.type");
        write!(text, " type {}", value.trim_matches('"')).expect("a String takes all");
    }
    text.push('\n');
    if !metric.description.is_empty() {
        writeln!(text, "      about {}", quoted(metric.description)).expect("a String takes all");
    }
    match &metric.data {
        MetricData::Empty => {}
        MetricData::Gauge(points) | MetricData::Sum { points, .. } => {
            points.clone().for_each(|point| number_point(text, &point.expect("a point")));
        }
        MetricData::Histogram { points, .. } => {
            points.clone().for_each(|point| histogram_point(text, &point.expect("a point")));
        }
        MetricData::ExponentialHistogram { points, .. } => {
            points.clone().for_each(|point| exponential_point(text, &point.expect("a point")));
        }
        MetricData::Summary(points) => {
            points.clone().for_each(|point| summary_point(text, &point.expect("a point")));
        }
    }
}

fn point(text: &mut String, attributes: KeyValues<'_>, start: u64, time: u64, rest: &str, flags: u32) {
    write!(text, "      {}", braces(attributes)).expect("a String takes all");
    for (word, nanos) in [("time", time), ("start", start)] {
        if nanos > 0 {
            write!(text, " {word} {nanos}").expect("a String takes all");
        }
    }
    text.push_str(rest);
    text.push_str(["", " gone"][usize::try_from(flags).expect("one flag")]);
    text.push('\n');
}

fn number_point(text: &mut String, view: &NumberPointView<'_>) {
    let rest = number(view.value);
    point(text, view.attributes(), view.start_time_unix_nano, view.time_unix_nano, &rest, view.flags);
    view.exemplars().for_each(|one| exemplar(text, &one.expect("an exemplar")));
}

fn number(number: Number) -> String {
    match number {
        Number::Empty => String::new(),
        Number::Int(value) => format!(" int {value}"),
        Number::Double(value) => format!(" value {value:?}"),
    }
}

fn histogram_point(text: &mut String, view: &HistogramPointView<'_>) {
    let mut rest = String::new();
    if view.flags == 0 {
        write!(rest, " count {}", view.count).expect("a String takes all");
    }
    if let Some(sum) = view.sum {
        write!(rest, " sum {sum:?}").expect("a String takes all");
    }
    let counts: Vec<u64> = view.bucket_counts().collect();
    let bounds: Vec<f64> = view.explicit_bounds().collect();
    if !counts.is_empty() {
        write!(rest, " buckets {counts:?} bounds {bounds:?}").expect("a String takes all");
    }
    point(text, view.attributes(), view.start_time_unix_nano, view.time_unix_nano, &rest, view.flags);
    view.exemplars().for_each(|one| exemplar(text, &one.expect("an exemplar")));
}

fn exponential_point(text: &mut String, view: &ExponentialPointView<'_>) {
    let mut rest = String::new();
    if view.flags == 0 {
        write!(rest, " count {}", view.count).expect("a String takes all");
    }
    if let Some(sum) = view.sum {
        write!(rest, " sum {sum:?}").expect("a String takes all");
    }
    write!(rest, " scale {} zero {} below {:?}", view.scale, view.zero_count, view.zero_threshold)
        .expect("a String takes all");
    for (word, BucketsView { offset, .. }, counts) in [
        ("negative", view.negative, view.negative.counts()),
        ("positive", view.positive, view.positive.counts()),
    ] {
        let counts: Vec<u64> = counts.collect();
        if !counts.is_empty() {
            write!(rest, " {word} {offset} {counts:?}").expect("a String takes all");
        }
    }
    point(text, view.attributes(), view.start_time_unix_nano, view.time_unix_nano, &rest, view.flags);
    view.exemplars().for_each(|one| exemplar(text, &one.expect("an exemplar")));
}

fn summary_point(text: &mut String, view: &SummaryPointView<'_>) {
    let mut rest = String::new();
    if view.flags == 0 {
        write!(rest, " count {} sum {:?}", view.count, view.sum).expect("a String takes all");
    }
    let quantiles: Vec<String> = view
        .quantiles()
        .map(|one| one.expect("a quantile"))
        .map(|one| format!("{:?} = {:?}", one.quantile, one.value))
        .collect();
    if !quantiles.is_empty() {
        write!(rest, " quantiles [{}]", quantiles.join(", ")).expect("a String takes all");
    }
    point(text, view.attributes(), view.start_time_unix_nano, view.time_unix_nano, &rest, view.flags);
}

fn exemplar(text: &mut String, view: &ExemplarView<'_>) {
    let mut line = format!("        exemplar time {}{}", view.time_unix_nano, number(view.value));
    for (word, id) in [("trace", view.trace_id), ("span", view.span_id)] {
        if !id.is_empty() {
            let hex: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
            write!(line, " {word} {hex}").expect("a String takes all");
        }
    }
    let labels = braces(view.filtered_attributes());
    if labels != "{}" {
        write!(line, " {labels}").expect("a String takes all");
    }
    writeln!(text, "{line}").expect("a String takes all");
}

fn braces(attributes: KeyValues<'_>) -> String {
    let pairs: Vec<String> =
        sorted(attributes).into_iter().map(|(key, value)| format!("{key}={value}")).collect();
    format!("{{{}}}", pairs.join(", "))
}

/// Keys with their values, which are strings.
fn sorted(attributes: KeyValues<'_>) -> Vec<(String, String)> {
    let mut pairs: Vec<(String, String)> = attributes
        .map(|attribute| {
            let attribute = attribute.expect("an attribute");
            let AnyValue::String(value) = attribute.value else { panic!("{attribute:?} is no text") };
            (String::from_utf8(attribute.key.to_vec()).expect("UTF-8"), quoted(value))
        })
        .collect();
    pairs.sort();
    for two in pairs.windows(2) {
        assert_ne!(two[0].0, two[1].0, "a key stands twice");
    }
    pairs
}

fn quoted(text: &[u8]) -> String {
    format!("{:?}", core::str::from_utf8(text).expect("UTF-8"))
}
