//! A JSON writer made for the sandbox.
//!
//! In a sandbox each turn of a loop pays an epoch check, each `Vec::push` a capacity check, and `memory.copy`
//! is a call out of the guest. So this writer reserves room once per operation, stores without asking again,
//! copies strings in pieces of 16 bytes and looks for what must be escaped 8 bytes at a time while it copies;
//! a string that needs an escape, which is rare, is written again by plain code. Numbers and hex go by
//! tables. Measured against a byte-wise writer it halves the time of a span.
//!
//! The writer spells values; commas, colons and brackets are the caller's, as [`Literal`]s.
//!
//! Strings are bytes: what is not UTF-8 becomes U+FFFD, so that the text is JSON whatever a sender called a
//! string.

#![expect(
    unsafe_code,
    reason = "stores without capacity checks are what this file is for; each block names the reservation it stands on"
)]

use crate::stores::put_bytes;

/// Text that is known at compile time, at most 32 bytes; stored as one or two vectors.
#[derive(Clone, Copy, Debug)]
pub struct Literal {
    halves: [[u8; 16]; 2],
    len: usize,
}

/// What stands before a string and behind it.
///
/// One argument for both: a guest's fifth goes over the stack, where it is stored in four bytes and read in eight, and
/// that waits a dozen cycles.
#[derive(Clone, Copy, Debug)]
pub struct Around {
    before: Literal,
    after: Literal,
}

impl Around {
    /// Two texts of at most 32 bytes each.
    #[must_use]
    pub const fn new(before: &str, after: &str) -> Self {
        Self { before: Literal::new(before), after: Literal::new(after) }
    }
}

/// Bytes behind the text that a store may touch beyond what it says it writes.
///
/// A [`Literal`] stores 32 bytes whatever its length.
const SLACK: usize = 32;

/// From this length on one `memory.copy` is cheaper than a loop.
const LONG_COPY: usize = 512;

/// Digits of the largest `u64`.
const DIGITS_MAX: usize = 20;

/// Bytes of a number with an exponent: `-2.2250738585072014e-308` has 24.
const FLOAT_BYTES_MAX: usize = 32;

static HEX: [[u8; 2]; 256] = hex_pairs();
static DECIMAL: [[u8; 2]; 100] = decimal_pairs();
static BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Writes JSON into one buffer.
#[derive(Clone, Debug)]
pub struct JsonWriter {
    out: Vec<u8>,
    /// Bytes that the text may have.
    limit: usize,
    overflowed: bool,
}

impl Default for JsonWriter {
    fn default() -> Self {
        Self { out: Vec::new(), limit: usize::MAX, overflowed: false }
    }
}

impl Literal {
    /// Text of at most 32 bytes; more does not compile when the literal is a `const`.
    #[must_use]
    pub const fn new(text: &str) -> Self {
        let text = text.as_bytes();
        assert!(text.len() <= 32, "a literal has at most 32 bytes");
        let mut halves = [[0; 16]; 2];
        let mut at = 0;
        while at < text.len() {
            halves[at / 16][at % 16] = text[at];
            at += 1;
        }
        Self { halves, len: text.len() }
    }

    /// Bytes of the text.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "nobody asks whether a constant is empty")]
    pub const fn len(&self) -> usize {
        self.len
    }
}

impl JsonWriter {
    /// An empty text with room for `bytes`.
    #[must_use]
    pub fn with_capacity(bytes: usize) -> Self {
        Self { out: Vec::with_capacity(bytes), ..Self::default() }
    }

    /// With a limit to its text, which costs nothing before it is reached: text that would grow past it is thrown away
    /// all of it, and [`Self::overflowed`] says so from then on. What is written then is no JSON, and bounded too.
    #[must_use]
    pub fn limited(self, bytes: usize) -> Self {
        Self { limit: bytes, ..self }
    }

    /// Whether text was thrown away since it grew past the limit.
    #[must_use]
    pub fn overflowed(&self) -> bool {
        self.overflowed
    }

    /// What has been written.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.out
    }

    /// What has been written so far.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.out
    }

    /// Bytes written so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.out.len()
    }

    /// Whether nothing has been written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.out.is_empty()
    }

    /// Forgets what has been written and keeps the room.
    pub fn clear(&mut self) {
        self.out.clear();
    }

    /// Takes back everything behind the first `len` bytes.
    pub fn truncate(&mut self, len: usize) {
        self.out.truncate(len);
    }

    /// Takes back a comma, if that is what the text ends with.
    #[inline]
    pub fn trim_comma(&mut self) {
        if self.out.last() == Some(&b',') {
            self.out.pop();
        }
    }

    /// Makes room for `bytes`, and for what stores may touch behind them. After it, `bytes` bytes from the
    /// end of the text on and [`SLACK`] more belong to the buffer.
    #[inline]
    fn reserve(&mut self, bytes: usize) -> *mut u8 {
        let bytes = bytes.saturating_add(SLACK);
        if self.out.capacity() - self.out.len() < bytes {
            self.grow(bytes);
        }
        self.out.spare_capacity_mut().as_mut_ptr().cast()
    }

    #[cold]
    #[inline(never)]
    fn grow(&mut self, bytes: usize) {
        if self.out.len().saturating_add(bytes) > self.limit.saturating_add(2 * SLACK) {
            self.overflowed = true;
            self.out.clear();
        }
        // Doubled, but not past what may be used.
        let doubled = self.out.capacity().saturating_mul(2).min(self.limit.saturating_add(2 * SLACK));
        self.out.reserve_exact(doubled.saturating_sub(self.out.len()).max(bytes));
    }

    /// Text as it is, on the slow paths: within the limit, which the buffer alone does not know.
    fn append(&mut self, bytes: &[u8]) {
        self.reserve(bytes.len());
        self.out.extend_from_slice(bytes);
    }

    /// The text ends at `end` now.
    ///
    /// # Safety
    /// `end` was reached by writing from the end of the text on, without a gap, within what [`Self::reserve`]
    /// gave.
    #[inline]
    unsafe fn finish(&mut self, end: *mut u8) {
        // SAFETY: both pointers are into the buffer, and all bytes between the old and the new end have been
        // written.
        unsafe {
            let len = end.offset_from_unsigned(self.out.as_ptr());
            self.out.set_len(len);
        }
    }

    // === text as it is ===

    /// Text that is known at compile time.
    #[inline]
    pub fn literal(&mut self, literal: &Literal) {
        let at = self.reserve(0);
        // SAFETY: a literal stores at most SLACK bytes.
        unsafe {
            let end = put_literal(at, literal);
            self.finish(end);
        }
    }

    /// JSON that is encoded already.
    #[inline]
    pub fn raw(&mut self, json: &[u8]) {
        if json.len() >= LONG_COPY {
            self.append(json);
            return;
        }
        let at = self.reserve(json.len());
        // SAFETY: room for all of `json` is reserved.
        unsafe {
            let (end, _) = put_bytes(at, json);
            self.finish(end);
        }
    }

    // === strings ===

    /// A string, quoted and escaped.
    #[inline]
    pub fn string(&mut self, text: &[u8]) {
        self.delimited(&QUOTES, text);
    }

    /// A string without its quotes, escaped.
    #[inline]
    pub fn text(&mut self, text: &[u8]) {
        self.delimited(&NOTHING, text);
    }

    /// A string between two literals, which bring the quotes: `,"name":"` *text* `"`.
    #[inline]
    pub fn delimited(&mut self, around: &Around, text: &[u8]) {
        let at = self.reserve(text.len().saturating_add(SLACK));
        // SAFETY: both literals have at most 32 bytes: the first lies in the SLACK that was asked for, and so
        // does the last together with the one that every reservation adds.
        unsafe {
            let at = put_literal(at, &around.before);
            let (at, clean) = put_bytes(at, text);
            if clean {
                let end = put_literal(at, &around.after);
                return self.finish(end);
            }
        }
        self.delimited_slowly(around, text);
    }

    #[cold]
    #[inline(never)]
    fn delimited_slowly(&mut self, around: &Around, text: &[u8]) {
        self.literal(&around.before);
        self.escape(text);
        self.literal(&around.after);
    }

    /// A member with a string and the comma behind it: `"key":"value",`.
    // Always: a call within a guest checks the stack and the epoch, and a span would pay for it at each attribute.
    #[inline(always)]
    pub fn member(&mut self, key: &[u8], value: &[u8]) {
        let at = self.reserve(key.len().saturating_add(value.len()).saturating_add(6));
        // SAFETY: key, value and six bytes around them are reserved; the store of four bytes between them
        // overshoots by one, into bytes that are reserved for what follows.
        unsafe {
            at.write(b'"');
            let (at, clean_key) = put_bytes(at.add(1), key);
            at.cast::<[u8; 4]>().write_unaligned(*b"\":\"\0");
            let (at, clean_value) = put_bytes(at.add(3), value);
            if clean_key && clean_value {
                at.cast::<[u8; 2]>().write_unaligned(*b"\",");
                return self.finish(at.add(2));
            }
        }
        self.member_slowly(key, value);
    }

    #[cold]
    #[inline(never)]
    fn member_slowly(&mut self, key: &[u8], value: &[u8]) {
        self.append(b"\"");
        self.escape(key);
        self.append(b"\":\"");
        self.escape(value);
        self.append(b"\",");
    }

    /// A member whose value is a whole number in a string, and the comma behind it: `"key":"number",`.
    #[inline]
    pub fn member_number(&mut self, key: &[u8], number: i64) {
        let at = self.reserve(key.len().saturating_add(8 + DIGITS_MAX));
        if (0..10_000).contains(&number) {
            // SAFETY: the key, four digits and six bytes around them are reserved; both stores of four bytes
            // overshoot into bytes that are reserved too.
            unsafe {
                at.write(b'"');
                let (at, clean) = put_bytes(at.add(1), key);
                if clean {
                    at.cast::<[u8; 4]>().write_unaligned(*b"\":\"\0");
                    let at = put_up_to_4_digits(at.add(3), number as u32);
                    at.cast::<[u8; 2]>().write_unaligned(*b"\",");
                    return self.finish(at.add(2));
                }
            }
        }
        self.delimited(&KEY, key);
        self.signed(number);
        self.literal(&END_MEMBER);
    }

    /// A quoted string inside a string: `\"text\"`, escaped for both.
    #[inline]
    pub fn inner_string(&mut self, text: &[u8]) {
        let at = self.reserve(text.len().saturating_add(4));
        // SAFETY: the text and four bytes around it are reserved.
        unsafe {
            at.cast::<[u8; 2]>().write_unaligned(*b"\\\"");
            let (at, clean) = put_bytes(at.add(2), text);
            if clean {
                at.cast::<[u8; 2]>().write_unaligned(*b"\\\"");
                return self.finish(at.add(2));
            }
        }
        let mut once = Self::with_capacity(text.len() + text.len() / 4 + 2).limited(self.limit);
        once.append(b"\"");
        once.escape(text);
        once.append(b"\"");
        self.overflowed |= once.overflowed;
        self.escape(once.as_bytes());
    }

    /// A string's content, escaped; what is not UTF-8 becomes U+FFFD.
    fn escape(&mut self, text: &[u8]) {
        for chunk in text.utf8_chunks() {
            self.escape_utf8(chunk.valid().as_bytes());
            if !chunk.invalid().is_empty() {
                self.append("\u{fffd}".as_bytes());
            }
        }
    }

    fn escape_utf8(&mut self, text: &[u8]) {
        let mut start = 0;
        for (at, &byte) in text.iter().enumerate() {
            if byte >= 0x20 && byte != b'"' && byte != b'\\' {
                continue;
            }
            if self.overflowed {
                return;
            }
            self.append(&text[start..at]);
            start = at + 1;
            match byte {
                b'"' | b'\\' => self.append(&[b'\\', byte]),
                b'\n' => self.append(b"\\n"),
                b'\r' => self.append(b"\\r"),
                b'\t' => self.append(b"\\t"),
                _ => {
                    self.append(b"\\u00");
                    self.append(&HEX[usize::from(byte)]);
                }
            }
        }
        self.append(&text[start..]);
    }

    // === ids and numbers ===

    /// Bytes as lower-case hex, without quotes.
    #[inline]
    pub fn hex<const N: usize>(&mut self, bytes: &[u8; N]) {
        let mut at = self.reserve(2 * N);
        // SAFETY: two digits a byte are reserved.
        unsafe {
            for byte in bytes {
                at.cast::<[u8; 2]>().write_unaligned(HEX[usize::from(*byte)]);
                at = at.add(2);
            }
            self.finish(at);
        }
    }

    /// A whole number.
    #[inline]
    pub fn unsigned(&mut self, number: u64) {
        // Microseconds since 1970 have sixteen digits from 2001 to 2286.
        if (1_000_000_000_000_000..10_000_000_000_000_000).contains(&number) {
            let at = self.reserve(16);
            // SAFETY: sixteen digits are reserved.
            unsafe {
                put_8_digits(at, (number / 100_000_000) as u32);
                put_8_digits(at.add(8), (number % 100_000_000) as u32);
                self.finish(at.add(16));
            }
        } else if number < 10_000 {
            let at = self.reserve(4);
            // SAFETY: four digits are reserved.
            unsafe {
                let end = put_up_to_4_digits(at, number as u32);
                self.finish(end);
            }
        } else {
            self.unsigned_of_any_width(number);
        }
    }

    fn unsigned_of_any_width(&mut self, mut number: u64) {
        let mut digits = [0; DIGITS_MAX];
        let mut start = DIGITS_MAX;
        while number >= 100 {
            start -= 2;
            digits[start..start + 2].copy_from_slice(&DECIMAL[(number % 100) as usize]);
            number /= 100;
        }
        let [tens, ones] = DECIMAL[number as usize];
        start -= 1;
        digits[start] = ones;
        if tens != b'0' {
            start -= 1;
            digits[start] = tens;
        }
        self.raw(&digits[start..]);
    }

    /// A whole number with its sign.
    #[inline]
    pub fn signed(&mut self, number: i64) {
        if number < 0 {
            self.append(b"-");
        }
        self.unsigned(number.unsigned_abs());
    }

    /// A number as JSON spells it; `NaN`, `Infinity` and `-Infinity` are not JSON, and the caller puts them
    /// into a string.
    pub fn float(&mut self, number: f64) {
        use std::io::Write as _;
        if number.is_nan() {
            self.raw(b"NaN");
        } else if number.is_infinite() {
            self.raw(if number > 0.0 { b"Infinity" } else { b"-Infinity" });
        } else {
            self.reserve(FLOAT_BYTES_MAX);
            write!(self.out, "{number:?}").expect("writing into a Vec can't fail");
        }
    }

    /// Bytes in base64 with padding, without quotes.
    pub fn base64(&mut self, bytes: &[u8]) {
        self.reserve(bytes.len().div_ceil(3).saturating_mul(4));
        for three in bytes.chunks(3) {
            let byte = |index: usize| three.get(index).copied().unwrap_or(0);
            let [first, second, third] = [byte(0), byte(1), byte(2)].map(u32::from);
            let bits = first << 16 | second << 8 | third;
            let digit = |shift: u32| BASE64[(bits >> shift & 63) as usize];
            self.out.extend_from_slice(&[
                digit(18),
                digit(12),
                if three.len() > 1 { digit(6) } else { b'=' },
                if three.len() > 2 { digit(0) } else { b'=' },
            ]);
        }
    }
}

const QUOTES: Around = Around::new("\"", "\"");
const NOTHING: Around = Around::new("", "");
const KEY: Around = Around::new("\"", "\":\"");
const END_MEMBER: Literal = Literal::new("\",");

// === stores ===

/// # Safety
/// 32 bytes from `at` on may be written.
#[inline(always)]
unsafe fn put_literal(at: *mut u8, literal: &Literal) -> *mut u8 {
    // SAFETY: 32 bytes may be written, and a literal is at most that long.
    unsafe {
        at.cast::<[u8; 16]>().write_unaligned(literal.halves[0]);
        if literal.len > 16 {
            at.add(16).cast::<[u8; 16]>().write_unaligned(literal.halves[1]);
        }
        at.add(literal.len)
    }
}

/// # Safety
/// Eight bytes from `at` on may be written.
#[inline(always)]
unsafe fn put_8_digits(at: *mut u8, number: u32) {
    let (high, low) = (number / 10_000, number % 10_000);
    let pairs = [high / 100, high % 100, low / 100, low % 100];
    for (index, pair) in pairs.into_iter().enumerate() {
        // SAFETY: four pairs are eight bytes.
        unsafe { at.add(2 * index).cast::<[u8; 2]>().write_unaligned(DECIMAL[pair as usize]) };
    }
}

/// # Safety
/// Four bytes from `at` on may be written; `number` is below 10,000.
#[inline(always)]
unsafe fn put_up_to_4_digits(at: *mut u8, number: u32) -> *mut u8 {
    let [thousands, hundreds] = DECIMAL[(number / 100) as usize];
    let [tens, ones] = DECIMAL[(number % 100) as usize];
    let digits = u32::from_le_bytes([thousands, hundreds, tens, ones]);
    let leading = if number < 10 {
        3
    } else if number < 100 {
        2
    } else if number < 1_000 {
        1
    } else {
        0
    };
    // SAFETY: four bytes may be written.
    unsafe {
        at.cast::<[u8; 4]>().write_unaligned((digits >> (8 * leading)).to_le_bytes());
        at.add(4 - leading)
    }
}

// === tables ===

const fn hex_pairs() -> [[u8; 2]; 256] {
    let digits = b"0123456789abcdef";
    let mut pairs = [[0; 2]; 256];
    let mut byte = 0;
    while byte < 256 {
        pairs[byte] = [digits[byte >> 4], digits[byte & 15]];
        byte += 1;
    }
    pairs
}

const fn decimal_pairs() -> [[u8; 2]; 100] {
    let mut pairs = [[0; 2]; 100];
    let mut number = 0;
    while number < 100 {
        pairs[number] = [b'0' + (number / 10) as u8, b'0' + (number % 10) as u8];
        number += 1;
    }
    pairs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(write: impl FnOnce(&mut JsonWriter)) -> String {
        let mut writer = JsonWriter::default();
        write(&mut writer);
        String::from_utf8(writer.into_bytes()).expect("UTF-8")
    }

    /// Scenario: strings of every length up to 100 with a byte of every value at every place; half of them
    /// are not UTF-8.
    /// Guarantees: each is one JSON string that reads as the text it was, with U+FFFD for what is not UTF-8.
    #[test]
    fn a_string_reads_as_it_was_wherever_the_special_byte_stands() {
        for len in (1..34).chain([63, 64, 65, 100]) {
            for at in 0..len {
                for special in 0..=255 {
                    let mut text = vec![b'x'; len];
                    text[at] = special;
                    let json = written(|json| json.string(&text));
                    let read: String = serde_json::from_str(&json).expect("JSON");
                    assert_eq!(read, String::from_utf8_lossy(&text));
                }
            }
        }
    }

    /// Scenario: writers with a limit are given text that grows past it, in one string and in many, by each way to write.
    /// Guarantees: they say so from then on, and never hold more than the limit and what came last.
    #[test]
    fn text_past_the_limit_is_thrown_away() {
        const LIMIT: usize = 10_000;
        type Write = fn(&mut JsonWriter, &[u8]);
        let ways: [(&str, Write); 7] = [
            ("string", |json, text| json.string(text)),
            ("member", |json, text| json.member(b"key", text)),
            ("key", |json, text| json.member_number(text, -1)),
            ("inner", |json, text| json.inner_string(text)),
            ("raw", |json, text| json.raw(text)),
            ("base64", |json, text| json.base64(text)),
            ("float", |json, _| json.float(-f64::MIN_POSITIVE)),
        ];
        for (name, write) in ways {
            for text in [&b"abc"[..], &b"\x01".repeat(50), &b"a\xff".repeat(50), &[b'x'; 1000]] {
                let mut json = JsonWriter::default().limited(LIMIT);
                let (mut before, mut writes) = (0, 0);
                while !json.overflowed() {
                    before = json.len();
                    write(&mut json, text);
                    writes += 1;
                    assert!(writes < 2 * LIMIT, "{name} grows without end");
                }
                assert!(before > LIMIT / 2, "{name} was thrown away at {before} bytes");
                (0..1000).for_each(|_| write(&mut json, text));
                assert!(json.overflowed() && json.out.capacity() <= LIMIT + 4 * SLACK, "{name}");
            }
        }
        let mut json = JsonWriter::default().limited(LIMIT);
        json.string(&[1; LIMIT / 2]);
        assert!(json.overflowed());
    }

    /// Scenario: random bytes, biased towards what must be escaped, as keys, values, inner strings and plain
    /// text.
    /// Guarantees: the whole is JSON and reads as what it was.
    #[test]
    fn random_members_read_as_they_were() {
        let seed = fastrand::u64(..);
        println!("seed {seed}");
        let mut random = fastrand::Rng::with_seed(seed);
        for _ in 0..20_000 {
            let mut bytes = || -> Vec<u8> {
                let alphabet = b"abcdefgh 0123456789\"\\\n\x01\xc3\xa4\xf0\x9f\x98\x80\xff";
                (0..random.usize(0..50)).map(|_| alphabet[random.usize(..alphabet.len())]).collect()
            };
            let (key, value, inner) = (bytes(), bytes(), bytes());
            let json = written(|json| {
                json.raw(b"{");
                json.member(&key, &value);
                json.raw(b"\"inner\":\"");
                json.inner_string(&inner);
                json.raw(b"\",\"text\":\"");
                json.text(&value);
                json.raw(b"\"}");
            });
            let read: serde_json::Value = serde_json::from_str(&json).expect("JSON");
            if key != b"inner" && key != b"text" {
                assert_eq!(read[&*String::from_utf8_lossy(&key)], *String::from_utf8_lossy(&value));
            }
            let once: String =
                serde_json::from_str(read["inner"].as_str().expect("a string")).expect("JSON inside of JSON");
            assert_eq!(once, String::from_utf8_lossy(&inner));
            assert_eq!(read["text"], *String::from_utf8_lossy(&value));
        }
    }

    /// Scenario: numbers of every width and at the borders of the path for sixteen digits.
    /// Guarantees: the digits of the number.
    #[test]
    fn numbers_are_spelled_whatever_their_width() {
        let mut numbers: Vec<u64> = (0..20)
            .flat_map(|power| {
                let ten = 10u64.pow(power);
                [ten - 1, ten, ten + 1, ten.saturating_mul(9)]
            })
            .collect();
        numbers.extend([u64::MAX, 1_795_287_756_019_146, 999_999_999_999_999, 9_999_999_999_999_999]);
        for number in numbers {
            assert_eq!(written(|json| json.unsigned(number)), number.to_string());
        }
        for number in [0, -1, i64::MIN, i64::MAX, -1_795_287_756_019_146] {
            assert_eq!(written(|json| json.signed(number)), number.to_string());
        }
    }

    /// Scenario: numbers as members, under keys that need escapes and keys that do not.
    /// Guarantees: the digits of the number, in a string.
    #[test]
    fn a_number_member_is_its_digits_in_a_string() {
        for number in [0, 7, 10, 99, 100, 404, 999, 1_000, 9_999, 10_000, -1, i64::MIN, i64::MAX] {
            assert_eq!(written(|json| json.member_number(b"k", number)), format!("\"k\":\"{number}\","));
            assert_eq!(written(|json| json.member_number(b"\"", number)), format!("\"\\\"\":\"{number}\","));
        }
    }

    /// Scenario: floating point numbers, round and not, large and small.
    /// Guarantees: JSON that reads as the same number; what is no JSON has OTLP's names.
    #[test]
    fn floats_are_json_numbers() {
        for number in [0.0, -0.0, 1.0, 0.5, -1.25e-7, 1e21, f64::MAX, f64::MIN_POSITIVE, 0.1 + 0.2] {
            let json = written(|json| json.float(number));
            let read: f64 = serde_json::from_str(&json).expect("a JSON number");
            assert_eq!(read.to_bits(), number.to_bits(), "{json}");
        }
        assert_eq!(written(|json| json.float(f64::NAN)), "NaN");
        assert_eq!(written(|json| json.float(f64::INFINITY)), "Infinity");
        assert_eq!(written(|json| json.float(f64::NEG_INFINITY)), "-Infinity");
    }

    /// Scenario: RFC 4648's examples; an id; literals of zero, 16, 17 and 32 bytes; texts around the length
    /// of one long copy.
    /// Guarantees: each byte arrives.
    #[test]
    fn the_rest_is_spelled_as_it_should() {
        for (bytes, text) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg==")]
        {
            assert_eq!(written(|json| json.base64(bytes.as_bytes())), text);
        }
        assert_eq!(written(|json| json.hex(&[0x00, 0x1f, 0xab, 0xff])), "001fabff");
        for text in ["", "0123456789abcdef", "0123456789abcdefg", "0123456789abcdef0123456789abcdef"] {
            assert_eq!(written(|json| json.literal(&Literal::new(text))), text);
        }
        for len in [511, 512, 513] {
            assert_eq!(written(|json| json.raw(&vec![b'r'; len])).len(), len);
        }
    }

    /// Scenario: ten thousand operations on a buffer that began without room.
    /// Guarantees: growth in the middle of anything loses nothing.
    #[test]
    fn a_buffer_without_room_grows() {
        let json = written(|json| {
            json.raw(b"[");
            for number in 0..10_000u64 {
                json.unsigned(number << 40);
                json.literal(&Literal::new(","));
                json.string(format!("{number:064}").as_bytes());
                json.literal(&Literal::new(","));
            }
            json.trim_comma();
            json.raw(b"]");
        });
        let read: Vec<serde_json::Value> = serde_json::from_str(&json).expect("JSON");
        assert_eq!(read.len(), 20_000);
        assert_eq!(read[19_999], format!("{:064}", 9_999));
    }
}
