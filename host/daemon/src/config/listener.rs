//! What everything that listens has: an address, TLS, limits, CORS.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use super::location::{Located, Location};
use super::report::{Diagnostic, Problems};
use super::scalar::{AddressSlip, listen_address};
use super::section::{Field, Hints, MIB, Section};
use super::tls::{self, ServerTls};

/// An address and how it is protected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listen {
    /// `endpoint:` where the listener binds; port 0 takes any free one. A default's place is the part's key.
    pub endpoint: Located<SocketAddr>,
    /// `tls:`; plaintext on an address that is not loopback needs `insecure: true`.
    pub tls: ServerTls,
}

/// `limits:` of a listener. Everything is counted after decompression.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenLimits {
    /// `request_mib`: size of one body or one message. 4 MiB for gRPC, 20 MiB for HTTP; less where the memory's limit
    /// could never pay for that.
    pub request_bytes_max: u64,
    /// Where `request_mib` is written; none for a default.
    pub request_at: Option<Location>,
    /// `ratio_max`: how many bytes one compressed byte may become. 100.
    pub ratio_max: u32,
    /// `request_timeout`: how long one body or one message may take to arrive. 60 s.
    pub request_timeout: Duration,
    /// `items_max`: spans, data points or log records in one request. 65,536.
    pub items_max: u32,
    /// `attributes_max`: attributes of one item; an item with more is left out and reported. 256.
    pub attributes_max: u32,
    /// `connections_max`: connections held at once; further ones wait. 8,192.
    pub connections_max: usize,
    /// `streams_max`: streams at once on one HTTP/2 connection. 128.
    pub streams_max: u32,
    /// `age_max`: how old a connection may become before it is asked to end. 30 min.
    pub age_max: Duration,
    /// `age_grace`: how long what is under way may take after that. 60 s.
    pub age_grace: Duration,
    /// `header_timeout`: how long a request's headers may take. 10 s.
    pub header_timeout: Duration,
    /// `idle_timeout`: how long an HTTP/1 connection may wait between two requests. 60 s.
    pub idle_timeout: Duration,
}

impl ListenLimits {
    /// The defaults for gRPC.
    pub fn grpc() -> Self {
        Self {
            request_bytes_max: 4 * MIB,
            request_at: None,
            ratio_max: 100,
            request_timeout: Duration::from_secs(60),
            items_max: 65_536,
            attributes_max: 256,
            connections_max: 8_192,
            streams_max: 128,
            age_max: Duration::from_secs(30 * 60),
            age_grace: Duration::from_secs(60),
            header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(60),
        }
    }

    /// The defaults for HTTP.
    pub fn http() -> Self {
        Self { request_bytes_max: 20 * MIB, ..Self::grpc() }
    }

    /// OpenCensus: a library notices the end of its stream only by losing the next batch, so connections may become as
    /// old as they like unless a user says otherwise.
    pub fn streams() -> Self {
        Self { age_max: Duration::from_secs(10 * 365 * 24 * 3600), ..Self::grpc() }
    }
}

/// `cors:` of a listener that browsers may speak to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Cors {
    /// `allowed_origins`: pages whose scripts may send, as `https://app.example`, `https://*.example` or `*`. None.
    pub allowed_origins: Vec<Located<String>>,
    /// `allowed_headers`: headers that they may set besides the usual ones.
    pub allowed_headers: Vec<Located<String>>,
    /// `max_age`: how long a browser may remember the answer. 2 h.
    pub max_age: Option<Duration>,
}

/// The longest time that a limit may be: longer ones are as good as none.
const LIMIT_TIME_MAX: Duration = Duration::from_secs(24 * 3600);

/// The shortest: less refuses honest senders.
const LIMIT_TIME_MIN: Duration = Duration::from_millis(100);

pub(crate) fn listen(section: &mut Section<'_>, default: SocketAddr) -> Listen {
    let endpoint = endpoint(section, default);
    let listen = Listen { endpoint, tls: tls::server(section) };
    let path = section.path.clone();
    exposure(section.problems, &path, &listen.endpoint, &listen.tls);
    listen
}

/// `endpoint`. One that is wrong has been spoken of; port 0 in its place quarrels with nobody.
pub(crate) fn endpoint(section: &mut Section<'_>, default: SocketAddr) -> Located<SocketAddr> {
    match section.field("endpoint") {
        None => Located::new(default, section.at),
        Some(field) => {
            let nowhere = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
            address(&field).unwrap_or_else(|| Located::new(nowhere, field.at()))
        }
    }
}

/// An address to listen on, or what to write instead.
fn address(field: &Field<'_>) -> Option<Located<SocketAddr>> {
    let text = field.text("an address to listen on, as in `127.0.0.1:4317`")?;
    match listen_address(text) {
        Ok(address) => Some(Located::new(address, field.at())),
        Err(slip) => {
            field.wrong(instead(&slip));
            None
        }
    }
}

/// What to write instead of an address that is none.
pub(crate) fn instead(slip: &AddressSlip) -> String {
    match slip {
        AddressSlip::Form => {
            "expected an address and a port, as in `127.0.0.1:4317` or `[::1]:4317`".to_owned()
        }
        AddressSlip::Port => "expected a port from 0 to 65535 after the last colon".to_owned(),
        AddressSlip::NoHost(port) => {
            format!(
                "expected an address before the colon: `127.0.0.1:{port}`, or `0.0.0.0:{port}` for all of them"
            )
        }
        AddressSlip::Url(authority) => format!("expected an address to listen on and no URL: `{authority}`"),
        AddressSlip::Name(name) => {
            format!(
                "expected an IP address or `localhost`: `{name}` is a name that may mean several addresses"
            )
        }
    }
}

/// Plaintext is for the machine itself, unless the user says otherwise in so many words.
pub(crate) fn exposure(problems: &Problems, path: &str, endpoint: &Located<SocketAddr>, tls: &ServerTls) {
    match tls {
        ServerTls::Insecure | ServerTls::Files(_) => {}
        ServerTls::Absent if endpoint.value.ip().is_loopback() => {}
        ServerTls::Absent => problems.push(
            Diagnostic::error(
                endpoint.at,
                format!("{path}.endpoint"),
                format!("{} can be reached from other machines, and there is no TLS", endpoint.value),
            )
            .label("expected a loopback address, or `tls` beside it")
            .note("with a certificate, as `weir cert init` and `weir cert issue` make it: `tls: {cert_file: …, key_file: …}`")
            .note("in plaintext, where the network is trusted: `tls: {insecure: true}`"),
        ),
    }
}

/// As [`exposure`], of datagrams: there is no TLS for them.
pub(crate) fn datagram_exposure(
    problems: &Problems,
    path: &str,
    endpoint: &Located<SocketAddr>,
    tls: &ServerTls,
) {
    let error = match tls {
        ServerTls::Insecure => return,
        ServerTls::Absent if endpoint.value.ip().is_loopback() => return,
        ServerTls::Absent => Diagnostic::error(
            endpoint.at,
            format!("{path}.endpoint"),
            format!("{} can be reached from other machines, and UDP has no TLS", endpoint.value),
        )
        .label("expected a loopback address")
        .note("where the network is trusted: `tls: {insecure: true}`"),
        ServerTls::Files(files) => Diagnostic::error(
            files.cert_file.at,
            format!("{path}.endpoint"),
            format!("{} takes datagrams, and UDP has no TLS", endpoint.value),
        )
        .label("expected no certificate where one of the addresses is UDP's")
        .note("give the addresses with TLS a receiver of their own: `TYPE/tls`"),
    };
    problems.push(error);
}

/// What other programs call our limits.
pub(crate) const LIMIT_HINTS: Hints = &[
    ("max_recv_msg_size_mib", "this is `limits: {request_mib: …}`"),
    ("max_request_body_size", "this is `limits: {request_mib: …}`"),
    ("max_concurrent_streams", "this is `limits: {streams_max: …}`"),
    ("read_header_timeout", "this is `limits: {header_timeout: …}`"),
    ("idle_timeout", "this is `limits: {idle_timeout: …}`"),
    ("cors_allowed_origins", "this is `cors: {allowed_origins: […]}`"),
    ("insecure", "this is `tls: {insecure: true}`"),
    ("transport", "receivers listen on TCP"),
    ("auth", "senders are told apart by their certificates: `tls: {client_ca_file: …}`"),
];

/// Reads the limits of connections and requests; the caller goes on and calls `finish`.
pub(crate) fn limits(section: &mut Section<'_>, limits: ListenLimits) -> ListenLimits {
    let mut limits = connections(section, limits);
    // A frame's length has 32 bits, and one request may not eat a budget that is meant for many.
    if let Some(field) = section.field("request_mib")
        && let Some(size) = field.mib(1..=1024)
    {
        limits.request_bytes_max = size;
        limits.request_at = Some(field.at());
    }
    number(section, "ratio_max", 1..=100_000, &mut limits.ratio_max);
    limits
}

/// Those of them that [`connections`] reads.
pub(crate) const CONNECTION_KEYS: [&str; 7] = [
    "request_timeout",
    "age_max",
    "age_grace",
    "header_timeout",
    "idle_timeout",
    "streams_max",
    "connections_max",
];

/// Reads the limits of connections, and of the time of one request.
pub(crate) fn connections(section: &mut Section<'_>, mut limits: ListenLimits) -> ListenLimits {
    let times = LIMIT_TIME_MIN..=LIMIT_TIME_MAX;
    let time = |section: &mut Section<'_>, key, into: &mut Duration| {
        if let Some(time) = section.field(key).and_then(|field| field.duration(times.clone())) {
            *into = time;
        }
    };
    time(section, "request_timeout", &mut limits.request_timeout);
    time(section, "age_max", &mut limits.age_max);
    time(section, "age_grace", &mut limits.age_grace);
    time(section, "header_timeout", &mut limits.header_timeout);
    time(section, "idle_timeout", &mut limits.idle_timeout);
    number(section, "streams_max", 1..=65_536, &mut limits.streams_max);
    let mut connections = 0;
    number(section, "connections_max", 1..=1_000_000, &mut connections);
    if connections > 0 {
        limits.connections_max = connections as usize;
    }
    limits
}

/// Reads the limits of what one request may hold.
pub(crate) fn counts(section: &mut Section<'_>, limits: &mut ListenLimits) {
    number(section, "items_max", 1..=16_777_216, &mut limits.items_max);
    number(section, "attributes_max", 1..=65_536, &mut limits.attributes_max);
}

fn number(
    section: &mut Section<'_>,
    key: &'static str,
    range: std::ops::RangeInclusive<u64>,
    into: &mut u32,
) {
    let read = section.field(key).and_then(|field| field.integer(range));
    if let Some(number) = read.and_then(|number| u32::try_from(number).ok()) {
        *into = number;
    }
}

pub(crate) fn cors(section: &mut Section<'_>) -> Cors {
    let mut cors = section.section("cors");
    let texts = |section: &mut Section<'_>, key, of: &str| -> Vec<Located<String>> {
        let items = section.field(key).map(|field| field.list(of)).unwrap_or_default();
        items
            .iter()
            .filter_map(|item| Some(Located::new(item.text("a text")?.to_owned(), item.at())))
            .collect()
    };
    let allowed_origins = texts(&mut cors, "allowed_origins", "origins");
    let allowed_headers = texts(&mut cors, "allowed_headers", "header names");
    let ages = Duration::ZERO..=LIMIT_TIME_MAX;
    let max_age = cors.field("max_age").and_then(|field| field.duration(ages));
    cors.finish(&[]);
    Cors { allowed_origins, allowed_headers, max_age }
}
