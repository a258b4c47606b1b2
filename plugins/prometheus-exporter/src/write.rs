//! Families and series as lines.

use weir_exposition::{Dialect, Kind};
use weir_prometheus::accumulate::Explicit;
use weir_prometheus::names;

use crate::accept::Format;
use crate::escape::{Scheme, push_escaped, rewrite};
use crate::held::{Held, Kept, Series, Summary};
use crate::number;
use crate::page::Family;

/// Bytes behind which the last samples of a series are looked at together: a count and a sum.
const HEAD_BYTES: usize = 64;

/// The last time that is written: other clocks have a sign, and end in 2262. What is beyond is no time.
const TIME_MAX: u64 = i64::MAX.unsigned_abs();

/// How lines are written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Style {
    pub(crate) format: Format,
    pub(crate) has_times: bool,
    /// Whether names may have other characters than Prometheus has always known.
    pub(crate) has_all_of_utf8: bool,
}

/// A family as it is called on this page.
#[derive(Clone, Debug)]
pub(crate) struct Face {
    /// What the page holds; a family of the same name and another kind is another one.
    pub(crate) kind: Kind,
    /// What the page says it is.
    shown: Kind,
    /// Behind `TYPE`, escaped; no quotes.
    base: String,
    /// What the samples of a number have behind the base.
    suffix: &'static str,
    needs_quotes: bool,
}

impl Style {
    pub(crate) const fn is_open(self) -> bool {
        matches!(self.format.dialect, Dialect::OpenMetrics)
    }

    /// Whether labels are not as they are held.
    const fn rewrites(self) -> bool {
        match self.format.scheme {
            Scheme::AllowUtf8 => false,
            Scheme::Dots => true,
            Scheme::Underscores | Scheme::Values => self.has_all_of_utf8,
        }
    }
}

impl Face {
    /// How a family is called. `is_taken` says whether the page has samples of a name.
    pub(crate) fn of(name: &str, kind: Kind, style: Style, is_taken: impl Fn(&str) -> bool) -> Self {
        let mut full = String::with_capacity(name.len() + 8);
        style.format.scheme.escape(name, true, &mut full);
        let needs_quotes = !names::is_legacy_metric(&full);
        let mut face = Self { kind, shown: kind, base: full, suffix: "", needs_quotes };
        if !style.is_open() {
            return face;
        }
        let suffix = match kind {
            Kind::Counter => "_total",
            Kind::Info => "_info",
            _ => return face,
        };
        let is_free = |base: &&str| {
            let created = base.strip_suffix("_created");
            let is_anothers = is_taken(base)
                || created.is_some_and(|stem| {
                    // What counts has a sample that is called so: counters, histograms and summaries.
                    is_taken(&format!("{stem}_total")) || is_taken(&format!("{stem}_count"))
                })
                || match kind {
                    Kind::Counter => is_taken(&format!("{base}_created")),
                    _ => is_taken(&format!("{base}_total")),
                };
            !base.is_empty() && !is_anothers
        };
        // The family is called as the rest of its name, which must be nobody else's.
        if name.strip_suffix(suffix).filter(is_free).is_some()
            && let Some(base) = face.base.strip_suffix(suffix)
        {
            (face.base, face.suffix) = (base.to_owned(), suffix);
        } else {
            face.shown = Kind::Unknown;
        }
        face
    }

    /// Every name that this family takes on the page.
    pub(crate) fn names(&self) -> impl Iterator<Item = String> {
        let suffixes = self.shown.suffixes().iter().filter(|suffix| !suffix.is_empty());
        suffixes.chain([&""]).map(|suffix| format!("{}{suffix}", self.base))
    }

    /// `HELP`, `TYPE` and `UNIT`.
    pub(crate) fn head(&self, family: &Family, style: Style, out: &mut String) {
        let mut line = |what: &str, write: &dyn Fn(&mut String)| {
            out.push_str(what);
            if self.needs_quotes {
                out.push('"');
                push_escaped(out, &self.base, true);
                out.push('"');
            } else {
                out.push_str(&self.base);
            }
            out.push(' ');
            write(out);
            out.push('\n');
        };
        if !family.help.is_empty() {
            line("# HELP ", &|out| push_escaped(out, &family.help, style.is_open()));
        }
        line("# TYPE ", &|out| out.push_str(word(self.shown, style.format.dialect)));
        let ends_in_unit = || {
            let rest = self.base.strip_suffix(&*family.unit);
            rest.is_some_and(|rest| rest.len() > 1 && rest.ends_with('_'))
        };
        let has_unit = style.is_open() && !matches!(self.shown, Kind::Info | Kind::StateSet);
        if has_unit && !family.unit.is_empty() && ends_in_unit() {
            line("# UNIT ", &|out| out.push_str(&family.unit));
        }
    }
}

const fn is_time(nanos: u64) -> bool {
    0 < nanos && nanos <= TIME_MAX
}

const fn word(kind: Kind, dialect: Dialect) -> &'static str {
    match (kind, dialect) {
        (Kind::Counter, _) => "counter",
        (Kind::Histogram, _) => "histogram",
        (Kind::Summary, _) => "summary",
        (Kind::Unknown, Dialect::Plain) => "untyped",
        (Kind::Unknown, Dialect::OpenMetrics) => "unknown",
        (Kind::Info, Dialect::OpenMetrics) => "info",
        (Kind::StateSet, Dialect::OpenMetrics) => "stateset",
        // The plain text has no word for what can go down, is a fact or a flag.
        (Kind::Gauge | Kind::GaugeHistogram | Kind::Info | Kind::StateSet, _) => "gauge",
    }
}

// === series ===

/// Writes the samples of one series.
pub(crate) struct Samples<'w> {
    pub(crate) face: &'w Face,
    pub(crate) style: Style,
    pub(crate) out: &'w mut String,
    /// Samples that OpenMetrics does not allow.
    pub(crate) left_out: &'w mut u64,
}

/// What stands around the values of a series.
struct Around<'s> {
    labels: &'s str,
    /// Of the point; 0 where it is not written.
    time: u64,
}

impl Samples<'_> {
    /// All lines of a series, or none.
    pub(crate) fn series(&mut self, labels: &str, series: &Series) {
        let rewritten;
        let labels = if self.style.rewrites() {
            rewritten = rewrite(self.style.format.scheme, labels);
            &rewritten
        } else {
            labels
        };
        let time = if self.style.has_times { series.time } else { 0 };
        let around = Around { labels, time };
        let exemplars = series.exemplars.as_deref().filter(|_| self.style.is_open()).unwrap_or_default();
        match &series.held {
            Held::Number(number) => self.number(&around, *number, series.start, exemplars),
            Held::Target(rest) => {
                let rest = if self.style.rewrites() {
                    rewrite(self.style.format.scheme, rest)
                } else {
                    rest.to_string()
                };
                let labels =
                    [labels, &rest].join(if labels.is_empty() || rest.is_empty() { "" } else { "," });
                self.number(&Around { labels: &labels, time }, 1.0, 0, &[]);
            }
            Held::Explicit(held) => self.histogram(&around, held, series.start, exemplars),
            Held::Exponential(held) => self.histogram(&around, &held.to_explicit(), series.start, exemplars),
            Held::Summary(held) => self.summary(&around, held, series.start),
        }
    }

    fn number(&mut self, around: &Around<'_>, number: f64, start: u64, exemplars: &[Kept]) {
        let shown = self.face.shown;
        let is_allowed = !self.style.is_open()
            || match shown {
                Kind::Counter => number >= 0.0,
                Kind::Info => number == 1.0,
                Kind::StateSet => {
                    let state = format!("{}=\"", self.face.base);
                    let mut labels = around.labels.match_indices(&state);
                    let has_state = labels.any(|(at, _)| at == 0 || around.labels[..at].ends_with(','));
                    has_state && (number == 0.0 || number == 1.0)
                }
                _ => true,
            };
        if !is_allowed {
            *self.left_out += 1;
            return;
        }
        let newest = exemplars.iter().max_by_key(|kept| kept.time).filter(|_| shown == Kind::Counter);
        self.sample(around, self.face.suffix, None, newest, |out| number::value(out, number));
        if shown == Kind::Counter {
            self.created(around, start);
        }
    }

    fn histogram(&mut self, around: &Around<'_>, held: &Explicit, start: u64, exemplars: &[Kept]) {
        let mut below = 0_u64;
        let mut rest = exemplars;
        let bounds = held.bounds.iter().copied().chain([f64::INFINITY]);
        for (bound, count) in bounds.zip(&held.counts) {
            below = below.saturating_add(*count);
            // Those that are no numbers are behind the others, and above all bounds.
            let is_within = |kept: &&Kept| kept.value <= bound || bound == f64::INFINITY;
            let (own, above) = rest.split_at(rest.iter().take_while(is_within).count());
            rest = above;
            let newest = own.iter().max_by_key(|kept| kept.time);
            self.sample(around, "_bucket", Some(("le", bound)), newest, |out| number::count(out, below));
        }
        // What is below zero makes a sum that may fall.
        let may_fall = held.bounds.first().is_some_and(|bound| *bound < 0.0);
        let sum = held.sum.filter(|sum| !self.style.is_open() || (*sum >= 0.0 && !may_fall));
        if held.sum.is_some() && sum.is_none() {
            *self.left_out += 1;
        }
        if let Some(sum) = sum {
            self.sample(around, "_sum", None, None, |out| number::value(out, sum));
        }
        if sum.is_some() || !self.style.is_open() {
            self.sample(around, "_count", None, None, |out| number::count(out, held.count));
        }
        self.created(around, start);
    }

    fn summary(&mut self, around: &Around<'_>, held: &Summary, start: u64) {
        let is_open = self.style.is_open();
        for (quantile, value) in &held.quantiles {
            if is_open && (!(0.0..=1.0).contains(quantile) || *value < 0.0) {
                *self.left_out += 1;
                continue;
            }
            self.sample(around, "", Some(("quantile", *quantile)), None, |out| number::value(out, *value));
        }
        if is_open && (held.sum < 0.0 || held.sum.is_nan()) {
            *self.left_out += 1;
        } else {
            self.sample(around, "_sum", None, None, |out| number::value(out, held.sum));
        }
        self.sample(around, "_count", None, None, |out| number::count(out, held.count));
        self.created(around, start);
    }

    /// Since when a series counts.
    fn created(&mut self, around: &Around<'_>, start: u64) {
        if self.style.is_open() && is_time(start) {
            self.sample(around, "_created", None, None, |out| number::seconds(out, start));
        }
    }

    /// One line.
    fn sample(
        &mut self,
        around: &Around<'_>,
        suffix: &str,
        bound: Option<(&str, f64)>,
        exemplar: Option<&Kept>,
        value: impl FnOnce(&mut String),
    ) {
        let is_open = self.style.is_open();
        let Self { face, out, .. } = self;
        out.reserve(HEAD_BYTES + face.base.len() + around.labels.len());
        let mut has_brace = false;
        let mut next = |out: &mut String| {
            out.push(if std::mem::replace(&mut has_brace, true) { ',' } else { '{' });
        };
        if face.needs_quotes {
            next(out);
            out.push('"');
            push_escaped(out, &face.base, true);
            out.push_str(suffix);
            out.push('"');
        } else {
            out.push_str(&face.base);
            out.push_str(suffix);
        }
        if !around.labels.is_empty() {
            next(out);
            out.push_str(around.labels);
        }
        if let Some((name, bound)) = bound {
            next(out);
            out.push_str(name);
            out.push_str("=\"");
            number::bound(out, bound, is_open);
            out.push('"');
        }
        out.push_str(if has_brace { "} " } else { " " });
        value(out);
        if is_time(around.time) {
            out.push(' ');
            if is_open { number::seconds(out, around.time) } else { number::millis(out, around.time) }
        }
        if let Some(Kept { value, time, labels }) = exemplar {
            out.push_str(" # {");
            // `trace_id` is called so in every scheme, and no name may become longer: there is a limit to their characters.
            if self.style.has_all_of_utf8 && self.style.format.scheme != Scheme::AllowUtf8 {
                out.push_str(&rewrite(Scheme::Underscores, labels));
            } else {
                out.push_str(labels);
            }
            out.push_str("} ");
            number::value(out, *value);
            if is_time(*time) {
                out.push(' ');
                number::seconds(out, *time);
            }
        }
        out.push('\n');
    }
}
