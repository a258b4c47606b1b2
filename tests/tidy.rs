//! What the linter cannot know: names, arrows, heads, words, floors. Each message names file and line and contains the cure.
//!
//! | file | what it judges |
//! | --- | --- |
//! | `tidy/source.rs` | nothing: a file, a complaint, and views of Rust without comments and strings |
//! | `tidy/rust.rs` | what a Rust file says, how long its functions are, and who may speak of what |
//! | `tidy/manifest.rs` | names of packages, arrows between crates, heavy strangers, the table of dependencies |
//! | `tidy/lock.rs` | locked versions against known holes, bans and sources |
//! | `tidy/plan.rs` | the top level, names of files, the map, the sources of the protocols |
//!
//! A checker is a function over text, and beside each stands the test that shows how it fails. Nothing of ours is linked: the tests
//! read what git would commit, tracked or not yet.

#[path = "tidy/lock.rs"]
mod lock;
#[path = "tidy/manifest.rs"]
mod manifest;
#[path = "tidy/plan.rs"]
mod plan;
#[path = "tidy/rust.rs"]
mod rust;
#[path = "tidy/source.rs"]
mod source;

use std::path::Path;
use std::process::Command;
use std::sync::LazyLock;

use crate::manifest::Manifest;
use crate::source::{Complaint, File, Rust};

/// The repository as git would commit it now.
struct Tree {
    /// All paths from the top, sorted.
    paths: Vec<String>,
    /// Those that are text.
    files: Vec<File>,
}

static TREE: LazyLock<Tree> = LazyLock::new(Tree::read);

// === impl Tree ===

impl Tree {
    fn read() -> Self {
        let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let mut git = Command::new("git");
        // A clone that belongs to somebody else is a clone all the same.
        git.args(["-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]);
        let output = git.current_dir(&top).output().expect("tidy reads the repository with git; install git");
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "tidy reads what git would commit, and git says: {error}");
        let listed = String::from_utf8(output.stdout).expect("paths of this repository are UTF-8");
        let mut paths: Vec<_> = listed.split_terminator('\0').map(str::to_owned).collect();
        // A path that is deleted and not yet committed is listed still.
        paths.retain(|path| top.join(path).is_file());
        paths.sort_unstable();
        paths.dedup();
        let files = paths
            .iter()
            .filter_map(|path| Some(File::new(path, std::fs::read_to_string(top.join(path)).ok()?)));
        Self { files: files.collect(), paths }
    }

    fn file(&self, path: &str) -> &File {
        self.files
            .iter()
            .find(|file| file.path == path)
            .unwrap_or_else(|| panic!("{path}:1: there is no such file; write it"))
    }

    fn rust(&self) -> impl Iterator<Item = &File> {
        self.files.iter().filter(|file| file.is_rust())
    }

    /// The packages, of both workspaces. Others are cases, not rooms: what a test builds, what an author would write who
    /// has the contract and nothing else of ours, and what was built once and is kept.
    fn manifests(&self) -> Vec<Manifest<'_>> {
        const CASES: [&str; 3] = ["/tests/", "plugins/examples/", "tests/frozen/"];
        let is_room = |file: &&File| !CASES.iter().any(|case| file.path.contains(case));
        let all = self.files.iter().filter(|file| file.name() == "Cargo.toml").filter(is_room);
        let read = |file| Manifest::new(file).unwrap_or_else(|broken| panic!("{broken}"));
        all.filter_map(read).collect()
    }

    /// The manifests that hold a table of dependencies for others.
    fn workspaces(&self) -> Vec<&File> {
        let is_root =
            |file: &&File| file.name() == "Cargo.toml" && file.text.contains("[workspace.dependencies]");
        self.files.iter().filter(is_root).collect()
    }

    fn locks(&self) -> Vec<&File> {
        let locks: Vec<_> = self.files.iter().filter(|file| file.name() == "Cargo.lock").collect();
        assert!(!locks.is_empty(), "Cargo.lock:1: there is no lock file; commit the one that cargo wrote");
        locks
    }

    /// Rust files that a `#[cfg(test)] mod name;` in their parent compiles for tests only.
    fn test_only(&self) -> Vec<String> {
        let mut found = Vec::new();
        for parent in self.rust() {
            let stem = parent.path.trim_end_matches(".rs").trim_end_matches("/lib").trim_end_matches("/mod");
            for module in Rust::new(parent).test_modules() {
                let places = [parent.folder(), stem].map(|folder| format!("{folder}/{module}"));
                found.extend(
                    places.into_iter().flat_map(|place| [format!("{place}.rs"), format!("{place}/mod.rs")]),
                );
            }
        }
        found
    }
}

/// Runs a check over each Rust file.
fn over_rust(check: fn(&Rust<'_>) -> Vec<Complaint>) -> Vec<Complaint> {
    TREE.rust().flat_map(|file| check(&Rust::new(file))).collect()
}

fn over_manifests(check: fn(&Manifest<'_>) -> Vec<Complaint>) -> Vec<Complaint> {
    TREE.manifests().iter().flat_map(check).collect()
}

/// Fails with all that is wrong, not with the first of it.
#[track_caller]
fn is_tidy(complaints: Vec<Complaint>) {
    let lines: Vec<_> = complaints.iter().map(Complaint::to_string).collect();
    assert!(lines.is_empty(), "{} untidy:\n{}\n", lines.len(), lines.join("\n"));
}

// === shape ===

/// Scenario: the repository as it would be committed.
/// Guarantees: `ls` at the top shows the floor plan.
#[test]
fn the_top_level_holds_the_floor_plan_and_nothing_else() {
    is_tidy(plan::top(&TREE.paths));
}

/// Scenario: each manifest.
/// Guarantees: a package is named after its folder.
#[test]
fn a_package_is_named_after_its_folder() {
    is_tidy(over_manifests(manifest::name));
}

/// Scenario: each path.
/// Guarantees: no file or folder is a drawer.
#[test]
fn no_file_is_a_drawer() {
    is_tidy(plan::drawers(&TREE.paths));
}

/// Scenario: each manifest's dependencies, those for tests and for builds too.
/// Guarantees: our crates import only whom the table of arrows lets them.
#[test]
fn arrows_point_at_the_vocabulary() {
    is_tidy(over_manifests(manifest::arrows));
}

/// Scenario: each manifest's dependencies.
/// Guarantees: the engine, the database, gRPC and vague errors are imported where they belong.
#[test]
fn heavy_strangers_stay_in_their_rooms() {
    is_tidy(over_manifests(manifest::strangers));
}

/// Scenario: each Rust file outside proto, receiver, opamp, link and tests.
/// Guarantees: none speaks of a generated type.
#[test]
fn generated_types_stop_at_the_door() {
    is_tidy(over_rust(rust::foreign_types));
}

/// Scenario: each function.
/// Guarantees: none is long, and none creeps over a screen.
#[test]
fn a_function_fits_a_screen() {
    is_tidy(over_rust(rust::length));
}

// === promises ===

/// Scenario: each Rust file outside the queue, less what is compiled for tests only.
/// Guarantees: only the queue makes the proofs that success replies consume.
#[test]
fn only_the_queue_vouches() {
    let test_only = TREE.test_only();
    let files = TREE.rust().filter(|file| !test_only.contains(&file.path));
    is_tidy(files.flat_map(|file| rust::proofs(&Rust::new(file))).collect());
}

// === words ===

/// Scenario: each crate's root.
/// Guarantees: it says in one line what the crate will never do.
#[test]
fn each_crate_states_one_invariant() {
    let roots = TREE.manifests().into_iter().map(|manifest| {
        let root = |name: &str| format!("{}/src/{name}.rs", manifest.folder());
        let is_there = |path: &String| TREE.paths.contains(path);
        let found = [root("lib"), root("main")].into_iter().find(is_there);
        TREE.file(&found.unwrap_or_else(|| root("lib")))
    });
    is_tidy(roots.flat_map(rust::invariant).collect());
}

/// Scenario: each Rust file.
/// Guarantees: it begins by saying what it is.
#[test]
fn each_module_says_what_it_is() {
    is_tidy(TREE.rust().flat_map(rust::head).collect());
}

/// Scenario: code and comments of Rust, and each other text.
/// Guarantees: no stub, no ignored test, no private note.
#[test]
fn no_private_note_and_no_stub_is_merged() {
    let mut found = over_rust(rust::banned_words);
    let others = TREE.files.iter().filter(|file| !file.is_rust());
    found.extend(others.flat_map(|file| rust::notes(&file.path, &file.text)));
    is_tidy(found);
}

/// Scenario: each attribute.
/// Guarantees: an exception to a lint says why it stands.
#[test]
fn an_exception_to_a_lint_carries_a_reason() {
    is_tidy(over_rust(rust::exceptions));
}

/// Scenario: each text, and each manifest's paths.
/// Guarantees: none names a folder of one machine or the host of a registry.
#[test]
fn nothing_is_true_on_one_machine_only() {
    let manifests = TREE.files.iter().filter(|file| file.name() == "Cargo.toml");
    let paths = manifests.flat_map(manifest::absolute_paths);
    is_tidy(TREE.files.iter().flat_map(plan::machine_words).chain(paths).collect());
}

/// Scenario: host/ARCHITECTURE.md beside the manifests and the table of arrows.
/// Guarantees: a newcomer's map shows each crate and each arrow, and none that is not there.
#[test]
fn the_map_is_the_territory() {
    is_tidy(plan::map(TREE.file("host/ARCHITECTURE.md"), &TREE.manifests(), &TREE.paths));
}

/// Scenario: proto/SOURCES.md beside the .proto files.
/// Guarantees: each says where it came from.
#[test]
fn each_protocol_file_has_a_source() {
    is_tidy(plan::proto_sources(TREE.file("proto/SOURCES.md"), &TREE.paths));
}

// === dependencies ===

/// Scenario: both workspaces' tables and all members.
/// Guarantees: features are declared once, each line has a sentence, and each is used.
#[test]
fn dependencies_stand_in_one_table_with_a_sentence_each() {
    let mut found = over_manifests(manifest::inherits);
    let manifests = TREE.manifests();
    let (guests, members): (Vec<_>, Vec<_>) =
        manifests.into_iter().partition(|m| m.folder().starts_with("plugins/"));
    for root in TREE.workspaces() {
        found.extend(manifest::sentences(root));
        found.extend(manifest::unused(root, if root.folder().is_empty() { &members } else { &guests }));
    }
    is_tidy(found);
}

/// Scenario: both lock files.
/// Guarantees: nothing is locked that has a hole which we know of.
#[test]
fn locked_versions_are_above_the_floors() {
    is_tidy(TREE.locks().into_iter().flat_map(lock::floors).collect());
}

/// Scenario: both lock files beside .deny.toml.
/// Guarantees: nothing banned is locked, and all comes from the default registry or from here.
#[test]
fn nothing_banned_is_locked() {
    let deny = TREE.file(".deny.toml");
    let locks = TREE.locks();
    is_tidy(
        locks
            .into_iter()
            .flat_map(|file| lock::bans(file, deny).into_iter().chain(lock::sources(file)))
            .collect(),
    );
}
