//! The link seen as an exporter: a push is a bundle, and its outcome is the collector's acknowledgement.
//!
//! Where records of a push were rejected before, and others not, it is several bundles, one after the other.

use std::sync::{Arc, Weak};

use bytes::Bytes;
use tracing::warn;
use weir_model::{BoxFuture, Exporter, LANES, Lane, Outcome, Places, Push, Seq, Signal};
use weir_queue::QueueError;

use crate::agent::connection::{chain, on_disk};
use crate::agent::folder::FolderError;
use crate::agent::parcel::{Encoding, Parcel, Unfit};
use crate::agent::rejected::Rejected;
use crate::agent::session::Verdict;
use crate::agent::shared::Shared;

/// One log's way over the link.
pub(crate) struct LogExporter {
    pub(crate) shared: Arc<Shared>,
    /// Gone with the agent, so that a push that waits does not keep its folder.
    pub(crate) rejected: Weak<Rejected>,
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
        let (lane, alone) = match places.records.as_slice() {
            // A dead letter says of itself that it was rejected.
            [one] if !places.again => (places.lane, Some(one.seq)),
            _ => (places.lane, None),
        };
        let parcels = match self.parcels(push.signal, places, push.body) {
            Some(Ok(parcels)) => parcels,
            Some(Err(unfit)) => return Outcome::Permanent(unfit.to_string()),
            None => return stopped(),
        };
        for parcel in parcels {
            let (again, first, last) = (parcel.again, parcel.first(), parcel.last());
            match (self.send(parcel).await, alone) {
                (Outcome::Accepted, _) => {
                    if let Some(rejected) = self.rejected.upgrade().filter(|_| again) {
                        rejected.forget(self.log, lane, first, last);
                    }
                }
                // Of several records the single ones are asked for next, and nothing has gone past them yet.
                (Outcome::Permanent(why), Some(seq)) => return self.reject(lane, seq, why).await,
                (outcome, _) => return outcome,
            }
        }
        Outcome::Accepted
    }

    /// Records that were rejected before apart from the others: a mark of the collector may have passed them, and it speaks for the
    /// others only. None where the agent is gone.
    fn parcels(&self, signal: Signal, places: Places, mut body: Bytes) -> Option<Result<Vec<Parcel>, Unfit>> {
        let Places { lane, records, again } = places;
        let runs = match again {
            true => vec![(0..records.len(), true)],
            false => self.rejected.upgrade()?.runs(self.log, lane, &records),
        };
        let last = runs.len() - 1;
        let parcel = |(number, (run, again)): (usize, (std::ops::Range<usize>, bool))| {
            let records = records[run].to_vec();
            let bytes = records.iter().map(|record| u64::from(record.bytes)).sum::<u64>();
            let bytes = usize::try_from(bytes).unwrap_or(usize::MAX).min(body.len());
            // Whether the places are those of the body is looked at with the last.
            let body = if number == last { std::mem::take(&mut body) } else { body.split_to(bytes) };
            let mut parcel = Parcel::new(self.log, lane, signal, records, body)?;
            parcel.again = again;
            Ok(parcel)
        };
        Some(runs.into_iter().enumerate().map(parcel).collect())
    }

    async fn send(&self, mut parcel: Parcel) -> Outcome {
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
        match self.shared.offer(parcel) {
            Ok(awaited) => awaited.verdict().await.map_or_else(stopped, outcome),
            Err(verdict) => verdict.map_or_else(stopped, outcome),
        }
    }

    /// Writes down that a record was rejected before anybody is told: later ones of its lane follow then, and raise the mark above it.
    async fn reject(&self, lane: Lane, seq: Seq, why: String) -> Outcome {
        let Some(rejected) = self.rejected.upgrade() else { return stopped() };
        let (shared, log) = (Arc::clone(&self.shared), self.log);
        let noted = on_disk(move || {
            let settled = shared.settled().get(log as usize).copied().flatten();
            rejected.note(log, lane, seq, settled)
        });
        match noted.await {
            Ok(()) => Outcome::Permanent(why),
            // The agent has ended meanwhile: nothing is wrong with the disk.
            Err(FolderError::Write(QueueError::Closed)) => stopped(),
            Err(cause) => {
                let error = chain(&cause);
                warn!(%seq, why, error, "the collector rejected a record, and that cannot be written down: it is sent again");
                let message = format!(
                    "the collector rejected record {seq} ({why}), and that cannot be written down ({error}): free the disk"
                );
                Outcome::Retryable { message, after: None }
            }
        }
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
