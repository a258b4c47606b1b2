//! What a certificate and a revocation list say: names, times, serials. Whether to believe them is webpki's to say.
//!
//! Bytes of peers come here only after they were verified.

use std::fmt;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, UnixTime};
use sha2::{Digest as _, Sha256};
use weir_model::SOURCE_NAME_BYTES_MAX;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer as _;
use x509_parser::revocation_list::CertificateRevocationList;
use x509_parser::time::ASN1Time;

/// It is no certificate, or no revocation list.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("read {what}: {cause}")]
pub struct Unreadable {
    what: &'static str,
    cause: String,
}

/// Whom the verified certificate of a connection names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The first URI among its alternative names, else the first DNS name without a wildcard (DESIGN 1.5), as the URI that it is
    /// (RFC 4501): `dns:web-1.example`. So nobody who shows no certificate has a name like it. None where there is neither, or what is there is longer than [`SOURCE_NAME_BYTES_MAX`] or has other characters than visible ASCII: such a
    /// certificate names nobody.
    pub name: Option<String>,
    /// Its serial number in hexadecimal digits.
    pub serial: String,
    /// SHA-256 of its DER bytes.
    pub fingerprint: [u8; 32],
    /// The last second in which it holds.
    pub not_after: SystemTime,
}

impl Identity {
    /// Of a certificate that was verified.
    ///
    /// # Errors
    /// Where it is none.
    pub fn of(certificate: &CertificateDer<'_>) -> Result<Self, Unreadable> {
        let parsed = parse(certificate)?;
        Ok(Self {
            name: name_of(&parsed),
            serial: hexadecimal(parsed.raw_serial()),
            fingerprint: Sha256::digest(certificate).into(),
            not_after: time(parsed.validity().not_after),
        })
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => f.pad(name),
            None => write!(f, "certificate {}", self.serial),
        }
    }
}

/// All that a person asks of a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Described {
    /// Whose it is, and under what name it is known on connections.
    pub identity: Identity,
    /// The subject.
    pub subject: String,
    /// The subject of whoever signed it.
    pub issuer: String,
    /// Its alternative names with their kinds: `DNS web-1`, `IP 10.0.0.1`, `URI urn:weir:host:web-1`.
    pub names: Vec<String>,
    /// Whether it may sign others.
    pub is_authority: bool,
    /// The first second in which it holds.
    pub not_before: SystemTime,
    /// The same as a text.
    pub begins: String,
    /// The last second in which it holds, as a text.
    pub ends: String,
}

impl Described {
    /// Of any certificate.
    ///
    /// # Errors
    /// Where it is none.
    pub fn of(certificate: &CertificateDer<'_>) -> Result<Self, Unreadable> {
        let parsed = parse(certificate)?;
        let names = alternative_names(&parsed).into_iter().filter_map(|name| match name {
            GeneralName::DNSName(name) => Some(format!("DNS {name}")),
            GeneralName::URI(uri) => Some(format!("URI {uri}")),
            GeneralName::IPAddress(bytes) => address(bytes).map(|address| format!("IP {address}")),
            // Foreign: other kinds name neither a host nor an agent.
            _ => None,
        });
        Ok(Self {
            identity: Identity::of(certificate)?,
            subject: parsed.subject().to_string(),
            issuer: parsed.issuer().to_string(),
            names: names.collect(),
            is_authority: parsed.is_ca(),
            not_before: time(parsed.validity().not_before),
            begins: text(parsed.validity().not_before),
            ends: text(parsed.validity().not_after),
        })
    }
}

/// The certificates in a PEM file's bytes, in their order; there may be none.
///
/// # Errors
/// Where one is broken.
pub fn certificates_of(bytes: &[u8]) -> Result<Vec<CertificateDer<'static>>, Unreadable> {
    let broken = |error: pem::Error| Unreadable { what: "a certificate", cause: error.to_string() };
    CertificateDer::pem_slice_iter(bytes).collect::<Result<_, _>>().map_err(broken)
}

/// The revocation lists in a PEM file's bytes, in their order; there may be none.
///
/// # Errors
/// Where one is broken.
pub fn lists_of(bytes: &[u8]) -> Result<Vec<Revocations>, Unreadable> {
    let broken = |error: pem::Error| Unreadable { what: "a revocation list", cause: error.to_string() };
    let lists = CertificateRevocationListDer::pem_slice_iter(bytes);
    lists.map(|list| Revocations::of(&list.map_err(broken)?)).collect()
}

/// Whether `authority` has signed `certificate`. Says nothing of times and revocations.
///
/// # Errors
/// Where one of them is none.
pub fn has_signed(
    authority: &CertificateDer<'_>,
    certificate: &CertificateDer<'_>,
) -> Result<bool, Unreadable> {
    let (authority, certificate) = (parse(authority)?, parse(certificate)?);
    let is_named = authority.subject().as_raw() == certificate.issuer().as_raw();
    Ok(is_named && certificate.verify_signature(Some(authority.public_key())).is_ok())
}

/// What a revocation list says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revocations {
    /// The subject of the authority whose certificates it revokes.
    pub issuer: String,
    /// Its number, which rises with each list of an authority; 0 where it has none that is one.
    pub number: u64,
    /// When a newer one was promised for.
    pub next_update: Option<SystemTime>,
    /// The same as a text.
    pub expected: Option<String>,
    /// Serial numbers, and when they were revoked.
    pub revoked: Vec<(Vec<u8>, SystemTime)>,
}

impl Revocations {
    /// Of a list in DER form.
    ///
    /// # Errors
    /// Where it is none.
    pub fn of(list: &[u8]) -> Result<Self, Unreadable> {
        let unreadable = |cause: String| Unreadable { what: "a revocation list", cause };
        let parsed = CertificateRevocationList::from_der(list).map_err(|error| unreadable(error.to_string()));
        let (rest, parsed) = parsed?;
        if !rest.is_empty() {
            return Err(unreadable(format!("{} bytes too many", rest.len())));
        }
        let number = parsed.crl_number().and_then(|number| u64::try_from(number).ok());
        let revoked = parsed.iter_revoked_certificates();
        Ok(Self {
            issuer: parsed.issuer().to_string(),
            number: number.unwrap_or(0),
            next_update: parsed.next_update().map(time),
            expected: parsed.next_update().map(text),
            revoked: revoked.map(|one| (one.raw_serial().to_vec(), time(one.revocation_date))).collect(),
        })
    }
}

/// Bytes as hexadecimal digits.
pub fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The moment after which a chain does not hold any more. The beginning of time where it cannot be said: whoever asks by it verifies.
pub(crate) fn chain_ends(chain: &[CertificateDer<'_>]) -> UnixTime {
    let ends = |certificate: &CertificateDer<'_>| {
        let parsed = parse(certificate).ok()?;
        u64::try_from(parsed.validity().not_after.timestamp()).ok()
    };
    let first = chain.iter().map(|certificate| ends(certificate).unwrap_or(0)).min();
    UnixTime::since_unix_epoch(Duration::from_secs(first.unwrap_or(0)))
}

fn parse<'a>(certificate: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, Unreadable> {
    let unreadable = |cause: String| Unreadable { what: "a certificate", cause };
    let parsed = X509Certificate::from_der(certificate.as_ref());
    let (rest, parsed) = parsed.map_err(|error| unreadable(error.to_string()))?;
    if rest.is_empty() { Ok(parsed) } else { Err(unreadable(format!("{} bytes too many", rest.len()))) }
}

fn alternative_names<'a>(certificate: &'a X509Certificate<'_>) -> Vec<&'a GeneralName<'a>> {
    // A certificate with two such extensions was not verified: there is nothing to choose between.
    let found = certificate.subject_alternative_name().ok().flatten();
    found.map(|extension| extension.value.general_names.iter().collect()).unwrap_or_default()
}

fn name_of(certificate: &X509Certificate<'_>) -> Option<String> {
    let names = alternative_names(certificate);
    let uri = names.iter().find_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        // Foreign: every other kind is no URI.
        _ => None,
    });
    let dns = names.iter().find_map(|name| match name {
        GeneralName::DNSName(name) if !name.contains('*') => Some(*name),
        // Foreign: every other kind is no host's name.
        _ => None,
    });
    let is_name = |name: &String| {
        (1..=SOURCE_NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_graphic())
    };
    uri.map(str::to_owned).or_else(|| dns.map(|name| format!("dns:{name}"))).filter(is_name)
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let four = <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from);
    four.or_else(|| <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from))
}

/// Before 1970 is 1970.
fn time(of: ASN1Time) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(of.timestamp()).unwrap_or(0))
}

fn text(of: ASN1Time) -> String {
    of.to_rfc2822().unwrap_or_else(|_| of.to_string())
}
