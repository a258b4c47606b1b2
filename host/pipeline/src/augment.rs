//! What the host and the configuration know of a resource.

use bytes::Bytes;
use weir_wire::{Addition, Malformed, augment};

/// Attributes for the resources of every request.
#[derive(Debug, Clone, Default)]
pub struct Augment {
    /// The attributes.
    pub additions: Vec<Addition>,
    /// Whether they replace what the sender said; by default they never do.
    pub overwrite: bool,
}

impl Augment {
    /// The body with the attributes added: the same bytes, unshared, where nothing had to change.
    ///
    /// # Errors
    /// [`Malformed`] where the frames around the resources are broken.
    pub fn apply(&self, body: &Bytes) -> Result<Bytes, Malformed> {
        match augment(body, &self.additions, self.overwrite)? {
            std::borrow::Cow::Borrowed(_) => Ok(body.clone()),
            std::borrow::Cow::Owned(changed) => Ok(Bytes::from(changed)),
        }
    }

    /// Whether there is nothing to add.
    pub fn is_empty(&self) -> bool {
        self.additions.is_empty()
    }

    /// Bytes that one resource may grow by, at most.
    pub fn growth_bytes(&self) -> usize {
        // A key, a value and three lengths of at most five bytes; the additions themselves are counted by their keys
        // and a bound on what a configuration's value is.
        self.additions.iter().map(|addition| addition.key().len() + VALUE_BYTES_USUAL).sum()
    }
}

/// What a configured attribute's value and its frames are reckoned at when room is claimed for it.
const VALUE_BYTES_USUAL: usize = 128;
