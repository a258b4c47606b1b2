//! The daemon's side of the log on disk: [`Queue`] for [`DiskQueue`].

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use bytes::Bytes;
use tokio::sync::watch;
use tracing::{info, warn};
use weir_model::{BoxFuture, Seq};

use crate::journal::{Chore, DiskQueue};
use crate::queue::{Cursor, Queue, QueueError, Watch, WhenFull};
use crate::reader::DiskCursor;
use crate::recovery::{at_oldest, unix_seconds};
use crate::settings::{BUDGET_BYTES_MIN, EXPORTERS_MAX, SEGMENTS_MIN};
use crate::status::{DeadLetter, QueueCounts, Status};

/// How long the process runs with an exporter that is not configured any more before its cursor goes.
const REMOVED_SECONDS_MAX: u64 = 24 * 60 * 60;
/// What one tick can count at the most: a clock that was set is not time that has passed.
const TICK_SECONDS_MAX: u64 = 60;

impl Queue for DiskQueue {
    fn subscribe(&self, exporter: &str, when_full: WhenFull) -> Result<Arc<dyn Cursor>, QueueError> {
        if exporter.is_empty() || exporter.len() > 255 {
            return Err(QueueError::Name { bytes: exporter.len() });
        }
        let letters = self.core.dead().letters_of(exporter);
        let mut state = self.core.state();
        if state.closed {
            return Err(QueueError::Closed);
        }
        let id = match state.book.find(exporter) {
            Some(id) => id,
            None if state.book.cursor_count() >= EXPORTERS_MAX => {
                return Err(QueueError::Full { max: EXPORTERS_MAX });
            }
            None => {
                let from = if state.orphaned { at_oldest() } else { state.book.at_end() };
                let id = state.book.add_cursor(exporter, &from);
                state.book.count_pending(id, &Default::default());
                state.unsaved_cursor = true;
                state.dirty += 1;
                info!(exporter, from_oldest = state.orphaned, "exporter is new to the log");
                id
            }
        };
        if let Some(cursor) = state.book.cursor_mut(id) {
            cursor.when_full = when_full;
            cursor.subscribed = true;
            cursor.removed_for = None;
            cursor.dead_letters = letters;
        }
        let seen = match state.watches.get(&id) {
            Some(sender) => sender.subscribe(),
            None => {
                let (sender, seen) = watch::channel(0);
                state.watches.insert(id, sender);
                seen
            }
        };
        drop(state);
        self.core.work.notify_one();
        let core = Arc::clone(&self.core);
        Ok(Arc::new(DiskCursor { core, id, name: exporter.to_owned(), watch: Watch(seen) }))
    }

    fn configured(&self, exporters: &[&str], wall: SystemTime) {
        let mut state = self.core.state();
        state.wall = unix_seconds(wall);
        state.orphaned = false;
        state.dirty += 1;
        for (_, cursor) in state.book.cursors_mut() {
            if exporters.contains(&cursor.name.as_str()) {
                cursor.removed_for = None;
            } else if cursor.removed_for.is_none() {
                warn!(
                    exporter = cursor.name,
                    "exporter not configured any more, its records are kept for 24 hours"
                );
                cursor.removed_for = Some(0);
                cursor.subscribed = false;
            }
        }
        drop(state);
        self.core.work.notify_one();
    }

    fn tick(&self, wall: SystemTime) {
        let expired = {
            let mut state = self.core.state();
            let now = unix_seconds(wall);
            let passed = now.saturating_sub(state.wall).min(TICK_SECONDS_MAX);
            state.wall = now;
            state.restore_reserve = true;
            let mut expired = Vec::new();
            for (_, cursor) in state.book.cursors_mut() {
                if let Some(removed) = &mut cursor.removed_for {
                    *removed += passed;
                    if *removed >= REMOVED_SECONDS_MAX {
                        expired.push(cursor.name.clone());
                    }
                }
            }
            expired
        };
        self.core.work.notify_one();
        for exporter in expired {
            warn!(exporter, "exporter not configured for 24 hours, its records are let go");
            // The answer is of no use here: what fails is tried again at the next tick.
            drop(self.core.order(|answer| Chore::Forget { exporter, answer }));
        }
    }

    fn status(&self) -> Status {
        let state = self.core.state();
        let (dead_letters, dead_letter_bytes) = state.dead;
        let (oldest, totals) = state.book.holding();
        let mut cursors: Vec<_> = state.book.cursors().map(|(id, _)| state.book.cursor_status(id)).collect();
        cursors.sort_by(|a, b| a.exporter.cmp(&b.exporter));
        let failed = state.failed.iter().map(|why| format!("nothing is accepted: {why}"));
        let degraded: Vec<String> = failed.chain(state.troubles.iter().cloned()).collect();
        Status {
            records: totals.records,
            items: totals.items,
            bytes: state.disk_bytes(),
            budget_bytes: self.core.budget(),
            oldest,
            newest: Seq(state.book.next() - 1),
            segments: state.book.segment_count(),
            quarantined: state.quarantined,
            degraded: (!degraded.is_empty()).then(|| degraded.join("; ")),
            durable: true,
            sources: state.marks.len() as u64,
            duplicates: self.core.counts.all_duplicates(),
            dead_letters,
            dead_letter_bytes,
            dead_letter_budget_bytes: self.core.settings.dead_letter_bytes,
            cursors,
        }
    }

    fn counts(&self) -> QueueCounts {
        self.core.counts.clone()
    }

    fn incarnation(&self) -> u128 {
        self.core.incarnation
    }

    fn next(&self) -> Seq {
        Seq(self.core.state().book.next())
    }

    fn dead_letters(&self, after: u64, max: usize) -> Result<Vec<DeadLetter>, QueueError> {
        self.core.dead().list(after, max).map_err(|fault| self.core.failure("read", "dead.redb", fault))
    }

    fn dead_body(&self, id: u64) -> Result<Bytes, QueueError> {
        let read =
            self.core.dead().read(id).map_err(|fault| self.core.failure("read", "dead.redb", fault))?;
        read.map(|(_, body)| body).ok_or_else(|| QueueError::NotFound { what: format!("dead letter {id}") })
    }

    fn requeue(&self, id: u64) -> BoxFuture<'static, Result<(), QueueError>> {
        self.core.order(|answer| Chore::Requeue { id, answer })
    }

    fn drop_dead(&self, id: u64) -> BoxFuture<'static, Result<(), QueueError>> {
        self.core.order(|answer| Chore::DropDead { id, answer })
    }

    fn forget(&self, exporter: &str) -> BoxFuture<'static, Result<(), QueueError>> {
        let exporter = exporter.to_owned();
        self.core.order(|answer| Chore::Forget { exporter, answer })
    }

    fn share(&self, budget_bytes: u64) {
        let settings = &self.core.settings;
        // As at the start: a handful of segments, or a full queue would get nothing back.
        let least = BUDGET_BYTES_MIN.max(settings.segment_bytes.saturating_mul(SEGMENTS_MIN));
        self.core.budget_bytes.store(budget_bytes.max(least), Ordering::Relaxed);
        self.core.work.notify_one();
    }

    fn drain(&self) {
        self.core.state().draining = true;
    }

    fn close(&self) -> BoxFuture<'static, Result<(), QueueError>> {
        self.core.order(|answer| Chore::Close { answer })
    }
}
