//! Counters that plugins keep through `meter.add`, within bounds.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::grant::Secrets;

/// Counters of one configured id.
const COUNTERS_MAX: usize = 64;

/// Counters with all their label sets of one configured id: what Prometheus takes from a hundred ids without pain.
const SERIES_MAX: usize = 500;

/// Labels of one series.
pub(crate) const LABELS_MAX: usize = 8;

/// Bytes of a counter's or label's name.
pub(crate) const NAME_BYTES_MAX: usize = 64;

/// Bytes of a label's value.
pub(crate) const VALUE_BYTES_MAX: usize = 128;

/// A counter's name and labels.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Series {
    /// As the plugin wrote it; the daemon puts its own prefix in front.
    pub counter: String,
    /// In the order of their names.
    pub labels: Vec<(String, String)>,
}

/// The counters of one configured id. Cloning shares them.
#[derive(Debug, Clone, Default)]
pub struct Meter(Arc<Mutex<BTreeMap<Series, u64>>>);

impl Meter {
    /// Every series with its sum, in order.
    pub fn read(&self) -> Vec<(Series, u64)> {
        let series = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        series.iter().map(|(series, sum)| (series.clone(), *sum)).collect()
    }

    /// Adds to a counter. `false`: a name is not one, or there is no room for another series.
    pub fn add(&self, counter: &str, value: u64, labels: &[(&str, &str)]) -> bool {
        self.add_without(&Secrets::default(), counter, value, labels)
    }

    /// The same of a guest's words; copies of the texts what it keeps. `false`: a name is not one or has a secret in it, or there is
    /// no room for another series.
    pub(crate) fn add_without(
        &self,
        secrets: &Secrets,
        counter: &str,
        value: u64,
        labels: &[(impl AsRef<str>, impl AsRef<str>)],
    ) -> bool {
        let is_name = |text: &str| is_name(text) && secrets.redact(text) == text;
        let names = || labels.iter().map(|(name, _)| name.as_ref());
        if !is_name(counter) || labels.len() > LABELS_MAX || !names().all(is_name) {
            return false;
        }
        let labels = labels
            .iter()
            .map(|(name, value)| (name.as_ref().to_owned(), secrets.tame(value.as_ref(), VALUE_BYTES_MAX)));
        let mut labels: Vec<_> = labels.collect();
        labels.sort();
        if labels.windows(2).any(|pair| pair[0].0 == pair[1].0) {
            return false;
        }
        let counter = counter.to_owned();
        let key = Series { counter, labels };
        let mut series = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sum) = series.get_mut(&key) {
            *sum = sum.wrapping_add(value);
            return true;
        }
        let known = series.keys().any(|other| other.counter == key.counter);
        if series.len() >= SERIES_MAX || (!known && counters(&series) >= COUNTERS_MAX) {
            return false;
        }
        series.insert(key, value);
        true
    }
}

fn counters(series: &BTreeMap<Series, u64>) -> usize {
    let mut names: Vec<&str> = series.keys().map(|key| key.counter.as_str()).collect();
    names.dedup();
    names.len()
}

/// What Prometheus takes as a name.
fn is_name(text: &str) -> bool {
    let mut bytes = text.bytes();
    bytes.next().is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_')
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        && text.len() <= NAME_BYTES_MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: a plugin floods the meter with label values, counters, and names that are none.
    /// Guarantees: what was known goes on counting, the number of series stays bounded, labels have one order.
    #[test]
    fn a_flood_of_labels_is_bounded() {
        let meter = Meter::default();
        let add = |value: u64, label: &str| meter.add("spans", value, &[("b", label), ("a", "x")]);
        let taken = (0..2 * SERIES_MAX).filter(|n| add(1, &n.to_string())).count();
        assert_eq!(taken, SERIES_MAX);
        assert!(add(41, "0"));
        let read = meter.read();
        assert_eq!(read.len(), SERIES_MAX);
        assert_eq!(read[0].0.labels[0].0, "a");
        assert_eq!(read[0].1, 42);
        for name in ["", "1st", "with space", "ä", &"n".repeat(65)] {
            assert!(!meter.add(name, 1, &[]), "{name} was taken");
        }
        let meter = Meter::default();
        let taken = (0..100).filter(|n| meter.add(&format!("counter_{n}"), 1, &[])).count();
        assert_eq!(taken, COUNTERS_MAX);
        assert!(!meter.add("counter_1", 1, &[("a", "1"), ("a", "2")]));
    }

    /// Scenario: a plugin that was told a secret uses it as a label's value, as a label's name and as a counter's name.
    /// Guarantees: the value is hidden, names with it are not taken.
    #[test]
    fn a_secret_is_no_label() {
        let (meter, secrets) = (Meter::default(), Secrets::known(&["hunter2"]));
        assert!(meter.add_without(&secrets, "spans", 1, &[("key", "is hunter2")]));
        assert!(!meter.add_without(&secrets, "spans", 1, &[("hunter2", "x")]));
        assert!(!meter.add_without(&secrets, "hunter2_total", 1, &[("key", "x")]));
        let read = meter.read();
        assert_eq!((read.len(), read[0].0.labels[0].1.as_str()), (1, "is [secret]"));
    }
}
