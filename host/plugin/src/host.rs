//! The plugin host as the daemon sees it.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use serde_json::Value;
use tracing::{info, warn};
use wasmtime::component::Linker;
use weir_model::Ledger;
use weir_net::address::Egress;
use weir_net::client::{Client, Outlet};
use weir_net::client_tls::ClientTls;
use weir_net::credential::Credential;
use weir_net::roots::{RootsError, Trust};

use crate::as_exporter::PluginExporter;
use crate::as_page::PluginPage;
use crate::as_receiver::PluginReceiver;
use crate::as_scraper::PluginScraper;
use crate::cache::Cache;
use crate::counts::PluginCounts;
use crate::describe::{Listener, SettingsError};
use crate::end::{End, EndKind, Renders};
use crate::engine::GuestEngine;
use crate::grant::{self, Authorization, Grants, Powers, Secrets};
use crate::guest::{Guest, Identity};
use crate::instance::{Instance, Mold};
use crate::limits::Limits;
use crate::load::{self, Bundled, Codes, Compiled, Flaw, Found, LoadError, Loaded, Source, Wasm};
use crate::meter::Meter;
use crate::pool::{Pool, PoolSettings, Tasks};
use crate::quarantine::QuarantineSettings;
use crate::schema::Schema;
use crate::slot::{Released, Slot, SlotView};
use crate::under_way::PageRoom;
use crate::wanted::Wanted;
use crate::watch::Watch;

/// What the host needs from the process.
pub struct HostSettings {
    /// Pays for guests' memory.
    pub ledger: Arc<Ledger>,
    /// Sends guests' requests.
    pub client: Client,
    /// Where compiled code is kept; without one, plugins are compiled at every start.
    pub cache_dir: Option<PathBuf>,
    /// Where an operator drops plugins.
    pub plugin_dir: Option<PathBuf>,
    /// Plugins that are part of the program.
    pub bundled: &'static [Bundled],
}

/// The plugin host. Cloning shares it.
#[derive(Clone)]
pub struct Host {
    pub(crate) shared: Arc<Shared>,
}

/// What all plugins of a host have in common.
pub(crate) struct Shared {
    pub(crate) engine: GuestEngine,
    pub(crate) cache: Option<Cache>,
    ledger: Arc<Ledger>,
    /// What pages may hold of it.
    room: Arc<PageRoom>,
    client: Client,
    pub(crate) plugin_dir: Option<PathBuf>,
    pub(crate) bundled: &'static [Bundled],
    /// Code that is in use.
    pub(crate) codes: Codes,
    /// Every id that is made of a plugin, while it lives.
    slots: Mutex<Vec<Weak<Slot>>>,
    /// Whoever has it compiles: a compiler keeps all cores busy, and needs hundreds of MB for a large component.
    compiler: tokio::sync::Mutex<()>,
    /// What was seen in the plugin folder; whoever has it is the only one who looks.
    pub(crate) watch: tokio::sync::Mutex<Watch>,
    plain: Linker<Guest>,
    /// Made for the first plugin that needs a WASI; bundled ones do not.
    wasi: OnceLock<Linker<Guest>>,
    tasks: Tasks,
}

/// The host cannot run plugins on this machine.
#[derive(Debug, thiserror::Error)]
#[error("start the plugin engine: {0}")]
pub struct HostError(String);

/// Everything about one configured id that is made of a plugin.
#[derive(Clone)]
pub struct Part {
    /// The configured id, `type[/name]`.
    pub id: String,
    /// What the operator wrote for the plugin.
    pub settings: Value,
    /// What the operator grants beside the URLs in the settings.
    pub grants: Grants,
    /// Of each instance.
    pub limits: Limits,
    /// How many instances.
    pub pool: PoolSettings,
    /// When it is kept from work.
    pub quarantine: QuarantineSettings,
    /// Whom its requests trust, and what they show (`tls:`); none for the process's own trust.
    pub trust: Option<Trust>,
    /// The `authorization` header of its requests to origins that stand in its settings (`auth:`); the guest neither sees nor
    /// sets it.
    pub authorization: Option<Credential>,
    /// What nothing that the guest says may show, beside its secret settings: texts that the host puts into its URLs or sends for it.
    pub unsaid: Vec<String>,
}

/// Settings hold secrets, so they are not shown.
impl std::fmt::Debug for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { id, settings: _, grants, limits, pool, quarantine, trust, authorization: _, unsaid: _ } =
            self;
        let mut part = f.debug_struct("Part");
        part.field("id", id)
            .field("grants", grants)
            .field("limits", limits)
            .field("pool", pool)
            .field("quarantine", quarantine)
            .field("trust", trust);
        part.finish_non_exhaustive()
    }
}

impl Part {
    /// A part with default grants, limits and pool.
    pub fn new(id: impl Into<String>, settings: Value) -> Self {
        Self {
            id: id.into(),
            settings,
            grants: Grants::default(),
            limits: Limits::default(),
            pool: PoolSettings::default(),
            quarantine: QuarantineSettings::default(),
            trust: None,
            authorization: None,
            unsaid: Vec::new(),
        }
    }
}

/// A plugin cannot be what the configuration wants it to be.
#[derive(Debug, thiserror::Error)]
pub enum PartError {
    /// It is something else.
    #[error("plugin {plugin} is no {wanted}; it exports {found}")]
    Interface {
        /// Its name.
        plugin: String,
        /// The missing interface.
        wanted: &'static str,
        /// What it exports.
        found: String,
    },
    /// It is to receive, and no setting of it names an address.
    #[error("no setting of plugin {plugin} names an address to listen on for {id}")]
    Nowhere {
        /// Its name.
        plugin: String,
        /// The configured id.
        id: String,
    },
    /// URLs to reach are none, or too many.
    #[error("settings of {id}: {}", first(errors))]
    Settings {
        /// The configured id.
        id: String,
        /// All of them.
        errors: Vec<SettingsError>,
    },
    /// The trusted roots cannot be read.
    #[error(transparent)]
    Trust(#[from] RootsError),
    /// The operating system has no random bytes for the tokens of secrets.
    #[error("draw tokens for secrets: {0}")]
    Random(getrandom::Error),
}

/// Nobody can say whether a plugin takes settings.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unsettled {
    /// It ended while it looked at them.
    #[error(transparent)]
    Ended(#[from] End),
    /// As [`PartError::Random`].
    #[error("draw tokens for secrets: {0}")]
    Random(getrandom::Error),
}

impl Unsettled {
    /// Whether the same plugin may say it later.
    pub(crate) fn passes(&self) -> bool {
        match self {
            Self::Ended(end) => end.passes(),
            Self::Random(_) => true,
        }
    }
}

impl PartError {
    /// Whether the same plugin may be it later.
    pub(crate) fn passes(&self) -> bool {
        match self {
            Self::Interface { .. } | Self::Nowhere { .. } | Self::Settings { .. } => false,
            // What the system gives and files hold.
            Self::Trust(_) | Self::Random(_) => true,
        }
    }
}

fn first(errors: &[SettingsError]) -> String {
    errors.first().map(|error| format!("{}: {}", error.pointer, error.message)).unwrap_or_default()
}

impl Host {
    /// Starts the engine. A cache that cannot be used is a warning: plugins are then compiled at every start.
    ///
    /// # Errors
    /// [`HostError`] where the machine cannot run guests.
    pub fn new(settings: HostSettings) -> Result<Self, HostError> {
        let HostSettings { ledger, client, cache_dir, plugin_dir, bundled } = settings;
        let failed = |error: wasmtime::Error| HostError(format!("{error:#}"));
        let engine = GuestEngine::new().map_err(failed)?;
        let mut plain = Linker::new(engine.engine());
        Guest::link(&mut plain, false).map_err(failed)?;
        let cache = cache_dir.and_then(|folder| match Cache::open(&folder) {
            Ok(cache) => Some(cache),
            Err(error) => {
                warn!(path = %folder.display(), %error, "no cache for compiled plugins, compiling at every start");
                None
            }
        });
        let (wasi, tasks) = (OnceLock::new(), Tasks::default());
        let room = PageRoom::new(ledger.limit());
        Ok(Self {
            shared: Arc::new(Shared {
                engine,
                cache,
                ledger,
                room,
                client,
                plugin_dir,
                bundled,
                codes: Codes::default(),
                slots: Mutex::default(),
                compiler: tokio::sync::Mutex::default(),
                watch: tokio::sync::Mutex::default(),
                plain,
                wasi,
                tasks,
            }),
        })
    }

    /// Looks for a plugin: a file `name.wasm` in the plugin folder, else a bundled one.
    ///
    /// # Errors
    /// [`LoadError`] where there is none.
    pub fn find(&self, name: &str) -> Result<Found, LoadError> {
        let folder = self.shared.plugin_dir.as_deref();
        load::find(folder, self.shared.bundled, name).map_err(|flaw| {
            let place =
                folder.map_or_else(|| "no plugin folder".to_owned(), |folder| folder.display().to_string());
            LoadError { plugin: name.to_owned(), place, flaw }
        })
    }

    /// Every id that is made of a plugin, as it stands now, in the order of kinds and names.
    pub fn slots(&self) -> Vec<SlotView> {
        let mut views: Vec<SlotView> = self.live_slots().iter().map(|slot| slot.view()).collect();
        views.sort_by(|a, b| (a.wanted, &a.id).cmp(&(b.wanted, &b.id)));
        views
    }

    /// How many plugins have their code in memory: each once, whatever the number of its ids, and while one of them
    /// or a call uses it.
    pub fn codes_in_memory(&self) -> usize {
        self.shared.codes.count()
    }

    /// Gives an id fresh instances of the code that it has, and forgets what was held against it.
    pub fn release(&self, wanted: Wanted, id: &str) -> Released {
        let slots = self.live_slots();
        // After a reload an id may for a moment be there twice; both are meant.
        let meant = slots.iter().filter(|slot| slot.is(wanted, id));
        meant.map(|slot| slot.release()).max().unwrap_or(Released::Nothing)
    }

    pub(crate) fn live_slots(&self) -> Vec<Arc<Slot>> {
        self.shared.slots().iter().filter_map(Weak::upgrade).collect()
    }

    /// Every plugin of the folder and of the program, by name.
    ///
    /// # Errors
    /// Where the folder cannot be read.
    pub fn list(&self) -> std::io::Result<Vec<Found>> {
        load::list(self.shared.plugin_dir.as_deref(), self.shared.bundled)
    }

    /// As [`Host::load_within`], with default limits.
    ///
    /// # Errors
    /// [`LoadError`].
    pub async fn load(&self, name: &str, sha256: Option<&str>) -> Result<Arc<Loaded>, LoadError> {
        self.load_within(name, sha256, &Limits::default()).await
    }

    /// Loads a plugin by name: finds, checks, compiles or takes from the cache, and asks it what it is. It says so within
    /// `limits`: those of the ids that will be made of it.
    ///
    /// # Errors
    /// [`LoadError`].
    pub async fn load_within(
        &self,
        name: &str,
        sha256: Option<&str>,
        limits: &Limits,
    ) -> Result<Arc<Loaded>, LoadError> {
        let found = self.find(name)?;
        if found.shadows {
            info!(plugin = name, source = %found.source, "a file stands in front of the bundled plugin");
        }
        self.load_found(found, sha256, limits).await
    }

    /// Loads a file that need not lie in the plugin folder (`weir plugin inspect FILE`).
    ///
    /// # Errors
    /// [`LoadError`].
    pub async fn load_file(&self, path: &Path) -> Result<Arc<Loaded>, LoadError> {
        let name = path.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned());
        let found = Found { name, source: Source::File(path.to_owned()), shadows: false };
        self.load_found(found, None, &Limits::by_hand()).await
    }

    pub(crate) async fn load_found(
        &self,
        found: Found,
        sha256: Option<&str>,
        limits: &Limits,
    ) -> Result<Arc<Loaded>, LoadError> {
        let wasm = self.read(&found).await?;
        self.load_read(found, wasm, sha256, limits).await
    }

    /// Reading blocks for as long as a disk needs.
    pub(crate) async fn read(&self, found: &Found) -> Result<Wasm, LoadError> {
        let (bundled, name, source) = (self.shared.bundled, found.name.clone(), found.source.clone());
        let reading = tokio::task::spawn_blocking(move || Wasm::read(&source, bundled, &name));
        let read =
            reading.await.unwrap_or_else(|error| Err(Flaw::Engine(format!("the reader gave up: {error}"))));
        read.map_err(|flaw| found.flawed(flaw))
    }

    /// Checks, compiles or takes from the cache, and asks the plugin what it is.
    pub(crate) async fn load_read(
        &self,
        found: Found,
        wasm: Wasm,
        sha256: Option<&str>,
        limits: &Limits,
    ) -> Result<Arc<Loaded>, LoadError> {
        let (look, pinned) = (wasm.look, sha256.map(str::to_owned));
        let failed = |flaw| found.flawed(flaw);
        let compiled = self.compile(&found.name, wasm, pinned.clone()).await.map_err(failed)?;
        let descriptor = self.shared.describe(&found.name, &compiled, limits).await.map_err(failed)?;
        let (descriptor, marks, schema) = Schema::read(descriptor).await.map_err(failed)?;
        let Compiled { digest, bytes, scan, blueprint } = compiled;
        let Found { name, source, shadows } = found;
        Ok(Arc::new(Loaded {
            shared: Arc::clone(&self.shared),
            blueprint,
            schema,
            name,
            source,
            shadows,
            look,
            pinned,
            digest,
            bytes,
            descriptor,
            marks,
            scan,
        }))
    }

    /// Bytes of the compiled code that is kept of a component, and when they were written; none where nothing is kept.
    pub(crate) fn compiled_stamp(&self, digest: &load::Digest) -> Option<(u64, std::time::SystemTime)> {
        self.shared.cache.as_ref()?.stamp(self.shared.engine.engine(), digest)
    }

    pub(crate) fn bundled(&self) -> &'static [Bundled] {
        self.shared.bundled
    }

    /// Compiling blocks for long, so it has a thread of its own.
    async fn compile(&self, name: &str, wasm: Wasm, pinned: Option<String>) -> Result<Compiled, Flaw> {
        let (shared, name) = (Arc::clone(&self.shared), name.to_owned());
        let _alone = self.shared.compiler.lock().await;
        let compiling =
            tokio::task::spawn_blocking(move || load::compile(&shared, &name, &wasm, pinned.as_deref()));
        compiling.await.unwrap_or_else(|error| Err(Flaw::Engine(format!("the compiler gave up: {error}"))))
    }

    /// Waits for calls that nobody waits for any more. Each ends within its call deadline.
    ///
    /// # Cancel safety
    /// May be dropped.
    pub async fn drain(&self) {
        self.shared.tasks.drain().await;
    }
}

impl Found {
    fn flawed(&self, flaw: Flaw) -> LoadError {
        LoadError { plugin: self.name.clone(), place: self.source.to_string(), flaw }
    }
}

impl Shared {
    fn slots(&self) -> MutexGuard<'_, Vec<Weak<Slot>>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn linker(&self, wasi: bool) -> wasmtime::Result<&Linker<Guest>> {
        if !wasi {
            return Ok(&self.plain);
        }
        if let Some(linker) = self.wasi.get() {
            return Ok(linker);
        }
        let mut linker = Linker::new(self.engine.engine());
        Guest::link(&mut linker, true)?;
        Ok(self.wasi.get_or_init(|| linker))
    }

    async fn describe(
        self: &Arc<Self>,
        name: &str,
        compiled: &Compiled,
        limits: &Limits,
    ) -> Result<crate::describe::Descriptor, Flaw> {
        let mold =
            self.mold(&compiled.blueprint, identity(name, name, ""), Powers::none(), limits.of_check());
        let described = async { Instance::new(&mold).await?.describe().await };
        Ok(described.await.map_err(|end| told_of_check(end, limits))??)
    }

    fn mold(
        self: &Arc<Self>,
        blueprint: &Arc<crate::instance::Blueprint>,
        identity: Identity,
        powers: Powers,
        limits: Limits,
    ) -> Mold {
        Mold {
            engine: self.engine.clone(),
            ledger: Arc::clone(&self.ledger),
            blueprint: Arc::clone(blueprint),
            identity,
            powers,
            limits,
            idlers: self.tasks.idlers(),
        }
    }
}

/// The deadline of a check is none that an operator has written: says where it comes from.
fn told_of_check(mut end: End, limits: &Limits) -> End {
    if end.kind == EndKind::CallDeadline && limits.of_check() != *limits {
        end.message.push_str("; to be checked it has three times limits.cpu_deadline, at least 10s");
    }
    end
}

/// Of an instance that belongs to no id.
fn identity(id: &str, plugin: &str, version: &str) -> Identity {
    Identity {
        id: id.into(),
        plugin: plugin.into(),
        version: version.into(),
        counts: PluginCounts::default(),
        meter: Meter::default(),
        renders: Renders::default(),
    }
}

// === impl Loaded ===

impl Loaded {
    /// Checks an operator's settings: against the schema, then by the plugin's own `configure` in a throw-away
    /// instance without powers, within the limits of the id that has them. Empty: they are good.
    pub async fn check_settings(&self, settings: &Value, limits: &Limits) -> Vec<SettingsError> {
        self.settle(settings, limits).await.unwrap_or_else(|unsettled| {
            vec![SettingsError { pointer: String::new(), message: unsettled.to_string() }]
        })
    }

    /// As [`Loaded::check_settings`].
    ///
    /// # Errors
    /// [`Unsettled`]: the settings could not be checked to the end.
    pub(crate) async fn settle(
        &self,
        settings: &Value,
        limits: &Limits,
    ) -> Result<Vec<SettingsError>, Unsettled> {
        let errors = self.schema.check(&self.marks, settings);
        if !errors.is_empty() {
            return Ok(errors);
        }
        let mut seen = settings.clone();
        Secrets::hide(&self.marks, &mut seen).map_err(Unsettled::Random)?;
        let identity = identity(&self.name, &self.name, &self.descriptor.version);
        let mold = self.shared.mold(&self.blueprint, identity, Powers::none(), limits.of_check());
        let configured = async { Instance::new(&mold).await?.configure(&seen.to_string()).await };
        let configured = configured.await.map_err(|end| told_of_check(end, limits))?;
        Ok(configured.err().unwrap_or_default())
    }

    /// The addresses that the host must bind for these settings.
    pub fn listeners(&self, settings: &Value) -> Vec<Listener> {
        self.marks.listeners(settings)
    }

    /// An exporter out of this plugin. Settings must have passed [`Loaded::check_settings`].
    ///
    /// While it lives, the file of the plugin is followed (see [`Host::watch`]).
    ///
    /// # Errors
    /// [`PartError`].
    pub fn exporter(self: &Arc<Self>, part: Part) -> Result<Arc<PluginExporter>, PartError> {
        Ok(Arc::new(PluginExporter { slot: self.slot(Wanted::Exporter, part)? }))
    }

    /// An exporter that is fetched from, out of this plugin: one instance, which remembers. Settings must have passed
    /// [`Loaded::check_settings`].
    ///
    /// While it lives, the file of the plugin is followed (see [`Host::watch`]).
    ///
    /// # Errors
    /// [`PartError`].
    pub fn page(self: &Arc<Self>, part: Part) -> Result<Arc<PluginPage>, PartError> {
        let (ledger, room) = (Arc::clone(&self.shared.ledger), Arc::clone(&self.shared.room));
        Ok(Arc::new(PluginPage { slot: self.slot(Wanted::Page, part)?, ledger, room }))
    }

    /// A receiver out of this plugin, for what arrives at the addresses in its settings: it must have the interface of
    /// each ([`Loaded::listeners`]). Settings must have passed [`Loaded::check_settings`].
    ///
    /// While it lives, the file of the plugin is followed (see [`Host::watch`]).
    ///
    /// # Errors
    /// [`PartError`].
    pub fn receiver(self: &Arc<Self>, part: Part) -> Result<Arc<PluginReceiver>, PartError> {
        Ok(Arc::new(PluginReceiver { slot: self.slot(Wanted::Receiver, part)? }))
    }

    /// A reader of what targets answer out of this plugin: one instance, which remembers. Settings must have passed
    /// [`Loaded::check_settings`].
    ///
    /// While it lives, the file of the plugin is followed (see [`Host::watch`]).
    ///
    /// # Errors
    /// [`PartError`].
    pub fn scraper(self: &Arc<Self>, part: Part) -> Result<Arc<PluginScraper>, PartError> {
        Ok(Arc::new(PluginScraper { slot: self.slot(Wanted::Scraper, part)? }))
    }

    fn slot(self: &Arc<Self>, wanted: Wanted, part: Part) -> Result<Arc<Slot>, PartError> {
        let slot = Slot::new(Arc::clone(self), wanted, part)?;
        let mut slots = self.shared.slots();
        slots.retain(|slot| slot.strong_count() > 0);
        slots.push(Arc::downgrade(&slot));
        Ok(slot)
    }

    pub(crate) fn must_have(&self, wanted: &'static str) -> Result<(), PartError> {
        if self.scan.has(wanted) {
            return Ok(());
        }
        Err(PartError::Interface { plugin: self.name.clone(), wanted, found: self.scan.exports.join(", ") })
    }

    /// Instances for an id; what it has counted so far goes on.
    pub(crate) fn pool(
        &self,
        wanted: Wanted,
        part: Part,
        counts: PluginCounts,
        meter: Meter,
    ) -> Result<Arc<Pool>, PartError> {
        let egress = self.outlet(wanted, &part)?;
        let Part { id, mut settings, grants: _, limits, pool, quarantine, trust: _, authorization, unsaid } =
            part;
        let authorization = authorization.map(|said| Authorization::new(said, &id, &self.marks, &settings));
        let mut secrets = Secrets::hide(&self.marks, &mut settings).map_err(PartError::Random)?;
        secrets.conceal(&unsaid);
        let powers = Powers { egress, secrets, authorization, log: true };
        let identity = Identity { counts, meter, ..identity(&id, &self.name, &self.descriptor.version) };
        let mold = self.shared.mold(&self.blueprint, identity, powers, limits);
        let (settings, tasks) = (settings.to_string(), self.shared.tasks.clone());
        Ok(if wanted.is_pinned() {
            Pool::pinned(mold, settings, quarantine, tasks)
        } else {
            Pool::new(mold, settings, &pool, quarantine, tasks)
        })
    }

    /// Where an id may send. One that remembers sends nowhere: all else that it does would wait for that.
    pub(crate) fn egress(&self, wanted: Wanted, part: &Part) -> Result<Egress, PartError> {
        if wanted.is_pinned() {
            return Ok(Egress::default());
        }
        let Part { id, settings, grants, .. } = part;
        grant::egress(&self.marks, settings, grants).map_err(|errors| PartError::Settings {
            id: id.to_owned(),
            errors: errors.into_iter().map(|(pointer, message)| SettingsError { pointer, message }).collect(),
        })
    }

    /// The client with this id's grant; none where nothing is granted.
    fn outlet(&self, wanted: Wanted, part: &Part) -> Result<Option<Outlet>, PartError> {
        let egress = self.egress(wanted, part)?;
        if egress.origins().is_empty() {
            return Ok(None);
        }
        Ok(Some(match &part.trust {
            Some(trust) => self.shared.client.outlet_with(egress, ClientTls::load(trust.clone())?),
            None => self.shared.client.outlet(egress)?,
        }))
    }
}
