//! Builds guests: a package of Rust to a WebAssembly component, for the daemon's build script and for tests.
//!
//! Both include this file by `#[path]`, so that there is one way to build a guest. It needs what a Rust programmer has: cargo,
//! and rustup's compiler; the target is added where it is missing. Where rustup's server can not be reached, Debian's
//! compiler and sources of the standard library stand in (`WEIR_GUEST_TOOLCHAIN=debian` asks for them).
//!
//! Invariant: what the outer cargo was told (flags, wrappers, target, profile) does not reach the inner one.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The target of guests: no WASI, so a guest can do nothing but what it imports from us.
const TARGET: &str = "wasm32-unknown-unknown";

/// What every engine since 2022 has. Beside `plugins/.cargo/config.toml`, which holds for an author's own builds.
const FEATURES: &str = "-C target-feature=+simd128,+bulk-memory";

/// The packages that make Debian's compiler, by the beginnings of their names.
const DEBIAN_PACKAGES: [&str; 5] =
    ["rustc-web", "libstd-rust-web-", "libstd-rust-web-dev", "rust-web-src", "libllvm"];

/// Says for an environment variable of the outer cargo whether the inner one may know it.
fn is_inherited(name: &str) -> bool {
    const KEPT: [&str; 9] = [
        "CARGO_HOME",
        "CARGO_HTTP_",
        "CARGO_NET_",
        "CARGO_REGISTRIES_",
        "CARGO_REGISTRY_",
        "CARGO_SOURCE_",
        "CARGO_TERM_",
        "CARGO_MAKEFLAGS",
        "RUSTUP_",
    ];
    const DROPPED: [&str; 10] = [
        "CARGO",
        "RUSTC",
        "RUSTDOC",
        "RUSTFLAGS",
        "OUT_DIR",
        "TARGET",
        "HOST",
        "PROFILE",
        "OPT_LEVEL",
        "DEBUG",
    ];
    KEPT.iter().any(|kept| name.starts_with(kept))
        || !DROPPED.iter().any(|dropped| {
            name == *dropped || (name.starts_with(dropped) && name[dropped.len()..].starts_with('_'))
        })
}

/// A workspace of guests.
pub(crate) struct Workspace {
    /// Where its `Cargo.toml` is.
    pub(crate) folder: PathBuf,
    /// Where its artefacts go: never the outer cargo's folder, which that one has locked.
    pub(crate) target_dir: PathBuf,
}

impl Workspace {
    /// The workspace in `folder`, with its artefacts in `WEIR_GUEST_TARGET_DIR` or in `default_target_dir`.
    pub(crate) fn new(folder: PathBuf, default_target_dir: PathBuf) -> Self {
        let target_dir = env::var_os("WEIR_GUEST_TARGET_DIR").map_or(default_target_dir, PathBuf::from);
        Self { folder, target_dir }
    }

    /// Builds `package` and wraps its module into a component.
    ///
    /// # Errors
    /// What failed, with the compiler's words and what to do.
    pub(crate) fn build(&self, package: &str) -> Result<Vec<u8>, String> {
        let mut cargo = self.cargo();
        cargo.args(["build", "--release", "--target", TARGET, "--package", package]);
        let debian = env::var_os("WEIR_GUEST_TOOLCHAIN").is_some_and(|wish| wish == "debian");
        if debian || (!has_target() && !add_target()) {
            Debian::fetch(&self.target_dir)?.stand_in(&mut cargo)?;
        }
        run(&mut cargo).map_err(|error| format!("build guest {package}: {error}"))?;
        let file = format!("{}.wasm", package.replace('-', "_"));
        let path = self.target_dir.join(TARGET).join("release").join(file);
        let module = fs::read(&path).map_err(|error| format!("read {}: {error}", path.display()))?;
        component(&module).map_err(|error| format!("make a component of guest {package}: {error}"))
    }

    fn cargo(&self) -> Command {
        let mut cargo = clean("cargo");
        cargo.current_dir(&self.folder).arg("--quiet");
        cargo.env("CARGO_TARGET_DIR", &self.target_dir);
        cargo
    }
}

fn component(module: &[u8]) -> Result<Vec<u8>, String> {
    let mut encoder = wit_component::ComponentEncoder::default()
        .validate(true)
        .module(module)
        .map_err(|error| format!("{error:#}"))?;
    encoder.encode().map_err(|error| format!("{error:#}"))
}

/// A command that does not know what the outer cargo was told.
fn clean(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    for (name, _) in env::vars_os() {
        if name.to_str().is_some_and(|name| !is_inherited(name)) {
            command.env_remove(&name);
        }
    }
    command
}

/// Runs to the end; the error holds what it said.
fn run(command: &mut Command) -> Result<String, String> {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let shown = words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ");
    let output = command.output().map_err(|error| format!("start {shown}: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("{shown}: {}\n{}", output.status, said.trim_end()))
}

/// Whether the compiler has the standard library for [`TARGET`].
fn has_target() -> bool {
    let printed = run(clean("rustc").args(["--print", "target-libdir", "--target", TARGET]));
    printed.is_ok_and(|folder| Path::new(folder.trim()).is_dir())
}

/// Has rustup add the target, and says so: it changes the user's toolchain.
#[allow(
    clippy::print_stdout,
    reason = "how a build script speaks to cargo; the lint is blind in one and not in a bench"
)]
fn add_target() -> bool {
    println!("cargo::warning=adding the target {TARGET} to the toolchain (rustup target add {TARGET})");
    match run(clean("rustup").args(["target", "add", TARGET])) {
        Ok(_) => has_target(),
        Err(error) => {
            let first = error.lines().next().unwrap_or_default();
            println!("cargo::warning=rustup could not add it ({first}); unpacking Debian's compiler instead");
            false
        }
    }
}

// === Debian's compiler ===

/// Debian's compiler, unpacked, not installed: it would conflict with rustup's.
struct Debian {
    root: PathBuf,
}

impl Debian {
    /// Downloads and unpacks the packages, once.
    fn fetch(target_dir: &Path) -> Result<Self, String> {
        let folder = target_dir.join("debian-rust");
        let root = folder.join("root");
        let done = folder.join("unpacked");
        if done.is_file() {
            return Ok(Self { root });
        }
        let explain = |error: String| {
            format!(
                "there is no standard library for {TARGET}: `rustup target add {TARGET}` failed, and so did Debian's \
                 packages ({error}). Install the target by hand, then build again"
            )
        };
        fs::create_dir_all(&root).map_err(|error| format!("make {}: {error}", root.display()))?;
        let packages = debian_packages().map_err(explain)?;
        run(clean("apt-get").current_dir(&folder).arg("download").args(&packages)).map_err(explain)?;
        for entry in fs::read_dir(&folder).map_err(|error| explain(error.to_string()))? {
            let path = entry.map_err(|error| explain(error.to_string()))?.path();
            if path.extension().is_some_and(|extension| extension == "deb") {
                run(clean("dpkg").arg("-x").arg(&path).arg(&root)).map_err(explain)?;
            }
        }
        let debian = Self { root };
        debian.write_wrapper().map_err(explain)?;
        fs::write(&done, b"").map_err(|error| format!("write {}: {error}", done.display()))?;
        Ok(debian)
    }

    /// A compiler that finds its own libraries.
    fn write_wrapper(&self) -> Result<(), String> {
        use std::os::unix::fs::PermissionsExt as _;
        let root = self.root.display();
        let machine = env::consts::ARCH;
        let text = format!(
            "#!/bin/sh\nexport LD_LIBRARY_PATH='{root}/usr/lib/{machine}-linux-gnu:{root}/usr/lib'\nexec '{root}/usr/bin/rustc' \"$@\"\n"
        );
        let path = self.wrapper();
        fs::write(&path, text).map_err(|error| format!("write {}: {error}", path.display()))?;
        let mode = fs::Permissions::from_mode(0o755);
        fs::set_permissions(&path, mode)
            .map_err(|error| format!("make {} executable: {error}", path.display()))
    }

    fn wrapper(&self) -> PathBuf {
        self.root.join("rustc")
    }

    /// Makes `cargo` use this compiler and build the standard library itself, with the linker of rustup's toolchain.
    fn stand_in(&self, cargo: &mut Command) -> Result<(), String> {
        let about = run(clean("rustc").arg("-vV"))?;
        let host =
            about.lines().find_map(|line| line.strip_prefix("host: ")).ok_or("rustc -vV names no host")?;
        let sysroot = run(clean("rustc").args(["--print", "sysroot"]))?;
        let linkers = Path::new(sysroot.trim()).join("lib/rustlib").join(host).join("bin");
        let path = env::var_os("PATH").unwrap_or_default();
        let path = env::join_paths(std::iter::once(linkers).chain(env::split_paths(&path)))
            .map_err(|error| format!("put the linker on the path: {error}"))?;
        cargo
            .env("RUSTC", self.wrapper())
            .env("RUSTC_BOOTSTRAP", "1")
            .env("RUSTFLAGS", format!("{FEATURES} -C linker=rust-lld"))
            .env("PATH", path)
            .arg("-Zbuild-std=std,panic_abort");
        Ok(())
    }
}

/// The names of the packages, with the versions that Debian writes into some of them.
fn debian_packages() -> Result<Vec<String>, String> {
    let listed = run(clean("apt-cache").args([
        "depends",
        "--recurse",
        "--important",
        "rustc-web",
        "rust-web-src",
        "libstd-rust-web-dev",
    ]))?;
    let mut packages: Vec<String> = listed
        .lines()
        .filter(|line| !line.starts_with([' ', '|', '<']))
        .filter(|name| DEBIAN_PACKAGES.iter().any(|start| name.starts_with(start)))
        .map(str::to_owned)
        .collect();
    packages.sort();
    packages.dedup();
    if packages.iter().any(|name| name == "rustc-web") {
        Ok(packages)
    } else {
        Err("apt knows no package rustc-web".to_owned())
    }
}
