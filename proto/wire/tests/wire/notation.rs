//! Requests as text: two blanks a level, one line a message.
//!
//! ```text
//! resource app=guestbook        string attributes of the resource; `resource -` has no Resource message
//!   scope lib                   name of the scope
//!     span ok a                 a span called `a`; `bad` instead of `ok` has a trace id of fifteen bytes
//!     gauge m                   a metric called `m`; likewise `sum`, `histogram`, `exponential`, `summary`
//!       point ok 5              a point at time 5; `bad` has three attributes
//!     log ok x                  a log record with the severity text `x`; `bad` has a span id of seven bytes
//!   unknown 99                  an unknown field with this number
//! ```

use std::fmt::Write;

use weir_wire::otlp::{AnyValue, KeyValues, resource_groups};
use weir_wire::{Encoder, Reader, ResourceView, Signal, Value};

/// Attributes that an item may have in these cases.
pub(crate) const ATTRIBUTES_MAX: usize = 2;

pub(crate) fn encode(text: &str) -> Vec<u8> {
    let lines: Vec<_> = text
        .lines()
        .filter(|line| !line.trim().is_empty())
        .map(|line| ((line.len() - line.trim_start().len()) / 2, line.trim()))
        .collect();
    let mut out = Encoder::new();
    encode_level(&lines, 0, &mut out);
    out.into_bytes()
}

/// Lines of one level with what stands below each.
fn encode_level(lines: &[(usize, &str)], level: usize, out: &mut Encoder) {
    let mut rest = lines;
    while let Some(((_, line), below)) = rest.split_first() {
        let count = below.iter().take_while(|(depth, _)| *depth > level).count();
        let (children, further) = below.split_at(count);
        encode_line(line, children, level, out);
        rest = further;
    }
}

fn encode_line(line: &str, children: &[(usize, &str)], level: usize, out: &mut Encoder) {
    let words: Vec<_> = line.split(' ').collect();
    let group = |field, out: &mut Encoder, head: &dyn Fn(&mut Encoder)| {
        out.message(field, |group| {
            head(group);
            encode_level(children, level + 1, group);
        });
    };
    match words[..] {
        ["resource", "-"] => group(1, out, &|_| {}),
        ["resource", ref pairs @ ..] => group(1, out, &|group| {
            group.message(1, |resource| {
                for (key, value) in pairs.iter().filter_map(|pair| pair.split_once('=')) {
                    resource.attribute_str(1, key, value);
                }
            });
        }),
        ["scope", name] => group(2, out, &|group| group.message(1, |scope| scope.string(1, name))),
        ["unknown", number] => out.fixed32(number.parse().expect("a number"), 7),
        ["span", validity, name] => out.message(2, |span| {
            span.bytes(1, vec![1; if validity == "ok" { 16 } else { 15 }]);
            span.bytes(2, [2; 8]);
            span.string(5, name);
        }),
        ["log", validity, text] => out.message(2, |record| {
            record.string(3, text);
            record.bytes(10, vec![2; if validity == "ok" { 8 } else { 7 }]);
        }),
        [kind, name] => out.message(2, |metric| {
            metric.string(1, name);
            let field = match kind {
                "gauge" => 5,
                "sum" => 7,
                "histogram" => 9,
                "exponential" => 10,
                "summary" => 11,
                _ => panic!("{line}"),
            };
            metric.message(field, |data| encode_points(field, children, data));
        }),
        _ => panic!("{line}"),
    }
}

fn attributes_field(data_field: u32) -> u32 {
    match data_field {
        9 => 9,
        10 => 1,
        _ => 7,
    }
}

fn encode_points(data_field: u32, children: &[(usize, &str)], data: &mut Encoder) {
    for (_, line) in children {
        let words: Vec<_> = line.split(' ').collect();
        let ["point", validity, time] = words[..] else { panic!("{line}") };
        data.message(1, |point| {
            point.fixed64(3, time.parse().expect("a number"));
            for _ in 0..if validity == "ok" { 0 } else { ATTRIBUTES_MAX + 1 } {
                point.attribute_bool(attributes_field(data_field), "a", true);
            }
        });
    }
}

pub(crate) fn render(signal: Signal, body: &[u8]) -> String {
    let mut out = String::new();
    let mut reader = Reader::new(body);
    while let Some(field) = reader.next().expect("well formed") {
        if field.number != 1 {
            line(&mut out, 0, format_args!("unknown {}", field.number));
        }
    }
    for group in resource_groups(body) {
        let group = group.expect("well formed");
        let has_resource = fields(group.message).any(|number| number == 1);
        let attributes = ResourceView::new(group.resource).attributes();
        if has_resource {
            line(&mut out, 0, format_args!("resource{}", render_attributes(attributes)));
        } else {
            line(&mut out, 0, format_args!("resource -"));
        }
        for scope in group.scopes() {
            let scope = scope.expect("well formed");
            let name = scope.scope_view().expect("well formed").name;
            line(&mut out, 1, format_args!("scope {}", String::from_utf8_lossy(name)));
            for item in scope.items() {
                render_item(signal, item.expect("well formed"), &mut out);
            }
            for number in fields(scope.message).filter(|number| *number > 3) {
                line(&mut out, 2, format_args!("unknown {number}"));
            }
        }
        for number in fields(group.message).filter(|number| *number > 3) {
            line(&mut out, 1, format_args!("unknown {number}"));
        }
    }
    out
}

fn render_item(signal: Signal, item: &[u8], out: &mut String) {
    let validity = |ok| if ok { "ok" } else { "bad" };
    match signal {
        Signal::Traces => {
            let span = weir_wire::otlp::SpanView::parse(item).expect("well formed");
            let name = String::from_utf8_lossy(span.name);
            line(out, 2, format_args!("span {} {name}", validity(span.trace_id.len() == 16)));
        }
        Signal::Logs => {
            let record = weir_wire::otlp::LogRecordView::parse(item).expect("well formed");
            let text = String::from_utf8_lossy(record.severity_text);
            line(out, 2, format_args!("log {} {text}", validity(record.span_id.len() == 8)));
        }
        Signal::Metrics => {
            let mut reader = Reader::new(item);
            let mut name = String::new();
            while let Some(field) = reader.next().expect("well formed") {
                let Value::Bytes(bytes) = field.value else {
                    continue;
                };
                let kind = match field.number {
                    1 => {
                        name = String::from_utf8_lossy(bytes).into_owned();
                        continue;
                    }
                    5 => "gauge",
                    7 => "sum",
                    9 => "histogram",
                    10 => "exponential",
                    _ => "summary",
                };
                line(out, 2, format_args!("{kind} {name}"));
                for point in weir_wire::otlp::Repeated::new(bytes, 1) {
                    let point = point.expect("well formed");
                    let attributes =
                        fields(point).filter(|number| *number == attributes_field(field.number)).count();
                    let mut reader = Reader::new(point);
                    let time = reader.next().expect("well formed").expect("a time").value;
                    let Value::Fixed64(time) = time else { panic!("{time:?}") };
                    line(out, 3, format_args!("point {} {time}", validity(attributes <= ATTRIBUTES_MAX)));
                }
            }
        }
    }
}

fn render_attributes(attributes: KeyValues<'_>) -> String {
    let mut text = String::new();
    for pair in attributes {
        let pair = pair.expect("well formed");
        write!(text, " {}=", String::from_utf8_lossy(pair.key)).expect("a string takes everything");
        match pair.value {
            AnyValue::String(value) => text.push_str(&String::from_utf8_lossy(value)),
            value => write!(text, "{value:?}").expect("a string takes everything"),
        }
    }
    text
}

/// The numbers of a message's fields, in order.
fn fields(message: &[u8]) -> impl Iterator<Item = u32> {
    let mut reader = Reader::new(message);
    core::iter::from_fn(move || reader.next().expect("well formed").map(|field| field.number))
}

fn line(out: &mut String, level: usize, text: std::fmt::Arguments<'_>) {
    writeln!(out, "{:1$}{text}", "", level * 2).expect("a string takes everything");
}
