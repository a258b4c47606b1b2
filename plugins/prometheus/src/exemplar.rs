//! Exemplars of OTLP, as Prometheus has them: a value, a time and labels, `trace_id` and `span_id` first.

use std::fmt::Write as _;

use weir_guest::json::JsonWriter;
use weir_guest::wire::otlp::{ExemplarView, Number};

use crate::labels::{LABELS_BYTES_MAX, Labels};
use crate::names::Strategy;

/// Characters of an exemplar's labels, names and values (OpenMetrics 1.0, "Exemplars").
pub const EXEMPLAR_CHARS_MAX: usize = 128;

/// An exemplar.
#[derive(Clone, Debug, PartialEq)]
pub struct Exemplar {
    /// What it was.
    pub value: f64,
    /// Nanoseconds since the Unix epoch; 0 where nobody knows.
    pub time: u64,
    /// Names and values, each name once: `trace_id`, `span_id`, then attributes by name as far as all have at most
    /// [`EXEMPLAR_CHARS_MAX`] characters.
    pub labels: Vec<(String, String)>,
}

/// An exemplar; nothing where it has no value, or what is in it is malformed.
#[must_use]
pub fn read(view: &ExemplarView<'_>, strategy: Strategy) -> Option<Exemplar> {
    let value = match view.value {
        Number::Int(number) => number as f64,
        Number::Double(number) => number,
        Number::Empty => return None,
    };
    let ids = [("trace_id", view.trace_id, 16), ("span_id", view.span_id, 8)];
    let ids = ids.iter().filter(|(_, id, bytes)| id.len() == *bytes && id.iter().any(|byte| *byte != 0));
    let mut labels: Vec<(String, String)> = ids.map(|(name, id, _)| ((*name).to_owned(), hex(id))).collect();
    let mut attributes = Labels::default();
    let mut scratch = JsonWriter::default().limited(LABELS_BYTES_MAX);
    for attribute in view.filtered_attributes() {
        let attribute = attribute.ok()?;
        // One that is too large would not fit anyway.
        let _is_added =
            attributes.attribute(strategy, "", attribute.key, &attribute.value, &mut scratch).is_ok();
    }
    let mut room = EXEMPLAR_CHARS_MAX - labels.iter().map(|(name, id)| name.len() + id.len()).sum::<usize>();
    if attributes.settle("", &[]).is_ok() {
        for (name, value) in attributes.iter() {
            let is_taken = labels.iter().any(|(id, _)| id == name);
            if is_taken {
                continue;
            }
            if let Some(left) = room.checked_sub(name.chars().count() + value.chars().count()) {
                room = left;
                labels.push((name.to_owned(), value.to_owned()));
            }
        }
    }
    Some(Exemplar { value, time: view.time_unix_nano, labels })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a string does not fail");
        text
    })
}

#[cfg(test)]
mod tests {
    use weir_guest::wire::Encoder;
    use weir_guest::wire::otlp::View;

    use super::*;

    fn exemplar(write: impl FnOnce(&mut Encoder)) -> Option<Exemplar> {
        let mut out = Encoder::new();
        write(&mut out);
        read(&ExemplarView::parse(out.as_bytes()).expect("an exemplar"), Strategy::default())
    }

    /// Scenario: an exemplar with ids, attributes that fit and one that does not; ids that are none; no value.
    /// Guarantees: ids first, then what fits; without a value no exemplar.
    #[test]
    fn ids_come_first_and_attributes_as_far_as_they_fit() {
        let full = exemplar(|out| {
            out.fixed64(2, 9);
            out.fixed64(6, 3);
            out.bytes(4, [1; 8]);
            out.bytes(5, [0xab; 16]);
            out.attribute_int(7, "z.z", 1);
            out.attribute_str(7, "a", "x".repeat(100));
            out.attribute_str(7, "trace_id", "other");
        });
        let labels = [("trace_id", "ab".repeat(16)), ("span_id", "01".repeat(8)), ("z_z", "1".to_owned())];
        let labels = labels.map(|(name, value)| (name.to_owned(), value)).to_vec();
        assert_eq!(full, Some(Exemplar { value: 3.0, time: 9, labels }));
        let none = exemplar(|out| {
            out.double(3, 0.5);
            out.bytes(4, [0; 8]);
            out.bytes(5, [1; 4]);
        });
        assert_eq!(none, Some(Exemplar { value: 0.5, time: 0, labels: Vec::new() }));
        assert_eq!(exemplar(|out| out.fixed64(2, 9)), None);
    }
}
