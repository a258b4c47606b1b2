//! The link seen as an exporter: a push is a bundle, and its outcome is the collector's acknowledgement.

use std::sync::Arc;

use weir_model::{BoxFuture, Exporter, LANES, Outcome, Push, Seq};

use crate::agent::parcel::{Encoding, Parcel};
use crate::agent::session::Verdict;
use crate::agent::shared::Shared;

/// One log's way over the link.
pub(crate) struct LogExporter {
    pub(crate) shared: Arc<Shared>,
    /// The log's place in the Hello.
    pub(crate) log: u32,
}

/// In the place of a log that the agent was not told of.
pub(crate) struct Unknown(pub(crate) String);

impl LogExporter {
    async fn deliver(&self, push: Push) -> Outcome {
        let Some(places) = push.places else {
            return Outcome::Permanent(
                "a part of one record: over the link a record goes whole, so that it is kept once".to_owned(),
            );
        };
        let (lane, first, count) = (places.lane, places.records.first().copied(), places.records.len());
        let mut parcel = match Parcel::new(self.log, lane, push.signal, places.records, push.body) {
            Ok(parcel) => parcel,
            Err(unfit) => return Outcome::Permanent(unfit.to_string()),
        };
        let first = first.map_or(Seq(0), |place| place.seq);
        parcel.again = places.again || first <= self.shared.rejected(self.log, lane);
        // A lease that is deferred gives its memory back; one that waits here keeps it for as long as the collector is away.
        if self.shared.is_full_without_stream(parcel.bytes()) {
            return Outcome::Retryable {
                message: "no connection to the collector yet, and enough waits for one".to_owned(),
                after: None,
            };
        }
        // Here it keeps nobody waiting but its own lane; the session packs what it finds unpacked.
        let encoding = self.shared.encoding();
        if encoding != Encoding::None {
            parcel.pack(encoding);
        }
        let outcome = match self.shared.offer(parcel) {
            Ok(awaited) => awaited.verdict().await.map_or_else(stopped, outcome),
            Err(verdict) => verdict.map_or_else(stopped, outcome),
        };
        // Of several records the single ones are asked for next, and nothing has gone past them yet.
        if count == 1 && matches!(outcome, Outcome::Permanent(_)) {
            self.shared.was_rejected(self.log, lane, first);
        }
        outcome
    }
}

impl Exporter for LogExporter {
    /// Waits until the collector has answered, however long it is away, but where [`AWAY_BYTES_MAX`] wait already. A dropped push
    /// is withdrawn.
    ///
    /// [`AWAY_BYTES_MAX`]: crate::limits::AWAY_BYTES_MAX
    fn push(&self, push: Push) -> BoxFuture<'_, Outcome> {
        Box::pin(self.deliver(push))
    }

    fn in_flight_max(&self) -> usize {
        LANES
    }
}

impl Exporter for Unknown {
    fn push(&self, _: Push) -> BoxFuture<'_, Outcome> {
        Box::pin(async move { Outcome::Stopped(format!("the agent was not told of a log named {}", self.0)) })
    }

    fn in_flight_max(&self) -> usize {
        1
    }
}

fn outcome(verdict: Verdict) -> Outcome {
    match verdict {
        Verdict::Taken => Outcome::Accepted,
        Verdict::Rejected(reason) => Outcome::Permanent(reason),
        Verdict::TooLarge { bytes, bytes_max } => Outcome::Permanent(format!(
            "a bundle of {bytes} bytes: the collector takes {bytes_max} at most (bundle_bytes_max)"
        )),
    }
}

fn stopped() -> Outcome {
    Outcome::Retryable {
        message: "the agent has stopped, or has too many bundles under way".to_owned(),
        after: None,
    }
}
