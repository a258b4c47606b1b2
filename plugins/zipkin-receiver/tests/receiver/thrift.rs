//! v1 thrift: renderings of it in JSON, as a client would have sent them.

use serde_json::Value;
use weir_thrift::{Fields, Protocol, Type, Writer};
use zipkin_receiver::{Refused, Spelling, read};

use crate::text;

/// A list of spans in the form of their thrift, member by member; what is null or absent is not written.
pub(crate) fn encode(rendering: &[u8]) -> Vec<u8> {
    let spans: Vec<Value> = serde_json::from_slice(rendering).expect("a rendering");
    let mut writer = Writer::new(Protocol::Binary);
    writer.list(Type::Struct, u32::try_from(spans.len()).expect("a list"));
    spans.iter().for_each(|span| write_span(&mut writer, span));
    writer.finish()
}

/// The fields of a struct, by their names.
fn write(writer: &mut Writer, of: &Value, fields: &[(i16, &str, Type)]) {
    let mut place = Fields::default();
    for (id, name, kind) in fields {
        let value = &of[*name];
        if value.is_null() {
            continue;
        }
        if *kind == Type::Bool {
            writer.flag(&mut place, *id, value.as_bool().expect(name));
            continue;
        }
        writer.field(&mut place, *id, *kind);
        let number = || value.as_i64().unwrap_or_else(|| panic!("{name}: {value}"));
        match kind {
            Type::I64 => writer.i64(number()),
            Type::I32 => writer.i32(i32::try_from(number()).expect(name)),
            Type::I16 => writer.i16(i16::try_from(number()).expect(name)),
            Type::Binary if *name == "byte chars" => {
                let chars = value.as_str().expect(name).chars();
                writer.text(&chars.map(|byte| u8::try_from(byte).expect("a byte")).collect::<Vec<u8>>());
            }
            Type::Binary => writer.text(value.as_str().expect(name).as_bytes()),
            Type::Struct => write_endpoint(writer, value),
            Type::List => {
                let list = value.as_array().expect(name);
                writer.list(Type::Struct, u32::try_from(list.len()).expect("a list"));
                let write = if *name == "annotations" { write_annotation } else { write_binary_annotation };
                list.iter().for_each(|element| write(writer, element));
            }
            other => panic!("{name} is no {other:?}"),
        }
    }
    writer.stop();
}

fn write_span(writer: &mut Writer, span: &Value) {
    let fields = [
        (1, "trace_id", Type::I64),
        (3, "name", Type::Binary),
        (4, "id", Type::I64),
        (5, "parent_id", Type::I64),
        (6, "annotations", Type::List),
        (8, "binary_annotations", Type::List),
        (9, "debug", Type::Bool),
        (10, "timestamp", Type::I64),
        (11, "duration", Type::I64),
        (12, "trace_id_high", Type::I64),
    ];
    write(writer, span, &fields);
}

fn write_annotation(writer: &mut Writer, annotation: &Value) {
    let fields = [(1, "timestamp", Type::I64), (2, "value", Type::Binary), (3, "host", Type::Struct)];
    write(writer, annotation, &fields);
}

/// The rendering has the value's bytes in base64, as Go writes bytes; a test's own has a character for each byte.
fn write_binary_annotation(writer: &mut Writer, annotation: &Value) {
    let mut annotation = annotation.clone();
    if let Some(bytes) = annotation["value"].as_str().map(base64) {
        annotation["byte chars"] = bytes.into_iter().map(char::from).collect::<String>().into();
    }
    if let Some(name) = annotation["annotation_type"].as_str() {
        let names = ["BOOL", "BYTES", "I16", "I32", "I64", "DOUBLE", "STRING"];
        annotation["annotation_type"] = names.iter().position(|known| *known == name).into();
    }
    let fields = [
        (1, "key", Type::Binary),
        (2, "byte chars", Type::Binary),
        (3, "annotation_type", Type::I32),
        (4, "host", Type::Struct),
    ];
    write(writer, &annotation, &fields);
}

fn write_endpoint(writer: &mut Writer, endpoint: &Value) {
    let fields = [
        (1, "ipv4", Type::I32),
        (2, "port", Type::I16),
        (3, "service_name", Type::Binary),
        (4, "ipv6", Type::Binary),
    ];
    write(writer, endpoint, &fields);
}

fn base64(text: &str) -> Vec<u8> {
    let digit = |byte: u8| match byte {
        b'A'..=b'Z' => u32::from(byte - b'A'),
        b'a'..=b'z' => u32::from(byte - b'a') + 26,
        b'0'..=b'9' => u32::from(byte - b'0') + 52,
        b'+' => 62,
        b'/' => 63,
        other => panic!("{other} in base64"),
    };
    let digits: Vec<u32> = text.bytes().filter(|byte| *byte != b'=').map(digit).collect();
    let bits = |four: &[u32]| four.iter().fold(0, |bits, digit| bits << 6 | digit) << (6 * (4 - four.len()));
    let bytes = digits.chunks(4).flat_map(|four| bits(four).to_be_bytes()[1..four.len()].to_vec());
    bytes.collect()
}

fn accepted(rendering: &str) -> String {
    text::of(&read(&encode(rendering.as_bytes()), Spelling::Thrift).expect("it is a list"))
}

/// Scenario: a span with a client's annotations, an address, and binary annotations of every type, the first of which is
/// text; 128 bits of trace id, a port above 32767.
/// Guarantees: numbers and bools are tags with their text, bytes are passed over, the address is the remote endpoint.
#[test]
fn every_field_of_v1_thrift_has_its_place() {
    let told = accepted(
        r#"[{"trace_id": 1, "trace_id_high": 2, "id": 3, "parent_id": 4, "name": "GET", "debug": true,
            "timestamp": 1000, "duration": 500,
            "annotations": [
                {"timestamp": 1000, "value": "cs", "host": {"ipv4": 16909060, "port": -1, "service_name": "Front"}},
                {"timestamp": 1100, "value": "retry", "host": {"ipv4": 16909060, "port": -1, "service_name": "front"}},
                {"timestamp": 1500, "value": "cr", "host": {"ipv4": 16909060, "port": -1, "service_name": "front"}}],
            "binary_annotations": [
                {"key": "text", "byte chars": "x", "annotation_type": 6},
                {"key": "flag", "byte chars": "\u0001", "annotation_type": 0},
                {"key": "i16", "byte chars": "\u0000\u0007", "annotation_type": 2},
                {"key": "i32", "byte chars": "\u0000\u0000\u0001\u0000", "annotation_type": 3},
                {"key": "i64", "byte chars": "\u0000\u0000\u0000\u0000\u0000\u0000\u0000\u0009", "annotation_type": 4},
                {"key": "double", "byte chars": "@\u0009\u0000\u0000\u0000\u0000\u0000\u0000", "annotation_type": 5},
                {"key": "bytes", "byte chars": "xx", "annotation_type": 1},
                {"key": "sa", "byte chars": "\u0001", "annotation_type": 0,
                    "host": {"ipv4": 0, "port": 80, "service_name": "back"}}]}]"#,
    );
    for line in [
        "span 00000000000000020000000000000001 0000000000000003",
        "parent 0000000000000004",
        "kind client",
        "\"get\"",
        "text = \"x\"",
        "flag = \"true\"",
        "i16 = \"7\"",
        "i32 = \"256\"",
        "i64 = \"9\"",
        "double = \"3.125\"",
        "\"retry\"",
        "peer.service = \"back\"",
        "network.local.port = 65535",
        "network.local.address = \"1.2.3.4\"",
    ] {
        assert!(told.to_lowercase().contains(line), "no {line} in\n{told}");
    }
    assert!(!told.contains("bytes"), "{told}");
}

/// Scenario: heads of lists: of an old reporter, empty, cut, of something else; a claim of four billion spans.
/// Guarantees: the old one is read; the others are refused in a text, at once.
#[test]
fn a_list_of_v1_thrift_is_known_by_its_head() {
    let span = r#"[{"trace_id": 1, "id": 3, "name": "n"}]"#;
    let mut old = encode(span.as_bytes());
    old[0] = 11;
    assert_eq!(text::of(&read(&old, Spelling::Thrift).expect("an old reporter's")), accepted(span));
    assert_eq!(read(&[12, 0, 0, 0, 0], Spelling::Thrift).map(|bodies| bodies.len()), Ok(0));
    let refused = |body: &[u8]| read(body, Spelling::Thrift).expect_err("it is no list").text;
    for body in [&b"[]"[..], b"\x0c\0\0", b"\x0a\0\0\0\0"] {
        assert_eq!(refused(body), "Expected a THRIFT encoded list\n");
    }
    let Refused { status, text } = read(b"\x0c\xff\xff\xff\xff", Spelling::Thrift).expect_err("a claim");
    assert_eq!(status, 400);
    assert!(
        text.starts_with("Malformed reading List<Span> from TBinary: malformed thrift at byte 0"),
        "{text}"
    );
    assert_eq!(refused(b"\x0c\0\0\0\x01\0"), "traceId == 0 reading List<Span> from TBinary");
}
