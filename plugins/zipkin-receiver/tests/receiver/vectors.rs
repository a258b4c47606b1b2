//! What real senders have sent, and what OTLP it is.
//!
//! The vectors lie in `../shared/vectors/zipkin` beside the repository, each with a note in `ORIGINS.md` that
//! says whether it is accepted. Beside this test lies what an accepted one becomes:
//! `tests/cases/zipkin/<file>.otlp.txt`, written from the mapping's tables (`tests/cases/zipkin/README.md`
//! says how to read it). The texts are not rewritten by this test, whatever it finds.

use std::fs;
use std::path::{Path, PathBuf};

use zipkin_receiver::{Refused, Spelling, read};

use crate::text;

/// Accepted vectors, and what they are.
pub(crate) const ACCEPTED: [(&str, Spelling); 23] = [
    ("upstream/ascend.json", Spelling::JsonV2),
    ("upstream/envoy.json", Spelling::JsonV2),
    ("upstream/messaging-kafka.json", Spelling::JsonV2),
    ("upstream/simple-db-p6.json", Spelling::JsonV2),
    ("upstream/yelp.json", Spelling::JsonV2),
    ("upstream/smartthings-oauth-authorization.json", Spelling::JsonV2),
    ("upstream/zipkin2-chinese.json", Spelling::JsonV2),
    ("upstream/zipkin_v2_01.json", Spelling::JsonV2),
    ("upstream/contrib_sample3.json", Spelling::JsonV2),
    ("upstream/zipkin_v1_single_batch.json", Spelling::JsonV1),
    ("upstream/zipkin_v1_local_component.json", Spelling::JsonV1),
    ("upstream/zipkin_v1_merged_spans.json", Spelling::JsonV1),
    ("upstream/zipkin_v1_thrift_single_batch.json", Spelling::Thrift),
    ("upstream/zipkin_thrift_v1_merged_spans.json", Spelling::Thrift),
    ("made-here/py_zipkin_1.2.8_v1.json", Spelling::JsonV1),
    ("made-here/py_zipkin_1.2.8_v2.json", Spelling::JsonV2),
    ("made-here/py_zipkin_1.2.8_v2.pb", Spelling::Proto3),
    ("made-here/otel_js_exporter_zipkin_2.12.1.json", Spelling::JsonV2),
    ("made-here/zipkin_js_0.22_v1.json", Spelling::JsonV1),
    ("made-here/zipkin_js_0.22_v2.json", Spelling::JsonV2),
    ("made-here/reject/accept_short_ids.json", Spelling::JsonV2),
    ("made-here/reject/accept_empty_list.json", Spelling::JsonV2),
    ("made-here/reject/accept_nulls.json", Spelling::JsonV2),
];

/// Refused vectors, and how the answer begins.
const REFUSED: [(&str, &str); 7] = [
    (
        "uppercase_trace_id.json",
        "48485A3953BB6124 should be lower-hex encoded with no prefix reading List<Span> from json",
    ),
    ("null_trace_id.json", "Expected a string but was NULL"),
    ("missing_id.json", "Missing : id reading List<Span> from json"),
    ("non_string_tag.json", "Expected a string but was BOOLEAN"),
    ("incomplete_annotation.json", "Incomplete annotation at "),
    ("bad_port.json", "invalid port 65536 reading List<Span> from json"),
    ("not_a_list.json", "Expected a JSON_V2 encoded list\n"),
];

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The folder of the vectors, where it is there.
pub(crate) fn vectors() -> Option<PathBuf> {
    let vectors = repository().join("../shared/vectors/zipkin");
    if !vectors.is_dir() {
        eprintln!("{} is absent: nothing to compare", vectors.display());
        return None;
    }
    Some(vectors)
}

/// A vector as a request's body: one object alone becomes a list, a rendering of thrift becomes thrift.
pub(crate) fn body(vectors: &Path, file: &str, spelling: Spelling) -> Vec<u8> {
    let body = fs::read(vectors.join(file)).expect(file);
    if spelling == Spelling::Thrift {
        return crate::thrift::encode(&body);
    }
    if body.starts_with(b"{") { [b"[", &*body, b"]"].concat() } else { body }
}

/// Scenario: every vector that its note accepts, or says nothing against.
/// Guarantees: it is accepted and gives the reviewed OTLP.
#[test]
fn an_accepted_vector_gives_the_reviewed_otlp() {
    let Some(vectors) = vectors() else { return };
    let mut wrong = Vec::new();
    for (file, spelling) in ACCEPTED {
        let name = Path::new(file).file_name().and_then(|name| name.to_str()).expect("a file");
        let reviewed = repository().join(format!("tests/cases/zipkin/{name}.otlp.txt"));
        let expected =
            fs::read_to_string(&reviewed).unwrap_or_else(|error| panic!("{}: {error}", reviewed.display()));
        let bodies = read(&body(&vectors, file, spelling), spelling)
            .unwrap_or_else(|refused| panic!("{file}: {refused:?}"));
        let got = text::of(&bodies);
        if got != expected {
            let line = got.lines().zip(expected.lines()).position(|(got, expected)| got != expected);
            let line = line.unwrap_or(got.lines().count().min(expected.lines().count()));
            let show = |text: &str| text.lines().nth(line).unwrap_or("(nothing)").to_owned();
            wrong.push(format!("{name}:{}: expected {}, got {}", line + 1, show(&expected), show(&got)));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Scenario: every vector whose note refuses it.
/// Guarantees: 400, in the reference server's words.
#[test]
fn a_refused_vector_has_the_reference_servers_words() {
    let Some(vectors) = vectors() else { return };
    for (file, begins) in REFUSED {
        let body = fs::read(vectors.join("made-here/reject").join(file)).expect(file);
        let Err(Refused { status, text }) = read(&body, Spelling::JsonV2) else {
            panic!("{file} is accepted")
        };
        assert_eq!(status, 400, "{file}");
        assert!(text.starts_with(begins), "{file}: {text}");
    }
}

/// Scenario: the folder of the vectors.
/// Guarantees: no file in it is forgotten here.
#[test]
fn every_vector_is_listed() {
    let Some(vectors) = vectors() else { return };
    for folder in ["upstream", "made-here", "made-here/reject"] {
        for entry in fs::read_dir(vectors.join(folder)).expect(folder) {
            let entry = entry.expect("an entry");
            let name = entry.file_name().into_string().expect("UTF-8");
            let file = format!("{folder}/{name}");
            let listed = ACCEPTED.iter().any(|(accepted, _)| *accepted == file)
                || REFUSED.iter().any(|(refused, _)| format!("made-here/reject/{refused}") == file);
            assert!(
                listed || name.ends_with(".request.json") || entry.path().is_dir(),
                "{file} is not listed"
            );
        }
    }
}
