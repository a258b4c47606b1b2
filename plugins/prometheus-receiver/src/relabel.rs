//! Rules that change or drop series, as `metric_relabel_configs` have them (`prometheus/model/relabel`).

use std::borrow::Cow;

use regex::{Regex, RegexBuilder};
use serde::Deserialize;

use crate::md5;

/// The label that a series' name is.
pub(crate) const NAME: &str = "__name__";

/// Bytes of one compiled expression; a long list of names takes some 100 KiB.
const REGEX_BYTES_MAX: usize = 4 << 20;

/// A label of a series; a value that is empty is none.
pub(crate) type Pair<'l> = (Cow<'l, str>, Cow<'l, str>);

/// A rule as it is written.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct RuleSettings {
    /// Their values, joined, are what the rule looks at.
    pub source_labels: Option<Vec<String>>,
    /// What joins them; `;`.
    pub separator: Option<String>,
    /// What matches, from end to end; `(.*)`.
    pub regex: Option<String>,
    /// Of `hashmod`.
    pub modulus: Option<u64>,
    /// What is set.
    pub target_label: Option<String>,
    /// To what, with `$1` for groups; `$1`.
    pub replacement: Option<String>,
    /// What is done; `replace`.
    pub action: Option<String>,
}

/// A rule, ready.
#[derive(Debug)]
pub(crate) struct Rule {
    source: Vec<String>,
    separator: String,
    matcher: Matcher,
    modulus: u64,
    target: String,
    replacement: String,
    action: Action,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Replace,
    Keep,
    Drop,
    KeepEqual,
    DropEqual,
    HashMod,
    LabelMap,
    LabelDrop,
    LabelKeep,
    Lowercase,
    Uppercase,
}

/// What a value is held against. Most expressions are a name or a list of names.
#[derive(Debug)]
enum Matcher {
    /// `(.*)`
    All,
    OneOf(Vec<String>),
    Regex(Regex),
}

impl Rule {
    /// Makes a rule of what is written.
    ///
    /// # Errors
    /// The key at fault, and what is wrong with it.
    pub(crate) fn of(settings: &RuleSettings) -> Result<Self, (&'static str, String)> {
        let word = settings.action.as_deref().unwrap_or("replace");
        let action = action(word).ok_or_else(|| {
            let known = "replace, keep, drop, keepequal, dropequal, hashmod, labelmap, labeldrop, labelkeep, \
                         lowercase, uppercase";
            ("action", format!("{word:?} is no action; there are {known}"))
        })?;
        let modulus = settings.modulus.unwrap_or(0);
        if action == Action::HashMod && modulus == 0 {
            return Err(("modulus", "hashmod needs a modulus above 0".to_owned()));
        }
        let target = settings.target_label.clone().unwrap_or_default();
        let needs_none = matches!(action, Action::Keep | Action::Drop | Action::LabelMap | Action::LabelDrop)
            || action == Action::LabelKeep;
        if target.is_empty() && !needs_none {
            return Err(("target_label", format!("{word} needs a target_label")));
        }
        Ok(Self {
            source: settings.source_labels.clone().unwrap_or_default(),
            separator: settings.separator.clone().unwrap_or_else(|| ";".to_owned()),
            matcher: Matcher::of(settings.regex.as_deref())?,
            modulus,
            target,
            replacement: settings.replacement.clone().unwrap_or_else(|| "$1".to_owned()),
            action,
        })
    }

    /// Applies the rule; says whether the series stays.
    pub(crate) fn apply(&self, labels: &mut Vec<Pair<'_>>) -> bool {
        match self.action {
            Action::Keep => self.matcher.matches(&self.value(labels)),
            Action::Drop => !self.matcher.matches(&self.value(labels)),
            Action::KeepEqual => get(labels, &self.target) == self.value(labels),
            Action::DropEqual => get(labels, &self.target) != self.value(labels),
            Action::Replace => {
                self.replace(labels);
                true
            }
            Action::Lowercase | Action::Uppercase => {
                let value = self.value(labels);
                let is_lower = self.action == Action::Lowercase;
                let value = if is_lower { value.to_lowercase() } else { value.to_uppercase() };
                set(labels, &self.target, value);
                true
            }
            Action::HashMod => {
                let number = md5::last_eight(self.value(labels).as_bytes()) % self.modulus;
                set(labels, &self.target, number.to_string());
                true
            }
            Action::LabelMap => {
                let mapped: Vec<(String, String)> = labels
                    .iter()
                    .filter_map(|(name, value)| {
                        Some((self.matcher.expand(name, &self.replacement)?, value.clone().into_owned()))
                    })
                    .collect();
                mapped.into_iter().for_each(|(name, value)| set(labels, &name, value));
                true
            }
            Action::LabelDrop => {
                labels.retain(|(name, _)| !self.matcher.matches(name));
                true
            }
            Action::LabelKeep => {
                labels.retain(|(name, _)| self.matcher.matches(name));
                true
            }
        }
    }

    fn replace(&self, labels: &mut Vec<Pair<'_>>) {
        let value = self.value(labels);
        let Some(target) = self.matcher.expand(&value, &self.target) else { return };
        let Some(replacement) = self.matcher.expand(&value, &self.replacement) else { return };
        if !target.is_empty() {
            set(labels, &target, replacement);
        }
    }

    /// The values of the source labels, joined.
    fn value(&self, labels: &[Pair<'_>]) -> String {
        let mut value = String::new();
        for (place, name) in self.source.iter().enumerate() {
            if place > 0 {
                value.push_str(&self.separator);
            }
            value.push_str(get(labels, name));
        }
        value
    }
}

fn action(word: &str) -> Option<Action> {
    Some(match &*word.to_ascii_lowercase() {
        "replace" => Action::Replace,
        "keep" => Action::Keep,
        "drop" => Action::Drop,
        "keepequal" => Action::KeepEqual,
        "dropequal" => Action::DropEqual,
        "hashmod" => Action::HashMod,
        "labelmap" => Action::LabelMap,
        "labeldrop" => Action::LabelDrop,
        "labelkeep" => Action::LabelKeep,
        "lowercase" => Action::Lowercase,
        "uppercase" => Action::Uppercase,
        _ => return None,
    })
}

/// A label's value; empty where it is absent.
pub(crate) fn get<'s>(labels: &'s [Pair<'_>], name: &str) -> &'s str {
    labels.iter().find(|(label, _)| label == name).map_or("", |(_, value)| value)
}

/// Sets a label; an empty value takes it away.
pub(crate) fn set(labels: &mut Vec<Pair<'_>>, name: &str, value: String) {
    let place = labels.iter().position(|(label, _)| label == name);
    match (place, value.is_empty()) {
        (Some(place), true) => drop(labels.swap_remove(place)),
        (Some(place), false) => labels[place].1 = value.into(),
        (None, true) => {}
        (None, false) => labels.push((name.to_owned().into(), value.into())),
    }
}

impl Matcher {
    fn of(written: Option<&str>) -> Result<Self, (&'static str, String)> {
        let Some(written) = written.filter(|written| *written != "(.*)") else { return Ok(Self::All) };
        let is_bare =
            |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b':' | b'-' | b'/' | b'|');
        if written.bytes().all(is_bare) {
            return Ok(Self::OneOf(written.split('|').map(str::to_owned).collect()));
        }
        let anchored = format!("^(?s:{written})$");
        let regex = RegexBuilder::new(&anchored).size_limit(REGEX_BYTES_MAX).build();
        let fault = |fault: regex::Error| ("regex", format!("{written:?} is no regular expression: {fault}"));
        Ok(Self::Regex(regex.map_err(fault)?))
    }

    fn matches(&self, value: &str) -> bool {
        match self {
            Self::All => true,
            Self::OneOf(values) => values.iter().any(|known| known == value),
            Self::Regex(regex) => regex.is_match(value),
        }
    }

    /// A template with the groups of a value that matches; nothing for one that does not.
    fn expand(&self, value: &str, template: &str) -> Option<String> {
        if !template.contains('$') {
            return self.matches(value).then(|| template.to_owned());
        }
        let mut expanded = String::new();
        match self {
            Self::All if template == "$1" => expanded.push_str(value),
            Self::All => all().captures(value)?.expand(template, &mut expanded),
            Self::OneOf(values) => {
                if !values.iter().any(|known| known == value) {
                    return None;
                }
                whole().captures(value)?.expand(template, &mut expanded);
            }
            Self::Regex(regex) => regex.captures(value)?.expand(template, &mut expanded),
        }
        Some(expanded)
    }
}

/// Everything, as group 1.
fn all() -> &'static Regex {
    static ALL: std::sync::OnceLock<Regex> = std::sync::OnceLock::new();
    ALL.get_or_init(|| Regex::new("^(?s:(.*))$").expect("the expression is a constant"))
}

/// Everything, without groups.
fn whole() -> &'static Regex {
    static WHOLE: std::sync::OnceLock<Regex> = std::sync::OnceLock::new();
    WHOLE.get_or_init(|| Regex::new("^(?s:.*)$").expect("the expression is a constant"))
}
