//! Bodies of records that were just appended, for exporters that are up to date: they need not be read back.
//!
//! Invariant: never more than its bound, and every body is paid for in the ledger.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use weir_model::{Batch, Claim, Ledger, Origin};

/// A body, what pays for it, and the record's key.
#[derive(Debug, Clone)]
pub(crate) struct Paid {
    pub(crate) body: Bytes,
    pub(crate) claim: Option<Arc<Claim>>,
    pub(crate) origin: Option<Origin>,
}

/// The newest bodies.
#[derive(Debug)]
pub(crate) struct Hot {
    bodies: BTreeMap<u64, Paid>,
    bytes: u64,
    bytes_max: u64,
    ledger: Arc<Ledger>,
}

impl Hot {
    pub(crate) fn new(bytes_max: u64, ledger: Arc<Ledger>) -> Self {
        Self { bodies: BTreeMap::new(), bytes: 0, bytes_max, ledger }
    }

    /// Keeps a body; the oldest go where there is no room.
    pub(crate) fn put(&mut self, seq: u64, batch: Batch) {
        let bytes = batch.body.len() as u64;
        // Above three quarters of the budget the memory is worth more to requests.
        if bytes > self.bytes_max || self.ledger.used() > self.ledger.limit() / 4 * 3 {
            self.bodies.clear();
            self.bytes = 0;
            return;
        }
        let claim = match batch.claim {
            Some(claim) => Some(claim),
            None => match self.ledger.claim(bytes) {
                Ok(claim) => Some(Arc::new(claim)),
                Err(_) => return,
            },
        };
        self.bytes += bytes;
        self.bodies.insert(seq, Paid { body: batch.body, claim, origin: batch.origin });
        while self.bytes > self.bytes_max {
            let Some((_, Paid { body, .. })) = self.bodies.pop_first() else { return };
            self.bytes -= body.len() as u64;
        }
    }

    /// A body, if it is still here.
    pub(crate) fn get(&self, seq: u64) -> Option<Paid> {
        self.bodies.get(&seq).cloned()
    }

    /// Lets a body go that nobody needs any more.
    pub(crate) fn remove(&mut self, seq: u64) {
        if let Some(Paid { body, .. }) = self.bodies.remove(&seq) {
            self.bytes -= body.len() as u64;
        }
    }
}
