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
//!
//! Each is read once, when it is said; a group of OTLP is made of what was kept of both, and is never larger than what a
//! resource may be. So a change of the resource costs what is written for it, however large the node was on the wire.

use std::borrow::Cow;
use std::collections::HashSet;

use weir_model::Node;
use weir_wire::{Encoder, Malformed, Reader};

use super::value::{Slot, entry, message, moment, number, put, text, unix_nanos};
use super::{Limits, Tally, TranslateError};

/// Entries of a map that are looked at for each attribute that a resource may have; those behind them are cut.
///
/// No encoder writes a key twice, so that honest maps end before, or are cut by the limit of attributes anyway.
const ENTRIES_PER_ATTRIBUTE: usize = 4;

/// The names of `LibraryInfo.Language`, from 1.
const LANGUAGES: [&str; 10] =
    ["cpp", "dotnet", "erlang", "go", "java", "nodejs", "php", "python", "ruby", "webjs"];

/// What a node or a resource says: what is left of its bytes once they were read.
#[derive(Debug, Default)]
pub(super) struct Statement {
    /// Attributes of the table, the strongest first.
    table: Vec<(&'static str, Said)>,
    /// Attributes of the sender's own naming in their order, each key once, no more than a resource may have.
    own: Vec<(String, String)>,
    /// How many of those were cut.
    cut: u32,
}

/// What was not said.
pub(super) static NOTHING: Statement = Statement { table: Vec::new(), own: Vec::new(), cut: 0 };

#[derive(Debug)]
enum Said {
    Text(String),
    Int(i64),
}

impl Statement {
    /// Reads a node.
    ///
    /// # Errors
    /// [`TranslateError::Malformed`] where it is none.
    pub(super) fn of_node(node: &[u8], limits: &Limits, tally: &mut Tally) -> Result<Self, TranslateError> {
        let mut statement = Self::default();
        NodeParts::read(node)?.add_to(&mut statement, limits, tally)?;
        statement.add_map(node, 4, limits, tally)?;
        Ok(statement)
    }

    /// Reads a resource.
    ///
    /// # Errors
    /// [`TranslateError::Malformed`] where it is none.
    pub(super) fn of_resource(
        resource: &[u8],
        limits: &Limits,
        tally: &mut Tally,
    ) -> Result<Self, TranslateError> {
        let mut kind: &[u8] = &[];
        let mut reader = Reader::new(resource);
        while let Some(field) = reader.next()? {
            if field.number == 1 {
                kind = message(&field)?;
            }
        }
        let mut statement = Self::default();
        statement.add_text("opencensus.resourcetype", kind, limits, tally);
        statement.add_map(resource, 2, limits, tally)?;
        for (key, _) in &mut statement.own {
            if key == "cloud.zone" {
                "cloud.availability_zone".clone_into(key);
            }
        }
        Ok(statement)
    }

    /// Bytes kept, for whoever pays for them.
    pub(super) fn bytes(&self) -> usize {
        let of_table = self.table.iter().map(|(_, said)| match said {
            Said::Text(text) => text.capacity(),
            Said::Int(_) => 0,
        });
        let of_own = self.own.iter().map(|(key, value)| key.capacity() + value.capacity());
        self.table.capacity() * size_of::<(&str, Said)>()
            + self.own.capacity() * size_of::<(String, String)>()
            + of_table.chain(of_own).sum::<usize>()
    }

    /// Adds an attribute of the table, unless it is empty.
    fn add_text(&mut self, key: &'static str, value: &[u8], limits: &Limits, tally: &mut Tally) {
        if !value.is_empty() {
            self.table.push((key, Said::Text(fitting(value, limits, tally).into_owned())));
        }
    }

    /// Adds the map that is repeated field `map` of a message. Of one key the first entry counts.
    fn add_map(
        &mut self,
        of: &[u8],
        map: u32,
        limits: &Limits,
        tally: &mut Tally,
    ) -> Result<(), TranslateError> {
        let attributes_max = limits.attributes_max as usize;
        let entries_max = attributes_max.saturating_mul(ENTRIES_PER_ATTRIBUTE);
        let mut keys = HashSet::new();
        let mut entries = 0_usize;
        let mut reader = Reader::new(of);
        while let Some(field) = reader.next()? {
            if field.number != map {
                continue;
            }
            let (key, value) = entry(message(&field)?)?;
            entries += 1;
            if self.own.len() >= attributes_max || entries > entries_max {
                // Without a look at its key, which may be one that is there already.
                self.cut = self.cut.saturating_add(1);
                continue;
            }
            let key = fitting(key, limits, tally);
            if keys.insert(key.clone()) {
                self.own.push((key.into_owned(), fitting(value, limits, tally).into_owned()));
            }
        }
        tally.attributes_cut = tally.attributes_cut.saturating_add(self.cut);
        Ok(())
    }
}

fn fitting<'a>(raw: &'a [u8], limits: &Limits, tally: &mut Tally) -> Cow<'a, str> {
    text(raw, limits.text_bytes_max, &mut tally.texts_cut, &mut tally.texts_repaired)
}

/// The field that begins a group of OTLP, its resource: `resource = 1 { attributes = 1 · dropped_attributes_count = 2 }`,
/// present even where it is empty.
///
/// Counts what it cuts itself; what was cut when node and resource were read was counted then.
pub(super) fn group(node: &Statement, resource: &Statement, limits: &Limits, tally: &mut Tally) -> Vec<u8> {
    let mut keys =
        HashSet::with_capacity(node.table.len() + node.own.len() + resource.table.len() + resource.own.len());
    let mut cut = 0_u32;
    let mut out = Encoder::new();
    // From the strongest claim on a key to the weakest, so that what comes first stays.
    out.message(1, |out| {
        for (key, value) in resource.table.iter().chain(&node.table) {
            keys.insert(*key);
            match value {
                Said::Text(text) => out.attribute_str(1, key.as_bytes(), text),
                Said::Int(number) => out.attribute_int(1, key.as_bytes(), *number),
            }
        }
        for (key, value) in node.own.iter().chain(&resource.own) {
            if keys.len() >= limits.attributes_max as usize {
                cut += 1;
            } else if keys.insert(key) {
                out.attribute_str(1, key.as_bytes(), value);
            }
        }
        let before = node.cut.saturating_add(resource.cut);
        out.nonzero_varint(2, u64::from(before.saturating_add(cut)));
    });
    tally.attributes_cut = tally.attributes_cut.saturating_add(cut);
    out.into_bytes()
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
}

impl<'a> NodeParts<'a> {
    /// Fields of one message may stand apart; each is taken where it comes, the last one wins.
    fn read(node: &'a [u8]) -> Result<Self, Malformed> {
        let mut parts = Self::default();
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

    fn add_to(&self, statement: &mut Statement, limits: &Limits, tally: &mut Tally) -> Result<(), Malformed> {
        if let Some(language) = self.language() {
            statement.add_text("telemetry.sdk.language", language.as_bytes(), limits, tally);
        }
        statement.add_text("opencensus.exporterversion", self.exporter_version, limits, tally);
        statement.add_text("telemetry.sdk.version", self.core_version, limits, tally);
        if self.pid != 0 {
            statement.table.push(("process.pid", Said::Int(i64::from(self.pid))));
        }
        statement.add_text("host.name", self.host, limits, tally);
        if let Some(started) = &self.started
            && let Some(started) = rfc3339(moment(started)?)
        {
            statement.add_text("opencensus.starttime", started.as_bytes(), limits, tally);
        }
        statement.add_text("service.name", self.service, limits, tally);
        Ok(())
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
