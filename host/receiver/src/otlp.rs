//! OTLP: gRPC on port 4317, HTTP on port 4318 (opentelemetry-proto, `docs/specification.md` 1.11).

use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize};
use weir_net::limits::{GRPC_MESSAGE_BYTES_MAX, HTTP_BODY_BYTES_MAX, ListenLimits};
use weir_net::listen;
use weir_net::tls::{ServerTls, TlsConfig};

use crate::cors::{Cors, CorsConfig};
use crate::door::{BindError, Bound, Settings};
use crate::intake::{CountLimits, Intake};
use crate::otlp_grpc::GrpcDoor;
use crate::otlp_http::HttpDoor;

const MIB: usize = 1024 * 1024;

/// The `otlp` receiver, as a user writes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Which protocols are spoken. One that is named without settings has the defaults.
    pub protocols: Protocols,
    /// What one request may hold.
    #[serde(default)]
    pub limits: CountLimits,
}

/// The protocols of the `otlp` receiver; at least one.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Protocols {
    /// OTLP over gRPC.
    #[serde(default, deserialize_with = "named", skip_serializing_if = "Option::is_none")]
    pub grpc: Option<GrpcConfig>,
    /// OTLP over HTTP, protobuf and JSON.
    #[serde(default, deserialize_with = "named", skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpConfig>,
}

/// OTLP over gRPC.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GrpcConfig {
    /// Where to listen, `host:port`.
    pub endpoint: String,
    /// The largest message in MiB, before and after decompression.
    pub max_recv_msg_size_mib: usize,
    /// Speak TLS with these files; without it, plaintext.
    pub tls: Option<TlsConfig>,
    /// Limits of connections and requests.
    pub limits: ListenLimits,
}

/// OTLP over HTTP.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HttpConfig {
    /// Where to listen, `host:port`.
    pub endpoint: String,
    /// The largest body in bytes, before and after decompression.
    pub max_request_body_size: usize,
    /// Speak TLS with these files; without it, plaintext.
    pub tls: Option<TlsConfig>,
    /// Which web pages may send; without it, none.
    pub cors: Option<CorsConfig>,
    /// Limits of connections and requests.
    pub limits: ListenLimits,
}

impl Default for Config {
    fn default() -> Self {
        let protocols = Protocols { grpc: Some(GrpcConfig::default()), http: Some(HttpConfig::default()) };
        Self { protocols, limits: CountLimits::default() }
    }
}

impl Default for GrpcConfig {
    fn default() -> Self {
        Self {
            endpoint: "127.0.0.1:4317".to_owned(),
            max_recv_msg_size_mib: GRPC_MESSAGE_BYTES_MAX / MIB,
            tls: None,
            limits: ListenLimits::default(),
        }
    }
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self {
            endpoint: "127.0.0.1:4318".to_owned(),
            max_request_body_size: HTTP_BODY_BYTES_MAX,
            tls: None,
            cors: None,
            limits: ListenLimits::default(),
        }
    }
}

impl Config {
    /// Reserves the addresses now, so that a clash is an error at start; serving begins with [`Bound::serve`].
    ///
    /// # Errors
    /// [`BindError`] for an address or TLS files that cannot be used, and where no protocol is named.
    pub fn bind(self, settings: Settings) -> Result<Bound, BindError> {
        let Self { protocols: Protocols { grpc, http }, limits: counts } = self;
        if grpc.is_none() && http.is_none() {
            return Err(BindError::Nothing("otlp has no protocols; write `protocols: {grpc: {}, http: {}}`"));
        }
        // Files are read before any address is taken: an address that is in use may be free later, and must not hide
        // what will still be wrong then.
        let of_grpc = load("otlp/grpc", grpc.as_ref().and_then(|grpc| grpc.tls.clone()))?;
        let of_http = load("otlp/http", http.as_ref().and_then(|http| http.tls.clone()))?;
        let mut bound = Bound::new();
        let connections = settings.counts.streams.clone();
        let intake = Arc::new(Intake::new(settings, counts));
        if let Some(GrpcConfig { endpoint, max_recv_msg_size_mib, tls: _, limits }) = grpc {
            let body = limits.of_body(max_recv_msg_size_mib.saturating_mul(MIB));
            let listen = listen::Settings { tls: of_grpc, limits, connections: connections.clone() };
            let door = GrpcDoor::new(Arc::clone(&intake), body);
            bound.add("otlp/grpc", &endpoint, listen, Arc::new(door))?;
        }
        if let Some(HttpConfig { endpoint, max_request_body_size, tls: _, cors, limits }) = http {
            let body = limits.of_body(max_request_body_size);
            let listen = listen::Settings { tls: of_http, limits, connections };
            let door = HttpDoor::new(intake, body, Cors::new(cors));
            bound.add("otlp/http", &endpoint, listen, Arc::new(door))?;
        }
        Ok(bound)
    }
}

/// The TLS that a protocol's configuration asks for.
///
/// # Errors
/// [`BindError::Tls`] with the protocol and the file.
pub(crate) fn load(
    protocol: &'static str,
    tls: Option<TlsConfig>,
) -> Result<Option<Arc<ServerTls>>, BindError> {
    tls.map(ServerTls::load).transpose().map_err(|cause| BindError::Tls { protocol, cause: Box::new(cause) })
}

/// A protocol that is named has its defaults, even where nothing stands behind its name (`grpc:`).
fn named<'de, D, T>(source: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Option::<T>::deserialize(source).map(|found| Some(found.unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: a user names a protocol and leaves its settings out, as in `protocols: {grpc:}`.
    /// Guarantees: it is spoken with its defaults, and the one that is not named is not spoken.
    #[test]
    fn a_named_protocol_has_its_defaults() {
        let config: Config = serde_json::from_str(r#"{"protocols": {"grpc": null}}"#).unwrap();
        assert_eq!(config.protocols.grpc, Some(GrpcConfig::default()));
        assert_eq!(config.protocols.http, None);
    }

    /// Scenario: a key that nobody knows, at each depth.
    /// Guarantees: it is refused and not passed over.
    #[test]
    fn an_unknown_key_is_refused() {
        for text in [
            r#"{"protocols": {"grpc": {}}, "extra": 1}"#,
            r#"{"protocols": {"thrift": {}}}"#,
            r#"{"protocols": {"grpc": {"endpiont": "a"}}}"#,
            r#"{"protocols": {"http": {"cors": {"origins": []}}}}"#,
            r#"{"protocols": {"http": {"limits": {"age": "1s"}}}}"#,
            r#"{"protocols": {"grpc": {}}, "limits": {"items": 1}}"#,
        ] {
            assert!(serde_json::from_str::<Config>(text).is_err(), "{text} was taken");
        }
    }
}
