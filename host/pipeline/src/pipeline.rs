//! One pipeline: group, augment, admit.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use weir_model::count::BySignal;
use weir_model::{
    Admission, Arrival, Batch, Bundle, Claim, Lane, Ledger, Log, NodeRegistry, Origin, Place, Reason, Refusal,
};

use crate::augment::Augment;
use crate::group::{self, Group, Spoke};

/// Bytes that resource attributes may add to a request: a thousand resources with kilobytes each, and far more than
/// any library sends; without a bound, two bytes for each empty group would become hundreds.
const GROWTH_BYTES_MAX: usize = 16 << 20;

/// What one pipeline counts, in items.
#[derive(Debug, Clone, Default)]
pub struct PipelineCounts {
    /// Items that doors handed on.
    pub incoming: BySignal,
    /// Items that the log admitted.
    pub outgoing: BySignal,
}

/// One pipeline of one signal.
pub struct Pipeline {
    /// Its name in the configuration (`traces`, `metrics/edge`).
    pub name: String,
    /// What is added to every resource, in this order.
    pub augments: Vec<Augment>,
    /// Where its batches are kept.
    pub log: Arc<dyn Log>,
    /// Whom it has heard.
    pub nodes: Arc<NodeRegistry>,
    /// Pays for bytes that it makes.
    pub ledger: Arc<Ledger>,
    /// What it counts.
    pub counts: PipelineCounts,
}

impl std::fmt::Debug for Pipeline {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pipeline").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Room for an arrival, and whom to count when it has been taken.
pub(crate) struct Admitted {
    pub(crate) admission: Box<dyn Admission>,
    pub(crate) spoke: Vec<Spoke>,
}

impl Pipeline {
    /// Makes batches of an arrival and reserves room for them.
    ///
    /// # Errors
    /// What the log says, or that memory for the changed bytes is not there.
    pub(crate) fn admit(&self, arrival: &Arrival) -> Result<Admitted, Refusal> {
        let (signal, items) = (arrival.signal, u64::from(arrival.items));
        self.counts.incoming.of(signal).add(items);
        // Who speaks is what the sender said, so nodes are told apart before anything is added.
        let (groups, spoke) = match (&arrival.bundle, arrival.node) {
            (Some(bundle), _) => return self.admit_bundle(arrival, bundle),
            (None, Some(node)) => {
                let whole = Group { lane: Lane::of(node), items: arrival.items, body: arrival.body.clone() };
                (vec![whole], Vec::new())
            }
            (None, None) => group::by_lane(signal, &arrival.body, arrival.items).map_err(|e| broken(&e))?,
        };
        let batches = groups
            .into_iter()
            .map(|Group { lane, items, body }| {
                let (body, claim) = self.augmented(body, arrival.claim.clone())?;
                Ok(Batch { signal, lane, items, body, origin: None, claim })
            })
            .collect::<Result<Vec<_>, Refusal>>()?;
        let admission = self.log.admit(batches)?;
        self.counts.outgoing.of(signal).add(items);
        Ok(Admitted { admission, spoke })
    }

    /// The same for records of another Weir: each stays what it is, in its own lane and under its own key, which it has but
    /// where it comes again after a rejection.
    fn admit_bundle(&self, arrival: &Arrival, bundle: &Bundle) -> Result<Admitted, Refusal> {
        let mut batches = Vec::with_capacity(bundle.records.len());
        let mut rest = arrival.body.clone();
        for Place { seq, items, bytes } in bundle.records.iter().copied() {
            let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
            if bytes > rest.len() {
                let why = "the records of a bundle are longer than its body";
                return Err(Refusal::permanent(Reason::Malformed, why));
            }
            let (body, claim) = self.augmented(rest.split_to(bytes), arrival.claim.clone())?;
            // A mark above the place of what was rejected before does not say that it is here: it is stored as what has no key.
            let source = Some(&bundle.source).filter(|_| !bundle.again);
            let origin = source.map(|source| Origin { source: Arc::clone(source), epoch: bundle.epoch, seq });
            let (signal, lane) = (arrival.signal, bundle.lane);
            batches.push(Batch { signal, lane, items, body, origin, claim });
        }
        let admission = self.log.admit(batches)?;
        self.counts.outgoing.of(arrival.signal).add(u64::from(arrival.items));
        Ok(Admitted { admission, spoke: Vec::new() })
    }

    /// Counts what was taken for the nodes that spoke.
    pub(crate) fn took(&self, arrival: &Arrival, spoke: &[Spoke], now: Instant) {
        if let Some(node) = arrival.node {
            self.nodes.took_known(node, u64::from(arrival.items), now);
        }
        for Spoke { node, items } in spoke {
            self.nodes.took(node, u64::from(*items), now);
        }
    }

    fn augmented(
        &self,
        mut body: Bytes,
        mut claim: Option<Arc<Claim>>,
    ) -> Result<(Bytes, Option<Arc<Claim>>), Refusal> {
        for augment in &self.augments {
            let most = augment.bytes_max(&body).map_err(|e| broken(&e))?;
            if most - body.len() > GROWTH_BYTES_MAX {
                let why = format!(
                    "resource attributes would make up to {most} bytes of {}: send fewer resources in a request",
                    body.len()
                );
                return Err(Refusal::permanent(Reason::TooLarge, why));
            }
            let mut paid = self
                .ledger
                .claim(most as u64)
                .map_err(|exhausted| Refusal::transient(Reason::MemoryFull, None, exhausted))?;
            let augmented = augment.apply(&body).map_err(|e| broken(&e))?;
            if augmented.as_ptr() != body.as_ptr() {
                paid.shrink_to(augmented.len() as u64);
                (body, claim) = (augmented, Some(Arc::new(paid)));
            }
        }
        Ok((body, claim))
    }
}

/// A door walks before it hands on, so this is a door's mistake; the sender is told that its bytes will not do.
fn broken(error: &weir_wire::Malformed) -> Refusal {
    Refusal::permanent(Reason::Malformed, error.to_string())
}
