//! One segment: a redb file with some of the log's records, deleted whole when every exporter is past it.
//!
//! ```text
//! segments/00000000000000000001.redb     named after its first record; *.tmp while it is made
//!
//! table facts    "format" ▶ u32 · "log" ▶ incarnation u128
//! table heads    seq u64 ▶ format u8 · signal u8 · lane u8 · flags u8 · items u32 · bytes u32 · crc32c u32
//! table bodies   (seq u64, piece u32) ▶ bytes          numbers are little-endian
//! ```
//!
//! The checksum covers the place, everything else of the head, and the checksum of the body: it does not depend on
//! redb's. The body's is computed where the sender's request is handled, not in the one thread that commits.
//! Pages of redb are powers of two, so a body is cut into pieces that fill such pages ([`pieces`]).
//!
//! Invariant: a record is read back exactly as it was appended, or is called damaged.

use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use redb::{Database, ReadOnlyDatabase, ReadableDatabase, ReadableTable, TableDefinition};
use weir_model::{Batch, Lane, Signal};

use crate::backend::{Backend, BackendFile};
use crate::disk::Disk;
use crate::faults::Faults;

const FACTS: TableDefinition<&str, &[u8]> = TableDefinition::new("facts");
const HEADS: TableDefinition<u64, &[u8]> = TableDefinition::new("heads");
const BODIES: TableDefinition<(u64, u32), &[u8]> = TableDefinition::new("bodies");

/// The format of the tables above. A segment with a higher one is set aside, not read.
const FORMAT: u32 = 1;
const HEAD_BYTES: usize = 16;

/// Page that a large piece fills: larger ones are wasteful to allocate and to keep in redb's cache.
const PAGE_BYTES_MAX: usize = 256 << 10;
/// The smallest page of redb.
const PAGE_BYTES_MIN: usize = 4 << 10;
/// What redb adds to the one value of a leaf: 4 bytes of header, 4 of offset, 12 of key, and some to spare.
const PAGE_OVERHEAD: usize = 64;
/// redb's cache for a segment that is only read: bodies pass through it once.
const READ_CACHE_BYTES: usize = 128 << 10;
/// Tree pages that a transaction touches beside the pieces: two root paths and redb's own tables.
const ROUND_OVERHEAD_BYTES: u64 = 192 << 10;
/// A body that a head may claim. Requests are bounded far below it; this bounds what a damaged head allocates.
const BODY_BYTES_MAX: u32 = 256 << 20;

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
    pub(crate) crc: u32,
}

impl Head {
    /// The head of a batch at a place, whose body has this checksum.
    pub(crate) fn of(seq: u64, batch: &Batch, body_crc: u32) -> Self {
        let bytes = u32::try_from(batch.body.len()).unwrap_or(u32::MAX);
        let mut head =
            Self { seq, signal: batch.signal, lane: batch.lane, items: batch.items, bytes, crc: 0 };
        head.crc = head.checksum(body_crc);
        head
    }

    fn checksum(&self, body_crc: u32) -> u32 {
        let start = crc32c::crc32c(&self.seq.to_le_bytes());
        let head = crc32c::crc32c_append(start, &self.encode()[..12]);
        crc32c::crc32c_append(head, &body_crc.to_le_bytes())
    }

    fn encode(&self) -> [u8; HEAD_BYTES] {
        let mut out = [0; HEAD_BYTES];
        out[0] = FORMAT as u8;
        out[1] = signal_byte(self.signal);
        out[2] = self.lane.index() as u8;
        out[4..8].copy_from_slice(&self.items.to_le_bytes());
        out[8..12].copy_from_slice(&self.bytes.to_le_bytes());
        out[12..16].copy_from_slice(&self.crc.to_le_bytes());
        out
    }

    fn decode(seq: u64, value: &[u8]) -> Option<Self> {
        let value: &[u8; HEAD_BYTES] = value.try_into().ok()?;
        if u32::from(value[0]) != FORMAT || value[3] != 0 {
            return None;
        }
        let word = |at: usize| u32::from_le_bytes([value[at], value[at + 1], value[at + 2], value[at + 3]]);
        let bytes = word(8);
        (bytes <= BODY_BYTES_MAX).then_some(())?;
        Some(Self {
            seq,
            signal: signal_of(value[1])?,
            lane: Lane::new(value[2])?,
            items: word(4),
            bytes,
            crc: word(12),
        })
    }
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

/// Cuts a body of `length` bytes into pieces that fill pages to three quarters at least, except the last.
pub(crate) fn pieces(length: usize) -> impl Iterator<Item = std::ops::Range<usize>> {
    let mut at = 0;
    let mut empty = length == 0;
    std::iter::from_fn(move || {
        if std::mem::take(&mut empty) {
            return Some(0..0);
        }
        let left = length.checked_sub(at).filter(|left| *left > 0)?;
        let page = (left + PAGE_OVERHEAD).next_power_of_two().clamp(PAGE_BYTES_MIN, PAGE_BYTES_MAX);
        let fits = page - PAGE_OVERHEAD;
        // A page that would be filled badly is halved: what is left goes into another, smaller one.
        let take = if left < fits && left < page / 4 * 3 && page > PAGE_BYTES_MIN * 8 {
            page / 2 - PAGE_OVERHEAD
        } else {
            left.min(fits)
        };
        let piece = at..at + take;
        at += take;
        Some(piece)
    })
}

/// Bytes on disk that a body takes, with its head, at the most.
pub(crate) fn footprint(length: usize) -> u64 {
    let pages = pieces(length).map(|piece| (piece.len() + PAGE_OVERHEAD).next_power_of_two().max(256) as u64);
    pages.sum::<u64>() + 128
}

/// Bytes on disk that a transaction takes beside the bodies.
pub(crate) fn round_overhead() -> u64 {
    ROUND_OVERHEAD_BYTES
}

enum Handle {
    Write(Database),
    Read(ReadOnlyDatabase),
}

/// An open segment file.
pub(crate) struct Segment {
    handle: Handle,
    file: Arc<BackendFile>,
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
    /// Makes a new segment: whole under its name, durably, or not there.
    pub(crate) fn create(opening: &Opening, folder: &Path, first: u64) -> Result<Self, Fault> {
        let path = folder.join(file_name(first));
        let making = path.with_extension("tmp");
        match opening.disk.remove(&making) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
            Ok(()) | Err(_) => {}
        }
        let file = opening.disk.open(&making, true)?;
        let file = BackendFile::new(file, opening.segment_bytes, Some(opening.faults.clone()))?;
        let made = Self::fill(opening, &file).and_then(|db| {
            opening.disk.rename(&making, &path)?;
            opening.disk.sync_folder(folder)?;
            Ok(db)
        });
        match made {
            Ok(db) => Ok(Self { handle: Handle::Write(db), file, path }),
            Err(fault) => {
                // Best effort: a left-over is deleted by the next start.
                drop(opening.disk.remove(&making));
                Err(fault)
            }
        }
    }

    fn fill(opening: &Opening, file: &Arc<BackendFile>) -> Result<Database, Fault> {
        let db = redb::Builder::new()
            .set_cache_size(opening.cache_bytes)
            .create_with_backend(Backend(Arc::clone(file)))
            .map_err(fault)?;
        let txn = db.begin_write().map_err(fault)?;
        {
            let mut facts = txn.open_table(FACTS).map_err(fault)?;
            facts.insert("format", FORMAT.to_le_bytes().as_slice()).map_err(fault)?;
            facts.insert("log", opening.incarnation.to_le_bytes().as_slice()).map_err(fault)?;
            txn.open_table(HEADS).map_err(fault)?;
            txn.open_table(BODIES).map_err(fault)?;
        }
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
        let (db, file) = open_database(opening, path)?;
        drop(file);
        guarded(|| db.close().map_err(fault))?;
        Self::open_clean(opening, path)
    }

    /// Opens a segment for reading without writing to it, although it was not closed: the repair stays in memory.
    pub(crate) fn open_frozen(opening: &Opening, path: &Path) -> Result<Self, Fault> {
        let file = BackendFile::overlaid(opening.disk.open(path, false)?)?;
        if file.length() == 0 {
            return Err(Fault::Damaged("the file is empty".to_owned()));
        }
        let db = guarded(|| {
            redb::Builder::new()
                .set_cache_size(READ_CACHE_BYTES)
                .create_with_backend(Backend(Arc::clone(&file)))
                .map_err(fault)
        })?;
        Ok(Self { handle: Handle::Write(db), file, path: path.to_owned() })
    }

    fn open_clean(opening: &Opening, path: &Path) -> Result<Self, Fault> {
        let file = BackendFile::new(opening.disk.open(path, false)?, opening.segment_bytes, None)?;
        file.freeze();
        let db = guarded(|| {
            redb::Builder::new()
                .set_cache_size(READ_CACHE_BYTES)
                .open_read_only_with_backend(Backend(Arc::clone(&file)))
                .map_err(fault)
        })?;
        Ok(Self { handle: Handle::Read(db), file, path: path.to_owned() })
    }

    /// The incarnation of the log that it belongs to, once the format is one that is known.
    pub(crate) fn identify(&self) -> Result<u128, Fault> {
        guarded(|| {
            let txn = self.begin_read()?;
            let facts = txn.open_table(FACTS).map_err(fault)?;
            let format = facts.get("format").map_err(fault)?.and_then(|value| value.value().try_into().ok());
            match format.map(u32::from_le_bytes) {
                Some(FORMAT) => {}
                Some(format) if format > FORMAT => {
                    return Err(Fault::Newer(format!("segment format {format}")));
                }
                Some(_) | None => return Err(Fault::Damaged("no segment format".to_owned())),
            }
            let log = facts.get("log").map_err(fault)?.and_then(|value| value.value().try_into().ok());
            log.map(u128::from_le_bytes).ok_or_else(|| Fault::Damaged("no incarnation".to_owned()))
        })
    }

    /// Appends batches at consecutive places in one transaction, with one `fdatasync`.
    ///
    /// After an error it is not known whether the records are in the file: nobody may be told that they are, and
    /// their places are not used again.
    pub(crate) fn append(&self, heads: &[Head], batches: &[Batch]) -> Result<(), Fault> {
        let Handle::Write(db) = &self.handle else {
            return Err(Fault::Io(io::Error::other("the segment is open for reading only")));
        };
        let txn = db.begin_write().map_err(fault)?;
        {
            let mut table = txn.open_table(HEADS).map_err(fault)?;
            for head in heads {
                table.insert(head.seq, head.encode().as_slice()).map_err(fault)?;
            }
        }
        {
            let mut table = txn.open_table(BODIES).map_err(fault)?;
            for (head, batch) in heads.iter().zip(batches) {
                for (number, piece) in (0_u32..).zip(pieces(batch.body.len())) {
                    table.insert((head.seq, number), &batch.body[piece]).map_err(fault)?;
                }
            }
        }
        txn.commit().map_err(fault)
    }

    /// The heads of all records, in order. A head that cannot be read is left out and counted in the second place.
    pub(crate) fn heads(&self) -> Result<(Vec<Head>, u64), Fault> {
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

    /// Reads records back. The inner error names what is wrong with that one record.
    #[expect(clippy::type_complexity, reason = "two levels of failure: the segment, one record")]
    pub(crate) fn read(&self, seqs: &[u64]) -> Result<Vec<Result<(Head, Bytes), String>>, Fault> {
        guarded(|| {
            let txn = self.begin_read()?;
            let heads = txn.open_table(HEADS).map_err(fault)?;
            let bodies = txn.open_table(BODIES).map_err(fault)?;
            let mut records = Vec::with_capacity(seqs.len());
            for seq in seqs {
                let head = heads.get(seq).map_err(fault)?.map(|value| Head::decode(*seq, value.value()));
                let Some(Some(head)) = head else {
                    records.push(Err("its head is missing or damaged".to_owned()));
                    continue;
                };
                let body = read_body(&bodies, &head)?;
                records.push(
                    if head.checksum(crc32c::crc32c(&body)) == head.crc && body.len() == head.bytes as usize {
                        Ok((head, body))
                    } else {
                        Err("its checksum is not that of its bytes".to_owned())
                    },
                );
            }
            Ok(records)
        })
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
    pub(crate) fn file_handle(&self) -> Arc<BackendFile> {
        Arc::clone(&self.file)
    }

    /// The file under it.
    pub(crate) fn file(&self) -> &BackendFile {
        &self.file
    }

    fn begin_read(&self) -> Result<redb::ReadTransaction, Fault> {
        match &self.handle {
            Handle::Write(db) => db.begin_read().map_err(fault),
            Handle::Read(db) => db.begin_read().map_err(fault),
        }
    }
}

fn open_database(opening: &Opening, path: &Path) -> Result<(Database, Arc<BackendFile>), Fault> {
    let file = BackendFile::new(
        opening.disk.open(path, false)?,
        opening.segment_bytes,
        Some(opening.faults.clone()),
    )?;
    if file.length() == 0 {
        // redb would make a new database of it.
        return Err(Fault::Damaged("the file is empty".to_owned()));
    }
    let db = guarded(|| {
        redb::Builder::new()
            .set_cache_size(opening.cache_bytes)
            .create_with_backend(Backend(Arc::clone(&file)))
            .map_err(fault)
    })?;
    Ok((db, file))
}

fn read_body(table: &impl ReadableTable<(u64, u32), &'static [u8]>, head: &Head) -> Result<Bytes, Fault> {
    let length = head.bytes as usize;
    let mut body = BytesMut::with_capacity(length);
    for number in 0_u32.. {
        let Some(piece) = table.get((head.seq, number)).map_err(fault)? else { break };
        body.extend_from_slice(piece.value());
        if body.len() >= length {
            break;
        }
    }
    Ok(body.freeze())
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

    /// Scenario: bodies of every size around the borders of pages.
    /// Guarantees: the pieces are the body in order, each fits into its page, and a body never takes twice its size
    /// (beyond small ones).
    #[test]
    fn pieces_cover_the_body_and_fill_their_pages() {
        let around = |size: usize| size.saturating_sub(70)..size + 70;
        for length in
            around(0).chain(around(4096)).chain(around(98_304)).chain(around(262_144)).chain(around(845_000))
        {
            let mut at = 0;
            for piece in pieces(length) {
                assert_eq!(piece.start, at, "body of {length}");
                assert!(piece.len() + PAGE_OVERHEAD <= PAGE_BYTES_MAX);
                at = piece.end;
            }
            assert_eq!(at, length);
            if length > 64 << 10 {
                assert!(footprint(length) < length as u64 * 3 / 2, "{length} takes {}", footprint(length));
            }
        }
    }

    /// Scenario: a head with each field changed.
    /// Guarantees: what is decoded is what was encoded, and an unknown format, signal, lane or flag is not decoded.
    #[test]
    fn a_head_survives_and_nonsense_does_not() {
        let batch = Batch {
            signal: Signal::Metrics,
            lane: Lane::new(15).unwrap(),
            items: 7,
            body: Bytes::from_static(b"abc"),
            claim: None,
        };
        let head = Head::of(9, &batch, 77);
        assert_eq!(Head::decode(9, &head.encode()), Some(head));
        for (at, value) in [(0, 9), (1, 0), (1, 4), (2, 16), (3, 1), (11, 0xff)] {
            let mut bytes = head.encode();
            bytes[at] = value;
            assert_eq!(Head::decode(9, &bytes), None, "byte {at} = {value}");
        }
        assert_eq!(Head::decode(9, &head.encode()[..15]), None);
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
