//! Finds a plugin, looks at it, compiles it, asks it what it is.

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use serde::Serialize;
use sha2::{Digest as _, Sha256};
use tracing::{info, warn};
use wasmtime::component::Component;

use crate::describe::{Descriptor, DescriptorError, Marks};
use crate::end::End;
use crate::host::Shared;
use crate::instance::Blueprint;
use crate::scan::{CONTRACT_VERSION, Scan};
use crate::schema::Schema;
use crate::watch::{Fingerprint, Look};

/// Bytes of a component. CPython's is 18.5 MB; compiling more than this is an attack on the processor.
pub const COMPONENT_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Bytes of a plugin's name.
const NAME_BYTES_MAX: usize = 64;

/// Files in the plugin folder that are looked at.
const FILES_MAX: usize = 1_000;

/// The SHA-256 of a component.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    pub(crate) fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A plugin that is part of the program.
#[derive(Debug, Clone, Copy)]
pub struct Bundled {
    /// Its name, without `.wasm`.
    pub name: &'static str,
    /// The component.
    pub wasm: &'static [u8],
}

/// Where a plugin was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// A file.
    File(PathBuf),
    /// Part of the program.
    Bundled,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Bundled => f.write_str("bundled"),
        }
    }
}

/// A plugin that was found, not looked at yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its name, without `.wasm`.
    pub name: String,
    /// Where it is.
    pub source: Source,
    /// Whether a file of the plugin folder stands in front of a bundled plugin of the same name.
    pub shadows: bool,
}

/// A plugin could not be loaded.
#[derive(Debug, thiserror::Error)]
#[error("load plugin {plugin} ({place})")]
pub struct LoadError {
    /// Its name or path, as it was asked for.
    pub plugin: String,
    /// Where it was found.
    pub place: String,
    /// What is wrong with it.
    #[source]
    pub flaw: Flaw,
}

/// What is wrong with a plugin.
#[derive(Debug, thiserror::Error)]
pub enum Flaw {
    /// There is no such plugin.
    #[error("there is no such file, and bundled are only: {bundled}")]
    NotFound {
        /// The bundled ones.
        bundled: String,
    },
    /// The name is not one.
    #[error(
        "expected a name of at most {NAME_BYTES_MAX} letters, digits, '-', '_' and '.', not beginning with '.'"
    )]
    Name,
    /// The file cannot be read.
    #[error("read the file")]
    Read(#[source] io::Error),
    /// Somebody wrote to it while it was read.
    #[error("it changed while it was read: copy it under another name, then rename it")]
    Changing,
    /// It is over [`COMPONENT_BYTES_MAX`].
    #[error("it has {0} bytes, at most {COMPONENT_BYTES_MAX} are loaded")]
    TooLarge(u64),
    /// It is not the one that the operator pinned.
    #[error("its sha256 is {found}, the configuration pins {pinned}")]
    Pin {
        /// In the configuration.
        pinned: String,
        /// Of the file.
        found: Digest,
    },
    /// Its bytes are not a component.
    #[error("not a WebAssembly component: {message}")]
    NotAComponent {
        /// What the parser says.
        message: String,
    },
    /// A few bytes of it become so much that the engine would need too much memory or time.
    #[error(
        "it grows too large: {what}; no compiler that we know makes such a component, so ask its author for another build"
    )]
    Grows {
        /// What was found, and its limit.
        what: String,
    },
    /// It exports nothing of ours.
    #[error("not a plugin: expected the export weir:plugin/plugin@{CONTRACT_VERSION}.x, found {found}")]
    NotAPlugin {
        /// What it exports instead.
        found: String,
    },
    /// It speaks another version of the contract.
    #[error(
        "it was built for {name}, this host serves weir:plugin {CONTRACT_VERSION}.x: rebuild it, or get the version for this host"
    )]
    Version {
        /// The interface with its version.
        name: String,
        /// The version.
        found: String,
    },
    /// It wants something that no plugin gets.
    #[error("it imports what no plugin gets: {names}")]
    Imports {
        /// The interfaces.
        names: String,
    },
    /// The compiler or the linker refuse it.
    #[error("{0}")]
    Engine(String),
    /// It says something impossible about itself.
    #[error(transparent)]
    Descriptor(#[from] DescriptorError),
    /// It ended while it was asked.
    #[error(transparent)]
    Ended(#[from] End),
}

impl Flaw {
    /// Whether the same bytes may be good later: what is wrong lies with this machine at this moment.
    pub(crate) fn passes(&self) -> bool {
        match self {
            Self::Read(_) | Self::Changing => true,
            // What the engine says of the bytes cannot be told from what it says of the machine: no memory, no thread.
            Self::Engine(_) => true,
            Self::Ended(end) => end.passes(),
            Self::NotFound { .. }
            | Self::Name
            | Self::TooLarge(_)
            | Self::Pin { .. }
            | Self::NotAComponent { .. }
            | Self::Grows { .. }
            | Self::NotAPlugin { .. }
            | Self::Version { .. }
            | Self::Imports { .. }
            | Self::Descriptor(_) => false,
        }
    }
}

/// A plugin that is compiled and has said what it is. Ids are made of it by [`Loaded::exporter`], [`Loaded::page`],
/// [`Loaded::receiver`] and [`Loaded::scraper`].
pub struct Loaded {
    pub(crate) shared: Arc<Shared>,
    pub(crate) blueprint: Arc<Blueprint>,
    pub(crate) schema: Schema,
    /// Its file name without `.wasm`.
    pub name: String,
    /// Where it was found.
    pub source: Source,
    /// Whether it stands in front of a bundled plugin.
    pub shadows: bool,
    /// What lay there when it was read.
    pub(crate) look: Look,
    /// The digest that the configuration pins.
    pub(crate) pinned: Option<String>,
    /// SHA-256 of the component.
    pub digest: Digest,
    /// Bytes of the component.
    pub bytes: u64,
    /// What it says about itself.
    pub descriptor: Descriptor,
    /// What is marked in its schema.
    pub marks: Marks,
    /// What is written on its outside.
    pub scan: Scan,
}

impl Loaded {
    /// Whether there is still under its name what it was made of. Looks at the file.
    pub fn is_current(&self) -> bool {
        let folder = self.shared.plugin_dir.as_deref();
        folder.map_or(Look::Nothing, |folder| Look::at(&file_of(folder, &self.name))) == self.look
    }
}

impl fmt::Debug for Loaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Loaded")
            .field("name", &self.name)
            .field("digest", &self.digest)
            .finish_non_exhaustive()
    }
}

/// Looks for `name.wasm` in the plugin folder, then among the bundled plugins.
pub(crate) fn find(folder: Option<&Path>, bundled: &[Bundled], name: &str) -> Result<Found, Flaw> {
    if !is_name(name) {
        return Err(Flaw::Name);
    }
    let look = folder.map_or(Look::Nothing, |folder| Look::at(&file_of(folder, name)));
    found(folder, bundled, name, look).ok_or_else(|| {
        let names: Vec<&str> = bundled.iter().map(|plugin| plugin.name).collect();
        Flaw::NotFound { bundled: names.join(", ") }
    })
}

/// What a look into the folder found under a name, or the bundled plugin behind it.
pub(crate) fn found(folder: Option<&Path>, bundled: &[Bundled], name: &str, look: Look) -> Option<Found> {
    let inside = bundled.iter().any(|plugin| plugin.name == name);
    let file = || Some(Source::File(file_of(folder?, name)));
    let source = match look {
        // One that cannot be looked at is told when it is read; what it hides is not served in its place.
        Look::File(_) | Look::Unreadable(_) => file()?,
        Look::Nothing => inside.then_some(Source::Bundled)?,
    };
    let shadows = inside && source != Source::Bundled;
    Some(Found { name: name.to_owned(), source, shadows })
}

/// The file of a plugin.
pub(crate) fn file_of(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.wasm"))
}

/// Every plugin of the folder and of the program, by name.
pub(crate) fn list(folder: Option<&Path>, bundled: &[Bundled]) -> io::Result<Vec<Found>> {
    let mut names: Vec<String> = bundled.iter().map(|plugin| plugin.name.to_owned()).collect();
    if let Some(folder) = folder
        && folder.exists()
    {
        for entry in folder.read_dir()?.take(FILES_MAX) {
            let path = entry?.path();
            let stem = path.file_stem().and_then(|stem| stem.to_str());
            if path.extension().is_some_and(|extension| extension == "wasm") {
                names.extend(stem.map(str::to_owned));
            }
        }
    }
    names.sort();
    names.dedup();
    // A file whose name is not one cannot be asked for, so it is not listed.
    Ok(names.iter().filter_map(|name| find(folder, bundled, name).ok()).collect())
}

fn is_name(name: &str) -> bool {
    (1..=NAME_BYTES_MAX).contains(&name.len())
        && !name.starts_with('.')
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
}

/// A plugin's bytes, read and not looked at yet.
pub(crate) struct Wasm {
    bytes: Bytes,
    /// Their SHA-256.
    pub(crate) digest: Digest,
    /// What lay there when they were read.
    pub(crate) look: Look,
}

enum Bytes {
    Bundled(&'static [u8]),
    Read(Vec<u8>),
}

impl Wasm {
    /// Reads all of it. Blocks.
    pub(crate) fn read(source: &Source, bundled: &[Bundled], name: &str) -> Result<Self, Flaw> {
        let (bytes, look) = match source {
            Source::Bundled => {
                let found = bundled.iter().find(|plugin| plugin.name == name);
                let found = found.ok_or(Flaw::NotFound { bundled: String::new() })?;
                (Bytes::Bundled(found.wasm), Look::Nothing)
            }
            Source::File(path) => {
                let (bytes, fingerprint) = read(path)?;
                (Bytes::Read(bytes), Look::File(fingerprint))
            }
        };
        let digest = Digest::of(bytes.as_slice());
        Ok(Self { bytes, digest, look })
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        self.bytes.as_slice()
    }
}

impl Bytes {
    fn as_slice(&self) -> &[u8] {
        match self {
            Self::Bundled(bytes) => bytes,
            Self::Read(bytes) => bytes,
        }
    }
}

fn read(path: &Path) -> Result<(Vec<u8>, Fingerprint), Flaw> {
    let mut file = File::open(path).map_err(Flaw::Read)?;
    let metadata = file.metadata().map_err(Flaw::Read)?;
    let length = metadata.len();
    if length > COMPONENT_BYTES_MAX {
        return Err(Flaw::TooLarge(length));
    }
    let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or_default());
    (&mut file).take(COMPONENT_BYTES_MAX).read_to_end(&mut bytes).map_err(Flaw::Read)?;
    let before = Fingerprint::of(&metadata);
    let after = Fingerprint::of(&file.metadata().map_err(Flaw::Read)?);
    if before != after || bytes.len() as u64 != length {
        return Err(Flaw::Changing);
    }
    Ok((bytes, after))
}

/// A component that is compiled and linked, not asked yet.
pub(crate) struct Compiled {
    pub(crate) digest: Digest,
    pub(crate) bytes: u64,
    pub(crate) scan: Scan,
    pub(crate) blueprint: Arc<Blueprint>,
}

/// Looks at the bytes, checks pin, names and versions, takes the code from the cache or compiles. Blocks for as long as
/// the compiler needs: 0.1 s for a Rust plugin, 12 s for Python.
pub(crate) fn compile(
    shared: &Shared,
    name: &str,
    wasm: &Wasm,
    pinned: Option<&str>,
) -> Result<Compiled, Flaw> {
    let (bytes, digest) = (wasm.bytes(), wasm.digest);
    if let Some(pinned) = pinned
        && !pinned.trim().eq_ignore_ascii_case(&digest.to_string())
    {
        return Err(Flaw::Pin { pinned: pinned.to_owned(), found: digest });
    }
    let scan = Scan::of(bytes)?;
    scan.check()?;
    if let Some(blueprint) = shared.codes.get(&digest) {
        return Ok(Compiled { digest, bytes: bytes.len() as u64, scan, blueprint });
    }
    let component = component(shared, name, bytes, &digest)?;
    let refused = |error: wasmtime::Error| Flaw::Engine(format!("{error:#}"));
    let pre =
        shared.linker(scan.wasi()).and_then(|linker| linker.instantiate_pre(&component)).map_err(refused)?;
    let blueprint = Arc::new(Blueprint::new(pre, &scan).map_err(refused)?);
    shared.codes.put(digest, &blueprint);
    Ok(Compiled { digest, bytes: bytes.len() as u64, scan, blueprint })
}

/// Compiled code that something still uses: two ids of one plugin share it, and nobody keeps it for later.
#[derive(Default)]
pub(crate) struct Codes(Mutex<HashMap<Digest, Weak<Blueprint>>>);

impl Codes {
    fn get(&self, digest: &Digest) -> Option<Arc<Blueprint>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(digest)?.upgrade()
    }

    fn put(&self, digest: Digest, code: &Arc<Blueprint>) {
        let mut codes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        codes.retain(|_, code| code.strong_count() > 0);
        codes.insert(digest, Arc::downgrade(code));
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        let codes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        codes.values().filter(|code| code.strong_count() > 0).count()
    }
}

fn component(shared: &Shared, name: &str, bytes: &[u8], digest: &Digest) -> Result<Component, Flaw> {
    let engine = shared.engine.engine();
    if let Some(component) = shared.cache.as_ref().and_then(|cache| cache.get(engine, digest)) {
        return Ok(component);
    }
    Scan::validate(bytes)?;
    let started = Instant::now();
    let component =
        Component::from_binary(engine, bytes).map_err(|error| Flaw::Engine(format!("{error:#}")))?;
    let took = started.elapsed();
    info!(plugin = name, sha256 = %digest, took_ms = took.as_millis(), "plugin compiled");
    if took > Duration::from_secs(5) && shared.cache.is_none() {
        warn!(plugin = name, "it is compiled at every start: service.data_dir would keep the code");
    }
    if let Some(cache) = &shared.cache {
        cache.put(engine, digest, &component);
    }
    Ok(component)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUNDLED: [Bundled; 1] = [Bundled { name: "zipkin-exporter", wasm: b"" }];

    /// Scenario: names that lead out of the folder, that are hidden, that are empty.
    /// Guarantees: no name opens a file outside the plugin folder.
    #[test]
    fn a_name_stays_in_the_folder() {
        for name in ["", "../x", "/etc/passwd", ".hidden", "a/b", "a\0b", &"n".repeat(65)] {
            assert!(matches!(find(None, &BUNDLED, name), Err(Flaw::Name)), "{name:?} was taken");
        }
        assert!(matches!(find(None, &BUNDLED, "absent"), Err(Flaw::NotFound { .. })));
    }

    /// Scenario: a bundled plugin, then a file of the same name beside another file.
    /// Guarantees: the file takes its place and says so; the list names each once.
    #[test]
    fn a_file_stands_in_front_of_a_bundled_plugin() {
        let folder = tempfile::tempdir().unwrap();
        let found = find(Some(folder.path()), &BUNDLED, "zipkin-exporter").unwrap();
        assert_eq!((found.source, found.shadows), (Source::Bundled, false));
        for name in ["zipkin-exporter.wasm", "acme.wasm", "README.md", "bad name.wasm"] {
            std::fs::write(folder.path().join(name), b"").unwrap();
        }
        let found = find(Some(folder.path()), &BUNDLED, "zipkin-exporter").unwrap();
        assert_eq!(
            (found.source, found.shadows),
            (Source::File(folder.path().join("zipkin-exporter.wasm")), true)
        );
        let listed = list(Some(folder.path()), &BUNDLED).unwrap();
        let names: Vec<&str> = listed.iter().map(|found| found.name.as_str()).collect();
        assert_eq!(names, ["acme", "zipkin-exporter"]);
    }
}
