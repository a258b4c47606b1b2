//! Batches in JSON, as clients would have sent them.
//!
//! A rendering of thrift has the names of `jaeger.thrift`, one of protobuf those of `model.proto`, in either of the spellings
//! that JSON has for them. What is null or absent is not written, but for thrift's required numbers, which are zero then.

use serde_json::Value;
use weir_guest::wire::Encoder;
use weir_thrift::{Fields, Kind, Protocol, Type, Writer};

// === thrift ===

/// A batch alone.
pub(crate) fn batch(rendering: &Value) -> Vec<u8> {
    let mut writer = Writer::new(Protocol::Binary);
    write_batch(&mut writer, rendering);
    writer.finish()
}

/// A message with a batch.
pub(crate) fn message(rendering: &Value, protocol: Protocol) -> Vec<u8> {
    let (mut writer, mut fields) = (Writer::new(protocol), Fields::default());
    writer.message("emitBatch", Kind::Oneway, 0);
    writer.field(&mut fields, 1, Type::Struct);
    write_batch(&mut writer, rendering);
    writer.stop();
    writer.finish()
}

fn write_batch(writer: &mut Writer, batch: &Value) {
    let mut fields = Fields::default();
    let process = &batch["process"];
    writer.field(&mut fields, 1, Type::Struct);
    let mut inner = Fields::default();
    writer.field(&mut inner, 1, Type::Binary);
    writer.text(text(&process["serviceName"]).as_bytes());
    write_tags(writer, &mut inner, 2, &process["tags"]);
    writer.stop();
    write_list(writer, &mut fields, 2, &batch["spans"], write_span);
    writer.stop();
}

fn write_list(
    writer: &mut Writer,
    fields: &mut Fields,
    id: i16,
    list: &Value,
    write: impl Fn(&mut Writer, &Value),
) {
    let Some(list) = list.as_array() else { return };
    writer.field(fields, id, Type::List);
    writer.list(Type::Struct, u32::try_from(list.len()).expect("a list"));
    list.iter().for_each(|element| write(writer, element));
}

fn write_span(writer: &mut Writer, span: &Value) {
    let mut fields = Fields::default();
    let long = |writer: &mut Writer, fields: &mut Fields, id, name: &str| {
        writer.field(fields, id, Type::I64);
        writer.i64(number(&span[name]));
    };
    for (id, name) in [(1, "traceIdLow"), (2, "traceIdHigh"), (3, "spanId"), (4, "parentSpanId")] {
        long(writer, &mut fields, id, name);
    }
    writer.field(&mut fields, 5, Type::Binary);
    writer.text(text(&span["operationName"]).as_bytes());
    write_list(writer, &mut fields, 6, &span["references"], |writer, reference| {
        let mut fields = Fields::default();
        writer.field(&mut fields, 1, Type::I32);
        writer.i32(i32::from(reference["refType"] == "FOLLOWS_FROM"));
        for (id, name) in [(2, "traceIdLow"), (3, "traceIdHigh"), (4, "spanId")] {
            writer.field(&mut fields, id, Type::I64);
            writer.i64(number(&reference[name]));
        }
        writer.stop();
    });
    writer.field(&mut fields, 7, Type::I32);
    writer.i32(i32::try_from(number(&span["flags"])).expect("flags"));
    long(writer, &mut fields, 8, "startTime");
    long(writer, &mut fields, 9, "duration");
    write_tags(writer, &mut fields, 10, &span["tags"]);
    write_list(writer, &mut fields, 11, &span["logs"], |writer, log| {
        let mut fields = Fields::default();
        writer.field(&mut fields, 1, Type::I64);
        writer.i64(number(&log["timestamp"]));
        write_tags(writer, &mut fields, 2, &log["fields"]);
        writer.stop();
    });
    writer.stop();
}

fn write_tags(writer: &mut Writer, fields: &mut Fields, id: i16, tags: &Value) {
    write_list(writer, fields, id, tags, |writer, tag| {
        let mut fields = Fields::default();
        let kind = match &tag["vType"] {
            Value::String(name) => {
                let names = ["STRING", "DOUBLE", "BOOL", "LONG", "BINARY"];
                names.iter().position(|known| known == name).expect("a type")
            }
            number => usize::try_from(number.as_u64().expect("a type")).expect("a type"),
        };
        writer.field(&mut fields, 1, Type::Binary);
        writer.text(text(&tag["key"]).as_bytes());
        writer.field(&mut fields, 2, Type::I32);
        writer.i32(i32::try_from(kind).expect("a type"));
        if let Some(value) = tag["vStr"].as_str() {
            writer.field(&mut fields, 3, Type::Binary);
            writer.text(value.as_bytes());
        }
        if let Some(value) = tag["vDouble"].as_f64() {
            writer.field(&mut fields, 4, Type::Double);
            writer.double(value);
        }
        if let Some(value) = tag["vBool"].as_bool() {
            writer.flag(&mut fields, 5, value);
        }
        if let Some(value) = tag["vLong"].as_i64() {
            writer.field(&mut fields, 6, Type::I64);
            writer.i64(value);
        }
        if !tag["vBinary"].is_null() {
            writer.field(&mut fields, 7, Type::Binary);
            writer.text(&bytes(&tag["vBinary"]));
        }
        writer.stop();
    });
}

// === protobuf ===

/// A request with a batch.
pub(crate) fn request(rendering: &Value) -> Vec<u8> {
    let mut out = Encoder::new();
    out.message(1, |batch| {
        for span in list(&rendering["spans"]) {
            batch.message(1, |out| put_span(out, span));
        }
        if !rendering["process"].is_null() {
            batch.message(2, |out| put_process(out, &rendering["process"]));
        }
    });
    out.into_bytes()
}

fn put_process(out: &mut Encoder, process: &Value) {
    out.nonempty_bytes(1, text(either(process, ["serviceName", "service_name"])));
    put_tags(out, 2, &process["tags"]);
}

fn put_span(out: &mut Encoder, span: &Value) {
    out.nonempty_bytes(1, bytes(either(span, ["traceId", "trace_id"])));
    out.nonempty_bytes(2, bytes(either(span, ["spanId", "span_id"])));
    out.nonempty_bytes(3, text(either(span, ["operationName", "operation_name"])));
    for reference in list(&span["references"]) {
        out.message(4, |out| {
            out.nonempty_bytes(1, bytes(either(reference, ["traceId", "trace_id"])));
            out.nonempty_bytes(2, bytes(either(reference, ["spanId", "span_id"])));
            let follows = reference["refType"] == "FOLLOWS_FROM" || reference["ref_type"] == 1;
            out.nonzero_varint(3, u64::from(follows));
        });
    }
    out.nonzero_varint(5, number(&span["flags"]).cast_unsigned());
    put_nanos(out, 6, time(either(span, ["startTime", "start_time"])));
    put_nanos(out, 7, duration(&span["duration"]));
    put_tags(out, 8, &span["tags"]);
    for log in list(&span["logs"]) {
        out.message(9, |out| {
            put_nanos(out, 1, time(&log["timestamp"]));
            put_tags(out, 2, &log["fields"]);
        });
    }
    if !span["process"].is_null() {
        out.message(10, |out| put_process(out, &span["process"]));
    }
}

fn put_tags(out: &mut Encoder, field: u32, tags: &Value) {
    for tag in list(tags) {
        out.message(field, |out| {
            out.nonempty_bytes(1, text(&tag["key"]));
            let kind = match either(tag, ["vType", "v_type"]) {
                Value::String(name) => {
                    let names = ["STRING", "BOOL", "INT64", "FLOAT64", "BINARY"];
                    names.iter().position(|known| known == name).expect("a type") as u64
                }
                number => number.as_u64().unwrap_or(0),
            };
            out.nonzero_varint(2, kind);
            out.nonempty_bytes(3, text(either(tag, ["vStr", "v_str"])));
            out.nonzero_varint(4, u64::from(either(tag, ["vBool", "v_bool"]) == true));
            out.nonzero_varint(5, number(either(tag, ["vInt64", "v_int64"])).cast_unsigned());
            if let Some(value) = either(tag, ["vFloat64", "v_float64"]).as_f64() {
                out.double(6, value);
            }
            out.nonempty_bytes(7, bytes(either(tag, ["vBinary", "v_binary"])));
        });
    }
}

fn put_nanos(out: &mut Encoder, field: u32, nanos: u64) {
    out.message(field, |out| {
        out.nonzero_varint(1, nanos / 1_000_000_000);
        out.nonzero_varint(2, nanos % 1_000_000_000);
    });
}

// === JSON ===

fn either<'a>(of: &'a Value, names: [&str; 2]) -> &'a Value {
    if of[names[0]].is_null() { &of[names[1]] } else { &of[names[0]] }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn number(value: &Value) -> i64 {
    value.as_i64().unwrap_or_default()
}

/// Bytes as a list of numbers, or in base64.
fn bytes(value: &Value) -> Vec<u8> {
    if let Some(list) = value.as_array() {
        let byte = |value: &Value| u8::try_from(value.as_u64().expect("a byte")).expect("a byte");
        return list.iter().map(byte).collect();
    }
    let digit = |byte: u8| match byte {
        b'A'..=b'Z' => u32::from(byte - b'A'),
        b'a'..=b'z' => u32::from(byte - b'a') + 26,
        b'0'..=b'9' => u32::from(byte - b'0') + 52,
        b'+' => 62,
        b'/' => 63,
        other => panic!("{other} in base64"),
    };
    let digits: Vec<u32> = text(value).bytes().filter(|byte| *byte != b'=').map(digit).collect();
    let bits = |four: &[u32]| four.iter().fold(0, |bits, digit| bits << 6 | digit) << (6 * (4 - four.len()));
    digits.chunks(4).flat_map(|four| bits(four).to_be_bytes()[1..four.len()].to_vec()).collect()
}

/// `22938000ns`, or the number.
fn duration(value: &Value) -> u64 {
    let digits = text(value).trim_end_matches("ns").parse().ok();
    digits.or(value.as_u64()).unwrap_or_default()
}

/// `2017-01-26T16:46:31.639875-05:00`, as nanoseconds since the Unix epoch.
fn time(value: &Value) -> u64 {
    let text = text(value);
    if text.is_empty() {
        return 0;
    }
    let (date, rest) = text.split_once('T').expect("a time");
    let zone = rest.find(['Z', '+', '-']).expect("a zone");
    let (clock, zone) = rest.split_at(zone);
    let numbers = |text: &str, by: char| -> Vec<i64> {
        text.split(by).map(|part| part.parse().expect("a number")).collect()
    };
    let (whole, fraction) = clock.split_once('.').unwrap_or((clock, "0"));
    let (date, clock) = (numbers(date, '-'), numbers(whole, ':'));
    // Days since the epoch, by the civil calendar; January and February belong to the year before.
    let (year, month) = if date[1] > 2 { (date[0], date[1] - 3) } else { (date[0] - 1, date[1] + 9) };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + date[2] - 719_469;
    let shift = match zone {
        "Z" => 0,
        zone => {
            let parts = numbers(&zone[1..], ':');
            (parts[0] * 60 + parts[1]) * if zone.starts_with('-') { 60 } else { -60 }
        }
    };
    let seconds = days * 86_400 + clock[0] * 3_600 + clock[1] * 60 + clock[2] + shift;
    let nanos: u64 = format!("{fraction:0<9}").parse().expect("a fraction");
    seconds.cast_unsigned() * 1_000_000_000 + nanos
}
