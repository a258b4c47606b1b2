//! `exporters:` where telemetry goes.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Uri};

use super::link::{self, LINK, LinkExporter};
use super::listener::{self, ListenLimits};
use super::location::Located;
use super::plugin::{self, PluginConfig, PoolConfig};
use super::processor::{self, BatchConfig};
use super::secret::Secret;
use super::section::{Field, Hints, Section};
use super::tls::{self, ClientTls, ServerTls, ServerTlsFiles};
use super::tree::Value;
use super::veil::may_bear_secret;
use super::{Id, Kind};

/// Exporters that are part of the binary.
pub(crate) const NATIVE: [&str; 3] = ["otlp", "debug", LINK];

/// Other programs' names for `otlp`.
const OTLP_NAMES: [&str; 2] = ["otlp", "otlp_grpc"];

/// One exporter.
#[derive(Debug, Clone, PartialEq)]
pub struct ExporterConfig {
    /// How it is tried, and tried again.
    pub delivery: Delivery,
    /// What it is.
    pub kind: ExporterKind,
}

/// What an exporter is.
#[derive(Debug, Clone, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "there are as many as a person has written")]
pub enum ExporterKind {
    /// `otlp`.
    Otlp(OtlpExporter),
    /// `debug`.
    Debug(DebugExporter),
    /// `weir`: another Weir, that collects.
    Link(LinkExporter),
    /// Anything else.
    Plugin(PluginExporter),
}

/// Keys that every exporter has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// `timeout`: how long one try may take. 10 s; a plugin's `call_deadline` where it is one; a link has none.
    pub timeout: Duration,
    /// `retry`: how long to wait between tries. There is no last try.
    pub retry: Retry,
    /// `queue: {when_full: …}`.
    pub when_full: WhenFull,
    /// `batch`: instead of the pipeline's processor, for this exporter alone.
    pub batch: Option<BatchConfig>,
    /// `pool`: tries under way at once, at most one for each of the 16 lanes; for a plugin, its instances.
    pub pool: PoolConfig,
}

/// Waits between tries; each is twice the one before, with jitter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retry {
    /// `initial_interval`: after the first refusal. 500 ms.
    pub initial_interval: Duration,
    /// `max_interval`: the longest, also for what the backend asks for. 30 s.
    pub max_interval: Duration,
    /// `record_ends`: ends of a plugin's instances by the same records before these are searched for the one at fault. 3.
    pub record_ends: u32,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            initial_interval: Duration::from_millis(500),
            max_interval: Duration::from_secs(30),
            record_ends: weir_exporter::ends::ENDS_MAX,
        }
    }
}

/// What happens to an exporter that is so far behind that the queue is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WhenFull {
    /// `refuse`: senders are told to come again; nothing that was promised is lost.
    #[default]
    Refuse,
    /// `skip_oldest`: this exporter loses what is oldest; counted as loss.
    SkipOldest,
}

/// `otlp:`.
#[derive(Debug, Clone, PartialEq)]
pub struct OtlpExporter {
    /// `endpoint`, always with its scheme: `http://127.0.0.1:4317/`, `https://in.example/base`. Paths such as
    /// `/v1/traces` are added to it.
    pub endpoint: Located<Uri>,
    /// `protocol`.
    pub protocol: OtlpProtocol,
    /// `compression`.
    pub compression: Compression,
    /// `headers` of every request, by their names in lower case.
    pub headers: BTreeMap<String, Secret>,
    /// `tls`.
    pub tls: ClientTls,
    /// `auth`.
    pub auth: Option<Auth>,
}

/// How OTLP travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OtlpProtocol {
    /// `grpc`, which `otlp` is unless told otherwise.
    Grpc,
    /// `http`: protobuf over HTTP. (`otlphttp` is a plugin, which knows JSON too.)
    Http,
}

/// How request bodies are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compression {
    /// `none`: the bytes as they lie in the queue.
    #[default]
    None,
    /// `gzip`.
    Gzip,
    /// `zstd`.
    Zstd,
}

/// `debug:` writes to the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DebugExporter {
    /// `verbosity`.
    pub verbosity: Verbosity,
}

/// How much `debug` writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verbosity {
    /// `basic`: a line for each batch.
    Basic,
    /// `detailed`: every item.
    Detailed,
}

/// An exporter that a plugin encodes for.
#[derive(Debug, Clone, PartialEq)]
pub struct PluginExporter {
    /// Which plugin, with its settings.
    pub plugin: PluginConfig,
    /// `tls` of its requests.
    pub tls: ClientTls,
    /// `auth` of its requests; the plugin does not see it.
    pub auth: Option<Auth>,
    /// What its page has, where it is fetched from.
    pub page: PageListen,
}

/// What a page has and what is sent has not. Whether an exporter is a page is known when its plugin was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageListen {
    /// `tls: {client_ca_file: …}`: authorities of which one must vouch for whoever fetches.
    pub client_ca_file: Option<Located<PathBuf>>,
    /// `limits` of connections, and of the time that a reader may take for one page (`request_timeout`).
    pub limits: ListenLimits,
    /// The path of the first of these keys that was written: only a page has a use for them.
    pub written: Option<Located<String>>,
}

impl PluginExporter {
    /// `tls` as it is meant where the plugin is fetched from: what it shows, and whom it asks for.
    pub fn server_tls(&self) -> ServerTls {
        let ClientTls { insecure, ca_file: _, cert_file, key_file, crl_file } = &self.tls;
        match (cert_file, key_file) {
            (Some(cert_file), Some(key_file)) => ServerTls::Files(ServerTlsFiles {
                cert_file: cert_file.clone(),
                key_file: key_file.clone(),
                client_ca_file: self.page.client_ca_file.clone(),
                crl_file: crl_file.clone(),
            }),
            _ if insecure.as_ref().is_some_and(|insecure| insecure.value) => ServerTls::Insecure,
            _ => ServerTls::Absent,
        }
    }
}

/// Credentials that the host adds to requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Auth {
    /// `bearer: TOKEN`, `bearer_file: PATH`.
    Bearer(Kept),
    /// `basic: {username: …, password: …}`, or with `password_file: PATH`.
    Basic {
        /// The user.
        username: String,
        /// The password.
        password: Kept,
    },
}

/// Where a secret is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kept {
    /// In the configuration.
    Here(Secret),
    /// Alone in a file, which is read again when it changes.
    File(Located<PathBuf>),
}

impl Auth {
    /// The file that must be readable, where there is one, with the key that names it.
    pub fn file(&self) -> Option<(&'static str, &Located<PathBuf>)> {
        match self {
            Self::Bearer(Kept::File(file)) => Some(("bearer_file", file)),
            Self::Basic { password: Kept::File(file), .. } => Some(("basic.password_file", file)),
            Self::Bearer(Kept::Here(_)) | Self::Basic { password: Kept::Here(_), .. } => None,
        }
    }

    /// What a person reads of it.
    pub fn words(&self) -> &'static str {
        match self {
            Self::Bearer(Kept::Here(_)) => "bearer",
            Self::Bearer(Kept::File(_)) => "bearer, from a file",
            Self::Basic { password: Kept::Here(_), .. } => "basic",
            Self::Basic { password: Kept::File(_), .. } => "basic, password from a file",
        }
    }
}

const HINTS: Hints = &[
    ("sending_queue", "this is `queue` here, and `service: {queue: …}` for all exporters"),
    ("retry_on_failure", "this is `retry`"),
    ("batcher", "this is `batch`"),
    (
        "traces_endpoint",
        "`endpoint` is the base; `/v1/traces` is added to it. The exporter `otlphttp` has this key",
    ),
    (
        "metrics_endpoint",
        "`endpoint` is the base; `/v1/metrics` is added to it. The exporter `otlphttp` has this key",
    ),
    (
        "logs_endpoint",
        "`endpoint` is the base; `/v1/logs` is added to it. The exporter `otlphttp` has this key",
    ),
    ("encoding", "OTLP leaves as protobuf; the exporter `otlphttp` writes JSON too"),
    ("insecure", "this is `tls: {insecure: true}`"),
];

/// Lanes of a queue: more tries at once would wait for one another.
const POOL_MAX: u64 = weir_model::LANES as u64;

/// The log is written by one at a time.
const DEBUG_POOL_MAX: u64 = 1;

pub(crate) fn read(id: &Id, field: &Field<'_>) -> ExporterConfig {
    let mut section = field.section();
    let type_name = id.type_name.as_str();
    if section.has("plugin") || !(OTLP_NAMES.contains(&type_name) || ["debug", LINK].contains(&type_name)) {
        return of_plugin(id, field, section);
    }
    if type_name == LINK {
        // It has no deadline of its own, and a bundle under way for each lane.
        let delivery = kept(&mut section, Duration::MAX, false, PoolConfig::default());
        let exporter = link::exporter(&mut section);
        section.finish(link::EXPORTER_HINTS);
        return ExporterConfig { delivery, kind: ExporterKind::Link(exporter) };
    }
    let pool_max = if type_name == "debug" { DEBUG_POOL_MAX } else { POOL_MAX };
    let delivery = delivery(&mut section, Duration::from_secs(10), pool_max, false);
    if type_name == "debug" {
        let words = [("basic", Verbosity::Basic), ("detailed", Verbosity::Detailed)];
        let verbosity = section.field("verbosity").and_then(|field| field.choice(&words));
        section.finish(HINTS);
        let debug = DebugExporter { verbosity: verbosity.unwrap_or(Verbosity::Basic) };
        return ExporterConfig { delivery, kind: ExporterKind::Debug(debug) };
    }
    let otlp = otlp(type_name, &mut section);
    section.finish(HINTS);
    ExporterConfig { delivery, kind: ExporterKind::Otlp(otlp) }
}

fn of_plugin(id: &Id, field: &Field<'_>, mut section: Section<'_>) -> ExporterConfig {
    let (tls, client_ca_file) = tls::of_plugin(&mut section);
    let client_ca_file = (client_ca_file, format!("{}.tls", section.path));
    let auth = auth(&mut section);
    let mut limits = section.section("limits");
    let page = page(&mut limits, client_ca_file);
    // Delivery's default rests on the plugin's limits, which are read last, with all that is the plugin's.
    let written = section.has("timeout");
    let mut delivery = delivery(&mut section, Duration::from_secs(60), POOL_MAX, true);
    let plugin = plugin::read(id, Kind::Exporter, section, limits, field.key_at);
    if !written {
        delivery.timeout = plugin.limits.call_deadline;
    }
    ExporterConfig { delivery, kind: ExporterKind::Plugin(PluginExporter { plugin, tls, auth, page }) }
}

fn page(limits: &mut Section<'_>, (client_ca_file, tls): (Option<Located<PathBuf>>, String)) -> PageListen {
    let ca = client_ca_file.as_ref().map(|file| Located::new(format!("{tls}.client_ca_file"), file.at));
    let limit = listener::CONNECTION_KEYS.into_iter().find(|key| limits.has(key));
    let limit = limit.and_then(|key| limits.field(key)).map(|field| {
        let (path, at) = (field.path.clone(), field.key_at);
        Located::new(path, at)
    });
    let limits = listener::connections(limits, ListenLimits::http());
    PageListen { client_ca_file, limits, written: ca.or(limit) }
}

fn delivery(section: &mut Section<'_>, timeout: Duration, pool_max: u64, is_plugin: bool) -> Delivery {
    let times = Duration::from_millis(100)..=Duration::from_secs(600);
    let timeout = section.field("timeout").and_then(|field| field.duration(times)).unwrap_or(timeout);
    let pool = plugin::pool(section, pool_max, is_plugin);
    kept(section, timeout, is_plugin, pool)
}

/// The keys of every exporter but those of single tries.
fn kept(section: &mut Section<'_>, timeout: Duration, is_plugin: bool, pool: PoolConfig) -> Delivery {
    let retry = retry(section.section("retry"), is_plugin);
    let mut queue = section.section("queue");
    let words = [("refuse", WhenFull::Refuse), ("skip_oldest", WhenFull::SkipOldest)];
    let when_full = queue.field("when_full").and_then(|field| field.choice(&words)).unwrap_or_default();
    queue.finish(&[
        ("queue_size", "budgets are set for all exporters: `service: {queue: {budget_mib: …}}`"),
        ("storage", "storage is chosen for all exporters: `service: {queue: {storage: disk}}`"),
        ("num_consumers", "this is `pool` of the exporter"),
        ("enabled", "every exporter has a queue: nothing is acknowledged without one"),
    ]);
    let batch = section.field("batch").map(|field| processor::batch(field.section()));
    Delivery { timeout, retry, when_full, batch, pool }
}

fn retry(mut section: Section<'_>, is_plugin: bool) -> Retry {
    let mut retry = Retry::default();
    let times = Duration::from_millis(10)..=Duration::from_secs(3600);
    if let Some(time) = section.field("initial_interval").and_then(|field| field.duration(times.clone())) {
        retry.initial_interval = time;
        retry.max_interval = retry.max_interval.max(time);
    }
    if let Some(field) = section.field("max_interval") {
        match field.duration(times) {
            Some(time) if time < retry.initial_interval => {
                field.wrong("expected at least as much as `initial_interval`");
            }
            Some(time) => retry.max_interval = time,
            None => {}
        }
    }
    if is_plugin && let Some(ends) = section.field("record_ends").and_then(|field| field.integer(1..=100)) {
        retry.record_ends = u32::try_from(ends).unwrap_or(u32::MAX);
    }
    section.finish(&[
        ("record_ends", "only instances of plugins end"),
        ("max_elapsed_time", "there is no last try: what was acknowledged is kept until it is delivered"),
        ("max_attempts", "there is no last try: what was acknowledged is kept until it is delivered"),
        ("enabled", "there is no last try: what was acknowledged is kept until it is delivered"),
        ("initial", "this is `initial_interval`"),
        ("max", "this is `max_interval`"),
    ]);
    retry
}

fn otlp(type_name: &str, section: &mut Section<'_>) -> OtlpExporter {
    let words = [("grpc", OtlpProtocol::Grpc), ("http", OtlpProtocol::Http)];
    let protocol = match type_name {
        "otlp_grpc" => Some(OtlpProtocol::Grpc),
        _ => section.field("protocol").and_then(|field| field.choice(&words)),
    };
    let protocol = protocol.unwrap_or(OtlpProtocol::Grpc);
    let words = [("none", Compression::None), ("gzip", Compression::Gzip), ("zstd", Compression::Zstd)];
    let compression = section.field("compression").and_then(|field| field.choice(&words)).unwrap_or_default();
    let headers = section.field("headers").map(|field| headers(field.secret_section())).unwrap_or_default();
    let tls = tls::client(section);
    let auth = auth(section);
    let endpoint = match section.field("endpoint") {
        Some(field) => endpoint(&field, protocol, &tls),
        None => {
            section.problems.push(
                super::Diagnostic::error(
                    section.at,
                    section.path.clone(),
                    "an exporter without an `endpoint`",
                )
                .label(format!("expected `endpoint: {}`", example(protocol))),
            );
            None
        }
    };
    let endpoint = endpoint.unwrap_or_else(|| Located::new(Uri::default(), section.at));
    OtlpExporter { endpoint, protocol, compression, headers, tls, auth }
}

fn example(protocol: OtlpProtocol) -> &'static str {
    match protocol {
        OtlpProtocol::Grpc => "https://in.example:4317",
        OtlpProtocol::Http => "https://in.example:4318",
    }
}

/// Whether a URL names a user or a query. In a path, `@` is a letter like any other.
fn has_user_or_query(url: &str) -> bool {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    authority.contains('@') || url.contains('?') || (may_bear_secret(url) && url.parse::<Uri>().is_err())
}

/// The endpoint with its scheme: what was written, else by `tls`, else plaintext on loopback and TLS elsewhere.
fn endpoint(field: &Field<'_>, protocol: OtlpProtocol, tls: &ClientTls) -> Option<Located<Uri>> {
    let address = format!("an address as in `{}`", example(protocol));
    let text = field.text(&address)?;
    if has_user_or_query(text) {
        field.wrong("expected an address without a user and without a query; credentials stand under `auth`");
        return None;
    }
    let expected = format!("expected {address}");
    let whole = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
    let written: Option<Uri> = whole.parse().ok();
    let Some(uri) = written.filter(|uri| uri.host().is_some_and(|host| !host.is_empty())) else {
        field.wrong(expected);
        return None;
    };
    let authority = uri.authority().map(http::uri::Authority::as_str).unwrap_or_default();
    if authority.ends_with(':') || uri.port_u16() == Some(0) {
        field.wrong("expected a port from 1 to 65535 after the last colon");
        return None;
    }
    let plain = tls.insecure.as_ref().map(|insecure| insecure.value);
    let secure = match text.split_once("://").map(|(scheme, _)| scheme) {
        Some("http") if tls.asks_for_tls() => {
            field.wrong("expected `https://`: the keys under `tls` are for TLS");
            return None;
        }
        Some("https") if plain == Some(true) => {
            field.wrong("expected `http://`, or no `insecure: true` under `tls`");
            return None;
        }
        Some("http") => false,
        Some("https") => true,
        Some(_) => {
            field.wrong(expected);
            return None;
        }
        None => !plain.unwrap_or(!tls.asks_for_tls() && is_loopback(&uri)),
    };
    let base = uri.path().trim_end_matches('/');
    match protocol {
        OtlpProtocol::Grpc if uri.port_u16().is_none() => {
            field.wrong(format!("expected a port, as in `{authority}:4317`"));
            return None;
        }
        OtlpProtocol::Grpc if !base.is_empty() => {
            field.wrong("expected an address without a path: gRPC has paths of its own; for HTTP say `protocol: http`");
            return None;
        }
        OtlpProtocol::Http
            if base.ends_with("/v1/traces")
                || base.ends_with("/v1/metrics")
                || base.ends_with("/v1/logs") =>
        {
            field.wrong("expected the address without `/v1/…`: it is added for each signal");
            return None;
        }
        OtlpProtocol::Grpc | OtlpProtocol::Http => {}
    }
    let scheme = if secure { "https" } else { "http" };
    let whole = format!("{scheme}://{authority}{base}");
    whole.parse().ok().map(|uri| Located::new(uri, field.at()))
}

pub(super) fn is_loopback(uri: &Uri) -> bool {
    let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Headers that are the protocol's.
const OWN_HEADERS: [&str; 8] = [
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "grpc-encoding",
    "host",
    "te",
    "transfer-encoding",
];

/// Headers that one exporter may add: servers refuse a hundred.
const HEADERS_MAX: usize = 64;

fn headers(section: Section<'_>) -> BTreeMap<String, Secret> {
    let mut read = BTreeMap::new();
    for (name, value) in section.fields() {
        // Whatever becomes of it, also where its name is wrong.
        value.problems.hide(value.node);
        if read.len() > HEADERS_MAX {
            continue;
        }
        let known: Option<HeaderName> = name.parse().ok();
        let own = known.as_ref().is_some_and(|name| OWN_HEADERS.contains(&name.as_str()));
        match known {
            Some(_) if own => {
                let error = value.key_error(format!("the header `{}` is the protocol's", value.name));
                value.problems.push(error.label("expected no such header"));
            }
            Some(name) if read.len() == HEADERS_MAX => {
                value.problems.push(
                    value.key_error("too many headers").label(format!("expected at most {HEADERS_MAX}")),
                );
                read.insert(name.as_str().to_owned(), Secret::new(""));
            }
            Some(name) => {
                let Some(text) = value.text("a text") else {
                    continue;
                };
                if HeaderValue::from_str(text).is_ok() {
                    read.insert(name.as_str().to_owned(), Secret::new(text));
                } else {
                    let error =
                        value.error(format!("the value of the header `{}` cannot be sent", value.name));
                    value.problems.push(error.label("expected visible characters and spaces"));
                }
            }
            None => {
                let error = value.key_error(format!("`{}` cannot be a header", value.name));
                value.problems.push(error.label("expected letters, digits and `-`"));
            }
        }
    }
    read
}

/// What stands under `auth`.
const AUTH: &str =
    "expected one of `bearer: TOKEN`, `bearer_file: PATH` and `basic: {username: …, password: …}`";

fn auth(section: &mut Section<'_>) -> Option<Auth> {
    let field = section.field("auth")?;
    let mut keys = field.secret_section();
    let bearer = keys.field("bearer").and_then(|field| token(&field));
    let bearer_file = keys.field("bearer_file").and_then(|field| path(&field));
    let basic = keys.field("basic").and_then(|field| basic(&field));
    let written = ["bearer", "bearer_file", "basic"].into_iter().filter(|key| keys.has(key)).count();
    let unknown = keys.rest().len();
    keys.finish(&[
        ("authenticator", AUTH),
        ("token", "this is `bearer`"),
        ("token_file", "this is `bearer_file`"),
    ]);
    if written != 1 {
        // A slip in a key, and what is no mapping, has been spoken of.
        if unknown == 0 && matches!(field.node.value, Value::Mapping(_)) {
            let message =
                if written > 1 { "credentials of more than one kind" } else { "credentials of no kind" };
            field.problems.push(field.error(message).label(AUTH));
        }
        return None;
    }
    bearer.or(bearer_file).map(Auth::Bearer).or(basic)
}

pub(super) fn token(field: &Field<'_>) -> Option<Kept> {
    field.problems.hide(field.node);
    let text = field.text("a token")?;
    if HeaderValue::from_str(text).is_err() {
        let error = field.error("this token cannot be sent");
        field.problems.push(error.label("expected visible characters and spaces"));
        return None;
    }
    Some(Kept::Here(Secret::new(text)))
}

pub(super) fn basic(field: &Field<'_>) -> Option<Auth> {
    let mut keys = field.secret_section();
    let username = keys.field("username").and_then(|field| {
        let text = field.text("a name").map(str::to_owned)?;
        if text.contains(':') {
            let error = field.error("a name with a colon in it");
            field.problems.push(error.label("expected a name without one: it would end there (RFC 7617)"));
            return None;
        }
        Some(text)
    });
    let password = keys.field("password").and_then(|field| {
        field.problems.hide(field.node);
        Some(Kept::Here(Secret::new(field.text("a password")?)))
    });
    let file = keys.field("password_file").and_then(|field| path(&field));
    let (named, here, kept) = (keys.has("username"), keys.has("password"), keys.has("password_file"));
    let unknown = keys.rest().len();
    keys.finish(&[]);
    let is_mapping = matches!(field.node.value, Value::Mapping(_));
    if unknown == 0 && is_mapping && (!named || here == kept) {
        let message = match (named, here && kept) {
            (false, _) => "credentials without a name",
            (true, true) => "two passwords",
            (true, false) => "credentials without a password",
        };
        let expected = "expected `username` and one of `password` and `password_file`";
        field.problems.push(field.error(message).label(expected));
    }
    if here && kept {
        return None;
    }
    Some(Auth::Basic { username: username?, password: password.or(file)? })
}

pub(super) fn path(field: &Field<'_>) -> Option<Kept> {
    field.path().map(Kept::File)
}

/// What runs without a file.
pub(crate) fn default_debug() -> ExporterConfig {
    ExporterConfig {
        delivery: Delivery {
            timeout: Duration::from_secs(10),
            retry: Retry::default(),
            when_full: WhenFull::Refuse,
            batch: None,
            pool: PoolConfig::default(),
        },
        kind: ExporterKind::Debug(DebugExporter { verbosity: Verbosity::Basic }),
    }
}

impl ExporterConfig {
    /// The plugin, where it is one.
    pub fn plugin(&self) -> Option<&PluginConfig> {
        match &self.kind {
            ExporterKind::Otlp(_) | ExporterKind::Debug(_) | ExporterKind::Link(_) => None,
            ExporterKind::Plugin(exporter) => Some(&exporter.plugin),
        }
    }

    /// What it has as a page, where its plugin may be one.
    pub fn page(&self) -> Option<&PageListen> {
        match &self.kind {
            ExporterKind::Otlp(_) | ExporterKind::Debug(_) | ExporterKind::Link(_) => None,
            ExporterKind::Plugin(exporter) => Some(&exporter.page),
        }
    }

    /// Credentials of its requests.
    pub fn auth(&self) -> Option<&Auth> {
        match &self.kind {
            ExporterKind::Debug(_) | ExporterKind::Link(_) => None,
            ExporterKind::Otlp(exporter) => exporter.auth.as_ref(),
            ExporterKind::Plugin(exporter) => exporter.auth.as_ref(),
        }
    }

    /// How its requests are protected, where it makes some.
    pub fn tls(&self) -> Option<&ClientTls> {
        match &self.kind {
            ExporterKind::Debug(_) => None,
            ExporterKind::Otlp(exporter) => Some(&exporter.tls),
            ExporterKind::Link(exporter) => Some(&exporter.tls),
            ExporterKind::Plugin(exporter) => Some(&exporter.tls),
        }
    }
}
