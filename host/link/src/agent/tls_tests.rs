//! An agent and the certificate of its collector.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer,
    ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber,
};
use rustls::ServerConfig;
use rustls::pki_types::UnixTime;
use rustls::time_provider::TimeProvider;
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use weir_model::Outcome;
use weir_net::client_tls::ClientTls;
use weir_net::roots::Trust;
use weir_net::tls::Lookout;

use super::link_tests::{Collector, log, outcome, push, settings, until};
use crate::agent::{Agent, AgentSettings};

/// The time at which the tests begin: 2030, so that nothing depends on the day of the test.
const START: u64 = 1_893_456_000;

/// When the collector's certificate ends.
const END: u64 = START + 3_600;

/// The serial number of the collector's certificate.
const SERIAL: u64 = 0x7a11_b0de;

/// A clock that stands where it was put.
#[derive(Debug)]
struct Clock(AtomicU64);

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_secs(self.0.load(Ordering::SeqCst))))
    }
}

fn time(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

/// An authority with a folder, in which are its certificate and its revocation list.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: TempDir,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("ca.pem"), issuer.pem()).unwrap();
        let authority = Self { issuer, folder };
        authority.revoke(false);
        authority
    }

    /// Puts the collector's certificate on the list, or takes it from there.
    fn revoke(&self, is_revoked: bool) {
        let revoked = RevokedCertParams {
            serial_number: SerialNumber::from(SERIAL),
            revocation_time: time(START).into(),
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: time(START).into(),
            next_update: time(END * 2).into(),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: is_revoked.then_some(revoked).into_iter().collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = params.signed_by(&self.issuer).unwrap();
        std::fs::write(self.folder.path().join("ca.crl"), list.pem().unwrap()).unwrap();
    }

    /// What the collector is served with.
    fn serving(&self) -> TlsAcceptor {
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        (params.not_before, params.not_after) = (time(START).into(), time(END).into());
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.serial_number = Some(SerialNumber::from(SERIAL));
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let chain = vec![certificate.der().clone()];
        let config = builder.unwrap().with_no_client_auth().with_single_cert(chain, key.into()).unwrap();
        TlsAcceptor::from(Arc::new(config))
    }

    /// A client that judges by the authority and its list, whenever there is a reason.
    fn client(&self, clock: &Arc<Clock>) -> ClientTls {
        let path = |name: &str| Some(self.folder.path().join(name));
        let trust = Trust { ca_file: path("ca.pem"), identity: None, crl_file: path("ca.crl") };
        let lookout = Lookout { clock: Arc::clone(clock) as _, interval: Duration::ZERO };
        ClientTls::load_by(trust, lookout).unwrap()
    }
}

/// Speaks TLS before a collector that does not; its address.
async fn secured(acceptor: TlsAcceptor, collector: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                // Who does not trust us goes away.
                let Ok(mut near) = acceptor.accept(stream).await else { return };
                let mut far = TcpStream::connect(collector).await.unwrap();
                // It ends as the two sides end it.
                tokio::io::copy_bidirectional(&mut near, &mut far).await.ok();
            });
        }
    });
    address
}

/// Scenario: a collector's certificate is revoked, or comes to its end, while a stream lives with a bundle under way; later it is
/// good again.
/// Guarantees: the agent ends the stream by itself, with a text that names collector, certificate and reason, and makes no other
/// while the certificate is bad; then it makes one, with the files as they are now, and the bundle goes again.
#[tokio::test]
async fn a_collector_whose_certificate_does_not_hold_any_more_is_left() {
    for (is_revoked, reason) in [(true, "revoked"), (false, "expired")] {
        let (authority, clock) = (Authority::new(), Arc::new(Clock(AtomicU64::new(START))));
        let mut collector = Collector::new();
        collector.start();
        let endpoint = secured(authority.serving(), collector.address).await.to_string();
        let tls = Some(authority.client(&clock));
        let agent =
            Agent::start(AgentSettings { tls, ..settings(&endpoint, None) }, vec![log(0).await]).unwrap();
        let (mut stream, _) = collector.welcome().await;
        let pushing = push(&agent, 1, 0);
        stream.bundle().await;
        match is_revoked {
            true => authority.revoke(true),
            false => clock.0.store(END + 1, Ordering::SeqCst),
        }
        let mut why = String::new();
        until("the stream is ended", || {
            why = agent.status().why_away.unwrap_or_default();
            !why.is_empty()
        })
        .await;
        for part in [&*format!("https://{endpoint}"), "certificate 7a11b0de of 127.0.0.1", "weir cert issue"]
        {
            assert!(why.contains(part), "{why}");
        }
        assert!(why.to_lowercase().contains(reason), "{why}");
        assert_eq!(stream.heard().await, None);
        until("a dial has failed", || {
            agent.status().why_away.is_some_and(|why| why.starts_with("speak TLS with"))
        })
        .await;
        assert_eq!(agent.status().counts.welcomes.get(), 1);
        match is_revoked {
            true => authority.revoke(false),
            false => clock.0.store(START, Ordering::SeqCst),
        }
        let (mut stream, _) = collector.welcome().await;
        assert_eq!(stream.bundle().await.0.seqs, [1]);
        stream.ack(1).await;
        assert_eq!(outcome(pushing).await, Outcome::Accepted);
    }
}
