//! What a configured id may be made of a plugin.

use serde::Serialize;
use tracing::warn;

use crate::grant::Grants;
use crate::host::{Part, PartError};
use crate::load::Loaded;
use crate::pool::PoolSettings;

/// What a configured id wants of its plugin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Wanted {
    /// Pushes to a backend.
    Exporter,
    /// Takes what is pushed, and answers requests for it.
    Page,
    /// Requests, calls and datagrams of senders.
    Receiver,
    /// Reads what targets answer.
    Scraper,
}

impl Wanted {
    /// What a configuration calls it.
    pub fn noun(self) -> &'static str {
        match self {
            Self::Exporter | Self::Page => "exporter",
            Self::Receiver | Self::Scraper => "receiver",
        }
    }

    /// Whether it is one instance that remembers: it is kept while it behaves, and what it remembers ends with it.
    pub(crate) fn is_pinned(self) -> bool {
        match self {
            Self::Page | Self::Scraper => true,
            Self::Exporter | Self::Receiver => false,
        }
    }

    /// Says which keys of an id have no effect, so that nobody waits for one.
    pub(crate) fn tell_unused(self, part: &Part) {
        let unused = [
            ("pool", part.pool != PoolSettings::default()),
            ("grants", part.grants != Grants::default()),
            ("auth", part.authorization.is_some()),
        ];
        let unused: Vec<&str> =
            unused.into_iter().filter(|(_, is_said)| *is_said).map(|(key, _)| key).collect();
        if self.is_pinned() && !unused.is_empty() {
            let keys = unused.join(", ");
            warn!(
                id = part.id,
                keys, "keys have no effect: the plugin has one instance, which remembers and sends nowhere"
            );
        }
    }

    /// Whether `loaded` exports all that such an id needs.
    ///
    /// # Errors
    /// [`PartError::Interface`]; [`PartError::Nowhere`] for a receiver whose settings name no address.
    pub(crate) fn is_served_by(self, loaded: &Loaded, part: &Part) -> Result<(), PartError> {
        match self {
            Self::Exporter => loaded.must_have("exporter"),
            Self::Page => loaded.must_have("page"),
            Self::Scraper => loaded.must_have("scraper"),
            Self::Receiver => {
                let listeners = loaded.listeners(&part.settings);
                if listeners.is_empty() {
                    return Err(PartError::Nowhere { plugin: loaded.name.clone(), id: part.id.clone() });
                }
                listeners.iter().try_for_each(|listener| loaded.must_have(listener.kind.interface()))
            }
        }
    }
}

/// What each part that is a plugin shows of its slot, whatever it is.
macro_rules! shows_its_slot {
    ($part:ty) => {
        impl $part {
            /// What it counts, whatever code serves.
            pub fn counts(&self) -> &$crate::counts::PluginCounts {
                self.slot.counts()
            }

            /// What the plugin counts itself.
            pub fn meter(&self) -> &$crate::meter::Meter {
                self.slot.meter()
            }

            /// Bytes of guest memory in its idle instances.
            pub fn idle_bytes(&self) -> usize {
                self.slot.idle_bytes()
            }

            /// The quarantine that it is in.
            pub fn quarantine(&self) -> Option<$crate::quarantine::Quarantined> {
                self.slot.quarantine()
            }

            /// Ends its quarantine, and forgets what led to it. `false`: it has no code.
            pub fn release(&self) -> bool {
                self.slot.release() != $crate::slot::Released::Nothing
            }
        }
    };
}
pub(crate) use shows_its_slot;
