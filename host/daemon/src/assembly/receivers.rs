//! Receivers and their doors.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context;
use weir_link::collector::Collector;
use weir_model::count::{PageCounts, ReceiverCounts, TlsCounts};
use weir_model::{Consumer, Signal};
use weir_net::Drain;
use weir_net::limits::{GRPC_MESSAGE_BYTES_MAX, ListenLimits as NetLimits};
use weir_net::tls::{MinVersion, ServerTls as Certificates, TlsConfig};
use weir_pipeline::Fanout;
use weir_plugin::{ListenKind, Listener};
use weir_receiver::cors::CorsConfig;
use weir_receiver::door::{Behind, Bound, Pipelines, Settings};
use weir_receiver::intake::CountLimits;
use weir_receiver::opencensus::TranslationCounts;
use weir_receiver::{opencensus, otlp, plugin_grpc, plugin_http, plugin_udp, scrape};

use super::collector::{self, Shown};
use super::pipelines::{self, Line};
use super::tasks::{Running, Tasks};
use super::triggers::Print;
use super::{Bench, plugins, scrape as scraping};
use crate::command::Failure;
use crate::config::scalar::listen_address;
use crate::config::{
    Config, Cors, Id, Listen, ListenLimits, OpenCensusReceiver, OtlpReceiver, PipelineId, PluginReceiver,
    ReceiverConfig, ServerTls,
};
use crate::fleet::Roster;
use crate::telemetry::metrics::PluginSource;
use crate::validate::Transport;

/// A receiver, bound.
pub(crate) enum Entrance {
    /// Requests, each with an answer; datagrams without one.
    Requests(Bound),
    /// Streams of OpenCensus libraries, and pages.
    OpenCensus(opencensus::Bound),
    /// Nobody comes: it fetches.
    Fetching(scrape::Ready),
    /// Streams of agents.
    Link(collector::Ready),
}

impl Entrance {
    /// Each protocol with its address.
    pub(crate) fn local_addrs(&self) -> Vec<(&'static str, SocketAddr)> {
        match self {
            Self::Requests(bound) => bound.local_addrs(),
            Self::OpenCensus(bound) => bound.local_addrs(),
            Self::Fetching(_) => Vec::new(),
            Self::Link(ready) => vec![("grpc", ready.local_addr())],
        }
    }

    fn certificates(&self) -> Vec<Arc<Certificates>> {
        match self {
            Self::Requests(bound) => bound.tls(),
            Self::OpenCensus(bound) => bound.tls(),
            Self::Fetching(_) => Vec::new(),
            Self::Link(ready) => ready.certificates().into_iter().collect(),
        }
    }

    /// Serves until `drain` is signaled and everything has ended; dropping the future cuts what is still open.
    ///
    /// # Errors
    /// Where a socket cannot be handed to the runtime.
    pub(crate) async fn serve(self, drain: Drain) -> io::Result<()> {
        match self {
            Self::Requests(bound) => bound.serve(drain).await,
            Self::OpenCensus(bound) => bound.serve(drain).await,
            Self::Fetching(ready) => ready.serve(drain).await,
            Self::Link(ready) => ready.serve(drain).await,
        }
    }
}

/// What a receiver, or a page, keeps when its door is made anew.
#[derive(Clone, Default)]
pub(crate) struct Standing {
    /// Whom it feeds.
    pub(crate) behind: Behind,
    /// What it counts.
    pub(crate) counts: ReceiverCounts,
    /// What translation has cost; of `opencensus` alone.
    pub(crate) losses: TranslationCounts,
    /// What fetching goes on with; of receivers that fetch alone.
    pub(crate) scraping: scraping::Standing,
    /// What a collector goes on with; of receivers that agents come to.
    pub(crate) collector: collector::Standing,
    /// What a page counts; of exporters alone.
    pub(crate) page: PageCounts,
    /// What its TLS counts, where it has some.
    pub(crate) tls: TlsCounts,
}

impl Standing {
    /// From now on it feeds the pipelines that name this receiver.
    pub(crate) fn feeds(&self, config: &Config, lines: &BTreeMap<PipelineId, Line>, id: &Id) {
        self.behind.exchange(fed(config, lines, id));
        self.collector.fed.exchange(config, lines, id);
    }
}

/// A receiver with its addresses, or an exporter's page with its.
pub(crate) struct Door {
    /// What outlives it.
    pub(crate) standing: Standing,
    /// Whether it translates, so that `losses` are worth showing.
    pub(crate) translates: bool,
    /// Whether it fetches, so that `scraping` is worth showing.
    pub(crate) fetches: bool,
    /// What its plugin counts.
    pub(crate) figures: Option<PluginSource>,
    /// Each protocol with its address.
    pub(crate) addresses: Vec<(&'static str, SocketAddr)>,
    /// Ends it alone, or with all others.
    pub(crate) drain: Drain,
    certificates: Vec<Arc<Certificates>>,
    /// Who shows its agents; of receivers that agents come to.
    pub(crate) roster: Option<Arc<dyn Roster>>,
    /// What is kept from its start on; likewise.
    collector: Option<Arc<Collector>>,
    /// What it reads with until it starts, and keeps from then on; of receivers that fetch alone.
    reader: Option<scraping::Kept>,
    /// The TLS files of what it fetches as they were before they were read.
    files: Vec<Option<Print>>,
    idle: Option<Entrance>,
    /// Since it has started.
    pub(crate) running: Option<Running>,
}

impl Door {
    /// The door of this entrance; nobody is served yet.
    pub(crate) fn new(entrance: Entrance, standing: Standing, drain: Drain) -> Self {
        let certificates = entrance.certificates();
        certificates.iter().for_each(|certificates| certificates.count_into(&standing.tls));
        Self {
            standing,
            fetches: false,
            translates: false,
            figures: None,
            addresses: entrance.local_addrs(),
            drain,
            certificates,
            roster: None,
            collector: None,
            reader: None,
            files: Vec::new(),
            idle: Some(entrance),
            running: None,
        }
    }

    /// Whether it speaks TLS.
    pub(crate) fn has_tls(&self) -> bool {
        !self.certificates.is_empty()
    }

    /// Whether it serves.
    pub(crate) fn is_serving(&self) -> bool {
        self.running.as_ref().is_some_and(|running| !running.has_ended())
    }

    pub(crate) fn start(&mut self, name: String, tasks: &mut Tasks) {
        if let Some(entrance) = self.idle.take() {
            self.standing.scraping.keep(self.reader.take());
            self.standing.collector.keep(self.collector.take());
            self.running = Some(tasks.spawn(name, entrance.serve(self.drain.clone())));
        }
    }

    /// Whether the TLS files of what it fetches are others than those that it was built with: they are read only then.
    pub(crate) fn is_outdated(&self, config: &ReceiverConfig) -> bool {
        match config {
            ReceiverConfig::Plugin(PluginReceiver { scrape: Some(config), .. }) => {
                self.files != scraping::prints(config)
            }
            ReceiverConfig::Otlp(_)
            | ReceiverConfig::OpenCensus(_)
            | ReceiverConfig::Link(_)
            | ReceiverConfig::Plugin(_) => false,
        }
    }

    /// Reads the files of its certificates again; says what is wrong with them. New connections use them.
    pub(crate) fn read_certificates(&self) -> Vec<String> {
        let wrong = self.certificates.iter().filter_map(|certificates| certificates.reload().err());
        wrong.map(|error| format!("{:#}", anyhow::Error::from(error))).collect()
    }
}

/// Binds a receiver; nobody is served yet.
///
/// # Errors
/// An address or a file that cannot be used, a plugin that cannot be built.
pub(crate) async fn open(
    bench: &Bench<'_>,
    id: &Id,
    standing: Standing,
    drain: Drain,
) -> Result<Door, Failure> {
    let settings = Settings {
        id: id.to_string().into(),
        pipelines: standing.behind.clone(),
        ledger: Arc::clone(&bench.ledger),
        counts: standing.counts.clone(),
    };
    let config = bench.config;
    let receiver = &config.receivers[id].value;
    let (mut figures, mut reader, mut files) = (None, None, Vec::new());
    let started = match receiver {
        ReceiverConfig::Otlp(otlp) => otlp_config(otlp).bind(settings).map(Entrance::Requests),
        ReceiverConfig::OpenCensus(opencensus) => {
            let (config, nodes) = (opencensus_config(opencensus), Arc::clone(&bench.nodes));
            config.bind(settings, nodes, standing.losses.clone()).map(Entrance::OpenCensus)
        }
        ReceiverConfig::Link(link) => {
            let ready = collector::open(bench, id, link, &standing.collector, settings).await?;
            let roster = Some(Shown::of(id, &ready.collector, &standing.collector));
            let collector = Some(Arc::clone(&ready.collector));
            return Ok(Door { roster, collector, ..Door::new(Entrance::Link(ready), standing, drain) });
        }
        ReceiverConfig::Plugin(plugin @ PluginReceiver { scrape: Some(config), .. }) => {
            let opened = scraping::open(bench, id, plugin, config, &standing.scraping, settings).await?;
            figures = Some(opened.kept.shown.clone());
            (reader, files) = (Some(opened.kept), opened.files);
            Ok(Entrance::Fetching(opened.ready))
        }
        ReceiverConfig::Plugin(plugin) => {
            let (bound, shown) = of_plugin(bench, id, plugin, settings).await?;
            figures = Some(shown);
            Ok(Entrance::Requests(bound))
        }
    };
    let entrance = started.with_context(|| format!("start receiver {id}"))?;
    let fetches = matches!(entrance, Entrance::Fetching(_));
    let translates = matches!(receiver, ReceiverConfig::OpenCensus(_));
    Ok(Door { fetches, translates, figures, reader, files, ..Door::new(entrance, standing, drain) })
}

/// Who takes what a receiver hands on.
fn fed(config: &Config, lines: &BTreeMap<PipelineId, Line>, id: &Id) -> Pipelines {
    let consumer = |signal: Signal| -> Option<Arc<dyn Consumer>> {
        let fed = pipelines::fed_by(config, lines, id, signal);
        (!fed.is_empty()).then(|| Arc::new(Fanout::new(fed)) as Arc<dyn Consumer>)
    };
    Pipelines {
        traces: consumer(Signal::Traces),
        metrics: consumer(Signal::Metrics),
        logs: consumer(Signal::Logs),
    }
}

/// What carries bytes to a door of this protocol.
pub(crate) fn transport(protocol: &str) -> Transport {
    if protocol == "udp" { Transport::Udp } else { Transport::Tcp }
}

/// The addresses that a receiver wants.
///
/// # Errors
/// A plugin that cannot be loaded, an address that it was not given as `host:port` (which the check of the file has told).
pub(crate) async fn wanted(bench: &Bench<'_>, id: &Id) -> Result<Vec<(Transport, SocketAddr)>, Failure> {
    let receiver = &bench.config.receivers[id].value;
    let ReceiverConfig::Plugin(plugin) = receiver else {
        let listens = receiver.listens().into_iter();
        return Ok(listens.map(|(_, listen)| (Transport::Tcp, listen.endpoint.value)).collect());
    };
    let listeners = plugins::listeners(bench, id, &plugin.plugin).await?;
    addresses(&format!("start receiver {id}"), &listeners)
}

/// The addresses of a plugin's listeners.
///
/// # Errors
/// As [`wanted`], after `doing`.
pub(crate) fn addresses(
    doing: &str,
    listeners: &[Listener],
) -> Result<Vec<(Transport, SocketAddr)>, Failure> {
    let parse = |listener: &Listener| {
        let address = listen_address(&listener.address).ok();
        let address = address.with_context(|| format!("{doing}: listen on {}", listener.address))?;
        Ok((Transport::of(listener.kind), address))
    };
    listeners.iter().map(parse).collect()
}

async fn of_plugin(
    bench: &Bench<'_>,
    id: &Id,
    receiver: &PluginReceiver,
    settings: Settings,
) -> Result<(Bound, PluginSource), Failure> {
    let (plugin, listeners, shown) = plugins::receiver(bench, id, receiver).await?;
    let mut bound = Bound::new();
    for Listener { name, kind, address, .. } in listeners {
        let (plugin, settings) = (Arc::clone(&plugin), settings.clone());
        let (limits, counts) = (listen_limits(&receiver.limits), count_limits(&receiver.limits));
        let done = match kind {
            ListenKind::Http => plugin_http::Config {
                endpoint: address,
                max_request_body_size: bytes(receiver.limits.request_bytes_max),
                tls: tls(&receiver.tls),
                cors: None,
                limits,
                counts,
            }
            .bind(&mut bound, &name, plugin, settings),
            ListenKind::Grpc => plugin_grpc::Config {
                endpoint: address,
                message_bytes_max: message_bytes_max(&receiver.limits),
                tls: tls(&receiver.tls),
                limits,
                counts,
            }
            .bind(&mut bound, &name, plugin, settings),
            ListenKind::Udp => {
                plugin_udp::Config { endpoint: address, counts }.bind(&mut bound, &name, plugin, settings)
            }
        };
        done.with_context(|| format!("start receiver {id}: {name}"))?;
    }
    Ok((bound, shown))
}

/// What a user wrote, else what gRPC servers take: a plugin's limits are HTTP's where nothing is written.
fn message_bytes_max(limits: &ListenLimits) -> usize {
    let written = bytes(limits.request_bytes_max);
    if limits.request_at.is_some() { written } else { written.min(GRPC_MESSAGE_BYTES_MAX) }
}

fn otlp_config(receiver: &OtlpReceiver) -> otlp::Config {
    let grpc = receiver.grpc.as_ref().map(|grpc| otlp::GrpcConfig {
        endpoint: endpoint(&grpc.listen),
        max_recv_msg_size_mib: mib(grpc.limits.request_bytes_max),
        tls: tls(&grpc.listen.tls),
        limits: listen_limits(&grpc.limits),
    });
    let http = receiver.http.as_ref().map(|http| otlp::HttpConfig {
        endpoint: endpoint(&http.listen),
        max_request_body_size: bytes(http.limits.request_bytes_max),
        tls: tls(&http.listen.tls),
        cors: cors(&http.cors),
        limits: listen_limits(&http.limits),
    });
    let limits = receiver.grpc.as_ref().map(|grpc| &grpc.limits);
    let limits = limits
        .or(receiver.http.as_ref().map(|http| &http.limits))
        .map_or_else(CountLimits::default, count_limits);
    otlp::Config { protocols: otlp::Protocols { grpc, http }, limits }
}

fn opencensus_config(receiver: &OpenCensusReceiver) -> opencensus::Config {
    opencensus::Config {
        endpoint: endpoint(&receiver.listen),
        max_recv_msg_size_mib: mib(receiver.limits.request_bytes_max),
        tls: tls(&receiver.listen.tls),
        cors: cors(&receiver.cors),
        limits: listen_limits(&receiver.limits),
        items: count_limits(&receiver.limits),
    }
}

fn endpoint(listen: &Listen) -> String {
    listen.endpoint.value.to_string()
}

pub(crate) fn tls(tls: &ServerTls) -> Option<TlsConfig> {
    match tls {
        ServerTls::Absent | ServerTls::Insecure => None,
        ServerTls::Files(files) => Some(TlsConfig {
            cert_file: files.cert_file.value.clone(),
            key_file: files.key_file.value.clone(),
            client_ca_file: files.client_ca_file.as_ref().map(|file| file.value.clone()),
            crl_file: files.crl_file.as_ref().map(|file| file.value.clone()),
            min_version: MinVersion::default(),
        }),
    }
}

fn cors(cors: &Cors) -> Option<CorsConfig> {
    if cors.allowed_origins.is_empty() {
        return None;
    }
    let texts =
        |list: &[crate::config::Located<String>]| list.iter().map(|text| text.value.clone()).collect();
    Some(CorsConfig {
        allowed_origins: texts(&cors.allowed_origins),
        allowed_headers: texts(&cors.allowed_headers),
        max_age: cors.max_age.map(|age| u32::try_from(age.as_secs()).unwrap_or(u32::MAX)),
    })
}

pub(crate) fn listen_limits(limits: &ListenLimits) -> NetLimits {
    NetLimits {
        connections_max: limits.connections_max,
        streams_max: limits.streams_max,
        age_max: limits.age_max,
        age_grace: limits.age_grace,
        header_timeout: limits.header_timeout,
        idle_timeout: limits.idle_timeout,
        request_timeout: limits.request_timeout,
        ratio_max: limits.ratio_max,
        ..NetLimits::default()
    }
}

fn count_limits(limits: &ListenLimits) -> CountLimits {
    CountLimits { items_max: limits.items_max, attributes_max: limits.attributes_max }
}

fn bytes(limit: u64) -> usize {
    usize::try_from(limit).unwrap_or(usize::MAX)
}

fn mib(limit: u64) -> usize {
    bytes(limit.div_ceil(1024 * 1024))
}
