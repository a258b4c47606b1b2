//! `${env:NAME}` in scalar values.
//!
//! ```text
//! ${env:NAME}            the variable; an error where it is not set
//! ${env:NAME:-default}   the default where it is not set (one that is set and empty stays empty)
//! $$                     one dollar
//! ```
//!
//! What a variable holds is never looked at again: a dollar in it is a dollar.

/// What is wrong with a substitution, and at which dollar of the text, from 0.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Slip {
    pub(crate) dollar: usize,
    pub(crate) kind: SlipKind,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum SlipKind {
    /// The variable is not set and there is no default.
    Missing(String),
    /// No closing brace.
    Unclosed,
    /// `${NAME}` or `${file:…}`.
    NotEnv(String),
    /// Not a name that a variable can have.
    BadName(String),
}

/// The text with its variables, or `None` where it has nothing to substitute.
pub(crate) fn substitute(text: &str, env: &dyn Fn(&str) -> Option<String>) -> (Option<String>, Vec<Slip>) {
    if !text.contains("${") && !text.contains("$$") {
        return (None, Vec::new());
    }
    let mut done = String::with_capacity(text.len());
    let mut slips = Vec::new();
    let (mut rest, mut dollar) = (text, 0);
    while let Some(at) = rest.find('$') {
        done.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            done.push('$');
            rest = after;
            dollar += 2;
            continue;
        }
        let Some(after) = rest.strip_prefix('{') else {
            done.push('$');
            dollar += 1;
            continue;
        };
        let Some(end) = after.find('}') else {
            slips.push(Slip { dollar, kind: SlipKind::Unclosed });
            return (Some(done), slips);
        };
        let inner = &after[..end];
        match look_up(inner, env) {
            Ok(value) => done.push_str(&value),
            Err(kind) => slips.push(Slip { dollar, kind }),
        }
        rest = &after[end + 1..];
        dollar += 1 + inner.matches('$').count();
    }
    done.push_str(rest);
    (Some(done), slips)
}

fn look_up(inner: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<String, SlipKind> {
    let wanted = inner.strip_prefix("env:").ok_or_else(|| SlipKind::NotEnv(inner.to_owned()))?;
    let (name, default) = match wanted.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (wanted, None),
    };
    let mut chars = name.chars();
    let begins = chars.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
    if !begins || !chars.all(|c| c.is_ascii_alphanumeric() || c == '_') {
        return Err(SlipKind::BadName(name.to_owned()));
    }
    env(name).or_else(|| default.map(str::to_owned)).ok_or_else(|| SlipKind::Missing(name.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(name: &str) -> Option<String> {
        match name {
            "HOST" => Some("in.example".into()),
            "EMPTY" => Some(String::new()),
            "DOLLARS" => Some("${env:HOST}$$".into()),
            _ => None,
        }
    }

    fn check(text: &str, expected: &str) {
        let (done, slips) = substitute(text, &env);
        assert_eq!(slips, [], "in {text:?}");
        assert_eq!(done.as_deref().unwrap_or(text), expected, "in {text:?}");
    }

    fn check_slip(text: &str, dollar: usize, kind: SlipKind) {
        assert_eq!(substitute(text, &env).1, [Slip { dollar, kind }], "in {text:?}");
    }

    /// Scenario: variables that are set, empty or absent, defaults, doubled and lone dollars.
    /// Guarantees: each form gives what the head of this file says, and what a variable holds is taken as it is.
    #[test]
    fn variables_defaults_and_dollars_are_substituted() {
        check("https://${env:HOST}/v1", "https://in.example/v1");
        check("${env:HOST:-other}:${env:PORT:-4317}", "in.example:4317");
        check("${env:EMPTY:-other}", "");
        check("${env:NONE:-}", "");
        check("${env:NONE:-http://a:-1}", "http://a:-1");
        check("$$ $${env:HOST} a$b $", "$ ${env:HOST} a$b $");
        check("${env:DOLLARS}", "${env:HOST}$$");
        check("$HOME", "$HOME");
    }

    /// Scenario: what cannot be substituted, behind other dollars.
    /// Guarantees: the slip says which and at which dollar of the text.
    #[test]
    fn a_slip_says_which_dollar() {
        check_slip("$$ ${env:NONE}", 2, SlipKind::Missing("NONE".into()));
        check_slip("$ ${env:HOST} ${HOST}", 2, SlipKind::NotEnv("HOST".into()));
        check_slip("${file:/etc/x}", 0, SlipKind::NotEnv("file:/etc/x".into()));
        check_slip("${env:1A}", 0, SlipKind::BadName("1A".into()));
        check_slip("${env:}", 0, SlipKind::BadName(String::new()));
        check_slip("a${env:HOST", 0, SlipKind::Unclosed);
    }
}
