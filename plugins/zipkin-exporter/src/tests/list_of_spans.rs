//! `zipkin.proto3.ListOfSpans` as the JSON that says the same; written from zipkin.proto, not from the
//! exporter.

use std::net::{Ipv4Addr, Ipv6Addr};

use serde_json::{Value, json};
use weir_guest::wire::Reader;
use weir_guest::wire::reader::Value as Wire;

pub(super) fn list_of_spans(body: &[u8]) -> Value {
    let mut spans = Vec::new();
    each(body, |field, message| {
        assert_eq!(field, 1);
        spans.push(span(bytes(message)));
    });
    spans.into()
}

fn span(message: &[u8]) -> Value {
    let mut span = json!({});
    each(message, |field, value| match field {
        1 => span["traceId"] = hex(value).into(),
        2 => span["parentId"] = hex(value).into(),
        3 => span["id"] = hex(value).into(),
        4 => span["kind"] = ["", "CLIENT", "SERVER", "PRODUCER", "CONSUMER"][number(value) as usize].into(),
        5 => span["name"] = text(value).into(),
        6 => span["timestamp"] = fixed(value).into(),
        7 => span["duration"] = number(value).into(),
        8 => span["localEndpoint"] = endpoint(bytes(value)),
        9 => span["remoteEndpoint"] = endpoint(bytes(value)),
        10 => {
            if span["annotations"].is_null() {
                span["annotations"] = json!([]);
            }
            span["annotations"].as_array_mut().expect("a list").push(annotation(bytes(value)));
        }
        11 => {
            let (key, tag) = tag(bytes(value));
            span["tags"][key] = tag.into();
        }
        12 => span["debug"] = (number(value) == 1).into(),
        13 => span["shared"] = (number(value) == 1).into(),
        other => panic!("no field {other} in Span"),
    });
    span
}

fn endpoint(message: &[u8]) -> Value {
    let mut endpoint = json!({});
    each(message, |field, value| match field {
        1 => endpoint["serviceName"] = text(value).into(),
        2 => {
            let bytes: [u8; 4] = bytes(value).try_into().expect("4 bytes");
            endpoint["ipv4"] = Ipv4Addr::from(bytes).to_string().into();
        }
        3 => {
            let bytes: [u8; 16] = bytes(value).try_into().expect("16 bytes");
            endpoint["ipv6"] = Ipv6Addr::from(bytes).to_string().into();
        }
        4 => endpoint["port"] = number(value).into(),
        other => panic!("no field {other} in Endpoint"),
    });
    endpoint
}

fn annotation(message: &[u8]) -> Value {
    let mut annotation = json!({});
    each(message, |field, value| match field {
        1 => annotation["timestamp"] = fixed(value).into(),
        2 => annotation["value"] = text(value).into(),
        other => panic!("no field {other} in Annotation"),
    });
    annotation
}

fn tag(message: &[u8]) -> (String, String) {
    let (mut key, mut tag) = (String::new(), String::new());
    each(message, |field, value| match field {
        1 => key = text(value),
        2 => tag = text(value),
        other => panic!("no field {other} in a tag"),
    });
    (key, tag)
}

fn each(message: &[u8], mut see: impl FnMut(u32, Wire<'_>)) {
    let mut reader = Reader::new(message);
    while let Some(field) = reader.next().expect("protobuf") {
        see(field.number, field.value);
    }
}

fn bytes(value: Wire<'_>) -> &[u8] {
    value.bytes().expect("bytes")
}

fn number(value: Wire<'_>) -> u64 {
    value.varint().expect("a number")
}

fn fixed(value: Wire<'_>) -> u64 {
    let Wire::Fixed64(number) = value else { panic!("{value:?} is not fixed64") };
    number
}

fn text(value: Wire<'_>) -> String {
    String::from_utf8(bytes(value).to_vec()).expect("UTF-8")
}

fn hex(value: Wire<'_>) -> String {
    bytes(value).iter().map(|byte| format!("{byte:02x}")).collect()
}
