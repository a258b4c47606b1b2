//! The pieces of a line: names, labels, quoted texts.

use std::borrow::Cow;

use crate::{Dialect, Label, Text, shown};

/// Labels of one sample or exemplar. They are held while the line is read; Prometheus warns at 30.
const LABELS_MAX: usize = 1_000;

/// Labels of which each is compared with all others: up to here it is cheaper than to sort them, and beyond it a body of long
/// lines would cost seconds.
const COMPARED_MAX: usize = 32;

/// What is left of a line.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Line<'a> {
    pub(crate) rest: &'a str,
}

/// What a name is the name of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Name {
    /// Letters, digits, underscores and colons.
    Metric,
    /// The same without colons.
    Label,
}

impl Name {
    fn takes(self, byte: u8, is_first: bool) -> bool {
        byte.is_ascii_alphabetic()
            || byte == b'_'
            || (byte == b':' && self == Self::Metric)
            || (byte.is_ascii_digit() && !is_first)
    }
}

type Fallible<T> = Result<T, Cow<'static, str>>;

impl<'a> Line<'a> {
    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// Passes over blanks and tabs; says whether there were any.
    pub(crate) fn blanks(&mut self) -> bool {
        let rest = self.rest.trim_start_matches([' ', '\t']);
        let had_some = rest.len() < self.rest.len();
        self.rest = rest;
        had_some
    }

    /// What stands between two pieces: exactly one blank in OpenMetrics.
    pub(crate) fn gap(&mut self, dialect: Dialect) -> Fallible<()> {
        let is_there = match dialect {
            Dialect::Plain => self.blanks(),
            Dialect::OpenMetrics => self.take(' '),
        };
        if is_there { Ok(()) } else { Err("expected a blank".into()) }
    }

    /// Takes a character, if it is the next.
    pub(crate) fn take(&mut self, character: char) -> bool {
        match self.rest.strip_prefix(character) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    /// Everything up to the next blank or tab.
    pub(crate) fn word(&mut self) -> &'a str {
        let end = self.rest.find([' ', '\t']).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        word
    }

    /// A name without quotes; empty where there is none.
    pub(crate) fn name(&mut self, name: Name) -> &'a str {
        let bytes = self.rest.as_bytes();
        let end = bytes.iter().enumerate().position(|(at, byte)| !name.takes(*byte, at == 0));
        let (found, rest) = self.rest.split_at(end.unwrap_or(bytes.len()));
        self.rest = rest;
        found
    }

    /// A name, with or without quotes.
    pub(crate) fn name_or_quoted(&mut self, name: Name) -> Fallible<Text<'a>> {
        if self.rest.starts_with('"') {
            let quoted = self.quoted()?;
            return if quoted.is_empty() { Err("a name is empty".into()) } else { Ok(quoted) };
        }
        match self.name(name) {
            "" => Err("expected a name".into()),
            name => Ok(name.into()),
        }
    }

    /// A text in quotes. `\\`, `\"` and `\n` are escapes; a backslash before anything else is a backslash.
    pub(crate) fn quoted(&mut self) -> Fallible<Text<'a>> {
        if !self.take('"') {
            return Err("expected a text in double quotes".into());
        }
        let bytes = self.rest.as_bytes();
        let mut at = 0;
        let mut has_escapes = false;
        loop {
            match bytes.get(at) {
                None => return Err("a text in quotes does not end".into()),
                Some(b'"') => break,
                Some(b'\\') => {
                    has_escapes = true;
                    at += 2;
                }
                Some(_) => at += 1,
            }
        }
        // Both ends are ASCII, so they are between characters.
        let text = self.rest.get(..at).ok_or("a text in quotes does not end")?;
        self.rest = &self.rest[at + 1..];
        Ok(if has_escapes { unescaped(text, true) } else { text.into() })
    }

    /// Labels behind their opening brace. Adds to `labels`; returns the metric's name, where it stands among them.
    pub(crate) fn labels(
        &mut self,
        labels: &mut Vec<Label<'a>>,
        dialect: Dialect,
    ) -> Fallible<Option<Text<'a>>> {
        let is_plain = dialect == Dialect::Plain;
        let mut metric = None;
        loop {
            if is_plain {
                self.blanks();
            }
            if self.take('}') {
                // A comma before the brace is fine in the plain text only.
                return match doubled(labels.len(), |label| &*labels[label].name) {
                    Some(name) => Err(format!("label name {:?} is not unique", shown(name)).into()),
                    None => Ok(metric),
                };
            }
            let is_quoted = self.rest.starts_with('"');
            let name = self.name_or_quoted(Name::Label)?;
            if is_plain {
                self.blanks();
            }
            if self.take('=') {
                if is_plain {
                    self.blanks();
                }
                let value = self.quoted()?;
                if labels.len() == LABELS_MAX {
                    return Err(format!("more than {LABELS_MAX} labels").into());
                }
                labels.push(Label { name, value });
            } else if !is_quoted {
                return Err("expected = behind a label's name".into());
            } else if metric.replace(name).is_some() {
                return Err("metric name already set".into());
            }
            if is_plain {
                self.blanks();
            }
            let has_comma = self.take(',');
            let ends = self.rest.starts_with('}');
            // Prometheus takes labels without a comma between them.
            if !is_plain && has_comma == ends {
                return Err(if ends { "a comma before the last brace" } else { "expected a comma" }.into());
            }
        }
    }
}

/// A name that stands twice among `count`.
fn doubled<N: Ord>(count: usize, name: impl Fn(usize) -> N) -> Option<N> {
    if count <= COMPARED_MAX {
        let stood = |at: &usize| (0..*at).any(|before| name(before) == name(*at));
        return (1..count).find(stood).map(name);
    }
    let mut names: Vec<N> = (0..count).map(name).collect();
    names.sort_unstable();
    let at = names.windows(2).position(|pair| pair[0] == pair[1])?;
    Some(names.swap_remove(at))
}

/// A text without its escapes; those of quotes only where it stood in some.
pub(crate) fn unescaped(text: &str, is_quoted: bool) -> Text<'_> {
    if !text.contains('\\') {
        return text.into();
    }
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('\\') {
        plain.push_str(before);
        rest = match after.as_bytes().first() {
            Some(b'n') => {
                plain.push('\n');
                &after[1..]
            }
            Some(b'\\') => {
                plain.push('\\');
                &after[1..]
            }
            Some(b'"') if is_quoted => {
                plain.push('"');
                &after[1..]
            }
            _ => {
                plain.push('\\');
                after
            }
        };
    }
    plain.push_str(rest);
    plain.into()
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::cmp::Ordering;

    use super::*;

    /// A name that counts how often one is compared.
    struct Counted<'c>(usize, &'c Cell<usize>);

    impl Ord for Counted<'_> {
        fn cmp(&self, other: &Self) -> Ordering {
            self.1.set(self.1.get() + 1);
            self.0.cmp(&other.0)
        }
    }

    impl PartialOrd for Counted<'_> {
        fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
            Some(self.cmp(other))
        }
    }

    impl PartialEq for Counted<'_> {
        fn eq(&self, other: &Self) -> bool {
            self.cmp(other) == Ordering::Equal
        }
    }

    impl Eq for Counted<'_> {}

    /// Scenario: as many names as are taken, all of them different, in an order that is not theirs.
    /// Guarantees: each is compared with some others and not with all: a body of such lines is read in time.
    #[test]
    fn names_are_compared_with_few_others() {
        for count in [1, COMPARED_MAX, COMPARED_MAX + 1, LABELS_MAX] {
            let compared = Cell::new(0);
            assert!(doubled(count, |name| Counted(name * 7_919 % 1_009, &compared)).is_none());
            assert!(compared.get() <= 32 * count, "{} comparisons of {count} names", compared.get());
        }
    }
}
