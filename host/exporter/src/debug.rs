//! The `debug` exporter: a line a batch, or a line an item.
//!
//! It takes everything, so a pipeline with nothing else keeps nothing.

use std::fmt::Write;

use tracing::info;
use weir_model::{BoxFuture, Exporter, Outcome, Push, Signal};
use weir_wire::otlp::{
    AnyValue, KeyValues, LogRecordView, MetricData, MetricView, SpanView, resource_groups,
};
use weir_wire::{Malformed, ResourceView};

/// Bytes of one line at most; what is longer ends in `…`.
const LINE_BYTES_MAX: usize = 4096;

/// How much it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Verbosity {
    /// A line a batch.
    #[default]
    Basic,
    /// A line a batch, then one for every span, metric or log record.
    Detailed,
}

/// Writes batches to the log.
#[derive(Debug, Clone)]
pub struct Debug {
    /// The configured id.
    pub id: String,
    /// How much it says.
    pub verbosity: Verbosity,
}

impl Exporter for Debug {
    fn push(&self, push: Push) -> BoxFuture<'_, Outcome> {
        info!(
            exporter = self.id,
            signal = %push.signal,
            items = push.items,
            bytes = push.body.len(),
            attempt = push.attempt,
            delivery = push.id,
            "batch"
        );
        let outcome = match self.verbosity {
            Verbosity::Basic => Ok(()),
            Verbosity::Detailed => self.items(push.signal, &push.body),
        };
        Box::pin(std::future::ready(match outcome {
            Ok(()) => Outcome::Accepted,
            Err(error) => Outcome::Permanent(error.to_string()),
        }))
    }

    fn in_flight_max(&self) -> usize {
        1
    }
}

impl Debug {
    fn items(&self, signal: Signal, body: &[u8]) -> Result<(), Malformed> {
        for group in resource_groups(body) {
            let group = group?;
            let resource = attributes(ResourceView::new(group.resource).attributes());
            for scope in group.scopes() {
                let scope = scope?;
                match signal {
                    Signal::Traces => {
                        for span in scope.spans() {
                            self.say("span", &resource, &describe_span(&span?));
                        }
                    }
                    Signal::Metrics => {
                        for metric in scope.metrics() {
                            self.say("metric", &resource, &describe_metric(&metric?));
                        }
                    }
                    Signal::Logs => {
                        for record in scope.log_records() {
                            self.say("log record", &resource, &describe_record(&record?));
                        }
                    }
                }
            }
        }
        Ok(())
    }

    fn say(&self, what: &'static str, resource: &str, text: &str) {
        info!(exporter = self.id, resource, "{what} {}", cut(text));
    }
}

fn describe_span(span: &SpanView<'_>) -> String {
    const KINDS: [&str; 6] = ["unspecified", "internal", "server", "client", "producer", "consumer"];
    const CODES: [&str; 3] = ["unset", "ok", "error"];
    let kind = usize::try_from(span.kind).ok().and_then(|kind| KINDS.get(kind)).unwrap_or(&"unknown");
    let code = usize::try_from(span.status.code).ok().and_then(|code| CODES.get(code)).unwrap_or(&"unknown");
    let mut text = format!(
        "{:?} trace={} id={} parent={} kind={kind} start={} nanos={} status={code}",
        words(span.name),
        hex(span.trace_id),
        hex(span.span_id),
        hex(span.parent_span_id),
        span.start_time_unix_nano,
        span.end_time_unix_nano.saturating_sub(span.start_time_unix_nano),
    );
    if !span.status.message.is_empty() {
        add(&mut text, format_args!(" message={:?}", words(span.status.message)));
    }
    add(&mut text, format_args!(" {}", attributes(span.attributes())));
    for event in span.events().flatten() {
        add(&mut text, format_args!(" event {:?} {}", words(event.name), attributes(event.attributes())));
    }
    for link in span.links().flatten() {
        add(&mut text, format_args!(" link {}/{}", hex(link.trace_id), hex(link.span_id)));
    }
    text
}

fn describe_metric(metric: &MetricView<'_>) -> String {
    let (kind, points) = match &metric.data {
        MetricData::Empty => ("empty", 0),
        MetricData::Gauge(points) => ("gauge", points.clone().count()),
        MetricData::Sum { points, .. } => ("sum", points.clone().count()),
        MetricData::Histogram { points, .. } => ("histogram", points.clone().count()),
        MetricData::ExponentialHistogram { points, .. } => ("exponential histogram", points.clone().count()),
        MetricData::Summary(points) => ("summary", points.clone().count()),
    };
    format!("{:?} {kind} unit={:?} points={points}", words(metric.name), words(metric.unit))
}

fn describe_record(record: &LogRecordView<'_>) -> String {
    let mut body = String::new();
    render(&record.body, &mut body);
    format!(
        "time={} severity={} {:?} body={body} trace={} {}",
        record.time_unix_nano,
        record.severity_number,
        words(record.severity_text),
        hex(record.trace_id),
        attributes(record.attributes()),
    )
}

fn attributes(list: KeyValues<'_>) -> String {
    let mut text = String::from("{");
    for (number, attribute) in list.flatten().enumerate() {
        if text.len() > LINE_BYTES_MAX {
            break;
        }
        let comma = if number == 0 { "" } else { ", " };
        add(&mut text, format_args!("{comma}{}=", words(attribute.key)));
        render(&attribute.value, &mut text);
    }
    text.push('}');
    text
}

/// A value as text; what is beyond a line's length is not looked at.
fn render(value: &AnyValue<'_>, text: &mut String) {
    if text.len() > LINE_BYTES_MAX {
        return;
    }
    match value {
        AnyValue::Empty => text.push_str("null"),
        AnyValue::String(bytes) => add(text, format_args!("{:?}", words(bytes))),
        AnyValue::Bool(value) => add(text, format_args!("{value}")),
        AnyValue::Int(value) => add(text, format_args!("{value}")),
        AnyValue::Double(value) => add(text, format_args!("{value:?}")),
        AnyValue::Bytes(bytes) => add(text, format_args!("{} bytes", bytes.len())),
        AnyValue::Array(values) => {
            text.push('[');
            for (number, value) in values.clone().flatten().enumerate() {
                text.push_str(if number == 0 { "" } else { ", " });
                render(&value, text);
            }
            text.push(']');
        }
        AnyValue::Map(entries) => text.push_str(&attributes(entries.clone())),
    }
}

fn add(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    text.write_fmt(arguments).expect("a String takes all");
}

fn words(bytes: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn cut(text: &str) -> String {
    let mut end = text.len().min(LINE_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    if end < text.len() { format!("{}…", &text[..end]) } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weir_wire::Encoder;

    /// Scenario: a span with a name, a status, an attribute and an event.
    /// Guarantees: a person finds each of them in its line.
    #[test]
    fn a_span_is_told_whole() {
        let mut out = Encoder::new();
        out.bytes(1, [0xab; 16]);
        out.bytes(2, [0xcd; 8]);
        out.string(5, "GET /");
        out.varint(6, 2);
        out.attribute_int(9, "http.status_code", 500);
        out.message(11, |event| event.string(2, "retry"));
        out.message(15, |status| {
            status.string(2, "boom");
            status.varint(3, 2);
        });
        let bytes = out.into_bytes();
        let text = describe_span(&SpanView::parse(&bytes).unwrap());
        for part in [
            "\"GET /\"",
            &"ab".repeat(16),
            "kind=server",
            "status=error",
            "boom",
            "http.status_code=500",
            "event \"retry\"",
        ] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
    }
}
