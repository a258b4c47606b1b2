//! Names for scrapers that do not take all of UTF-8 (`prometheus.io/docs/instrumenting/escaping_schemes`), and the text of
//! labels.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use weir_prometheus::names;

/// How a scraper wants names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Scheme {
    /// What is not a letter, a digit, `_` or `:` is `_`.
    #[default]
    Underscores,
    /// As they are, in quotes where needed.
    AllowUtf8,
    /// `.` is `_dot_`, `_` is `__`, the rest is `__`.
    Dots,
    /// `U__`, and each other character as its number in hex between underscores; `_` is `__`.
    Values,
}

impl Scheme {
    /// The scheme of this name.
    pub(crate) fn named(name: &str) -> Option<Self> {
        Some(match name {
            "underscores" => Self::Underscores,
            // Prometheus' own page on negotiation has it without the second dash.
            "allow-utf-8" | "allow-utf8" => Self::AllowUtf8,
            "dots" => Self::Dots,
            "values" => Self::Values,
            _ => return None,
        })
    }

    /// As it is written in a header.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Underscores => "underscores",
            Self::AllowUtf8 => "allow-utf-8",
            Self::Dots => "dots",
            Self::Values => "values",
        }
    }

    /// Writes a name in this scheme. The result needs no quotes unless the scheme takes all of UTF-8.
    pub(crate) fn escape(self, name: &str, is_metric: bool, out: &mut String) {
        let is_legacy = if is_metric { names::is_legacy_metric(name) } else { names::is_legacy_label(name) };
        match self {
            Self::AllowUtf8 => out.push_str(name),
            Self::Underscores | Self::Values if is_legacy => out.push_str(name),
            Self::Underscores => {
                let chars = name.chars().enumerate();
                out.extend(chars.map(|(at, char)| if takes(char, at, is_metric) { char } else { '_' }));
            }
            Self::Dots => {
                for (at, char) in name.chars().enumerate() {
                    match char {
                        '_' => out.push_str("__"),
                        '.' => out.push_str("_dot_"),
                        char if takes(char, at, is_metric) => out.push(char),
                        _ => out.push_str("__"),
                    }
                }
            }
            Self::Values => {
                out.push_str("U__");
                for (at, char) in name.chars().enumerate() {
                    match char {
                        '_' => out.push_str("__"),
                        char if takes(char, at, is_metric) => out.push(char),
                        char => {
                            write!(out, "_{:x}_", u32::from(char))
                                .expect("writing to a string does not fail");
                        }
                    }
                }
            }
        }
    }
}

/// Whether a character may stand at a place of a name.
fn takes(char: char, at: usize, is_metric: bool) -> bool {
    char.is_ascii_alphabetic()
        || char == '_'
        || (char == ':' && is_metric)
        || (char.is_ascii_digit() && at > 0)
}

// === labels ===

/// Writes one more label behind others: `name="value"`, the name in quotes where it needs them.
pub(crate) fn push_label(out: &mut String, name: &str, value: &str) {
    if !out.is_empty() {
        out.push(',');
    }
    if names::is_legacy_label(name) {
        out.push_str(name);
    } else {
        out.push('"');
        push_escaped(out, name, true);
        out.push('"');
    }
    push_value(out, value);
}

/// The same for a name that needs no quotes, which nobody looks at again.
pub(crate) fn push_plain_label(out: &mut String, name: &str, value: &str) {
    debug_assert!(names::is_legacy_label(name), "{name:?} needs quotes");
    if !out.is_empty() {
        out.push(',');
    }
    out.push_str(name);
    push_value(out, value);
}

fn push_value(out: &mut String, value: &str) {
    out.push_str("=\"");
    push_escaped(out, value, true);
    out.push('"');
}

/// A text with `\\` and `\n` escaped, and `"` where it will stand in quotes.
pub(crate) fn push_escaped(out: &mut String, text: &str, is_quoted: bool) {
    let mut rest = text;
    let is_special = |byte: &u8| matches!(byte, b'\\' | b'\n') || (is_quoted && *byte == b'"');
    while let Some(at) = rest.as_bytes().iter().position(is_special) {
        out.push_str(&rest[..at]);
        out.push_str(match rest.as_bytes()[at] {
            b'\\' => "\\\\",
            b'\n' => "\\n",
            _ => "\\\"",
        });
        rest = &rest[at + 1..];
    }
    out.push_str(rest);
}

/// Labels as [`push_label`] wrote them, with their names in a scheme. Values of names that become the same are joined by
/// `;`.
pub(crate) fn rewrite(scheme: Scheme, labels: &str) -> String {
    let mut all: BTreeMap<String, String> = BTreeMap::new();
    let mut rest = labels;
    while !rest.is_empty() {
        let (name, after) = match rest.strip_prefix('"') {
            Some(quoted) => split_quoted(quoted),
            None => rest.split_at(rest.find('=').unwrap_or(rest.len())),
        };
        let (value, after) = split_quoted(after.strip_prefix("=\"").unwrap_or_default());
        rest = after.strip_prefix(',').unwrap_or(after);
        let mut escaped = String::with_capacity(name.len() + 8);
        scheme.escape(&unescaped(name), false, &mut escaped);
        let joined = all.entry(escaped).or_default();
        if !joined.is_empty() {
            joined.push(';');
        }
        joined.push_str(value);
    }
    let mut out = String::with_capacity(labels.len() + 16);
    for (name, value) in &all {
        if !out.is_empty() {
            out.push(',');
        }
        out.push_str(name);
        out.push_str("=\"");
        out.push_str(value);
        out.push('"');
    }
    out
}

/// What stands before the next quote that is not escaped, and what behind it.
fn split_quoted(text: &str) -> (&str, &str) {
    let mut is_escaped = false;
    let end = text.bytes().position(|byte| {
        let ends = byte == b'"' && !is_escaped;
        is_escaped = byte == b'\\' && !is_escaped;
        ends
    });
    end.map_or((text, ""), |end| (&text[..end], &text[end + 1..]))
}

fn unescaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(char) = chars.next() {
        match char {
            '\\' => match chars.next() {
                Some('n') => out.push('\n'),
                other => out.extend(other),
            },
            char => out.push(char),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: the examples of Prometheus' page on escaping and of its library's tests.
    /// Guarantees: each scheme writes them as they stand there.
    #[test]
    fn names_are_escaped_as_prometheus_does() {
        #[rustfmt::skip]
        let table = [
            ("no:escaping_required", "no:escaping_required", "no:escaping__required", "no:escaping_required"),
            ("mysystem.prod.west.cpu.load_total", "mysystem_prod_west_cpu_load_total", "mysystem_dot_prod_dot_west_dot_cpu_dot_load__total", "U__mysystem_2e_prod_2e_west_2e_cpu_2e_load__total"),
            ("my lovely_http.status:sum", "my_lovely_http_status:sum", "my__lovely__http_dot_status:sum", "U__my_20_lovely__http_2e_status:sum"),
            ("花火", "__", "____", "U___82b1__706b_"),
            ("1a", "_a", "__a", "U___31_a"),
        ];
        for (name, underscores, dots, values) in table {
            let schemes = [Scheme::Underscores, Scheme::Dots, Scheme::Values, Scheme::AllowUtf8];
            let all = schemes.map(|scheme| {
                let mut out = String::new();
                scheme.escape(name, true, &mut out);
                out
            });
            assert_eq!(all, [underscores, dots, values, name]);
        }
        for scheme in [Scheme::Underscores, Scheme::Dots, Scheme::Values, Scheme::AllowUtf8] {
            assert_eq!(Scheme::named(scheme.name()), Some(scheme));
        }
        assert_eq!((Scheme::named("allow-utf8"), Scheme::named("x")), (Some(Scheme::AllowUtf8), None));
    }

    /// Scenario: labels with names and values that need quotes and escapes, two that become the same.
    /// Guarantees: names in the scheme, values as they were, joined where the names are the same.
    #[test]
    fn labels_are_rewritten_name_by_name() {
        let mut labels = String::new();
        for (name, value) in [("a.b", "x\"y\\"), ("a_b", "z\n"), ("c,\"=d", "1"), ("e", "")] {
            push_label(&mut labels, name, value);
        }
        assert_eq!(labels, "\"a.b\"=\"x\\\"y\\\\\",a_b=\"z\\n\",\"c,\\\"=d\"=\"1\",e=\"\"");
        assert_eq!(rewrite(Scheme::Underscores, &labels), "a_b=\"x\\\"y\\\\;z\\n\",c___d=\"1\",e=\"\"");
        assert_eq!(rewrite(Scheme::Dots, "a_b=\"1\",c=\"2\""), "a__b=\"1\",c=\"2\"");
        assert_eq!(rewrite(Scheme::Values, ""), "");
    }
}
