//! What the manifests say: names, arrows, strangers, and one table with a sentence a line.

use toml::{Table, Value};

use crate::source::{Complaint, File};

/// Which of our crates each may import. A new arrow between siblings is a design change: it gets a commit of
/// its own, a row here, and a line in host/ARCHITECTURE.md, which the test of the map compares with this table.
pub(crate) const ARROWS: [(&str, &[&str]); 13] = [
    ("wire", &[]),
    ("proto", &[]),
    ("model", &["wire"]),
    ("net", &["model"]),
    ("queue", &["model", "wire"]),
    ("pipeline", &["model", "wire"]),
    ("receiver", &["model", "net", "proto", "wire"]),
    ("exporter", &["model", "net", "proto", "queue", "wire"]),
    ("plugin", &["model", "net", "wire"]),
    ("link", &["model", "net", "proto", "queue", "wire"]),
    ("opamp", &["model", "net", "proto", "queue", "wire"]),
    (
        "daemon",
        &[
            "exporter", "link", "model", "net", "opamp", "pipeline", "plugin", "proto", "queue", "receiver",
            "wire",
        ],
    ),
    ("tests", &["exposition", "link", "model", "proto", "queue", "wire"]),
];

/// What a package in plugins/ may import of ours: what any author has, and the codecs that receiver and exporter of one format
/// share.
const GUEST_ARROWS: &[&str] = &["exposition", "guest", "prometheus", "remote-write", "thrift", "wire"];

/// Strangers that are heavy, or that decide much: which crates may import them, and what to do instead.
const STRANGERS: [(&str, &[&str], &str); 5] = [
    ("wasmtime", &["plugin"], "speak to a guest through the traits of host/model/src/contract.rs"),
    ("wasmtime-wasi", &["plugin"], "speak to a guest through the traits of host/model/src/contract.rs"),
    ("redb", &["queue"], "keep it in a log of host/queue, or add a store there"),
    (
        "tonic",
        &["daemon", "exporter", "link", "net", "opamp", "proto", "receiver", "tests"],
        "put the conversion into host/receiver, or the call into host/exporter",
    ),
    ("anyhow", &["daemon", "tests"], "name the decision in an error of your own with thiserror"),
];

/// Crates whose strangers are all listed: the language stays small, and guests share the wire.
const FEW_STRANGERS: [(&str, &[&str]); 2] = [("model", &["bytes", "thiserror"]), ("wire", &[])];

/// The words of a sentence beside a dependency below which it says nothing.
const SENTENCE_WORDS_MIN: usize = 2;

/// The manifest of a package.
pub(crate) struct Manifest<'a> {
    pub(crate) file: &'a File,
    table: Table,
}

/// One line of a dependency table.
struct Dependency<'a> {
    name: &'a str,
    value: &'a Value,
    is_dev: bool,
    line: usize,
}

// === impl Manifest ===

impl<'a> Manifest<'a> {
    /// The manifest of a package, or nothing for one that only holds a workspace together.
    ///
    /// # Errors
    /// The text is not TOML.
    pub(crate) fn new(file: &'a File) -> Result<Option<Self>, Complaint> {
        let table = table(file)?;
        Ok(table.contains_key("package").then_some(Self { file, table }))
    }

    pub(crate) fn folder(&self) -> &str {
        self.file.folder()
    }

    /// The noun: the last folder of the path.
    pub(crate) fn noun(&self) -> &str {
        self.folder().rsplit('/').next().unwrap_or_default()
    }

    fn is_guest(&self) -> bool {
        self.folder().starts_with("plugins/")
    }

    fn dependencies(&self) -> Vec<Dependency<'_>> {
        let targets = self.table.get("target").and_then(Value::as_table);
        let places =
            targets.into_iter().flat_map(Table::values).filter_map(Value::as_table).chain([&self.table]);
        let mut found = Vec::new();
        for place in places {
            for kind in ["dependencies", "dev-dependencies", "build-dependencies"] {
                let is_dev = kind.starts_with("dev");
                for (key, value) in place.get(kind).and_then(Value::as_table).into_iter().flatten() {
                    let name = value.get("package").and_then(Value::as_str).unwrap_or(key);
                    found.push(Dependency { name, value, is_dev, line: key_line(&self.file.text, key) });
                }
            }
        }
        found
    }

    fn complain(&self, line: usize, what: impl Into<String>) -> Complaint {
        Complaint::new(&self.file.path, line, what)
    }
}

/// Parses a file as TOML.
///
/// # Errors
/// It is none.
pub(crate) fn table(file: &File) -> Result<Table, Complaint> {
    toml::from_str(&file.text).map_err(|error| {
        let what = format!("no TOML ({}); mend the line that the parser names", error.message());
        Complaint::new(&file.path, error.span().map_or(1, |span| line_at(&file.text, span.start)), what)
    })
}

fn line_at(text: &str, at: usize) -> usize {
    text[..at.min(text.len())].matches('\n').count() + 1
}

/// The first line that gives `key` a value or a sub-key.
fn key_line(text: &str, key: &str) -> usize {
    let sets = |line: &str| {
        let rest = line.trim_start().trim_start_matches('"').strip_prefix(key);
        rest.is_some_and(|rest| rest.trim_start_matches(['"', ' ']).starts_with(['=', '.']))
    };
    text.lines().position(sets).map_or(1, |at| at + 1)
}

// === names ===

/// `ls` shows the architecture: the package is the folder, with `weir-` before it.
pub(crate) fn name(manifest: &Manifest<'_>) -> Vec<Complaint> {
    let noun = manifest.noun();
    let wanted = format!("weir-{noun}");
    let said = manifest.table["package"].get("name").and_then(Value::as_str).unwrap_or_default();
    // A bundled plugin may bear its own name, which is the name that an operator writes.
    if said == wanted || (manifest.is_guest() && said == noun) {
        return Vec::new();
    }
    let what = format!(
        "the package in {} is called `{said}`; call it `{wanted}`, or rename the folder",
        manifest.folder()
    );
    vec![manifest.complain(key_line(&manifest.file.text, "name"), what)]
}

// === arrows and strangers ===

/// Our crates import only whom the table of arrows lets them.
pub(crate) fn arrows(manifest: &Manifest<'_>) -> Vec<Complaint> {
    let noun = manifest.noun();
    let row = ARROWS.iter().find(|(from, _)| *from == noun).map(|(_, to)| *to);
    let allowed = if manifest.is_guest() { Some(GUEST_ARROWS) } else { row };
    let Some(allowed) = allowed else {
        let what = format!(
            "no row of arrows for `{noun}`; decide whom it may import, and add the row to tests/tidy/manifest.rs"
        );
        return vec![manifest.complain(1, what)];
    };
    let mut found = Vec::new();
    for dependency in manifest.dependencies() {
        let Some(to) = dependency.name.strip_prefix("weir-") else {
            continue;
        };
        if !allowed.contains(&to) {
            let what = format!(
                "{noun} may not import {to}, only [{}]; move what you need to where both may see it (model, wire), or hand it in through a trait of host/model/src/contract.rs",
                allowed.join(", ")
            );
            found.push(manifest.complain(dependency.line, what));
        }
    }
    found
}

/// Heavy strangers stay in the rooms that were made for them.
pub(crate) fn strangers(manifest: &Manifest<'_>) -> Vec<Complaint> {
    let noun = manifest.noun();
    let mut found = Vec::new();
    for dependency in manifest.dependencies() {
        let name = dependency.name;
        let row = STRANGERS.iter().find(|(stranger, rooms, _)| *stranger == name && !rooms.contains(&noun));
        if let Some((_, rooms, cure)) = row {
            let what = format!("{noun} may not import {name}, only {} may; {cure}", rooms.join(", "));
            found.push(manifest.complain(dependency.line, what));
        }
        let few = FEW_STRANGERS.iter().find(|(of, _)| *of == noun).map(|(_, few)| *few);
        if few.is_some_and(|few| !dependency.is_dev && !name.starts_with("weir-") && !few.contains(&name)) {
            let what = format!(
                "{noun} imports {name}, and it is kept nearly free of strangers; do this in the crate that needs it"
            );
            found.push(manifest.complain(dependency.line, what));
        }
    }
    found
}

// === one table, a sentence a line ===

/// A member takes its dependencies from the workspace's table, so that features are declared once. Tests may add features to what
/// they take from there: what only they need does not belong into the program.
pub(crate) fn inherits(manifest: &Manifest<'_>) -> Vec<Complaint> {
    // The wire is shared with the guests' workspace and can inherit from neither.
    if manifest.noun() == "wire" || manifest.is_guest() {
        return Vec::new();
    }
    let dependencies = manifest.dependencies();
    let own = dependencies.iter().filter(|d| {
        let has_features = d.value.get("features").is_some() && !d.is_dev;
        d.value.get("workspace").and_then(Value::as_bool) != Some(true) || has_features
    });
    let complaints = own.map(|d| {
        let what = format!(
            "{} is declared here with a version or features of its own; move them to [workspace.dependencies] and write `{}.workspace = true`",
            d.name, d.name
        );
        manifest.complain(d.line, what)
    });
    complaints.collect()
}

/// Each stranger in a workspace's table has a sentence on its line.
pub(crate) fn sentences(root: &File) -> Vec<Complaint> {
    let mut found = Vec::new();
    let mut is_table = false;
    for (at, line) in root.text.lines().enumerate() {
        if line.starts_with('[') {
            is_table = line.trim_end() == "[workspace.dependencies]";
            continue;
        }
        let Some((name, rest)) = line.split_once('=').filter(|_| is_table && !line.starts_with('#')) else {
            continue;
        };
        let said = comment(rest).split_whitespace().count();
        if !rest.contains("path = ") && said < SENTENCE_WORDS_MIN {
            let what = format!(
                "{} stands without a sentence; say on its line what it is for, after a `#`",
                name.trim()
            );
            found.push(Complaint::new(&root.path, at + 1, what));
        }
    }
    found
}

/// What stands after the `#` that no string holds.
fn comment(line: &str) -> &str {
    let mut is_string = false;
    let start = line.find(|c| {
        is_string ^= c == '"';
        c == '#' && !is_string
    });
    start.map_or("", |at| &line[at + 1..])
}

/// Each line of a workspace's table is used by a member.
pub(crate) fn unused(root: &File, members: &[Manifest<'_>]) -> Vec<Complaint> {
    let Ok(table) = table(root) else { return Vec::new() };
    let declared = table.get("workspace").and_then(|w| w.get("dependencies")).and_then(Value::as_table);
    let is_used = |name: &str| members.iter().any(|m| m.dependencies().iter().any(|d| d.name == name));
    let lost = declared.into_iter().flat_map(Table::keys).filter(|name| !is_used(name));
    let complaints = lost.map(|name| {
        let what = format!("no member imports {name}; remove the line (a floor for what others bring belongs into tests/tidy/lock.rs)");
        Complaint::new(&root.path, key_line(&root.text, name), what)
    });
    complaints.collect()
}

/// A path in a manifest leads from the manifest, not from the root of somebody's disk.
pub(crate) fn absolute_paths(file: &File) -> Vec<Complaint> {
    let lines = file.text.lines().enumerate().filter(|(_, line)| line.contains("path = \"/"));
    let what = "a path that is there on one machine only; write it relative to this manifest";
    lines.map(|(at, _)| Complaint::new(&file.path, at + 1, what)).collect()
}

// === each check can fail ===

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs `check` over a manifest at `path` with these lines after its name.
    fn complaints(path: &str, lines: &str, check: fn(&Manifest<'_>) -> Vec<Complaint>) -> Vec<String> {
        let file = File::new(path, format!("[package]\nname = \"weir-queue\"\n{lines}"));
        let manifest = Manifest::new(&file).expect("the text is TOML").expect("it names a package");
        check(&manifest).iter().map(Complaint::to_string).collect()
    }

    /// Scenario: a manifest that is no TOML.
    /// Guarantees: the complaint names the line.
    #[test]
    fn a_broken_manifest_is_noticed() {
        let file = File::new("host/x/Cargo.toml", "[package]\nname =\n");
        let complaint = Manifest::new(&file).err().expect("a value is missing");
        assert!(complaint.to_string().starts_with("host/x/Cargo.toml:2: no TOML"), "{complaint}");
    }

    /// Scenario: the package `weir-queue` in the folders queue, log, and in plugins.
    /// Guarantees: a name that is not the folder's is found.
    #[test]
    fn a_package_that_is_not_named_after_its_folder_is_noticed() {
        assert_eq!(complaints("host/queue/Cargo.toml", "", name).len(), 0);
        assert_eq!(complaints("plugins/weir-queue/Cargo.toml", "", name).len(), 0);
        let found = complaints("host/log/Cargo.toml", "", name);
        let wanted = "host/log/Cargo.toml:2: the package in host/log is called `weir-queue`; call it `weir-log`, or rename the folder";
        assert_eq!(found, [wanted]);
    }

    /// Scenario: the queue imports the network: for real, for tests, for one platform, and renamed; a plugin imports the model.
    /// Guarantees: each is found on its line.
    #[test]
    fn an_arrow_that_is_not_in_the_table_is_noticed() {
        let check = |lines| complaints("host/queue/Cargo.toml", lines, arrows);
        assert_eq!(check("[dependencies]\nweir-model.workspace = true\n").len(), 0);
        let found = check("[dependencies]\nweir-model.workspace = true\nweir-net.workspace = true\n");
        assert!(
            found[0].starts_with("host/queue/Cargo.toml:5: queue may not import net, only [model, wire];"),
            "{found:?}"
        );
        assert_eq!(check("[dev-dependencies]\nweir-net = { workspace = true }\n").len(), 1);
        assert_eq!(check("[target.'cfg(unix)'.build-dependencies]\nweir-net.workspace = true\n").len(), 1);
        assert_eq!(check("[dependencies]\nn = { package = \"weir-net\", path = \"../net\" }\n").len(), 1);
        assert_eq!(complaints("host/shed/Cargo.toml", "", arrows).len(), 1);
        let guest =
            "[dependencies]\nweir-guest.path = \"../guest\"\nweir-model.path = \"../../host/model\"\n";
        assert_eq!(complaints("plugins/weir-queue/Cargo.toml", guest, arrows).len(), 1);
    }

    /// Scenario: strangers in rooms that were not made for them.
    /// Guarantees: each is found; where it may be, it is not.
    #[test]
    fn a_stranger_in_the_wrong_room_is_noticed() {
        let check = |path, name: &str| {
            complaints(path, &format!("[dependencies]\n{name} = \"1\"\n"), strangers).len()
        };
        for (name, right) in [
            ("wasmtime", "host/plugin/Cargo.toml"),
            ("wasmtime-wasi", "host/plugin/Cargo.toml"),
            ("redb", "host/queue/Cargo.toml"),
            ("tonic", "host/receiver/Cargo.toml"),
            ("anyhow", "tests/Cargo.toml"),
            ("bytes", "host/model/Cargo.toml"),
        ] {
            assert_eq!(check(right, name), 0, "{name} in {right}");
            assert!(check("proto/wire/Cargo.toml", name) > 0, "{name} in the wire");
        }
        assert_eq!(check("host/model/Cargo.toml", "tokio"), 1);
        assert_eq!(check("host/pipeline/Cargo.toml", "tonic"), 1);
    }

    /// Scenario: a member with a version of its own, and one that adds features.
    /// Guarantees: both are found.
    #[test]
    fn a_dependency_outside_the_table_is_noticed() {
        let check = |line: &str| {
            complaints("host/queue/Cargo.toml", &format!("[dependencies]\n{line}\n"), inherits).len()
        };
        assert_eq!(check("redb.workspace = true"), 0);
        assert_eq!(check("redb = \"4\""), 1);
        assert_eq!(check("redb = { workspace = true, features = [\"x\"] }"), 1);
    }

    /// Scenario: lines with a sentence, without, and with a `#` in a string only.
    /// Guarantees: those without are found; ours and other tables need none.
    #[test]
    fn a_dependency_without_a_sentence_is_noticed() {
        let text = "[package]\nname = \"x\"\n[workspace.dependencies]\nweir-a = { path = \"a\" }\nb = \"1\" # a sentence\nc = \"1\"\nd = \"#no sentence here\"\n# e = \"1\"\n[profile.dev]\nf = 1\n";
        let found = sentences(&File::new("Cargo.toml", text));
        let shown: Vec<_> =
            found.iter().map(|c| c.to_string().split(' ').take(2).collect::<Vec<_>>().join(" ")).collect();
        assert_eq!(shown, ["Cargo.toml:6: c", "Cargo.toml:7: d"]);
    }

    /// Scenario: a dependency at an absolute path and one at a relative path.
    /// Guarantees: the absolute one is found.
    #[test]
    fn an_absolute_path_is_noticed() {
        let text = "[dependencies]\na = { path = \"../a\" }\nb = { path = \"/b\" }\n";
        let found = absolute_paths(&File::new("Cargo.toml", text));
        assert!(found.len() == 1 && found[0].to_string().starts_with("Cargo.toml:3: a path"), "{found:?}");
    }

    /// Scenario: a table of two, of which a member imports one.
    /// Guarantees: the other is found.
    #[test]
    fn a_dependency_that_nobody_imports_is_noticed() {
        let root = File::new("Cargo.toml", "[workspace.dependencies]\nb = \"1\"\nc = \"1\"\n");
        let file = File::new(
            "host/a/Cargo.toml",
            "[package]\nname = \"weir-a\"\n[dependencies]\nb.workspace = true\n",
        );
        let member = Manifest::new(&file).expect("the text is TOML").expect("it names a package");
        let found = unused(&root, &[member]);
        assert!(
            found.len() == 1 && found[0].to_string().starts_with("Cargo.toml:3: no member imports c;"),
            "{found:?}"
        );
    }
}
