//! What the host and the configuration know of a resource.

use bytes::Bytes;
use weir_wire::{Addition, Malformed, augment, augmented_bytes_max};

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

    /// Bytes that it may make of a body, at most.
    ///
    /// # Errors
    /// [`Malformed`] where the outermost frames are broken.
    pub fn bytes_max(&self, body: &[u8]) -> Result<usize, Malformed> {
        augmented_bytes_max(body, &self.additions)
    }
}
