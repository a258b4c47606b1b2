//! How an instance ended, in words for an operator.

use wasmtime::{Trap, WasmBacktrace};
use wasmtime_wasi::I32Exit;

use crate::guest::Guest;
use crate::limits::{Deadline, Refused};

/// Frames of the guest's stack that a message shows: the innermost ones tell.
const FRAMES_SHOWN_MAX: usize = 8;

/// Bytes of a frame's name: generic Rust names run to pages.
const FRAME_NAME_BYTES_MAX: usize = 120;

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
    /// It called WASI's `exit`.
    Exit,
    /// It refused settings in a fresh instance that it had taken before.
    Configure,
}

impl EndKind {
    /// Every kind.
    pub const ALL: [Self; 7] = [
        Self::Trap,
        Self::CpuDeadline,
        Self::CallDeadline,
        Self::MemoryLimit,
        Self::MemoryBudget,
        Self::Exit,
        Self::Configure,
    ];

    /// The label's value.
    pub fn name(self) -> &'static str {
        match self {
            Self::Trap => "trap",
            Self::CpuDeadline => "cpu_deadline",
            Self::CallDeadline => "call_deadline",
            Self::MemoryLimit => "memory_limit",
            Self::MemoryBudget => "memory_budget",
            Self::Exit => "exit",
            Self::Configure => "configure",
        }
    }
}

/// An instance has ended.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct End {
    /// For counters.
    pub kind: EndKind,
    /// Plugin, version, call, limit that was hit, guest frames, tail of the guest's stderr.
    pub message: String,
}

impl End {
    /// Reads out of the engine's error and the instance's state what happened in the call `what`.
    pub(crate) fn of(what: &str, error: &wasmtime::Error, guest: &mut Guest) -> Self {
        let (kind, cause) = cause(error, guest.timer.met(), guest.limiter.take_refused());
        let mut message = format!("{}, {what}: {cause}", guest.about);
        let frames = frames(error);
        if !frames.is_empty() {
            message.push_str("; in ");
            message.push_str(&frames);
        }
        let said = guest.stderr.tail();
        if !said.is_empty() {
            message.push_str("; it said: ");
            message.push_str(&said);
        }
        Self { kind, message }
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
fn frames(error: &wasmtime::Error) -> String {
    let Some(backtrace) = error.downcast_ref::<WasmBacktrace>() else {
        return String::new();
    };
    // Only the engine's own rendering demangles: a line for each frame, ` 0: 0x1234 - module!name`.
    let rendered = backtrace.to_string();
    let names = rendered.lines().filter_map(|line| Some(line.split_once(" - ")?.1.split_once('!')?.1));
    let names: Vec<&str> = names.collect();
    let told = names.iter().position(|name| !PANICKING.iter().any(|start| name.starts_with(start)));
    let shown = names.iter().skip(told.unwrap_or(0)).take(FRAMES_SHOWN_MAX);
    let shown: Vec<String> = shown.map(|name| crate::words::tame(name, FRAME_NAME_BYTES_MAX)).collect();
    shown.join(" < ")
}
