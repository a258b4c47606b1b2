//! What a guest may do besides computing.
//!
//! The fields of [`Powers`] are all the powers there are: a power that is not here does not exist. An instance that only
//! describes itself or checks settings has [`Powers::none`].

use http::HeaderValue;
use http::header::InvalidHeaderValue;
use serde_json::Value;
use weir_net::address::{Denied, Egress, Origin};
use weir_net::client::Outlet;
use weir_net::credential::Credential;

use crate::describe::Marks;

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
    pub(crate) authorization: Option<Credential>,
    /// Whether its log lines are written.
    pub(crate) log: bool,
}

impl Powers {
    /// For describing itself and checking settings.
    pub(crate) fn none() -> Self {
        Self { egress: None, secrets: Secrets::default(), authorization: None, log: false }
    }

    /// The denial of a guest without egress.
    pub(crate) fn denied(target: &str) -> Denied {
        Denied::NotGranted { target: crate::words::tame(target, 200), granted: "none".to_owned() }
    }
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
    let written = marks.egress.iter().flat_map(|path| path.find(settings));
    let written = written.filter_map(|(pointer, value)| Some((pointer, value.as_str()?.to_owned())));
    let granted = grants.egress.iter().map(|url| ("grants.egress".to_owned(), url.clone()));
    for (at, url) in written.chain(granted) {
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

/// Tokens that a guest sees in place of secrets.
#[derive(Clone, Default)]
pub(crate) struct Secrets(Vec<(String, String)>);

/// How a token begins: no backend's header has this in it.
const TOKEN_PREFIX: &str = "weir-secret-";

/// Secrets are not shown, nor are their tokens.
impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} secrets", self.0.len())
    }
}

impl Secrets {
    /// Replaces the strings in `settings` that are marked secret with tokens.
    pub(crate) fn hide(marks: &Marks, settings: &mut Value) -> Result<Self, getrandom::Error> {
        let mut hidden = Vec::new();
        for path in &marks.secret {
            let pointers: Vec<String> = path.find(settings).into_iter().map(|(pointer, _)| pointer).collect();
            for pointer in pointers {
                let Some(Value::String(text)) = settings.pointer_mut(&pointer) else {
                    continue;
                };
                let token = format!("{TOKEN_PREFIX}{:016x}", getrandom::u64()?);
                hidden.push((token.clone(), std::mem::replace(text, token)));
            }
        }
        Ok(Self(hidden))
    }

    /// Puts the secrets into a header's value, which then is one that nothing prints and no peer indexes.
    ///
    /// # Errors
    /// Where it is none.
    pub(crate) fn reveal(&self, value: &str) -> Result<HeaderValue, InvalidHeaderValue> {
        if self.0.is_empty() || !value.contains(TOKEN_PREFIX) {
            return value.parse();
        }
        let mut value = value.to_owned();
        for (token, secret) in &self.0 {
            value = value.replace(token, secret);
        }
        let mut value: HeaderValue = value.parse()?;
        value.set_sensitive(true);
        Ok(value)
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

    /// Scenario: a secret in the settings, its token in a header, the secrets printed for debugging.
    /// Guarantees: the guest's settings hold a token, headers get the value back, nothing else shows it.
    #[test]
    fn a_secret_is_a_token_until_it_leaves() {
        let mut settings = json!({"auth": {"key": "hunter2"}});
        let secrets = Secrets::hide(&marks(), &mut settings).unwrap();
        let token = settings.pointer("/auth/key").unwrap().as_str().unwrap().to_owned();
        assert!(!settings.to_string().contains("hunter2"));
        let revealed = secrets.reveal(&format!("Bearer {token}")).unwrap();
        assert_eq!(revealed, "Bearer hunter2");
        assert!(revealed.is_sensitive() && !format!("{revealed:?}").contains("hunter2"));
        assert_eq!(secrets.reveal("plain").unwrap(), "plain");
        assert!(secrets.reveal("a\nb").is_err());
        assert!(!format!("{secrets:?}").contains("hunter2"));
    }
}
