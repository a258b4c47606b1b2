//! Whom a client trusts: TLS configurations for outgoing connections.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::{VerifierBuilderError, WebPkiServerVerifier};
use rustls::pki_types::pem;
use rustls::{ClientConfig, RootCertStore};

use crate::client_tls::Current;
use crate::material::{self, Lookout, Print};

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
        cause: pem::Error,
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
    /// The revocation lists in the file are not usable.
    #[error("use {path} to refuse servers: {cause}", path = path.display())]
    Revocations {
        /// The file.
        path: PathBuf,
        /// Why, in words.
        cause: String,
    },
}

impl RootsError {
    /// The file that it is about.
    pub fn path(&self) -> &Path {
        match self {
            Self::File { path, .. }
            | Self::Certificate { path, .. }
            | Self::Empty { path }
            | Self::Revocations { path, .. } => path,
        }
    }
}

/// Whom a client trusts, and what it shows of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trust {
    /// PEM file of authorities that are trusted instead of those that browsers trust.
    pub ca_file: Option<PathBuf>,
    /// PEM files of a certificate to show, with its intermediates, and of its key.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// File with revocation lists of the authorities in `ca_file`, PEM or DER. Where it is given, every certificate below an authority
    /// must be one that a list speaks for.
    pub crl_file: Option<PathBuf>,
}

impl Trust {
    /// The file that tells which of several this is.
    pub(crate) fn shown(&self) -> &Path {
        let identity = self.identity.as_ref().map(|(chain, _)| chain.as_path());
        identity.or(self.ca_file.as_deref()).or(self.crl_file.as_deref()).unwrap_or(Path::new("-"))
    }
}

/// A configuration that trusts the authorities of `ca_file` alone, or without one those that browsers trust.
///
/// # Errors
/// [`RootsError`] where the file cannot serve.
pub fn client_config(ca_file: Option<&Path>) -> Result<ClientConfig, RootsError> {
    let trust = Trust { ca_file: ca_file.map(Path::to_owned), ..Trust::default() };
    let built = Files::read(&trust)?.build(&trust, &Lookout::default(), 0)?;
    Ok(ClientConfig::clone(&built.config))
}

/// What the files hold.
pub(crate) struct Files {
    ca: Option<Vec<u8>>,
    chain: Option<Vec<u8>>,
    key: Option<Vec<u8>>,
    crl: Option<Vec<u8>>,
}

impl Files {
    pub(crate) fn read(trust: &Trust) -> Result<Self, RootsError> {
        let read = |path: &PathBuf| material::read(path).map_err(file(path));
        let identity = trust.identity.as_ref();
        Ok(Self {
            ca: trust.ca_file.as_ref().map(read).transpose()?,
            chain: identity.map(|(chain, _)| read(chain)).transpose()?,
            key: identity.map(|(_, key)| read(key)).transpose()?,
            crl: trust.crl_file.as_ref().map(read).transpose()?,
        })
    }

    pub(crate) fn print(&self) -> Print {
        let Self { ca, chain, key, crl } = self;
        material::print([ca, chain, key, crl].map(Option::as_deref))
    }

    pub(crate) fn build(
        &self,
        trust: &Trust,
        lookout: &Lookout,
        reading: u64,
    ) -> Result<Current, RootsError> {
        let verifier = self.verifier(trust)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_details(provider, Arc::clone(&lookout.clock))
            .with_safe_default_protocol_versions()
            .expect("ring serves the default versions")
            .with_webpki_verifier(Arc::clone(&verifier));
        let config = match (&trust.identity, &self.chain, &self.key) {
            (Some((chain_file, key_file)), Some(chain), Some(key)) => {
                let chain = material::certificates(chain).map_err(file(chain_file))?;
                let key = material::key(key).map_err(file(key_file))?;
                let refused = |cause| RootsError::Certificate { path: chain_file.clone(), cause };
                builder.with_client_auth_cert(chain, key).map_err(refused)?
            }
            (_, _, _) => builder.with_no_client_auth(),
        };
        Ok(Current { config: Arc::new(config), verifier: Some(verifier), print: self.print(), reading })
    }

    fn verifier(&self, trust: &Trust) -> Result<Arc<WebPkiServerVerifier>, RootsError> {
        let mut roots = RootCertStore::empty();
        match (&trust.ca_file, &self.ca) {
            (Some(path), Some(bytes)) => load(path, bytes, &mut roots)?,
            (_, _) => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
        }
        let revocations = |path: &PathBuf, cause| RootsError::Revocations { path: path.clone(), cause };
        let lists = match (&trust.crl_file, &self.crl) {
            (Some(path), Some(_)) if trust.ca_file.is_none() => {
                let cause = "there is no `ca_file` whose certificates it could revoke".to_owned();
                return Err(revocations(path, cause));
            }
            (Some(path), Some(bytes)) => material::revocations(bytes).map_err(file(path))?,
            (_, _) => Vec::new(),
        };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider);
        builder.with_crls(lists).build().map_err(|error| match (error, &trust.crl_file, &trust.ca_file) {
            (VerifierBuilderError::InvalidCrl(error), Some(path), _) => {
                revocations(path, format!("{error:?}"))
            }
            // Foreign: without authorities nothing else can be wrong, and `load` has found some.
            (_, _, path) => RootsError::Empty { path: path.clone().unwrap_or_default() },
        })
    }
}

fn file(path: &Path) -> impl Fn(pem::Error) -> RootsError {
    let path = path.to_owned();
    move |cause| RootsError::File { path: path.clone(), cause }
}

fn load(path: &Path, bytes: &[u8], roots: &mut RootCertStore) -> Result<(), RootsError> {
    let certificates = match material::certificates(bytes) {
        Err(pem::Error::NoItemsFound) => return Err(RootsError::Empty { path: path.to_owned() }),
        found => found.map_err(file(path))?,
    };
    for certificate in certificates {
        let refused = |cause| RootsError::Certificate { path: path.to_owned(), cause };
        roots.add(certificate).map_err(refused)?;
    }
    Ok(())
}
