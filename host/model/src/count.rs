//! Counters that parts own and the daemon shows.
//!
//! A part counts what happens to it in plain atomics; only `daemon` knows how they are named on `/metrics`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::{Reason, Signal};

/// A number that only grows, or a gauge that its one owner sets. Cloning shares it.
#[derive(Debug, Clone, Default)]
pub struct Counter(Arc<AtomicU64>);

impl Counter {
    /// Adds `amount`.
    pub fn add(&self, amount: u64) {
        self.0.fetch_add(amount, Ordering::Relaxed);
    }

    /// Sets it, for numbers that go up and down.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// Takes `amount` away, for numbers that go up and down.
    pub fn sub(&self, amount: u64) {
        self.0.fetch_sub(amount, Ordering::Relaxed);
    }

    /// Its value.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// One counter for each signal.
#[derive(Debug, Clone, Default)]
pub struct BySignal([Counter; 3]);

impl BySignal {
    /// The counter of `signal`.
    pub fn of(&self, signal: Signal) -> &Counter {
        match signal {
            Signal::Traces => &self.0[0],
            Signal::Metrics => &self.0[1],
            Signal::Logs => &self.0[2],
        }
    }
}

/// One counter for each signal and reason.
#[derive(Debug, Clone)]
pub struct ByReason(Arc<[BySignal; Reason::ALL.len()]>);

impl Default for ByReason {
    fn default() -> Self {
        Self(Arc::new(std::array::from_fn(|_| BySignal::default())))
    }
}

impl ByReason {
    /// The counter of `signal` and `reason`.
    pub fn of(&self, signal: Signal, reason: Reason) -> &Counter {
        self.0[reason.index()].of(signal)
    }
}

/// One counter for each reason, of what has no signal yet.
#[derive(Debug, Clone)]
pub struct OfReason(Arc<[Counter; Reason::ALL.len()]>);

impl Default for OfReason {
    fn default() -> Self {
        Self(Arc::new(std::array::from_fn(|_| Counter::default())))
    }
}

impl OfReason {
    /// The counter of `reason`.
    pub fn of(&self, reason: Reason) -> &Counter {
        &self.0[reason.index()]
    }
}

/// What one configured receiver counts, in items.
#[derive(Debug, Clone, Default)]
pub struct ReceiverCounts {
    /// Items for which success was answered (or would be, where a protocol has no answer).
    pub accepted: BySignal,
    /// Items of requests that were refused; the sender was told.
    pub refused: ByReason,
    /// Items that are gone although nobody was told: cut from a request as invalid, or taken without an answer.
    pub dropped: ByReason,
    /// Requests, stream messages and datagrams, whatever became of them.
    pub requests: Counter,
    /// Requests whose items could not be counted (malformed, too large) and were refused whole.
    pub requests_refused: Counter,
    /// Datagrams that are gone before their items were known; their senders are told nothing.
    pub datagrams_dropped: OfReason,
    /// Datagrams that the kernel has dropped because they came faster than they were read, as far as it says.
    pub datagrams_missed: Counter,
    /// Streams and connections open now.
    pub streams: Counter,
}

/// What the TLS of one door counts.
#[derive(Debug, Clone, Default)]
pub struct TlsCounts {
    /// Handshakes that failed: no certificate or one that is not taken, no TLS at all, too slow.
    pub handshakes_failed: Counter,
    /// Connections that were cut because the certificate of their client had expired or was revoked, or its authority is trusted no more.
    pub connections_cut: Counter,
}

/// What one page counts.
#[derive(Debug, Clone, Default)]
pub struct PageCounts {
    /// Answers of the plugin that were handed over whole, whatever their status.
    pub served: Counter,
    /// Requests that the plugin did not answer: not GET, too many at once, no instance, no memory.
    pub refused: Counter,
    /// Answers that were begun and not taken whole: the reader was too slow, or left.
    pub cut: Counter,
    /// Bytes of bodies that were handed over, packed where they were.
    pub bytes: Counter,
    /// Answers that are under way, which hold memory.
    pub under_way: Counter,
}
