//! `service: {pipelines: …}`: who is connected to whom.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use weir_model::Signal;

use super::id::{WORD, is_word};
use super::location::{Located, Location};
use super::nearest::nearest;
use super::processor::{ProcessorConfig, is_batch};
use super::report::{Diagnostic, Problems};
use super::section::{Field, Section, shortened};
use super::{Id, Kind};

/// A pipeline's name: `traces`, `traces/edge`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PipelineId {
    /// What flows through it.
    pub signal: Signal,
    /// Tells pipelines of one signal apart.
    pub name: Option<String>,
}

impl fmt::Display for PipelineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => write!(f, "{}/{name}", self.signal),
            None => write!(f, "{}", self.signal),
        }
    }
}

/// One pipeline. Each has a log of its own, and each of its exporters a cursor in that log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PipelineConfig {
    /// Its name's place.
    pub at: Location,
    /// Who feeds it: at least one.
    pub receivers: Vec<Located<Id>>,
    /// What happens on the way, in this order.
    pub processors: Vec<Located<Id>>,
    /// Where it goes: at least one.
    pub exporters: Vec<Located<Id>>,
}

impl PipelineConfig {
    /// The ids of one kind.
    pub fn ids(&self, kind: Kind) -> &[Located<Id>] {
        match kind {
            Kind::Receiver => &self.receivers,
            Kind::Processor => &self.processors,
            Kind::Exporter => &self.exporters,
        }
    }
}

/// Pipelines of one configuration: each costs files, threads' time and memory.
const PIPELINES_MAX: usize = 64;

/// Ids that the file defines, also those that could not be read, so that an error is told once.
#[derive(Debug, Default)]
pub(crate) struct Defined(BTreeMap<Kind, BTreeMap<Id, Location>>);

impl Defined {
    pub(crate) fn insert(&mut self, kind: Kind, id: Id, at: Location) {
        self.0.entry(kind).or_default().insert(id, at);
    }

    fn at(&self, kind: Kind, id: &Id) -> Option<Location> {
        self.0.get(&kind)?.get(id).copied()
    }

    fn of(&self, kind: Kind) -> impl Iterator<Item = (&Id, Location)> {
        self.0.get(&kind).into_iter().flatten().map(|(id, at)| (id, *at))
    }
}

pub(crate) fn read(service: &mut Section<'_>) -> BTreeMap<PipelineId, PipelineConfig> {
    let mut pipelines = BTreeMap::new();
    let Some(field) = service.field("pipelines") else {
        let error = Diagnostic::error(service.at, "service.pipelines", "there are no pipelines");
        let example = "expected `service: {pipelines: {traces: {receivers: [otlp], exporters: [debug]}}}`";
        service.problems.push(error.label(example));
        return pipelines;
    };
    let section = field.section();
    for (name, field) in section.fields() {
        if pipelines.len() == PIPELINES_MAX {
            field.wrong(format!("expected at most {PIPELINES_MAX} pipelines"));
            break;
        }
        let id = pipeline_id(name, &field);
        let pipeline = pipeline(&field);
        if let Some(id) = id {
            pipelines.insert(id, pipeline);
        }
    }
    if section.fields().next().is_none() {
        let error = Diagnostic::error(field.key_at, field.path.clone(), "there are no pipelines");
        field
            .problems
            .push(error.label("expected at least one, as in `traces: {receivers: […], exporters: […]}`"));
    }
    pipelines
}

fn pipeline_id(text: &str, field: &Field<'_>) -> Option<PipelineId> {
    let (signal, name) = match text.split_once('/') {
        Some((signal, name)) => (signal, Some(name)),
        None => (text, None),
    };
    let wrong = |message: String| Diagnostic::error(field.key_at, field.path.clone(), message);
    let Ok(signal) = signal.parse::<Signal>() else {
        let names = Signal::ALL.map(Signal::name);
        let error = wrong(format!("a pipeline of an unknown signal `{}`", shortened(signal)));
        field.problems.push(match nearest(signal, names) {
            Some(near) => error.label(format!("did you mean `{near}`?")),
            None => error.label(format!("expected one of {}, alone or with `/name`", names.join(", "))),
        });
        return None;
    };
    if name.is_some_and(|name| !is_word(name)) {
        let error = wrong(format!("`{}` cannot name a pipeline", shortened(text)));
        field.problems.push(error.label(format!("expected after the slash {WORD}")));
        return None;
    }
    Some(PipelineId { signal, name: name.map(str::to_owned) })
}

fn pipeline(field: &Field<'_>) -> PipelineConfig {
    let mut section = field.section();
    let receivers = ids(&mut section, Kind::Receiver);
    let processors = ids(&mut section, Kind::Processor);
    let exporters = ids(&mut section, Kind::Exporter);
    section.finish(&[]);
    PipelineConfig { at: field.key_at, receivers, processors, exporters }
}

fn ids(section: &mut Section<'_>, kind: Kind) -> Vec<Located<Id>> {
    let Some(field) = section.field(kind.key()) else {
        if kind != Kind::Processor {
            let error = Diagnostic::error(
                section.at,
                section.path.clone(),
                format!("a pipeline without {}", kind.key()),
            );
            section.problems.push(error.label(format!("expected `{}: [ID]` in it", kind.key())));
        }
        return Vec::new();
    };
    let items = field.list("ids");
    if items.is_empty() && kind != Kind::Processor && matches!(field.node.value, super::tree::Value::List(_))
    {
        let error = field.error(format!("a pipeline without {}", kind.key()));
        field.problems.push(error.label("expected at least one id"));
    }
    let mut read: Vec<Located<Id>> = Vec::new();
    for item in items {
        let Some(text) = item.text("an id") else { continue };
        let id = Id::lenient(text);
        match read.iter().find(|other| other.value == id) {
            Some(first) => {
                let error = item.error(format!("{kind} `{id}` stands in this pipeline twice"));
                item.problems.push(error.label("expected each id once").other(first.at, "first here"));
            }
            None => read.push(Located::new(id, item.at())),
        }
    }
    read
}

/// Says which ids are used and not defined, defined and not used, or used for what they cannot do.
pub(crate) fn check(
    pipelines: &BTreeMap<PipelineId, PipelineConfig>,
    defined: &Defined,
    processors: &BTreeMap<Id, Located<ProcessorConfig>>,
    problems: &Problems,
) {
    let mut used: BTreeSet<(Kind, &Id)> = BTreeSet::new();
    for (name, pipeline) in pipelines {
        for kind in [Kind::Receiver, Kind::Processor, Kind::Exporter] {
            for (index, id) in pipeline.ids(kind).iter().enumerate() {
                used.insert((kind, &id.value));
                if defined.at(kind, &id.value).is_none() {
                    let path = format!("service.pipelines.{name}.{}[{index}]", kind.key());
                    problems.push(undefined(kind, id, path, defined));
                }
            }
        }
        let batches: Vec<&Located<Id>> =
            pipeline.processors.iter().filter(|id| processors.get(&id.value).is_some_and(is_batch)).collect();
        if let [first, second, ..] = batches.as_slice() {
            let path = format!("service.pipelines.{name}.processors");
            let error = Diagnostic::error(second.at, path, format!("a second `batch` in pipeline `{name}`"));
            problems.push(
                error
                    .label("expected one at most: it says how exporters are handed batches")
                    .other(first.at, "first here"),
            );
        }
    }
    for kind in [Kind::Receiver, Kind::Processor, Kind::Exporter] {
        for (id, at) in defined.of(kind).filter(|(id, _)| !used.contains(&(kind, *id))) {
            let path = format!("{}.{id}", kind.key());
            let warning =
                Diagnostic::warning(at, path, format!("{kind} `{id}` is defined and in no pipeline"));
            problems.push(warning.label("it does nothing: name it in a pipeline under `service.pipelines`"));
        }
    }
}

fn undefined(kind: Kind, id: &Located<Id>, path: String, defined: &Defined) -> Diagnostic {
    let error = Diagnostic::error(
        id.at,
        path,
        format!("{kind} `{}` is not defined", shortened(&id.value.to_string())),
    );
    let elsewhere = [Kind::Receiver, Kind::Processor, Kind::Exporter]
        .into_iter()
        .find(|other| *other != kind && defined.at(*other, &id.value).is_some());
    let names: Vec<String> = defined.of(kind).map(|(id, _)| id.to_string()).collect();
    let near = nearest(&id.value.to_string(), names.iter().map(String::as_str));
    let error = match (elsewhere, near) {
        (Some(other), _) => {
            let at = defined.at(other, &id.value).unwrap_or(Location::NONE);
            error.label(format!("this is the id of {}", other.with_article())).other(at, "defined here")
        }
        (None, Some(near)) => error.label(format!("did you mean `{near}`?")),
        (None, None) => error.label(format!("expected an id that stands under `{}`", kind.key())),
    };
    match names.is_empty() {
        true => error.note(format!("no {} are defined", kind.key())),
        false => error.note(format!("defined {}: {}", kind.key(), names.join(", "))),
    }
}
