//! The clients of `tests/clients` with what they need, installed by name into `target/interop`; and what the READMEs of
//! `plugins/examples` build.
//!
//! ```text
//! target/interop/<what>-<digest of its manifests>/                 installed once; `ready` is written last
//! target/interop/example-<language>-<digest of all that it is>/    the component, built once outside of this repository
//! ```
//!
//! What cannot be installed fails each test that needs it, with all that the package manager said; nothing is left out.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::once::{Installed, cache, installed, made, need, once, run};

/// Where the clients lie.
pub(crate) fn sources(language: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("clients").join(language)
}

/// The interpreter of one of the groups of Python packages, whose pins quarrel with one another.
#[track_caller]
pub(crate) fn python(group: &'static str) -> PathBuf {
    static GROUPS: [(&str, Installed); 7] = [
        ("events", OnceLock::new()),
        ("jaeger", OnceLock::new()),
        ("jaegerotel", OnceLock::new()),
        ("opencensus", OnceLock::new()),
        ("otlp", OnceLock::new()),
        ("prometheus", OnceLock::new()),
        ("protobuf3", OnceLock::new()),
    ];
    let named = GROUPS.iter().find(|(name, _)| *name == group);
    let (_, cell) = named.expect("a group that is there");
    let make = || {
        let requirements = sources("python").join(format!("{group}.txt"));
        let folder = once(&format!("python-{group}"), &[&requirements], |folder| {
            need("python3", &["python3", "python3-venv"])?;
            run(Command::new("python3").args(["-m", "venv"]).arg(folder))?;
            let mut pip = Command::new(folder.join("bin/python"));
            pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]);
            run(pip.arg("--requirement").arg(&requirements))
        });
        Ok(folder?.join("bin/python"))
    };
    installed(cell, make)
}

/// The folder with the Node clients and their modules.
#[track_caller]
pub(crate) fn node() -> PathBuf {
    static FOLDER: Installed = OnceLock::new();
    const SCRIPTS: [&str; 5] = ["jaeger.js", "opencensus_web.js", "opentelemetry.js", "page.js", "zipkin.js"];
    let make = || {
        let source = sources("node");
        let manifests = ["package.json", "package-lock.json"].map(|name| source.join(name));
        let folder = once("node", &[&manifests[0], &manifests[1]], |folder| {
            need("node", &["nodejs"])?;
            need("npm", &["npm"])?;
            for manifest in &manifests {
                copy(manifest, folder)?;
            }
            let mut npm = Command::new("npm");
            npm.args(["ci", "--no-audit", "--no-fund", "--loglevel=error"]);
            run(npm.current_dir(folder))
        })?;
        for script in SCRIPTS {
            copy(&source.join(script), &folder)?;
        }
        let mut bundle = Command::new(folder.join("node_modules/.bin/esbuild"));
        bundle.args(["opencensus_web.js", "--bundle", "--platform=node", "--log-level=warning"]);
        run(bundle.arg("--outfile=opencensus_web.bundle.js").current_dir(&folder))?;
        Ok(folder)
    };
    installed(&FOLDER, make)
}

/// The Go client in this folder.
#[track_caller]
pub(crate) fn go(folder: &'static str) -> PathBuf {
    static PROGRAMS: [(&str, Installed); 2] = [("go", OnceLock::new()), ("go-prometheus", OnceLock::new())];
    let named = PROGRAMS.iter().find(|(name, _)| *name == folder);
    let (_, cell) = named.expect("a folder that is there");
    let make = || {
        need("go", &["golang-go"])?;
        let program = cache()?.join(format!("{folder}-client"));
        let mut build = Command::new("go");
        // Go has a cache of its own: building again costs nothing where nothing has changed.
        build.args(["build", "-o"]).arg(&program).arg(".");
        build.current_dir(sources(folder)).env("GOFLAGS", "-mod=readonly -buildvcs=false");
        run(&mut build)?;
        Ok(program)
    };
    installed(cell, make)
}

/// A program out of Debian's package of its name, unpacked and run where it lies: nothing of it becomes part of the system.
#[track_caller]
pub(crate) fn debian(package: &'static str) -> PathBuf {
    static PACKAGES: [(&str, Installed); 2] =
        [("prometheus", OnceLock::new()), ("prometheus-node-exporter", OnceLock::new())];
    let named = PACKAGES.iter().find(|(name, _)| *name == package);
    let (_, cell) = named.expect("a package that is there");
    let make = || {
        let folder = once(&format!("debian-{package}"), &[], |folder| {
            let download =
                || run(Command::new("apt-get").args(["--quiet=2", "download", package]).current_dir(folder));
            // A machine that never asked what there is knows no package.
            let update = || run(Command::new("apt-get").args(["--quiet=2", "update"]));
            download().or_else(|_| update().and_then(|()| download()))?;
            let listed =
                std::fs::read_dir(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
            let mut files = listed.flatten().map(|entry| entry.path());
            let file = files.find(|path| path.extension().is_some_and(|extension| extension == "deb"));
            let file = file.ok_or_else(|| format!("apt-get downloaded no {package}"))?;
            run(Command::new("dpkg").arg("--extract").arg(file).arg(folder))
        });
        Ok(folder?.join("usr/bin").join(package))
    };
    installed(cell, make)
}

/// The class path of the Java client.
#[track_caller]
pub(crate) fn java() -> String {
    static FOLDER: Installed = OnceLock::new();
    let make = || {
        let source = sources("java");
        let (manifest, program) = (source.join("pom.xml"), source.join("Client.java"));
        once("java", &[&manifest, &program], |folder| {
            need("javac", &["default-jdk-headless"])?;
            need("mvn", &["maven"])?;
            let jars = folder.join("jars");
            let mut maven = Command::new("mvn");
            maven.args(["--quiet", "--batch-mode", "--file"]).arg(&manifest);
            maven.args(["dependency:copy-dependencies", "-DincludeScope=runtime"]);
            run(maven.arg(format!("-DoutputDirectory={}", jars.display())))?;
            let mut compiler = Command::new("javac");
            compiler.args(["-nowarn", "-encoding", "UTF-8", "-d"]).arg(folder.join("classes"));
            run(compiler.arg("-cp").arg(jars.join("*")).arg(&program))
        })
    };
    let folder = installed(&FOLDER, make);
    format!("{}:{}", folder.join("classes").display(), folder.join("jars/*").display())
}

/// The component that an example becomes, by the commands under "Install" and "Build" of its README, in a folder outside
/// of this repository that holds a copy of the example and the contract.
#[track_caller]
pub(crate) fn example(language: &'static str) -> PathBuf {
    static COMPONENTS: [(&str, Installed); 5] = [
        ("c", OnceLock::new()),
        ("go", OnceLock::new()),
        ("javascript", OnceLock::new()),
        ("python", OnceLock::new()),
        ("rust", OnceLock::new()),
    ];
    let named = COMPONENTS.iter().find(|(name, _)| *name == language);
    let (_, cell) = named.expect("an example that is there");
    let component = format!("spans-{language}.wasm");
    let make = || {
        let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let source = top.join("plugins/examples").join(language);
        let contract = top.join("wit/plugin.wit");
        let mut files = committed(&source)?;
        files.push(contract.clone());
        let manifests: Vec<&Path> = files.iter().map(PathBuf::as_path).collect();
        let folder = once(&format!("example-{language}"), &manifests, |folder| {
            for (tool, packages) in [("python3", ["python3", "python3-venv"]), ("npm", ["nodejs", "npm"])] {
                need(tool, &packages)?;
            }
            let away = tempfile::tempdir().map_err(|error| format!("a folder to build in: {error}"))?;
            for file in &files {
                // The contract is the one file that is from elsewhere.
                let inside = file.strip_prefix(&source).unwrap_or(Path::new("wit/plugin.wit"));
                let place = away.path().join(inside);
                copy(file, made(place.parent().expect("a folder of ours"))?)?;
            }
            build(&source.join("README.md"), away.path())?;
            copy(&away.path().join(&component), folder)
        });
        Ok(folder?.join(&component))
    };
    installed(cell, make)
}

/// The files of a folder, without what its READMEs' commands may have left there.
fn committed(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let mut git = Command::new("git");
    git.args(["-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]);
    let output = git.current_dir(folder).output().map_err(|error| format!("{git:?}: {error}"))?;
    let listed = String::from_utf8(output.stdout).map_err(|error| format!("{git:?}: {error}"))?;
    let files: Vec<_> = listed.split_terminator('\0').map(|name| folder.join(name)).collect();
    if files.is_empty() { Err(format!("{}: git lists no file there", folder.display())) } else { Ok(files) }
}

/// Does what a README says, where it says how to install and how to build.
fn build(readme: &Path, folder: &Path) -> Result<(), String> {
    let text = std::fs::read_to_string(readme).map_err(|error| format!("{}: {error}", readme.display()))?;
    let began = std::time::Instant::now();
    for heading in ["Install", "Build"] {
        let commands = commands(&text, heading);
        if commands.is_empty() {
            return Err(format!("{}: expected a block of `sh` under \"{heading}\"", readme.display()));
        }
        let mut shell = Command::new("sh");
        shell.args(["-euxc", &commands]).current_dir(folder);
        // What the outer cargo was told is not what a reader's was.
        for variable in [
            "CARGO_TARGET_DIR",
            "CARGO_BUILD_TARGET",
            "CARGO_ENCODED_RUSTFLAGS",
            "RUSTFLAGS",
            "RUSTC_WRAPPER",
        ] {
            shell.env_remove(variable);
        }
        run(&mut shell).map_err(|why| format!("{}, \"{heading}\": {why}", readme.display()))?;
    }
    eprintln!("{}: built in {} s", readme.display(), began.elapsed().as_secs());
    Ok(())
}

/// The blocks of shell under a heading.
fn commands(text: &str, heading: &str) -> String {
    let mut sections = text.split("\n## ");
    let section = sections.find(|section| section.lines().next() == Some(heading)).unwrap_or_default();
    let blocks = section.split("```sh\n").skip(1);
    blocks.filter_map(|block| block.split("```").next()).collect()
}

fn copy(file: &Path, folder: &Path) -> Result<(), String> {
    let name = file.file_name().expect("a file");
    let copied = std::fs::copy(file, folder.join(name));
    copied.map(drop).map_err(|error| format!("{}: {error}", file.display()))
}

/// Runs to a good end, or says all that was said.
/// Scenario: a README with two blocks under a heading, and others elsewhere.
/// Guarantees: the commands of that heading are found, all of them and no others.
#[test]
fn commands_stand_under_their_heading() {
    let text = "# A\n```sh\nno\n```\n## Install\nYou need a.\n```sh\na\n```\nand b\n```sh\nb \\\n  c\n```\n## Build\n```sh\nd\n```\n";
    assert_eq!(commands(text, "Install"), "a\nb \\\n  c\n");
    assert_eq!(commands(text, "Build"), "d\n");
    assert_eq!(commands(text, "Run"), "");
}
