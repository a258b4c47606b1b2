//! A bundle's body while its parts come: paid for as a whole before a second part is kept.
//!
//! A body that comes in one part stays where it was read, and is paid for there. Of several parts one body is made, in memory
//! that was claimed for all of it.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use weir_model::{Claim, Exhausted, Ledger};
use weir_net::budget;

use super::bundle::Head;
use super::patience::Patience;

/// A body as it was sent, and who pays for it.
pub(super) struct Sent {
    pub(super) head: Head,
    pub(super) body: Bytes,
    pub(super) claim: Claim,
}

/// A body of which parts are missing.
pub(super) struct Assembly {
    head: Head,
    buffer: BytesMut,
    claim: Claim,
}

impl Assembly {
    /// Begins with the first part, which `first_claim` pays for until it is copied; waits for memory in patience, for the whole
    /// body is claimed now.
    ///
    /// # Errors
    /// [`Exhausted`] where there was none for too long.
    pub(super) async fn begin(
        head: Head,
        first: Bytes,
        first_claim: Claim,
        ledger: Arc<Ledger>,
    ) -> Result<Self, Exhausted> {
        let mut patience = Patience::for_memory();
        let claim = loop {
            match budget::claim(&ledger, head.sent_bytes) {
                Ok(claim) => break claim,
                Err(error) => patience.wait(error).await?,
            }
        };
        // Not more than was claimed, and the head is checked: pages that nothing is written to cost nothing.
        let mut buffer = BytesMut::with_capacity(usize::try_from(head.sent_bytes).unwrap_or(usize::MAX));
        buffer.extend_from_slice(&first);
        drop((first, first_claim));
        Ok(Self { head, buffer, claim })
    }

    /// The next part; the session has checked that there is room for it.
    pub(super) fn add(&mut self, part: &[u8]) {
        self.buffer.extend_from_slice(part);
    }

    /// All parts are there.
    pub(super) fn finish(self) -> Sent {
        let Self { head, buffer, claim } = self;
        Sent { head, body: buffer.freeze(), claim }
    }
}
