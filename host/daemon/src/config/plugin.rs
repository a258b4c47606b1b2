//! Keys that are the host's for every plugin, and the plugin's own settings with the place of each.

use std::fmt;
use std::time::Duration;

use serde_json::Value as Json;
use weir_net::address::Origin;
use weir_plugin::Limits;

use super::id::{WORD, is_word};
use super::location::{Located, Location};
use super::section::{Field, Hints, MIB, Section, describe, join};
use super::tree::{Entry, Node, Scalar, Value};
use super::veil::bears_secret;
use super::{Id, Kind};

/// The SHA-256 of a component's file.
pub type Digest = [u8; 32];

/// Which plugin serves an id, and what it may do.
#[derive(Debug, Clone, PartialEq)]
pub struct PluginConfig {
    /// `plugin`: the plugin's name, which is its file's without `.wasm`. Without the key it is the id's type with
    /// `-receiver` or `-exporter`, `otlp-exporter` for `otlphttp`; its place is then the id's.
    pub plugin: Located<String>,
    /// Whether the user wrote `plugin:`.
    pub is_named: bool,
    /// `sha256`: the file must have this digest.
    pub sha256: Option<Located<Digest>>,
    /// `grants`: what the plugin may reach besides the URLs in its settings.
    pub grants: GrantsConfig,
    /// `settings`, or what stands directly under the id.
    pub settings: Settings,
    /// `limits`: what an instance may use up.
    pub limits: GuestLimits,
    /// `quarantine`: when the plugin is kept from work.
    pub quarantine: QuarantineConfig,
}

impl PluginConfig {
    /// A bundled plugin with settings of ours.
    pub(crate) fn bundled(plugin: &str, settings: Json) -> Self {
        let settings = Settings { value: settings, at: Location::NONE, ..Settings::default() };
        Self {
            plugin: Located::default_of(plugin.to_owned()),
            is_named: false,
            sha256: None,
            grants: GrantsConfig::default(),
            settings,
            limits: GuestLimits::default(),
            quarantine: QuarantineConfig::default(),
        }
    }
}

/// What one instance of a plugin may use up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestLimits {
    /// `memory_mib`: memory of one instance. 64 MiB.
    pub memory_bytes: Located<u64>,
    /// `cpu_deadline`: time that one call may compute. 5 s.
    pub cpu_deadline: Duration,
    /// `call_deadline`: time that one call may take, waiting included. 60 s.
    pub call_deadline: Duration,
    /// `response_mib`: the largest answer to an HTTP request that it is handed. 4 MiB.
    pub response_bytes: u64,
    /// `host_calls`: calls of the host in one call. 100,000.
    pub host_calls: u64,
}

impl Default for GuestLimits {
    fn default() -> Self {
        Self {
            memory_bytes: Located::default_of(64 * MIB),
            cpu_deadline: Duration::from_secs(5),
            call_deadline: Duration::from_secs(60),
            response_bytes: 4 * MIB,
            host_calls: weir_plugin::limits::HOST_CALLS_MAX_DEFAULT,
        }
    }
}

impl GuestLimits {
    /// For the plugin host.
    pub fn guest(&self) -> Limits {
        let Self { memory_bytes, cpu_deadline, call_deadline, response_bytes, host_calls } = self;
        let bytes = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
        Limits {
            memory_bytes: bytes(memory_bytes.value),
            cpu_deadline: *cpu_deadline,
            call_deadline: *call_deadline,
            response_bytes: bytes(*response_bytes),
            host_calls: *host_calls,
        }
    }
}

/// What a plugin may reach besides the URLs in its settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrantsConfig {
    /// `egress`, or `grants` as a list: origins.
    pub egress: Vec<Located<String>>,
    /// `private_networks`: whether names may lead to addresses of private networks (RFC 1918 and alike). `true`: backends
    /// stand there.
    pub private_networks: bool,
}

impl Default for GrantsConfig {
    fn default() -> Self {
        Self { egress: Vec::new(), private_networks: true }
    }
}

/// `pool`: the instances of one id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PoolConfig {
    /// `instances`, or `pool` as a number: calls under way at once. `None`: the part's own default.
    pub instances: Option<usize>,
    /// `calls`: calls after which an instance is replaced by a fresh one. `None`: 1,000,000.
    pub calls: Option<u64>,
    /// `age`: time after which it is. `None`: 1 h.
    pub age: Option<Duration>,
}

/// `quarantine`: when an id is kept from work because its instances end too often, and more often than it answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QuarantineConfig {
    /// `ends` within `window` that are enough, where fewer calls were answered in that time: an id that answers is not
    /// shut for what one sender or record does to it. 5.
    pub ends: u32,
    /// `window`. 1 min.
    pub window: Duration,
    /// `first`: how long the first one lasts; each that follows is twice as long as the one before. 1 min.
    pub first: Duration,
    /// `longest`: how long one lasts at most. 1 h.
    pub longest: Duration,
}

impl Default for QuarantineConfig {
    fn default() -> Self {
        let weir_plugin::QuarantineSettings { ends_max, window, first, longest } = Default::default();
        Self { ends: ends_max, window, first, longest }
    }
}

/// What a plugin is told, and where each part of it stands.
///
/// `Debug` shows no value: settings may hold secrets.
#[derive(Clone, Default)]
pub struct Settings {
    /// The settings, to be checked against the plugin's schema.
    pub value: Json,
    written: Vec<Entry>,
    path: String,
    at: Location,
}

/// Two are equal where a plugin is told the same, wherever it stands.
impl PartialEq for Settings {
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys: Vec<&str> = self.written.iter().map(|entry| entry.key.as_str()).collect();
        f.debug_struct("Settings").field("at", &self.at).field("keys", &keys).finish_non_exhaustive()
    }
}

/// What a JSON pointer has led to.
struct Place<'s> {
    key: Location,
    value: Location,
    /// `None` for the settings as a whole.
    node: Option<&'s Node>,
}

impl Settings {
    /// Where the value under this JSON pointer stands; where nothing stands there, the nearest thing around it.
    pub fn locate(&self, pointer: &str) -> Location {
        self.nearest(pointer).value
    }

    /// Where the key of the value under this JSON pointer stands.
    pub fn locate_key(&self, pointer: &str) -> Location {
        self.nearest(pointer).key
    }

    /// What was written under this JSON pointer; none where nothing stands there.
    pub(crate) fn node(&self, pointer: &str) -> Option<&Node> {
        self.value.pointer(pointer).and_then(|_| self.nearest(pointer).node)
    }

    /// Everything that was written.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.written.iter().map(|entry| &entry.value)
    }

    /// The path from the top of the file of what a JSON pointer names.
    pub fn path(&self, pointer: &str) -> String {
        let mut path = self.path.clone();
        for token in tokens(pointer) {
            if !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_digit()) {
                path.push_str(&format!("[{token}]"));
            } else {
                path = join(&path, &token);
            }
        }
        path
    }

    /// A message about the value under this pointer, without what variables gave and without URLs that may hold one: those
    /// may be secrets.
    pub(crate) fn hide(&self, pointer: &str, message: &str) -> String {
        let mut open: Vec<&Node> = match self.nearest(pointer).node {
            Some(node) => vec![node],
            None => self.written.iter().map(|entry| &entry.value).collect(),
        };
        let mut message = message.to_owned();
        while let Some(node) = open.pop() {
            match &node.value {
                Value::Scalar(scalar) => {
                    let Scalar { text, written, .. } = scalar;
                    let instead = match written {
                        _ if text.is_empty() => continue,
                        _ if bears_secret(scalar) => "(not shown)",
                        Some(written) => written,
                        None => continue,
                    };
                    // Checkers print values as JSON.
                    let escaped = Json::from(text.as_str()).to_string();
                    message = message.replace(escaped.trim_matches('"'), instead).replace(text, instead);
                }
                Value::List(items) => open.extend(items),
                Value::Mapping(entries) => open.extend(entries.iter().map(|entry| &entry.value)),
            }
        }
        message
    }

    fn nearest(&self, pointer: &str) -> Place<'_> {
        let mut place = Place { key: self.at, value: self.at, node: None };
        for token in tokens(pointer) {
            let in_mapping = |entries: &'_ [Entry]| entries.iter().position(|entry| entry.key == token);
            let found = match place.node.map(|node| &node.value) {
                None => in_mapping(&self.written).map(|index| &self.written[index]).map(entry_place),
                Some(Value::Mapping(entries)) => {
                    in_mapping(entries).map(|index| &entries[index]).map(entry_place)
                }
                Some(Value::List(items)) => token
                    .parse()
                    .ok()
                    .and_then(|index: usize| items.get(index))
                    .map(|node| Place { key: node.at, value: node.at, node: Some(node) }),
                Some(Value::Scalar(_)) => None,
            };
            match found {
                Some(found) => place = found,
                None => break,
            }
        }
        place
    }

    fn of_mapping(entries: &[&Entry], path: String, at: Location) -> Self {
        let written: Vec<Entry> = entries.iter().map(|entry| (*entry).clone()).collect();
        Self { value: object(&written), written, path, at }
    }
}

fn entry_place(entry: &Entry) -> Place<'_> {
    Place { key: entry.key_at, value: entry.value.at, node: Some(&entry.value) }
}

/// The parts of a JSON pointer (RFC 6901).
fn tokens(pointer: &str) -> impl Iterator<Item = String> + '_ {
    pointer.split('/').skip(1).map(|token| token.replace("~1", "/").replace("~0", "~"))
}

/// The JSON of a node. The tree's depth is bounded, and with it this recursion.
fn json(node: &Node) -> Json {
    match &node.value {
        Value::Scalar(scalar) => scalar.json(),
        Value::List(items) => Json::Array(items.iter().map(json).collect()),
        Value::Mapping(entries) => object(entries),
    }
}

fn object(entries: &[Entry]) -> Json {
    Json::Object(entries.iter().map(|entry| (entry.key.clone(), json(&entry.value))).collect())
}

/// What other programs call the parts that bundled plugins are: kind, their type, our plugin's without the kind.
pub(crate) const ALIASES: [(Kind, &str, &str); 2] =
    [(Kind::Exporter, "otlphttp", "otlp"), (Kind::Exporter, "otlp_http", "otlp")];

/// The plugin that serves an id without `plugin:`.
fn usual(id: &Id, kind: Kind) -> String {
    let alias = ALIASES.iter().find(|(of, type_name, _)| *of == kind && *type_name == id.type_name);
    let short = alias.map_or(id.type_name.as_str(), |(_, _, short)| short);
    format!("{short}-{}", kind.noun())
}

/// Keys that are the host's for every id, and therefore no plugin's settings (DESIGN 1.4).
const HOST_KEYS: [&str; 13] = [
    "plugin",
    "sha256",
    "grants",
    "settings",
    "limits",
    "pool",
    "quarantine",
    "timeout",
    "retry",
    "queue",
    "batch",
    "tls",
    "auth",
];

/// Those of them that say how something is delivered.
const DELIVERY_KEYS: [&str; 5] = ["timeout", "retry", "queue", "batch", "auth"];

/// Keys of our own that people may look for in the wrong place.
const HINTS: Hints =
    &[("pool_size", "this is `pool`"), ("path", "plugins are named: `plugin: NAME` is NAME.wasm")];

/// Origins that one id may be granted. A backend has a handful.
const GRANTS_MAX: usize = 64;

/// MiB of an answer that a plugin is handed: it must fit into the plugin's own memory beside all else.
const RESPONSE_MIB_MAX: u64 = 32;

/// Calls of the host in one call: at 0.1 µs each more than a minute, which `call_deadline` ends before.
const HOST_CALLS_MAX: u64 = 1_000_000_000;

/// Ends before a quarantine. A plugin that ends more often than this costs more than it delivers.
const ENDS_MAX: u64 = 1_000;

/// Calls of one instance: what would take years is no limit.
const POOL_CALLS_MAX: u64 = 1_000_000_000_000;

/// Why a native part's `pool` says nothing of age.
const NO_INSTANCES: &str = "this part is no plugin: it has no instances that grow old";

/// Other words for limits.
const LIMIT_HINTS: Hints = &[
    ("memory", "this is `memory_mib`"),
    ("timeout", "this is `call_deadline`"),
    ("response", "this is `response_mib`"),
];

/// Reads what is a plugin's. The caller has taken its own keys of `section` and of `limits`.
pub(crate) fn read(
    id: &Id,
    kind: Kind,
    mut section: Section<'_>,
    mut limits: Section<'_>,
    id_at: Location,
) -> PluginConfig {
    let named = section.field("plugin");
    let is_named = named.is_some();
    let plugin = named.and_then(|field| name(&field));
    let plugin = plugin.unwrap_or_else(|| Located::new(usual(id, kind), id_at));
    let sha256 = section.field("sha256").and_then(|field| digest(&field));
    let grants = section.field("grants").map(|field| grants(&field)).unwrap_or_default();
    let guest = guest_limits(&mut limits);
    limits.finish(LIMIT_HINTS);
    let quarantine = quarantine(section.section("quarantine"));
    let host = Host { plugin, sha256, grants, limits: guest, quarantine };
    let written = section.field("settings");
    if kind == Kind::Receiver {
        for key in DELIVERY_KEYS {
            if let Some(field) = section.field(key) {
                let error = field.error(format!("`{key}` belongs to exporters"));
                field.problems.push(error.label("expected nothing: a receiver delivers nothing"));
            }
        }
    }
    let settings = match written {
        Some(field) => {
            let entries: Vec<&Entry> = match &field.node.value {
                Value::Mapping(entries) => entries.iter().collect(),
                Value::Scalar(scalar) if scalar.is_null() => Vec::new(),
                Value::Scalar(_) => {
                    // It may be the secret that belongs into the mapping.
                    field.problems.hide(field.node);
                    let error = field.error("wrong value for `settings` (not shown)");
                    field.problems.push(error.label("expected a mapping of the plugin's settings"));
                    Vec::new()
                }
                Value::List(_) => {
                    field.wrong("expected a mapping of the plugin's settings");
                    Vec::new()
                }
            };
            Settings::of_mapping(&entries, field.path.clone(), field.key_at)
        }
        None if is_named => Settings::of_mapping(&[], section.path.clone(), section.at),
        None => return host.with(direct(section), false),
    };
    section.finish_noting(HINTS, Some("the plugin's own settings stand under `settings`"));
    host.with(settings, is_named)
}

/// What of an id's keys is the host's.
struct Host {
    plugin: Located<String>,
    sha256: Option<Located<Digest>>,
    grants: GrantsConfig,
    limits: GuestLimits,
    quarantine: QuarantineConfig,
}

impl Host {
    fn with(self, settings: Settings, is_named: bool) -> PluginConfig {
        let Self { plugin, sha256, grants, limits, quarantine } = self;
        PluginConfig { plugin, is_named, sha256, grants, settings, limits, quarantine }
    }
}

/// A plugin that is found by the id's type may have its settings directly under the id.
fn direct(section: Section<'_>) -> Settings {
    let entries = section.rest();
    debug_assert!(entries.iter().all(|entry| !HOST_KEYS.contains(&entry.key.as_str())));
    Settings::of_mapping(&entries, section.path.clone(), section.at)
}

fn name(field: &Field<'_>) -> Option<Located<String>> {
    let text = field.text("the name of a plugin")?;
    let bare = text.strip_suffix(".wasm").unwrap_or(text);
    if bare != text || text.contains(['/', '\\']) {
        let bare = bare.rsplit(['/', '\\']).next().unwrap_or(bare);
        field.wrong(format!(
            "expected the plugin's name, `{bare}`; its file is looked for in `service.plugin_dir`"
        ));
        return None;
    }
    if !is_word(text) {
        field.wrong(format!("expected the name of a plugin: {WORD}"));
        return None;
    }
    Some(Located::new(text.to_owned(), field.at()))
}

fn digest(field: &Field<'_>) -> Option<Located<Digest>> {
    let text = field.text("64 hexadecimal digits")?;
    let mut digest = [0; 32];
    let whole = text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let pairs = digest.iter_mut().enumerate();
    let read = whole
        && pairs.into_iter().all(|(i, byte)| {
            u8::from_str_radix(&text[2 * i..2 * i + 2], 16).is_ok_and(|read| {
                *byte = read;
                true
            })
        });
    if !read {
        let error =
            field.error(format!("found {} characters: {}", text.chars().count(), describe(field.node)));
        field
            .problems
            .push(error.label("expected 64 hexadecimal digits, as `sha256sum FILE.wasm` prints them"));
        return None;
    }
    Some(Located::new(digest, field.at()))
}

fn grants(field: &Field<'_>) -> GrantsConfig {
    let mut grants = GrantsConfig::default();
    if matches!(field.node.value, Value::List(_) | Value::Scalar(_)) {
        grants.egress = origins(field);
        return grants;
    }
    let mut section = field.section();
    grants.egress = section.field("egress").map(|field| origins(&field)).unwrap_or_default();
    if let Some(allowed) = section.field("private_networks").and_then(|field| field.boolean()) {
        grants.private_networks = allowed;
    }
    section.finish(&[("allowed_outbound_hosts", "this is `egress`"), ("urls", "this is `egress`")]);
    grants
}

fn origins(field: &Field<'_>) -> Vec<Located<String>> {
    let items = field.list("origins, as in `https://in.example:443`");
    if items.len() > GRANTS_MAX {
        field.wrong(format!("expected at most {GRANTS_MAX} origins"));
    }
    let origins = items.iter().take(GRANTS_MAX).filter_map(|item| {
        let text = item.text("an origin, as in `https://in.example:443`")?;
        if text.contains('@') {
            item.problems.hide(item.node);
            let error = item.error("an origin with a user in it").note("credentials stand under `auth`");
            item.problems.push(error.label("expected an origin, as in `https://in.example:443`"));
            return None;
        }
        let uri: Option<http::Uri> = text.parse().ok();
        let bare = uri.is_some_and(|uri| uri.path() == "/" && uri.query().is_none());
        if !bare || text.parse::<Origin>().is_err() {
            item.wrong("expected an origin without a path, as in `https://in.example:443`");
            return None;
        }
        Some(Located::new(text.to_owned(), item.at()))
    });
    origins.collect()
}

fn guest_limits(section: &mut Section<'_>) -> GuestLimits {
    let mut limits = GuestLimits::default();
    if let Some(field) = section.field("memory_mib")
        && let Some(size) = field.mib(1..=4096)
    {
        limits.memory_bytes = Located::new(size, field.at());
    }
    let times = Duration::from_millis(10)..=Duration::from_secs(600);
    if let Some(time) = section.field("cpu_deadline").and_then(|field| field.duration(times.clone())) {
        limits.cpu_deadline = time;
    }
    if let Some(time) = section.field("call_deadline").and_then(|field| field.duration(times)) {
        limits.call_deadline = time;
    }
    if let Some(size) = section.field("response_mib").and_then(|field| field.mib(1..=RESPONSE_MIB_MAX)) {
        limits.response_bytes = size;
    }
    if let Some(calls) = section.field("host_calls").and_then(|field| field.integer(1_000..=HOST_CALLS_MAX)) {
        limits.host_calls = calls;
    }
    limits
}

fn quarantine(mut section: Section<'_>) -> QuarantineConfig {
    let mut quarantine = QuarantineConfig::default();
    if let Some(ends) = section.field("ends").and_then(|field| field.integer(1..=ENDS_MAX)) {
        quarantine.ends = u32::try_from(ends).unwrap_or(u32::MAX);
    }
    let times = Duration::from_secs(1)..=Duration::from_secs(24 * 3600);
    if let Some(time) = section.field("window").and_then(|field| field.duration(times.clone())) {
        quarantine.window = time;
    }
    if let Some(time) = section.field("first").and_then(|field| field.duration(times.clone())) {
        quarantine.first = time;
        quarantine.longest = quarantine.longest.max(time);
    }
    if let Some(field) = section.field("longest") {
        match field.duration(times) {
            Some(time) if time < quarantine.first => field.wrong("expected at least as much as `first`"),
            Some(time) => quarantine.longest = time,
            None => {}
        }
    }
    section.finish(&[("enabled", "a plugin that only ends is always kept from work; `ends` says how soon")]);
    quarantine
}

/// `pool:` as a number, or as a mapping; of what is no plugin only the number of tries at once.
pub(crate) fn pool(section: &mut Section<'_>, most: u64, is_plugin: bool) -> PoolConfig {
    let instances =
        |field: &Field<'_>| field.integer(1..=most).and_then(|number| usize::try_from(number).ok());
    let Some(field) = section.field("pool") else {
        return PoolConfig::default();
    };
    if !matches!(field.node.value, Value::Mapping(_)) {
        return PoolConfig { instances: instances(&field), ..PoolConfig::default() };
    }
    let mut keys = field.section();
    let mut pool = PoolConfig {
        instances: keys.field("instances").and_then(|field| instances(&field)),
        ..PoolConfig::default()
    };
    if is_plugin {
        pool.calls = keys.field("calls").and_then(|field| field.integer(1..=POOL_CALLS_MAX));
        let ages = Duration::from_secs(1)..=Duration::from_secs(30 * 24 * 3600);
        pool.age = keys.field("age").and_then(|field| field.duration(ages));
        keys.finish(&[("max", "this is `instances`"), ("size", "this is `instances`")]);
    } else {
        keys.finish(&[("calls", NO_INSTANCES), ("age", NO_INSTANCES)]);
    }
    pool
}
