//! What a guest may do besides computing.
//!
//! The fields of [`Powers`] are all the powers there are: a power that is not here does not exist. An instance that only
//! describes itself or checks settings has [`Powers::none`].

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use http::HeaderValue;
use serde_json::Value;
use tracing::warn;
use weir_net::address::{Denied, Egress, Origin, Scheme};
use weir_net::client::Outlet;
use weir_net::credential::Credential;

use crate::describe::Marks;
use crate::words::{cut, tame};

/// What the operator grants an id beside the URLs in its settings (`grants:`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grants {
    /// More URLs whose origins may be reached.
    pub egress: Vec<String>,
    /// Whether granted names may lead to private networks (RFC 1918 and alike).
    pub private_networks: bool,
}

impl Default for Grants {
    /// No further URL; private networks are reachable.
    fn default() -> Self {
        Self { egress: Vec::new(), private_networks: true }
    }
}

/// Everything that a guest can do besides computing.
#[derive(Debug, Clone)]
pub(crate) struct Powers {
    /// The host's HTTP client, to the granted origins only.
    pub(crate) egress: Option<Outlet>,
    /// Values that the guest may have put into outgoing headers without seeing them.
    pub(crate) secrets: Secrets,
    /// What the host says of itself in its requests, instead of the guest.
    pub(crate) authorization: Option<Authorization>,
    /// Whether its log lines are written.
    pub(crate) log: bool,
}

impl Powers {
    /// For describing itself and checking settings.
    pub(crate) fn none() -> Self {
        Self { egress: None, secrets: Secrets::default(), authorization: None, log: false }
    }

    /// The denial of a guest without egress; of its target as much as an error may show.
    pub(crate) fn denied(target: &str) -> Denied {
        Denied::NotGranted { target: tame(target, TARGET_BYTES_MAX), granted: "none".to_owned() }
    }
}

/// Bytes of a target that a denial shows.
const TARGET_BYTES_MAX: usize = 200;

/// What the host says of itself, and to whom: to the origins that stand in marked settings, for these are what the operator gave
/// the credential for. Origins under `grants:` are reached without it.
#[derive(Debug, Clone)]
pub(crate) struct Authorization {
    credential: Credential,
    origins: Vec<Origin>,
}

impl Authorization {
    /// Warns of origins where anybody on the way can read the credential.
    pub(crate) fn new(credential: Credential, id: &str, marks: &Marks, settings: &Value) -> Self {
        let origins: Vec<_> = trusted(marks, settings).collect();
        for origin in origins.iter().filter(|origin| is_readable(origin)) {
            warn!(id, %origin, "credential is sent without TLS, anybody on the way can read it: write https://");
        }
        Self { credential, origins }
    }

    /// The credential, if it is meant for whom this URL names.
    pub(crate) fn for_target(&self, target: &str) -> Option<&Credential> {
        let origin = target.parse::<Origin>().ok()?;
        self.origins.contains(&origin).then_some(&self.credential)
    }
}

/// The origins that get the credential of `auth:`.
pub(crate) fn trusted(marks: &Marks, settings: &Value) -> impl Iterator<Item = Origin> {
    written(marks, settings).filter_map(|(_, url)| url.parse().ok())
}

fn is_readable(origin: &Origin) -> bool {
    origin.scheme == Scheme::Http && !origin.host.is_loopback_literal()
}

/// Places and texts of the URLs in marked settings.
fn written(marks: &Marks, settings: &Value) -> impl Iterator<Item = (String, String)> {
    let found = marks.egress.iter().flat_map(|path| path.find(settings));
    found.filter_map(|(pointer, value)| Some((pointer, value.as_str()?.to_owned())))
}

/// The origins that settings and grants name together.
///
/// # Errors
/// Per URL that is none: where it stands, and why.
pub(crate) fn egress(
    marks: &Marks,
    settings: &Value,
    grants: &Grants,
) -> Result<Egress, Vec<(String, String)>> {
    let mut origins = Vec::new();
    let mut errors = Vec::new();
    let granted = grants.egress.iter().map(|url| ("grants.egress".to_owned(), url.clone()));
    for (at, url) in written(marks, settings).chain(granted) {
        match url.parse::<Origin>() {
            Ok(origin) => origins.push(origin),
            Err(error) => errors.push((at, error.to_string())),
        }
    }
    let egress = Egress::new(origins).map_err(|error| vec![(String::new(), error.to_string())])?;
    if !errors.is_empty() {
        return Err(errors);
    }
    Ok(if grants.private_networks { egress } else { egress.deny_private() })
}

/// Tokens that a guest sees in place of secrets; and the secrets, so that they are found where nobody should say them.
#[derive(Clone, Default)]
pub(crate) struct Secrets {
    tokens: Vec<(String, String)>,
    /// What is cut from texts, the longest first, so that none hides a part of another.
    hidden: Vec<String>,
}

/// How a token begins: no backend's header has this in it.
const TOKEN_PREFIX: &str = "weir-secret-";

/// What stands for a secret in a text. Not a name, so no counter can be called so.
const REDACTED: &str = "[secret]";

/// Bytes of the shortest secret that is cut from texts. Shorter ones are parts of any word: cutting them would show where
/// they are, and make texts grow to many times their length.
const REDACTED_BYTES_MIN: usize = 4;

/// The same of a secret in base64, of which a text has more that looks alike.
const ENCODED_BYTES_MIN: usize = 8;

/// A header's value cannot be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unsendable {
    /// It has characters that no header has.
    Characters,
    /// With the secrets in it, it is longer than it may be.
    TooLong,
}

/// Secrets are not shown, nor are their tokens.
impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} secrets", self.tokens.len())
    }
}

impl Secrets {
    /// Replaces the strings in `settings` that are marked secret with tokens.
    pub(crate) fn hide(marks: &Marks, settings: &mut Value) -> Result<Self, getrandom::Error> {
        let mut secrets = Self::default();
        for path in &marks.secret {
            let pointers: Vec<String> = path.find(settings).into_iter().map(|(pointer, _)| pointer).collect();
            for pointer in pointers {
                let Some(Value::String(text)) = settings.pointer_mut(&pointer) else {
                    continue;
                };
                let token = format!("{TOKEN_PREFIX}{:016x}", getrandom::u64()?);
                let secret = std::mem::replace(text, token.clone());
                secrets.find(&secret);
                secrets.tokens.push((token, secret));
            }
        }
        Ok(secrets)
    }

    /// Learns what the host itself says in `authorization`, and the token or password in it: the guest does not see them, but a
    /// backend may tell it.
    pub(crate) fn learn(&mut self, authorization: &HeaderValue, secret: &str) {
        let Ok(value) = authorization.to_str() else { return };
        // After the scheme: "Bearer", "Basic".
        let credentials = value.split_once(' ').map_or(value, |(_, credentials)| credentials).trim();
        for said in [credentials, secret] {
            if !self.hidden.iter().any(|known| known == said) {
                self.find(said);
            }
        }
    }

    /// These are cut from texts from now on, as they are and as JSON writes them: what the host puts into a guest's URLs, and says
    /// for it where the guest does not see it.
    pub(crate) fn conceal(&mut self, texts: &[String]) {
        for text in texts {
            let quoted = Value::from(text.as_str()).to_string();
            self.hidden.extend([quoted[1..quoted.len() - 1].to_owned(), text.clone()]);
        }
        self.hidden.retain(|text| text.len() >= REDACTED_BYTES_MIN);
        self.hidden.sort_by(|one, other| (other.len(), other).cmp(&(one.len(), one)));
        self.hidden.dedup();
    }

    /// A secret is cut from texts from now on: plain, as JSON and URLs write it, and inside of anything in base64: backends answer
    /// in JSON, and some repeat the request.
    fn find(&mut self, secret: &str) {
        let quoted = Value::from(secret).to_string();
        let escaped = &quoted[1..quoted.len() - 1];
        let plain = [secret.to_owned(), escaped.to_owned(), percent_encoded(secret)];
        let plain = plain.into_iter().filter(|text| text.len() >= REDACTED_BYTES_MIN);
        let encoded = (0..3).flat_map(|lead| in_base64(secret, lead));
        let encoded = encoded.filter(|text| text.len() >= ENCODED_BYTES_MIN);
        for text in plain.chain(encoded) {
            if !self.hidden.contains(&text) {
                self.hidden.push(text);
            }
        }
        self.hidden.sort_by_key(|text| std::cmp::Reverse(text.len()));
    }

    /// `text` without secrets. Allocates only where there was one.
    pub(crate) fn redact<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let mut redacted = Cow::Borrowed(text);
        for secret in &self.hidden {
            if redacted.contains(secret) {
                redacted = redacted.replace(secret, REDACTED).into();
            }
        }
        redacted
    }

    /// The beginning of `text` that [`Secrets::tame`] makes the same of as of all of it.
    pub(crate) fn window<'a>(&self, text: &'a str, bytes_max: usize) -> &'a str {
        // One byte and a character of any length more than it shows: so it sees that there is more.
        cut(text, bytes_max.saturating_add(self.longest()).saturating_add(5))
    }

    /// A guest's text without secrets, tamed and cut to `bytes_max`: in this order, for half a secret is one too. Looks at
    /// no more of the text than that takes.
    pub(crate) fn tame(&self, text: &str, bytes_max: usize) -> String {
        let longest = self.longest();
        let window = cut(text, bytes_max.saturating_add(longest).saturating_add(1));
        let shown = self.redact(window);
        if window.len() == text.len() {
            return tame(&shown, bytes_max);
        }
        // What the window cuts in two is not known as a secret, and what was cut out before it has moved it forward.
        let mut tamed = tame(cut(&shown, shown.len().saturating_sub(longest)), bytes_max);
        if !tamed.ends_with('…') {
            tamed.push('…');
        }
        tamed
    }

    /// Bytes of the longest text that is cut out.
    pub(crate) fn longest(&self) -> usize {
        self.hidden.first().map_or(0, String::len)
    }

    /// Puts the secrets into a header's value of at most `bytes_max`, which then is one that nothing prints and no peer indexes.
    ///
    /// # Errors
    /// [`Unsendable`], before more than that is copied.
    pub(crate) fn reveal(&self, value: &str, bytes_max: usize) -> Result<HeaderValue, Unsendable> {
        let checked = |value: &str| value.parse::<HeaderValue>().map_err(|_| Unsendable::Characters);
        if value.len() > bytes_max {
            return Err(Unsendable::TooLong);
        }
        if self.tokens.is_empty() || !value.contains(TOKEN_PREFIX) {
            return checked(value);
        }
        let mut value = value.to_owned();
        for (token, secret) in &self.tokens {
            let found = value.matches(token.as_str()).count();
            if value.len() - found * token.len() + found * secret.len() > bytes_max {
                return Err(Unsendable::TooLong);
            }
            value = value.replace(token, secret);
        }
        let mut value = checked(&value)?;
        value.set_sensitive(true);
        Ok(value)
    }
}

/// `text` with everything but letters, digits, `-`, `.`, `_` and `~` as `%41`.
fn percent_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(byte.into());
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

/// What any base64 of a text with `secret` in it has in it, where `lead` more bytes than a multiple of three stand before it: the
/// characters that no neighbour has a bit in. In both alphabets.
fn in_base64(secret: &str, lead: usize) -> [String; 2] {
    let padded = [&b"\0\0"[..lead], secret.as_bytes()].concat();
    let (first, last) = ((lead * 8).div_ceil(6), padded.len() * 8 / 6);
    [STANDARD_NO_PAD.encode(&padded), URL_SAFE_NO_PAD.encode(&padded)]
        .map(|text| text.get(first..last).unwrap_or_default().to_owned())
}

#[cfg(test)]
impl Secrets {
    /// Secrets without tokens.
    pub(crate) fn known(secrets: &[&str]) -> Self {
        let mut known = Self::default();
        secrets.iter().for_each(|secret| known.find(secret));
        known
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::describe::Marks;

    fn marks() -> Marks {
        Marks::read(&json!({"properties": {
            "endpoint": {"type": "string", "x-weir": "egress"},
            "mirrors": {"type": "array", "items": {"type": "string", "x-weir": "egress"}},
            "auth": {"type": "object", "properties": {"key": {"type": "string", "x-weir": "secret"}}},
        }}))
        .unwrap()
    }

    /// Scenario: URLs in marked settings, in a list, in `grants:`, and one that is none.
    /// Guarantees: exactly the marked and granted origins are reachable, and a wrong URL is named by its place.
    #[test]
    fn reachable_is_what_the_operator_wrote() {
        let settings = json!({"endpoint": "https://a.example/x", "mirrors": ["http://b.example"], "other": "http://c.example"});
        let grants = Grants { egress: vec!["http://localhost:1".into()], ..Grants::default() };
        let egress = egress(&marks(), &settings, &grants).unwrap();
        let origins: Vec<String> = egress.origins().iter().map(ToString::to_string).collect();
        assert_eq!(origins, ["https://a.example:443", "http://b.example:80", "http://localhost:1"]);
        let settings = json!({"mirrors": ["http://b.example", "b.example"]});
        let errors = super::egress(&marks(), &settings, &Grants::default()).unwrap_err();
        assert_eq!(errors[0].0, "/mirrors/1");
    }

    /// Scenario: texts that the host knows as secrets, one in another, one twice, one too short; and a guest's text with them.
    /// Guarantees: each is cut out whole, as it is and as JSON writes it; what is too short stays.
    #[test]
    fn what_the_host_conceals_is_cut_out() {
        let mut secrets = Secrets::default();
        let texts = ["token=abc", "token=abcdef", "token=abc", "of", "say \"abc\""].map(str::to_owned);
        secrets.conceal(&texts);
        let text = r#"GET http://a/?token=abcdef&x=1&token=abc of {"it": "say \"abc\""} say "abc""#;
        let shown = r#"GET http://a/?[secret]&x=1&[secret] of {"it": "[secret]"} [secret]"#;
        assert_eq!(secrets.redact(text), shown);
    }

    /// Scenario: a secret in the settings, its token in a header, the secrets printed for debugging.
    /// Guarantees: the guest's settings hold a token, headers get the value back, nothing else shows it.
    #[test]
    fn a_secret_is_a_token_until_it_leaves() {
        let mut settings = json!({"auth": {"key": "hunter2"}});
        let secrets = Secrets::hide(&marks(), &mut settings).unwrap();
        let token = settings.pointer("/auth/key").unwrap().as_str().unwrap().to_owned();
        assert!(!settings.to_string().contains("hunter2"));
        let revealed = secrets.reveal(&format!("Bearer {token}"), 100).unwrap();
        assert_eq!(revealed, "Bearer hunter2");
        assert!(revealed.is_sensitive() && !format!("{revealed:?}").contains("hunter2"));
        assert_eq!(secrets.reveal("plain", 5).unwrap(), "plain");
        assert_eq!(secrets.reveal("plain", 4), Err(Unsendable::TooLong));
        assert_eq!(secrets.reveal("a\nb", 100), Err(Unsendable::Characters));
        assert!(!format!("{secrets:?}").contains("hunter2"));
    }

    /// Scenario: texts with secrets in them: one that is part of another, one with quotes as JSON writes it, one that
    /// is too short, the host's own credentials; and a text that is cut in the middle of one.
    /// Guarantees: no secret is left, not half of one; a text without is not even copied.
    #[test]
    fn a_text_is_told_without_secrets() {
        let mut settings = json!({"auth": {"key": "hunter2"}});
        let bearer = HeaderValue::from_static("Bearer abc.def");
        let mut secrets = Secrets::hide(&marks(), &mut settings).unwrap();
        secrets.learn(&bearer, "abc.def");
        for secret in ["hunter2-the-second", "say \"friend\"", "x", ""] {
            secrets.find(secret);
        }
        for (text, told) in [
            ("401: key hunter2 is not known", "401: key [secret] is not known"),
            ("hunter2-the-second, hunter2", "[secret], [secret]"),
            (r#"{"key": "say \"friend\""}"#, r#"{"key": "[secret]"}"#),
            (r#"say "friend""#, "[secret]"),
            ("authorization: Bearer abc.def", "authorization: Bearer [secret]"),
        ] {
            assert_eq!(secrets.redact(text), told);
        }
        assert!(matches!(secrets.redact("x marks the spot"), Cow::Borrowed("x marks the spot")));
        assert_eq!(secrets.tame("key hunter2\n", 8), "key [sec…");
        let long = "hunter2-the-second".repeat(1_000);
        for bytes_max in 0..100 {
            let told = secrets.tame(&long, bytes_max);
            assert_eq!(secrets.tame(secrets.window(&long, bytes_max), bytes_max), told);
            assert!(told.len() <= bytes_max + "…".len() && !told.contains("hu"), "{told}");
            assert!(
                told.ends_with('…') && "[secret]".repeat(100).starts_with(told.trim_end_matches('…')),
                "{told}"
            );
        }
        assert!(matches!(Secrets::default().redact("hunter2"), Cow::Borrowed("hunter2")));
    }

    /// Scenario: a backend repeats a password, the header that it stood in, and a form with it in a URL; one whose base64 has
    /// characters that URLs write otherwise.
    /// Guarantees: none of them is told, wherever in the header the secret stands.
    #[test]
    fn a_secret_is_found_in_what_backends_repeat() {
        let mut secrets = Secrets::default();
        secrets.learn(&HeaderValue::from_static("Basic d2VpcjpvcGVuIHNlc2FtZT8+Pg=="), "open sesame?>>");
        assert_eq!(secrets.redact("bad password open sesame?>>"), "bad password [secret]");
        assert_eq!(secrets.redact("got Basic d2VpcjpvcGVuIHNlc2FtZT8+Pg=="), "got Basic [secret]");
        assert_eq!(secrets.redact("/login?p=open%20sesame%3F%3E%3E&x"), "/login?p=[secret]&x");
        for user in ["", "a", "ab", "abc"] {
            let pair = format!("{user}open sesame?>>\u{e4}");
            for told in [STANDARD_NO_PAD.encode(&pair), URL_SAFE_NO_PAD.encode(&pair)] {
                assert!(secrets.redact(&told).contains(REDACTED), "{told}");
            }
        }
        assert_eq!(secrets.redact("sesame opens at nine"), "sesame opens at nine");
    }

    /// Scenario: a header's value full of tokens that stand for something much longer.
    /// Guarantees: it is refused before it is made.
    #[test]
    fn tokens_do_not_make_a_header_grow() {
        let mut settings = json!({"auth": {"key": "k".repeat(4096)}});
        let secrets = Secrets::hide(&marks(), &mut settings).unwrap();
        let token = settings.pointer("/auth/key").unwrap().as_str().unwrap();
        assert_eq!(secrets.reveal(&token.repeat(2), 8192).unwrap().len(), 8192);
        assert_eq!(secrets.reveal(&token.repeat(100), 8192), Err(Unsendable::TooLong));
    }

    /// Scenario: a credential with an origin in the settings, and one that is granted beside them.
    /// Guarantees: the credential is for the first alone, port and scheme included; plain http is readable but on loopback.
    #[test]
    fn a_credential_is_for_origins_in_the_settings() {
        let settings = json!({"endpoint": "https://a.example/x", "mirrors": ["http://b.example"]});
        let credential = Credential::bearer("hunter2").unwrap();
        let said = Authorization::new(credential, "acme", &marks(), &settings);
        for (target, is_meant) in [
            ("https://a.example/other", true),
            ("http://b.example:80/", true),
            ("http://a.example/x", false),
            ("https://a.example:8443/x", false),
            ("https://granted.example/", false),
            ("not a url", false),
        ] {
            assert_eq!(said.for_target(target).is_some(), is_meant, "{target}");
        }
        let readable = |url: &str| is_readable(&url.parse().unwrap());
        assert!(readable("http://b.example") && readable("http://10.0.0.1:4318"));
        assert!(
            !readable("https://b.example") && !readable("http://localhost") && !readable("http://[::1]:1")
        );
    }
}
