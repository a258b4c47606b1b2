//! JSON, pulled token by token.
//!
//! The lexer checks the whole grammar: commas, colons, nesting, escapes, UTF-8, numbers, nothing behind the
//! value. It never recurses and never allocates; a consumer that recurses is safe, because nesting has a
//! bound.
//!
//! Two ways to pull: [`Lexer::next`] gives every token; [`Lexer::key`] and [`Lexer::element`] suit code that
//! knows the shape:
//!
//! ```ignore
//! lexer.begin_array()?;
//! while lexer.element()? {
//!     lexer.begin_object()?;
//!     while let Some(key) = lexer.key()? {
//!         match key.raw() {
//!             b"name" => name = lexer.text()?,
//!             _ => lexer.skip()?,
//!         }
//!     }
//! }
//! lexer.end()?;
//! ```

use std::borrow::Cow;

use super::number::Number;
use super::{JsonError, word};

/// How deep objects and arrays may be nested: one bit each of a machine word, and more than
/// [`super::MESSAGES_DEPTH_MAX`] messages take at their most wasteful (three levels for two messages).
pub const NESTING_MAX: u32 = u128::BITS;

/// A piece of JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token<'a> {
    /// `{`
    ObjectStart,
    /// `}`
    ObjectEnd,
    /// `[`
    ArrayStart,
    /// `]`
    ArrayEnd,
    /// A key of an object, with its colon.
    Key(Text<'a>),
    /// A string.
    String(Text<'a>),
    /// A number.
    Number(Number<'a>),
    /// `true` or `false`
    Bool(bool),
    /// `null`
    Null,
    /// Nothing but white space is left.
    End,
}

/// A string as it stands between its quotes: valid UTF-8 with valid escapes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Text<'a> {
    raw: &'a [u8],
    escaped: bool,
}

/// Pulls tokens from a text.
#[derive(Clone, Debug)]
pub struct Lexer<'a> {
    text: &'a [u8],
    at: usize,
    /// Where the last token begins, for errors about it.
    token_at: usize,
    /// Open containers, the innermost in the lowest bit; 1 is an object.
    open: u128,
    depth: u32,
    expect: Expect,
}

/// What may come next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expect {
    /// A value.
    Value,
    /// The first member of a container, or its end.
    First,
    /// A comma and a further member, or the end of the container.
    Further,
    /// The end of the text.
    End,
}

impl<'a> Lexer<'a> {
    /// Starts at the beginning of `text`, which should hold one value.
    #[must_use]
    pub const fn new(text: &'a [u8]) -> Self {
        Self { text, at: 0, token_at: 0, open: 0, depth: 0, expect: Expect::Value }
    }

    /// Byte offset behind the last token.
    #[must_use]
    pub const fn at(&self) -> usize {
        self.at
    }

    /// How many containers are open.
    #[must_use]
    pub const fn depth(&self) -> u32 {
        self.depth
    }

    /// An error about the last token, for a consumer that expected something else.
    #[must_use]
    #[cold]
    pub fn error(&self, what: &'static str) -> JsonError {
        JsonError::new(self.text, self.token_at, what)
    }

    /// An error of the grammar at the current place.
    #[cold]
    fn broken(&self, what: &'static str) -> JsonError {
        JsonError::new(self.text, self.at, what)
    }

    /// The next token; [`Token::End`] again and again at the end.
    ///
    /// # Errors
    /// [`JsonError`] where the text is no JSON or is nested too deep.
    #[inline]
    #[expect(clippy::should_implement_trait, reason = "an iterator of results can't be asked with `?`")]
    pub fn next(&mut self) -> Result<Token<'a>, JsonError> {
        match self.expect {
            Expect::Value => self.value(),
            Expect::First | Expect::Further => {
                if self.closes()? {
                    return Ok(self.close());
                }
                if self.in_object() { self.member_key().map(Token::Key) } else { self.value() }
            }
            Expect::End => {
                self.skip_white();
                if self.at == self.text.len() {
                    Ok(Token::End)
                } else {
                    Err(self.broken("something stands behind the value"))
                }
            }
        }
    }

    // === pulling by shape ===

    /// Takes the `{` of an object.
    ///
    /// # Errors
    /// [`JsonError`] where something else comes.
    pub fn begin_object(&mut self) -> Result<(), JsonError> {
        match self.next()? {
            Token::ObjectStart => Ok(()),
            _ => Err(self.error("expected an object")),
        }
    }

    /// Takes the `[` of an array.
    ///
    /// # Errors
    /// [`JsonError`] where something else comes.
    pub fn begin_array(&mut self) -> Result<(), JsonError> {
        match self.next()? {
            Token::ArrayStart => Ok(()),
            _ => Err(self.error("expected an array")),
        }
    }

    /// In an object, between members: the next key, or nothing and the object is closed.
    ///
    /// # Errors
    /// [`JsonError`] where the text is no JSON.
    #[inline]
    pub fn key(&mut self) -> Result<Option<Text<'a>>, JsonError> {
        match self.next()? {
            Token::Key(key) => Ok(Some(key)),
            Token::ObjectEnd => Ok(None),
            _ => Err(self.error("expected a key")),
        }
    }

    /// In an array, between elements: whether another comes. If not, the array is closed.
    ///
    /// # Errors
    /// [`JsonError`] where the text is no JSON.
    #[inline]
    pub fn element(&mut self) -> Result<bool, JsonError> {
        if !matches!(self.expect, Expect::First | Expect::Further) || self.in_object() {
            return Err(self.error("expected an array's element"));
        }
        if self.closes()? {
            self.close();
            return Ok(false);
        }
        self.expect = Expect::Value;
        Ok(true)
    }

    /// Takes a string.
    ///
    /// # Errors
    /// [`JsonError`] where something else comes.
    #[inline]
    pub fn text(&mut self) -> Result<Text<'a>, JsonError> {
        match self.next()? {
            Token::String(text) => Ok(text),
            _ => Err(self.error("expected a string")),
        }
    }

    /// Takes one value, whatever it is, and forgets it.
    ///
    /// # Errors
    /// [`JsonError`] where the text is no JSON.
    pub fn skip(&mut self) -> Result<(), JsonError> {
        let depth = self.depth;
        self.next()?;
        while self.depth > depth {
            self.next()?;
        }
        Ok(())
    }

    /// Checks that nothing but white space is left.
    ///
    /// # Errors
    /// [`JsonError`] where something is.
    pub fn end(&mut self) -> Result<(), JsonError> {
        match self.next()? {
            Token::End => Ok(()),
            _ => Err(self.error("something stands behind the value")),
        }
    }

    // === the grammar ===

    #[inline]
    const fn in_object(&self) -> bool {
        self.open & 1 == 1
    }

    #[inline]
    fn skip_white(&mut self) {
        while let Some(b' ' | b'\n' | b'\t' | b'\r') = self.text.get(self.at) {
            self.at += 1;
        }
    }

    /// Whether the innermost container ends here. If not, the comma between members has been taken.
    #[inline]
    fn closes(&mut self) -> Result<bool, JsonError> {
        self.skip_white();
        let end = if self.in_object() { b'}' } else { b']' };
        match self.text.get(self.at) {
            Some(byte) if *byte == end => {
                self.token_at = self.at;
                self.at += 1;
                Ok(true)
            }
            Some(b',') if self.expect == Expect::Further => {
                self.at += 1;
                Ok(false)
            }
            Some(_) if self.expect == Expect::First => Ok(false),
            Some(_) => Err(self.broken("expected a comma or the end of the object or array")),
            None => Err(self.broken("the text ends too early")),
        }
    }

    fn close(&mut self) -> Token<'a> {
        let token = if self.in_object() { Token::ObjectEnd } else { Token::ArrayEnd };
        self.open >>= 1;
        self.depth -= 1;
        self.value_done();
        token
    }

    #[inline]
    const fn value_done(&mut self) {
        self.expect = if self.depth == 0 { Expect::End } else { Expect::Further };
    }

    #[inline]
    fn member_key(&mut self) -> Result<Text<'a>, JsonError> {
        self.skip_white();
        if self.text.get(self.at) != Some(&b'"') {
            return Err(self.broken("expected a key in quotes"));
        }
        self.token_at = self.at;
        let key = self.string()?;
        self.skip_white();
        if self.text.get(self.at) != Some(&b':') {
            return Err(self.broken("expected a colon behind the key"));
        }
        self.at += 1;
        self.expect = Expect::Value;
        Ok(key)
    }

    #[inline]
    fn value(&mut self) -> Result<Token<'a>, JsonError> {
        self.skip_white();
        self.token_at = self.at;
        let token = match self.text.get(self.at) {
            Some(b'"') => Token::String(self.string()?),
            Some(b'{') => return self.open_container(true),
            Some(b'[') => return self.open_container(false),
            Some(b'-' | b'0'..=b'9') => {
                let Some(number) = Number::prefix(&self.text[self.at..]) else {
                    return Err(self.broken("expected a number"));
                };
                self.at += number.text().len();
                Token::Number(number)
            }
            Some(_) => self.literal()?,
            None => return Err(self.broken("the text ends too early")),
        };
        self.value_done();
        Ok(token)
    }

    #[inline]
    fn open_container(&mut self, object: bool) -> Result<Token<'a>, JsonError> {
        if self.depth == NESTING_MAX {
            return Err(self.broken("objects and arrays are nested deeper than 128"));
        }
        self.at += 1;
        self.open = self.open << 1 | u128::from(object);
        self.depth += 1;
        self.expect = Expect::First;
        Ok(if object { Token::ObjectStart } else { Token::ArrayStart })
    }

    fn literal(&mut self) -> Result<Token<'a>, JsonError> {
        let rest = &self.text[self.at..];
        for (literal, token) in
            [("true", Token::Bool(true)), ("false", Token::Bool(false)), ("null", Token::Null)]
        {
            if rest.starts_with(literal.as_bytes()) {
                self.at += literal.len();
                return Ok(token);
            }
        }
        Err(self.broken("expected a value"))
    }

    /// Reads the string that begins at the quote.
    #[inline]
    fn string(&mut self) -> Result<Text<'a>, JsonError> {
        let start = self.at + 1;
        let mut at = start;
        let mut escaped = false;
        let mut non_ascii = 0;
        loop {
            while let Some(chunk) = self.text.get(at..).and_then(|rest| rest.first_chunk::<8>()) {
                let chunk = u64::from_le_bytes(*chunk);
                let special = word::special(chunk);
                if special != 0 {
                    at += word::plain(special);
                    // What stands before the special byte counts; its own high bit is never set.
                    non_ascii |= word::non_ascii(chunk) & (special & special.wrapping_neg()).wrapping_sub(1);
                    break;
                }
                non_ascii |= word::non_ascii(chunk);
                at += 8;
            }
            match self.text.get(at) {
                Some(b'"') => break,
                Some(b'\\') => {
                    escaped = true;
                    at = self.escape(at)?;
                }
                Some(0..0x20) => {
                    self.at = at;
                    return Err(self.broken("a control character stands in a string"));
                }
                Some(byte) => {
                    non_ascii |= u64::from(byte & 0x80);
                    at += 1;
                }
                None => {
                    self.at = at;
                    return Err(self.broken("a string does not end"));
                }
            }
        }
        let raw = &self.text[start..at];
        if non_ascii != 0
            && let Err(error) = core::str::from_utf8(raw)
        {
            self.at = start + error.valid_up_to();
            return Err(self.broken("a string is not UTF-8"));
        }
        self.at = at + 1;
        Ok(Text { raw, escaped })
    }

    /// The offset behind the escape that begins at `at`.
    fn escape(&mut self, at: usize) -> Result<usize, JsonError> {
        match self.text.get(at + 1) {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => Ok(at + 2),
            Some(b'u') if hex4(self.text.get(at + 2..).unwrap_or_default()).is_some() => Ok(at + 6),
            _ => {
                self.at = at;
                Err(self.broken("a backslash begins no escape"))
            }
        }
    }
}

// === impl Text ===

impl<'a> Text<'a> {
    /// As it stands between the quotes. Enough for comparing with keys that need no escape.
    #[must_use]
    pub const fn raw(self) -> &'a [u8] {
        self.raw
    }

    /// The text itself, UTF-8. Half a surrogate pair, which `JSON.stringify` writes for a string that was cut
    /// within a character, becomes U+FFFD.
    #[must_use]
    pub fn bytes(self) -> Cow<'a, [u8]> {
        if self.escaped {
            let mut out = Vec::with_capacity(self.raw.len());
            self.unescape(&mut out);
            Cow::Owned(out)
        } else {
            Cow::Borrowed(self.raw)
        }
    }

    /// The same as a `str`.
    #[must_use]
    pub fn to_str(self) -> Cow<'a, str> {
        match self.bytes() {
            // Lossless: the lexer and the escapes give UTF-8 only.
            Cow::Borrowed(bytes) => String::from_utf8_lossy(bytes),
            Cow::Owned(bytes) => Cow::Owned(String::from_utf8_lossy(&bytes).into_owned()),
        }
    }

    /// Whether it is empty.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.raw.is_empty()
    }

    /// Appends the text to `out`, never more bytes than [`Text::raw`] has.
    #[inline]
    pub fn append_to(self, out: &mut Vec<u8>) {
        if self.escaped {
            self.unescape(out);
        } else {
            out.extend_from_slice(self.raw);
        }
    }

    fn unescape(self, out: &mut Vec<u8>) {
        let mut rest = self.raw;
        while let Some(at) = rest.iter().position(|byte| *byte == b'\\') {
            out.extend_from_slice(&rest[..at]);
            // The lexer has seen to it that an escape is whole.
            let (character, length) = unescape_one(&rest[at..]);
            out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
            rest = rest.get(at + length..).unwrap_or_default();
        }
        out.extend_from_slice(rest);
    }
}

/// The character of the escape at the start of `text` and how many bytes it takes there.
fn unescape_one(text: &[u8]) -> (char, usize) {
    let character = match text.get(1) {
        Some(b'b') => '\u{8}',
        Some(b'f') => '\u{c}',
        Some(b'n') => '\n',
        Some(b'r') => '\r',
        Some(b't') => '\t',
        Some(b'u') => {
            let high = text.get(2..).and_then(hex4).unwrap_or(0xfffd);
            if (0xd800..0xdc00).contains(&high)
                && let Some([b'\\', b'u', low @ ..]) = text.get(6..)
                && let Some(low @ 0xdc00..0xe000) = hex4(low)
            {
                let code = 0x1_0000 + ((high - 0xd800) << 10) + (low - 0xdc00);
                return (char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER), 12);
            }
            return (char::from_u32(high).unwrap_or(char::REPLACEMENT_CHARACTER), 6);
        }
        Some(byte) => char::from(*byte),
        None => char::REPLACEMENT_CHARACTER,
    };
    (character, 2)
}

/// The number that the first four bytes spell in hex.
fn hex4(text: &[u8]) -> Option<u32> {
    text.first_chunk::<4>()?
        .iter()
        .try_fold(0, |value, digit| Some(value << 4 | char::from(*digit).to_digit(16)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fmt::Write as _;

    /// One line of tokens, or the error.
    fn lex(text: impl AsRef<[u8]>) -> String {
        let mut lexer = Lexer::new(text.as_ref());
        let mut line = String::new();
        loop {
            let token = match lexer.next() {
                Ok(token) => token,
                Err(error) => {
                    write!(line, "! {error}").expect("a string takes everything");
                    return line;
                }
            };
            match token {
                Token::ObjectStart => line.push('{'),
                Token::ObjectEnd => line.push('}'),
                Token::ArrayStart => line.push('['),
                Token::ArrayEnd => line.push(']'),
                Token::Key(key) => line.push_str(&format!("{:?}:", key.to_str())),
                Token::String(text) => line.push_str(&format!("{:?}", text.to_str())),
                Token::Number(number) => line.push_str(&String::from_utf8_lossy(number.text())),
                Token::Bool(value) => line.push_str(&value.to_string()),
                Token::Null => line.push_str("null"),
                Token::End => return line,
            }
            line.push(' ');
        }
    }

    /// Scenario: every kind of value, nested, with all kinds of white space.
    /// Guarantees: each token comes once, in order.
    #[test]
    fn every_kind_of_value_is_a_token() {
        assert_eq!(
            lex(" {\"a\" : [ 1 ,\n-2.5e3,\ttrue,false,null,\"x\",{},[] ],\r\"b\":{\"c\":\"\"}} "),
            r#"{ "a": [ 1 -2.5e3 true false null "x" { } [ ] ] "b": { "c": "" } } "#
        );
        assert_eq!(lex("7"), "7 ");
    }

    /// Scenario: escapes of all kinds, a pair of surrogates, halves of one in every position, text beyond
    /// ASCII.
    /// Guarantees: the text is what JSON means; half a pair is U+FFFD and takes nothing else with it.
    #[test]
    fn escapes_mean_what_json_says() {
        assert_eq!(lex(r#""\"\\\/\b\f\n\r\t\u0041\u00e9\u20ac""#), "\"\\\"\\\\/\\u{8}\\u{c}\\n\\r\\tAé€\" ");
        assert_eq!(lex(r#""\ud83d\ude00 und 😀""#), "\"😀 und 😀\" ");
        for (raw, text) in [
            (r"\ud83d", "\u{fffd}"),
            (r"\ud83dx", "\u{fffd}x"),
            (r"\ude00\ud83d", "\u{fffd}\u{fffd}"),
            (r"\ud83d\u0041", "\u{fffd}A"),
            (r"\ud83d\n", "\u{fffd}\n"),
            (r"\ud83d\ud83d\ude00", "\u{fffd}😀"),
        ] {
            assert_eq!(lex(format!("\"{raw}\"")), format!("{text:?} "));
        }
    }

    /// Scenario: texts that are nearly JSON.
    /// Guarantees: each is refused where it goes wrong, with line and column.
    #[test]
    fn what_is_nearly_json_is_refused_at_its_place() {
        for (text, error) in [
            ("", "! line 1, column 1: the text ends too early"),
            ("{", "{ ! line 1, column 2: the text ends too early"),
            ("[1,]", "[ 1 ! line 1, column 4: expected a value"),
            ("[,1]", "[ ! line 1, column 2: expected a value"),
            ("[1 2]", "[ 1 ! line 1, column 4: expected a comma or the end of the object or array"),
            ("{\"a\" 1}", "{ ! line 1, column 6: expected a colon behind the key"),
            ("{a:1}", "{ ! line 1, column 2: expected a key in quotes"),
            ("{\"a\":1,}", "{ \"a\": 1 ! line 1, column 8: expected a key in quotes"),
            (
                "{\"a\":1]",
                "{ \"a\": 1 ! line 1, column 7: expected a comma or the end of the object or array",
            ),
            ("{}\n{}", "{ } ! line 2, column 1: something stands behind the value"),
            ("nul", "! line 1, column 1: expected a value"),
            ("[01]", "[ 0 ! line 1, column 3: expected a comma or the end of the object or array"),
            ("-", "! line 1, column 1: expected a number"),
            ("\"abc", "! line 1, column 5: a string does not end"),
            ("\"abc\n\"", "! line 1, column 5: a control character stands in a string"),
            (r#""\x""#, "! line 1, column 2: a backslash begins no escape"),
            (r#""\u12g4""#, "! line 1, column 2: a backslash begins no escape"),
            (r#""\u123"#, "! line 1, column 2: a backslash begins no escape"),
            ("\u{feff}{}", "! line 1, column 1: expected a value"),
        ] {
            assert_eq!(lex(text), error, "{text}");
        }
        assert_eq!(lex(b"\"abcdefgh\xff\""), "! line 1, column 10: a string is not UTF-8");
        assert_eq!(lex(b"\"abc\xc3\\n\""), "! line 1, column 5: a string is not UTF-8");
    }

    /// Scenario: nesting to the bound and one beyond.
    /// Guarantees: the bound holds, and what is within is read to its end.
    #[test]
    fn nesting_has_a_bound() {
        let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        assert!(!lex(nested(128)).contains('!'));
        assert!(
            lex(nested(129)).contains("! line 1, column 129: objects and arrays are nested deeper than 128")
        );
    }

    /// Scenario: an object pulled by shape, with a member that is of no interest.
    /// Guarantees: keys, elements and skipping leave the lexer where the next one begins.
    #[test]
    fn a_known_shape_is_pulled_by_shape() {
        let mut lexer = Lexer::new(br#"[{"a":[{"b":[]},2],"c":"x"},{}]"#);
        let mut seen = Vec::new();
        lexer.begin_array().expect("an array");
        while lexer.element().expect("an element") {
            lexer.begin_object().expect("an object");
            while let Some(key) = lexer.key().expect("a key") {
                match key.raw() {
                    b"c" => seen.push(lexer.text().expect("a string").to_str().into_owned()),
                    _ => lexer.skip().expect("a value"),
                }
            }
            seen.push("end".to_owned());
        }
        lexer.end().expect("the end");
        assert_eq!(seen, ["x", "end", "end"]);
    }
}
