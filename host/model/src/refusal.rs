//! Why something was not taken.

use std::fmt;
use std::time::Duration;

/// A cause that only a person reads.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// An error with its causes, in one line: what a log line or an answer says of it.
pub fn explain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}

/// The cause of a refusal where a plugin's instance ended on the very input that it was given, so that the same input may end it
/// again.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct EndedByInput(pub String);

/// Why a request was not taken. The variants are what a sender can do.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The same request may be taken later: keep it, try again.
    #[error("refused for now ({reason})")]
    Transient {
        /// How long the sender should wait; none leaves it to the sender.
        retry_after: Option<Duration>,
        /// For counters.
        reason: Reason,
        /// For people.
        #[source]
        cause: BoxError,
    },
    /// The same request will be refused for ever: count it, let it go.
    #[error("refused for good ({reason})")]
    Permanent {
        /// For counters.
        reason: Reason,
        /// For people.
        #[source]
        cause: BoxError,
    },
}

impl Refusal {
    /// A transient refusal with a text as its cause.
    pub fn transient(reason: Reason, retry_after: Option<Duration>, cause: impl Into<BoxError>) -> Self {
        Self::Transient { retry_after, reason, cause: cause.into() }
    }

    /// A permanent refusal with a text as its cause.
    pub fn permanent(reason: Reason, cause: impl Into<BoxError>) -> Self {
        Self::Permanent { reason, cause: cause.into() }
    }

    /// For counters.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Transient { reason, .. } | Self::Permanent { reason, .. } => *reason,
        }
    }

    /// Whether a plugin's instance ended on what it was given ([`EndedByInput`]).
    pub fn is_end_by_input(&self) -> bool {
        let (Self::Transient { cause, .. } | Self::Permanent { cause, .. }) = self;
        cause.is::<EndedByInput>()
    }

    /// The cause in words, with its own causes, for an answer or a log line.
    pub fn explain(&self) -> String {
        let (Self::Transient { cause, .. } | Self::Permanent { cause, .. }) = self;
        explain(cause.as_ref())
    }
}

/// The reasons for which items are refused or dropped: the bounded label set of those counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// The ledger of memory is used up.
    MemoryFull,
    /// The queue's budget of disk (or of its own memory) is used up.
    QueueFull,
    /// The queue cannot write: a sync failed.
    QueueFailed,
    /// The process is draining.
    Draining,
    /// A part that should have taken it is not there yet or not any more.
    Unavailable,
    /// The bytes are not what the protocol says.
    Malformed,
    /// A single item is not valid (ids, limits); the rest was taken.
    InvalidItem,
    /// A request or one of its parts is over a limit.
    TooLarge,
    /// The first message of an OpenCensus stream had no Node.
    NoNode,
    /// There is no pipeline for this signal.
    NoPipeline,
    /// A plugin's instance ended while it had the request.
    PluginEnded,
    /// The backend will never take it.
    Rejected,
    /// An operator chose `when_full: skip_oldest`.
    Skipped,
    /// As many are under way as may be, and this one's sender cannot be told to wait.
    TooMany,
}

impl Reason {
    /// Every reason, in the order of [`Reason::index`].
    pub const ALL: [Self; 14] = [
        Self::MemoryFull,
        Self::QueueFull,
        Self::QueueFailed,
        Self::Draining,
        Self::Unavailable,
        Self::Malformed,
        Self::InvalidItem,
        Self::TooLarge,
        Self::NoNode,
        Self::NoPipeline,
        Self::PluginEnded,
        Self::Rejected,
        Self::Skipped,
        Self::TooMany,
    ];

    /// Its place in [`Reason::ALL`].
    pub fn index(self) -> usize {
        self as usize
    }

    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::MemoryFull => "memory_full",
            Self::QueueFull => "queue_full",
            Self::QueueFailed => "queue_failed",
            Self::Draining => "draining",
            Self::Unavailable => "unavailable",
            Self::Malformed => "malformed",
            Self::InvalidItem => "invalid_item",
            Self::TooLarge => "too_large",
            Self::NoNode => "no_node",
            Self::NoPipeline => "no_pipeline",
            Self::PluginEnded => "plugin_ended",
            Self::Rejected => "rejected",
            Self::Skipped => "skipped",
            Self::TooMany => "too_many",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: a counter is kept for each reason by its index.
    /// Guarantees: the table and the enum agree, so that no refusal is counted under another's name.
    #[test]
    fn every_reason_stands_at_its_own_index() {
        for (index, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(reason.index(), index, "{reason} stands elsewhere");
        }
    }
}
