//! The Zipkin span that belongs to an OTLP span, by OpenTelemetry's rules and the plugin's own.
//!
//! | OTLP | Zipkin |
//! |---|---|
//! | trace id | 32 digits, 16 where the first half is zeros, as Zipkin's own ids of 64 bits have |
//! | kind internal | no kind, tag `span.kind` |
//! | times | microseconds, a duration of at least one; no start, neither |
//! | `service.name` | `localEndpoint.serviceName`, and no tag |
//! | other attributes of resource, scope, span | tags; the span's win, then the scope's |
//! | name and version of the scope | tags `otel.scope.*` and `otel.library.*` |
//! | status | `otel.status_code`, `error` |
//! | state of the trace | tag `w3c.tracestate` |
//! | events | annotations `name`, or `"name": {attributes}` |
//! | links | tags `otlp.link.N`: `trace\|span\|state\|{attributes}\|dropped` |
//! | who was called | `remoteEndpoint`, by OpenTelemetry's ranking |

use serde_json::{Map, Value, json};
use weir_proto::opentelemetry::proto::common::v1::{AnyValue, KeyValue, any_value};
use weir_proto::opentelemetry::proto::trace::v1::span::SpanKind;
use weir_proto::opentelemetry::proto::trace::v1::{Span, status::StatusCode};
use weir_tests::batch::hex;
use weir_tests::sink::SeenSpan;

/// Fails unless the one span of this id is the one that belongs to `seen`.
#[track_caller]
pub(crate) fn check(seen: &SeenSpan, zipkin: &[Value]) {
    let (trace, id) = (trace_id(&seen.span), hex(&seen.span.span_id));
    let of_it: Vec<_> = zipkin.iter().filter(|span| span["id"] == id && span["traceId"] == trace).collect();
    let [found] = of_it[..] else { panic!("{} spans of {trace} {id} at the Zipkin backend", of_it.len()) };
    let expected = expected(seen);
    let pretty = |value: &Value| serde_json::to_string_pretty(value).expect("JSON is JSON");
    assert_eq!(pretty(found), pretty(&expected), "the span {:?}: left is what came", seen.span.name);
}

fn expected(SeenSpan { resource, scope, span }: &SeenSpan) -> Value {
    let mut tags = Map::new();
    for attribute in resource.attributes.iter().filter(|attribute| attribute.key != "service.name") {
        tags.insert(attribute.key.clone(), text(attribute.value.as_ref()).into());
    }
    for attribute in &scope.attributes {
        tags.insert(attribute.key.clone(), text(attribute.value.as_ref()).into());
    }
    for (key, value) in [("name", &scope.name), ("version", &scope.version)] {
        if !value.is_empty() {
            tags.insert(format!("otel.scope.{key}"), value.clone().into());
            tags.insert(format!("otel.library.{key}"), value.clone().into());
        }
    }
    let flags = span_tags(span, &mut tags);
    let mut fields = Map::new();
    fields.insert("traceId".into(), trace_id(span).into());
    fields.insert("id".into(), hex(&span.span_id).into());
    if !span.parent_span_id.is_empty() {
        fields.insert("parentId".into(), hex(&span.parent_span_id).into());
    }
    let kind = match span.kind() {
        SpanKind::Server => Some("SERVER"),
        SpanKind::Client => Some("CLIENT"),
        SpanKind::Producer => Some("PRODUCER"),
        SpanKind::Consumer => Some("CONSUMER"),
        SpanKind::Internal | SpanKind::Unspecified => None,
    };
    if let Some(kind) = kind {
        fields.insert("kind".into(), kind.into());
    }
    fields.insert("name".into(), span.name.clone().into());
    let (start, end) = (span.start_time_unix_nano, span.end_time_unix_nano);
    if start > 0 {
        fields.insert("timestamp".into(), (start / 1000).into());
        fields.insert("duration".into(), ((end - start) / 1000).max(1).into());
    }
    let service = resource.attributes.iter().find(|attribute| attribute.key == "service.name");
    let service = service.map_or("unknown_service".to_owned(), |service| text(service.value.as_ref()));
    fields.insert("localEndpoint".into(), local_endpoint(service, span));
    if let Some(remote) = remote_endpoint(span) {
        fields.insert("remoteEndpoint".into(), remote);
    }
    if !span.events.is_empty() {
        let annotation = |time: u64, value: String| json!({"timestamp": time / 1000, "value": value});
        let events = span.events.iter().map(|event| {
            let attributes = json(&event.attributes);
            let value = match attributes.as_str() {
                "{}" => event.name.clone(),
                attributes => format!("{}: {attributes}", Value::from(event.name.clone())),
            };
            annotation(event.time_unix_nano, value)
        });
        fields.insert("annotations".into(), events.collect());
    }
    if !tags.is_empty() {
        fields.insert("tags".into(), tags.into());
    }
    fields.extend(flags);
    Value::Object(fields)
}

fn trace_id(span: &Span) -> String {
    let digits = hex(&span.trace_id);
    digits.strip_prefix("0000000000000000").map_or(digits.clone(), str::to_owned)
}

/// Adds what a span itself says; returns the fields that Zipkin has and OTLP lacks.
fn span_tags(span: &Span, tags: &mut Map<String, Value>) -> Map<String, Value> {
    let mut flags = Map::new();
    for attribute in &span.attributes {
        let value = text(attribute.value.as_ref());
        match attribute.key.as_str() {
            "zipkin.shared" if value == "true" => {
                flags.insert("shared".into(), true.into());
            }
            "zipkin.debug" if value == "true" => {
                flags.insert("debug".into(), true.into());
            }
            _ => {
                tags.insert(attribute.key.clone(), value.into());
            }
        }
    }
    if span.kind() == SpanKind::Internal {
        tags.insert("span.kind".into(), "internal".into());
    }
    if let Some(status) = &span.status {
        match status.code() {
            StatusCode::Unset => {}
            StatusCode::Ok => {
                tags.insert("otel.status_code".into(), "OK".into());
            }
            StatusCode::Error => {
                tags.insert("otel.status_code".into(), "ERROR".into());
                if !status.message.is_empty() || !tags.contains_key("error") {
                    tags.insert("error".into(), status.message.clone().into());
                }
            }
        }
    }
    if !span.trace_state.is_empty() {
        tags.insert("w3c.tracestate".into(), span.trace_state.clone().into());
    }
    for (number, link) in span.links.iter().enumerate() {
        let (ids, attributes) = ((hex(&link.trace_id), hex(&link.span_id)), json(&link.attributes));
        let dropped = link.dropped_attributes_count;
        let value = format!("{}|{}|{}|{attributes}|{dropped}", ids.0, ids.1, link.trace_state);
        tags.insert(format!("otlp.link.{number}"), value.into());
    }
    flags
}

fn local_endpoint(service: String, span: &Span) -> Value {
    let mut endpoint = Map::new();
    endpoint.insert("serviceName".into(), service.into());
    address(span, "network.local", &mut endpoint);
    Value::Object(endpoint)
}

/// The clients here say who was called by `peer.service`, `server.address` or `network.peer.*`.
fn remote_endpoint(span: &Span) -> Option<Value> {
    let mut endpoint = Map::new();
    let calls = matches!(span.kind(), SpanKind::Client | SpanKind::Producer);
    let server = find(span, "server.address").filter(|_| calls);
    if let Some(name) = find(span, "peer.service").or(server) {
        endpoint.insert("serviceName".into(), name.into());
    }
    address(span, "network.peer", &mut endpoint);
    (!endpoint.is_empty()).then_some(Value::Object(endpoint))
}

fn address(span: &Span, prefix: &str, endpoint: &mut Map<String, Value>) {
    if let Some(ip) = find(span, &format!("{prefix}.address")) {
        let family = if ip.contains(':') { "ipv6" } else { "ipv4" };
        endpoint.insert(family.into(), ip.into());
    }
    if let Some(port) = find(span, &format!("{prefix}.port")) {
        endpoint.insert("port".into(), port.parse::<u16>().expect("a client says a port").into());
    }
}

fn find(span: &Span, key: &str) -> Option<String> {
    let found = span.attributes.iter().find(|attribute| attribute.key == key)?;
    Some(text(found.value.as_ref()))
}

/// A value as text where there is only text: OpenTelemetry's "AnyValue representation for non-OTLP protocols".
fn text(value: Option<&AnyValue>) -> String {
    match value.and_then(|value| value.value.as_ref()) {
        None => String::new(),
        Some(any_value::Value::StringValue(text)) => text.clone(),
        Some(_) => json_value(value).to_string(),
    }
}

fn json(attributes: &[KeyValue]) -> String {
    let member = |a: &KeyValue| format!("{}:{}", Value::from(a.key.clone()), json_value(a.value.as_ref()));
    format!("{{{}}}", attributes.iter().map(member).collect::<Vec<_>>().join(","))
}

fn json_value(value: Option<&AnyValue>) -> Value {
    match value.and_then(|value| value.value.as_ref()) {
        None => Value::Null,
        Some(any_value::Value::StringValue(text)) => text.clone().into(),
        Some(any_value::Value::BoolValue(truth)) => (*truth).into(),
        Some(any_value::Value::IntValue(number)) => (*number).into(),
        // A JSON number with a point, also where it is whole: it tells the reader that it was no integer.
        Some(any_value::Value::DoubleValue(number)) => (*number).into(),
        Some(any_value::Value::ArrayValue(array)) => {
            array.values.iter().map(|v| json_value(Some(v))).collect()
        }
        Some(other) => panic!("no client here sends {other:?}"),
    }
}
