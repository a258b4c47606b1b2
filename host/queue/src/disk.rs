//! The thin trait over files that tests replace, and the disk of the operating system.
//!
//! Invariant: nothing here decides anything; folders are 0700, files 0600, no symlink is followed, every descriptor
//! is closed on exec.

use std::any::Any;
use std::fmt::Debug;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{FallocateFlags, OFlags};
use rustix::io::Errno;

/// Proof that nobody else has the folder, while it lives.
pub type FolderLock = Box<dyn Any + Send + Sync>;

/// Where the queue's files are. Every call is made on a thread that may block.
pub trait Disk: Debug + Send + Sync {
    /// Makes a folder with its parents, durably; it may exist.
    ///
    /// # Errors
    /// The operating system's.
    fn make_folder(&self, folder: &Path) -> io::Result<()>;

    /// Locks a file (made if it is not there) against other processes; none where another has it.
    ///
    /// # Errors
    /// The operating system's.
    fn lock(&self, path: &Path) -> io::Result<Option<FolderLock>>;

    /// Names of the files in a folder, in no order.
    ///
    /// # Errors
    /// The operating system's.
    fn list(&self, folder: &Path) -> io::Result<Vec<String>>;

    /// Opens a file for reading and writing.
    ///
    /// # Errors
    /// `NotFound` where it is not there and `create` is false; else the operating system's.
    fn open(&self, path: &Path, create: bool) -> io::Result<Box<dyn DiskFile>>;

    /// Renames a file over another; durable after [`Disk::sync_folder`].
    ///
    /// # Errors
    /// The operating system's.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file; durable after [`Disk::sync_folder`].
    ///
    /// # Errors
    /// The operating system's.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Makes creations, renames and removals in a folder durable.
    ///
    /// # Errors
    /// The operating system's.
    fn sync_folder(&self, folder: &Path) -> io::Result<()>;
}

/// An open file.
pub trait DiskFile: Debug + Send + Sync {
    /// Bytes in it.
    ///
    /// # Errors
    /// The operating system's.
    fn length(&self) -> io::Result<u64>;

    /// Bytes on disk that belong to it, reserved ones too.
    ///
    /// # Errors
    /// The operating system's.
    fn allocated(&self) -> io::Result<u64>;

    /// Fills `out` from `offset`.
    ///
    /// # Errors
    /// `UnexpectedEof` where the file ends before; else the operating system's.
    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()>;

    /// Writes all of `data` at `offset`.
    ///
    /// # Errors
    /// The operating system's; a part may have been written.
    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()>;

    /// Cuts or extends with zeros.
    ///
    /// # Errors
    /// The operating system's.
    fn set_length(&self, length: u64) -> io::Result<()>;

    /// Reserves blocks for a range without changing the length.
    ///
    /// # Errors
    /// `StorageFull`; a file system that cannot reserve is no error.
    fn reserve(&self, offset: u64, bytes: u64) -> io::Result<()>;

    /// `fdatasync`.
    ///
    /// # Errors
    /// The operating system's; after that the content of the file is not known any more.
    fn sync_data(&self) -> io::Result<()>;
}

/// The operating system's disk.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemDisk;

impl Disk for SystemDisk {
    fn make_folder(&self, folder: &Path) -> io::Result<()> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        match folder.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            Some(parent) => self.sync_folder(parent),
            None => Ok(()),
        }
    }

    fn lock(&self, path: &Path) -> io::Result<Option<FolderLock>> {
        let file = options().create(true).open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Box::new(file))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                names.push(entry.file_name().to_string_lossy().into_owned());
            }
        }
        Ok(names)
    }

    fn open(&self, path: &Path, create: bool) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(SystemFile(options().create(create).open(path)?)))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        File::open(folder)?.sync_all()
    }
}

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    // The standard library adds O_CLOEXEC.
    options.read(true).write(true).truncate(false).mode(0o600).custom_flags(OFlags::NOFOLLOW.bits() as i32);
    options
}

#[derive(Debug)]
struct SystemFile(File);

impl DiskFile for SystemFile {
    fn length(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn allocated(&self) -> io::Result<u64> {
        // POSIX counts in units of 512 bytes whatever the file system's blocks are.
        Ok(self.0.metadata()?.blocks().saturating_mul(512))
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(out, offset)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write_all_at(data, offset)
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        self.0.set_len(length)
    }

    fn reserve(&self, offset: u64, bytes: u64) -> io::Result<()> {
        match rustix::fs::fallocate(&self.0, FallocateFlags::KEEP_SIZE, offset, bytes) {
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    #[expect(clippy::disallowed_methods, reason = "this is the one place")]
    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }
}
