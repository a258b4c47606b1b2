//! A text, record by record.

use crate::line::{Line, Name, unescaped};
use crate::number::{float, milliseconds, seconds};
use crate::{Dialect, Fault, Kind, Text, shown};

/// Characters of an exemplar's labels (OpenMetrics 1.0, "Exemplars").
const EXEMPLAR_CHARS_MAX: usize = 128;

/// One line that says something.
#[derive(Clone, Debug, PartialEq)]
pub enum Record<'a> {
    /// What a family is about.
    Help {
        /// Its name.
        family: Text<'a>,
        /// For a person.
        text: Text<'a>,
    },
    /// What a family is.
    Type {
        /// Its name.
        family: Text<'a>,
        /// What it is.
        kind: Kind,
    },
    /// What a family is measured in; OpenMetrics only.
    Unit {
        /// Its name.
        family: Text<'a>,
        /// As it is written: `seconds`.
        unit: Text<'a>,
    },
    /// A value. Its labels are [`Reader::labels`].
    Sample(Sample<'a>),
}

/// A value at a time.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample<'a> {
    /// Of the series, with its suffix.
    pub name: Text<'a>,
    /// What it is.
    pub value: f64,
    /// Whether it was written as a whole number.
    pub is_whole: bool,
    /// Nanoseconds since the Unix epoch, where the target says it.
    pub time: Option<i64>,
    /// One of the things that were counted. Its labels are [`Reader::exemplar_labels`].
    pub exemplar: Option<Exemplar>,
}

/// One of the things that a sample counts; OpenMetrics only.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Exemplar {
    /// What it was.
    pub value: f64,
    /// Nanoseconds since the Unix epoch, where the target says it.
    pub time: Option<i64>,
}

/// A name with its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label<'a> {
    /// Not empty.
    pub name: Text<'a>,
    /// Empty is the same as no label.
    pub value: Text<'a>,
}

/// Reads a text from its first to its last line.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    rest: &'a str,
    line: usize,
    dialect: Dialect,
    has_ended: bool,
    labels: Vec<Label<'a>>,
    exemplar_labels: Vec<Label<'a>>,
}

impl<'a> Reader<'a> {
    /// Starts at the first line.
    ///
    /// # Errors
    /// [`Fault`] where the bytes are no UTF-8.
    pub fn new(text: &'a [u8], dialect: Dialect) -> Result<Self, Fault> {
        let rest = core::str::from_utf8(text).map_err(|error| {
            let before = &text[..error.valid_up_to()];
            let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
            Fault { line, what: "not UTF-8".into() }
        })?;
        let (labels, exemplar_labels) = (Vec::new(), Vec::new());
        Ok(Self { rest, line: 0, dialect, has_ended: false, labels, exemplar_labels })
    }

    /// The line of the last record, counted from 1.
    #[must_use]
    pub const fn line(&self) -> usize {
        self.line
    }

    /// The labels of the last sample, in the order in which they stand.
    #[must_use]
    pub fn labels(&self) -> &[Label<'a>] {
        &self.labels
    }

    /// The labels of the last sample's exemplar.
    #[must_use]
    pub fn exemplar_labels(&self) -> &[Label<'a>] {
        &self.exemplar_labels
    }

    /// The next record; nothing at the end.
    ///
    /// # Errors
    /// [`Fault`]; what comes behind it is not worth reading.
    #[expect(
        clippy::should_implement_trait,
        reason = "an iterator of results can't be asked with `?` in a `while let`"
    )]
    pub fn next(&mut self) -> Result<Option<Record<'a>>, Fault> {
        while !self.rest.is_empty() {
            let (line, rest) = self.rest.split_once('\n').unwrap_or((self.rest, ""));
            self.rest = rest;
            self.line += 1;
            if self.has_ended {
                return Err(self.fault("unexpected data after # EOF"));
            }
            let read = match self.dialect {
                Dialect::Plain => self.plain(Line { rest: line }),
                Dialect::OpenMetrics => self.open_metrics(Line { rest: line }),
            };
            if let Some(record) = read.map_err(|what| self.fault(what))? {
                return Ok(Some(record));
            }
        }
        if self.dialect == Dialect::OpenMetrics && !self.has_ended {
            return Err(self.fault("data does not end with # EOF"));
        }
        Ok(None)
    }

    fn fault(&self, what: impl Into<std::borrow::Cow<'static, str>>) -> Fault {
        Fault { line: self.line.max(1), what: what.into() }
    }

    // === the plain text ===

    fn plain(&mut self, mut line: Line<'a>) -> Fallible<Option<Record<'a>>> {
        line.blanks();
        if line.is_empty() {
            return Ok(None);
        }
        if !line.take('#') {
            return self.sample(line).map(Some);
        }
        line.blanks();
        let word = line.word();
        if line.is_empty() {
            // `# HELP` alone is a comment as well.
            return Ok(None);
        }
        match word {
            "HELP" => {
                line.blanks();
                let family = line.name_or_quoted(Name::Metric)?;
                if !line.is_empty() && !line.blanks() {
                    return Err("expected a blank behind the name".into());
                }
                Ok(Some(Record::Help { family, text: unescaped(line.rest, false) }))
            }
            "TYPE" => {
                line.blanks();
                let family = line.name_or_quoted(Name::Metric)?;
                line.gap(Dialect::Plain)?;
                let word = line.word();
                line.blanks();
                match Kind::named(word, Dialect::Plain) {
                    Some(kind) if line.is_empty() => Ok(Some(Record::Type { family, kind })),
                    Some(_) | None => Err(unknown_type(word)),
                }
            }
            // A comment, whatever it says.
            _ => Ok(None),
        }
    }

    // === OpenMetrics ===

    fn open_metrics(&mut self, mut line: Line<'a>) -> Fallible<Option<Record<'a>>> {
        if line.is_empty() {
            return Err("a blank line".into());
        }
        if line.rest == "# EOF" {
            self.has_ended = true;
            return Ok(None);
        }
        if !line.take('#') {
            return self.sample(line).map(Some);
        }
        line.gap(Dialect::OpenMetrics)?;
        let what = line.word();
        if !matches!(what, "HELP" | "TYPE" | "UNIT") {
            return Err("a comment: only HELP, TYPE, UNIT and EOF may stand behind #".into());
        }
        line.gap(Dialect::OpenMetrics)?;
        let family = line.name_or_quoted(Name::Metric)?;
        line.gap(Dialect::OpenMetrics)?;
        Ok(Some(match what {
            "HELP" => Record::Help { family, text: unescaped(line.rest, true) },
            "UNIT" => {
                let unit = line.rest;
                let is_suffix =
                    unit.is_empty() || family.strip_suffix(unit).is_some_and(|rest| rest.ends_with('_'));
                if !is_suffix {
                    return Err(format!("unit {:?} is no suffix of {}", shown(unit), shown(&family)).into());
                }
                Record::Unit { family, unit: unit.into() }
            }
            _ => {
                let kind = Kind::named(line.rest, Dialect::OpenMetrics);
                Record::Type { family, kind: kind.ok_or_else(|| unknown_type(line.rest))? }
            }
        }))
    }

    // === samples ===

    fn sample(&mut self, mut line: Line<'a>) -> Fallible<Record<'a>> {
        let dialect = self.dialect;
        self.labels.clear();
        self.exemplar_labels.clear();
        let bare = line.name(Name::Metric);
        let had_blanks = dialect == Dialect::Plain && line.blanks();
        let mut quoted = None;
        let has_labels = line.take('{');
        if has_labels {
            quoted = line.labels(&mut self.labels, dialect)?;
        }
        let name = match (bare, quoted) {
            ("", None) => return Err("metric name not set".into()),
            ("", Some(name)) => name,
            (bare, None) => bare.into(),
            (_, Some(_)) => return Err("metric name already set".into()),
        };
        match dialect {
            Dialect::Plain if has_labels || had_blanks => drop(line.blanks()),
            Dialect::Plain | Dialect::OpenMetrics => line.gap(dialect)?,
        }
        let word = line.word();
        let value = float(word).ok_or_else(|| format!("expected a number, found {:?}", shown(word)))?;
        let is_whole = word.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'+' | b'-'));
        let mut sample = Sample { name, value, is_whole, time: None, exemplar: None };
        match dialect {
            Dialect::Plain => {
                line.blanks();
                if !line.is_empty() {
                    let word = line.word();
                    let time = milliseconds(word);
                    let fault = || format!("expected milliseconds, found {:?}", shown(word));
                    sample.time = Some(time.ok_or_else(fault)?);
                    line.blanks();
                }
                if line.is_empty() {
                    Ok(Record::Sample(sample))
                } else {
                    Err("more than a value and a time".into())
                }
            }
            Dialect::OpenMetrics => {
                self.time_and_exemplar(line, &mut sample)?;
                Ok(Record::Sample(sample))
            }
        }
    }

    /// What may stand behind a value in OpenMetrics.
    fn time_and_exemplar(&mut self, mut line: Line<'a>, sample: &mut Sample<'a>) -> Fallible<()> {
        if line.is_empty() {
            return Ok(());
        }
        line.gap(Dialect::OpenMetrics)?;
        if !line.rest.starts_with('#') {
            sample.time = Some(time(&mut line)?);
            if line.is_empty() {
                return Ok(());
            }
            line.gap(Dialect::OpenMetrics)?;
        }
        if !line.take('#') {
            return Err("expected # before an exemplar".into());
        }
        line.gap(Dialect::OpenMetrics)?;
        if !line.take('{') || line.labels(&mut self.exemplar_labels, Dialect::OpenMetrics)?.is_some() {
            return Err("expected an exemplar's labels".into());
        }
        let chars = |label: &Label<'_>| label.name.chars().count() + label.value.chars().count();
        if self.exemplar_labels.iter().map(chars).sum::<usize>() > EXEMPLAR_CHARS_MAX {
            return Err(format!("an exemplar's labels have more than {EXEMPLAR_CHARS_MAX} characters").into());
        }
        line.gap(Dialect::OpenMetrics)?;
        let word = line.word();
        let fault = || format!("expected an exemplar's value, found {:?}", shown(word));
        let value = float(word).ok_or_else(fault)?;
        let mut exemplar = Exemplar { value, time: None };
        if !line.is_empty() {
            line.gap(Dialect::OpenMetrics)?;
            exemplar.time = Some(time(&mut line)?);
        }
        if !line.is_empty() {
            return Err("more than an exemplar".into());
        }
        sample.exemplar = Some(exemplar);
        Ok(())
    }
}

type Fallible<T> = Result<T, std::borrow::Cow<'static, str>>;

fn time(line: &mut Line<'_>) -> Fallible<i64> {
    let word = line.word();
    seconds(word).ok_or_else(|| format!("expected a time in seconds, found {:?}", shown(word)).into())
}

fn unknown_type(word: &str) -> std::borrow::Cow<'static, str> {
    format!("unknown type {:?}", shown(word)).into()
}
