//! Plugins as parts.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Context;
use rustix::fs::Access;
use tokio::runtime::Handle;
use weir_model::{Exporter, Ledger, PageServer};
use weir_net::client::Client;
use weir_net::roots::Trust;
use weir_plugin::load::Flaw;
use weir_plugin::{
    Grants, Host, HostSettings, Limits, ListenKind, Listener, LoadError, Loaded, Meter, Part, PluginCounts,
    PoolSettings, QuarantineSettings, SettingsError,
};

use super::Bench;
use super::exporters::{credential, trust};
use crate::bundled::BUNDLED;
use crate::command::Failure;
use crate::config::{
    Config, Digest, GrantsConfig, Id, Kind, PluginConfig, PluginExporter, PluginReceiver, PoolConfig,
    QuarantineConfig, Storage,
};
use crate::telemetry::metrics::PluginSource;
use crate::validate::{PluginCheck, PluginFacts, PluginProblem, SettingProblem};

/// The folder of compiled plugins in the data folder.
const CACHE_DIR: &str = "plugin-cache";

/// What becomes of compiled code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CompiledCode {
    /// It is kept for the next start; the folder is made.
    Kept,
    /// It is kept where the folder is there and is this user's. Who only looks makes no folder: one that root has made
    /// would keep the daemon's own user out.
    KeptIfThere,
}

impl CompiledCode {
    fn keeps(self, folder: PathBuf) -> Option<PathBuf> {
        let may_write = || rustix::fs::access(&folder, Access::WRITE_OK | Access::EXEC_OK).is_ok();
        let is_there = || super::pipelines::is_ours(&folder) && may_write();
        match self {
            Self::Kept => Some(folder),
            Self::KeptIfThere => is_there().then_some(folder),
        }
    }
}

/// Where compiled code is kept. A process that keeps nothing on disk keeps no compiled code either.
pub(crate) fn cache_dir(config: &Config) -> Option<PathBuf> {
    let on_disk = config.service.queue.storage == Storage::Disk;
    on_disk.then(|| config.service.data_dir.join(CACHE_DIR))
}

/// Plugins by name and pin.
type Shelf = BTreeMap<(String, Option<String>), Arc<Loaded>>;

/// The plugin host, and the plugins that were loaded to check a configuration, until the parts that it names are built.
#[derive(Clone)]
pub struct Plugins {
    host: Host,
    runtime: Handle,
    loaded: Arc<Mutex<Shelf>>,
}

impl Plugins {
    /// The plugin host of this configuration.
    ///
    /// # Errors
    /// Where the machine cannot run guests.
    pub fn new(
        config: &Config,
        ledger: Arc<Ledger>,
        client: Client,
        runtime: Handle,
        code: CompiledCode,
    ) -> Result<Self, Failure> {
        let settings = HostSettings {
            ledger,
            client,
            cache_dir: cache_dir(config).and_then(|folder| code.keeps(folder)),
            plugin_dir: config.service.plugin_dir.as_ref().map(|folder| folder.value.clone()),
            bundled: BUNDLED,
        };
        let host = Host::new(settings).context("start the plugin host")?;
        Ok(Self { host, runtime, loaded: Arc::default() })
    }

    /// The host.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// What is loaded anew says what it is within `limits`.
    async fn load(
        &self,
        name: &str,
        pin: Option<&Digest>,
        limits: &Limits,
    ) -> Result<Arc<Loaded>, LoadError> {
        let pin = pin.map(|digest| hex(digest));
        let key = (name.to_owned(), pin);
        let known = self.known().get(&key).map(Arc::clone);
        if let Some(loaded) = known.filter(|loaded| loaded.is_current()) {
            return Ok(loaded);
        }
        let loaded = self.host.load_within(name, key.1.as_deref(), limits).await?;
        self.known().insert(key, Arc::clone(&loaded));
        Ok(loaded)
    }

    /// A plugin that is loaded already, whatever was pinned; else it is loaded.
    fn by_name(&self, name: &str) -> Option<Arc<Loaded>> {
        let known =
            self.known().iter().find(|((known, _), _)| known == name).map(|(_, loaded)| Arc::clone(loaded));
        known.or_else(|| self.runtime.block_on(self.load(name, None, &Limits::default())).ok())
    }

    /// Forgets what was loaded for the parts that are built now: they hold their code themselves, and let it go when
    /// other code takes its place.
    pub(crate) fn forget(&self) {
        self.known().clear();
    }

    /// Looks at all plugin files now: what is new and good serves when this returns, what is not is told.
    ///
    /// # Cancel safety
    /// May be dropped: some parts may have the new code, others the one from before.
    pub async fn rescan(&self) {
        self.host.rescan().await;
    }

    fn known(&self) -> MutexGuard<'_, Shelf> {
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PluginCheck for Plugins {
    fn names(&self) -> Vec<String> {
        self.host
            .list()
            .map_or_else(|_| Vec::new(), |found| found.into_iter().map(|found| found.name).collect())
    }

    fn find(
        &self,
        plugin: &str,
        kind: Kind,
        sha256: Option<&Digest>,
        limits: &Limits,
    ) -> Result<PluginFacts, PluginProblem> {
        let loaded = self.runtime.block_on(self.load(plugin, sha256, limits));
        let loaded = loaded.map_err(|error| problem(plugin, &error))?;
        let interfaces = interfaces(kind);
        if kind == Kind::Processor || !interfaces.iter().any(|name| loaded.scan.has(name)) {
            let reason = format!("it does not export {}", interfaces.join(" or "));
            return Err(PluginProblem::Unusable { origin: loaded.source.to_string(), reason });
        }
        Ok(PluginFacts {
            origin: loaded.source.to_string(),
            signals: loaded.descriptor.signals.clone(),
            listens: Vec::new(),
            egress: Vec::new(),
            fetches: loaded.scan.has("scraper"),
        })
    }

    fn listeners(&self, plugin: &str, kind: Kind, settings: &serde_json::Value) -> Vec<Listener> {
        let Some(loaded) = self.by_name(plugin) else { return Vec::new() };
        let mut listeners = match kind {
            Kind::Exporter => page_listeners(&loaded, settings),
            Kind::Receiver | Kind::Processor => loaded.listeners(settings),
        };
        for listener in listeners.iter_mut().filter(|listener| listener.pointer.is_empty()) {
            let mark = loaded.marks.listen.iter().find(|mark| mark.name() == listener.name);
            listener.pointer = mark.and_then(|mark| mark.pointer()).unwrap_or_default();
        }
        listeners
    }

    fn egress(&self, plugin: &str, settings: &serde_json::Value) -> Vec<String> {
        self.by_name(plugin).map(|loaded| loaded.marks.destinations(settings)).unwrap_or_default()
    }

    fn check(
        &self,
        plugin: &str,
        _: Kind,
        settings: &serde_json::Value,
        limits: &Limits,
    ) -> Result<(), Vec<SettingProblem>> {
        // A plugin that cannot be loaded has been told by `find`.
        let Some(loaded) = self.by_name(plugin) else { return Ok(()) };
        let errors = self.runtime.block_on(loaded.check_settings(settings, limits));
        let problem = |error: SettingsError| SettingProblem {
            pointer: error.pointer,
            message: error.message,
            expected: String::new(),
            known: Vec::new(),
        };
        match errors.is_empty() {
            true => Ok(()),
            false => Err(errors.into_iter().map(problem).collect()),
        }
    }

    fn secrets(&self, plugin: &str, settings: &serde_json::Value) -> Vec<String> {
        self.by_name(plugin).map(|loaded| loaded.marks.hidden(settings)).unwrap_or_default()
    }

    fn schema(&self, plugin: &str, _: Kind) -> Option<serde_json::Value> {
        self.by_name(plugin).map(|loaded| loaded.descriptor.settings_schema.clone())
    }
}

/// The interfaces of the contract of which a part of this kind has at least one. There is none for processors yet.
fn interfaces(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::Receiver => &["http-receiver", "grpc-receiver", "datagram-receiver", "scraper"],
        Kind::Exporter => &["exporter", "page"],
        Kind::Processor => &["processor"],
    }
}

fn problem(plugin: &str, error: &LoadError) -> PluginProblem {
    match &error.flaw {
        Flaw::NotFound { .. } => {
            let folder = std::path::Path::new(&error.place);
            let file = match folder.is_absolute() || folder.is_dir() {
                true => folder.join(format!("{plugin}.wasm")).display().to_string(),
                false => format!("{plugin}.wasm (no `service: {{plugin_dir: …}}` is set)"),
            };
            PluginProblem::Absent { looked: vec![file, format!("{plugin} among the bundled plugins")] }
        }
        Flaw::Pin { found, .. } => {
            PluginProblem::Digest { origin: error.place.clone(), found: *found.bytes() }
        }
        flaw => PluginProblem::Unusable { origin: error.place.clone(), reason: weir_model::explain(flaw) },
    }
}

/// An exporter that a plugin is.
pub(crate) struct BuiltPlugin {
    pub(crate) exporter: Arc<dyn Exporter>,
    /// Where it is fetched from, if it is.
    pub(crate) page: Option<BuiltPage>,
    /// What is shown of it.
    pub(crate) figures: PluginSource,
}

/// What serves a page, and the addresses that it wants bound.
#[derive(Clone)]
pub(crate) struct BuiltPage {
    pub(crate) server: Arc<dyn PageServer>,
    pub(crate) listeners: Vec<Listener>,
}

/// Builds an exporter out of a plugin: one that is fetched from, where it can be that and has an address for it.
pub(crate) async fn exporter(
    bench: &Bench<'_>,
    id: &Id,
    exporter: &PluginExporter,
    pool: PoolConfig,
) -> Result<BuiltPlugin, Failure> {
    let loaded = load(bench, id, &exporter.plugin).await?;
    let mut part = part(id, &exporter.plugin, pool);
    let listeners = page_listeners(&loaded, &exporter.plugin.settings.value);
    if listeners.is_empty() && !loaded.scan.has("exporter") {
        let name = &exporter.plugin.plugin.value;
        let what =
            format!("exporter {id}: no setting of plugin {name} names an HTTP address to be fetched from");
        return Err(anyhow::anyhow!(what).into());
    }
    if listeners.is_empty() {
        let trust = trust(&exporter.tls);
        part.trust = (trust != Trust::default()).then_some(trust);
        part.authorization = exporter.auth.as_ref().map(|auth| credential(id, auth)).transpose()?;
        let built = loaded.exporter(part).with_context(|| format!("build exporter {id}"))?;
        let figures = shown(id, Kind::Exporter, built.counts(), built.meter());
        return Ok(BuiltPlugin { exporter: built, page: None, figures });
    }
    let built = loaded.page(part).with_context(|| format!("build exporter {id}"))?;
    let figures = shown(id, Kind::Exporter, built.counts(), built.meter());
    let server = Arc::clone(&built) as Arc<dyn PageServer>;
    Ok(BuiltPlugin { exporter: built, page: Some(BuiltPage { server, listeners }), figures })
}

/// The addresses that a receiver's plugin wants bound.
pub(crate) async fn listeners(
    bench: &Bench<'_>,
    id: &Id,
    plugin: &PluginConfig,
) -> Result<Vec<Listener>, Failure> {
    let loaded = load(bench, id, plugin).await?;
    Ok(loaded.listeners(&plugin.settings.value))
}

/// The addresses of an exporter's page. One that is no page listens nowhere, whatever it could do as a receiver.
fn page_listeners(loaded: &Loaded, settings: &serde_json::Value) -> Vec<Listener> {
    let listeners = if loaded.scan.has("page") { loaded.listeners(settings) } else { Vec::new() };
    listeners.into_iter().filter(|listener| listener.kind == ListenKind::Http).collect()
}

/// Builds a receiver out of a plugin, with the addresses that it wants bound, and what is shown of it.
pub(crate) async fn receiver(
    bench: &Bench<'_>,
    id: &Id,
    receiver: &PluginReceiver,
) -> Result<(Arc<weir_plugin::PluginReceiver>, Vec<Listener>, PluginSource), Failure> {
    let plugin = &receiver.plugin;
    let loaded = load(bench, id, plugin).await?;
    let listeners = loaded.listeners(&plugin.settings.value);
    if listeners.is_empty() {
        let name = &plugin.plugin.value;
        return Err(anyhow::anyhow!(
            "receiver {id}: no setting of plugin {name} names an address to listen on"
        )
        .into());
    }
    let part = part(id, plugin, receiver.pool);
    let built = loaded.receiver(part).with_context(|| format!("build receiver {id}"))?;
    let shown = shown(id, Kind::Receiver, built.counts(), built.meter());
    Ok((built, listeners, shown))
}

/// Builds the reader of a receiver that fetches, which says nothing with one of `unsaid` in it, and what is shown of it.
pub(crate) async fn scraper(
    bench: &Bench<'_>,
    id: &Id,
    receiver: &PluginReceiver,
    unsaid: Vec<String>,
) -> Result<(Arc<weir_plugin::PluginScraper>, PluginSource), Failure> {
    let loaded = load(bench, id, &receiver.plugin).await?;
    let part = Part { unsaid, ..part(id, &receiver.plugin, receiver.pool) };
    let built = loaded.scraper(part).with_context(|| format!("build receiver {id}"))?;
    let shown = shown(id, Kind::Receiver, built.counts(), built.meter());
    Ok((built, shown))
}

async fn load(bench: &Bench<'_>, id: &Id, plugin: &PluginConfig) -> Result<Arc<Loaded>, Failure> {
    let pin = plugin.sha256.as_ref().map(|digest| &digest.value);
    let loaded = bench.plugins.load(&plugin.plugin.value, pin, &plugin.limits.guest()).await;
    Ok(loaded.with_context(|| format!("load the plugin of {id}"))?)
}

fn part(id: &Id, plugin: &PluginConfig, pool: PoolConfig) -> Part {
    let QuarantineConfig { ends, window, first, longest } = plugin.quarantine;
    let PoolConfig { instances, calls, age } = pool;
    let usual = PoolSettings::default();
    Part {
        grants: grants(&plugin.grants),
        limits: plugin.limits.guest(),
        pool: PoolSettings {
            instances: instances.unwrap_or(usual.instances),
            calls_max: calls.unwrap_or(usual.calls_max),
            age_max: age.unwrap_or(usual.age_max),
        },
        quarantine: QuarantineSettings { ends_max: ends, window, first, longest },
        ..Part::new(id.to_string(), plugin.settings.value.clone())
    }
}

/// What the operator grants beside the URLs in the settings.
pub(crate) fn grants(config: &GrantsConfig) -> Grants {
    let GrantsConfig { egress, private_networks } = config;
    Grants {
        egress: egress.iter().map(|origin| origin.value.clone()).collect(),
        private_networks: *private_networks,
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The figures of a part, which go where it goes: what was built and not taken shows none.
fn shown(id: &Id, kind: Kind, counts: &PluginCounts, meter: &Meter) -> PluginSource {
    PluginSource { kind: kind.noun(), id: id.to_string(), counts: counts.clone(), meter: meter.clone() }
}
