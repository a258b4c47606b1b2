//! A segment's file: a header, redb's storage, bodies.
//!
//! ```text
//! 0                header   magic "WEIRSEG\n" · format u32 · zeros u32 · capacity u64 · length u64 · crc32c u32 · zeros
//! 4096             index    redb's storage, `length` bytes of it; takes blocks only where it is written
//! 4096 + capacity  bodies   one after the other, to the end of the file; a round begins at a multiple of 512
//! ```
//!
//! Bodies are appended and never written again. What a round writes shares no sector with what an earlier one wrote,
//! so that no write, torn or not, touches a byte that a receipt was given for.
//!
//! redb wants to know its storage's exact length, which is the `length` in the header: one sector, written whenever
//! redb grows or shrinks. A crash may keep the old one or the new one with any part of what else was written. Both
//! are right: redb syncs when it has grown, before a commit can refer to what is new; it shrinks when the commit
//! that no longer needs the end is synced; a file that is not marked as closed is fitted to whichever length is
//! found; and the mark is written after a sync, which has made the last length durable.
//!
//! Invariant: index and bodies never overlap, and nothing outside of either is read for them.

use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use redb::StorageBackend;
use weir_model::Batch;

use crate::backend::{SyncFile, step_for};
use crate::disk::DiskFile;
use crate::faults::Faults;
use crate::keys::STAMP_INDEX_BYTES;
use crate::segment::Fault;

/// The format of the file. One with a higher format is set aside, not read.
pub(crate) const FORMAT: u32 = 2;

const MAGIC: [u8; 8] = *b"WEIRSEG\n";
/// What is written of the header at once: disks write a sector whole or not at all.
const SECTOR: usize = 512;
/// Where the index begins: a page, so that redb's pages are the disk's.
const INDEX_START: u64 = 4 << 10;
/// redb's page, and the smallest storage that can be one.
const PAGE_BYTES: u64 = 4 << 10;

/// The index takes blocks in pieces of this size: redb uses its storage from the front, with a few pages elsewhere.
const CHUNK_BYTES: u64 = 64 << 10;
/// What redb's own tables, its free pages and the pieces that are only begun take.
const INDEX_BASE_BYTES: u64 = 512 << 10;
/// What a record takes of the index: a key of 8 bytes and a head of 28 in a leaf that is half full, as it is when
/// keys only grow; the rest is branches and reserve.
const INDEX_RECORD_BYTES: u64 = 96;
/// redb's smallest storage is a little larger than 1 MiB; it grows by doubling.
const CAPACITY_MIN: u64 = (2 << 20) + (64 << 10);
/// redb's storage of a segment is one region, which ends at 4 GiB.
const CAPACITY_MAX: u64 = 2 << 30;

/// Bodies up to this size are gathered and written together; larger ones are written from where they are.
const GATHERED_BYTES_MAX: usize = 16 << 10;
/// What is gathered before it is written.
const SCRATCH_BYTES_MAX: usize = 256 << 10;

/// Bytes on disk that a record takes at the most, even in a round of its own.
pub(crate) fn footprint(length: usize) -> u64 {
    length as u64 + SECTOR as u64 + INDEX_RECORD_BYTES
}

/// The same for a batch, which may have a key. The mark that comes with it is in what admissions leave free.
pub(crate) fn footprint_of(batch: &Batch) -> u64 {
    footprint(batch.body.len()) + if batch.origin.is_some() { STAMP_INDEX_BYTES } else { 0 }
}

/// Bytes on disk of a segment without records, with the piece of the index that its first record may begin.
pub(crate) const SMALLEST_BYTES: u64 = INDEX_START + INDEX_BASE_BYTES + CHUNK_BYTES;

/// What a round adds to a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Room {
    pub(crate) records: u64,
    /// Of bodies.
    pub(crate) bytes: u64,
    /// Bytes of the index for keys of records and for marks.
    pub(crate) keys: u64,
}

/// Bytes that the index of so many records, and of keys and marks, takes from the disk at the most.
fn index_bytes(records: u64, keys: u64) -> u64 {
    INDEX_BASE_BYTES.saturating_add(records.saturating_mul(INDEX_RECORD_BYTES)).saturating_add(keys)
}

/// The file of one segment.
#[derive(Debug)]
pub(crate) struct SegmentFile {
    sync: SyncFile,
    /// Bytes between the header and the bodies.
    capacity: u64,
    /// Bytes of redb's storage.
    length: AtomicU64,
    /// The end of the last body.
    end: AtomicU64,
    /// Records that were written since it was made.
    records: AtomicU64,
    /// What keys and marks take of the index.
    keys: AtomicU64,
    step: u64,
    taken: Mutex<Taken>,
}

/// What is reserved.
#[derive(Debug)]
struct Taken {
    /// Bytes on disk.
    bytes: u64,
    /// Which pieces of the index have blocks.
    chunks: Vec<bool>,
    /// Blocks of bodies are reserved up to this offset.
    bodies: u64,
    /// The end of the last byte of the index that was ever written.
    index_high: u64,
}

impl SegmentFile {
    /// Makes the file of a segment whose first round is `room`. Durable with redb's first sync.
    pub(crate) fn create(
        file: Box<dyn DiskFile>,
        segment_bytes: u64,
        room: Room,
        faults: Faults,
    ) -> io::Result<Arc<Self>> {
        // redb doubles its storage, so what it needs is at most half of what it may ask for.
        // Marks are there before the first record, so they come on top: it is only room in the file, not on the disk.
        let most = (segment_bytes / 2).saturating_add(room.keys.saturating_mul(2));
        let capacity = most.max(index_bytes(room.records, room.keys).saturating_mul(2)).max(CAPACITY_MIN);
        let capacity = capacity.min(CAPACITY_MAX).next_multiple_of(CHUNK_BYTES);
        let bodies = INDEX_START + capacity;
        let made = Self {
            sync: SyncFile::new(file, Some(faults)),
            capacity,
            length: AtomicU64::new(0),
            end: AtomicU64::new(bodies),
            records: AtomicU64::new(0),
            keys: AtomicU64::new(0),
            step: step_for(segment_bytes),
            taken: Mutex::new(Taken {
                bytes: INDEX_START,
                chunks: vec![false; (capacity / CHUNK_BYTES) as usize],
                bodies,
                index_high: 0,
            }),
        };
        made.sync.set_length(bodies)?;
        Ok(Arc::new(made))
    }

    /// Takes a file that is there, to be repaired or read.
    pub(crate) fn open(file: Box<dyn DiskFile>, faults: Option<Faults>) -> Result<Arc<Self>, Fault> {
        Self::take(SyncFile::new(file, faults))
    }

    /// Takes a file that is there and is not to be written.
    pub(crate) fn overlaid(file: Box<dyn DiskFile>) -> Result<Arc<Self>, Fault> {
        Self::take(SyncFile::overlaid(file))
    }

    fn take(sync: SyncFile) -> Result<Arc<Self>, Fault> {
        let end = sync.length()?;
        let (capacity, length) = read_header(&sync, end)?;
        let allocated = sync.allocated()?;
        Ok(Arc::new(Self {
            sync,
            capacity,
            length: AtomicU64::new(length),
            end: AtomicU64::new(end),
            records: AtomicU64::new(0),
            keys: AtomicU64::new(0),
            step: CHUNK_BYTES,
            taken: Mutex::new(Taken {
                bytes: allocated,
                // A file that is there is only repaired, within a few pages.
                chunks: vec![true; capacity.div_ceil(CHUNK_BYTES) as usize],
                bodies: end,
                index_high: capacity,
            }),
        }))
    }

    /// Whether an `fdatasync` has ever failed.
    pub(crate) fn is_failed(&self) -> bool {
        self.sync.is_failed()
    }

    /// Whether writes stay in memory.
    pub(crate) fn is_overlaid(&self) -> bool {
        self.sync.is_overlaid()
    }

    /// Whether nothing is written any more.
    pub(crate) fn is_frozen(&self) -> bool {
        self.sync.is_frozen()
    }

    /// Refuses every further write.
    pub(crate) fn freeze(&self) {
        self.sync.freeze();
    }

    /// Bytes that the file takes from the disk, reserved ones too.
    pub(crate) fn disk_bytes(&self) -> u64 {
        self.taken().bytes
    }

    fn bodies(&self) -> u64 {
        INDEX_START + self.capacity
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl SegmentFile: room ===

impl SegmentFile {
    /// Whether a round can be added to a segment that is to grow to `segment_bytes`. An empty one may grow beyond.
    pub(crate) fn has_room(&self, room: Room, segment_bytes: u64) -> bool {
        let records = self.records.load(Ordering::Relaxed);
        let index = self.index_with(room);
        let bodies = self.next_body() - self.bodies();
        let all = INDEX_START.saturating_add(index).saturating_add(bodies).saturating_add(room.bytes);
        index <= self.capacity / 2 && (records == 0 || all <= segment_bytes)
    }

    /// What [`SegmentFile::disk_bytes`] would be once a round had been added.
    pub(crate) fn disk_bytes_with(&self, room: Room) -> u64 {
        let index = self.index_with(room);
        let taken = self.taken();
        let more_index = index.next_multiple_of(CHUNK_BYTES).saturating_sub(taken.index_bytes());
        let more_bodies =
            self.target(self.next_body().saturating_add(room.bytes)).saturating_sub(taken.bodies);
        taken.bytes.saturating_add(more_index).saturating_add(more_bodies)
    }

    /// Reserves what a round needs, so that a full disk shows before it is begun.
    pub(crate) fn reserve_ahead(&self, room: Room) -> io::Result<()> {
        self.sync.refuse_if_full()?;
        self.reserve_index(self.index_with(room))?;
        self.reserve_bodies(self.next_body().saturating_add(room.bytes))
    }

    /// What the index takes once a round has been added.
    fn index_with(&self, room: Room) -> u64 {
        let records = self.records.load(Ordering::Relaxed).saturating_add(room.records);
        index_bytes(records, self.keys.load(Ordering::Relaxed).saturating_add(room.keys))
    }

    /// Gives back what was reserved behind the last body. Nothing is appended any more.
    pub(crate) fn trim(&self) -> io::Result<()> {
        // The same length again: it frees the blocks behind it and can cut nothing off.
        self.sync.set_length(self.sync.length()?)?;
        let allocated = self.sync.allocated()?;
        self.taken().bytes = allocated;
        Ok(())
    }

    /// Where the blocks of bodies would end that were reserved up to `end` at least.
    fn target(&self, end: u64) -> u64 {
        let bodies = self.bodies();
        bodies.saturating_add(end.saturating_sub(bodies).div_ceil(self.step).saturating_mul(self.step))
    }

    fn reserve_bodies(&self, end: u64) -> io::Result<()> {
        let mut taken = self.taken();
        if end <= taken.bodies {
            return Ok(());
        }
        let target = self.target(end);
        self.sync.reserve(taken.bodies, target - taken.bodies)?;
        taken.bytes += target - taken.bodies;
        taken.bodies = target;
        Ok(())
    }

    /// Reserves pieces of the index, from the front, until they are so many bytes.
    fn reserve_index(&self, bytes: u64) -> io::Result<()> {
        let mut taken = self.taken();
        let mut missing = bytes.saturating_sub(taken.index_bytes()).div_ceil(CHUNK_BYTES);
        for number in 0..taken.chunks.len() {
            if missing == 0 {
                return Ok(());
            }
            missing -= u64::from(self.reserve_chunk(&mut taken, number)?);
        }
        Ok(())
    }

    /// Reserves one piece of the index. False where it was.
    fn reserve_chunk(&self, taken: &mut Taken, number: usize) -> io::Result<bool> {
        let Some(chunk) = taken.chunks.get_mut(number).filter(|chunk| !**chunk) else { return Ok(false) };
        self.sync.reserve(INDEX_START + number as u64 * CHUNK_BYTES, CHUNK_BYTES)?;
        *chunk = true;
        taken.bytes += CHUNK_BYTES;
        Ok(true)
    }
}

impl Taken {
    fn index_bytes(&self) -> u64 {
        self.chunks.iter().filter(|chunk| **chunk).count() as u64 * CHUNK_BYTES
    }
}

// === impl SegmentFile: bodies ===

impl SegmentFile {
    /// Where the next round's first body begins.
    pub(crate) fn next_body(&self) -> u64 {
        self.end.load(Ordering::Acquire).next_multiple_of(SECTOR as u64)
    }

    /// Writes bodies one after the other from `offset` on. Durable with the next sync.
    pub(crate) fn write_bodies<'a>(
        &self,
        offset: u64,
        bodies: impl Iterator<Item = &'a Bytes>,
    ) -> io::Result<()> {
        let mut at = offset;
        let mut scratch = Vec::new();
        for body in bodies {
            let gathers = body.len() <= GATHERED_BYTES_MAX;
            if !gathers || scratch.len() + body.len() > SCRATCH_BYTES_MAX {
                at = self.write_body(at, &scratch)?;
                scratch.clear();
            }
            if gathers {
                scratch.extend_from_slice(body);
            } else {
                at = self.write_body(at, body)?;
            }
        }
        self.write_body(at, &scratch).map(|_| ())
    }

    fn write_body(&self, offset: u64, bytes: &[u8]) -> io::Result<u64> {
        let end = offset.saturating_add(bytes.len() as u64);
        if bytes.is_empty() {
            return Ok(end);
        }
        if offset < self.bodies() {
            return Err(io::Error::other("a body may not lie in the index"));
        }
        self.reserve_bodies(end)?;
        self.sync.write_at(offset, bytes)?;
        self.end.fetch_max(end, Ordering::AcqRel);
        Ok(end)
    }

    /// Counts records whose heads are in the index.
    pub(crate) fn note_records(&self, records: u64) {
        self.records.fetch_add(records, Ordering::Relaxed);
    }

    /// Counts what keys and marks take that are in the index.
    pub(crate) fn note_keys(&self, bytes: u64) {
        self.keys.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Whether bodies can lie there.
    pub(crate) fn holds(&self, bodies: &Range<u64>) -> bool {
        bodies.start >= self.bodies()
            && bodies.start <= bodies.end
            && bodies.end <= self.end.load(Ordering::Acquire)
    }

    /// Reads what lies there; the caller has seen that it [`SegmentFile::holds`] it.
    pub(crate) fn read_bodies(&self, bodies: Range<u64>) -> io::Result<Bytes> {
        let mut out = vec![0; (bodies.end - bodies.start) as usize];
        self.sync.read_at(bodies.start, &mut out)?;
        Ok(out.into())
    }
}

// === the header ===

/// The index's capacity and redb's length.
fn read_header(sync: &SyncFile, file_length: u64) -> Result<(u64, u64), Fault> {
    let damaged = |what: &str| Fault::Damaged(what.to_owned());
    if file_length < INDEX_START {
        return Err(damaged("the file has no header"));
    }
    let mut header = [0; SECTOR];
    sync.read_at(0, &mut header)?;
    let word = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    let long = |at: usize| u64::from(word(at)) | u64::from(word(at + 4)) << 32;
    if header[..8] != MAGIC {
        return Err(damaged("it does not begin as a segment does"));
    }
    match word(8) {
        FORMAT => {}
        format if format > FORMAT => return Err(Fault::Newer(format!("segment format {format}"))),
        format => return Err(Fault::Damaged(format!("segment format {format} was never released"))),
    }
    let (capacity, length) = (long(16), long(24));
    if word(32) != crc32c::crc32c(&header[..32]) {
        return Err(damaged("the checksum of its header is not that of its bytes"));
    }
    if capacity > CAPACITY_MAX || length > capacity || length < 2 * PAGE_BYTES {
        return Err(damaged("the sizes in its header cannot be"));
    }
    if file_length < INDEX_START + capacity {
        return Err(damaged("it is cut off"));
    }
    Ok((capacity, length))
}

fn header(capacity: u64, length: u64) -> [u8; SECTOR] {
    let mut header = [0; SECTOR];
    header[..8].copy_from_slice(&MAGIC);
    header[8..12].copy_from_slice(&FORMAT.to_le_bytes());
    header[16..24].copy_from_slice(&capacity.to_le_bytes());
    header[24..32].copy_from_slice(&length.to_le_bytes());
    let crc = crc32c::crc32c(&header[..32]);
    header[32..36].copy_from_slice(&crc.to_le_bytes());
    header
}

// === redb's storage ===

/// What redb holds of a [`SegmentFile`].
#[derive(Debug)]
pub(crate) struct IndexBackend(pub(crate) Arc<SegmentFile>);

impl IndexBackend {
    /// Checks that a range is in the storage, and returns where that is in the file.
    fn locate(&self, offset: u64, bytes: usize) -> io::Result<u64> {
        let end = offset.saturating_add(bytes as u64);
        if end > self.0.length.load(Ordering::Acquire) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(INDEX_START + offset)
    }

    fn write_in(&self, taken: &mut Taken, offset: u64, data: &[u8]) -> io::Result<()> {
        let end = offset + data.len() as u64;
        for number in offset / CHUNK_BYTES..end.div_ceil(CHUNK_BYTES) {
            self.0.reserve_chunk(taken, number as usize)?;
        }
        self.0.sync.write_at(INDEX_START + offset, data)?;
        taken.index_high = taken.index_high.max(end);
        Ok(())
    }
}

impl StorageBackend for IndexBackend {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.length.load(Ordering::Acquire))
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.sync.read_at(self.locate(offset, out.len())?, out)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        if length > self.0.capacity {
            // The segment has no room for more records; the next one has.
            return Err(io::ErrorKind::StorageFull.into());
        }
        let mut taken = self.0.taken();
        // redb wants zeros where it grows; where it has shrunk before there is something else.
        let mut at = self.0.length.load(Ordering::Acquire);
        let dirty = length.min(taken.index_high);
        while at < dirty {
            let zeros = vec![0; (dirty - at).min(CHUNK_BYTES) as usize];
            self.write_in(&mut taken, at, &zeros)?;
            at += zeros.len() as u64;
        }
        self.0.sync.write_at(0, &header(self.0.capacity, length))?;
        self.0.length.store(length, Ordering::Release);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.locate(offset, data.len())?;
        self.write_in(&mut self.0.taken(), offset, data)
    }
}
