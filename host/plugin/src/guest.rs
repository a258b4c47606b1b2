//! The host side of one instance: its state, and the functions that it may call.
//!
//! A call without a grant answers with an error, never with a trap. Nothing here trusts a length or a text of the
//! guest: what crosses is bounded by [`HANDOVER_BYTES_MAX`](crate::limits::HANDOVER_BYTES_MAX), lines are cut and rated.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http::HeaderValue;
use tracing::warn;
use wasmtime::component::{HasSelf, Linker, ResourceTable};
use wasmtime_wasi::{WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};
use weir_model::Ledger;
use weir_net::client::{ClientError, SendLimits};

use crate::counts::PluginCounts;
use crate::end::Renders;
use crate::engine::GuestEngine;
use crate::grant::{Powers, Secrets, Unsendable};
use crate::limits::{Limiter, Limits, Timer, TooManyCalls};
use crate::meter::Meter;
use crate::pool::Idlers;
use crate::rate::Bucket;
use crate::said;
use crate::stderr::Tail;
use crate::v1::weir::plugin::{clock, http_client, http_types, outcomes, telemetry};

/// Log lines that one instance may write at once.
const LINES_BURST: u32 = 100;

/// After so long an instance has earned another line: ten a second.
const LINE_INTERVAL: Duration = Duration::from_millis(100);

/// Denials of one instance that are logged at once; then one for each [`DENIAL_INTERVAL`]. All are counted.
const DENIALS_BURST: u32 = 10;

/// See [`DENIALS_BURST`].
const DENIAL_INTERVAL: Duration = Duration::from_secs(10);

/// Headers of one request of a guest.
const HEADERS_MAX: usize = 100;

/// Bytes of their names and values, and of the target: what servers take is a fraction of it.
const HEADER_BYTES_MAX: usize = 64 * 1024;

/// Bytes of its method; the longest that is registered (`UPDATEREDIRECTREF`) has 17.
const METHOD_BYTES_MAX: usize = 32;

/// Methods that no guest sends: backends answer the first two with the request, credentials included, and the third makes a
/// tunnel to an origin that nobody granted.
const METHODS_REFUSED: [&str; 3] = ["TRACE", "TRACK", "CONNECT"];

/// Bytes that WASI's random hands out in one call.
const RANDOM_BYTES_MAX: u64 = 64 * 1024;

/// Handles of WASI resources in one instance.
const RESOURCES_MAX: usize = 1_000;

/// Everything that belongs to one instance on the host's side.
pub(crate) struct Guest {
    /// "plugin zipkin-exporter 1.2.0 (zipkin/eu)", for errors.
    pub(crate) about: Arc<str>,
    pub(crate) limiter: Limiter,
    pub(crate) timer: Timer,
    pub(crate) stderr: Tail,
    pub(crate) identity: Identity,
    engine: GuestEngine,
    ledger: Arc<Ledger>,
    pub(crate) powers: Powers,
    response_bytes_max: usize,
    host_calls_max: u64,
    /// Of the call under way.
    host_calls_left: u64,
    pub(crate) lines: Bucket,
    /// Apart from `lines`, so that a guest cannot drown its denials in its own log.
    denials: Bucket,
    wasi: WasiCtx,
    resources: ResourceTable,
}

/// Whose instance it is.
#[derive(Clone)]
pub(crate) struct Identity {
    /// The configured id (`zipkin/eu`), or the plugin's name where no id is configured yet.
    pub(crate) id: Arc<str>,
    /// The plugin's name.
    pub(crate) plugin: Arc<str>,
    /// As the plugin says; empty before it was asked.
    pub(crate) version: Arc<str>,
    pub(crate) counts: PluginCounts,
    pub(crate) meter: Meter,
    pub(crate) renders: Renders,
}

impl Identity {
    /// "plugin zipkin-exporter 1.2.0 (zipkin/eu)", for errors.
    pub(crate) fn about(&self) -> String {
        let Self { id, plugin, version, .. } = self;
        format!("plugin {plugin} {version} ({id})").replace("  ", " ")
    }
}

impl Guest {
    pub(crate) fn new(
        engine: &GuestEngine,
        ledger: &Arc<Ledger>,
        identity: &Identity,
        powers: &Powers,
        limits: &Limits,
        idlers: &Idlers,
    ) -> Self {
        let Identity { counts, .. } = identity;
        let stderr = Tail::default();
        let mut resources = ResourceTable::new();
        resources.set_max_capacity(RESOURCES_MAX);
        Self {
            about: identity.about().into(),
            limiter: Limiter::new(limits.memory_bytes, ledger, counts.memory_peak_bytes.clone(), idlers),
            timer: Timer::new(limits),
            wasi: null_wasi(&stderr),
            stderr,
            identity: identity.clone(),
            engine: engine.clone(),
            ledger: Arc::clone(ledger),
            powers: powers.clone(),
            response_bytes_max: limits.response_bytes,
            host_calls_max: limits.host_calls,
            host_calls_left: limits.host_calls,
            lines: Bucket::new(LINES_BURST, LINE_INTERVAL),
            denials: Bucket::new(DENIALS_BURST, DENIAL_INTERVAL),
            resources,
        }
    }

    /// A call into the guest begins.
    pub(crate) fn begin(&mut self) {
        self.timer.begin();
        self.stderr.clear();
        self.host_calls_left = self.host_calls_max;
    }

    /// One call of our interfaces; the one too many ends the instance.
    pub(crate) fn charge(&mut self) -> wasmtime::Result<()> {
        self.charge_calls(1)
    }

    /// As much as so many calls.
    pub(crate) fn charge_calls(&mut self, calls: u64) -> wasmtime::Result<()> {
        match self.host_calls_left.checked_sub(calls) {
            Some(left) => {
                self.host_calls_left = left;
                Ok(())
            }
            None => Err(TooManyCalls(self.host_calls_max).into()),
        }
    }

    /// What nobody should read in a text of this guest.
    pub(crate) fn secrets(&self) -> &Secrets {
        &self.powers.secrets
    }

    pub(crate) fn renders(&self) -> &Renders {
        &self.identity.renders
    }

    /// Links everything that a plugin may import; with `wasi` also a WASI that offers clocks, random and a place for
    /// output, and denies everything else.
    pub(crate) fn link(linker: &mut Linker<Self>, wasi: bool) -> wasmtime::Result<()> {
        if wasi {
            wasmtime_wasi::p2::add_to_linker_async(linker)?;
        }
        http_types::add_to_linker::<_, HasSelf<_>>(linker, |guest| guest)?;
        telemetry::add_to_linker::<_, HasSelf<_>>(linker, |guest| guest)?;
        outcomes::add_to_linker::<_, HasSelf<_>>(linker, |guest| guest)?;
        http_client::add_to_linker::<_, HasSelf<_>>(linker, |guest| guest)?;
        clock::add_to_linker::<_, HasSelf<_>>(linker, |guest| guest)?;
        said::link(linker)
    }

    async fn exchange(
        &mut self,
        request: http_types::RequestResult,
        timeout: Option<u32>,
    ) -> Result<http_types::ResponseResult, http_client::Error> {
        let http_types::RequestResult { method, target, headers, .. } = &request;
        head_fits(method, target, headers).map_err(http_client::Error::Other)?;
        let Some(outlet) = self.powers.egress.clone() else { return Err(self.deny_all(target)) };
        let left = self.timer.left();
        let timeout = timeout.map_or(left, |millis| left.min(Duration::from_millis(millis.into())));
        let credential = self.powers.authorization.as_ref().and_then(|said| said.for_target(target)).cloned();
        let authorization = match credential {
            Some(credential) => {
                let (header, secret) = credential.header_with_secret().await;
                self.powers.secrets.learn(&header, &secret);
                Some(header)
            }
            None => None,
        };
        let request = self.prepare(request, authorization).map_err(http_client::Error::Other)?;
        let bytes = request.body().len() as u64;
        let _claim = self
            .ledger
            .claim_for_guest(bytes)
            .map_err(|error| http_client::Error::Other(error.to_string()))?;
        self.identity.counts.requests.add(1);
        let before = self.engine.ticks();
        let sent =
            outlet.send(request, SendLimits { timeout, response_bytes_max: self.response_bytes_max }).await;
        if self.engine.ticks() != before && was_waited_for(&sent) {
            self.timer.forgive();
        }
        match sent {
            Ok(response) => {
                self.identity.counts.egress_bytes.add(bytes);
                Ok(hand_back(response))
            }
            Err(error) => Err(self.explain(&error)),
        }
    }

    /// Puts together what is sent: the guest's words, the secrets that it does not know, the host's own headers.
    fn prepare(
        &self,
        request: http_types::RequestResult,
        authorization: Option<HeaderValue>,
    ) -> Result<http::Request<Bytes>, String> {
        let http_types::RequestResult { method, target, headers, body } = request;
        let mut left = HEADER_BYTES_MAX.saturating_sub(target.len());
        let mut builder = http::Request::builder().method(method.as_str()).uri(target);
        for (name, value) in &headers {
            let is_auth = name.eq_ignore_ascii_case("authorization");
            if is_hosts_own(name) || (is_auth && authorization.is_some()) {
                continue;
            }
            left = left.saturating_sub(name.len());
            let value = self.powers.secrets.reveal(value, left).map_err(|why| match why {
                Unsendable::Characters => {
                    format!("not a request: the value of header {}", crate::words::tame(name, 100))
                }
                Unsendable::TooLong => {
                    format!("the request's head is too long with its secrets, at most {HEADER_BYTES_MAX} bytes fit")
                }
            })?;
            left = left.saturating_sub(value.len());
            builder = builder.header(name.as_str(), value);
        }
        if let Some(authorization) = authorization {
            builder = builder.header(http::header::AUTHORIZATION, authorization);
        }
        builder.body(Bytes::from(body)).map_err(|error| format!("not a request: {error}"))
    }

    /// The denial of a guest that may send nowhere.
    fn deny_all(&mut self, target: &str) -> http_client::Error {
        let (logged, told) = denials(&self.powers.secrets, target);
        self.deny(&logged);
        http_client::Error::Denied(told)
    }

    fn explain(&mut self, error: &ClientError) -> http_client::Error {
        let text = error.to_string();
        match error {
            ClientError::Denied(_) => {
                self.deny(&text);
                http_client::Error::Denied(text)
            }
            ClientError::Transport(_) => http_client::Error::Transport(text),
            ClientError::Timeout(_) => http_client::Error::Timeout,
            ClientError::ResponseTooLarge(_) => http_client::Error::ResponseTooLarge,
            ClientError::Invalid(_) | ClientError::Memory(_) => http_client::Error::Other(text),
        }
    }

    /// A denial is an event: counted, and logged within a rate.
    fn deny(&mut self, reason: &str) {
        self.identity.counts.denials.add(1);
        if self.denials.take(Instant::now()) {
            let Identity { plugin, id, .. } = &self.identity;
            let reason = self.powers.secrets.redact(reason);
            warn!(%plugin, %id, %reason, "request of a plugin denied");
        }
    }
}

/// A denial as the log shows it, without secrets, and as the guest gets it: in its own words, for a difference would tell it
/// whether they hold a secret.
fn denials(secrets: &Secrets, target: &str) -> (String, String) {
    (Powers::denied(&secrets.redact(target)).to_string(), Powers::denied(target).to_string())
}

/// Whether time in a send was spent on waiting: for a name, a backend, an answer. What was refused at once costs work.
fn was_waited_for(sent: &Result<http::Response<Bytes>, ClientError>) -> bool {
    match sent {
        Err(ClientError::Denied(_) | ClientError::Invalid(_)) => false,
        Ok(_)
        | Err(
            ClientError::Transport(_)
            | ClientError::Timeout(_)
            | ClientError::ResponseTooLarge(_)
            | ClientError::Memory(_),
        ) => true,
    }
}

/// Only the body is claimed from the budget, so the rest has a fixed bound, checked before anything looks at any of it.
fn head_fits(method: &str, target: &str, headers: &[(String, String)]) -> Result<(), String> {
    if method.len() > METHOD_BYTES_MAX {
        return Err(format!(
            "the request's method has {} bytes, at most {METHOD_BYTES_MAX} fit",
            method.len()
        ));
    }
    if METHODS_REFUSED.iter().any(|refused| method.eq_ignore_ascii_case(refused)) {
        return Err(format!("no plugin sends {method}"));
    }
    if headers.len() > HEADERS_MAX {
        return Err(format!("the request has {} headers, at most {HEADERS_MAX} fit", headers.len()));
    }
    let bytes = headers.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>() + target.len();
    if bytes > HEADER_BYTES_MAX {
        return Err(format!("the request's head has {bytes} bytes, at most {HEADER_BYTES_MAX} fit"));
    }
    Ok(())
}

/// Headers that the host writes itself: a guest's would contradict the body, the connection or the grant.
pub(crate) fn is_hosts_own(name: &str) -> bool {
    const OWN: [&str; 9] = [
        "host",
        "content-length",
        "transfer-encoding",
        "connection",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "upgrade",
    ];
    OWN.iter().any(|own| name.eq_ignore_ascii_case(own))
}

fn hand_back(response: http::Response<Bytes>) -> http_types::ResponseResult {
    let (head, body) = response.into_parts();
    let headers = head.headers.iter();
    let headers = headers.map(|(name, value)| {
        (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned())
    });
    http_types::ResponseResult { status: head.status.as_u16(), headers: headers.collect(), body: body.into() }
}

/// WASI with clocks, random, and output to a bounded buffer: no files, no environment, no sockets.
fn null_wasi(output: &Tail) -> WasiCtx {
    WasiCtxBuilder::new()
        .stdout(output.clone())
        .stderr(output.clone())
        .max_random_size(RANDOM_BYTES_MAX)
        .allow_tcp(false)
        .allow_udp(false)
        .allow_ip_name_lookup(false)
        .build()
}

impl WasiView for Guest {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.resources }
    }
}

// === Imports ===

impl telemetry::Host for Guest {}
impl outcomes::Host for Guest {}
impl http_types::Host for Guest {}

impl http_client::Host for Guest {
    async fn send(
        &mut self,
        request: http_types::RequestResult,
        timeout_ms: Option<u32>,
    ) -> wasmtime::Result<Result<http_types::ResponseResult, http_client::Error>> {
        self.charge()?;
        Ok(self.exchange(request, timeout_ms).await)
    }
}

impl clock::Host for Guest {
    fn now(&mut self) -> wasmtime::Result<u64> {
        self.charge()?;
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        Ok(since.map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: a hundred headers and one more; headers of 64 KiB and a byte more; a target as long.
    /// Guarantees: the head of a guest's request is bounded in number and bytes.
    #[test]
    fn the_head_of_a_request_is_bounded() {
        let headers = |count: usize, bytes: usize| vec![(String::new(), "x".repeat(bytes)); count];
        assert_eq!(head_fits("GET", "", &headers(HEADERS_MAX, 1)), Ok(()));
        assert!(head_fits("GET", "", &headers(HEADERS_MAX + 1, 1)).is_err());
        assert_eq!(head_fits("GET", "", &headers(2, HEADER_BYTES_MAX / 2)), Ok(()));
        assert!(head_fits("GET", "/", &headers(2, HEADER_BYTES_MAX / 2)).is_err());
        assert!(head_fits("GET", &"x".repeat(HEADER_BYTES_MAX + 1), &[]).is_err());
    }

    /// Scenario: a method of 32 bytes and one more; methods that backends answer with the request itself, in any case.
    /// Guarantees: the first is a method of the guest's own, the others are refused.
    #[test]
    fn the_method_of_a_request_is_bounded_and_harmless() {
        assert_eq!(head_fits(&"M".repeat(METHOD_BYTES_MAX), "/", &[]), Ok(()));
        assert!(head_fits(&"M".repeat(METHOD_BYTES_MAX + 1), "/", &[]).is_err());
        for method in ["TRACE", "trace", "Track", "CONNECT"] {
            assert_eq!(head_fits(method, "/", &[]), Err(format!("no plugin sends {method}")));
        }
    }

    /// Scenario: sends that were refused at once, and sends that took their time.
    /// Guarantees: only the latter are forgiven.
    #[test]
    fn only_waiting_is_forgiven() {
        assert!(!was_waited_for(&Err(Powers::denied("http://a/").into())));
        assert!(!was_waited_for(&Err(ClientError::Invalid("no url".to_owned()))));
        assert!(was_waited_for(&Err(ClientError::Timeout(Duration::from_millis(1)))));
        assert!(was_waited_for(&Ok(http::Response::new(Bytes::new()))));
    }

    /// Scenario: a guest without egress guesses a secret in its target.
    /// Guarantees: the denial that it gets says nothing about the guess; the log does not show the secret, not half of one.
    #[test]
    fn a_denial_does_not_tell_secrets_apart() {
        let secrets = Secrets::known(&["hunter2"]);
        let (logged, told) = denials(&secrets, "http://a/hunter2");
        assert!(told.starts_with("http://a/hunter2 is not granted"), "{told}");
        assert!(logged.starts_with("http://a/[secret] is not granted"), "{logged}");
        let (logged, told) = denials(&secrets, &format!("{}hunter2", "x".repeat(197)));
        assert!(!logged.contains("hun") && told.contains("hun…"), "{logged} {told}");
    }
}
