//! Who an agent is: by its certificate, and where it has none.

use std::fmt::{Debug, Write as _};
use std::sync::{Arc, Mutex};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SanType,
};
use tempfile::TempDir;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Identity};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};
use weir_net::tls::{MinVersion, ServerTls, TlsConfig};
use weir_proto::weir::link::v1::Hello;
use weir_proto::weir::link::v1::goodbye::Reason;

use super::streams::{Agent, Scripted, Served, agent_hello, serve_with, settings};
use crate::collector::Collector;
use crate::collector::hello::{Facts, Who};

/// An authority with a folder.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: TempDir,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "authority of a test");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        Self { issuer, folder: tempfile::tempdir().unwrap() }
    }

    /// A certificate with these names, and its key.
    fn issue(&self, names: Vec<SanType>) -> (String, String) {
        let mut params = CertificateParams::default();
        params.subject_alt_names = names;
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }

    /// A collector that asks for certificates of this authority.
    fn serve(&self) -> Served {
        let (cert, key) = self.issue(vec![SanType::DnsName("localhost".try_into().unwrap())]);
        let file = |name: &str, bytes: &str| {
            let path = self.folder.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            path
        };
        let config = TlsConfig {
            cert_file: file("own.pem", &cert),
            key_file: file("own.key", &key),
            client_ca_file: Some(file("ca.pem", &self.issuer.pem())),
            crl_file: None,
            min_version: MinVersion::Tls13,
        };
        let pipeline = Arc::new(Scripted::default());
        let mut settings = settings(&pipeline, 64 << 20);
        settings.peer_name = Arc::new(|peer| peer.identity.as_ref()?.name.clone());
        let collector = Collector::open(settings).unwrap();
        serve_with(collector, pipeline, Some(ServerTls::load(config).unwrap()))
    }

    /// An agent that shows a certificate with these names.
    async fn agent(&self, served: &Served, names: Vec<SanType>, hello: Hello) -> Agent {
        let (cert, key) = self.issue(names);
        let tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(self.issuer.pem()))
            .identity(Identity::from_pem(cert, key));
        let endpoint = Channel::from_shared(format!("https://localhost:{}", served.addr.port())).unwrap();
        Agent::over(endpoint.tls_config(tls).unwrap().connect().await.unwrap(), hello).await
    }
}

/// What is logged as a warning.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<String>>);

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        write!(self.0, "{}={value:?} ", field.name()).unwrap();
    }
}

impl Subscriber for Log {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::WARN
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = Line(String::new());
        event.record(&mut line);
        *self.0.lock().unwrap() += &format!("{}\n", line.0);
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// Scenario: agents on this machine show certificates of the collector's authority: one without a name, one whose only name is a
/// wildcard, one with a DNS name, one with that and a URI; each says a name of its own, or none.
/// Guarantees: who is named by nobody is refused, whatever name it says, with what to do, and the log names the certificate; the
/// others are who their certificates say, the URI first.
#[tokio::test]
async fn a_certificate_without_a_name_is_nobodys() {
    let log = Log::default();
    let _logging = tracing::subscriber::set_default(log.clone());
    let authority = Authority::new();
    let served = authority.serve();
    let dns = |name: &str| SanType::DnsName(name.try_into().unwrap());
    let uri = SanType::URI("urn:weir:host:edge-1".try_into().unwrap());
    let address = SanType::IpAddress("127.0.0.1".parse().unwrap());
    for names in [vec![address], vec![dns("*.example")]] {
        for identity in ["", "edge-1"] {
            let hello = Hello { identity: identity.to_owned(), ..agent_hello() };
            let goodbye = authority.agent(&served, names.clone(), hello).await.goodbye().await;
            assert_eq!(goodbye.reason(), Reason::Identity);
            assert!(
                goodbye.text.contains("names nobody") && goodbye.text.contains("weir cert issue"),
                "{goodbye:?}"
            );
        }
    }
    let logged = std::mem::take(&mut *log.0.lock().unwrap());
    let lines: Vec<&str> = logged.lines().filter(|line| line.contains("agent not welcomed")).collect();
    assert!(lines.len() == 4 && lines.iter().all(|line| line.contains("names nobody")), "{logged}");
    assert!(
        lines.iter().all(|line| line.contains("certificate=certificate ") && line.contains("127.0.0.1:")),
        "{logged}"
    );
    let hello = || Hello { identity: String::new(), ..agent_hello() };
    let mut agents = Vec::new();
    for names in [vec![dns("web-1.example")], vec![dns("web-1.example"), uri]] {
        let mut agent = authority.agent(&served, names, hello()).await;
        agent.hear().await;
        agents.push(agent);
    }
    let rows = served.collector.fleet();
    let identities: Vec<&str> = rows.iter().map(|row| &*row.identity).collect();
    assert_eq!(identities, ["dns:web-1.example", "urn:weir:host:edge-1"]);
}

/// Scenario: agents without a certificate, on this machine, say names of the forms that certificates have; others say names of their
/// own.
/// Guarantees: the first are refused with what to do, the others are who they say.
#[test]
fn a_name_of_a_certificate_is_not_taken_by_saying_it() {
    let read = |identity: &str| {
        let hello = Hello { identity: identity.to_owned(), ..agent_hello() };
        Facts::read(hello, &Who::Local).map(|facts| facts.identity)
    };
    for taken in ["urn:weir:host:edge-1", "dns:web-1.example", "spiffe://weir.test/client", "weir:x"] {
        let goodbye = read(taken).unwrap_err();
        assert_eq!(goodbye.reason(), Reason::Identity);
        assert!(
            goodbye.text.contains(taken) && goodbye.text.contains("`identity` without a scheme"),
            "{goodbye:?}"
        );
    }
    for own in ["edge-1", "web-1.example", "01a0c450-6c00-7fff-bfff-ffffffffffff", "::1"] {
        assert_eq!(read(own).as_deref(), Ok(own));
    }
}
