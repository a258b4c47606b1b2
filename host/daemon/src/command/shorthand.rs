//! `weir run --send-to` and `--collect`: configurations that nobody has to write.
//!
//! Each is a text as a person would have written it, read and checked like any other; `--print-config` shows it, to begin a file
//! with.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use clap::Args;

use crate::bundled::BUNDLED;
use crate::config::receiver::{OPENCENSUS_PORT, OTLP_GRPC_PORT, OTLP_HTTP_PORT, ZIPKIN_PORT};

/// Where a collector's metrics and its fleet are shown, beside the port on which agents come: 8888 is the agent's of the same
/// machine.
pub(super) const COLLECTOR_PAGE_PORT: u16 = 55_681;

/// Where a collector's health is shown, for the same reason.
const COLLECTOR_HEALTH_PORT: u16 = 55_682;

/// Where an agent's metrics are shown, as without this shorthand.
const AGENT_PAGE_PORT: u16 = 8_888;

/// Where an agent's health is shown.
const AGENT_HEALTH_PORT: u16 = 13_133;

/// Runs without a file, as one end of a link.
#[derive(Debug, Args)]
#[group(id = "shorthand", conflicts_with_all = ["file", "config"])]
pub(super) struct Shorthand {
    /// Runs as an agent: the standard ports on localhost, a queue on disk, everything to the collector at this address.
    #[arg(long, value_name = "HOST:PORT", conflicts_with = "collect")]
    send_to: Option<String>,
    /// Runs as a collector: takes what agents send, keeps it on disk, and writes a line for each batch to the log.
    #[arg(long, value_name = "ADDRESS", num_args = 0..=1, default_missing_value = "127.0.0.1:55680")]
    collect: Option<String>,
    /// The data folder of --send-to or --collect.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// The address of this machine that --send-to listens on, and that pages are shown on.
    #[arg(long, value_name = "IP", requires = "send_to", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    listen: IpAddr,
    /// The authority that vouches for the other end, PEM.
    #[arg(long, value_name = "FILE", requires = "cert")]
    ca: Option<PathBuf>,
    /// The certificate of this end, PEM.
    #[arg(long, value_name = "FILE", requires_all = ["ca", "key"])]
    cert: Option<PathBuf>,
    /// Its private key, PEM.
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
    /// Revocation lists of that authority, PEM or DER: who shows a certificate that they name, or that none of them speaks for, is
    /// refused.
    #[arg(long, value_name = "FILE", requires = "ca")]
    crl: Option<PathBuf>,
    /// Writes the configuration that --send-to or --collect stands for, and ends.
    #[arg(long)]
    print_config: bool,
}

/// What a shorthand stands for.
#[derive(Debug)]
pub(super) struct Meant {
    /// What errors call it.
    pub(super) name: &'static str,
    /// The file that was not written.
    pub(super) text: String,
    /// What to do next, for a person.
    pub(super) next: String,
    /// Whether the text is all that was asked for.
    pub(super) is_printed: bool,
}

impl Shorthand {
    /// What it stands for; nothing where it was not used.
    ///
    /// # Errors
    /// Where other flags stand without it, or no data folder can be guessed.
    pub(super) fn meant(self) -> anyhow::Result<Option<Meant>> {
        let Self { send_to, collect, data_dir, listen, ca, cert, key, crl, print_config } = self;
        let tls = ca.zip(cert).zip(key).map(|((ca, cert), key)| Tls { ca, cert, key, crl });
        let meant = match (send_to, collect) {
            (Some(collector), _) => {
                let data_dir = data_dir.map_or_else(|| data_dir_of("agent"), Ok)?;
                let text = agent(&collector, listen, &data_dir, tls.as_ref());
                let next = format!(
                    "agent: send OTLP to {listen}:{OTLP_GRPC_PORT} (gRPC) or {listen}:{OTLP_HTTP_PORT} (HTTP), OpenCensus to \
                     {listen}:{OPENCENSUS_PORT}{}; it is kept in {} until the collector {collector} has it",
                    zipkin(&format!(", Zipkin to {listen}:{ZIPKIN_PORT}")),
                    data_dir.display(),
                );
                Meant { name: "--send-to", text, next, is_printed: print_config }
            }
            (None, Some(address)) => {
                let data_dir = data_dir.map_or_else(|| data_dir_of("collector"), Ok)?;
                let text = collector(&address, &data_dir, tls.as_ref());
                // Off loopback an agent dials a name of this machine, and both ends show a certificate.
                let (there, flags) = match tls {
                    Some(Tls { crl: Some(_), .. }) => {
                        ("HOST:PORT of this machine", " --ca … --cert … --key … --crl …")
                    }
                    Some(_) => ("HOST:PORT of this machine", " --ca … --cert … --key …"),
                    None => (address.as_str(), ""),
                };
                let next = format!(
                    "collector: start agents with `weir run --send-to {there}{flags}`, see them with `weir fleet`; give it exporters with \
                     a file, which `weir run --collect --print-config` begins"
                );
                Meant { name: "--collect", text, next, is_printed: print_config }
            }
            (None, None) if print_config || data_dir.is_some() || tls.is_some() => {
                return Err(anyhow!("expected --send-to HOST:PORT or --collect beside these flags"));
            }
            (None, None) => return Ok(None),
        };
        Ok(Some(meant))
    }
}

/// Files of one end's TLS.
struct Tls {
    ca: PathBuf,
    cert: PathBuf,
    key: PathBuf,
    crl: Option<PathBuf>,
}

impl Tls {
    /// The section of this end, whose key for the authority is `authority`.
    fn section(&self, authority: &str) -> String {
        let Self { ca, cert, key, crl } = self;
        let crl = crl.as_ref().map(|crl| format!(", crl_file: {}", path(crl))).unwrap_or_default();
        let (ca, cert, key) = (path(ca), path(cert), path(key));
        format!("    tls: {{{authority}: {ca}, cert_file: {cert}, key_file: {key}{crl}}}\n")
    }
}

/// Where a process without a file keeps its queue: root's where everybody looks, a user's at home.
fn data_dir_of(role: &str) -> anyhow::Result<PathBuf> {
    if rustix::process::geteuid().is_root() {
        return Ok(Path::new("/var/lib/weir").join(role));
    }
    let of = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let state = of("XDG_STATE_HOME").or_else(|| of("HOME").map(|home| home.join(".local/state")));
    let state = state.context("no home folder to keep the queue in: expected --data-dir DIR")?;
    Ok(state.join("weir").join(role))
}

/// A text as YAML, whatever is in it.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''").replace('$', "$$"))
}

fn path(path: &Path) -> String {
    quoted(&path.display().to_string())
}

/// What stands only where the plugin that receives Zipkin is there.
fn zipkin(text: &str) -> &str {
    let is_there = BUNDLED.iter().any(|plugin| plugin.name == "zipkin-receiver");
    if is_there { text } else { "" }
}

fn agent(collector: &str, listen: IpAddr, data_dir: &Path, tls: Option<&Tls>) -> String {
    let at = |port| quoted(&SocketAddr::new(listen, port).to_string());
    let mut text = format!(
        "receivers:
  opencensus: {{endpoint: {opencensus}}}
  otlp:
    protocols:
      grpc: {{endpoint: {grpc}}}
      http: {{endpoint: {http}}}
",
        opencensus = at(OPENCENSUS_PORT),
        grpc = at(OTLP_GRPC_PORT),
        http = at(OTLP_HTTP_PORT),
    );
    // A string takes all that is written to it.
    write!(text, "{}", zipkin(&format!("  zipkin: {{endpoint: {}}}\n", at(ZIPKIN_PORT)))).ok();
    write!(text, "exporters:\n  weir:\n    endpoint: {}\n", quoted(collector)).ok();
    if let Some(tls) = tls {
        text.push_str(&tls.section("ca_file"));
    }
    write!(
        text,
        "service:
  data_dir: {data_dir}
  telemetry: {{metrics: {{endpoint: {metrics}}}}}
  health: {{endpoint: {health}}}
  pipelines:
    traces: {{receivers: [opencensus, otlp{zipkin}], exporters: [weir]}}
    metrics: {{receivers: [opencensus, otlp], exporters: [weir]}}
    logs: {{receivers: [otlp], exporters: [weir]}}
",
        data_dir = path(data_dir),
        metrics = at(AGENT_PAGE_PORT),
        health = at(AGENT_HEALTH_PORT),
        zipkin = zipkin(", zipkin"),
    )
    .ok();
    text
}

fn collector(address: &str, data_dir: &Path, tls: Option<&Tls>) -> String {
    // Pages are for this machine, whoever may send. Beside an address that any free port is asked for, they ask for theirs too.
    let asked = crate::config::scalar::listen_address(address).ok();
    let ip = asked.map(|asked| asked.ip()).filter(IpAddr::is_loopback);
    let ip = ip.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
    let is_any = asked.is_some_and(|asked| asked.port() == 0);
    let page = |port| quoted(&SocketAddr::new(ip, if is_any { 0 } else { port }).to_string());
    let mut text = format!("receivers:\n  weir:\n    endpoint: {}\n", quoted(address));
    if let Some(tls) = tls {
        text.push_str(&tls.section("client_ca_file"));
    }
    write!(
        text,
        "exporters:
  debug:
service:
  data_dir: {data_dir}
  telemetry: {{metrics: {{endpoint: {metrics}}}}}
  health: {{endpoint: {health}}}
  pipelines:
    traces: {{receivers: [weir], exporters: [debug]}}
    metrics: {{receivers: [weir], exporters: [debug]}}
    logs: {{receivers: [weir], exporters: [debug]}}
",
        data_dir = path(data_dir),
        metrics = page(COLLECTOR_PAGE_PORT),
        health = page(COLLECTOR_HEALTH_PORT),
    )
    .ok();
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{self, Severity};

    #[track_caller]
    fn errors(text: &str) -> Vec<String> {
        let draft = config::parse("--send-to", text, &|_| None).expect("it is YAML");
        let wrong = draft.found.iter().filter(|found| found.severity == Severity::Error);
        wrong.map(|found| format!("{found:?}")).collect()
    }

    /// Scenario: both shorthands on loopback, with a folder whose name has a quote, a dollar and a space in it.
    /// Guarantees: what they stand for is a file without an error, and the folder is that folder.
    #[test]
    fn a_shorthand_is_a_file_that_could_have_been_written() {
        let folder = Path::new("/tmp/it's ${HOME} $$");
        let local = IpAddr::V4(Ipv4Addr::LOCALHOST);
        for text in [
            agent("127.0.0.1:55680", local, folder, None),
            agent("localhost:55680", local, folder, None),
            collector("127.0.0.1:55680", folder, None),
            collector("127.0.0.1:0", folder, None),
        ] {
            assert_eq!(errors(&text), Vec::<String>::new(), "{text}");
            let draft = config::parse("--send-to", &text, &|_| None).expect("it is YAML");
            assert_eq!(draft.config().service.data_dir, folder, "{text}");
        }
    }

    /// Scenario: an agent and a collector on other addresses than loopback: without certificates, with them, with revocation lists too.
    /// Guarantees: without, each has an error that names what makes certificates; with them, none; the lists are in the file.
    #[test]
    fn a_shorthand_over_a_network_needs_certificates() {
        let local = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let tls = |crl: Option<&str>| {
            let (ca, cert, key) = ("/ca.pem".into(), "/cert.pem".into(), "/key.pem".into());
            Tls { ca, cert, key, crl: crl.map(PathBuf::from) }
        };
        let folder = Path::new("/tmp/weir");
        let texts = |tls: Option<&Tls>| {
            [agent("collector.example:55680", local, folder, tls), collector("0.0.0.0:55680", folder, tls)]
        };
        for text in texts(None) {
            let errors = errors(&text);
            assert_eq!(errors.len(), 1, "{text}");
            assert!(errors[0].contains("weir cert init"), "{}", errors[0]);
        }
        for text in texts(Some(&tls(None))) {
            assert_eq!(errors(&text), Vec::<String>::new(), "{text}");
            assert!(!text.contains("crl_file"), "{text}");
        }
        for text in texts(Some(&tls(Some("/a list.crl")))) {
            assert_eq!(errors(&text), Vec::<String>::new(), "{text}");
            assert!(text.contains("crl_file: '/a list.crl'}"), "{text}");
        }
    }
}
