//! What real clients have sent, and what OTLP it is.
//!
//! The vectors lie in `../shared/vectors/jaeger` beside the repository. Beside this test lies what each becomes:
//! `tests/cases/jaeger/<file>.otlp.txt`, written from the mapping's tables (`tests/cases/jaeger/README.md`). The texts are not
//! rewritten by this test, whatever it finds.

use std::fs;
use std::path::{Path, PathBuf};

use jaeger_receiver::{Spelling, read};

use crate::{encode, text};

/// Every vector with spans, and what it is.
pub(crate) const SPANS: [(&str, Spelling); 8] = [
    ("made-here/jaeger_client_python_4.8.0_udp6831_compact.bin", Spelling::Compact),
    ("made-here/jaeger_client_node_3.19.0_udp6832_binary.bin", Spelling::Binary),
    ("made-here/jaeger_client_node_3.19.0_http14268_binary.bin", Spelling::Batch),
    ("made-here/otel_js_exporter_jaeger_2.11_udp6832_binary.bin", Spelling::Binary),
    ("upstream/thrift_batch_01.json", Spelling::Batch),
    ("upstream/ocservice_thrift_batch_01.json", Spelling::Batch),
    ("upstream/domain_01.json", Spelling::Protobuf),
    ("upstream/ocservice_proto_batch_no_binary_tags_01.json", Spelling::Protobuf),
];

/// What has no spans in it: strategies, and the OpenCensus form of a batch.
const OTHERS: [&str; 2] = ["upstream/operation_strategies.json", "upstream/ocservice_ocproto_batch_01.json"];

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The folder of the vectors, where it is there.
pub(crate) fn vectors() -> Option<PathBuf> {
    let vectors = repository().join("../shared/vectors/jaeger");
    if !vectors.is_dir() {
        eprintln!("{} is absent: nothing to compare", vectors.display());
        return None;
    }
    Some(vectors)
}

/// A vector's bytes; a rendering in JSON is encoded.
pub(crate) fn body(vectors: &Path, file: &str, spelling: Spelling) -> Vec<u8> {
    let body = fs::read(vectors.join(file)).expect(file);
    if !file.ends_with(".json") {
        return body;
    }
    let rendering = serde_json::from_slice(&body).expect(file);
    if spelling == Spelling::Protobuf { encode::request(&rendering) } else { encode::batch(&rendering) }
}

/// Scenario: every vector with spans.
/// Guarantees: it is accepted, no span is rejected, and it gives the OTLP that was written from the tables.
#[test]
fn a_vector_gives_the_otlp_of_the_tables() {
    let Some(vectors) = vectors() else { return };
    let mut wrong = Vec::new();
    for (file, spelling) in SPANS {
        let name = Path::new(file).file_name().and_then(|name| name.to_str()).expect("a file");
        let written = repository().join(format!("tests/cases/jaeger/{name}.otlp.txt"));
        let expected =
            fs::read_to_string(&written).unwrap_or_else(|error| panic!("{}: {error}", written.display()));
        let (bodies, rejected) = read(&body(&vectors, file, spelling), spelling)
            .unwrap_or_else(|refused| panic!("{file}: {refused:?}"));
        assert_eq!(rejected, 0, "{file}");
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

/// Scenario: the folder of the vectors.
/// Guarantees: no file in it is forgotten here.
#[test]
fn every_vector_is_listed() {
    let Some(vectors) = vectors() else { return };
    for folder in ["upstream", "made-here"] {
        for entry in fs::read_dir(vectors.join(folder)).expect(folder) {
            let name = entry.expect("an entry").file_name().into_string().expect("UTF-8");
            let file = format!("{folder}/{name}");
            let listed = SPANS.iter().any(|(known, _)| *known == file) || OTHERS.contains(&file.as_str());
            let beside = name.ends_with(".request.json") || name.ends_with(".decoded.json");
            assert!(listed || beside, "{file} is not listed");
        }
    }
}
