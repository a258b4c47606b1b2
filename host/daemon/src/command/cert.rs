//! `weir cert`: a private authority in a folder, and certificates for the hosts that speak to each other.
//!
//! ```text
//! init  ─▶ DIR/ca.pem (every host trusts it), DIR/ca.key (stays here), DIR/ca.crl (what is revoked)
//! issue ─▶ DIR/NAME.pem, DIR/NAME.key: what NAME listens with and what it dials with
//! ```

mod authority;
mod files;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::SystemTime;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use weir_net::certificate::{self, Described, Revocations, hexadecimal};

use super::{Failure, say};
use authority::{AUTHORITY_DAYS, Authority, DAYS_MAX, Issued, Wish};

/// Where an authority lies when nobody says where.
const FOLDER: &str = "weir-certs";

/// Makes a private authority, and certificates for the hosts that speak to each other.
#[derive(Debug, Subcommand)]
pub(super) enum Cert {
    /// Makes an authority: its certificate, its key, and a revocation list that is still empty.
    Init {
        #[command(flatten)]
        place: Place,
        /// Whose authority it is, as it stands in its certificate.
        #[arg(long, value_name = "ORG", default_value = "Weir")]
        name: String,
        /// For how many days it holds.
        #[arg(long, default_value_t = AUTHORITY_DAYS, value_parser = clap::value_parser!(u64).range(1..=DAYS_MAX))]
        days: u64,
    },
    /// Makes a certificate and a key for one host or agent: for what it listens on, and for what it dials.
    Issue {
        /// The host's name or address, or an agent's name.
        #[arg(value_name = "HOST|AGENT-NAME")]
        name: String,
        #[command(flatten)]
        place: Place,
        /// The folder for the two files; the authority's where it is not said.
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
        /// A further name by which others dial it.
        #[arg(long, value_name = "NAME")]
        dns: Vec<String>,
        /// An address by which others dial it.
        #[arg(long, value_name = "ADDRESS")]
        ip: Vec<IpAddr>,
        /// For how many days it holds: 365, or as long as the authority does where that is less.
        #[arg(long, value_parser = clap::value_parser!(u64).range(1..=DAYS_MAX))]
        days: Option<u64>,
    },
    /// Shows what certificates and revocation lists say.
    Show {
        /// PEM files.
        #[arg(value_name = "FILE", required = true)]
        files: Vec<PathBuf>,
    },
    /// Puts a certificate on its authority's revocation list.
    Revoke {
        /// The certificate's file.
        #[arg(value_name = "FILE")]
        file: PathBuf,
        #[command(flatten)]
        place: Place,
    },
}

/// Where the authority lies.
#[derive(Debug, Args)]
pub(super) struct Place {
    /// The authority's folder.
    #[arg(long, value_name = "DIR", default_value = FOLDER)]
    dir: PathBuf,
}

/// Does it.
pub(super) fn cert(command: Cert) -> Result<ExitCode, Failure> {
    let now = SystemTime::now();
    let said = match command {
        Cert::Init { place, name, days } => init(&place.dir, &name, days, now)?,
        Cert::Issue { name, place, out, dns, ip, days } => {
            let wish = Wish::new(&name, dns, ip, days)?;
            issue(&place.dir, out.as_deref(), &wish, now)?
        }
        Cert::Show { files } => {
            let shown: Vec<String> = files.iter().map(|file| show(file, now)).collect::<Result<_, _>>()?;
            shown.join("\n")
        }
        Cert::Revoke { file, place } => revoke(&place.dir, &file, now)?,
    };
    say(said.trim_end());
    Ok(ExitCode::SUCCESS)
}

fn init(dir: &Path, name: &str, days: u64, now: SystemTime) -> anyhow::Result<String> {
    Authority::init(dir, name, days, now)?;
    let shown = described(&dir.join(authority::CERTIFICATE))?;
    Ok(format!(
        "authority made, it holds until {ends}
  {cert}  its certificate, which every host trusts
  {key}  its key: keep it here and safe, no host needs it
  {list}  the certificates that it has revoked: none yet
next: weir cert issue HOST --dir {dir}",
        ends = shown.ends,
        cert = dir.join(authority::CERTIFICATE).display(),
        key = dir.join(authority::KEY).display(),
        list = dir.join(authority::LIST).display(),
        dir = dir.display(),
    ))
}

fn issue(dir: &Path, out: Option<&Path>, wish: &Wish, now: SystemTime) -> anyhow::Result<String> {
    let Issued { cert, key } = Authority::open(dir, now)?.issue(out.unwrap_or(dir), wish, now)?;
    let shown = described(&cert)?;
    let path = |path: &Path| yaml(&std::path::absolute(path).unwrap_or_else(|_| path.to_owned()));
    let (ca, list) = (path(&dir.join(authority::CERTIFICATE)), path(&dir.join(authority::LIST)));
    let (cert_file, key_file) = (path(&cert), path(&key));
    let serves = match wish.is_dialled() {
        true => "",
        false => "\n  it bears no name that can be dialled: for what listens, say --dns or --ip",
    };
    Ok(format!(
        "certificate of {name} made ({names}), it holds until {ends}
  {cert}
  {key}{serves}
copy both, {ca} and {list} to {name}, and write there, with the paths that they have then,
where it listens (`receivers`):
  tls: {{cert_file: {cert_file}, key_file: {key_file}, client_ca_file: {ca}, crl_file: {list}}}
where it dials (`exporters`):
  tls: {{ca_file: {ca}, cert_file: {cert_file}, key_file: {key_file}}}
next: weir validate FILE; whoever runs already reads changed files within a minute",
        name = wish.name(),
        names = shown.names.join(", "),
        ends = shown.ends,
        cert = cert.display(),
        key = key.display(),
    ))
}

fn revoke(dir: &Path, file: &Path, now: SystemTime) -> anyhow::Result<String> {
    let bytes = files::read(file)?;
    let found = certificate::certificates_of(&bytes).with_context(|| file.display().to_string())?;
    let Some(first) = found.first() else {
        bail!("{} holds no certificate: name the file that `weir cert issue` has made", file.display());
    };
    let revoked = Authority::open(dir, now)?.revoke(first, file, now)?;
    let shown = Described::of(first).with_context(|| file.display().to_string())?;
    let list = dir.join(authority::LIST);
    let done = match revoked {
        true => "is revoked",
        false => "was revoked already",
    };
    Ok(format!(
        "certificate {serial} of {identity} {done}, as {list} says
next: copy {list} to where each host has its `crl_file`; they read it within a minute and cut who is connected",
        serial = shown.identity.serial,
        identity = shown.identity,
        list = list.display(),
    ))
}

fn described(path: &Path) -> anyhow::Result<Described> {
    let found = certificate::certificates_of(&files::read(path)?)?;
    let first = found.first().with_context(|| format!("{} holds no certificate", path.display()))?;
    Described::of(first).with_context(|| path.display().to_string())
}

fn show(path: &Path, now: SystemTime) -> anyhow::Result<String> {
    let bytes = files::read(path)?;
    let of_file = || path.display().to_string();
    let certificates = certificate::certificates_of(&bytes).with_context(of_file)?;
    let lists = certificate::lists_of(&bytes).with_context(of_file)?;
    if certificates.is_empty() && lists.is_empty() {
        bail!("{} holds neither a certificate nor a revocation list in PEM form", path.display());
    }
    let mut said = Vec::new();
    for one in &certificates {
        said.push(show_certificate(path, &Described::of(one).with_context(of_file)?, now));
    }
    said.extend(lists.iter().map(|list| show_list(path, list, now)));
    Ok(said.join("\n"))
}

fn show_certificate(path: &Path, shown: &Described, now: SystemTime) -> String {
    let holds = match now {
        now if now < shown.not_before => "it does not hold yet",
        now if now > shown.identity.not_after => "IT HAS EXPIRED",
        _ => "it holds",
    };
    let kind = if shown.is_authority { "authority" } else { "certificate" };
    let identity = match &shown.identity.name {
        Some(name) => name.as_str(),
        None => "none: nobody is known by it on the link",
    };
    format!(
        "{path}: {kind} {subject}, {holds}
  identity     {identity}
  names        {names}
  issued by    {issuer}
  holds        {begins} to {ends}
  serial       {serial}
  fingerprint  sha256:{fingerprint}",
        path = path.display(),
        subject = shown.subject,
        names = shown.names.join(", "),
        issuer = shown.issuer,
        begins = shown.begins,
        ends = shown.ends,
        serial = shown.identity.serial,
        fingerprint = hexadecimal(&shown.identity.fingerprint),
    )
}

fn show_list(path: &Path, list: &Revocations, now: SystemTime) -> String {
    let state = match list.next_update {
        Some(ends) if ends < now => ", IT IS OUT OF DATE",
        Some(_) | None => "",
    };
    let mut text = format!(
        "{path}: revocation list {number} of {issuer}, {count} revoked{state}",
        path = path.display(),
        number = list.number,
        issuer = list.issuer,
        count = list.revoked.len(),
    );
    for (serial, _) in &list.revoked {
        text.push_str("\n  serial       ");
        text.push_str(&hexadecimal(serial));
    }
    text
}

/// A path as it may stand in YAML between braces.
fn yaml(path: &Path) -> String {
    let text = path.display().to_string();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
    if text.chars().all(is_plain) { text } else { format!("'{}'", text.replace('\'', "''")) }
}

#[cfg(test)]
mod tests;
