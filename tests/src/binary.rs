//! The `weir` binary, built once a run.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use serde::Deserialize;

/// How the daemon under test was compiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// As the test itself.
    Same,
    /// As users have it.
    Release,
}

/// What cargo says of one thing that it built, as far as it matters here.
#[derive(Deserialize)]
struct Message {
    reason: String,
    executable: Option<PathBuf>,
}

/// The path of the binary: what `WEIR_BIN` says, else what cargo builds.
///
/// # Panics
/// When it does not build; cargo's own words stand on standard error.
pub fn weir(profile: Profile) -> PathBuf {
    static SAME: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    static RELEASE: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    if let Some(path) = std::env::var_os("WEIR_BIN") {
        return PathBuf::from(path);
    }
    let release = profile == Profile::Release || !cfg!(debug_assertions);
    let cell = if release { &RELEASE } else { &SAME };
    // What does not build once does not build for the next test either.
    let built = cell.get_or_init(|| build(release));
    built.clone().unwrap_or_else(|why| panic!("{why}"))
}

/// Whether the cargo that runs this test has set the variable for the package of the test.
///
/// Build scripts that ask for them (ring's does) would run again in each of the two cargos, and with them the compiler for
/// all that stands on them.
fn is_of_package(variable: &str) -> bool {
    variable == "OUT_DIR" || ["CARGO_PKG_", "CARGO_MANIFEST_"].iter().any(|head| variable.starts_with(head))
}

fn build(release: bool) -> Result<PathBuf, String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    let names = std::env::vars_os().map(|(name, _)| name);
    for name in names.filter(|name| is_of_package(&name.to_string_lossy())) {
        command.env_remove(name);
    }
    command.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    command.args(["build", "-p", "weir-daemon", "--bin", "weir"]);
    command.arg("--message-format=json-render-diagnostics");
    if release {
        command.arg("--release");
    }
    let output = command.stderr(Stdio::inherit()).output();
    let output = output.map_err(|error| format!("cargo does not start: {error}"))?;
    if !output.status.success() {
        return Err("cargo could not build the daemon; it says why above".to_owned());
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let messages = text.lines().filter_map(|line| serde_json::from_str::<Message>(line).ok());
    let of_crates = messages.filter(|message| message.reason == "compiler-artifact");
    let mut built = of_crates.filter_map(|message| message.executable);
    built.next_back().ok_or_else(|| "cargo names no executable".to_owned())
}
