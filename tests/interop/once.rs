//! Installing something once: what every installer needs.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Something installed, or why it is not.
pub(crate) type Installed = OnceLock<Result<PathBuf, String>>;

#[track_caller]
pub(crate) fn installed(cell: &Installed, make: impl FnOnce() -> Result<PathBuf, String>) -> PathBuf {
    cell.get_or_init(make).clone().unwrap_or_else(|why| panic!("{why}"))
}

pub(crate) fn cache() -> Result<PathBuf, String> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("interop");
    made(&folder)?;
    Ok(folder)
}

/// The folder, made where it is not there.
pub(crate) fn made(folder: &Path) -> Result<&Path, String> {
    std::fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    Ok(folder)
}

/// The folder that `make` fills, unless it did so for the same manifests before.
pub(crate) fn once(
    what: &str,
    manifests: &[&Path],
    make: impl FnOnce(&Path) -> Result<(), String>,
) -> Result<PathBuf, String> {
    let in_words = |path: &Path, error: std::io::Error| format!("{}: {error}", path.display());
    let mut digest = DefaultHasher::new();
    for manifest in manifests {
        let text = std::fs::read(manifest).map_err(|error| in_words(manifest, error))?;
        text.hash(&mut digest);
    }
    let folder = cache()?.join(format!("{what}-{:016x}", digest.finish()));
    let ready = folder.join("ready");
    if !ready.exists() {
        // What an interrupted run left is no base to build on.
        if folder.exists() {
            std::fs::remove_dir_all(&folder).map_err(|error| in_words(&folder, error))?;
        }
        std::fs::create_dir_all(&folder).map_err(|error| in_words(&folder, error))?;
        make(&folder)?;
        std::fs::write(&ready, "").map_err(|error| in_words(&ready, error))?;
    }
    Ok(folder)
}

/// Sees that a tool is there: where it is not, and the system's package manager is, installs it by name.
pub(crate) fn need(tool: &str, packages: &[&str]) -> Result<(), String> {
    let is_there = || Command::new(tool).arg("--help").output().is_ok();
    if is_there() {
        return Ok(());
    }
    eprintln!("{tool} is missing, installing {packages:?}");
    let in_words = |why| format!("{tool} is missing, and installing it failed; install it: {why}");
    run(Command::new("apt-get").args(["--quiet=2", "update"])).map_err(in_words)?;
    let mut install = Command::new("apt-get");
    install.args(["--quiet=2", "--yes", "--no-install-recommends", "install"]).args(packages);
    run(install.env("DEBIAN_FRONTEND", "noninteractive")).map_err(in_words)?;
    is_there().then_some(()).ok_or_else(|| format!("{tool} is missing still; install it"))
}

pub(crate) fn run(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    Err(format!("{command:?} ended with {}:\n{}\n{}", output.status, said[0], said[1]))
}
