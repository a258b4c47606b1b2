//! Texts that want to cost more than their bytes.

use weir_exposition::{Check, Dialect, Fault, Reader};

/// Bytes of a fault's text: some words, and 64 characters of the input of which each is escaped as `\u{10ffff}`.
const FAULT_BYTES_MAX: usize = 1_024;

fn read(text: &str, dialect: Dialect) -> Result<(), Fault> {
    let mut reader = Reader::new(text.as_bytes(), dialect)?;
    while reader.next()?.is_some() {}
    Ok(())
}

/// Scenario: words, names, units, times and types of a hundred thousand characters that a fault would escape.
/// Guarantees: each text is refused with its reason; the fault is as short as that of a short word.
#[test]
fn a_fault_shows_the_beginning_of_a_word_only() {
    let long = "\u{1}".repeat(100_000);
    let name = "a".repeat(100_000);
    let texts = [
        (Dialect::Plain, format!("a {long}\n"), "expected a number"),
        (Dialect::Plain, format!("a 1 {long}\n"), "expected milliseconds"),
        (Dialect::Plain, format!("# TYPE a {long}\n"), "unknown type"),
        (Dialect::Plain, format!("a{{\"{long}\"=\"1\",\"{long}\"=\"2\"}} 1\n"), "is not unique"),
        (Dialect::OpenMetrics, format!("a {long}\n"), "expected a number"),
        (Dialect::OpenMetrics, format!("a 1 {long}\n"), "expected a time"),
        (Dialect::OpenMetrics, format!("a 1 # {{}} {long}\n"), "an exemplar's value"),
        (Dialect::OpenMetrics, format!("a 1 # {{}} 1 {long}\n"), "expected a time"),
        (Dialect::OpenMetrics, format!("# UNIT {name} {long}\n"), "is no suffix of"),
        (Dialect::OpenMetrics, format!("# TYPE a {long}\n"), "unknown type"),
    ];
    for (dialect, text, reason) in texts {
        let fault = read(&text, dialect).expect_err(reason);
        assert!(fault.what.contains(reason), "{reason}: {:.200}", fault.what);
        assert!(fault.what.len() <= FAULT_BYTES_MAX, "{reason}: {} bytes", fault.what.len());
    }
    let twice = format!("# TYPE {name} gauge\n# TYPE b gauge\n# TYPE {name} gauge\n# EOF\n");
    let fault = Check::all(twice.as_bytes()).expect_err("the same family twice");
    assert!(fault.what.contains("clashing name") && fault.what.len() <= FAULT_BYTES_MAX);
}

/// Scenario: a line with as many labels as are taken, in an order that is not theirs; the same with one more, and with one name
/// twice, the first or the last; the same for a few.
/// Guarantees: the first is read with its labels in their order; the others are refused.
#[test]
fn a_name_that_stands_twice_is_found_among_many() {
    let line = |names: &[String]| {
        let labels: Vec<String> = names.iter().map(|name| format!("{name}=\"1\"")).collect();
        format!("a{{{}}} 1\n", labels.join(","))
    };
    for count in [3, 32, 33, 1_000] {
        let names: Vec<String> = (0..count).map(|label| format!("l{}", label * 7 % count)).collect();
        let text = line(&names);
        let mut reader = Reader::new(text.as_bytes(), Dialect::Plain).expect("a text");
        reader.next().expect("a good line");
        assert!(reader.labels().iter().map(|label| &*label.name).eq(names.iter().map(|name| &**name)));
        for place in [0, count - 2] {
            let mut twice = names.clone();
            twice[count - 1].clone_from(&names[place]);
            let fault = read(&line(&twice), Dialect::Plain).expect_err("a name twice");
            assert!(fault.what.contains("is not unique"), "{count}, {place}: {fault}");
        }
    }
    let many: Vec<String> = (0..1_001).map(|label| format!("l{label}")).collect();
    let fault = read(&line(&many), Dialect::Plain).expect_err("too many");
    assert!(fault.what.contains("more than 1000 labels"), "{fault}");
}
