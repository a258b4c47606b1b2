//! The file as a tree in which every key and every value knows its place.
//!
//! Variables are substituted here, in scalar values only, so that all that reads the tree sees what the user meant
//! and all that complains points to what the user wrote. Aliases and merge keys (`<<`) are replaced by what they
//! stand for, within a budget.
//!
//! Invariant: building ends, in memory in proportion to [`CELLS_MAX`], whatever the text.

use std::collections::HashMap;

use serde_saphyr::granit_parser::{
    self as yaml, ErrorKind, Event, Parser, ScalarStyle, ScanError, Span, StrInput,
};

use super::location::{Location, Source};
use super::report::{Diagnostic, Problems};
use super::section::{join, shortened};
use super::substitute::{SlipKind, substitute};
use super::veil::bears_secret;

/// Nodes of a tree, aliases replaced; each 64 bytes of text count as one more. A large configuration has a thousand.
const CELLS_MAX: usize = 100_000;

/// Nesting of lists and mappings. A configuration needs ten; recursion here and later rests on it.
const DEPTH_MAX: usize = 48;

/// Bytes of text that weigh as much as a node.
const CELL_BYTES: usize = 64;

/// A value and its place.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) at: Location,
    pub(crate) value: Value,
}

#[derive(Debug, Clone)]
pub(crate) enum Value {
    Scalar(Scalar),
    List(Vec<Node>),
    Mapping(Vec<Entry>),
}

/// A scalar's text with its variables substituted.
#[derive(Debug, Clone)]
pub(crate) struct Scalar {
    pub(crate) text: String,
    /// Written without quotes, so that `true` is a truth and `7` a number.
    pub(crate) plain: bool,
    /// What stands in the file, where something was substituted: messages show this and never the value, which may
    /// be a secret.
    pub(crate) written: Option<String>,
}

#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) key_at: Location,
    pub(crate) value: Node,
}

impl Scalar {
    /// Nothing was written, or one of YAML's words for nothing.
    pub(crate) fn is_null(&self) -> bool {
        self.plain
            && self.written.is_none()
            && matches!(self.text.as_str(), "" | "~" | "null" | "Null" | "NULL")
    }
}

impl Scalar {
    /// The value by the rules of YAML's core schema; whole numbers that begin with 0 stay texts.
    pub(crate) fn json(&self) -> serde_json::Value {
        use serde_json::Value as Json;
        if self.is_null() {
            return Json::Null;
        }
        let text = self.text.as_str();
        if !self.plain {
            return Json::String(text.to_owned());
        }
        match text {
            "true" | "True" | "TRUE" => return Json::Bool(true),
            "false" | "False" | "FALSE" => return Json::Bool(false),
            _ => {}
        }
        let unsigned = text.trim_start_matches(['-', '+']);
        let numeric = unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.');
        let code = unsigned.len() > 1
            && unsigned.bytes().all(|byte| byte.is_ascii_digit())
            && unsigned.starts_with('0');
        if !numeric || code || text.len() - unsigned.len() > 1 {
            return Json::String(text.to_owned());
        }
        if let Ok(number) = text.parse::<i64>() {
            return Json::from(number);
        }
        if let Ok(number) = text.parse::<u64>() {
            return Json::from(number);
        }
        match text.parse::<f64>() {
            Ok(number) if number.is_finite() => Json::from(number),
            Ok(_) | Err(_) => Json::String(text.to_owned()),
        }
    }
}

impl Node {
    fn cells(&self) -> usize {
        1 + match &self.value {
            Value::Scalar(scalar) => scalar.text.len() / CELL_BYTES,
            Value::List(items) => items.iter().map(Node::cells).sum(),
            Value::Mapping(entries) => {
                entries.iter().map(|entry| 1 + entry.key.len() / CELL_BYTES + entry.value.cells()).sum()
            }
        }
    }
}

/// Reads the text; what can be passed over goes to `problems`, what cannot is the error.
pub(crate) fn parse(
    source: &Source,
    env: &dyn Fn(&str) -> Option<String>,
    problems: &Problems,
) -> Result<Node, Box<Diagnostic>> {
    let mut options = yaml::Options::default();
    options.set_emit_comments(false);
    options.disallow_directives = true;
    options.emit_unresolved_aliases = true;
    options.flow_nesting_limit = DEPTH_MAX;
    options.block_nesting_limit = DEPTH_MAX;
    let parser = Parser::new_from_str_with_options(&source.text, options);
    Builder { source, parser, env, problems, anchors: HashMap::new(), cells: 0, path: Vec::new() }.document()
}

struct Builder<'t> {
    source: &'t Source,
    parser: Parser<'t, StrInput<'t>>,
    env: &'t dyn Fn(&str) -> Option<String>,
    problems: &'t Problems,
    /// What has been named so far, by the parser's number.
    anchors: HashMap<usize, Node>,
    cells: usize,
    /// The keys around what is being read.
    path: Vec<String>,
}

type Fatal = Box<Diagnostic>;

impl<'t> Builder<'t> {
    fn document(mut self) -> Result<Node, Fatal> {
        let mut root = None;
        loop {
            let (event, span) = self.next()?;
            match event {
                Event::StreamEnd => break,
                Event::StreamStart | Event::DocumentEnd => {}
                Event::DocumentStart(..) if root.is_some() => {
                    let error = Diagnostic::error(place(&span), "", "a second document begins here");
                    return Err(Box::new(error.label("expected one document in the file")));
                }
                Event::DocumentStart(..) => {}
                // The parser gives no other event at this level than the beginning of the document's one node.
                node => root = Some(self.node(node, span, 0)?),
            }
        }
        Ok(root.unwrap_or_else(|| Node {
            at: Location { line: 1, column: 1, length: 1 },
            value: Value::Mapping(Vec::new()),
        }))
    }

    fn next(&mut self) -> Result<(Event<'t>, Span), Fatal> {
        match self.parser.next() {
            Some(Ok(next)) => Ok(next),
            Some(Err(error)) => Err(Box::new(syntax(self.source, &error))),
            None => Ok((Event::StreamEnd, Span::default())),
        }
    }

    fn error(&self, at: Location, message: impl Into<String>) -> Diagnostic {
        Diagnostic::error(at, self.path.iter().fold(String::new(), |path, key| join(&path, key)), message)
    }

    fn pay(&mut self, cells: usize, at: Location) -> Result<(), Fatal> {
        self.cells = self.cells.saturating_add(cells);
        if self.cells <= CELLS_MAX {
            return Ok(());
        }
        let error = self.error(at, "the file is too large once its aliases are replaced");
        Err(Box::new(error.label(format!("expected at most {CELLS_MAX} values"))))
    }

    fn node(&mut self, event: Event<'t>, span: Span, depth: usize) -> Result<Node, Fatal> {
        let at = place(&span);
        if depth > DEPTH_MAX {
            let error = self.error(at, "lists and mappings are nested too deep");
            return Err(Box::new(error.label(format!("expected at most {DEPTH_MAX} levels"))));
        }
        let (value, anchor) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                self.pay(1 + text.len() / CELL_BYTES, at)?;
                let string = self.tagged(tag.as_deref(), &span);
                let plain = style == ScalarStyle::Plain && !string;
                (Value::Scalar(self.scalar(text.into_owned(), plain, &span)), anchor)
            }
            Event::SequenceStart(_, anchor, tag) => {
                self.pay(1, at)?;
                self.tagged(tag.as_deref(), &span);
                (Value::List(self.list(depth)?), anchor)
            }
            Event::MappingStart(_, anchor, tag) => {
                self.pay(1, at)?;
                self.tagged(tag.as_deref(), &span);
                (Value::Mapping(self.mapping(depth)?), anchor)
            }
            Event::Alias(anchor) => return self.alias(anchor, at),
            Event::UnresolvedAlias(_) => {
                // Not its name: a password may begin like an alias.
                let error = self.error(at, "an alias of nothing that stands before it");
                let error = error.label("expected `*name` of a `&name` before it");
                return Err(Box::new(error.note("a text that begins with `*` must stand in quotes")));
            }
            // A foreign enum: the rest are no nodes, and the parser does not give them here.
            _ => (Value::Mapping(Vec::new()), 0),
        };
        let node = Node { at, value };
        if matches!(&node.value, Value::Scalar(scalar) if bears_secret(scalar)) {
            self.problems.hide(&node);
        }
        if anchor != 0 {
            self.pay(node.cells(), at)?;
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    fn alias(&mut self, anchor: usize, at: Location) -> Result<Node, Fatal> {
        let Some(node) = self.anchors.get(&anchor).cloned() else {
            let error = self.error(at, "an alias stands inside of what it stands for");
            return Err(Box::new(error.label("expected the name of something that is complete")));
        };
        self.pay(node.cells(), at)?;
        Ok(node)
    }

    /// Whether the tag makes a string of it. Other types than YAML's own are not read here.
    fn tagged(&self, tag: Option<&yaml::Tag>, span: &Span) -> bool {
        let Some(tag) = tag else { return false };
        let Some(core) = tag.core_suffix() else {
            let length = tag.handle().chars().count() + tag.suffix().chars().count();
            let at = span.tag_start().map_or_else(|| place(span), |start| point(start, length));
            // Not its name: a password may begin like a tag.
            self.problems.hide_at(at);
            let error = self.error(at, "a tag").label("expected a value without a tag");
            self.problems.push(error.note("a text that begins with `!` must stand in quotes"));
            return false;
        };
        core == "str"
    }

    fn scalar(&self, text: String, plain: bool, span: &Span) -> Scalar {
        let (done, slips) = substitute(&text, self.env);
        let raw = span.slice(&self.source.text).unwrap_or_default();
        let failed = !slips.is_empty();
        for slip in slips {
            let at = dollar_place(raw, slip.dollar, span);
            let (message, label) = slip_words(&slip.kind);
            self.problems.push(self.error(at, message).label(label));
        }
        match done {
            // A value that could not be made up is not judged a second time as an empty one.
            Some(done) if !failed => Scalar { text: done, plain, written: Some(raw.to_owned()) },
            Some(_) => Scalar { text: String::new(), plain: false, written: Some(raw.to_owned()) },
            None => Scalar { text, plain, written: None },
        }
    }

    fn list(&mut self, depth: usize) -> Result<Vec<Node>, Fatal> {
        let mut items = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd | Event::StreamEnd, _) => return Ok(items),
                (event, span) => items.push(self.node(event, span, depth + 1)?),
            }
        }
    }

    fn mapping(&mut self, depth: usize) -> Result<Vec<Entry>, Fatal> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut known: HashMap<String, Location> = HashMap::new();
        let mut merged = Vec::new();
        loop {
            let (event, span) = self.next()?;
            if matches!(event, Event::MappingEnd | Event::StreamEnd) {
                break;
            }
            let key_at = place(&span);
            let key = self.node(event, span, depth + 1)?;
            self.path.push(match &key.value {
                Value::Scalar(scalar) => scalar.text.clone(),
                Value::List(_) | Value::Mapping(_) => "?".to_owned(),
            });
            let (event, span) = self.next()?;
            let mut value = self.node(event, span, depth + 1)?;
            self.path.pop();
            // A value that is not there stands, for the parser, wherever the next thing does.
            if matches!(&value.value, Value::Scalar(scalar) if scalar.text.is_empty() && scalar.plain) {
                value.at = key_at;
            }
            let Value::Scalar(Scalar { text: key, plain, .. }) = key.value else {
                let error = self.error(key_at, "a key that is a list or a mapping");
                self.problems.push(error.label("expected a name"));
                continue;
            };
            if plain && key == "<<" {
                merged.push((key_at, value));
                continue;
            }
            match known.get(&key) {
                Some(first) => {
                    let message = format!("the key `{}` stands here a second time", shortened(&key));
                    let error = self.error(key_at, message).label("expected each key once");
                    self.problems.push(error.other(*first, "first here"));
                }
                None => {
                    known.insert(key.clone(), key_at);
                    entries.push(Entry { key, key_at, value });
                }
            }
        }
        for (at, value) in merged {
            self.merge(at, value, &mut entries, &mut known);
        }
        Ok(entries)
    }

    /// `<<: *base`: what the mapping itself does not say is taken from the base.
    fn merge(
        &self,
        at: Location,
        value: Node,
        entries: &mut Vec<Entry>,
        known: &mut HashMap<String, Location>,
    ) {
        let bases = match value.value {
            Value::List(bases) => bases,
            Value::Mapping(_) | Value::Scalar(_) => vec![value],
        };
        for base in bases {
            let Value::Mapping(inherited) = base.value else {
                let error = self.error(at, "a merge of something that is no mapping");
                self.problems.push(error.label("expected `<<: *name` of a mapping"));
                continue;
            };
            for entry in inherited {
                if !known.contains_key(&entry.key) {
                    known.insert(entry.key.clone(), entry.key_at);
                    entries.push(entry);
                }
            }
        }
    }
}

fn clipped(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

fn point(start: yaml::Marker, length: usize) -> Location {
    Location { line: clipped(start.line()), column: clipped(start.col() + 1), length: clipped(length) }
}

fn place(span: &Span) -> Location {
    let length = match span.end.line() == span.start.line() {
        true => span.end.col().saturating_sub(span.start.col()).max(1),
        // To the end of the line; whoever shows it clips.
        false => usize::MAX,
    };
    point(span.start, length)
}

/// The place of a dollar in a scalar as it was written. Escapes may hide one; then the scalar's beginning serves.
fn dollar_place(raw: &str, dollar: usize, span: &Span) -> Location {
    let Some((offset, _)) = raw.match_indices('$').nth(dollar) else {
        return place(span);
    };
    let before = &raw[..offset];
    let length = raw[offset..].find('}').map_or(1, |end| raw[offset..offset + end].chars().count() + 1);
    let last_line = before.rsplit('\n').next().unwrap_or_default().chars().count();
    let first = !before.contains('\n');
    Location {
        line: clipped(span.start.line() + before.matches('\n').count()),
        column: clipped(1 + last_line + if first { span.start.col() } else { 0 }),
        length: clipped(length),
    }
}

/// What is wrong with a substitution, and what was expected.
fn slip_words(kind: &SlipKind) -> (String, String) {
    let form = || "expected `${env:NAME}`; a dollar itself is written `$$`".to_owned();
    match kind {
        SlipKind::Missing(name) => (
            format!("the environment variable `{name}` is not set"),
            format!("set it, or give a default: `${{env:{name}:-default}}`"),
        ),
        SlipKind::Unclosed => ("a substitution without its closing brace".to_owned(), form()),
        SlipKind::NotEnv(inner) => (format!("`${{{}}}` stands for nothing", shortened(inner)), form()),
        SlipKind::BadName(name) => (
            format!("`{}` is no name of an environment variable", shortened(name)),
            "expected letters, digits and `_`, not beginning with a digit".to_owned(),
        ),
    }
}

fn syntax(source: &Source, error: &ScanError) -> Diagnostic {
    let mut at = point(*error.marker(), 1);
    at.line = at.line.max(1);
    // The parser may complain about what follows the tab; people look for the tab.
    for line in [at.line, at.line.saturating_sub(1)].into_iter().filter(|line| *line > 0) {
        let text = source.line(line);
        let indent = text.len() - text.trim_start_matches([' ', '\t']).len();
        if let Some(tab) = text[..indent].find('\t') {
            let at = Location { line, column: clipped(tab + 1), length: 1 };
            return Diagnostic::error(at, "", "a tab indents this line")
                .label("expected spaces: YAML does not take tabs here")
                .note(format!("YAML: {}", error.info()));
        }
    }
    let diagnostic = Diagnostic::error(at, "", "this is not YAML").label(error.info());
    if source.line(at.line).contains("${") {
        return diagnostic.note("inside of `{…}` and `[…]` a value with `${env:NAME}` must stand in quotes");
    }
    match error.kind() {
        ErrorKind::ExpectedFlowMappingSeparator
        | ErrorKind::ExpectedFlowSequenceSeparator
        | ErrorKind::UnexpectedEofFlowMapping
        | ErrorKind::UnexpectedEofFlowSequence
        | ErrorKind::UnclosedFlowCollection { .. } => {
            diagnostic.note("a bracket that was opened on this line or before may not be closed")
        }
        ErrorKind::UnclosedQuotedScalar | ErrorKind::InvalidQuotedScalarIndent => {
            diagnostic.note("a quotation mark on a line before may not be closed")
        }
        ErrorKind::ExpectedBlockMappingKey => diagnostic.note("keys of one mapping begin in the same column"),
        ErrorKind::MappingValueNotAllowed => diagnostic.note(
            "keys of one mapping begin in the same column, and a text with `: ` in it stands in quotes",
        ),
        ErrorKind::UnexpectedCharacter { .. } => {
            diagnostic.note("a text that begins with this character must stand in quotes")
        }
        // A foreign enum: the rest explain themselves.
        _ => diagnostic,
    }
}
