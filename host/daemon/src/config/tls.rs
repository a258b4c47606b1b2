//! `tls:` of what listens and of what dials.

use std::path::PathBuf;

use super::location::Located;
use super::section::{Hints, Section};

/// `tls:` of a listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerTls {
    /// Nothing was written: plaintext, which is taken on loopback addresses only.
    Absent,
    /// `insecure: true`: plaintext on any address, as the user has spelled out.
    Insecure,
    /// TLS.
    Files(ServerTlsFiles),
}

/// Files of a listener's TLS, all in PEM form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerTlsFiles {
    /// The certificate with its chain.
    pub cert_file: Located<PathBuf>,
    /// Its private key.
    pub key_file: Located<PathBuf>,
    /// Authorities of which one must vouch for a client; without them any client is taken.
    pub client_ca_file: Option<Located<PathBuf>>,
    /// Revocation lists of these authorities, PEM or DER; a client whose certificate no list speaks for is refused.
    pub crl_file: Option<Located<PathBuf>>,
}

/// `tls:` of an exporter.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClientTls {
    /// `true`: plaintext where the endpoint does not say. `false`: TLS. `None`: nothing was written.
    pub insecure: Option<Located<bool>>,
    /// Authorities to trust instead of the usual ones, PEM.
    pub ca_file: Option<Located<PathBuf>>,
    /// Our certificate with its chain, where the backend asks for one, PEM.
    pub cert_file: Option<Located<PathBuf>>,
    /// Its private key, PEM.
    pub key_file: Option<Located<PathBuf>>,
    /// Revocation lists of the authorities in `ca_file`, PEM or DER; of a page, of those in `client_ca_file`.
    pub crl_file: Option<Located<PathBuf>>,
}

impl ClientTls {
    /// Whether something was written that only TLS can mean.
    pub fn asks_for_tls(&self) -> bool {
        let Self { insecure, ca_file, cert_file, key_file, crl_file } = self;
        let files = [ca_file, cert_file, key_file, crl_file].iter().any(|file| file.is_some());
        files || insecure.as_ref().is_some_and(|insecure| !insecure.value)
    }

    /// Every file that must be readable.
    pub fn files(&self) -> impl Iterator<Item = &Located<PathBuf>> {
        [&self.ca_file, &self.cert_file, &self.key_file, &self.crl_file].into_iter().flatten()
    }
}

impl ServerTls {
    /// Every file that must be readable.
    pub fn files(&self) -> Vec<&Located<PathBuf>> {
        match self {
            Self::Absent | Self::Insecure => Vec::new(),
            Self::Files(ServerTlsFiles { cert_file, key_file, client_ca_file, crl_file }) => {
                let optional = [client_ca_file.as_ref(), crl_file.as_ref()];
                [Some(cert_file), Some(key_file)].into_iter().chain(optional).flatten().collect()
            }
        }
    }
}

const SERVER_HINTS: Hints = &[("ca_file", "the authorities of clients are `client_ca_file`")];

pub(crate) fn server(section: &mut Section<'_>) -> ServerTls {
    if section.field("tls").is_none() {
        return ServerTls::Absent;
    }
    let mut tls = section.section("tls");
    let insecure = tls.field("insecure").and_then(|field| Some((field.boolean()?, field)));
    let cert_file = tls.field("cert_file").map(|field| (field.path(), field));
    let key_file = tls.field("key_file").map(|field| (field.path(), field));
    let client_ca_file = tls.field("client_ca_file").and_then(|field| field.path());
    let crl_file = revocations(&mut tls, "client_ca_file", client_ca_file.is_some());
    let (at, path, problems) = (tls.at, tls.path.clone(), tls.problems);
    tls.finish(SERVER_HINTS);
    if let Some((true, field)) = &insecure {
        if cert_file.is_some() || key_file.is_some() || client_ca_file.is_some() || crl_file.is_some() {
            field.wrong("expected either `insecure: true` or files, not both");
        }
        return ServerTls::Insecure;
    }
    match (cert_file, key_file) {
        (Some((Some(cert_file), _)), Some((Some(key_file), _))) => {
            ServerTls::Files(ServerTlsFiles { cert_file, key_file, client_ca_file, crl_file })
        }
        // A path that is no path has been spoken of.
        (Some(_), Some(_)) => ServerTls::Insecure,
        (Some((_, field)), None) => {
            field
                .problems
                .push(field.error("a certificate without its key").label("expected `key_file` beside it"));
            ServerTls::Insecure
        }
        (None, Some((_, field))) => {
            field
                .problems
                .push(field.error("a key without its certificate").label("expected `cert_file` beside it"));
            ServerTls::Insecure
        }
        (None, None) if client_ca_file.is_some() || crl_file.is_some() || insecure.is_none() => {
            let error = super::report::Diagnostic::error(at, path, "TLS without a certificate");
            problems
                .push(error.label("expected `cert_file` and `key_file`, or `insecure: true` for plaintext"));
            ServerTls::Insecure
        }
        (None, None) => ServerTls::Absent,
    }
}

/// `crl_file`, which says nothing without the authorities whose certificates it revokes: that they would not be refused must not
/// go unseen.
fn revocations(tls: &mut Section<'_>, authorities: &str, has_authorities: bool) -> Option<Located<PathBuf>> {
    let field = tls.field("crl_file")?;
    if !has_authorities {
        let error = field.error("revocation lists without the authorities whose certificates they revoke");
        field.problems.push(error.label(format!("expected `{authorities}` beside it")));
    }
    field.path()
}

const CLIENT_HINTS: Hints = &[
    ("insecure_skip_verify", "certificates are always verified; name the authority in `ca_file`"),
    ("server_name_override", "the certificate must bear the endpoint's host"),
];

pub(crate) fn client(section: &mut Section<'_>) -> ClientTls {
    if section.field("tls").is_none() {
        return ClientTls::default();
    }
    let mut tls = section.section("tls");
    let mut read = client_keys(&mut tls);
    read.crl_file = revocations(&mut tls, "ca_file", read.ca_file.is_some());
    tls.finish(CLIENT_HINTS);
    read
}

/// `tls:` of an exporter that a plugin serves: of its requests, or of its page, which alone has `client_ca_file`. Which of the
/// two it is, is known when the plugin was asked.
pub(crate) fn of_plugin(section: &mut Section<'_>) -> (ClientTls, Option<Located<PathBuf>>) {
    if section.field("tls").is_none() {
        return (ClientTls::default(), None);
    }
    let mut tls = section.section("tls");
    let mut read = client_keys(&mut tls);
    let client_ca_file = tls.field("client_ca_file").and_then(|field| field.path());
    let has_authorities = read.ca_file.is_some() || client_ca_file.is_some();
    read.crl_file = revocations(&mut tls, "ca_file", has_authorities);
    tls.finish(CLIENT_HINTS);
    (read, client_ca_file)
}

fn client_keys(tls: &mut Section<'_>) -> ClientTls {
    let insecure = tls.field("insecure").and_then(|field| Some(Located::new(field.boolean()?, field.at())));
    let ca_file = tls.field("ca_file").and_then(|field| field.path());
    let cert = tls.field("cert_file");
    let key = tls.field("key_file");
    match (&cert, &key) {
        (Some(cert), None) => {
            cert.problems
                .push(cert.error("a certificate without its key").label("expected `key_file` beside it"));
        }
        (None, Some(key)) => {
            key.problems
                .push(key.error("a key without its certificate").label("expected `cert_file` beside it"));
        }
        (Some(_), Some(_)) | (None, None) => {}
    }
    ClientTls {
        insecure,
        ca_file,
        cert_file: cert.and_then(|field| field.path()),
        key_file: key.and_then(|field| field.path()),
        crl_file: None,
    }
}
