//! Order within a node, as a backend sees it.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message;
use weir_proto::opentelemetry::proto::collector::trace::v1::ExportTraceServiceRequest;
use weir_tests::batch::recognise;

/// Breaches that are shown.
const SHOWN_MAX: usize = 5;

/// Follows what a backend took, request after request. A span that came before may come again.
#[derive(Debug, Default)]
pub(crate) struct Order {
    last: BTreeMap<u32, (u64, u16)>,
    seen: BTreeSet<(u32, u64, u16)>,
    breaches: Vec<String>,
}

impl Order {
    /// The next request.
    pub(crate) fn add(&mut self, body: &[u8]) {
        let request = ExportTraceServiceRequest::decode(body).expect("a request of spans");
        let groups = request.resource_spans.iter().flat_map(|group| &group.scope_spans);
        for span in groups.flat_map(|scope| &scope.spans) {
            // Altered spans are the harvest's to tell.
            let Ok((id, _, index)) = recognise(span) else { continue };
            if !self.seen.insert((id.sender, id.number, index)) {
                continue;
            }
            let here = (id.number, index);
            match self.last.insert(id.sender, here) {
                Some(last) if last > here => {
                    self.breaches.push(format!("node {}: {here:?} after {last:?}", id.sender));
                }
                Some(_) | None => (),
            }
        }
    }

    /// Every span came first after all that its node had sent before it.
    #[track_caller]
    pub(crate) fn assert_kept(&self) {
        let shown = &self.breaches[..self.breaches.len().min(SHOWN_MAX)];
        assert!(
            self.breaches.is_empty(),
            "order broken {} times:\n{}",
            self.breaches.len(),
            shown.join("\n")
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weir_tests::{BatchId, Shape};

    /// Scenario: batches 0, 1, 0 again; then 3 before 2.
    /// Guarantees: a repetition is in order, an overtaking is not.
    #[test]
    fn a_repetition_is_in_order_and_an_overtaking_is_not() {
        let shape = Shape { spans: 2, attributes: 1, value_bytes: 3 };
        let body = |number| BatchId { sender: 1, number }.otlp(shape).encode_to_vec();
        let mut order = Order::default();
        [0, 1, 0].iter().for_each(|number| order.add(&body(*number)));
        order.assert_kept();
        [3, 2].iter().for_each(|number| order.add(&body(*number)));
        assert_eq!(order.breaches.len(), 1, "{:?}", order.breaches);
    }
}
