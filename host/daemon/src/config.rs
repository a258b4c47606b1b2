//! The user's file: YAML in the shape that users of the OpenTelemetry Collector know.
//!
//! | file | what it does |
//! | --- | --- |
//! | `tree.rs`, `substitute.rs` | YAML to a tree in which every key and value knows its place |
//! | `section.rs`, `scalar.rs` | reads a mapping key by key; times, sizes, addresses |
//! | `receiver.rs`, `processor.rs`, `exporter.rs`, `plugin.rs`, `service.rs` | one part of the file each |
//! | `scrape.rs` | what a receiver fetches: Prometheus' scrape configurations |
//! | `link.rs` | the two ends of the link between an agent and a collector |
//! | `listener.rs`, `tls.rs`, `secret.rs`, `id.rs` | what these have in common |
//! | `pipelines.rs` | who is connected to whom |
//! | `report.rs`, `nearest.rs`, `location.rs` | what is wrong, all of it at once, each with its place |
//! | `veil.rs` | what no report shows |
//!
//! Reading never stops at an error but at broken YAML: a wrong value is told and replaced by a default, so that a
//! person sees everything that is wrong at once. What a plugin must be asked about is checked in `validate.rs`.
//!
//! Invariant: no text can make reading panic, or take memory out of proportion to it.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::Path;
use std::{fmt, fs};

pub use exporter::{
    Auth, Compression, DebugExporter, Delivery, ExporterConfig, ExporterKind, Kept, OtlpExporter,
    OtlpProtocol, PageListen, PluginExporter, Retry, Verbosity, WhenFull,
};
pub use id::{Id, Kind};
pub use link::{LinkEncoding, LinkExporter, LinkReceiver};
pub use listener::{Cors, Listen, ListenLimits};
pub use location::{Located, Location, Source};
pub use pipelines::{PipelineConfig, PipelineId};
pub use plugin::{Digest, GrantsConfig, GuestLimits, PluginConfig, PoolConfig, QuarantineConfig, Settings};
pub use processor::{AttributeValue, BatchConfig, Detect, ProcessorConfig, ResourceConfig};
pub use receiver::{OpenCensusReceiver, OtlpGrpc, OtlpHttp, OtlpReceiver, PluginReceiver, ReceiverConfig};
pub use report::{Diagnostic, Report, Severity, Warning};
pub use scrape::{ScrapeConfig, ScrapeJob};
pub use secret::Secret;
pub use service::{
    LogFormat, LogLevel, LogsConfig, MemoryConfig, QueueConfig, ServiceConfig, Storage, TelemetryConfig,
};
pub use tls::{ClientTls, ServerTls, ServerTlsFiles};

use id::WORD;
use pipelines::Defined;
pub(crate) use report::Problems;
use section::{Field, Section};
use weir_model::Signal;

pub(crate) mod exporter;
mod id;
pub(crate) mod link;
pub(crate) mod listener;
mod location;
pub(crate) mod nearest;
mod pipelines;
pub(crate) mod plugin;
mod processor;
pub(crate) mod receiver;
mod report;
pub(crate) mod scalar;
pub(crate) mod scrape;
mod secret;
mod section;
mod service;
mod substitute;
#[cfg(test)]
mod tests;
mod tls;
mod tree;
mod veil;

/// Bytes of a file. A large configuration has a hundredth of them; more is a file of another kind.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Parts of one kind that a file may define.
const IDS_MAX: usize = 256;

/// What a user wants, as the file says it.
#[derive(Debug, Clone)]
pub struct Config {
    /// The file, for errors that come up later.
    pub source: Source,
    /// `receivers:`, used or not.
    pub receivers: BTreeMap<Id, Located<ReceiverConfig>>,
    /// `processors:`, used or not.
    pub processors: BTreeMap<Id, Located<ProcessorConfig>>,
    /// `exporters:`, used or not.
    pub exporters: BTreeMap<Id, Located<ExporterConfig>>,
    /// `service: {pipelines: …}`.
    pub pipelines: BTreeMap<PipelineId, PipelineConfig>,
    /// The rest of `service:`.
    pub service: ServiceConfig,
}

/// A file that was read as far as it could be, with what is wrong with it so far.
///
/// [`Draft::config`] may be looked at to find the plugins; `validate::check` makes a [`Config`] of it or a report.
#[derive(Debug)]
pub struct Draft {
    pub(crate) config: Config,
    pub(crate) found: Vec<Diagnostic>,
    /// Places of secrets.
    pub(crate) hidden: Vec<Location>,
}

impl Draft {
    /// What has been understood. Where something was wrong it holds defaults, so only paths are to be taken from it.
    pub fn config(&self) -> &Config {
        &self.config
    }
}

/// Reads a file; variables come from the process's environment.
///
/// # Errors
/// [`Report`] where the file cannot be read or is not YAML. What else is wrong is in the draft.
pub fn load(path: &Path) -> Result<Draft, Report> {
    let name = path.display().to_string();
    let text = read_text(path, &name)?;
    parse(&name, &text, &|name| std::env::var(name).ok())
}

/// Reads a text; `env` is asked for variables.
///
/// # Errors
/// [`Report`] where it is not YAML. What else is wrong is in the draft.
pub fn parse(name: &str, text: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<Draft, Report> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let source = Source::new(name, text);
    let problems = Problems::default();
    let root = match tree::parse(&source, env, &problems) {
        Ok(root) => root,
        Err(fatal) => {
            problems.push(*fatal);
            return Err(Report::of(source, problems.take().0));
        }
    };
    let config = read(&root, &source, &problems);
    let (found, hidden) = problems.take();
    Ok(Draft { config, found, hidden })
}

fn read(root: &tree::Node, source: &Source, problems: &Problems) -> Config {
    let mut section = Section::root(root, problems);
    let mut defined = Defined::default();
    let receivers =
        parts(&mut section, Kind::Receiver, &mut defined, |id, field| Some(receiver::read(id, field)));
    let processors = parts(&mut section, Kind::Processor, &mut defined, processor::read);
    let exporters =
        parts(&mut section, Kind::Exporter, &mut defined, |id, field| Some(exporter::read(id, field)));
    let mut service = section.section("service");
    let rest = service::read(&mut service);
    let pipelines = pipelines::read(&mut service);
    service.finish(&[
        ("extensions", "there are no extensions: `health` and `telemetry` stand here"),
        ("zpages", "this version has no zPages"),
    ]);
    section.finish(&[
        ("extensions", "there are no extensions: `service: {health: …}` and the like take their place"),
        ("connectors", "there are no connectors"),
        ("plugins", "plugins are found by name: `service: {plugin_dir: …}`, and `plugin: NAME` under an id"),
        ("pipelines", "pipelines stand under `service`"),
    ]);
    pipelines::check(&pipelines, &defined, &processors, problems);
    Config { source: source.clone(), receivers, processors, exporters, pipelines, service: rest }
}

fn parts<'t, T>(
    root: &mut Section<'t>,
    kind: Kind,
    defined: &mut Defined,
    read: impl Fn(&Id, &Field<'t>) -> Option<T>,
) -> BTreeMap<Id, Located<T>> {
    let mut parts = BTreeMap::new();
    let section = root.section(kind.key());
    for (text, field) in section.fields() {
        let id = Id::lenient(text);
        if parts.len() == IDS_MAX {
            let error = field.key_error(format!("too many {}", kind.key()));
            field.problems.push(error.label(format!("expected at most {IDS_MAX}")));
            break;
        }
        defined.insert(kind, id.clone(), field.key_at);
        if !id.is_sound() {
            let error = field.key_error(format!("`{}` cannot be an id", field.name));
            field
                .problems
                .push(error.label("expected `type` or `type/name`").note(format!("each of {WORD}")));
            continue;
        }
        if let Some(part) = read(&id, &field) {
            parts.insert(id, Located::new(part, field.key_at));
        }
    }
    parts
}

fn read_text(path: &Path, name: &str) -> Result<String, Report> {
    let refuse = |message: &str, label: &str| {
        let error = Diagnostic::error(Location::NONE, "", message).label(label);
        Report::of(Source::new(name, ""), vec![error])
    };
    let unreadable = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::NotFound => {
            refuse("there is no such file", "expected the path of a configuration file")
        }
        std::io::ErrorKind::PermissionDenied => {
            refuse("the file may not be read", "expected a file that this user may read")
        }
        _ => {
            refuse(&format!("the file cannot be read: {error}"), "expected the path of a configuration file")
        }
    };
    let file = fs::File::open(path).map_err(unreadable)?;
    if file.metadata().is_ok_and(|metadata| metadata.is_dir()) {
        return Err(refuse("this is a folder", "expected a file, such as weir.yaml in it"));
    }
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(refuse("the file is larger than 1 MiB", "expected a configuration file"));
    }
    String::from_utf8(bytes).map_err(|error| not_utf8(name, &error))
}

fn not_utf8(name: &str, error: &std::string::FromUtf8Error) -> Report {
    let good = &error.as_bytes()[..error.utf8_error().valid_up_to()];
    let text = String::from_utf8_lossy(good).into_owned();
    let line = text.matches('\n').count() + 1;
    let column = text.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    let at = Location {
        line: u32::try_from(line).unwrap_or(u32::MAX),
        column: u32::try_from(column).unwrap_or(u32::MAX),
        length: 1,
    };
    let bad = error.as_bytes().get(good.len()).copied().unwrap_or_default();
    let diagnostic = Diagnostic::error(at, "", format!("the byte 0x{bad:02x} here is not UTF-8"));
    Report::of(Source::new(name, &text), vec![diagnostic.label("expected text in UTF-8")])
}

impl Config {
    /// What runs without a file: the standard ports, all signals, `debug`, the queue in memory. `zipkin` says
    /// whether the plugin that receives Zipkin is there.
    pub fn default_run(zipkin: bool) -> Self {
        let receivers: BTreeMap<_, _> = receiver::defaults(zipkin).into_iter().collect();
        let debug = Id::of("debug");
        let pipeline = |signal: Signal| {
            let takes = |type_name: &str| match type_name {
                "opencensus" => signal != Signal::Logs,
                "zipkin" => signal == Signal::Traces,
                _ => true,
            };
            let fed = receivers.keys().filter(|id| takes(&id.type_name)).cloned().map(Located::default_of);
            let pipeline = PipelineConfig {
                at: Location::NONE,
                receivers: fed.collect(),
                processors: Vec::new(),
                exporters: vec![Located::default_of(debug.clone())],
            };
            (PipelineId { signal, name: None }, pipeline)
        };
        let pipelines = Signal::ALL.into_iter().map(pipeline).collect();
        Self {
            source: Source::new("(no file)", ""),
            receivers,
            processors: BTreeMap::new(),
            exporters: BTreeMap::from([(debug, Located::default_of(exporter::default_debug()))]),
            pipelines,
            service: ServiceConfig::with_storage(Storage::Memory),
        }
    }

    /// How much an exporter of a pipeline is handed at once: its own `batch`, else the pipeline's processor, else
    /// what lies there, without waiting.
    pub fn batch(&self, pipeline: &PipelineId, exporter: &Id) -> BatchConfig {
        let own = self.exporters.get(exporter).and_then(|exporter| exporter.value.delivery.batch.clone());
        let shared = || {
            let ids = self.pipelines.get(pipeline)?.processors.iter();
            ids.filter_map(|id| self.processors.get(&id.value)).find_map(|processor| match &processor.value {
                ProcessorConfig::Batch(batch) => Some(batch.clone()),
                ProcessorConfig::Resource(_) => None,
            })
        };
        own.or_else(shared).unwrap_or_else(BatchConfig::without_waiting)
    }

    /// What is added to resources in a pipeline, in the order of its processors.
    pub fn resources(&self, pipeline: &PipelineId) -> Vec<&ResourceConfig> {
        let ids = self.pipelines.get(pipeline).into_iter().flat_map(|pipeline| &pipeline.processors);
        let processors = ids.filter_map(|id| self.processors.get(&id.value));
        processors
            .filter_map(|processor| match &processor.value {
                ProcessorConfig::Batch(_) => None,
                ProcessorConfig::Resource(resource) => Some(resource),
            })
            .collect()
    }

    /// Every id that a plugin serves, used or not.
    pub fn plugins(&self) -> Vec<(Kind, &Id, &PluginConfig)> {
        let receivers = self.receivers.iter().map(|(id, part)| (Kind::Receiver, id, part.value.plugin()));
        let exporters = self.exporters.iter().map(|(id, part)| (Kind::Exporter, id, part.value.plugin()));
        receivers.chain(exporters).filter_map(|(kind, id, plugin)| Some((kind, id, plugin?))).collect()
    }

    /// Whether some pipeline names this part.
    pub fn uses(&self, kind: Kind, id: &Id) -> bool {
        self.pipelines.values().any(|pipeline| pipeline.ids(kind).iter().any(|used| used.value == *id))
    }

    /// What a plugin serves an id, with its settings.
    pub fn plugin(&self, kind: Kind, id: &Id) -> Option<&PluginConfig> {
        match kind {
            Kind::Receiver => self.receivers.get(id)?.value.plugin(),
            Kind::Exporter => self.exporters.get(id)?.value.plugin(),
            Kind::Processor => None,
        }
    }

    /// Where a setting of a plugin stands, by its JSON pointer; the nearest thing around it where it is not there.
    pub fn locate(&self, kind: Kind, id: &Id, pointer: &str) -> Location {
        self.plugin(kind, id).map_or(Location::NONE, |plugin| plugin.settings.locate(pointer))
    }

    /// One error at a place of the file, for what comes up when the parts are made.
    pub fn report(&self, at: Location, path: &str, message: &str, expected: &str) -> Report {
        let error = Diagnostic::error(at, path, message).label(expected);
        Report::of(self.source.clone(), vec![error])
    }
}

impl fmt::Display for Storage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Disk => "disk",
            Self::Memory => "memory",
        })
    }
}
