//! What a Rust file says and how: heads, invariants, words, exceptions, length, and who may speak of what.

use crate::source::{Complaint, File, Rust, words};

/// Lines that a function may not have: whoever is about to cross the border meets it here.
const RATCHET: [usize; 2] = [71, 72];

/// The length that no function has, however it came by it.
const FUNCTION_LINES_MAX: usize = 100;

/// Each file begins by saying what it is: a line of several words, or a short sentence.
pub(crate) fn head(file: &File) -> Vec<Complaint> {
    let mut lines = file.text.lines().enumerate();
    let first = lines.find(|(_, line)| !line.trim().is_empty() && !line.starts_with("#!["));
    let (at, line) = first.unwrap_or((0, ""));
    let head = line.strip_prefix("//!").unwrap_or_default().trim();
    if head.contains(' ') || head.ends_with('.') {
        return Vec::new();
    }
    let what = "the module has no head; begin it with a `//!` sentence that says what it is, and draw the bytes where bytes lie on disk or wire";
    vec![Complaint::new(&file.path, at + 1, what)]
}

/// A crate root says what its crate will never do.
pub(crate) fn invariant(root: &File) -> Vec<Complaint> {
    let is_one = |line: &&str| line.starts_with("//! Invariant: ");
    let count = root.text.lines().filter(is_one).count();
    if count == 1 {
        return Vec::new();
    }
    let line = root.text.lines().take_while(|line| line.starts_with("//!")).count().max(1);
    let what = format!(
        "the crate root has {count} lines that begin with `//! Invariant:`, not one; end its head with the strongest sentence about what the crate does not know or do"
    );
    vec![Complaint::new(&root.path, line, what)]
}

/// Small functions do not creep, and none is long.
pub(crate) fn length(rust: &Rust<'_>) -> Vec<Complaint> {
    let path = &rust.file.path;
    let functions = rust.functions();
    let long = functions.iter().filter(|f| RATCHET.contains(&f.lines) || f.lines > FUNCTION_LINES_MAX);
    let complaints = long.map(|f| {
        let what = format!(
            "`{}` has {} lines; make it 70 or fewer: the parent keeps the `if`s and the mutation, children compute",
            f.name, f.lines
        );
        Complaint::new(path, f.line, what)
    });
    complaints.collect()
}

/// Private notes and stubs are not merged.
pub(crate) fn banned_words(rust: &Rust<'_>) -> Vec<Complaint> {
    let mut found = Vec::new();
    let code = &rust.code;
    for (name, cure) in [
        ("dbg", "remove it, or log with tracing"),
        ("todo", "write what is missing, or leave the item out"),
        ("unimplemented", "write what is missing, or leave the item out"),
    ] {
        let calls = words(code, name).filter(|at| code[at + name.len()..].starts_with('!'));
        found.extend(
            calls.map(|at| Complaint::new(&rust.file.path, rust.line(at), format!("`{name}!`; {cure}"))),
        );
    }
    for (at, attribute) in rust.attributes() {
        if words(attribute, "ignore").next().is_some() {
            let what = "an ignored test proves nothing; make it pass, or pin today's behaviour and say so in its head";
            found.push(Complaint::new(&rust.file.path, rust.line(at), what));
        }
    }
    found.extend(notes(&rust.file.path, &rust.comments));
    found
}

/// Notes to oneself in a text, which for Rust is its comments.
pub(crate) fn notes(path: &str, text: &str) -> Vec<Complaint> {
    let mut found = Vec::new();
    for (at, line) in text.lines().enumerate() {
        if words(line, "FIXME").next().is_some() {
            let what = "`FIXME` is a private note; mend it, or file an issue and write `TODO(#number)`";
            found.push(Complaint::new(path, at + 1, what));
        }
        for word in words(line, "TODO") {
            let issue = line[word + 4..].trim_start_matches(['(', ' ', ':']).strip_prefix('#');
            if !issue.is_some_and(|issue| issue.starts_with(|c: char| c.is_ascii_digit())) {
                let what = "`TODO` without an issue; do it now, or file one and write `TODO(#number)`";
                found.push(Complaint::new(path, at + 1, what));
            }
        }
    }
    found
}

/// An exception to a lint says why.
pub(crate) fn exceptions(rust: &Rust<'_>) -> Vec<Complaint> {
    let has = |attribute: &str, word| words(attribute, word).next().is_some();
    let bare = rust.attributes().into_iter().filter(|(_, attribute)| {
        (has(attribute, "allow") || has(attribute, "expect"))
            && attribute.contains('(')
            && !has(attribute, "reason")
    });
    let what = "an exception to a lint without a reason; mend the cause, or write `#[expect(…, reason = \"why\")]`, which tells when it is no longer needed";
    bare.map(|(at, _)| Complaint::new(&rust.file.path, rust.line(at), what)).collect()
}

/// Only the queue makes proofs. A test with a consumer of its own owes nobody, so test code may.
pub(crate) fn proofs(rust: &Rust<'_>) -> Vec<Complaint> {
    let path = rust.file.path.as_str();
    let is_source = path == "host/model/src/receipt.rs";
    let is_test = path.split('/').any(|folder| folder == "tests" || folder == "benches");
    if path.starts_with("host/queue/src/") || is_test {
        return Vec::new();
    }
    let calls = words(&rust.code, "vouch").filter(|at| {
        let is_definition = is_source && rust.code[..*at].trim_end().ends_with("fn");
        !is_definition && !rust.is_test_only(*at)
    });
    let what = "only host/queue may vouch that a batch is kept; take the `Receipt` that `Consumer::consume` returns and hand it on";
    calls.map(|at| Complaint::new(path, rust.line(at), what)).collect()
}

/// Generated types stop at the door.
pub(crate) fn foreign_types(rust: &Rust<'_>) -> Vec<Complaint> {
    const ROOMS: [&str; 5] = ["proto/", "host/receiver/", "host/opamp/", "host/link/", "tests/"];
    if ROOMS.iter().any(|room| rust.file.path.starts_with(room)) {
        return Vec::new();
    }
    let uses = words(&rust.code, "weir_proto");
    let what = "types generated from proto/ do not leave receiver, opamp and link; convert there (`convert.rs`), or read the bytes with weir_wire";
    uses.map(|at| Complaint::new(&rust.file.path, rust.line(at), what)).collect()
}

// === each check can fail ===

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs `check` over `text` at `path` and shows the complaints, each cut before its cure.
    fn complaints(path: &str, text: &str, check: fn(&Rust<'_>) -> Vec<Complaint>) -> Vec<String> {
        let file = File::new(path, text);
        shown(&check(&Rust::new(&file)))
    }

    fn shown(complaints: &[Complaint]) -> Vec<String> {
        let cut = |c: &Complaint| c.to_string().split(';').next().unwrap_or_default().to_owned();
        complaints.iter().map(cut).collect()
    }

    /// Scenario: a file without a head, with an attribute before it, and with a head that says nothing.
    /// Guarantees: only a sentence counts.
    #[test]
    fn a_module_without_a_sentence_is_noticed() {
        let check = |text| head(&File::new("a.rs", text)).len();
        assert_eq!(check("use x;\n"), 1);
        assert_eq!(check(""), 1);
        assert_eq!(check("//! stub\n"), 1);
        assert_eq!(check("//! Spans.\n"), 0);
        assert_eq!(check("\n#![no_std]\n\n//! What it is.\n"), 0);
    }

    /// Scenario: a root with no invariant, with two, and with one.
    /// Guarantees: only one is right.
    #[test]
    fn a_root_with_no_or_two_invariants_is_noticed() {
        let check = |text| shown(&invariant(&File::new("lib.rs", text)));
        let missing = check("//! A thing.\n//! Two lines.\nuse x;");
        assert_eq!(
            missing,
            ["lib.rs:2: the crate root has 0 lines that begin with `//! Invariant:`, not one"]
        );
        assert_eq!(check("//! Invariant: a.\n//! Invariant: b.\n").len(), 1);
        assert_eq!(check("//! A thing.\n//!\n//! Invariant: a.\n/// Invariant: of an item.\n").len(), 0);
    }

    /// Scenario: functions of 70, 71, 72, 73, 100 and 101 lines.
    /// Guarantees: the ratchet bites at 71 and 72, the bound above 100.
    #[test]
    fn a_function_at_the_ratchet_or_above_the_bound_is_noticed() {
        let of = |lines: usize| format!("fn f() {{{}}}\n", "\n".repeat(lines - 1));
        let bitten = [70, 71, 72, 73, 100, 101].map(|lines| complaints("a.rs", &of(lines), length).len());
        assert_eq!(bitten, [0, 1, 1, 0, 0, 1]);
        assert_eq!(complaints("a.rs", &of(71), length), ["a.rs:1: `f` has 71 lines"]);
    }

    /// Scenario: each banned word once where it counts and once in a string.
    /// Guarantees: each is found on its line, and none in the string.
    #[test]
    fn each_banned_word_is_noticed_where_it_counts() {
        let text = "dbg!(1);\ntodo!();\nunimplemented!();\n#[ignore = \"slow\"]\nfn a() {}\n// FIXME\n// TODO later\n// TODO(#7): x\n// TODO #7\nlet s = \"dbg!() FIXME TODO\";\n";
        let mut lines: Vec<_> = complaints("a.rs", text, banned_words);
        lines.sort();
        let places: Vec<_> = lines.iter().map(|line| line.split(": ").next().unwrap_or_default()).collect();
        assert_eq!(places, ["a.rs:1", "a.rs:2", "a.rs:3", "a.rs:4", "a.rs:6", "a.rs:7"]);
    }

    /// Scenario: exceptions with and without a reason, and attributes that only look alike.
    /// Guarantees: those without a reason are found.
    #[test]
    fn a_bare_exception_is_noticed() {
        let text = "#![allow(dead_code)]\n#[expect(unsafe_code)]\n#[expect(unsafe_code, reason = \"x\")]\n#[cfg_attr(test, allow(y))]\n#[cfg(feature = \"allow\")]\nfn f() { x.expect(\"y\") }\n";
        let places: Vec<_> = complaints("a.rs", text, exceptions);
        let lines: Vec<_> = places.iter().map(|place| place.split(": ").next().unwrap_or_default()).collect();
        assert_eq!(lines, ["a.rs:1", "a.rs:2", "a.rs:4"]);
    }

    /// Scenario: a door that makes its own proof, by name and by path, and a test that does.
    /// Guarantees: the door is found, the test is not; the queue may, and the model may only define it.
    #[test]
    fn a_proof_made_outside_the_queue_is_noticed() {
        let text = "fn f() { g(Persisted::vouch(s)); h.map(Held::vouch) }\n#[cfg(test)]\nmod tests { fn t() { Held::vouch(s); } }\n";
        assert_eq!(complaints("host/receiver/src/otlp.rs", text, proofs).len(), 2);
        assert_eq!(complaints("host/queue/src/journal.rs", text, proofs).len(), 0);
        let model = "pub fn vouch(upto: Seq) -> Self {}\nfn f() { Self::vouch(x) }\n";
        assert_eq!(complaints("host/model/src/receipt.rs", model, proofs).len(), 1);
        assert_eq!(complaints("host/model/src/batch.rs", model, proofs).len(), 2);
    }

    /// Scenario: a generated type in the pipeline, and in the receiver.
    /// Guarantees: it is found where it may not be.
    #[test]
    fn a_generated_type_past_the_door_is_noticed() {
        let text = "use weir_proto::opencensus;\n// weir_proto in words\n";
        assert_eq!(complaints("host/pipeline/src/lib.rs", text, foreign_types).len(), 1);
        assert_eq!(complaints("host/receiver/src/lib.rs", text, foreign_types).len(), 0);
    }
}
