//! [`DurableMap`]: a small map of bytes in a file of its own, for what a part of Weir must know after a crash.
//!
//! ```text
//! NAME         redb: table facts  "format" ▶ u64
//!                    table rows   key ▶ value               each value with a checksum before it (`checked.rs`)
//! NAME.lock    keeps other processes out
//! NAME.tmp     while the file is made
//! ```
//!
//! The whole of it is also in memory, so that reading never waits for the disk. A commit is one transaction. After one
//! that failed the file is given up, and the next commit writes everything into a new one: a file whose sync failed is
//! never synced again.
//!
//! Invariant: [`DurableMap::commit`] returns `Ok` for what is on the disk, all of it, and nothing else is read after a crash
//! but that, and what a commit without an answer was to write, all of it or nothing.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use tracing::{error, warn};

use crate::backend::{Backend, BackendFile};
use crate::checked::{seal, unseal};
use crate::disk::{Disk, FolderLock};
use crate::meta::set_aside;
use crate::queue::QueueError;
use crate::recovery::into_io;
use crate::segment::{Fault, fault, guarded};

const FACTS: TableDefinition<&str, &[u8]> = TableDefinition::new("facts");
const ROWS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("rows");

const FORMAT: u64 = 1;
/// redb's smallest file and some pages: reserved at once, so that rows that are changed have room on a full disk.
const SIZE: u64 = 2 << 20;
/// Everything is in memory anyway; redb needs the pages that a commit changes.
const CACHE_BYTES: usize = 256 << 10;

/// Bytes of a key: an identity, a log's name and a few numbers, with room to spare.
pub const MAP_KEY_BYTES_MAX: usize = 1 << 10;
/// Bytes of a value: a row is small; this bounds what one of them takes from memory and from the disk.
pub const MAP_VALUE_BYTES_MAX: usize = 1 << 20;
/// Rows of a map: some for each of ten thousand agents.
pub const MAP_ROWS_MAX: usize = 1 << 17;
/// Bytes of all keys and values of a map, for all of them are in memory.
pub const MAP_BYTES_MAX: usize = 64 << 20;

type Rows = BTreeMap<Vec<u8>, Vec<u8>>;
/// A key, and its new value: none removes the row.
type Change = (Vec<u8>, Option<Vec<u8>>);

/// What was found where a map was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Opened {
    /// Nothing: the map is empty.
    New,
    /// A sound file: everything is there.
    Kept,
    /// A file that cannot be used. It was renamed, and the map is empty. Says under which name it is kept, and why.
    SetAside(String),
}

/// A small durable map.
#[derive(Debug)]
pub struct DurableMap {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    rows: RwLock<Rows>,
    writer: Mutex<Writer>,
}

/// What only a commit touches.
struct Writer {
    /// None before the first commit, and after one that failed.
    open: Option<Open>,
    /// Bytes of all keys and values.
    bytes: usize,
    /// Kept for as long as the map is.
    _lock: FolderLock,
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writer").field("open", &self.open).finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct Open {
    db: Database,
    file: Arc<BackendFile>,
}

impl DurableMap {
    /// Opens the map at `path`, whose folder is made where it is not there. A damaged file is renamed, never deleted,
    /// and never an error. Blocks.
    ///
    /// # Errors
    /// [`QueueError::Locked`] where another process (or another map of this one) has it; [`QueueError::Io`].
    pub fn open(disk: Arc<dyn Disk>, path: &Path) -> Result<(Self, Opened), QueueError> {
        let failed = |act: &'static str| move |source| QueueError::Io { act, path: path.to_owned(), source };
        let (folder, name) = parts(path).map_err(failed("open"))?;
        disk.make_folder(folder).map_err(failed("make the folder of"))?;
        let lock = disk.lock(&path.with_file_name(format!("{name}.lock"))).map_err(failed("lock"))?;
        let lock = lock.ok_or_else(|| QueueError::Locked { folder: path.to_owned() })?;
        let (open, rows, opened) =
            find(disk.as_ref(), path).map_err(|fault| failed("read")(into_io(fault)))?;
        let bytes = rows.iter().map(|(key, value)| key.len() + value.len()).sum();
        let writer = Mutex::new(Writer { open, bytes, _lock: lock });
        Ok((Self { disk, path: path.to_owned(), rows: RwLock::new(rows), writer }, opened))
    }

    /// The value of a key.
    pub fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.rows().get(key).cloned()
    }

    /// The rows whose keys begin with `prefix`, in the order of their keys.
    pub fn scan(&self, prefix: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
        let rows = self.rows();
        let from = rows.range::<[u8], _>((std::ops::Bound::Included(prefix), std::ops::Bound::Unbounded));
        let those = from.take_while(|(key, _)| key.starts_with(prefix));
        those.map(|(key, value)| (key.clone(), value.clone())).collect()
    }

    /// How many rows it has.
    pub fn len(&self) -> usize {
        self.rows().len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.rows().is_empty()
    }

    /// Makes changes in one transaction, durable when it returns: for each key a new value, or none to remove it. Where a
    /// key comes twice the later change counts. Blocks for an `fdatasync`, also while another commit runs.
    ///
    /// # Errors
    /// [`QueueError::Bound`] where a key, a value or the whole would be too large; [`QueueError::Io`]. The map is then what it
    /// was before; after [`QueueError::Io`] a crash before the next commit that works may show either.
    pub fn commit(&self, changes: Vec<(Vec<u8>, Option<Vec<u8>>)>) -> Result<(), QueueError> {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = self.admit(&changes, writer.bytes)?;
        let written = match &writer.open {
            Some(open) => {
                let news = self.news(&changes);
                if news.is_empty() { Ok(()) } else { guarded(|| write(&open.db, &news)) }
            }
            None => {
                let mut rows = self.rows().clone();
                apply(&mut rows, changes.clone());
                let all: Vec<Change> = rows.into_iter().map(|(key, value)| (key, Some(value))).collect();
                self.make(&all).map(|open| writer.open = Some(open))
            }
        };
        if let Err(fault) = written {
            if let Some(open) = writer.open.take() {
                open.file.freeze();
                drop(open.db);
            }
            error!(file = %self.path.display(), error = %fault, "not written, the next change makes a new file");
            return Err(QueueError::Io { act: "write", path: self.path.clone(), source: into_io(fault) });
        }
        writer.bytes = bytes;
        apply(&mut self.rows.write().unwrap_or_else(PoisonError::into_inner), changes);
        Ok(())
    }

    /// Bytes of the map once the changes are made.
    fn admit(&self, changes: &[Change], mut bytes: usize) -> Result<usize, QueueError> {
        let refuse = |what: &'static str, size: usize, max: usize| QueueError::Bound {
            path: self.path.clone(),
            what,
            size,
            max,
        };
        let rows = self.rows();
        // A key may come more than once: what counts is the last before.
        let mut changed: BTreeMap<&[u8], Option<usize>> = BTreeMap::new();
        let mut count = rows.len();
        for (key, value) in changes {
            let size = value.as_ref().map(Vec::len);
            if key.len() > MAP_KEY_BYTES_MAX {
                return Err(refuse("bytes of a key", key.len(), MAP_KEY_BYTES_MAX));
            }
            if let Some(size) = size.filter(|size| *size > MAP_VALUE_BYTES_MAX) {
                return Err(refuse("bytes of a value", size, MAP_VALUE_BYTES_MAX));
            }
            let before = match changed.insert(key, size) {
                Some(before) => before,
                None => rows.get(key).map(Vec::len),
            };
            let taken = |size: Option<usize>| size.map_or(0, |size| size + key.len());
            bytes = bytes.saturating_sub(taken(before)).saturating_add(taken(size));
            count = count.saturating_sub(usize::from(before.is_some())) + usize::from(size.is_some());
        }
        if count > MAP_ROWS_MAX {
            return Err(refuse("rows", count, MAP_ROWS_MAX));
        }
        if bytes > MAP_BYTES_MAX {
            return Err(refuse("bytes of all rows", bytes, MAP_BYTES_MAX));
        }
        Ok(bytes)
    }

    /// The changes that change something, one for each key.
    fn news(&self, changes: &[Change]) -> Vec<Change> {
        let last: BTreeMap<&Vec<u8>, &Option<Vec<u8>>> =
            changes.iter().map(|(key, value)| (key, value)).collect();
        let rows = self.rows();
        let new = last.into_iter().filter(|(key, value)| rows.get(*key) != value.as_ref());
        new.map(|(key, value)| (key.clone(), value.clone())).collect()
    }

    /// Writes a new file and puts it in the old one's place.
    fn make(&self, rows: &[Change]) -> Result<Open, Fault> {
        let (folder, name) = parts(&self.path)?;
        let making = self.path.with_file_name(format!("{name}.tmp"));
        match self.disk.remove(&making) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
            Ok(()) | Err(_) => {}
        }
        let file = BackendFile::new(self.disk.open(&making, true)?, SIZE)?;
        file.reserve_upto(SIZE)?;
        let db = guarded(|| {
            let db = database(&file)?;
            write(&db, rows)?;
            Ok(db)
        })?;
        self.disk.rename(&making, &self.path)?;
        self.disk.sync_folder(folder)?;
        Ok(Open { db, file })
    }

    fn rows(&self) -> RwLockReadGuard<'_, Rows> {
        self.rows.read().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The folder and the name of a file.
fn parts(path: &Path) -> io::Result<(&Path, &str)> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let name = path.file_name().and_then(|name| name.to_str());
    folder.zip(name).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "not a file in a folder"))
}

/// Reads what is there.
fn find(disk: &dyn Disk, path: &Path) -> Result<(Option<Open>, Rows, Opened), Fault> {
    let file = match disk.open(path, false) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Ok((None, Rows::new(), Opened::New));
        }
        Err(error) => return Err(error.into()),
    };
    let mut loaded = load(BackendFile::new(file, SIZE)?).map(|(open, rows)| (Some(open), rows));
    if let Err(Fault::Io(error) | Fault::Full(error)) = &loaded {
        // A disk that does not let us repair may let us read; what is committed next is a new file.
        warn!(file = %path.display(), error = %error, "not repaired on disk, read as it is");
        let read = load(BackendFile::overlaid(disk.open(path, false)?)?);
        loaded = read.map(|(_, rows)| (None, rows));
    }
    match loaded {
        Ok((open, rows)) => Ok((open, rows, Opened::Kept)),
        Err(fault @ (Fault::Damaged(_) | Fault::Newer(_))) => {
            let (folder, name) = parts(path)?;
            let aside = set_aside(disk, folder, name)?;
            error!(file = %path.display(), aside, error = %fault, "file not usable, set aside");
            Ok((None, Rows::new(), Opened::SetAside(format!("{aside}: {fault}"))))
        }
        Err(other) => Err(other),
    }
}

fn load(file: Arc<BackendFile>) -> Result<(Open, Rows), Fault> {
    if file.length() == 0 {
        return Err(Fault::Damaged("the file is empty".to_owned()));
    }
    guarded(|| {
        let db = database(&file)?;
        let rows = read(&db)?;
        Ok((Open { db, file: Arc::clone(&file) }, rows))
    })
}

fn database(file: &Arc<BackendFile>) -> Result<Database, Fault> {
    redb::Builder::new()
        .set_cache_size(CACHE_BYTES)
        .create_with_backend(Backend(Arc::clone(file)))
        .map_err(fault)
}

fn read(db: &Database) -> Result<Rows, Fault> {
    let txn = db.begin_read().map_err(fault)?;
    let facts = txn.open_table(FACTS).map_err(fault)?;
    let format = facts.get("format").map_err(fault)?;
    let format = format.ok_or_else(|| Fault::Damaged("no format".to_owned()))?;
    match unseal(b"format", format.value())?.try_into().map(u64::from_le_bytes) {
        Ok(FORMAT) => {}
        Ok(newer) if newer > FORMAT => return Err(Fault::Newer(format!("format {newer}"))),
        Ok(_) | Err(_) => return Err(Fault::Damaged("no format".to_owned())),
    }
    let mut rows = Rows::new();
    let mut bytes = 0_usize;
    for entry in txn.open_table(ROWS).map_err(fault)?.iter().map_err(fault)? {
        let (key, value) = entry.map_err(fault)?;
        let content = unseal(key.value(), value.value())?;
        bytes = bytes.saturating_add(key.value().len()).saturating_add(content.len());
        if rows.len() == MAP_ROWS_MAX || bytes > MAP_BYTES_MAX {
            return Err(Fault::Damaged("it has more than was ever written".to_owned()));
        }
        rows.insert(key.value().to_vec(), content.to_vec());
    }
    Ok(rows)
}

/// Writes changes in one transaction, with one `fdatasync`.
fn write(db: &Database, changes: &[Change]) -> Result<(), Fault> {
    let txn = db.begin_write().map_err(fault)?;
    {
        let mut facts = txn.open_table(FACTS).map_err(fault)?;
        if facts.get("format").map_err(fault)?.is_none() {
            facts.insert("format", seal(b"format", &FORMAT.to_le_bytes()).as_slice()).map_err(fault)?;
        }
        let mut rows = txn.open_table(ROWS).map_err(fault)?;
        for (key, value) in changes {
            match value {
                Some(value) => rows.insert(key.as_slice(), seal(key, value).as_slice()).map_err(fault)?,
                None => rows.remove(key.as_slice()).map_err(fault)?,
            };
        }
    }
    txn.commit().map_err(fault)
}

fn apply(rows: &mut Rows, changes: Vec<Change>) {
    for (key, value) in changes {
        match value {
            Some(value) => rows.insert(key, value),
            None => rows.remove(&key),
        };
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::disk::{DiskFile, SystemDisk};

    fn put(key: &str, value: &str) -> Change {
        (key.as_bytes().to_vec(), Some(value.as_bytes().to_vec()))
    }

    fn remove(key: &str) -> Change {
        (key.as_bytes().to_vec(), None)
    }

    fn open(path: &Path) -> (DurableMap, Opened) {
        DurableMap::open(Arc::new(SystemDisk), path).unwrap()
    }

    fn texts(map: &DurableMap, prefix: &str) -> Vec<(String, String)> {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        map.scan(prefix.as_bytes()).into_iter().map(|(key, value)| (text(key), text(value))).collect()
    }

    /// Scenario: rows are put, changed, removed, and read by key and by prefix, before and after the map is opened again.
    /// Guarantees: what was committed is there, in the order of keys, and the file is its owner's alone.
    #[test]
    fn what_was_committed_is_there_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("link").join("collector.redb");
        let (map, opened) = open(&path);
        assert_eq!(opened, Opened::New);
        assert!(map.is_empty());
        map.commit(vec![put("a/2", "two"), put("a/1", "one"), put("b", "other"), put("a", "short")]).unwrap();
        map.commit(vec![put("a/2", "zwei"), remove("b"), remove("nothing")]).unwrap();
        map.commit(vec![put("a/3", "once"), remove("a/3"), put("a/4", "four"), put("a/4", "vier")]).unwrap();
        let expected = [("a/1", "one"), ("a/2", "zwei"), ("a/4", "vier")]
            .map(|(key, value)| (key.to_owned(), value.to_owned()));
        assert_eq!(texts(&map, "a/"), expected);
        drop(map);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let (map, opened) = open(&path);
        assert_eq!(opened, Opened::Kept);
        assert_eq!(texts(&map, "a/"), expected);
        assert_eq!((map.get(b"a"), map.get(b"b"), map.len()), (Some(b"short".to_vec()), None, 4));
    }

    /// Scenario: keys, values and the whole at their bounds and over them, in one commit and in several.
    /// Guarantees: what is over a bound is refused by name and leaves the map as it was; what is at it is taken.
    #[test]
    fn what_is_over_a_bound_is_refused_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("map.redb");
        let (map, _) = open(&path);
        let largest = (vec![7; MAP_KEY_BYTES_MAX], Some(vec![8; MAP_VALUE_BYTES_MAX]));
        map.commit(vec![largest.clone()]).unwrap();
        for (change, what) in [
            ((vec![7; MAP_KEY_BYTES_MAX + 1], None), "bytes of a key"),
            ((vec![1], Some(vec![8; MAP_VALUE_BYTES_MAX + 1])), "bytes of a value"),
        ] {
            let refused = map.commit(vec![put("x", "y"), change]).unwrap_err();
            assert!(matches!(&refused, QueueError::Bound { what: said, .. } if *said == what), "{refused}");
        }
        let many = (0..64_u8).map(|key| (vec![key], Some(vec![0; MAP_VALUE_BYTES_MAX]))).collect();
        assert!(map.commit(many).unwrap_err().to_string().contains("bytes of all rows"));
        let rows = (0..=MAP_ROWS_MAX as u32).map(|key| (key.to_le_bytes().to_vec(), Some(vec![])));
        assert!(map.commit(rows.collect()).unwrap_err().to_string().contains("rows"));
        assert_eq!(map.scan(b""), [(largest.0, largest.1.unwrap())]);
        // Putting the same rows again and again takes no room.
        for _ in 0..100 {
            map.commit(vec![(vec![1], Some(vec![0; MAP_VALUE_BYTES_MAX]))]).unwrap();
        }
        assert_eq!(map.len(), 2);
    }

    /// Scenario: a file that is cut, emptied, or flipped in each of its used pages, and a second map on one file.
    /// Guarantees: every one opens; what was not sound is set aside under its own name and said, and the map works.
    #[test]
    fn a_damaged_file_is_set_aside_and_never_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("map.redb");
        let (map, _) = open(&path);
        map.commit(vec![put("key", "value that is found in the file")]).unwrap();
        let second = DurableMap::open(Arc::new(SystemDisk), &path).unwrap_err();
        assert!(matches!(second, QueueError::Locked { .. }), "{second}");
        drop(map);
        let sound = std::fs::read(&path).unwrap();
        let at = sound.windows(5).position(|part| part == b"found").unwrap();
        let flipped = [&sound[..at], &[sound[at] ^ 1], &sound[at + 1..]].concat();
        for (number, bytes) in
            [&sound[..0], &sound[..100], &flipped[..], b"nothing of ours"].iter().enumerate()
        {
            std::fs::write(&path, bytes).unwrap();
            let (map, opened) = open(&path);
            assert!(matches!(&opened, Opened::SetAside(why) if why.contains("quarantine")), "{opened:?}");
            assert!(map.is_empty());
            map.commit(vec![put("key", "again")]).unwrap();
            drop(map);
            let aside = std::fs::read_dir(folder.path()).unwrap().filter(|entry| {
                entry.as_ref().unwrap().file_name().to_string_lossy().ends_with(".quarantine")
            });
            assert_eq!(aside.count(), number + 1);
        }
        let (map, opened) = open(&path);
        assert_eq!((opened, map.get(b"key")), (Opened::Kept, Some(b"again".to_vec())));
    }

    /// A disk whose n-th sync of a file fails, and which notes files that are synced after one has failed.
    #[derive(Debug, Default)]
    struct Failing {
        syncs: AtomicU64,
        fails: AtomicU64,
        after: Arc<AtomicU64>,
    }

    #[derive(Debug)]
    struct FailingFile {
        file: Box<dyn DiskFile>,
        disk: Arc<Failing>,
        failed: AtomicU64,
    }

    #[derive(Debug)]
    struct FailingDisk(Arc<Failing>);

    impl Disk for FailingDisk {
        fn make_folder(&self, folder: &Path) -> io::Result<()> {
            SystemDisk.make_folder(folder)
        }
        fn lock(&self, path: &Path) -> io::Result<Option<FolderLock>> {
            SystemDisk.lock(path)
        }
        fn list(&self, folder: &Path) -> io::Result<Vec<String>> {
            SystemDisk.list(folder)
        }
        fn open(&self, path: &Path, create: bool) -> io::Result<Box<dyn DiskFile>> {
            let (file, disk) = (SystemDisk.open(path, create)?, Arc::clone(&self.0));
            Ok(Box::new(FailingFile { file, disk, failed: AtomicU64::new(0) }))
        }
        fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
            SystemDisk.rename(from, to)
        }
        fn remove(&self, path: &Path) -> io::Result<()> {
            SystemDisk.remove(path)
        }
        fn sync_folder(&self, folder: &Path) -> io::Result<()> {
            SystemDisk.sync_folder(folder)
        }
    }

    impl DiskFile for FailingFile {
        fn length(&self) -> io::Result<u64> {
            self.file.length()
        }
        fn allocated(&self) -> io::Result<u64> {
            self.file.allocated()
        }
        fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
            self.file.read_at(offset, out)
        }
        fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
            self.file.write_at(offset, data)
        }
        fn set_length(&self, length: u64) -> io::Result<()> {
            self.file.set_length(length)
        }
        fn reserve(&self, offset: u64, bytes: u64) -> io::Result<()> {
            self.file.reserve(offset, bytes)
        }
        fn sync_data(&self) -> io::Result<()> {
            self.disk.after.fetch_add(self.failed.load(Ordering::SeqCst), Ordering::SeqCst);
            if self.disk.syncs.fetch_add(1, Ordering::SeqCst) + 1 == self.disk.fails.load(Ordering::SeqCst) {
                self.failed.store(1, Ordering::SeqCst);
                return Err(io::Error::other("the disk says no"));
            }
            Ok(())
        }
    }

    /// Scenario: each `fdatasync` in turn fails once, among commits that change, add and remove.
    /// Guarantees: that commit is an error and changes nothing that is read; the next one works, in a file that was never
    /// refused; the file that was is never synced again; what was committed is there after a start.
    #[test]
    fn a_file_whose_sync_failed_is_never_synced_again() {
        let mut failures = 0;
        for fails in 1..30 {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("map.redb");
            let disk = Arc::new(Failing { fails: AtomicU64::new(fails), ..Failing::default() });
            let (map, _) = DurableMap::open(Arc::new(FailingDisk(Arc::clone(&disk))), &path).unwrap();
            let mut expected = Rows::new();
            for number in 0..10_u8 {
                let changes = vec![
                    (vec![number], Some(vec![number])),
                    (vec![number / 2], None),
                    put("k", &number.to_string()),
                ];
                match map.commit(changes.clone()) {
                    Ok(()) => apply(&mut expected, changes),
                    Err(_) => failures += 1,
                }
                assert_eq!(*map.rows(), expected, "sync {fails}, commit {number}");
            }
            // What the last commit was to write may be there after it failed; after one that worked it is not.
            let end = vec![put("end", "")];
            while map.commit(end.clone()).is_err() {
                failures += 1;
            }
            apply(&mut expected, end);
            drop(map);
            assert_eq!(disk.after.load(Ordering::SeqCst), 0, "sync {fails}: synced after it had failed");
            let (map, opened) = open(&path);
            assert_eq!((opened, &*map.rows()), (Opened::Kept, &expected), "sync {fails}");
        }
        assert!(failures > 10, "only {failures} commits failed");
    }
}
