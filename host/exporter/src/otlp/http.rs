//! OTLP over HTTP with protobuf.

use std::time::{Duration, SystemTime};

use http::header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER};
use http::{Method, Request, StatusCode, Uri};
use weir_model::{Outcome, Push, Signal};
use weir_net::address::{Egress, Origin};
use weir_net::client::{Client, ClientError, Outlet, RESPONSE_BYTES_MAX_DEFAULT, SendLimits};
use weir_net::client_tls::ClientTls;
use weir_net::credential::Credential;

use super::{BuildError, Compression, Config, compress, partial};

/// Bytes of a backend's words that are kept.
const MESSAGE_BYTES_MAX: usize = 512;

/// The exporter over HTTP.
#[derive(Debug)]
pub struct Http {
    outlet: Outlet,
    targets: [Uri; 3],
    headers: HeaderMap,
    credential: Option<Credential>,
    compression: Compression,
    timeout: Duration,
}

impl Http {
    pub(super) fn new(config: &Config, headers: HeaderMap, client: &Client) -> Result<Self, BuildError> {
        let wrong = || BuildError::Endpoint { endpoint: config.endpoint.to_string() };
        let base = config.endpoint.to_string();
        let base = base.trim_end_matches('/');
        let target = |signal: Signal| format!("{base}/v1/{signal}").parse::<Uri>().map_err(|_| wrong());
        let targets = [target(Signal::Traces)?, target(Signal::Metrics)?, target(Signal::Logs)?];
        let origin = Origin::of(&config.endpoint).map_err(|_| wrong())?;
        let egress = Egress::new([origin]).map_err(|_| wrong())?;
        let outlet = client.outlet_with(egress, ClientTls::load(config.trust.clone())?);
        let Config { compression, timeout, .. } = *config;
        Ok(Self { outlet, targets, headers, credential: config.credential.clone(), compression, timeout })
    }

    pub(super) async fn push(&self, push: Push) -> Outcome {
        let (body, encoding) = match compress(self.compression, push.body) {
            Ok(compressed) => compressed,
            Err(error) => return Outcome::Permanent(format!("compress: {error}")),
        };
        let mut request = Request::new(body);
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.target(push.signal).clone();
        let headers = request.headers_mut();
        headers.extend(self.headers.clone());
        if let Some(credential) = &self.credential {
            headers.insert(AUTHORIZATION, credential.header().await);
        }
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
        if let Some(encoding) = encoding {
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static(encoding));
        }
        let limits = SendLimits { timeout: self.timeout, response_bytes_max: RESPONSE_BYTES_MAX_DEFAULT };
        match self.outlet.send(request, limits).await {
            Ok(response) if response.status().is_success() => partial(response.body(), push.signal),
            Ok(response) => {
                let after = retry_after(response.headers(), SystemTime::now());
                outcome(response.status(), response.body(), after)
            }
            Err(error) => failure(error),
        }
    }

    fn target(&self, signal: Signal) -> &Uri {
        match signal {
            Signal::Traces => &self.targets[0],
            Signal::Metrics => &self.targets[1],
            Signal::Logs => &self.targets[2],
        }
    }
}

/// What a status means for the batch (OTLP specification 1.11, "Failures" and "Retryable Response Codes").
fn outcome(status: StatusCode, body: &[u8], after: Option<Duration>) -> Outcome {
    let words = &body[..body.len().min(MESSAGE_BYTES_MAX)];
    let message =
        format!("{status}: {}", String::from_utf8_lossy(words).replace(|c: char| c.is_control(), " "));
    match status.as_u16() {
        408 | 429 | 502 | 503 | 504 => Outcome::Retryable { message, after },
        413 => Outcome::TooLarge,
        // The credentials or the address are wrong, not the batch: an operator has to act.
        401 | 403 | 404 | 405 | 407 => Outcome::Stopped(message),
        // A redirect is not followed: the operator did not write that address.
        300..=399 => Outcome::Stopped(message),
        _ => Outcome::Permanent(message),
    }
}

fn failure(error: ClientError) -> Outcome {
    let message = error.to_string();
    match error {
        ClientError::Denied(_) | ClientError::Invalid(_) => Outcome::Stopped(message),
        ClientError::Transport(_) | ClientError::Timeout(_) | ClientError::Memory(_) => {
            Outcome::Retryable { message, after: None }
        }
        // Whatever status it came with was not a backend's that speaks OTLP: nobody said that the batch was taken, so it
        // is kept until an operator has looked at what answers there.
        ClientError::ResponseTooLarge(_) => Outcome::Stopped(message),
    }
}

/// `Retry-After` in seconds; a date counts from now.
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?;
    if let Ok(seconds) = text.trim().parse() {
        return Some(Duration::from_secs(seconds));
    }
    httpdate::parse_http_date(text).ok().map(|date| date.duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: each status that a backend may answer with.
    /// Guarantees: what is worth repeating is repeated, and a wrong address or credential pauses instead of losing.
    #[test]
    fn each_status_has_its_outcome() {
        let said = |code: u16| outcome(StatusCode::from_u16(code).unwrap(), b"why", None);
        for code in [408, 429, 502, 503, 504] {
            assert!(matches!(said(code), Outcome::Retryable { .. }), "{code}");
        }
        for code in [301, 401, 403, 404, 405] {
            assert!(matches!(said(code), Outcome::Stopped(_)), "{code}");
        }
        for code in [400, 422, 500, 501] {
            assert!(matches!(said(code), Outcome::Permanent(_)), "{code}");
        }
        assert_eq!(said(413), Outcome::TooLarge);
    }

    /// Scenario: no answer, an answer that is too long to read, a request that never left.
    /// Guarantees: what the backend did not say it took is never counted as taken.
    #[test]
    fn a_failure_is_never_a_delivery() {
        let timeout = failure(ClientError::Timeout(Duration::from_secs(1)));
        assert!(matches!(timeout, Outcome::Retryable { .. }));
        assert!(matches!(failure(ClientError::ResponseTooLarge(1)), Outcome::Stopped(_)));
        assert!(matches!(failure(ClientError::Invalid("no URL".to_owned())), Outcome::Stopped(_)));
    }

    /// Scenario: `Retry-After` as seconds, as a date in the future and in the past, and as rubbish.
    /// Guarantees: a wait is understood, and rubbish leaves the wait to us.
    #[test]
    fn both_forms_of_retry_after_are_read() {
        let read = |text: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, HeaderValue::from_static(text));
            retry_after(&headers, SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777))
        };
        assert_eq!(read("120"), Some(Duration::from_secs(120)));
        assert_eq!(read("Sun, 06 Nov 1994 08:49:47 GMT"), Some(Duration::from_secs(10)));
        assert_eq!(read("Sat, 06 Nov 1993 08:49:47 GMT"), Some(Duration::ZERO));
        assert_eq!(read("soon"), None);
    }
}
