//! Who follows the store: first what there is, then what changes.
//!
//! A watcher has no queue: it has a position, and asks for the rows above it, a page at a time. So one that is slow costs no more
//! than its page, and finds of each resource the newest. Only what is gone is not remembered for ever: whoever has fallen behind that is cut, with a text.
//!
//! ```text
//! no cursor     Started(resumed: false) · live rows · Complete · changes …
//! a good one    Started(resumed: true) · changes since · Complete · changes …
//! ```

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::watch;

use crate::limits::STATE_VALUE_BYTES_MAX;

use super::row::{id, number};
use super::table::{FACT_BYTES_MAX, Fact, Filter};
use super::{CLOSED, Shared};

/// States that are read at once: small ones, which are most of all.
const PAGE_STATES_MAX: usize = 128;
/// Bytes of them before the state that goes beyond: two of the largest. What was read and not said is all that a watcher has.
const PAGE_BYTES_MAX: usize = 2 * STATE_VALUE_BYTES_MAX;
/// Bytes that a watcher holds at most: a page, and the state that goes beyond it.
pub(in crate::state) const WATCHER_BYTES_MAX: usize = PAGE_BYTES_MAX + FACT_BYTES_MAX;
const PAGE: (usize, usize) = (PAGE_STATES_MAX, PAGE_BYTES_MAX);
/// Bytes of a cursor.
const CURSOR_BYTES: usize = 16 + 8;

/// How far a watcher is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    store: u128,
    version: u64,
}

impl Cursor {
    /// As it goes over the wire.
    pub fn to_bytes(self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(CURSOR_BYTES);
        bytes.extend_from_slice(&self.store.to_be_bytes());
        bytes.extend_from_slice(&self.version.to_be_bytes());
        bytes
    }

    /// From the wire; none where it is no cursor.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut rest = bytes;
        let cursor = Self { store: id(&mut rest)?, version: number(&mut rest)? };
        rest.is_empty().then_some(cursor)
    }
}

/// What a watcher is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The first: whether it goes on where the cursor was. Else all that was known is to be forgotten.
    Started {
        /// Whether it does.
        resumed: bool,
    },
    /// A state as it is now.
    Fact(Fact),
    /// What was there when the watch began was said.
    Complete,
}

/// The watch has ended; says why and what to do.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
#[error("{0}")]
pub struct Cut(pub String);

/// Somebody who follows.
#[derive(Debug)]
pub struct Watching {
    shared: Arc<Shared>,
    filter: Filter,
    phase: Phase,
    /// Everything up to this version was read.
    position: u64,
    ready: VecDeque<Fact>,
    changed: watch::Receiver<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Starting {
        resumed: bool,
        upto: u64,
    },
    /// Live rows up to a version; what changes meanwhile is above.
    Snapshot {
        upto: u64,
    },
    /// What was missed up to a version.
    Missed {
        upto: u64,
    },
    Live,
}

impl Watching {
    pub(super) fn new(shared: &Arc<Shared>, filter: Filter, cursor: Option<Cursor>) -> Self {
        let changed = shared.changed.subscribe();
        let table = shared.lock();
        let is_known = |cursor: &Cursor| {
            cursor.store == table.id && (table.floor..=table.version).contains(&cursor.version)
        };
        let from = cursor.filter(is_known).map(|cursor| cursor.version);
        let phase = Phase::Starting { resumed: from.is_some(), upto: table.version };
        drop(table);
        let position = from.unwrap_or(0);
        Self { shared: Arc::clone(shared), filter, phase, position, ready: VecDeque::new(), changed }
    }

    /// The next event, and where to begin after it. Waits until there is one.
    ///
    /// # Errors
    /// [`Cut`], after which nothing more comes.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub async fn next(&mut self) -> Result<(Event, Cursor), Cut> {
        loop {
            if let Some(fact) = self.ready.pop_front() {
                let cursor = self.cursor(fact.version);
                return Ok((Event::Fact(fact), cursor));
            }
            let (upto, with_gone) = match self.phase {
                Phase::Starting { resumed, upto } => {
                    self.phase = if resumed { Phase::Missed { upto } } else { Phase::Snapshot { upto } };
                    return Ok((Event::Started { resumed }, self.cursor(self.position)));
                }
                Phase::Snapshot { upto } | Phase::Missed { upto } if self.position >= upto => {
                    self.phase = Phase::Live;
                    return Ok((Event::Complete, self.cursor(self.position)));
                }
                Phase::Snapshot { upto } => (upto, false),
                Phase::Missed { upto } => (upto, true),
                Phase::Live => {
                    let position = self.position;
                    let changed = self.changed.wait_for(|version| *version > position).await;
                    let version = changed.map_or(CLOSED, |version| *version);
                    if version == CLOSED {
                        return Err(Cut("the collector stops: watch again when it is back".to_owned()));
                    }
                    (version, true)
                }
            };
            self.read(upto, with_gone)?;
        }
    }

    fn read(&mut self, upto: u64, with_gone: bool) -> Result<(), Cut> {
        let table = self.shared.lock();
        // Of a snapshot everything above its end is to come; of changes everything above the position.
        let needed = if let Phase::Snapshot { upto } = self.phase { upto } else { self.position };
        if table.floor > needed {
            return Err(Cut(
                "the watch was too slow, what has gone meanwhile is no longer known: watch again, which begins with a snapshot"
                    .to_owned(),
            ));
        }
        let page = table.page(&*self.shared.keep, (self.position, upto), &self.filter, with_gone, PAGE);
        drop(table);
        self.position = page.upto;
        self.ready.extend(page.facts);
        Ok(())
    }

    /// Bytes of what was read and not said.
    #[cfg(test)]
    pub(super) fn held_bytes(&self) -> usize {
        self.ready.iter().map(Fact::bytes).sum()
    }

    fn cursor(&self, version: u64) -> Cursor {
        Cursor { store: self.shared.id, version }
    }
}
