//! Whom a client trusts: TLS configurations for outgoing connections.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

/// What keeps a client from having a TLS configuration.
#[derive(Debug, thiserror::Error)]
pub enum RootsError {
    /// The file cannot be read or is not in PEM form.
    #[error("read {path}: expected a PEM file", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        cause: rustls::pki_types::pem::Error,
    },
    /// A certificate in the file is not usable.
    #[error("use the certificates of {path}", path = path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        cause: rustls::Error,
    },
    /// The file holds nothing.
    #[error("{path} holds no certificate", path = path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
}

/// Whom a client trusts, and what it shows of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trust {
    /// PEM file of authorities that are trusted instead of those that browsers trust.
    pub ca_file: Option<PathBuf>,
    /// PEM files of a certificate to show, with its intermediates, and of its key.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// A configuration that trusts the authorities of `ca_file` alone, or without one those that browsers trust.
///
/// # Errors
/// [`RootsError`] where the file cannot serve.
pub fn client_config(ca_file: Option<&Path>) -> Result<ClientConfig, RootsError> {
    client_config_of(&Trust { ca_file: ca_file.map(Path::to_owned), identity: None })
}

/// The same for a client that may have a certificate of its own.
///
/// # Errors
/// [`RootsError`] where a file cannot serve.
pub fn client_config_of(trust: &Trust) -> Result<ClientConfig, RootsError> {
    let mut roots = RootCertStore::empty();
    match &trust.ca_file {
        Some(path) => load(path, &mut roots)?,
        None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring serves the default versions")
        .with_root_certificates(roots);
    let Some((chain_file, key_file)) = &trust.identity else {
        return Ok(builder.with_no_client_auth());
    };
    let file = |path: &Path| {
        let path = path.to_owned();
        move |cause| RootsError::File { path: path.clone(), cause }
    };
    let chain: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(chain_file).map_err(file(chain_file))?.collect();
    let chain = chain.map_err(file(chain_file))?;
    let key = PrivateKeyDer::from_pem_file(key_file).map_err(file(key_file))?;
    let refused = |cause| RootsError::Certificate { path: chain_file.clone(), cause };
    builder.with_client_auth_cert(chain, key).map_err(refused)
}

fn load(path: &Path, roots: &mut RootCertStore) -> Result<(), RootsError> {
    let file = |cause| RootsError::File { path: path.to_owned(), cause };
    for certificate in CertificateDer::pem_file_iter(path).map_err(file)? {
        roots
            .add(certificate.map_err(file)?)
            .map_err(|cause| RootsError::Certificate { path: path.to_owned(), cause })?;
    }
    if roots.is_empty() { Err(RootsError::Empty { path: path.to_owned() }) } else { Ok(()) }
}
