//! How an instance ended, in words for an operator.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use wasmtime::{Trap, WasmBacktrace};
use wasmtime_wasi::I32Exit;

use crate::guest::Guest;
use crate::limits::{Deadline, Refused, TooManyCalls};
use crate::rate::Bucket;
use crate::words::tame;

/// Frames of the guest's stack that a message shows: the innermost ones tell.
const FRAMES_SHOWN_MAX: usize = 8;

/// Bytes of a frame's name: generic Rust names run to pages.
const FRAME_NAME_BYTES_MAX: usize = 120;

/// Ends of one id whose frames are told at once; then one for each [`RENDER_INTERVAL`].
///
/// Demangling costs a good part of a millisecond; a plugin that ends at whatever it is given would keep a core busy.
const RENDERS_BURST: u32 = 10;

/// See [`RENDERS_BURST`].
const RENDER_INTERVAL: Duration = Duration::from_secs(6);

/// Bytes of a delivery's id that a message shows: ours are some forty.
const DELIVERY_BYTES_MAX: usize = 120;

/// The call in which a guest is shown records.
pub(crate) const PUSH: &str = "exporter.push";

/// What the making of an instance is called among the calls.
pub(crate) const INSTANTIATE: &str = "instantiate";

/// How the names of functions begin that stand between a guest's panic and the trap.
const PANICKING: [&str; 5] = ["__rust", "std::", "std[", "core::panicking", "core["];

/// Why an instance can not be used any more. A trapped instance can never be entered again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EndKind {
    /// The guest trapped: a panic, an `unreachable`, a stack overflow, an access out of bounds.
    Trap,
    /// It computed longer than `limits.cpu_deadline`.
    CpuDeadline,
    /// The call took longer than `limits.call_deadline`.
    CallDeadline,
    /// It asked for more memory than `limits.memory`, and gave up.
    MemoryLimit,
    /// It asked for more memory than the process had left, and gave up; not the fault of what it was given.
    MemoryBudget,
    /// It called the host more often than `limits.host_calls` in one call of its own.
    HostCalls,
    /// It called WASI's `exit`.
    Exit,
    /// It refused settings in a fresh instance that it had taken before.
    Configure,
    /// Not its fault: nobody waited for the call any more. What a backend saw of it is not known.
    Cut,
}

impl EndKind {
    /// Every kind.
    pub const ALL: [Self; 9] = [
        Self::Trap,
        Self::CpuDeadline,
        Self::CallDeadline,
        Self::MemoryLimit,
        Self::MemoryBudget,
        Self::HostCalls,
        Self::Exit,
        Self::Configure,
        Self::Cut,
    ];

    /// The label's value.
    pub fn name(self) -> &'static str {
        match self {
            Self::Trap => "trap",
            Self::CpuDeadline => "cpu_deadline",
            Self::CallDeadline => "call_deadline",
            Self::MemoryLimit => "memory_limit",
            Self::MemoryBudget => "memory_budget",
            Self::HostCalls => "host_calls",
            Self::Exit => "exit",
            Self::Configure => "configure",
            Self::Cut => "cut",
        }
    }

    /// Whether what the guest was given can bring it about.
    fn may_be_the_inputs(self) -> bool {
        match self {
            Self::Trap
            | Self::CpuDeadline
            | Self::CallDeadline
            | Self::MemoryLimit
            | Self::HostCalls
            | Self::Exit => true,
            Self::MemoryBudget | Self::Configure | Self::Cut => false,
        }
    }

    /// Whether it says something about the plugin: not where nobody waited any more, and not where the process had no
    /// memory left to lend, which any plugin would meet.
    pub(crate) fn is_the_plugins(self) -> bool {
        match self {
            Self::Trap
            | Self::CpuDeadline
            | Self::CallDeadline
            | Self::MemoryLimit
            | Self::HostCalls
            | Self::Exit
            | Self::Configure => true,
            Self::MemoryBudget | Self::Cut => false,
        }
    }
}

/// An instance has ended.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct End {
    /// For counters.
    pub kind: EndKind,
    /// Interface and function that was called.
    pub call: &'static str,
    /// What was delivered ([`weir_model::Push::id`], tamed); empty for other calls.
    pub delivery: String,
    /// Plugin, version, configured id, call, delivery, limit that was hit, guest frames, tail of the guest's output.
    pub message: String,
}

/// How often an id's ends are told with the guest's frames. Cloning shares it.
#[derive(Clone)]
pub(crate) struct Renders(Arc<Mutex<Bucket>>);

impl Default for Renders {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Bucket::new(RENDERS_BURST, RENDER_INTERVAL))))
    }
}

impl Renders {
    fn take(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take(Instant::now())
    }
}

/// A call into a guest, as its end tells it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Named<'a> {
    /// Interface and function.
    pub(crate) call: &'static str,
    /// What is delivered, in the words of whoever delivers.
    pub(crate) delivery: Option<&'a str>,
}

impl End {
    /// Whether the same code may do the same call later: what ended it may be this machine at this moment, short of
    /// memory or too busy.
    pub(crate) fn passes(&self) -> bool {
        match self.kind {
            EndKind::MemoryBudget | EndKind::CpuDeadline | EndKind::CallDeadline | EndKind::Cut => true,
            // The system may have had no memory or address space for it; start code that traps is told by nothing else.
            EndKind::Trap => self.call == INSTANTIATE,
            EndKind::MemoryLimit | EndKind::HostCalls | EndKind::Exit | EndKind::Configure => false,
        }
    }

    /// Reads out of the engine's error and the instance's state what happened in the call `what`.
    pub(crate) fn of(named: Named<'_>, error: &wasmtime::Error, guest: &mut Guest) -> Self {
        let (kind, cause) = cause(error, guest.timer.met(), guest.limiter.take_refused());
        let mut end = Self::told(&guest.about, named, kind, &cause);
        if let Some(backtrace) = error.downcast_ref::<WasmBacktrace>() {
            if guest.renders().take() {
                end.add("in", &frames(backtrace));
            } else {
                end.add("its frames", "are left out, it ends too often to tell them each time");
            }
        }
        end.add("it said:", &guest.stderr.tail(guest.secrets()));
        end
    }

    /// An end that is not the engine's error; `about` as [`Guest::about`].
    pub(crate) fn told(about: &str, named: Named<'_>, kind: EndKind, cause: &str) -> Self {
        let Named { call, delivery } = named;
        let delivery = delivery.map_or_else(String::new, |id| tame(id, DELIVERY_BYTES_MAX));
        let of = if delivery.is_empty() { "" } else { " of delivery " };
        Self { kind, call, message: format!("{about}, {call}{of}{delivery}: {cause}"), delivery }
    }

    /// Whether it may be the doing of the records that were pushed: they were shown to the guest, and it was neither cut
    /// nor refused memory because the process had none left. An instance that never came so far says nothing about them.
    pub fn blames_records(&self) -> bool {
        self.call == PUSH && self.kind.may_be_the_inputs()
    }

    fn add(&mut self, what: &str, text: &str) {
        if !text.is_empty() {
            self.message.push_str("; ");
            self.message.push_str(what);
            self.message.push(' ');
            self.message.push_str(text);
        }
    }
}

fn cause(error: &wasmtime::Error, met: Option<Deadline>, refused: Option<Refused>) -> (EndKind, String) {
    match met {
        Some(Deadline::Cpu(limit)) => {
            return (EndKind::CpuDeadline, format!("computed for longer than cpu_deadline {limit:?}"));
        }
        Some(Deadline::Call(limit)) => {
            return (EndKind::CallDeadline, format!("took longer than call_deadline {limit:?}"));
        }
        None => (),
    }
    if let Some(too_many) = error.downcast_ref::<TooManyCalls>() {
        return (EndKind::HostCalls, too_many.to_string());
    }
    if let Some(refused) = refused {
        let kind = match refused {
            Refused::Limit { .. } | Refused::Table { .. } => EndKind::MemoryLimit,
            Refused::Ledger { .. } => EndKind::MemoryBudget,
        };
        return (kind, refused.to_string());
    }
    if let Some(exit) = error.downcast_ref::<I32Exit>() {
        return (EndKind::Exit, format!("called exit({})", exit.0));
    }
    match error.downcast_ref::<Trap>() {
        Some(trap) => (EndKind::Trap, trap.to_string()),
        None => (EndKind::Trap, error.root_cause().to_string()),
    }
}

/// The innermost frames, `a < b < c`, without those of a panic's own machinery.
fn frames(backtrace: &WasmBacktrace) -> String {
    // Only the engine's own rendering demangles: a line for each frame, ` 0: 0x1234 - module!name`.
    let rendered = backtrace.to_string();
    let names = rendered.lines().filter_map(|line| Some(line.split_once(" - ")?.1.split_once('!')?.1));
    let names: Vec<&str> = names.collect();
    let told = names.iter().position(|name| !PANICKING.iter().any(|start| name.starts_with(start)));
    let shown = names.iter().skip(told.unwrap_or(0)).take(FRAMES_SHOWN_MAX);
    let shown: Vec<String> = shown.map(|name| tame(name, FRAME_NAME_BYTES_MAX)).collect();
    shown.join(" < ")
}
