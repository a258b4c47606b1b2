//! Where things lie: the top level, names of files, the map, the sources of the protocols, and what no file may name.

use crate::manifest::{ARROWS, Manifest};
use crate::source::{Complaint, File};

/// What `ls` shows at the top; files that begin with a dot are automation's.
const TOP: [&str; 9] =
    ["Cargo.lock", "Cargo.toml", "LICENSE", "README.md", "host", "plugins", "proto", "tests", "wit"];

/// Names of drawers: all rebuilds when one changes, and nothing in one has a name.
const DRAWERS: [&str; 5] = ["common", "helpers", "misc", "types", "utils"];

/// Folders of one machine, and hosts of registries, split so that this file does not name them.
const MACHINE_WORDS: [&str; 12] = [
    concat!("/wo", "rk/"),
    concat!("/ro", "ot/"),
    concat!("crates", ".io"),
    concat!("pypi", ".org"),
    concat!("pythonhosted", ".org"),
    concat!("registry.npmjs", ".org"),
    concat!("proxy.golang", ".org"),
    concat!("repo.maven.apache", ".org"),
    concat!("repo1.maven", ".org"),
    concat!("deb.debian", ".org"),
    concat!("static.rust-lang", ".org"),
    concat!("sh.rustup", ".rs"),
];

/// The top level holds the floor plan and nothing else.
pub(crate) fn top(paths: &[String]) -> Vec<Complaint> {
    let mut strangers: Vec<_> = paths.iter().map(|path| path.split('/').next().unwrap_or_default()).collect();
    strangers.retain(|name| !TOP.contains(name) && !name.starts_with('.'));
    strangers.sort_unstable();
    strangers.dedup();
    let what = "does not belong at the top; move it into host, plugins, wit, proto or tests, or add it to .gitignore";
    strangers.into_iter().map(|name| Complaint::new(name, 1, what)).collect()
}

/// A file is called by a noun, never by a drawer's name. Others named the packages of protocols.
pub(crate) fn drawers(paths: &[String]) -> Vec<Complaint> {
    let is_drawer = |part: &str| DRAWERS.contains(&part.split('.').next().unwrap_or(part));
    let ours = paths.iter().filter(|path| !path.ends_with(".proto"));
    let found = ours.filter(|path| path.split('/').any(is_drawer));
    let what =
        "a drawer is not a name; put each function next to its only user, or name the file after its noun";
    found.map(|path| Complaint::new(path, 1, what)).collect()
}

/// No file names a folder of one machine or the host of a registry. Lock files do, in cargo's words.
pub(crate) fn machine_words(file: &File) -> Vec<Complaint> {
    if file.name() == "Cargo.lock" {
        return Vec::new();
    }
    let mut found = Vec::new();
    for (at, line) in file.text.lines().enumerate() {
        for word in MACHINE_WORDS.iter().filter(|word| line.contains(**word)) {
            let what = format!(
                "`{word}` is true on one machine only; write a path from the repository's top (CARGO_MANIFEST_DIR in a test), and leave registries to their clients"
            );
            found.push(Complaint::new(&file.path, at + 1, what));
        }
    }
    found
}

/// The rows of a Markdown table that begin with something in backticks: the line and what it is.
fn rows(text: &str) -> Vec<(usize, &str)> {
    text.lines().enumerate().filter_map(|(at, line)| Some((at + 1, row_name(line)?))).collect()
}

fn row_name(line: &str) -> Option<&str> {
    line.strip_prefix('|')?.trim_start().strip_prefix('`')?.split('`').next()
}

/// Each .proto file has a row that says where it came from, and each row a file.
pub(crate) fn proto_sources(sources: &File, paths: &[String]) -> Vec<Complaint> {
    let rows = rows(&sources.text);
    let files: Vec<_> = paths.iter().filter(|path| path.ends_with(".proto")).collect();
    let has_row = |path: &str| rows.iter().any(|(_, row)| path.strip_prefix("proto/") == Some(*row));
    let mut found = Vec::new();
    for path in files.iter().filter(|path| !has_row(path)) {
        let what = "has no row in proto/SOURCES.md; move it under proto/, and say there where it came from, at which commit, under which licence";
        found.push(Complaint::new(path, 1, what));
    }
    for (line, row) in &rows {
        if !files.iter().any(|path| path.strip_prefix("proto/") == Some(row)) {
            found.push(Complaint::new(
                &sources.path,
                *line,
                format!("there is no proto/{row}; remove the row"),
            ));
        }
    }
    found
}

/// The map names each crate's folder in a table, nothing that is not there, and each crate's arrows.
pub(crate) fn map(map: &File, manifests: &[Manifest<'_>], paths: &[String]) -> Vec<Complaint> {
    let rows = rows(&map.text);
    let is_row = |folder: &str| rows.iter().any(|(_, row)| row.trim_end_matches('/') == folder);
    let is_there =
        |row: &str| paths.iter().any(|path| path == row || (row.ends_with('/') && path.starts_with(row)));
    let mut found = Vec::new();
    for folder in manifests.iter().map(Manifest::folder).filter(|folder| !is_row(folder)) {
        let what = format!("no row for `{folder}/`; add one to the table of folders, in reading order");
        found.push(Complaint::new(&map.path, 1, what));
    }
    for (line, row) in rows.iter().filter(|(_, row)| row.contains('/') && !is_there(row)) {
        let what = format!("there is no {row}; remove the row, or end the name of a folder with a slash");
        found.push(Complaint::new(&map.path, *line, what));
    }
    found.extend(map_arrows(map, manifests));
    found
}

/// The map draws each arrow that may be, for each crate that is: `noun ──▶ noun, noun`.
fn map_arrows(map: &File, manifests: &[Manifest<'_>]) -> Vec<Complaint> {
    let is_crate = |noun: &str| manifests.iter().any(|m| m.noun() == noun);
    let drawn = |noun: &str| {
        let mut lines =
            map.text.lines().enumerate().filter_map(|(at, line)| Some((at + 1, line.split_once("──▶")?)));
        lines.find(|(_, (from, _))| from.trim() == noun).map(|(line, (_, to))| {
            let mut to: Vec<_> = to.split(',').map(str::trim).collect();
            to.sort_unstable();
            (line, to)
        })
    };
    let mut found = Vec::new();
    for (noun, all) in ARROWS.iter().filter(|(noun, _)| is_crate(noun)) {
        let wanted: Vec<_> = all.iter().copied().filter(|to| is_crate(to)).collect();
        let (line, to) = drawn(noun).unwrap_or((1, Vec::new()));
        if to != wanted && !(wanted.is_empty() && to == ["nobody"]) {
            let wanted = if wanted.is_empty() { "nobody".to_owned() } else { wanted.join(", ") };
            let what = format!(
                "the arrows of {noun} are not drawn as tests/tidy/manifest.rs has them; write `{noun} ──▶ {wanted}`"
            );
            found.push(Complaint::new(&map.path, line, what));
        }
    }
    found
}

// === each check can fail ===

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(complaints: &[Complaint]) -> Vec<String> {
        complaints.iter().map(|c| c.to_string().split(';').next().unwrap_or_default().to_owned()).collect()
    }

    fn paths(paths: &[&str]) -> Vec<String> {
        paths.iter().map(|path| (*path).to_owned()).collect()
    }

    /// Scenario: a file and a folder at the top that the plan does not have.
    /// Guarantees: each is found once; the plan and files with a dot are not.
    #[test]
    fn a_stranger_at_the_top_is_noticed() {
        let found = top(&paths(&["Cargo.toml", ".ci/run", "host/a", "docs/a", "docs/b", "notes.txt"]));
        assert_eq!(
            shown(&found),
            ["docs:1: does not belong at the top", "notes.txt:1: does not belong at the top"]
        );
    }

    /// Scenario: a file and a folder with drawers' names, and names that only hold one.
    /// Guarantees: the drawers are found.
    #[test]
    fn a_drawer_is_noticed() {
        let found = drawers(&paths(&[
            "host/a/utils.rs",
            "host/common/lib.rs",
            "host/a/typesetting.rs",
            "host/a/uncommon.rs",
        ]));
        assert_eq!(
            shown(&found),
            ["host/a/utils.rs:1: a drawer is not a name", "host/common/lib.rs:1: a drawer is not a name"]
        );
    }

    /// Scenario: each word that is true on one machine only, in a file and in a lock file.
    /// Guarantees: each is found on its line, but not in what cargo wrote.
    #[test]
    fn a_machines_own_path_is_noticed() {
        for word in MACHINE_WORDS {
            let text = format!("a\nsee {word}b\n");
            let found = machine_words(&File::new("a.md", text.as_str()));
            assert!(found.len() == 1 && found[0].to_string().starts_with("a.md:2: "), "{found:?}");
            assert_eq!(machine_words(&File::new("plugins/Cargo.lock", text)).len(), 0);
        }
    }

    /// Scenario: a protocol without a row, one elsewhere, and a row without a protocol.
    /// Guarantees: each is found.
    #[test]
    fn a_protocol_without_a_source_is_noticed() {
        let sources = File::new(
            "proto/SOURCES.md",
            "| file | from |\n| --- | --- |\n| `a/b.proto` | us |\n| `a/gone.proto` | us |\n",
        );
        let found = proto_sources(
            &sources,
            &paths(&["proto/a/b.proto", "proto/a/new.proto", "host/c.proto", "host/c.rs"]),
        );
        let wanted = [
            "proto/a/new.proto:1: has no row in proto/SOURCES.md",
            "host/c.proto:1: has no row in proto/SOURCES.md",
            "proto/SOURCES.md:4: there is no proto/a/gone.proto",
        ];
        assert_eq!(shown(&found), wanted);
    }

    /// Scenario: a map without a crate's row, with a row for a crate that is not there, with an arrow too few and one missing.
    /// Guarantees: each is found; the same map, mended, is right.
    #[test]
    fn a_map_that_is_not_the_territory_is_noticed() {
        let files = ["host/model", "host/queue", "proto/wire"]
            .map(|folder| File::new(format!("{folder}/Cargo.toml"), "[package]\nname = \"x\"\n"));
        let manifests: Vec<_> = files.iter().filter_map(|file| Manifest::new(file).ok().flatten()).collect();
        let wrong = "| `host/model/` | a |\n| `proto/wire/` | a |\n| `host/shed/` | a |\nwire ──▶ nobody\nqueue ──▶ model\n";
        let there = paths(&["host/model/Cargo.toml", "host/queue/Cargo.toml", "proto/wire/Cargo.toml"]);
        let found = map(&File::new("map.md", wrong), &manifests, &there);
        let wanted = [
            "map.md:1: no row for `host/queue/`",
            "map.md:3: there is no host/shed/",
            "map.md:1: the arrows of model are not drawn as tests/tidy/manifest.rs has them",
            "map.md:5: the arrows of queue are not drawn as tests/tidy/manifest.rs has them",
        ];
        assert_eq!(shown(&found), wanted);
        let right = "| `host/model/` | a |\n| `host/queue/` | a |\n| `proto/wire/` | a |\nwire ──▶ nobody\nmodel ──▶ wire\nqueue ──▶ wire, model\n";
        assert_eq!(shown(&map(&File::new("map.md", right), &manifests, &there)), Vec::<String>::new());
    }
}
