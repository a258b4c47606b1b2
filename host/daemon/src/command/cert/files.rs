//! Files of an authority: what is there stays, and what is made is there whole.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

/// The mode of what everybody may read: certificates and lists.
pub(super) const PUBLIC: u32 = 0o644;

/// The mode of a key.
pub(super) const SECRET: u32 = 0o600;

/// The mode of a folder that we make.
const FOLDER: u32 = 0o700;

/// Bytes of a file at most: no certificate is so large.
const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// A file that does not exist yet.
#[derive(Debug)]
pub(super) struct New {
    pub(super) path: PathBuf,
    pub(super) content: String,
    pub(super) mode: u32,
}

/// A whole file.
///
/// # Errors
/// With its path.
pub(super) fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    let doing = || format!("read {}", path.display());
    let length = fs::metadata(path).with_context(doing)?.len();
    if length > FILE_BYTES_MAX {
        bail!("{} has {length} bytes: expected a certificate, at most {FILE_BYTES_MAX}", path.display());
    }
    fs::read(path).with_context(doing)
}

/// A folder, for us alone where it is new.
///
/// # Errors
/// With its path.
pub(super) fn folder(path: &Path) -> anyhow::Result<()> {
    let made = DirBuilder::new().recursive(true).mode(FOLDER).create(path);
    made.with_context(|| format!("make the folder {}", path.display()))
}

/// Makes these files: all of them, or none where one is there already.
///
/// # Errors
/// With the path of the first that cannot be made, and `cure` where it is there already.
pub(super) fn create(files: &[New], cure: &str) -> anyhow::Result<()> {
    for (made, file) in files.iter().enumerate() {
        let Err(error) = create_one(file) else { continue };
        // What is ours of this attempt goes again; the one that failed is not ours.
        files[..made].iter().for_each(|file| drop(fs::remove_file(&file.path)));
        let is_there = error.kind() == ErrorKind::AlreadyExists;
        let path = file.path.display();
        return match is_there {
            true => Err(anyhow::anyhow!("{path} is there already and stays as it is: {cure}")),
            false => Err(error).with_context(|| format!("write {path}")),
        };
    }
    let mut folders: Vec<&Path> = files.iter().filter_map(|file| file.path.parent()).collect();
    folders.dedup();
    folders.into_iter().try_for_each(sync)
}

fn create_one(file: &New) -> std::io::Result<()> {
    let mut made = OpenOptions::new().write(true).create_new(true).mode(file.mode).open(&file.path)?;
    let written = made.write_all(file.content.as_bytes()).and_then(|()| made.sync_all());
    written.inspect_err(|_| drop(fs::remove_file(&file.path)))
}

/// Puts a new state of a file that is ours in its place, in one step.
///
/// # Errors
/// With its path; also where somebody else is about to do the same.
pub(super) fn exchange(path: &Path, content: String) -> anyhow::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let fresh = PathBuf::from(name);
    let cure = "somebody else is at work here; remove it where nobody is";
    create(&[New { path: fresh.clone(), content, mode: PUBLIC }], cure)?;
    fs::rename(&fresh, path)
        .with_context(|| format!("put {} in place of {}", fresh.display(), path.display()))?;
    path.parent().map_or(Ok(()), sync)
}

/// Whether others than its owner may read or write a file.
pub(super) fn is_open_to_others(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|found| found.permissions().mode() & 0o077 != 0)
}

/// So that a new name is there after a power cut, too.
fn sync(folder: &Path) -> anyhow::Result<()> {
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    File::open(folder)
        .and_then(|opened| opened.sync_all())
        .with_context(|| format!("sync the folder {}", folder.display()))
}
