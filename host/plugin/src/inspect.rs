//! What `weir plugin inspect` and `weir plugin list` show.

use serde::Serialize;

use crate::describe::{Descriptor, Marks};
use crate::host::Host;
use crate::load::{Digest, Found, LoadError, Loaded, Source};
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

impl Host {
    /// Looks at a plugin by name, or at any file. A plugin that cannot be loaded is an inspection with an error.
    pub async fn inspect(&self, name_or_path: &str) -> Inspection {
        let path = std::path::Path::new(name_or_path);
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
                Inspection::new(nowhere, Err(error))
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
        let loaded = self.load_found(found.clone(), None).await;
        Inspection::new(found, loaded.map(|loaded| Details::of(&loaded)))
    }
}

impl Inspection {
    fn new(found: Found, looked: Result<Details, LoadError>) -> Self {
        let Found { name, source, shadows } = found;
        let (details, error) = match looked {
            Ok(details) => (Some(details), None),
            Err(error) => (None, Some(chain(&error))),
        };
        Self { name, source, shadows, contract: CONTRACT_VERSION, details, error }
    }
}

/// An error with its causes, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
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
}
