//! One segment: a file with some of the log's records, deleted whole when every exporter is past it.
//!
//! ```text
//! segments/00000000000000000001.redb     named after its first record; *.tmp while it is made
//!
//! header, redb's storage, bodies         (segment_file.rs); in redb's storage:
//!
//! table facts    "log" ▶ incarnation u128
//! table heads    seq u64 ▶ format u8 · signal u8 · lane u8 · flags u8 · items u32 · bytes u32
//!                          · offset u64 · crc32c of the body u32 · crc32c u32          numbers are little-endian
//! tables marks, origins                  of records that another Weir has handed over (keys.rs)
//!
//! flags          1 the first record of its round · 2 torn: a crash came before its body was on disk
//!                · 4 it has a key in `origins`
//! offset         where the body begins in the file
//! ```
//!
//! A round writes its bodies, then commits their heads: one `fdatasync` makes both durable. The checksums do not
//! depend on redb's. A head's covers the place and all of the head, so that a head is known to be sound without its
//! body. A body's is computed where the sender's request is handled, not in the one thread that commits.
//!
//! A crash may keep the heads of the round that was being written, and not its bodies. Where nobody has closed the
//! segment, a body of the last round that is not what its head says is called torn: it was on its way to the disk, so
//! no receipt was given for it ([`Segment::recover`]). In any other round, in a segment that was closed, and where the
//! file of cursors knows of a receipt, it is damage. Damage to a round whose receipt nobody has noted yet, for it is
//! noted within a second or so of the next settlement, cannot be told from a torn one; it is counted and logged.
//!
//! Invariant: a record is read back exactly as it was appended, or is called damaged.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use redb::{Database, ReadOnlyDatabase, ReadableDatabase, ReadableTable, TableDefinition};
use tracing::warn;
use weir_model::{Batch, Lane, Origin, Signal};

use crate::disk::Disk;
use crate::faults::Faults;
use crate::keys::{self, Base, Keys, Laid, Table};
use crate::marks::Stamp;
use crate::segment_file::{FORMAT, IndexBackend, Room, SegmentFile};

const FACTS: TableDefinition<&str, &[u8]> = TableDefinition::new("facts");
const HEADS: TableDefinition<u64, &[u8; HEAD_BYTES]> = TableDefinition::new("heads");

const HEAD_BYTES: usize = 28;
/// The part of a head that its checksum covers.
const HEAD_COVERED: usize = HEAD_BYTES - 4;
const BEGINS_ROUND: u8 = 1;
const TORN: u8 = 2;
const KEYED: u8 = 4;

/// redb's cache for a segment that is only read: what an exporter reads lies in a few leaves.
const READ_CACHE_BYTES: usize = 128 << 10;
/// A body that a head may claim. Requests are bounded far below it; this bounds what a damaged head allocates.
const BODY_BYTES_MAX: u32 = 256 << 20;
/// Bodies that lie side by side are read together up to this.
const READ_BYTES_MAX: u64 = 1 << 20;

/// Why a segment, or one record of it, could not be used.
#[derive(Debug)]
pub(crate) enum Fault {
    /// The content is not what was written, or not ours.
    Damaged(String),
    /// A later version of Weir (or of redb) wrote it.
    Newer(String),
    /// The disk is full; later it may work.
    Full(io::Error),
    /// The operating system refused; later it may work.
    Io(io::Error),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Damaged(what) => write!(f, "damaged: {what}"),
            Self::Newer(what) => write!(f, "written by a later version: {what}"),
            Self::Full(error) => write!(f, "the disk is full: {error}"),
            Self::Io(error) => write!(f, "{error}"),
        }
    }
}

impl std::error::Error for Fault {}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        use io::ErrorKind::{InvalidData, InvalidInput, QuotaExceeded, StorageFull, UnexpectedEof};
        match error.kind() {
            InvalidData | InvalidInput | UnexpectedEof => Self::Damaged(error.to_string()),
            StorageFull | QuotaExceeded => Self::Full(error),
            // Foreign enum: everything else is the operating system's.
            _ => Self::Io(error),
        }
    }
}

/// Turns any of redb's errors into ours.
pub(crate) fn fault(error: impl Into<redb::Error>) -> Fault {
    match error.into() {
        redb::Error::Io(error) => error.into(),
        redb::Error::UpgradeRequired(version) => Fault::Newer(format!("file format {version}")),
        error
        @ (redb::Error::PreviousIo | redb::Error::DatabaseClosed | redb::Error::DatabaseAlreadyOpen) => {
            Fault::Io(io::Error::other(error))
        }
        // Foreign enum: corruption, wrong tables, wrong types: this file is not what we wrote.
        other => Fault::Damaged(other.to_string()),
    }
}

/// Runs something that reads a file which may be damaged: redb trusts a cleanly closed file and may panic over it.
pub(crate) fn guarded<T>(act: impl FnOnce() -> Result<T, Fault>) -> Result<T, Fault> {
    catch_unwind(AssertUnwindSafe(act))
        .unwrap_or_else(|_| Err(Fault::Damaged("the tree is not sound".to_owned())))
}

/// What a segment knows of one record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) seq: u64,
    pub(crate) signal: Signal,
    pub(crate) lane: Lane,
    pub(crate) items: u32,
    pub(crate) bytes: u32,
    /// Where the body begins in the file.
    pub(crate) offset: u64,
    pub(crate) body_crc: u32,
    /// Whether it is the first of its round.
    pub(crate) begins_round: bool,
    /// Whether a crash came before its body was on disk.
    pub(crate) torn: bool,
    /// Whether another Weir has handed it over.
    pub(crate) keyed: bool,
}

impl Head {
    fn body(&self) -> Range<u64> {
        self.offset..self.offset.saturating_add(u64::from(self.bytes))
    }

    fn is_body(&self, body: &[u8]) -> bool {
        body.len() == self.bytes as usize && crc32c::crc32c(body) == self.body_crc
    }

    fn encode(&self) -> [u8; HEAD_BYTES] {
        let mut out = [0; HEAD_BYTES];
        out[0] = FORMAT as u8;
        out[1] = signal_byte(self.signal);
        out[2] = self.lane.index() as u8;
        out[3] = (u8::from(self.begins_round) * BEGINS_ROUND)
            | (u8::from(self.torn) * TORN)
            | (u8::from(self.keyed) * KEYED);
        out[4..8].copy_from_slice(&self.items.to_le_bytes());
        out[8..12].copy_from_slice(&self.bytes.to_le_bytes());
        out[12..20].copy_from_slice(&self.offset.to_le_bytes());
        out[20..24].copy_from_slice(&self.body_crc.to_le_bytes());
        let crc = head_crc(self.seq, &out);
        out[HEAD_COVERED..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    fn decode(seq: u64, value: &[u8; HEAD_BYTES]) -> Option<Self> {
        let word = |at: usize| u32::from_le_bytes([value[at], value[at + 1], value[at + 2], value[at + 3]]);
        let sound = word(HEAD_COVERED) == head_crc(seq, value)
            && u32::from(value[0]) == FORMAT
            && value[3] & !(BEGINS_ROUND | TORN | KEYED) == 0
            && word(8) <= BODY_BYTES_MAX;
        sound.then_some(())?;
        Some(Self {
            seq,
            signal: signal_of(value[1])?,
            lane: Lane::new(value[2])?,
            items: word(4),
            bytes: word(8),
            offset: u64::from(word(12)) | u64::from(word(16)) << 32,
            body_crc: word(20),
            begins_round: value[3] & BEGINS_ROUND != 0,
            torn: value[3] & TORN != 0,
            keyed: value[3] & KEYED != 0,
        })
    }
}

fn head_crc(seq: u64, value: &[u8; HEAD_BYTES]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&seq.to_le_bytes()), &value[..HEAD_COVERED])
}

fn signal_byte(signal: Signal) -> u8 {
    match signal {
        Signal::Traces => 1,
        Signal::Metrics => 2,
        Signal::Logs => 3,
    }
}

fn signal_of(byte: u8) -> Option<Signal> {
    match byte {
        1 => Some(Signal::Traces),
        2 => Some(Signal::Metrics),
        3 => Some(Signal::Logs),
        _ => None,
    }
}

enum Handle {
    Write(Database),
    Read(ReadOnlyDatabase),
}

/// An open segment file.
pub(crate) struct Segment {
    handle: Handle,
    file: Arc<SegmentFile>,
    path: PathBuf,
}

impl fmt::Debug for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Segment").field("path", &self.path).finish_non_exhaustive()
    }
}

/// What a segment file is opened with.
#[derive(Debug, Clone)]
pub(crate) struct Opening {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) segment_bytes: u64,
    pub(crate) cache_bytes: usize,
    pub(crate) incarnation: u128,
    pub(crate) faults: Faults,
}

impl Segment {
    /// Makes a new segment, whose first round is `room`: whole under its name with what it begins with, durably, or not
    /// there.
    pub(crate) fn create(
        opening: &Opening,
        folder: &Path,
        first: u64,
        room: Room,
        base: &Base,
    ) -> Result<Self, Fault> {
        let path = folder.join(file_name(first));
        let making = path.with_extension("tmp");
        match opening.disk.remove(&making) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
            Ok(()) | Err(_) => {}
        }
        let file = opening.disk.open(&making, true)?;
        let made = SegmentFile::create(file, opening.segment_bytes, room, opening.faults.clone())
            .map_err(Fault::from)
            .and_then(|file| Ok((Self::fill(opening, &file, base)?, file)))
            .and_then(|made| {
                opening.disk.rename(&making, &path)?;
                opening.disk.sync_folder(folder)?;
                Ok(made)
            });
        match made {
            Ok((db, file)) => Ok(Self { handle: Handle::Write(db), file, path }),
            Err(fault) => {
                // Best effort: a left-over is deleted by the next start.
                drop(opening.disk.remove(&making));
                Err(fault)
            }
        }
    }

    fn fill(opening: &Opening, file: &Arc<SegmentFile>, base: &Base) -> Result<Database, Fault> {
        let db = database(file, opening.cache_bytes)?;
        let txn = db.begin_write().map_err(fault)?;
        {
            let mut facts = txn.open_table(FACTS).map_err(fault)?;
            facts.insert("log", opening.incarnation.to_le_bytes().as_slice()).map_err(fault)?;
            if !base.voids.is_empty() {
                facts.insert(keys::VOIDS, keys::lay_voids(&base.voids).as_slice()).map_err(fault)?;
            }
            txn.open_table(HEADS).map_err(fault)?;
        }
        keys::write(&txn, std::iter::empty(), &base.rows)?;
        txn.commit().map_err(fault)?;
        Ok(db)
    }

    /// Opens a segment for reading. One that was not closed is repaired and closed first.
    pub(crate) fn open_to_read(opening: &Opening, path: &Path) -> Result<Self, Fault> {
        match Self::open_clean(opening, path) {
            Err(Fault::Damaged(_)) => {}
            Ok(segment) => return Ok(segment),
            Err(other) => return Err(other),
        }
        Self::open_to_repair(opening, path)?.close()?;
        Self::open_clean(opening, path)
    }

    /// The same for a segment of which nothing is known but that records below `acked` have a receipt: records of its
    /// last round that a crash has torn are marked as torn, and those at places that are void. Returns how many.
    pub(crate) fn recover(
        opening: &Opening,
        path: &Path,
        acked: u64,
        voids: &[Range<u64>],
    ) -> Result<(Self, u64), Fault> {
        match Self::open_clean(opening, path) {
            Err(Fault::Damaged(_)) => {}
            Ok(segment) => return Ok((segment, 0)),
            Err(other) => return Err(other),
        }
        let segment = Self::open_to_repair(opening, path)?;
        let torn = segment.torn(acked, voids)?;
        segment.mark_torn(&torn)?;
        // Blocks that were reserved and not used; it is only room.
        drop(segment.file.trim());
        segment.close()?;
        Ok((Self::open_clean(opening, path)?, torn.len() as u64))
    }

    /// Opens a segment for reading without writing to it, although it was not closed: the repair stays in memory.
    pub(crate) fn open_frozen(opening: &Opening, path: &Path) -> Result<Self, Fault> {
        let file = SegmentFile::overlaid(opening.disk.open(path, false)?)?;
        let db = guarded(|| database(&file, READ_CACHE_BYTES))?;
        Ok(Self { handle: Handle::Write(db), file, path: path.to_owned() })
    }

    pub(crate) fn open_clean(opening: &Opening, path: &Path) -> Result<Self, Fault> {
        let file = SegmentFile::open(opening.disk.open(path, false)?, None)?;
        file.freeze();
        let db = guarded(|| {
            redb::Builder::new()
                .set_cache_size(READ_CACHE_BYTES)
                .open_read_only_with_backend(IndexBackend(Arc::clone(&file)))
                .map_err(fault)
        })?;
        Ok(Self { handle: Handle::Read(db), file, path: path.to_owned() })
    }

    fn open_to_repair(opening: &Opening, path: &Path) -> Result<Self, Fault> {
        let file = SegmentFile::open(opening.disk.open(path, false)?, Some(opening.faults.clone()))?;
        let db = guarded(|| database(&file, opening.cache_bytes))?;
        Ok(Self { handle: Handle::Write(db), file, path: path.to_owned() })
    }

    /// The incarnation of the log that it belongs to.
    pub(crate) fn identify(&self) -> Result<u128, Fault> {
        guarded(|| {
            let txn = self.begin_read()?;
            let facts = txn.open_table(FACTS).map_err(fault)?;
            let log = facts.get("log").map_err(fault)?.and_then(|value| value.value().try_into().ok());
            log.map(u128::from_le_bytes).ok_or_else(|| Fault::Damaged("no incarnation".to_owned()))
        })
    }

    /// All marks, and which places of earlier segments are void.
    pub(crate) fn table(&self) -> Result<Table, Fault> {
        guarded(|| {
            let txn = self.begin_read()?;
            let facts = txn.open_table(FACTS).map_err(fault)?;
            let voids = facts.get(keys::VOIDS).map_err(fault)?;
            let voids = voids.map(|value| keys::read_voids(value.value())).transpose()?;
            Ok(Table { voids: voids.unwrap_or_default(), ..keys::rows(&txn)? })
        })
    }

    /// The heads of a round that would be appended next: `first` is its first place, `crcs` are of its bodies.
    pub(crate) fn place(&self, first: u64, batches: &[Batch], crcs: impl Iterator<Item = u32>) -> Vec<Head> {
        let mut offset = self.file.next_body();
        let mut heads = Vec::with_capacity(batches.len());
        for ((seq, batch), body_crc) in (first..).zip(batches).zip(crcs) {
            heads.push(Head {
                seq,
                signal: batch.signal,
                lane: batch.lane,
                items: batch.items,
                bytes: u32::try_from(batch.body.len()).unwrap_or(u32::MAX),
                offset,
                body_crc,
                begins_round: heads.is_empty(),
                torn: false,
                keyed: batch.origin.is_some(),
            });
            offset = offset.saturating_add(batch.body.len() as u64);
        }
        heads
    }

    /// Appends batches at the places that [`Segment::place`] gave them, with one `fdatasync` for bodies and heads.
    ///
    /// After an error it is not known whether the records are in the file: nobody may be told that they are, and
    /// their places are not used again.
    pub(crate) fn append(&self, heads: &[Head], batches: &[Batch], keys: &Keys) -> Result<(), Fault> {
        let Some(first) = heads.first() else { return Ok(()) };
        self.file.write_bodies(first.offset, batches.iter().map(|batch| &batch.body))?;
        self.insert(heads, &keys.stamps, &keys.rows)?;
        self.file.note_records(heads.len() as u64);
        Ok(())
    }

    /// Writes marks in a transaction of their own: a fault that tests order.
    pub(crate) fn write_marks(&self, rows: &[Laid]) -> Result<(), Fault> {
        self.insert(&[], &[], rows)
    }

    /// Writes heads, keys and marks in one transaction, with one `fdatasync`.
    fn insert(&self, heads: &[Head], stamps: &[Option<Stamp>], rows: &[Laid]) -> Result<(), Fault> {
        let Handle::Write(db) = &self.handle else {
            return Err(Fault::Io(io::Error::other("the segment is open for reading only")));
        };
        let txn = db.begin_write().map_err(fault)?;
        {
            let mut table = txn.open_table(HEADS).map_err(fault)?;
            for head in heads {
                table.insert(head.seq, &head.encode()).map_err(fault)?;
            }
        }
        let stamps = heads.iter().zip(stamps).filter_map(|(head, stamp)| Some((head.seq, (*stamp)?)));
        keys::write(&txn, stamps, rows)?;
        txn.commit().map_err(fault)
    }

    /// The heads of all records that are not torn, in order. One that cannot be read is left out and counted in the
    /// second place.
    pub(crate) fn heads(&self) -> Result<(Vec<Head>, u64), Fault> {
        let (mut heads, damaged) = self.all_heads()?;
        heads.retain(|head| !head.torn);
        Ok((heads, damaged))
    }

    fn all_heads(&self) -> Result<(Vec<Head>, u64), Fault> {
        guarded(|| {
            let txn = self.begin_read()?;
            let table = txn.open_table(HEADS).map_err(fault)?;
            let mut heads = Vec::new();
            let mut damaged = 0;
            for entry in table.iter().map_err(fault)? {
                let (seq, value) = entry.map_err(fault)?;
                match Head::decode(seq.value(), value.value()) {
                    Some(head) => heads.push(head),
                    None => damaged += 1,
                }
            }
            Ok((heads, damaged))
        })
    }

    /// Records of the last round, from place `acked` on, whose bodies are not what their heads say, and those that follow
    /// them of the same source and lane (`keys.rs`); and all records at places that are void.
    ///
    /// Only for a segment that was not closed: the last round is then the one that the crash came into, or the one
    /// before it, which is whole.
    pub(crate) fn torn(&self, acked: u64, voids: &[Range<u64>]) -> Result<Vec<Head>, Fault> {
        let (mut heads, _) = self.all_heads()?;
        let begin = heads.iter().rposition(|head| head.begins_round).unwrap_or(0);
        let round: Vec<Head> =
            heads[begin..].iter().filter(|head| !head.torn && head.seq >= acked).copied().collect();
        let mut torn = BTreeSet::new();
        for head in &round {
            let body = head.body();
            if !self.file.holds(&body) || !head.is_body(&self.file.read_bodies(body)?) {
                torn.insert(head.seq);
            }
        }
        if !torn.is_empty() {
            let stamps = guarded(|| keys::stamps(&self.begin_read()?, round.iter()))?;
            torn.extend(keys::followers(&round, &torn, &stamps));
        }
        let is_void = |seq: u64| voids.iter().any(|void| void.contains(&seq));
        heads.retain(|head| !head.torn && (torn.contains(&head.seq) || is_void(head.seq)));
        Ok(heads)
    }

    /// Marks records as torn: they are in the file, and are not of the log. Their marks go back.
    pub(crate) fn mark_torn(&self, heads: &[Head]) -> Result<(), Fault> {
        if heads.is_empty() {
            return Ok(());
        }
        let marked: Vec<Head> = heads.iter().map(|head| Head { torn: true, ..*head }).collect();
        guarded(|| {
            let rows = keys::taken_back(&self.begin_read()?, heads)?;
            self.insert(&marked, &[], &rows)
        })
    }

    /// Marks the records at these places, where they are there.
    pub(crate) fn mark_torn_at(&self, seqs: &BTreeSet<u64>) -> Result<(), Fault> {
        if seqs.is_empty() {
            return Ok(());
        }
        let (mut heads, _) = self.all_heads()?;
        heads.retain(|head| seqs.contains(&head.seq));
        self.mark_torn(&heads)
    }

    /// Reads records back. The inner error names what is wrong with that one record.
    #[expect(clippy::type_complexity, reason = "two levels of failure: the segment, one record")]
    pub(crate) fn read(&self, seqs: &[u64]) -> Result<Vec<Result<Stored, String>>, Fault> {
        let (heads, mut origins) = self.find(seqs)?;
        let mut records = Vec::with_capacity(seqs.len());
        let mut rest = heads.as_slice();
        while let Some((head, _)) = rest.split_first() {
            let Some(head) = head else {
                records.push(Err("its head is missing or damaged".to_owned()));
                rest = &rest[1..];
                continue;
            };
            if !self.file.holds(&head.body()) {
                records.push(Err("its head points outside of the file".to_owned()));
                rest = &rest[1..];
                continue;
            }
            let run = self.run(rest, head);
            let bodies = self.file.read_bodies(run.bytes.clone())?;
            for head in rest[..run.records].iter().flatten() {
                let at = (head.offset - run.bytes.start) as usize;
                let body = bodies.slice(at..at + head.bytes as usize);
                records.push(if head.is_body(&body) {
                    Ok(Stored { head: *head, body, origin: origins.remove(&head.seq) })
                } else {
                    Err("its checksum is not that of its bytes".to_owned())
                });
            }
            rest = &rest[run.records..];
        }
        Ok(records)
    }

    /// The keys of records, as far as they can be read: a record is worth more than its key.
    pub(crate) fn origins(&self, heads: &[Head]) -> Result<BTreeMap<u64, Origin>, Fault> {
        match guarded(|| keys::origins(&self.begin_read()?, heads.iter())) {
            Err(Fault::Damaged(what)) => {
                warn!(file = %self.path.display(), what, "keys of records not read");
                Ok(BTreeMap::new())
            }
            other => other,
        }
    }

    /// The heads at these places, none where one is missing or damaged, and the keys that there are.
    #[expect(clippy::type_complexity, reason = "one answer for each place, and the few that have a key")]
    fn find(&self, seqs: &[u64]) -> Result<(Vec<Option<Head>>, BTreeMap<u64, Origin>), Fault> {
        guarded(|| {
            let txn = self.begin_read()?;
            let table = txn.open_table(HEADS).map_err(fault)?;
            let mut heads = Vec::with_capacity(seqs.len());
            for seq in seqs {
                let head = table.get(seq).map_err(fault)?;
                heads.push(head.and_then(|value| Head::decode(*seq, value.value())));
            }
            Ok(heads)
        })
        .and_then(|heads: Vec<Option<Head>>| {
            let keyed: Vec<Head> = heads.iter().flatten().filter(|head| head.keyed).copied().collect();
            let origins = if keyed.is_empty() { BTreeMap::new() } else { self.origins(&keyed)? };
            Ok((heads, origins))
        })
    }

    /// How many records from `first` on, which begins them, are read together: those whose bodies lie side by side.
    fn run(&self, heads: &[Option<Head>], first: &Head) -> Run {
        let mut run = Run { records: 1, bytes: first.body() };
        for head in &heads[1..] {
            let Some(head) = head else { break };
            let joins = head.offset == run.bytes.end
                && head.body().end - run.bytes.start <= READ_BYTES_MAX
                && self.file.holds(&head.body());
            if !joins {
                break;
            }
            run.records += 1;
            run.bytes.end = head.body().end;
        }
        run
    }

    /// Closes it cleanly: trims the file and marks it as needing no repair.
    ///
    /// One that is frozen is only let go: nothing may mark it as clean.
    pub(crate) fn close(self) -> Result<(), Fault> {
        match self.handle {
            Handle::Write(_) if self.file.is_frozen() || self.file.is_overlaid() => Ok(()),
            Handle::Write(db) => guarded(|| db.close().map_err(fault)),
            Handle::Read(db) => guarded(|| db.close().map_err(fault)),
        }
    }

    /// The file under it, for as long as somebody wants to know its size.
    pub(crate) fn file_handle(&self) -> Arc<SegmentFile> {
        Arc::clone(&self.file)
    }

    /// The file under it.
    pub(crate) fn file(&self) -> &SegmentFile {
        &self.file
    }

    fn begin_read(&self) -> Result<redb::ReadTransaction, Fault> {
        match &self.handle {
            Handle::Write(db) => db.begin_read().map_err(fault),
            Handle::Read(db) => db.begin_read().map_err(fault),
        }
    }
}

/// A record that was read back.
#[derive(Debug)]
pub(crate) struct Stored {
    pub(crate) head: Head,
    pub(crate) body: Bytes,
    pub(crate) origin: Option<Origin>,
}

/// Records that are read together.
struct Run {
    records: usize,
    bytes: Range<u64>,
}

/// Makes a database in an empty index, or repairs the one that is there.
fn database(file: &Arc<SegmentFile>, cache_bytes: usize) -> Result<Database, Fault> {
    redb::Builder::new()
        .set_cache_size(cache_bytes)
        .create_with_backend(IndexBackend(Arc::clone(file)))
        .map_err(fault)
}

/// The name of the segment that begins with `first`.
pub(crate) fn file_name(first: u64) -> String {
    format!("{first:020}.redb")
}

/// The first record of the segment with this file name; none where it is not the name of a segment.
pub(crate) fn first_of(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".redb").filter(|digits| digits.len() == 20)?;
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::SystemDisk;
    use crate::segment_file::{SMALLEST_BYTES, footprint};

    fn head() -> Head {
        Head {
            seq: 9,
            signal: Signal::Metrics,
            lane: Lane::new(15).unwrap(),
            items: 7,
            bytes: 3,
            offset: 1 << 40,
            body_crc: crc32c::crc32c(b"abc"),
            begins_round: true,
            torn: false,
            keyed: false,
        }
    }

    /// Scenario: a head with each bit flipped, under another place, and with unknown values under a sound checksum.
    /// Guarantees: what is decoded is what was encoded, and nothing else is decoded.
    #[test]
    fn a_head_survives_and_nonsense_does_not() {
        for head in [head(), Head { torn: true, begins_round: false, keyed: true, ..head() }] {
            assert_eq!(Head::decode(9, &head.encode()), Some(head));
            assert_eq!(Head::decode(8, &head.encode()), None);
            for bit in 0..HEAD_BYTES * 8 {
                let mut bytes = head.encode();
                bytes[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(Head::decode(9, &bytes), None, "bit {bit}");
            }
        }
        for (at, value) in [(0, 9), (1, 0), (1, 4), (2, 16), (3, 8), (11, 0xff)] {
            let mut bytes = head().encode();
            bytes[at] = value;
            let crc = head_crc(9, &bytes);
            bytes[HEAD_COVERED..].copy_from_slice(&crc.to_le_bytes());
            assert_eq!(Head::decode(9, &bytes), None, "byte {at} = {value}");
        }
    }

    fn opening(segment_bytes: u64) -> Opening {
        Opening {
            disk: Arc::new(SystemDisk),
            segment_bytes,
            cache_bytes: 1 << 20,
            incarnation: 7,
            faults: Faults::default(),
        }
    }

    fn batch(length: usize) -> Batch {
        let body = Bytes::from(vec![0x5a; length]);
        Batch {
            signal: Signal::Traces,
            lane: Lane::new(0).unwrap(),
            items: 1,
            body,
            origin: None,
            claim: None,
        }
    }

    fn append(segment: &Segment, first: u64, batches: &[Batch]) -> Vec<Head> {
        let crcs = batches.iter().map(|batch| crc32c::crc32c(&batch.body));
        let heads = segment.place(first, batches, crcs);
        segment.append(&heads, batches, &Keys::default()).unwrap();
        heads
    }

    /// Scenario: rounds of one record and of many, with bodies from 1 byte to 5 MB, in a segment on a real disk.
    /// Guarantees: a round never takes more than was foreseen, nor all of them more than their footprints; what was
    /// reserved and not used is given back; every record is read back.
    #[test]
    fn a_footprint_is_an_upper_bound_of_what_is_taken() {
        const BLOCK: u64 = 4096;
        let rounds = [
            (1, 1_000, 40),
            (1, 1, 50),
            (441, 1, 5_000),
            (441, 500, 20),
            (45_000, 1, 50),
            (845_000, 4, 5),
            (5_000_000, 1, 4),
        ];
        for (length, records, count) in rounds {
            let folder = tempfile::tempdir().unwrap();
            // Nothing is pulled out here; without waiting for the disk there is time for more rounds.
            let faults = Faults::parse("skip_fdatasync").unwrap();
            let opening = Opening { faults, ..opening(64 << 20) };
            let room = Room { records, bytes: records * length as u64, keys: 0 };
            let segment = Segment::create(&opening, folder.path(), 1, room, &Base::default()).unwrap();
            let context = format!("{count} rounds of {records} records of {length}");
            assert!(segment.file.disk_bytes() <= SMALLEST_BYTES, "{context}");
            let batches = vec![batch(length); records as usize];
            for round in 0..count {
                let foreseen = segment.file.disk_bytes_with(room);
                segment.file.reserve_ahead(room).unwrap();
                append(&segment, 1 + round * records, &batches);
                let taken = segment.file.disk_bytes();
                assert!(taken <= foreseen, "{context}: {taken} of {foreseen}");
            }
            segment.file.trim().unwrap();
            let all = records * count;
            let footprints = SMALLEST_BYTES + all * footprint(length) + BLOCK;
            let taken = segment.file.disk_bytes();
            assert!(taken <= footprints, "{context}: {taken} of {footprints}");
            let path = segment.path.clone();
            segment.close().unwrap();
            let segment = Segment::open_clean(&opening, &path).unwrap();
            assert!(segment.file.disk_bytes() <= footprints, "{context}: closed");
            let seqs: Vec<u64> = (1..=all).collect();
            for record in segment.read(&seqs).unwrap() {
                assert_eq!(record.unwrap().body, batches[0].body, "{context}");
            }
        }
    }

    /// Scenario: redb grows in rounds of many records, until a segment has no room for more.
    /// Guarantees: the segment says so before redb asks for more than its index can be.
    #[test]
    fn a_full_index_is_foreseen() {
        let folder = tempfile::tempdir().unwrap();
        let opening = opening(8 << 20);
        let room = Room { records: 1_000, bytes: 1_000, keys: 0 };
        let segment = Segment::create(&opening, folder.path(), 1, room, &Base::default()).unwrap();
        let batches = vec![batch(1); 1_000];
        let mut first = 1;
        while segment.file.has_room(room, opening.segment_bytes) {
            append(&segment, first, &batches);
            first += 1_000;
        }
        assert!(first > 10_000, "only {first} records in 8 MiB");
        let large = Room { records: 200_000, bytes: 200_000, keys: 0 };
        let empty = Segment::create(&opening, folder.path(), first, large, &Base::default()).unwrap();
        assert!(
            empty.file.has_room(large, opening.segment_bytes),
            "an empty segment is made for its first round"
        );
        append(&empty, first, &vec![batch(1); 200_000]);
    }

    /// Scenario: heads are rewritten, with sound checksums, to point before the bodies, behind them, and far away.
    /// Guarantees: such a record is damaged, nothing is allocated for it, and its neighbours are read.
    #[test]
    fn a_head_that_points_elsewhere_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let room = Room { records: 3, bytes: 30, keys: 0 };
        let segment = Segment::create(&opening(2 << 20), folder.path(), 1, room, &Base::default()).unwrap();
        let heads = append(&segment, 1, &[batch(10), batch(10), batch(10)]);
        for offset in [0, heads[0].offset - 1, heads[2].offset + 1, 1 << 60, u64::MAX] {
            segment.insert(&[Head { offset, ..heads[1] }], &[], &[]).unwrap();
            let read = segment.read(&[1, 2, 3, 4]).unwrap();
            assert!(read[0].is_ok() && read[2].is_ok());
            assert!(read[1].as_ref().unwrap_err().contains("outside"), "offset {offset}");
            assert!(read[3].as_ref().unwrap_err().contains("missing"));
        }
        segment.insert(&[Head { bytes: BODY_BYTES_MAX, ..heads[1] }], &[], &[]).unwrap();
        assert!(segment.read(&[2]).unwrap()[0].is_err());
    }

    /// Scenario: names of files that may lie in the folder.
    /// Guarantees: only our own form is taken for a segment.
    #[test]
    fn only_our_names_are_segments() {
        assert_eq!(first_of(&file_name(1)), Some(1));
        assert_eq!(first_of(&file_name(u64::MAX)), Some(u64::MAX));
        for name in
            ["1.redb", "00000000000000000001.redb.quarantine", "+0000000000000000001.redb", "meta.redb"]
        {
            assert_eq!(first_of(name), None, "{name}");
        }
    }
}
