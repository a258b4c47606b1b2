//! Relabelling: rules that make labels of labels, and let targets go.
//!
//! The rules are Prometheus' (`model/relabel/relabel.go`): applied in order; an empty value is no label; a regular expression must
//! match the whole text, and its dot matches line breaks too.

use std::collections::BTreeMap;

use regex::{Regex, RegexBuilder};

use super::md5::md5;

/// Labels by name. A value is never empty: that is no label.
pub type Labels = BTreeMap<String, String>;

/// Bytes that one compiled expression may have: the largest alternatives that people write (hundreds of words) need a tenth.
const REGEX_BYTES_MAX: usize = 1024 * 1024;

/// Bytes of an expression as it is written. Compiling takes time in proportion.
const REGEX_TEXT_BYTES_MAX: usize = 16 * 1024;

/// Bytes that one rule may make of a name or of a value: far over what a label needs, far under what rules that double a value
/// could make of it.
pub(super) const VALUE_BYTES_MAX: usize = 16 * 1024;

/// Labels of one target while it is relabelled: discovery's own are some tens.
pub(super) const LABELS_MAX: usize = 512;

/// The expression of a rule without one.
pub const REGEX_DEFAULT: &str = "(.*)";

/// What a rule does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Sets the target label to the replacement, where the expression matches.
    Replace,
    /// Lets go what does not match.
    Keep,
    /// Lets go what matches.
    Drop,
    /// Lets go where the target label is not the sources'.
    KeepEqual,
    /// Lets go where the target label is the sources'.
    DropEqual,
    /// Sets the target label to the sources' hash modulo a number.
    HashMod,
    /// Copies labels whose names match to the replacement's name.
    LabelMap,
    /// Removes labels whose names match.
    LabelDrop,
    /// Removes labels whose names do not match.
    LabelKeep,
    /// Sets the target label to the sources in lower case.
    Lowercase,
    /// Sets the target label to the sources in upper case.
    Uppercase,
}

impl Action {
    /// All of them with their names.
    pub const NAMES: [(&str, Self); 11] = [
        ("replace", Self::Replace),
        ("keep", Self::Keep),
        ("drop", Self::Drop),
        ("keepequal", Self::KeepEqual),
        ("dropequal", Self::DropEqual),
        ("hashmod", Self::HashMod),
        ("labelmap", Self::LabelMap),
        ("labeldrop", Self::LabelDrop),
        ("labelkeep", Self::LabelKeep),
        ("lowercase", Self::Lowercase),
        ("uppercase", Self::Uppercase),
    ];

    fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, action)| *action == self).map_or("", |(name, _)| name)
    }

    fn has_target(self) -> bool {
        !matches!(self, Self::Keep | Self::Drop | Self::LabelMap | Self::LabelDrop | Self::LabelKeep)
    }
}

/// A rule as it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// `source_labels`: their values are joined.
    pub source_labels: Vec<String>,
    /// `separator` between them.
    pub separator: Option<String>,
    /// `target_label`, which may name groups of the expression where the action is `replace`.
    pub target_label: Option<String>,
    /// `regex`.
    pub regex: Option<String>,
    /// `modulus`.
    pub modulus: Option<u64>,
    /// `replacement`.
    pub replacement: Option<String>,
    /// `action`.
    pub action: Action,
}

impl Default for Written {
    fn default() -> Self {
        let (separator, target_label, regex, modulus, replacement) = Default::default();
        let (source_labels, action) = (Vec::new(), Action::Replace);
        Self { source_labels, separator, target_label, regex, modulus, replacement, action }
    }
}

/// Why a rule cannot be used: the key at fault, and what was expected of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {expected}")]
pub struct RuleError {
    /// The key.
    pub key: &'static str,
    /// What was expected.
    pub expected: String,
}

/// A rule that can be applied.
#[derive(Debug, Clone)]
pub struct Rule {
    written: Written,
    regex: Regex,
}

/// Two are equal where they are written the same.
impl PartialEq for Rule {
    fn eq(&self, other: &Self) -> bool {
        self.written == other.written
    }
}

impl Rule {
    /// Checks a rule and compiles its expression.
    ///
    /// # Errors
    /// [`RuleError`] for keys that are missing, that its action does not have, or that cannot be used.
    pub fn new(written: Written) -> Result<Self, RuleError> {
        check(&written)?;
        let text = written.regex.as_deref().unwrap_or(REGEX_DEFAULT);
        let wrong = |expected: String| RuleError { key: "regex", expected };
        if text.len() > REGEX_TEXT_BYTES_MAX {
            return Err(wrong(format!("expected at most {REGEX_TEXT_BYTES_MAX} bytes")));
        }
        let anchored = format!("^(?s:{text})$");
        let built = RegexBuilder::new(&anchored).size_limit(REGEX_BYTES_MAX).build();
        // An expression that is none alone may be one between our anchors: `a)|(?:b`.
        let alone = RegexBuilder::new(text).size_limit(REGEX_BYTES_MAX).build();
        match (alone, built) {
            (Ok(_), Ok(regex)) => Ok(Self { written, regex }),
            (Err(error), _) | (_, Err(error)) => Err(wrong(explain(&error))),
        }
    }

    /// Applies it. False: the target is let go.
    pub fn apply(&self, labels: &mut Labels) -> bool {
        let Written { action, target_label, replacement, modulus, .. } = &self.written;
        let target = target_label.as_deref().unwrap_or_default();
        let replacement = replacement.as_deref().unwrap_or("$1");
        let value = self.value(labels);
        let is_target = |labels: &Labels| labels.get(target).map_or("", String::as_str) == value;
        match action {
            Action::Keep => return self.regex.is_match(&value),
            Action::Drop => return !self.regex.is_match(&value),
            Action::KeepEqual => return is_target(labels),
            Action::DropEqual => return !is_target(labels),
            Action::Replace => self.replace(labels, &value, target, replacement),
            Action::Lowercase => set(labels, target, value.to_lowercase()),
            Action::Uppercase => set(labels, target, value.to_uppercase()),
            Action::HashMod => {
                let digest = md5(value.as_bytes());
                // Prometheus takes the last eight bytes.
                let hash = digest[8..].iter().fold(0_u64, |hash, byte| (hash << 8) | u64::from(*byte));
                set(labels, target, (hash % modulus.unwrap_or(1).max(1)).to_string());
            }
            Action::LabelMap => {
                let matching = labels.iter().filter(|(name, _)| self.regex.is_match(name));
                let mapped: Vec<(String, String)> = matching
                    .map(|(name, value)| {
                        (self.regex.replace_all(name, replacement).into_owned(), value.clone())
                    })
                    .collect();
                mapped.into_iter().for_each(|(name, value)| set(labels, &name, value));
            }
            Action::LabelDrop => labels.retain(|name, _| !self.regex.is_match(name)),
            Action::LabelKeep => labels.retain(|name, _| self.regex.is_match(name)),
        }
        true
    }

    fn value(&self, labels: &Labels) -> String {
        let Written { source_labels, separator, .. } = &self.written;
        let values: Vec<&str> =
            source_labels.iter().map(|name| labels.get(name).map_or("", String::as_str)).collect();
        values.join(separator.as_deref().unwrap_or(";"))
    }

    fn replace(&self, labels: &mut Labels, value: &str, target: &str, replacement: &str) {
        let Some(found) = self.regex.captures(value) else { return };
        let (mut name, mut text) = (String::new(), String::new());
        found.expand(target, &mut name);
        found.expand(replacement, &mut text);
        set(labels, &name, text);
    }
}

/// Applies rules in their order. False: one of them has let the target go.
pub fn apply(rules: &[Rule], labels: &mut Labels) -> bool {
    rules.iter().all(|rule| rule.apply(labels))
}

/// Sets a label, or removes it where the value is empty; what has no name, or is over a bound, is left as it was.
fn set(labels: &mut Labels, name: &str, value: String) {
    if value.is_empty() {
        labels.remove(name);
    } else if !name.is_empty()
        && name.len() <= VALUE_BYTES_MAX
        && value.len() <= VALUE_BYTES_MAX
        && (labels.len() < LABELS_MAX || labels.contains_key(name))
    {
        labels.insert(name.to_owned(), value);
    }
}

/// What each action needs and has not (`Config.Validate` of Prometheus).
fn check(written: &Written) -> Result<(), RuleError> {
    let Written { action, source_labels, separator, target_label, regex, modulus, replacement } = written;
    let name = action.name();
    let wrong = |key, expected: String| Err(RuleError { key, expected });
    if action.has_target() && target_label.as_deref().unwrap_or_default().is_empty() {
        return wrong("target_label", format!("expected a label for `{name}` to set or to compare"));
    }
    if *action == Action::HashMod && modulus.unwrap_or(0) == 0 {
        return wrong("modulus", "expected a number over 0 for `hashmod`".to_owned());
    }
    let only = |key: &'static str, is_written: bool| match is_written {
        true => wrong(key, format!("expected nothing: `{name}` does not use it")),
        false => Ok(()),
    };
    let is_equal = matches!(action, Action::KeepEqual | Action::DropEqual);
    let is_case = matches!(action, Action::Lowercase | Action::Uppercase);
    let is_label = matches!(action, Action::LabelDrop | Action::LabelKeep);
    only("replacement", (is_equal || is_case || is_label) && replacement.is_some())?;
    only("regex", is_equal && regex.is_some())?;
    only("separator", (is_equal || is_label) && separator.is_some())?;
    only("modulus", (is_equal || is_label) && modulus.is_some())?;
    only("source_labels", is_label && !source_labels.is_empty())?;
    only("target_label", is_label && target_label.is_some())?;
    if *action == Action::LabelMap && replacement.as_deref() == Some("") {
        return wrong("replacement", "expected a name for `labelmap` to copy to".to_owned());
    }
    Ok(())
}

/// The last line of what the parser says; the others draw the expression.
fn explain(error: &regex::Error) -> String {
    let said = error.to_string();
    let last = said.lines().last().unwrap_or_default().trim_start_matches("error: ");
    format!("expected a regular expression: {last}")
}

#[cfg(test)]
mod tests;
