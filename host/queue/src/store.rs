//! The segments that are open: the one that is written, and a few that are read.
//!
//! Invariant: a file is open once. A second handle on a segment that is still open for writing would repair it under
//! the first one's hands, so a handle is only closed where nobody else has it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tracing::warn;

use crate::segment::{Fault, Opening, Segment, file_name};

/// Sealed segments that stay open. Exporters that are at different places seldom are at more than this.
const OPEN_MAX: usize = 6;

/// Open segments by first place.
#[derive(Debug)]
pub(crate) struct Store {
    pub(crate) opening: Opening,
    folder: PathBuf,
    open: Mutex<Shelf>,
}

#[derive(Debug, Default)]
struct Shelf {
    segments: BTreeMap<u64, Slot>,
    /// Segments that are not written again while this process lives, neither appended to nor repaired; each with the
    /// places of records that are in the file and not of the log.
    tainted: BTreeMap<u64, BTreeSet<u64>>,
    clock: u64,
}

#[derive(Debug)]
struct Slot {
    segment: Arc<Segment>,
    used: u64,
    /// It is written.
    pinned: bool,
}

impl Store {
    pub(crate) fn new(opening: Opening, folder: PathBuf) -> Self {
        Self { opening, folder, open: Mutex::new(Shelf::default()) }
    }

    /// Where segments lie.
    pub(crate) fn folder(&self) -> &PathBuf {
        &self.folder
    }

    /// The path of a segment.
    pub(crate) fn path(&self, first: u64) -> PathBuf {
        self.folder.join(file_name(first))
    }

    /// The open segment; opens it for reading where it is not open. Blocks for the disk.
    pub(crate) fn get(&self, first: u64) -> Result<Arc<Segment>, Fault> {
        let mut shelf = self.shelf();
        shelf.clock += 1;
        let now = shelf.clock;
        if let Some(slot) = shelf.segments.get_mut(&first) {
            slot.used = now;
            return Ok(Arc::clone(&slot.segment));
        }
        let path = self.path(first);
        let mut tainted = shelf.tainted.contains_key(&first);
        let clean = if tainted { None } else { Some(Segment::open_to_read(&self.opening, &path)) };
        if let Some(Err(Fault::Io(error) | Fault::Full(error))) = &clean {
            // The repair may have failed at a sync, and a file is never synced again after that.
            warn!(segment = first, error = %error, "segment not repaired on disk, read as it is");
            shelf.tainted.insert(first, BTreeSet::new());
            tainted = true;
        }
        let opened = match clean {
            Some(clean) if !tainted => clean,
            Some(_) | None => Segment::open_frozen(&self.opening, &path),
        };
        let segment = Arc::new(opened?);
        if segment.identify()? != self.opening.incarnation {
            return Err(Fault::Damaged("it belongs to another log".to_owned()));
        }
        if let Some(foreign) = shelf.tainted.get(&first) {
            segment.mark_torn_at(foreign)?;
        }
        shelf.segments.insert(first, Slot { segment: Arc::clone(&segment), used: now, pinned: false });
        shelf.tidy();
        Ok(segment)
    }

    /// Takes a segment that is to be written.
    pub(crate) fn put(&self, first: u64, segment: Arc<Segment>) {
        let mut shelf = self.shelf();
        let now = shelf.clock;
        shelf.segments.insert(first, Slot { segment, used: now, pinned: true });
    }

    /// The segment will not be written any more: closes it as soon as nobody reads it.
    pub(crate) fn seal(&self, first: u64) {
        let mut shelf = self.shelf();
        if let Some(slot) = shelf.segments.get_mut(&first) {
            slot.pinned = false;
            slot.used = 0;
        }
        shelf.close(first);
        shelf.tidy();
    }

    /// The segment is frozen after an error: from now on it is read without being written.
    ///
    /// Records at the places in `foreign` may be in it, and are not of the log. A reader may still have the old handle.
    /// It cannot write, so a second one is no danger.
    pub(crate) fn taint(&self, first: u64, foreign: BTreeSet<u64>) {
        let mut shelf = self.shelf();
        shelf.segments.remove(&first);
        shelf.tainted.insert(first, foreign);
    }

    /// Forgets a segment whose file is gone or set aside.
    pub(crate) fn forget(&self, first: u64) {
        let mut shelf = self.shelf();
        shelf.segments.remove(&first);
        shelf.tainted.remove(&first);
    }

    /// Opens a segment anew at the next `get`, if nobody has it. For a handle that had an error.
    pub(crate) fn reopen(&self, first: u64) {
        let mut shelf = self.shelf();
        if shelf.segments.get(&first).is_some_and(|slot| !slot.pinned) {
            shelf.close(first);
        }
    }

    /// Closes everything that is not pinned, and what is, cleanly where possible. The first error is returned.
    pub(crate) fn close_all(&self) -> Result<(), Fault> {
        let mut shelf = self.shelf();
        let mut result = Ok(());
        for (_, slot) in std::mem::take(&mut shelf.segments) {
            if let Ok(segment) = Arc::try_unwrap(slot.segment) {
                let closed = segment.close();
                if result.is_ok() {
                    result = closed;
                }
            }
        }
        result
    }

    fn shelf(&self) -> MutexGuard<'_, Shelf> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shelf {
    fn tidy(&mut self) {
        let loose = |slot: &Slot| !slot.pinned && Arc::strong_count(&slot.segment) == 1;
        while self.segments.values().filter(|slot| loose(slot)).count() > OPEN_MAX {
            let oldest =
                self.segments.iter().filter(|(_, slot)| loose(slot)).min_by_key(|(_, slot)| slot.used);
            let Some(first) = oldest.map(|(first, _)| *first) else { return };
            self.close(first);
        }
    }

    /// Closes a segment that nobody reads; one that is read is left for a later `tidy`.
    fn close(&mut self, first: u64) {
        let Some(slot) = self.segments.remove(&first) else { return };
        match Arc::try_unwrap(slot.segment) {
            Ok(segment) => {
                if let Err(fault) = segment.close() {
                    warn!(segment = first, error = %fault, "segment not closed cleanly, the next start repairs it");
                    self.tainted.insert(first, BTreeSet::new());
                }
            }
            Err(segment) => {
                self.segments.insert(first, Slot { segment, ..slot });
            }
        }
    }
}
