//! How an instance ended, in words for an operator.

use std::fmt::{self, Write as _};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use wasmtime::{Trap, WasmBacktrace};
use wasmtime_wasi::I32Exit;

use crate::guest::Guest;
use crate::limits::{Deadline, Refused, TooManyCalls};
use crate::rate::Bucket;
use crate::words::{cut, tame};

/// Frames of the guest's stack that a message shows: the innermost ones tell.
const FRAMES_SHOWN_MAX: usize = 8;

/// Bytes of a frame's name: generic Rust names run to pages.
const FRAME_NAME_BYTES_MAX: usize = 120;

/// Bytes of a mangled name that are looked at: a file may have names of 100,000, of each frame one.
const FRAME_MANGLED_BYTES_MAX: usize = 4 * 1024;

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

/// The same, of one that keeps what it takes.
pub(crate) const ABSORB: &str = "page.absorb";

/// The call in which it is asked for its page.
pub(crate) const SERVE: &str = "page.serve";

/// The call in which it is asked for the rest of it.
pub(crate) const MORE: &str = "page.more";

/// The call in which it is shown a request.
pub(crate) const RECEIVE: &str = "http-receiver.receive";

/// The call in which it is shown a datagram.
pub(crate) const RECEIVE_DATAGRAM: &str = "datagram-receiver.receive";

/// The call in which it is shown a call of gRPC.
pub(crate) const RECEIVE_CALL: &str = "grpc-receiver.receive";

/// The call in which it says what a target is sent.
pub(crate) const PREPARE: &str = "scraper.prepare";

/// The call in which it is shown what a target has answered.
pub(crate) const DIGEST: &str = "scraper.digest";

/// The call in which it is told that a target is gone.
pub(crate) const FORGET: &str = "scraper.forget";

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
        (self.call == PUSH || self.call == ABSORB) && self.kind.may_be_the_inputs()
    }

    /// The same of a target's answer that was being read.
    pub(crate) fn blames_answer(&self) -> bool {
        self.call == DIGEST && self.kind.may_be_the_inputs()
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
            Refused::Limit { .. } | Refused::Share { .. } | Refused::Table { .. } => EndKind::MemoryLimit,
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
///
/// The engine would render them too, but whole, and names that look like C++ with a demangler that knows no bound on what
/// it writes; here each name is the guest's until it is short.
fn frames(backtrace: &WasmBacktrace) -> String {
    let names = backtrace.frames().iter().map(|frame| match frame.func_name() {
        Some(name) => frame_name(name),
        None => format!("<wasm function {}>", frame.func_index()),
    });
    let names: Vec<String> = names.collect();
    let told = names.iter().position(|name| !PANICKING.iter().any(|start| name.starts_with(start)));
    let shown: Vec<String> = names.into_iter().skip(told.unwrap_or(0)).take(FRAMES_SHOWN_MAX).collect();
    shown.join(" < ")
}

/// A name as its author wrote it, where it is one of Rust's; cut and tamed.
fn frame_name(name: &str) -> String {
    let raw = cut(name, FRAME_MANGLED_BYTES_MAX);
    let mut readable = Short::default();
    let written = match rustc_demangle::try_demangle(raw) {
        Ok(demangled) => write!(readable, "{demangled}"),
        Err(_) => readable.write_str(raw),
    };
    // What does not fit is missing at the end, which taming tells.
    written.unwrap_or_default();
    tame(&readable.0, FRAME_NAME_BYTES_MAX)
}

/// The beginning of a text, one character more of it than is shown. Writing on is an error, so that no writer goes on.
#[derive(Default)]
struct Short(String);

impl fmt::Write for Short {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for character in text.chars() {
            if self.0.len() > FRAME_NAME_BYTES_MAX {
                return Err(fmt::Error);
            }
            self.0.push(character);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: names as Rust mangles them, old and new; names of C; names that would unfold to billions of bytes in Rust's
    /// new manner and in C++'s; a long one.
    /// Guarantees: Rust's are readable, all others are as they stand, and none is longer than a line.
    #[test]
    fn a_frame_is_a_short_name_whatever_the_guest_calls_it() {
        assert_eq!(
            frame_name("_ZN7hostile7endless17hed5e5c19a8e5ce07E"),
            "hostile::endless::hed5e5c19a8e5ce07"
        );
        assert_eq!(frame_name("_RNvC7hostile7endless"), "hostile::endless");
        assert_eq!(frame_name("f"), "f");
        assert_eq!(frame_name("weir:plugin/exporter@1.0.0#push"), "weir:plugin/exporter@1.0.0#push");
        let digits = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
        let back: String = (3..=52).rev().map(|at| format!("B{}_E", char::from(digits[at - 1]))).collect();
        let doubling = format!("_RMC0{}p{back}", "T".repeat(50));
        assert!(frame_name(&doubling).starts_with("<((((("), "{}", frame_name(&doubling));
        let nested = "_Z1fPFv".to_owned() + &"PFvS_S_S_S_E".repeat(40);
        for name in [doubling, nested, "n".repeat(100_000), "ä\u{1b}".repeat(5_000)] {
            let shown = frame_name(&name);
            assert!(shown.len() < 8 * FRAME_NAME_BYTES_MAX && !shown.contains('\u{1b}'), "{shown}");
        }
    }
}
