//! Files of targets that come, change, break and go.

use std::fs::FileTimes;
use std::time::SystemTime;

use tempfile::TempDir;

use super::super::job::TargetFiles;
use super::*;

const REFRESH: Duration = Duration::from_secs(300);

fn discovery(folder: &TempDir, patterns: &[&str]) -> Discovery {
    let patterns = patterns.iter().map(|pattern| folder.path().join(pattern)).collect();
    let job = Job { files: vec![TargetFiles { patterns, refresh: REFRESH }], ..Job::named("files") };
    Discovery::new([job].into())
}

/// Writes a file of which nobody could say by its time that it is the one before.
fn write(folder: &TempDir, name: &str, text: &str) {
    let (path, new) = (folder.path().join(name), folder.path().join(".new"));
    fs::write(&new, text).unwrap();
    fs::rename(&new, &path).unwrap();
}

fn instances(discovery: &mut Discovery) -> Vec<String> {
    let found = discovery.roster().found;
    let mut names: Vec<String> = found
        .iter()
        .map(|found| found.target.labels.iter().find(|(name, _)| name == "instance").unwrap().1.clone())
        .collect();
    names.sort();
    names
}

/// Scenario: files in JSON and YAML, two patterns that meet the same file, a file with another ending, a target twice.
/// Guarantees: each target is there once, with its group's labels; the other file is not read.
#[test]
fn files_of_both_forms_are_read_and_targets_are_one() {
    let folder = TempDir::new().unwrap();
    write(
        &folder,
        "a.json",
        r#"[{"targets": ["a:1", "a:1"], "labels": {"env": "prod"}}, {"targets": ["b:1"]}]"#,
    );
    write(&folder, "c.yml", "- targets: ['c:1']\n  labels: {port: 9100}\n- targets: [d:1]\n");
    write(&folder, "e.txt", "[{\"targets\": [\"e:1\"]}]");
    let mut discovery = discovery(&folder, &["*.json", "a.json", "*.yml"]);
    assert!(discovery.look(Instant::now()));
    assert_eq!(instances(&mut discovery), ["a:1", "b:1", "c:1", "d:1"]);
    let labels: Vec<String> =
        discovery.roster().found.iter().map(|found| format!("{:?}", found.target.labels)).collect();
    assert!(labels[0].contains(r#"("env", "prod")"#), "{labels:?}");
    assert!(labels.iter().any(|labels| labels.contains(r#"("port", "9100")"#)), "{labels:?}");
    assert!(discovery.complaints().is_empty());
}

/// Scenario: a file changes, another comes, one goes; nothing happens in between.
/// Guarantees: a look sees each within its own time, and says so only where something is another.
#[test]
fn changes_are_seen_at_the_next_look() {
    let folder = TempDir::new().unwrap();
    write(&folder, "a.json", r#"[{"targets": ["a:1"]}]"#);
    let mut discovery = discovery(&folder, &["*.json"]);
    let now = Instant::now();
    assert!(discovery.look(now));
    assert!(!discovery.look(now));
    write(&folder, "a.json", r#"[{"targets": ["a:2"]}]"#);
    write(&folder, "b.json", r#"[{"targets": ["b:1"]}]"#);
    assert!(discovery.look(now));
    assert_eq!(instances(&mut discovery), ["a:2", "b:1"]);
    fs::remove_file(folder.path().join("a.json")).unwrap();
    assert!(discovery.look(now));
    assert_eq!(instances(&mut discovery), ["b:1"]);
}

/// Scenario: a file is written in place, with the same length and the time that it had; then the refresh interval is over.
/// Guarantees: the change is seen at the latest then.
#[test]
fn a_file_is_read_again_at_its_refresh() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("a.json");
    let same = FileTimes::new().set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000));
    let write = |text: &str| {
        fs::write(&path, text).unwrap();
        File::options().write(true).open(&path).unwrap().set_times(same).unwrap();
    };
    write(r#"[{"targets": ["a:1"]}]"#);
    let mut discovery = discovery(&folder, &["a.json"]);
    let now = Instant::now();
    assert!(discovery.look(now));
    write(r#"[{"targets": ["a:2"]}]"#);
    assert!(!discovery.look(now + REFRESH / 2));
    assert!(discovery.look(now + REFRESH));
    assert_eq!(instances(&mut discovery), ["a:2"]);
}

/// Scenario: a file breaks in every way that files break, and is mended.
/// Guarantees: its last good targets stay, it is complained of by name, and the complaint ends with the mending.
#[test]
fn a_broken_file_keeps_what_it_said() {
    let folder = TempDir::new().unwrap();
    write(&folder, "a.json", r#"[{"targets": ["a:1"]}]"#);
    write(&folder, "b.yml", "- targets: [b:1]\n");
    let mut discovery = discovery(&folder, &["a.json", "b.yml"]);
    let now = Instant::now();
    assert!(discovery.look(now));
    let broken = [
        ("a.json", "[{"),
        ("a.json", r#"{"targets": ["a:2"]}"#),
        ("a.json", r#"[{"targets": ["a:2"], "lables": {}}]"#),
        ("a.json", r#"[{"targets": ["http://a:2"]}]"#),
        ("a.json", r#"[{"targets": [7]}]"#),
        ("b.yml", "- targets: [b:2\n"),
        ("b.yml", "- targets: b:2\n"),
        ("b.yml", "- targets: [b:2/metrics]\n"),
    ];
    for (name, text) in broken {
        write(&folder, name, text);
        assert!(!discovery.look(now), "{text} was taken");
        assert_eq!(instances(&mut discovery), ["a:1", "b:1"]);
        assert!(
            discovery.complaints().iter().any(|text| text.contains(name)),
            "{:?}",
            discovery.complaints()
        );
    }
    write(&folder, "a.json", r#"[{"targets": ["a:3"]}]"#);
    write(&folder, "b.yml", "");
    assert!(discovery.look(now));
    assert_eq!(instances(&mut discovery), ["a:3"]);
    assert!(discovery.complaints().is_empty());
}

/// Scenario: a file with more targets than a receiver has, and two that have more together.
/// Guarantees: the first is broken; of the two, what is over the bound is left out and counted.
#[test]
fn targets_are_bounded() {
    let folder = TempDir::new().unwrap();
    let many = |host: &str, count: usize| {
        let targets: Vec<String> = (0..count).map(|index| format!("{host}{index}:1")).collect();
        serde_json::json!([{ "targets": targets }]).to_string()
    };
    write(&folder, "a.json", &many("a", TARGETS_MAX + 1));
    let mut discovery = discovery(&folder, &["*.json"]);
    let now = Instant::now();
    discovery.look(now);
    assert!(discovery.complaints()[0].contains("100001 targets"), "{:?}", discovery.complaints());
    assert!(discovery.roster().found.is_empty());
    write(&folder, "a.json", &many("a", TARGETS_MAX));
    write(&folder, "b.json", &many("b", 2));
    assert!(discovery.look(now));
    let roster = discovery.roster();
    assert_eq!((roster.found.len(), roster.left_out), (TARGETS_MAX, 2));
}

/// Scenario: static targets of two jobs, some the same, some none.
/// Guarantees: a target of each job is one of its own; what is none is left out and counted.
#[test]
fn jobs_have_targets_of_their_own() {
    let group = |targets: &[&str]| Group {
        targets: targets.iter().map(|it| (*it).to_owned()).collect(),
        labels: Vec::new(),
    };
    let jobs = [
        Job { groups: vec![group(&["a:1", "a:1", "b:1"]), group(&["a:1"])], ..Job::named("one") },
        Job { groups: vec![group(&["a:1", "bad address"])], ..Job::named("two") },
    ];
    let mut discovery = Discovery::new(jobs.into());
    assert!(discovery.is_fixed());
    let roster = discovery.roster();
    assert_eq!((roster.found.len(), roster.left_out), (3, 1));
    assert_eq!(roster.found.iter().map(|found| found.job).collect::<Vec<_>>(), [0, 0, 1]);
}
