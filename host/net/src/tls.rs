//! TLS of listeners: files become a rustls configuration, again whenever they are told to.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use serde::{Deserialize, Serialize};

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
}

/// A listener's TLS. Certificates can be read again while it serves; connections keep what they began with.
#[derive(Debug)]
pub struct ServerTls {
    source: TlsConfig,
    current: RwLock<Arc<ServerConfig>>,
}

impl ServerTls {
    /// Reads the files.
    ///
    /// # Errors
    /// [`TlsError`], with the file at fault.
    pub fn load(source: TlsConfig) -> Result<Arc<Self>, TlsError> {
        let current = RwLock::new(Arc::new(build(&source)?));
        Ok(Arc::new(Self { source, current }))
    }

    /// Reads the files again; new connections use what they hold now.
    ///
    /// # Errors
    /// [`TlsError`]: what was loaded before stays in use.
    pub fn reload(&self) -> Result<(), TlsError> {
        let fresh = Arc::new(build(&self.source)?);
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = fresh;
        Ok(())
    }

    /// What a new connection uses.
    pub(crate) fn current(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }
}

fn build(source: &TlsConfig) -> Result<ServerConfig, TlsError> {
    let TlsConfig { cert_file, key_file, client_ca_file, min_version } = source;
    let chain = certificates("a certificate", cert_file)?;
    let key = PrivateKeyDer::from_pem_file(key_file).map_err(|cause| TlsError::File {
        what: "a private key",
        path: key_file.clone(),
        cause,
    })?;
    let mismatch = |cause| TlsError::Mismatch { cert: cert_file.clone(), key: key_file.clone(), cause };
    let versions = match min_version {
        MinVersion::Tls12 => rustls::ALL_VERSIONS,
        MinVersion::Tls13 => &[&rustls::version::TLS13],
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider));
    let builder = builder.with_protocol_versions(versions).map_err(mismatch)?;
    let builder = match client_ca_file {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let refuse = |cause: String| TlsError::ClientCa { path: path.clone(), cause };
            let mut roots = RootCertStore::empty();
            for authority in certificates("an authority's certificate", path)? {
                roots.add(authority).map_err(|error| refuse(error.to_string()))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            builder.with_client_cert_verifier(verifier.map_err(|error| refuse(error.to_string()))?)
        }
    };
    let mut config = builder.with_single_cert(chain, key).map_err(mismatch)?;
    config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).to_vec();
    Ok(config)
}

fn certificates(what: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let failed = |cause| TlsError::File { what, path: path.to_owned(), cause };
    let found: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path).map_err(failed)?.collect();
    let found = found.map_err(failed)?;
    if found.is_empty() { Err(failed(pem::Error::NoItemsFound)) } else { Ok(found) }
}
