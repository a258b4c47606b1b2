//! Requests that real clients have sent, and the examples of the specification.

use std::fs;
use std::path::{Path, PathBuf};

use prost::Message;
use weir_wire::json::{JsonLimits, to_json, to_protobuf};
use weir_wire::{Signal, WalkLimits, walk};

use crate::oracle::{Logs, Metrics, Traces};

/// Where the vectors lie, if they are here.
fn folder() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/vectors/otlp");
    if !folder.is_dir() {
        eprintln!("no vectors at {}, nothing to check", folder.display());
        return None;
    }
    Some(folder)
}

fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let mut files: Vec<_> = ["made-here", "upstream"]
        .iter()
        .flat_map(|part| fs::read_dir(folder.join(part)).expect("a folder of vectors"))
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|found| found == extension))
        .filter(|path| !path.to_string_lossy().ends_with(".request.json"))
        .collect();
    files.sort();
    files
}

fn signal_of(path: &Path) -> Signal {
    let name = path.to_string_lossy();
    match (name.contains("metrics"), name.contains("logs")) {
        (true, _) => Signal::Metrics,
        (_, true) => Signal::Logs,
        _ => Signal::Traces,
    }
}

fn oracle(signal: Signal, body: &[u8]) -> String {
    match signal {
        Signal::Traces => format!("{:?}", Traces::decode(body).expect("a request")),
        Signal::Metrics => format!("{:?}", Metrics::decode(body).expect("a request")),
        Signal::Logs => format!("{:?}", Logs::decode(body).expect("a request")),
    }
}

/// Scenario: every recorded protobuf request.
/// Guarantees: the walk takes it with all its items valid, and it survives JSON unchanged.
#[test]
fn recorded_protobuf_is_taken_and_survives_json() {
    let Some(folder) = folder() else { return };
    let files = files(&folder, "pb");
    assert!(files.len() >= 4, "{files:?}");
    for path in files {
        let signal = signal_of(&path);
        let body = fs::read(&path).expect("a vector");
        let walked =
            walk(signal, &body, &WalkLimits::default()).unwrap_or_else(|error| panic!("{path:?}: {error}"));
        assert!(walked.items > 0 && walked.invalid.is_empty(), "{path:?}: {walked:?}");
        let mut json = Vec::new();
        to_json(signal, &body, &mut json).expect("a request");
        let back = to_protobuf(signal, &json, &JsonLimits::default())
            .unwrap_or_else(|error| panic!("{path:?}: {error}"));
        assert_eq!(oracle(signal, &back), oracle(signal, &body), "{path:?}");
    }
}

/// Scenario: every recorded JSON request, and the examples of the specification.
/// Guarantees: each becomes a request with items, all of them valid, and JSON made of it says the same again.
#[test]
fn recorded_json_is_understood() {
    let Some(folder) = folder() else { return };
    let files = files(&folder, "json");
    assert!(files.len() >= 7, "{files:?}");
    for path in files {
        let signal = signal_of(&path);
        let json = fs::read(&path).expect("a vector");
        let body = to_protobuf(signal, &json, &JsonLimits::default())
            .unwrap_or_else(|error| panic!("{path:?}: {error}"));
        let walked =
            walk(signal, &body, &WalkLimits::default()).unwrap_or_else(|error| panic!("{path:?}: {error}"));
        assert!(walked.items > 0 && walked.invalid.is_empty(), "{path:?}: {walked:?}");
        let mut again = Vec::new();
        to_json(signal, &body, &mut again).expect("a request");
        let back = to_protobuf(signal, &again, &JsonLimits::default()).expect("what was just made");
        assert_eq!(oracle(signal, &back), oracle(signal, &body), "{path:?}");
    }
}

/// Scenario: the concatenation of two requests of two spans each.
/// Guarantees: it is one request of two resources and four spans.
#[test]
fn a_concatenation_is_one_request() {
    let Some(folder) = folder() else { return };
    let body = fs::read(folder.join("made-here/concat_two_trace_requests.pb")).expect("a vector");
    let walked = walk(Signal::Traces, &body, &WalkLimits::default()).expect("a request");
    assert_eq!((walked.resources.len(), walked.items), (2, 4));
}
