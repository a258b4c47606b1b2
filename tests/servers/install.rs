//! The servers, installed by name into `target/interop`.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use crate::once::{Installed, installed, need, once, run};

/// A jar by its coordinates, `group:name:version:jar:classifier`, alone.
#[track_caller]
pub(crate) fn maven(artifact: &'static str) -> PathBuf {
    static JAR: Installed = OnceLock::new();
    let make = || {
        need("java", &["default-jre-headless"])?;
        need("mvn", &["maven"])?;
        let parts: Vec<&str> = artifact.split(':').collect();
        let [_, name, version, _, classifier] = parts[..] else {
            return Err(format!("no coordinates: {artifact}"));
        };
        let file = format!("{name}-{version}-{classifier}.jar");
        let folder = once(&file, &[], |folder| {
            let mut maven = Command::new("mvn");
            maven.args(["--quiet", "--batch-mode", "dependency:copy", &format!("-Dartifact={artifact}")]);
            run(maven.arg(format!("-DoutputDirectory={}", folder.display())).current_dir(folder))
        });
        Ok(folder?.join(file))
    };
    installed(&JAR, make)
}

/// A Go program by its package and version.
#[track_caller]
pub(crate) fn program(package: &'static str) -> PathBuf {
    static PROGRAM: Installed = OnceLock::new();
    let make = || {
        need("go", &["golang-go"])?;
        let name = package.split(['/', '@']).rev().nth(1).ok_or_else(|| format!("no version: {package}"))?;
        let folder = once(&format!("go-{name}"), &[], |folder| {
            run(Command::new("go").args(["install", package]).env("GOBIN", folder).current_dir(folder))
        });
        Ok(folder?.join(name))
    };
    installed(&PROGRAM, make)
}
