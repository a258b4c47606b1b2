//! JSON, pulled by code that knows the shape, made for the sandbox.
//!
//! `wire`'s lexer is the grammar; this reader takes the short ways through it (strings without escapes, plain
//! whole numbers, compact punctuation) and calls the lexer for everything else. Its errors are one bit, so
//! that nothing large is returned from call to call: what was wrong is asked for afterwards.
//!
//! ```ignore
//! scanner.begin_list()?;
//! while scanner.element()? {
//!     scanner.begin_object()?;
//!     while let Some(key) = scanner.key()? {
//!         match &*key {
//!             b"name" => name = scanner.string()?,
//!             _ => scanner.skip()?,
//!         }
//!     }
//! }
//! scanner.end()?;
//! ```

use std::borrow::Cow;

use weir_wire::json::{JsonError, Lexer};

/// Reading has come to an end; [`Scanner::error`] says why, or the caller knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stop;

/// What the next value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// `{`
    Object,
    /// `[`
    List,
    /// A string.
    String,
    /// A number.
    Number,
    /// `true` or `false`
    Bool,
    /// `null`
    Null,
}

/// Digits that surely fit a `u64`, and an `i64` too.
const SHORT_DIGITS: usize = 18;

/// Pulls values from a text.
#[derive(Clone, Debug)]
pub struct Scanner<'a> {
    text: &'a [u8],
    at: usize,
    /// Where the last value or key begins.
    value_at: usize,
    /// Whether the object or list at hand has just begun.
    fresh: bool,
    error: Option<JsonError>,
}

impl<'a> Scanner<'a> {
    /// Starts at the beginning of `text`, which should hold one value.
    #[must_use]
    pub const fn new(text: &'a [u8]) -> Self {
        Self { text, at: 0, value_at: 0, fresh: false, error: None }
    }

    /// Why the grammar was not kept, after a [`Stop`]; nothing, if it was.
    #[must_use]
    pub const fn error(&self) -> Option<JsonError> {
        self.error
    }

    /// Where the last value or key stands.
    #[must_use]
    pub fn place(&self) -> JsonError {
        JsonError::new(self.text, self.value_at, "")
    }

    // === objects and lists ===

    /// Takes a `{`.
    ///
    /// # Errors
    /// [`Stop`] where something else comes.
    #[inline]
    pub fn begin_object(&mut self) -> Result<(), Stop> {
        self.begin(b'{', "expected an object")
    }

    /// Takes a `[`.
    ///
    /// # Errors
    /// [`Stop`] where something else comes.
    #[inline]
    pub fn begin_list(&mut self) -> Result<(), Stop> {
        self.begin(b'[', "expected an array")
    }

    #[inline]
    fn begin(&mut self, bracket: u8, expected: &'static str) -> Result<(), Stop> {
        if self.peek() != bracket {
            return Err(self.broken(expected));
        }
        self.value_at = self.at;
        self.at += 1;
        self.fresh = true;
        Ok(())
    }

    /// In an object, between members: the next key, unescaped; nothing at the end, which is taken.
    ///
    /// # Errors
    /// [`Stop`] where the text is no JSON.
    #[inline]
    pub fn key(&mut self) -> Result<Option<Cow<'a, [u8]>>, Stop> {
        if !self.comes(b'}')? {
            return Ok(None);
        }
        if self.peek() != b'"' {
            return Err(self.broken("expected a key in quotes"));
        }
        let key = self.quoted()?;
        if self.peek() != b':' {
            return Err(self.broken("expected a colon behind the key"));
        }
        self.at += 1;
        Ok(Some(key))
    }

    /// In a list, between elements: whether another comes. If not, the end is taken.
    ///
    /// # Errors
    /// [`Stop`] where the text is no JSON.
    #[inline]
    pub fn element(&mut self) -> Result<bool, Stop> {
        self.comes(b']')
    }

    /// Whether another member comes before the bracket; takes the comma before it, or the bracket.
    #[inline]
    fn comes(&mut self, bracket: u8) -> Result<bool, Stop> {
        let next = self.peek();
        if next == bracket {
            self.at += 1;
            self.fresh = false;
            return Ok(false);
        }
        if self.fresh {
            self.fresh = false;
            return Ok(true);
        }
        if next != b',' {
            return Err(self.broken("expected a comma or the end of the object or array"));
        }
        self.at += 1;
        Ok(true)
    }

    /// Checks that nothing but white space is left.
    ///
    /// # Errors
    /// [`Stop`] where something is.
    pub fn end(&mut self) -> Result<(), Stop> {
        match self.peek() {
            0 if self.at == self.text.len() => Ok(()),
            _ => Err(self.broken("something stands behind the value")),
        }
    }

    // === values ===

    /// What the next value is. It is not taken.
    ///
    /// # Errors
    /// [`Stop`] where no value comes.
    #[inline]
    pub fn upcoming(&mut self) -> Result<Next, Stop> {
        let next = self.peek();
        self.value_at = self.at;
        Ok(match next {
            b'"' => Next::String,
            b'-' | b'0'..=b'9' => Next::Number,
            b'{' => Next::Object,
            b'[' => Next::List,
            b't' | b'f' => Next::Bool,
            b'n' => Next::Null,
            _ => return Err(self.broken("expected a value")),
        })
    }

    /// Takes a string, unescaped.
    ///
    /// # Errors
    /// [`Stop`] where something else comes.
    #[inline]
    pub fn string(&mut self) -> Result<Cow<'a, [u8]>, Stop> {
        if self.peek() != b'"' {
            return Err(self.broken("expected a string"));
        }
        self.quoted()
    }

    /// Takes a number, as it stands.
    ///
    /// # Errors
    /// [`Stop`] where something else comes.
    pub fn number(&mut self) -> Result<&'a [u8], Stop> {
        self.by_lexer()
    }

    /// Takes a number that is plain: digits alone, at most 18 of them, no leading zero. Leaves everything
    /// else, numbers of other forms too, where it is.
    #[inline]
    pub fn plain_number(&mut self) -> Option<u64> {
        self.peek();
        let rest = &self.text[self.at..];
        let (mut number, mut len) = (0u64, 0);
        while let Some(eight) =
            rest.get(len..).and_then(|rest| rest.first_chunk::<8>()).and_then(eight_digits)
            && len < 16
        {
            number = number * 100_000_000 + u64::from(eight);
            len += 8;
        }
        while let Some(digit @ b'0'..=b'9') = rest.get(len)
            && len < SHORT_DIGITS
        {
            number = number * 10 + u64::from(digit - b'0');
            len += 1;
        }
        let is_plain = match rest.first() {
            Some(b'1'..=b'9') => true,
            Some(b'0') => len == 1,
            Some(_) | None => false,
        };
        if !is_plain || matches!(rest.get(len), Some(b'.' | b'e' | b'E' | b'0'..=b'9')) {
            return None;
        }
        self.value_at = self.at;
        self.at += len;
        Some(number)
    }

    /// Takes `true` or `false`.
    ///
    /// # Errors
    /// [`Stop`] where something else comes.
    pub fn bool(&mut self) -> Result<bool, Stop> {
        Ok(self.by_lexer()? == b"true")
    }

    /// Takes a value, whatever it is, and forgets it.
    ///
    /// # Errors
    /// [`Stop`] where the text is no JSON.
    pub fn skip(&mut self) -> Result<(), Stop> {
        self.by_lexer().map(drop)
    }

    /// Takes a value by `wire`'s lexer; gives its text.
    fn by_lexer(&mut self) -> Result<&'a [u8], Stop> {
        self.peek();
        self.value_at = self.at;
        let rest = &self.text[self.at..];
        let mut lexer = Lexer::new(rest);
        match lexer.skip() {
            Ok(()) => {
                self.at += lexer.at();
                Ok(&rest[..lexer.at()])
            }
            Err(error) => {
                let at = self.at + lexer.at();
                self.error = Some(JsonError::new(self.text, at, error.what));
                Err(Stop)
            }
        }
    }

    /// The string that begins at the quote at hand.
    #[inline]
    fn quoted(&mut self) -> Result<Cow<'a, [u8]>, Stop> {
        self.value_at = self.at;
        let start = self.at + 1;
        let rest = &self.text[start..];
        let mut len = 0;
        // Eight bytes at a time to the first that is not plain: a quote, as a rule.
        while let Some(eight) = rest.get(len..).and_then(|rest| rest.first_chunk::<8>()) {
            let special = special(u64::from_le_bytes(*eight));
            if special != 0 {
                len += (special.trailing_zeros() / 8) as usize;
                break;
            }
            len += 8;
        }
        while let Some(byte) = rest.get(len) {
            match byte {
                b'"' => {
                    self.at = start + len + 1;
                    return Ok(Cow::Borrowed(&rest[..len]));
                }
                b' '..=b'!' | b'#'..=b'[' | b']'..=0x7f => len += 1,
                _ => break,
            }
        }
        self.quoted_by_lexer()
    }

    /// A string with escapes or beyond ASCII, or a broken one.
    #[cold]
    #[inline(never)]
    fn quoted_by_lexer(&mut self) -> Result<Cow<'a, [u8]>, Stop> {
        let mut lexer = Lexer::new(&self.text[self.at..]);
        match lexer.text() {
            Ok(text) => {
                self.at += lexer.at();
                Ok(text.bytes())
            }
            Err(error) => {
                let at = self.at + lexer.at();
                self.error = Some(JsonError::new(self.text, at, error.what));
                Err(Stop)
            }
        }
    }

    /// The next byte that is not white space; 0 at the end.
    #[inline]
    fn peek(&mut self) -> u8 {
        match self.text.get(self.at) {
            Some(&byte) if byte > b' ' => byte,
            _ => self.peek_beyond_white(),
        }
    }

    fn peek_beyond_white(&mut self) -> u8 {
        while let Some(&byte) = self.text.get(self.at) {
            match byte {
                b' ' | b'\n' | b'\r' | b'\t' => self.at += 1,
                other => return other,
            }
        }
        0
    }

    #[cold]
    fn broken(&mut self, what: &'static str) -> Stop {
        let what = if self.at == self.text.len() { "the text ends too early" } else { what };
        self.error = Some(JsonError::new(self.text, self.at, what));
        Stop
    }
}

/// The number that eight digits spell, if they are digits.
#[inline(always)]
fn eight_digits(digits: &[u8; 8]) -> Option<u32> {
    const HALVES: u64 = 0xf0f0_f0f0_f0f0_f0f0;
    let digits = u64::from_le_bytes(*digits);
    // A digit is 0x30 to 0x39: its upper half is 3, and still is when 6 is added.
    let sixes = digits.wrapping_add(0x0606_0606_0606_0606);
    if digits & HALVES != 0x3030_3030_3030_3030 || sixes & HALVES != 0x3030_3030_3030_3030 {
        return None;
    }
    // Neighbours are joined: ones to tens, pairs to hundreds, fours to ten thousands; the first digit is in
    // the lowest byte.
    let ones = digits & 0x0f0f_0f0f_0f0f_0f0f;
    let pairs = (ones.wrapping_mul(1 + (10 << 8)) >> 8) & 0x00ff_00ff_00ff_00ff;
    let fours = (pairs.wrapping_mul(1 + (100 << 16)) >> 16) & 0x0000_ffff_0000_ffff;
    Some((fours.wrapping_mul(1 + (10_000 << 32)) >> 32) as u32)
}

/// The high bit of each byte that is a control, a quote, a backslash or not ASCII; exact up to the first.
#[inline(always)]
const fn special(eight: u64) -> u64 {
    crate::stores::unclean(eight)
}

#[cfg(test)]
mod tests {
    use weir_wire::json::Token;

    use super::*;

    /// What a scanner sees of a text whose shape it does not know.
    fn scanned(text: &[u8]) -> Result<String, JsonError> {
        fn value(scanner: &mut Scanner<'_>, out: &mut String) -> Result<(), Stop> {
            match scanner.upcoming()? {
                Next::String => *out += &format!("s{:?} ", String::from_utf8_lossy(&scanner.string()?)),
                Next::Number => match scanner.plain_number() {
                    Some(number) => *out += &format!("n{number} "),
                    None => *out += &format!("n{} ", String::from_utf8_lossy(scanner.number()?)),
                },
                Next::Bool => *out += &format!("{} ", scanner.bool()?),
                Next::Null => {
                    scanner.skip()?;
                    *out += "null ";
                }
                Next::List => {
                    scanner.begin_list()?;
                    *out += "[ ";
                    while scanner.element()? {
                        value(scanner, out)?;
                    }
                    *out += "] ";
                }
                Next::Object => {
                    scanner.begin_object()?;
                    *out += "{ ";
                    while let Some(key) = scanner.key()? {
                        *out += &format!("k{:?} ", String::from_utf8_lossy(&key));
                        value(scanner, out)?;
                    }
                    *out += "} ";
                }
            }
            Ok(())
        }
        let mut scanner = Scanner::new(text);
        let mut out = String::new();
        match value(&mut scanner, &mut out).and_then(|()| scanner.end()) {
            Ok(()) => Ok(out),
            Err(Stop) => Err(scanner.error().expect("only the grammar stops here")),
        }
    }

    /// The same by `wire`'s lexer.
    fn lexed(text: &[u8]) -> Result<String, JsonError> {
        let mut lexer = Lexer::new(text);
        let mut out = String::new();
        loop {
            out += &match lexer.next()? {
                Token::ObjectStart => "{ ".to_owned(),
                Token::ObjectEnd => "} ".to_owned(),
                Token::ArrayStart => "[ ".to_owned(),
                Token::ArrayEnd => "] ".to_owned(),
                Token::Key(key) => format!("k{:?} ", key.to_str()),
                Token::String(text) => format!("s{:?} ", text.to_str()),
                Token::Number(number) => format!("n{} ", String::from_utf8_lossy(number.text())),
                Token::Bool(flag) => format!("{flag} "),
                Token::Null => "null ".to_owned(),
                Token::End => return Ok(out),
            };
        }
    }

    const GOOD: [&str; 8] = [
        r#"{"traceId":"48485a3953bb6124","timestamp":1795287756019146,"tags":{"a":"b","c":"d\n\u00e4"},"debug":true}"#,
        "[ 1 , -2.5e3 ,\t0,\r\n10, 123456789012345678901234567890, 123456789012345678, 0.5 ]",
        "[12345678,1234567812345678,123456781234567812345678,100000000,90000000000000009,12345670]",
        r#"[[],{},[{}],{"k":[]},null,false,true,"",""]"#,
        r#"{"plain ascii of more than sixteen bytes":"ä and then some more, with \"quotes\"","1234567":"12345678"}"#,
        "0",
        "\"x\"",
        " [\n] ",
    ];

    /// Scenario: texts of every shape.
    /// Guarantees: the same values as by `wire`'s lexer.
    #[test]
    fn a_scanner_sees_what_the_lexer_sees() {
        for text in GOOD {
            assert_eq!(scanned(text.as_bytes()), lexed(text.as_bytes()));
            assert!(scanned(text.as_bytes()).is_ok(), "{text}");
        }
    }

    /// Scenario: the same texts with bytes changed, cut, put in, at random.
    /// Guarantees: accepted by both or by neither, with the same values; and where both refuse, neither
    /// panics.
    #[test]
    fn a_scanner_refuses_what_the_lexer_refuses() {
        let seed = fastrand::u64(..);
        println!("seed {seed}");
        let mut random = fastrand::Rng::with_seed(seed);
        let alphabet = b"{}[],:\"\\ \n0123e.-tfn\x00\x1f\x7f\x80\xc3";
        for _ in 0..200_000 {
            let mut text = GOOD[random.usize(..GOOD.len())].as_bytes().to_vec();
            for _ in 0..random.usize(1..4) {
                let at = random.usize(..text.len());
                let byte = alphabet[random.usize(..alphabet.len())];
                match random.u8(..3) {
                    0 => text[at] = byte,
                    1 => text.truncate(at.max(1)),
                    _ => text.insert(at, byte),
                }
            }
            match (scanned(&text), lexed(&text)) {
                (Ok(scanned), Ok(lexed)) => assert_eq!(scanned, lexed, "{}", text.escape_ascii()),
                (scanned, lexed) => {
                    assert_eq!(
                        scanned.is_err(),
                        lexed.is_err(),
                        "{}: {scanned:?} {lexed:?}",
                        text.escape_ascii()
                    );
                }
            }
        }
    }

    /// Scenario: faults in the second line.
    /// Guarantees: line and column of the fault.
    #[test]
    fn a_fault_has_its_place() {
        let place =
            |text: &str| scanned(text.as_bytes()).map_err(|error| (error.line, error.column, error.what));
        assert_eq!(place("[1,\n 2 3]"), Err((2, 4, "expected a comma or the end of the object or array")));
        assert_eq!(place("[1,\n ]"), Err((2, 2, "expected a value")));
        assert_eq!(place("{\n\"k\" 1}"), Err((2, 5, "expected a colon behind the key")));
        assert_eq!(place("[\n"), Err((2, 1, "the text ends too early")));
    }
}
