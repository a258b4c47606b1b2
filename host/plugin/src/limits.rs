//! How much one instance may use: memory, tables, time. One place.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use wasmtime::ResourceLimiter;
use weir_model::{Claim, Counter, Exhausted, Ledger};

use crate::engine::TICK;
use crate::pool::Idlers;
use crate::workers::Load;

/// Elements of one table. A table element costs 8 bytes; interpreters compiled to Wasm need some ten thousand.
const TABLE_ELEMENTS_MAX: usize = 100_000;

/// What a table element costs the host.
const TABLE_ELEMENT_BYTES: usize = 8;

/// Core instances, tables and memories of one component: composed components and adapters have several of each.
const PARTS_MAX: usize = 50;

/// Bytes that a guest may hand to the host in one call (a request's body, telemetry): the largest joined batch as JSON.
pub(crate) const HANDOVER_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Component-model handles of one instance. Our interfaces have none; WASI's streams and pollables are a few.
pub(crate) const HANDLES_MAX: usize = 1_000;

/// The shortest time for each call that checks a plugin: what it is, whether it takes settings. Ids wait for a new file
/// meanwhile, and such a call only computes: it has no power to wait for anybody.
const CHECK_DEADLINE_MIN: Duration = Duration::from_secs(10);

/// A check may take so many times its `limits.cpu_deadline`: a busy machine gives a guest a third of its time, and an
/// interpreter that needs long to start is given that by the key which counts its computing.
const CHECK_DEADLINE_TIMES: u32 = 3;

/// Memory of a plugin that somebody looks at by hand: no id's limits are known, and the process's budget holds anyway.
const BY_HAND_MEMORY_BYTES: usize = 1024 * 1024 * 1024;

/// Computing of a plugin that somebody looks at by hand, and waits for: six times what an id has by default.
const BY_HAND_CPU_DEADLINE: Duration = Duration::from_secs(30);

/// The limits of each instance of a configured id (`limits:`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of linear memory and tables of one instance.
    pub memory_bytes: usize,
    /// Time that the guest itself may compute in one call; waiting in the host does not count.
    pub cpu_deadline: Duration,
    /// Time that one call may take, all in all. A request that is still under way then is answered with `timeout`.
    pub call_deadline: Duration,
    /// Bytes of one HTTP response that the guest may be handed.
    pub response_bytes: usize,
    /// Calls of our interfaces that the guest may make in one call of its own. Four KiB of a text in them cost another one.
    pub host_calls: u64,
}

impl Default for Limits {
    /// 64 MiB, 5 s, 60 s, 4 MiB, 100,000 host calls (DESIGN 1.4, `facts/reliability.md` 5.2).
    fn default() -> Self {
        Self {
            memory_bytes: 64 * 1024 * 1024,
            cpu_deadline: Duration::from_secs(5),
            call_deadline: Duration::from_secs(60),
            response_bytes: weir_net::client::RESPONSE_BYTES_MAX_DEFAULT,
            host_calls: HOST_CALLS_MAX_DEFAULT,
        }
    }
}

impl Limits {
    /// For who looks at a plugin by hand (`weir plugin inspect`, `precompile`): 1 GiB, 30 s of computing, else the default.
    pub fn by_hand() -> Self {
        Self { memory_bytes: BY_HAND_MEMORY_BYTES, cpu_deadline: BY_HAND_CPU_DEADLINE, ..Self::default() }
    }

    /// Of each limit the larger one: code that several ids share is asked what it is within the limits of all of them.
    #[must_use]
    pub fn or_larger(&self, other: &Self) -> Self {
        let Self { memory_bytes, cpu_deadline, call_deadline, response_bytes, host_calls } = other;
        Self {
            memory_bytes: self.memory_bytes.max(*memory_bytes),
            cpu_deadline: self.cpu_deadline.max(*cpu_deadline),
            call_deadline: self.call_deadline.max(*call_deadline),
            response_bytes: self.response_bytes.max(*response_bytes),
            host_calls: self.host_calls.max(*host_calls),
        }
    }

    /// The same for calls that check a plugin: their deadline is a short one of its own.
    pub(crate) fn of_check(&self) -> Self {
        let longest = self.cpu_deadline.saturating_mul(CHECK_DEADLINE_TIMES).max(CHECK_DEADLINE_MIN);
        Self { call_deadline: self.call_deadline.min(longest), ..self.clone() }
    }
}

/// A plugin that reads the clock and counts once for each of the 8192 items of a joined batch makes a fifth of them.
pub const HOST_CALLS_MAX_DEFAULT: u64 = 100_000;

/// What an operator does about a budget that is used up.
const RAISED_BY: &str = "service.memory.limit_mib raises it";

/// A growth that was not granted. The guest sees only that it failed and traps; this is what the operator reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refused {
    /// Over the instance's own limit.
    Limit { asked: usize, limit: usize },
    /// The process has no memory left to lend, or none to guests: `part` is what they may have together.
    Ledger { asked: usize, limit: u64, part: Option<u64> },
    /// The same, of an instance that asks for more than half of what all guests may have together: it is the reason.
    Share { asked: usize, limit: u64, part: u64 },
    /// A table over [`TABLE_ELEMENTS_MAX`].
    Table { asked: usize },
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mebibytes = |bytes: usize| bytes.div_ceil(1024 * 1024);
        match self {
            Self::Limit { asked, limit } => {
                write!(
                    f,
                    "memory limit {} MiB reached, asked for {} MiB (limits.memory_mib)",
                    mebibytes(*limit),
                    mebibytes(*asked)
                )
            }
            Self::Ledger { asked, limit, part } => {
                if let Some(part) = part {
                    write!(f, "the plugins' part ({} MiB) of the ", part / (1024 * 1024))?;
                }
                write!(
                    f,
                    "memory budget of the process ({} MiB) used up, asked for {} MiB; {RAISED_BY}",
                    limit / (1024 * 1024),
                    mebibytes(*asked)
                )
            }
            Self::Share { asked, limit, part } => write!(
                f,
                "memory budget of the process ({} MiB) used up, asked for {} MiB, more than half of the plugins' part of \
                 it ({} MiB); {RAISED_BY}",
                limit / (1024 * 1024),
                mebibytes(*asked),
                part / (1024 * 1024)
            ),
            Self::Table { asked } => {
                write!(f, "table limit {TABLE_ELEMENTS_MAX} elements reached, asked for {asked}")
            }
        }
    }
}

/// Grants growth, pays for it from the ledger, remembers what it refused.
pub(crate) struct Limiter {
    limit: usize,
    ledger: Arc<Ledger>,
    claim: Option<Claim>,
    /// The growth that was granted last, should the engine report that it failed after all.
    last_granted: usize,
    refused: Option<Refused>,
    peak: Counter,
    idlers: Idlers,
}

impl Limiter {
    pub(crate) fn new(limit: usize, ledger: &Arc<Ledger>, peak: Counter, idlers: &Idlers) -> Self {
        let (ledger, idlers) = (Arc::clone(ledger), idlers.clone());
        Self { limit, ledger, claim: None, last_granted: 0, refused: None, peak, idlers }
    }

    /// Bytes that the instance has now.
    pub(crate) fn bytes(&self) -> usize {
        self.claim.as_ref().map_or(0, |claim| usize::try_from(claim.bytes()).unwrap_or(usize::MAX))
    }

    /// The growth that was refused since the last call of this function.
    pub(crate) fn take_refused(&mut self) -> Option<Refused> {
        self.refused.take()
    }

    fn grow(&mut self, more: usize) -> bool {
        let asked = self.bytes().saturating_add(more);
        if asked > self.limit {
            self.refused = Some(Refused::Limit { asked, limit: self.limit });
            return false;
        }
        let mut granted = self.claim_more(more);
        if granted.is_err() && self.idlers.give_back() {
            granted = self.claim_more(more);
        }
        if let Err(exhausted) = granted {
            let (limit, part) = (self.ledger.limit(), self.ledger.guests_limit());
            self.refused = Some(if asked as u64 > part / 2 {
                Refused::Share { asked, limit, part }
            } else {
                Refused::Ledger { asked, limit, part: (exhausted.limit < limit).then_some(part) }
            });
            return false;
        }
        self.last_granted = more;
        if asked as u64 > self.peak.get() {
            self.peak.set(asked as u64);
        }
        true
    }

    fn claim_more(&mut self, more: usize) -> Result<(), Exhausted> {
        match &mut self.claim {
            Some(claim) => claim.grow(more as u64),
            None => self.ledger.claim_for_guest(more as u64).map(|claim| self.claim = Some(claim)),
        }
    }

    fn give_back_last(&mut self) {
        let bytes = self.bytes().saturating_sub(std::mem::take(&mut self.last_granted));
        if let Some(claim) = &mut self.claim {
            claim.shrink_to(bytes as u64);
        }
    }
}

impl ResourceLimiter for Limiter {
    fn memory_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        Ok(self.grow(desired.saturating_sub(current)))
    }

    fn memory_grow_failed(&mut self, _: wasmtime::Error) -> wasmtime::Result<()> {
        self.give_back_last();
        Ok(())
    }

    fn table_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        if desired > TABLE_ELEMENTS_MAX {
            self.refused = Some(Refused::Table { asked: desired });
            return Ok(false);
        }
        Ok(self.grow(desired.saturating_sub(current).saturating_mul(TABLE_ELEMENT_BYTES)))
    }

    fn table_grow_failed(&mut self, _: wasmtime::Error) -> wasmtime::Result<()> {
        self.give_back_last();
        Ok(())
    }

    fn instances(&self) -> usize {
        PARTS_MAX
    }

    fn tables(&self) -> usize {
        PARTS_MAX
    }

    fn memories(&self) -> usize {
        PARTS_MAX
    }
}

/// The guest has called the host more often than `limits.host_calls` in one call of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("made more than {0} host calls (limits.host_calls)")]
pub(crate) struct TooManyCalls(pub(crate) u64);

/// How long a guest may go on after its call deadline, to answer what its last host call told it (`timeout`).
pub(crate) const ANSWER_GRACE: Duration = Duration::from_millis(500);

/// Which deadline a call has met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Deadline {
    /// Of the guest's own time.
    Cpu(Duration),
    /// Of the whole call.
    Call(Duration),
}

/// The time that is left to the call under way.
pub(crate) struct Timer {
    cpu_deadline: Duration,
    call_deadline: Duration,
    ticks_left: u32,
    ends_at: Instant,
    /// The epoch has advanced while the host had the call; the guest is not charged for that tick.
    forgive: bool,
    met: Option<Deadline>,
    /// Where ticks that met the guest at work are told to whoever runs the call.
    load: Arc<Load>,
}

impl Timer {
    pub(crate) fn new(limits: &Limits) -> Self {
        let mut timer = Self {
            cpu_deadline: limits.cpu_deadline,
            call_deadline: limits.call_deadline,
            ticks_left: 0,
            ends_at: Instant::now(),
            forgive: false,
            met: None,
            load: Arc::default(),
        };
        timer.begin();
        timer
    }

    /// A call begins.
    pub(crate) fn begin(&mut self) {
        let ticks = self.cpu_deadline.as_millis().div_ceil(TICK.as_millis());
        self.ticks_left = u32::try_from(ticks).unwrap_or(u32::MAX).max(1);
        self.ends_at = Instant::now() + self.call_deadline;
        self.forgive = false;
        self.met = None;
    }

    /// A tick has met the guest at work. `false`: that was its last one.
    pub(crate) fn tick(&mut self) -> bool {
        if Instant::now() >= self.ends_at + ANSWER_GRACE {
            self.met = Some(Deadline::Call(self.call_deadline));
            return false;
        }
        if std::mem::take(&mut self.forgive) {
            return true;
        }
        self.load.tick();
        self.ticks_left = self.ticks_left.saturating_sub(1);
        if self.ticks_left == 0 {
            self.met = Some(Deadline::Cpu(self.cpu_deadline));
        }
        self.ticks_left > 0
    }

    /// At least one tick fell into a host call.
    pub(crate) fn forgive(&mut self) {
        self.forgive = true;
    }

    /// Ticks are told to `load` from now on.
    pub(crate) fn report_to(&mut self, load: Arc<Load>) {
        self.load = load;
    }

    /// What is left of the call.
    pub(crate) fn left(&self) -> Duration {
        self.ends_at.saturating_duration_since(Instant::now())
    }

    /// When the call must be over.
    pub(crate) fn ends_at(&self) -> Instant {
        self.ends_at
    }

    /// The call was cut from outside, in a host function that knows no deadline.
    pub(crate) fn cut(&mut self) {
        self.met = Some(Deadline::Call(self.call_deadline));
    }

    /// The deadline that ended the call.
    pub(crate) fn met(&self) -> Option<Deadline> {
        self.met
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: growth within the limit, over it, over the guests' part, over the process's budget, and one that the system cannot do.
    /// Guarantees: the ledger holds exactly what the instance has, and a refusal is remembered in an operator's words.
    #[test]
    fn guest_memory_is_paid_for_and_refusals_are_remembered() {
        const MIB: usize = 1024 * 1024;
        let ledger = Ledger::new(200 * MIB as u64);
        let peak = Counter::default();
        let mut limiter = Limiter::new(64 * MIB, &ledger, peak.clone(), &Idlers::default());
        assert!(limiter.memory_growing(0, 60 * MIB, None).unwrap());
        assert!(!limiter.memory_growing(60 * MIB, 71 * MIB, None).unwrap());
        assert_eq!(
            limiter.take_refused().unwrap().to_string(),
            "memory limit 64 MiB reached, asked for 71 MiB (limits.memory_mib)"
        );
        let mut other = Limiter::new(64 * MIB, &ledger, peak.clone(), &Idlers::default());
        assert!(!other.memory_growing(0, 41 * MIB, None).unwrap());
        assert_eq!(
            other.take_refused().unwrap().to_string(),
            "the plugins' part (100 MiB) of the memory budget of the process (200 MiB) used up, asked for 41 MiB; \
             service.memory.limit_mib raises it"
        );
        let rest = ledger.claim(101 * MIB as u64).unwrap();
        assert!(!other.memory_growing(0, 40 * MIB, None).unwrap());
        assert_eq!(
            other.take_refused().unwrap().to_string(),
            "memory budget of the process (200 MiB) used up, asked for 40 MiB; service.memory.limit_mib raises it"
        );
        drop(rest);
        assert!(other.memory_growing(0, 40 * MIB, None).unwrap());
        other.memory_grow_failed(wasmtime::Error::msg("the system said no")).unwrap();
        assert_eq!(ledger.used(), 60 * MIB as u64);
        assert!(!limiter.table_growing(0, TABLE_ELEMENTS_MAX + 1, None).unwrap());
        drop(limiter);
        assert_eq!(ledger.used(), 0);
        assert_eq!(peak.get(), 60 * MIB as u64);
    }

    /// Scenario: limits of an id with defaults, of one that lets an interpreter compute for long, of one whose calls are short.
    /// Guarantees: a check ends before a call would, and not before the guest has had the computing that it is given.
    #[test]
    fn a_check_is_given_less_time_than_a_call_and_enough_to_compute() {
        let seconds = Duration::from_secs;
        for (cpu, call, check) in [(5, 60, 15), (1, 60, 10), (40, 600, 120), (5, 7, 7), (30, 60, 60)] {
            let limits =
                Limits { cpu_deadline: seconds(cpu), call_deadline: seconds(call), ..Limits::default() };
            let expected = Limits { call_deadline: seconds(check), ..limits.clone() };
            assert_eq!(limits.of_check(), expected, "{cpu} s of computing, {call} s a call");
        }
    }

    /// Scenario: two ids of one plugin, each with another limit raised.
    /// Guarantees: what both share has the larger one of each.
    #[test]
    fn shared_code_has_the_larger_limits() {
        let memory = Limits { memory_bytes: 1 << 30, ..Limits::default() };
        let time = Limits { cpu_deadline: Duration::from_secs(50), ..Limits::default() };
        let both =
            Limits { memory_bytes: 1 << 30, cpu_deadline: Duration::from_secs(50), ..Limits::default() };
        assert_eq!(memory.or_larger(&time), both);
        assert_eq!(time.or_larger(&memory), both);
    }

    /// Scenario: ticks in the guest, ticks that fell into the host, and the end of the wall time.
    /// Guarantees: only the guest's own ticks count against its CPU deadline.
    #[test]
    fn only_the_guests_own_ticks_count() {
        let limits =
            Limits { cpu_deadline: TICK * 3, call_deadline: Duration::from_secs(1), ..Limits::default() };
        let mut timer = Timer::new(&limits);
        assert!(timer.tick());
        for _ in 0..10 {
            timer.forgive();
            assert!(timer.tick());
        }
        assert!(timer.tick());
        assert!(!timer.tick());
        assert_eq!(timer.met(), Some(Deadline::Cpu(TICK * 3)));
        timer.begin();
        timer.ends_at = Instant::now() - ANSWER_GRACE;
        assert!(!timer.tick());
        assert_eq!(timer.met(), Some(Deadline::Call(Duration::from_secs(1))));
    }
}
