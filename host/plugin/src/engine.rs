//! The engine that all guests share, and the clock that interrupts them.
//!
//! Guests run on fibers, so that a host function may wait without a thread; epochs make a long guest yield each tick
//! to whoever else has work. Fuel is off (it would cost another tenth), so is Winch (a class of escapes of its own).

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;

use tracing::warn;
use wasmtime::{Config, Engine, InstanceAllocationStrategy, Strategy, WasmBacktraceDetails};

/// How often a running guest is asked whether it has had enough.
///
/// Spin's default; a shorter one costs more yields, a longer one makes other work on the thread wait.
pub(crate) const TICK: Duration = Duration::from_millis(10);

/// Ticks without a guest after which the thread goes to sleep: a second of idling is cheaper than a wake-up for each of
/// the calls of a busy second.
const IDLE_TICKS_MAX: u32 = 100;

/// Address space that an instance reserves for its memory, so that its accesses need no bounds checks (these would cost
/// 1.2 to 1.8 times). It needs no memory, but a process with a limit on address space (`ulimit -v`) cannot give it.
const RESERVATION_BYTES: u64 = 4 << 30;

/// Instances for which there must be address space.
const RESERVATIONS: u64 = 64;

/// The engine with its ticker. Cloning shares both.
#[derive(Clone)]
pub(crate) struct GuestEngine {
    engine: Engine,
    ticker: Arc<Ticker>,
}

impl GuestEngine {
    /// An engine with everything that Weir decided (DESIGN 1.4).
    ///
    /// # Errors
    /// Where the machine cannot run one, or has no thread left.
    pub(crate) fn new() -> wasmtime::Result<Self> {
        let engine = Engine::new(&config())?;
        let ticker = Ticker::start(&engine)?;
        Ok(Self { engine, ticker })
    }

    pub(crate) fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Keeps the clock ticking while the guard lives.
    pub(crate) fn running(&self) -> Running {
        self.ticker.running.fetch_add(1, Ordering::SeqCst);
        if self.ticker.asleep.load(Ordering::SeqCst) {
            self.ticker.wake();
        }
        Running { ticker: Arc::clone(&self.ticker) }
    }

    /// Ticks since the start, for finding out whether one fell into a host call.
    pub(crate) fn ticks(&self) -> u64 {
        self.ticker.ticks.load(Ordering::Relaxed)
    }
}

fn config() -> Config {
    let mut config = Config::new();
    config
        .strategy(Strategy::Cranelift)
        .allocation_strategy(InstanceAllocationStrategy::OnDemand)
        .concurrency_support(false)
        .epoch_interruption(true)
        .consume_fuel(false)
        .wasm_component_model(true)
        .parallel_compilation(true)
        // Names come from the name section. Symbolication would cost milliseconds a trap.
        .wasm_backtrace_details(WasmBacktraceDetails::Disable);
    let limit = rustix::process::getrlimit(rustix::process::Resource::As).current;
    match limit {
        Some(bytes) if bytes < RESERVATION_BYTES.saturating_mul(RESERVATIONS) => {
            warn!(
                limit_bytes = bytes,
                "address space is limited (ulimit -v): plugins run with bounds checks, slower by up to 1.8 times"
            );
            config.memory_reservation(0).memory_guard_size(0);
        }
        Some(_) | None => {
            config.memory_reservation(RESERVATION_BYTES);
        }
    }
    config
}

/// The thread that advances the engine's epoch while a guest runs.
struct Ticker {
    running: AtomicUsize,
    asleep: AtomicBool,
    ticks: AtomicU64,
    /// Room for one wake-up: a second one would say the same.
    waker: SyncSender<()>,
}

impl Ticker {
    fn start(engine: &Engine) -> std::io::Result<Arc<Self>> {
        let (waker, woken) = sync_channel(1);
        let ticker = Arc::new(Self {
            running: AtomicUsize::new(0),
            asleep: AtomicBool::new(false),
            ticks: AtomicU64::new(0),
            waker,
        });
        // The thread ends with the last engine: it holds neither the engine nor the ticker strongly while it sleeps.
        let weak = Arc::downgrade(&ticker);
        let engine = engine.weak();
        thread::Builder::new().name("weir-epochs".into()).spawn(move || {
            let mut idle = 0_u32;
            loop {
                let pause = (idle <= IDLE_TICKS_MAX).then_some(TICK);
                let ended = match pause {
                    Some(pause) => {
                        woken.recv_timeout(pause) == Err(std::sync::mpsc::RecvTimeoutError::Disconnected)
                    }
                    None => woken.recv().is_err(),
                };
                let (false, Some(ticker), Some(engine)) = (ended, Weak::upgrade(&weak), engine.upgrade())
                else {
                    return;
                };
                idle = ticker.tick(&engine, idle);
            }
        })?;
        Ok(ticker)
    }

    /// One turn; returns for how many turns no guest has run.
    fn tick(&self, engine: &Engine, idle: u32) -> u32 {
        self.asleep.store(false, Ordering::SeqCst);
        if self.running.load(Ordering::SeqCst) > 0 {
            self.ticks.fetch_add(1, Ordering::Relaxed);
            engine.increment_epoch();
            return 0;
        }
        if idle >= IDLE_TICKS_MAX {
            self.asleep.store(true, Ordering::SeqCst);
            // A guest that began between the two lines above has seen `asleep` unset.
            if self.running.load(Ordering::SeqCst) > 0 {
                self.asleep.store(false, Ordering::SeqCst);
                return 0;
            }
        }
        idle.saturating_add(1)
    }

    fn wake(&self) {
        match self.waker.try_send(()) {
            // Full: the thread is about to wake. Disconnected: the process is ending.
            Ok(()) | Err(TrySendError::Full(()) | TrySendError::Disconnected(())) => (),
        }
    }
}

/// A guest is running.
pub(crate) struct Running {
    ticker: Arc<Ticker>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.ticker.running.fetch_sub(1, Ordering::SeqCst);
    }
}
