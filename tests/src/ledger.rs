//! What was acknowledged, beside what arrived.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prost::Message;
use weir_proto::opentelemetry::proto::collector::trace::v1::ExportTraceServiceRequest;

use crate::batch::{self, BatchId, Shape};

/// Altered spans that are kept for a person; all are counted.
const ALTERED_SHOWN_MAX: usize = 10;

/// The batches whose senders were told that they are safe. Clones are one.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    acknowledged: Arc<Mutex<BTreeMap<BatchId, Shape>>>,
}

impl Ledger {
    /// The sender of this batch has its answer.
    pub fn acknowledge(&self, id: BatchId, shape: Shape) {
        self.lock().insert(id, shape);
    }

    /// How many.
    pub fn batches(&self) -> usize {
        self.lock().len()
    }

    /// Spans in them.
    pub fn spans(&self) -> u64 {
        self.lock().values().map(|shape| u64::from(shape.spans)).sum()
    }

    /// Forgets what a test has checked already.
    pub fn clear(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<BatchId, Shape>> {
        self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a backend has, span by span.
#[derive(Debug, Default)]
pub struct Harvest {
    /// How often each span of a batch came.
    seen: BTreeMap<BatchId, Vec<u32>>,
    altered: Vec<String>,
    altered_count: u64,
}

impl Harvest {
    /// Adds a request of spans, as a sink keeps it.
    ///
    /// # Panics
    /// Where the bytes are none.
    pub fn add(&mut self, body: &[u8]) {
        let request = ExportTraceServiceRequest::decode(body).expect("a request of spans");
        let groups = request.resource_spans.iter().flat_map(|group| &group.scope_spans);
        for span in groups.flat_map(|scope| &scope.spans) {
            match batch::recognise(span) {
                Ok((id, shape, index)) => {
                    let seen = self.seen.entry(id).or_insert_with(|| vec![0; shape.spans.into()]);
                    seen[usize::from(index)] += 1;
                }
                Err(why) => {
                    self.altered_count += 1;
                    if self.altered.len() < ALTERED_SHOWN_MAX {
                        self.altered.push(why);
                    }
                }
            }
        }
    }

    /// Batches that were acknowledged and of which a span is missing.
    pub fn missing(&self, ledger: &Ledger) -> Vec<BatchId> {
        let ledger = ledger.lock();
        let is_whole = |id: &BatchId, shape: &Shape| {
            let seen = self.seen.get(id);
            seen.is_some_and(|seen| {
                seen.len() == usize::from(shape.spans) && seen.iter().all(|count| *count > 0)
            })
        };
        ledger.iter().filter(|(id, shape)| !is_whole(id, shape)).map(|(id, _)| *id).collect()
    }

    /// Spans that are not as they were sent, in words; at most ten.
    pub fn altered(&self) -> &[String] {
        &self.altered
    }

    /// Spans that came, each counted once.
    pub fn spans(&self) -> u64 {
        self.seen.values().flatten().filter(|count| **count > 0).count() as u64
    }

    /// Spans that came again.
    pub fn repeated(&self) -> u64 {
        self.seen.values().flatten().map(|count| u64::from(count.saturating_sub(1))).sum()
    }

    /// Nothing acknowledged is missing, nothing is altered.
    ///
    /// # Panics
    /// Otherwise, with names.
    #[track_caller]
    pub fn assert_keeps(&self, ledger: &Ledger) {
        let missing = self.missing(ledger);
        let shown = &missing[..missing.len().min(ALTERED_SHOWN_MAX)];
        assert!(missing.is_empty(), "{} acknowledged batches are missing: {shown:?} …", missing.len());
        assert!(
            self.altered.is_empty(),
            "{} spans altered:\n{}",
            self.altered_count,
            self.altered.join("\n")
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: two batches are acknowledged; of one a span never arrives, of the other one arrives twice.
    /// Guarantees: the first is missing, the second is repeated, and no more.
    #[test]
    fn a_missing_span_makes_its_batch_missing() {
        let shape = Shape { spans: 2, attributes: 1, value_bytes: 3 };
        let [whole, broken] = [0, 1].map(|number| BatchId { sender: 3, number });
        let ledger = Ledger::default();
        ledger.acknowledge(whole, shape);
        ledger.acknowledge(broken, shape);
        let mut harvest = Harvest::default();
        let mut body = whole.otlp(shape);
        harvest.add(&body.encode_to_vec());
        body.resource_spans[0].scope_spans[0].spans.truncate(1);
        harvest.add(&body.encode_to_vec());
        let mut half = broken.otlp(shape);
        half.resource_spans[0].scope_spans[0].spans.truncate(1);
        harvest.add(&half.encode_to_vec());
        assert_eq!(harvest.missing(&ledger), [broken]);
        assert_eq!((harvest.spans(), harvest.repeated()), (3, 1));
        assert!(harvest.altered().is_empty());
    }
}
