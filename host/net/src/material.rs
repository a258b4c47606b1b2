//! Files of certificates, keys and revocation lists, as bytes: read at once, told apart by what they hold.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, UnixTime};
use rustls::time_provider::{DefaultTimeProvider, TimeProvider};
use sha2::{Digest as _, Sha256};
use tracing::{info, warn};

/// Bytes of one file at most: a revocation list of some hundred thousand entries, and no disk that somebody has put in its place.
const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// How often files are looked at, and live connections by the time and by what the files hold: what an operator revokes is cut
/// within a minute.
pub const LOOK_INTERVAL: Duration = Duration::from_secs(60);

/// The time by which certificates are judged, and how often that is done.
#[derive(Debug, Clone)]
pub struct Lookout {
    /// The time. Tests bring their own.
    pub clock: Arc<dyn TimeProvider>,
    /// How often; [`LOOK_INTERVAL`].
    pub interval: Duration,
}

impl Default for Lookout {
    fn default() -> Self {
        Self { clock: Arc::new(DefaultTimeProvider), interval: LOOK_INTERVAL }
    }
}

impl Lookout {
    /// The time now. A clock that does not know leaves it to the system's.
    pub(crate) fn now(&self) -> UnixTime {
        self.clock.current_time().unwrap_or_else(UnixTime::now)
    }
}

/// Tells one content of several files from another.
pub(crate) type Print = [u8; 32];

/// The print of these contents, of which some may be absent.
pub(crate) fn print<'a>(contents: impl IntoIterator<Item = Option<&'a [u8]>>) -> Print {
    let mut hash = Sha256::new();
    for content in contents {
        // With its length, so that bytes that wander from one file to the next are a change.
        hash.update(content.map_or(u64::MAX, |content| content.len() as u64).to_be_bytes());
        hash.update(content.unwrap_or_default());
    }
    hash.finalize().into()
}

/// A whole file.
///
/// # Errors
/// Also where it is larger than [`FILE_BYTES_MAX`].
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, pem::Error> {
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(pem::Error::Io)?;
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(pem::Error::Io)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(pem::Error::Io(io::Error::other(format!("it is larger than {FILE_BYTES_MAX} bytes"))));
    }
    Ok(bytes)
}

/// The certificates of a PEM file, at least one.
///
/// # Errors
/// Where it has none, or one that is broken.
pub(crate) fn certificates(bytes: &[u8]) -> Result<Vec<CertificateDer<'static>>, pem::Error> {
    let found: Vec<_> = CertificateDer::pem_slice_iter(bytes).collect::<Result<_, _>>()?;
    if found.is_empty() { Err(pem::Error::NoItemsFound) } else { Ok(found) }
}

/// The private key of a PEM file.
///
/// # Errors
/// Where it has none.
pub(crate) fn key(bytes: &[u8]) -> Result<PrivateKeyDer<'static>, pem::Error> {
    PrivateKeyDer::from_pem_slice(bytes)
}

/// The revocation lists of a PEM file, at least one; or the one list that a DER file is, which who uses it will judge.
///
/// # Errors
/// Where it has none, or one that is broken.
pub(crate) fn revocations(bytes: &[u8]) -> Result<Vec<CertificateRevocationListDer<'static>>, pem::Error> {
    /// The first byte of every DER list: a sequence (X.690, 8.9).
    const SEQUENCE: u8 = 0x30;
    if bytes.first() == Some(&SEQUENCE) {
        return Ok(vec![CertificateRevocationListDer::from(bytes.to_vec())]);
    }
    let found: Vec<_> = CertificateRevocationListDer::pem_slice_iter(bytes).collect::<Result<_, _>>()?;
    if found.is_empty() { Err(pem::Error::NoItemsFound) } else { Ok(found) }
}

/// Says once that files cannot be read again, and once that they can: not each minute.
#[derive(Debug, Default)]
pub(crate) struct Spell(Mutex<Option<String>>);

impl Spell {
    /// Files were read again, or not: `error` is why not.
    pub(crate) fn note(&self, what: &Path, error: Option<String>) {
        let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &error {
            Some(error) if said.as_ref() != Some(error) => {
                warn!(error, file = %what.display(), "certificates not read again, the ones before are used");
            }
            None if said.is_some() => info!(file = %what.display(), "certificates can be read again"),
            Some(_) | None => (),
        }
        *said = error;
    }
}
