//! Our reader of Prometheus' texts beside the parser of Prometheus 3, and our check of OpenMetrics beside `prometheus_client`,
//! text by text.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use weir_exposition::{Check, Dialect, Fault, Reader, Record};

use crate::install::{go, python, sources};

/// A sample: its labels with `__name__`, the bits of its value, its time in milliseconds.
type Sample = (BTreeMap<String, String>, u64, Option<i64>);

/// Texts of 0.0.4, a rule each.
const PLAIN: [&str; 43] = [
    "m 1",
    "m 1\n",
    "m 1\r\n",
    "\n\nm 1\n\n",
    "m\t1",
    "m  1  2",
    "m 1 1700000000000",
    "m 1 1.5",
    "m 1 2 3",
    "m{} 1",
    "m{a=\"b\"} 1",
    "m{a=\"b\",} 1",
    "m{,} 1",
    "m{a=\"b\",,c=\"d\"} 1",
    "m{a=\"b\" c=\"d\"} 1",
    "m { a = \"b\" , c = \"d\" } 1",
    "m{a=\"b\",a=\"c\"} 1",
    "m{a=\"\"} 1",
    "m{a=\"\\\\ \\\" \\n \\q\"} 1",
    "m{a=\"b} 1",
    "m{a=b} 1",
    "m{a} 1",
    "m{a=\"b\"",
    "m{9a=\"b\"} 1",
    "9m 1",
    ":m:n_9 1",
    "m-n 1",
    "{\"my.metric\",\"lab.el\"=\"v\"} 1",
    "{\"my.metric\"} 1",
    "{\"a\",\"b\"} 1",
    "{a=\"b\"} 1",
    "m{\"n\"} 1",
    "# TYPE \"my.metric\" counter\n{\"my.metric\"} 1",
    "m NaN\nm nan\nm +Inf\nm -inf\nm Infinity\nm 1e9\nm .5\nm 5.\nm +1",
    "m 0x10",
    "m 1_000",
    "m 1e400",
    "m",
    "m one",
    "# HELP m a \\\\ \\n \\q b\nm 1",
    "# TYPE m counter\n# TYPE m gauge\nm 1",
    "# TYPE m strange\nm 1",
    "#comment\n#  another\n# HELP\n# TYPE\nm 1",
];

/// Texts of OpenMetrics, a rule each.
const OPEN_METRICS: [&str; 24] = [
    "# EOF",
    "# EOF\n",
    "# EOF\n\n",
    "m 1\n# EOF\nm 2\n",
    "m 1\n",
    "m 1 1700000000.123\n# EOF\n",
    "m 1 -1.5\n# EOF\n",
    "m 1 NaN\n# EOF\n",
    "m  1\n# EOF\n",
    "\nm 1\n# EOF\n",
    "m 1 \n# EOF\n",
    "# comment\nm 1\n# EOF\n",
    "# TYPE m counter\nm_total 1 # {trace_id=\"x\"} 0.5 1.5\n# EOF\n",
    "# TYPE m counter\nm_total 1 # {} 0.5\n# EOF\n",
    "# TYPE m counter\nm_total 1 #{} 0.5\n# EOF\n",
    "# TYPE m counter\nm_total 1 # {a=\"b\" 0.5\n# EOF\n",
    "# TYPE m gauge\n# UNIT m s\nm 1\n# EOF\n",
    "# TYPE m_s gauge\n# UNIT m_s s\nm_s 1\n# EOF\n",
    "# TYPE m untyped\nm 1\n# EOF\n",
    "# TYPE m info\nm_info{a=\"b\"} 1\n# EOF\n",
    "{\"my.metric\",\"lab.el\"=\"v\"} 1\n# EOF\n",
    "m{a=\"\\\\ \\\" \\n \\q\"} 1\n# EOF\n",
    "m{a=\"b\",a=\"c\"} 1\n# EOF\n",
    "m{a=\"b\" ,c=\"d\"} 1\n# EOF\n",
];

/// What we take and Prometheus refuses, or the other way round, and why.
const DIFFERENT: [(&str, &str); 2] = [
    (
        "bad_missing_or_extra_commas_2/metrics",
        "a comma before the brace: OpenMetrics forbids it, as prometheus_client does",
    ),
    (
        "bad_exemplars_6/metrics",
        "an exemplar of more than 128 characters: OpenMetrics forbids it, as prometheus_client does",
    ),
];

fn content_type(dialect: Dialect) -> &'static str {
    match dialect {
        Dialect::Plain => "text/plain; version=0.0.4",
        Dialect::OpenMetrics => "application/openmetrics-text; version=1.0.0",
    }
}

/// Name, dialect and text: ours, and the vectors where their folder is.
fn texts() -> Vec<(String, Dialect, Vec<u8>)> {
    let ours = |texts: &[&str], dialect: Dialect| -> Vec<_> {
        texts.iter().map(|text| ((*text).to_owned(), dialect, text.as_bytes().to_vec())).collect()
    };
    let mut all = ours(&PLAIN, Dialect::Plain);
    all.extend(ours(&OPEN_METRICS, Dialect::OpenMetrics));
    let vectors = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/vectors/prometheus");
    if !vectors.is_dir() {
        eprintln!("{} is absent: only our own texts are compared", vectors.display());
        return all;
    }
    let mut add = |path: &Path, dialect: Dialect| {
        all.push((path.display().to_string(), dialect, std::fs::read(path).expect("a vector")));
    };
    let listed = |folder: &str| {
        let entries = std::fs::read_dir(vectors.join(folder)).expect("a folder of vectors");
        entries.map(|entry| entry.expect("an entry").path()).collect::<Vec<_>>()
    };
    for case in listed("upstream/openmetrics-parsers") {
        add(&case.join("metrics"), Dialect::OpenMetrics);
    }
    for path in listed("upstream/expfmt-corpus") {
        add(&path, Dialect::Plain);
    }
    for name in [
        "made-here/node_exporter_1.5.0_text.txt",
        "made-here/prometheus_client_python_0.26_text.txt",
        "upstream/expfmt_text.txt",
    ] {
        add(&vectors.join(name), Dialect::Plain);
    }
    add(&vectors.join("made-here/prometheus_client_python_0.26_openmetrics.txt"), Dialect::OpenMetrics);
    add(&vectors.join("upstream/1histogram.om.txt"), Dialect::OpenMetrics);
    all
}

fn read(text: &[u8], dialect: Dialect) -> Result<Vec<Sample>, Fault> {
    let mut reader = Reader::new(text, dialect)?;
    let mut samples = Vec::new();
    while let Some(record) = reader.next()? {
        let Record::Sample(sample) = record else { continue };
        let mut labels = BTreeMap::from([("__name__".to_owned(), sample.name.to_string())]);
        let (bits, time) = (sample.value.to_bits(), sample.time);
        for label in reader.labels() {
            if !label.value.is_empty() {
                labels.insert(label.name.to_string(), label.value.to_string());
            }
        }
        samples.push((labels, bits, time.map(|nanos| nanos.div_euclid(1_000_000))));
    }
    Ok(samples)
}

fn theirs(said: &Value) -> Result<Vec<Sample>, String> {
    let error = said["error"].as_str().expect("a text");
    if !error.is_empty() {
        return Err(error.to_owned());
    }
    let samples = said["samples"].as_array().expect("a list").iter();
    let sample = |one: &Value| -> Sample {
        let labels = one["labels"].as_object().expect("labels").iter();
        let labels = labels.map(|(name, value)| (name.clone(), value.as_str().expect("a text").to_owned()));
        let bits = u64::from_str_radix(one["bits"].as_str().expect("bits"), 16).expect("a number");
        (labels.filter(|(_, value)| !value.is_empty()).collect(), bits, one["at"].as_i64())
    };
    Ok(samples.map(sample).collect())
}

/// All NaN are alike; a time in seconds may be rounded either way; Prometheus 3 writes bounds and quantiles in one manner.
fn alike(ours: &[Sample], theirs: &[Sample]) -> bool {
    let value = |a: u64, b: u64| a == b || (f64::from_bits(a).is_nan() && f64::from_bits(b).is_nan());
    let time = |a: Option<i64>, b: Option<i64>| match (a, b) {
        (Some(a), Some(b)) => a.abs_diff(b) <= 1,
        (a, b) => a == b,
    };
    let bound = |labels: &BTreeMap<String, String>| -> BTreeMap<String, String> {
        let one = |(name, value): (&String, &String)| match value.parse::<f64>() {
            Ok(number) if name == "le" || name == "quantile" => (name.clone(), number.to_string()),
            _ => (name.clone(), value.clone()),
        };
        labels.iter().map(one).collect()
    };
    ours.len() == theirs.len()
        && ours
            .iter()
            .zip(theirs)
            .all(|(a, b)| bound(&a.0) == bound(&b.0) && value(a.1, b.1) && time(a.2, b.2))
}

/// What a parser says of each text, a line each.
fn ask(mut command: Command, texts: &[(String, Dialect, Vec<u8>)]) -> Vec<Value> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let mut input = child.stdin.take().expect("it is piped");
    let line = |(name, dialect, body): &(String, Dialect, Vec<u8>)| {
        format!("{}\n", json!({"name": name, "type": content_type(*dialect), "body": STANDARD.encode(body)}))
    };
    let lines: String = texts.iter().map(line).collect();
    let writer = std::thread::spawn(move || std::io::Write::write_all(&mut input, lines.as_bytes()));
    let output = child.wait_with_output().expect("it ends");
    writer.join().expect("no panic").expect("it reads");
    assert!(output.status.success(), "the parser ended with {}", output.status);
    let text = String::from_utf8(output.stdout).expect("text");
    let said: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(said.len(), texts.len());
    said
}

/// Every text that both take finds the same samples with both, and no text is taken by one alone, but for those that are listed.
fn compare(
    texts: &[(String, Dialect, Vec<u8>)],
    said: &[Value],
    read: impl Fn(&[u8], Dialect) -> Result<Vec<Sample>, Fault>,
    different: &[(&str, &str)],
) {
    let mut wrong = Vec::new();
    for ((name, dialect, body), said) in texts.iter().zip(said) {
        let (ours, theirs) = (read(body, *dialect), theirs(said));
        let same = match (&ours, &theirs) {
            (Ok(ours), Ok(theirs)) => alike(ours, theirs),
            (Err(_), Err(_)) => true,
            _ => false,
        };
        let listed = different.iter().any(|(text, _)| name.ends_with(text));
        if same == listed {
            wrong.push(format!("{name:?}\n  ours   {ours:?}\n  theirs {theirs:?}"));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), texts.len(), wrong.join("\n"));
}

/// Scenario: a text for each rule, and the corpora, are read by us and by the parser of Prometheus 3 (`model/textparse`).
/// Guarantees: both take the same texts and find the same samples in them, but for what is listed with a reason.
#[test]
fn texts_are_read_as_prometheus_3_reads_them() {
    let texts = texts();
    let mut command = Command::new(go("go-prometheus"));
    command.arg("parse");
    compare(&texts, &ask(command, &texts), read, &DIFFERENT);
}

/// What our check takes and `prometheus_client` refuses, or the other way round, and why.
const DIFFERENT_FROM_CLIENT: [(&str, &str); 3] = [
    (
        "{\"my.metric\",\"lab.el\"=\"v\"} 1\n# EOF\n",
        "names in quotes: Prometheus 3 has them, the client's parser not",
    ),
    (
        "m{a=\"b\" ,c=\"d\"} 1\n# EOF\n",
        "a blank before a comma: the grammar has none, and Prometheus refuses it",
    ),
    (
        "duplicate_timestamps_0/metrics",
        "the client's parser leaves out what is said twice, of ours the receiver does",
    ),
];

/// Scenario: a text for each rule of OpenMetrics, and its whole corpus, are checked by us and read by `prometheus_client`.
/// Guarantees: both take the same texts and find the same samples in them, case by case.
#[test]
fn openmetrics_is_checked_as_prometheus_client_does() {
    let texts: Vec<_> =
        texts().into_iter().filter(|(_, dialect, _)| *dialect == Dialect::OpenMetrics).collect();
    let mut command = Command::new(python("prometheus"));
    command.arg(sources("python").join("openmetrics_parser.py"));
    let checked = |text: &[u8], dialect| Check::all(text).and_then(|_| read(text, dialect));
    compare(&texts, &ask(command, &texts), checked, &DIFFERENT_FROM_CLIENT);
}
