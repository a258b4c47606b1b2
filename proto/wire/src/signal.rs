//! What a request carries.

use core::fmt;
use core::str::FromStr;

/// One of OTLP's three signals; says which `Export…ServiceRequest` a body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Signal {
    /// Spans.
    Traces,
    /// Data points of metrics.
    Metrics,
    /// Log records.
    Logs,
}

impl Signal {
    /// All of them, in the order in which lists show them.
    pub const ALL: [Self; 3] = [Self::Traces, Self::Metrics, Self::Logs];

    /// The plural name, as in configuration files and in the paths `/v1/traces`, `/v1/metrics`, `/v1/logs`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Traces => "traces",
            Self::Metrics => "metrics",
            Self::Logs => "logs",
        }
    }

    /// What one item is called, for messages that a person reads.
    #[must_use]
    pub const fn item_name(self) -> &'static str {
        match self {
            Self::Traces => "span",
            Self::Metrics => "data point",
            Self::Logs => "log record",
        }
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The text is not the name of a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownSignal;

impl fmt::Display for UnknownSignal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("expected traces, metrics or logs")
    }
}

impl core::error::Error for UnknownSignal {}

impl FromStr for Signal {
    type Err = UnknownSignal;

    fn from_str(text: &str) -> Result<Self, UnknownSignal> {
        Self::ALL.into_iter().find(|signal| signal.name() == text).ok_or(UnknownSignal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: each signal's name is parsed back, and a stranger's too.
    /// Guarantees: names round-trip and nothing else is taken.
    #[test]
    fn a_signal_is_known_by_its_plural_name_only() {
        for signal in Signal::ALL {
            assert_eq!(signal.to_string().parse(), Ok(signal));
        }
        assert_eq!("trace".parse::<Signal>(), Err(UnknownSignal));
    }
}
