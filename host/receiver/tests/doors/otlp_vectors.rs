//! What real senders have sent, and what the doors hand on of it.
//!
//! The vectors lie in `../shared/vectors/otlp` beside the repository. What each of them says lies in
//! `tests/cases/otlp/<file>.otlp.txt`, written from OTLP's tables (`README.md` there says how to read it). The
//! texts are not rewritten by these tests, whatever they find.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use weir_model::Signal;
use weir_receiver::Pipelines;

use crate::harness::{Scripted, Served, config, post, serve_otlp};
use crate::otlp_every_field::assert_that_changes_show;
use crate::otlp_grpc::call;
use crate::otlp_text as text;

/// A request that a client or an example has written.
struct Vector {
    /// The file's name.
    name: String,
    signal: Signal,
    is_json: bool,
    body: Vec<u8>,
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn texts() -> PathBuf {
    repository().join("tests/cases/otlp")
}

/// The vectors in order of their names, where they are there. A `.request.json` is the head of a request, not one.
fn vectors() -> Option<Vec<Vector>> {
    let folder = repository().join("../shared/vectors/otlp");
    if !folder.is_dir() {
        eprintln!("{} is absent: nothing to compare", folder.display());
        return None;
    }
    let mut found = Vec::new();
    for part in ["upstream", "made-here"] {
        for entry in fs::read_dir(folder.join(part)).expect(part) {
            let path = entry.unwrap().path();
            let name = path.file_name().and_then(|name| name.to_str()).expect("UTF-8").to_owned();
            if name.ends_with(".request.json") {
                continue;
            }
            let signal = match &name {
                name if name.contains("metrics") => Signal::Metrics,
                name if name.contains("logs") => Signal::Logs,
                _ => Signal::Traces,
            };
            let is_json = name.ends_with(".json");
            assert!(is_json || name.ends_with(".pb"), "{name} is neither JSON nor protobuf by its name");
            found.push(Vector { signal, is_json, body: fs::read(&path).expect(&name), name });
        }
    }
    found.sort_by(|one, other| one.name.cmp(&other.name));
    Some(found)
}

// === the doors ===

/// What arrives of a vector that is sent to port 4318 in its own encoding.
async fn over_http(served: &Served, consumer: &Scripted, vector: &Vector) -> Vec<Vec<u8>> {
    let path = match vector.signal {
        Signal::Traces => "/v1/traces",
        Signal::Metrics => "/v1/metrics",
        Signal::Logs => "/v1/logs",
    };
    let (content_type, taken_whole) =
        if vector.is_json { ("application/json", "{}") } else { ("application/x-protobuf", "") };
    let headers = [("content-type", content_type)];
    let answer = post(served.addr("otlp/http"), path, &headers, vector.body.clone()).await;
    let said = String::from_utf8_lossy(&answer.body);
    assert_eq!((answer.status.as_u16(), &*said), (200, taken_whole), "{}", vector.name);
    arrived(consumer, vector)
}

/// What arrives of a vector that is sent to port 4317.
async fn over_grpc(served: &Served, consumer: &Scripted, vector: &Vector) -> Vec<Vec<u8>> {
    let path = match vector.signal {
        Signal::Traces => "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
        Signal::Metrics => "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
        Signal::Logs => "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
    };
    let answer = call(served, path, vector.body.clone(), None).await;
    assert_eq!(answer.unwrap_or_else(|status| panic!("{}: {status}", vector.name)), "", "{}", vector.name);
    arrived(consumer, vector)
}

fn arrived(consumer: &Scripted, vector: &Vector) -> Vec<Vec<u8>> {
    let arrivals = consumer.taken();
    assert!(arrivals.iter().all(|arrival| arrival.signal == vector.signal), "{}", vector.name);
    arrivals.iter().map(|arrival| arrival.body.to_vec()).collect()
}

/// The text of what arrived, or where it begins to differ from the reviewed one.
fn compare(vector: &Vector, door: &str, bodies: &[Vec<u8>]) -> Result<(), String> {
    let reviewed = texts().join(format!("{}.otlp.txt", vector.name));
    let expected = fs::read_to_string(&reviewed)
        .map_err(|error| format!("{} has no reviewed text: {}: {error}", vector.name, reviewed.display()))?;
    let read = |body: &Vec<u8>| {
        text::of(vector.signal, body).map_err(|error| format!("{}: {door}: {error}", vector.name))
    };
    let got = bodies.iter().map(read).collect::<Result<String, _>>()?;
    if got == expected {
        return Ok(());
    }
    let place = format!("tests/cases/otlp/{}.otlp.txt", vector.name);
    Err(format!("{door}, - is {place}, + is what came out:\n{}", difference(&expected, &got)))
}

/// The lines that differ, with the number of the first in `expected`. Where there are as many on both sides, those
/// between that are the same are left out.
fn difference(expected: &str, got: &str) -> String {
    let (expected, got): (Vec<_>, Vec<_>) = (expected.lines().collect(), got.lines().collect());
    let same = |pairs: &mut dyn Iterator<Item = (&&str, &&str)>| pairs.take_while(|(a, b)| a == b).count();
    let begin = same(&mut expected.iter().zip(&got));
    let end = same(&mut expected[begin..].iter().rev().zip(got[begin..].iter().rev()));
    let (old, new) = (&expected[begin..expected.len() - end], &got[begin..got.len() - end]);
    if old.len() == new.len() {
        let pairs = old.iter().zip(new).enumerate().filter(|(_, (old, new))| old != new);
        return pairs
            .map(|(at, (old, new))| format!("line {}\n- {old}\n+ {new}\n", begin + at + 1))
            .collect();
    }
    let block = |sign: char, lines: &[&str]| -> String {
        lines.iter().map(|line| format!("{sign} {line}\n")).collect()
    };
    format!("from line {}\n{}{}", begin + 1, block('-', old), block('+', new))
}

/// Scenario: every vector through port 4318 in its own encoding; those in protobuf through 4317 too.
/// Guarantees: each is taken whole, and what goes on to the pipeline says what the reviewed text says, field by
/// field; protobuf goes on byte for byte.
#[tokio::test]
async fn a_vector_gives_the_reviewed_otlp() {
    let Some(vectors) = vectors() else { return };
    let consumer = Scripted::saying([]);
    let served = serve_otlp(config(), Pipelines::all(Arc::clone(&consumer) as _), 64 << 20);
    let mut wrong = Vec::new();
    for vector in &vectors {
        let bodies = over_http(&served, &consumer, vector).await;
        wrong.extend(compare(vector, "through port 4318", &bodies).err());
        if !vector.is_json {
            assert!(bodies == [&*vector.body], "{}: port 4318 altered its bytes", vector.name);
            let bodies = over_grpc(&served, &consumer, vector).await;
            wrong.extend(compare(vector, "through port 4317", &bodies).err());
            assert!(bodies == [&*vector.body], "{}: port 4317 altered its bytes", vector.name);
        }
    }
    assert!(
        wrong.is_empty(),
        "{} differ; tests/cases/otlp/README.md says how to read them\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

/// Scenario: the folder of the vectors and the folder of their texts.
/// Guarantees: no vector is without a text, and no text without its vector.
#[test]
fn every_vector_has_a_text_and_every_text_a_vector() {
    let Some(vectors) = vectors() else { return };
    let mut of_vectors: Vec<_> = vectors.iter().map(|vector| format!("{}.otlp.txt", vector.name)).collect();
    of_vectors.push("README.md".to_owned());
    of_vectors.sort();
    let mut there: Vec<_> = fs::read_dir(texts())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().expect("UTF-8"))
        .collect();
    there.sort();
    assert_eq!(there, of_vectors);
}

// === the texts themselves ===

/// Scenario: a bit of each byte of the vectors in protobuf, and a field that OTLP does not have.
/// Guarantees: whatever makes another request makes another text, so that a text which is the same proves the
/// request to be the same.
#[test]
fn whatever_changes_in_a_vector_changes_its_text() {
    let Some(vectors) = vectors() else { return };
    for vector in vectors.iter().filter(|vector| !vector.is_json) {
        assert_that_changes_show(&vector.name, vector.signal, &vector.body);
    }
}
