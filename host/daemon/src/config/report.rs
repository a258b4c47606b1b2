//! What is wrong with a file, all of it at once, each with its place.
//!
//! ```text
//! error: unknown key `endpont`
//!   --> weir.yaml:5:9  receivers.otlp.protocols.grpc.endpont
//!    |
//!  5 |         endpont: 127.0.0.1:4317
//!    |         ^^^^^^^ did you mean `endpoint`?
//!    |
//!    = known keys: endpoint, limits, tls
//! ```

use std::cell::RefCell;
use std::fmt;

use super::location::{Location, Source};
use super::tree::{Node, Scalar, Value};
use super::veil::{guarded, veiled};

/// Errors that are shown of one file. A person mends a few and asks again; a file of another kind has thousands.
const SHOWN_MAX: usize = 50;

/// Errors that are remembered. Of a file with more nobody wants the number; each takes a kilobyte.
const FOUND_MAX: usize = 10_000;

/// Characters of a line that are shown. Wider than a screen helps nobody, and a line can be a megabyte.
const LINE_CHARS_MAX: usize = 140;

/// Characters that are kept before the marked place of a line that is too long.
const LINE_CHARS_BEFORE: usize = 40;

/// Whether the program goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// The configuration is refused.
    Error,
    /// Odd, and the program goes on.
    Warning,
}

/// One thing that is wrong, with what was expected.
#[derive(Debug, Clone)]
pub struct Diagnostic {
    /// Whether it keeps the program from starting.
    pub severity: Severity,
    /// The place.
    pub at: Location,
    /// The key's path from the top of the file (`receivers.otlp.protocols.grpc.endpoint`); empty at the top.
    pub path: String,
    /// What was found.
    pub message: String,
    /// What was expected, shown beside the marked place; may be empty.
    pub label: String,
    /// Further places that have to do with it, each with a word on how.
    pub others: Vec<(Location, String)>,
    /// The next thing to do, names that are known, and the like.
    pub notes: Vec<String>,
}

impl Diagnostic {
    pub(crate) fn error(at: Location, path: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            at,
            path: path.into(),
            message: message.into(),
            label: String::new(),
            others: Vec::new(),
            notes: Vec::new(),
        }
    }

    pub(crate) fn warning(at: Location, path: impl Into<String>, message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(at, path, message) }
    }

    pub(crate) fn label(mut self, label: impl Into<String>) -> Self {
        self.label = label.into();
        self
    }

    pub(crate) fn other(mut self, at: Location, label: impl Into<String>) -> Self {
        if !at.is_none() {
            self.others.push((at, label.into()));
        }
        self
    }

    pub(crate) fn note(mut self, note: impl Into<String>) -> Self {
        self.notes.push(note.into());
        self
    }
}

/// Collects what is wrong while the file is read on, and what of the file no report may show.
#[derive(Debug, Default)]
pub(crate) struct Problems {
    found: RefCell<Vec<Diagnostic>>,
    hidden: RefCell<Vec<Location>>,
}

impl Problems {
    /// Goes on where another reading ended.
    pub(crate) fn after(found: Vec<Diagnostic>, hidden: Vec<Location>) -> Self {
        Self { found: RefCell::new(found), hidden: RefCell::new(hidden) }
    }

    pub(crate) fn push(&self, diagnostic: Diagnostic) {
        let mut found = self.found.borrow_mut();
        if found.len() < FOUND_MAX {
            found.push(diagnostic);
        }
    }

    /// Keeps the texts in this node out of every report: they are, or may be, secrets.
    pub(crate) fn hide(&self, node: &Node) {
        let mut hidden = self.hidden.borrow_mut();
        let mut open = vec![node];
        while let Some(node) = open.pop() {
            match &node.value {
                Value::Scalar(scalar) if scalar.is_null() => {}
                Value::Scalar(scalar) if is_reference(scalar) => {}
                Value::Scalar(_) => hidden.push(node.at),
                Value::List(items) => open.extend(items),
                Value::Mapping(entries) => open.extend(entries.iter().map(|entry| &entry.value)),
            }
        }
    }

    /// The same for a key, where a slip has made a key of a value.
    pub(crate) fn hide_at(&self, at: Location) {
        self.hidden.borrow_mut().push(at);
    }

    pub(crate) fn take(self) -> (Vec<Diagnostic>, Vec<Location>) {
        (self.found.into_inner(), self.hidden.into_inner())
    }
}

/// Whether nothing but a variable was written, or a slip at one: the file holds no secret there, unless it is the default.
fn is_reference(scalar: &Scalar) -> bool {
    let written = scalar.written.as_deref().unwrap_or_default().trim_matches(['"', '\'']);
    written.starts_with("${")
        && !written.contains(":-")
        && written.find('}').is_none_or(|end| end + 1 == written.len())
}

/// What is odd about a file that is taken all the same.
#[derive(Debug, Clone)]
pub struct Warning {
    /// What it is.
    pub diagnostic: Diagnostic,
    source: Source,
}

impl Warning {
    /// `weir.yaml:7:3: receiver `zipkin` is defined and used by no pipeline`: one line, for the log.
    pub fn line(&self) -> String {
        let Diagnostic { at, message, .. } = &self.diagnostic;
        format!("{}:{}:{}: {message}", self.source.name, at.line, at.column)
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        render(f, &self.source, &self.diagnostic)
    }
}

/// All that keeps a file from being used. Its `Display` is what a person reads.
#[derive(Debug, Clone)]
pub struct Report {
    source: Source,
    diagnostics: Vec<Diagnostic>,
}

impl Report {
    /// A report that ends the reading. Nobody knows then what of the file is a secret, so that no value is shown.
    pub(crate) fn of(source: Source, mut diagnostics: Vec<Diagnostic>) -> Self {
        sort(&mut diagnostics);
        Self { source: guarded(&source), diagnostics }
    }

    /// Errors where there are some, else the warnings: those may be no more than what follows from an error.
    pub(crate) fn conclude(source: &Source, problems: Problems) -> Result<Vec<Warning>, Self> {
        let (mut found, hidden) = problems.take();
        if found.is_empty() {
            return Ok(Vec::new());
        }
        let source = veiled(source, &hidden);
        sort(&mut found);
        if found.iter().any(|diagnostic| diagnostic.severity == Severity::Error) {
            found.retain(|diagnostic| diagnostic.severity == Severity::Error);
            return Err(Self { source, diagnostics: found });
        }
        Ok(found.into_iter().map(|diagnostic| Warning { diagnostic, source: source.clone() }).collect())
    }

    /// `weir.yaml:7:3: exporter `debog` is not defined: did you mean `debug`?`: each error in one line, for the log.
    pub fn lines(&self) -> Vec<String> {
        let line = |diagnostic: &Diagnostic| {
            let Diagnostic { at, message, label, .. } = diagnostic;
            let place = match at.is_none() {
                true => self.source.name.clone(),
                false => format!("{}:{}:{}", self.source.name, at.line, at.column),
            };
            let label = if label.is_empty() { String::new() } else { format!(": {label}") };
            printable(&format!("{place}: {message}{label}"))
        };
        self.diagnostics.iter().take(SHOWN_MAX).map(line).collect()
    }

    /// The errors in the order of the file.
    pub fn diagnostics(&self) -> &[Diagnostic] {
        &self.diagnostics
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for diagnostic in self.diagnostics.iter().take(SHOWN_MAX) {
            render(f, &self.source, diagnostic)?;
            writeln!(f)?;
        }
        if let Some(more) = self.diagnostics.len().checked_sub(SHOWN_MAX).filter(|more| *more > 0) {
            writeln!(f, "and {more} more\n")?;
        }
        let errors = self.diagnostics.len();
        write!(f, "{errors} error{} in {}", if errors == 1 { "" } else { "s" }, self.source.name)
    }
}

impl std::error::Error for Report {}

/// In the order of the file; what has no place comes first.
fn sort(diagnostics: &mut [Diagnostic]) {
    diagnostics.sort_by(|a, b| a.at.cmp(&b.at).then_with(|| a.message.cmp(&b.message)));
}

fn render(f: &mut fmt::Formatter<'_>, source: &Source, diagnostic: &Diagnostic) -> fmt::Result {
    let Diagnostic { severity, at, path, message, label, others, notes } = diagnostic;
    let word = match severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
    };
    writeln!(f, "{word}: {}", printable(message))?;
    write!(f, "  --> {}", source.name)?;
    if !at.is_none() {
        write!(f, ":{}:{}", at.line, at.column)?;
    }
    writeln!(f, "{}{}", if path.is_empty() { "" } else { "  " }, printable(path))?;

    let mut marks = vec![(*at, '^', label.as_str())];
    marks.extend(others.iter().map(|(at, label)| (*at, '-', label.as_str())));
    marks.retain(|(at, ..)| !at.is_none());
    marks.sort_by_key(|(at, ..)| *at);
    let width = marks.last().map_or(1, |(at, ..)| at.line.to_string().len());
    if at.is_none() && !label.is_empty() {
        writeln!(f, " {:width$} = {}", "", printable(label))?;
    }
    snippet(f, source, &marks, width)?;
    for note in notes {
        writeln!(f, " {:width$} = {}", "", printable(note))?;
    }
    Ok(())
}

fn snippet(
    f: &mut fmt::Formatter<'_>,
    source: &Source,
    marks: &[(Location, char, &str)],
    width: usize,
) -> fmt::Result {
    if marks.is_empty() {
        return Ok(());
    }
    writeln!(f, " {:width$} |", "")?;
    let mut last = None;
    for (at, sign, label) in marks {
        let (line, skipped) = excerpt(source.line(at.line), at.column);
        if last != Some(at.line) {
            if last.is_some_and(|last| at.line > last + 1) {
                writeln!(f, " {:width$} ⋮", "")?;
            }
            writeln!(f, " {:width$} | {line}", at.line)?;
        }
        last = Some(at.line);
        let start = (at.column as usize).saturating_sub(1 + skipped);
        // A caret may stand one past the end, where something is missing.
        let room = (line.chars().count() + 1).saturating_sub(start).max(1);
        let length = (at.length as usize).clamp(1, room.max(2) - 1);
        let marker = sign.to_string().repeat(length);
        writeln!(f, " {:width$} | {:start$}{marker} {}", "", "", printable(label))?;
    }
    writeln!(f, " {:width$} |", "")
}

/// The part of a line around a column, fit to print, and how many characters of it were left out before.
fn excerpt(line: &str, column: u32) -> (String, usize) {
    let chars = line.chars().count();
    if chars <= LINE_CHARS_MAX {
        return (printable(line.trim_end()), 0);
    }
    let skip = (column as usize).saturating_sub(1 + LINE_CHARS_BEFORE);
    let mut shown: String = line.chars().skip(skip).take(LINE_CHARS_MAX).collect();
    if skip > 0 {
        shown = shown.chars().skip(1).collect();
        shown.insert(0, '…');
    }
    if skip + LINE_CHARS_MAX < chars {
        shown.push('…');
    }
    (printable(&shown), skip)
}

/// One character for each of the text's, none of which can drive a terminal.
fn printable(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '\t' => '→',
            c if c.is_control() => '\u{fffd}',
            c => c,
        })
        .collect()
}
