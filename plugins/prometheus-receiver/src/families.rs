//! Which family a sample is of, and what its name has behind the family's.

use std::collections::HashMap;

use weir_exposition::Kind;

use crate::room::{FAMILY_COST, RESOLVED_COST};

/// Bytes of a HELP or UNIT that are kept, as the exporter keeps them: each metric of the family has them.
const HELP_BYTES_MAX: usize = 1024;

/// What is known of a family.
#[derive(Clone, Debug, Default)]
pub(crate) struct Family {
    pub(crate) kind: Kind,
    pub(crate) help: String,
    pub(crate) unit: String,
    /// Whether a sample has been found to be of it.
    is_used: bool,
}

/// What a sample is of its family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// A value; of a summary a quantile.
    Value,
    Bucket,
    Sum,
    Count,
    /// Since when it counts.
    Start,
}

/// A sample's name, resolved.
#[derive(Clone, Debug)]
pub(crate) struct Resolved {
    /// As the sample is called.
    pub(crate) name: String,
    /// As the metric is.
    pub(crate) metric: String,
    /// The number of its family.
    pub(crate) family: usize,
    pub(crate) kind: Kind,
    pub(crate) role: Role,
    /// A home with the number that the metric has there, the last that was asked for.
    pub(crate) known_as: Option<(usize, usize)>,
}

/// Families of one scrape.
#[derive(Debug, Default)]
pub(crate) struct Families {
    /// Whether counters have samples that say their start.
    has_starts: bool,
    families: Vec<Family>,
    by_name: HashMap<String, usize>,
    resolved: Vec<Resolved>,
    resolved_by_name: HashMap<String, usize>,
    last: usize,
    /// What the families cost, and what the names do.
    families_bytes: usize,
    resolved_bytes: usize,
}

impl Families {
    pub(crate) fn new(has_starts: bool) -> Self {
        Self { has_starts, ..Self::default() }
    }

    /// Whether counters have samples that say their start.
    pub(crate) fn has_starts(&self) -> bool {
        self.has_starts
    }

    /// What all of it costs.
    pub(crate) fn bytes(&self) -> usize {
        self.families_bytes + self.resolved_bytes
    }

    /// Says what a family is.
    pub(crate) fn set_kind(&mut self, name: &str, kind: Kind) {
        self.announce(name).kind = kind;
    }

    /// Says what a family is about; the beginning is kept.
    pub(crate) fn set_help(&mut self, name: &str, help: &str) {
        let known = &mut self.announce(name).help;
        let before = known.len();
        *known = beginning(help).to_owned();
        let after = known.len();
        self.families_bytes = self.families_bytes + after - before;
    }

    /// Says what a family is measured in; the beginning is kept.
    pub(crate) fn set_unit(&mut self, name: &str, unit: &str) {
        let known = &mut self.announce(name).unit;
        let before = known.len();
        *known = beginning(unit).to_owned();
        let after = known.len();
        self.families_bytes = self.families_bytes + after - before;
    }

    /// What is known of a family, to be told more.
    fn announce(&mut self, name: &str) -> &mut Family {
        let place = match self.by_name.get(name) {
            Some(place) => *place,
            None => self.add(name),
        };
        let family = &mut self.families[place];
        if std::mem::take(&mut family.is_used) {
            // Samples to come may be something else.
            // Others, not cleared ones: to clear a table takes as long as it once was large.
            (self.resolved, self.resolved_by_name) = (Vec::new(), HashMap::new());
            self.resolved_bytes = 0;
        }
        family
    }

    fn add(&mut self, name: &str) -> usize {
        self.by_name.insert(name.to_owned(), self.families.len());
        self.families.push(Family::default());
        self.families_bytes += FAMILY_COST + name.len();
        self.families.len() - 1
    }

    pub(crate) fn family(&self, number: usize) -> &Family {
        &self.families[number]
    }

    /// Resolves a sample's name; returns a number for [`Families::at`] that holds until a family is announced.
    pub(crate) fn resolve(&mut self, name: &str) -> usize {
        if self.resolved.get(self.last).is_some_and(|last| last.name == name) {
            return self.last;
        }
        if let Some(place) = self.resolved_by_name.get(name) {
            self.last = *place;
            return *place;
        }
        let resolved = self.find(name);
        self.families[resolved.family].is_used = true;
        self.last = self.resolved.len();
        self.resolved_by_name.insert(name.to_owned(), self.last);
        self.resolved_bytes += RESOLVED_COST + 3 * name.len();
        self.resolved.push(resolved);
        self.last
    }

    /// A name that was resolved.
    pub(crate) fn at(&mut self, number: usize) -> &mut Resolved {
        &mut self.resolved[number]
    }

    fn find(&mut self, name: &str) -> Resolved {
        const SUFFIXES: [(&str, Role); 8] = [
            ("_total", Role::Value),
            ("_info", Role::Value),
            ("_created", Role::Start),
            ("_bucket", Role::Bucket),
            ("_sum", Role::Sum),
            ("_count", Role::Count),
            ("_gsum", Role::Sum),
            ("_gcount", Role::Count),
        ];
        let exact = self.by_name.get(name).copied();
        let of_other = || {
            SUFFIXES.iter().find_map(|(suffix, role)| {
                let base = name.strip_suffix(suffix)?;
                let family = *self.by_name.get(base)?;
                let kind = self.families[family].kind;
                let has_start = *role != Role::Start || kind != Kind::Counter || self.has_starts;
                (kind.suffixes().contains(suffix) && has_start).then_some((base, family, kind, *role))
            })
        };
        let resolved = |metric: String, family, kind, role| {
            let name = name.to_owned();
            Resolved { name, metric, family, kind, role, known_as: None }
        };
        if exact.is_none()
            && let Some((base, family, kind, role)) = of_other()
        {
            let metric = match (kind, role) {
                (Kind::Histogram | Kind::GaugeHistogram | Kind::Summary, _) => base.to_owned(),
                (_, Role::Start) => format!("{base}_total"),
                (_, _) => name.to_owned(),
            };
            return resolved(metric, family, kind, role);
        }
        let family = exact.unwrap_or_else(|| self.add(name));
        resolved(name.to_owned(), family, self.families[family].kind, Role::Value)
    }
}

/// The beginning of a text, cut between characters.
fn beginning(text: &str) -> &str {
    &text[..text.floor_char_boundary(HELP_BYTES_MAX)]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: many names that are resolved, then a family that is announced while samples of it have been there.
    /// Guarantees: the table of names is a new one, so that announcing ever more of them costs nothing; what they cost is gone.
    #[test]
    fn announcing_leaves_no_large_table() {
        let mut families = Families::new(false);
        families.resolve("a");
        let before = families.bytes();
        for name in 0..1_000 {
            families.resolve(&format!("n{name}"));
        }
        assert!(families.resolved_by_name.capacity() >= 1_000 && families.bytes() > before + 400_000);
        families.set_help("a", "about");
        assert_eq!((families.resolved_by_name.capacity(), families.resolved.capacity()), (0, 0));
        assert_eq!(families.resolved_bytes, 0);
    }

    /// Scenario: a HELP of many bytes, and a unit; characters of two bytes stand over the bound.
    /// Guarantees: the beginning is kept, in whole characters.
    #[test]
    fn long_texts_are_cut() {
        let mut families = Families::new(false);
        let text = format!("x{}", "\u{e9}".repeat(HELP_BYTES_MAX));
        families.set_help("a", &text);
        families.set_unit("a", &text);
        let family = families.family(0);
        assert_eq!((family.help.len(), family.unit.len()), (HELP_BYTES_MAX - 1, HELP_BYTES_MAX - 1));
    }
}
