//! Which web pages may send telemetry (Fetch standard, "CORS protocol").
//!
//! Nothing configured means that no page may: browsers then keep the request to themselves.

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    ACCESS_CONTROL_REQUEST_METHOD, HeaderMap, HeaderValue, ORIGIN, VARY,
};
use http::{Method, Response, StatusCode};
use serde::{Deserialize, Serialize};
use weir_net::ReplyBody;
use weir_net::reply::bare;

/// Headers that a page may always send: those that telemetry libraries need.
const HEADERS_ALWAYS: [&str; 5] =
    ["accept", "content-type", "content-encoding", "user-agent", "x-requested-with"];

/// Which web pages may send, as a user writes it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CorsConfig {
    /// Origins as `https://shop.example`; one `*` stands for any part, `*` alone for every origin.
    #[serde(default)]
    pub allowed_origins: Vec<String>,
    /// Headers that pages may send besides those that libraries need; `*` for every header.
    #[serde(default)]
    pub allowed_headers: Vec<String>,
    /// Seconds for which a browser may remember the answer; without it the browser's own default.
    #[serde(default)]
    pub max_age: Option<u32>,
}

/// The rules, ready for use.
#[derive(Debug, Clone, Default)]
pub struct Cors {
    every_origin: bool,
    /// What stands before and behind the `*`; nothing behind for an origin that is meant exactly.
    origins: Vec<(String, Option<String>)>,
    every_header: bool,
    headers: Vec<String>,
    max_age: Option<HeaderValue>,
}

impl Cors {
    /// The rules that a user wrote; without any, no page may send.
    pub fn new(config: Option<CorsConfig>) -> Self {
        let CorsConfig { allowed_origins, allowed_headers, max_age } = config.unwrap_or_default();
        let every = |list: &[String]| list.iter().any(|entry| entry == "*");
        let origin = |text: &String| {
            let text = text.to_ascii_lowercase();
            match text.split_once('*') {
                Some((before, behind)) => (before.to_owned(), Some(behind.to_owned())),
                None => (text, None),
            }
        };
        Self {
            every_origin: every(&allowed_origins),
            origins: allowed_origins.iter().map(origin).collect(),
            every_header: every(&allowed_headers),
            headers: allowed_headers.iter().map(|name| name.to_ascii_lowercase()).collect(),
            max_age: max_age.map(HeaderValue::from),
        }
    }

    /// The answer to a preflight, if the request is one: 204, with permissions where the page has any.
    pub fn preflight(&self, method: &Method, headers: &HeaderMap) -> Option<Response<ReplyBody>> {
        if method != Method::OPTIONS || !headers.contains_key(ORIGIN) {
            return None;
        }
        let wanted = headers.get(ACCESS_CONTROL_REQUEST_METHOD)?;
        let mut response = bare(StatusCode::NO_CONTENT);
        let vary = "origin, access-control-request-method, access-control-request-headers";
        response.headers_mut().insert(VARY, HeaderValue::from_static(vary));
        let asked = headers.get(ACCESS_CONTROL_REQUEST_HEADERS);
        let is_allowed =
            self.allows(headers) && wanted == "POST" && asked.is_none_or(|asked| self.allows_headers(asked));
        if is_allowed {
            self.permit(headers, &mut response);
            let granted = response.headers_mut();
            granted.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("POST"));
            if let Some(asked) = asked {
                granted.insert(ACCESS_CONTROL_ALLOW_HEADERS, asked.clone());
            }
            if let Some(max_age) = &self.max_age {
                granted.insert(ACCESS_CONTROL_MAX_AGE, max_age.clone());
            }
        }
        Some(response)
    }

    /// Lets the page that sent the request read its answer, if it may.
    pub fn mark(&self, request: &HeaderMap, response: &mut Response<ReplyBody>) {
        if self.origins.is_empty() || !request.contains_key(ORIGIN) {
            return;
        }
        response.headers_mut().append(VARY, HeaderValue::from_static("origin"));
        if self.allows(request) {
            self.permit(request, response);
        }
    }

    fn permit(&self, request: &HeaderMap, response: &mut Response<ReplyBody>) {
        let Some(origin) = request.get(ORIGIN) else { return };
        let granted = response.headers_mut();
        if self.every_origin {
            granted.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
        } else {
            // Beacons always carry credentials, and a browser only lets them pass to a server that says so.
            granted.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
            granted.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        }
    }

    fn allows(&self, request: &HeaderMap) -> bool {
        let Some(origin) = request.get(ORIGIN).and_then(|origin| origin.to_str().ok()) else {
            return false;
        };
        let origin = origin.to_ascii_lowercase();
        self.every_origin
            || self.origins.iter().any(|(before, behind)| match behind {
                None => *before == origin,
                Some(behind) => {
                    origin.len() >= before.len() + behind.len()
                        && origin.starts_with(before.as_str())
                        && origin.ends_with(behind.as_str())
                }
            })
    }

    fn allows_headers(&self, asked: &HeaderValue) -> bool {
        let Ok(asked) = asked.to_str() else { return false };
        self.every_header
            || asked
                .split(',')
                .map(|name| name.trim().to_ascii_lowercase())
                .filter(|name| !name.is_empty())
                .all(|name| HEADERS_ALWAYS.contains(&name.as_str()) || self.headers.contains(&name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn preflight(origins: &[&str], headers: &[&str], origin: &str, asked: &str) -> Option<String> {
        let strings = |list: &[&str]| list.iter().map(|entry| (*entry).to_owned()).collect();
        let config = CorsConfig {
            allowed_origins: strings(origins),
            allowed_headers: strings(headers),
            max_age: Some(600),
        };
        let mut request = HeaderMap::new();
        request.insert(ORIGIN, origin.parse().unwrap());
        request.insert(ACCESS_CONTROL_REQUEST_METHOD, "POST".parse().unwrap());
        request.insert(ACCESS_CONTROL_REQUEST_HEADERS, asked.parse().unwrap());
        let response = Cors::new(Some(config)).preflight(&Method::OPTIONS, &request).unwrap();
        assert_eq!(response.status(), StatusCode::NO_CONTENT);
        let granted = response.headers().get(ACCESS_CONTROL_ALLOW_ORIGIN)?;
        assert_eq!(response.headers()[ACCESS_CONTROL_ALLOW_HEADERS], asked);
        assert_eq!(response.headers()[ACCESS_CONTROL_MAX_AGE], "600");
        Some(granted.to_str().unwrap().to_owned())
    }

    /// Scenario: pages of several origins ask, under rules with and without a wildcard.
    /// Guarantees: only a page that the rules name is let in, and none by a name that merely looks alike.
    #[test]
    fn only_named_origins_are_let_in() {
        let shop = "https://shop.example";
        assert_eq!(preflight(&[shop], &[], shop, "content-type").as_deref(), Some(shop));
        assert_eq!(preflight(&[shop], &[], "https://shop.example.evil", "content-type"), None);
        assert_eq!(preflight(&["https://*.example"], &[], shop, "content-type").as_deref(), Some(shop));
        assert_eq!(preflight(&["https://*.example"], &[], "https://.evil", "content-type"), None);
        assert_eq!(preflight(&["https://a*a"], &[], "https://a", "content-type"), None);
        assert_eq!(preflight(&["*"], &[], shop, "content-type").as_deref(), Some("*"));
        assert_eq!(preflight(&[], &[], shop, "content-type"), None);
    }

    /// Scenario: a page wants to send headers of its own.
    /// Guarantees: it may only where the rules name them.
    #[test]
    fn only_named_headers_are_let_in() {
        let shop = "https://shop.example";
        assert_eq!(preflight(&[shop], &[], shop, "content-type, x-tenant"), None);
        assert!(preflight(&[shop], &["X-Tenant"], shop, "content-type, x-tenant").is_some());
        assert!(preflight(&[shop], &["*"], shop, "x-anything").is_some());
    }
}
