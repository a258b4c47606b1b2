//! What no report may show: values that are, or may be, secrets.
//!
//! Where a file was understood, each secret's place is known, and so is each value that looks like a URL with a secret in
//! it. Where it is not YAML, nobody can say what is a secret: then every value is veiled, and what is left is what a
//! mistake in YAML is found by, keys, indentation and punctuation.
//!
//! Invariant: a line has as many characters veiled as before, so that marks stay where they were.

use super::location::{Location, Source};
use super::tree::Scalar;

/// What stands in a report for each character of a secret.
const HIDING: char = '•';

/// Characters of a key that is shown of broken YAML. Ours are shorter, and what is longer may be no key.
const KEY_CHARS_MAX: usize = 64;

/// Whether a text may hold a secret as URLs do: before an `@` a user and a password, after a `?` a key.
pub(crate) fn may_bear_secret(text: &str) -> bool {
    text.contains(['@', '?'])
}

/// Whether a value may, as it was written: what a variable gave is not shown anyway.
pub(super) fn bears_secret(scalar: &Scalar) -> bool {
    may_bear_secret(scalar.written.as_deref().unwrap_or(&scalar.text))
}

/// The source as a report may show it.
pub(super) fn veiled(source: &Source, hidden: &[Location]) -> Source {
    if hidden.is_empty() {
        return source.clone();
    }
    let mut lines: Vec<Vec<char>> = source.text.lines().map(|line| line.chars().collect()).collect();
    for at in hidden {
        let first = (at.line as usize).saturating_sub(1);
        let start = (at.column as usize).saturating_sub(1);
        let Some(line) = lines.get_mut(first) else { continue };
        let end = start.saturating_add(at.length as usize).min(line.len());
        line.get_mut(start.min(end)..end).into_iter().for_each(veil);
        if at.length == u32::MAX {
            // A text of several lines: it goes on for as long as lines are empty, or indented as deep where it has begun on
            // a line of its own, deeper where a key stands before it.
            let indent = indent(line);
            let deeper = usize::from(start > indent);
            let rest = lines.iter_mut().skip(first + 1);
            let goes_on = |line: &&mut Vec<char>| is_blank(line) || self::indent(line) >= indent + deeper;
            rest.take_while(goes_on).for_each(|line| veil(line));
        }
    }
    joined(source, lines)
}

fn joined(source: &Source, lines: Vec<Vec<char>>) -> Source {
    let lines: Vec<String> = lines.into_iter().map(|line| line.into_iter().collect()).collect();
    Source { name: source.name.clone(), text: lines.join("\n").into() }
}

fn veil(shown: &mut [char]) {
    shown.iter_mut().filter(|shown| !shown.is_whitespace()).for_each(|shown| *shown = HIDING);
}

fn indent(line: &[char]) -> usize {
    line.iter().take_while(|shown| shown.is_whitespace()).count()
}

fn is_blank(line: &[char]) -> bool {
    indent(line) == line.len()
}

// === broken YAML ===

/// The source as a report on broken YAML may show it: without values and comments.
pub(super) fn guarded(source: &Source) -> Source {
    let mut open = None;
    let guard = |line: &str| {
        let mut guard = Guard { line: line.chars().collect(), at: 0, open: open.take(), inner: 0 };
        guard.whole_line();
        open = guard.open;
        guard.line
    };
    joined(source, source.text.lines().map(guard).collect())
}

/// A text that goes on in the lines that follow.
#[derive(Clone, Copy)]
struct Open {
    /// Lines that are indented at least so far belong to it.
    indent: usize,
    /// What ends it before: none for `|` and `>`.
    quote: Option<char>,
    /// Its first line is still to come, and says how far all others are indented.
    begins: bool,
}

/// One line, of which everything before `at` is as it may be shown.
struct Guard {
    line: Vec<char>,
    at: usize,
    open: Option<Open>,
    /// How far a text is indented that begins in this line and goes on.
    inner: usize,
}

impl Guard {
    fn whole_line(&mut self) {
        let indent = indent(&self.line);
        if let Some(open) = &mut self.open {
            if is_blank(&self.line) || indent >= open.indent {
                if open.begins && !is_blank(&self.line) {
                    (open.indent, open.begins) = (indent, false);
                }
                if open.quote.is_some_and(|quote| self.line.contains(&quote)) {
                    self.open = None;
                }
                return self.rest();
            }
            self.open = None;
        }
        if matches!(self.line.as_slice(), ['-', '-', '-'] | ['.', '.', '.']) {
            return;
        }
        (self.at, self.inner) = (indent, indent);
        while self.here().is_some_and(|sign| ['-', '?', ':'].contains(&sign)) && self.is_end(self.at + 1) {
            self.inner = self.at + 1;
            self.at += 1;
            self.space();
        }
        match self.key() {
            Some(colon) => {
                self.inner = self.at + 1;
                self.at = colon + 1;
                self.value();
            }
            None => self.value(),
        }
    }

    fn here(&self) -> Option<char> {
        self.line.get(self.at).copied()
    }

    /// Whether a word has ended before this place.
    fn is_end(&self, at: usize) -> bool {
        self.line.get(at).is_none_or(|sign| sign.is_whitespace())
    }

    fn space(&mut self) {
        while self.here().is_some_and(char::is_whitespace) {
            self.at += 1;
        }
    }

    fn rest(&mut self) {
        veil(&mut self.line[self.at..]);
        self.at = self.line.len();
    }

    /// Veils as long as the characters are such, all but colons: a mistake is often at one.
    fn veil_while(&mut self, such: impl Fn(char) -> bool) {
        while let Some(sign) = self.here().filter(|sign| such(*sign)) {
            if !sign.is_whitespace() && sign != ':' {
                self.line[self.at] = HIDING;
            }
            self.at += 1;
        }
    }

    /// The place of the colon, where a key begins here: one word, perhaps in quotes, and a colon with nothing behind it.
    fn key(&self) -> Option<usize> {
        let quote = self.here().filter(|sign| ['"', '\''].contains(sign));
        let begin = self.at + usize::from(quote.is_some());
        let is_word = |sign: &&char| sign.is_alphanumeric() || "_-./<".contains(**sign);
        let length = self.line.get(begin..)?.iter().take_while(is_word).count();
        let mut end = begin + length;
        if let Some(quote) = quote {
            (self.line.get(end) == Some(&quote)).then_some(())?;
            end += 1;
        }
        let colon = end + self.line.get(end..)?.iter().take_while(|sign| sign.is_whitespace()).count();
        let is_key = (1..=KEY_CHARS_MAX).contains(&length) && self.line.get(colon) == Some(&':');
        (is_key && (quote.is_some() || self.is_end(colon + 1))).then_some(colon)
    }

    /// The value of a key, or what stands in a line without one.
    fn value(&mut self) {
        self.space();
        self.properties();
        match self.here() {
            Some('{' | '}' | '[' | ']' | ',') => self.flow(),
            Some('"' | '\'') => {
                self.quoted();
                self.flow();
            }
            Some('|' | '>') => self.block(),
            Some('#') => {
                self.at += 1;
                self.rest();
            }
            Some(_) => {
                self.reference();
                self.veil_while(|_| true);
            }
            None => {}
        }
    }

    /// `!tag`, `&anchor`, `*alias`: a text without quotes may begin like one, so only the sign is shown.
    fn properties(&mut self) {
        while self.here().is_some_and(|sign| ['!', '&', '*'].contains(&sign)) {
            self.at += 1;
            self.veil_while(|sign| !sign.is_whitespace() && !"{}[],".contains(sign));
            self.space();
        }
    }

    /// `|` and `>` with their signs; all of the text that follows is veiled.
    fn block(&mut self) {
        let digits = |sign: char| sign.is_ascii_digit();
        let from = self.at;
        self.at += 1;
        // An indentation and what becomes of the last line break, in either order; more may be a secret.
        for _ in 0..2 {
            let had = |line: &[char], what: fn(char) -> bool| line.iter().any(|sign| what(*sign));
            let seen = &self.line[from + 1..self.at];
            let fits = match self.here() {
                Some('+' | '-') => !had(seen, |sign| "+-".contains(sign)),
                Some(sign) => digits(sign) && !had(seen, |sign| sign.is_ascii_digit()),
                None => false,
            };
            self.at += usize::from(fits);
        }
        // With a digit in them the first line may be indented deeper than the text is.
        let begins = !self.line[from..self.at].iter().any(|sign| digits(*sign));
        self.open = Some(Open { indent: self.inner, quote: None, begins });
        self.rest();
    }

    /// A text in quotes; they are shown, for one of them may be missing.
    fn quoted(&mut self) {
        let Some(quote) = self.here() else { return };
        self.at += 1;
        while let Some(sign) = self.here() {
            if sign == quote && (quote == '"' || self.line.get(self.at + 1) != Some(&quote)) {
                self.at += 1;
                return;
            }
            let both = (sign == '\\' && quote == '"') || sign == quote;
            let end = (self.at + 1 + usize::from(both)).min(self.line.len());
            veil(&mut self.line[self.at..end]);
            self.at = end;
        }
        self.open = Some(Open { indent: self.inner, quote: Some(quote), begins: false });
    }

    /// `${env:NAME}`, which holds no secret as long as it has no default.
    fn reference(&mut self) {
        let Some(['$', '{', inner @ ..]) = self.line.get(self.at..) else { return };
        let length =
            inner.iter().take_while(|sign| sign.is_ascii_alphanumeric() || "_:".contains(**sign)).count();
        if inner.get(length) == Some(&'}') {
            self.at += length + 3;
        }
    }

    /// What stands in `{…}` and `[…]`, in this line.
    fn flow(&mut self) {
        let mut may_be_key = false;
        while let Some(sign) = self.here() {
            match sign {
                '{' | '[' | ',' | '}' | ']' => {
                    may_be_key = !"}]".contains(sign);
                    self.at += 1;
                }
                _ if sign.is_whitespace() => self.at += 1,
                '#' => return self.rest(),
                _ => {
                    match self.key().filter(|_| may_be_key) {
                        Some(colon) => self.at = colon + 1,
                        None => self.flow_value(),
                    }
                    may_be_key = false;
                }
            }
        }
    }

    fn flow_value(&mut self) {
        self.properties();
        match self.here() {
            Some('"' | '\'') => self.quoted(),
            Some('|' | '>') => self.block(),
            _ => {
                self.reference();
                self.veil_while(|sign| !"{}[],".contains(sign));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::Problems;
    use super::super::tree::{Value, parse};
    use super::*;

    /// Scenario: secrets of several lines, as a block, folded, in quotes; each beside what is none.
    /// Guarantees: all of their lines are hidden, and nothing else is.
    #[test]
    fn all_lines_of_a_secret_are_hidden() {
        let text = "a: |\n  hunter2\n\n  hunter2\nb: >-\n  hunter2\n  hunter2\nc: \"hunter2\n  hunter2\"\nd: shown\n";
        let source = Source::new("case", text);
        let problems = Problems::default();
        let root = parse(&source, &|_| None, &problems).unwrap();
        let Value::Mapping(entries) = &root.value else { panic!("a mapping") };
        entries.iter().filter(|entry| entry.key != "d").for_each(|entry| problems.hide(&entry.value));
        let (_, hidden) = problems.take();
        let shown = veiled(&source, &hidden).text;
        assert!(!shown.contains("hunter2"), "{shown}");
        assert!(shown.contains("d: shown") && shown.contains("b: >-"), "{shown}");
    }

    /// Scenario: lines of broken YAML in the forms that people write: in blocks, brackets, quotes, several lines, lists, with
    /// tags, comments, and a space too few.
    /// Guarantees: keys, indentation and punctuation are shown where they were, and no value is.
    #[test]
    fn of_broken_yaml_keys_and_punctuation_are_shown() {
        let cases = [
            ("headers: {api-key: hunter2, b: [}", "headers: {api-key: •••••••, b: [}"),
            ("  x-honeycomb-team: hunter2 # or hunter3", "  x-honeycomb-team: ••••••• • •• •••••••"),
            ("- Cookie: a=hunter2; b", "- Cookie: •••••••••• •"),
            (
                "private_key: |-\n  hunter2\n\n  a: hunter2\nb:",
                "private_key: |-\n  •••••••\n\n  •• •••••••\nb:",
            ),
            ("a:\n  b: |\n    hunter2\n   c: hunter2", "a:\n  b: |\n    •••••••\n   c: •••••••"),
            ("b: |2\n      hunter2\n  c: hunter2", "b: |2\n      •••••••\n  •• •••••••"),
            ("- key: > # hunter2\n    hunter2\n  pwd:", "- key: > • •••••••\n    •••••••\n  pwd:"),
            ("- - |\n   a: hunter2\n  - b", "- - |\n   •• •••••••\n  - •"),
            ("a: \"hunter2\n  b: hunter2\"\nc: {", "a: \"•••••••\n  •• ••••••••\nc: {"),
            ("a: \"hun\\\"ter2\", b: 'hun''ter2'}", "a: \"•••••••••\", b: '•••••••••'}"),
            (
                "{a: {\"b\": \"hunter2\", 'c':hunter2}, hunter2]",
                "{a: {\"b\": \"•••••••\", 'c':•••••••}, •••••••]",
            ),
            ("a: hunter2: hunter2", "a: •••••••: •••••••"),
            ("bearer:hunter2", "••••••:•••••••"),
            ("{bearer:hunter2, c: hunter2: d}", "{••••••:•••••••, c: •••••••: •}"),
            ("a: !hunter2 x\nb: *hunter2\nc: [&hunter2 ]", "a: !••••••• •\nb: *•••••••\nc: [&••••••• ]"),
            (
                "# hunter2\n---\na: ${env:A}\nb: ${env:A:-hunter2}",
                "# •••••••\n---\na: ${env:A}\nb: •••••:•:•••••••••",
            ),
            ("bearer:\n  hunter2\n? a\n: hunter2", "bearer:\n  •••••••\n? •\n: •••••••"),
            ("  hunter2 and: more", "  ••••••• •••: ••••"),
            ("otlp/2: hunter2\n\tservice.name: {", "otlp/2: •••••••\n\tservice.name: {"),
        ];
        for (text, shown) in cases {
            assert_eq!(&*guarded(&Source::new("case", text)).text, shown);
        }
    }
}
