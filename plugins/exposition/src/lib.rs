//! Prometheus' text formats: 0.0.4 and OpenMetrics 1.0, read line by line where they lie.
//!
//! Reading is as lenient as Prometheus is, since targets are written for it; [`Check`] holds an OpenMetrics text against every
//! rule of the specification, as `prometheus_client` does.
//!
//! Invariant: depends on nobody, keeps no state between texts, and is total: no input makes it panic, recurse, or allocate more
//! than a small multiple of one line ([`Check`]: of the names and groups of one text).
//!
//! | file | what it is |
//! |---|---|
//! | `reader.rs` | [`Reader`]: a text, record by record |
//! | `line.rs` | the pieces of a line: names, labels, quoted texts |
//! | `number.rs` | values and times |
//! | `check.rs` | [`Check`]: the rules of OpenMetrics for records that follow each other |

pub mod check;
mod line;
mod number;
pub mod reader;

use std::borrow::Cow;
use std::fmt;

pub use check::Check;
pub use number::float;
pub use reader::{Exemplar, Label, Reader, Record, Sample};

/// Text of a line, borrowed where it had no escapes.
pub type Text<'a> = Cow<'a, str>;

/// Characters of a piece of the input that a fault shows. A word may be as long as the body, and escapes make it several times
/// as long.
const SHOWN_CHARS_MAX: usize = 64;

/// The beginning of a piece of the input, for a fault: at most 64 characters.
#[must_use]
pub fn shown(piece: &str) -> &str {
    piece.char_indices().nth(SHOWN_CHARS_MAX).map_or(piece, |(end, _)| &piece[..end])
}

/// How a text is spelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// `text/plain; version=0.0.4`, and 1.0.0 with names in quotes.
    Plain,
    /// `application/openmetrics-text; version=1.0.0`.
    OpenMetrics,
}

/// What a family is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    /// Nobody said: `untyped`, `unknown`.
    #[default]
    Unknown,
    /// It only grows.
    Counter,
    /// It goes up and down.
    Gauge,
    /// Counts of values up to bounds.
    Histogram,
    /// A histogram that goes up and down.
    GaugeHistogram,
    /// Quantiles.
    Summary,
    /// Facts, in labels.
    Info,
    /// Flags of which each is set or not.
    StateSet,
}

impl Kind {
    /// The kind of this name in a dialect.
    #[must_use]
    pub fn named(name: &str, dialect: Dialect) -> Option<Self> {
        Some(match (name, dialect) {
            ("counter", _) => Self::Counter,
            ("gauge", _) => Self::Gauge,
            ("histogram", _) => Self::Histogram,
            ("summary", _) => Self::Summary,
            ("untyped", Dialect::Plain) | ("unknown", _) => Self::Unknown,
            ("gaugehistogram", _) => Self::GaugeHistogram,
            ("info", _) => Self::Info,
            ("stateset", _) => Self::StateSet,
            _ => return None,
        })
    }

    /// What the samples of a family are called, behind its name.
    #[must_use]
    pub const fn suffixes(self) -> &'static [&'static str] {
        match self {
            Self::Counter => &["_total", "_created"],
            Self::Summary => &["", "_count", "_sum", "_created"],
            Self::Histogram => &["_count", "_sum", "_bucket", "_created"],
            Self::GaugeHistogram => &["_gcount", "_gsum", "_bucket"],
            Self::Info => &["_info"],
            Self::Unknown | Self::Gauge | Self::StateSet => &[""],
        }
    }
}

/// A text that is refused, as a whole: one bad line makes a scrape worthless.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Counted from 1.
    pub line: usize,
    /// What is wrong, a phrase for a person.
    pub what: Cow<'static, str>,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.what)
    }
}

impl std::error::Error for Fault {}
