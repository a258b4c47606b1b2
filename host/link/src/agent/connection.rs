//! The connection: dial, one stream, and again, for ever.
//!
//! ```text
//! ┌▶ dial ──▶ stream: Hello … Welcome … ──▶ over ──▶ wait (fixed, with jitter) ─┐
//! └──────────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! The writer is the request's body: HTTP/2 asks it for the next piece when there is room, and it asks the session. So what is
//! chosen last goes first, and nothing queues between the session and the socket but one part.
//!
//! Invariant: whatever ends a stream, the next is tried; what is kept is untouched by it.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue, TE};
use http::{Method, Request, Response};
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tonic::{Code, Status};
use tracing::{debug, error, info, warn};
use weir_net::client_tls::{ClientTls, Judge};
use weir_proto::weir::link::v1::goodbye::Reason;
use weir_proto::weir::link::v1::{CollectorMessage, Heartbeat};

use crate::agent::dial::{ADDRESSES_MAX, Begin, DialError, Target, Tasks};
use crate::agent::folder::{Folder, FolderError};
use crate::agent::rejected::Rejected;
use crate::agent::seeds;
use crate::agent::session::{Effect, Ended, Farewell, Outgoing, Verdict};
use crate::agent::shared::{Shared, now};
use crate::agent::wire::{Unframed, framed, framed_part};
use crate::agent::words::cut;
use crate::limits::{LEAVE_GRACE, RECONNECT_INTERVAL, RECONNECT_JITTER};
use crate::names::StoreId;

/// The method that is called.
const PATH: &str = "/weir.link.v1.LinkService/Open";

/// The time, and the collector's certificate, are looked at no more often than that: where the writer is held up, what is due stays
/// due.
const LOOK_PAUSE: Duration = Duration::from_millis(10);

/// How often it is noted where the logs end, and what was accepted is written down.
const NOTE_INTERVAL: Duration = Duration::from_secs(5);

/// Failures that are remembered as shown: one for each address that is tried, and beyond them the oldest is news again.
const SHOWN_MAX: usize = ADDRESSES_MAX;

/// Dials and speaks, until the agent ends.
pub(crate) struct Connection {
    pub(crate) id: String,
    pub(crate) target: Target,
    pub(crate) tls: Option<ClientTls>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) folder: Arc<Folder>,
    pub(crate) rejected: Arc<Rejected>,
    /// The failures that were shown since the last Welcome, at most [`SHOWN_MAX`]: the same one again is not news.
    pub(crate) shown: VecDeque<String>,
    /// At which of the collector's addresses the next dial begins.
    pub(crate) begin: Begin,
    /// A new life was begun, and no collector has welcomed it yet.
    pub(crate) is_renewed: bool,
}

/// Why a stream is over, or was none.
enum Over {
    /// We left.
    Left,
    /// The transport.
    Broken(String),
    /// The protocol.
    Ended(Ended),
}

// === impl Connection: from one stream to the next ===

impl Connection {
    /// Returns when the agent has left; else never.
    pub(crate) async fn run(mut self) {
        let shared = Arc::clone(&self.shared);
        let (folder, rejected) = (Arc::clone(&self.folder), Arc::clone(&self.rejected));
        tokio::select! {
            () = self.streams() => (),
            () = note(&shared, &folder, &rejected) => (),
        }
        keep(&shared, &folder, &rejected).await;
    }

    async fn streams(&mut self) {
        let shared = Arc::clone(&self.shared);
        while !shared.may_end() {
            let tasks = Tasks::default();
            let over = tokio::select! {
                over = self.stream(&tasks) => over,
                () = abandoned(&shared) => Over::Left,
            };
            let (why, goodbye) = match &over {
                Over::Left => ("the agent leaves".to_owned(), None),
                Over::Broken(why) => (why.clone(), None),
                Over::Ended(ended @ Ended::Goodbye(farewell)) => {
                    (ended.to_string(), Some(farewell.to_string()))
                }
                Over::Ended(ended) => (ended.to_string(), None),
            };
            shared.broken(why.clone(), goodbye);
            tasks.end().await;
            let wait = self.over(over, why).await;
            tokio::select! {
                () = tokio::time::sleep(wait) => (),
                () = abandoned(&shared) => (),
            }
        }
    }

    /// What the end of a stream asks for, and how long to wait before the next.
    async fn over(&mut self, over: Over, why: String) -> Duration {
        let jitter = 1.0 + RECONNECT_JITTER * (fastrand::f64() - 0.5);
        let wait = RECONNECT_INTERVAL.mul_f64(jitter);
        if matches!(over, Over::Left) {
            return Duration::ZERO;
        }
        self.shared.counts.failures.add(1);
        if self.shown.contains(&why) {
            debug!(exporter = %self.id, error = why, "no stream to the collector, will try again");
        } else {
            warn!(exporter = %self.id, peer = self.target.origin(), error = why, "no stream to the collector, will try again");
            if self.shown.len() >= SHOWN_MAX {
                self.shown.pop_front();
            }
            self.shown.push_back(why);
        }
        match over {
            Over::Ended(Ended::Goodbye(farewell)) if farewell.reason == Reason::NewIncarnation => {
                let again = self.is_renewed;
                let is_new = self.renew(farewell).await;
                // At once, but for a collector that never has enough, and a disk that takes nothing.
                if again || !is_new { wait } else { Duration::ZERO }
            }
            Over::Ended(Ended::Goodbye(farewell)) => farewell.wait.max(wait),
            Over::Left | Over::Broken(_) | Over::Ended(_) => wait,
        }
    }

    /// Begins a new life; false where it could not be written down.
    async fn renew(&mut self, farewell: Farewell) -> bool {
        let folder = Arc::clone(&self.folder);
        let renewed = on_disk(move || folder.renew(farewell.incarnation, seeds())).await;
        match renewed {
            Ok(life) => {
                warn!(
                    exporter = %self.id, incarnation = %life.incarnation, why = farewell.text,
                    "another copy of this agent's folder has been at the collector: went on as a new incarnation, \
                     what was not acknowledged is sent again under it"
                );
                self.is_renewed = true;
                self.shared.rename(&life, true);
                true
            }
            Err(cause) => {
                error!(exporter = %self.id, error = chain(&cause), "begin a new incarnation");
                false
            }
        }
    }
}

// === impl Connection: one stream ===

impl Connection {
    async fn stream(&mut self, tasks: &Tasks) -> Over {
        let patience = self.shared.first_sign_within();
        let dialling = self.target.dial::<Writer>(self.tls.as_ref(), tasks.clone(), patience, self.begin);
        let dialled = match dialling.await {
            Ok(dialled) => dialled,
            Err(error) => return Over::Broken(chain(&error)),
        };
        let address = dialled.address;
        // Until it has said Welcome: another may have more to say.
        self.begin = Begin::After(address);
        let stream = self.shared.connected(self.shared.facts(&self.folder.life()));
        let writer = Writer { shared: Arc::clone(&self.shared), stream, ready: None };
        let request = match request(&self.target, writer) {
            Ok(request) => request,
            Err(error) => return Over::Broken(chain(&error)),
        };
        let mut requests = dialled.requests;
        let mut reader = Reader::new(Box::pin(requests.send_request(request)));
        let origin = self.target.origin();
        let distrusted = distrusted(dialled.judge, &origin);
        tokio::pin!(distrusted);
        let speaking = self.speak(&mut reader, distrusted, address);
        tokio::pin!(speaking);
        // What has come before the connection ended is still read: a Goodbye may be the last of it.
        let motion = async {
            if let Err(error) = dialled.motion.await {
                debug!(error = chain(&error), "connection ended");
            }
            std::future::pending::<Infallible>().await
        };
        tokio::select! {
            over = &mut speaking => over,
            never = motion => match never {},
            // Nothing was received then, so nothing that was is lost.
            () = dialled.sign.missed() => {
                Over::Broken(DialError::NoSign { origin: origin.clone(), address, patience }.to_string())
            }
        }
    }

    /// Reads, looks at the time, and at whether the collector of this address is `distrusted`, until the stream is over.
    ///
    /// All of it in one loop, so that nothing else interrupts what follows from a message: the session has forgotten a parcel
    /// by then whose push is told last.
    async fn speak(
        &mut self,
        reader: &mut Reader,
        mut distrusted: Pin<&mut impl Future<Output = String>>,
        address: SocketAddr,
    ) -> Over {
        let mut looked = now();
        let mut gone: Option<tokio::time::Instant> = None;
        loop {
            let wake = self.shared.wake().map(|wake| wake.max(looked + LOOK_PAUSE));
            let timer = async {
                match (wake, gone) {
                    (_, Some(end)) => tokio::time::sleep_until(end).await,
                    (Some(wake), None) => tokio::time::sleep_until(wake.into()).await,
                    (None, None) => std::future::pending().await,
                }
            };
            tokio::select! {
                message = reader.next() => match message {
                    Ok(message) => {
                        if let Err(ended) = self.received(message, address).await {
                            return Over::Ended(ended);
                        }
                    }
                    Err(_) if self.shared.has_left() => return Over::Left,
                    Err(why) => return Over::Broken(why),
                },
                () = timer => {
                    if gone.is_some() {
                        return Over::Left;
                    }
                    looked = now();
                    if let Err(ended) = self.shared.tick() {
                        return Over::Ended(ended);
                    }
                }
                () = self.shared.changed.notified() => (),
                () = self.shared.reported() => self.shared.look(),
                why = &mut distrusted => return Over::Broken(why),
            }
            if gone.is_none() && self.shared.has_left() {
                gone = Some(tokio::time::Instant::now() + LEAVE_GRACE);
            }
        }
    }

    /// Takes a message of the collector of this address. To be awaited to its end: then whoever waits for a verdict has it.
    async fn received(&mut self, message: CollectorMessage, address: SocketAddr) -> Result<(), Ended> {
        let effects = self.shared.received(message)?;
        let mut settled = Vec::with_capacity(effects.len());
        for effect in effects {
            match effect {
                Effect::Welcomed { store, session, durable } => {
                    self.begin = Begin::At(address);
                    self.welcomed(store, session, durable);
                }
                Effect::Settled { id, verdict, log, last, again } => {
                    if verdict == Verdict::Taken {
                        self.taken(log, (!again).then_some(last)).await;
                    }
                    settled.push((id, verdict));
                }
            }
        }
        self.shared.settle(settled);
        Ok(())
    }

    fn welcomed(&mut self, store: StoreId, session: u64, durable: bool) {
        self.shown.clear();
        self.is_renewed = false;
        self.shared.welcomed(store, session, durable);
        let (peer, known) = (self.target.origin(), self.folder.names().1);
        info!(exporter = %self.id, peer, session, durable, "the collector takes what comes");
        if known.is_some_and(|known| known != store) {
            warn!(
                exporter = %self.id, peer, store = %format_args!("{:032x}", store.0),
                "the collector has another store than the one that acknowledged last: what that one had is not asked for, \
                 what is not acknowledged is sent"
            );
        }
    }

    /// A bundle was persisted: by whom is on disk before the log forgets the records, so that no collector is blamed for the
    /// records of another. None is the place of what leaves no mark: a collector is not asked for it later.
    async fn taken(&self, log: u32, last: Option<weir_model::Seq>) {
        let (incarnation, known) = self.folder.names();
        if let Some(store) = self.shared.store().filter(|store| known != Some(*store)) {
            let folder = Arc::clone(&self.folder);
            if let Err(cause) = on_disk(move || folder.acknowledged_by(store)).await {
                warn!(exporter = %self.id, error = chain(&cause), "write down which store acknowledges");
                return;
            }
            self.shared.rename(&self.folder.life(), false);
        }
        if let Some((last, (name, numbering))) = last.zip(self.shared.numbering(log, incarnation)) {
            self.folder.accepted(&name, numbering, last);
        }
    }
}

/// Returns when the collector's certificate does not hold any more, with the reason: looks each time that it may have come to that.
async fn distrusted(judge: Option<Judge>, peer: &str) -> String {
    let Some(mut judge) = judge else { return std::future::pending().await };
    loop {
        tokio::time::sleep(judge.pace().max(LOOK_PAUSE)).await;
        if let Err(distrusted) = judge.look() {
            return format!(
                "{distrusted}: the stream to {peer} was ended, which needs another certificate (`weir cert issue`)"
            );
        }
    }
}

/// Returns where there is nothing to wait for any more: the agent leaves, and nobody listens.
async fn abandoned(shared: &Shared) {
    while shared.is_welcome() || !shared.may_end() {
        shared.left.notified().await;
    }
}

fn request(target: &Target, writer: Writer) -> Result<Request<Writer>, http::Error> {
    Request::builder()
        .method(Method::POST)
        .uri(format!("{}{PATH}", target.origin()))
        .version(http::Version::HTTP_2)
        .header(CONTENT_TYPE, HeaderValue::from_static("application/grpc"))
        .header(TE, HeaderValue::from_static("trailers"))
        .body(writer)
}

/// Notes where the logs end, and writes what was accepted and which rejections are settled, each few seconds.
async fn note(shared: &Arc<Shared>, folder: &Arc<Folder>, rejected: &Arc<Rejected>) {
    let mut timer = tokio::time::interval(NOTE_INTERVAL);
    timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        timer.tick().await;
        shared.sample();
        keep(shared, folder, rejected).await;
    }
}

async fn keep(shared: &Arc<Shared>, folder: &Arc<Folder>, rejected: &Arc<Rejected>) {
    let (folder, logs) = (Arc::clone(folder), shared.logs());
    let (rejected, shared) = (Arc::clone(rejected), Arc::clone(shared));
    let pruned = on_disk(move || rejected.prune(&shared.settled())).await;
    if let Err(cause) = pruned {
        warn!(error = chain(&cause), "write down which rejected records are settled");
    }
    let kept = on_disk(move || folder.keep(&logs.iter().map(String::as_str).collect::<Vec<_>>())).await;
    if let Err(cause) = kept {
        warn!(error = chain(&cause), "write down what the collector has taken");
    }
}

/// Runs what waits for the disk where waiting harms nobody.
pub(crate) async fn on_disk<T: Send + 'static>(
    act: impl FnOnce() -> Result<T, FolderError> + Send + 'static,
) -> Result<T, FolderError> {
    match tokio::task::spawn_blocking(act).await {
        Ok(result) => result,
        Err(_) => Err(FolderError::Write(weir_queue::QueueError::Closed)),
    }
}

// === Writer ===

/// The request's body: frames, as the session wants them sent.
struct Writer {
    shared: Arc<Shared>,
    stream: u64,
    /// The body of a part whose head was given.
    ready: Option<Bytes>,
}

impl Body for Writer {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = self.get_mut();
        if let Some(ready) = this.ready.take() {
            return Poll::Ready(Some(Ok(Frame::data(ready))));
        }
        let Some(outgoing) = std::task::ready!(this.shared.poll_next(this.stream, context)) else {
            return Poll::Ready(None);
        };
        let bytes = match outgoing {
            Outgoing::Part(part) => {
                let (front, body) = framed_part(part);
                this.ready = Some(body).filter(|body| !body.is_empty());
                front
            }
            Outgoing::Heartbeat => framed(&Outgoing::Heartbeat.message(|| this.shared.heartbeat())),
            other @ (Outgoing::Hello(_) | Outgoing::State(_) | Outgoing::Leaving) => {
                framed(&other.message(Heartbeat::default))
            }
        };
        Poll::Ready(Some(Ok(Frame::data(bytes))))
    }
}

// === Reader ===

type Answer = Pin<Box<dyn Future<Output = hyper::Result<Response<Incoming>>> + Send>>;

/// The collector's messages.
struct Reader {
    from: From,
    unframed: Unframed,
}

enum From {
    /// Its headers are awaited: it may send them with its Welcome only.
    Answer(Answer),
    Body(Incoming),
}

impl Reader {
    fn new(answer: Answer) -> Self {
        Self { from: From::Answer(answer), unframed: Unframed::default() }
    }

    /// The next message.
    ///
    /// # Errors
    /// How the stream ended.
    ///
    /// # Cancel safety
    /// A dropped call has lost nothing.
    async fn next(&mut self) -> Result<CollectorMessage, String> {
        loop {
            if let Some(message) = self.unframed.next()? {
                return Ok(message);
            }
            match &mut self.from {
                From::Answer(answer) => {
                    let response = answer.await.map_err(|error| chain(&error))?;
                    self.from = From::Body(body_of(response)?);
                }
                From::Body(body) => match body.frame().await {
                    None => return Err("the collector closed the stream".to_owned()),
                    Some(Err(error)) => return Err(chain(&error)),
                    Some(Ok(frame)) => match frame.into_data() {
                        Ok(data) => self.unframed.push(&data),
                        Err(other) => {
                            let status =
                                other.into_trailers().ok().as_ref().and_then(Status::from_header_map);
                            return Err(words(status));
                        }
                    },
                },
            }
        }
    }
}

fn body_of(response: Response<Incoming>) -> Result<Incoming, String> {
    let (head, body) = response.into_parts();
    match Status::from_header_map(&head.headers) {
        Some(status) => Err(words(Some(status))),
        None if head.status != http::StatusCode::OK => {
            Err(format!("HTTP status {} instead of a stream: is it a Weir that listens there?", head.status))
        }
        None => Ok(body),
    }
}

fn words(status: Option<Status>) -> String {
    match status {
        Some(status) if status.code() != Code::Ok => {
            cut(format!("the collector ended the stream: {:?}, {}", status.code(), status.message()))
        }
        Some(_) | None => "the collector ended the stream".to_owned(),
    }
}

/// An error with all of its causes, as long as is kept.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    cut(weir_model::explain(error))
}

#[cfg(test)]
mod tests;
