//! The plugins' workspace passes its own tests, on the machine's own target.
//!
//! It is a workspace apart, so that guests have their own profiles; this makes it a part of `cargo test` all the same.

use std::path::Path;
use std::process::Command;

/// Variables of the outer build that would leak into the inner one.
const OUTER: [&str; 8] = [
    "RUSTFLAGS",
    "CARGO_ENCODED_RUSTFLAGS",
    "RUSTC_WRAPPER",
    "RUSTC_WORKSPACE_WRAPPER",
    "CARGO_TARGET_DIR",
    "CARGO_BUILD_TARGET",
    "RUSTUP_TOOLCHAIN",
    "CARGO_MANIFEST_DIR",
];

/// Scenario: `cargo test` in the folder of the plugins, as their authors run it.
/// Guarantees: mappings, vectors, round trips and hostile inputs of every bundled plugin hold.
#[test]
fn the_plugins_pass_their_own_tests() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../plugins");
    let mut command = Command::new(env!("CARGO"));
    command.args(["test", "--workspace", "--locked"]).current_dir(folder);
    for variable in OUTER {
        command.env_remove(variable);
    }
    let done = command.output().expect("cargo is there: it runs this test");
    assert!(
        done.status.success(),
        "cargo test in plugins/ failed:\n{}\n{}",
        String::from_utf8_lossy(&done.stdout),
        String::from_utf8_lossy(&done.stderr)
    );
}
