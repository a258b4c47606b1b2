//! The corpora of OpenMetrics and of Prometheus' own text parser, and what real targets expose.

use std::fs;
use std::path::{Path, PathBuf};

use weir_exposition::{Check, Dialect, Fault, Reader, Record};

fn vectors() -> Option<PathBuf> {
    let vectors = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/vectors/prometheus");
    if !vectors.is_dir() {
        eprintln!("{} is absent: nothing to read", vectors.display());
        return None;
    }
    Some(vectors)
}

/// Samples of a text.
fn samples(text: &[u8], dialect: Dialect) -> Result<usize, Fault> {
    let mut reader = Reader::new(text, dialect)?;
    let mut samples = 0;
    while let Some(record) = reader.next()? {
        samples += usize::from(matches!(record, Record::Sample(_)));
    }
    Ok(samples)
}

/// Scenario: every case of the OpenMetrics corpus.
/// Guarantees: the check takes what should parse and refuses the rest.
#[test]
fn the_openmetrics_corpus_is_judged_as_it_says() {
    let Some(vectors) = vectors() else { return };
    let (mut cases, mut wrong) = (0, Vec::new());
    for entry in fs::read_dir(vectors.join("upstream/openmetrics-parsers")).expect("the corpus") {
        let folder = entry.expect("an entry").path();
        let text = fs::read(folder.join("metrics")).expect("a text");
        let verdict = fs::read_to_string(folder.join("test.json")).expect("a verdict");
        let should_parse = verdict.contains("\"shouldParse\": true");
        cases += 1;
        let checked = Check::all(&text);
        if checked.is_ok() != should_parse {
            wrong.push(format!("{}: {checked:?}", folder.display()));
        }
    }
    assert!(cases > 100, "{cases} cases");
    assert!(wrong.is_empty(), "{} of {cases}:\n{}", wrong.len(), wrong.join("\n"));
}

/// Scenario: the corpus of Prometheus' text parser: texts that parse, and texts that must not.
/// Guarantees: as it says; but for bounds that are no numbers and a second TYPE, which are the receiver's to judge, and the
/// escape \t, which Prometheus' scraper takes.
#[test]
fn the_corpus_of_the_text_format_is_judged_as_it_says() {
    let Some(vectors) = vectors() else { return };
    const NOT_OF_THE_LINE: [&str; 4] = [
        "from_test_parse_error_1",
        "from_test_parse_error_7",
        "from_test_parse_error_13",
        "from_test_parse_error_19",
    ];
    for entry in fs::read_dir(vectors.join("upstream/expfmt-corpus")).expect("the corpus") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().and_then(|name| name.to_str()).expect("a name");
        let read = samples(&fs::read(&path).expect("a text"), Dialect::Plain);
        let is_good = !name.contains("error") || NOT_OF_THE_LINE.contains(&name);
        assert_eq!(read.is_ok(), is_good, "{name}: {read:?}");
    }
}

/// Scenario: what real targets expose.
/// Guarantees: every line of it is read; the number of samples is that of the lines which are no comments.
#[test]
fn what_real_targets_expose_is_read() {
    let Some(vectors) = vectors() else { return };
    for (file, dialect) in [
        ("upstream/expfmt_text.txt", Dialect::Plain),
        ("upstream/metrics-test.prom", Dialect::Plain),
        ("upstream/alltypes.237mfs.nometa.prom.txt", Dialect::Plain),
        ("made-here/prometheus_client_python_0.26_text.txt", Dialect::Plain),
        ("made-here/node_exporter_1.5.0_text.txt", Dialect::Plain),
        ("upstream/1histogram.om.txt", Dialect::OpenMetrics),
        ("upstream/dump-openmetrics-test.prom", Dialect::OpenMetrics),
        ("made-here/prometheus_client_python_0.26_openmetrics.txt", Dialect::OpenMetrics),
    ] {
        let text = fs::read(vectors.join(file)).expect(file);
        let lines = String::from_utf8_lossy(&text)
            .lines()
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
            .count();
        assert_eq!(samples(&text, dialect), Ok(lines), "{file}");
    }
}

/// Scenario: a second of good texts with bytes changed, cut and doubled, in both dialects.
/// Guarantees: no panic; a fault names a line of the text.
#[test]
fn random_texts_do_no_harm() {
    const GOOD: &str = "# HELP a_seconds text \\\\ \\n\n# TYPE a_seconds histogram\n# UNIT a_seconds seconds\n\
        a_seconds_bucket{le=\"1.0\",b=\"\\\"q\\\"\"} 1 # {trace_id=\"x\"} 0.5 1520879607.789\n\
        a_seconds_bucket{le=\"+Inf\",b=\"\\\"q\\\"\"} 2\na_seconds_count{b=\"\\\"q\\\"\"} 2\na_seconds_sum{b=\"\\\"q\\\"\"} 3 -1.5\n\
        {\"quoted.name\",\"lab.el\"=\"v\"} NaN\n# EOF\n";
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let until = std::time::Instant::now() + std::time::Duration::from_secs(1);
    let mut read = 0;
    while std::time::Instant::now() < until {
        let mut text = GOOD.as_bytes().to_vec();
        for _ in 0..random.usize(..5) {
            let at = random.usize(..text.len());
            match random.u8(..5) {
                0 => text.truncate(at.max(1)),
                1 => text.insert(at, b"{}\"\\\n#=, "[random.usize(..9)]),
                2 => text.extend_from_within(at..),
                3 => drop(text.remove(at)),
                _ => text[at] = random.u8(..),
            }
            if text.is_empty() {
                text.push(b'a');
            }
        }
        let lines = text.iter().filter(|byte| **byte == b'\n').count() + 1;
        for result in [
            samples(&text, Dialect::Plain).map(drop),
            samples(&text, Dialect::OpenMetrics).map(drop),
            Check::all(&text),
        ] {
            match result {
                Ok(()) => read += 1,
                Err(fault) => {
                    assert!((1..=lines).contains(&fault.line), "{fault} of {lines} lines, seed {seed}")
                }
            }
        }
    }
    assert!(read > 100);
}
