//! Reads one mapping of the tree key by key; what nobody has asked for is unknown.
//!
//! Each reader returns `None` after it has said what is wrong, and the caller goes on with a default, so that one
//! reading finds every error.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use super::location::{Located, Location};
use super::nearest::nearest;
use super::report::{Diagnostic, Problems};
use super::scalar::{ShownBytes, ShownDuration, bytes, duration};
use super::tree::{Entry, Node, Scalar, Value};
use super::veil::{bears_secret, may_bear_secret};

/// Characters of a value that a message repeats.
const QUOTED_CHARS_MAX: usize = 60;

/// Bytes of a MiB, in which users write the sizes of budgets.
pub(crate) const MIB: u64 = 1 << 20;

/// Keys of other programs with the word that helps, by the key's name.
pub(crate) type Hints = &'static [(&'static str, &'static str)];

/// A mapping that is being read.
#[must_use = "`finish` looks for unknown keys"]
pub(crate) struct Section<'t> {
    pub(crate) problems: &'t Problems,
    pub(crate) path: String,
    /// The key that the section stands under.
    pub(crate) at: Location,
    entries: &'t [Entry],
    asked: Vec<&'static str>,
    /// Whether its values are secrets: then a slip may have made a key of one.
    secret: bool,
}

impl<'t> Section<'t> {
    /// The whole file.
    pub(crate) fn root(node: &'t Node, problems: &'t Problems) -> Self {
        Field { problems, name: String::new(), path: String::new(), key_at: node.at, node }.section()
    }

    /// A mapping of which nothing was written.
    pub(crate) fn absent(problems: &'t Problems, path: &str, at: Location) -> Self {
        Self { problems, path: path.to_owned(), at, entries: &[], asked: Vec::new(), secret: false }
    }

    /// The field of this name, if it is there.
    pub(crate) fn field(&mut self, key: &'static str) -> Option<Field<'t>> {
        self.asked.push(key);
        let entry = self.entries.iter().find(|entry| entry.key == key)?;
        Some(self.field_of(entry))
    }

    /// The field's mapping, empty where it is not there.
    pub(crate) fn section(&mut self, key: &'static str) -> Section<'t> {
        match self.field(key) {
            Some(field) => field.section(),
            None => Section::absent(self.problems, &join(&self.path, key), self.at),
        }
    }

    /// All fields, for mappings whose keys the user chooses.
    pub(crate) fn fields(&self) -> impl Iterator<Item = (&'t str, Field<'t>)> + '_ {
        self.entries.iter().map(|entry| (entry.key.as_str(), self.field_of(entry)))
    }

    /// The fields that nobody has asked for, for settings that stand directly under an id.
    pub(crate) fn rest(&self) -> Vec<&'t Entry> {
        self.entries.iter().filter(|entry| !self.asked.contains(&entry.key.as_str())).collect()
    }

    /// Whether the user wrote this key.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.entries.iter().any(|entry| entry.key == key)
    }

    fn field_of(&self, entry: &'t Entry) -> Field<'t> {
        Field {
            problems: self.problems,
            name: shortened(&entry.key),
            path: join(&self.path, &entry.key),
            key_at: entry.key_at,
            node: &entry.value,
        }
    }

    /// Complains about what nobody has asked for. `hints` know keys of other programs.
    pub(crate) fn finish(self, hints: Hints) {
        self.finish_noting(hints, None);
    }

    /// The same with a word for every key that is unknown.
    pub(crate) fn finish_noting(self, hints: Hints, note: Option<&str>) {
        let mut known = self.asked.clone();
        known.sort_unstable();
        known.dedup();
        for entry in self.rest() {
            let mut key = entry.key.as_str();
            if self.secret || may_bear_secret(key) {
                self.problems.hide(&entry.value);
                let end = key.find([':', '=', ' ', '@', '?']).unwrap_or(key.len());
                if end < key.len() {
                    self.problems.hide_at(entry.key_at);
                    key = &key[..end];
                }
            }
            let error = Diagnostic::error(
                entry.key_at,
                join(&self.path, key),
                format!("unknown key `{}`", shortened(key)),
            );
            let hint = hints.iter().find(|(hinted, _)| *hinted == entry.key);
            let error = match (hint, nearest(key, known.iter().copied())) {
                (None, Some(near)) if near == key => {
                    error.label(format!("expected a space after the colon in `{key}:`"))
                }
                (Some((_, hint)), _) => error.label(*hint),
                (None, Some(near)) => error.label(format!("did you mean `{near}`?")),
                (None, None) => error.label("not a key that is known here"),
            };
            let error = error.note(format!("known keys: {}", known.join(", ")));
            self.problems.push(match note {
                Some(note) => error.note(note),
                None => error,
            });
        }
    }
}

/// One key with its value.
#[derive(Clone)]
pub(crate) struct Field<'t> {
    pub(crate) problems: &'t Problems,
    /// The key, or `key[0]` for an item of a list.
    pub(crate) name: String,
    pub(crate) path: String,
    pub(crate) key_at: Location,
    pub(crate) node: &'t Node,
}

impl<'t> Field<'t> {
    /// Where the value stands.
    pub(crate) fn at(&self) -> Location {
        self.node.at
    }

    /// Says that the value is not what was expected.
    pub(crate) fn wrong(&self, expected: impl Into<String>) {
        self.problems.push(self.error(self.found()).label(expected));
    }

    /// What stands where something else was expected.
    fn found(&self) -> String {
        let found = describe(self.node);
        match self.name.as_str() {
            "" => format!("the file holds {found}"),
            name => format!("wrong value for `{name}`: {found}"),
        }
    }

    /// An error at the key, for a value that is nobody's business.
    pub(crate) fn key_error(&self, message: impl Into<String>) -> Diagnostic {
        Diagnostic::error(self.key_at, self.path.clone(), message)
    }

    /// An error at the value, to be completed by the caller.
    pub(crate) fn error(&self, message: impl Into<String>) -> Diagnostic {
        Diagnostic::error(self.node.at, self.path.clone(), message)
    }

    /// The mapping; nothing at all is an empty one.
    pub(crate) fn section(&self) -> Section<'t> {
        let entries: &'t [Entry] = match &self.node.value {
            Value::Mapping(entries) => entries,
            Value::Scalar(scalar) if scalar.is_null() => &[],
            Value::Scalar(scalar) => {
                let error = self.error(self.found()).label("expected a mapping of keys to values");
                self.problems.push(match spaceless(scalar) {
                    Some(key) => error.note(format!("is a space missing after the colon in `{key}:`?")),
                    None => error,
                });
                &[]
            }
            Value::List(_) => {
                self.wrong("expected a mapping of keys to values");
                &[]
            }
        };
        Section {
            problems: self.problems,
            path: self.path.clone(),
            at: self.key_at,
            entries,
            asked: Vec::new(),
            secret: false,
        }
    }

    /// The mapping, of values that no message and no line shown may repeat.
    pub(crate) fn secret_section(&self) -> Section<'t> {
        let section = match &self.node.value {
            Value::Mapping(_) => self.section(),
            Value::Scalar(scalar) if scalar.is_null() => self.section(),
            Value::Scalar(_) | Value::List(_) => {
                self.problems.hide(self.node);
                let error = self.error(format!("wrong value for `{}` (not shown)", self.name));
                let error = error.label("expected a mapping of keys to values");
                self.problems.push(match &self.node.value {
                    Value::Scalar(scalar) => match spaceless(scalar) {
                        Some(key) => error.note(format!("is a space missing after the colon in `{key}:`?")),
                        None => error,
                    },
                    Value::List(_) | Value::Mapping(_) => error,
                });
                Section::absent(self.problems, &self.path, self.key_at)
            }
        };
        Section { secret: true, ..section }
    }

    /// The items, each with a path of its own; a lone value is an error.
    pub(crate) fn list(&self, of: &str) -> Vec<Field<'t>> {
        let Value::List(items) = &self.node.value else {
            self.wrong(format!("expected a list of {of}, as in `[a, b]`"));
            return Vec::new();
        };
        let fields = items.iter().enumerate().map(|(index, node)| Field {
            problems: self.problems,
            name: format!("{}[{index}]", self.name),
            path: format!("{}[{index}]", self.path),
            key_at: node.at,
            node,
        });
        fields.collect()
    }

    fn scalar(&self, expected: &str) -> Option<&'t Scalar> {
        match &self.node.value {
            Value::Scalar(scalar) if !scalar.is_null() => Some(scalar),
            Value::Scalar(_) | Value::List(_) | Value::Mapping(_) => {
                self.wrong(format!("expected {expected}"));
                None
            }
        }
    }

    /// Whether the value is one whose variable failed: that has been said, and says nothing about the value.
    fn failed(&self) -> bool {
        matches!(&self.node.value, Value::Scalar(s) if s.text.is_empty() && s.written.is_some() && !s.plain)
    }

    fn parsed<T>(&self, expected: &str, parse: impl FnOnce(&str) -> Option<T>) -> Option<T> {
        let scalar = self.scalar(expected)?;
        let value = parse(&scalar.text);
        if value.is_none() && !self.failed() {
            self.wrong(format!("expected {expected}"));
        }
        value
    }

    /// Any text that is not empty.
    pub(crate) fn text(&self, expected: &str) -> Option<&'t str> {
        let scalar = self.scalar(expected)?;
        if scalar.text.is_empty() {
            if !self.failed() {
                self.wrong(format!("expected {expected}"));
            }
            return None;
        }
        Some(&scalar.text)
    }

    /// `true` or `false`.
    pub(crate) fn boolean(&self) -> Option<bool> {
        self.parsed("`true` or `false`", |text| text.to_ascii_lowercase().parse().ok())
    }

    /// A whole number within the range.
    pub(crate) fn integer(&self, range: RangeInclusive<u64>) -> Option<u64> {
        let expected = format!("a whole number from {} to {}", range.start(), range.end());
        self.parsed(&expected, |text| text.parse().ok().filter(|number| range.contains(number)))
    }

    /// A whole number of MiB within the range, in bytes.
    pub(crate) fn mib(&self, range: RangeInclusive<u64>) -> Option<u64> {
        let expected = format!("a whole number of MiB from {} to {}", range.start(), range.end());
        self.parsed(&expected, |text| text.parse().ok().filter(|number| range.contains(number)))
            .map(|number: u64| number.saturating_mul(MIB))
    }

    /// A size with its unit, in bytes, within the range.
    pub(crate) fn bytes(&self, range: RangeInclusive<u64>) -> Option<u64> {
        let (least, most) = (ShownBytes(*range.start()), ShownBytes(*range.end()));
        let expected = format!("a size from {least} to {most}, as in `512KiB` or `2MiB`");
        self.parsed(&expected, |text| bytes(text).filter(|size| range.contains(size)))
    }

    /// A time with its unit, within the range.
    pub(crate) fn duration(&self, range: RangeInclusive<Duration>) -> Option<Duration> {
        let (least, most) = (ShownDuration(*range.start()), ShownDuration(*range.end()));
        let expected = format!("a time from {least} to {most}, as in `200ms`, `5s` or `1m30s`");
        self.parsed(&expected, |text| duration(text).filter(|time| range.contains(time)))
    }

    /// One of a few words.
    pub(crate) fn choice<T: Copy>(&self, words: &[(&str, T)]) -> Option<T> {
        let names: Vec<&str> = words.iter().map(|(name, _)| *name).collect();
        let expected = match names.as_slice() {
            [all @ .., last] => format!("`{}` or `{last}`", all.join("`, `")),
            [] => String::new(),
        };
        let scalar = self.scalar(&expected)?;
        let found = words.iter().find(|(name, _)| *name == scalar.text);
        if found.is_none() && !self.failed() {
            let error = self.error(self.found());
            let near = nearest(&scalar.text, names).filter(|_| scalar.written.is_none());
            self.problems.push(match near {
                Some(near) => {
                    error.label(format!("did you mean `{near}`?")).note(format!("expected {expected}"))
                }
                None => error.label(format!("expected {expected}")),
            });
        }
        found.map(|(_, value)| *value)
    }

    /// The path of a file or folder.
    pub(crate) fn path(&self) -> Option<Located<PathBuf>> {
        let text = self.text("a path")?;
        Some(Located::new(PathBuf::from(text), self.at()))
    }
}

/// Joins a path from the top of the file with a further key.
pub(crate) fn join(path: &str, key: &str) -> String {
    let key = shortened(key);
    if path.is_empty() { key } else { format!("{path}.{key}") }
}

/// What a message calls a value. What a variable held is never shown, nor what may be a URL with a secret in it.
pub(crate) fn describe(node: &Node) -> String {
    match &node.value {
        Value::List(_) => "a list".to_owned(),
        Value::Mapping(_) => "a mapping".to_owned(),
        Value::Scalar(scalar) if scalar.is_null() => "nothing".to_owned(),
        Value::Scalar(scalar) if bears_secret(scalar) => {
            "a text with `@` or `?` (not shown: it may hold a secret)".to_owned()
        }
        Value::Scalar(Scalar { written: Some(written), .. }) => {
            let (name, default) = written.split_once(":-").unwrap_or((written, ""));
            let default = if default.is_empty() { "" } else { ":-…}" };
            format!("what `{}{default}` stands for (not shown)", shortened(name))
        }
        Value::Scalar(scalar) if scalar.text.is_empty() => "an empty text".to_owned(),
        Value::Scalar(scalar) => format!("`{}`", shortened(&scalar.text)),
    }
}

/// At most a few words of a text from the file.
pub(crate) fn shortened(text: &str) -> String {
    match text.char_indices().nth(QUOTED_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// The key in `endpoint:0.0.0.0:4317`, which YAML reads as one text.
fn spaceless(scalar: &Scalar) -> Option<&str> {
    let (key, value) = scalar.text.split_once(':').filter(|_| scalar.plain)?;
    let named = !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    (named && !value.is_empty()).then_some(key)
}
