//! OTLP traces as text, as `tests/cases/jaeger/README.md` says.

use std::fmt::Write as _;

use weir_proto::opentelemetry::proto::collector::trace::v1::ExportTraceServiceRequest;
use weir_proto::opentelemetry::proto::common::v1::{AnyValue, KeyValue, any_value};
use weir_proto::opentelemetry::proto::trace::v1::{ResourceSpans, Span, status};
use weir_tests::batch::hex;

/// The text of a request.
pub(crate) fn of(request: &ExportTraceServiceRequest) -> String {
    let mut text = String::new();
    request.resource_spans.iter().for_each(|group| resource(&mut text, group));
    text
}

fn line(text: &mut String, depth: usize, line: impl AsRef<str>) {
    writeln!(text, "{:width$}{}", "", line.as_ref(), width = 2 * depth).expect("a text takes all");
}

fn resource(text: &mut String, group: &ResourceSpans) {
    line(text, 0, "resource");
    attributes(text, 1, group.resource.as_ref().map_or(&[], |resource| &resource.attributes));
    for group in &group.scope_spans {
        let scope = group.scope.clone().unwrap_or_default();
        let parts = [scope.name, scope.version].into_iter().filter(|part| !part.is_empty());
        let head = parts.fold("scope".to_owned(), |head, part| format!("{head} {}", quoted(&part)));
        line(text, 1, head);
        attributes(text, 2, &scope.attributes);
        group.spans.iter().for_each(|one| span(text, one));
    }
}

fn span(text: &mut String, span: &Span) {
    line(text, 2, format!("span {} {}", hex(&span.trace_id), hex(&span.span_id)));
    let mut field = |name: &str, value: String| {
        if !value.is_empty() {
            line(text, 3, format!("{name} {value}"));
        }
    };
    let number = |number: u64| if number == 0 { String::new() } else { number.to_string() };
    let string = |text: &str| if text.is_empty() { String::new() } else { quoted(text) };
    field("parent", hex(&span.parent_span_id));
    field("state", string(&span.trace_state));
    field("name", string(&span.name));
    let kinds = ["", "INTERNAL", "SERVER", "CLIENT", "PRODUCER", "CONSUMER"];
    field("kind", kinds[usize::try_from(span.kind).expect("a kind")].to_owned());
    field("start", number(span.start_time_unix_nano));
    field("end", number(span.end_time_unix_nano));
    field("flags", number(span.flags.into()));
    attributes(text, 3, &span.attributes);
    for event in &span.events {
        line(text, 3, format!("event {} {}", event.time_unix_nano, quoted(&event.name)));
        attributes(text, 4, &event.attributes);
    }
    for link in &span.links {
        line(text, 3, format!("link {} {}", hex(&link.trace_id), hex(&link.span_id)));
        attributes(text, 4, &link.attributes);
    }
    let dropped = (span.dropped_attributes_count, span.dropped_events_count, span.dropped_links_count);
    assert_eq!(dropped, (0, 0, 0), "Jaeger's clients count nothing");
    let Some(found) = &span.status else { return };
    let message =
        if found.message.is_empty() { String::new() } else { format!(" {}", quoted(&found.message)) };
    match found.code() {
        status::StatusCode::Unset => assert!(message.is_empty(), "a status without a code has no message"),
        status::StatusCode::Ok => line(text, 3, format!("status OK{message}")),
        status::StatusCode::Error => line(text, 3, format!("status ERROR{message}")),
    }
}

fn attributes(text: &mut String, depth: usize, attributes: &[KeyValue]) {
    let mut lines: Vec<_> =
        attributes.iter().map(|a| format!("{} = {}", a.key, value(a.value.as_ref()))).collect();
    lines.sort();
    lines.iter().for_each(|attribute| line(text, depth, attribute));
}

fn value(value: Option<&AnyValue>) -> String {
    match value.and_then(|value| value.value.as_ref()) {
        None => "empty".to_owned(),
        Some(any_value::Value::StringValue(text)) => quoted(text),
        Some(any_value::Value::BoolValue(flag)) => flag.to_string(),
        Some(any_value::Value::IntValue(number)) => number.to_string(),
        Some(any_value::Value::DoubleValue(number)) => format!("{number:?}"),
        Some(any_value::Value::BytesValue(bytes)) => format!("base16\"{}\"", hex(bytes)),
        Some(other) => panic!("Jaeger has no {other:?}"),
    }
}

fn quoted(text: &str) -> String {
    serde_json::to_string(text).expect("a text is JSON")
}
