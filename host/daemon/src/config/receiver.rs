//! `receivers:` what Weir listens to.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::link::{self, LINK, LinkReceiver};
use super::listener::{self, Cors, LIMIT_HINTS, Listen, ListenLimits};
use super::location::Located;
use super::plugin::{self, PluginConfig, PoolConfig};
use super::scrape::{self, ScrapeConfig};
use super::section::{Field, Hints, Section};
use super::tls::{self, ServerTls};
use super::tree::Value;
use super::{Id, Kind};

/// The port on which OpenCensus libraries look for their agent.
pub(crate) const OPENCENSUS_PORT: u16 = 55_678;
/// OTLP over gRPC.
pub(crate) const OTLP_GRPC_PORT: u16 = 4_317;
/// OTLP over HTTP.
pub(crate) const OTLP_HTTP_PORT: u16 = 4_318;
/// Zipkin.
pub(crate) const ZIPKIN_PORT: u16 = 9_411;

/// Instances of one receiver's plugin: the host makes no more of any plugin.
const POOL_MAX: u64 = weir_model::LANES as u64;

/// Receivers that are part of the binary.
pub(crate) const NATIVE: [&str; 3] = ["opencensus", "otlp", LINK];

/// One receiver.
#[derive(Debug, Clone, PartialEq)]
pub enum ReceiverConfig {
    /// `opencensus`: streams of OpenCensus libraries, and their JSON.
    OpenCensus(OpenCensusReceiver),
    /// `otlp`.
    Otlp(OtlpReceiver),
    /// `weir`: agents that send to this one.
    Link(LinkReceiver),
    /// Anything else.
    Plugin(PluginReceiver),
}

/// `opencensus:`.
#[derive(Debug, Clone, PartialEq)]
pub struct OpenCensusReceiver {
    /// 127.0.0.1:55678 unless told otherwise; gRPC and HTTP/JSON share it.
    pub listen: Listen,
    /// Pages whose scripts may send JSON.
    pub cors: Cors,
    /// `limits:`.
    pub limits: ListenLimits,
}

/// `otlp:`. With `protocols` only those that are named are served; without it both are. What one request may hold
/// (`limits: {items_max: …, attributes_max: …}`) is said for both together.
#[derive(Debug, Clone, PartialEq)]
pub struct OtlpReceiver {
    /// `protocols: {grpc: …}`, 127.0.0.1:4317 unless told otherwise.
    pub grpc: Option<OtlpGrpc>,
    /// `protocols: {http: …}`, 127.0.0.1:4318 unless told otherwise.
    pub http: Option<OtlpHttp>,
}

/// OTLP over gRPC.
#[derive(Debug, Clone, PartialEq)]
pub struct OtlpGrpc {
    /// Where.
    pub listen: Listen,
    /// `limits:`.
    pub limits: ListenLimits,
}

/// OTLP over HTTP, protobuf and JSON.
#[derive(Debug, Clone, PartialEq)]
pub struct OtlpHttp {
    /// Where.
    pub listen: Listen,
    /// Pages whose scripts may send.
    pub cors: Cors,
    /// `limits:`.
    pub limits: ListenLimits,
}

/// A receiver that a plugin decodes for. Its addresses are settings that the plugin's schema marks.
#[derive(Debug, Clone, PartialEq)]
pub struct PluginReceiver {
    /// Which plugin, with its settings.
    pub plugin: PluginConfig,
    /// `tls:` of every address that it listens on.
    pub tls: ServerTls,
    /// `limits:` of every address that it listens on.
    pub limits: ListenLimits,
    /// `pool`: instances, which are requests that are decoded at once.
    pub pool: PoolConfig,
    /// `config: {scrape_configs: …}` in the settings: what it fetches, where it is one that fetches.
    pub scrape: Option<ScrapeConfig>,
}

impl ReceiverConfig {
    /// Addresses that are known without asking a plugin, each with the protocol's name (empty for the only one).
    pub fn listens(&self) -> Vec<(&'static str, &Listen)> {
        match self {
            Self::OpenCensus(receiver) => vec![("", &receiver.listen)],
            Self::Link(receiver) => vec![("", &receiver.listen)],
            Self::Otlp(OtlpReceiver { grpc, http }) => {
                let grpc = grpc.as_ref().map(|grpc| ("grpc", &grpc.listen));
                let http = http.as_ref().map(|http| ("http", &http.listen));
                grpc.into_iter().chain(http).collect()
            }
            Self::Plugin(_) => Vec::new(),
        }
    }

    /// What each address takes, with the protocol's name (empty for the only one).
    pub(crate) fn limits_mut(&mut self) -> Vec<(&'static str, &mut ListenLimits)> {
        match self {
            Self::OpenCensus(receiver) => vec![("", &mut receiver.limits)],
            Self::Link(receiver) => vec![("", &mut receiver.limits)],
            Self::Otlp(OtlpReceiver { grpc, http }) => {
                let grpc = grpc.as_mut().map(|grpc| ("grpc", &mut grpc.limits));
                let http = http.as_mut().map(|http| ("http", &mut http.limits));
                grpc.into_iter().chain(http).collect()
            }
            Self::Plugin(receiver) => vec![("", &mut receiver.limits)],
        }
    }

    /// The plugin, where it is one.
    pub fn plugin(&self) -> Option<&PluginConfig> {
        match self {
            Self::OpenCensus(_) | Self::Otlp(_) | Self::Link(_) => None,
            Self::Plugin(receiver) => Some(&receiver.plugin),
        }
    }

    /// How its addresses are protected.
    pub fn tls(&self) -> Vec<&ServerTls> {
        match self {
            Self::Plugin(receiver) => vec![&receiver.tls],
            Self::OpenCensus(_) | Self::Otlp(_) | Self::Link(_) => {
                self.listens().into_iter().map(|(_, listen)| &listen.tls).collect()
            }
        }
    }
}

pub(crate) fn loopback(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}

pub(crate) fn read(id: &Id, field: &Field<'_>) -> ReceiverConfig {
    let mut section = field.section();
    let is_plugin = section.has("plugin");
    match id.type_name.as_str() {
        "opencensus" if !is_plugin => {
            let receiver = opencensus(&mut section);
            section.finish(LIMIT_HINTS);
            ReceiverConfig::OpenCensus(receiver)
        }
        "otlp" if !is_plugin => ReceiverConfig::Otlp(otlp(section)),
        LINK if !is_plugin => ReceiverConfig::Link(link::receiver(section)),
        _ => {
            let tls = tls::server(&mut section);
            let mut limits = section.section("limits");
            let mut listen = listener::limits(&mut limits, ListenLimits::http());
            listener::counts(&mut limits, &mut listen);
            let pool = plugin::pool(&mut section, POOL_MAX, true);
            let scrape = scrape::read(&id.type_name, &section);
            let mut plugin = plugin::read(id, Kind::Receiver, section, limits, field.key_at);
            if scrape.is_some() {
                scrape::trim(&mut plugin.settings);
            }
            ReceiverConfig::Plugin(PluginReceiver { plugin, tls, limits: listen, pool, scrape })
        }
    }
}

fn opencensus(section: &mut Section<'_>) -> OpenCensusReceiver {
    let listen = listener::listen(section, loopback(OPENCENSUS_PORT));
    let cors = listener::cors(section);
    let mut keys = section.section("limits");
    let mut limits = listener::limits(&mut keys, ListenLimits::streams());
    listener::counts(&mut keys, &mut limits);
    keys.finish(&[]);
    OpenCensusReceiver { listen, cors, limits }
}

fn otlp(mut section: Section<'_>) -> OtlpReceiver {
    let mut keys = section.section("limits");
    let mut held = ListenLimits::grpc();
    listener::counts(&mut keys, &mut held);
    keys.finish(&[
        ("request_mib", OF_PROTOCOL),
        ("request_timeout", OF_PROTOCOL),
        ("connections_max", OF_PROTOCOL),
        ("streams_max", OF_PROTOCOL),
    ]);
    let mut receiver = match section.field("protocols") {
        Some(field) => protocols(&field),
        None => OtlpReceiver {
            grpc: Some(otlp_grpc(Section::absent(section.problems, &section.path, section.at))),
            http: Some(otlp_http(Section::absent(section.problems, &section.path, section.at))),
        },
    };
    section.finish(&[("endpoint", "an endpoint belongs to a protocol: `protocols: {grpc: {endpoint: …}}`")]);
    let OtlpReceiver { grpc, http } = &mut receiver;
    let limits =
        grpc.iter_mut().map(|grpc| &mut grpc.limits).chain(http.iter_mut().map(|http| &mut http.limits));
    for limits in limits {
        limits.items_max = held.items_max;
        limits.attributes_max = held.attributes_max;
    }
    receiver
}

const OF_PROTOCOL: &str = "this is said for each protocol: `protocols: {grpc: {limits: …}}`";

const OF_RECEIVER: Hints = &[
    ("items_max", "this is said for all protocols together: `limits` beside `protocols`"),
    ("attributes_max", "this is said for all protocols together: `limits` beside `protocols`"),
];

fn protocols(field: &Field<'_>) -> OtlpReceiver {
    let mut protocols = field.section();
    let grpc = protocols.field("grpc").map(|field| otlp_grpc(field.section()));
    let http = protocols.field("http").map(|field| otlp_http(field.section()));
    // A protocol with a slip in its name is spoken of once.
    let none = protocols.rest().is_empty() && grpc.is_none() && http.is_none();
    protocols.finish(&[]);
    if none && !matches!(field.node.value, Value::List(_)) {
        field.wrong("expected `grpc`, `http` or both");
    }
    OtlpReceiver { grpc, http }
}

fn otlp_grpc(mut section: Section<'_>) -> OtlpGrpc {
    let listen = listener::listen(&mut section, loopback(OTLP_GRPC_PORT));
    let mut keys = section.section("limits");
    let limits = listener::limits(&mut keys, ListenLimits::grpc());
    keys.finish(OF_RECEIVER);
    section.finish(LIMIT_HINTS);
    OtlpGrpc { listen, limits }
}

fn otlp_http(mut section: Section<'_>) -> OtlpHttp {
    let listen = listener::listen(&mut section, loopback(OTLP_HTTP_PORT));
    let cors = listener::cors(&mut section);
    let mut keys = section.section("limits");
    let limits = listener::limits(&mut keys, ListenLimits::http());
    keys.finish(OF_RECEIVER);
    section.finish(LIMIT_HINTS);
    OtlpHttp { listen, cors, limits }
}

/// What runs without a file: the standard ports, and Zipkin where its plugin is there.
pub(crate) fn defaults(zipkin: bool) -> Vec<(Id, Located<ReceiverConfig>)> {
    let listen = |port| Listen { endpoint: Located::default_of(loopback(port)), tls: ServerTls::Absent };
    let opencensus = ReceiverConfig::OpenCensus(OpenCensusReceiver {
        listen: listen(OPENCENSUS_PORT),
        cors: Cors::default(),
        limits: ListenLimits::streams(),
    });
    let otlp = ReceiverConfig::Otlp(OtlpReceiver {
        grpc: Some(OtlpGrpc { listen: listen(OTLP_GRPC_PORT), limits: ListenLimits::grpc() }),
        http: Some(OtlpHttp {
            listen: listen(OTLP_HTTP_PORT),
            cors: Cors::default(),
            limits: ListenLimits::http(),
        }),
    });
    let zipkin = zipkin.then(|| {
        let settings = serde_json::json!({ "endpoint": loopback(ZIPKIN_PORT).to_string() });
        let plugin = PluginConfig::bundled("zipkin-receiver", settings);
        ReceiverConfig::Plugin(PluginReceiver {
            plugin,
            tls: ServerTls::Absent,
            limits: ListenLimits::http(),
            pool: PoolConfig::default(),
            scrape: None,
        })
    });
    [("opencensus", Some(opencensus)), ("otlp", Some(otlp)), ("zipkin", zipkin)]
        .into_iter()
        .filter_map(|(type_name, receiver)| Some((Id::of(type_name), Located::default_of(receiver?))))
        .collect()
}
