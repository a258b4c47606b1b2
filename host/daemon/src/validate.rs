//! What can be checked of a configuration once plugins can be asked: that they are there, their settings, what they
//! listen on, what flows through them; and that no two parts want the same port.
//!
//! What only pages may have is in `validate/pages.rs`, what goes for links in `validate/links.rs`.
//!
//! Invariant: starts nothing and binds nothing. It looks at files, and at plugins through [`PluginCheck`].

mod links;
mod pages;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use http::Uri;
use serde_json::Value as Json;
use weir_model::Signal;
use weir_net::budget::large_bytes_max;
use weir_plugin::{Limits, ListenKind, Listener};
use weir_queue::BUDGET_BYTES_MIN;

use crate::config::exporter::NATIVE as EXPORTERS;
use crate::config::listener::{datagram_exposure, exposure, instead};
use crate::config::nearest::nearest;
use crate::config::plugin::ALIASES;
use crate::config::receiver::NATIVE as RECEIVERS;
use crate::config::scalar::{ShownBytes, ShownDuration, listen_address};
use crate::config::{
    Auth, BatchConfig, Config, Diagnostic, Digest, Draft, ExporterKind, Id, Kind, Listen, Located, Location,
    PipelineConfig, PipelineId, PluginConfig, PluginReceiver, Problems, ProcessorConfig, QueueConfig,
    ReceiverConfig, Report, ResourceConfig, ServiceConfig, Storage, Warning,
};

/// What a configuration asks of plugins. Whoever can load them answers.
pub trait PluginCheck {
    /// The names of all plugins that are there: `zipkin-receiver`, `acme-exporter`.
    fn names(&self) -> Vec<String>;

    /// Looks for a plugin that can serve as this kind of part, and asks it what it is within `limits`.
    ///
    /// # Errors
    /// Why it cannot be used.
    fn find(
        &self,
        plugin: &str,
        kind: Kind,
        sha256: Option<&Digest>,
        limits: &Limits,
    ) -> Result<PluginFacts, PluginProblem>;

    /// Checks settings against the plugin's schema, and asks the plugin itself, within the limits of the part.
    ///
    /// # Errors
    /// Everything that is wrong with them; the same text as in the schema's own words is enough.
    fn check(
        &self,
        plugin: &str,
        kind: Kind,
        settings: &Json,
        limits: &Limits,
    ) -> Result<(), Vec<SettingProblem>>;

    /// The JSON Schema of the plugin's settings, where it is at hand: with it a key that is unknown is told with its
    /// place and the nearest known one.
    fn schema(&self, _plugin: &str, _kind: Kind) -> Option<Json> {
        None
    }

    /// The addresses to bind for these settings, each with the pointer of its setting, also where a default holds.
    fn listeners(&self, _plugin: &str, _kind: Kind, _settings: &Json) -> Vec<Listener> {
        Vec::new()
    }

    /// JSON pointers of the settings that are URLs which the plugin sends to.
    fn egress(&self, _plugin: &str, _settings: &Json) -> Vec<String> {
        Vec::new()
    }

    /// JSON pointers of the settings that are secrets, or may be.
    fn secrets(&self, _plugin: &str, _settings: &Json) -> Vec<String> {
        Vec::new()
    }
}

/// What a plugin says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PluginFacts {
    /// Where it was found: a file, or `bundled`.
    pub origin: String,
    /// What can flow through it.
    pub signals: Vec<Signal>,
    /// Addresses that the host binds for it, with these settings; of an exporter, those of its page.
    pub listens: Vec<Listener>,
    /// JSON pointers of the settings that are URLs which it sends to.
    pub egress: Vec<String>,
    /// Whether it reads what targets answer.
    pub fetches: bool,
}

/// Why a plugin cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PluginProblem {
    /// It is not there.
    Absent {
        /// Where it was looked for, in this order.
        looked: Vec<String>,
    },
    /// The file's SHA-256 is another.
    Digest {
        /// The file.
        origin: String,
        /// What it has.
        found: Digest,
    },
    /// It is there and of no use: not a component, imports what is not offered, is no part of this kind.
    Unusable {
        /// The file.
        origin: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// One thing that is wrong with a plugin's settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettingProblem {
    /// JSON pointer to the value that is wrong, or to the key that is unknown.
    pub pointer: String,
    /// What is wrong. What came from a variable is hidden in it.
    pub message: String,
    /// What was expected, where the message does not say it.
    pub expected: String,
    /// For an unknown key: those that are known beside it.
    pub known: Vec<String>,
}

/// A configuration that can be started. Its `Display` is what `weir validate` prints.
#[derive(Debug)]
pub struct Checked {
    /// The configuration.
    pub config: Config,
    /// What is odd about it.
    pub warnings: Vec<Warning>,
    /// What each configured plugin says of itself.
    pub plugins: BTreeMap<(Kind, Id), PluginFacts>,
}

/// Completes the reading of a file.
///
/// # Errors
/// [`Report`] with everything that is wrong, from the first reading and from this one.
pub fn check(draft: Draft, plugins: &dyn PluginCheck) -> Result<Checked, Report> {
    check_beside(draft, plugins, None)
}

/// As [`check`], for a process that runs with another service section: its memory and its queues hold until the next
/// start, so what the file says of sizes must fit them as well as its own.
///
/// # Errors
/// As [`check`].
pub(crate) fn check_beside(
    draft: Draft,
    plugins: &dyn PluginCheck,
    running: Option<&ServiceConfig>,
) -> Result<Checked, Report> {
    let Draft { mut config, found, hidden } = draft;
    let problems = Problems::after(found, hidden);
    let mut facts = BTreeMap::new();
    let limits = limits(&config);
    for (kind, id, plugin) in config.plugins() {
        let limits = &limits[&plugin.plugin.value];
        if let Some(found) = one_plugin(kind, id, plugin, plugins, limits, &problems) {
            facts.insert((kind, id.clone()), found);
        }
    }
    signals(&config, &facts, &problems);
    fetching(&config, &facts, &problems);
    let bindings = bindings(&config, &facts, &problems);
    pages::keys(&config, &facts, &problems);
    ports(&bindings, &problems);
    loops(&config, &facts, &bindings, &problems);
    links::check(&config, &problems);
    files(&config, &problems);
    requests(&mut config, running, &problems);
    budget(&config, running, &problems);
    let warnings = Report::conclude(&config.source, problems)?;
    Ok(Checked { config, warnings, plugins: facts })
}

// === plugins ===

/// By plugin, the largest limits of its ids.
fn limits(config: &Config) -> BTreeMap<String, Limits> {
    let mut largest: BTreeMap<String, Limits> = BTreeMap::new();
    for (_, _, plugin) in config.plugins() {
        let limits = plugin.limits.guest();
        let known = largest.entry(plugin.plugin.value.clone()).or_insert_with(|| limits.clone());
        *known = known.or_larger(&limits);
    }
    largest
}

/// `limits` are those of all parts of this plugin.
fn one_plugin(
    kind: Kind,
    id: &Id,
    config: &PluginConfig,
    plugins: &dyn PluginCheck,
    limits: &Limits,
    problems: &Problems,
) -> Option<PluginFacts> {
    let name = &config.plugin.value;
    let path = format!("{}.{id}", kind.key());
    let pin = config.sha256.as_ref().map(|digest| &digest.value);
    let mut facts = match plugins.find(name, kind, pin, limits) {
        Ok(facts) => facts,
        Err(problem) => {
            // Nobody can say which of its settings are secrets.
            config.settings.nodes().for_each(|node| problems.hide(node));
            problems.push(refused(kind, id, config, &problem, &path, &plugins.names()));
            return None;
        }
    };
    let settings = &config.settings;
    let secrets = plugins.secrets(name, &settings.value);
    secrets.iter().filter_map(|pointer| settings.node(pointer)).for_each(|node| problems.hide(node));
    let unknown =
        plugins.schema(name, kind).map(|schema| unknown_keys(&schema, &settings.value)).unwrap_or_default();
    let found = plugins.check(name, kind, &settings.value, &config.limits.guest()).err().unwrap_or_default();
    // The schema complains about unknown keys at the object around them; we do at the keys.
    let around = |pointer: &str| pointer.rfind('/').map_or("", |end| &pointer[..end]).to_owned();
    let told: BTreeSet<String> = unknown.iter().map(|problem| around(&problem.pointer)).collect();
    let again =
        |problem: &SettingProblem| problem.message.starts_with(ADDITIONAL) && told.contains(&problem.pointer);
    for problem in unknown.iter().chain(found.iter().filter(|problem| !again(problem))) {
        problems.push(wrong_setting(name, config, problem));
    }
    facts.listens = plugins.listeners(name, kind, &settings.value);
    facts.egress = plugins.egress(name, &settings.value);
    Some(facts)
}

/// How the schema's checker begins when it complains about unknown keys.
const ADDITIONAL: &str = "Additional properties are not allowed";

fn wrong_setting(name: &str, config: &PluginConfig, problem: &SettingProblem) -> Diagnostic {
    let SettingProblem { pointer, message, expected, known } = problem;
    let settings = &config.settings;
    let (message, path) = (settings.hide(pointer, message), settings.path(pointer));
    if known.is_empty() {
        let at = settings.locate(pointer);
        return match expected.is_empty() {
            true => Diagnostic::error(at, path, format!("wrong settings for plugin `{name}`")).label(message),
            false => Diagnostic::error(at, path, message)
                .label(expected.as_str())
                .note(format!("settings of plugin `{name}`")),
        };
    }
    let key = pointer.rsplit('/').next().unwrap_or_default();
    let error = Diagnostic::error(settings.locate_key(pointer), path, message);
    let error = match nearest(key, known.iter().map(String::as_str)) {
        Some(near) => error.label(format!("did you mean `{near}`?")),
        None if expected.is_empty() => error.label("not a setting that this plugin knows"),
        None => error.label(expected.as_str()),
    };
    error.note(format!("settings of plugin `{name}`")).note(format!("known keys: {}", known.join(", ")))
}

/// Keys that a schema's `additionalProperties: false` forbids, as deep as `properties` and `items` lead.
fn unknown_keys(schema: &Json, settings: &Json) -> Vec<SettingProblem> {
    let mut found = Vec::new();
    let mut open = vec![(schema, settings, String::new())];
    while let Some((schema, value, pointer)) = open.pop() {
        let properties = schema.get("properties").and_then(Json::as_object);
        let closed = schema.get("additionalProperties") == Some(&Json::Bool(false))
            && schema.get("patternProperties").is_none();
        if let (Some(properties), Json::Object(object)) = (properties, value) {
            for (key, inner) in object {
                let here = format!("{pointer}/{}", key.replace('~', "~0").replace('/', "~1"));
                match properties.get(key) {
                    Some(schema) => open.push((schema, inner, here)),
                    None if closed => found.push(SettingProblem {
                        pointer: here,
                        message: format!("unknown setting `{key}`"),
                        expected: String::new(),
                        known: properties.keys().cloned().collect(),
                    }),
                    None => {}
                }
            }
        }
        if let (Some(items), Json::Array(list)) = (schema.get("items"), value) {
            open.extend(
                list.iter().enumerate().map(|(index, inner)| (items, inner, format!("{pointer}/{index}"))),
            );
        }
    }
    found
}

fn refused(
    kind: Kind,
    id: &Id,
    config: &PluginConfig,
    problem: &PluginProblem,
    path: &str,
    names: &[String],
) -> Diagnostic {
    let name = &config.plugin.value;
    let at = config.plugin.at;
    match problem {
        PluginProblem::Absent { looked } if config.is_named => {
            let error =
                Diagnostic::error(at, format!("{path}.plugin"), format!("there is no plugin `{name}`"));
            let error = match nearest(name, names.iter().map(String::as_str)) {
                Some(near) => error.label(format!("did you mean `{near}`?")),
                None => error.label("expected the name of a plugin that is there"),
            };
            let error = error.note(format!("looked for: {}", looked.join(", ")));
            error.note(format!("plugins that are there: {}", listed(names)))
        }
        PluginProblem::Absent { looked } => {
            let type_name = &id.type_name;
            let error = Diagnostic::error(at, path, format!("unknown {kind} `{type_name}`"));
            let known = types(kind, names);
            let short = type_name.strip_suffix(&format!("-{}", kind.noun())).unwrap_or(type_name);
            let hint = TYPE_HINTS.iter().find(|(of, other, _)| *of == kind && other == type_name);
            let error = match (hint, nearest(short, known.iter().map(String::as_str))) {
                (Some((.., hint)), _) => error.label(*hint),
                (None, Some(near)) => error.label(format!("did you mean `{near}`?")),
                (None, None) => error.label(format!("expected a known {kind}, or `plugin: NAME` in it")),
            };
            let error = error.note(format!("looked for: {}", looked.join(", ")));
            error.note(format!("known {}: {}", kind.key(), known.join(", ")))
        }
        PluginProblem::Digest { origin, found } => {
            let at = config.sha256.as_ref().map_or(at, |digest| digest.at);
            let message = format!("plugin `{name}` ({origin}) has another SHA-256");
            let error = Diagnostic::error(at, format!("{path}.sha256"), message);
            error.label("expected the digest of the file that is to run").note(format!(
                "it has {}",
                found.iter().map(|byte| format!("{byte:02x}")).collect::<String>()
            ))
        }
        PluginProblem::Unusable { origin, reason } => {
            let error = Diagnostic::error(at, path, format!("plugin `{name}` ({origin}) cannot be used"));
            error.label(format!("expected a component that is {}", kind.with_article())).note(reason)
        }
    }
}

/// What other programs call our parts.
const TYPE_HINTS: [(Kind, &str, &str); 2] = [
    (Kind::Exporter, "logging", "this is `debug`"),
    (Kind::Exporter, "nop", "nothing is thrown away here; `debug` writes to the log"),
];

fn listed(names: &[String]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

/// Types that an id of this kind may have without `plugin:`.
fn types(kind: Kind, names: &[String]) -> Vec<String> {
    let native: &[&str] = match kind {
        Kind::Receiver => &RECEIVERS,
        Kind::Exporter => &EXPORTERS,
        Kind::Processor => &[],
    };
    let suffix = format!("-{}", kind.noun());
    let aliases = ALIASES.iter().filter(|(of, _, short)| {
        *of == kind && names.iter().any(|name| name.strip_suffix(&suffix) == Some(*short))
    });
    let aliases = aliases.map(|(_, type_name, _)| *type_name);
    let plugins = names.iter().filter_map(|name| name.strip_suffix(&suffix));
    let plugins = plugins.filter(|short| !native.contains(short));
    native.iter().copied().chain(aliases).chain(plugins).map(str::to_owned).collect()
}

// === signals ===

fn signals(config: &Config, facts: &BTreeMap<(Kind, Id), PluginFacts>, problems: &Problems) {
    for (name, pipeline) in &config.pipelines {
        for kind in [Kind::Receiver, Kind::Exporter] {
            for (index, id) in pipeline.ids(kind).iter().enumerate() {
                let Some(able) = able(config, facts, kind, &id.value) else {
                    continue;
                };
                if able.contains(&name.signal) {
                    continue;
                }
                let path = format!("service.pipelines.{name}.{}[{index}]", kind.key());
                let message = format!("{kind} `{}` has no {} for pipeline `{name}`", id.value, name.signal);
                let names: Vec<&str> = able.iter().map(|signal| signal.name()).collect();
                let error = Diagnostic::error(id.at, path, message);
                problems.push(error.label(format!("it has {}", names.join(" and "))));
            }
        }
    }
}

/// What can flow through a part; `None` where it is not known, which has been told.
fn able<'f>(
    config: &Config,
    facts: &'f BTreeMap<(Kind, Id), PluginFacts>,
    kind: Kind,
    id: &Id,
) -> Option<&'f [Signal]> {
    let of_plugin = || facts.get(&(kind, id.clone())).map(|facts| facts.signals.as_slice());
    match kind {
        Kind::Receiver => match config.receivers.get(id)?.value {
            ReceiverConfig::OpenCensus(_) => Some(&[Signal::Traces, Signal::Metrics]),
            ReceiverConfig::Otlp(_) | ReceiverConfig::Link(_) => Some(&Signal::ALL),
            ReceiverConfig::Plugin(_) => of_plugin(),
        },
        Kind::Exporter => match config.exporters.get(id)?.value.kind {
            ExporterKind::Otlp(_) | ExporterKind::Debug(_) | ExporterKind::Link(_) => Some(&Signal::ALL),
            ExporterKind::Plugin(_) => of_plugin(),
        },
        Kind::Processor => None,
    }
}

// === targets ===

/// Targets need a plugin that reads them, and such a plugin targets.
fn fetching(config: &Config, facts: &BTreeMap<(Kind, Id), PluginFacts>, problems: &Problems) {
    for (id, receiver) in &config.receivers {
        let ReceiverConfig::Plugin(PluginReceiver { plugin, scrape, .. }) = &receiver.value else { continue };
        let Some(facts) = facts.get(&(Kind::Receiver, id.clone())) else { continue };
        let (name, path) = (&plugin.plugin.value, format!("receivers.{id}"));
        let at = plugin.plugin.at;
        if scrape.is_some() && !facts.fetches {
            let message = format!("plugin `{name}` ({}) does not read what targets answer", facts.origin);
            let error = Diagnostic::error(at, path, message);
            problems.push(
                error.label("expected a plugin that exports `scraper`, or no `config: {scrape_configs: …}`"),
            );
        } else if scrape.is_none() && facts.fetches && facts.listens.is_empty() {
            let error = Diagnostic::error(at, path, format!("plugin `{name}` fetches, and from nobody"));
            problems.push(error.label("expected `config: {scrape_configs: […]}` in its settings"));
        }
    }
}

// === addresses ===

/// What carries bytes to an address: a port of the one is none of the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    /// Connections.
    Tcp,
    /// Datagrams.
    Udp,
}

impl Transport {
    /// Of what a plugin listens to.
    pub(crate) fn of(kind: ListenKind) -> Self {
        match kind {
            ListenKind::Http | ListenKind::Grpc => Self::Tcp,
            ListenKind::Udp => Self::Udp,
        }
    }
}

/// Something that listens.
struct Binding {
    what: String,
    transport: Transport,
    /// The receiver's id; none for pages, which take nothing.
    receiver: Option<Id>,
    path: String,
    endpoint: Located<SocketAddr>,
}

/// What will listen once the configuration runs: parts that no pipeline names do not.
fn bindings(config: &Config, facts: &BTreeMap<(Kind, Id), PluginFacts>, problems: &Problems) -> Vec<Binding> {
    let mut bindings = Vec::new();
    for (id, receiver) in &config.receivers {
        let used = config.uses(Kind::Receiver, id);
        for (protocol, listen) in receiver.value.listens().into_iter().filter(|_| used) {
            let (what, path) = match protocol {
                "" => (format!("receiver `{id}`"), format!("receivers.{id}.endpoint")),
                protocol => (
                    format!("receiver `{id}` ({protocol})"),
                    format!("receivers.{id}.protocols.{protocol}.endpoint"),
                ),
            };
            let receiver = Some(id.clone());
            let (transport, endpoint) = (Transport::Tcp, listen.endpoint.clone());
            bindings.push(Binding { what, transport, receiver, path, endpoint });
        }
        let ReceiverConfig::Plugin(plugin) = &receiver.value else {
            continue;
        };
        let Some(facts) = facts.get(&(Kind::Receiver, id.clone())) else {
            continue;
        };
        bindings.extend(plugin_bindings(id, plugin, facts, problems).into_iter().filter(|_| used));
    }
    pages::bindings(config, facts, &mut bindings, problems);
    let pages = [
        ("service.telemetry.metrics", config.service.telemetry.metrics.as_ref()),
        ("service.health", config.service.health.as_ref()),
    ];
    let events = ("service.events", config.service.events.as_ref());
    let pages = pages.map(|(path, listen)| (path, listen.map(|listen| &listen.endpoint)));
    bindings.extend(pages.into_iter().chain([events]).filter_map(|(path, endpoint)| {
        let endpoint = endpoint?.clone();
        let (what, path) = (format!("`{path}`"), format!("{path}.endpoint"));
        Some(Binding { what, transport: Transport::Tcp, receiver: None, path, endpoint })
    }));
    bindings
}

/// What will listen for a plugin; says what is wrong with it.
fn plugin_bindings(
    id: &Id,
    plugin: &PluginReceiver,
    facts: &PluginFacts,
    problems: &Problems,
) -> Vec<Binding> {
    let settings = &plugin.plugin.settings;
    let mut bindings = Vec::new();
    for listener in &facts.listens {
        let Some(endpoint) = plugin_endpoint(&plugin.plugin, listener, problems) else { continue };
        let path = settings.path(&listener.pointer);
        let around = path.strip_suffix(".endpoint").unwrap_or(&path);
        let transport = Transport::of(listener.kind);
        match transport {
            Transport::Tcp => exposure(problems, around, &endpoint, &plugin.tls),
            Transport::Udp => datagram_exposure(problems, around, &endpoint, &plugin.tls),
        }
        let what = match facts.listens.len() {
            1 => format!("receiver `{id}`"),
            _ => format!("receiver `{id}` ({})", listener.name),
        };
        bindings.push(Binding { what, transport, receiver: Some(id.clone()), path, endpoint });
    }
    bindings
}

fn plugin_endpoint(
    plugin: &PluginConfig,
    listener: &Listener,
    problems: &Problems,
) -> Option<Located<SocketAddr>> {
    let settings = &plugin.settings;
    let at = settings.locate(&listener.pointer);
    // The schema says that it is a text, and has said so.
    let written = settings.value.pointer(&listener.pointer);
    if !listener.pointer.is_empty()
        && written.is_some_and(|written| !written.is_string() && !written.is_null())
    {
        return None;
    }
    match listen_address(&listener.address) {
        Ok(address) => Some(Located::new(address, at)),
        Err(slip) => {
            let path = settings.path(&listener.pointer);
            let error = Diagnostic::error(at, path, "this is no address to listen on");
            problems.push(error.label(instead(&slip)));
            None
        }
    }
}

fn ports(bindings: &[Binding], problems: &Problems) {
    let mut bindings: Vec<&Binding> = bindings.iter().collect();
    bindings.sort_by_key(|binding| binding.endpoint.at);
    for (index, later) in bindings.iter().enumerate() {
        let quarrels = |first: &&&Binding| {
            first.transport == later.transport && clash(first.endpoint.value, later.endpoint.value)
        };
        let first = bindings[..index].iter().find(quarrels);
        let Some(first) = first else { continue };
        let message =
            format!("{} and {} want the same port {}", first.what, later.what, later.endpoint.value.port());
        problems.push(
            Diagnostic::error(later.endpoint.at, later.path.clone(), message)
                .label(format!(
                    "{} listens on {}; give one of them another port",
                    later.what, later.endpoint.value
                ))
                .other(first.endpoint.at, format!("{} listens on {}", first.what, first.endpoint.value)),
        );
    }
}

/// Whether two listeners cannot be bound side by side. Port 0 is any free one.
pub(crate) fn clash(a: SocketAddr, b: SocketAddr) -> bool {
    let covers = |one: IpAddr, other: IpAddr| match one {
        IpAddr::V4(one) => one.is_unspecified() && other.is_ipv4(),
        // A listener on [::] takes what comes over IPv4 as well, unless the system is told otherwise.
        IpAddr::V6(one) => one.is_unspecified(),
    };
    let (a_ip, b_ip) = (a.ip(), b.ip());
    a.port() != 0 && a.port() == b.port() && (a_ip == b_ip || covers(a_ip, b_ip) || covers(b_ip, a_ip))
}

/// Exporters that send to the very pipeline that feeds them: each batch would go round for ever.
fn loops(
    config: &Config,
    facts: &BTreeMap<(Kind, Id), PluginFacts>,
    bindings: &[Binding],
    problems: &Problems,
) {
    let mut told = BTreeSet::new();
    for (name, pipeline) in &config.pipelines {
        let feeds = |binding: &&Binding| {
            let feeds = pipeline.receivers.iter().any(|id| Some(&id.value) == binding.receiver.as_ref());
            feeds && binding.transport == Transport::Tcp
        };
        for id in &pipeline.exporters {
            let reached = destinations(config, facts, &id.value).into_iter().find_map(|to| {
                let binding =
                    bindings.iter().filter(feeds).find(|binding| reaches(&to.uri, binding.endpoint.value));
                binding.map(|binding| (to, binding))
            });
            let Some((to, binding)) = reached else { continue };
            if !told.insert(id.value.clone()) {
                continue;
            }
            let message = format!(
                "exporter `{}` sends to {}, which feeds its pipeline `{name}`",
                id.value, binding.what
            );
            let error = Diagnostic::error(to.at, to.path, message);
            problems.push(
                error
                    .label("expected the address of another process: each batch would go round for ever")
                    .other(
                        binding.endpoint.at,
                        format!("{} listens on {}", binding.what, binding.endpoint.value),
                    ),
            );
        }
    }
}

/// Where an exporter sends to, as far as its settings say.
struct Destination {
    uri: Uri,
    at: Location,
    path: String,
}

fn destinations(config: &Config, facts: &BTreeMap<(Kind, Id), PluginFacts>, id: &Id) -> Vec<Destination> {
    let Some(exporter) = config.exporters.get(id) else { return Vec::new() };
    match &exporter.value.kind {
        ExporterKind::Otlp(otlp) => {
            let (uri, at) = (otlp.endpoint.value.clone(), otlp.endpoint.at);
            vec![Destination { uri, at, path: format!("exporters.{id}.endpoint") }]
        }
        ExporterKind::Link(link) => {
            let (uri, at) = (link.endpoint.value.clone(), link.endpoint.at);
            vec![Destination { uri, at, path: format!("exporters.{id}.endpoint") }]
        }
        ExporterKind::Debug(_) => Vec::new(),
        ExporterKind::Plugin(plugin) => {
            let settings = &plugin.plugin.settings;
            let pointers = facts.get(&(Kind::Exporter, id.clone())).map(|facts| facts.egress.as_slice());
            let of = |pointer: &String| {
                let uri = settings.value.pointer(pointer)?.as_str()?.parse().ok()?;
                Some(Destination { uri, at: settings.locate(pointer), path: settings.path(pointer) })
            };
            pointers.unwrap_or_default().iter().filter_map(of).collect()
        }
    }
}

/// Whether a request to this address comes to this listener, as far as can be seen without asking a resolver.
fn reaches(to: &Uri, listener: SocketAddr) -> bool {
    let port = to.port_u16().unwrap_or(if to.scheme_str() == Some("https") { 443 } else { 80 });
    let host = to.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    let address = host.parse::<IpAddr>().ok();
    let is_loopback = host == "localhost" || address.is_some_and(|address| address.is_loopback());
    let same_host = match listener.ip() {
        own if Some(own) == address => true,
        own => is_loopback && (own.is_unspecified() || (own.is_loopback() && host == "localhost")),
    };
    port == listener.port() && same_host
}

// === sizes ===

/// Senders of a request that can never be paid for would be told to come again for ever.
fn requests(config: &mut Config, running: Option<&ServiceConfig>, problems: &Problems) {
    let wanted = config.service.memory.limit_bytes;
    let now = running.map_or(wanted, |running| running.memory.limit_bytes);
    let (memory, until) = if now < wanted { (now, UNTIL_START) } else { (wanted, "") };
    for (id, receiver) in &mut config.receivers {
        for (protocol, limits) in receiver.value.limits_mut() {
            let Some(at) = limits.request_at else {
                // Nobody asked for the default; whoever sends more is told so for good.
                limits.request_bytes_max = limits.request_bytes_max.min(large_bytes_max(now));
                continue;
            };
            let most = large_bytes_max(memory);
            if limits.request_bytes_max <= most {
                continue;
            }
            let path = match protocol {
                "" => format!("receivers.{id}.limits.request_mib"),
                protocol => format!("receivers.{id}.protocols.{protocol}.limits.request_mib"),
            };
            let (asked, most, memory) =
                (ShownBytes(limits.request_bytes_max), ShownBytes(most), ShownBytes(memory));
            let error = Diagnostic::error(at, path, format!("a request of {asked} can never be paid for"));
            problems.push(error.label(format!("expected at most {most}")).note(format!(
                "one request gets at most three eighths of `service.memory.limit_mib`, which is {memory}{until}"
            )));
        }
    }
}

/// What is said of a size that a process has, where its file says another.
const UNTIL_START: &str = " until the next start";

/// A budget that is not kept is no budget.
fn budget(config: &Config, running: Option<&ServiceConfig>, problems: &Problems) {
    let wanted = config.service.queue;
    let pipelines = config.pipelines.len().max(1) as u64;
    let is_short = |queue: &QueueConfig| {
        queue.storage == Storage::Disk && queue.budget_bytes / pipelines < BUDGET_BYTES_MIN
    };
    let held = running.map(|running| (running.queue, UNTIL_START));
    let mut queues = [(wanted, "")].into_iter().chain(held);
    let Some((queue, until)) = queues.find(|(queue, _)| is_short(queue)) else { return };
    let (asked, least) = (ShownBytes(queue.budget_bytes), ShownBytes(BUDGET_BYTES_MIN));
    let all = BUDGET_BYTES_MIN.saturating_mul(pipelines);
    let message = format!("the queues of {pipelines} pipelines cannot keep to {asked} together{until}");
    let error = Diagnostic::error(wanted.budget_at, "service.queue.budget_mib", message);
    problems.push(
        error
            .label(format!("expected at least {}", all >> 20))
            .note(format!("each pipeline's queue takes at least {least} of the disk")),
    );
}

// === files ===

fn files(config: &Config, problems: &Problems) {
    let there = |file: &Located<PathBuf>, path: String, expected: &str| {
        if !file.value.is_file() {
            let message = format!("there is no file {}", file.value.display());
            problems.push(Diagnostic::error(file.at, path, message).label(expected));
        }
    };
    let look = |file: &Located<PathBuf>, path: String| there(file, path, "expected a file in PEM form");
    if let Some(folder) = &config.service.plugin_dir
        && !folder.value.is_dir()
    {
        let message = format!("there is no folder {}", folder.value.display());
        let warning = Diagnostic::warning(folder.at, "service.plugin_dir", message);
        problems.push(warning.label("only the bundled plugins are there until it is made"));
    }
    for (id, receiver) in &config.receivers {
        let files = receiver.value.tls().into_iter().flat_map(|tls| tls.files());
        files.for_each(|file| look(file, format!("receivers.{id}")));
        if let ReceiverConfig::Plugin(PluginReceiver { scrape: Some(scrape), .. }) = &receiver.value {
            scrape
                .files()
                .for_each(|(file, expected)| there(file, format!("receivers.{id}.config"), expected));
        }
    }
    for (id, exporter) in &config.exporters {
        let files = exporter.value.tls().into_iter().flat_map(|tls| tls.files());
        let page = exporter.value.page().and_then(|page| page.client_ca_file.as_ref());
        files.chain(page).for_each(|file| look(file, format!("exporters.{id}.tls")));
        if let Some((key, file)) = exporter.value.auth().and_then(Auth::file) {
            there(
                file,
                format!("exporters.{id}.auth.{key}"),
                "expected a file with the credential alone in it",
            );
        }
    }
}

// === what `weir validate` prints ===

impl fmt::Display for Checked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Config { source, pipelines, service, .. } = &self.config;
        writeln!(f, "{} is valid", source.name)?;
        for (name, pipeline) in pipelines {
            self.pipeline(f, name, pipeline)?;
        }
        writeln!(f)?;
        let page = |listen: &Option<Listen>| match listen {
            Some(listen) => listen.endpoint.value.to_string(),
            None => "off".to_owned(),
        };
        let (metrics, health) = (page(&service.telemetry.metrics), page(&service.health));
        let events = service.events.as_ref().map(|endpoint| format!(", events {}", endpoint.value));
        writeln!(f, "metrics {metrics}, health {health}{}", events.unwrap_or_default())?;
        let (limit, budget) =
            (ShownBytes(service.memory.limit_bytes), ShownBytes(service.queue.budget_bytes));
        write!(f, "memory at most {limit}, queues at most {budget}")
    }
}

impl Checked {
    fn pipeline(
        &self,
        f: &mut fmt::Formatter<'_>,
        name: &PipelineId,
        pipeline: &PipelineConfig,
    ) -> fmt::Result {
        writeln!(f, "\npipeline {name}")?;
        let of = |ids: &[Located<Id>], line: &dyn Fn(&Id) -> String| -> Vec<String> {
            ids.iter().map(|id| line(&id.value)).collect()
        };
        column(f, "from", &of(&pipeline.receivers, &|id| self.receiver(id)))?;
        column(f, "with", &of(&pipeline.processors, &|id| self.processor(id)))?;
        column(f, "to", &of(&pipeline.exporters, &|id| self.exporter(id)))?;
        match self.config.service.queue.storage {
            Storage::Disk => {
                writeln!(f, "  acknowledges from disk: {}", self.config.service.data_dir.display())
            }
            Storage::Memory => {
                writeln!(f, "  acknowledges from memory: what was acknowledged is lost with the process")
            }
        }
    }

    fn receiver(&self, id: &Id) -> String {
        let Some(receiver) = self.config.receivers.get(id) else {
            return id.to_string();
        };
        let listens = receiver.value.listens();
        let listens = listens.into_iter().map(|(protocol, listen)| match protocol {
            "" => listen.endpoint.value.to_string(),
            protocol => format!("{protocol} {}", listen.endpoint.value),
        });
        let mut words: Vec<String> = listens.collect();
        let facts = self.plugins.get(&(Kind::Receiver, id.clone()));
        if let Some(facts) = facts {
            let several = facts.listens.len() > 1;
            words.extend(facts.listens.iter().map(|Listener { name, kind, address, .. }| {
                let name = if several { format!("{name} ") } else { String::new() };
                match Transport::of(*kind) {
                    Transport::Tcp => format!("{name}{address}"),
                    Transport::Udp => format!("{name}{address}/udp"),
                }
            }));
        }
        if let ReceiverConfig::Plugin(PluginReceiver { scrape: Some(scrape), .. }) = &receiver.value {
            words.push(scrape.to_string());
        }
        format!("{id} {}{}", words.join(", "), self.plugin(Kind::Receiver, id, receiver.value.plugin()))
    }

    fn processor(&self, id: &Id) -> String {
        let words = match self.config.processors.get(id).map(|processor| &processor.value) {
            Some(ProcessorConfig::Batch(BatchConfig { items, bytes, timeout })) => {
                format!("up to {items} items or {}, after {}", ShownBytes(*bytes), ShownDuration(*timeout))
            }
            Some(ProcessorConfig::Resource(ResourceConfig { attributes, detect, overwrite })) => {
                let over = if *overwrite { ", over what senders say" } else { "" };
                format!("adds up to {} attributes{over}", attributes.len() + detect.len())
            }
            None => String::new(),
        };
        format!("{id} {words}")
    }

    fn exporter(&self, id: &Id) -> String {
        let Some(exporter) = self.config.exporters.get(id) else {
            return id.to_string();
        };
        let words = match &exporter.value.kind {
            ExporterKind::Otlp(otlp) => format!("{id} {}", otlp.endpoint.value),
            ExporterKind::Link(link) => {
                let authority = link.endpoint.value.authority().map(ToString::to_string).unwrap_or_default();
                let plain =
                    if link.endpoint.value.scheme_str() == Some("http") { ", in plaintext" } else { "" };
                format!("{id} the collector {authority}{plain}")
            }
            ExporterKind::Debug(_) => format!("{id} to the log"),
            ExporterKind::Plugin(_) => {
                let facts = self.plugins.get(&(Kind::Exporter, id.clone()));
                let listens = facts.into_iter().flat_map(|facts| &facts.listens);
                let page: Vec<&str> = listens.map(|listener| listener.address.as_str()).collect();
                if page.is_empty() { id.to_string() } else { format!("{id} page on {}", page.join(", ")) }
            }
        };
        format!("{words}{}", self.plugin(Kind::Exporter, id, exporter.value.plugin()))
    }

    fn plugin(&self, kind: Kind, id: &Id, plugin: Option<&PluginConfig>) -> String {
        let facts = self.plugins.get(&(kind, id.clone()));
        match (plugin, facts) {
            (Some(plugin), Some(facts)) => format!(" (plugin {}, {})", plugin.plugin.value, facts.origin),
            (Some(_), None) | (None, _) => String::new(),
        }
    }
}

/// Lines under a word, the word on the first.
fn column(f: &mut fmt::Formatter<'_>, word: &str, lines: &[String]) -> fmt::Result {
    for (index, line) in lines.iter().enumerate() {
        writeln!(f, "  {:5} {}", if index == 0 { word } else { "" }, line.trim_end())?;
    }
    Ok(())
}
