//! OTLP as text, with what is random replaced by what the client said.
//!
//! A line is written for each field that is there and for none that is not, so that what must be absent is seen too.
//!
//! ```text
//! ids as said        trace and span id are the client's
//! times as said      to the nanosecond, or in microseconds where the way has no more
//! times plausible    where the client does not tell: within this test, in order
//! <pid> <time> <host>  the client's process, a moment of this test, this machine's name
//! <ip> <uuid>          an address, an id that a client has made for itself
//! link "name"          to a span that the client has told of
//! ```

use std::fmt::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use weir_proto::opentelemetry::proto::common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value};
use weir_proto::opentelemetry::proto::metrics::v1::{
    Exemplar, HistogramDataPoint, NumberDataPoint, exemplar, metric, number_data_point,
};
use weir_proto::opentelemetry::proto::resource::v1::Resource;
use weir_proto::opentelemetry::proto::trace::v1::{Span, status};
use weir_tests::batch::hex;
use weir_tests::sink::{SeenLog, SeenMetric, SeenSpan};

use crate::client::{Said, SaidSpan, nanos};

/// How far back a moment of this test may be: clients are installed and compiled meanwhile.
const TEST_TIME_MAX: Duration = Duration::from_secs(900);

/// How far clocks of one machine may stand apart: some clients round to milliseconds, some measure from their own start.
const CLOCK_SLACK_NANOS: u64 = 50_000_000;

/// Spans by resource, scope and name.
pub(crate) fn spans(seen: &[SeenSpan], said: &Said) -> String {
    let rendered = seen.iter().map(|seen| {
        let head = head(&seen.resource, &seen.scope, said);
        (head, seen.span.name.clone(), span(&seen.span, said))
    });
    joined(rendered.collect())
}

/// Metrics by resource, scope and name.
pub(crate) fn metrics(seen: &[SeenMetric], said: &Said) -> String {
    let rendered = seen.iter().map(|seen| {
        let head = head(&seen.resource, &seen.scope, said);
        (head, seen.metric.name.clone(), metric(seen))
    });
    joined(rendered.collect())
}

/// Log records by resource and scope.
pub(crate) fn logs(seen: &[SeenLog], said: &Said) -> String {
    let rendered =
        seen.iter().map(|seen| (head(&seen.resource, &seen.scope, said), String::new(), log(seen)));
    joined(rendered.collect())
}

fn joined(mut rendered: Vec<(String, String, String)>) -> String {
    rendered.sort();
    let mut text = String::new();
    let mut last = None;
    for (head, _, body) in rendered {
        if last.as_ref() != Some(&head) {
            text.push_str(&head);
            last = Some(head);
        }
        text.push_str(&body);
    }
    text
}

fn head(resource: &Resource, scope: &InstrumentationScope, said: &Said) -> String {
    let mut text = "resource\n".to_owned();
    let replaced =
        resource.attributes.iter().map(|attribute| (attribute.key.clone(), resource_value(attribute, said)));
    lines(&mut text, "  ", replaced.collect());
    if resource.dropped_attributes_count > 0 {
        line(&mut text, format_args!("  dropped attributes {}", resource.dropped_attributes_count));
    }
    if *scope != InstrumentationScope::default() {
        line(&mut text, format_args!("scope {} {}", scope.name, scope.version));
        lines(&mut text, "  ", values(&scope.attributes));
    }
    text
}

fn resource_value(attribute: &KeyValue, said: &Said) -> String {
    let plain = value(attribute.value.as_ref());
    match attribute.key.as_str() {
        "process.pid" if plain == said.pid.to_string() => "<pid>".to_owned(),
        "opencensus.starttime" if is_of_this_test(nanos(plain.trim_matches('"'))) => "<time>".to_owned(),
        "host.name" if plain == format!("{:?}", this_host()) => "<host>".to_owned(),
        "ip" if plain.trim_matches('"').parse::<std::net::IpAddr>().is_ok() => "<ip>".to_owned(),
        "client-uuid" if is_uuid(plain.trim_matches('"')) => "<uuid>".to_owned(),
        _ => plain,
    }
}

fn is_uuid(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    let is_hex = |part: &&str| part.bytes().all(|byte| byte.is_ascii_hexdigit());
    parts.iter().map(|part| part.len()).eq([8, 4, 4, 4, 12]) && parts.iter().all(is_hex)
}

fn span(span: &Span, said: &Said) -> String {
    let mut text = String::new();
    line(
        &mut text,
        format_args!("span {:?} {}", span.name, span.kind().as_str_name().trim_start_matches("SPAN_KIND_")),
    );
    let (trace, id) = (hex(&span.trace_id), hex(&span.span_id));
    let named = said.spans.iter().find(|said| said.span == id);
    match named.filter(|said| said.trace == trace && is_name(&said.name, &span.name)) {
        Some(_) => line(&mut text, format_args!("  ids as said")),
        None => line(&mut text, format_args!("  trace {trace} span {id}")),
    }
    let parent = hex(&span.parent_span_id);
    match said.spans.iter().find(|said| said.span == parent) {
        Some(said) => line(&mut text, format_args!("  parent {:?}", said.name)),
        None if parent.is_empty() => {}
        None => line(&mut text, format_args!("  parent {parent}")),
    }
    let (start, end) = (span.start_time_unix_nano, span.end_time_unix_nano);
    let times = match named.and_then(SaidSpan::times) {
        Some((s, e)) if said.in_micros => {
            // Start and duration are rounded, each for itself; of no duration at all one is left.
            let is_rounded =
                |exact: u64, found: u64| found.is_multiple_of(1000) && found.abs_diff(exact) <= 1000;
            let both = is_rounded(s, start) && is_rounded(e - s, end.saturating_sub(start));
            both.then_some("times as said, in microseconds")
        }
        Some(exact) => (exact == (start, end)).then_some("times as said"),
        None => (start <= end && is_of_this_test(start)).then_some("times plausible"),
    };
    let different = || format!("times {start} {end}, said {named:?}");
    let times = times.map_or_else(different, str::to_owned);
    line(&mut text, format_args!("  {times}"));
    if !span.trace_state.is_empty() {
        line(&mut text, format_args!("  state {}", span.trace_state));
    }
    if span.flags != 0 {
        line(&mut text, format_args!("  flags {}", span.flags));
    }
    if let Some(status) = &span.status
        && (status.code() != status::StatusCode::Unset || !status.message.is_empty())
    {
        let code = status.code().as_str_name().trim_start_matches("STATUS_CODE_");
        line(&mut text, format_args!("  status {code} {:?}", status.message));
    }
    lines(&mut text, "  ", values(&span.attributes));
    inner(&mut text, span, said);
    text
}

/// Events, links and what was dropped.
fn inner(text: &mut String, span: &Span, said: &Said) {
    for event in &span.events {
        let (start, end) = (span.start_time_unix_nano, span.end_time_unix_nano);
        let during = start.saturating_sub(CLOCK_SLACK_NANOS)..=end + CLOCK_SLACK_NANOS;
        let place = match event.time_unix_nano {
            0 => " at no time".to_owned(),
            time if during.contains(&time) => String::new(),
            time => format!(" at {time}, outside of {start} to {end}"),
        };
        line(text, format_args!("  event {:?}{place}", event.name));
        lines(text, "    ", values(&event.attributes));
        dropped(text, "    ", "attributes", event.dropped_attributes_count);
    }
    for link in &span.links {
        let (trace, id) = (hex(&link.trace_id), hex(&link.span_id));
        match said.spans.iter().find(|said| said.span == id && said.trace == trace) {
            Some(said) => line(text, format_args!("  link {:?}", said.name)),
            None => line(text, format_args!("  link {trace} {id}")),
        }
        if !link.trace_state.is_empty() {
            line(text, format_args!("    state {}", link.trace_state));
        }
        if link.flags != 0 {
            line(text, format_args!("    flags {}", link.flags));
        }
        lines(text, "    ", values(&link.attributes));
        dropped(text, "    ", "attributes", link.dropped_attributes_count);
    }
    dropped(text, "  ", "attributes", span.dropped_attributes_count);
    dropped(text, "  ", "events", span.dropped_events_count);
    dropped(text, "  ", "links", span.dropped_links_count);
}

fn metric(seen: &SeenMetric) -> String {
    let mut text = String::new();
    let metric = &seen.metric;
    line(&mut text, format_args!("metric {:?} {:?} in {:?}", metric.name, metric.description, metric.unit));
    match metric.data.as_ref() {
        None => line(&mut text, format_args!("  no data")),
        Some(metric::Data::Gauge(gauge)) => {
            line(&mut text, format_args!("  gauge"));
            gauge.data_points.iter().for_each(|point| number(&mut text, point));
        }
        Some(metric::Data::Sum(sum)) => {
            let monotonic = if sum.is_monotonic { "monotonic" } else { "not monotonic" };
            line(&mut text, format_args!("  sum, {}, {monotonic}", temporality(sum.aggregation_temporality)));
            sum.data_points.iter().for_each(|point| number(&mut text, point));
        }
        Some(metric::Data::Histogram(found)) => {
            line(&mut text, format_args!("  histogram, {}", temporality(found.aggregation_temporality)));
            found.data_points.iter().for_each(|point| histogram(&mut text, point));
        }
        Some(metric::Data::ExponentialHistogram(found)) => {
            line(
                &mut text,
                format_args!("  exponential histogram, {}", temporality(found.aggregation_temporality)),
            );
            for point in &found.data_points {
                point_head(
                    &mut text,
                    &point.attributes,
                    point.start_time_unix_nano,
                    point.time_unix_nano,
                    point.flags,
                );
                let (min, max, sum) = (point.min, point.max, point.sum);
                line(
                    &mut text,
                    format_args!("    count {} sum {sum:?} min {min:?} max {max:?}", point.count),
                );
                let counted: u64 = point.positive.iter().flat_map(|buckets| &buckets.bucket_counts).sum();
                line(
                    &mut text,
                    format_args!("    {counted} in positive buckets, {} zeros", point.zero_count),
                );
            }
        }
        Some(metric::Data::Summary(found)) => {
            line(&mut text, format_args!("  summary"));
            for point in &found.data_points {
                point_head(
                    &mut text,
                    &point.attributes,
                    point.start_time_unix_nano,
                    point.time_unix_nano,
                    point.flags,
                );
                line(&mut text, format_args!("    count {} sum {:?}", point.count, point.sum));
                for quantile in &point.quantile_values {
                    line(&mut text, format_args!("    {:?} = {:?}", quantile.quantile, quantile.value));
                }
            }
        }
    }
    text
}

fn number(text: &mut String, point: &NumberDataPoint) {
    point_head(text, &point.attributes, point.start_time_unix_nano, point.time_unix_nano, point.flags);
    match point.value {
        Some(number_data_point::Value::AsInt(value)) => line(text, format_args!("    int {value}")),
        Some(number_data_point::Value::AsDouble(value)) => line(text, format_args!("    double {value:?}")),
        None => line(text, format_args!("    no value")),
    }
    exemplars(text, &point.exemplars);
}

fn histogram(text: &mut String, point: &HistogramDataPoint) {
    point_head(text, &point.attributes, point.start_time_unix_nano, point.time_unix_nano, point.flags);
    line(
        text,
        format_args!("    count {} sum {:?} min {:?} max {:?}", point.count, point.sum, point.min, point.max),
    );
    line(text, format_args!("    bounds {:?} buckets {:?}", point.explicit_bounds, point.bucket_counts));
    exemplars(text, &point.exemplars);
}

fn point_head(text: &mut String, attributes: &[KeyValue], start: u64, time: u64, flags: u32) {
    line(text, format_args!("  point from {} to {}", moment(start), moment(time)));
    lines(text, "    ", values(attributes));
    if flags != 0 {
        line(text, format_args!("    flags {flags}"));
    }
}

fn exemplars(text: &mut String, exemplars: &[Exemplar]) {
    for found in exemplars {
        let value = match found.value {
            Some(exemplar::Value::AsInt(value)) => value.to_string(),
            Some(exemplar::Value::AsDouble(value)) => format!("{value:?}"),
            None => "none".to_owned(),
        };
        let ids = (hex(&found.trace_id), hex(&found.span_id));
        let time = moment(found.time_unix_nano);
        line(text, format_args!("    exemplar {value} at {time} of {ids:?}"));
        lines(text, "      ", values(&found.filtered_attributes));
    }
}

fn log(seen: &SeenLog) -> String {
    let mut text = String::new();
    let record = &seen.record;
    line(
        &mut text,
        format_args!("log {:?} {} {:?}", record.event_name, record.severity_number, record.severity_text),
    );
    let (time, observed) = (moment(record.time_unix_nano), moment(record.observed_time_unix_nano));
    line(&mut text, format_args!("  at {time}, observed at {observed}"));
    line(&mut text, format_args!("  body {}", value(record.body.as_ref())));
    if !record.trace_id.is_empty() || !record.span_id.is_empty() || record.flags != 0 {
        let ids = (hex(&record.trace_id), hex(&record.span_id), record.flags);
        line(&mut text, format_args!("  of {ids:?}"));
    }
    lines(&mut text, "  ", values(&record.attributes));
    dropped(&mut text, "  ", "attributes", record.dropped_attributes_count);
    text
}

fn temporality(number: i32) -> &'static str {
    ["no temporality", "delta", "cumulative"]
        .get(usize::try_from(number).unwrap_or(9))
        .unwrap_or(&"unknown temporality")
}

fn dropped(text: &mut String, indent: &str, what: &str, count: u32) {
    if count > 0 {
        line(text, format_args!("{indent}dropped {what} {count}"));
    }
}

fn values(attributes: &[KeyValue]) -> Vec<(String, String)> {
    attributes.iter().map(|attribute| (attribute.key.clone(), value(attribute.value.as_ref()))).collect()
}

fn lines(text: &mut String, indent: &str, mut values: Vec<(String, String)>) {
    values.sort();
    for (key, value) in values {
        line(text, format_args!("{indent}{key} = {value}"));
    }
}

fn line(text: &mut String, content: std::fmt::Arguments<'_>) {
    writeln!(text, "{content}").expect("a string takes all");
}

/// A value as it stands behind its key.
pub(crate) fn value(value: Option<&AnyValue>) -> String {
    match value.and_then(|value| value.value.as_ref()) {
        None => "nothing".to_owned(),
        Some(any_value::Value::StringValue(text)) => format!("{text:?}"),
        Some(any_value::Value::BoolValue(truth)) => truth.to_string(),
        Some(any_value::Value::IntValue(number)) => number.to_string(),
        Some(any_value::Value::DoubleValue(number)) => format!("{number:?}"),
        Some(any_value::Value::BytesValue(bytes)) => format!("bytes {}", hex(bytes)),
        Some(any_value::Value::ArrayValue(array)) => {
            let values: Vec<_> = array.values.iter().map(|inner| self::value(Some(inner))).collect();
            format!("[{}]", values.join(", "))
        }
        Some(any_value::Value::KvlistValue(list)) => {
            let mut members: Vec<_> =
                values(&list.values).into_iter().map(|(k, v)| format!("{k} = {v}")).collect();
            members.sort();
            format!("{{{}}}", members.join(", "))
        }
    }
}

/// Zipkin's names are in lower case.
fn is_name(said: &str, found: &str) -> bool {
    said == found || said.to_lowercase() == found.to_lowercase()
}

/// A time in nanoseconds, 0 being none.
fn moment(nanos: u64) -> String {
    match nanos {
        0 => "never".to_owned(),
        nanos if is_of_this_test(nanos) => "<time>".to_owned(),
        nanos => nanos.to_string(),
    }
}

fn is_of_this_test(nanos: u64) -> bool {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is past 1970");
    let moment = Duration::from_nanos(nanos);
    moment <= now + Duration::from_nanos(CLOCK_SLACK_NANOS) && moment + TEST_TIME_MAX > now
}

fn this_host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}
