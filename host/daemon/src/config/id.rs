//! What users call the parts: `type` or `type/name`.

use std::fmt;

/// Characters of a type or a name. Ids become names of folders and labels of metrics.
const ID_CHARS_MAX: usize = 63;

/// A configured part's name: `otlp`, `otlp/edge`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id {
    /// Which part it is (`otlp`), or what a plugin is called for short (`zipkin`).
    pub type_name: String,
    /// Tells parts of one type apart.
    pub name: Option<String>,
}

impl Id {
    /// An id without a name.
    pub fn of(type_name: &str) -> Self {
        Self { type_name: type_name.to_owned(), name: None }
    }

    /// Takes a text apart as it is.
    pub(crate) fn lenient(text: &str) -> Self {
        match text.split_once('/') {
            Some((type_name, name)) => Self { type_name: type_name.to_owned(), name: Some(name.to_owned()) },
            None => Self::of(text),
        }
    }

    /// Whether both halves can be names of folders and labels.
    pub(crate) fn is_sound(&self) -> bool {
        is_word(&self.type_name) && self.name.as_deref().is_none_or(is_word)
    }
}

/// What an id, a pipeline's name or a plugin's name may be made of.
pub(crate) const WORD: &str =
    "letters, digits, `_`, `-` and `.`, beginning with a letter or digit, at most 63";

pub(crate) fn is_word(text: &str) -> bool {
    let begins = text.starts_with(|c: char| c.is_ascii_alphanumeric());
    let plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.'));
    begins && plain && text.len() <= ID_CHARS_MAX
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => write!(f, "{}/{name}", self.type_name),
            None => f.write_str(&self.type_name),
        }
    }
}

/// The kinds of parts that ids name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Takes telemetry in.
    Receiver,
    /// Changes it, or the way it is handed on.
    Processor,
    /// Hands it on.
    Exporter,
}

impl Kind {
    /// The word for one of them.
    pub fn noun(self) -> &'static str {
        match self {
            Self::Receiver => "receiver",
            Self::Processor => "processor",
            Self::Exporter => "exporter",
        }
    }

    /// The word with its article.
    pub(crate) fn with_article(self) -> &'static str {
        match self {
            Self::Receiver => "a receiver",
            Self::Processor => "a processor",
            Self::Exporter => "an exporter",
        }
    }

    /// The key that they stand under, at the top of the file and in a pipeline.
    pub fn key(self) -> &'static str {
        match self {
            Self::Receiver => "receivers",
            Self::Processor => "processors",
            Self::Exporter => "exporters",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.noun())
    }
}
