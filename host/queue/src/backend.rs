//! Files under redb: synced until the first failure, with blocks reserved ahead.
//!
//! After a failed `fdatasync` the kernel may have thrown the dirty pages away and called them clean, so that a second
//! call succeeds over data that is not there. Therefore a file is synced until its first failure, and from then on it
//! is frozen: neither synced nor written again in this process, so that nothing can build on what is not on disk and
//! nothing marks the file as clean. What was durable before is read through an overlay: redb repairs the file in memory.
//!
//! [`BackendFile`] is a file that is redb's from its first byte to its last; a segment's has other things in it too
//! (`segment_file.rs`).

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use redb::StorageBackend;

use crate::disk::DiskFile;
use crate::faults::Faults;

/// The least that is reserved at once.
const STEP_BYTES_MIN: u64 = 64 << 10;
/// The most that is reserved at once: what a sealed segment may waste until it is trimmed.
const STEP_BYTES_MAX: u64 = 4 << 20;

/// How much is reserved at once in a file that is expected to grow to about `size` bytes.
pub(crate) fn step_for(size: u64) -> u64 {
    (size / 8).next_power_of_two().clamp(STEP_BYTES_MIN, STEP_BYTES_MAX)
}

// === SyncFile ===

/// A file that is synced until its first failure, and then neither synced nor written.
#[derive(Debug)]
pub(crate) struct SyncFile {
    file: Box<dyn DiskFile>,
    /// A sync failed.
    failed: AtomicBool,
    frozen: AtomicBool,
    /// Writes go here instead of to the file.
    overlay: Option<Mutex<Overlay>>,
    /// None for files whose syncs carry no promise to a sender.
    faults: Option<Faults>,
}

impl SyncFile {
    /// Takes a file that may be written.
    pub(crate) fn new(file: Box<dyn DiskFile>, faults: Option<Faults>) -> Self {
        Self { file, failed: AtomicBool::new(false), frozen: AtomicBool::new(false), overlay: None, faults }
    }

    /// Takes a file that is not to be written: what redb writes to repair it stays in memory, some pages.
    pub(crate) fn overlaid(file: Box<dyn DiskFile>) -> Self {
        Self { overlay: Some(Mutex::new(Overlay::default())), ..Self::new(file, None) }
    }

    /// Bytes in the file.
    pub(crate) fn length(&self) -> io::Result<u64> {
        self.file.length()
    }

    /// Bytes on disk that belong to it.
    pub(crate) fn allocated(&self) -> io::Result<u64> {
        self.file.allocated()
    }

    /// Whether an `fdatasync` has ever failed.
    pub(crate) fn is_failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    /// Whether writes stay in memory.
    pub(crate) fn is_overlaid(&self) -> bool {
        self.overlay.is_some()
    }

    /// Whether nothing is written any more.
    pub(crate) fn is_frozen(&self) -> bool {
        self.frozen.load(Ordering::Acquire)
    }

    /// Refuses every further write.
    pub(crate) fn freeze(&self) {
        self.frozen.store(true, Ordering::Release);
    }

    /// Fills `out` from `offset`.
    pub(crate) fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        match &self.overlay {
            Some(overlay) => {
                overlay.lock().unwrap_or_else(PoisonError::into_inner).read(&*self.file, offset, out)
            }
            None => self.file.read_at(offset, out),
        }
    }

    /// Writes all of `data` at `offset`.
    pub(crate) fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.refuse_if_frozen()?;
        if let Some(overlay) = &self.overlay {
            return overlay.lock().unwrap_or_else(PoisonError::into_inner).write(&*self.file, offset, data);
        }
        self.refuse_if_full()?;
        self.file.write_at(offset, data)
    }

    /// Cuts or extends the file.
    pub(crate) fn set_length(&self, length: u64) -> io::Result<()> {
        self.refuse_if_frozen()?;
        if self.is_overlaid() { Ok(()) } else { self.file.set_length(length) }
    }

    /// Reserves blocks for a range.
    pub(crate) fn reserve(&self, offset: u64, bytes: u64) -> io::Result<()> {
        self.refuse_if_frozen()?;
        if self.is_overlaid() { Ok(()) } else { self.file.reserve(offset, bytes) }
    }

    /// `fdatasync`, while none has failed.
    pub(crate) fn sync_data(&self) -> io::Result<()> {
        self.refuse_if_frozen()?;
        let faults = self.faults.as_ref();
        if self.is_overlaid() || faults.is_some_and(|faults| faults.skip_fdatasync) {
            return Ok(());
        }
        let synced = faults.map_or(Ok(()), Faults::on_sync).and_then(|()| self.file.sync_data());
        if synced.is_err() {
            self.failed.store(true, Ordering::Release);
            self.freeze();
        }
        synced
    }

    /// A full disk that a test has ordered.
    pub(crate) fn refuse_if_full(&self) -> io::Result<()> {
        self.faults.as_ref().map_or(Ok(()), Faults::on_write)
    }

    fn refuse_if_frozen(&self) -> io::Result<()> {
        if self.is_frozen() {
            return Err(io::Error::other("the file is not written any more"));
        }
        Ok(())
    }
}

// === BackendFile ===

/// A file that is a redb database and nothing else.
#[derive(Debug)]
pub(crate) struct BackendFile {
    sync: SyncFile,
    step: u64,
    length: AtomicU64,
    /// Blocks are reserved up to this offset.
    reserved: AtomicU64,
}

impl BackendFile {
    /// Takes a file that is expected to grow to about `size` bytes.
    pub(crate) fn new(file: Box<dyn DiskFile>, size: u64) -> io::Result<Arc<Self>> {
        Self::with(SyncFile::new(file, None), size)
    }

    /// Takes a file that is not to be written.
    pub(crate) fn overlaid(file: Box<dyn DiskFile>) -> io::Result<Arc<Self>> {
        Self::with(SyncFile::overlaid(file), 0)
    }

    fn with(sync: SyncFile, size: u64) -> io::Result<Arc<Self>> {
        let length = sync.length()?;
        // A file that redb has doubled but not filled has a hole at its end: what is allocated tells how far it is.
        let allocated = sync.allocated()?;
        Ok(Arc::new(Self {
            sync,
            step: step_for(size),
            length: AtomicU64::new(length),
            reserved: AtomicU64::new(allocated),
        }))
    }

    /// Bytes that the file takes from the disk, reserved ones too.
    pub(crate) fn disk_bytes(&self) -> u64 {
        self.reserved.load(Ordering::Relaxed)
    }

    /// Bytes in it.
    pub(crate) fn length(&self) -> u64 {
        self.length.load(Ordering::Acquire)
    }

    /// Whether an `fdatasync` has ever failed.
    pub(crate) fn is_failed(&self) -> bool {
        self.sync.is_failed()
    }

    /// Refuses every further write.
    pub(crate) fn freeze(&self) {
        self.sync.freeze();
    }

    /// Reserves blocks up to an offset.
    pub(crate) fn reserve_upto(&self, end: u64) -> io::Result<()> {
        let reserved = self.reserved.load(Ordering::Relaxed);
        if end <= reserved || self.sync.is_overlaid() {
            return Ok(());
        }
        let target = end.div_ceil(self.step).saturating_mul(self.step);
        self.sync.reserve(reserved, target - reserved)?;
        self.reserved.store(target, Ordering::Relaxed);
        Ok(())
    }
}

/// What redb holds of a [`BackendFile`].
#[derive(Debug)]
pub(crate) struct Backend(pub(crate) Arc<BackendFile>);

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.length())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.sync.read_at(offset, out)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.0.sync.set_length(length)?;
        let before = self.0.length.swap(length, Ordering::AcqRel);
        if length < before {
            self.0.reserved.fetch_min(length, Ordering::Relaxed);
        }
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.reserve_upto(offset.saturating_add(data.len() as u64))?;
        self.0.sync.write_at(offset, data)
    }
}

// === Overlay ===

/// Blocks that differ from a file that is not to be written.
#[derive(Debug, Default)]
struct Overlay {
    blocks: BTreeMap<u64, Box<[u8; BLOCK]>>,
}

const BLOCK: usize = 4096;

impl Overlay {
    fn read(&self, file: &dyn DiskFile, offset: u64, out: &mut [u8]) -> io::Result<()> {
        for (block, within, part) in blocks_of(offset, out.len()) {
            let out = &mut out[part];
            match self.blocks.get(&block) {
                Some(content) => out.copy_from_slice(&content[within..within + out.len()]),
                None => read_or_zeros(file, block * BLOCK as u64 + within as u64, out)?,
            }
        }
        Ok(())
    }

    fn write(&mut self, file: &dyn DiskFile, offset: u64, data: &[u8]) -> io::Result<()> {
        for (block, within, part) in blocks_of(offset, data.len()) {
            let data = &data[part];
            let content = match self.blocks.entry(block) {
                std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
                std::collections::btree_map::Entry::Vacant(entry) => {
                    let mut content = Box::new([0; BLOCK]);
                    read_or_zeros(file, block * BLOCK as u64, &mut content[..])?;
                    entry.insert(content)
                }
            };
            content[within..within + data.len()].copy_from_slice(data);
        }
        Ok(())
    }
}

/// A range as parts of blocks: the block, where the part begins in it, and which part of the range it is.
fn blocks_of(offset: u64, length: usize) -> impl Iterator<Item = (u64, usize, std::ops::Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let left = length.checked_sub(done).filter(|left| *left > 0)?;
        let at = offset + done as u64;
        let within = (at % BLOCK as u64) as usize;
        let take = left.min(BLOCK - within);
        let part = done..done + take;
        done += take;
        Some((at / BLOCK as u64, within, part))
    })
}

/// Reads what the file has of a range; the rest is zeros, as after an extension.
fn read_or_zeros(file: &dyn DiskFile, offset: u64, out: &mut [u8]) -> io::Result<()> {
    let has = file.length()?.saturating_sub(offset).min(out.len() as u64) as usize;
    out[has..].fill(0);
    if has == 0 { Ok(()) } else { file.read_at(offset, &mut out[..has]) }
}
