//! The table: what each round gave, its median and spread, and the bar beside it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::Context;
use serde_json::json;

/// What a figure must be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Bar {
    AtLeast(f64),
    AtMost(f64),
    /// Told, not judged.
    None,
}

#[derive(Debug)]
struct Figure {
    unit: &'static str,
    bar: Bar,
    values: Vec<f64>,
}

/// All figures, in the order in which they first came.
#[derive(Debug, Default)]
pub(crate) struct Report {
    order: Vec<String>,
    figures: BTreeMap<String, Figure>,
}

impl Report {
    /// Adds what a round gave.
    pub(crate) fn add(&mut self, name: &str, unit: &'static str, bar: Bar, value: f64) {
        if !self.figures.contains_key(name) {
            self.order.push(name.to_owned());
            self.figures.insert(name.to_owned(), Figure { unit, bar, values: Vec::new() });
        }
        if let Some(figure) = self.figures.get_mut(name) {
            figure.values.push(value);
        }
    }

    /// What the latest round gave.
    pub(crate) fn latest(&self, name: &str) -> Option<f64> {
        self.figures.get(name)?.values.last().copied()
    }

    /// The table as text, and how many medians miss their bar.
    pub(crate) fn table(&self) -> (String, usize) {
        let mut text = format!("{:46} {:>12} {:>25}  {:<13} {}\n", "row", "median", "spread", "unit", "bar");
        let mut missed = 0;
        for (name, figure) in self.rows() {
            let (low, middle, high) = figure.spread();
            let verdict = match figure.bar {
                Bar::AtLeast(bar) if middle >= bar => format!("at least {}  ok", number(bar)),
                Bar::AtMost(bar) if middle <= bar => format!("at most {}  ok", number(bar)),
                Bar::AtLeast(bar) => format!("at least {}  MISSED ({:.2} of it)", number(bar), middle / bar),
                Bar::AtMost(bar) => format!("at most {}  MISSED ({:.2} of it)", number(bar), middle / bar),
                Bar::None => String::new(),
            };
            missed += usize::from(verdict.contains("MISSED"));
            let spread = format!("{} – {}", number(low), number(high));
            let line =
                format!("{name:46} {:>12} {spread:>25}  {:<13} {verdict}", number(middle), figure.unit);
            writeln!(text, "{}", line.trim_end()).expect("a string takes everything");
        }
        (text, missed)
    }

    /// Writes every value of every round.
    ///
    /// # Errors
    /// Where the file cannot be written.
    pub(crate) fn save(&self, path: &Path, machine: &[String]) -> anyhow::Result<()> {
        let bar = |bar: Bar| match bar {
            Bar::AtLeast(bar) => json!({"at_least": bar}),
            Bar::AtMost(bar) => json!({"at_most": bar}),
            Bar::None => json!(null),
        };
        let row = |(name, figure): (&str, &Figure)| json!({"row": name, "unit": figure.unit, "bar": bar(figure.bar), "rounds": figure.values});
        let rows: Vec<_> = self.rows().map(row).collect();
        let text = serde_json::to_string_pretty(&json!({"machine": machine, "rows": rows}))?;
        fs::write(path, text).with_context(|| format!("write {}", path.display()))
    }

    fn rows(&self) -> impl Iterator<Item = (&str, &Figure)> {
        self.order.iter().filter_map(|name| Some((name.as_str(), self.figures.get(name)?)))
    }
}

impl Figure {
    fn spread(&self) -> (f64, f64, f64) {
        let mut values = self.values.clone();
        values.sort_by(f64::total_cmp);
        let at = |index: usize| values.get(index).copied().unwrap_or(f64::NAN);
        let last = values.len().saturating_sub(1);
        // Of an even number of rounds the lower middle of a floor would flatter nobody; take the mean.
        let middle = (at(last / 2) + at(last.div_ceil(2))) / 2.0;
        (at(0), middle, at(last))
    }
}

/// Three or four digits that matter.
fn number(value: f64) -> String {
    match value.abs() {
        small if small < 10.0 => format!("{value:.2}"),
        small if small < 1000.0 => format!("{value:.1}"),
        thousands if thousands < 1e6 => format!("{:.1} k", value / 1e3),
        _ => format!("{:.3} M", value / 1e6),
    }
}

/// What the figures were measured on.
pub(crate) fn machine() -> Vec<String> {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    vec![
        format!("cpu: {}", model.trim_start_matches(['\t', ' ', ':'])),
        format!("cores: {}", std::thread::available_parallelism().map_or(0, std::num::NonZero::get)),
        format!("kernel: {}", kernel.trim()),
        format!("load average at the start: {}", load.trim()),
    ]
}
