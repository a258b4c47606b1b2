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
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::warn;
use weir_net::Drain;
use weir_plugin::{EndKind, Host, Released, SlotState, SlotView};
use weir_queue::{DeadLetter, Status};

use crate::assembly::{Current, NamedQueue};

/// The socket's name in the data folder.
const SOCKET: &str = "weir.sock";

/// Bytes of a request line.
const REQUEST_BYTES_MAX: u64 = 4096;

/// Bytes of a reply line: a page of dead letters, or one body in hex.
const REPLY_BYTES_MAX: u64 = 64 * 1024 * 1024;

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

/// Does what is asked, on queues and plugins of a running daemon.
async fn serve(parts: &Parts, request: Request) -> Reply {
    let Parts { queues, waiting, plugins } = parts;
    match request {
        Request::Plugins => Reply::Plugins(plugins.slots().into_iter().map(PluginView::of).collect()),
        Request::ReleasePlugin { id } => release(plugins, &id),
        request @ (Request::Ls
        | Request::DeadLetters { .. }
        | Request::Dump { .. }
        | Request::Requeue { .. }
        | Request::Drop { .. }
        | Request::Forget { .. }) => perform(queues, waiting, request).await,
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
                    Ok(Reply::Body { signal, hex: crate::assembly::hex(&body) })
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

// === the socket ===

/// The daemon's end of the socket, bound.
pub struct Admin {
    listener: UnixListener,
    path: PathBuf,
    queues: Current<Vec<NamedQueue>>,
    waiting: Current<Vec<QueueView>>,
    plugins: Host,
}

/// What is asked about, as it is at the time.
struct Parts {
    queues: Arc<Vec<NamedQueue>>,
    waiting: Arc<Vec<QueueView>>,
    plugins: Host,
}

impl Admin {
    /// Binds the socket. The caller has the data folder's lock, so a socket that lies there belongs to nobody.
    ///
    /// # Errors
    /// Where it cannot be made.
    pub fn bind(
        data_dir: &Path,
        queues: Current<Vec<NamedQueue>>,
        waiting: Current<Vec<QueueView>>,
        plugins: Host,
    ) -> io::Result<Self> {
        let path = data_dir.join(SOCKET);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => (),
        }
        let listener = UnixListener::bind(&path)?;
        // The folder keeps others out where we made it; one that an operator made may be open to them.
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
        Ok(Self { listener, path, queues, waiting, plugins })
    }

    /// Answers until `drain`.
    ///
    /// # Errors
    /// None; an accept that fails is told in the log.
    pub async fn serve(self, drain: Drain) -> io::Result<()> {
        let mut answering = JoinSet::new();
        loop {
            tokio::select! {
                accepted = self.listener.accept(), if answering.len() < REQUESTS_MAX => match accepted {
                    Ok((stream, _)) => {
                        let parts = Parts {
                            queues: self.queues.now(),
                            waiting: self.waiting.now(),
                            plugins: self.plugins.clone(),
                        };
                        answering.spawn(async move {
                            if let Err(error) = timeout(REQUEST_TIME_MAX, answer(stream, &parts)).await.unwrap_or(Ok(())) {
                                warn!(%error, "an operator's request was not answered");
                            }
                        });
                    }
                    Err(error) => warn!(%error, "accept on the admin socket"),
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
    let reply = match serde_json::from_str(&line) {
        Ok(request) => serve(parts, request).await,
        Err(error) => Reply::Refused(format!("not a request of this version: {error}")),
    };
    let mut text = serde_json::to_vec(&reply)?;
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
    Ok(Some(serde_json::from_str(&line)?))
}
