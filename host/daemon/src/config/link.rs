//! `weir:` as an exporter and as a receiver: the two ends of the link between an agent and a collector.
//!
//! Over the link goes what was promised to senders, under the name of an agent. So there is no plaintext but on loopback, and
//! each end shows a certificate.

use std::time::Duration;

use http::Uri;

use super::listener::{self, LIMIT_HINTS, Listen, ListenLimits};
use super::location::Located;
use super::receiver::loopback;
use super::report::Diagnostic;
use super::section::{Field, Hints, MIB, Section};
use super::tls::{self, ClientTls, ServerTls};
use super::veil::may_bear_secret;

/// The type of both ends.
pub(crate) const LINK: &str = "weir";

/// The port of a collector, unless told otherwise: beside that on which OpenCensus libraries look for their agent.
pub(crate) const LINK_PORT: u16 = 55_680;

/// Bytes of an agent's name: what a key in the collector's log may have.
const IDENTITY_BYTES_MAX: usize = weir_model::SOURCE_NAME_BYTES_MAX;

/// The size of a bundle that a collector takes, unless told otherwise: the largest request that an agent's doors take (20 MiB),
/// with what is added to it.
const BUNDLE_BYTES_MAX: u64 = 32 * MIB;

/// The shortest interval of heartbeats: whoever is silent for two and a half of them is dead, which a busy machine may well be
/// for a moment.
const HEARTBEAT_MIN: Duration = Duration::from_millis(100);

/// The longest: more is as good as none.
const HEARTBEAT_MAX: Duration = Duration::from_secs(3600);

/// What makes certificates.
const CERT: &str = "`weir cert init` makes an authority, `weir cert issue` a certificate for each machine";

/// `weir:` under `exporters`: a collector that is sent to.
#[derive(Debug, Clone, PartialEq)]
pub struct LinkExporter {
    /// `endpoint`, with the scheme that follows from it and from `tls`: `https://collector.example:55680`.
    pub endpoint: Located<Uri>,
    /// `encoding` of records on the way.
    pub encoding: LinkEncoding,
    /// `identity`: the agent's name, where no certificate says it. Without it a UUID that lies in the data folder.
    pub identity: Option<Located<String>>,
    /// `tls`.
    pub tls: ClientTls,
}

/// How records are packed on the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LinkEncoding {
    /// `zstd`, where the collector knows it.
    #[default]
    Zstd,
    /// `none`: as they lie in the queue.
    None,
}

/// `weir:` under `receivers`: a collector that agents send to.
#[derive(Debug, Clone, PartialEq)]
pub struct LinkReceiver {
    /// 127.0.0.1:55680 unless told otherwise.
    pub listen: Listen,
    /// `heartbeat`: an agent of which nothing was heard for two and a half of these is gone. 30 s; 0 never looks.
    pub heartbeat: Duration,
    /// `credit`: bytes that one agent may send beyond what has been persisted. 8 MiB.
    pub credit_bytes: u64,
    /// `limits` of connections; `request_mib` is the size of one bundle of records. 32 MiB.
    pub limits: ListenLimits,
}

impl LinkReceiver {
    /// The defaults, at this address.
    fn at(listen: Listen) -> Self {
        Self {
            listen,
            heartbeat: weir_link::limits::HEARTBEAT_DEFAULT,
            credit_bytes: weir_link::limits::CREDIT_BYTES,
            limits: ListenLimits { request_bytes_max: BUNDLE_BYTES_MAX, ..ListenLimits::streams() },
        }
    }
}

/// What other keys of exporters are here.
pub(crate) const EXPORTER_HINTS: Hints = &[
    ("timeout", "a link waits for as long as its collector is away: what was acknowledged is kept"),
    ("pool", "each lane of the queue has one bundle under way"),
    ("compression", "this is `encoding: zstd` or `encoding: none`"),
    ("headers", "an agent is known by its certificate: `tls: {cert_file: …, key_file: …}`"),
    ("auth", "an agent is known by its certificate: `tls: {cert_file: …, key_file: …}`"),
    ("sending_queue", "this is `queue` here, and `service: {queue: …}` for all exporters"),
    ("retry_on_failure", "this is `retry`"),
    ("batcher", "this is `batch`"),
    ("insecure", "plaintext is for loopback addresses"),
];

/// Reads what is the link's own; the caller has read how it is tried, and calls `finish`.
pub(crate) fn exporter(section: &mut Section<'_>) -> LinkExporter {
    let words = [("zstd", LinkEncoding::Zstd), ("none", LinkEncoding::None)];
    let encoding = section.field("encoding").and_then(|field| field.choice(&words)).unwrap_or_default();
    let tls = tls::client(section);
    let field = section.field("endpoint");
    let endpoint = match &field {
        Some(field) => endpoint(field, &tls),
        None => {
            let error =
                Diagnostic::error(section.at, section.path.clone(), "an exporter without an `endpoint`");
            section.problems.push(error.label("expected `endpoint: collector.example:55680`"));
            None
        }
    };
    let endpoint = endpoint.unwrap_or_else(|| Located::new(Uri::default(), section.at));
    let identity = section.field("identity").and_then(|field| identity(&field, &endpoint.value));
    LinkExporter { endpoint, encoding, identity, tls }
}

/// The endpoint with its scheme: TLS, but for loopback where nothing asks for it.
fn endpoint(field: &Field<'_>, tls: &ClientTls) -> Option<Located<Uri>> {
    const EXPECTED: &str = "a host and a port, as in `collector.example:55680`";
    let text = field.text(EXPECTED)?;
    if text.contains("://") && !may_bear_secret(text) {
        field.wrong(format!(
            "expected {EXPECTED}, without a scheme: TLS is spoken everywhere but on loopback"
        ));
        return None;
    }
    let uri: Option<Uri> = format!("http://{text}").parse().ok();
    let is_plain = |uri: &Uri| {
        let has_host = uri.host().is_some_and(|host| !host.is_empty());
        let is_authority = uri.authority().is_some_and(|authority| authority.as_str() == text);
        has_host && is_authority && !text.contains('@')
    };
    let Some(uri) = uri.filter(is_plain) else {
        field.wrong(format!("expected {EXPECTED}"));
        return None;
    };
    if uri.port_u16().is_none_or(|port| port == 0) {
        field.wrong(format!("expected {EXPECTED}: the port is from 1 to 65535"));
        return None;
    }
    let is_local = super::exporter::is_loopback(&uri);
    let is_plaintext = tls.insecure.as_ref().map_or(!tls.asks_for_tls(), |insecure| insecure.value);
    let is_known = tls.cert_file.is_some() && tls.key_file.is_some();
    if !is_local && (is_plaintext || !is_known) {
        let message = match is_plaintext {
            true => format!("{text} is another machine, and there is no TLS"),
            false => format!("{text} is another machine, and asks who this one is"),
        };
        let error = field.error(message);
        field.problems.push(
            error
                .label("expected `tls: {ca_file: …, cert_file: …, key_file: …}`, or a loopback address")
                .note(CERT),
        );
        return None;
    }
    let scheme = if is_local && is_plaintext { "http" } else { "https" };
    format!("{scheme}://{text}").parse().ok().map(|uri| Located::new(uri, field.at()))
}

fn identity(field: &Field<'_>, endpoint: &Uri) -> Option<Located<String>> {
    let text = field.text("a name")?;
    if endpoint.scheme_str() == Some("https") {
        let error = field.error("an agent with a certificate has the certificate's name");
        field.problems.push(error.label("expected no `identity` beside `tls`"));
        return None;
    }
    let is_plain = text.chars().all(|c| c.is_ascii_graphic());
    if !is_plain || text.len() > IDENTITY_BYTES_MAX {
        field.wrong(format!("expected visible ASCII characters, at most {IDENTITY_BYTES_MAX}"));
        return None;
    }
    if weir_link::names::is_uri(text) {
        field.wrong(
            "expected a name without a scheme, as `edge-1`: names of that form are those of certificates",
        );
        return None;
    }
    Some(Located::new(text.to_owned(), field.at()))
}

pub(crate) fn receiver(mut section: Section<'_>) -> LinkReceiver {
    let endpoint = listener::endpoint(&mut section, loopback(LINK_PORT));
    let listen = Listen { endpoint, tls: tls::server(&mut section) };
    protected(&section, &listen);
    let mut receiver = LinkReceiver::at(listen);
    if let Some(field) = section.field("heartbeat")
        && let Some(time) = field.duration(Duration::ZERO..=HEARTBEAT_MAX)
    {
        if !time.is_zero() && time < HEARTBEAT_MIN {
            field.wrong("expected 0, which is none, or a time from 100ms");
        } else {
            receiver.heartbeat = time;
        }
    }
    // The least carries a part, the most is what a memory of the usual size has for one sender.
    if let Some(bytes) = section.field("credit").and_then(|field| field.bytes(MIB..=64 * MIB)) {
        receiver.credit_bytes = bytes;
    }
    let mut keys = section.section("limits");
    receiver.limits = listener::connections(&mut keys, receiver.limits);
    // A frame's length has 32 bits; a bundle of less than 1 MiB would refuse what any door takes.
    if let Some(field) = keys.field("request_mib")
        && let Some(size) = field.mib(1..=1024)
    {
        receiver.limits.request_bytes_max = size;
        receiver.limits.request_at = Some(field.at());
    }
    keys.finish(&[
        ("items_max", "agents have counted what they send"),
        ("attributes_max", "agents have counted what they send"),
    ]);
    section.finish(LIMIT_HINTS);
    receiver
}

/// Who is no process of this machine must show who it is.
fn protected(section: &Section<'_>, listen: &Listen) {
    let Listen { endpoint, tls } = listen;
    let message = match tls {
        _ if endpoint.value.ip().is_loopback() => return,
        ServerTls::Files(files) if files.client_ca_file.is_some() => return,
        ServerTls::Files(_) => {
            format!("{} can be reached from other machines, and asks no agent who it is", endpoint.value)
        }
        ServerTls::Absent | ServerTls::Insecure => {
            format!("{} can be reached from other machines, and there is no TLS", endpoint.value)
        }
    };
    let error = Diagnostic::error(endpoint.at, format!("{}.endpoint", section.path), message);
    section.problems.push(
        error
            .label("expected `tls: {cert_file: …, key_file: …, client_ca_file: …}`, or a loopback address")
            .note(CERT),
    );
}
