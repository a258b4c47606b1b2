//! `service:` the process itself.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::listener::{self, Listen};
use super::location::{Located, Location};
use super::receiver::loopback;
use super::report::Diagnostic;
use super::section::{MIB, Section};
use super::tls::ServerTls;

/// The port on which users expect metrics of a collector.
const METRICS_PORT: u16 = 8_888;
/// The port on which they expect its health.
const HEALTH_PORT: u16 = 13_133;

/// `service:` without its pipelines.
#[derive(Debug, Clone)]
pub struct ServiceConfig {
    /// `data_dir`: queues, compiled plugins, who we are. /var/lib/weir.
    pub data_dir: PathBuf,
    /// `plugin_dir`: where plugins lie that an operator has dropped in. Without it only the bundled ones are there.
    pub plugin_dir: Option<Located<PathBuf>>,
    /// `telemetry`: our own logs and metrics.
    pub telemetry: TelemetryConfig,
    /// `health`: 127.0.0.1:13133 unless told otherwise; `None` with `enabled: false`.
    pub health: Option<Listen>,
    /// `events`: where programs of this machine report states and watch them, on loopback. Nowhere.
    pub events: Option<Located<SocketAddr>>,
    /// `memory`.
    pub memory: MemoryConfig,
    /// `queue`.
    pub queue: QueueConfig,
    /// `drain_timeout`: how long a stop may take to answer senders and let exporters settle. 20 s.
    pub drain_timeout: Duration,
}

/// `telemetry:`.
#[derive(Debug, Clone)]
pub struct TelemetryConfig {
    /// `logs`.
    pub logs: LogsConfig,
    /// `metrics`: 127.0.0.1:8888 unless told otherwise; `None` with `enabled: false`.
    pub metrics: Option<Listen>,
}

/// `logs:`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LogsConfig {
    /// `level`: the least that is written. `info`.
    pub level: LogLevel,
    /// `format`. `text`.
    pub format: LogFormat,
}

/// How much is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogLevel {
    /// A person must act.
    Error,
    /// Odd, and we went on.
    Warn,
    /// The process or a peer changed state.
    #[default]
    Info,
    /// Per stream.
    Debug,
    /// Everything.
    Trace,
}

impl LogLevel {
    /// The level's name, as in a filter.
    pub fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

/// How a log line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One object a line.
    Json,
}

/// `memory:`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryConfig {
    /// `limit_mib`: what requests, leases, caches and plugins may hold together; beyond it senders are told to come
    /// again. 192 MiB.
    pub limit_bytes: u64,
}

/// `queue:` where what was promised is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueConfig {
    /// `storage`: what an acknowledgement rests on.
    pub storage: Storage,
    /// `budget_mib`: what the queues of all pipelines may hold together; beyond it senders are told to come again.
    /// 10,240 MiB on disk, 64 MiB in memory.
    pub budget_bytes: u64,
    /// Where `budget_mib` is written, or what is around it.
    pub budget_at: Location,
    /// `segment_mib`: size of one file on disk. 64 MiB; 16 MiB suits small machines.
    pub segment_bytes: u64,
    /// `dead_letter_mib`: what records that no backend takes may hold; beyond it their exporter pauses. 256 MiB on
    /// disk, 8 MiB in memory.
    pub dead_letter_bytes: u64,
}

/// Where a queue is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Storage {
    /// `disk`: acknowledged data survives the process and the machine's restart.
    #[default]
    Disk,
    /// `memory`: acknowledged data is lost with the process.
    Memory,
}

impl QueueConfig {
    /// The defaults of a storage.
    pub fn of(storage: Storage) -> Self {
        let (budget, dead_letters) = match storage {
            Storage::Disk => (10_240, 256),
            Storage::Memory => (64, 8),
        };
        Self {
            storage,
            budget_bytes: budget * MIB,
            budget_at: Location::NONE,
            segment_bytes: 64 * MIB,
            dead_letter_bytes: dead_letters * MIB,
        }
    }
}

impl ServiceConfig {
    /// What holds where the file says nothing.
    pub fn with_storage(storage: Storage) -> Self {
        let listen =
            |port| Listen { endpoint: super::Located::default_of(loopback(port)), tls: ServerTls::Absent };
        Self {
            data_dir: PathBuf::from("/var/lib/weir"),
            plugin_dir: None,
            telemetry: TelemetryConfig { logs: LogsConfig::default(), metrics: Some(listen(METRICS_PORT)) },
            health: Some(listen(HEALTH_PORT)),
            events: None,
            memory: MemoryConfig { limit_bytes: 192 * MIB },
            queue: QueueConfig::of(storage),
            drain_timeout: Duration::from_secs(20),
        }
    }
}

/// Reads what is not pipelines; the caller takes those and calls `finish`.
pub(crate) fn read(section: &mut Section<'_>) -> ServiceConfig {
    let mut service = ServiceConfig::with_storage(Storage::Disk);
    if let Some(path) = section.field("data_dir").and_then(|field| field.path()) {
        service.data_dir = path.value;
    }
    service.plugin_dir = section.field("plugin_dir").and_then(|field| field.path());
    service.telemetry = telemetry(section.section("telemetry"));
    service.health = page(section.section("health"), loopback(HEALTH_PORT));
    service.events = events(section.section("events"));
    service.memory = memory(section.section("memory"));
    service.queue = queue(section.section("queue"), service.memory);
    let times = Duration::ZERO..=Duration::from_secs(600);
    if let Some(time) = section.field("drain_timeout").and_then(|field| field.duration(times)) {
        service.drain_timeout = time;
    }
    service
}

fn telemetry(mut section: Section<'_>) -> TelemetryConfig {
    let mut logs = LogsConfig::default();
    let mut keys = section.section("logs");
    let levels = [LogLevel::Error, LogLevel::Warn, LogLevel::Info, LogLevel::Debug, LogLevel::Trace];
    let words = levels.map(|level| (level.name(), level));
    if let Some(level) = keys.field("level").and_then(|field| field.choice(&words)) {
        logs.level = level;
    }
    let words = [("text", LogFormat::Text), ("json", LogFormat::Json)];
    if let Some(format) = keys.field("format").and_then(|field| field.choice(&words)) {
        logs.format = format;
    }
    keys.finish(&[("encoding", "this is `format: text` or `format: json`")]);
    let metrics = page(section.section("metrics"), loopback(METRICS_PORT));
    section.finish(&[]);
    TelemetryConfig { logs, metrics }
}

/// A page of our own: metrics, health.
fn page(mut section: Section<'_>, default: SocketAddr) -> Option<Listen> {
    let enabled = section.field("enabled").and_then(|field| field.boolean()).unwrap_or(true);
    let endpoint = listener::endpoint(&mut section, default);
    let tls = page_tls(&mut section);
    if enabled {
        listener::exposure(section.problems, &section.path, &endpoint, &tls);
    }
    section.finish(&[
        ("address", "this is `endpoint`"),
        ("readers", "this is `endpoint`"),
        ("level", "all metrics are shown; `enabled: false` shows none"),
    ]);
    enabled.then_some(Listen { endpoint, tls })
}

/// States are reported by programs of this machine, and nobody asks who they are.
fn events(mut section: Section<'_>) -> Option<Located<SocketAddr>> {
    let endpoint = section.has("endpoint").then(|| listener::endpoint(&mut section, loopback(0)));
    let (path, problems) = (section.path.clone(), section.problems);
    section
        .finish(&[("enabled", "nothing listens without an `endpoint`"), ("address", "this is `endpoint`")]);
    let endpoint = endpoint?;
    if !endpoint.value.ip().is_loopback() {
        let message =
            format!("{} can be reached from other machines, and anybody could report there", endpoint.value);
        let error = Diagnostic::error(endpoint.at, format!("{path}.endpoint"), message);
        problems.push(error.label("expected a loopback address, as in `127.0.0.1:55683`"));
        return None;
    }
    Some(endpoint)
}

/// Pages of our own speak plaintext only, so `insecure` is all that their `tls` can say.
fn page_tls(section: &mut Section<'_>) -> ServerTls {
    let Some(field) = section.field("tls") else {
        return ServerTls::Absent;
    };
    let mut tls = field.section();
    let insecure = tls.field("insecure").and_then(|field| field.boolean());
    tls.finish(&[("cert_file", "pages speak plaintext"), ("key_file", "pages speak plaintext")]);
    if insecure == Some(true) { ServerTls::Insecure } else { ServerTls::Absent }
}

fn memory(mut section: Section<'_>) -> MemoryConfig {
    // Less than this holds no request of the largest size beside the caches.
    let limit = section.field("limit_mib").and_then(|field| field.mib(32..=1_048_576));
    section.finish(&[]);
    MemoryConfig { limit_bytes: limit.unwrap_or(192 * MIB) }
}

fn queue(mut section: Section<'_>, memory: MemoryConfig) -> QueueConfig {
    let words = [("disk", Storage::Disk), ("memory", Storage::Memory)];
    let storage = section.field("storage").and_then(|field| field.choice(&words)).unwrap_or_default();
    let mut queue = QueueConfig::of(storage);
    let sizes = 1..=67_108_864;
    if let Some(field) = section.field("budget_mib") {
        match field.mib(sizes.clone()) {
            Some(size) if storage == Storage::Memory && size > memory.limit_bytes => {
                let limit = memory.limit_bytes / MIB;
                field.wrong(format!("expected at most {limit}, which is `service.memory.limit_mib`"));
            }
            Some(size) => (queue.budget_bytes, queue.budget_at) = (size, field.at()),
            None => {}
        }
    } else if storage == Storage::Memory {
        queue.budget_bytes = queue.budget_bytes.min(memory.limit_bytes / 2);
    }
    // The smallest holds the largest request of HTTP; the largest is what one damaged file may cost.
    if let Some(size) = section.field("segment_mib").and_then(|field| field.mib(4..=1024)) {
        queue.segment_bytes = size;
    }
    if let Some(size) = section.field("dead_letter_mib").and_then(|field| field.mib(sizes)) {
        queue.dead_letter_bytes = size;
    }
    section.finish(&[("when_full", "this is said by each exporter: `queue: {when_full: …}`")]);
    queue
}
