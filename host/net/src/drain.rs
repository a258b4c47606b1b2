//! The word that it is time to stop taking and to finish what was taken.

use tokio_util::sync::CancellationToken;

/// Heard by everyone who holds a clone; said once, never taken back.
#[derive(Debug, Clone, Default)]
pub struct Drain(CancellationToken);

impl Drain {
    /// A drain that nobody has signaled yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Says it, to this one, its clones and its children.
    pub fn signal(&self) {
        self.0.cancel();
    }

    /// Whether it has been said.
    pub fn is_signaled(&self) -> bool {
        self.0.is_cancelled()
    }

    /// Returns once it has been said.
    ///
    /// # Cancel safety
    /// Safe to drop and to call again.
    pub async fn signaled(&self) {
        self.0.cancelled().await;
    }

    /// A drain of a part: hears what its parent hears, and can be signaled alone.
    #[must_use]
    pub fn child(&self) -> Self {
        Self(self.0.child_token())
    }
}
