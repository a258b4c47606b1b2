//! OTLP traces as text, for reading and comparing.
//!
//! ```text
//! resource
//!   service.name = "shop"
//!   scope "library" "1.0"
//!     span TRACEID SPANID
//!       parent SPANID
//!       state "tracestate"
//!       name "get /items"
//!       kind CLIENT
//!       start NANOSECONDS
//!       end NANOSECONDS
//!       flags NUMBER
//!       key = value
//!       dropped 1 attributes
//!       event NANOSECONDS "name"
//!         key = value
//!       link TRACEID SPANID "tracestate"
//!         key = value
//!       status ERROR "message"
//! ```
//!
//! Absent and empty fields have no line; attributes are in order of their keys, everything else in the order
//! of the bytes. Strings are JSON strings, numbers and flags bare, bytes `base16"…"`, no value `empty`.

use std::fmt::Write as _;

use weir_guest::wire::otlp::{AnyValue, KeyValues, ResourceGroup, SpanView, resource_groups};

/// The text of a request in several bodies.
pub(crate) fn of(bodies: &[Vec<u8>]) -> String {
    let mut text = String::new();
    for body in bodies {
        for group in resource_groups(body) {
            resource(&mut text, &group.expect("a resource group"));
        }
    }
    text
}

fn line(text: &mut String, depth: usize, line: impl AsRef<str>) {
    writeln!(text, "{:width$}{}", "", line.as_ref(), width = 2 * depth).expect("a String takes all");
}

fn resource(text: &mut String, group: &ResourceGroup<'_>) {
    line(text, 0, "resource");
    attributes(text, 1, group.resource_view().attributes());
    for group in group.scopes() {
        let group = group.expect("a scope group");
        let scope = group.scope_view().expect("a scope");
        let mut head = "scope".to_owned();
        for part in [scope.name, scope.version] {
            if !part.is_empty() {
                head += &format!(" {}", quoted(part));
            }
        }
        line(text, 1, head);
        attributes(text, 2, scope.attributes());
        for message in group.spans() {
            span(text, &message.expect("a span"));
        }
    }
}

fn span(text: &mut String, span: &SpanView<'_>) {
    line(text, 2, format!("span {} {}", hex(span.trace_id), hex(span.span_id)));
    let mut field = |name: &str, value: String| {
        if !value.is_empty() {
            line(text, 3, format!("{name} {value}"));
        }
    };
    let number = |number: u64| if number == 0 { String::new() } else { number.to_string() };
    let string = |bytes: &[u8]| if bytes.is_empty() { String::new() } else { quoted(bytes) };
    field("parent", hex(span.parent_span_id));
    field("state", string(span.trace_state));
    field("name", string(span.name));
    let kinds = ["", "INTERNAL", "SERVER", "CLIENT", "PRODUCER", "CONSUMER"];
    field("kind", kinds[usize::try_from(span.kind).expect("a kind")].to_owned());
    field("start", number(span.start_time_unix_nano));
    field("end", number(span.end_time_unix_nano));
    field("flags", number(span.flags.into()));
    attributes(text, 3, span.attributes());
    dropped(text, 3, span.dropped_attributes_count, "attributes");
    for event in span.events() {
        let event = event.expect("an event");
        line(text, 3, format!("event {} {}", event.time_unix_nano, quoted(event.name)));
        attributes(text, 4, event.attributes());
        dropped(text, 4, event.dropped_attributes_count, "attributes");
    }
    dropped(text, 3, span.dropped_events_count, "events");
    for link in span.links() {
        let link = link.expect("a link");
        let state = if link.trace_state.is_empty() {
            String::new()
        } else {
            format!(" {}", quoted(link.trace_state))
        };
        line(text, 3, format!("link {} {}{state}", hex(link.trace_id), hex(link.span_id)));
        attributes(text, 4, link.attributes());
        dropped(text, 4, link.dropped_attributes_count, "attributes");
    }
    dropped(text, 3, span.dropped_links_count, "links");
    let message = if span.status.message.is_empty() {
        String::new()
    } else {
        format!(" {}", quoted(span.status.message))
    };
    match span.status.code {
        0 => assert!(message.is_empty(), "a status without a code has no message"),
        1 => line(text, 3, format!("status OK{message}")),
        2 => line(text, 3, format!("status ERROR{message}")),
        other => panic!("status {other}"),
    }
}

fn dropped(text: &mut String, depth: usize, count: u32, what: &str) {
    if count > 0 {
        line(text, depth, format!("dropped {count} {what}"));
    }
}

fn attributes(text: &mut String, depth: usize, attributes: KeyValues<'_>) {
    let mut lines: Vec<_> = attributes
        .map(|attribute| {
            let attribute = attribute.expect("an attribute");
            (
                attribute.key,
                format!("{} = {}", String::from_utf8_lossy(attribute.key), value(&attribute.value)),
            )
        })
        .collect();
    lines.sort();
    for pair in lines.windows(2) {
        assert_ne!(pair[0].0, pair[1].0, "a key stands twice");
    }
    for (_, attribute) in lines {
        line(text, depth, attribute);
    }
}

fn value(value: &AnyValue<'_>) -> String {
    match value {
        AnyValue::Empty => "empty".into(),
        AnyValue::String(text) => quoted(text),
        AnyValue::Bool(flag) => flag.to_string(),
        AnyValue::Int(number) => number.to_string(),
        AnyValue::Double(number) => format!("{number:?}"),
        AnyValue::Bytes(bytes) => format!("base16\"{}\"", hex(bytes)),
        AnyValue::Array(values) => {
            let values: Vec<_> = values.clone().map(|each| self::value(&each.expect("a value"))).collect();
            format!("[{}]", values.join(", "))
        }
        AnyValue::Map(members) => {
            let members: Vec<_> = members
                .clone()
                .map(|member| {
                    let member = member.expect("a member");
                    format!("{}: {}", quoted(member.key), self::value(&member.value))
                })
                .collect();
            format!("{{{}}}", members.join(", "))
        }
    }
}

fn quoted(text: &[u8]) -> String {
    serde_json::to_string(core::str::from_utf8(text).expect("UTF-8")).expect("a string is JSON")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
