//! Looks at the bytes of a component before the engine does: what it exports, what it imports, who made it.
//!
//! All bytes are parsed, so that a truncated file is an error here and nothing worse later.

use serde::Serialize;
use wasmparser::{
    ComponentExternalKind, Encoding, Parser, Payload, ProducersSectionReader, Validator, WasmFeatures,
};

use crate::extent::{Excess, Extent};
use crate::interfaces::NAMES;
use crate::load::Flaw;
use crate::words::tame;

/// The package whose interfaces this host knows.
const PACKAGE: &str = "weir:plugin/";

/// The major version of it that this host serves, in all its minor versions.
pub const CONTRACT_VERSION: &str = "1";

/// Interfaces that a component may import from us; the last three hold types only.
const OFFERED: [&str; 7] = ["http-client", "log", "clock", "meter", "telemetry", "outcomes", "http-types"];

/// Imports and exports of one component together.
const NAMES_MAX: usize = 256;

/// Producers that are shown.
const PRODUCERS_MAX: usize = 32;

/// Bytes of a name that is shown.
const NAME_BYTES_MAX: usize = 200;

/// What is written on the outside of a component.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Scan {
    /// Names of what it exports.
    pub exports: Vec<String>,
    /// Names of what it imports.
    pub imports: Vec<Import>,
    /// Language, compiler and tools, as they say themselves.
    pub producers: Vec<String>,
}

/// One import of a component.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Import {
    /// Its full name.
    pub name: String,
    /// What the host makes of it.
    pub class: ImportClass,
}

/// What the host makes of an import.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ImportClass {
    /// It works, and reaches nothing outside of the sandbox: types, log, clocks, counters, random numbers, output.
    Harmless,
    /// It works as far as the operator grants it.
    Granted,
    /// It is there, and answers with an error when it is used: files, sockets, environment.
    Denied,
    /// Nothing that the host has: the component is not loaded.
    Refused,
}

impl ImportClass {
    /// Every class, the mildest first.
    pub const ALL: [Self; 4] = [Self::Harmless, Self::Granted, Self::Denied, Self::Refused];

    /// What a person reads.
    pub fn words(self) -> &'static str {
        match self {
            Self::Harmless => "harmless",
            Self::Granted => "by grant",
            Self::Denied => "denied when used",
            Self::Refused => "refused: no plugin gets these, so it is not loaded",
        }
    }
}

impl Scan {
    /// Parses all of `wasm`.
    ///
    /// # Errors
    /// [`Flaw::NotAComponent`] for anything that is not a whole component, [`Flaw::Grows`] for one that the engine
    /// could not compile or instantiate within bounds.
    pub(crate) fn of(wasm: &[u8]) -> Result<Self, Flaw> {
        let broken = |message: String| Flaw::NotAComponent { message: on_one_line(&message) };
        let excess = |excess| match excess {
            Excess::Broken(error) => broken(error.to_string()),
            Excess::Grows(what) => Flaw::Grows { what },
        };
        let mut scan = Self::default();
        let mut extent = Extent::new();
        for payload in Parser::new(0).parse_all(wasm) {
            let payload = payload.map_err(|error| broken(error.to_string()))?;
            let depth = extent.depth();
            match payload {
                Payload::Version { encoding: Encoding::Module, .. } if depth == 0 => {
                    return Err(broken(
                        "a core module, not a component; see `wasm-tools component new`".to_owned(),
                    ));
                }
                Payload::ComponentImportSection(ref imports) if depth == 0 => {
                    for import in imports.clone() {
                        let name = import.map_err(|error| broken(error.to_string()))?.name.name;
                        scan.imports.push(Import { name: tame(name, NAME_BYTES_MAX), class: classify(name) });
                    }
                }
                Payload::ComponentExportSection(ref exports) if depth == 0 => {
                    for export in exports.clone() {
                        let export = export.map_err(|error| broken(error.to_string()))?;
                        if export.kind == ComponentExternalKind::Instance {
                            scan.exports.push(tame(export.name.name, NAME_BYTES_MAX));
                        }
                    }
                }
                Payload::CustomSection(ref section) if section.name() == "producers" => {
                    scan.add_producers(section.data(), section.data_offset());
                }
                // Sections that say nothing about the outside; the validator looks at them.
                _ => (),
            }
            if scan.imports.len() + scan.exports.len() > NAMES_MAX {
                return Err(broken(format!("it imports and exports more than {NAMES_MAX} names")));
            }
            extent.see(&payload).map_err(excess)?;
        }
        Ok(scan)
    }

    /// Validates all of `wasm`: turns what could be a panic of a compiler into an error.
    pub(crate) fn validate(wasm: &[u8]) -> Result<(), Flaw> {
        let validated = Validator::new_with_features(WasmFeatures::default()).validate_all(wasm);
        validated
            .map(|_| ())
            .map_err(|error| Flaw::NotAComponent { message: on_one_line(&error.to_string()) })
    }

    /// Whether the component exports this interface of ours, in the version that the host serves.
    pub fn has(&self, interface: &str) -> bool {
        self.exports
            .iter()
            .any(|name| matches!(ours(name), Some((found, version)) if found == interface && serves(version)))
    }

    /// Whether it needs a WASI.
    pub(crate) fn wasi(&self) -> bool {
        self.imports
            .iter()
            .any(|import| import.class != ImportClass::Refused && import.name.starts_with("wasi:"))
    }

    /// Checks names and versions of everything that crosses the border.
    pub(crate) fn check(&self) -> Result<(), Flaw> {
        for name in self.exports.iter().chain(self.imports.iter().map(|import| &import.name)) {
            if let Some((interface, version)) = ours(name)
                && (interface == "plugin" || NAMES.contains(&interface) || OFFERED.contains(&interface))
                && !serves(version)
            {
                return Err(Flaw::Version { name: name.clone(), found: version.to_owned() });
            }
        }
        let refused = self.imports.iter().filter(|import| import.class == ImportClass::Refused);
        let refused: Vec<String> = refused.map(|import| import.name.clone()).collect();
        if !refused.is_empty() {
            return Err(Flaw::Imports { names: refused.join(", ") });
        }
        if !self.has("plugin") {
            let found = if self.exports.is_empty() { "nothing".to_owned() } else { self.exports.join(", ") };
            return Err(Flaw::NotAPlugin { found });
        }
        Ok(())
    }

    fn add_producers(&mut self, data: &[u8], offset: usize) {
        // Only for people: a section that does not parse is left out.
        let Ok(fields) = ProducersSectionReader::new(wasmparser::BinaryReader::new(data, offset)) else {
            return;
        };
        for field in fields.into_iter().flatten() {
            for value in field.values.into_iter().flatten() {
                let text = tame(&format!("{} {} {}", field.name, value.name, value.version), NAME_BYTES_MAX);
                if self.producers.len() < PRODUCERS_MAX && !self.producers.contains(&text) {
                    self.producers.push(text);
                }
            }
        }
    }
}

/// Interface and version of a name in our package.
fn ours(name: &str) -> Option<(&str, &str)> {
    name.strip_prefix(PACKAGE)?.split_once('@')
}

/// Whether this host serves a version: any released one of its major. What a later minor has added is missed by name
/// when the component is linked.
fn serves(version: &str) -> bool {
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let mut parts = version.split('.');
    parts.next() == Some(CONTRACT_VERSION)
        && parts.next().is_some_and(is_number)
        && parts.next().is_some_and(is_number)
        && parts.next().is_none()
}

/// Interfaces of ours that reach outside of the sandbox.
const BY_GRANT: [&str; 1] = ["http-client"];

/// What `wasmtime_wasi::p2` links; `wasi:http` and the like are not among it.
const WASI: [&str; 6] =
    ["wasi:cli/", "wasi:clocks/", "wasi:filesystem/", "wasi:io/", "wasi:random/", "wasi:sockets/"];

/// Of these, what a guest gets nothing from.
const WASI_DENIED: [&str; 3] = ["wasi:filesystem/", "wasi:sockets/", "wasi:cli/environment@"];

fn classify(name: &str) -> ImportClass {
    let begins = |names: &[&str]| names.iter().any(|start| name.starts_with(start));
    match ours(name) {
        Some((interface, _)) if BY_GRANT.contains(&interface) => ImportClass::Granted,
        Some((interface, _)) if OFFERED.contains(&interface) => ImportClass::Harmless,
        Some(_) => ImportClass::Refused,
        None if begins(&WASI) && name.contains("@0.2.") => {
            if begins(&WASI_DENIED) {
                ImportClass::Denied
            } else {
                ImportClass::Harmless
            }
        }
        None => ImportClass::Refused,
    }
}

/// The parser's words without their line breaks.
fn on_one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: names of our package in several versions, WASI in two, strangers.
    /// Guarantees: only what the host has is taken, other versions are told apart from strangers.
    #[test]
    fn imports_are_taken_by_name_and_version() {
        assert_eq!(classify("weir:plugin/log@1.0.0"), ImportClass::Harmless);
        assert_eq!(classify("weir:plugin/http-client@1.0.0"), ImportClass::Granted);
        assert_eq!(classify("wasi:filesystem/preopens@0.2.3"), ImportClass::Denied);
        assert_eq!(classify("wasi:sockets/tcp@0.2.6"), ImportClass::Denied);
        assert_eq!(classify("wasi:cli/environment@0.2.6"), ImportClass::Denied);
        assert_eq!(classify("wasi:random/random@0.2.6"), ImportClass::Harmless);
        assert_eq!(classify("weir:plugin/filesystem@1.0.0"), ImportClass::Refused);
        assert_eq!(classify("wasi:cli/stderr@0.2.6"), ImportClass::Harmless);
        assert_eq!(classify("wasi:cli/stderr@0.3.0"), ImportClass::Refused);
        assert_eq!(classify("wasi:http/outgoing-handler@0.2.6"), ImportClass::Refused);
        assert_eq!(classify("acme:gpu/compute"), ImportClass::Refused);
        assert!(serves("1.0.0") && serves("1.0.17") && serves("1.12.0"));
        assert!(
            !serves("0.1.0") && !serves("2.0.0") && !serves("10.0.0") && !serves("1.0.0-rc") && !serves("1")
        );
    }

    /// Scenario: a component that exports the next version of the contract.
    /// Guarantees: the error names both versions.
    #[test]
    fn another_version_is_named_together_with_ours() {
        let scan = Scan { exports: vec!["weir:plugin/plugin@2.0.0".into()], ..Scan::default() };
        let error = scan.check().unwrap_err().to_string();
        assert!(error.contains("plugin@2.0.0") && error.contains("serves weir:plugin 1.x"), "{error}");
    }
}
