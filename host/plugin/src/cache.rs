//! Compiled code, kept between starts.
//!
//! Native code runs with all rights of the process, so a file is loaded only if this host has written it: each is
//! authenticated with a key that never leaves the folder. A file that fails is compiled anew and reported.
//!
//! ```text
//! key              32 random bytes
//! <name>.cwasm     magic "WEIRCW01" · mac 32 · compiled code
//! name             sha256(digest of the component · compatibility hash of the engine · target), 32 hex digits
//! mac              HMAC-SHA256(key, name · compiled code)
//! ```
//!
//! Invariant: the bytes that are loaded are the bytes whose MAC was checked; the file is not looked at again.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::hash::{Hash, Hasher};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use sha2::{Digest as _, Sha256};
use tracing::{info, warn};
use wasmtime::Engine;
use wasmtime::component::Component;

use crate::load::Digest;

const MAGIC: &[u8; 8] = b"WEIRCW01";
const MAC_BYTES: usize = 32;
const HEAD_BYTES: usize = MAGIC.len() + MAC_BYTES;

/// Bytes of one file of compiled code. CPython compiles to 35 MB.
const FILE_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// Files of compiled code that are kept; the least recently written go first.
const FILES_MAX: usize = 64;

/// A folder of compiled code that only this user can reach.
pub(crate) struct Cache {
    folder: PathBuf,
    key: [u8; 32],
}

/// Whether compiled code can be kept in this folder by this user; it is made where it is missing.
///
/// # Errors
/// Why not.
pub fn prove(folder: &Path) -> io::Result<()> {
    Cache::open(folder).map(drop)
}

impl Cache {
    /// Opens the folder, makes it where it is missing, and shuts out everybody else.
    ///
    /// # Errors
    /// Where it cannot be made private or its key not be read; the host then goes on without a cache.
    pub(crate) fn open(folder: &Path) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        let found = fs::symlink_metadata(folder)?;
        let mine =
            File::open("/proc/self").and_then(|file| file.metadata()).map_or(found.uid(), |own| own.uid());
        if !found.is_dir() || found.uid() != mine {
            return Err(io::Error::other("it is not a folder of the user that runs this process"));
        }
        if found.mode() & 0o077 != 0 {
            fs::set_permissions(folder, fs::Permissions::from_mode(0o700))?;
        }
        Ok(Self { folder: folder.to_owned(), key: key(folder)? })
    }

    /// The component with this digest, if its compiled code is here and authentic.
    pub(crate) fn get(&self, engine: &Engine, digest: &Digest) -> Option<Component> {
        let name = name(engine, digest);
        let path = self.path(&name);
        let bytes = match read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                warn!(path = %path.display(), %error, "compiled plugin cannot be read, compiling it anew");
                return None;
            }
        };
        let Some(code) = self.authentic(&name, &bytes) else {
            warn!(path = %path.display(), "compiled plugin was altered, compiling it anew");
            return None;
        };
        match deserialize(engine, code) {
            Ok(component) => Some(component),
            Err(error) => {
                warn!(path = %path.display(), %error, "compiled plugin does not fit this engine, compiling it anew");
                None
            }
        }
    }

    /// Bytes of the compiled code of the component with this digest and when they were written, whether authentic or not.
    pub(crate) fn stamp(&self, engine: &Engine, digest: &Digest) -> Option<(u64, SystemTime)> {
        let found = fs::symlink_metadata(self.path(&name(engine, digest))).ok()?;
        Some((found.len(), found.modified().ok()?))
    }

    /// Keeps compiled code: written aside, then renamed, so that nobody ever reads half of it.
    pub(crate) fn put(&self, engine: &Engine, digest: &Digest, component: &Component) {
        let name = name(engine, digest);
        let path = self.path(&name);
        let kept = component
            .serialize()
            .map_err(|error| io::Error::other(error.to_string()))
            .and_then(|code| self.write(&name, &path, &code));
        match kept {
            Ok(()) => self.prune(),
            Err(error) => warn!(path = %path.display(), %error, "compiled plugin cannot be kept"),
        }
    }

    fn write(&self, name: &str, path: &Path, code: &[u8]) -> io::Result<()> {
        let aside =
            self.folder.join(format!("{name}.{:016x}.tmp", getrandom::u64().map_err(io::Error::other)?));
        let written = (|| {
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&aside)?;
            file.write_all(MAGIC)?;
            file.write_all(&mac(&self.key, name, code))?;
            file.write_all(code)?;
            // A power cut would otherwise leave a file that looks altered.
            file.sync_all()?;
            fs::rename(&aside, path)
        })();
        if written.is_err() {
            // Nothing is lost if this fails too: the next prune takes it.
            drop(fs::remove_file(&aside));
        }
        written
    }

    fn authentic<'a>(&self, name: &str, bytes: &'a [u8]) -> Option<&'a [u8]> {
        let (head, code) = bytes.split_at_checked(HEAD_BYTES)?;
        let (magic, written) = head.split_at(MAGIC.len());
        let expected = mac(&self.key, name, code);
        // All bytes are compared whatever the first ones say, so that time tells nothing about the key.
        let differing = expected.iter().zip(written).fold(0, |sum, (a, b)| sum | (a ^ b));
        (magic == MAGIC && differing == 0).then_some(code)
    }

    /// Removes what is left over from crashes, and the oldest files over [`FILES_MAX`].
    fn prune(&self) {
        let Ok(entries) = fs::read_dir(&self.folder) else {
            return;
        };
        let mut compiled = Vec::new();
        for entry in entries.flatten() {
            let path = entry.path();
            let Ok(written) = entry.metadata().and_then(|found| found.modified()) else {
                continue;
            };
            let old = written.elapsed().is_ok_and(|age| age.as_secs() > 3600);
            match path.extension().and_then(|extension| extension.to_str()) {
                Some("cwasm") => compiled.push((written, path)),
                Some("tmp") if old => drop(fs::remove_file(path)),
                Some(_) | None => (),
            }
        }
        compiled.sort();
        let surplus = compiled.len().saturating_sub(FILES_MAX);
        for (_, path) in compiled.into_iter().take(surplus) {
            info!(path = %path.display(), "removing the compiled plugin that was written longest ago");
            drop(fs::remove_file(path));
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.cwasm"))
    }
}

/// The folder's key, made at the first start. One that a power cut has left short is made anew: what it vouched for
/// is compiled again.
fn key(folder: &Path) -> io::Result<[u8; 32]> {
    let path = folder.join("key");
    match read_key(&path) {
        Ok(Some(key)) => Ok(key),
        Ok(None) => {
            fs::remove_file(&path)?;
            make_key(folder, &path)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => make_key(folder, &path),
        Err(error) => Err(error),
    }
}

/// A key as it lies there; none where it is not whole.
fn read_key(path: &Path) -> io::Result<Option<[u8; 32]>> {
    let mut file = OpenOptions::new().read(true).custom_flags(NO_FOLLOW).open(path)?;
    let metadata = file.metadata()?;
    if metadata.mode() & 0o077 != 0 {
        let why = "its key can be read by others: remove the folder, a new one will be made";
        return Err(io::Error::other(why));
    }
    let mut key = [0; 32];
    if metadata.len() != key.len() as u64 {
        return Ok(None);
    }
    file.read_exact(&mut key)?;
    Ok(Some(key))
}

/// Makes a key: whole under its name and on disk, or not there. Of processes that make one at the same time the first
/// wins, and the others take the winner's: code that one has vouched for must not look altered to the next.
fn make_key(folder: &Path, path: &Path) -> io::Result<[u8; 32]> {
    let mut key = [0; 32];
    getrandom::fill(&mut key).map_err(io::Error::other)?;
    let aside = folder.join(format!("key.{:016x}.tmp", getrandom::u64().map_err(io::Error::other)?));
    let made = (|| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&aside)?;
        file.write_all(&key)?;
        file.sync_all()?;
        fs::hard_link(&aside, path)
    })();
    // Under its second name it lives on; without one, the next prune takes what this leaves.
    drop(fs::remove_file(&aside));
    match made {
        Ok(()) => {
            File::open(folder)?.sync_all()?;
            Ok(key)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => read_key(path)?
            .ok_or_else(|| io::Error::other("its key is damaged: remove the folder, a new one will be made")),
        Err(error) => Err(error),
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let file = OpenOptions::new().read(true).custom_flags(NO_FOLLOW).open(path)?;
    let length = file.metadata()?.len();
    if length > FILE_BYTES_MAX {
        return Err(io::Error::other(format!("it has {length} bytes, at most {FILE_BYTES_MAX} are read")));
    }
    let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or_default());
    file.take(FILE_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// `O_NOFOLLOW`: a link is nothing that this host has written.
const NO_FOLLOW: i32 = rustix::fs::OFlags::NOFOLLOW.bits() as i32;

#[expect(
    unsafe_code,
    reason = "the one place where native code comes from a file: `code` has passed its MAC"
)]
fn deserialize(engine: &Engine, code: &[u8]) -> wasmtime::Result<Component> {
    // SAFETY: `code` was made by `Component::serialize` in a process that knew the key of a folder that only this user
    // can reach, and has not changed since: `authentic` has checked these very bytes in memory.
    unsafe { Component::deserialize(engine, code) }
}

/// What the code of one component for this engine on this machine is called.
fn name(engine: &Engine, digest: &Digest) -> String {
    let mut compatibility = Feed(Sha256::new());
    engine.precompile_compatibility_hash().hash(&mut compatibility);
    let mut all = Sha256::new();
    all.update(digest.bytes());
    all.update(compatibility.0.finalize());
    all.update(std::env::consts::ARCH);
    all.update(std::env::consts::OS);
    crate::load::hex(&all.finalize()[..16])
}

/// Hashes into SHA-256 what only knows how to be hashed.
struct Feed(Sha256);

impl Hasher for Feed {
    fn finish(&self) -> u64 {
        let digest = self.0.clone().finalize();
        u64::from_le_bytes(std::array::from_fn(|index| digest[index]))
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }
}

/// HMAC-SHA256 (RFC 2104) over the name and the code.
fn mac(key: &[u8; 32], name: &str, code: &[u8]) -> [u8; MAC_BYTES] {
    let pad =
        |byte: u8| -> [u8; 64] { std::array::from_fn(|index| key.get(index).copied().unwrap_or(0) ^ byte) };
    let inner = Sha256::new().chain_update(pad(0x36)).chain_update(name).chain_update(code).finalize();
    Sha256::new().chain_update(pad(0x5c)).chain_update(inner).finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: RFC 4231's test case 1 with its key padded by zeros, as HMAC itself does.
    /// Guarantees: the MAC is HMAC-SHA256 and not something of our own.
    #[test]
    fn the_mac_is_hmac_sha256() {
        let mut key = [0; 32];
        key[..20].fill(0x0b);
        let mac = crate::load::hex(&mac(&key, "Hi ", b"There"));
        assert_eq!(mac, "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7");
    }

    /// Scenario: a folder that others can read, then a key that others can read.
    /// Guarantees: the folder is shut, the key is not trusted.
    #[test]
    fn a_folder_is_private_or_not_used() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cache");
        Cache::open(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        let first = Cache::open(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
        assert_eq!(Cache::open(&path).unwrap().key, first.key);
        fs::set_permissions(path.join("key"), fs::Permissions::from_mode(0o644)).unwrap();
        assert!(Cache::open(&path).is_err());
    }

    /// Scenario: many processes at a first start make the key of one folder at once, many times; then a key that is cut short.
    /// Guarantees: all of them have the same key, nothing is left over; a short one is made anew.
    #[test]
    fn a_first_start_of_many_has_one_key() {
        for _ in 0..50 {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("cache");
            fs::create_dir(&path).unwrap();
            let open = || Cache::open(&path).unwrap().key;
            let keys: Vec<[u8; 32]> = std::thread::scope(|scope| {
                let threads: Vec<_> = (0..8).map(|_| scope.spawn(open)).collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).collect()
            });
            assert!(keys.iter().all(|key| *key == keys[0]));
            let left: Vec<_> = fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            assert_eq!(left, ["key"]);
            assert_eq!(fs::metadata(path.join("key")).unwrap().mode() & 0o777, 0o600);
        }
        let folder = tempfile::tempdir().unwrap();
        Cache::open(folder.path()).unwrap();
        let short = OpenOptions::new().write(true).open(folder.path().join("key")).unwrap();
        short.set_len(7).unwrap();
        let first = Cache::open(folder.path()).unwrap().key;
        assert_eq!(Cache::open(folder.path()).unwrap().key, first);
    }
}
