//! One file, what is wrong with it, and two views of its Rust that checks look through.
//!
//! ```text
//! text      let word = "todo!()"; // Why.
//! code      let word =          ;
//! comments                        // Why.
//! ```
//!
//! A view is as long as the text and keeps its lines, so that an offset in one is an offset in all.

use std::fmt;
use std::ops::Range;

/// A file of the repository. Its path is relative to the top and has slashes.
pub(crate) struct File {
    pub(crate) path: String,
    pub(crate) text: String,
}

/// Something that is not as the house wants it: where, what, and what to do.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Complaint {
    place: String,
    line: usize,
    what: String,
}

impl Complaint {
    /// `what` ends with the cure.
    pub(crate) fn new(place: &str, line: usize, what: impl Into<String>) -> Self {
        Self { place: place.to_owned(), line, what: what.into() }
    }
}

impl fmt::Display for Complaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.place, self.line, self.what)
    }
}

// === impl File ===

impl File {
    pub(crate) fn new(path: impl Into<String>, text: impl Into<String>) -> Self {
        Self { path: path.into(), text: text.into() }
    }

    pub(crate) fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// The folder of the file, empty at the top.
    pub(crate) fn folder(&self) -> &str {
        self.path.rsplit_once('/').map_or("", |(folder, _)| folder)
    }

    pub(crate) fn name(&self) -> &str {
        self.path.rsplit_once('/').map_or(self.path.as_str(), |(_, name)| name)
    }

    /// The first line, from 1, that holds `needle`, or 1.
    pub(crate) fn line_with(&self, needle: &str) -> usize {
        self.text.lines().position(|line| line.contains(needle)).map_or(1, |at| at + 1)
    }
}

/// Rust source, split into what the compiler reads and what people read.
pub(crate) struct Rust<'a> {
    pub(crate) file: &'a File,
    /// Comments and the insides of literals are blank.
    pub(crate) code: String,
    /// All but comments is blank.
    pub(crate) comments: String,
    /// Parts of `code` that are compiled for tests only.
    test_only: Vec<Range<usize>>,
}

/// A function with a body.
pub(crate) struct Function<'a> {
    pub(crate) name: &'a str,
    /// The line of `fn`, from 1.
    pub(crate) line: usize,
    /// Lines from `fn` to the brace that closes the body, both counted.
    pub(crate) lines: usize,
}

// === impl Rust ===

impl<'a> Rust<'a> {
    pub(crate) fn new(file: &'a File) -> Self {
        let (code, comments) = split(&file.text);
        let test_only = items_after(&code, "#[cfg(test)]");
        Self { file, code, comments, test_only }
    }

    /// The line, from 1, of an offset.
    pub(crate) fn line(&self, at: usize) -> usize {
        self.code.as_bytes()[..at].iter().filter(|byte| **byte == b'\n').count() + 1
    }

    pub(crate) fn is_test_only(&self, at: usize) -> bool {
        self.test_only.iter().any(|range| range.contains(&at))
    }

    /// Modules in files of their own that are compiled for tests only.
    pub(crate) fn test_modules(&self) -> Vec<&str> {
        let ends = self.test_only.iter().filter_map(|range| self.code[range.clone()].strip_suffix(';'));
        ends.filter_map(|item| item.rsplit_once("mod ").map(|(_, name)| name.trim())).collect()
    }

    /// The functions that have a body, nested ones too.
    pub(crate) fn functions(&self) -> Vec<Function<'_>> {
        let code = &self.code;
        let found = words(code, "fn").filter_map(|at| {
            let rest = code[at + 2..].trim_start();
            let name = &rest[..rest.find(|c| !is_word(c)).unwrap_or(rest.len())];
            let end = item_end(code, at)?;
            let has_body = code.as_bytes()[end - 1] == b'}';
            let lines = self.line(end - 1) - self.line(at) + 1;
            (has_body && !name.is_empty()).then(|| Function { name, line: self.line(at), lines })
        });
        found.collect()
    }

    /// The attributes, inner and outer, as `(offset, text of the code view)`.
    pub(crate) fn attributes(&self) -> Vec<(usize, &str)> {
        let code = &self.code;
        let starts = code.match_indices('#').filter_map(|(at, _)| {
            let rest = code[at + 1..].strip_prefix('!').unwrap_or(&code[at + 1..]);
            rest.starts_with('[').then_some((at, code.len() - rest.len()))
        });
        starts.filter_map(|(at, open)| Some((at, &code[at..close(code, open)?]))).collect()
    }
}

/// Offsets at which `word` stands alone, as an identifier does.
pub(crate) fn words<'t>(text: &'t str, word: &'t str) -> impl Iterator<Item = usize> + 't {
    text.match_indices(word).map(|(at, _)| at).filter(move |at| {
        let before = text[..*at].chars().next_back();
        let after = text[at + word.len()..].chars().next();
        !before.is_some_and(is_word) && !after.is_some_and(is_word)
    })
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The items that `attribute` stands before, attribute included.
fn items_after(code: &str, attribute: &str) -> Vec<Range<usize>> {
    let starts = code.match_indices(attribute).map(|(at, _)| at);
    starts.map(|at| at..item_end(code, at + attribute.len()).unwrap_or(code.len())).collect()
}

/// Just past the `;` or the `}` with which the item that starts at `at` ends.
fn item_end(code: &str, at: usize) -> Option<usize> {
    let mut at = at;
    while let Some(step) = code[at..].find(['(', '[', '{', ';']) {
        let stop = at + step;
        match code.as_bytes()[stop] {
            b';' => return Some(stop + 1),
            b'{' => return close(code, stop),
            _ => at = close(code, stop)?,
        }
    }
    None
}

/// Just past the bracket that closes the one at `open`.
fn close(code: &str, open: usize) -> Option<usize> {
    let mut depth = 0_usize;
    for (step, byte) in code.as_bytes()[open..].iter().enumerate() {
        match byte {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.checked_sub(1)?,
            _ => {}
        }
        if depth == 0 {
            return Some(open + step + 1);
        }
    }
    None
}

// === the two views ===

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Code,
    Comment,
    Literal,
}

fn split(text: &str) -> (String, String) {
    let (mut code, mut comments) = (String::new(), String::new());
    let mut at = 0;
    while at < text.len() {
        let (kind, end) = token(text, at);
        let token = &text[at..end];
        let blank = blank(token);
        code.push_str(if kind == Kind::Code { token } else { &blank });
        comments.push_str(if kind == Kind::Comment { token } else { &blank });
        at = end;
    }
    (code, comments)
}

fn blank(token: &str) -> String {
    token.bytes().map(|byte| if byte == b'\n' { '\n' } else { ' ' }).collect()
}

/// What stands at `at`, and where it ends: always further on, never inside a character.
fn token(text: &str, at: usize) -> (Kind, usize) {
    let rest = &text[at..];
    let first = rest.chars().next().map_or(1, char::len_utf8);
    if rest.starts_with("//") {
        return (Kind::Comment, at + rest.find('\n').unwrap_or(rest.len()));
    }
    if rest.starts_with("/*") {
        return (Kind::Comment, at + block_comment(rest));
    }
    let after_word = text[..at].chars().next_back().is_some_and(is_word);
    if let Some(length) = raw_string(rest).filter(|_| !after_word || text[..at].ends_with(['b', 'c'])) {
        return (Kind::Literal, at + length);
    }
    match rest.as_bytes()[0] {
        b'"' => (Kind::Literal, at + quoted(rest, '"')),
        b'\'' if is_character(rest) => (Kind::Literal, at + quoted(rest, '\'')),
        _ => (Kind::Code, at + first),
    }
}

fn block_comment(rest: &str) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while let Some(step) = rest[at..].find(['/', '*']) {
        at += step;
        match rest.get(at..at + 2) {
            Some("/*") => (depth, at) = (depth + 1, at + 2),
            Some("*/") => (depth, at) = (depth.saturating_sub(1), at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
    rest.len()
}

/// The length of the raw string that `rest` starts with; `r#name` is none.
fn raw_string(rest: &str) -> Option<usize> {
    let after = rest.strip_prefix('r')?;
    let body = after.trim_start_matches('#');
    let hashes = &after[..after.len() - body.len()];
    let body = body.strip_prefix('"')?;
    let end = body.find(&format!("\"{hashes}")).map_or(body.len(), |at| at + 1 + hashes.len());
    Some(rest.len() - body.len() + end)
}

/// The length of the literal that begins and ends with `quote`.
fn quoted(rest: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if c == quote => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

/// Whether the quote begins a character and not a lifetime.
fn is_character(rest: &str) -> bool {
    let mut after = rest.chars().skip(1);
    matches!((after.next(), after.next()), (Some('\\'), _) | (Some(_), Some('\'')))
}

// === the views show what they should ===

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: comments, strings of each kind, characters and lifetimes stand beside each other.
    /// Guarantees: neither view shows what belongs to the other, and no line moves.
    #[test]
    fn a_word_in_a_string_is_neither_code_nor_comment() {
        let text =
            "a /* b /* c */ d */ e // f\n\"g\\\"h\" 'i' '\\'' &'j k r#\"l\"m\"# br\"n\" r#o \"p\nq\" s";
        let file = File::new("x.rs", text);
        let rust = Rust::new(&file);
        let seen = |view: &str| view.split_whitespace().map(str::to_owned).collect::<Vec<_>>().join(" ");
        assert_eq!(seen(&rust.code), "a e &'j k b r#o s");
        assert_eq!(seen(&rust.comments), "/* b /* c */ d */ // f");
        assert_eq!((rust.code.len(), rust.comments.len()), (text.len(), text.len()));
        assert_eq!(rust.line(rust.code.find('s').expect("s is code")), 3);
    }

    /// Scenario: functions with arrays in their signature, without a body, and inside another.
    /// Guarantees: each body is measured from `fn` to its closing brace.
    #[test]
    fn functions_are_measured_from_their_name_to_their_brace() {
        let text = "trait T { fn a(x: [u8; 2]) -> [u8; 2]; }\nfn b(x: [u8; 2]) {\n    fn c() {}\n    \"}\";\n}\ntype F = fn(u8);\n";
        let file = File::new("x.rs", text);
        let rust = Rust::new(&file);
        let seen: Vec<_> = rust.functions().iter().map(|f| (f.name.to_owned(), f.line, f.lines)).collect();
        assert_eq!(seen, [("b".to_owned(), 2, 4), ("c".to_owned(), 3, 1)]);
    }

    /// Scenario: one module for tests in the file, one in a file of its own, and code after both.
    /// Guarantees: only what the attribute covers counts as compiled for tests.
    #[test]
    fn test_only_code_ends_with_its_item() {
        let text = "#[cfg(test)]\nmod fake;\n#[cfg(test)]\n#[expect(x, reason = \"y\")]\nmod tests { fn a() {} }\nfn b() {}\n";
        let file = File::new("x.rs", text);
        let rust = Rust::new(&file);
        let at = |needle| rust.code.find(needle).expect("stands in the text");
        assert_eq!(rust.test_modules(), ["fake"]);
        assert!(rust.is_test_only(at("fn a")));
        assert!(!rust.is_test_only(at("fn b")));
        assert_eq!(rust.attributes().len(), 3);
    }
}
