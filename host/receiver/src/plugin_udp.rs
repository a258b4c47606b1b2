//! The door of a plugin that receives datagrams: the socket, the limits and the memory are ours, the protocol is its.
//!
//! Nobody is answered and nobody sends again: what is not taken is gone, and counted with its reason. A datagram whose items are
//! not known is counted as one datagram, and so is what the kernel has dropped because we did not read in time.
//!
//! ```text
//! recv ─▶ under way < 1,000? ─▶ paid for? ─▶ plugin ─▶ pipelines
//!             too_many          memory_full   malformed, plugin_ended …
//! ```

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout_at};
use tracing::{debug, warn};
use weir_model::{DatagramReceiver, Reason, Receipt, Signal};
use weir_net::datagrams::{self, Datagram, Datagrams};
use weir_net::{Drain, budget};

use crate::door::{BindError, Bound, Settings};
use crate::intake::{CountLimits, Intake, Verdict};
use crate::plugin_batches::{self, Part};

/// Datagrams of one address that are under way at once: as many as Jaeger's agent queues. More than the plugin's instances can
/// decode are waiting, so a burst is kept and a flood is cut.
const UNDER_WAY_MAX: usize = 1_000;

/// Datagrams that are read once the drain has begun: more than the kernel's buffer holds of the smallest ones, so that a sender
/// who does not stop cannot keep the socket open.
const DRAINED_MAX: usize = 16 * 1024;

/// How long these may wait for others to end: then the socket is closed, since the next door may want its address.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(1);

/// The pause after a read that failed for want of something: what is missing comes back, and asking faster only burns the
/// processor.
const READ_PAUSE: Duration = Duration::from_millis(100);

/// How often the kernel is asked what it has dropped: it answers with a table of all sockets.
const MISSED_LOOK: Duration = Duration::from_secs(10);

/// One address that a plugin receives datagrams on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Where to listen, `host:port`.
    pub endpoint: String,
    /// What one datagram may hold.
    pub counts: CountLimits,
}

impl Config {
    /// The defaults at this address.
    pub fn at(endpoint: impl Into<String>) -> Self {
        Self { endpoint: endpoint.into(), counts: CountLimits::default() }
    }

    /// Reserves the address now and adds it to `bound`; `listener` is the name of the plugin's setting that asked.
    ///
    /// # Errors
    /// [`BindError`] for an address that cannot be used.
    pub fn bind(
        self,
        bound: &mut Bound,
        listener: &str,
        plugin: Arc<dyn DatagramReceiver>,
        mut settings: Settings,
    ) -> Result<(), BindError> {
        let Self { endpoint, counts } = self;
        // Nobody is told: what a pipeline refuses is gone.
        settings.counts.refused = settings.counts.dropped.clone();
        let door = PluginDoor { plugin, listener: listener.into(), intake: Intake::new(settings, counts) };
        bound.add_datagrams("udp", &endpoint, Arc::new(door)).map(|_| ())
    }
}

// === impl PluginDoor ===

pub(crate) struct PluginDoor {
    plugin: Arc<dyn DatagramReceiver>,
    listener: Box<str>,
    intake: Intake,
}

impl PluginDoor {
    /// Serves until `drain` is signaled, what had come by then has been read, and all that is under way has ended. Dropping the
    /// future cuts that.
    ///
    /// # Errors
    /// Only where the socket cannot be handed to the runtime.
    pub(crate) async fn serve(self: Arc<Self>, bound: datagrams::Bound, drain: Drain) -> io::Result<()> {
        let local_addr = bound.local_addr();
        let mut socket = bound.open()?;
        let mut under_way = JoinSet::new();
        let mut missed = 0;
        self.read(&mut socket, local_addr, &mut under_way, &mut missed, &drain).await;
        self.empty(&mut socket, &mut under_way).await;
        self.count_missed(&socket, &mut missed);
        drop(socket);
        while let Some(ended) = under_way.join_next().await {
            note(ended);
        }
        Ok(())
    }

    /// Reads until the drain. A read that fails ends nothing.
    async fn read(
        self: &Arc<Self>,
        socket: &mut Datagrams,
        local_addr: SocketAddr,
        under_way: &mut JoinSet<()>,
        missed: &mut u64,
        drain: &Drain,
    ) {
        let mut failing = false;
        let mut looks = interval(MISSED_LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let read = tokio::select! {
                biased;
                () = drain.signaled() => return,
                _ = looks.tick() => {
                    self.count_missed(socket, missed);
                    continue;
                }
                read = socket.next() => read,
            };
            match read {
                Ok(datagram) => {
                    failing = false;
                    self.begin(datagram, under_way);
                }
                Err(error) => {
                    // Said once for each spell of failures, not ten times a second.
                    if !failing {
                        warn!(%error, listen.addr = %local_addr, "reading datagrams fails, trying on");
                    }
                    failing = true;
                    tokio::select! {
                        () = drain.signaled() => return,
                        () = sleep(READ_PAUSE) => (),
                    }
                }
            }
        }
    }

    /// Counts what the kernel has dropped since the last look; `missed` is what it had until then.
    fn count_missed(&self, socket: &Datagrams, missed: &mut u64) {
        let now = socket.missed().unwrap_or(*missed);
        self.intake.settings().counts.datagrams_missed.add(now.saturating_sub(*missed));
        *missed = now.max(*missed);
    }

    /// Reads what has come already: nobody would send it again. Where as many are under way as may be, these are waited for.
    async fn empty(self: &Arc<Self>, socket: &mut Datagrams, under_way: &mut JoinSet<()>) {
        let deadline = Instant::now() + DRAIN_TIME_MAX;
        for _ in 0..DRAINED_MAX {
            if under_way.len() >= UNDER_WAY_MAX
                && let Ok(Some(ended)) = timeout_at(deadline, under_way.join_next()).await
            {
                note(ended);
            }
            let Some(datagram) = socket.waiting() else { return };
            self.begin(datagram, under_way);
        }
    }

    /// Counts a datagram and has it decoded, if there is room for it.
    fn begin(self: &Arc<Self>, datagram: Datagram<'_>, under_way: &mut JoinSet<()>) {
        let settings = self.intake.settings();
        settings.counts.requests.add(1);
        let Datagram::Whole(bytes) = datagram else { return self.lost(Reason::TooLarge) };
        while let Some(ended) = under_way.try_join_next() {
            note(ended);
        }
        if under_way.len() >= UNDER_WAY_MAX {
            return self.lost(Reason::TooMany);
        }
        let Ok(claim) = budget::claim(&settings.ledger, bytes.len() as u64) else {
            return self.lost(Reason::MemoryFull);
        };
        let datagram = budget::paid(Bytes::copy_from_slice(bytes), claim);
        // Made before the task: one that is cut before it has begun is counted as well.
        let turn = Turn { door: Arc::clone(self), has_ended: false };
        under_way.spawn(turn.take(datagram));
    }

    /// Has the plugin look at a datagram, and hands on what it found.
    async fn look(&self, datagram: Bytes) {
        match self.plugin.receive(&self.listener, datagram).await {
            Ok(Ok(batches)) => self.hand_on(batches).await,
            Ok(Err(why)) => {
                // Anybody can send anything to an open port: no line above this level for each.
                debug!(receiver = %self.intake.settings().id, why, "datagram is no telemetry");
                self.lost(Reason::Malformed);
            }
            Err(refusal) => self.lost(refusal.reason()),
        }
    }

    /// Each signal goes its own way: that one is refused is no reason to lose another.
    async fn hand_on(&self, batches: Vec<(Signal, Bytes)>) {
        let parts = match plugin_batches::parts(&self.intake, &batches) {
            Ok(parts) => parts,
            Err(fault) => return self.lost(fault.reason()),
        };
        drop(batches);
        for Part { signal, checked, claim } in parts {
            match self.intake.hand_on(signal, checked, Arc::new(claim), None).await {
                Verdict::Taken { proof, .. } => kept(proof),
                Verdict::Nothing { .. } => (),
                // Counted with its items.
                Verdict::Refused(refusal) => {
                    let why = refusal.explain();
                    debug!(receiver = %self.intake.settings().id, %signal, why, "datagram is dropped");
                }
            }
        }
    }

    /// A datagram is gone before its items were known.
    fn lost(&self, reason: Reason) {
        self.intake.settings().counts.datagrams_dropped.of(reason).add(1);
    }
}

/// A datagram under way. One that is dropped on the way (its task was cut, or panicked) is counted as lost.
struct Turn {
    door: Arc<PluginDoor>,
    has_ended: bool,
}

impl Turn {
    async fn take(mut self, datagram: Bytes) {
        self.door.look(datagram).await;
        self.has_ended = true;
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if !self.has_ended {
            self.door.lost(Reason::Draining);
        }
    }
}

/// What is kept: there is nobody to be told.
fn kept(_proof: Receipt) {}

/// A task that has ended, well or not.
fn note(ended: Result<(), tokio::task::JoinError>) {
    if let Err(panic) = ended {
        warn!(error = %panic, "a datagram's task ended early");
    }
}
