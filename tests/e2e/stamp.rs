//! Batches made by patching ids, for load that the making must not slow.
//!
//! ```text
//! span   0a 10 trace id (mark · sender · NUMBER · shape)   12 08 SPAN ID   …the same in every batch…
//! ```

use std::collections::HashMap;

use bytes::Bytes;
use prost::Message;
use weir_proto::opentelemetry::proto::collector::trace::v1::ExportTraceServiceRequest;
use weir_proto::opentelemetry::proto::trace::v1::Span;
use weir_tests::{BatchId, Shape};

/// The tags and lengths around a trace id's 16 bytes.
const TRACE_ID: [u8; 2] = [0x0a, 16];
const SPAN_ID: [u8; 2] = [0x12, 8];

/// Spans of a batch whose coming is kept in one word.
pub(crate) const SPANS_MAX: u16 = 64;

/// One node's batches.
#[derive(Debug)]
pub(crate) struct Stamp {
    bytes: Vec<u8>,
    /// Where each span's trace id begins.
    places: Vec<usize>,
    spans: Vec<Span>,
}

impl Stamp {
    /// Batches of this node, which all have the content of its number 0.
    pub(crate) fn new(sender: u32, shape: Shape) -> Self {
        assert!(shape.spans <= SPANS_MAX, "a word has 64 bits");
        let first = BatchId { sender, number: 0 };
        let request = first.otlp(shape);
        let bytes = request.encode_to_vec();
        let spans = request.resource_spans[0].scope_spans[0].spans.clone();
        let marked = [&TRACE_ID[..], &spans[0].trace_id, &SPAN_ID].concat();
        let is_here = |at: &usize| bytes[*at..].starts_with(&marked);
        let places: Vec<usize> = (0..bytes.len()).filter(is_here).map(|at| at + TRACE_ID.len()).collect();
        assert_eq!(places.len(), spans.len(), "every span has one place");
        Self { bytes, places, spans }
    }

    /// Batch `number`.
    pub(crate) fn batch(&self, number: u64) -> Bytes {
        let mut bytes = self.bytes.clone();
        for (place, index) in self.places.iter().zip(0..) {
            bytes[place + 4..place + 12].copy_from_slice(&number.to_be_bytes());
            let id = place + 16 + SPAN_ID.len();
            bytes[id..id + 8].copy_from_slice(&span_id(number, index));
        }
        bytes.into()
    }
}

fn span_id(number: u64, index: u64) -> [u8; 8] {
    ((number << 16 | index) + 1).to_be_bytes()
}

/// Which stamped spans came.
#[derive(Debug)]
pub(crate) struct Tally {
    stamps: HashMap<u32, Vec<Span>>,
    /// One bit for each span.
    seen: HashMap<BatchId, u64>,
}

impl Tally {
    /// Of these stamps, by their senders.
    pub(crate) fn new<'a>(stamps: impl IntoIterator<Item = (u32, &'a Stamp)>) -> Self {
        let spans = stamps.into_iter().map(|(sender, stamp)| (sender, stamp.spans.clone()));
        Self { stamps: spans.collect(), seen: HashMap::new() }
    }

    /// A request that a backend took; spans of other senders are left alone.
    ///
    /// # Panics
    /// Where a span is not as it was sent.
    pub(crate) fn add(&mut self, body: &[u8]) {
        let request = ExportTraceServiceRequest::decode(body).expect("a request of spans");
        let groups = request.resource_spans.into_iter().flat_map(|group| group.scope_spans);
        for mut span in groups.flat_map(|scope| scope.spans) {
            let trace = <[u8; 16]>::try_from(&*span.trace_id).expect("a trace id");
            let sender = u32::from_be_bytes([0, trace[1], trace[2], trace[3]]);
            let Some(stamps) = self.stamps.get(&sender) else { continue };
            let number = trace[4..12].iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
            let id = u64::from_be_bytes(<[u8; 8]>::try_from(&*span.span_id).expect("a span id")) - 1;
            let index = id ^ number << 16;
            let stamp =
                usize::try_from(index).ok().and_then(|index| stamps.get(index)).expect("a span of its batch");
            span.trace_id[4..12].fill(0);
            span.span_id = span_id(0, index).to_vec();
            assert_eq!(&span, stamp, "span {index} of batch {number} of {sender} is altered");
            *self.seen.entry(BatchId { sender, number }).or_default() |= 1 << index;
        }
    }

    /// Whether each span of this batch came.
    pub(crate) fn has(&self, id: BatchId, shape: Shape) -> bool {
        let all = u64::MAX >> (SPANS_MAX - shape.spans);
        self.seen.get(&id) == Some(&all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: two batches of one stamp, then one of them without its last span.
    /// Guarantees: a batch is there with its last span, and not before.
    #[test]
    fn a_stamped_batch_is_there_with_its_last_span() {
        let shape = Shape { spans: 64, attributes: 2, value_bytes: 9 };
        let stamp = Stamp::new(5, shape);
        let mut tally = Tally::new([(5, &stamp)]);
        tally.add(&stamp.batch(70_000));
        let mut cut = ExportTraceServiceRequest::decode(stamp.batch(3)).expect("a request");
        cut.resource_spans[0].scope_spans[0].spans.truncate(63);
        tally.add(&cut.encode_to_vec());
        let has = |number| tally.has(BatchId { sender: 5, number }, shape);
        assert!(has(70_000) && !has(3) && !has(4));
    }
}
