//! Who speaks, and of what: node and resource become an OTLP resource and a row of the registry.
//!
//! ```text
//! Node                identifier = 1 · library_info = 2 · service_info = 3 · attributes = 4, map
//! ProcessIdentifier   host_name = 1 · pid uint32 = 2 · start_timestamp = 3
//! LibraryInfo         language = 1 · exporter_version = 2 · core_library_version = 3
//! ServiceInfo         name = 1
//! Resource            type = 1 · labels = 2, map
//! ```
//!
//! | OpenCensus | attribute |
//! |---|---|
//! | labels of the resource | their own keys; `cloud.zone` is `cloud.availability_zone` |
//! | attributes of the node | their own keys |
//! | `service_info.name` | `service.name` |
//! | `identifier.start_timestamp` | `opencensus.starttime`, RFC 3339 |
//! | `identifier.host_name`, `.pid` | `host.name`, `process.pid` (int) |
//! | `library_info.core_library_version` | `telemetry.sdk.version` |
//! | `library_info.exporter_version` | `opencensus.exporterversion` |
//! | `library_info.language` | `telemetry.sdk.language` |
//! | type of the resource | `opencensus.resourcetype` |
//!
//! Of one key what stands lower in the table wins.

use std::borrow::Cow;

use weir_model::Node;
use weir_wire::{Encoder, Malformed, Reader};

use super::value::{Slot, entry, message, moment, number, put, text, unix_nanos};
use super::{Limits, Tally, TranslateError};

/// The names of `LibraryInfo.Language`, from 1.
const LANGUAGES: [&str; 10] =
    ["cpp", "dotnet", "erlang", "go", "java", "nodejs", "php", "python", "ruby", "webjs"];

/// The field that begins a group of OTLP: its resource, made of a node and a resource.
pub(super) fn group(
    node: Option<&[u8]>,
    resource: Option<&[u8]>,
    limits: &Limits,
    tally: &mut Tally,
) -> Result<Vec<u8>, TranslateError> {
    // From the strongest claim on a key to the weakest, so that what comes first stays.
    let mut attributes = Attributes { list: Vec::new(), cut: 0, limits, tally };
    let resource = ResourceParts::read(resource.unwrap_or_default())?;
    attributes.add_text("opencensus.resourcetype", resource.kind);
    let node = NodeParts::read(node.unwrap_or_default())?;
    node.add_to(&mut attributes)?;
    let mut labels = Reader::new(resource.all);
    while let Some(field) = labels.next()? {
        if field.number == 2 {
            let (key, value) = entry(message(&field)?)?;
            attributes.add(if key == b"cloud.zone" { b"cloud.availability_zone" } else { key }, value);
        }
    }
    Ok(attributes.into_field())
}

/// The node as the registry knows it.
pub(super) fn identity(node: &[u8], limits: &Limits) -> Result<Node, TranslateError> {
    let parts = NodeParts::read(node)?;
    let read = |raw: &'_ [u8]| text(raw, limits.text_bytes_max, &mut 0, &mut 0).into_owned();
    let library = match (parts.language(), read(parts.core_version)) {
        (Some(language), version) if version.is_empty() => language.to_owned(),
        (Some(language), version) => format!("{language} {version}"),
        (None, version) => version,
    };
    let started = unix_nanos(parts.started.as_deref())?;
    Ok(Node::of_process(&read(parts.host), parts.pid, started, &read(parts.service), &library))
}

/// The fields of a node, each where it stands.
#[derive(Default)]
struct NodeParts<'a> {
    host: &'a [u8],
    pid: u32,
    started: Slot<'a>,
    language: u64,
    exporter_version: &'a [u8],
    core_version: &'a [u8],
    service: &'a [u8],
    all: &'a [u8],
}

impl<'a> NodeParts<'a> {
    /// Fields of one message may stand apart; each is taken where it comes, the last one wins.
    fn read(node: &'a [u8]) -> Result<Self, Malformed> {
        let mut parts = Self { all: node, ..Self::default() };
        let mut reader = Reader::new(node);
        while let Some(field) = reader.next()? {
            match field.number {
                1 => parts.identifier(message(&field)?)?,
                2 => parts.library(message(&field)?)?,
                3 => {
                    let mut service = Reader::new(message(&field)?);
                    while let Some(field) = service.next()? {
                        if field.number == 1 {
                            parts.service = message(&field)?;
                        }
                    }
                }
                4 => {
                    message(&field)?;
                }
                _ => {}
            }
        }
        Ok(parts)
    }

    fn identifier(&mut self, identifier: &'a [u8]) -> Result<(), Malformed> {
        let mut reader = Reader::new(identifier);
        while let Some(field) = reader.next()? {
            match field.number {
                1 => self.host = message(&field)?,
                // Java writes a negative number here when it can't find out: ten bytes, of which four count.
                2 => self.pid = number(&field)? as u32,
                3 => put(&mut self.started, message(&field)?),
                _ => {}
            }
        }
        Ok(())
    }

    fn library(&mut self, library: &'a [u8]) -> Result<(), Malformed> {
        let mut reader = Reader::new(library);
        while let Some(field) = reader.next()? {
            match field.number {
                1 => self.language = number(&field)?,
                2 => self.exporter_version = message(&field)?,
                3 => self.core_version = message(&field)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn language(&self) -> Option<&'static str> {
        let index = usize::try_from(self.language).ok()?.checked_sub(1)?;
        LANGUAGES.get(index).copied()
    }

    fn add_to(&self, attributes: &mut Attributes<'_, '_>) -> Result<(), TranslateError> {
        if let Some(language) = self.language() {
            attributes.add_text("telemetry.sdk.language", language.as_bytes());
        }
        attributes.add_text("opencensus.exporterversion", self.exporter_version);
        attributes.add_text("telemetry.sdk.version", self.core_version);
        if self.pid != 0 {
            attributes.add_int("process.pid", i64::from(self.pid));
        }
        attributes.add_text("host.name", self.host);
        if let Some(started) = &self.started
            && let Some(started) = rfc3339(moment(started)?)
        {
            attributes.add_text("opencensus.starttime", started.as_bytes());
        }
        attributes.add_text("service.name", self.service);
        let mut reader = Reader::new(self.all);
        while let Some(field) = reader.next()? {
            if field.number == 4 {
                let (key, value) = entry(message(&field)?)?;
                attributes.add(key, value);
            }
        }
        Ok(())
    }
}

struct ResourceParts<'a> {
    kind: &'a [u8],
    all: &'a [u8],
}

impl<'a> ResourceParts<'a> {
    fn read(resource: &'a [u8]) -> Result<Self, Malformed> {
        let mut parts = Self { kind: &[], all: resource };
        let mut reader = Reader::new(resource);
        while let Some(field) = reader.next()? {
            if field.number == 1 {
                parts.kind = message(&field)?;
            }
        }
        Ok(parts)
    }
}

/// Attributes of a resource, each key once.
struct Attributes<'l, 't> {
    list: Vec<(Cow<'static, str>, Said)>,
    cut: u32,
    limits: &'l Limits,
    tally: &'t mut Tally,
}

enum Said {
    Text(String),
    Int(i64),
}

impl Attributes<'_, '_> {
    /// Adds an attribute of the sender's own naming.
    fn add(&mut self, key: &[u8], value: &[u8]) {
        if self.list.len() >= self.limits.attributes_max as usize {
            // Without a look at its key: a flood of labels should not cost a comparison of each with each.
            self.cut += 1;
            return;
        }
        let key = self.text(key);
        let value = self.text(value);
        self.put(Cow::Owned(key), Said::Text(value));
    }

    /// Adds an attribute of the table, unless it is empty.
    fn add_text(&mut self, key: &'static str, value: &[u8]) {
        if !value.is_empty() {
            let value = self.text(value);
            self.put(Cow::Borrowed(key), Said::Text(value));
        }
    }

    fn add_int(&mut self, key: &'static str, value: i64) {
        self.put(Cow::Borrowed(key), Said::Int(value));
    }

    fn put(&mut self, key: Cow<'static, str>, value: Said) {
        if self.list.iter().all(|(before, _)| *before != key) {
            self.list.push((key, value));
        }
    }

    fn text(&mut self, raw: &[u8]) -> String {
        let tally = &mut *self.tally;
        text(raw, self.limits.text_bytes_max, &mut tally.texts_cut, &mut tally.texts_repaired).into_owned()
    }

    /// `resource = 1 { attributes = 1 · dropped_attributes_count = 2 }`, present even where it is empty.
    fn into_field(self) -> Vec<u8> {
        let mut out = Encoder::new();
        out.message(1, |resource| {
            for (key, value) in &self.list {
                match value {
                    Said::Text(text) => resource.attribute_str(1, key.as_bytes(), text),
                    Said::Int(number) => resource.attribute_int(1, key.as_bytes(), *number),
                }
            }
            resource.nonzero_varint(2, u64::from(self.cut));
        });
        self.tally.attributes_cut += self.cut;
        out.into_bytes()
    }
}

/// A moment as RFC 3339 says it, in UTC, with up to nine digits of a second and no trailing zeros; nothing outside the
/// years 1 to 9999.
pub(super) fn rfc3339((seconds, nanos): (i64, i32)) -> Option<String> {
    const NANOS: i64 = 1_000_000_000;
    let seconds = seconds.checked_add(i64::from(nanos).div_euclid(NANOS))?;
    let nanos = i64::from(nanos).rem_euclid(NANOS);
    let (days, of_day) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let (year, month, day) = civil(days)?;
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    let mut text = format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}");
    if nanos != 0 {
        let fraction = format!("{nanos:09}");
        text.push('.');
        text.push_str(fraction.trim_end_matches('0'));
    }
    text.push('Z');
    Some(text)
}

/// Year, month and day of a day counted from 1970-01-01 (Howard Hinnant, "chrono-compatible low-level date algorithms").
fn civil(days: i64) -> Option<(i64, i64, i64)> {
    let days = days.checked_add(719_468)?;
    let era = days.div_euclid(146_097);
    let of_era = days.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (1..=9999).contains(&year).then_some((year, month, day))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: moments whose text is known: the epoch, a leap day, the last second of a century, a fraction, one
    /// before 1970, one whose nanoseconds are out of their range.
    /// Guarantees: each is told as RFC 3339 does, in UTC, without trailing zeros.
    #[test]
    fn a_moment_is_told_as_rfc_3339() {
        let told = |seconds, nanos| rfc3339((seconds, nanos)).expect("within the years");
        assert_eq!(told(0, 0), "1970-01-01T00:00:00Z");
        assert_eq!(told(951_782_400, 0), "2000-02-29T00:00:00Z");
        assert_eq!(told(4_102_444_799, 500_000_000), "2099-12-31T23:59:59.5Z");
        assert_eq!(told(1_700_000_000, 123_456_789), "2023-11-14T22:13:20.123456789Z");
        assert_eq!(told(-1, 0), "1969-12-31T23:59:59Z");
        assert_eq!(told(0, -1), "1969-12-31T23:59:59.999999999Z");
        assert_eq!(rfc3339((i64::MAX, 0)), None);
        assert_eq!(rfc3339((253_402_300_800, 0)), None);
    }
}
