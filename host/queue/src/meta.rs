//! `meta.redb`: how far every exporter is, and what need not be read again at a start.
//!
//! ```text
//! table facts     "format" ▶ u64 · "log" ▶ incarnation u128 · "next", "newest", "acked" ▶ u64 · "clean", "orphaned" ▶ 0 or 1
//! table cursors   exporter ▶ JSON of floors, places ahead, time since it was removed
//! table segments  first place ▶ JSON of what it has in each lane
//! ```
//!
//! Every value has a checksum before it (`checked.rs`): a flipped bit must not move a floor.
//!
//! It is written behind (1 s or 2,048 settlements), so a crash repeats deliveries, and nothing worse: what is not here
//! is read from the segments, and an exporter that is not here begins at the oldest record.
//!
//! Invariant: losing this file loses no record.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

use crate::backend::{Backend, BackendFile};
use crate::book::{SavedCursor, Summary};
use crate::checked::{seal, unseal};
use crate::disk::Disk;
use crate::segment::{Fault, fault, guarded};

const FACTS: TableDefinition<&str, &[u8]> = TableDefinition::new("facts");
const CURSORS: TableDefinition<&str, &[u8]> = TableDefinition::new("cursors");
const SEGMENTS: TableDefinition<u64, &[u8]> = TableDefinition::new("segments");

const FORMAT: u32 = 1;
const FILE: &str = "meta.redb";
/// redb's smallest file and some pages: reserved at once, so that settlements have room on a full disk.
const SIZE: u64 = 2 << 20;
const CACHE_BYTES: usize = 256 << 10;

/// Everything that is kept beside the records.
#[derive(Debug, Clone, Default)]
pub(crate) struct Kept {
    pub(crate) incarnation: u128,
    /// The place of the next record.
    pub(crate) next: u64,
    /// The first place of the newest segment.
    pub(crate) newest: u64,
    /// Records below had a receipt when this was written.
    pub(crate) acked: u64,
    /// Whether the queue was closed.
    pub(crate) clean: bool,
    /// Cursors were lost, and not every exporter has been heard of since.
    pub(crate) orphaned: bool,
    pub(crate) cursors: BTreeMap<String, SavedCursor>,
    pub(crate) segments: BTreeMap<u64, Summary>,
}

/// What a start found.
pub(crate) enum Found {
    /// No file: a new queue, or a lost file.
    Nothing,
    /// A file that cannot be used; it was set aside.
    Damaged(String),
    /// All of it.
    Kept(Kept),
}

/// The open file.
#[derive(Debug)]
pub(crate) struct Meta {
    disk: Arc<dyn Disk>,
    folder: PathBuf,
    /// None after a failure: the next save writes a new file and puts it in this one's place.
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    db: Database,
    file: Arc<BackendFile>,
    /// The last place in each summary that is in the file.
    summaries: BTreeMap<u64, u64>,
}

impl Meta {
    /// Reads what is there. A damaged file is renamed, never deleted.
    pub(crate) fn open(disk: &Arc<dyn Disk>, folder: &Path) -> Result<(Self, Found), Fault> {
        let meta = |open| Self { disk: Arc::clone(disk), folder: folder.to_owned(), open };
        let path = folder.join(FILE);
        let file = match disk.open(&path, false) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((meta(None), Found::Nothing)),
            Err(error) => return Err(error.into()),
        };
        let loaded = Self::load(BackendFile::new(file, SIZE)?);
        if matches!(&loaded, Err(Fault::Io(_) | Fault::Full(_))) {
            // A disk that does not let us repair may let us read; what is saved next is a new file.
            let (_, kept) = Self::load(BackendFile::overlaid(disk.open(&path, false)?)?)?;
            return Ok((meta(None), Found::Kept(kept)));
        }
        match loaded {
            Ok((open, kept)) => Ok((meta(Some(open)), Found::Kept(kept))),
            Err(fault @ (Fault::Damaged(_) | Fault::Newer(_))) => {
                set_aside(disk.as_ref(), folder, FILE)?;
                Ok((meta(None), Found::Damaged(fault.to_string())))
            }
            Err(other) => Err(other),
        }
    }

    fn load(file: Arc<BackendFile>) -> Result<(Open, Kept), Fault> {
        if file.length() == 0 {
            return Err(Fault::Damaged("the file is empty".to_owned()));
        }
        guarded(|| {
            let db = redb::Builder::new()
                .set_cache_size(CACHE_BYTES)
                .create_with_backend(Backend(Arc::clone(&file)))
                .map_err(fault)?;
            let kept = read(&db)?;
            let summaries = kept.segments.iter().map(|(first, summary)| (*first, summary.last)).collect();
            Ok((Open { db, file: Arc::clone(&file), summaries }, kept))
        })
    }

    /// Writes everything of `kept`, durably.
    ///
    /// After an error the file is given up, and the next call makes a new one: a file whose sync failed is never
    /// synced again.
    pub(crate) fn save(&mut self, kept: &Kept) -> Result<(), Fault> {
        let saved = match &mut self.open {
            Some(open) => guarded(|| write(open, kept)),
            None => self.make(kept),
        };
        if saved.is_err()
            && let Some(open) = self.open.take()
        {
            open.file.freeze();
            drop(open.db);
        }
        saved
    }

    fn make(&mut self, kept: &Kept) -> Result<(), Fault> {
        let (path, making) = (self.folder.join(FILE), self.folder.join("meta.tmp"));
        match self.disk.remove(&making) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
            Ok(()) | Err(_) => {}
        }
        let file = BackendFile::new(self.disk.open(&making, true)?, SIZE)?;
        file.reserve_upto(SIZE)?;
        let db = guarded(|| {
            redb::Builder::new()
                .set_cache_size(CACHE_BYTES)
                .create_with_backend(Backend(Arc::clone(&file)))
                .map_err(fault)
        })?;
        let mut open = Open { db, file, summaries: BTreeMap::new() };
        guarded(|| write(&mut open, kept))?;
        self.disk.rename(&making, &path)?;
        self.disk.sync_folder(&self.folder)?;
        self.open = Some(open);
        Ok(())
    }

    /// Bytes that it takes from the disk.
    pub(crate) fn disk_bytes(&self) -> u64 {
        self.open.as_ref().map_or(0, |open| open.file.disk_bytes())
    }

    /// Closes it cleanly.
    pub(crate) fn close(mut self) -> Result<(), Fault> {
        match self.open.take() {
            Some(open) => guarded(|| open.db.close().map_err(fault)),
            None => Ok(()),
        }
    }
}

fn read(db: &Database) -> Result<Kept, Fault> {
    let txn = db.begin_read().map_err(fault)?;
    let facts = txn.open_table(FACTS).map_err(fault)?;
    let number = |name: &str| -> Result<Option<u64>, Fault> {
        let Some(value) = facts.get(name).map_err(fault)? else { return Ok(None) };
        Ok(unseal(name.as_bytes(), value.value())?.try_into().ok().map(u64::from_le_bytes))
    };
    match number("format")? {
        Some(format) if format == u64::from(FORMAT) => {}
        Some(format) if format > u64::from(FORMAT) => {
            return Err(Fault::Newer(format!("cursor format {format}")));
        }
        Some(_) | None => return Err(Fault::Damaged("no cursor format".to_owned())),
    }
    let missing = |what: &str| Fault::Damaged(format!("{what} is missing"));
    let log = facts.get("log").map_err(fault)?.ok_or_else(|| missing("the incarnation"))?;
    let log = unseal(b"log", log.value())?.try_into().map_err(|_| missing("the incarnation"))?;
    let mut kept = Kept {
        incarnation: u128::from_le_bytes(log),
        next: number("next")?.ok_or_else(|| missing("the next place"))?,
        newest: number("newest")?.unwrap_or(0),
        acked: number("acked")?.unwrap_or(0),
        clean: number("clean")? == Some(1),
        orphaned: number("orphaned")? == Some(1),
        ..Kept::default()
    };
    for entry in txn.open_table(CURSORS).map_err(fault)?.iter().map_err(fault)? {
        let (name, value) = entry.map_err(fault)?;
        let value = unseal(name.value().as_bytes(), value.value())?;
        let saved = serde_json::from_slice(value)
            .map_err(|error| Fault::Damaged(format!("the cursor of {}: {error}", name.value())))?;
        kept.cursors.insert(name.value().to_owned(), saved);
    }
    for entry in txn.open_table(SEGMENTS).map_err(fault)?.iter().map_err(fault)? {
        let (first, value) = entry.map_err(fault)?;
        // A summary that cannot be read is made again from the segment.
        let content = unseal(&first.value().to_le_bytes(), value.value());
        if let Some(summary) = content.ok().and_then(|content| serde_json::from_slice(content).ok()) {
            kept.segments.insert(first.value(), summary);
        }
    }
    Ok(kept)
}

fn write(open: &mut Open, kept: &Kept) -> Result<(), Fault> {
    let json = |error: serde_json::Error| Fault::Damaged(error.to_string());
    let txn = open.db.begin_write().map_err(fault)?;
    {
        let mut facts = txn.open_table(FACTS).map_err(fault)?;
        let numbers = [
            ("format", u64::from(FORMAT)),
            ("next", kept.next),
            ("newest", kept.newest),
            ("acked", kept.acked),
            ("clean", u64::from(kept.clean)),
            ("orphaned", u64::from(kept.orphaned)),
        ];
        for (name, value) in numbers {
            facts.insert(name, seal(name.as_bytes(), &value.to_le_bytes()).as_slice()).map_err(fault)?;
        }
        facts.insert("log", seal(b"log", &kept.incarnation.to_le_bytes()).as_slice()).map_err(fault)?;
        let mut cursors = txn.open_table(CURSORS).map_err(fault)?;
        cursors.retain(|name, _| kept.cursors.contains_key(name)).map_err(fault)?;
        for (name, saved) in &kept.cursors {
            let value = seal(name.as_bytes(), &serde_json::to_vec(saved).map_err(json)?);
            let same = cursors.get(name.as_str()).map_err(fault)?.is_some_and(|old| old.value() == value);
            if !same {
                cursors.insert(name.as_str(), value.as_slice()).map_err(fault)?;
            }
        }
        let mut segments = txn.open_table(SEGMENTS).map_err(fault)?;
        segments.retain(|first, _| kept.segments.contains_key(&first)).map_err(fault)?;
        for (first, summary) in &kept.segments {
            if open.summaries.get(first) != Some(&summary.last) {
                let value = seal(&first.to_le_bytes(), &serde_json::to_vec(summary).map_err(json)?);
                segments.insert(first, value.as_slice()).map_err(fault)?;
            }
        }
    }
    txn.commit().map_err(fault)?;
    open.summaries = kept.segments.iter().map(|(first, summary)| (*first, summary.last)).collect();
    Ok(())
}

/// Renames a file that cannot be used to `NAME.quarantine` (with a number where that is taken).
pub(crate) fn set_aside(disk: &dyn Disk, folder: &Path, name: &str) -> io::Result<String> {
    let taken = disk.list(folder)?;
    let aside = std::iter::once(format!("{name}{QUARANTINE}"))
        .chain((1_u32..).map(|number| format!("{name}.{number}{QUARANTINE}")))
        .find(|aside| !taken.contains(aside))
        .expect("a folder has fewer files than there are numbers");
    disk.rename(&folder.join(name), &folder.join(&aside))?;
    disk.sync_folder(folder)?;
    Ok(aside)
}

/// What the names of files that were set aside end with.
pub(crate) const QUARANTINE: &str = ".quarantine";
