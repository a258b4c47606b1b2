//! An exporter, what it is given and what it shows.

use std::path::{Path, PathBuf};

use prometheus_exporter::PrometheusExporter;
use weir_exposition::{Check, Dialect, Fault, Reader, Record};
use weir_guest::{Batch, Encoding, Outcome, Request, Signal, settings};

/// What the host takes of a body at once.
const PIECE_MAX: usize = 1 << 20;

pub(crate) const OPEN_METRICS: &str = "application/openmetrics-text;version=1.0.0";
pub(crate) const UTF8: &str = "text/plain;version=1.0.0;escaping=allow-utf-8";
pub(crate) const OPEN_METRICS_UTF8: &str = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8";

pub(crate) fn vectors(under: &str) -> Option<PathBuf> {
    let vectors = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/vectors").join(under);
    if !vectors.is_dir() {
        eprintln!("{} is absent: nothing to read", vectors.display());
        return None;
    }
    Some(vectors)
}

pub(crate) fn exporter(written: &str) -> PrometheusExporter {
    let settings = settings::read(written).expect("good settings");
    PrometheusExporter::begin(settings, 0).expect("good settings")
}

pub(crate) fn absorb(exporter: &mut PrometheusExporter, body: Vec<u8>, now: u64) -> Outcome {
    exporter.absorb_at(&Batch { signal: Signal::Metrics, encoding: Encoding::Protobuf, body }, now)
}

/// The page in the format of an `Accept` header.
pub(crate) fn page(exporter: &mut PrometheusExporter, accept: &str, now: u64) -> String {
    let headers = vec![("Accept".to_owned(), accept.to_owned())];
    let request = Request { method: "GET".into(), target: "/metrics".into(), headers, body: Vec::new() };
    let response = exporter.serve_at(&request, now);
    assert_eq!(response.status, 200);
    let mut body = response.body;
    loop {
        let piece = exporter.more_at(now);
        assert!(piece.len() <= PIECE_MAX, "{} bytes in one piece", piece.len());
        if piece.is_empty() {
            break;
        }
        body.extend(piece);
    }
    String::from_utf8(body).expect("UTF-8")
}

/// Samples of a plain text that a scraper reads.
pub(crate) fn plain(text: &str) -> Result<usize, Fault> {
    let mut reader = Reader::new(text.as_bytes(), Dialect::Plain)?;
    let (mut samples, mut series) = (0, std::collections::HashSet::new());
    while let Some(record) = reader.next()? {
        if let Record::Sample(sample) = record {
            samples += 1;
            let mut labels: Vec<_> = reader
                .labels()
                .iter()
                .map(|label| (label.name.to_string(), label.value.to_string()))
                .collect();
            labels.sort();
            assert!(
                series.insert((sample.name.to_string(), labels)),
                "line {} is there twice",
                reader.line()
            );
        }
    }
    Ok(samples)
}

/// Reads the page in every format and scheme, as strictly as can be.
pub(crate) fn check_all(exporter: &mut PrometheusExporter, now: u64, what: &str) {
    for scheme in ["", ";escaping=underscores", ";escaping=allow-utf-8", ";escaping=dots", ";escaping=values"]
    {
        let text = page(exporter, &format!("{OPEN_METRICS}{scheme}"), now);
        if let Err(fault) = Check::all(text.as_bytes()) {
            panic!("{what}{scheme}: {fault}: {:?}\n{text:.20000}", text.lines().nth(fault.line - 1));
        }
        let text = page(exporter, &format!("text/plain;version=1.0.0{scheme}"), now);
        if let Err(fault) = plain(&text) {
            panic!("{what}{scheme}: {fault}: {:?}", text.lines().nth(fault.line - 1));
        }
    }
}
