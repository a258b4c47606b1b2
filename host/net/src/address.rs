//! Which origins and addresses the process may dial for a configured id.
//!
//! A name is judged before it is resolved, and each address that it resolves to is judged again, so that a name
//! under somebody else's control cannot lead to the host itself, to its neighbours on the link or to a cloud's
//! metadata service.
//!
//! Invariant: no address is dialled that [`Egress::judge`] has not passed for the origin that was asked for.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use crate::listed::Listed;

/// How many origins one grant may hold: a configuration names a handful; more is a mistake.
pub const ORIGINS_MAX: usize = 64;

/// `http` or `https`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// Plain text.
    Http,
    /// TLS.
    Https,
}

impl Scheme {
    fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

/// The host of an origin: a name in lower case without its last dot, or an address.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Host {
    /// Resolved anew for each connection.
    Name(String),
    /// Written as an address.
    Ip(IpAddr),
}

impl Host {
    fn parse(text: &str) -> Option<Self> {
        let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
        if let Ok(ip) = bare.parse::<IpAddr>() {
            return Some(Self::Ip(ip));
        }
        let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        // Resolvers read "127.1", "0x7f.1" and "2130706433" as addresses; as names they would slip past the grant.
        let last = name.rsplit('.').next().unwrap_or_default();
        let looks_numeric = last.starts_with("0x") || last.bytes().all(|byte| byte.is_ascii_digit());
        let plain =
            name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'));
        (!name.is_empty() && name.len() <= 253 && plain && !looks_numeric).then_some(Self::Name(name))
    }

    /// Whether whoever wrote this host meant the machine itself.
    pub fn is_loopback_literal(&self) -> bool {
        match self {
            Self::Name(name) => name == "localhost",
            Self::Ip(ip) => AddressKind::of(*ip) == AddressKind::Loopback,
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Ip(IpAddr::V4(ip)) => write!(f, "{ip}"),
            Self::Ip(IpAddr::V6(ip)) => write!(f, "[{ip}]"),
        }
    }
}

/// Scheme, host and port: what a grant names and a request is matched against.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Origin {
    /// `http` or `https`.
    pub scheme: Scheme,
    /// Name or address.
    pub host: Host,
    /// The scheme's own port where none was written.
    pub port: u16,
}

/// The text is not a URL that a grant could be made of.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "expected a URL like https://host:port/path without user and password, found \"{found}\" ({because})"
)]
pub struct OriginError {
    found: String,
    because: &'static str,
}

impl Origin {
    /// The origin of a request.
    ///
    /// # Errors
    /// [`OriginError`] where scheme or host are missing, where the authority holds a user, or where the host is
    /// neither a plain name nor an address.
    pub fn of(uri: &http::Uri) -> Result<Self, OriginError> {
        let fail = |because| OriginError { found: shown(&uri.to_string()), because };
        let scheme = match uri.scheme_str() {
            Some("http") => Scheme::Http,
            Some("https") => Scheme::Https,
            Some(_) | None => return Err(fail("the scheme is neither http nor https")),
        };
        let authority = uri.authority().ok_or_else(|| fail("there is no host"))?;
        if authority.as_str().contains('@') {
            return Err(fail("credentials do not belong into a URL"));
        }
        let host =
            Host::parse(authority.host()).ok_or_else(|| fail("the host is neither a name nor an address"))?;
        let port = match authority.as_str().strip_prefix(authority.host()) {
            None | Some("") => scheme.default_port(),
            Some(_) => authority.port_u16().ok_or_else(|| fail("the port is not a number up to 65535"))?,
        };
        Ok(Self { scheme, host, port })
    }
}

/// A URL as an error may show it: without a user and without a query, either of which may be a secret, and cut where it
/// gets long.
fn shown(text: &str) -> String {
    let (text, query) = match text.split_once('?') {
        Some((before, _)) => (before, "?…"),
        None => (text, ""),
    };
    let whole = match (text.find("://"), text.rfind('@')) {
        (Some(start), Some(at)) if at > start => format!("{}://…@{}{query}", &text[..start], &text[at + 1..]),
        (None, Some(at)) => format!("…@{}{query}", &text[at + 1..]),
        (Some(_) | None, _) => format!("{text}{query}"),
    };
    whole.chars().take(200).collect()
}

impl FromStr for Origin {
    type Err = OriginError;

    fn from_str(text: &str) -> Result<Self, OriginError> {
        let uri = text
            .trim()
            .parse::<http::Uri>()
            .map_err(|_| OriginError { found: shown(text), because: "it is not a URL" })?;
        Self::of(&uri)
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}:{}", self.scheme.name(), self.host, self.port)
    }
}

/// What an address is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AddressKind {
    /// Anything that no other kind claims.
    Public,
    /// 127.0.0.0/8, `::1`.
    Loopback,
    /// RFC 1918, RFC 6598 and unique local addresses.
    Private,
    /// 169.254.0.0/16, fe80::/10.
    LinkLocal,
    /// Where clouds hand out credentials.
    Metadata,
    /// 0.0.0.0/8, `::`.
    Unspecified,
    /// 224.0.0.0/4, ff00::/8.
    Multicast,
    /// RFC 5737, RFC 3849, RFC 9637.
    Documentation,
    /// 240.0.0.0/4, benchmarking, protocol assignments, Teredo, discard, segment routing.
    Reserved,
}

impl AddressKind {
    /// Judges an address; an IPv4 address inside an IPv6 one (mapped, compatible, NAT64, 6to4) is judged as itself.
    pub fn of(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(ip) => Self::of_v4(ip),
            IpAddr::V6(ip) => Self::of_v6(ip),
        }
    }

    /// The word in a denial.
    pub fn name(self) -> &'static str {
        match self {
            Self::Public => "public",
            Self::Loopback => "loopback",
            Self::Private => "private",
            Self::LinkLocal => "link-local",
            Self::Metadata => "cloud metadata",
            Self::Unspecified => "unspecified",
            Self::Multicast => "multicast",
            Self::Documentation => "documentation",
            Self::Reserved => "reserved",
        }
    }

    fn of_v4(ip: Ipv4Addr) -> Self {
        match ip.octets() {
            // AWS, Azure, Google, OpenStack; Azure's wire server; Alibaba.
            [169, 254, 169, 254] | [168, 63, 129, 16] | [100, 100, 100, 200] => Self::Metadata,
            [0, ..] => Self::Unspecified,
            [127, ..] => Self::Loopback,
            [169, 254, ..] => Self::LinkLocal,
            [10, ..] | [172, 16..=31, ..] | [192, 168, ..] | [100, 64..=127, ..] => Self::Private,
            [192, 0, 2, _] | [198, 51, 100, _] | [203, 0, 113, _] => Self::Documentation,
            [192, 0, 0, _] | [192, 88, 99, _] | [198, 18..=19, ..] | [240..=255, ..] => Self::Reserved,
            [224..=239, ..] => Self::Multicast,
            _ => Self::Public,
        }
    }

    fn of_v6(ip: Ipv6Addr) -> Self {
        let words = ip.segments();
        let embedded =
            |high: u16, low: u16| Self::of_v4(Ipv4Addr::from((u32::from(high) << 16) | u32::from(low)));
        match words {
            [0, 0, 0, 0, 0, 0, 0, 0] => Self::Unspecified,
            [0, 0, 0, 0, 0, 0, 0, 1] => Self::Loopback,
            // Mapped, compatible and translated IPv4.
            [0, 0, 0, 0, 0, 0 | 0xffff, high, low] | [0, 0, 0, 0, 0xffff, 0, high, low] => {
                embedded(high, low)
            }
            [0x64, 0xff9b, 0, 0, 0, 0, high, low] => embedded(high, low),
            [0x2002, high, low, ..] => embedded(high, low),
            // The twins of 169.254.169.254 at AWS (instances, pods), Google, Oracle and Scaleway.
            [0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0x254 | 0x23]
            | [0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254]
            | [0xfd00, 0xc1, 0, 0, 0, 0, 0xa9fe, 0xa9fe]
            | [0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42] => Self::Metadata,
            [0x64, 0xff9b, 1, ..] | [0x100, 0, 0, 0 | 1, ..] | [0x2001, 0..=0x1ff, ..] | [0x5f00, ..] => {
                Self::Reserved
            }
            [0x2001, 0xdb8, ..] | [0x3fff, 0..=0xfff, ..] => Self::Documentation,
            [0xfe80..=0xfebf, ..] => Self::LinkLocal,
            [0xfc00..=0xfdff, ..] | [0xfec0..=0xfeff, ..] => Self::Private,
            [0xff00..=0xffff, ..] => Self::Multicast,
            _ => Self::Public,
        }
    }
}

/// Why a request was not sent, or an address not dialled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// The operator has not named this origin.
    #[error(
        "{target} is not granted; granted are: {granted} (an operator grants more under `grants:` of the id)"
    )]
    NotGranted {
        /// What was asked for.
        target: String,
        /// What the operator wrote.
        granted: String,
    },
    /// The origin is granted but this address is not for it.
    #[error("{target}: {ip} is a {} address, which {rule}", kind.name())]
    Address {
        /// What was asked for.
        target: String,
        /// What it resolved to.
        ip: IpAddr,
        /// What that is.
        kind: AddressKind,
        /// What would have to be otherwise.
        rule: &'static str,
    },
}

/// Where one configured id may send requests to. Empty reaches nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Egress {
    origins: Vec<Origin>,
    listed: Option<Listed>,
    private_denied: bool,
}

impl Egress {
    /// A grant for these origins; private networks are reachable until [`Egress::deny_private`].
    ///
    /// # Errors
    /// The number of origins, where it is over [`ORIGINS_MAX`].
    pub fn new(origins: impl IntoIterator<Item = Origin>) -> Result<Self, TooManyOrigins> {
        let mut all: Vec<Origin> = Vec::new();
        for origin in origins {
            if !all.contains(&origin) {
                all.push(origin);
            }
        }
        if all.len() > ORIGINS_MAX {
            Err(TooManyOrigins(all.len()))
        } else {
            Ok(Self { origins: all, listed: None, private_denied: false })
        }
    }

    /// A grant for whatever stands in an operator's list at the time. Link-local and metadata addresses are reached where the list
    /// itself has the address: a router's exporter may have no other, and no name leads there.
    pub fn of_listed(listed: Listed) -> Self {
        Self { origins: Vec::new(), listed: Some(listed), private_denied: false }
    }

    /// The same grant without private networks.
    #[must_use]
    pub fn deny_private(mut self) -> Self {
        self.private_denied = true;
        self
    }

    /// The granted origins, in the order of the configuration.
    pub fn origins(&self) -> &[Origin] {
        &self.origins
    }

    /// Judges the name: is this origin granted?
    ///
    /// # Errors
    /// [`Denied::NotGranted`].
    pub fn allows(&self, origin: &Origin) -> Result<(), Denied> {
        let is_listed = self.listed.as_ref().is_some_and(|listed| listed.holds(origin));
        if is_listed || self.origins.contains(origin) {
            return Ok(());
        }
        let mut granted: Vec<String> = self.origins.iter().map(ToString::to_string).collect();
        if self.listed.is_some() {
            granted.push("the targets of its configuration".to_owned());
        }
        let granted = if granted.is_empty() { "none".to_owned() } else { granted.join(", ") };
        Err(Denied::NotGranted { target: origin.to_string(), granted })
    }

    /// Judges an address that a granted origin resolved to.
    ///
    /// # Errors
    /// [`Denied`], also where the origin itself is not granted.
    pub fn judge(&self, origin: &Origin, ip: IpAddr) -> Result<(), Denied> {
        self.allows(origin)?;
        let kind = AddressKind::of(ip);
        let rule = match kind {
            AddressKind::Public => None,
            AddressKind::Loopback if origin.host.is_loopback_literal() => None,
            AddressKind::Loopback => {
                Some("is reached only where the grant itself says localhost or a loopback address")
            }
            AddressKind::Private if !self.private_denied => None,
            AddressKind::Private => Some("the configuration denies (private networks)"),
            AddressKind::LinkLocal | AddressKind::Metadata
                if self.listed.is_some() && origin.host == Host::Ip(ip) =>
            {
                None
            }
            AddressKind::LinkLocal
            | AddressKind::Metadata
            | AddressKind::Unspecified
            | AddressKind::Multicast
            | AddressKind::Documentation
            | AddressKind::Reserved => Some("is never reached"),
        };
        match rule {
            None => Ok(()),
            Some(rule) => Err(Denied::Address { target: origin.to_string(), ip, kind, rule }),
        }
    }
}

/// A grant names more than [`ORIGINS_MAX`] origins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a grant names at most {ORIGINS_MAX} origins, found {0}")]
pub struct TooManyOrigins(pub usize);

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(url: &str, ip: &str, private: bool) -> &'static str {
        let origin: Origin = url.parse().unwrap();
        let egress = Egress::new([origin.clone()]).unwrap();
        let egress = if private { egress } else { egress.deny_private() };
        match egress.judge(&origin, ip.parse().unwrap()) {
            Ok(()) => "ok",
            Err(Denied::Address { kind, .. }) => kind.name(),
            Err(Denied::NotGranted { .. }) => "not granted",
        }
    }

    /// Scenario: one granted name resolves to addresses of every kind, also hidden inside IPv6.
    /// Guarantees: only public and, by setting, private addresses are dialled for a name.
    #[test]
    fn every_kind_of_address_is_judged_behind_a_name() {
        let table = [
            ("93.184.216.34", "ok"),
            ("2606:2800:220:1::1", "ok"),
            ("127.0.0.1", "loopback"),
            ("127.8.9.10", "loopback"),
            ("::1", "loopback"),
            ("::ffff:127.0.0.1", "loopback"),
            ("64:ff9b::7f00:1", "loopback"),
            ("2002:7f00:1::", "loopback"),
            ("169.254.169.254", "cloud metadata"),
            ("::ffff:169.254.169.254", "cloud metadata"),
            ("64:ff9b::a9fe:a9fe", "cloud metadata"),
            ("fd00:ec2::254", "cloud metadata"),
            ("fd00:ec2::23", "cloud metadata"),
            ("fd20:ce::254", "cloud metadata"),
            ("fd00:c1::a9fe:a9fe", "cloud metadata"),
            ("fd00:42::42", "cloud metadata"),
            ("::169.254.169.254", "cloud metadata"),
            ("::ffff:0:169.254.169.254", "cloud metadata"),
            ("2002:a9fe:a9fe::1", "cloud metadata"),
            ("64:ff9b::e000:1", "multicast"),
            ("::ffff:0.0.0.0", "unspecified"),
            ("64:ff9b:1::a9fe:a9fe", "reserved"),
            ("100::1", "reserved"),
            ("100:0:0:1::1", "reserved"),
            ("5f00::1", "reserved"),
            ("192.0.0.192", "reserved"),
            ("100.100.100.200", "cloud metadata"),
            ("168.63.129.16", "cloud metadata"),
            ("169.254.170.2", "link-local"),
            ("fe80::1", "link-local"),
            ("0.0.0.0", "unspecified"),
            ("0.1.2.3", "unspecified"),
            ("::", "unspecified"),
            ("224.0.0.1", "multicast"),
            ("ff02::1", "multicast"),
            ("192.0.2.7", "documentation"),
            ("198.51.100.7", "documentation"),
            ("203.0.113.7", "documentation"),
            ("2001:db8::1", "documentation"),
            ("3fff::1", "documentation"),
            ("240.0.0.1", "reserved"),
            ("255.255.255.255", "reserved"),
            ("198.18.0.1", "reserved"),
            ("2001::1", "reserved"),
            ("10.1.2.3", "ok"),
            ("172.16.0.1", "ok"),
            ("172.32.0.1", "ok"),
            ("192.168.1.1", "ok"),
            ("100.64.0.1", "ok"),
            ("fc00::1", "ok"),
            ("fd00:ec2::255", "ok"),
        ];
        for (ip, expected) in table {
            assert_eq!(judge("https://in.acme.example/v1", ip, true), expected, "{ip}");
        }
        for ip in ["10.1.2.3", "172.31.255.255", "192.168.1.1", "100.64.0.1", "fc00::1", "::ffff:10.0.0.1"] {
            assert_eq!(judge("https://in.acme.example/v1", ip, false), "private", "{ip}");
        }
    }

    /// Scenario: the operator wrote localhost or a loopback address; another wrote a link-local literal.
    /// Guarantees: loopback opens by being written, the always-denied kinds do not.
    #[test]
    fn loopback_opens_only_where_it_was_written() {
        assert_eq!(judge("http://localhost:9411/x", "127.0.0.1", true), "ok");
        assert_eq!(judge("http://LOCALHOST.:9411/x", "::1", false), "ok");
        assert_eq!(judge("http://127.0.0.1:9411", "127.0.0.1", true), "ok");
        assert_eq!(judge("http://[::1]:9411", "::1", true), "ok");
        assert_eq!(judge("http://localhost:9411/x", "169.254.169.254", true), "cloud metadata");
        assert_eq!(judge("http://169.254.169.254/", "169.254.169.254", true), "cloud metadata");
        assert_eq!(
            judge("http://[::ffff:169.254.169.254]/", "::ffff:169.254.169.254", true),
            "cloud metadata"
        );
    }

    /// Scenario: requests beside the grant: other scheme, port, host, case, default port.
    /// Guarantees: scheme, host and port all count, and nothing else does.
    #[test]
    fn an_origin_is_scheme_host_and_port() {
        let egress = Egress::new(["https://in.acme.example/v1".parse().unwrap()]).unwrap();
        let granted = |url: &str| egress.allows(&url.parse().unwrap()).is_ok();
        assert!(granted("https://in.acme.example:443/other?q"));
        assert!(granted("https://IN.ACME.EXAMPLE."));
        assert!(!granted("http://in.acme.example/v1"));
        assert!(!granted("https://in.acme.example:8443/v1"));
        assert!(!granted("https://evil.in.acme.example/v1"));
        assert!(!granted("https://in.acme.example.evil.example/v1"));
        assert!(Egress::default().allows(&"http://x".parse().unwrap()).is_err());
    }

    /// Scenario: texts that are no URL, hold a user, or spell an address in the manners of old resolvers.
    /// Guarantees: they make no origin, and the message does not repeat a password.
    #[test]
    fn odd_urls_are_refused() {
        for text in [
            "",
            "/path",
            "ftp://x",
            "http://",
            "unix:/x",
            "http://2130706433/",
            "http://127.1/",
            "http://0x7f.0x1/",
            "http://host:99999/",
            "http://ho st/",
            "http://ex%41mple/",
        ] {
            assert!(text.parse::<Origin>().is_err(), "{text:?} was taken");
        }
        for text in [
            "https://user:hunter2@host/",
            "https://user:hunt er2@host/",
            "https://user:hunter2@ho st/",
            "user:hunter2@host",
            "ftp://host/?token=hunter2",
            "https://ho st/?token=hunter2",
        ] {
            let error = text.parse::<Origin>().unwrap_err().to_string();
            assert!(!error.contains("er2"), "{error}");
        }
    }
}
