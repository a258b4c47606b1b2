//! OTLP/JSON to protobuf, in one pass.

use super::lexer::{Lexer, Text, Token};
use super::number::Number;
use super::schema::{self, Field, Kind, Message, Rule};
use super::{JsonError, JsonLimits, MESSAGES_DEPTH_MAX};
use crate::encode::Encoder;
use crate::signal::Signal;

/// Turns OTLP/JSON into the protobuf of the same request.
///
/// Unknown keys are passed over, `null` is the default, whole numbers may be numbers or strings, ids are hex
/// of either case. Ids are not checked further: [`crate::walk()`] does that for both encodings. The result is
/// at most four times as long as `json` (a packed zero).
///
/// # Errors
/// [`JsonError`] where the text is no JSON, or not the one object of this request: a value of the wrong kind,
/// a known key that stands twice, two values of a kind of which there may be one, a string above the limit,
/// messages nested too deep, anything behind the object.
pub fn to_protobuf(signal: Signal, json: &[u8], limits: &JsonLimits) -> Result<Vec<u8>, JsonError> {
    let mut decoder = Decoder {
        lexer: Lexer::new(json),
        // Protobuf is shorter nearly always; half is a usual part.
        out: Encoder::with_capacity(json.len() / 2),
        limits,
    };
    decoder.lexer.begin_object()?;
    decoder.members(root(signal), 1)?;
    decoder.lexer.end()?;
    Ok(decoder.out.into_bytes())
}

/// The table of a request.
pub(super) const fn root(signal: Signal) -> &'static Message {
    match signal {
        Signal::Traces => &schema::TRACES,
        Signal::Metrics => &schema::METRICS,
        Signal::Logs => &schema::LOGS,
    }
}

struct Decoder<'a, 'l> {
    lexer: Lexer<'a>,
    out: Encoder,
    limits: &'l JsonLimits,
}

impl<'a> Decoder<'a, '_> {
    /// The members of an object, up to its end. `depth` counts messages, so the recursion has a bound.
    fn members(&mut self, message: &'static Message, depth: usize) -> Result<(), JsonError> {
        // Bit i: field i has been seen, even as null. The highest bit: one of the alternatives has a value.
        let mut seen = 0u32;
        const ONE_OF: u32 = 1 << 31;
        let mut expected = 0;
        while let Some(key) = self.lexer.key()? {
            let Some(index) = find(message, key, expected) else {
                self.lexer.skip()?;
                continue;
            };
            // Senders write fields in the order of the table, or nearly so.
            expected = index + 1;
            let field = &message.fields[index];
            if seen & (1 << index) != 0 {
                return Err(self.error(field, "stands twice in one object"));
            }
            seen |= 1 << index;
            let token = self.lexer.next()?;
            if token == Token::Null {
                continue;
            }
            if field.rule == Rule::OneOf {
                if seen & ONE_OF != 0 {
                    return Err(self.error(field, "another kind of value stands in the same object"));
                }
                seen |= ONE_OF;
            }
            match field.rule {
                Rule::Repeated => self.list(field, token, depth)?,
                Rule::Single | Rule::Optional | Rule::OneOf => self.single(field, token, depth)?,
            }
        }
        Ok(())
    }

    fn list(&mut self, field: &'static Field, token: Token<'a>, depth: usize) -> Result<(), JsonError> {
        if token != Token::ArrayStart {
            return Err(self.error(field, "expected an array"));
        }
        match field.kind {
            Kind::Message(_) | Kind::String | Kind::Bytes | Kind::Id => {
                while self.lexer.element()? {
                    let token = self.lexer.next()?;
                    self.element(field, token, depth)?;
                }
            }
            _ => {
                let start = self.out.len();
                let open = self.out.open(field.number);
                let empty = self.out.len();
                while self.lexer.element()? {
                    let token = self.lexer.next()?;
                    self.packed(field, token)?;
                }
                if self.out.len() == empty {
                    self.out.truncate(start);
                } else {
                    self.out.close(open);
                }
            }
        }
        Ok(())
    }

    /// An element of a list of messages or strings; `null` is the default here too, and it counts.
    fn element(&mut self, field: &'static Field, token: Token<'a>, depth: usize) -> Result<(), JsonError> {
        match (field.kind, token) {
            (Kind::Message(message), token) => self.message(field, message, token, depth),
            (_, Token::Null) => {
                self.out.bytes(field.number, []);
                Ok(())
            }
            (_, Token::String(text)) => self.text(field, text, true),
            _ => Err(self.error(field, "expected a string")),
        }
    }

    fn message(
        &mut self,
        field: &'static Field,
        message: &'static Message,
        token: Token<'a>,
        depth: usize,
    ) -> Result<(), JsonError> {
        if depth == MESSAGES_DEPTH_MAX {
            return Err(self.error(field, "messages are nested deeper than 64"));
        }
        let open = self.out.open(field.number);
        match token {
            Token::ObjectStart => self.members(message, depth + 1)?,
            Token::Null => {}
            _ => return Err(self.error(field, "expected an object")),
        }
        self.out.close(open);
        Ok(())
    }

    fn single(&mut self, field: &'static Field, token: Token<'a>, depth: usize) -> Result<(), JsonError> {
        let keep_default = field.rule != Rule::Single;
        match field.kind {
            Kind::Message(message) => self.message(field, message, token, depth)?,
            Kind::String | Kind::Bytes | Kind::Id => match token {
                Token::String(text) => self.text(field, text, keep_default)?,
                _ => return Err(self.error(field, "expected a string")),
            },
            Kind::Bool | Kind::Uint32 | Kind::Enum | Kind::Sint32 | Kind::Uint64 | Kind::Int64 => {
                let value = self.varint(field, token)?;
                if keep_default || value != 0 {
                    self.out.varint(field.number, value);
                }
            }
            Kind::Fixed32 => {
                let value = self.unsigned(field, token, u64::from(u32::MAX))?;
                self.out.nonzero_fixed32(field.number, value as u32);
            }
            Kind::Fixed64 | Kind::Sfixed64 | Kind::Double => {
                let value = self.eight_bytes(field, token)?;
                if keep_default || value != 0 {
                    self.out.fixed64(field.number, value);
                }
            }
        }
        Ok(())
    }

    /// A number of a packed list.
    fn packed(&mut self, field: &'static Field, token: Token<'a>) -> Result<(), JsonError> {
        match field.kind {
            Kind::Fixed64 | Kind::Sfixed64 | Kind::Double => {
                let value = if token == Token::Null { 0 } else { self.eight_bytes(field, token)? };
                self.out.raw(&value.to_le_bytes());
            }
            // No list in the table holds another kind of eight or four bytes.
            _ => {
                let value = if token == Token::Null { 0 } else { self.varint(field, token)? };
                self.out.raw_varint(value);
            }
        }
        Ok(())
    }

    // === scalars ===

    fn varint(&self, field: &'static Field, token: Token<'a>) -> Result<u64, JsonError> {
        match field.kind {
            Kind::Bool => match token {
                Token::Bool(value) => Ok(u64::from(value)),
                _ => Err(self.error(field, "expected true or false")),
            },
            Kind::Uint32 => self.unsigned(field, token, u64::from(u32::MAX)),
            Kind::Uint64 => self.unsigned(field, token, u64::MAX),
            Kind::Int64 => self.signed(field, token).map(i64::cast_unsigned),
            Kind::Enum => self.signed_32(field, token).map(|value| i64::from(value).cast_unsigned()),
            Kind::Sint32 => {
                let value = self.signed_32(field, token)?;
                Ok(crate::encode::zigzag(i64::from(value)))
            }
            _ => Err(self.error(field, "expected a number")),
        }
    }

    fn eight_bytes(&self, field: &'static Field, token: Token<'a>) -> Result<u64, JsonError> {
        match field.kind {
            Kind::Fixed64 => self.unsigned(field, token, u64::MAX),
            Kind::Sfixed64 => self.signed(field, token).map(i64::cast_unsigned),
            _ => self.double(field, token).map(f64::to_bits),
        }
    }

    fn unsigned(&self, field: &'static Field, token: Token<'a>, max: u64) -> Result<u64, JsonError> {
        let value = self.number(token).and_then(Number::as_u64).filter(|value| *value <= max);
        value.ok_or_else(|| self.error(field, "expected a whole number, not negative and within range"))
    }

    fn signed(&self, field: &'static Field, token: Token<'a>) -> Result<i64, JsonError> {
        let value = self.number(token).and_then(Number::as_i64);
        value.ok_or_else(|| self.error(field, "expected a whole number within range"))
    }

    fn signed_32(&self, field: &'static Field, token: Token<'a>) -> Result<i32, JsonError> {
        let value = self.number(token).and_then(Number::as_i64).and_then(|value| i32::try_from(value).ok());
        value.ok_or_else(|| {
            self.error(field, "expected a whole number within range (names of values are not allowed)")
        })
    }

    fn double(&self, field: &'static Field, token: Token<'a>) -> Result<f64, JsonError> {
        if let Token::String(text) = token {
            match text.raw() {
                b"NaN" => return Ok(f64::NAN),
                b"Infinity" => return Ok(f64::INFINITY),
                b"-Infinity" => return Ok(f64::NEG_INFINITY),
                _ => {}
            }
        }
        let value = self.number(token).and_then(Number::as_f64);
        value.ok_or_else(|| self.error(field, "expected a number, \"NaN\", \"Infinity\" or \"-Infinity\""))
    }

    /// The number of a token, also where it stands in quotes.
    fn number(&self, token: Token<'a>) -> Option<Number<'a>> {
        match token {
            Token::Number(number) => Some(number),
            // A number needs no escapes, so one that has some is not taken.
            Token::String(text) => Number::parse(text.raw()),
            _ => None,
        }
    }

    fn text(&mut self, field: &'static Field, text: Text<'a>, keep_default: bool) -> Result<(), JsonError> {
        if text.is_empty() && !keep_default {
            return Ok(());
        }
        let text = text.bytes();
        if text.len() > self.limits.string_bytes_max {
            return Err(self.error(field, "a string is longer than the limit"));
        }
        match field.kind {
            Kind::Id => {
                let id =
                    hex(&text).ok_or_else(|| self.error(field, "expected hex digits, two for each byte"))?;
                self.out.bytes(field.number, id);
            }
            Kind::Bytes => {
                let bytes = base64(&text).ok_or_else(|| self.error(field, "expected base64"))?;
                self.out.bytes(field.number, bytes);
            }
            _ => self.out.bytes(field.number, text),
        }
        Ok(())
    }

    #[cold]
    fn error(&self, field: &'static Field, what: &'static str) -> JsonError {
        JsonError { field: field.name, ..self.lexer.error(what) }
    }
}

/// The field with this key, looked for from `expected` on and around.
fn find(message: &'static Message, key: Text<'_>, expected: usize) -> Option<usize> {
    // The table's names need no escapes; a sender who escapes them all the same is served too.
    let key = key.bytes();
    let count = message.fields.len();
    let expected = expected.min(count);
    (expected..count).chain(0..expected).find(|index| message.fields[*index].name.as_bytes() == &*key)
}

fn hex(text: &[u8]) -> Option<Vec<u8>> {
    let (pairs, []) = text.as_chunks::<2>() else {
        return None;
    };
    let digit = |digit: u8| char::from(digit).to_digit(16);
    pairs.iter().map(|[high, low]| Some((digit(*high)? << 4 | digit(*low)?) as u8)).collect()
}

/// Standard and URL alphabet, with or without padding, as proto3 JSON asks of readers.
fn base64(text: &[u8]) -> Option<Vec<u8>> {
    let unpadded = match text {
        [rest @ .., b'=', b'='] | [rest @ .., b'='] if text.len().is_multiple_of(4) => rest,
        rest => rest,
    };
    let mut bytes = Vec::with_capacity(unpadded.len() / 4 * 3 + 2);
    let mut bits = 0u32;
    let mut count = 0;
    for digit in unpadded {
        let value = match digit {
            b'A'..=b'Z' => digit - b'A',
            b'a'..=b'z' => digit - b'a' + 26,
            b'0'..=b'9' => digit - b'0' + 52,
            b'+' | b'-' => 62,
            b'/' | b'_' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
        }
    }
    // Six bits left over are a digit that belongs to no byte.
    (count != 6).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: base64 in both alphabets, padded or not, and texts that are neither.
    /// Guarantees: the bytes of RFC 4648, or nothing.
    #[test]
    fn base64_is_read_in_both_alphabets() {
        for (text, bytes) in [
            ("", Some(&b""[..])),
            ("Zg==", Some(b"f")),
            ("Zg", Some(b"f")),
            ("Zm8=", Some(b"fo")),
            ("Zm9vYmFy", Some(b"foobar")),
            ("+/8=", Some(b"\xfb\xff")),
            ("-_8", Some(b"\xfb\xff")),
            ("Z", None),
            ("Zg=", None),
            ("Zm9v=", None),
            ("====", None),
            ("Zm 9v", None),
        ] {
            assert_eq!(base64(text.as_bytes()).as_deref(), bytes, "{text}");
        }
    }

    /// Scenario: hex in either case, an odd digit, a stranger.
    /// Guarantees: whole bytes or nothing.
    #[test]
    fn hex_is_read_in_either_case() {
        assert_eq!(hex(b"00aAfF"), Some(vec![0, 0xaa, 0xff]));
        assert_eq!(hex(b""), Some(vec![]));
        assert_eq!(hex(b"abc"), None);
        assert_eq!(hex(b"0g"), None);
        assert_eq!(hex(b"+1"), None);
    }
}
