//! What a daemon says under `/metrics`.

/// The samples of one page.
#[derive(Debug, Clone, Default)]
pub struct Page {
    samples: Vec<Sample>,
}

/// One line: a name, labels, a value.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// The name, with its suffix.
    pub name: String,
    /// The labels, as written.
    pub labels: Vec<(String, String)>,
    /// The value.
    pub value: f64,
}

impl Page {
    /// Reads the text format: lines that are no comments.
    ///
    /// # Panics
    /// On a line that is neither comment nor sample.
    pub fn parse(text: &str) -> Self {
        let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        let samples = lines.map(|line| Sample::parse(line).unwrap_or_else(|| panic!("no sample: {line:?}")));
        Self { samples: samples.collect() }
    }

    /// All samples.
    pub fn samples(&self) -> &[Sample] {
        &self.samples
    }

    /// The sum of the samples of this name that have at least these labels; `None` where there is none.
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let mut found =
            self.samples.iter().filter(|sample| sample.name == name && sample.has(labels)).peekable();
        found.peek()?;
        Some(found.map(|sample| sample.value).sum())
    }
}

impl Sample {
    fn has(&self, labels: &[(&str, &str)]) -> bool {
        let has_one = |(name, value): &(&str, &str)| self.labels.iter().any(|(n, v)| n == name && v == value);
        labels.iter().all(has_one)
    }

    /// The value of a label.
    pub fn label(&self, name: &str) -> Option<&str> {
        self.labels.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// `name{label="value",…} 1.5`, where a value may hold `\"`, `\\` and `\n`.
    fn parse(line: &str) -> Option<Self> {
        let end = line.find(['{', ' '])?;
        let (name, mut rest) = line.split_at(end);
        let mut labels = Vec::new();
        if let Some(inside) = rest.strip_prefix('{') {
            rest = inside;
            while !rest.starts_with('}') {
                let (label, after) = rest.trim_start_matches(',').split_once("=\"")?;
                let (value, after) = quoted(after)?;
                labels.push((label.to_owned(), value));
                rest = after;
            }
            rest = &rest[1..];
        }
        let value = rest.split_whitespace().next()?.parse().ok()?;
        Some(Self { name: name.to_owned(), labels, value })
    }
}

/// What stands before the closing quote, and what after it.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => match characters.next()?.1 {
                'n' => value.push('\n'),
                other => value.push(other),
            },
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::Page;

    /// Scenario: samples with and without labels, and with quotes, commas and braces in a value.
    /// Guarantees: each is found by its name and any of its labels, and equal names are summed.
    #[test]
    fn a_sample_is_found_by_name_and_labels() {
        let text = "# HELP a b\na 1\nb{x=\"1\",y=\"q,\\\"}\\\\\\n\"} 2.5\nb{x=\"1\",y=\"r\"} 3\n# EOF\n";
        let page = Page::parse(text);
        assert_eq!(page.value("a", &[]), Some(1.0));
        assert_eq!(page.value("b", &[("x", "1")]), Some(5.5));
        assert_eq!(page.value("b", &[("x", "1"), ("y", "q,\"}\\\n")]), Some(2.5));
        assert_eq!(page.value("b", &[("x", "2")]), None);
        assert_eq!(page.samples()[2].label("y"), Some("r"));
    }
}
