//! What `weir queue` asks of queues, over a socket in the data folder while a daemon has them, else of the files; and
//! what `weir plugin` asks of the plugins that a daemon has loaded.
//!
//! ```text
//! <data_dir>/weir.sock   one connection a request: one line of JSON there, one line of JSON back
//! ```
//!
//! The socket lies in a folder that only the daemon's user can enter; that is its protection.

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tracing::warn;
use weir_model::Ledger;
use weir_model::ledger::Claim;
use weir_net::Drain;
use weir_plugin::{EndKind, Host, Released, SlotState, SlotView};
use weir_queue::{DeadLetter, Status};

use crate::assembly::{Current, NamedQueue, Views};
use crate::telemetry::metrics::Sources;

/// The socket's name in the data folder.
const SOCKET: &str = "weir.sock";

/// Bytes of a request line.
const REQUEST_BYTES_MAX: u64 = 4096;

/// Bytes of a reply line: a page of dead letters, or one body in hex.
const REPLY_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Bytes of a dead letter that a running daemon dumps: in hex and in its line they fit into a reply.
const DUMP_BYTES_MAX: u64 = REPLY_BYTES_MAX / 2 - 1024;

/// Bytes of memory for each byte that is dumped: its two digits, and these again in the line that is sent. The body itself is
/// gone before the line is made.
const DUMP_COPIES: u64 = 4;

/// The pause after an accept that failed for want of something (descriptors, memory), as at the doors: what is missing
/// comes back when a connection ends, and asking faster only burns the processor.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Requests that are answered at once; an operator has two hands.
const REQUESTS_MAX: usize = 8;

/// How long one request may take.
const REQUEST_TIME_MAX: Duration = Duration::from_secs(30);

/// How long a request line may take: it is written in one piece. An idle connection shuts no operator out for longer.
const LINE_TIME_MAX: Duration = Duration::from_secs(2);

/// Dead letters in one reply.
const PAGE_MAX: usize = 1000;

/// What an operator wants.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// What is in the queues.
    Ls,
    /// Dead letters after an id.
    DeadLetters {
        /// Of this pipeline.
        pipeline: String,
        /// Only those with a greater id.
        after: u64,
    },
    /// The body of a dead letter.
    Dump {
        /// Of this pipeline.
        pipeline: String,
        /// The letter.
        id: u64,
    },
    /// Try a dead letter again.
    Requeue {
        /// Of this pipeline.
        pipeline: String,
        /// The letter.
        id: u64,
    },
    /// Delete a dead letter.
    Drop {
        /// Of this pipeline.
        pipeline: String,
        /// The letter.
        id: u64,
    },
    /// Delete the cursor of an exporter that is not configured any more.
    Forget {
        /// Of this pipeline.
        pipeline: String,
        /// The exporter.
        exporter: String,
    },
    /// What the parts that are made of plugins have loaded.
    Plugins,
    /// End a plugin's quarantine.
    ReleasePlugin {
        /// The configured id; `exporters/…` or `receivers/…` where both have it.
        id: String,
    },
}

/// What comes back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// The queues.
    Queues(Vec<QueueView>),
    /// A page of dead letters.
    DeadLetters(Vec<DeadLetter>),
    /// A body, in hex.
    Body {
        /// `traces`, `metrics` or `logs`.
        signal: String,
        /// The OTLP bytes in hex.
        hex: String,
    },
    /// The parts that are made of plugins.
    Plugins(Vec<PluginView>),
    /// It is done.
    Done,
    /// The plugin was in no quarantine; it has fresh instances.
    Refreshed,
    /// It is not, and why.
    Refused(String),
}

/// One queue.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct QueueView {
    /// The pipeline.
    pub pipeline: String,
    /// Records kept.
    pub records: u64,
    /// Items in them.
    pub items: u64,
    /// Bytes on disk.
    pub bytes: u64,
    /// The budget for them.
    pub budget_bytes: u64,
    /// Segment files.
    pub segments: u64,
    /// Segment files set aside as damaged.
    pub quarantined: u64,
    /// Logs of other Weirs whose newest record is known.
    #[serde(default)]
    pub sources: u64,
    /// Items that other Weirs have sent again, since the start.
    #[serde(default)]
    pub duplicates: u64,
    /// What is not as it should be.
    pub degraded: Option<String>,
    /// Dead letters.
    pub dead_letters: u64,
    /// Bytes of them.
    pub dead_letter_bytes: u64,
    /// Its exporters.
    pub exporters: Vec<CursorView>,
}

/// How far one exporter is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CursorView {
    /// The exporter.
    pub exporter: String,
    /// Records to come.
    pub records: u64,
    /// Items in them.
    pub items: u64,
    /// Leases that are out.
    pub in_flight: usize,
    /// Dead letters.
    pub dead_letters: u64,
    /// Why it is paused.
    pub paused: Option<String>,
    /// Whether the configuration names it; unknown where no daemon runs and no configuration is at hand.
    pub configured: Option<bool>,
}

/// One configured id that is made of a plugin.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PluginView {
    /// `exporter` or `receiver`.
    pub kind: String,
    /// The configured id.
    pub id: String,
    /// The plugin's name.
    pub plugin: String,
    /// The version of the code that serves, or that served last.
    pub version: String,
    /// Its SHA-256.
    pub digest: String,
    /// The file that it came from, or `bundled`.
    pub source: String,
    /// Whether the file stands in front of a bundled plugin.
    pub shadows: bool,
    /// 1 for the code of the start, one more for each code after it.
    pub generation: u64,
    /// `serving` or `absent`.
    pub state: String,
    /// Why it is not serving, and what to do.
    pub reason: Option<String>,
    /// Why the file that lies there now does not serve.
    pub refused: Option<String>,
    /// Calls into the guest.
    pub calls: u64,
    /// Instances that ended in a call.
    pub ends: u64,
    /// Requests of the guest that were denied.
    pub denials: u64,
}

impl PluginView {
    fn of(slot: SlotView) -> Self {
        let (state, reason) = match slot.state {
            SlotState::Serving => ("serving", None),
            SlotState::Quarantined(quarantined) => ("quarantined", Some(quarantined.to_string())),
            SlotState::Absent(why) => ("absent", Some(why)),
        };
        Self {
            kind: slot.wanted.noun().to_owned(),
            id: slot.id,
            plugin: slot.plugin,
            version: slot.version,
            digest: slot.digest.to_string(),
            source: slot.source.to_string(),
            shadows: slot.shadows,
            generation: slot.generation,
            state: state.to_owned(),
            reason,
            refused: slot.refused,
            calls: slot.counts.calls.get(),
            ends: EndKind::ALL.into_iter().map(|kind| slot.counts.ends.of(kind).get()).sum(),
            denials: slot.counts.denials.get(),
        }
    }
}

impl QueueView {
    /// The view of a queue in this state.
    pub(crate) fn of(pipeline: &str, status: Status) -> Self {
        let exporters = status.cursors.into_iter().map(|cursor| CursorView {
            exporter: cursor.exporter,
            records: cursor.pending_records,
            items: cursor.pending_items,
            in_flight: cursor.in_flight,
            dead_letters: cursor.dead_letters,
            paused: cursor.paused,
            configured: Some(cursor.configured),
        });
        Self {
            pipeline: pipeline.to_owned(),
            records: status.records,
            items: status.items,
            bytes: status.bytes,
            budget_bytes: status.budget_bytes,
            segments: status.segments,
            quarantined: status.quarantined,
            sources: status.sources,
            duplicates: status.duplicates,
            degraded: status.degraded,
            dead_letters: status.dead_letters,
            dead_letter_bytes: status.dead_letter_bytes,
            exporters: exporters.collect(),
        }
    }
}

/// Does what is asked, on queues that this process has open. `waiting` are those that only have a view.
pub async fn perform(queues: &[NamedQueue], waiting: &[QueueView], request: Request) -> Reply {
    let (pipeline, act) = match request {
        Request::Ls => {
            let view = |named: &NamedQueue| QueueView::of(&named.pipeline, named.queue.status());
            return Reply::Queues(queues.iter().map(view).chain(waiting.iter().cloned()).collect());
        }
        Request::DeadLetters { pipeline, after } => (pipeline, Act::DeadLetters { after }),
        Request::Dump { pipeline, id } => (pipeline, Act::Dump { id }),
        Request::Requeue { pipeline, id } => (pipeline, Act::Requeue { id }),
        Request::Drop { pipeline, id } => (pipeline, Act::Drop { id }),
        Request::Forget { pipeline, exporter } => (pipeline, Act::Forget { exporter }),
        Request::Plugins | Request::ReleasePlugin { .. } => {
            return Reply::Refused("only a running daemon has plugins loaded".to_owned());
        }
    };
    match queues.iter().find(|named| named.pipeline == pipeline) {
        Some(named) => act.on(named).await.unwrap_or_else(|error| Reply::Refused(format!("{error:#}"))),
        None if waiting.iter().any(|view| view.pipeline == pipeline) => Reply::Refused(format!(
            "pipeline `{pipeline}` is not configured: stop the daemon to look into its queue"
        )),
        None => {
            let known: Vec<&str> = queues.iter().map(|named| named.pipeline.as_str()).collect();
            Reply::Refused(format!("there is no pipeline `{pipeline}`; there are: {}", known.join(", ")))
        }
    }
}

/// Does what is asked, on queues and plugins of a running daemon. The answer takes memory for as long as the second lives.
async fn serve(parts: &Parts, request: Request) -> (Reply, Option<Paid>) {
    let Parts { queues, waiting, sources, plugins, dumps } = parts;
    match request {
        Request::Plugins => (Reply::Plugins(plugins.slots().into_iter().map(PluginView::of).collect()), None),
        Request::ReleasePlugin { id } => (release(plugins, &id), None),
        Request::Dump { pipeline, id } => {
            let paid = match letter_bytes(queues, &pipeline, id).await.map(|bytes| dumps.admit(bytes)) {
                Some(Err(why)) => return (Reply::Refused(why), None),
                Some(Ok(paid)) => Some(paid),
                None => None,
            };
            (perform(queues, waiting, Request::Dump { pipeline, id }).await, paid)
        }
        request @ (Request::Ls
        | Request::DeadLetters { .. }
        | Request::Requeue { .. }
        | Request::Drop { .. }
        | Request::Forget { .. }) => {
            let mut reply = perform(queues, waiting, request).await;
            if let Reply::Queues(queues) = &mut reply {
                queues.iter_mut().for_each(|queue| tell_pauses(queue, sources));
            }
            (reply, None)
        }
    }
}

/// Says of each exporter why it is paused: exporters know, not the queues.
fn tell_pauses(queue: &mut QueueView, sources: &Sources) {
    for cursor in &mut queue.exporters {
        let of = sources
            .exporters
            .iter()
            .find(|source| source.pipeline == queue.pipeline && source.exporter == cursor.exporter);
        if let Some(why) = of.and_then(|source| source.counts.state().paused) {
            cursor.paused = Some(why);
        }
    }
}

/// Bytes of a dead letter; nothing where it is not there.
async fn letter_bytes(queues: &[NamedQueue], pipeline: &str, id: u64) -> Option<u64> {
    let queue = Arc::clone(&queues.iter().find(|named| named.pipeline == pipeline)?.queue);
    let read = move || queue.dead_letters(id.checked_sub(1)?, 1).ok()?.pop();
    let letter = tokio::task::spawn_blocking(read).await.ok()??;
    (letter.id == id).then_some(letter.bytes)
}

/// Who may dump a letter: one at a time, and only what there is memory for.
#[derive(Clone)]
struct Dumps {
    turn: Arc<Mutex<()>>,
    ledger: Arc<Ledger>,
}

/// What a dump holds until its answer is written.
#[derive(Debug)]
struct Paid {
    _turn: OwnedMutexGuard<()>,
    _claim: Claim,
}

impl Dumps {
    /// Room for a letter of so many bytes, or why not and what to do.
    fn admit(&self, bytes: u64) -> Result<Paid, String> {
        const OFFLINE: &str = "`weir queue dump` reads the files itself while the daemon is stopped";
        if bytes > DUMP_BYTES_MAX {
            return Err(format!(
                "the letter has {bytes} bytes, and a running daemon dumps at most {DUMP_BYTES_MAX}: {OFFLINE}"
            ));
        }
        let turn = Arc::clone(&self.turn).try_lock_owned();
        let turn =
            turn.map_err(|_| "another letter is being dumped: try again when it is done".to_owned())?;
        let claim = self.ledger.claim(bytes.saturating_mul(DUMP_COPIES));
        let claim = claim.map_err(|error| format!("{error}: try again when less is under way; {OFFLINE}"))?;
        Ok(Paid { _turn: turn, _claim: claim })
    }
}

/// Ends the quarantine of one id.
fn release(plugins: &Host, asked: &str) -> Reply {
    let slots = plugins.slots();
    let name = |slot: &SlotView| format!("{}s/{}", slot.wanted.noun(), slot.id);
    let mut meant: Vec<&SlotView> =
        slots.iter().filter(|slot| slot.id == asked || name(slot) == asked).collect();
    meant.dedup_by_key(|slot| name(slot));
    match meant[..] {
        [slot] => match plugins.release(slot.wanted, &slot.id) {
            Released::Kept => Reply::Done,
            Released::Working => Reply::Refreshed,
            Released::Nothing => {
                let why = match &slot.state {
                    SlotState::Absent(why) => why.as_str(),
                    SlotState::Serving | SlotState::Quarantined(_) => "fresh instances could not be had",
                };
                Reply::Refused(format!("{asked} has no plugin that could be released: {why}"))
            }
        },
        [] => {
            let known: Vec<String> = slots.iter().map(name).collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            Reply::Refused(format!("no part `{asked}` is made of a plugin; there are: {known}"))
        }
        [..] => {
            let names: Vec<String> = meant.iter().map(|slot| name(slot)).collect();
            Reply::Refused(format!("`{asked}` is several: expected one of {}", names.join(", ")))
        }
    }
}

/// A request to one queue.
enum Act {
    DeadLetters { after: u64 },
    Dump { id: u64 },
    Requeue { id: u64 },
    Drop { id: u64 },
    Forget { exporter: String },
}

impl Act {
    async fn on(self, named: &NamedQueue) -> anyhow::Result<Reply> {
        let queue = Arc::clone(&named.queue);
        match self {
            Self::DeadLetters { after } => {
                let page = tokio::task::spawn_blocking(move || queue.dead_letters(after, PAGE_MAX)).await??;
                Ok(Reply::DeadLetters(page))
            }
            Self::Dump { id } => {
                let read = move || -> anyhow::Result<Reply> {
                    let body = queue.dead_body(id)?;
                    let letters = queue.dead_letters(id.saturating_sub(1), 1)?;
                    let signal = letters.first().map(|letter| letter.signal.clone()).unwrap_or_default();
                    Ok(Reply::Body { signal, hex: hex(&body) })
                };
                tokio::task::spawn_blocking(read).await?
            }
            Self::Requeue { id } => queue.requeue(id).await.map(|()| Reply::Done).map_err(Into::into),
            Self::Drop { id } => queue.drop_dead(id).await.map(|()| Reply::Done).map_err(Into::into),
            Self::Forget { exporter } => {
                queue.forget(&exporter).await.map(|()| Reply::Done).map_err(Into::into)
            }
        }
    }
}

/// In hex, in memory of twice the size and no more.
fn hex(body: &[u8]) -> String {
    let mut text = String::with_capacity(body.len() * 2);
    for byte in body {
        let digits = [byte >> 4, byte & 15].map(|digit| char::from_digit(digit.into(), 16));
        text.extend(digits.into_iter().flatten());
    }
    text
}

// === the socket ===

/// The daemon's end of the socket, bound.
pub struct Admin {
    listener: UnixListener,
    path: PathBuf,
    queues: Current<Vec<NamedQueue>>,
    waiting: Current<Vec<QueueView>>,
    sources: Current<Sources>,
    plugins: Host,
    dumps: Dumps,
}

/// What is asked about, as it is at the time.
struct Parts {
    queues: Arc<Vec<NamedQueue>>,
    waiting: Arc<Vec<QueueView>>,
    sources: Arc<Sources>,
    plugins: Host,
    dumps: Dumps,
}

impl Admin {
    /// Binds the socket. The caller has the data folder's lock, so a socket that lies there belongs to nobody. What is
    /// dumped is paid for from `ledger`.
    ///
    /// # Errors
    /// Where it cannot be made.
    pub(crate) fn bind(
        data_dir: &Path,
        views: &Views,
        plugins: Host,
        ledger: Arc<Ledger>,
    ) -> io::Result<Self> {
        let path = data_dir.join(SOCKET);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => (),
        }
        let listener = UnixListener::bind(&path)?;
        // The folder keeps others out where we made it; one that an operator made may be open to them.
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
        let dumps = Dumps { turn: Arc::default(), ledger };
        let (queues, waiting) = (views.queues.clone(), views.waiting.clone());
        Ok(Self { listener, path, queues, waiting, sources: views.sources.clone(), plugins, dumps })
    }

    fn parts(&self) -> Parts {
        Parts {
            queues: self.queues.now(),
            waiting: self.waiting.now(),
            sources: self.sources.now(),
            plugins: self.plugins.clone(),
            dumps: self.dumps.clone(),
        }
    }

    /// Answers until `drain`.
    ///
    /// # Errors
    /// None; an accept that fails is told in the log.
    pub async fn serve(self, drain: Drain) -> io::Result<()> {
        let mut answering = JoinSet::new();
        let mut failing = false;
        loop {
            tokio::select! {
                accepted = self.listener.accept(), if answering.len() < REQUESTS_MAX => match accepted {
                    Ok((stream, _)) => {
                        failing = false;
                        let parts = self.parts();
                        answering.spawn(async move {
                            if let Err(error) = timeout(REQUEST_TIME_MAX, answer(stream, &parts)).await.unwrap_or(Ok(())) {
                                warn!(%error, "an operator's request was not answered");
                            }
                        });
                    }
                    Err(error) => {
                        // Said once for each spell of failures, not ten times a second.
                        if !failing {
                            warn!(%error, "accept on the admin socket fails, trying on");
                        }
                        failing = true;
                        tokio::select! {
                            () = drain.signaled() => break,
                            () = sleep(ACCEPT_PAUSE) => (),
                        }
                    }
                },
                Some(_) = answering.join_next() => (),
                () = drain.signaled() => break,
            }
        }
        // The queues are closed by now: what is still under way has nothing to say.
        answering.shutdown().await;
        std::fs::remove_file(&self.path)
    }
}

async fn answer(stream: UnixStream, parts: &Parts) -> io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut line = String::new();
    let mut read = BufReader::new(read.take(REQUEST_BYTES_MAX));
    timeout(LINE_TIME_MAX, read.read_line(&mut line)).await.map_err(|_| io::ErrorKind::TimedOut)??;
    let (reply, _paid) = match serde_json::from_str(&line) {
        Ok(request) => serve(parts, request).await,
        Err(error) => (Reply::Refused(format!("not a request of this version: {error}")), None),
    };
    // A line that grows by itself would take twice its memory.
    let room = if let Reply::Body { hex, .. } = &reply { hex.len() + 128 } else { 0 };
    let mut text = Vec::with_capacity(room);
    serde_json::to_writer(&mut text, &reply)?;
    drop(reply);
    text.push(b'\n');
    write.write_all(&text).await
}

/// Asks the daemon that has this data folder; nothing where none is running.
///
/// # Errors
/// Where a daemon is there but does not answer.
pub async fn ask(data_dir: &Path, request: &Request) -> io::Result<Option<Reply>> {
    let stream = match UnixStream::connect(data_dir.join(SOCKET)).await {
        Ok(stream) => stream,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    let (read, mut write) = stream.into_split();
    let mut text = serde_json::to_vec(request)?;
    text.push(b'\n');
    write.write_all(&text).await?;
    let mut line = String::new();
    let mut read = BufReader::new(read.take(REPLY_BYTES_MAX));
    timeout(REQUEST_TIME_MAX, read.read_line(&mut line)).await.map_err(|_| io::ErrorKind::TimedOut)??;
    if !line.ends_with('\n') {
        let why = match line.len() as u64 >= REPLY_BYTES_MAX {
            true => format!("its answer is longer than {REPLY_BYTES_MAX} bytes"),
            false => {
                "it closed the connection before its answer was complete: its log may say why".to_owned()
            }
        };
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, why));
    }
    Ok(Some(serde_json::from_str(&line)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: letters that fit, that are too large for a reply, while another is dumped, with the memory used up.
    /// Guarantees: one at a time is dumped and paid for; the others are told the limit and what to do.
    #[test]
    fn a_dump_is_paid_for_or_refused_with_the_limit() {
        let dumps = Dumps { turn: Arc::default(), ledger: Ledger::new(DUMP_BYTES_MAX * DUMP_COPIES) };
        let refused = dumps.admit(DUMP_BYTES_MAX + 1).unwrap_err();
        assert!(refused.contains(&DUMP_BYTES_MAX.to_string()) && refused.contains("stopped"), "{refused}");
        let paid = dumps.admit(DUMP_BYTES_MAX).unwrap();
        assert_eq!(dumps.ledger.used(), DUMP_BYTES_MAX * DUMP_COPIES);
        let refused = dumps.admit(1).unwrap_err();
        assert!(refused.contains("another letter"), "{refused}");
        drop(paid);
        let held = dumps.ledger.claim(dumps.ledger.limit()).unwrap();
        let refused = dumps.admit(1).unwrap_err();
        assert!(refused.contains("memory budget") && refused.contains("stopped"), "{refused}");
        drop(held);
        dumps.admit(1).unwrap();
    }

    /// Scenario: the largest letter that is dumped, as a reply.
    /// Guarantees: the line fits, and takes the memory that was paid for.
    #[test]
    fn the_largest_dump_fits_into_a_reply() {
        assert_eq!(hex(&[0, 0x7f, 0xa0, 255]), "007fa0ff");
        let reply = Reply::Body { signal: "metrics".to_owned(), hex: String::new() };
        let around = serde_json::to_vec(&reply).unwrap().len() as u64 + 1;
        assert!(DUMP_BYTES_MAX * 2 + around <= REPLY_BYTES_MAX);
    }

    /// Scenario: a daemon that takes a request and ends before it has answered.
    /// Guarantees: the operator reads that in words.
    #[tokio::test]
    async fn an_answer_that_was_cut_is_told_as_such() {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join(SOCKET)).unwrap();
        let closing = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let (read, mut write) = stream.into_split();
            BufReader::new(read).read_line(&mut String::new()).await.unwrap();
            write.write_all(b"{\"queues\":[").await.unwrap();
        });
        let error = ask(folder.path(), &Request::Ls).await.unwrap_err();
        assert!(error.to_string().contains("before its answer was complete"), "{error}");
        closing.await.unwrap();
    }
}
