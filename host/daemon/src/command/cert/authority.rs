//! The authority: what it signs, and what it has revoked.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, anyhow, bail};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams,
    SanType, SerialNumber,
};
use weir_net::certificate::{self, Described};

use super::files::{self, New, PUBLIC, SECRET};
use crate::command::complain;

/// The file of an authority's certificate.
pub(super) const CERTIFICATE: &str = "ca.pem";

/// The file of its key.
pub(super) const KEY: &str = "ca.key";

/// The file of its revocation list.
pub(super) const LIST: &str = "ca.crl";

/// How long an authority holds when nobody says: changing it means to touch every host.
pub(super) const AUTHORITY_DAYS: u64 = 3650;

/// How long a certificate holds when nobody says.
pub(super) const CERTIFICATE_DAYS: u64 = 365;

/// No certificate holds longer: a hundred years.
pub(super) const DAYS_MAX: u64 = 36_500;

/// Clocks of hosts differ: what is issued holds since a while.
const SKEW: Duration = Duration::from_secs(3600);

const DAY: Duration = Duration::from_secs(24 * 3600);

/// Letters of a name that is also a file's: room for `.pem` on every file system, and for the rest of the URI in an identity.
const NAME_BYTES_MAX: usize = 64;

/// Names and addresses in one certificate.
const NAMES_MAX: usize = 64;

/// Before an agent's name in the URI that a certificate bears: what the agent is known by on the link (RFC 8141).
const URI: &str = "urn:weir:host:";

/// A certificate that is asked for.
#[derive(Debug)]
pub(super) struct Wish {
    name: String,
    dns: Vec<String>,
    ip: Vec<IpAddr>,
    days: Option<u64>,
}

/// The files of what was issued.
#[derive(Debug)]
pub(super) struct Issued {
    /// The certificate.
    pub(super) cert: PathBuf,
    /// Its key.
    pub(super) key: PathBuf,
}

/// An authority in its folder.
pub(super) struct Authority<'a> {
    dir: &'a Path,
    issuer: Issuer<'static, KeyPair>,
    described: Described,
    pem: Vec<u8>,
}

// === impl Wish ===

impl Wish {
    /// For this name; a name by which it can be dialled is one of its names or addresses without being said again.
    ///
    /// # Errors
    /// A name that cannot be one.
    pub(super) fn new(
        name: &str,
        mut dns: Vec<String>,
        mut ip: Vec<IpAddr>,
        days: Option<u64>,
    ) -> anyhow::Result<Self> {
        let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        let is_name = (1..=NAME_BYTES_MAX).contains(&name.len())
            && name.bytes().all(is_letter)
            && name.as_bytes()[0].is_ascii_alphanumeric()
            && !name.eq_ignore_ascii_case("ca");
        if !is_name {
            bail!(
                "{name:?} cannot name a host or an agent: expected at most {NAME_BYTES_MAX} letters, digits, `-`, `_` and `.`, a letter \
                 or digit first, and not `ca`; further names and addresses stand behind --dns and --ip"
            );
        }
        for one in &dns {
            if !is_host(one.strip_prefix("*.").unwrap_or(one)) {
                bail!(
                    "--dns {one:?} is no name of a host, expected one as `web-1.example`; addresses stand behind --ip"
                );
            }
        }
        match name.parse() {
            Ok(address) => ip.insert(0, address),
            Err(_) if is_host(name) => dns.insert(0, name.to_owned()),
            Err(_) => {}
        }
        if dns.len() + ip.len() > NAMES_MAX {
            bail!(
                "{} names and addresses: expected at most {NAMES_MAX} in one certificate",
                dns.len() + ip.len()
            );
        }
        Ok(Self { name: name.to_owned(), dns, ip, days })
    }

    /// The name.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Whether it bears a name by which it can be dialled.
    pub(super) fn is_dialled(&self) -> bool {
        !self.dns.is_empty() || !self.ip.is_empty()
    }

    fn params(&self, begins: SystemTime, ends: SystemTime) -> anyhow::Result<CertificateParams> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, self.name.as_str());
        (params.not_before, params.not_after) = (begins.into(), ends.into());
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let uri = format!("{URI}{}", self.name);
        params.subject_alt_names.push(SanType::URI(uri.as_str().try_into().context("the name as a URI")?));
        for name in &self.dns {
            let name = name.as_str().try_into().with_context(|| format!("--dns {name}"))?;
            params.subject_alt_names.push(SanType::DnsName(name));
        }
        params.subject_alt_names.extend(self.ip.iter().map(|address| SanType::IpAddress(*address)));
        Ok(params)
    }
}

/// Whether a text is a host's name (RFC 1123, 2.1).
fn is_host(name: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    name.len() <= 253 && name.split('.').all(is_label) && name.parse::<IpAddr>().is_err()
}

// === impl Authority ===

impl<'a> Authority<'a> {
    /// Makes one.
    ///
    /// # Errors
    /// Where there is one in this folder, or something cannot be written.
    pub(super) fn init(dir: &Path, name: &str, days: u64, now: SystemTime) -> anyhow::Result<()> {
        if name.is_empty() || name.len() > NAME_BYTES_MAX || name.chars().any(char::is_control) {
            bail!("--name {name:?}: expected 1 to {NAME_BYTES_MAX} bytes of text");
        }
        let ends = now + DAY * u32::try_from(days).unwrap_or(u32::MAX);
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, name);
        params.distinguished_name.push(DnType::CommonName, format!("{name} authority of Weir"));
        (params.not_before, params.not_after) = ((now - SKEW).into(), ends.into());
        // It signs hosts and no other authorities.
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().context("make a key")?;
        let key_pem = key.serialize_pem();
        let issuer = CertifiedIssuer::self_signed(params, key).context("sign the authority's certificate")?;
        let list = list(&issuer, 1, Vec::new(), now, ends)?;
        files::folder(dir)?;
        let file = |name: &str, content, mode| New { path: dir.join(name), content, mode };
        let made =
            [file(KEY, key_pem, SECRET), file(CERTIFICATE, issuer.pem(), PUBLIC), file(LIST, list, PUBLIC)];
        let dir = dir.display();
        let cure = format!(
            "issue certificates of it by `weir cert issue HOST --dir {dir}`, or name another folder by --dir"
        );
        files::create(&made, &cure)
    }

    /// The authority of a folder.
    ///
    /// # Errors
    /// Where there is none, its key is another's, or it holds no more.
    pub(super) fn open(dir: &'a Path, now: SystemTime) -> anyhow::Result<Self> {
        let cure = || format!("no authority in {0}: make one by `weir cert init --dir {0}`", dir.display());
        let (cert, key) = (dir.join(CERTIFICATE), dir.join(KEY));
        let pem = files::read(&cert).with_context(cure)?;
        let key_pem = String::from_utf8(files::read(&key).with_context(cure)?);
        let not_a_key = || format!("read {}: expected a private key in PEM form", key.display());
        let pair = KeyPair::from_pem(&key_pem.with_context(not_a_key)?).with_context(not_a_key)?;
        if files::is_open_to_others(&key) {
            complain(&format!("warning: {0} can be read by others: chmod 600 {0}", key.display()));
        }
        let found = certificate::certificates_of(&pem).with_context(|| cert.display().to_string())?;
        let [own] = found.as_slice() else {
            bail!("{}: expected one certificate, found {}", cert.display(), found.len());
        };
        let described = Described::of(own).with_context(|| cert.display().to_string())?;
        if described.identity.not_after < now {
            bail!(
                "the authority in {} has expired ({}): make another by `weir cert init --dir DIR`",
                dir.display(),
                described.ends
            );
        }
        let issuer = Issuer::from_ca_cert_der(own, pair).with_context(|| cert.display().to_string())?;
        Ok(Self { dir, issuer, described, pem })
    }

    /// Issues a certificate with a new key into two new files of `out`.
    ///
    /// # Errors
    /// Where a file is there already or cannot be written, or it would outlive the authority.
    pub(super) fn issue(&self, out: &Path, wish: &Wish, now: SystemTime) -> anyhow::Result<Issued> {
        let last = self.described.identity.not_after;
        let ends = |days: u64| now + DAY * u32::try_from(days).unwrap_or(u32::MAX);
        let ends = match wish.days {
            None => ends(CERTIFICATE_DAYS).min(last),
            Some(days) if ends(days) > last => {
                bail!("the authority holds until {}: expected fewer --days than {days}", self.described.ends);
            }
            Some(days) => ends(days),
        };
        let key = KeyPair::generate().context("make a key")?;
        let params = wish.params((now - SKEW).max(self.described.not_before), ends)?;
        let made = params.signed_by(&key, &self.issuer).context("sign the certificate")?;
        if !self.has_signed(made.pem().as_bytes())? {
            bail!("{} is not the key of {}: bring back the one that belongs to it", KEY, CERTIFICATE);
        }
        files::folder(out)?;
        let path = |ending: &str| out.join(format!("{}.{ending}", wish.name));
        let issued = Issued { cert: path("pem"), key: path("key") };
        let cure = format!(
            "for a new certificate name another folder by --out, and put both files in place of these: they are read again within a \
             minute; revoke the old one by `weir cert revoke {} --dir {}` where its key is in wrong hands",
            issued.cert.display(),
            self.dir.display()
        );
        let file = |path: &Path, content, mode| New { path: path.to_owned(), content, mode };
        let made = [file(&issued.key, key.serialize_pem(), SECRET), file(&issued.cert, made.pem(), PUBLIC)];
        files::create(&made, &cure)?;
        Ok(issued)
    }

    /// Puts a certificate on the list; false where it stands there already.
    ///
    /// # Errors
    /// Where it is not of this authority, or the list cannot be read or written.
    pub(super) fn revoke(&self, certificate: &[u8], file: &Path, now: SystemTime) -> anyhow::Result<bool> {
        let of_file = || file.display().to_string();
        let revoked = Described::of(&certificate.into()).with_context(of_file)?;
        if revoked.is_authority {
            bail!(
                "{} is an authority: take it out of the `client_ca_file` and `ca_file` of each host",
                file.display()
            );
        }
        let own = self.own()?;
        if !certificate::has_signed(&own.as_slice().into(), &certificate.into()).with_context(of_file)? {
            let dir = self.dir.display();
            bail!(
                "{} is not of the authority in {dir}: name the folder of the one that has issued it by --dir",
                file.display()
            );
        }
        let path = self.dir.join(LIST);
        let known =
            certificate::lists_of(&files::read(&path)?).with_context(|| path.display().to_string())?;
        let [known] = known.as_slice() else {
            bail!("{}: expected one revocation list, found {}", path.display(), known.len());
        };
        let serial = serial(&revoked)?;
        let digits =
            |serial: &[u8]| serial.iter().copied().skip_while(|byte| *byte == 0).collect::<Vec<u8>>();
        let mut all = known.revoked.clone();
        if all.iter().any(|(known, _)| digits(known) == digits(&serial)) {
            return Ok(false);
        }
        all.push((serial, now));
        let ends = self.described.identity.not_after;
        let next = known.number.checked_add(1).context("the list's number has no successor")?;
        files::exchange(&path, list(&self.issuer, next, all, now, ends)?)?;
        Ok(true)
    }

    fn own(&self) -> anyhow::Result<Vec<u8>> {
        let found = certificate::certificates_of(&self.pem)?;
        Ok(found.first().map(|own| own.to_vec()).unwrap_or_default())
    }

    fn has_signed(&self, pem: &[u8]) -> anyhow::Result<bool> {
        let made = certificate::certificates_of(pem)?;
        let made = made.first().ok_or_else(|| anyhow!("no certificate was made"))?;
        Ok(certificate::has_signed(&self.own()?.as_slice().into(), made)?)
    }
}

/// The serial number's bytes, of its digits.
fn serial(of: &Described) -> anyhow::Result<Vec<u8>> {
    let digits = of.identity.serial.as_bytes().chunks(2);
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    digits.map(byte).collect::<Option<_>>().context("a serial number that is none")
}

/// A revocation list. It says that it holds as long as the authority: it is replaced by hand, when there is a reason.
fn list(
    issuer: &Issuer<'_, KeyPair>,
    number: u64,
    revoked: Vec<(Vec<u8>, SystemTime)>,
    now: SystemTime,
    ends: SystemTime,
) -> anyhow::Result<String> {
    let revoked_certs = revoked.into_iter().map(|(serial, since)| RevokedCertParams {
        serial_number: SerialNumber::from(serial),
        revocation_time: since.into(),
        reason_code: None,
        invalidity_date: None,
    });
    let params = CertificateRevocationListParams {
        this_update: (now - SKEW).into(),
        next_update: ends.into(),
        crl_number: SerialNumber::from(number),
        issuing_distribution_point: None,
        revoked_certs: revoked_certs.collect(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    let signed = params.signed_by(issuer).context("sign the revocation list")?;
    signed.pem().context("write the revocation list")
}
