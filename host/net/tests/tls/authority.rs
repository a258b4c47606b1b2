//! An authority of a test, what it has issued, and a clock that stands where it was put.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType,
    SerialNumber,
};
use rustls::pki_types::UnixTime;
use rustls::time_provider::TimeProvider;
use tempfile::TempDir;
use weir_net::roots::Trust;
use weir_net::tls::{Lookout, MinVersion, TlsConfig};

/// The time at which every test begins: 2030, so that nothing depends on the day of the test.
pub(crate) const START: u64 = 1_893_456_000;

/// A day in seconds.
pub(crate) const DAY: u64 = 24 * 3600;

/// A clock that stands.
#[derive(Debug)]
pub(crate) struct Clock(AtomicU64);

impl Clock {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self(AtomicU64::new(START)))
    }

    pub(crate) fn set(&self, seconds: u64) {
        self.0.store(seconds, Ordering::SeqCst);
    }

    pub(crate) fn lookout(self: &Arc<Self>, interval: Duration) -> Lookout {
        Lookout { clock: Arc::clone(self) as Arc<dyn TimeProvider>, interval }
    }
}

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_secs(self.0.load(Ordering::SeqCst))))
    }
}

/// A certificate that is asked for.
#[derive(Debug, Clone)]
pub(crate) struct Wish {
    pub(crate) uris: Vec<&'static str>,
    pub(crate) dns: Vec<&'static str>,
    pub(crate) begins: u64,
    pub(crate) ends: u64,
}

impl Wish {
    /// Of this agent, for a hundred days around the start; also of this machine, so that it may serve.
    pub(crate) fn of(uri: &'static str) -> Self {
        Self { uris: vec![uri], dns: vec!["localhost"], begins: START - DAY, ends: START + 100 * DAY }
    }
}

/// An authority with a folder.
pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: TempDir,
}

/// The files of what it has issued.
#[derive(Debug, Clone)]
pub(crate) struct Pair {
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
    pub(crate) serial: SerialNumber,
}

fn time(seconds: u64) -> std::time::SystemTime {
    std::time::UNIX_EPOCH + Duration::from_secs(seconds)
}

impl Authority {
    /// All have one name, and each has a key of its own.
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "authority of a test");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("ca.pem"), issuer.pem()).unwrap();
        Self { issuer, folder }
    }

    pub(crate) fn ca(&self) -> PathBuf {
        self.path("ca.pem")
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Issues a certificate into files of this name, in place of what was there.
    pub(crate) fn issue(&self, name: &str, wish: &Wish) -> Pair {
        let mut params = CertificateParams::default();
        let uris = wish.uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap()));
        let dns = wish.dns.iter().map(|name| SanType::DnsName((*name).try_into().unwrap()));
        params.subject_alt_names = dns.chain(uris).collect();
        (params.not_before, params.not_after) = (time(wish.begins).into(), time(wish.ends).into());
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let serial = SerialNumber::from_slice(&fastrand::u64(1 << 32..).to_be_bytes());
        params.serial_number = Some(serial.clone());
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let pair =
            Pair { cert: self.path(&format!("{name}.pem")), key: self.path(&format!("{name}.key")), serial };
        std::fs::write(&pair.cert, certificate.pem()).unwrap();
        std::fs::write(&pair.key, key.serialize_pem()).unwrap();
        pair
    }

    /// Writes the list of what is revoked; its path.
    pub(crate) fn revoke(&self, revoked: &[&Pair]) -> PathBuf {
        let list = self.list(revoked);
        std::fs::write(self.path("ca.crl"), list.pem().unwrap()).unwrap();
        self.path("ca.crl")
    }

    pub(crate) fn list(&self, revoked: &[&Pair]) -> rcgen::CertificateRevocationList {
        let revoked_certs = revoked.iter().map(|pair| RevokedCertParams {
            serial_number: pair.serial.clone(),
            revocation_time: time(START).into(),
            reason_code: None,
            invalidity_date: None,
        });
        let params = CertificateRevocationListParams {
            this_update: time(START - DAY).into(),
            next_update: time(START + 1000 * DAY).into(),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: revoked_certs.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).unwrap()
    }

    /// A listener that shows `pair` and asks for certificates of this authority.
    pub(crate) fn serving(&self, pair: &Pair, crl_file: Option<PathBuf>) -> TlsConfig {
        TlsConfig {
            cert_file: pair.cert.clone(),
            key_file: pair.key.clone(),
            client_ca_file: Some(self.ca()),
            crl_file,
            min_version: MinVersion::Tls13,
        }
    }

    /// A client that trusts this authority and shows `pair`.
    pub(crate) fn trust(&self, pair: Option<&Pair>) -> Trust {
        let identity = pair.map(|pair| (pair.cert.clone(), pair.key.clone()));
        Trust { ca_file: Some(self.ca()), identity, crl_file: None }
    }
}

/// The same in the place of a file that is there.
pub(crate) fn replace(path: &Path, bytes: impl AsRef<[u8]>) {
    std::fs::write(path, bytes).unwrap();
}

/// The URL of a path at a listener of this machine.
pub(crate) fn url(addr: SocketAddr, path: &str) -> String {
    format!("https://localhost:{}{path}", addr.port())
}
