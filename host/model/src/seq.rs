//! A record's place in its log.

use std::fmt;

/// The place of a record in one log: 1 for the first record ever appended, then more each:
/// appends that failed leave gaps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Seq(pub u64);

impl Seq {
    /// The place after this one.
    ///
    /// A log would need 580 years at a billion records a second to run out of places.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
