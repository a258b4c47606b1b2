//! Settings by serde, faults as JSON pointers.
//!
//! The host has checked the settings against the schema before; what is found here is what a schema can't
//! say, and what it says wrongly.

use core::time::Duration;

use serde::de::{DeserializeOwned, Error};
use serde::{Deserialize, Deserializer};
use serde_path_to_error::{Segment, Track};

use crate::SettingsFault;

/// Unknown keys that are reported one by one; the settings of an operator have fewer.
const UNKNOWN_KEYS_MAX: usize = 32;

/// Reads settings. A key that the type does not read is a fault.
///
/// # Errors
/// Every unknown key, or the first value that does not fit.
pub fn read<T: DeserializeOwned>(settings: &str) -> Result<T, Vec<SettingsFault>> {
    let mut json = serde_json::Deserializer::from_str(settings);
    let mut track = Track::new();
    let mut unknown = Vec::new();
    let tracked = serde_path_to_error::Deserializer::new(&mut json, &mut track);
    let read = serde_ignored::deserialize(tracked, |path| {
        if unknown.len() < UNKNOWN_KEYS_MAX {
            unknown.push(SettingsFault { at: pointer_of_ignored(&path), message: "unknown key".into() });
        }
    });
    match read {
        Ok(settings) if unknown.is_empty() => Ok(settings),
        Ok(_) => Err(unknown),
        Err(error) => {
            let mut at = String::new();
            for segment in track.path().iter() {
                match segment {
                    Segment::Seq { index } => push_segment(&mut at, &index.to_string()),
                    Segment::Map { key } => push_segment(&mut at, key),
                    Segment::Enum { .. } | Segment::Unknown => {}
                }
            }
            Err(vec![SettingsFault { at, message: without_place(&error.to_string()).into() }])
        }
    }
}

/// The settings were YAML once: lines and columns of the JSON between say nothing to their author.
fn without_place(message: &str) -> &str {
    message.rfind(" at line ").map_or(message, |end| &message[..end])
}

fn pointer_of_ignored(path: &serde_ignored::Path<'_>) -> String {
    use serde_ignored::Path;
    match path {
        Path::Root => String::new(),
        Path::Seq { parent, index } => {
            let mut at = pointer_of_ignored(parent);
            push_segment(&mut at, &index.to_string());
            at
        }
        Path::Map { parent, key } => {
            let mut at = pointer_of_ignored(parent);
            push_segment(&mut at, key);
            at
        }
        Path::Some { parent } | Path::NewtypeStruct { parent } | Path::NewtypeVariant { parent } => {
            pointer_of_ignored(parent)
        }
    }
}

/// RFC 6901: `~` is `~0` and `/` is `~1` inside a segment.
fn push_segment(pointer: &mut String, segment: &str) {
    pointer.push('/');
    for character in segment.chars() {
        match character {
            '~' => pointer.push_str("~0"),
            '/' => pointer.push_str("~1"),
            other => pointer.push(other),
        }
    }
}

/// A duration as an operator writes it: `500ms`, `10s`, `1m30s`, `2h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span(pub Duration);

impl Span {
    /// Whole milliseconds, as [`crate::host::send`] takes them; what does not fit is the longest that does.
    #[must_use]
    pub fn as_millis(self) -> u32 {
        u32::try_from(self.0.as_millis()).unwrap_or(u32::MAX)
    }

    fn parse(text: &str) -> Option<Self> {
        let mut total = Duration::ZERO;
        let mut rest = text;
        while !rest.is_empty() {
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            let number: u64 = rest[..digits].parse().ok()?;
            rest = &rest[digits..];
            let letters = rest.bytes().take_while(u8::is_ascii_alphabetic).count();
            let unit_ms = match &rest[..letters] {
                "ms" => 1,
                "s" => 1_000,
                "m" => 60_000,
                "h" => 3_600_000,
                _ => return None,
            };
            rest = &rest[letters..];
            total = total.checked_add(Duration::from_millis(number.checked_mul(unit_ms)?))?;
        }
        (!text.is_empty()).then_some(Self(total))
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text)
            .ok_or_else(|| D::Error::custom(format!("{text:?} is no duration such as 500ms, 10s or 1m30s")))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[derive(Debug, Deserialize, PartialEq)]
    struct Settings {
        endpoint: String,
        #[serde(default)]
        headers: BTreeMap<String, String>,
        timeout: Option<Span>,
        inner: Option<Inner>,
    }

    #[derive(Debug, Deserialize, PartialEq)]
    struct Inner {
        list: Vec<u8>,
    }

    fn faults(settings: &str) -> Vec<(String, String)> {
        let faults = read::<Settings>(settings).expect_err("faulty");
        faults.into_iter().map(|fault| (fault.at, fault.message)).collect()
    }

    /// Scenario: settings with all that the type knows.
    /// Guarantees: they are read.
    #[test]
    fn good_settings_are_read() {
        let settings: Settings =
            read(r#"{"endpoint":"e","headers":{"a":"b"},"timeout":"1m30s","inner":{"list":[1]}}"#)
                .expect("good");
        assert_eq!(settings.timeout.map(Span::as_millis), Some(90_000));
        assert_eq!(settings.headers["a"], "b");
    }

    /// Scenario: two keys that nobody reads, one of them nested and with characters that JSON pointers
    /// escape.
    /// Guarantees: both are reported, with their place.
    #[test]
    fn every_unknown_key_is_reported_with_its_pointer() {
        assert_eq!(
            faults(r#"{"endpoint":"e","endpiont":1,"inner":{"list":[],"a/b~c":{}}}"#),
            [("/endpiont".into(), "unknown key".into()), ("/inner/a~1b~0c".into(), "unknown key".into())]
        );
    }

    /// Scenario: a value of a wrong type deep inside, a missing key, a duration that is none, no JSON.
    /// Guarantees: the pointer leads to the value, the message has no line of the JSON in it.
    #[test]
    fn a_value_that_does_not_fit_is_reported_with_its_pointer() {
        assert_eq!(
            faults(r#"{"endpoint":"e","inner":{"list":[1,"x"]}}"#),
            [("/inner/list/1".into(), "invalid type: string \"x\", expected u8".into())]
        );
        assert_eq!(faults("{}"), [(String::new(), "missing field `endpoint`".into())]);
        assert_eq!(
            faults(r#"{"endpoint":"e","timeout":"10 s"}"#),
            [("/timeout".into(), "\"10 s\" is no duration such as 500ms, 10s or 1m30s".into())]
        );
        assert_eq!(faults("{"), [(String::new(), "EOF while parsing an object".into())]);
    }

    /// Scenario: durations as operators write them, and texts that are none.
    /// Guarantees: the former are read, the latter refused, none overflows.
    #[test]
    fn durations_have_units() {
        let millis = |text| Span::parse(text).map(Span::as_millis);
        assert_eq!(millis("500ms"), Some(500));
        assert_eq!(millis("10s"), Some(10_000));
        assert_eq!(millis("2h"), Some(7_200_000));
        for text in
            ["", "10", "s", "-1s", "1.5s", "10 s", "1d", "99999999999999999999s", "18446744073709551615h"]
        {
            assert_eq!(millis(text), None, "{text}");
        }
    }
}
