//! JSON, written fast.
//!
//! The writer keeps a buffer that is longer than what has been written, so that a store is one comparison
//! with a known length and not a question to `Vec` for each byte. Strings go eight bytes at a time: look for
//! a byte that needs an escape, store all eight, advance over those that were plain. That matters in a
//! sandbox, where each step of a loop also pays for the epoch check and a short `memory.copy` is a call out
//! of the guest.
//!
//! The caller writes braces, commas and keys himself, as literals: `literal(b",\"name\":")`.

use super::word;

/// A string is written in pieces of this many bytes, so that room for the worst case (six bytes for one)
/// stays small.
const PIECE_BYTES: usize = 1024;

/// Room that a piece may need, and a word more because words are stored whole.
const PIECE_ROOM: usize = 6 * PIECE_BYTES + 8;

/// The buffer's first size, where the caller gave none.
const FIRST_BYTES: usize = 256;

const HEX: &[u8; 16] = b"0123456789abcdef";

/// `00` to `99`.
const TWO_DIGITS: [[u8; 2]; 100] = {
    let mut table = [[0; 2]; 100];
    let mut index = 0;
    while index < 100 {
        table[index] = [b'0' + (index / 10) as u8, b'0' + (index % 10) as u8];
        index += 1;
    }
    table
};

/// The two hex digits of each byte.
const HEX_PAIRS: [[u8; 2]; 256] = {
    let mut table = [[0; 2]; 256];
    let mut index = 0;
    while index < 256 {
        table[index] = [HEX[index >> 4], HEX[index & 15]];
        index += 1;
    }
    table
};

/// What stands behind the backslash for bytes below 0x20; `u` where only `\u00xx` will do.
const SHORT_ESCAPES: &[u8; 32] = b"uuuuuuuubtnufruuuuuuuuuuuuuuuuuu";

const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Writes pieces of JSON, one after the other.
#[derive(Clone, Debug, Default)]
pub struct Writer {
    /// Written up to `at`; behind it lies room.
    out: Vec<u8>,
    at: usize,
}

impl Writer {
    /// An empty buffer.
    #[must_use]
    pub const fn new() -> Self {
        Self { out: Vec::new(), at: 0 }
    }

    /// An empty buffer with room for `bytes`.
    #[must_use]
    pub fn with_capacity(bytes: usize) -> Self {
        Self { out: Vec::with_capacity(bytes), at: 0 }
    }

    /// Goes on at the end of `out`, so that a buffer can be used again.
    #[must_use]
    pub const fn append_to(out: Vec<u8>) -> Self {
        Self { at: out.len(), out }
    }

    /// What has been written.
    #[must_use]
    pub fn into_bytes(mut self) -> Vec<u8> {
        self.out.truncate(self.at);
        self.out
    }

    /// What has been written so far.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.out[..self.at]
    }

    /// Bytes written so far.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.at
    }

    /// Whether nothing has been written.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.at == 0
    }

    /// Takes back everything behind the first `len` bytes.
    pub fn truncate(&mut self, len: usize) {
        self.at = self.at.min(len);
    }

    /// Forgets what has been written and keeps the room.
    pub const fn clear(&mut self) {
        self.at = 0;
    }

    // === JSON ===

    /// A literal piece of JSON; its length is known when the program is built, so it is stored and not
    /// copied.
    #[inline]
    pub fn literal<const N: usize>(&mut self, json: &[u8; N]) {
        self.room(N)[..N].copy_from_slice(json);
        self.at += N;
    }

    /// A piece of JSON of any length.
    #[inline]
    pub fn raw(&mut self, json: impl AsRef<[u8]>) {
        let json = json.as_ref();
        self.room(json.len())[..json.len()].copy_from_slice(json);
        self.at += json.len();
    }

    /// A string in quotes. Bytes that are not UTF-8 become U+FFFD.
    #[inline]
    pub fn string(&mut self, text: impl AsRef<[u8]>) {
        self.literal(b"\"");
        self.escaped(text);
        self.literal(b"\"");
    }

    /// A string without its quotes, for one that is put together from pieces. Bytes that are not UTF-8 become
    /// U+FFFD.
    #[inline]
    pub fn escaped(&mut self, text: impl AsRef<[u8]>) {
        let text = text.as_ref();
        let start = self.at;
        let mut non_ascii = 0;
        for piece in text.chunks(PIECE_BYTES) {
            non_ascii |= self.escape_piece(piece);
        }
        if non_ascii != 0 && core::str::from_utf8(text).is_err() {
            self.at = start;
            self.escape_lossy(text);
        }
    }

    /// A whole number.
    #[inline]
    pub fn u64(&mut self, mut value: u64) {
        // The digits end at 20; what is behind them is only there so that a copy of a known size will do.
        let mut digits = [0; 40];
        let mut at = 20;
        while value >= 100 {
            at -= 2;
            digits[at..at + 2].copy_from_slice(&TWO_DIGITS[(value % 100) as usize]);
            value /= 100;
        }
        if value >= 10 {
            at -= 2;
            digits[at..at + 2].copy_from_slice(&TWO_DIGITS[value as usize]);
        } else {
            at -= 1;
            digits[at] = b'0' + value as u8;
        }
        self.room(20)[..20].copy_from_slice(&digits[at..at + 20]);
        let length = 20 - at;
        self.at += length;
    }

    /// A whole number.
    #[inline]
    pub fn i64(&mut self, value: i64) {
        if value < 0 {
            self.literal(b"-");
        }
        self.u64(value.unsigned_abs());
    }

    /// A number, in the fewest digits that give the same `double`. JSON has no other numbers, so what is not
    /// finite becomes one of the strings `"NaN"`, `"Infinity"`, `"-Infinity"`, as in proto3 JSON.
    pub fn f64(&mut self, value: f64) {
        use std::io::Write as _;
        if value.is_nan() {
            self.literal(b"\"NaN\"");
        } else if value.is_infinite() {
            self.raw(if value > 0.0 { "\"Infinity\"" } else { "\"-Infinity\"" });
        } else {
            // The longest is -2.2250738585072014e-308: 24 bytes.
            let mut room = &mut self.room(32)[..32];
            // `Debug` uses exponents where `Display` would write 300 zeros.
            let written = write!(room, "{value:?}").map(|()| 32 - room.len());
            self.at += written.expect("a double takes at most 24 bytes");
        }
    }

    /// `true` or `false`.
    #[inline]
    pub fn bool(&mut self, value: bool) {
        if value {
            self.literal(b"true");
        } else {
            self.literal(b"false");
        }
    }

    /// Lower-case hex digits, without quotes.
    #[inline]
    pub fn hex(&mut self, bytes: impl AsRef<[u8]>) {
        let bytes = bytes.as_ref();
        let (pairs, _) = self.room(2 * bytes.len())[..2 * bytes.len()].as_chunks_mut::<2>();
        for (pair, byte) in pairs.iter_mut().zip(bytes) {
            *pair = HEX_PAIRS[usize::from(*byte)];
        }
        self.at += 2 * bytes.len();
    }

    /// Base64 with padding, without quotes.
    pub fn base64(&mut self, bytes: impl AsRef<[u8]>) {
        let (triples, rest) = bytes.as_ref().as_chunks::<3>();
        let digit = |bits: u32| BASE64[(bits & 63) as usize];
        let digits = |[a, b, c]: [u8; 3]| {
            let bits = u32::from_be_bytes([0, a, b, c]);
            [digit(bits >> 18), digit(bits >> 12), digit(bits >> 6), digit(bits)]
        };
        for triple in triples {
            self.literal(&digits(*triple));
        }
        match *rest {
            [a] => {
                let [first, second, ..] = digits([a, 0, 0]);
                self.literal(&[first, second, b'=', b'=']);
            }
            [a, b] => {
                let [first, second, third, _] = digits([a, b, 0]);
                self.literal(&[first, second, third, b'=']);
            }
            _ => {}
        }
    }

    // === room ===

    /// At least `bytes` of room behind what has been written.
    #[inline]
    fn room(&mut self, bytes: usize) -> &mut [u8] {
        if self.out.len() - self.at < bytes {
            self.grow(bytes);
        }
        &mut self.out[self.at..]
    }

    #[cold]
    #[inline(never)]
    fn grow(&mut self, bytes: usize) {
        let needed = self.at + bytes;
        // What the vector has already is used before it is asked for more.
        let length = if needed <= self.out.capacity() {
            self.out.capacity()
        } else {
            needed.max(2 * self.out.len()).max(FIRST_BYTES)
        };
        self.out.resize(length, 0);
    }

    /// Writes a piece of a string; says whether it holds bytes that are not ASCII.
    #[inline]
    fn escape_piece(&mut self, piece: &[u8]) -> u64 {
        let mut non_ascii = 0;
        let mut written = 0;
        // Short strings, the usual ones, ask only for what they need.
        let needed = (6 * piece.len() + 8).min(PIECE_ROOM);
        let room = self.room(needed);
        let mut rest = piece;
        while !rest.is_empty() {
            let (bytes, length) = match rest.first_chunk::<8>() {
                Some(chunk) => (u64::from_le_bytes(*chunk), 8),
                None => (word::load_short(rest), rest.len()),
            };
            // The zeros behind a short rest are no bytes of the string.
            let special = word::special(bytes) & (u64::MAX >> (64 - 8 * length));
            non_ascii |= word::non_ascii(bytes);
            room[written..written + 8].copy_from_slice(&bytes.to_le_bytes());
            if special == 0 {
                written += length;
                rest = &rest[length..];
            } else {
                let plain = word::plain(special);
                written += plain;
                written += escape(rest[plain], &mut room[written..written + 6]);
                rest = &rest[plain + 1..];
            }
        }
        self.at += written;
        non_ascii
    }

    #[cold]
    fn escape_lossy(&mut self, text: &[u8]) {
        for chunk in text.utf8_chunks() {
            for piece in chunk.valid().as_bytes().chunks(PIECE_BYTES) {
                self.escape_piece(piece);
            }
            if !chunk.invalid().is_empty() {
                self.literal(b"\xef\xbf\xbd");
            }
        }
    }
}

/// Writes the escape of a quote, a backslash or a control character; returns its length.
#[inline]
fn escape(byte: u8, room: &mut [u8]) -> usize {
    let letter = match byte {
        0..0x20 => SHORT_ESCAPES[usize::from(byte)],
        _ => byte,
    };
    if letter == b'u' {
        let [high, low] = HEX_PAIRS[usize::from(byte)];
        room[..6].copy_from_slice(&[b'\\', b'u', b'0', b'0', high, low]);
        6
    } else {
        room[..2].copy_from_slice(&[b'\\', letter]);
        2
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::{Lexer, Token};

    fn written(write: impl FnOnce(&mut Writer)) -> String {
        let mut writer = Writer::new();
        write(&mut writer);
        String::from_utf8(writer.into_bytes()).expect("JSON is UTF-8")
    }

    /// Scenario: every byte below 0x80 at every distance from the start and the end of strings of all short
    /// lengths.
    /// Guarantees: the lexer reads back the same string, and the text is the least that JSON allows.
    #[test]
    fn every_character_survives_at_every_place() {
        for length in 1..20 {
            for place in 0..length {
                for byte in 0..0x80 {
                    let mut text = vec![b'a'; length];
                    text[place] = byte;
                    let json = written(|writer| writer.string(&text));
                    let Ok(Token::String(back)) = Lexer::new(json.as_bytes()).next() else {
                        panic!("{json}");
                    };
                    assert_eq!(back.bytes(), text, "{json}");
                    let escape = match byte {
                        b'"' | b'\\' | b'\n' | b'\r' | b'\t' | 8 | 12 => 2,
                        0..0x20 => 6,
                        _ => 1,
                    };
                    assert_eq!(json.len(), length + 1 + escape);
                }
            }
        }
    }

    /// Scenario: text beyond ASCII, text that is not UTF-8, and text longer than a piece with a character
    /// across its end.
    /// Guarantees: the first stays, the second is what Rust's lossy conversion makes of it, the third is
    /// whole.
    #[test]
    fn what_is_not_utf8_is_replaced() {
        assert_eq!(written(|writer| writer.string("é€😀\u{7f}")), "\"é€😀\u{7f}\"");
        for bytes in [&b"a\xffb"[..], b"\xe2\x82", b"\xf0\x9f\x98\"\n", b"\xc0\x80", b"abcdefgh\xed\xa0\x80"]
        {
            let expected = written(|writer| writer.string(String::from_utf8_lossy(bytes).as_bytes()));
            assert_eq!(written(|writer| writer.string(bytes)), expected);
        }
        for before in PIECE_BYTES - 4..PIECE_BYTES + 4 {
            let text = "x".repeat(before) + "😀\"" + &"é".repeat(PIECE_BYTES);
            assert_eq!(written(|writer| writer.escaped(&text)), text.replace('"', "\\\""));
        }
    }

    /// Scenario: a string of nothing but characters that take six bytes, longer than a piece.
    /// Guarantees: the room suffices.
    #[test]
    fn the_worst_string_finds_room() {
        let text = vec![1; 3 * PIECE_BYTES + 5];
        assert_eq!(written(|writer| writer.escaped(&text)), "\\u0001".repeat(text.len()));
    }

    /// Scenario: whole numbers of every length and the ends of their types.
    /// Guarantees: they are what the standard library writes.
    #[test]
    fn whole_numbers_are_those_of_the_standard_library() {
        for exponent in 0..20 {
            for value in [10u64.pow(exponent), 10u64.pow(exponent) - 1, 10u64.pow(exponent) + 7, u64::MAX] {
                assert_eq!(written(|writer| writer.u64(value)), value.to_string());
                let signed = value.cast_signed();
                assert_eq!(written(|writer| writer.i64(signed)), signed.to_string());
            }
        }
        assert_eq!(written(|writer| writer.i64(i64::MIN)), i64::MIN.to_string());
    }

    /// Scenario: doubles of all sorts.
    /// Guarantees: the number is short and reads back the same; what is no JSON number is a string.
    #[test]
    fn doubles_read_back_the_same() {
        let double = |value| written(|writer| writer.f64(value));
        assert_eq!(double(0.1), "0.1");
        assert_eq!(double(-0.0), "-0.0");
        assert_eq!(double(1e300), "1e300");
        assert_eq!(double(f64::NAN), "\"NaN\"");
        assert_eq!(double(f64::NEG_INFINITY), "\"-Infinity\"");
        for value in
            [f64::MAX, f64::MIN, f64::MIN_POSITIVE, -f64::MIN_POSITIVE, 5e-324, 1.0 / 3.0, 1e16, 123_456.789]
        {
            assert_eq!(double(value).parse(), Ok(value));
        }
    }

    /// Scenario: hex and base64 of all rests.
    /// Guarantees: they are what RFC 4648 says.
    #[test]
    fn hex_and_base64_are_those_of_the_standard() {
        assert_eq!(written(|writer| writer.hex([0x00, 0x1f, 0xab, 0xff])), "001fabff");
        for (bytes, base64) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")]
        {
            assert_eq!(written(|writer| writer.base64(bytes)), base64);
        }
        assert_eq!(written(|writer| writer.base64([0xfb, 0xff])), "+/8=");
    }

    /// Scenario: a buffer that holds something is continued, taken back and used again.
    /// Guarantees: what stood there stays, and room is never shown.
    #[test]
    fn a_buffer_is_continued_and_used_again() {
        let mut writer = Writer::append_to(b"x=".to_vec());
        writer.literal(b"[");
        let mark = writer.len();
        writer.string("no");
        writer.truncate(mark);
        writer.bool(true);
        assert_eq!(writer.as_bytes(), b"x=[true");
        writer.clear();
        assert!(writer.is_empty());
        writer.bool(false);
        assert_eq!(writer.into_bytes(), b"false");
    }
}
