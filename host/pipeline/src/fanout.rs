//! A receiver in one or several pipelines: all take a request, or none.

use std::sync::Arc;
use std::time::Instant;

use weir_model::{Arrival, BoxFuture, Consumer, Reason, Receipt, Refusal};

use crate::pipeline::{Admitted, Pipeline};

/// The pipelines that one receiver feeds with one signal.
#[derive(Debug, Clone)]
pub struct Fanout {
    pipelines: Vec<Arc<Pipeline>>,
}

impl Fanout {
    /// Joins pipelines; there has to be at least one for anything to be taken.
    pub fn new(pipelines: Vec<Arc<Pipeline>>) -> Self {
        Self { pipelines }
    }

    /// Admits everywhere before it commits anywhere: what can fail comes first.
    async fn take(&self, arrival: Arrival) -> Result<Receipt, Refusal> {
        let mut admitted = Vec::with_capacity(self.pipelines.len());
        for pipeline in &self.pipelines {
            admitted.push(pipeline.admit(&arrival)?);
        }
        // The places in the order of each log are taken here, one after the other and without an await between.
        let commits: Vec<_> =
            admitted.into_iter().map(|Admitted { admission, spoke }| (admission.commit(), spoke)).collect();
        let mut receipt: Option<Receipt> = None;
        for ((commit, spoke), pipeline) in commits.into_iter().zip(&self.pipelines) {
            let proof = commit.await?;
            // All pipelines share the table of nodes: what was said once is counted once.
            if receipt.is_none() {
                pipeline.took(&arrival, &spoke, Instant::now());
            }
            receipt = Some(match receipt {
                Some(other) => other.and(proof),
                None => proof,
            });
        }
        receipt.ok_or_else(|| Refusal::permanent(Reason::NoPipeline, "no pipeline takes this signal"))
    }
}

impl Consumer for Fanout {
    fn consume(&self, arrival: Arrival) -> BoxFuture<'_, Result<Receipt, Refusal>> {
        Box::pin(self.take(arrival))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use bytes::Bytes;
    use weir_model::{
        Admission, Batch, Bundle, Held, Lane, Ledger, Log, NodeRegistry, Place, Seq, Signal, Source,
    };

    use weir_wire::Addition;

    use super::*;
    use crate::augment::Augment;
    use crate::pipeline::PipelineCounts;

    /// A log that takes all, or nothing.
    struct Fake {
        refuses: bool,
        taken: Arc<Mutex<Vec<Batch>>>,
    }

    struct Room {
        batches: Vec<Batch>,
        taken: Arc<Mutex<Vec<Batch>>>,
    }

    impl Log for Fake {
        fn admit(&self, batches: Vec<Batch>) -> Result<Box<dyn Admission>, Refusal> {
            if self.refuses {
                return Err(Refusal::transient(Reason::QueueFull, None, "full"));
            }
            Ok(Box::new(Room { batches, taken: Arc::clone(&self.taken) }))
        }
    }

    impl Admission for Room {
        fn commit(self: Box<Self>) -> BoxFuture<'static, Result<Receipt, Refusal>> {
            self.taken.lock().unwrap().extend(self.batches);
            Box::pin(async { Ok(Receipt::Held(Held::vouch(Seq(1)))) })
        }
    }

    fn pipeline(refuses: bool) -> (Arc<Pipeline>, Arc<Mutex<Vec<Batch>>>) {
        let taken = Arc::new(Mutex::new(Vec::new()));
        let pipeline = Pipeline {
            name: "traces".into(),
            augments: Vec::new(),
            log: Arc::new(Fake { refuses, taken: Arc::clone(&taken) }),
            nodes: Arc::new(NodeRegistry::default()),
            ledger: Ledger::new(1 << 20),
            counts: PipelineCounts::default(),
        };
        (Arc::new(pipeline), taken)
    }

    fn arrival() -> Arrival {
        Arrival {
            signal: Signal::Traces,
            body: Bytes::from_static(&[]),
            items: 1,
            receiver: "otlp".into(),
            node: Some(weir_model::NodeId(7)),
            bundle: None,
            claim: None,
        }
    }

    /// Scenario: a bundle of another Weir, and the same once more as one that was rejected before.
    /// Guarantees: the first is stored under its key; the second without one, so that no mark speaks for it or is moved by it.
    #[tokio::test]
    async fn what_comes_again_after_a_rejection_has_no_key() {
        let (pipeline, taken) = pipeline(false);
        for again in [false, true] {
            let source = Source { identity: "edge".to_owned(), incarnation: 1, log: "traces".to_owned() };
            let records = vec![Place { seq: Seq(7), items: 1, bytes: 0 }];
            let lane = Lane::new(3).unwrap();
            let bundle = Bundle { source: Arc::new(source), epoch: 1, lane, records, again };
            let arrival = Arrival { node: None, bundle: Some(Arc::new(bundle)), ..arrival() };
            let admitted = pipeline.admit(&arrival).unwrap();
            let _receipt = admitted.admission.commit().await.unwrap();
            let batch = taken.lock().unwrap().pop().unwrap();
            assert_eq!(
                (batch.lane, batch.origin.map(|origin| origin.seq)),
                (lane, (!again).then_some(Seq(7)))
            );
        }
    }

    /// Scenario: a pipeline adds an attribute to a request of many empty groups, and to one of far more.
    /// Guarantees: the bytes that come of the first are paid for to the last one; the second, which would become hundreds
    /// of times as long, is refused for good.
    #[tokio::test]
    async fn what_is_added_is_paid_for_and_bounded() {
        let taken = Arc::new(Mutex::new(Vec::new()));
        let value = "v".repeat(300);
        let augment = Augment { additions: vec![Addition::string("key", &value)], overwrite: false };
        let pipeline = Arc::new(Pipeline {
            name: "traces".into(),
            augments: vec![augment],
            log: Arc::new(Fake { refuses: false, taken: Arc::clone(&taken) }),
            nodes: Arc::new(NodeRegistry::default()),
            ledger: Ledger::new(64 << 20),
            counts: PipelineCounts::default(),
        });
        let fanout = Fanout::new(vec![Arc::clone(&pipeline)]);
        let of_groups = |groups| Arrival { body: Bytes::from([0x0a, 0].repeat(groups)), ..arrival() };
        drop(fanout.consume(of_groups(1_000)).await.unwrap());
        let batch = taken.lock().unwrap().pop().unwrap();
        assert!(batch.body.len() > 300 * 1_000);
        assert_eq!(batch.claim.as_ref().unwrap().bytes(), batch.body.len() as u64);
        assert_eq!(pipeline.ledger.used(), batch.body.len() as u64);
        let refused = fanout.consume(of_groups(65_535)).await.unwrap_err();
        assert_eq!(refused.reason(), Reason::TooLarge);
        assert!(taken.lock().unwrap().is_empty());
    }

    /// Scenario: a receiver feeds two pipelines, and the log of the second is full.
    /// Guarantees: the sender hears a refusal for now, and the first log has nothing of the request either.
    #[tokio::test]
    async fn a_request_is_taken_by_all_or_by_none() {
        let (first, first_taken) = pipeline(false);
        let (full, _) = pipeline(true);
        let refused = Fanout::new(vec![Arc::clone(&first), full]).consume(arrival()).await;
        assert!(matches!(refused, Err(Refusal::Transient { .. })));
        assert!(first_taken.lock().unwrap().is_empty());

        let (second, second_taken) = pipeline(false);
        let receipt = Fanout::new(vec![first, second]).consume(arrival()).await.unwrap();
        assert!(matches!(receipt, Receipt::Held(_)));
        assert_eq!((first_taken.lock().unwrap().len(), second_taken.lock().unwrap().len()), (1, 1));
    }
}
