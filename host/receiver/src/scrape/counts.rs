//! What is counted of a receiver that fetches.

use std::sync::{Arc, Mutex, PoisonError};

use weir_model::Counter;

/// Why a fetch brought nothing, or nothing of use: the bounded label set of that counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    /// No whole answer in time.
    Timeout,
    /// Name, connection, TLS, reset.
    Transport,
    /// The address is not granted.
    Denied,
    /// The answer is over its limit.
    TooLarge,
    /// The answer is not what its encoding says.
    Encoding,
    /// The target answers with a redirect.
    Redirect,
    /// The target answers with another status than 200.
    Status,
    /// The ledger has no room.
    Memory,
    /// The plugin ended, is away, or made what is no OTLP.
    Plugin,
    /// What was to be sent is no request.
    Invalid,
}

impl FailureKind {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Timeout,
        Self::Transport,
        Self::Denied,
        Self::TooLarge,
        Self::Encoding,
        Self::Redirect,
        Self::Status,
        Self::Memory,
        Self::Plugin,
        Self::Invalid,
    ];

    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::Transport => "transport",
            Self::Denied => "denied",
            Self::TooLarge => "too_large",
            Self::Encoding => "encoding",
            Self::Redirect => "redirect",
            Self::Status => "status",
            Self::Memory => "memory",
            Self::Plugin => "plugin",
            Self::Invalid => "invalid",
        }
    }
}

/// Why a target was passed over when it was due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LateKind {
    /// Its last turn was still under way.
    Running,
    /// As many fetches were under way as there may be.
    NoRoom,
    /// The process had no time to look (it was stopped, or its machine slept).
    Behind,
    /// The plugin ended on its last answer: it is not fetched for some turns.
    PluginEnded,
}

impl LateKind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Running, Self::NoRoom, Self::Behind, Self::PluginEnded];

    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::NoRoom => "no_room",
            Self::Behind => "behind",
            Self::PluginEnded => "plugin_ended",
        }
    }
}

/// What one configured receiver counts of its fetching. Cloning shares it.
#[derive(Debug, Clone, Default)]
pub struct ScrapeCounts {
    /// Turns that have begun.
    pub scrapes: Counter,
    /// Bytes of answers, decompressed.
    pub bytes: Counter,
    /// Targets now.
    pub targets: Counter,
    /// Addresses now that make no target, or are over the bound.
    pub left_out: Counter,
    /// Files of targets now that cannot be used.
    pub files_broken: Counter,
    failed: [Counter; FailureKind::ALL.len()],
    late: [Counter; LateKind::ALL.len()],
    complaint: Arc<Mutex<Option<String>>>,
}

impl ScrapeCounts {
    /// Turns that failed in this way.
    pub fn failed(&self, kind: FailureKind) -> &Counter {
        &self.failed[kind as usize]
    }

    /// Turns that were passed over for this reason.
    pub fn late(&self, kind: LateKind) -> &Counter {
        &self.late[kind as usize]
    }

    /// What a person should know of files of targets: the first that cannot be used, and why.
    pub fn complaint(&self) -> Option<String> {
        self.complaint.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn complain(&self, complaints: &[String]) {
        self.files_broken.set(complaints.len() as u64);
        *self.complaint.lock().unwrap_or_else(PoisonError::into_inner) = complaints.first().cloned();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: a counter is kept for each kind by its place.
    /// Guarantees: tables and enums agree, so that nothing is counted under another's name.
    #[test]
    fn every_kind_stands_at_its_own_place() {
        assert!(FailureKind::ALL.iter().enumerate().all(|(index, kind)| *kind as usize == index));
        assert!(LateKind::ALL.iter().enumerate().all(|(index, kind)| *kind as usize == index));
    }
}
