//! Where something stands in the user's file.

use std::sync::Arc;

/// A place in the file: what an editor jumps to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Location {
    /// Line, from 1; 0 where there is no line to show (a file that could not be read, a default).
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
    /// Characters to underline, at least 1.
    pub length: u32,
}

impl Location {
    /// No place: for what the program supplies itself.
    pub const NONE: Self = Self { line: 0, column: 0, length: 0 };

    pub(crate) fn is_none(self) -> bool {
        self.line == 0
    }
}

/// A value and the place where the user wrote it, for errors that come up later.
///
/// Two are equal where their values are: a line that was added above changes nothing.
#[derive(Debug, Clone)]
pub struct Located<T> {
    /// The value.
    pub value: T,
    /// Where it stands; [`Location::NONE`] for a default.
    pub at: Location,
}

impl<T: PartialEq> PartialEq for Located<T> {
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}

impl<T: Eq> Eq for Located<T> {}

impl<T> Located<T> {
    /// A value at a place.
    pub fn new(value: T, at: Location) -> Self {
        Self { value, at }
    }

    /// A value that nobody wrote.
    pub fn default_of(value: T) -> Self {
        Self { value, at: Location::NONE }
    }
}

/// The file's name and text, kept so that later errors can show its lines.
#[derive(Debug, Clone)]
pub struct Source {
    /// The name as the user gave it.
    pub name: String,
    /// The text.
    pub text: Arc<str>,
}

impl Source {
    pub(crate) fn new(name: &str, text: &str) -> Self {
        Self { name: name.to_owned(), text: text.into() }
    }

    /// One line, from 1, without its end.
    pub(crate) fn line(&self, line: u32) -> &str {
        let index = (line as usize).saturating_sub(1);
        self.text.lines().nth(index).unwrap_or_default()
    }
}
