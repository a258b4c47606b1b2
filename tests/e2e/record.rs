//! What long runs have shown, kept in `tests/RELIABILITY.md`: each run with `WEIR_RECORD=1` writes its own line anew.

use std::path::Path;
use std::process::Command;

/// The variable that asks for it: a short run for a change has nothing to say to readers.
const VARIABLE: &str = "WEIR_RECORD";

const HEAD: &str = "# What the long runs have shown

Written by the tests themselves, by the commands in `tests/e2e/main.rs` with `WEIR_RECORD=1`. The rows are those of the test plan:
2 the collector is killed, 3 both are, 6 simulated seeds, 14 partitions and bad wires, 15 restarts, 16 thousands of streams. A seed makes the same
random choices again; at which moment the kernel does what is not the test's to choose.

| row | story | cycles | figures | seed | commit |
| --- | --- | --- | --- | --- | --- |
";

/// One run.
#[derive(Debug)]
pub(crate) struct Line<'a> {
    /// Rows of the test plan.
    pub(crate) rows: &'a str,
    /// What was done; with `rows` it names the line.
    pub(crate) story: &'a str,
    /// How often.
    pub(crate) cycles: usize,
    /// What came of it.
    pub(crate) figures: String,
    /// The seed of its random choices.
    pub(crate) seed: u64,
}

/// Writes the line of a run that went well, where that is asked for.
pub(crate) fn record(line: &Line<'_>) {
    if std::env::var(VARIABLE).is_ok_and(|value| value == "1") {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("RELIABILITY.md");
        let text = std::fs::read_to_string(&path).unwrap_or_else(|_| HEAD.to_owned());
        std::fs::write(&path, written(&text, line, &commit())).expect("the repository can be written to");
    }
}

/// The text with this line in place of its predecessor, or as its last.
fn written(text: &str, line: &Line<'_>, commit: &str) -> String {
    let Line { rows, story, cycles, figures, seed } = line;
    let name = format!("| {rows} | {story} |");
    let new = format!("{name} {cycles} | {figures} | {seed} | {commit} |");
    let mut lines: Vec<&str> = text.lines().collect();
    match lines.iter_mut().find(|old| old.starts_with(&name)) {
        Some(old) => *old = &new,
        None => lines.push(&new),
    }
    lines.join("\n") + "\n"
}

/// The commit that was run, with a plus where files differ from it; and how it was compiled.
fn commit() -> String {
    let git = |arguments: &[&str]| {
        let mut git = Command::new("git");
        git.args(["-c", "safe.directory=*"]).args(arguments).current_dir(env!("CARGO_MANIFEST_DIR"));
        let output = git.output().ok()?;
        Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let head = git(&["rev-parse", "--short", "HEAD"]).unwrap_or_default();
    let changed = git(&["status", "--porcelain"]).unwrap_or_default();
    // This file itself changes with each run.
    let is_changed = changed.lines().any(|line| !line.ends_with("tests/RELIABILITY.md"));
    let profile = if cfg!(debug_assertions) { "debug" } else { "release" };
    format!("{head}{} {profile}", if is_changed { "+" } else { "" })
}

/// Scenario: a line is written, another one, and the first again.
/// Guarantees: each stands there once, with its newest figures, under the heading.
#[test]
fn a_run_replaces_its_own_line_only() {
    let line =
        |rows, figures: &str| Line { rows, story: "kills", cycles: 3, figures: figures.to_owned(), seed: 7 };
    let text = written(HEAD, &line("2", "old"), "abc release");
    let text = written(&text, &line("16", "other"), "abc release");
    let text = written(&text, &line("2", "new"), "def release");
    let (head, lines) = text.split_at(HEAD.len());
    assert_eq!(head, HEAD);
    assert_eq!(
        lines,
        "| 2 | kills | 3 | new | 7 | def release |\n| 16 | kills | 3 | other | 7 | abc release |\n"
    );
}
