//! What a start does with what it finds.
//!
//! | found | done |
//! | --- | --- |
//! | a name that is not ours | left alone, said once |
//! | `*.tmp` | deleted: it never had a record whose receipt was given |
//! | a segment that the cursors' file describes | not opened |
//! | the newest segment after a crash, or one not described | repaired, read, closed; what the crash tore is counted |
//! | a segment that is empty, damaged, newer, or of another log | renamed to `*.quarantine`, counted, shown |
//! | no cursors, but segments | every exporter begins at the oldest record |
//! | the newest segment is gone or set aside | its places are not given again: numbering goes on far above |
//! | marks of other Weirs | read from the newest segment that can be read; one that is damaged is made from records |
//!
//! Invariant: one bad file never keeps the queue from starting, and nothing that may hold records is deleted.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use tracing::{error, info, warn};
use weir_model::LANES;

use crate::book::{Book, Index, Requeued, SavedCursor, Summary};
use crate::committer::Writer;
use crate::dead::DeadLog;
use crate::disk::{Disk, FolderLock};
use crate::hot::Hot;
use crate::journal::{Core, State};
use crate::keys::{ROWS_PART, Table};
use crate::marks::Marks;
use crate::meta::{Found, Kept, Meta, QUARANTINE, set_aside};
use crate::queue::QueueError;
use crate::segment::{Fault, Opening, Segment, file_name, first_of};
use crate::settings::Settings;
use crate::status::QueueCounts;
use crate::store::Store;

/// The file that is given up for settlements when the disk is full.
pub(crate) const RESERVE: &str = "reserve";
/// The folder of segments.
pub(crate) const SEGMENTS: &str = "segments";
/// How far numbering jumps over a segment whose records are not known: more than any segment can hold.
const UNKNOWN_RECORDS: u64 = 1 << 32;

/// What is being put together.
struct Start {
    disk: Arc<dyn Disk>,
    store: Store,
    book: Book,
    summaries: BTreeMap<u64, Summary>,
    sealed_bytes: BTreeMap<u64, u64>,
    indexes: BTreeMap<u64, Index>,
    troubles: Vec<String>,
    quarantined: u64,
    counts: QueueCounts,
    marks: Marks,
    voids: Vec<Range<u64>>,
}

/// Brings a queue to where it can take and give.
pub(crate) fn recover(
    disk: Arc<dyn Disk>,
    folder: &Path,
    settings: Settings,
    wall: SystemTime,
) -> Result<Core, QueueError> {
    let settings = settings.fitted();
    let at = |act: &'static str, name: &str| {
        let path = folder.join(name);
        move |fault: Fault| QueueError::Io { act, path, source: into_io(fault) }
    };
    let lock = claim_folder(disk.as_ref(), folder)?;
    let (meta, found) = Meta::open(&disk, folder).map_err(at("read", "meta.redb"))?;
    let names = disk.list(&folder.join(SEGMENTS)).map_err(Fault::Io).map_err(at("list", SEGMENTS))?;
    let mut troubles = Vec::new();
    let (kept, known) = cursors_of(found, &names, &mut troubles);
    let mut start = Start::new(&disk, folder, &settings, &kept, troubles);
    let newest = start.segments(&names, &kept, known).map_err(at("read", SEGMENTS))?;
    let orphaned = kept.orphaned || (!known && start.book.segment_count() > 0);
    if orphaned {
        warn!("the file of cursors is lost, every exporter begins at the oldest record: deliveries repeat");
    }
    start.cursors(&kept.cursors).map_err(at("read", SEGMENTS))?;
    let dead = start.dead_letters(folder, settings.dead_letter_bytes).map_err(at("read", "dead.redb"))?;
    let reserve = make_reserve(&disk, folder, settings.reserve_bytes);
    if let Err(error) = &reserve {
        warn!(error = %error, "no reserve for settlements on a full disk");
    }
    let writer = Writer {
        active: None,
        meta: Some(meta),
        lock: Some(lock),
        summaries: std::mem::take(&mut start.summaries),
        newest,
        acked: kept.acked,
        strikes: 0,
        reserve: reserve.is_ok(),
        voids: std::mem::take(&mut start.voids),
    };
    let core = start.finish(settings, folder, orphaned, writer, dead, wall);
    // From here on a start without a close is a crash.
    let saved = core.writer().save(&core);
    if let Err(fault) = saved {
        // No reason not to start: what is there is delivered, and then there is room. Receipts wait for new cursors.
        warn!(error = %fault, "cursors not written");
        core.state().trouble(format!("write the cursors: {fault}"));
    }
    Ok(core)
}

/// Makes the folder where it is not there, and takes it for this process.
fn claim_folder(disk: &dyn Disk, folder: &Path) -> Result<FolderLock, QueueError> {
    let at = |act: &'static str, path: PathBuf| move |source| QueueError::Io { act, path, source };
    let segments = folder.join(SEGMENTS);
    disk.make_folder(folder).map_err(at("make the folder", folder.to_owned()))?;
    disk.make_folder(&segments).map_err(at("make the folder", segments))?;
    let path = folder.join("lock");
    let lock = disk.lock(&path).map_err(at("lock", path))?;
    lock.ok_or_else(|| QueueError::Locked { folder: folder.to_owned() })
}

/// What is known of cursors; false where there were some and they are lost.
fn cursors_of(found: Found, names: &[String], troubles: &mut Vec<String>) -> (Kept, bool) {
    let fresh = || {
        let mut bytes = [0; 16];
        // Without randomness the time of the process would do, but there is no system without it.
        if let Err(error) = getrandom::fill(&mut bytes) {
            warn!(error = %error, "no random incarnation");
        }
        Kept { incarnation: u128::from_le_bytes(bytes).max(1), next: 1, ..Kept::default() }
    };
    match found {
        Found::Kept(kept) => (kept, true),
        Found::Nothing if names.iter().any(|name| first_of(name).is_some()) => {
            troubles.push(
                "the file of cursors was missing: every exporter began at the oldest record".to_owned(),
            );
            (fresh(), false)
        }
        Found::Nothing => (fresh(), true),
        Found::Damaged(what) => {
            troubles
                .push(format!("the file of cursors is {what}: every exporter began at the oldest record"));
            error!(error = what, "file of cursors set aside");
            (fresh(), false)
        }
    }
}

impl Start {
    fn new(
        disk: &Arc<dyn Disk>,
        folder: &Path,
        settings: &Settings,
        kept: &Kept,
        troubles: Vec<String>,
    ) -> Self {
        let opening = Opening {
            disk: Arc::clone(disk),
            segment_bytes: settings.segment_bytes,
            cache_bytes: settings.cache_bytes,
            incarnation: kept.incarnation,
            faults: settings.faults.clone(),
        };
        let counts = QueueCounts::default();
        Self {
            disk: Arc::clone(disk),
            store: Store::new(opening, folder.join(SEGMENTS)),
            book: Book::new(kept.next, counts.clone()),
            summaries: BTreeMap::new(),
            sealed_bytes: BTreeMap::new(),
            indexes: BTreeMap::new(),
            troubles,
            quarantined: 0,
            counts,
            marks: Marks::new(settings.segment_bytes / ROWS_PART),
            voids: Vec::new(),
        }
    }

    /// Adds every segment to the book. Returns the first place of the newest.
    fn segments(&mut self, names: &[String], kept: &Kept, known: bool) -> Result<u64, Fault> {
        let mut firsts: Vec<u64> = names.iter().filter_map(|name| first_of(name)).collect();
        firsts.sort_unstable();
        self.quarantined += names.iter().filter(|name| name.ends_with(QUARANTINE)).count() as u64;
        for name in names.iter().filter(|name| first_of(name).is_none() && !name.ends_with(QUARANTINE)) {
            if name.ends_with(".tmp") {
                self.disk.remove(&self.store.folder().join(name))?;
            } else {
                warn!(file = name, "file in the folder of segments is not ours, left alone");
            }
        }
        // Without cursors nobody knows the incarnation but the segments; the newest one speaks.
        if !known {
            self.adopt_incarnation(&firsts);
        }
        let last = firsts.last().copied();
        let marks_lost = self.read_marks(&firsts, kept.acked);
        let mut newest = 0;
        for first in firsts {
            let trusted = known && (kept.clean || Some(first) != last);
            let summary = kept.segments.get(&first).filter(|_| trusted);
            let added = match summary {
                Some(summary) => self.describe(first, summary.clone()),
                // Records below have a receipt; only the newest segment can have them and a round that is torn.
                None => self.inspect(first, if Some(first) == last { kept.acked } else { 0 }),
            };
            match added {
                Ok(()) => newest = first,
                Err(fault @ (Fault::Damaged(_) | Fault::Newer(_))) => self.quarantine(first, &fault)?,
                Err(other) => return Err(other),
            }
        }
        if marks_lost {
            self.cover_records();
        }
        self.jump(names, kept, newest);
        Ok(newest)
    }

    /// Reads the marks of other Weirs, and which places are void, from the newest segment that can be read. Returns whether
    /// some of them are lost.
    fn read_marks(&mut self, firsts: &[u64], acked: u64) -> bool {
        for first in firsts.iter().rev() {
            // Of the others all is told by the segment that follows.
            let acked = if Some(first) == firsts.last() { acked } else { 0 };
            match self.table_of(*first, acked) {
                Ok(table) => {
                    self.voids = table.voids;
                    for (source, row) in table.rows {
                        self.marks.put(Arc::new(source), row);
                    }
                    if table.damaged > 0 {
                        error!(segment = *first, rows = table.damaged, "marks of other Weirs damaged");
                        self.troubles.push(format!(
                            "segment {first} has {} damaged marks of other Weirs: what they send again may be stored again",
                            table.damaged
                        ));
                    }
                    return table.damaged > 0;
                }
                Err(fault) => {
                    warn!(segment = *first, error = %fault, "no marks of other Weirs read");
                    self.troubles.push(format!("segment {first} is {fault}"));
                }
            }
        }
        false
    }

    fn table_of(&self, first: u64, acked: u64) -> Result<Table, Fault> {
        let (opening, path) = (&self.store.opening, self.store.path(first));
        let segment = match Segment::recover(opening, &path, acked, &[]) {
            Ok((segment, torn)) => {
                self.note_torn(first, torn);
                segment
            }
            // It is read again, and talked about, where it is added to the book.
            Err(Fault::Io(_) | Fault::Full(_)) => {
                let segment = Segment::open_frozen(opening, &path)?;
                segment.mark_torn(&segment.torn(acked, &[])?)?;
                segment
            }
            Err(other) => return Err(other),
        };
        if segment.identify()? != opening.incarnation {
            return Err(Fault::Damaged("it belongs to another log".to_owned()));
        }
        let table = segment.table()?;
        segment.close()?;
        Ok(table)
    }

    /// Raises the marks to what the records say that are there. For marks that could not be read: what is missing then are
    /// sources of which no record is left.
    fn cover_records(&mut self) {
        for first in self.book.segments_from(0) {
            let found = self.store.get(first).and_then(|segment| {
                let (heads, _) = segment.heads()?;
                let origins = segment.origins(&heads)?;
                Ok((heads, origins))
            });
            let (heads, origins) = match found {
                Ok(found) => found,
                // Whoever reads its records says more.
                Err(fault) => {
                    warn!(segment = first, error = %fault, "keys of records not read");
                    continue;
                }
            };
            for head in heads {
                if let Some(origin) = origins.get(&head.seq) {
                    self.marks.cover(origin, head.lane.index(), head.seq);
                }
            }
        }
    }

    /// Takes over what the file of cursors says of a segment, without opening it.
    fn describe(&mut self, first: u64, summary: Summary) -> Result<(), Fault> {
        let file = self.disk.open(&self.store.path(first), false)?;
        if file.length()? == 0 {
            return Err(Fault::Damaged("the file is empty".to_owned()));
        }
        self.sealed_bytes.insert(first, file.allocated()?);
        self.summaries.insert(first, summary.clone());
        self.book.add_segment(first, summary, None, false);
        Ok(())
    }

    /// Opens a segment, repairs it if need be, reads what it has and closes it.
    fn inspect(&mut self, first: u64, acked: u64) -> Result<(), Fault> {
        let opening = self.store.opening.clone();
        let path = self.store.path(first);
        let (segment, torn, repaired) = match Segment::recover(&opening, &path, acked, &self.voids) {
            Ok((segment, torn)) => (segment, torn, true),
            // A disk that does not let us repair may let us read.
            Err(Fault::Io(error) | Fault::Full(error)) => {
                warn!(segment = first, error = %error, "segment not repaired on disk, read as it is");
                self.troubles.push(format!("repair segment {first}: {error}"));
                let segment = Segment::open_frozen(&opening, &path)?;
                let torn = segment.torn(acked, &self.voids)?;
                segment.mark_torn(&torn)?;
                self.store.taint(first, torn.iter().map(|head| head.seq).collect());
                (segment, torn.len() as u64, false)
            }
            Err(other) => return Err(other),
        };
        self.note_torn(first, torn);
        if segment.identify()? != opening.incarnation {
            return Err(Fault::Damaged("it belongs to another log".to_owned()));
        }
        let (heads, damaged) = segment.heads()?;
        if damaged > 0 {
            error!(segment = first, records = damaged, "records without a sound head: lost");
            self.troubles.push(format!("segment {first} has {damaged} records without a sound head"));
        }
        let mut summary = Summary::empty(first);
        for head in &heads {
            if head.seq < first {
                return Err(Fault::Damaged(format!("it has record {} before its first", head.seq)));
            }
            summary.note(head);
        }
        self.sealed_bytes.insert(first, segment.file().disk_bytes());
        segment.close()?;
        // The next start looks again at one that could not be repaired.
        if repaired {
            self.summaries.insert(first, summary.clone());
        }
        self.book.add_segment(first, summary, Some(Index::of(first, &heads)), false);
        info!(segment = first, records = heads.len(), "segment read");
        Ok(())
    }

    fn note_torn(&self, first: u64, torn: u64) {
        if torn > 0 {
            info!(
                segment = first,
                records = torn,
                "records of an unfinished round dropped, none had a receipt"
            );
            self.counts.torn.add(torn);
        }
    }

    fn adopt_incarnation(&mut self, firsts: &[u64]) {
        for first in firsts.iter().rev() {
            let recovered = Segment::recover(&self.store.opening, &self.store.path(*first), 0, &[]);
            let Ok((segment, torn)) = recovered else { continue };
            self.note_torn(*first, torn);
            if let Ok(incarnation) = segment.identify() {
                self.store.opening.incarnation = incarnation;
                return;
            }
        }
    }

    fn quarantine(&mut self, first: u64, fault: &Fault) -> Result<(), Fault> {
        let file = set_aside(self.disk.as_ref(), self.store.folder(), &file_name(first))?;
        error!(file, error = %fault, "segment not usable, set aside");
        self.troubles.push(format!("segment {first} is {fault}; it was set aside as {file}"));
        self.quarantined += 1;
        self.counts.quarantined.add(1);
        Ok(())
    }

    /// Leaves out the places of a newest segment that is not there: they may have been given.
    fn jump(&mut self, names: &[String], kept: &Kept, newest: u64) {
        let aside = names.iter().filter_map(|name| {
            let stem = name.strip_suffix(QUARANTINE)?;
            first_of(stem.get(..file_name(0).len())?)
        });
        // Names were listed before this start set anything aside, so those of now are looked at as well.
        let missing = names.iter().filter_map(|name| first_of(name)).chain(aside).chain([kept.newest]).max();
        if let Some(missing) = missing.filter(|missing| *missing > newest && *missing > 0) {
            self.book.skip_to(missing.saturating_add(UNKNOWN_RECORDS));
            if missing == kept.newest && !names.contains(&file_name(missing)) {
                self.troubles.push(format!("segment {missing}, the newest, is missing"));
            }
        }
    }

    /// Adds the cursors, each with what it has to come.
    fn cursors(&mut self, saved: &BTreeMap<String, SavedCursor>) -> Result<(), Fault> {
        for (name, cursor) in saved {
            let id = self.book.add_cursor(name, cursor);
            for first in self.book.partial_segments(id) {
                if self.book.has_index(first) || self.indexes.contains_key(&first) {
                    continue;
                }
                let heads =
                    self.store.get(first).and_then(|segment| segment.heads()).and_then(|(heads, _)| {
                        let sound = self.book.adds_up(first, &heads);
                        let why = "its heads are not those that were written";
                        if sound { Ok(heads) } else { Err(Fault::Damaged(why.to_owned())) }
                    });
                match heads {
                    Ok(heads) => {
                        self.indexes.insert(first, Index::of(first, &heads));
                    }
                    Err(fault @ (Fault::Damaged(_) | Fault::Newer(_))) => {
                        self.store.forget(first);
                        self.quarantine(first, &fault)?;
                        self.book.remove_segment(first);
                        self.sealed_bytes.remove(&first);
                        self.summaries.remove(&first);
                    }
                    Err(other) => return Err(other),
                }
            }
        }
        let ids: Vec<u32> = self.book.cursors().map(|(id, _)| id).collect();
        for id in ids {
            self.book.count_pending(id, &self.indexes);
        }
        for (first, index) in std::mem::take(&mut self.indexes) {
            self.book.load(first, index);
        }
        Ok(())
    }

    /// Opens the dead-letter log; tells cursors of their letters, and of those that are being tried again.
    fn dead_letters(&mut self, folder: &Path, budget: u64) -> Result<DeadLog, Fault> {
        let (dead, trouble) = DeadLog::open(&self.disk, folder, budget)?;
        if let Some(trouble) = trouble {
            error!(error = trouble, "dead-letter log not usable");
            self.troubles.push(format!("the dead-letter log {trouble}"));
        }
        let requeued = dead.requeued().unwrap_or_else(|fault| {
            self.troubles.push(format!("read the dead-letter log: {fault}"));
            Vec::new()
        });
        for letter in requeued {
            if let (Some(id), Some(requeued)) = (self.book.find(&letter.exporter), Requeued::of(&letter)) {
                self.book.requeue(id, letter.id, requeued);
            }
        }
        for (_, cursor) in self.book.cursors_mut() {
            cursor.dead_letters = dead.letters_of(&cursor.name);
        }
        Ok(dead)
    }

    fn finish(
        self,
        settings: Settings,
        folder: &Path,
        orphaned: bool,
        writer: Writer,
        dead: DeadLog,
        wall: SystemTime,
    ) -> Core {
        let state = State {
            book: self.book,
            arriving: VecDeque::new(),
            chores: VecDeque::new(),
            hot: Hot::new(settings.hot_bytes, Arc::clone(&settings.ledger)),
            watches: BTreeMap::new(),
            admitted: 0,
            admitted_bytes: 0,
            sealed_bytes: self.sealed_bytes,
            active_bytes: 0,
            fixed_bytes: 0,
            dirty: 0,
            unsaved_cursor: false,
            orphaned,
            pressed: false,
            chore_next: false,
            restore_reserve: false,
            abandon_active: false,
            marks: self.marks,
            draining: false,
            closed: false,
            failed: None,
            troubles: Vec::new(),
            quarantined: self.quarantined,
            dead: (dead.letters(), dead.used()),
            wall: unix_seconds(wall),
        };
        let caches = settings.ledger.claim(settings.caches());
        if let Err(error) = &caches {
            warn!(error = %error, "no memory set aside for the caches of segments");
        }
        let core = Core {
            budget_bytes: AtomicU64::new(settings.budget_bytes),
            caches: caches.ok(),
            disk: self.disk,
            folder: folder.to_owned(),
            incarnation: self.store.opening.incarnation,
            store: self.store,
            counts: self.counts,
            state: Mutex::new(state),
            work: Condvar::new(),
            writer: Mutex::new(writer),
            dead: Mutex::new(dead),
            reads: Mutex::new(VecDeque::new()),
            to_read: Condvar::new(),
            settings,
        };
        for trouble in self.troubles {
            core.state().trouble(trouble);
        }
        core
    }
}

/// Where a cursor begins that begins at the oldest record.
pub(crate) fn at_oldest() -> SavedCursor {
    SavedCursor { floors: [0; LANES], ..SavedCursor::default() }
}

/// Makes the reserve file.
pub(crate) fn make_reserve(disk: &Arc<dyn Disk>, folder: &Path, bytes: u64) -> io::Result<()> {
    let file = disk.open(&folder.join(RESERVE), true)?;
    file.reserve(0, bytes)
}

/// Seconds since 1970; 0 before.
pub(crate) fn unix_seconds(wall: SystemTime) -> u64 {
    wall.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// As the operating system would say it.
pub(crate) fn into_io(fault: Fault) -> io::Error {
    match fault {
        Fault::Io(error) | Fault::Full(error) => error,
        fault @ (Fault::Damaged(_) | Fault::Newer(_)) => io::Error::other(fault),
    }
}
