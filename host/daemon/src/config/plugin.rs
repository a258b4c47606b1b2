//! Keys that are the host's for every plugin, and the plugin's own settings with the place of each.

use std::fmt;
use std::time::Duration;

use serde_json::Value as Json;

use super::id::{WORD, is_word};
use super::location::{Located, Location};
use super::section::{Field, Hints, MIB, Section, describe, join};
use super::tree::{Entry, Node, Scalar, Value};
use super::{Id, Kind};

/// The SHA-256 of a component's file.
pub type Digest = [u8; 32];

/// Which plugin serves an id, and what it may do.
#[derive(Debug, Clone, PartialEq)]
pub struct PluginConfig {
    /// `plugin`: the plugin's name, which is its file's without `.wasm`. Without the key it is the id's type with
    /// `-receiver` or `-exporter`; its place is then the id's.
    pub plugin: Located<String>,
    /// Whether the user wrote `plugin:`.
    pub is_named: bool,
    /// `sha256`: the file must have this digest.
    pub sha256: Option<Located<Digest>>,
    /// `grants`: origins that the plugin may reach besides those in its settings.
    pub grants: Vec<Located<String>>,
    /// `settings`, or what stands directly under the id.
    pub settings: Settings,
    /// `limits`: what an instance may use up.
    pub limits: GuestLimits,
}

impl PluginConfig {
    /// A bundled plugin with settings of ours.
    pub(crate) fn bundled(plugin: &str, settings: Json) -> Self {
        let settings = Settings { value: settings, at: Location::NONE, ..Settings::default() };
        Self {
            plugin: Located::default_of(plugin.to_owned()),
            is_named: false,
            sha256: None,
            grants: Vec::new(),
            settings,
            limits: GuestLimits::default(),
        }
    }
}

/// What one instance of a plugin may use up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GuestLimits {
    /// `memory_mib`: memory of one instance. 64 MiB.
    pub memory_bytes: u64,
    /// `cpu_deadline`: time that one call may compute. 5 s.
    pub cpu_deadline: Duration,
    /// `call_deadline`: time that one call may take, waiting included. 60 s.
    pub call_deadline: Duration,
}

impl Default for GuestLimits {
    fn default() -> Self {
        Self {
            memory_bytes: 64 * MIB,
            cpu_deadline: Duration::from_secs(5),
            call_deadline: Duration::from_secs(60),
        }
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

    /// A message about the value under this pointer, without what variables gave: that may be a secret.
    pub(crate) fn hide(&self, pointer: &str, message: &str) -> String {
        let mut open: Vec<&Node> = match self.nearest(pointer).node {
            Some(node) => vec![node],
            None => self.written.iter().map(|entry| &entry.value).collect(),
        };
        let mut message = message.to_owned();
        while let Some(node) = open.pop() {
            match &node.value {
                Value::Scalar(Scalar { text, written: Some(written), .. }) if !text.is_empty() => {
                    // Checkers print values as JSON.
                    let escaped = Json::from(text.as_str()).to_string();
                    message = message.replace(escaped.trim_matches('"'), written).replace(text, written);
                }
                Value::Scalar(_) => {}
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

/// Keys that are the host's for every id, and therefore no plugin's settings (DESIGN 1.4).
const HOST_KEYS: [&str; 12] = [
    "plugin", "sha256", "grants", "settings", "limits", "pool", "timeout", "retry", "queue", "batch", "tls",
    "auth",
];

/// Those of them that say how something is delivered.
const DELIVERY_KEYS: [&str; 5] = ["timeout", "retry", "queue", "batch", "auth"];

/// Keys of our own that people may look for in the wrong place.
const HINTS: Hints =
    &[("pool_size", "this is `pool`"), ("path", "plugins are named: `plugin: NAME` is NAME.wasm")];

/// Origins that one id may be granted. A backend has a handful.
const GRANTS_MAX: usize = 64;

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
    let plugin = plugin.unwrap_or_else(|| Located::new(format!("{}-{}", id.type_name, kind.noun()), id_at));
    let sha256 = section.field("sha256").and_then(|field| digest(&field));
    let grants = section.field("grants").map(|field| grants(&field)).unwrap_or_default();
    let guest = guest_limits(&mut limits);
    limits.finish(&[]);
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
                Value::Scalar(_) | Value::List(_) => {
                    field.wrong("expected a mapping of the plugin's settings");
                    Vec::new()
                }
            };
            Settings::of_mapping(&entries, field.path.clone(), field.key_at)
        }
        None if is_named => Settings::of_mapping(&[], section.path.clone(), section.at),
        None => return direct(section, plugin, sha256, grants, guest),
    };
    section.finish_noting(HINTS, Some("the plugin's own settings stand under `settings`"));
    PluginConfig { plugin, is_named, sha256, grants, settings, limits: guest }
}

/// A plugin that is found by the id's type may have its settings directly under the id.
fn direct(
    section: Section<'_>,
    plugin: Located<String>,
    sha256: Option<Located<Digest>>,
    grants: Vec<Located<String>>,
    limits: GuestLimits,
) -> PluginConfig {
    let entries = section.rest();
    debug_assert!(entries.iter().all(|entry| !HOST_KEYS.contains(&entry.key.as_str())));
    let settings = Settings::of_mapping(&entries, section.path.clone(), section.at);
    PluginConfig { plugin, is_named: false, sha256, grants, settings, limits }
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

fn grants(field: &Field<'_>) -> Vec<Located<String>> {
    let items = field.list("origins, as in `https://in.example:443`");
    if items.len() > GRANTS_MAX {
        field.wrong(format!("expected at most {GRANTS_MAX} origins"));
    }
    let origins = items.iter().take(GRANTS_MAX).filter_map(|item| {
        let text = item.text("an origin, as in `https://in.example:443`")?;
        let uri: Option<http::Uri> = text.parse().ok();
        let sound = uri.is_some_and(|uri| {
            let scheme = matches!(uri.scheme_str(), Some("http" | "https"));
            scheme
                && uri.host().is_some_and(|host| !host.is_empty())
                && uri.path() == "/"
                && uri.query().is_none()
        });
        if !sound {
            item.wrong("expected an origin without a path, as in `https://in.example:443`");
            return None;
        }
        Some(Located::new(text.to_owned(), item.at()))
    });
    origins.collect()
}

fn guest_limits(section: &mut Section<'_>) -> GuestLimits {
    let mut limits = GuestLimits::default();
    if let Some(size) = section.field("memory_mib").and_then(|field| field.mib(1..=4096)) {
        limits.memory_bytes = size;
    }
    let times = Duration::from_millis(10)..=Duration::from_secs(600);
    if let Some(time) = section.field("cpu_deadline").and_then(|field| field.duration(times.clone())) {
        limits.cpu_deadline = time;
    }
    if let Some(time) = section.field("call_deadline").and_then(|field| field.duration(times)) {
        limits.call_deadline = time;
    }
    limits
}

/// `pool:` instances, or calls under way at once.
pub(crate) fn pool(section: &mut Section<'_>, most: u64) -> Option<usize> {
    let number = section.field("pool").and_then(|field| field.integer(1..=most))?;
    usize::try_from(number).ok()
}
