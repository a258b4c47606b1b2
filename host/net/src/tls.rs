//! TLS of listeners: files become a rustls configuration, and again when they change. Live connections are judged by what they hold now.
//!
//! ```text
//! each minute: files ─changed?─▶ configuration ─▶ new handshakes
//!                  time ─────────────┴──────────▶ live connections ─expired, revoked, not trusted─▶ cut
//! ```

mod live;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, UnixTime, pem};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, VerifierBuilderError, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};
use serde::{Deserialize, Serialize};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use weir_model::count::TlsCounts;

use crate::certificate::{Identity, Revocations, Unreadable};
use crate::material::{self, Print, Spell};

pub use crate::material::{LOOK_INTERVAL, Lookout};
pub(crate) use live::Seated;
use live::{Live, Seat};

/// What a listener offers by ALPN, the preferred one first.
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// TLS of a listener, as a user writes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsConfig {
    /// PEM file with the server's certificate, then its intermediates.
    pub cert_file: PathBuf,
    /// PEM file with the certificate's private key.
    pub key_file: PathBuf,
    /// PEM file with the authorities whose certificates clients must show; without it clients show none.
    #[serde(default)]
    pub client_ca_file: Option<PathBuf>,
    /// File with revocation lists of these authorities, PEM or DER. Where it is given, every certificate below an authority must be
    /// one that a list speaks for: an authority without a list vouches for nobody.
    #[serde(default)]
    pub crl_file: Option<PathBuf>,
    /// The oldest version that is spoken: `"1.3"`, or `"1.2"` for old libraries.
    #[serde(default)]
    pub min_version: MinVersion,
}

/// The oldest TLS version that is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum MinVersion {
    /// 1.2 and 1.3.
    #[serde(rename = "1.2")]
    Tls12,
    /// Only 1.3.
    #[default]
    #[serde(rename = "1.3")]
    Tls13,
}

/// Why a listener has no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read, or has not what it should have.
    #[error("read {what} from {}", path.display())]
    File {
        /// What was expected in it.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        cause: pem::Error,
    },
    /// The files do not fit each other.
    #[error("use certificate {} with key {}", cert.display(), key.display())]
    Mismatch {
        /// The certificate's file.
        cert: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// Why not.
        #[source]
        cause: rustls::Error,
    },
    /// The authorities for clients cannot be used.
    #[error("use {} to verify clients: {cause}", path.display())]
    ClientCa {
        /// The file.
        path: PathBuf,
        /// Why not, in words: several libraries' errors end up here.
        cause: String,
    },
    /// The revocation lists cannot be used.
    #[error("use {} to refuse clients: {cause}", path.display())]
    Revocations {
        /// The file.
        path: PathBuf,
        /// Why not, in words.
        cause: String,
    },
}

/// A listener's TLS. Its files are read again while it serves: new connections use what they hold then, and connections whose
/// clients have shown a certificate that does not hold any more are cut.
#[derive(Debug)]
pub struct ServerTls {
    source: TlsConfig,
    lookout: Lookout,
    current: RwLock<Arc<Current>>,
    readings: AtomicU64,
    live: Live,
    counts: RwLock<TlsCounts>,
    spell: Spell,
}

/// One reading of the files.
#[derive(Debug)]
pub(crate) struct Current {
    /// What a new connection uses.
    pub(crate) config: Arc<ServerConfig>,
    /// Judges clients, where they must show a certificate.
    verifier: Option<Arc<dyn ClientCertVerifier>>,
    /// When the first of the revocation lists should have had a successor, and whether that was told.
    list_ends: Option<UnixTime>,
    list_end_told: AtomicBool,
    print: Print,
    reading: u64,
}

impl ServerTls {
    /// Reads the files.
    ///
    /// # Errors
    /// [`TlsError`], with the file at fault.
    pub fn load(source: TlsConfig) -> Result<Arc<Self>, TlsError> {
        Self::load_by(source, Lookout::default())
    }

    /// The same with a time and a pace of one's own.
    ///
    /// # Errors
    /// As [`ServerTls::load`].
    pub fn load_by(source: TlsConfig, lookout: Lookout) -> Result<Arc<Self>, TlsError> {
        let current = Files::read(&source)?.build(&source, &lookout, 0)?;
        Ok(Arc::new(Self {
            source,
            lookout,
            current: RwLock::new(Arc::new(current)),
            readings: AtomicU64::new(1),
            live: Live::default(),
            counts: RwLock::default(),
            spell: Spell::default(),
        }))
    }

    /// From now on counts what happens to it here.
    pub fn count_into(&self, counts: &TlsCounts) {
        *self.counts.write().unwrap_or_else(PoisonError::into_inner) = counts.clone();
    }

    /// Reads the files again: new connections use what they hold now, and live ones are judged by it.
    ///
    /// # Errors
    /// [`TlsError`]: what was loaded before stays in use.
    pub fn reload(&self) -> Result<(), TlsError> {
        let read = self.read_again();
        self.judge_all();
        read
    }

    /// One look: files that have changed are read again, and connections are cut whose clients' certificates do not hold any more.
    /// What goes wrong is told in the log. Blocks while it reads files.
    pub fn look(&self) {
        let error = self.read_again().err().map(|error| weir_model::explain(&error));
        self.spell.note(&self.source.cert_file, error);
        self.tell_of_old_list();
        self.judge_all();
    }

    /// Looks at its pace, for ever.
    pub(crate) async fn look_on(self: Arc<Self>) {
        loop {
            sleep(self.lookout.interval).await;
            let tls = Arc::clone(&self);
            // A look that panics has been told of by the runtime; the next one tries again.
            tokio::task::spawn_blocking(move || tls.look()).await.ok();
        }
    }

    /// What a new connection uses.
    pub(crate) fn current(&self) -> Arc<Current> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// What it counts.
    pub(crate) fn counts(&self) -> TlsCounts {
        self.counts.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes a connection in whose handshake `shown` was verified by `by`: it is `cut` when that holds no more. None where the client
    /// need not show a certificate.
    ///
    /// # Errors
    /// Where the certificate was verified and cannot be read all the same: nobody could say whom it names.
    pub(crate) fn seat(
        self: &Arc<Self>,
        by: &Current,
        addr: SocketAddr,
        shown: &[CertificateDer<'_>],
        cut: &CancellationToken,
    ) -> Result<Option<(Arc<Identity>, Seated)>, Unreadable> {
        let Some(first) = shown.first() else { return Ok(None) };
        let identity = Arc::new(Identity::of(first)?);
        let chain = shown.iter().map(|certificate| certificate.clone().into_owned()).collect();
        let seat = Arc::new(Seat::new(addr, Arc::clone(&identity), chain, by.reading, cut.clone()));
        let number = self.live.add(Arc::clone(&seat));
        // A look during the handshake has not seen it, so it is judged by that look now.
        self.judge(&seat, &self.current(), self.lookout.now());
        Ok(Some((identity, Seated { tls: Arc::clone(self), number })))
    }

    fn read_again(&self) -> Result<(), TlsError> {
        let files = Files::read(&self.source)?;
        if files.print() == self.current().print {
            return Ok(());
        }
        let reading = self.readings.fetch_add(1, Ordering::Relaxed);
        let fresh = Arc::new(files.build(&self.source, &self.lookout, reading)?);
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = fresh;
        info!(file = %self.source.cert_file.display(), "certificates read again");
        Ok(())
    }

    fn judge_all(&self) {
        let (current, now) = (self.current(), self.lookout.now());
        self.live.all().iter().for_each(|seat| self.judge(seat, &current, now));
    }

    /// Cuts a connection where its certificate does not hold any more.
    fn judge(&self, seat: &Seat, current: &Current, now: UnixTime) {
        let is_known = seat.found_good_by.load(Ordering::Relaxed) == current.reading;
        if (is_known && now <= seat.ends) || seat.cut.is_cancelled() {
            return;
        }
        let (Some(verifier), Some((first, rest))) = (&current.verifier, seat.chain.split_first()) else {
            return;
        };
        match verifier.verify_client_cert(first, rest, now) {
            Ok(_) => seat.found_good_by.store(current.reading, Ordering::Relaxed),
            Err(error) => {
                self.counts().connections_cut.add(1);
                warn!(
                    %error,
                    identity = %seat.identity,
                    serial = seat.identity.serial,
                    peer.addr = %seat.addr,
                    "connection cut: its client's certificate does not hold any more"
                );
                seat.cut.cancel();
            }
        }
    }

    /// Said once for each list: what it revokes stays revoked, and what should be on the next one is not known.
    fn tell_of_old_list(&self) {
        let current = self.current();
        let is_old = current.list_ends.is_some_and(|ends| ends < self.lookout.now());
        if is_old && !current.list_end_told.swap(true, Ordering::Relaxed) {
            let file = self.source.crl_file.as_deref().unwrap_or(&self.source.cert_file);
            warn!(file = %file.display(), "revocation list is out of date, it is used still: put a newer one in its place");
        }
    }
}

// === from files to a configuration ===

/// What the files hold.
struct Files {
    cert: Vec<u8>,
    key: Vec<u8>,
    client_ca: Option<Vec<u8>>,
    crl: Option<Vec<u8>>,
}

impl Files {
    fn read(source: &TlsConfig) -> Result<Self, TlsError> {
        let read = |what, path: &PathBuf| material::read(path).map_err(|cause| file(what, path, cause));
        let optional = |what, path: &Option<PathBuf>| path.as_ref().map(|path| read(what, path)).transpose();
        Ok(Self {
            cert: read("a certificate", &source.cert_file)?,
            key: read("a private key", &source.key_file)?,
            client_ca: optional("an authority's certificate", &source.client_ca_file)?,
            crl: optional("a revocation list", &source.crl_file)?,
        })
    }

    fn print(&self) -> Print {
        let Self { cert, key, client_ca, crl } = self;
        material::print([Some(cert.as_slice()), Some(key.as_slice()), client_ca.as_deref(), crl.as_deref()])
    }

    fn build(&self, source: &TlsConfig, lookout: &Lookout, reading: u64) -> Result<Current, TlsError> {
        let TlsConfig { cert_file, key_file, min_version, .. } = source;
        let chain =
            material::certificates(&self.cert).map_err(|cause| file("a certificate", cert_file, cause))?;
        let key = material::key(&self.key).map_err(|cause| file("a private key", key_file, cause))?;
        let mismatch = |cause| TlsError::Mismatch { cert: cert_file.clone(), key: key_file.clone(), cause };
        let versions = match min_version {
            MinVersion::Tls12 => rustls::ALL_VERSIONS,
            MinVersion::Tls13 => &[&rustls::version::TLS13],
        };
        let lists = self.lists(source)?;
        let verifier = self.verifier(source, &lists)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_details(provider, Arc::clone(&lookout.clock));
        let builder = builder.with_protocol_versions(versions).map_err(mismatch)?;
        let builder = match &verifier {
            None => builder.with_no_client_auth(),
            Some(verifier) => builder.with_client_cert_verifier(Arc::clone(verifier)),
        };
        let mut config = builder.with_single_cert(chain, key).map_err(mismatch)?;
        config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).to_vec();
        if verifier.is_some() {
            // A session that is resumed shows no certificate again: it could be one that has expired or was revoked meanwhile.
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.send_tls13_tickets = 0;
        }
        let list_ends = lists.iter().filter_map(|list| Revocations::of(list).ok()?.next_update);
        let since = |ends: std::time::SystemTime| ends.duration_since(std::time::UNIX_EPOCH).ok();
        Ok(Current {
            config: Arc::new(config),
            verifier,
            list_ends: list_ends.filter_map(since).min().map(UnixTime::since_unix_epoch),
            list_end_told: AtomicBool::new(false),
            print: self.print(),
            reading,
        })
    }

    fn lists(&self, source: &TlsConfig) -> Result<Vec<CertificateRevocationListDer<'static>>, TlsError> {
        let (Some(path), Some(bytes)) = (&source.crl_file, &self.crl) else { return Ok(Vec::new()) };
        if source.client_ca_file.is_none() {
            let cause = "there is no `client_ca_file` whose certificates it could revoke".to_owned();
            return Err(TlsError::Revocations { path: path.clone(), cause });
        }
        material::revocations(bytes).map_err(|cause| file("a revocation list", path, cause))
    }

    fn verifier(
        &self,
        source: &TlsConfig,
        lists: &[CertificateRevocationListDer<'static>],
    ) -> Result<Option<Arc<dyn ClientCertVerifier>>, TlsError> {
        let (Some(path), Some(bytes)) = (&source.client_ca_file, &self.client_ca) else { return Ok(None) };
        let refuse = |cause: String| TlsError::ClientCa { path: path.clone(), cause };
        let authorities = material::certificates(bytes);
        let mut roots = RootCertStore::empty();
        for authority in authorities.map_err(|cause| file("an authority's certificate", path, cause))? {
            roots.add(authority).map_err(|error| refuse(error.to_string()))?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
        let verifier = builder.with_crls(lists.iter().cloned()).build();
        verifier.map(Some).map_err(|error| match (error, &source.crl_file) {
            (VerifierBuilderError::InvalidCrl(error), Some(path)) => {
                TlsError::Revocations { path: path.clone(), cause: format!("{error:?}") }
            }
            // Foreign: every other kind is about the authorities.
            (error, _) => refuse(error.to_string()),
        })
    }
}

fn file(what: &'static str, path: &std::path::Path, cause: pem::Error) -> TlsError {
    TlsError::File { what, path: path.to_owned(), cause }
}
