//! Builds the plugins that are part of the program, and writes the table that `src/bundled.rs` includes.

use std::env;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow};

#[path = "../plugin/build/guests.rs"]
mod guests;

/// Packages of `plugins/` that every Weir has with it.
const BUNDLED: [&str; 5] =
    ["jaeger-exporter", "jaeger-receiver", "otlp-exporter", "zipkin-exporter", "zipkin-receiver"];

fn main() -> anyhow::Result<()> {
    let root =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().context("find the repository")?;
    let out = PathBuf::from(env::var_os("OUT_DIR").context("cargo sets OUT_DIR")?);
    watch(&root)?;
    let folder = root.join("plugins");
    let workspace = guests::Workspace::new(folder.clone(), folder.join("target"));
    let mut table =
        String::from("/// The plugins that are part of the program.\npub static BUNDLED: &[Bundled] = &[\n");
    for package in BUNDLED {
        let component = workspace.build(package).map_err(|error| anyhow!(error))?;
        let path = out.join(format!("{package}.wasm"));
        fs::write(&path, component).with_context(|| format!("write {}", path.display()))?;
        writeln!(table, "    Bundled {{ name: {package:?}, wasm: include_bytes!({path:?}) }},")?;
    }
    table.push_str("];\n");
    fs::write(out.join("bundled.rs"), table).context("write bundled.rs")
}

/// Names what the bundled plugins are made of. `plugins/target` is not among it: it changes with every build.
fn watch(root: &Path) -> anyhow::Result<()> {
    for path in [
        "wit",
        "proto/wire/src",
        "proto/wire/Cargo.toml",
        "plugins/Cargo.toml",
        "plugins/Cargo.lock",
        "plugins/.cargo",
    ] {
        println!("cargo::rerun-if-changed={}", root.join(path).display());
    }
    println!("cargo::rerun-if-changed={}", root.join("host/plugin/build/guests.rs").display());
    println!("cargo::rerun-if-env-changed=WEIR_GUEST_TARGET_DIR");
    for entry in fs::read_dir(root.join("plugins")).context("read plugins/")? {
        let package = entry.context("read plugins/")?.path();
        if package.join("Cargo.toml").is_file() {
            println!("cargo::rerun-if-changed={}", package.display());
        }
    }
    Ok(())
}
