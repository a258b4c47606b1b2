//! Which family a sample is of, and what its name has behind the family's.

use std::collections::HashMap;

use weir_exposition::Kind;

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
}

impl Families {
    pub(crate) fn new(has_starts: bool) -> Self {
        Self { has_starts, ..Self::default() }
    }

    /// Whether counters have samples that say their start.
    pub(crate) fn has_starts(&self) -> bool {
        self.has_starts
    }

    /// What is known of a family, to be told more.
    pub(crate) fn announce(&mut self, name: &str) -> &mut Family {
        let place = match self.by_name.get(name) {
            Some(place) => *place,
            None => {
                self.by_name.insert(name.to_owned(), self.families.len());
                self.families.push(Family::default());
                self.families.len() - 1
            }
        };
        let family = &mut self.families[place];
        if std::mem::take(&mut family.is_used) {
            // Samples to come may be something else.
            self.resolved.clear();
            self.resolved_by_name.clear();
        }
        family
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
        let family = exact.unwrap_or_else(|| {
            self.by_name.insert(name.to_owned(), self.families.len());
            self.families.push(Family::default());
            self.families.len() - 1
        });
        resolved(name.to_owned(), family, self.families[family].kind, Role::Value)
    }
}
