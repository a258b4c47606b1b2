//! The law between parts.
//!
//! A **door** (receiver) makes an [`Arrival`] out of a request and hands it to a [`Consumer`]. It answers success
//! only by consuming the [`Receipt`], and nothing before; a [`Refusal`] is told to the sender in the words of its
//! protocol. A door bounds how many calls it has under way for a stream.
//!
//! A **pipeline** is the consumer: it augments, groups by node into [`Batch`]es and appends them to a [`Log`] in
//! one piece. Where a receiver feeds several pipelines, each log admits first, and only when all have admitted
//! does any commit: a request is taken whole by all, or refused by all. No timer stands before a receipt.
//!
//! A **log** holds what was promised until every exporter has settled it. The exporter side of a log (leases,
//! settlements) is the business of `queue` and `exporter` alone.
//!
//! An **[`Exporter`]** takes one push and says how it went. It keeps nothing, retries nothing, orders nothing.
//!
//! Every part may be dropped at any await: a dropped `consume` may or may not have been persisted (the sender was
//! told nothing), a dropped `push` counts as deferred.

use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;

use crate::scrape::{Fetched, Target};
use crate::{Arrival, Batch, Mark, Outcome, Push, Receipt, Refusal, Signal};
use crate::{http, unary};

/// A future behind a pointer: these calls happen once a request, never once an item.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What a plugin made of a message: OTLP bytes by signal, not checked yet.
pub type Telemetry = Vec<(Signal, Bytes)>;

/// Takes what doors hand on.
pub trait Consumer: Send + Sync {
    /// Takes an arrival and returns when it is where the pipeline promises it to be, or says why not.
    ///
    /// The place in the order is taken at the future's first poll, so that a door that polls in order keeps order.
    ///
    /// # Errors
    /// [`Refusal`]: nothing of the arrival was taken.
    ///
    /// # Cancel safety
    /// A dropped future may have been persisted; the sender was not answered and may send again.
    fn consume(&self, arrival: Arrival) -> BoxFuture<'_, Result<Receipt, Refusal>>;
}

/// Holds batches, in order within a lane, until all exporters have settled them.
pub trait Log: Send + Sync {
    /// Reserves room for all of `batches`, in their order, or says why not. Nothing is written yet.
    ///
    /// # Errors
    /// [`Refusal`]: no room, failed disk, or draining; nothing is reserved.
    fn admit(&self, batches: Vec<Batch>) -> Result<Box<dyn Admission>, Refusal>;

    /// The newest record of each log of the agent `identity` that is here. A batch whose [`crate::Origin`] is not above the
    /// mark of its source and lane is vouched for and not stored again; mark and batch are written in one transaction.
    fn marks(&self, _identity: &str) -> Vec<Mark> {
        Vec::new()
    }
}

/// Room in a log. Dropping it gives the room back.
#[must_use = "an admission that is dropped gives its room back"]
pub trait Admission: Send {
    /// Appends what was admitted, in one transaction, and returns once the log can vouch for it.
    ///
    /// The call takes the place in the order; the future waits for the disk.
    ///
    /// # Errors
    /// [`Refusal::Transient`] where the log could not write: nothing was promised.
    fn commit(self: Box<Self>) -> BoxFuture<'static, Result<Receipt, Refusal>>;
}

/// Hands bytes to a backend.
pub trait Exporter: Send + Sync {
    /// Makes one try.
    fn push(&self, push: Push) -> BoxFuture<'_, Outcome>;

    /// How many pushes may be under way at once: 1 or more.
    fn in_flight_max(&self) -> usize;

    /// Changes when the code behind this exporter is replaced while the process runs: what was learned about the old
    /// code (which records end it) says nothing about the new.
    fn generation(&self) -> u64 {
        0
    }

    /// A record was found that ended the instances of a plugin, and is refused: worth trying at once whether it works
    /// without that one.
    fn found_at_fault(&self) {}
}

/// A plugin seen as a receiver of HTTP requests. The door owns the socket, the limits and the answer.
pub trait HttpReceiver: Send + Sync {
    /// Makes telemetry or a reply out of one request; `listener` is the name of the setting that bound the address.
    ///
    /// # Errors
    /// [`Refusal::Transient`] where the plugin's instance ended or none was free in time.
    fn receive<'a>(
        &'a self,
        listener: &'a str,
        request: http::Request,
    ) -> BoxFuture<'a, Result<http::Answer, Refusal>>;
}

/// A plugin seen as a receiver of datagrams. The door owns the socket and the limits; there is nobody to answer.
pub trait DatagramReceiver: Send + Sync {
    /// Makes telemetry out of one datagram: OTLP bytes by signal, not checked yet. `listener` is the name of the setting
    /// that bound the address.
    ///
    /// # Errors
    /// Outside, a [`Refusal`] as of [`HttpReceiver::receive`]; inside, why the datagram is no telemetry.
    fn receive<'a>(
        &'a self,
        listener: &'a str,
        datagram: Bytes,
    ) -> BoxFuture<'a, Result<Result<Telemetry, String>, Refusal>>;
}

/// A plugin seen as a receiver of unary gRPC calls. The door owns the socket, frames, limits and the answer.
pub trait GrpcReceiver: Send + Sync {
    /// Makes telemetry or a reply out of one call; `listener` is the name of the setting that bound the address.
    ///
    /// # Errors
    /// Outside, a [`Refusal`] as of [`HttpReceiver::receive`]; inside, the status that the caller gets.
    fn receive<'a>(
        &'a self,
        listener: &'a str,
        call: unary::Call,
    ) -> BoxFuture<'a, Result<Result<unary::Received, unary::Status>, Refusal>>;
}

/// A plugin seen as the reader of what targets answer. The host owns targets, schedule and requests. All calls of one id
/// meet the same instance, one at a time, as long as it behaves: what it remembers of a target is lost with it.
pub trait Scraper: Send + Sync {
    /// What to send to a target: method, URL and headers, such as `accept`.
    ///
    /// # Errors
    /// [`Refusal::Transient`] where the plugin's instance ended or was not free in time.
    fn prepare(&self, target: Arc<Target>) -> BoxFuture<'_, Result<http::Request, Refusal>>;

    /// Makes telemetry out of what came of a fetch, a failed one too: OTLP bytes by signal, not checked yet.
    ///
    /// # Errors
    /// As [`Scraper::prepare`].
    fn digest(
        &self,
        target: Arc<Target>,
        fetched: Fetched,
    ) -> BoxFuture<'_, Result<Vec<(Signal, Bytes)>, Refusal>>;

    /// The target is not fetched any more; `at` is now, in nanoseconds since the Unix epoch. The last telemetry of it.
    ///
    /// # Errors
    /// As [`Scraper::prepare`].
    fn forget(&self, target: Arc<Target>, at: u64) -> BoxFuture<'_, Result<Vec<(Signal, Bytes)>, Refusal>>;

    /// Changes when the code behind it is replaced while the process runs: what it wanted to send is asked for again.
    fn generation(&self) -> u64 {
        0
    }
}

/// An exporter that is fetched from: what was pushed to it is on its page. One instance serves and takes, one call at a
/// time; what it remembers is lost with it.
pub trait PageServer: Exporter {
    /// Answers one request for the page.
    ///
    /// # Errors
    /// [`Refusal::Transient`] where the instance ended, was not free in time, or there is no memory for the body.
    fn serve(&self, request: http::Request) -> BoxFuture<'_, Result<http::Page, Refusal>>;
}
