//! A disk that forgets: what was not synced may be gone after a crash, whole, in part, or not at all.
//!
//! Files are pages; every write since the last sync is remembered, and a crash keeps a random part of the sectors of
//! a random part of them. A write that made the file longer makes it longer again where any of it is kept, with zeros
//! for what is not. Names are made durable by the sync of their folder; a crash keeps a random number of the
//! first changes since. A fuse lets the crash come at any call.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use weir_queue::{Disk, DiskFile, FolderLock};

const PAGE: u64 = 4096;
const SECTOR: usize = 512;

type Pages = BTreeMap<u64, Arc<[u8; PAGE as usize]>>;

#[derive(Debug, Default, Clone)]
struct Content {
    pages: Pages,
    length: u64,
}

impl Content {
    fn write(&mut self, offset: u64, data: &[u8]) {
        let mut at = offset;
        let mut rest = data;
        while !rest.is_empty() {
            let within = (at % PAGE) as usize;
            let take = rest.len().min(PAGE as usize - within);
            let page = self.pages.entry(at / PAGE).or_insert_with(|| Arc::new([0; PAGE as usize]));
            Arc::make_mut(page)[within..within + take].copy_from_slice(&rest[..take]);
            at += take as u64;
            rest = &rest[take..];
        }
        self.length = self.length.max(at);
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        if offset + out.len() as u64 > self.length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let (mut at, mut done) = (offset, 0);
        while done < out.len() {
            let within = (at % PAGE) as usize;
            let take = (out.len() - done).min(PAGE as usize - within);
            match self.pages.get(&(at / PAGE)) {
                Some(page) => out[done..done + take].copy_from_slice(&page[within..within + take]),
                None => out[done..done + take].fill(0),
            }
            at += take as u64;
            done += take;
        }
        Ok(())
    }

    fn set_length(&mut self, length: u64) {
        self.length = length;
        self.pages.split_off(&length.div_ceil(PAGE));
        let within = (length % PAGE) as usize;
        if within > 0
            && let Some(page) = self.pages.get_mut(&(length / PAGE))
        {
            Arc::make_mut(page)[within..].fill(0);
        }
    }
}

#[derive(Debug, Clone)]
enum Change {
    /// Inside the file as it was.
    Write(u64, Vec<u8>),
    /// Over its end.
    Append(u64, Vec<u8>),
    Length(u64),
}

#[derive(Debug, Default)]
struct Inode {
    now: Content,
    synced: Content,
    pending: Vec<Change>,
}

/// What a crash takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Taking {
    /// Any part of what was not synced.
    Any,
    /// Some sectors of what was written over the end of a file, and nothing else.
    Ends,
}

impl Inode {
    fn crash(&mut self, rng: &mut fastrand::Rng, taking: Taking) {
        let mut content = self.synced.clone();
        for change in std::mem::take(&mut self.pending) {
            let fate = match (taking, &change) {
                (Taking::Any, _) => rng.u8(..4),
                (Taking::Ends, Change::Append(..)) => 1,
                (Taking::Ends, _) => 2,
            };
            match (change, fate) {
                (_, 0) => {}
                (Change::Length(length), _) => content.set_length(length),
                (Change::Write(offset, data), 1) => {
                    for (at, sector) in sectors(offset, &data) {
                        // A sector beyond the end that survived belongs to a file whose length did not.
                        if rng.bool() && at + sector.len() as u64 <= content.length {
                            content.write(at, sector);
                        }
                    }
                }
                (Change::Write(offset, data), _) => {
                    if offset + data.len() as u64 <= content.length {
                        content.write(offset, &data);
                    }
                }
                (Change::Append(offset, data), 1) => {
                    for (at, sector) in sectors(offset, &data) {
                        if rng.bool() {
                            content.write(at, sector);
                        }
                    }
                }
                (Change::Append(offset, data), _) => content.write(offset, &data),
            }
        }
        self.now = content.clone();
        self.synced = content;
    }
}

/// The parts of a write that a disk writes whole or not at all.
fn sectors(offset: u64, data: &[u8]) -> impl Iterator<Item = (u64, &[u8])> {
    let first = (SECTOR - (offset % SECTOR as u64) as usize).min(data.len());
    let (head, rest) = data.split_at(first);
    let rest = rest.chunks(SECTOR).enumerate();
    std::iter::once((offset, head))
        .chain(rest.map(move |(number, part)| (offset + (first + number * SECTOR) as u64, part)))
}

type Names = BTreeMap<PathBuf, Arc<Mutex<Inode>>>;

#[derive(Debug, Clone)]
enum Renaming {
    Made(PathBuf, Arc<Mutex<Inode>>),
    Moved(PathBuf, PathBuf),
    Gone(PathBuf),
}

impl Renaming {
    fn apply(&self, names: &mut Names) {
        match self {
            Self::Made(path, inode) => {
                names.insert(path.clone(), Arc::clone(inode));
            }
            Self::Moved(from, to) => {
                if let Some(inode) = names.remove(from) {
                    names.insert(to.clone(), inode);
                }
            }
            Self::Gone(path) => {
                names.remove(path);
            }
        }
    }

    fn folder(&self) -> Option<&Path> {
        match self {
            Self::Made(path, _) | Self::Moved(_, path) | Self::Gone(path) => path.parent(),
        }
    }
}

#[derive(Debug, Default)]
struct State {
    names: Names,
    synced: Names,
    pending: Vec<Renaming>,
    locks: BTreeSet<PathBuf>,
    /// Calls that change something until the crash; none means never.
    fuse: Option<u64>,
    crashed: bool,
    /// Bytes that files may have together.
    capacity: Option<u64>,
}

/// The disk; clones share it.
#[derive(Debug, Clone, Default)]
pub struct SimDisk(Arc<Mutex<State>>);

impl SimDisk {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// Lets the crash come after so many calls that change something.
    pub fn light_fuse(&self, calls: u64) {
        self.state().fuse = Some(calls);
    }

    /// Whether the fuse has burnt down.
    pub fn has_crashed(&self) -> bool {
        self.state().crashed
    }

    /// From now on everything fails, as it does for a process that is dead.
    pub fn kill(&self) {
        self.state().crashed = true;
    }

    /// Forgets a random part of what was not synced, and works again.
    pub fn crash(&self, rng: &mut fastrand::Rng) {
        self.crash_taking(rng, Taking::Any);
    }

    /// The same, but keeps all that was written inside of files as they were: of a segment the heads, not the bodies.
    pub fn crash_at_ends(&self, rng: &mut fastrand::Rng) {
        self.crash_taking(rng, Taking::Ends);
    }

    fn crash_taking(&self, rng: &mut fastrand::Rng, taking: Taking) {
        let mut state = self.state();
        let kept = rng.usize(..=state.pending.len());
        let pending = std::mem::take(&mut state.pending);
        let mut names = std::mem::take(&mut state.synced);
        for change in &pending[..kept] {
            change.apply(&mut names);
        }
        for inode in names.values() {
            inode.lock().unwrap().crash(rng, taking);
        }
        state.synced = names.clone();
        state.names = names;
        state.locks.clear();
        state.fuse = None;
        state.crashed = false;
    }

    /// Bounds what all files may have together.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.state().capacity = bytes;
    }

    /// Whether they may have no more.
    pub fn is_full(&self) -> bool {
        self.state().capacity.is_some()
    }

    /// Names of files below a folder.
    pub fn files(&self, folder: &Path) -> Vec<PathBuf> {
        self.state().names.keys().filter(|path| path.starts_with(folder)).cloned().collect()
    }

    /// Bytes of a file.
    pub fn length(&self, path: &Path) -> u64 {
        self.state().names[path].lock().unwrap().now.length
    }

    /// Changes a file behind everybody's back, durably.
    pub fn alter(&self, path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
        let inode = Arc::clone(&self.state().names[path]);
        let mut inode = inode.lock().unwrap();
        let mut bytes = vec![0; inode.now.length as usize];
        inode.now.read(0, &mut bytes).unwrap();
        change(&mut bytes);
        let mut content = Content::default();
        content.write(0, &bytes);
        inode.now = content.clone();
        inode.synced = content;
        inode.pending.clear();
    }

    /// Makes or replaces a file, durably.
    pub fn plant(&self, path: &Path, bytes: &[u8]) {
        let mut state = self.state();
        let mut content = Content::default();
        content.write(0, bytes);
        let inode = Inode { now: content.clone(), synced: content, pending: Vec::new() };
        let inode = Arc::new(Mutex::new(inode));
        state.names.insert(path.to_owned(), Arc::clone(&inode));
        state.synced.insert(path.to_owned(), inode);
    }

    /// Removes a file, durably.
    pub fn lose(&self, path: &Path) {
        let mut state = self.state();
        state.names.remove(path);
        state.synced.remove(path);
    }

    /// A copy that shares nothing.
    pub fn copy(&self) -> Self {
        let state = self.state();
        let copy = |names: &Names| -> Names {
            let copied = names.iter().map(|(path, inode)| {
                let inode = inode.lock().unwrap();
                let copy = Inode {
                    now: inode.now.clone(),
                    synced: inode.synced.clone(),
                    pending: inode.pending.clone(),
                };
                (path.clone(), Arc::new(Mutex::new(copy)))
            });
            copied.collect()
        };
        let names = copy(&state.names);
        Self(Arc::new(Mutex::new(State { synced: names.clone(), names, ..State::default() })))
    }

    fn burn(&self) -> io::Result<MutexGuard<'_, State>> {
        let mut state = self.state();
        if let Some(fuse) = &mut state.fuse {
            if *fuse == 0 {
                state.crashed = true;
            } else {
                *fuse -= 1;
            }
        }
        dead(state)
    }
}

fn dead(state: MutexGuard<'_, State>) -> io::Result<MutexGuard<'_, State>> {
    if state.crashed { Err(io::Error::other("the process is dead")) } else { Ok(state) }
}

impl Disk for SimDisk {
    fn make_folder(&self, _folder: &Path) -> io::Result<()> {
        Ok(())
    }

    fn lock(&self, path: &Path) -> io::Result<Option<FolderLock>> {
        let taken = !dead(self.state())?.locks.insert(path.to_owned());
        Ok((!taken).then(|| Box::new(SimLock(self.clone(), path.to_owned())) as FolderLock))
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<String>> {
        let state = dead(self.state())?;
        let names = state.names.keys().filter(|path| path.parent() == Some(folder));
        Ok(names.filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned())).collect())
    }

    fn open(&self, path: &Path, create: bool) -> io::Result<Box<dyn DiskFile>> {
        let mut state = dead(self.state())?;
        if let Some(inode) = state.names.get(path) {
            return Ok(Box::new(SimFile { disk: self.clone(), inode: Arc::clone(inode) }));
        }
        if !create {
            return Err(io::ErrorKind::NotFound.into());
        }
        drop(state);
        state = self.burn()?;
        let inode = Arc::new(Mutex::new(Inode::default()));
        state.names.insert(path.to_owned(), Arc::clone(&inode));
        state.pending.push(Renaming::Made(path.to_owned(), Arc::clone(&inode)));
        drop(state);
        Ok(Box::new(SimFile { disk: self.clone(), inode }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.burn()?;
        let inode = state.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        state.names.insert(to.to_owned(), inode);
        state.pending.push(Renaming::Moved(from.to_owned(), to.to_owned()));
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.burn()?;
        state.names.remove(path).ok_or(io::ErrorKind::NotFound)?;
        state.pending.push(Renaming::Gone(path.to_owned()));
        Ok(())
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        let mut state = self.burn()?;
        let pending = std::mem::take(&mut state.pending);
        let (here, elsewhere): (Vec<_>, Vec<_>) =
            pending.into_iter().partition(|change| change.folder() == Some(folder));
        let mut synced = std::mem::take(&mut state.synced);
        for change in &here {
            change.apply(&mut synced);
        }
        state.synced = synced;
        state.pending = elsewhere;
        Ok(())
    }
}

#[derive(Debug)]
struct SimLock(SimDisk, PathBuf);

impl Drop for SimLock {
    fn drop(&mut self) {
        self.0.state().locks.remove(&self.1);
    }
}

#[derive(Debug)]
struct SimFile {
    disk: SimDisk,
    inode: Arc<Mutex<Inode>>,
}

impl SimFile {
    fn inode(&self) -> MutexGuard<'_, Inode> {
        self.inode.lock().unwrap()
    }

    fn room(&self, state: &State, offset: u64, bytes: u64) -> io::Result<()> {
        let Some(capacity) = state.capacity else { return Ok(()) };
        let pages = offset / PAGE..(offset + bytes).div_ceil(PAGE);
        let missing = {
            let inode = self.inode();
            pages.filter(|page| !inode.now.pages.contains_key(page)).count() as u64 * PAGE
        };
        let all: u64 =
            state.names.values().map(|inode| inode.lock().unwrap().now.pages.len() as u64 * PAGE).sum();
        if missing > 0 && all + missing > capacity {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }
}

impl DiskFile for SimFile {
    fn length(&self) -> io::Result<u64> {
        drop(dead(self.disk.state())?);
        Ok(self.inode().now.length)
    }

    fn allocated(&self) -> io::Result<u64> {
        drop(dead(self.disk.state())?);
        Ok(self.inode().now.pages.len() as u64 * PAGE)
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        drop(dead(self.disk.state())?);
        self.inode().now.read(offset, out)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.room(&*self.disk.burn()?, offset, data.len() as u64)?;
        let mut inode = self.inode();
        let change =
            if offset + data.len() as u64 > inode.now.length { Change::Append } else { Change::Write };
        inode.now.write(offset, data);
        inode.pending.push(change(offset, data.to_vec()));
        Ok(())
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        drop(self.disk.burn()?);
        let mut inode = self.inode();
        inode.now.set_length(length);
        inode.pending.push(Change::Length(length));
        Ok(())
    }

    fn reserve(&self, offset: u64, bytes: u64) -> io::Result<()> {
        self.room(&*self.disk.burn()?, offset, bytes)
    }

    fn sync_data(&self) -> io::Result<()> {
        drop(self.disk.burn()?);
        let mut inode = self.inode();
        inode.pending.clear();
        inode.synced = inode.now.clone();
        Ok(())
    }
}
