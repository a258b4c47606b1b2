//! Attribute values as text, for formats that have only text.
//!
//! As OpenTelemetry wants it ("AnyValue representation for non-OTLP protocols"): strings as they are, `true`
//! and `false`, numbers as JSON numbers, `NaN`, `Infinity` and `-Infinity`, bytes in base64, lists and maps
//! as JSON, no value as no text. Inside of JSON no value is `null`, and bytes and the numbers that JSON lacks
//! are strings.

use weir_wire::Malformed;
use weir_wire::otlp::{AnyValue, KeyValues};

use crate::json::{Around, JsonWriter};

/// The text of a value. A string is lent as it is, whether UTF-8 or not; everything else is written into
/// `scratch`, whose content before is lost.
///
/// # Errors
/// [`Malformed`] when a list or map is, or is nested too deep.
pub fn of<'t>(value: &AnyValue<'t>, scratch: &'t mut JsonWriter) -> Result<&'t [u8], Malformed> {
    scratch.clear();
    match value {
        AnyValue::String(text) => return Ok(text),
        AnyValue::Empty => {}
        AnyValue::Bool(flag) => scratch.raw(if *flag { b"true" } else { b"false" }),
        AnyValue::Int(number) => scratch.signed(*number),
        AnyValue::Double(number) => scratch.float(*number),
        AnyValue::Bytes(bytes) => scratch.base64(bytes),
        AnyValue::Array(_) | AnyValue::Map(_) => json(scratch, value)?,
    }
    Ok(scratch.as_bytes())
}

/// A value as JSON.
///
/// # Errors
/// [`Malformed`] when a list or map is, or is nested too deep. What was written before stays.
pub fn json(out: &mut JsonWriter, value: &AnyValue<'_>) -> Result<(), Malformed> {
    match value {
        AnyValue::Empty => out.raw(b"null"),
        AnyValue::String(text) => out.string(text),
        AnyValue::Bool(flag) => out.raw(if *flag { b"true" } else { b"false" }),
        AnyValue::Int(number) => out.signed(*number),
        AnyValue::Double(number) if number.is_finite() => out.float(*number),
        AnyValue::Double(number) => {
            out.raw(b"\"");
            out.float(*number);
            out.raw(b"\"");
        }
        AnyValue::Bytes(bytes) => {
            out.raw(b"\"");
            out.base64(bytes);
            out.raw(b"\"");
        }
        AnyValue::Array(values) => {
            out.raw(b"[");
            for value in values.clone() {
                json(out, &value?)?;
                out.raw(b",");
            }
            out.trim_comma();
            out.raw(b"]");
        }
        AnyValue::Map(members) => {
            out.raw(b"{");
            json_members(out, members.clone())?;
            out.raw(b"}");
        }
    }
    Ok(())
}

/// Attributes as the members of a JSON object, without its braces.
///
/// # Errors
/// As [`json`].
pub fn json_members(out: &mut JsonWriter, members: KeyValues<'_>) -> Result<(), Malformed> {
    const KEY: Around = Around::new("\"", "\":");
    for member in members {
        let member = member?;
        out.delimited(&KEY, member.key);
        json(out, &member.value)?;
        out.raw(b",");
    }
    out.trim_comma();
    Ok(())
}

#[cfg(test)]
mod tests {
    use weir_wire::Encoder;

    use super::*;

    fn text(any_value: impl FnOnce(&mut Encoder)) -> String {
        let mut encoder = Encoder::new();
        any_value(&mut encoder);
        let mut scratch = JsonWriter::default();
        let value = AnyValue::parse(encoder.as_bytes()).expect("well formed");
        String::from_utf8(of(&value, &mut scratch).expect("not too deep").to_vec()).expect("UTF-8")
    }

    /// Scenario: a value of each kind, and a map with one of each kind.
    /// Guarantees: the text that the OpenTelemetry specification gives for it.
    #[test]
    fn each_kind_has_its_text() {
        assert_eq!(text(|_| {}), "");
        assert_eq!(text(|any| any.string(1, "a\"b")), "a\"b");
        assert_eq!(text(|any| any.bool(2, true)), "true");
        assert_eq!(text(|any| any.int(3, -7)), "-7");
        assert_eq!(text(|any| any.double(4, 0.5)), "0.5");
        assert_eq!(text(|any| any.double(4, f64::NAN)), "NaN");
        assert_eq!(text(|any| any.bytes(7, b"foob")), "Zm9vYg==");
        let list = text(|any| {
            any.message(5, |list| {
                list.message(1, |any| any.string(1, "a\"b"));
                list.message(1, |any| any.double(4, f64::INFINITY));
                list.message(1, |_| {});
                list.message(1, |any| any.bytes(7, b"f"));
                list.message(1, |any| {
                    any.message(6, |map| {
                        map.attribute_int(1, "i", 1);
                        map.attribute_bool(1, "b\n", false);
                    });
                });
                list.message(1, |any| any.message(6, |_| {}));
            });
        });
        assert_eq!(list, r#"["a\"b","Infinity",null,"Zg==",{"i":1,"b\n":false},{}]"#);
    }

    /// Scenario: lists nested deeper than anything may be.
    /// Guarantees: an error, not a deep stack.
    #[test]
    fn nesting_has_an_end() {
        let mut any = Vec::new();
        for _ in 0..200 {
            let mut outer = Encoder::new();
            outer.message(5, |list| list.bytes(1, &any));
            any = outer.into_bytes();
        }
        let value = AnyValue::parse(&any).expect("well formed at its surface");
        assert!(of(&value, &mut JsonWriter::default()).is_err());
    }
}
