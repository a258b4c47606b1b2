//! An `Export` stream: messages in their order, as many under way as the bound allows, and how it ends.
//!
//! | what happened | how the stream ends |
//! |---|---|
//! | the library ended its side, everything was taken | OK, without a message |
//! | … and something was refused for good | UNKNOWN and the last reason |
//! | … before it had sent a message | UNKNOWN `EOF`, as the reference server does |
//! | the first message had no node | UNKNOWN and the reference server's text, at once |
//! | a message was refused for now, for three seconds | UNAVAILABLE; until then nothing more is read |
//! | a message is too large | RESOURCE_EXHAUSTED |
//! | a message comes too slowly | UNAVAILABLE |
//! | there is no memory for one more stream | UNAVAILABLE, at once |
//! | drain | UNAVAILABLE: the Node.js library comes back after UNKNOWN and UNAVAILABLE only |
//!
//! No message is ever sent to the library: the reference server sends none, and Go never reads any.
//!
//! A stream runs in a task of its own and reads what has arrived to its end even when the connection is gone.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ::http::{HeaderMap, Response};
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use hyper::body::Incoming;
use tokio::time::sleep;
use tracing::{Instrument, debug, debug_span, warn};
use weir_model::{BoxFuture, Reason, Receipt, Refusal, Signal};
use weir_net::ReplyBody;
use weir_net::grpc::{self, Code, MessageReader, RETRY_AFTER_DEFAULT, Status};
use weir_net::listen::Peer;

use super::Door;
use weir_net::open_stream::OpenStream;

use super::sender::{Items, PATIENCE_MAX, Patience, Sender, Told, unread};

/// Messages of one stream that may be on their way to the disk.
///
/// Enough that a stream is not held to one message for each fsync; few enough that what one stream keeps in memory is
/// a few of its messages.
const UNDER_WAY_MAX: usize = 8;

/// How long a stream is read on after the drain began: what was sent before the word of it came arrives within that.
const DRAIN_GRACE: Duration = Duration::from_millis(250);

/// Answers an `Export` request.
pub(super) fn answer(
    door: Arc<Door>,
    signal: Signal,
    headers: &HeaderMap,
    body: Incoming,
    peer: Arc<Peer>,
) -> Response<ReplyBody> {
    let reader = match MessageReader::new(headers, body, door.body, &door.settings.ledger) {
        Ok(reader) => reader.with_patience(PATIENCE_MAX),
        Err(status) => return grpc::refuse(&status),
    };
    let span = debug_span!("export", peer.addr = %peer.addr, %signal);
    let cut = door.streams.cut.clone();
    let tasks = door.streams.tasks.clone();
    let stream = match Stream::open(door, signal, peer) {
        Ok(stream) => stream,
        Err(status) => return grpc::refuse(&status),
    };
    let task = async move { cut.run_until_cancelled(stream.run(reader)).await };
    let task = tasks.spawn(task.instrument(span.or_current()));
    grpc::conversation(move |replies| async move {
        let ended = match task.await {
            Ok(Some(ended)) => ended,
            Ok(None) => Err(Status::unavailable("this server has ended; connect again")),
            Err(error) => Err(Status::internal(format!("the stream's task ended: {error}"))),
        };
        // The reply lives as long as its way to the peer, although nothing is ever sent on it.
        drop(replies);
        ended
    })
}

/// Why reading ended.
enum End {
    /// The library ended its side.
    Finished,
    /// The process drains, or the connection has become too old.
    Drained,
    /// A message was refused for now, for too long.
    Stalled(Refusal),
    /// Nothing more can be read, or is worth reading.
    Broken(Status),
}

struct Stream {
    door: Arc<Door>,
    signal: Signal,
    peer: Arc<Peer>,
    sender: Sender,
    under_way: FuturesUnordered<BoxFuture<'static, Delivered>>,
    /// How many of them wait out a refusal.
    waiting: Arc<AtomicUsize>,
    /// The proof for everything taken so far; the success at the end is made of it.
    proof: Option<Receipt>,
    /// The last thing that was refused for good.
    refusal: Option<Refusal>,
    has_spoken: bool,
    _open: OpenStream,
}

/// What became of a message.
struct Delivered {
    result: Result<Receipt, Refusal>,
    items: u64,
    left_out: u64,
}

impl Stream {
    fn open(door: Arc<Door>, signal: Signal, peer: Arc<Peer>) -> Result<Self, Status> {
        Ok(Self {
            _open: OpenStream::open(&door.settings.ledger, door.settings.counts.streams.clone())?,
            door,
            signal,
            peer,
            sender: Sender::new(signal),
            under_way: FuturesUnordered::new(),
            waiting: Arc::default(),
            proof: None,
            refusal: None,
            has_spoken: false,
        })
    }

    /// Runs the stream to its end.
    async fn run(mut self, mut reader: MessageReader) -> Result<(), Status> {
        let mut end = self.reading(&mut reader).await;
        // What was read is settled whatever ended the reading: a refusal for now outweighs a good end.
        while let Some(delivered) = self.under_way.next().await {
            if let Err(refusal) = self.settle(delivered)
                && matches!(end, End::Finished | End::Drained)
            {
                end = End::Stalled(refusal);
            }
        }
        match end {
            End::Finished => self.finished(),
            End::Drained => Err(Status::unavailable("this server is draining; connect again")),
            End::Stalled(refusal) => {
                Err(grpc::retry_later(Code::Unavailable, refusal.explain(), RETRY_AFTER_DEFAULT))
            }
            End::Broken(status) => Err(status),
        }
    }

    /// Reads messages and hands them on, until the stream ends one way or the other.
    async fn reading(&mut self, reader: &mut MessageReader) -> End {
        let peer = Arc::clone(&self.peer);
        let mut drained = pin!(async move {
            peer.drain.signaled().await;
            sleep(DRAIN_GRACE).await;
        });
        loop {
            let mut next = pin!(reader.next());
            let read = loop {
                tokio::select! {
                    biased;
                    Some(delivered) = self.under_way.next(), if !self.under_way.is_empty() => {
                        if let Err(refusal) = self.settle(delivered) {
                            return End::Stalled(refusal);
                        }
                    }
                    () = &mut drained => return End::Drained,
                    read = &mut next, if self.may_read() => break read,
                }
            };
            let taken = match read {
                Ok(Some((message, claim))) => {
                    let taken = self.take(&message).await;
                    drop((message, claim));
                    taken
                }
                Ok(None) => return End::Finished,
                Err(status) => {
                    debug!(%status, peer.addr = %self.peer.addr, signal = %self.signal, "stream cannot be read");
                    return End::Broken(unread(&self.door, status));
                }
            };
            if let Err(end) = taken {
                return end;
            }
        }
    }

    /// A full pipeline is felt as flow control: what we do not read, the library cannot send.
    fn may_read(&self) -> bool {
        self.under_way.len() < UNDER_WAY_MAX && self.waiting.load(Ordering::Relaxed) == 0
    }

    /// Takes one message: understands it and sets it on its way.
    async fn take(&mut self, message: &Bytes) -> Result<(), End> {
        self.has_spoken = true;
        let door = Arc::clone(&self.door);
        door.settings.counts.requests.add(1);
        let told = match self.understand(message).await {
            Ok(told) => told,
            Err(refusal) => return self.refuse(refusal, message),
        };
        let Told::Items(items) = told else { return Ok(()) };
        let mut delivery: BoxFuture<'static, Delivered> =
            Box::pin(deliver(door, items, Arc::clone(&self.waiting)));
        // The place in the order is taken at the first poll (`Consumer::consume`), so it is made now.
        match futures_util::poll!(delivery.as_mut()) {
            std::task::Poll::Ready(delivered) => self.settle(delivered).map_err(End::Stalled),
            std::task::Poll::Pending => {
                self.under_way.push(delivery);
                Ok(())
            }
        }
    }

    /// Understands a message, behind those before it, and waits while there is no memory for it.
    ///
    /// A transient refusal is its own or that of one before it: either way nothing of it is taken, and the stream ends.
    async fn understand(&mut self, message: &Bytes) -> Result<Told, Refusal> {
        let door = Arc::clone(&self.door);
        let peer = Arc::clone(&self.peer);
        // A message that was on its way when an earlier one was refused for now waits behind it.
        while self.waiting.load(Ordering::Relaxed) > 0
            && let Some(delivered) = self.under_way.next().await
        {
            self.settle(delivered)?;
        }
        let mut patience = Patience::default();
        loop {
            match self.sender.tells(&door, message, &peer).await {
                Ok(told) => return Ok(told),
                Err(refusal @ Refusal::Permanent { .. }) => return Err(refusal),
                Err(refusal @ Refusal::Transient { .. }) => match patience.pause(&refusal) {
                    Some(pause) => self.idle(pause).await?,
                    None => return Err(refusal),
                },
            }
        }
    }

    /// Waits, and goes on with what is under way: what it holds may be what we wait for.
    async fn idle(&mut self, pause: Duration) -> Result<(), Refusal> {
        let mut pause = pin!(sleep(pause));
        loop {
            tokio::select! {
                () = &mut pause => return Ok(()),
                Some(delivered) = self.under_way.next(), if !self.under_way.is_empty() => self.settle(delivered)?,
            }
        }
    }

    /// Counts what became of a message. A transient refusal comes back: the stream ends with it.
    fn settle(&mut self, delivered: Delivered) -> Result<(), Refusal> {
        let Delivered { result, items, left_out } = delivered;
        let counts = &self.door.settings.counts;
        match result {
            Ok(receipt) => {
                counts.accepted.of(self.signal).add(items);
                counts.dropped.of(self.signal, Reason::InvalidItem).add(left_out);
                self.proof = Some(match self.proof.take() {
                    Some(proof) => proof.and(receipt),
                    None => receipt,
                });
                Ok(())
            }
            Err(refusal) => {
                counts.refused.of(self.signal, refusal.reason()).add(items + left_out);
                self.sender.refused(&self.door);
                match refusal {
                    Refusal::Transient { .. } => Err(refusal),
                    Refusal::Permanent { .. } => {
                        self.remember(refusal);
                        Ok(())
                    }
                }
            }
        }
    }

    /// A message of which nothing was taken. The stream goes on where it was refused for good and it is known whose it is.
    fn refuse(&mut self, refusal: Refusal, message: &Bytes) -> Result<(), End> {
        self.sender.refused_whole(&self.door, refusal.reason(), message);
        match refusal {
            Refusal::Transient { .. } => Err(End::Stalled(refusal)),
            Refusal::Permanent { .. } => {
                let end = Status::unknown(refusal.explain());
                self.remember(refusal);
                if self.sender.is_known() { Ok(()) } else { Err(End::Broken(end)) }
            }
        }
    }

    /// Keeps the last refusal for the end; says the first one of a stream.
    fn remember(&mut self, refusal: Refusal) {
        if self.refusal.is_none() {
            let reason = refusal.reason();
            let error = refusal.explain();
            warn!(peer.addr = %self.peer.addr, signal = %self.signal, %reason, %error, "message of a stream refused");
        }
        self.refusal = Some(refusal);
    }

    /// The library ended its side and everything is settled.
    fn finished(mut self) -> Result<(), Status> {
        match self.refusal.take() {
            Some(refusal) => Err(Status::unknown(refusal.explain())),
            None if self.has_spoken => success(self.proof.take()),
            None => Err(Status::unknown("EOF")),
        }
    }
}

/// The success that a stream is owed: of all that was on it, or of nothing where it had no items.
fn success(_proof: Option<Receipt>) -> Result<(), Status> {
    Ok(())
}

/// Counts a delivery that waits out a refusal.
struct Waiting(Arc<AtomicUsize>);

impl Waiting {
    fn begin(waiting: &Arc<AtomicUsize>) -> Self {
        waiting.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(waiting))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Hands items to the pipeline, and again while it refuses them for now and there is patience.
async fn deliver(door: Arc<Door>, items: Items, waiting: Arc<AtomicUsize>) -> Delivered {
    let Items { arrival, left_out } = items;
    let counted =
        |result| Delivered { result, items: u64::from(arrival.items), left_out: u64::from(left_out) };
    let mut patience = Patience::default();
    let mut is_waiting = None;
    loop {
        // Asked for each try: what refuses while it is taken out of the configuration may have a successor.
        let Some(consumer) = door.settings.pipelines.of(arrival.signal) else {
            return counted(Err(Refusal::permanent(Reason::NoPipeline, "no pipeline takes the signal")));
        };
        let refusal = match consumer.consume(arrival.clone()).await {
            Ok(receipt) => return counted(Ok(receipt)),
            Err(refusal @ Refusal::Permanent { .. }) => return counted(Err(refusal)),
            Err(refusal @ Refusal::Transient { .. }) => refusal,
        };
        is_waiting.get_or_insert_with(|| Waiting::begin(&waiting));
        match patience.pause(&refusal) {
            Some(pause) => sleep(pause).await,
            None => return counted(Err(refusal)),
        }
    }
}
