//! Events and links of OpenTelemetry inside of Zipkin's texts.
//!
//! Zipkin's annotation is a time and a text. Four spellings of an event's attributes are in use; all are
//! read, strictly, and in this order. A text that is none of them is the name of an event, whatever is in it.
//!
//! ```text
//! {"name": {"k": "v"}}          OpenTelemetry's Python exporter
//! "name": {"k": "v"}            OpenTelemetry's specification
//! name|{"k":"v"}|0              the Collector's exporter, with the dropped count
//! name                          everybody
//!
//! traceid|spanid|tracestate|{"k":"v"}|0        a link, in the tag otlp.link.N
//! ```

use weir_guest::wire::Encoder;
use weir_guest::wire::json::{Lexer, Text, Token};

/// How deep values may be nested; a text with deeper ones is a name.
const DEPTH_MAX: u8 = 16;

/// Places at which the JSON of the Collector's spelling may begin, where the name or the tracestate has the
/// same two characters. Each costs a pass over the text.
const BEGINNINGS_MAX: usize = 4;

/// The key under which a dropped count stands among an event's attributes.
const DROPPED_KEY: &[u8] = b"otel.dropped_attributes_count";

/// Field numbers of what attributes are written into.
#[derive(Clone, Copy)]
struct Into {
    attributes: u32,
    dropped: u32,
}

const EVENT: Into = Into { attributes: 3, dropped: 4 };
const LINK: Into = Into { attributes: 4, dropped: 5 };

/// Writes an annotation as an event in repeated field `field`. `time` is in nanoseconds.
pub(crate) fn write_event(out: &mut Encoder, field: u32, time: u64, text: &[u8]) {
    let event = out.open(field);
    out.nonzero_fixed64(1, time);
    let start = out.len();
    let structured = match text.first() {
        Some(b'{') => object_of_object(out, text),
        Some(b'"') => name_and_object(out, text),
        Some(_) | None => None,
    };
    if structured.is_none() {
        out.truncate(start);
        if name_object_count(out, text).is_none() {
            out.truncate(start);
            out.nonempty_bytes(2, text);
        }
    }
    out.close(event);
}

/// `{"name": {"k": "v"}}`
fn object_of_object(out: &mut Encoder, text: &[u8]) -> Option<()> {
    let mut lexer = Lexer::new(text);
    lexer.begin_object().ok()?;
    let name = lexer.key().ok()??;
    out.nonempty_bytes(2, name.bytes());
    object(out, &mut lexer, EVENT)?;
    if lexer.key().ok()?.is_some() {
        return None;
    }
    lexer.end().ok()
}

/// `"name": {"k": "v"}`
fn name_and_object(out: &mut Encoder, text: &[u8]) -> Option<()> {
    let mut lexer = Lexer::new(text);
    let name = lexer.text().ok()?;
    let rest = text.get(lexer.at()..)?.trim_ascii_start().strip_prefix(b":")?;
    out.nonempty_bytes(2, name.bytes());
    whole_object(out, rest, EVENT)
}

/// `name|{"k":"v"}|0`
fn name_object_count(out: &mut Encoder, text: &[u8]) -> Option<()> {
    let (rest, dropped) = split_count(text)?;
    let start = out.len();
    for at in beginnings(rest) {
        out.nonempty_bytes(2, &rest[..at]);
        if whole_object(out, &rest[at + 1..], EVENT).is_some() {
            out.nonzero_varint(EVENT.dropped, u64::from(dropped));
            return Some(());
        }
        out.truncate(start);
    }
    None
}

/// Whether a text is a link's.
pub(crate) fn is_link(text: &[u8]) -> bool {
    link_fields(&mut Encoder::new(), text).is_some()
}

/// Writes a link's text as a link in repeated field `field`; nothing, if it is none.
pub(crate) fn write_link(out: &mut Encoder, field: u32, text: &[u8]) {
    let start = out.len();
    let link = out.open(field);
    if link_fields(out, text).is_some() {
        out.close(link);
    } else {
        out.truncate(start);
    }
}

fn link_fields(out: &mut Encoder, text: &[u8]) -> Option<()> {
    let (trace_id, rest) = text.split_at_checked(32)?;
    let (span_id, rest) = rest.strip_prefix(b"|")?.split_at_checked(16)?;
    let rest = rest.strip_prefix(b"|")?;
    out.bytes(1, hex::<16>(trace_id)?);
    out.bytes(2, hex::<8>(span_id)?);
    let (rest, dropped) = split_count(rest)?;
    let start = out.len();
    // Without a tracestate the attributes stand behind its empty place.
    let empty = rest.starts_with(b"|{").then_some(0);
    for at in empty.into_iter().chain(beginnings(rest)) {
        out.nonempty_bytes(3, &rest[..at]);
        if whole_object(out, &rest[at + 1..], LINK).is_some() {
            out.nonzero_varint(LINK.dropped, u64::from(dropped));
            return Some(());
        }
        out.truncate(start);
    }
    None
}

/// Takes `|0` off the end.
fn split_count(text: &[u8]) -> Option<(&[u8], u32)> {
    let bar = text.iter().rposition(|byte| *byte == b'|')?;
    let digits = &text[bar + 1..];
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let count = core::str::from_utf8(digits).ok()?.parse().ok()?;
    Some((&text[..bar], count))
}

/// Where `|{` stands.
fn beginnings(text: &[u8]) -> impl Iterator<Item = usize> {
    let bars = text.windows(2).enumerate().filter(|(_, pair)| pair == b"|{");
    bars.map(|(at, _)| at).take(BEGINNINGS_MAX)
}

fn hex<const N: usize>(digits: &[u8]) -> Option<[u8; N]> {
    let mut id = [0; N];
    for (byte, pair) in id.iter_mut().zip(digits.chunks_exact(2)) {
        for digit in pair {
            let value = char::from(*digit).to_digit(16)?;
            *byte = *byte << 4 | u8::try_from(value).ok()?;
        }
    }
    (digits.len() == 2 * N && id != [0; N]).then_some(id)
}

// === JSON to attributes ===

/// A text that is one JSON object, as attributes.
fn whole_object(out: &mut Encoder, text: &[u8], into: Into) -> Option<()> {
    let mut lexer = Lexer::new(text);
    object(out, &mut lexer, into)?;
    lexer.end().ok()
}

/// A JSON object, as attributes.
fn object(out: &mut Encoder, lexer: &mut Lexer<'_>, into: Into) -> Option<()> {
    lexer.begin_object().ok()?;
    while let Some(key) = lexer.key().ok()? {
        let token = lexer.next().ok()?;
        if let (DROPPED_KEY, Token::Number(count)) = (key.raw(), token)
            && let Some(count) = count.as_u64().and_then(|count| u32::try_from(count).ok())
        {
            out.nonzero_varint(into.dropped, u64::from(count));
        } else {
            key_value(out, into.attributes, key, token, lexer, 0)?;
        }
    }
    Some(())
}

fn key_value(
    out: &mut Encoder,
    field: u32,
    key: Text<'_>,
    token: Token<'_>,
    lexer: &mut Lexer<'_>,
    depth: u8,
) -> Option<()> {
    let key_value = out.open(field);
    out.bytes(1, key.bytes());
    any_value(out, 2, token, lexer, depth)?;
    out.close(key_value);
    Some(())
}

/// A JSON value as an `AnyValue` in field `field`; `token` is its first. What was opened for a value that is
/// none is the caller's to take back.
fn any_value(
    out: &mut Encoder,
    field: u32,
    token: Token<'_>,
    lexer: &mut Lexer<'_>,
    depth: u8,
) -> Option<()> {
    if depth == DEPTH_MAX {
        return None;
    }
    let any = out.open(field);
    match token {
        Token::String(text) => out.bytes(1, text.bytes()),
        Token::Bool(flag) => out.bool(2, flag),
        Token::Null => {}
        Token::Number(number) => {
            let is_whole = !number.text().iter().any(|byte| matches!(byte, b'.' | b'e' | b'E'));
            match number.as_i64().filter(|_| is_whole) {
                Some(number) => out.int(3, number),
                None => out.double(4, number.as_f64()?),
            }
        }
        Token::ArrayStart => {
            let list = out.open(5);
            while lexer.element().ok()? {
                let token = lexer.next().ok()?;
                any_value(out, 1, token, lexer, depth + 1)?;
            }
            out.close(list);
        }
        Token::ObjectStart => {
            let map = out.open(6);
            while let Some(key) = lexer.key().ok()? {
                let token = lexer.next().ok()?;
                key_value(out, 1, key, token, lexer, depth + 1)?;
            }
            out.close(map);
        }
        Token::ObjectEnd | Token::ArrayEnd | Token::Key(_) | Token::End => return None,
    }
    out.close(any);
    Some(())
}
