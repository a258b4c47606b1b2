//! What `weir plugin inspect`, `weir plugin list` and `weir plugin precompile` show.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::Value;
use weir_model::explain;

use crate::describe::{Descriptor, Listener, Marks};
use crate::grant::{self, Grants};
use crate::host::Host;
use crate::limits::Limits;
use crate::load::{Digest, Flaw, Found, LoadError, Loaded, Source, Wasm};
use crate::scan::{CONTRACT_VERSION, Scan};

/// Everything that is known about one plugin.
#[derive(Debug, Serialize)]
pub struct Inspection {
    /// Its file name without `.wasm`.
    pub name: String,
    /// Where it is.
    pub source: Source,
    /// Whether it stands in front of a bundled plugin.
    pub shadows: bool,
    /// The version of the contract that this host serves.
    pub contract: &'static str,
    /// What was found in it; absent where it cannot be loaded.
    #[serde(flatten)]
    pub details: Option<Details>,
    /// What can be seen of one that cannot be loaded.
    #[serde(flatten)]
    pub outside: Option<Outside>,
    /// Why it cannot be loaded, with all causes.
    pub error: Option<String>,
}

/// What was found in a plugin.
#[derive(Debug, Serialize)]
pub struct Details {
    /// SHA-256 of the component: what `sha256:` pins.
    pub digest: Digest,
    /// Bytes of the component.
    pub bytes: u64,
    /// What it says about itself.
    pub descriptor: Descriptor,
    /// The powers that its settings ask for.
    pub marks: Marks,
    /// Exports, imports with their classes, producers.
    pub scan: Scan,
}

/// What can be seen of a file without running any of it.
#[derive(Debug, Serialize)]
pub struct Outside {
    /// Its size.
    pub bytes: u64,
    /// Its SHA-256, where it is not too large to be read.
    pub digest: Option<Digest>,
    /// What is written on it, where it is a component.
    pub scan: Option<Scan>,
}

/// What a configured id of a plugin may do. Where secrets stand, never what they are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Powers {
    /// Origins that it reaches: those in its settings, then those in `grants:`.
    pub egress: Vec<String>,
    /// Whether a granted name may lead to a private network.
    pub private_networks: bool,
    /// JSON pointers of the settings that hold secrets.
    pub secrets: Vec<String>,
    /// Addresses that the host binds for it.
    pub listeners: Vec<Listener>,
    /// URLs that are none, with their places; nothing is granted then.
    pub errors: Vec<String>,
}

/// What [`Host::precompile`] has done.
#[derive(Debug, Serialize)]
pub struct Precompiled {
    /// The plugin.
    pub name: String,
    /// Where it is.
    pub source: Source,
    /// SHA-256 of the component.
    pub digest: Digest,
    /// Bytes of the component.
    pub bytes: u64,
    /// Bytes of its compiled code; none where it could not be kept.
    pub compiled_bytes: Option<u64>,
    /// Whether it was compiled now; else authentic code of it was there.
    pub compiled_now: bool,
    /// How long it took to be ready.
    pub took: Duration,
}

impl Host {
    /// Looks at a plugin by name, or at any file. A plugin that cannot be loaded is an inspection with an error.
    pub async fn inspect(&self, name_or_path: &str) -> Inspection {
        let path = Path::new(name_or_path);
        if path.extension().is_some_and(|extension| extension == "wasm") {
            let name = path.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned());
            return self
                .inspect_found(Found { name, source: Source::File(path.to_owned()), shadows: false })
                .await;
        }
        match self.find(name_or_path) {
            Ok(found) => self.inspect_found(found).await,
            Err(error) => {
                let nowhere =
                    Found { name: name_or_path.to_owned(), source: Source::Bundled, shadows: false };
                Inspection::new(nowhere, Err(error), None)
            }
        }
    }

    /// Looks at every plugin of the folder and of the program.
    ///
    /// # Errors
    /// Where the folder cannot be read.
    pub async fn inspect_all(&self) -> std::io::Result<Vec<Inspection>> {
        let mut inspections = Vec::new();
        for found in self.list()? {
            inspections.push(self.inspect_found(found).await);
        }
        Ok(inspections)
    }

    async fn inspect_found(&self, found: Found) -> Inspection {
        let loaded = self.load_found(found.clone(), None, &Limits::by_hand()).await;
        let outside = match &loaded {
            Ok(_) => None,
            Err(_) => self.outside(&found).await,
        };
        Inspection::new(found, loaded.map(|loaded| Details::of(&loaded)), outside)
    }

    /// What can be seen of a plugin that cannot be loaded; none where it cannot be read either.
    async fn outside(&self, found: &Found) -> Option<Outside> {
        let (found, bundled) = (found.clone(), self.bundled());
        let looking =
            tokio::task::spawn_blocking(move || match Wasm::read(&found.source, bundled, &found.name) {
                Ok(wasm) => {
                    let bytes = wasm.bytes();
                    let (digest, scan) = (Some(Digest::of(bytes)), Scan::of(bytes).ok());
                    Some(Outside { bytes: bytes.len() as u64, digest, scan })
                }
                Err(Flaw::TooLarge(bytes)) => Some(Outside { bytes, digest: None, scan: None }),
                Err(_) => None,
            });
        looking.await.ok().flatten()
    }

    /// Loads a plugin, so that its compiled code lies in the cache and the next start needs no compiler.
    ///
    /// # Errors
    /// [`LoadError`].
    pub async fn precompile(&self, name: &str, sha256: Option<&str>) -> Result<Precompiled, LoadError> {
        let found = self.find(name)?;
        let reading = {
            let (found, bundled) = (found.clone(), self.bundled());
            tokio::task::spawn_blocking(move || {
                Wasm::read(&found.source, bundled, &found.name).map(|wasm| Digest::of(wasm.bytes()))
            })
        };
        let before = match reading.await {
            Ok(Ok(digest)) => self.compiled_stamp(&digest),
            // What is wrong with it is told by loading it.
            Ok(Err(_)) | Err(_) => None,
        };
        let started = Instant::now();
        let loaded: Arc<Loaded> = self.load_found(found, sha256, &Limits::by_hand()).await?;
        let took = started.elapsed();
        let after = self.compiled_stamp(&loaded.digest);
        Ok(Precompiled {
            name: loaded.name.clone(),
            source: loaded.source.clone(),
            digest: loaded.digest,
            bytes: loaded.bytes,
            compiled_bytes: after.map(|(bytes, _)| bytes),
            compiled_now: before.is_none() || before != after,
            took,
        })
    }
}

impl Inspection {
    fn new(found: Found, looked: Result<Details, LoadError>, outside: Option<Outside>) -> Self {
        let Found { name, source, shadows } = found;
        let (details, error) = match looked {
            Ok(details) => (Some(details), None),
            Err(error) => (None, Some(explain(&error))),
        };
        Self { name, source, shadows, contract: CONTRACT_VERSION, details, outside, error }
    }

    /// What is written on its outside, whether it can be loaded or not.
    pub fn scan(&self) -> Option<&Scan> {
        let inside = self.details.as_ref().map(|details| &details.scan);
        inside.or_else(|| self.outside.as_ref().and_then(|outside| outside.scan.as_ref()))
    }

    /// Its SHA-256, as far as it could be read.
    pub fn digest(&self) -> Option<Digest> {
        let inside = self.details.as_ref().map(|details| details.digest);
        inside.or_else(|| self.outside.as_ref().and_then(|outside| outside.digest))
    }

    /// Its size, as far as there is a file.
    pub fn bytes(&self) -> Option<u64> {
        let inside = self.details.as_ref().map(|details| details.bytes);
        inside.or_else(|| self.outside.as_ref().map(|outside| outside.bytes))
    }
}

impl Details {
    fn of(loaded: &Loaded) -> Self {
        Self {
            digest: loaded.digest,
            bytes: loaded.bytes,
            descriptor: loaded.descriptor.clone(),
            marks: loaded.marks.clone(),
            scan: loaded.scan.clone(),
        }
    }

    /// What an id with these settings and grants may do.
    pub fn powers(&self, settings: &Value, grants: &Grants) -> Powers {
        let (egress, errors) = match grant::egress(&self.marks, settings, grants) {
            Ok(egress) => (egress.origins().iter().map(ToString::to_string).collect(), Vec::new()),
            Err(errors) => (Vec::new(), errors.into_iter().map(|(at, why)| format!("{at}: {why}")).collect()),
        };
        Powers {
            egress,
            private_networks: grants.private_networks,
            secrets: self.marks.secrets(settings),
            listeners: self.marks.listeners(settings),
            errors,
        }
    }
}
