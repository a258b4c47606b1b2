//! Plugins whose instances end too often are kept from work for a while.

use std::time::Duration;

/// When a configured id is kept from work, and for how long (`quarantine:`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuarantineSettings {
    /// Ends of instances within [`QuarantineSettings::window`] that are enough.
    pub ends_max: u32,
    /// See [`QuarantineSettings::ends_max`].
    pub window: Duration,
    /// How long the first quarantine lasts; each one after it lasts twice as long as the one before.
    pub first: Duration,
    /// How long one lasts at most.
    pub longest: Duration,
}

impl Default for QuarantineSettings {
    /// 5 ends in a minute; a minute at first, an hour at most.
    fn default() -> Self {
        Self {
            ends_max: 5,
            window: Duration::from_secs(60),
            first: Duration::from_secs(60),
            longest: Duration::from_secs(3600),
        }
    }
}
