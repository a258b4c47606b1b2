//! What a configured id may be made of a plugin.

use serde::Serialize;

use crate::host::{Part, PartError};
use crate::load::Loaded;

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
